//! Looking: scans of live trees for the vote, and scans that take content
//! into the store.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Active, Content, ContentError, PUBLISH, Staged, failed, locked};
use crate::{
    base::{
        AppName, Digest, RelPath,
        tree::{Chunk, Tree, changes},
    },
    driver::{
        Driver, DriverError, FileSink, How, Mode, Purpose, Scan,
        files::{self, Files, IgnoreRules, StatCache},
    },
    store::{ContentStore, StoreError, Writer},
};

/// How often a scan starts again because of a switch.
const LOOKS_MAX: usize = 5;

impl Content {
    /// Scans the live tree of `app`, without holding up a switch: if one came
    /// between, it looks again. Nothing if `app` is not active.
    pub(super) fn look(
        &self,
        app: &AppName,
        mode: Mode,
        mut sink: Option<&mut dyn FileSink>,
    ) -> Result<Option<(Active, Scan)>, ContentError> {
        let how = How { mode, purpose: Purpose::Live };
        let cell = self.app(app);
        for _ in 0..LOOKS_MAX {
            let (active, mut cache, generation) = {
                let work = locked(&cell.work);
                let Some(active) = work.active.clone() else { return Ok(None) };
                (active, (*work.cache).clone(), work.generation)
            };
            let rules = IgnoreRules::new(&active.ignore)?;
            let sink = sink.as_deref_mut();
            let before = self.before_look(&cell, &active);
            let scanned = files::scan(&active.live, &rules, &mut cache, how, sink);
            let mut work = locked(&cell.work);
            if work.generation != generation {
                continue;
            }
            let mut scan = match scanned {
                Ok(scan) => scan,
                Err(DriverError::Absent(_) | DriverError::NotDirectory(_)) => Scan::default(),
                Err(error) => return Err(error.into()),
            };
            if let Some(before) = before {
                self.after_look(&cell, &active, before, &scan);
            }
            if let Some(expected) = self.inner.store.tree(&active.root)? {
                scan.fit(&expected)?;
            }
            if cache != *work.cache {
                work.cache = Arc::new(cache);
                self.show(&cell, &work)?;
            }
            self.keep_cache(app, &cell, &work.cache, false);
            return Ok(Some((active, scan)));
        }
        Err(ContentError::Busy(app.clone()))
    }

    /// What stands in the live tree of `app`; nothing if it is not active here.
    /// With a `sink` all files are read through it.
    pub fn live(
        &self,
        app: &AppName,
        mode: Mode,
        sink: Option<&mut dyn FileSink>,
    ) -> Result<Option<Scan>, ContentError> {
        Ok(self.look(app, mode, sink)?.map(|(_, scan)| scan))
    }

    /// The same with the version that was switched to last. While the live tree is watched only
    /// what changed is looked at, so it costs little, whoever asks.
    pub fn live_where_changed(&self, app: &AppName) -> Result<Option<(u64, Scan)>, ContentError> {
        Ok(self.look_where_changed(app)?.map(|(active, scan)| (active.version, scan)))
    }

    /// Takes the file at `path` for what it was when it was read last, as if the
    /// disk had changed it and not a program: that leaves size and times alone.
    #[cfg(test)]
    pub(in crate::node) fn take_for_unchanged(&self, app: &AppName, path: &RelPath) {
        let cell = self.app(app);
        let mut work = locked(&cell.work);
        let live = work.active.as_ref().unwrap().live.join(path.to_path());
        let stat = files::StatKey::of(&rustix::fs::stat(live).unwrap());
        let mut cache = (*work.cache).clone();
        let known = cache.get(path).unwrap().clone();
        cache.insert(path.clone(), files::cache::Known { stat, settled: true, ..known });
        work.cache = Arc::new(cache);
    }

    /// The bytes of a file in the live tree of `app`, if there are no more than `bytes_max`.
    pub fn live_file(
        &self,
        app: &AppName,
        path: &RelPath,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, ContentError> {
        let active = locked(&self.app(app).shown).active.clone();
        let active = active.ok_or_else(|| ContentError::NotActive(app.clone()))?;
        let rules = IgnoreRules::new(&active.ignore)?;
        let reader = Files::new(active.live.clone(), rules, StatCache::new()).read(path)?;
        let mut bytes = Vec::new();
        let read = reader.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| DriverError::io("read", &active.live.join(path.to_path()), e))?;
        Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
    }

    /// Puts the listing `tree` into the store.
    pub(super) fn keep(&self, tree: &Tree) -> Result<Staged, ContentError> {
        let root = self.inner.store.put_tree(tree)?;
        Ok(Staged { root, files: tree.files(), bytes: tree.bytes() })
    }

    /// Takes the files of the tree at `source` into the store and looks at it once
    /// more. What `cache` knows of it and the store has is not read. Unless something
    /// `must_be` there, nothing at all is fine as well.
    pub(super) fn take(
        &self,
        source: &Path,
        rules: &IgnoreRules,
        expected: &Tree,
        cache: &mut StatCache,
        must_be: bool,
    ) -> Result<Tree, ContentError> {
        let store = &self.inner.store;
        let mut sink = Sink::new(store);
        let mut scan = match files::scan(source, rules, cache, PUBLISH, Some(&mut sink)) {
            Err(DriverError::Empty(_)) if !must_be => return Ok(Tree::default()),
            scanned => scanned?,
        };
        sink.commit()?;
        let mut again = files::scan(source, rules, cache, PUBLISH, None)?;
        if !expected.is_empty() {
            scan.fit(expected)?;
            again.fit(expected)?;
        }
        if scan.root() != again.root() {
            let list = changes(&scan.tree, &again.tree);
            let changed = list.first().map_or_else(PathBuf::new, |c| c.path().to_path());
            return Err(DriverError::Changing(source.join(changed)).into());
        }
        Ok(scan.tree)
    }
}

/// The store as what a scan hands files to.
pub(super) struct Sink<'a> {
    store: &'a ContentStore,
    writer: Option<Writer>,
}

/// Bytes that wait in a writer before they are committed: it remembers some
/// sixty bytes a chunk.
const WAITING_MAX: u64 = 1 << 30;

impl<'a> Sink<'a> {
    pub fn new(store: &'a ContentStore) -> Self {
        Self { store, writer: Some(store.writer()) }
    }

    /// Makes what it took durable.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.writer.take().map_or(Ok(()), Writer::commit)
    }
}

impl FileSink for Sink<'_> {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        if self.writer.as_ref().is_some_and(|writer| writer.waiting() > WAITING_MAX) {
            self.commit().map_err(failed)?;
        }
        let writer = self.writer.get_or_insert_with(|| self.store.writer());
        self.store.ingest_file(writer, reader).map_err(failed)
    }

    fn holds(&mut self, chunks: &[Chunk]) -> Result<bool, DriverError> {
        for chunk in chunks {
            if !self.store.has(&chunk.digest).map_err(failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
