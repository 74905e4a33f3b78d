//! Proof that a listing from elsewhere names the right pieces: the root of a tree signs its
//! files, not how they are cut.

use std::collections::BTreeMap;

use super::{ContentStore, StoreError};
use crate::base::{
    Digest, RelPath,
    tree::{Change, Chunk, Entry, Node, Tree, changes_and_cuts},
};

/// The files of a listing of which is not proven yet that their pieces make them.
#[derive(Debug)]
pub struct Doubt {
    files: Vec<Doubtful>,
    /// One that its pieces don't make.
    lie: Option<RelPath>,
}

#[derive(Debug)]
struct Doubtful {
    path: RelPath,
    digest: Digest,
    chunks: Vec<Chunk>,
}

impl Doubt {
    /// What of `tree` is to be proven by reading. A file of one piece is proven by its
    /// signature; one that is cut in the same way in a tree that `store` has is believed. A
    /// file of one piece that has another signature is an error.
    pub fn of(store: &ContentStore, tree: &Tree) -> Result<Self, StoreError> {
        Self::about(store, tree.entries())
    }

    /// The same, for a tree that is much like the one with the root `base`, which is stored.
    pub fn like(store: &ContentStore, tree: &Tree, base: &Digest) -> Result<Self, StoreError> {
        let Some(have) = store.tree(base)? else { return Self::of(store, tree) };
        let changes = changes_and_cuts(&have, tree);
        Self::about(store, changes.iter().filter_map(Change::entry))
    }

    fn about<'a>(
        store: &ContentStore,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Result<Self, StoreError> {
        let mut doubtful: BTreeMap<Digest, Vec<Doubtful>> = BTreeMap::new();
        for entry in entries {
            let Node::File { digest, chunks, .. } = &entry.node else { continue };
            match chunks.as_slice() {
                [] if *digest == Digest::of_bytes(b"") => {}
                [only] if only.digest == *digest => {}
                [] | [_] => return Err(StoreError::Unproven(entry.path.clone())),
                many => {
                    let cuts = doubtful.entry(*digest).or_default();
                    if !cuts.iter().any(|known| known.chunks == many) {
                        let (path, chunks) = (entry.path.clone(), many.to_vec());
                        cuts.push(Doubtful { path, digest: *digest, chunks });
                    }
                }
            }
        }
        for root in store.trees()? {
            if doubtful.is_empty() {
                break;
            }
            let Some(known) = store.tree(&root)? else { continue };
            for entry in known.entries() {
                let Node::File { digest, chunks, .. } = &entry.node else { continue };
                if let Some(cuts) = doubtful.get_mut(digest) {
                    cuts.retain(|cut| cut.chunks != *chunks);
                }
            }
            doubtful.retain(|_, cuts| !cuts.is_empty());
        }
        let mut files: Vec<Doubtful> = doubtful.into_values().flatten().collect();
        // As they come.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files, lie: None })
    }

    /// Proves those files of which all pieces are held, until one is not what it should be:
    /// that is said by [`prove`](Self::prove). What can't be read now stays in doubt.
    pub fn prove_what_is_held(&mut self, store: &ContentStore) {
        let mut left = Vec::new();
        for file in std::mem::take(&mut self.files) {
            let mut held = self.lie.is_none();
            for chunk in &file.chunks {
                held = held && store.has(&chunk.digest).unwrap_or(false);
            }
            match held.then(|| file.prove(store)) {
                Some(Ok(())) => continue,
                Some(Err(StoreError::Unproven(path))) => self.lie = Some(path),
                Some(Err(_)) | None => {}
            }
            left.push(file);
        }
        self.files = left;
    }

    /// Proves all that is left. [`StoreError::Unproven`] with the first file that its pieces
    /// don't make.
    pub fn prove(&self, store: &ContentStore) -> Result<(), StoreError> {
        match &self.lie {
            Some(path) => Err(StoreError::Unproven(path.clone())),
            None => self.files.iter().try_for_each(|file| file.prove(store)),
        }
    }

    /// How many files are in doubt.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether all is proven.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Doubtful {
    fn prove(&self, store: &ContentStore) -> Result<(), StoreError> {
        let mut hasher = blake3::Hasher::new();
        for chunk in &self.chunks {
            hasher.update(&store.read(&chunk.digest)?);
        }
        if hasher.finalize().as_bytes() == &self.digest.0 {
            Ok(())
        } else {
            Err(StoreError::Unproven(self.path.clone()))
        }
    }
}
