//! Whole clusters in virtual time: every seed another mix of faults. See
//! `althing::sim` and docs/testing.md. A failure names its seed, and prints the
//! shortest story found that breaks the same: kept as a file in
//! `tests/regressions/`, it is told again by every run of the tests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use althing::sim::{self, Plan, Report, Situation, Story};

/// Seeds that once broke something, and what that was. The mixes that they
/// draw have changed since, as the simulator grew; they are run all the same.
const REGRESSIONS: [(u64, &str); 16] = [
    (12, "a held-back step woke the shell without end"),
    (234, "a welcome's lineage was ahead of its catalog"),
    (11, "a removed member left requests unanswered"),
    (22, "a removed member said that nothing was changed"),
    (75, "a held window was refused to the member that had opened it"),
    (33, "a publisher dropped what it was about to publish"),
    (170, "a member took for whole what its store had dropped"),
    (7, "a publisher dropped its staged content when it started"),
    (94, "an own proposal's refusal ended a publication that ran"),
    (38, "a rotten store was never noticed, and a vote never decided"),
    (2086, "a newcomer's vote made the majority that held a version a minority"),
    (6356, "newcomers' votes made the majority that is adopted a minority"),
    (20_261_640, "members dropped what they were counted on for an adoption"),
    (6138, "a late member was asked to resolve a hung vote with its content, and never did"),
    (6055, "members waited for a version that every store had lost, and nobody was told"),
    (5110, "content that vanished was taken in again and again, and never looked at"),
];

/// Every so many seeds, one runs twice and must run the same.
const TWICE_EVERY: u64 = 20;
/// Batches of this size must meet every situation.
const WHOLE_BATCH: u64 = 300;
/// Stories are told in so much noise: whatever changes in the core changes the
/// order of things a little.
const NOISES: u64 = 4;
/// So many runs are spent on making the story of a failure short.
const SHRINK_RUNS: u64 = 400;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What a batch consists of: seeds from `first` on, so many or so long.
#[derive(Clone, Copy)]
struct Batch {
    first: u64,
    count: u64,
    within: Option<Duration>,
}

/// What came of a batch.
#[derive(Default)]
struct Sum {
    seeds: u64,
    twice: u64,
    virtual_us: u64,
    events: u64,
    commits: u64,
    members_max: usize,
    member_us: u128,
    reached: BTreeMap<Situation, (u64, u64)>,
    failed: Vec<Report>,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.virtual_us += report.virtual_us;
        self.events += report.steps;
        self.commits += report.sequence;
        self.members_max = self.members_max.max(report.members);
        self.member_us += u128::from(report.virtual_us) * report.members as u128;
        for (situation, times) in &report.reached {
            let entry = self.reached.entry(*situation).or_default();
            *entry = (entry.0 + times, entry.1 + 1);
        }
        if report.violation.is_some() || !report.trace.is_empty() {
            self.failed.push(report);
        }
    }
}

/// Runs the seeds of `batch` on all processors.
fn run(batch: Batch, plan: &Plan) -> Sum {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let late = batch.within.is_some_and(|within| begun.elapsed() >= within);
                    if index >= batch.count || late {
                        return;
                    }
                    let seed = batch.first + index;
                    let report = sim::run(seed, plan);
                    if let Some(violation) = &report.violation {
                        eprintln!("seed {seed} broke {violation}");
                    }
                    let mut twice = 0;
                    if index.is_multiple_of(TWICE_EVERY) {
                        let again = sim::run(seed, plan);
                        let same = (report.trace_hash, report.steps);
                        assert_eq!(same, (again.trace_hash, again.steps), "seed {seed}, twice");
                        twice = 1;
                    }
                    let mut sum = sum.lock().expect("no thread panics while it holds it");
                    sum.twice += twice;
                    sum.add(report);
                }
            });
        }
    });
    sum.into_inner().expect("all threads have ended")
}

/// Prints the last lines of what failed, and the shortest story of the first.
fn show_failures(failed: &[Report], plan: &Plan) -> usize {
    let broken: Vec<&Report> = failed.iter().filter(|r| r.violation.is_some()).collect();
    if plan.whole_trace {
        failed.iter().for_each(|r| eprintln!("all of seed {}:\n{}", r.seed, r.trace.join("\n")));
    }
    if let Some(report) = broken.first() {
        eprintln!("the last of seed {}:\n{}", report.seed, report.trace.join("\n"));
        let runs = from_env("ALTHING_SHRINK").unwrap_or(SHRINK_RUNS);
        if let Some((story, report)) = sim::shrink(&Story::draw(report.seed, plan), plan, runs) {
            tell_short(&story, &report);
        }
    }
    broken.len()
}

fn tell_short(story: &Story, report: &Report) {
    eprintln!(
        "the shortest story found: {} members, {} steps, {} s; keep it in tests/regressions/:\n{}",
        story.members(),
        story.steps(),
        report.virtual_us / 1_000_000,
        story.to_text()
    );
    eprintln!("its last lines:\n{}", report.trace.join("\n"));
    if let Some(violation) = &report.violation {
        eprintln!("which broke {violation}");
    }
}

/// New ones every time, unless they are given.
fn first_seed(fresh: bool) -> u64 {
    let given = from_env("ALTHING_SEED");
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    given.unwrap_or(if fresh { clock * 1_000 } else { 20_261_123 })
}

#[test]
fn many_seeds() {
    let within = from_env("ALTHING_SECONDS").map(Duration::from_secs);
    let count = from_env("ALTHING_SEEDS").unwrap_or(if within.is_some() { u64::MAX } else { 600 });
    let first = first_seed(within.is_some());
    let mut plan = Plan { whole_trace: from_env("ALTHING_WHOLE").is_some(), ..Plan::default() };
    plan.long_of_100 = from_env("ALTHING_LONG").map_or(plan.long_of_100, |n| n as u32);
    plan.long_s = from_env("ALTHING_LONG_S").unwrap_or(plan.long_s);
    plan.large_of_100 = from_env("ALTHING_LARGE").map_or(plan.large_of_100, |n| n as u32);
    match within {
        Some(within) => println!("seeds from {first} on, for {} s", within.as_secs()),
        None => println!("{count} seeds from {first} on"),
    }
    plan.acts_of_100 = from_env("ALTHING_ACTS").map_or(plan.acts_of_100, |n| n as u32);
    plan.moves_of_100 = from_env("ALTHING_MOVES").map_or(plan.moves_of_100, |n| n as u32);
    plan.handovers_of_100 =
        from_env("ALTHING_HANDOVERS").map_or(plan.handovers_of_100, |n| n as u32);
    let begun = Instant::now();
    let sum = run(Batch { first, count, within }, &plan);
    println!(
        "{} seeds, {} of them twice with equal traces: {:.1} cluster-hours ({} virtual seconds), \
         {:.1} member-hours, up to {} members, {} events, {} commits, in {:.1} s",
        sum.seeds,
        sum.twice,
        sum.virtual_us as f64 / 3.6e9,
        sum.virtual_us / 1_000_000,
        sum.member_us as f64 / 3.6e9,
        sum.members_max,
        sum.events,
        sum.commits,
        begun.elapsed().as_secs_f64()
    );
    for situation in Situation::ALL {
        let (times, runs) = sum.reached.get(&situation).copied().unwrap_or_default();
        println!("{:<40} {times:>8} times in {runs:>6} runs", format!("{situation:?}"));
    }
    let failed = show_failures(&sum.failed, &plan);
    assert_eq!(failed, 0, "{failed} of {} seeds failed, from {first} on", sum.seeds);
    if sum.seeds >= WHOLE_BATCH {
        for situation in Situation::ALL {
            assert!(sum.reached.contains_key(&situation), "no run met {situation:?}");
        }
    }
}

#[test]
fn what_once_broke_holds() {
    // As they were when they broke it, before rules acted, servers moved and content was handed over.
    let plan = Plan { acts_of_100: 0, moves_of_100: 0, handovers_of_100: 0, ..Plan::default() };
    let reports: Vec<Report> = REGRESSIONS.iter().map(|(seed, _)| sim::run(*seed, &plan)).collect();
    assert_eq!(show_failures(&reports, &plan), 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = Plan::default();
    for seed in 7..11 {
        let (one, other) = (sim::run(seed, &plan), sim::run(seed, &plan));
        assert_eq!((one.trace_hash, one.steps), (other.trace_hash, other.steps), "seed {seed}");
    }
    assert_ne!(sim::run(7, &plan).trace_hash, sim::run(8, &plan).trace_hash);
}

/// The stories in `tests/regressions/`, by file.
fn stories() -> Vec<(PathBuf, Story)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let entries = std::fs::read_dir(&folder).expect("the folder is part of the repository");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("it can be read").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let story = Story::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path, story)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn the_stories_of_what_broke_end_well() {
    let stories = stories();
    assert!(!stories.is_empty(), "there is no story to tell");
    for (path, story) in stories {
        for noise in 0..NOISES {
            let report = sim::tell(&story.in_noise(noise), &Plan::default());
            let trace = report.trace.join("\n");
            assert_eq!(report.violation, None, "{}, noise {noise}:\n{trace}", path.display());
        }
    }
}

#[test]
fn a_story_survives_being_written_and_read() {
    for seed in 1..20 {
        let story = Story::draw(seed, &Plan::default());
        assert_eq!(Story::parse(&story.to_text()).as_ref(), Ok(&story));
    }
}

/// The tests tested: each planted bug must be seen. Only in builds that have them.
#[cfg(feature = "planted-bugs")]
mod planted {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use althing::base::planted::Bug;

    use super::*;

    /// Each bug must be seen within so many seeds. Most are within ten.
    const SEEDS_MAX: u64 = 200;

    fn with(bug: Bug) -> Plan {
        // Where rules, moves or handovers have no part in it the runs are what they were before
        // there were any.
        let all_if = |is_of_them: bool| if is_of_them { 100 } else { 0 };
        Plan {
            planted: Some(bug),
            acts_of_100: all_if(Bug::OF_RULES.contains(&bug)),
            moves_of_100: all_if(Bug::OF_MOVES.contains(&bug)),
            handovers_of_100: all_if(Bug::OF_HANDOVERS.contains(&bug)),
            long_of_100: 0,
            large_of_100: 0,
            ..Plan::default()
        }
    }

    /// The first seed that sees `bug`, and what it sees.
    fn hunt(bug: Bug) -> Option<Report> {
        let plan = with(bug);
        (1..=SEEDS_MAX).map(|seed| sim::run(seed, &plan)).find(|r| r.violation.is_some())
    }

    #[test]
    fn every_planted_bug_is_seen() {
        let next = AtomicUsize::new(0);
        let missed = AtomicBool::new(false);
        let lines = Mutex::new(BTreeMap::new());
        std::panic::set_hook(Box::new(|_| {})); // the core's own assertions see some of them
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let line = match hunt(*bug) {
                            Some(Report { seed, violation: Some(violation), .. }) => {
                                let seen = format!("{:?}", violation.invariant);
                                let detail: String = violation.detail.chars().take(90).collect();
                                format!("{seen:<24} {seed:>4}  {detail}")
                            }
                            _ => {
                                missed.store(true, Ordering::Relaxed);
                                format!("not seen in {SEEDS_MAX} seeds")
                            }
                        };
                        lines.lock().expect("no thread panics").insert(*bug, line);
                    }
                });
            }
        });
        let _ = std::panic::take_hook();
        println!("{:<26} {:<24} {:>5}  what was seen", "planted", "seen by", "seeds");
        for (bug, line) in lines.into_inner().expect("all threads have ended") {
            println!("{:<26} {line}", format!("{bug:?}"));
        }
        assert!(!missed.load(Ordering::Relaxed), "a planted bug was not seen: see the table");
    }

    #[test]
    fn a_failure_is_shrunk_to_a_story_that_fails_with_the_bug_alone() {
        let name = std::env::var("ALTHING_BUG").unwrap_or_else(|_| "SteppedOver".to_owned());
        let bug = Bug::named(&name).expect("a planted bug's name");
        let plan = with(bug);
        let seen = hunt(bug).expect("it is seen");
        let whole = Story::draw(seen.seed, &plan);
        let (mut story, report) = sim::shrink(&whole, &plan, SHRINK_RUNS).expect("it fails");
        story.planted = Some(name);
        println!("from {} members and {} steps", whole.members(), whole.steps());
        tell_short(&story, &report);
        assert!(story.steps() * 4 <= whole.steps().max(4), "it is not much shorter");
        let again = Story::parse(&story.to_text()).expect("it can be read");
        let invariant = |report: &Report| report.violation.as_ref().map(|v| v.invariant);
        assert_eq!(invariant(&sim::tell(&again, &plan)), invariant(&report));
        assert_eq!(sim::tell(&again, &Plan::default()).violation, None, "without the bug");
    }

    /// Stories of planted bugs still show them.
    #[test]
    fn the_stories_of_planted_bugs_still_show_them() {
        for (path, story) in stories() {
            let Some(name) = &story.planted else { continue };
            let bug = Bug::named(name).unwrap_or_else(|| panic!("{name} is no bug"));
            let told = (0..NOISES * 10).map(|noise| sim::tell(&story.in_noise(noise), &with(bug)));
            let mut broke = told.filter_map(|r| Some(format!("{:?}", r.violation?.invariant)));
            assert!(broke.any(|b| Some(b) == story.broke), "{} shows nothing", path.display());
        }
    }
}
