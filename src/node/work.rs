//! The work beside the loop: content, fetches, publications. Each piece runs
//! on its own and comes back as a note. Here is what all of it shares; the work
//! itself is in the files beside.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    certificates,
    content::Content,
    differs, hooks,
    rate::Rate,
    rules,
    run::Note,
    scrub::Scrubbed,
    secrets::{Others, Vault},
    services::{self, Here},
    telemetry::Telemetry,
    transfer::Boards,
    tuning::Tuning,
};
use crate::{
    base::{AppName, Digest, SecretKey, catalog::Catalog, conduct::Silence},
    driver::services::Supervisor,
    gateway::Stats,
    net::Net,
    store::ContentStore,
};

mod fetching;
mod keeping;
mod looking;
mod publishing;
mod running;
mod switching;

use keeping::{COLLECT_ROUNDS, collect};

pub(super) use publishing::keys_of;

/// Sessions that are served at the same time; more wait.
const SERVING_MAX: usize = 64;
/// Questions about services that are answered at the same time.
const ASKING_MAX: usize = 64;

/// Carries out what is slow.
pub(super) struct Work {
    content: Content,
    store: ContentStore,
    network: Net,
    boards: Boards,
    sending: Rate,
    receiving: Rate,
    notes: mpsc::UnboundedSender<Note>,
    tasks: TaskTracker,
    serving: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
    stopping: CancellationToken,
    scrubbed: Arc<Scrubbed>,
    /// Bytes of content that were fetched.
    fetched: Arc<AtomicU64>,
    /// The applications whose live trees are watched, and whether the member is told.
    watched: watch::Sender<BTreeMap<AppName, bool>>,
    watching: Mutex<Watching>,
    here: Here,
    hooks: hooks::Runner,
    certificates: certificates::Troubles,
    /// How this member and its cluster are called.
    names: watch::Sender<rules::Names>,
    /// What operators want to hear nothing of.
    silences: watch::Sender<Vec<Silence>>,
    /// What rules about the cluster are judged by.
    around: watch::Sender<rules::wide::Around>,
    /// What the live versions say of rules.
    shelf: watch::Sender<rules::wide::Shelf>,
    /// What handing over secrets depends on.
    others: watch::Sender<Others>,
    /// What live trees are compared with where somebody asks.
    known: watch::Sender<differs::Known>,
    /// What is live here and in the catalog; none before it is known.
    running: watch::Sender<Option<services::Live>>,
    asking: Arc<Semaphore>,
}

/// What runs, and what is needed for it.
pub(super) struct Runs {
    pub supervisor: Arc<Supervisor>,
    /// Whom secrets are sealed for.
    pub key: SecretKey,
    /// The data directory.
    pub data: PathBuf,
    /// Where secrets are kept that others have sealed for this member.
    pub secrets: PathBuf,
    pub telemetry: Telemetry,
    /// What counts the requests of clients, if any come here.
    pub stats: Option<Arc<Stats>>,
    /// Where it is kept which rules act.
    pub episodes: PathBuf,
}

/// Whose live trees are watched.
#[derive(Default)]
struct Watching {
    /// Their edits are publications: the member is told.
    told: BTreeSet<AppName>,
    /// They were compared on command, and when: the next comparison is spared its walk
    /// if nothing changes.
    compared: BTreeMap<AppName, Instant>,
}

/// What no collection may take.
#[derive(Default)]
struct Kept {
    /// What the member needs; nothing is collected until it has said so.
    roots: Option<BTreeSet<Digest>>,
    /// What is being staged, and the catalog may not name yet: once for each publication.
    staging: Vec<Digest>,
    /// How many collections are still to be made.
    rounds: u32,
}

impl Work {
    pub fn new(
        content: Content,
        store: ContentStore,
        network: Net,
        Runs { supervisor, key, data, secrets, telemetry, stats, episodes }: Runs,
        catalog: &Catalog,
        notes: mpsc::UnboundedSender<Note>,
        tuning: &Tuning,
    ) -> Self {
        let (others, whom) = watch::channel(Others::default());
        let known = watch::Sender::new(differs::Known::of(catalog));
        let vault = Vault {
            content: content.clone(),
            network: network.clone(),
            key,
            dir: secrets,
            others: whom,
        };
        let stopping = CancellationToken::new();
        let hooks =
            hooks::Runner::new(supervisor.clone(), vault.clone(), catalog, stopping.clone());
        let this = Self {
            content,
            store,
            network,
            boards: Boards::default(),
            sending: tuning.sending.clone(),
            receiving: tuning.receiving.clone(),
            notes,
            tasks: TaskTracker::new(),
            serving: Arc::new(Semaphore::new(SERVING_MAX)),
            // What a run before left unfinished goes as well.
            kept: Arc::new(Mutex::new(Kept { rounds: COLLECT_ROUNDS, ..Kept::default() })),
            stopping,
            scrubbed: Arc::default(),
            fetched: Arc::default(),
            watched: watch::Sender::default(),
            watching: Mutex::default(),
            here: Here {
                supervisor,
                vault,
                troubles: services::Troubles::default(),
                telemetry,
                open: rules::Episodes::default(),
                data: data.into(),
                known: known.subscribe(),
            },
            hooks,
            certificates: certificates::Troubles::default(),
            names: watch::Sender::default(),
            silences: watch::Sender::default(),
            around: watch::Sender::default(),
            shelf: watch::Sender::default(),
            others,
            known,
            running: watch::Sender::default(),
            asking: Arc::new(Semaphore::new(ASKING_MAX)),
        };
        this.name(catalog);
        this.watch_live_trees();
        this.supervise();
        this.judge(episodes, stats);
        this.tasks.spawn(collect(
            this.content.clone(),
            Arc::clone(&this.kept),
            this.stopping.clone(),
        ));
        this.scrub(tuning.scrub.subscribe());
        this
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Waits a moment for what is under way; what is not done by then is done
    /// again when the member returns.
    pub async fn finish(self) {
        self.stopping.cancel();
        self.tasks.close();
        let content = self.content.clone();
        self.tasks.spawn_blocking(move || content.keep_caches());
        let _what_is_slow_is_cut =
            tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
    }
}

/// A poisoned lock means that a thread panicked between two whole operations
/// on the set: it is usable.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
