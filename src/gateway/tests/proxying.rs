//! Requests that programs answer, over real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::fake::{Client, FakeForward, FakeSites, Peer, Server, backends, member};
use crate::{
    base::MemberId,
    gateway::{Backends, Route, connection::Limits},
};

pub(super) fn sites(here: Option<SocketAddr>, others: &[MemberId]) -> Arc<FakeSites> {
    let others = others.to_vec();
    FakeSites::new(move |_| Route::Service(backends(here, &others)))
}

/// A program that does `serve` with each connection.
pub(super) async fn program<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// Says of each request how many its connection has had before, and the head itself.
pub(super) async fn tells(mut stream: TcpStream, number: usize) {
    for count in 0.. {
        let Some(head) = head_of(&mut stream).await else { return };
        let mut body = vec![0; length(&head)];
        stream.read_exact(&mut body).await.unwrap();
        let text = format!("{number} {count} {head}{}", String::from_utf8(body).unwrap());
        let answer = format!(
            "HTTP/1.1 200 Fine\r\nX-Own: y\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    line.map_or(0, |digits| digits.parse().unwrap())
}

async fn server(here: Option<SocketAddr>) -> Server {
    Server::start(sites(here, &[])).await
}

async fn with(
    here: Option<SocketAddr>,
    peers: impl IntoIterator<Item = (MemberId, Peer)>,
) -> (Server, Arc<FakeForward>) {
    let forward = FakeForward { peers: peers.into_iter().collect(), ..FakeForward::default() };
    let (others, forward) = (forward.peers.keys().copied().collect::<Vec<_>>(), Arc::new(forward));
    (Server::with(sites(here, &others), forward.clone(), Limits::default()).await, forward)
}

#[tokio::test]
async fn requests_share_connections_on_both_sides() {
    let server = server(Some(program(tells).await)).await;
    let mut client = server.connect().await;
    for count in 0..3 {
        client.send("POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
        let reply = client.reply(false).await;
        assert_eq!((reply.status, reply.header("x-own")), (200, Some("y")));
        assert!(reply.header("date").is_some());
        let text = reply.text();
        assert!(
            text.starts_with(&format!("0 {count} POST /x?y HTTP/1.1\r\nHost: a\r\n")),
            "{text}"
        );
        assert!(text.contains("X-Forwarded-For: 127.0.0.1\r\n") && text.ends_with("body"));
    }
    // Two that arrive together are answered in order.
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.reply(false).await.text().contains("GET /1 "));
    assert!(client.reply(false).await.text().contains("GET /2 "));
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let reply = server.ask(head).await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
}

#[tokio::test]
async fn a_connection_that_the_program_has_closed_is_not_used() {
    let address = program(|mut stream, number| async move {
        if head_of(&mut stream).await.is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = server(Some(address)).await;
    for number in 0..3 {
        assert_eq!(server.get("/").await.text(), number.to_string());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    // An echo that answers before it has read anything, piece by piece.
    let address = program(|mut stream, _| async move {
        head_of(&mut stream).await;
        let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(start).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let server = server(Some(address)).await;
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(head.header("connection"), Some("close"), "its body is not read yet");
    let piece = "x".repeat(100_000);
    let mut all = String::new();
    let (mut from, mut to) = client.stream.into_split();
    let writes = async {
        for _ in 0..40 {
            let chunk = format!("{:x};a=b\r\n{piece}\r\n", piece.len());
            to.write_all(chunk.as_bytes()).await.unwrap();
        }
        to.write_all(b"0\r\nTrailer: x\r\n\r\n").await.unwrap();
    };
    let (_, _) = tokio::join!(writes, from.read_to_string(&mut all));
    let content: usize = all.matches('x').count();
    assert_eq!(content, 40 * piece.len());
    assert!(all.ends_with("\r\n0\r\n\r\n") && !all.contains("Trailer") && !all.contains(";a"));
}

#[tokio::test]
async fn whoever_speaks_http_1_0_learns_the_end_by_that_of_the_connection() {
    let address = program(|mut stream, _| async move {
        head_of(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let server = server(Some(address)).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(
        (head.header("transfer-encoding"), head.header("connection")),
        (None, Some("close"))
    );
    assert_eq!(client.rest().await, b"abc");
}

#[tokio::test]
async fn clients_that_wait_to_be_told_are_told_by_the_program() {
    let address = program(|mut stream, _| async move {
        let head = head_of(&mut stream).await.unwrap();
        assert!(head.contains("Expect: 100-continue\r\n"));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 3];
        stream.read_exact(&mut body).await.unwrap();
        let answer = [b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\n".as_slice(), &body];
        stream.write_all(&answer.concat()).await.unwrap();
    })
    .await;
    let server = server(Some(address)).await;
    let mut client = server.connect().await;
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.head().await.status, 100);
    client.send("abc").await;
    let reply = client.reply(false).await;
    assert_eq!((reply.status, reply.text().as_str()), (201, "abc"));
}

#[tokio::test]
async fn another_protocol_takes_the_connection_over() {
    let address = program(|mut stream, _| async move {
        let head = head_of(&mut stream).await.unwrap();
        assert!(head.contains("Connection: upgrade\r\nUpgrade: echo\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Now\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nhello ";
        stream.write_all(answer).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    })
    .await;
    // Once directly, once through another member.
    let direct = server(Some(address)).await;
    let (through, _) = with(None, [(member(1), Peer::Serves(sites(Some(address), &[])))]).await;
    for server in [direct, through] {
        let mut client = server.connect().await;
        client
            .send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("upgrade")), (101, Some("echo")));
        client.send("who is there").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"hello who is there");
    }
}

#[tokio::test]
async fn where_nobody_was_reached_the_next_one_is_asked() {
    // A port that nobody listens on.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = program(tells).await;
    let peers = [
        (member(1), Peer::Away),
        // It has no program either, and says so.
        (member(2), Peer::Serves(sites(None, &[]))),
        (member(3), Peer::Serves(sites(Some(address), &[]))),
    ];
    let (server, forward) = with(Some(gone), peers).await;
    for _ in 0..10 {
        let reply = server
            .ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Forwarded-For: 6.6.6.6\r\n\r\nhi")
            .await;
        assert_eq!(reply.status, 200);
        let text = reply.text();
        assert!(text.ends_with("hi") && text.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{text}");
        assert!(!text.contains("6.6.6.6"));
    }
    assert!(forward.asked.lock().unwrap().contains(&member(3)));
    let nobody = with(Some(gone), [(member(2), Peer::Serves(sites(None, &[])))]).await.0;
    let reply = nobody.get("/").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("althing-refused"), None, "that is between members");
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_asked_twice() {
    let address = program(|mut stream, number| async move {
        head_of(&mut stream).await;
        if number % 2 == 1 {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
        // The others are left without a word.
    })
    .await;
    let peer = || (member(1), Peer::Serves(sites(Some(address), &[])));
    let (server, _) = with(Some(address), [peer()]).await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(server.ask(post).await.status, 502);
    assert_eq!(server.ask(post).await.status, 200);
    // A GET is asked again, of the next.
    assert_eq!(server.get("/").await.status, 200);
}

#[tokio::test]
async fn nonsense_is_told_apart_from_silence_and_cut_bodies_are_cut() {
    for (answer, status) in [
        ("SSH-2.0-x\r\n", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 502),
        ("HTTP/1.1 101 Now\r\nUpgrade: x\r\n\r\n", 502),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 502),
    ] {
        let address = program(move |mut stream, _| async move {
            head_of(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        assert_eq!(server(Some(address)).await.get("/").await.status, status, "{answer:?}");
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let address = program(move |mut stream, _| async move {
            head_of(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let server = server(Some(address)).await;
        let mut client = server.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status, 200);
        let rest = client.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it would look whole: {rest:?}");
        server.until(|stats| stats.errors == 1).await;
    }
}

#[tokio::test]
async fn what_follows_a_body_is_the_next_request_and_nothing_else() {
    let server = server(Some(program(tells).await)).await;
    let mut client = server.connect().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        smuggled.len()
    );
    client.send(&text).await;
    let first = client.reply(false).await.text();
    assert!(first.contains("POST /1") && first.ends_with(smuggled));
    assert!(client.reply(false).await.text().contains("GET /2 "));
    // A chunked body that is malformed ends the connection, and reaches nobody as whole.
    let mut client = server.connect().await;
    client
        .send("POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n")
        .await;
    let reply = client.reply(false).await;
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    assert_eq!(Client::new(client.stream).rest().await, b"");
}

/// A route that leaves out its path does so for the program, not for other members: they
/// look for the route themselves.
#[tokio::test]
async fn only_the_program_is_asked_for_another_path() {
    let address = program(tells).await;
    let route = move |here: bool, others: &[MemberId]| {
        let path = Some("/x".to_owned());
        Route::Service(Backends { path, ..backends(here.then_some(address), others) })
    };
    let direct = Server::start(FakeSites::new(move |_| route(true, &[]))).await;
    assert!(direct.get("/api/x").await.text().contains(" GET /x HTTP/1.1"));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let peers = [(member(1), Peer::Says(answer))].into_iter().collect();
    let forward = Arc::new(FakeForward { peers, ..FakeForward::default() });
    let sites = FakeSites::new(move |_| route(false, &[member(1)]));
    let through = Server::with(sites, forward.clone(), Limits::default()).await;
    assert_eq!(through.get("/api/x").await.status, 200);
    assert!(forward.heads.lock().unwrap()[0].starts_with("GET /api/x HTTP/1.1\r\n"));
}

/// Leads to a program that takes bodies up to `body_max`.
pub(super) fn bounded(address: SocketAddr, body_max: u64) -> Arc<FakeSites> {
    FakeSites::new(move |_| {
        let body_max = Some(body_max);
        Route::Service(Backends { body_max, ..backends(Some(address), &[]) })
    })
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_anybody_is_asked() {
    let (asked, mut who) = tokio::sync::mpsc::unbounded_channel();
    let address = program(move |stream, number| {
        asked.send(number).unwrap();
        tells(stream, number)
    })
    .await;
    let server = Server::start(bounded(address, 5)).await;
    for lines in ["Content-Length: 6", "Content-Length: 6\r\nExpect: 100-continue"] {
        let mut client = server.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")).await;
        let reply = client.reply(false).await;
        assert_eq!((reply.status, reply.header("connection")), (413, Some("close")), "{lines}");
    }
    assert!(who.try_recv().is_err(), "the program was asked");
    // Up to there it is taken, also where its length is not said.
    let fine = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert!(server.ask(fine).await.text().ends_with("hello"));
    // And a member that holds nothing leaves it to those that do.
    let peers = [(member(1), Peer::Serves(bounded(address, 5)))];
    let through = with(None, peers).await.0;
    let long = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello!";
    assert_eq!(through.ask(long).await.status, 413);
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_where_it_is_too_long() {
    let waits = program(|mut stream, _| async move {
        head_of(&mut stream).await;
        let mut all = Vec::new();
        // It reads to the end, and never sees one.
        let _ = stream.read_to_end(&mut all).await;
        assert!(!all.ends_with(b"0\r\n\r\n"));
    })
    .await;
    let server = Server::start(bounded(waits, 5)).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = server.ask(&format!("{head}3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")).await;
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));

    // Where an answer has begun nothing else can be said: it is cut, and nothing put into it.
    let echo = program(|mut stream, _| async move {
        head_of(&mut stream).await;
        let begins = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
        stream.write_all(begins).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let server = Server::start(bounded(echo, 5)).await;
    for (number, rest) in ["3\r\nabc\r\n3\r\ndef\r\n", "+3\r\nabc\r\n"].iter().enumerate() {
        let mut client = server.connect().await;
        client.send(head).await;
        assert_eq!(client.head().await.status, 200);
        client.send(rest).await;
        assert_eq!(client.rest().await, b"1\r\nx\r\n", "{rest:?}");
        server.until(|stats| stats.errors == number as u64 + 1).await;
    }
}
