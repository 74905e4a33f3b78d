//! One run of a program: started, what it prints taken into a log, ended with all
//! that it started. Dropped before its end, it takes its whole group with it.

use std::{io, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::{
    net::unix::pipe,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    What, group,
    log::{ServiceLog, Stream, pump},
    prepare::Program,
    process::{Exit, Process, Spawner, Started},
};

/// How long the kernel may take to end what was killed. What waits for a disk
/// that is gone can't be ended by anybody.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the rest of a group has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the last lines of a program that has ended are waited for: who
/// left its group may hold the pipe for ever. Longer than a stream is held
/// back that prints too much.
const LAST_LINES: Duration = Duration::from_secs(3);

/// A program that was started.
#[derive(Debug)]
pub(super) struct Run {
    process: Process,
    exit: Exit,
    /// They read what it prints.
    pumps: [AbortOnDropHandle<()>; 2],
    record: PathBuf,
    /// That its user had to be let through to its tree.
    pub let_through: Option<What>,
}

impl Run {
    /// Starts `program`, prints into `log`, and keeps at `record` which group it is. The
    /// error says why it can't be started, and what to do.
    pub async fn start(
        spawner: &Spawner,
        program: Program,
        record: PathBuf,
        log: &Arc<ServiceLog>,
    ) -> Result<Self, String> {
        let Started { mut process, out, err, let_through } =
            spawner.start(program, &record).await?;
        let of = |error| format!("its output can't be read ({error}); allow more open files");
        let out = pipe::Receiver::from_owned_fd(out.into()).map_err(of)?;
        let err = pipe::Receiver::from_owned_fd(err.into()).map_err(of)?;
        let exit = process.exit().map_err(|error| {
            format!("its end can't be watched ({error}); allow more open files")
        })?;
        let out = tokio::spawn(pump(out, Stream::Out, log.clone()));
        let err = tokio::spawn(pump(err, Stream::Err, log.clone()));
        Ok(Self {
            process,
            exit,
            pumps: [out, err].map(AbortOnDropHandle::new),
            record,
            let_through,
        })
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_pid().unsigned_abs()
    }

    /// Signals all of it.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Returns when its first process has ended, each time it is asked.
    pub async fn ended(&self) {
        self.exit.ended().await;
    }

    /// Returns when all of it has ended.
    pub async fn gone(&self) {
        gone(self.process.pid, &self.exit).await;
    }

    /// Kills what is left of it, and waits until the kernel has done it. False where it
    /// does not end.
    pub async fn kill(&self) -> bool {
        self.process.signal(Signal::KILL);
        timeout(KILLED_WITHIN, self.gone()).await.is_ok()
    }

    /// How its first process ended; none where it did not end. When this returns its
    /// last lines are in the log.
    pub async fn finish(self, spawner: &Spawner) -> Option<io::Result<ExitStatus>> {
        let Self { process, exit, pumps, record, let_through: _ } = self;
        // Not waited for where it does not end: that would block the task.
        let ended = timeout(Duration::ZERO, exit.ended()).await.is_ok();
        let status = ended.then(|| process.reap());
        for mut pump in pumps {
            if timeout(LAST_LINES, &mut pump).await.is_err() {
                pump.abort();
            }
        }
        spawner.forget(&record);
        status
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
