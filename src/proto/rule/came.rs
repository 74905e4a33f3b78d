//! Where requests came from, as the numbers that rules compare.
//!
//! What could not be looked up is neither from there nor from elsewhere. A little of it is borne
//! and counts as requests; more, and nothing is known.

use super::{Fold, Measured, What};
use crate::base::{
    Origins,
    metric::{Known, Series},
};

/// The greatest part of all requests of which it may be unknown where they came from. With more
/// of them the share could be quite another one.
const UNKNOWN_MAX: f64 = 0.1;

/// Requests of one set of origins, in one span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Came {
    /// Those from there.
    pub from: f64,
    /// Those from somewhere else.
    pub elsewhere: f64,
    /// Those of which it is not known.
    pub unknown: f64,
    /// Those from there a second.
    pub rate: f64,
}

impl Came {
    /// Those of both together: of two members in the same time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            from: self.from + other.from,
            elsewhere: self.elsewhere + other.elsewhere,
            unknown: self.unknown + other.unknown,
            rate: self.rate + other.rate,
        }
    }

    /// The share in hundredths, or the rate a second. None where too much is unknown, and of no
    /// requests there is no share.
    pub fn number(self, fold: Option<Fold>) -> Option<f64> {
        let all = self.from + self.elsewhere + self.unknown;
        if self.unknown > all * UNKNOWN_MAX {
            return None;
        }
        match fold {
            Some(Fold::Share) if all > 0.0 => Some(self.from * 100.0 / all),
            Some(Fold::Rate) => Some(self.rate),
            _ => None,
        }
    }
}

/// The series that say where requests come from, of one set of origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Those from there, those from elsewhere, and those of which it is not known.
    pub series: [Series; 3],
    /// What means just these, so that all are read at one moment.
    pub pattern: String,
}

impl Measured {
    /// Of what it is put together, if it is about where requests come from.
    pub fn sources(&self) -> Option<Sources> {
        let What::From(origins) = &self.what else { return None };
        // Whoever parsed the rule has looked at them already.
        let label = Origins::of(origins).ok()?.label();
        let of = |known| Series::new(known, Some(&label)).ok();
        let series =
            [of(Known::RequestsFrom)?, of(Known::RequestsElsewhere)?, of(Known::RequestsUnknown)?];
        Some(Sources { series, pattern: format!("requests.* {label}") })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::metric::Pattern,
        proto::rule::{TEXT_MAX, parse},
    };

    fn came(from: f64, elsewhere: f64, unknown: f64) -> Came {
        Came { from, elsewhere, unknown, rate: from / 10.0 }
    }

    #[test]
    fn a_share_is_of_all_requests_and_a_rate_of_those_from_there() {
        let (share, rate) = (Some(Fold::Share), Some(Fold::Rate));
        for (of, shared, rated) in [
            (came(60.0, 40.0, 0.0), Some(60.0), Some(6.0)),
            (came(0.0, 40.0, 0.0), Some(0.0), Some(0.0)),
            // A tenth that can't be looked up is borne, and is not from there.
            (came(60.0, 30.0, 10.0), Some(60.0), Some(6.0)),
            (came(60.0, 29.0, 11.0), None, None),
            (came(0.0, 0.0, 5.0), None, None),
            // No requests are no share, and a rate of nothing.
            (came(0.0, 0.0, 0.0), None, Some(0.0)),
        ] {
            assert_eq!((of.number(share), of.number(rate)), (shared, rated), "{of:?}");
        }
        assert_eq!(came(1.0, 1.0, 0.0).number(Some(Fold::Avg)), None);
        assert_eq!(came(1.0, 1.0, 0.0).number(None), None);
    }

    #[test]
    fn members_are_added_and_not_their_shares() {
        // One member of few requests, all from there, and one of many.
        let both = came(1.0, 0.0, 0.0).and(came(9.0, 90.0, 0.0));
        assert_eq!(both.number(Some(Fold::Share)), Some(10.0));
        assert_eq!(both.number(Some(Fold::Rate)), Some(1.0));
        // What one of them can't look up may be little of what all have.
        let both = came(0.0, 1.0, 1.0).and(came(50.0, 48.0, 0.0));
        assert_eq!(both.number(Some(Fold::Share)), Some(50.0));
    }

    fn sources(text: &str) -> Sources {
        let rule = parse(text).unwrap();
        let all: Vec<_> = rule.measured().iter().filter_map(|of| of.sources()).collect();
        assert_eq!(all.len(), 1, "{text}");
        all[0].clone()
    }

    #[test]
    fn the_same_set_is_the_same_series_however_it_is_written() {
        let one = sources("when share(requests from MX|10.0.0.0/8|CA, 10m) > 60% then log");
        let other = sources("when cluster rate(requests from CA|MX|10.0.0.0/8, 1m) > 5/s then log");
        assert_eq!(one, other);
        let names = one.series.clone().map(|series| series.to_string());
        assert_eq!(
            names,
            [
                "requests.from CA|MX|10.0.0.0/8",
                "requests.elsewhere CA|MX|10.0.0.0/8",
                "requests.unknown CA|MX|10.0.0.0/8"
            ]
        );
        let pattern = Pattern::parse(&one.pattern).unwrap();
        assert!(one.series.iter().all(|series| pattern.matches(series)));
        for other in ["requests", "requests shop", "requests.from CA|MX", "requests.refused shop"] {
            assert!(!pattern.matches(&Series::parse(other).unwrap()), "{other}");
        }
        assert_eq!(parse("when cpu > 9% then log").unwrap().measured()[0].sources(), None);
    }

    #[test]
    fn a_set_that_is_too_long_for_a_label_has_series_as_well() {
        let nets = (0..32).map(|n| format!("fd00:0:0:{n:x}::/64")).collect::<Vec<_>>().join("|");
        let text = format!("when share(requests from {nets}, 10m) > 60% then log");
        assert!(text.len() <= TEXT_MAX);
        let sources = sources(&text);
        for series in &sources.series {
            assert_eq!(Series::parse(&series.to_string()).as_ref(), Ok(series));
            assert!(Pattern::parse(&sources.pattern).unwrap().matches(series));
        }
    }

    proptest! {
        #[test]
        fn the_share_of_two_lies_between_theirs(
            a in (0.0..1e6_f64, 1.0..1e6_f64),
            b in (0.0..1e6_f64, 1.0..1e6_f64),
        ) {
            let (a, b) = (came(a.0, a.1, 0.0), came(b.0, b.1, 0.0));
            let share = |of: Came| of.number(Some(Fold::Share)).unwrap();
            let (low, high) = (share(a).min(share(b)), share(a).max(share(b)));
            let both = share(a.and(b));
            prop_assert!(low - 1e-9 <= both && both <= high + 1e-9, "{low} {both} {high}");
        }
    }
}
