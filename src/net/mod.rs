//! Transport and identity: members talk over QUIC (`quinn`) with TLS 1.3, and
//! know each other by their Ed25519 keys.
//!
//! The roster that the caller sets ([`Net::set_peers`]) is the root of trust,
//! both ways. Between two members there is at most one connection in use for each
//! class of traffic: *talk* (SWIM datagrams and short messages, by lanes), *pull*
//! (content) and *http* (forwarded requests). Each is opened when first
//! needed and closes after some seconds of silence. Classes are separate connections so
//! that neither congestion nor flow control of a transfer, nor a slow reader, can
//! ever delay a probe. A connection counts only after the other side said welcome
//! on it: in TLS 1.3 a client is connected before it is accepted.
//!
//! Delivery is best effort. Datagrams and messages are sent once, in no
//! guaranteed order, and lost with their connection; who needs an answer asks again.
//!
//! What this never does: decide who is a member, read what it carries, trust a
//! certificate's names or dates, resume a session, block the caller of
//! [`Net::datagram`] or [`Net::send`], or keep a timer running while idle.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::base::{ClusterId, MemberId, PublicKey, SecretKey, limits};

pub use knock::knock;
pub use quinn::{RecvStream, SendStream, VarInt};

mod accept;
mod counters;
mod dial;
mod hub;
mod identity;
mod inlet;
mod knock;
mod link;
mod outbox;
mod quiet;
mod refusal;
mod socket;
#[cfg(test)]
mod tests;

use hub::{Hub, Opened};
use link::Class;
use outbox::Tag;

/// What [`Net::bind`] needs.
pub struct Config {
    /// Where to listen (UDP). Port 0 lets the system choose.
    pub bind: SocketAddr,
    /// This member's key.
    pub key: SecretKey,
    /// The cluster. Members of another one are refused before anything is said.
    pub cluster: ClusterId,
}

/// A member that may connect and be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its key, which it has to prove.
    pub key: PublicKey,
    /// Where to dial it.
    pub address: SocketAddr,
}

/// How urgent a one-way message is. A higher lane goes first on the same
/// connection; among messages of one lane no order is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The register's promises and accepts.
    Register,
    /// Ballots of the vote.
    Ballot,
    /// Everything else.
    Control,
}

/// What a bidirectional stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Content, asked for by the side that opens. Bulk: it never delays the others.
    Pull,
    /// An HTTP request that is forwarded.
    Http,
    /// A question about what runs there. A member of an older version knows none:
    /// then the handshake fails.
    Ask,
    /// A client's connection that is passed on. A member of an older version knows none:
    /// then the handshake fails.
    Tunnel,
}

/// What comes in.
#[derive(Debug)]
pub enum NetEvent {
    /// A SWIM packet, by datagram or, where it was too large for one, by stream.
    Datagram {
        /// Who sent it.
        from: MemberId,
        /// The packet, at most 64 KiB.
        bytes: Vec<u8>,
    },
    /// A one-way message.
    Message {
        /// Who sent it.
        from: MemberId,
        /// The message, at most [`limits::MESSAGE_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// A peer opened a stream.
    Stream {
        /// Who opened it.
        from: MemberId,
        /// What for.
        kind: StreamKind,
        /// Towards the peer.
        send: SendStream,
        /// From the peer.
        recv: RecvStream,
    },
    /// A stranger is at the door. It is told nothing unless `answer` is used
    /// within ten seconds.
    Knock {
        /// The key that the stranger proved to hold.
        key: PublicKey,
        /// The TLS exporter of its connection, the same on its side.
        exporter: [u8; 32],
        /// Where it comes from.
        from: SocketAddr,
        /// What it says, at most [`limits::KNOCK_MAX`] bytes.
        bytes: Vec<u8>,
        /// Takes the answer, at most [`limits::MESSAGE_MAX`] bytes.
        answer: oneshot::Sender<Vec<u8>>,
    },
    /// No conversation with this member stands any more, or none came about:
    /// what was last sent may be lost. A hint, not a verdict.
    Lost {
        /// Who.
        member: MemberId,
    },
    /// The host of this member says that nobody listens at its port. A strong
    /// hint, and no verdict: anybody on the way can forge one.
    Refused {
        /// Who.
        member: MemberId,
    },
    /// What answers where this member should be is in another cluster, by its
    /// own unproven word: a hint for people.
    Foreign {
        /// Who should be there.
        member: MemberId,
    },
    /// This member, whose key was checked, refuses our conversation because it
    /// does not know us: we were removed, or it has not heard of us yet.
    Disowned {
        /// Who.
        member: MemberId,
    },
}

/// Counters since [`Net::bind`], but for `connections`, which is the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// SWIM packets handed to a connection.
    pub datagrams_sent: u64,
    /// SWIM packets received.
    pub datagrams_received: u64,
    /// SWIM packets given up, in either direction: nobody to dial, a full queue.
    pub datagrams_dropped: u64,
    /// Messages that the peer acknowledged.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Messages given up.
    pub messages_dropped: u64,
    /// UDP payload sent to members, bytes.
    pub bytes_sent: u64,
    /// UDP payload received from members, bytes.
    pub bytes_received: u64,
    /// Connections with members that stand now.
    pub connections: u64,
}

/// Why something on the network failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Another socket has the port.
    #[error(
        "UDP port {} of {} is in use: another program (perhaps another althing) listens there; \
         stop it or choose another port",
        .address.port(), .address.ip()
    )]
    PortInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system doesn't let this user have the port.
    #[error(
        "no permission to listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE; \
         choose a higher port or start with that capability"
    )]
    NotPermitted {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address can't be listened on for another reason.
    #[error("can't listen on {address}: {cause}; check that the address belongs to this server")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's words.
        cause: String,
    },
    /// The certificate could not be made of the key.
    #[error("this member's certificate could not be made: {cause}; please report this")]
    Identity {
        /// The library's words.
        cause: String,
    },
    /// Not in the roster.
    #[error("{member} is no member of this cluster, so it is not dialled")]
    UnknownMember {
        /// Who was meant.
        member: MemberId,
    },
    /// It doesn't answer, or could not be reached.
    #[error(
        "{address} can't be reached: {cause}; check that althing runs there and that UDP passes"
    )]
    Unreachable {
        /// Where it was dialled.
        address: SocketAddr,
        /// What happened.
        cause: String,
    },
    /// Its host answers, and says that nobody listens there.
    #[error(
        "nobody listens at {address}: the server answers, but no althing runs there; start it \
         there or check the port"
    )]
    NobodyListens {
        /// Where it was dialled.
        address: SocketAddr,
    },
    /// Another key answered at a member's address.
    #[error(
        "{address} answered with another key than the member's that should be there: it is \
         another server, or its identity was renewed"
    )]
    WrongKey {
        /// Where it was dialled.
        address: SocketAddr,
    },
    /// A member of another cluster answered.
    #[error("{address} belongs to another cluster; check the address")]
    OtherCluster {
        /// Where it was dialled.
        address: SocketAddr,
    },
    /// The other side said no.
    #[error("{address} refused the connection: {reason}")]
    Refused {
        /// Where it was dialled.
        address: SocketAddr,
        /// Its words, cleaned and cut.
        reason: String,
    },
    /// More than may be sent.
    #[error("{size} bytes are too many: at most {size_max} may be sent")]
    TooLarge {
        /// Bytes there are.
        size: usize,
        /// Bytes allowed.
        size_max: usize,
    },
    /// This side is shutting down.
    #[error("this member is shutting its network down")]
    Closing,
}

/// The network of one member. Clones share it; when the last one is dropped, it
/// ends as by [`Net::close`], but without waiting for anything.
#[derive(Clone)]
pub struct Net {
    hub: Arc<Hub>,
    _open: Arc<Open>,
}

/// Ends the network when the last [`Net`] is gone. The tasks share the hub, too, so
/// its own end would never come.
struct Open(Arc<Hub>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Net {
    /// Listens, with an empty roster: nobody but strangers that knock is let in
    /// until [`Net::set_peers`]. Has to be called inside a tokio runtime, which
    /// everything then runs on. The receiver has to be drained: while it is
    /// full, datagrams are dropped and messages wait at their senders.
    ///
    /// Errors: [`NetError::PortInUse`], [`NetError::NotPermitted`],
    /// [`NetError::Bind`].
    pub fn bind(config: Config) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let Opened { hub, events, ears } = Hub::bind(config)?;
        hub.runtime.spawn(accept::run(hub.clone(), ears));
        let _open = Arc::new(Open(hub.clone()));
        Ok((Self { hub, _open }, events))
    }

    /// Where this member listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.hub.local_address
    }

    /// Whom this member accepts and dials: the roster. Connections with members
    /// that are no longer in it are closed at once. A peer whose key does
    /// not hash to its id is ignored, as is this member itself. An address
    /// learnt by [`Net::set_address`] stays until the roster's own changes.
    pub fn set_peers(&self, peers: BTreeMap<MemberId, Peer>) {
        self.hub.set_peers(peers);
    }

    /// A newer address of `member`, learnt by gossip. The next dial goes there;
    /// connections that stand are left alone.
    pub fn set_address(&self, member: MemberId, address: SocketAddr) {
        self.hub.set_address(member, address);
    }

    /// Sends a SWIM packet. Never blocks; dials when needed, and keeps a few
    /// packets meanwhile (the oldest go first). What is too large for a datagram
    /// goes as a one-way stream. Dropped when `to` is unknown or did not
    /// answer a moment ago.
    pub fn datagram(&self, to: MemberId, bytes: Vec<u8>) {
        self.hub.datagram(to, Bytes::from(bytes));
    }

    /// Sends a one-way message: once, unordered, without an answer. Never
    /// blocks; dropped when more than 16 MiB already wait for `to`, when
    /// it did not answer a moment ago, or when it is larger than
    /// [`limits::MESSAGE_MAX`].
    pub fn send(&self, to: MemberId, lane: Lane, bytes: Vec<u8>) {
        if bytes.len() > limits::MESSAGE_MAX {
            tracing::warn!(%to, size = bytes.len(), "a message is too large and was not sent");
            self.hub.counters.messages_dropped(1);
            return;
        }
        self.hub.send(to, Tag::from(lane), Bytes::from(bytes));
    }

    /// Opens a stream to `to`, dialling when needed (2 s at most, 4 s where the
    /// peer answers but is overloaded). While 16 pulls,
    /// 256 requests, 32 questions or 1,024 tunnels to `to` are open, the next waits for one of them to end. A
    /// stream that is dropped ends as if it had been `finish`ed, so a format
    /// on it has to know its own length.
    ///
    /// Errors: [`NetError::UnknownMember`], and every one of dialling.
    pub async fn open(
        &self,
        to: MemberId,
        kind: StreamKind,
    ) -> Result<(SendStream, RecvStream), NetError> {
        dial::open(&self.hub, to, kind).await
    }

    /// Ends every connection and tells the peers `why`, after what waits to be
    /// sent has gone out. The port is free afterwards, unless somebody still
    /// holds a stream. Takes three seconds at most; mostly some milliseconds.
    pub async fn close(&self, why: &str) {
        self.hub.close(why).await;
    }

    /// What was done so far.
    pub fn stats(&self) -> NetStats {
        self.hub.stats()
    }
}

impl From<StreamKind> for Class {
    fn from(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Pull => Self::Pull,
            StreamKind::Http => Self::Http,
            StreamKind::Ask => Self::Ask,
            StreamKind::Tunnel => Self::Tunnel,
        }
    }
}

/// How long a handshake may take, and after it the welcome.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Microseconds of `since` until now, for comparing moments in an atomic.
fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
