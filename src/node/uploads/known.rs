//! A directory that was published before is known again by its signature, though a version has
//! more in it than the directory had.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    base::{
        Digest, RelPath,
        tree::{self, Change, Tree},
    },
    store::{ContentStore, StoreError},
};

/// The newest versions of an application that are compared with what is offered, before the whole
/// list is asked for.
const VERSIONS_MAX: usize = 4;

/// The tree with this root, if it is here with all of its content: in the store itself, or as what
/// one of `versions` was made of, without definitions and the other files at `places`.
pub(super) fn known(
    store: &ContentStore,
    root: &Digest,
    versions: &[Digest],
    places: &[RelPath],
) -> Result<Option<Tree>, StoreError> {
    if store.whole(root)? {
        return Ok(store.tree(root)?.map(Arc::unwrap_or_clone).filter(is_plain));
    }
    for version in versions.iter().take(VERSIONS_MAX) {
        let Some(tree) = store.tree(version)? else { continue };
        let given = given(&tree, places);
        if given.root() == *root && store.whole(version)? {
            return Ok(Some(given));
        }
    }
    Ok(None)
}

/// `version` without what `publish` makes beside the files of a directory.
fn given(version: &Tree, places: &[RelPath]) -> Tree {
    let made = version.entries().map(|entry| &entry.path).filter(|path| path.is_definition());
    let mut gone: BTreeSet<RelPath> = made.cloned().collect();
    for place in places.iter().filter(|place| version.get(place).is_some()) {
        gone.insert(place.clone());
        // A directory that holds nothing else was made for it.
        let mut above = place.parent();
        while let Some(path) = above {
            if version.within(&path).any(|entry| !gone.contains(&entry.path)) {
                break;
            }
            above = path.parent();
            gone.insert(path);
        }
    }
    let changes: Vec<Change> = gone.into_iter().map(Change::Del).collect();
    // Each of them is there, and none is left below another.
    tree::apply(version, &changes).unwrap_or_else(|_| version.clone())
}

/// Whether nothing in it is Althing's own.
fn is_plain(tree: &Tree) -> bool {
    tree.entries().all(|entry| !entry.path.is_definition())
}
