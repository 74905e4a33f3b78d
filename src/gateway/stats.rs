//! What the gateway counts. Numbers only go up, but for the open connections;
//! readers take differences.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::{Tally, origins::Counted, tally::Totals};
use crate::{
    base::{
        AppName, WallTime,
        metric::{Known, Series},
    },
    proto::telemetry::Reading,
};

/// Counters that every connection shares. Relaxed: they order nothing.
#[derive(Debug, Default)]
pub struct Stats {
    connections: AtomicU64,
    active: AtomicU64,
    requests: AtomicU64,
    classes: [AtomicU64; 4],
    bytes: AtomicU64,
    received: AtomicU64,
    forwarded: AtomicU64,
    forward_failures: AtomicU64,
    from_chunks: AtomicU64,
    errors: AtomicU64,
    tcp: AtomicU64,
    tcp_active: AtomicU64,
    tcp_failures: AtomicU64,
    tcp_up: AtomicU64,
    tcp_down: AtomicU64,
    tally: Tally,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// TCP connections accepted.
    pub connections: u64,
    /// TCP connections open now.
    pub connections_active: u64,
    /// Requests read, well-formed or not, forwarded ones included.
    pub requests: u64,
    /// Responses with status 200 to 299.
    pub responses_2xx: u64,
    /// Responses with status 300 to 399.
    pub responses_3xx: u64,
    /// Responses with status 400 to 499.
    pub responses_4xx: u64,
    /// Responses with status 500 to 599.
    pub responses_5xx: u64,
    /// Bytes of bodies sent.
    pub bytes: u64,
    /// Requests that other members forwarded to this one.
    pub received: u64,
    /// Requests that this member forwarded and another answered.
    pub forwarded: u64,
    /// Attempts to forward that came to nothing.
    pub forward_failures: u64,
    /// Bodies taken from the content store, because the live file was not fit.
    pub from_chunks: u64,
    /// Responses cut short: stalled clients, broken connections, files that
    /// changed while they were sent, chunks that could not be read.
    pub errors: u64,
    /// Connections taken on ports of applications that are not HTTP.
    #[serde(default)]
    pub tcp_connections: u64,
    /// Of these, those that are open now.
    #[serde(default)]
    pub tcp_active: u64,
    /// Of these, those that nobody took.
    #[serde(default)]
    pub tcp_failures: u64,
    /// Bytes that clients sent over connections that have ended, and that other members
    /// passed on to this one.
    #[serde(default)]
    pub tcp_bytes_received: u64,
    /// Bytes that they were sent.
    #[serde(default)]
    pub tcp_bytes_sent: u64,
}

/// All that is counted, for one who only looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Of all connections and requests together.
    pub all: Snapshot,
    /// Of the requests for each application, by name.
    pub apps: Vec<(AppName, Totals)>,
    /// By where they came from, as far as somebody asks for it.
    pub origins: Vec<Counted>,
}

impl Stats {
    /// What [`Served`] says.
    pub fn served(&self) -> Served {
        let (apps, origins) = (self.tally.totals(), self.tally.origins());
        Served { all: self.snapshot(), apps, origins }
    }

    /// The counters now. Not one moment for all of them, but near enough.
    pub fn snapshot(&self) -> Snapshot {
        let [c2, c3, c4, c5] = &self.classes;
        Snapshot {
            connections: self.connections.load(Relaxed),
            connections_active: self.active.load(Relaxed),
            requests: self.requests.load(Relaxed),
            responses_2xx: c2.load(Relaxed),
            responses_3xx: c3.load(Relaxed),
            responses_4xx: c4.load(Relaxed),
            responses_5xx: c5.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            received: self.received.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            forward_failures: self.forward_failures.load(Relaxed),
            from_chunks: self.from_chunks.load(Relaxed),
            errors: self.errors.load(Relaxed),
            tcp_connections: self.tcp.load(Relaxed),
            tcp_active: self.tcp_active.load(Relaxed),
            tcp_failures: self.tcp_failures.load(Relaxed),
            tcp_bytes_received: self.tcp_up.load(Relaxed),
            tcp_bytes_sent: self.tcp_down.load(Relaxed),
        }
    }

    /// What is counted by application and by origin.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// All of it as the series of this member, as of `at`; takes the latencies, so for one
    /// reader.
    pub fn readings(&self, at: WallTime) -> Vec<(Series, Reading)> {
        let open = self.active.load(Relaxed) as f64;
        let mut readings = self.tally.take(at).readings();
        readings.push((Known::Connections.into(), Reading::Number(open)));
        readings.extend(self.tally.origins().iter().flat_map(Counted::readings));
        readings
    }

    /// Counts a connection until the guard is dropped.
    pub(super) fn connection(&self) -> Connection<'_> {
        self.connections.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        Connection(&self.active)
    }

    /// The same for one that is not HTTP.
    pub(super) fn tcp_connection(&self) -> Connection<'_> {
        self.tcp.fetch_add(1, Relaxed);
        self.tcp_active.fetch_add(1, Relaxed);
        Connection(&self.tcp_active)
    }

    pub(super) fn tcp_failure(&self) {
        self.tcp_failures.fetch_add(1, Relaxed);
    }

    pub(super) fn relayed(&self, up: u64, down: u64) {
        self.tcp_up.fetch_add(up, Relaxed);
        self.tcp_down.fetch_add(down, Relaxed);
    }

    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn response(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(2)) {
            class.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn received(&self) {
        self.received.fetch_add(1, Relaxed);
    }

    pub(super) fn forwarded(&self) {
        self.forwarded.fetch_add(1, Relaxed);
    }

    pub(super) fn forward_failure(&self) {
        self.forward_failures.fetch_add(1, Relaxed);
    }

    pub(super) fn took_chunks(&self) {
        self.from_chunks.fetch_add(1, Relaxed);
    }

    pub(super) fn error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }
}

/// One open connection.
pub(super) struct Connection<'a>(&'a AtomicU64);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_connections_are_counted() {
        let stats = Stats::default();
        let open = stats.connection();
        for status in [200, 206, 304, 404, 503, 99, 600, 0] {
            stats.response(status);
        }
        let now = stats.snapshot();
        assert_eq!((now.connections, now.connections_active), (1, 1));
        assert_eq!((now.responses_2xx, now.responses_3xx), (2, 1));
        assert_eq!((now.responses_4xx, now.responses_5xx), (1, 1));
        drop(open);
        assert_eq!(stats.snapshot().connections_active, 0);
        let json = serde_json::to_string(&stats.snapshot()).unwrap();
        assert!(json.contains("\"connections_active\":0"), "{json}");
    }
}
