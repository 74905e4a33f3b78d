//! How long to wait before a service is started again: longer each time, and
//! from the beginning once it ran for a while. Pure.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const LONGEST: Duration = Duration::from_secs(30);
/// A service that ran for this long is well again.
const WELL: Duration = Duration::from_secs(60);

/// How often in a row a service ended soon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    row: u32,
}

impl Backoff {
    /// The pause after a service that `ran` for so long. `chance` from 0 to 1
    /// takes up to a quarter off, so that the members of a cluster, which all
    /// lost the same database, don't come back to it as one.
    pub(super) fn next(&mut self, ran: Duration, chance: f64) -> Duration {
        if ran >= WELL {
            self.row = 0;
        }
        let doubled = FIRST.saturating_mul(1 << self.row.min(16));
        self.row = self.row.saturating_add(1);
        doubled.min(LONGEST).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_half_a_minute_and_begin_anew() {
        let mut backoff = Backoff::default();
        let mut next = |ran_s| backoff.next(Duration::from_secs(ran_s), 0.0).as_millis();
        let pauses: Vec<u128> = (0..11).map(|_| next(0)).collect();
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(pauses, expected);
        assert_eq!(next(59), 30_000);
        assert_eq!(next(60), 100);
        assert_eq!(next(0), 200);
    }

    #[test]
    fn it_never_overflows_and_jitter_only_shortens() {
        let mut backoff = Backoff { row: u32::MAX - 1 };
        for chance in [0.0, 0.5, 1.0, 2.0] {
            let pause = backoff.next(Duration::ZERO, chance);
            assert!(pause <= LONGEST && pause >= LONGEST * 3 / 4, "{pause:?}");
        }
        let mut one = Backoff::default();
        assert_eq!(one.next(Duration::ZERO, 1.0), Duration::from_millis(75));
    }
}
