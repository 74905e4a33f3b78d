//! What is measured: questions about it, what members tell of it, and what programs say of
//! themselves.

use std::{cell::RefCell, collections::BTreeSet};

use althing::{
    base::{
        MemberName, Time, WallTime, limits,
        metric::{Pattern, Series},
    },
    node::{
        Ask, Heard, Told,
        telemetry::asking::{Asked as Members, EventsQuestion, Measured, SeriesQuestion, gather},
    },
    proto::telemetry::{
        Aggregate, Answer as Rows, Bucket, Distribution, Grid, Plan, Reading, Sample, Summary,
        answer, statsd,
    },
    store::series::{SeriesStore, Wanted},
};
use axum::extract::Query;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::sample::{app, key};

/// When the store of the targets was told last.
const EDGE: WallTime = WallTime(1_700_000_029_000);

thread_local! {
    /// Half a minute of three series, in a directory that goes with the thread.
    static STORE: RefCell<(SeriesStore, tempfile::TempDir)> = RefCell::new(store());
}

fn store() -> (SeriesStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let begin = WallTime(EDGE.0 - 29_000);
    let mut store = SeriesStore::open(dir.path(), begin).expect("a store in it");
    let series = ["cpu", "latency web", "custom.queue"];
    let [cpu, latency, queue] = series.map(|text| Series::parse(text).expect("a series"));
    for second in 0..30 {
        let at = WallTime(begin.0 + second * 1_000);
        let mut told = Distribution::default();
        told.observe(0.1).expect("a finite number");
        let readings = [
            (cpu.clone(), Reading::Number(second as f64)),
            (latency.clone(), Reading::Spread(told.take(at).expect("one was observed"))),
            (queue.clone(), Reading::Number(1.0)),
        ];
        store.append(at, Time(second * 1_000_000), &readings).expect("it can be written");
    }
    (store, dir)
}

/// Questions about measurements and events: from members, and from the address of a page.
/// Whatever is asked, so many rows are the most, and no more is read than is kept.
pub(super) fn ask(bytes: &[u8]) {
    if let Ok(ask) = serde_json::from_slice::<Ask>(bytes) {
        let again = serde_json::to_vec(&ask).expect("what was read can be written");
        assert_eq!(serde_json::from_slice(&again).ok().as_ref(), Some(&ask));
        if let Ask::Series { pattern, grid, spreads } = &ask {
            look(pattern, *grid, *spreads);
        }
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let asked = format!("/api/v1/series?{text}")
        .parse()
        .ok()
        .and_then(|uri| Query::<SeriesQuestion>::try_from_uri(&uri).ok());
    let question = asked.map(|Query(question)| question);
    let Some(question) = question.or_else(|| serde_json::from_slice(bytes).ok()) else { return };
    if let Ok(rows) = question.resolve(EDGE) {
        assert!(!question.percentiles || rows.grid.step_ms() % 60_000 == 0, "{rows:?}");
        look(&question.series, rows.grid, question.percentiles);
    }
}

/// What one member reads for a question.
fn look(patterns: &str, grid: Grid, spreads: bool) {
    assert!((1..=limits::BUCKETS_MAX).contains(&grid.rows()) && grid.from() < grid.to());
    for piece in Plan::new(&grid, EDGE) {
        assert!(piece.from < piece.to, "{piece:?}");
        assert!(piece.to - piece.from <= piece.level.slots() + 2, "{piece:?}");
    }
    for text in patterns.split(';') {
        let Ok(pattern) = Pattern::parse(text.trim()) else { return };
        let wanted = Wanted { pattern: pattern.clone(), grid, spreads };
        let found = STORE.with_borrow_mut(|(store, _)| store.query(&wanted));
        let mut told = BTreeSet::new();
        for one in found.expect("so little is never too much") {
            assert!(pattern.matches(&one.series) && one.buckets.len() <= grid.rows());
            let (starts, rows): (Vec<WallTime>, BTreeSet<Option<usize>>) =
                one.buckets.iter().map(|b| (b.start, grid.row(b.start, b.span_ms))).unzip();
            assert!(starts.is_sorted() && rows.len() == starts.len() && !rows.contains(&None));
            assert!(told.insert(one.series), "each is told once");
        }
    }
}

pub(super) fn ask_seeds() -> Vec<Vec<u8>> {
    let grid = Grid::new(WallTime(EDGE.0 - 29_000), EDGE, 1_000).expect("some time");
    let minutes = Grid::new(WallTime(EDGE.0 - 3_600_000), EDGE, 60_000).expect("some time");
    let asks = [
        Ask::Series { pattern: "cpu;custom.*".to_owned(), grid, spreads: false },
        Ask::Series { pattern: "lat*".to_owned(), grid: minutes, spreads: true },
        Ask::Events(EventsQuestion {
            after: Some(7),
            app: Some(app()),
            ..EventsQuestion::default()
        }),
        Ask::Status { app: None },
    ];
    let mut seeds: Vec<Vec<u8>> =
        asks.iter().map(|ask| serde_json::to_vec(ask).expect("plain data")).collect();
    let question = SeriesQuestion {
        series: "latency *".to_owned(),
        from: EDGE.0 - 600_000,
        to: None,
        step: Some(60_000),
        member: Some(MemberName::parse("m1").expect("a good name")),
        each: true,
        percentiles: true,
    };
    seeds.push(serde_json::to_vec(&question).expect("plain data"));
    seeds.push(b"series=cpu;custom.*&from=1699999999000&to=1700000030000&step=1000".to_vec());
    seeds.push(b"series=*&from=0&to=18446744073709551615&percentiles=true&each=true".to_vec());
    seeds
}

/// What members tell of a series: buckets one by one, put together with those of another one, and
/// what is made of them for people. Nothing in it is beyond its bounds, or no number.
pub(super) fn measured(bytes: &[u8]) {
    let grid = Grid::new(WallTime(EDGE.0 - 600_000), EDGE, 10_000).expect("some time");
    let buckets: Vec<Bucket> = answer::decode(bytes).map_while(Result::ok).collect();
    assert!(buckets.len() <= limits::BUCKETS_MAX && buckets.len() <= bytes.len());
    let again = answer::encode(&buckets);
    assert!(again.len() <= bytes.len().max(1), "the shortest encoding is the one that is written");
    let back: Vec<Bucket> = answer::decode(&again)
        .map(|bucket| bucket.expect("what was read can be written"))
        .collect();
    assert_eq!(back.len(), buckets.len());
    let members = [key(1).member(), key(2).member()];
    let mut rows = Rows::new(grid, members);
    for member in members {
        rows.take(member, buckets.clone()).expect("each is asked, and once");
    }
    assert_eq!(rows.rows().count(), grid.rows());
    for (_, row) in rows.rows() {
        let Some(Aggregate { summary, sketch }) = row.all() else { continue };
        assert!(row.heard() == 2 && summary.weight() > 0.0 && summary.min() <= summary.max());
        assert!(summary.mean().is_finite() && summary.rms().is_finite());
        let Some(sketch) = sketch else { continue };
        assert!(sketch.bins() <= limits::SKETCH_BINS_MAX);
        for share in [0.0, 0.5, 0.99, 1.0] {
            let value = sketch.quantile(share);
            let (min, max) = (sketch.min(), sketch.max());
            assert!(value >= min && value <= max, "{value:?} of {min:?} to {max:?}");
        }
    }
    for question in [(false, None), (true, None), (false, Some(10_000))] {
        shown(bytes, question);
    }
}

/// The same as it comes over the wire, for people.
fn shown(bytes: &[u8], (each, step): (bool, Option<u64>)) {
    let question = SeriesQuestion {
        series: "latency *".to_owned(),
        from: EDGE.0 - 600_000,
        to: Some(EDGE.0),
        step,
        member: None,
        each,
        percentiles: false,
    };
    let rows = question.resolve(EDGE).expect("a good question");
    let names = ["m1", "m2", "m3"].map(|name| MemberName::parse(name).expect("a good name"));
    let mut members = [1, 2, 3].map(|n| key(n).member()).into_iter().zip(names.clone());
    let live = members.by_ref().take(2).collect();
    let asked = Members { live, down: members.collect() };
    let (to, heard) = mpsc::channel(8);
    let buckets = STANDARD_NO_PAD.encode(bytes);
    for member in &names {
        // The second part is not base64 where the bytes are text.
        let texts = [buckets.clone(), String::from_utf8_lossy(bytes).into_owned()];
        for buckets in texts {
            let told = Told::Series { series: "latency web".to_owned(), buckets };
            to.try_send(Heard { member: member.clone(), told }).expect("there is room");
        }
    }
    for member in &names[..2] {
        let told = Told::Done;
        to.try_send(Heard { member: member.clone(), told }).expect("there is room");
    }
    drop(to);
    let gathered = gather(asked, rows, each, heard).now_or_never().expect("all has been told");
    let measured = gathered.show();
    assert!(measured.silent.len() == 1 && measured.asked.len() == 3 && !measured.cut);
    assert!(measured.series.len() <= if each { 2 } else { 1 });
    let rows_max = if step.is_some() { rows.grid.rows() } else { 1 };
    assert!(measured.series.iter().all(|series| series.rows.len() <= rows_max));
    let json = serde_json::to_vec(&measured).expect("plain data");
    assert_eq!(serde_json::from_slice::<Measured>(&json).ok(), Some(measured));
}

pub(super) fn measured_seeds() -> Vec<Vec<u8>> {
    let bucket = |back: u64, span_ms, aggregate| Bucket {
        start: WallTime((EDGE.0 - back) / span_ms * span_ms),
        span_ms,
        aggregate,
    };
    let number = |back: u64, value: f64| {
        let sample = Sample::weighed(value, 10.0).expect("finite");
        bucket(back, 10_000, Summary::of(WallTime(EDGE.0 - back), sample).into())
    };
    let spread = |back: u64| {
        let mut told = Distribution::default();
        for value in [0.001, 0.02, 0.02, -3.0, 0.0, 1e9] {
            told.observe(value).expect("finite");
        }
        bucket(back, 10_000, told.take(WallTime(EDGE.0 - back)).expect("some were observed"))
    };
    let second = Summary::of(EDGE, Sample::new(1.5).expect("finite"));
    vec![
        answer::encode(&[number(500_000, 3.0), number(400_000, -7.5)]),
        answer::encode(&[spread(300_000), spread(200_000), number(100_000, 1.0)]),
        answer::encode(&[bucket(3_000, 1_000, second.into()), bucket(2_000, 1_000, second.into())]),
        answer::encode(&[]),
    ]
}

/// What programs tell of themselves, in one packet or two: bounded, all of it numbers that can be
/// kept, and forgotten in the end.
pub(super) fn lines(bytes: &[u8]) {
    let count = bytes.split(|byte| *byte == b'\n').count() as u64;
    let mut custom = statsd::Custom::default();
    for second in 1..=2 {
        custom.take(bytes);
        assert!(custom.refused() <= count * second);
        let refused_all = custom.refused() == count * second;
        let readings = custom.readings(Time(second * 1_000_000), WallTime(second * 1_000));
        assert!(readings.len() <= limits::CUSTOM_SERIES_MAX && readings.len() as u64 <= count);
        assert!(!refused_all || readings.is_empty(), "what is refused changes nothing");
        for (series, reading) in readings {
            assert_eq!(Series::parse(&series.to_string()).as_ref(), Ok(&series));
            match reading {
                Reading::Number(number) => assert!(number.abs() <= limits::SAMPLE_MAX, "{series}"),
                Reading::Spread(told) => assert!(told.summary.min() <= told.summary.max()),
            }
        }
    }
    assert!(custom.readings(Time(100_000_000_000), WallTime(100_000_000)).is_empty());
    let text = String::from_utf8_lossy(bytes);
    let taken = text.lines().filter_map(|line| statsd::Line::parse(line).ok());
    for statsd::Line { series, .. } in taken {
        assert!(series.name().len() <= limits::SERIES_NAME_MAX, "{series}");
        assert!(series.label().is_none_or(|label| label.len() <= limits::SERIES_LABEL_MAX));
    }
}

pub(super) fn lines_seeds() -> Vec<Vec<u8>> {
    [
        "queue:42|g\nqueue:+3|g\nqueue:-1.5e3|g|#north\n",
        "orders:1|c\norders.total:2|c|@0.1|#shop:eu,kind:b\r\n\njob:250|ms|@0.5|#a b",
        "Shop/Cart Size:1|g\ncustom.a.b:1e30|c\na.b:9e29|c\nx:inf|g\ny:1|s",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
