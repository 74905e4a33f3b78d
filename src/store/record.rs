//! Atomic records: small files that are replaced as a whole, so that after a
//! crash the old one or the new one is there and never a mixture.
//!
//! A record that is damaged is an error and is never read as an empty one:
//! a member that forgot what it promised could promise again.
//!
//! The order (write aside, sync, rename, sync the directory) is the one that
//! POSIX file systems need; see Pillai et al., "All File Systems Are Not
//! Created Equal", OSDI 2014.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{StoreError, error::io_error};
use crate::base::{Digest, limits};

/// The newest record format that this code reads and the one that it writes.
pub const FORMAT: u8 = 1;

const MAGIC: &[u8; 7] = b"althrec";
const HEADER: usize = MAGIC.len() + 1 + 8 + 32;
/// What the name of a file that is being written ends with.
pub(super) const UNFINISHED: &str = ".unfinished";

/// Replaces the record at `path` by `payload`, at most
/// [`RECORD_MAX`](limits::RECORD_MAX) bytes. When it returns, the record
/// survives a power loss; when it fails, the one before is still there.
pub fn save(path: &Path, payload: &[u8]) -> Result<(), StoreError> {
    save_bounded(path, payload, limits::RECORD_MAX)
}

/// The record at `path`; `None` if there is none.
pub fn load(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    load_bounded(path, limits::RECORD_MAX)
}

/// Removes the record at `path` for good. It need not be there.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", path)(error)),
    }
}

pub(super) fn save_bounded(path: &Path, payload: &[u8], max: usize) -> Result<(), StoreError> {
    if payload.len() > max {
        let (size, size_max) = (payload.len() as u64, max as u64);
        return Err(StoreError::TooLarge { path: path.to_owned(), size, size_max });
    }
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.push(FORMAT);
    header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    header.extend_from_slice(&Digest::of_bytes(payload).0);
    replace(path, &[&header, payload])
}

pub(super) fn load_bounded(path: &Path, max: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let torn = |why| StoreError::Torn { path: path.to_owned(), why };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let size = file.metadata().map_err(io_error("examine", path))?.len();
    let size_max = (max + HEADER) as u64;
    if size > size_max {
        return Err(StoreError::TooLarge { path: path.to_owned(), size, size_max });
    }
    let mut header = [0; HEADER];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(torn("it is cut short"));
        }
        Err(error) => return Err(io_error("read", path)(error)),
    }
    let (magic, rest) = header.split_at(MAGIC.len());
    let (format, rest) = (rest[0], &rest[1..]);
    let (length, digest) = rest.split_at(8);
    if magic != MAGIC || format == 0 {
        return Err(torn("it does not begin as a record does"));
    }
    if format > FORMAT {
        let (found, known) = (u32::from(format), u32::from(FORMAT));
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    let length = u64::from_le_bytes(length.try_into().expect("split at eight bytes"));
    if length.checked_add(HEADER as u64) != Some(size) {
        return Err(torn("it is not as long as it says"));
    }
    let mut payload = Vec::with_capacity(length as usize);
    // One byte more than there should be, so that a file that grows is noticed.
    file.take(length + 1).read_to_end(&mut payload).map_err(io_error("read", path))?;
    if Digest::of_bytes(&payload).0 != digest {
        return Err(torn("its bytes don't have the signature that it states"));
    }
    Ok(Some(payload))
}

/// Replaces the file at `path` by `parts`, atomically and durably, mode 0600.
pub(super) fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let aside = aside(path);
    let written = write_aside(&aside, parts)
        .and_then(|()| fs::rename(&aside, path).map_err(io_error("put in place", path)));
    if let Err(error) = written {
        // The first error is the one that matters; what is left over is
        // removed when the data directory is opened again.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    sync_directory(parent(path))
}

/// Makes what was created, renamed or removed in `directory` survive a power loss.
pub fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync", directory))
}

/// Removes what writes that never finished left behind in `directory`.
pub(super) fn sweep(directory: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn write_aside(aside: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(aside)
        .map_err(io_error("create", aside))?;
    for part in parts {
        file.write_all(part).map_err(io_error("write", aside))?;
    }
    file.sync_all().map_err(io_error("sync", aside))
}

/// A name beside `path` that no other write of this process uses.
fn aside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}{UNFINISHED}", COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promise");
        assert!(load(&path).unwrap().is_none());
        save(&path, b"one").unwrap();
        save(&path, b"").unwrap();
        assert_eq!(load(&path).unwrap(), Some(vec![]));
        save(&path, b"three").unwrap();
        assert_eq!(load(&path).unwrap(), Some(b"three".to_vec()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(load(&path).unwrap().is_none());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promise");
        save(&path, b"what was promised").unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(load(&path), Err(StoreError::Torn { .. })), "cut at {cut}");
        }
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert!(load(&path).is_err(), "byte {byte}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        fs::write(&path, &longer).unwrap();
        assert!(matches!(load(&path), Err(StoreError::Torn { .. })));
    }

    #[test]
    fn a_newer_format_is_told_apart_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promise");
        save(&path, b"x").unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[MAGIC.len()] = FORMAT + 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(load(&path), Err(StoreError::Newer { found: 2, known: 1, .. })));
    }

    #[test]
    fn a_record_over_its_bound_is_neither_written_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promise");
        assert!(matches!(save_bounded(&path, &[0; 9], 8), Err(StoreError::TooLarge { .. })));
        assert!(!path.exists());
        save_bounded(&path, &[0; 9], 9).unwrap();
        assert!(matches!(load_bounded(&path, 8), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn a_failed_write_leaves_the_record_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promise");
        // A directory stands where the record should: the rename fails.
        fs::create_dir(&path).unwrap();
        assert!(save(&path, b"x").is_err());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names, [path]);
    }

    #[test]
    fn what_a_crash_left_aside_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("promise.7.unfinished"), b"half").unwrap();
        fs::write(dir.path().join("promise"), b"kept").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
