//! Content on this member: the store and the files driver as one, so that the
//! core's effects about content are one call each.
//!
//! It decides nothing. It carries out, and it refuses what came too late: an
//! activation is fenced by the catalog's sequence, checked again right before
//! the trees change places. All calls block.
//!
//! **Invariant:** what [`Content::applications`] says is active is what the
//! live path led to when it was last switched, whatever crash came between.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    base::{
        AppName, Digest, RelPath,
        catalog::AppSpec,
        tree::{Change, Chunk, Node, Tree, changes},
    },
    driver::{
        ChunkSource, DriverError, How, Mode, Purpose, Repaired, Scan,
        files::{self, CopiedOut, IgnoreRules, Kept, StatCache, WorkDir},
    },
    store::{ContentStore, Freed, StoreError},
};

mod activate;
mod edited;
mod error;
mod hooked;
mod look;
mod made;
mod sight;
mod site;
pub(super) mod source;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod withdraw;

pub use edited::Edits;
pub use error::ContentError;
pub use hooked::{Check, Due, Held, Next, Terms};
pub use made::{Defined, Made};
pub(super) use made::{LISTING_WITHIN, file, put};
pub use site::Site;
pub use state::Active;
pub use state::{begin_anew, live_versions};
pub use token::Token;
pub use withdraw::Withdrawn;

use state::Saved;

/// Content of one member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Content {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: ContentStore,
    live_dir: PathBuf,
    state_dir: PathBuf,
    apps: Mutex<BTreeMap<AppName, Arc<App>>>,
    /// What is known of the directories that were published last, the newest
    /// last: what did not change since is not read again.
    sources: Mutex<Vec<(PathBuf, StatCache)>>,
}

/// Directories of which that is remembered, until the next start.
const SOURCES_MAX: usize = 4;

/// One application here.
#[derive(Debug, Default)]
struct App {
    /// Held by whoever uses the work directory, for as long as that takes.
    area: Mutex<()>,
    /// Held by whoever tries a version before it is published.
    trial: Mutex<()>,
    /// For which version the hook after a switch was run last.
    told: Mutex<Option<(u64, Digest)>>,
    /// Held for moments, and for the switch itself. Who changes what is
    /// active holds `area`, too.
    work: Mutex<Work>,
    /// What others see, behind a lock of its own, so that no request and no
    /// status waits for a switch.
    shown: Mutex<Shown>,
    /// The newest activation asked for, as (sequence, version): one that
    /// waits or is at work gives way to it.
    wanted: Mutex<(u64, u64)>,
    /// Of the watch over its live tree, while there is one.
    mark: Mutex<Weak<token::Mark>>,
    /// Whether there will be one.
    soon: Mutex<token::Soon>,
    /// What the last comparison found.
    in_step: Mutex<Option<token::InStep>>,
    /// What was seen of the live tree while it is watched.
    sight: Mutex<Option<sight::Sight>>,
    /// The stat cache as it is on disk.
    kept: Mutex<state::KeptCache>,
}

#[derive(Clone, Debug, Default)]
struct Work {
    active: Option<Active>,
    cache: Arc<StatCache>,
    /// Counts changes of the live tree by us: what was learned about it
    /// before is worth nothing after.
    generation: u64,
    /// What a crash interrupted and could not be finished yet.
    unrecovered: Option<Saved>,
    /// What the live tree was whenever it was taken into the store, and under which version.
    taken: (u64, VecDeque<Digest>),
}

/// Signatures that are remembered of that, the newest: one of them may be the next version.
const TAKEN_MAX: usize = 256;

/// For how long pages of an earlier version find the files that they were made with.
const SKEW: Duration = Duration::from_secs(600);
/// Earlier versions that are asked.
const EARLIER_MAX: usize = 8;

#[derive(Clone, Debug, Default)]
struct Shown {
    active: Option<Active>,
    site: Option<Arc<Site>>,
    /// What was served before, until when pages of it may ask for their files, newest first.
    earlier: Vec<(Instant, Arc<Site>)>,
}

/// Content that was taken into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Its signature.
    pub root: Digest,
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// What an activation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activated {
    /// It was active before: nothing was done.
    pub already: bool,
    /// Where it is live.
    pub live: PathBuf,
    /// Files that share their blocks with the version before.
    pub shared: u64,
    /// Ignored things that moved along.
    pub carried: Vec<RelPath>,
    /// Ignored things that could not, kept with the tree before.
    pub left: Vec<RelPath>,
    /// Where the tree before is, for now.
    pub before: Option<PathBuf>,
    /// Whether all that was edited in it is known, and live or aside by now.
    pub settled: bool,
    /// What is live, where edits were kept; otherwise it is the version.
    pub merged: Option<Digest>,
    /// What became of what was edited.
    pub edits: Edits,
}

/// What a scan of a live tree found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The signature of what is there; nothing if nothing is, or the
    /// application is not active here.
    pub root: Option<Digest>,
    /// The number of the version that was activated last; 0 for none.
    pub activated: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes that were read; the rest was known.
    pub bytes_read: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Content {
    /// Takes up what `state_dir` says is active, and finishes or undoes what
    /// a crash interrupted. Live trees without a path of their own stand in
    /// `live_dir`. Both are made if need be, and must be on no other
    /// member's disk.
    pub fn open(
        store: ContentStore,
        live_dir: PathBuf,
        state_dir: PathBuf,
    ) -> Result<Self, ContentError> {
        let made =
            |dir: &Path| std::fs::create_dir_all(dir).and_then(|()| std::path::absolute(dir));
        let live_dir = made(&live_dir).map_err(|e| DriverError::io("make", &live_dir, e))?;
        let state_dir = made(&state_dir).map_err(|e| DriverError::io("make", &state_dir, e))?;
        let mut apps = BTreeMap::new();
        for saved in state::load_all(&state_dir)? {
            let app = saved.app.clone();
            let cache = Arc::new(state::load_cache(&state_dir, &app));
            let kept = Mutex::new(state::KeptCache::loaded(&cache));
            let work = Work { cache, unrecovered: Some(saved), ..Work::default() };
            apps.insert(app, Arc::new(App { work: Mutex::new(work), kept, ..App::default() }));
        }
        let inner =
            Inner { store, live_dir, state_dir, apps: Mutex::new(apps), sources: Mutex::default() };
        let content = Self { inner: Arc::new(inner) };
        let apps = locked(&content.inner.apps).clone();
        for (app, cell) in apps {
            let mut work = locked(&cell.work);
            // One application in trouble does not keep the others down.
            if let Err(error) = content.recover(&mut work) {
                tracing::error!(%app, %error, "the live tree could not be recovered");
            }
            if let Some(active) = &work.active {
                *locked(&cell.wanted) = (active.sequence, active.version);
            }
            content.save(&app, &work, None)?;
            content.show(&cell, &work)?;
            drop(work);
            content.recover_hooked(&app, &cell);
        }
        Ok(content)
    }

    /// The store below it.
    pub fn store(&self) -> &ContentStore {
        &self.inner.store
    }

    /// What is active, by name.
    pub fn applications(&self) -> Vec<Active> {
        let apps: Vec<Arc<App>> = locked(&self.inner.apps).values().cloned().collect();
        apps.iter().filter_map(|app| locked(&app.shown).active.clone()).collect()
    }

    /// Takes the directory `source` into the store, durably, without what
    /// `ignore` matches. It is looked at twice: what changed in between is an
    /// error, and then nothing counts as staged. In the place of what stands in its
    /// `.althing` (it may be a copy of a live tree) comes what is `made`.
    pub fn stage(
        &self,
        source: &Path,
        ignore: &[String],
        made: &Made,
    ) -> Result<Staged, ContentError> {
        let rules = IgnoreRules::new(ignore)?;
        let mut cache = {
            let mut sources = locked(&self.inner.sources);
            let at = sources.iter().position(|(path, _)| path == source);
            at.map_or_else(StatCache::new, |at| sources.remove(at).1)
        };
        made.fits(&rules)?;
        let _hold = self.inner.store.hold(); // until the tree is there that needs the chunks
        let staged = self
            .take(source, &rules, &Tree::default(), &mut cache, made.is_empty())
            .and_then(|tree| self.with_made(&tree, made));
        let mut sources = locked(&self.inner.sources);
        sources.push((source.to_owned(), cache));
        let surplus = sources.len().saturating_sub(SOURCES_MAX);
        sources.drain(..surplus);
        staged
    }

    /// The same with the files of a tree that was brought from elsewhere. All of its content is in
    /// the store and proven, and somebody holds collections off.
    pub fn stage_brought(
        &self,
        given: &Tree,
        ignore: &[String],
        made: &Made,
    ) -> Result<Staged, ContentError> {
        let rules = IgnoreRules::new(ignore)?;
        made.fits(&rules)?;
        if let Some(entry) = given
            .entries()
            .find(|entry| rules.ignores(&entry.path, matches!(entry.node, Node::Directory { .. })))
        {
            return Err(ContentError::Ignored(entry.path.clone()));
        }
        if given.is_empty() && made.is_empty() {
            return Err(ContentError::Nothing);
        }
        self.with_made(given, made)
    }

    /// The signature that the directory `source` would have as a version, without what
    /// `ignore` matches. Every byte is read, and nothing is stored.
    pub fn sign(&self, source: &Path, ignore: &[String]) -> Result<Staged, ContentError> {
        let rules = IgnoreRules::new(ignore)?;
        let how = How { mode: Mode::Full, purpose: Purpose::Publish };
        let scan = files::scan(source, &rules, &mut StatCache::new(), how, None)?;
        let given = scan.tree.entries().filter(|entry| !entry.path.is_definition());
        let tree = Tree::new(given.cloned().collect()).map_err(DriverError::from)?;
        Ok(Staged { root: tree.root(), files: tree.files(), bytes: tree.bytes() })
    }

    /// Makes the tree `root` the live one of `app`, as version number
    /// `version`, decided at the catalog's `sequence`. Every byte must be in
    /// the store. Refused if something newer was activated or asked for. What was
    /// edited in the live tree is kept aside.
    pub fn activate(
        &self,
        app: &AppName,
        version: u64,
        sequence: u64,
        root: Digest,
        spec: &AppSpec,
    ) -> Result<Activated, ContentError> {
        self.activate_with(app, version, sequence, root, spec, Terms::default())
    }

    /// The same, on these terms.
    pub fn activate_with(
        &self,
        app: &AppName,
        version: u64,
        sequence: u64,
        root: Digest,
        spec: &AppSpec,
        terms: Terms<'_>,
    ) -> Result<Activated, ContentError> {
        let live = self.live_path(app, spec)?;
        let cell = self.app(app);
        cell.ask_for(app, sequence, version)?;
        let _area = locked(&cell.area);
        cell.fence(app, sequence, version)?;
        let ignore = spec.ignore.clone();
        let next = Active { app: app.clone(), version, sequence, root, live, ignore };
        {
            let mut work = locked(&cell.work);
            self.recover(&mut work)?;
            if let Some(active) = &work.active {
                let same = (active.sequence, active.version) == (sequence, version);
                if same && active.root != root {
                    return Err(ContentError::Conflict { app: app.clone(), version });
                }
                if (Active { sequence, ..active.clone() }) == next {
                    let live = next.live.clone();
                    work.active = Some(next);
                    self.save(app, &work, None)?;
                    self.show(&cell, &work)?;
                    return Ok(Activated { already: true, live, ..Activated::default() });
                }
            }
        }
        self.put_in_place(&cell, next, terms)
    }

    /// Looks at the live tree of `app`: quickly by the stat cache, or at
    /// every byte.
    pub fn scan(&self, app: &AppName, full: bool) -> Result<Scanned, ContentError> {
        let mode = if full { Mode::Full } else { Mode::Quick };
        self.scan_by(|| self.look(app, mode, None))
    }

    /// The same where something was noticed: while the live tree is watched, only that is
    /// looked at.
    pub fn scan_changed(&self, app: &AppName) -> Result<Scanned, ContentError> {
        self.scan_by(|| self.look_where_changed(app))
    }

    fn scan_by(
        &self,
        look: impl FnOnce() -> Result<Option<(Active, Scan)>, ContentError>,
    ) -> Result<Scanned, ContentError> {
        let began = Instant::now();
        let Some((active, scan)) = look()? else {
            let elapsed = began.elapsed();
            return Ok(Scanned { root: None, activated: 0, files: 0, bytes_read: 0, elapsed });
        };
        Ok(Scanned {
            root: (!scan.is_empty()).then(|| scan.root()),
            activated: active.version,
            files: scan.tree.files(),
            bytes_read: scan.bytes_read,
            elapsed: began.elapsed(),
        })
    }

    /// What would turn the live tree of `app` into the tree `root`. What no
    /// tree can hold is listed as to be deleted.
    pub fn differences(&self, app: &AppName, root: &Digest) -> Result<Vec<Change>, ContentError> {
        let Some((_, mut scan)) = self.look(app, Mode::Quick, None)? else {
            return Err(ContentError::NotActive(app.clone()));
        };
        let want = self.tree(root)?;
        scan.fit(&want)?;
        let mut list: Vec<Change> = scan.strange.into_iter().map(Change::Del).collect();
        list.extend(changes(&scan.tree, &want));
        Ok(list)
    }

    /// Repairs the live tree of `app` to `root`, the root that is active:
    /// a repair decided before a switch must not undo the switch.
    pub fn repair(&self, app: &AppName, root: Digest) -> Result<Repaired, ContentError> {
        let cell = self.app(app);
        let _area = locked(&cell.area);
        let Work { active, cache, .. } = {
            let mut work = locked(&cell.work);
            self.recover(&mut work)?;
            work.clone()
        };
        let active = active.ok_or_else(|| ContentError::NotActive(app.clone()))?;
        if active.root != root {
            let (version, sequence) = (active.version, active.sequence);
            return Err(ContentError::Superseded { app: app.clone(), version, sequence });
        }
        let want = self.tree(&root)?;
        let rules = IgnoreRules::new(&active.ignore)?;
        let _hold = self.inner.store.hold();
        let mut cache = (*cache).clone();
        let done = match files::scan(&active.live, &rules, &mut cache, LIVE, None) {
            Err(DriverError::Absent(_) | DriverError::NotDirectory(_)) => {
                self.untold(app, &cell)?;
                return self.put_back(&cell, active, &want);
            }
            Err(error) => return Err(error.into()),
            Ok(mut scan) => {
                scan.fit(&want)?;
                let list = changes(&scan.tree, &want);
                if !list.is_empty() || !scan.strange.is_empty() {
                    self.untold(app, &cell)?;
                }
                let aside = WorkDir::open(&active.live)?.aside();
                locked(&cell.work).goes_back();
                files::repair(&active.live, &list, &scan.strange, self, &aside)?
            }
        };
        files::scan(&active.live, &rules, &mut cache, LIVE, None)?;
        let mut work = locked(&cell.work);
        work.goes_back();
        work.cache = Arc::new(cache);
        self.show(&cell, &work)?;
        self.keep_cache(app, &cell, &work.cache, true);
        Ok(done)
    }

    /// Takes the live tree of `app` into the store, as it is: a majority
    /// holds it, and it is to become a version.
    pub fn ingest_live(&self, app: &AppName) -> Result<Staged, ContentError> {
        let cell = self.app(app);
        let (active, mut cache, generation) = {
            let work = locked(&cell.work);
            let active = work.active.clone();
            let active = active.ok_or_else(|| ContentError::NotActive(app.clone()))?;
            (active, (*work.cache).clone(), work.generation)
        };
        let was_this = |root| cell.remember_taken(generation, active.version, root);
        if let Some(staged) = self.ingest_where_changed(&cell, &active)?
            && was_this(staged.root)
        {
            return Ok(staged);
        }
        let rules = IgnoreRules::new(&active.ignore)?;
        // Without its listing nothing is known to be a shell of the version:
        // then every directory counts, and the root tells.
        let expected = self.inner.store.tree(&active.root)?.unwrap_or_default();
        let _hold = self.inner.store.hold();
        let tree = self.take(&active.live, &rules, &expected, &mut cache, true)?;
        let staged = self.keep(&tree)?;
        if !was_this(staged.root) {
            return Err(DriverError::Changing(active.live).into());
        }
        Ok(staged)
    }

    /// Keeps what is known of the live trees, for the next start.
    pub fn keep_caches(&self) {
        let apps = locked(&self.inner.apps).clone();
        for (app, cell) in apps {
            let work = locked(&cell.work);
            if work.active.is_some() {
                self.keep_cache(&app, &cell, &work.cache, true);
            }
        }
    }

    /// Which tree is live: another number after whole trees were exchanged.
    pub fn live_inode(&self, app: &AppName) -> Option<u64> {
        let active = locked(&self.app(app).shown).active.clone()?;
        Some(state::inode_of(&active.live)).filter(|inode| *inode != 0)
    }

    /// Garbage collection: keeps the trees `roots` and those that are active.
    pub fn retain(&self, roots: &BTreeSet<Digest>) -> Result<Freed, ContentError> {
        let active = self.applications().into_iter().map(|active| active.root);
        Ok(self.inner.store.retain(&roots.iter().copied().chain(active).collect())?)
    }

    /// What the gateway serves of `app` from now on; nothing if it is not
    /// active here, its listing is not in the store, or it was a version of
    /// another cluster (`begin_anew`), which means nothing to this one's clients.
    pub fn site(&self, app: &AppName) -> Option<Arc<Site>> {
        let cell = locked(&self.inner.apps).get(app)?.clone();
        // Nothing else of it is copied: this is asked for every request.
        let site = locked(&cell.shown).site.clone();
        site.filter(|site| site.version() > 0)
    }

    /// The versions that were served until a while ago, newest first.
    pub fn earlier(&self, app: &AppName) -> Vec<Arc<Site>> {
        let Some(cell) = locked(&self.inner.apps).get(app).cloned() else { return Vec::new() };
        let shown = locked(&cell.shown);
        let live = shown.earlier.iter().filter(|(until, _)| *until > Instant::now());
        live.map(|(_, site)| site.clone()).collect()
    }

    /// What was replaced in the live tree of `app` and is still kept, oldest
    /// first.
    pub fn kept_aside(&self, app: &AppName) -> Result<Vec<Kept>, ContentError> {
        Ok(files::aside::kept(&self.aside_of(app)?)?)
    }

    /// Copies what was replaced on the occasion `number` into `into`, a directory
    /// that is new or empty and not within the live tree. Nothing if there is no
    /// such occasion.
    pub fn copy_out(
        &self,
        app: &AppName,
        number: u64,
        into: &Path,
    ) -> Result<Option<CopiedOut>, ContentError> {
        let aside = self.aside_of(app)?;
        let cell = self.app(app);
        let _area = locked(&cell.area);
        let all = files::aside::kept(&aside)?;
        let Some(kept) = all.iter().find(|kept| kept.number == number) else { return Ok(None) };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let live = locked(&cell.shown).active.as_ref().map(|active| real(&active.live));
        let parent = into.parent().map(real);
        if live.is_some_and(|live| parent.is_some_and(|parent| parent.starts_with(live))) {
            return Err(ContentError::Inside(into.to_owned()));
        }
        Ok(Some(files::copy_out(&kept.path, into)?))
    }

    /// Removes the oldest of what is kept aside for `app`, down to
    /// `bytes_max`, but never the newest `keep_newest`. Returns bytes freed.
    pub fn prune_aside(
        &self,
        app: &AppName,
        bytes_max: u64,
        keep_newest: usize,
    ) -> Result<u64, ContentError> {
        let aside = self.aside_of(app)?;
        let cell = self.app(app);
        let _area = locked(&cell.area);
        Ok(files::prune_aside(&aside, bytes_max, keep_newest)?)
    }
}

const LIVE: How = How { mode: Mode::Quick, purpose: Purpose::Live };
const PUBLISH: How = How { mode: Mode::Quick, purpose: Purpose::Publish };

impl Content {
    fn app(&self, app: &AppName) -> Arc<App> {
        locked(&self.inner.apps).entry(app.clone()).or_default().clone()
    }

    fn tree(&self, root: &Digest) -> Result<Arc<Tree>, ContentError> {
        self.inner.store.tree(root)?.ok_or(ContentError::NotHere(*root))
    }

    fn aside_of(&self, app: &AppName) -> Result<PathBuf, ContentError> {
        let live = locked(&self.app(app).shown).active.as_ref().map(|active| active.live.clone());
        let live = live.ok_or_else(|| ContentError::NotActive(app.clone()))?;
        Ok(WorkDir::path_of(&live).join("aside"))
    }

    /// Finishes or undoes what is still to be recovered. After an error it is
    /// to be called again, and what is active is what can be seen of it.
    fn recover(&self, work: &mut Work) -> Result<(), DriverError> {
        let Some(saved) = work.unrecovered.take() else { return Ok(()) };
        let recovered = saved.recover();
        work.active = saved.active_now();
        if recovered.is_err() {
            work.unrecovered = Some(saved);
            return recovered;
        }
        if let Some((before, next)) = saved.switched()
            && let Err(error) = self.keep_unseen(before, next, &work.cache)
        {
            let app = &saved.app;
            tracing::error!(%app, %error, "what was edited is in the tree before only");
        }
        Ok(())
    }

    /// Keeps what is active, and what is pending. While something could not
    /// be recovered, the record says so still.
    fn save(
        &self,
        app: &AppName,
        work: &Work,
        pending: Option<(Active, u64)>,
    ) -> Result<(), ContentError> {
        if work.unrecovered.is_some() {
            return Ok(());
        }
        let saved = Saved { app: app.clone(), active: work.active.clone(), pending };
        state::save(&self.inner.state_dir, &saved)
    }

    /// Keeps the stat cache, unless it was kept a moment ago and it need not be `now`: a
    /// start that finds an older one reads a little more.
    fn keep_cache(&self, app: &AppName, cell: &App, cache: &Arc<StatCache>, now: bool) {
        let mut kept = locked(&cell.kept);
        if kept.is_due(cache, now) {
            state::save_cache(&self.inner.state_dir, app, cache);
            *kept = state::KeptCache::saved(cache);
        }
    }

    /// Shows others what is active and known now.
    fn show(&self, cell: &App, work: &Work) -> Result<(), ContentError> {
        let (before, earlier) = {
            let shown = locked(&cell.shown);
            (shown.site.clone(), shown.earlier.clone())
        };
        let mut shown = Shown { active: work.active.clone(), site: None, earlier };
        if let Some(active) = &work.active
            && let Some(tree) = self.inner.store.tree(&active.root)?
        {
            let (cache, store) = (work.cache.clone(), self.inner.store.clone());
            shown.site = Some(Arc::new(Site::new(active, tree, cache, store)));
        }
        let now = Instant::now();
        shown.earlier.retain(|(until, _)| *until > now);
        if let Some(before) = before.filter(|before| before.version() > 0)
            && shown.site.as_ref().is_some_and(|site| site.version() != before.version())
        {
            shown.earlier.insert(0, (now + SKEW, before));
            shown.earlier.truncate(EARLIER_MAX);
        }
        *locked(&cell.shown) = shown;
        Ok(())
    }
}

impl ChunkSource for Content {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        self.inner.store.read(&chunk.digest).map_err(failed)
    }
}

impl Work {
    /// The live tree becomes its version again, by us: whatever it was meanwhile and was
    /// taken into the store is not what is edited from now on.
    fn goes_back(&mut self) {
        self.generation += 1;
        self.taken = (0, VecDeque::new());
    }
}

impl App {
    /// Notes that an activation is asked for, unless a newer one was.
    fn ask_for(&self, app: &AppName, sequence: u64, version: u64) -> Result<(), ContentError> {
        self.fence(app, sequence, version)?;
        let mut wanted = locked(&self.wanted);
        *wanted = (*wanted).max((sequence, version));
        Ok(())
    }

    fn fence(&self, app: &AppName, sequence: u64, version: u64) -> Result<(), ContentError> {
        let wanted = *locked(&self.wanted);
        if wanted <= (sequence, version) {
            return Ok(());
        }
        let (sequence, version) = wanted;
        Err(ContentError::Superseded { app: app.clone(), version, sequence })
    }
}

fn failed(error: StoreError) -> DriverError {
    DriverError::Store(Box::new(error))
}

/// What a panic left behind a lock is still whole: every change is one
/// assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
