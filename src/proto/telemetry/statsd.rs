//! What services and scripts measure themselves, as lines in the manner of StatsD:
//! `NAME:VALUE|KIND`, with `|@RATE` and `|#LABEL` behind it.
//!
//! Everything here comes from whoever can write to a socket of this machine, so all of it is
//! bounded: how many series there are, how many lines a second are taken, how long they are. What
//! is too much or not understood is counted, and changes nothing.
//!
//! The lines are those of StatsD (Etsy, 2011), with the tags of DogStatsD for the label.

use std::collections::BTreeMap;

use super::{Distribution, Reading, Unfit};
use crate::base::{
    Time, WallTime,
    durations::Durations,
    limits::{CUSTOM_LINES_MAX, CUSTOM_SERIES_MAX},
    metric::{CUSTOM, Kind, Series},
};

/// So long the level of a gauge is told that nobody tells any more. Then it is not known.
const LEVEL_FOR: std::time::Duration = std::time::Duration::from_secs(300);
/// So long a counter or a distribution is told of which nothing more comes.
const SILENT_FOR: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Why a line is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Something is missing, or there is too much.
    #[error("a line is NAME:VALUE|KIND, and |@RATE and |#LABEL may stand behind it")]
    Form,
    /// No kind that there is.
    #[error("a kind is c (a count), g (a level) or ms (a duration in milliseconds)")]
    Kind,
    /// No number, or one out of bounds.
    #[error(
        "a value is a finite number of at most 1e30 either side of zero, and a count none below it"
    )]
    Value,
    /// No rate.
    #[error("a rate is above 0 and at most 1, and only counts and durations have one")]
    Rate,
    /// The name is too long or empty, its end is that of another kind, or the label is none.
    #[error(
        "a name has letters, digits, dots, hyphens and underscores, 64 bytes with custom. and its \
         end; .total is the end of counts alone and .seconds that of durations; a label has 1 to \
         200 bytes"
    )]
    Name,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Of which series.
    pub series: Series,
    /// What.
    pub said: Said,
}

/// What is said of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// It is at this level.
    Level(f64),
    /// It has risen by so much, or fallen.
    Change(f64),
    /// So much more was counted.
    Count(f64),
    /// Something took so many seconds.
    Took(f64),
}

impl Line {
    /// Reads one line, without its end.
    ///
    /// # Errors
    /// If it is not understood.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let (name, rest) = text.split_once(':').ok_or(Wrong::Form)?;
        let mut parts = rest.split('|');
        let (value, kind) = (parts.next().unwrap_or(""), parts.next().ok_or(Wrong::Form)?);
        let (mut rate, mut label) = (None, None);
        for part in parts {
            let (place, text) = match (part.strip_prefix('@'), part.strip_prefix('#')) {
                (Some(text), _) => (&mut rate, text),
                (_, Some(text)) => (&mut label, text),
                _ => return Err(Wrong::Form),
            };
            if place.replace(text).is_some() {
                return Err(Wrong::Form);
            }
        }
        let number: f64 = value.parse().map_err(|_| Wrong::Value)?;
        Unfit::check(number).map_err(|_| Wrong::Value)?;
        let rate = match rate {
            Some(_) if kind == "g" => return Err(Wrong::Rate),
            Some(text) => text.parse::<f64>().map_err(|_| Wrong::Rate)?,
            None => 1.0,
        };
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(Wrong::Rate);
        }
        let said = match kind {
            "g" if value.starts_with(['+', '-']) => Said::Change(number),
            "g" => Said::Level(number),
            "c" if number < 0.0 => return Err(Wrong::Value),
            "c" => {
                let count = number / rate;
                Unfit::check(count).map_err(|_| Wrong::Value)?;
                Said::Count(count)
            }
            // One that is counted for ten like it changes neither their average nor how they are
            // distributed.
            "ms" => Said::Took(number / 1_000.0),
            _ => return Err(Wrong::Kind),
        };
        let series = series(name, label, said).ok_or(Wrong::Name)?;
        Ok(Self { series, said })
    }
}

/// The series of that name. Letters become small, and what can't be in a name an underscore:
/// programs that send lines like these were not written for us.
fn series(name: &str, label: Option<&str>, said: Said) -> Option<Series> {
    let own = name.strip_prefix(CUSTOM).unwrap_or(name);
    let fit = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '-' | '_') => c,
        _ => '_',
    };
    let mut text: String = CUSTOM.chars().chain(own.chars().map(fit)).collect();
    let (kind, end) = match said {
        Said::Level(_) | Said::Change(_) => (Kind::Gauge, ""),
        Said::Count(_) => (Kind::Counter, ".total"),
        Said::Took(_) => (Kind::Histogram, ".seconds"),
    };
    if !text.ends_with(end) {
        text.push_str(end);
    }
    if let Some(label) = label {
        text.push(' ');
        text.push_str(label);
    }
    Series::parse(&text).ok().filter(|series| series.kind() == kind)
}

/// What is told of one series, since it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Its level.
    Level(f64),
    /// All that was counted.
    Total(f64),
    /// How long things took.
    Took(Durations),
}

#[derive(Clone, Debug)]
enum What {
    Level(f64),
    Total(f64),
    /// Since the last measurement, and altogether.
    Took(Distribution, Box<Durations>),
}

#[derive(Clone, Debug)]
struct Kept {
    what: What,
    /// Whether something came since it was told last, and when it was told that something had.
    fresh: bool,
    heard: Time,
}

/// What was told, until it is measured.
#[derive(Clone, Debug, Default)]
pub struct Custom {
    kept: BTreeMap<Series, Kept>,
    /// Lines since the last measurement.
    lines: usize,
    refused: u64,
}

impl Custom {
    /// Takes the lines of one packet.
    pub fn take(&mut self, packet: &[u8]) {
        for line in packet.split(|byte| *byte == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            self.lines += 1;
            let taken = self.lines <= CUSTOM_LINES_MAX
                && std::str::from_utf8(line)
                    .ok()
                    .and_then(|line| Line::parse(line).ok())
                    .is_some_and(|line| self.keep(line));
            self.refused += u64::from(!taken);
        }
    }

    /// False if there is no room for it, or it comes to no number that can be kept.
    fn keep(&mut self, line: Line) -> bool {
        let Line { series, said } = line;
        if self.kept.len() >= CUSTOM_SERIES_MAX && !self.kept.contains_key(&series) {
            return false;
        }
        let begin = || Kept {
            what: match said {
                Said::Level(_) | Said::Change(_) => What::Level(0.0),
                Said::Count(_) => What::Total(0.0),
                Said::Took(_) => What::Took(Distribution::default(), Box::default()),
            },
            fresh: true,
            heard: Time::default(),
        };
        let kept = self.kept.entry(series).or_insert_with(begin);
        kept.fresh = true;
        // The kind of a series is in its name, so that one never says what another does.
        let (number, value) = match (&mut kept.what, said) {
            (What::Level(level), Said::Level(value)) => (level, value),
            (What::Level(level), Said::Change(by)) => {
                let value = *level + by;
                (level, value)
            }
            (What::Total(total), Said::Count(more)) => {
                let value = *total + more;
                (total, value)
            }
            (What::Took(newest, all), Said::Took(seconds)) => {
                let fits = newest.observe(seconds).is_ok();
                if fits {
                    all.observe(seconds);
                }
                return fits;
            }
            _ => return false,
        };
        let fits = Unfit::check(value).is_ok();
        if fits {
            *number = value;
        }
        fits
    }

    /// What is to be kept of this second.
    pub fn readings(&mut self, now: Time, at: WallTime) -> Vec<(Series, Reading)> {
        self.lines = 0;
        self.kept.retain(|_, kept| {
            if std::mem::take(&mut kept.fresh) {
                kept.heard = now;
            }
            let most = if matches!(kept.what, What::Level(_)) { LEVEL_FOR } else { SILENT_FOR };
            now.since(kept.heard) < most
        });
        let all = self.kept.iter_mut().filter_map(|(series, kept)| {
            let reading = match &mut kept.what {
                What::Level(number) | What::Total(number) => Reading::Number(*number),
                What::Took(newest, _) => Reading::Spread(newest.take(at)?),
            };
            Some((series.clone(), reading))
        });
        all.collect()
    }

    /// Each series with what is told of it, by name.
    pub fn measures(&self) -> Vec<(Series, Measure)> {
        let measure = |kept: &Kept| match &kept.what {
            What::Level(level) => Measure::Level(*level),
            What::Total(total) => Measure::Total(*total),
            What::Took(_, all) => Measure::Took(**all),
        };
        self.kept.iter().map(|(series, kept)| (series.clone(), measure(kept))).collect()
    }

    /// Lines that were not taken, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Result<(String, Said), Wrong> {
        Line::parse(text).map(|line| (line.series.to_string(), line.said))
    }

    #[test]
    fn lines_are_read_as_statsd_writes_them() {
        let fine = |text: &str, series: &str, said| {
            assert_eq!(line(text), Ok((series.to_owned(), said)), "{text}");
        };
        fine("queue:12|g", "custom.queue", Said::Level(12.0));
        fine("custom.queue:1.5e3|g", "custom.queue", Said::Level(1_500.0));
        fine("queue:-2|g", "custom.queue", Said::Change(-2.0));
        fine("queue:+2|g|#north", "custom.queue north", Said::Change(2.0));
        fine("orders:1|c", "custom.orders.total", Said::Count(1.0));
        fine("orders.total:1|c|@0.1|#shop:eu,kind:b", "custom.orders.total shop:eu,kind:b", {
            Said::Count(10.0)
        });
        fine("job:250|ms", "custom.job.seconds", Said::Took(0.25));
        fine("job:250|ms|#a b|@0.5", "custom.job.seconds a b", Said::Took(0.25));
        fine("Shop/Cart Size:1|g", "custom.shop_cart_size", Said::Level(1.0));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, wrong) in [
            ("", Wrong::Form),
            ("queue", Wrong::Form),
            ("queue:1", Wrong::Form),
            ("queue:1|g|x", Wrong::Form),
            ("queue:1|g|#a|#b", Wrong::Form),
            ("queue:1|s", Wrong::Kind),
            ("queue:|g", Wrong::Value),
            ("queue:NaN|g", Wrong::Value),
            ("queue:inf|g", Wrong::Value),
            ("queue:1e31|g", Wrong::Value),
            ("orders:-1|c", Wrong::Value),
            ("orders:1e30|c|@0.1", Wrong::Value),
            ("orders:1|c|@1e-300", Wrong::Value),
            ("queue:1|g|@0.5", Wrong::Rate),
            ("orders:1|c|@0", Wrong::Rate),
            ("orders:1|c|@2", Wrong::Rate),
            ("orders:1|c|@NaN", Wrong::Rate),
            (":1|g", Wrong::Name),
            ("a..b:1|g", Wrong::Name),
            ("queue.total:1|g", Wrong::Name),
            ("queue.seconds:1|g", Wrong::Name),
            ("queue:1|g|#", Wrong::Name),
        ] {
            assert_eq!(line(text), Err(wrong), "{text}");
        }
        assert_eq!(line(&format!("{}:1|g", "a".repeat(58))), Err(Wrong::Name));
        assert_eq!(line(&format!("{}:1|c", "a".repeat(52))), Err(Wrong::Name), "with its end");
    }

    fn told(custom: &mut Custom, second: u64) -> Vec<(String, Option<f64>)> {
        let (now, at) = (Time(second * 1_000_000), WallTime(second * 1_000));
        let number = |reading| match reading {
            Reading::Number(number) => Some(number),
            Reading::Spread(_) => None,
        };
        let readings = custom.readings(now, at).into_iter();
        readings.map(|(series, reading)| (series.to_string(), number(reading))).collect()
    }

    #[test]
    fn what_is_told_is_kept_until_it_is_old() {
        let mut custom = Custom::default();
        custom.take(b"queue:5|g\nqueue:+2|g\r\n\norders:3|c\norders:1|c\njob:20|ms\nnonsense");
        let expected = |queue: bool, job: bool| {
            let job = job.then(|| ("custom.job.seconds".to_owned(), None));
            let orders = [("custom.orders.total".to_owned(), Some(4.0))];
            let queue = queue.then(|| ("custom.queue".to_owned(), Some(7.0)));
            job.into_iter().chain(orders).chain(queue).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut custom, 10), expected(true, true));
        assert_eq!(custom.refused(), 1);
        assert_eq!(told(&mut custom, 11), expected(true, false), "nothing took time since");
        assert_eq!(told(&mut custom, 309), expected(true, false));
        assert_eq!(told(&mut custom, 310), expected(false, false), "nobody knows any more");
        assert_eq!(told(&mut custom, 86_410), []);
        custom.take(b"queue:+1|g");
        assert_eq!(told(&mut custom, 86_411), [("custom.queue".to_owned(), Some(1.0))]);
    }

    #[test]
    fn neither_names_nor_lines_come_without_end() {
        let mut custom = Custom::default();
        let many: String = (0..CUSTOM_SERIES_MAX + 10).map(|n| format!("n{n}:1|g\n")).collect();
        custom.take(many.as_bytes());
        assert_eq!((custom.kept.len(), custom.refused()), (CUSTOM_SERIES_MAX, 10));
        assert_eq!(told(&mut custom, 1).len(), CUSTOM_SERIES_MAX);
        custom.take("n1:1|c\nn1:2|g\n".repeat(CUSTOM_LINES_MAX).as_bytes());
        let beyond = CUSTOM_LINES_MAX as u64;
        // Half of those taken had no room for their name.
        assert_eq!(custom.refused(), 10 + beyond / 2 + beyond);
        assert_eq!(told(&mut custom, 2).len(), CUSTOM_SERIES_MAX);
    }

    #[test]
    fn what_is_refused_begins_no_series() {
        let mut custom = Custom::default();
        custom.take(b"a:1|c|@1e-300\nb:1e31|g\nc:-1|c\nd:1|g|@0.5");
        assert_eq!(custom.refused(), 4);
        assert_eq!(told(&mut custom, 1), []);
    }

    #[test]
    fn a_sum_never_leaves_what_can_be_kept() {
        let mut custom = Custom::default();
        custom.take(b"a:9e29|c\na:9e29|c\nb:9e29|g\nb:+9e29|g");
        assert_eq!(custom.refused(), 2);
        assert!(told(&mut custom, 1).iter().all(|(_, number)| *number == Some(9e29)));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(packet in ".{0,200}", more in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut custom = Custom::default();
            custom.take(packet.as_bytes());
            custom.take(&more);
            custom.readings(Time(1), WallTime(1));
        }
    }
}
