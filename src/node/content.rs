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
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    base::{
        AppName, Digest, RelPath,
        catalog::AppSpec,
        tree::{Change, Chunk, Tree, changes},
    },
    driver::{
        ChunkSource, DriverError, FileSink, How, Mode, Purpose, Repaired, Scan,
        files::{self, IgnoreRules, Kept, Reuse, StatCache, WorkDir},
    },
    store::{ContentStore, Freed, StoreError, Writer},
};

mod error;
mod site;
mod state;
#[cfg(test)]
mod tests;

pub use error::ContentError;
pub use site::Site;
pub use state::Active;

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
}

/// One application here.
#[derive(Debug, Default)]
struct App {
    /// Held by whoever changes the live tree, and never while one is only
    /// read.
    work: Mutex<Work>,
    /// Behind a lock of its own, so that a request never waits for a switch.
    site: Mutex<Option<Arc<Site>>>,
    /// The newest activation asked for, as (sequence, version): one that
    /// waits or is at work gives way to it.
    wanted: Mutex<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Work {
    active: Option<Active>,
    cache: Arc<StatCache>,
    /// Counts changes of the live tree by us: what was learned about it
    /// before is worth nothing after.
    generation: u64,
    /// What a crash interrupted and could not be finished yet.
    unrecovered: Option<Saved>,
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
        for dir in [&live_dir, &state_dir] {
            std::fs::create_dir_all(dir).map_err(|e| DriverError::io("make", dir, e))?;
        }
        let mut apps = BTreeMap::new();
        for saved in state::load_all(&state_dir)? {
            let app = saved.app.clone();
            let cache = Arc::new(state::load_cache(&state_dir, &app));
            let mut work = Work { cache, unrecovered: Some(saved), ..Work::default() };
            // One application in trouble does not keep the others down.
            if let Err(error) = work.recover() {
                tracing::error!(%app, %error, "the live tree could not be recovered");
            }
            apps.insert(app, Arc::new(App { work: Mutex::new(work), ..App::default() }));
        }
        let inner = Inner { store, live_dir, state_dir, apps: Mutex::new(apps) };
        let content = Self { inner: Arc::new(inner) };
        let apps = locked(&content.inner.apps).clone();
        for (app, cell) in apps {
            let work = locked(&cell.work);
            if let Some(active) = &work.active {
                *locked(&cell.wanted) = (active.sequence, active.version);
            }
            content.save(&app, &work, None)?;
            content.renew_site(&cell, &work)?;
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
        apps.iter().filter_map(|app| locked(&app.work).active.clone()).collect()
    }

    /// Takes the directory `source` into the store, durably, without what
    /// `ignore` matches. It is looked at twice: what changed in between is an
    /// error, and then nothing counts as staged.
    pub fn stage(&self, source: &Path, ignore: &[String]) -> Result<Staged, ContentError> {
        let rules = IgnoreRules::new(ignore)?;
        self.ingest(source, &rules, &Tree::default())
    }

    /// Makes the tree `root` the live one of `app`, as version number
    /// `version`, decided at the catalog's `sequence`. Every byte must be in
    /// the store. Refused if something newer was activated or asked for.
    pub fn activate(
        &self,
        app: &AppName,
        version: u64,
        sequence: u64,
        root: Digest,
        spec: &AppSpec,
    ) -> Result<Activated, ContentError> {
        let live = self.live_path(app, spec)?;
        let cell = self.app(app);
        cell.ask_for(app, sequence, version)?;
        let mut work = locked(&cell.work);
        work.recover()?;
        cell.fence(app, sequence, version)?;
        let next = Active {
            app: app.clone(),
            version,
            sequence,
            root,
            live: live.clone(),
            ignore: spec.ignore.clone(),
        };
        if let Some(active) = &work.active {
            if (active.sequence, active.version) == (sequence, version) && active.root != root {
                return Err(ContentError::Conflict { app: app.clone(), version });
            }
            if (Active { sequence, ..active.clone() }) == next {
                work.active = Some(next);
                self.save(app, &work, None)?;
                return Ok(Activated { already: true, live, ..Activated::default() });
            }
        }
        self.put_in_place(&cell, &mut work, next)
    }

    /// Looks at the live tree of `app`: quickly by the stat cache, or at
    /// every byte.
    pub fn scan(&self, app: &AppName, full: bool) -> Result<Scanned, ContentError> {
        let mode = if full { Mode::Full } else { Mode::Quick };
        let began = Instant::now();
        let Some((active, scan)) = self.look(app, mode)? else {
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
        let Some((_, mut scan)) = self.look(app, Mode::Quick)? else {
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
        let mut work = locked(&cell.work);
        work.recover()?;
        let active = work.active.clone().ok_or_else(|| ContentError::NotActive(app.clone()))?;
        if active.root != root {
            let (version, sequence) = (active.version, active.sequence);
            return Err(ContentError::Superseded { app: app.clone(), version, sequence });
        }
        let want = self.tree(&root)?;
        let rules = IgnoreRules::new(&active.ignore)?;
        let _hold = self.inner.store.hold();
        let mut cache = (*work.cache).clone();
        let done = match files::scan(&active.live, &rules, &mut cache, LIVE, None) {
            Err(DriverError::Absent(_) | DriverError::NotDirectory(_)) => {
                self.put_back(&cell, &mut work, active.clone(), &want)?
            }
            Err(error) => return Err(error.into()),
            Ok(mut scan) => {
                scan.fit(&want)?;
                let list = changes(&scan.tree, &want);
                let aside = WorkDir::open(&active.live)?.aside();
                work.generation += 1;
                files::repair(&active.live, &list, &scan.strange, self, &aside)?
            }
        };
        files::scan(&active.live, &rules, &mut cache, LIVE, None)?;
        work.cache = Arc::new(cache);
        self.renew_site(&cell, &work)?;
        state::save_cache(&self.inner.state_dir, app, &work.cache);
        Ok(done)
    }

    /// Takes the live tree of `app` into the store, as it is: a majority
    /// holds it, and it is to become a version.
    pub fn ingest_live(&self, app: &AppName) -> Result<Staged, ContentError> {
        let (active, generation) = {
            let cell = self.app(app);
            let work = locked(&cell.work);
            let active = work.active.clone();
            (active.ok_or_else(|| ContentError::NotActive(app.clone()))?, work.generation)
        };
        let rules = IgnoreRules::new(&active.ignore)?;
        // Without its listing nothing is known to be a shell of the version:
        // then every directory counts, and the root tells.
        let expected = self.inner.store.tree(&active.root)?.unwrap_or_default();
        let staged = self.ingest(&active.live, &rules, &expected)?;
        if locked(&self.app(app).work).generation != generation {
            return Err(DriverError::Changing(active.live).into());
        }
        Ok(staged)
    }

    /// Forgets that `app` is active. Its live tree stays: it may hold what
    /// was ignored, and an operator may still need it.
    pub fn deactivate(&self, app: &AppName) -> Result<(), ContentError> {
        let cell = self.app(app);
        let mut work = locked(&cell.work);
        state::remove(&self.inner.state_dir, app)?;
        *locked(&cell.site) = None;
        *locked(&cell.wanted) = (0, 0);
        *work = Work { generation: work.generation + 1, ..Work::default() };
        Ok(())
    }

    /// Garbage collection: keeps the trees `roots` and those that are active.
    pub fn retain(&self, roots: &BTreeSet<Digest>) -> Result<Freed, ContentError> {
        let active = self.applications().into_iter().map(|active| active.root);
        Ok(self.inner.store.retain(&roots.iter().copied().chain(active).collect())?)
    }

    /// What the gateway serves of `app` from now on; nothing if it is not
    /// active here or its listing is not in the store.
    pub fn site(&self, app: &AppName) -> Option<Arc<Site>> {
        let cell = locked(&self.inner.apps).get(app)?.clone();
        let site = locked(&cell.site).clone();
        site
    }

    /// What was replaced in the live tree of `app` and is still kept, oldest
    /// first.
    pub fn kept_aside(&self, app: &AppName) -> Result<Vec<Kept>, ContentError> {
        Ok(files::aside::kept(&self.aside_of(app)?)?)
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
        let _work = locked(&cell.work);
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
        let live = locked(&self.app(app).work).active.as_ref().map(|active| active.live.clone());
        let live = live.ok_or_else(|| ContentError::NotActive(app.clone()))?;
        Ok(WorkDir::path_of(&live).join("aside"))
    }

    /// Places the tree of `next` and switches to it.
    fn put_in_place(
        &self,
        cell: &App,
        work: &mut Work,
        next: Active,
    ) -> Result<Activated, ContentError> {
        let (app, live) = (&next.app, &next.live);
        let tree = self.tree(&next.root)?;
        let rules = IgnoreRules::new(&next.ignore)?;
        for entry in tree.entries() {
            let is_directory = matches!(entry.node, crate::base::tree::Node::Directory { .. });
            if rules.matches(&entry.path, is_directory) {
                return Err(ContentError::Ignored(entry.path.clone()));
            }
        }
        let _hold = self.inner.store.hold();
        if !self.inner.store.whole(&next.root)? {
            return Err(ContentError::NotHere(next.root));
        }
        files::recover(live)?;
        let area = WorkDir::open(live)?;
        area.clear()?;
        let before = work.active.as_ref();
        let reuse = before.map(|active| Reuse { live: &active.live, cache: &work.cache });
        let placed = files::place(&tree, self, reuse, &area.next())?;
        let ours = before.is_some_and(|active| active.live == *live);
        let foreign = !ours && std::fs::read_dir(live).is_ok_and(|mut d| d.next().is_some());
        let inode = state::inode_of(&area.next());
        self.save(app, work, Some((next.clone(), inode)))?;
        // The last moment to give way to something newer.
        if let Err(superseded) = cell.fence(app, next.sequence, next.version) {
            self.save(app, work, None)?;
            area.clear()?;
            return Err(superseded);
        }
        work.generation += 1;
        let switched = files::switch(live, &area.next(), &rules, foreign);
        let retired = match switched {
            Ok(retired) => retired,
            // It may have switched and failed to carry over: which of the
            // two is live, and what is left to do, is found out like after a
            // crash, now or before the next activation.
            Err(error) => {
                let (app, active) = (app.clone(), work.active.clone());
                let pending = Some((next.clone(), inode));
                work.unrecovered = Some(Saved { app: app.clone(), active, pending });
                let recovered = work.recover();
                self.save(&app, work, None)?;
                if recovered.is_err() || work.active.as_ref() != Some(&next) {
                    work.cache = Arc::default();
                    self.renew_site(cell, work)?;
                    return Err(error.into());
                }
                files::Retired::default()
            }
        };
        let live = live.clone();
        let app = app.clone();
        work.active = Some(next);
        work.cache = Arc::new(placed.cache);
        self.save(&app, work, None)?;
        self.renew_site(cell, work)?;
        state::save_cache(&self.inner.state_dir, &app, &work.cache);
        Ok(Activated {
            already: false,
            live,
            shared: placed.shared,
            carried: retired.carried,
            left: retired.left,
            before: retired.path,
        })
    }

    /// The live tree is gone, or a file stands there: the file is kept aside,
    /// and the tree put in place anew.
    fn put_back(
        &self,
        cell: &App,
        work: &mut Work,
        active: Active,
        want: &Tree,
    ) -> Result<Repaired, ContentError> {
        let mut done = Repaired::default();
        let stands = std::fs::symlink_metadata(&active.live);
        if stands.is_ok_and(|meta| !meta.is_dir() && !meta.is_symlink()) {
            done.aside = Some(WorkDir::open(&active.live)?.keep_live_aside()?);
        }
        // Nothing of it is there to be shared.
        work.cache = Arc::default();
        self.put_in_place(cell, work, active)?;
        done.added = want.entries().iter().map(|entry| entry.path.clone()).collect();
        Ok(done)
    }

    /// Scans the live tree of `app`, without holding up a switch: if one came
    /// between, it looks again. Nothing if `app` is not active.
    fn look(&self, app: &AppName, mode: Mode) -> Result<Option<(Active, Scan)>, ContentError> {
        let how = How { mode, purpose: Purpose::Live };
        let cell = self.app(app);
        for _ in 0..LOOKS_MAX {
            let (active, mut cache, generation) = {
                let work = locked(&cell.work);
                let Some(active) = work.active.clone() else { return Ok(None) };
                (active, (*work.cache).clone(), work.generation)
            };
            let rules = IgnoreRules::new(&active.ignore)?;
            let scanned = files::scan(&active.live, &rules, &mut cache, how, None);
            let mut work = locked(&cell.work);
            if work.generation != generation {
                continue;
            }
            let mut scan = match scanned {
                Ok(scan) => scan,
                Err(DriverError::Absent(_) | DriverError::NotDirectory(_)) => Scan::default(),
                Err(error) => return Err(error.into()),
            };
            if let Some(expected) = self.inner.store.tree(&active.root)? {
                scan.fit(&expected)?;
            }
            if cache != *work.cache {
                work.cache = Arc::new(cache);
                self.renew_site(&cell, &work)?;
                state::save_cache(&self.inner.state_dir, app, &work.cache);
            }
            return Ok(Some((active, scan)));
        }
        Err(ContentError::Busy(app.clone()))
    }

    /// Takes the tree at `source` into the store and looks at it once more.
    fn ingest(
        &self,
        source: &Path,
        rules: &IgnoreRules,
        expected: &Tree,
    ) -> Result<Staged, ContentError> {
        let store = &self.inner.store;
        let _hold = store.hold(); // until the tree is there that needs the chunks
        let mut cache = StatCache::new();
        let mut sink = Sink { store, writer: Some(store.writer()) };
        let mut scan = files::scan(source, rules, &mut cache, PUBLISH, Some(&mut sink))?;
        sink.commit()?;
        let mut again = files::scan(source, rules, &mut cache, PUBLISH, None)?;
        if !expected.is_empty() {
            scan.fit(expected)?;
            again.fit(expected)?;
        }
        if scan.root() != again.root() {
            let list = changes(&scan.tree, &again.tree);
            let changed = list.first().map_or_else(PathBuf::new, |c| c.path().to_path());
            return Err(DriverError::Changing(source.join(changed)).into());
        }
        let root = store.put_tree(&scan.tree)?;
        Ok(Staged { root, files: scan.tree.files(), bytes: scan.tree.bytes() })
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

    /// Makes the site anew, from what is active and known now.
    fn renew_site(&self, cell: &App, work: &Work) -> Result<(), ContentError> {
        let site = match &work.active {
            Some(active) => self.inner.store.tree(&active.root)?.map(|tree| {
                let cache = work.cache.clone();
                Arc::new(Site::new(active, tree, cache, self.inner.store.clone()))
            }),
            None => None,
        };
        *locked(&cell.site) = site;
        Ok(())
    }

    /// Where the live tree of `app` stands.
    fn live_path(&self, app: &AppName, spec: &AppSpec) -> Result<PathBuf, ContentError> {
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
}

/// How often a scan starts again because of a switch.
const LOOKS_MAX: usize = 5;

impl ChunkSource for Content {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        self.inner.store.read(&chunk.digest).map_err(failed)
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

impl Work {
    /// Finishes or undoes what is still to be recovered. After an error it is
    /// to be called again, and `active` is what can be seen of it.
    fn recover(&mut self) -> Result<(), DriverError> {
        let Some(saved) = self.unrecovered.take() else { return Ok(()) };
        let recovered = saved.recover();
        self.active = saved.active_now();
        if recovered.is_err() {
            self.unrecovered = Some(saved);
        }
        recovered
    }
}

/// The store as what a scan hands files to.
struct Sink<'a> {
    store: &'a ContentStore,
    writer: Option<Writer>,
}

/// Bytes that wait in a writer before they are committed: it remembers some
/// sixty bytes a chunk.
const WAITING_MAX: u64 = 1 << 30;

impl Sink<'_> {
    fn commit(&mut self) -> Result<(), StoreError> {
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
}

fn failed(error: StoreError) -> DriverError {
    DriverError::Store(Box::new(error))
}

/// What a panic left behind a lock is still whole: every change is one
/// assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
