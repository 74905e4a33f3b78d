//! The acceptor: what this member promises and accepts.
//!
//! **Invariant:** a promise or an accept leaves only after the record that holds it is on disk.

use super::{Accepted, Effect, Gated, Message, Register, Transition, differ};
use crate::{
    base::{
        MemberId,
        catalog::Catalog,
        limits,
        planted::{self, Bug},
    },
    proto::catalog::{
        certificate::{BallotNumber, CatchUp, sign_accept},
        evidence::Heard,
    },
};

impl<C: Transition> Register<C> {
    pub(super) fn on_prepare(
        &mut self,
        from: MemberId,
        ballot: BallotNumber,
        committed: u64,
        effects: &mut Vec<Effect<C>>,
    ) {
        // A number belongs to its proposer: nobody may use another's.
        if ballot.proposer != from || !self.is_near(ballot.round) {
            return;
        }
        if committed > self.record.committed.catalog.sequence {
            self.ask_for_newer(from, effects);
        }
        let catch_up = self.newer_than(committed);
        let again = ballot == self.record.promised && planted::is(Bug::BallotNumberReused);
        if ballot <= self.record.promised && !again {
            let promised = self.record.promised;
            self.say(from, Message::Refused { ballot, promised, catch_up }, effects);
            return;
        }
        self.record.promised = ballot;
        self.round_max = self.round_max.max(ballot.round);
        let accepted = self.record.accepted.clone().filter(|a| a.catalog.sequence > committed);
        self.persist_then(
            Gated::Send(from, Message::Promise { ballot, accepted, catch_up }),
            effects,
        );
    }

    pub(super) fn on_accept(
        &mut self,
        from: MemberId,
        ballot: BallotNumber,
        catalog: Box<Catalog>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let held = &self.record.committed.catalog;
        let foreign = ballot.proposer != from || catalog.cluster != held.cluster;
        if foreign || !self.is_near(ballot.round) {
            return;
        }
        // Where another catalog was committed at this number, it is only told of: that one is
        // behind us, and what is accepted after it can't hurt it.
        let contrary = self.is_contrary(ballot, &catalog);
        self.compare(ballot, &catalog, (Heard::Proposed, from), effects);
        let held = &self.record.committed.catalog;
        // Whoever accepts a catalog must be able to prove the one before it:
        // if the proposer dies, it is the accepters that complete it.
        if catalog.sequence > held.sequence + 1 {
            self.ask_for_newer(from, effects);
            return;
        }
        // Nothing at or below the committed sequence is accepted any more,
        // except the committed catalog itself, which does no harm.
        let behind = catalog.sequence < held.sequence
            || (catalog.sequence == held.sequence && catalog.digest() != held.digest());
        let below = ballot < self.record.promised && !planted::is(Bug::AcceptedBelowPromise);
        if below || behind || contrary {
            let promised = self.record.promised;
            let catch_up = self.newer_than(catalog.sequence.saturating_sub(1));
            self.say(from, Message::Refused { ballot, promised, catch_up }, effects);
            return;
        }
        let digest = catalog.digest();
        self.record.promised = ballot;
        self.round_max = self.round_max.max(ballot.round);
        self.record.accepted = Some(Accepted { ballot, catalog });
        let signature = sign_accept(&self.key, ballot, digest);
        self.persist_then(
            Gated::Send(from, Message::Accepted { ballot, digest, signature }),
            effects,
        );
    }

    /// Whether this member has accepted another catalog than `catalog` at that very number. What
    /// it has then stays: the proposer may count on it.
    fn is_contrary(&self, ballot: BallotNumber, catalog: &Catalog) -> bool {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        accepted.is_some_and(|a| differ(&a.catalog, catalog))
    }

    /// Whether a round is one that an honest proposer could have come to.
    pub(super) fn is_near(&self, round: u64) -> bool {
        round < self.round_max.saturating_add(limits::ROUND_LEAP_MAX)
    }

    fn ask_for_newer(&self, from: MemberId, effects: &mut Vec<Effect<C>>) {
        if from != self.me {
            let sequence = self.record.committed.catalog.sequence;
            effects.push(Effect::Send { to: from, message: Message::Ask { sequence } });
        }
    }

    /// A refusal needs no disk: it promises nothing.
    fn say(&mut self, to: MemberId, message: Message, effects: &mut Vec<Effect<C>>) {
        if to == self.me {
            // Our own acceptor refuses only a number that we have outgrown
            // already; the attempt's timer takes it from there.
            return;
        }
        effects.push(Effect::Send { to, message });
    }

    fn newer_than(&self, sequence: u64) -> Option<Box<CatchUp>> {
        (self.record.committed.catalog.sequence > sequence)
            .then(|| Box::new(self.catch_up(sequence)))
    }
}
