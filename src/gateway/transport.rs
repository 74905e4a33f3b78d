//! What a response is written to: a TCP socket, where files go out by
//! sendfile(2) without passing through this process, or any other stream,
//! where they are read and written. Every wait for a client that takes
//! nothing is bounded.
//!
//! Two limits of sendfile, known and accepted as other servers accept them. A
//! page that is not in memory is waited for on the event loop; slices keep
//! that short. And what is queued are the file's own pages: whoever writes
//! *into* a live file, instead of replacing it as Althing does, may change
//! bytes that have not left yet. Such a file is noticed at the next slice or at
//! the end, and the connection is reset, which throws away what is queued.

use std::{
    fs::File,
    future::{Future, poll_fn},
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use rustix::net::{SendFlags, sockopt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::TcpStream,
    time::timeout,
};

/// Bytes sent before others get their turn, and between two looks at the file.
const SLICE: u64 = 1 << 20;
/// After so long without a word a client's host is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Bytes read at once where sendfile can't be used.
const COPY: u64 = 256 << 10;

/// Why a response ended before its time. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The client, or the way to it, is gone.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The client takes nothing.
    #[error("the client took no byte for too long, so the connection was given up")]
    Stalled,
    /// The live file is not what it was when it was opened.
    #[error(
        "a file was changed while it was sent, so the response was cut; it is repaired and the \
         client asks again"
    )]
    FileChanged,
    /// A chunk could not be read in the middle of a response.
    #[error("the content store failed, so the response was cut: {0}; check the disk")]
    Content(io::Error),
    /// The member that answers for us stopped in the middle.
    #[error("the member that holds the site stopped in the middle of its response: {0}")]
    Holder(io::Error),
}

impl Broken {
    /// Whether the client, or the way to it, is the reason.
    pub(super) fn is_of_client(&self) -> bool {
        match self {
            Self::Io(_) | Self::Stalled => true,
            Self::FileChanged | Self::Content(_) | Self::Holder(_) => false,
        }
    }
}

pub(super) trait Transport: Send {
    /// Appends what has arrived to `buffer`; 0 at the end of the stream.
    fn read(&mut self, buffer: &mut BytesMut) -> impl Future<Output = io::Result<usize>> + Send;
    /// Returns when there may be something to read, so that whoever waits holds no buffer.
    fn arrives(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Writes all of `bytes`; `more` says that a body follows at once.
    fn write(
        &mut self,
        bytes: &[u8],
        more: bool,
    ) -> impl Future<Output = Result<(), Broken>> + Send;
    /// Sends `len` bytes of `file` from `start`, all or [`Broken`]. `sent` goes up by what is
    /// sent as it is.
    fn send_file(
        &mut self,
        file: Arc<File>,
        start: u64,
        len: u64,
        sent: &AtomicU64,
    ) -> impl Future<Output = Result<(), Broken>> + Send;
    /// Both directions, to be used at the same time.
    fn halves(
        &mut self,
    ) -> (impl AsyncRead + Unpin + Send + '_, impl AsyncWrite + Unpin + Send + '_);
    /// Says that nothing more comes.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// A TCP connection.
pub(super) struct Tcp {
    stream: TcpStream,
    stall: Duration,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream, stall: Duration) -> io::Result<Self> {
        prepare(&stream)?;
        Ok(Self { stream, stall })
    }

    async fn by_sendfile(
        &mut self,
        file: Arc<File>,
        start: u64,
        len: u64,
        all: &AtomicU64,
    ) -> Result<(), Broken> {
        let stamp = Stamp::of(&file)?;
        let (mut offset, end) = (start, start + len);
        let mut slice = 0;
        while offset < end {
            stamp.check(&file)?;
            let count = (end - offset).min(SLICE) as usize;
            let stream = &self.stream;
            let call = || Ok(rustix::fs::sendfile(stream, &*file, Some(&mut offset), count)?);
            let sent = match self.attempt(call).await {
                Ok(0) => return Err(Broken::FileChanged),
                Ok(sent) => sent as u64,
                // Some file systems have no sendfile.
                Err(Broken::Io(e)) if e.raw_os_error() == Some(INVALID) => {
                    return copy_file(self, file, offset, end - offset, all).await;
                }
                // No socket fails like that: it is the disk.
                Err(Broken::Io(e)) if e.raw_os_error() == Some(DISK) => {
                    return Err(Broken::Content(e));
                }
                Err(broken) => return Err(broken),
            };
            all.fetch_add(sent, Relaxed);
            slice += sent;
            if slice >= SLICE {
                slice = 0;
                tokio::task::yield_now().await;
            }
        }
        stamp.check(&file)
    }

    /// One system call, repeated until the socket takes something.
    async fn attempt(&self, mut call: impl FnMut() -> io::Result<usize>) -> Result<usize, Broken> {
        loop {
            match self.stream.try_io(Interest::WRITABLE, &mut call) {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = timeout(self.stall, self.stream.writable()).await;
                    ready.map_err(|_| Broken::Stalled)??;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sets what every connection of a client has.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Heads wait for their bodies by MSG_MORE and for nothing else.
    stream.set_nodelay(true)?;
    // A client whose host is gone says nothing: where a protocol of its own is spoken, or
    // events are waited for, nothing else would notice.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    Ok(())
}

impl Transport for Tcp {
    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.stream.read_buf(buffer).await
    }

    async fn arrives(&mut self) -> io::Result<()> {
        // What `readable` does for the one who reads alone, and without a place in a list.
        poll_fn(|cx| self.stream.poll_read_ready(cx)).await
    }

    async fn write(&mut self, mut bytes: &[u8], more: bool) -> Result<(), Broken> {
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            let stream = &self.stream;
            let sent = self.attempt(|| Ok(rustix::net::send(stream, bytes, flags)?)).await?;
            if sent == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    async fn send_file(
        &mut self,
        file: Arc<File>,
        start: u64,
        len: u64,
        sent: &AtomicU64,
    ) -> Result<(), Broken> {
        let done = self.by_sendfile(file, start, len, sent).await;
        if matches!(done, Err(Broken::FileChanged)) {
            // What sendfile has queued are the file's own pages, so a write to
            // the file shows in what has not left yet: it must not leave.
            self.stream.set_zero_linger()?;
        }
        done
    }

    fn halves(
        &mut self,
    ) -> (impl AsyncRead + Unpin + Send + '_, impl AsyncWrite + Unpin + Send + '_) {
        self.stream.split()
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

const INVALID: i32 = rustix::io::Errno::INVAL.raw_os_error();
const DISK: i32 = rustix::io::Errno::IO.raw_os_error();

/// Any stream, as one over QUIC.
pub(super) struct Plain<S> {
    stream: S,
    stall: Duration,
    arrives: Arrives<S>,
}

/// How a stream is asked whether there may be something to read.
type Arrives<S> = fn(&mut S, &mut Context<'_>) -> Poll<io::Result<()>>;

impl<S> Plain<S> {
    pub(super) fn new(stream: S, stall: Duration) -> Self {
        Self::waiting(stream, stall, |_, _| Poll::Ready(Ok(())))
    }

    /// The same with a stream that can be waited at.
    pub(super) fn waiting(stream: S, stall: Duration, arrives: Arrives<S>) -> Self {
        Self { stream, stall, arrives }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for Plain<S> {
    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.stream.read_buf(buffer).await
    }

    async fn arrives(&mut self) -> io::Result<()> {
        poll_fn(|cx| (self.arrives)(&mut self.stream, cx)).await
    }

    async fn write(&mut self, mut bytes: &[u8], more: bool) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let sent = timeout(self.stall, self.stream.write(bytes)).await;
            let sent = sent.map_err(|_| Broken::Stalled)??;
            if sent == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            bytes = &bytes[sent..];
        }
        if !more {
            timeout(self.stall, self.stream.flush()).await.map_err(|_| Broken::Stalled)??;
        }
        Ok(())
    }

    async fn send_file(
        &mut self,
        file: Arc<File>,
        start: u64,
        len: u64,
        sent: &AtomicU64,
    ) -> Result<(), Broken> {
        copy_file(self, file, start, len, sent).await
    }

    fn halves(
        &mut self,
    ) -> (impl AsyncRead + Unpin + Send + '_, impl AsyncWrite + Unpin + Send + '_) {
        tokio::io::split(&mut self.stream)
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

/// Reads and writes, piece by piece; the disk is waited for off the event loop.
async fn copy_file<T: Transport>(
    to: &mut T,
    file: Arc<File>,
    start: u64,
    len: u64,
    sent: &AtomicU64,
) -> Result<(), Broken> {
    let stamp = Stamp::of(&file)?;
    let (mut offset, end) = (start, start + len);
    while offset < end {
        let count = (end - offset).min(COPY);
        let from = file.clone();
        let piece = blocking(move || {
            let mut piece = vec![0; count as usize];
            from.read_exact_at(&mut piece, offset).map(|()| piece)
        })
        .await
        // Shorter than recorded, or unreadable: never padded.
        .map_err(|_| Broken::FileChanged)?;
        stamp.check(&file)?;
        offset += count;
        to.write(&piece, offset < end).await?;
        sent.fetch_add(count, Relaxed);
    }
    Ok(())
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|gone| Err(io::Error::other(gone)))
}

/// Tells that a file is being written to. Not the change time: a file that is
/// moved aside or unlinked when a new version is switched in has a new one,
/// and its bytes are still those of the version that is being sent.
#[derive(PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        Ok(Self { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }

    fn check(&self, file: &File) -> Result<(), Broken> {
        if Self::of(file)? == *self { Ok(()) } else { Err(Broken::FileChanged) }
    }
}
