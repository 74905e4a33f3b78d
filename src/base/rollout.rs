//! How a new version of an application is brought to its members.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// How long what runs has to stay ready where nothing is said.
const PAUSE: Duration = Duration::from_secs(1);

/// How members switch to a version that somebody published. One that is brought back, or that
/// a majority or an editor made, goes to all of them at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How many members switch at the same time; all if not given. Never 0.
    pub at_once: Option<u16>,
    /// How long what runs has to have been ready before it counts, in milliseconds.
    pub pause_ms: Option<u32>,
    /// Whether a version that does not get ready stays, and is only brought to nobody else.
    pub stays: bool,
}

impl Rollout {
    /// How long a member has to have been ready before the next ones follow. `runs` says
    /// whether the version has anything that runs.
    pub fn pause(&self, runs: bool) -> Duration {
        match self.pause_ms {
            Some(ms) => Duration::from_millis(u64::from(ms)).min(PAUSE_MAX),
            None if runs => PAUSE,
            None => Duration::ZERO,
        }
    }
}
