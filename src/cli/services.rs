//! `althing services`, `logs`, `restart`: what runs, on all members.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{
    client::Client,
    output::{self, Output, Paint, is_unread},
    table::{Cell, Table},
    units::{count, span},
};
use crate::{
    base::{AppName, MemberName, Reason, Refusal, ServiceName},
    driver::services::{LogLine, ServiceStatus, State, Stream},
    node::{Ask, Heard, Told},
};

/// How long a restarted service has to be ready before the next member's turn; longer
/// than a service has by itself where nothing is said.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long the member may not answer meanwhile.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// How often is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Which services, on which members.
pub(super) struct Which {
    pub app: AppName,
    pub service: Option<ServiceName>,
    pub member: Option<MemberName>,
}

/// How every service is.
pub(super) async fn list(
    client: &Client,
    output: &Output,
    app: Option<AppName>,
    member: Option<MemberName>,
) -> Result<ExitCode, Refusal> {
    if let Some(app) = &app {
        known(client, app).await?;
    }
    let (all, refused) = statuses(client, member, app).await?;
    if output.json {
        let rows: Vec<_> = all
            .iter()
            .map(|(member, status)| {
                let mut row = serde_json::to_value(status).unwrap_or_default();
                row["member"] = member.as_str().into();
                row
            })
            .collect();
        output.document(&rows);
    } else {
        let mut table = Table::new(&[
            "APP",
            "SERVICE",
            "MEMBER",
            "STATE",
            ">FOR",
            ">VERSION",
            ">PID",
            ">PORT",
            ">RESTARTS",
            "LAST END",
        ]);
        for (member, s) in &all {
            table.row([
                Cell::from(s.app.as_str()),
                Cell::from(s.service.as_str()),
                Cell::from(member.as_str()),
                Cell::new(paint(s.state), s.state.to_string()),
                Cell::from(span(since(s))),
                Cell::from(s.version.to_string()),
                Cell::from(s.pid.map_or(String::new(), |pid| pid.to_string())),
                Cell::from(s.port.map_or(String::new(), |port| port.to_string())),
                Cell::from(s.restarts.to_string()),
                Cell::from(s.last_exit.clone().unwrap_or_default()),
            ]);
        }
        output.table(&table, "No service runs; see docs/services.md for how to define one.");
    }
    Ok(complain(&refused))
}

fn since(status: &ServiceStatus) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(status.since.0)
}

fn paint(state: State) -> Paint {
    match state {
        State::Ready => Paint::Good,
        State::Starting | State::Stopping | State::Stopped => Paint::Plain,
        State::RunningNotReady | State::Unwell | State::BackingOff => Paint::Warn,
        State::Failed => Paint::Bad,
    }
}

/// That there is such an application: a misspelt one has no services either.
async fn known(client: &Client, app: &AppName) -> Result<(), Refusal> {
    let view = client.view().await?;
    if view.applications.iter().any(|a| a.name == app.as_str()) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::NotFound,
        "There is nothing to show.",
        format!("No application is named {app}."),
        "See `althing apps` for those that there are.",
    ))
}

type Statuses = Vec<(MemberName, ServiceStatus)>;

/// The services that members tell of, by application and name, and who did not answer.
async fn statuses(
    client: &Client,
    member: Option<MemberName>,
    app: Option<AppName>,
) -> Result<(Statuses, Vec<Refusal>), Refusal> {
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    let ask = Ask::Status { app };
    client
        .services(member, &ask, |Heard { member, told }| {
            match told {
                Told::Status(status) => all.push((member, status)),
                Told::Refused(refusal) => refused.push(refusal),
                _ => {}
            }
            true
        })
        .await?;
    all.sort_by(|(m, a), (n, b)| (&a.app, &a.service, m).cmp(&(&b.app, &b.service, n)));
    Ok((all, refused))
}

/// Says who did not answer; the exit code says whether all did.
fn complain(refused: &[Refusal]) -> ExitCode {
    for refusal in refused {
        output::note(&format!("althing: {refusal}"));
    }
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What services print, on all members together.
pub(super) async fn logs(
    client: &Client,
    output: &Output,
    which: Which,
    lines: usize,
    follow: bool,
) -> Result<ExitCode, Refusal> {
    let Which { app, service, member } = which;
    known(client, &app).await?;
    let one_service = service.is_some();
    let ask = Ask::Logs { app: app.clone(), service, lines, follow };
    let mut refused = Vec::new();
    let mut all: Vec<(MemberName, ServiceName, LogLine)> = Vec::new();
    let mut widest = 0;
    let mut show = |member: &MemberName, service: &ServiceName, line: &LogLine| {
        if output.json {
            return output.json_line(&as_json(member, service, line));
        }
        let who = if one_service { member.to_string() } else { format!("{member} {service}") };
        widest = widest.max(who.chars().count());
        let (paint, mark) = match line.stream {
            Stream::Out => (Paint::Plain, ' '),
            Stream::Err => (Paint::Warn, '!'),
            Stream::Althing => (Paint::Dim, '*'),
        };
        output.painted(paint, &format!("{}  {who:widest$} {mark} ", line.at), &line.to_string());
    };
    client
        .services(member, &ask, |Heard { member, told }| {
            match told {
                Told::Line { service, line } if follow => show(&member, &service, &line),
                Told::Line { service, line } => all.push((member, service, line)),
                Told::Missed { service, lines } => output::note(&format!(
                    "{member} {service}: {} too fast to follow; all of it is in the log",
                    count(lines, "line")
                )),
                Told::Refused(refusal) if follow => output::note(&format!("althing: {refusal}")),
                Told::Refused(refusal) => refused.push(refusal),
                _ => {}
            }
            !is_unread()
        })
        .await?;
    // In the order in which they were printed, as far as the members' clocks agree; of all
    // of them together as many as were asked for.
    all.sort_by_key(|(_, _, line)| line.at);
    let last = &all[all.len().saturating_sub(lines)..];
    if output.json && !follow {
        let rows: Vec<_> = last.iter().map(|(m, s, line)| as_json(m, s, line)).collect();
        output.document(&rows);
    } else {
        last.iter().for_each(|(member, service, line)| show(member, service, line));
    }
    if all.is_empty() && !follow && !output.json && refused.is_empty() {
        output.hint("Nothing was printed; `althing services` shows what runs.");
    }
    Ok(complain(&refused))
}

fn as_json(member: &MemberName, service: &ServiceName, line: &LogLine) -> serde_json::Value {
    serde_json::json!({
        "member": member, "service": service, "at": line.at.to_string(), "at_ms": line.at.0,
        "stream": line.stream, "text": line.text,
    })
}

/// Restarts services, one member after the other, so that they are never all away.
pub(super) async fn restart(
    client: &Client,
    output: &Output,
    which: Which,
) -> Result<ExitCode, Refusal> {
    let Which { app, service, member } = which;
    known(client, &app).await?;
    let (all, refused) = statuses(client, member, Some(app.clone())).await?;
    let is_meant = |s: &ServiceStatus| service.as_ref().is_none_or(|name| s.service == *name);
    let members: BTreeSet<MemberName> =
        all.into_iter().filter(|(_, s)| is_meant(s)).map(|(member, _)| member).collect();
    if members.is_empty() && refused.is_empty() {
        let name = service.map_or_else(|| "no service".to_owned(), |s| format!("no service {s}"));
        return Err(Refusal::new(
            Reason::NotFound,
            "Nothing was restarted.",
            format!("{app} has {name} that runs."),
            "See `althing services` for those that do.",
        ));
    }
    let mut done = Vec::new();
    for member in members {
        let ask = Ask::Restart { app: app.clone(), service: service.clone() };
        let before = statuses(client, Some(member.clone()), Some(app.clone())).await?.0;
        let mut trouble = None;
        client
            .services(Some(member.clone()), &ask, |Heard { told, .. }| {
                if let Told::Refused(refusal) = told {
                    trouble = Some(refusal);
                }
                true
            })
            .await?;
        if let Some(refusal) = trouble {
            return Err(refusal);
        }
        let took = until_ready(client, &member, &app, &before, is_meant).await?;
        if !output.json {
            output.line(&format!("{member}: ready again after {:.1} s", took.as_secs_f64()));
        }
        done.push(serde_json::json!({ "member": member, "ready_ms": took.as_millis() as u64 }));
    }
    if output.json {
        output.document(&done);
    }
    Ok(complain(&refused))
}

/// Waits until the services of `app` on `member` are other processes than `before`, and
/// ready.
async fn until_ready(
    client: &Client,
    member: &MemberName,
    app: &AppName,
    before: &Statuses,
    is_meant: impl Fn(&ServiceStatus) -> bool,
) -> Result<Duration, Refusal> {
    let began = Instant::now();
    let meant: BTreeMap<&ServiceName, &ServiceStatus> =
        before.iter().map(|(_, s)| (&s.service, s)).filter(|(_, s)| is_meant(s)).collect();
    loop {
        let (now, refused) = statuses(client, Some(member.clone()), Some(app.clone())).await?;
        let now: BTreeMap<&ServiceName, &ServiceStatus> =
            now.iter().map(|(_, s)| (&s.service, s)).collect();
        let waits = meant.iter().find_map(|(name, old)| {
            let Some(new) = now.get(name) else { return Some((*name, "not there".to_owned())) };
            // One that ended well and stays so is as it should be.
            let settled = matches!(new.state, State::Ready | State::Stopped);
            let again = new.pid != old.pid || new.since != old.since;
            (!settled || !again).then(|| (*name, new.state.to_string()))
        });
        let Some((service, state)) = waits else { return Ok(began.elapsed()) };
        let failed = now.get(service).is_some_and(|s| s.state == State::Failed);
        if let Some(refusal) = refused.into_iter().next().filter(|_| began.elapsed() >= LOST_AFTER)
        {
            return Err(refusal);
        }
        if began.elapsed() >= READY_WITHIN || failed {
            return Err(Refusal::new(
                Reason::Failed,
                format!("The restart ended at {member}; the members after it were left alone."),
                format!("Service {service} of {app} is {state} there."),
                format!("See `althing logs {app} {service} --member {member}`."),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
