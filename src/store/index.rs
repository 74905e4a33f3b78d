//! The index beside the packs: which chunk lies where, how far each pack
//! counts, which trees are known. `redb`, an embedded store whose transactions
//! survive a power loss.
//!
//! But for the log of events nothing else in the store names redb. After an input or output error it
//! refuses everything until it is opened again, which is done here, so that a
//! disk that was full for a moment does not need a restart.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use super::{
    StoreError,
    error::io_error,
    pack::{ENTRY, Extent},
};
use crate::base::Digest;

/// Chunk to (pack, offset, length, generation).
const CHUNKS: TableDefinition<&[u8; 32], (u64, u64, u32, u64)> = TableDefinition::new("chunks");
/// Pack to its committed length.
const PACKS: TableDefinition<u64, u64> = TableDefinition::new("packs");
/// Root of a tree to generation.
const TREES: TableDefinition<&[u8; 32], u64> = TableDefinition::new("trees");
/// Single numbers.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const GENERATION: &str = "generation";

/// Resident memory that redb may use, bytes: a whole idle member has 30 MiB.
const CACHE: usize = 4 << 20;

/// Where the bytes of a chunk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) at: Location,
    /// The collection that was current when the chunk was last put.
    pub(super) generation: u64,
}

/// What one commit of a writer brings, all or nothing.
#[derive(Default)]
pub(super) struct Batch<'a> {
    pub(super) chunks: Option<&'a BTreeMap<Digest, Location>>,
    pub(super) touched: Vec<Digest>,
    pub(super) packs: Vec<Extent>,
    pub(super) generation: u64,
}

/// What a sweep left.
pub(super) struct Swept {
    /// Chunks dropped.
    pub(super) chunks: u64,
    /// Packs that hold nothing any more, already off the index.
    pub(super) empty: Vec<u64>,
    /// Packs of which less than half is of use.
    pub(super) mostly_dead: Vec<Extent>,
}

pub(super) struct Index {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Index {
    /// Opens the index at `path`, or makes it. An error of kind
    /// [`Fault::Damaged`] means that it must be made again from the packs.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let database = if path.exists() { open(path, true)? } else { create(path)? };
        Ok(Self { path: path.to_owned(), database: RwLock::new(Some(database)) })
    }

    pub(super) fn generation(&self) -> Result<u64, StoreError> {
        self.read("read", |tx| {
            Ok(tx.open_table(NUMBERS)?.get(GENERATION)?.map_or(0, |n| n.value()))
        })
    }

    pub(super) fn chunk(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        self.read("read", |tx| Ok(tx.open_table(CHUNKS)?.get(&digest.0)?.map(|r| row(r.value()))))
    }

    /// Gives `each` what is known of every one of `digests`, from one moment.
    pub(super) fn chunks<'a>(
        &self,
        digests: impl Iterator<Item = &'a Digest>,
        mut each: impl FnMut(&Digest, Option<Row>),
    ) -> Result<(), StoreError> {
        self.read("read", |tx| {
            let table = tx.open_table(CHUNKS)?;
            for digest in digests {
                each(digest, table.get(&digest.0)?.map(|r| row(r.value())));
            }
            Ok(())
        })
    }

    /// Every chunk that lies in `pack`.
    pub(super) fn chunks_in(&self, pack: u64) -> Result<Vec<(Digest, Row)>, StoreError> {
        self.read("read", |tx| {
            let mut all = Vec::new();
            for item in tx.open_table(CHUNKS)?.iter()? {
                let (digest, found) = item?;
                let found = row(found.value());
                if found.at.pack == pack {
                    all.push((Digest(*digest.value()), found));
                }
            }
            Ok(all)
        })
    }

    pub(super) fn packs(&self) -> Result<Vec<Extent>, StoreError> {
        self.read("read", |tx| {
            let mut all = Vec::new();
            for item in tx.open_table(PACKS)?.iter()? {
                let (pack, committed) = item?;
                all.push(Extent { pack: pack.value(), committed: committed.value() });
            }
            Ok(all)
        })
    }

    /// Every tree known, with its generation.
    pub(super) fn trees(&self) -> Result<BTreeMap<Digest, u64>, StoreError> {
        self.read("read", |tx| {
            let mut all = BTreeMap::new();
            for item in tx.open_table(TREES)?.iter()? {
                let (root, generation) = item?;
                all.insert(Digest(*root.value()), generation.value());
            }
            Ok(all)
        })
    }

    pub(super) fn tree(&self, root: &Digest) -> Result<Option<u64>, StoreError> {
        self.read("read", |tx| Ok(tx.open_table(TREES)?.get(&root.0)?.map(|g| g.value())))
    }

    /// How many chunks are held.
    pub(super) fn count(&self) -> Result<u64, StoreError> {
        self.read("read", |tx| Ok(tx.open_table(CHUNKS)?.len()?))
    }

    pub(super) fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.write("write", |tx| {
            let mut chunks = tx.open_table(CHUNKS)?;
            for (digest, at) in batch.chunks.into_iter().flatten() {
                // Another writer may have been first: its copy stays, and
                // ours is dead weight until its pack is rewritten.
                let known = chunks.get(&digest.0)?.map(|r| row(r.value()).at);
                let at = known.unwrap_or(*at);
                chunks.insert(&digest.0, (at.pack, at.offset, at.len, batch.generation))?;
            }
            for digest in &batch.touched {
                let known = chunks.get(&digest.0)?.map(|r| row(r.value()).at);
                if let Some(at) = known {
                    chunks.insert(&digest.0, (at.pack, at.offset, at.len, batch.generation))?;
                }
            }
            let mut packs = tx.open_table(PACKS)?;
            for extent in &batch.packs {
                packs.insert(extent.pack, extent.committed)?;
            }
            Ok(())
        })
    }

    /// Forgets a chunk, unless it has meanwhile come to lie elsewhere.
    pub(super) fn forget(&self, digest: &Digest, at: Location) -> Result<(), StoreError> {
        self.write("write", |tx| {
            let mut chunks = tx.open_table(CHUNKS)?;
            let known = chunks.get(&digest.0)?.map(|r| row(r.value()).at);
            if known == Some(at) {
                chunks.remove(&digest.0)?;
            }
            Ok(())
        })
    }

    pub(super) fn put_tree(&self, root: &Digest, generation: u64) -> Result<(), StoreError> {
        self.write("write", |tx| {
            tx.open_table(TREES)?.insert(&root.0, generation)?;
            Ok(())
        })
    }

    pub(super) fn forget_tree(&self, root: &Digest) -> Result<(), StoreError> {
        self.write("write", |tx| {
            tx.open_table(TREES)?.remove(&root.0)?;
            Ok(())
        })
    }

    /// Drops `trees`, and every chunk older than `generation` that is not
    /// `live`; `generation` becomes the next one.
    pub(super) fn sweep(
        &self,
        generation: u64,
        trees: &[Digest],
        live: impl Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        self.write("sweep", |tx| {
            let mut roots = tx.open_table(TREES)?;
            for root in trees {
                roots.remove(&root.0)?;
            }
            let mut used: BTreeMap<u64, u64> = BTreeMap::new();
            let mut dropped = 0;
            tx.open_table(CHUNKS)?.retain(|digest, found| {
                let found = row(found);
                let stays = found.generation >= generation || live(&Digest(*digest));
                if stays {
                    *used.entry(found.at.pack).or_default() += ENTRY + u64::from(found.at.len);
                } else {
                    dropped += 1;
                }
                stays
            })?;
            let mut swept = Swept { chunks: dropped, empty: Vec::new(), mostly_dead: Vec::new() };
            tx.open_table(PACKS)?.retain(|pack, committed| {
                match used.get(&pack).copied().unwrap_or(0) {
                    0 => swept.empty.push(pack),
                    some if some < committed / 2 => {
                        swept.mostly_dead.push(Extent { pack, committed });
                    }
                    _ => {}
                }
                used.contains_key(&pack)
            })?;
            tx.open_table(NUMBERS)?.insert(GENERATION, generation + 1)?;
            Ok(swept)
        })
    }

    /// Chunks of `pack` were copied: those that still lie at the first
    /// location now lie at the second. `pack` is off the index, and so is any
    /// chunk that stayed behind in it.
    pub(super) fn moved(
        &self,
        pack: u64,
        moves: &[(Digest, Location, Location)],
        packs: &[Extent],
    ) -> Result<(), StoreError> {
        self.write("write", |tx| {
            let mut chunks = tx.open_table(CHUNKS)?;
            for (digest, from, to) in moves {
                let known = chunks.get(&digest.0)?.map(|r| row(r.value()));
                if let Some(known) = known
                    && known.at == *from
                {
                    let value = (to.pack, to.offset, to.len, known.generation);
                    chunks.insert(&digest.0, value)?;
                }
            }
            chunks.retain(|_, found| row(found).at.pack != pack)?;
            let mut table = tx.open_table(PACKS)?;
            for extent in packs {
                table.insert(extent.pack, extent.committed)?;
            }
            table.remove(pack)?;
            Ok(())
        })
    }

    /// Packs have lost what lay behind these lengths: forgets it, and a pack
    /// of no length altogether.
    pub(super) fn shortened(&self, lengths: &BTreeMap<u64, u64>) -> Result<(), StoreError> {
        self.write("repair", |tx| {
            tx.open_table(CHUNKS)?.retain(|_, found| {
                let at = row(found).at;
                lengths.get(&at.pack).is_none_or(|l| at.offset + u64::from(at.len) <= *l)
            })?;
            let mut packs = tx.open_table(PACKS)?;
            for (pack, length) in lengths {
                if *length == 0 {
                    packs.remove(*pack)?;
                } else {
                    packs.insert(*pack, *length)?;
                }
            }
            Ok(())
        })
    }

    fn read<T>(
        &self,
        doing: &'static str,
        action: impl FnOnce(&redb::ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.with(doing, |database| action(&database.begin_read()?))
    }

    fn write<T>(
        &self,
        doing: &'static str,
        action: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.with(doing, |database| {
            let tx = database.begin_write()?;
            let value = action(&tx)?;
            tx.commit()?;
            Ok(value)
        })
    }

    fn with<T>(
        &self,
        doing: &'static str,
        action: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let wrap = |fault: Fault| fault.into_store_error(doing, &self.path);
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match guard.as_ref() {
            Some(database) => action(database),
            None => {
                drop(guard);
                self.reopen().map_err(wrap)?;
                let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
                let closed = || Fault::Other("it was closed by another failure".into());
                return guard.as_ref().ok_or_else(closed).and_then(action).map_err(wrap);
            }
        };
        drop(guard);
        if matches!(result, Err(Fault::Io(_))) {
            // If it can't be opened now, the next call tries again.
            let _ = self.reopen();
        }
        result.map_err(wrap)
    }

    fn reopen(&self) -> Result<(), Fault> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *guard = None; // closes it, and with it the lock on the file
        *guard = Some(open(&self.path, false)?);
        Ok(())
    }
}

/// Why redb did not do what it was asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system refused; redb must be opened again.
    Io(io::Error),
    /// The file is no index, or damaged.
    Damaged(String),
    /// Anything else.
    Other(String),
}

impl Fault {
    pub(super) fn into_store_error(self, doing: &'static str, path: &Path) -> StoreError {
        match self {
            Self::Io(error) => io_error(doing, path)(error),
            Self::Damaged(why) | Self::Other(why) => StoreError::Index { doing, why },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Damaged(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        match error.into() {
            // This is how redb reports a file that is none of its own.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::PreviousIo => Self::Io(io::Error::other("it failed before")),
            redb::Error::Corrupted(why) => Self::Damaged(why),
            error => Self::Other(error.to_string()),
        }
    }
}

/// A new index, with all its tables, at `path`: it is made under another name,
/// so that one of which the making was interrupted is never met.
fn create(path: &Path) -> Result<Database, Fault> {
    let aside = path.with_extension("unfinished");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Fault::Io(error)),
        _ => {}
    }
    let database = Database::builder().set_cache_size(CACHE).create(&aside)?;
    let tx = database.begin_write()?;
    tx.open_table(CHUNKS)?;
    tx.open_table(PACKS)?;
    tx.open_table(TREES)?;
    tx.open_table(NUMBERS)?;
    tx.commit()?;
    drop(database);
    std::fs::rename(&aside, path).map_err(Fault::Io)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|d| d.sync_all()).map_err(Fault::Io)?;
    open(path, false)
}

/// Opens an index that is there. `check` reads all of it and verifies its
/// checksums, which is a few dozen megabytes for a million chunks.
fn open(path: &Path, check: bool) -> Result<Database, Fault> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(check);
    Ok(builder.open(path)?)
}

fn row((pack, offset, len, generation): (u64, u64, u32, u64)) -> Row {
    Row { at: Location { pack, offset, len }, generation }
}
