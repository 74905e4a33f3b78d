//! For how long what is kept, and how coarse.
//!
//! | level | one bucket | kept | buckets | of a series | of 100 series | where |
//! |---|---|---|---|---|---|---|
//! | second | 1 s | 15 min | 900 | 11 kB | 1.1 MB | memory |
//! | ten seconds | 10 s | 6 h | 2,160 | 52 kB | 5.2 MB | disk |
//! | minute | 60 s | 2 days | 2,880 | 69 kB | 6.9 MB | disk |
//! | ten minutes | 600 s | 60 days | 8,640 | 207 kB | 20.7 MB | disk |
//! | all | | | | 328 kB on disk | 33 MB on disk, 1.1 MB of memory | |
//!
//! (The store keeps 64 series in a file each, 21 MB: 43 MB for 65 to 128.)
//!
//! A bucket is a [`Cell`]: six numbers of single precision, 24 bytes; a second needs only
//! value and weight, 12 bytes with its time (a histogram all six, 28). Single precision is
//! seven digits, and averages are kept instead of sums, so that no sum outgrows it. Each
//! coarser bucket is made of the finer ones when its time is over; nothing is thinned out, so
//! an average, a greatest or a least over a day is that of all samples of the day.
//!
//! The distributions of a histogram are kept by the minute and by ten minutes, in slots of
//! 1 KiB: 12 MB of disk for each such series.

use super::{
    aggregate::{Parts, Summary},
    answer::Grid,
};
use crate::base::{WallTime, limits::BUCKETS_MAX};

/// How coarse. Each is a whole number of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As sampled, once a second.
    Second,
    /// Ten seconds.
    TenSeconds,
    /// One minute.
    Minute,
    /// Ten minutes.
    TenMinutes,
}

impl Level {
    /// All, the finest first.
    pub const ALL: [Self; 4] = [Self::Second, Self::TenSeconds, Self::Minute, Self::TenMinutes];
    /// Those that are kept on disk, the finest first.
    pub const ON_DISK: [Self; 3] = [Self::TenSeconds, Self::Minute, Self::TenMinutes];

    /// The length of one bucket, milliseconds.
    pub const fn span_ms(self) -> u64 {
        match self {
            Self::Second => 1_000,
            Self::TenSeconds => 10_000,
            Self::Minute => 60_000,
            Self::TenMinutes => 600_000,
        }
    }

    /// How many buckets are kept.
    pub const fn slots(self) -> u64 {
        match self {
            Self::Second => 900,
            Self::TenSeconds => 2_160,
            Self::Minute => 2_880,
            Self::TenMinutes => 8_640,
        }
    }

    /// For how long, milliseconds.
    pub const fn kept_ms(self) -> u64 {
        self.span_ms() * self.slots()
    }

    /// The number of the bucket in which `at` lies, counted from 1970.
    pub const fn bucket(self, at: WallTime) -> u64 {
        at.0 / self.span_ms()
    }

    /// When a bucket begins.
    pub const fn start(self, bucket: u64) -> WallTime {
        WallTime(bucket.saturating_mul(self.span_ms()))
    }

    /// The next finer one.
    pub const fn finer(self) -> Option<Self> {
        match self {
            Self::Second => None,
            Self::TenSeconds => Some(Self::Second),
            Self::Minute => Some(Self::TenSeconds),
            Self::TenMinutes => Some(Self::Minute),
        }
    }
}

/// The rows in which a question is answered: `from` to `to` in steps of about `step_ms`, as
/// seen `now`. The step is made longer where so much detail is not kept for so long, where
/// no level fits into it a whole number of times, and where there would be more than
/// [`BUCKETS_MAX`] rows. None if `to` is not after `from`.
pub fn grid(now: WallTime, from: WallTime, to: WallTime, step_ms: u64) -> Option<Grid> {
    let age = now.0.saturating_sub(from.0);
    let fewest = to.0.checked_sub(from.0)?.div_ceil(BUCKETS_MAX as u64 - 2);
    let kept = Level::ALL.into_iter().find(|level| level.kept_ms() >= age);
    let finest = kept.unwrap_or(Level::TenMinutes).span_ms();
    let step = step_ms.max(fewest).max(finest);
    Grid::new(from, to, step.checked_next_multiple_of(level_for(step).span_ms())?)
}

/// A stretch of time, and the level that it is to be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From which level.
    pub level: Level,
    /// The first bucket of it.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
}

impl Plan {
    /// From where one member reads the rows of `grid`, oldest first, when the newest that it
    /// was told is of `edge`: from the coarsest level that the rows are made of, and what is
    /// not rolled up yet from the finer ones. The rest, which is the bucket of ten seconds
    /// that is still open, is in memory: it begins where the last stretch ends.
    pub fn new(grid: &Grid, edge: WallTime) -> Vec<Self> {
        let mut plan = Vec::new();
        let mut from = grid.from().0;
        let mut next = Some(level_of(grid.step_ms()));
        while let Some(level) = next {
            let span = level.span_ms();
            // Seconds are there at once, up to the one that is told now.
            let whole = if level == Level::Second { edge.0 + 1 } else { edge.0 / span * span };
            let to = grid.to().0.min(whole);
            // What lies before what is kept is not looked for.
            let oldest = edge.0.saturating_sub(level.kept_ms() + span);
            let start = from.max(oldest);
            if start < to {
                plan.push(Self { level, from: start / span, to: to.div_ceil(span) });
                from = to;
            }
            // The bucket of ten seconds that is open is known as a whole.
            next = level.finer().filter(|finer| *finer != Level::Second);
        }
        plan
    }
}

/// The coarsest level that fits into a step.
fn level_for(step_ms: u64) -> Level {
    let fits = |level: &Level| level.span_ms() <= step_ms;
    Level::ALL.into_iter().rev().find(fits).unwrap_or(Level::Second)
}

/// The coarsest level that fits into a step a whole number of times.
fn level_of(step_ms: u64) -> Level {
    let fits = |level: &Level| step_ms.is_multiple_of(level.span_ms());
    Level::ALL.into_iter().rev().find(fits).unwrap_or(Level::Second)
}

/// A [`Summary`] as it is kept: weight, mean, root mean square, least, greatest, last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell([f32; 6]);

impl Cell {
    /// Its length in bytes.
    pub const LEN: usize = 24;

    /// Rounds `summary` to single precision.
    pub fn of(summary: &Summary) -> Self {
        let Parts { weight, mean, rms, min, max, last, last_at: _ } = (*summary).into();
        // What weighs next to nothing still is: zero would mean that nothing is there.
        let weight = (weight as f32).max(f32::MIN_POSITIVE);
        Self([weight, mean as f32, rms as f32, min as f32, max as f32, last as f32])
    }

    /// What it says, for a bucket that begins at `start`. None if it is empty, or nothing
    /// that could have been written.
    pub fn summary(self, start: WallTime) -> Option<Summary> {
        let [weight, mean, rms, min, max, last] = self.0.map(f64::from);
        Parts { weight, mean, rms, min, max, last, last_at: start }.try_into().ok()
    }

    /// As bytes, little endian.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (into, number) in bytes.chunks_exact_mut(4).zip(self.0) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The reverse.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut numbers = [0.0; 6];
        for (number, from) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *number = f32::from_le_bytes(*from);
        }
        Self(numbers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::telemetry::Sample;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn the_table_above_adds_up() {
        let bytes: u64 = Level::ON_DISK.iter().map(|l| l.slots() * Cell::LEN as u64).sum();
        assert_eq!(bytes, 328_320);
        assert_eq!(Level::Second.kept_ms(), 15 * 60_000);
        assert_eq!(Level::TenSeconds.kept_ms(), 6 * 3_600_000);
        assert_eq!(Level::Minute.kept_ms(), 2 * DAY_MS);
        assert_eq!(Level::TenMinutes.kept_ms(), 60 * DAY_MS);
        for level in Level::ON_DISK {
            let finer = level.finer().unwrap();
            assert!(level.span_ms().is_multiple_of(finer.span_ms()));
            // A bucket is made of finer ones that are still there.
            assert!(finer.kept_ms() > 2 * level.span_ms());
            assert!(level.slots() < BUCKETS_MAX as u64);
        }
    }

    #[test]
    fn steps_are_what_is_kept_for_so_long() {
        let now = WallTime(1_700_000_000_000);
        let step = |back_ms: u64, step_ms| {
            grid(now, WallTime(now.0 - back_ms), now, step_ms).unwrap().step_ms()
        };
        assert_eq!(step(60_000, 1), 1_000);
        assert_eq!(step(60_000, 7_000), 7_000);
        assert_eq!(step(60_000, 15_000), 20_000);
        assert_eq!(step(3_600_000, 1_000), 10_000);
        assert_eq!(step(DAY_MS, 1_000), 60_000);
        assert_eq!(step(DAY_MS, 90_000), 120_000);
        assert_eq!(step(7 * DAY_MS, 60_000), 600_000);
        assert_eq!(step(3_000 * DAY_MS, 60_000), 26_400_000);
        assert!(grid(now, now, now, 1_000).is_none());
        assert!(grid(now, WallTime(0), WallTime(u64::MAX), 1).is_none_or(|g| g.rows() <= 10_000));
    }

    #[test]
    fn what_is_not_rolled_up_yet_is_read_from_finer_levels() {
        let edge = WallTime(1_700_000_000_000 + 754_321); // 754 s after a full ten minutes
        let from = WallTime(edge.0 - 3_600_000);
        let grid = grid(edge, from, edge, 600_000).unwrap();
        let levels: Vec<_> = Plan::new(&grid, edge).iter().map(|p| p.level).collect();
        assert_eq!(levels, [Level::TenMinutes, Level::Minute, Level::TenSeconds]);
    }

    proptest! {
        #[test]
        fn a_plan_is_without_gaps_and_overlaps(
            edge in 0..4_000_000_000_000_u64,
            back in 1..70 * DAY_MS,
            length in 1..70 * DAY_MS,
            step in 0..100_000_000_u64,
        ) {
            let (edge, from) = (WallTime(edge), WallTime(edge.saturating_sub(back)));
            let grid = grid(edge, from, WallTime(from.0 + length), step).unwrap();
            let plan = Plan::new(&grid, edge);
            for pair in plan.windows(2) {
                let ends = pair[0].level.start(pair[0].to);
                prop_assert_eq!(ends, pair[1].level.start(pair[1].from));
            }
            for piece in &plan {
                prop_assert!(piece.from < piece.to);
                prop_assert!(piece.to - piece.from <= piece.level.slots() + 2);
                prop_assert!(grid.row(piece.level.start(piece.to - 1), piece.level.span_ms()).is_some());
            }
            // All that is not in the open bucket.
            if let Some(last) = plan.last() && last.level != Level::Second {
                let open = edge.0 / 10_000 * 10_000;
                prop_assert_eq!(last.level.start(last.to).0, open.min(grid.to().0));
            }
        }

        #[test]
        fn a_cell_says_what_the_summary_said(values in proptest::collection::vec(-1e12..1e12_f64, 1..50)) {
            let mut summary: Option<Summary> = None;
            for (at, value) in values.iter().enumerate() {
                let one = Summary::of(WallTime(at as u64), Sample::new(*value).unwrap());
                match &mut summary { Some(sum) => sum.merge(&one), None => summary = Some(one) }
            }
            let summary = summary.unwrap();
            let cell = Cell::from_bytes(&Cell::of(&summary).to_bytes());
            let back = cell.summary(WallTime(0)).unwrap();
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * summary.rms();
            prop_assert!(near(back.mean(), summary.mean()) && near(back.rms(), summary.rms()));
            prop_assert!((back.max() - summary.max()).abs() <= 1e-6 * summary.max().abs());
            prop_assert_eq!(back.weight(), summary.weight());
        }

        #[test]
        fn a_cell_of_garbage_is_unknown_or_sound(bytes in any::<[u8; Cell::LEN]>()) {
            if let Some(summary) = Cell::from_bytes(&bytes).summary(WallTime(0)) {
                prop_assert!(summary.weight() > 0.0 && summary.min() <= summary.max());
                prop_assert!(summary.mean().is_finite() && summary.rms().is_finite());
            }
        }
    }
}
