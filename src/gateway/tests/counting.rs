//! What is counted of a run of requests, by application and by origin, over HTTP/1.1 and
//! HTTP/2.

use std::{sync::Arc, time::Duration};

use super::{
    access::Named,
    fake::{FakeForward, FakeSite, FakeSites, Peer, Server, backends, member, noise, remote},
    front::trusting,
    http2::Pair,
    proxying::{program, sites, tells},
};
use crate::{
    base::WallTime,
    gateway::{Route, Stats, connection::Limits, tally::Totals},
};

/// What is counted of an application, once so many of its requests have ended.
async fn totals(stats: &Stats, app: &str, requests: u64) -> Totals {
    for _ in 0..2_000 {
        let found = stats.tally().totals().into_iter().find(|(name, _)| name.as_str() == app);
        if let Some((_, totals)) = found.filter(|(_, totals)| totals.requests >= requests) {
            return totals;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{app}: {:?}", stats.tally().totals());
}

fn numbers(totals: &Totals) -> [u64; 5] {
    let Totals { requests, errors, refused, forwarded, latencies, .. } = *totals;
    [requests, errors, refused, forwarded, latencies.count]
}

#[tokio::test]
async fn each_request_is_counted_once_where_its_client_asked() {
    let large = noise(200_000, 3);
    let site = Arc::new(FakeSite::new(3, &[("a.html", b"hello"), ("large", &large)]));
    let address = program(tells).await;
    let cut = program(|mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _asked = stream.read(&mut [0; 4_096]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    })
    .await;
    let switches = program(|mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _asked = stream.read(&mut [0; 4_096]).await;
        let begins = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabcd";
        stream.write_all(begins).await.unwrap();
    })
    .await;
    let peers = [(member(2), Peer::Serves(sites(Some(address), &[]))), (member(1), Peer::Away)];
    let forward = Arc::new(FakeForward { peers: peers.into(), ..FakeForward::default() });
    let by = move |address| Route::Service(backends(Some(address), &[]));
    let routes = FakeSites::new(move |host| match host {
        Some("files") => Route::Local(site.clone()),
        Some("here") => by(address),
        Some("cut") => by(cut),
        Some("switches") => by(switches),
        Some("away") => remote(&[member(1)]),
        Some("there") => remote(&[member(2)]),
        _ => Route::Unavailable { status: 404, why: "Nobody.".to_owned() },
    });
    let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
    let front = trusting("127.0.0.1");
    let server = Server::behind(front, Arc::new(Named(routes)), forward.clone(), limits).await;
    let origins = ["6.6.0.0/16", "MX"].map(|text| text.parse().unwrap());
    server.stats.tally().set_origins(origins.into());
    let of = |text: &str| text.replace("H:", "HTTP/1.1\r\nHost:") + "\r\n\r\n";
    let mut client = server.connect().await;
    for (request, status) in [
        ("GET /a.html H: files\r\nX-Forwarded-For: 6.6.6.6", 200),
        ("GET /large H: files", 200),
        ("HEAD /a.html H: files", 200),
        ("GET /none H: files", 404),
        ("GET /x H: here", 200),
        ("GET /y H: there", 200),
        ("GET / H: away", 503),
        ("GET / H: nobody", 404),
    ] {
        client.send(&of(request)).await;
        assert_eq!(client.reply(request.starts_with("HEAD")).await.status, status, "{request}");
    }
    // One that the program cuts, one that changes to another protocol, one whose client goes
    // before anything is answered.
    for request in ["GET / H: cut", "GET / H: switches\r\nConnection: upgrade\r\nUpgrade: x"] {
        let mut client = server.connect().await;
        client.send(&of(request)).await;
        client.rest().await;
    }
    let mut leaves = server.connect().await;
    leaves.send("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhal").await;
    drop(leaves);

    let all = totals(&server.stats, "shop", 11).await;
    assert_eq!(numbers(&all), [11, 2, 2, 1, 9]);
    let latencies = all.latencies;
    assert!(latencies.seconds > 0.0 && all.bytes > 200_005, "{all:?}");
    assert_eq!(latencies.within()[12], 9, "{all:?}");

    // Those that are no requests for anybody, and one that asks for nothing.
    assert_eq!(server.ask("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    assert_eq!(server.ask("GET / HT").await.status, 408);
    drop(server.connect().await);
    let taking = loop {
        let taking = server.stats.tally().take(WallTime(1));
        if taking.all.totals.requests == 13 {
            break taking;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(numbers(&taking.all.totals), [13, 2, 4, 1, 11]);
    assert_eq!(taking.apps.len(), 1);

    // The member that was asked by this one has nothing of its own to tell.
    assert_eq!((forward.stats.snapshot().received, forward.stats.snapshot().requests), (1, 1));
    assert!(forward.stats.tally().totals().is_empty());
    assert_eq!(forward.stats.tally().take(WallTime(1)).all.totals, Totals::default());

    // By the client that a proxy names; what can't be looked up is unknown.
    let [networks, mexico] = &server.stats.tally().origins()[..] else { panic!() };
    assert_eq!((networks.from, networks.elsewhere, networks.unknown), (1, 10, 0));
    assert_eq!((mexico.from, mexico.elsewhere, mexico.unknown), (0, 0, 11));
}

#[tokio::test]
async fn requests_of_http2_are_counted_as_the_others_are() {
    let site = FakeSite::new(3, &[("a.html", b"hello")]);
    let app = crate::gateway::Site::app(&site).to_string();
    let mut pair = Pair::new(FakeSites::local(Arc::new(site))).await;
    for _ in 0..3 {
        assert_eq!(pair.get("/a.html").await.1, b"hello");
    }
    assert_eq!(pair.get("/none").await.0.status(), 404);
    let all = totals(&pair.stats, &app, 4).await;
    assert_eq!(numbers(&all), [4, 0, 1, 0, 4]);
}
