//! An UpdateList from outside becomes a version: what SET, ADD and DEL make of
//! the current one. Nothing but the paths that it names is read or changed.
//!
//! A list says what it expects: SET and DEL of what is there, ADD of what is
//! not, and, where it has a `before`, of exactly that. A list that was made
//! against something else is refused as a whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    content::Defined,
    inspect::{Difference, Item, Op, Wanted},
};
use crate::{
    base::{
        AppName, Digest, Reason, Refusal, RelPath,
        catalog::Application,
        limits,
        tree::{Chunk, Entry, Node, Tree},
    },
    driver::files::scan::leads_out,
    member::command::{Command, Staged},
    store::{ContentStore, StoreError, Writer},
};

#[cfg(test)]
mod tests;

/// Permissions of directories that a list needs and does not name.
const DIRECTORY_MODE: u16 = 0o755;

/// A list of changes to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// Of which application.
    pub app: AppName,
    /// In this order.
    pub changes: Vec<Difference>,
    /// For the history.
    pub message: String,
    /// The version that they were made against; the current one if not given.
    pub base: Option<u64>,
}

/// Makes the tree, stores it, and says what is to be published. Blocks.
pub(super) fn stage(
    store: &ContentStore,
    edits: Edits,
    application: &Application,
) -> Result<(Digest, Command), Refusal> {
    let current = application.current();
    let Staging { writer, nodes, .. } = applied(store, &edits, application, None)?;
    writer.commit().map_err(stored)?;
    let entries = nodes.into_iter().map(|(path, node)| Entry { path, node }).collect();
    let tree = Tree::new(entries).map_err(|error| {
        let why = format!("The list leaves no tree: {error}.");
        refusal(Reason::Invalid, why, "Correct the list.")
    })?;
    if tree.is_empty() {
        let why = "The list leaves nothing at all.".to_owned();
        return Err(refusal(Reason::Invalid, why, "Leave something in it."));
    }
    Defined::of(store, &tree).map_err(stored)?.map_err(|wrong| {
        let why = format!("What it makes of the definitions is wrong: {}.", wrong.why);
        refusal(Reason::Invalid, why, "Correct the list, or publish a directory with a manifest.")
    })?;
    let root = store.put_tree(&tree).map_err(stored)?;
    let command = Command::Publish {
        app: edits.app,
        staged: Staged { root, files: tree.files(), bytes: tree.bytes() },
        spec: Box::new(current.spec.clone()),
        message: edits.message,
        base: Some(current.number),
    };
    Ok((root, command))
}

/// The signatures of the content that a list needs, and that neither a kept version on
/// this member has nor a file that the list names; refused if the list does not fit the
/// current version in other ways. Nothing is stored, no content read. Blocks.
pub(super) fn lacking(
    store: &ContentStore,
    edits: &Edits,
    application: &Application,
) -> Result<BTreeSet<Digest>, Refusal> {
    let staging = applied(store, edits, application, Some(BTreeSet::new()))?;
    Ok(staging.lacking.unwrap_or_default())
}

/// The current version with the changes made to it. With `lacking`, content is only
/// looked for.
fn applied<'a>(
    store: &'a ContentStore,
    edits: &Edits,
    application: &'a Application,
    lacking: Option<BTreeSet<Digest>>,
) -> Result<Staging<'a>, Refusal> {
    let current = application.current();
    let base = edits.base.unwrap_or(current.number);
    if base != current.number {
        return Err(refusal(
            Reason::Conflict,
            format!("Version {} is current, and the list was made against {base}.", current.number),
            "See `althing diff`, and make the list anew.",
        ));
    }
    let tree = store.tree(&current.root).map_err(stored)?.ok_or_else(|| {
        refusal(
            Reason::NotFound,
            "This member does not hold the current version yet.".to_owned(),
            "Ask another member, or wait until this one is in step.",
        )
    })?;
    let mut staging = Staging {
        store,
        application,
        writer: store.writer(),
        nodes: tree.entries().map(|e| (e.path.clone(), e.node.clone())).collect(),
        deleted: BTreeSet::new(),
        known: None,
        lacking,
    };
    for change in &edits.changes {
        staging.apply(change).map_err(|why| {
            refusal(
                Reason::Invalid,
                format!("{} {}: {why}.", change.op.word(), change.path),
                "Correct the list, or make it anew against the current version.",
            )
        })?;
    }
    Ok(staging)
}

fn stored(error: StoreError) -> Refusal {
    refusal(Reason::Failed, format!("The store failed: {error}."), "Mend the cause, and try again.")
}

fn refusal(reason: Reason, why: String, todo: &str) -> Refusal {
    Refusal::new(reason, "The list was not published; nothing was changed.", why, todo)
}

/// The tree as it grows out of the current one.
struct Staging<'a> {
    store: &'a ContentStore,
    application: &'a Application,
    writer: Writer,
    nodes: BTreeMap<RelPath, Node>,
    /// What this list has deleted, so that what was below may be named as well.
    deleted: BTreeSet<RelPath>,
    /// Every file of every kept version by its signature, once it is needed.
    known: Option<HashMap<Digest, Vec<Chunk>>>,
    /// Where the list is only looked at: the content that is not here. Files have no
    /// pieces then.
    lacking: Option<BTreeSet<Digest>>,
}

impl Staging<'_> {
    fn apply(&mut self, change: &Difference) -> Result<(), String> {
        let path = RelPath::parse(change.path.as_bytes())?;
        let stands = self.nodes.get(&path);
        if let (Some(before), Some(node)) = (&change.before, stands)
            && Item::from(node) != *before
        {
            return Err("something else stands there by now than the list says".to_owned());
        }
        match (change.op, stands.is_some()) {
            (Op::Del, true) => {
                self.remove(&path);
                self.deleted.insert(path);
                return Ok(());
            }
            // A directory goes with what is in it, and a list may name that too.
            (Op::Del, false) if self.went(&path) => return Ok(()),
            (Op::Set | Op::Del, false) => return Err("nothing stands there".to_owned()),
            (Op::Add, true) => return Err("something stands there already".to_owned()),
            (Op::Set, true) | (Op::Add, false) => {}
        }
        let node = self.node(change, &path)?;
        if !matches!(node, Node::Directory { .. }) {
            self.remove(&path);
        }
        self.make_parents(&path)?;
        self.nodes.insert(path, node);
        Ok(())
    }

    fn went(&self, path: &RelPath) -> bool {
        let mut above = path.parent();
        while let Some(path) = above {
            if self.deleted.contains(&path) {
                return true;
            }
            above = path.parent();
        }
        false
    }

    /// Takes `path` away, and what is below.
    fn remove(&mut self, path: &RelPath) {
        let removed = self.nodes.remove(path);
        if !matches!(removed, Some(Node::Directory { .. })) {
            return; // nothing can be below: no need to look through all of it
        }
        let inside: Vec<RelPath> = self
            .nodes
            .keys()
            .filter(|other| other.components().zip(path.components()).all(|(a, b)| a == b))
            .filter(|other| other.components().count() >= path.components().count())
            .cloned()
            .collect();
        for path in inside {
            self.nodes.remove(&path);
        }
    }

    fn make_parents(&mut self, path: &RelPath) -> Result<(), String> {
        let mut above = path.parent();
        while let Some(path) = above {
            match self.nodes.get(&path) {
                Some(Node::Directory { .. }) => return Ok(()),
                Some(_) => return Err(format!("{path}, above it, is no directory")),
                None => self.nodes.insert(path.clone(), Node::Directory { mode: DIRECTORY_MODE }),
            };
            above = path.parent();
        }
        Ok(())
    }

    fn node(&mut self, change: &Difference, path: &RelPath) -> Result<Node, String> {
        match (&change.after, &change.content) {
            (None, None) => Err("neither what nor from where is said".to_owned()),
            (None, Some(content)) => {
                let mode =
                    rustix::fs::stat(content).map_or(0o644, |stat| (stat.st_mode & 0o777) as u16);
                self.read(content, mode, None)
            }
            (Some(Item::File { mode, size, digest }), Some(content)) => {
                self.read(content, octal(mode)?, Some((*size, parsed(digest)?)))
            }
            (Some(Item::File { mode, size, digest }), None) => {
                let (mode, digest) = (octal(mode)?, parsed(digest)?);
                let mut chunks = self.chunks(&digest)?;
                if chunks.is_none() && !change.chunks.is_empty() {
                    chunks = self.made_of(&change.chunks, *size, &digest)?;
                }
                let chunks = match (chunks, &mut self.lacking) {
                    (Some(chunks), _) => chunks,
                    (None, Some(lacking)) => {
                        lacking.insert(digest);
                        return Ok(Node::File { mode, size: *size, digest, chunks: Vec::new() });
                    }
                    (None, None) => {
                        let why =
                            "no kept version has this content, and no file is named that has it";
                        return Err(why.to_owned());
                    }
                };
                let found: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
                if found != *size {
                    return Err(format!("content with this signature has {found} bytes"));
                }
                Ok(Node::File { mode, size: *size, digest, chunks })
            }
            (Some(Item::Directory { mode }), None) => Ok(Node::Directory { mode: octal(mode)? }),
            (Some(Item::Symlink { target }), None) => {
                let target = target.clone().into_bytes();
                if target.is_empty() || target.len() > limits::PATH_MAX || target.contains(&0) {
                    return Err("it is no target of a link".to_owned());
                }
                if leads_out(path, &target) {
                    return Err("the link leads out of the tree".to_owned());
                }
                Ok(Node::Symlink { target })
            }
            (Some(_), Some(_)) => Err("only a file has content".to_owned()),
        }
    }

    /// Takes the file at `place` into the store.
    fn read(
        &mut self,
        place: &Path,
        mode: u16,
        expected: Option<(u64, Digest)>,
    ) -> Result<Node, String> {
        if !place.is_absolute() {
            return Err(format!("{} is not an absolute path", place.display()));
        }
        let failed = |error| format!("{} can't be read ({error})", place.display());
        // Before it is opened: a pipe would make us wait, a device might act.
        if !std::fs::metadata(place).map_err(failed)?.is_file() {
            return Err(format!("{} is no regular file", place.display()));
        }
        if self.lacking.is_some() {
            let (size, digest) = expected.unwrap_or((0, Digest([0; 32])));
            return Ok(Node::File { mode, size, digest, chunks: Vec::new() });
        }
        let mut file = File::open(place).map_err(failed)?;
        let taken = self.store.ingest_file(&mut self.writer, &mut file);
        let (digest, size, chunks) = taken.map_err(|error| error.to_string())?;
        if expected.is_some_and(|expected| expected != (size, digest)) {
            return Err(format!(
                "{} does not have the signature that the list gives",
                place.display()
            ));
        }
        Ok(Node::File { mode, size, digest, chunks })
    }

    /// The pieces that a list names for the file with this signature, if they are here and make
    /// it; nothing if they are not here and content is only looked for.
    fn made_of(
        &self,
        named: &[Wanted],
        size: u64,
        digest: &Digest,
    ) -> Result<Option<Vec<Chunk>>, String> {
        let chunks: Vec<Chunk> = named.iter().map(Wanted::chunk).collect::<Result<_, _>>()?;
        let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        if sum != size {
            return Err(format!("its chunks have {sum} bytes, and the file has {size}"));
        }
        let failed = |error: StoreError| format!("the store failed: {error}");
        let mut lost = Vec::new();
        for chunk in &chunks {
            if !self.store.has(&chunk.digest).map_err(failed)? {
                lost.push(chunk.digest);
            }
        }
        if let Some(first) = lost.first() {
            let (lost, all) = (lost.len(), chunks.len());
            return if self.lacking.is_some() {
                Ok(None)
            } else {
                Err(format!(
                    "no kept version has this content, and this member's store lacks {lost} of \
                     its {all} chunks, such as {first}"
                ))
            };
        }
        if self.lacking.is_none() {
            let mut whole = blake3::Hasher::new();
            for chunk in &chunks {
                let bytes = self.store.read(&chunk.digest).map_err(failed)?;
                if bytes.len() != chunk.len as usize {
                    let (is, len) = (bytes.len(), chunk.len);
                    return Err(format!(
                        "the chunk {} has {is} bytes, and not {len}",
                        chunk.digest
                    ));
                }
                whole.update(&bytes);
            }
            if *whole.finalize().as_bytes() != digest.0 {
                return Err("its chunks make content with another signature".to_owned());
            }
        }
        Ok(Some(chunks))
    }

    /// The pieces of the file with this signature, in any kept version.
    fn chunks(&mut self, digest: &Digest) -> Result<Option<Vec<Chunk>>, String> {
        if self.known.is_none() {
            let mut known = HashMap::new();
            for version in &self.application.versions {
                // Some may not be here; others may be damaged. What is taken from
                // one must be here whole.
                if !self.store.whole(&version.root).map_err(|e| e.to_string())? {
                    continue;
                }
                let tree = self.store.tree(&version.root).map_err(|e| e.to_string())?;
                for entry in tree.iter().flat_map(|tree| tree.entries()) {
                    if let Node::File { digest, chunks, .. } = &entry.node {
                        known.entry(*digest).or_insert_with(|| chunks.clone());
                    }
                }
            }
            self.known = Some(known);
        }
        Ok(self.known.as_ref().and_then(|known| known.get(digest)).cloned())
    }
}

/// Permissions as lists have them.
pub(super) fn octal(mode: &str) -> Result<u16, String> {
    let parsed = u16::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    parsed.ok_or_else(|| format!("{mode:?} are no permissions: give 0644 or the like"))
}

fn parsed(digest: &str) -> Result<Digest, String> {
    Digest::parse(digest).ok_or_else(|| format!("{digest:?} is no signature"))
}
