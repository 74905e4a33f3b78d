//! What a command answers when it can't do what was asked: what happened,
//! why, and what to do. The same three sentences reach the terminal, the
//! JSON output and the log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a refusal: stable, for scripts; the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The request itself is wrong: a name, a path, an option.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// Someone else changed the same thing meanwhile.
    Conflict,
    /// Less than a majority of the voters can be reached.
    NoMajority,
    /// Not now: a window is open, a member is still joining.
    Busy,
    /// The caller may not do this: a wrong token, a removed member.
    Forbidden,
    /// The disk, the network or the clock failed us.
    Failed,
}

/// Why a request was not carried out. Nothing was changed unless `what` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable kind.
    pub reason: Reason,
    /// What happened: one sentence.
    pub what: String,
    /// Why: one sentence.
    pub why: String,
    /// What to do: one sentence.
    pub todo: String,
}

impl Refusal {
    /// A refusal in three sentences.
    pub fn new(
        reason: Reason,
        what: impl Into<String>,
        why: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { reason, what: what.into(), why: why.into(), todo: todo.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What has several lines stays below itself.
        let why = self.why.replace('\n', "\n       ");
        write!(f, "{}\n  why: {why}\n  do:  {}", self.what, self.todo)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_several_lines_stays_below_itself() {
        let refusal = Refusal::new(Reason::Invalid, "It was not.", "One.\nTwo.", "Mend it.");
        assert_eq!(refusal.to_string(), "It was not.\n  why: One.\n       Two.\n  do:  Mend it.");
    }
}
