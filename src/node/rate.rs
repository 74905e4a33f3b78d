//! A bound on how fast content goes out or comes in, over all sessions together.
//!
//! What passes reserves its time in one queue; a stream that is ahead of it sleeps.
//! The bound is for content alone: probes, requests and questions have connections of
//! their own. What is not read in time is held back at the other side by QUIC's flow
//! control.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// What may pass at once before anybody sleeps, in time at the given rate.
const BURST: Duration = Duration::from_millis(100);
/// The most that one stream takes in one go, bytes.
const SLICE: usize = 64 << 10;

/// A rate that streams share, and that can be set anew while they run. Cheap to clone: all clones
/// are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate(Arc<Bound>);

#[derive(Debug, Default)]
struct Bound {
    /// Bytes a second; 0 where there is no bound.
    rate: AtomicU64,
    /// When what has passed so far will have had its time.
    next: Mutex<Option<Instant>>,
}

impl Rate {
    /// At most so many bytes a second; no bound if none is given.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let this = Self::default();
        this.set(bytes_per_second);
        this
    }

    /// The same from now on. What sleeps already sleeps to its end.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.0.rate.store(bytes_per_second.map_or(0, |rate| rate.max(1)), Relaxed);
        // What passed before had its time at the rate of before.
        *self.0.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `stream` at this rate.
    pub fn limit<S>(&self, stream: S) -> Limited<S> {
        Limited { stream, rate: self.clone(), pause: None }
    }

    /// Notes that so many bytes have passed. Until when nothing more should, if it is
    /// not yet.
    fn passed(&self, bytes: usize) -> Option<Instant> {
        let rate = self.0.rate.load(Relaxed);
        if rate == 0 {
            return None;
        }
        let now = Instant::now();
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // Every change is one assignment.
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        let from = next.filter(|next| *next > now).unwrap_or(now);
        *next = Some(from + takes);
        let ahead = (from + takes).saturating_duration_since(now);
        ahead.checked_sub(BURST).filter(|pause| !pause.is_zero()).map(|pause| now + pause)
    }
}

/// A stream at a bounded rate.
#[derive(Debug)]
pub(super) struct Limited<S> {
    stream: S,
    rate: Rate,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Limited<S> {
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, bytes: usize) {
        let until = self.rate.passed(bytes);
        self.pause = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pause(cx));
        let slice = &bytes[..bytes.len().min(SLICE)];
        let written = ready!(pin!(&mut self.stream).poll_write(cx, slice))?;
        self.passed(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_pause(cx));
        let mut slice = ReadBuf::new(into.initialize_unfilled_to(into.remaining().min(SLICE)));
        ready!(pin!(&mut self.stream).poll_read(cx, &mut slice))?;
        let read = slice.filled().len();
        into.advance(read);
        self.passed(read);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// How long two streams take for a megabyte each, in virtual time.
    async fn two(rate: Rate, inward: bool) -> Duration {
        let began = Instant::now();
        let one = async || {
            let (here, there) = tokio::io::duplex(1 << 16);
            let bytes = vec![7; 1_000_000];
            let mut read = Vec::new();
            let (mut here, mut there) = match inward {
                false => (rate.limit(here), Rate::default().limit(there)),
                true => (Rate::default().limit(here), rate.limit(there)),
            };
            let write = async {
                here.write_all(&bytes).await.unwrap();
                here.shutdown().await.unwrap();
            };
            let (_, result) = tokio::join!(write, there.read_to_end(&mut read));
            assert_eq!(result.unwrap(), bytes.len());
            assert_eq!(read, bytes);
        };
        tokio::join!(one(), one());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_rate() {
        for inward in [false, true] {
            let took = two(Rate::new(Some(500_000)), inward).await;
            let expected = Duration::from_secs(4);
            assert!(took <= expected && took >= expected - 2 * BURST, "{took:?}");
        }
    }

    /// Streams that run keep to what is said now.
    #[tokio::test(start_paused = true)]
    async fn a_rate_can_be_set_anew() {
        let rate = Rate::new(Some(1));
        let limited = rate.clone();
        rate.set(Some(500_000));
        let took = two(limited.clone(), false).await;
        let expected = Duration::from_secs(4);
        assert!(took <= expected && took >= expected - 2 * BURST, "{took:?}");
        rate.set(None);
        assert_eq!(two(limited, false).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nothing_waits() {
        assert_eq!(two(Rate::new(None), false).await, Duration::ZERO);
    }
}
