//! One request from its first byte to its last: what it counts, for all of them and for
//! itself. Dropped, however it ended, it is written down.

use std::{
    ops::Deref,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    super::{Site, connection::Came, request::Request, stats::Stats},
    Log,
    line::{By, Entry},
};
use crate::{
    base::{AppName, WallTime},
    proto::balance::choice::Pick,
};

/// The client went before an answer began: a status that nobody is sent, as other servers
/// write it.
const GONE: u16 = 499;

/// What counts while a request is answered.
pub(in crate::gateway) struct Counted<'a> {
    stats: &'a Stats,
    bytes: AtomicU64,
    /// Where it is written down.
    seen: Option<Mutex<Seen>>,
}

/// What is seen of one request.
#[derive(Debug, Default)]
struct Seen {
    status: Option<u16>,
    app: Option<(AppName, Option<u64>)>,
    answered_by: Option<By>,
    /// Who was asked last.
    asked: Option<By>,
    tries: u32,
}

impl<'a> Counted<'a> {
    /// Nothing is written down.
    pub(in crate::gateway) fn silent(stats: &'a Stats) -> Self {
        Self { stats, bytes: AtomicU64::new(0), seen: None }
    }

    /// Whether anybody wants to know more than the numbers.
    pub(in crate::gateway) fn is_seen(&self) -> bool {
        self.seen.is_some()
    }

    /// An answer with this status is sent.
    pub(in crate::gateway) fn response(&self, status: u16) {
        self.stats.response(status);
        self.see(|seen| seen.status = Some(status));
    }

    /// The answer of the one who was asked last begins. It is counted at its end.
    pub(in crate::gateway) fn begins(&self, status: u16) {
        self.see(|seen| (seen.status, seen.answered_by) = (Some(status), seen.asked));
    }

    /// So many bytes of the body of the answer are sent by now.
    pub(in crate::gateway) fn went(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// The same for one who says so as they go.
    pub(in crate::gateway) fn going(&self) -> &AtomicU64 {
        &self.bytes
    }

    /// Somebody is asked.
    pub(in crate::gateway) fn asks(&self, pick: Pick) {
        self.see(|seen| {
            seen.tries += 1;
            seen.asked = Some(match pick {
                Pick::Here => By::Here,
                Pick::Member(id) => By::Member(id),
            });
        });
    }

    /// Files of `site` answer.
    pub(in crate::gateway) fn files(&self, site: &dyn Site) {
        self.see(|seen| {
            seen.answered_by = Some(By::Files);
            seen.app = Some((site.app().clone(), Some(site.version())));
        });
    }

    /// What is asked for; it is looked up for the log alone.
    pub(in crate::gateway) fn is_for(
        &self,
        look_up: impl FnOnce() -> Option<(AppName, Option<u64>)>,
    ) {
        self.see(|seen| seen.app = look_up());
    }

    fn see(&self, note: impl FnOnce(&mut Seen)) {
        if let Some(seen) = &self.seen {
            note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Deref for Counted<'_> {
    type Target = Stats;

    fn deref(&self) -> &Stats {
        self.stats
    }
}

/// A request that is written down at its end, where there is a log.
pub(in crate::gateway) struct Record<'a> {
    pub(in crate::gateway) counted: Counted<'a>,
    /// Once it was read.
    pub(in crate::gateway) request: Option<Box<Request>>,
    /// Whether anything was asked.
    pub(in crate::gateway) is_asked: bool,
    came: &'a Came,
    log: Option<(&'a Log, Instant, WallTime)>,
}

impl<'a> Record<'a> {
    /// It begins to arrive.
    pub(in crate::gateway) fn new(stats: &'a Stats, log: Option<&'a Log>, came: &'a Came) -> Self {
        let mut counted = Counted::silent(stats);
        counted.seen = log.map(|_| Mutex::default());
        // The clocks are asked for nobody else.
        let log = log.map(|log| (log, Instant::now(), now()));
        Self { counted, request: None, is_asked: false, came, log }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let Some((log, began, time)) = self.log.filter(|_| self.is_asked) else { return };
        let seen = self.counted.seen.take().map(Mutex::into_inner);
        let seen = seen.map(|seen| seen.unwrap_or_else(PoisonError::into_inner));
        let Seen { status, app, answered_by, tries, .. } = seen.unwrap_or_default();
        let request = self.request.as_deref();
        let said = request.and_then(|request| request.said.as_deref());
        let by_tls = self.came.certificate.is_some();
        // Another member may have answered from another version.
        let is_ours = matches!(answered_by, Some(By::Here | By::Files));
        let entry = Entry {
            time,
            client: said.map_or(self.came.address, |said| said.client),
            head: request.map_or(&[], |request| &request.raw),
            is_http2: self.came.is_http2,
            host: request.and_then(|request| request.host.as_deref()),
            status: status.unwrap_or(GONE),
            bytes: self.counted.bytes.load(Relaxed),
            took: began.elapsed(),
            number: request.and_then(|request| request.number),
            app: app.as_ref().map(|(app, _)| app),
            version: app.as_ref().and_then(|(_, version)| *version).filter(|_| is_ours),
            answered_by,
            tries,
            tls: said.and_then(|said| said.secure).unwrap_or(by_tls),
        };
        let mut line = Vec::with_capacity(512);
        entry.write(log.0.format, &mut line);
        log.put(&line);
    }
}

fn now() -> WallTime {
    // A clock before 1970 reads as 1970: it is for people only.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    WallTime(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}
