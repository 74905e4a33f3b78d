//! What a command and a member say to each other while content is brought: the three lists, each
//! bounded before it is decoded, and nothing of them believed.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        AppName, Digest, Refusal, limits,
        tree::Chunk,
        wire::{self, Kind, WireError},
    },
    node::{
        Publish,
        manifest::{self, Manifest, Resolved},
    },
    proto::replication::{ActionList, Content, IHaveList, Update, UpdateList},
};

/// What lists and their content say that they are.
pub const MEDIA_TYPE: &str = "application/vnd.althing.lists";
/// The longest [`Offer`], bytes: a manifest of 64 KiB, and names and texts.
pub const OFFER_MAX: usize = 256 << 10;
/// Content behind one UpdateList, bytes.
pub const PORTION_MAX: usize = 4 << 20;
/// The longest UpdateList with its content, bytes.
pub const UPDATE_MAX: usize = LENGTH + limits::ACTION_LIST_MAX + PORTION_MAX;
/// What says how long the list is, bytes.
const LENGTH: usize = 4;
/// See [`Offer::manifest`].
const MANIFEST_MAX: usize = manifest::SIZE_MAX as usize;

/// What a command wants to publish. The list of what it has follows only where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The signature of the files, without what is below `.althing`.
    pub root: Digest,
    /// As which application; by the manifest's name if not given.
    pub app: Option<AppName>,
    /// The directory, on the machine that it is on: for people.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::PATH_MAX }>")]
    pub source: String,
    /// For the history.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::TEXT_MAX }>")]
    pub message: String,
    /// The version that it was made against; the current one if not given.
    pub base: Option<u64>,
    /// Host names beside those of the manifest.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::HOSTS_MAX }>")]
    pub hosts: Vec<String>,
    /// The text of its manifest, if it has one.
    #[serde(deserialize_with = "wire::bounded_text_or_none::<_, MANIFEST_MAX>")]
    pub manifest: Option<String>,
}

/// One upload, told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadId(pub u128);

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Different pieces of files.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the member says each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Which upload it is about.
    pub upload: UploadId,
    /// What this member lacked when it saw the list.
    pub lacks: Amount,
    /// What it wants.
    pub next: Next,
}

/// What a member wants next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// The IHaveList.
    List,
    /// These chunks, in this order, and none that were asked for before.
    Chunks(ActionList),
    /// What is left of the chunks that it asked for last.
    Rest,
    /// Nothing: all of it is here.
    Publish,
}

impl Offer {
    /// Reads one.
    ///
    /// # Errors
    /// It is none, or is longer than one may be.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        bounded(bytes, OFFER_MAX)?;
        wire::decode(Kind::Message, bytes)
    }

    /// What it and its manifest say of the application.
    ///
    /// # Errors
    /// Whatever is wrong in the manifest.
    pub fn resolve(&self) -> Result<Resolved, Refusal> {
        let manifest = Manifest::read(self.directory().as_path(), self.manifest.as_deref())?;
        manifest.resolve(self.app.clone(), self.hosts.clone(), false)
    }

    /// Where it is, on a machine that need not be this one.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(&self.source)
    }

    /// As if the directory were one of this machine.
    pub(in crate::node) fn publish(&self) -> Publish {
        Publish {
            app: self.app.clone(),
            message: self.message.clone(),
            base: self.base,
            hosts: self.hosts.clone(),
            ..Publish::new(self.directory())
        }
    }
}

impl Reply {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(Kind::Message, bytes)
    }
}

impl UploadId {
    /// Reads what it is shown as; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let fine = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fine.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The list of what is in a directory, which has to have the root that was offered.
///
/// # Errors
/// It is none: a path that leads elsewhere is refused here, and sizes that don't add up are.
pub fn decode_list(bytes: &[u8]) -> Result<IHaveList, WireError> {
    wire::decode(Kind::Tree, bytes)
}

/// An UpdateList of chunks, and their content behind it. There are no more of them than one
/// ActionList names, and they have no more bytes than [`PORTION_MAX`].
pub fn pack<'a>(chunks: impl IntoIterator<Item = (Chunk, &'a [u8])>) -> Vec<u8> {
    let (mut list, mut content) = (UpdateList::default(), Vec::new());
    for (chunk, bytes) in chunks {
        list.updates.push(Update::Chunk { chunk, content: Content::Inline });
        content.extend_from_slice(bytes);
    }
    let list = wire::encode(Kind::Message, &list);
    let mut packed = Vec::with_capacity(LENGTH + list.len() + content.len());
    packed.extend_from_slice(&(list.len() as u32).to_le_bytes());
    packed.extend_from_slice(&list);
    packed.extend_from_slice(&content);
    packed
}

/// The way back: each chunk with what is said to be its bytes, as many as it says.
///
/// # Errors
/// A sentence without its point: it is no such list, or breaks a bound.
pub fn unpack(bytes: &[u8]) -> Result<Vec<(Chunk, &[u8])>, String> {
    if bytes.len() > UPDATE_MAX {
        return Err(format!("it has {} bytes and may have {UPDATE_MAX}", bytes.len()));
    }
    let cut_short = || "it ends too early".to_owned();
    let (length, rest) = bytes.split_first_chunk::<LENGTH>().ok_or_else(cut_short)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > limits::ACTION_LIST_MAX {
        return Err("its list is too long".to_owned());
    }
    let (list, mut content) = rest.split_at_checked(length).ok_or_else(cut_short)?;
    let list: UpdateList =
        wire::decode(Kind::Message, list).map_err(|error| format!("its list: {error}"))?;
    if list.updates.len() > limits::ACTIONS_MAX {
        return Err(format!("it has more than {} items", limits::ACTIONS_MAX));
    }
    let mut chunks = Vec::with_capacity(list.updates.len());
    for update in list.updates {
        let Update::Chunk { chunk, content: Content::Inline } = update else {
            return Err("an item of it is no content".to_owned());
        };
        if chunk.len == 0 || chunk.len as usize > limits::CHUNK_MAX {
            return Err(format!("a piece of it has {} bytes", chunk.len));
        }
        let (bytes, more) = content.split_at_checked(chunk.len as usize).ok_or_else(cut_short)?;
        chunks.push((chunk, bytes));
        content = more;
    }
    match content.len() {
        0 => Ok(chunks),
        left => Err(format!("{left} bytes are left over behind it")),
    }
}

fn bounded(bytes: &[u8], size_max: usize) -> Result<(), WireError> {
    match bytes.len() {
        size if size > size_max => Err(WireError::TooLarge { size, size_max }),
        _ => Ok(()),
    }
}
