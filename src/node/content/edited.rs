//! What stands in the live tree beside its version when the next one comes: edits.
//! They are kept in it or kept aside, and are never just gone.
//!
//! In a window in automatic mode an edit that the next version does not touch stays
//! as it is. Everything else that differs is drift: it gives way to the version.

use std::{collections::VecDeque, path::Path, sync::Arc};

use super::{Active, App, Content, ContentError, LIVE, Terms, Work, look::Sink};
use crate::{
    base::{
        Digest, RelPath,
        merge::{Merged, merge},
        tree::{Change, Entry, Node, Tree, changes, same},
    },
    driver::{
        DriverError, Repaired, Scan,
        files::{self, IgnoreRules, StatCache, StatKey, WorkDir, cache::Known},
    },
};

/// The live tree as it was seen right before a switch.
pub(super) struct Seen {
    /// What its version is, or the next one where that was taken from it.
    base: Arc<Tree>,
    /// What stood there.
    scan: Scan,
    cache: StatCache,
    /// What is to be live next.
    pub wanted: Tree,
    /// Whether edits stay.
    keep: bool,
    pub edits: Edits,
}

/// What became of edits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// As they were edited: the version does not touch them.
    pub kept: Vec<RelPath>,
    /// Kept aside: the version has something else there.
    pub aside: Vec<RelPath>,
}

impl Edits {
    /// Each path once, whatever was found out twice.
    fn tidy(&mut self) {
        for list in [&mut self.kept, &mut self.aside] {
            list.sort();
            list.dedup();
        }
    }
}

impl Seen {
    /// The one step in which the live tree becomes what is wanted, or none at all where
    /// it is that already, as on the member that edited it. A single file or link that
    /// is put, replaced or taken away is as atomic as the exchange of whole trees, and
    /// costs nothing for the rest.
    pub fn at_most_one_step(&self) -> Option<Vec<Change>> {
        let list = changes(&self.scan.tree, &self.wanted);
        let is_file = |node: Option<&Node>| !matches!(node, Some(Node::Directory { .. }));
        let of_file = |change: &Change| {
            is_file(self.scan.tree.get(change.path())) && is_file(self.wanted.get(change.path()))
        };
        let is_one = list.len() <= 1 && list.iter().all(of_file);
        (is_one && self.scan.strange.is_empty()).then_some(list)
    }
}

impl App {
    /// The live tree was this, under this version. False, and nothing is remembered, where
    /// we have changed it since it had this `generation`.
    pub(super) fn remember_taken(&self, generation: u64, version: u64, root: Digest) -> bool {
        let mut work = super::locked(&self.work);
        if work.generation != generation {
            return false;
        }
        let (under, taken) = &mut work.taken;
        if *under != version {
            (*under, *taken) = (version, VecDeque::new());
        }
        if taken.len() == super::TAKEN_MAX {
            taken.pop_front();
        }
        taken.push_back(root);
        true
    }

    /// Whether it was.
    fn was_taken(&self, version: u64, root: Digest) -> bool {
        let (under, taken) = &super::locked(&self.work).taken;
        *under == version && taken.contains(&root)
    }
}

impl Content {
    /// Looks at the live tree right before `next`, whose content is `theirs`, takes its
    /// place. Nothing where it can't be told what was edited: another path, other
    /// rules, no tree or a lost listing.
    pub(super) fn see(
        &self,
        cell: &App,
        before: Option<&Active>,
        next: &Active,
        theirs: &Tree,
        Terms { keep_edits: keep, own, .. }: Terms<'_>,
    ) -> Result<Option<Seen>, ContentError> {
        let Some(before) = before.filter(|b| b.live == next.live && b.ignore == next.ignore) else {
            return Ok(None);
        };
        let Some(base) = self.inner.store.tree(&before.root)? else { return Ok(None) };
        let rules = IgnoreRules::new(&before.ignore)?;
        let live = &next.live;
        let (mut scan, mut cache) = match self.glance(cell, before)? {
            Some((mut scan, cache)) => {
                scan.fit(&base)?;
                (scan, cache)
            }
            None => {
                let mut cache = (*super::locked(&cell.work).cache).clone();
                let scan = self.look_at(live, &rules, &base, &mut cache, false)?;
                let Some(scan) = scan else { return Ok(None) };
                (scan, cache)
            }
        };
        // It was taken from this very tree: an edit is what was changed since, as by a program
        // that empties a file before it writes it. What somebody else published is not, even if
        // the tree was the same for a while: it would be undone by what stands here by now.
        let own = keep && own && cell.was_taken(before.version, next.root);
        let base = if own { Arc::new(theirs.clone()) } else { base };
        let (mut wanted, mut edits) = (theirs.clone(), Edits::default());
        if scan.tree.root() != base.root() {
            (wanted, edits) = reconcile(&base, &scan.tree, theirs, keep);
        }
        if !edits.kept.is_empty() {
            // Their content must be in the store, from where all content is put in place.
            match self.look_at(live, &rules, &base, &mut cache, true)? {
                Some(again) => scan = again,
                None => return Ok(None),
            }
            (wanted, edits) = reconcile(&base, &scan.tree, theirs, keep);
        }
        Ok(Some(Seen { base, scan, cache, wanted, keep, edits }))
    }

    /// What stands where `next` is to be live although nothing of ours is, if it is
    /// `theirs` already, in every byte: then it can stay as it is.
    pub(super) fn see_as_it_is(
        &self,
        next: &Active,
        theirs: &Tree,
    ) -> Result<Option<Seen>, ContentError> {
        let rules = IgnoreRules::new(&next.ignore)?;
        let mut cache = StatCache::new();
        let scan = self.look_at(&next.live, &rules, theirs, &mut cache, false)?;
        let same = |scan: &Scan| scan.strange.is_empty() && scan.tree.root() == theirs.root();
        Ok(scan.filter(same).map(|scan| Seen {
            base: Arc::new(theirs.clone()),
            scan,
            cache,
            wanted: theirs.clone(),
            keep: false,
            edits: Edits::default(),
        }))
    }

    /// What stands at `place`; with `take_in` its content is in the store afterwards.
    fn look_at(
        &self,
        place: &Path,
        rules: &IgnoreRules,
        base: &Tree,
        cache: &mut StatCache,
        take_in: bool,
    ) -> Result<Option<Scan>, ContentError> {
        let mut sink = take_in.then(|| Sink::new(&self.inner.store));
        let Some(mut scan) = seen(place, rules, cache, sink.as_mut())? else { return Ok(None) };
        if let Some(mut sink) = sink {
            sink.commit()?;
        }
        scan.fit(base)?;
        Ok(Some(scan))
    }

    /// Carries out `list`, which is at most one step. The caller holds `area`, and `work`.
    pub(super) fn step(
        &self,
        work: &mut Work,
        next: Active,
        seen: Seen,
        list: &[Change],
    ) -> Result<Edits, ContentError> {
        let aside = WorkDir::open(&next.live)?.aside();
        work.generation += 1;
        let mut edits = seen.edits;
        if !list.is_empty() {
            let done = files::repair(&next.live, list, &[], self, &aside)?;
            forget_versions(&done, &seen.base, &mut edits)?;
            edits.tidy();
        }
        let mut cache = seen.cache;
        if let [change] = list
            && let Change::Set(entry) | Change::Add(entry) = change
            && let Node::File { digest, chunks, .. } = &entry.node
            && let Ok(stat) = rustix::fs::lstat(next.live.join(entry.path.to_path()))
        {
            let (digest, chunks, stat) = (*digest, chunks.clone(), StatKey::of(&stat));
            // The gateway may serve it; a scan reads it once more.
            cache.insert(entry.path.clone(), Known { stat, digest, chunks, settled: false });
        }
        let app = next.app.clone();
        work.active = Some(next);
        work.cache = Arc::new(cache);
        self.save(&app, work, None)?;
        Ok(edits)
    }

    /// After the trees were exchanged: what was edited lies in the one before, at
    /// `old`. What came since it was seen is brought over as well.
    pub(super) fn bring_over(
        &self,
        cell: &App,
        next: &Active,
        seen: Seen,
        old: &Path,
    ) -> Result<Edits, ContentError> {
        let Seen { base, scan, mut cache, wanted, keep, mut edits } = seen;
        let rules = IgnoreRules::new(&next.ignore)?;
        let late = self.look_at(old, &rules, &base, &mut cache, keep)?;
        let aside_dir = WorkDir::open(&next.live)?.aside();
        if let Some(late) = late.filter(|late| late.tree.root() != scan.tree.root()) {
            let (merged, more) = reconcile(&scan.tree, &late.tree, &wanted, keep);
            let list = changes(&wanted, &merged);
            if !list.is_empty() {
                super::locked(&cell.work).generation += 1;
                let done = files::repair(&next.live, &list, &[], self, &aside_dir)?;
                forget_versions(&done, &wanted, &mut edits)?;
            }
            edits.kept.extend(more.kept);
            edits.aside.extend(more.aside);
        }
        edits.tidy();
        files::aside::keep(old, &edits.aside, &aside_dir)?;
        Ok(edits)
    }

    /// After a crash between a switch from `before` to `next` and the end of
    /// [`Content::bring_over`]: what was edited and is not live is kept aside. The
    /// next switch removes the tree that it lies in.
    pub(super) fn keep_unseen(
        &self,
        before: &Active,
        next: &Active,
        cache: &StatCache,
    ) -> Result<(), ContentError> {
        if before.live != next.live || before.ignore != next.ignore {
            return Ok(()); // as where nothing crashed: see `see`
        }
        let Some(base) = self.inner.store.tree(&before.root)? else { return Ok(()) };
        let rules = IgnoreRules::new(&before.ignore)?;
        let area = WorkDir::open(&next.live)?;
        let look = |place: &Path| self.look_at(place, &rules, &base, &mut cache.clone(), false);
        let (Some(old), Some(live)) = (look(&area.old())?, look(&next.live)?) else {
            return Ok(());
        };
        let (_, edits) = reconcile(&base, &old.tree, &live.tree, false);
        files::aside::keep(&area.old(), &edits.aside, &area.aside())?;
        Ok(())
    }
}

/// What is to be live, and what becomes of what `ours` changed in `base`.
fn reconcile(base: &Tree, ours: &Tree, theirs: &Tree, keep: bool) -> (Tree, Edits) {
    if keep {
        let Merged { tree, kept, lost } = merge(base, ours, theirs);
        return (tree, Edits { kept, aside: lost });
    }
    let gone = |change: Change| match change {
        Change::Set(entry) | Change::Add(entry)
            if !matches!(entry.node, Node::Directory { .. })
                && !theirs.get(&entry.path).is_some_and(|node| same(node, &entry.node)) =>
        {
            Some(entry.path)
        }
        _ => None,
    };
    let aside = changes(base, ours).into_iter().filter_map(gone).collect();
    (theirs.clone(), Edits { kept: Vec::new(), aside })
}

fn seen(
    live: &Path,
    rules: &IgnoreRules,
    cache: &mut StatCache,
    sink: Option<&mut Sink<'_>>,
) -> Result<Option<Scan>, ContentError> {
    let sink = sink.map(|sink| sink as &mut dyn crate::driver::FileSink);
    match files::scan(live, rules, cache, LIVE, sink) {
        Ok(scan) => Ok(Some(scan)),
        Err(DriverError::Store(error)) => Err(DriverError::Store(error).into()),
        // What can't be read can't be told from what should be there: the
        // version is put in its place, as it always was.
        Err(error) => {
            tracing::debug!(live = %live.display(), %error, "edits of the live tree can't be told");
            Ok(None)
        }
    }
}

/// What a step replaced and kept aside is what `version` has there, which the store
/// holds: then it goes. Whatever else it is was edited since it was seen.
fn forget_versions(done: &Repaired, version: &Tree, edits: &mut Edits) -> Result<(), ContentError> {
    let Some(aside) = &done.aside else { return Ok(()) };
    let rules = IgnoreRules::new(&[])?;
    let kept = files::scan(aside, &rules, &mut StatCache::new(), LIVE, None)?;
    let is_versions = |Entry { path, node }: &Entry| {
        matches!(node, Node::Directory { .. })
            || version.get(path).is_some_and(|known| same(known, node))
    };
    let all = kept.tree.entries();
    let edited: Vec<RelPath> =
        all.filter(|entry| !is_versions(entry)).map(|entry| entry.path.clone()).collect();
    if edited.is_empty() && kept.strange.is_empty() {
        files::beneath::remove_all(aside)?;
    }
    edits.aside.extend(edited);
    Ok(())
}
