//! Puts chunks away in the background, one batch while the next one comes.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};

use super::TransferError;
use crate::{
    base::{Digest, MemberId},
    store::{ContentStore, StoreError, Writer},
};

/// What is fetched between two commits, bytes: what a killed process loses at most.
pub(super) const COMMIT: u64 = 16 << 20;
/// And for how long, so that over a thin line it is not minutes of work.
const COMMIT_AFTER: Duration = Duration::from_secs(2);

/// One chunk, from whom, and its bytes.
pub(super) type Piece = (MemberId, Digest, Arc<Vec<u8>>);

/// See above.
pub(super) struct Sink {
    store: ContentStore,
    writer: Option<Began>,
    batch: Vec<Piece>,
    running: Option<JoinHandle<Stored>>,
}

/// What waits to be committed, and since when.
struct Began {
    writer: Writer,
    since: Instant,
}

/// What became of a batch.
pub(super) struct Stored {
    writer: Option<Began>,
    /// What was looked at, each with the signature that was found.
    pub came: Vec<(Piece, Digest)>,
    /// Whether all that was put until now is durable, and to be read from the store.
    pub committed: bool,
    pub result: Result<(), StoreError>,
}

impl Sink {
    pub fn new(store: ContentStore) -> Self {
        Self { store, writer: None, batch: Vec::new(), running: None }
    }

    /// Takes a chunk, and puts it away at once if nothing else is.
    pub fn add(&mut self, piece: Piece) {
        self.batch.push(piece);
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.running.is_some() || self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let (store, writer) = (self.store.clone(), self.writer.take());
        let now = Instant::now();
        self.running = Some(spawn_blocking(move || put_away(&store, writer, batch, now)));
    }

    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until a batch is put away. Never comes back when none is. May be dropped.
    pub async fn stored(&mut self) -> Result<Stored, TransferError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let stored = running.await;
        self.running = None;
        let mut stored = stored?;
        self.writer = stored.writer.take();
        if stored.result.is_ok() {
            self.go_on();
        }
        Ok(stored)
    }

    /// Makes durable what was put.
    pub async fn commit(mut self) -> Result<(), TransferError> {
        let Some(Began { writer, .. }) = self.writer.take() else { return Ok(()) };
        Ok(spawn_blocking(move || writer.commit()).await??)
    }
}

/// Verifies and puts a batch. On a lie the writer and what was put before it
/// are still good, and the rest goes on; after a failure of the disk there is no writer.
fn put_away(
    store: &ContentStore,
    writer: Option<Began>,
    batch: Vec<Piece>,
    now: Instant,
) -> Stored {
    let began = || Began { writer: store.writer(), since: now };
    let Began { mut writer, since } = writer.unwrap_or_else(began);
    let mut came = Vec::with_capacity(batch.len());
    for piece in batch {
        let digest = piece.1;
        match writer.put(digest, &piece.2) {
            Ok(_) => came.push((piece, digest)),
            Err(StoreError::Mismatch { found, .. }) => came.push((piece, found)),
            Err(error) => {
                return Stored { writer: None, came, committed: false, result: Err(error) };
            }
        }
    }
    if writer.waiting() < COMMIT && now.duration_since(since) < COMMIT_AFTER {
        let writer = Some(Began { writer, since });
        return Stored { writer, came, committed: false, result: Ok(()) };
    }
    let result = writer.commit();
    Stored { writer: None, came, committed: result.is_ok(), result }
}
