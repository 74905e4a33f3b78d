//! Where served services are asked: one address for each that is ready, and how many
//! requests are under way there, so that none is cut off when a process has to go, and none
//! is given more at once than it said that it can take.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::spec::Requests;
use crate::base::{AppName, ServiceName};

type Key = (AppName, ServiceName);

/// Every served service that is ready.
#[derive(Debug, Default)]
pub struct Endpoints {
    // Two levels, so that nothing is copied to look one up.
    table: RwLock<BTreeMap<AppName, BTreeMap<ServiceName, Arc<Endpoint>>>>,
}

/// One process that is asked.
#[derive(Debug)]
pub struct Endpoint {
    /// Of which version it is.
    pub version: u64,
    /// Where it listens.
    pub address: SocketAddr,
    under_way: AtomicUsize,
    idle: Notify,
    unwell: AtomicBool,
    turns: Option<Turns>,
}

/// Requests to one process take turns.
#[derive(Debug)]
struct Turns {
    free: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
    within: Duration,
}

/// A turn of one request, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(#[expect(dead_code, reason = "held, and never looked at")] SemaphorePermit<'a>);

/// A request that is under way to a process. Dropped when it is over.
#[derive(Debug)]
pub struct UnderWay(Arc<Endpoint>);

impl Endpoints {
    /// Who answers for `service` of `app` now, held for one request; none while nobody does.
    pub fn begin(&self, app: &AppName, service: &ServiceName) -> Option<UnderWay> {
        // Counted while it stands in the table: whoever takes it out sees all of them.
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let endpoint = table.get(app)?.get(service)?;
        endpoint.under_way.fetch_add(1, SeqCst);
        Some(UnderWay(endpoint.clone()))
    }

    /// Where `service` of `app` listens, if it is ready.
    pub fn get(&self, app: &AppName, service: &ServiceName) -> Option<Arc<Endpoint>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(app)?.get(service).cloned()
    }

    /// How many requests and connections are under way, to all of them.
    pub fn under_way(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let each = table.values().flat_map(BTreeMap::values);
        each.map(|endpoint| endpoint.under_way.load(SeqCst)).sum()
    }

    /// From now on `endpoint` is asked.
    pub(super) fn put(&self, key: &Key, endpoint: Arc<Endpoint>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.entry(key.0.clone()).or_default().insert(key.1.clone(), endpoint);
    }

    /// From now on `endpoint` is not asked any more.
    pub(super) fn take(&self, key: &Key, endpoint: &Arc<Endpoint>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Some(of_app) = table.get_mut(&key.0) else { return };
        if of_app.get(&key.1).is_some_and(|there| Arc::ptr_eq(there, endpoint)) {
            of_app.remove(&key.1);
        }
        if of_app.is_empty() {
            table.remove(&key.0);
        }
    }
}

impl Endpoint {
    /// A process of `version` that is told to listen on a port which nobody has now, and
    /// given at most so many `requests` at once.
    pub(super) fn allot(version: u64, requests: Option<Requests>) -> io::Result<Arc<Self>> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let (under_way, idle) = (AtomicUsize::new(0), Notify::new());
        let turns = requests.map(|Requests { at_once, queue, within }| Turns {
            free: Semaphore::new(at_once as usize),
            waiting: AtomicUsize::new(0),
            waiting_max: queue as usize,
            within,
        });
        let unwell = AtomicBool::new(false);
        Ok(Arc::new(Self { version, address, under_way, idle, unwell, turns }))
    }

    /// Whether it still answers when it is asked how it is.
    pub(super) fn set_unwell(&self, unwell: bool) {
        self.unwell.store(unwell, SeqCst);
    }

    /// Returns when nothing is under way there.
    pub(super) async fn drained(&self) {
        loop {
            let next = self.idle.notified();
            if self.under_way.load(SeqCst) == 0 {
                return;
            }
            next.await;
        }
    }
}

impl UnderWay {
    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The version that answers.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// Requests under way there, this one included.
    pub fn load(&self) -> usize {
        self.0.under_way.load(SeqCst)
    }

    /// Whether the process does not answer when it is asked how it is.
    pub fn is_unwell(&self) -> bool {
        self.0.unwell.load(SeqCst)
    }

    /// Whether requests to it take turns.
    pub fn takes_turns(&self) -> bool {
        self.0.turns.is_some()
    }

    /// Waits until the process may be given one more request; none where too many wait
    /// already, or it took too long.
    pub async fn turn(&self) -> Option<Turn<'_>> {
        let turns = self.0.turns.as_ref()?;
        if let Ok(turn) = turns.free.try_acquire() {
            return Some(Turn(turn));
        }
        let waiting = Waiting::begin(&turns.waiting);
        if waiting.0.load(SeqCst) > turns.waiting_max {
            return None;
        }
        let turn = timeout(turns.within, turns.free.acquire()).await;
        // It is never closed.
        turn.ok()?.ok().map(Turn)
    }
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_taken_out_ends_what_is_under_way() {
        let key = (AppName::parse("web").unwrap(), ServiceName::parse("api").unwrap());
        let endpoints = Endpoints::default();
        assert!(endpoints.begin(&key.0, &key.1).is_none());
        let (first, second) =
            (Endpoint::allot(1, None).unwrap(), Endpoint::allot(2, None).unwrap());
        endpoints.put(&key, first.clone());
        let request = endpoints.begin(&key.0, &key.1).unwrap();
        assert_eq!((request.version(), request.load()), (1, 1));
        endpoints.put(&key, second.clone());
        endpoints.take(&key, &first);
        assert_eq!(endpoints.get(&key.0, &key.1).unwrap().version, 2, "only itself is taken out");
        let waits = tokio::time::timeout(Duration::from_secs(9), first.drained());
        assert!(waits.await.is_err());
        let (_, ()) = tokio::join!(async { drop(request) }, first.drained());
        endpoints.take(&key, &second);
        assert!(endpoints.begin(&key.0, &key.1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_their_turn_and_not_for_ever() {
        let requests = Requests { at_once: 2, queue: 1, within: Duration::from_secs(5) };
        let endpoint = Endpoint::allot(1, Some(requests)).unwrap();
        let asked = || {
            endpoint.under_way.fetch_add(1, SeqCst);
            UnderWay(endpoint.clone())
        };
        let all: Vec<UnderWay> = (0..4).map(|_| asked()).collect();
        let (first, second) = (all[0].turn().await.unwrap(), all[1].turn().await.unwrap());
        let began = tokio::time::Instant::now();
        let third = all[2].turn();
        let (third, fourth, ()) = tokio::join!(biased; third, all[3].turn(), async {
            drop(first);
        });
        assert!(third.is_some() && fourth.is_none(), "one may wait");
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(all[3].turn().await.is_none(), "nobody got ready in time");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        drop((second, third));
        assert!(all[3].turn().await.is_some());
        assert_eq!(endpoint.turns.as_ref().unwrap().waiting.load(SeqCst), 0);
    }
}
