//! `althing rotate-key`: ends when the member runs with its new key and has its
//! vote back.

use std::{process::ExitCode, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{client::Client, hints, output::Output};
use crate::{
    base::{Reason, Refusal},
    member::{
        command::{Command, Outcome},
        view::{MemberView, View},
    },
};

/// How long it may take to start again and to get the vote.
const WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize)]
struct Rotated {
    /// Whose key.
    member: String,
    /// The id that it had.
    before: String,
    /// The id that it has.
    id: String,
    /// Whether it has its vote.
    voter: bool,
    /// The catalog in which it has the new id.
    sequence: u64,
}

pub(super) async fn rotate_key(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let before = me(&client.view().await?)?;
    let Outcome::Done { sequence, .. } = client.command(&Command::RotateKey).await? else {
        return Err(unexpected("It answered another question than the one it was asked."));
    };
    let give_up = Instant::now() + WITHIN;
    let now = loop {
        // Between the two keys it may not answer for a moment.
        let now = client.view().await.and_then(|view| me(&view));
        match now {
            Ok(now) if now.id != before.id && (now.voter || !before.voter) => break now,
            now if Instant::now() >= give_up => break late(now, &before, sequence)?,
            _ => sleep(LOOK_EVERY).await,
        }
    };
    if output.json {
        let MemberView { name: member, id, voter, .. } = now;
        output.document(&Rotated { member, before: before.id, id, voter, sequence });
    } else {
        output.line(&format!("{} has a new key (catalog {sequence})", now.name));
        output.line(&format!("  it was  {}", before.id));
        output.line(&format!("  it is   {}", now.id));
        if before.voter && !now.voter {
            super::output::note(&hints::copyable(
                "It has no vote yet: it asks for it until a majority gives it. See `althing members`.",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Time is up: it may still be as before.
fn late(
    now: Result<MemberView, Refusal>,
    before: &MemberView,
    sequence: u64,
) -> Result<MemberView, Refusal> {
    let now = now?;
    if now.id != before.id {
        return Ok(now);
    }
    Err(Refusal::new(
        Reason::Busy,
        format!("{} has not taken up its new key yet.", now.name),
        format!(
            "The change is committed with catalog {sequence}; the member waits until a majority of \
             the others has said that it knows."
        ),
        "Nothing: it goes on by itself. See `althing members` for those that can't be reached.",
    ))
}

fn me(view: &View) -> Result<MemberView, Refusal> {
    let me = view.members.iter().find(|m| m.me).or_else(|| {
        // Between the two keys it is enrolled by the next one.
        view.members.iter().find(|m| m.name == view.me)
    });
    me.cloned().ok_or_else(|| unexpected("It does not name itself among the members."))
}

fn unexpected(why: &str) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member's answer can't be used.",
        why,
        "Use the same version of Althing for the command and the member.",
    )
}
