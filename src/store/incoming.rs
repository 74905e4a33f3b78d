//! Content that a command has brought from elsewhere, until the member has taken it
//! into its store. It lies in the data directory: there is room for content, and nobody
//! else may look in.
//!
//! Each command has a directory of its own, which it holds a lock on. One whose lock is
//! free was left behind by a command that was killed: whoever comes next takes it away.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{StoreError, data_dir::make_directory, error::io_error};

/// Where all of it lies.
const NAME: &str = "incoming";

/// What one command brings. Gone with this value.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    _lock: File,
}

impl Incoming {
    /// Makes room in the data directory `data`, and clears away what was left behind.
    pub fn make(data: &Path) -> Result<Self, StoreError> {
        let all = data.join(NAME);
        make_directory(&all)?;
        // Nobody sweeps between the moment in which ours is made and that in which it is locked.
        let turn = open(&all)?;
        flock(&turn, FlockOperation::LockExclusive)
            .map_err(|e| io_error("lock", &all)(e.into()))?;
        remove_left_behind(&all)?;
        // Those of others that are at work have other numbers, as a rule.
        for number in std::process::id().. {
            let path = all.join(number.to_string());
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(io_error("create", &path))?,
            }
            let lock = open(&path)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| io_error("lock", &path)(e.into()))?;
            return Ok(Self { path, _lock: lock });
        }
        let source = io::ErrorKind::AlreadyExists.into();
        Err(StoreError::Io { doing: "create", path: all, source })
    }

    /// Where what is brought lies; absolute if the data directory was given so.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What can't be removed is left behind, and so removed by whoever comes next.
        let _left = fs::remove_dir_all(&self.path);
    }
}

/// Makes the file called `name` in an [`Incoming::path`], for its owner alone.
pub fn create(directory: &Path, name: &str) -> Result<(PathBuf, File), StoreError> {
    let path = directory.join(name);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    Ok((path.clone(), made.map_err(io_error("create", &path))?))
}

/// Removes what commands that were killed have left behind in the data directory `data`.
pub fn sweep(data: &Path) -> Result<(), StoreError> {
    let all = data.join(NAME);
    let turn = match File::open(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io_error("open", &all))?,
    };
    match flock(&turn, FlockOperation::NonBlockingLockExclusive) {
        // Somebody is at it.
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        locked => {
            locked.map_err(|e| io_error("lock", &all)(e.into()))?;
            remove_left_behind(&all)
        }
    }
}

fn remove_left_behind(all: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(all).map_err(io_error("list", all))? {
        let path = entry.map_err(io_error("list", all))?.path();
        // It may be removed by whom it belongs to meanwhile.
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_error("remove", &path))?,
            }
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(io_error("open", path))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    fn names(data: &Path) -> usize {
        fs::read_dir(data.join(NAME)).unwrap().count()
    }

    #[test]
    fn what_is_brought_goes_with_its_command_and_is_for_its_owner() {
        let data = tempfile::tempdir().unwrap();
        let one = Incoming::make(data.path()).unwrap();
        let other = Incoming::make(data.path()).unwrap();
        assert_ne!(one.path(), other.path());
        let (path, mut file) = create(one.path(), "0").unwrap();
        file.write_all(b"content").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mode = fs::metadata(one.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(create(one.path(), "0").is_err(), "nothing is written over");
        // Of those that are at work, nothing is taken away.
        sweep(data.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        drop(one);
        assert_eq!(names(data.path()), 1);
        drop(other);
        assert_eq!(names(data.path()), 0);
    }

    #[test]
    fn what_a_killed_command_left_behind_is_removed() {
        let data = tempfile::tempdir().unwrap();
        sweep(data.path()).unwrap();
        let left = || {
            let Incoming { path, _lock } =
                &*std::mem::ManuallyDrop::new(Incoming::make(data.path()).unwrap());
            create(path, "0").unwrap();
            // As the system does it for whoever is killed.
            flock(_lock, FlockOperation::Unlock).unwrap();
            path.clone()
        };
        let path = left();
        sweep(data.path()).unwrap();
        assert!(!path.exists());
        let path = left();
        let next = Incoming::make(data.path()).unwrap();
        assert!(!path.exists() || path == next.path());
        assert_eq!((names(data.path()), next.path().read_dir().unwrap().count()), (1, 0));
    }
}
