//! Spans, sizes and shares as people write them. Pure parsing; every error is
//! a sentence that says what is expected.

use std::time::Duration;

/// The longest span that is taken, so that no sum overflows: a year.
const SPAN_MAX_US: u64 = 365 * 86_400 * 1_000_000;

/// A span: `10s`, `1.5s`, `250ms`, `800us`, `2m`, `1h`, `1d`; seconds where no
/// unit is given.
///
/// # Errors
/// A sentence if it is none, or longer than a year.
pub fn span(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no span of time: write 10s, 1.5s, 250ms, 2m or 1h");
    let (number, unit) = split(text);
    let unit_us: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(expected()),
    };
    let us = scaled(number, unit_us).ok_or_else(expected)?;
    if us > SPAN_MAX_US {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(Duration::from_micros(us))
}

/// A size in bytes: `10MB`, `4KiB`, `1.5GB`, `800B`; bytes where no unit is given.
///
/// # Errors
/// A sentence if it is none, or more than 1 TiB.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is no size: write 10MB, 4KiB or 800B");
    let (number, unit) = split(text);
    let each: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    let bytes = scaled(number, each).ok_or_else(expected)?;
    if bytes > super::limits::FILE_MAX {
        return Err(format!("`{text}` is more than 1 TiB"));
    }
    Ok(bytes)
}

/// A share in thousandths: `5%`, `0.5%`.
///
/// # Errors
/// A sentence if it is none, or not from 0% to 100%.
pub fn share(text: &str) -> Result<u32, String> {
    let expected = || format!("`{text}` is no share: write 5% or 0.5%, up to 100%");
    let number = text.strip_suffix('%').ok_or_else(expected)?;
    let thousandths = scaled(number, 10).filter(|t| *t <= 1_000).ok_or_else(expected)?;
    u32::try_from(thousandths).map_err(|_| expected())
}

/// What a packet takes, from and to: `1ms..20ms`, or `5ms` for always the same.
///
/// # Errors
/// A sentence if it is none, or runs backwards.
pub fn latency(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let range = span(from).and_then(|from| Ok((from, span(to)?)));
    match range {
        Ok((from, to)) if from <= to => Ok((from, to)),
        Ok(_) => Err(format!("`{text}` runs backwards: write the shorter one first, as 1ms..20ms")),
        Err(_) => Err(format!("`{text}` is no latency: write 1ms..20ms, or 5ms")),
    }
}

/// A span as [`span`] reads it back: in the largest unit that it is a whole
/// number of. Parts of a microsecond are cut off.
pub fn show_span(span: Duration) -> String {
    const UNITS: [(u128, &str); 5] =
        [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
    let us = span.as_micros();
    let fits = |unit: &&(u128, &str)| us != 0 && us.is_multiple_of(unit.0);
    let (each, unit) = UNITS.iter().find(fits).copied().unwrap_or((1_000_000, "s"));
    format!("{}{unit}", us / each)
}

/// A size as [`size`] reads it back: in the largest unit that it is a whole
/// number of.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 7] = [
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1_000, "kB"),
        (1, "B"),
    ];
    let fits = |unit: &&(u64, &str)| bytes != 0 && bytes.is_multiple_of(unit.0);
    let (each, unit) = UNITS.iter().find(fits).copied().unwrap_or((1, "B"));
    format!("{}{unit}", bytes / each)
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// `number`, which may have three decimals, times `unit`. Without floats, so
/// that the same text means the same everywhere.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let fine = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !fine(whole) || !fine(decimals) || decimals.len() > 3 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let thousandths: u64 = format!("{decimals:0<3}").parse().ok()?;
    whole.checked_mul(unit)?.checked_add(thousandths.checked_mul(unit)? / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0s", "1us", "1500us", "250ms", "90s", "2m", "1h", "36h"] {
            assert_eq!(show_span(span(text).unwrap()), text);
        }
        assert_eq!(show_span(Duration::from_secs(120)), "2m");
        for text in ["0B", "1B", "800B", "4KiB", "512MB", "512MiB", "1GB", "1GiB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
    }

    #[test]
    fn quantities_are_read_and_nonsense_is_not() {
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("4KiB"), Ok(4_096));
        assert_eq!(share("0.5%"), Ok(5));
        assert_eq!(share("100%"), Ok(1_000));
        let range = Ok((Duration::from_millis(1), Duration::from_millis(20)));
        assert_eq!(latency("1ms..20ms"), range);
        for bad in ["", "s", "1x", "-1s", ".5s", "1.s", "1.2345s", "400d", "99999999999999999999s"]
        {
            assert!(span(bad).is_err(), "{bad}");
        }
        for bad in ["", "MB", "10mb", "2000GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["5", "%", "101%", "5%%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        for bad in ["", "20ms..1ms", "1ms..", "..", "a..b"] {
            assert!(latency(bad).is_err(), "{bad}");
        }
    }
}
