//! Strangers, impostors, removed members, liars and garbage.

use super::*;

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
