//! One request from its first byte to its last: what it counts, for all of them and for
//! itself. Dropped, however it ended, it is counted for its application, and written down where
//! there is a log.

use std::{
    net::IpAddr,
    ops::Deref,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    super::{
        Site, connection::Came, request::Request, stats::Stats, tally::Ended, transport::Broken,
    },
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
/// The two go on in another protocol, for as long as they like.
const SWITCHED: u16 = 101;

/// What counts while a request is answered.
pub(in crate::gateway) struct Counted<'a> {
    stats: &'a Stats,
    bytes: AtomicU64,
    /// Nothing where another member has passed it on, which counts it and writes it down.
    seen: Option<Mutex<Seen>>,
    is_logged: bool,
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
    /// Of one that another member has passed on.
    pub(in crate::gateway) fn silent(stats: &'a Stats) -> Self {
        Self { stats, bytes: AtomicU64::new(0), seen: None, is_logged: false }
    }

    /// Whether it is written down.
    pub(in crate::gateway) fn is_logged(&self) -> bool {
        self.is_logged
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
            match &mut seen.app {
                Some((app, version)) if app == site.app() => *version = Some(site.version()),
                other => *other = Some((site.app().clone(), Some(site.version()))),
            }
        });
    }

    /// What is asked for: which application, and which version of it is here.
    pub(in crate::gateway) fn is_for(&self, app: Option<(AppName, Option<u64>)>) {
        self.see(|seen| seen.app = app);
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

/// A request that is counted at its end, and written down where there is a log.
pub(in crate::gateway) struct Record<'a> {
    pub(in crate::gateway) counted: Counted<'a>,
    /// Once it was read.
    pub(in crate::gateway) request: Option<Box<Request>>,
    came: &'a Came,
    /// When its head was there, or was not to be waited for any longer; none where nothing was
    /// asked.
    asked: Option<Instant>,
    /// It ended for a reason on this side, before its time.
    cut: bool,
    log: Option<(&'a Log, Instant, WallTime)>,
}

impl<'a> Record<'a> {
    /// It begins to arrive.
    pub(in crate::gateway) fn new(stats: &'a Stats, log: Option<&'a Log>, came: &'a Came) -> Self {
        let mut counted = Counted::silent(stats);
        (counted.seen, counted.is_logged) = (Some(Mutex::default()), log.is_some());
        // The clocks are asked for nobody else.
        let log = log.map(|log| (log, Instant::now(), now()));
        Self { counted, request: None, came, asked: None, cut: false, log }
    }

    /// Something was asked, and is about to be answered.
    pub(in crate::gateway) fn asked(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// So it ended. Without a word its client has taken it back.
    pub(in crate::gateway) fn ended<T>(&mut self, how: &Result<T, Broken>) {
        self.cut = how.as_ref().is_err_and(|broken| !broken.is_of_client());
    }

    fn count(&self, asked: Instant, seen: &Seen, client: IpAddr) {
        let tally = self.counted.tally();
        let status = seen.status;
        let is_timed = status.is_some_and(|status| status != SWITCHED);
        let ended = Ended {
            status,
            cut: self.cut || std::thread::panicking(),
            bytes: self.counted.bytes.load(Relaxed),
            forwarded: matches!(seen.answered_by, Some(By::Member(_))),
            took: is_timed.then(|| asked.elapsed()),
        };
        tally.count(seen.app.as_ref().map(|(app, _)| app), &ended);
        // Where the head could not be read nobody knows for whom a proxy asked.
        if self.request.is_some() {
            tally.came_from(client);
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let Some(asked) = self.asked else { return };
        let seen = self.counted.seen.take().map(Mutex::into_inner);
        let seen = seen.map(|seen| seen.unwrap_or_else(PoisonError::into_inner));
        let seen = seen.unwrap_or_default();
        let request = self.request.as_deref();
        let said = request.and_then(|request| request.said.as_deref());
        let client = said.map_or(self.came.address, |said| said.client);
        self.count(asked, &seen, client);
        let Some((log, began, time)) = self.log else { return };
        let Seen { status, app, answered_by, tries, .. } = seen;
        let by_tls = self.came.certificate.is_some();
        // Another member may have answered from another version.
        let is_ours = matches!(answered_by, Some(By::Here | By::Files));
        let entry = Entry {
            time,
            client,
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
        entry.write(log.format(), &mut line);
        log.put(&line);
    }
}

fn now() -> WallTime {
    // A clock before 1970 reads as 1970: it is for people only.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    WallTime(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}
