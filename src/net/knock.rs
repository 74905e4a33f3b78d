//! The door for strangers: one knock, one answer, tightly capped.
//!
//! A newcomer proves its key by TLS and signs the TLS exporter with its invite
//! key, so that no member between can put another key in its place. What a
//! knock says is not judged here.

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use quinn::{Connection, Endpoint};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    NetError, NetEvent, accept, dial,
    hub::Hub,
    identity::{self, Identity},
    link::{self, Class, Close},
    socket,
};
use crate::base::{ClusterId, PublicKey, SecretKey, limits};

/// Strangers that are served at once.
pub(super) const STRANGERS_MAX: usize = 16;
/// A knock has to be said and judged within this time, and its answer has to be
/// taken within as much again.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// A newcomer that finds the door busy tries again after so long.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// The newcomer's side: dials the door of a member at `to`, whatever its key,
/// proves `key`, says what `build` makes of the TLS exporter and the
/// member's key, and waits for the one answer. Listens on `bind` (port 0: any)
/// only for that. A busy door is tried again until `timeout` is over.
///
/// The member's key is proven to be that of the connection, and nothing more: that it
/// belongs to the cluster is for the caller to check.
///
/// Errors: those of listening and dialling; [`NetError::TooLarge`] if what
/// `build` returns exceeds [`limits::KNOCK_MAX`]; [`NetError::Refused`] if
/// the member gave no answer.
pub async fn knock(
    key: &SecretKey,
    cluster: ClusterId,
    bind: SocketAddr,
    to: SocketAddr,
    build: impl FnOnce([u8; 32], PublicKey) -> Vec<u8>,
    timeout: Duration,
) -> Result<(PublicKey, Vec<u8>), NetError> {
    let identity = Identity::new(key, cluster)?;
    let endpoint = socket::dialler(bind, key)?;
    let spoken = async {
        let connection = at_the_door(&endpoint, &identity, to).await?;
        let failed = || NetError::Unreachable {
            address: to,
            cause: "its TLS gave no key or exporter".to_owned(),
        };
        let server = identity::key_of(&connection).ok_or_else(failed)?;
        let exporter = identity::exporter_of(&connection).ok_or_else(failed)?;
        let bytes = build(exporter, server);
        if bytes.len() > limits::KNOCK_MAX {
            return Err(NetError::TooLarge { size: bytes.len(), size_max: limits::KNOCK_MAX });
        }
        Ok((server, speak(&connection, to, &bytes).await?))
    };
    let outcome = tokio::time::timeout(timeout, spoken).await;
    endpoint.close(Close::Done.code(), Close::Done.text().as_bytes());
    // Only so that the close goes out; the member would notice without it.
    let _ = tokio::time::timeout(BUSY_PAUSE, endpoint.wait_idle()).await;
    outcome.unwrap_or_else(|_| Err(link::unanswered(to)))
}

/// Connects as a stranger, again and again while the door is busy.
async fn at_the_door(
    endpoint: &Endpoint,
    identity: &Identity,
    to: SocketAddr,
) -> Result<Connection, NetError> {
    loop {
        match dial::welcomed(endpoint, identity, Class::Join, None, to, &AtomicBool::default())
            .await
        {
            Err(NetError::Refused { reason, .. }) if reason == Close::Busy.text() => {
                sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Says `bytes` and hears the answer.
pub(super) async fn speak(
    connection: &Connection,
    to: SocketAddr,
    bytes: &[u8],
) -> Result<Vec<u8>, NetError> {
    let refused = || match connection.close_reason() {
        Some(error) => link::dial_error(to, &error),
        None => NetError::Refused { address: to, reason: "it gave no answer".to_owned() },
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|_| refused())?;
    send.write_all(bytes).await.map_err(|_| refused())?;
    send.finish().map_err(|_| refused())?;
    recv.read_to_end(limits::MESSAGE_MAX).await.map_err(|_| refused())
}

/// The member's side: hears one knock, hands it on, delivers the answer.
pub(super) async fn answer(hub: &Hub, key: PublicKey, connection: Connection) {
    let deadline = Instant::now() + STRANGER_TIMEOUT;
    let close = match timeout_at(deadline, hear(hub, key, &connection)).await {
        Ok(Ok((mut send, bytes))) => {
            let delivered = async {
                send.write_all(&bytes).await.ok()?;
                send.finish().ok()?;
                send.stopped().await.ok()
            };
            // A stranger that doesn't take its answer in time loses it.
            let _ = timeout(STRANGER_TIMEOUT, delivered).await;
            Close::Done
        }
        Ok(Err(close)) => close,
        Err(_) => Close::Done,
    };
    close.apply(&connection);
}

async fn hear(
    hub: &Hub,
    key: PublicKey,
    connection: &Connection,
) -> Result<(super::SendStream, Vec<u8>), Close> {
    let exporter = identity::exporter_of(connection).ok_or(Close::Misbehaved)?;
    Class::Join.widen(connection);
    accept::welcome(connection).await.ok_or(Close::Done)?;
    let (send, mut recv) = connection.accept_bi().await.map_err(|_| Close::Done)?;
    let bytes = recv.read_to_end(limits::KNOCK_MAX).await.map_err(|_| Close::Misbehaved)?;
    let remote = connection.remote_address();
    let from = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let (answer, answered) = oneshot::channel();
    let event = NetEvent::Knock { key, exporter, from, bytes, answer };
    if !hub.inlet.event(event).await {
        return Err(Close::Done);
    }
    let answer = answered.await.map_err(|_| Close::Done)?;
    if answer.len() > limits::MESSAGE_MAX {
        tracing::warn!(size = answer.len(), "the answer to a knock is too large and was not sent");
        return Err(Close::Done);
    }
    Ok((send, answer))
}
