//! Repair: an UpdateList is carried out on a live tree in place.
//!
//! First everything new is written beside the tree and verified, the directories
//! are made in which is kept what stands there, and all of it is synced; a
//! failure until then has touched nothing. Then each item changes places with
//! what stood there in one step, and what stood there is kept aside. Readers
//! see the old file or the new one, never a half of either; and whatever
//! instant a crash or a power loss picks, what stood there is in its place or
//! aside.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Stat},
    io::Errno,
};

use super::{
    aside,
    beneath::{self, Parents, Root},
    place,
    switch::WorkDir,
};
use crate::{
    base::{
        RelPath, limits,
        tree::{Change, Entry, Node},
    },
    driver::{ChunkSource, DriverError, Repaired},
};

/// Carries out `changes` on the tree `live`, and takes away what is `strange`
/// in it. What is replaced or deleted goes into a new directory below
/// `aside`, which must be on the same file system.
pub fn repair(
    live: &Path,
    changes: &[Change],
    strange: &[RelPath],
    source: &dyn ChunkSource,
    aside: &Path,
) -> Result<Repaired, DriverError> {
    let root = Root::open(live)?;
    let work = WorkDir::open(live)?;
    let staging = work.fresh_staging()?;
    let mut repairing = Repairing {
        parents: Parents::new(&root),
        root: &root,
        staging: &staging,
        aside: None,
        aside_dir: aside,
        ready: BTreeSet::new(),
        done: Repaired::default(),
    };
    let is_ready =
        stage(&staging, changes, source).and_then(|()| repairing.make_ready(changes, strange));
    if let Err(error) = is_ready {
        // A full disk needs the room; what can't be removed now is removed
        // before the next repair.
        let _ = beneath::remove_all(staging.path());
        if let Some(aside) = &repairing.done.aside {
            let _ = beneath::remove_all(aside);
        }
        return Err(error);
    }
    for path in strange {
        repairing.take_away(path)?;
    }
    for (index, change) in changes.iter().enumerate() {
        match change {
            Change::Del(path) => repairing.delete(path)?,
            Change::Set(entry) | Change::Add(entry) => repairing.put(index, entry)?,
        }
    }
    repairing.permissions(changes)?;
    let done = repairing.done;
    rustix::fs::syncfs(&root).map_err(|e| DriverError::io("sync", live, e))?;
    beneath::remove_all(staging.path())?;
    Ok(done)
}

/// Writes every file and link of `changes` into `staging`, named by its index.
fn stage(staging: &Root, changes: &[Change], source: &dyn ChunkSource) -> Result<(), DriverError> {
    for (index, change) in changes.iter().enumerate() {
        let (Change::Set(Entry { path, node }) | Change::Add(Entry { path, node })) = change else {
            continue;
        };
        let name = staged(index);
        let failed = |error| DriverError::io("write", &staging.at(path), error);
        match node {
            Node::Directory { .. } => {}
            Node::Symlink { target } => {
                place::link_allowed(staging, path, target)?;
                rustix::fs::symlinkat(&target[..], staging, &name[..]).map_err(failed)?;
            }
            Node::File { mode, digest, chunks, .. } => {
                let mut file: File = beneath::create(staging.as_fd(), &name).map_err(failed)?;
                place::fill(&mut file, path, staging.path(), (digest, chunks), source)?;
                place::finish(&file, *mode).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn staged(index: usize) -> Vec<u8> {
    format!("{index}").into_bytes()
}

struct Repairing<'a> {
    root: &'a Root,
    parents: Parents<'a>,
    staging: &'a Root,
    aside_dir: &'a Path,
    aside: Option<Root>,
    /// Directories in there that are on disk.
    ready: BTreeSet<Option<RelPath>>,
    done: Repaired,
}

impl Repairing<'_> {
    /// Makes the directories in which will be kept what stands in the way now, and has
    /// them on disk together with what is staged: moved to where after a power loss
    /// nothing leads, it would be lost.
    fn make_ready(&mut self, changes: &[Change], strange: &[RelPath]) -> Result<(), DriverError> {
        let aside = self.aside_dir;
        std::fs::create_dir_all(aside).map_err(|e| DriverError::io("make", aside, e))?;
        for path in strange {
            if self.stat(path)?.is_some() {
                self.make_kept_in(path)?;
            }
        }
        for change in changes {
            let Some(stat) = self.stat(change.path())? else { continue };
            let for_directory = match change {
                Change::Del(_) => true,
                Change::Set(entry) | Change::Add(entry) => {
                    matches!(entry.node, Node::Directory { .. })
                }
            };
            // A directory that is emptied, or stays one, is kept nowhere.
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !(is_directory && for_directory) {
                self.make_kept_in(change.path())?;
            }
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), DriverError> {
        let staging = self.staging;
        rustix::fs::syncfs(staging).map_err(|e| DriverError::io("sync", staging.path(), e))
    }

    /// Takes away what no tree can hold, as it is.
    fn take_away(&mut self, path: &RelPath) -> Result<(), DriverError> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        self.keep(path, &stat)?;
        self.parents.forget();
        self.done.deleted.push(path.clone());
        Ok(())
    }

    fn delete(&mut self, path: &RelPath) -> Result<(), DriverError> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.keep(path, &stat)?;
            self.done.deleted.push(path.clone());
            return Ok(());
        }
        let place = self.root.at(path);
        let removed =
            rustix::fs::unlinkat(self.parents.of(path)?, path.file_name(), AtFlags::REMOVEDIR);
        self.parents.forget();
        match removed {
            Ok(()) | Err(Errno::NOENT) => self.done.deleted.push(path.clone()),
            // What is in there is ignored, or newer than the scan.
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.done.left.push(path.clone()),
            Err(error) => return Err(DriverError::io("remove", &place, error)),
        }
        Ok(())
    }

    fn put(&mut self, index: usize, entry: &Entry) -> Result<(), DriverError> {
        let Entry { path, node } = entry;
        let place = self.root.at(path);
        let failed = |error| DriverError::io("write", &place, error);
        let stood = self.stat(path)?;
        let list = if stood.is_some() { &mut self.done.set } else { &mut self.done.added };
        list.push(path.clone());
        if matches!(node, Node::Directory { .. }) {
            match &stood {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    return Ok(()); // its permissions come at the end
                }
                Some(stat) => self.keep(path, stat)?,
                None => {}
            }
            let dir = self.parents.of(path)?;
            rustix::fs::mkdirat(dir, path.file_name(), Mode::RWXU).map_err(failed)?;
            return Ok(());
        }
        let name = staged(index);
        let new = (self.staging.as_fd(), &name[..]);
        let dir = self.parents.of(path)?;
        match stood {
            None => beneath::move_new(new, (dir, path.file_name())).map_err(failed)?,
            Some(stat) => self.change_places(path, &stat, &name)?,
        }
        Ok(())
    }

    /// What lies in the staging directory under `new` changes places with what stands at
    /// `path`. It does so from where the old is kept: a crash at no instant leaves the
    /// old in the staging directory, which is emptied then.
    fn change_places(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        new: &[u8],
    ) -> Result<(), DriverError> {
        let place = self.root.at(path);
        let failed = |error| DriverError::io("write", &place, error);
        let kept = self.kept_in(path)?;
        let name = move_unique((self.staging.as_fd(), new), kept.as_fd(), path.file_name());
        let name = name.map_err(failed)?;
        let exchanged = self.parents.of(path).and_then(|dir| {
            beneath::exchange((kept.as_fd(), &name), (dir, path.file_name())).map_err(failed)
        });
        if let Err(error) = exchanged {
            // It is the version's, and has come to no place: it is not to be kept.
            let _ = rustix::fs::unlinkat(&kept, &name[..], AtFlags::empty());
            return Err(error);
        }
        super::switch::step("replaced")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.parents.forget();
        }
        self.count(stat);
        Ok(())
    }

    /// Directories get their permissions last, the deepest first.
    fn permissions(&mut self, changes: &[Change]) -> Result<(), DriverError> {
        for change in changes.iter().rev() {
            if let Change::Set(Entry { path, node: Node::Directory { mode } })
            | Change::Add(Entry { path, node: Node::Directory { mode } }) = change
            {
                let failed =
                    |error| DriverError::io("set permissions of", &self.root.at(path), error);
                let fd = self.root.directory(Some(path)).map_err(failed)?;
                rustix::fs::fchmod(fd, Mode::from_raw_mode(u32::from(*mode))).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Moves what stands at `path` aside.
    fn keep(&mut self, path: &RelPath, stat: &Stat) -> Result<(), DriverError> {
        let into = self.kept_in(path)?;
        let failed = |error| DriverError::io("keep aside", &self.root.at(path), error);
        let from = (self.parents.of(path)?, path.file_name());
        move_unique(from, into.as_fd(), path.file_name()).map_err(failed)?;
        self.count(stat);
        Ok(())
    }

    /// The directory in which what stood at `path` is kept. It is on disk.
    fn kept_in(&mut self, path: &RelPath) -> Result<OwnedFd, DriverError> {
        let is_ready = self.ready.contains(&path.parent());
        let made = self.make_kept_in(path)?;
        if !is_ready {
            self.sync()?; // what stands there has come since all was made ready
        }
        Ok(made)
    }

    fn make_kept_in(&mut self, path: &RelPath) -> Result<OwnedFd, DriverError> {
        if self.aside.is_none() {
            let dir = aside::next(self.aside_dir)?;
            std::fs::create_dir(&dir).map_err(|e| DriverError::io("make", &dir, e))?;
            self.done.aside = Some(dir.clone());
            self.aside = Some(Root::open(&dir)?);
        }
        self.ready.insert(path.parent());
        let aside = self.aside.as_ref().expect("it was opened above");
        match beneath::make_all(aside, path.parent().as_ref(), 0o700) {
            // A file is kept where this one's directory would be.
            Err(Errno::NOTDIR | Errno::LOOP) => beneath::make_all(aside, None, 0o700),
            other => other,
        }
        .map_err(|error| DriverError::io("keep aside", &self.root.at(path), error))
    }

    fn count(&mut self, stat: &Stat) {
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            self.done.bytes_aside += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DriverError> {
        // What holds it may be gone, or may be no directory any more.
        self.root.stat(path).map_err(|e| DriverError::io("read", &self.root.at(path), e))
    }
}

/// Moves `from` into `dir` under `name`, or under `name~1` and so on where
/// that is taken: both a directory and what was in it may be kept. Says under which.
fn move_unique(
    from: (BorrowedFd<'_>, &[u8]),
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Vec<u8>, Errno> {
    let cut = &name[..name.len().min(limits::COMPONENT_MAX - 4)];
    let others = (1..1_000).map(|number| [cut, format!("~{number}").as_bytes()].concat());
    for name in std::iter::once(name.to_vec()).chain(others) {
        match beneath::move_new(from, (dir, &name)) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}
