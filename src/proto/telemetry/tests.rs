//! Aggregates against plain calculations over the raw samples.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::base::{
    Digest, MemberId, Time, WallTime,
    wire::{self, Kind as WireKind},
};

/// One member's samples, second by second; none where it was away.
type Raw = Vec<Option<f64>>;

fn member(n: usize) -> MemberId {
    MemberId(Digest::of_bytes(&n.to_le_bytes()))
}

fn at(second: usize) -> WallTime {
    WallTime(1_000_000_000 + second as u64 * 1_000)
}

fn sum_up<'a>(all: impl IntoIterator<Item = &'a Summary>) -> Option<Summary> {
    let mut all = all.into_iter();
    let mut sum = *all.next()?;
    all.for_each(|one| sum.merge(one));
    Some(sum)
}

fn near(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-9 * scale.abs().max(1.0)
}

/// The same, but for rounding.
fn same(a: &Summary, b: &Summary) -> bool {
    let scale = a.rms() * a.weight().max(1.0);
    near(a.weight(), b.weight(), a.weight())
        && near(a.sum(), b.sum(), scale)
        && near(a.rms(), b.rms(), scale)
        && (a.min(), a.max(), a.last(), a.last_at()) == (b.min(), b.max(), b.last(), b.last_at())
}

fn of(raw: &Raw) -> Vec<Summary> {
    let taken = |(second, value): (usize, &Option<f64>)| {
        value.map(|v| Summary::of(at(second), Sample::new(v).expect("finite")))
    };
    raw.iter().enumerate().filter_map(taken).collect()
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![-1e6..1e6_f64, Just(0.0), 0.0..1.0_f64, 1e9..1e12_f64]
}

/// Up to six members for up to 120 seconds, each away some of the time.
fn members() -> impl Strategy<Value = Vec<Raw>> {
    vec(vec(option::weighted(0.7, value()), 0..120), 1..6)
}

#[test]
fn what_is_no_number_is_refused_at_the_door() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e31, -1e31] {
        assert_eq!(Sample::new(value), Err(Unfit));
        assert_eq!(Counter::default().advance(Time(0), value), Err(Unfit));
        let mut distribution = Distribution::default();
        assert_eq!(distribution.observe(value), Err(Unfit));
        assert_eq!(distribution.take(at(0)), None);
    }
    assert_eq!(Counter::default().advance(Time(0), -1.0), Err(Unfit));
}

#[test]
fn a_counter_that_falls_was_begun_again() {
    let mut counter = Counter::default();
    let mut rate = |second: u64, total: f64| {
        let sample = counter.advance(Time(second * 1_000_000), total).unwrap();
        sample.map(|s| (s.value(), s.weight()))
    };
    assert_eq!(rate(0, 1_000.0), None, "nobody knows since when");
    assert_eq!(rate(1, 1_010.0), Some((10.0, 1.0)));
    assert_eq!(rate(1, 1_020.0), None, "no time has passed, and nothing is lost:");
    assert_eq!(rate(5, 1_050.0), Some((10.0, 4.0)));
    assert_eq!(rate(6, 7.0), Some((7.0, 1.0)), "begun again");
    assert_eq!(rate(7, 7.0), Some((0.0, 1.0)), "measured, and nothing happened");
}

#[test]
fn a_distribution_is_handed_on_once() {
    let mut distribution = Distribution::default();
    for value in [0.1, 0.2, 0.4] {
        distribution.observe(value).unwrap();
    }
    distribution.observe_duration(std::time::Duration::from_millis(500));
    let taken = distribution.take(at(3)).unwrap();
    let Aggregate { summary, sketch } = taken;
    assert_eq!((summary.weight(), summary.min(), summary.max()), (4.0, 0.1, 0.5));
    assert!(near(summary.sum(), 1.2, 1.0) && near(summary.rms(), 0.115_f64.sqrt(), 1.0));
    assert_eq!((summary.last(), summary.last_at()), (0.5, at(3)));
    assert!((sketch.unwrap().quantile(0.4).unwrap() / 0.2 - 1.0).abs() < 0.011);
    assert_eq!(distribution.take(at(4)), None);
}

#[test]
fn a_part_without_a_distribution_leaves_the_whole_without() {
    let mut distribution = Distribution::default();
    distribution.observe(1.0).unwrap();
    let with = distribution.take(at(0)).unwrap();
    let without = Aggregate::from(Summary::of(at(0), Sample::new(1.0).unwrap()));
    let (mut one, mut other) = (with.clone(), without.clone());
    one.merge(&without);
    other.merge(&with);
    assert_eq!((&one.sketch, one.summary.weight()), (&None, 2.0));
    assert_eq!(one, other);
}

#[test]
fn nobody_counts_twice_or_uninvited() {
    let grid = Grid::new(at(0), at(60), 10_000).unwrap();
    let mut answer = Answer::new(grid, [member(1), member(2), member(2)]);
    assert_eq!(answer.take(member(3), vec![]), Err(NotTaken::Unasked));
    assert_eq!(answer.take(member(1), vec![]), Ok(()));
    assert_eq!(answer.take(member(1), vec![]), Err(NotTaken::Twice));
    assert_eq!(answer.silent().collect::<Vec<_>>(), [member(2)]);
    assert!(!answer.is_whole());
    for (_, row) in answer.rows() {
        assert_eq!((row.all(), row.total(), row.heard()), (None, None, 0));
        assert_eq!(answer.missing(row).count(), 2);
    }
}

#[test]
fn an_answer_travels_bucket_by_bucket() {
    let mut distribution = Distribution::default();
    distribution.observe(0.25).unwrap();
    let with = distribution.take(at(0)).unwrap();
    let without = Aggregate::from(Summary::of(at(1), Sample::new(1.0).unwrap()));
    let buckets: Vec<_> = [(0, with), (10, without)]
        .into_iter()
        .map(|(s, aggregate)| Bucket { start: at(s), span_ms: 10_000, aggregate })
        .collect();
    let bytes = answer::encode(&buckets);
    assert_eq!(answer::decode(&bytes).collect::<Result<Vec<_>, _>>().unwrap(), buckets);
    assert!(answer::decode(&answer::encode(&[])).next().is_none());
    for cut in 2..bytes.len() {
        let read: Vec<_> = answer::decode(&bytes[..cut]).collect();
        let (last, whole) = read.split_last().unwrap();
        // What was whole is there, and that it breaks off is seen.
        assert!(whole.iter().flatten().eq(&buckets[..whole.len()]));
        assert!(last.is_err() || *last == Ok(buckets[0].clone()), "cut at {cut}");
    }
    assert_eq!(answer::decode(&[]).collect::<Vec<_>>(), [Err(wire::WireError::Empty)]);
    assert!(matches!(answer::decode(&[9, 1]).next(), Some(Err(wire::WireError::Version { .. }))));
}

#[test]
fn what_comes_behind_a_later_row_is_left_out() {
    let grid = Grid::new(at(0), at(60), 10_000).unwrap();
    let bucket = |second: usize| {
        let sample = Sample::new(second as f64).unwrap();
        let aggregate = Summary::of(at(second), sample).into();
        Bucket { start: at(second), span_ms: 1_000, aggregate }
    };
    let mut answer = Answer::new(grid, [member(1)]);
    answer.take(member(1), [0, 9, 25, 3, 27, 24].map(bucket)).unwrap();
    let weights = answer.rows().map(|(_, row)| row.all().map(|all| all.summary.weight()));
    assert_eq!(weights.take(3).collect::<Vec<_>>(), [Some(2.0), None, Some(3.0)]);
}

#[test]
fn what_lies_in_no_row_is_left_out() {
    let grid = Grid::new(at(0), at(60), 10_000).unwrap();
    let aggregate = Aggregate::from(Summary::of(at(0), Sample::new(1.0).unwrap()));
    let bucket = |start, span_ms| Bucket { start, span_ms, aggregate: aggregate.clone() };
    let mut answer = Answer::new(grid, [member(1)]);
    let outside = vec![
        bucket(WallTime(at(0).0 - 1), 10),
        bucket(at(60), 1_000),
        bucket(at(5), 10_000),
        bucket(at(0), 60_000),
        bucket(at(0), u64::MAX),
        bucket(WallTime(u64::MAX), 1),
    ];
    answer.take(member(1), outside).unwrap();
    assert!(answer.rows().all(|(_, row)| row.heard() == 0));
}

proptest! {
    #[test]
    fn merges_are_of_any_order_and_grouping(raw in vec(option::weighted(0.9, value()), 2..60), cut in 1..59_usize) {
        let all = of(&raw);
        let cut = cut.min(all.len());
        let whole = sum_up(&all);
        let back: Vec<_> = all.iter().rev().copied().collect();
        let halves: Vec<_> = [sum_up(&all[..cut]), sum_up(&all[cut..])].into_iter().flatten().collect();
        let other: Vec<_> = halves.iter().rev().copied().collect();
        match whole {
            None => prop_assert!(halves.is_empty()),
            Some(whole) => for one in [sum_up(&back), sum_up(&halves), sum_up(&other)] {
                prop_assert!(same(&whole, &one.unwrap()));
            }
        }
    }

    #[test]
    fn a_counter_counts_what_was_counted(
        steps in vec((1..5_000_000_u64, 0..1_000_000_u32, prop::bool::weighted(0.1)), 1..50)
    ) {
        let (mut counter, mut now, mut total) = (Counter::default(), Time(0), 0_u64);
        counter.advance(now, 0.0).unwrap();
        let (mut counted, mut rates) = (0, Vec::new());
        for (us, increase, restarted) in steps {
            now = Time(now.0 + us);
            let begun = if restarted { 0 } else { total };
            let next = begun + u64::from(increase);
            // A restart that has passed the old total already can't be told.
            counted += if next < total { next } else { next - total };
            total = next;
            let sample = counter.advance(now, total as f64).unwrap().unwrap();
            rates.push(Summary::of(at(rates.len()), sample));
        }
        let sum = sum_up(&rates).unwrap();
        prop_assert!((sum.sum() - counted as f64).abs() <= 1e-6 * (1.0 + counted as f64));
        prop_assert!(near(sum.weight(), now.0 as f64 / 1e6, sum.weight()));
    }

    #[test]
    fn an_answer_is_what_the_raw_samples_say(members in members(), step in 1..40_usize, silent in 0..6_usize) {
        let grid = Grid::new(at(0), at(120), step as u64 * 1_000).unwrap();
        let mut answer = Answer::new(grid, (0..members.len()).map(member));
        for (n, raw) in members.iter().enumerate().filter(|(n, _)| *n != silent) {
            let bucket = |one: Summary| Bucket {
                start: one.last_at(), span_ms: 1_000, aggregate: one.into(),
            };
            answer.take(member(n), of(raw).into_iter().map(bucket)).unwrap();
        }
        for (start, row) in answer.rows() {
            let mut each: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for (n, raw) in members.iter().enumerate().filter(|(n, _)| *n != silent) {
                for (second, value) in raw.iter().enumerate() {
                    let inside = (start.0..start.0 + grid.step_ms()).contains(&at(second).0);
                    if let (true, Some(value)) = (inside, value) {
                        each.entry(n).or_default().push(*value);
                    }
                }
            }
            let missing: Vec<_> = answer.missing(row).collect();
            let mut absent: Vec<_> =
                (0..members.len()).filter(|n| !each.contains_key(n)).map(member).collect();
            absent.sort_unstable();
            prop_assert_eq!(missing, absent);
            prop_assert_eq!(row.heard(), each.len());
            let all: Vec<f64> = each.values().flatten().copied().collect();
            let Some(found) = row.all() else {
                prop_assert!(all.is_empty() && row.total().is_none());
                continue;
            };
            let found = found.summary;
            let n = all.len() as f64;
            let scale = n * (all.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
            let fold = |by: fn(f64, f64) -> f64| all.iter().copied().reduce(by).unwrap();
            prop_assert_eq!((found.min(), found.max()), (fold(f64::min), fold(f64::max)));
            prop_assert_eq!(found.weight(), n);
            prop_assert!(near(found.sum(), all.iter().sum(), scale));
            prop_assert!(near(found.rms(), scale / n, scale));
            let total: f64 = each.values().map(|v| v.iter().sum::<f64>() / v.len() as f64).sum();
            prop_assert!(near(row.total().unwrap(), total, scale));
        }
    }

    #[test]
    fn a_summary_from_elsewhere_is_sound_or_refused(bytes in vec(any::<u8>(), 0..80)) {
        let bytes = [&[wire::VERSION][..], &bytes].concat();
        if let Ok(summary) = wire::decode::<Summary>(WireKind::Message, &bytes) {
            prop_assert!(summary.weight() > 0.0 && summary.min() <= summary.max());
            prop_assert!([summary.sum(), summary.rms(), summary.last()].iter().all(|v| v.is_finite()));
        }
        let _ = wire::decode::<Bucket>(WireKind::Message, &bytes);
        let _ = wire::decode::<Grid>(WireKind::Message, &bytes);
    }
}
