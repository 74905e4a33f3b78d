//! Asking a host whether anybody listens at a UDP port.
//!
//! A process that is killed leaves a closed port behind, and the kernel of its host
//! says so to whoever sends a packet there (ICMP port unreachable, RFC 1122 section
//! 4.1.3.1). QUIC never looks: its socket talks to many hosts, so such an error would
//! belong to nobody. Here a socket of its own is connected to that one address, says
//! a single byte that is no QUIC packet, and listens for the error.
//!
//! It is asked only where something was sent a while ago and nothing at all came
//! back, so that it costs nothing while all is well.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, sync::Semaphore, time::timeout};

/// How long a peer may leave everything unanswered before its host is asked. QUIC
/// acknowledges within 25 ms and a round trip.
pub(super) const UNANSWERED: Duration = Duration::from_millis(120);
/// How long the host has to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// Hosts that are asked at the same time. Where more leave us unanswered, the fault is more likely a
/// lack of processor time, here or there, and asking them all would make it worse.
pub(super) const ASKED_MAX: usize = 4;

/// Whether the host says that nobody listens at `address`. False where it says nothing, or
/// where too many are being asked.
pub(super) async fn is_refused(asked: &Semaphore, address: SocketAddr) -> bool {
    let Ok(_permit) = asked.try_acquire() else { return false };
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let ask = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    match timeout(ANSWER_WITHIN, ask).await {
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Ends when the host at `address` has said that nobody listens there; it is asked
/// once, after a while. Otherwise never.
pub(super) async fn refusal(asked: &Semaphore, address: SocketAddr) {
    tokio::time::sleep(UNANSWERED).await;
    if !is_refused(asked, address).await {
        std::future::pending().await
    }
}
