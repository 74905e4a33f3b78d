//! What operators bring: who may, in what kind of body, and what is told of it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Doors,
    sample::{self, Fake},
};
use crate::{
    base::{
        AppName, Digest, Reason, RelPath,
        operator::OperatorToken,
        tree::{Chunk, Entry, Node, Tree},
        wire::{self, Kind},
    },
    node::uploads::{
        Next, Offer, Reply, Uploads,
        lists::{self, MEDIA_TYPE, OFFER_MAX},
    },
    proto::replication::IHaveList,
    store::ContentStore,
};

/// A member that takes content, or none.
async fn doors(allowed: bool) -> (Doors, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let mut fake = Fake::new(sample::view(), sample::events());
    fake.uploads = Some(Uploads::new(store, allowed));
    (Doors::open_to(fake).await, dir)
}

fn tree() -> Tree {
    let chunk = Chunk { digest: Digest::of_bytes(b"hello"), len: 5 };
    let node = Node::File { mode: 0o644, size: 5, digest: chunk.digest, chunks: vec![chunk] };
    Tree::new(vec![Entry { path: RelPath::parse(b"a").unwrap(), node }]).unwrap()
}

fn offer() -> Vec<u8> {
    let offer = Offer {
        root: tree().root(),
        app: AppName::parse("shop").ok(),
        source: "/home/alice/shop".to_owned(),
        message: String::new(),
        base: None,
        hosts: vec![],
        manifest: None,
    };
    wire::encode(Kind::Message, &offer)
}

fn listed() -> Vec<u8> {
    wire::encode(Kind::Tree, &IHaveList::new(tree()))
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let chunk = Chunk { digest: Digest::of_bytes(bytes), len: bytes.len() as u32 };
    lists::pack([(chunk, bytes)])
}

impl Doors {
    async fn bring(&self, kind: &str, below: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let stream = TcpStream::connect(self.status).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let token = OperatorToken::new([7; 32]).to_text();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/api/v1/bring{below}"))
            .header(header::HOST, "127.0.0.1:7780")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(Bytes::from(body)));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn replied(&self, below: &str, body: Vec<u8>) -> Reply {
        let (status, bytes) = self.bring(MEDIA_TYPE, below, body).await;
        assert_eq!(status, StatusCode::OK, "{bytes:?}");
        Reply::decode(&bytes).unwrap()
    }

    async fn refused(&self, below: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let (status, bytes) = self.bring(MEDIA_TYPE, below, body).await;
        (status, serde_json::from_slice::<Value>(&bytes).unwrap()["error"].clone())
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn what_is_brought_is_told_first_and_published_as_whose_it_is() {
    let (doors, _dir) = doors(true).await;
    let begun = doors.replied("", offer()).await;
    assert_eq!(begun.next, Next::List);
    let words = "alice: publish /home/alice/shop --app shop (by the status port)";
    assert_eq!(doors.told(), [format!("tell Info: {words}")]);
    let at = |what: &str| format!("/{}/{what}", begun.upload);
    let reply = doors.replied(&at("have"), listed()).await;
    assert!(matches!(reply.next, Next::Chunks(_)) && reply.lacks.bytes == 5, "{reply:?}");
    assert_eq!(doors.replied(&at("update"), packed(b"hello")).await.next, Next::Publish);
    let (status, answer) = doors.bring("application/json", &at("publish"), vec![]).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, &answer["ok"]["done"]["sequence"]), (StatusCode::OK, &json!(43)));
    assert_eq!(doors.told(), ["publish 1 files by alice after 1"]);
    let (status, refusal) = doors.refused(&at("update"), packed(b"hello")).await;
    assert_eq!((status, &refusal["reason"]), (StatusCode::NOT_FOUND, &json!("not-found")));

    // What goes wrong on the way is told with what it follows from.
    let begun = doors.replied("", offer()).await;
    let at = |what: &str| format!("/{}/{what}", begun.upload);
    doors.replied(&at("have"), listed()).await;
    let (status, _) = doors.refused(&at("update"), packed(b"other")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let told = doors.told();
    assert!(told[1].starts_with(&format!("tell Warning because of 1: {words} was not done: ")));
    let begun = doors.replied("", offer()).await;
    let at = |what: &str| format!("/{}/{what}", begun.upload);
    let (status, _) = doors.bring("application/json", &at("publish"), vec![]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nothing has come");
    doors.told();

    // Nor is it published where the member refuses.
    doors.replied("", offer()).await;
    let begun = doors.replied("", offer()).await;
    let at = |what: &str| format!("/{}/{what}", begun.upload);
    assert_eq!(doors.replied(&at("have"), listed()).await.next, Next::Publish);
    *doors.fake.refusal.lock().unwrap() = Some(sample::refusal(Reason::NoMajority));
    let (status, _) = doors.bring("application/json", &at("publish"), vec![]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(doors.told().last().unwrap().contains("was not done: What happened."));
    doors.close().await;
}

#[tokio::test]
async fn nobody_brings_anything_where_that_is_off_or_in_another_way() {
    let (doors, _dir) = doors(false).await;
    let (status, refusal) = doors.refused("", offer()).await;
    assert_eq!((status, &refusal["reason"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    let told = doors.told();
    assert!(told.len() == 1 && told[0].starts_with("tell Warning: alice, by the status port: "));
    // A kind of body that a page of another site can send, and one of other routes.
    for kind in ["text/plain", "application/json", "multipart/form-data"] {
        let (status, _) = doors.bring(kind, "", offer()).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    let (status, _) = doors.bring(MEDIA_TYPE, "/0/publish", vec![]).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for body in [vec![], vec![1; 300], vec![0; OFFER_MAX + 1]] {
        let (status, refusal) = doors.refused("", body).await;
        assert_eq!((status, &refusal["reason"]), (StatusCode::BAD_REQUEST, &json!("invalid")));
    }
    for id in ["0", "..", "%2e%2e", &"f".repeat(32)] {
        let (status, _) = doors.bring(MEDIA_TYPE, &format!("/{id}/update"), packed(b"x")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    assert!(doors.told().is_empty(), "none of this reached the member");
    // The socket does not know it.
    let response = doors.socket(Method::POST, "/api/v1/bring", "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    doors.close().await;
}
