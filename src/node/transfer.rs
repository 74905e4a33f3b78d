//! Transfer: how a member fetches a tree, and gives it, over any pair of byte
//! streams (in production one bidirectional QUIC stream with each member asked).
//!
//! The requester asks for a listing and for chunks, the holder answers in the
//! order of the questions. A frame is a tag, a length and an encoding, each
//! kind with its own bound; behind an UpdateList come the bytes of its chunks.
//! Questions are sent ahead, so that the wire is busy while the disks work,
//! and whoever is slower sets the pace: neither side holds more than a few
//! megabytes.
//!
//! Who fetches much joins the others that fetch the same: each says to those
//! whom it asks what it has got, and gives that to them ([`Boards`]). Whom to
//! ask for what is for the plan to say (`proto::replication::Swarm`).
//!
//! A listing is long and seldom new: whoever holds a version before it asks for
//! what has changed since ([`Wanted::bases`]).
//!
//! A chunk that differs in a few bytes from what stood in its place comes as a patch
//! of that, if both sides have it (`patch.rs`).
//!
//! Nothing is believed: a listing must have the root that was wanted, a chunk
//! its signature, and the chunks of a file must make that file. What was
//! verified is committed as it comes, so a fetch that breaks is resumed by
//! the next one; the listing is stored last, and only when everything that it
//! names is durable.

mod board;
mod frame;
mod holder;
mod patch;
mod proving;
mod requester;
mod session;
mod sink;

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

pub use self::board::Boards;
use self::{
    frame::{Activity, Wire},
    holder::{Questions, send_answers},
    requester::Fetch,
};
pub use crate::proto::replication::Progress;
use crate::{
    base::{Digest, MemberId, RelPath, limits},
    proto::replication::Fault,
    store::{ContentStore, StoreError},
};

/// A session in which nothing moves for this long is over.
pub const IDLE: Duration = Duration::from_secs(30);
/// What the holder reads, and the requester puts away, in one go, bytes.
const PORTION: u64 = 1 << 20;
/// Chunks that are handed out in one go.
const HANDED_OUT_MAX: usize = limits::ACTIONS_MAX;

/// What a session has served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Listings sent.
    pub listings: u64,
    /// Changes sent in place of one.
    pub changes: u64,
    /// Patches sent in place of chunks.
    pub patches: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks asked for that are not held here.
    pub lacking: u64,
}

impl Served {
    fn add(&mut self, part: &Self) {
        self.listings += part.listings;
        self.changes += part.changes;
        self.patches += part.patches;
        self.chunks += part.chunks;
        self.bytes += part.bytes;
        self.lacking += part.lacking;
    }
}

/// What a session has fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Listings fetched whole.
    pub listings: u64,
    /// Bytes of these, and of the changes that came in place of one.
    pub listing_bytes: u64,
    /// Chunks made out of older ones by patches.
    pub patched: u64,
    /// Bytes of the patches.
    pub patch_bytes: u64,
    /// Chunks fetched.
    pub chunks: u64,
    /// Bytes of these chunks.
    pub bytes: u64,
    /// Bytes that came for nothing.
    pub wasted: u64,
}

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The tree.
    pub root: Digest,
    /// Who holds all of it.
    pub from: MemberId,
    /// Who may have something of it.
    pub peers: Vec<MemberId>,
    /// Who of all these is far: asked for what nobody near has.
    pub far: BTreeSet<MemberId>,
    /// Trees that are held here with all that they name, the one most like it
    /// first; of more than [`limits::BASES_MAX`] the rest is passed over.
    pub bases: Vec<Digest>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// By its key.
    pub id: MemberId,
    /// What is handed out to it is not handed out for those that are near as well.
    pub far: bool,
}

/// What is told of a fetch while it goes on.
#[derive(Debug)]
pub enum News {
    /// How far it is.
    Progress(Progress),
    /// A member beside the holder is asked no more, or not for a while, because it lied or
    /// crawls; the others go on.
    Dropped(MemberId, TransferError),
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
    #[error(
        "the holder lied: the pieces that it lists for {0} don't make that file; the listing was \
         not taken, and it is not asked again"
    )]
    Unproven(RelPath),
    /// The other side does not speak this protocol, or breaks its bounds.
    #[error(
        "the other side sent something that can't be read: {0}; nothing of it was taken, and it \
         is not asked again"
    )]
    Garbled(String),
    /// The connection broke.
    #[error("the connection broke: {0}; the next try goes on where this one was")]
    Broken(#[from] io::Error),
    /// Others are quicker.
    #[error("it owes for seconds what others have, and is asked for nothing more for a while")]
    Crawls,
    /// Nothing moved for [`IDLE`].
    #[error("nothing came for 30 s; the next try goes on where this one was")]
    Idle,
    /// This member's own disk.
    #[error(transparent)]
    Store(StoreError),
    /// A blocking call was cancelled or panicked.
    #[error("a call to the store did not come back: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl From<StoreError> for TransferError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unproven(path) => Self::Unproven(path),
            other => Self::Store(other),
        }
    }
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

/// How a member reaches another one.
pub trait Connect: Clone + Send + 'static {
    /// From there.
    type Recv: AsyncRead + Unpin + Send + 'static;
    /// To there.
    type Send: AsyncWrite + Unpin + Send + 'static;

    /// Opens a pair of streams to `member`.
    fn open(
        &self,
        member: MemberId,
    ) -> impl Future<Output = io::Result<(Self::Recv, Self::Send)>> + Send;
}

/// Answers one session, of `from`, until the requester ends it.
pub async fn serve(
    store: ContentStore,
    boards: Boards,
    from: Asker,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
) -> Result<Served, TransferError> {
    serve_within(IDLE, store, boards, from, recv, send).await
}

async fn serve_within(
    idle: Duration,
    store: ContentStore,
    boards: Boards,
    from: Asker,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
) -> Result<Served, TransferError> {
    let activity = Activity::new(idle);
    // One answer waits while one is being sent and one is being read.
    let (ready, answers) = mpsc::channel(1);
    let wire = Wire::new(recv, &activity);
    let mut questions = Questions { store, boards, from, wire, ready, joined: None };
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

/// Fetches a tree: its listing, if it is not known, and the chunks that are
/// missing, those also from whoever of the peers fetches or holds the same.
/// When it returns `Ok`, all of it is verified and durable.
/// `tell` is called as chunks are put away, and when somebody is dropped.
///
/// Dropping it ends all sessions; what was committed by then is kept.
pub async fn fetch(
    store: ContentStore,
    boards: Boards,
    connect: impl Connect,
    wanted: Wanted,
    mut tell: impl FnMut(News),
) -> Result<Pulled, TransferError> {
    let fetch = Fetch { store, boards, connect, wanted, idle: IDLE, plain: false };
    fetch.run(&mut tell).await
}

/// The same from one holder alone, over streams that are open.
pub async fn pull(
    store: ContentStore,
    root: Digest,
    recv: impl AsyncRead + Unpin + Send + 'static,
    send: impl AsyncWrite + Unpin + Send + 'static,
    progress: impl FnMut(Progress),
) -> Result<Pulled, TransferError> {
    pull_within(IDLE, store, root, recv, send, progress).await
}

async fn pull_within(
    idle: Duration,
    store: ContentStore,
    root: Digest,
    recv: impl AsyncRead + Unpin + Send + 'static,
    send: impl AsyncWrite + Unpin + Send + 'static,
    mut progress: impl FnMut(Progress),
) -> Result<Pulled, TransferError> {
    let connect = Once(Arc::new(Mutex::new(Some((recv, send)))));
    let from = MemberId(Digest::of("althing only holder", &[]));
    let (peers, far, bases) = (Vec::new(), BTreeSet::new(), Vec::new());
    let wanted = Wanted { root, from, peers, far, bases };
    let fetch = Fetch { store, boards: Boards::default(), connect, wanted, idle, plain: true };
    let mut tell = |news| {
        if let News::Progress(so_far) = news {
            progress(so_far);
        }
    };
    fetch.run(&mut tell).await
}

/// Streams that are open already.
struct Once<R, S>(Arc<Mutex<Option<(R, S)>>>);

impl<R, S> Clone for Once<R, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R, S> Connect for Once<R, S>
where
    R: AsyncRead + Unpin + Send + 'static,
    S: AsyncWrite + Unpin + Send + 'static,
{
    type Recv = R;
    type Send = S;

    async fn open(&self, _member: MemberId) -> io::Result<(R, S)> {
        let streams = self.0.lock().unwrap_or_else(|e| e.into_inner()).take();
        streams.ok_or_else(|| io::Error::other("its streams were open once"))
    }
}

#[cfg(test)]
mod tests;
