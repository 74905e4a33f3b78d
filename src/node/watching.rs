//! Watching live trees. While edits are publications, what changes is told at once, and
//! not by the next scan; otherwise it only shows whether anything changed between two
//! comparisons.
//!
//! A notice waits until nothing more comes for a moment, because who saves a file
//! writes more than once, and never for long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::content::Content;
use crate::{base::AppName, driver::Watch};

/// A change is told of when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(15);
/// And at the latest after this, whatever comes.
const QUIET_MAX: Duration = Duration::from_millis(250);
/// How often is seen to it that what is watched is what is live.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How soon a tree that could not be watched is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is told of.
pub(super) enum Notice {
    /// Something changes in the live tree of this application.
    Changed(AppName),
    /// It can't be watched, and why.
    Unwatched(String),
}

struct Watched {
    /// Which tree it is: after an exchange it is another.
    inode: u64,
    /// None where it could not be watched.
    watch: Option<Watch>,
    since: Instant,
    /// Whether its changes are told of.
    loud: bool,
    /// One word of it is on its way, so that a storm does not fill the queue.
    said: Arc<AtomicBool>,
}

/// A change that is not told of yet.
struct Pending {
    first: Instant,
    last: Instant,
}

/// Watches the live trees of the applications that are `wanted`, until it is stopped.
/// With each stands whether its changes are told of.
pub(super) async fn run(
    content: Content,
    mut wanted: watch::Receiver<BTreeMap<AppName, bool>>,
    tell: impl Fn(Notice) + Send + 'static,
    stopping: CancellationToken,
) {
    let (say, mut heard) = mpsc::unbounded_channel::<AppName>();
    let mut watched: BTreeMap<AppName, Watched> = BTreeMap::new();
    let mut pending: BTreeMap<AppName, Pending> = BTreeMap::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        watched.retain(|app, _| names.contains_key(app));
        let look = !names.is_empty();
        for (app, loud) in names {
            let inode = content.live_inode(&app);
            let stands = watched.get(&app).is_some_and(|w| {
                Some(w.inode) == inode && (w.watch.is_some() || w.since.elapsed() < RETRY)
            });
            if let (false, Some(inode)) = (stands, inode) {
                let (content, say) = (content.clone(), say.clone());
                let name = app.clone();
                // It walks the whole tree.
                let made = tokio::task::spawn_blocking(move || begin(&content, &name, inode, &say));
                let Ok((now, trouble)) = made.await else { return };
                let told = watched.get(&app).is_some_and(|before| before.watch.is_none());
                if let Some(trouble) = trouble.filter(|_| loud && !told) {
                    tell(Notice::Unwatched(trouble));
                }
                watched.insert(app.clone(), now);
            }
            let Some(watched) = watched.get_mut(&app) else { continue };
            if !std::mem::replace(&mut watched.loud, loud) && loud {
                // What came before it was told of.
                tell(Notice::Changed(app));
            }
        }
        let due = pending.values().map(|p| (p.last + QUIET).min(p.first + QUIET_MAX)).min();
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            Some(app) = heard.recv() => {
                if let Some(watched) = watched.get(&app) {
                    watched.said.store(false, Ordering::Release);
                    if !watched.loud {
                        continue;
                    }
                    let now = Instant::now();
                    pending.entry(app).or_insert(Pending { first: now, last: now }).last = now;
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(far)), if due.is_some() => {}
            () = tokio::time::sleep(LOOK_EVERY), if look => {}
        }
        let now = Instant::now();
        let ready = |p: &Pending| (p.last + QUIET).min(p.first + QUIET_MAX) <= now;
        let told: Vec<AppName> =
            pending.iter().filter(|(_, p)| ready(p)).map(|(app, _)| app.clone()).collect();
        for app in told {
            pending.remove(&app);
            tell(Notice::Changed(app));
        }
    }
}

fn far() -> Instant {
    Instant::now() + LOOK_EVERY
}

fn begin(
    content: &Content,
    app: &AppName,
    inode: u64,
    say: &mpsc::UnboundedSender<AppName>,
) -> (Watched, Option<String>) {
    let said = Arc::new(AtomicBool::new(false));
    let (flag, say, name) = (Arc::clone(&said), say.clone(), app.clone());
    let changed = Box::new(move || {
        if !flag.swap(true, Ordering::AcqRel) {
            let _nobody_may_listen = say.send(name.clone());
        }
    });
    let (watch, trouble) = match content.watch(app, changed) {
        Ok(watch) => (Some(watch), None),
        Err(error) => (None, Some(format!("edits of {app} are noticed late: {error}"))),
    };
    (Watched { inode, watch, since: Instant::now(), loud: false, said }, trouble)
}
