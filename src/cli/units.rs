//! Quantities as people write and read them.

use std::{str::FromStr, time::Duration};

/// A span of time on the command line: `90s`, `30m`, `1h`, `7d`, or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds_each: u64 = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return Err("give a number and s, m, h, d or w, as 90s or 1h".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "give a number, as 90s or 1h".to_owned())?;
        let seconds = number.checked_mul(seconds_each).ok_or("that is too long")?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

/// Bytes with a unit, three digits or so.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span of time in its largest unit or two.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// `1 file`, `2 files`.
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_nonsense_is_not() {
        let seconds = |text: &str| text.parse::<Span>().map(|s| s.0.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("1h"), Ok(3_600));
        assert_eq!(seconds("2w"), Ok(1_209_600));
        for bad in ["", "h", "1x", "-1s", "1.5h", "99999999999999999999w", "9999999999999999999w"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(1_048_575), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(span(59_999), "59s");
        assert_eq!(span(61_000), "1m01s");
        assert_eq!(span(90_000_000), "1d01h");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
    }
}
