//! What a rule would have done: the judge that judges now ([`Bench`]) over what was recorded,
//! moment by moment.
//!
//! It sees what is still kept, which of days ago is a number for each minute and no longer one
//! for each second, so it is as exact as that. What the actions of the rule would have changed
//! is not in the record: of a rule that puts its own member out of service the beginning is
//! exact, and the end is that of a member that stayed.

use std::collections::BTreeMap;

use super::readings::{MINUTE_MS, STALE_MS, event_kind, folded};
use crate::{
    base::{AppName, RuleName, Time, WallTime, metric::Series},
    proto::{
        rule::{
            During, Measured, Rule, What,
            bench::{Bench, Due},
            judge::{Number, Readings},
        },
        telemetry::{Aggregate, Bucket},
    },
};

/// What one member recorded. Buckets are in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Numbers, by series.
    pub series: BTreeMap<Series, Vec<Bucket>>,
    /// Distributions, by series.
    pub spreads: BTreeMap<Series, Vec<Bucket>>,
    /// Events: when, of which kind, of which application.
    pub events: Vec<(WallTime, String, Option<AppName>)>,
}

/// The moments at which is looked: `from`, and then every `step_ms` up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// The first.
    pub from: WallTime,
    /// The last, or the one before it.
    pub to: WallTime,
    /// Not 0.
    pub step_ms: u64,
}

impl Moments {
    fn all(self) -> impl Iterator<Item = WallTime> {
        let count = self.to.0.saturating_sub(self.from.0) / self.step_ms.max(1);
        (0..=count).map(move |n| WallTime(self.from.0 + n * self.step_ms))
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// What would have been due, and when.
    pub due: Vec<(WallTime, Due)>,
    /// At how many moments was looked.
    pub looks: usize,
    /// At how many of these it was not known whether the rule holds.
    pub unknown: usize,
}

/// Judges by `rule` of `app` on `member`, as if it had been there all the time.
pub fn replay(
    member: &str,
    app: &AppName,
    (name, rule): (&RuleName, &Rule),
    recorded: &Recorded,
    moments: Moments,
) -> Replayed {
    let mut bench = Bench::new(member, []);
    bench.set(Time(0), app, [(name.clone(), rule.clone())]);
    let mut replayed = Replayed::default();
    for at in moments.all() {
        let seen = Seen { recorded, at, step_ms: moments.step_ms };
        replayed.looks += 1;
        replayed.unknown += usize::from(rule.when.condition.holds(&seen).is_none());
        let now = Time((at.0 - moments.from.0).saturating_mul(1_000));
        let due = bench.look(now, at, &seen);
        replayed.due.extend(due.into_iter().map(|due| (at, due)));
    }
    replayed
}

/// What was known at a moment.
struct Seen<'a> {
    recorded: &'a Recorded,
    at: WallTime,
    step_ms: u64,
}

impl Seen<'_> {
    /// All that was measured from `since` on, and over by now.
    fn merged(&self, buckets: &[Bucket], since: u64) -> Option<Aggregate> {
        let first = buckets.partition_point(|bucket| bucket.start.0 < since);
        let is_over = |bucket: &&Bucket| bucket.start.0 + bucket.span_ms <= self.at.0;
        let mut all: Option<Aggregate> = None;
        for bucket in buckets[first..].iter().take_while(is_over) {
            match &mut all {
                Some(all) => all.merge(&bucket.aggregate),
                None => all = Some(bucket.aggregate.clone()),
            }
        }
        all
    }

    fn series(&self, of: &Measured, series: &Series) -> Option<Number> {
        let now = self.at.0;
        if of.is_spread() {
            let since = now.saturating_sub(of.window_ms().max(MINUTE_MS) + MINUTE_MS);
            let all = self.merged(self.recorded.spreads.get(series)?, since)?;
            return Some(Number { value: folded(&all, of.fold)?, total: None });
        }
        // What is kept of a minute is one number: the window is a row at least.
        let since = now.saturating_sub(of.window_ms().max(self.step_ms));
        let all = self.fresh(series, since)?;
        let latest = |series: Series| self.fresh(&series, now.saturating_sub(self.step_ms));
        let total = of.total().and_then(latest).map(|total| total.summary.last());
        Some(Number { value: folded(&all, of.fold)?, total })
    }

    fn fresh(&self, series: &Series, since: u64) -> Option<Aggregate> {
        let all = self.merged(self.recorded.series.get(series)?, since)?;
        let age = self.at.0.saturating_sub(all.summary.last_at().0);
        (age <= STALE_MS.max(self.step_ms)).then_some(all)
    }
}

impl Readings for Seen<'_> {
    fn numbers(&self, of: &Measured) -> Vec<Option<Number>> {
        vec![match &of.what {
            What::Series(series) => self.series(of, series),
            What::Events { kind, app } => {
                let since = self.at.0.saturating_sub(of.window_ms());
                let is_meant = |event: &&(WallTime, String, Option<AppName>)| {
                    (since..self.at.0).contains(&event.0.0)
                        && event.1 == *kind
                        && (app.is_none() || event.2 == *app)
                };
                // Of a kind that there is not, none is not known to have happened.
                event_kind(kind).map(|_| {
                    let count = self.recorded.events.iter().filter(is_meant).count();
                    Number { value: count as f64, total: None }
                })
            }
            // Where requests come from is counted, and not kept as series yet.
            What::From(_) => None,
        }]
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        during.holds_at(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        rule::{judge::Verdict, parse},
        telemetry::{Sample, Sketch, Summary},
    };

    const START: u64 = 1_760_000_040_000;

    /// One bucket of `span` seconds for each number; none where there is none.
    fn buckets(span: u64, numbers: &[Option<f64>]) -> Vec<Bucket> {
        let bucket = |(n, value): (usize, &Option<f64>)| {
            let start = WallTime(START + n as u64 * span * 1_000);
            let at = WallTime(start.0 + span * 1_000 - 1);
            let summary = Summary::of(at, Sample::new((*value)?).unwrap());
            Some(Bucket { start, span_ms: span * 1_000, aggregate: summary.into() })
        };
        numbers.iter().enumerate().filter_map(bucket).collect()
    }

    /// What a rule would have done, in seconds since the start.
    fn did(text: &str, recorded: &Recorded, seconds: u64, step: u64) -> Vec<(u64, Verdict)> {
        let moments = Moments {
            from: WallTime(START),
            to: WallTime(START + seconds * 1_000),
            step_ms: step * 1_000,
        };
        let rule = parse(text).unwrap();
        let (app, name) = (AppName::parse("ops").unwrap(), RuleName::parse("hot").unwrap());
        let replayed = replay("alpha", &app, (&name, &rule), recorded, moments);
        assert_eq!(replayed.looks as u64, seconds / step + 1);
        replayed.due.iter().map(|(at, due)| ((at.0 - START) / 1_000, due.verdict)).collect()
    }

    fn of(series: &str, buckets: Vec<Bucket>) -> Recorded {
        let series = [(Series::parse(series).unwrap(), buckets)].into();
        Recorded { series, ..Recorded::default() }
    }

    #[test]
    fn it_begins_and_ends_where_it_would_have() {
        let mut cpu = vec![Some(10.0); 60];
        cpu[10..40].fill(Some(95.0));
        let cpu = of("cpu", buckets(10, &cpu));
        // The row of the second 100 is over at 110, and then it has to last.
        assert_eq!(
            did("when cpu > 90% for 1m then log", &cpu, 600, 10),
            [(170, Verdict::Begin), (410, Verdict::End)]
        );
        assert_eq!(did("when cpu > 90% for 10m then log", &cpu, 600, 10), []);
        assert_eq!(did("when avg(cpu, 10m) > 80% then log", &cpu, 600, 10), []);
        // 15 of the first 25 rows are hot, and 17 of the last 30.
        assert_eq!(
            did("when avg(cpu, 5m) > 60% then log", &cpu, 600, 10),
            [(250, Verdict::Begin), (530, Verdict::End)]
        );
        assert_eq!(
            did("when max(cpu, 1m) > 90% then log", &cpu, 600, 10),
            [(110, Verdict::Begin), (460, Verdict::End)]
        );
        let cooled = "when cpu > 90% for 1m then log cooldown 5m";
        assert_eq!(did(cooled, &cpu, 600, 10).len(), 2);
    }

    #[test]
    fn what_was_not_measured_is_unknown_and_does_nothing() {
        let mut cpu = vec![None; 60];
        cpu[10..12].fill(Some(95.0));
        cpu[30..40].fill(Some(95.0));
        let cpu = of("cpu", buckets(10, &cpu));
        assert_eq!(did("when cpu > 90% for 1m then log", &cpu, 600, 10), [(370, Verdict::Begin)]);
        assert_eq!(did("when not cpu > 90% then log", &cpu, 600, 10), []);
        assert_eq!(did("when mem.used > 0B then log", &cpu, 600, 10), []);
        let (app, name) = (AppName::parse("ops").unwrap(), RuleName::parse("hot").unwrap());
        let rule = parse("when cpu > 90% then log").unwrap();
        let to = WallTime(START + 600_000);
        let moments = Moments { from: WallTime(START), to, step_ms: 10_000 };
        let replayed = replay("alpha", &app, (&name, &rule), &cpu, moments);
        // Known where a row is over, and for as long as it is fresh.
        assert_eq!((replayed.looks, replayed.unknown), (61, 61 - 12));
        assert_eq!(replayed.due[0].1.why, "cpu > 90% (95%)");
    }

    #[test]
    fn shares_percentiles_events_and_times_are_judged_as_well() {
        let mut recorded = of("mem.used", buckets(10, &[Some(80.0), Some(80.0), Some(20.0)]));
        recorded.series.insert(Series::parse("mem.total").unwrap(), buckets(10, &[Some(100.0); 3]));
        assert_eq!(
            did("when mem.used > 75% then log", &recorded, 40, 10),
            [(10, Verdict::Begin), (30, Verdict::End)]
        );

        // Two minutes of latencies, the second one slow: of both half are.
        let spread = |start: u64, value: f64| {
            let mut sketch = Sketch::default();
            sketch.add_many(value, 100).unwrap();
            let summary = Summary::of(WallTime(start + 59_999), Sample::new(value).unwrap());
            let aggregate = Aggregate { summary, sketch: Some(sketch) };
            Bucket { start: WallTime(start), span_ms: MINUTE_MS, aggregate }
        };
        let slow = vec![spread(START, 0.01), spread(START + MINUTE_MS, 5.0)];
        let series = Series::parse("latency").unwrap();
        let recorded = Recorded { spreads: [(series, slow)].into(), ..Recorded::default() };
        let p99 = did("when p99(latency, 1m) > 1s then log", &recorded, 300, 60);
        assert_eq!(p99, [(120, Verdict::Begin)]);
        assert_eq!(did("when p50(latency, 1m) > 6s then log", &recorded, 300, 60), []);

        let event = |seconds: u64, app: &str| {
            let app = AppName::parse(app).unwrap();
            (WallTime(START + seconds * 1_000), "service".to_owned(), Some(app))
        };
        let events = vec![event(31, "shop"), event(32, "shop"), event(33, "blog")];
        let recorded = Recorded { events, ..Recorded::default() };
        let twice = "when count(events service shop, 1m) >= 2 then log";
        let found = [(40, Verdict::Begin), (100, Verdict::End)];
        assert_eq!(did(twice, &recorded, 200, 10), found);
        let nonsense = "when count(events nonsense, 1m) < 1 then log";
        assert_eq!(did(nonsense, &recorded, 200, 10), []);

        // 2025-10-09T08:54:00Z is where it starts.
        let noon = did("when time 08:56-08:58 then log", &Recorded::default(), 600, 60);
        assert_eq!(noon, [(120, Verdict::Begin), (240, Verdict::End)]);
    }
}
