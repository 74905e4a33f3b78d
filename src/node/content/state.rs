//! What this member remembers of its live trees: which version is active,
//! which switch was under way, for which the hook after it was run, and the stat caches.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::ContentError;
use crate::{
    base::{
        AppName, Digest, limits,
        wire::{self, Kind},
    },
    driver::{
        DriverError,
        files::{self, StatCache},
    },
    store::{StoreError, record},
};

/// What is active of one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// The application.
    pub app: AppName,
    /// The number of its version.
    pub version: u64,
    /// The sequence of the catalog that it was activated by.
    pub sequence: u64,
    /// The signature of its content.
    pub root: Digest,
    /// Where it is live.
    pub live: PathBuf,
    /// Patterns of what belongs to nobody's vote.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::PATTERNS_MAX }>")]
    pub ignore: Vec<String>,
}

/// The record of one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub app: AppName,
    pub active: Option<Active>,
    /// A switch under way, with the inode of its tree: it has happened when
    /// the live path leads there. It is under way until what was edited in
    /// the tree before is in the new one, or aside.
    pub pending: Option<(Active, u64)>,
}

impl Saved {
    /// Finishes or undoes what was under way.
    pub fn recover(&self) -> Result<(), DriverError> {
        let pending = self.pending.as_ref().map(|(next, _)| next);
        for active in self.active.iter().chain(pending) {
            files::recover(&active.live)?;
        }
        Ok(())
    }

    /// What is active, by where the live path leads.
    pub fn active_now(&self) -> Option<Active> {
        self.happened().or(self.active.as_ref()).cloned()
    }

    /// The version before and the new one, where a switch has happened and
    /// the edits of the one before were not seen to.
    pub fn switched(&self) -> Option<(&Active, &Active)> {
        Some((self.active.as_ref()?, self.happened()?))
    }

    fn happened(&self) -> Option<&Active> {
        let (next, inode) = self.pending.as_ref()?;
        (*inode != 0 && inode_of(&next.live) == *inode).then_some(next)
    }
}

/// The records of all applications.
pub(super) fn load_all(dir: &Path) -> Result<Vec<Saved>, ContentError> {
    let mut all = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| DriverError::io("read", dir, e))?;
    for entry in entries {
        let path = entry.map_err(|e| DriverError::io("read", dir, e))?.path();
        if path.extension().is_none_or(|extension| extension != "active") {
            continue;
        }
        let Some(bytes) = record::load(&path)? else { continue };
        let saved = wire::decode::<Saved>(Kind::Record, &bytes);
        all.push(
            saved.map_err(|_| StoreError::Torn { path, why: "it is no record of a live tree" })?,
        );
    }
    Ok(all)
}

/// The version of each application that is live, by the records in `dir`.
pub fn live_versions(dir: &Path) -> Result<BTreeMap<AppName, u64>, ContentError> {
    let active = load_all(dir)?.into_iter().filter_map(|saved| saved.active_now());
    Ok(active.map(|active| (active.app, active.version)).collect())
}

/// This member joins another cluster with what it holds: version numbers and
/// catalog sequences of the one before mean nothing there. The live trees stay
/// as they are until that cluster's versions are switched to.
pub fn begin_anew(dir: &Path) -> Result<(), ContentError> {
    for mut saved in load_all(dir)? {
        let pending = saved.pending.as_mut().map(|(next, _)| next);
        for active in saved.active.iter_mut().chain(pending) {
            (active.sequence, active.version) = (0, 0);
        }
        remove_told(dir, &saved.app)?;
        save(dir, &saved)?;
    }
    Ok(())
}

pub(super) fn save(dir: &Path, saved: &Saved) -> Result<(), ContentError> {
    Ok(record::save(&at(dir, &saved.app, "active"), &wire::encode(Kind::Record, saved))?)
}

pub(super) fn remove(dir: &Path, app: &AppName) -> Result<(), ContentError> {
    record::remove(&at(dir, app, "active"))?;
    remove_told(dir, app)?;
    Ok(record::remove(&at(dir, app, "stats"))?)
}

/// The change that the hook after a switch was run for last; none if that is lost, which
/// runs it once more.
pub(super) fn load_told(dir: &Path, app: &AppName) -> Option<(u64, Digest)> {
    let bytes = record::load(&at(dir, app, "told")).ok().flatten()?;
    wire::decode(Kind::Record, &bytes).ok()
}

pub(super) fn save_told(
    dir: &Path,
    app: &AppName,
    told: (u64, Digest),
) -> Result<(), ContentError> {
    Ok(record::save(&at(dir, app, "told"), &wire::encode(Kind::Record, &told))?)
}

pub(super) fn remove_told(dir: &Path, app: &AppName) -> Result<(), ContentError> {
    Ok(record::remove(&at(dir, app, "told"))?)
}

/// The stat cache; empty if it is lost, which costs one scan.
pub(super) fn load_cache(dir: &Path, app: &AppName) -> StatCache {
    match record::load(&at(dir, app, "stats")) {
        Ok(Some(bytes)) => StatCache::decode(&bytes),
        Ok(None) | Err(_) => StatCache::new(),
    }
}

/// What is on disk of a stat cache.
#[derive(Debug, Default)]
pub(super) struct KeptCache {
    cache: Arc<StatCache>,
    at: Option<Instant>,
}

/// How often a stat cache is kept that changes all the time.
const KEPT_EVERY: Duration = Duration::from_secs(30);

impl KeptCache {
    /// This one was loaded.
    pub fn loaded(cache: &Arc<StatCache>) -> Self {
        Self { cache: Arc::clone(cache), at: None }
    }

    /// This one was saved a moment ago.
    pub fn saved(cache: &Arc<StatCache>) -> Self {
        Self { cache: Arc::clone(cache), at: Some(Instant::now()) }
    }

    /// Whether `cache` is to be saved.
    pub fn is_due(&self, cache: &Arc<StatCache>, now: bool) -> bool {
        (now || self.at.is_none_or(|at| at.elapsed() >= KEPT_EVERY))
            && !Arc::ptr_eq(&self.cache, cache)
            && self.cache != *cache
    }
}

/// Keeps the stat cache. A failure is only told: it costs one scan.
pub(super) fn save_cache(dir: &Path, app: &AppName, cache: &StatCache) {
    let path = at(dir, app, "stats");
    let saved = match cache.encode() {
        Some(bytes) => record::save(&path, &bytes),
        None => record::remove(&path),
    };
    if let Err(error) = saved {
        tracing::warn!(%app, %error, "the stat cache was not kept; the next start reads everything");
    }
}

/// The inode that `path` leads to; 0 for none.
pub(super) fn inode_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.ino())
}

fn at(dir: &Path, app: &AppName, extension: &str) -> PathBuf {
    dir.join(format!("{app}.{extension}"))
}
