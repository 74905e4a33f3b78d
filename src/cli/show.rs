//! The commands that only look: views as tables.

use std::{process::ExitCode, time::Duration};

use serde::Serialize;

use super::{
    client::Client,
    hints,
    output::{Output, Paint, is_unread},
    table::{Cell, Table},
    units::{bytes, count, span},
};
use crate::{
    base::{AppName, Reason, Refusal, operator::AskedBy},
    member::{
        event::{Event, EventKind, Severity},
        view::{ApplicationView, Health, MemberView, SilenceView, VersionView, View, WindowView},
    },
    node::Metrics,
};

/// How often a follower looks for new events.
const FOLLOW_EVERY: Duration = Duration::from_millis(400);

pub(super) async fn members(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    if output.json {
        output.document(&view.members);
        return Ok(ExitCode::SUCCESS);
    }
    let head = [
        "", "NAME", "STATE", ">FOR", "SERVICE", "VOTE", ">CATALOG", ">RTT", "ADDRESS", "TAGS", "ID",
    ];
    let mut table = Table::new(&head);
    for member in &view.members {
        table.row([
            Cell::from(if member.me { "*" } else { "" }),
            Cell::from(&member.name),
            Cell::new(state_paint(&member.state), &member.state),
            Cell::from(span(member.state_for_ms)),
            Cell::new(service_paint(&member.service), &member.service),
            Cell::from(role(member)),
            Cell::from(member.sequence.map_or(String::new(), |s| s.to_string())),
            Cell::from(member.round_trip_us.map_or(String::new(), round_trip)),
            Cell::from(&member.address),
            Cell::from(tags_of(member)),
            Cell::new(Paint::Dim, short(&member.id)),
        ]);
    }
    output.table(&table, "No member is enrolled.");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn round_trip(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

/// Tags as they are written on the command line.
pub(super) fn tags_of(member: &MemberView) -> String {
    let tags: Vec<String> =
        member.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    tags.join(" ")
}

fn role(member: &MemberView) -> String {
    let vote = if member.voter { "yes" } else { "not yet" };
    let mut text = vote.to_owned();
    if member.standby {
        text.push_str(if member.waits { ", standby, waits" } else { ", standby" });
    }
    if member.coordinator {
        text.push_str(", coordinator");
    }
    text
}

fn state_paint(state: &str) -> Paint {
    match state {
        "alive" => Paint::Good,
        "suspect" => Paint::Warn,
        "down" => Paint::Bad,
        _ => Paint::Dim,
    }
}

fn service_paint(service: &str) -> Paint {
    match service {
        "in service" => Paint::Good,
        "receiving" => Paint::Warn,
        "out" => Paint::Bad,
        _ => Paint::Dim,
    }
}

fn vote_paint(vote: &str) -> Paint {
    match vote {
        "unanimous" => Paint::Good,
        "hung" => Paint::Bad,
        "paused" => Paint::Dim,
        _ => Paint::Warn,
    }
}

/// The first digits of a signature, enough to tell two apart by eye.
fn short(text: &str) -> String {
    text.chars().take(12).collect()
}

pub(super) async fn apps(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    if output.json {
        output.document(&view.applications);
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAME", ">VERSION", "VOTE", ">FILES", ">SIZE", "PUBLISHED", "HOSTS", "SIGNATURE"];
    let mut table = Table::new(&head);
    for app in &view.applications {
        let mut hosts = app.hosts.clone();
        if app.default {
            hosts.push("(any other)".to_owned());
        }
        table.row([
            Cell::from(&app.name),
            Cell::from(app.version.to_string()),
            Cell::new(vote_paint(&app.vote), &app.vote),
            Cell::from(app.files.to_string()),
            Cell::from(bytes(app.bytes)),
            Cell::from(app.versions.first().map_or("", |v| &v.published_at)),
            Cell::from(hosts.join(" ")),
            Cell::new(Paint::Dim, short(&app.root)),
        ]);
    }
    output.table(
        &table,
        &hints::copyable(
            "Nothing is published yet. `althing publish DIR --app NAME` publishes a directory.",
        ),
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn status(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    if output.json {
        output.document(&view);
        return Ok(ExitCode::SUCCESS);
    }
    let (paint, word) = match view.health {
        Health::Ok => (Paint::Good, "ok"),
        Health::Warning => (Paint::Warn, "warning"),
        Health::Critical => (Paint::Bad, "critical"),
    };
    output.painted(paint, word, &summary(&view));
    for reason in &view.reasons {
        output.hint(&format!("  - {reason}"));
    }
    if let Some(window) = &view.window {
        output.line(&format!("window {}: {}", window.id, window.state));
    }
    for app in &view.applications {
        output.line(&format!(
            "{} version {}: {}, {} in {}{}{}",
            app.name,
            app.version,
            app.vote,
            bytes(app.bytes),
            count(app.files, "file"),
            app.placement.as_ref().map_or(String::new(), |on| format!(", placed on `{on}`")),
            app.work.as_ref().map_or(String::new(), |work| format!(", {work} here")),
        ));
    }
    for silence in &view.silences {
        let SilenceView { what, until, by, why, .. } = silence;
        output.line(&format!("{what}: silenced until {until} by {by}: {why}"));
    }
    for address in &view.addresses {
        let holder = match &address.holder {
            Some(holder) => format!("held by {holder}"),
            None => "held by nobody".to_owned(),
        };
        output.line(&format!("{} of {}: {holder}", address.address, address.apps.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// The same for a machine that watches machines: one line, its figures, and one of four exit codes
/// (Monitoring Plugins Development Guidelines). Whatever hinders the answer is *unknown*, so that
/// a member that is down is not taken for one that is well or that says that it is not.
pub(super) async fn check(client: &Client, output: &Output) -> ExitCode {
    let checked = Checked::of(client.view().await);
    if output.json {
        output.document(&checked);
    } else {
        output.line(&checked.line());
    }
    ExitCode::from(checked.code)
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Checked {
    code: u8,
    state: &'static str,
    says: Vec<String>,
    voters: Option<Voters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Voters {
    live: usize,
    majority: usize,
    all: usize,
}

impl Checked {
    fn of(view: Result<View, Refusal>) -> Self {
        let view = match view {
            Ok(view) => view,
            Err(refusal) => {
                let says = vec![format!("{} {}", refusal.what, refusal.why)];
                return Self { code: 3, state: "unknown", says, voters: None };
            }
        };
        let (code, state) = match view.health {
            Health::Ok => (0, "ok"),
            Health::Warning => (1, "warning"),
            Health::Critical => (2, "critical"),
        };
        let voters = Voters { live: view.voters_live, majority: view.majority, all: view.voters };
        Self { code, state, says: view.reasons, voters: Some(voters) }
    }

    /// What stands after the first bar is for machines, so none may stand before it.
    fn line(&self) -> String {
        let all_well = self.voters.map(|v| format!("{} of {} voters live", v.live, v.all));
        let says = match self.says.is_empty() {
            true => all_well.unwrap_or_default(),
            false => self.says.join(" "),
        };
        let says = says.replace('|', "/").replace(['\n', '\r'], " ");
        let figures = self.voters.map(|Voters { live, majority, all }| {
            format!(" | voters_live={live};;{majority}:;0;{all}")
        });
        format!("ALTHING {} - {says}{}", self.state.to_uppercase(), figures.unwrap_or_default())
    }
}

fn summary(view: &View) -> String {
    format!(
        ": {} of {} voters live, {} needed; this is {}, cluster {}, catalog {}, Althing {}",
        view.voters_live,
        view.voters,
        view.majority,
        view.me,
        view.cluster,
        view.sequence,
        view.althing
    )
}

pub(super) async fn votes(
    client: &Client,
    output: &Output,
    app: Option<&AppName>,
) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    let chosen: Vec<&ApplicationView> = match app {
        Some(name) => vec![find(&view, name)?],
        None => view.applications.iter().collect(),
    };
    if output.json {
        let list: Vec<_> = chosen
            .iter()
            .map(|a| {
                serde_json::json!({
                    "app": a.name, "version": a.version, "root": a.root, "vote": a.vote,
                    "ballots": a.ballots, "electorate": a.electorate, "positions": a.positions,
                })
            })
            .collect();
        output.document(&list);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(&["APP", "MEMBER", "POSITION", ">VERSION", "HOLDS", "VOTE", "ROLLOUT"]);
    for app in &chosen {
        for position in &app.positions {
            let paint = match position.position.as_str() {
                "agrees" => Paint::Good,
                "silent" | "elsewhere" => Paint::Dim,
                "late" | "leaving" => Paint::Warn,
                _ => Paint::Bad,
            };
            table.row([
                Cell::from(&app.name),
                Cell::from(&position.member),
                Cell::new(paint, &position.position),
                Cell::from(position.version.map_or(String::new(), |v| v.to_string())),
                Cell::new(Paint::Dim, position.root.as_deref().map_or(String::new(), short)),
                Cell::from(match position.position.as_str() {
                    "elsewhere" | "leaving" => "no",
                    _ if position.voter => "yes",
                    _ => "not yet",
                }),
                match position.rollout.as_deref() {
                    Some("failed") => Cell::new(Paint::Bad, "failed"),
                    Some(word @ ("waiting" | "late" | "starting")) => Cell::new(Paint::Warn, word),
                    word => Cell::from(word.unwrap_or("")),
                },
            ]);
        }
    }
    output.table(&table, "There is nothing to vote on: nothing is published yet.");
    for app in &chosen {
        output.painted(
            vote_paint(&app.vote),
            &format!("{}: {}", app.name, app.vote),
            &format!(
                "; {} of {} ballots in hand, {} needed to decide; published is {}",
                app.ballots,
                app.electorate,
                app.electorate / 2 + 1,
                short(&app.root)
            ),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The application `name`, or the refusal that says that there is none.
pub(super) fn find<'a>(view: &'a View, name: &AppName) -> Result<&'a ApplicationView, Refusal> {
    view.applications.iter().find(|a| a.name == name.as_str()).ok_or_else(|| {
        Refusal::new(
            Reason::NotFound,
            "There is nothing to show.",
            format!("The cluster has no application named {name}."),
            "See `althing apps` for those it has.",
        )
    })
}

pub(super) async fn history(
    client: &Client,
    output: &Output,
    app: &AppName,
) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    let app = find(&view, app)?;
    if output.json {
        output.document(&app.versions);
        return Ok(ExitCode::SUCCESS);
    }
    let head = [">VERSION", "PUBLISHED", "BY", "HOW", ">FILES", ">SIZE", "SIGNATURE", "MESSAGE"];
    let mut table = Table::new(&head);
    for version in &app.versions {
        table.row([
            Cell::from(version.number.to_string()),
            Cell::from(&version.published_at),
            Cell::from(published_by(version)),
            Cell::from(&version.origin),
            Cell::from(version.files.to_string()),
            Cell::from(bytes(version.bytes)),
            Cell::new(Paint::Dim, short(&version.root)),
            Cell::from(&version.message),
        ]);
    }
    output.table(&table, "No version is kept.");
    Ok(ExitCode::SUCCESS)
}

/// The member that it was published through, and whose token it was.
fn published_by(version: &VersionView) -> String {
    let publisher = &version.publisher;
    match &version.asked {
        None => publisher.clone(),
        Some(AskedBy { operator, at }) if at.as_str() == publisher => format!("{operator} at {at}"),
        // Somebody decided a hung vote for what another member holds.
        Some(AskedBy { operator, at }) => format!("{operator} at {at}, from {publisher}"),
    }
}

pub(super) fn window(view: &View, output: &Output) {
    if output.json {
        output.document(&serde_json::json!({ "window": view.window, "outcomes": view.outcomes }));
        return;
    }
    match &view.window {
        None => output.line("No window is open: the majority is right."),
        Some(window) => open_window(window, output),
    }
    let mut table =
        Table::new(&[">WINDOW", "APP", ">VERSION", "COORDINATOR", ">TAKEN OVER", "END"]);
    for outcome in &view.outcomes {
        table.row([
            Cell::from(outcome.window.to_string()),
            Cell::from(outcome.app.as_deref().unwrap_or("")),
            Cell::from(outcome.version.map_or(String::new(), |v| v.to_string())),
            Cell::from(&outcome.coordinator),
            Cell::from(outcome.takeovers.to_string()),
            Cell::from(&outcome.why),
        ]);
    }
    if !table.is_empty() {
        output.line("");
        output.table(&table, "");
    }
}

fn open_window(window: &WindowView, output: &Output) {
    output.line(&format!("window {}: {}", window.id, window.state));
    let live = if window.coordinator_live { "" } else { " (down)" };
    let scope = match window.scope.as_slice() {
        [] => "all applications".to_owned(),
        scope => scope.join(", "),
    };
    output.line(&format!(
        "  coordinator  {}{live}, failover {}, taken over {}",
        window.coordinator,
        window.failover,
        count(window.takeovers.into(), "time")
    ));
    let told =
        |asked: Option<&AskedBy>| asked.map_or(String::new(), |by| format!(", {}", by.told()));
    let asked = told(window.asked.as_ref());
    output.line(&format!("  opened       {} by {}{asked}", window.opened_at, window.opened_by));
    let held = match (window.held, window.automatic) {
        (_, true) => ", edits of live files are publications until `althing window close`",
        (true, false) => ", held until `althing window close`",
        (false, false) => "",
    };
    output.hint(&format!("  covers       {scope}{held}"));
    if let Some(publication) = &window.publication {
        output.line(&format!(
            "  publishing   {} version {}, {}{}: whole on {}",
            publication.app,
            publication.version,
            publication.phase,
            told(publication.asked.as_ref()),
            publication.whole.join(", ")
        ));
    }
}

pub(super) fn failover(view: &View, output: &Output) {
    if output.json {
        let order: Vec<_> = view
            .members
            .iter()
            .map(|m| {
                serde_json::json!({
                    "name": m.name, "state": m.state, "voter": m.voter,
                    "coordinator": m.coordinator,
                })
            })
            .collect();
        let value = serde_json::json!({ "failover": view.policy.failover, "order": order });
        output.document(&value);
        return;
    }
    let mut table = Table::new(&[">", "NAME", "STATE", ""]);
    let first_live = view.members.iter().position(|m| m.voter && m.state == "alive");
    for (index, member) in view.members.iter().enumerate() {
        let note = match () {
            () if member.coordinator => "presides",
            () if view.window.is_none() && Some(index) == first_live => "would preside",
            () if !member.voter => "no vote yet",
            () => "",
        };
        table.row([
            Cell::from((index + 1).to_string()),
            Cell::from(&member.name),
            Cell::new(state_paint(&member.state), &member.state),
            Cell::from(note),
        ]);
    }
    output.table(&table, "No member is enrolled.");
    let text = match view.policy.failover.as_str() {
        "auto" => "Failover is automatic: the next live one takes over by itself.",
        _ => "Failover is manual: nobody takes over until `althing window takeover`.",
    };
    output.hint(text);
}

pub(super) async fn metrics(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let metrics = client.metrics().await?;
    if output.json {
        output.document(&metrics);
        return Ok(ExitCode::SUCCESS);
    }
    let Metrics {
        packets_sent,
        messages_sent,
        bytes_sent,
        received,
        bytes_received,
        connections,
        requests,
        tcp_connections,
        tcp_active,
        tcp_failures,
        tcp_bytes_received,
        tcp_bytes_sent,
        access_log_dropped,
        queue,
        input_us_max,
        unwell,
        suspicions,
        gossip_backlog,
        queue_network,
        queue_notes,
        queue_max,
        queue_writes,
        queue_proposals,
        rumors_kept,
        stalls,
        stall_us_max,
        stood_us_max,
        fetched_bytes,
        scrub_bytes,
        scrub_damaged,
        scrub_passes,
        repairs,
    } = metrics;
    output.line(&format!("SWIM packets sent    {packets_sent}"));
    output.line(&format!("messages sent        {messages_sent}"));
    output.line(&format!("bytes sent           {bytes_sent}"));
    output.line(&format!("received             {received}"));
    output.line(&format!("bytes received       {bytes_received}"));
    output.line(&format!("connections          {connections}"));
    output.line(&format!("requests answered    {requests}"));
    output.line(&format!("TCP connections      {tcp_connections}"));
    output.line(&format!("  open now           {tcp_active}"));
    output.line(&format!("  taken by nobody    {tcp_failures}"));
    output.line(&format!("  bytes received     {tcp_bytes_received}"));
    output.line(&format!("  bytes sent         {tcp_bytes_sent}"));
    output.line(&format!("log lines left out   {access_log_dropped}"));
    output.line(&format!("inputs that wait     {queue}"));
    output.line(&format!("  of the network     {queue_network}"));
    output.line(&format!("  of this member     {queue_notes}"));
    output.line(&format!("  at the most        {queue_max}"));
    output.line(&format!("records to write     {queue_writes}"));
    output.line(&format!("changes under way    {queue_proposals}"));
    output.line(&format!("events kept          {rumors_kept}"));
    output.line(&format!("longest input        {input_us_max} us"));
    output.line(&format!("unwell               {unwell}"));
    output.line(&format!("suspicions           {suspicions}"));
    output.line(&format!("gossip that waits    {gossip_backlog}"));
    output.line(&format!("stalls               {stalls}"));
    output.line(&format!("  longest of the loop     {stall_us_max} us"));
    output.line(&format!("  longest of the process  {stood_us_max} us"));
    output.line(&format!("content fetched      {fetched_bytes} bytes"));
    output.line(&format!("bytes scrubbed       {scrub_bytes}"));
    output.line(&format!("  pieces rotten      {scrub_damaged}"));
    output.line(&format!("  whole passes       {scrub_passes}"));
    output.line(&format!("repairs              {repairs}"));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn events(
    client: &Client,
    output: &Output,
    follow: bool,
    kinds: &[EventKind],
) -> Result<ExitCode, Refusal> {
    let wanted = |event: &Event| kinds.is_empty() || kinds.contains(&event.kind);
    let mut after = 0;
    let mut events = client.events(after).await?;
    if !follow {
        events.retain(wanted);
    }
    if !follow && output.json {
        output.document(&events);
        return Ok(ExitCode::SUCCESS);
    }
    if events.is_empty() && !follow {
        let what = if kinds.is_empty() { "Nothing" } else { "Nothing of that kind" };
        output.line(&format!("{what} has happened since this member started."));
    }
    loop {
        for event in &events {
            after = after.max(event.number);
            if wanted(event) {
                print_event(event, "", output);
            }
        }
        if !follow || is_unread() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
        events = client.events(after).await?;
    }
}

/// One event, as `of` says of whom.
pub(super) fn print_event(event: &Event, of: &str, output: &Output) {
    if output.json {
        output.json_line(event);
        return;
    }
    let (paint, word) = match event.severity {
        Severity::Info => (Paint::Plain, "info    "),
        Severity::Warning => (Paint::Warn, "warning "),
        Severity::Critical => (Paint::Bad, "critical"),
    };
    output.painted(paint, &format!("{}  {word}", event.at), &format!("  {of}{}", event.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_whatever_the_reasons_are() {
        let voters = Some(Voters { live: 2, majority: 2, all: 3 });
        let well = Checked { code: 0, state: "ok", says: Vec::new(), voters };
        assert_eq!(well.line(), "ALTHING OK - 2 of 3 voters live | voters_live=2;;2:;0;3");
        let says = vec!["It is | so.\nAnd so.".to_owned(), "More.".to_owned()];
        let unwell = Checked { code: 1, state: "warning", says, voters };
        let line = "ALTHING WARNING - It is / so. And so. More. | voters_live=2;;2:;0;3";
        assert_eq!(unwell.line(), line);
    }

    #[test]
    fn whatever_hinders_an_answer_is_unknown() {
        let refusal =
            Refusal::new(Reason::Failed, "Nothing was asked.", "It is down.", "Start it.");
        let unknown = Checked::of(Err(refusal));
        assert_eq!(unknown.code, 3);
        assert_eq!(unknown.line(), "ALTHING UNKNOWN - Nothing was asked. It is down.");
    }
}
