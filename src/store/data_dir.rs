//! The data directory of one member: locked while it is used, marked with its
//! format, and the only place where paths inside it are spelled.
//!
//! Opening never touches a directory of a newer Althing, nor one that holds
//! something else.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    StoreError,
    error::io_error,
    incoming,
    record::{self, UNFINISHED},
};
use crate::base::SecretKey;

/// The newest format of a data directory that this code opens, and the one it makes.
pub const FORMAT: u32 = 1;

const MARK: &str = "althing data directory, format ";
const PARTS: [&str; 3] = ["records", "content", "live"];
const FILES: [&str; 5] = ["lock", "format", "member.key", "member.key.next", "socket"];

/// An open data directory. The lock lasts as long as this value, or until the
/// process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Lock,
}

impl DataDir {
    /// Opens the data directory at `path`, and makes it (mode 0700) if it is
    /// not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = make_with_parents(path)?;
        // Before anything is touched, the lock file included.
        let marked = check_format(&path)?;
        if !marked {
            check_foreign(&path)?;
        }
        let lock = lock(&path)?;
        // Between the first look and the lock another process may have been here.
        if !check_format(&path)? {
            let mark = format!("{MARK}{FORMAT}\n");
            record::replace(&path.join("format"), &[mark.as_bytes()])?;
        }
        for part in PARTS {
            make_directory(&path.join(part))?;
        }
        record::sync_directory(&path)?;
        record::sweep(&path)?;
        record::sweep(&path.join("records"))?;
        // What can't be removed costs room and nothing else: no reason not to open.
        let _left = incoming::sweep(&path);
        Ok(Self { path, _lock: lock })
    }

    /// The directory itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where atomic records lie.
    pub fn records(&self) -> PathBuf {
        self.path.join("records")
    }

    /// The record called `name`, for [`record::save`] and [`record::load`].
    /// Names are constants of this crate.
    pub fn record(&self, name: &'static str) -> PathBuf {
        self.records().join(name)
    }

    /// Where chunks and trees lie, for [`ContentStore::open`](super::ContentStore::open).
    pub fn content(&self) -> PathBuf {
        self.path.join("content")
    }

    /// Where live trees lie whose manifest names no other place.
    pub fn live(&self) -> PathBuf {
        self.path.join("live")
    }

    /// Where what services print is kept.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Where secrets are kept that other members have sealed for this one.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Where measurements are kept.
    pub fn series(&self) -> PathBuf {
        self.path.join("series")
    }

    /// The socket where services and scripts tell what they measure.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics")
    }

    /// The log of events.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.redb")
    }

    /// The Unix socket of this member's command line.
    pub fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// This member's key: the one on disk or, if there is none, a new one from
    /// `random`, which is on disk (mode 0600) before it is returned. A damaged
    /// key is an error and never replaced: it is who this member is.
    pub fn load_or_create_key(
        &self,
        random: impl FnOnce() -> [u8; 32],
    ) -> Result<SecretKey, StoreError> {
        let path = self.path.join("member.key");
        if let Some(bytes) = record::load(&path)? {
            let seed = bytes
                .as_slice()
                .try_into()
                .map_err(|_| StoreError::Torn { path: path.clone(), why: "a key has 32 bytes" })?;
            return Ok(SecretKey::from_seed(seed));
        }
        let key = SecretKey::from_seed(random());
        record::save(&path, key.seed())?;
        Ok(key)
    }

    /// This member is who has `key` from now on: it takes the place of the one
    /// on disk in one step.
    pub fn replace_key(&self, key: &SecretKey) -> Result<(), StoreError> {
        record::save(&self.path.join("member.key"), key.seed())
    }

    /// Where keys are kept that this member may have next.
    pub fn next_keys(&self) -> PathBuf {
        self.path.join("member.key.next")
    }
}

/// Makes the directory at `path`, mode 0700, and those above it that are missing. It
/// outlives a power loss, or the key in it would not. Its absolute path.
fn make_with_parents(path: &Path) -> Result<PathBuf, StoreError> {
    let named = path.ancestors().filter(|above| !above.as_os_str().is_empty());
    let missing = named.take_while(|above| !above.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
    let path = path.canonicalize().map_err(io_error("find", path))?;
    // Even if nothing was missing: whoever made it may have been killed before this.
    for above in path.ancestors().skip(1).take(missing.max(1)) {
        if record::sync_directory(above).is_err() {
            // One that only lets through can't be opened to be synced: then all is.
            let own = File::open(&path).map_err(io_error("open", &path))?;
            rustix::fs::syncfs(own).map_err(|error| io_error("sync", &path)(error.into()))?;
        }
    }
    Ok(path)
}

/// Makes one directory, mode 0700, if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io_error("create", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether the directory is marked with a format that this code knows.
fn check_format(directory: &Path) -> Result<bool, StoreError> {
    let path = directory.join("format");
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("read", &path)(error)),
    }
    match text.trim_end().strip_prefix(MARK).and_then(|number| number.parse().ok()) {
        Some(found) if found > FORMAT => Err(StoreError::Newer { path, found, known: FORMAT }),
        Some(1..=FORMAT) => Ok(true),
        _ => Err(StoreError::Torn { path, why: "it names no format" }),
    }
}

/// Refuses a directory with files in it that Althing did not make.
fn check_foreign(directory: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let name = entry.map_err(io_error("list", directory))?.file_name();
        let name = name.to_string_lossy();
        let ours = FILES.contains(&&*name)
            || PARTS.contains(&&*name)
            || name.ends_with(UNFINISHED)
            || name == "lost+found";
        if !ours {
            return Err(StoreError::Foreign { path: directory.to_owned() });
        }
    }
    Ok(())
}

/// Unlocked by word when it is dropped: a process that is just being started has a copy of the
/// descriptor until its program runs, and would keep the lock for so long.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // What can't be unlocked is so when the last copy is closed.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(directory: &Path) -> Result<Lock, StoreError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(StoreError::Locked { path: directory.to_owned() })
        }
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_is_made_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("var/althing");
        let open = DataDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        for part in [open.records(), open.content(), open.live()] {
            assert!(part.is_dir());
        }
        assert!(matches!(DataDir::open(&path), Err(StoreError::Locked { .. })));
        drop(open);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_newer_directory_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), format!("{MARK}2\n")).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(dir.path().join("format"), "").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(StoreError::Torn { .. })));
    }

    #[test]
    fn someone_elses_directory_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("index.html"), b"").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_key_is_made_once_and_a_damaged_one_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let open = DataDir::open(dir.path()).unwrap();
        let made = open.load_or_create_key(|| [7; 32]).unwrap();
        let path = dir.path().join("member.key");
        assert_eq!(mode(&path), 0o600);
        let loaded = open.load_or_create_key(|| unreachable!("there is a key")).unwrap();
        assert_eq!(made.member(), loaded.member());
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = open.load_or_create_key(|| [8; 32]).unwrap_err();
        assert!(matches!(error, StoreError::Torn { .. }));
    }
}
