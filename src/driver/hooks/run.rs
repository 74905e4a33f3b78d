//! One hook, run to its end.

use std::{collections::VecDeque, ffi::OsString, path::PathBuf, time::Duration};

use super::{Hook, When};
use crate::{
    base::{AppName, MemberName, quantity},
    driver::{
        secrets::{Secret, Secrets, hide},
        services::{How, LogLine, Once, Program, Supervisor},
    },
};

/// The last lines of standard error that are told of a hook that failed.
const SAID_MAX: usize = 3;
/// Characters of each of them.
const SAID_LINE_MAX: usize = 200;

/// A hook that is to run.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of which application.
    pub app: AppName,
    /// On which occasion.
    pub when: When,
    /// The version that is, or is to be, live.
    pub version: u64,
    /// The tree of that version, in which it runs.
    pub tree: PathBuf,
    /// Where the live tree stands, or is to.
    pub live: PathBuf,
    /// On which member.
    pub member: MemberName,
    /// What runs.
    pub hook: Hook,
    /// Variables of the application: its settings.
    pub settings: std::collections::BTreeMap<String, String>,
    /// The secrets that it may name. To give all of these is the caller's care.
    pub secrets: Secrets,
}

/// Why a hook did not end with status 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It did not start.
    #[error("can't be started: {0}")]
    CannotStart(String),
    /// It ended by itself.
    #[error("{how}{said}")]
    Failed {
        /// How, in words: `exited with status 1`.
        how: String,
        /// The last that it said on standard error, after a colon.
        said: String,
    },
    /// It had to be killed.
    #[error("did not end within {} and was killed{said}", quantity::show_span(*.within))]
    TooLong {
        /// How long it had.
        within: Duration,
        /// The last that it said on standard error, after a colon.
        said: String,
    },
}

/// Runs a hook to its end. What it prints goes into a log beside those of services, by
/// the name of the hook. Dropped before its end, it kills the hook.
///
/// # Errors
/// Unless it ended with status 0.
pub async fn run(supervisor: &Supervisor, call: Call) -> Result<(), HookError> {
    let Call { app, when, version, tree, live, member, hook, settings, secrets } = call;
    let mut told: Vec<(&'static str, OsString)> = vec![
        ("ALTHING_APP", app.as_str().into()),
        ("ALTHING_HOOK", when.to_string().into()),
        ("ALTHING_VERSION", version.to_string().into()),
        ("ALTHING_MEMBER", member.as_str().into()),
        ("ALTHING_LIVE", live.into()),
    ];
    if when == When::BeforeSwitch {
        told.push(("ALTHING_NEXT", tree.clone().into()));
    }
    let Hook { run, directory, user, env, secrets: names, within, limits } = hook;
    let own = secrets.iter().filter(|(name, _)| names.contains(name));
    let secrets: std::collections::BTreeMap<_, _> =
        own.map(|(name, secret)| (name.clone(), secret.clone())).collect();
    let hidden: Vec<Secret> = secrets.values().cloned().collect();
    let program = Program { tree, run, directory, user, limits, settings, secrets, env, told };
    let (how, last) = supervisor.once(Once { app, name: when.name(), program, within }).await;
    let said = said(&last.errors, &hidden);
    match how {
        How::Exited(0) => Ok(()),
        How::Exited(status) => {
            Err(HookError::Failed { how: format!("exited with status {status}"), said })
        }
        How::Killed(by) => Err(HookError::Failed { how: format!("was killed by {by}"), said }),
        How::TooLong => Err(HookError::TooLong { within, said }),
        How::CannotStart(why) => Err(HookError::CannotStart(why)),
    }
}

/// The last lines for an event, after a colon; nothing where nothing was said. What
/// can be recognised of `secrets` is not told: events are for more eyes than logs.
fn said(lines: &VecDeque<LogLine>, secrets: &[Secret]) -> String {
    let full = lines.iter().filter(|line| !line.text.trim().is_empty());
    let mut last: Vec<String> =
        full.rev().take(SAID_MAX).map(|line| shown(line, secrets)).collect();
    last.reverse();
    if last.is_empty() { String::new() } else { format!(": {}", last.join(" | ")) }
}

fn shown(line: &LogLine, secrets: &[Secret]) -> String {
    let line = LogLine { text: hide(&line.text, secrets), ..line.clone() };
    // With control characters escaped.
    let text = line.to_string();
    let text = text.trim();
    match text.char_indices().nth(SAID_LINE_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
