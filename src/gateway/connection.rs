//! Connections: accepting them within a bound, reading one request after the
//! other, and every time limit. Requests that arrive together (pipelined) are
//! answered in order, one at a time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, Empty, Join, Sink},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Backends, Certificate, Forward, Route, Site, Sites, Stats, Target,
    access::{Counted, Log, Record},
    answer::{self, Answer},
    balance,
    deliver::{Framing, deliver},
    forwarded::{self, Said},
    origins::Database,
    proxy::{self, Pool, Terms, head::Origin},
    request::{self, HEAD_MAX, Malformed, Method, Request},
    tcp,
    transport::{Broken, Plain, Tcp, Transport},
};
use crate::base::{AppName, MemberId, Network};

/// The bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once; more wait in the listener's queue.
    pub(super) connections: usize,
    /// A connection on which nothing is asked is closed after this.
    pub(super) idle: Duration,
    /// The same while all places are taken, so that idle ones make room.
    pub(super) idle_crowded: Duration,
    /// From the first byte of a request head to its last; and for a handshake.
    pub(super) head: Duration,
    /// The same for a handshake while many are under way.
    pub(super) head_crowded: Duration,
    /// Handshakes under way at once; more wait.
    pub(super) handshakes: usize,
    /// A client that takes no byte for this long is given up.
    pub(super) stall: Duration,
    /// What runs when the listener is shut down may take this long to end.
    pub(super) grace: Duration,
    /// A connection on which nothing is asked is then closed after this: a client that is
    /// about to ask is answered, and told that it was the last time.
    pub(super) parting: Duration,
    /// To reach a holder.
    pub(super) connect: Duration,
    /// To answer, for a member that holds what this one does not.
    pub(super) answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            idle: Duration::from_secs(60),
            idle_crowded: Duration::from_secs(5),
            head: Duration::from_secs(10),
            head_crowded: Duration::from_secs(3),
            handshakes: 1_024,
            stall: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            parting: Duration::from_secs(1),
            connect: Duration::from_secs(3),
            answer: Duration::from_secs(60),
        }
    }
}

/// The least and the most connections of a listener at once.
const CONNECTIONS_MIN: usize = 256;
/// See [`CONNECTIONS_MIN`].
const CONNECTIONS_MAX: usize = 65_536;
/// Connections that are accepted after the end has begun, at most: those that waited already.
const LATE_MAX: usize = 4_096;
/// How long closing waits for the client to take what was sent.
const LINGER: Duration = Duration::from_secs(2);
/// What a client may still send meanwhile, bytes.
const LINGER_MAX: usize = 256 << 10;

/// Where clients come in.
#[derive(Debug, Default)]
pub struct Doors {
    /// Without TLS.
    pub plain: Option<TcpListener>,
    /// With TLS, once this is cancelled: until then they wait in the kernel's queue.
    pub tls: Option<(TcpListener, CancellationToken)>,
}

impl From<TcpListener> for Doors {
    fn from(plain: TcpListener) -> Self {
        Self { plain: Some(plain), tls: None }
    }
}

impl Doors {
    /// The next client, and whether it came in where TLS is spoken.
    async fn next(&self) -> io::Result<(TcpStream, SocketAddr, bool)> {
        let plain = async {
            let Some(listener) = &self.plain else { return std::future::pending().await };
            listener.accept().await
        };
        let secure = async {
            let Some((listener, open)) = &self.tls else { return std::future::pending().await };
            open.cancelled().await;
            listener.accept().await
        };
        tokio::select! {
            came = plain => came.map(|(stream, peer)| (stream, peer, false)),
            came = secure => came.map(|(stream, peer)| (stream, peer, true)),
        }
    }
}

/// Serves `sites` at `doors` until `shutdown`; then what is under way is
/// finished, for ten seconds at most, and idle connections are closed a second later.
pub async fn serve<F: Forward>(
    doors: Doors,
    front: Front,
    sites: Arc<dyn Sites>,
    forward: Arc<F>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let limits = Limits { connections: connections_max(), ..Limits::default() };
    let own = Own { front, ..Own::default() };
    serve_as(own, limits, doors, sites, forward, stats, shutdown).await;
}

/// What stands in front of a member, and what it writes down of what comes.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Who may say for whom it asks, by lines of a request.
    pub trusted: Networks,
    /// Who has to say by a header of the PROXY protocol for whom it connects to the doors of
    /// the member.
    pub accept_proxy: Networks,
    /// Where requests are written down.
    pub log: Option<Log>,
    /// Where clients are, for what is counted by origin. Whoever starts the gateway gives it
    /// to its tally: one look-up serves all listeners.
    pub origins: Option<Database>,
}

/// Networks that can be named anew while they are in use. All clones of one are the same.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<RwLock<Arc<[Network]>>>);

impl Networks {
    /// Those that are named now.
    pub fn current(&self) -> Arc<[Network]> {
        // A poisoned lock means that a writer panicked: a change is one assignment.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names others; from the next connection or request on.
    pub fn set(&self, networks: impl Into<Arc<[Network]>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks.into();
    }
}

impl From<Vec<Network>> for Networks {
    fn from(networks: Vec<Network>) -> Self {
        Self(Arc::new(RwLock::new(networks.into())))
    }
}

/// What is different from one listener to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// All requests are its, whatever their host name.
    pub(super) app: Option<AppName>,
    /// For the connections, and the same on all listeners otherwise.
    pub(super) front: Front,
    /// Connections at once, if that is said.
    pub(super) connections: Option<usize>,
}

/// The same on a listener of an application's own.
pub(super) async fn serve_own<F: Forward>(
    own: Own,
    listener: TcpListener,
    sites: Arc<dyn Sites>,
    forward: Arc<F>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let connections = own.connections.unwrap_or_else(connections_max);
    let limits = Limits { connections, ..Limits::default() };
    let doors = Doors { plain: Some(listener), tls: None };
    serve_as(own, limits, doors, sites, forward, stats, shutdown).await;
}

/// As many connections as there are descriptors for, with room for what else needs some: one
/// that is passed on takes two. Read when the listener starts.
pub(super) fn connections_max() -> usize {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let fit =
        own.map_or(CONNECTIONS_MAX, |own| usize::try_from(own / 2).unwrap_or(CONNECTIONS_MAX));
    fit.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

pub(super) async fn serve_as<F: Forward>(
    own: Own,
    limits: Limits,
    doors: Doors,
    sites: Arc<dyn Sites>,
    forward: Arc<F>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    let shared = Arc::new(Shared::new(own, limits, sites, forward, stats, shutdown));
    let running = TaskTracker::new();
    // Ends every connection when this future is dropped.
    let abort = CancellationToken::new();
    let _abort_on_drop = abort.clone().drop_guard();
    while let Some((stream, peer, secure, place)) = shared.accept(&doors).await {
        let (shared, abort) = (shared.clone(), abort.clone());
        running.spawn(async move {
            let _place = place;
            tokio::select! {
                () = abort.cancelled() => {}
                () = shared.connection(stream, peer, secure) => {}
            }
        });
    }
    running.close();
    drop(doors);
    if timeout(limits.grace, running.wait()).await.is_err() {
        tracing::info!(connections = running.len(), "connections were cut at shutdown");
        abort.cancel();
        running.wait().await;
    }
}

/// Answers the one request that another member forwarded over `stream`, and
/// ends the stream. It is never forwarded again: where this member does not
/// hold the site either, the stream ends without a response, which tells the
/// member that asked to try the next holder.
pub async fn serve_forwarded<S>(stream: S, sites: Arc<dyn Sites>, stats: Arc<Stats>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = Limits::default();
    let mut io = Plain::new(stream, limits.stall);
    stats.received();
    if let Err(broken) = forwarded(&mut io, limits, sites.as_ref(), &stats).await {
        stats.error();
        tracing::debug!(%broken, "a forwarded request was not answered to the end");
    } else if let Ok(Err(error)) = timeout(limits.stall, io.finish()).await {
        tracing::debug!(%error, "a forwarded response may not have arrived whole");
    }
}

async fn forwarded<T: Transport>(
    io: &mut T,
    limits: Limits,
    sites: &dyn Sites,
    stats: &Stats,
) -> Result<(), Broken> {
    // The member that the client came to writes it down.
    let stats = &Counted::silent(stats);
    let mut buffer = BytesMut::with_capacity(2 << 10);
    let next = read_head(io, &mut buffer, limits.head).await;
    let (framing, answer) = match next {
        Next::End => return Ok(()),
        Next::Late => (Framing::CLOSING, Answer::too_slow()),
        Next::Malformed(why) => {
            stats.request();
            (Framing::CLOSING, Answer::malformed(&why))
        }
        Next::Request(mut request) => {
            stats.request();
            request.app = proxy::head::application(&request.raw);
            let framing = framing(&request, false);
            let target = Target { by_member: true, ..target(&request, request.said_secure) };
            match sites.route(target) {
                Route::Service(mut backends) => {
                    // Never on to a third one: whoever asked knows as well who there is.
                    backends.others = Arc::default();
                    // Others are asked first; whose own it is asks it all the same.
                    backends.here = backends.here.filter(|(_, process)| !process.is_unwell());
                    let terms = terms(Origin::Member, limits, framing);
                    let (pool, balance) = (Pool::shared(), &balance::Shared::new());
                    let shared = proxy::Shared { forward: &Nobody, pool, balance, stats };
                    let passed =
                        proxy::pass_on(io, &mut buffer, &request, &backends, terms, shared);
                    passed.await?;
                    return Ok(());
                }
                Route::Local(site) => match refused(&request) {
                    Some(answer) => (framing, answer),
                    None => {
                        let (answer, site) = decided(&request, site);
                        deliver(io, framing, answer, Some(&site), stats).await?;
                        return Ok(());
                    }
                },
                // Members of the release before know no other way to say so.
                Route::Remote { .. } if request.may_be_repeated() => return Ok(()),
                Route::Remote { .. } => (framing, Answer::passed_to_nobody()),
                Route::ByTls(port) => (framing, Answer::by_tls(&request, port)),
                Route::Unavailable { status, why } => (framing, Answer::unavailable(status, &why)),
            }
        }
    };
    deliver(io, framing, answer, None, stats).await.map(|_| ())
}

/// What all connections share.
pub(super) struct Shared<F> {
    own: Own,
    pub(super) limits: Limits,
    pub(super) sites: Arc<dyn Sites>,
    forward: Arc<F>,
    pub(super) stats: Arc<Stats>,
    pub(super) shutdown: CancellationToken,
    places: Arc<Semaphore>,
    pub(super) handshakes: Semaphore,
    /// For requests of HTTP/2 under way, of which one connection may have many.
    pub(super) streams: Arc<Semaphore>,
    balance: balance::Shared,
    /// Connections that were accepted after the end had begun.
    late: AtomicUsize,
}

/// How a client came.
#[derive(Clone, Debug)]
pub(super) struct Came {
    pub(super) address: IpAddr,
    /// The certificate of its handshake, if it came by TLS.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Whether it speaks HTTP/2.
    pub(super) is_http2: bool,
}

impl<F: Forward> Shared<F> {
    pub(super) fn new(
        own: Own,
        limits: Limits,
        sites: Arc<dyn Sites>,
        forward: Arc<F>,
        stats: Arc<Stats>,
        shutdown: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(limits.connections));
        let streams = Arc::new(Semaphore::new(limits.connections));
        let handshakes = Semaphore::new(limits.handshakes);
        let balance = balance::Shared::new();
        Self {
            own,
            limits,
            sites,
            forward,
            stats,
            shutdown,
            places,
            handshakes,
            streams,
            balance,
            late: AtomicUsize::new(0),
        }
    }

    /// How long a connection may be idle.
    pub(super) fn idle(&self) -> Duration {
        let crowded = self.places.available_permits() == 0;
        if crowded { self.limits.idle_crowded } else { self.limits.idle }
    }

    /// The next connection, once there is a place for it; `None` at shutdown.
    async fn accept(
        &self,
        doors: &Doors,
    ) -> Option<(TcpStream, SocketAddr, bool, OwnedSemaphorePermit)> {
        let next = async {
            // The place first: what does not fit stays in the kernel's queue.
            let place = self.places.clone().acquire_owned().await.ok()?;
            loop {
                match doors.next().await {
                    Ok((stream, peer, secure)) => return Some((stream, peer, secure, place)),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        // Mostly out of file descriptors: closing ones will help.
                        tracing::warn!(%error, "a connection can't be accepted; trying on");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            // What the kernel has accepted by now would be reset by closing the listener.
            next = next, if self.may_accept() => next,
            () = self.shutdown.cancelled() => None,
        }
    }

    /// Not for ever after the end has begun, however many come.
    fn may_accept(&self) -> bool {
        !self.shutdown.is_cancelled() || self.late.fetch_add(1, Relaxed) < LATE_MAX
    }

    /// Serves one connection to its end.
    pub(super) async fn connection(
        self: &Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        secure: bool,
    ) {
        let _counted = self.stats.connection();
        let address = match self.client_of(&mut stream, peer).await {
            Ok(address) => address,
            Err(error) => {
                tracing::debug!(%peer, %error, "not taken");
                return self.stats.error();
            }
        };
        let came = Came { address, certificate: None, is_http2: false };
        // A task is as large as the largest of its ways, and most connections wait for a request
        // most of the time: what else they go through lies apart, for as long as it takes.
        let served = if secure {
            Box::pin(self.secure(stream, came)).await
        } else {
            let Ok(mut io) = Tcp::new(stream, self.limits.stall) else { return };
            self.requests(&mut io, &came).await
        };
        if let Err(broken) = served {
            self.stats.error();
            tracing::debug!(%peer, %broken, "a response was cut short");
        }
    }

    /// Who it is that connects from `peer`.
    async fn client_of(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<IpAddr> {
        let accept_proxy = self.own.front.accept_proxy.current();
        let told = tcp::told_by(stream, peer, &accept_proxy).await?;
        Ok(told.map_or(peer, |parties| parties.client()).ip().to_canonical())
    }

    /// One request after the other, until one side has enough.
    pub(super) async fn requests<T: Transport>(
        &self,
        io: &mut T,
        came: &Came,
    ) -> Result<(), Broken> {
        let mut buffer = BytesMut::new();
        loop {
            if buffer.is_empty() {
                // Most connections are idle most of the time: they keep none.
                buffer = BytesMut::new();
                if !self.begins(io, &mut buffer).await {
                    return Ok(());
                }
            }
            let next = Box::pin(self.next(io, &mut buffer, came)).await?;
            let Some(stays) = next else { return Ok(()) };
            if !stays {
                Box::pin(linger(io, &mut buffer)).await;
                return Ok(());
            }
        }
    }

    /// Waits until there is anything in `buffer`, which is empty; says no if nothing came.
    async fn begins<T: Transport>(&self, io: &mut T, buffer: &mut BytesMut) -> bool {
        let mut first = pin!(async {
            io.arrives().await?;
            buffer.reserve(HEAD_MAX / 4);
            io.read(buffer).await
        });
        // One timer for both spans: each connection keeps what is here.
        let mut silence = pin!(sleep(self.idle()));
        let mut end = pin!(self.shutdown.cancelled());
        let mut parting = false;
        loop {
            tokio::select! {
                biased;
                // Between two requests only: what was begun is answered.
                read = &mut first => return matches!(read, Ok(read) if read > 0),
                () = &mut silence => return false,
                () = &mut end, if !parting => {
                    parting = true;
                    let last = Instant::now() + self.limits.parting;
                    if last < silence.deadline() {
                        silence.as_mut().reset(last);
                    }
                }
            }
        }
    }

    /// Reads one request and answers it. Whether the connection stays open; none where
    /// nothing was asked.
    pub(super) async fn next<T: Transport>(
        &self,
        io: &mut T,
        buffer: &mut BytesMut,
        came: &Came,
    ) -> Result<Option<bool>, Broken> {
        let mut record = Record::new(&self.stats, self.own.front.log.as_ref(), came);
        let next = read_head(io, buffer, self.limits.head).await;
        if matches!(next, Next::End) {
            return Ok(None);
        }
        record.asked();
        let stays = self.answer_next(io, buffer, came, next, &mut record).await;
        record.ended(&stays);
        stays.map(Some)
    }

    async fn answer_next<T: Transport>(
        &self,
        io: &mut T,
        buffer: &mut BytesMut,
        came: &Came,
        next: Next,
        record: &mut Record<'_>,
    ) -> Result<bool, Broken> {
        let closing = Framing::CLOSING;
        Ok(match next {
            // Nothing was asked, so nothing is answered.
            Next::End => false,
            Next::Late => deliver(io, closing, Answer::too_slow(), None, &record.counted).await?,
            Next::Malformed(why) => {
                self.stats.request();
                deliver(io, closing, Answer::malformed(&why), None, &record.counted).await?
            }
            Next::Request(mut request) => {
                self.stats.request();
                request.app.clone_from(&self.own.app);
                request.said = self.said(&request, came);
                let request = record.request.insert(request);
                self.answer(io, buffer, request, came, &record.counted).await?
            }
        })
    }

    /// Writes down that a request was refused before it was one of HTTP/1.1.
    pub(super) fn refused(&self, came: &Came, status: u16) {
        let mut record = Record::new(&self.stats, self.own.front.log.as_ref(), came);
        record.asked();
        record.counted.response(status);
    }

    /// What is believed of the client that it asks for, where that is another one.
    fn said(&self, request: &Request, came: &Came) -> Option<Box<Said>> {
        let trusted = self.own.front.trusted.current();
        if trusted.is_empty() {
            return None;
        }
        forwarded::said(&request.raw, came.address, &trusted).map(Box::new)
    }

    /// Answers one request. The route is taken here, once.
    async fn answer<T: Transport>(
        &self,
        io: &mut T,
        buffer: &mut BytesMut,
        request: &mut Request,
        came: &Came,
        stats: &Counted<'_>,
    ) -> Result<bool, Broken> {
        let mut framing = framing(request, !self.shutdown.is_cancelled());
        let by_tls = came.certificate.is_some();
        let said = request.said.as_deref();
        let secure = said.and_then(|said| said.secure).unwrap_or(by_tls);
        let address = said.map_or(came.address, |said| said.client);
        if let Some(certificate) = &came.certificate {
            let secured = self.sites.secured(request.host_name());
            match secured.filter(|secured| secured.certificate.answers_for(certificate)) {
                Some(secured) => framing.hsts = Some(secured.hsts).filter(|span| !span.is_zero()),
                // Whoever asks over it has proof of another's name alone.
                None => {
                    return deliver(io, framing, Answer::misdirected(request), None, stats).await;
                }
            }
        }
        let (route, app) = self.sites.routed(target(request, secure));
        stats.is_for(app);
        let backends = match route {
            Route::Service(backends) => backends,
            // Whoever holds it knows whether a file or a program answers.
            Route::Remote { of, others } => Backends::elsewhere(of, others, self.limits.answer),
            Route::Local(site) => {
                if let Some(answer) = refused(request) {
                    return deliver(io, framing, answer, None, stats).await;
                }
                let (answer, site) = decided(request, site);
                stats.files(site.as_ref());
                return deliver(io, framing, answer, Some(&site), stats).await;
            }
            Route::ByTls(port) => {
                return deliver(io, framing, Answer::by_tls(request, port), None, stats).await;
            }
            Route::Unavailable { status, why } => {
                let mut answer = Answer::unavailable(status, &why);
                answer.close = !request.has_no_body();
                return deliver(io, framing, answer, None, stats).await;
            }
        };
        let origin = Origin::Client { address, secure, by_tls };
        let terms = terms(origin, self.limits, framing);
        if stats.is_logged() {
            // So that the line has the one that whoever is asked sees.
            request.number = Some(rand::random());
        }
        let (forward, balance) = (&*self.forward, &self.balance);
        let shared = proxy::Shared { forward, pool: Pool::shared(), balance, stats };
        // Apart, so that files are answered without room for this.
        Box::pin(proxy::pass_on(io, buffer, request, &backends, terms, shared)).await
    }
}

/// The way to other members for what another member has passed on already.
struct Nobody;

impl Forward for Nobody {
    type Stream = Join<Empty, Sink>;

    async fn connect(&self, _: MemberId) -> io::Result<Self::Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn target(request: &Request, secure: bool) -> Target<'_> {
    let (app, host) = (request.app.as_ref(), request.host_name());
    Target { app, host, path: &request.path, by_member: false, secure }
}

fn terms(origin: Origin, limits: Limits, delivery: Framing) -> Terms {
    Terms { origin, connect: limits.connect, stall: limits.stall, delivery }
}

/// The answer, and the version that it is of.
fn decided(request: &Request, site: Arc<dyn Site>) -> (Answer, Arc<dyn Site>) {
    let answer = answer::decide(request, site.as_ref());
    if answer.status == 404
        && let Some(found) = answer::decide_for_earlier(request, &site)
    {
        return found;
    }
    (answer, site)
}

/// What a site made of files does not do.
fn refused(request: &Request) -> Option<Answer> {
    if request.method == Method::Other {
        return Some(Answer::not_allowed(request));
    }
    (!request.has_no_body())
        .then(|| Answer::malformed(&Malformed::Bad("a body where none belongs")))
}

fn framing(request: &Request, may_stay: bool) -> Framing {
    Framing {
        head_only: request.method == Method::Head,
        keep_alive: request.keep_alive && may_stay,
        minor: request.minor,
        hsts: None,
    }
}

/// What a connection brought.
enum Next {
    Request(Box<Request>),
    Malformed(Malformed),
    /// A head that began and did not end in time.
    Late,
    /// Nothing more: the client is done, or was silent for too long.
    End,
}

/// The next request from `buffer` and what `io` adds to it. What is behind it
/// stays in the buffer.
async fn read_head<T: Transport>(io: &mut T, buffer: &mut BytesMut, within: Duration) -> Next {
    let whole = async {
        loop {
            match request::parse(buffer) {
                Ok(Some((mut request, used))) => {
                    request.raw = buffer.split_to(used).freeze();
                    return Next::Request(Box::new(request));
                }
                Ok(None) => {}
                Err(why) => return Next::Malformed(why),
            }
            // The parser refuses a full buffer, so this stays bounded.
            buffer.reserve(HEAD_MAX / 4);
            // A client that goes away here has asked for nothing.
            if !matches!(io.read(buffer).await, Ok(read) if read > 0) {
                return Next::End;
            }
        }
    };
    timeout(within, whole).await.unwrap_or(Next::Late)
}

/// Closes so that the client can read the last response: a socket closed with
/// unread bytes in it resets the connection, and the response is lost.
async fn linger<T: Transport>(io: &mut T, buffer: &mut BytesMut) {
    let rest = async {
        if io.finish().await.is_err() {
            return;
        }
        let mut seen = 0;
        while seen < LINGER_MAX {
            buffer.clear();
            buffer.reserve(4 << 10);
            match io.read(buffer).await {
                Ok(read) if read > 0 => seen += read,
                _ => return,
            }
        }
    };
    // Whatever happens here, the response is out.
    let _ = timeout(LINGER, rest).await;
}

/// Failures of one connection that was gone before it was accepted.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
