//! Listings of trees: on disk, and those that are in use in memory.
//!
//! The listing of a version of which a few files have changed is stored as these changes
//! and the root of the one before, so that an edit does not cost what there is. After
//! [`BASED_MAX`] such steps one is stored whole again, and so is one whose base is
//! collected, before that goes. What is read is a listing only if it has the root that it
//! is stored under, whichever way it was come by.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
};

use serde::{Deserialize, Serialize};

use super::{ContentStore, StoreError, content::Inner, record};
use crate::base::{
    Digest, limits,
    tree::{self, Change, Chunk, Entry, Tree},
    wire::{self, Kind},
};

/// Listings that are changes of one that is changes, and so on: so many are read for one.
const BASED_MAX: usize = 32;
/// Of a listing that is stored as changes, these are one part in so many at the most.
const CHANGES_SHARE: usize = 8;
/// Listings that stay in memory although nobody uses them: the next step needs them.
const RECENT: usize = 3;
/// Trees that are remembered to be whole.
const WHOLE_MAX: usize = 64;

/// A listing on disk that is told by what it differs in.
#[derive(Serialize, Deserialize)]
struct Changed {
    base: Digest,
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
    changes: Vec<Change>,
}

/// Where listings lie, and what is known of them without a look.
pub(super) struct Listings {
    directory: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    trees: BTreeMap<Digest, Weak<Tree>>,
    recent: VecDeque<Arc<Tree>>,
    /// Which one was made of which.
    based: BTreeMap<Digest, Based>,
    /// Trees of which every chunk is in the index, since chunks were lost last.
    whole: BTreeSet<Digest>,
    /// How often chunks were lost.
    lost: u64,
}

#[derive(Clone, Copy)]
struct Based {
    base: Digest,
    /// How many others must be read to read it; none where it is stored whole.
    steps: usize,
}

impl Listings {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, known: Mutex::default() }
    }

    /// Every change of what is known is whole by itself, so a panic elsewhere does no harm.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn whole_path(&self, root: &Digest) -> PathBuf {
        self.directory.join(format!("{root}{WHOLE}"))
    }

    fn changes_path(&self, root: &Digest) -> PathBuf {
        self.directory.join(format!("{root}{CHANGES}"))
    }

    /// Removes the listing from disk and memory.
    pub fn remove(&self, root: &Digest) -> Result<(), StoreError> {
        self.forget(root);
        record::remove(&self.whole_path(root))?;
        record::remove(&self.changes_path(root))
    }

    fn forget(&self, root: &Digest) {
        let mut known = self.known();
        known.trees.remove(root);
        known.recent.retain(|tree| tree.root() != *root);
        known.based.remove(root);
        known.whole.remove(root);
    }

    fn in_memory(&self, root: &Digest) -> Option<Arc<Tree>> {
        self.known().trees.get(root).and_then(Weak::upgrade)
    }

    /// Finds `tree` in memory from now on, for as long as somebody uses it.
    fn remember(&self, root: Digest, tree: &Arc<Tree>, based: Option<Based>) {
        let mut known = self.known();
        known.trees.retain(|_, tree| tree.strong_count() > 0);
        known.trees.insert(root, Arc::downgrade(tree));
        match based {
            Some(based) => known.based.insert(root, based),
            None => known.based.remove(&root),
        };
    }

    /// The next step needs `tree`: it stays in memory for a while.
    fn keep(&self, tree: Arc<Tree>) {
        let mut known = self.known();
        known.recent.push_back(tree);
        if known.recent.len() > RECENT {
            known.recent.pop_front();
        }
    }

    /// Chunks were lost, or may have been: of none but `these` is known that they are whole.
    pub fn chunks_lost(&self, these: &BTreeSet<Digest>) {
        let mut known = self.known();
        known.lost += 1;
        known.whole.retain(|root| these.contains(root));
    }

    fn is_whole(&self, root: &Digest) -> bool {
        self.known().whole.contains(root)
    }

    /// `root` was found whole, and looking at it began when chunks had been lost so often.
    fn found_whole(&self, root: Digest, lost: u64) {
        let mut known = self.known();
        if known.lost == lost {
            if known.whole.len() >= WHOLE_MAX {
                known.whole.clear();
            }
            known.whole.insert(root);
        }
    }

    fn based(&self, root: &Digest) -> Option<Based> {
        self.known().based.get(root).copied()
    }
}

const WHOLE: &str = ".tree";
const CHANGES: &str = ".changes";

/// The root of the listing in the file `name`, if it is one.
pub(super) fn root_of(name: &str) -> Option<Digest> {
    name.strip_suffix(WHOLE).or_else(|| name.strip_suffix(CHANGES)).and_then(Digest::parse)
}

/// Removes what is stored under `root` in `directory`.
pub(super) fn remove_from(directory: &Path, root: &Digest) -> Result<(), StoreError> {
    record::remove(&directory.join(format!("{root}{WHOLE}")))?;
    record::remove(&directory.join(format!("{root}{CHANGES}")))
}

impl Inner {
    /// What is in the record at `path`; nothing if that is damaged.
    fn listed<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
        match record::load_bounded(path, limits::TREE_MAX) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| wire::decode(Kind::Tree, &bytes).ok())),
            Err(StoreError::Torn { .. } | StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn store_listing<T: Serialize>(&self, path: &Path, listing: &T) -> Result<(), StoreError> {
        let bytes = wire::try_encode(Kind::Tree, listing).map_err(|_| StoreError::TooLarge {
            path: path.to_owned(),
            size: u64::MAX,
            size_max: limits::TREE_MAX as u64,
        })?;
        self.room(bytes.len() as u64)?;
        record::save_bounded(path, &bytes, limits::TREE_MAX)
    }

    fn store_whole(&self, root: &Digest, tree: &Tree) -> Result<(), StoreError> {
        self.store_listing(&self.listings.whole_path(root), tree)?;
        record::remove(&self.listings.changes_path(root))
    }
}

impl ContentStore {
    /// Stores a listing under its root, durably. Its chunks need not be held;
    /// whoever stores a listing from elsewhere has them [proven](super::Doubt).
    pub fn put_tree(&self, tree: &Tree) -> Result<Digest, StoreError> {
        self.put(tree, None)
    }

    /// The same, for a tree that is much like the one with the root `base`.
    pub fn put_tree_like(&self, tree: &Tree, base: &Digest) -> Result<Digest, StoreError> {
        self.put(tree, Some(base))
    }

    fn put(&self, tree: &Tree, base: Option<&Digest>) -> Result<Digest, StoreError> {
        let _hold = self.hold();
        let inner = &self.inner;
        let root = tree.root();
        let generation = inner.generation();
        if self.tree(&root)?.is_some_and(|known| *known == *tree) {
            if inner.index.tree(&root)? != Some(generation) {
                inner.index.put_tree(&root, generation)?;
            }
            return Ok(root);
        }
        let mut based = None;
        let is_new = inner.index.tree(&root)?.is_none();
        if !is_new {
            // It is cut differently now, and so is what is told by what it differs in.
            inner.listings.chunks_lost(&BTreeSet::new());
        }
        if let Some(base) = base.filter(|_| is_new)
            && let Some(have) = self.tree(base)?
        {
            let changes = tree::changes_and_cuts(&have, tree);
            let steps = inner.listings.based(base).map_or(0, |based| based.steps) + 1;
            let is_short = changes.len() * CHANGES_SHARE <= tree.len() && steps <= BASED_MAX;
            if is_short {
                // What the index does not know may have been left where it could not be removed.
                record::remove(&inner.listings.whole_path(&root))?;
                let path = inner.listings.changes_path(&root);
                inner.store_listing(&path, &Changed { base: *base, changes })?;
            }
            based = Some(Based { base: *base, steps: if is_short { steps } else { 0 } });
        }
        if based.is_none_or(|based| based.steps == 0) {
            inner.store_whole(&root, tree)?;
        }
        if based.is_some() {
            let tree = Arc::new(tree.clone());
            inner.listings.remember(root, &tree, based);
            inner.listings.keep(tree);
        } else {
            inner.listings.forget(&root); // what is on disk counts
        }
        inner.index.put_tree(&root, generation)?;
        Ok(root)
    }

    /// The listing with this root, verified; `None` if it is not known. A
    /// damaged one is forgotten and `None`, so that it is fetched again.
    pub fn tree(&self, root: &Digest) -> Result<Option<Arc<Tree>>, StoreError> {
        self.tree_within(root, BASED_MAX)
    }

    fn tree_within(&self, root: &Digest, steps: usize) -> Result<Option<Arc<Tree>>, StoreError> {
        let inner = &self.inner;
        if inner.index.tree(root)?.is_none() {
            return Ok(None);
        }
        if let Some(tree) = inner.listings.in_memory(root) {
            return Ok(Some(tree));
        }
        let mut based = None;
        let mut loaded = Inner::listed::<Tree>(&inner.listings.whole_path(root))?;
        if loaded.is_none()
            && let Some(steps) = steps.checked_sub(1)
            && let Some(Changed { base, changes }) =
                Inner::listed(&inner.listings.changes_path(root))?
            && let Some(have) = self.tree_within(&base, steps)?
        {
            loaded = tree::apply(&have, &changes).ok();
            let steps = inner.listings.based(&base).map_or(0, |based| based.steps) + 1;
            based = Some(Based { base, steps });
        }
        match loaded {
            Some(tree) if tree.root() == *root => {
                let tree = Arc::new(tree);
                inner.listings.remember(*root, &tree, based);
                Ok(Some(tree))
            }
            _ => {
                inner.losses.fetch_add(1, Ordering::AcqRel);
                inner.index.forget_tree(root)?;
                inner.listings.remove(root)?;
                Ok(None)
            }
        }
    }

    /// Sees to it that no listing of `live` needs one that is not among them.
    pub(super) fn detach(&self, live: &BTreeSet<Digest>) -> Result<(), StoreError> {
        for root in live {
            let Some(based) = self.inner.listings.based(root) else { continue };
            if based.steps > 0
                && !live.contains(&based.base)
                && let Some(tree) = self.tree(root)?
            {
                self.inner.store_whole(root, &tree)?;
                self.inner.listings.remember(*root, &tree, None);
            }
        }
        Ok(())
    }

    /// The distinct chunks of `tree` that are not held, sorted by signature.
    /// Holds by what the index says; [`read`](Self::read) and
    /// [`verify`](Self::verify) look at the bytes.
    pub fn missing(&self, tree: &Tree) -> Result<Vec<Chunk>, StoreError> {
        self.missing_of(&tree.chunks())
    }

    /// The same, for a tree that is much like the one with the root `base`.
    pub fn missing_like(&self, tree: &Tree, base: &Digest) -> Result<Vec<Chunk>, StoreError> {
        match self.tree(base)? {
            Some(have) if self.whole(base)? => {
                let changes = tree::changes_and_cuts(&have, tree);
                let entries = changes.iter().filter_map(Change::entry);
                self.missing_of(&entries.flat_map(Entry::chunks).copied().collect())
            }
            _ => self.missing(tree),
        }
    }

    fn missing_of(&self, chunks: &BTreeSet<Chunk>) -> Result<Vec<Chunk>, StoreError> {
        let mut lengths = chunks.iter();
        let mut missing = Vec::new();
        self.inner.index.chunks(chunks.iter().map(|chunk| &chunk.digest), |_, row| {
            // One answer for each chunk, in their order.
            if let Some(chunk) = lengths.next()
                && row.is_none_or(|row| row.at.len != chunk.len)
            {
                missing.push(*chunk);
            }
        })?;
        Ok(missing)
    }

    /// Whether the listing is known and none of its chunks is missing.
    pub fn whole(&self, root: &Digest) -> Result<bool, StoreError> {
        let Some(tree) = self.tree(root)? else { return Ok(false) };
        let listings = &self.inner.listings;
        if listings.is_whole(root) {
            return Ok(true);
        }
        let lost = listings.known().lost;
        let based = listings.based(root).filter(|based| listings.is_whole(&based.base));
        let missing = match based {
            Some(Based { base, .. }) => self.missing_like(&tree, &base)?,
            None => self.missing(&tree)?,
        };
        if missing.is_empty() {
            listings.found_whole(*root, lost);
        }
        Ok(missing.is_empty())
    }
}
