//! Hooks around a switch, as far as they concern content: whether a version has one, the
//! tree that it is to run in, and whether what changed was told to the one that runs after.
//!
//! Who runs them is the caller's: this hands over a tree and asks whether it may go on.

use std::{path::Path, sync::Arc};

use super::{Active, App, Content, ContentError, LIVE, Work, locked, made, state};
use crate::{
    base::{
        AppName, Digest,
        catalog::AppSpec,
        tree::{Change, Tree, changes},
    },
    driver::{
        files::{self, IgnoreRules, Reuse, StatCache, WorkDir},
        hooks::{Hook, Hooks},
    },
};

/// A version that may be about to be live.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// What it is, and where it is to be live.
    pub active: &'a Active,
    /// Where its tree stands, whole.
    pub tree: &'a Path,
    /// What is to be run in it.
    pub hook: &'a Hook,
}

/// Says whether a version may be switched to. It may take its time.
pub type Check<'a> = &'a dyn Fn(&Next<'_>) -> Result<(), Held>;

/// How a switch is to be made.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// Whether what was edited in the live tree stays there, as far as the version does
    /// not touch it. Otherwise it is kept aside.
    pub keep_edits: bool,
    /// Whether the version is an edit of the live tree of this very member: if it was taken
    /// from there, what stands there otherwise by now was edited since.
    pub own: bool,
    /// What is asked right before the switch to a version that has a hook for it. Without
    /// it such a hook is passed over.
    pub check: Option<Check<'a>>,
}

impl Terms<'_> {
    /// Edits stay, or don't, and nothing is asked.
    pub fn keeping(keep_edits: bool) -> Self {
        Self { keep_edits, ..Self::default() }
    }
}

/// Why a version is not switched to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is not fit. A sentence without its point.
    Unfit(String),
    /// Something newer came, or the member stops: nothing is known of it.
    GaveWay,
}

/// A change of a live tree that the hook after a switch has not been run for.
#[derive(Clone, Debug)]
pub struct Due {
    /// What is live.
    pub active: Active,
    /// Which change of the live tree it is.
    generation: u64,
}

impl Content {
    /// The hooks of `tree`, a version of `app`.
    pub(super) fn hooks_of(&self, app: &AppName, tree: &Tree) -> Result<Hooks, ContentError> {
        match made::read::<Hooks>(&self.inner.store, tree)? {
            Ok(hooks) => Ok(hooks.unwrap_or_default()),
            Err(why) => Err(ContentError::Definition { app: app.clone(), why }),
        }
    }

    /// Asks whether the version `next` may be live. Where its tree was `placed` for that,
    /// a hook that changed it has judged something else than what would be live.
    pub(super) fn ask(
        &self,
        next: &Next<'_>,
        check: Check<'_>,
        placed: Option<(&Tree, &StatCache)>,
    ) -> Result<(), ContentError> {
        let Active { app, version, ignore, .. } = next.active;
        let unfit = |why| ContentError::Held { app: app.clone(), version: *version, why };
        check(next).map_err(|held| match held {
            Held::Unfit(why) => unfit(why),
            Held::GaveWay => ContentError::GaveWay(app.clone()),
        })?;
        let Some((tree, cache)) = placed else { return Ok(()) };
        let rules = IgnoreRules::new(ignore)?;
        let mut scan = files::scan(next.tree, &rules, &mut cache.clone(), LIVE, None)?;
        scan.fit(tree)?;
        let changed = changes(tree, &scan.tree);
        match scan.strange.first().or(changed.first().map(Change::path)) {
            None => Ok(()),
            Some(path) => Err(unfit(format!(
                "its before-switch hook changed {path} in the tree that it was to look at: let it \
                 write elsewhere, or to what is ignored"
            ))),
        }
    }

    /// Tries whether the version with the content `root`, which is to become `number` of
    /// `app`, may be switched to: its tree is placed for as long as `check` takes. Nothing
    /// is done where it has no hook for that. Every byte must be in the store.
    pub fn try_out(
        &self,
        app: &AppName,
        number: u64,
        root: Digest,
        spec: &AppSpec,
        check: Check<'_>,
    ) -> Result<(), ContentError> {
        let _hold = self.inner.store.hold();
        let tree = self.tree(&root)?;
        let Some(hook) = self.hooks_of(app, &tree)?.before_switch else { return Ok(()) };
        let live = self.live_path(app, spec)?;
        let cell = self.app(app);
        let _trial = locked(&cell.trial);
        let ignore = spec.ignore.clone();
        let active = Active { app: app.clone(), version: number, sequence: 0, root, live, ignore };
        let area = WorkDir::open(&active.live)?;
        area.clear_trial()?;
        let Work { active: before, cache, .. } = locked(&cell.work).clone();
        let reuse = before.as_ref().map(|b| Reuse { live: &b.live, cache: &cache });
        let placed = files::place(&tree, self, reuse, &area.trial())?;
        let next = Next { active: &active, tree: &area.trial(), hook: &hook };
        let asked = self.ask(&next, check, Some((&tree, &placed.cache)));
        area.clear_trial()?;
        asked
    }

    /// Asks whether what was edited in the live tree of `app`, and is in the store as `root`,
    /// may become version `number`. It is looked at where it is. Nothing is done where it has
    /// no hook for that, or is the version that is live.
    pub fn check_edit(
        &self,
        app: &AppName,
        number: u64,
        root: Digest,
        check: Check<'_>,
    ) -> Result<(), ContentError> {
        let active = locked(&self.app(app).shown).active.clone();
        let Some(active) = active.filter(|active| active.root != root) else { return Ok(()) };
        let Some(hook) = self.hooks_of(app, &*self.tree(&root)?)?.before_switch else {
            return Ok(());
        };
        let active = Active { version: number, root, ..active };
        self.ask(&Next { active: &active, tree: &active.live, hook: &hook }, check, None)
    }

    /// What the hook after a switch is to be run for: the live tree of `app` changed, and
    /// it was not run since, as far as is known after a crash. Whether there is such a hook
    /// is another question.
    pub fn due(&self, app: &AppName) -> Option<Due> {
        let cell = self.app(app);
        let work = locked(&cell.work);
        let active = work.active.clone()?;
        let told = *locked(&cell.told) == Some((active.version, active.root));
        (!told).then_some(Due { active, generation: work.generation })
    }

    /// The hook after a switch was run for `due`. Unless the live tree changed since, that
    /// is kept.
    pub fn told(&self, due: &Due) -> Result<(), ContentError> {
        let cell = self.app(&due.active.app);
        let work = locked(&cell.work);
        let same = |active: &Active| {
            (active.version, active.root) == (due.active.version, due.active.root)
        };
        if work.generation == due.generation && work.active.as_ref().is_some_and(same) {
            let told = (due.active.version, due.active.root);
            state::save_told(&self.inner.state_dir, &due.active.app, told)?;
            *locked(&cell.told) = Some(told);
        }
        Ok(())
    }

    /// The live tree of `app` is about to be repaired: what was told of it is not true of
    /// what it will be. Durable when it returns.
    pub(super) fn untold(&self, app: &AppName, cell: &App) -> Result<(), ContentError> {
        if locked(&cell.told).take().is_some() {
            state::remove_told(&self.inner.state_dir, app)?;
        }
        Ok(())
    }

    /// Takes up what was told before this start, and removes what a trial left behind.
    pub(super) fn recover_hooked(&self, app: &AppName, cell: &Arc<App>) {
        *locked(&cell.told) = state::load_told(&self.inner.state_dir, app);
        let live = locked(&cell.work).active.as_ref().map(|active| active.live.clone());
        let left = live.filter(|live| WorkDir::path_of(live).join("trial").exists());
        if let Some(Err(error)) = left.map(|live| WorkDir::open(&live)?.clear_trial()) {
            tracing::warn!(%app, %error, "what a trial left behind could not be removed");
        }
    }
}
