//! When a certificate begins and ceases to be valid, and what that means at a moment. Pure: DER
//! in, two moments out; nothing else of it is read, as the TLS library reads the rest.
//!
//! After RFC 5280, section 4.1, and ITU-T X.690.

use crate::base::WallTime;

/// How long before its end a certificate is about to end, at most: time enough for a person.
const SOON_S: u64 = 14 * 86_400;
/// And at most this part of its lifetime, one in so many: one that is made for a few days is not
/// about to end from its first.
const SOON_PART: u64 = 3;

/// From when to when a certificate is valid, both included, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Seconds since 1970, as `until`.
    from: u64,
    until: u64,
}

impl Validity {
    /// Its beginning.
    pub fn since(self) -> WallTime {
        WallTime(self.from.saturating_mul(1000))
    }

    /// Its end.
    pub fn until(self) -> WallTime {
        WallTime(self.until.saturating_mul(1000))
    }

    /// Whether it is valid at `now`.
    pub fn holds(self, now: WallTime) -> bool {
        (self.from..=self.until).contains(&(now.0 / 1000))
    }

    /// Whether at `now` it is time to replace it: less than 14 days are left, or, where that is
    /// less, a third of its lifetime.
    pub fn ends_soon(self, now: WallTime) -> bool {
        let lifetime = self.until.saturating_sub(self.from);
        let left = self.until().0.saturating_sub(now.0);
        left < SOON_S.min(lifetime / SOON_PART).saturating_mul(1000)
    }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, which holds the version.
const VERSION: u8 = 0xa0;

/// Reads it out of a certificate; none where that is none.
pub(super) fn of(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some(Validity { from, until })
}

/// The content of the element of kind `tag` that `bytes` begin with, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        // A certificate of more than four gigabytes is none.
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = digits.iter().fold(0_u64, |all, digit| all << 8 | u64::from(*digit));
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The moment that `bytes` begin with, and what follows it.
fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (text, century, rest) = match element(bytes, UTC_TIME) {
        // Two digits of a year: 1950 to 2049.
        Some((text, rest)) => {
            let year = number(text.get(..2)?)?;
            (text, Some(if year < 50 { 20 } else { 19 }), rest)
        }
        None => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, None, rest))?,
    };
    let (digits, end) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (century, digits) = match century {
        Some(century) => (century, digits),
        None => (number(digits.get(..2)?)?, digits.get(2..)?),
    };
    if end != b"Z" || digits.len() != 12 {
        return None;
    }
    let mut pairs = digits.chunks(2).map(number);
    let mut next = || pairs.next().flatten();
    let year = century * 100 + next()?;
    let (month, day) = (next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, negative before (days-from-civil, Howard Hinnant).
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (years.div_euclid(400), years.rem_euclid(400));
    let of_year = (153 * months + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    // What lay before 1970 is long over.
    Some((u64::try_from(seconds).unwrap_or(0), rest))
}

fn number(digits: &[u8]) -> Option<i64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(tag: u8, text: &str) -> Vec<u8> {
        [&[tag, text.len() as u8], text.as_bytes()].concat()
    }

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        parameters.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn it_ends_soon_where_14_days_are_left_or_a_third_of_a_short_life() {
        const DAY: u64 = 86_400;
        let from = 20_000 * DAY;
        for (days, soon) in [(365, 14 * DAY), (90, 14 * DAY), (42, 14 * DAY), (6, 2 * DAY)] {
            let whole = Validity { from, until: from + days * DAY };
            let left = |seconds: u64| WallTime((whole.until - seconds) * 1000);
            assert!(!whole.ends_soon(whole.since()), "from its first day: {days} days");
            assert!(!whole.ends_soon(left(soon)) && whole.ends_soon(left(soon - 1)), "{days} days");
            assert!(whole.ends_soon(whole.until()) && whole.holds(whole.until()));
            assert!(whole.ends_soon(WallTime((whole.until + DAY) * 1000)));
        }
        // What ends before it begins is no lifetime.
        let none = Validity { from, until: from - DAY };
        assert!(!none.ends_soon(none.since()) && !none.holds(none.since()));
    }

    #[test]
    fn both_forms_of_a_time_are_read() {
        for (tag, text, told) in [
            (UTC_TIME, "700101000000Z", "1970-01-01T00:00:00Z"),
            (UTC_TIME, "240229123456Z", "2024-02-29T12:34:56Z"),
            (UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z"),
            (UTC_TIME, "500101000000Z", "1970-01-01T00:00:00Z"),
            (GENERALIZED_TIME, "20500301000000Z", "2050-03-01T00:00:00Z"),
            (GENERALIZED_TIME, "99991231235959Z", "9999-12-31T23:59:59Z"),
        ] {
            let bytes = one(tag, text);
            let (seconds, rest) = time(&bytes).unwrap();
            assert_eq!(WallTime(seconds * 1000).to_string(), told);
            assert!(rest.is_empty());
        }
        for (tag, text) in [
            (UTC_TIME, "2402291234Z"),
            (UTC_TIME, "240229123456+0100"),
            (UTC_TIME, "241329123456Z"),
            (UTC_TIME, "2402291234 6Z"),
            (UTC_TIME, ""),
            (GENERALIZED_TIME, "20240229123456.5Z"),
            (GENERALIZED_TIME, "20240229126056Z"),
            (GENERALIZED_TIME, "Z"),
            (INTEGER, "240229123456Z"),
        ] {
            assert_eq!(time(&one(tag, text)), None, "{text}");
        }
    }

    #[test]
    fn it_is_read_out_of_real_certificates() {
        for (from, until) in [((2020, 1, 2), (2030, 4, 5)), ((2049, 12, 31), (2060, 1, 1))] {
            let Validity { from: begin, until: end } = of(&certificate(from, until)).unwrap();
            for (seconds, (year, month, day)) in [(begin, from), (end, until)] {
                let told = WallTime(seconds * 1000).to_string();
                assert_eq!(told, format!("{year}-{month:02}-{day:02}T00:00:00Z"));
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes: Vec<u8>) {
            let _ = of(&bytes);
            let _ = time(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_never_a_panic(
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut der = certificate((2020, 1, 2), (2055, 4, 5));
            let at = at.index(der.len());
            der[at] = byte;
            let cut = cut.index(der.len() + 1);
            let _ = of(&der[..cut]);
        }
    }
}
