//! What can go wrong on this member's own disk, in sentences that say what
//! happened, what it means and what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::base::{Digest, RelPath};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was being done, a verb.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source of a file that was being stored failed.
    #[error("can't read what is to be stored: {0}")]
    Source(io::Error),
    /// No room left on the file system, or a quota is used up. What was being
    /// written is dropped, what was there before is as it was.
    #[error(
        "no room left on the file system of {}: nothing of this write was kept and all that was \
         stored before is unharmed; free some space and it goes on by itself",
        path.display()
    )]
    Full {
        /// What was being written.
        path: PathBuf,
    },
    /// A record is there, but cut short or damaged.
    #[error(
        "{} is damaged ({why}): it is not used and not overwritten; restore it from a backup, or \
         move the whole data directory away and join anew",
        path.display()
    )]
    Torn {
        /// The record.
        path: PathBuf,
        /// What does not fit.
        why: &'static str,
    },
    /// Written by a later Althing.
    #[error(
        "{} has format {found} and this Althing knows up to {known}: a newer Althing wrote it; \
         run that one, nothing was touched",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this code reads.
        known: u32,
    },
    /// More than is accepted here.
    #[error("{} has {size} bytes and may have {size_max}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes there.
        size: u64,
        /// Bytes allowed.
        size_max: u64,
    },
    /// Another process holds the data directory.
    #[error(
        "{} is in use by another althing process: two on one directory would ruin it; stop the \
         other, or name another directory",
        path.display()
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// A directory with something else in it.
    #[error(
        "{} holds other files and is no data directory of Althing: nothing was touched; name an \
         empty or a new directory",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// A chunk was held, and its bytes have changed or can't be read.
    #[error("content {0} is damaged on this disk: it is forgotten here and will be fetched again")]
    Corrupt(Digest),
    /// A chunk is not held.
    #[error("content {0} is not held here")]
    NotFound(Digest),
    /// Bytes that are not what they were said to be.
    #[error("content said to be {wanted} is {found}: it is refused")]
    Mismatch {
        /// The signature claimed.
        wanted: Digest,
        /// The signature of the bytes.
        found: Digest,
    },
    /// A chunk of no bytes or of too many.
    #[error("a chunk has {0} bytes; 1 to 1,048,576 are accepted")]
    ChunkSize(usize),
    /// A file over [`FILE_MAX`](crate::base::limits::FILE_MAX).
    #[error("a file has more than 1 TiB, which is not replicated")]
    FileSize,
    /// The pieces listed for a file don't make that file.
    #[error("the pieces listed for {0} don't add up to its signature: the listing is refused")]
    Unproven(RelPath),
    /// A writer that failed before.
    #[error("a write failed before, so nothing of this batch can be kept; write it again")]
    Abandoned,
    /// More numbers than one answer has.
    #[error(
        "that asks for {cells} numbers, and an answer has no more than {cells_max}: name fewer \
         series, a shorter time, or a longer step"
    )]
    TooMuch {
        /// Series times rows.
        cells: usize,
        /// How many there may be.
        cells_max: usize,
    },
    /// The log of events failed for a reason of its own.
    #[error("can't {doing} the log of events: {why}; the newest events are still kept in memory")]
    Log {
        /// What was being done, a verb.
        doing: &'static str,
        /// What the log said.
        why: String,
    },
    /// The index failed for a reason of its own.
    #[error("can't {doing} the content index: {why}")]
    Index {
        /// What was being done, a verb.
        doing: &'static str,
        /// What the index said.
        why: String,
    },
}

impl StoreError {
    /// Whether this is a full disk or quota: worth another try once there is room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Wraps an error of the system, for `map_err`.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { path: path.to_owned() }
        }
        _ => StoreError::Io { doing, path: path.to_owned(), source },
    }
}
