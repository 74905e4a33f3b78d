//! The table of peers and links, and the one place that decides what happens next
//! for a peer: send, dial, wait or give up ([`Hub::settle`]).
//!
//! The table's lock is held for moments and never across an await. No task exists
//! for a peer with which no connection stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint, SendDatagramError};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    Config, NetError, NetEvent, NetStats, Peer,
    counters::Counters,
    dial,
    identity::Identity,
    inlet::Inlet,
    link::{self, Class, Close, LINKS_MAX, Link},
    outbox::{self, Outbox, Tag},
    quiet::Nowhere,
    refusal::{self, Ears, Refusals, UNANSWERED},
    socket,
};
use crate::base::{ClusterId, MemberId, PublicKey};

/// After a dial that failed: the first and the longest pause before the next.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What [`super::Net::close`] waits for, at most.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it looks, while closing.
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Everything that the tasks of one [`super::Net`] share.
pub(super) struct Hub {
    pub(super) me: MemberId,
    pub(super) cluster: ClusterId,
    pub(super) identity: Identity,
    pub(super) local_address: SocketAddr,
    pub(super) runtime: Handle,
    pub(super) inlet: Inlet,
    pub(super) counters: Counters,
    /// Of which addresses hosts say that nobody listens there.
    pub(super) refusals: Refusals,
    endpoint: Mutex<Option<Endpoint>>,
    table: Mutex<Table>,
}

/// What [`Hub::bind`] opens.
pub(super) struct Opened {
    pub(super) hub: Arc<Hub>,
    pub(super) events: mpsc::Receiver<NetEvent>,
    /// None where the kernel tells nothing of closed ports.
    pub(super) ears: Option<Ears>,
}

/// Peers by id. `generation` tells an entry from an earlier one of the same member.
#[derive(Default)]
struct Table {
    closing: bool,
    generation: u64,
    peers: BTreeMap<MemberId, Entry>,
    /// Addresses of which it is said that nobody listens there, while it is looked whether it is so.
    doubted: BTreeSet<SocketAddr>,
}

struct Entry {
    generation: u64,
    key: PublicKey,
    /// The roster's address, and the one that is dialled: gossip may know better.
    enrolled_at: SocketAddr,
    address: SocketAddr,
    routes: [Route; Class::MEMBERS],
    outbox: Outbox,
    large: Arc<Semaphore>,
}

/// The way to one member in one class.
#[derive(Default)]
struct Route {
    /// In the order in which they began.
    links: Vec<Link>,
    dialling: bool,
    failures: u32,
    retry_at: Option<Instant>,
    error: Option<NetError>,
    waiters: Vec<oneshot::Sender<Result<Link, NetError>>>,
}

/// One dial: for whom, as what, where to.
#[derive(Clone, Copy)]
pub(super) struct Dial {
    pub(super) member: MemberId,
    pub(super) class: Class,
    pub(super) key: PublicKey,
    pub(super) address: SocketAddr,
    generation: u64,
}

impl Hub {
    /// Listens. What comes has to be accepted by [`super::accept::run`].
    pub(super) fn bind(config: Config) -> Result<Opened, NetError> {
        let identity = Identity::new(&config.key, config.cluster)?;
        let server = socket::server_config(&identity)?;
        let socket = socket::open(config.bind)?;
        // Without it a killed peer is noticed by its silence alone.
        let ears = Ears::open(&socket)
            .inspect_err(|error| tracing::info!(%error, "closed ports of peers are not heard of"))
            .ok();
        let endpoint = socket::open_endpoint(socket, config.bind, &config.key, Some(server))?;
        let local_address = endpoint
            .local_addr()
            .map_err(|error| NetError::Bind { address: config.bind, cause: error.to_string() })?;
        let (inlet, events) = Inlet::new();
        let hub = Self {
            me: config.key.member(),
            cluster: config.cluster,
            identity,
            endpoint: Mutex::new(Some(endpoint)),
            local_address,
            runtime: Handle::current(),
            inlet,
            counters: Counters::default(),
            refusals: Refusals::new(),
            table: Mutex::default(),
        };
        Ok(Opened { hub: Arc::new(hub), events, ears })
    }

    /// The endpoint. `None` once closed.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_peers(self: &Arc<Self>, mut peers: BTreeMap<MemberId, Peer>) {
        peers.retain(|member, peer| *member != self.me && *member == MemberId::of(&peer.key));
        let mut table = self.lock();
        let gone: Vec<MemberId> =
            table.peers.keys().filter(|member| !peers.contains_key(member)).copied().collect();
        for member in gone {
            if let Some(entry) = table.peers.remove(&member) {
                self.dismiss(entry);
            }
        }
        for (member, peer) in peers {
            if let Some(entry) = table.peers.get_mut(&member) {
                if entry.enrolled_at != peer.address {
                    entry.enrolled_at = peer.address;
                    entry.readdress(peer.address);
                }
            } else {
                table.generation += 1;
                let entry = Entry::new(table.generation, peer);
                table.peers.insert(member, entry);
            }
        }
    }

    pub(super) fn set_address(&self, member: MemberId, address: SocketAddr) {
        if let Some(entry) = self.lock().peers.get_mut(&member) {
            entry.readdress(address);
        }
    }

    pub(super) fn datagram(self: &Arc<Self>, to: MemberId, bytes: Bytes) {
        let mut table = self.lock();
        let Some(entry) = table.peers.get_mut(&to) else {
            drop(table);
            return self.counters.datagrams_dropped(1);
        };
        let dropped = entry.outbox.push_datagram(bytes);
        self.counters.datagrams_dropped(dropped);
        self.settle(&mut table, to, Class::Talk);
    }

    pub(super) fn send(self: &Arc<Self>, to: MemberId, tag: Tag, bytes: Bytes) {
        let mut table = self.lock();
        let taken = table.peers.get_mut(&to).is_some_and(|entry| entry.outbox.push(tag, bytes));
        if !taken {
            drop(table);
            return self.counters.dropped(tag);
        }
        self.settle(&mut table, to, Class::Talk);
    }

    /// A link that was dialled by this side, or word of it when the dial is done.
    pub(super) fn link(
        self: &Arc<Self>,
        to: MemberId,
        class: Class,
    ) -> oneshot::Receiver<Result<Link, NetError>> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        match table.peers.get_mut(&to) {
            Some(entry) => {
                let route = &mut entry.routes[class as usize];
                route.waiters.retain(|waiter| !waiter.is_closed());
                route.waiters.push(sender);
                self.settle(&mut table, to, class);
            }
            None => drop(sender.send(Err(NetError::UnknownMember { member: to }))),
        }
        receiver
    }

    /// Whether the owner of `key` may be connected now.
    pub(super) fn is_peer(&self, key: &PublicKey) -> bool {
        let table = self.lock();
        !table.closing && table.peers.get(&MemberId::of(key)).is_some_and(|entry| entry.key == *key)
    }

    /// Where `member` is dialled.
    pub(super) fn address_of(&self, member: MemberId) -> Option<SocketAddr> {
        self.lock().peers.get(&member).map(|entry| entry.address)
    }

    /// Whether a member is known at this host.
    pub(super) fn is_peer_host(&self, host: IpAddr) -> bool {
        let host = host.to_canonical();
        self.lock().peers.values().any(|entry| entry.address.ip().to_canonical() == host)
    }

    /// Takes up a connection that the other side dialled. `None`: it may not be
    /// (any more), and was closed.
    pub(super) fn accepted(
        self: &Arc<Self>,
        key: &PublicKey,
        class: Class,
        connection: Connection,
    ) -> Option<(MemberId, Link, Arc<Semaphore>)> {
        let member = MemberId::of(key);
        let link = Link::new(connection, false);
        let mut table = self.lock();
        let closing = table.closing;
        let entry = table.peers.get_mut(&member).filter(|entry| entry.key == *key && !closing);
        let Some(entry) = entry else {
            Close::Unknown.apply(&link.connection);
            return None;
        };
        let large = entry.large.clone();
        entry.add(class, link.clone());
        self.settle(&mut table, member, class);
        Some((member, link, large))
    }

    /// Whether a conversation with `member` stands.
    pub(super) fn is_talking(&self, member: MemberId) -> bool {
        let table = self.lock();
        let entry = table.peers.get(&member);
        entry.is_some_and(|entry| {
            entry.routes[Class::Talk as usize].links.iter().any(Link::is_alive)
        })
    }

    /// Takes up the outcome of a dial. Returns the link if there is one to serve.
    pub(super) fn dialled(
        self: &Arc<Self>,
        dial: Dial,
        outcome: Result<Connection, NetError>,
    ) -> Option<(Link, Arc<Semaphore>)> {
        let mut table = self.lock();
        let closing = table.closing;
        let entry = table
            .peers
            .get_mut(&dial.member)
            .filter(|entry| entry.generation == dial.generation && !closing);
        let Some(entry) = entry else {
            if let Ok(connection) = outcome {
                Close::Done.apply(&connection);
            }
            return None;
        };
        let moved = entry.address != dial.address;
        let route = &mut entry.routes[dial.class as usize];
        route.dialling = false;
        let served = match outcome {
            Ok(connection) => {
                let link = Link::new(connection, true);
                entry.add(dial.class, link.clone());
                Some((link, entry.large.clone()))
            }
            Err(error) => {
                tracing::debug!(member = %dial.member, %error, "dialling failed");
                route.error = Some(error);
                if !moved {
                    let pause = BACKOFF_MIN * (1 << route.failures.min(5));
                    route.failures += 1;
                    route.retry_at = Some(Instant::now() + pause.min(BACKOFF_MAX));
                }
                None
            }
        };
        self.settle(&mut table, dial.member, dial.class);
        served
    }

    /// A link has ended. True if it was the last to its member and was lost.
    pub(super) fn ended(
        self: &Arc<Self>,
        member: MemberId,
        class: Class,
        link: &Link,
        error: &ConnectionError,
    ) -> bool {
        tracing::debug!(%member, ?class, %error, "a connection has ended");
        self.counters.add_bytes(&link.connection);
        let mut table = self.lock();
        let Some(entry) = table.peers.get_mut(&member) else { return false };
        let links = &mut entry.routes[class as usize].links;
        let id = link.connection.stable_id();
        links.retain(|other| other.connection.stable_id() != id);
        let last = !links.iter().any(Link::is_alive);
        self.settle(&mut table, member, class);
        last && class == Class::Talk && link.is_loss(error)
    }

    /// Does what can be done for `member` now: sends what waits where a link
    /// stands, dials where none does, gives up where a dial has just failed.
    fn settle(self: &Arc<Self>, table: &mut Table, member: MemberId, class: Class) {
        let closing = table.closing;
        let Some(entry) = table.peers.get_mut(&member) else { return };
        let route = &mut entry.routes[class as usize];
        for link in route.links.iter().filter(|link| link.is_abandoned()) {
            Close::Silent.apply(&link.connection);
        }
        let link = route.choose(class, self.me, member).cloned();
        if let Some(link) = &link {
            for waiter in route.waiters.drain(..) {
                // Who asked may have gone meanwhile.
                let _ = waiter.send(Ok(link.clone()));
            }
        }
        let wanted = match class {
            Class::Talk => !entry.outbox.is_empty(),
            _ => !route.waiters.is_empty(),
        };
        let missing = link.as_ref().is_none_or(|link| wanted && link.is_silent());
        let may_dial = !closing && route.retry_at.is_none_or(|at| at <= Instant::now());
        if wanted && missing && may_dial && !route.dialling {
            route.dialling = true;
            tracing::debug!(%member, ?class, "dialling");
            let (generation, key, address) = (entry.generation, entry.key, entry.address);
            let dial = Dial { member, class, key, address, generation };
            self.runtime.spawn(dial::run(self.clone(), dial));
        }
        if let Some(link) = link {
            if class == Class::Talk {
                self.flush(entry, member, &link);
            }
            return;
        }
        if !wanted || route.dialling {
            return;
        }
        let error = if closing { None } else { route.error.clone() };
        let error = error.unwrap_or(NetError::Closing);
        for waiter in route.waiters.drain(..) {
            // Who asked may have gone meanwhile.
            let _ = waiter.send(Err(error.clone()));
        }
        if class == Class::Talk {
            self.give_up(entry);
        }
    }

    /// Sends what waits over `link`.
    fn flush(self: &Arc<Self>, entry: &mut Entry, member: MemberId, link: &Link) {
        for bytes in entry.outbox.take_datagrams() {
            match link.connection.send_datagram(bytes.clone()) {
                Ok(()) => {
                    link.note_sent();
                    self.counters.datagrams_sent();
                }
                Err(SendDatagramError::ConnectionLost(_)) => self.counters.datagrams_dropped(1),
                Err(_) => {
                    if !entry.outbox.push(Tag::Swim, bytes) {
                        self.counters.datagrams_dropped(1);
                    }
                }
            }
        }
        while let Some((tag, bytes)) = entry.outbox.take() {
            let (hub, link, generation) = (self.clone(), link.clone(), entry.generation);
            self.runtime.spawn(async move {
                let size = bytes.len();
                let sent = outbox::deliver(&link, tag, bytes).await;
                hub.delivered(member, generation, tag, size, sent);
            });
        }
    }

    /// A host says that nobody listens at `address`. Whether it is so is looked at: the links
    /// that lead there tell.
    pub(super) fn refused(self: &Arc<Self>, address: SocketAddr) {
        self.refusals.tell(address);
        let mut table = self.lock();
        if table.doubted.contains(&address) {
            return;
        }
        let leads_there = |link: &&Link| {
            link.is_alive() && refusal::canonical(link.connection.remote_address()) == address
        };
        let mut is_doubted = false;
        for (member, entry) in &table.peers {
            let links = entry.routes.iter().flat_map(|route| &route.links).filter(leads_there);
            let links: Vec<Link> = links.cloned().collect();
            if !links.is_empty() {
                is_doubted = true;
                self.runtime.spawn(doubt(self.clone(), *member, address, links));
            }
        }
        if is_doubted {
            table.doubted.insert(address);
        }
    }

    fn delivered(
        self: &Arc<Self>,
        member: MemberId,
        generation: u64,
        tag: Tag,
        size: usize,
        sent: bool,
    ) {
        if sent {
            self.counters.sent(tag)
        } else {
            self.counters.dropped(tag)
        }
        let mut table = self.lock();
        let entry = table.peers.get_mut(&member).filter(|entry| entry.generation == generation);
        if let Some(entry) = entry {
            entry.outbox.done(tag, size);
            self.settle(&mut table, member, Class::Talk);
        }
    }

    fn give_up(&self, entry: &mut Entry) {
        let (datagrams, messages) = entry.outbox.clear();
        self.counters.datagrams_dropped(datagrams);
        self.counters.messages_dropped(messages);
    }

    /// The member is not in the roster any more.
    fn dismiss(&self, mut entry: Entry) {
        self.give_up(&mut entry);
        for link in entry.routes.iter().flat_map(|route| &route.links) {
            Close::Unknown.apply(&link.connection);
        }
    }

    /// Ends everything without waiting for anything.
    pub(super) fn abandon(&self) {
        self.lock().closing = true;
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close(Close::Done.code(), Close::Done.text().as_bytes());
        }
    }

    pub(super) async fn close(&self, why: &str) {
        self.lock().closing = true;
        let drained = async {
            while !self.is_quiet() {
                sleep(CLOSE_POLL).await;
            }
        };
        // What is not out by then is given up.
        let _ = timeout(CLOSE_TIMEOUT, drained).await;
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(endpoint) = endpoint else { return };
        endpoint.close(Close::Done.code(), why.as_bytes());
        // Peers that don't hear of it notice by themselves.
        let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        // A connection that isn't done would keep the socket: one that began with a packet that
        // ends it does until it is idle (quinn-proto 0.11). The one before is kept, too, until
        // the new one receives something, hence twice.
        for _ in 0..2 {
            // Fails only where a socket has no address.
            let _ = endpoint.rebind_abstract(Arc::new(Nowhere::at(self.local_address)));
        }
        drop(endpoint);
        // The socket goes with the last task that has it; nothing tells when.
        let freed = async {
            while UdpSocket::bind(self.local_address).is_err() {
                sleep(CLOSE_POLL).await;
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, freed).await;
    }

    fn is_quiet(&self) -> bool {
        self.lock().peers.values().all(|entry| {
            let mut links = entry.routes[Class::Talk as usize].links.iter();
            entry.outbox.is_quiet() && links.all(|link| !link.is_alive() || link.has_sent_all())
        })
    }

    pub(super) fn stats(&self) -> NetStats {
        let mut stats = self.counters.read();
        let table = self.lock();
        for route in table.peers.values().flat_map(|entry| &entry.routes) {
            for link in route.links.iter().filter(|link| link.is_alive()) {
                let connection = link.connection.stats();
                stats.connections += 1;
                stats.bytes_sent += connection.udp_tx.bytes;
                stats.bytes_received += connection.udp_rx.bytes;
            }
        }
        stats
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: no step of it can be half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether anything comes back over `links`, all that lead to `member` at `address`, of
/// which its host says that nobody listens there.
///
/// What was sent, and is not acknowledged, is sent again when QUIC thinks it lost: after three
/// round trips and more where few were measured, twice as long each time (RFC 9002 section 6.2.1).
/// So it is looked for until something is, and only then is an answer waited for.
async fn doubt(hub: Arc<Hub>, member: MemberId, address: SocketAddr, links: Vec<Link>) {
    let before: Vec<(u64, u64)> = links.iter().map(Link::traffic).collect();
    sleep(refusal::SENT_AGAIN).await;
    // What leaves from now on was sent, or is sent again, for an answer: all that is only
    // acknowledged has been.
    let by_now: Vec<u64> = links.iter().map(|link| link.traffic().0).collect();
    let is_asked = || {
        let mut links = links.iter().zip(&by_now);
        links.any(|(link, sent)| link.traffic().0 > *sent || link.unanswered_for().is_some())
    };
    let is_silent =
        || links.iter().zip(&before).all(|(link, (_, heard))| link.traffic().1 == *heard);
    let far = links.iter().map(|link| link.connection.rtt()).max().unwrap_or_default();
    let mut left = refusal::ASKED_MAX.max(far * 8);
    // Nothing has to come back where nothing was sent.
    let is_up = || links.iter().any(Link::is_alive);
    while !is_asked() && is_silent() && is_up() && !left.is_zero() {
        sleep(refusal::LOOK).await;
        left = left.saturating_sub(refusal::LOOK);
    }
    // Once: what leaves after this look has had no time for an answer.
    let asked = is_asked();
    if asked {
        sleep(UNANSWERED.max(far * 2)).await;
    }
    hub.lock().doubted.remove(&address);
    if asked && is_silent() && is_up() {
        hub.inlet.event(NetEvent::Refused { member }).await;
    }
}

impl Entry {
    fn new(generation: u64, peer: Peer) -> Self {
        Self {
            generation,
            key: peer.key,
            enrolled_at: peer.address,
            address: peer.address,
            routes: Default::default(),
            outbox: Outbox::default(),
            large: Arc::new(Semaphore::new(1)),
        }
    }

    fn readdress(&mut self, address: SocketAddr) {
        if self.address != address {
            self.address = address;
            for route in &mut self.routes {
                route.forgive();
                for link in &mut route.links {
                    link.stale = link.connection.remote_address() != address;
                }
            }
        }
    }

    fn add(&mut self, class: Class, link: Link) {
        // Who can be reached in one class can be dialled in all.
        for route in &mut self.routes {
            route.forgive();
        }
        let links = &mut self.routes[class as usize].links;
        let dialled = link.dialled;
        links.push(link);
        let same: Vec<usize> =
            (0..links.len()).filter(|index| links[*index].dialled == dialled).collect();
        if same.len() > LINKS_MAX {
            Close::Replaced.apply(&links.remove(same[0]).connection);
        }
    }
}

impl Route {
    /// The link to send on. One to an address that the member has left only
    /// as long as the new one doesn't answer.
    fn choose(&self, class: Class, me: MemberId, peer: MemberId) -> Option<&Link> {
        let usable = |link: &&Link| link.is_alive() && (!link.stale || self.failures > 0);
        let links = self.links.iter().filter(usable);
        match class {
            Class::Talk => link::choose(links, me, peer),
            _ => links.rev().find(|link| link.dialled),
        }
    }

    fn forgive(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }
}
