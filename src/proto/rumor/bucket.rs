//! A token bucket: how often an origin may speak.

use std::time::Duration;

use crate::base::Time;

/// Tokens in thousandths, refilled as time passes.
#[derive(Debug)]
pub(super) struct Bucket {
    milli: u64,
    milli_max: u64,
    per_second: u64,
    at: Time,
}

impl Bucket {
    /// For what this member itself says: 32 at once, four each second.
    pub fn own(now: Time) -> Self {
        Self::new(now, 32, 4)
    }

    /// For what another one says: twice that, because it comes in bursts from
    /// those that kept it.
    pub fn others(now: Time) -> Self {
        Self::new(now, 64, 8)
    }

    fn new(at: Time, burst: u64, per_second: u64) -> Self {
        let milli_max = burst * 1_000;
        Self { milli: milli_max, milli_max, per_second, at }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Time) -> bool {
        let passed = now.since(self.at).min(Duration::from_secs(3_600));
        let milli = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        if milli > 0 {
            self.at = self.at + Duration::from_millis(milli);
            // So many thousandths each millisecond.
            self.milli = (self.milli + milli * self.per_second).min(self.milli_max);
        }
        let there = self.milli >= 1_000;
        if there {
            self.milli -= 1_000;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_so_many_each_second() {
        let mut bucket = Bucket::own(Time(0));
        assert_eq!((0..100).filter(|_| bucket.take(Time(0))).count(), 32);
        let at = |ms: u64| Time(ms * 1_000);
        // However often it is asked in between.
        let taken = (0..10_000).filter(|ms| bucket.take(at(*ms))).count();
        assert!((39..=40).contains(&taken), "{taken}");
    }
}
