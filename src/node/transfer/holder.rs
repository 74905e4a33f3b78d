//! The holder's side of a session: answers in the order of the questions, and
//! reads the next answer while one is on the wire.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::spawn_blocking,
};

use super::{
    PORTION, Served, TransferError,
    frame::{Activity, Tag, Wire, decode, ended, frame, out_of_turn, write},
};
use crate::{
    base::{
        Digest,
        tree::Chunk,
        wire::{self, Kind},
    },
    proto::replication::{ActionList, Content, IHaveList, Update, UpdateList},
    store::{ContentStore, StoreError},
};

/// The holder's side of a session.
pub(super) struct Questions<'a, R> {
    pub(super) store: ContentStore,
    pub(super) wire: Wire<'a, R>,
    pub(super) ready: mpsc::Sender<Vec<Vec<u8>>>,
}

impl<R: AsyncRead + Unpin> Questions<'_, R> {
    pub(super) async fn answer(&mut self, served: &mut Served) -> Result<(), TransferError> {
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

pub(super) async fn send_answers(
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
