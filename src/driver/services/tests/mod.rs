use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tokio::sync::mpsc;

use super::{LogLine, Running, ServiceEvent, ServiceStatus, Services, State, Supervisor, What};
use crate::{
    base::{AppName, Digest, ServiceName},
    driver::secrets::Secrets,
};

mod defining;
mod logging;
mod running;
mod serving;

/// Longer than anything takes on a machine that is busy with other tests.
const GENEROUS: Duration = Duration::from_secs(60);

/// A supervisor with a tree of its own, and what it tells.
struct Bench {
    /// Killed before its directory goes.
    supervisor: Supervisor,
    events: mpsc::UnboundedReceiver<ServiceEvent>,
    scratch: tempfile::TempDir,
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

/// What a version holds.
fn root(version: u64) -> Digest {
    Digest::of("test", &version.to_le_bytes())
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("tree")).unwrap();
        let (tell, events) = mpsc::unbounded_channel();
        let supervisor = Supervisor::new(scratch.path().join("logs"), move |event| {
            let _ = tell.send(event);
        });
        Self { supervisor, events, scratch }
    }

    fn tree(&self) -> std::path::PathBuf {
        self.scratch.path().join("tree")
    }

    fn set(&self, version: u64, toml: &str) {
        let services = Services::parse(toml).unwrap();
        let running = Running {
            version,
            root: root(version),
            tree: self.tree(),
            services,
            served: Default::default(),
            env: BTreeMap::new(),
            secrets: Secrets::new(),
        };
        self.supervisor.set(&app(), running).unwrap();
    }

    /// The next event that is meant; those before it are let go.
    async fn wait(&mut self, meant: impl Fn(&ServiceEvent) -> bool) -> ServiceEvent {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the supervisor is gone");
                if meant(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(GENEROUS, found).await.expect("the event did not come")
    }

    /// The process that was started next as `service`.
    async fn started(&mut self, service: &str) -> u32 {
        let meant = |e: &ServiceEvent| e.service == name(service) && pid_of(e).is_some();
        pid_of(&self.wait(meant).await).unwrap()
    }

    async fn ready(&mut self, service: &str) {
        let ready = |e: &ServiceEvent| matches!(e.what, What::Ready { .. });
        self.wait(|e| e.service == name(service) && ready(e)).await;
    }

    fn status(&self, service: &str) -> ServiceStatus {
        let status = self.supervisor.status();
        status.into_iter().find(|s| s.service == name(service)).expect("it is not on the board")
    }

    /// Looks until `done` says something, as only what happens elsewhere (a
    /// file, a process) has to be looked for.
    async fn until<T>(&self, done: impl Fn(&Self) -> Option<T>) -> T {
        until(|| done(self)).await
    }

    /// Looks until the service is as it should be.
    async fn state(&self, service: &str, state: State) {
        let now = |b: &Self| b.supervisor.status();
        self.until(|b| now(b).into_iter().find(|s| s.service == name(service) && s.state == state))
            .await;
    }

    /// The first line that begins so, once it is written; what follows it.
    async fn line(&self, service: &str, begin: &str) -> String {
        self.until(|b| {
            let lines = b.lines(service);
            lines.iter().find_map(|line| line.text.strip_prefix(begin).map(str::to_owned))
        })
        .await
    }

    fn lines(&self, service: &str) -> Vec<LogLine> {
        self.supervisor.tail(&app(), &name(service), usize::MAX).unwrap()
    }
}

async fn until<T>(done: impl Fn() -> Option<T>) -> T {
    let looked = async {
        loop {
            if let Some(found) = done() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GENEROUS, looked).await.expect("it did not come to that")
}

fn pid_of(event: &ServiceEvent) -> Option<u32> {
    match event.what {
        What::Started { pid } | What::Restarted { pid, .. } => Some(pid),
        _ => None,
    }
}

/// Whether a process lives; one that nobody waited for yet does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

async fn ends(pid: u32) {
    until(|| (!lives(pid)).then_some(())).await;
}

/// A script that runs until it is told to stop.
const FOREVER: &str = "while :; do sleep 0.01; done";

/// One service that is a script, with more keys.
fn script(service: &str, text: &str, more: &str) -> String {
    let run = toml::Value::from(vec!["sh", "-c", text]);
    format!("[services.{service}]\nrun = {run}\n{more}\n")
}

fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
