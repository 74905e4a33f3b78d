//! A script about an episode: a program of the application, run to its end in the live tree.
//!
//! It lives by the rules of [`hooks`](crate::driver::hooks) and services: a group of its own that
//! ends with it, paths that stay in the tree, no shell that reads its words. What it is to know
//! of the episode it finds in its environment.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use super::{ActionError, Done, Notice, SAID_MAX};
use crate::{
    base::{AppName, MemberName, ServiceName},
    driver::{
        rules::Script,
        secrets::{Secret, Secrets, hide},
        services::{How, Last, Once, Program, Supervisor},
    },
};

/// A script that is to run.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of which application.
    pub app: AppName,
    /// Its name; that of its log as well.
    pub name: ServiceName,
    /// The version that is live.
    pub version: u64,
    /// Where the live tree stands, in which it runs.
    pub live: PathBuf,
    /// On which member it runs; which one it is about is in the notice.
    pub member: MemberName,
    /// What runs.
    pub script: Script,
    /// Variables of the application: its settings.
    pub settings: BTreeMap<String, String>,
    /// The secrets that it may name.
    pub secrets: Secrets,
    /// What it is told.
    pub notice: Notice,
}

/// Runs a script to its end. What it prints goes into a log beside those of services, by its
/// name. Two at a time of one name are the caller's care. Dropped before its end, it kills the
/// script and all that it started in its group.
///
/// # Errors
/// Unless it ended with status 0.
pub async fn run(supervisor: &Supervisor, call: Call) -> Result<Done, ActionError> {
    let Call { app, name, version, live, member, script, settings, secrets, notice } = call;
    let Script { run, directory, user, env, secrets: names, within, limits } = script;
    if let Some(missing) = names.iter().find(|name| secrets.get(name).is_none()) {
        return Err(ActionError::NoSecret(missing.clone()));
    }
    let own = secrets.iter().filter(|(name, _)| names.contains(name));
    let secrets: BTreeMap<_, _> =
        own.map(|(name, secret)| (name.clone(), secret.clone())).collect();
    let hidden: Vec<Secret> = secrets.values().cloned().collect();
    let mut told: Vec<(&'static str, OsString)> = vec![
        ("ALTHING_APP", app.as_str().into()),
        ("ALTHING_SCRIPT", name.as_str().into()),
        ("ALTHING_VERSION", version.to_string().into()),
        ("ALTHING_MEMBER", member.as_str().into()),
        ("ALTHING_LIVE", live.clone().into()),
    ];
    told.extend(words(&notice).into_iter().map(|(name, value)| (name, value.into())));
    let program =
        Program { tree: live, run, directory, user, limits, settings, secrets, env, told };
    let (how, last) = supervisor.once(Once { app, name, program, within }).await;
    let said = said(&last, &hidden);
    let failed = |how| Err(ActionError::Script { how, said: said.clone() });
    match how {
        How::Exited(0) => Ok(Done { said, tries: 1 }),
        How::Exited(status) => failed(format!("exited with status {status}")),
        How::Killed(by) => failed(format!("was killed by {by}")),
        How::TooLong => failed(format!(
            "did not end within {} and was killed",
            crate::base::quantity::show_span(within)
        )),
        How::CannotStart(why) => failed(format!("can't be started: {why}")),
    }
}

/// What a script finds of `notice` in its environment.
fn words(notice: &Notice) -> Vec<(&'static str, String)> {
    let severity = notice.severity_word().to_owned();
    let state = notice.state.word().to_owned();
    let Notice { episode, rule, cluster, member, text, judged_by, .. } = notice.bounded();
    vec![
        ("ALTHING_RULE", rule),
        ("ALTHING_EPISODE", episode),
        ("ALTHING_CLUSTER", cluster),
        ("ALTHING_ABOUT", member.unwrap_or_default()),
        ("ALTHING_SEVERITY", severity),
        ("ALTHING_STATE", state),
        ("ALTHING_TEXT", text),
        ("ALTHING_JUDGED_BY", judged_by),
    ]
}

/// The end of what it printed, a line each: at most [`SAID_MAX`] bytes. What can be recognised of
/// `secrets` is not told.
fn said(last: &Last, secrets: &[Secret]) -> String {
    let lines =
        last.printed.iter().map(|line| super::one_line(&hide(&line.text, secrets), usize::MAX));
    let text = lines.collect::<Vec<_>>().join("\n");
    let start = text.len().saturating_sub(SAID_MAX);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[start..].to_owned()
}
