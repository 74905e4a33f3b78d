//! The scrub: every byte that this member holds is read again from time to
//! time, slowly, so that what rotted is found before a vote or a repair needs
//! it. In the store a rotten chunk is forgotten and fetched again; in a live
//! tree it becomes a difference like any other, and the vote puts it right.
//! The idea is that of LOCKSS and of the scrubs of ZFS and Ceph.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::content::Content;
use crate::{
    base::{
        AppName, Digest,
        tree::{Chunk, Tree},
    },
    driver::{DriverError, FileSink, Mode, files},
    store::{ContentStore, StoreError},
};

/// The first pass begins within this time after the start, so that members
/// which start together don't scrub together.
const FIRST_WITHIN: Duration = Duration::from_secs(3_600);
/// Chunks between two looks at the clock.
const BATCH: usize = 64;
/// Bytes between two looks at the clock, in a file.
const PORTION: usize = 256 << 10;

/// How the scrub goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// From the beginning of one pass to that of the next.
    pub every: Duration,
    /// Bytes a second at the most.
    pub rate: u64,
}

/// What the scrub has done since the start.
#[derive(Debug, Default)]
pub(super) struct Scrubbed {
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Chunks of the store that had rotted or were gone.
    pub damaged: AtomicU64,
    /// Whole passes.
    pub passes: AtomicU64,
}

/// What a pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The store no longer holds all of this tree.
    Store { root: Digest, chunks: u64 },
    /// What stands in this application's live tree is not what quick scans took it for.
    Live { app: AppName },
}

/// Passes for ever, as `scrub` says at the time; none means no passes, and a pass that is under
/// way ends. `wanted` says what the store should hold; `found` is told at
/// once, because from then on the member does not hold what it says it holds.
pub(super) async fn run(
    mut scrub: watch::Receiver<Option<Scrub>>,
    pass: Pass,
    wanted: impl Fn() -> BTreeSet<Digest> + Clone + Send + 'static,
    found: impl Fn(Found) + Clone + Send + 'static,
) {
    let share = rand::rng().random_range(0.0..1.0);
    // From when on there are passes, and when the last one began.
    let (mut since, mut last) = (Instant::now(), None);
    loop {
        let wish = *scrub.borrow_and_update();
        let due = wish.map(|Scrub { every, .. }| match last {
            Some(last) => last + every,
            None => since + every.min(FIRST_WITHIN).mul_f64(share),
        });
        tokio::select! {
            () = pass.stopping.cancelled() => return,
            () = changed(&mut scrub) => {
                if wish.is_none() {
                    (since, last) = (Instant::now(), None);
                }
                continue;
            }
            () = sleep_until(due) => {}
        }
        last = Some(Instant::now());
        let rates = scrub.clone();
        let rate = move || rates.borrow().map(|scrub| scrub.rate);
        let (pass, runtime, found) = (pass.clone(), Handle::current(), found.clone());
        let wanted = wanted.clone();
        let passing = tokio::task::spawn_blocking(move || {
            let (began, stopping) = (Instant::now(), pass.stopping.clone());
            let wait = move |until| {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = stopping.cancelled() => false,
                        () = tokio::time::sleep_until(began + until) => true,
                    }
                })
            };
            pass.once(&wanted, &mut pass.throttle(rate, wait), &found);
        });
        if let Err(error) = passing.await {
            tracing::error!(%error, "the scrub ended before its time");
        }
    }
}

/// Whether there are to be others than those of before; never once nobody can say so any more.
async fn changed(scrub: &mut watch::Receiver<Option<Scrub>>) {
    if scrub.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What a pass reads.
#[derive(Clone)]
pub(super) struct Pass {
    pub content: Content,
    pub store: ContentStore,
    pub scrubbed: Arc<Scrubbed>,
    pub stopping: CancellationToken,
}

impl Pass {
    /// `rate` says how many bytes a second may be read now, or that there are to be no passes any
    /// more. `wait` waits until so much time has passed since the pass began; false when there is
    /// no more time.
    fn throttle(
        &self,
        rate: impl Fn() -> Option<u64> + Send + 'static,
        wait: impl FnMut(Duration) -> bool + Send + 'static,
    ) -> Throttle {
        let counted = self.scrubbed.clone();
        Throttle { rate: Box::new(rate), due_s: 0.0, counted, wait: Box::new(wait), over: false }
    }

    /// One pass: first the store, which repairs read from, then the live trees. Blocks.
    fn once(
        &self,
        wanted: &dyn Fn() -> BTreeSet<Digest>,
        throttle: &mut Throttle,
        found: &dyn Fn(Found),
    ) {
        self.stored(wanted, throttle, found);
        for active in self.content.applications() {
            if throttle.over {
                return;
            }
            match self.live(&active.app, throttle) {
                Ok(true) => found(Found::Live { app: active.app }),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(app = %active.app, %error, "a live tree was not scrubbed");
                }
            }
        }
        if !throttle.over {
            self.scrubbed.passes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads each chunk of what is `wanted` once, however many trees need it.
    fn stored(
        &self,
        wanted: &dyn Fn() -> BTreeSet<Digest>,
        throttle: &mut Throttle,
        found: &dyn Fn(Found),
    ) {
        let mut trees: BTreeMap<Digest, Arc<Tree>> = wanted()
            .into_iter()
            .filter_map(|root| Some((root, self.store.tree(&root).ok()??)))
            .collect();
        let chunks: BTreeSet<Chunk> = trees.values().flat_map(|tree| tree.chunks()).collect();
        for batch in chunks.iter().collect::<Vec<_>>().chunks(BATCH) {
            // What a collection takes is not damaged: not in the middle of a batch, and what is no
            // more wanted may be gone since the one before.
            let hold = self.store.hold();
            let still = wanted();
            trees.retain(|root, _| still.contains(root));
            let (mut bytes, mut bad) = (0, BTreeSet::new());
            for chunk in batch {
                match self.store.read(&chunk.digest) {
                    Ok(read) => bytes += read.len() as u64,
                    Err(StoreError::Corrupt(_) | StoreError::NotFound(_)) => {
                        bad.insert(chunk.digest);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the store was not scrubbed to its end");
                        return self.tell(&trees, &bad, found);
                    }
                }
            }
            drop(hold);
            self.tell(&trees, &bad, found);
            if !throttle.took(bytes) {
                return;
            }
        }
    }

    /// Says of which trees these chunks are missing now.
    fn tell(
        &self,
        trees: &BTreeMap<Digest, Arc<Tree>>,
        bad: &BTreeSet<Digest>,
        found: &dyn Fn(Found),
    ) {
        let mut damaged = BTreeSet::new();
        for (root, tree) in trees.iter().filter(|_| !bad.is_empty()) {
            let mut chunks = 0;
            for chunk in tree.chunks().iter().filter(|chunk| bad.contains(&chunk.digest)) {
                damaged.insert(chunk.digest);
                chunks += 1;
            }
            if chunks > 0 {
                found(Found::Store { root: *root, chunks });
            }
        }
        self.scrubbed.damaged.fetch_add(damaged.len() as u64, Ordering::Relaxed);
    }

    /// Reads the live tree of `app`; whether it is something else than it was taken for.
    fn live(
        &self,
        app: &AppName,
        throttle: &mut Throttle,
    ) -> Result<bool, super::content::ContentError> {
        let before = self.content.scan(app, false)?.root;
        self.content.live(app, Mode::Full, Some(throttle))?;
        let after = self.content.scan(app, false)?.root;
        Ok(before != after)
    }
}

/// Lets through so many bytes a second, and nothing once the member or the scrub stops.
struct Throttle {
    rate: Box<dyn Fn() -> Option<u64> + Send>,
    /// When what was read so far has had its time, from the beginning of the pass.
    due_s: f64,
    counted: Arc<Scrubbed>,
    wait: Box<dyn FnMut(Duration) -> bool + Send>,
    over: bool,
}

impl Throttle {
    /// Waits until `bytes` more may have been read; false when it is over.
    fn took(&mut self, bytes: u64) -> bool {
        self.counted.bytes.fetch_add(bytes, Ordering::Relaxed);
        let Some(rate) = (self.rate)() else {
            self.over = true;
            return false;
        };
        self.due_s += bytes as f64 / rate.max(1) as f64;
        self.over |= !(self.wait)(Duration::from_secs_f64(self.due_s));
        !self.over
    }
}

impl FileSink for Throttle {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        files::sign(&mut Slowly { reader, throttle: self })
    }
}

struct Slowly<'a> {
    reader: &'a mut dyn Read,
    throttle: &'a mut Throttle,
}

impl Read for Slowly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let portion = buffer.len().min(PORTION);
        let read = self.reader.read(&mut buffer[..portion])?;
        if self.throttle.took(read as u64) {
            Ok(read)
        } else {
            Err(io::Error::other("the scrub is stopping"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt, sync::Mutex};

    use super::*;
    use crate::base::{RelPath, catalog::AppSpec};

    struct Bench {
        dir: tempfile::TempDir,
        pass: Pass,
        root: Digest,
        bytes: Vec<u8>,
    }

    impl Bench {
        /// One application of one file of 3 MiB.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = ContentStore::open(&dir.path().join("content")).unwrap();
            let (live, state) = (dir.path().join("live"), dir.path().join("state"));
            let content = Content::open(store.clone(), live, state).unwrap();
            let source = tempfile::tempdir().unwrap();
            let mut bytes = vec![0; 3 << 20];
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
            fs::write(source.path().join("large"), &bytes).unwrap();
            let root = content
                .stage(source.path(), &[], &crate::node::content::Made::default())
                .unwrap()
                .root;
            content.activate(&app(), 1, 1, root, &AppSpec::default()).unwrap();
            let scrubbed = Arc::default();
            let pass = Pass { content, store, scrubbed, stopping: CancellationToken::new() };
            Self { dir, pass, root, bytes }
        }

        /// What the disk does to a byte here and there.
        fn rot(&self) {
            let live = self.dir.path().join("live/www/large");
            let file = fs::File::options().write(true).open(live).unwrap();
            file.write_all_at(&[self.bytes[1_000] ^ 1], 1_000).unwrap();
            let large = RelPath::parse(b"large").unwrap();
            self.pass.content.take_for_unchanged(&app(), &large);
            for pack in fs::read_dir(self.dir.path().join("content/packs")).unwrap() {
                let pack = fs::File::options().write(true).open(pack.unwrap().path()).unwrap();
                let middle = pack.metadata().unwrap().len() / 2;
                pack.write_all_at(&[0xAA; 64], middle).unwrap();
            }
        }

        fn once(
            &self,
            rate: u64,
            wait: impl FnMut(Duration) -> bool + Send + 'static,
        ) -> Vec<Found> {
            let all = Mutex::default();
            let mut throttle = self.pass.throttle(move || Some(rate), wait);
            let found = |one| Mutex::<Vec<Found>>::lock(&all).unwrap().push(one);
            self.pass.once(&|| BTreeSet::from([self.root]), &mut throttle, &found);
            all.into_inner().unwrap()
        }

        fn passes(&self) -> u64 {
            self.pass.scrubbed.passes.load(Ordering::Relaxed)
        }
    }

    fn app() -> AppName {
        AppName::parse("www").unwrap()
    }

    /// Covers R14.
    #[test]
    fn rot_is_found_in_the_store_and_in_the_live_tree() {
        let bench = Bench::new();
        assert_eq!(bench.once(u64::MAX, |_| true), []);
        assert_eq!(bench.pass.scrubbed.bytes.load(Ordering::Relaxed), 6 << 20, "each byte, twice");
        bench.rot();
        let quick = bench.pass.content.scan(&app(), false).unwrap().root;
        assert_eq!(quick, Some(bench.root), "a quick scan can't see it");
        let found = bench.once(u64::MAX, |_| true);
        assert!(matches!(found[0], Found::Store { chunks: 1..=2, .. }), "{found:?}");
        assert_eq!(found[1..], [Found::Live { app: app() }]);
        assert!(!bench.pass.store.whole(&bench.root).unwrap());
        let seen = bench.pass.content.scan(&app(), false).unwrap().root;
        assert_ne!(seen, Some(bench.root), "the vote sees it now");
        assert_eq!(bench.passes(), 2);
    }

    #[test]
    fn it_reads_no_faster_than_it_is_told_and_stops_when_it_is_told() {
        let bench = Bench::new();
        let latest: Arc<Mutex<Duration>> = Arc::default();
        let seen = latest.clone();
        bench.once(1 << 20, move |until| {
            let mut latest = seen.lock().unwrap();
            assert!(until >= *latest && until - *latest <= Duration::from_secs(4), "{until:?}");
            *latest = until;
            true
        });
        assert_eq!(*latest.lock().unwrap(), Duration::from_secs(6), "6 MiB at 1 MiB/s");
        bench.rot();
        let mut left = 1;
        let found = bench.once(1 << 20, move |_| {
            left -= 1;
            left >= 0
        });
        assert!(!found.contains(&Found::Live { app: app() }), "there was no time for it");
        assert_eq!(bench.passes(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn passes_come_one_after_the_other() {
        let bench = Bench::new();
        let scrub = Scrub { every: Duration::from_secs(86_400), rate: u64::MAX };
        let root = bench.root;
        let wanted = move || BTreeSet::from([root]);
        let began = Instant::now();
        let (_sender, told) = watch::channel(Some(scrub));
        let running = tokio::spawn(run(told, bench.pass.clone(), wanted, |_| {}));
        while bench.passes() < 3 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let took = began.elapsed();
        assert!(took >= 2 * scrub.every && took < 2 * scrub.every + 2 * FIRST_WITHIN, "{took:?}");
        bench.pass.stopping.cancel();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_told_otherwise_while_it_runs() {
        let bench = Bench::new();
        let (sender, told) = watch::channel(None);
        let root = bench.root;
        let wanted = move || BTreeSet::from([root]);
        let running = tokio::spawn(run(told, bench.pass.clone(), wanted, |_| {}));
        tokio::time::sleep(Duration::from_secs(10 * 86_400)).await;
        assert_eq!(bench.passes(), 0, "there were to be none");
        let scrub = Scrub { every: Duration::from_secs(86_400), rate: u64::MAX };
        sender.send_replace(Some(scrub));
        while bench.passes() < 2 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        // The next one would be a day later.
        let began = Instant::now();
        sender.send_replace(Some(Scrub { every: Duration::from_secs(7_200), ..scrub }));
        while bench.passes() < 3 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert!(began.elapsed() <= Duration::from_secs(7_260), "{:?}", began.elapsed());
        sender.send_replace(None);
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(bench.passes(), 3);
        bench.pass.stopping.cancel();
        running.await.unwrap();
    }

    /// A pass may take days.
    #[test]
    fn a_pass_under_way_keeps_to_what_is_said_now() {
        let bench = Bench::new();
        let latest: Arc<Mutex<Duration>> = Arc::default();
        let (sender, told) = watch::channel(Some(1_u64 << 20));
        let seen = latest.clone();
        let wait = move |until| {
            *seen.lock().unwrap() = until;
            if until >= Duration::from_secs(3) {
                // From the live tree on: four times as fast.
                sender.send_replace(Some(4 << 20));
            }
            true
        };
        let mut throttle = bench.pass.throttle(move || *told.borrow(), wait);
        bench.pass.once(&|| BTreeSet::from([bench.root]), &mut throttle, &|_| {});
        assert_eq!(bench.passes(), 1);
        let took = *latest.lock().unwrap();
        assert!(took < Duration::from_secs(5) && took >= Duration::from_secs(3), "{took:?}");
        let mut throttle = bench.pass.throttle(|| None, |_| true);
        bench.pass.once(&|| BTreeSet::from([bench.root]), &mut throttle, &|_| {});
        assert_eq!(bench.passes(), 1, "it ends where there are to be none");
    }
}
