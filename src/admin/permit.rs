//! What an operator may do over the network with a token, and in which words events tell of it.
//!
//! Everything is decided in full: a new command is refused by the compiler until somebody has
//! thought about it here. What hands out secrets, decides who belongs to the cluster, reads or
//! writes elsewhere on the machine, or ends the member itself stays on the socket: a token may
//! be lost, and what is done with it must be possible to undo.

use std::{fmt::Display, path::Path};

use crate::{
    base::{
        MemberName, Reason, Refusal, RuleName,
        catalog::{Failover, VotePolicy},
    },
    member::command::Command,
    node::{
        Ask, Publish,
        inspect::Question,
        uploads::{Offer, Uploads},
    },
};

/// The longest text of an act, characters: names and numbers, and not what goes with them.
const TEXT_MAX: usize = 300;

/// What may be done with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// It only reads, and leaves no event.
    Read,
    /// It is an act, which an event tells of in these words: those of the command line.
    Act(String),
}

/// Whether an operator may give this command.
pub(super) fn command(command: &Command) -> Result<Permit, Refusal> {
    Ok(act(match command {
        Command::Rollback { app, version: None } => format!("rollback {app}"),
        Command::Rollback { app, version: Some(version) } => format!("rollback {app} {version}"),
        Command::WindowOpen { scope, automatic, .. } => {
            let automatic = if *automatic { " --automatic" } else { "" };
            let apps: String = scope.iter().map(|app| format!(" --app {app}")).collect();
            format!("window open{automatic}{apps}")
        }
        Command::WindowClose => "window close".to_owned(),
        Command::WindowTakeover => "window takeover".to_owned(),
        Command::FailoverSet { first } => format!("failover set {}", list(first)),
        Command::Policy { failover, vote } => {
            let failover = failover.map(|failover| match failover {
                Failover::Auto => " failover auto",
                Failover::Manual => " failover manual",
            });
            let vote = vote.map(|vote| match vote {
                VotePolicy::Majority => " vote majority",
                VotePolicy::Committed => " vote committed",
            });
            format!("policy{}{}", failover.unwrap_or_default(), vote.unwrap_or_default())
        }
        Command::RemoveAfter { seconds: None } => "policy remove-after never".to_owned(),
        Command::Tags { member, set, unset } => {
            let set: String = set.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            let unset: String = unset.iter().map(|key| format!(" -{key}")).collect();
            format!("tags {}{set}{unset}", of(member.as_ref()))
        }
        Command::Service { member, on: true } => format!("resume {}", of(member.as_ref())),
        Command::Service { member, on: false } => format!("drain {}", of(member.as_ref())),
        Command::Wait { member } => format!("drain {} --wait", of(member.as_ref())),
        Command::Resolve { app, member } => format!("resolve {app} --member {member}"),
        Command::Silence { app, rule, member, for_s, .. } => {
            format!("silence{} --for {for_s}s", rules(app.as_ref(), rule.as_ref(), member.as_ref()))
        }
        Command::Unsilence { app, rule, member } => {
            format!("silence{} --end", rules(app.as_ref(), rule.as_ref(), member.as_ref()))
        }
        Command::Event { name, .. } => format!("event {name}"),
        Command::Query { .. } => return Ok(Permit::Read),
        Command::Invite { .. } => return Err(not_here("an invitation lets others in")),
        Command::Withdraw { id: None } => "invites withdraw --all".to_owned(),
        Command::Withdraw { id: Some(id) } => format!("invites withdraw {id}"),
        Command::OperatorAdd { .. } | Command::OperatorRemove { .. } => {
            return Err(not_here("a token makes no tokens, and takes none away"));
        }
        Command::Remove { .. } | Command::RemoveAfter { seconds: Some(_) } => {
            return Err(not_here("who belongs to the cluster is decided on a member"));
        }
        Command::Leave | Command::RotateKey => {
            return Err(not_here("it is about the member itself, and can't be undone from here"));
        }
        Command::Publish { .. } => {
            return Err(not_here("a directory is published by /api/v1/publish"));
        }
        Command::StandDown { .. } | Command::StandUp | Command::Drained | Command::Act(_) => {
            return Err(not_here("rules say it, and nobody else"));
        }
    }))
}

/// Publishing a directory is allowed.
pub(super) fn publish(publish: &Publish) -> Permit {
    let app = publish.app.as_ref().map_or(String::new(), |app| format!(" --app {app}"));
    act(format!("publish {}{app}", shown(&publish.source)))
}

/// Publishing a directory of the operator's own machine is allowed where members take content.
pub(super) fn bring(offer: &Offer, uploads: &Uploads) -> Result<Permit, Refusal> {
    uploads.allowed()?;
    let app = offer.app.as_ref().map_or(String::new(), |app| format!(" --app {app}"));
    Ok(act(format!("publish {}{app}", offer.source)))
}

/// Whether an operator may ask this of the content.
pub(super) fn question(question: &Question) -> Result<Permit, Refusal> {
    Ok(match question {
        Question::Verify { .. }
        | Question::Diff { .. }
        | Question::Kept { .. }
        | Question::Settings { .. }
        | Question::Definition { .. }
        | Question::Elsewhere { .. }
        | Question::Pieces { .. }
        // `sync` waits for the vote and asks again and again; what is put right has its events.
        | Question::Compare { .. } => Permit::Read,
        Question::Secrets { .. } => return Err(not_here("it is about secrets")),
        Question::Restore { .. } => return Err(not_here("it writes elsewhere on the machine")),
        Question::Lacking(_) => {
            return Err(not_here("a list of changes is published on a member"));
        }
    })
}

/// Whether an operator may ask this of members.
pub(super) fn ask(member: Option<&MemberName>, ask: &Ask) -> Result<Permit, Refusal> {
    Ok(match ask {
        Ask::Status { .. }
        | Ask::Logs { .. }
        | Ask::Series { .. }
        | Ask::Events(_)
        | Ask::Acting
        | Ask::Checkup
        | Ask::Differs { .. } => Permit::Read,
        Ask::Restart { app, service } => {
            let service = service.as_ref().map_or(String::new(), |name| format!(" {name}"));
            let member = member.map_or(String::new(), |name| format!(" --member {name}"));
            act(format!("restart {app}{service}{member}"))
        }
        Ask::Secrets { .. } => return Err(not_here("members ask it of each other")),
        Ask::Sign { .. } => return Err(not_here("it reads elsewhere on the machine")),
    })
}

fn act(text: String) -> Permit {
    Permit::Act(text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect())
}

fn of(member: Option<&MemberName>) -> &str {
    member.map_or("this member", MemberName::as_str)
}

fn list<T: Display>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

fn rules(
    app: Option<&impl Display>,
    rule: Option<&RuleName>,
    member: Option<&MemberName>,
) -> String {
    let app = app.map_or(String::new(), |app| format!(" {app}"));
    let rule = rule.map_or(String::new(), |rule| format!("/{rule}"));
    let member = member.map_or(String::new(), |name| format!(" --member {name}"));
    format!("{app}{rule}{member}")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn not_here(why: &str) -> Refusal {
    Refusal::new(
        Reason::Forbidden,
        "Nothing was done.",
        format!("No token is enough for this: {why}."),
        "Do it on the member itself, with the command line: it speaks to the socket in the data \
         directory.",
    )
}
