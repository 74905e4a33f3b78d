//! Durations counted by classes, for who reads totals: what requests took, and what services and
//! scripts time themselves.
//!
//! The classes are fixed and the same for all, because what is compared over time, over members and
//! with each other has to be cut at the same places. They are those of Prometheus' histograms, from
//! a call within one machine to a job of half a minute.

/// The upper bounds of the classes, seconds, rising.
pub const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All durations of something, since they are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// All together, seconds.
    pub seconds: f64,
    /// How many were above the bound before this one, and not above it ([`BOUNDS`]). What took
    /// longer than the last bound is in none.
    pub classes: [u64; BOUNDS.len()],
}

impl Durations {
    /// Counts one that took so many seconds.
    pub fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += seconds;
        if let Some(class) = self.classes.get_mut(BOUNDS.partition_point(|b| *b < seconds)) {
            *class += 1;
        }
    }

    /// Counts all that are in `other` as well.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.seconds += other.seconds;
        for (ours, theirs) in self.classes.iter_mut().zip(other.classes) {
            *ours += theirs;
        }
    }

    /// How many were not above each of [`BOUNDS`], as Prometheus counts them.
    pub fn within(&self) -> [u64; BOUNDS.len()] {
        let mut sum = 0;
        self.classes.map(|count| {
            sum += count;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(each: &[f64]) -> Durations {
        let mut durations = Durations::default();
        each.iter().for_each(|seconds| durations.observe(*seconds));
        durations
    }

    #[test]
    fn one_is_in_the_class_whose_bound_it_reaches() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
        let durations = of(&[0.0, 0.001, 0.002, 10.0, 10.001, 30.0, 30.001]);
        assert_eq!(durations.classes, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(durations.within(), [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 6]);
        assert_eq!(durations.count, 7, "what takes longer is counted, and in no class");
    }

    /// Of powers of two, so that sums are exact.
    #[test]
    fn a_sum_is_what_counting_all_at_once_comes_to() {
        let (ours, theirs) = ([0.000_488_281_25, 0.25, 40.0], [0.25, 2.0]);
        let mut sum = of(&ours);
        sum.add(&of(&theirs));
        assert_eq!(sum, of(&[&ours[..], &theirs[..]].concat()));
        sum.add(&Durations::default());
        assert_eq!((sum.count, sum.seconds), (5, 42.500_488_281_25));
    }
}
