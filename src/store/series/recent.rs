//! The last quarter of an hour of one series, second by second, in memory.

use std::collections::VecDeque;

use crate::{
    base::WallTime,
    proto::telemetry::{Cell, Level, Sample, Summary},
};

/// Seconds in the order in which they were told, which is not theirs where a clock jumps. Of a
/// gauge or a counter a number and its weight are all; a histogram needs the whole summary.
#[derive(Debug, Default)]
pub(super) struct Recent {
    plain: VecDeque<(u32, f32, f32)>,
    full: VecDeque<(u32, Cell)>,
}

impl Recent {
    pub(super) fn push(&mut self, at: WallTime, sample: Sample) {
        push(&mut self.plain, (second(at), sample.value() as f32, sample.weight() as f32));
    }

    pub(super) fn push_summary(&mut self, at: WallTime, summary: &Summary) {
        push(&mut self.full, (second(at), Cell::of(summary)));
    }

    /// What was told of the seconds `from` to `to`, the last one excluded.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = Summary> + '_ {
        let inside = move |second: u32| (from..to).contains(&u64::from(second));
        let start = |second: u32| Level::Second.start(u64::from(second));
        let plain = self.plain.iter().filter(move |one| inside(one.0));
        let plain = plain.filter_map(move |(second, value, weight)| {
            // What was refused at the door is not here, so all of it is fit.
            let sample = Sample::weighed(f64::from(*value), f64::from(*weight)).ok()?;
            Some(Summary::of(start(*second), sample))
        });
        let full = self.full.iter().filter(move |one| inside(one.0));
        plain.chain(full.filter_map(move |(second, cell)| cell.summary(start(*second))))
    }
}

fn push<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() as u64 >= Level::Second.slots() {
        all.pop_front();
    }
    all.push_back(one);
}

/// Good until the year 2106; later ones count as that.
fn second(at: WallTime) -> u32 {
    u32::try_from(Level::Second.bucket(at)).unwrap_or(u32::MAX)
}
