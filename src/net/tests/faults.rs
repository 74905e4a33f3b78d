//! Peers that leave, crash, move, or can't be reached for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::Runtime;

use super::*;

/// A way between two members that can be cut.
#[derive(Default)]
struct Way {
    cut: AtomicBool,
    /// Attempts to connect that it swallowed.
    swallowed: AtomicUsize,
    /// How long it holds up each part of a handshake, milliseconds.
    slow_ms: AtomicU64,
}

/// Passes packets between `a` and `b`, who dial it to reach each other.
async fn relay(socket: tokio::net::UdpSocket, a: SocketAddr, b: SocketAddr, way: Arc<Way>) {
    let mut packet = [0; 65_536];
    loop {
        let (size, from) = socket.recv_from(&mut packet).await.unwrap();
        // A long header: part of a handshake (RFC 9000 section 17.2).
        let is_handshake = packet[0] & 0x80 != 0;
        if !way.cut.load(Ordering::Relaxed) {
            let to = if from == a { b } else { a };
            if is_handshake {
                sleep(Duration::from_millis(way.slow_ms.load(Ordering::Relaxed))).await;
            }
            socket.send_to(&packet[..size], to).await.unwrap();
        } else if is_handshake {
            way.swallowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A member in a runtime of its own, which can be killed without a word.
fn mortal(seed: u8, bind: SocketAddr) -> (Runtime, Node) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = runtime.block_on(async { Node::at(seed, cluster(1), bind) });
    (runtime, node)
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

/// Puts something more on the way to a peer of `a`, and waits until its host says that it is gone.
async fn refused_while_asked(a: &mut Node, send: &mut SendStream) -> MemberId {
    send.write_all(b"GET / HTTP/1.1").await.unwrap();
    loop {
        if let NetEvent::Refused { member } = a.next().await {
            return member;
        }
    }
}

/// The kernel of its host tells, long before QUIC would notice.
#[test]
fn a_killed_peer_leaves_a_closed_port_which_is_noticed_at_once() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    home.block_on(reach(&a, &mut b));
    let (id, began) = (b.id(), Instant::now());
    // Its tasks and its socket go without another packet.
    drop(life);
    drop(b);
    let refused = async {
        loop {
            a.net.datagram(id, b"probe".to_vec());
            if let Ok(Some(NetEvent::Refused { member })) =
                timeout(Duration::from_millis(100), a.events.recv()).await
            {
                return member;
            }
        }
    };
    let member = home.block_on(async { timeout(PATIENCE, refused).await });
    assert_eq!(member.expect("its host says so"), id);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Also where only clients' requests are under way to it.
#[test]
fn a_peer_that_is_killed_while_it_is_asked_is_noticed_at_once() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    home.block_on(reach(&a, &mut b));
    let id = b.id();
    let open = a.net.open(id, StreamKind::Http);
    let (mut send, _recv) = home.block_on(open).unwrap();
    // Its tasks and its socket go without another packet.
    drop(life);
    drop(b);
    let began = Instant::now();
    assert_eq!(home.block_on(refused_while_asked(&mut a, &mut send)), id);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Who was slow when the connection began is thought to be far away, and what is lost on the way
/// there is sent again late.
#[test]
fn a_killed_peer_that_was_slow_at_first_is_noticed_all_the_same() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    let socket = life.block_on(tokio::net::UdpSocket::bind(LOOPBACK)).unwrap();
    let between = socket.local_addr().unwrap();
    let way = Arc::new(Way::default());
    way.slow_ms.store(100, Ordering::Relaxed);
    life.spawn(relay(socket, a.net.local_addr(), b.net.local_addr(), way));
    a.knows([(b.id(), Peer { key: b.key.public(), address: between })]);
    b.knows([(a.id(), Peer { key: a.key.public(), address: between })]);
    home.block_on(reach(&a, &mut b));
    let id = b.id();
    let (mut send, _recv) = home.block_on(a.net.open(id, StreamKind::Http)).unwrap();
    drop(life);
    drop(b);
    let began = Instant::now();
    assert_eq!(home.block_on(refused_while_asked(&mut a, &mut send)), id);
    println!("noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Such a word can be forged; it is believed of nobody that answers, nor of whom nothing was asked.
#[tokio::test]
async fn a_forged_refusal_harms_no_peer() {
    let (mut a, mut b) = pair();
    reach(&a, &mut b).await;
    reach(&b, &mut a).await;
    while a.events.try_recv().is_ok() {}
    let hub = &a.net.hub;
    for probed in [true, false] {
        // An acknowledgement leaves here soon, which is never answered.
        b.net.datagram(a.id(), b"nothing is asked".to_vec());
        sleep(Duration::from_millis(2)).await;
        hub.refused(b.net.local_addr());
        // Longer than it is doubted where nothing is asked.
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            if probed {
                a.net.datagram(b.id(), b"probe".to_vec());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    while let Ok(event) = a.events.try_recv() {
        assert!(!matches!(event, NetEvent::Refused { .. }), "{event:?}");
    }
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

#[test]
#[ignore = "takes fifteen seconds of real time"]
fn a_peer_that_falls_silent_is_lost() {
    let (life, mut b) = mortal(2, LOOPBACK);
    let (home, mut a) = mortal(1, LOOPBACK);
    a.knows([b.peer()]);
    b.knows([a.peer()]);
    home.block_on(reach(&a, &mut b));
    drop(life);
    let (net, id) = (a.net.clone(), b.id());
    let probing = home.spawn(async move {
        loop {
            net.datagram(id, b"are you there?".to_vec());
            sleep(Duration::from_millis(200)).await;
        }
    });
    assert_eq!(home.block_on(a.lost()), id);
    probing.abort();
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

#[tokio::test]
async fn the_port_is_free_after_a_connection_that_began_with_its_end() {
    let (stranger, b) = (Node::new(1), Node::new(2));
    // Who dials here gives up before anybody listens; what it says then comes to b as the first.
    let hole = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let (_, peer) = b.peer();
    let config = socket::client_config(&stranger.net.hub.identity, Class::Talk, Some(peer.key));
    let endpoint = stranger.net.hub.endpoint().unwrap();
    let to = hole.local_addr().unwrap();
    let dial = endpoint.connect_with(config.unwrap(), to, identity::SERVER_NAME).unwrap();
    let mut packet = [0; 2_048];
    hole.recv_from(&mut packet).await.unwrap();
    drop(dial);
    let (size, _) = hole.recv_from(&mut packet).await.unwrap();
    hole.send_to(&packet[..size], b.net.local_addr()).await.unwrap();
    let endpoint = b.net.hub.endpoint().unwrap();
    let begun = async {
        while endpoint.open_connections() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), begun).await.expect("it counts as a connection");
    drop(endpoint);
    let address = b.net.local_addr();
    b.net.close("gone").await;
    UdpSocket::bind(address).expect("the port is free");
}
