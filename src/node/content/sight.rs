//! What was seen of a live tree that is watched: the kernel says where something changed
//! since, so a look there and nowhere else finds what all of it is.
//!
//! It is never the only look. A scan of the whole tree comes every few seconds, begins it
//! anew, and finds what no notice came of; where the kernel did not say where, or a
//! directory came or went, the whole tree is looked at at once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use super::{
    Active, App, Content, ContentError, LIVE, PUBLISH, Staged, locked, look::Sink, state,
    token::Mark,
};
use crate::{
    base::{AppName, RelPath, tree::changes},
    driver::{
        Mode, Scan,
        files::{self, IgnoreRules, StatCache},
    },
};

/// More edits than these are taken in by a scan of the whole tree.
const FEW: usize = 64;

/// What the live tree was.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// By the watch over it.
    mark: Weak<Mark>,
    /// So many changes were told of by then.
    seen: u64,
    /// By these rules.
    ignore: Vec<String>,
    /// As it was found, shells and all.
    scan: Scan,
}

/// A moment before a look at a whole tree that is watched.
pub(super) struct Before {
    mark: Weak<Mark>,
    seen: u64,
}

/// This was seen, unless somebody has seen more of it meanwhile.
fn see(cell: &App, sight: Sight) {
    let mut last = locked(&cell.sight);
    let is_later = |last: &Sight| last.mark.ptr_eq(&sight.mark) && last.seen > sight.seen;
    if last.as_ref().is_some_and(is_later) {
        return;
    }
    if let Some(mark) = sight.mark.upgrade() {
        mark.forget(sight.seen);
    }
    *last = Some(sight);
}

impl Content {
    /// To be asked before a look at the whole live tree: whatever changes after it is
    /// told of. Nothing where it is not watched.
    pub(super) fn before_look(&self, cell: &App, active: &Active) -> Option<Before> {
        let mark = locked(&cell.mark).upgrade()?;
        if state::inode_of(&active.live) != mark.inode {
            return None;
        }
        let seen = mark.changes(&active.live)?;
        Some(Before { mark: Arc::downgrade(&mark), seen })
    }

    /// The look found this.
    pub(super) fn after_look(&self, cell: &App, active: &Active, before: Before, scan: &Scan) {
        let Before { mark, seen } = before;
        let (ignore, scan) = (active.ignore.clone(), scan.clone());
        see(cell, Sight { mark, seen, ignore, scan });
    }

    /// What the live tree is by what was seen of it and a look at what changed since, and
    /// what is known of its files then. Nothing where that does not tell: then the whole
    /// tree is to be looked at, whatever the reason.
    pub(super) fn glance(
        &self,
        cell: &App,
        active: &Active,
    ) -> Result<Option<(Scan, StatCache)>, ContentError> {
        let Some(mark) = locked(&cell.mark).upgrade() else { return Ok(None) };
        let Some(sight) = locked(&cell.sight).clone() else { return Ok(None) };
        let is_its = sight.mark.upgrade().is_some_and(|its| Arc::ptr_eq(&its, &mark));
        if !is_its
            || sight.ignore != active.ignore
            || state::inode_of(&active.live) != mark.inode
            || mark.changes(&active.live).is_none()
        {
            return Ok(None);
        }
        let Some((seen, paths)) = mark.since(sight.seen) else { return Ok(None) };
        let mut cache = (*locked(&cell.work).cache).clone();
        if paths.is_empty() {
            return Ok(Some((sight.scan, cache)));
        }
        let rules = IgnoreRules::new(&active.ignore)?;
        let place = (active.live.as_path(), &rules);
        match files::rescan(place, &sight.scan, &paths, &mut cache, LIVE, None) {
            Ok(Some(scan)) => {
                see(cell, Sight { seen, scan: scan.clone(), ..sight });
                Ok(Some((scan, cache)))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                let live = active.live.display();
                tracing::debug!(%live, %error, "where it changed can't be looked at by itself");
                Ok(None)
            }
        }
    }

    /// Scans the live tree of `app` as [`Content::look`] does, where it changed only, if
    /// that tells what it is.
    pub(super) fn look_where_changed(
        &self,
        app: &AppName,
    ) -> Result<Option<(Active, Scan)>, ContentError> {
        let cell = self.app(app);
        let (active, generation) = {
            let work = locked(&cell.work);
            let Some(active) = work.active.clone() else { return Ok(None) };
            (active, work.generation)
        };
        if let Some((mut scan, cache)) = self.glance(&cell, &active)? {
            let mut work = locked(&cell.work);
            if work.generation == generation {
                if let Some(expected) = self.inner.store.tree(&active.root)? {
                    scan.fit(&expected)?;
                }
                if *work.cache != cache {
                    work.cache = Arc::new(cache);
                    self.show(&cell, &work)?;
                }
                return Ok(Some((active, scan)));
            }
        }
        self.look(app, Mode::Quick, None)
    }

    /// Takes what was edited in the live tree into the store, where a glance tells what
    /// that is. The tree is looked at twice, as always. Nothing where it takes more.
    pub(super) fn ingest_where_changed(
        &self,
        cell: &App,
        active: &Active,
    ) -> Result<Option<Staged>, ContentError> {
        let store = &self.inner.store;
        let _hold = store.hold();
        let Some(base) = store.tree(&active.root)? else { return Ok(None) };
        if !store.whole(&active.root)? {
            return Ok(None);
        }
        let Some((mut scan, mut cache)) = self.glance(cell, active)? else { return Ok(None) };
        scan.fit(&base)?;
        let edited = changes(&base, &scan.tree);
        if edited.len() > FEW || !scan.strange.is_empty() || scan.tree.is_empty() {
            return Ok(None);
        }
        // The version with the edits in it: what was not edited stays cut as the store has it.
        let paths: BTreeSet<RelPath> = edited.iter().map(|c| c.path().clone()).collect();
        let version = Scan { tree: (*base).clone(), ..Scan::default() };
        let rules = IgnoreRules::new(&active.ignore)?;
        let place = (active.live.as_path(), &rules);
        let mut sink = Sink::new(store);
        let taken = files::rescan(place, &version, &paths, &mut cache, PUBLISH, Some(&mut sink));
        // What can't be published is told by a scan of the whole tree.
        let Ok(Some(taken)) = taken else { return Ok(None) };
        sink.commit()?;
        let Some((mut again, _)) = self.glance(cell, active)? else { return Ok(None) };
        again.fit(&base)?;
        if taken.tree.root() != again.tree.root() || !again.strange.is_empty() {
            return Ok(None);
        }
        let root = store.put_tree_like(&taken.tree, &active.root)?;
        let (files, bytes) = (taken.tree.files(), taken.tree.bytes());
        Ok(Some(Staged { root, files, bytes }))
    }
}
