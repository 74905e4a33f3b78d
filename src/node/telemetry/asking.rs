//! Questions about measurements and events: to this member, and through it to all.
//!
//! Any member puts the answers together. Each is asked for buckets, which can be merged, and
//! not for averages or percentiles, which can't; see `proto/telemetry`. Who does not answer is named.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Telemetry;
use crate::{
    base::{
        AppName, MemberId, MemberName, Reason, Refusal, WallTime,
        limits::LOGGED_ANSWER_MAX,
        metric::{Kind, Pattern, Series},
    },
    member::event::{EventKind, Severity},
    node::services::{Heard, Told},
    proto::telemetry::{Aggregate, Answer, Bucket, Grid, Row, answer, rollup},
    store::{events::EventQuery, series::Wanted},
};

/// Bytes of buckets in one part of an answer, before they are made text.
const PART_MAX: usize = 96 << 10;
/// Bytes of buckets that are taken from one member, before they are text.
const MEMBER_MAX: usize = 16 << 20;
/// Bytes of buckets that are taken from all members together.
const ALL_MAX: usize = 256 << 20;
/// Names of missing members that are told with one row.
const MISSING_MAX: usize = 20;
/// Rows of all series in one answer to people.
const ROWS_MAX: usize = 200_000;
/// What a part takes beside its buckets, bytes: a member that tells of nothing, again and again,
/// says too much as well.
const PART_COST: usize = 256;
/// Events that are told where nothing is said of how many.
const LOGGED: usize = 1_000;
/// Events that are sent at a time to one who follows.
const LOT: usize = 500;

/// Short rows that one long row is put together of.
const PARTS: u64 = 60;
/// Patterns in one question.
const PATTERNS_MAX: usize = 32;

/// What is asked about measurements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesQuestion {
    /// Which series: a pattern as in [`Pattern`], or several with `;` between.
    pub series: String,
    /// From when, milliseconds since 1970.
    pub from: u64,
    /// Until when; now if not given.
    #[serde(default)]
    pub to: Option<u64>,
    /// The length of a row, milliseconds; all of it is one row if not given.
    #[serde(default)]
    pub step: Option<u64>,
    /// Only of this member.
    #[serde(default)]
    pub member: Option<MemberName>,
    /// Each member for itself instead of all together.
    #[serde(default)]
    pub each: bool,
    /// Whether percentiles are wanted, where there are any.
    #[serde(default)]
    pub percentiles: bool,
}

impl SeriesQuestion {
    /// What each member is asked.
    ///
    /// # Errors
    /// A refusal, if it is not to be understood, or no time at all.
    pub fn resolve(&self, now: WallTime) -> Result<Rows, Refusal> {
        let refuse = |why: String, todo: &str| {
            Refusal::new(Reason::Invalid, "No measurements were read.", why, todo)
        };
        patterns(&self.series).map_err(|why| {
            refuse(
                format!("{:?} names no series: {why}.", self.series),
                "See docs/telemetry.md for what is measured.",
            )
        })?;
        let to = WallTime(self.to.unwrap_or(now.0));
        let from = WallTime(self.from);
        // Rows lie on multiples of their length. One that is to be all of a time that does not
        // is put together of short ones.
        let one = self.step.is_none();
        let step = self.step.unwrap_or_else(|| (to.0.saturating_sub(from.0) / PARTS).max(1));
        // A row of percentiles is of whole minutes, because these are what is kept of them.
        let step = match self.percentiles {
            true => step.max(1).checked_next_multiple_of(60_000),
            false => Some(step),
        };
        let grid = step.and_then(|step| rollup::grid(now, from, to, step)).ok_or_else(|| {
            refuse(
                format!("From {from} to {to} is no time, or too much of it for that step."),
                "Give a beginning before the end, and a longer step.",
            )
        })?;
        Ok(Rows { grid, one })
    }
}

/// In which rows an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Those that members are asked for.
    pub grid: Grid,
    /// Whether these are one in the end.
    pub one: bool,
}

impl Rows {
    /// Those of the answer.
    fn answer(self) -> Grid {
        let to = self.grid.to();
        let whole = self.one.then(|| Grid::new(WallTime(0), to, to.0)).flatten();
        whole.unwrap_or(self.grid)
    }

    /// What one member said, for the answer. A part of a tenth at most that has no distribution is
    /// left out of one row of distributions: otherwise a minute that a crash took would leave a
    /// day without.
    fn taken(self, mut buckets: Vec<Bucket>) -> Vec<Bucket> {
        let weight = |lacks: bool| -> f64 {
            let of = buckets.iter().filter(|b| b.aggregate.sketch.is_none() == lacks);
            of.map(|b| b.aggregate.summary.weight()).sum()
        };
        if self.one && weight(true) <= weight(false) / 9.0 {
            buckets.retain(|bucket| bucket.aggregate.sketch.is_some());
        }
        buckets
    }
}

/// Reads patterns with `;` between.
fn patterns(text: &str) -> Result<Vec<Pattern>, String> {
    let all: Vec<_> = text.split(';').map(|one| Pattern::parse(one.trim())).collect();
    if all.len() > PATTERNS_MAX {
        return Err(format!("there are more than {PATTERNS_MAX} patterns in it"));
    }
    all.into_iter().collect()
}

/// What many members know of some series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When the first row begins.
    pub from: WallTime,
    /// When the last one ends.
    pub to: WallTime,
    /// The length of a row, milliseconds.
    pub step: u64,
    /// Who was asked.
    pub asked: Vec<MemberName>,
    /// Who did not answer, or not to the end, and why.
    pub silent: Vec<Silent>,
    /// Each series, in the order of their names.
    pub series: Vec<MeasuredSeries>,
    /// Whether series were left out because it would be too much.
    #[serde(default)]
    pub cut: bool,
}

/// One who did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// Who.
    pub member: MemberName,
    /// Why, in a sentence.
    pub why: String,
}

/// One series of a member or of all that were asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredSeries {
    /// Which.
    pub series: Series,
    /// Of whom, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
    /// What stands behind its numbers: `%`, `B`, `s`, `d`, or nothing. Of a counter it is so
    /// much a second.
    pub unit: String,
    /// `gauge`, `counter` or `histogram`.
    pub kind: String,
    /// Those of which something is known.
    pub rows: Vec<MeasuredRow>,
}

/// What was measured in one span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredRow {
    /// When it begins.
    pub at: WallTime,
    /// How many members it is of.
    pub members: usize,
    /// Those of the asked that are not in it: the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MemberName>,
    /// The average over time and members.
    pub avg: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The root of the mean of the squares.
    pub rms: f64,
    /// What the members have together: the sum of their averages.
    pub total: f64,
    /// The newest.
    pub last: f64,
    /// How much stands behind it: samples of a gauge, seconds of a counter, observations of a
    /// histogram.
    pub weight: f64,
    /// Percentiles, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentiles: Option<Percentiles>,
}

/// See [`MeasuredRow::percentiles`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them are at most so much.
    pub p50: f64,
    /// 90 of a hundred.
    pub p90: f64,
    /// 95 of a hundred.
    pub p95: f64,
    /// 99 of a hundred.
    pub p99: f64,
}

/// What is asked about the log of events. What is not given does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsQuestion {
    /// Those with a higher number in the log: of one member.
    pub after: Option<u64>,
    /// Those not before this.
    pub since: Option<WallTime>,
    /// Those before this.
    pub until: Option<WallTime>,
    /// Those of one of these kinds; of all if none is given.
    pub kinds: Vec<EventKind>,
    /// Those that matter at least so much.
    pub severity: Option<Severity>,
    /// Those that concern this application.
    pub app: Option<AppName>,
    /// Those that concern this member.
    pub about: Option<MemberName>,
    /// How many at most; the newest. A thousand if it is 0.
    pub limit: usize,
    /// Whether those that happen from now on follow.
    pub follow: bool,
}

impl EventsQuestion {
    fn query(&self, after: Option<u64>, limit: usize) -> EventQuery {
        EventQuery {
            after,
            since: self.since,
            until: self.until,
            kinds: self.kinds.clone(),
            severity: self.severity,
            app: self.app.clone(),
            member: self.about.clone(),
            limit,
        }
    }
}

/// Answers a question about measurements, part by part.
///
/// # Errors
/// A refusal that is to be told instead of the rest.
pub(in crate::node) async fn tell_series(
    telemetry: &Telemetry,
    pattern: &str,
    grid: Grid,
    spreads: bool,
    to: &mpsc::Sender<Told>,
) -> Result<(), Refusal> {
    let refuse = |why: String| {
        Refusal::new(
            Reason::Failed,
            "There are no measurements.",
            why,
            "Ask for fewer series or a longer step, and see the member's events.",
        )
    };
    let patterns = patterns(pattern).map_err(|why| refuse(format!("{why}.")))?;
    // What two patterns mean is told once, or it would count twice.
    let mut told = BTreeSet::new();
    for pattern in patterns {
        let found = telemetry.series(Wanted { pattern, grid, spreads }).await;
        let found = found.ok_or_else(|| refuse("The member stops.".to_owned()))?;
        let found = found.map_err(|error| refuse(format!("They can't be read: {error}.")))?;
        for one in found {
            if !told.insert(one.series.clone()) {
                continue;
            }
            let mut rest = one.buckets.as_slice();
            while !rest.is_empty() {
                let (bytes, taken) = part(rest);
                rest = &rest[taken..];
                let part = Told::Series {
                    series: one.series.to_string(),
                    buckets: STANDARD_NO_PAD.encode(bytes),
                };
                if to.send(part).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// As many of `buckets` as one part takes, one at least, and how many that are.
fn part(buckets: &[Bucket]) -> (Vec<u8>, usize) {
    let mut taken = buckets.len();
    loop {
        let bytes = answer::encode(&buckets[..taken]);
        if bytes.len() <= PART_MAX || taken == 1 {
            return (bytes, taken);
        }
        taken = (taken * PART_MAX / bytes.len()).clamp(1, taken - 1);
    }
}

/// Answers a question about events, part by part.
///
/// # Errors
/// A refusal that is to be told instead of the rest.
pub(in crate::node) async fn tell_events(
    telemetry: &Telemetry,
    question: &EventsQuestion,
    to: &mpsc::Sender<Told>,
) -> Result<(), Refusal> {
    let refuse = |why: String| {
        let todo = "See the member's own log, and `althing events` without --since and --member.";
        Refusal::new(Reason::Failed, "There are no events.", why, todo)
    };
    let mut tail = telemetry.tail();
    let mut after = question.after;
    let mut limit = match question.limit {
        0 => LOGGED,
        limit => limit.min(LOGGED_ANSWER_MAX),
    };
    loop {
        let newest = *tail.borrow_and_update();
        let found = telemetry.events(question.query(after, limit)).await;
        let found = found.ok_or_else(|| refuse("The member stops.".to_owned()))?;
        let found = found.map_err(|error| refuse(format!("They can't be read: {error}.")))?;
        let whole = found.events.len() < limit;
        let last = found.events.last().map(|logged| logged.id);
        for logged in found.events {
            if to.send(Told::Event(Box::new(logged))).await.is_err() {
                return Ok(());
            }
        }
        if !question.follow {
            return Ok(());
        }
        // From the first look on it is about what comes behind.
        after = Some(match last {
            Some(last) if !whole && after.is_some() => last,
            _ => newest.max(last.unwrap_or(0)).max(after.unwrap_or(0)),
        });
        limit = LOT;
        if whole && tail.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// What one member has told of some series, until it is through.
#[derive(Default)]
struct Heap {
    parts: BTreeMap<Series, Vec<Vec<u8>>>,
    bytes: usize,
}

/// Of whom an answer is. Nobody is in it twice.
pub struct Asked {
    /// Those that were asked.
    pub live: Vec<(MemberId, MemberName)>,
    /// Those that were not, because they are down.
    pub down: Vec<(MemberId, MemberName)>,
}

/// Puts together what those that were asked for `grid` tell.
pub async fn gather(
    Asked { live, down }: Asked,
    rows: Rows,
    each: bool,
    mut heard: mpsc::Receiver<Heard>,
) -> Gathered {
    let mut heaps: BTreeMap<MemberName, Heap> = BTreeMap::new();
    let mute = live.iter().map(|(_, name)| (name.clone(), "It said nothing.".to_owned()));
    let gone = down.iter().map(|(_, name)| (name.clone(), "It is down.".to_owned()));
    let mut gathered = Gathered {
        rows,
        silent: mute.chain(gone).collect(),
        asked: live.into_iter().chain(down).collect(),
        answers: BTreeMap::new(),
        cut: false,
    };
    let mut all = 0;
    while let Some(Heard { member, told }) = heard.recv().await {
        let of = gathered.asked.iter().find(|(_, name)| *name == member);
        let Some(id) = of.map(|(id, _)| *id) else { continue };
        match told {
            Told::Series { series, buckets } => {
                // A newer member may measure what this one has no name for.
                let Ok(series) = Series::parse(&series) else { continue };
                let heap = heaps.entry(member).or_default();
                let Ok(bytes) = STANDARD_NO_PAD.decode(buckets) else { continue };
                let cost = bytes.len() + PART_COST;
                heap.bytes += cost;
                all += cost;
                if heap.bytes <= MEMBER_MAX && all <= ALL_MAX {
                    heap.parts.entry(series).or_default().push(bytes);
                }
            }
            Told::Done => {
                let heap = heaps.remove(&member).unwrap_or_default();
                all -= heap.bytes;
                if heap.bytes > MEMBER_MAX || all > ALL_MAX {
                    gathered.silent.insert(member, "It said too much at once.".to_owned());
                    continue;
                }
                gathered.take(id, &member, heap, each);
                gathered.silent.remove(&member);
            }
            Told::Refused(refusal) => {
                if let Some(heap) = heaps.remove(&member) {
                    all -= heap.bytes;
                }
                gathered.silent.insert(member, refusal.why);
            }
            _ => {}
        }
    }
    gathered
}

/// What members have told, put together.
pub struct Gathered {
    rows: Rows,
    asked: Vec<(MemberId, MemberName)>,
    /// Who has not answered, and why.
    silent: BTreeMap<MemberName, String>,
    /// By series, and by member if each is wanted for itself.
    answers: BTreeMap<(Series, Option<MemberName>), Answer>,
    /// Whether the last of them were left out.
    cut: bool,
}

impl Gathered {
    fn take(&mut self, id: MemberId, name: &MemberName, heap: Heap, each: bool) {
        for (series, parts) in heap.parts {
            let (key, asked) = match each {
                true => ((series, Some(name.clone())), vec![id]),
                false => ((series, None), self.asked.iter().map(|(id, _)| *id).collect()),
            };
            let grid = self.rows.answer();
            if !self.has_room(&key, grid.rows()) {
                continue;
            }
            let answer = self.answers.entry(key).or_insert_with(|| Answer::new(grid, asked));
            // What can't be read of it ends it: the rows behind say that it is missing.
            let buckets = parts.iter().flat_map(|part| {
                answer::decode(part).take_while(Result::is_ok).filter_map(Result::ok)
            });
            // It was asked, and is heard once.
            let _taken = answer.take(id, self.rows.taken(buckets.collect()));
        }
    }

    /// Makes room for one more answer, and says whether there is. The first by their names are
    /// kept, so one that gave way never comes again, and without some of its members.
    fn has_room(&mut self, key: &(Series, Option<MemberName>), rows: usize) -> bool {
        if self.answers.contains_key(key) || (self.answers.len() + 1) * rows <= ROWS_MAX {
            return true;
        }
        self.cut = true;
        let is_before = self.answers.last_key_value().is_some_and(|(last, _)| key < last);
        if is_before {
            self.answers.pop_last();
        }
        is_before
    }

    /// Whether `member` has not answered, or not to the end.
    pub fn is_silent(&self, member: &MemberName) -> bool {
        self.silent.contains_key(member)
    }

    /// Whether anybody has not.
    pub fn is_any_silent(&self) -> bool {
        !self.silent.is_empty()
    }

    /// All of a series, where that was one row: of `member`, or of all together; and what they
    /// have together. None if nobody measured it.
    pub fn of(&self, series: &Series, member: Option<&MemberName>) -> Option<(&Aggregate, f64)> {
        let answer = self.answers.get(&(series.clone(), member.cloned()))?;
        let (_, row) = answer.rows().find(|(_, row)| row.all().is_some())?;
        row.all().zip(row.total())
    }

    /// As people and programs read it.
    pub fn show(&self) -> Measured {
        let name = |id: MemberId| {
            self.asked.iter().find(|(asked, _)| *asked == id).map(|(_, name)| name.clone())
        };
        let mut series = Vec::new();
        for ((of, member), answer) in &self.answers {
            let row = |(at, row): (WallTime, &Row)| {
                let at = if self.rows.one { self.rows.grid.from() } else { at };
                let missing = answer.missing(row).take(MISSING_MAX).filter_map(name).collect();
                show_row(at, row, missing)
            };
            series.push(MeasuredSeries {
                series: of.clone(),
                member: member.clone(),
                unit: of.unit().symbol().to_owned(),
                kind: match of.kind() {
                    Kind::Gauge => "gauge",
                    Kind::Counter => "counter",
                    Kind::Histogram => "histogram",
                }
                .to_owned(),
                rows: answer.rows().filter_map(row).collect(),
            });
        }
        let grid = self.rows.grid;
        Measured {
            from: grid.from(),
            to: grid.to(),
            step: if self.rows.one { grid.to().0 - grid.from().0 } else { grid.step_ms() },
            asked: self.asked.iter().map(|(_, name)| name.clone()).collect(),
            silent: self
                .silent
                .iter()
                .map(|(member, why)| Silent { member: member.clone(), why: why.clone() })
                .collect(),
            series,
            cut: self.cut,
        }
    }
}

/// None of a row in which nobody was heard.
fn show_row(at: WallTime, row: &Row, missing: Vec<MemberName>) -> Option<MeasuredRow> {
    let (all, total) = (row.all()?, row.total()?);
    let summary = &all.summary;
    let percentiles = all.sketch.as_ref().and_then(|sketch| {
        let at = |q| sketch.quantile(q);
        Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p95: at(0.95)?, p99: at(0.99)? })
    });
    Some(MeasuredRow {
        at,
        members: row.heard(),
        missing,
        avg: summary.mean(),
        min: summary.min(),
        max: summary.max(),
        rms: summary.rms(),
        total,
        last: summary.last(),
        weight: summary.weight(),
        percentiles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::telemetry::{Aggregate, Sample, Sketch, Summary};

    fn name(text: &str) -> MemberName {
        MemberName::parse(text).unwrap()
    }

    fn question(step: Option<u64>) -> SeriesQuestion {
        SeriesQuestion {
            series: "cpu;load".into(),
            from: 1_000_030_000,
            to: Some(1_000_150_000),
            step,
            member: None,
            each: false,
            percentiles: false,
        }
    }

    fn bucket(start: u64, value: f64, sketch: bool) -> Bucket {
        let mut of = Sketch::default();
        of.add(value).unwrap();
        let summary = Summary::of(WallTime(start), Sample::new(value).unwrap());
        let aggregate = Aggregate { summary, sketch: sketch.then_some(of) };
        Bucket { start: WallTime(start), span_ms: 2_000, aggregate }
    }

    /// What is made of these buckets of two members, of which a third one is down.
    async fn gathered(rows: Rows, each: bool, told: [Vec<Bucket>; 2]) -> Measured {
        let ids = [1, 2, 3].map(|n| crate::base::SecretKey::from_seed([n; 32]).member());
        let asked = Asked {
            live: vec![(ids[0], name("a")), (ids[1], name("b"))],
            down: vec![(ids[2], name("c"))],
        };
        let (to, heard) = mpsc::channel(64);
        for (member, buckets) in ["a", "b"].into_iter().zip(told) {
            let mut rest = buckets.as_slice();
            while !rest.is_empty() {
                let (bytes, taken) = part(rest);
                rest = &rest[taken..];
                let buckets = STANDARD_NO_PAD.encode(bytes);
                let told = Told::Series { series: "cpu".into(), buckets };
                to.send(Heard { member: name(member), told }).await.unwrap();
            }
            to.send(Heard { member: name(member), told: Told::Done }).await.unwrap();
        }
        // Somebody whom nobody asked counts nowhere.
        to.send(Heard { member: name("x"), told: Told::Done }).await.unwrap();
        drop(to);
        gather(asked, rows, each, heard).await.show()
    }

    #[tokio::test]
    async fn a_time_without_a_step_is_one_row_wherever_it_lies() {
        let rows = question(None).resolve(WallTime(1_000_150_000)).unwrap();
        assert!(rows.one && rows.grid.rows() >= 60, "{rows:?}");
        let own = |value: f64| {
            (0..60).map(|n| bucket(1_000_030_000 + n * 2_000, value, n != 7)).collect::<Vec<_>>()
        };
        let measured = gathered(rows, false, [own(10.0), own(30.0)]).await;
        let [series] = measured.series.as_slice() else { panic!("{measured:?}") };
        let [row] = series.rows.as_slice() else { panic!("{series:?}") };
        assert_eq!((row.avg, row.min, row.max, row.total), (20.0, 10.0, 30.0, 40.0));
        assert_eq!((row.members, row.at, &row.missing), (2, measured.from, &vec![name("c")]));
        let percentiles = row.percentiles.unwrap();
        assert!((percentiles.p99 - 30.0).abs() < 0.5, "{percentiles:?}");
        assert_eq!(measured.silent, [Silent { member: name("c"), why: "It is down.".into() }]);
        // Where it lacks for more than a tenth there are none.
        let half = (0..60).map(|n| bucket(1_000_030_000 + n * 2_000, 1.0, n % 2 == 0)).collect();
        let measured = gathered(rows, true, [half, own(3.0)]).await;
        let percentiles: Vec<bool> =
            measured.series.iter().map(|one| one.rows[0].percentiles.is_some()).collect();
        assert_eq!(percentiles, [false, true]);
    }

    #[tokio::test]
    async fn rows_of_a_step_are_told_one_by_one() {
        let rows = question(Some(60_000)).resolve(WallTime(1_000_150_000)).unwrap();
        assert!(!rows.one && rows.grid.rows() == 3, "{rows:?}");
        let all = (0..60).map(|n| bucket(1_000_030_000 + n * 2_000, n as f64, false)).collect();
        let measured = gathered(rows, true, [all, vec![]]).await;
        let [series] = measured.series.as_slice() else { panic!("{measured:?}") };
        assert_eq!((series.member.as_ref(), series.rows.len()), (Some(&name("a")), 3));
        assert_eq!(measured.step, 60_000);
    }

    #[tokio::test]
    async fn what_would_be_too_much_is_cut_and_not_kept() {
        let mut rows = question(Some(1_000)).resolve(WallTime(1_000_150_000)).unwrap();
        rows.grid = Grid::new(WallTime(0), WallTime(10_000_000), 1_000).unwrap();
        let id = crate::base::SecretKey::from_seed([1; 32]).member();
        let live = vec![(id, name("a"))];
        let (to, heard) = mpsc::channel(64);
        let count = ROWS_MAX / rows.grid.rows() + 2;
        let one = [bucket(4_000, 1.0, false)].map(|b| Bucket { span_ms: 1_000, ..b });
        // The last comes first, and gives way.
        for n in (0..count).rev() {
            let buckets = STANDARD_NO_PAD.encode(answer::encode(&one));
            let told = Told::Series { series: format!("custom.n{n:02}"), buckets };
            to.send(Heard { member: name("a"), told }).await.unwrap();
        }
        to.send(Heard { member: name("a"), told: Told::Done }).await.unwrap();
        drop(to);
        let gathered = gather(Asked { live, down: vec![] }, rows, false, heard).await;
        assert_eq!(gathered.answers.len(), count - 2);
        let measured = gathered.show();
        let names: Vec<String> = measured.series.iter().map(|s| s.series.to_string()).collect();
        assert!(measured.cut && names.first().unwrap() == "custom.n00", "{names:?}");
        assert_eq!(names.last().unwrap(), &format!("custom.n{:02}", count - 3));
    }

    #[tokio::test]
    async fn who_tells_of_nothing_without_end_is_not_listened_to() {
        let rows = question(None).resolve(WallTime(1_000_150_000)).unwrap();
        let id = crate::base::SecretKey::from_seed([1; 32]).member();
        let (to, heard) = mpsc::channel(8);
        let asked = Asked { live: vec![(id, name("a"))], down: vec![] };
        let gathering = tokio::spawn(gather(asked, rows, false, heard));
        for n in 0..=MEMBER_MAX / PART_COST {
            let told = Told::Series { series: format!("custom.n{n}"), buckets: String::new() };
            to.send(Heard { member: name("a"), told }).await.unwrap();
        }
        to.send(Heard { member: name("a"), told: Told::Done }).await.unwrap();
        drop(to);
        let gathered = gathering.await.unwrap();
        assert!(gathered.is_silent(&name("a")) && gathered.answers.is_empty());
    }

    #[test]
    fn a_step_of_any_length_is_rounded_or_refused() {
        let now = WallTime(1_000_150_000);
        for percentiles in [false, true] {
            for step in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                let rows = SeriesQuestion { percentiles, ..question(Some(step)) }.resolve(now);
                assert!(rows.is_err() || rows.is_ok_and(|rows| rows.grid.rows() <= 120), "{step}");
            }
        }
        let most = SeriesQuestion { percentiles: true, ..question(Some(u64::MAX)) };
        assert!(most.resolve(now).unwrap_err().why.contains("that step"));
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let now = WallTime(1_000_150_000);
        let refused = |question: SeriesQuestion| question.resolve(now).unwrap_err().why;
        assert!(
            refused(SeriesQuestion { series: "cpu;".into(), ..question(None) }).contains("pattern")
        );
        assert!(refused(SeriesQuestion { to: Some(5), ..question(None) }).contains("no time"));
        let many = vec!["cpu"; PATTERNS_MAX + 1].join(";");
        assert!(
            refused(SeriesQuestion { series: many, ..question(None) }).contains("more than 32")
        );
    }
}
