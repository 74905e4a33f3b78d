//! Listeners and connections: the accept loop, its bounds, and a Unix socket
//! that is never open to anybody but its owner.
//!
//! `axum::serve` has neither a limit on connections nor a timer for request
//! heads, so that a status port would be held up by anyone who opens
//! connections and stays silent; hence this loop around hyper's server.

use std::{
    fs,
    future::ready,
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    serve::{Listener, ListenerExt},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    operator::Peer,
    routes::{self, Site},
    source::Source,
    tls::StatusTls,
};

/// Connections of one door at one time. A browser uses two or three.
const CONNECTIONS_MAX: usize = 256;
/// How long a request head may take, and how long a connection may idle.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// The largest request head, bytes.
const HEAD_MAX: usize = 16 << 10;
/// How long a connection of the status port lives. A reader that stalls can't
/// keep its place for ever, and a stream that is cut here resumes by its ids.
const STATUS_CONNECTION_MAX: Duration = Duration::from_secs(3_600);
/// How long answers under way may take once the member stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves everything, commands included, on a Unix socket at `path` that only
/// this process' user may open. Ends when `shutdown` is cancelled.
///
/// # Errors
/// The socket can't be made: see [`bind_socket`].
pub async fn serve_socket<S: Source>(
    source: S,
    path: &Path,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = bind_socket(path)?;
    let mine = Mine::of(path)?;
    let router = routes::full(Site::new(source, shutdown.clone()));
    // No longest life here: a publication of terabytes waits for its answer.
    accept_loop(listener, |stream, _| ready(Some((stream, router.clone()))), None, shutdown).await;
    mine.remove();
    Ok(())
}

/// Serves what reads on `listener`, and what operators with a token may do. Ends when `shutdown`
/// is cancelled.
///
/// # Errors
/// None today; the listener's passing errors are logged and waited out.
pub async fn serve_status<S: Source>(
    source: S,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = routes::status(Site::new(source, shutdown.clone()));
    let greet = |stream: TcpStream, address: SocketAddr| {
        let peer = Peer { address, certificate: None };
        ready(Some((stream, router.clone().layer(Extension(peer)))))
    };
    accept_loop(undelayed(listener), greet, Some(STATUS_CONNECTION_MAX), shutdown).await;
    Ok(())
}

/// The same over TLS and in no other way: so operators are listened to from everywhere.
///
/// # Errors
/// None today; the listener's passing errors are logged and waited out.
pub async fn serve_status_tls<S: Source>(
    source: S,
    listener: TcpListener,
    tls: StatusTls,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = routes::status(Site::new(source, shutdown.clone()));
    let greet = |stream: TcpStream, address: SocketAddr| {
        let (tls, router) = (tls.clone(), router.clone());
        async move {
            match tls.greet(stream).await {
                Ok((stream, certificate)) => {
                    let peer = Peer { address, certificate: Some(certificate) };
                    Some((stream, router.layer(Extension(peer))))
                }
                Err(error) => {
                    tracing::debug!(client = %address, %error, "a handshake came to nothing");
                    None
                }
            }
        }
    };
    accept_loop(undelayed(listener), greet, Some(STATUS_CONNECTION_MAX), shutdown).await;
    Ok(())
}

fn undelayed(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "a connection stays as it is");
        }
    })
}

/// Makes the Unix socket at `path` with mode 0600. It is bound and restricted
/// under another name and then renamed, so that it never stands at `path` with
/// a wider mode. What a killed process left is replaced; a socket on which
/// somebody answers, or a file that is no socket, is not. Needs a runtime.
///
/// # Errors
/// `AddrInUse` if another process answers there, `AlreadyExists` if it is no
/// socket, and what the file system says (a path of more than 100 bytes or so).
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is no socket: move it away", path.display()),
            ));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!(
                        "a member answers on {} already: stop it first, or use another data \
                         directory",
                        path.display()
                    ),
                ));
            }
        },
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// The socket file of this process, told from one that took its place.
struct Mine {
    path: PathBuf,
    inode: (u64, u64),
}

impl Mine {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), inode: (meta.dev(), meta.ino()) })
    }

    fn remove(self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        // If it stays, the next start sees that nobody answers and replaces it.
        if same && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket file stays");
        }
    }
}

/// Accepts until `shutdown`, then waits for the answers under way. `greet` makes of a connection
/// what requests come over, and of who is connected the router for them; nothing, where it comes
/// to nothing. The listener itself waits out what fails (no descriptor left, most often).
async fn accept_loop<L, T, F>(
    mut listener: L,
    greet: impl Fn(L::Io, L::Addr) -> F,
    life_max: Option<Duration>,
    shutdown: CancellationToken,
) where
    L: Listener,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Option<(T, Router)>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => {
                place.expect("the semaphore is never closed: it lives in this function")
            }
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (greeting, shutdown) = (greet(stream, peer), shutdown.clone());
        connections.spawn(async move {
            let connection = async {
                let greeted = tokio::select! {
                    () = shutdown.cancelled() => None,
                    greeted = greeting => greeted,
                };
                if let Some((stream, router)) = greeted {
                    connection(stream, router, shutdown.clone()).await;
                }
            };
            match life_max {
                Some(life) => drop(time::timeout(life, connection).await),
                None => connection.await,
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

/// One connection, until the peer or `shutdown` ends it.
async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
    router: Router,
    shutdown: CancellationToken,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            time::timeout(GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        // Peers hang up as they like: of no interest to an operator.
        tracing::trace!(%error, "a connection ended");
    }
}
