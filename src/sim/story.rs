//! The story of one run: how many found the cluster, what the weather is like,
//! and, step by step, what is done to it. A seed draws it; shrinking takes
//! steps out of it; what is left can be kept in a file and told again.
//!
//! What a step does in detail (to whom, for how long) comes from a number of
//! its own, so that it stays the same when other steps are left out. Only the
//! noise of the network and of the disks is drawn from the run's own generator.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::Plan;

const SECOND: u64 = 1_000_000;
/// The largest seed of a story: TOML has no larger numbers.
const SEED_MAX: u64 = i64::MAX as u64;

/// What can be done to a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deed {
    /// Some are cut off from the others.
    Partition,
    /// One way only.
    OneWay,
    /// Much of what goes one way is lost.
    LossyLink,
    /// A process dies and comes back.
    Crash,
    /// The coordinator's process dies and comes back.
    CrashCoordinator,
    /// Several.
    CrashMany,
    /// All of them.
    CrashAll,
    /// A process is restarted in a loop.
    Flap,
    /// The next voter that promises dies at once and comes back at once.
    AmbushVoter,
    /// The next proposer dies while it asks voters to accept.
    AmbushProposer,
    /// The coordinator, if it is the next proposer, does.
    AmbushCoordinator,
    /// A process stands still.
    Pause,
    /// A transport says that somebody is gone who is not.
    Hint,
    /// Live content is changed by hand on one member.
    Drift,
    /// In the same way on many.
    DriftTogether,
    /// Live content is deleted.
    Wipe,
    /// A store loses something.
    Rot,
    /// All stores lose a committed version.
    RotEverywhere,
    /// A process dies, and its record is not what was written.
    RotRecord,
    /// A disk is slow for a while.
    SlowDisk,
    /// A wall clock jumps.
    ClockJump,
    /// An operator publishes; sometimes two do.
    Publish,
    /// An operator rolls back.
    Rollback,
    /// An operator opens a window and holds it.
    Open,
    /// An operator closes a window.
    Close,
    /// An operator orders a takeover.
    TakeOver,
    /// An operator changes the failover list.
    Failover,
    /// An operator changes policies.
    Policy,
    /// An operator invites a server.
    Invite,
    /// An operator removes a member.
    Remove,
    /// A member leaves.
    Leave,
    /// An operator decides a hung vote, if there is one.
    Resolve,
    /// An operator gives a member a new key.
    RotateKey,
    /// An operator changes the tags of a member.
    Retag,
    /// An operator puts a member into service, out of it, or on standby for rules to bring it in.
    Service,
    /// An operator silences rules, or ends a silence.
    Silence,
    /// The judge of a rule about the cluster wants what comes next of it: that it begins, is told, is
    /// over, is forgotten.
    Judge,
    /// Two members take themselves for the judge of the same rule, at the same moment.
    JudgeTwice,
    /// A judge dies before it knows what came of it.
    JudgeDies,
    /// A rule about a member takes it out of service, or puts it back; sometimes of two at once.
    StandDown,
    /// A process dies and comes back at another address.
    Move,
    /// Two come back at each other's.
    Swap,
    /// All come back at other addresses, all but one with the new address of that one.
    MoveAll,
    /// An operator turns the tags of all members round, one right after the other: whole
    /// applications go from those that hold them to others.
    HandOver,
}

/// Faults and their weights among those that a seed has drawn.
const FAULTS: [(Deed, u32); 21] = [
    (Deed::Partition, 16),
    (Deed::OneWay, 6),
    (Deed::LossyLink, 4),
    (Deed::Crash, 16),
    (Deed::CrashCoordinator, 12),
    (Deed::CrashMany, 2),
    (Deed::CrashAll, 1),
    (Deed::Flap, 2),
    (Deed::AmbushVoter, 6),
    (Deed::AmbushProposer, 6),
    (Deed::AmbushCoordinator, 6),
    (Deed::Pause, 8),
    (Deed::Hint, 4),
    (Deed::Drift, 10),
    (Deed::DriftTogether, 6),
    (Deed::Wipe, 4),
    (Deed::Rot, 4),
    (Deed::RotEverywhere, 2),
    (Deed::RotRecord, 1),
    (Deed::SlowDisk, 4),
    (Deed::ClockJump, 3),
];

/// What operators do beside publishing, and the weights.
const ACTIONS: [(Deed, u32); 12] = [
    (Deed::Rollback, 3),
    (Deed::Open, 3),
    (Deed::Close, 4),
    (Deed::TakeOver, 2),
    (Deed::Failover, 1),
    (Deed::Policy, 1),
    (Deed::Invite, 2),
    (Deed::Remove, 1),
    (Deed::Leave, 1),
    (Deed::Resolve, 2),
    (Deed::RotateKey, 3),
    (Deed::Retag, 3),
];

/// What rules do and what operators do about them, and the weights among those that a seed has drawn.
const ACTS: [(Deed, u32); 6] = [
    (Deed::Service, 5),
    (Deed::Silence, 2),
    (Deed::Judge, 6),
    (Deed::JudgeTwice, 3),
    (Deed::JudgeDies, 3),
    (Deed::StandDown, 4),
];

/// What sets the generator of these apart from that of all other steps.
const ACTS_APART: u64 = 0x7275_6c65_7320_6163;

/// How servers come back at other addresses, and the weights among those that a seed has drawn.
const MOVES: [(Deed, u32); 3] = [(Deed::Move, 5), (Deed::Swap, 2), (Deed::MoveAll, 3)];

/// What sets the generator of these apart.
const MOVES_APART: u64 = 0x6164_6472_6573_7365;

/// What sets the generator of handovers apart.
const HANDOVERS_APART: u64 = 0x6869_6865_7220_676f;

/// One step of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// After the storm began, in microseconds.
    pub at_us: u64,
    /// What is done.
    pub what: Deed,
    /// Feeds what the step draws: to whom, for how long.
    pub chance: u32,
}

/// The weather of a run: what goes on all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mix {
    pub members: usize,
    pub apps: usize,
    pub skewed_clocks: bool,
    /// Ed25519 and not the notary of the simulator.
    pub real_signatures: bool,
    /// The longest that a timer fires late, in microseconds.
    pub timer_late_us: u64,
    pub content_bytes_max: u64,
    pub fetch_mb_s: u64,
    pub work_us_max: u64,
    /// In thousandths.
    pub work_fails: u32,
    /// The longest partition, pause or outage.
    pub fault_us_max: u64,
    pub sync_us_max: u64,
    /// In thousandths: a sync that takes a second.
    pub sync_hangs: u32,
    /// In thousandths.
    pub datagram_loss: u32,
    /// In thousandths.
    pub stream_loss: u32,
    /// In thousandths.
    pub duplicate: u32,
    pub delay_us_max: u64,
    /// In thousandths: what takes ten times as long.
    pub tail: u32,
    /// Whether applications are placed on some members only, and tags change.
    #[serde(default)]
    pub placed: bool,
    /// Whether versions come to a few members at a time, and some do not get ready.
    #[serde(default)]
    pub rolled: bool,
}

/// The story of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Feeds the noise: delays, losses, how long a sync takes.
    pub seed: u64,
    /// How long the storm lasts, in microseconds.
    pub storm_us: u64,
    /// The planted bug that it shows, where it shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// What it broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broke: Option<String>,
    pub(super) weather: Mix,
    /// What is done, in order.
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

impl Mix {
    /// Each fault is there or not, and each number drawn on its own.
    fn draw(rng: &mut SmallRng, plan: &Plan, long: bool) -> Self {
        let mut some = |half: bool, max: u32| -> u32 {
            if half && rng.random_bool(0.5) { 0 } else { rng.random_range(0..=max) }
        };
        let (datagram_loss, stream_loss) = (some(true, 250), some(true, 20));
        let (duplicate, tail, work_fails) = (some(true, 100), some(true, 20), some(true, 50));
        let sync_hangs = some(true, 10);
        let large = !long && rng.random_range(0..100) < plan.large_of_100;
        let most = plan.members_max.max(3);
        let members = match rng.random_range(0..4) {
            // Mostly the few that real clusters have.
            _ if large && plan.large_max > most => rng.random_range(most + 1..=plan.large_max),
            0 if long => 3,
            1 if long => rng.random_range(3..=most.min(5)),
            _ => rng.random_range(3..=most),
        };
        let fault_s = if long { [3, 60, 300] } else { [1, 3, 12] };
        Self {
            members,
            apps: 1 + rng.random_range(0..3_usize),
            skewed_clocks: rng.random_bool(0.5),
            real_signatures: rng.random_bool(0.04) && !large && !long,
            timer_late_us: [200, 2_000, 30_000][rng.random_range(0..3)],
            content_bytes_max: [100_000, 10_000_000, 400_000_000][rng.random_range(0..3)],
            fetch_mb_s: rng.random_range(10..=200),
            work_us_max: [5_000, 50_000, 800_000][rng.random_range(0..3)],
            work_fails,
            fault_us_max: fault_s[rng.random_range(0..3)] * SECOND,
            sync_us_max: [1_000, 10_000, 80_000][rng.random_range(0..3)],
            sync_hangs,
            datagram_loss,
            stream_loss,
            duplicate,
            delay_us_max: [1_000, 10_000, 80_000, 250_000][rng.random_range(0..4)],
            tail,
            placed: rng.random_bool(0.5),
            rolled: rng.random_bool(0.5),
        }
    }

    /// Of a scenario, which says itself what happens.
    pub fn given(members: usize, skewed_clocks: bool, bad_disks: bool) -> Self {
        let bad = |good, bad| if bad_disks { bad } else { good };
        Self {
            members,
            apps: 1,
            skewed_clocks,
            real_signatures: false,
            timer_late_us: 2_000,
            content_bytes_max: 1_000_000,
            fetch_mb_s: 100,
            work_us_max: 50_000,
            work_fails: bad(0, 50),
            fault_us_max: SECOND,
            sync_us_max: u64::from(bad(10_000, 80_000)),
            sync_hangs: bad(0, 10),
            datagram_loss: 0,
            stream_loss: 0,
            duplicate: 0,
            delay_us_max: 0,
            tail: 0,
            placed: false,
            rolled: false,
        }
    }

    /// How long a sync takes, in microseconds.
    pub fn sync(&self, rng: &mut SmallRng) -> u64 {
        if rng.random_range(0..1_000) < self.sync_hangs {
            return SECOND;
        }
        rng.random_range(100..=self.sync_us_max)
    }
}

impl Story {
    /// The story that `seed` draws.
    pub fn draw(seed: u64, plan: &Plan) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let long = rng.random_range(0..100) < plan.long_of_100;
        let mut weather = Mix::draw(rng, plan, long);
        // A long storm is mostly quiet, as the days of a real cluster are.
        let storm_us = if long {
            rng.random_range(plan.long_s / 4..=plan.long_s.max(4)) * SECOND
        } else {
            // What large clusters say to each other grows with the square of
            // their size: they get less of the batch's time, not more.
            plan.storm_s * SECOND * 10 / weather.members.max(10) as u64
        };
        let (faults_every, operated_every) = if long {
            ([20, 60, 240].map(|s| s * SECOND), [30, 120, 600].map(|s| s * SECOND))
        } else {
            ([500_000, 2_000_000, 6_000_000], [300_000, 1_000_000, 4_000_000])
        };
        let fault_every = faults_every[rng.random_range(0..3)];
        let operate_every = operated_every[rng.random_range(0..3)];
        let publishes: u32 = rng.random_range(30..=90);
        // Swarm testing: each kind of fault is in the mix or is not.
        let faults: Vec<(Deed, u32)> =
            FAULTS.iter().filter(|_| rng.random_bool(0.6)).copied().collect();
        let mut steps = Vec::new();
        if !faults.is_empty() {
            let pick = |rng: &mut SmallRng| weighted(&faults, rng);
            series(&mut steps, fault_every, fault_every, storm_us, rng, pick);
        }
        let pick = |rng: &mut SmallRng| {
            if rng.random_range(0..100) < publishes {
                Deed::Publish
            } else {
                weighted(&ACTIONS, rng)
            }
        };
        series(&mut steps, operate_every / 4, operate_every, storm_us, rng, pick);
        steps.extend(draw_acts(seed, plan, long, storm_us));
        steps.extend(draw_moves(seed, plan, long, storm_us));
        let handovers = draw_handovers(seed, plan, long, storm_us);
        // Where nothing is placed there is nothing to hand over.
        weather.placed |= !handovers.is_empty();
        steps.extend(handovers);
        steps.sort_by_key(|step| step.at_us);
        // What a file can hold.
        let seed = seed & SEED_MAX;
        Self { seed, storm_us, planted: None, broke: None, weather, steps }
    }

    /// The story in the text that [`Story::to_text`] made.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// As text that a person can read and change.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("numbers and words have a form in TOML")
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// How many members found the cluster.
    pub fn members(&self) -> usize {
        self.weather.members
    }

    /// The same story in other noise: other delays and losses.
    pub fn in_noise(&self, noise: u64) -> Self {
        let seed = self.seed.wrapping_add(noise.wrapping_mul(0x9e37_79b9)) & SEED_MAX;
        Self { seed, ..self.clone() }
    }

    /// The story made simpler in one respect each.
    pub(super) fn simpler(&self) -> Vec<Self> {
        let simplify: [fn(&mut Mix); 10] = [
            |w| w.apps = 1,
            |w| (w.datagram_loss, w.stream_loss) = (0, 0),
            |w| w.duplicate = 0,
            |w| w.tail = 0,
            |w| w.skewed_clocks = false,
            |w| w.work_fails = 0,
            |w| w.sync_hangs = 0,
            |w| w.timer_late_us = w.timer_late_us.min(200),
            |w| (w.content_bytes_max, w.work_us_max) = (100_000, 5_000),
            |w| (w.delay_us_max, w.sync_us_max) = (1_000, 1_000),
        ];
        let made = simplify.iter().map(|simplify| {
            let mut story = self.clone();
            simplify(&mut story.weather);
            story
        });
        made.filter(|story| story != self).collect()
    }

    /// The same with fewer founding members, the fewest first.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let with = |members| {
            let mut story = self.clone();
            story.weather.members = members;
            story
        };
        (3..self.weather.members).take(3).map(with).collect()
    }
}

/// What rules do in the run of `seed`, if anything. The generator is another one than that of all
/// other steps, which so are what they would be without.
fn draw_acts(seed: u64, plan: &Plan, long: bool, storm_us: u64) -> Vec<Step> {
    let rng = &mut SmallRng::seed_from_u64(seed ^ ACTS_APART);
    let mut steps = Vec::new();
    if rng.random_range(0..100) >= plan.acts_of_100 {
        return steps;
    }
    let every = match long {
        true => [60, 180, 600].map(|s| s * SECOND),
        false => [700_000, 2_000_000, 5_000_000],
    };
    let every = every[rng.random_range(0..3)];
    let acts: Vec<(Deed, u32)> = ACTS.iter().filter(|_| rng.random_bool(0.6)).copied().collect();
    if !acts.is_empty() {
        let pick = |rng: &mut SmallRng| weighted(&acts, rng);
        series(&mut steps, every, every, storm_us, rng, pick);
    }
    steps
}

/// Who is moved in the run of `seed`, if anybody: from a generator apart, as what rules do.
fn draw_moves(seed: u64, plan: &Plan, long: bool, storm_us: u64) -> Vec<Step> {
    let rng = &mut SmallRng::seed_from_u64(seed ^ MOVES_APART);
    let mut steps = Vec::new();
    if rng.random_range(0..100) >= plan.moves_of_100 {
        return steps;
    }
    let every = match long {
        true => [300, 600, 1_200].map(|s| s * SECOND),
        false => [3, 8, 15].map(|s| s * SECOND),
    };
    let every = every[rng.random_range(0..3)];
    let moves: Vec<(Deed, u32)> = MOVES.iter().filter(|_| rng.random_bool(0.7)).copied().collect();
    if !moves.is_empty() {
        let pick = |rng: &mut SmallRng| weighted(&moves, rng);
        series(&mut steps, every, every, storm_us, rng, pick);
    }
    steps
}

/// When whole applications are handed over in the run of `seed`, if ever: from a generator apart, as
/// what rules do.
fn draw_handovers(seed: u64, plan: &Plan, long: bool, storm_us: u64) -> Vec<Step> {
    let rng = &mut SmallRng::seed_from_u64(seed ^ HANDOVERS_APART);
    let mut steps = Vec::new();
    if rng.random_range(0..100) >= plan.handovers_of_100 {
        return steps;
    }
    let every = match long {
        true => [120, 300, 900].map(|s| s * SECOND),
        false => [2, 5, 12].map(|s| s * SECOND),
    };
    let every = every[rng.random_range(0..3)];
    series(&mut steps, every, every, storm_us, rng, |_| Deed::HandOver);
    steps
}

/// Steps from `first` on, each some time after the one before, until `end`.
fn series(
    steps: &mut Vec<Step>,
    first: u64,
    every: u64,
    end: u64,
    rng: &mut SmallRng,
    pick: impl Fn(&mut SmallRng) -> Deed,
) {
    let mut at_us = first;
    while at_us < end {
        let (what, chance) = (pick(rng), rng.random());
        steps.push(Step { at_us, what, chance });
        at_us += rng.random_range(every / 4..=every * 2);
    }
}

fn weighted(choices: &[(Deed, u32)], rng: &mut SmallRng) -> Deed {
    let total: u32 = choices.iter().map(|(_, weight)| weight).sum();
    let mut drawn = rng.random_range(0..total);
    for (deed, weight) in choices {
        if drawn < *weight {
            return *deed;
        }
        drawn -= weight;
    }
    Deed::Hint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_do_comes_on_top_and_changes_nothing_else() {
        let of = |acts_of_100| Plan { acts_of_100, ..Plan::default() };
        let is_act = |step: &Step| ACTS.iter().any(|(deed, _)| *deed == step.what);
        let mut acts = 0;
        for seed in 1..200 {
            let (without, mut with) = (Story::draw(seed, &of(0)), Story::draw(seed, &of(100)));
            assert!(!without.steps.iter().any(is_act), "seed {seed}");
            acts += with.steps.iter().filter(|step| is_act(step)).count();
            with.steps.retain(|step| !is_act(step));
            assert_eq!(with, without, "seed {seed}");
        }
        assert!(acts > 1_000, "{acts} in all");
    }

    #[test]
    fn moves_come_on_top_and_change_nothing_else() {
        let of = |moves_of_100| Plan { moves_of_100, ..Plan::default() };
        let is_move = |step: &Step| MOVES.iter().any(|(deed, _)| *deed == step.what);
        let mut moves = 0;
        for seed in 1..200 {
            let (without, mut with) = (Story::draw(seed, &of(0)), Story::draw(seed, &of(100)));
            assert!(!without.steps.iter().any(is_move), "seed {seed}");
            moves += with.steps.iter().filter(|step| is_move(step)).count();
            with.steps.retain(|step| !is_move(step));
            assert_eq!(with, without, "seed {seed}");
        }
        assert!(moves > 300, "{moves} in all");
    }

    #[test]
    fn handovers_come_on_top_and_only_place_what_would_be_everywhere() {
        let of = |handovers_of_100| Plan { handovers_of_100, ..Plan::default() };
        let is_handover = |step: &Step| step.what == Deed::HandOver;
        let mut handovers = 0;
        for seed in 1..200 {
            let (without, mut with) = (Story::draw(seed, &of(0)), Story::draw(seed, &of(100)));
            assert!(!without.steps.iter().any(is_handover), "seed {seed}");
            let all = with.steps.len();
            with.steps.retain(|step| !is_handover(step));
            handovers += all - with.steps.len();
            if all > with.steps.len() {
                assert!(with.weather.placed, "seed {seed}");
                with.weather.placed = without.weather.placed;
            }
            assert_eq!(with, without, "seed {seed}");
        }
        assert!(handovers > 500, "{handovers} in all");
    }
}
