//! What is kept aside: the bytes that a repair or a switch replaced, each
//! occasion in a numbered directory of its own, until they are pruned.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;

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
    /// Bytes of regular files in it.
    pub bytes: u64,
}

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
        found.push(Kept { number, bytes: bytes_in(&path)?, path });
    }
    Ok(found)
}

/// Removes the oldest of what is kept in `dir` until at most `bytes_max`
/// bytes are left, but always leaves the newest `keep_newest`. Returns the
/// bytes freed.
pub fn prune_aside(dir: &Path, bytes_max: u64, keep_newest: usize) -> Result<u64, DriverError> {
    let all = kept(dir)?;
    let mut total = all.iter().fold(0_u64, |sum, kept| sum.saturating_add(kept.bytes));
    let mut freed = 0;
    for kept in &all[..all.len().saturating_sub(keep_newest)] {
        if total <= bytes_max {
            break;
        }
        beneath::remove_all(&kept.path)?;
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

/// Bytes of the regular files below `path`, links not followed. What is
/// nested deeper than any path of a tree counts as a terabyte, so that it
/// can't hide.
fn bytes_in(path: &Path) -> Result<u64, DriverError> {
    let root = Root::open(path)?;
    let failed = |error| DriverError::io("read", path, error);
    let mut todo: Vec<Option<RelPath>> = vec![None];
    let mut bytes = 0_u64;
    while let Some(directory) = todo.pop() {
        let fd = root.directory(directory.as_ref()).map_err(failed)?;
        for (name, kind) in beneath::list(fd.as_fd()).map_err(failed)? {
            if kind == FileType::RegularFile {
                let stat = beneath::stat_in(fd.as_fd(), &name).map_err(failed)?;
                let size = stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
                bytes = bytes.saturating_add(size);
            } else if kind == FileType::Directory {
                let inner = match &directory {
                    None => RelPath::parse(&name),
                    Some(directory) => directory.join(&name),
                };
                match inner {
                    Ok(inner) => todo.push(Some(inner)),
                    Err(_) => bytes = bytes.saturating_add(limits::FILE_MAX),
                }
            }
        }
    }
    Ok(bytes)
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
}
