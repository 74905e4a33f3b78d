//! The distributions of histograms: one file for each column and level, a slot for each bucket,
//! since they are few, large and of any length.

use std::collections::btree_map::Entry;

use super::{
    SeriesStore, name_of,
    ring::{Ring, Shape},
};
use crate::{
    base::wire::{self, Kind as WireKind},
    proto::telemetry::{Level, Sketch},
    store::StoreError,
};

/// Bytes of one distribution on disk, at the most: 240 to 480 bins.
const SPREAD: usize = 1_000;

impl SeriesStore {
    /// Puts the distributions of a minute that is over away.
    pub(super) fn put_spreads(&mut self, minute: u64) -> Result<(), StoreError> {
        let mut first = Ok(());
        for column in 0..self.live.len() {
            let spread = std::mem::take(&mut self.live[column].spread);
            if !spread.is_empty() && self.keeps_spreads(column) {
                first = first.and(self.put_spread(column, 0, minute, spread, true));
            }
        }
        first
    }

    /// Makes the distributions of ten minutes from those of the minutes.
    pub(super) fn fold_spreads(&mut self, bucket: u64) -> Result<(), StoreError> {
        let mut first = Ok(());
        for column in 0..self.live.len() {
            if self.keeps_spreads(column) {
                let mut sum = Sketch::default();
                let minutes = (bucket * 10, (bucket + 1) * 10);
                let read = self.read_spreads(column, 0, minutes, |_, one| sum.merge(&one));
                let put = match read {
                    Ok(()) if !sum.is_empty() => self.put_spread(column, 1, bucket, sum, false),
                    other => other,
                };
                first = first.and(put);
            }
        }
        first
    }

    /// Writes a distribution, together with what is there of the same time if `merged` says so.
    fn put_spread(
        &mut self,
        column: usize,
        level: usize,
        bucket: u64,
        mut spread: Sketch,
        merged: bool,
    ) -> Result<(), StoreError> {
        if merged {
            self.read_spreads(column, level, (bucket, bucket + 1), |_, one| spread.merge(&one))?;
        }
        // As fine as there is room for, which is all of it as a rule. What does not fit even then
        // lies over dozens of powers of ten, and has no percentiles worth the name.
        let mut bytes = wire::encode(WireKind::Record, &spread);
        for together in [2, 4, 8, 16, 32] {
            if bytes.len() > SPREAD {
                spread.coarsen(together);
                bytes = wire::encode(WireKind::Record, &spread);
            }
        }
        if bytes.len() > SPREAD {
            return Ok(());
        }
        let generation = self.columns.generation();
        self.spread_rings(column)?[level].write(bucket, generation, &bytes)
    }

    /// Gives `each` the distributions of a column: bucket and distribution.
    pub(super) fn read_spreads(
        &mut self,
        column: usize,
        level: usize,
        (from, to): (u64, u64),
        mut each: impl FnMut(u64, Sketch),
    ) -> Result<(), StoreError> {
        let Some(since) = self.columns.get(column).map(|c| c.since) else { return Ok(()) };
        self.spread_rings(column)?[level].read(from, to, |slot| {
            let own = slot.generation >= since;
            if let (true, Ok(spread)) = (own, wire::decode(WireKind::Record, slot.bytes)) {
                each(slot.bucket, spread);
            }
        })
    }

    pub(super) fn keeps_spreads(&self, column: usize) -> bool {
        self.columns.get(column).is_some_and(|c| c.distributions)
    }

    fn spread_rings(&mut self, column: usize) -> Result<&mut [Ring; 2], StoreError> {
        match self.spreads.entry(column) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let open = |at: usize| {
                    let level = Level::ON_DISK[at + 1];
                    let name = format!("spread-{}-{column:03}.ring", name_of(level));
                    let part = (1 << 31) | (at << 24) as u32 | column as u32; // below 2,000
                    let shape = Shape { slots: level.slots() as u32, room: SPREAD as u32, part };
                    Ring::open(&self.directory.join(name), shape)
                };
                Ok(entry.insert([open(0)?, open(1)?]))
            }
        }
    }
}
