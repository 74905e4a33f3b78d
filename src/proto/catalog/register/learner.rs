//! The learner: what this member takes for committed, and what it finds of a proposer that has told
//! two things.

use std::sync::Arc;

use super::{Effect, Gated, Phase, Register, Transition, differ};
use crate::{
    base::{
        Digest, MemberId, Time,
        catalog::Catalog,
        planted::{self, Bug},
    },
    proto::catalog::{
        certificate::{BallotNumber, CatchUp, sign_accept},
        evidence::{Evidence, Heard, Statement},
    },
};

impl<C: Transition> Register<C> {
    /// Takes in a catalog that somebody says is committed, if it is newer and
    /// the proof holds; drops it without a word otherwise.
    pub(super) fn learn_from(
        &mut self,
        now: Time,
        from: MemberId,
        catch_up: Option<Box<CatchUp>>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Some(catch_up) = catch_up else { return };
        let held = &self.record.committed.catalog;
        let certificate = &catch_up.committed.certificate;
        let ballot = certificate.ballot;
        let contrary = self.known_otherwise(ballot, certificate.header.digest());
        let back = planted::is(Bug::WentBack)
            && catch_up.committed.catalog.sequence < held.sequence
            && catch_up.committed.catalog.sequence >= self.record.lineage.sequence();
        if catch_up.committed.catalog.sequence <= held.sequence && !back {
            // Looked at for this alone, and that is never so where nobody lies.
            if let Some(one) = contrary
                && certificate.header.cluster == held.cluster
                && certificate.is_signed_by_majority(&held.roster)
            {
                self.tell_of_lie(ballot, one, Statement::committed(certificate, from), effects);
            }
            return;
        }
        let Ok(lineage) = self.record.lineage.follow(held.cluster, &catch_up) else { return };
        let electorate = held.roster.digest();
        if let Some(one) = contrary {
            // A majority has signed it: it holds, whatever its proposer told us.
            self.tell_of_lie(ballot, one, Statement::committed(certificate, from), effects);
        }
        self.record.lineage = lineage;
        self.record.committed = catch_up.committed;
        let sequence = self.record.committed.catalog.sequence;
        // What was accepted at or below it has been decided: nobody asks for it again.
        if self.record.accepted.as_ref().is_some_and(|a| a.catalog.sequence <= sequence) {
            self.record.accepted = None;
        }
        let announced = Arc::new(self.record.committed.clone());
        self.persist_then(Gated::Announce(announced), effects);
        let changed = self.record.committed.catalog.roster.digest() != electorate;
        self.after_learning(now, changed, effects);
    }

    // What a proposer told twice.

    /// What this member knows that `ballot` stands for, where that is not the catalog with
    /// `digest`: what it accepted itself, or what is committed.
    fn known_otherwise(&self, ballot: BallotNumber, digest: Digest) -> Option<Statement> {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        let accepted = accepted.map(|a| a.catalog.header());
        if let Some(header) = accepted.filter(|header| header.digest() != digest) {
            let accepts = vec![(self.me, sign_accept(&self.key, ballot, header.digest()))];
            let (heard, from) = (Heard::Proposed, ballot.proposer);
            return Some(Statement { header, heard, from, accepts });
        }
        let certificate = &self.record.committed.certificate;
        let other = certificate.ballot == ballot && certificate.header.digest() != digest;
        other.then(|| Statement::committed(certificate, self.me))
    }

    /// Tells of it where `catalog`, which is said to be that of `ballot`, is not what this member
    /// knows, or what a voter has said before.
    pub(super) fn compare(
        &mut self,
        ballot: BallotNumber,
        catalog: &Catalog,
        (heard, from): (Heard, MemberId),
        effects: &mut Vec<Effect<C>>,
    ) {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        let known = accepted.is_some() || self.record.committed.certificate.ballot == ballot;
        if accepted.is_some_and(|a| *a.catalog == *catalog) {
            return;
        }
        let own = if known { self.known_otherwise(ballot, catalog.digest()) } else { None };
        if let Some(one) = own.or_else(|| self.reported_otherwise(ballot, catalog, from)) {
            let other = Statement::unsigned(catalog, heard, from);
            self.tell_of_lie(ballot, one, other, effects);
        }
    }

    /// What another voter than `from` has said that it accepted at `ballot`, in answer to our
    /// prepare, where that is not `catalog`.
    fn reported_otherwise(
        &self,
        ballot: BallotNumber,
        catalog: &Catalog,
        from: MemberId,
    ) -> Option<Statement> {
        let Phase::Preparing { promises, .. } = &self.phase else { return None };
        let mut others = promises
            .iter()
            .filter(|(voter, _)| **voter != from && **voter != self.me)
            .filter_map(|(voter, accepted)| Some((*voter, accepted.as_ref()?)))
            .filter(|(_, accepted)| accepted.ballot == ballot);
        let (voter, accepted) = others.next().filter(|(_, a)| differ(&a.catalog, catalog))?;
        Some(Statement::unsigned(&accepted.catalog, Heard::Reported, voter))
    }

    fn tell_of_lie(
        &mut self,
        ballot: BallotNumber,
        one: Statement,
        other: Statement,
        effects: &mut Vec<Effect<C>>,
    ) {
        let evidence = Box::new(Evidence { ballot, told_by: self.me, one, other });
        // It may show this member's own accept, which nobody sees before it is on disk.
        if self.token > self.persisted {
            self.gated.push_back((self.token, Gated::Lie(evidence)));
        } else {
            effects.push(Effect::Lie(evidence));
        }
    }

    /// What our own proposal makes of a newer catalog.
    fn after_learning(&mut self, now: Time, roster_changed: bool, effects: &mut Vec<Effect<C>>) {
        let sequence = self.record.committed.catalog.sequence;
        let digest = self.record.committed.catalog.digest();
        let offered = self.queue.front().and_then(|proposal| proposal.offered);
        if offered == Some((sequence, digest)) {
            self.end(now, Ok(sequence), effects);
            return;
        }
        let overtaken = match &self.phase {
            // What we finished was somebody else's, or we were overtaken.
            Phase::Accepting { catalog, .. } => catalog.sequence <= sequence,
            // Others must be asked now than those that we asked.
            Phase::Preparing { .. } => roster_changed,
            Phase::Pausing { .. } | Phase::Idle => false,
        };
        if overtaken {
            self.prepare(now, effects);
        }
    }
}
