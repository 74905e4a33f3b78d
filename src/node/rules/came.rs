//! Where requests came from, by what is recorded: on this member, and on many.
//!
//! What counts is of [`Came`]. Who has none of the series takes no requests of clients, or has no
//! rule that names the set, and is no part of it; who has only some of them is not known.

use tokio::sync::mpsc;

use super::readings::{STALE_MS, STEP_MS};
use crate::{
    base::{
        MemberId, MemberName, WallTime,
        metric::{Pattern, Series},
    },
    node::{
        services::{Ask, Heard},
        telemetry::{
            Telemetry,
            asking::{self, Asked, Rows},
        },
    },
    proto::{
        rule::{
            Measured, Scope,
            came::{Came, Sources},
            judge::Number,
        },
        telemetry::{Grid, Summary, rollup},
    },
    store::series::{Found, Wanted},
};

/// What was counted: from there, from elsewhere, and unknown.
pub(super) fn of([from, elsewhere, unknown]: [&Summary; 3]) -> Came {
    Came { from: from.sum(), elsewhere: elsewhere.sum(), unknown: unknown.sum(), rate: from.mean() }
}

/// The number of this member, as of `at`. None where it is not known.
pub(super) async fn of_one(telemetry: &Telemetry, at: WallTime, of: &Measured) -> Option<Number> {
    let sources = of.sources()?;
    let grid = grid(at, of)?;
    let pattern = Pattern::parse(&sources.pattern).ok()?;
    let found = telemetry.series(Wanted { pattern, grid, spreads: false }).await?.ok()?;
    let value = recorded(&found, &sources, at, grid)?.number(of.fold)?;
    Some(Number { value, total: None })
}

/// The rows of the window of `of`.
fn grid(at: WallTime, of: &Measured) -> Option<Grid> {
    let window = of.window_ms();
    let step = (window / 60).clamp(STEP_MS.0, STEP_MS.1);
    rollup::grid(at, WallTime(at.0.saturating_sub(window)), WallTime(at.0 + 1), step)
}

/// None if there is nothing, or nothing new.
fn recorded(found: &[Found], sources: &Sources, at: WallTime, grid: Grid) -> Option<Came> {
    let whole = |series: &Series| {
        let found = found.iter().find(|found| found.series == *series)?;
        let summaries = found.buckets.iter().map(|bucket| bucket.aggregate.summary);
        let whole = summaries.reduce(|mut all, one| {
            all.merge(&one);
            all
        });
        whole.filter(|whole| is_new(whole, at, grid))
    };
    let [from, elsewhere, unknown] = sources.series.each_ref().map(whole);
    Some(self::of([&from?, &elsewhere?, &unknown?]))
}

fn is_new(whole: &Summary, at: WallTime, grid: Grid) -> bool {
    at.0.saturating_sub(whole.last_at().0) <= STALE_MS.max(grid.step_ms())
}

/// The numbers of the `live` members, as of `at`: one of all together, or one of each.
pub(super) async fn of_many(
    live: &[(MemberId, MemberName)],
    at: WallTime,
    of: &Measured,
    ask: &(impl Fn(&[(MemberId, MemberName)], &Ask) -> mpsc::Receiver<Heard> + ?Sized),
) -> Vec<Option<Number>> {
    let (Some(sources), Some(grid)) = (of.sources(), grid(at, of)) else { return vec![None] };
    let Sources { series, pattern } = sources;
    let heard = ask(live, &Ask::Series { pattern, grid, spreads: false });
    let asked = Asked { live: live.to_vec(), down: Vec::new() };
    let all = asking::gather(asked, Rows { grid, one: true }, true, heard).await;
    let each = live.iter().filter_map(|(_, name)| {
        if all.is_silent(name) {
            return Some(None);
        }
        let found = series.each_ref().map(|one| all.of(one, Some(name)));
        if found.iter().all(Option::is_none) {
            return None;
        }
        let new = found.map(|found| {
            let (found, _) = found?;
            is_new(&found.summary, at, grid).then_some(&found.summary)
        });
        let [from, elsewhere, unknown] = new;
        Some(from.zip(elsewhere).zip(unknown).map(|((a, b), c)| self::of([a, b, c])))
    });
    let number = |came: Came| came.number(of.fold).map(|value| Number { value, total: None });
    match of.scope {
        // The share of all, and not an average of shares.
        Scope::Cluster => {
            let all: Option<Vec<Came>> = each.collect();
            vec![all.and_then(|all| all.into_iter().reduce(Came::and)).and_then(number)]
        }
        _ => each.map(|came| came.and_then(number)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

    use super::*;
    use crate::{
        base::SecretKey,
        node::services::Told,
        proto::{
            rule::parse,
            telemetry::{Bucket, Sample, answer},
        },
    };

    const NOW: WallTime = WallTime(1_760_000_040_000);
    const SHARE: &str = "share(requests from MX|CA, 1m) > 60%";

    fn measured(text: &str) -> Measured {
        let rule = parse(&format!("when {text} then log")).unwrap();
        rule.measured()[0].clone()
    }

    /// So many requests a second, for `seconds` up to `ago` seconds ago.
    fn rows(rate: f64, seconds: u64, ago: u64) -> Vec<Bucket> {
        let bucket = |n: u64| {
            let start = WallTime(NOW.0 - (ago + n) * 1_000);
            let summary = Summary::of(start, Sample::new(rate).unwrap());
            Bucket { start, span_ms: 1_000, aggregate: summary.into() }
        };
        (1..=seconds).rev().map(bucket).collect()
    }

    #[test]
    fn a_member_knows_where_its_requests_came_from() {
        let share = measured(SHARE);
        let (sources, grid) = (share.sources().unwrap(), grid(NOW, &share).unwrap());
        let found = |rates: &[f64], ago: u64| -> Vec<Found> {
            let all = sources.series.iter().zip(rates);
            all.map(|(series, rate)| Found {
                series: series.clone(),
                buckets: rows(*rate, 30, ago),
            })
            .collect()
        };
        let came = |found: &[Found]| recorded(found, &sources, NOW, grid);
        let all = came(&found(&[6.0, 3.0, 1.0], 0)).unwrap();
        let counted = Came { from: 180.0, elsewhere: 90.0, unknown: 30.0, rate: 6.0 };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(all.from, counted.from) && near(all.elsewhere, counted.elsewhere), "{all:?}");
        assert!(near(all.unknown, counted.unknown) && near(all.rate, counted.rate), "{all:?}");
        // What is old says nothing of now, and a part says nothing of the whole.
        assert_eq!(came(&found(&[6.0, 3.0, 1.0], 20)), None);
        assert_eq!(came(&found(&[6.0, 3.0], 0)), None);
        assert_eq!(came(&[]), None);
    }

    /// What comes of these rates of members, by what they are called; none from one who is silent.
    async fn asked(text: &str, told: &[(&str, Option<&[f64]>)]) -> Vec<Option<Number>> {
        let of = measured(text);
        let sources = of.sources().unwrap();
        let name = |text: &str| MemberName::parse(text).unwrap();
        let id = |n: usize| SecretKey::from_seed([n as u8 + 1; 32]).member();
        let live: Vec<_> =
            told.iter().enumerate().map(|(n, (text, _))| (id(n), name(text))).collect();
        let ask = |whom: &[(MemberId, MemberName)], question: &Ask| {
            assert_eq!(whom.len(), told.len());
            let Ask::Series { pattern, spreads: false, .. } = question else { panic!() };
            assert_eq!(*pattern, sources.pattern);
            let (to, heard) = mpsc::channel(64);
            for (member, rates) in told {
                let Some(rates) = rates else { continue };
                let say = |told| to.try_send(Heard { member: name(member), told }).unwrap();
                for (series, rate) in sources.series.iter().zip(*rates) {
                    let buckets = STANDARD_NO_PAD.encode(answer::encode(&rows(*rate, 30, 0)));
                    say(Told::Series { series: series.to_string(), buckets });
                }
                say(Told::Done);
            }
            heard
        };
        of_many(&live, NOW, &of, &ask).await
    }

    fn rounded(numbers: &[Option<Number>]) -> Vec<Option<f64>> {
        numbers.iter().map(|number| number.map(|of| (of.value * 1e6).round() / 1e6)).collect()
    }

    #[tokio::test]
    async fn of_all_it_is_the_share_of_their_requests_and_of_each_its_own() {
        // The third one takes no requests of clients.
        let told: &[(&str, Option<&[f64]>)] =
            &[("a", Some(&[9.0, 1.0, 0.0])), ("b", Some(&[1.0, 89.0, 0.0])), ("c", Some(&[]))];
        let cluster = |text: &str| format!("cluster {text}");
        assert_eq!(rounded(&asked(&cluster(SHARE), told).await), [Some(10.0)]);
        let rate = "rate(requests from MX|CA, 1m) > 5/s";
        assert_eq!(rounded(&asked(&cluster(rate), told).await), [Some(10.0)]);
        let any = asked(&format!("any {SHARE}"), told).await;
        assert_eq!(rounded(&any), [Some(90.0), Some(1.111_111)]);
        let every = asked(&format!("every {rate}"), told).await;
        assert_eq!(rounded(&every), [Some(9.0), Some(1.0)]);
        // Of nobody it is nothing.
        assert_eq!(asked(&cluster(SHARE), &[("a", Some(&[]))]).await, [None]);
        assert_eq!(asked(&format!("any {SHARE}"), &[("a", Some(&[]))]).await, []);
    }

    #[tokio::test]
    async fn who_is_silent_or_knows_too_little_makes_it_unknown() {
        let sound: &[f64] = &[9.0, 1.0, 0.0];
        let (cluster, every) = (format!("cluster {SHARE}"), format!("every {SHARE}"));
        // One who says nothing, and one who has not all three of them.
        let lacking: &[f64] = &[9.0, 1.0];
        for other in [None, Some(lacking)] {
            let told = [("a", Some(sound)), ("b", other)];
            assert_eq!(asked(&cluster, &told).await, [None]);
            assert_eq!(rounded(&asked(&every, &told).await), [Some(90.0), None]);
        }
        // What one of them can't look up is too much of its own, and little of all.
        let blind: &[f64] = &[0.0, 0.5, 0.5];
        let told = [("a", Some(sound)), ("b", Some(blind))];
        assert_eq!(rounded(&asked(&cluster, &told).await), [Some(81.818_182)]);
        assert_eq!(rounded(&asked(&every, &told).await), [Some(90.0), None]);
    }
}
