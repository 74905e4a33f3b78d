//! One ring file: slots of one length, each for one bucket of time, at the place that the
//! bucket's number has by its remainder.
//!
//! A slot says which bucket it holds and carries a checksum over that, over its bytes and
//! over which file it belongs to. So a slot that was cut short by a crash, one of an earlier
//! turn of the ring, one of a time that a jumping clock made up, and one that somebody copied
//! here are each seen to be not what was asked for, and count as unknown. Nothing is synced:
//! what a power cut takes is some last slots, each for itself.
//!
//! ```text
//! header  "althring" version:u8 0:[u8;3] slots:u32 room:u32 part:u32 check:u64
//! slot    bucket:u64 generation:u32 length:u32 check:u64 bytes:[u8; room]
//! ```
//!
//! Numbers are little endian; a check is the first eight bytes of a BLAKE3 hash.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    base::Digest,
    store::{StoreError, error::io_error},
};

/// The newest format that this code reads and the one that it writes.
pub(super) const FORMAT: u8 = 1;

const MAGIC: &[u8; 8] = b"althring";
const HEADER: usize = 32;
const SLOT_HEADER: usize = 24;
/// Slots that are read at once.
const READ_AT_ONCE: u64 = 64;

/// What a ring file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// How many slots.
    pub(super) slots: u32,
    /// The most bytes in one.
    pub(super) room: u32,
    /// Which of all files of this store it is.
    pub(super) part: u32,
}

impl Shape {
    fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8] = FORMAT;
        header[12..16].copy_from_slice(&self.slots.to_le_bytes());
        header[16..20].copy_from_slice(&self.room.to_le_bytes());
        header[20..24].copy_from_slice(&self.part.to_le_bytes());
        let check = check(&header[..24]);
        header[24..].copy_from_slice(&check);
        header
    }
}

/// What one slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot<'a> {
    pub(super) bucket: u64,
    pub(super) generation: u32,
    pub(super) bytes: &'a [u8],
}

#[derive(Debug)]
pub(super) struct Ring {
    path: PathBuf,
    file: File,
    shape: Shape,
    written: u64,
    damaged: AtomicU64,
}

impl Ring {
    /// Opens the ring at `path`, or makes it. One that is damaged at its head, or of another
    /// shape, is begun anew: what it held is lost, and is no more than measurements.
    ///
    /// # Errors
    /// If the system refuses, or a newer Althing wrote it; then it is left as it is.
    pub(super) fn open(path: &Path, shape: Shape) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io_error("open", path))?;
        let mut header = [0; HEADER];
        let read = read_at(&file, &mut header, 0).map_err(io_error("read", path))?;
        if read == HEADER && header.starts_with(MAGIC) && header[8] > FORMAT {
            let (found, known) = (u32::from(header[8]), u32::from(FORMAT));
            return Err(StoreError::Newer { path: path.to_owned(), found, known });
        }
        if header != shape.header() {
            file.set_len(0).map_err(io_error("empty", path))?;
            file.write_all_at(&shape.header(), 0).map_err(io_error("write", path))?;
        }
        let damaged = AtomicU64::new(0);
        Ok(Self { path: path.to_owned(), file, shape, written: 0, damaged })
    }

    /// Puts `bytes`, which are no more than there is room for, into the slot of `bucket`, in
    /// place of what it held.
    pub(super) fn write(
        &mut self,
        bucket: u64,
        generation: u32,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let length = bytes.len() as u32; // no more than `room`
        assert!(length <= self.shape.room, "callers know how much room there is");
        let mut slot = Vec::with_capacity(SLOT_HEADER + bytes.len());
        slot.extend_from_slice(&bucket.to_le_bytes());
        slot.extend_from_slice(&generation.to_le_bytes());
        slot.extend_from_slice(&length.to_le_bytes());
        slot.extend_from_slice(&self.check(&slot, bytes));
        slot.extend_from_slice(bytes);
        let written = self.file.write_all_at(&slot, self.offset(bucket));
        written.map_err(io_error("write", &self.path))?;
        self.written += slot.len() as u64;
        Ok(())
    }

    /// Gives `each` what is held of the buckets `from` to `to`, the last one excluded, in
    /// order. No more than one turn of the ring is looked at, the newest.
    pub(super) fn read(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(Slot<'_>),
    ) -> Result<(), StoreError> {
        let slots = u64::from(self.shape.slots);
        let mut at = from.max(to.saturating_sub(slots));
        let mut buffer =
            vec![0; self.slot_len() * READ_AT_ONCE.min(to.saturating_sub(at)) as usize];
        while at < to {
            // As far as it lies in one piece.
            let count = READ_AT_ONCE.min(to - at).min(slots - at % slots);
            let want = &mut buffer[..self.slot_len() * count as usize];
            let got =
                read_at(&self.file, want, self.offset(at)).map_err(io_error("read", &self.path))?;
            for (bucket, slot) in (at..to).zip(want[..got].chunks(self.slot_len())) {
                if let Some(slot) = self.verify(slot).filter(|slot| slot.bucket == bucket) {
                    each(slot);
                }
            }
            at += count;
        }
        Ok(())
    }

    /// The newest bucket that is held and not after `bucket`.
    pub(super) fn newest(&self, bucket: u64) -> Result<Option<u64>, StoreError> {
        let mut newest = None;
        let from = bucket.saturating_sub(u64::from(self.shape.slots) - 1);
        self.read(from, bucket.saturating_add(1), |slot| newest = Some(slot.bucket))?;
        Ok(newest)
    }

    /// Bytes written since it was opened.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Slots met that were no good: torn by a crash, or damaged since.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    /// What a slot holds; none if nothing, or nothing to be believed. The last one of a file
    /// may be cut short behind its bytes.
    fn verify<'a>(&self, slot: &'a [u8]) -> Option<Slot<'a>> {
        let (header, rest) = slot.split_at_checked(SLOT_HEADER)?;
        if header.iter().all(|byte| *byte == 0) {
            return None; // never written
        }
        let number =
            |at: usize| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|i| header[i]));
        let bucket = u64::from(number(0)) | u64::from(number(4)) << 32;
        let bytes = rest.get(..number(12) as usize);
        let whole = bytes.filter(|bytes| self.check(&header[..16], bytes) == header[16..]);
        if whole.is_none() {
            self.damaged.fetch_add(1, Relaxed);
        }
        whole.map(|bytes| Slot { bucket, generation: number(8), bytes })
    }

    fn check(&self, header: &[u8], bytes: &[u8]) -> [u8; 8] {
        check(&[&self.shape.header()[..], header, bytes].concat())
    }

    fn slot_len(&self) -> usize {
        SLOT_HEADER + self.shape.room as usize
    }

    fn offset(&self, bucket: u64) -> u64 {
        HEADER as u64 + bucket % u64::from(self.shape.slots) * self.slot_len() as u64
    }
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let digest = Digest::of("althing ring", bytes).0;
    std::array::from_fn(|at| digest[at])
}

/// Fills `buffer` as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { slots: 8, room: 16, part: 3 };

    fn held(ring: &Ring, from: u64, to: u64) -> Vec<(u64, u32, Vec<u8>)> {
        let mut all = Vec::new();
        ring.read(from, to, |s| all.push((s.bucket, s.generation, s.bytes.to_vec()))).unwrap();
        all
    }

    #[test]
    fn the_newest_turn_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, SHAPE).unwrap();
        assert_eq!(held(&ring, 0, u64::MAX), []);
        for bucket in 100..120_u64 {
            ring.write(bucket, 7, &bucket.to_le_bytes()).unwrap();
        }
        drop(ring);
        let ring = Ring::open(&path, SHAPE).unwrap();
        let all = held(&ring, 0, 120);
        assert_eq!(all.iter().map(|h| h.0).collect::<Vec<_>>(), (112..120).collect::<Vec<_>>());
        assert_eq!(all[3], (115, 7, 115_u64.to_le_bytes().to_vec()));
        assert_eq!(held(&ring, 114, 116).len(), 2);
        assert_eq!(held(&ring, 104, 112), [], "another turn is not this one");
        assert_eq!((ring.newest(118).unwrap(), ring.newest(50).unwrap()), (Some(118), None));
        assert_eq!(ring.newest(u64::MAX).unwrap(), None);
        assert!(fs::metadata(&path).unwrap().len() <= 32 + 8 * 40);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, SHAPE).unwrap();
        ring.write(0, 1, b"nought").unwrap();
        ring.write(1, 1, b"one").unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in HEADER..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let held = held(&Ring::open(&path, SHAPE).unwrap(), 0, 8);
            assert!(held.len() <= 1, "cut at {cut}");
            assert!(held.iter().all(|h| h.2 == b"nought"));
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            match Ring::open(&path, SHAPE) {
                Ok(ring) => {
                    for slot in held(&ring, 0, 8) {
                        assert!(
                            [(0, 1, b"nought".to_vec()), (1, 1, b"one".to_vec())].contains(&slot)
                        );
                    }
                }
                Err(error) => assert!(matches!(error, StoreError::Newer { .. }) && at == 8),
            }
        }
    }

    #[test]
    fn another_shape_begins_anew_and_a_newer_format_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        Ring::open(&path, SHAPE).unwrap().write(1, 1, b"one").unwrap();
        let other = Ring::open(&path, Shape { part: 4, ..SHAPE }).unwrap();
        assert_eq!(held(&other, 0, 8), []);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = FORMAT + 1;
        fs::write(&path, &bytes).unwrap();
        let error = Ring::open(&path, SHAPE).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    proptest! {
        #[test]
        fn garbage_is_never_read_as_data(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ring");
            fs::write(&path, [&SHAPE.header()[..], &bytes].concat()).unwrap();
            let ring = Ring::open(&path, SHAPE).unwrap();
            prop_assert_eq!(held(&ring, 0, u64::MAX), vec![]);
        }
    }
}
