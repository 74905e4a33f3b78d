//! The requester's side of a session: asks ahead, judges what comes, puts it
//! away while the next is on the wire.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    PORTION, Pulled, TransferError,
    frame::{Activity, Tag, Wire, decode, ended, frame, out_of_turn, write},
};
use crate::{
    base::{
        Digest,
        tree::{Chunk, Tree},
        wire::{self, Kind},
    },
    proto::replication::{Fault, IHaveList, Progress, Pull, UpdateList},
    store::{ContentStore, StoreError, Writer},
};

/// What is fetched between two commits, bytes: what a cut session loses at most.
pub(super) const COMMIT: u64 = 16 << 20;

/// The requester's side of a session.
pub(super) struct Session<'a, R> {
    pub(super) store: ContentStore,
    pub(super) wire: Wire<'a, R>,
    pub(super) ask: mpsc::UnboundedSender<Vec<u8>>,
    pub(super) pulled: Pulled,
}

impl<R: AsyncRead + Unpin> Session<'_, R> {
    /// Fetches everything and says of which listing, and whether that one was
    /// this member's own.
    pub(super) async fn fetch(
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
                Err(lacking @ TransferError::Lacking { .. }) => {
                    let theirs = match self.fetch_listing(root).await {
                        Err(TransferError::Lacking { .. }) => return Err(lacking),
                        theirs => theirs?,
                    };
                    self.fetch_chunks(&theirs, progress).await?;
                    return Ok((theirs, false));
                }
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

pub(super) async fn send_questions(
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
