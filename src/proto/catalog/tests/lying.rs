//! A proposer that tells two things in one ballot, in each way in which that can show.

use super::*;
use crate::{base::ClusterId, proto::catalog::certificate::sign_accept};

/// Members with a vote each, at sequence 3.
fn voters(members: u8) -> World {
    let mut world = World::new(1, members);
    let mut catalog = world.disks[0].committed.catalog.clone();
    catalog.roster_before = Some(catalog.roster.clone());
    catalog.sequence += 1;
    for member in &mut catalog.roster.members {
        member.voter = true;
    }
    let ballot = BallotNumber { round: 3, proposer: world.keys[0].member() };
    let everybody: Vec<usize> = (0..usize::from(members)).collect();
    let catch_up = committed(&world, ballot, &catalog, &everybody);
    let lineage = world.disks[0].lineage.follow(catalog.cluster, &catch_up).unwrap();
    for (n, key) in world.keys.iter().enumerate() {
        let mut record = Record::join(key.member(), catch_up.committed.clone(), lineage.clone());
        if n == 0 {
            record.promised = ballot;
        }
        world.registers[n] = Register::new(key.clone(), record.clone(), 0);
        world.disks[n] = record;
    }
    world
}

/// `catalog` with the signed accepts of `signers`.
fn committed(world: &World, ballot: BallotNumber, catalog: &Catalog, signers: &[usize]) -> CatchUp {
    let digest = catalog.digest();
    let sign = |n: &usize| {
        let key = &world.keys[*n];
        (key.member(), sign_accept(key, ballot, digest))
    };
    let accepts = signers.iter().map(sign).collect();
    let certificate = Certificate { header: catalog.header(), ballot, accepts };
    CatchUp { committed: Committed { catalog: catalog.clone(), certificate }, links: vec![] }
}

/// The next catalog; another one for each mark.
fn next(world: &World, mark: u64) -> Box<Catalog> {
    let base = &world.disks[0].committed.catalog;
    let mut catalog = Edit::Touch(mark).apply(base).unwrap().unwrap();
    catalog.sequence = base.sequence + 1;
    catalog.roster_before = None;
    Box::new(catalog)
}

fn ballot(world: &World, proposer: usize) -> BallotNumber {
    BallotNumber { round: 5, proposer: world.keys[proposer].member() }
}

/// All that comes of it with a quick disk.
fn act(
    world: &mut World,
    n: usize,
    run: impl FnOnce(&mut Register<Edit>, &mut Vec<Effect<Edit>>),
) -> Vec<Effect<Edit>> {
    let (register, mut effects, mut at) = (&mut world.registers[n], vec![], 0);
    run(register, &mut effects);
    while at < effects.len() {
        if let Effect::Persist { token, .. } = effects[at] {
            register.persisted(Time(0), token, &mut effects);
        }
        at += 1;
    }
    effects
}

fn tell(world: &mut World, n: usize, from: usize, message: Message) -> Vec<Effect<Edit>> {
    let from = world.keys[from].member();
    act(world, n, |register, effects| register.handle(Time(0), from, message, effects))
}

fn lies(effects: &[Effect<Edit>]) -> Vec<Evidence> {
    let lie = |effect: &Effect<Edit>| match effect {
        Effect::Lie(evidence) => Some((**evidence).clone()),
        _ => None,
    };
    effects.iter().filter_map(lie).collect()
}

fn verify(world: &World, evidence: &Evidence) -> Result<Proof, EvidenceError> {
    let catalog = &world.disks[0].committed.catalog;
    verify_evidence(evidence, catalog.cluster, &catalog.roster)
}

fn is_acknowledged(effects: &[Effect<Edit>]) -> bool {
    let is = |e: &Effect<Edit>| matches!(e, Effect::Send { message: Message::Accepted { .. }, .. });
    effects.iter().any(is)
}

fn is_refused(effects: &[Effect<Edit>]) -> bool {
    let is = |e: &Effect<Edit>| matches!(e, Effect::Send { message: Message::Refused { .. }, .. });
    effects.iter().any(is)
}

#[test]
fn another_catalog_at_the_same_ballot_is_not_accepted_and_the_first_one_still_is() {
    let mut world = voters(3);
    let (ballot, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    for time in 0..2 {
        let catalog = one.clone();
        let effects = tell(&mut world, 2, 1, Message::Accept { ballot, catalog });
        assert!(is_acknowledged(&effects) && lies(&effects).is_empty(), "{time}");
    }
    // Also after a restart: what was accepted is on disk.
    for time in 0..2 {
        let catalog = other.clone();
        let effects = tell(&mut world, 2, 1, Message::Accept { ballot, catalog });
        assert!(is_refused(&effects) && !is_acknowledged(&effects), "{time}");
        let accepted = Some(Accepted { ballot, catalog: one.clone() });
        assert_eq!(world.registers[2].record().accepted, accepted, "{time}");
        let [lie] = lies(&effects).try_into().expect("it is told once");
        let (me, liar) = (world.keys[2].member(), world.keys[1].member());
        assert_eq!((lie.ballot, lie.proposer(), lie.told_by), (ballot, liar, me));
        assert_eq!((lie.one.header.sequence, lie.one.digest()), (4, one.digest()));
        assert_eq!((lie.other.header.sequence, lie.other.digest()), (4, other.digest()));
        for statement in [&lie.one, &lie.other] {
            assert_eq!((statement.heard, statement.from), (Heard::Proposed, liar));
        }
        assert!(lie.rests_on().is_empty());
        // This member signed the first; of the second there is its word.
        assert_eq!(verify(&world, &lie), Ok(Proof::Word));
        let record = world.registers[2].record().clone();
        world.registers[2] = Register::new(world.keys[2].clone(), record, 0);
    }
    let effects = tell(&mut world, 2, 1, Message::Accept { ballot, catalog: one });
    assert!(is_acknowledged(&effects) && lies(&effects).is_empty(), "the first one again");
}

#[test]
fn a_higher_ballot_may_bring_another_catalog() {
    let mut world = voters(3);
    let (low, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    tell(&mut world, 2, 1, Message::Accept { ballot: low, catalog: one.clone() });
    let high = BallotNumber { round: low.round + 1, ..low };
    let effects = tell(&mut world, 2, 1, Message::Accept { ballot: high, catalog: other });
    assert!(is_acknowledged(&effects) && lies(&effects).is_empty());
    let effects = tell(&mut world, 2, 1, Message::Accept { ballot: low, catalog: one });
    assert!(is_refused(&effects) && lies(&effects).is_empty(), "it is late, and no lie");
}

#[test]
fn whoever_accepted_one_learns_of_the_other_by_its_commit_and_takes_it() {
    let mut world = voters(3);
    let (ballot, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    tell(&mut world, 2, 1, Message::Accept { ballot, catalog: one.clone() });
    let commit = committed(&world, ballot, &other, &[0, 1]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(commit.clone())));
    let [lie] = lies(&effects).try_into().expect("it is told once");
    assert_eq!((lie.one.heard, lie.other.heard), (Heard::Proposed, Heard::Committed));
    assert_eq!((lie.one.digest(), lie.other.digest()), (one.digest(), other.digest()));
    assert_eq!((lie.other.from, lie.rests_on().len()), (world.keys[0].member(), 0));
    let record = world.registers[2].record();
    assert_eq!((&record.committed.catalog, &record.accepted), (&*other, &None));
    // Told once more, it is nothing new, and what it asks for now is known to be the other one.
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(commit)));
    assert!(lies(&effects).is_empty());
    let effects = tell(&mut world, 2, 1, Message::Accept { ballot, catalog: one });
    let [again] = lies(&effects).try_into().expect("it is told once");
    assert!(is_refused(&effects));
    assert_eq!((again.one.heard, again.other.heard), (Heard::Committed, Heard::Proposed));
    assert_eq!(again.one.from, world.keys[2].member());

    // The voters' signatures prove it to anybody who knows the keys.
    assert_eq!(verify(&world, &lie), Ok(Proof::Voters));
    let (liar, key) = (world.keys[1].member(), &world.keys[1]);
    assert_eq!(lie.other.accepts[0].0, liar, "the proposer stands first");
    let mut twice = lie.clone();
    twice.one.accepts.push((liar, sign_accept(key, ballot, lie.one.digest())));
    assert_eq!(verify(&world, &twice), Ok(Proof::Signer(liar)));
    let mut forged = lie.clone();
    forged.other.accepts[0].1 = sign_accept(key, ballot, lie.one.digest());
    assert_eq!(verify(&world, &forged), Err(EvidenceError::Signature(liar)));
    let stranger = SecretKey::from_seed([77; 32]);
    let mut foreign = lie.clone();
    let signature = sign_accept(&stranger, ballot, lie.other.digest());
    foreign.other.accepts = vec![(stranger.member(), signature)];
    assert_eq!(verify(&world, &foreign), Err(EvidenceError::Signature(stranger.member())));
    let mut same = lie.clone();
    same.other = lie.one.clone();
    assert_eq!(verify(&world, &same), Err(EvidenceError::Same));
    // A recovered cluster has the same keys, and numbers its ballots anew.
    let recovered = ClusterId(Digest::of_bytes(b"recovered"));
    let roster = &world.disks[0].committed.catalog.roster;
    assert_eq!(verify_evidence(&lie, recovered, roster), Err(EvidenceError::Cluster));
    let mut mixed = lie;
    mixed.one.header.cluster = recovered;
    assert_eq!(verify(&world, &mixed), Err(EvidenceError::Cluster));
}

#[test]
fn two_commits_at_one_ballot_are_told_of_where_a_majority_signed_both() {
    let mut world = voters(3);
    let (ballot, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    let commit = committed(&world, ballot, &one, &[0, 1]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(commit)));
    assert!(lies(&effects).is_empty());
    // Anybody can write down a commit that few have signed.
    let unsigned = committed(&world, ballot, &other, &[0]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(unsigned)));
    assert!(lies(&effects).is_empty());
    // As in a cluster of the same members that was recovered.
    let mut foreign = other.clone();
    foreign.cluster = ClusterId(Digest::of_bytes(b"recovered"));
    let foreign = committed(&world, ballot, &foreign, &[0, 1]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(foreign)));
    assert!(lies(&effects).is_empty());
    let signed = committed(&world, ballot, &other, &[0, 1]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(signed)));
    let [lie] = lies(&effects).try_into().expect("it is told once");
    assert_eq!((lie.one.heard, lie.other.heard), (Heard::Committed, Heard::Committed));
    let liar = world.keys[1].member();
    assert_eq!(verify(&world, &lie), Ok(Proof::Signer(liar)));
    assert_eq!(world.registers[2].record().committed.catalog, *one, "what it holds stays");
}

/// An acceptor forgets what it accepted once that is decided.
#[test]
fn an_honest_voter_that_signed_both_is_not_said_to_lie() {
    let mut world = voters(3);
    let (ballot, one) = (ballot(&world, 1), next(&world, 1));
    let effects = tell(&mut world, 2, 1, Message::Accept { ballot, catalog: one.clone() });
    assert!(is_acknowledged(&effects));
    let commit = committed(&world, ballot, &one, &[0, 2]);
    let effects = tell(&mut world, 2, 0, Message::Commit(Box::new(commit)));
    assert!(lies(&effects).is_empty());
    let mut other = Edit::Touch(2).apply(&one).unwrap().unwrap();
    other.sequence = one.sequence + 1;
    let effects =
        tell(&mut world, 2, 1, Message::Accept { ballot, catalog: Box::new(other.clone()) });
    let [lie] = lies(&effects).try_into().expect("it is told once");
    assert!(is_acknowledged(&effects), "it signs the second as well");
    let (liar, voter) = (world.keys[1].member(), world.keys[2].member());
    assert_eq!(lie.proposer(), liar);
    assert!(lie.one.accepts.iter().any(|(id, _)| *id == voter), "and has signed the first");
    let mut signed = lie;
    signed.other.accepts = vec![(voter, sign_accept(&world.keys[2], ballot, other.digest()))];
    assert_eq!(verify(&world, &signed), Ok(Proof::Voters));
    // The proposer itself never has two.
    for (statement, digest) in
        [(&mut signed.one, one.digest()), (&mut signed.other, other.digest())]
    {
        statement.accepts.push((liar, sign_accept(&world.keys[1], ballot, digest)));
    }
    assert_eq!(verify(&world, &signed), Ok(Proof::Signer(liar)));
}

/// The register proposes, and hears its own promise: at which number it asks the others.
fn propose(world: &mut World, n: usize) -> BallotNumber {
    let effects = act(world, n, |r, effects| r.propose(Time(0), 1, Edit::Touch(9), effects));
    let asked = |effect: &Effect<Edit>| match effect {
        Effect::Send { message: Message::Prepare { ballot, .. }, .. } => Some(*ballot),
        _ => None,
    };
    effects.iter().find_map(asked).expect("the others are asked")
}

fn promise(ballot: BallotNumber, at: BallotNumber, catalog: &Catalog) -> Message {
    let accepted = Some(Accepted { ballot: at, catalog: Box::new(catalog.clone()) });
    Message::Promise { ballot, accepted, catch_up: None }
}

#[test]
fn what_a_voter_says_that_it_accepted_is_held_against_what_is_known() {
    let mut world = voters(3);
    let (at, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    tell(&mut world, 0, 1, Message::Accept { ballot: at, catalog: one.clone() });
    let mine = propose(&mut world, 0);
    let mut foreign = other.clone();
    foreign.cluster.0.0[0] ^= 1;
    let late = BallotNumber { round: mine.round - 1, ..mine };
    let effects = tell(&mut world, 0, 2, promise(late, at, &other));
    assert!(lies(&effects).is_empty(), "nobody asked at that number");
    let effects = tell(&mut world, 0, 2, promise(mine, at, &other));
    let [lie] = lies(&effects).try_into().expect("it is told once");
    let voter = world.keys[2].member();
    assert_eq!((lie.proposer(), lie.one.heard), (world.keys[1].member(), Heard::Proposed));
    assert_eq!((lie.other.heard, lie.other.from), (Heard::Reported, voter));
    assert_eq!(lie.rests_on(), [voter], "it may be the voter who lies");
    // What this member was asked for itself is finished, and not what another one says.
    let proposed = |effect: &Effect<Edit>| match effect {
        Effect::Send { message: Message::Accept { catalog, .. }, .. } => Some(catalog.digest()),
        _ => None,
    };
    let digests: BTreeSet<Digest> = effects.iter().filter_map(proposed).collect();
    assert_eq!(digests, BTreeSet::from([one.digest()]));

    let mut world = voters(3);
    tell(&mut world, 0, 1, Message::Accept { ballot: at, catalog: one });
    let mine = propose(&mut world, 0);
    let effects = tell(&mut world, 0, 2, promise(mine, at, &foreign));
    assert!(lies(&effects).is_empty(), "it is of another cluster");
}

#[test]
fn what_two_voters_say_is_held_against_each_other() {
    let mut world = voters(5);
    let (at, one, other) = (ballot(&world, 4), next(&world, 1), next(&world, 2));
    let mine = propose(&mut world, 0);
    let effects = tell(&mut world, 0, 1, promise(mine, at, &one));
    assert!(lies(&effects).is_empty());
    let effects = tell(&mut world, 0, 1, promise(mine, at, &one));
    assert!(lies(&effects).is_empty(), "it says so twice");
    let effects = tell(&mut world, 0, 2, promise(mine, at, &other));
    let [lie] = lies(&effects).try_into().expect("it is told once");
    let said = [world.keys[1].member(), world.keys[2].member()];
    assert_eq!((lie.proposer(), lie.rests_on()), (world.keys[4].member(), said.to_vec()));
    assert_eq!(verify(&world, &lie), Ok(Proof::Word));
}

#[test]
fn voters_that_say_the_same_accuse_nobody() {
    let mut world = voters(5);
    let (at, one) = (ballot(&world, 4), next(&world, 1));
    let mine = propose(&mut world, 0);
    for voter in [1, 2, 3] {
        let effects = tell(&mut world, 0, voter, promise(mine, at, &one));
        assert!(lies(&effects).is_empty());
    }
}

#[test]
fn evidence_with_an_accept_of_ones_own_waits_for_the_disk() {
    let mut world = voters(3);
    let (ballot, one, other) = (ballot(&world, 1), next(&world, 1), next(&world, 2));
    let (from, register) = (world.keys[1].member(), &mut world.registers[2]);
    let mut effects = vec![];
    register.handle(Time(0), from, Message::Accept { ballot, catalog: one }, &mut effects);
    register.handle(Time(0), from, Message::Accept { ballot, catalog: other }, &mut effects);
    assert!(lies(&effects).is_empty(), "nobody sees an accept before it is on disk");
    let token = effects.iter().find_map(|effect| match effect {
        Effect::Persist { token, .. } => Some(*token),
        _ => None,
    });
    register.persisted(Time(0), token.expect("it was accepted"), &mut effects);
    let [lie] = lies(&effects).try_into().expect("it is told once");
    assert_eq!(lie.one.accepts.len(), 1);
    assert_eq!(verify(&world, &lie), Ok(Proof::Word));
}
