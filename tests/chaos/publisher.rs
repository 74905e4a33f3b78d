//! Publications, all the while or one at a time, and what their publishers are
//! told. Every version is marked through and through, so that a reader sees
//! which one it holds, and a mixture.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    account::Told,
    common::{Refused, run_on, until},
    watch::{PAGES, Watch, page_of},
};

/// Between two publications of the one that publishes all the while.
const PAUSE_MS: std::ops::Range<u64> = 100..900;
/// Lines of the largest page, some hundred kilobytes: several chunks.
const BIG: usize = 9_000;

/// Publishes, and keeps account of it.
pub struct Publisher {
    watch: Arc<Watch>,
    scratch: PathBuf,
    next: AtomicU64,
    /// The data directories of those that may be asked. Empty: a pause.
    pub through: Mutex<Vec<PathBuf>>,
    /// Whether the one that publishes all the while has chosen one of these, and is not told yet.
    at_work: AtomicBool,
}

impl Publisher {
    pub fn new(watch: Arc<Watch>, scratch: PathBuf) -> Arc<Self> {
        let (next, through) = (AtomicU64::new(1), Mutex::default());
        let at_work = AtomicBool::new(false);
        Arc::new(Self { watch, scratch, next, through, at_work })
    }

    /// Publishes through any of `through`, until the watch is over.
    pub fn start(self: &Arc<Self>, seed: u64) -> thread::JoinHandle<()> {
        let this = Arc::clone(self);
        thread::spawn(move || {
            let mut rng = SmallRng::seed_from_u64(seed);
            while !this.watch.is_over() {
                thread::sleep(Duration::from_millis(rng.random_range(PAUSE_MS)));
                let through = {
                    let all = this.through.lock().unwrap();
                    if all.is_empty() {
                        continue;
                    }
                    this.at_work.store(true, Ordering::SeqCst);
                    all[rng.random_range(0..all.len())].clone()
                };
                let _told_to_the_account = this.publish(&through, BIG);
                this.at_work.store(false, Ordering::SeqCst);
            }
        })
    }

    /// From now on nothing is published all the while, and what was under way has ended:
    /// a window of it may come only after everything else looks calm.
    pub fn fall_silent(&self) {
        self.through.lock().unwrap().clear();
        until("the last publication has ended", || {
            if self.at_work.load(Ordering::SeqCst) {
                Err("it is under way".to_owned())
            } else {
                Ok(())
            }
        });
    }

    /// Publishes one more version through the member on `data`, its largest page
    /// of so many lines.
    pub fn publish(&self, data: &Path, big: usize) -> Result<u64, Refused> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mark = format!("p{number}");
        let site = self.scratch.join(&mark);
        for page in PAGES {
            let file = if page == "/" { "/index.html" } else { page };
            let path = site.join(&file[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let lines = if page == "/big.txt" { big } else { 40 };
            fs::write(path, page_of(&mark, page, lines)).unwrap();
        }
        self.watch.account().tries(&mark);
        let asked = ["publish", site.to_str().unwrap(), "--app", "web", "--message", &mark];
        let result = run_on(data, &asked);
        fs::remove_dir_all(&site).unwrap();
        let result = result.map(|said| said["version"].as_u64().expect("a version is published"));
        let told = match &result {
            Ok(version) => Told::Version(*version),
            Err(refused) if is_open_ended(refused) => Told::Unknown,
            Err(refused) => Told::Refused(format!("{refused:?}")),
        };
        self.watch.account().is_told(&mark, told);
        result
    }
}

/// Whether a refusal says that it may come into force all the same.
fn is_open_ended(refused: &Refused) -> bool {
    let text = format!("{} {} {}", refused.what, refused.why, refused.todo);
    ["may still", "may have", "after all", "not known"].iter().any(|words| text.contains(words))
}
