//! The supervisor: one task for each service, told what should run through a
//! channel that only holds the newest wish. Who is told something else while
//! it still stops goes on from there, so wishes never queue up and no service
//! ever runs twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast, watch},
    task::AbortHandle,
};

use super::{
    Endpoints, LogLine, Logs, ServiceEvent, ServiceStatus, Services, State, What,
    group::{self, Groups},
    log::ServiceLog,
    now,
    passage::Passage,
    process::Spawner,
    service::{Runner, Wanted},
};
use crate::{
    base::{AppName, Digest, ServiceName, WallTime},
    driver::secrets::Secrets,
};

/// The longest that [`Supervisor::stop_all`] waits before it kills: a member
/// that is asked to stop has to.
const STOP_ALL_MAX: Duration = Duration::from_secs(60);
/// What it leaves the disk to take the last lines.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What should run of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which version it is.
    pub version: u64,
    /// Its content: other content means another process.
    pub root: Digest,
    /// Its live tree.
    pub tree: PathBuf,
    /// Its services.
    pub services: Services,
    /// Those of them that are given a port, and change processes without a gap.
    pub served: BTreeSet<ServiceName>,
    /// Variables that each of them is given, under those of its definition.
    pub env: BTreeMap<String, String>,
    /// The secrets that they may name. Of one that is named and not here the service
    /// is told nothing: to give all is the caller's care.
    pub secrets: Secrets,
}

/// Makes the services run that should. Dropped, it kills them.
pub struct Supervisor {
    shared: Arc<Shared>,
    runtime: Handle,
}

type Key = (AppName, ServiceName);
type Events = Box<dyn Fn(ServiceEvent) + Send + Sync>;

/// What the tasks and the supervisor share.
pub(super) struct Shared {
    pub(super) spawner: Spawner,
    groups: Arc<Groups>,
    logs: Logs,
    events: Events,
    pub(super) endpoints: Arc<Endpoints>,
    board: Mutex<Board>,
    /// Told whenever a service is gone.
    gone: Notify,
}

#[derive(Default)]
struct Board {
    entries: BTreeMap<Key, Entry>,
    /// Of what ran once: kept, so that it can be followed from one run to the next.
    once: BTreeMap<Key, Arc<ServiceLog>>,
    /// Nothing is started any more.
    closed: bool,
}

struct Entry {
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    now: Arc<Mutex<Now>>,
    log: Arc<ServiceLog>,
    task: AbortHandle,
}

/// What a service is at the moment.
#[derive(Debug)]
pub(super) struct Now {
    pub version: u64,
    pub state: State,
    pub pid: Option<u32>,
    pub since: WallTime,
    pub restarts: u64,
    pub last_exit: Option<String>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("services", &self.status()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// A supervisor without services. It kills what a member left over that
    /// was killed itself: so only one at a time may use a `log_dir`. `events`
    /// is called from the tasks and must not block.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and io, on which its tasks run.
    pub fn new(
        log_dir: PathBuf,
        events: impl Fn(ServiceEvent) + Send + Sync + 'static,
    ) -> Supervisor {
        Self::telling(log_dir, Vec::new(), None, events)
    }

    /// The same, with variables for all that it starts: names that begin with `ALTHING_`; and
    /// with a `passage`, by which other users get to their trees.
    ///
    /// # Panics
    /// See [`new`](Self::new).
    pub fn telling(
        log_dir: PathBuf,
        told: Vec<(&'static str, OsString)>,
        passage: Option<Passage>,
        events: impl Fn(ServiceEvent) + Send + Sync + 'static,
    ) -> Supervisor {
        group::sweep(&log_dir);
        let groups = Arc::new(Groups::default());
        let shared = Shared {
            spawner: Spawner::new(log_dir.clone(), told, passage, groups.clone()),
            groups,
            logs: Logs::new(log_dir),
            events: Box::new(events),
            endpoints: Arc::default(),
            board: Mutex::default(),
            gone: Notify::new(),
        };
        Self { shared: Arc::new(shared), runtime: Handle::current() }
    }

    /// Makes these services of `app` run, and no others. What is new is
    /// started, what is gone is stopped, what changed (its definition, the
    /// version, the tree, the environment) is stopped and started; the rest
    /// goes on as it is. It returns at once.
    ///
    /// # Errors
    /// What [`Services::check`] says. Then nothing was touched.
    pub fn set(&self, app: &AppName, running: Running) -> Result<(), Vec<String>> {
        running.services.check()?;
        let mut board = self.shared.board();
        if board.closed {
            return Ok(());
        }
        for ((_, name), entry) in board.of(app) {
            if !running.services.0.contains_key(name) {
                entry.wanted.send_replace(None);
            }
        }
        for (name, service) in running.services.0 {
            // Only its own: another's new value is no reason to restart it.
            let own = running.secrets.iter().filter(|(name, _)| service.secrets.contains(name));
            let wanted = Wanted {
                secrets: own.map(|(name, secret)| (name.clone(), secret.clone())).collect(),
                app: app.clone(),
                served: running.served.contains(&name),
                name,
                version: running.version,
                root: running.root,
                tree: running.tree.clone(),
                service,
                env: running.env.clone(),
                turn: 0,
            };
            self.want(&mut board, wanted);
        }
        Ok(())
    }

    fn want(&self, board: &mut Board, mut wanted: Wanted) {
        let key = (wanted.app.clone(), wanted.name.clone());
        if let Some(entry) = board.entries.get(&key) {
            entry.wanted.send_if_modified(|current| {
                let Some(before) = current else {
                    *current = Some(Arc::new(wanted));
                    return true;
                };
                wanted.turn = before.turn;
                let same = Wanted { version: wanted.version, ..(**before).clone() } == wanted;
                let renumbered = same && before.version != wanted.version;
                if renumbered {
                    // What was brought back never went here: nothing has to start again.
                    let mut now = entry.now.lock().unwrap_or_else(PoisonError::into_inner);
                    now.version = wanted.version;
                }
                if renumbered || !same {
                    *current = Some(Arc::new(wanted));
                }
                !same
            });
            return;
        }
        let now = Arc::new(Mutex::new(Now {
            version: wanted.version,
            state: State::Starting,
            pid: None,
            since: now(),
            restarts: 0,
            last_exit: None,
        }));
        let log = self.shared.logs.open(&key.0, &key.1);
        let (sender, receiver) = watch::channel(Some(Arc::new(wanted)));
        let runner = Runner {
            key: key.clone(),
            wanted: receiver,
            now: now.clone(),
            log: log.clone(),
            shared: self.shared.clone(),
            before: Vec::new(),
            slot: 0,
        };
        // It can't leave before it is entered: for that it needs the board.
        let task = self.runtime.spawn(runner.run()).abort_handle();
        board.entries.insert(key, Entry { wanted: sender, now, log, task });
    }

    /// Stops all services of `app`. It returns at once.
    pub fn remove(&self, app: &AppName) {
        for (_, entry) in self.shared.board().of(app) {
            entry.wanted.send_replace(None);
        }
    }

    /// Stops one service of `app`, or all, and starts it again; also one that
    /// has failed, or waits for its next start. It returns at once, with how
    /// many these are: none where nothing of that name should run.
    pub fn restart(&self, app: &AppName, service: Option<&ServiceName>) -> usize {
        let board = self.shared.board();
        let asked = |name: &ServiceName| service.is_none_or(|service| service == name);
        let entries = board.of(app).filter(|((_, name), _)| asked(name));
        let turned = |entry: &Entry| {
            entry.wanted.send_if_modified(|wanted| {
                let Some(wanted) = wanted else { return false };
                Arc::make_mut(wanted).turn += 1;
                true
            })
        };
        entries.filter(|(_, entry)| turned(entry)).count()
    }

    /// How every service is, also those that are being stopped, by name.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let board = self.shared.board();
        let status = |((app, service), entry): (&Key, &Entry)| {
            let now = entry.now.lock().unwrap_or_else(PoisonError::into_inner);
            ServiceStatus {
                app: app.clone(),
                service: service.clone(),
                version: now.version,
                state: now.state,
                pid: now.pid,
                since: now.since,
                restarts: now.restarts,
                last_exit: now.last_exit.clone(),
                port: self.shared.endpoints.get(app, service).map(|at| at.address.port()),
            }
        };
        board.entries.iter().map(status).collect()
    }

    /// Where the served ones are asked.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.shared.endpoints.clone()
    }

    /// The last lines of a service, see [`Logs::tail`].
    ///
    /// # Errors
    /// What the disk says.
    pub fn tail(
        &self,
        app: &AppName,
        service: &ServiceName,
        lines_max: usize,
    ) -> io::Result<Vec<LogLine>> {
        self.shared.logs.tail(app, service, lines_max)
    }

    /// Of what there are lines to [`Supervisor::follow`]: the services of `app`, and
    /// what of it ran once since this member started.
    pub fn printing(&self, app: &AppName) -> BTreeSet<ServiceName> {
        let board = self.shared.board();
        let all = board.entries.keys().chain(board.once.keys());
        all.filter(|(of, _)| of == app).map(|(_, name)| name.clone()).collect()
    }

    /// The lines of a service from now on, over all its restarts; none where
    /// there is no such service. They come from memory: a line may be here
    /// before [`Supervisor::tail`] has it, or in both.
    pub fn follow(
        &self,
        app: &AppName,
        service: &ServiceName,
    ) -> Option<broadcast::Receiver<LogLine>> {
        let board = self.shared.board();
        let key = (app.clone(), service.clone());
        let entry = board.entries.get(&key).map(|entry| &entry.log);
        entry.or_else(|| board.once.get(&key)).map(|log| log.follow())
    }

    /// The log of what runs once.
    pub(super) fn log_of_once(&self, app: &AppName, name: &ServiceName) -> Arc<ServiceLog> {
        let mut board = self.shared.board();
        let log = board.once.entry((app.clone(), name.clone()));
        log.or_insert_with(|| self.shared.logs.open(app, name)).clone()
    }

    /// What starts processes here.
    pub(super) fn spawner(&self) -> &Spawner {
        &self.shared.spawner
    }

    /// Stops everything, all at once and gracefully, for good: nothing is
    /// started afterwards. After a minute, what is left is killed. When it
    /// returns nothing runs any more and the logs are written.
    pub async fn stop_all(&self) {
        {
            let mut board = self.shared.board();
            board.closed = true;
            for entry in board.entries.values() {
                entry.wanted.send_replace(None);
            }
        }
        let all_gone = async {
            loop {
                let next = self.shared.gone.notified();
                if self.shared.board().entries.is_empty() {
                    return;
                }
                next.await;
            }
        };
        if tokio::time::timeout(STOP_ALL_MAX, all_gone).await.is_err() {
            tracing::warn!("services did not stop within a minute and are killed");
        }
        self.shared.groups.close();
        if tokio::time::timeout(SETTLE_MAX, self.shared.logs.settled()).await.is_err() {
            tracing::warn!("the disk did not take the last lines of the services' logs in time");
        }
    }

    /// Something that is gone when nothing of it is left, for tests.
    #[cfg(test)]
    pub(super) fn groups(&self) -> Arc<Groups> {
        self.shared.groups.clone()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let mut board = self.shared.board();
        board.closed = true;
        self.shared.groups.close();
        for entry in board.entries.values() {
            entry.task.abort();
        }
        // The tasks hold what holds them.
        board.entries.clear();
        board.once.clear();
    }
}

impl Board {
    fn of(&self, app: &AppName) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(move |((of, _), _)| of == app)
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happened, to who listens and into the service's log.
    pub(super) fn tell(&self, wanted: &Wanted, log: &Arc<ServiceLog>, what: What) {
        log.remark(what.to_string());
        let (app, service) = (wanted.app.clone(), wanted.name.clone());
        (self.events)(ServiceEvent { app, service, version: wanted.version, what });
    }

    /// Takes a service off the board, unless it is wanted again meanwhile.
    pub(super) fn leave(&self, key: &Key) -> bool {
        let mut board = self.board();
        let wanted = board.entries.get(key).is_some_and(|e| e.wanted.borrow().is_some());
        if wanted {
            return false;
        }
        if let Some(entry) = board.entries.remove(key) {
            entry.log.close();
        }
        drop(board);
        self.gone.notify_waiters();
        true
    }
}
