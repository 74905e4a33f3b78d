//! The loop: one task that owns the member.
//!
//! What waits at the network is handled before timers that fire, so that a
//! member that was slow does not accuse others of its own sloth.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ended, Handle, Listening, Metrics,
    addresses::{self, Addresses},
    certificates,
    content::Content,
    forwarder::{Forwarder, Tunnel},
    handle::{Acted, Request},
    hooks,
    inspect::Question,
    keys::NextKeys,
    listeners::{self, OwnPorts},
    logged,
    persist::{self, Write},
    rules, scrub,
    secrets::{Base, Others},
    services::{self, Ask, Heard},
    sites::SiteTable,
    start::wall_now,
    telemetry::{
        self, Keeping, Telemetry,
        asking::{self, Measured, SeriesQuestion},
        receive,
    },
    tuning::Tuning,
    watchdog::{Doing, Pulse},
    work::{self, Work},
};
use crate::{
    base::{
        AppName, MemberId, MemberName, Reason, Refusal, SecretKey, Time,
        catalog::{Application, Enrolled, Roster},
        limits,
        metric::{Known, Series},
        operator::AskedBy,
    },
    driver::{
        host::Usage,
        services::{ServiceEvent, ServiceStatus, State, Supervisor},
    },
    gateway::{
        self, Front,
        access::{Log, LogEvent},
        origins::{Database, DatabaseEvent},
        ports::{Means, PortEvent, Ports},
        vip,
    },
    member::{
        Config, Effect, Input, Member, Restored,
        admission::IS_ENROLLED,
        change::{least_in_service, too_few_left},
        command::{By, Command, Outcome},
        event::{Event, EventKind, Severity},
        view::{Health, View},
    },
    net::{self, Lane, Net, NetEvent, Peer, StreamKind},
    proto::{election, rule, telemetry::Reading},
    store::ContentStore,
};

mod stopping;

use stopping::{Soon, Stopping};

/// Inputs that are handled before the timers are looked at.
const BATCH: usize = 256;
/// How often views are made for those who watch, at the most and at the least.
const VIEW_EVERY: Duration = Duration::from_millis(150);
/// See [`VIEW_EVERY`].
const VIEW_AT_LEAST: Duration = Duration::from_secs(1);
/// How often the gateway's table of who serves what is made anew, at the most.
const SITES_EVERY: Duration = Duration::from_millis(250);
/// The same where nothing is known to have changed: what somebody said may have become too old.
const SITES_AT_LEAST: Duration = Duration::from_secs(1);
/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;
/// How long a starting member takes no clients because nobody would answer them, at most.
const COLD_MAX: Duration = Duration::from_secs(15);
/// How often it looks whether somebody would.
const COLD_LOOK: Duration = Duration::from_millis(50);
/// How long a stopping member waits for its record to be written.
const WRITER_WITHIN: Duration = Duration::from_secs(2);
/// How long one question at a door may take.
const ASK_AS_WITHIN: Duration = Duration::from_secs(5);
/// How long a member that leaves waits for its last words to be sent.
const FAREWELL: Duration = Duration::from_millis(400);

/// Episodes whose first event is remembered.
const EPISODES_MAX: usize = 1_000;

/// All that a running member is made of.
pub(super) struct Parts {
    pub key: SecretKey,
    pub next_keys: NextKeys,
    pub address: SocketAddr,
    /// Where somebody of the cluster may be, as the operator says.
    pub seeds: Vec<SocketAddr>,
    pub restored: Restored,
    pub network: Net,
    pub network_events: mpsc::Receiver<NetEvent>,
    pub store: ContentStore,
    pub content: Content,
    pub paths: persist::Paths,
    pub pace: u32,
    /// What can be set anew while it runs.
    pub tuning: Tuning,
    /// What happened before this start and is to be told.
    pub news: Option<String>,
    /// Where what services print is kept.
    pub logs: PathBuf,
    /// How virtual addresses are held.
    pub addresses: vip::Config,
    /// The data directory.
    pub data: PathBuf,
    /// Where secrets are kept that others have sealed for this member.
    pub secrets: PathBuf,
    /// Where measurements and events are kept.
    pub measured: telemetry::Paths,
    /// Where it is kept which rules act.
    pub episodes: PathBuf,
}

/// What comes back from beside the loop.
pub(super) enum Note {
    Input(Input),
    /// The sites that this member serves changed.
    SitesChanged,
    /// Why the record can't be kept, which the member does not know of; none
    /// once it can.
    Trouble(Option<String>),
    /// The process stood still.
    Stood(String),
    /// A live tree can't be watched.
    Unwatched(String),
    /// The scrub met something that is not what it was.
    Rotten(scrub::Found),
    /// What runs, or should.
    Services(services::Notice),
    /// What runs after a switch.
    Hooks(hooks::Notice),
    /// A rule acts, or is over.
    Rules(rules::Notice),
    /// What certificates are in use, and what is wrong with them.
    Certificates(certificates::Notice),
    /// What addresses the live versions define.
    Addresses(addresses::Defined),
    /// Whether addresses can be held here, and if not, why.
    AddressesUnable(Option<String>),
    /// What was to be published lies in the store now.
    Staged(Command, Option<By>, Answer),
    /// No request is under way here any more, and the member is to stop.
    Drained(oneshot::Sender<()>),
}

/// The answer to a question about measurements.
pub(super) type MeasuredOrNot = Result<Measured, Refusal>;

/// Where the answer to a command goes.
pub(super) type Answer = oneshot::Sender<Result<Outcome, Refusal>>;

/// What goes on while the member starts again with another key.
pub(super) struct Standing {
    requests: mpsc::Receiver<Request>,
    views: Arc<watch::Sender<Arc<View>>>,
    events: broadcast::Sender<Event>,
    recent: Arc<Mutex<VecDeque<Event>>>,
    event_number: u64,
    sites: Arc<SiteTable>,
    forwarder: Arc<Forwarder>,
    stats: Arc<gateway::Stats>,
    shutdown: CancellationToken,
    /// What serves people.
    gateway: TaskTracker,
    /// Requests can be answered.
    warm: CancellationToken,
    /// Whether sites are served over TLS, so that certificates are needed.
    by_tls: bool,
    supervisor: Arc<Supervisor>,
    service_events: mpsc::UnboundedReceiver<ServiceEvent>,
    /// Where sites are served at all.
    ports: Option<Arc<OwnPorts>>,
    port_events: mpsc::UnboundedReceiver<PortEvent>,
    /// Where requests are written down, and what happens to it.
    log: Option<Log>,
    log_events: mpsc::UnboundedReceiver<LogEvent>,
    telemetry: Telemetry,
    keeping: Option<Keeping>,
    telemetry_news: mpsc::UnboundedReceiver<telemetry::News>,
    /// Where clients are looked up, and what happens to that.
    origins: Option<Database>,
    origin_events: mpsc::UnboundedReceiver<DatabaseEvent>,
}

impl Standing {
    /// Ends what serves people.
    pub fn close(&self) {
        self.shutdown.cancel();
    }

    /// The same, and stops what runs.
    pub async fn end(&mut self) {
        self.close();
        self.supervisor.stop_all().await;
        if let Some(keeping) = self.keeping.take() {
            keeping.close().await;
        }
    }
}

/// A loop that is about to run.
pub(super) struct Begun {
    this: Loop,
    effects: Vec<Effect>,
    news: Option<String>,
    network_events: mpsc::Receiver<NetEvent>,
    notes: mpsc::UnboundedReceiver<Note>,
    writer: std::thread::JoinHandle<()>,
}

impl Begun {
    /// Runs it to its end.
    pub async fn run(mut self, standing: &mut Standing) -> Ended {
        if let Some(text) = self.news {
            self.this.tell_of_itself(EventKind::Catalog, Severity::Critical, text);
        }
        self.this.carry_out(self.effects);
        self.this.run(standing, self.network_events, self.notes).await;
        standing.event_number = self.this.event_number;
        standing.forwarder.set(None);
        self.this.finish(self.writer, standing).await
    }
}

/// Starts what serves people, and the first loop.
pub(super) fn open(
    parts: Parts,
    (plain, tls, statsd): (Option<TcpListener>, Option<TcpListener>, Option<UdpSocket>),
    front: Front,
) -> Result<(Handle, Standing, Begun), Refusal> {
    let (requests, request_queue) = mpsc::channel(64);
    let made = make_member(&parts);
    let (happened, service_events) = mpsc::unbounded_channel();
    // Once all is over nobody needs to know.
    let socket = parts.measured.socket.clone();
    // Programs run elsewhere.
    let absolute = std::path::absolute(&socket).unwrap_or_else(|_| socket.clone());
    let told = vec![("ALTHING_METRICS", absolute.into_os_string())];
    let happened = move |event| drop(happened.send(event));
    let supervisor = Arc::new(Supervisor::telling(parts.logs.clone(), told, happened));
    let sites = Arc::new(SiteTable::new(supervisor.endpoints()));
    let (port_happened, port_events) = mpsc::unbounded_channel();
    let (log_happened, log_events) = mpsc::unbounded_channel();
    if let Some(log) = &front.log {
        log.tell(move |event| drop(log_happened.send(event)));
    }
    let (news, telemetry_news) = mpsc::unbounded_channel();
    let (asked, stats) = (requests.downgrade(), Arc::<gateway::Stats>::default());
    let served = Arc::clone(&stats);
    let (runs, begun, mut usage) = (Arc::downgrade(&supervisor), Instant::now(), Usage::default());
    let counted = move |within| {
        let mut readings = counted(&asked, within);
        readings.extend(served.readings(wall_now()));
        let now = Time(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        let of = |status: ServiceStatus| {
            Some((format!("{}/{}", status.app, status.service), status.pid?))
        };
        // Whoever holds it keeps what it runs from being ended.
        let running = runs.upgrade().map(|supervisor| supervisor.status()).unwrap_or_default();
        readings.extend(usage.sample(now, running.into_iter().filter_map(of)));
        readings
    };
    let (custom, shutdown) = (receive::Told::default(), CancellationToken::new());
    let tuning = parts.tuning.clone();
    match receive::bind(&socket) {
        Ok(socket) => {
            tokio::spawn(receive::from_socket(socket, custom.clone(), shutdown.clone()));
        }
        Err(error) => {
            let text = format!("services can't tell what they measure at their socket: {error}");
            let _loop_reads_it = news.send(telemetry::News { severity: Severity::Warning, text });
        }
    }
    if let Some(port) = statsd {
        tokio::spawn(receive::from_port(port, custom.clone(), shutdown.clone()));
    }
    let (telemetry, keeping) =
        telemetry::start(parts.measured.clone(), counted, Arc::clone(&custom), news)
            .map_err(no_thread)?;
    let (origins_happened, origin_events) = mpsc::unbounded_channel();
    if let Some(origins) = &front.origins {
        origins.tell(move |event| drop(origins_happened.send(event)));
    }
    let mut standing = Standing {
        log: front.log.clone(),
        log_events,
        telemetry,
        keeping: Some(keeping),
        telemetry_news,
        origins: front.origins.clone(),
        origin_events,
        supervisor,
        service_events,
        requests: request_queue,
        views: Arc::new(watch::Sender::new(Arc::new(made.0.view(Time(0))))),
        events: broadcast::Sender::new(256),
        recent: Arc::default(),
        event_number: 0,
        sites,
        forwarder: Arc::default(),
        stats,
        shutdown,
        gateway: TaskTracker::new(),
        warm: CancellationToken::new(),
        ports: None,
        port_events,
        by_tls: tls.is_some(),
    };
    standing.stats.tally().set_database(front.origins.clone());
    let at = |listener: &Option<TcpListener>| listener.as_ref().and_then(|l| l.local_addr().ok());
    let address = at(&plain);
    standing.ports = address.map(|address| {
        let means = Means {
            sites: Arc::clone(&standing.sites) as _,
            leads: Arc::clone(&standing.sites) as _,
            network: Arc::clone(&standing.forwarder),
            stats: Arc::clone(&standing.stats),
            front: front.clone(),
        };
        let tell = move |event| drop(port_happened.send(event));
        let ports = Ports::new(means, tell, standing.shutdown.clone());
        Arc::new(OwnPorts::new(ports, address.ip()))
    });
    let begun = put_together(parts, made, &mut standing)?;
    let listening = Listening { sites: at(&plain), tls: at(&tls) };
    if plain.is_some() || tls.is_some() {
        let known = standing.sites.certificates().known();
        let doors = gateway::Doors { plain, tls: tls.map(|listener| (listener, known)) };
        let sites: Arc<dyn gateway::Sites> = Arc::clone(&standing.sites) as _;
        let (forwarder, stats) = (Arc::clone(&standing.forwarder), Arc::clone(&standing.stats));
        let serve =
            gateway::serve(doors, front, sites, forwarder, stats, standing.shutdown.clone());
        let (warm, shutdown) = (standing.warm.clone(), standing.shutdown.clone());
        standing.gateway.spawn(async move {
            // Clients wait in the kernel's queue until there is somebody who answers.
            tokio::select! {
                () = warm.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
            serve.await;
        });
    }
    standing.gateway.close();
    let handle = Handle {
        requests,
        views: Arc::clone(&standing.views),
        events: standing.events.clone(),
        recent: Arc::clone(&standing.recent),
        stats: Arc::clone(&standing.stats),
        custom,
        listening,
        tuning,
    };
    Ok((handle, standing, begun))
}

/// Makes the next loop, and everything beside it.
pub(super) fn begin(parts: Parts, standing: &mut Standing) -> Result<Begun, Refusal> {
    let made = make_member(&parts);
    standing.views.send_replace(Arc::new(made.0.view(Time(0))));
    put_together(parts, made, standing)
}

/// The member, when it was made, and what it wants first.
type Made = (Member, Instant, Vec<Effect>);

fn make_member(parts: &Parts) -> Made {
    let started = Instant::now();
    let mut effects = Vec::new();
    // Less than the machine has, where a control group or a mask says so.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config {
        key: parts.key.clone(),
        address: parts.address,
        processors: u16::try_from(processors).unwrap_or(u16::MAX),
        seeds: parts.seeds.clone(),
        seed: rand::random(),
    };
    let restored = parts.restored.clone();
    let mut member = Member::new(Time(0), wall_now(), config, restored, &mut effects);
    member.set_pace(Time(0), parts.pace);
    (member, started, effects)
}

fn no_thread(error: std::io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "This member did not start.",
        format!("It could not start a thread: {error}."),
        "Free memory or raise the limit on threads, and start again.",
    )
}

/// Asks the loop what it counts. Nothing if it is busy, or gone.
fn counted(requests: &mpsc::WeakSender<Request>, within: Duration) -> Vec<(Series, Reading)> {
    let (answer, answered) = std_mpsc::sync_channel(1);
    let Some(requests) = requests.upgrade() else { return Vec::new() };
    // One that is full is asked by others, and behind already.
    if requests.try_send(Request::Readings(answer)).is_err() {
        return Vec::new();
    }
    drop(requests);
    answered.recv_timeout(within).unwrap_or_default()
}

fn put_together(
    parts: Parts,
    (member, started, effects): Made,
    standing: &mut Standing,
) -> Result<Begun, Refusal> {
    let (notes, note_queue) = mpsc::unbounded_channel();
    let (persisted, failed, stood) = (notes.clone(), notes.clone(), notes.clone());
    let pulse = Pulse::start(move |text| drop(stood.send(Note::Stood(text)))).map_err(no_thread)?;
    let (writes, writer) = persist::spawn(
        parts.paths,
        // The loop is gone: nobody waits for it any more.
        move |input| drop(persisted.send(Note::Input(input))),
        move |trouble| drop(failed.send(Note::Trouble(trouble))),
    )
    .map_err(no_thread)?;
    // Before the first request: nobody is told that there is nothing.
    standing.sites.set(member.routes(Time(0)), &parts.content);
    standing.forwarder.set(Some(parts.network.clone()));
    // Without a door for clients it would count nothing, and say so as if it were something.
    let is_asked = standing.ports.is_some() || standing.by_tls;
    let runs = work::Runs {
        supervisor: Arc::clone(&standing.supervisor),
        key: parts.key.clone(),
        data: parts.data,
        secrets: parts.secrets,
        telemetry: standing.telemetry.clone(),
        stats: is_asked.then(|| Arc::clone(&standing.stats)),
        episodes: parts.episodes,
    };
    let work = Work::new(
        parts.content,
        parts.store,
        parts.network.clone(),
        runs,
        member.catalog(),
        notes.clone(),
        &parts.tuning,
    );
    if standing.by_tls {
        work.serve_certificates(Arc::clone(&standing.sites));
    }
    let able = notes.clone();
    // The loop may be gone: then nobody needs to know.
    let keeper = vip::Keeper::new(parts.addresses, move |unable| {
        drop(able.send(Note::AddressesUnable(unable)));
    });
    let this = Loop {
        addresses: Addresses::new(keeper),
        stopping: None,
        closing: standing.shutdown.clone(),
        gateway: standing.gateway.clone(),
        warm: standing.warm.clone(),
        forwarded: TaskTracker::new(),
        arrived: Arc::default(),
        member,
        started,
        network: parts.network,
        writes,
        work,
        notes,
        key: parts.key,
        next_keys: parts.next_keys,
        sites: Arc::clone(&standing.sites),
        forwarder: Arc::clone(&standing.forwarder),
        ports: standing.ports.clone(),
        stats: Arc::clone(&standing.stats),
        log: standing.log.clone(),
        origins: standing.origins.clone(),
        peers: Roster::default(),
        tickets: BTreeMap::new(),
        knocks: BTreeMap::new(),
        ticket_next: 0,
        views: Arc::clone(&standing.views),
        view_dirty: true,
        view_made: started,
        sites_dirty: true,
        sites_made: started,
        events: standing.events.clone(),
        recent: Arc::clone(&standing.recent),
        event_number: standing.event_number,
        telemetry: standing.telemetry.clone(),
        repairs: BTreeMap::new(),
        episodes: BTreeMap::new(),
        trouble: None,
        metrics: Metrics::default(),
        pulse,
        writes_last: 0,
        writes_done: 0,
        ended: None,
    };
    let (news, network_events) = (parts.news, parts.network_events);
    Ok(Begun { this, effects, news, network_events, notes: note_queue, writer })
}

struct Loop {
    addresses: Addresses,
    /// What is done once others hold the addresses that this member holds, or then at last.
    stopping: Option<Soon>,
    /// Ends what serves people, and that itself.
    closing: CancellationToken,
    gateway: TaskTracker,
    warm: CancellationToken,
    /// Requests that other members passed on.
    forwarded: TaskTracker,
    /// How many of them there were.
    arrived: Arc<AtomicU64>,
    member: Member,
    started: Instant,
    network: Net,
    writes: std_mpsc::Sender<Write>,
    work: Work,
    notes: mpsc::UnboundedSender<Note>,
    key: SecretKey,
    next_keys: NextKeys,
    forwarder: Arc<Forwarder>,
    sites: Arc<SiteTable>,
    ports: Option<Arc<OwnPorts>>,
    stats: Arc<gateway::Stats>,
    log: Option<Log>,
    origins: Option<Database>,
    peers: Roster,
    tickets: BTreeMap<u64, Answer>,
    knocks: BTreeMap<u64, oneshot::Sender<Vec<u8>>>,
    ticket_next: u64,
    views: Arc<watch::Sender<Arc<View>>>,
    view_dirty: bool,
    view_made: Instant,
    sites_dirty: bool,
    sites_made: Instant,
    events: broadcast::Sender<Event>,
    recent: Arc<Mutex<VecDeque<Event>>>,
    event_number: u64,
    telemetry: Telemetry,
    /// How often something was repaired since the start.
    repairs: BTreeMap<AppName, u64>,
    /// The first event of each episode of a rule, for what it brings about.
    episodes: BTreeMap<String, u64>,
    /// Why the record can't be kept, for as long as it can't.
    trouble: Option<String>,
    metrics: Metrics,
    pulse: Arc<Pulse>,
    /// The tokens of the last record that was handed to the writer, and of the
    /// last one that is on disk.
    writes_last: u64,
    writes_done: u64,
    ended: Option<Ended>,
}

impl Loop {
    async fn run(
        &mut self,
        standing: &mut Standing,
        mut network: mpsc::Receiver<NetEvent>,
        mut notes: mpsc::UnboundedReceiver<Note>,
    ) {
        let Standing {
            requests,
            service_events,
            port_events,
            log_events,
            origin_events,
            telemetry_news,
            ..
        } = standing;
        while self.ended.is_none() {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                Some(event) = network.recv() => self.on_network(event),
                Some(note) = notes.recv() => self.on_note(note),
                Some(event) = service_events.recv() => self.on_service(&event),
                Some(event) = port_events.recv() => self.on_port(&event),
                Some(event) = log_events.recv() => self.on_log(&event),
                Some(news) = telemetry_news.recv() => {
                    self.tell_of_itself(EventKind::Member, news.severity, news.text);
                }
                Some(event) = origin_events.recv() => self.on_origins(&event),
                request = requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => self.ended = Some(Ended::Stopped), // every handle is gone
                },
                () = sleep_until(wake) => {}
            }
            self.count_queues(&network, &notes);
            // One of each first, so that a flood from the network can starve
            // neither the disk's answers nor an operator.
            if let Ok(note) = notes.try_recv() {
                self.on_note(note);
            }
            if let Ok(request) = requests.try_recv() {
                self.on_request(request);
            }
            for _ in 0..BATCH {
                if let Ok(event) = network.try_recv() {
                    self.on_network(event);
                } else if let Ok(note) = notes.try_recv() {
                    self.on_note(note);
                } else {
                    break;
                }
            }
            let now = self.now();
            if self.member.deadline().is_some_and(|due| now >= due) {
                self.pulse.begin(Doing::Timer);
                let mut effects = Vec::new();
                self.member.tick(now, wall_now(), &mut effects);
                self.follow(effects);
                self.done();
            }
            if self.sites_made.elapsed() >= self.sites_pause() {
                self.pulse.begin(Doing::Sites);
                self.refresh_sites();
                self.done();
            }
            self.warm_up();
            self.go_on_stopping();
            self.show();
        }
    }

    /// Takes clients once there is somebody who answers them, here or on another member.
    fn warm_up(&mut self) {
        if self.warm.is_cancelled() {
            return;
        }
        if self.sites.is_warm() || self.started.elapsed() >= COLD_MAX {
            self.warm.cancel();
        }
    }

    /// How much waits behind what just woke the loop.
    fn count_queues(
        &mut self,
        network: &mpsc::Receiver<NetEvent>,
        notes: &mpsc::UnboundedReceiver<Note>,
    ) {
        let metrics = &mut self.metrics;
        metrics.queue_network = network.len() as u64;
        metrics.queue_notes = notes.len() as u64;
        metrics.queue = metrics.queue_network + metrics.queue_notes;
        metrics.queue_max = metrics.queue_max.max(metrics.queue);
    }

    /// What was begun is done. Returns how long it took, in microseconds.
    fn done(&mut self) -> u64 {
        let (took, too_long) = self.pulse.end();
        if let Some(text) = too_long {
            self.tell_of_itself(EventKind::Member, Severity::Warning, text);
        }
        took
    }

    /// Lets the last words out, then stops everything beside the loop.
    async fn finish(mut self, writer: std::thread::JoinHandle<()>, standing: &Standing) -> Ended {
        let ended = self.ended.unwrap_or(Ended::Stopped);
        let goes_on = matches!(ended, Ended::Rotated(_));
        // Nobody waits any longer: the answers say that the outcome is unknown.
        self.tickets.clear();
        self.knocks.clear();
        self.addresses.close().await;
        if ended != Ended::Stopped && !goes_on {
            tokio::time::sleep(FAREWELL).await;
        }
        if !goes_on {
            standing.close();
        }
        self.network.close("this member stops").await;
        drop(self.writes);
        // Ends with its queue. On a full disk it would go on trying for ever:
        // what it could not write was never said either.
        let joined = tokio::task::spawn_blocking(move || writer.join());
        let _given_up = tokio::time::timeout(WRITER_WITHIN, joined).await;
        self.work.finish().await;
        ended
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wake_at(&self) -> Option<Instant> {
        let member = self.member.deadline().map(|due| self.started + Duration::from_micros(due.0));
        let watched = self.views.receiver_count() > 0;
        let pause = if self.view_dirty { VIEW_EVERY } else { VIEW_AT_LEAST };
        let view = watched.then(|| self.view_made + pause);
        let sites = Some(self.sites_made + self.sites_pause());
        let stopping = self.stopping.as_ref().map(Soon::at);
        let cold = (!self.warm.is_cancelled()).then(|| Instant::now() + COLD_LOOK);
        member.into_iter().chain(view).chain(sites).chain(stopping).chain(cold).min()
    }

    fn show(&mut self) {
        if self.views.receiver_count() == 0 {
            return;
        }
        let pause = if self.view_dirty { VIEW_EVERY } else { VIEW_AT_LEAST };
        if self.view_made.elapsed() >= pause {
            self.view_dirty = false;
            self.view_made = Instant::now();
            self.pulse.begin(Doing::View);
            self.views.send_replace(Arc::new(self.view()));
            self.done();
        }
    }

    /// What the member knows, and what only the shell can know.
    fn view(&self) -> View {
        let mut view = self.member.view(self.now());
        if let Some(trouble) = &self.trouble {
            view.health = Health::Critical;
            view.reasons.insert(0, trouble.clone());
        }
        let mut complaints = self.work.complaints();
        complaints.extend(self.ports.iter().flat_map(|ports| ports.complaints()));
        let log = self.log.as_ref().and_then(Log::trouble);
        complaints.extend(log.map(|why| format!("{}.", sentence(&why))));
        let origins = self.origins.as_ref().and_then(Database::trouble);
        complaints.extend(origins.map(|why| format!("{why}.")));
        if !complaints.is_empty() {
            view.health = view.health.max(Health::Warning);
            view.reasons.extend(complaints);
        }
        let conduct = &self.member.catalog().conduct;
        let wide = rules::wide::complaints(conduct.episodes(), conduct.silences());
        for (severity, text) in self.work.judged().into_iter().chain(wide) {
            view.health = view.health.max(match severity {
                rule::Severity::Warning => Health::Warning,
                rule::Severity::Critical => Health::Critical,
            });
            view.reasons.push(text);
        }
        view
    }

    fn tell_member(&mut self, input: Input) {
        self.pulse.begin(doing(&input));
        if let Input::Persisted { token } = input {
            self.writes_done = self.writes_done.max(token);
        }
        let mut effects = Vec::new();
        let is_probe = matches!(input, Input::Packet { .. });
        self.member.handle(self.now(), wall_now(), input, &mut effects);
        if !is_probe {
            (self.view_dirty, self.sites_dirty) = (true, true);
        }
        self.follow(effects);
        let took = self.done();
        self.metrics.input_us_max = self.metrics.input_us_max.max(took);
    }

    /// Carries out what follows from time that passed or from an input. Where that is nothing
    /// but words to others, as it is while nobody asks for anything, what is derived from the
    /// member's state is made anew at its leisure.
    fn follow(&mut self, effects: Vec<Effect>) {
        let is_word = |e: &Effect| matches!(e, Effect::Packet { .. } | Effect::Message { .. });
        if !effects.iter().all(is_word) {
            (self.view_dirty, self.sites_dirty) = (true, true);
        }
        self.carry_out(effects);
    }

    /// From one look at who serves what to the next.
    fn sites_pause(&self) -> Duration {
        if self.sites_dirty { SITES_EVERY } else { SITES_AT_LEAST }
    }

    fn on_network(&mut self, event: NetEvent) {
        match event {
            NetEvent::Datagram { from, bytes } => {
                self.tell_member(Input::Packet { from, bytes });
            }
            NetEvent::Message { from, bytes } => {
                self.tell_member(Input::Message { from, bytes });
            }
            NetEvent::Lost { member } => self.tell_member(Input::Lost { member }),
            NetEvent::Refused { member } => self.tell_member(Input::Refused { member }),
            NetEvent::Disowned { member } => self.tell_member(Input::Disowned { member }),
            NetEvent::Foreign { member } => self.tell_member(Input::Foreign { member }),
            NetEvent::Knock { key, exporter, from, bytes, answer } => {
                let ticket = self.ticket();
                self.knocks.insert(ticket, answer);
                self.tell_member(Input::Knock { ticket, key, exporter, from, bytes });
            }
            NetEvent::Stream { from, kind: StreamKind::Pull, send, recv } => {
                self.work.serve_pull(from, send, recv);
            }
            NetEvent::Stream { from, kind: StreamKind::Ask, send, recv } => {
                // One that was removed a moment ago is told by the end of the stream.
                if let Some(asker) = self.member.catalog().roster.get(from) {
                    let asker = services::Asker { id: from, key: asker.key };
                    self.work.answer_services(asker, send, recv);
                }
            }
            NetEvent::Stream { kind: StreamKind::Http, send, recv, .. } => {
                let stream = tokio::io::join(recv, send);
                let sites: Arc<dyn gateway::Sites> = Arc::clone(&self.sites) as _;
                let stats = Arc::clone(&self.stats);
                self.arrived.fetch_add(1, Ordering::Relaxed);
                self.forwarded.spawn(gateway::serve_forwarded(stream, sites, stats));
            }
            NetEvent::Stream { kind: StreamKind::Tunnel, send, recv, .. } => {
                let stream = Tunnel(tokio::io::join(recv, send));
                let leads: Arc<dyn gateway::Leads> = Arc::clone(&self.sites) as _;
                let stats = Arc::clone(&self.stats);
                self.arrived.fetch_add(1, Ordering::Relaxed);
                self.forwarded.spawn(gateway::serve_tunnel(stream, leads, stats));
            }
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Input(input) => self.tell_member(input),
            Note::SitesChanged => self.refresh_sites(),
            Note::Drained(answer) => self.drained(answer),
            Note::Staged(command, by, answer) => self.on_command(command, by, answer),
            Note::Rotten(found) => self.on_rotten(found),
            Note::Services(notice) => self.on_definition(notice),
            Note::Hooks(notice) => self.on_hook(notice),
            Note::Rules(notice) => self.on_rule(notice),
            Note::Certificates(certificates::Notice { app, severity, text }) => {
                self.tell_about(EventKind::Service, severity, Some(app), text);
                self.view_dirty = true;
            }
            Note::Addresses(defined) => {
                if let Some(input) = self.addresses.defined(defined) {
                    self.tell_member(input);
                }
            }
            Note::AddressesUnable(why) => {
                if let Some(input) = self.addresses.able(why) {
                    self.tell_member(input);
                }
            }
            Note::Trouble(trouble) => {
                self.trouble = trouble.as_deref().map(|text| format!("{}.", sentence(text)));
                let (severity, text) = match trouble {
                    Some(text) => (Severity::Critical, text),
                    None => (Severity::Info, "this member can keep its record again".to_owned()),
                };
                self.tell_of_itself(EventKind::Member, severity, text);
            }
            Note::Stood(text) => self.tell_of_itself(EventKind::Member, Severity::Warning, text),
            Note::Unwatched(text) => {
                self.tell_of_itself(EventKind::Replication, Severity::Warning, text);
            }
        }
    }

    fn on_definition(&mut self, notice: services::Notice) {
        let (severity, app, text) = match notice {
            services::Notice::Seen(app, version, sight) => {
                self.tell_member(Input::Seen { app, version, sight });
                return;
            }
            services::Notice::Unusable(app, why) => {
                let text = format!(
                    "{why}; what ran of {app} goes on as it was: publish a version that can be used"
                );
                (Severity::Critical, app, text)
            }
            services::Notice::Waiting(app, why) => {
                let text = format!(
                    "{why}; what ran of {app} goes on as it was, and it is tried again by itself"
                );
                (Severity::Critical, app, text)
            }
            services::Notice::Used(app) => {
                let text = format!("what the version of {app} defines is in force here after all");
                (Severity::Info, app, text)
            }
        };
        self.tell_about(EventKind::Service, severity, Some(app), text);
        self.view_dirty = true;
    }

    fn on_hook(&mut self, notice: hooks::Notice) {
        let (severity, app, text) = match notice {
            hooks::Notice::Failed(app, version, why) => {
                let text = format!(
                    "{app} is switched to version {version}, and its after-switch hook {why}; it \
                     is tried again by itself"
                );
                (Severity::Warning, app, text)
            }
            hooks::Notice::Passed(app, version) => {
                let text = format!(
                    "the after-switch hook of {app} (version {version}) ended well after all"
                );
                (Severity::Info, app, text)
            }
            hooks::Notice::Edit(app, why) => {
                let text = format!(
                    "what was edited in {app} on this member is not published, because {why}"
                );
                (Severity::Warning, app, text)
            }
        };
        self.tell_about(EventKind::Version, severity, Some(app), text);
        self.view_dirty = true;
    }

    fn on_rule(&mut self, notice: rules::Notice) {
        match notice {
            rules::Notice::Told(rules::Told { severity, app, episode, text }) => {
                let me = self.member.catalog().roster.get(self.member.id());
                self.tell(Event {
                    number: 0,
                    at: wall_now(),
                    severity,
                    kind: EventKind::Rule,
                    member: me.map(|me| me.name.clone()),
                    app: Some(app),
                    text,
                    user: None,
                    cause: episode.as_ref().and_then(|name| self.episodes.get(name).copied()),
                    episode: episode.clone(),
                    asked: None,
                });
                if let Some(name) = episode {
                    self.episodes.entry(name).or_insert(self.event_number);
                    // By number, so that the oldest give way, whatever their names are.
                    while self.episodes.len() > EPISODES_MAX {
                        let oldest = self.episodes.iter().min_by_key(|(_, number)| **number);
                        let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
                        self.episodes.remove(&name);
                    }
                }
                self.view_dirty = true;
            }
            rules::Notice::Out { keep, because, answer } => match self.may_go(keep) {
                Ok(true) => {
                    self.order(Command::StandDown { keep, because, at: wall_now() }, answer);
                }
                // Another rule has done so already: it is out until both are over.
                Ok(false) if self.member.catalog().conduct.rest(self.member.id()).is_some() => {
                    drop(answer.send(Ok(true)));
                }
                // Whoever asked may have gone.
                other => drop(answer.send(other)),
            },
            rules::Notice::Back(answer) => {
                if self.member.catalog().conduct.rest(self.member.id()).is_some() {
                    self.order(Command::StandUp, answer);
                } else {
                    drop(answer.send(Ok(false)));
                }
            }
            rules::Notice::Drained(answer) => self.order(Command::Drained, answer),
            rules::Notice::Act(act, answer) => {
                let (done, outcome) = oneshot::channel();
                self.order(Command::Act(act), done);
                let notes = self.notes.clone();
                tokio::spawn(async move {
                    if let Ok(result) = outcome.await {
                        // The loop may be gone: then the next judge sees what came of it.
                        drop(notes.send(Note::Rules(rules::Notice::Acted(result, answer))));
                    }
                });
            }
            rules::Notice::Acted(result, answer) => {
                self.work.look_around(self.around());
                drop(answer.send(result));
            }
            rules::Notice::Sync(app) => {
                let all = self.member.catalog().applications.keys();
                let apps: Vec<AppName> =
                    all.filter(|one| app.as_ref().is_none_or(|app| app == *one)).cloned().collect();
                for app in apps {
                    let question = Question::Compare { app, full: true, lists: false };
                    // What it finds is put right by the vote, which tells of it.
                    self.on_request(Request::Inspect(question, oneshot::channel().0));
                }
            }
        }
    }

    /// Whether a rule may take this member out of service, as far as who is live goes: the rest
    /// is judged where the catalog is changed. False if it is out already, and does not wait.
    fn may_go(&self, keep: u16) -> Result<bool, Refusal> {
        let (catalog, me) = (self.member.catalog(), self.member.id());
        let roster = &catalog.roster;
        if roster.get(me).is_none_or(|me| me.standby) {
            return Ok(catalog.conduct.is_waiting(me));
        }
        let serves = |m: &&Enrolled| m.id != me && !m.standby && self.member.is_live(m.id);
        let left = roster.members.iter().filter(serves).count();
        let least = least_in_service(catalog, keep);
        if left < least { Err(too_few_left(left, least)) } else { Ok(true) }
    }

    /// Carries out what a rule says of this member.
    fn order(&mut self, command: Command, answer: oneshot::Sender<Result<bool, Refusal>>) {
        let (done, outcome) = oneshot::channel();
        self.on_command(command, None, done);
        tokio::spawn(async move {
            if let Ok(outcome) = outcome.await {
                // Whoever asked may have gone.
                drop(answer.send(outcome.map(|_| true)));
            }
        });
    }

    fn on_service(&mut self, event: &ServiceEvent) {
        let (severity, app) = (services::severity(event), Some(event.app.clone()));
        self.tell_about(EventKind::Service, severity, app, event.to_string());
        self.view_dirty = true;
    }

    fn on_log(&mut self, event: &LogEvent) {
        let severity = match event {
            LogEvent::Failed(_) | LogEvent::Behind(_) => Severity::Warning,
            LogEvent::Again(_) => Severity::Info,
        };
        self.tell_of_itself(EventKind::Member, severity, event.to_string());
        self.view_dirty = true;
    }

    fn on_origins(&mut self, event: &DatabaseEvent) {
        let severity = match event {
            DatabaseEvent::Failed(_) => Severity::Warning,
            DatabaseEvent::Renewed(_) => Severity::Info,
        };
        self.tell_of_itself(EventKind::Member, severity, event.to_string());
        self.view_dirty = true;
    }

    fn on_port(&mut self, event: &PortEvent) {
        let (severity, app) = (listeners::severity(event), Some(event.app.clone()));
        self.tell_about(EventKind::Service, severity, app, event.to_string());
        self.view_dirty = true;
    }

    fn on_rotten(&mut self, found: scrub::Found) {
        match found {
            scrub::Found::Store { root, chunks } => {
                let what = if chunks == 1 { "a piece" } else { "pieces" };
                let text = format!(
                    "the scrub found {chunks} {what} of content {root} rotten or lost in this \
                     member's store; others are asked for what is needed of it"
                );
                self.tell_of_itself(EventKind::Replication, Severity::Warning, text);
                self.tell_member(Input::Damaged { root });
            }
            scrub::Found::Live { app } => {
                let text = format!(
                    "the scrub found that the disk under {app} does not hold what was written \
                     there; the vote sees the difference now"
                );
                self.tell_of_itself(EventKind::Vote, Severity::Warning, text);
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Command(Command::Leave, _, answer) => self.stop_soon(Stopping::Leave(answer)),
            Request::Command(command, by, answer) => self.on_command(command, by, answer),
            // Whoever asked may have gone: then nobody needs the answer.
            Request::View(answer) => drop(answer.send(self.view())),
            Request::Metrics(answer) => drop(answer.send(self.metrics())),
            // The thread waits no longer than it said.
            Request::Readings(answer) => drop(answer.try_send(self.readings())),
            Request::Tell(severity, text) => {
                self.tell_of_itself(EventKind::Member, severity, text);
            }
            Request::Publish(publish, by, answer) => {
                self.work.publish(*publish, by, self.member.catalog(), answer);
            }
            Request::Secrets(edits, answer) => {
                self.seek(&edits.app);
                let catalog = self.member.catalog();
                let application = catalog.application(&edits.app).cloned();
                let spec = application.as_ref().map(|a| a.current().spec.clone());
                let base = Base {
                    application,
                    members: work::keys_of(&catalog.roster, &spec.unwrap_or_default()),
                    is_first: catalog.applications.keys().all(|app| *app == edits.app),
                };
                self.work.edit_secrets(edits, base, answer);
            }
            Request::PublishEdits(edits, answer) => {
                self.seek(&edits.app);
                let application = self.member.catalog().application(&edits.app).cloned();
                self.work.publish_edits(*edits, application, answer);
            }
            Request::Inspect(question, answer) => {
                self.seek(question.app());
                let (catalog, me) = (self.member.catalog(), self.member.id());
                let application = catalog.application(question.app()).cloned();
                let placed = catalog.placed(question.app()).filter(|placed| !placed.contains(me));
                let whom = placed.map(|placed| {
                    let names: Vec<&str> =
                        placed.members().take(10).map(|m| m.name.as_str()).collect();
                    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
                });
                self.work.inspect(question, application, whom, answer);
            }
            Request::Services(member, ask, answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.ask_services(member, &ask));
            }
            Request::Series(question, answer) => self.ask_series(&question, answer),
            Request::Levels(question, answer) => {
                let me = self.member.id();
                let is_live = |id| id == me || self.member.is_live(id);
                let seen = rules::levels::Seen::new(self.member.catalog(), is_live);
                self.work.levels(question, seen, answer);
            }
            Request::Operator(token, answer) => {
                let operator = self.member.catalog().conduct.operator_with(&token).cloned();
                drop(answer.send(operator));
            }
            Request::Acted(Acted { severity, app, text, cause, operator }, answer) => {
                let me = self.member.catalog().roster.get(self.member.id());
                let at = me.map(|me| me.name.clone());
                self.tell(Event {
                    number: 0,
                    at: wall_now(),
                    severity,
                    kind: EventKind::Operator,
                    member: at.clone(),
                    app,
                    text,
                    user: None,
                    cause,
                    episode: None,
                    asked: operator.zip(at).map(|(operator, at)| AskedBy { operator, at }),
                });
                // It has gone on to whoever keeps it: now it may be done. Whoever asked may
                // have gone.
                let _ = answer.send(self.event_number);
            }
            Request::Watched => self.view_dirty = true,
            Request::Stop(answer) => self.stop_soon(Stopping::Stop(answer)),
        }
    }

    /// Somebody works on `app` here, wherever it is placed.
    fn seek(&mut self, app: &AppName) {
        if !self.member.catalog().is_placed(app, self.member.id()) {
            self.tell_member(Input::Sought { app: app.clone() });
        }
    }

    /// Asks one member, or all that are live.
    fn ask_services(
        &self,
        member: Option<MemberName>,
        ask: &Ask,
    ) -> Result<mpsc::Receiver<Heard>, Refusal> {
        Ok(self.work.ask_services(self.whom(member)?, ask))
    }

    /// Asks for measurements, and puts together what is told.
    fn ask_series(&self, question: &SeriesQuestion, answer: oneshot::Sender<MeasuredOrNot>) {
        let asked = question.resolve(wall_now()).and_then(|rows| {
            let whom = self.whom(question.member.clone())?;
            let spreads = question.percentiles;
            let ask = Ask::Series { pattern: question.series.clone(), grid: rows.grid, spreads };
            let names: Vec<_> = whom.iter().map(|asked| (asked.id, asked.name.clone())).collect();
            // Nobody waits for those that are down, and nobody is to forget them.
            let enrolled = &self.member.catalog().roster.members;
            let is_missing = |m: &&Enrolled| {
                question.member.is_none() && names.iter().all(|(id, _)| *id != m.id)
            };
            let down = enrolled.iter().filter(is_missing).map(|m| (m.id, m.name.clone()));
            let down: Vec<_> = down.collect();
            Ok((asking::Asked { live: names, down }, rows, self.work.ask_services(whom, &ask)))
        });
        let each = question.each;
        match asked {
            // Whoever asked may have gone.
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok((asked, rows, heard)) => {
                tokio::spawn(async move {
                    let measured = asking::gather(asked, rows, each, heard).await.show();
                    drop(answer.send(Ok(measured)));
                });
            }
        }
    }

    /// One member, or all that are live.
    fn whom(&self, member: Option<MemberName>) -> Result<Vec<services::Asked>, Refusal> {
        let me = self.member.id();
        let roster = &self.member.catalog().roster;
        let is_live = |id: MemberId| id == me || self.member.is_live(id);
        let wanted = |name: &MemberName| member.as_ref().is_none_or(|wanted| wanted == name);
        let enrolled = roster.members.iter().filter(|m| wanted(&m.name));
        let asked: Vec<services::Asked> = enrolled
            .filter(|m| member.is_some() || is_live(m.id))
            .map(|m| services::Asked { id: m.id, name: m.name.clone(), me: m.id == me })
            .collect();
        match member {
            Some(name) if asked.is_empty() => Err(Refusal::new(
                Reason::NotFound,
                "Nobody was asked.",
                format!("No member is named {name}."),
                "See `althing members` for those that are enrolled.",
            )),
            _ => Ok(asked),
        }
    }

    fn on_command(&mut self, command: Command, by: Option<By>, answer: Answer) {
        let ticket = self.ticket();
        self.tickets.insert(ticket, answer);
        self.tell_member(Input::Command { ticket, command, by });
    }

    fn ticket(&mut self) -> u64 {
        self.ticket_next += 1;
        self.ticket_next
    }

    fn metrics(&self) -> Metrics {
        let net = self.network.stats();
        let detector = self.member.detector();
        let counted = self.pulse.counted();
        let scrubbed = self.work.scrubbed();
        let served = self.stats.snapshot();
        Metrics {
            packets_sent: net.datagrams_sent,
            messages_sent: net.messages_sent,
            bytes_sent: net.bytes_sent,
            received: net.datagrams_received + net.messages_received,
            bytes_received: net.bytes_received,
            connections: net.connections,
            requests: served.requests,
            tcp_connections: served.tcp_connections,
            tcp_active: served.tcp_active,
            tcp_failures: served.tcp_failures,
            tcp_bytes_received: served.tcp_bytes_received,
            tcp_bytes_sent: served.tcp_bytes_sent,
            access_log_dropped: self.log.as_ref().map_or(0, Log::dropped),
            unwell: detector.unwell,
            suspicions: detector.suspicions,
            gossip_backlog: detector.backlog,
            queue_writes: self.writes_last.saturating_sub(self.writes_done),
            queue_proposals: self.member.pending_changes() as u64,
            rumors_kept: self.member.rumors_kept() as u64,
            stalls: counted.stalls,
            stall_us_max: counted.stall_us_max,
            stood_us_max: counted.stood_us_max,
            scrub_bytes: scrubbed.bytes.load(Ordering::Relaxed),
            scrub_damaged: scrubbed.damaged.load(Ordering::Relaxed),
            scrub_passes: scrubbed.passes.load(Ordering::Relaxed),
            ..self.metrics
        }
    }

    /// What is measured here once a second, beside the machine.
    fn readings(&self) -> Vec<(Series, Reading)> {
        let counts = self.member.counts(self.now());
        let metrics = self.metrics();
        let bare = [
            (Known::MembersLive, counts.live as f64),
            (Known::MembersDown, counts.down as f64),
            (Known::VotesHung, counts.hung as f64),
            (Known::VotesDiffering, counts.differing as f64),
            (Known::Queue, metrics.queue as f64),
            (Known::Stalls, metrics.stalls as f64),
            (Known::GossipBytes, metrics.bytes_sent as f64),
            (Known::ReplicationBytes, self.work.fetched() as f64),
            (Known::Repairs, self.repairs.values().sum::<u64>() as f64),
        ];
        let of_all = bare.map(|(known, value)| (Series::from(known), Reading::Number(value)));
        let mut readings = Vec::from(of_all);
        let mut put = |known, label: &str, value: f64| {
            // A label that is none can't be: these are names already.
            let series = Series::new(known, Some(label)).ok();
            readings.extend(series.map(|series| (series, Reading::Number(value))));
        };
        for (app, repairs) in &self.repairs {
            put(Known::Repairs, app.as_str(), *repairs as f64);
        }
        let (certificates, now) = (self.sites.certificates(), wall_now());
        for app in self.member.catalog().applications.keys() {
            if let Some(certificate) = certificates.of(app) {
                // Below zero once it is over.
                let left = certificate.until().0 as f64 - now.0 as f64;
                put(Known::CertificateDays, app.as_str(), left / DAY_MS);
            }
        }
        for status in self.work.services() {
            let label = format!("{}/{}", status.app, status.service);
            put(Known::ServiceRestarts, &label, status.restarts as f64);
            put(Known::ServiceReady, &label, f64::from(status.state == State::Ready));
        }
        readings
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Packet { to, bytes } => self.network.datagram(to, bytes),
                Effect::Message { to, bytes } => self.network.send(to, Lane::Register, bytes),
                Effect::Persist { token, record } => {
                    self.writes_last = token;
                    // The thread lives as long as this sender.
                    let _sent = self.writes.send(Write::Record { token, record });
                }
                Effect::Generation(number) => {
                    let _sent = self.writes.send(Write::Generation(number));
                }
                Effect::Peers(roster) => self.set_peers(roster),
                Effect::Address { member, address } => self.network.set_address(member, address),
                Effect::Answer { ticket, bytes } => {
                    if let Some(answer) = self.knocks.remove(&ticket) {
                        let _stranger_may_be_gone = answer.send(bytes);
                    }
                }
                Effect::Reply { ticket, result } => {
                    if let Some(answer) = self.tickets.remove(&ticket) {
                        let _asker_may_be_gone = answer.send(result);
                    }
                }
                Effect::Event(event) => self.tell(event),
                Effect::Addresses { held } => self.addresses.hold(held, self.started),
                Effect::NextKey { sequence } => {
                    let key = self.next_keys.add(rand::random(), sequence);
                    self.keep_next_keys(Some(Input::NextKey { key, sequence }));
                }
                Effect::ForgetKeys { sequence } => {
                    self.next_keys.forget(sequence);
                    self.keep_next_keys(None);
                }
                Effect::AskAs { id, address, .. } => self.ask_as(id, address),
                Effect::Seek { id, address } => self.look_who_is_at(id, address),
                Effect::Rotated { to } => self.ended = Some(Ended::Rotated(to)),
                Effect::Expelled { left } => {
                    self.ended = Some(if left { Ended::Left } else { Ended::Removed });
                }
                Effect::Retain { roots } => {
                    self.work.retain(roots);
                    self.refresh_sites();
                }
                Effect::Fetch { root, from, peers } => {
                    self.work.fetch(root, from, peers, self.member.catalog());
                }
                other => self.work.start(other),
            }
        }
    }

    fn keep_next_keys(&self, then: Option<Input>) {
        let _sent = self.writes.send(Write::NextKeys { bytes: self.next_keys.to_bytes(), then });
    }

    /// Asks a member at its door, as a stranger would, whether it knows a key. Another one than
    /// was meant may answer: who it is, its key says.
    fn ask_as(&self, id: MemberId, address: SocketAddr) {
        self.ask_at(id, address, move |by, bytes| Input::Told { id, by, bytes });
    }

    /// Asks the same where anybody of the cluster may be.
    fn look_who_is_at(&self, id: MemberId, address: SocketAddr) {
        self.ask_at(id, address, move |by, bytes| Input::Found { id, address, by, bytes });
    }

    /// Asks with this member's key or with a next one, by its `id`.
    fn ask_at(
        &self,
        id: MemberId,
        address: SocketAddr,
        told: impl FnOnce(MemberId, Vec<u8>) -> Input + Send + 'static,
    ) {
        let own = (id == self.member.id()).then(|| self.key.clone());
        let Some(key) = own.or_else(|| self.next_keys.get(id)) else { return };
        let cluster = self.member.catalog().cluster;
        let bind = SocketAddr::new(self.network.local_addr().ip(), 0);
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let build = |_exporter, _server| IS_ENROLLED.to_vec();
            match net::knock(&key, cluster, bind, address, build, ASK_AS_WITHIN).await {
                Ok((server, bytes)) => {
                    let input = told(MemberId::of(&server), bytes);
                    let _loop_may_be_gone = notes.send(Note::Input(input));
                }
                Err(error) => tracing::debug!(%address, %error, "asked in vain at the door"),
            }
        });
    }

    fn set_peers(&mut self, roster: Roster) {
        if roster == self.peers {
            return;
        }
        self.network.set_peers(peers_of(&roster, self.member.id()));
        self.peers = roster;
    }

    fn refresh_sites(&mut self) {
        self.sites_dirty = false;
        self.sites_made = Instant::now();
        let routes = self.member.routes(self.now());
        self.sites.set(routes, self.work.content());
        let lost = self.ports.as_ref().map(|ports| ports.refresh(&self.sites));
        for (app, text) in lost.unwrap_or_default() {
            self.tell_about(EventKind::Service, Severity::Warning, Some(app), text);
        }
        let catalog = self.member.catalog();
        let me = self.member.id();
        let others = catalog.roster.members.iter().map(|m| m.id).filter(|id| *id != me);
        let live: Vec<MemberId> = others.filter(|id| self.member.is_live(*id)).collect();
        self.forwarder.keep(&live.iter().copied().collect());
        let placed = |(app, application): (&AppName, &Application)| {
            let placed = catalog.roster.placed(&application.current().spec);
            (app.clone(), placed.members().map(|m| m.id).collect())
        };
        let placed = catalog.applications.iter().map(placed).collect();
        self.work.look_around(self.around());
        self.work.run_services(catalog, Others { live, placed });
        let automatic = catalog.applications.keys().filter(|app| catalog.automatic(app).is_some());
        self.work.watch(automatic.cloned().collect());
    }

    /// What rules about the cluster are judged by. Whoever sees no majority judges none of them: it
    /// could decide nothing, and would tell what others have ended.
    fn around(&self) -> rules::wide::Around {
        let (catalog, me, now) = (self.member.catalog(), self.member.id(), self.now());
        let is_live = |id: MemberId| id == me || self.member.is_live(id);
        let all = &catalog.roster.members;
        let live = all.iter().filter(|m| is_live(m.id)).map(|m| (m.id, m.name.clone())).collect();
        let rests = catalog.conduct.rest(me).is_some();
        let alone = rules::wide::Around { live, rests, ..rules::wide::Around::default() };
        let (seen, majority) = election::quorum_in_view(&catalog.roster, is_live);
        if seen < majority {
            return alone;
        }
        let judges = |app: &AppName| {
            let first = match catalog.placed(app) {
                // Who has not got it yet does not know its rules.
                Some(placed) => placed
                    .members()
                    .find(|m| self.member.can_serve(now, m.id, Some(app)))
                    .or_else(|| placed.members().find(|m| is_live(m.id))),
                // It is gone, and what its rules have begun is to end.
                None => all.iter().find(|m| is_live(m.id)),
            };
            first.is_some_and(|first| first.id == me)
        };
        let episodes = catalog.conduct.episodes();
        let apps = catalog.applications.keys().chain(episodes.iter().map(|of| &of.app));
        let apps: BTreeSet<AppName> = apps.filter(|app| judges(app)).cloned().collect();
        let episodes = episodes.iter().filter(|of| apps.contains(&of.app)).cloned().collect();
        let waits = |id: &MemberId| catalog.conduct.is_waiting(*id) && is_live(*id);
        let mut waiting: Vec<MemberId> = all.iter().map(|m| m.id).filter(waits).collect();
        // Who still receives something comes behind those that can serve.
        waiting.sort_by_key(|id| !self.member.can_serve(now, *id, None));
        let is_gone = |app: &&AppName| !catalog.applications.contains_key(*app);
        let gone = apps.iter().filter(is_gone).cloned().collect();
        rules::wide::Around { apps, gone, episodes, waiting, ..alone }
    }

    /// Tells of something that the member does not know of.
    fn tell_of_itself(&mut self, kind: EventKind, severity: Severity, text: String) {
        self.tell_about(kind, severity, None, text);
    }

    /// The same, about an application.
    fn tell_about(
        &mut self,
        kind: EventKind,
        severity: Severity,
        app: Option<AppName>,
        text: String,
    ) {
        self.tell(Event {
            number: 0,
            at: wall_now(),
            severity,
            kind,
            member: None,
            app,
            text,
            user: None,
            cause: None,
            episode: None,
            asked: None,
        });
    }

    fn tell(&mut self, mut event: Event) {
        self.event_number += 1;
        event.number = self.event_number;
        self.metrics.repairs += u64::from(event.kind == EventKind::Repair);
        logged::log(&event);
        // A poisoned lock means that a reader panicked: the events are whole.
        let mut recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        let is_users = |e: &Event| e.kind == EventKind::User;
        if is_users(&event)
            && recent.iter().filter(|e| is_users(e)).count() >= limits::USER_EVENTS_MAX
            && let Some(oldest) = recent.iter().position(is_users)
        {
            recent.remove(oldest);
        }
        if recent.len() >= limits::EVENTS_MAX {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        drop(recent);
        if event.kind == EventKind::Repair
            && let Some(app) = &event.app
        {
            *self.repairs.entry(app.clone()).or_default() += 1;
        }
        self.telemetry.event(event.clone());
        let _nobody_may_listen = self.events.send(event);
    }
}

/// With a capital: an event's text as a reason.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Whom a member of `roster` talks to.
pub(super) fn peers_of(roster: &Roster, me: MemberId) -> BTreeMap<MemberId, Peer> {
    let others = roster.members.iter().filter(|m| m.id != me);
    others.map(|m| (m.id, Peer { key: m.key, address: m.address })).collect()
}

/// What kind of input it is, for the watchdog.
fn doing(input: &Input) -> Doing {
    match input {
        Input::Packet { .. } => Doing::Packet,
        Input::Message { .. } | Input::Told { .. } | Input::Found { .. } => Doing::Message,
        Input::Knock { .. } => Doing::Knock,
        Input::Command { .. } => Doing::Command,
        Input::Persisted { .. } | Input::NextKey { .. } => Doing::Persisted,
        Input::Lost { .. }
        | Input::Refused { .. }
        | Input::Disowned { .. }
        | Input::Foreign { .. }
        | Input::Addresses { .. }
        | Input::HandOver => Doing::Hint,
        Input::Fetching { .. }
        | Input::Fetched { .. }
        | Input::Activated { .. }
        | Input::Noticed { .. }
        | Input::Scanned { .. }
        | Input::Repaired { .. }
        | Input::Damaged { .. }
        | Input::Withdrawn { .. }
        | Input::Sought { .. }
        | Input::Seen { .. }
        | Input::Ingested { .. } => Doing::Content,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
