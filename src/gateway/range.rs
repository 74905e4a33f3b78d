//! Single byte ranges. Pure. Several ranges at once are allowed to be ignored
//! and are: a static file with many ranges is a way to make a server work
//! hard, and browsers ask for one. After RFC 9110, section 14.

use std::ops::Range;

/// What a `Range` line asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything: no range, several, or one that can't be read.
    Whole,
    /// These bytes; never empty, within the file.
    Bytes(Range<u64>),
    /// Bytes that the file does not have: 416.
    Beyond,
}

/// What `line` asks of a file of `size` bytes.
pub fn parse(line: &str, size: u64) -> Part {
    let Some((unit, ranges)) = line.split_once('=') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Part::Whole };
    match (first, last) {
        ("", "") => Part::Whole,
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(0) => Part::Beyond,
            Some(_) if size == 0 => Part::Whole, // no Content-Range can say "nothing"
            Some(suffix) => Part::Bytes(size.saturating_sub(suffix)..size),
        },
        (first, last) => {
            let end = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match (number(first), end) {
                (Some(first), Some(last)) if first > last => Part::Whole,
                (Some(first), Some(_)) if first >= size => Part::Beyond,
                (Some(first), Some(last)) => Part::Bytes(first..last.saturating_add(1).min(size)),
                _ => Part::Whole,
            }
        }
    }
}

/// Digits only; a number too large for 64 bits is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        for (line, part) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=0-9", Part::Bytes(0..10)),
            ("Bytes = 2-4", Part::Bytes(2..5)),
            ("bytes=3-", Part::Bytes(3..10)),
            ("bytes=3-99", Part::Bytes(3..10)),
            ("bytes=3-99999999999999999999999", Part::Bytes(3..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=10-", Part::Beyond),
            ("bytes=10-11", Part::Beyond),
            ("bytes=99999999999999999999999-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(parse(line, 10), part, "{line}");
        }
    }

    #[test]
    fn ranges_of_nothing() {
        assert_eq!(parse("bytes=0-", 0), Part::Beyond);
        assert_eq!(parse("bytes=-1", 0), Part::Whole);
    }
}
