//! Connections to processes of this machine, kept open between two requests.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};

/// Connections kept open to one process.
const IDLE_MAX: usize = 128;
/// How long one is kept that nobody uses. Many servers close theirs after 5 s, and say so.
const IDLE: Duration = Duration::from_secs(30);

/// Idle connections, the last used last.
#[derive(Debug)]
pub(in crate::gateway) struct Pool {
    idle: Mutex<BTreeMap<SocketAddr, Vec<(TcpStream, Instant)>>>,
}

impl Pool {
    /// The one of this process: whoever asks, the program is the same.
    pub(in crate::gateway) fn shared() -> &'static Self {
        static SHARED: Pool = Pool { idle: Mutex::new(BTreeMap::new()) };
        &SHARED
    }

    /// A connection to `address`, and whether it was used before.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        within: Duration,
    ) -> io::Result<(TcpStream, bool)> {
        while let Some(stream) = self.take(address) {
            if is_open(&stream) {
                return Ok((stream, true));
            }
        }
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream = timeout(within, TcpStream::connect(address)).await.map_err(late)??;
        stream.set_nodelay(true)?;
        Ok((stream, false))
    }

    /// Takes back a connection over which the last response was whole.
    pub(super) fn put(&self, address: SocketAddr, stream: TcpStream) {
        let now = Instant::now();
        let mut idle = self.locked();
        // Processes come and go, each with a port of its own.
        if idle.len() > IDLE_MAX {
            idle.retain(|_, kept| kept.last().is_some_and(|(_, since)| now - *since < IDLE));
        }
        let kept = idle.entry(address).or_default();
        kept.retain(|(_, since)| now - *since < IDLE);
        if kept.len() < IDLE_MAX {
            kept.push((stream, now));
        }
    }

    fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.locked();
        let kept = idle.get_mut(&address)?;
        let last = kept.pop().filter(|(_, since)| since.elapsed() < IDLE);
        if last.is_none() {
            idle.remove(&address);
        }
        last.map(|(stream, _)| stream)
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<(TcpStream, Instant)>>> {
        // Every change is one step, so a panic leaves it whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the other side has neither closed it nor said anything unasked.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
