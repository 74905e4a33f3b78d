//! The register alone under loss, duplication, reordering and crashes that
//! forget what was not synced. The simulator runs the whole member; this
//! finds a mistake in the register in milliseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::base::{
    Digest, MemberId, MemberName, Refusal, SecretKey, Time,
    catalog::{Catalog, Enrolled, Roster},
};

mod lying;

#[derive(Clone, Debug)]
enum Edit {
    /// Appends nothing, but makes the catalog another one.
    Touch(u64),
    Vote(MemberId, bool),
}

impl Transition for Edit {
    fn apply(&self, base: &Catalog) -> Result<Option<Catalog>, Refusal> {
        let mut catalog = base.clone();
        match self {
            Self::Touch(mark) => {
                let outcome = crate::base::catalog::WindowOutcome {
                    window: *mark,
                    request: base.sequence,
                    app: None,
                    version: None,
                    coordinator: base.roster.members[0].id,
                    takeovers: 0,
                    why: String::new(),
                };
                catalog.outcomes = vec![outcome];
            }
            Self::Vote(member, voter) => {
                let entry = catalog.roster.members.iter_mut().find(|m| m.id == *member);
                let entry = entry.expect("the tests enrol everybody");
                if entry.voter == *voter {
                    return Ok(None);
                }
                entry.voter = *voter;
                if catalog.roster.voters().count() == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(Some(catalog))
    }
}

fn enrolled(key: &SecretKey, voter: bool) -> Enrolled {
    Enrolled {
        id: key.member(),
        key: key.public(),
        name: MemberName::parse(&format!("m{}", key.seed()[0])).unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter,
        standby: false,
    }
}

/// Everything outside the registers: disks, the network, what was seen.
struct World {
    rng: SmallRng,
    now: Time,
    keys: Vec<SecretKey>,
    registers: Vec<Register<Edit>>,
    disks: Vec<Record>,
    syncing: Vec<(usize, u64, Record)>,
    wires: Vec<(MemberId, MemberId, Message)>,
    committed: BTreeMap<u64, Digest>,
    ended: Vec<(usize, Result<u64, Refusal>)>,
    reached: BTreeSet<&'static str>,
}

impl World {
    fn new(seed: u64, members: u8) -> Self {
        let keys: Vec<SecretKey> = (1..=members).map(|n| SecretKey::from_seed([n; 32])).collect();
        let founder = Record::found([9; 32], &keys[0], enrolled(&keys[0], true));
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            now: Time(0),
            disks: vec![],
            registers: vec![],
            syncing: vec![],
            wires: vec![],
            committed: BTreeMap::from([(1, founder.committed.catalog.digest())]),
            ended: vec![],
            reached: BTreeSet::new(),
            keys,
        };
        // Grown one by one, as a real cluster is: without faults.
        let lineage = founder.lineage.clone();
        let mut base = founder.committed.clone();
        base.catalog.roster =
            Roster { members: world.keys.iter().map(|k| enrolled(k, false)).collect() };
        base.catalog.roster.members[0].voter = true;
        base.catalog.roster_before = Some(founder.committed.catalog.roster.clone());
        base.catalog.sequence = 2;
        let ballot = BallotNumber { round: 2, proposer: world.keys[0].member() };
        let digest = base.catalog.digest();
        let signature = super::certificate::sign_accept(&world.keys[0], ballot, digest);
        base.certificate = Certificate {
            header: base.catalog.header(),
            ballot,
            accepts: vec![(world.keys[0].member(), signature)],
        };
        world.committed.insert(2, digest);
        let catch_up = CatchUp { committed: base.clone(), links: vec![] };
        let lineage = lineage.follow(base.catalog.cluster, &catch_up).unwrap();
        for n in 0..world.keys.len() {
            let mut record = Record::join(world.keys[n].member(), base.clone(), lineage.clone());
            if n == 0 {
                record.promised = ballot;
            }
            world.disks.push(record.clone());
            world.registers.push(Register::new(world.keys[n].clone(), record, seed + n as u64));
        }
        world
    }

    fn index(&self, id: MemberId) -> usize {
        self.keys.iter().position(|k| k.member() == id).unwrap()
    }

    fn act(
        &mut self,
        n: usize,
        run: impl FnOnce(&mut Register<Edit>, Time, &mut Vec<Effect<Edit>>),
    ) {
        let mut effects = vec![];
        run(&mut self.registers[n], self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Persist { token, record } => self.syncing.push((n, token, *record)),
                Effect::Send { to, message } => {
                    assert_ne!(to, self.keys[n].member(), "a message to itself");
                    self.wires.push((self.keys[n].member(), to, message));
                }
                Effect::Committed(committed) => self.saw(&committed),
                Effect::Ended { result, .. } => self.ended.push((n, result)),
                Effect::Lie(evidence) => panic!("nobody lies: {evidence:?}"),
            }
        }
    }

    fn saw(&mut self, committed: &Arc<Committed>) {
        let digest = committed.catalog.digest();
        let first = *self.committed.entry(committed.catalog.sequence).or_insert(digest);
        assert_eq!(first, digest, "two catalogs for sequence {}", committed.catalog.sequence);
        if committed.catalog.roster_before.is_some() {
            self.reached.insert("roster changed");
        }
    }

    fn crash(&mut self, n: usize) {
        if self.syncing.iter().any(|(m, ..)| *m == n) {
            self.reached.insert("crash lost an unsynced record");
        }
        self.syncing.retain(|(m, ..)| *m != n);
        let before = self.disks[n].committed.catalog.sequence;
        let seed = self.rng.random();
        self.registers[n] = Register::new(self.keys[n].clone(), self.disks[n].clone(), seed);
        assert!(self.registers[n].committed().catalog.sequence >= before);
    }

    fn step(&mut self, faults: bool) {
        self.now = self.now + Duration::from_millis(self.rng.random_range(0..4));
        if faults && self.rng.random_bool(0.004) {
            let n = self.rng.random_range(0..self.keys.len());
            self.crash(n);
        }
        if !self.syncing.is_empty() && self.rng.random_bool(0.6) {
            // Syncs end in the order in which they were asked for.
            let (n, token, record) = self.syncing.remove(0);
            let sequence = record.committed.catalog.sequence;
            assert!(sequence >= self.disks[n].committed.catalog.sequence, "a step back");
            assert!(record.promised >= self.disks[n].promised, "a promise taken back");
            self.disks[n] = record;
            self.act(n, |r, now, effects| r.persisted(now, token, effects));
        }
        if !self.wires.is_empty() {
            let pick = self.rng.random_range(0..self.wires.len());
            let (from, to, message) = self.wires.swap_remove(pick);
            if faults && self.rng.random_bool(0.15) {
                return;
            }
            if faults && self.rng.random_bool(0.1) {
                self.wires.push((from, to, message.clone()));
            }
            let n = self.index(to);
            self.act(n, |r, now, effects| r.handle(now, from, message, effects));
        }
        for n in 0..self.keys.len() {
            self.act(n, |r, now, effects| r.tick(now, effects));
        }
    }
}

fn run(seed: u64) -> (BTreeMap<u64, Digest>, BTreeSet<&'static str>) {
    let members = 3 + (seed % 3) as u8;
    let mut world = World::new(seed, members);
    let mut id = 0;
    for step in 0..6_000_u64 {
        if world.rng.random_bool(0.01) {
            let n = world.rng.random_range(0..usize::from(members));
            let edit = if world.rng.random_bool(0.4) {
                let who = world.rng.random_range(0..usize::from(members));
                Edit::Vote(world.keys[who].member(), world.rng.random_bool(0.75))
            } else {
                Edit::Touch(step)
            };
            id += 1;
            world.act(n, |r, now, effects| r.propose(now, id, edit, effects));
        }
        world.step(true);
    }
    // Faults end: a change must get through and reach everybody.
    let before = world.committed.len();
    world.act(0, |r, now, effects| r.propose(now, u64::MAX, Edit::Touch(u64::MAX), effects));
    for _ in 0..12_000 {
        world.step(false);
    }
    assert!(world.committed.len() > before, "nothing was committed after the faults ended");
    let newest = *world.committed.keys().next_back().unwrap();
    for n in 0..usize::from(members) {
        if world.registers[n].committed().catalog.sequence < newest {
            let to = world.keys[n].member();
            let sequence = world.registers[n].committed().catalog.sequence;
            for m in 0..usize::from(members) {
                if m != n {
                    world.wires.push((to, world.keys[m].member(), Message::Ask { sequence }));
                }
            }
        }
    }
    for _ in 0..2_000 {
        world.step(false);
    }
    for n in 0..usize::from(members) {
        assert_eq!(world.registers[n].committed().catalog.sequence, newest, "one is left behind");
    }
    let record = world.registers[0].record();
    assert_eq!(record.lineage.check(record.committed.catalog.cluster), Ok(()));
    (world.committed, world.reached)
}

#[test]
fn one_catalog_for_each_sequence_whatever_the_network_and_the_disks_do() {
    let mut reached = BTreeSet::new();
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let (_, situations) = outcome.unwrap_or_else(|_| panic!("seed {seed} fails"));
        reached.extend(situations);
    }
    let wanted = ["roster changed", "crash lost an unsynced record"];
    assert_eq!(reached, BTreeSet::from(wanted), "a situation was never reached");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7).0, run(7).0);
}

#[test]
fn a_forged_certificate_is_not_believed() {
    let world = World::new(1, 3);
    let record = world.registers[0].record().clone();
    let cluster = record.committed.catalog.cluster;
    let honest = CatchUp { committed: record.committed.clone(), links: record.lineage.after(1) };
    let founder = Record::found([9; 32], &world.keys[0], enrolled(&world.keys[0], true));
    let genesis = founder.lineage;
    assert!(genesis.follow(cluster, &honest).is_ok());

    let mut unsigned = honest.clone();
    unsigned.committed.certificate.accepts.clear();
    unsigned.links.clear();
    assert_eq!(genesis.follow(cluster, &unsigned), Err(CertificateError::Majority));

    let mut other = honest.clone();
    other.committed.catalog.conduct.policy.failover = crate::base::catalog::Failover::Manual;
    assert_eq!(genesis.follow(cluster, &other), Err(CertificateError::Content));

    let mut usurper = honest;
    let key = SecretKey::from_seed([77; 32]);
    usurper.committed.catalog.roster = Roster { members: vec![enrolled(&key, true)] };
    usurper.committed.certificate.header = usurper.committed.catalog.header();
    let ballot = usurper.committed.certificate.ballot;
    let digest = usurper.committed.catalog.digest();
    let signature = super::certificate::sign_accept(&key, ballot, digest);
    usurper.committed.certificate.accepts = vec![(key.member(), signature)];
    usurper.links.clear();
    assert_eq!(genesis.follow(cluster, &usurper), Err(CertificateError::Majority));
}

/// A cluster whose roster changes `changes` times more, each signed by all.
fn grown(changes: u64) -> Record {
    let mut record = World::new(1, 3).disks[0].clone();
    let keys: Vec<SecretKey> = (1..=3).map(|n| SecretKey::from_seed([n; 32])).collect();
    for n in 0..changes {
        let mut catalog = record.committed.catalog.clone();
        catalog.roster_before = Some(catalog.roster.clone());
        catalog.sequence += 1;
        // In turn: the order, an entry, one more entry, one less.
        let members = &mut catalog.roster.members;
        match n % 4 {
            0 => members.rotate_left(1),
            1 => members[1].standby = !members[1].standby,
            2 => members.push(enrolled(&SecretKey::from_seed([200; 32]), false)),
            _ => members.truncate(3),
        }
        let ballot = BallotNumber { round: 3 + n, proposer: keys[0].member() };
        let digest = catalog.digest();
        let sign =
            |key: &SecretKey| (key.member(), super::certificate::sign_accept(key, ballot, digest));
        let accepts = keys.iter().map(sign).collect();
        let certificate = Certificate { header: catalog.header(), ballot, accepts };
        let committed = Committed { catalog, certificate };
        let catch_up = CatchUp { committed: committed.clone(), links: vec![] };
        record.lineage = record.lineage.follow(committed.catalog.cluster, &catch_up).unwrap();
        record.committed = committed;
    }
    record
}

#[test]
fn a_chain_of_differences_leads_to_the_roster_and_is_trusted_from_any_of_its_links() {
    let (early, late) = (grown(3), grown(20));
    let cluster = late.committed.catalog.cluster;
    assert_eq!(late.lineage.check(cluster), Ok(()));
    assert_eq!(late.lineage.roster(), &late.committed.catalog.roster);
    assert!(late.lineage.has(early.lineage.anchor()));
    assert!(!early.lineage.has(late.lineage.anchor()));
    let stranger = Anchor { roster: Digest::of_bytes(b"x"), ..early.lineage.anchor() };
    assert!(!late.lineage.has(stranger));
    // Who was away catches up by the links alone, and not without them.
    let links = late.lineage.after(early.committed.catalog.sequence);
    assert_eq!(links.len(), 17);
    let mut catch_up = CatchUp { committed: late.committed.clone(), links };
    assert_eq!(early.lineage.follow(cluster, &catch_up).unwrap().roster(), late.lineage.roster());
    catch_up.links.remove(5);
    assert_eq!(early.lineage.follow(cluster, &catch_up), Err(CertificateError::Roster));
}

#[test]
fn a_lineage_stays_within_its_bound_whatever_happens_to_the_roster() {
    use crate::base::{limits, wire};
    let record = grown(3_000);
    let size = wire::encode(wire::Kind::Record, &record.lineage).len();
    assert!(size < limits::LINEAGE_BYTES_MAX * 5 / 4, "{size} bytes");
    assert!(size > limits::LINEAGE_BYTES_MAX / 2, "much is kept: {size} bytes");
    assert_eq!(record.lineage.check(record.committed.catalog.cluster), Ok(()));
    assert_eq!(record.lineage.sequence(), record.committed.catalog.sequence);
    assert!(!record.lineage.has(grown(3).lineage.anchor()), "too old by now");
}

#[test]
fn a_change_that_does_not_fit_its_roster_is_refused() {
    let (before, after) = (grown(2), grown(3));
    let (before, after) = (before.committed.catalog.roster, after.committed.catalog.roster);
    let change = RosterChange::between(&before, &after);
    assert_eq!(change.apply(&before), Some(after));
    assert_eq!(change.apply(&Roster::default()), None);
}
