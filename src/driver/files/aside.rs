//! What is kept aside: the bytes that a repair or a switch replaced, each
//! occasion in a numbered directory of its own, until they are pruned; and the
//! way out of there, into a directory of the operator's.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, RawMode},
    io::Errno,
};

use super::beneath::{self, Root};
use crate::{
    base::{RelPath, limits},
    driver::DriverError,
};

/// One occasion on which something was kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number: later ones are higher.
    pub number: u64,
    /// Where: what was kept lies below it under its relative path.
    pub path: PathBuf,
    /// When: the last change of that directory.
    pub at: SystemTime,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// The first few files, for people.
    pub sample: Vec<RelPath>,
}

/// What was copied out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedOut {
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// What is neither file, directory nor link, and was left out.
    pub left_out: Vec<RelPath>,
}

/// How many files of an occasion are named.
const SAMPLE: usize = 3;

/// What is kept in `dir`, oldest first. Nothing where `dir` is not there.
pub fn kept(dir: &Path) -> Result<Vec<Kept>, DriverError> {
    let root = match Root::open(dir) {
        Ok(root) => root,
        Err(DriverError::Absent(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for number in numbers(&root)? {
        let path = dir.join(name(number));
        let meta = std::fs::symlink_metadata(&path);
        let at =
            meta.and_then(|meta| meta.modified()).map_err(|e| DriverError::io("read", &path, e))?;
        let Held { files, bytes, sample } = held_in(&path)?;
        found.push(Kept { number, path, at, files, bytes, sample });
    }
    Ok(found)
}

/// Keeps the files and links `paths` of the tree at `root` as one more occasion in
/// `dir`, which must be on the same file system, and leaves them where they are: each
/// is then one file under two names. Nothing for no paths.
pub fn keep(root: &Path, paths: &[RelPath], dir: &Path) -> Result<Option<PathBuf>, DriverError> {
    if paths.is_empty() {
        return Ok(None);
    }
    let root = Root::open(root)?;
    std::fs::create_dir_all(dir).map_err(|e| DriverError::io("make", dir, e))?;
    let occasion = next(dir)?;
    std::fs::create_dir(&occasion).map_err(|e| DriverError::io("make", &occasion, e))?;
    let into = Root::open_own(&occasion)?;
    for path in paths {
        let failed = |error| DriverError::io("keep aside", &root.at(path), error);
        let from = match root.directory(path.parent().as_ref()) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue, // gone meanwhile
            Err(error) => return Err(failed(error)),
        };
        let to = beneath::make_all(&into, path.parent().as_ref(), 0o700).map_err(failed)?;
        let name = path.file_name();
        match rustix::fs::linkat(&from, name, &to, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    rustix::fs::syncfs(&into).map_err(|e| DriverError::io("sync", &occasion, e))?;
    Ok(Some(occasion))
}

/// So many occasions are kept in a directory at most: links and empty files are no bytes.
const OCCASIONS_MAX: usize = 1_000;

/// Removes the oldest of what is kept in `dir` until at most `bytes_max` bytes on at most
/// a thousand occasions are left, but always leaves the newest `keep_newest`. Returns
/// the bytes freed.
pub fn prune_aside(dir: &Path, bytes_max: u64, keep_newest: usize) -> Result<u64, DriverError> {
    let all = kept(dir)?;
    let mut total = all.iter().fold(0_u64, |sum, kept| sum.saturating_add(kept.bytes));
    let mut left = all.len();
    let mut freed = 0;
    for kept in &all[..all.len().saturating_sub(keep_newest)] {
        if total <= bytes_max && left <= OCCASIONS_MAX {
            break;
        }
        beneath::remove_all(&kept.path)?;
        left -= 1;
        total = total.saturating_sub(kept.bytes);
        freed += kept.bytes;
    }
    Ok(freed)
}

/// The path in `dir` for the next occasion. Not made yet.
pub(super) fn next(dir: &Path) -> Result<PathBuf, DriverError> {
    let last = match Root::open(dir) {
        Ok(root) => numbers(&root)?.last().copied().unwrap_or(0),
        Err(DriverError::Absent(_)) => 0,
        Err(error) => return Err(error),
    };
    Ok(dir.join(name(last + 1)))
}

fn name(number: u64) -> String {
    format!("{number:08}")
}

fn numbers(root: &Root) -> Result<Vec<u64>, DriverError> {
    let names = beneath::list(root.as_fd()).map_err(|e| DriverError::io("read", root.path(), e))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter(|(_, kind)| *kind == FileType::Directory)
        .filter_map(|(name, _)| std::str::from_utf8(name).ok()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What lies in one of them.
#[derive(Default)]
struct Held {
    files: u64,
    bytes: u64,
    sample: Vec<RelPath>,
}

/// Looks through `path`, links not followed. What is nested deeper than any
/// path of a tree counts as a terabyte, so that it can't hide.
fn held_in(path: &Path) -> Result<Held, DriverError> {
    let root = Root::open(path)?;
    let failed = |error| DriverError::io("read", path, error);
    let mut held = Held::default();
    walk(&root, &mut |at, dir, name, kind| {
        let Some(at) = at else {
            held.bytes = held.bytes.saturating_add(limits::FILE_MAX);
            return Ok(());
        };
        if kind == FileType::RegularFile {
            let stat = beneath::stat_in(dir, name).map_err(failed)?;
            let size = stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
            held.bytes = held.bytes.saturating_add(size);
            held.files += 1;
            if held.sample.len() < SAMPLE {
                held.sample.push(at.clone());
            }
        }
        Ok(())
    })?;
    Ok(held)
}

/// Is told the path, none if it is no path of a tree; the directory; the name; what it is.
type Visit<'v> =
    dyn FnMut(Option<&RelPath>, BorrowedFd<'_>, &[u8], FileType) -> Result<(), DriverError> + 'v;

/// Shows `visit` everything below `root`, a directory before what it holds, in
/// the order of the names.
fn walk(root: &Root, visit: &mut Visit<'_>) -> Result<(), DriverError> {
    let mut todo: Vec<Option<RelPath>> = vec![None];
    while let Some(directory) = todo.pop() {
        let failed = |error| DriverError::io("read", root.path(), error);
        let fd = root.directory(directory.as_ref()).map_err(failed)?;
        let mut inner = Vec::new();
        for (name, kind) in beneath::list(fd.as_fd()).map_err(failed)? {
            let path = match &directory {
                None => RelPath::parse(&name),
                Some(directory) => directory.join(&name),
            };
            visit(path.as_ref().ok(), fd.as_fd(), &name, kind)?;
            if kind == FileType::Directory {
                inner.extend(path.ok().map(Some));
            }
        }
        todo.extend(inner.into_iter().rev());
    }
    Ok(())
}

/// Copies all that is kept in `kept` into `into`, a directory that is not there
/// yet or is empty. Contents, permissions (rwx) and links as they are; the owner
/// is who runs this. What is copied is on disk when it returns.
pub fn copy_out(kept: &Path, into: &Path) -> Result<CopiedOut, DriverError> {
    match std::fs::create_dir(into) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(DriverError::io("make", into, e));
        }
        _ => {}
    }
    let (from, to) = (Root::open(kept)?, Root::open_own(into)?);
    if !beneath::list(to.as_fd()).map_err(|e| DriverError::io("read", into, e))?.is_empty() {
        return Err(DriverError::NotEmpty(into.to_owned()));
    }
    let mut done = CopiedOut::default();
    let mut modes: Vec<(RelPath, RawMode)> = Vec::new();
    walk(&from, &mut |path, dir, name, kind| {
        let Some(path) = path else { return Ok(()) };
        let failed = |error| DriverError::io("copy", &to.at(path), error);
        let parent = to.directory(path.parent().as_ref()).map_err(failed)?;
        let Some(stat) = beneath::stat_in(dir, name).map_err(failed)? else { return Ok(()) };
        let mode = stat.st_mode & 0o777;
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(failed)?;
                modes.push((path.clone(), mode));
            }
            FileType::RegularFile => {
                let mut source = from.file(path).map_err(failed)?;
                let mut target = beneath::create(parent.as_fd(), name).map_err(failed)?;
                let copied = std::io::copy(&mut source, &mut target);
                done.bytes += copied.map_err(|e| DriverError::io("copy", &to.at(path), e))?;
                rustix::fs::fchmod(&target, Mode::from_raw_mode(mode)).map_err(failed)?;
                done.files += 1;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(failed)?;
                rustix::fs::symlinkat(&target, &parent, name).map_err(failed)?;
            }
            _ => done.left_out.push(path.clone()),
        }
        Ok(())
    })?;
    for (path, mode) in modes.iter().rev() {
        let failed = |error| DriverError::io("set permissions of", &to.at(path), error);
        let fd = to.directory(Some(path)).map_err(failed)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(*mode)).map_err(failed)?;
    }
    rustix::fs::syncfs(&to).map_err(|e| DriverError::io("sync", into, e))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        assert!(kept(&dir.path().join("none")).unwrap().is_empty());
        for _ in 0..4 {
            let path = next(dir.path()).unwrap();
            std::fs::create_dir_all(path.join("a")).unwrap();
            std::fs::write(path.join("a/x"), [0; 100]).unwrap();
        }
        let numbers = |dir| kept(dir).unwrap().iter().map(|k| k.number).collect::<Vec<_>>();
        assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
        assert_eq!(prune_aside(dir.path(), 400, 0).unwrap(), 0);
        assert_eq!(prune_aside(dir.path(), 250, 0).unwrap(), 200);
        assert_eq!(numbers(dir.path()), [3, 4]);
        assert_eq!(prune_aside(dir.path(), 0, 1).unwrap(), 100);
        assert_eq!(numbers(dir.path()), [4]);
        assert!(next(dir.path()).unwrap().ends_with("00000005"));
    }

    #[test]
    fn what_has_no_bytes_does_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=OCCASIONS_MAX as u64 + 2 {
            std::fs::create_dir(dir.path().join(name(number))).unwrap();
        }
        assert_eq!(prune_aside(dir.path(), u64::MAX, 3).unwrap(), 0);
        let left = kept(dir.path()).unwrap();
        assert_eq!((left.len(), left[0].number), (OCCASIONS_MAX, 3));
    }

    #[test]
    fn what_is_kept_is_copied_out_and_never_over_anything() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("00000001");
        std::fs::create_dir_all(kept.join("a/b")).unwrap();
        std::fs::write(kept.join("a/b/x"), "old").unwrap();
        std::os::unix::fs::symlink("/nowhere", kept.join("a/link")).unwrap();
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o500);
        std::fs::set_permissions(kept.join("a/b"), read_only).unwrap();
        let into = dir.path().join("out");
        let done = copy_out(&kept, &into).unwrap();
        assert_eq!((done.files, done.bytes), (1, 3));
        assert_eq!(std::fs::read_to_string(into.join("a/b/x")).unwrap(), "old");
        assert_eq!(std::fs::read_link(into.join("a/link")).unwrap(), Path::new("/nowhere"));
        let mode = std::os::unix::fs::MetadataExt::mode(&into.join("a/b").metadata().unwrap());
        assert_eq!(mode & 0o777, 0o500);
        assert!(matches!(copy_out(&kept, &into), Err(DriverError::NotEmpty(_))));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        assert!(matches!(copy_out(&kept, &link), Err(DriverError::NotOurs(_))));
        let missing = copy_out(&kept, &dir.path().join("no/where"));
        assert!(matches!(missing, Err(DriverError::Io { .. })));
        let writable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        for inner in [kept.join("a/b"), into.join("a/b")] {
            std::fs::set_permissions(inner, std::fs::Permissions::clone(&writable)).unwrap();
        }
    }
}
