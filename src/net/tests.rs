//! Members on loopback that talk, fail, return, and meet those that should not be there.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    identity::Identity,
    link::{Class, WELCOME},
    outbox::Tag,
    *,
};
use crate::base::Digest;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Node {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    key: SecretKey,
}

impl Node {
    fn new(seed: u8) -> Self {
        Self::at(seed, cluster(1), LOOPBACK)
    }

    fn at(seed: u8, cluster: ClusterId, bind: SocketAddr) -> Self {
        let key = SecretKey::from_seed([seed; 32]);
        let (net, events) = Net::bind(Config { bind, key: key.clone(), cluster }).unwrap();
        Self { net, events, key }
    }

    fn id(&self) -> MemberId {
        self.key.member()
    }

    fn peer(&self) -> (MemberId, Peer) {
        (self.id(), Peer { key: self.key.public(), address: self.net.local_addr() })
    }

    fn knows(&self, peers: impl IntoIterator<Item = (MemberId, Peer)>) {
        self.net.set_peers(peers.into_iter().collect());
    }

    async fn next(&mut self) -> NetEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap()
    }

    /// The next datagram, past whatever else comes.
    async fn next_datagram(&mut self) -> (MemberId, Vec<u8>) {
        loop {
            if let NetEvent::Datagram { from, bytes } = self.next().await {
                return (from, bytes);
            }
        }
    }

    async fn next_message(&mut self) -> (MemberId, Vec<u8>) {
        loop {
            if let NetEvent::Message { from, bytes } = self.next().await {
                return (from, bytes);
            }
        }
    }

    async fn lost(&mut self) -> MemberId {
        loop {
            if let NetEvent::Lost { member } = self.next().await {
                return member;
            }
        }
    }
}

fn cluster(n: u8) -> ClusterId {
    ClusterId(Digest([n; 32]))
}

/// Two members that know each other.
fn pair() -> (Node, Node) {
    let (a, b) = (Node::new(1), Node::new(2));
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    (a, b)
}

/// Sends datagrams until one arrives, as SWIM does.
async fn reach(from: &Node, to: &mut Node) {
    let sending = async {
        loop {
            from.net.datagram(to.key.member(), b"probe".to_vec());
            sleep(Duration::from_millis(20)).await;
        }
    };
    let heard = async {
        loop {
            match to.events.recv().await.unwrap() {
                NetEvent::Datagram { from: sender, .. } if sender == from.id() => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = sending => unreachable!("it never ends"),
        heard = timeout(PATIENCE, heard) => heard.expect("a datagram in time"),
    }
}

#[tokio::test]
async fn two_members_exchange_datagrams_messages_and_streams() {
    let (mut a, mut b) = pair();
    a.net.datagram(b.id(), b"ping".to_vec());
    assert_eq!(b.next_datagram().await, (a.id(), b"ping".to_vec()));
    b.net.datagram(a.id(), b"ack".to_vec());
    assert_eq!(a.next_datagram().await, (b.id(), b"ack".to_vec()));

    a.net.send(b.id(), Lane::Register, b"prepare".to_vec());
    assert_eq!(b.next_message().await, (a.id(), b"prepare".to_vec()));
    b.net.send(a.id(), Lane::Ballot, b"ballot".to_vec());
    assert_eq!(a.next_message().await, (b.id(), b"ballot".to_vec()));
    assert_eq!((a.net.stats().connections, b.net.stats().connections), (1, 1));

    for kind in [StreamKind::Pull, StreamKind::Http] {
        let (mut send, mut recv) = a.net.open(b.id(), kind).await.unwrap();
        send.write_all(b"give me that").await.unwrap();
        send.finish().unwrap();
        let NetEvent::Stream { from, kind: seen, send: mut back, recv: mut asked } = b.next().await
        else {
            panic!("a stream was expected");
        };
        assert_eq!((from, seen), (a.id(), kind));
        assert_eq!(asked.read_to_end(100).await.unwrap(), b"give me that");
        back.write_all(b"here").await.unwrap();
        back.finish().unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), b"here");
    }
    a.net.close("the test is over").await;
    assert_eq!(b.lost().await, a.id());
    let stats = a.net.stats();
    assert_eq!((stats.datagrams_sent, stats.messages_sent), (1, 1));
    assert_eq!((stats.datagrams_received, stats.messages_received), (1, 1));
}

#[tokio::test]
async fn many_messages_at_once_all_arrive_even_large_ones() {
    let (mut a, mut b) = pair();
    let large = vec![7; limits::MESSAGE_MAX];
    a.net.send(b.id(), Lane::Control, large.clone());
    for number in 0..1_000_u32 {
        a.net.send(b.id(), Lane::Control, number.to_le_bytes().to_vec());
        b.net.send(a.id(), Lane::Register, number.to_le_bytes().to_vec());
    }
    let mut numbers = std::collections::BTreeSet::new();
    let mut whole = 0;
    for _ in 0..1_001 {
        let (_, bytes) = b.next_message().await;
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(number) => assert!(numbers.insert(u32::from_le_bytes(number))),
            Err(_) => whole += usize::from(bytes == large),
        }
    }
    assert_eq!((numbers.len(), whole), (1_000, 1));
    for _ in 0..1_000 {
        assert_eq!(a.next_message().await.0, b.id());
    }
}

#[tokio::test]
async fn a_datagram_that_is_too_large_goes_by_stream() {
    let (a, mut b) = pair();
    let packet = vec![9; 20_000];
    a.net.datagram(b.id(), packet.clone());
    assert_eq!(b.next_datagram().await, (a.id(), packet));
}

#[tokio::test]
async fn an_unknown_key_is_refused_both_ways() {
    let (mut stranger, mut b) = (Node::new(1), Node::new(2));
    // The stranger knows b, b doesn't know the stranger.
    stranger.knows([b.peer()]);
    stranger.net.send(b.id(), Lane::Control, b"let me in".to_vec());
    assert_eq!(stranger.lost().await, b.id());
    let error = stranger.net.open(b.id(), StreamKind::Pull).await.unwrap_err();
    assert!(matches!(&error, NetError::Refused { reason, .. }
        if reason == "removed or unknown member"));
    let nobody = SecretKey::from_seed([99; 32]).member();
    let error = stranger.net.open(nobody, StreamKind::Pull).await.unwrap_err();
    assert_eq!(error, NetError::UnknownMember { member: nobody });
    assert!(b.events.try_recv().is_err());
    assert_eq!(b.net.stats().connections, 0);
}

#[tokio::test]
async fn another_key_at_a_members_address_is_not_taken_for_it() {
    let (a, impostor) = (Node::new(1), Node::new(2));
    let real = SecretKey::from_seed([3; 32]);
    let address = impostor.net.local_addr();
    impostor.knows([a.peer()]);
    a.knows([(real.member(), Peer { key: real.public(), address })]);
    let error = a.net.open(real.member(), StreamKind::Pull).await.unwrap_err();
    assert_eq!(error, NetError::WrongKey { address });
    // An entry whose key isn't the id's doesn't even get into the table.
    a.knows([(real.member(), Peer { key: impostor.key.public(), address })]);
    let error = a.net.open(real.member(), StreamKind::Pull).await.unwrap_err();
    assert_eq!(error, NetError::UnknownMember { member: real.member() });
}

#[tokio::test]
async fn a_member_of_another_cluster_is_refused() {
    let (a, b) = (Node::new(1), Node::at(2, cluster(2), LOOPBACK));
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    let error = a.net.open(b.id(), StreamKind::Http).await.unwrap_err();
    assert_eq!(error, NetError::OtherCluster { address: b.net.local_addr() });
}

#[tokio::test]
async fn removal_closes_at_once_and_keeps_out() {
    let (mut a, mut b) = pair();
    reach(&a, &mut b).await;
    reach(&b, &mut a).await;
    let (mut send, mut recv) = a.net.open(b.id(), StreamKind::Pull).await.unwrap();
    b.knows([]);
    assert_eq!(a.lost().await, b.id());
    assert!(recv.read(&mut [0]).await.is_err());
    assert!(send.write_all(b"more").await.is_err());
    let error = a.net.open(b.id(), StreamKind::Http).await.unwrap_err();
    assert!(matches!(error, NetError::Refused { .. }));
    while b.events.try_recv().is_ok() {}
    a.net.datagram(b.id(), b"still here".to_vec());
    assert_eq!(a.lost().await, b.id());
    assert!(b.events.try_recv().is_err(), "nothing of a removed member gets in");
    // Enrolled again, it is back.
    b.knows([a.peer()]);
    reach(&a, &mut b).await;
}

#[tokio::test]
async fn a_peer_that_left_and_came_back_on_its_port_is_found_again() {
    let (mut a, mut b) = pair();
    reach(&a, &mut b).await;
    let address = b.net.local_addr();
    b.net.close("restarting").await;
    drop(b);
    assert_eq!(a.lost().await, SecretKey::from_seed([2; 32]).member());
    let mut b = Node::at(2, cluster(1), address);
    b.knows([a.peer()]);
    let began = Instant::now();
    reach(&a, &mut b).await;
    reach(&b, &mut a).await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// A member in a runtime of its own, which can be killed without a word.
fn mortal(seed: u8, bind: SocketAddr) -> (Runtime, Node) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = runtime.block_on(async { Node::at(seed, cluster(1), bind) });
    (runtime, node)
}

#[test]
fn a_peer_that_crashed_and_restarted_is_found_again_at_once() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    home.block_on(reach(&a, &mut b));
    let address = b.net.local_addr();
    // Its tasks and its socket go without another packet.
    drop(life);
    drop(b);
    let (_life, mut b) = mortal(2, address);
    b.knows([a.peer()]);
    let began = Instant::now();
    // The old connection is reset, long before it would time out.
    home.block_on(reach(&a, &mut b));
    home.block_on(reach(&b, &mut a));
    assert!(began.elapsed() < Duration::from_millis(1_500), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn both_dialling_together_end_up_talking() {
    for _ in 0..10 {
        let (mut a, mut b) = pair();
        a.net.send(b.id(), Lane::Control, b"from a".to_vec());
        b.net.send(a.id(), Lane::Control, b"from b".to_vec());
        assert_eq!(a.next_message().await.1, b"from b");
        assert_eq!(b.next_message().await.1, b"from a");
        reach(&a, &mut b).await;
        reach(&b, &mut a).await;
    }
}

#[tokio::test]
async fn garbage_on_the_port_does_nothing() {
    let (mut a, mut b) = pair();
    let thrower = UdpSocket::bind(LOOPBACK).unwrap();
    let mut state = 1_u32;
    for size in (0..1_400).step_by(7) {
        let garbage: Vec<u8> = (0..size)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        thrower.send_to(&garbage, a.net.local_addr()).unwrap();
    }
    reach(&b, &mut a).await;
    reach(&a, &mut b).await;
    while let Ok(event) = a.events.try_recv() {
        assert!(matches!(event, NetEvent::Datagram { from, .. } if from == b.id()));
    }
    assert_eq!(a.net.stats().connections, 1);
}

/// A raw connection with `to`, as `key` would make it.
async fn raw(
    key: &SecretKey,
    to: SocketAddr,
    class: Class,
) -> (quinn::Endpoint, quinn::Connection) {
    let identity = Identity::new(key, cluster(1)).unwrap();
    let endpoint = socket::open_endpoint(LOOPBACK, key, None).unwrap();
    let connection = dial::welcomed(&endpoint, &identity, class, None, to).await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn messages_that_lie_about_their_size_are_refused() {
    let mut b = Node::new(2);
    let key = SecretKey::from_seed([1; 32]);
    b.knows([(key.member(), Peer { key: key.public(), address: LOOPBACK })]);
    let (_endpoint, connection) = raw(&key, b.net.local_addr(), Class::Talk).await;
    let header = |tag: u8, size: u32| {
        let mut header = vec![tag];
        header.extend_from_slice(&size.to_le_bytes());
        header
    };
    let too_large = limits::MESSAGE_MAX as u32 + 1;
    for (head, body) in [
        (header(Tag::Control as u8, too_large), 0),
        (header(Tag::Swim as u8, 1 << 20), 0),
        (header(77, 3), 3),
        (header(Tag::Control as u8, 3), 4),
    ] {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&head).await.unwrap();
        stream.write_all(&vec![0; body]).await.unwrap();
        let stopped = timeout(PATIENCE, stream.stopped()).await.unwrap().unwrap();
        assert!(stopped.is_some(), "{head:?} was accepted");
    }
    // One that ends early is dropped; the next is read.
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&header(Tag::Control as u8, 10)).await.unwrap();
    stream.finish().unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&header(Tag::Control as u8, 2)).await.unwrap();
    stream.write_all(b"ok").await.unwrap();
    stream.finish().unwrap();
    assert_eq!(b.next_message().await, (key.member(), b"ok".to_vec()));
    assert!(b.events.try_recv().is_err());
    // And what is too large doesn't leave here either.
    b.net.send(key.member(), Lane::Control, vec![0; limits::MESSAGE_MAX + 1]);
    assert_eq!(b.net.stats().messages_dropped, 1);
}

#[tokio::test]
async fn a_member_may_not_open_streams_where_it_talks() {
    let b = Node::new(2);
    let key = SecretKey::from_seed([1; 32]);
    b.knows([(key.member(), Peer { key: key.public(), address: LOOPBACK })]);
    let (_endpoint, connection) = raw(&key, b.net.local_addr(), Class::Talk).await;
    let opened = timeout(Duration::from_millis(300), connection.open_bi()).await;
    assert!(opened.is_err(), "no room was given for it");
}

#[tokio::test]
async fn a_knock_is_heard_and_answered_and_both_saw_the_same_connection() {
    let mut b = Node::new(2);
    let newcomer = SecretKey::from_seed([5; 32]);
    let to = b.net.local_addr();
    let expected = b.key.public();
    let knocking = knock(
        &newcomer,
        cluster(1),
        LOOPBACK,
        to,
        |exporter, server| {
            assert_eq!(server, expected);
            exporter.to_vec()
        },
        PATIENCE,
    );
    let answering = async {
        let NetEvent::Knock { key, exporter, bytes, answer, from } = b.next().await else {
            panic!("a knock was expected");
        };
        assert_eq!(key, newcomer.public());
        assert_eq!(bytes, exporter.to_vec());
        assert!(from.ip().is_loopback());
        answer.send(vec![8; 100_000]).unwrap();
    };
    let (outcome, ()) = tokio::join!(knocking, answering);
    assert_eq!(outcome.unwrap(), (expected, vec![8; 100_000]));
}

#[tokio::test]
async fn a_knock_that_is_too_large_or_unanswered_or_elsewhere_fails() {
    let mut b = Node::new(2);
    let to = b.net.local_addr();
    let newcomer = SecretKey::from_seed([5; 32]);
    let large = |_: [u8; 32], _: PublicKey| vec![0; limits::KNOCK_MAX + 1];
    let error = knock(&newcomer, cluster(1), LOOPBACK, to, large, PATIENCE).await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { .. }));

    let (_endpoint, connection) = raw(&newcomer, to, Class::Join).await;
    let said = knock::speak(&connection, to, &vec![0; limits::KNOCK_MAX + 1]).await;
    assert!(matches!(said, Err(NetError::Refused { .. })), "{said:?}");
    assert!(b.events.try_recv().is_err());

    let small = |_: [u8; 32], _: PublicKey| b"hello".to_vec();
    let knocking = knock(&newcomer, cluster(1), LOOPBACK, to, small, PATIENCE);
    let ignoring = async { drop(b.next().await) };
    let (outcome, ()) = tokio::join!(knocking, ignoring);
    assert!(matches!(outcome, Err(NetError::Refused { .. })), "{outcome:?}");

    let error = knock(&newcomer, cluster(9), LOOPBACK, to, small, PATIENCE).await.unwrap_err();
    assert_eq!(error, NetError::OtherCluster { address: to });
}

#[tokio::test]
async fn the_door_holds_sixteen_and_lets_the_next_in_when_one_leaves() {
    let mut b = Node::new(2);
    let to = b.net.local_addr();
    let mut inside = Vec::new();
    for seed in 0..knock::STRANGERS_MAX as u8 {
        inside.push(raw(&SecretKey::from_seed([100 + seed; 32]), to, Class::Join).await);
    }
    let newcomer = SecretKey::from_seed([5; 32]);
    let small = |_: [u8; 32], _: PublicKey| b"hello".to_vec();
    let brief = Duration::from_millis(500);
    let error = knock(&newcomer, cluster(1), LOOPBACK, to, small, brief).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
    assert!(b.events.try_recv().is_err());
    inside.truncate(8);
    let knocking = knock(&newcomer, cluster(1), LOOPBACK, to, small, PATIENCE);
    let answering = async {
        loop {
            if let NetEvent::Knock { answer, .. } = b.next().await {
                return answer.send(b"come in".to_vec()).unwrap();
            }
        }
    };
    let (outcome, ()) = tokio::join!(knocking, answering);
    assert_eq!(outcome.unwrap().1, b"come in");
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let a = Node::new(1);
    let config = Config {
        bind: a.net.local_addr(),
        key: SecretKey::from_seed([2; 32]),
        cluster: cluster(1),
    };
    let error = Net::bind(config).err().unwrap();
    assert_eq!(error, NetError::PortInUse { address: a.net.local_addr() });
    assert!(error.to_string().contains("in use"));
}

#[tokio::test]
async fn a_closed_member_frees_its_port_and_sends_nothing() {
    let (a, mut b) = pair();
    reach(&a, &mut b).await;
    a.net.send(b.id(), Lane::Control, b"farewell".to_vec());
    a.net.close("leaving").await;
    // What was said before closing has arrived.
    assert_eq!(b.next_message().await.1, b"farewell");
    let error = a.net.open(b.id(), StreamKind::Pull).await.unwrap_err();
    assert_eq!(error, NetError::Closing);
    assert_eq!(a.net.stats().connections, 0);
}

#[tokio::test]
async fn a_newer_address_is_dialled_at_once() {
    let (a, mut b) = (Node::new(1), Node::new(2));
    let hole = UdpSocket::bind(LOOPBACK).unwrap();
    let (id, peer) = b.peer();
    a.knows([(id, Peer { address: hole.local_addr().unwrap(), ..peer })]);
    b.knows([a.peer()]);
    assert!(matches!(a.net.open(id, StreamKind::Pull).await, Err(NetError::Unreachable { .. })));
    a.net.set_address(id, peer.address);
    a.net.send(id, Lane::Control, b"found".to_vec());
    assert_eq!(b.next_message().await.1, b"found");
    // The same roster again doesn't undo what gossip knew better.
    a.knows([(id, Peer { address: hole.local_addr().unwrap(), ..peer })]);
    assert_eq!(a.net.hub.address_of(id), Some(peer.address));
}

/// A way between two members that can be cut.
#[derive(Default)]
struct Way {
    cut: AtomicBool,
    /// Attempts to connect that it swallowed.
    swallowed: AtomicUsize,
}

/// Passes packets between `a` and `b`, who dial it to reach each other.
async fn relay(socket: tokio::net::UdpSocket, a: SocketAddr, b: SocketAddr, way: Arc<Way>) {
    let mut packet = [0; 65_536];
    loop {
        let (size, from) = socket.recv_from(&mut packet).await.unwrap();
        if !way.cut.load(Ordering::Relaxed) {
            let to = if from == a { b } else { a };
            socket.send_to(&packet[..size], to).await.unwrap();
        } else if packet[0] & 0x80 != 0 {
            // A long header: part of a handshake (RFC 9000 section 17.2).
            way.swallowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn after_a_partition_the_peer_is_found_again_soon() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    let socket = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let between = socket.local_addr().unwrap();
    let way = Arc::new(Way::default());
    let relaying = tokio::spawn(relay(socket, a.net.local_addr(), b.net.local_addr(), way.clone()));
    a.knows([(b.id(), Peer { key: b.key.public(), address: between })]);
    b.knows([(a.id(), Peer { key: a.key.public(), address: between })]);
    reach(&a, &mut b).await;
    reach(&b, &mut a).await;
    way.cut.store(true, Ordering::Relaxed);
    // Both go on probing for as long as the partition lasts, and hear nothing of it.
    let cut = Instant::now();
    while cut.elapsed() < Duration::from_secs(4) {
        a.net.datagram(b.id(), vec![1; limits::SWIM_PACKET_MAX]);
        b.net.datagram(a.id(), vec![1; limits::SWIM_PACKET_MAX]);
        sleep(Duration::from_millis(50)).await;
    }
    while a.events.try_recv().is_ok() || b.events.try_recv().is_ok() {}
    // They try it anew instead of waiting for the old connection.
    assert!(way.swallowed.load(Ordering::Relaxed) > 0);
    way.cut.store(false, Ordering::Relaxed);
    let healed = Instant::now();
    reach(&a, &mut b).await;
    reach(&b, &mut a).await;
    println!("talking again after {:?}", healed.elapsed());
    assert!(healed.elapsed() < Duration::from_secs(4), "took {:?}", healed.elapsed());
    relaying.abort();
}

#[tokio::test]
async fn a_member_that_moved_is_dialled_where_it_is_and_streams_survive() {
    let (a, mut b) = pair();
    reach(&a, &mut b).await;
    let (mut send, recv) = a.net.open(b.id(), StreamKind::Pull).await.unwrap();
    let NetEvent::Stream { recv: mut asked, .. } = b.next().await else {
        panic!("a stream was expected");
    };
    let socket = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let moved = socket.local_addr().unwrap();
    let way = Arc::new(Way::default());
    let relaying = tokio::spawn(relay(socket, a.net.local_addr(), b.net.local_addr(), way));
    a.net.set_address(b.id(), moved);
    a.net.send(b.id(), Lane::Control, b"there".to_vec());
    assert_eq!(b.next_message().await.1, b"there");
    // The old conversation, the pull, and the conversation by the new address.
    assert_eq!(a.net.stats().connections, 3);
    send.write_all(b"still works").await.unwrap();
    send.finish().unwrap();
    assert_eq!(asked.read_to_end(100).await.unwrap(), b"still works");
    drop(recv);
    relaying.abort();
}

#[test]
#[ignore = "takes fifteen seconds of real time"]
fn a_peer_that_falls_silent_is_lost() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    home.block_on(reach(&a, &mut b));
    drop(life);
    a.net.datagram(b.id(), b"are you there?".to_vec());
    assert_eq!(home.block_on(a.lost()), b.id());
}

#[tokio::test]
#[ignore = "takes fifteen seconds of real time"]
async fn a_silent_stream_lives_on_and_an_idle_conversation_ends_unremarked() {
    let (mut a, mut b) = pair();
    a.net.datagram(b.id(), b"once".to_vec());
    b.next_datagram().await;
    b.net.datagram(a.id(), b"and back".to_vec());
    a.next_datagram().await;
    let (send, mut recv) = a.net.open(b.id(), StreamKind::Http).await.unwrap();
    let NetEvent::Stream { send: mut back, .. } = b.next().await else {
        panic!("a stream was expected");
    };
    sleep(Duration::from_secs(15)).await;
    back.write_all(b"at last").await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"at last");
    drop(send);
    assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err());
    assert_eq!((a.net.stats().connections, b.net.stats().connections), (1, 1));
}

/// Answers each datagram with itself, and each pull with `size` bytes.
async fn serve(mut b: Node, size: usize) {
    while let Some(event) = b.events.recv().await {
        match event {
            NetEvent::Datagram { from, bytes } => b.net.datagram(from, bytes),
            NetEvent::Stream { mut send, .. } => {
                tokio::spawn(async move {
                    let block = bytes::Bytes::from(vec![1; 1 << 20]);
                    for _ in 0..size >> 20 {
                        send.write_chunk(block.clone()).await.unwrap();
                    }
                    send.finish().unwrap();
                });
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_waits_neither_for_a_hanging_dial_nor_for_a_transfer() {
    const SIZE: usize = 50 << 20;
    let (mut a, b) = (Node::new(1), Node::new(2));
    let hole = UdpSocket::bind(LOOPBACK).unwrap();
    let dead = SecretKey::from_seed([3; 32]);
    let address = hole.local_addr().unwrap();
    a.knows([b.peer(), (dead.member(), Peer { key: dead.public(), address })]);
    b.knows([a.peer()]);
    let id = b.id();
    let serving = tokio::spawn(serve(b, SIZE));
    a.net.datagram(id, b"warm up".to_vec());
    a.next_datagram().await;

    a.net.datagram(dead.member(), b"anybody?".to_vec());
    let net = a.net.clone();
    let transfer = tokio::spawn(async move {
        let (mut send, mut recv) = net.open(id, StreamKind::Pull).await.unwrap();
        send.finish().unwrap();
        let mut total = 0;
        while let Some(chunk) = recv.read_chunk(1 << 20, true).await.unwrap() {
            total += chunk.bytes.len();
        }
        total
    });
    let mut worst = Duration::ZERO;
    let mut probes = 0;
    let began = Instant::now();
    while !transfer.is_finished() || probes < 20 {
        let sent = Instant::now();
        a.net.datagram(id, b"probe".to_vec());
        assert_eq!(a.next_datagram().await.0, id);
        worst = worst.max(sent.elapsed());
        probes += 1;
    }
    assert_eq!(transfer.await.unwrap(), SIZE);
    assert!(worst < DIAL_TIMEOUT / 4, "a probe took {worst:?} among {probes}");
    println!("{probes} probes in {:?}, the slowest took {worst:?}", began.elapsed());
    assert_eq!(a.lost().await, dead.member());
    serving.abort();
}

#[tokio::test]
async fn slow_readers_of_streams_don_t_hold_up_messages() {
    let (a, mut b) = pair();
    let mut held = Vec::new();
    for _ in 0..12 {
        let (mut send, recv) = a.net.open(b.id(), StreamKind::Pull).await.unwrap();
        send.write_all(b"?").await.unwrap();
        held.push((send, recv));
        let NetEvent::Stream { send: mut back, recv, .. } = b.next().await else {
            panic!("a stream was expected");
        };
        // Fills the stream's window, which nobody empties.
        let filled = timeout(Duration::from_millis(100), back.write_all(&vec![0; 4 << 20])).await;
        assert!(filled.is_err());
        held.push((back, recv));
    }
    a.net.send(b.id(), Lane::Control, vec![1; 1 << 20]);
    assert_eq!(b.next_message().await.1.len(), 1 << 20);
}

#[tokio::test]
async fn nothing_counts_before_the_welcome() {
    // A server that finishes the handshake with the right key and then says nothing.
    let (a, mute) = (Node::new(1), SecretKey::from_seed([2; 32]));
    let identity = Identity::new(&mute, cluster(1)).unwrap();
    let server = quinn::ServerConfig::with_crypto(identity.server().unwrap());
    let endpoint = quinn::Endpoint::server(server, LOOPBACK).unwrap();
    let address = endpoint.local_addr().unwrap();
    a.knows([(mute.member(), Peer { key: mute.public(), address })]);
    let accepting = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        connection.closed().await
    });
    let error = a.net.open(mute.member(), StreamKind::Pull).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
    assert_eq!(a.net.stats().connections, 0);
    // The half-made connection is let go, too.
    timeout(PATIENCE, accepting).await.unwrap().unwrap();
    assert_ne!(WELCOME, 0);
}

#[tokio::test]
async fn the_roster_may_hold_this_member_itself() {
    let (a, b) = pair();
    let peers: BTreeMap<MemberId, Peer> = [a.peer(), b.peer()].into();
    a.net.set_peers(peers);
    a.net.datagram(a.id(), b"to myself".to_vec());
    assert_eq!(a.net.stats().datagrams_dropped, 1);
}
