//! Against real servers on loopback. Nothing sleeps: a server that is to stall waits until
//! whoever asked has gone.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Barrier, Mutex, mpsc as std_mpsc},
    thread::JoinHandle,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

use super::*;
use crate::{base::AppName, cli::edits};

/// What a server does once it has the head of a request.
enum Reply {
    /// Sends this and closes.
    Send(Vec<u8>),
    /// Sends this, and then nothing until the other side has gone.
    Stall(Vec<u8>),
}

type Answers = dyn Fn(&str) -> Reply + Send + Sync;

struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    left: std_mpsc::Receiver<()>,
}

impl Server {
    /// `answers` is asked with the target of each request, as `/path?query`.
    fn start(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(answers, None)
    }

    fn serve(
        answers: impl Fn(&str) -> Reply + Send + Sync + 'static,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (leaves, left) = std_mpsc::channel();
        let answers: Arc<Answers> = Arc::new(answers);
        let (kept, ends) = (Arc::clone(&heads), Arc::clone(&over));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, answers, heads) = (stream.unwrap(), answers.clone(), kept.clone());
                let (tls, leaves) = (tls.clone(), leaves.clone());
                std::thread::spawn(move || {
                    match tls {
                        None => one(stream, &*answers, &heads),
                        Some(tls) => {
                            let connection = ServerConnection::new(tls).unwrap();
                            one(StreamOwned::new(connection, stream), &*answers, &heads);
                        }
                    }
                    let _nobody_may_wait = leaves.send(());
                });
            }
        });
        Self { address, heads, over, accepting: Some(accepting), left }
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}{rest}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _wakes = TcpStream::connect(self.address);
        let _ended = self.accepting.take().unwrap().join();
    }
}

/// Answers one request. The other side may leave at any time.
fn one(mut stream: impl Read + Write, answers: &Answers, heads: &Mutex<Vec<String>>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    let (bytes, stalls) = match answers(&target) {
        Reply::Send(bytes) => (bytes, false),
        Reply::Stall(bytes) => (bytes, true),
    };
    let sent = stream.write_all(&bytes).and_then(|()| stream.flush());
    if stalls && sent.is_ok() {
        let _until_it_has_gone = stream.read(&mut byte);
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").as_bytes(), body].concat()
}

fn good(body: &[u8]) -> Vec<u8> {
    answer(&format!("200 OK\r\ncontent-length: {}", body.len()), body)
}

fn moved(to: &str) -> Reply {
    Reply::Send(answer(&format!("302 Found\r\ncontent-length: 0\r\nlocation: {to}"), b""))
}

fn job(url: &str, content: &[u8]) -> Job {
    let (size, digest) = (content.len() as u64, Digest::of_bytes(content));
    let address = Address::parse(url).unwrap();
    Job { place: "change 1 (SET x)".to_owned(), remote: Remote { address, size, digest } }
}

fn terms() -> Terms {
    Terms { idle: Duration::from_secs(60), at_once: 2, proxy: None, roots: Vec::new() }
}

async fn bring_one(url: &str, content: &[u8], terms: Terms) -> Result<Vec<u8>, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let jobs = vec![job(url, content)];
    let arrived = bring(jobs, directory.path(), terms, &Arc::default()).await;
    let paths: Vec<PathBuf> = arrived.map_err(|failed| failed.failure)?.into_values().collect();
    Ok(std::fs::read(&paths[0]).unwrap())
}

/// Covers R10.
#[tokio::test]
async fn what_a_list_names_arrives() {
    let server = Server::start(|target| {
        Reply::Send(match target {
            "/whole" => good(&vec![7; 300_000]),
            "/pieces" => {
                answer("200 OK\r\ntransfer-encoding: chunked", b"4\r\nfour\r\n1\r\n!\r\n0\r\n\r\n")
            }
            "/until-it-closes" => answer("200 OK", b"content"),
            "/empty" => good(b""),
            other => panic!("{other}"),
        })
    });
    let contents = [&[7; 300_000][..], b"four!", b"content", b""];
    let targets = ["/whole", "/pieces", "/until-it-closes", "/empty"];
    let pairs = targets.iter().zip(contents);
    let jobs = pairs.map(|(target, content)| job(&server.url(target), content)).collect();
    let directory = tempfile::tempdir().unwrap();
    let progress = Arc::default();
    let arrived = bring(jobs, directory.path(), terms(), &progress).await.unwrap();
    assert_eq!(arrived.len(), 4);
    for content in contents {
        let path = &arrived[&Digest::of_bytes(content)];
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    assert_eq!((progress.bytes(), &*progress.files()), ((300_012, 300_012), "4 files"));
    let heads = server.heads();
    assert_eq!(heads.len(), 4);
    assert!(heads.iter().all(|head| head.contains("accept-encoding: identity\r\n")), "{heads:?}");
}

#[tokio::test]
async fn what_is_not_the_file_is_refused_with_the_reason() {
    let server = Server::start(|target| {
        Reply::Send(match target.split('?').next().unwrap() {
            "/other-size" => good(b"four!"),
            "/longer" => answer("200 OK", &[b'x'; 500_000]),
            "/shorter" => answer("200 OK", b"fou"),
            "/cut-short" => answer("200 OK\r\ncontent-length: 4", b"fou"),
            "/other-content" => good(b"FOUR"),
            "/packed" => answer("200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4", b"four"),
            "/part" => answer("206 Partial Content\r\ncontent-length: 4", b"four"),
            "/not-modified" => answer("304 Not Modified", b""),
            "/private" => answer("403 Forbidden", b""),
            "/broken" => answer("500 Internal Server Error", b""),
            "/nonsense" => b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(),
            "/nowhere" => answer("302 Found\r\ncontent-length: 0", b""),
            _ => answer("404 Not Found\r\ncontent-length: 4", b"four"),
        })
    });
    for (target, why) in [
        ("/other-size", "it has 5 bytes there, and the list gives 4"),
        ("/longer", "more came than the 4 bytes"),
        ("/shorter", "it ended after 3 bytes, and the list gives 4"),
        ("/cut-short", "it ended after 3 bytes, and the list gives 4"),
        ("/other-content", "has the signature"),
        ("/packed", "compressed"),
        ("/part", "206 Partial Content"),
        ("/not-modified", "304 Not Modified"),
        ("/private", "403 Forbidden"),
        ("/broken", "500 Internal Server Error"),
        ("/missing", "404 Not Found"),
        ("/nonsense", "does not speak HTTP"),
        ("/nowhere", "does not say where"),
    ] {
        let url = format!("http://who:secret@{}{target}?key=secret", server.address);
        let failure = bring_one(&url, b"four", terms()).await.unwrap_err();
        assert!(failure.to_string().contains(why), "{target}: {failure}");
        assert!(!format!("{failure} {failure:?}").contains("secret"), "{target}: {failure:?}");
    }
    // Nobody listens there any more.
    let address = server.address;
    drop(server);
    let url = format!("http://{address}/");
    let failure = bring_one(&url, b"four", terms()).await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
}

#[tokio::test]
async fn a_server_from_which_nothing_comes_is_given_up() {
    let server = Server::start(|target| {
        let mut bytes = good(b"four");
        bytes.truncate(if target == "/at-once" { 0 } else { bytes.len() - 1 });
        Reply::Stall(bytes)
    });
    for target in ["/at-once", "/in-the-middle"] {
        let terms = Terms { idle: Duration::from_millis(50), ..terms() };
        let failure = bring_one(&server.url(target), b"four", terms).await.unwrap_err();
        assert!(matches!(failure, Failure::Stalled(_)), "{target}: {failure:?}");
    }
}

#[tokio::test]
async fn redirections_are_followed_so_far_and_no_further() {
    let other = Server::start(|_| Reply::Send(good(b"four")));
    let there = other.url("/there?key=theirs");
    let server = Server::start(move |target| match target {
        "/loop" => moved("loop"),
        "/a/b" => moved("../c"),
        "/c" => Reply::Send(good(b"four")),
        "/elsewhere" => moved(&there),
        "/away" => moved("ftp://example.org/secret"),
        other => panic!("{other}"),
    });
    let url = |target| format!("http://who:secret@{}{target}", server.address);
    let failure = bring_one(&url("/loop"), b"four", terms()).await.unwrap_err();
    assert!(failure.to_string().contains("on and on"), "{failure}");
    assert_eq!(server.heads().len(), REDIRECTS_MAX + 1);
    let failure = bring_one(&url("/away"), b"four", terms()).await.unwrap_err();
    assert!(failure.to_string().contains("http and https"), "{failure}");
    assert!(!failure.to_string().contains("secret"), "{failure}");

    assert_eq!(bring_one(&url("/a/b"), b"four", terms()).await.unwrap(), b"four");
    let last = server.heads().pop().unwrap();
    assert!(last.starts_with("GET /c ") && last.contains("authorization: Basic "), "{last}");
    // Whom it leads to is not told who asks.
    assert_eq!(bring_one(&url("/elsewhere"), b"four", terms()).await.unwrap(), b"four");
    let heads = other.heads();
    assert!(heads[0].starts_with("GET /there?key=theirs "), "{heads:?}");
    assert!(!heads[0].to_lowercase().contains("authorization"), "{heads:?}");
}

/// A server with TLS, and the certificate that vouches for it.
fn with_tls(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Server, Terms) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&pair).unwrap();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let tls =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
    let roots = vec![Certificate::from_der(certificate.der()).to_owned()];
    (Server::serve(answers, Some(Arc::new(tls))), Terms { roots, ..terms() })
}

#[tokio::test]
async fn encrypted_addresses_are_those_of_whom_they_name() {
    let plain = Server::start(|_| Reply::Send(good(b"four")));
    let in_clear = plain.url("/?key=secret");
    let (server, trusting) = with_tls(move |target| match target {
        "/good" => Reply::Send(good(b"four")),
        "/in-clear" => moved(&in_clear),
        other => panic!("{other}"),
    });
    let url = |target| format!("https://{}{target}", server.address);
    assert_eq!(bring_one(&url("/good"), b"four", trusting.clone()).await.unwrap(), b"four");
    let failure = bring_one(&url("/in-clear"), b"four", trusting).await.unwrap_err();
    assert!(failure.to_string().contains("not encrypted"), "{failure}");
    assert!(!failure.to_string().contains("secret"), "{failure}");
    assert!(plain.heads().is_empty(), "it was not asked");
    let failure = bring_one(&url("/good"), b"four", terms()).await.unwrap_err();
    assert!(failure.to_string().contains("certificate"), "{failure}");
    assert_eq!(server.heads().len(), 2, "nothing is said to whom is not trusted");
}

#[tokio::test]
async fn a_proxy_is_asked_and_learns_no_more_than_the_host() {
    let proxy = Server::start(|_| Reply::Send(answer("403 Forbidden", b"")));
    let way = Proxy::new(&format!("http://me:mine@{}", proxy.address)).unwrap();
    let terms = Terms { proxy: Some(way), ..terms() };
    let url = "https://who:secret@files.example/x?key=secret";
    let failure = bring_one(url, b"four", terms).await.unwrap_err();
    assert!(failure.to_string().contains("proxy"), "{failure}");
    assert!(!failure.to_string().contains("mine"), "{failure}");
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT files.example:443 "), "{heads:?}");
    assert!(!heads[0].contains("secret"), "{heads:?}");
}

#[tokio::test]
async fn the_first_that_fails_ends_the_others() {
    // Neither is answered before both have asked: otherwise the other might never be begun.
    let both = Barrier::new(2);
    let server = Server::start(move |target| {
        both.wait();
        match target {
            "/missing" => Reply::Send(answer("404 Not Found", b"")),
            _ => Reply::Stall(Vec::new()),
        }
    });
    let jobs = vec![job(&server.url("/slow"), b"four"), job(&server.url("/missing"), b"five")];
    let directory = tempfile::tempdir().unwrap();
    // It does not wait until the other is given up by itself.
    let failed = bring(jobs, directory.path(), terms(), &Arc::default()).await.unwrap_err();
    assert!(failed.address.to_string().ends_with("/missing"), "{failed:?}");
    for _ in 0..2 {
        server.left.recv_timeout(Duration::from_secs(30)).expect("both connections have ended");
    }
}

#[test]
fn each_content_that_is_lacking_is_fetched_once() {
    let digest = |content: &str| Digest::of_bytes(content.as_bytes()).to_string();
    let item = |path: &str, content: &str, rest: &str| {
        format!(
            r#"{{"op":"ADD","path":"{path}"{rest},"after":
                {{"kind":"file","mode":"0644","size":3,"digest":"{}"}}}}"#,
            digest(content)
        )
    };
    let at = |host: &str| format!(r#","url":"http://{host}/""#);
    let list = [
        item("1", "one", &at("first")),
        item("2", "two", &at("held")),
        item("3", "one", &at("again")),
        item("4", "six", ""),
    ];
    let list = edits::parse(&format!("[{}]", list.join(",")), &AppName::parse("web").unwrap());
    let list = list.unwrap();
    let found = jobs(&list, &[digest("one")]).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].remote.address.to_string(), "http://first/");
    assert!(jobs(&list, &[]).unwrap().is_empty());
    // What nobody has is missed before anything is fetched.
    let refusal = jobs(&list, &[digest("one"), digest("six")]).unwrap_err();
    assert!(refusal.why.contains(&digest("six")), "{refusal:?}");
}
