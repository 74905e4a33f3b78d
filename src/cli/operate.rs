//! The commands that change something and are done in one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use ring::rand::{SecureRandom, SystemRandom};

use super::{
    args::{FailoverAction, PolicyAction, Tag, TagsAction, WindowAction},
    client::Client,
    hints, invites,
    output::{Output, Paint},
    show,
    table::{Cell, Table},
    units::{Span, count, span},
};
use crate::{
    base::{AppName, MemberName, Reason, Refusal, SecretKey, catalog::Failover},
    member::{
        command::{Command, Outcome},
        view::MemberView,
    },
};

pub(super) async fn invite(
    client: &Client,
    output: &Output,
    uses: u32,
    valid: Span,
) -> Result<ExitCode, Refusal> {
    let seed = draw_seed("No invitation was issued.")?;
    let id = SecretKey::from_seed(seed).public().to_string();
    let command = Command::Invite { seed, uses, valid_s: valid.0.as_secs() };
    let Outcome::Invited { token, expires_at, uses } = client.command(&command).await? else {
        return Err(unexpected());
    };
    let view = client.view().await?;
    let me = view.members.iter().find(|m| m.me).ok_or_else(unexpected)?;
    let join = format!("althing up --join {} --token {token}", me.address);
    if output.json {
        output.document(&serde_json::json!({
            "token": token, "command": join, "join": me.address,
            "expires": expires_at.to_string(), "expires_ms": expires_at.0, "uses": uses,
            "id": id,
        }));
    } else {
        output.line(&join);
        let servers = count(uses.into(), "server");
        // Which directory is right there is not known here.
        let place = match hints::is_elsewhere() {
            true => " Add --data DIR if its data are not to lie where they do by default.",
            false => "",
        };
        let text = format!(
            "Run it on the next server.{place} Good for {servers} until {expires_at}; whoever has \
             it can join, so keep it to yourself. To take it back: `althing invites withdraw {}`.",
            invites::short(&id)
        );
        super::output::note(&hints::copyable(&text));
    }
    Ok(ExitCode::SUCCESS)
}

/// What guards an invitation or an operator's token: from the operating system alone. `what` is
/// what does not happen without.
pub(super) fn draw_seed(what: &str) -> Result<[u8; 32], Refusal> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| {
        Refusal::new(
            Reason::Failed,
            what,
            "The operating system gave no random bytes.",
            "See whether getrandom(2) is allowed to this process.",
        )
    })?;
    Ok(seed)
}

pub(super) async fn window(
    client: &Client,
    output: &Output,
    action: Option<WindowAction>,
) -> Result<ExitCode, Refusal> {
    let command = match action {
        None => {
            show::window(&client.view().await?, output);
            return Ok(ExitCode::SUCCESS);
        }
        Some(WindowAction::Open { apps, failover, automatic }) => {
            let failover = failover.map(Failover::from);
            Command::WindowOpen { scope: apps, failover, automatic }
        }
        Some(WindowAction::Close) => Command::WindowClose,
        Some(WindowAction::Takeover) => Command::WindowTakeover,
    };
    order(client, output, &command).await
}

pub(super) async fn failover(
    client: &Client,
    output: &Output,
    action: Option<FailoverAction>,
) -> Result<ExitCode, Refusal> {
    let policy = |failover| Command::Policy { failover: Some(failover), vote: None };
    let command = match action {
        None => {
            show::failover(&client.view().await?, output);
            return Ok(ExitCode::SUCCESS);
        }
        Some(FailoverAction::Set { names }) => Command::FailoverSet { first: names },
        Some(FailoverAction::Auto) => policy(Failover::Auto),
        Some(FailoverAction::Manual) => policy(Failover::Manual),
    };
    order(client, output, &command).await
}

pub(super) async fn policy(
    client: &Client,
    output: &Output,
    action: Option<PolicyAction>,
) -> Result<ExitCode, Refusal> {
    let command = match action {
        None => {
            let policy = client.view().await?.policy;
            if output.json {
                output.document(&policy);
            } else {
                let after = policy.remove_after_s.map(|s| span(s.saturating_mul(1_000)));
                output.line(&format!("failover      {}", policy.failover));
                output.line(&format!("vote          {}", policy.vote));
                output.line(&format!("remove-after  {}", after.as_deref().unwrap_or("never")));
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(PolicyAction::Vote { policy }) => {
            Command::Policy { failover: None, vote: Some(policy.into()) }
        }
        Some(PolicyAction::RemoveAfter { time }) => {
            Command::RemoveAfter { seconds: time.0.map(|span| span.0.as_secs()) }
        }
    };
    order(client, output, &command).await
}

pub(super) async fn resolve(
    client: &Client,
    output: &Output,
    app: AppName,
    member: MemberName,
) -> Result<ExitCode, Refusal> {
    order(client, output, &Command::Resolve { app, member }).await
}

pub(super) async fn leave(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    order(client, output, &Command::Leave).await
}

pub(super) async fn remove(
    client: &Client,
    output: &Output,
    name: MemberName,
) -> Result<ExitCode, Refusal> {
    order(client, output, &Command::Remove { name }).await
}

/// Shows or changes tags.
pub(super) async fn tags(
    client: &Client,
    output: &Output,
    member: Option<MemberName>,
    action: Option<TagsAction>,
) -> Result<ExitCode, Refusal> {
    let (set, unset) = match action {
        None => return show_tags(client, output, member).await,
        Some(TagsAction::Set { tags }) => {
            (tags.into_iter().map(|Tag(key, value)| (key, value)).collect(), BTreeSet::new())
        }
        Some(TagsAction::Unset { keys }) => (BTreeMap::new(), keys.into_iter().collect()),
    };
    order(client, output, &Command::Tags { member, set, unset }).await
}

async fn show_tags(
    client: &Client,
    output: &Output,
    member: Option<MemberName>,
) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    let chosen = |m: &&MemberView| member.as_ref().is_none_or(|name| m.name == name.as_str());
    let members: Vec<&MemberView> = view.members.iter().filter(chosen).collect();
    if let (Some(name), []) = (&member, members.as_slice()) {
        return Err(Refusal::new(
            Reason::NotFound,
            "There is nothing to show.",
            format!("No member is named {name}."),
            "See `althing members` for those that are enrolled.",
        ));
    }
    if output.json {
        let tags: BTreeMap<_, _> = members.iter().map(|m| (&m.name, &m.tags)).collect();
        output.document(&tags);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "TAGS"]);
    for member in members {
        table.row([Cell::from(&member.name), Cell::from(show::tags_of(member))]);
    }
    output.table(&table, "No member is enrolled.");
    Ok(ExitCode::SUCCESS)
}

/// Asks all members. Ends with 1 if one that is live did not answer.
pub(super) async fn query(
    client: &Client,
    output: &Output,
    name: String,
    payload: String,
    timeout: Span,
) -> Result<ExitCode, Refusal> {
    let wait_ms = u64::try_from(timeout.0.as_millis()).unwrap_or(u64::MAX);
    let outcome = client.command(&Command::Query { name, payload, wait_ms }).await?;
    let Outcome::Gathered { answers, missing, away } = &outcome else { return Err(unexpected()) };
    let complete = missing.is_empty();
    if output.json {
        done(output, &outcome);
    } else {
        let mut table = Table::new(&["MEMBER", ">AFTER", "ANSWER"]);
        for answer in answers {
            table.row([
                Cell::from(&answer.member),
                Cell::from(format!("{:.1} ms", answer.after_us as f64 / 1e3)),
                match &answer.answer {
                    Some(text) => Cell::from(text),
                    None => Cell::new(Paint::Warn, "it knows no such query"),
                },
            ]);
        }
        for name in missing {
            let cells = [Cell::from(name), Cell::from(""), Cell::new(Paint::Bad, "no answer")];
            table.row(cells);
        }
        for name in away {
            table.row([Cell::from(name), Cell::from(""), Cell::new(Paint::Dim, "not live")]);
        }
        output.table(&table, "Nobody answered.");
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn order(
    client: &Client,
    output: &Output,
    command: &Command,
) -> Result<ExitCode, Refusal> {
    done(output, &client.command(command).await?);
    Ok(ExitCode::SUCCESS)
}

/// Says what came of a command.
pub(super) fn done(output: &Output, outcome: &Outcome) {
    if output.json {
        output.document(&document(outcome));
        return;
    }
    output.line(&match outcome {
        Outcome::Done { sequence, text } => format!("{text} (catalog {sequence})"),
        Outcome::Told { time, live } => {
            format!("told, with time {time}; {} live", count(*live as u64, "member"))
        }
        Outcome::Gathered { answers, .. } => count(answers.len() as u64, "answer"),
        Outcome::Invited { expires_at, .. } => format!("an invitation until {expires_at}"),
        // The window's end names the application, the version and the members.
        Outcome::Published { takeovers: 0, why, .. } => format!("{why}."),
        Outcome::Published { takeovers, why, .. } => {
            let times = count((*takeovers).into(), "time");
            format!("{why}. The window's coordinator was lost {times} on the way.")
        }
    });
}

/// What is printed of it as JSON: without the enum's tag, since each command has one kind of outcome.
pub(super) fn document(outcome: &Outcome) -> serde_json::Value {
    let value = serde_json::to_value(outcome).unwrap_or_default();
    let inner = value.as_object().and_then(|object| object.values().next());
    inner.unwrap_or(&value).clone()
}

pub(super) fn unexpected() -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member's answer can't be used.",
        "It answered another question than the one it was asked.",
        "Use the same version of Althing for the command and the member.",
    )
}
