//! Dialling a member. Each dial is a task of its own, so that one that
//! hangs delays nobody else.
//!
//! It has succeeded when the other side's welcome was read, not before.

use std::sync::Arc;

use quinn::Connection;
use tokio::time::timeout;

use super::{
    DIAL_TIMEOUT, NetError, NetEvent, RecvStream, SendStream, StreamKind, accept,
    hub::{Dial, Hub},
    identity::{Identity, SERVER_NAME},
    link::{self, Class, Link, WELCOME},
    socket,
};
use crate::base::{MemberId, PublicKey};

/// Dials, reports to the hub, and serves the link until it ends.
pub(super) async fn run(hub: Arc<Hub>, dial: Dial) {
    let outcome = timeout(DIAL_TIMEOUT, async {
        // Not kept beyond the dial: an endpoint is open as long as anybody has it.
        let endpoint = hub.endpoint().ok_or(NetError::Closing)?;
        welcomed(&endpoint, &hub.identity, dial.class, Some(dial.key), dial.address).await
    })
    .await
    .unwrap_or_else(|_| Err(link::unanswered(dial.address)));
    let failed = outcome.is_err();
    let Some((link, large)) = hub.dialled(dial, outcome) else {
        if failed && dial.class == Class::Talk && !hub.is_talking(dial.member) {
            hub.inlet.event(NetEvent::Lost { member: dial.member }).await;
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

/// Connects and waits for the welcome.
pub(super) async fn welcomed(
    endpoint: &quinn::Endpoint,
    identity: &Identity,
    class: Class,
    expected: Option<PublicKey>,
    address: std::net::SocketAddr,
) -> Result<Connection, NetError> {
    let config = socket::client_config(identity, class, expected)?;
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|error| NetError::Unreachable { address, cause: error.to_string() })?;
    let failed = |error| link::dial_error(address, &error);
    let connection = connecting.await.map_err(failed)?;
    let mut stream = connection.accept_uni().await.map_err(failed)?;
    let mut welcome = [0];
    match stream.read_exact(&mut welcome).await {
        Ok(()) if welcome == [WELCOME] => Ok(connection),
        _ => Err(match connection.close_reason() {
            Some(error) => failed(error),
            None => NetError::Unreachable {
                address,
                cause: "what answered there does not speak as a member does".to_owned(),
            },
        }),
    }
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
