//! The work beside the loop: content, fetches, publications. Each piece runs
//! on its own and comes back as a note.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Publish, addresses, certificates,
    content::{
        self, Activated, Active, Content, ContentError, Defined, Edits as LiveEdits,
        LISTING_WITHIN, Made, Terms, Withdrawn, source,
    },
    edits::{self, Edits},
    hooks,
    inspect::{self, Findings, Question},
    listeners,
    manifest::{Manifest, Resolved},
    rate::{Limited, Rate},
    rules,
    run::{Answer, Note},
    scrub::{self, Scrub, Scrubbed},
    secrets::{self, Base, Others, SecretEdits, Vault},
    services::{self, Ask, Asked, Asker, Heard, Here},
    sites::SiteTable,
    telemetry::Telemetry,
    transfer::{self, Boards, Connect, TransferError, Wanted},
    tuning::Tuning,
    watching::{self, Notice},
};
use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, PublicKey, Reason, Refusal, SecretKey,
        catalog::{AppSpec, Application, Catalog, Roster},
        conduct::Silence,
        limits,
    },
    driver::{
        Definition, Repaired,
        secrets::Sealed,
        services::{ServiceStatus, Supervisor},
    },
    gateway::Stats,
    member::{
        ContentFailure, Effect, FetchFailure, Input, Repair, Switched,
        command::{By, Command, Staged},
    },
    net::{Net, RecvStream, SendStream, StreamKind},
    proto,
    store::{ContentStore, StoreError},
};

/// Sessions that are served at the same time; more wait.
const SERVING_MAX: usize = 64;
/// How long a live tree is watched after it was compared on command.
const WATCHED_FOR: Duration = Duration::from_secs(3_600);
/// Questions about services that are answered at the same time.
const ASKING_MAX: usize = 64;
/// How often what no version needs is collected, if there is any.
const COLLECT_EVERY: Duration = Duration::from_secs(30);
/// How many collections follow when a root went.
const COLLECT_ROUNDS: u32 = 2;
/// How many paths of a repair are named in its event.
const SAMPLE: usize = 3;
/// Bytes that are kept aside of what repairs replaced, for each application.
const ASIDE_BYTES_MAX: u64 = 1 << 30;
/// The newest repairs whose replaced content is kept however large it is.
const ASIDE_KEPT: usize = 3;

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

/// Streams over the cluster's own connections.
#[derive(Clone)]
struct Streams(Net, Rate);

impl Connect for Streams {
    type Recv = Limited<RecvStream>;
    type Send = SendStream;

    async fn open(&self, member: MemberId) -> io::Result<(Self::Recv, SendStream)> {
        let (send, recv) = self.0.open(member, StreamKind::Pull).await.map_err(io::Error::other)?;
        Ok((self.1.limit(recv), send))
    }
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
    /// What the member needs.
    roots: BTreeSet<Digest>,
    /// What is being staged, and the catalog may not name yet.
    staging: BTreeSet<Digest>,
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
            },
            hooks,
            certificates: certificates::Troubles::default(),
            names: watch::Sender::default(),
            silences: watch::Sender::default(),
            around: watch::Sender::default(),
            shelf: watch::Sender::default(),
            others,
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

    fn watch_live_trees(&self) {
        let notes = self.notes.clone();
        let tell = move |notice| {
            let note = match notice {
                Notice::Changed(app) => Note::Input(Input::Noticed { app }),
                Notice::Unwatched(why) => Note::Unwatched(why),
            };
            let _loop_may_be_gone = notes.send(note);
        };
        let (content, wanted) = (self.content.clone(), self.watched.subscribe());
        self.tasks.spawn(watching::run(content, wanted, tell, self.stopping.clone()));
    }

    /// Changes in the live trees of these applications are told of from now on.
    pub fn watch(&self, apps: BTreeSet<AppName>) {
        locked(&self.watching).told = apps;
        self.watch_anew();
    }

    fn watch_anew(&self) {
        let apps = {
            let Watching { told, compared } = &mut *locked(&self.watching);
            compared.retain(|_, at| at.elapsed() < WATCHED_FOR);
            let quiet = compared.keys().map(|app| (app.clone(), false));
            let loud = told.iter().map(|app| (app.clone(), true));
            quiet.chain(loud).collect()
        };
        self.watched.send_if_modified(|watched| {
            let differs = *watched != apps;
            *watched = apps;
            differs
        });
    }

    fn supervise(&self) {
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Services(notice)));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        self.tasks.spawn(services::run(self.here.clone(), live, tell, stopping));
        let notes = self.notes.clone();
        let tell = move |defined| drop(notes.send(Note::Addresses(defined)));
        let (content, stopping) = (self.content.clone(), self.stopping.clone());
        self.tasks.spawn(addresses::run(content, self.running.subscribe(), tell, stopping));
        let notes = self.notes.clone();
        let tell = move |notice| drop(notes.send(Note::Hooks(notice)));
        self.tasks.spawn(self.hooks.clone().run(self.running.subscribe(), tell));
    }

    /// The rules of what is live are judged; what is open is kept in `file`. `stats` counts where
    /// requests come from.
    fn judge(&self, file: PathBuf, stats: Option<Arc<Stats>>) {
        let (network, services) = (self.network.clone(), self.here.clone());
        let me = self.here.vault.key.member();
        let ask = move |whom: &[(MemberId, MemberName)], question: &Ask| {
            let asked = |(id, name): &(MemberId, MemberName)| Asked {
                id: *id,
                name: name.clone(),
                me: *id == me,
            };
            services::ask(&network, &services, whom.iter().map(asked).collect(), question)
        };
        let here = rules::Here {
            vault: self.here.vault.clone(),
            supervisor: Arc::clone(&self.here.supervisor),
            telemetry: self.here.telemetry.clone(),
            stats,
            open: Arc::clone(&self.here.open),
            file,
            names: self.names.subscribe(),
            silences: self.silences.subscribe(),
            around: self.around.subscribe(),
            ask: Arc::new(ask),
        };
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Rules(notice)));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        let shelf = self.shelf.clone();
        let wide =
            rules::wide::run(here.clone(), shelf.subscribe(), tell.clone(), stopping.clone());
        self.tasks.spawn(wide);
        self.tasks.spawn(rules::run(here, live, shelf, tell, stopping));
    }

    /// What this member sees of the cluster, for the rules about it.
    pub fn look_around(&self, around: rules::wide::Around) {
        self.around.send_if_modified(|before| {
            let differs = *before != around;
            *before = around;
            differs
        });
    }

    /// Who serves at a moment, by the rules that are live here.
    pub fn levels(
        &self,
        question: rules::levels::LevelsQuestion,
        seen: rules::levels::Seen,
        answer: rules::levels::Answer,
    ) {
        let shelf = self.shelf.borrow().clone();
        // A year of many rules takes a while.
        self.tasks.spawn_blocking(move || {
            // Whoever asked may have gone.
            drop(answer.send(seen.answer(&question, &shelf)));
        });
    }

    /// What the catalog says of this member, its cluster and their rules.
    fn name(&self, catalog: &Catalog) {
        let me = catalog.roster.get(self.here.vault.key.member());
        let names = rules::Names {
            member: me.map(|me| me.name.to_string()).unwrap_or_default(),
            cluster: catalog.cluster.to_string(),
        };
        self.names.send_if_modified(|known| {
            let differs = *known != names;
            *known = names;
            differs
        });
        self.silences.send_if_modified(|known| {
            let silences = catalog.conduct.silences();
            let differs = known.as_slice() != silences;
            if differs {
                *known = silences.to_vec();
            }
            differs
        });
    }

    /// What rules say of this member's health, the worst first.
    pub fn judged(&self) -> Vec<(proto::rule::Severity, String)> {
        let me = self.here.vault.key.member();
        rules::complaints(&self.here.open, &self.silences.borrow(), me)
    }

    /// The certificates of what is live are read, and kept where `sites` finds them.
    pub fn serve_certificates(&self, sites: Arc<SiteTable>) {
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Certificates(notice)));
        let (vault, troubles) = (self.here.vault.clone(), Arc::clone(&self.certificates));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        self.tasks.spawn(certificates::run(vault, sites, troubles, live, tell, stopping));
    }

    /// What is live of what the catalog has runs from now on, and nothing else. `others`
    /// are asked for secrets, and given them.
    pub fn run_services(&self, catalog: &Catalog, others: Others) {
        self.others.send_replace(others);
        self.hooks.note(catalog);
        self.name(catalog);
        let active = self.content.applications().into_iter();
        // Version 0 is what was live in another cluster.
        let ours = active.filter(|a| a.version > 0 && catalog.application(&a.app).is_some());
        let live: services::Live = ours.map(|a| (a.app, (a.version, a.root))).collect();
        self.running.send_if_modified(|running| {
            let differs = running.as_ref() != Some(&live);
            *running = Some(live);
            differs
        });
    }

    /// Asks members about what runs there.
    pub fn ask_services(&self, all: Vec<Asked>, ask: &Ask) -> mpsc::Receiver<Heard> {
        services::ask(&self.network, &self.here, all, ask)
    }

    /// Another member asks about what runs here.
    pub fn answer_services(&self, asker: Asker, send: SendStream, recv: RecvStream) {
        let (here, asking) = (self.here.clone(), Arc::clone(&self.asking));
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // Too many: whoever asks is told by the end of the stream.
            let Ok(_permit) = asking.try_acquire() else { return };
            tokio::select! {
                () = stopping.cancelled() => {}
                result = services::answer_stream(here, asker, send, recv) => {
                    if let Err(error) = result {
                        tracing::debug!(from = %asker.id, %error, "a question ended early");
                    }
                }
            }
        });
    }

    /// How the services here are.
    pub fn services(&self) -> Vec<ServiceStatus> {
        self.here.supervisor.status()
    }

    /// What is not as it should be with what runs here.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = services::complaints(&self.here);
        complaints.extend(self.hooks.complaints());
        complaints.extend(certificates::complaints(&self.certificates));
        complaints
    }

    fn scrub(&self, scrub: watch::Receiver<Option<Scrub>>) {
        let pass = scrub::Pass {
            content: self.content.clone(),
            store: self.store.clone(),
            scrubbed: Arc::clone(&self.scrubbed),
            stopping: self.stopping.clone(),
        };
        let (kept, notes) = (Arc::clone(&self.kept), self.notes.clone());
        let wanted = move || locked(&kept).roots.clone();
        // The loop may be gone: then nobody needs to know.
        let found = move |found| drop(notes.send(Note::Rotten(found)));
        self.tasks.spawn(scrub::run(scrub, pass, wanted, found));
    }

    /// What the scrub has done.
    pub fn scrubbed(&self) -> &Scrubbed {
        &self.scrubbed
    }

    /// Bytes of content that were fetched from members since the start.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Starts what `effect` asks for, if it is work on content.
    pub fn start(&self, effect: Effect) {
        match effect {
            Effect::Activate { app, version, sequence, root, spec, keep_edits, own } => {
                let hooks = self.hooks.clone();
                self.run(move |content| {
                    if let Some(why) = hooks.held_back(&app, version) {
                        let result = Err(ContentFailure::Failed(why));
                        return Input::Activated { app, version, result };
                    }
                    let check = |next: &content::Next<'_>| hooks.before(next);
                    let terms = Terms { keep_edits, own, check: Some(&check) };
                    let result = content.activate_with(&app, version, sequence, root, &spec, terms);
                    hooks.came_of(&app, version, result.as_ref().map(drop));
                    if result.as_ref().is_ok_and(|done| !done.edits.aside.is_empty()) {
                        tidy_aside(content, &app);
                    }
                    let result = result.map(|done| switched(&done, root)).map_err(|e| failure(&e));
                    Input::Activated { app, version, result }
                });
            }
            Effect::Scan { app, noticed } => self.run(move |content| {
                let started = Instant::now();
                let result =
                    if noticed { content.scan_changed(&app) } else { content.scan(&app, false) };
                let result = result.map(|s| s.root).map_err(|e| failure(&e));
                Input::Scanned { app, result, took: started.elapsed() }
            }),
            Effect::Repair { app, root } => {
                let hooks = self.hooks.clone();
                self.run(move |content| {
                    let result = content.repair(&app, root).map_err(|e| failure(&e));
                    // Also where it stopped half way.
                    hooks.repaired(&app);
                    tidy_aside(content, &app);
                    let result = result.map(|r| repair(&r));
                    Input::Repaired { app, root, result }
                });
            }
            Effect::Withdraw { app, sequence } => {
                let vault = self.here.vault.clone();
                self.run(move |content| {
                    let result = content.withdraw(&app, sequence).map_err(|e| failure(&e));
                    if result.is_ok() {
                        vault.forget(&app);
                    }
                    Input::Withdrawn { app, result: result.map(withdrawn) }
                });
            }
            Effect::Ingest { app } => {
                let (hooks, notes) = (self.hooks.clone(), self.notes.clone());
                let may_be_edit = self.watched.borrow().get(&app).is_some_and(|told| *told);
                self.run(move |content| {
                    let result = content.ingest_live(&app).and_then(|staged| {
                        let checked =
                            if may_be_edit { hooks.check_edit(&app, staged.root) } else { Ok(()) };
                        checked.map(|()| staged).map_err(|(error, is_news)| {
                            if let (ContentError::Held { why, .. }, true) = (&error, is_news) {
                                let notice = hooks::Notice::Edit(app.clone(), why.clone());
                                let _loop_may_be_gone = notes.send(Note::Hooks(notice));
                            }
                            error
                        })
                    });
                    let result =
                        result.map(|s| Staged { root: s.root, files: s.files, bytes: s.bytes });
                    Input::Ingested { app, result: result.map_err(|e| failure(&e)) }
                });
            }
            // Everything else is the loop's own.
            _ => {}
        }
    }

    fn run(&self, work: impl FnOnce(&Content) -> Input + Send + 'static) {
        let (content, notes) = (self.content.clone(), self.notes.clone());
        self.tasks.spawn_blocking(move || {
            let input = work(&content);
            let sites = matches!(
                &input,
                Input::Activated { result: Ok(_), .. } | Input::Withdrawn { result: Ok(_), .. }
            );
            let _loop_may_be_gone = notes.send(Note::Input(input));
            if sites {
                let _loop_may_be_gone = notes.send(Note::SitesChanged);
            }
        });
    }

    /// Fetches `root`, which `catalog` says what it is of.
    pub fn fetch(&self, root: Digest, from: MemberId, peers: Vec<MemberId>, catalog: &Catalog) {
        let bases = bases(self.content.applications(), app_of(catalog, root));
        let wanted = Wanted { root, from, peers, bases };
        let (store, notes) = (self.store.clone(), self.notes.clone());
        let (boards, connect) =
            (self.boards.clone(), Streams(self.network.clone(), self.receiving.clone()));
        let progress_notes = notes.clone();
        let (fetched, counted) = (Arc::clone(&self.fetched), Arc::clone(&self.fetched));
        self.tasks.spawn(async move {
            let mut before = 0;
            let progress = move |p: transfer::Progress| {
                // It begins anew where it turns out that more is needed.
                let began_anew = p.bytes_done < before;
                let more = if began_anew { p.bytes_done } else { p.bytes_done - before };
                before = p.bytes_done;
                fetched.fetch_add(more, Ordering::Relaxed);
                let input = Input::Fetching { root, bytes: p.bytes_done };
                let _loop_may_be_gone = progress_notes.send(Note::Input(input));
            };
            let pulled = transfer::fetch(store, boards, connect, wanted, progress).await;
            if let Ok(pulled) = &pulled {
                tracing::debug!(%root, ?pulled, "fetched");
                counted.fetch_add(pulled.listing_bytes + pulled.patch_bytes, Ordering::Relaxed);
            }
            let result = pulled.map(drop).map_err(|e| fetch_failure(&e));
            let input = Input::Fetched { root, from, result };
            let _loop_may_be_gone = notes.send(Note::Input(input));
        });
    }

    /// Another member fetches from this one.
    pub fn serve_pull(&self, from: MemberId, send: SendStream, recv: RecvStream) {
        let (store, serving) = (self.store.clone(), Arc::clone(&self.serving));
        let (boards, send) = (self.boards.clone(), self.sending.limit(send));
        self.tasks.spawn(async move {
            // Never closed, so there is always a permit in the end.
            let Ok(_permit) = serving.acquire().await else { return };
            match transfer::serve(store, boards, from, recv, send).await {
                Ok(served) => tracing::debug!(%from, ?served, "served"),
                Err(error) => {
                    tracing::debug!(%from, %error, "a session with a fetching member ended early");
                }
            }
        });
    }

    /// Stages a directory, then has the member publish it.
    pub fn publish(&self, publish: Publish, by: Option<By>, catalog: &Catalog, answer: Answer) {
        let (content, store) = (self.content.clone(), self.store.clone());
        let (vault, roster) = (self.here.vault.clone(), catalog.roster.clone());
        let current = |(name, app): (&AppName, &Application)| {
            (name.clone(), (app.current().number, app.current().root))
        };
        let applications: Current = catalog.applications.iter().map(current).collect();
        let runtime = tokio::runtime::Handle::current();
        let (opens, opening) = (vault.clone(), runtime.clone());
        let anew = move |app: &AppName, root, spec: &AppSpec| {
            let members = keys_of(&roster, spec);
            runtime.block_on(secrets::sealed_anew(&vault, &store, (app, root), &members))
        };
        // Where they can't be opened, the members say what becomes of it.
        let certificate = move |app: &AppName, defined: &Defined| {
            let (Some(tls), Some(sealed)) = (&defined.tls, &defined.secrets) else { return Ok(()) };
            let opened = opening.block_on(opens.open(app, sealed));
            opened.map_or(Ok(()), |secrets| certificates::check(app, tls, &secrets).map(drop))
        };
        let notes = self.notes.clone();
        // The loop may be gone: then nothing comes of it.
        let seek = move |app: &AppName| {
            drop(notes.send(Note::Input(Input::Sought { app: app.clone() })));
        };
        let data = Arc::clone(&self.here.data);
        self.staged(
            move || stage(&content, &data, &publish, &applications, anew, certificate, seek),
            by,
            answer,
        );
    }

    /// Stages what a list of changes makes of the current version, then has the
    /// member publish it.
    pub fn publish_edits(&self, edits: Edits, application: Option<Application>, answer: Answer) {
        let (store, content) = (self.store.clone(), self.content.clone());
        let data = Arc::clone(&self.here.data);
        let stage = move || match application {
            None => {
                let what = "The list was not published.";
                Err(crate::member::change::no_such_app(&edits.app, what))
            }
            Some(application) => {
                let mut named = edits.changes.iter().filter_map(|change| change.content.as_deref());
                named.try_for_each(|file| source::refuse_file(&data, file))?;
                // Without it, what follows says so.
                let _here = content.has_listing(&application.current().root, LISTING_WITHIN);
                edits::stage(&store, edits, &application)
            }
        };
        self.staged(stage, None, answer);
    }

    /// Stages what edits of secrets make of the current version, then has the member
    /// publish it.
    pub fn edit_secrets(&self, edits: SecretEdits, base: Base, answer: Answer) {
        let (vault, store) = (self.here.vault.clone(), self.store.clone());
        let runtime = tokio::runtime::Handle::current();
        let stage = move || runtime.block_on(secrets::stage(vault, store, edits, base));
        self.staged(stage, None, answer);
    }

    fn staged(
        &self,
        stage: impl FnOnce() -> Result<(Digest, Command), Refusal> + Send + 'static,
        by: Option<By>,
        answer: Answer,
    ) {
        let (notes, kept) = (self.notes.clone(), Arc::clone(&self.kept));
        let (store, hooks) = (self.store.clone(), self.hooks.clone());
        let content = self.content.clone();
        self.tasks.spawn_blocking(move || {
            // Nothing of it is collected until the catalog names it.
            let hold = store.hold();
            let tried = stage().and_then(|staged| {
                listeners::free(&content, &staged.1)?;
                hooks.try_out(&staged.1).map(|()| staged)
            });
            match tried {
                Err(refusal) => {
                    let _asker_may_be_gone = answer.send(Err(refusal));
                }
                Ok((root, command)) => {
                    locked(&kept).staging.insert(root);
                    let (told, done) = oneshot::channel();
                    let _loop_may_be_gone = notes.send(Note::Staged(command, by, told));
                    drop(hold);
                    let result = done.blocking_recv();
                    locked(&kept).staging.remove(&root);
                    if let Ok(result) = result {
                        let _asker_may_be_gone = answer.send(result);
                    }
                }
            }
        });
    }

    /// Answers a question about content. `elsewhere` says on whom it is placed if not
    /// on this member.
    pub fn inspect(
        &self,
        question: Question,
        application: Option<Application>,
        elsewhere: Option<String>,
        answer: oneshot::Sender<Result<Findings, Refusal>>,
    ) {
        if let (Question::Compare { app, .. }, Some(_), None) =
            (&question, &application, &elsewhere)
        {
            locked(&self.watching).compared.insert(app.clone(), Instant::now());
            self.content.watch_soon(app);
            self.watch_anew();
        }
        let (content, store) = (self.content.clone(), self.store.clone());
        let notes = self.notes.clone();
        self.tasks.spawn_blocking(move || {
            let result = match application {
                None => {
                    let (app, what) = (question.app(), question.unanswered());
                    Err(crate::member::change::no_such_app(app, what))
                }
                Some(application) => match elsewhere {
                    Some(whom) if question.is_of_live_content() => {
                        Err(inspect::not_here(question.app(), &whom))
                    }
                    elsewhere => {
                        // No collection takes what is being compared.
                        let _hold = store.hold();
                        if elsewhere.is_some() {
                            // Without it, what follows says so.
                            let root = application.current().root;
                            let _here = content.has_listing(&root, LISTING_WITHIN);
                        }
                        inspect::answer(&content, &store, question, &application)
                    }
                },
            };
            let damaged = match &result {
                Ok(Findings::Verified(found)) if found.store_damaged > 0 => Some(&found.root),
                Ok(Findings::Compared(found)) if found.lacking > 0 => Some(&found.root),
                _ => None,
            };
            if let Some(root) = damaged.and_then(|root| Digest::parse(root)) {
                let _loop_may_be_gone = notes.send(Note::Input(Input::Damaged { root }));
            }
            let _asker_may_be_gone = answer.send(result);
        });
    }

    /// Content with other roots is collected before long.
    pub fn retain(&self, roots: Vec<Digest>) {
        let mut kept = locked(&self.kept);
        let roots: BTreeSet<Digest> = roots.into_iter().collect();
        // A root that is new is no reason to collect; one that went is.
        if kept.roots.difference(&roots).next().is_some() {
            kept.rounds = COLLECT_ROUNDS;
        }
        kept.roots = roots;
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

/// Collects from time to time, while there is something to collect. What was
/// put since the last round survives the next one, so it takes two.
async fn collect(content: Content, kept: Arc<Mutex<Kept>>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
        if locked(&kept).rounds == 0 {
            continue;
        }
        let (content, kept) = (content.clone(), Arc::clone(&kept));
        let collected = tokio::task::spawn_blocking(move || {
            let keep = {
                let kept = locked(&kept);
                kept.roots.union(&kept.staging).copied().collect()
            };
            match content.retain(&keep) {
                Ok(freed) => {
                    tracing::debug!(?freed, "collected what no version needs");
                    if !freed.postponed {
                        let mut kept = locked(&kept);
                        kept.rounds = kept.rounds.saturating_sub(1);
                    }
                }
                Err(error) => tracing::warn!(%error, "what no version needs was not collected"),
            }
        });
        if let Err(error) = collected.await {
            tracing::error!(%error, "the collection of content ended before its time");
        }
    }
}

/// The application that `root` is a version of, or is to be.
fn app_of(catalog: &Catalog, root: Digest) -> Option<&AppName> {
    let publication = catalog.window.iter().filter_map(|w| w.publication.as_ref());
    let staged = publication.map(|p| (&p.app, &p.version));
    let current = catalog.applications.iter().map(|(app, a)| (app, a.current()));
    staged.chain(current).find(|(_, version)| version.root == root).map(|(app, _)| app)
}

/// The trees that are here whole: what is live, of `app` first, whose next
/// version is most like it, and then the newest first.
fn bases(mut active: Vec<Active>, app: Option<&AppName>) -> Vec<Digest> {
    active.sort_by_key(|active| (Some(&active.app) != app, Reverse(active.sequence)));
    let mut bases = Vec::new();
    for Active { root, .. } in active {
        if bases.len() < limits::BASES_MAX && !bases.contains(&root) {
            bases.push(root);
        }
    }
    bases
}

/// A poisoned lock means that a thread panicked between two whole operations
/// on the set: it is usable.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The number and signature of each application's current version.
type Current = BTreeMap<AppName, (u64, Digest)>;

/// Whom secrets are sealed for: all that an application with `spec` is placed on.
pub(super) fn keys_of(roster: &Roster, spec: &AppSpec) -> BTreeMap<MemberId, PublicKey> {
    roster.placed(spec).members().map(|member| (member.id, member.key)).collect()
}

fn stage(
    content: &Content,
    data: &Path,
    publish: &Publish,
    applications: &Current,
    sealed_anew: impl Fn(&AppName, Digest, &AppSpec) -> Option<String>,
    certificate: impl Fn(&AppName, &Defined) -> Result<(), String>,
    seek: impl Fn(&AppName),
) -> Result<(Digest, Command), Refusal> {
    let source: PathBuf = publish.source.clone();
    if !source.is_absolute() {
        return Err(Refusal::new(
            Reason::Invalid,
            "The directory was not published.",
            format!("{} is not an absolute path.", source.display()),
            "Give the whole path, from /.",
        ));
    }
    source::refuse_directory(data, &source)?;
    let mut manifest = Manifest::load(&source)?;
    if let Some(place) = &publish.place {
        manifest.application.path = Some(place.clone());
    }
    let is_first = applications.keys().all(|app| Some(app) == publish.app.as_ref());
    let Resolved { app, spec, mut texts } =
        manifest.resolve(publish.app.clone(), publish.hosts.clone(), is_first)?;
    let what = format!("{app} was not published; its version stays as it was.");
    let own = publish.own_texts().map_err(|why| {
        Refusal::new(Reason::Invalid, &what, why, "Correct that definition, and publish again.")
    })?;
    texts.extend(own);
    let refuse = |error: ContentError| {
        let reason = if error.is_full() { Reason::Failed } else { Reason::Invalid };
        Refusal::new(reason, &what, format!("{error}."), "Mend the cause, and publish again.")
    };
    // Secrets are no part of a manifest: they stay as they are.
    let current = applications.get(&app).copied();
    if current.is_some_and(|(_, root)| !content.has_listing(&root, Duration::ZERO).unwrap_or(false))
    {
        seek(&app);
    }
    if let Some((number, root)) = current
        && !content.has_listing(&root, LISTING_WITHIN).map_err(refuse)?
    {
        return Err(Refusal::new(
            Reason::NotFound,
            &what,
            format!("This member does not hold version {number} yet, whose secrets are to stay."),
            "Publish on another member, or when `althing status` says that this one is in step.",
        ));
    }
    let anew = current.and_then(|(_, root)| sealed_anew(&app, root, &spec));
    let secrets_of = current.map(|(_, root)| root).filter(|_| anew.is_none());
    texts.extend(anew.map(|text| (Sealed::path(), text)));
    let made = Made { texts, secrets_of };
    let staged = content.stage(&source, &spec.ignore, &made).map_err(refuse)?;
    let defined = content.defined_by(&staged.root).map_err(refuse)?.map_err(|why| {
        let why = format!("{}.", why.replace("set APP", &format!("set {app}")));
        Refusal::new(Reason::Invalid, &what, why, "Do that, or correct althing.toml.")
    })?;
    certificate(&app, &defined).map_err(|why| {
        let todo = "Set it anew with `althing secret set`, or name another one in althing.toml.";
        Refusal::new(Reason::Invalid, &what, format!("{}.", super::run::sentence(&why)), todo)
    })?;
    // Secrets that are set while this is staged must not be lost by it.
    let against = current.map(|(number, _)| number).filter(|_| defined.secrets.is_some());
    let command = Command::Publish {
        app,
        staged: Staged { root: staged.root, files: staged.files, bytes: staged.bytes },
        spec: Box::new(spec),
        message: publish.message.clone(),
        base: publish.base.or(against),
    };
    Ok((staged.root, command))
}

/// What was replaced is kept for a while, and not for ever.
fn tidy_aside(content: &Content, app: &AppName) {
    if let Err(error) = content.prune_aside(app, ASIDE_BYTES_MAX, ASIDE_KEPT) {
        tracing::warn!(%app, %error, "what was kept aside could not be tidied");
    }
}

fn switched(done: &Activated, root: Digest) -> Switched {
    let LiveEdits { kept, aside } = &done.edits;
    Switched {
        root: done.merged.unwrap_or(root),
        kept: kept.len() as u64,
        aside: aside.len() as u64,
        sample: aside.iter().take(SAMPLE).map(|path| path.to_string()).collect(),
    }
}

fn withdrawn(done: Withdrawn) -> crate::member::Withdrawn {
    let Withdrawn { aside, left, place } = done;
    let place = (aside > 0).then(|| place.display().to_string());
    crate::member::Withdrawn { aside, left, place }
}

fn repair(done: &Repaired) -> Repair {
    let paths = done.set.iter().chain(&done.added).chain(&done.deleted);
    Repair {
        set: done.set.len() as u64,
        added: done.added.len() as u64,
        deleted: done.deleted.len() as u64,
        sample: paths.take(SAMPLE).map(|path| path.to_string()).collect(),
    }
}

fn failure(error: &ContentError) -> ContentFailure {
    match error {
        ContentError::Superseded { .. } | ContentError::GaveWay(_) => ContentFailure::Outdated,
        ContentError::Held { why, .. } => ContentFailure::Failed(why.clone()),
        ContentError::NotHere(_)
        | ContentError::Store(StoreError::Corrupt(_) | StoreError::NotFound(_)) => {
            ContentFailure::Lost(error.to_string())
        }
        _ => ContentFailure::Failed(error.to_string()),
    }
}

fn fetch_failure(error: &TransferError) -> FetchFailure {
    if error.is_lacking() {
        FetchFailure::Lacking
    } else if error.is_lie() {
        FetchFailure::Lied(error.to_string())
    } else if matches!(error, TransferError::Store(_)) {
        FetchFailure::Disk(error.to_string())
    } else {
        FetchFailure::Broken(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_the_first_base_and_no_root_is_named_twice() {
        let name = |n: u64| AppName::parse(&format!("app{n}")).unwrap();
        let active = |n: u64, root: u64| Active {
            app: name(n),
            version: 1,
            sequence: n,
            root: Digest::of_bytes(&root.to_le_bytes()),
            live: PathBuf::new(),
            ignore: Vec::new(),
        };
        let roots = |list: &[u64]| -> Vec<Digest> {
            list.iter().map(|root| Digest::of_bytes(&root.to_le_bytes())).collect()
        };
        let all = vec![active(1, 11), active(2, 12), active(3, 11), active(4, 14)];
        assert_eq!(bases(all.clone(), Some(&name(2))), roots(&[12, 14, 11]));
        assert_eq!(bases(all.clone(), Some(&name(9))), roots(&[14, 11, 12]));
        assert_eq!(bases(all, None), roots(&[14, 11, 12]));
        let many: Vec<Active> = (0..99).map(|n| active(n, n)).collect();
        let found = bases(many, Some(&name(5)));
        assert_eq!(found.len(), limits::BASES_MAX);
        assert_eq!(found[..2], roots(&[5, 98]));
    }
}
