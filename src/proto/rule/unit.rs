//! Numbers with their units, and whether they fit what is measured.

use super::{Bound, Fold, Measured, What};
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
        let scaled = match (counts.unit, self.unit) {
            (Unit::Percent, "%") => Some(value),
            (Unit::Bytes, "%") if counts.has_total => {
                if value > 100.0 {
                    return Err("there is no more than 100% of it".to_owned());
                }
                return Ok(Bound { value, of_total: true });
            }
            (Unit::Bytes, unit) => bytes(unit).map(|each| value * each),
            (Unit::Seconds, unit) => seconds(unit).map(|each| value * each),
            (Unit::Days, "d") => Some(value),
            (Unit::Count, "") => Some(value),
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

fn bytes(unit: &str) -> Option<f64> {
    Some(match unit {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return None,
    })
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}
