//! `althing metrics SERIES`, `top`, `events --all`: what members measured and what happened
//! there, put together by the member that is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    client::Client,
    output::{self, Output, Paint, is_unread},
    show,
    table::{Cell, Table},
    units::{bytes, count},
};
use crate::{
    base::{AppName, MemberName, Reason, Refusal, WallTime},
    member::event::{EventKind, Severity},
    node::{
        Ask, Heard, Told,
        telemetry::asking::{
            EventsQuestion, Measured, MeasuredRow, MeasuredSeries, SeriesQuestion,
        },
    },
    store::events::Logged,
};

/// How far back is looked where nothing is said.
const SINCE: Duration = Duration::from_secs(600);
/// Seconds of one look of `top`: long enough to have a whole sample of each member.
const LOOK_MS: u64 = 10_000;
/// What `top` shows of a member.
const SHOWN: &str =
    "cpu;load;mem.used;mem.total;net.in;net.out;requests;errors;connections;disk.used *";

/// What is wanted of `metrics`.
pub(super) struct Wish {
    pub series: Vec<String>,
    pub since: Option<Duration>,
    pub step: Option<Duration>,
    pub member: Option<MemberName>,
    pub each: bool,
    pub percentiles: bool,
}

/// Measurements of some series.
pub(super) async fn metrics(
    client: &Client,
    output: &Output,
    wish: Wish,
) -> Result<ExitCode, Refusal> {
    let now = now();
    let since = wish.since.unwrap_or(SINCE);
    let question = SeriesQuestion {
        series: wish.series.join(";"),
        from: now.0.saturating_sub(ms(since)),
        to: Some(now.0),
        step: wish.step.map(ms),
        member: wish.member,
        each: wish.each,
        percentiles: wish.percentiles,
    };
    let measured = client.series(&question).await?;
    if output.json {
        output.document(&measured);
        return Ok(complain(&measured, output));
    }
    let mut head = vec!["SERIES"];
    if wish.each {
        head.push("MEMBER");
    }
    if wish.step.is_some() {
        head.push("FROM");
    }
    head.extend([">AVG", ">MIN", ">MAX", ">RMS", ">TOTAL", ">LAST"]);
    if wish.percentiles {
        head.extend([">P50", ">P90", ">P95", ">P99"]);
    }
    head.extend([">MEMBERS", "MISSING"]);
    let mut table = Table::new(&head);
    for series in &measured.series {
        for row in &series.rows {
            let mut cells = vec![Cell::from(series.series.to_string())];
            if wish.each {
                cells.push(Cell::from(series.member.as_ref().map_or("", |m| m.as_str())));
            }
            if wish.step.is_some() {
                cells.push(Cell::from(row.at.to_string()));
            }
            let show = |value: f64| Cell::from(number(series, value));
            cells.extend([row.avg, row.min, row.max, row.rms, row.total, row.last].map(show));
            if wish.percentiles {
                let each = row.percentiles.map(|p| [p.p50, p.p90, p.p95, p.p99].map(show));
                cells.extend(each.unwrap_or_else(|| ["-"; 4].map(Cell::from)));
            }
            cells.push(Cell::from(row.members.to_string()));
            let missing: Vec<&str> = row.missing.iter().map(|m| m.as_str()).collect();
            cells.push(Cell::new(Paint::Warn, missing.join(", ")));
            table.row(cells);
        }
    }
    output.table(&table, "Nothing of that was measured in that time; see docs/telemetry.md.");
    if measured.cut {
        output::note("There is more: ask for fewer series, or a longer --step.");
    }
    Ok(complain(&measured, output))
}

/// Says who is missing. An answer that is not whole is no failure.
fn complain(measured: &Measured, output: &Output) -> ExitCode {
    if !output.json {
        for silent in &measured.silent {
            output::note(&format!("Without {}: {}", silent.member, silent.why));
        }
    }
    ExitCode::SUCCESS
}

/// A number with its unit.
fn number(series: &MeasuredSeries, value: f64) -> String {
    let text = match series.unit.as_str() {
        "B" => bytes(value.max(0.0) as u64),
        "s" if value < 1.0 => format!("{:.1} ms", value * 1_000.0),
        "s" => format!("{value:.1} s"),
        "%" => format!("{value:.1} %"),
        "d" => format!("{value:.1} d"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    };
    if series.kind == "counter" { format!("{text}/s") } else { text }
}

/// How the members are doing, again and again until Ctrl-C.
pub(super) async fn top(
    client: &Client,
    output: &Output,
    every: Duration,
    once: bool,
) -> Result<ExitCode, Refusal> {
    let screen = (!once && !output.json && output.is_watched()).then(Screen::open);
    loop {
        let now = now();
        let question = SeriesQuestion {
            series: SHOWN.to_owned(),
            from: now.0.saturating_sub(LOOK_MS),
            to: Some(now.0),
            step: Some(LOOK_MS),
            member: None,
            each: true,
            percentiles: false,
        };
        let latency = SeriesQuestion {
            series: "latency".to_owned(),
            from: now.0.saturating_sub(60_000),
            step: Some(60_000),
            percentiles: true,
            ..question.clone()
        };
        let (measured, latency) = (client.series(&question).await?, client.series(&latency).await?);
        let looks = Looks::new(&measured, &latency);
        if output.json {
            output.json_line(&looks.0);
        } else {
            if screen.is_some() {
                Screen::home();
                output.line(&format!("{now}   {}", looks.headline(&measured)));
                output.line("");
            }
            output.table(&looks.table(&measured), "No member has measured anything yet.");
            if let Some(screen) = &screen {
                screen.rest();
            }
        }
        if once || is_unread() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// The newest number of each series, by member.
struct Looks(BTreeMap<MemberName, BTreeMap<String, f64>>);

impl Looks {
    fn new(measured: &Measured, latency: &Measured) -> Self {
        let mut looks: BTreeMap<MemberName, BTreeMap<String, f64>> = BTreeMap::new();
        let newest = |series: &MeasuredSeries, of: fn(&MeasuredRow) -> Option<f64>| {
            Some((series.member.clone()?, of(series.rows.last()?)?))
        };
        for series in &measured.series {
            let of = match series.kind.as_str() {
                "gauge" => |row: &MeasuredRow| Some(row.last),
                _ => |row: &MeasuredRow| Some(row.avg),
            };
            if let Some((member, value)) = newest(series, of) {
                looks.entry(member).or_default().insert(series.series.to_string(), value);
            }
        }
        for series in &latency.series {
            for (name, of) in [
                ("latency.p50", (|row| row.percentiles.map(|p| p.p50)) as fn(&MeasuredRow) -> _),
                ("latency.p95", |row| row.percentiles.map(|p| p.p95)),
            ] {
                if let Some((member, value)) = newest(series, of) {
                    looks.entry(member).or_default().insert(name.to_owned(), value);
                }
            }
        }
        Self(looks)
    }

    fn sum(&self, series: &str) -> f64 {
        self.0.values().filter_map(|of| of.get(series)).sum()
    }

    fn headline(&self, measured: &Measured) -> String {
        format!(
            "{} of {}   {:.1} requests/s   {:.1} errors/s   in {}/s   out {}/s",
            self.0.len(),
            count(measured.asked.len() as u64, "member"),
            self.sum("requests"),
            self.sum("errors"),
            bytes(self.sum("net.in") as u64),
            bytes(self.sum("net.out") as u64),
        )
    }

    fn table(&self, measured: &Measured) -> Table {
        let mut table = Table::new(&[
            "MEMBER",
            ">CPU",
            ">LOAD",
            ">MEMORY",
            ">DISK",
            ">IN/S",
            ">OUT/S",
            ">REQUESTS/S",
            ">ERRORS/S",
            ">P50",
            ">P95",
            ">OPEN",
        ]);
        for (member, of) in &self.0 {
            let get = |name: &str| of.get(name).copied();
            let text = |value: Option<f64>, show: fn(f64) -> String| {
                Cell::from(value.map_or_else(|| "-".to_owned(), show))
            };
            let share = |value: Option<f64>, warn: f64, bad: f64| {
                let paint = match value {
                    Some(v) if v >= bad => Paint::Bad,
                    Some(v) if v >= warn => Paint::Warn,
                    _ => Paint::Plain,
                };
                Cell::new(paint, value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1} %")))
            };
            let memory = get("mem.used").zip(get("mem.total")).map(|(u, t)| u / t * 100.0);
            // The fullest of its file systems.
            let disks = of.iter().filter(|(name, _)| name.starts_with("disk.used "));
            let fullest = disks.map(|(_, used)| *used).reduce(f64::max);
            let millis = |v: f64| format!("{:.1} ms", v * 1_000.0);
            let tenth = |v: f64| format!("{v:.1}");
            let size = |v: f64| bytes(v.max(0.0) as u64);
            table.row([
                Cell::from(member.as_str()),
                share(get("cpu"), 80.0, 95.0),
                text(get("load"), |v| format!("{v:.2}")),
                share(memory, 85.0, 95.0),
                share(fullest, 80.0, 95.0),
                text(get("net.in"), size),
                text(get("net.out"), size),
                text(get("requests"), tenth),
                text(get("errors"), tenth),
                text(get("latency.p50"), millis),
                text(get("latency.p95"), millis),
                text(get("connections"), |v| format!("{v:.0}")),
            ]);
        }
        for silent in &measured.silent {
            let why = Cell::new(Paint::Bad, silent.why.to_lowercase());
            table.row([Cell::new(Paint::Bad, silent.member.as_str()), why]);
        }
        table
    }
}

/// A screen of its own, given back when it is dropped.
struct Screen;

impl Screen {
    fn open() -> Self {
        Self::write("\x1b[?1049h\x1b[?25l");
        Self
    }

    /// From the upper left corner.
    fn home() {
        Self::write("\x1b[H\x1b[J");
    }

    /// What is left of the screen.
    fn rest(&self) {
        Self::write("\nCtrl-C ends it.");
    }

    fn write(text: &str) {
        let mut out = std::io::stdout().lock();
        // A terminal that is gone ends the command by its next line.
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::write("\x1b[?25h\x1b[?1049l");
    }
}

/// What is wanted of the logs of events.
#[derive(Default)]
pub(super) struct Log {
    pub all: bool,
    pub member: Option<MemberName>,
    pub since: Option<Duration>,
    pub kinds: Vec<EventKind>,
    pub severity: Option<Severity>,
    pub app: Option<AppName>,
    pub about: Option<MemberName>,
    pub follow: bool,
}

/// Events of the logs of one member or of all, by time.
pub(super) async fn events(
    client: &Client,
    output: &Output,
    log: Log,
) -> Result<ExitCode, Refusal> {
    let follow = log.follow;
    let question = EventsQuestion {
        since: log.since.map(|since| WallTime(now().0.saturating_sub(ms(since)))),
        kinds: log.kinds,
        severity: log.severity,
        app: log.app,
        about: log.about,
        follow,
        ..EventsQuestion::default()
    };
    let member = match (log.all, log.member) {
        (true, _) => None,
        (false, Some(member)) => Some(member),
        (false, None) => MemberName::parse(&client.view().await?.me).ok(),
    };
    let names = member.is_none();
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    let ask = Ask::Events(question);
    let heard = client.services(member, &ask, |Heard { member, told }| {
        match told {
            Told::Event(logged) if follow => print(&member, &logged, names, output),
            Told::Event(logged) => lines.push((member, *logged)),
            Told::Refused(refusal) => {
                let text = format!("Without {member}: {}", refusal.why);
                if follow { output::note(&text) } else { refused.push(text) }
            }
            _ => {}
        }
        !is_unread()
    });
    heard.await?;
    if !refused.is_empty() && lines.is_empty() && !names {
        return Err(Refusal::new(
            Reason::Failed,
            "No events were read.",
            refused.join(" "),
            "See `althing members` for who is there.",
        ));
    }
    lines.sort_by(|(a, x), (b, y)| (x.event.at, a, x.id).cmp(&(y.event.at, b, y.id)));
    if output.json && !follow {
        let rows: Vec<_> = lines.iter().map(|(member, logged)| row(member, logged)).collect();
        output.document(&rows);
    } else {
        if lines.is_empty() && !follow {
            output.line("Nothing of that kind is in the log.");
        }
        lines.iter().for_each(|(member, logged)| print(member, logged, names, output));
    }
    refused.iter().for_each(|text| output::note(text));
    Ok(ExitCode::SUCCESS)
}

/// What is told by several members within so long is one and the same.
const SAME_MS: u64 = 10_000;

/// The story of a member, an application or a rule: what happened, and what it followed from.
pub(super) async fn why(
    client: &Client,
    output: &Output,
    of: &str,
    since: Duration,
) -> Result<ExitCode, Refusal> {
    let question = EventsQuestion {
        since: Some(WallTime(now().0.saturating_sub(ms(since)))),
        limit: usize::MAX,
        ..EventsQuestion::default()
    };
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    let ask = Ask::Events(question);
    let heard = client.services(None, &ask, |Heard { member, told }| {
        match told {
            Told::Event(logged) => all.push((member, *logged)),
            Told::Refused(refusal) => missing.push(format!("Without {member}: {}", refusal.why)),
            _ => {}
        }
        true
    });
    heard.await?;
    let story = story(all, of);
    if output.json {
        let rows: Vec<_> = story
            .iter()
            .map(|(members, logged)| {
                let mut told = row(&members[0], logged);
                told["told_by"] = members.iter().map(|m| m.as_str()).collect::<Vec<_>>().into();
                told
            })
            .collect();
        output.document(&rows);
    } else {
        let mut begun = BTreeSet::new();
        for (members, logged) in &story {
            let names: Vec<&str> = members.iter().map(|m| m.as_str()).collect();
            let follows = match &logged.event.episode {
                Some(episode) => !begun.insert(episode.clone()),
                None => logged.cause.is_some(),
            };
            let mark = if follows { "  \u{2192} " } else { "" };
            show::print_event(&logged.event, &format!("{mark}{}: ", names.join(", ")), output);
        }
        if story.is_empty() {
            output.line(&format!("Nothing in the logs is about {of} in that time."));
        }
    }
    missing.iter().for_each(|text| output::note(text));
    Ok(ExitCode::SUCCESS)
}

/// What of `all` is about `of`, by time, with what it followed from and what followed; each
/// with who tells it.
fn story(mut all: Vec<(MemberName, Logged)>, of: &str) -> Vec<(Vec<MemberName>, Logged)> {
    all.sort_by(|(a, x), (b, y)| (x.event.at, a, x.id).cmp(&(y.event.at, b, y.id)));
    let is_named = |logged: &Logged| {
        let event = &logged.event;
        // An application, a rule, a member and a time, with hyphens between and within.
        let of_rule = |episode: &String| format!("-{episode}-").contains(&format!("-{of}-"));
        event.app.as_ref().is_some_and(|app| app.as_str() == of)
            || event.member.as_ref().is_some_and(|member| member.as_str() == of)
            || event.episode.as_ref().is_some_and(of_rule)
            || event.asked.as_ref().is_some_and(|asked| asked.operator.as_str() == of)
    };
    let mut episodes = BTreeSet::new();
    let mut single = BTreeSet::new();
    for (member, logged) in all.iter().filter(|(_, logged)| is_named(logged)) {
        episodes.extend(logged.event.episode.clone());
        single
            .extend(std::iter::once(logged.id).chain(logged.cause).map(|id| (member.clone(), id)));
    }
    let mut story: Vec<(Vec<MemberName>, Logged)> = Vec::new();
    for (member, logged) in all {
        let of_episode = logged.event.episode.as_ref().is_some_and(|e| episodes.contains(e));
        if !of_episode && !single.contains(&(member.clone(), logged.id)) {
            continue;
        }
        let is_same = |(members, told): &&mut (Vec<MemberName>, Logged)| {
            told.event.text == logged.event.text
                && told.event.kind == logged.event.kind
                && logged.event.at.0 - told.event.at.0 <= SAME_MS
                && !members.contains(&member)
        };
        match story.iter_mut().rev().take(64).find(is_same) {
            Some((members, _)) => members.push(member),
            None => story.push((vec![member], logged)),
        }
    }
    story
}

fn row(member: &MemberName, logged: &Logged) -> serde_json::Value {
    // Our own types: they always serialise.
    let mut row = serde_json::to_value(logged).unwrap_or_default();
    row["told_by"] = member.as_str().into();
    row
}

fn print(member: &MemberName, logged: &Logged, names: bool, output: &Output) {
    if output.json {
        output.json_line(&row(member, logged));
    } else {
        let of = if names { format!("{member}: ") } else { String::new() };
        show::print_event(&logged.event, &of, output);
    }
}

pub(super) fn now() -> WallTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(ms(now))
}

pub(super) fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{OperatorName, metric::Series, operator::AskedBy},
        member::event::Event,
    };

    fn row(last: f64, avg: f64) -> MeasuredRow {
        MeasuredRow {
            at: WallTime(0),
            members: 1,
            missing: vec![],
            avg,
            min: avg,
            max: last,
            rms: avg,
            total: avg,
            last,
            weight: 1.0,
            percentiles: None,
        }
    }

    fn series(name: &str, kind: &str, unit: &str, rows: Vec<MeasuredRow>) -> MeasuredSeries {
        let series = Series::parse(name).unwrap();
        let member = MemberName::parse("alpha").ok();
        MeasuredSeries { series, member, unit: unit.into(), kind: kind.into(), rows }
    }

    #[test]
    fn a_story_has_what_it_followed_from_and_each_thing_once() {
        let told = |by: &str, id: u64, at: u64, text: &str| {
            let event = Event {
                number: id,
                at: WallTime(at),
                severity: Severity::Info,
                kind: EventKind::Rule,
                member: None,
                app: None,
                text: text.into(),
                user: None,
                cause: None,
                episode: None,
                evidence: None,
                asked: None,
            };
            (MemberName::parse(by).unwrap(), Logged { id, cause: None, event })
        };
        let mut rule = told("b", 1, 1_000, "rule hot acts");
        rule.1.event.episode = Some("web-hot-b-1000".into());
        let mut out = told("b", 2, 2_000, "it is out of service");
        out.1.event.episode.clone_from(&rule.1.event.episode);
        let mut down = told("a", 7, 3_000, "b is down");
        down.1.event.member = MemberName::parse("b").ok();
        down.1.cause = Some(6);
        let mut again = told("c", 9, 3_500, "b is down");
        again.1.event.member.clone_from(&down.1.event.member);
        let cause = told("a", 6, 2_900, "nobody hears of it");
        let mut other = told("a", 8, 9_000, "all is well");
        other.1.event.asked = Some(AskedBy {
            operator: OperatorName::parse("alice").unwrap(),
            at: MemberName::parse("a").unwrap(),
        });
        let all = vec![again, down, rule, other, cause, out];
        let texts = |of: &str| -> Vec<(String, usize)> {
            let story = story(all.clone(), of).into_iter();
            story.map(|(by, logged)| (logged.event.text, by.len())).collect()
        };
        let about = |story: &[(&str, usize)]| -> Vec<(String, usize)> {
            story.iter().map(|(text, by)| ((*text).to_owned(), *by)).collect()
        };
        let episode = [("rule hot acts", 1), ("it is out of service", 1)];
        assert_eq!(texts("hot"), about(&episode));
        let mut whole = episode.to_vec();
        whole.extend([("nobody hears of it", 1), ("b is down", 2)]);
        assert_eq!(texts("b"), about(&whole));
        assert_eq!(texts("alice"), about(&[("all is well", 1)]), "what an operator asked for");
        assert!(texts("nobody").is_empty());
    }

    #[test]
    fn numbers_have_their_unit() {
        let of = |kind: &str, unit: &str| series("cpu", kind, unit, vec![]);
        assert_eq!(number(&of("gauge", "%"), 12.34), "12.3 %");
        assert_eq!(number(&of("counter", "B"), 2_048.0), "2.0 KiB/s");
        assert_eq!(number(&of("histogram", "s"), 0.0123), "12.3 ms");
        assert_eq!(number(&of("counter", ""), 0.5), "0.50/s");
        assert_eq!(number(&of("gauge", ""), 3.0), "3");
    }

    #[test]
    fn a_look_has_the_newest_level_and_the_average_rate() {
        let measured = Measured {
            from: WallTime(0),
            to: WallTime(20_000),
            step: 10_000,
            asked: vec![],
            silent: vec![],
            series: vec![
                series("cpu", "gauge", "%", vec![row(1.0, 1.0), row(90.0, 50.0)]),
                series("requests", "counter", "", vec![row(9.0, 7.0)]),
                series("load", "gauge", "", vec![]),
            ],
            cut: false,
        };
        let none = Measured { series: vec![], ..measured.clone() };
        let looks = Looks::new(&measured, &none);
        let of = &looks.0[&MemberName::parse("alpha").unwrap()];
        assert_eq!((of["cpu"], of["requests"], of.get("load")), (90.0, 7.0, None));
        assert_eq!(looks.sum("requests"), 7.0);
    }
}
