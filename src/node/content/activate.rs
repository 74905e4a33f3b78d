//! Activation: where the live tree stands, how the next one is put there.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Activated, Active, App, Check, Content, ContentError, Next, Terms, Work, edited::Seen, locked,
    state, state::Saved,
};
use crate::{
    base::{
        AppName,
        catalog::AppSpec,
        tree::{Change, Node, Tree, changes},
    },
    driver::{
        DriverError, Mode, Repaired,
        files::{self, IgnoreRules, Reuse, StatCache, WorkDir},
    },
};

impl Content {
    /// Where the live tree of `app` stands.
    pub(super) fn live_path(&self, app: &AppName, spec: &AppSpec) -> Result<PathBuf, ContentError> {
        let Some(text) = &spec.path else {
            return Ok(self.inner.live_dir.join(app.as_str()));
        };
        let path = PathBuf::from(text);
        let others = self.applications();
        let touches = |other: &Path| path.starts_with(other) || other.starts_with(&path);
        let why = if !path.is_absolute() || text.contains('\0') {
            "it is not absolute"
        } else if path.components().any(|c| c.as_os_str() == "..") {
            "it has a component .."
        } else if path.components().count() < 3 {
            "it is the root of the system or stands right in it, and is exchanged as a whole; \
             name a directory at least one level deeper"
        } else if touches(&self.inner.state_dir) || touches(&self.inner.live_dir) {
            "it is in the data directory, or holds it"
        } else if others.iter().any(|o| o.app != *app && touches(&o.live)) {
            "it is in the live tree of another application, or holds it"
        } else {
            return Ok(path.components().collect());
        };
        Err(ContentError::Path { path, why })
    }

    /// Places the tree of `next` and switches to it, unless the check of its terms says no.
    /// The caller holds `area`.
    pub(super) fn put_in_place(
        &self,
        cell: &App,
        next: Active,
        terms: Terms<'_>,
    ) -> Result<Activated, ContentError> {
        let tree = self.tree(&next.root)?;
        let rules = IgnoreRules::new(&next.ignore)?;
        let Work { active: before, cache, .. } = locked(&cell.work).clone();
        self.refuse_ignored(before.as_ref(), &next, &tree, &rules)?;
        let _hold = self.inner.store.hold();
        if !self.inner.store.whole(&next.root)? {
            return Err(ContentError::NotHere(next.root));
        }
        let hook = match terms.check {
            Some(check) => self.hooks_of(&next.app, &tree)?.before_switch.map(|hook| (check, hook)),
            None => None,
        };
        let edits_give_way = Terms { keep_edits: false, ..terms };
        let live = &next.live;
        files::recover(live)?;
        let area = WorkDir::open(live)?;
        let seen = match &before {
            Some(_) => self.see(cell, before.as_ref(), &next, &tree, terms)?,
            None => self.see_as_it_is(&next, &tree)?,
        };
        let seen = match seen.map(|seen| (seen.at_most_one_step(), seen)) {
            // What is live is what is wanted: the hook can run there.
            Some((Some(list), seen)) if list.is_empty() && hook.is_some() => {
                if let Some((check, hook)) = &hook {
                    let here = Next { active: &next, tree: live, hook };
                    // Edits may come meanwhile: they are no doing of the hook.
                    if !self.fits(&here, *check, None, &seen.wanted)? {
                        return self.put_in_place(cell, next, edits_give_way);
                    }
                }
                return self.put_one(cell, next, seen, &list);
            }
            // A hook is to see the whole tree beside the live one, whatever differs.
            Some((Some(list), seen)) if hook.is_none() => {
                return self.put_one(cell, next, seen, &list);
            }
            other => other.map(|(_, seen)| seen),
        };
        area.clear()?;
        let reuse = before.as_ref().map(|b| Reuse { live: &b.live, cache: &cache });
        let wanted = seen.as_ref().map_or(&*tree, |seen| &seen.wanted);
        let placed = files::place(wanted, self, reuse, &area.next())?;
        if let Some((check, hook)) = &hook {
            let there = Next { active: &next, tree: &area.next(), hook };
            let fits = self.fits(&there, *check, Some(&placed.cache), wanted);
            if !matches!(fits, Ok(true)) {
                area.clear()?;
            }
            if !fits? {
                return self.put_in_place(cell, next, edits_give_way);
            }
        }
        let ours = before.as_ref().is_some_and(|active| active.live == *live);
        let foreign = !ours && std::fs::read_dir(live).is_ok_and(|mut d| d.next().is_some());
        let pending = (next.clone(), state::inode_of(&area.next()));

        let mut work = locked(&cell.work);
        self.save(&next.app, &work, Some(pending.clone()))?;
        #[cfg(test)]
        super::tests::before_switch();
        // The last moment to give way to something newer.
        if let Err(superseded) = cell.fence(&next.app, next.sequence, next.version) {
            self.save(&next.app, &work, None)?;
            area.clear()?;
            return Err(superseded);
        }
        work.generation += 1;
        let retired = match files::switch(live, &area.next(), &rules, foreign) {
            Ok(retired) => retired,
            Err(error) => self.make_good(cell, &mut work, pending, error)?,
        };
        let mut activated = Activated {
            live: live.clone(),
            shared: placed.shared,
            carried: retired.carried,
            left: retired.left,
            before: retired.path,
            ..Activated::default()
        };
        let app = next.app.clone();
        work.active = Some(next.clone());
        work.cache = Arc::new(placed.cache);
        let edited = seen.zip(activated.before.clone());
        if edited.is_none() {
            self.save(&app, &work, None)?;
        }
        self.show(cell, &work)?;
        self.keep_cache(&app, cell, &work.cache, true);
        drop(work);
        if let Some((seen, old)) = edited {
            // It is switched, whatever comes of this. The record says that it is under
            // way until then: should this end in a crash, what starts next sees to it.
            match self.bring_over(cell, &next, seen, &old) {
                Ok(edits) => (activated.edits, activated.settled) = (edits, true),
                Err(error) => {
                    let old = old.display();
                    tracing::error!(%app, %error, "what was edited is still in {old} only");
                }
            }
            self.save(&app, &locked(&cell.work), None)?;
            self.note_merged(&next, &mut activated)?;
        }
        Ok(activated)
    }

    /// Whether `next` may be live as the tree `wanted`; false where only what was edited
    /// here can be what is not fit, so that it may be without.
    fn fits(
        &self,
        next: &Next<'_>,
        check: Check<'_>,
        placed: Option<&StatCache>,
        wanted: &Tree,
    ) -> Result<bool, ContentError> {
        match self.ask(next, check, placed.map(|cache| (wanted, cache))) {
            Err(ContentError::Held { .. }) if wanted.root() != next.active.root => Ok(false),
            asked => asked.map(|()| true),
        }
    }

    /// What is wanted differs from what is live in one file at most: that is put in
    /// place by itself. The caller holds `area`.
    fn put_one(
        &self,
        cell: &App,
        next: Active,
        seen: Seen,
        list: &[Change],
    ) -> Result<Activated, ContentError> {
        let mut work = locked(&cell.work);
        cell.fence(&next.app, next.sequence, next.version)?;
        let edits = self.step(&mut work, next.clone(), seen, list)?;
        self.show(cell, &work)?;
        drop(work);
        let live = next.live.clone();
        let mut activated = Activated { live, edits, settled: true, ..Activated::default() };
        self.note_merged(&next, &mut activated)?;
        Ok(activated)
    }

    /// Says what is live where that is not the version.
    fn note_merged(&self, next: &Active, activated: &mut Activated) -> Result<(), ContentError> {
        if !activated.edits.kept.is_empty()
            && let Some((_, scan)) = self.look(&next.app, Mode::Quick, None)?
        {
            activated.merged = Some(scan.root());
        }
        Ok(())
    }

    /// The switch failed with `error`. It may have happened and only the
    /// carrying over failed: which tree is live, and what is left to do, is
    /// found out like after a crash, now or before the next activation. An
    /// error is returned unless everything is done now.
    fn make_good(
        &self,
        cell: &App,
        work: &mut Work,
        pending: (Active, u64),
        error: DriverError,
    ) -> Result<files::Retired, ContentError> {
        let (app, next) = (pending.0.app.clone(), pending.0.clone());
        let active = work.active.clone();
        work.unrecovered = Some(Saved { app: app.clone(), active, pending: Some(pending) });
        let recovered = self.recover(work);
        self.save(&app, work, None)?;
        if recovered.is_ok() && work.active.as_ref() == Some(&next) {
            return Ok(files::Retired::default());
        }
        work.cache = Arc::default();
        self.show(cell, work)?;
        Err(error.into())
    }

    /// The live tree is gone, or a file stands there: the file is kept aside,
    /// and the tree put in place anew. The caller holds `area`.
    pub(super) fn put_back(
        &self,
        cell: &App,
        active: Active,
        want: &Tree,
    ) -> Result<Repaired, ContentError> {
        let mut done = Repaired::default();
        let stands = std::fs::symlink_metadata(&active.live);
        if stands.is_ok_and(|meta| !meta.is_dir() && !meta.is_symlink()) {
            done.aside = Some(WorkDir::open(&active.live)?.keep_live_aside()?);
        }
        {
            let mut work = locked(&cell.work);
            work.goes_back();
            // Nothing of it is there to be shared.
            work.cache = Arc::default();
        }
        self.put_in_place(cell, active, Terms::default())?;
        done.added = want.entries().map(|entry| entry.path.clone()).collect();
        Ok(done)
    }

    /// A tree that holds what its own version ignores would never be seen whole
    /// by a scan. What was looked at for the version before is not looked at again.
    fn refuse_ignored(
        &self,
        before: Option<&Active>,
        next: &Active,
        tree: &Tree,
        rules: &IgnoreRules,
    ) -> Result<(), ContentError> {
        let before = before.filter(|before| before.ignore == next.ignore);
        let known = match before {
            Some(before) => self.inner.store.tree(&before.root)?,
            None => None,
        };
        let new = changes(&known.unwrap_or_default(), tree);
        let ignored = new.iter().filter_map(Change::entry).find(|entry| {
            let is_directory = matches!(entry.node, Node::Directory { .. });
            rules.matches(&entry.path, is_directory)
        });
        match ignored {
            Some(entry) => Err(ContentError::Ignored(entry.path.clone())),
            None => Ok(()),
        }
    }
}
