//! The files driver: directories of files as content. It scans them into
//! trees, materialises trees beside them, switches from one whole tree to the
//! next, repairs them in place, and undoes what a crash interrupted.
//!
//! **Invariant:** nothing that comes from the network names a place outside
//! of the live tree and the work directory beside it (`beneath`), and nothing
//! that a person or a program wrote is destroyed before it was kept aside.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{ChunkSource, Driver, DriverError, FileSink, How, Repaired, Scan, Watch};
use crate::base::{RelPath, tree::Change};

pub mod aside;
pub mod beneath;
pub mod cache;
mod carry;
pub mod ignore;
pub mod place;
pub mod repair;
pub mod scan;
pub mod switch;
#[cfg(test)]
mod tests;
mod watch;

pub use aside::{CopiedOut, Kept, copy_out, prune_aside};
pub use cache::{StatCache, StatKey};
pub use ignore::IgnoreRules;
pub use place::{Placed, Reuse, place};
pub use repair::repair;
pub use scan::{rescan, scan, sign};
pub use switch::{Recovered, Retired, WorkDir, recover, switch};
pub use watch::{Told, notice_name, watch_with_notices};

/// One live tree, as the [`Driver`] of its files.
#[derive(Debug)]
pub struct Files {
    live: PathBuf,
    rules: IgnoreRules,
    cache: StatCache,
}

impl Files {
    /// The tree at `live` with what is known of it.
    pub fn new(live: PathBuf, rules: IgnoreRules, cache: StatCache) -> Self {
        Self { live, rules, cache }
    }

    /// Where it stands.
    pub fn live(&self) -> &Path {
        &self.live
    }

    /// What is known of it.
    pub fn cache(&self) -> &StatCache {
        &self.cache
    }

    /// What is known of it, to be kept.
    pub fn into_cache(self) -> StatCache {
        self.cache
    }
}

impl Driver for Files {
    fn scan(&mut self, how: How, sink: Option<&mut dyn FileSink>) -> Result<Scan, DriverError> {
        scan(&self.live, &self.rules, &mut self.cache, how, sink)
    }

    fn read(&self, path: &RelPath) -> Result<Box<dyn Read + Send>, DriverError> {
        let root = beneath::Root::open(&self.live)?;
        let file = root.file(path).map_err(|e| DriverError::io("open", &root.at(path), e))?;
        let meta = file.metadata().map_err(|e| DriverError::io("read", &root.at(path), e))?;
        if meta.is_file() {
            return Ok(Box::new(file));
        }
        Err(DriverError::Strange { path: root.at(path), kind: "no file" })
    }

    fn apply(
        &mut self,
        changes: &[Change],
        strange: &[RelPath],
        source: &dyn ChunkSource,
    ) -> Result<Repaired, DriverError> {
        let aside = WorkDir::path_of(&self.live).join("aside");
        repair(&self.live, changes, strange, source, &aside)
    }

    fn watch(&self, changed: Box<dyn Fn() + Send>) -> Result<Watch, DriverError> {
        let told = move |told| {
            if !matches!(told, Told::Noticed(_)) {
                changed();
            }
        };
        watch_with_notices(&self.live, self.rules.clone(), Box::new(told))
    }
}
