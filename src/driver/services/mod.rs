//! F3, services: the executables that an application runs on every member.
//!
//! [`Services`] says what runs, [`Supervisor`] makes it so: it starts, asks
//! whether it is ready, starts again with growing pauses, stops gracefully,
//! and keeps what is printed. It knows neither network, store nor catalog and
//! decides nothing: which version of what should run is told to it.
//!
//! **Invariant:** no process outlives its supervisor knowingly. Each service
//! is a session and a group of its own; the group is killed when its first
//! process ends, when the supervisor is dropped, and, where the member was
//! killed, by the kernel (the first process) and by the next supervisor (the
//! rest). Only what leaves its group on purpose gets away.
//!
//! Ideas: s6 and runit (one supervisor for each service, that alone waits for
//! it), systemd (readiness, limits, a group as the unit of killing).

use std::{
    fmt,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::base::{AppName, ServiceName, WallTime};

mod access;
mod backoff;
pub mod check;
pub mod descriptors;
pub mod endpoint;
mod file;
mod group;
mod handover;
pub mod log;
mod once;
mod passage;
mod prepare;
mod process;
mod ready;
mod run;
mod service;
pub mod spec;
mod supervise;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoints, UnderWay};
pub use log::{LogLine, Logs, Stream};
pub(in crate::driver) use once::{How, Last, Once, PRINTED_MAX};
pub use passage::Passage;
pub(in crate::driver) use prepare::Program;
pub use spec::{Service, Services};
pub use supervise::{Running, Supervisor};

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs, or is about to, and is not known to be ready yet.
    Starting,
    /// It runs and is ready.
    Ready,
    /// It runs and was not ready in time. It is asked on.
    RunningNotReady,
    /// It was ready, and does not answer any more when it is asked. Requests are for others.
    Unwell,
    /// It ended and waits for its next start.
    BackingOff,
    /// It was asked to stop.
    Stopping,
    /// It ended well, and is not to be started again.
    Stopped,
    /// It ended badly, and is not to be started again.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::RunningNotReady => "running, not ready",
            Self::Unwell => "unwell",
            Self::BackingOff => "backing off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// How one service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Of which application.
    pub app: AppName,
    /// Which.
    pub service: ServiceName,
    /// Of which version it is or was started.
    pub version: u64,
    /// How it is.
    pub state: State,
    /// Its first process, while there is one.
    pub pid: Option<u32>,
    /// Since when it is so.
    pub since: WallTime,
    /// How often it was started again by itself since it was last told what to be.
    pub restarts: u64,
    /// How it ended last, in words: `exited with status 1`.
    pub last_exit: Option<String>,
    /// Where requests reach it, while a route leads to it and it is ready.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Something that happened to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEvent {
    /// Of which application.
    pub app: AppName,
    /// Which.
    pub service: ServiceName,
    /// Of which version.
    pub version: u64,
    /// What.
    pub what: What,
}

/// What happened to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum What {
    /// It was started.
    Started {
        /// Its first process.
        pid: u32,
    },
    /// It was started again after it ended by itself.
    Restarted {
        /// Its first process.
        pid: u32,
        /// The number of this start among those; 1 is the first.
        count: u64,
    },
    /// It is ready.
    Ready {
        /// How long that took, milliseconds.
        after_ms: u64,
    },
    /// It was not ready in time. It goes on running and is asked on.
    NotReady {
        /// How long it had, milliseconds.
        within_ms: u64,
        /// What came of asking it last.
        why: String,
    },
    /// It was ready, and did not answer several times. It goes on running and is asked on.
    Unwell {
        /// What came of asking it last.
        why: String,
    },
    /// It answers again.
    Well,
    /// It ended by itself.
    Exited {
        /// With which status.
        status: i32,
    },
    /// It was killed, and not by the member.
    Killed {
        /// By which signal.
        signal: i32,
    },
    /// It could not be started.
    CannotStart {
        /// Why, and what to do.
        why: String,
    },
    /// It will not be started again by itself.
    GivenUp,
    /// It was stopped, as it should be.
    Stopped {
        /// Whether all of it had to be killed after the time that it had.
        killed: bool,
    },
    /// The user that it runs as could not get to its tree in the data directory, and was let
    /// through.
    LetThrough {
        /// That user.
        uid: u32,
        /// By these directories.
        directories: Vec<PathBuf>,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { pid } => write!(f, "started as process {pid}"),
            Self::Restarted { pid, count } => {
                write!(f, "started again, as process {pid}, for the {}{} time", count, nth(*count))
            }
            Self::Ready { after_ms } => write!(f, "ready after {after_ms} ms"),
            Self::NotReady { within_ms, why } => write!(
                f,
                "not ready within {within_ms} ms ({why}); it goes on running and is asked on: \
                 look at its log"
            ),
            Self::Unwell { why } => write!(
                f,
                "does not answer any more when it is asked how it is ({why}); requests are for \
                 other members until it does: look at its log"
            ),
            Self::Well => f.write_str("answers again"),
            Self::Exited { status } => write!(f, "exited with status {status}"),
            Self::Killed { signal } => write!(f, "was killed by {}", group::signal_name(*signal)),
            Self::CannotStart { why } => write!(f, "can't be started: {why}"),
            Self::GivenUp => f.write_str(
                "failed, and its definition says not to start it again: restart it, or publish \
                 a version that works",
            ),
            Self::Stopped { killed: false } => f.write_str("stopped"),
            Self::Stopped { killed: true } => {
                f.write_str("did not stop in time, so what was left of it was killed")
            }
            Self::LetThrough { uid, directories } => {
                let directories = directories.iter().map(|at| at.display().to_string());
                let directories = directories.collect::<Vec<_>>().join(" and ");
                write!(
                    f,
                    "runs as user {uid}, which may enter {directories} from now on, to get to its \
                     tree and to nothing else there"
                )
            }
        }
    }
}

fn nth(count: u64) -> &'static str {
    match (count % 10, count % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    }
}

impl fmt::Display for ServiceEvent {
    /// One sentence, for the event log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {} of {} (version {}) ", self.service, self.app, self.version)?;
        // What was ready or not needs its verb.
        match &self.what {
            What::Ready { .. } | What::NotReady { .. } => write!(f, "is {}", self.what),
            _ => write!(f, "{}", self.what),
        }
    }
}

/// The time of day, for people.
fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
