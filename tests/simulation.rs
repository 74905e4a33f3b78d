//! Whole clusters in virtual time: every seed another mix of faults. See
//! `althing::sim`. A failure names its seed; `ALTHING_SEED=<seed>
//! ALTHING_SEEDS=1 cargo test --test simulation many_seeds` runs it again.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use althing::sim::{self, Plan, Report, Sabotage, Situation};

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

fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Runs `count` seeds from `first` on all processors.
fn batch(first: u64, count: u64, plan: &Plan) -> Vec<Report> {
    let next = AtomicU64::new(0);
    let reports = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let report = sim::run(first + index, plan);
                    if let Some(violation) = &report.violation {
                        eprintln!("seed {} broke {violation}", report.seed);
                    }
                    reports.lock().expect("no thread panics while it holds it").push(report);
                }
            });
        }
    });
    reports.into_inner().expect("all threads have ended")
}

fn show_failures(reports: &[Report]) -> usize {
    let failed: Vec<&Report> = reports.iter().filter(|r| r.violation.is_some()).collect();
    if from_env("ALTHING_WHOLE", 0) > 1 {
        reports.iter().for_each(|r| eprintln!("all of seed {}:\n{}", r.seed, r.trace.join("\n")));
    }
    let traces = usize::try_from(from_env("ALTHING_TRACES", 1)).unwrap_or(1);
    for report in failed.iter().take(traces) {
        eprintln!("the last of seed {}:\n{}", report.seed, report.trace.join("\n"));
    }
    failed.len()
}

#[test]
fn many_seeds() {
    let (first, count) = (from_env("ALTHING_SEED", 20_261_123), from_env("ALTHING_SEEDS", 1_000));
    println!("first seed {first}, {count} seeds");
    let plan = Plan { whole_trace: from_env("ALTHING_WHOLE", 0) > 0, ..Plan::default() };
    let begun = Instant::now();
    let reports = batch(first, count, &plan);
    let mut reached: BTreeMap<Situation, (u64, u64)> = BTreeMap::new();
    for report in &reports {
        for (situation, times) in &report.reached {
            let entry = reached.entry(*situation).or_default();
            *entry = (entry.0 + times, entry.1 + 1);
        }
    }
    let virtual_s = reports.iter().map(|r| r.virtual_us).sum::<u64>() / 1_000_000;
    let steps = reports.iter().map(|r| r.steps).sum::<u64>();
    let commits = reports.iter().map(|r| r.sequence).sum::<u64>();
    println!(
        "{virtual_s} virtual seconds, {steps} events, {commits} commits in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    for situation in Situation::ALL {
        let (times, runs) = reached.get(&situation).copied().unwrap_or_default();
        println!("{:<28} {times:>7} times in {runs:>5} runs", format!("{situation:?}"));
    }
    let failed = show_failures(&reports);
    assert_eq!(failed, 0, "{failed} of {count} seeds failed, from {first} on");
    if count >= 300 {
        for situation in Situation::ALL {
            assert!(reached.contains_key(&situation), "no run met {situation:?}");
        }
    }
}

#[test]
fn what_once_broke_holds() {
    let plan = Plan::default();
    let reports: Vec<Report> = REGRESSIONS.iter().map(|(seed, _)| sim::run(*seed, &plan)).collect();
    assert_eq!(show_failures(&reports), 0);
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

#[test]
fn sabotage_is_seen() {
    for (sabotage, count) in [(Sabotage::LyingDisk, 60), (Sabotage::OldRecord, 30)] {
        let plan = Plan { sabotage: Some(sabotage), ..Plan::default() };
        let reports = batch(1, count, &plan);
        let seen: Vec<String> =
            reports.iter().filter_map(|r| Some(r.violation.as_ref()?.to_string())).collect();
        println!("{sabotage:?}: {} of {count} runs saw it", seen.len());
        assert!(!seen.is_empty(), "{sabotage:?} was not seen in {count} runs");
    }
}
