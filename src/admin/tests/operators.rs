//! What operators may do at the status port, and who is none.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    super::permit::{self, Permit},
    Doors, json_of, sample,
};
use crate::{
    base::{
        AppName, Digest, MemberName, OperatorName, Reason, Refusal, RuleName, WallTime,
        catalog::{AppSpec, Failover, VotePolicy},
        operator::OperatorToken,
    },
    member::{
        change::{Act, Which},
        command::{Command, Staged},
    },
    node::{Ask, Edits, Publish, inspect::Question, telemetry::asking::EventsQuestion},
};

/// The token of alice, that of bob, which has expired, and that of nobody.
fn token(n: u8) -> String {
    format!("Bearer {}", OperatorToken::new([n; 32]).to_text())
}

impl Doors {
    /// A request to the status port, with these headers beside its host.
    async fn with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.status).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, "127.0.0.1:7780");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        sender.send_request(request.body(body).unwrap()).await.unwrap()
    }

    /// An act of whoever has this token.
    async fn act(&self, n: u8, path: &str, body: &Value) -> (StatusCode, Value) {
        let token = token(n);
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let response = self.with(Method::POST, path, &headers, &body.to_string()).await;
        (response.status(), json_of(response).await)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn an_operator_acts_and_each_act_is_told_before_it_is_done() {
    let doors = Doors::open().await;
    let drain = json!({"service": {"member": "web2", "on": false}});
    let (status, answer) = doors.act(7, "/api/v1/command", &drain).await;
    assert_eq!((status, &answer["ok"]["done"]["sequence"]), (StatusCode::OK, &json!(43)));
    let asked = doors.asked();
    assert_eq!(asked[0], "tell Info: alice: drain web2 (by the status port)");
    // With whose token it was, and the event that tells of it.
    let (begins, ends) =
        (asked[1].starts_with("Service {"), asked[1].ends_with("by alice after 1"));
    assert!(asked.len() == 2 && begins && ends, "{asked:?}");

    let publish =
        json!({"app": "shop", "source": "/srv/shop", "message": "", "base": null, "hosts": []});
    assert_eq!(doors.act(7, "/api/v1/publish", &publish).await.0, StatusCode::OK);
    let told = "tell Info: alice: publish /srv/shop --app shop (by the status port)";
    assert_eq!(doors.asked(), [told, "publish /srv/shop by alice after 1"]);

    let restart = json!({"member": null, "ask": {"restart": {"app": "shop", "service": null}}});
    let token = token(7);
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let body = restart.to_string();
    let response = doors.with(Method::POST, "/api/v1/services", &headers, &body).await;
    let lines = super::text_of(response).await;
    assert!(lines.ends_with("null\n") && lines.contains("restarted"), "{lines}");
    let asked = doors.asked();
    assert_eq!(asked[0], "tell Info: alice: restart shop (by the status port)");

    // What only reads leaves nothing.
    let question = json!({"verify": {"app": "shop"}});
    let (_, answer) = doors.act(7, "/api/v1/inspect", &question).await;
    assert_eq!(answer["ok"]["verified"]["same"], true);
    assert_eq!(doors.asked(), ["look at shop"]);

    // What the member refuses is told once more, with what it follows from.
    *doors.fake.refusal.lock().unwrap() = Some(sample::refusal(Reason::NoMajority));
    let (status, answer) = doors.act(7, "/api/v1/command", &json!("window-close")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer["error"]["reason"], "no-majority");
    let told = "tell Warning because of 1: alice: window close (by the status port) was not done: \
                What happened. Why.";
    let asked = doors.asked();
    assert_eq!((asked.len(), asked[2].as_str()), (3, told));
    doors.close().await;
}

#[tokio::test]
async fn what_a_token_is_not_enough_for_is_told_and_not_done() {
    let doors = Doors::open().await;
    let seed = "00".repeat(32);
    let bad = [
        ("/api/v1/command", json!("leave")),
        ("/api/v1/command", json!("rotate-key")),
        ("/api/v1/command", json!({"remove": {"name": "web2"}})),
        ("/api/v1/command", json!({"operator-remove": {"name": "bob"}})),
        ("/api/v1/command", json!({"operator-add": {"name": "eve", "token": seed}})),
        (
            "/api/v1/inspect",
            json!({"restore": {"app": "shop", "number": 1, "into": "/etc/cron.d"}}),
        ),
        ("/api/v1/inspect", json!({"secrets": {"app": "shop"}})),
        (
            "/api/v1/services",
            json!({"member": null, "ask": {"sign": {"path": "/etc", "ignore": []}}}),
        ),
    ];
    for (path, body) in bad {
        let (status, answer) = doors.act(7, path, &body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body}: {answer}");
        let refusal: Refusal = serde_json::from_value(answer["error"].clone()).unwrap();
        assert!(refusal.todo.contains("on the member itself"), "{refusal:?}");
        let asked = doors.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].starts_with("tell Warning: alice, by the status port: "), "{asked:?}");
    }
    // Nonsense comes no further than to anybody.
    for (path, body) in
        [("/api/v1/command", json!("nothing-known")), ("/api/v1/publish", json!({"source": "/a"}))]
    {
        assert_eq!(doors.act(7, path, &body).await.0, StatusCode::BAD_REQUEST);
    }
    assert!(doors.asked().is_empty());
    doors.close().await;
}

#[tokio::test]
async fn who_is_asked_who_it_is_says_so() {
    let doors = Doors::open().await;
    let alice = token(7);
    let who = [("authorization", alice.as_str())];
    let response = doors.with(Method::GET, "/api/v1/whoami", &who, "").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let me = sample::view().me;
    let expected = json!({"operator": "alice", "expires": null, "member": me});
    assert_eq!(json_of(response).await, expected);
    assert!(doors.asked().is_empty(), "nothing is told of it");

    let none = doors.with(Method::GET, "/api/v1/whoami", &[], "").await;
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(none.headers()[header::WWW_AUTHENTICATE], "Bearer");
    assert!(json_of(none).await["error"]["todo"].as_str().unwrap().contains("operator add"));
    assert!(doors.asked().is_empty(), "a page asks so, with nobody at it");

    let expired = token(8);
    let who = [("authorization", expired.as_str())];
    let response = doors.with(Method::GET, "/api/v1/whoami", &who, "").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(json_of(response).await["error"]["why"].as_str().unwrap().contains("expired"));
    let asked = doors.asked();
    assert!(asked.len() == 1 && asked[0].contains("the token of operator bob"), "{asked:?}");
    doors.close().await;
}

#[tokio::test]
async fn requests_of_other_sites_are_refused_with_a_token_too() {
    let doors = Doors::open().await;
    let alice = token(7);
    let (who, kind) = (("authorization", alice.as_str()), ("content-type", "application/json"));
    let own = [who, kind, ("origin", "http://127.0.0.1:7780"), ("sec-fetch-site", "same-origin")];
    let body = "\"window-close\"";
    let response = doors.with(Method::POST, "/api/v1/command", &own, body).await;
    assert_eq!(response.status(), StatusCode::OK);
    doors.asked();
    for (more, status) in [
        (("origin", "http://evil.example"), StatusCode::FORBIDDEN),
        (("origin", "null"), StatusCode::FORBIDDEN),
        (("origin", "http://127.0.0.1:8080"), StatusCode::FORBIDDEN),
        (("sec-fetch-site", "cross-site"), StatusCode::FORBIDDEN),
        (("host", "evil.example"), StatusCode::FORBIDDEN),
    ] {
        let response = doors.with(Method::POST, "/api/v1/command", &[who, kind, more], body).await;
        assert_eq!(response.status(), status, "{more:?}");
    }
    let plain = [who, ("content-type", "text/plain")];
    let response = doors.with(Method::POST, "/api/v1/command", &plain, body).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // A preflight is answered with nothing that would let a page go on.
    let preflight = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    let response = doors.with(Method::OPTIONS, "/api/v1/command", &preflight, "").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    assert!(doors.asked().is_empty());
    doors.close().await;
}

#[tokio::test]
async fn tokens_that_are_none_are_told_and_soon_not_looked_at() {
    let doors = Doors::open().await;
    let wrong = token(9);
    let close = json!("window-close");
    for _ in 0..9 {
        assert_eq!(doors.act(9, "/api/v1/command", &close).await.0, StatusCode::UNAUTHORIZED);
    }
    let headers = [("authorization", "Basic YTpi")];
    let response = doors.with(Method::GET, "/api/v1/whoami", &headers, "").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let asked = doors.asked();
    assert_eq!(asked.len(), 10);
    let secret = &wrong["Bearer ".len()..];
    for told in &asked {
        assert!(told.contains("a token that is none was shown at the status port"), "{told}");
        assert!(!told.contains(secret) && !told.contains("YTpi"), "{told}");
    }
    let (status, answer) = doors.act(9, "/api/v1/command", &close).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["error"]["reason"], "busy");
    assert!(doors.asked().is_empty(), "it is told no more");
    // Nobody is kept out by that.
    assert_eq!(doors.act(7, "/api/v1/command", &close).await.0, StatusCode::OK);
    doors.close().await;
}

/// Each command once, with the words of its act, or nothing where a token is not enough.
#[test]
fn each_command_is_decided_on() {
    let app = AppName::parse("web").unwrap();
    let alpha = MemberName::parse("alpha").unwrap();
    let rule = RuleName::parse("hot").unwrap();
    let name = OperatorName::parse("eve").unwrap();
    let staged = Staged { root: Digest::of_bytes(b"a"), files: 1, bytes: 1 };
    let which = Which { app: app.clone(), rule: rule.clone(), episode: "e".to_owned() };
    let some = || Some(alpha.clone());
    let text = || "x".to_owned();
    let all: Vec<(Command, Option<&str>)> = vec![
        (Command::Invite { seed: [1; 32], uses: 1, valid_s: 60 }, None),
        (Command::Remove { name: alpha.clone() }, None),
        (Command::Leave, None),
        (Command::RotateKey, None),
        (
            Command::Publish {
                app: app.clone(),
                staged,
                spec: Box::new(AppSpec::default()),
                message: text(),
                base: None,
            },
            None,
        ),
        (Command::Rollback { app: app.clone(), version: None }, Some("rollback web")),
        (Command::Rollback { app: app.clone(), version: Some(12) }, Some("rollback web 12")),
        (
            Command::WindowOpen { scope: vec![app.clone()], failover: None, automatic: true },
            Some("window open --automatic --app web"),
        ),
        (Command::WindowClose, Some("window close")),
        (Command::WindowTakeover, Some("window takeover")),
        (Command::FailoverSet { first: vec![alpha.clone()] }, Some("failover set alpha")),
        (
            Command::Policy { failover: Some(Failover::Manual), vote: Some(VotePolicy::Committed) },
            Some("policy failover manual vote committed"),
        ),
        (Command::RemoveAfter { seconds: None }, Some("policy remove-after never")),
        (Command::RemoveAfter { seconds: Some(600) }, None),
        (
            Command::Tags {
                member: None,
                set: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
                unset: BTreeSet::from(["zone".to_owned()]),
            },
            Some("tags this member role=web -zone"),
        ),
        (Command::Service { member: some(), on: true }, Some("resume alpha")),
        (Command::Service { member: some(), on: false }, Some("drain alpha")),
        (Command::StandDown { keep: 1, because: text(), at: WallTime(1) }, None),
        (Command::StandUp, None),
        (Command::Drained, None),
        (Command::Wait { member: some() }, Some("drain alpha --wait")),
        (Command::Act(Act::Forget { which }), None),
        (Command::Event { name: "a\nb".to_owned(), payload: text() }, Some("event ab")),
        (Command::Query { name: text(), payload: text(), wait_ms: 1 }, Some("")),
        (
            Command::Resolve { app: app.clone(), member: alpha.clone() },
            Some("resolve web --member alpha"),
        ),
        (
            Command::Silence {
                app: Some(app.clone()),
                rule: Some(rule.clone()),
                member: some(),
                for_s: 60,
                why: text(),
            },
            Some("silence web/hot --member alpha --for 60s"),
        ),
        (
            Command::Unsilence { app: Some(app), rule: Some(rule), member: None },
            Some("silence web/hot --end"),
        ),
        (
            Command::OperatorAdd {
                name: name.clone(),
                token: OperatorToken::new([1; 32]).hash(),
                valid_s: None,
            },
            None,
        ),
        (Command::OperatorRemove { name }, None),
    ];
    for (command, expected) in all {
        let told = match permit::command(&command) {
            Ok(Permit::Act(text)) => Some(text),
            Ok(Permit::Read) => Some(String::new()),
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::Forbidden);
                None
            }
        };
        assert_eq!(told.as_deref(), expected, "{command:?}");
    }
}

#[test]
fn each_question_is_decided_on() {
    let app = AppName::parse("web").unwrap();
    let edits = Edits { app: app.clone(), changes: vec![], message: String::new(), base: None };
    let read = Some(Permit::Read);
    let act = |text: &str| Some(Permit::Act(text.to_owned()));
    let of = || app.clone();
    for (question, expected) in [
        (Question::Verify { app: of() }, read.clone()),
        (Question::Diff { app: of(), from: None, to: None, live: true, text: true }, read.clone()),
        (Question::Kept { app: of() }, read.clone()),
        (Question::Settings { app: of() }, read.clone()),
        (Question::Compare { app: of(), full: true, lists: true }, read.clone()),
        (Question::Restore { app: of(), number: 1, into: "/tmp/x".into() }, None),
        (Question::Secrets { app: of() }, None),
        (Question::Elsewhere { app: of(), version: None, have: vec![] }, read.clone()),
        (Question::Pieces { app: of(), action: vec![] }, read.clone()),
        (Question::Lacking(edits), None),
    ] {
        assert_eq!(permit::question(&question).ok(), expected, "{question:?}");
    }
    let alpha = MemberName::parse("alpha").unwrap();
    let restart = Ask::Restart { app: of(), service: None };
    for (ask, expected) in [
        (Ask::Status { app: None }, read.clone()),
        (Ask::Logs { app: of(), service: None, lines: 9, follow: true }, read.clone()),
        (Ask::Events(EventsQuestion::default()), read.clone()),
        (Ask::Acting, read.clone()),
        (Ask::Checkup, read.clone()),
        (Ask::Differs { app: of() }, read),
        (restart, act("restart web --member alpha")),
        (Ask::Secrets { app: of(), document: Digest::of_bytes(b"a") }, None),
        (Ask::Sign { path: "/etc".into(), ignore: vec![] }, None),
    ] {
        assert_eq!(permit::ask(Some(&alpha), &ask).ok(), expected, "{ask:?}");
    }
    let publish = Publish::new("/srv/www");
    assert_eq!(Some(permit::publish(&publish)), act("publish /srv/www"));
}
