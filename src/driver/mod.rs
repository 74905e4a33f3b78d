//! F3, drivers: what scans, checks, switches and undoes content of one type on
//! this member's disk, and what runs there. `files` is the first, `services` the second;
//! `hooks` run around a switch; `routes` lead requests to services, `listeners` connections; `tls`
//! says which secret is their certificate; `settings` and `secrets` are what both are given. `rules`
//! say what is watched, and `actions` carry out what follows. `host` measures the machine.
//!
//! A driver knows neither the store nor the network: content comes to it from
//! a [`ChunkSource`] and goes from it into a [`FileSink`]. It decides nothing
//! either; which tree should stand where is told to it.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::base::{
    Digest, RelPath,
    path::DEFINITIONS,
    tree::{Change, Chunk, Tree, TreeError},
};

/// The guide for those who write a further driver: its example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../docs/drivers.md")]
pub struct Guide;

pub mod actions;
pub mod addresses;
pub mod files;
pub mod hooks;
pub mod host;
pub mod listeners;
pub mod routes;
pub mod rules;
pub mod secrets;
pub mod services;
pub mod settings;
pub mod tls;
pub mod variable;
mod wrong;

pub use wrong::{Part, Wrong};

/// One type of content in one place.
pub trait Driver {
    /// What stands there, item by item with signatures: the IHaveList. With a
    /// `sink` every byte that it does not hold is read and handed to it.
    fn scan(&mut self, how: How, sink: Option<&mut dyn FileSink>) -> Result<Scan, DriverError>;

    /// The content of one item as it stands there now.
    fn read(&self, path: &RelPath) -> Result<Box<dyn Read + Send>, DriverError>;

    /// Carries out an UpdateList made from a scan: all new content is fetched,
    /// verified and durable before anything is touched. What is replaced is
    /// kept aside. `strange` lists what the scan could not put into its tree.
    fn apply(
        &mut self,
        changes: &[Change],
        strange: &[RelPath],
        source: &dyn ChunkSource,
    ) -> Result<Repaired, DriverError>;

    /// Calls `changed` whenever something there changes, until what it returns is
    /// dropped. A change may go unnoticed: only a scan is sure.
    fn watch(&self, changed: Box<dyn Fn() + Send>) -> Result<Watch, DriverError>;
}

/// A part of an application that its manifest describes, instead of files that are
/// there: services, hooks, settings, rules, and secrets, which are set by themselves. It lies
/// as a text in the tree below [`DEFINITIONS`], so it is signed, copied, voted on and repaired as everything else in it.
pub trait Definition: Sized {
    /// The name of its text, a plain file name.
    const NAME: &'static str;

    /// Reads its text. The error is a sentence without its point, or more lines of a parser.
    fn parse(text: &str) -> Result<Self, String>;

    /// The canonical text: equal definitions give equal bytes. None where there is
    /// nothing to define.
    fn text(&self) -> Option<String>;

    /// Whether it makes sense: a sentence for each thing that does not.
    fn check(&self) -> Result<(), Vec<String>>;

    /// What [`check`](Self::check) says, each with its place in a manifest. What is in no manifest
    /// has none.
    fn wrong(&self) -> Vec<Wrong> {
        self.check().err().into_iter().flatten().map(Wrong::from).collect()
    }

    /// Where its text lies in a tree.
    fn path() -> RelPath {
        let path = format!("{DEFINITIONS}/{}", Self::NAME);
        RelPath::parse(path.as_bytes()).expect("two plain names are a path")
    }

    /// Reads and checks the bytes of a text that came with a version.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let definition = Self::parse(text)?;
        definition.check().map_err(|wrong| wrong.join(" "))?;
        Ok(definition)
    }
}

/// The largest text of a definition that is read, bytes.
pub const DEFINITION_MAX: u64 = 4 << 20;

/// Something is watched for as long as this lives.
pub struct Watch {
    _watcher: Box<dyn Send>,
}

impl Watch {
    /// `watcher` watches until it is dropped.
    pub fn new(watcher: impl Send + 'static) -> Self {
        Self { _watcher: Box::new(watcher) }
    }
}

/// Where content comes from.
pub trait ChunkSource {
    /// The bytes of `chunk`, verified against its digest.
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError>;
}

/// Where content goes that a scan reads.
pub trait FileSink {
    /// Takes all of one file: the digest of its bytes, their number, and the
    /// chunks that they were cut into.
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError>;

    /// Whether it has the content that was cut into `chunks`. Then a file that
    /// is known to be that is not read again.
    fn holds(&mut self, _chunks: &[Chunk]) -> Result<bool, DriverError> {
        Ok(false)
    }
}

/// How a scan looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// How much it reads.
    pub mode: Mode,
    /// What it is for.
    pub purpose: Purpose,
}

/// How much a scan reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What may have changed, by the stat cache.
    Quick,
    /// Every byte: finds what the disk lost and what was changed with the
    /// clock turned back.
    Full,
}

/// What a scan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To publish: what can't be published is an error that names it.
    Publish,
    /// To see what a live tree holds: what can't be published is listed as
    /// strange, and what changes under the scan is taken as last read.
    Live,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Everything that can be part of a version.
    pub tree: Tree,
    /// What can't: devices, sockets, pipes, files with setuid, setgid or
    /// sticky bits, what is nested too deep or too large. Sorted. Only in a
    /// live scan.
    pub strange: Vec<RelPath>,
    /// Directories that hold ignored things and nothing else, sorted. Such a
    /// directory is left standing when a version without it comes, so it
    /// counts only where a version has it: see [`Scan::fit`].
    pub shells: Vec<RelPath>,
    /// Bytes that were read; the rest was known by the stat cache.
    pub bytes_read: u64,
}

impl Scan {
    /// Takes the shells out of the tree that `expected` does not have.
    pub fn fit(&mut self, expected: &Tree) -> Result<(), DriverError> {
        let extra: std::collections::BTreeSet<&RelPath> =
            self.shells.iter().filter(|p| expected.get(p).is_none()).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let kept = self.tree.entries().filter(|e| !extra.contains(&e.path));
        self.tree = Tree::new(kept.cloned().collect())?;
        Ok(())
    }

    /// The signature of what was found: the root of the tree where nothing
    /// strange is there, and otherwise a digest that no version has, so that
    /// the member is seen to differ.
    pub fn root(&self) -> Digest {
        let root = self.tree.root();
        if self.strange.is_empty() {
            return root;
        }
        let mut bytes = root.0.to_vec();
        for path in &self.strange {
            bytes.extend_from_slice(&(path.as_bytes().len() as u32).to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
        }
        Digest::of("althing strange", &bytes)
    }

    /// Whether nothing at all was found.
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty() && self.strange.is_empty()
    }
}

/// What applying an UpdateList did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Replaced, or given other permission bits.
    pub set: Vec<RelPath>,
    /// Made where nothing stood.
    pub added: Vec<RelPath>,
    /// Taken away.
    pub deleted: Vec<RelPath>,
    /// Directories that should have gone and still hold ignored things, or
    /// what came after the scan.
    pub left: Vec<RelPath>,
    /// Bytes of regular files that are kept aside.
    pub bytes_aside: u64,
    /// Where they are kept, below the same relative paths.
    pub aside: Option<PathBuf>,
}

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Nothing stands at the root.
    #[error("{0} is not there; make it, or name another directory")]
    Absent(PathBuf),
    /// Something else than a directory stands at the root.
    #[error("{0} is not a directory; name the directory that holds the content")]
    NotDirectory(PathBuf),
    /// Nothing to publish.
    #[error("{0} holds nothing to publish; put the content there, or check the ignore patterns")]
    Empty(PathBuf),
    /// A file, or a directory, that this process may not read.
    #[error("{path} can't be read ({source}); allow this user to read it, or ignore it")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, a socket, a pipe.
    #[error("{path} is {kind}, which can't be published; remove it, or ignore it")]
    Strange {
        /// Which.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A file with setuid, setgid or sticky bits.
    #[error(
        "{path} has permissions {mode:o}: setuid, setgid and sticky files are not published; \
         take these bits away, or ignore it"
    )]
    Special {
        /// Which.
        path: PathBuf,
        /// All its permission bits.
        mode: u32,
    },
    /// A symbolic link that leads out of the tree.
    #[error(
        "{path} is a link to {target}, which is outside of the tree, and other members don't \
         have that; link to something inside by a relative path, or ignore it"
    )]
    LeadsOut {
        /// Which.
        path: PathBuf,
        /// Where it points.
        target: String,
    },
    /// Too deep or too long for a path of Althing.
    #[error("{path} holds a name that can't be published: {why}; rename it, or ignore it")]
    Name {
        /// The directory with that name in it.
        path: PathBuf,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// It changed while it was read, twice.
    #[error(
        "{0} changed while it was read, so nothing was taken; \
         try again when nobody writes to it, or ignore it"
    )]
    Changing(PathBuf),
    /// What was found is no tree.
    #[error("the content can't be described: {0}")]
    Tree(#[from] TreeError),
    /// A pattern that is none.
    #[error("the ignore pattern {pattern:?} is not valid: {why}; correct it in the manifest")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk is full, its inodes are or the quota is used up.
    #[error(
        "no space is left for {0}, or too few inodes for so many files (`df -i`), so nothing was \
         switched; free some and try again"
    )]
    Full(PathBuf),
    /// Two names of one version are one to the file system.
    #[error(
        "{0} was not written, so nothing was switched: another name of the version is the same to \
         this file system, which tells no upper case from lower case; put the live tree on one \
         that does, or publish with only one of the two names"
    )]
    Twins(PathBuf),
    /// Bytes that are not those that were promised.
    #[error(
        "the content of {0} does not have its signature, so it was not put in place; \
         it will be fetched again"
    )]
    Corrupt(RelPath),
    /// The store can't give or take content.
    #[error("the store failed: {0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A symbolic link or a `..` would have led out of the tree.
    #[error(
        "{0} was not touched: a link stands in its way, and following it could lead out of the \
         tree; remove the link, or wait for the next scan"
    )]
    InTheWay(PathBuf),
    /// A mount point where whole trees are to be exchanged.
    #[error(
        "{0} is a mount point, so the tree can't be exchanged as a whole; \
         name a directory below it as path, or mount it outside of the live tree"
    )]
    Mounted(PathBuf),
    /// Something stands where only an empty directory may.
    #[error("{0} is not empty, and nothing in it is written over; name a directory that is new")]
    NotEmpty(PathBuf),
    /// A file system without RENAME_EXCHANGE.
    #[error(
        "the file system of {0} can't exchange two directories in one step; \
         make the path a symbolic link, or move it to ext4, xfs or btrfs"
    )]
    NoExchange(PathBuf),
    /// A kernel without openat2.
    #[error(
        "this kernel has no openat2, without which paths can't be kept inside their tree; \
         run Linux 5.6 or later, or allow the call in the sandbox"
    )]
    NoOpenat2,
    /// Too many directories, or a kernel that does not say.
    #[error(
        "{path} can't be watched ({why}), so edits are found by the scans, every few seconds; \
         raise fs.inotify.max_user_watches if the tree has more directories than that"
    )]
    Unwatched {
        /// The live tree.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The work directory beside the live tree belongs to somebody else.
    #[error("{0} belongs to another user, so it is not used; remove it and try again")]
    NotOurs(PathBuf),
    /// The note about a switch under way can't be read.
    #[error(
        "{path} can't be read ({why}), so nothing beside it was touched; \
         look after the trees next to it and remove it"
    )]
    Journal {
        /// The note.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Any other refusal of the system.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DriverError {
    /// The error for a failed call, with those singled out that a person can
    /// do something particular about.
    pub(crate) fn io(what: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        let source = error.into();
        let errno = source.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        match errno {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Self::Full(path.into()),
            Some(rustix::io::Errno::LOOP) => Self::InTheWay(path.into()),
            Some(rustix::io::Errno::NOSYS) if what == "open" => Self::NoOpenat2,
            _ => Self::Io { what, path: path.into(), source },
        }
    }

    /// Whether it says that the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}
