//! Both doors, asked over real sockets as a browser, a scraper and the command
//! line ask them.

mod bring;
mod operators;
pub mod sample;
pub mod tls;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::sample::Fake;
use super::{page, serve};
use crate::{
    base::{Reason, Refusal},
    gateway::encoding::compress,
    member::event::{Event, Severity},
    member::view::View,
};

/// A member's two doors.
struct Doors {
    fake: Fake,
    status: std::net::SocketAddr,
    socket: PathBuf,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<std::io::Result<()>>>,
    _dir: tempfile::TempDir,
}

impl Doors {
    async fn open() -> Self {
        Self::open_to(Fake::new(sample::view(), sample::events())).await
    }

    async fn open_to(fake: Fake) -> Self {
        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let status = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let status_task =
            tokio::spawn(serve::serve_status(fake.clone(), listener, shutdown.clone()));
        let (source, path, stop) = (fake.clone(), socket.clone(), shutdown.clone());
        let socket_task =
            tokio::spawn(async move { serve::serve_socket(source, &path, stop).await });
        while UnixStream::connect(&socket).await.is_err() {
            assert!(!socket_task.is_finished(), "the socket was not made");
            tokio::task::yield_now().await;
        }
        let tasks = vec![status_task, socket_task];
        Self { fake, status, socket, shutdown, tasks, _dir: dir }
    }

    async fn status(&self, method: Method, path: &str, host: &str) -> Response<Incoming> {
        let stream = TcpStream::connect(self.status).await.unwrap();
        send(stream, method, path, host, Bytes::new(), None).await
    }

    async fn get(&self, path: &str) -> Response<Incoming> {
        self.status(Method::GET, path, "127.0.0.1:7780").await
    }

    async fn socket(&self, method: Method, path: &str, body: &str) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        send(stream, method, path, "localhost", Bytes::from(body.to_owned()), None).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.socket(Method::POST, path, &body.to_string()).await;
        (response.status(), json_of(response).await)
    }

    async fn close(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
        assert!(!self.socket.exists(), "the socket file was left behind");
    }
}

async fn send<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
    method: Method,
    path: &str,
    host: &str,
    body: Bytes,
    last_id: Option<&str>,
) -> Response<Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap()
}

async fn text_of(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json_of(response: Response<Incoming>) -> Value {
    serde_json::from_str(&text_of(response).await).unwrap()
}

/// One frame of a stream: its event, id and data.
#[derive(Debug, Default)]
struct Frame {
    event: String,
    id: String,
    data: String,
}

/// Reads frames as a browser does.
struct Frames {
    body: Incoming,
    text: String,
}

impl Frames {
    async fn of(doors: &Doors, path: &str, last_id: Option<&str>) -> Self {
        let stream = TcpStream::connect(doors.status).await.unwrap();
        let response = send(stream, Method::GET, path, "localhost", Bytes::new(), last_id).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next frame that has data; nothing at the end of the stream.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((head, rest)) = self.text.split_once("\n\n") {
                let mut frame = Frame::default();
                for line in head.lines() {
                    match line.split_once(':') {
                        Some(("event", value)) => frame.event = value.trim().to_owned(),
                        Some(("id", value)) => frame.id = value.trim().to_owned(),
                        Some(("data", value)) => frame.data.push_str(value.trim_start()),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if !frame.data.is_empty() {
                    return Some(frame);
                }
                continue;
            }
            let part = self.body.frame().await?.unwrap();
            let part = part.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
    }

    async fn until(&mut self, event: &str) -> Frame {
        loop {
            let frame = self.next().await.expect("the stream ended");
            if frame.event == event {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn both_doors_answer_reads() {
    let doors = Doors::open().await;
    let view = json_of(doors.get("/api/v1/view").await).await;
    assert_eq!(serde_json::from_value::<View>(view).unwrap(), sample::view());
    let events = json_of(doors.get("/api/v1/events?after=3").await).await;
    let events: Vec<Event> = serde_json::from_value(events).unwrap();
    assert_eq!(events, sample::events()[3..]);
    let metrics = json_of(doors.socket(Method::GET, "/api/v1/metrics", "").await).await;
    assert_eq!(metrics["requests"], 84_211);
    let events = json_of(doors.socket(Method::GET, "/api/v1/events", "").await).await;
    assert_eq!(events.as_array().unwrap().len(), 5);
    let listening = json_of(doors.socket(Method::GET, "/api/v1/listening", "").await).await;
    assert_eq!(listening["sites"], "10.0.0.1:8080");

    let levels = json_of(doors.get("/api/v1/levels?at=1798153200000&for=60000").await).await;
    assert_eq!(
        (&levels["at"], &levels["to"]),
        (&json!(1_798_153_200_000_u64), &json!(1_798_153_260_000_u64))
    );
    let wrong = doors.get("/api/v1/levels?at=soon").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);

    let wrong = doors.get("/api/v1/events?after=-1").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json_of(wrong).await["error"]["reason"], "invalid");
    let prometheus = doors.get("/metrics").await;
    assert!(prometheus.headers()[header::CONTENT_TYPE].to_str().unwrap().contains("0.0.4"));
    assert!(text_of(prometheus).await.contains("althing_health{health=\"critical\"} 1"));
    doors.close().await;
}

#[tokio::test]
async fn what_all_members_tell_is_one_answer_on_both_doors() {
    let doors = Doors::open().await;
    let log =
        json_of(doors.get("/api/v1/log?since=1760000000000&kind=version&limit=3").await).await;
    let asked = doors.fake.asked.lock().unwrap().pop().unwrap();
    assert!(asked.contains("since: Some(WallTime(1760000000000))"), "{asked}");
    assert!(asked.contains("kinds: [Version]") && asked.contains("limit: 3"), "{asked}");
    let events = log["events"].as_array().unwrap();
    let told: Vec<_> = events.iter().map(|e| (&e["from"], &e["number"], &e["cause"])).collect();
    // The newest three of four, each with whose log it is in beside whom it is about.
    assert_eq!(
        told,
        [
            (&json!("web2"), &json!(12), &json!(1)),
            (&json!("web1"), &json!(11), &json!(1)),
            (&json!("web2"), &json!(6), &Value::Null)
        ]
    );
    assert_eq!(
        (&events[0]["member"], &events[0]["text"]),
        (&json!("web3"), &json!(sample::HOSTILE))
    );
    // One that refused, and one that is down and was not asked.
    let silent = json!([
        {"member": "web3", "why": "Why."},
        {"member": "web6", "why": "It is down."},
    ]);
    assert_eq!(log["silent"], silent);

    let services = json_of(doors.socket(Method::GET, "/api/v1/services", "").await).await;
    assert_eq!(services["silent"], silent);
    let services = services["services"].as_array().unwrap();
    let told: Vec<_> = services.iter().map(|s| (&s["member"], &s["state"])).collect();
    assert_eq!(
        told,
        [(&json!("web1"), &json!("backing-off")), (&json!("web2"), &json!("backing-off"))]
    );
    let acting = json_of(doors.get("/api/v1/acting").await).await;
    assert_eq!(acting["silent"], silent);
    // By when they began.
    let told: Vec<_> = acting["acting"].as_array().unwrap().iter().map(|a| &a["member"]).collect();
    assert_eq!(told, [&json!("web2"), &json!("web1")]);
    assert_eq!(acting["acting"][0]["key"], json!({"app": "shop", "rule": "hot"}));

    let checkups = json_of(doors.get("/api/v1/checkups").await).await;
    assert_eq!(checkups["silent"], silent);
    let members = checkups["members"].as_array().unwrap();
    let told: Vec<_> = members.iter().map(|m| (&m["member"], &m["althing"])).collect();
    assert_eq!(told, [(&json!("web1"), &json!("1.1.0")), (&json!("web2"), &json!("1.2.0"))]);
    assert!(members[0]["data_mode"].is_null(), "this door tells it to nobody");
    let known = json_of(doors.socket(Method::GET, "/api/v1/checkups", "").await).await;
    assert_eq!(known["members"][0]["data_mode"], 0o700);
    let ahead = members[0]["ahead_ms"].as_i64().unwrap().abs();
    assert!(ahead <= 1 + members[0]["within_ms"].as_i64().unwrap(), "it is one clock: {ahead}");

    for wrong in ["since=yesterday", "kind=weather", "about=../etc", "limit=-1"] {
        let response = doors.get(&format!("/api/v1/log?{wrong}")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    *doors.fake.refusal.lock().unwrap() = Some(sample::refusal(Reason::Busy));
    assert_eq!(doors.get("/api/v1/services").await.status(), StatusCode::CONFLICT);
    doors.close().await;
}

#[tokio::test]
async fn in_which_files_any_member_differs_is_told_on_both_doors() {
    let doors = Doors::open().await;
    let of = |app: &str, member: &str| format!("/api/v1/differs?app={app}&member={member}");
    let differs = json_of(doors.get(&of("media", "web2")).await).await;
    let asked = doors.fake.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked, "Differs { app: media }");
    assert_eq!((&differs["member"], &differs["silent"]), (&json!("web2"), &json!([])));
    let told = &differs["told"];
    assert_eq!((&told["version"], &told["live"]), (&json!(31), &json!(31)));
    // One more was told than may be: it is counted.
    let paths = told["differs"]["paths"].as_array().unwrap();
    assert_eq!((paths.len(), &told["differs"]["more"]), (200, &json!(1)));
    assert_eq!(paths[0], json!({"op": "SET", "path": sample::HOSTILE}));
    assert_eq!(told["coming"]["version"], 32);
    assert_eq!(told["coming"]["changes"]["paths"].as_array().unwrap().len(), 1);
    let socket = json_of(doors.socket(Method::GET, &of("media", "web2"), "").await).await;
    assert_eq!(socket, differs);

    // One that refuses, one that says nothing of it, and one that is down and is not asked.
    for (member, why) in
        [("web3", "Why. What to do."), ("web5", "It said nothing of it."), ("web6", "It is down.")]
    {
        let silent = json_of(doors.get(&of("media", member)).await).await;
        assert_eq!(silent["told"], Value::Null, "{member}");
        assert_eq!(silent["silent"], json!([{"member": member, "why": why}]));
    }
    doors.fake.asked.lock().unwrap().clear();
    assert_eq!(doors.get(&of("media", "web6")).await.status(), StatusCode::OK);
    for (query, status) in [
        (of("nothing", "web2"), StatusCode::NOT_FOUND),
        (of("../x", "web2"), StatusCode::BAD_REQUEST),
        (of("media", "a/b"), StatusCode::BAD_REQUEST),
        ("/api/v1/differs?app=media".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(doors.get(&query).await.status(), status, "{query}");
    }
    assert!(doors.fake.asked.lock().unwrap().is_empty(), "it reached the member");
    doors.close().await;
}

#[tokio::test]
async fn every_response_carries_the_security_headers() {
    let doors = Doors::open().await;
    let paths = [
        "/",
        "/status.css",
        "/status.js",
        "/charts.js",
        "/favicon.svg",
        "/metrics",
        "/api/v1/view",
    ];
    let more = ["/api/v1/events?after=x", "/api/v1/stream", "/nothing", "/api/v1/command"];
    let mut responses = Vec::new();
    for path in paths.iter().chain(&more) {
        responses.push(doors.get(path).await);
    }
    responses.push(doors.status(Method::POST, "/", "localhost").await);
    responses.push(doors.status(Method::GET, "/", "evil.example").await);
    responses.push(doors.socket(Method::POST, "/api/v1/command", "{").await);
    responses.push(doors.socket(Method::GET, "/", "").await);
    for response in responses {
        let headers = response.headers();
        let csp = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(csp.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(csp.ends_with("base-uri 'none'; form-action 'none'; frame-ancestors 'none'"));
        assert!(!csp.contains("unsafe"));
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    }
    doors.close().await;
}

#[tokio::test]
async fn the_status_port_changes_nothing_without_a_token() {
    let doors = Doors::open().await;
    for path in ["publish-edits", "secrets", "stop", "listening"] {
        let response = doors.status(Method::POST, &format!("/api/v1/{path}"), "localhost").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(json_of(response).await["error"]["reason"], "not-found");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let response = doors.status(method, "/api/v1/view", "localhost").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(json_of(response).await["error"]["reason"], "invalid");
    }
    for path in ["command", "publish", "inspect", "services"] {
        let response = doors.status(Method::POST, &format!("/api/v1/{path}"), "localhost").await;
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
    }
    assert!(doors.fake.asked.lock().unwrap().is_empty());
    doors.close().await;
}

#[tokio::test]
async fn the_status_port_answers_to_no_stranger_s_name() {
    let doors = Doors::open().await;
    for bad in ["evil.example", "127.0.0.1.evil.example:7780", "shop.example.com"] {
        for path in ["/", "/api/v1/view", "/api/v1/stream", "/nothing"] {
            let response = doors.status(Method::GET, path, bad).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{bad} {path}");
            assert_eq!(json_of(response).await["error"]["reason"], "forbidden");
        }
    }
    for fine in ["10.0.0.5", "[::1]:7780", "localhost:7780", "web1", "shop.example.org"] {
        let response = doors.status(Method::GET, "/", fine).await;
        assert_eq!(response.status(), StatusCode::OK, "{fine}");
    }
    doors.close().await;
}

#[tokio::test]
async fn the_socket_carries_out_commands() {
    let doors = Doors::open().await;
    let (status, answer) = doors.post("/api/v1/command", &json!("window-close")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["ok"]["done"]["sequence"], 43);
    let publish =
        json!({"app": "shop", "source": "/srv/shop", "message": "", "base": null, "hosts": []});
    assert_eq!(doors.post("/api/v1/publish", &publish).await.0, StatusCode::OK);
    let question = json!({"verify": {"app": "shop"}});
    let (_, answer) = doors.post("/api/v1/inspect", &question).await;
    assert_eq!(answer["ok"]["verified"]["same"], true);
    assert_eq!(doors.post("/api/v1/stop", &Value::Null).await.1["ok"], "stopping");
    let asked = doors.fake.asked.lock().unwrap().clone();
    assert_eq!(asked, ["WindowClose", "publish /srv/shop", "look at shop", "stop"]);
    doors.close().await;
}

#[tokio::test]
async fn what_is_wrong_never_reaches_the_member() {
    let doors = Doors::open().await;
    let relative =
        json!({"app": "shop", "source": "../etc", "message": "", "base": null, "hosts": []});
    let long = json!({"app": null, "source": "/a", "message": "x".repeat(5_000), "base": null, "hosts": []});
    let hosts =
        json!({"app": null, "source": "/a", "message": "", "base": null, "hosts": vec!["h"; 65]});
    let bad = [
        ("/api/v1/publish", relative),
        ("/api/v1/publish", long),
        ("/api/v1/publish", hosts),
        (
            "/api/v1/publish-edits",
            json!({"app": "shop", "changes": [], "message": "x".repeat(5_000)}),
        ),
        ("/api/v1/inspect", json!({"verify": {"app": "../x"}})),
        ("/api/v1/command", json!("nothing-known")),
        ("/api/v1/command", json!({"remove": {"name": "a/b"}})),
    ];
    for (path, body) in bad {
        let (status, answer) = doors.post(path, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let refusal: Refusal = serde_json::from_value(answer["error"].clone()).unwrap();
        assert_eq!(refusal.reason, Reason::Invalid);
    }
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    let response = doors.socket(Method::POST, "/api/v1/command", &large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json_of(response).await["error"]["reason"], "invalid");
    assert!(doors.fake.asked.lock().unwrap().is_empty());
    doors.close().await;
}

#[tokio::test]
async fn a_refusal_has_the_status_of_its_reason() {
    let doors = Doors::open().await;
    for (reason, status) in [
        (Reason::Invalid, 400),
        (Reason::Forbidden, 403),
        (Reason::NotFound, 404),
        (Reason::Conflict, 409),
        (Reason::Busy, 409),
        (Reason::Failed, 500),
        (Reason::NoMajority, 503),
    ] {
        *doors.fake.refusal.lock().unwrap() = Some(sample::refusal(reason));
        let (answered, body) = doors.post("/api/v1/command", &json!("leave")).await;
        assert_eq!(answered.as_u16(), status);
        let expected = serde_json::to_value(sample::refusal(reason)).unwrap();
        assert_eq!(body, json!({ "error": expected }));
    }
    doors.close().await;
}

#[tokio::test]
async fn the_stream_brings_views_and_events_and_resumes() {
    let doors = Doors::open().await;
    let mut frames = Frames::of(&doors, "/api/v1/stream", None).await;
    let first = frames.until("event").await;
    let (start, number) = first.id.split_once('-').unwrap();
    assert_eq!(number, "1");
    let view: View = serde_json::from_str(&frames.until("view").await.data).unwrap();
    assert_eq!(view, sample::view());
    frames.until("metrics").await;

    let mut changed = sample::view();
    changed.sequence = 43;
    doors.fake.views.send_replace(changed.into());
    let frame = frames.until("view").await;
    assert_eq!(serde_json::from_str::<View>(&frame.data).unwrap().sequence, 43);
    assert!(frame.id.is_empty(), "only events have ids");
    doors.fake.tell(sample::event(6, Severity::Info, "two\nlines"));
    let frame = frames.until("event").await;
    assert_eq!(frame.id, format!("{start}-6"));
    assert_eq!(serde_json::from_str::<Event>(&frame.data).unwrap().text, "two\nlines");

    // A reader that comes back gets what it missed and nothing twice.
    let last = format!("{start}-4");
    let mut again = Frames::of(&doors, "/api/v1/stream", Some(&last)).await;
    assert_eq!(again.next().await.unwrap().id, format!("{start}-5"));
    assert_eq!(again.next().await.unwrap().id, format!("{start}-6"));
    assert_eq!(again.next().await.unwrap().event, "view");
    let query = format!("/api/v1/stream?last={start}-5");
    let mut again = Frames::of(&doors, &query, None).await;
    assert_eq!(again.next().await.unwrap().id, format!("{start}-6"));
    // An id of another start of the member counts for nothing.
    let mut anew = Frames::of(&doors, "/api/v1/stream", Some("0-4")).await;
    assert_eq!(anew.next().await.unwrap().id, format!("{start}-1"));

    doors.shutdown.cancel();
    while frames.next().await.is_some() {}
    doors.close().await;
}

#[tokio::test]
async fn what_the_channel_lost_is_sent_from_what_is_kept() {
    let doors = Doors::open().await;
    let mut frames = Frames::of(&doors, "/api/v1/stream", None).await;
    frames.until("metrics").await;
    for number in 6..=60 {
        doors.fake.tell(sample::event(number, Severity::Info, "one of many"));
    }
    for number in 6..=60 {
        let event: Event = serde_json::from_str(&frames.until("event").await.data).unwrap();
        assert_eq!(event.number, number);
    }
    doors.close().await;
}

#[tokio::test]
async fn a_member_serves_so_many_streams_and_no_more() {
    let doors = Doors::open().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Frames::of(&doors, "/api/v1/stream", None).await);
    }
    let response = doors.get("/api/v1/stream").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(response).await["error"]["reason"], "busy");
    drop(open);
    doors.close().await;
}

#[tokio::test]
async fn the_socket_is_its_owner_s_alone_and_replaces_only_a_dead_one() {
    let doors = Doors::open().await;
    assert_eq!(fs::metadata(&doors.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let taken = serve::bind_socket(&doors.socket).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    doors.close().await;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed process leaves its socket");
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("socket.new")).unwrap());
    let _listener = serve::bind_socket(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();

    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = serve::bind_socket(&file).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn the_page_takes_no_text_for_markup_and_needs_nothing_foreign() {
    let banned = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
        "setAttribute(\"on",
        "javascript:",
        "createContextualFragment",
    ];
    let all: String = page::SCRIPTS.map(|(_, text)| text).concat();
    for word in banned {
        assert!(!all.contains(word), "{word} in the script");
    }
    assert!(all.contains("textContent"));
    let mut files = page::SCRIPTS.to_vec();
    files.extend([("page", page::INDEX), ("style", page::STYLE)]);
    for (name, text) in &files {
        assert!(!text.contains("http://") && !text.contains("https://"), "{name}");
        assert!(!text.contains("@import") && !text.contains("url("), "{name}");
    }
    assert!(!page::INDEX.contains("<style") && !page::INDEX.contains(" style="));
    assert!(!page::INDEX.contains("<script>") && !page::INDEX.contains(" onload"));
    // Whatever the script looks up is there.
    for part in all.split("at(\"").skip(1) {
        let id = part.split('"').next().unwrap();
        assert!(page::INDEX.contains(&format!("id=\"{id}\"")), "no element {id}");
    }
    // It is light, also where the way to it is long: this is what goes over the wire, and what
    // goes to the few that take nothing compressed.
    let packed = |text: &str| compress(text.as_bytes()).unwrap().len();
    let bytes: usize = files.iter().map(|(_, text)| packed(text)).sum();
    assert!(bytes < 60_000, "{bytes} bytes compressed");
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    assert!(bytes < 180_000, "{bytes} bytes");
}

/// The same bytes as a client gets that takes nothing compressed.
#[tokio::test]
async fn the_page_is_compressed_for_those_that_take_it() {
    let doors = Doors::open().await;
    for path in ["/", "/status.css", "/members.js"] {
        let plain = doors.get(path).await;
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none(), "{path}");
        assert_eq!(plain.headers()[header::VARY], "accept-encoding");
        let kind = plain.headers()[header::CONTENT_TYPE].clone();
        let plain = text_of(plain).await;
        for accepted in ["gzip, deflate, br", "br, gzip;q=0"] {
            let stream = TcpStream::connect(doors.status).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get(path)
                .header(header::HOST, "localhost")
                .header(header::ACCEPT_ENCODING, accepted)
                .body(Full::new(Bytes::new()))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], kind);
            let is_packed = response.headers().get(header::CONTENT_ENCODING).is_some();
            assert_eq!(is_packed, accepted.starts_with("gzip"), "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let expected = match is_packed {
                true => compress(plain.as_bytes()).unwrap(),
                false => plain.clone().into_bytes(),
            };
            assert_eq!(body, expected, "{path}");
        }
    }
    doors.close().await;
}

/// Every module that is imported is served, and told to the browser beforehand: a chain of imports is
/// a chain of round trips.
#[test]
fn the_page_s_modules_are_all_there() {
    let served = page::SCRIPTS.map(|(path, _)| path);
    for (name, text) in page::SCRIPTS {
        for part in text.split(" from \"./").skip(1) {
            let path = format!("/{}", part.split('"').next().unwrap());
            assert!(served.contains(&path.as_str()), "{name} imports {path}");
        }
    }
    for path in served {
        let told = [format!("modulepreload\" href=\"{path}\""), format!("src=\"{path}\"")];
        assert!(told.iter().any(|way| page::INDEX.contains(way)), "{path}");
    }
}
