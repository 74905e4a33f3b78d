//! Garbage collection of the content store: mark what the kept trees need,
//! sweep the index in one transaction, then give the disk space back.
//!
//! The transaction is the decision. Files go only after it, and what a crash
//! leaves of them is removed when the store is opened again. A pack that is
//! mostly dead is copied first, and removed once the index points at the copy.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ContentStore, StoreError,
    content::{Inner, is_damage},
    error::io_error,
    index::Location,
    pack::{self, Extent, PACK_FULL, PackWriter},
};
use crate::base::Digest;

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Trees dropped.
    pub trees: u64,
    /// Chunks dropped.
    pub chunks: u64,
    /// Disk space given back, bytes.
    pub bytes: u64,
    /// Nothing was done, because a writer or a hold was at work: call again
    /// later.
    pub postponed: bool,
}

pub(super) fn collect(store: &ContentStore, keep: &BTreeSet<Digest>) -> Result<Freed, StoreError> {
    let inner = &*store.inner;
    let _one_at_a_time = inner.collecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let generation = inner.generation();
    // Marking reads whole listings, so most of it is done before writers are
    // kept out. Listings never change, only new ones come.
    let mut live = Live::default();
    live.mark(store, keep, generation)?;
    store.detach(&live.trees)?;

    let Some(closed) = inner.close_gate() else {
        return Ok(Freed { postponed: true, ..Freed::default() });
    };
    live.mark(store, keep, generation)?;
    store.detach(&live.trees)?;
    live.sort();
    let dead: Vec<Digest> =
        inner.index.trees()?.into_keys().filter(|root| !live.trees.contains(root)).collect();
    let swept = inner.index.sweep(generation, &dead, |digest| live.holds(digest))?;
    inner.next_generation();
    // What stays has lost nothing.
    inner.listings.chunks_lost(&live.trees);
    let mut retired: BTreeSet<u64> = swept.empty.iter().copied().collect();
    retired.extend(swept.mostly_dead.iter().map(|extent| extent.pack));
    inner.retire(&retired);
    for root in &dead {
        inner.listings.remove(root)?;
    }
    drop(closed);

    let mut freed = Freed { trees: dead.len() as u64, chunks: swept.chunks, ..Freed::default() };
    for pack in swept.empty {
        freed.bytes += inner.remove_pack(pack)?;
    }
    for extent in swept.mostly_dead {
        match rewrite(inner, extent) {
            Ok(bytes) => freed.bytes += bytes,
            // Not even room for a copy: this pack's turn comes again.
            Err(error) if error.is_full() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(freed)
}

/// What has to stay.
#[derive(Default)]
struct Live {
    trees: BTreeSet<Digest>,
    chunks: Vec<Digest>,
}

impl Live {
    /// Adds the trees that stay and were not added before.
    fn mark(
        &mut self,
        store: &ContentStore,
        keep: &BTreeSet<Digest>,
        generation: u64,
    ) -> Result<(), StoreError> {
        for (root, since) in store.inner.index.trees()? {
            let stays = keep.contains(&root) || since >= generation;
            if !stays || self.trees.contains(&root) {
                continue;
            }
            match store.tree(&root)? {
                Some(tree) => {
                    self.trees.insert(root);
                    self.chunks.extend(tree.chunks().iter().map(|chunk| chunk.digest));
                }
                // Without its listing, what it needs can't be told from waste.
                None if keep.contains(&root) => return Err(StoreError::Corrupt(root)),
                None => {}
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup();
    }

    fn holds(&self, digest: &Digest) -> bool {
        self.chunks.binary_search(digest).is_ok()
    }
}

/// Copies what is alive in a pack elsewhere and removes the pack. Bytes given
/// back.
fn rewrite(inner: &Inner, victim: Extent) -> Result<u64, StoreError> {
    let rows = inner.index.chunks_in(victim.pack)?;
    let mut copy = Copy { inner, open: None, filled: Vec::new() };
    let mut moves = Vec::with_capacity(rows.len());
    let mut is_damaged = false;
    for (digest, row) in rows {
        match inner.bytes(row.at) {
            // What is damaged is not copied, and so forgotten with its pack.
            Ok(bytes) if Digest::of_bytes(&bytes) == digest => {
                moves.push((digest, row.at, copy.append(&digest, &bytes)?));
            }
            Err(error) if !is_damage(&error) => {
                return Err(io_error("read", &pack::path_of(&inner.packs, victim.pack))(error));
            }
            _ => is_damaged = true,
        }
    }
    copy.finish()?;
    let filled: Vec<Extent> = copy.filled.iter().map(|(_, after)| *after).collect();
    let known: BTreeMap<u64, u64> =
        copy.filled.iter().map(|(before, _)| (before.pack, before.committed)).collect();
    if let Err(error) = inner.index.moved(victim.pack, &moves, &filled) {
        copy.filled.clear(); // as in a writer's commit: what came through is unknown
        return Err(error);
    }
    copy.filled.clear();
    if is_damaged {
        inner.listings.chunks_lost(&BTreeSet::new());
    }
    let mut grown = 0;
    for extent in filled {
        grown += extent.committed - known.get(&extent.pack).copied().unwrap_or(0);
        inner.give_back(extent);
    }
    Ok(inner.remove_pack(victim.pack)?.saturating_sub(grown))
}

/// Where the living are copied to. Dropped before it is cleared, it is undone.
struct Copy<'a> {
    inner: &'a Inner,
    open: Option<PackWriter>,
    filled: Vec<(Extent, Extent)>,
}

impl Copy<'_> {
    fn append(&mut self, digest: &Digest, bytes: &[u8]) -> Result<Location, StoreError> {
        // No look at the room left: this gives back more than it takes.
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.inner.take_pack()?,
        };
        let pack = open.id();
        let appended = open.append(digest, bytes);
        let full = open.length() >= PACK_FULL;
        self.open = Some(open);
        let at = Location { pack, offset: appended?, len: bytes.len() as u32 };
        if full {
            self.finish()?;
        }
        Ok(at)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(open) = &mut self.open {
            let after = open.finish()?;
            self.filled.push((open.before(), after));
            self.open = None;
        }
        Ok(())
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        let open = self.open.take().and_then(PackWriter::undo);
        let packs = &self.inner.packs;
        let undone = self
            .filled
            .drain(..)
            .filter_map(|(before, _)| pack::undo(&pack::path_of(packs, before.pack), before));
        for extent in open.into_iter().chain(undone) {
            self.inner.give_back(extent);
        }
    }
}
