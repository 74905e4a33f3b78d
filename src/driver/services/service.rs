//! The task of one service: start, ready, end, pause, start again, until it
//! is told that the service is not wanted any more.

use std::{
    future::pending,
    io,
    os::unix::process::ExitStatusExt,
    pin::pin,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    net::unix::pipe,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    State, What,
    backoff::Backoff,
    group,
    log::{ServiceLog, Stream, pump},
    prepare::Wanted,
    process::{Exit, Process, Started},
    ready::Readiness,
    spec::StopSignal,
    supervise::{Now, Shared},
};
use crate::base::{AppName, ServiceName};

/// How long the kernel may take to end what was killed. What waits for a disk
/// that is gone can't be ended by anybody.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the rest of a group has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the last lines of a service that has ended are waited for: who
/// left its group may hold the pipe for ever. Longer than a stream is held
/// back that prints too much.
const LAST_LINES: Duration = Duration::from_secs(3);

/// How a run ended that can't be ended.
const UNKILLED: &str = "was killed and did not end";

/// The two tasks that read what a service prints.
type Pumps = [AbortOnDropHandle<()>; 2];

/// The task of one service.
pub(super) struct Runner {
    pub key: (AppName, ServiceName),
    pub wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub now: Arc<Mutex<Now>>,
    pub log: Arc<ServiceLog>,
    pub shared: Arc<Shared>,
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
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
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
        let started = self.shared.spawner.start(wanted.clone()).await;
        let (mut process, pumps) = match started.and_then(|started| self.attach(started)) {
            Ok(attached) => attached,
            Err(why) => return self.cannot(wanted, why),
        };
        let exit = match process.exit() {
            Ok(exit) => exit,
            Err(error) => {
                let why = format!("its end can't be watched ({error}); allow more open files");
                return self.cannot(wanted, why);
            }
        };
        let pid = process.pid.as_raw_pid().unsigned_abs();
        self.now().pid = Some(pid);
        let started = match again {
            0 => What::Started { pid },
            count => What::Restarted { pid, count },
        };
        self.tell(wanted, started);
        let end = if self.watch(wanted, &exit, began).await {
            let killed = self.stop(wanted, process, &exit).await;
            (What::Stopped { killed }, End::Stopped)
        } else {
            // Its children go before it is started again: they may hold its port.
            self.end(wanted, &process, &exit).await;
            let what = of_status(process.reap());
            let failed = what != What::Exited { status: 0 };
            self.now().last_exit = Some(what.to_string());
            (what, End::Ended { failed, ran: began.elapsed() })
        };
        self.now().pid = None;
        // What it printed last comes before the word of its end.
        for mut pump in pumps {
            if timeout(LAST_LINES, &mut pump).await.is_err() {
                pump.abort();
            }
        }
        self.shared.spawner.forget(wanted);
        self.tell(wanted, end.0);
        end.1
    }

    /// Takes what it prints into the log.
    fn attach(&self, started: Started) -> Result<(Process, Pumps), String> {
        let Started { process, out, err } = started;
        let of = |error| format!("its output can't be read ({error}); allow more open files");
        let out = pipe::Receiver::from_owned_fd(out.into()).map_err(of)?;
        let err = pipe::Receiver::from_owned_fd(err.into()).map_err(of)?;
        let out = tokio::spawn(pump(out, Stream::Out, self.log.clone()));
        let err = tokio::spawn(pump(err, Stream::Err, self.log.clone()));
        Ok((process, [out, err].map(AbortOnDropHandle::new)))
    }

    /// It did not come to a run at all.
    fn cannot(&self, wanted: &Wanted, why: String) -> End {
        let what = What::CannotStart { why };
        self.now().last_exit = Some(what.to_string());
        self.tell(wanted, what);
        End::Ended { failed: true, ran: Duration::ZERO }
    }

    /// Watches a run until it ends by itself (false) or is to be stopped (true).
    async fn watch(&mut self, wanted: &Wanted, exit: &Exit, began: Instant) -> bool {
        let readiness = Readiness::new(&wanted.service.ready);
        let mut late_at = readiness.within().map(|within| began + within);
        let mut reached = pin!(readiness.reached());
        let mut is_ready = false;
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
                () = exit.ended() => return false,
                () = &mut reached, if !is_ready => {
                    is_ready = true;
                    self.state(State::Ready);
                    self.tell(wanted, What::Ready { after_ms: millis(began.elapsed()) });
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

    /// Stops a run: asks the whole group, waits, kills what is left of it.
    /// Whether anything had to be killed.
    async fn stop(&self, wanted: &Wanted, process: Process, exit: &Exit) -> bool {
        self.state(State::Stopping);
        let stop = &wanted.service.stop;
        process.signal(number(stop.signal));
        let killed = timeout(stop.within, gone(process.pid, exit)).await.is_err();
        if killed {
            self.end(wanted, &process, exit).await;
        }
        // Not waited for where it does not end: that would block the task.
        let ended = timeout(Duration::ZERO, exit.ended()).await.is_ok();
        let words = if ended { of_status(process.reap()).to_string() } else { UNKILLED.to_owned() };
        self.now().last_exit = Some(words);
        killed
    }

    /// Kills what is left of a group and waits until the kernel has done it.
    async fn end(&self, wanted: &Wanted, process: &Process, exit: &Exit) {
        process.signal(Signal::KILL);
        if timeout(KILLED_WITHIN, gone(process.pid, exit)).await.is_err() {
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

/// Returns when the first process has ended and nobody else of its group lives.
async fn gone(first: Pid, exit: &Exit) {
    exit.ended().await;
    // Reading /proc may take a few milliseconds on a busy machine.
    while tokio::task::spawn_blocking(move || group::has_others(first)).await.unwrap_or(false) {
        sleep(LOOK_EVERY).await;
    }
}

fn of_status(status: io::Result<ExitStatus>) -> What {
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

fn number(signal: StopSignal) -> Signal {
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
