//! Rules: sentences that say what is watched, when it is too much, and what is done then.
//!
//! In the manner of Monit, with the durations of Prometheus:
//!
//! ```text
//! critical when cpu > 90% for 2m until < 75% for 1m then mail ops, out keep 2 cooldown 10m
//! ```
//!
//! Pure. [`parse`](parse::parse) makes a [`Rule`] of a text and says of one that is none where and why.

use std::time::Duration;

use crate::base::{AppName, ServiceName, metric::Series};

pub mod bench;
pub mod came;
mod course;
pub mod during;
pub mod judge;
pub mod level;
pub mod parse;
mod read;
mod show;
#[cfg(test)]
mod tests;
mod unit;
pub mod wide;
pub mod words;

pub use crate::base::conduct::Severity;
pub use parse::{Wrong, parse};

/// One sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What it means for the health of what it is about; nothing if it says nothing.
    pub severity: Option<Severity>,
    /// When it acts.
    pub when: Held,
    /// When that is over; if not given, once it does not hold any more.
    pub until: Option<Held>,
    /// What is done.
    pub then: Vec<Action>,
    /// How.
    pub options: Options,
}

impl Rule {
    /// Everything that is measured for it.
    pub fn measured(&self) -> Vec<&Measured> {
        let mut all = Vec::new();
        self.when.condition.walk(&mut all);
        if let Some(until) = &self.until {
            until.condition.walk(&mut all);
        }
        all
    }

    /// Whether it is about the cluster: it takes more than one member to know, or to do.
    pub fn is_wide(&self) -> bool {
        let brings_in = self.then.iter().any(|action| matches!(action, Action::In(_)));
        brings_in || self.measured().iter().any(|of| of.scope.is_wide())
    }
}

/// A condition that has to hold for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Which.
    pub condition: Condition,
    /// Without a break; no time if one look is enough.
    pub lasting: Duration,
}

/// What is true, false or unknown at a moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of these; two or more.
    All(Vec<Condition>),
    /// At least one of these; two or more.
    Any(Vec<Condition>),
    /// The opposite.
    Not(Box<Condition>),
    /// A number beside a bound.
    Compare(Compare),
    /// A time of the day and of the week.
    During(During),
}

impl Condition {
    fn walk<'a>(&'a self, into: &mut Vec<&'a Measured>) {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().for_each(|one| one.walk(into)),
            Self::Not(inner) => inner.walk(into),
            Self::Compare(compare) => into.push(&compare.of),
            Self::During(_) => {}
        }
    }
}

/// A number beside a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    /// The number.
    pub of: Measured,
    /// How it is to stand to the bound.
    pub op: Op,
    /// The bound.
    pub bound: Bound,
}

/// How two numbers stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

/// What a number is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// In the unit of what is measured; of a counter, a second.
    pub value: f64,
    /// As a share of what there is in all, from 0 to 100: `disk.free /srv < 10%`.
    pub of_total: bool,
}

/// What is measured, and of whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of whom.
    pub scope: Scope,
    /// How many samples become one number; the latest if not given.
    pub fold: Option<Fold>,
    /// What.
    pub what: What,
    /// Over how long; the latest if not given.
    pub window: Option<Duration>,
}

impl Measured {
    /// Whether it is of a distribution.
    pub fn is_spread(&self) -> bool {
        matches!(self.fold, Some(Fold::Percentile(_)))
    }

    /// Over how long, milliseconds; 0 for the latest.
    pub fn window_ms(&self) -> u64 {
        let window = self.window.unwrap_or_default().as_millis();
        u64::try_from(window).unwrap_or(u64::MAX)
    }

    /// The series of how much there is in all, where its bound may be a share of that.
    pub fn total(&self) -> Option<Series> {
        let What::Series(series) = &self.what else { return None };
        let name = unit::total_of(series.name())?;
        let label = series.label().map(|label| format!(" {label}")).unwrap_or_default();
        Series::parse(&format!("{name}{label}")).ok()
    }
}

/// Of whom something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of each member for itself: each has its own episode.
    Member,
    /// Of all members together.
    Cluster,
    /// True where it is of at least one.
    Any,
    /// True where it is of each.
    Every,
}

impl Scope {
    /// Whether it takes more than one member to know.
    pub fn is_wide(self) -> bool {
        self != Self::Member
    }
}

/// How many samples become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The average.
    Avg,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// The sum over members.
    Sum,
    /// The root of the mean of the squares.
    Rms,
    /// How much a second; of a counter.
    Rate,
    /// This percentile, from 1 to 99; of a histogram.
    Percentile(u8),
    /// How many; of events.
    Count,
    /// Which share of all requests, in hundredths.
    Share,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A series.
    Series(Series),
    /// Events of this kind, of one application if that is said.
    Events {
        /// Which kinds there are is not known here.
        kind: String,
        /// Of which.
        app: Option<AppName>,
    },
    /// Requests from these countries, continents or networks.
    From(Vec<String>),
}

/// A time of the day, on some days of the week, somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct During {
    /// From this minute of the day on.
    pub from: u16,
    /// Up to this one, which is not in it. Before `from` it is one of the next day.
    pub to: u16,
    /// The days on which it begins, Monday first.
    pub days: [bool; 7],
    /// The time zone, by its name in the tz database; UTC if not given.
    pub zone: Option<String>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A mail to whom this name stands for.
    Mail(String),
    /// A request to where this name leads.
    Webhook(String),
    /// A script of this name.
    Run(String),
    /// The member out of service.
    Out,
    /// So many members that wait in service.
    In(u16),
    /// A service anew.
    Restart {
        /// Of which application.
        app: AppName,
        /// Which; all if none is given.
        service: Option<ServiceName>,
    },
    /// All compared anew, byte by byte; of one application if that is given.
    Sync(Option<AppName>),
    /// An event alone.
    Log,
}

/// How it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// At least so many stay in service.
    pub keep: Option<u16>,
    /// It does not begin again for so long after it was over.
    pub cooldown: Option<Duration>,
    /// Said again every so often while it lasts.
    pub repeat: Option<Duration>,
    /// At most so often in so long.
    pub at_most: Option<(u16, Duration)>,
}

/// Bytes of one rule.
pub const TEXT_MAX: usize = 1_000;
/// Comparisons and times in one rule.
pub const PARTS_MAX: usize = 16;
/// Brackets and `not` within each other.
pub const DEPTH_MAX: usize = 8;
/// Actions of one rule.
pub const ACTIONS_MAX: usize = 8;
