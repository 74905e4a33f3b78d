//! Trees: what a directory holds, in a form that can be signed, sent and
//! compared. The lists that members exchange are in terms of it.

use std::{cmp::Ordering, collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize, ser::SerializeStruct};

use super::{Digest, RelPath, limits, wire};

mod changes;
mod level;
#[cfg(test)]
mod tests;

pub use changes::{Change, apply, changes, changes_and_cuts};
pub use level::{Entries, Level};

/// The listing of a tree: every path below its root, sorted by component, so
/// that a directory stands right before what it holds. The root is not listed.
///
/// Cheap to clone. Trees that were made of each other share what they have in common,
/// down to single directories, so an edit costs what it changes and not what there is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tree {
    top: Arc<Level>,
}

/// One path of a tree and what stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where, below the root of the tree.
    pub path: RelPath,
    /// What.
    pub node: Node,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits, 0 to 0o777.
        mode: u16,
    },
    /// A regular file.
    File {
        /// Permission bits, 0 to 0o777.
        mode: u16,
        /// Bytes.
        size: u64,
        /// BLAKE3 of all its bytes.
        digest: Digest,
        /// Its content in pieces, in order; their lengths add up to `size`.
        /// A way to fetch it and no part of the signature: two members may
        /// cut the same file differently and still agree.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::CHUNKS_MAX }>")]
        chunks: Vec<Chunk>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written in the link. Althing never follows it.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::PATH_MAX }>")]
        target: Vec<u8>,
    },
}

/// A piece of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// BLAKE3 of the bytes.
    pub digest: Digest,
    /// Bytes, 1 to [`limits::CHUNK_MAX`].
    pub len: u32,
}

/// Why entries are no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The same path twice.
    #[error("{0} is listed twice")]
    Twice(RelPath),
    /// Something below a path that is no directory, or is not listed.
    #[error("{0} is listed, but what holds it is no directory of the list")]
    Orphan(RelPath),
    /// Permission bits beyond 0o777: setuid, setgid or sticky.
    #[error("{0} has permission bits beyond rwxrwxrwx")]
    Mode(RelPath),
    /// Chunk lengths that don't add up, a chunk or a file over its bound.
    #[error("{0} has a size that its pieces don't add up to, or is too large")]
    Size(RelPath),
    /// Too many entries, or changes.
    #[error("it has more than 2,000,000 entries")]
    TooMany,
    /// A change of what the tree does not hold.
    #[error("{0} is to be changed or to go, and is not there")]
    NotThere(RelPath),
    /// An addition of what the tree holds.
    #[error("{0} is to be added, and is there")]
    There(RelPath),
}

impl Tree {
    /// Sorts and checks `entries`: every parent listed and a directory, no
    /// path twice, modes and sizes within bounds.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        if entries.len() > limits::ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        entries.sort_by(|a, b| by_component(&a.path, &b.path));
        let mut entries = entries.into_iter().peekable();
        let tree = Self::of(Level::take(&mut entries, None)?);
        match entries.next() {
            // It stands in no directory that came before it.
            Some(orphan) => Err(TreeError::Orphan(orphan.path)),
            None => Ok(tree),
        }
    }

    /// With this at its top.
    pub fn of(top: Level) -> Self {
        Self { top: Arc::new(top) }
    }

    /// All entries, sorted by component.
    pub fn entries(&self) -> Entries<'_> {
        Entries::of(&self.top)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.top.count()
    }

    /// What stands at `path`.
    pub fn get(&self, path: &RelPath) -> Option<&Node> {
        self.top.find(path).map(|(entry, _)| &entry.node)
    }

    /// What stands below the directory at `path`.
    pub fn within(&self, path: &RelPath) -> Entries<'_> {
        let inside = self.top.find(path).and_then(|(_, inside)| inside);
        inside.map_or_else(Entries::none, Entries::of)
    }

    /// Whether the tree holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many regular files it holds.
    pub fn files(&self) -> u64 {
        self.top.files()
    }

    /// Bytes of all regular files.
    pub fn bytes(&self) -> u64 {
        self.top.bytes()
    }

    /// Every distinct chunk, sorted by digest.
    pub fn chunks(&self) -> BTreeSet<Chunk> {
        self.entries().flat_map(Entry::chunks).copied().collect()
    }

    /// The signature of the whole: a Merkle tree whose inner nodes are the
    /// directories, each the digest of its sorted entries.
    pub fn root(&self) -> Digest {
        self.top.digest()
    }

    /// The signature of an empty tree: a member that reports it holds nothing.
    pub fn empty_root() -> Digest {
        Self::default().root()
    }
}

impl Entry {
    /// The pieces of the file that it is; none of anything else.
    pub fn chunks(&self) -> &[Chunk] {
        match &self.node {
            Node::File { chunks, .. } => chunks,
            _ => &[],
        }
    }

    /// Whether what it says of itself is within the bounds.
    fn check(&self) -> Result<(), TreeError> {
        match &self.node {
            Node::Directory { mode } | Node::File { mode, .. } if *mode > 0o777 => {
                Err(TreeError::Mode(self.path.clone()))
            }
            Node::File { size, chunks, .. } => {
                let fits = |c: &Chunk| c.len > 0 && c.len as usize <= limits::CHUNK_MAX;
                let sum: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
                if sum != *size || *size > limits::FILE_MAX || !chunks.iter().all(fits) {
                    return Err(TreeError::Size(self.path.clone()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Serialize for Tree {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct All<'a>(&'a Tree);
        impl Serialize for All<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.entries())
            }
        }
        let mut tree = serializer.serialize_struct("Tree", 1)?;
        tree.serialize_field("entries", &All(self))?;
        tree.end()
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
            entries: Vec<Entry>,
        }
        let raw = Raw::deserialize(deserializer)?;
        Self::new(raw.entries).map_err(serde::de::Error::custom)
    }
}

/// Whether two nodes have the same signature; how they are cut into chunks
/// does not matter.
pub fn same(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::File { mode: m, size: s, digest: d, .. }, Node::File { mode, size, digest, .. }) => {
            m == mode && s == size && d == digest
        }
        _ => a == b,
    }
}

fn by_component(a: &RelPath, b: &RelPath) -> Ordering {
    a.components().cmp(b.components())
}
