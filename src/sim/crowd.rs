//! Membership alone: the failure detector and gossip of production, hundreds
//! to ten thousand of them, with nothing else of a member around them.
//!
//! All know each other when a run begins, as a cluster that has run for a
//! while does: ten thousand that meet for the first time would send a hundred
//! million knocks, and that is another question.

mod act;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Progress,
    measure::{Measure, Measured},
    network::{Carrier, Network},
    scenario::{Kind, Scenario},
};
use crate::{
    base::{
        Digest, MemberId, MemberName, PublicKey, Time,
        catalog::{Enrolled, Roster},
    },
    proto::membership::{Effect, Index, Input, Membership, State},
};

/// When the world begins, so that nothing is at 0.
const EPOCH: u64 = 10_000_000;
/// All are as if started within this time, so that they don't probe in step.
const SPREAD: u64 = 500_000;
/// From the beginning until the scenario begins.
const WARM_UP: u64 = 2_000_000;
/// Packets that wait in the socket of a process that stands still.
const BUFFER: usize = 500;
/// How late things reach a member that is slow, in microseconds.
const SLOW: std::ops::Range<u64> = 20_000..300_000;
/// How many of a side that is cut off are watched: each costs a word for each
/// member.
const WATCHED_MAX: usize = 8;
const GENERATION: u64 = 1_000;
/// Members that are made between two reports of progress.
const BLOCK: usize = 64;

/// Does something for each number below the first argument, in any order. A
/// caller outside of the pure floors may use several threads.
pub type Workers<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

struct Node {
    machine: Option<Membership>,
    generation: u64,
    /// Counts the starts: what belongs to another run is void.
    run: u32,
    /// While it stands still: what waits in its socket's buffer.
    paused: Option<Vec<Input>>,
    /// Its host says that nobody listens there.
    refuses: bool,
    slow: bool,
    due: Option<u64>,
    enrolled: bool,
}

impl Node {
    fn new(slow: bool) -> Self {
        Self {
            machine: None,
            generation: GENERATION,
            run: 0,
            paused: None,
            refuses: false,
            slow,
            due: None,
            enrolled: true,
        }
    }
}

enum Event {
    Deliver { to: usize, run: u32, input: Input },
    Timer { who: usize },
    Step(usize),
    Rate(Kind),
    Start(usize),
    Resume { who: usize, run: u32 },
    Heal(u64),
}

/// One event in the queue; the earliest is the greatest.
struct Queued {
    at: u64,
    tie: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// The members and what is between them.
pub(super) struct Crowd<'a> {
    scenario: &'a Scenario,
    now: u64,
    rng: SmallRng,
    network: Network,
    nodes: Vec<Node>,
    ids: Vec<MemberId>,
    index: BTreeMap<MemberId, usize>,
    roster: Roster,
    /// Of the roster, for all machines.
    shared: Arc<Index>,
    queue: BinaryHeap<Reverse<Queued>>,
    tie: u64,
    steps: u64,
    trace: u64,
    cut_off: Vec<usize>,
    measure: Measure,
}

fn id(index: usize) -> MemberId {
    MemberId(Digest::of("simulated member", &index.to_le_bytes()))
}

fn address(index: usize) -> SocketAddr {
    let [.., high, low] = index.to_be_bytes();
    (Ipv4Addr::new(10, 0, high, low), 7_700).into()
}

fn enrolled(index: usize) -> Enrolled {
    Enrolled {
        id: id(index),
        key: PublicKey([0; 32]),
        name: MemberName::parse(&format!("m{}", index + 1)).expect("a letter and digits"),
        address: address(index),
        tags: BTreeMap::new(),
        voter: true,
        standby: false,
    }
}

impl<'a> Crowd<'a> {
    /// All members, which know each other. Reports how many are ready.
    pub fn new(
        scenario: &'a Scenario,
        workers: Workers<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Self {
        let n = scenario.members;
        let mut network = Network::calm();
        let weather = scenario.weather;
        network.datagram_loss = weather.loss;
        network.duplicate = weather.duplicate;
        network.tail = weather.tail;
        set_latency(&mut network, weather.delay_min, weather.delay_max);
        let roster = Roster { members: (0..n).map(enrolled).collect() };
        let mut crowd = Self {
            scenario,
            now: EPOCH,
            rng: SmallRng::seed_from_u64(scenario.seed),
            network,
            nodes: Vec::new(),
            ids: (0..n).map(id).collect(),
            index: (0..n).map(|i| (id(i), i)).collect(),
            shared: Arc::new(Index::new(&roster)),
            roster,
            queue: BinaryHeap::new(),
            tie: 0,
            steps: 0,
            trace: 0,
            cut_off: Vec::new(),
            measure: Measure::new(scenario, EPOCH),
        };
        let known: Vec<(MemberId, SocketAddr, u64)> =
            (0..n).map(|i| (id(i), address(i), GENERATION)).collect();
        let seeds: Vec<u64> = (0..n).map(|_| crowd.rng.random()).collect();
        let shared = Arc::clone(&crowd.shared);
        let make = |i: usize| {
            let now = Time(EPOCH + SPREAD * i as u64 / n as u64);
            let mut machine = Membership::new(now, id(i), address(i), GENERATION, seeds[i]);
            machine.set_pace(now, scenario.pace);
            let mut effects = Vec::new();
            machine.set_index(now, Arc::clone(&shared), &mut effects);
            machine.acquaint(now, &known, &mut effects);
            machine
        };
        for first in (0..n).step_by(BLOCK) {
            progress(Progress::Preparing { ready: first, members: n });
            let block = BLOCK.min(n - first);
            let made: Vec<Mutex<Option<Membership>>> =
                (0..block).map(|_| Mutex::new(None)).collect();
            workers(block, &|at| {
                let machine = make(first + at);
                // Only a panic in another worker poisons it, and that ends the run.
                if let Ok(mut slot) = made[at].lock() {
                    *slot = Some(machine);
                }
            });
            for (i, slot) in (first..).zip(made) {
                let mut node = Node::new(i >= n - scenario.slow);
                node.machine = slot.into_inner().ok().flatten();
                crowd.nodes.push(node);
                crowd.measure.is(EPOCH, i, true, false);
                crowd.set_timer(i);
            }
        }
        crowd
    }

    /// The whole run.
    pub fn run(mut self, progress: &mut dyn FnMut(Progress)) -> Measured {
        self.run_until(EPOCH + WARM_UP, progress);
        self.measure.begin(self.now);
        let scenario = self.scenario;
        for (number, step) in scenario.steps.iter().enumerate() {
            self.later(us(step.at), Event::Step(number));
        }
        for (kind, rate) in scenario.rates.all() {
            let after = self.around(rate.every);
            self.later(after, Event::Rate(kind));
        }
        let end = self.now + us(scenario.span);
        self.run_until(end, progress);
        self.measure.report(self.now, self.steps, self.trace)
    }

    fn run_until(&mut self, end: u64, progress: &mut dyn FnMut(Progress)) {
        let total_us = EPOCH + WARM_UP + us(self.scenario.span);
        while self.queue.peek().is_some_and(|Reverse(first)| first.at <= end) {
            let Some(Reverse(first)) = self.queue.pop() else { break };
            if first.at / 100_000 != self.now / 100_000 {
                let (done_us, total_us) = (first.at - EPOCH, total_us - EPOCH);
                progress(Progress::Running { done_us, total_us });
            }
            self.now = self.now.max(first.at);
            self.happen(first.at, first.event);
        }
        self.now = end;
    }

    fn later(&mut self, after: u64, event: Event) {
        self.at(self.now + after, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.tie += 1;
        self.queue.push(Reverse(Queued { at, tie: self.tie, event }));
    }

    /// Evenly from half of `mean` to one and a half.
    fn around(&mut self, mean: Duration) -> u64 {
        let mean = us(mean).max(2);
        self.rng.random_range(mean / 2..=mean * 3 / 2)
    }

    fn happen(&mut self, at: u64, event: Event) {
        match event {
            Event::Timer { who } if self.nodes[who].due == Some(at) => {
                self.nodes[who].due = None;
                self.steps += 1;
                let mut effects = Vec::new();
                if let Some(machine) = &mut self.nodes[who].machine {
                    machine.tick(Time(self.now), &mut effects);
                }
                self.carry_out(who, effects);
            }
            Event::Timer { .. } => {}
            Event::Deliver { to, run, input } => {
                self.steps += 1;
                if self.nodes[to].run == run {
                    self.feed(to, input);
                }
            }
            Event::Step(number) => {
                let scenario = self.scenario;
                let step = &scenario.steps[number];
                self.measure.tell(self.now, &step.text);
                self.act(&step.action);
            }
            Event::Rate(kind) => self.rate(kind),
            Event::Start(who) => self.start(who, "started again"),
            Event::Resume { who, run } if self.nodes[who].run == run => self.resume(who),
            Event::Resume { .. } => {}
            Event::Heal(partition) => {
                self.network.heal(partition);
                if self.network.state().1 == 0 {
                    self.heal();
                }
            }
        }
    }

    // The machines.

    fn feed(&mut self, to: usize, input: Input) {
        if let Some(waiting) = &mut self.nodes[to].paused {
            if waiting.len() < BUFFER {
                waiting.push(input);
            }
            return;
        }
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.nodes[to].machine {
            machine.handle(Time(self.now), input, &mut effects);
        }
        self.carry_out(to, effects);
    }

    fn set_timer(&mut self, who: usize) {
        let node = &self.nodes[who];
        let due = match (&node.machine, &node.paused) {
            (Some(machine), None) => machine.deadline().map(|due| due.0.max(self.now)),
            _ => None,
        };
        let Some(due) = due else {
            self.nodes[who].due = None;
            return;
        };
        // A slow member's timer that is late already is not put off again.
        if node.due.is_some_and(|before| before == due || node.slow && before <= due + SLOW.end) {
            return;
        }
        let late = if node.slow { self.rng.random_range(SLOW) } else { 0 };
        self.nodes[who].due = Some(due + late);
        self.at(due + late, Event::Timer { who });
    }

    fn carry_out(&mut self, i: usize, effects: Vec<Effect>) {
        self.set_timer(i);
        for effect in effects {
            match effect {
                Effect::Send { to, address: at, bytes } => {
                    self.note(i, &bytes);
                    if let Some(&to) = self.index.get(&to)
                        && at == address(to)
                    {
                        let input = Input::Packet { from: self.ids[i], bytes };
                        self.transmit(i, to, Carrier::Datagram, input);
                    }
                }
                Effect::Exchange { to, bytes } => {
                    self.note(i, &bytes);
                    if let Some(&to) = self.index.get(&to) {
                        let input = Input::Exchange { from: self.ids[i], bytes };
                        self.transmit(i, to, Carrier::Stream { repeatable: false }, input);
                    }
                }
                Effect::Changed { member, state, .. } => {
                    let Some(&about) = self.index.get(&member) else { continue };
                    if state != State::Suspect {
                        let live = state.is_live();
                        let reachable = self.network.connects(i, about);
                        self.measure.sees(self.now, i, about, live, reachable);
                    }
                }
                Effect::Moved { .. } | Effect::Reached { .. } => {}
                Effect::Generation(generation) => self.nodes[i].generation = generation,
            }
        }
    }

    /// Something is sent.
    fn note(&mut self, from: usize, bytes: &[u8]) {
        self.trace = self.trace.rotate_left(5) ^ self.now ^ (from as u64) << 32;
        self.trace = self.trace.wrapping_mul(0x0100_0000_01b3) ^ bytes.len() as u64;
        self.measure.sent(from, bytes.len());
    }

    fn transmit(&mut self, from: usize, to: usize, carrier: Carrier, input: Input) {
        if !self.network.reaches(from, to) {
            return;
        }
        let delays = self.network.delays((from, to), carrier, &mut self.rng);
        let node = &self.nodes[to];
        if node.machine.is_none() {
            if let (true, Some(delay)) = (node.refuses, delays[0]) {
                let run = self.nodes[from].run;
                let input = Input::Refused { member: self.ids[to] };
                self.later(delay * 2, Event::Deliver { to: from, run, input });
            }
            return;
        }
        let (run, slow) = (node.run, node.slow);
        for delay in delays.into_iter().flatten() {
            let late = if slow { self.rng.random_range(SLOW) } else { 0 };
            self.later(delay + late, Event::Deliver { to, run, input: input.clone() });
        }
    }
}

pub(super) fn set_latency(network: &mut Network, from: Duration, to: Duration) {
    network.delay_min = us(from).max(1);
    network.delay_max = us(to).max(network.delay_min);
}

pub(super) fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
