//! The holder's side of a session: answers in the order of the questions, and
//! reads the next answer while one is on the wire.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::spawn_blocking,
};

use super::{
    Asker, HANDED_OUT_MAX, PORTION, Served, TransferError,
    board::{Board, Boards, Has},
    frame::{Activity, Tag, Wire, decode, ended, frame, out_of_turn, write},
    patch::{self, AskPatches},
};
use crate::{
    base::{
        Digest, limits,
        tree::{self, Chunk},
        wire::{self, Kind},
    },
    proto::replication::{
        ActionList, Bits, Changes, Content, Gained, IHaveList, Join, Since, Standing, Update,
        UpdateList,
    },
    store::{ContentStore, StoreError},
};

/// The shortest encoding of an entry: a name of one letter, what it is, two numbers.
const ENTRY_MIN: usize = 4;

/// Content behind one frame, as it goes out.
type Answer = Vec<Arc<Vec<u8>>>;

/// The holder's side of a session.
pub(super) struct Questions<'a, R> {
    pub(super) store: ContentStore,
    pub(super) boards: Boards,
    /// Who asks.
    pub(super) from: Asker,
    pub(super) wire: Wire<'a, R>,
    pub(super) ready: mpsc::Sender<Answer>,
    /// What it joined for, and what it has of that.
    pub(super) joined: Option<(Arc<Board>, Bits)>,
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
                    self.ready(vec![Arc::new(answer)]).await?;
                }
                Tag::AskChanges => {
                    let since: Since = decode(Kind::Message, &bytes)?;
                    let store = self.store.clone();
                    let changes = spawn_blocking(move || changes(&store, &since)).await??;
                    served.changes += u64::from(changes.is_some());
                    let none = || wire::encode(Kind::Tree, &Changes::Unknown);
                    let answer = frame(Tag::Changes, &changes.unwrap_or_else(none));
                    self.ready(vec![Arc::new(answer)]).await?;
                }
                Tag::AskPatches => {
                    let asked: AskPatches = decode(Kind::Message, &bytes)?;
                    let store = self.store.clone();
                    let (patches, made) =
                        spawn_blocking(move || patch::make(&store, &asked)).await??;
                    served.patches += made;
                    let answer = frame(Tag::Patches, &wire::encode(Kind::Message, &patches));
                    self.ready(vec![Arc::new(answer)]).await?;
                }
                Tag::AskChunks => {
                    let asked: ActionList = decode(Kind::Message, &bytes)?;
                    self.answer_chunks(asked.chunks, served).await?;
                }
                Tag::Join => {
                    let join: Join = decode(Kind::Message, &bytes)?;
                    let standing = self.join(join).await?;
                    let answer = frame(Tag::Standing, &wire::encode(Kind::Message, &standing));
                    self.ready(vec![Arc::new(answer)]).await?;
                }
                Tag::Gained => {
                    let gained: Gained = decode(Kind::Message, &bytes)?;
                    // Who joined what is elsewhere may not have heard that yet.
                    if let Some((board, have)) = &mut self.joined {
                        for at in &gained.positions {
                            have.set(*at);
                        }
                        board.hear(self.from.id, Has::Gained(gained));
                    }
                }
                Tag::AskHandOut => {
                    let wanted: u32 = decode(Kind::Message, &bytes)?;
                    self.hand_out(u64::from(wanted), served).await?;
                }
                _ => return Err(out_of_turn()),
            }
        }
        Ok(())
    }

    async fn join(&mut self, join: Join) -> Result<Standing, TransferError> {
        let (store, boards) = (self.store.clone(), self.boards.clone());
        let found = spawn_blocking(move || boards.find(join.root, &store)).await??;
        let board = found.filter(|board| board.positions().listing() == join.listing);
        let Some(board) = board else {
            self.joined = None;
            return Ok(Standing::Elsewhere);
        };
        let have = Bits::from_wire(join.have, board.positions().chunks().len());
        board.hear(self.from.id, Has::Bits(have.clone()));
        let standing = board.standing();
        self.joined = Some((board, have));
        Ok(standing)
    }

    /// Gives what nobody was given, in one portion.
    async fn hand_out(&mut self, bytes: u64, served: &mut Served) -> Result<(), TransferError> {
        let (board, have) = self.joined.as_mut().ok_or_else(out_of_turn)?;
        let chunks = board.hand_out(have, bytes.min(PORTION), self.from.far);
        debug_assert!(chunks.len() <= HANDED_OUT_MAX);
        for chunk in &chunks {
            // It is on its way: not to be handed out to the same one again.
            board.positions().position(&chunk.digest).map(|at| have.set(at));
        }
        let (store, board) = (self.store.clone(), Some(board.clone()));
        let read = move || read_portion(&store, board.as_deref(), Tag::HandedOut, chunks);
        let (answer, part) = spawn_blocking(read).await??;
        served.add(&part);
        self.ready(answer).await
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
            let board = self.joined.as_ref().map(|(board, _)| board.clone());
            let read = move || read_portion(&store, board.as_deref(), Tag::Updates, portion);
            let (answer, part) = spawn_blocking(read).await??;
            served.add(&part);
            self.ready(answer).await?;
        }
        Ok(())
    }

    async fn ready(&mut self, answer: Answer) -> Result<(), TransferError> {
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

/// What the tree differs in from the first of the others of which there is a
/// listing here, encoded; nothing if there is none, or if that is no shorter
/// than the tree's own. Only one is compared: a listing takes its time to read,
/// and the first is the likeliest.
fn changes(store: &ContentStore, since: &Since) -> Result<Option<Vec<u8>>, TransferError> {
    let Some(want) = store.tree(&since.root)? else { return Ok(None) };
    for base in &since.bases {
        let Some(have) = store.tree(base)? else { continue };
        let changes = tree::changes(&have, &want);
        if changes.len() > limits::ENTRIES_MAX {
            return Ok(None);
        }
        let changes = wire::try_encode(Kind::Tree, &Changes::From { base: *base, changes });
        // The whole one is not encoded where even a word for each entry would be longer.
        let whole = || wire::try_encode(Kind::Tree, &*want).map_or(usize::MAX, |b| b.len());
        let short = |changes: &Vec<u8>| {
            changes.len() <= limits::CHANGES_MAX
                && (changes.len() < want.len() * ENTRY_MIN || changes.len() < whole())
        };
        return Ok(changes.ok().filter(short));
    }
    Ok(None)
}

/// An UpdateList as a frame and the contents behind it, and what that serves.
fn read_portion(
    store: &ContentStore,
    board: Option<&Board>,
    tag: Tag,
    chunks: Vec<Chunk>,
) -> Result<(Answer, Served), TransferError> {
    let mut served = Served::default();
    let mut list = UpdateList::default();
    let mut contents: Vec<Arc<Vec<u8>>> = Vec::new();
    for chunk in chunks {
        let young = board.and_then(|board| board.young(&chunk.digest));
        let read = match young {
            Some(bytes) => Ok(bytes),
            None => store.read(&chunk.digest).map(Arc::new),
        };
        let content = match read {
            Ok(bytes) if bytes.len() == chunk.len as usize => {
                served.chunks += 1;
                served.bytes += bytes.len() as u64;
                match contents.last_mut().and_then(Arc::get_mut) {
                    // Small ones are sent together.
                    Some(last) if last.len() + bytes.len() <= 64 << 10 => last.extend(&*bytes),
                    _ => contents.push(bytes),
                }
                Content::Inline
            }
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => {
                served.lacking += 1;
                if tag == Tag::HandedOut {
                    continue; // asked for by name later, it is told to be lacking
                }
                Content::Lacking
            }
            Err(error) => return Err(error.into()),
        };
        list.updates.push(Update::Chunk { chunk, content });
    }
    let mut answer = vec![Arc::new(frame(tag, &wire::encode(Kind::Message, &list)))];
    answer.append(&mut contents);
    Ok((answer, served))
}

pub(super) async fn send_answers(
    mut answers: mpsc::Receiver<Answer>,
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
