//! Waiting until what a version runs is ready on all members that it is placed on.

use std::time::{Duration, Instant};

use super::{Client, Line, ReadyWithin};
use crate::{
    base::{Reason, Refusal},
    cli::output::Output,
    member::{
        command::Outcome,
        view::{ApplicationView, PositionView, View},
    },
};

/// The pauses between the first looks; the last one is that of all that follow.
const PAUSES_MS: [u64; 5] = [10, 20, 50, 100, 250];
/// A live member that does not know of the version after so long is not waited for.
const LEARNT_WITHIN: Duration = Duration::from_secs(5);
/// How long somebody may take to bring the version before back.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Where a version stands.
enum Stand {
    /// Ready on all, or replaced by another publication.
    Ready,
    /// Not yet, and for whom it waits: a sentence without its point.
    Waiting(String),
    /// It did not get ready on this member, and why.
    Failed(String, String),
    /// It was taken back: what the history says of it.
    Back(String),
}

/// Returns once the version that was published is ready everywhere.
pub(super) async fn wait(
    client: &Client,
    output: &Output,
    outcome: &Outcome,
    within: ReadyWithin,
) -> Result<(), Refusal> {
    let Outcome::Published { app, version, .. } = outcome else { return Ok(()) };
    if within.no_wait {
        return Ok(());
    }
    let mut line = Line::new(output.is_watched());
    let (began, mut failed) = (Instant::now(), None);
    let mut pauses = PAUSES_MS.into_iter();
    let mut pause = 0;
    let result = loop {
        let long = began.elapsed() > LEARNT_WITHIN;
        let view = client.view().await.map_err(|refusal| unknown(app.as_str(), *version, refusal));
        let stand = stand(&view?, app.as_str(), *version, long);
        let late = match stand {
            Stand::Ready => break Ok(()),
            Stand::Back(why) => break Err(taken_back(app.as_str(), *version, &why)),
            Stand::Failed(member, why) => {
                let since = *failed.get_or_insert_with(Instant::now);
                if since.elapsed() > BACK_WITHIN {
                    break Err(stays(app.as_str(), *version, &member, &why));
                }
                format!("it did not get ready on {member}: {why}")
            }
            Stand::Waiting(whom) => whom,
        };
        if began.elapsed() > within.within.0 {
            break Err(Refusal::new(
                Reason::Failed,
                format!("{app} version {version} is in force and not ready everywhere."),
                format!("{late}."),
                format!("See `althing services {app}` and `althing status`; it goes on by itself."),
            ));
        }
        if !output.json && began.elapsed() > super::QUIET {
            let phase = if failed.is_some() { "failed" } else { "waiting" };
            line.show(phase, format!("{app} version {version}: {late}"));
        }
        pause = pauses.next().unwrap_or(pause);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    };
    line.end();
    result
}

fn stand(view: &View, app: &str, version: u64, long: bool) -> Stand {
    let Some(app) = view.applications.iter().find(|a| a.name == app) else { return Stand::Ready };
    if app.version != version {
        let next = app.versions.iter().find(|v| v.number == version + 1);
        let back = next.filter(|next| next.origin.starts_with("rollback"));
        return match back {
            Some(next) => Stand::Back(next.message.clone()),
            None => Stand::Ready,
        };
    }
    let is = |word: &str| -> Vec<&PositionView> {
        app.positions.iter().filter(|p| p.rollout.as_deref() == Some(word)).collect()
    };
    if let Some(failed) = is("failed").first() {
        let why = failed.rollout_failure.clone().unwrap_or_default();
        return Stand::Failed(failed.member.clone(), why);
    }
    // Who can't hold it says why, and is not waited for; nor, after a while, is who says
    // nothing: the window has closed without it.
    let (mut starting, mut waiting) = (is("starting"), is("waiting"));
    if !long {
        waiting.extend(is("late"));
    }
    starting.retain(|p| p.trouble.is_none());
    waiting.retain(|p| p.trouble.is_none() && !(long && p.position == "silent"));
    if starting.is_empty() && waiting.is_empty() {
        return Stand::Ready;
    }
    Stand::Waiting(words(app, &starting, &waiting))
}

fn words(app: &ApplicationView, starting: &[&PositionView], waiting: &[&PositionView]) -> String {
    let ready = app.positions.iter().filter(|p| p.rollout.as_deref() == Some("ready")).count();
    let names = |all: &[&PositionView]| {
        let names: Vec<&str> = all.iter().take(5).map(|p| p.member.as_str()).collect();
        let more = if all.len() > names.len() { " and others" } else { "" };
        names.join(", ") + more
    };
    let mut words = format!("ready on {ready} members");
    if !starting.is_empty() {
        words += &format!("; starting on {}", names(starting));
    }
    if !waiting.is_empty() {
        words += &format!("; not there yet on {}", names(waiting));
    }
    words
}

/// The member that was asked can't be asked any more.
fn unknown(app: &str, version: u64, refusal: Refusal) -> Refusal {
    Refusal::new(
        refusal.reason,
        format!(
            "{app} version {version} is in force; whether it is ready everywhere is not known."
        ),
        refusal.why,
        format!("See `althing services {app}` on a member that runs."),
    )
}

fn taken_back(app: &str, version: u64, why: &str) -> Refusal {
    Refusal::new(
        Reason::Failed,
        format!("{app} version {version} was taken back."),
        format!("The version before is in force again: {why}."),
        format!("See `althing logs {app}`, and publish a version that works."),
    )
}

fn stays(app: &str, version: u64, member: &str, why: &str) -> Refusal {
    Refusal::new(
        Reason::Failed,
        format!("{app} version {version} did not get ready."),
        format!("On {member}: {why}."),
        format!(
            "See `althing logs {app}`; publish a version that works, or `althing rollback {app}`."
        ),
    )
}
