//! Times of the day as clocks on the wall show them, somewhere: with summer time where there is
//! one. Zones are those of the tz database (IANA) as it is built in, so that all members of a
//! release mean the same; none is read from the system.

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::During;
use crate::base::WallTime;

/// Whether there is a zone of this name.
pub fn is_zone(name: &str) -> bool {
    zone(Some(name)).is_some()
}

fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZoneDatabase::bundled().get(name).ok(),
    }
}

impl During {
    /// Whether it is that time at `wall`; `None` where nobody knows the zone.
    ///
    /// An hour that the clocks leave out is not there, and one that they show twice is there
    /// twice: what counts is what they show.
    pub fn holds_at(&self, wall: WallTime) -> Option<bool> {
        let zone = zone(self.zone.as_deref())?;
        let moment = Timestamp::from_millisecond(i64::try_from(wall.0).ok()?).ok()?;
        let local = moment.to_zoned_datetime(zone);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        // From 0 to 6.
        let today = local.weekday().to_monday_zero_offset() as usize;
        let yesterday = (today + 6) % 7;
        Some(if self.from < self.to {
            self.days[today] && (self.from..self.to).contains(&minute)
        } else {
            (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.to)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rule::{Condition, parse};

    fn during(text: &str) -> During {
        let rule = parse(&format!("when time {text} then log")).unwrap();
        let Condition::During(during) = rule.when.condition else { panic!("{text}") };
        during
    }

    fn is(text: &str, utc: &str) -> bool {
        let moment: Timestamp = utc.parse().unwrap();
        during(text).holds_at(WallTime(moment.as_millisecond() as u64)).unwrap()
    }

    #[test]
    fn it_is_the_time_that_clocks_there_show() {
        // New York is five hours behind in winter, four in summer: its clocks changed on the
        // 8th of March 2026.
        for (utc, there) in [
            ("2026-03-06T22:59:00Z", false), // Friday, 17:59
            ("2026-03-06T23:00:00Z", true),
            ("2026-03-07T03:59:00Z", true), // Friday, 22:59 there
            ("2026-03-07T04:00:00Z", false),
            ("2026-03-07T23:30:00Z", false), // Saturday
            ("2026-03-09T21:59:00Z", false), // Monday, 17:59
            ("2026-03-09T22:00:00Z", true),
            ("2026-03-10T02:59:00Z", true),
            ("2026-03-10T03:00:00Z", false),
        ] {
            assert_eq!(is("18:00-23:00 mon-fri America/New_York", utc), there, "{utc}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        for (utc, night) in [
            ("2026-11-27T21:59:00Z", false), // Friday
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:00:00Z", false), // Saturday
            ("2026-11-27T05:00:00Z", false), // the night from Thursday
        ] {
            assert_eq!(is("22:00-06:00 fri", utc), night, "{utc}");
        }
        assert!(
            is("00:00-24:00", "2026-11-29T23:59:59Z") && is("00:00-24:00", "2026-11-29T00:00:00Z")
        );
    }

    #[test]
    fn hours_that_are_not_there_or_twice() {
        // Berlin's clocks go from 02:00 to 03:00 on the 29th of March 2026, and from 03:00 to
        // 02:00 on the 25th of October.
        let minutes = |from: &str, count: u64| {
            let from: Timestamp = from.parse().unwrap();
            let night = during("02:00-03:00 Europe/Berlin");
            let at = |n| WallTime(from.as_millisecond() as u64 + n * 60_000);
            (0..count).filter(|n| night.holds_at(at(*n)).unwrap()).count()
        };
        assert_eq!(minutes("2026-03-28T12:00:00Z", 24 * 60), 0);
        assert_eq!(minutes("2026-10-24T12:00:00Z", 24 * 60), 120);
        assert_eq!(minutes("2026-11-24T12:00:00Z", 24 * 60), 60);
    }

    #[test]
    fn zones_are_known_by_their_names() {
        assert!(is_zone("America/New_York") && is_zone("UTC") && is_zone("Asia/Kolkata"));
        assert!(!is_zone("America/Newyork") && !is_zone("../../etc/passwd"));
        let nowhere = During { zone: Some("Nowhere".to_owned()), ..during("01:00-02:00") };
        assert_eq!(nowhere.holds_at(WallTime(0)), None);
        assert_eq!(during("01:00-02:00").holds_at(WallTime(u64::MAX)), None);
    }
}
