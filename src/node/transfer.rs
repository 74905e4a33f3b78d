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

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

pub use crate::proto::replication::Progress;
use crate::{
    base::{
        Digest, RelPath, limits,
        tree::{Chunk, Tree},
        wire::{self, Kind},
    },
    proto::replication::{ActionList, Content, Fault, IHaveList, Pull, Update, UpdateList},
    store::{ContentStore, StoreError, Writer},
};

/// A session in which nothing moves for this long is over.
pub const IDLE: Duration = Duration::from_secs(30);
/// What is fetched between two commits, bytes: what a cut session loses at most.
const COMMIT: u64 = 16 << 20;
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

/// The requester's side of a session.
struct Session<'a, R> {
    store: ContentStore,
    wire: Wire<'a, R>,
    ask: mpsc::UnboundedSender<Vec<u8>>,
    pulled: Pulled,
}

impl<R: AsyncRead + Unpin> Session<'_, R> {
    /// Fetches everything and says of which listing, and whether that one was
    /// this member's own.
    async fn fetch(
        &mut self,
        root: Digest,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(Arc<Tree>, bool), TransferError> {
        let store = self.store.clone();
        let known = spawn_blocking(move || store.tree(&root)).await??;
        if let Some(tree) = known {
            match self.fetch_chunks(&tree, progress).await {
                Ok(()) => return Ok((tree, true)),
                // The holder may have cut the same files in other pieces.
                Err(TransferError::Lacking { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let tree = self.fetch_listing(root).await?;
        self.fetch_chunks(&tree, progress).await?;
        Ok((tree, false))
    }

    async fn fetch_listing(&mut self, root: Digest) -> Result<Arc<Tree>, TransferError> {
        self.ask(Tag::AskListing, &root);
        let (tag, bytes) = self.wire.frame().await?.ok_or_else(ended)?;
        match tag {
            Tag::Listing => {}
            Tag::NoListing => return Err(TransferError::Lacking { chunks: 0, bytes: 0 }),
            _ => return Err(out_of_turn()),
        }
        self.pulled.listings += 1;
        spawn_blocking(move || {
            let list: IHaveList = decode(Kind::Tree, &bytes)?;
            let found = list.root();
            if found != root {
                return Err(Fault::WrongRoot { wanted: root, found }.into());
            }
            Ok(Arc::new(list.into_tree()))
        })
        .await?
    }

    async fn fetch_chunks(
        &mut self,
        tree: &Arc<Tree>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), TransferError> {
        let (store, listing) = (self.store.clone(), tree.clone());
        let mut plan = spawn_blocking(move || {
            let missing: BTreeSet<Chunk> = store.missing(&listing)?.into_iter().collect();
            let plan = Pull::of_tree(&listing, |chunk| !missing.contains(chunk))?;
            Ok::<_, TransferError>(plan)
        })
        .await??;
        progress(plan.progress());
        let mut sink = Sink::new(self.store.clone());
        let fetched = self.follow(&mut plan, &mut sink, progress).await;
        // However it ended: what was verified is kept.
        let kept = sink.finish(&mut plan).await;
        progress(plan.progress());
        self.pulled.chunks += plan.progress().chunks_done;
        self.pulled.bytes += plan.progress().bytes_done;
        fetched.and(kept)?;
        if plan.is_complete() {
            return Ok(());
        }
        let left = plan.left();
        let bytes = left.iter().map(|chunk| u64::from(chunk.len)).sum();
        Err(TransferError::Lacking { chunks: left.len() as u64, bytes })
    }

    /// Asks and receives until nothing more can come from this holder.
    async fn follow(
        &mut self,
        plan: &mut Pull,
        sink: &mut Sink,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), TransferError> {
        loop {
            while let Some(list) = plan.next_list() {
                self.ask(Tag::AskChunks, &list);
            }
            if plan.is_complete() || plan.is_exhausted() {
                return Ok(());
            }
            if !plan.is_waiting() {
                // All that was asked for has come: put it away, which makes room.
                sink.store_batch(plan).await?;
                sink.settle(plan).await?;
                progress(plan.progress());
                continue;
            }
            let (tag, bytes) = self.wire.frame().await?.ok_or_else(ended)?;
            if tag != Tag::Updates {
                return Err(out_of_turn());
            }
            let list: UpdateList = decode(Kind::Message, &bytes)?;
            for chunk in plan.announced(&list)? {
                let bytes = self.wire.exactly(chunk.len as usize).await?;
                sink.add(chunk, bytes);
                if sink.batch_bytes >= PORTION {
                    sink.store_batch(plan).await?;
                    progress(plan.progress());
                }
            }
        }
    }

    fn ask<T: serde::Serialize>(&self, tag: Tag, question: &T) {
        // If nobody sends any more, the wire is broken, and reading says why.
        let _ = self.ask.send(frame(tag, &wire::encode(Kind::Message, question)));
    }
}

/// Puts chunks away in the background, one batch while the next one comes.
struct Sink {
    store: ContentStore,
    writer: Option<Writer>,
    batch: Vec<(Digest, Vec<u8>)>,
    batch_bytes: u64,
    running: Option<JoinHandle<Stored>>,
}

/// What became of a batch.
struct Stored {
    writer: Option<Writer>,
    /// Signatures wanted and found.
    came: Vec<(Digest, Digest)>,
    result: Result<(), StoreError>,
}

impl Sink {
    fn new(store: ContentStore) -> Self {
        Self { store, writer: None, batch: Vec::new(), batch_bytes: 0, running: None }
    }

    fn add(&mut self, chunk: Chunk, bytes: Vec<u8>) {
        self.batch_bytes += bytes.len() as u64;
        self.batch.push((chunk.digest, bytes));
    }

    /// Starts to put the batch away, once the one before is.
    async fn store_batch(&mut self, plan: &mut Pull) -> Result<(), TransferError> {
        self.settle(plan).await?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (store, writer) = (self.store.clone(), self.writer.take());
        self.running = Some(spawn_blocking(move || put_away(&store, writer, batch)));
        Ok(())
    }

    /// Waits until nothing is being put away, and tells the plan.
    async fn settle(&mut self, plan: &mut Pull) -> Result<(), TransferError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let stored = running.await?;
        self.writer = stored.writer;
        for (wanted, found) in stored.came {
            plan.arrived(wanted, found)?;
        }
        Ok(stored.result?)
    }

    /// Puts away what has come, and commits.
    async fn finish(mut self, plan: &mut Pull) -> Result<(), TransferError> {
        let settled = match self.settle(plan).await {
            Ok(()) if !self.batch.is_empty() => match self.store_batch(plan).await {
                Ok(()) => self.settle(plan).await,
                Err(error) => Err(error),
            },
            settled => settled,
        };
        if let Some(writer) = self.writer.take() {
            let committed = spawn_blocking(move || writer.commit()).await?;
            settled?;
            return Ok(committed?);
        }
        settled
    }
}

/// Verifies and puts a batch. On a lie the writer and what was put before it
/// are still good; after a failure of the disk there is no writer.
fn put_away(store: &ContentStore, writer: Option<Writer>, batch: Vec<(Digest, Vec<u8>)>) -> Stored {
    let mut writer = writer.unwrap_or_else(|| store.writer());
    let mut came = Vec::with_capacity(batch.len());
    for (digest, bytes) in batch {
        match writer.put(digest, &bytes) {
            Ok(_) => came.push((digest, digest)),
            Err(StoreError::Mismatch { wanted, found }) => {
                came.push((wanted, found));
                break;
            }
            Err(error) => return Stored { writer: None, came, result: Err(error) },
        }
    }
    if writer.waiting() < COMMIT {
        return Stored { writer: Some(writer), came, result: Ok(()) };
    }
    let result = writer.commit();
    Stored { writer: None, came, result }
}

/// The holder's side of a session.
struct Questions<'a, R> {
    store: ContentStore,
    wire: Wire<'a, R>,
    ready: mpsc::Sender<Vec<Vec<u8>>>,
}

impl<R: AsyncRead + Unpin> Questions<'_, R> {
    async fn answer(&mut self, served: &mut Served) -> Result<(), TransferError> {
        while let Some((tag, bytes)) = self.wire.frame().await? {
            match tag {
                Tag::AskListing => {
                    let root: Digest = decode(Kind::Message, &bytes)?;
                    let store = self.store.clone();
                    let listing = spawn_blocking(move || listing(&store, &root)).await??;
                    served.listings += u64::from(listing.is_some());
                    let answer = listing.unwrap_or_else(|| frame(Tag::NoListing, &[]));
                    self.ready(vec![answer]).await?;
                }
                Tag::AskChunks => {
                    let asked: ActionList = decode(Kind::Message, &bytes)?;
                    self.answer_chunks(asked.chunks, served).await?;
                }
                _ => return Err(out_of_turn()),
            }
        }
        Ok(())
    }

    /// Answers in portions, because a list may ask for a gigabyte.
    async fn answer_chunks(
        &mut self,
        chunks: Vec<Chunk>,
        served: &mut Served,
    ) -> Result<(), TransferError> {
        let mut chunks = chunks.into_iter().peekable();
        while chunks.peek().is_some() {
            let mut portion = Vec::new();
            let mut bytes = 0;
            while let Some(chunk) =
                chunks.next_if(|chunk| bytes == 0 || bytes + u64::from(chunk.len) <= PORTION)
            {
                bytes += u64::from(chunk.len);
                portion.push(chunk);
            }
            let store = self.store.clone();
            let (answer, part) = spawn_blocking(move || read_portion(&store, portion)).await??;
            served.chunks += part.chunks;
            served.bytes += part.bytes;
            served.lacking += part.lacking;
            self.ready(answer).await?;
        }
        Ok(())
    }

    async fn ready(&mut self, answer: Vec<Vec<u8>>) -> Result<(), TransferError> {
        // Nobody sends any more only if the wire broke, which that side reports.
        self.ready.send(answer).await.map_err(|_| ended())
    }
}

fn listing(store: &ContentStore, root: &Digest) -> Result<Option<Vec<u8>>, TransferError> {
    let Some(tree) = store.tree(root)? else { return Ok(None) };
    let list = IHaveList::new(Arc::unwrap_or_clone(tree));
    let bytes = wire::try_encode(Kind::Tree, &list)
        .map_err(|error| TransferError::Garbled(error.to_string()))?;
    Ok(Some(frame(Tag::Listing, &bytes)))
}

/// An UpdateList as a frame and the contents behind it, and what that serves.
fn read_portion(
    store: &ContentStore,
    chunks: Vec<Chunk>,
) -> Result<(Vec<Vec<u8>>, Served), TransferError> {
    let mut served = Served::default();
    let mut list = UpdateList::default();
    let mut contents: Vec<Vec<u8>> = Vec::new();
    for chunk in chunks {
        let content = match store.read(&chunk.digest) {
            Ok(bytes) if bytes.len() == chunk.len as usize => {
                served.chunks += 1;
                served.bytes += bytes.len() as u64;
                match contents.last_mut() {
                    // Small ones are sent together.
                    Some(last) if last.len() + bytes.len() <= 64 << 10 => last.extend(bytes),
                    _ => contents.push(bytes),
                }
                Content::Inline
            }
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => {
                served.lacking += 1;
                Content::Lacking
            }
            Err(error) => return Err(error.into()),
        };
        list.updates.push(Update::Chunk { chunk, content });
    }
    let mut answer = vec![frame(Tag::Updates, &wire::encode(Kind::Message, &list))];
    answer.append(&mut contents);
    Ok((answer, served))
}

async fn send_answers(
    mut answers: mpsc::Receiver<Vec<Vec<u8>>>,
    mut send: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> Result<(), TransferError> {
    while let Some(answer) = answers.recv().await {
        for part in answer {
            write(&mut send, &part, activity).await?;
        }
        activity.guard(send.flush()).await?;
    }
    activity.guard(send.shutdown()).await
}

async fn send_questions(
    mut questions: mpsc::UnboundedReceiver<Vec<u8>>,
    mut send: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> Result<(), TransferError> {
    while let Some(question) = questions.recv().await {
        write(&mut send, &question, activity).await?;
        activity.guard(send.flush()).await?;
    }
    activity.guard(send.shutdown()).await
}

async fn write(
    send: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    activity: &Activity,
) -> Result<(), TransferError> {
    while !bytes.is_empty() {
        match activity.guard(send.write(bytes)).await? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// What a frame is; the first byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    AskListing = 1,
    AskChunks = 2,
    Listing = 3,
    NoListing = 4,
    Updates = 5,
}

impl Tag {
    fn parse(byte: u8) -> Option<Self> {
        let all =
            [Self::AskListing, Self::AskChunks, Self::Listing, Self::NoListing, Self::Updates];
        all.into_iter().find(|tag| *tag as u8 == byte)
    }

    /// The longest frame of this kind, bytes.
    const fn size_max(self) -> usize {
        match self {
            Self::AskListing => 64,
            Self::AskChunks | Self::Updates => limits::ACTION_LIST_MAX,
            Self::Listing => limits::TREE_MAX,
            Self::NoListing => 0,
        }
    }
}

fn frame(tag: Tag, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= tag.size_max(), "lists are bounded before they are built");
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(tag as u8);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The receiving half of a session.
struct Wire<'a, R> {
    recv: BufReader<R>,
    activity: &'a Activity,
}

impl<'a, R: AsyncRead + Unpin> Wire<'a, R> {
    fn new(recv: R, activity: &'a Activity) -> Self {
        Self { recv: BufReader::with_capacity(64 << 10, recv), activity }
    }

    /// The next frame; `None` if the other side ended the session.
    async fn frame(&mut self) -> Result<Option<(Tag, Vec<u8>)>, TransferError> {
        let mut head = [0; 5];
        let first = self.activity.guard(self.recv.read(&mut head[..1])).await?;
        if first == 0 {
            return Ok(None);
        }
        let tag = Tag::parse(head[0])
            .ok_or_else(|| TransferError::Garbled(format!("{} is no tag", head[0])))?;
        let mut filled = 1;
        while filled < head.len() {
            match self.activity.guard(self.recv.read(&mut head[filled..])).await? {
                0 => return Err(ended()),
                more => filled += more,
            }
        }
        let size = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if size > tag.size_max() {
            let max = tag.size_max();
            let why = format!("a frame {tag:?} of {size} bytes, and {max} are allowed");
            return Err(TransferError::Garbled(why));
        }
        Ok(Some((tag, self.exactly(size).await?)))
    }

    /// The next `size` bytes. Memory grows as they come and not as claimed.
    async fn exactly(&mut self, size: usize) -> Result<Vec<u8>, TransferError> {
        let mut bytes = Vec::with_capacity(size.min(limits::CHUNK_MAX));
        while bytes.len() < size {
            let left = (size - bytes.len()) as u64;
            let mut part = (&mut self.recv).take(left);
            if self.activity.guard(part.read_buf(&mut bytes)).await? == 0 {
                return Err(ended());
            }
        }
        Ok(bytes)
    }
}

/// When something last moved, in either direction: a holder that waits for
/// the next question while its answer crawls through a thin wire is not idle.
struct Activity {
    idle: Duration,
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new(idle: Duration) -> Self {
        Self { idle, start: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn ends(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + self.idle
    }

    /// Waits for `action`, and no longer than something moves.
    async fn guard<T>(
        &self,
        action: impl Future<Output = io::Result<T>>,
    ) -> Result<T, TransferError> {
        let mut action = pin!(action);
        loop {
            let ends = self.ends();
            tokio::select! {
                biased;
                done = &mut action => {
                    let now = self.start.elapsed().as_millis() as u64;
                    self.last_ms.store(now, Ordering::Relaxed);
                    return Ok(done?);
                }
                () = sleep_until(ends) => {
                    if self.ends() <= ends {
                        return Err(TransferError::Idle);
                    }
                }
            }
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, TransferError> {
    wire::decode(kind, bytes).map_err(|error| TransferError::Garbled(error.to_string()))
}

fn ended() -> TransferError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

fn out_of_turn() -> TransferError {
    TransferError::Garbled("a frame that does not belong here".into())
}

#[cfg(test)]
mod tests;
