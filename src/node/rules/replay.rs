//! What a rule would have done: the judge that judges now ([`Bench`]) over what was recorded,
//! moment by moment.
//!
//! It sees what is still kept, which of days ago is a number for each minute and no longer one
//! for each second, so it is as exact as that. What the actions of the rule would have changed
//! is not in the record: of a rule that puts its own member out of service the beginning is
//! exact, and the end is that of a member that stayed.

use std::collections::BTreeMap;

use super::{
    came,
    readings::{MINUTE_MS, STALE_MS, event_kind, folded, of_shares},
};
use crate::{
    base::{AppName, RuleName, Time, WallTime, metric::Series},
    proto::{
        rule::{
            During, Fold, Measured, Rule, Scope, What,
            bench::{Bench, Due},
            came::Came,
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
    rule: (&RuleName, &Rule),
    recorded: &Recorded,
    moments: Moments,
) -> Replayed {
    let step_ms = moments.step_ms;
    look(member, app, rule, moments, |at| Seen { recorded, at, step_ms })
}

/// The same of a rule about the cluster, by what all its members recorded.
pub fn replay_wide<'a>(
    app: &AppName,
    rule: (&RuleName, &Rule),
    recorded: impl Iterator<Item = &'a Recorded> + Clone,
    moments: Moments,
) -> Replayed {
    let step_ms = moments.step_ms;
    look("cluster", app, rule, moments, |at| {
        SeenByAll(recorded.clone().map(|recorded| Seen { recorded, at, step_ms }).collect())
    })
}

fn look<R: Readings>(
    judge: &str,
    app: &AppName,
    (name, rule): (&RuleName, &Rule),
    moments: Moments,
    seen_at: impl Fn(WallTime) -> R,
) -> Replayed {
    let mut bench = Bench::new(judge, []);
    bench.set(Time(0), app, [(name.clone(), rule.clone())]);
    let mut replayed = Replayed::default();
    for at in moments.all() {
        let seen = seen_at(at);
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
        let value = folded(&self.all(of, series)?, of.fold)?;
        let latest = |series: Series| self.fresh(&series, self.at.0.saturating_sub(self.step_ms));
        let total = of.total().filter(|_| !of.is_spread()).and_then(latest);
        Some(Number { value, total: total.map(|total| total.summary.last()) })
    }

    /// All of the window.
    fn all(&self, of: &Measured, series: &Series) -> Option<Aggregate> {
        let now = self.at.0;
        if of.is_spread() {
            let since = now.saturating_sub(of.window_ms().max(MINUTE_MS) + MINUTE_MS);
            return self.merged(self.recorded.spreads.get(series)?, since);
        }
        // What is kept of a minute is one number: the window is a row at least.
        self.fresh(series, now.saturating_sub(of.window_ms().max(self.step_ms)))
    }

    fn events(&self, of: &Measured, kind: &str, app: &Option<AppName>) -> Option<Number> {
        let since = self.at.0.saturating_sub(of.window_ms());
        let is_meant = |event: &&(WallTime, String, Option<AppName>)| {
            (since..self.at.0).contains(&event.0.0)
                && event.1 == kind
                && (app.is_none() || event.2 == *app)
        };
        // Of a kind that there is not, none is not known to have happened.
        event_kind(kind).map(|_| {
            let count = self.recorded.events.iter().filter(is_meant).count();
            Number { value: count as f64, total: None }
        })
    }

    fn came(&self, of: &Measured) -> Option<Came> {
        let since = self.at.0.saturating_sub(of.window_ms().max(self.step_ms));
        let [from, elsewhere, unknown] = of.sources()?.series;
        let [from, elsewhere, unknown] = [from, elsewhere, unknown]
            .map(|series| self.fresh(&series, since).map(|all| all.summary));
        Some(came::of([&from?, &elsewhere?, &unknown?]))
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
            What::Events { kind, app } => self.events(of, kind, app),
            What::From(_) => self.came(of).and_then(|came| number_of(of, came)),
        }]
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        during.holds_at(self.at)
    }
}

fn number_of(of: &Measured, came: Came) -> Option<Number> {
    came.number(of.fold).map(|value| Number { value, total: None })
}

/// What was known of all members at a moment. Who had measured nothing then is no part of it: it was
/// down, or has no such thing.
struct SeenByAll<'a>(Vec<Seen<'a>>);

impl SeenByAll<'_> {
    /// What all had together.
    fn whole(&self, of: &Measured, series: &Series) -> Option<Number> {
        let each: Vec<Aggregate> = self.0.iter().filter_map(|seen| seen.all(of, series)).collect();
        let sum = each.iter().map(|one| one.summary.mean()).sum();
        let all = each.into_iter().reduce(|mut all, one| {
            all.merge(&one);
            all
        })?;
        let value = match of.fold {
            Some(Fold::Sum | Fold::Rate) => sum,
            fold => folded(&all, fold)?,
        };
        Some(Number { value, total: None })
    }
}

impl Readings for SeenByAll<'_> {
    fn numbers(&self, of: &Measured) -> Vec<Option<Number>> {
        let is_together = of.scope == Scope::Cluster;
        match &of.what {
            What::Series(series) if is_together && of.total().is_none() => {
                vec![self.whole(of, series)]
            }
            What::Series(series) => {
                let known = |seen: &Seen<'_>| seen.series(of, series).map(Some);
                let each: Vec<_> = self.0.iter().filter_map(known).collect();
                match is_together {
                    true => vec![of_shares(of.fold, &each)],
                    false => each,
                }
            }
            What::Events { kind, app } => {
                let each = self.0.iter().map(|seen| seen.events(of, kind, app));
                match is_together {
                    true => {
                        let each: Option<Vec<Number>> = each.collect();
                        let sum = each.map(|each| each.iter().map(|number| number.value).sum());
                        vec![sum.map(|value| Number { value, total: None })]
                    }
                    false => each.collect(),
                }
            }
            What::From(_) => {
                let each = self.0.iter().filter_map(|seen| seen.came(of));
                match is_together {
                    true => vec![each.reduce(Came::and).and_then(|came| number_of(of, came))],
                    false => each.map(|came| number_of(of, came)).collect(),
                }
            }
        }
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        // The same everywhere.
        self.0.first().and_then(|seen| seen.is_during(during))
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

        // Half of the requests of a minute come from there, then nobody knows.
        let mut recorded = of("requests.from MX", buckets(10, &[Some(5.0); 12]));
        let [mut elsewhere, mut unknown] = [[Some(20.0); 12], [Some(0.0); 12]];
        elsewhere[3..9].fill(Some(5.0));
        unknown[9..].fill(Some(9.0));
        for (series, numbers) in [("elsewhere", elsewhere), ("unknown", unknown)] {
            let series = Series::parse(&format!("requests.{series} MX")).unwrap();
            recorded.series.insert(series, buckets(10, &numbers));
        }
        let half = "when share(requests from MX, 10s) > 40% then log";
        assert_eq!(did(half, &recorded, 120, 10), [(40, Verdict::Begin)]);
        // 15 from there and 30 or 45 from elsewhere: the window moves on.
        let third = "when share(requests from MX, 30s) >= 33% then log";
        assert_eq!(did(third, &recorded, 90, 10), [(50, Verdict::Begin)]);
        let rate = "when rate(requests from MX, 10s) >= 5/s then log";
        assert_eq!(did(rate, &recorded, 90, 10), [(10, Verdict::Begin)]);
        let other = "when rate(requests from CA, 10s) < 5/s then log";
        assert_eq!(did(other, &recorded, 120, 10), []);

        // 2025-10-09T08:54:00Z is where it starts.
        let noon = did("when time 08:56-08:58 then log", &Recorded::default(), 600, 60);
        assert_eq!(noon, [(120, Verdict::Begin), (240, Verdict::End)]);
    }

    /// What a rule about the cluster would have done.
    fn all_did(text: &str, recorded: &[Recorded], seconds: u64) -> Vec<(u64, Verdict)> {
        let to = WallTime(START + seconds * 1_000);
        let moments = Moments { from: WallTime(START), to, step_ms: 10_000 };
        let rule = parse(text).unwrap();
        let (app, name) = (AppName::parse("ops").unwrap(), RuleName::parse("hot").unwrap());
        let replayed = replay_wide(&app, (&name, &rule), recorded.iter(), moments);
        replayed.due.iter().map(|(at, due)| ((at.0 - START) / 1_000, due.verdict)).collect()
    }

    #[test]
    fn rules_about_the_cluster_are_judged_by_what_all_recorded() {
        let hot = |from: usize| {
            let mut cpu = vec![Some(10.0); 60];
            cpu[from..40].fill(Some(90.0));
            of("cpu", buckets(10, &cpu))
        };
        // One that measured nothing is no part of it, and one was away for a while.
        let mut away = vec![Some(50.0); 60];
        away[20..30].fill(None);
        let all = [hot(10), hot(20), of("cpu", buckets(10, &away)), Recorded::default()];
        let begins = |text: &str| all_did(text, &all, 600);
        let from_to = |from, to| [(from, Verdict::Begin), (to, Verdict::End)];
        assert_eq!(begins("when any cpu > 80% then in 1"), from_to(110, 410));
        assert_eq!(begins("when cluster max(cpu) > 80% then in 1"), from_to(110, 410));
        assert_eq!(begins("when cluster min(cpu) > 40% then in 1"), from_to(210, 410));
        assert_eq!(begins("when every cpu > 60% then in 1"), from_to(210, 310));
        // 150, then 180 without the one that is away, then 230.
        assert_eq!(begins("when cluster sum(cpu) > 200% then in 1"), from_to(310, 410));
        assert_eq!(begins("when cluster avg(cpu) > 70% then in 1"), from_to(210, 410));
        assert_eq!(begins("when cluster avg(cpu) > 100% then in 1"), []);
        let time = begins("when time 08:56-08:58 then in 1");
        assert_eq!(time, from_to(120, 240));
        assert_eq!(all_did("when cluster avg(cpu) > 0% then log", &[], 100), []);
    }
}
