//! The way of requests and connections to other members, over the cluster's own connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    sync::{Mutex, PoisonError, RwLock},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    base::MemberId,
    gateway::{Cut, Forward, Tunnels},
    net::{Net, RecvStream, SendStream, StreamKind, VarInt},
};

/// Tells the other member that a connection was cut, and did not end.
const BROKEN_OFF: VarInt = VarInt::from_u32(1);

/// Takes requests to other members over the cluster's own connections.
#[derive(Default)]
pub(super) struct Forwarder {
    network: RwLock<Option<Net>>,
    /// For each live member that is asked: cancelled once it is live no more.
    live: Mutex<BTreeMap<MemberId, CancellationToken>>,
}

impl Forwarder {
    /// From now on over these, or over none.
    pub fn set(&self, network: Option<Net>) {
        *self.network.write().unwrap_or_else(|e| e.into_inner()) = network;
    }

    /// Who is live. What is under way to others ends at once, and not when their connections
    /// are given up, many seconds later: then somebody else can be asked.
    pub fn keep(&self, live: &BTreeSet<MemberId>) {
        self.locked().retain(|member, gone| {
            let stays = live.contains(member);
            if !stays {
                gone.cancel();
            }
            stays
        });
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, CancellationToken>> {
        // Every change is one step, so a panic leaves it whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn network(&self) -> io::Result<Net> {
        let network = self.network.read().unwrap_or_else(|e| e.into_inner()).clone();
        network.ok_or_else(|| io::Error::other("this member takes up a new key"))
    }
}

impl Forward for Forwarder {
    type Stream = WhileLive;

    async fn connect(&self, member: MemberId) -> io::Result<WhileLive> {
        let gone = self.locked().entry(member).or_default().clone();
        let network = self.network()?;
        let opened = tokio::select! {
            opened = network.open(member, StreamKind::Http) => opened,
            () = gone.cancelled() => return Err(is_down()),
        };
        let (send, recv) = opened.map_err(io::Error::other)?;
        let (stream, gone) = (tokio::io::join(recv, send), Box::pin(gone.cancelled_owned()));
        Ok(WhileLive { stream, gone })
    }
}

/// A stream to a member that breaks once that is live no more.
pub(super) struct WhileLive {
    stream: Join<RecvStream, SendStream>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn is_down() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the member is down")
}

impl WhileLive {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.gone.as_mut().poll(cx) {
            Poll::Ready(()) => Err(is_down()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for WhileLive {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WhileLive {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Tunnels for Forwarder {
    type Stream = Tunnel;

    async fn open(&self, member: MemberId) -> io::Result<Tunnel> {
        let (send, recv) =
            self.network()?.open(member, StreamKind::Tunnel).await.map_err(io::Error::other)?;
        Ok(Tunnel(tokio::io::join(recv, send)))
    }
}

/// A connection that one member passes on to another. Dropped it ends as if all had been
/// said, so whoever breaks off has to cut it.
pub(super) struct Tunnel(pub Join<RecvStream, SendStream>);

impl Cut for Tunnel {
    fn cut(&mut self) {
        // What has ended already can't be cut.
        let _ended = self.0.writer_mut().reset(BROKEN_OFF);
        let _ended = self.0.reader_mut().stop(BROKEN_OFF);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
