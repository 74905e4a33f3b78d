//! Members on loopback that talk, fail, return, and meet those that should not be there.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use tokio::{
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

mod faults;
mod intruders;

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
            // The host of one that was killed may say so first.
            if let NetEvent::Lost { member } | NetEvent::Refused { member } = self.next().await {
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

    for kind in [StreamKind::Pull, StreamKind::Http, StreamKind::Tunnel] {
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

/// A raw connection with `to`, as `key` would make it.
async fn raw(
    key: &SecretKey,
    to: SocketAddr,
    class: Class,
) -> (quinn::Endpoint, quinn::Connection) {
    let identity = Identity::new(key, cluster(1)).unwrap();
    let endpoint = socket::dialler(LOOPBACK, key).unwrap();
    let connection =
        dial::welcomed(&endpoint, &identity, class, None, to, &Default::default()).await.unwrap();
    (endpoint, connection)
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
#[ignore = "takes fifteen seconds of real time"]
async fn silent_streams_and_conversations_live_on_and_idle_content_ends_unremarked() {
    let (mut a, mut b) = pair();
    a.net.datagram(b.id(), b"once".to_vec());
    b.next_datagram().await;
    b.net.datagram(a.id(), b"and back".to_vec());
    a.next_datagram().await;
    let (send, mut recv) = a.net.open(b.id(), StreamKind::Http).await.unwrap();
    let NetEvent::Stream { send: mut back, .. } = b.next().await else {
        panic!("a stream was expected");
    };
    // A pull that is over: nothing more is said on its connection.
    let (mut ask, mut answer) = a.net.open(b.id(), StreamKind::Pull).await.unwrap();
    ask.write_all(b"?").await.unwrap();
    ask.finish().unwrap();
    let NetEvent::Stream { kind: StreamKind::Pull, send: mut pulled, .. } = b.next().await else {
        panic!("a pull was expected");
    };
    pulled.finish().unwrap();
    assert!(answer.read_to_end(100).await.unwrap().is_empty());
    assert_eq!(a.net.stats().connections, 3);
    sleep(Duration::from_secs(15)).await;
    back.write_all(b"at last").await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"at last");
    drop(send);
    assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err());
    assert_eq!((a.net.stats().connections, b.net.stats().connections), (2, 2));
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
async fn the_roster_may_hold_this_member_itself() {
    let (a, b) = pair();
    let peers: BTreeMap<MemberId, Peer> = [a.peer(), b.peer()].into();
    a.net.set_peers(peers);
    a.net.datagram(a.id(), b"to myself".to_vec());
    assert_eq!(a.net.stats().datagrams_dropped, 1);
}

#[tokio::test]
async fn large_messages_wait_until_the_one_before_was_taken() {
    let (a, mut b) = pair();
    for _ in 0..3 {
        a.net.send(b.id(), Lane::Control, vec![1; limits::MESSAGE_MAX / 2]);
    }
    for _ in 0..5 {
        a.net.send(b.id(), Lane::Control, b"small".to_vec());
    }
    let filled = async {
        while b.events.len() < 6 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, filled).await.unwrap();
    // Nothing says that a further one won't come, but time.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(b.events.len(), 6, "one large and five small");
    let mut large = 0;
    for _ in 0..8 {
        large += usize::from(b.next_message().await.1.len() > 5);
    }
    assert_eq!(large, 3);
}
