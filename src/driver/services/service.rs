//! The task of one service: start, ready, end, pause, start again, until it
//! is told that the service is not wanted any more.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    pin::pin,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    State, What,
    backoff::Backoff,
    endpoint::Endpoint,
    handover::{DRAIN_MAX, Predecessor, Serving},
    log::ServiceLog,
    prepare::Program,
    ready::{Checks, Readiness},
    run::Run,
    spec::{Service, StopSignal},
    supervise::{Now, Shared},
};
use crate::{
    base::{AppName, Digest, SecretName, ServiceName},
    driver::secrets::Secret,
};

/// How a run ended that can't be ended.
const UNKILLED: &str = "was killed and did not end";

/// What should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub app: AppName,
    pub name: ServiceName,
    pub version: u64,
    /// Its content.
    pub root: Digest,
    /// The live tree.
    pub tree: PathBuf,
    pub service: Service,
    /// Variables of the application: its settings.
    pub env: BTreeMap<String, String>,
    /// The secrets that it is given.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// Whether it is given a port, and asked there.
    pub served: bool,
    /// Grows with each restart that somebody asks for.
    pub turn: u64,
}

impl Wanted {
    fn program(&self, port: Option<u16>) -> Program {
        let Service { run, directory, user, limits, env, .. } = self.service.clone();
        let mut told = vec![
            ("ALTHING_APP", self.app.as_str().into()),
            ("ALTHING_SERVICE", self.name.as_str().into()),
            ("ALTHING_VERSION", self.version.to_string().into()),
        ];
        told.extend(port.map(|port| ("PORT", port.to_string().into())));
        let (settings, secrets) = (self.env.clone(), self.secrets.clone());
        Program {
            tree: self.tree.clone(),
            run,
            directory,
            user,
            limits,
            settings,
            secrets,
            env,
            told,
        }
    }
}

/// The task of one service.
pub(super) struct Runner {
    pub key: (AppName, ServiceName),
    pub wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub now: Arc<Mutex<Now>>,
    pub log: Arc<ServiceLog>,
    pub shared: Arc<Shared>,
    /// Processes that are asked until a newer one is ready, oldest first.
    pub before: Vec<Predecessor>,
    /// See [`Spawner::record`](super::process::Spawner::record).
    pub slot: u64,
}

/// How one run of a service ended.
enum End {
    /// It was stopped, because something else is wanted.
    Stopped,
    /// By itself.
    Ended { failed: bool, ran: Duration },
}

impl Runner {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if !wanted.as_ref().is_some_and(|wanted| wanted.served) {
                self.before.iter().for_each(Predecessor::release);
                for before in std::mem::take(&mut self.before) {
                    before.gone().await;
                }
            }
            let Some(wanted) = wanted else {
                if self.shared.leave(&self.key) {
                    return;
                }
                continue;
            };
            let again = self.now().restarts;
            let (failed, ran) = match self.once(&wanted, again).await {
                End::Ended { failed, ran } => (failed, ran),
                End::Stopped => {
                    backoff = self.anew();
                    continue;
                }
            };
            if !wanted.service.restart.wanted(failed) {
                if failed {
                    self.state(State::Failed);
                    self.tell(&wanted, What::GivenUp);
                } else {
                    self.state(State::Stopped);
                }
                self.changed().await;
                backoff = self.anew();
                continue;
            }
            self.state(State::BackingOff);
            let pause = backoff.next(ran, rand::random());
            tokio::select! {
                () = sleep(pause) => self.now().restarts += 1,
                () = self.changed() => backoff = self.anew(),
            }
        }
    }

    /// One run, from the start to the end of its last process.
    async fn once(&mut self, wanted: &Arc<Wanted>, again: u64) -> End {
        self.now().version = wanted.version;
        self.state(State::Starting);
        let began = Instant::now();
        let endpoint = match self.endpoint(wanted) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                return self.cannot(wanted, format!("no port of 127.0.0.1 is free ({error})"));
            }
        };
        let port = endpoint.as_ref().map(|endpoint| endpoint.address.port());
        let spawner = &self.shared.spawner;
        let record = spawner.record(&wanted.app, &wanted.name, self.slot);
        let run = match Run::start(spawner, wanted.program(port), record, &self.log).await {
            Ok(run) => run,
            Err(why) => return self.cannot(wanted, why),
        };
        if let Some(let_through) = run.let_through.clone() {
            self.tell(wanted, let_through);
        }
        let pid = run.pid();
        self.now().pid = Some(pid);
        let started = match again {
            0 => What::Started { pid },
            count => What::Restarted { pid, count },
        };
        self.tell(wanted, started);
        let is_stopped = self.watch(wanted, &run, began, endpoint.as_ref()).await;
        if is_stopped
            && let Some(endpoint) = &endpoint
            && self.hands_over()
        {
            self.now().pid = None;
            let (wanted, endpoint) = (wanted.clone(), endpoint.clone());
            let (log, shared) = (self.log.clone(), self.shared.clone());
            let serving = Serving { wanted, run, endpoint, log, shared };
            self.before.retain(|before| !before.is_gone());
            self.before.push(Predecessor::keep(serving));
            self.slot += 1;
            return End::Stopped;
        }
        if let Some(endpoint) = &endpoint {
            self.shared.endpoints.take(&self.key, endpoint);
            if is_stopped {
                let _over = timeout(DRAIN_MAX, endpoint.drained()).await;
            }
        }
        let stopped = if is_stopped {
            Some(self.stop(wanted, &run).await)
        } else {
            // Its children go before it is started again: they may hold its port.
            self.end(wanted, &run).await;
            None
        };
        let ran = began.elapsed();
        // What it printed last comes before the word of its end.
        let ended = run.finish(&self.shared.spawner).await.map(of_status);
        let words = ended.as_ref().map_or_else(|| UNKILLED.to_owned(), What::to_string);
        {
            let mut now = self.now();
            (now.pid, now.last_exit) = (None, Some(words));
        }
        if let Some(killed) = stopped {
            self.tell(wanted, What::Stopped { killed });
            return End::Stopped;
        }
        // It ended by itself, so there is a status.
        let what = ended.unwrap_or(What::Exited { status: -1 });
        let failed = what != What::Exited { status: 0 };
        self.tell(wanted, what);
        End::Ended { failed, ran }
    }

    /// Where the next process is asked, if it is.
    fn endpoint(&self, wanted: &Wanted) -> io::Result<Option<Arc<Endpoint>>> {
        let allot = || Endpoint::allot(wanted.version, wanted.service.requests);
        wanted.served.then(allot).transpose()
    }

    /// It did not come to a run at all.
    fn cannot(&self, wanted: &Wanted, why: String) -> End {
        let what = What::CannotStart { why };
        self.now().last_exit = Some(what.to_string());
        self.tell(wanted, what);
        End::Ended { failed: true, ran: Duration::ZERO }
    }

    /// Whether the process that runs is asked until its successor is ready.
    fn hands_over(&self) -> bool {
        let next = self.wanted.borrow().as_ref().is_some_and(|next| next.served);
        next && matches!(self.now().state, State::Ready | State::Unwell)
    }

    /// Watches a run until it ends by itself (false) or is to be stopped (true).
    async fn watch(
        &mut self,
        wanted: &Wanted,
        run: &Run,
        began: Instant,
        endpoint: Option<&Arc<Endpoint>>,
    ) -> bool {
        let port = endpoint.map(|endpoint| endpoint.address.port());
        let readiness = Readiness::new(&wanted.service.ready, port);
        let mut late_at = readiness.within().map(|within| began + within);
        let mut reached = pin!(readiness.reached());
        let mut is_ready = false;
        let mut checks = Checks::new(&readiness, wanted.service.check);
        loop {
            let late = async {
                match late_at {
                    Some(at) if !is_ready => sleep_until(at).await,
                    _ => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed() => return true,
                () = run.ended() => return false,
                () = &mut reached, if !is_ready => {
                    is_ready = true;
                    self.state(State::Ready);
                    if let Some(endpoint) = endpoint {
                        self.shared.endpoints.put(&self.key, endpoint.clone());
                        self.before.iter().for_each(Predecessor::release);
                    }
                    self.tell(wanted, What::Ready { after_ms: millis(began.elapsed()) });
                }
                health = checks.next(), if is_ready => {
                    self.heed(wanted, endpoint, health, readiness.last());
                }
                () = late => {
                    late_at = None;
                    self.state(State::RunningNotReady);
                    let within_ms = readiness.within().map_or(0, millis);
                    self.tell(wanted, What::NotReady { within_ms, why: readiness.last() });
                }
            }
        }
    }

    /// One that is ready was asked how it is, and that is another answer than before.
    fn heed(&self, wanted: &Wanted, endpoint: Option<&Arc<Endpoint>>, is_well: bool, why: String) {
        if let Some(endpoint) = endpoint {
            endpoint.set_unwell(!is_well);
        }
        self.state(if is_well { State::Ready } else { State::Unwell });
        self.tell(wanted, if is_well { What::Well } else { What::Unwell { why } });
    }

    /// Stops a run: asks the whole group, waits, kills what is left of it.
    /// Whether anything had to be killed.
    async fn stop(&self, wanted: &Wanted, run: &Run) -> bool {
        self.state(State::Stopping);
        let stop = &wanted.service.stop;
        run.signal(number(stop.signal));
        let killed = timeout(stop.within, run.gone()).await.is_err();
        if killed {
            self.end(wanted, run).await;
        }
        killed
    }

    /// Kills what is left of a group and waits until the kernel has done it.
    async fn end(&self, wanted: &Wanted, run: &Run) {
        if !run.kill().await {
            tracing::warn!(
                "service {} of {} does not end although it was killed: it waits for a disk or a \
                 device, look after that",
                wanted.name,
                wanted.app
            );
        }
    }

    /// Returns when something else is wanted.
    async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            // The supervisor is gone, and this task goes with it.
            pending::<()>().await;
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, state: State) {
        let mut now = self.now();
        now.state = state;
        now.since = super::now();
    }

    /// Forgets how often it was started again.
    fn anew(&self) -> Backoff {
        self.now().restarts = 0;
        Backoff::default()
    }

    fn tell(&self, wanted: &Wanted, what: What) {
        self.shared.tell(wanted, &self.log, what);
    }
}

pub(super) fn of_status(status: io::Result<ExitStatus>) -> What {
    match status {
        Ok(status) => match status.signal() {
            Some(signal) => What::Killed { signal },
            // What has no signal has a status.
            None => What::Exited { status: status.code().unwrap_or_default() },
        },
        // Somebody else waited for it: how it ended nobody knows.
        Err(_) => What::Exited { status: -1 },
    }
}

pub(super) fn number(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Kill => Signal::KILL,
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
