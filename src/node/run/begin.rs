//! How a loop comes to be: what goes on while the member starts again with another key, the member
//! itself, and everything beside it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, mpsc as std_mpsc},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Loop, Note, Parts};
use crate::{
    base::{Reason, Refusal, Time, catalog::Roster, metric::Series},
    driver::{
        host::Usage,
        services::{ServiceEvent, ServiceStatus, Supervisor},
    },
    gateway::{
        self, Front,
        access::{Log, LogEvent},
        origins::{Database, DatabaseEvent},
        ports::{Means, PortEvent, Ports},
        vip,
    },
    member::{
        Config, Effect, Member,
        event::{Event, EventKind, Severity},
        view::View,
    },
    net::NetEvent,
    node::{
        Ended, Handle, Listening, Metrics,
        addresses::Addresses,
        forwarder::Forwarder,
        handle::Request,
        listeners::OwnPorts,
        persist,
        sites::SiteTable,
        start::wall_now,
        telemetry::{self, Keeping, Telemetry, receive},
        uploads::Uploads,
        watchdog::Pulse,
        work::{self, Work},
    },
    proto::telemetry::Reading,
};

/// What goes on while the member starts again with another key.
pub(in crate::node) struct Standing {
    pub(super) requests: mpsc::Receiver<Request>,
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
    pub(super) service_events: mpsc::UnboundedReceiver<ServiceEvent>,
    /// Where sites are served at all.
    ports: Option<Arc<OwnPorts>>,
    pub(super) port_events: mpsc::UnboundedReceiver<PortEvent>,
    /// Where requests are written down, and what happens to it.
    log: Option<Log>,
    pub(super) log_events: mpsc::UnboundedReceiver<LogEvent>,
    telemetry: Telemetry,
    keeping: Option<Keeping>,
    pub(super) telemetry_news: mpsc::UnboundedReceiver<telemetry::News>,
    /// Where clients are looked up, and what happens to that.
    origins: Option<Database>,
    pub(super) origin_events: mpsc::UnboundedReceiver<DatabaseEvent>,
    /// What operators bring from other machines.
    uploads: Uploads,
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
pub(in crate::node) struct Begun {
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
pub(in crate::node) fn open(
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
    let supervisor = Arc::new(Supervisor::telling(
        parts.logs.clone(),
        told,
        Some(parts.passage.clone()),
        happened,
    ));
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
        uploads: Uploads::new(parts.store.clone(), parts.uploads),
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
        uploads: standing.uploads.downgrade(),
    };
    Ok((handle, standing, begun))
}

/// Makes the next loop, and everything beside it.
pub(in crate::node) fn begin(parts: Parts, standing: &mut Standing) -> Result<Begun, Refusal> {
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
