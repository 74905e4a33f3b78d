//! TLS to clients: the handshake, whose certificate is chosen by the name that they ask
//! for, and what they speak after it.
//!
//! A connection belongs to the application whose certificate it began with. Certificates
//! are replaced while connections go on: each holds its own, and the next handshake takes
//! the new one.
//!
//! After RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066, section 3 (server names), and
//! RFC 9110, section 15.5.20 (misdirected requests).

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncBufRead, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    Forward, Sites,
    connection::{Came, Shared},
    http2,
    transport::{Broken, Plain, prepare},
};
use crate::base::AppName;

mod certificate;
mod port;
mod validity;

pub use certificate::{BadCertificate, Certificate};
pub use port::PortCertificate;
pub use validity::Validity;

/// What a client is told that asks for a name which nobody here has a certificate for: an
/// alert, fatal, `unrecognized_name` (RFC 6066).
const UNRECOGNIZED: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection after its handshake. It is large, and goes from hand to hand.
type Session = Box<TlsStream<TcpStream>>;

/// How a host name is served over TLS.
#[derive(Clone, Debug)]
pub struct Secured {
    /// What handshakes take.
    pub certificate: Arc<Certificate>,
    /// How long browsers are to come by TLS alone; nothing is said of it if zero.
    pub hsts: Duration,
}

/// The certificates of the applications that this member holds.
#[derive(Debug, Default)]
pub struct Certificates {
    all: RwLock<BTreeMap<AppName, Arc<Certificate>>>,
    known: CancellationToken,
}

impl Certificates {
    /// The one of `app`.
    pub fn of(&self, app: &AppName) -> Option<Arc<Certificate>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    /// Handshakes from now on take `certificate` for `app`, or are refused.
    pub fn set(&self, app: &AppName, certificate: Option<Arc<Certificate>>) {
        // A poisoned lock holds a whole table: each change is one step.
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        match certificate {
            Some(certificate) => drop(all.insert(app.clone(), certificate)),
            None => drop(all.remove(app)),
        }
    }

    /// Those of all applications but these are gone.
    pub fn retain(&self, stays: impl Fn(&AppName) -> bool) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).retain(|app, _| stays(app));
    }

    /// All that there are have been looked for: until then clients wait, so that a member
    /// that starts turns nobody away.
    pub fn is_known(&self) {
        self.known.cancel();
    }

    /// What is cancelled by [`is_known`](Self::is_known).
    pub fn known(&self) -> CancellationToken {
        self.known.clone()
    }
}

impl<F: Forward> Shared<F> {
    /// One connection to where TLS is spoken.
    pub(super) async fn secure(
        self: &Arc<Self>,
        stream: TcpStream,
        mut came: Came,
    ) -> Result<(), Broken> {
        let Ok(()) = prepare(&stream) else { return Ok(()) };
        // Apart, since nothing of it is kept.
        let (stream, certificate) = match Box::pin(self.handshake(stream)).await {
            Ok(greeted) => greeted,
            Err(error) => {
                tracing::debug!(client = %came.address, %error, "a handshake came to nothing");
                return Ok(());
            }
        };
        came.certificate = Some(certificate);
        came.is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if came.is_http2 {
            return Box::pin(http2::serve(self, stream, came)).await;
        }
        let mut io = Plain::waiting(stream, self.limits.stall, |stream, cx| {
            // What is decrypted waits in the session, whose buffer is there anyway.
            Pin::new(stream).poll_fill_buf(cx).map_ok(|_| ())
        });
        self.requests(&mut io, &came).await
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<(Session, Arc<Certificate>)> {
        let crowded = self.handshakes.available_permits() < self.limits.handshakes / 2;
        let within = if crowded { self.limits.head_crowded } else { self.limits.head };
        let whole = async {
            // Who says nothing takes no place from those who do.
            stream.readable().await?;
            let _place = self.handshakes.acquire().await.map_err(io::Error::other)?;
            accept(stream, self.sites.as_ref()).await
        };
        timeout(within, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Shakes hands with the certificate of the application that the client asks for.
async fn accept(stream: TcpStream, sites: &dyn Sites) -> io::Result<(Session, Arc<Certificate>)> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let secured = {
        let hello = start.client_hello();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let name = name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
        sites.secured(name)
    };
    let Some(Secured { certificate, .. }) = secured else {
        start.io.write_all(&UNRECOGNIZED).await?;
        start.io.shutdown().await?;
        return Err(io::Error::other("there is no certificate for the name that it asks for"));
    };
    let stream = start.into_stream(certificate.config()).await?;
    Ok((Box::new(stream), certificate))
}
