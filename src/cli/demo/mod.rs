//! `althing demo`: a whole cluster on this machine, told as a story. It uses
//! nothing but what users have: the binary, the socket, HTTP and SIGKILL.

mod check;
mod fleet;
mod http;
mod report;
mod site;
mod story;

use std::{process::ExitCode, time::Instant};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    fleet::Fleet,
    report::{Failure, Report, Told},
    story::Story,
};
use super::{args, output::Output};
use crate::base::{Reason, Refusal};

/// What the site is published as.
const APP: &str = "site";
const STEPS: usize = 7;

pub(super) async fn run(options: args::Demo, output: &Output) -> Result<ExitCode, Refusal> {
    let user_site = options.site.as_deref().map(super::absolute).transpose()?;
    if let Some(site) = user_site.as_ref().filter(|site| !site.is_dir()) {
        return Err(Refusal::new(
            Reason::Invalid,
            "The demonstration was not started.",
            format!("{} is not a directory.", site.display()),
            "Give the directory of a static site, or leave --site out for the built-in one.",
        ));
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(not_started)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(not_started)?;
    let fleet = Fleet::new(options.members.into()).map_err(not_started)?;
    let mut story = Story::new(fleet, user_site);
    let report = Report { output };
    let told = tokio::select! {
        told = tell(&mut story, &report, options.exit) => Some(told),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let ok = match told {
        Some(ok) if !options.exit => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ok
        }
        Some(ok) => ok,
        None => false,
    };
    story.fleet.end().await;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells the whole story; whether every step happened.
async fn tell(story: &mut Story, report: &Report<'_>, exit: bool) -> bool {
    let count = story.fleet.members.len();
    report.say(&format!(
        "{count} members of one cluster, each a process of its own with its own address on this \
         machine."
    ));
    let mut happened = 0;
    while happened < STEPS && step(story, report, happened + 1).await {
        happened += 1;
        if happened == 2 {
            say_addresses(story, report);
        }
    }
    report.say("");
    if happened == STEPS {
        report.say("All of it happened.");
    } else {
        report.say(&format!("Step {} did not happen; the story ends there.", happened + 1));
    }
    if !exit {
        say_addresses(story, report);
        report.say("The members stay up until Ctrl-C.");
    }
    happened == STEPS
}

async fn step(story: &mut Story, report: &Report<'_>, step: usize) -> bool {
    let (name, title) = match step {
        1 => ("find-each-other", "The members find each other"),
        2 => ("publish", "A site is published, and every member serves it"),
        3 => ("repair", "Files are changed by hand on one member, and the vote repairs it"),
        4 => ("takeover", "The coordinator is killed in the middle of an update window"),
        5 => ("go-on", "As many are killed as a majority can spare, and the rest publish"),
        6 => ("no-majority", "One more is killed: nothing can be changed, all is served"),
        _ => ("return", "All return and agree"),
    };
    report.begin(step, title);
    let start = Instant::now();
    let result = match step {
        1 => story.find_each_other().await,
        2 => story.publish_first().await,
        3 => story.repair().await,
        4 => story.lose_the_coordinator().await,
        5 => story.go_on_with_fewer().await,
        6 => story.refuse_without_majority().await,
        _ => story.all_return().await,
    };
    let took = start.elapsed();
    match result {
        Ok(told) => {
            report.end(step, name, true, &told, took);
            true
        }
        Err(Failure(text)) => {
            let details = json!({ "seen": check::excerpts(&story.fleet).await });
            report.end(step, name, false, &Told { text, details }, took);
            false
        }
    }
}

fn say_addresses(story: &Story, report: &Report<'_>) {
    let members = &story.fleet.members;
    report.say("");
    report.say(&format!("   The site         http://{}/", members[0].site));
    let others: Vec<String> = members[1..].iter().map(|m| m.site.to_string()).collect();
    report.say(&format!("                    or from any other: {}", others.join(", ")));
    report.say(&format!("   The status page  http://{}/", members[0].status));
    report
        .say(&format!("   Look around with althing members --data {}", members[0].data.display()));
}

fn not_started(error: std::io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The demonstration was not started.",
        format!("This machine refuses what it needs: {error}."),
        "It needs loopback addresses, free ports from 7700 on and a temporary directory (TMPDIR).",
    )
}
