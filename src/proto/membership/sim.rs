//! Many members in one process over a virtual network: seeded loss, delay,
//! duplication, reordering, partitions, pauses and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Effect, Index, Input, Membership, State, random::Random};
use crate::base::{
    Digest, MemberId, MemberName, PublicKey, Time,
    catalog::{Enrolled, Roster},
};

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn id(index: usize) -> MemberId {
    MemberId(Digest::of("test member", &index.to_le_bytes()))
}

pub fn address(index: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 0, (index >> 8) as u8, index as u8), 7_700).into()
}

pub fn roster(indices: impl IntoIterator<Item = usize>) -> Roster {
    let members = indices
        .into_iter()
        .map(|index| Enrolled {
            id: id(index),
            key: PublicKey([0; 32]),
            name: MemberName::parse(&format!("m{index}")).expect("a letter and digits"),
            address: address(index),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        })
        .collect();
    Roster { members }
}

/// The network's faults. Delays are uniform between the bounds, so packets
/// overtake each other.
#[derive(Clone, Copy)]
pub struct Faults {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_min: Duration,
    pub delay_max: Duration,
}

impl Faults {
    pub const LAN: Self = Self {
        loss_percent: 0,
        duplicate_percent: 0,
        delay_min: Duration::from_micros(100),
        delay_max: ms(2),
    };
    pub const ROUGH: Self = Self {
        loss_percent: 10,
        duplicate_percent: 2,
        delay_min: Duration::from_micros(100),
        delay_max: ms(40),
    };
}

struct Node {
    machine: Option<Membership>,
    generation: u64,
    /// While it stands still: what waits in its socket's buffer.
    paused: Option<Vec<Input>>,
    sent_bytes: u64,
    /// As in [`Sim::timers`].
    due: Option<Time>,
}

pub struct Sim {
    pub now: Time,
    pub faults: Faults,
    /// When, who sees it, whom it is about, what.
    pub changes: Vec<(Time, usize, usize, State)>,
    /// Members can talk only within the same number.
    pub side: BTreeMap<usize, usize>,
    /// Directed links (from, to) that lose everything.
    pub cut: BTreeSet<(usize, usize)>,
    /// These are 20 ms away from all others.
    pub far: BTreeSet<usize>,
    /// Further addresses that lead to a member.
    pub also_at: BTreeMap<SocketAddr, usize>,
    /// Of the members that start from now on.
    pub pace: u32,
    pub hints: bool,
    /// Whether the host of a killed member says so when a packet comes for it.
    pub refusals: bool,
    /// How late timers fire.
    pub late: Duration,
    pub trace: u64,
    pub packets: u64,
    /// Who talked with whom, the smaller number first: each pair is a handshake.
    pub talks: BTreeSet<(usize, usize)>,
    nodes: Vec<Node>,
    numbers: BTreeMap<MemberId, usize>,
    network: BTreeMap<(Time, u64), (usize, Input)>,
    /// Every deadline of a member that runs and doesn't stand still.
    timers: BTreeSet<(Time, usize)>,
    sequence: u64,
    random: Random,
    index: Arc<Index>,
}

impl Sim {
    /// `n` members, enrolled and not started.
    pub fn new(n: usize, seed: u64, faults: Faults) -> Self {
        let node =
            || Node { machine: None, generation: 1_000, paused: None, sent_bytes: 0, due: None };
        Self {
            now: Time(5_000_000),
            faults,
            changes: Vec::new(),
            side: BTreeMap::new(),
            cut: BTreeSet::new(),
            far: BTreeSet::new(),
            also_at: BTreeMap::new(),
            pace: 1,
            hints: false,
            refusals: false,
            late: Duration::ZERO,
            trace: 0,
            packets: 0,
            talks: BTreeSet::new(),
            nodes: (0..n).map(|_| node()).collect(),
            numbers: (0..n).map(|i| (id(i), i)).collect(),
            network: BTreeMap::new(),
            timers: BTreeSet::new(),
            sequence: 0,
            random: Random::new(seed),
            index: Arc::new(Index::new(&roster(0..n))),
        }
    }

    /// All started within 50 ms, and a while later.
    pub fn started(n: usize, seed: u64, faults: Faults) -> Self {
        let mut sim = Self::new(n, seed, faults);
        let between = ms(50) / u32::try_from(n).expect("a small number");
        for i in 0..n {
            sim.start(i);
            sim.run(between);
        }
        sim.run(Duration::from_secs(5));
        assert!(sim.all_live(), "seed {seed}: {n} members know each other after 5 s");
        sim
    }

    pub fn machine(&self, i: usize) -> &Membership {
        self.nodes[i].machine.as_ref().expect("a running member")
    }

    pub fn start(&mut self, i: usize) {
        let generation = self.nodes[i].generation + 1;
        self.start_as(i, generation);
    }

    pub fn start_as(&mut self, i: usize, generation: u64) {
        let seed = self.random.below(u64::MAX);
        self.nodes[i].generation = generation;
        let mut machine = Membership::new(self.now, id(i), address(i), generation, seed);
        machine.set_pace(self.now, self.pace);
        let mut effects = Vec::new();
        machine.set_index(self.now, self.index.clone(), &mut effects);
        self.nodes[i].machine = Some(machine);
        self.carry_out(i, effects);
    }

    pub fn set_roster(&mut self, roster: &Roster) {
        self.index = Arc::new(self.index.extended(roster));
        for i in 0..self.nodes.len() {
            let mut effects = Vec::new();
            if let Some(machine) = &mut self.nodes[i].machine {
                machine.set_roster(self.now, roster, &mut effects);
            }
            self.carry_out(i, effects);
        }
    }

    pub fn kill(&mut self, i: usize) {
        self.nodes[i].machine = None;
        self.nodes[i].paused = None;
        self.set_timer(i);
        if self.hints {
            for other in (0..self.nodes.len()).filter(|&other| other != i) {
                self.deliver(self.now + ms(5), other, Input::Lost { member: id(i) });
            }
        }
    }

    pub fn leave(&mut self, i: usize) {
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.nodes[i].machine {
            machine.leave(self.now, &mut effects);
        }
        self.carry_out(i, effects);
        self.nodes[i].machine = None;
        self.set_timer(i);
    }

    pub fn pause(&mut self, i: usize) {
        self.nodes[i].paused = Some(Vec::new());
        self.set_timer(i);
    }

    pub fn resume(&mut self, i: usize) {
        // The packets that wait come before the timers.
        for input in self.nodes[i].paused.take().unwrap_or_default() {
            self.feed(i, input);
        }
        self.set_timer(i);
    }

    fn set_timer(&mut self, i: usize) {
        let late = self.late;
        let node = &mut self.nodes[i];
        let due = match (&node.machine, &node.paused) {
            (Some(machine), None) => machine.deadline().map(|at| at + late),
            _ => None,
        };
        if let Some(before) = std::mem::replace(&mut node.due, due) {
            self.timers.remove(&(before, i));
        }
        if let Some(due) = due {
            self.timers.insert((due, i));
        }
    }

    pub fn inject(&mut self, to: usize, input: Input) {
        self.deliver(self.now, to, input);
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done` or for `max`; says how long it took.
    pub fn run_until(&mut self, max: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (start, end) = (self.now, self.now + max);
        loop {
            if done(self) {
                return Some(self.now.since(start));
            }
            if !self.step(end) {
                return None;
            }
        }
    }

    fn step(&mut self, end: Time) -> bool {
        let timer = self.timers.first().copied();
        let packet = self.network.first_key_value().map(|(&(at, _), _)| at);
        let next = match (packet, timer) {
            (Some(packet), Some((timer, _))) => packet.min(timer),
            (packet, timer) => match packet.or(timer.map(|(at, _)| at)) {
                Some(at) => at,
                None => return false,
            },
        };
        if next > end {
            return false;
        }
        self.now = self.now.max(next);
        if packet == Some(next) {
            if let Some((_, (to, input))) = self.network.pop_first() {
                self.feed(to, input);
            }
        } else if let Some((_, i)) = timer {
            let mut effects = Vec::new();
            if let Some(machine) = &mut self.nodes[i].machine {
                machine.tick(self.now, &mut effects);
            }
            self.carry_out(i, effects);
        }
        true
    }

    fn feed(&mut self, to: usize, input: Input) {
        if let Some(waiting) = &mut self.nodes[to].paused {
            // A socket's buffer, in packets.
            if waiting.len() < 500 {
                waiting.push(input);
            }
            return;
        }
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.nodes[to].machine {
            machine.handle(self.now, input, &mut effects);
        }
        self.carry_out(to, effects);
    }

    fn carry_out(&mut self, i: usize, effects: Vec<Effect>) {
        self.set_timer(i);
        for effect in effects {
            match effect {
                Effect::Send { to, address: at, bytes } => {
                    assert!(bytes.len() <= crate::base::limits::SWIM_PACKET_MAX);
                    self.trace = self.trace.wrapping_mul(31).wrapping_add(self.now.0 ^ i as u64);
                    self.trace = self.trace.wrapping_add(crc(&bytes));
                    let to = self.numbers[&to];
                    self.nodes[i].sent_bytes += bytes.len() as u64;
                    self.packets += 1;
                    if at == address(to) || self.also_at.get(&at) == Some(&to) {
                        self.transmit(i, to, bytes);
                    }
                }
                Effect::Changed { member, state, .. } => {
                    let about = self.numbers[&member];
                    self.changes.push((self.now, i, about, state));
                }
                Effect::Exchange { to, bytes } => {
                    self.nodes[i].sent_bytes += bytes.len() as u64;
                    let to = self.numbers[&to];
                    if !self.is_apart(i, to) && !self.is_apart(to, i) {
                        self.note_talk(i, to);
                        let at = self.now + self.faults.delay_max * 2;
                        self.deliver(at, to, Input::Exchange { from: id(i), bytes });
                    }
                }
                Effect::Moved { .. } | Effect::Reached { .. } => {}
                Effect::Generation(generation) => {
                    assert!(generation >= self.nodes[i].generation);
                    self.nodes[i].generation = generation;
                }
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if self.is_apart(from, to) {
            return;
        }
        self.note_talk(from, to);
        if self.refusals && self.nodes[to].machine.is_none() {
            // The transport asks the host when nothing came back for a while.
            self.deliver(self.now + ms(130), from, Input::Refused { member: id(to) });
            return;
        }
        let copies = 1 + u64::from(self.random.below(100) < self.faults.duplicate_percent);
        for _ in 0..copies {
            if self.random.below(100) < self.faults.loss_percent {
                continue;
            }
            let spread = self.faults.delay_max - self.faults.delay_min;
            let far = self.far.contains(&from) != self.far.contains(&to);
            let way = self.faults.delay_min + if far { ms(20) } else { Duration::ZERO };
            let at = self.now + way + self.random.duration_below(spread);
            self.deliver(at, to, Input::Packet { from: id(from), bytes: bytes.clone() });
        }
    }

    fn note_talk(&mut self, from: usize, to: usize) {
        if self.nodes[to].machine.is_some() {
            self.talks.insert((from.min(to), from.max(to)));
        }
    }

    fn is_apart(&self, from: usize, to: usize) -> bool {
        self.side.get(&from) != self.side.get(&to) || self.cut.contains(&(from, to))
    }

    fn deliver(&mut self, at: Time, to: usize, input: Input) {
        self.network.insert((at, self.sequence), (to, input));
        self.sequence += 1;
    }

    pub fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].machine.is_some())
    }

    /// Everybody who runs sees everybody who runs as live.
    pub fn all_live(&self) -> bool {
        self.running().all(|i| self.running().all(|j| self.machine(i).is_live(id(j))))
    }

    /// Everybody else who runs has `i` in `state`.
    pub fn all_see(&self, i: usize, state: State) -> bool {
        self.running()
            .filter(|&j| j != i)
            .all(|j| self.machine(j).directory().get(&id(i)).is_some_and(|c| c.state == state))
    }

    /// Who sees whom as a suspect.
    pub fn suspects(&self) -> Vec<(usize, usize)> {
        let seen = |i: usize| {
            let all = self.machine(i).directory();
            let suspects = all.iter().filter(|(_, c)| c.state == State::Suspect);
            suspects.map(|(id, _)| (i, self.numbers[&id])).collect::<Vec<_>>()
        };
        self.running().flat_map(seen).collect()
    }

    /// How many members `i` knows as live, itself included.
    pub fn live_at(&self, i: usize) -> usize {
        1 + self.machine(i).directory().iter().filter(|(_, c)| c.state.is_live()).count()
    }

    /// How often a member in `about` was declared down.
    pub fn downs(&self, about: impl Fn(usize) -> bool) -> usize {
        self.changes.iter().filter(|c| about(c.2) && c.3 == State::Down).count()
    }

    pub fn sent_bytes(&self) -> u64 {
        self.nodes.iter().map(|n| n.sent_bytes).sum()
    }
}

fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum, &b| sum.wrapping_mul(131).wrapping_add(u64::from(b)))
}
