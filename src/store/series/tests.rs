//! The series as they are fed, killed, damaged and asked.

use std::fs::{self, OpenOptions};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    base::{
        limits::{DISTRIBUTIONS_MAX, SERIES_MAX},
        metric::Pattern,
    },
    proto::telemetry::{Aggregate, Bucket, Distribution, Grid, rollup},
};

/// A full ten minutes.
const BEGIN_S: u64 = 1_700_000_400;

fn wall(second: u64) -> WallTime {
    WallTime(second * 1_000 + 120)
}

fn series(text: &str) -> Series {
    Series::parse(text).unwrap()
}

fn open(dir: &Path, second: u64) -> SeriesStore {
    SeriesStore::open(dir, wall(second)).unwrap()
}

/// What is measured in a second: never zero, so that what is made up would be seen.
fn level(second: u64) -> f64 {
    100.0 + (second % 977) as f64
}

fn seen(second: u64) -> Aggregate {
    let mut distribution = Distribution::default();
    for n in 1..=10 {
        distribution.observe(level(second) * f64::from(n) / 1e4).unwrap();
    }
    distribution.take(wall(second)).unwrap()
}

fn feed(store: &mut SeriesStore, seconds: impl IntoIterator<Item = u64>) {
    for second in seconds {
        let readings = [
            (series("cpu"), Reading::Number(level(second))),
            (series("net.in"), Reading::Number(second as f64 * 5.0)),
            (series("latency shop"), Reading::Spread(seen(second))),
        ];
        let now = Time(second.saturating_mul(1_000_000));
        store.append(wall(second), now, &readings).unwrap();
    }
}

fn grid(now: u64, from: u64, to: u64, step_s: u64) -> Grid {
    rollup::grid(wall(now), WallTime(from * 1_000), WallTime(to * 1_000), step_s * 1_000).unwrap()
}

fn ask(store: &mut SeriesStore, name: &str, grid: Grid) -> Vec<Bucket> {
    let pattern = Pattern::parse(name).unwrap();
    let found = store.query(&Wanted { pattern, grid, spreads: true }).unwrap();
    found.into_iter().next().map_or(Vec::new(), |found| found.buckets)
}

/// That the buckets of `cpu` say what was told in `told`, and are unknown where nothing was.
fn check(buckets: &[Bucket], grid: &Grid, told: impl Fn(u64) -> bool) {
    let mut buckets = buckets.iter().peekable();
    for row in 0..grid.rows() {
        let start = grid.start(row);
        let seconds = start.0 / 1_000..(start.0 + grid.step_ms()) / 1_000;
        let values: Vec<f64> = seconds.filter(|s| told(*s)).map(level).collect();
        let bucket = buckets.next_if(|bucket| bucket.start == start);
        let Some(bucket) = bucket else {
            assert!(values.is_empty(), "{start} is lacking");
            continue;
        };
        let summary = bucket.aggregate.summary;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert_eq!(summary.weight(), values.len() as f64, "{start}");
        assert!((summary.mean() - mean).abs() < 1e-3, "{start}: {} {mean}", summary.mean());
        let fold = |by: fn(f64, f64) -> f64| values.iter().copied().reduce(by).unwrap();
        assert_eq!((summary.min(), summary.max()), (fold(f64::min), fold(f64::max)));
        assert_eq!(summary.last(), *values.last().unwrap());
    }
    assert_eq!(buckets.next(), None);
}

#[test]
fn what_is_told_is_found_at_every_level() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    let end = BEGIN_S + 3 * 3_600 + 754;
    // With a quarter of an hour in which nothing was measured.
    let told =
        |s: u64| (BEGIN_S..end).contains(&s) && !(BEGIN_S + 5_000..BEGIN_S + 5_900).contains(&s);
    feed(&mut store, (BEGIN_S..end).filter(|s| told(*s)));
    for (back, step, expected) in [
        (600, 1, 1),
        (600, 7, 7),
        (3_600, 1, 10),
        (7_200, 60, 60),
        (11_554, 600, 600),
        (11_554, 1_800, 1_800),
    ] {
        let grid = grid(end - 1, end - back, end, step);
        assert_eq!(grid.step_ms(), expected * 1_000);
        check(&ask(&mut store, "cpu", grid), &grid, told);
        for bucket in ask(&mut store, "net.in", grid) {
            // Over a gap the rate is that of all the time.
            let summary = bucket.aggregate.summary;
            assert!((summary.mean() - 5.0).abs() < 1e-5 && (summary.max() - 5.0).abs() < 1e-5);
        }
    }
    let all = grid(end - 1, BEGIN_S, end, 14_400);
    let counted: f64 =
        ask(&mut store, "net.in", all).iter().map(|b| b.aggregate.summary.sum()).sum();
    assert!((counted / ((end - 1 - BEGIN_S) as f64 * 5.0) - 1.0).abs() < 1e-5, "{counted}");
}

#[test]
fn percentiles_are_of_all_that_was_observed() {
    let dir = tempfile::tempdir().unwrap();
    let end = BEGIN_S + 4_000;
    let mut store = open(dir.path(), BEGIN_S);
    feed(&mut store, BEGIN_S..BEGIN_S + 2_000);
    store.flush().unwrap();
    drop(store);
    let mut store = open(dir.path(), BEGIN_S + 2_000);
    feed(&mut store, BEGIN_S + 2_000..end);
    for step in [60, 300, 600, 1_200] {
        let grid = grid(end - 1, BEGIN_S, end, step);
        let buckets = ask(&mut store, "latency shop", grid);
        assert_eq!(buckets.len(), grid.rows());
        for bucket in buckets {
            let seconds =
                bucket.start.0 / 1_000..((bucket.start.0 + bucket.span_ms) / 1_000).min(end);
            let mut values: Vec<f64> = seconds
                .flat_map(|s| (1..=10).map(move |n| level(s) * f64::from(n) / 1e4))
                .collect();
            values.sort_by(f64::total_cmp);
            let Aggregate { summary, sketch } = bucket.aggregate;
            let sketch = sketch.unwrap();
            assert_eq!(
                (sketch.count(), summary.weight()),
                (values.len() as u64, values.len() as f64)
            );
            for q in [0.5, 0.9, 0.99] {
                let exact = values[(q * (values.len() - 1) as f64) as usize];
                assert!((sketch.quantile(q).unwrap() / exact - 1.0).abs() < 0.010_1);
            }
        }
    }
    let seconds = grid(end - 1, end - 60, end, 10);
    assert!(ask(&mut store, "latency shop", seconds).iter().all(|b| b.aggregate.sketch.is_none()));
}

#[test]
fn a_wide_distribution_is_kept_coarser_and_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    let mut distribution = Distribution::default();
    // Five powers of ten, in each bin more than a byte can count.
    let mut values: Vec<f64> =
        (0..200_000).map(|n| 1e-4 * (f64::from(n) / 17_371.8).exp()).collect();
    for value in &values {
        distribution.observe(*value).unwrap();
    }
    let seen = distribution.take(wall(BEGIN_S)).unwrap();
    store.append(wall(BEGIN_S), Time(0), &[(series("latency"), Reading::Spread(seen))]).unwrap();
    store.flush().unwrap();
    let grid = grid(BEGIN_S + 700, BEGIN_S, BEGIN_S + 600, 600);
    drop(store);
    let buckets = ask(&mut open(dir.path(), BEGIN_S + 700), "latency", grid);
    let sketch = buckets[0].aggregate.sketch.as_ref().unwrap();
    values.sort_by(f64::total_cmp);
    for q in [0.01, 0.1, 0.5, 0.9, 0.99] {
        let exact = values[(q * (values.len() - 1) as f64) as usize];
        assert!((sketch.quantile(q).unwrap() / exact - 1.0).abs() < 0.08, "{q}");
    }
    assert_eq!((sketch.count(), sketch.bins() < 480), (200_000, true));
}

#[test]
fn a_kill_takes_ten_seconds_at_the_most() {
    let dir = tempfile::tempdir().unwrap();
    let mut now = BEGIN_S;
    let mut lost = Vec::new();
    // For how long it runs, and is away then: what it had not rolled up is after the return.
    for (run, away) in [(35, 0), (1_204, 0), (7, 0), (595, 1_000), (2_222, 0), (1_261, 5_000)] {
        let mut store = open(dir.path(), now);
        feed(&mut store, now..now + run);
        drop(store); // nothing is written when it goes
        lost.push((now + run) / 10 * 10..now + run + away);
        now += run + away;
    }
    let mut store = open(dir.path(), now);
    feed(&mut store, now..now + 700);
    now += 700;
    let told = |s: u64| (BEGIN_S..now).contains(&s) && !lost.iter().any(|l| l.contains(&s));
    for step in [10, 60, 600] {
        let grid = grid(now - 1, BEGIN_S, now, step);
        check(&ask(&mut store, "cpu", grid), &grid, told);
    }
}

#[test]
fn a_stop_in_good_order_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut now = BEGIN_S;
    for run in [3, 4, 1_500, 333, 10] {
        let mut store = open(dir.path(), now);
        feed(&mut store, now..now + run);
        store.flush().unwrap();
        store.flush().unwrap();
        now += run;
        let mut store = open(dir.path(), now - 1);
        let grid = grid(now - 1, BEGIN_S, now, 60);
        check(&ask(&mut store, "cpu", grid), &grid, |s| (BEGIN_S..now).contains(&s));
    }
    let mut store = open(dir.path(), now);
    feed(&mut store, now..now + 1);
    for step in [10, 60, 600] {
        let grid = grid(now, BEGIN_S, now + 1, step);
        check(&ask(&mut store, "cpu", grid), &grid, |s| (BEGIN_S..=now).contains(&s));
    }
}

#[test]
fn clocks_jump_and_nothing_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let year = 365 * 86_400;
    let mut store = open(dir.path(), BEGIN_S);
    feed(&mut store, BEGIN_S..BEGIN_S + 1_000);
    feed(&mut store, BEGIN_S + year..BEGIN_S + year + 100);
    feed(&mut store, BEGIN_S + 1_000..BEGIN_S + 2_000);
    feed(&mut store, [0, 1, 2, u64::MAX / 1_000 - 1]);
    // A small step back: ten seconds are lived again, and their samples are all there.
    feed(&mut store, BEGIN_S + 1_995..BEGIN_S + 3_005);
    let now = BEGIN_S + 3_004;
    let told = |s: u64| (BEGIN_S..=now).contains(&s);
    let before = grid(now, BEGIN_S, BEGIN_S + 1_980, 60);
    check(&ask(&mut store, "cpu", before), &before, told);
    let after = grid(now, BEGIN_S + 2_000, now + 1, 10);
    check(&ask(&mut store, "cpu", after), &after, told);
    let twice = grid(now, BEGIN_S + 1_990, BEGIN_S + 2_000, 10);
    assert_eq!(ask(&mut store, "cpu", twice)[0].aggregate.summary.weight(), 15.0);
    // A start long after, and one before all of it.
    for second in [BEGIN_S + year + 200, BEGIN_S - year] {
        drop(store);
        store = open(dir.path(), second);
        feed(&mut store, second..second + 30);
        let grid = grid(second + 29, second - 600, second + 30, 10);
        assert_eq!(ask(&mut store, "cpu", grid).len(), if second > BEGIN_S { 13 } else { 3 });
    }
}

#[test]
fn too_many_series_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    let many: Vec<_> = (0..SERIES_MAX + 10)
        .map(|n| (series(&format!("custom.n{n}")), Reading::Number(n as f64)))
        .collect();
    for second in 0..11 {
        store.append(wall(BEGIN_S + second), Time(second * 1_000_000), &many).unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.series, stats.refused), (SERIES_MAX, 110));
    let grid = grid(BEGIN_S + 10, BEGIN_S, BEGIN_S + 10, 10);
    assert_eq!(ask(&mut store, "custom.n1999", grid)[0].aggregate.summary.mean(), 1_999.0);
    let everything = Wanted {
        pattern: Pattern::parse("*").unwrap(),
        grid: rollup::grid(wall(BEGIN_S), wall(BEGIN_S - 5_184_000), wall(BEGIN_S), 1).unwrap(),
        spreads: false,
    };
    assert!(matches!(store.query(&everything), Err(StoreError::TooMuch { .. })));
}

#[test]
fn what_does_not_fit_its_series_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    let readings = [
        (series("cpu"), Reading::Number(f64::NAN)),
        (series("load"), Reading::Number(f64::INFINITY)),
        (series("net.in"), Reading::Number(-1.0)),
        (series("latency"), Reading::Number(1.0)),
        (series("cpu.user"), Reading::Spread(seen(1))),
    ];
    store.append(wall(BEGIN_S), Time(0), &readings).unwrap();
    store.flush().unwrap();
    assert_eq!(store.stats().unfit, 5);
    let grid = grid(BEGIN_S, BEGIN_S, BEGIN_S + 10, 10);
    assert_eq!(ask(&mut store, "*", grid), []);
    for n in 0..DISTRIBUTIONS_MAX + 2 {
        let readings = [(series(&format!("latency app-{n}")), Reading::Spread(seen(1)))];
        store.append(wall(BEGIN_S), Time(0), &readings).unwrap();
    }
    store.flush().unwrap();
    let files = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    let spreads = files.filter(|name| name.to_string_lossy().starts_with("spread-1m")).count();
    assert!(spreads <= DISTRIBUTIONS_MAX, "{spreads}");
}

#[test]
fn a_column_that_is_given_away_shows_nothing_of_its_past() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    feed(&mut store, BEGIN_S..BEGIN_S + 1_300);
    store.flush().unwrap();
    let mut freed = Vec::new();
    for _ in 0..60 * 24 + 1 {
        // All but `cpu`, the first, are silent.
        freed.extend(store.columns.hour(|at| at == 0));
    }
    assert_eq!((freed.len(), store.columns.used()), (2, 1));
    store.columns.save().unwrap();
    drop(store);
    let mut store = open(dir.path(), BEGIN_S + 1_300);
    let now = BEGIN_S + 1_320;
    for second in BEGIN_S + 1_300..now {
        let readings = [
            (series("load"), Reading::Number(1.0)),
            (series("latency docs"), Reading::Spread(seen(second))),
        ];
        store.append(wall(second), Time(second * 1_000_000), &readings).unwrap();
    }
    let grid = grid(now - 1, BEGIN_S, now, 600);
    let load = ask(&mut store, "load", grid);
    assert_eq!((load.len(), load[0].aggregate.summary.weight()), (1, 20.0));
    let docs = ask(&mut store, "latency docs", grid);
    assert_eq!(docs[0].aggregate.sketch.as_ref().unwrap().count(), 200);
    check(&ask(&mut store, "cpu", grid), &grid, |s| (BEGIN_S..BEGIN_S + 1_300).contains(&s));
}

#[test]
fn a_damaged_table_begins_everything_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    feed(&mut store, BEGIN_S..BEGIN_S + 100);
    store.flush().unwrap();
    drop(store);
    let path = dir.path().join("columns");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut store = open(dir.path(), BEGIN_S + 100);
    assert!(store.stats().begun_anew);
    assert_eq!(store.series().count(), 0);
    feed(&mut store, BEGIN_S + 100..BEGIN_S + 120);
    let grid = grid(BEGIN_S + 119, BEGIN_S, BEGIN_S + 120, 10);
    check(&ask(&mut store, "cpu", grid), &grid, |s| (BEGIN_S + 100..BEGIN_S + 120).contains(&s));
}

#[test]
fn files_stay_within_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), BEGIN_S);
    feed(&mut store, (BEGIN_S..BEGIN_S + 25_000).step_by(2));
    let size = fs::metadata(dir.path().join("10s-000.ring")).unwrap().len();
    let turn = Level::TenSeconds.slots() * (24 + (BANK * Cell::LEN) as u64) + 32;
    // The last slot may be shorter, as its row is.
    assert!((turn - (BANK * Cell::LEN) as u64..=turn).contains(&size), "{size} of {turn}");
    let now = BEGIN_S + 24_999;
    let day = grid(now, BEGIN_S, now, 10);
    let oldest = ask(&mut store, "cpu", day)[0].start;
    assert!(oldest.0 / 1_000 <= BEGIN_S + 60, "what the ring gave up is known by the minute");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What a power cut or a bad disk leaves: any file cut, any bytes changed.
    #[test]
    fn damage_is_never_read_as_data(
        flips in vec((0..8_usize, any::<u64>(), 1..=255_u8), 0..20),
        cut in (0..8_usize, any::<u64>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), BEGIN_S);
        feed(&mut store, BEGIN_S..BEGIN_S + 1_300);
        drop(store);
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for (file, at, with) in flips {
            let path = &files[file % files.len()];
            let mut bytes = fs::read(path).unwrap();
            let at = (at % bytes.len() as u64) as usize;
            bytes[at] ^= with;
            fs::write(path, bytes).unwrap();
        }
        let path = &files[cut.0 % files.len()];
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(cut.1 % (file.metadata().unwrap().len() + 1)).unwrap();
        let now = BEGIN_S + 1_310;
        let mut store = match SeriesStore::open(dir.path(), wall(now)) {
            Ok(store) => store,
            // The byte that says the version.
            Err(error) => {
                prop_assert!(matches!(error, StoreError::Newer { .. }), "{error}");
                return Ok(());
            }
        };
        feed(&mut store, now..now + 60);
        for step in [10, 60, 600] {
            let grid = grid(now + 59, BEGIN_S, now + 60, step);
            for bucket in ask(&mut store, "cpu", grid) {
                let summary = bucket.aggregate.summary;
                let seconds = bucket.start.0 / 1_000..bucket.start.0 / 1_000 + step;
                let most = seconds.clone().map(level).fold(0.0, f64::max);
                let least = seconds.map(level).fold(f64::MAX, f64::min);
                prop_assert!(summary.min() >= least && summary.max() <= most);
                prop_assert!(summary.weight() <= step as f64);
            }
        }
    }
}
