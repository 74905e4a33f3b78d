//! F3, the simulator: a whole cluster in one thread, with virtual time, a
//! faulty network, faulty disks and restless operators, all from one seed.
//!
//! It runs the same [`Member`](crate::member::Member) as production does, and
//! puts itself in the place of the shell. Each seed draws its own mix of
//! faults (swarm testing: Groce et al., 2012); a storm in which safety is
//! checked at every step is followed by a calm in which everything must heal,
//! as in TigerBeetle's VOPR.
//!
//! **Invariant:** no clock, thread, file or socket. The same seed and plan
//! give the same trace, bit by bit.

mod check;
mod content;
mod fault;
mod network;
mod operate;
mod server;
mod trace;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use check::{Invariant, Situation, Violation};

/// What all runs of a batch have in common; the rest is the seed's.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long faults go on, in virtual seconds.
    pub storm_s: u64,
    /// How long healing may take after that, in virtual seconds.
    pub calm_s: u64,
    /// The most members that found the cluster. At least 3.
    pub members_max: usize,
    /// A fault that no core can bear: shows that the checks see it.
    pub sabotage: Option<Sabotage>,
    /// Keep every line of the trace and not only the last ones.
    pub whole_trace: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { storm_s: 45, calm_s: 150, members_max: 7, sabotage: None, whole_trace: false }
    }
}

/// What breaks a promise that the core relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The disk reports a sync before it is one.
    LyingDisk,
    /// A restart reads an older record.
    OldRecord,
    /// The switch does not look at its fence, and the store not at what it holds.
    BlindSwitch,
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Events that were handled.
    pub steps: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// The sequence of the newest catalog.
    pub sequence: u64,
    /// How often each situation was met.
    pub reached: BTreeMap<Situation, u64>,
    /// Over everything that happened.
    pub trace_hash: u64,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// The last lines of what happened, if something was broken or all were asked for.
    pub trace: Vec<String>,
}

/// Runs the cluster of `seed`.
pub fn run(seed: u64, plan: &Plan) -> Report {
    let mut world = world::World::new(seed, plan);
    // An assertion of the core that fails is found like any other violation.
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let detail = text.unwrap_or_else(|| "a panic without a word".to_owned());
            Some(Violation { invariant: Invariant::NoPanic, detail })
        }
    };
    world.report(seed, violation)
}

/// Runs the cluster of `seed`, and panics with the seed and the last lines of
/// the trace if anything was broken.
pub fn must_hold(seed: u64, plan: &Plan) -> Report {
    let report = run(seed, plan);
    if let Some(violation) = &report.violation {
        panic!("seed {seed}: {violation}\n{}", report.trace.join("\n"));
    }
    report
}
