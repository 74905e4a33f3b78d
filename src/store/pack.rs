//! Pack files: chunks one behind the other, appended and never changed.
//!
//! An entry is its length (4 bytes, little endian), its signature (32) and its
//! bytes. What counts is what the index knows: it is told only after an entry
//! is on disk, so whatever lies behind the length that it knows is torn or
//! unwanted and is cut off. The entries still name themselves, so that a lost
//! index can be made again from the packs.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{StoreError, error::io_error, record::sync_directory};
use crate::base::{Digest, limits};

/// What every pack begins with; the last byte is the format.
const MAGIC: &[u8; 8] = b"althpak\x01";
/// Bytes in front of the first entry.
pub(super) const HEADER: u64 = MAGIC.len() as u64;
/// Bytes in front of a chunk's own.
pub(super) const ENTRY: u64 = 4 + 32;
/// A pack of this size gets no more entries, bytes: few enough files, and
/// little to copy when one is mostly dead.
pub(super) const PACK_FULL: u64 = 64 << 20;
/// Packs with room that wait for the next writer.
pub(super) const POOL: usize = 8;
/// What is gathered before it is written, bytes.
const BUFFER: usize = 1 << 20;

/// A pack as the pool and the index see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) pack: u64,
    /// Bytes that count, the header included.
    pub(super) committed: u64,
}

/// A pack open for appending, by one writer alone.
pub(super) struct PackWriter {
    before: Extent,
    path: PathBuf,
    file: File,
    written: u64,
    buffer: Vec<u8>,
}

impl PackWriter {
    /// A new, empty pack, its name synced to disk.
    pub(super) fn create(directory: &Path, pack: u64) -> Result<Self, StoreError> {
        let path = path_of(directory, pack);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("create", &path))?;
        let before = Extent { pack, committed: 0 };
        let new = Self { before, path, file, written: 0, buffer: MAGIC.to_vec() };
        sync_directory(directory).inspect_err(|_| new.remove())?;
        Ok(new)
    }

    /// A pack that has room left; what lies behind its extent is cut off.
    pub(super) fn reopen(directory: &Path, extent: Extent) -> Result<Self, StoreError> {
        let path = path_of(directory, extent.pack);
        let file = OpenOptions::new().write(true).open(&path).map_err(io_error("open", &path))?;
        file.set_len(extent.committed).map_err(io_error("cut", &path))?;
        let written = extent.committed;
        Ok(Self { before: extent, path, file, written, buffer: Vec::new() })
    }

    pub(super) fn id(&self) -> u64 {
        self.before.pack
    }

    /// Bytes with those that still wait in the buffer.
    pub(super) fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends one entry and says where its bytes begin.
    pub(super) fn append(&mut self, digest: &Digest, bytes: &[u8]) -> Result<u64, StoreError> {
        let needed = ENTRY as usize + bytes.len();
        if !self.buffer.is_empty() && self.buffer.len() + needed > BUFFER {
            self.flush()?;
        }
        let offset = self.length() + ENTRY;
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&digest.0);
        self.buffer.extend_from_slice(bytes);
        Ok(offset)
    }

    /// Makes everything appended survive a power loss and says how far it goes.
    pub(super) fn finish(&mut self) -> Result<Extent, StoreError> {
        self.flush()?;
        self.file.sync_data().map_err(io_error("sync", &self.path))?;
        Ok(Extent { pack: self.before.pack, committed: self.written })
    }

    /// Drops what was appended. What is left of the pack, if anything.
    pub(super) fn undo(self) -> Option<Extent> {
        undo(&self.path, self.before)
    }

    /// The extent that the index knows.
    pub(super) fn before(&self) -> Extent {
        self.before
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file
            .write_all_at(&self.buffer, self.written)
            .map_err(io_error("write", &self.path))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn remove(&self) {
        // Should this fail, the next opening of the store removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns a pack to `before`. `None` if nothing of it is left, or if that
/// failed: the next opening of the store cuts it then.
pub(super) fn undo(path: &Path, before: Extent) -> Option<Extent> {
    if before.committed == 0 {
        let _ = fs::remove_file(path);
        return None;
    }
    let cut = OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(before.committed));
    cut.ok().map(|()| before)
}

/// Where pack number `pack` lies.
pub(super) fn path_of(directory: &Path, pack: u64) -> PathBuf {
    directory.join(format!("{pack:016x}.pack"))
}

/// All packs in `directory` with their length in bytes.
pub(super) fn list(directory: &Path) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".pack"));
        if let Some(pack) = number.and_then(|number| u64::from_str_radix(number, 16).ok())
            && path_of(directory, pack) == entry.path()
        {
            let length = entry.metadata().map_err(io_error("examine", &entry.path()))?.len();
            all.push((pack, length));
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Reads a pack from its beginning and gives `found` each whole entry:
/// signature, offset of its bytes, their number. Says how far whole entries go.
pub(super) fn scan(
    path: &Path,
    mut found: impl FnMut(Digest, u64, u32),
) -> Result<u64, StoreError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut file = BufReader::with_capacity(BUFFER, file);
    let mut magic = [0; MAGIC.len()];
    if !filled(&mut file, &mut magic, path)? || magic != *MAGIC {
        return Ok(0);
    }
    let mut whole = HEADER;
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; ENTRY as usize];
        if !filled(&mut file, &mut head, path)? {
            return Ok(whole);
        }
        let (length, digest) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("split at four bytes"));
        let digest = Digest(digest.try_into().expect("32 bytes are left of 36"));
        if length == 0 || length as usize > limits::CHUNK_MAX {
            return Ok(whole);
        }
        bytes.resize(length as usize, 0);
        if !filled(&mut file, &mut bytes, path)? {
            return Ok(whole);
        }
        // A flipped bit in one entry does not hide the ones behind it.
        if Digest::of_bytes(&bytes) == digest {
            found(digest, whole + ENTRY, length);
        }
        whole += ENTRY + u64::from(length);
    }
}

/// Fills `into`, or says that the file ended before it was full.
fn filled(file: &mut impl Read, into: &mut [u8], path: &Path) -> Result<bool, StoreError> {
    match file.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(io_error("read", path)(error)),
    }
}
