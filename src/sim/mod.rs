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

mod acts;
mod check;
mod content;
mod crowd;
mod fault;
mod given;
mod invariant;
mod ledger;
mod measure;
mod moves;
mod network;
mod operate;
mod rolled;
mod rotate;
mod scenario;
mod script;
mod server;
mod shrink;
mod story;
mod trace;
mod words;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use crowd::Workers;
pub use invariant::{Invariant, Situation, Violation};
pub use measure::{Accusations, Measured, Spread, Times, Traffic};
pub use scenario::{
    Action, Engine, MEMBERS_MAX, Rate, Rates, Scenario, Step, WELL_AFTER, WHOLE_MAX, Weather,
};
pub use script::{ScriptError, parse as parse_script};
pub use shrink::shrink;
pub use story::Story;

use crate::base::{Digest, key::Notary};

/// What all runs of a batch have in common; the rest is the seed's.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long faults go on, in virtual seconds.
    pub storm_s: u64,
    /// How long healing may take after that, in virtual seconds.
    pub calm_s: u64,
    /// The most members that found the cluster. At least 3.
    pub members_max: usize,
    /// How many of a hundred runs have up to `large_max` members instead.
    pub large_of_100: u32,
    /// See `large_of_100`.
    pub large_max: usize,
    /// How many of a hundred runs have a long storm, mostly quiet, as the days
    /// of a real cluster are.
    pub long_of_100: u32,
    /// The longest of these, in virtual seconds.
    pub long_s: u64,
    /// In how many of a hundred runs rules act and are silenced. They are drawn from a generator of
    /// their own: in the other runs all is as it is without them.
    pub acts_of_100: u32,
    /// In how many of a hundred runs servers come back at other addresses, likewise drawn from a
    /// generator of their own.
    pub moves_of_100: u32,
    /// In how many of a hundred runs whole applications go from those that hold them to others, again
    /// and again; likewise.
    pub handovers_of_100: u32,
    /// Keep every line of the trace and not only the last ones.
    pub whole_trace: bool,
    /// The bug that is planted.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::base::planted::Bug>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            storm_s: 45,
            calm_s: 150,
            members_max: 7,
            large_of_100: 2,
            large_max: 50,
            long_of_100: 5,
            long_s: 3_600,
            acts_of_100: 60,
            moves_of_100: 40,
            handovers_of_100: 25,
            whole_trace: false,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Events that were handled.
    pub steps: u64,
    /// How many members founded the cluster.
    pub members: usize,
    /// How long the storm lasted until it ended or broke something, if it began.
    pub storm_lasted_us: Option<u64>,
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
    tell(&Story::draw(seed, plan), plan)
}

/// Runs the cluster of `story`. Of `plan` only what is not the story's counts.
pub fn tell(story: &Story, plan: &Plan) -> Report {
    #[cfg(feature = "planted-bugs")]
    crate::base::planted::plant(plan.planted);
    let secret = Digest::of("simulated notary", &story.seed.to_le_bytes()).0;
    let _notary = (!story.weather.real_signatures).then(|| Notary::new(secret));
    let mut world = world::World::new(story, plan);
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
    #[cfg(feature = "planted-bugs")]
    crate::base::planted::plant(None);
    world.report(story.seed, violation)
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

/// How far a scenario has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The members are made, or join.
    Preparing {
        /// So many are ready.
        ready: usize,
        /// Of so many.
        members: usize,
    },
    /// It runs.
    Running {
        /// Virtual time that has passed, in microseconds.
        done_us: u64,
        /// Of so much.
        total_us: u64,
    },
}

/// Runs what `scenario` says, and measures it. Tells `progress` now and then.
///
/// # Errors
/// What [`Scenario::check`] finds.
pub fn simulate(
    scenario: &Scenario,
    progress: &mut dyn FnMut(Progress),
) -> Result<Measured, String> {
    simulate_on(scenario, &|count, work| (0..count).for_each(work), progress)
}

/// As [`simulate`]. `workers` may be quicker with a large cluster, which takes
/// longer to make than to run; what comes of it is the same.
///
/// # Errors
/// What [`Scenario::check`] finds.
pub fn simulate_on(
    scenario: &Scenario,
    workers: Workers<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Measured, String> {
    scenario.check()?;
    Ok(match scenario.engine {
        Engine::Whole => given::run(scenario, progress),
        Engine::Membership => crowd::Crowd::new(scenario, workers, progress).run(progress),
    })
}
