//! Network coordinates: each member places itself so that distances between
//! places come close to round-trip times, and so any member can tell the time between
//! any two others without ever measuring it.
//!
//! Vivaldi (Dabek, Cox, Kaashoek, Morris, 2004) in three dimensions, with a height for
//! the access link; an adjustment term for what no geometry explains, as Serf has it from
//! Lee et al. ("On suitability of Euclidean embedding", 2009); and a median over the
//! last three round trips to each member against outliers (Ledlie, Gardner, Seltzer, 2007).
//! There is no pull to the origin: only differences are ever looked at.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::random::Random;

/// Where a member is, in microseconds of round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The position.
    pub position: [i32; 3],
    /// What its own link adds to every round trip.
    pub height: u32,
    /// What is to be added to every estimate, may be negative.
    pub adjustment: i32,
    /// How wrong it thinks that it is, in millionths.
    pub error: u32,
}

/// No coordinate of a real network is larger: ten seconds.
const FAR: u32 = 10_000_000;
/// How quickly the error and the place follow a sample.
const GAIN: f64 = 0.25;
/// The largest error.
const ERROR_MAX: f64 = 1.5;
/// The smallest height, microseconds.
const HEIGHT_MIN: f64 = 10.0;
/// Samples that the adjustment is an average of.
const WINDOW: usize = 20;

impl Place {
    /// Whether an honest member could be there.
    pub fn is_sane(&self) -> bool {
        let parts = self.position.iter().chain([&self.adjustment]);
        parts.into_iter().all(|part| part.unsigned_abs() <= FAR)
            && self.height <= FAR
            && self.error <= 2_000_000
    }

    /// The estimated round trip between two places.
    pub fn round_trip(&self, other: &Self) -> Duration {
        let plain = self.distance(other);
        let adjusted = plain + f64::from(self.adjustment) + f64::from(other.adjustment);
        let micros = if adjusted > 0.0 { adjusted } else { plain };
        Duration::from_micros(micros as u64)
    }

    fn distance(&self, other: &Self) -> f64 {
        let square = |(a, b): (&i32, &i32)| (f64::from(*a) - f64::from(*b)).powi(2);
        let squares: f64 = self.position.iter().zip(&other.position).map(square).sum();
        squares.sqrt() + f64::from(self.height) + f64::from(other.height)
    }
}

/// This member's own place, and how it moves.
#[derive(Clone, Debug)]
pub struct Vivaldi {
    position: [f64; 3],
    height: f64,
    error: f64,
    misses: VecDeque<f64>,
}

impl Default for Vivaldi {
    fn default() -> Self {
        let misses = VecDeque::new();
        Self { position: [0.0; 3], height: HEIGHT_MIN, error: ERROR_MAX, misses }
    }
}

impl Vivaldi {
    /// Where this member is now.
    pub fn place(&self) -> Place {
        let part = |value: f64| value.clamp(-f64::from(FAR), f64::from(FAR)) as i32;
        let misses: f64 = self.misses.iter().sum();
        Place {
            position: self.position.map(part),
            height: part(self.height).unsigned_abs(),
            adjustment: part(misses / (2 * WINDOW) as f64),
            error: (self.error * 1e6) as u32,
        }
    }

    /// Moves towards or away from `other`, to which a round trip took `took`.
    pub fn observe(&mut self, took: Duration, other: &Place, random: &mut Random) {
        let took = (took.as_micros() as f64).clamp(1.0, f64::from(FAR));
        let here = self.place();
        let distance = here.distance(other);
        let wrong = (distance - took).abs() / took;
        let theirs = f64::from(other.error) / 1e6;
        let weight = self.error / (self.error + theirs).max(1e-6);
        self.error = GAIN * weight * wrong + self.error * (1.0 - GAIN * weight);
        self.error = self.error.clamp(1e-6, ERROR_MAX);
        let force = GAIN * weight * (took - distance);
        let mut away: [f64; 3] =
            std::array::from_fn(|i| self.position[i] - f64::from(other.position[i]));
        let mut length = away.iter().map(|part| part * part).sum::<f64>().sqrt();
        if length > 1.0 {
            let stretch = (self.height + f64::from(other.height)) * force / length;
            self.height = (self.height + stretch).clamp(HEIGHT_MIN, f64::from(FAR));
        } else {
            // In the same place: any direction will do, but not the same for all.
            away = std::array::from_fn(|_| random.below(2_001) as f64 - 1_000.0);
            length = away.iter().map(|part| part * part).sum::<f64>().sqrt().max(1.0);
        }
        for (part, away) in self.position.iter_mut().zip(away) {
            *part += away / length * force;
        }
        self.misses.push_back(took - self.place().distance(other));
        if self.misses.len() > WINDOW {
            self.misses.pop_front();
        }
    }
}

/// The last round trips to one member, and their median.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent([u32; 3]);

impl Recent {
    /// Takes a sample in; the median once there are three.
    pub fn median_with(&mut self, took: Duration) -> Option<Duration> {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        self.0 = [self.0[1], self.0[2], micros];
        let mut sorted = self.0;
        sorted.sort_unstable();
        (sorted[0] > 0).then(|| Duration::from_micros(sorted[1].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sites, 40 ms apart, 1 ms inside: after some hundred samples each the estimates
    /// between any two are within a quarter.
    #[test]
    fn places_come_to_tell_round_trips() {
        let mut random = Random::new(7);
        let mut members: Vec<Vivaldi> = vec![Vivaldi::default(); 20];
        let real = |a: usize, b: usize| {
            Duration::from_micros(if (a < 10) == (b < 10) { 1_000 } else { 40_000 })
        };
        for _ in 0..400 {
            for a in 0..20 {
                let b = (a + 1 + random.below(19) as usize) % 20;
                let noise = Duration::from_micros(random.below(200));
                let other = members[b].place();
                members[a].observe(real(a, b) + noise, &other, &mut random);
            }
        }
        for (a, b) in [(0, 1), (0, 9), (0, 10), (3, 17), (12, 19)] {
            let guess = members[a].place().round_trip(&members[b].place());
            let (guess, real) = (guess.as_micros() as f64, real(a, b).as_micros() as f64);
            println!("{a} {b}: {guess} for {real}");
            assert!((guess - real).abs() < real * 0.25 + 500.0, "{a} {b}: {guess} for {real}");
        }
        assert!(members.iter().all(|member| member.place().is_sane()));
    }

    #[test]
    fn one_outlier_moves_nobody() {
        let mut recent = Recent::default();
        let ms = Duration::from_millis;
        assert_eq!(recent.median_with(ms(1)), None);
        assert_eq!(recent.median_with(ms(900)), None);
        assert_eq!(recent.median_with(ms(2)), Some(ms(2)));
        assert_eq!(recent.median_with(ms(1)), Some(ms(2)));
    }
}
