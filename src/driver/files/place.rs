//! Materialising: a whole tree is written beside the live one, every file
//! verified while it is written, before anything is switched.
//!
//! It never touches what is live, and never hands out a tree that is not
//! whole and on the disk.

use std::{
    fs::File,
    io::{Seek, Write},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use rustix::{fs::Mode, io::Errno};

use super::{
    beneath::{self, Parents, Root},
    cache::{Known, StatCache, StatKey},
    scan::leads_out,
};
use crate::{
    base::{
        Digest, RelPath,
        tree::{Chunk, Entry, Node, Tree},
    },
    driver::{ChunkSource, DriverError},
};

/// A live tree whose unchanged files are shared (reflinks) where the file
/// system can.
#[derive(Clone, Copy, Debug)]
pub struct Reuse<'a> {
    /// The live tree.
    pub live: &'a Path,
    /// What is known of its files.
    pub cache: &'a StatCache,
}

/// A tree that stands, whole and synced.
#[derive(Debug, Default)]
pub struct Placed {
    /// The state of every file, so that the first scan reads nothing.
    pub cache: StatCache,
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Files that share their blocks with the live tree.
    pub shared: u64,
}

/// Writes `tree` to the directory `into`, which must not be there yet. After
/// an error it is removed again: a full disk needs the room.
pub fn place(
    tree: &Tree,
    source: &dyn ChunkSource,
    reuse: Option<Reuse<'_>>,
    into: &Path,
) -> Result<Placed, DriverError> {
    std::fs::create_dir(into).map_err(|e| DriverError::io("make", into, e))?;
    let placed = write(tree, source, reuse, into);
    if placed.is_err() {
        // What can't be removed now is removed before the next try.
        let _ = beneath::remove_all(into);
    }
    placed
}

fn write(
    tree: &Tree,
    source: &dyn ChunkSource,
    reuse: Option<Reuse<'_>>,
    into: &Path,
) -> Result<Placed, DriverError> {
    let root = Root::open_own(into)?;
    room_for(tree, reuse, &root)?;
    let sharing = reuse.and_then(|r| Root::open(r.live).ok().map(|live| (live, r.cache)));
    let mut placing = Placing { parents: Parents::new(&root), root: &root, sharing, source };
    let mut placed = Placed::default();
    for entry in tree.entries() {
        placing.entry(entry, &mut placed)?;
    }
    // Only now: a directory without write permission could not be filled.
    let all: Vec<&Entry> = tree.entries().collect();
    for Entry { path, node } in all.into_iter().rev() {
        if let Node::Directory { mode } = node {
            let failed = |error| DriverError::io("set permissions of", &root.at(path), error);
            let fd = root.directory(Some(path)).map_err(failed)?;
            rustix::fs::fchmod(fd, Mode::from_raw_mode(u32::from(*mode))).map_err(failed)?;
        }
    }
    rustix::fs::syncfs(&root).map_err(|e| DriverError::io("sync", into, e))?;
    settle();
    Ok(placed)
}

/// Refuses a tree that can't fit before a byte of it is written: a small store can
/// hold a large tree that repeats itself, and others need the room that it would take
/// on its way to failing. What may be shared has no size, but takes an inode like all else.
fn room_for(tree: &Tree, reuse: Option<Reuse<'_>>, into: &Root) -> Result<(), DriverError> {
    let known = |path: &RelPath, digest: &Digest| {
        reuse.is_some_and(|r| r.cache.get(path).is_some_and(|known| known.digest == *digest))
    };
    let needed = tree.entries().fold(0_u64, |sum, Entry { path, node }| match node {
        Node::File { size, digest, .. } if !known(path, digest) => sum.saturating_add(*size),
        _ => sum,
    });
    let stat =
        rustix::fs::fstatvfs(into).map_err(|e| DriverError::io("examine", into.path(), e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A file system of no size does not say how large it is, and one without a number of inodes
    // makes them as it needs them.
    let no_room = stat.f_blocks > 0 && needed > free;
    let no_inodes = stat.f_files > 0 && tree.len() as u64 > stat.f_favail;
    if no_room || no_inodes {
        return Err(DriverError::Full(into.path().to_owned()));
    }
    Ok(())
}

/// Waits until the clock of the file system has moved on since the last
/// write, so that a later change is sure to get another time stamp. That
/// clock ticks every 1 to 10 ms.
#[expect(
    clippy::disallowed_methods,
    reason = "the time stamp clock is waited for, on a blocking thread"
)]
fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}

struct Placing<'a> {
    root: &'a Root,
    parents: Parents<'a>,
    sharing: Option<(Root, &'a StatCache)>,
    source: &'a dyn ChunkSource,
}

impl Placing<'_> {
    fn entry(&mut self, entry: &Entry, placed: &mut Placed) -> Result<(), DriverError> {
        let Entry { path, node } = entry;
        let failed = |error| match error {
            // The place was empty, and no tree has a path twice.
            Errno::EXIST => DriverError::Twins(self.root.at(path)),
            error => DriverError::io("write", &self.root.at(path), error),
        };
        let dir = self.parents.of(path)?;
        match node {
            Node::Directory { .. } => {
                rustix::fs::mkdirat(dir, path.file_name(), Mode::RWXU).map_err(failed)?;
            }
            Node::Symlink { target } => {
                link_allowed(self.root, path, target)?;
                rustix::fs::symlinkat(&target[..], dir, path.file_name()).map_err(failed)?;
            }
            Node::File { mode, size, digest, chunks } => {
                let mut file = beneath::create(dir, path.file_name()).map_err(failed)?;
                if self.share(&mut file, path, digest)? {
                    placed.shared += 1;
                } else {
                    let place = self.root.at(path);
                    fill(&mut file, path, &place, (digest, chunks), self.source)?;
                }
                let stat = finish(&file, *mode).map_err(failed)?;
                // A file system that knows only seconds can't tell a change
                // in the same second: such a file is read once more.
                let settled = stat.ctime_ns % 1_000_000_000 != 0;
                let known = Known { stat, digest: *digest, chunks: chunks.clone(), settled };
                placed.cache.insert(path.clone(), known);
                placed.files += 1;
                placed.bytes += size;
            }
        }
        Ok(())
    }

    /// Shares the blocks of the same file in the live tree, if that is known
    /// to hold `digest`. What was shared is read and verified.
    fn share(
        &mut self,
        file: &mut File,
        path: &RelPath,
        digest: &Digest,
    ) -> Result<bool, DriverError> {
        let Some((live, cache)) = &self.sharing else { return Ok(false) };
        let Some(known) = cache.get(path).filter(|k| k.settled && k.digest == *digest) else {
            return Ok(false);
        };
        let Ok(from) = live.file(path) else { return Ok(false) };
        if rustix::fs::fstat(&from).map(|s| StatKey::of(&s)).ok() != Some(known.stat) {
            return Ok(false);
        }
        if rustix::fs::ioctl_ficlone(&*file, &from).is_err() {
            self.sharing = None; // this file system can't, so it is not asked again
            return Ok(false);
        }
        let failed = |error| DriverError::io("read", &self.root.at(path), error);
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut *file).map_err(failed)?;
        if Digest(*hasher.finalize().as_bytes()) == *digest {
            return Ok(true);
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok(false)
    }
}

/// Refuses a link that leads out of the tree: it was not published by an
/// Althing that keeps the rules.
pub(super) fn link_allowed(root: &Root, path: &RelPath, target: &[u8]) -> Result<(), DriverError> {
    if leads_out(path, target) {
        let target = String::from_utf8_lossy(target).escape_debug().to_string();
        return Err(DriverError::LeadsOut { path: root.at(path), target });
    }
    Ok(())
}

/// Writes the content of `path` to `file`, which stands at `place`, and
/// verifies it.
pub(super) fn fill(
    file: &mut File,
    path: &RelPath,
    place: &Path,
    (digest, chunks): (&Digest, &[Chunk]),
    source: &dyn ChunkSource,
) -> Result<(), DriverError> {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        let bytes = source.chunk(chunk)?;
        if bytes.len() != chunk.len as usize {
            return Err(DriverError::Corrupt(path.clone()));
        }
        hasher.update(&bytes);
        file.write_all(&bytes).map_err(|e| DriverError::io("write", place, e))?;
    }
    if Digest(*hasher.finalize().as_bytes()) != *digest {
        return Err(DriverError::Corrupt(path.clone()));
    }
    Ok(())
}

/// Sets the permissions of a finished file and takes its state.
pub(super) fn finish(file: &File, mode: u16) -> Result<StatKey, rustix::io::Errno> {
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(u32::from(mode)))?;
    Ok(StatKey::of(&rustix::fs::fstat(file.as_fd())?))
}
