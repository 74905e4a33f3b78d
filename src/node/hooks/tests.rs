//! Hooks on one member, with real programs in real trees.

use std::{fs, path::PathBuf};

use tokio::sync::mpsc;

use super::*;
use crate::{
    base::{
        RelPath, SecretKey,
        catalog::{AppSpec, Enrolled},
        placement::Placement,
    },
    member::command::Staged,
    net::{self, Net},
    node::{
        content::{Content, Made, Terms},
        secrets::Others,
    },
    proto::catalog::Record,
    store::ContentStore,
};

/// Longer than anything takes on a machine that is busy with other tests.
const GENEROUS: Duration = Duration::from_secs(60);

struct Bench {
    runner: Runner,
    content: Content,
    dir: tempfile::TempDir,
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("content")).unwrap();
        let content = Content::open(store, dir.path().join("live"), dir.path().join("state"));
        let content = content.unwrap();
        let key = SecretKey::from_seed([1; 32]);
        let founder = Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse("north").unwrap(),
            address: ([127, 0, 0, 1], 1).into(),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let catalog = Record::found([0; 32], &key, founder).committed.catalog;
        let bind = ([127, 0, 0, 1], 0).into();
        let config = net::Config { bind, key: key.clone(), cluster: catalog.cluster };
        let (network, _nobody_connects) = Net::bind(config).unwrap();
        let others = watch::channel(Others::default()).1;
        let secrets = dir.path().join("secrets");
        let vault = Vault { content: content.clone(), network, key, dir: secrets, others };
        let supervisor = Arc::new(Supervisor::new(dir.path().join("logs"), |_| {}));
        let runner = Runner::new(supervisor, vault, &catalog, CancellationToken::new());
        Self { runner, content, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A version in which these scripts run before and after a switch.
    fn version(&self, before: &str, after: &str) -> Digest {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("text"), before).unwrap();
        let hook = |when: &str, script: &str| {
            format!("[hooks.{when}]\nrun = [\"sh\", \"-c\", '''{script}''']\n")
        };
        let text = hook("before-switch", before) + &hook("after-switch", after);
        let path = RelPath::parse(b".althing/hooks.toml").unwrap();
        let made = Made { texts: vec![(path, text)], ..Made::default() };
        self.content.stage(source.path(), &[], &made).unwrap().root
    }

    /// As the loop has it done.
    async fn switch(&self, version: u64, root: Digest) -> Result<(), ContentError> {
        let (runner, content) = (self.runner.clone(), self.content.clone());
        let switch = move || {
            let check = |next: &Next<'_>| runner.before(next);
            let terms = Terms { check: Some(&check), ..Terms::default() };
            let spec = AppSpec::default();
            let done = content.activate_with(&app(), version, version, root, &spec, terms);
            runner.came_of(&app(), version, done.as_ref().map(drop));
            done.map(drop)
        };
        let done = tokio::time::timeout(GENEROUS, tokio::task::spawn_blocking(switch)).await;
        done.expect("it ends").unwrap()
    }

    /// The catalog has this version.
    fn newest(&self, version: u64) {
        self.runner.known.send_modify(|known| {
            known.current.insert(app(), version);
        });
    }

    /// Runs what runs after switches from now on.
    fn run(&self) -> (watch::Sender<Option<Live>>, mpsc::UnboundedReceiver<Notice>) {
        let live = watch::Sender::new(None);
        let (tell, notices) = mpsc::unbounded_channel();
        let run = self.runner.clone().run(live.subscribe(), move |notice| drop(tell.send(notice)));
        tokio::spawn(run);
        (live, notices)
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().count()
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let looked = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GENEROUS, looked).await.unwrap_or_else(|_| panic!("{what}"));
}

#[test]
fn pauses_double_to_five_minutes() {
    let pauses: Vec<u64> = (1..=10).map(|failures| pause(failures).as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!(pause(u32::MAX), PAUSE_LONGEST);
}

#[tokio::test(start_paused = true)]
async fn what_failed_waits_longer_each_time_and_nothing_else_waits() {
    let failed = |before: Option<&Failure<u64>>, of| Failure::next(before, of, "no".to_owned());
    let once = failed(None, 1);
    assert!(once.holds(&1) && !once.holds(&2));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!once.holds(&1));
    let twice = failed(Some(&once), 1);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(twice.holds(&1));
    assert_eq!(failed(Some(&twice), 2).count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_fit_is_held_back_and_a_newer_one_is_not() {
    let bench = Bench::new();
    let (good, bad) = (bench.version("true", "true"), bench.version("echo no >&2; exit 4", "true"));
    bench.switch(1, good).await.unwrap();
    let why =
        "its before-switch hook exited with status 4: no; see `althing logs web before-switch`";
    let refused = bench.switch(2, bad).await.unwrap_err();
    assert!(matches!(&refused, ContentError::Held { why: said, .. } if said == why), "{refused}");
    assert_eq!(bench.content.applications()[0].version, 1);
    assert_eq!(bench.runner.held_back(&app(), 2).as_deref(), Some(why));
    assert_eq!(bench.runner.held_back(&app(), 3), None);
    bench.switch(3, good).await.unwrap();
    assert_eq!(bench.runner.held_back(&app(), 2), None, "it is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_tried_where_it_is_placed_before_it_is_published() {
    let bench = Bench::new();
    let (good, bad) = (bench.version("true", "true"), bench.version("exit 4", "true"));
    let tried = |root, placement: Option<&str>| {
        let placement = placement.map(|text| Placement::parse(text).unwrap());
        let command = Command::Publish {
            app: app(),
            staged: Staged { root, files: 1, bytes: 1 },
            spec: Box::new(AppSpec { placement, ..AppSpec::default() }),
            message: String::new(),
            base: None,
        };
        let runner = bench.runner.clone();
        async move { tokio::task::spawn_blocking(move || runner.try_out(&command)).await.unwrap() }
    };
    tried(good, None).await.unwrap();
    let refused = tried(bad, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Invalid);
    assert!(refused.why.contains("its before-switch hook exited with status 4"), "{refused:?}");
    assert_eq!(bench.runner.held_back(&app(), 1), None, "that is no switch");
    tried(bad, Some("role == web")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_its_time_gives_way_to_what_is_newer_and_to_the_end() {
    let bench = Bench::new();
    let begun = bench.path("begun");
    let slow = bench.version(&format!("echo >> {}; exec sleep 1000", begun.display()), "true");
    let newer = async {
        until("it begins", || bench.lines("begun") == 1).await;
        bench.newest(2);
    };
    let (gave_way, ()) = tokio::join!(bench.switch(1, slow), newer);
    assert!(matches!(gave_way, Err(ContentError::GaveWay(_))));
    assert_eq!(bench.runner.held_back(&app(), 1), None, "nothing is known of it");
    let stop = async {
        until("it begins again", || bench.lines("begun") == 2).await;
        bench.runner.stopping.cancel();
    };
    let (stopped, ()) = tokio::join!(bench.switch(2, slow), stop);
    assert!(matches!(stopped, Err(ContentError::GaveWay(_))));
    assert!(bench.content.applications().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_after_a_switch_runs_for_each_change_until_it_ends_well() {
    let bench = Bench::new();
    let (runs, fixed) = (bench.path("runs"), bench.path("fixed"));
    let script = format!(
        "echo $ALTHING_VERSION >> {}; test -e {} || {{ echo \"not yet\" >&2; exit 1; }}",
        runs.display(),
        fixed.display()
    );
    let root = bench.version("true", &script);
    bench.switch(1, root).await.unwrap();
    let (live, mut notices) = bench.run();
    let is_live = |version| Some(Live::from([(app(), (version, root))]));
    live.send_replace(is_live(1));
    let why = "exited with status 1: not yet; see `althing logs web after-switch`";
    let first = notices.recv().await.unwrap();
    assert_eq!(first, Notice::Failed(app(), 1, why.to_owned()));
    until("it is complained of", || bench.runner.complaints().len() == 1).await;
    assert!(bench.runner.complaints()[0].contains(why), "{:?}", bench.runner.complaints());
    fs::write(&fixed, "").unwrap();
    assert_eq!(notices.recv().await.unwrap(), Notice::Passed(app(), 1));
    until("nobody complains", || bench.runner.complaints().is_empty()).await;
    let told = bench.lines("runs");
    assert!(told >= 2);
    assert!(bench.content.due(&app()).is_none());
    // A repair is a change.
    let (content, edited) = (bench.content.clone(), bench.path("live/web/text"));
    fs::write(edited, "edited").unwrap();
    tokio::task::spawn_blocking(move || content.repair(&app(), root)).await.unwrap().unwrap();
    bench.runner.repaired(&app());
    until("it runs for the repair", || bench.lines("runs") == told + 1).await;
    until("that is known", || bench.content.due(&app()).is_none()).await;
    // So is the next version; a start is none, and neither is a repair of nothing.
    bench.switch(2, root).await.unwrap();
    live.send_replace(is_live(2));
    until("it runs for the version", || bench.lines("runs") == told + 2).await;
    until("that is known", || bench.content.due(&app()).is_none()).await;
    let (again, _notices) = bench.run();
    again.send_replace(is_live(2));
    bench.content.repair(&app(), root).unwrap();
    bench.runner.repaired(&app());
    live.send_replace(is_live(1));
    live.send_replace(is_live(2));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.lines("runs"), told + 2);
    let text = fs::read_to_string(&runs).unwrap();
    assert!(text.ends_with("1\n2\n") && notices.try_recv().is_err(), "{text}");
}
