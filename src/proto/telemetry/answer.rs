//! One answer of many members: rows of time, each with what was heard and who is missing.
//!
//! A member that said nothing of a row is *missing* in it, whatever the reason: it was down,
//! had not joined, can't be reached, does not measure that. The row is of the others then, and
//! says so; nothing is put in its place.

use serde::{Deserialize, Serialize};

use super::aggregate::{Aggregate, Bucket};
use crate::base::{
    MemberId, WallTime,
    limits::BUCKETS_MAX,
    wire::{self, WireError},
};

/// Rows of time: spans of one length, one after the other. Each begins at a multiple of that
/// length since 1970, so that those of different members lie on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct Grid {
    from_ms: u64,
    step_ms: u64,
    rows: usize,
}

impl Grid {
    /// The rows of `step_ms` that cover `from` to `to`. None if that is no time at all, or
    /// more than [`BUCKETS_MAX`] rows.
    pub fn new(from: WallTime, to: WallTime, step_ms: u64) -> Option<Self> {
        if step_ms == 0 || to <= from {
            return None;
        }
        let first = from.0 / step_ms;
        let rows = usize::try_from(to.0.div_ceil(step_ms) - first).ok()?;
        let ends = to.0.div_ceil(step_ms).checked_mul(step_ms);
        (rows <= BUCKETS_MAX && ends.is_some()).then(|| {
            let from_ms = first * step_ms;
            Self { from_ms, step_ms, rows }
        })
    }

    /// When the first row begins.
    pub fn from(&self) -> WallTime {
        WallTime(self.from_ms)
    }

    /// When the last one ends.
    pub fn to(&self) -> WallTime {
        self.start(self.rows)
    }

    /// The length of a row, milliseconds.
    pub fn step_ms(&self) -> u64 {
        self.step_ms
    }

    /// How many rows there are: 1 to [`BUCKETS_MAX`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// When `row` begins.
    pub fn start(&self, row: usize) -> WallTime {
        WallTime(self.from_ms + self.step_ms * row as u64) // checked when it was made
    }

    /// The row in which a span lies that begins at `start`: None if it lies outside, or in
    /// more than one.
    pub fn row(&self, start: WallTime, span_ms: u64) -> Option<usize> {
        let offset = start.0.checked_sub(self.from_ms)?;
        let row = usize::try_from(offset / self.step_ms).ok().filter(|row| *row < self.rows)?;
        let ends = (offset % self.step_ms).checked_add(span_ms)?;
        (ends <= self.step_ms).then_some(row)
    }
}

impl From<Grid> for (u64, u64, u64) {
    fn from(grid: Grid) -> Self {
        (grid.from_ms, grid.to().0, grid.step_ms)
    }
}

impl TryFrom<(u64, u64, u64)> for Grid {
    type Error = &'static str;
    fn try_from((from, to, step): (u64, u64, u64)) -> Result<Self, Self::Error> {
        Self::new(WallTime(from), WallTime(to), step).ok_or("rows of time that are none")
    }
}

/// Why what a member said was not taken. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It was not asked.
    #[error("that member was not asked, so its numbers count nowhere")]
    Unasked,
    /// It has answered already.
    #[error("that member has answered already, and would count twice")]
    Twice,
}

/// What members say of one series, put together.
#[derive(Clone, Debug)]
pub struct Answer {
    grid: Grid,
    /// Sorted.
    asked: Vec<MemberId>,
    /// Who of `asked` has answered at all.
    answered: Bits,
    rows: Vec<Row>,
}

/// One row of an [`Answer`].
#[derive(Clone, Debug, Default)]
pub struct Row {
    all: Option<Aggregate>,
    total: f64,
    /// By place in `asked`.
    heard: Bits,
}

impl Row {
    /// All samples of all members that were heard; none if nobody was.
    pub fn all(&self) -> Option<&Aggregate> {
        self.all.as_ref()
    }

    /// The sum of the members' averages: what those that were heard have together. Of a
    /// counter, their rates together.
    pub fn total(&self) -> Option<f64> {
        self.all.as_ref().map(|_| self.total)
    }

    /// How many members were heard.
    pub fn heard(&self) -> usize {
        self.heard.count()
    }

    /// Adds all that one member says of it, the one at this place in `asked`.
    fn add(&mut self, at: usize, own: Aggregate) {
        self.total += own.summary.mean();
        self.heard.set(at);
        match &mut self.all {
            Some(all) => all.merge(&own),
            None => self.all = Some(own),
        }
    }
}

impl Answer {
    /// Nothing heard yet from `asked`.
    pub fn new(grid: Grid, asked: impl IntoIterator<Item = MemberId>) -> Self {
        let mut asked: Vec<_> = asked.into_iter().collect();
        asked.sort_unstable();
        asked.dedup();
        Self { grid, asked, answered: Bits::default(), rows: vec![Row::default(); grid.rows()] }
    }

    /// Takes what `member` said, oldest first. Its buckets may be finer than the rows; those
    /// that lie in no row, across several, or behind a later one are left out: it is missing
    /// there. They are taken one by one, so that they need not all be decoded at once.
    ///
    /// # Errors
    /// If it was not asked, or has answered before.
    pub fn take(
        &mut self,
        member: MemberId,
        buckets: impl IntoIterator<Item = Bucket>,
    ) -> Result<(), NotTaken> {
        let at = self.asked.binary_search(&member).map_err(|_| NotTaken::Unasked)?;
        if self.answered.has(at) {
            return Err(NotTaken::Twice);
        }
        self.answered.set(at);
        let mut own: Option<(usize, Aggregate)> = None;
        for Bucket { start, span_ms, aggregate } in buckets {
            let Some(row) = self.grid.row(start, span_ms) else { continue };
            match &mut own {
                Some((same, sum)) if *same == row => sum.merge(&aggregate),
                Some((later, _)) if *later > row => {}
                _ => {
                    if let Some((row, whole)) = own.replace((row, aggregate)) {
                        self.rows[row].add(at, whole);
                    }
                }
            }
        }
        if let Some((row, whole)) = own {
            self.rows[row].add(at, whole);
        }
        Ok(())
    }

    /// Its rows of time.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Each row with its beginning, in order.
    pub fn rows(&self) -> impl Iterator<Item = (WallTime, &Row)> {
        self.rows.iter().enumerate().map(|(at, row)| (self.grid.start(at), row))
    }

    /// Who was asked and has not answered at all.
    pub fn silent(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.answered.missing(&self.asked)
    }

    /// Who was asked and is not in `row`.
    pub fn missing<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = MemberId> + 'a {
        row.heard.missing(&self.asked)
    }

    /// Whether everybody is in every row.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| row.heard() == self.asked.len())
    }
}

/// Buckets of one member on their way, one after the other.
pub fn encode(buckets: &[Bucket]) -> Vec<u8> {
    let mut bytes = vec![wire::VERSION];
    for bucket in buckets {
        // Numbers and a bounded sketch: there is nothing in it that can't be encoded.
        wire::encode_bare(bucket, &mut bytes).expect("a bucket can be encoded");
    }
    bytes
}

/// The reverse of [`encode`], one by one: a day of distributions is a megabyte for each member,
/// and they are merged as they come. It ends at the first that can't be read, with why, and
/// after [`BUCKETS_MAX`].
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Bucket, WireError>> + '_ {
    let (first, mut rest) = match bytes.split_first() {
        Some((&wire::VERSION, rest)) => (None, rest),
        Some((&found, _)) => (Some(WireError::Version { found }), &[][..]),
        None => (Some(WireError::Empty), &[][..]),
    };
    let each = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (one, used) = match wire::decode_prefix(rest) {
            Ok((bucket, used)) => (Ok(bucket), used),
            Err(error) => (Err(error), rest.len()),
        };
        rest = &rest[used..];
        Some(one)
    });
    first.map(Err).into_iter().chain(each).take(BUCKETS_MAX)
}

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn set(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn missing<'a>(&'a self, of: &'a [MemberId]) -> impl Iterator<Item = MemberId> + 'a {
        of.iter().enumerate().filter(|(at, _)| !self.has(*at)).map(|(_, member)| *member)
    }
}
