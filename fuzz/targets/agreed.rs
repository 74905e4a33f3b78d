//! What a majority agrees on, as it is said and as it is kept: messages of the register, records,
//! catalogs, changes of them, and ballots.

use althing::{
    base::{Digest, Signature, Time, catalog::Catalog, wire::Kind},
    member::change::Change,
    proto::{
        catalog::{self, Record, Register, Transition},
        vote::{Ballot, SignedBallot},
    },
};

use super::{
    encoded,
    sample::{app, changes, founder, full_catalog, key, open},
    there_and_back,
};

/// Messages of the register, taken by the register of a member that is in
/// the middle of a proposal; at the end it must still answer.
pub(super) fn register(bytes: &[u8]) {
    let Some(message) = there_and_back::<catalog::Message>(Kind::Message, bytes) else { return };
    let mut register: Register<Change> = Register::new(key(1), founder(), 0);
    let mut effects = Vec::new();
    register.propose(Time(0), 1, open(), &mut effects);
    register.persisted(Time(0), 1, &mut effects);
    for from in [key(2).member(), key(1).member()] {
        register.handle(Time(1), from, message.clone(), &mut effects);
        register.persisted(Time(1), u64::MAX, &mut effects);
    }
    while let Some(due) = register.deadline() {
        register.tick(due, &mut effects);
        register.persisted(due, u64::MAX, &mut effects);
    }
    assert!(register.record().lineage.check(register.committed().catalog.cluster).is_ok());
}

pub(super) fn register_seeds() -> Vec<Vec<u8>> {
    let record = founder();
    let ballot = catalog::BallotNumber { round: 2, proposer: key(1).member() };
    let other = catalog::BallotNumber { round: 3, proposer: key(2).member() };
    let catch_up = || {
        Some(Box::new(catalog::CatchUp {
            committed: record.committed.clone(),
            links: record.lineage.after(0),
        }))
    };
    let accepted = catalog::Accepted { ballot, catalog: Box::new(full_catalog()) };
    let messages = [
        catalog::Message::Prepare { ballot: other, committed: 1 },
        catalog::Message::Promise { ballot, accepted: Some(accepted), catch_up: catch_up() },
        catalog::Message::Refused { ballot, promised: other, catch_up: catch_up() },
        catalog::Message::Accept { ballot: other, catalog: Box::new(full_catalog()) },
        catalog::Message::Accepted {
            ballot,
            digest: full_catalog().digest(),
            signature: Signature([7; 64]),
        },
        catalog::Message::Commit(catch_up().expect("made so")),
        catalog::Message::Ask { sequence: 0 },
    ];
    encoded(Kind::Message, &messages)
}

pub(super) fn member_record(bytes: &[u8]) {
    let Some(record) = there_and_back::<Record>(Kind::Record, bytes) else { return };
    let cluster = record.committed.catalog.cluster;
    let _ = record.lineage.check(cluster);
    let _ = record.lineage.after(0);
    catalog_is_usable(&record.committed.catalog);
}

pub(super) fn member_record_seeds() -> Vec<Vec<u8>> {
    let mut busy = founder();
    let ballot = catalog::BallotNumber { round: 3, proposer: key(1).member() };
    busy.accepted = Some(catalog::Accepted { ballot, catalog: Box::new(full_catalog()) });
    encoded(Kind::Record, &[founder(), busy])
}

fn catalog_is_usable(catalog: &Catalog) {
    let _ = (catalog.digest(), catalog.roots());
    for roster in catalog.rosters() {
        let _ = (roster.majority(), roster.digest());
    }
}

pub(super) fn catalog(bytes: &[u8]) {
    if let Some(catalog) = there_and_back::<Catalog>(Kind::Message, bytes) {
        catalog_is_usable(&catalog);
        for change in changes() {
            let _ = change.apply(&catalog);
        }
    }
}

pub(super) fn catalog_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Message, &[founder().committed.catalog, full_catalog()])
}

pub(super) fn change(bytes: &[u8]) {
    let Some(change) = there_and_back::<Change>(Kind::Message, bytes) else { return };
    for base in [founder().committed.catalog, full_catalog()] {
        let Ok(Some(next)) = change.apply(&base) else { continue };
        assert_ne!(next, base, "a change that changes nothing");
        catalog_is_usable(&next);
        for other in changes() {
            let _ = other.apply(&next);
        }
    }
}

pub(super) fn change_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Message, &changes())
}

pub(super) fn sample_ballot() -> Ballot {
    Ballot {
        member: key(1).member(),
        sequence: 1,
        stamp: 4,
        digest: Digest::of_bytes(b"roots"),
        differing: vec![],
        lacking: vec![app()],
        whole: vec![Digest::of_bytes(b"root")],
        staged_bytes: 5,
    }
}

pub(super) fn ballot(bytes: &[u8]) {
    there_and_back::<Ballot>(Kind::Message, bytes);
    if let Some(signed) = there_and_back::<SignedBallot>(Kind::Message, bytes) {
        let _ = signed.open(&founder().committed.catalog);
    }
}

pub(super) fn ballot_seeds() -> Vec<Vec<u8>> {
    let mut seeds = encoded(Kind::Message, &[sample_ballot()]);
    seeds.extend(encoded(Kind::Message, &[SignedBallot::new(&key(1), &sample_ballot())]));
    seeds
}
