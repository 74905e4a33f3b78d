//! Content: chunks in append-only packs with an index beside them, and the
//! listings of trees that are made of them. Five times faster than a file for
//! every chunk, because a batch costs two syncs however many chunks it has.
//!
//! A chunk is verified when it is put and when it is read. What a crash at any
//! instant leaves is either committed and whole, or gone.
//!
//! **What garbage collection may not take.** Chunks come before the tree that
//! they belong to, so for a while nothing points at them. Two things keep them:
//! - a [`Hold`] (every [`Writer`] has one): while any lives, a collection
//!   does nothing and says that it is [postponed](Freed::postponed). Whoever
//!   relies on what [`ContentStore::missing`] said, or puts a tree in several
//!   commits over a long time, takes one until the tree is put;
//! - generations: each collection begins a new one, and takes only what was
//!   put, or put again, before the current one began. So what was just
//!   committed outlives the next collection, and goes with the one after it if
//!   still no tree that is kept has it. The same is true of trees.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    StoreError, Writer,
    data_dir::make_directory,
    error::io_error,
    index::{Fault, Index, Location},
    listing::Listings,
    pack::{self, Extent, PACK_FULL, POOL, PackWriter},
    record, recover, writer,
};
use crate::base::{Digest, limits, tree::Chunk};

pub use super::gc::Freed;

/// What is left free on the file system, bytes (or a sixteenth of it, if that
/// is less): content must not take the room that promises and the index need.
const ROOM: u64 = 64 << 20;
/// Packs kept open for reading.
const HANDLES: usize = 16;

/// The content store of one member. Cheap to clone; all calls block.
#[derive(Clone)]
pub struct ContentStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    directory: PathBuf,
    pub(super) packs: PathBuf,
    pub(super) listings: Listings,
    pub(super) index: Index,
    pub(super) collecting: Mutex<()>,
    gate: Mutex<Gate>,
    opened: Condvar,
    generation: AtomicU64,
    next_pack: AtomicU64,
    pub(super) losses: AtomicU64,
    pool: Mutex<Vec<Extent>>,
    handles: Mutex<BTreeMap<u64, Arc<File>>>,
    /// For tests: bytes that may still be written.
    #[cfg(test)]
    budget: AtomicU64,
}

#[derive(Default)]
struct Gate {
    holds: usize,
    closed: bool,
}

/// Holds off garbage collection while it lives; see the module's words on it.
#[must_use = "it holds off garbage collection only while it lives"]
pub struct Hold(Arc<Inner>);

/// While it lives, no [`Hold`] can be taken.
pub(super) struct Closed<'a>(&'a Inner);

impl ContentStore {
    /// Opens the store in `directory`, or makes it, and removes what a crash
    /// left unfinished. One process at a time: the data directory's lock sees
    /// to that. An index that is damaged is made again from the packs.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let (packs, trees) = (directory.join("packs"), directory.join("trees"));
        for path in [directory, &packs, &trees] {
            make_directory(path)?;
        }
        record::sync_directory(directory)?;
        record::sweep(&trees)?;
        let path = directory.join("index.redb");
        // No index beside packs was never our doing: a new store has none of either.
        let lost = !path.exists() && !pack::list(&packs)?.is_empty();
        let opened = if lost { None } else { Some(Index::open(&path)) };
        let index = match opened {
            Some(Ok(index)) => index,
            None | Some(Err(Fault::Damaged(_))) => recover::rebuild(&path, &packs, &trees)?,
            Some(Err(fault)) => return Err(fault.into_store_error("open", &path)),
        };
        let pool = recover::packs(&packs, &index)?;
        recover::trees(&trees, &index)?;
        let next = pack::list(&packs)?.last().map_or(0, |(pack, _)| *pack) + 1;
        let generation = index.generation()?;
        Ok(Self {
            inner: Arc::new(Inner {
                directory: directory.to_owned(),
                packs,
                listings: Listings::new(trees),
                index,
                collecting: Mutex::default(),
                gate: Mutex::default(),
                opened: Condvar::new(),
                generation: AtomicU64::new(generation),
                next_pack: AtomicU64::new(next),
                losses: AtomicU64::new(0),
                pool: Mutex::new(pool),
                handles: Mutex::default(),
                #[cfg(test)]
                budget: AtomicU64::new(u64::MAX),
            }),
        })
    }

    /// Whether a chunk is held.
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.inner.index.chunk(digest)?.is_some())
    }

    /// How many chunks are held.
    pub fn count(&self) -> Result<u64, StoreError> {
        self.inner.index.count()
    }

    /// The bytes of a chunk, verified. A chunk whose bytes have changed or
    /// can't be read is forgotten, so that it is fetched again, and
    /// [`StoreError::Corrupt`] says so.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let inner = &self.inner;
        let mut moved = false;
        loop {
            let Some(row) = inner.index.chunk(digest)? else {
                return Err(StoreError::NotFound(*digest));
            };
            match inner.bytes(row.at) {
                Ok(bytes) if Digest::of_bytes(&bytes) == *digest => return Ok(bytes),
                // Between the look into the index and the file, a collection
                // may have copied the chunk and removed its pack.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !moved => moved = true,
                Err(error) if !is_damage(&error) => {
                    return Err(io_error("read", &pack::path_of(&inner.packs, row.at.pack))(error));
                }
                _ => {
                    // If it can't be forgotten now, the next read tries again.
                    let _ = inner.index.forget(digest, row.at);
                    inner.listings.chunks_lost(&BTreeSet::new());
                    inner.losses.fetch_add(1, Ordering::AcqRel);
                    return Err(StoreError::Corrupt(*digest));
                }
            }
        }
    }

    /// A writer of its own; several may be at work.
    pub fn writer(&self) -> Writer {
        Writer::new(self.inner.clone(), self.hold())
    }

    /// Holds off garbage collection. Waits for one that is deciding just now
    /// (milliseconds, some seconds for millions of chunks).
    pub fn hold(&self) -> Hold {
        let mut gate = locked(&self.inner.gate);
        while gate.closed {
            gate = self.inner.opened.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.holds += 1;
        Hold(self.inner.clone())
    }

    /// Whether there is room for so many bytes of content now, beside what has to stay free.
    pub fn has_room(&self, bytes: u64) -> Result<bool, StoreError> {
        #[cfg(test)]
        if self.inner.budget.load(Ordering::Acquire) < bytes {
            return Ok(false);
        }
        self.inner.has_room(bytes)
    }

    /// Cuts what `reader` gives into chunks and puts them with `writer`: the
    /// signature of the whole, its size in bytes, its chunks in order. Nothing
    /// has no chunks. One pass, one chunk in memory.
    pub fn ingest_file(
        &self,
        writer: &mut Writer,
        reader: impl Read,
    ) -> Result<(Digest, u64, Vec<Chunk>), StoreError> {
        writer::ingest(writer, reader)
    }

    /// How often something was found lost or rotten since it was opened.
    pub fn losses(&self) -> u64 {
        self.inner.losses.load(Ordering::Acquire)
    }

    /// The roots of all listings stored.
    pub fn trees(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(self.inner.index.trees()?.into_keys().collect())
    }

    /// Reads every chunk of the tree `root` and lists those that are corrupt
    /// (and now forgotten) or missing. `progress` is told bytes done and bytes
    /// in all. An unknown root lists nothing: ask [`whole`](Self::whole) first.
    pub fn verify(
        &self,
        root: &Digest,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Vec<Digest>, StoreError> {
        let Some(tree) = self.tree(root)? else { return Ok(Vec::new()) };
        let chunks = tree.chunks();
        let total = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let (mut done, mut bad) = (0, Vec::new());
        for chunk in &chunks {
            match self.read(&chunk.digest) {
                Ok(_) => {}
                Err(StoreError::Corrupt(_) | StoreError::NotFound(_)) => bad.push(chunk.digest),
                Err(error) => return Err(error),
            }
            done += u64::from(chunk.len);
            progress(done, total);
        }
        Ok(bad)
    }

    /// Lets tests in other modules fill the disk: bytes that may still be written.
    #[cfg(test)]
    pub(crate) fn set_budget(&self, bytes: u64) {
        self.inner.budget.store(bytes, Ordering::Release);
    }

    /// Garbage collection: drops the trees that are not in `keep`, the chunks
    /// that no remaining tree has, and packs that hold nothing of use; copies
    /// what is left of packs that are mostly dead. See the module's words on
    /// what it may not take. Killed at any instant it has lost nothing kept.
    ///
    /// If the listing of a tree in `keep` turns out to be damaged, nothing is
    /// collected and [`StoreError::Corrupt`] names its root: fetch it first. A
    /// tree in `keep` of which no listing is known protects nothing, so what a
    /// broken pull has left of it goes with the second collection.
    pub fn retain(&self, keep: &BTreeSet<Digest>) -> Result<Freed, StoreError> {
        super::gc::collect(self, keep)
    }
}

impl std::fmt::Debug for ContentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ContentStore").field(&self.inner.directory).finish()
    }
}

impl Inner {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Refuses to write `bytes` more if that would leave too little room.
    pub(super) fn room(&self, bytes: u64) -> Result<(), StoreError> {
        let full = || StoreError::Full { path: self.directory.clone() };
        #[cfg(test)]
        self.budget
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes))
            .map_err(|_| full())?;
        if self.has_room(bytes)? { Ok(()) } else { Err(full()) }
    }

    fn has_room(&self, bytes: u64) -> Result<bool, StoreError> {
        let stat = rustix::fs::statvfs(&self.directory)
            .map_err(|error| io_error("examine", &self.directory)(error.into()))?;
        let spare = ROOM.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 16);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(free >= bytes.saturating_add(spare))
    }

    /// A pack for one writer alone: one with room, or a new one.
    pub(super) fn take_pack(&self) -> Result<PackWriter, StoreError> {
        let waiting = locked(&self.pool).pop();
        if let Some(extent) = waiting {
            // One that can't be opened is left alone until the next start.
            if let Ok(open) = PackWriter::reopen(&self.packs, extent) {
                return Ok(open);
            }
        }
        let pack = self.next_pack.fetch_add(1, Ordering::AcqRel);
        PackWriter::create(&self.packs, pack)
    }

    pub(super) fn give_back(&self, extent: Extent) {
        let mut pool = locked(&self.pool);
        if extent.committed < PACK_FULL && pool.len() < POOL {
            pool.push(extent);
        }
    }

    /// Packs that are to go take no more entries.
    pub(super) fn retire(&self, packs: &BTreeSet<u64>) {
        locked(&self.pool).retain(|extent| !packs.contains(&extent.pack));
    }

    pub(super) fn remove_pack(&self, pack: u64) -> Result<u64, StoreError> {
        locked(&self.handles).remove(&pack);
        let path = pack::path_of(&self.packs, pack);
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        record::remove(&path)?;
        Ok(size)
    }

    /// The bytes at a location, not verified.
    pub(super) fn bytes(&self, at: Location) -> io::Result<Vec<u8>> {
        if at.len as usize > limits::CHUNK_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; at.len as usize];
        self.handle(at.pack)?.read_exact_at(&mut bytes, at.offset)?;
        Ok(bytes)
    }

    /// Keeps every [`Hold`] out while it lives; `None` while there is one.
    pub(super) fn close_gate(&self) -> Option<Closed<'_>> {
        let mut gate = locked(&self.gate);
        if gate.holds > 0 || gate.closed {
            return None;
        }
        gate.closed = true;
        Some(Closed(self))
    }

    fn handle(&self, pack: u64) -> io::Result<Arc<File>> {
        if let Some(file) = locked(&self.handles).get(&pack) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(pack::path_of(&self.packs, pack))?);
        let mut handles = locked(&self.handles);
        if handles.len() >= HANDLES {
            handles.pop_first();
        }
        handles.insert(pack, file.clone());
        Ok(file)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        locked(&self.0.gate).holds -= 1;
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        locked(&self.0.gate).closed = false;
        self.0.opened.notify_all();
    }
}

/// The state behind each lock is whole between any two statements, so a
/// thread that panicked while it held one has broken nothing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the bytes are lost, rather than out of reach for a moment.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests;
