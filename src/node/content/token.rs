//! The token of a comparison: what stands in the live tree was found to be a version, and
//! nothing has happened to it since. It spares the next comparison its walk.
//!
//! The kernel says what is changed in a tree that is watched, in order and a moment
//! later. So before a token is believed, a file is made beside the tree and its own
//! notice waited for: whatever came before that is known by then. This is what Watchman
//! calls a cookie.
//!
//! What is written through a memory map is noticed when the file is closed, a directory
//! that was just made is watched a moment after its own notice, and what a disk changes by
//! itself is never noticed: scans and the scrub find these, and a full comparison asks for
//! no token.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Condvar, Mutex, Weak},
    time::{Duration, Instant},
};

use super::{App, Content, ContentError, locked, state};
use crate::{
    base::{AppName, Digest, RelPath},
    driver::{
        Watch,
        files::{self, IgnoreRules, Told, WorkDir},
    },
};

/// How long a file's own notice is waited for.
const NOTICE_WITHIN: Duration = Duration::from_millis(300);
/// How long a watch is waited for that is about to begin: it walks all directories.
const WATCH_WITHIN: Duration = Duration::from_secs(5);
/// For so long after a tree could not be watched nobody waits for that.
const UNWATCHED_FOR: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is known of a tree that is watched.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// Which tree is watched: after a switch another one is live.
    pub(super) inode: u64,
    heard: Mutex<Heard>,
    /// The newest file beside the tree that was noticed.
    noticed: Mutex<u64>,
    news: Condvar,
    /// Held by whoever makes such a file, and how many there were.
    made: Mutex<u64>,
}

/// What the kernel has said of it.
#[derive(Debug, Default)]
struct Heard {
    /// How often.
    changes: u64,
    /// When it did not say where, last.
    lost: u64,
    /// Where, and when last.
    paths: BTreeMap<RelPath, u64>,
    /// Where it said so up to this one is not known any more.
    forgotten: u64,
}

/// More paths are not remembered one by one.
const PATHS_MAX: usize = 1_024;

/// Whether a live tree is about to be watched.
#[derive(Debug, Default)]
pub(super) struct Soon {
    is: bool,
    /// When it could not be watched.
    failed: Option<Instant>,
}

/// A moment in the life of a live tree and of the store below it.
#[derive(Clone, Debug)]
pub struct Token {
    mark: Weak<Mark>,
    changes: u64,
    generation: u64,
    losses: u64,
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.mark.ptr_eq(&other.mark)
            && (self.changes, self.generation, self.losses)
                == (other.changes, other.generation, other.losses)
    }
}

/// The version that a comparison found to be live, whole in the store as well.
#[derive(Clone, Debug)]
pub(super) struct InStep {
    token: Token,
    root: Digest,
    files: u64,
}

impl Mark {
    pub(super) fn told(&self, told: Told) {
        match told {
            Told::Changed(path) => {
                let mut heard = locked(&self.heard);
                heard.changes += 1;
                let now = heard.changes;
                if heard.paths.len() < PATHS_MAX || heard.paths.contains_key(&path) {
                    heard.paths.insert(path, now);
                } else {
                    heard.paths.clear();
                    heard.lost = now;
                }
            }
            Told::Lost => {
                let mut heard = locked(&self.heard);
                heard.changes += 1;
                heard.lost = heard.changes;
            }
            Told::Noticed(number) => {
                let mut noticed = locked(&self.noticed);
                *noticed = (*noticed).max(number);
                self.news.notify_all();
            }
        }
    }

    /// The changes so far, with all that came before this was asked. Nothing if the
    /// kernel does not say.
    pub(super) fn changes(&self, live: &Path) -> Option<u64> {
        let mut made = locked(&self.made);
        *made += 1;
        let path = WorkDir::path_of(live).join(files::notice_name(*made));
        // One that a process before has left.
        let _gone = std::fs::remove_file(&path);
        std::fs::File::create_new(&path).ok()?;
        let until = Instant::now() + NOTICE_WITHIN;
        let mut noticed = locked(&self.noticed);
        while *noticed < *made {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.news.wait_timeout(noticed, left);
            noticed = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        let in_time = *noticed >= *made;
        drop(noticed);
        let _gone = std::fs::remove_file(&path);
        in_time.then(|| locked(&self.heard).changes)
    }

    /// How many changes there were by now, and where those were that came after the first
    /// `seen`. Nothing if that is not known of all of them.
    pub(super) fn since(&self, seen: u64) -> Option<(u64, BTreeSet<RelPath>)> {
        let heard = locked(&self.heard);
        let is_later = |(_, at): &(&RelPath, &u64)| **at > seen;
        let paths = heard.paths.iter().filter(is_later).map(|(path, _)| path.clone());
        (heard.lost.max(heard.forgotten) <= seen).then(|| (heard.changes, paths.collect()))
    }

    /// What came before is known by now. Who looked earlier and is slower is told so.
    pub(super) fn forget(&self, seen: u64) {
        let mut heard = locked(&self.heard);
        heard.paths.retain(|_, at| *at > seen);
        heard.forgotten = heard.forgotten.max(seen);
    }
}

impl Content {
    /// Calls `changed` whenever something in the live tree of `app` changes. It is to be
    /// asked anew after each switch; see [`Content::live_inode`].
    pub fn watch(
        &self,
        app: &AppName,
        changed: Box<dyn Fn() + Send>,
    ) -> Result<Watch, ContentError> {
        let cell = self.app(app);
        let active = locked(&cell.shown).active.clone();
        let active = active.ok_or_else(|| ContentError::NotActive(app.clone()))?;
        let rules = IgnoreRules::new(&active.ignore)?;
        let inode = state::inode_of(&active.live);
        let mark = Arc::new(Mark { inode, ..Mark::default() });
        let ours = Arc::downgrade(&mark);
        // The mark lives as long as the watch.
        let told = move |told| {
            let is_change = !matches!(told, Told::Noticed(_));
            mark.told(told);
            if is_change {
                changed();
            }
        };
        let watch = files::watch_with_notices(&active.live, rules, Box::new(told));
        if watch.is_ok() {
            *locked(&cell.mark) = ours;
        }
        let failed = watch.is_err().then(Instant::now);
        *locked(&cell.soon) = Soon { is: false, failed };
        Ok(watch?)
    }

    /// The live tree of `app` is to be watched: who wants a token waits for that.
    pub fn watch_soon(&self, app: &AppName) {
        let cell = self.app(app);
        let is_watched = locked(&cell.mark).upgrade().is_some();
        let mut soon = locked(&cell.soon);
        soon.is = !is_watched && soon.failed.is_none_or(|at| at.elapsed() >= UNWATCHED_FOR);
    }

    /// The token of now; nothing if the live tree of `app` is not watched. Waits for a
    /// watch that is about to begin.
    #[expect(clippy::disallowed_methods, reason = "it blocks, for a moment, as its callers do")]
    pub fn token(&self, app: &AppName) -> Option<Token> {
        let cell = self.app(app);
        let until = Instant::now() + WATCH_WITHIN;
        let mark = loop {
            let mark = locked(&cell.mark).clone();
            if let Some(mark) = mark.upgrade() {
                break mark;
            }
            let mut soon = locked(&cell.soon);
            soon.is &= Instant::now() < until;
            if !soon.is {
                return None;
            }
            drop(soon);
            std::thread::sleep(LOOK_EVERY);
        };
        let (live, generation) = {
            let work = locked(&cell.work);
            (work.active.as_ref()?.live.clone(), work.generation)
        };
        if state::inode_of(&live) != mark.inode {
            return None;
        }
        let losses = self.inner.store.losses();
        let changes = mark.changes(&live)?;
        Some(Token { mark: Arc::downgrade(&mark), changes, generation, losses })
    }

    /// The files of the live tree of `app`, if it is known to be `root` at `token`.
    pub fn in_step(&self, app: &AppName, root: &Digest, token: &Token) -> Option<u64> {
        let known = locked(&self.app(app).in_step).clone()?;
        (known.root == *root && known.token == *token).then_some(known.files)
    }

    /// A comparison that began at `token` found the live tree of `app` to be `root`, of so
    /// many files, and the store to hold it.
    pub fn found_in_step(&self, app: &AppName, root: Digest, token: Token, files: u64) {
        let cell: &App = &self.app(app);
        *locked(&cell.in_step) = Some(InStep { token, root, files });
    }
}
