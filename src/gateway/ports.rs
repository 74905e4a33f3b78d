//! Ports of applications: opened, served and closed as they are wanted. One that can't be
//! opened is tried again, and holds up nothing else.
//!
//! A port that is wanted in another way keeps its socket, so that nobody who waits in its
//! queue is turned away. One that is wanted no more takes no connections; those that are
//! open go on, until the process behind them ends.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Forward, Front, Leads, Sites, Stats, Tunnels, balance,
    connection::{Own, connections_max, is_of_one_connection, serve_own},
    tcp,
};
use crate::base::{AppName, Network};

/// Connections that wait in the kernel's queue, as far as it has so many.
const BACKLOG: u32 = 4_096;
/// How soon is tried again what could not be opened; twice as long after each attempt.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Attempts before it is told of: a socket that was just closed is gone in a moment.
const UNTOLD: u32 = 3;
/// What runs when the member stops may take this long to end.
const GRACE: Duration = Duration::from_secs(10);

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever its service speaks.
    Tcp,
    /// HTTP.
    Http,
}

/// One port that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Whose it is.
    pub app: AppName,
    /// What is spoken there.
    pub kind: Kind,
    /// Who has to say by a header of the PROXY protocol for whom it connects.
    pub accept_proxy: Vec<Network>,
    /// Connections at once; if not given, as many as half of the descriptors are enough for.
    pub connections: Option<usize>,
}

/// What is wanted, by where it listens.
pub type Wanted = BTreeMap<SocketAddr, Port>;

/// Something happened to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEvent {
    /// Whose it is.
    pub app: AppName,
    /// Where it listens, or should.
    pub address: SocketAddr,
    /// What happened.
    pub what: What,
}

/// What happens to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It takes connections.
    Open,
    /// It takes none any more, and none is wanted.
    Closed,
    /// It can't be opened: why, and what to do. It is tried again.
    Failed(String),
}

impl fmt::Display for PortEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, address, what } = self;
        match what {
            What::Open => write!(f, "this member takes connections for {app} at {address}"),
            What::Closed => write!(
                f,
                "this member takes no more connections for {app} at {address}; those that are \
                 open go on for a while"
            ),
            What::Failed(why) => {
                write!(f, "this member can't listen at {address} for {app}: {why}")
            }
        }
    }
}

/// The ports of this member.
#[derive(Debug)]
pub struct Ports {
    wanted: watch::Sender<Wanted>,
    troubles: Arc<Mutex<BTreeMap<SocketAddr, PortEvent>>>,
}

/// What requests and connections need.
pub struct Means<N> {
    /// Who answers requests.
    pub sites: Arc<dyn Sites>,
    /// Who takes connections.
    pub leads: Arc<dyn Leads>,
    /// The way to other members, for both.
    pub network: Arc<N>,
    /// What counts.
    pub stats: Arc<Stats>,
    /// What stands in front of this member. Headers of the PROXY protocol are a matter of
    /// each port.
    pub front: Front,
}

impl Ports {
    /// None is open yet. Until `shutdown` those are that are wanted; what happens is told
    /// to `tell`, which must not block.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and io, on which its tasks run.
    pub fn new<N: Forward + Tunnels>(
        means: Means<N>,
        tell: impl Fn(PortEvent) + Send + 'static,
        shutdown: CancellationToken,
    ) -> Self {
        let wanted = watch::Sender::new(Wanted::new());
        let troubles = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let tasks = TaskTracker::new();
        let Means { sites, leads, network, stats, front } = means;
        let balance = balance::Shared::new();
        let (tunnels, stats_of_tcp) = (network.clone(), stats.clone());
        let tcp = Arc::new(tcp::Shared { leads, tunnels, stats: stats_of_tcp, balance });
        let serving = Serving { sites, network, stats, front, tcp, tasks, shutdown };
        let keeper = Keeper {
            serving,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            troubles: Arc::clone(&troubles),
            tell,
        };
        tokio::spawn(keeper.run(wanted.subscribe()));
        Self { wanted, troubles }
    }

    /// These are wanted from now on, and no others.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = *before != wanted;
            *before = wanted;
            differs
        });
    }

    /// What can't be opened, each as a sentence without its capital and its point.
    pub fn complaints(&self) -> Vec<String> {
        locked(&self.troubles).values().map(PortEvent::to_string).collect()
    }
}

/// Opens and closes.
struct Keeper<N, T> {
    serving: Serving<N>,
    open: BTreeMap<SocketAddr, Open>,
    failed: BTreeMap<SocketAddr, Failed>,
    troubles: Arc<Mutex<BTreeMap<SocketAddr, PortEvent>>>,
    tell: T,
}

/// A port that is open.
struct Open {
    socket: std::net::TcpListener,
    port: Port,
    places: Arc<Places>,
    stop: CancellationToken,
}

/// One that is not.
struct Failed {
    attempts: u32,
    again: Instant,
}

impl<N: Forward + Tunnels, T: Fn(PortEvent) + Send + 'static> Keeper<N, T> {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        let shutdown = self.serving.shutdown.clone();
        loop {
            let now = wanted.borrow_and_update().clone();
            self.set(&now);
            let again = self.failed.values().map(|failed| failed.again).min();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = wanted.changed() => if changed.is_err() { break },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
        for open in self.open.values() {
            open.stop.cancel();
        }
        let tasks = self.serving.tasks.clone();
        drop(self);
        tasks.close();
        // What is still open then ends with the process.
        let _over = tokio::time::timeout(GRACE, tasks.wait()).await;
    }

    fn set(&mut self, wanted: &Wanted) {
        let gone: Vec<SocketAddr> =
            self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            if let Some(open) = self.open.remove(&address) {
                open.stop.cancel();
                (self.tell)(PortEvent { app: open.port.app, address, what: What::Closed });
            }
        }
        self.failed.retain(|address, _| wanted.contains_key(address));
        locked(&self.troubles).retain(|address, trouble| {
            wanted.get(address).is_some_and(|port| port.app == trouble.app)
        });
        for (address, port) in wanted {
            match self.open.get_mut(address) {
                Some(open) if open.port == *port => {}
                Some(open) => {
                    open.stop.cancel();
                    (open.port, open.stop) = (port.clone(), CancellationToken::new());
                    self.serve(*address);
                }
                None if self.failed.get(address).is_some_and(|f| f.again > Instant::now()) => {}
                None => self.open(*address, port),
            }
        }
    }

    fn open(&mut self, address: SocketAddr, port: &Port) {
        let app = port.app.clone();
        match bound(address) {
            Ok(socket) => {
                let (port, places, stop) = (port.clone(), Arc::default(), CancellationToken::new());
                self.open.insert(address, Open { socket, port, places, stop });
                self.failed.remove(&address);
                locked(&self.troubles).remove(&address);
                self.serve(address);
                (self.tell)(PortEvent { app, address, what: What::Open });
            }
            Err(error) => self.fail(app, address, advice(address, &error)),
        }
    }

    fn fail(&mut self, app: AppName, address: SocketAddr, why: String) {
        let failed =
            self.failed.entry(address).or_insert(Failed { attempts: 0, again: Instant::now() });
        let pause = RETRY_FIRST * 2_u32.saturating_pow(failed.attempts.min(16));
        failed.attempts = failed.attempts.saturating_add(1);
        failed.again = Instant::now() + pause.min(RETRY_MAX);
        if failed.attempts < UNTOLD {
            return;
        }
        let event = PortEvent { app, address, what: What::Failed(why) };
        let before = locked(&self.troubles).insert(address, event.clone());
        if before.as_ref() != Some(&event) {
            (self.tell)(event);
        }
    }

    /// Takes connections at an open port, until it is stopped.
    fn serve(&mut self, address: SocketAddr) {
        let Some(Open { socket, port, places, stop }) = self.open.get(&address) else { return };
        let listener = socket.try_clone().and_then(TcpListener::from_std);
        match listener {
            Ok(listener) => {
                self.serving.begin(address, listener, port.clone(), places.clone(), stop.clone());
            }
            Err(error) => {
                let app = port.app.clone();
                self.open.remove(&address);
                self.fail(app, address, advice(address, &error));
            }
        }
    }
}

/// What serves connections.
struct Serving<N> {
    sites: Arc<dyn Sites>,
    network: Arc<N>,
    stats: Arc<Stats>,
    front: Front,
    tcp: Arc<tcp::Shared<N>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<N: Forward + Tunnels> Serving<N> {
    fn begin(
        &self,
        address: SocketAddr,
        listener: TcpListener,
        port: Port,
        places: Arc<Places>,
        stop: CancellationToken,
    ) {
        let Port { app, kind, accept_proxy, connections } = port;
        match kind {
            Kind::Http => {
                let front = Front { accept_proxy: accept_proxy.into(), ..self.front.clone() };
                let own = Own { app: Some(app), front, connections };
                let (sites, network) = (self.sites.clone(), self.network.clone());
                let serve = serve_own(own, listener, sites, network, self.stats.clone(), stop);
                self.tasks.spawn(serve);
            }
            Kind::Tcp => {
                let port = tcp::Port { app, port: address.port(), accept_proxy };
                // Each takes two descriptors: half of them, and not all.
                let most = connections.unwrap_or_else(|| connections_max() / 2);
                let (shared, tasks) = (self.tcp.clone(), self.tasks.clone());
                self.tasks.spawn(accept(
                    shared,
                    tasks,
                    port.into(),
                    listener,
                    (places, most),
                    stop,
                ));
            }
        }
    }
}

/// Takes connections, each served by a task of its own.
async fn accept<N: Tunnels>(
    shared: Arc<tcp::Shared<N>>,
    tasks: TaskTracker,
    port: Arc<tcp::Port>,
    listener: TcpListener,
    (places, most): (Arc<Places>, usize),
    stop: CancellationToken,
) {
    loop {
        let next = async {
            // The place first: what does not fit stays in the kernel's queue.
            let place = places.take(most).await;
            (accepted(&listener).await, place)
        };
        let ((stream, from), place) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = next => next,
        };
        let (shared, port) = (shared.clone(), port.clone());
        tasks.spawn(async move {
            let _place = place;
            shared.connection(&port, stream, from).await;
        });
    }
}

async fn accepted(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Mostly out of file descriptors: closing ones will help.
                tracing::warn!(%error, "a connection can't be accepted; trying on");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Connections of one port, over all that changes about it.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

/// One of them. Dropped when its connection is over.
struct Place(Arc<Places>);

impl Places {
    /// One of `most`, once there is one. Called by one task at a time.
    async fn take(self: &Arc<Self>, most: usize) -> Place {
        loop {
            let freed = self.freed.notified();
            if self.taken.load(SeqCst) < most {
                self.taken.fetch_add(1, SeqCst);
                return Place(self.clone());
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        self.0.freed.notify_one();
    }
}

fn bound(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Why it is so, and what to do.
fn advice(address: SocketAddr, error: &io::Error) -> String {
    let (port, ip) = (address.port(), address.ip());
    let todo = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program has the port; stop that one (`ss -ltnp sport = :{port}` names it), \
             or choose another port in althing.toml"
        ),
        io::ErrorKind::PermissionDenied if port < 1_024 => "ports below 1024 are for those who \
             have the capability CAP_NET_BIND_SERVICE; give it to althing (`AmbientCapabilities=` \
             in its systemd unit), or choose a higher port in althing.toml"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            let kind = if matches!(ip, IpAddr::V4(_)) { "0.0.0.0" } else { "::" };
            format!(
                "{ip} is no address of this server; leave `address` out in althing.toml, or write \
                 {kind} for all"
            )
        }
        _ => "mend the cause, or choose another port in althing.toml".to_owned(),
    };
    format!("{error}; {todo}; it is tried again by itself")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
