//! Dialling a member. Each dial is a task of its own, so that one that
//! hangs delays nobody else.
//!
//! It has succeeded when the other side's welcome was read, not before.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use quinn::Connection;
use tokio::time::timeout;

use super::{
    DIAL_TIMEOUT, NetError, NetEvent, RecvStream, SendStream, StreamKind, accept,
    hub::{Dial, Hub},
    identity::{Identity, SERVER_NAME},
    link::{self, Class, Close, Link, WELCOME},
    refusal, socket,
};
use crate::base::{MemberId, PublicKey};

/// Dials, reports to the hub, and serves the link until it ends.
pub(super) async fn run(hub: Arc<Hub>, dial: Dial) {
    let outcome = async {
        // Not kept beyond the dial: an endpoint is open as long as anybody has it.
        let endpoint = hub.endpoint().ok_or(NetError::Closing)?;
        // Before anything is sent there.
        let said = hub.refusals.listen();
        let is_heard = AtomicBool::new(false);
        tokio::select! {
            biased;
            outcome = welcomed(
                &endpoint, &hub.identity, dial.class, Some(dial.key), dial.address, &is_heard,
            ) => outcome,
            () = refusal::refusal(said, dial.address, &is_heard) => {
                Err(NetError::NobodyListens { address: dial.address })
            }
        }
    };
    let outcome = outcome.await;
    let refused = matches!(outcome, Err(NetError::NobodyListens { .. }));
    let failed = outcome.is_err();
    let disowned = matches!(
        &outcome,
        Err(NetError::Refused { reason, .. }) if reason == Close::Unknown.text()
    );
    let foreign = matches!(&outcome, Err(NetError::OtherCluster { .. }));
    let Some((link, large)) = hub.dialled(dial, outcome) else {
        if foreign && dial.class == Class::Talk {
            hub.inlet.event(NetEvent::Foreign { member: dial.member }).await;
        }
        if disowned && dial.class == Class::Talk {
            hub.inlet.event(NetEvent::Disowned { member: dial.member }).await;
        }
        if failed && dial.class == Class::Talk && !hub.is_talking(dial.member) {
            let member = dial.member;
            let event = match refused {
                true => NetEvent::Refused { member },
                false => NetEvent::Lost { member },
            };
            hub.inlet.event(event).await;
        }
        return;
    };
    match dial.class {
        Class::Talk => accept::serve_talk(hub, dial.member, link, large).await,
        class => {
            let error = link.connection.closed().await;
            hub.ended(dial.member, class, &link, &error);
        }
    }
}

/// Connects and waits for the welcome, for each no longer than [`DIAL_TIMEOUT`]: a
/// member that has answered but is overloaded deserves more patience than one
/// that hasn't. `is_heard` is set as soon as anything has come from there.
pub(super) async fn welcomed(
    endpoint: &quinn::Endpoint,
    identity: &Identity,
    class: Class,
    expected: Option<PublicKey>,
    address: SocketAddr,
    is_heard: &AtomicBool,
) -> Result<Connection, NetError> {
    let config = socket::client_config(identity, class, expected)?;
    let mut connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|error| NetError::Unreachable { address, cause: error.to_string() })?;
    let late = |_| link::unanswered(address);
    let failed = |error| link::dial_error(address, &error);
    let connected = async {
        // Whatever is wrong is told by the connection itself.
        is_heard.store(connecting.handshake_data().await.is_ok(), Ordering::Relaxed);
        connecting.await
    };
    let connection = timeout(DIAL_TIMEOUT, connected).await.map_err(late)?.map_err(failed)?;
    let welcome = timeout(DIAL_TIMEOUT, hear_welcome(&connection)).await.map_err(late)?;
    if welcome == Some(WELCOME) {
        return Ok(connection);
    }
    Err(match connection.close_reason() {
        Some(error) => failed(error),
        None => NetError::Unreachable {
            address,
            cause: "what answered there does not speak as a member does".to_owned(),
        },
    })
}

async fn hear_welcome(connection: &Connection) -> Option<u8> {
    let mut welcome = [0];
    connection.accept_uni().await.ok()?.read_exact(&mut welcome).await.ok()?;
    Some(welcome[0])
}

/// Opens a stream of `kind` to `to`.
pub(super) async fn open(
    hub: &Arc<Hub>,
    to: MemberId,
    kind: StreamKind,
) -> Result<(SendStream, RecvStream), NetError> {
    let class = Class::from(kind);
    // The link may end between being given and being used; then another is asked for, once.
    for _ in 0..2 {
        let link: Link =
            hub.link(to, class).await.unwrap_or(Err(NetError::UnknownMember { member: to }))?;
        let Ok((mut send, recv)) = link.connection.open_bi().await else { continue };
        if send.write_all(&[class as u8]).await.is_ok() {
            return Ok((send, recv));
        }
    }
    Err(NetError::Unreachable {
        address: hub.address_of(to).ok_or(NetError::UnknownMember { member: to })?,
        cause: "the connection broke twice while a stream was opened".to_owned(),
    })
}
