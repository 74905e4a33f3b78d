//! `althing rules test`: when rules would have acted, by what members recorded. Nothing is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::Serialize;

use super::{
    client::Client,
    output::{Output, Paint, is_unread, note},
    rules::{look, read},
    telemetry::{ms, now},
    units::{count, span},
};
use crate::{
    base::{
        AppName, MemberName, Reason, Refusal, RuleName, WallTime, limits::LOGGED_ANSWER_MAX,
        metric::Series,
    },
    member::event::EventKind,
    node::{
        Ask, Heard, Told,
        replay::{Moments, Recorded, Replayed, replay, replay_wide},
        telemetry::asking::EventsQuestion,
    },
    proto::{
        rule::{Rule, What, judge::Verdict, parse},
        telemetry::{Bucket, Grid, answer, rollup},
    },
};

/// The finest steps that are asked for, milliseconds: finer ones are not kept.
const STEP_MS: u64 = 1_000;
/// What is kept of percentiles is of whole minutes, milliseconds.
const MINUTE_MS: u64 = 60_000;
/// Series in one question.
const ASKED_MAX: usize = 32;
/// Rows that are taken from one member: more than there are of as many series as rules can name.
const ROWS_MAX: usize = 4_000_000;
/// Episodes of one rule on one member that are shown to people.
const SHOWN_MAX: usize = 10;

/// What is wanted.
pub(super) struct Wish {
    pub file: PathBuf,
    pub since: Duration,
    pub member: Option<MemberName>,
}

pub(super) async fn test(
    client: &Client,
    output: &Output,
    wish: &Wish,
) -> Result<ExitCode, Refusal> {
    let text = read(&wish.file)?;
    let found = look(&text);
    if !found.wrong.is_empty() {
        let file = wish.file.display().to_string();
        if output.json {
            output.document(&serde_json::json!({ "file": file, "wrong": found.wrong }));
        } else {
            found.wrong.iter().for_each(|wrong| note(&wrong.shown(&file, &text)));
        }
        return Ok(ExitCode::FAILURE);
    }
    let both = found.rules.iter().map(|one| (RuleName::parse(&one.name), parse(&one.rule)));
    // They were understood a moment ago.
    let rules: Vec<_> = both.filter_map(|(name, rule)| Some((name.ok()?, rule.ok()?))).collect();
    let wanted = Wanted::new(now(), wish.since, rules.iter().map(|(_, rule)| rule))?;
    let heard = wanted.gather(client, wish.member.as_ref()).await?;
    let moments = wanted.moments();
    let tested = Tested {
        from: moments.from,
        to: moments.to,
        step_ms: moments.step_ms,
        rules: rules
            .iter()
            .map(|rule| OneRule::new(rule, &heard, wish.member.is_none(), moments))
            .collect(),
        silent: heard.silent,
    };
    if output.json {
        output.document(&tested);
    } else {
        tested.show(output);
    }
    Ok(ExitCode::SUCCESS)
}

/// What members are asked for.
struct Wanted {
    now: WallTime,
    since: WallTime,
    numbers: Grid,
    distributions: Grid,
    series: BTreeSet<Series>,
    spreads: BTreeSet<Series>,
    events: Option<EventsQuestion>,
}

impl Wanted {
    fn new<'a>(
        now: WallTime,
        since: Duration,
        rules: impl Iterator<Item = &'a Rule>,
    ) -> Result<Self, Refusal> {
        let since = WallTime(now.0.saturating_sub(ms(since)));
        let (mut series, mut spreads) = (BTreeSet::new(), BTreeSet::new());
        let (mut kinds, mut longest) = (BTreeSet::new(), 0);
        for of in rules.flat_map(Rule::measured) {
            longest = longest.max(of.window_ms());
            match &of.what {
                What::Series(one) if of.is_spread() => drop(spreads.insert(one.clone())),
                What::Series(one) => {
                    series.insert(one.clone());
                    series.extend(of.total());
                }
                What::Events { kind, .. } => drop(kinds.insert(kind.clone())),
                What::From(_) => {
                    series.extend(of.sources().into_iter().flat_map(|sources| sources.series));
                }
            }
        }
        let grid = |before: u64, step| {
            rollup::grid(now, WallTime(since.0.saturating_sub(before)), now, step).ok_or_else(
                || {
                    Refusal::new(
                        Reason::Invalid,
                        "The rules were not tested.",
                        "That is no time, or longer than anything is kept.",
                        "Give a shorter --since.",
                    )
                },
            )
        };
        let known = |kind: String| serde_json::from_value::<EventKind>(kind.into()).ok();
        let kinds: Vec<EventKind> = kinds.into_iter().filter_map(known).collect();
        let events = (!kinds.is_empty()).then(|| EventsQuestion {
            since: Some(WallTime(since.0.saturating_sub(longest))),
            kinds,
            limit: LOGGED_ANSWER_MAX,
            ..EventsQuestion::default()
        });
        Ok(Self {
            now,
            since,
            numbers: grid(longest, STEP_MS)?,
            distributions: grid(longest + 2 * MINUTE_MS, MINUTE_MS)?,
            series,
            spreads,
            events,
        })
    }

    /// When is looked: at the ends of rows that are over.
    fn moments(&self) -> Moments {
        let step_ms = self.numbers.step_ms();
        let whole = |at: u64| at / step_ms * step_ms;
        let from = WallTime(whole(self.since.0 + step_ms - 1));
        Moments { from, to: WallTime(whole(self.now.0).max(from.0)), step_ms }
    }

    async fn gather(
        &self,
        client: &Client,
        member: Option<&MemberName>,
    ) -> Result<AllHeard, Refusal> {
        let mut all = AllHeard::default();
        for (series, grid, spreads) in
            [(&self.series, self.numbers, false), (&self.spreads, self.distributions, true)]
        {
            let names: Vec<String> = series.iter().map(Series::to_string).collect();
            for names in names.chunks(ASKED_MAX) {
                let ask = Ask::Series { pattern: names.join(";"), grid, spreads };
                all.ask(client, member, &ask, spreads).await?;
            }
        }
        if let Some(events) = &self.events {
            all.ask(client, member, &Ask::Events(events.clone()), false).await?;
        }
        // Where rules measure nothing it is all the same who says so.
        let view = client.view().await?;
        for one in view.members.iter().filter_map(|one| MemberName::parse(&one.name).ok()) {
            let is_meant = member.is_none_or(|member| *member == one);
            let is_asked = !self.series.is_empty() || !self.spreads.is_empty();
            if !is_meant || all.silent.contains_key(&one) {
                continue;
            }
            if !is_asked && self.events.is_none() {
                all.members.entry(one).or_default();
            } else if !all.members.contains_key(&one) {
                all.silent.insert(one, "It did not answer.".to_owned());
            }
        }
        for recorded in all.members.values_mut() {
            let all = recorded.series.values_mut().chain(recorded.spreads.values_mut());
            all.for_each(|buckets| buckets.sort_by_key(|bucket| bucket.start));
        }
        Ok(all)
    }
}

/// What members told.
#[derive(Default)]
struct AllHeard {
    members: BTreeMap<MemberName, Recorded>,
    /// Who did not, and why.
    silent: BTreeMap<MemberName, String>,
    rows: BTreeMap<MemberName, usize>,
}

impl AllHeard {
    async fn ask(
        &mut self,
        client: &Client,
        member: Option<&MemberName>,
        ask: &Ask,
        spreads: bool,
    ) -> Result<(), Refusal> {
        let mut done = BTreeSet::new();
        let heard = client.services(member.cloned(), ask, |Heard { member, told }| {
            if matches!(told, Told::Done) {
                done.insert(member.clone());
            }
            self.take(member, told, spreads);
            !is_unread()
        });
        heard.await?;
        self.end_of_answers(&done);
        Ok(())
    }

    /// A part is no record: whoever has not said all of it is left out.
    fn end_of_answers(&mut self, done: &BTreeSet<MemberName>) {
        for (member, recorded) in &self.members {
            let why = if !done.contains(member) {
                "It did not answer to the end."
            } else if recorded.events.len() >= LOGGED_ANSWER_MAX {
                "It has more such events than are told at once: give a shorter --since."
            } else {
                continue;
            };
            self.silent.entry(member.clone()).or_insert_with(|| why.to_owned());
        }
        let silent = &self.silent;
        self.members.retain(|member, _| !silent.contains_key(member));
    }

    fn take(&mut self, member: MemberName, told: Told, spreads: bool) {
        match told {
            Told::Series { series, buckets } => {
                // A newer member may measure what this one has no name for.
                let Ok(series) = Series::parse(&series) else { return };
                let bytes = STANDARD_NO_PAD.decode(buckets).unwrap_or_default();
                let Ok(read) = answer::decode(&bytes).collect::<Result<Vec<Bucket>, _>>() else {
                    self.silent.insert(member, "What it said can't be read.".to_owned());
                    return;
                };
                let rows = self.rows.entry(member.clone()).or_default();
                *rows += read.len();
                if *rows > ROWS_MAX {
                    self.silent.insert(member, "It said too much.".to_owned());
                    return;
                }
                let recorded = self.members.entry(member).or_default();
                let of = if spreads { &mut recorded.spreads } else { &mut recorded.series };
                of.entry(series).or_default().extend(read);
            }
            Told::Event(logged) => {
                let event = logged.event;
                let kind = serde_json::to_value(event.kind).unwrap_or_default();
                let kind = kind.as_str().unwrap_or_default().to_owned();
                let events = &mut self.members.entry(member).or_default().events;
                if events.len() < LOGGED_ANSWER_MAX {
                    events.push((event.at, kind, event.app));
                }
            }
            Told::Done => drop(self.members.entry(member).or_default()),
            Told::Refused(refusal) => drop(self.silent.insert(member, refusal.why)),
            _ => {}
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Tested {
    from: WallTime,
    to: WallTime,
    step_ms: u64,
    rules: Vec<OneRule>,
    silent: BTreeMap<MemberName, String>,
}

#[derive(Debug, Serialize)]
struct OneRule {
    name: RuleName,
    rule: String,
    /// Why it was not tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<String>,
    /// What came of it, where it is about the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<OneMember>,
    members: BTreeMap<MemberName, OneMember>,
}

#[derive(Debug, Default, Serialize)]
struct OneMember {
    episodes: Vec<Span>,
    /// How often it would have begun, and `cooldown` or `at-most` said no.
    held_back: usize,
    /// At how many moments was looked, and at how many of them it was not known.
    looks: usize,
    unknown: usize,
}

/// From a beginning to its end.
#[derive(Debug, Serialize)]
struct Span {
    began: WallTime,
    /// None if it would still go on.
    ended: Option<WallTime>,
    why: String,
    /// How often it would have been said again.
    repeats: usize,
}

impl OneRule {
    fn new(
        (name, rule): &(RuleName, Rule),
        AllHeard { members, silent, .. }: &AllHeard,
        is_of_all: bool,
        moments: Moments,
    ) -> Self {
        let mut one = Self {
            name: name.clone(),
            rule: rule.to_string(),
            left_out: None,
            cluster: None,
            members: BTreeMap::new(),
        };
        // Any will do: the names of episodes are not shown.
        let Ok(app) = AppName::parse("tested") else { return one };
        if rule.is_wide() {
            // What is not known of all acts on nobody.
            if !is_of_all {
                one.left_out = Some("it is about the cluster: leave out --member".to_owned());
            } else if let Some(member) = silent.keys().next() {
                let why = "it is about the cluster, and this member did not answer to the end:";
                one.left_out = Some(format!("{why} {member}"));
            } else {
                let came = replay_wide(&app, (name, rule), members.values(), moments);
                one.cluster = Some(OneMember::new(came));
            }
            return one;
        }
        one.members = members
            .iter()
            .map(|(member, recorded)| {
                let came = replay(member.as_str(), &app, (name, rule), recorded, moments);
                (member.clone(), OneMember::new(came))
            })
            .collect();
        one
    }

    fn show(&self, output: &Output, step_ms: u64) {
        output.painted(Paint::Bold, self.name.as_str(), &format!("  {}", self.rule));
        if let Some(why) = &self.left_out {
            output.line(&format!("  not tested: {why}"));
        }
        let cluster = self.cluster.iter().map(|came| ("the cluster", came));
        let members = self.members.iter().map(|(member, came)| (member.as_str(), came));
        for (whose, came) in cluster.chain(members) {
            output.line(&format!("  {whose}: {}", came.headline()));
            for episode in came.episodes.iter().take(SHOWN_MAX) {
                output.line(&format!("    {}", episode.shown(step_ms)));
            }
            if came.episodes.len() > SHOWN_MAX {
                output.line(&format!("    and {} more", came.episodes.len() - SHOWN_MAX));
            }
        }
    }
}

impl OneMember {
    fn new(replayed: Replayed) -> Self {
        let Replayed { due, looks, unknown } = replayed;
        let mut one = Self { looks, unknown, ..Self::default() };
        for (at, due) in due {
            match (due.verdict, one.episodes.last_mut()) {
                (Verdict::Begin, _) => {
                    one.episodes.push(Span { began: at, ended: None, why: due.why, repeats: 0 });
                }
                (Verdict::End, Some(last)) => last.ended = Some(at),
                (Verdict::Repeat, Some(last)) => last.repeats += 1,
                (Verdict::HeldBack, _) => one.held_back += 1,
                (Verdict::End | Verdict::Repeat, None) => {}
            }
        }
        one
    }

    fn headline(&self) -> String {
        let mut text = match self.episodes.len() {
            0 => "never".to_owned(),
            times => count(times as u64, "time"),
        };
        if self.held_back > 0 {
            text += &format!(", and held back {}", count(self.held_back as u64, "time"));
        }
        let share = self.unknown * 100 / self.looks.max(1);
        if share > 0 {
            text += &format!(" (not known for {share} % of the time)");
        }
        text
    }
}

impl Span {
    fn shown(&self, step_ms: u64) -> String {
        let Self { began, ended, why, repeats } = self;
        let lasted = match ended {
            Some(ended) => {
                let lasted = span(ended.0.saturating_sub(began.0).max(step_ms));
                format!("{began} to {ended}, {lasted}")
            }
            None => format!("{began}, and would go on"),
        };
        let again = match repeats {
            0 => String::new(),
            times => format!(", said again {}", count(*times as u64, "time")),
        };
        format!("{lasted}: {why}{again}")
    }
}

impl Tested {
    fn show(&self, output: &Output) {
        if self.rules.is_empty() {
            output.line("It has no rules.");
            return;
        }
        self.rules.iter().for_each(|rule| rule.show(output, self.step_ms));
        let (from, to, step) = (self.from, self.to, span(self.step_ms));
        output.line(&format!("Looked at from {from} to {to}, every {step}."));
        for (member, why) in &self.silent {
            note(&format!("Without {member}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::telemetry::{Sample, Summary};

    const NOW: WallTime = WallTime(1_760_000_040_000);

    fn rule(text: &str) -> (RuleName, Rule) {
        (RuleName::parse("hot").unwrap(), parse(text).unwrap())
    }

    fn wanted(texts: &[&str], since: u64) -> Wanted {
        let rules: Vec<_> = texts.iter().map(|text| rule(text).1).collect();
        Wanted::new(NOW, Duration::from_secs(since), rules.iter()).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_what_the_rules_measure_and_no_more() {
        let wanted = wanted(
            &[
                "when avg(cpu, 5m) > 90% or mem.used > 80% then log",
                "when p99(latency shop, 10m) > 1s then log",
                "when count(events service, 1h) > 3 then log",
                "when cluster avg(load, 30m) > 3 then log",
                "when share(requests from MX|CA, 10m) > 60% then log",
                "when cluster share(requests from DE, 30m) > 60% then log",
            ],
            600,
        );
        let names = |all: &BTreeSet<Series>| all.iter().map(Series::to_string).collect::<Vec<_>>();
        let mut expected = ["cpu", "load", "mem.total", "mem.used"].map(str::to_owned).to_vec();
        for what in ["from", "elsewhere", "unknown"] {
            expected.extend(["CA|MX", "DE"].map(|label| format!("requests.{what} {label}")));
        }
        assert_eq!(names(&wanted.series), expected);
        assert_eq!(names(&wanted.spreads), ["latency shop"]);
        let events = wanted.events.as_ref().unwrap();
        assert_eq!(events.kinds, [EventKind::Service]);
        // What the longest window needs lies before the first look.
        let first = NOW.0 - 600_000;
        assert_eq!(events.since, Some(WallTime(first - 3_600_000)));
        assert!(wanted.numbers.from().0 <= first - 3_600_000);
        assert!(wanted.numbers.from().0 > first - 2 * 3_600_000);
        assert!(wanted.distributions.step_ms() >= MINUTE_MS);
        let moments = wanted.moments();
        assert!(moments.from.0 >= first && moments.from.0 < first + moments.step_ms);
        assert_eq!((moments.from.0 % moments.step_ms, moments.to.0 % moments.step_ms), (0, 0));
        assert!(moments.to <= NOW && moments.to.0 + moments.step_ms > NOW.0);
    }

    #[test]
    fn what_members_tell_is_put_together_and_who_is_silent_is_named() {
        let name = |text: &str| MemberName::parse(text).unwrap();
        let wanted = wanted(&["when cpu > 90% for 5s then log"], 60);
        let moments = wanted.moments();
        let mut all = AllHeard::default();
        let buckets: Vec<Bucket> = (0..=60)
            .map(|n| {
                // The one that is over when it is looked for the first time, and so on.
                let start = WallTime(moments.from.0 + n * 1_000 - 1_000);
                let value = if (10..30).contains(&n) { 95.0 } else { 5.0 };
                let summary = Summary::of(start, Sample::new(value).unwrap());
                Bucket { start, span_ms: 1_000, aggregate: summary.into() }
            })
            .collect();
        let told = |buckets: &[Bucket]| Told::Series {
            series: "cpu".to_owned(),
            buckets: STANDARD_NO_PAD.encode(answer::encode(buckets)),
        };
        all.take(name("a"), told(&buckets[..25]), false);
        all.take(name("a"), told(&buckets[25..]), false);
        all.take(name("a"), Told::Done, false);
        all.take(name("b"), Told::Done, false);
        let refusal = Refusal::new(Reason::Failed, "No.", "It is too old.", "Wait.");
        all.take(name("c"), Told::Refused(refusal), false);
        all.take(name("d"), Told::Series { series: "cpu".into(), buckets: "?".into() }, false);
        // One that breaks off in the middle is not judged by what it said before.
        all.take(name("e"), told(&buckets[..25]), false);
        all.end_of_answers(&[name("a"), name("b")].into());
        assert_eq!(all.silent.keys().map(MemberName::as_str).collect::<Vec<_>>(), ["c", "d", "e"]);

        let one = OneRule::new(&rule("when cpu > 90% for 5s then log"), &all, true, moments);
        let a = &one.members[&name("a")];
        assert_eq!(a.headline(), "1 time");
        let began = WallTime(moments.from.0 + 15_000);
        let ended = WallTime(moments.from.0 + 30_000);
        let shown = format!("{began} to {ended}, 15s: cpu > 90% (95%)");
        assert_eq!(a.episodes[0].shown(1_000), shown);
        assert_eq!(one.members[&name("b")].headline(), "never (not known for 100 % of the time)");
        assert_eq!(one.members.len(), 2);

        let wide = |all: &AllHeard, is_of_all| {
            OneRule::new(&rule("when any cpu > 90% then in 1"), all, is_of_all, moments)
        };
        let left_out = wide(&all, true).left_out.unwrap();
        assert!(left_out.ends_with("to the end: c"), "{left_out}");
        all.silent.clear();
        assert!(wide(&all, false).left_out.unwrap().contains("--member"));
        let cluster = wide(&all, true);
        assert!(cluster.left_out.is_none() && cluster.members.is_empty());
        assert_eq!(cluster.cluster.unwrap().episodes.len(), 1);
    }
}
