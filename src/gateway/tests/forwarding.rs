//! Requests that another member answers, over pipes in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use super::fake::{Client, FakeForward, FakeSite, FakeSites, Peer, Server, member, noise, remote};
use crate::{
    base::MemberId,
    gateway::{Stats, connection::Limits, serve_forwarded},
};

/// A gateway that holds nothing and knows `peers` as holders, in that order.
async fn behind(peers: Vec<Peer>) -> (Server, Arc<FakeForward>) {
    let ids: Vec<MemberId> = (1..=peers.len() as u8).map(member).collect();
    let peers: BTreeMap<MemberId, Peer> = ids.iter().copied().zip(peers).collect();
    let forward = Arc::new(FakeForward { peers, ..FakeForward::default() });
    let sites = FakeSites::new(move |_| remote(&ids));
    let limits = Limits {
        stall: Duration::from_millis(200),
        connect: Duration::from_millis(200),
        answer: Duration::from_millis(300),
        ..Limits::default()
    };
    (Server::with(sites, forward.clone(), limits).await, forward)
}

fn says(text: &str) -> Peer {
    Peer::Says(text.as_bytes().to_vec())
}

#[tokio::test]
async fn a_holder_answers_through_us() {
    let content = noise(3_000_000, 20);
    let site = Arc::new(FakeSite::new(4, &[("f", &content), ("s.txt", b"small")]));
    let (server, forward) = behind(vec![Peer::Serves(FakeSites::local(site.clone()))]).await;
    let mut client = server.connect().await;
    for (live, path, body) in
        [(true, "/f", &content[..]), (false, "/f", &content[..]), (true, "/s.txt", b"small")]
    {
        site.live_fit.store(live, SeqCst);
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let reply = client.reply(false).await;
        assert_eq!((reply.status, reply.header("althing-version")), (200, Some("shop/4")));
        assert_eq!(reply.header("connection"), None, "the client's connection stays");
        assert!(reply.body == body, "{path}");
    }
    client.send("HEAD /f HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.reply(true).await.header("content-length"), Some("3000000"));
    client.send("GET /f HTTP/1.1\r\nHost: a\r\nRange: bytes=5-9\r\n\r\n").await;
    let part = client.reply(false).await;
    assert_eq!((part.status, &part.body[..]), (206, &content[5..10]));
    let tag = part.header("etag").unwrap();
    client.send(&format!("GET /f HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n")).await;
    assert_eq!(client.reply(false).await.status, 304);
    client.send("GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.reply(false).await.status, 404);
    assert_eq!(client.rest().await, b"");

    let (here, there) = (server.stats.snapshot(), forward.stats.snapshot());
    assert_eq!((here.requests, here.forwarded, here.errors), (7, 7, 0));
    assert_eq!((there.requests, there.received, there.errors), (7, 7, 0));
    assert_eq!((here.responses_2xx, here.responses_3xx, here.responses_4xx), (5, 1, 1));
}

#[tokio::test]
async fn the_next_holder_is_asked_where_one_says_nothing_sensible() {
    let site = Arc::new(FakeSite::new(4, &[("a", b"here")]));
    for first in [
        Peer::Away,
        Peer::HangsUp,
        Peer::Silent,
        says("HTTP/1.1 200 OK\r\nContent-Le"),
        says("SSH-2.0-nothing\r\n"),
        // It does not hold the site after all: never forwarded a second time.
        Peer::Serves(FakeSites::new(|_| remote(&[member(2)]))),
    ] {
        let second = Peer::Serves(FakeSites::local(site.clone()));
        let (server, forward) = behind(vec![first, second]).await;
        // Which of them is asked first is drawn.
        let mut asked = 0;
        while !forward.asked.lock().unwrap().contains(&member(1)) {
            let reply = server.get("/a").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "here"));
            asked += 1;
        }
        let stats = server.stats.snapshot();
        assert_eq!((stats.forwarded, stats.forward_failures, stats.errors), (asked, 1, 0));
    }
}

#[tokio::test]
async fn nobody_left_is_a_503_in_plain_words() {
    for peers in [vec![], vec![Peer::Away], vec![Peer::HangsUp, Peer::Away, Peer::HangsUp]] {
        let (server, _) = behind(peers).await;
        let mut client = server.connect().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let reply = client.reply(false).await;
            assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
            assert!(reply.text().contains("try again"));
        }
    }
}

#[tokio::test]
async fn a_holder_that_stops_in_the_middle_cuts_the_connection() {
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"] {
        let (server, _) = behind(vec![says(head)]).await;
        let mut client = server.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status, 200);
        assert_eq!(client.rest().await, b"12345");
        assert_eq!(server.stats.snapshot().errors, 1);
    }
}

#[tokio::test]
async fn nothing_of_a_holder_s_connection_reaches_the_client() {
    let text = "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\nKeep-Alive: 1\r\nX: y\r\n\
                Content-Length: 2\r\n\r\nokHTTP/1.1 200 Smuggled\r\n\r\n";
    let (server, forward) = behind(vec![says(text)]).await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        client.send("GET /x?y HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n").await;
        let reply = client.reply(false).await;
        assert_eq!((reply.text().as_str(), reply.header("x")), ("ok", Some("y")));
        assert_eq!(reply.header("server"), Some("x"));
        assert_eq!((reply.header("connection"), reply.header("keep-alive")), (None, None));
    }
    let heads = forward.heads.lock().unwrap();
    assert!(heads[0].starts_with("GET /x?y HTTP/1.1\r\nHost: a\r\n"), "{}", heads[0]);
    assert!(heads[0].contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{}", heads[0]);
    assert!(!heads[0].contains("6.6.6.6"));
}

#[tokio::test]
async fn a_forwarded_stream_carries_one_request() {
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, &[("a", b"here")])));
    for (request, status) in [
        ("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET /a HTTP/1.1\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ] {
        let (near, far) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(serve_forwarded(far, sites.clone(), Arc::new(Stats::default())));
        let mut client = Client::new(near);
        client.send(request).await;
        let reply = client.reply(false).await;
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")));
        assert_eq!(client.rest().await, b"");
        served.await.unwrap();
    }
}
