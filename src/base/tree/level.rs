//! One directory of a tree, and all that is below: what trees share.

use std::{
    iter::Peekable,
    sync::{Arc, OnceLock},
};

use super::{Entry, Node, TreeError};
use crate::base::{Digest, RelPath, limits};

const DIRECTORY: &str = "althing directory";

/// What a directory holds, sorted by name, while it is made and for as long as a tree
/// has it.
#[derive(Debug, Default)]
pub struct Level {
    items: Vec<Item>,
    /// Of all that is below.
    count: usize,
    files: u64,
    bytes: u64,
    /// Once it was asked for.
    digest: OnceLock<Digest>,
}

/// One name in it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub entry: Arc<Entry>,
    /// What that directory holds; none for nothing.
    pub inside: Option<Arc<Level>>,
}

impl Level {
    /// Adds `entry`, whose name comes after those that are here, with what is `inside`
    /// of it. It is for the caller that all paths are those of one directory.
    pub fn push(&mut self, entry: Entry, inside: Self) -> Result<(), TreeError> {
        let inside = (inside.count > 0).then(|| Arc::new(inside));
        self.add(Item { entry: Arc::new(entry), inside })
    }

    pub(super) fn add(&mut self, item: Item) -> Result<(), TreeError> {
        let Item { entry, inside } = &item;
        entry.check()?;
        if self.items.last().is_some_and(|last| last.name() >= item.name()) {
            return Err(TreeError::Twice(entry.path.clone()));
        }
        if let (Some(inside), false) = (inside, matches!(entry.node, Node::Directory { .. })) {
            return Err(TreeError::Orphan(inside.first().clone()));
        }
        self.keep(item);
        if self.count > limits::ENTRIES_MAX { Err(TreeError::TooMany) } else { Ok(()) }
    }

    /// Adds what was in another one, and was checked there.
    pub(super) fn keep(&mut self, item: Item) {
        self.count += 1;
        if let Node::File { size, .. } = item.entry.node {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
        if let Some(inside) = &item.inside {
            self.count += inside.count;
            self.files += inside.files;
            self.bytes = self.bytes.saturating_add(inside.bytes);
        }
        self.items.push(item);
    }

    /// Takes the entries that stand in the directory `path`, and below it, from the
    /// front of `entries`, which are sorted by component.
    pub(super) fn take(
        entries: &mut Peekable<impl Iterator<Item = Entry>>,
        path: Option<&RelPath>,
    ) -> Result<Self, TreeError> {
        let mut level = Self::default();
        while let Some(entry) = entries.next_if(|next| next.path.is_in(path)) {
            let inside = match entry.node {
                Node::Directory { .. } => Self::take(entries, Some(&entry.path))?,
                _ => Self::default(),
            };
            level.push(entry, inside)?;
        }
        Ok(level)
    }

    /// Entries below.
    pub fn count(&self) -> usize {
        self.count
    }

    pub(super) fn files(&self) -> u64 {
        self.files
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// What stands at `path`, which is relative to the root of the tree that this is the
    /// top of, and what is in it.
    pub(super) fn find(&self, path: &RelPath) -> Option<(&Entry, Option<&Self>)> {
        let mut level = self;
        let mut names = path.components().peekable();
        loop {
            let name = names.next()?;
            let at = level.items.binary_search_by(|item| item.name().cmp(name)).ok()?;
            let Item { entry, inside } = &level.items[at];
            if names.peek().is_none() {
                return Some((entry, inside.as_deref()));
            }
            level = inside.as_deref()?;
        }
    }

    /// The path of the first entry. There is none only where nothing is in it, and such
    /// a level is in no tree but at its top.
    pub(super) fn first(&self) -> &RelPath {
        &self.items[0].entry.path
    }

    /// The signature of the directory: of its sorted entries. Only what is new since it
    /// was asked for is signed.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut bytes = Vec::new();
            for item in &self.items {
                item.describe(&mut bytes);
            }
            Digest::of(DIRECTORY, &bytes)
        })
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl Eq for Level {}

impl Item {
    pub fn name(&self) -> &[u8] {
        self.entry.path.file_name()
    }

    fn describe(&self, bytes: &mut Vec<u8>) {
        let name = self.name();
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name);
        match &self.entry.node {
            Node::Directory { mode } => {
                bytes.push(b'd');
                bytes.extend_from_slice(&mode.to_le_bytes());
                let inside = self.inside.as_ref();
                let digest =
                    inside.map_or_else(|| Digest::of(DIRECTORY, b""), |inside| inside.digest());
                bytes.extend_from_slice(&digest.0);
            }
            Node::File { mode, size, digest, .. } => {
                bytes.push(b'f');
                bytes.extend_from_slice(&mode.to_le_bytes());
                bytes.extend_from_slice(&size.to_le_bytes());
                bytes.extend_from_slice(&digest.0);
            }
            Node::Symlink { target } => {
                bytes.push(b'l');
                bytes.extend_from_slice(&(target.len() as u32).to_le_bytes());
                bytes.extend_from_slice(target);
            }
        }
    }

    /// Whether both are one and the same in memory.
    pub fn is(&self, other: &Self) -> bool {
        let inside = match (&self.inside, &other.inside) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        };
        inside && Arc::ptr_eq(&self.entry, &other.entry)
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.entry == other.entry && self.inside == other.inside
    }
}

/// The entries of a tree or of a part of it, sorted by component.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    open: Vec<std::slice::Iter<'a, Item>>,
    left: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn of(level: &'a Level) -> Self {
        Self { open: vec![level.items.iter()], left: level.count }
    }

    pub(super) fn none() -> Self {
        Self { open: Vec::new(), left: 0 }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            match self.open.last_mut()?.next() {
                None => drop(self.open.pop()),
                Some(item) => {
                    self.left -= 1;
                    self.open.extend(item.inside.as_ref().map(|inside| inside.items.iter()));
                    return Some(&item.entry);
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Entries<'_> {}
