//! Numbers with their units, and whether they fit what is measured.

use super::{
    Bound, Fold, Measured, What,
    words::{PerWord, UnitWord},
};
use crate::base::metric::{Kind, Unit};

/// A number as it stands in a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number<'a> {
    pub value: f64,
    /// What stands behind it, without a `/s`.
    pub unit: &'a str,
    /// How many seconds it is for, where it is for some: 1 for `/s`.
    pub per: Option<f64>,
}

/// What a measured number counts, for a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    unit: Unit,
    per_second: bool,
    has_total: bool,
}

impl Number<'_> {
    /// The bound that it is for `of`; else a sentence without its point.
    pub fn bound(self, of: &Measured) -> Result<Bound, String> {
        let counts = Counts::of(of);
        let plain = |value| Bound { value, of_total: false };
        if self.per.is_some() && !counts.per_second {
            return Err(format!("what is measured is no rate: leave out `/`{}", counts.example()));
        }
        let value = self.value / self.per.unwrap_or(1.0);
        let scaled = match (counts.unit, UnitWord::read(self.unit)) {
            (Unit::Percent, Some(UnitWord::Percent)) => Some(value),
            (Unit::Bytes, Some(UnitWord::Percent)) if counts.has_total => {
                if value > 100.0 {
                    return Err("there is no more than 100% of it".to_owned());
                }
                return Ok(Bound { value, of_total: true });
            }
            (Unit::Bytes, Some(unit)) => unit.bytes().map(|each| value * each),
            (Unit::Seconds, Some(unit)) => unit.seconds().map(|each| value * each),
            (Unit::Days, Some(UnitWord::Day)) => Some(value),
            (Unit::Count, None) if self.unit.is_empty() => Some(value),
            _ => None,
        };
        scaled.map(plain).ok_or_else(|| match counts.unit {
            Unit::Percent => format!("this is measured in hundredths: write {value}%"),
            _ => format!("`{}` is no unit for this{}", self.unit, counts.example()),
        })
    }
}

impl Counts {
    fn of(of: &Measured) -> Self {
        match &of.what {
            What::Series(series) => Self {
                unit: series.unit(),
                per_second: series.kind() == Kind::Counter,
                has_total: total_of(series.name()).is_some() && !matches!(of.fold, Some(Fold::Sum)),
            },
            What::Events { .. } => Self { unit: Unit::Count, per_second: false, has_total: false },
            What::From(_) => {
                let unit = if of.fold == Some(Fold::Share) { Unit::Percent } else { Unit::Count };
                Self { unit, per_second: unit == Unit::Count, has_total: false }
            }
        }
    }

    fn example(self) -> &'static str {
        match (self.unit, self.per_second) {
            (Unit::Percent, _) => ", as in 90%",
            (Unit::Bytes, true) => ", as in 10MB/s",
            (Unit::Bytes, false) => ", as in 1.5GB",
            (Unit::Seconds, _) => ", as in 250ms",
            (Unit::Days, _) => ", as in 14d",
            (Unit::Count, true) => ", as in 500/s",
            (Unit::Count, false) => ", as in 4",
        }
    }
}

/// The series that says how much there is in all of what `name` measures a part of.
pub(super) fn total_of(name: &str) -> Option<&'static str> {
    match name {
        "disk.free" => Some("disk.total"),
        "mem.used" | "mem.available" => Some("mem.total"),
        _ => None,
    }
}

impl UnitWord {
    /// How many bytes one of it is, if it is a unit of them.
    pub(super) fn bytes(self) -> Option<f64> {
        Some(match self {
            Self::Byte => 1.0,
            Self::KiloByte | Self::KiloByteToo => 1e3,
            Self::MegaByte => 1e6,
            Self::GigaByte => 1e9,
            Self::TeraByte => 1e12,
            Self::KibiByte => 1024.0,
            Self::MebiByte => 1_048_576.0,
            Self::GibiByte => 1_073_741_824.0,
            Self::TebiByte => 1_099_511_627_776.0,
            Self::Percent
            | Self::Microsecond
            | Self::Millisecond
            | Self::Second
            | Self::Minute
            | Self::Hour
            | Self::Day => return None,
        })
    }

    /// How many seconds one of it is, if it is a unit of time.
    pub(super) fn seconds(self) -> Option<f64> {
        Some(match self {
            Self::Microsecond => 1e-6,
            Self::Millisecond => 1e-3,
            Self::Second => 1.0,
            Self::Minute => 60.0,
            Self::Hour => 3_600.0,
            Self::Day => 86_400.0,
            Self::Percent
            | Self::Byte
            | Self::KiloByte
            | Self::KiloByteToo
            | Self::MegaByte
            | Self::GigaByte
            | Self::TeraByte
            | Self::KibiByte
            | Self::MebiByte
            | Self::GibiByte
            | Self::TebiByte => return None,
        })
    }
}

impl PerWord {
    /// How many seconds it is for.
    pub(super) fn seconds(self) -> f64 {
        match self {
            Self::Second => 1.0,
            Self::Minute => 60.0,
            Self::Hour => 3_600.0,
        }
    }
}
