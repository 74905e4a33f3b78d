//! The loop: one task that owns the member.
//!
//! What waits at the network is handled before timers that fire, so that a
//! member that was slow does not accuse others of its own sloth.
//!
//! Here is the order of things, and what the loop is made of; what it does with
//! each thing that wakes it is in the files beside.

use std::{
    collections::{BTreeMap, VecDeque},
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
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ended, Metrics,
    addresses::{self, Addresses},
    certificates,
    content::Content,
    forwarder::{Forwarder, Tunnel},
    hooks,
    keys::NextKeys,
    listeners::OwnPorts,
    persist::{self, Write},
    rules, scrub, services,
    sites::SiteTable,
    start::wall_now,
    telemetry::{self, Telemetry, asking::Measured},
    transfer::Asker,
    tuning::Tuning,
    watchdog::{Doing, Pulse},
    work::Work,
};
use crate::{
    base::{AppName, Refusal, SecretKey, Time, catalog::Roster},
    driver::services::Passage,
    gateway::{self, access::Log, origins::Database, vip},
    member::{
        Effect, Input, Member, Restored,
        command::{By, Command, Outcome},
        event::{Event, EventKind, Severity},
        view::View,
    },
    net::{Net, NetEvent, StreamKind},
    store::ContentStore,
};

mod begin;
mod effects;
mod notices;
mod requests;
mod ruled;
mod shown;
mod sites;
mod stopping;
mod telling;

use shown::{VIEW_AT_LEAST, VIEW_EVERY};
use sites::COLD_LOOK;
use stopping::Soon;

pub(super) use begin::{Begun, Standing, begin, open};
pub(super) use effects::peers_of;
pub(super) use telling::sentence;

/// Inputs that are handled before the timers are looked at.
const BATCH: usize = 256;
/// How long a stopping member waits for its record to be written.
const WRITER_WITHIN: Duration = Duration::from_secs(2);
/// How long a member that leaves waits for its last words to be sent.
const FAREWELL: Duration = Duration::from_millis(400);

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
    /// Whether operators may bring content.
    pub uploads: bool,
    /// What can be set anew while it runs.
    pub tuning: Tuning,
    /// What happened before this start and is to be told.
    pub news: Option<String>,
    /// Where what services print is kept.
    pub logs: PathBuf,
    /// How programs of other users get to their trees.
    pub passage: Passage,
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
                let far = self.member.is_far(from);
                self.work.serve_pull(Asker { id: from, far }, send, recv);
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

    fn ticket(&mut self) -> u64 {
        self.ticket_next += 1;
        self.ticket_next
    }
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
