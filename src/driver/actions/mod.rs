//! F3, actions: somebody is told, or a script is run, because a rule began to act or was over.
//!
//! [`mail::send`] and [`webhook::post`] block, and are for a thread that may; [`script::run`] is for
//! a runtime, as hooks are. Each carries out one action once, within a bound of time, keeps a bounded
//! part of what it was answered, and says how it went. Whether an action is due, and who of the
//! members carries it out, is decided elsewhere.
//!
//! A member that dies may have told somebody without anybody knowing, so that the next one does it
//! again. What is sent has a [key](Notice::key) for that, by which who gets it twice can tell.
//!
//! **Invariant:** nothing that a rule, a reading or a server says ends a line of a header, an address
//! or a variable.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::services::PRINTED_MAX;
use crate::{
    base::{AppName, SecretName, WallTime, quantity},
    proto::rule::Severity,
};

pub mod mail;
pub mod script;
#[cfg(test)]
mod tests;
pub mod webhook;

/// The longest text of a [`Notice`] that is passed on, bytes: a reading and a bound are far
/// shorter, and a variable or a line of a log has to hold it.
pub const TEXT_MAX: usize = 4 << 10;
/// What is kept of what was answered, or printed, bytes.
pub const SAID_MAX: usize = PRINTED_MAX;
/// What is kept of the answer of a server, bytes.
const ANSWER_MAX: usize = 200;
/// Length of the part of a key that an episode is, bytes.
const EPISODE_MAX: usize = 100;

/// What is told: the body of a webhook's request, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Which time that the rule acts it is; the same from its beginning to its end.
    pub episode: String,
    /// The rule.
    pub rule: String,
    /// The application that the rule is one of.
    pub app: AppName,
    /// In which cluster, as people call it.
    pub cluster: String,
    /// The member that it is about; none where it is about the cluster.
    pub member: Option<String>,
    /// How bad it is, if the rule says that.
    pub severity: Option<Severity>,
    /// What is told of the episode.
    pub state: State,
    /// When that was, in milliseconds since 1970 UTC.
    pub at: WallTime,
    /// Why: what was measured, and its bound.
    pub text: String,
    /// The member that found it so.
    pub judged_by: String,
}

/// What is told of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It began.
    Begin,
    /// It lasts.
    Repeat,
    /// It is over.
    End,
}

impl State {
    /// As it is written everywhere.
    pub fn word(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Repeat => "repeat",
            Self::End => "end",
        }
    }
}

impl Notice {
    /// Tells this from everything else that is told: the same whenever the same is told again,
    /// by whichever member. Letters, digits, dots, hyphens and underscores, at most 128.
    pub fn key(&self) -> String {
        match self.state {
            State::Repeat => format!("{}.repeat.{}", self.plain_episode(), self.at.0),
            state => format!("{}.{}", self.plain_episode(), state.word()),
        }
    }

    /// The key of its episode's beginning.
    fn first_key(&self) -> String {
        format!("{}.{}", self.plain_episode(), State::Begin.word())
    }

    fn plain_episode(&self) -> String {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
        let plain: String = self.episode.chars().map(fits).take(EPISODE_MAX).collect();
        if plain.is_empty() { "-".to_owned() } else { plain }
    }

    /// Its severity as it is written everywhere; empty if it has none.
    fn severity_word(&self) -> &'static str {
        match self.severity {
            Some(Severity::Critical) => "critical",
            Some(Severity::Warning) => "warning",
            None => "",
        }
    }

    /// The same, with everything in it as short and as plain as it is passed on.
    fn bounded(&self) -> Self {
        let name = |text: &str| one_line(text, 256);
        Self {
            episode: name(&self.episode),
            rule: name(&self.rule),
            cluster: name(&self.cluster),
            member: self.member.as_deref().map(name),
            text: lines(&self.text, TEXT_MAX),
            judged_by: name(&self.judged_by),
            ..self.clone()
        }
    }
}

/// It was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What came of it: what the server answered, or what the script printed last. One line or
    /// more, at most [`SAID_MAX`] bytes, without control characters.
    pub said: String,
    /// How often it was tried.
    pub tries: u32,
}

/// Why an action was not carried out: a part of a sentence. None has a secret in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The definition can't be used, although it was published.
    #[error("{0} can't be used; correct the manifest and publish again")]
    Unfit(String),
    /// The secret that it needs is not known.
    #[error("the secret {0} is not set here; set it with `althing secret set`")]
    NoSecret(SecretName),
    /// Nobody was reached, or not to the end: whether it arrived is not known.
    #[error("{why} (tried {tries} times)")]
    Unreachable {
        /// A part of a sentence.
        why: String,
        /// How often it was tried.
        tries: u32,
    },
    /// It was answered, and not with yes.
    #[error("{why}: {said}")]
    Refused {
        /// A part of a sentence.
        why: String,
        /// What was answered, in one line.
        said: String,
    },
    /// It took too long.
    #[error("it was not done within {}", quantity::show_span(*.0))]
    TooLong(Duration),
    /// The script did not end with status 0.
    #[error("it {how}{}{said}", if said.is_empty() { "" } else { ": " })]
    Script {
        /// How it ended, in words: `exited with status 1`.
        how: String,
        /// What it printed last; [`SAID_MAX`] bytes at most.
        said: String,
    },
}

impl ActionError {
    /// Whether the same may go well a while later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TooLong(_))
    }
}

/// The beginning of `text` in one line: no control character is left, nor what ends a line
/// elsewhere.
fn one_line(text: &str, bytes_max: usize) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let line: String = text.chars().map(|c| if breaks(c) { ' ' } else { c }).collect();
    cut(line.trim(), bytes_max).to_owned()
}

/// The beginning of `text`, of whose control characters ends of lines alone are left.
fn lines(text: &str, bytes_max: usize) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let text: String = text.replace("\r\n", "\n").chars().map(plain).collect();
    cut(text.trim(), bytes_max).to_owned()
}

/// As much of `text` as fits, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
