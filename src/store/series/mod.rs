//! Series of measurements on this member's disk, of bounded size and for a bounded time; see
//! [`rollup`](crate::proto::telemetry::rollup) for how much of what.
//!
//! The seconds are in memory. A bucket of ten seconds is written once, when it is over, as
//! one row of all series; the rows of a minute and of ten minutes are made from the rows of
//! the level below, never from memory. So a crash takes ten seconds at the most, there is
//! no state that could disagree with the rows, and one write serves 64 series. (A file for each
//! series made the disk write 13 times as much: `cargo bench --bench telemetry -- --layouts`.)
//!
//! ```text
//! columns             which series has which column: an atomic record
//! 10s-000.ring        rows of ten seconds, columns 0 to 63; 1m-000, 10m-000, 10s-001 and so on
//! spread-1m-017.ring  distributions of the histogram in column 17, by the minute
//! ```
//!
//! Clocks jump. What is written is found by its time alone, so a jump leaves a gap or lives a
//! time twice; ten seconds that are lived twice are merged. Nothing walks over the time between.
//!
//! All calls block, and one thread owns the store. Nothing is synced but the table of columns,
//! which changes when a series comes, and once an hour.

mod columns;
mod query;
mod recent;
mod ring;
mod spreads;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use self::{
    columns::Columns,
    recent::Recent,
    ring::{Ring, Shape},
};
use super::{StoreError, data_dir::make_directory, error::io_error, record};
use crate::{
    base::{
        Time, WallTime,
        metric::{Kind, Series},
    },
    proto::telemetry::{Cell, Counter, Level, Reading, Sample, Sketch, Summary},
};

pub use query::{Found, Wanted};

/// Columns in one file: a row is 1.5 KiB, which costs the disk one block or two.
const BANK: usize = 64;
/// Closed buckets of ten seconds in an hour.
const HOUR: u32 = 360;
/// How far back rows are made again when the store is opened, in buckets of ten seconds: a
/// crash takes no more than the newest row of each level.
const HEALED: u64 = 180;

/// What the store counts since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series that are kept now.
    pub series: usize,
    /// Readings of series that there was no room for.
    pub refused: u64,
    /// Readings that were no finite numbers, or of another kind than their series.
    pub unfit: u64,
    /// Bytes written to rings.
    pub written: u64,
    /// Slots of rings that were read and were no good.
    pub damaged: u64,
    /// Whether everything on disk was begun anew, because the table of columns was damaged.
    pub begun_anew: bool,
}

/// One column in memory.
#[derive(Default)]
struct Live {
    recent: Recent,
    counter: Counter,
    /// The bucket of ten seconds that is open.
    open: Option<Summary>,
    /// The distribution of the minute that is open.
    spread: Sketch,
    /// Whether anything came in this hour.
    written: bool,
}

/// The files of up to [`BANK`] columns, by level.
type Bank = [Ring; Level::ON_DISK.len()];

/// The series of one member. See the module.
pub struct SeriesStore {
    directory: PathBuf,
    columns: Columns,
    live: Vec<Live>,
    banks: Vec<Bank>,
    /// By minutes and by ten minutes, of each histogram that was written or read.
    spreads: BTreeMap<usize, [Ring; 2]>,
    /// The bucket of ten seconds that is open.
    open: Option<u64>,
    /// The time of what was told last.
    edge: WallTime,
    /// Buckets closed since the last hour was counted.
    closed: u32,
    stats: Stats,
}

impl SeriesStore {
    /// Opens the series in `directory`, which is made if it is not there. Rows that a crash
    /// kept from being rolled up are.
    ///
    /// # Errors
    /// If the system refuses, or a newer Althing wrote there.
    pub fn open(directory: &Path, now: WallTime) -> Result<Self, StoreError> {
        make_directory(directory)?;
        record::sweep(directory)?;
        let path = directory.join("columns");
        let known = Columns::load(&path)?;
        let mut stats = Stats { begun_anew: known.is_none(), ..Stats::default() };
        let columns = match known {
            Some(columns) => columns,
            None => {
                remove_rings(directory)?;
                Columns::begin(&path)?
            }
        };
        stats.series = columns.used();
        let mut store = Self {
            directory: directory.to_owned(),
            live: (0..columns.len()).map(|_| Live::default()).collect(),
            columns,
            banks: Vec::new(),
            spreads: BTreeMap::new(),
            open: None,
            edge: now,
            closed: 0,
            stats,
        };
        store.make_banks()?;
        store.heal(now)?;
        Ok(store)
    }

    /// Takes what was measured `at`, all at once, about once a second. `now` is the clock that
    /// never jumps, for rates.
    ///
    /// # Errors
    /// If what is over could not be written. It is lost to the disk then; what came with this
    /// call is taken, and the next call is as good as ever.
    pub fn append(
        &mut self,
        at: WallTime,
        now: Time,
        readings: &[(Series, Reading)],
    ) -> Result<(), StoreError> {
        let bucket = Level::TenSeconds.bucket(at);
        let written = match self.open {
            Some(open) if open != bucket => self.close(open, bucket),
            _ => Ok(()),
        };
        (self.open, self.edge) = (Some(bucket), at);
        for (series, reading) in readings {
            self.take(at, now, series, reading);
        }
        written
    }

    /// Writes what is open, for a member that stops. More of the same ten seconds may follow.
    ///
    /// # Errors
    /// If it can't be written. It is lost then.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        match self.open.take() {
            // As if time went far on: every level is over.
            Some(open) => self.close(open, u64::MAX),
            None => Ok(()),
        }
    }

    /// Every series that is kept, in order.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.columns.iter().map(|(series, _)| series)
    }

    /// What it counts.
    pub fn stats(&self) -> Stats {
        let rings = self.banks.iter().flatten().chain(self.spreads.values().flatten());
        let (mut written, mut damaged) = (self.stats.written, self.stats.damaged);
        for ring in rings {
            written += ring.written();
            damaged += ring.damaged();
        }
        Stats { series: self.columns.used(), written, damaged, ..self.stats }
    }

    fn take(&mut self, at: WallTime, now: Time, series: &Series, reading: &Reading) {
        let Some(column) = self.columns.find(series).or_else(|| self.columns.add(series)) else {
            self.stats.refused += 1;
            return;
        };
        if column >= self.live.len() {
            self.live.resize_with(column + 1, Live::default);
        }
        let live = &mut self.live[column];
        let sample = match (series.kind(), reading) {
            (Kind::Gauge, Reading::Number(value)) => Sample::new(*value).map(Some),
            (Kind::Counter, Reading::Number(total)) => live.counter.advance(now, *total),
            (Kind::Histogram, Reading::Spread(seen)) => {
                live.recent.push_summary(at, &seen.summary);
                live.add(seen.summary);
                if let Some(sketch) = &seen.sketch {
                    live.spread.merge(sketch);
                }
                Ok(None)
            }
            _ => {
                self.stats.unfit += 1;
                return;
            }
        };
        match sample {
            Ok(Some(sample)) => {
                live.recent.push(at, sample);
                live.add(Summary::of(at, sample));
            }
            Ok(None) => live.written = true,
            Err(_) => self.stats.unfit += 1,
        }
    }

    /// The bucket `open` is over, and `next` comes. Does all that it can, and says what failed
    /// first.
    fn close(&mut self, open: u64, next: u64) -> Result<(), StoreError> {
        let rows: Vec<Option<Summary>> = self.live.iter_mut().map(|l| l.open.take()).collect();
        // Without the table nobody would know whose the numbers are.
        let saved = self.columns.save().and_then(|()| self.make_banks());
        let written = saved.and_then(|()| self.write_rows(open, &rows));
        let rolled = self.roll_up(open, next);
        let counted = self.count_hour();
        written.and(rolled).and(counted)
    }

    /// Writes the rows of ten seconds.
    fn write_rows(&mut self, bucket: u64, rows: &[Option<Summary>]) -> Result<(), StoreError> {
        let mut first = Ok(());
        for (bank, row) in (0..self.banks.len()).zip(rows.chunks(BANK)) {
            first = first.and(self.write_row(bank, bucket, row));
        }
        first
    }

    /// Writes one row of ten seconds. What is there of the same ten seconds already, from before
    /// a restart or a clock that was set back, is merged.
    fn write_row(
        &mut self,
        bank: usize,
        bucket: u64,
        new: &[Option<Summary>],
    ) -> Result<(), StoreError> {
        let level = 0;
        if new.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut row = self.read_row(bank, level, bucket)?;
        for (cell, summary) in row.iter_mut().zip(new) {
            merge(cell, *summary);
        }
        self.put_row(bank, level, bucket, &row)
    }

    /// Makes the rows of the coarser levels that are over when `next` follows on `closed`, and
    /// puts the distributions of the minute away.
    fn roll_up(&mut self, closed: u64, next: u64) -> Result<(), StoreError> {
        let mut first = Ok(());
        let over = |level: Level| {
            let each = level.span_ms() / Level::TenSeconds.span_ms();
            (closed / each != next / each).then_some(closed / each)
        };
        if let Some(minute) = over(Level::Minute) {
            first = first.and(self.fold_rows(1, minute)).and(self.put_spreads(minute));
        }
        if let Some(bucket) = over(Level::TenMinutes) {
            first = first.and(self.fold_rows(2, bucket)).and(self.fold_spreads(bucket));
        }
        first
    }

    /// Makes the rows `bucket` of a level, by its place in [`Level::ON_DISK`], from the rows of
    /// the level below.
    fn fold_rows(&mut self, level: usize, bucket: u64) -> Result<(), StoreError> {
        let mut first = Ok(());
        for bank in 0..self.banks.len() {
            first = first.and(self.fold_row(bank, level, bucket));
        }
        first
    }

    fn fold_row(&mut self, bank: usize, level: usize, bucket: u64) -> Result<(), StoreError> {
        let each = Level::ON_DISK[level].span_ms() / Level::ON_DISK[level - 1].span_ms();
        let mut row = vec![None; BANK];
        let span = (bucket * each, (bucket + 1) * each);
        let add = |_, at: usize, one| merge(&mut row[at], Some(one));
        self.read_rows(bank, level - 1, span, |_| true, add)?;
        if row.iter().all(Option::is_none) {
            return Ok(());
        }
        self.put_row(bank, level, bucket, &row)
    }

    fn read_row(
        &self,
        bank: usize,
        level: usize,
        bucket: u64,
    ) -> Result<Vec<Option<Summary>>, StoreError> {
        let mut row = vec![None; BANK];
        let span = (bucket, bucket + 1);
        self.read_rows(bank, level, span, |_| true, |_, at, one| row[at] = Some(one))?;
        Ok(row)
    }

    /// Gives `each` the numbers of a bank whose places are `wanted`: bucket, place in the bank,
    /// summary. Those that are of a series which had the column before are left out.
    fn read_rows(
        &self,
        bank: usize,
        level: usize,
        (from, to): (u64, u64),
        wanted: impl Fn(usize) -> bool,
        mut each: impl FnMut(u64, usize, Summary),
    ) -> Result<(), StoreError> {
        let since = |at: usize| Some(self.columns.get(bank * BANK + at)?.since);
        let since: Vec<Option<u32>> =
            (0..BANK).map(|at| since(at).filter(|_| wanted(at))).collect();
        self.banks[bank][level].read(from, to, |slot| {
            let start = Level::ON_DISK[level].start(slot.bucket);
            let cells = slot.bytes.as_chunks::<{ Cell::LEN }>().0.iter();
            for (at, (cell, since)) in cells.zip(&since).enumerate() {
                if since.is_some_and(|since| slot.generation >= since)
                    && let Some(summary) = Cell::from_bytes(cell).summary(start)
                {
                    each(slot.bucket, at, summary);
                }
            }
        })
    }

    fn put_row(
        &mut self,
        bank: usize,
        level: usize,
        bucket: u64,
        row: &[Option<Summary>],
    ) -> Result<(), StoreError> {
        let used = row.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let cell = |one: &Option<Summary>| one.as_ref().map_or(Cell::default(), Cell::of);
        let bytes: Vec<u8> = row[..used].iter().flat_map(|one| cell(one).to_bytes()).collect();
        let generation = self.columns.generation();
        self.banks[bank][level].write(bucket, generation, &bytes)
    }

    /// Opens the files of all columns.
    fn make_banks(&mut self) -> Result<(), StoreError> {
        for bank in self.banks.len()..self.columns.len().div_ceil(BANK) {
            let open = |at: usize| {
                let level = Level::ON_DISK[at];
                let name = format!("{}-{bank:03}.ring", name_of(level));
                let part = (at << 24) as u32 | bank as u32; // some thirty
                let room = (BANK * Cell::LEN) as u32;
                let shape = Shape { slots: level.slots() as u32, room, part };
                Ring::open(&self.directory.join(name), shape)
            };
            self.banks.push([open(0)?, open(1)?, open(2)?]);
        }
        Ok(())
    }

    /// Makes the coarser rows again that the last half hour before `now` belongs to.
    fn heal(&mut self, now: WallTime) -> Result<(), StoreError> {
        let mut newest = None;
        for bank in &self.banks {
            newest = newest.max(bank[0].newest(Level::TenSeconds.bucket(now))?);
        }
        let Some(newest) = newest else { return Ok(()) };
        let oldest = newest.saturating_sub(HEALED);
        for minute in oldest / 6..=newest / 6 {
            self.fold_rows(1, minute)?;
        }
        for bucket in oldest / 60..=newest / 60 {
            self.fold_rows(2, bucket)?;
            self.fold_spreads(bucket)?;
        }
        Ok(())
    }

    /// Counts the hours lived, and gives columns up whose series have ended.
    fn count_hour(&mut self) -> Result<(), StoreError> {
        self.closed += 1;
        if self.closed < HOUR {
            return Ok(());
        }
        self.closed = 0;
        let freed = self.columns.hour(|at| self.live.get(at).is_some_and(|l| l.written));
        self.live.iter_mut().for_each(|live| live.written = false);
        for column in freed {
            self.live[column] = Live::default();
            for ring in self.spreads.remove(&column).into_iter().flatten() {
                self.stats.written += ring.written();
                self.stats.damaged += ring.damaged();
            }
            for level in [Level::Minute, Level::TenMinutes] {
                let name = format!("spread-{}-{column:03}.ring", name_of(level));
                record::remove(&self.directory.join(name))?;
            }
        }
        self.columns.save()
    }
}

impl Live {
    fn add(&mut self, summary: Summary) {
        merge(&mut self.open, Some(summary));
        self.written = true;
    }
}

fn merge(sum: &mut Option<Summary>, one: Option<Summary>) {
    let Some(one) = one else { return };
    match sum {
        Some(sum) => sum.merge(&one),
        None => *sum = Some(one),
    }
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::Second => "1s",
        Level::TenSeconds => "10s",
        Level::Minute => "1m",
        Level::TenMinutes => "10m",
    }
}

/// Removes rows of which nobody knows whose they are.
fn remove_rings(directory: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let path = entry.map_err(io_error("list", directory))?.path();
        if path.extension().is_some_and(|e| e == "ring") {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
