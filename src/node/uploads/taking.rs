//! How far an upload is: what was asked for, and what came. Here is what is not believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    lie,
    lists::{Amount, Next, Reply, UploadId},
    stored,
};
use crate::{
    base::{
        Digest, Refusal, limits,
        tree::{self, Chunk, Node, Tree},
    },
    driver::files::scan::leads_out,
    proto::replication::ActionList,
    store::{ContentStore, StoreError},
};

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// What is to be published, once that is known.
    tree: Option<Tree>,
    lacks: Amount,
    /// What is lacking and was not asked for yet.
    waiting: VecDeque<Chunk>,
    /// What was asked for: how long it is, and whether it came.
    asked: BTreeMap<Digest, (u32, bool)>,
    /// How many of these did not come yet.
    open: usize,
}

impl Taking {
    /// Of a tree that is here, if it is known.
    pub fn begun(tree: Option<Tree>) -> Self {
        Self { tree, ..Self::default() }
    }

    /// Whether it is known what is to be published.
    pub fn is_listed(&self) -> bool {
        self.tree.is_some()
    }

    /// What was lacking when that became known.
    pub fn lacks(&self) -> Amount {
        self.lacks
    }

    /// What is to be published, once all of it is here.
    pub fn whole(&self) -> Option<Tree> {
        self.tree.clone().filter(|_| self.open == 0 && self.waiting.is_empty())
    }

    /// For a tree of which only the listing came.
    pub fn of(store: &ContentStore, tree: Tree) -> Result<Self, StoreError> {
        let missing: BTreeSet<Chunk> = store.missing(&tree)?.into_iter().collect();
        let mut seen = BTreeSet::new();
        // As they lie in the files: so they are read in one go.
        let chunks = tree.entries().flat_map(tree::Entry::chunks);
        let waiting: VecDeque<Chunk> = chunks
            .filter(|chunk| missing.contains(*chunk) && seen.insert(chunk.digest))
            .copied()
            .collect();
        let bytes = waiting.iter().map(|chunk| u64::from(chunk.len)).sum();
        let lacks = Amount { chunks: waiting.len() as u64, bytes };
        Ok(Self { tree: Some(tree), lacks, waiting, ..Self::default() })
    }

    /// Puts a portion into the store, all of it or nothing.
    pub fn take(&mut self, store: &ContentStore, chunks: &[(Chunk, &[u8])]) -> Result<(), Refusal> {
        let mut writer = store.writer();
        let mut came = Vec::new();
        for (chunk, bytes) in chunks {
            match self.asked.get(&chunk.digest) {
                Some((len, _)) if *len != chunk.len => {
                    let why = "It sent a piece of another length than was asked for.";
                    return Err(lie(why.to_owned()));
                }
                // Sent once more, as after a connection that broke.
                Some((_, true)) => continue,
                Some((_, false)) => {}
                None => return Err(lie("It sent what was not asked for.".to_owned())),
            }
            match writer.put(chunk.digest, bytes) {
                Ok(_) => came.push(chunk.digest),
                Err(StoreError::Mismatch { .. }) => {
                    let why = "It sent a piece whose bytes don't have its signature.";
                    return Err(lie(why.to_owned()));
                }
                Err(error) => return Err(stored(error)),
            }
        }
        writer.commit().map_err(stored)?;
        if came.is_empty() {
            // What this member wants may have been lost on the way back: it is said again.
            let again = self.asked.iter().filter(|(_, (_, came))| !came);
            let again = again.map(|(digest, (len, _))| Chunk { digest: *digest, len: *len });
            for chunk in again.collect::<Vec<_>>() {
                self.asked.remove(&chunk.digest);
                self.waiting.push_front(chunk);
            }
            self.open = 0;
        }
        for digest in came {
            if let Some((_, came)) = self.asked.get_mut(&digest)
                && !std::mem::replace(came, true)
            {
                self.open -= 1;
            }
        }
        Ok(())
    }

    pub fn reply(&mut self, upload: UploadId) -> Reply {
        Reply { upload, lacks: self.lacks, next: self.next() }
    }

    fn next(&mut self) -> Next {
        if self.tree.is_none() {
            return Next::List;
        }
        if self.open > 0 {
            return Next::Rest;
        }
        let size = self.waiting.len().min(limits::ACTIONS_MAX);
        let chunks: Vec<Chunk> = self.waiting.drain(..size).collect();
        if chunks.is_empty() {
            return Next::Publish;
        }
        self.open = chunks.len();
        self.asked.extend(chunks.iter().map(|chunk| (chunk.digest, (chunk.len, false))));
        Next::Chunks(ActionList { chunks })
    }
}

/// Whether a list from elsewhere can be what was offered: a sentence if it can't.
pub(super) fn check(tree: &Tree, root: &Digest) -> Result<(), String> {
    if tree.root() != *root {
        return Err("Its list of what it has is not that of what it offered.".to_owned());
    }
    let mut lengths = BTreeMap::new();
    for entry in tree.entries() {
        let path = &entry.path;
        if path.is_definition() {
            return Err(format!("{path} is in its list, and .althing is Althing's own."));
        }
        if let Node::Symlink { target } = &entry.node {
            if target.is_empty() || target.contains(&0) {
                return Err(format!("{path} is no link that could be."));
            }
            if leads_out(path, target) {
                return Err(format!("The link {path} leads out of the directory."));
            }
        }
        for chunk in entry.chunks() {
            if *lengths.entry(chunk.digest).or_insert(chunk.len) != chunk.len {
                return Err(format!("A piece of {path} has two lengths in its list."));
            }
        }
    }
    Ok(())
}
