//! How samples become one number: summaries that can be merged, over time and over members.
//!
//! Everything is an average over something, with a *weight* that says over how much: samples
//! of a gauge, seconds of a counter, observations of a histogram. So one rule merges them all,
//! and a merge of summaries is the summary of all samples, in whatever order and grouping.
//! What weighs nothing does not exist: there is no empty summary, and so none that could pass
//! for zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use crate::base::{Time, WallTime, limits::SAMPLE_MAX};

/// A number that can't be taken: no finite one, or beyond ±[`SAMPLE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sample is a finite number of at most 1e30 either side of zero: this one is left out")]
pub struct Unfit;

impl Unfit {
    /// Whether `value` can be taken.
    ///
    /// # Errors
    /// If it can't.
    pub fn check(value: f64) -> Result<(), Self> {
        if value.abs() <= SAMPLE_MAX { Ok(()) } else { Err(Self) } // NaN is not
    }
}

/// What is told of a series, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// The level of a gauge, or the total of a counter.
    Number(f64),
    /// What a histogram saw since the last time.
    Spread(Aggregate),
}

/// One measured number, and how much stands behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    value: f64,
    weight: f64,
}

impl Sample {
    /// The level of a gauge. It weighs 1.
    ///
    /// # Errors
    /// If it is no finite number within ±[`SAMPLE_MAX`].
    pub fn new(value: f64) -> Result<Self, Unfit> {
        Unfit::check(value).map(|()| Self { value, weight: 1.0 })
    }

    /// A value that stands for more or less than one sample does.
    ///
    /// # Errors
    /// If the value is no finite number within ±[`SAMPLE_MAX`], or the weight is none above 0.
    pub fn weighed(value: f64, weight: f64) -> Result<Self, Unfit> {
        Unfit::check(value)?;
        Unfit::check(weight)?;
        if weight > 0.0 { Ok(Self { value, weight }) } else { Err(Unfit) }
    }

    /// In the unit of its series; of a counter, a second.
    pub fn value(self) -> f64 {
        self.value
    }

    /// 1 for a gauge, seconds for a counter.
    pub fn weight(self) -> f64 {
        self.weight
    }
}

/// Makes rates of the totals of one counter.
///
/// A total that falls was begun again, by a restart of what counts: then all of it was
/// counted since, which is at least what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    before: Option<(Time, f64)>,
}

impl Counter {
    /// The rate a second since the last `total`, weighing the seconds since then. None for the
    /// first one, since nobody knows in how long it was counted, and where no time has passed.
    ///
    /// # Errors
    /// If `total` is no finite number from 0 to [`SAMPLE_MAX`]. It is forgotten then.
    pub fn advance(&mut self, now: Time, total: f64) -> Result<Option<Sample>, Unfit> {
        Unfit::check(total)?;
        if total < 0.0 {
            return Err(Unfit);
        }
        let Some((then, before)) = self.before else {
            self.before = Some((now, total));
            return Ok(None);
        };
        let seconds = now.since(then).as_secs_f64();
        if seconds <= 0.0 {
            return Ok(None); // what came in this instant is counted by the next one
        }
        self.before = Some((now, total));
        let increase = if total < before { total } else { total - before };
        Sample::weighed(increase / seconds, seconds).map(Some)
    }
}

/// Samples, summed up. Never empty: what has no sample is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Summary {
    weight: f64,
    mean: f64,
    /// The mean of the squares.
    power: f64,
    min: f64,
    max: f64,
    last: f64,
    last_at: WallTime,
}

impl Summary {
    /// One sample, taken `at`.
    pub fn of(at: WallTime, sample: Sample) -> Self {
        let Sample { value, weight } = sample;
        Self {
            weight,
            mean: value,
            power: value * value,
            min: value,
            max: value,
            last: value,
            last_at: at,
        }
    }

    /// Adds all samples of `other`. Means are weighed, which is exact but for rounding.
    pub fn merge(&mut self, other: &Self) {
        let weight = self.weight + other.weight;
        let share = other.weight / weight;
        self.mean += (other.mean - self.mean) * share;
        self.power += (other.power - self.power) * share;
        self.weight = weight;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        // Of two at one time the higher, so that the order does not matter.
        if (other.last_at, other.last) > (self.last_at, self.last) {
            (self.last_at, self.last) = (other.last_at, other.last);
        }
    }

    /// How much stands behind it: samples of a gauge, seconds of a counter, observations of a
    /// histogram. Above 0.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The average; of a counter, its rate a second.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The root of the mean of the squares.
    pub fn rms(&self) -> f64 {
        self.power.max(0.0).sqrt()
    }

    /// Of a counter, what was counted; of a histogram, the sum of what was observed; of a
    /// gauge, the sum of its samples.
    pub fn sum(&self) -> f64 {
        self.mean * self.weight
    }

    /// The least.
    pub fn min(&self) -> f64 {
        self.min
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// The one taken last.
    pub fn last(&self) -> f64 {
        self.last
    }

    /// When that was.
    pub fn last_at(&self) -> WallTime {
        self.last_at
    }
}

/// A [`Summary`] on its way: what comes from elsewhere is checked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Parts {
    pub(super) weight: f64,
    pub(super) mean: f64,
    pub(super) rms: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
    pub(super) last_at: WallTime,
}

impl From<Summary> for Parts {
    fn from(s: Summary) -> Self {
        Self {
            weight: s.weight,
            mean: s.mean,
            rms: s.rms(),
            min: s.min,
            max: s.max,
            last: s.last,
            last_at: s.last_at,
        }
    }
}

impl TryFrom<Parts> for Summary {
    type Error = &'static str;

    fn try_from(parts: Parts) -> Result<Self, Self::Error> {
        let Parts { weight, mean, rms, min, max, last, last_at } = parts;
        let fit = |value: f64| Unfit::check(value).is_ok();
        let finite = [weight, mean, rms, min, max, last].into_iter().all(fit);
        if !finite || weight <= 0.0 {
            return Err("a summary is of finite numbers, and of some");
        }
        // Averages of single precision may stand a little beyond the extremes.
        let slack = min.abs().max(max.abs()) * 1e-5;
        if !(min <= max && min - slack <= mean && mean <= max + slack && rms >= 0.0) {
            return Err("the average of a summary does not lie between its extremes");
        }
        Ok(Self { weight, mean, power: rms * rms, min, max, last, last_at })
    }
}

/// A summary and, where it is known for all of it, how the values are distributed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// The summary.
    pub summary: Summary,
    /// The distribution; none where it is lacking for more than a tenth of the weight.
    pub sketch: Option<Sketch>,
}

impl Aggregate {
    /// Adds `other`. Where either has no distribution the result has none: percentiles of a
    /// part are not those of the whole. So a long span is asked for as one row, in which a
    /// minute that a crash took does not matter, and not put together from short ones.
    pub fn merge(&mut self, other: &Self) {
        self.summary.merge(&other.summary);
        match (&mut self.sketch, &other.sketch) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (sketch, _) => *sketch = None,
        }
    }
}

impl From<Summary> for Aggregate {
    fn from(summary: Summary) -> Self {
        Self { summary, sketch: None }
    }
}

/// What one series was in one span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// When the span begins: a multiple of its length since 1970.
    pub start: WallTime,
    /// Its length, milliseconds.
    pub span_ms: u64,
    /// What was measured in it, which may have begun late or ended early.
    pub aggregate: Aggregate,
}

/// Collects single observations until they are handed on: the duration of each request.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    squares: f64,
    last: f64,
    sketch: Sketch,
}

impl Distribution {
    /// Takes one observation.
    ///
    /// # Errors
    /// If it is no finite number within ±[`SAMPLE_MAX`].
    pub fn observe(&mut self, value: f64) -> Result<(), Unfit> {
        self.sketch.add(value)?;
        self.squares += value * value;
        self.last = value;
        Ok(())
    }

    /// The same for a duration, in seconds.
    pub fn observe_duration(&mut self, duration: Duration) {
        self.observe(duration.as_secs_f64()).expect("no duration has 1e30 seconds");
    }

    /// What was observed since the last call, as of `at`; none if nothing was.
    pub fn take(&mut self, at: WallTime) -> Option<Aggregate> {
        let Self { squares, last, sketch } = std::mem::take(self);
        let (min, max) = (sketch.min()?, sketch.max()?);
        let weight = sketch.count() as f64;
        let mean = (sketch.sum() / weight).clamp(min, max);
        let power = squares / weight;
        let summary = Summary { weight, mean, power, min, max, last, last_at: at };
        Some(Aggregate { summary, sketch: Some(sketch) })
    }
}
