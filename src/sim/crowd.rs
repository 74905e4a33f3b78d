//! Membership alone: the failure detector and gossip of production, hundreds
//! to ten thousand of them, with nothing else of a member around them.
//!
//! All know each other when a run begins, as a cluster that has run for a
//! while does: ten thousand that meet for the first time would send a hundred
//! million knocks, and that is another question.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Progress,
    measure::{Measure, Measured},
    network::{Carrier, Network},
    scenario::{Action, Kind, Scenario},
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
    pub fn new(scenario: &'a Scenario, progress: &mut dyn FnMut(Progress)) -> Self {
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
        for i in 0..n {
            progress(Progress::Preparing { ready: i, members: n });
            crowd.nodes.push(Node::new(i >= n - scenario.slow));
            let now = Time(EPOCH + SPREAD * i as u64 / n as u64);
            let seed = crowd.rng.random();
            let mut machine = Membership::new(now, id(i), address(i), GENERATION, seed);
            let mut effects = Vec::new();
            machine.set_index(now, Arc::clone(&crowd.shared), &mut effects);
            machine.acquaint(now, &known, &mut effects);
            crowd.nodes[i].machine = Some(machine);
            crowd.measure.is(EPOCH, i, true, false);
            crowd.set_timer(i);
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

    // What is done to them.

    fn rate(&mut self, kind: Kind) {
        let Some(rate) = self.scenario.rates.of(kind) else { return };
        let after = self.around(rate.every);
        self.later(after, Event::Rate(kind));
        let lasts = self.around(rate.lasts);
        let well: Vec<usize> = (0..self.nodes.len()).filter(|i| self.measure.is_well(*i)).collect();
        if well.len() < 2 {
            return;
        }
        let one = well[self.rng.random_range(0..well.len())];
        match kind {
            Kind::Crash => {
                self.measure.tell(self.now, &format!("m{} crashes", one + 1));
                self.kill(one, "crashed", true);
                self.later(lasts, Event::Start(one));
            }
            Kind::Pause => {
                self.measure.tell(self.now, &format!("m{} stands still", one + 1));
                self.pause(one);
                let run = self.nodes[one].run;
                self.later(lasts, Event::Resume { who: one, run });
            }
            Kind::Partition => {
                let count = self.rng.random_range(1..=well.len().div_ceil(2) - 1).max(1);
                let mut side = BTreeSet::new();
                while side.len() < count {
                    side.insert(well[self.rng.random_range(0..well.len())]);
                }
                let rest = (0..self.nodes.len()).filter(|i| !side.contains(i)).collect();
                let text = format!("{count} members are cut off");
                self.measure.tell(self.now, &text);
                let partition = self.partition(vec![side.into_iter().collect(), rest]);
                self.later(lasts, Event::Heal(partition));
            }
            Kind::Drift | Kind::Publish => {}
        }
    }

    fn act(&mut self, action: &Action) {
        self.measure.disturbed(self.now);
        let each = |whom: &[usize]| whom.to_vec();
        match action {
            Action::Kill(whom) => each(whom).into_iter().for_each(|i| self.kill(i, "killed", true)),
            Action::Silence(whom) => {
                each(whom).into_iter().for_each(|i| self.kill(i, "fell silent", false));
            }
            Action::Restart(whom) => {
                each(whom).into_iter().for_each(|i| self.start(i, "started again"));
            }
            Action::Pause(whom) => each(whom).into_iter().for_each(|i| self.pause(i)),
            Action::Resume(whom) => each(whom).into_iter().for_each(|i| self.resume(i)),
            Action::Slow(whom) => whom.iter().for_each(|i| self.nodes[*i].slow = true),
            Action::Fast(whom) => whom.iter().for_each(|i| self.nodes[*i].slow = false),
            Action::Partition(groups) => drop(self.partition(groups.clone())),
            Action::Cut(from, to) => {
                let set = |whom: &[usize]| whom.iter().copied().collect();
                self.network.cut(set(from), set(to), false);
            }
            Action::Heal => {
                self.network.heal_all();
                self.heal();
            }
            Action::Loss(share) => self.network.datagram_loss = *share,
            Action::Latency(from, to) => set_latency(&mut self.network, *from, *to),
            Action::Join(count) => self.join(*count),
            Action::Leave(whom) => each(whom).into_iter().for_each(|i| self.leave(i)),
            Action::Remove(whom) => self.remove(whom),
            // Refused when the scenario was checked.
            Action::Publish { .. }
            | Action::Rollback(_)
            | Action::Drift(..)
            | Action::Wipe(..)
            | Action::Rot(..) => {}
        }
    }

    fn stop(&mut self, i: usize) -> bool {
        let node = &mut self.nodes[i];
        node.run += 1;
        (node.paused, node.due) = (None, None);
        let ran = node.machine.take().is_some();
        self.measure.is(self.now, i, false, false);
        ran
    }

    fn kill(&mut self, i: usize, what: &'static str, refuses: bool) {
        if !self.stop(i) {
            return;
        }
        self.nodes[i].refuses = refuses;
        let network = &self.network;
        self.measure.fails(self.now, i, what, |other| network.connects(i, other));
    }

    fn start(&mut self, i: usize, what: &'static str) {
        if self.nodes[i].machine.is_some() || !self.nodes[i].enrolled {
            return;
        }
        let (now, seed) = (Time(self.now), self.rng.random());
        let node = &mut self.nodes[i];
        node.generation += 1;
        node.run += 1;
        let mut machine = Membership::new(now, self.ids[i], address(i), node.generation, seed);
        let mut effects = Vec::new();
        machine.set_index(now, Arc::clone(&self.shared), &mut effects);
        (node.refuses, node.paused) = (false, None);
        node.machine = Some(machine);
        self.measure.is(self.now, i, true, false);
        self.measure.returns(self.now, i, what);
        self.carry_out(i, effects);
    }

    fn pause(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if node.machine.is_none() || node.paused.is_some() {
            return;
        }
        node.paused = Some(Vec::new());
        self.set_timer(i);
        self.measure.is(self.now, i, true, true);
        let network = &self.network;
        self.measure.fails(self.now, i, "stood still", |other| network.connects(i, other));
    }

    fn resume(&mut self, i: usize) {
        let Some(waiting) = self.nodes[i].paused.take() else { return };
        self.measure.is(self.now, i, true, false);
        self.measure.returns(self.now, i, "went on");
        // The packets that wait come before the timers.
        for input in waiting {
            self.feed(i, input);
        }
        self.set_timer(i);
    }

    fn partition(&mut self, groups: Vec<Vec<usize>>) -> u64 {
        let sets: Vec<BTreeSet<usize>> =
            groups.iter().map(|group| group.iter().copied().collect()).collect();
        let number = self.network.split(&sets);
        // The largest side goes on, and learns that the others are gone.
        let largest = (0..sets.len()).max_by_key(|g| sets[*g].len()).unwrap_or(0);
        for (g, group) in groups.iter().enumerate().filter(|(g, _)| *g != largest) {
            let inside = &sets[g];
            let well = group.iter().copied().filter(|m| self.measure.is_well(*m));
            for member in well.take(WATCHED_MAX).collect::<Vec<_>>() {
                self.measure.fails(self.now, member, "cut off", |o| !inside.contains(&o));
                self.cut_off.push(member);
            }
        }
        number
    }

    fn heal(&mut self) {
        self.measure.healed(self.now);
        for member in std::mem::take(&mut self.cut_off) {
            if self.measure.is_well(member) {
                self.measure.returns(self.now, member, "within reach again");
            }
        }
    }

    fn leave(&mut self, i: usize) {
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.nodes[i].machine {
            machine.leave(Time(self.now), &mut effects);
        }
        self.carry_out(i, effects);
        if self.stop(i) {
            let network = &self.network;
            self.measure.fails(self.now, i, "left", |other| network.connects(i, other));
        }
    }

    fn join(&mut self, count: usize) {
        let first = self.nodes.len();
        for i in first..first + count {
            self.ids.push(id(i));
            self.index.insert(id(i), i);
            self.roster.members.push(enrolled(i));
            self.nodes.push(Node::new(false));
        }
        self.spread_roster();
        (first..first + count).for_each(|i| self.start(i, "joined"));
    }

    fn remove(&mut self, whom: &[usize]) {
        for &i in whom {
            self.stop(i);
            self.nodes[i].enrolled = false;
        }
        let ids: BTreeSet<MemberId> = whom.iter().map(|i| self.ids[*i]).collect();
        self.roster.members.retain(|member| !ids.contains(&member.id));
        self.spread_roster();
    }

    /// The catalog is another machine's: here everybody has it at once.
    fn spread_roster(&mut self) {
        self.shared = Arc::new(self.shared.extended(&self.roster));
        for i in 0..self.nodes.len() {
            let mut effects = Vec::new();
            if let Some(machine) = &mut self.nodes[i].machine {
                machine.set_index(Time(self.now), Arc::clone(&self.shared), &mut effects);
            }
            self.carry_out(i, effects);
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
