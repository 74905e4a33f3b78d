//! Questions to the series of one member.

use super::{BANK, SeriesStore, merge};
use crate::{
    base::{
        limits::ANSWER_CELLS_MAX,
        metric::{Pattern, Series},
    },
    proto::telemetry::{Aggregate, Bucket, Grid, Level, Plan, Sketch, Summary},
    store::StoreError,
};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which series.
    pub pattern: Pattern,
    /// In which rows; see [`grid`](crate::proto::telemetry::rollup::grid).
    pub grid: Grid,
    /// Whether with distributions, which there are of histograms, in rows of whole minutes.
    pub spreads: bool,
}

/// What is known of one series: a bucket for each row in which it was measured, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Which series.
    pub series: Series,
    /// Its buckets, each as long as a row.
    pub buckets: Vec<Bucket>,
}

/// The rows of each column that is wanted.
type Rows = Vec<Option<Vec<Option<Summary>>>>;

impl SeriesStore {
    /// What is known of the series that are wanted, in the order of their names. Those of
    /// which nothing is known in that time are left out.
    ///
    /// # Errors
    /// If that is more than one answer has
    /// ([`ANSWER_CELLS_MAX`]), or a file can't be read.
    pub fn query(&mut self, wanted: &Wanted) -> Result<Vec<Found>, StoreError> {
        let Wanted { pattern, grid, spreads } = wanted;
        let columns: Vec<(Series, usize)> = self
            .columns
            .iter()
            .filter(|(series, _)| pattern.matches(series))
            .map(|(series, column)| (series.clone(), column))
            .collect();
        let cells = columns.len() * grid.rows();
        if cells > ANSWER_CELLS_MAX {
            return Err(StoreError::TooMuch { cells, cells_max: ANSWER_CELLS_MAX });
        }
        let mut rows: Rows = vec![None; self.columns.len().next_multiple_of(BANK)];
        for (_, column) in &columns {
            rows[*column] = Some(vec![None; grid.rows()]);
        }
        let plan = Plan::new(grid, self.edge);
        for piece in &plan {
            match Level::ON_DISK.iter().position(|level| *level == piece.level) {
                Some(level) => self.read_piece(grid, piece, level, &mut rows)?,
                None => self.read_recent(grid, piece, &mut rows),
            }
        }
        if plan.iter().all(|piece| piece.level != Level::Second) {
            self.read_open(grid, &mut rows)?;
        }
        let mut all = Vec::with_capacity(columns.len());
        for (series, column) in columns {
            let rows = rows[column].take().unwrap_or_default();
            let mut sketches = if *spreads && self.keeps_spreads(column) {
                self.read_sketches(column, grid, &plan)?
            } else {
                Vec::new()
            };
            let bucket = |(row, summary): (usize, Option<Summary>)| {
                let summary = summary?;
                let sketch = sketches.get_mut(row).and_then(Option::take);
                // A minute that a crash took may lack, and no more: see `Aggregate`.
                let sketch = sketch.filter(|s| s.count() as f64 >= summary.weight() * 0.9);
                let aggregate = Aggregate { summary, sketch };
                Some(Bucket { start: grid.start(row), span_ms: grid.step_ms(), aggregate })
            };
            let buckets: Vec<_> = rows.into_iter().enumerate().filter_map(bucket).collect();
            if !buckets.is_empty() {
                all.push(Found { series, buckets });
            }
        }
        Ok(all)
    }

    /// Adds the rows of one stretch on disk.
    fn read_piece(
        &self,
        grid: &Grid,
        piece: &Plan,
        level: usize,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        for bank in 0..self.banks.len() {
            let rows = &mut rows[bank * BANK..(bank + 1) * BANK];
            let wanted: Vec<bool> = rows.iter().map(Option::is_some).collect();
            if !wanted.contains(&true) {
                continue;
            }
            let span = (piece.from, piece.to);
            self.read_rows(
                bank,
                level,
                span,
                |at| wanted[at],
                |bucket, at, one| {
                    let row = grid.row(piece.level.start(bucket), piece.level.span_ms());
                    if let (Some(row), Some(rows)) = (row, &mut rows[at]) {
                        merge(&mut rows[row], Some(one));
                    }
                },
            )?;
        }
        Ok(())
    }

    /// Adds the seconds of one stretch.
    fn read_recent(&self, grid: &Grid, piece: &Plan, rows: &mut Rows) {
        for (live, rows) in self.live.iter().zip(rows) {
            let Some(rows) = rows else { continue };
            for one in live.recent.between(piece.from, piece.to) {
                if let Some(row) = grid.row(one.last_at(), Level::Second.span_ms()) {
                    merge(&mut rows[row], Some(one));
                }
            }
        }
    }

    /// Adds the bucket of ten seconds that is open: what is in memory, and what is on disk of
    /// it already, from before a restart or a clock that was set back.
    fn read_open(&self, grid: &Grid, rows: &mut Rows) -> Result<(), StoreError> {
        let level = Level::TenSeconds;
        let open = level.bucket(self.edge);
        let Some(row) = grid.row(level.start(open), level.span_ms()) else { return Ok(()) };
        self.read_piece(grid, &Plan { level, from: open, to: open + 1 }, 0, rows)?;
        for (live, rows) in self.live.iter().zip(rows) {
            if let Some(rows) = rows {
                merge(&mut rows[row], live.open);
            }
        }
        Ok(())
    }

    /// The distributions of one histogram, row by row.
    fn read_sketches(
        &mut self,
        column: usize,
        grid: &Grid,
        plan: &[Plan],
    ) -> Result<Vec<Option<Sketch>>, StoreError> {
        let mut rows = vec![None; grid.rows()];
        let mut put = |level: Level, bucket: u64, one: &Sketch| {
            if let Some(row) = grid.row(level.start(bucket), level.span_ms()) {
                rows[row].get_or_insert_with(Sketch::default).merge(one);
            }
        };
        for piece in plan {
            let place = [Level::Minute, Level::TenMinutes].iter().position(|l| *l == piece.level);
            if let Some(level) = place {
                let span = (piece.from, piece.to);
                self.read_spreads(column, level, span, |at, one| put(piece.level, at, &one))?;
            }
        }
        let minute = Level::Minute.bucket(self.edge);
        if let Some(live) = self.live.get(column)
            && !live.spread.is_empty()
        {
            put(Level::Minute, minute, &live.spread);
        }
        // What a restart, or a clock set back, put on disk of the minute that is open.
        self.read_spreads(column, 0, (minute, minute + 1), |at, one| put(Level::Minute, at, &one))?;
        Ok(rows)
    }
}
