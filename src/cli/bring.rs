//! A directory of this machine becomes a version on members of another one: by the three lists that
//! members use among themselves. This command says what it has, the member asks for what it lacks,
//! and that is sent. What the member has all of is not even listed.

mod directory;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::task::spawn_blocking;

use self::directory::Directory;
use super::{
    client::Kept,
    operate::unexpected,
    output::Output,
    publish::{self, Moved},
    units::{bytes, count},
};
use crate::{
    base::{AppName, Reason, Refusal, limits, tree::Chunk},
    driver::DriverError,
    node::{
        manifest::Manifest,
        uploads::{
            Next, Offer, Reply, UploadId,
            lists::{self, PORTION_MAX},
        },
    },
    proto::replication::IHaveList,
};

/// How many bytes are sent in one go, at first. Then as many as take about a [`BEAT`].
const PORTION: usize = 256 << 10;
/// See [`PORTION`].
const BEAT: Duration = Duration::from_secs(1);

/// What is to be published.
pub(super) struct Wish {
    pub app: Option<AppName>,
    /// A whole path.
    pub source: PathBuf,
    pub message: String,
    pub base: Option<u64>,
    pub hosts: Vec<String>,
}

/// What was there already, and what had to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sent {
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// The different pieces that they are made of.
    pub chunks: u64,
    /// Pieces that were new to the member, and were sent.
    pub new_chunks: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Bytes of the lists that say what there is.
    pub list_bytes: u64,
}

impl Sent {
    /// For people.
    pub fn told(&self) -> String {
        let all = format!("{} in {}", bytes(self.bytes), count(self.files, "file"));
        match self.new_bytes {
            0 => format!("of {all} nothing was new, and nothing was sent"),
            new => format!("of {all} {} were new and sent", bytes(new)),
        }
    }
}

/// Content that a member has, to be published.
pub(super) struct Ready {
    pub upload: UploadId,
    pub sent: Sent,
}

/// Brings what is in the directory to the member. The rest is for [`Kept::publish`].
pub(super) async fn bring(output: &Output, kept: &mut Kept, wish: Wish) -> Result<Ready, Refusal> {
    let first = format!("{} is being read", wish.source.display());
    let Wish { app, source, message, base, hosts } = wish;
    let text = Manifest::text_in(&source)?;
    let ignore = Manifest::read(&source, text.as_deref())?.application.ignore;
    let (place, has_manifest) = (source.clone(), text.is_some());
    let reading = spawn_blocking(move || Directory::read(&place, &ignore));
    let read = publish::quietly(output, &first, reading).await.map_err(lost)?;
    let directory = match read {
        // The manifest may be all there is to it: the member knows.
        Err(DriverError::Empty(_)) if has_manifest => None,
        read => Some(read.map_err(|error| unread(&error, "Mend the cause, and publish again."))?),
    };
    let tree = directory.as_ref().map(|read| read.tree().clone()).unwrap_or_default();
    let (chunks, _) = directory.as_ref().map_or((0, 0), Directory::pieces);
    let mut sent = Sent { files: tree.files(), bytes: tree.bytes(), chunks, ..Sent::default() };
    let offer = Offer {
        root: tree.root(),
        app,
        source: shown(&source)?,
        message,
        base,
        hosts,
        manifest: text,
    };
    let mut reply = kept.offer(&offer).await?;
    if reply.next == Next::List {
        let list = IHaveList::new(tree);
        reply = kept.have(reply.upload, &list).await?;
    }
    sent.list_bytes = kept.list_bytes;
    let upload = reply.upload;
    if let Some(directory) = directory {
        let lacks = reply.lacks;
        let came = Arc::new(AtomicU64::new(0));
        let moved = Moved {
            what: format!("sending what is new of {}", bytes(sent.bytes)),
            came: Arc::clone(&came),
            wanted: lacks.bytes,
        };
        let sending = send(kept, directory, reply, &came);
        (sent.new_chunks, sent.new_bytes) = publish::told(output, || moved.now(), sending).await?;
    } else if reply.next != Next::Publish {
        return Err(unexpected());
    }
    Ok(Ready { upload, sent })
}

/// Sends what the member asks for until it has all of it: how many pieces, and their bytes.
async fn send(
    kept: &mut Kept,
    directory: Directory,
    mut reply: Reply,
    came: &AtomicU64,
) -> Result<(u64, u64), Refusal> {
    let mut reader = Reader { directory: Some(directory), portion: PORTION };
    let (mut chunks, mut total) = (0, 0);
    let mut asked: VecDeque<Chunk> = VecDeque::new();
    // What is read while what was read before is on its way.
    let mut ahead: Option<Portion> = None;
    loop {
        match reply.next {
            Next::Publish => return Ok((chunks, total)),
            Next::Chunks(list) => {
                asked = list.chunks.into();
                ahead = None;
            }
            Next::Rest => {}
            Next::List => return Err(unexpected()),
        }
        let portion = match ahead.take() {
            Some(portion) => portion,
            None => reader.next(&mut asked).await?,
        };
        if portion.chunks == 0 {
            return Err(unexpected()); // it waits for what it did not ask for
        }
        let Portion { packed, chunks: more, bytes: size } = portion;
        let began = Instant::now();
        let (replied, next) =
            tokio::join!(kept.update(reply.upload, packed), reader.next(&mut asked));
        reply = replied?;
        reader.pace(size, began.elapsed());
        ahead = Some(next?).filter(|portion| portion.chunks > 0);
        chunks += more;
        total += size;
        came.store(total, Ordering::Relaxed);
    }
}

/// Reads ahead of what is sent.
struct Reader {
    /// None while it is read.
    directory: Option<Directory>,
    /// How many bytes of content are sent in one go.
    portion: usize,
}

/// What is sent in one go.
struct Portion {
    packed: Vec<u8>,
    chunks: u64,
    bytes: u64,
}

impl Reader {
    /// As many of the first pieces as make a portion.
    async fn next(&mut self, asked: &mut VecDeque<Chunk>) -> Result<Portion, Refusal> {
        let (mut portion, mut size) = (Vec::new(), 0);
        while portion.len() < limits::ACTIONS_MAX
            && let Some(chunk) = asked.front()
            && (size == 0 || size + chunk.len as usize <= self.portion)
        {
            size += chunk.len as usize;
            portion.extend(asked.pop_front());
        }
        let mut directory = self.directory.take().ok_or_else(unexpected)?;
        let work = move || {
            let mut read = Vec::with_capacity(portion.len());
            for chunk in portion {
                let piece = directory.piece(&chunk).map_err(|error| unread(&error, AGAIN))?;
                read.push((chunk, piece.ok_or_else(unexpected)?));
            }
            let pieces = read.iter().map(|(chunk, bytes)| (*chunk, bytes.as_slice()));
            let portion = Portion {
                packed: lists::pack(pieces),
                chunks: read.len() as u64,
                bytes: size as u64,
            };
            Ok((portion, directory))
        };
        let (portion, directory) = spawn_blocking(work).await.map_err(lost)??;
        self.directory = Some(directory);
        Ok(portion)
    }

    /// So many bytes took so long.
    fn pace(&mut self, bytes: u64, took: Duration) {
        self.portion = match took {
            took if took < BEAT && bytes * 2 >= self.portion as u64 => self.portion * 2,
            took if took > 4 * BEAT => self.portion / 2,
            _ => self.portion,
        }
        .clamp(PORTION / 4, PORTION_MAX);
    }
}

/// The directory as it is told of on other machines.
fn shown(source: &Path) -> Result<String, Refusal> {
    source.to_str().map(str::to_owned).ok_or_else(|| {
        refusal(format!("{} is no text.", source.display()), "Give it another name.")
    })
}

const AGAIN: &str = "Publish again: what was sent is not sent again.";

fn unread(error: &DriverError, todo: &str) -> Refusal {
    refusal(format!("{error}."), todo)
}

fn lost(error: tokio::task::JoinError) -> Refusal {
    let why = format!("What read the directory has ended: {error}.");
    Refusal::new(Reason::Failed, "Nothing was published.", why, "Publish again.")
}

fn refusal(why: String, todo: &str) -> Refusal {
    Refusal::new(Reason::Invalid, "Nothing was published.", why, todo)
}
