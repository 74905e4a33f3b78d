//! The stat cache: what was known of a file when it was last read, so that a
//! scan reads only what may have changed since.
//!
//! The idea is git's index, its "racy" entries included: a file that changed
//! within the granularity of its time stamps after it was read looks as if it
//! had not. A record therefore counts only if the file had been at rest for
//! [`REST`] when it was read. The change time decides, because nobody can set
//! it. Losing the cache is harmless: the next scan reads everything.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use crate::base::{Digest, RelPath, limits, tree::Chunk, wire};

/// How long a file must have been unchanged before it was read: longer than
/// the coarsest time stamps of a Linux file system.
pub const REST: Duration = Duration::from_secs(2);

/// What identifies one state of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatKey {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Modified, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Changed, nanoseconds since 1970: content, name, owner or permissions.
    pub ctime_ns: i64,
    /// Type and all permission bits.
    pub mode: u32,
}

impl StatKey {
    /// The state that `stat` tells of.
    pub fn of(stat: &Stat) -> Self {
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec as i64),
            mode: stat.st_mode,
        }
    }

    /// Whether the file had been at rest for [`REST`] at `now`.
    pub fn at_rest(&self, now: SystemTime) -> bool {
        nanos(now).saturating_sub(self.ctime_ns) > nanos_of(REST)
    }
}

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its state when it was read or written.
    pub stat: StatKey,
    /// Its content then.
    pub digest: Digest,
    /// How that was cut.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::CHUNKS_MAX }>")]
    pub chunks: Vec<Chunk>,
    /// Whether any later change is sure to show in the state.
    pub settled: bool,
}

/// What is known of the files of one tree. Cheap to clone, and to change a little.
#[derive(Clone, Debug, Default)]
pub struct StatCache {
    files: Arc<HashMap<RelPath, Arc<Known>>>,
    /// What is known otherwise since; none for nothing any more.
    since: HashMap<RelPath, Option<Arc<Known>>>,
}

/// So much may be known otherwise before all is put together again; and one part in
/// [`SINCE_SHARE`] of what there is.
const SINCE_MAX: usize = 64;
const SINCE_SHARE: usize = 16;

impl StatCache {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of `path`, if it is in the state `stat` still.
    pub fn known(&self, path: &RelPath, stat: &StatKey) -> Option<&Known> {
        self.get(path).filter(|known| known.settled && known.stat == *stat)
    }

    /// What is known of `path`, whatever state it is in now.
    pub fn get(&self, path: &RelPath) -> Option<&Known> {
        match self.since.get(path) {
            Some(known) => known.as_deref(),
            None => self.files.get(path).map(|known| &**known),
        }
    }

    /// Notes what was read or written.
    pub fn insert(&mut self, path: RelPath, known: Known) {
        self.change(path, Some(Arc::new(known)));
    }

    /// Nothing is known of `path` any more.
    pub fn remove(&mut self, path: &RelPath) {
        if self.get(path).is_some() {
            self.change(path.clone(), None);
        }
    }

    fn change(&mut self, path: RelPath, known: Option<Arc<Known>>) {
        if let Some(files) = Arc::get_mut(&mut self.files).filter(|_| self.since.is_empty()) {
            match known {
                Some(known) => files.insert(path, known),
                None => files.remove(&path),
            };
            return;
        }
        self.since.insert(path, known);
        if self.since.len() > SINCE_MAX.max(self.files.len() / SINCE_SHARE) {
            let files = Arc::make_mut(&mut self.files);
            for (path, known) in self.since.drain() {
                match known {
                    Some(known) => files.insert(path, known),
                    None => files.remove(&path),
                };
            }
        }
    }

    /// All of it, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &Known)> {
        let old = self.files.iter().filter(|(path, _)| !self.since.contains_key(*path));
        let new = self.since.iter().filter_map(|(path, known)| Some((path, known.as_ref()?)));
        old.chain(new).map(|(path, known)| (path, &**known))
    }

    /// Files that something is known of.
    pub fn len(&self) -> usize {
        if self.since.is_empty() { self.files.len() } else { self.iter().count() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For the disk; `None` if it is too large for a record.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut files: Vec<(&RelPath, &Known)> = self.iter().collect();
        files.sort_by_key(|(path, _)| *path);
        wire::try_encode(wire::Kind::Record, &files).ok()
    }

    /// The reverse of [`StatCache::encode`]; nothing known where `bytes` are
    /// not from it.
    pub fn decode(bytes: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Files(
            #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
            Vec<(RelPath, Known)>,
        );
        let files = wire::decode::<Files>(wire::Kind::Record, bytes).map(|files| files.0);
        let files = files.unwrap_or_default().into_iter();
        let files = files.map(|(path, known)| (path, Arc::new(known))).collect();
        Self { files: Arc::new(files), since: HashMap::new() }
    }
}

impl PartialEq for StatCache {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.files, &other.files) {
            let mut since = self.since.keys().chain(other.since.keys());
            return since.all(|path| self.get(path) == other.get(path));
        }
        self.len() == other.len() && self.iter().all(|(path, known)| other.get(path) == Some(known))
    }
}

impl Eq for StatCache {}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, nanos_of)
}

fn nanos_of(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ctime_ns: i64) -> StatKey {
        StatKey { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns, mode: 0o100_644 }
    }

    #[test]
    fn a_file_that_just_changed_is_not_at_rest() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert!(key(997_000_000_000).at_rest(now));
        assert!(!key(999_000_000_000).at_rest(now));
        assert!(!key(2_000_000_000_000).at_rest(now), "a clock that was set back");
    }

    #[test]
    fn every_part_of_the_state_counts() {
        let path = RelPath::parse(b"a").unwrap();
        let mut cache = StatCache::new();
        let known =
            Known { stat: key(5), digest: Digest::of_bytes(b"abc"), chunks: vec![], settled: true };
        cache.insert(path.clone(), known.clone());
        assert!(cache.known(&path, &key(5)).is_some());
        assert!(cache.known(&path, &key(6)).is_none());
        assert!(cache.known(&path, &StatKey { ino: 9, ..key(5) }).is_none());
        assert!(cache.known(&path, &StatKey { mode: 0o104_644, ..key(5) }).is_none());
        cache.insert(path.clone(), Known { settled: false, ..known });
        assert!(cache.known(&path, &key(5)).is_none());
    }

    #[test]
    fn it_survives_the_disk_and_garbage_is_nothing() {
        let mut cache = StatCache::new();
        let digest = Digest::of_bytes(b"abc");
        let chunks = vec![Chunk { digest, len: 3 }];
        let known = Known { stat: key(5), digest, chunks, settled: true };
        cache.insert(RelPath::parse(b"a/\xff").unwrap(), known);
        let bytes = cache.encode().unwrap();
        assert_eq!(StatCache::decode(&bytes), cache);
        assert!(StatCache::decode(&bytes[..bytes.len() - 1]).is_empty());
        assert!(StatCache::decode(b"garbage").is_empty());
    }
}
