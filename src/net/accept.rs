//! Being dialled: who is let in, and what is done with what they send.
//!
//! Half-open handshakes are bounded, those from hosts of members apart from all
//! others, so that a flood from elsewhere doesn't lock members out. The roster is
//! asked right after the handshake, before a single byte of the peer is read.

use std::{sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{
    NetEvent, RecvStream, SendStream, StreamKind,
    hub::Hub,
    identity, knock,
    link::{Class, Close, Link, WELCOME},
    outbox::Tag,
    refusal::Ears,
};
use crate::base::MemberId;

/// Handshakes under way with hosts of members.
const MEMBER_HANDSHAKES_MAX: usize = 1_024;
/// Handshakes under way with all other hosts. Beyond half of it, an address has to
/// prove itself first.
const OTHER_HANDSHAKES_MAX: usize = 64;
/// Connections beside which no other host is let in. Far more than a cluster needs, and those that
/// began with a packet that ends them count until they are idle (quinn-proto 0.11).
const OPEN_MAX: usize = 32_768;
/// A handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// One-way streams of one connection that are read at once.
const READERS_MAX: usize = 32;
/// The first byte of a stream has to come within this time.
const KIND_TIMEOUT: Duration = Duration::from_secs(5);
/// While a stream is answered and nothing is said, the connection is kept from
/// falling idle.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Accepts connections, and hears of closed ports, until the endpoint is closed.
pub(super) async fn run(hub: Arc<Hub>, ears: Option<Ears>) {
    let members = Arc::new(Semaphore::new(MEMBER_HANDSHAKES_MAX));
    let others = Arc::new(Semaphore::new(OTHER_HANDSHAKES_MAX));
    let door = Arc::new(Semaphore::new(knock::STRANGERS_MAX));
    let Some(endpoint) = hub.endpoint() else { return };
    let hear = async || match &ears {
        Some(ears) => ears.hear().await,
        None => std::future::pending().await,
    };
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            refused = hear() => {
                for address in refused {
                    hub.refused(address);
                }
                continue;
            }
        };
        let Some(incoming) = incoming else { return };
        let known = hub.is_peer_host(incoming.remote_address().ip());
        let gate = if known { &members } else { &others };
        let unproven = !incoming.remote_address_validated();
        let crowded = gate.available_permits() < OTHER_HANDSHAKES_MAX / 2;
        if !known && endpoint.open_connections() >= OPEN_MAX {
            incoming.refuse();
            continue;
        }
        match gate.clone().try_acquire_owned() {
            Ok(_) if !known && crowded && unproven && incoming.may_retry() => {
                // It can only fail if a retry came before, which was just checked.
                let _ = incoming.retry();
            }
            Ok(permit) => {
                hub.runtime.spawn(handshake(hub.clone(), door.clone(), incoming, permit));
            }
            Err(_) => incoming.refuse(),
        }
    }
}

async fn handshake(
    hub: Arc<Hub>,
    door: Arc<Semaphore>,
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
) {
    let from = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let connection = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%from, "a handshake took too long"),
    };
    drop(permit);
    let class = identity::class_of(&connection, &hub.cluster);
    let (Some(class), Some(key)) = (class, identity::key_of(&connection)) else {
        return Close::Misbehaved.apply(&connection);
    };
    if class == Class::Join {
        return match door.try_acquire() {
            Ok(_permit) => knock::answer(&hub, key, connection).await,
            Err(_) => Close::Busy.apply(&connection),
        };
    }
    if !hub.is_peer(&key) {
        tracing::debug!(%from, ?key, "refused: {}", Close::Unknown.text());
        return Close::Unknown.apply(&connection);
    }
    class.widen(&connection);
    if welcome(&connection).await.is_none() {
        return;
    }
    let Some((member, link, large)) = hub.accepted(&key, class, connection) else { return };
    match class {
        Class::Talk => serve_talk(hub, member, link, large).await,
        Class::Pull => serve_streams(hub, member, link, class, StreamKind::Pull).await,
        Class::Http => serve_streams(hub, member, link, class, StreamKind::Http).await,
        Class::Ask => serve_streams(hub, member, link, class, StreamKind::Ask).await,
        Class::Tunnel => serve_streams(hub, member, link, class, StreamKind::Tunnel).await,
        Class::Join => unreachable!("strangers were sent to the door above"),
    }
}

/// Tells the other side that it is accepted. `None`: it has gone.
pub(super) async fn welcome(connection: &Connection) -> Option<()> {
    let mut stream = timeout(HANDSHAKE_TIMEOUT, connection.open_uni()).await.ok()?.ok()?;
    stream.write_all(&[WELCOME]).await.ok()?;
    stream.finish().ok()
}

/// Reads a conversation until it ends, whoever dialled.
pub(super) async fn serve_talk(hub: Arc<Hub>, member: MemberId, link: Link, large: Arc<Semaphore>) {
    let readers = Arc::new(Semaphore::new(READERS_MAX));
    let next_stream = || async {
        let permit = readers.clone().acquire_owned().await;
        (permit, link.connection.accept_uni().await)
    };
    let error: ConnectionError = loop {
        tokio::select! {
            datagram = link.connection.read_datagram() => match datagram {
                Ok(bytes) => {
                    let taken = hub.inlet.datagram(member, bytes.into());
                    hub.counters.received(Tag::Swim, taken);
                }
                Err(error) => break error,
            },
            (permit, stream) = next_stream() => match stream {
                Ok(stream) => {
                    let (hub, large) = (hub.clone(), large.clone());
                    hub.runtime.clone().spawn(async move {
                        if let Some((tag, taken)) =
                            hub.inlet.stream(member, &large, stream).await
                        {
                            hub.counters.received(tag, taken);
                        }
                        drop(permit);
                    });
                }
                Err(error) => break error,
            },
        }
    };
    if hub.ended(member, Class::Talk, &link, &error) {
        hub.inlet.event(NetEvent::Lost { member }).await;
    }
}

/// Hands on the streams that a member opens, until the connection ends.
async fn serve_streams(
    hub: Arc<Hub>,
    member: MemberId,
    link: Link,
    class: Class,
    kind: StreamKind,
) {
    let error = loop {
        match link.connection.accept_bi().await {
            Ok((send, recv)) => {
                let (hub, connection) = (hub.clone(), link.connection.clone());
                hub.runtime.clone().spawn(async move {
                    hand_on(&hub, member, connection, class, kind, send, recv).await;
                });
            }
            Err(error) => break error,
        }
    };
    hub.ended(member, class, &link, &error);
}

/// Hands one stream on, and keeps its connection alive until it is answered.
async fn hand_on(
    hub: &Hub,
    member: MemberId,
    connection: Connection,
    class: Class,
    kind: StreamKind,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let mut first = [0];
    let read = timeout(KIND_TIMEOUT, recv.read_exact(&mut first)).await;
    if !matches!(read, Ok(Ok(()))) || first != [class as u8] {
        // Both can fail only on a stream that has ended already.
        let _ = send.reset(Close::Misbehaved.code());
        let _ = recv.stop(Close::Misbehaved.code());
        return;
    }
    let answered = send.stopped();
    tokio::pin!(answered);
    if !hub.inlet.event(NetEvent::Stream { from: member, kind, send, recv }).await {
        return;
    }
    loop {
        tokio::select! {
            _ = &mut answered => return,
            () = sleep(KEEP_ALIVE) => {
                // Any packet that asks for an acknowledgement would do.
                let _ = connection.send_datagram(bytes::Bytes::new());
            }
        }
    }
}
