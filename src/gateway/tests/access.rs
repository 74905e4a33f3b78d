//! What the access log says of a run of requests.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    fake::{FakeForward, FakeSite, FakeSites, Peer, Server, backends, member, noise, remote},
    front::trusting,
    proxying::{bounded, program, sites, tells},
};
use crate::{
    base::AppName,
    gateway::{
        Front, Route, Sites, Target,
        access::{Format, Log},
        connection::Limits,
    },
};

/// The objects of a log.
pub(super) fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Routes by the host, and knows what it is.
pub(super) struct Named(pub Arc<FakeSites>);

impl Sites for Named {
    fn route(&self, target: Target<'_>) -> Route {
        self.0.route(target)
    }

    fn named(&self, _: Target<'_>) -> Option<(AppName, Option<u64>)> {
        Some((AppName::parse("shop").unwrap(), Some(7)))
    }
}

/// A gateway that writes down what it is asked.
struct Bench {
    server: Server,
    log: Log,
    scratch: TempDir,
}

impl Bench {
    async fn new(format: Format, sites: Arc<FakeSites>, forward: FakeForward) -> Self {
        let scratch = TempDir::new().unwrap();
        let log = Log::open(Some(&scratch.path().join("log")), format).unwrap();
        let front = Front { log: Some(log.clone()), ..trusting("127.0.0.2") };
        let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
        let server = Server::behind(front, Arc::new(Named(sites)), forward.into(), limits).await;
        Self { server, log, scratch }
    }

    async fn ended(self) -> TempDir {
        self.server.shutdown.cancel();
        self.server.ended.await.unwrap();
        self.log.close();
        self.scratch
    }

    async fn objects(self) -> Vec<Value> {
        lines(&self.ended().await.path().join("log"))
    }
}

#[tokio::test]
async fn each_request_has_one_line_that_says_how_it_ended() {
    let (address, large) = (program(tells).await, noise(200_000, 3));
    let site = Arc::new(FakeSite::new(3, &[("a.html", b"hello"), ("large", &large)]));
    let peers = [(member(2), Peer::Serves(sites(Some(address), &[]))), (member(1), Peer::Away)];
    let forward = FakeForward { peers: peers.into(), ..FakeForward::default() };
    let routes = FakeSites::new(move |host| match host {
        Some("files") => Route::Local(site.clone()),
        Some("here") => bounded(address, 10).route(target()),
        Some("away") => remote(&[member(1)]),
        Some("there") => remote(&[member(2)]),
        Some("tls") => Route::ByTls(None),
        _ => Route::Unavailable { status: 404, why: "Nobody.".to_owned() },
    });
    let bench = Bench::new(Format::Json, routes, forward).await;
    let server = &bench.server;
    let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let files = "GET /a.html?q=\"1 HTTP/1.1\r\nHost: Files:80\r\nReferer: r\r\nUser-Agent: u\\\r\n\
                 X-Forwarded-For: 6.6.6.6\r\nX-Request-Id: mine\r\n\r\n";
    assert_eq!(server.ask(files).await.status, 200);
    server.ask(&get("files", "/large")).await;
    server.ask("HEAD /a.html HTTP/1.0\r\nHost: files\r\n\r\n").await;
    server.ask(&get("files", "/none")).await;
    server.ask("DELETE /a.html HTTP/1.1\r\nHost: files\r\n\r\n").await;
    let here = server.ask(&get("here", "/x")).await.text();
    server.ask("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 11\r\n\r\n").await;
    server.ask(&get("there", "/y")).await;
    server.ask(&get("away", "/")).await;
    server.ask(&get("tls", "/")).await;
    server.ask(&get("nobody", "/")).await;
    server.ask("GET / HTTP/1.1\r\n\r\n").await;
    server.ask("GET / HT").await;
    // One that goes before anything is answered.
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhal").await;
    drop(client);
    server.until(|stats| stats.errors == 1).await;
    // And one that asks for nothing.
    drop(server.connect().await);
    let told = bench.objects().await;

    let wanted = [
        (200, "GET", "/a.html?q=\"1", "files:80", 5, "files", 0),
        (200, "GET", "/large", "files", 200_000, "files", 0),
        (200, "HEAD", "/a.html", "files", 0, "files", 0),
        (404, "GET", "/none", "files", -1, "files", 0),
        (405, "DELETE", "/a.html", "files", -1, "", 0),
        (200, "GET", "/x", "here", here.len() as i64, "here", 1),
        (413, "POST", "/", "here", -1, "", 0),
        (200, "GET", "/y", "there", -1, &member(2).to_string(), 1),
        (503, "GET", "/", "away", -1, "", 1),
        (308, "GET", "/", "tls", -1, "", 0),
        (404, "GET", "/", "nobody", -1, "", 0),
        (400, "", "", "", -1, "", 0),
        (408, "", "", "", -1, "", 0),
        (499, "POST", "/", "here", 0, "", 0),
    ];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (line, (status, method, target, host, bytes, by, tries)) in told.iter().zip(wanted) {
        assert_eq!(line["status"], status, "{line}");
        assert_eq!([&line["method"], &line["target"]].map(text), [method, target], "{line}");
        assert_eq!([&line["host"], &line["answered_by"]].map(text), [host, by], "{line}");
        assert_eq!(line["tries"], tries, "{line}");
        let sent = line["bytes"].as_i64().unwrap();
        assert!(if bytes < 0 { sent > 0 } else { sent == bytes }, "{line}");
        assert_eq!((&line["client"], &line["tls"]), (&"127.0.0.1".into(), &false.into()));
        assert!(line["duration_ms"].as_f64().unwrap() >= 0.0);
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
    assert_eq!(told.len(), wanted.len());
    let first = &told[0];
    assert_eq!(first["version"], 3);
    assert_eq!([&first["referer"], &first["user_agent"]].map(text), ["r", "u\\"]);
    assert_eq!([&first["request_id"], &first["app"]].map(text), ["mine", "shop"]);
    assert_eq!([&told[2]["protocol"], &told[3]["protocol"]].map(text), ["HTTP/1.0", "HTTP/1.1"]);
    // What the program was given is what the line has, and its version is known where it is here.
    let id = text(&told[5]["request_id"]);
    assert!(id.len() == 32 && here.contains(&format!("X-Request-Id: {id}\r\n")), "{id} {here}");
    assert_eq!((&told[5]["version"], &told[7]["version"]), (&7.into(), &Value::Null));
}

/// Only its host decides.
fn target() -> Target<'static> {
    Target { app: None, host: None, path: "/", by_member: false, secure: false }
}

#[tokio::test]
async fn what_a_client_says_stays_within_its_quotes() {
    let site = Arc::new(FakeSite::new(1, &[("a", b"hello")]));
    let bench = Bench::new(Format::Combined, FakeSites::local(site), FakeForward::default()).await;
    let request = b"GET /a?\"\\x HTTP/1.1\r\nHost: h\r\nReferer: \" 200 1 \"\r\n\
                    User-Agent: \xff\x80\t\\\"\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut client = bench.server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, request).await.unwrap();
    assert_eq!(client.reply(false).await.status, 200);
    drop(client);
    let scratch = bench.ended().await;
    let text = std::fs::read_to_string(scratch.path().join("log")).unwrap();
    let behind = text.split_once("] ").unwrap().1;
    assert!(text.starts_with("127.0.0.1 - - ["), "{text}");
    assert_eq!(
        behind,
        "\"GET /a?\\\"\\\\x HTTP/1.1\" 200 5 \"\\\" 200 1 \\\"\" \"\\xff\\x80\\x09\\\\\\\"\"\n"
    );
}

/// An answer that the client cuts, or the program: what is known of it is written.
#[tokio::test]
async fn an_answer_that_was_cut_has_its_line() {
    let cut = program(|mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _asked = stream.read(&mut [0; 4_096]).await;
        let begins = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        stream.write_all(begins).await.unwrap();
    })
    .await;
    let routes = FakeSites::new(move |_| Route::Service(backends(Some(cut), &[])));
    let bench = Bench::new(Format::Json, routes, FakeForward::default()).await;
    let mut client = bench.server.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.rest().await;
    let told = bench.objects().await;
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["status"], &told[0]["bytes"]), (&200.into(), &3.into()));
    assert_eq!(told[0]["answered_by"], "here");
}
