//! Served services: a port of their own, and no gap between two processes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bench, FOREVER, State, What, app, lives, name, root, script};
use crate::driver::{
    secrets::Secrets,
    services::{Running, Services, UnderWay},
};

const BRIEFLY: &str = "ready = { after = \"1ms\" }";

impl Bench {
    fn serve(&self, version: u64, toml: &str) {
        self.serve_content(version, version, toml);
    }

    /// The content of version `of`, as `version`.
    fn serve_content(&self, version: u64, of: u64, toml: &str) {
        let services = Services::parse(toml).unwrap();
        let served: BTreeSet<_> = services.0.keys().cloned().collect();
        let (env, secrets) = (BTreeMap::new(), Secrets::new());
        let tree = self.tree();
        let root = root(of);
        let running = Running { version, root, tree, services, served, env, secrets };
        self.supervisor.set(&app(), running).unwrap();
    }

    fn asked(&self) -> Option<UnderWay> {
        self.supervisor.endpoints().begin(&app(), &name("api"))
    }

    async fn answers(&self, version: u64) -> UnderWay {
        self.until(|b| b.asked().filter(|asked| asked.version() == version)).await
    }
}

#[tokio::test]
async fn the_old_one_goes_once_the_new_one_is_ready_and_all_is_answered() {
    let mut bench = Bench::new();
    bench.serve(1, &script("api", "echo port $PORT; exec sleep 1000", BRIEFLY));
    let old = bench.started("api").await;
    let asked = bench.answers(1).await;
    assert_eq!(bench.line("api", "port ").await, asked.address().port().to_string());
    assert_eq!(bench.status("api").port, Some(asked.address().port()));
    bench.serve(2, &script("api", FOREVER, BRIEFLY));
    let new = bench.started("api").await;
    let next = bench.answers(2).await;
    assert_ne!(next.address(), asked.address());
    assert!(lives(old) && lives(new), "what is under way at the old one is not over");
    assert_eq!(bench.supervisor.groups().count(), 2);
    drop(asked);
    let event = bench.wait(|e| matches!(e.what, What::Stopped { .. })).await;
    assert_eq!((event.version, event.what), (1, What::Stopped { killed: false }));
    assert!(!lives(old) && lives(new));
    drop(next);
    bench.supervisor.stop_all().await;
    assert_eq!(bench.supervisor.groups().count(), 0);
    assert!(bench.asked().is_none());
}

#[tokio::test]
async fn what_is_brought_back_unchanged_goes_on() {
    let mut bench = Bench::new();
    bench.serve(1, &script("api", FOREVER, BRIEFLY));
    let old = bench.started("api").await;
    let asked = bench.answers(1).await;
    bench.serve_content(3, 1, &script("api", FOREVER, BRIEFLY));
    let status = bench.status("api");
    assert_eq!((status.version, status.state), (3, State::Ready));
    assert_eq!(status.pid, Some(old));
    // Other content is another process.
    bench.serve(4, &script("api", FOREVER, BRIEFLY));
    assert_ne!(bench.started("api").await, old);
    bench.answers(4).await;
    assert!(lives(old));
    drop(asked);
    bench.supervisor.stop_all().await;
}

#[tokio::test]
async fn a_new_one_that_never_gets_ready_leaves_the_old_one() {
    let mut bench = Bench::new();
    bench.serve(1, &script("api", FOREVER, BRIEFLY));
    let old = bench.started("api").await;
    drop(bench.answers(1).await);
    // It ends before it could be ready, again and again.
    let never = "ready = { tcp = \"127.0.0.1:$PORT\", within = \"1ms\" }";
    bench.serve(2, &script("api", "exit 3", never));
    bench.wait(|e| e.version == 2 && matches!(e.what, What::Exited { status: 3 })).await;
    bench.wait(|e| e.version == 2 && matches!(e.what, What::Exited { status: 3 })).await;
    // It runs, and listens nowhere.
    bench.serve(3, &script("api", FOREVER, never));
    bench.state("api", State::RunningNotReady).await;
    assert!(bench.answers(1).await.version() == 1 && lives(old));
    // The next one works.
    bench.serve(4, &script("api", FOREVER, BRIEFLY));
    drop(bench.answers(4).await);
    bench.wait(|e| e.version == 1 && matches!(e.what, What::Stopped { .. })).await;
    bench.supervisor.remove(&app());
    bench.until(|b| b.supervisor.status().is_empty().then_some(())).await;
    assert_eq!(bench.supervisor.groups().count(), 0);
}

#[tokio::test]
async fn one_that_ends_is_asked_no_more_and_one_that_is_not_served_waits_its_turn() {
    let mut bench = Bench::new();
    let text = "while [ ! -e go ]; do sleep 0.01; done; exit 1";
    bench.serve(1, &script("api", text, BRIEFLY));
    drop(bench.answers(1).await);
    std::fs::write(bench.tree().join("go"), "").unwrap();
    bench.wait(|e| matches!(e.what, What::Exited { status: 1 })).await;
    std::fs::remove_file(bench.tree().join("go")).unwrap();
    drop(bench.answers(1).await);
    let served = bench.status("api").pid.unwrap();
    // No route leads to it any more: one after the other, as ever.
    bench.set(2, &script("api", FOREVER, BRIEFLY));
    bench.wait(|e| e.version == 1 && matches!(e.what, What::Stopped { .. })).await;
    bench.wait(|e| e.version == 2 && matches!(e.what, What::Ready { .. })).await;
    assert!(bench.asked().is_none() && !lives(served));
}
