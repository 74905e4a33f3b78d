//! TLS at the status port: a certificate and its key from two files, read again when somebody
//! says so, and the handshake. Whoever comes without TLS is told to come with it.
//!
//! A file that can't be used replaces no certificate that can: the one before stays.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use zeroize::Zeroizing;

use crate::{
    base::{Reason, Refusal, WallTime},
    gateway::{BadCertificate, PortCertificate, Validity},
    member::event::Severity,
    node::wall_now,
};

/// The largest file that is read, bytes: ten certificates and a key are a tenth of it.
const FILE_MAX: u64 = 256 << 10;
/// How long a handshake may take, with the wait for its turn.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// The same while many are under way.
const HANDSHAKE_WITHIN_CROWDED: Duration = Duration::from_secs(3);
/// Handshakes under way at one time: a quarter of the connections that there may be.
const HANDSHAKES_MAX: usize = 64;
/// What a client begins with that speaks TLS: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// How long the request of a client that does not is read, so that it gets its answer.
const LINGER: Duration = Duration::from_secs(1);
/// And how much of it, bytes.
const LINGER_MAX: u64 = 64 << 10;

/// The certificate of the status port. Clones are the same: what one reads anew, the next
/// handshake of all takes.
#[derive(Clone, Debug)]
pub struct StatusTls {
    held: Arc<Mutex<StatusCertificate>>,
    handshakes: Arc<Semaphore>,
}

/// A certificate and its key as they were read from their files.
#[derive(Clone, Debug)]
pub struct StatusCertificate {
    certificate: PathBuf,
    key: PathBuf,
    read: Arc<PortCertificate>,
}

impl StatusCertificate {
    /// Reads PEM: the chain in `certificate`, the server's own first, and its private key in `key`,
    /// which may be the same file.
    ///
    /// # Errors
    /// If one of them can't be read, or they can't be used.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Refusal> {
        let mut pem = text(certificate, "The certificate")?;
        if certificate != key {
            let key = text(key, "The key")?;
            // Not grown in place: what is left behind then is not wiped.
            pem = Zeroizing::new([pem.as_str(), "\n", key.as_str()].concat());
        }
        let read = PortCertificate::from_pem(&pem).map_err(|why| {
            let why = match why {
                BadCertificate::NoKey => "there is no private key in it, as PEM".to_owned(),
                why => why.to_string(),
            };
            unusable(format!(
                "The certificate {} with the key {} can't be used: {why}.",
                certificate.display(),
                key.display()
            ))
        })?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), read: Arc::new(read) })
    }
}

impl StatusTls {
    /// Handshakes with `held`.
    pub fn new(held: StatusCertificate) -> Self {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Self { held: Arc::new(Mutex::new(held)), handshakes }
    }

    /// From now on with `next`.
    pub fn set(&self, next: StatusCertificate) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Whether `next` may take the place of what there is.
    ///
    /// # Errors
    /// If it is out of time while what there is is not.
    pub fn check(&self, next: &StatusCertificate) -> Result<(), Refusal> {
        let now = wall_now();
        let (held, next_one) = (self.held().read.validity(), next.read.validity());
        if !held.holds(now) || next_one.holds(now) {
            return Ok(());
        }
        let (shown, why) = (next.certificate.display(), out_of_time(next_one, now));
        Err(unusable(format!("The certificate {shown} can't be used: {why}.")))
    }

    /// Reads its files again.
    ///
    /// # Errors
    /// If they can't be used, or what they hold may not take the place of what there is, which
    /// stays then.
    pub fn read_anew(&self) -> Result<(), Refusal> {
        let before = self.held();
        let next = StatusCertificate::read(&before.certificate, &before.key)?;
        self.check(&next)?;
        self.set(next);
        Ok(())
    }

    /// How it is with the certificate, as an event tells it, and how much that matters.
    pub fn told(&self) -> (Severity, String) {
        self.told_at(wall_now())
    }

    pub(super) fn told_at(&self, now: WallTime) -> (Severity, String) {
        let held = self.held();
        told(&held.certificate, held.read.validity(), now)
    }

    fn held(&self) -> StatusCertificate {
        // A poisoned lock holds a whole certificate: each change is one step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shakes hands, and says with which certificate.
    pub(super) async fn greet(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Arc<PortCertificate>)> {
        let crowded = self.handshakes.available_permits() < HANDSHAKES_MAX / 2;
        let within = if crowded { HANDSHAKE_WITHIN_CROWDED } else { HANDSHAKE_WITHIN };
        let whole = async {
            // Who says nothing takes no place from those who do.
            let mut first = [0];
            if stream.peek(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if first[0] != HANDSHAKE_RECORD {
                send_away(stream).await?;
                return Err(io::Error::other("it does not speak TLS"));
            }
            let _place = self.handshakes.acquire().await.map_err(io::Error::other)?;
            let certificate = self.held().read;
            let stream = TlsAcceptor::from(certificate.config()).accept(stream).await?;
            Ok((stream, certificate))
        };
        timeout(within, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The text of a file, which may be a key: of bounded size, and wiped.
fn text(path: &Path, what: &str) -> Result<Zeroizing<String>, Refusal> {
    let shown = path.display();
    let unread = |why: String| unusable(format!("{what} {shown} can't be read: {why}."));
    let metadata = fs::metadata(path).map_err(|error| unread(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > FILE_MAX {
        return Err(unread("it is no file, or larger than 256 KiB".to_owned()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX as usize));
    fs::File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes))
        .map_err(|error| unread(error.to_string()))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| unread("it is no text, so perhaps DER: it has to be PEM".to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn unusable(why: String) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "The certificate of the status port was not read.",
        why,
        "Give a certificate and its key as PEM with --status-cert and --status-key, in files that \
         this user may read.",
    )
}

fn out_of_time(validity: Validity, now: WallTime) -> String {
    if now > validity.until() {
        format!("it expired on {}", validity.until())
    } else {
        format!("it is not valid before {}", validity.since())
    }
}

fn told(path: &Path, validity: Validity, now: WallTime) -> (Severity, String) {
    let shown = path.display();
    let (since, until) = (validity.since(), validity.until());
    let todo = "replace the file and its key, and send SIGHUP";
    if !validity.holds(now) {
        let why = out_of_time(validity, now);
        let text =
            format!("clients refuse the certificate of the status port, {shown}: {why}; {todo}");
        return (Severity::Warning, text);
    }
    let text = format!(
        "the status port speaks TLS with the certificate {shown}, which is valid from {since} \
         until {until}"
    );
    if validity.ends_soon(now) {
        return (Severity::Warning, format!("{text}, and that is soon: {todo}"));
    }
    (Severity::Info, text)
}

/// Says to a client without TLS that this port wants it.
async fn send_away(mut stream: TcpStream) -> io::Result<()> {
    #[derive(Serialize)]
    struct Refused {
        error: Refusal,
    }
    let error = Refusal::new(
        Reason::Invalid,
        "Nothing was done.",
        "This port speaks TLS, and the request came as plain HTTP.",
        "Use https:// and the same address; with the command line, --via https://HOST:PORT.",
    );
    let body = serde_json::to_string(&Refused { error }).map_err(io::Error::other)?;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n\
         {body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Bytes that nobody has read would make the kernel cut the answer off.
    let mut rest = stream.take(LINGER_MAX);
    let mut nowhere = tokio::io::sink();
    let _enough = timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await;
    Ok(())
}
