//! Writing chunks: gathered in a pack, on disk first, in the index second.
//!
//! A chunk is never in the index before its bytes are on disk, so whatever
//! instant a crash picks, what the index lists is whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::Arc,
};

use fastcdc::v2020::StreamCDC;

use super::{
    StoreError,
    content::{Hold, Inner},
    index::{Batch, Location},
    pack::{self, Extent, PACK_FULL, PackWriter},
};
use crate::base::{Digest, limits, tree::Chunk};

/// Puts chunks into the store. Nothing of it counts before
/// [`commit`](Writer::commit); dropped without it, it leaves no trace. It
/// holds off garbage collection as a [`Hold`] does.
///
/// What waits costs some sixty bytes of memory a chunk: whoever writes very
/// much commits now and then.
pub struct Writer {
    inner: Arc<Inner>,
    open: Option<PackWriter>,
    /// Packs that were filled, synced, with what the index knows of them.
    filled: Vec<(Extent, Extent)>,
    chunks: BTreeMap<Digest, Location>,
    /// Chunks of an earlier generation that were put again.
    touched: BTreeSet<Digest>,
    waiting: u64,
    failed: bool,
    _hold: Hold,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, hold: Hold) -> Self {
        Self {
            inner,
            open: None,
            filled: Vec::new(),
            chunks: BTreeMap::new(),
            touched: BTreeSet::new(),
            waiting: 0,
            failed: false,
            _hold: hold,
        }
    }

    /// Puts one chunk, 1 to [`CHUNK_MAX`](limits::CHUNK_MAX) bytes, after
    /// checking that `bytes` are what `digest` says. `false` if it is held
    /// already. After an error of the disk nothing of this writer is kept.
    pub fn put(&mut self, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let found = Digest::of_bytes(bytes);
        if found != digest {
            return Err(StoreError::Mismatch { wanted: digest, found });
        }
        self.put_signed(digest, bytes)
    }

    /// Bytes put and not yet committed.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Makes everything that was put durable: the packs first, then, in one
    /// transaction, the index. On an error nothing of it is kept.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Abandoned);
        }
        if self.chunks.is_empty() && self.touched.is_empty() {
            return Ok(());
        }
        if let Some(open) = self.open.take() {
            self.fill(open)?;
        }
        self.inner.room(0)?;
        let batch = Batch {
            chunks: Some(&self.chunks),
            touched: self.touched.iter().copied().collect(),
            packs: self.filled.iter().map(|(_, after)| *after).collect(),
            generation: self.inner.generation(),
        };
        if let Err(error) = self.inner.index.commit(&batch) {
            // Whether it came through is unknown until the index is opened
            // again. If so, these bytes must stay: they are cut off when the
            // store is opened next, by what its index says then.
            self.filled.clear();
            return Err(error);
        }
        for (_, after) in self.filled.drain(..) {
            self.inner.give_back(after);
        }
        Ok(())
    }

    /// As [`put`](Self::put), for a signature that was made from these bytes.
    pub(super) fn put_signed(&mut self, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        if bytes.is_empty() || bytes.len() > limits::CHUNK_MAX {
            return Err(StoreError::ChunkSize(bytes.len()));
        }
        if self.failed {
            return Err(StoreError::Abandoned);
        }
        if self.chunks.contains_key(&digest) {
            return Ok(false);
        }
        if let Some(row) = self.inner.index.chunk(&digest)? {
            if row.generation < self.inner.generation() {
                self.touched.insert(digest);
            }
            return Ok(false);
        }
        let put = self.append(digest, bytes);
        self.failed |= put.is_err();
        put.map(|()| true)
    }

    fn append(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.room(bytes.len() as u64)?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.inner.take_pack()?,
        };
        let pack = open.id();
        let appended = open.append(&digest, bytes);
        let full = open.length() >= PACK_FULL;
        self.open = Some(open);
        let location = Location { pack, offset: appended?, len: bytes.len() as u32 };
        self.chunks.insert(digest, location);
        self.waiting += bytes.len() as u64;
        if full && let Some(open) = self.open.take() {
            self.fill(open)?;
        }
        Ok(())
    }

    fn fill(&mut self, mut open: PackWriter) -> Result<(), StoreError> {
        match open.finish() {
            Ok(after) => {
                self.filled.push((open.before(), after));
                Ok(())
            }
            Err(error) => {
                self.open = Some(open); // undone when this is dropped
                self.failed = true;
                Err(error)
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let open = self.open.take().and_then(PackWriter::undo);
        let inner = &self.inner;
        let undone = self.filled.drain(..).filter_map(|(before, _)| {
            pack::undo(&pack::path_of(&inner.packs, before.pack), before)
        });
        for extent in open.into_iter().chain(undone) {
            inner.give_back(extent);
        }
    }
}

/// Cuts what `reader` gives and puts the pieces: see [`cut`].
pub(super) fn ingest(
    writer: &mut Writer,
    reader: impl Read,
) -> Result<(Digest, u64, Vec<Chunk>), StoreError> {
    cut(reader, |digest, bytes| writer.put_signed(digest, bytes).map(drop))
}

/// Cuts what `reader` gives into content-defined chunks (FastCDC: Xia et al., USENIX ATC 2016 and
/// TPDS 2020), and hands each to `each`: the signature of the whole, its size in bytes, its chunks
/// in order. Nothing has no chunks.
///
/// # Errors
/// What `reader` or `each` says, or that it is larger than a file may be.
pub fn cut(
    mut reader: impl Read,
    mut each: impl FnMut(Digest, &[u8]) -> Result<(), StoreError>,
) -> Result<(Digest, u64, Vec<Chunk>), StoreError> {
    // Most files are one chunk, and need none of the chunker's large buffer.
    let mut start = Vec::with_capacity(8 << 10);
    let limit = limits::CHUNK_MIN as u64 + 1;
    reader.by_ref().take(limit).read_to_end(&mut start).map_err(StoreError::Source)?;
    if start.is_empty() {
        return Ok((Digest::of_bytes(b""), 0, Vec::new()));
    }
    if start.len() <= limits::CHUNK_MIN {
        let digest = Digest::of_bytes(&start);
        each(digest, &start)?;
        let len = start.len() as u32;
        return Ok((digest, u64::from(len), vec![Chunk { digest, len }]));
    }
    let mut whole = blake3::Hasher::new();
    let mut size = 0;
    let mut chunks = Vec::new();
    let (min, average, max) = (limits::CHUNK_MIN, limits::CHUNK_AVERAGE, limits::CHUNK_MAX);
    for piece in StreamCDC::new(start.as_slice().chain(reader), min, average, max) {
        let piece = piece.map_err(|error| StoreError::Source(error.into()))?;
        size += piece.data.len() as u64;
        if size > limits::FILE_MAX {
            return Err(StoreError::FileSize);
        }
        whole.update(&piece.data);
        let digest = Digest::of_bytes(&piece.data);
        each(digest, &piece.data)?;
        chunks.push(Chunk { digest, len: piece.data.len() as u32 });
    }
    Ok((Digest(*whole.finalize().as_bytes()), size, chunks))
}
