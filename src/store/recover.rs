//! What happens when the content store is opened after a crash, or after
//! someone laid hands on its files.
//!
//! The index decides: what it does not know of was never committed. Only when
//! the index itself is damaged is it made again from what the packs say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{
    StoreError,
    error::io_error,
    index::{Batch, Fault, Index, Location},
    listing,
    pack::{self, Extent, HEADER, PACK_FULL, POOL},
    record,
};
use crate::base::Digest;

/// Makes files and index agree: what the index does not know is cut off or
/// removed; what the files no longer have is forgotten. The packs with room.
pub(super) fn packs(directory: &Path, index: &Index) -> Result<Vec<Extent>, StoreError> {
    let mut files: BTreeMap<u64, u64> = pack::list(directory)?.into_iter().collect();
    let mut shortened = BTreeMap::new();
    let mut pool = Vec::new();
    for mut extent in index.packs()? {
        let path = pack::path_of(directory, extent.pack);
        let length = files.remove(&extent.pack).unwrap_or(0);
        if length < extent.committed {
            // Someone cut or removed it: keep the entries that are whole.
            let whole = if length < HEADER { 0 } else { pack::scan(&path, |_, _, _| {})? };
            extent.committed = whole.min(extent.committed);
            shortened.insert(extent.pack, extent.committed);
        }
        if extent.committed == 0 {
            record::remove(&path)?;
        } else if length > extent.committed {
            pack::undo(&path, extent);
        }
        if (1..PACK_FULL).contains(&extent.committed) {
            pool.push(extent);
        }
    }
    for pack in files.into_keys() {
        record::remove(&pack::path_of(directory, pack))?;
    }
    if !shortened.is_empty() {
        index.shortened(&shortened)?;
    }
    pool.sort_unstable_by_key(|extent| extent.committed);
    pool.truncate(POOL);
    Ok(pool)
}

pub(super) fn trees(directory: &Path, index: &Index) -> Result<(), StoreError> {
    let mut known = index.trees()?;
    for root in list_trees(directory)? {
        if known.remove(&root).is_none() {
            listing::remove_from(directory, &root)?;
        }
    }
    for root in known.into_keys() {
        index.forget_tree(&root)?;
    }
    Ok(())
}

/// A new index for packs and trees whose index is damaged or gone. It takes
/// its place only once it is complete: a pack that an index does not know is
/// removed. The damaged one stays beside it.
pub(super) fn rebuild(path: &Path, packs: &Path, trees: &Path) -> Result<Index, StoreError> {
    let aside = path.with_extension("rebuilt");
    record::remove(&aside)?;
    let wrap = |fault: Fault| fault.into_store_error("make", path);
    let index = Index::open(&aside).map_err(wrap)?;
    for (pack, _) in pack::list(packs)? {
        let mut chunks = BTreeMap::new();
        let committed = pack::scan(&pack::path_of(packs, pack), |digest, offset, len| {
            chunks.insert(digest, Location { pack, offset, len });
        })?;
        if !chunks.is_empty() {
            let packs = vec![Extent { pack, committed }];
            index.commit(&Batch { chunks: Some(&chunks), packs, ..Batch::default() })?;
        }
    }
    for root in list_trees(trees)? {
        index.put_tree(&root, 0)?; // verified when it is loaded
    }
    drop(index);
    // For whoever wants to know what happened to it; no matter if it fails.
    let damaged = path.with_extension("damaged");
    let _ = fs::remove_file(&damaged);
    let _ = fs::hard_link(path, &damaged);
    fs::rename(&aside, path).map_err(io_error("put in place", path))?;
    record::sync_directory(packs.parent().unwrap_or(packs))?;
    Index::open(path).map_err(wrap)
}

fn list_trees(trees: &Path) -> Result<BTreeSet<Digest>, StoreError> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(trees).map_err(io_error("list", trees))? {
        let name = entry.map_err(io_error("list", trees))?.file_name();
        all.extend(name.to_str().and_then(listing::root_of));
    }
    Ok(all)
}
