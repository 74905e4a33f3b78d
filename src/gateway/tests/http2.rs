//! Requests of HTTP/2, by a client of the same library: over TLS, and over pipes in memory
//! where time matters.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{Request, Response};
use rustls::version::TLS13;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    fake::{FakeForward, FakeSite, FakeSites, Server, backends, noise},
    proxying::bounded,
    tls::{connector, greet, made, secured},
};
use crate::gateway::{
    Front, Route, Stats,
    access::{Format, Log},
    connection::{Came, Limits, Own, Shared},
    http2,
};

fn by(address: SocketAddr) -> Arc<FakeSites> {
    FakeSites::new(move |_| Route::Service(backends(Some(address), &[])))
}

/// A client of a server over a pipe.
pub(super) struct Pair {
    ask: SendRequest<Bytes>,
    served: JoinHandle<()>,
    driven: JoinHandle<Result<(), h2::Error>>,
    shutdown: CancellationToken,
    pub stats: Arc<Stats>,
}

impl Pair {
    pub async fn new(sites: Arc<FakeSites>) -> Self {
        Self::behind(Front::default(), sites).await
    }

    async fn behind(front: Front, sites: Arc<FakeSites>) -> Self {
        let (near, far) = tokio::io::duplex(64 << 10);
        let shutdown = CancellationToken::new();
        let (_, pem) = made(&["a"]);
        let secured = secured("shop", &pem);
        let came = Came {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: Some(secured.certificate.clone()),
            is_http2: true,
        };
        sites.secure(move |host| Some(secured.clone()).filter(|_| host != Some("b")));
        let stats = Arc::new(Stats::default());
        let forward = Arc::new(FakeForward::default());
        let shared = Shared::new(
            Own { front, ..Own::default() },
            Limits::default(),
            sites,
            forward,
            stats.clone(),
            shutdown.clone(),
        );
        let served = tokio::spawn(async move {
            let _ended = http2::serve::<_, DuplexStream>(&Arc::new(shared), far, came).await;
        });
        let (ask, connection) = client::handshake(near).await.unwrap();
        Self { ask, served, driven: tokio::spawn(connection), shutdown, stats }
    }

    async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ask = self.ask.clone().ready().await.unwrap();
        ask.send_request(request, end).unwrap()
    }

    pub async fn get(&mut self, path: &str) -> (Response<()>, Vec<u8>) {
        let (response, _) = self.send(request("GET", path), true).await;
        whole(response.await.unwrap()).await.unwrap()
    }

    async fn status(&mut self, request: Request<()>, end: bool) -> u16 {
        let (response, _) = self.send(request, end).await;
        response.await.unwrap().status().as_u16()
    }
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://a{path}")).body(()).unwrap()
}

async fn whole(response: Response<RecvStream>) -> Result<(Response<()>, Vec<u8>), h2::Error> {
    let (parts, mut body) = response.into_parts();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        all.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((Response::from_parts(parts, ()), all))
}

async fn put(to: &mut SendStream<Bytes>, all: &[u8]) {
    let mut rest = Bytes::copy_from_slice(all);
    while !rest.is_empty() {
        to.reserve_capacity(rest.len());
        let room = poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = rest.split_to(room.min(rest.len()));
        to.send_data(piece, rest.is_empty()).unwrap();
    }
}

/// A program that says `answer` after it has read a head that ends in an empty line.
async fn program(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gone = Arc::new(AtomicUsize::new(0));
    let counts = gone.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counts = counts.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                stream.write_all(answer).await.unwrap();
                // Until the other side has enough.
                let _ended = stream.read(&mut [0]).await;
                counts.fetch_add(1, SeqCst);
            });
        }
    });
    (address, gone)
}

/// A program that says back what it was sent: bodies of a length or in chunks.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echoed(stream));
        }
    });
    address
}

async fn echoed(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let head = match length {
        Some(length) => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        None => {
            assert!(text.contains("transfer-encoding: chunked"), "{text}");
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        }
    };
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut from, mut to) = stream.split();
    let _ended = tokio::io::copy(&mut from, &mut to).await;
}

#[tokio::test]
async fn it_is_chosen_in_the_handshake_and_answers_as_http_1_does() {
    let large = noise(3_000_000, 5);
    let files: [(&str, &[u8]); 2] = [("f", &large), ("small.txt", b"words")];
    let sites = FakeSites::local(Arc::new(FakeSite::new(3, &files)));
    let (der, pem) = made(&["shop.example"]);
    let shop = secured("shop", &pem);
    sites.secure(move |_| Some(shop.clone()));
    let server = Server::start(sites).await;
    let with = connector(&[der], &[b"h2", b"http/1.1"], &[&TLS13]);
    let stream = greet(&server, &with, "shop.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (ask, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut all = tokio::task::JoinSet::new();
    // More bytes than any window, many at once.
    for number in 0..40 {
        let (ask, large) = (ask.clone(), large.clone());
        all.spawn(async move {
            let path = ["/f", "/small.txt", "/none"][number % 3];
            let method = if number % 2 == 0 { "GET" } else { "HEAD" };
            let uri = format!("https://shop.example{path}");
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let mut ask = ask.ready().await.unwrap();
            let (response, _) = ask.send_request(request, true).unwrap();
            let (head, body) = whole(response.await.unwrap()).await.unwrap();
            assert_eq!(head.status(), if path == "/none" { 404 } else { 200 });
            assert_eq!(head.headers()["althing-version"], "shop/3");
            assert!(head.headers().get("connection").is_none());
            match (method, path) {
                ("HEAD", _) => assert!(body.is_empty()),
                (_, "/f") => assert!(body == large),
                (_, "/small.txt") => assert_eq!(body, b"words"),
                _ => assert!(!body.is_empty()),
            }
            if (method, path) == ("HEAD", "/f") {
                assert_eq!(head.headers()["content-length"], "3000000");
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    let stats = server.stats.snapshot();
    assert_eq!((stats.connections, stats.requests, stats.errors), (1, 40, 0));
}

#[tokio::test]
async fn bodies_pass_both_ways_beyond_every_window() {
    let mut pair = Pair::new(by(echo().await)).await;
    let sent = noise(2_500_000, 9);
    for with_length in [true, false] {
        let mut request = request("POST", "/echo");
        if with_length {
            request.headers_mut().insert("content-length", "2500000".parse().unwrap());
        }
        let (response, mut to) = pair.send(request, false).await;
        let body = sent.clone();
        let sending = tokio::spawn(async move { put(&mut to, &body).await });
        let (head, mut told) = whole(response.await.unwrap()).await.unwrap();
        sending.await.unwrap();
        assert_eq!(head.status(), 200);
        if !with_length {
            // The program says back raw chunks behind a chunked head: taken apart once.
            assert_eq!(head.headers().get("transfer-encoding"), None);
        }
        told.truncate(sent.len());
        assert!(told == sent, "{} bytes, length: {with_length}", told.len());
    }
    // An empty body that only the end of its stream tells of.
    let (response, mut to) = pair.send(request("POST", "/echo"), false).await;
    to.send_data(Bytes::new(), false).unwrap();
    to.send_data(Bytes::from_static(b"x"), true).unwrap();
    let (_, told) = whole(response.await.unwrap()).await.unwrap();
    assert_eq!(told, b"x");
}

#[tokio::test]
async fn answers_of_every_kind_are_brought() {
    for (answer, status, body) in [
        (&b"HTTP/1.1 204 None\r\n\r\n"[..], 204, &b""[..]),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 7\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502, b"<"),
    ] {
        let (address, _) = program(answer).await;
        let mut pair = Pair::new(by(address)).await;
        let (head, told) = pair.get("/x").await;
        assert_eq!(head.status(), status);
        assert!(told.starts_with(body), "{told:?}");
        assert!(status == 502 || told.len() == body.len(), "{told:?}");
    }
}

/// An answer that is cut must not look whole.
#[tokio::test]
async fn an_answer_that_is_cut_resets_its_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 20];
            stream.read_exact(&mut head).await.unwrap();
            let said = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut";
            stream.write_all(said).await.unwrap();
        }
    });
    let mut pair = Pair::new(by(address)).await;
    let (response, _) = pair.send(request("GET", "/x"), true).await;
    let error = match response.await {
        Ok(response) => whole(response).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(pair.stats.snapshot().responses_2xx, 0);
}

#[tokio::test]
async fn a_request_that_is_taken_back_stops_who_answers() {
    // One that never answers, and one in the middle of its answer.
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut";
    for answer in [&b""[..], begun] {
        let (address, gone) = program(answer).await;
        let mut pair = Pair::new(by(address)).await;
        let (response, mut to) = pair.send(request("GET", "/x"), true).await;
        let mut response = Box::pin(response);
        if answer.is_empty() {
            let early = timeout(Duration::from_millis(100), &mut response).await;
            assert!(early.is_err());
        } else {
            response.as_mut().await.unwrap();
        }
        to.send_reset(Reason::CANCEL);
        for _ in 0..1_000 {
            if gone.load(SeqCst) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(gone.load(SeqCst), 1, "the program is let go");
        // The connection serves on.
        pair.ask.clone().ready().await.unwrap();
        assert!(!pair.served.is_finished());
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let site = Arc::new(FakeSite::new(1, &[("a", b"first")]));
    let mut pair = Pair::new(FakeSites::local(site)).await;
    let with = |name: &'static str, value: &'static str| {
        let mut one = request("GET", "/a");
        one.headers_mut().append(name, value.parse().unwrap());
        one
    };
    assert_eq!(pair.status(with("host", "A"), true).await, 200);
    assert_eq!(pair.status(with("te", "trailers"), true).await, 200);
    assert_eq!(pair.status(with("host", "b"), true).await, 400);
    assert_eq!(pair.status(with("expect", "x"), true).await, 400);
    assert_eq!(pair.status(with("content-length", "0"), true).await, 200);
    let mut twice = with("content-length", "0");
    twice.headers_mut().append("content-length", "0".parse().unwrap());
    assert_eq!(pair.status(twice, true).await, 400);
    let plain = Request::builder().uri("http://a/a").body(()).unwrap();
    assert_eq!(pair.status(plain, true).await, 400);
    let user = Request::builder().uri("https://x@a/a").body(()).unwrap();
    assert_eq!(pair.status(user, true).await, 400);
    let other = Request::builder().uri("https://b/a").body(()).unwrap();
    assert_eq!(pair.status(other, true).await, 421);
    let connect = Request::builder().method("CONNECT").uri("a:443").body(()).unwrap();
    assert_eq!(pair.status(connect, true).await, 400);
    // A GET whose stream ends a moment later has no body all the same; one with a body does.
    let (response, mut to) = pair.send(request("GET", "/a"), false).await;
    to.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    let (response, mut to) = pair.send(request("GET", "/a"), false).await;
    to.send_data(Bytes::from_static(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 400);
    // A body that is longer than it says is an error of its stream.
    let mut long = request("POST", "/a");
    long.headers_mut().insert("content-length", "3".parse().unwrap());
    let (response, mut to) = pair.send(long, false).await;
    to.send_data(Bytes::from_static(b"more than three"), true).unwrap();
    let told = response.await;
    assert!(told.as_ref().is_err() || told.unwrap().status() == 405);
    // A head that is too large.
    let mut large = request("GET", "/a");
    large.headers_mut().insert("x", "y".repeat(20_000).parse().unwrap());
    let (response, _) = pair.send(large, true).await;
    let told = response.await;
    assert!(told.is_err() || told.unwrap().status() == 431);
}

#[tokio::test]
async fn a_client_that_only_takes_back_is_told_to_be_calm() {
    let (address, _) = program(b"").await;
    let pair = Pair::new(by(address)).await;
    for _ in 0..2_000 {
        let Ok(mut ask) = pair.ask.clone().ready().await else { break };
        let Ok((response, mut to)) = ask.send_request(request("GET", "/x"), true) else { break };
        tokio::task::yield_now().await;
        to.send_reset(Reason::CANCEL);
        drop(response);
    }
    let ended = timeout(Duration::from_secs(10), pair.served).await;
    assert!(ended.is_ok(), "the connection goes on");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let site = Arc::new(FakeSite::new(1, &[("a", b"first")]));
    let mut pair = Pair::new(FakeSites::local(site)).await;
    assert_eq!(pair.get("/a").await.1, b"first");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(pair.get("/a").await.1, b"first");
    tokio::time::sleep(Duration::from_secs(65)).await;
    pair.driven.await.unwrap().unwrap();
    pair.served.await.unwrap();
}

/// What is under way at a shutdown is answered; nothing new begins.
#[tokio::test]
async fn a_shutdown_loses_nothing_that_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut pair = Pair::new(by(address)).await;
    let (response, _) = pair.send(request("GET", "/x"), true).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    pair.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut head = [0; 20];
    stream.read_exact(&mut head).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let (_, told) = whole(response.await.unwrap()).await.unwrap();
    assert_eq!(told, b"ok");
    pair.served.await.unwrap();
    pair.driven.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let mut pair = Pair::new(bounded(echo().await, 5)).await;
    // By its length before it is sent, and without one where it goes beyond.
    let told = Request::builder().method("POST").uri("https://a/").header("content-length", "6");
    let (response, _to) = pair.send(told.body(()).unwrap(), false).await;
    assert_eq!(response.await.unwrap().status(), 413);
    let (response, mut to) = pair.send(request("POST", "/"), false).await;
    put(&mut to, b"hello").await;
    let (head, mut all) = (response.await.unwrap(), Vec::new());
    assert_eq!(head.status(), 200);
    let mut body = head.into_body();
    while all.len() < 5 {
        all.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    assert_eq!(all, b"hello");
    let (waits, _gone) = program(b"").await;
    let mut pair = Pair::new(bounded(waits, 5)).await;
    let (response, mut to) = pair.send(request("POST", "/"), false).await;
    to.send_data(Bytes::from_static(b"hello!"), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 413);
}

#[tokio::test]
async fn requests_are_written_down() {
    let scratch = tempfile::TempDir::new().unwrap();
    let path = scratch.path().join("log");
    let log = Log::open(Some(&path), Format::Json).unwrap();
    let front = Front { log: Some(log.clone()), ..super::front::trusting("127.0.0.1") };
    let sites = FakeSites::local(Arc::new(FakeSite::new(3, &[("a", b"first")])));
    let mut pair = Pair::behind(front, sites).await;
    let asked = Request::builder().uri("https://a/a?q").header("x-forwarded-for", "1.2.3.4");
    let (response, _) = pair.send(asked.body(()).unwrap(), true).await;
    assert_eq!(whole(response.await.unwrap()).await.unwrap().1, b"first");
    // Refused before it is one of HTTP/1.1, and misdirected.
    let other = Request::builder().uri("https://a/").header("host", "b").body(()).unwrap();
    assert_eq!(pair.status(other, true).await, 400);
    let other = Request::builder().uri("https://b/").body(()).unwrap();
    assert_eq!(pair.status(other, true).await, 421);
    pair.shutdown.cancel();
    drop(pair.ask);
    pair.served.await.unwrap();
    log.close();
    let lines = super::access::lines(&path);
    let shown: Vec<_> = lines.iter().map(|l| (&l["status"], &l["protocol"], &l["tls"])).collect();
    let http2 = serde_json::json!("HTTP/2.0");
    assert_eq!(shown.len(), 3, "{lines:?}");
    assert_eq!((shown[0].0, shown[0].1, shown[0].2), (&200.into(), &http2, &true.into()));
    assert_eq!((shown[1].0, shown[2].0), (&400.into(), &421.into()));
    let first = &lines[0];
    assert_eq!((&first["client"], &first["target"]), (&"1.2.3.4".into(), &"/a?q".into()));
    assert_eq!((&first["bytes"], &first["answered_by"]), (&5.into(), &"files".into()));
}
