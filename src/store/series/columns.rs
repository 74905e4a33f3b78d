//! Which series has which column of the rows on disk.
//!
//! A row names the generation of this table that it was written with, and a column the one
//! since which it belongs to its series. So when a column is given to another series, older
//! rows say nothing of it, whatever clocks do.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        limits::{DISTRIBUTIONS_MAX, SERIES_MAX, SERIES_PATTERN_MAX},
        metric::{Kind, Series},
        wire::{self, Kind as WireKind, WireError},
    },
    proto::telemetry::Level,
    store::{StoreError, record},
};

/// Hours that a series may be silent while this member runs: as long as its oldest number
/// is kept. They are counted by what was lived, since a clock that jumps ahead would
/// otherwise end all series at once.
const IDLE_HOURS_MAX: u32 = (Level::TenMinutes.kept_ms() / 3_600_000) as u32;

/// One column in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Column {
    /// As text: a later Althing may have named one that this one does not know, which stays
    /// its own until it has been silent for long enough.
    #[serde(deserialize_with = "wire::bounded_text::<_, SERIES_PATTERN_MAX>")]
    series: String,
    /// Rows of earlier generations are not its own.
    pub(super) since: u32,
    /// Hours, in a row, in which nothing was written to it.
    idle_hours: u32,
    /// Whether its distributions are kept.
    pub(super) distributions: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Table {
    generation: u32,
    #[serde(deserialize_with = "wire::bounded::<_, _, SERIES_MAX>")]
    columns: Vec<Option<Column>>,
}

pub(super) struct Columns {
    path: PathBuf,
    table: Table,
    index: BTreeMap<Series, usize>,
    /// Whether the table on disk is an older one.
    unsaved: bool,
    /// Whether no row was written with this generation yet, so that it can take more series.
    fresh: bool,
}

impl Columns {
    /// The table at `path`. None if it is damaged: then nobody knows whose the rows are.
    ///
    /// # Errors
    /// If it can't be read, or a newer Althing wrote it.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, StoreError> {
        let table = match record::load(path) {
            Ok(Some(bytes)) => match wire::decode::<Table>(WireKind::Record, &bytes) {
                Ok(table) => table,
                Err(WireError::Version { found }) => {
                    let (found, known) = (u32::from(found), u32::from(wire::VERSION));
                    return Err(StoreError::Newer { path: path.to_owned(), found, known });
                }
                Err(_) => return Ok(None),
            },
            Ok(None) => Table::default(),
            Err(StoreError::Torn { .. } | StoreError::TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let used = || table.columns.iter().flatten();
        let distributions = used().filter(|c| c.distributions).count();
        let names: BTreeSet<&str> = used().map(|c| c.series.as_str()).collect();
        if names.len() != used().count() || distributions > DISTRIBUTIONS_MAX {
            return Ok(None);
        }
        Ok(Some(Self::of(path, table)))
    }

    /// An empty one, which is on disk when it returns.
    pub(super) fn begin(path: &Path) -> Result<Self, StoreError> {
        let mut columns = Self::of(path, Table::default());
        columns.unsaved = true;
        columns.save()?;
        Ok(columns)
    }

    fn of(path: &Path, table: Table) -> Self {
        let series = |(at, column): (usize, &Option<Column>)| {
            let series = Series::parse(&column.as_ref()?.series).ok()?;
            Some((series, at))
        };
        let index = table.columns.iter().enumerate().filter_map(series).collect();
        Self { path: path.to_owned(), table, index, unsaved: false, fresh: false }
    }

    /// Writes the table, if it was changed: before any row that is written with it.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if self.unsaved {
            record::save(&self.path, &wire::encode(WireKind::Record, &self.table))?;
            self.unsaved = false;
        }
        Ok(())
    }

    /// The generation to write a row with.
    pub(super) fn generation(&mut self) -> u32 {
        self.fresh = false;
        self.table.generation
    }

    pub(super) fn find(&self, series: &Series) -> Option<usize> {
        self.index.get(series).copied()
    }

    /// Gives `series`, which has none, a column. None if there are too many.
    pub(super) fn add(&mut self, series: &Series) -> Option<usize> {
        let columns = &mut self.table.columns;
        let at = columns.iter().position(Option::is_none).unwrap_or(columns.len());
        if at >= SERIES_MAX {
            return None;
        }
        self.table.generation = self.table.generation.checked_add(u32::from(!self.fresh))?;
        let kept = columns.iter().flatten().filter(|c| c.distributions).count();
        let column = Column {
            series: series.to_string(),
            since: self.table.generation,
            idle_hours: 0,
            distributions: series.kind() == Kind::Histogram && kept < DISTRIBUTIONS_MAX,
        };
        if at == columns.len() {
            columns.push(Some(column));
        } else {
            columns[at] = Some(column);
        }
        self.index.insert(series.clone(), at);
        (self.unsaved, self.fresh) = (true, true);
        Some(at)
    }

    pub(super) fn get(&self, at: usize) -> Option<&Column> {
        self.table.columns.get(at)?.as_ref()
    }

    /// Every series with its column, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Series, usize)> {
        self.index.iter().map(|(series, at)| (series, *at))
    }

    /// How many columns there are, in use or not.
    pub(super) fn len(&self) -> usize {
        self.table.columns.len()
    }

    /// How many series there are.
    pub(super) fn used(&self) -> usize {
        self.index.len()
    }

    /// An hour was lived, in which the columns were written of which `written` says so.
    /// Columns whose series has been silent for too long are free now, and returned.
    pub(super) fn hour(&mut self, written: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut freed = Vec::new();
        for (at, slot) in self.table.columns.iter_mut().enumerate() {
            let Some(column) = slot else { continue };
            column.idle_hours = if written(at) { 0 } else { column.idle_hours + 1 };
            if column.idle_hours > IDLE_HOURS_MAX {
                self.index.retain(|_, taken| *taken != at);
                *slot = None;
                freed.push(at);
            }
        }
        self.unsaved = true;
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_of_a_later_althing_keeps_its_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("columns");
        let mut columns = Columns::begin(&path).unwrap();
        let [cpu, load] = ["cpu", "load"].map(|name| Series::parse(name).unwrap());
        columns.add(&cpu).unwrap();
        columns.add(&load).unwrap();
        columns.table.columns[0].as_mut().unwrap().series = "cpu.not-yet".to_owned();
        columns.save().unwrap();
        let mut columns = Columns::load(&path).unwrap().unwrap();
        assert_eq!((columns.find(&load), columns.used(), columns.len()), (Some(1), 1, 2));
        assert_eq!(columns.add(&cpu), Some(2));
        // Twice the same name is none of our doing.
        columns.table.columns[0].as_mut().unwrap().series = "load".to_owned();
        columns.unsaved = true;
        columns.save().unwrap();
        assert!(Columns::load(&path).unwrap().is_none());
    }

    #[test]
    fn a_table_of_another_version_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("columns");
        let mut bytes = wire::encode(WireKind::Record, &Table::default());
        bytes[0] += 1;
        record::save(&path, &bytes).unwrap();
        assert!(matches!(Columns::load(&path), Err(StoreError::Newer { .. })));
    }
}
