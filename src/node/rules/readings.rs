//! What is measured on this member, as numbers that rules compare.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::came;
use crate::{
    base::{
        WallTime,
        metric::{Pattern, Series},
    },
    member::event::EventKind,
    node::telemetry::Telemetry,
    proto::{
        rule::{
            During, Fold, Measured, What,
            judge::{Number, Readings},
        },
        telemetry::{Aggregate, Grid, Summary, rollup},
    },
    store::{events::EventQuery, series::Wanted},
};

/// What is asked for where no window is given: two samples and a little more.
const LATEST: Duration = Duration::from_secs(5);
/// What is older says nothing of now.
pub(super) const STALE_MS: u64 = 15_000;
/// The finest and the coarsest steps by which a window moves on.
pub(super) const STEP_MS: (u64, u64) = (1_000, 60_000);
/// What is kept of percentiles is of whole minutes.
pub(super) const MINUTE_MS: u64 = 60_000;
/// Events that are counted at most: more than one answer has.
const EVENTS_MAX: usize = 10_000;

/// Numbers, by what they are of. One that is of a long window is asked for again after a part
/// of that.
#[derive(Default)]
pub(super) struct Known {
    at: WallTime,
    numbers: BTreeMap<String, (Instant, Option<Number>)>,
}

impl Known {
    /// Asks for all that is `wanted`, and forgets the rest.
    pub async fn refresh(&mut self, telemetry: &Telemetry, at: WallTime, wanted: &[&Measured]) {
        self.at = at;
        let mut next = BTreeMap::new();
        for of in wanted {
            let name = of.to_string();
            if next.contains_key(&name) {
                continue;
            }
            let kept = self.numbers.remove(&name).filter(|(again, _)| Instant::now() < *again);
            let known = match kept {
                Some(kept) => kept,
                None => {
                    let pause = of.window.unwrap_or_default() / 120;
                    let again = Instant::now() + pause.min(Duration::from_secs(30));
                    (again, number(telemetry, at, of).await)
                }
            };
            next.insert(name, known);
        }
        self.numbers = next;
    }
}

impl Readings for Known {
    fn numbers(&self, of: &Measured) -> Vec<Option<Number>> {
        vec![self.numbers.get(&of.to_string()).and_then(|(_, number)| *number)]
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        during.holds_at(self.at)
    }
}

/// One number, as of `at`. None where it is not known.
async fn number(telemetry: &Telemetry, at: WallTime, of: &Measured) -> Option<Number> {
    let window = of.window.unwrap_or(LATEST);
    match &of.what {
        What::Series(series) => {
            let found = measured(telemetry, at, series, of.is_spread(), window).await?;
            let value = folded(&found, of.fold)?;
            let total = match of.total() {
                Some(total) => measured(telemetry, at, &total, false, LATEST).await,
                None => None,
            };
            Some(Number { value, total: total.map(|total| total.summary.last()) })
        }
        What::Events { kind, app } => {
            let kind = event_kind(kind)?;
            let since = WallTime(at.0.saturating_sub(ms(window)));
            let query = EventQuery {
                since: Some(since),
                kinds: vec![kind],
                app: app.clone(),
                limit: EVENTS_MAX,
                ..EventQuery::default()
            };
            let found = telemetry.events(query).await?.ok()?;
            Some(Number { value: found.events.len() as f64, total: None })
        }
        What::From(_) => came::of_one(telemetry, at, of).await,
    }
}

/// All of a series that was measured in the last `window`. None if there is nothing, or nothing
/// new.
async fn measured(
    telemetry: &Telemetry,
    at: WallTime,
    series: &Series,
    spreads: bool,
    window: Duration,
) -> Option<Aggregate> {
    let (from, step) = match spreads {
        // The minute that is under way is not whole, and not in it.
        true => (ms(window).max(MINUTE_MS) + MINUTE_MS, MINUTE_MS),
        false => (ms(window), (ms(window) / 60).clamp(STEP_MS.0, STEP_MS.1)),
    };
    let grid: Grid =
        rollup::grid(at, WallTime(at.0.saturating_sub(from)), WallTime(at.0 + 1), step)?;
    let pattern = Pattern::parse(&series.to_string()).ok()?;
    let found = telemetry.series(Wanted { pattern, grid, spreads }).await?.ok()?;
    let of = found.into_iter().find(|found| found.series == *series)?;
    let mut all: Option<Aggregate> = None;
    for bucket in of.buckets {
        if spreads && bucket.aggregate.sketch.is_none() {
            continue;
        }
        match &mut all {
            Some(all) => all.merge(&bucket.aggregate),
            None => all = Some(bucket.aggregate),
        }
    }
    let is_new = |summary: &Summary| {
        spreads || at.0.saturating_sub(summary.last_at().0) <= STALE_MS.max(step)
    };
    all.filter(|all| is_new(&all.summary))
}

/// One number of many samples.
pub(super) fn folded(all: &Aggregate, fold: Option<Fold>) -> Option<f64> {
    let summary = &all.summary;
    Some(match fold {
        None => summary.last(),
        // Of one member the average is all there is to sum up.
        Some(Fold::Avg | Fold::Rate | Fold::Sum) => summary.mean(),
        Some(Fold::Min) => summary.min(),
        Some(Fold::Max) => summary.max(),
        Some(Fold::Rms) => summary.rms(),
        Some(Fold::Percentile(of)) => {
            return all.sketch.as_ref()?.quantile(f64::from(of) / 100.0);
        }
        Some(Fold::Count | Fold::Share) => return None,
    })
}

/// One of numbers that each have a whole of their own: whose share is the least, the greatest, or
/// what all have of what there is.
pub(super) fn of_shares(fold: Option<Fold>, each: &[Option<Number>]) -> Option<Number> {
    let each = each.iter().copied().collect::<Option<Vec<Number>>>()?;
    let share = |of: &Number| of.total.map_or(of.value, |total| of.value / total);
    let by = |a: &Number, b: &Number| share(a).total_cmp(&share(b));
    match fold {
        Some(Fold::Min) => each.into_iter().min_by(by),
        Some(Fold::Max) => each.into_iter().max_by(by),
        _ => {
            let count = each.len() as f64;
            let mut all = each.into_iter().reduce(|a, b| Number {
                value: a.value + b.value,
                total: a.total.zip(b.total).map(|(a, b)| a + b),
            })?;
            if fold != Some(Fold::Sum) {
                all = Number { value: all.value / count, total: all.total.map(|t| t / count) };
            }
            Some(all)
        }
    }
}

/// The kind of events that is called so, if there is one.
pub(super) fn event_kind(name: &str) -> Option<EventKind> {
    serde_json::from_value(name.into()).ok()
}

pub(super) fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
