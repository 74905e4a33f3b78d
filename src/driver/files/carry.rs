//! Carrying over: what is ignored in a tree moves to the tree that took its
//! place. Nothing is copied, nothing overwritten.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode},
    io::Errno,
};

use super::{
    beneath::{self, Root},
    ignore::IgnoreRules,
};
use crate::{base::RelPath, driver::DriverError};

/// What became of the ignored things of a tree.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// These are in the new tree.
    pub moved: Vec<RelPath>,
    /// These could not be moved and are where they were.
    pub left: Vec<RelPath>,
}

/// Where a directory is made that is missing in the new tree, until it is as it was in
/// the old one.
pub(super) const MADE: &[u8] = b"made";

/// Moves what `rules` ignore from the tree `from` to the tree `to`. Directories that are
/// missing there are made in `work`, on the same file system.
pub(super) fn over(
    from: &Path,
    to: &Path,
    work: &Root,
    rules: &IgnoreRules,
) -> Result<Carried, DriverError> {
    let (from, to) = (Root::open(from)?, Root::open(to)?);
    let mut carrying = Carrying { from, to, work, carried: Carried::default(), todo: vec![None] };
    while let Some(directory) = carrying.todo.pop() {
        carrying.directory(directory.as_ref(), rules)?;
    }
    let Carrying { from, to, carried, .. } = carrying;
    if !carried.moved.is_empty() {
        for root in [&from, &to] {
            rustix::fs::syncfs(root).map_err(|e| DriverError::io("sync", root.path(), e))?;
        }
    }
    Ok(carried)
}

/// Refuses a tree with something mounted in it: exchanging trees would take
/// the mount along, and removing the old tree would meet it.
pub(super) fn no_mounts_in(tree: &Root) -> Result<(), DriverError> {
    let mut todo: Vec<Option<RelPath>> = vec![None];
    while let Some(path) = todo.pop() {
        let fd = match tree.unmounted(path.as_ref().map_or(b".", |p| p.as_bytes())) {
            Ok(fd) => fd,
            Err(Errno::XDEV) => {
                let place = path.map_or_else(|| tree.path().to_owned(), |p| tree.at(&p));
                return Err(DriverError::Mounted(place));
            }
            // Gone meanwhile, or nothing that could be looked into.
            Err(_) => continue,
        };
        let names = beneath::list(fd.as_fd());
        for (name, kind) in names.map_err(|e| DriverError::io("read", tree.path(), e))? {
            if kind == FileType::Directory {
                todo.extend(child(path.as_ref(), &name).map(Some));
            }
        }
    }
    Ok(())
}

struct Carrying<'a> {
    from: Root,
    to: Root,
    work: &'a Root,
    carried: Carried,
    todo: Vec<Option<RelPath>>,
}

impl Carrying<'_> {
    fn directory(
        &mut self,
        path: Option<&RelPath>,
        rules: &IgnoreRules,
    ) -> Result<(), DriverError> {
        let fd = match self.from.directory(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(DriverError::io("open", self.from.path(), error)),
        };
        let names = beneath::list(fd.as_fd());
        for (name, kind) in names.map_err(|e| DriverError::io("read", self.from.path(), e))? {
            let Some(child) = child(path, &name) else {
                // Too deep to be told: it is kept with the old tree.
                self.carried.left.extend(path.cloned());
                continue;
            };
            let is_directory = kind == FileType::Directory;
            if rules.ignores(&child, is_directory) {
                self.carry(&fd, path, child, is_directory)?;
            } else if is_directory {
                self.todo.push(Some(child));
            }
        }
        Ok(())
    }

    fn carry(
        &mut self,
        dir: &OwnedFd,
        parent: Option<&RelPath>,
        path: RelPath,
        is_directory: bool,
    ) -> Result<(), DriverError> {
        let into = match self.same_directory(parent) {
            Ok(into) => into,
            // Something else than a directory stands there now.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {
                self.carried.left.push(path);
                return Ok(());
            }
            Err(error) => return Err(DriverError::io("carry over", &self.from.at(&path), error)),
        };
        let name = path.file_name();
        match beneath::move_new((dir.as_fd(), name), (into.as_fd(), name)) {
            Ok(()) => {
                self.carried.moved.push(path);
                super::switch::step("carrying")?;
            }
            Err(Errno::NOENT) => {}
            // A program has made it again already: what it holds is merged.
            Err(Errno::EXIST) if is_directory => self.todo.push(Some(path)),
            Err(Errno::EXIST | Errno::XDEV | Errno::BUSY) => self.carried.left.push(path),
            Err(error) => return Err(DriverError::io("carry over", &self.from.at(&path), error)),
        }
        Ok(())
    }

    /// The directory of the new tree at `path`; those that are missing are
    /// made with the permissions that they had.
    fn same_directory(&self, path: Option<&RelPath>) -> Result<OwnedFd, Errno> {
        match self.to.directory(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (Some(path), flags) = (path, beneath::READ) else { return Err(Errno::NOENT) };
        let (mut old, mut new) = (self.from.directory(None)?, self.to.directory(None)?);
        for name in path.components() {
            old = rustix::fs::openat(&old, name, flags, Mode::empty())?;
            match rustix::fs::openat(&new, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => new = self.make(&old, &new, name)?,
                other => new = other?,
            }
        }
        Ok(new)
    }

    /// Makes the directory `name` in `new`, with the permissions of `old`. It has them
    /// when it appears, and is on disk: a crash leaves no other, and a power loss nothing
    /// in it that nothing leads to.
    fn make(&self, old: &OwnedFd, new: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        let gone = |removed| match removed {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        gone(rustix::fs::unlinkat(self.work, MADE, AtFlags::REMOVEDIR))?;
        rustix::fs::mkdirat(self.work, MADE, Mode::RWXU)?;
        let made = rustix::fs::openat(self.work, MADE, beneath::READ, Mode::empty())?;
        let mode = rustix::fs::fstat(old)?.st_mode & 0o777;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        rustix::fs::fsync(&made)?;
        match beneath::move_new((self.work.as_fd(), MADE), (new.as_fd(), name)) {
            Ok(()) => {}
            // A program was faster.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(self.work, MADE, AtFlags::REMOVEDIR)?;
                return rustix::fs::openat(new, name, beneath::READ, Mode::empty());
            }
            Err(error) => return Err(error),
        }
        rustix::fs::fsync(new)?;
        Ok(made)
    }
}

fn child(path: Option<&RelPath>, name: &[u8]) -> Option<RelPath> {
    match path {
        None => RelPath::parse(name).ok(),
        Some(path) => path.join(name).ok(),
    }
}
