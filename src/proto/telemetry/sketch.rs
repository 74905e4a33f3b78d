//! Percentiles of what many members measured, without the single values: DDSketch
//! (Masson, Rim, Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
//! Relative-Error Guarantees", VLDB 2019).
//!
//! Values are counted in bins whose borders grow by the factor γ = 1.01 / 0.99, so any value
//! of a bin is within 1 % of its middle. Two sketches are merged by adding their bins, and the
//! result is the sketch of all values, in whatever order and grouping it is made.
//!
//! Bounded: the [`SKETCH_BINS_MAX`] highest bins in use are kept, and what lies below is
//! counted in the lowest of them. Bounding by bins *in use* instead of by their range (as the
//! paper does) spares low percentiles where a few values are far off; it keeps the merge
//! independent of the order, since which bins are the highest of the union does not depend
//! on what was thrown together below them before.
//!
//! `sketches-ddsketch` was looked at: it believes whatever its serde form claims, and counts
//! by range.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{
    aggregate::Unfit,
    packed::{Bin, Packed},
};
use crate::base::limits::SKETCH_BINS_MAX;

/// ln γ, γ = (1 + α) / (1 − α), α = 0.01.
const LN_GAMMA: f64 = 0.020_000_666_706_669_543;
/// Where in its bin a value is taken to be: 2 / (1 + γ) of the upper border, 1 % from both.
const MIDDLE: f64 = 0.99;
/// What is closer to zero counts as zero: a nanosecond, where the unit is a second.
const TINY: f64 = 1e-9;
/// Added to the exponent, so that the keys of positive values are positive: ln TINY / ln γ.
const OFFSET: i32 = 1_037;
/// The key of the largest sample, with room.
const KEY_MAX: i32 = OFFSET + 3_500;

/// How values are distributed: any percentile to 1 % of its value, and exactly how many there
/// are, their sum, the least and the greatest.
///
/// Equal values in any order make equal sketches (sums but for rounding).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Sketch {
    /// Key and number of values, by ascending key; none is empty. The key orders as the
    /// values do: negative ones below zero, zero itself, positive ones above.
    bins: Vec<Bin>,
    count: u64,
    sum: f64,
    /// Least and greatest, where there is any.
    extent: Option<(f64, f64)>,
}

impl Sketch {
    /// Counts `value`.
    ///
    /// # Errors
    /// If it is no finite number within ±1e30. Nothing is changed then.
    pub fn add(&mut self, value: f64) -> Result<(), Unfit> {
        self.add_many(value, 1)
    }

    /// Counts `value` so many `times`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_many(&mut self, value: f64, times: u64) -> Result<(), Unfit> {
        Unfit::check(value)?;
        if times == 0 {
            return Ok(());
        }
        let key = key(value);
        match self.bins.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.bins[at].1 = self.bins[at].1.saturating_add(times),
            Err(at) => self.bins.insert(at, (key, times)),
        }
        self.count = self.count.saturating_add(times);
        self.sum += value * times as f64;
        let (min, max) = self.extent.unwrap_or((value, value));
        self.extent = Some((min.min(value), max.max(value)));
        self.fold();
        Ok(())
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        if !self.add_in_place(&other.bins) {
            self.bins = union(&self.bins, &other.bins);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.extent = match (self.extent, other.extent) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, None) | (None, one) => one,
        };
        self.fold();
    }

    /// Throws `together` bins into one each, to take less room: a power of two, up to 32. A
    /// percentile is then within 3 % for 2, 5 % for 4, 9 % for 8.
    pub fn coarsen(&mut self, together: u8) {
        let together = i32::from(together.clamp(1, 32));
        let coarse = |key: i32| (key.abs() / together * together + together / 2) * key.signum();
        let mut bins: Vec<Bin> = Vec::new();
        for (key, n) in self.bins.drain(..) {
            match bins.last_mut() {
                Some((last, sum)) if *last == coarse(key) => *sum = sum.saturating_add(n),
                _ => bins.push((coarse(key), n)),
            }
        }
        self.bins = bins;
    }

    /// The value that a share `q` of all values does not exceed, `q` from 0 to 1: the one at
    /// rank ⌊q · (n − 1)⌋. Within 1 % of it, but for values that were folded and those closer
    /// to zero than 1e-9. None where nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (min, max) = self.extent?;
        let rank = (q.clamp(0.0, 1.0) * (self.count.saturating_sub(1)) as f64) as u64;
        if rank == 0 {
            return Some(min);
        }
        if rank + 1 >= self.count {
            return Some(max);
        }
        let mut passed = 0_u64;
        for (key, n) in &self.bins {
            passed = passed.saturating_add(*n);
            if passed > rank {
                return Some(value(*key).clamp(min, max));
            }
        }
        Some(max)
    }

    /// Adds `bins` if each of them is there already, which is so for most of many sketches
    /// of one thing, and spares a new vector for each. False if not; nothing is changed then.
    fn add_in_place(&mut self, bins: &[Bin]) -> bool {
        let mut ours = self.bins.iter();
        if !bins.iter().all(|(key, _)| ours.any(|(own, _)| own == key)) {
            return false;
        }
        let mut ours = self.bins.iter_mut();
        for (key, n) in bins {
            if let Some((_, own)) = ours.find(|(own, _)| own == key) {
                *own = own.saturating_add(*n);
            }
        }
        true
    }

    /// Keeps the highest bins in use; what lies below is counted in the lowest of them, so the
    /// percentiles there become too high.
    fn fold(&mut self) {
        let over = self.bins.len().saturating_sub(SKETCH_BINS_MAX);
        if over > 0 {
            let below = self.bins.drain(..over).fold(0_u64, |n, (_, m)| n.saturating_add(m));
            self.bins[0].1 = self.bins[0].1.saturating_add(below); // the highest ones are there
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The least, exactly.
    pub fn min(&self) -> Option<f64> {
        self.extent.map(|(min, _)| min)
    }

    /// The greatest, exactly.
    pub fn max(&self) -> Option<f64> {
        self.extent.map(|(_, max)| max)
    }

    /// Bins in use.
    pub fn bins(&self) -> usize {
        self.bins.len()
    }
}

/// The bins of both, by ascending key.
fn union(ours: &[Bin], theirs: &[Bin]) -> Vec<Bin> {
    let mut all = Vec::with_capacity(ours.len() + theirs.len());
    let (mut a, mut b) = (0, 0);
    while let (Some(one), Some(other)) = (ours.get(a), theirs.get(b)) {
        all.push(match one.0.cmp(&other.0) {
            Ordering::Less => *one,
            Ordering::Greater => *other,
            Ordering::Equal => (one.0, one.1.saturating_add(other.1)),
        });
        (a, b) = (a + usize::from(one.0 <= other.0), b + usize::from(other.0 <= one.0));
    }
    all.extend_from_slice(&ours[a..]);
    all.extend_from_slice(&theirs[b..]);
    all
}

fn key(value: f64) -> i32 {
    let size = value.abs();
    if size < TINY {
        return 0;
    }
    // Of a sample, so it fits; at least 1, since TINY is the least.
    let key = ((size.ln() / LN_GAMMA).ceil() as i32 + OFFSET).max(1);
    if value < 0.0 { -key } else { key }
}

fn value(key: i32) -> f64 {
    let size = (f64::from(key.abs() - OFFSET) * LN_GAMMA).exp() * MIDDLE;
    match key {
        0 => 0.0,
        1.. => size,
        _ => -size,
    }
}

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Encoded {
    sum: f64,
    extent: Option<(f64, f64)>,
    bins: Packed,
}

impl From<Sketch> for Encoded {
    fn from(sketch: Sketch) -> Self {
        let bins = Packed::new(&sketch.bins, KEY_MAX);
        Self { sum: sketch.sum, extent: sketch.extent, bins }
    }
}

impl TryFrom<Encoded> for Sketch {
    type Error = &'static str;

    fn try_from(encoded: Encoded) -> Result<Self, Self::Error> {
        let Encoded { sum, extent, bins } = encoded;
        let (bins, count) = bins.bins(KEY_MAX)?;
        match extent {
            None if count == 0 && sum == 0.0 => {}
            Some((min, max))
                if count > 0
                    && min <= max
                    && sum.is_finite()
                    && [min, max].iter().all(|v| Unfit::check(*v).is_ok()) => {}
            _ => return Err("the least and the greatest of a sketch don't fit its bins"),
        }
        Ok(Self { bins, count, sum, extent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::base::{
        limits::SAMPLE_MAX,
        wire::{self, Kind},
    };

    fn sketch(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.add(*value).unwrap();
        }
        sketch
    }

    fn merged(mut one: Sketch, other: &Sketch) -> Sketch {
        one.merge(other);
        one
    }

    /// The same but for the sum, which is rounded according to the order.
    fn same(one: &Sketch, other: &Sketch) -> bool {
        let scale = one.sum.abs().max(other.sum.abs()).max(1e-9);
        (&one.bins, one.count, one.extent) == (&other.bins, other.count, other.extent)
            && (one.sum - other.sum).abs() <= scale * 1e-6
    }

    /// Values as they are measured: some decades, some the same, some negative or zero.
    fn values() -> impl Strategy<Value = Vec<f64>> {
        let one = prop_oneof![
            6 => (-6.0..9.0_f64).prop_map(|e| 10_f64.powf(e)),
            2 => 0.001..0.002_f64,
            1 => Just(0.0),
            1 => (-3.0..3.0_f64).prop_map(|e| -10_f64.powf(e)),
        ];
        vec(one, 0..400)
    }

    #[test]
    fn the_constants_are_what_they_say() {
        let gamma = 1.01_f64 / 0.99;
        assert!((gamma.ln() - LN_GAMMA).abs() < 1e-15);
        assert!((2.0 / (1.0 + gamma) - MIDDLE).abs() < 1e-15);
        assert_eq!((TINY.ln() / LN_GAMMA).ceil() as i32, 1 - OFFSET);
        assert!(key(SAMPLE_MAX) < KEY_MAX && key(-SAMPLE_MAX) > -KEY_MAX);
        assert_eq!(Sketch::default().quantile(0.5), None);
    }

    #[test]
    fn many_bins_are_folded_from_below() {
        let mut wide = Sketch::default();
        for exponent in -400..=1_400 {
            wide.add((f64::from(exponent) * LN_GAMMA).exp()).unwrap();
        }
        assert_eq!((wide.bins(), wide.count()), (SKETCH_BINS_MAX, 1_801));
        let exact = (f64::from(1_220) * LN_GAMMA).exp();
        assert!((wide.quantile(0.9).unwrap() / exact - 1.0).abs() < 0.010_001);
        assert!(wide.quantile(0.1).unwrap() > 1.0, "below the fold it is too high");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let mut sketch = Sketch::default();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e31] {
            assert!(sketch.add(value).is_err());
        }
        assert_eq!(sketch, Sketch::default());
        let encoded =
            |sum, extent, bins: &[Bin]| Encoded { sum, extent, bins: Packed::new(bins, KEY_MAX) };
        let one = Some((1.0, 1.0));
        let forged = [
            encoded(0.0, None, &[(5, 1)]),
            encoded(0.0, one, &[]),
            encoded(1.0, None, &[]),
            encoded(1.0, Some((1.0, 0.5)), &[(5, 1)]),
            encoded(1.0, Some((1.0, f64::INFINITY)), &[(5, 1)]),
            encoded(f64::NAN, one, &[(5, 1)]),
            encoded(1.0, one, &[(5, 0)]),
            encoded(1.0, one, &[(5, 1), (5, 1)]),
            encoded(1.0, one, &[(KEY_MAX + 1, 1)]),
            encoded(1.0, one, &[(5, u64::MAX), (6, 1)]),
        ];
        for encoded in forged {
            let bytes = wire::encode(Kind::Message, &encoded);
            assert!(wire::decode::<Sketch>(Kind::Message, &bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_one_percent(values in values(), q in 0.0..=1.0_f64) {
            let sketch = sketch(&values);
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let rank = (q * sorted.len().saturating_sub(1) as f64) as usize;
            match (sketch.quantile(q), sorted.get(rank)) {
                (Some(found), Some(exact)) => {
                    prop_assert!((found - exact).abs() <= exact.abs() * 0.010_000_1 + TINY,
                        "{found} for {exact}");
                }
                (found, exact) => prop_assert!(found.is_none() && exact.is_none()),
            }
        }

        #[test]
        fn a_coarse_one_is_as_near_as_it_says(values in values(), q in 0.0..=1.0_f64, power in 0..=5_u32) {
            let fine = sketch(&values);
            let mut coarse = fine.clone();
            coarse.coarsen(1 << power);
            prop_assert_eq!((coarse.count(), coarse.extent), (fine.count(), fine.extent));
            prop_assert!(coarse.bins.is_sorted_by(|a, b| a.0 < b.0) && coarse.bins() <= fine.bins());
            if let (Some(fine), Some(coarse)) = (fine.quantile(q), coarse.quantile(q)) {
                // As far as half of those that are together, and a half for the rounding.
                let bins = f64::from(1_u32 << power) / 2.0 + 0.5;
                let most = (bins * LN_GAMMA).exp() * 1.000_001;
                prop_assert!((fine == 0.0 && coarse == 0.0)
                    || (1.0 / most..=most).contains(&(coarse / fine)), "{fine} {coarse}");
            }
        }

        #[test]
        fn a_merge_is_the_sketch_of_all(a in values(), b in values(), c in values()) {
            let all = sketch(&[a.clone(), b.clone(), c.clone()].concat());
            let (a, b, c) = (sketch(&a), sketch(&b), sketch(&c));
            prop_assert!(same(&merged(merged(a.clone(), &b), &c), &all));
            prop_assert!(same(&merged(a.clone(), &merged(b.clone(), &c)), &all));
            prop_assert!(same(&merged(c, &merged(b, &a)), &all));
        }

        #[test]
        fn it_is_so_where_bins_are_folded(
            keys in vec(1..key(SAMPLE_MAX), 0..3_000),
            cuts in (0.0..=1.0_f64, 0.0..=1.0_f64),
        ) {
            let values: Vec<f64> = keys.into_iter().map(value).collect();
            let at = |share: f64| (share * values.len() as f64) as usize;
            let (one, two) = (at(cuts.0.min(cuts.1)), at(cuts.0.max(cuts.1)));
            let parts = [&values[..one], &values[one..two], &values[two..]].map(sketch);
            let there = merged(merged(parts[0].clone(), &parts[1]), &parts[2]);
            let back = merged(parts[2].clone(), &merged(parts[1].clone(), &parts[0]));
            let all = sketch(&values);
            prop_assert!(all.bins() <= SKETCH_BINS_MAX);
            prop_assert_eq!(&there.bins, &all.bins);
            prop_assert_eq!(&back.bins, &all.bins);
        }

        #[test]
        fn what_is_encoded_is_decoded(values in values()) {
            let sketch = sketch(&values);
            let bytes = wire::encode(Kind::Message, &sketch);
            prop_assert_eq!(wire::decode::<Sketch>(Kind::Message, &bytes).unwrap(), sketch);
        }

        #[test]
        fn garbage_is_refused_or_sound(bytes in vec(any::<u8>(), 0..200)) {
            let bytes = [&[wire::VERSION][..], &bytes].concat();
            if let Ok(sketch) = wire::decode::<Sketch>(Kind::Message, &bytes) {
                prop_assert_eq!(sketch.quantile(0.5).is_some(), !sketch.is_empty());
                let again = wire::encode(Kind::Message, &sketch);
                prop_assert_eq!(wire::decode::<Sketch>(Kind::Message, &again).unwrap(), sketch);
            }
        }
    }
}
