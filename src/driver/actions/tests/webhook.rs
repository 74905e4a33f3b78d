use std::sync::Mutex;

use ring::hmac;
use rustls::{ServerConnection, StreamOwned};
use ureq::tls::Certificate;

use super::{
    super::webhook::{Terms, post},
    *,
};
use crate::driver::rules::Webhook;

type Manner = Box<dyn FnOnce(TcpStream) -> Request + Send>;
type Waited = Arc<Mutex<Vec<Duration>>>;

/// A request as it came.
#[derive(Debug, Default)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| -> bool {
            line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        let line = self.head.split("\r\n").find(|line| of(line))?;
        Some(line.split_once(':')?.1.trim())
    }
}

fn heard(stream: &mut impl Read) -> Request {
    let Some(head) = read_to(stream, b"\r\n\r\n") else { return Request::default() };
    let request = Request { head, body: String::new() };
    let length: usize = request.header("Content-Length").unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Request { body: String::from_utf8(body).unwrap(), ..request }
}

/// Answers a request so, and closes.
fn answers(answer: &'static str) -> Manner {
    Box::new(move |mut stream| {
        let request = heard(&mut stream);
        let closed = answer.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        stream.write_all(closed.as_bytes()).unwrap();
        request
    })
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nyes!";
const FAILED: &str = "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nsoon";

/// Terms by which nobody waits, and for how long they would have. The clock shows a minute
/// more each time.
fn terms() -> (Terms, Waited) {
    let (waited, minutes) = (Waited::default(), Mutex::new(0));
    let told = Arc::clone(&waited);
    let now = move || {
        let mut minutes = minutes.lock().unwrap();
        *minutes += 1;
        WallTime(*minutes * 60_000)
    };
    let terms = Terms {
        within: GENEROUS,
        wait: Arc::new(move |pause| told.lock().unwrap().push(pause)),
        now: Arc::new(now),
        proxy: None,
        roots: Vec::new(),
        pauses: [0, 2, 10].map(Duration::from_secs).to_vec(),
    };
    (terms, waited)
}

fn webhook(address: SocketAddr) -> Webhook {
    Webhook { url: format!("http://{address}/hook?x=1"), sign: None }
}

fn posted(manners: Vec<Manner>) -> (Result<Done, ActionError>, Vec<Request>, Waited) {
    let (address, answering) = server(manners);
    let (terms, waited) = terms();
    let done = post(&webhook(address), &notice(), &Secrets::new(), &terms);
    (done, answering.join().unwrap(), waited)
}

#[test]
fn a_notice_arrives_as_json() {
    let (done, requests, waited) = posted(vec![answers(FINE)]);
    assert_eq!(done, Ok(Done { said: "yes!".to_owned(), tries: 1 }));
    assert!(waited.lock().unwrap().is_empty());
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert!(request.head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{request:?}");
    assert_eq!(request.header("Content-Type"), Some("application/json"));
    assert_eq!(request.header("Idempotency-Key"), Some("7f3a-12.begin"));
    assert_eq!(request.header("Althing-Signature"), None);
    assert_eq!(serde_json::from_str::<Notice>(&request.body).unwrap(), notice());
}

#[test]
fn what_may_pass_is_tried_again() {
    let busy = "HTTP/1.1 429 Slower\r\nContent-Length: 0\r\n\r\n";
    let (done, requests, waited) = posted(vec![answers(FAILED), answers(busy), answers(FINE)]);
    assert_eq!(done.unwrap().tries, 3);
    assert_eq!(*waited.lock().unwrap(), [2, 10].map(Duration::from_secs));
    let keys: Vec<_> = requests.iter().map(|request| request.header("Idempotency-Key")).collect();
    assert_eq!(keys, [Some("7f3a-12.begin"); 3]);

    // So is what breaks off; and there is an end.
    let broken = || -> Manner { Box::new(|mut stream| heard(&mut stream)) };
    let (done, requests, _) = posted(vec![broken(), answers(FAILED), answers(FAILED)]);
    assert_eq!(requests.len(), 3);
    let error = done.unwrap_err();
    let why = "it answers 503 Service Unavailable: soon".to_owned();
    assert_eq!(error, ActionError::Unreachable { why, tries: 3 });
    assert!(error.is_passing());
}

#[test]
fn what_stays_wrong_is_not_tried_again() {
    for (answer, says) in [
        ("HTTP/1.1 404 Gone\r\nContent-Length: 3\r\n\r\nwho", "it answers 404 Not Found: who"),
        (
            "HTTP/1.1 302 There\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "redirections are not followed",
        ),
        (
            "HTTP/1.1 401 No\r\nContent-Length: 5\r\n\r\na\x1b[2J",
            "it answers 401 Unauthorized: a [2J",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP"),
    ] {
        let (done, requests, waited) = posted(vec![answers(answer)]);
        let error = done.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(!error.is_passing() && waited.lock().unwrap().is_empty());
        assert_eq!(requests.len(), 1);
    }
}

#[test]
fn each_try_is_signed_with_its_time() {
    let (address, answering) = server(vec![answers(FAILED), answers(FINE)]);
    let name = SecretName::parse("pager-key").unwrap();
    let webhook = Webhook { sign: Some(name.clone()), ..webhook(address) };
    let (terms, _) = terms();
    let none = post(&webhook, &notice(), &Secrets::new(), &terms);
    assert_eq!(none, Err(ActionError::NoSecret(name)));
    post(&webhook, &notice(), &secrets(&[("pager-key", "k3y")]), &terms).unwrap();
    let requests = answering.join().unwrap();
    let times: Vec<_> = requests.iter().map(|r| r.header("Althing-Timestamp").unwrap()).collect();
    assert_eq!(times, ["60", "120"]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"k3y");
    for request in &requests {
        let signature = request.header("Althing-Signature").unwrap();
        let digits = signature.strip_prefix("sha256=").unwrap();
        let tag: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        let time = request.header("Althing-Timestamp").unwrap();
        let signed = format!("{time}.{}", request.body);
        hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
        assert!(!request.head.contains("k3y") && !request.body.contains("k3y"));
    }
}

#[test]
fn nothing_of_a_rule_becomes_a_header_line() {
    let (address, answering) = server(vec![answers(FINE)]);
    let hostile = Notice {
        episode: "a\r\nX-Evil: 1".to_owned(),
        text: "\"}\r\n\0 ä".to_owned() + &"z".repeat(100_000),
        ..notice()
    };
    post(&webhook(address), &hostile, &Secrets::new(), &terms().0).unwrap();
    let request = answering.join().unwrap().remove(0);
    assert_eq!(request.header("X-Evil"), None);
    assert_eq!(request.header("Idempotency-Key"), Some("a--X-Evil--1.begin"));
    let read: Notice = serde_json::from_str(&request.body).unwrap();
    assert!(read.text.starts_with("\"}\n  ä") && read.text.len() <= TEXT_MAX, "{}", read.text);
}

#[test]
fn a_server_that_is_none_holds_nobody_up() {
    let silent = || -> Manner {
        Box::new(|mut stream| {
            let request = heard(&mut stream);
            wait_out(&mut stream);
            request
        })
    };
    let (address, answering) = server(vec![silent(), silent(), silent()]);
    let (mut terms, _) = terms();
    terms.within = SHORT;
    let error = post(&webhook(address), &notice(), &Secrets::new(), &terms).unwrap_err();
    assert!(error.to_string().contains("no answer within 0.3 s (tried 3 times)"), "{error}");
    answering.join().unwrap();

    // Endless heads, of one line and of many.
    for line in ["X: ", "X: y\r\n"] {
        let endless: Manner = Box::new(move |mut stream| {
            let request = heard(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
            pour(&mut stream, line.repeat(500).as_bytes());
            request
        });
        let (done, requests, _) = posted(vec![endless]);
        let error = done.unwrap_err();
        assert!(error.to_string().contains("does not speak HTTP"), "{error}");
        assert_eq!(requests.len(), 1);
    }
}

#[test]
fn of_a_long_answer_the_beginning_is_kept() {
    let endless: Manner = Box::new(|mut stream| {
        let request = heard(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        pour(&mut stream, "a\nbc".repeat(1_000).as_bytes());
        request
    });
    let (done, ..) = posted(vec![endless]);
    let said = done.unwrap().said;
    assert_eq!((said.len(), &said[..7]), (200, "a bca b"));

    // One that stalls has said yes all the same.
    let stalled: Manner = Box::new(|mut stream| {
        let request = heard(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nyes").unwrap();
        wait_out(&mut stream);
        request
    });
    let (address, answering) = server(vec![stalled]);
    let (mut terms, _) = terms();
    terms.within = SHORT;
    let done = post(&webhook(address), &notice(), &Secrets::new(), &terms).unwrap();
    assert_eq!(done, Done { said: "yes".to_owned(), tries: 1 });
    answering.join().unwrap();
}

#[test]
fn over_tls_somebody_has_to_vouch_for_the_server() {
    let (root, tls) = vouched();
    let manner = || -> Manner {
        let tls = tls.clone();
        Box::new(move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), stream);
            let request = heard(&mut stream);
            // Whoever trusts nobody has gone.
            let _gone = stream.write_all(FINE.as_bytes());
            request
        })
    };
    let asked = |roots: Vec<Certificate<'static>>| {
        let (address, answering) = server(vec![manner()]);
        let url = format!("https://localhost:{}/", address.port());
        let (mut terms, waited) = terms();
        terms.roots = roots;
        let done = post(&Webhook { url, sign: None }, &notice(), &Secrets::new(), &terms);
        (done, answering.join().unwrap().remove(0), waited)
    };
    let (done, request, _) = asked(vec![Certificate::from_der(&root).to_owned()]);
    assert_eq!(done.unwrap().said, "yes!");
    assert!(!request.body.is_empty());
    let (done, request, waited) = asked(Vec::new());
    let error = done.unwrap_err();
    assert!(error.to_string().contains("can't be trusted"), "{error}");
    assert!(request.body.is_empty() && waited.lock().unwrap().is_empty());
}

#[test]
fn nobody_there_is_said_as_it_is() {
    let (address, answering) = server(vec![Box::new(drop) as Box<dyn FnOnce(TcpStream) + Send>]);
    drop(TcpStream::connect(address).unwrap());
    answering.join().unwrap();
    let (terms, waited) = terms();
    let error = post(&webhook(address), &notice(), &Secrets::new(), &terms).unwrap_err();
    assert!(matches!(error, ActionError::Unreachable { tries: 3, .. }), "{error}");
    assert_eq!(waited.lock().unwrap().len(), 2);
    let bad = Webhook { url: "http://u:p@x.org/".to_owned(), sign: None };
    let error = post(&bad, &notice(), &Secrets::new(), &terms).unwrap_err();
    assert!(matches!(&error, ActionError::Unfit(why) if !why.contains("u:p")), "{error}");
}
