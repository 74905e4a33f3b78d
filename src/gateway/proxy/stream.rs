//! The two kinds of streams to one who answers, as one type.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::super::transport::Broken;

/// A stream to a process of this member, or to another member.
#[derive(Debug)]
pub(super) enum Upstream<S> {
    Process(TcpStream),
    Member(S),
}

impl<S: AsyncRead + Unpin> AsyncRead for Upstream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Process(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Member(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Upstream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Process(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Member(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Process(stream) => Pin::new(stream).poll_flush(cx),
            Self::Member(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Process(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Member(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The half of a client's connection that is written to, each time within a span.
pub(super) struct Within<W>(pub W, pub Duration);

impl<W: AsyncWrite + Unpin + Send> super::Out for Within<W> {
    async fn put(&mut self, bytes: &[u8], _more: bool) -> Result<(), Broken> {
        let written = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        timeout(self.1, written).await.map_err(|_| Broken::Stalled)?.map_err(Broken::Io)
    }
}
