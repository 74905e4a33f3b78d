//! What one rule does in time to come, as far as nothing but times decides it.
//!
//! The judge of today is walked through that time, by a clock that is made up. It knows what time
//! it is and nothing that is measured, which is unknown to it and so begins nothing and ends
//! nothing. It does not look every second, only when something may turn out differently: when a
//! time may begin or end, when a span is over that began then, and in the second after it.
//!
//! Whether it is sure what it finds is asked in the same way: once more with all that is measured
//! as it has to be for the rule to act, and as it has to be for its end.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Condition, During, Held, Measured, Options, Rule,
    judge::{self, Agreed, Number, Readings, Verdict},
};
use crate::base::{Time, WallTime, conduct};

/// From so long before now on it is looked at for how long a condition has held, milliseconds: what
/// is said of days of the week has been so once.
const BEFORE_MS: u64 = 8 * 86_400_000;
/// So many beginnings and ends in so long, milliseconds, are none that times make, which change
/// once a minute: one holds while the other does, and there is no end of it.
const TURNS_MAX: (usize, u64) = (64, 600_000);
/// Beginnings and ends that one rule is followed through: more than sixteen times make in 400 days.
const FOLLOWED_MAX: usize = 20_000;
/// Clocks everywhere show other times than UTC by so many minutes or a multiple, and are changed
/// when UTC shows such a one.
const QUARTER: u64 = 15;
const MINUTE_MS: u64 = 60_000;
/// How often judges look, milliseconds.
const LOOK_MS: u64 = 1_000;

/// What is known of a rule before: of its last episode, if it is one of this sentence.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    began: Option<u64>,
    ended: Option<u64>,
    beginnings: Vec<u64>,
}

impl From<&conduct::Episode> for Before {
    fn from(episode: &conduct::Episode) -> Self {
        Self {
            began: Some(episode.began.0).filter(|_| episode.is_open()),
            ended: episode.ended.map(|at| at.0),
            beginnings: episode.beginnings.iter().map(|at| at.0).collect(),
        }
    }
}

impl Before {
    fn agreed(&self) -> Agreed {
        Agreed {
            began: self.began.map(time),
            said: None,
            ended: self.ended.map(time),
            beginnings: self.beginnings.iter().copied().map(time).collect(),
        }
    }
}

fn time(ms: u64) -> Time {
    Time(ms.saturating_mul(1_000))
}

/// Whether a rule acts at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acting {
    /// It does, whatever is measured.
    Acts,
    /// It does not, whatever is measured.
    Rests,
    /// That depends on what is measured.
    Depends,
}

/// What a rule does, by time alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Course {
    /// When it begins (true) and ends after now, in order.
    pub turns: Vec<(WallTime, bool)>,
    /// Since when it acts at the moment that was asked for, if it does by time alone.
    pub since: Option<WallTime>,
    /// Whether that is sure.
    pub acting: Acting,
}

impl Course {
    /// The course of `rule`, which is `silenced` until then if it is, from `now` to `to`, and
    /// whether it acts `at` a moment between these. None if it begins and ends over and over.
    pub fn of(
        rule: &Rule,
        before: &Before,
        silenced: Option<WallTime>,
        now: WallTime,
        at: WallTime,
        to: WallTime,
    ) -> Option<Self> {
        let mut turns = Vec::new();
        walk(rule, before, now.0, to.0, |at, begins| {
            turns.push((WallTime(at), begins));
            is_steady(&turns)
        });
        if !is_steady(&turns) {
            return None;
        }
        let last = turns.iter().rev().find(|(turn, _)| *turn <= at);
        let since = match last {
            Some((turn, begins)) => begins.then_some(*turn),
            None => before.began.map(WallTime),
        };
        let silenced = silenced.map(|until| until.0);
        let asked = Asked { rule, before, silenced, now: now.0, at: at.0 };
        let acting = match since {
            _ if rule.measured().is_empty() => {
                if since.is_some() {
                    Acting::Acts
                } else {
                    Acting::Rests
                }
            }
            Some(since) if asked.may_be_over(since.0) || asked.may_be_early(since.0) => {
                Acting::Depends
            }
            Some(_) => Acting::Acts,
            None if asked.may_act() => Acting::Depends,
            None => Acting::Rests,
        };
        Some(Self { turns, since, acting })
    }
}

/// Whether the last of them are no more than times make.
fn is_steady(turns: &[(WallTime, bool)]) -> bool {
    let first = turns.len().checked_sub(TURNS_MAX.0).map(|at| turns[at].0);
    let last = turns.last().map(|(at, _)| at.0);
    let is_slow = first.zip(last).is_none_or(|(first, last)| last - first.0 > TURNS_MAX.1);
    is_slow && turns.len() < FOLLOWED_MAX
}

/// A rule of which something is measured, and a moment.
struct Asked<'a> {
    rule: &'a Rule,
    before: &'a Before,
    silenced: Option<u64>,
    now: u64,
    at: u64,
}

impl Asked<'_> {
    /// The rule if all that is measured is as its beginning needs it, or (false) as its end does.
    fn leaning(&self, to_act: bool) -> Rule {
        let lean = |held: &Held, value| Held {
            condition: bound(&held.condition, value),
            lasting: held.lasting,
        };
        Rule {
            when: lean(&self.rule.when, to_act),
            until: self.rule.until.as_ref().map(|until| lean(until, !to_act)),
            // What was not is no reason to hold anything back.
            options: if to_act { Options::default() } else { self.rule.options },
            ..self.rule.clone()
        }
    }

    /// Whether it may act at the moment, though it does not by time alone.
    fn may_act(&self) -> bool {
        let mut turns = Vec::new();
        walk(&self.leaning(true), self.before, self.now, self.at, |at, begins| {
            turns.push((WallTime(at), begins));
            is_steady(&turns)
        });
        let acts = turns.last().map_or(self.before.began.is_some(), |(_, begins)| *begins);
        acts || !is_steady(&turns)
    }

    /// Whether what acts since then by time alone may be over at the moment.
    fn may_be_over(&self, since: u64) -> bool {
        if self.at <= self.now {
            return false; // it is as it is
        }
        let is_under_way = self.before.began == Some(since);
        let begun = Before { began: Some(since), ..Before::default() };
        let (before, from) = if is_under_way {
            (self.before, self.now)
        } else {
            (&begun, since.saturating_add(LOOK_MS))
        };
        let mut is_over = false;
        walk(&self.leaning(false), before, from, self.at, |_, begins| {
            is_over |= !begins;
            !is_over
        });
        is_over
    }

    /// Whether what is measured may make it begin before that, so that `cooldown` or `at-most`
    /// hold it back then, or that it has begun in a silence and brings nobody in.
    fn may_be_early(&self, since: u64) -> bool {
        let Options { cooldown, at_most, .. } = self.rule.options;
        if since <= self.now {
            return false;
        }
        let to = match self.silenced {
            _ if cooldown.is_some() || at_most.is_some() => since - 1,
            Some(until) if self.now < until && until <= since => until - 1,
            _ => return false,
        };
        let mut is_early = false;
        walk(&self.leaning(true), self.before, self.now, to, |_, begins| {
            is_early |= begins;
            !is_early
        });
        is_early
    }
}

/// `condition` without what is measured: what is left is true wherever it may be (or, for `false`,
/// nowhere but where it has to be).
fn bound(condition: &Condition, value: bool) -> Condition {
    let each = |all: &[Condition]| all.iter().map(|one| bound(one, value)).collect();
    match condition {
        Condition::All(all) => Condition::All(each(all)),
        Condition::Any(all) => Condition::Any(each(all)),
        Condition::Not(inner) => Condition::Not(Box::new(bound(inner, !value))),
        // All of nothing is true, one of nothing is not.
        Condition::Compare(_) if value => Condition::All(Vec::new()),
        Condition::Compare(_) => Condition::Any(Vec::new()),
        Condition::During(during) => Condition::During(during.clone()),
    }
}

/// Walks from `now` up to and with `to`, and tells `each` beginning (true) and end until that says
/// false. Before that it finds out for how long what has to last has lasted.
fn walk(rule: &Rule, before: &Before, now: u64, to: u64, each: impl FnMut(u64, bool) -> bool) {
    let mut walk = Walk::new(rule, before);
    let earliest = now.saturating_sub(BEFORE_MS);
    let mut patient = rule.clone();
    let from = match (before.began, &mut patient.until) {
        // It ends at once or not yet.
        (Some(_), None) => now,
        (Some(began), Some(until)) => {
            until.lasting = Duration::MAX;
            earliest.max(began.saturating_add(LOOK_MS))
        }
        (None, _) => {
            patient.when.lasting = Duration::MAX;
            before.ended.map_or(earliest, |ended| earliest.max(ended.saturating_add(LOOK_MS)))
        }
    };
    walk.go(&patient, from, now, |_, _| true);
    walk.episode.agree(before.agreed());
    walk.go(rule, now, to.saturating_add(1), each);
}

/// A judge on its way.
struct Walk {
    episode: judge::Episode,
    /// The minutes of a quarter of an hour at which a time may begin or end.
    minutes: BTreeSet<u64>,
    /// What may be over some time after something has turned, milliseconds.
    spans: BTreeSet<u64>,
    /// When it looks beside those minutes.
    more: BTreeSet<u64>,
    /// What held when it looked last.
    held: Option<[Option<bool>; 2]>,
}

impl Walk {
    fn new(rule: &Rule, before: &Before) -> Self {
        let Options { cooldown, at_most, .. } = rule.options;
        let within = at_most.map(|(_, within)| within);
        let until = rule.until.as_ref();
        let lasting = [Some(rule.when.lasting), until.map(|until| until.lasting)];
        let all = lasting.into_iter().chain([cooldown, within]).flatten().map(ms);
        let after =
            |since: u64, span: Option<Duration>| span.map(|span| since.saturating_add(ms(span)));
        let cooled = before.ended.and_then(|ended| after(ended, cooldown));
        let seldom = before.beginnings.iter().filter_map(|at| after(*at, within));
        let mut minutes = BTreeSet::from([0]);
        times(&rule.when.condition, &mut minutes);
        if let Some(until) = until {
            times(&until.condition, &mut minutes);
        }
        let mut episode = judge::Episode::default();
        episode.agree(before.agreed());
        Self {
            episode,
            minutes,
            spans: all.chain([0]).collect(),
            more: seldom.chain(cooled).collect(),
            held: None,
        }
    }

    /// From `from` up to `to`, which is not in it.
    fn go(&mut self, rule: &Rule, from: u64, to: u64, mut each: impl FnMut(u64, bool) -> bool) {
        let mut at = from;
        while at < to {
            while self.more.first().is_some_and(|more| *more <= at) {
                self.more.pop_first();
            }
            let only = OnlyTimes(WallTime(at));
            let until = rule.until.as_ref();
            let held = [
                rule.when.condition.holds(&only),
                until.and_then(|until| until.condition.holds(&only)),
            ];
            let begins = match self.episode.look(time(at), rule, &only) {
                Some(Verdict::Begin) => Some(true),
                Some(Verdict::End) => Some(false),
                Some(Verdict::Repeat | Verdict::HeldBack) | None => None,
            };
            if begins.is_some() || self.held != Some(held) {
                self.held = Some(held);
                for span in &self.spans {
                    self.more.extend([at, at + LOOK_MS].map(|from| from.saturating_add(*span)));
                }
            }
            if begins.is_some_and(|begins| !each(at, begins)) {
                return;
            }
            at = self.next(at);
        }
    }

    /// When it looks again.
    fn next(&self, at: u64) -> u64 {
        let minute = at / MINUTE_MS;
        let mut next = minute + 1..=minute + QUARTER;
        let turn = next.find(|minute| self.minutes.contains(&(minute % QUARTER)));
        // The first minute of a quarter is always one.
        let turn = turn.unwrap_or(minute + QUARTER) * MINUTE_MS;
        self.more.range(at + 1..turn).next().copied().unwrap_or(turn)
    }
}

/// The minutes of a quarter of an hour at which the times in `condition` begin and end.
fn times(condition: &Condition, into: &mut BTreeSet<u64>) {
    match condition {
        Condition::All(all) | Condition::Any(all) => all.iter().for_each(|one| times(one, into)),
        Condition::Not(inner) => times(inner, into),
        Condition::During(During { from, to, .. }) => {
            into.extend([from, to].map(|minute| u64::from(*minute) % QUARTER));
        }
        Condition::Compare(_) => {}
    }
}

/// A span in milliseconds, none of it left out.
fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// What time it is, and nothing else.
struct OnlyTimes(WallTime);

impl Readings for OnlyTimes {
    fn numbers(&self, _: &Measured) -> Vec<Option<Number>> {
        vec![None]
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        during.holds_at(self.0)
    }
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZoneDatabase};
    use proptest::prelude::*;

    use super::*;
    use crate::proto::rule::parse;

    fn wall(utc: &str) -> WallTime {
        let moment: Timestamp = utc.parse().unwrap();
        WallTime(moment.as_millisecond() as u64)
    }

    fn shown(turns: &[(WallTime, bool)]) -> Vec<String> {
        let show = |(at, begins): &(WallTime, bool)| {
            format!("{} {}", &at.to_string()[..19], if *begins { "begins" } else { "ends" })
        };
        turns.iter().map(show).collect()
    }

    /// From a moment, over some hours, with nothing known of before.
    fn turns(rule: &str, from: &str, hours: u64) -> Vec<String> {
        let (rule, from) = (parse(rule).unwrap(), wall(from));
        let to = WallTime(from.0 + hours * 3_600_000);
        shown(&Course::of(&rule, &Before::default(), None, from, to, to).unwrap().turns)
    }

    fn acting(rule: &str, before: &Before, now: &str, at: &str) -> Acting {
        let (rule, now, at) = (parse(rule).unwrap(), wall(now), wall(at));
        Course::of(&rule, before, None, now, at, at).unwrap().acting
    }

    #[test]
    fn times_begin_and_end_as_clocks_show_there() {
        // The clocks of New York go back on the 1st of November 2026, a Sunday.
        assert_eq!(
            turns(
                "when time 18:00-23:00 fri-mon America/New_York then in 1",
                "2026-10-31T12:00:00Z",
                48
            ),
            [
                "2026-10-31T22:00:00 begins",
                "2026-11-01T03:00:00 ends",
                "2026-11-01T23:00:00 begins",
                "2026-11-02T04:00:00 ends",
            ]
        );
        // An hour that is there twice, and one that is not there.
        assert_eq!(
            turns("when time 02:00-03:00 Europe/Berlin then in 1", "2026-10-24T12:00:00Z", 24),
            ["2026-10-25T00:00:00 begins", "2026-10-25T02:00:00 ends"]
        );
        assert!(
            turns("when time 02:00-03:00 Europe/Berlin then in 1", "2026-03-28T12:00:00Z", 24)
                .is_empty()
        );
        // Over midnight, and at a minute that is no round one, in a zone that is not either.
        assert_eq!(
            turns("when time 22:07-06:41 fri then in 1", "2026-11-27T12:00:00Z", 72),
            ["2026-11-27T22:07:00 begins", "2026-11-28T06:41:00 ends"]
        );
        assert_eq!(
            turns("when time 09:05-10:00 Asia/Kathmandu then in 1", "2026-11-27T00:00:00Z", 12),
            ["2026-11-27T03:20:00 begins", "2026-11-27T04:15:00 ends"]
        );
    }

    #[test]
    fn what_has_to_last_has_lasted_before_as_well() {
        let rule = "when time 18:00-23:00 for 10m then in 1";
        assert_eq!(
            turns(rule, "2026-11-29T12:00:00Z", 24),
            ["2026-11-29T18:10:00 begins", "2026-11-29T23:00:00 ends"]
        );
        assert_eq!(turns(rule, "2026-11-29T18:07:00Z", 1), ["2026-11-29T18:10:00 begins"]);
        assert_eq!(turns(rule, "2026-11-29T18:30:00Z", 1), ["2026-11-29T18:30:00 begins"]);
        assert_eq!(
            turns("when time 18:00-23:00 for 90s then in 1", "2026-11-29T17:59:58Z", 1),
            ["2026-11-29T18:01:30 begins"]
        );
        // It ended while its time goes on: that counts anew, and it cools down.
        let (rule, now) = (parse(rule).unwrap(), wall("2026-11-29T18:30:00Z"));
        let ended = Before { ended: Some(now.0 - 120_000), ..Before::default() };
        let to = WallTime(now.0 + 3_600_000);
        let course = Course::of(&rule, &ended, None, now, to, to).unwrap();
        assert_eq!(shown(&course.turns), ["2026-11-29T18:38:01 begins"]);
        let rule = Rule {
            options: Options { cooldown: Some(Duration::from_secs(1_500)), ..rule.options },
            ..rule
        };
        let course = Course::of(&rule, &ended, None, now, to, to).unwrap();
        assert_eq!(shown(&course.turns), ["2026-11-29T18:53:00 begins"]);
    }

    #[test]
    fn an_end_may_be_at_another_time() {
        let rule = "when time 18:00-18:01 until time 23:00-23:30 for 5m then in 1";
        assert_eq!(
            turns(rule, "2026-11-29T12:00:00Z", 24),
            ["2026-11-29T18:00:00 begins", "2026-11-29T23:05:00 ends"]
        );
        let open = Before { began: Some(wall("2026-11-29T18:00:00Z").0), ..Before::default() };
        let (rule, now) = (parse(rule).unwrap(), wall("2026-11-29T23:04:00Z"));
        let to = WallTime(now.0 + 600_000);
        let course = Course::of(&rule, &open, None, now, to, to).unwrap();
        assert_eq!(shown(&course.turns), ["2026-11-29T23:05:00 ends"]);
        // Both hold: there is no end of it.
        let rule = parse("when time 18:00-23:00 until time 18:00-23:00 then in 1").unwrap();
        let (now, to) = (wall("2026-11-29T12:00:00Z"), wall("2026-11-30T12:00:00Z"));
        assert_eq!(Course::of(&rule, &Before::default(), None, now, to, to), None);
    }

    #[test]
    fn what_is_measured_may_decide() {
        use Acting::{Acts, Depends, Rests};
        let (noon, evening, night) =
            ("2026-11-29T12:00:00Z", "2026-11-29T20:00:00Z", "2026-11-29T23:30:00Z");
        let none = Before::default();
        let open = Before { began: Some(wall(noon).0 - 60_000), ..Before::default() };
        let busy = "when cluster avg(cpu, 5m) > 70% for 5m then in 1";
        let both = "when time 18:00-23:00 and cluster avg(cpu) > 70% then in 1";
        let either = "when time 18:00-23:00 or cluster avg(cpu) > 70% then in 1";
        let calm = "when time 18:00-23:00 until cluster avg(cpu) < 10% then in 1";
        let slow = "when time 18:00-23:00 and cluster avg(cpu) > 70% for 3h then in 1";
        for (rule, before, at, expected) in [
            (busy, &none, noon, Depends),
            (busy, &none, evening, Depends),
            (busy, &open, noon, Acts), // it is as it is
            (busy, &open, evening, Depends),
            (both, &none, noon, Rests),
            (both, &none, evening, Depends),
            (both, &none, night, Rests),
            (both, &open, evening, Depends),
            (either, &none, noon, Depends),
            (either, &none, evening, Acts),
            (either, &none, night, Depends),
            (calm, &none, noon, Rests),
            (calm, &none, evening, Depends),
            (calm, &none, night, Depends),
            (slow, &none, evening, Rests), // there was not enough of it
            (slow, &none, "2026-11-29T21:00:00Z", Depends),
        ] {
            assert_eq!(acting(rule, before, noon, at), expected, "{rule} {before:?} {at}");
        }
        // It begins by time, unless it did before and has to cool down.
        let cooled = format!("{either} cooldown 8h");
        assert_eq!(acting(&cooled, &none, noon, evening), Depends);
        assert_eq!(acting(&cooled, &none, "2026-11-29T18:00:00Z", evening), Acts);
    }

    /// What the steps are made for holds in every zone.
    #[test]
    fn clocks_are_changed_at_quarters_of_an_hour_and_by_such() {
        let (from, to) = (
            "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap(),
            "2040-01-01T00:00:00Z".parse::<Timestamp>().unwrap(),
        );
        let quarter = QUARTER as i64 * 60;
        let all = TimeZoneDatabase::bundled();
        let mut zones = 0;
        for name in all.available() {
            let zone = all.get(name.as_str()).unwrap();
            let now = zone.to_offset(from).seconds();
            assert_eq!(i64::from(now) % quarter, 0, "{}", name.as_str());
            for change in zone.following(from).take_while(|change| change.timestamp() < to) {
                let offset = i64::from(change.offset().seconds());
                let at = change.timestamp().as_second();
                assert_eq!((at % quarter, offset % quarter), (0, 0), "{}", name.as_str());
            }
            zones += 1;
        }
        assert!(zones > 300, "{zones}");
    }

    fn clock() -> impl Strategy<Value = String> {
        // Around the hours that are looked at below.
        let hours = prop::sample::select(vec![20_u16, 21, 22, 23, 0, 1, 2]);
        let minutes = prop::sample::select(vec![0_u16, 7, 15, 30, 59]);
        (hours, minutes).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"))
    }

    fn part() -> BoxedStrategy<String> {
        let zones = vec!["", " UTC", " Europe/Berlin", " sat+sun", " sun Asia/Kathmandu"];
        let zone = prop::sample::select(zones);
        let time = (clock(), clock(), zone)
            .prop_map(|(from, to, zone)| format!("time {from}-{to}{zone}"))
            .boxed();
        let other = time.clone().prop_map(|time| format!("not {time}"));
        prop_oneof![4 => time, 1 => other, 1 => Just("cluster avg(cpu) > 70%".to_owned())].boxed()
    }

    fn when() -> impl Strategy<Value = String> {
        let with = prop::sample::select(vec!["and", "or"]);
        let both =
            (part(), with, part()).prop_map(|(one, with, other)| format!("{one} {with} {other}"));
        let lasting = prop::sample::select(vec!["", " for 10s", " for 90s", " for 20m"]);
        (prop_oneof![part(), both], lasting).prop_map(|(condition, lasting)| condition + lasting)
    }

    fn options() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", " cooldown 45s", " cooldown 30m", " at-most 1 in 1h"])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A judge that looks every second finds the same, wherever in between the catalog of
        /// the moment is what is known.
        #[test]
        fn it_is_what_a_judge_finds_that_looks_every_second(
            when in when(),
            until in prop::option::of(when()),
            options in options(),
            split in 0_u64..12 * 3_600,
        ) {
            let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
            let text = format!("when {when}{until} then in 1{options}");
            // A rule that is none says nothing of the judge.
            let Ok(rule) = parse(&text) else { return Ok(()) };
            // A night of which an hour is there twice in Berlin.
            let start = wall("2026-10-24T18:00:00Z").0;
            let (now, to) = (start + split * 1_000, start + 12 * 3_600_000);
            let mut episode = judge::Episode::default();
            let (mut before, mut turns) = (Before::default(), Vec::new());
            for at in (start - 3_600_000..=to).step_by(1_000) {
                let began = match episode.look(time(at), &rule, &OnlyTimes(WallTime(at))) {
                    Some(Verdict::Begin) => true,
                    Some(Verdict::End) => false,
                    _ => continue,
                };
                if at >= now {
                    turns.push((WallTime(at), began));
                } else if began {
                    before.began = Some(at);
                    before.beginnings.push(at);
                } else {
                    (before.began, before.ended) = (None, Some(at));
                }
            }
            let (now, to) = (WallTime(now), WallTime(to));
            match Course::of(&rule, &before, None, now, to, to) {
                Some(course) => {
                    prop_assert_eq!(shown(&course.turns), shown(&turns), "{}", text);
                }
                None => {
                    let is_steady = turns.windows(TURNS_MAX.0).all(is_steady);
                    prop_assert!(!is_steady, "{}", text);
                }
            }
        }
    }
}
