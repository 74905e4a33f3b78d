//! What the network has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use quinn::Connection;

use super::{NetStats, outbox::Tag};

/// Counters behind [`NetStats`].
#[derive(Default)]
pub(super) struct Counters {
    datagrams_sent: AtomicU64,
    datagrams_received: AtomicU64,
    datagrams_dropped: AtomicU64,
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    messages_dropped: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Counters {
    pub(super) fn datagrams_sent(&self) {
        self.datagrams_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn datagrams_dropped(&self, count: u64) {
        self.datagrams_dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn messages_dropped(&self, count: u64) {
        self.messages_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// One came in, and was handed on or not.
    pub(super) fn received(&self, tag: Tag, taken: bool) {
        match (tag, taken) {
            (_, false) => self.dropped(tag),
            (Tag::Swim, true) => drop(self.datagrams_received.fetch_add(1, Ordering::Relaxed)),
            (_, true) => drop(self.messages_received.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(super) fn sent(&self, tag: Tag) {
        match tag {
            Tag::Swim => self.datagrams_sent(),
            _ => drop(self.messages_sent.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(super) fn dropped(&self, tag: Tag) {
        match tag {
            Tag::Swim => self.datagrams_dropped(1),
            _ => self.messages_dropped(1),
        }
    }

    pub(super) fn add_bytes(&self, connection: &Connection) {
        let stats = connection.stats();
        self.bytes_sent.fetch_add(stats.udp_tx.bytes, Ordering::Relaxed);
        self.bytes_received.fetch_add(stats.udp_rx.bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> NetStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetStats {
            datagrams_sent: get(&self.datagrams_sent),
            datagrams_received: get(&self.datagrams_received),
            datagrams_dropped: get(&self.datagrams_dropped),
            messages_sent: get(&self.messages_sent),
            messages_received: get(&self.messages_received),
            messages_dropped: get(&self.messages_dropped),
            bytes_sent: get(&self.bytes_sent),
            bytes_received: get(&self.bytes_received),
            connections: 0,
        }
    }
}
