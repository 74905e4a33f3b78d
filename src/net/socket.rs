//! The socket and the QUIC endpoint on it.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    ValidationTokenConfig,
};

use super::{
    NetError,
    identity::Identity,
    link::{self, Class},
    quiet::Quiet,
};
use crate::base::{PublicKey, SecretKey};

/// Handshakes that may wait to be looked at, and the bytes that came with them.
const INCOMING_MAX: usize = 1_024;
const INCOMING_BYTES_MAX: u64 = 1 << 20;
/// What the socket is asked to buffer, bytes. The system may grant less.
const SOCKET_BUFFER: usize = 2 << 20;
/// Length of a connection id, bytes: enough that none is met twice by chance.
const CONNECTION_ID_SIZE: usize = 8;

/// An endpoint at `address` that dials.
pub(super) fn dialler(address: SocketAddr, key: &SecretKey) -> Result<Endpoint, NetError> {
    open_endpoint(open(address)?, address, key, None)
}

/// An endpoint on `socket`, which is at `address`, that dials and, as `server` says, is dialled.
pub(super) fn open_endpoint(
    socket: UdpSocket,
    address: SocketAddr,
    key: &SecretKey,
    server: Option<ServerConfig>,
) -> Result<Endpoint, NetError> {
    Endpoint::new(endpoint_config(key.seed()), server, socket, Arc::new(Quiet))
        .map_err(|error| bind_error(address, &error))
}

/// The configuration for being dialled.
pub(super) fn server_config(identity: &Identity) -> Result<ServerConfig, NetError> {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    let mut config = ServerConfig::with_crypto(identity.server()?);
    config
        .transport_config(link::acceptor_transport())
        .validation_token_config(tokens)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX / 16)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX);
    Ok(config)
}

/// The configuration for a client that dials as `class`.
pub(super) fn client_config(
    identity: &Identity,
    class: Class,
    expected: Option<PublicKey>,
) -> Result<ClientConfig, NetError> {
    let mut config = ClientConfig::new(identity.client(class, expected)?);
    config.transport_config(class.dialler_transport());
    Ok(config)
}

/// Reset tokens come from the member's key, so that after a restart it can tell the
/// peers at once that the connections of its former life are over (RFC 9000
/// section 10.3). For the same reason a connection id carries no mark of the
/// process that chose it, as quinn's own do.
fn endpoint_config(seed: &[u8; 32]) -> EndpointConfig {
    let key = blake3::derive_key("althing net 1 stateless reset", seed);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Connection ids that are random throughout.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; CONNECTION_ID_SIZE]>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_SIZE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket with roomy buffers.
pub(super) fn open(address: SocketAddr) -> Result<UdpSocket, NetError> {
    let socket = UdpSocket::bind(address).map_err(|error| bind_error(address, &error))?;
    // The system may grant less, or nothing; then a burst costs a retransmission.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    Ok(socket)
}

fn bind_error(address: SocketAddr, error: &io::Error) -> NetError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NetError::PortInUse { address },
        io::ErrorKind::PermissionDenied => NetError::NotPermitted { address },
        _ => NetError::Bind { address, cause: error.to_string() },
    }
}
