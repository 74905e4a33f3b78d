//! F3, the gateway: serves the static sites that the cluster holds, over
//! HTTP/1.1 on a TCP listener, and passes requests on: to the programs that
//! answer them (`proxy`), and to members that hold what this one does not.
//!
//! Our own connection loop: `httparse` reads the heads and sendfile(2) moves
//! the bodies, because no server library offers sendfile. What is answered is
//! decided by pure functions ([`answer`]); the rest moves bytes.
//!
//! **Invariants.** Every response comes from one whole version: the
//! [`Route`] is taken once for a request and its [`Site`] held to the end. A
//! body is never padded: if its file turns out shorter or other than the tree
//! says, the connection is cut, so that nobody takes the wrong bytes for the
//! right ones. Who speaks TLS (`tls`) may speak HTTP/2 (`http2`): each of its requests
//! takes the same way as one of HTTP/1.1. Nothing here knows where content is stored, how members are
//! reached or who decides: that is behind [`Sites`], [`Site`] and [`Forward`].
//!
//! After RFC 9110 (semantics), RFC 9112 (HTTP/1.1) and RFC 9111 (caching).

use std::{future::Future, io, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    base::{
        AppName, MemberId, RelPath,
        catalog::AppSpec,
        tree::{Chunk, Tree},
    },
    proto::balance::choice::Candidate,
};

pub mod access;
pub mod answer;
mod balance;
mod connection;
mod deliver;
pub mod encoding;
pub mod forwarded;
mod http2;
pub mod origins;
pub mod ports;
mod proxy;
pub mod range;
pub mod request;
pub mod stats;
pub mod tally;
pub mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
pub mod vip;

pub use connection::{Doors, Front, Networks, serve, serve_forwarded};
pub use proxy::{Affinity, Backends, KeyOf, Process, Turn};
pub use stats::{Served, Snapshot, Stats};
pub use tally::Tally;
pub use tcp::{Cut, Lead, Leads, Tunnels, serve_tunnel};
pub use tls::{BadCertificate, Certificate, Certificates, PortCertificate, Secured, Validity};

/// Where a request is answered.
pub enum Route {
    /// Here, from this version.
    Local(Arc<dyn Site>),
    /// By one of these members. Never empty in practice; if it is, the answer is 503.
    Remote {
        /// What they answer for: see
        /// [`Asked::of`](crate::proto::balance::choice::Asked::of).
        of: u64,
        /// Who.
        others: Arc<[Candidate]>,
    },
    /// By a program, on this member or on another one.
    Service(Backends),
    /// At the same address by TLS, at this port if not 443.
    ByTls(Option<u16>),
    /// Nowhere.
    Unavailable {
        /// The HTTP status, 400 to 599: 404 for a host name that no
        /// application claims, 503 for one that nobody can serve now.
        status: u16,
        /// One sentence for the visitor; escaped before it is shown.
        why: String,
    },
}

/// Who answers for a host name and a path. Asked once for every request.
pub trait Sites: Send + Sync + 'static {
    /// Quick: it is called on the event loop.
    fn route(&self, target: Target<'_>) -> Route;

    /// Which application `target` is for, and which version of it is here: for what is counted
    /// and written down. As quick.
    fn named(&self, _target: Target<'_>) -> Option<(AppName, Option<u64>)> {
        None
    }

    /// Both, from one look.
    fn routed(&self, target: Target<'_>) -> (Route, Option<(AppName, Option<u64>)>) {
        (self.route(target), self.named(target))
    }

    /// How `host` is served over TLS, for one who asks for it, or for none; nothing where
    /// there is no certificate for it here. As quick.
    fn secured(&self, _host: Option<&str>) -> Option<Secured> {
        None
    }
}

/// What a request is routed by.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The application, where the listener that the request came to is its own.
    pub app: Option<&'a AppName>,
    /// The name alone: lower case, without port and without a dot at the end. None where
    /// the request names none (HTTP/1.0).
    pub host: Option<&'a str>,
    /// Still percent-encoded, with its leading slash.
    pub path: &'a str,
    /// Whether another member passes it on, which knew of nobody better.
    pub by_member: bool,
    /// Whether the client came by TLS.
    pub secure: bool,
}

/// One whole version of one application. What it says never changes while it
/// is held.
pub trait Site: Send + Sync {
    /// Which application.
    fn app(&self) -> &AppName;
    /// Which version of it.
    fn version(&self) -> u64;
    /// What the version holds.
    fn tree(&self) -> &Tree;
    /// How the version is served.
    fn spec(&self) -> &AppSpec;
    /// The live file at `path` if it is unchanged since it was verified, for
    /// reading; `None` means that the chunks are to be used. Quick: it is
    /// called on the event loop.
    fn open(&self, path: &RelPath) -> Option<std::fs::File>;
    /// The versions that were served until a while ago, newest first: what a page of theirs
    /// asks for is answered from them (*skew protection*).
    fn earlier(&self) -> Vec<Arc<dyn Site>> {
        Vec::new()
    }
    /// The bytes of `chunk` from the content store, verified. May block.
    fn chunk(&self, chunk: &Chunk) -> io::Result<Vec<u8>>;
}

/// The way to other members.
pub trait Forward: Send + Sync + 'static {
    /// A stream both ways that carries one request and its response.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Opens a stream to `member`, at whose end [`serve_forwarded`] runs.
    fn connect(&self, member: MemberId) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}
