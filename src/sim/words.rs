//! The checks on what members say to each other about the catalog, and on
//! what their disks have accepted: Paxos' own invariants (Lamport, "Paxos Made
//! Simple", 2001), counted here once more from the outside, so that neither a
//! mistake in the core's counting nor one in its order goes unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{Invariant, Situation, Violation, check::fail, server::Server};
use crate::{
    base::{Digest, MemberId, catalog::Roster},
    proto::catalog::{Accepted, BallotNumber, Message as Word},
};

/// What a ballot number stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    proposer: MemberId,
    digest: Digest,
    sequence: u64,
}

/// What was said, promised and accepted so far.
#[derive(Default)]
pub(super) struct Words {
    values: BTreeMap<BallotNumber, Value>,
    /// Who proposed a catalog first, and when, in microseconds.
    authors: BTreeMap<Digest, (MemberId, u64)>,
    /// The highest that each member gave its word for.
    promised: BTreeMap<MemberId, BallotNumber>,
    /// Whose disk has accepted what.
    accepts: BTreeMap<(BallotNumber, Digest), BTreeSet<MemberId>>,
    /// What a majority of every roster it needs has accepted, by sequence, and
    /// the ballot at which it first had.
    chosen: BTreeMap<u64, (BallotNumber, Digest)>,
    /// Who has asked voters to accept the catalog of this sequence, and not
    /// told anybody yet that it is committed.
    proposing: BTreeMap<MemberId, u64>,
}

impl Words {
    /// A member says `word`. Is that what it may say? Returns what was met.
    pub fn said(
        &mut self,
        now: u64,
        from: &Server,
        word: &Word,
    ) -> Result<Option<Situation>, Violation> {
        let who = &from.name;
        let on_disk = from.disk.record.as_ref().map(|r| r.promised);
        let early = |what: &str| {
            fail(Invariant::DurableFirst, format!("{who} sent {what} before its disk had it"))
        };
        match word {
            Word::Prepare { ballot, .. } if on_disk < Some(*ballot) => early("a prepare"),
            Word::Promise { ballot, .. } => {
                if on_disk < Some(*ballot) {
                    return early("a promise");
                }
                self.keeps_its_word(from, *ballot, false)?;
                Ok(None)
            }
            Word::Accepted { ballot, digest, .. } => {
                if from.disk.accepts.get(ballot) != Some(digest) {
                    return early("an accept");
                }
                self.keeps_its_word(from, *ballot, true)?;
                let restarted = from.promised_before == Some(*ballot);
                Ok(restarted.then_some(Situation::RestartBetweenPromiseAndAccept))
            }
            Word::Accept { ballot, catalog } => {
                if on_disk < Some(*ballot) {
                    return early("a proposal");
                }
                self.proposing.insert(from.id, catalog.sequence);
                let value = Value {
                    proposer: from.id,
                    digest: catalog.digest(),
                    sequence: catalog.sequence,
                };
                self.proposed(now, from, *ballot, value)
            }
            Word::Commit(catch_up) => {
                let sequence = catch_up.committed.catalog.sequence;
                if self.proposing.get(&from.id).is_some_and(|s| *s <= sequence) {
                    self.proposing.remove(&from.id);
                }
                Ok(None)
            }
            Word::Prepare { .. } | Word::Refused { .. } | Word::Ask { .. } => Ok(None),
        }
    }

    /// `from` promises `ballot`, or accepts at it.
    fn keeps_its_word(
        &mut self,
        from: &Server,
        ballot: BallotNumber,
        accepts: bool,
    ) -> Result<(), Violation> {
        let who = &from.name;
        if from.asks.get(&ballot) == Some(&false) {
            let detail = format!("{who} gave its word for {} of a removed member", ballot.round);
            return fail(Invariant::RemovedIsOut, detail);
        }
        let known = self.promised.get(&from.id).copied();
        let broken = if accepts { known > Some(ballot) } else { known >= Some(ballot) };
        if broken {
            let what = if accepts { "accepts at" } else { "promises" };
            let known = known.map_or(0, |b| b.round);
            let detail = format!("{who} {what} {} and had promised {known}", ballot.round);
            return fail(Invariant::PromiseKept, detail);
        }
        self.promised.insert(from.id, ballot);
        Ok(())
    }

    fn proposed(
        &mut self,
        now: u64,
        from: &Server,
        ballot: BallotNumber,
        value: Value,
    ) -> Result<Option<Situation>, Violation> {
        let who = &from.name;
        let known = *self.values.entry(ballot).or_insert(value);
        if known != value || ballot.proposer != from.id {
            return fail(Invariant::OneValue, format!("ballot {} of {who}", ballot.round));
        }
        for (sequence, (at, digest)) in self.chosen.range(value.sequence..) {
            if *at < ballot && (*sequence, *digest) != (value.sequence, value.digest) {
                let detail = format!(
                    "{who} proposes catalog {} at {}, and {sequence} was chosen at {}",
                    value.sequence, ballot.round, at.round
                );
                return fail(Invariant::ChosenStays, detail);
            }
        }
        let (author, _) = *self.authors.entry(value.digest).or_insert((from.id, now));
        Ok((author != from.id).then_some(Situation::FinishedForAnother))
    }

    /// When the catalog with `digest` was first proposed, in microseconds.
    pub fn proposed_at(&self, digest: Digest) -> Option<u64> {
        self.authors.get(&digest).map(|(_, at)| *at)
    }

    /// The disk of `by` has accepted this.
    pub fn accepted(
        &mut self,
        now: u64,
        by: MemberId,
        accepted: &Accepted,
    ) -> Result<(), Violation> {
        let Accepted { ballot, catalog } = accepted;
        let (digest, sequence) = (catalog.digest(), catalog.sequence);
        // Its proposer's own disk may be the only one that ever has it.
        self.authors.entry(digest).or_insert((ballot.proposer, now));
        let voters = self.accepts.entry((*ballot, digest)).or_default();
        if !voters.insert(by) {
            return Ok(());
        }
        let rosters = std::iter::once(&catalog.roster).chain(&catalog.roster_before);
        if !rosters.into_iter().all(|roster| holds_majority(roster, voters)) {
            return Ok(());
        }
        let (at, known) = *self.chosen.entry(sequence).or_insert((*ballot, digest));
        if known != digest {
            let detail = format!("two catalogs {sequence} were accepted by a majority");
            return fail(Invariant::OneCatalog, detail);
        }
        let first = at.min(*ballot);
        self.chosen.insert(sequence, (first, digest));
        let mut above = self.values.range((Bound::Excluded(first), Bound::Unbounded));
        let other = above
            .find(|(_, v)| v.sequence < sequence || (v.sequence == sequence && v.digest != digest));
        match other {
            Some((ballot, _)) => {
                let detail =
                    format!("{sequence} is chosen at {}, below {}", at.round, ballot.round);
                fail(Invariant::ChosenStays, detail)
            }
            None => Ok(()),
        }
    }

    /// Whether the disks of a majority of `roster` have accepted this.
    pub fn is_accepted(&self, ballot: BallotNumber, digest: Digest, roster: &Roster) -> bool {
        let voters = self.accepts.get(&(ballot, digest));
        voters.is_some_and(|voters| holds_majority(roster, voters))
    }

    /// The process of `member` dies: was it between asking voters to accept and
    /// the commit? `newest` is what anybody knows to be committed.
    pub fn died(&mut self, member: MemberId, newest: u64) -> bool {
        self.proposing.remove(&member).is_some_and(|sequence| sequence > newest)
    }
}

/// Whether `members` are a strict majority of the voters of `roster`: counted
/// here once more and not by the core's own function.
pub(super) fn holds_majority(roster: &Roster, members: &BTreeSet<MemberId>) -> bool {
    let voters = roster.members.iter().filter(|m| m.voter);
    let (mut all, mut yes) = (0, 0);
    for voter in voters {
        all += 1;
        yes += usize::from(members.contains(&voter.id));
    }
    yes * 2 > all
}
