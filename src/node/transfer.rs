//! Transfer: one session in which a member fetches a tree from a holder, over
//! any pair of byte streams (in production one bidirectional QUIC stream).
//!
//! The requester asks for a listing and for chunks, the holder answers in the
//! order of the questions. A frame is a tag, a length and an encoding, each
//! kind with its own bound; behind an UpdateList come the bytes of its chunks.
//! Questions are sent ahead, so that the wire is busy while the disks work,
//! and whoever is slower sets the pace: neither side holds more than a few
//! megabytes.
//!
//! Nothing is believed: a listing must have the root that was wanted, a chunk
//! its signature, and the chunks of a file must make that file. What was
//! verified is committed as it comes, so a session that breaks is resumed by
//! the next one; the listing is stored last, and only when everything that it
//! names is durable.

mod frame;
mod holder;
mod requester;

use std::{io, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::spawn_blocking,
};

use self::{
    frame::{Activity, Wire},
    holder::{Questions, send_answers},
    requester::{Session, send_questions},
};
pub use crate::proto::replication::Progress;
use crate::{
    base::{Digest, RelPath},
    proto::replication::Fault,
    store::{ContentStore, StoreError},
};

/// A session in which nothing moves for this long is over.
pub const IDLE: Duration = Duration::from_secs(30);
/// What the holder reads, and the requester puts away, in one go, bytes.
const PORTION: u64 = 1 << 20;

/// What a session has served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Listings sent.
    pub listings: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks asked for that are not held here.
    pub lacking: u64,
}

/// What a session has fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Listings fetched.
    pub listings: u64,
    /// Chunks fetched.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a session ended early. What was fetched and verified by then is kept,
/// unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The holder does not have all of it.
    #[error(
        "the holder lacks {chunks} pieces ({bytes} bytes) or the listing itself: what it had is \
         kept; the rest has to come from another holder"
    )]
    Lacking {
        /// Chunks that it lacks; none if it lacks the listing.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The holder sent what is not what was asked.
    #[error("the holder lied: {0}; it is not asked again")]
    Lied(#[from] Fault),
    /// The holder's listing cuts a file into pieces that don't make it.
    #[error("the holder lied: the pieces that it lists for {0} don't make that file")]
    Unproven(RelPath),
    /// The other side does not speak this protocol, or breaks its bounds.
    #[error("the other side sent something that can't be read: {0}")]
    Garbled(String),
    /// The connection broke.
    #[error("the connection broke: {0}; the next try goes on where this one was")]
    Broken(#[from] io::Error),
    /// Nothing moved for [`IDLE`].
    #[error("nothing came for 30 s; the next try goes on where this one was")]
    Idle,
    /// This member's own disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking call was cancelled or panicked.
    #[error("a call to the store did not come back: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl TransferError {
    /// Whether the other side is at fault and should not be asked again.
    pub fn is_lie(&self) -> bool {
        matches!(self, Self::Lied(_) | Self::Unproven(_) | Self::Garbled(_))
    }

    /// Whether another holder may have what this one lacks.
    pub fn is_lacking(&self) -> bool {
        matches!(self, Self::Lacking { .. })
    }

    /// Whether this member's own disk is full: no holder can help with that.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}

/// Answers one session until the requester ends it.
pub async fn serve(
    store: ContentStore,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
) -> Result<Served, TransferError> {
    serve_within(IDLE, store, recv, send).await
}

async fn serve_within(
    idle: Duration,
    store: ContentStore,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
) -> Result<Served, TransferError> {
    let activity = Activity::new(idle);
    // One answer waits while one is being sent and one is being read.
    let (ready, answers) = mpsc::channel(1);
    let mut questions = Questions { store, wire: Wire::new(recv, &activity), ready };
    let mut served = Served::default();
    let sender = send_answers(answers, send, &activity);
    let answering = async {
        let result = questions.answer(&mut served).await;
        drop(questions); // the sender ends when it has sent all
        result
    };
    tokio::try_join!(answering, sender)?;
    Ok(served)
}

/// Fetches the tree `root`: its listing, if it is not known, and the chunks
/// that are missing. When it returns `Ok`, all of it is verified and durable.
/// `progress` is called as chunks are put away.
///
/// Dropping it ends the session; what was committed by then is kept.
pub async fn pull(
    store: ContentStore,
    root: Digest,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
    progress: impl FnMut(Progress),
) -> Result<Pulled, TransferError> {
    pull_within(IDLE, store, root, recv, send, progress).await
}

async fn pull_within(
    idle: Duration,
    store: ContentStore,
    root: Digest,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
    mut progress: impl FnMut(Progress),
) -> Result<Pulled, TransferError> {
    // What is not missing now must still be there when the listing is stored.
    let holding = store.clone();
    let hold = spawn_blocking(move || holding.hold()).await?;
    let activity = Activity::new(idle);
    // Unbounded in form; the plan bounds what it asks ahead.
    let (ask, asked) = mpsc::unbounded_channel();
    let mut session = Session {
        store: store.clone(),
        wire: Wire::new(recv, &activity),
        ask,
        pulled: Pulled::default(),
    };
    let mut asking = pin!(send_questions(asked, send, &activity));
    let mut asking_ended: Option<Result<(), TransferError>> = None;
    let fetched = {
        let mut fetching = pin!(session.fetch(root, &mut progress));
        loop {
            tokio::select! {
                biased;
                fetched = &mut fetching => break fetched,
                // What the holder says while it hangs up is worth more than
                // that it hung up: go on reading.
                ended = &mut asking, if asking_ended.is_none() => asking_ended = Some(ended),
            }
        }
    };
    let Session { ask, wire, pulled, .. } = session;
    drop((ask, wire));
    let (tree, ours) = match (fetched, asking_ended) {
        (Ok(fetched), None) => {
            let _ = asking.await; // it says good-bye; everything has come already
            fetched
        }
        (Ok(fetched), Some(_)) => fetched,
        (Err(TransferError::Idle), Some(Err(broken))) => return Err(broken),
        (Err(error), _) => return Err(error),
    };
    let stored = spawn_blocking(move || {
        if !ours {
            store.prove(&tree)?;
        }
        store.put_tree(&tree)?;
        drop(hold);
        Ok(())
    });
    match stored.await? {
        Ok(()) => Ok(pulled),
        Err(StoreError::Unproven(path)) => Err(TransferError::Unproven(path)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
