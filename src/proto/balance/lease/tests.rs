//! Leases under loss, delay, partitions, pauses and crashes, in virtual time: whatever
//! happens, nobody holds what another holds; and when it is over, one member holds each.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::base::SecretKey;

const MS: u64 = 1_000;

fn ms(n: u64) -> Time {
    Time(n * MS)
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// One member, and what its interfaces have: until the lease ends, whether it runs or not.
struct Node {
    id: MemberId,
    leases: Leases,
    runs: bool,
    paused: bool,
    leaving: bool,
    able: bool,
    has: BTreeMap<IpAddr, Time>,
}

/// A message on its way.
struct Flight {
    at: Time,
    from: usize,
    to: usize,
    message: Message,
}

struct World {
    now: Time,
    rng: SmallRng,
    nodes: Vec<Node>,
    /// Who the voters are, by each member's own view.
    voters: Vec<BTreeSet<MemberId>>,
    /// Who they are.
    committed: BTreeSet<MemberId>,
    flights: Vec<Flight>,
    addresses: Vec<IpAddr>,
    /// Percent of the messages.
    loss: u32,
    delay_ms_max: u64,
    /// In which part of the network each member is.
    side: Vec<u8>,
    /// Who said when that which other one may have an address.
    yielded: Vec<(IpAddr, usize, usize, Time)>,
    starts: u64,
    taken: Vec<(Time, usize, IpAddr, Taken)>,
    dropped: Vec<(Time, usize, IpAddr, GivenUp)>,
}

impl World {
    fn new(members: u8, addresses: u8, seed: u64) -> Self {
        let ids: Vec<MemberId> =
            (1..=members).map(|n| SecretKey::from_seed([n; 32]).member()).collect();
        let mut world = Self {
            now: Time(0),
            rng: SmallRng::seed_from_u64(seed),
            nodes: vec![],
            voters: vec![ids.iter().copied().collect(); ids.len()],
            committed: ids.iter().copied().collect(),
            flights: vec![],
            addresses: (1..=addresses).map(address).collect(),
            loss: 0,
            delay_ms_max: 1,
            side: vec![0; ids.len()],
            yielded: vec![],
            starts: 0,
            taken: vec![],
            dropped: vec![],
        };
        for (n, id) in ids.iter().enumerate() {
            let leases = world.start(*id, n);
            let has = BTreeMap::new();
            let (runs, paused, leaving, able) = (true, false, false, true);
            world.nodes.push(Node { id: *id, leases, runs, paused, leaving, able, has });
        }
        world
    }

    fn start(&mut self, id: MemberId, n: usize) -> Leases {
        self.starts += 1;
        let mut leases = Leases::new(self.now, id, self.starts << 20, self.rng.random());
        leases.set_voters(self.now, self.voters[n].clone());
        leases.look(self.now);
        leases
    }

    fn index(&self, id: MemberId) -> usize {
        self.nodes.iter().position(|node| node.id == id).unwrap()
    }

    /// What member `n` sees: it learns slowly who is gone, so it takes everybody for live.
    fn around(&self, n: usize) -> Around {
        let fit = self.nodes.iter().filter(|node| node.runs || !node.has.is_empty());
        let all: BTreeSet<MemberId> = fit.map(|node| node.id).collect();
        let wanted = self.addresses.iter().map(|a| (*a, all.clone())).collect();
        Around { wanted, able: self.nodes[n].able, leaving: self.nodes[n].leaving }
    }

    fn heed(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    let to = self.index(to);
                    if let Message::Yield { addresses, .. } = &message {
                        let now = self.now;
                        self.yielded.extend(addresses.iter().map(|a| (*a, n, to, now)));
                    }
                    if self.rng.random_range(0..100) < self.loss || self.side[n] != self.side[to] {
                        continue;
                    }
                    let delay = self.rng.random_range(100..=self.delay_ms_max * MS);
                    let at = self.now + Duration::from_micros(delay);
                    self.flights.push(Flight { at, from: n, to, message });
                }
                Effect::Take { address, until, why } => {
                    assert!(until > self.now);
                    assert_eq!(self.nodes[n].has.insert(address, until), None);
                    self.taken.push((self.now, n, address, why));
                }
                Effect::Renew { address, until } => {
                    self.nodes[n].has.insert(address, until).expect("it was taken");
                }
                Effect::Drop { address, why } => {
                    self.nodes[n].has.remove(&address);
                    self.dropped.push((self.now, n, address, why));
                }
            }
        }
    }

    /// Nobody has what another has, but for the two of a hand-over.
    fn check(&self) {
        for a in &self.addresses {
            let valid = |n: &Node| n.has.get(a).is_some_and(|until| *until > self.now);
            let holders: Vec<usize> =
                (0..self.nodes.len()).filter(|n| valid(&self.nodes[*n])).collect();
            if holders.len() < 2 {
                continue;
            }
            let handed = holders.len() == 2
                && self.yielded.iter().any(|(of, from, to, at)| {
                    let recent = self.now.since(*at) <= HOLD;
                    of == a && recent && holders.contains(from) && holders.contains(to)
                });
            assert!(handed, "{a} is held by {holders:?} at {:?}", self.now);
        }
    }

    /// Runs until `end`, one event after the other.
    fn run(&mut self, end: Time) {
        loop {
            let flight = self.flights.iter().map(|f| f.at).min();
            let works = |n: &&Node| n.runs && !n.paused;
            let timer = self.nodes.iter().filter(works).filter_map(|n| n.leases.deadline()).min();
            let next = flight.into_iter().chain(timer).min().map_or(end, |at| at.max(self.now));
            if next >= end {
                self.now = end;
                self.check();
                return;
            }
            self.now = next;
            self.step();
            self.check();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let mut due: Vec<Flight> = self.flights.extract_if(.., |f| f.at <= now).collect();
        for Flight { from, to, message, .. } in due.drain(..) {
            if self.nodes[to].paused {
                // It waits at the socket.
                let at = now + Duration::from_millis(5);
                self.flights.push(Flight { at, from, to, message });
            } else if self.nodes[to].runs {
                let (id, mut effects) = (self.nodes[from].id, vec![]);
                self.nodes[to].leases.handle(now, id, message, &mut effects);
                self.heed(to, effects);
            }
        }
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let is_due = node.leases.deadline().is_some_and(|at| at <= now);
            if node.runs && !node.paused && is_due {
                let (around, mut effects) = (self.around(n), vec![]);
                self.nodes[n].leases.tick(now, &around, &mut effects);
                self.heed(n, effects);
            }
        }
    }

    /// Now and then the voters change by one, as a register has it: a majority knows the last
    /// change, and who was not asked hears of this one some time.
    fn change_voters(&mut self, rng: &mut SmallRng) {
        for n in 0..self.nodes.len() {
            if rng.random_range(0..3) == 0 && self.nodes[n].runs && !self.nodes[n].paused {
                self.learn_voters(n);
            }
        }
        let mut next = self.committed.clone();
        let who = self.nodes[rng.random_range(0..self.nodes.len())].id;
        if rng.random_range(0..4) > 0 || (next.contains(&who) && next.len() <= 2) {
            return;
        }
        if !next.remove(&who) {
            next.insert(who);
        }
        let is_majority = |of: &BTreeSet<MemberId>| {
            let know =
                |n: &usize| self.voters[*n] == self.committed && of.contains(&self.nodes[*n].id);
            (0..self.nodes.len()).filter(know).count() > of.len() / 2
        };
        if is_majority(&self.committed) && is_majority(&next) {
            self.committed = next;
        }
    }

    fn learn_voters(&mut self, n: usize) {
        self.voters[n] = self.committed.clone();
        self.nodes[n].leases.set_voters(self.now, self.committed.clone());
    }

    /// A kill: what it had goes with it, as the guard sees to, and so does what it knew.
    fn kill(&mut self, n: usize) {
        self.nodes[n].runs = false;
        self.nodes[n].has.clear();
        self.flights.retain(|f| f.from != n && f.to != n);
    }

    fn restart(&mut self, n: usize) {
        self.nodes[n].leases = self.start(self.nodes[n].id, n);
        let node = &mut self.nodes[n];
        (node.runs, node.paused, node.leaving) = (true, false, false);
    }

    fn holders(&self, a: IpAddr) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].has.contains_key(&a)).collect()
    }

    fn holder(&self, a: IpAddr) -> usize {
        let holders = self.holders(a);
        assert_eq!(holders.len(), 1, "{a} at {:?}", self.now);
        holders[0]
    }

    /// How long after `since` an address was taken.
    fn gap(&self, since: Time) -> Duration {
        self.taken.iter().find(|(at, ..)| *at >= since).expect("somebody took it").0.since(since)
    }
}

#[test]
fn each_address_is_held_by_one_member_and_they_are_spread() {
    let mut world = World::new(3, 6, 1);
    world.run(ms(1_000));
    let mut each = [0; 3];
    for a in world.addresses.clone() {
        each[world.holder(a)] += 1;
    }
    assert_eq!(each, [2, 2, 2]);
    let taken = world.taken.len();
    world.run(ms(60_000));
    assert_eq!(world.taken.len(), taken, "nothing moves by itself");
}

#[test]
fn alone_it_holds_all_and_with_nothing_to_hold_it_is_silent() {
    let mut world = World::new(1, 2, 1);
    world.run(ms(500));
    assert_eq!(world.nodes[0].has.len(), 2);
    world.addresses.clear();
    world.nodes[0].leases.look(ms(500));
    world.run(ms(2_000));
    assert!(world.nodes[0].has.is_empty());
    assert_eq!(world.nodes[0].leases.deadline(), None);
    assert!(matches!(world.dropped[0], (_, _, _, GivenUp::Undefined)));
}

#[test]
fn a_killed_holder_is_followed_within_half_a_second() {
    for seed in 0..50 {
        let mut world = World::new(3, 1, seed);
        world.run(ms(2_000 + seed * 7));
        let (before, at) = (world.holder(address(1)), world.now);
        world.kill(before);
        world.run(at + Duration::from_secs(2));
        assert_ne!(world.holder(address(1)), before);
        assert!(world.gap(at) < Duration::from_millis(480), "{:?}", world.gap(at));
        assert!(matches!(world.taken.last(), Some((.., Taken::Lapsed(_)))));
        // Whoever comes back takes nothing away.
        let now = world.holder(address(1));
        world.restart(before);
        world.run(at + Duration::from_secs(60));
        assert_eq!(world.holder(address(1)), now);
        assert_eq!(world.taken.len(), 2);
    }
}

#[test]
fn who_is_cut_off_lets_go_before_another_takes_over() {
    for seed in 0..50 {
        let mut world = World::new(3, 1, seed);
        world.run(ms(2_000 + seed * 11));
        let (before, at) = (world.holder(address(1)), world.now);
        world.side[before] = 1;
        world.run(at + Duration::from_secs(10));
        assert_eq!(
            world.taken.len(),
            2,
            "seed {seed}: {:?} {:?} {:?}",
            at,
            world.dropped,
            world.taken
        );
        let (dropped, n, _, why) = world.dropped[0];
        assert_eq!((n, why), (before, GivenUp::NoMajority));
        assert!(dropped < world.taken[1].0);
        assert!(world.gap(at) < Duration::from_millis(480), "{:?}", world.gap(at));
        world.side[before] = 0;
        let now = world.holder(address(1));
        world.run(at + Duration::from_secs(60));
        assert_eq!((world.holder(address(1)), world.taken.len()), (now, 2), "no flap on return");
    }
}

#[test]
fn a_planned_hand_over_leaves_no_gap() {
    for seed in 0..50 {
        let mut world = World::new(3, 2, seed);
        world.run(ms(2_000 + seed * 13));
        let before = world.holder(address(1));
        let at = world.now;
        world.nodes[before].leaving = true;
        world.nodes[before].leases.look(at);
        world.run(at + Duration::from_millis(100));
        assert!(world.nodes[before].has.is_empty());
        for (dropped, _, a, why) in &world.dropped {
            let taken = world.taken.iter().rfind(|(_, _, of, _)| of == a).unwrap();
            assert!(taken.0 < *dropped, "taken first");
            assert!(matches!((taken.3, why), (Taken::HandedOver(_), GivenUp::HandedOver(_))));
            assert!(taken.0.since(at) < Duration::from_millis(10));
        }
        assert!(!world.dropped.is_empty());
    }
}

#[test]
fn a_member_that_returns_gets_its_share_back_after_a_while() {
    let mut world = World::new(3, 6, 5);
    world.run(ms(1_000));
    world.kill(0);
    world.run(ms(5_000));
    assert_eq!(world.nodes[1].has.len() + world.nodes[2].has.len(), 6);
    world.restart(0);
    world.run(ms(20_000));
    assert!(world.nodes[0].has.is_empty(), "not at once");
    world.run(ms(120_000));
    assert_eq!(world.nodes[0].has.len(), 2);
    for a in world.addresses.clone() {
        world.holder(a);
    }
    let planned = world.dropped.iter().all(|(.., why)| matches!(why, GivenUp::HandedOver(_)));
    assert!(planned, "{:?}", world.dropped);
}

#[test]
fn who_can_not_hold_any_leaves_them_to_others() {
    let mut world = World::new(3, 3, 2);
    world.nodes[0].able = false;
    world.run(ms(60_000));
    assert!(world.nodes[0].has.is_empty());
    assert_eq!(world.nodes[1].has.len() + world.nodes[2].has.len(), 3);
    assert!(world.dropped.is_empty(), "{:?}", world.dropped);
}

#[test]
fn without_a_majority_nobody_holds_anything() {
    let mut world = World::new(4, 2, 3);
    world.run(ms(1_000));
    world.side = vec![0, 0, 1, 1];
    world.run(ms(5_000));
    assert!(world.addresses.iter().all(|a| world.holders(*a).is_empty()));
    world.side = vec![0; 4];
    world.run(ms(8_000));
    for a in world.addresses.clone() {
        world.holder(a);
    }
}

#[test]
fn a_consent_that_comes_late_is_worth_nothing() {
    let ids: Vec<MemberId> = (1..=3).map(|n| SecretKey::from_seed([n; 32]).member()).collect();
    let mut voter = Leases::new(Time(0), ids[0], 0, 1);
    voter.set_voters(Time(0), ids.iter().copied().collect());
    let voters = voter.voter.digest;
    let mut ask = |at: Time, from: MemberId, round: u64, consent| {
        let wants = vec![Want { address: address(1), consent }];
        let mut effects = vec![];
        voter.handle(at, from, Message::Ask { voters, round, wants }, &mut effects);
        match &effects[..] {
            [Effect::Send { message: Message::Answer { granted, .. }, .. }] => !granted.is_empty(),
            other => panic!("{other:?}"),
        }
    };
    assert!(!ask(ms(100), ids[1], 1, None), "it may have granted it before it started");
    assert!(ask(ms(500), ids[1], 2, None));
    assert!(!ask(ms(510), ids[2], 7, None));
    assert!(ask(ms(600), ids[1], 3, None));
    assert!(!ask(ms(610), ids[2], 8, Some((ids[1], 2))), "it has asked again since");
    assert!(ask(ms(620), ids[2], 9, Some((ids[1], 3))));
    assert!(!ask(ms(630), ids[1], 4, None), "it is the other's now");
}

#[test]
fn other_voters_in_mind_are_not_answered_and_new_ones_begin_nothing_at_once() {
    let mut world = World::new(4, 1, 9);
    let all = world.voters[0].clone();
    world.run(ms(1_000));
    let holder = world.holder(address(1));
    let gone = (0..4).find(|n| *n != holder).unwrap();
    let fewer: BTreeSet<MemberId> =
        all.iter().copied().filter(|id| *id != world.nodes[gone].id).collect();
    for n in (0..4).filter(|n| *n != gone) {
        world.nodes[n].leases.set_voters(world.now, fewer.clone());
    }
    world.run(ms(5_000));
    assert_eq!(world.holder(address(1)), holder, "it goes on holding it");
    assert_eq!(world.taken.len(), 1);
}

/// A time of all kinds of faults, then calm.
fn storm(seed: u64, members: u8, addresses: u8) {
    let mut world = World::new(members, addresses, seed);
    let mut rng = SmallRng::seed_from_u64(!seed);
    for _ in 0..40 {
        let span = Duration::from_millis(rng.random_range(20..700));
        world.run(world.now + span);
        let n = rng.random_range(0..world.nodes.len());
        match rng.random_range(0..13) {
            0 => world.loss = [0, 10, 40][rng.random_range(0..3)],
            1 => world.delay_ms_max = [1, 20, 150, 600][rng.random_range(0..4)],
            2 => world.side[n] ^= 1,
            3 => world.side = world.side.iter().map(|_| rng.random_range(0..2)).collect(),
            4 => world.side = vec![0; members.into()],
            5 if world.nodes[n].runs => world.kill(n),
            5 | 6 if !world.nodes[n].runs => world.restart(n),
            7 | 8 => world.nodes[n].paused ^= true,
            9 => world.nodes[n].able ^= true,
            10 => {
                world.nodes[n].leaving ^= true;
                world.nodes[n].leases.look(world.now);
            }
            // The power fails for a moment.
            11 => {
                for n in 0..world.nodes.len() {
                    if rng.random_range(0..2) == 0 && world.nodes[n].has.is_empty() {
                        world.kill(n);
                        world.restart(n);
                    }
                }
            }
            _ => {}
        }
        world.change_voters(&mut rng);
    }
    for n in 0..world.nodes.len() {
        world.learn_voters(n);
    }
    (world.loss, world.delay_ms_max) = (0, 2);
    world.side = vec![0; members.into()];
    for n in 0..world.nodes.len() {
        if !world.nodes[n].runs {
            world.restart(n);
        }
        let node = &mut world.nodes[n];
        (node.paused, node.leaving, node.able) = (false, false, true);
    }
    // What is still on its way under the old delay, two leases, and those that stand last.
    world.run(world.now + Duration::from_secs(3));
    for a in world.addresses.clone() {
        world.holder(a);
    }
    let taken = world.taken.len();
    world.run(world.now + Duration::from_secs(3));
    let planned = world.taken[taken..].iter().all(|(.., why)| matches!(why, Taken::HandedOver(_)));
    assert!(planned, "it stays calm: {:?}", &world.taken[taken..]);
}

#[test]
fn many_storms() {
    for seed in 0..100 {
        storm(seed, 2 + (seed % 5) as u8, 1 + (seed % 4) as u8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_storm(seed: u64, members in 1_u8..8, addresses in 1_u8..6) {
        storm(seed, members, addresses);
    }
}
