//! The machine's own clock: the owner's, less the time that the process stood
//! still, and slowed down where the network is wide.
//!
//! All timers, patience and signs of life are on it. So a pause ages nobody, and one
//! number makes a detector for a local network one for a wide one: at half the
//! pace every probe has twice the time.

use std::time::Duration;

use crate::base::Time;

/// The slowest pace: every span of `settings.rs` eight times as long.
pub const PACE_MAX: u32 = 8;

/// The owner's clock and the machine's, and where they met last.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    owners: Time,
    own: Time,
    pace: u32,
    /// The owner's time of the last reading.
    now: Time,
}

impl Clock {
    pub fn new(now: Time) -> Self {
        Self { owners: now, own: now, pace: 1, now }
    }

    /// The machine's time when the owner's is `now`.
    pub fn read(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.own + self.now.since(self.owners) / self.pace
    }

    /// The owner's time when the machine's will be `at`.
    pub fn owners(&self, at: Time) -> Time {
        self.owners + at.since(self.own) * self.pace
    }

    /// The owner's time of the last reading.
    pub fn owners_now(&self) -> Time {
        self.now
    }

    /// What `span` of the machine's time is for its owner.
    pub fn stretch(&self, span: Duration) -> Duration {
        span * self.pace
    }

    /// The last `span` of the owner's time did not pass for the machine.
    pub fn skip(&mut self, span: Duration) {
        self.owners = self.owners + span;
    }

    /// From `now` on one second of the machine's is `pace` of its owner's.
    pub fn set_pace(&mut self, now: Time, pace: u32) {
        let own = self.read(now);
        *self = Self { owners: self.now, own, pace: pace.clamp(1, PACE_MAX), now: self.now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_at_every_pace_and_over_pauses() {
        let mut clock = Clock::new(Time(5_000_000));
        for pace in [1, 3, 1, 7] {
            let begun = Time(clock.owners_now().0 + 1_234_567);
            clock.set_pace(begun, pace);
            let due = clock.read(begun) + Duration::from_millis(333);
            assert!(clock.read(Time(clock.owners(due).0 - 1)) < due);
            assert_eq!(clock.owners(due), begun + Duration::from_millis(333) * pace);
            assert_eq!(clock.read(clock.owners(due)), due);
            clock.skip(Duration::from_secs(2));
            let later = clock.owners(due + Duration::from_secs(1));
            assert_eq!(clock.read(later), due + Duration::from_secs(1));
        }
    }
}
