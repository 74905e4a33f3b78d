//! Over TCP on loopback: what arrives is what the tree says, byte for byte,
//! or the connection ends.

use std::{
    io::Read,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, SystemTime},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fake::{FakeForward, FakeSite, FakeSites, Server, noise};
use crate::gateway::{Route, connection::Limits};

/// More than the buffers of both sockets can hold, so that most of it is
/// still to be sent while the client does not read.
const LARGE: usize = 32 << 20;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

async fn serve(site: FakeSite) -> (Arc<FakeSite>, Server) {
    let site = Arc::new(site);
    (site.clone(), Server::start(FakeSites::local(site)).await)
}

#[tokio::test]
async fn files_of_every_size_arrive_byte_for_byte() {
    for size in [0, 1, 1_000, 65_535, 65_536, 65_537, 300_000, 300_001, 5_000_000] {
        let content = noise(size, 1);
        let (site, server) = serve(FakeSite::new(3, &[("f.bin", &content)])).await;
        let mut client = server.connect().await;
        for from_chunks in [false, true] {
            site.live_fit.store(!from_chunks, SeqCst);
            client.send(&get("/f.bin")).await;
            let reply = client.reply(false).await;
            assert_eq!(reply.status, 200);
            assert!(reply.body == content, "{size} bytes, from chunks: {from_chunks}");
        }
        let stats = server.stats.snapshot();
        assert_eq!((stats.connections, stats.requests, stats.responses_2xx), (1, 2, 2));
        assert_eq!((stats.bytes, stats.errors), (2 * size as u64, 0));
        assert_eq!(stats.from_chunks, u64::from(size > 0));
    }
}

#[tokio::test]
async fn every_response_says_who_and_what() {
    let (_site, server) = serve(FakeSite::new(3, &[("f.txt", b"x")])).await;
    for (path, status) in [("/f.txt", 200), ("/none", 404), ("/%", 400)] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("server"), Some("althing"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("althing-version"), Some("shop/3"));
        httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
        assert_eq!(reply.header("last-modified"), None);
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (site, server) = serve(FakeSite::new(1, &[("f.bin", &noise(100_000, 2))])).await;
    let mut client = server.connect().await;
    client.send("HEAD /f.bin HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.reply(true).await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("100000")));
    client.send("HEAD /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.reply(true).await.status, 404);
    assert_eq!(client.rest().await, b"", "nothing stands where a body would");
    assert_eq!(site.opened.load(SeqCst), 0, "no file was touched");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let large = noise(400_000, 3);
    let (_site, server) =
        serve(FakeSite::new(1, &[("a", b"first"), ("b", &large), ("c", b"third")])).await;
    let mut client = server.connect().await;
    let none = "HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(&[&get("/a"), &get("/b"), none, &get("/none"), &get("/c")].concat()).await;
    assert_eq!(client.reply(false).await.body, b"first");
    assert!(client.reply(false).await.body == large);
    assert_eq!(client.reply(true).await.status, 200);
    assert_eq!(client.reply(false).await.status, 404);
    assert_eq!(client.reply(false).await.body, b"third");
    assert_eq!(server.stats.snapshot().connections, 1);
}

#[tokio::test]
async fn a_head_may_come_in_pieces() {
    let (_site, server) = serve(FakeSite::new(1, &[("a", b"first")])).await;
    let mut client = server.connect().await;
    for piece in ["\r\nG", "ET /a HTTP", "/1.1\r\nHost: a\r", "\n\r", "\nGET /no"] {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply(false).await.body, b"first");
    client.send("ne HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.reply(false).await.status, 404);
}

#[tokio::test]
async fn validation_ranges_and_gzip() {
    let text = "words, words\n".repeat(40_000);
    let (_site, server) = serve(FakeSite::new(1, &[("t.txt", text.as_bytes())])).await;
    let plain = server.get("/t.txt").await;
    assert_eq!(plain.text(), text);
    let tag = plain.header("etag").unwrap().to_owned();
    let with = |lines: &str| format!("GET /t.txt HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");

    let same = server.ask(&with(&format!("If-None-Match: {tag}"))).await;
    assert_eq!((same.status, same.header("content-length")), (304, None));

    let part = server.ask(&with("Range: bytes=100000-399999")).await;
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), Some("bytes 100000-399999/520000"));
    assert!(part.body == text.as_bytes()[100_000..400_000]);
    assert_eq!(server.ask(&with("Range: bytes=520000-")).await.status, 416);

    let head = "HEAD /t.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    assert_eq!(server.ask(head).await.header("content-length"), None, "not known yet");
    for _ in 0..2 {
        let packed = server.ask(&with("Accept-Encoding: gzip")).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert_ne!(packed.header("etag"), Some(tag.as_str()));
        assert!(packed.body.len() < text.len() / 20);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut back).unwrap();
        assert!(back == text);
    }
    let known = server.ask(head).await;
    assert!(known.header("content-length").is_some_and(|l| l != "520000"), "{known:?}");
}

#[tokio::test]
async fn ranges_come_from_chunks_too() {
    let content = noise(1_000_000, 4);
    let (site, server) = serve(FakeSite::new(1, &[("f", &content)])).await;
    site.live_fit.store(false, SeqCst);
    for (first, last) in [(0, 0), (299_999, 300_000), (300_000, 599_999), (1, 999_999)] {
        let request = format!("GET /f HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-{last}\r\n\r\n");
        assert!(server.ask(&request).await.body == content[first..=last], "{first}-{last}");
    }
}

#[tokio::test]
async fn a_live_file_that_differs_is_never_sent() {
    let (small, large) = (noise(1_000, 5), noise(200_000, 6));
    let text = "other words\n".repeat(1_000);
    let files: [(&str, &[u8]); 3] = [("s", &small), ("l", &large), ("t.css", text.as_bytes())];
    let (site, server) = serve(FakeSite::new(1, &files)).await;
    // The same length but other bytes, unseen by whoever vouches for the file;
    // and shorter than recorded.
    std::fs::write(site.place("s"), noise(1_000, 7)).unwrap();
    std::fs::write(site.place("l"), &large[..100_000]).unwrap();
    std::fs::write(site.place("t.css"), text.to_uppercase()).unwrap();
    assert!(server.get("/s").await.body == small);
    assert!(server.get("/l").await.body == large);
    let zip = "GET /t.css HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    let mut back = String::new();
    let packed = server.ask(zip).await.body;
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut back).unwrap();
    assert!(back == text);
    let stats = server.stats.snapshot();
    assert_eq!((stats.from_chunks, stats.errors), (3, 0));
    assert_eq!(site.opened.load(SeqCst), 3);
}

#[tokio::test]
async fn content_that_can_t_be_read_is_a_503_or_a_cut() {
    let content = noise(1_000_000, 8);
    let (site, server) = serve(FakeSite::new(1, &[("f", &content), ("s", b"small")])).await;
    site.live_fit.store(false, SeqCst);
    site.chunks_left.store(0, SeqCst);
    for path in ["/f", "/s"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
        assert_eq!(reply.header("etag"), None);
        assert!(reply.text().contains("repaired"));
    }
    site.chunks_left.store(2, SeqCst);
    let mut client = server.connect().await;
    client.send(&get("/f")).await;
    let head = client.head().await;
    assert_eq!(head.header("content-length"), Some("1000000"));
    assert!(client.rest().await == content[..600_000], "two chunks, and no padding");
    assert_eq!(server.stats.snapshot().errors, 3);
}

/// Begins to read a large file, lets `change` happen, and reads what comes.
/// What comes must be the beginning of the file, and is counted.
async fn changed_meanwhile(change: impl FnOnce(&FakeSite)) -> (usize, Server) {
    let content = noise(LARGE, 9);
    let (site, server) = serve(FakeSite::new(1, &[("f", &content)])).await;
    let mut client = server.connect().await;
    client.send(&get("/f")).await;
    assert_eq!(client.head().await.status, 200);
    change(&site);
    let came = client.rest().await;
    assert!(client.reset, "what is queued is thrown away");
    assert!(content.starts_with(&came), "bytes that the file never had");
    (came.len(), server)
}

#[tokio::test]
async fn a_file_cut_short_while_it_is_sent_ends_the_connection() {
    let (came, server) = changed_meanwhile(|site| {
        let file = std::fs::File::options().write(true).open(site.place("f")).unwrap();
        file.set_len(LARGE as u64 - 4096).unwrap();
    })
    .await;
    assert!(came < LARGE - 5_000, "{came}");
    server.until(|stats| stats.errors == 1 && stats.connections_active == 0).await;
}

#[tokio::test]
async fn a_file_written_to_while_it_is_sent_ends_the_connection() {
    let (came, server) = changed_meanwhile(|site| {
        let file = std::fs::File::options().write(true).open(site.place("f")).unwrap();
        file.write_all_at(b"other", LARGE as u64 - 5).unwrap();
        // File times move by the kernel's tick; this one is surely another.
        file.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
    })
    .await;
    assert!(came < LARGE - 5_000, "{came}");
    server.until(|stats| stats.errors == 1 && stats.connections_active == 0).await;
}

#[tokio::test]
async fn a_response_stays_with_the_version_it_began_with() {
    let (one, two) = (noise(LARGE, 10), noise(LARGE, 11));
    let first = Arc::new(FakeSite::new(1, &[("f", &one)]));
    let second = Arc::new(FakeSite::new(2, &[("f", &two)]));
    let place = first.place("f");
    let sites = FakeSites::local(first);
    let server = Server::start(sites.clone()).await;
    let mut client = server.connect().await;
    client.send(&get("/f")).await;
    let head = client.head().await;
    assert_eq!(head.header("althing-version"), Some("shop/1"));
    sites.change(move |_| Route::Local(second.clone()));
    // As the driver does it: the old file is moved aside or unlinked.
    std::fs::remove_file(&place).unwrap();
    client.send(&get("/f")).await;
    assert!(client.body(&head).await == one);
    let next = client.reply(false).await;
    assert_eq!(next.header("althing-version"), Some("shop/2"));
    assert!(next.body == two);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_closed() {
    let (_site, server) = serve(FakeSite::new(1, &[("a", b"first")])).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("\x16\x03\x01\x02", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nbad\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (&long, 431),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 405),
    ];
    for (request, status) in cases {
        let mut client = server.connect().await;
        // A second request must not be answered: where it starts is unknown.
        client.send(&[request, &get("/a")].concat()).await;
        let reply = client.reply(false).await;
        assert_eq!(reply.status, status, "{request:?}");
        assert_eq!(reply.header("connection"), Some("close"), "{request:?}");
        assert_eq!(reply.header("allow").is_some(), status == 405);
        assert_eq!(client.rest().await, b"", "{request:?}");
    }
    let stats = server.stats.snapshot();
    assert_eq!((stats.requests, stats.responses_2xx, stats.errors), (10, 0, 0));
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let (_site, server) = serve(FakeSite::new(1, &[("a", b"first")])).await;
    let mut client = server.connect().await;
    let body = "x".repeat(100_000);
    client
        .send(&format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}"))
        .await;
    assert_eq!(client.reply(false).await.status, 405);
    // A socket closed over unread bytes would end with a reset instead.
    assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0);
    client.stream.shutdown().await.unwrap();
    server.until(|stats| stats.connections_active == 0).await;
}

#[tokio::test]
async fn other_methods_without_a_body_keep_the_connection() {
    let (_site, server) = serve(FakeSite::new(1, &[("a", b"first")])).await;
    let mut client = server.connect().await;
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nDELETE /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for _ in 0..2 {
        let reply = client.reply(false).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    }
    client.send(&get("/a")).await;
    assert_eq!(client.reply(false).await.body, b"first");
}

#[tokio::test]
async fn http_1_0_closes_unless_asked_to_stay() {
    let (_site, server) = serve(FakeSite::new(1, &[("a", b"first")])).await;
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!(client.reply(false).await.header("connection"), Some("keep-alive"));
    client.send("GET /a HTTP/1.0\r\n\r\n").await;
    let reply = client.reply(false).await;
    assert_eq!((reply.header("connection"), reply.text().as_str()), (Some("close"), "first"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn the_host_chooses_the_site() {
    let site = Arc::new(FakeSite::new(1, &[("a", b"first")]));
    let sites = FakeSites::new(move |host| match host {
        Some("site.example") => Route::Local(site.clone()),
        host => Route::Unavailable { status: 404, why: format!("No site <{host:?}>.") },
    });
    let server = Server::start(sites).await;
    for (request, status) in [
        ("GET /a HTTP/1.1\r\nHost: Site.Example:80\r\n\r\n", 200),
        ("GET http://site.example./a HTTP/1.1\r\nHost: b\r\n\r\n", 200),
        ("GET /a HTTP/1.1\r\nHost: b\r\n\r\n", 404),
        ("GET /a HTTP/1.0\r\n\r\n", 404),
    ] {
        let reply = server.ask(request).await;
        assert_eq!(reply.status, status, "{request:?}");
        assert_eq!(reply.header("althing-version").is_some(), status == 200);
    }
    assert!(server.get("/a").await.text().contains("No site &lt;Some(&quot;a&quot;)&gt;."));
}

async fn limited(files: &[(&str, &[u8])], limits: Limits) -> Server {
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, files)));
    Server::with(sites, FakeForward::default().into(), limits).await
}

#[tokio::test]
async fn what_takes_too_long_ends() {
    let short = Duration::from_millis(50);
    let limits = Limits { idle: short, head: short, ..Limits::default() };
    let server = limited(&[("a", b"first")], limits).await;
    let mut silent = server.connect().await;
    assert_eq!(silent.rest().await, b"", "an idle connection ends without a word");
    let mut slow = server.connect().await;
    slow.send("GET /a HTT").await;
    let reply = slow.reply(false).await;
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert_eq!(slow.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let limits = Limits { stall: Duration::from_millis(50), ..Limits::default() };
    let content = noise(LARGE, 12);
    let server = limited(&[("f", &content)], limits).await;
    let mut client = server.connect().await;
    client.send(&get("/f")).await;
    server.until(|stats| stats.errors == 1 && stats.connections_active == 0).await;
    let came = client.rest().await.len();
    assert!(came < LARGE, "{came}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let limits =
        Limits { connections: 1, idle_crowded: Duration::from_secs(60), ..Limits::default() };
    let server = limited(&[("a", b"first")], limits).await;
    let mut first = server.connect().await;
    first.send(&get("/a")).await;
    assert_eq!(first.reply(false).await.status, 200);
    let mut second = server.connect().await;
    second.send(&get("/a")).await;
    for _ in 0..3 {
        first.send(&get("/a")).await;
        assert_eq!(first.reply(false).await.status, 200);
    }
    assert_eq!(server.stats.snapshot().connections, 1, "the second waits in the kernel");
    drop(first);
    assert_eq!(second.reply(false).await.status, 200);
    assert_eq!(server.stats.snapshot().connections, 2);
}

#[tokio::test]
async fn idle_connections_make_room_when_all_places_are_taken() {
    let limits =
        Limits { connections: 1, idle_crowded: Duration::from_millis(50), ..Limits::default() };
    let server = limited(&[("a", b"first")], limits).await;
    let mut idle = server.connect().await;
    idle.send(&get("/a")).await;
    assert_eq!(idle.reply(false).await.status, 200);
    let mut waiting = server.connect().await;
    waiting.send(&get("/a")).await;
    assert_eq!(waiting.reply(false).await.status, 200);
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way() {
    let content = noise(LARGE, 13);
    let server = limited(&[("f", &content)], Limits::default()).await;
    let mut idle = server.connect().await;
    idle.send(&get("/none")).await;
    assert_eq!(idle.reply(false).await.status, 404);
    let mut busy = server.connect().await;
    busy.send(&get("/f")).await;
    let head = busy.head().await;
    assert_eq!(head.header("connection"), None);
    server.shutdown.cancel();
    assert_eq!(idle.rest().await, b"", "nothing was under way here");
    assert!(busy.rest().await == content);
    server.ended.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let content = noise(LARGE, 14);
    let limits = Limits { grace: Duration::from_millis(50), ..Limits::default() };
    let server = limited(&[("f", &content)], limits).await;
    let mut busy = server.connect().await;
    busy.send(&get("/f")).await;
    busy.head().await;
    server.shutdown.cancel();
    server.ended.await.unwrap();
    assert_eq!(server.stats.snapshot().connections_active, 0);
    assert!(busy.rest().await.len() < LARGE);
}

#[tokio::test]
async fn a_route_is_taken_for_each_request_anew() {
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, &[("a", b"first")])));
    let server = Server::start(sites.clone()).await;
    let mut client = server.connect().await;
    client.send(&get("/a")).await;
    assert_eq!(client.reply(false).await.text(), "first");
    let next = Arc::new(FakeSite::new(2, &[("a", b"second")]));
    sites.change(move |_| Route::Local(next.clone()));
    client.send(&get("/a")).await;
    let reply = client.reply(false).await;
    assert_eq!(
        (reply.text().as_str(), reply.header("althing-version")),
        ("second", Some("shop/2"))
    );
}

#[tokio::test]
async fn a_dropped_gateway_leaves_no_connection_behind() {
    let server = limited(&[("a", b"first")], Limits::default()).await;
    let mut client = server.connect().await;
    client.send(&get("/a")).await;
    assert_eq!(client.reply(false).await.status, 200);
    server.ended.abort();
    assert_eq!(client.rest().await, b"");
    server.until(|stats| stats.connections_active == 0).await;
}

/// Skew protection: a page of an earlier version finds its own files, and nothing else of it.
#[tokio::test]
async fn pages_of_an_earlier_version_find_their_files() {
    let hashed = "app.3f9c2b71.js";
    let first = FakeSite::new(1, &[(hashed, b"first"), ("old.html", b"old"), ("plain.js", b"p")]);
    let mut second = FakeSite::new(2, &[("app.77aa01bc.js", b"second")]);
    second.earlier.push(Arc::new(first));
    let server = Server::start(FakeSites::local(Arc::new(second))).await;
    let old = server.get(&format!("/{hashed}")).await;
    assert_eq!((old.status, old.text().as_str()), (200, "first"));
    assert_eq!(old.header("althing-version"), Some("shop/1"));
    let new = server.get("/app.77aa01bc.js").await;
    assert_eq!((new.text().as_str(), new.header("althing-version")), ("second", Some("shop/2")));
    for gone in ["/old.html", "/plain.js", "/other.3f9c2b71.js", "/app.3f9c2b71.js/"] {
        let reply = server.get(gone).await;
        assert_eq!(
            (reply.status, reply.header("althing-version")),
            (404, Some("shop/2")),
            "{gone}"
        );
    }
}
