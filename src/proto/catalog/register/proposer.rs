//! The proposer: how a change is made, from its first prepare to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::Rng;

use super::{Accepted, Effect, Gated, Message, Phase, Proposal, Register, Transition};
use crate::{
    base::{
        Digest, MemberId, Reason, Refusal, Signature, Time,
        catalog::Catalog,
        limits,
        planted::{self, Bug},
    },
    proto::catalog::{
        certificate::{BallotNumber, CatchUp, Certificate, Committed, verify_accept},
        evidence::Heard,
        lineage,
    },
};

/// How long one attempt may take before it is made anew: several round trips
/// between continents and a slow disk.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// How long a change is tried before it is refused.
const PATIENCE: Duration = Duration::from_secs(6);
/// The first pause between attempts; it doubles, with jitter, so that two
/// proposers stop disturbing each other.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(640);

impl<C: Transition> Register<C> {
    pub(super) fn prepare(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let Some(proposal) = self.queue.front_mut() else {
            self.phase = Phase::Idle;
            return;
        };
        let until = *proposal.until.get_or_insert(now + PATIENCE);
        if now >= until {
            self.give_up(now, effects);
            return;
        }
        proposal.attempts += 1;
        self.round_max += 1;
        let ballot = BallotNumber { round: self.round_max, proposer: self.me };
        let asked = voters_of(&self.record.committed.catalog);
        self.phase = Phase::Preparing {
            ballot,
            until: now + ATTEMPT,
            asked: asked.clone(),
            promises: BTreeMap::new(),
        };
        // Our own promise first, and on disk before anybody hears the number:
        // that is what keeps a restarted proposer from using it again.
        self.on_prepare(self.me, ballot, self.record.committed.catalog.sequence, effects);
        for to in asked {
            self.ask(to, ballot);
        }
    }

    /// Sends the prepare once the last record, which has our own promise, is synced.
    fn ask(&mut self, to: MemberId, ballot: BallotNumber) {
        if to != self.me {
            let committed = self.record.committed.catalog.sequence;
            let message = Message::Prepare { ballot, committed };
            self.gated.push_back((self.token, Gated::Send(to, message)));
        }
    }

    pub(super) fn on_promise(
        &mut self,
        now: Time,
        from: MemberId,
        ballot: BallotNumber,
        accepted: Option<Accepted>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Preparing { ballot: mine, asked, .. } = &self.phase else { return };
        if *mine != ballot || !(asked.contains(&from) || from == self.me) {
            return;
        }
        let cluster = self.record.committed.catalog.cluster;
        let theirs = accepted.as_ref().filter(|_| from != self.me);
        if let Some(Accepted { ballot, catalog }) = theirs.filter(|a| a.catalog.cluster == cluster)
        {
            self.compare(*ballot, catalog, (Heard::Reported, from), effects);
        }
        let me = self.me;
        let Phase::Preparing { promises, .. } = &mut self.phase else { return };
        promises.insert(from, accepted);
        let held = &self.record.committed.catalog;
        let answered: BTreeSet<MemberId> = promises.keys().copied().collect();
        if let Some(proposal) = self.queue.front_mut() {
            let count = held.roster.voters().filter(|m| answered.contains(&m.id)).count();
            proposal.answered_max = proposal.answered_max.max(count);
        }
        let enough =
            planted::is(Bug::PromisesOfFewer) && answered.len() + 1 >= held.roster.majority();
        if !held.roster.is_majority(&answered) && !enough {
            return;
        }
        // At one number all are the same, unless somebody lies: then what this member
        // was asked for itself goes before what others say.
        let highest = promises
            .iter()
            .filter_map(|(voter, accepted)| accepted.as_ref().map(|a| (*voter == me, a)))
            .filter(|(_, a)| a.catalog.sequence > held.sequence && !planted::is(Bug::SteppedOver))
            .max_by_key(|(own, a)| (a.ballot, *own));
        let Some((_, highest)) = highest else {
            self.propose_change(now, ballot, &answered, effects);
            return;
        };
        // Uncommitted for all we know: its rosters must have promised as well,
        // and then it is proposed again, unchanged.
        let catalog = highest.catalog.clone();
        if catalog.rosters().all(|roster| roster.is_majority(&answered)) {
            self.accept(now, ballot, catalog, effects);
        } else {
            self.ask_also(&voters_of(&catalog), ballot, effects);
        }
    }

    fn propose_change(
        &mut self,
        now: Time,
        ballot: BallotNumber,
        answered: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let base = &self.record.committed.catalog;
        let Some(proposal) = self.queue.front_mut() else {
            self.phase = Phase::Idle;
            return;
        };
        match proposal.change.apply(base) {
            Err(refusal) => self.end(now, Err(refusal), effects),
            Ok(None) => {
                let sequence = base.sequence;
                self.end(now, Ok(sequence), effects);
            }
            Ok(Some(mut catalog)) => {
                catalog.cluster = base.cluster;
                catalog.sequence = base.sequence + 1;
                catalog.roster_before =
                    (catalog.roster != base.roster).then(|| base.roster.clone());
                if let Err(refusal) = lineage::has_room_for(&catalog) {
                    self.end(now, Err(refusal), effects);
                    return;
                }
                // Once it is accepted by anybody it has to be finished before
                // anything else. Where the roster that it makes has no majority
                // that is there, that may be never: so it is not begun.
                let after = &catalog.roster;
                if catalog.roster_before.is_some() && !after.is_majority(answered) {
                    let (voters, needed) = (after.voters().count(), after.majority());
                    let count = after.voters().filter(|m| answered.contains(&m.id)).count();
                    proposal.short = Some((needed, voters, count));
                    self.ask_also(&voters_of(&catalog), ballot, effects);
                    return;
                }
                proposal.offered = Some((catalog.sequence, catalog.digest()));
                self.accept(now, ballot, Box::new(catalog), effects);
            }
        }
    }

    /// Asks those of `voters` for their promise that were not asked yet.
    fn ask_also(
        &mut self,
        voters: &BTreeSet<MemberId>,
        ballot: BallotNumber,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Preparing { asked, .. } = &mut self.phase else { return };
        let missing: Vec<MemberId> = voters.difference(asked).copied().collect();
        asked.extend(missing.iter().copied());
        let committed = self.record.committed.catalog.sequence;
        for to in missing.into_iter().filter(|to| *to != self.me) {
            // Our own promise is on disk by now: it is among the answers
            // of the majority or was synced before the first question left.
            let message = Message::Prepare { ballot, committed };
            effects.push(Effect::Send { to, message });
        }
    }

    fn accept(
        &mut self,
        now: Time,
        ballot: BallotNumber,
        catalog: Box<Catalog>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let to = voters_of(&catalog);
        self.phase = Phase::Accepting {
            ballot,
            until: now + ATTEMPT,
            digest: catalog.digest(),
            catalog: catalog.clone(),
            accepts: BTreeMap::new(),
        };
        for voter in to {
            if voter == self.me {
                self.on_accept(self.me, ballot, catalog.clone(), effects);
            } else {
                let mut catalog = catalog.clone();
                if planted::is(Bug::ToldTwice) {
                    let other = limits::REMOVE_AFTER_MIN_S + ballot.round;
                    catalog.conduct.policy.remove_after_s = Some(other);
                }
                effects
                    .push(Effect::Send { to: voter, message: Message::Accept { ballot, catalog } });
            }
        }
    }

    pub(super) fn on_accepted(
        &mut self,
        now: Time,
        from: MemberId,
        ballot: BallotNumber,
        digest: Digest,
        signature: Signature,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Accepting { ballot: mine, digest: ours, catalog, accepts, .. } = &mut self.phase
        else {
            return;
        };
        let signed = |roster| verify_accept(roster, from, ballot, digest, &signature);
        if *mine != ballot || *ours != digest || !catalog.rosters().any(signed) {
            return;
        }
        accepts.insert(from, signature);
        let accepted: BTreeSet<MemberId> = accepts.keys().copied().collect();
        if !catalog.rosters().all(|roster| roster.is_majority(&accepted)) {
            return;
        }
        let certificate = Certificate {
            header: catalog.header(),
            ballot,
            accepts: accepts.iter().map(|(voter, signature)| (*voter, *signature)).collect(),
        };
        let committed = Committed { catalog: (**catalog).clone(), certificate };
        // Everybody enrolled before or after hears of it; who misses it asks.
        let everybody: BTreeSet<MemberId> = committed
            .catalog
            .rosters()
            .flat_map(|roster| roster.members.iter().map(|m| m.id))
            .collect();
        let links = self.record.lineage.after(committed.catalog.sequence.saturating_sub(2));
        let catch_up = CatchUp { committed, links };
        for to in everybody.into_iter().filter(|to| *to != self.me) {
            let message = Message::Commit(Box::new(catch_up.clone()));
            effects.push(Effect::Send { to, message });
        }
        self.learn_from(now, self.me, Some(Box::new(catch_up)), effects);
    }

    pub(super) fn pause(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let Some(proposal) = self.queue.front() else {
            self.phase = Phase::Idle;
            return;
        };
        if proposal.until.is_some_and(|until| now >= until) {
            self.give_up(now, effects);
            return;
        }
        let longest = (PAUSE * 2_u32.pow(proposal.attempts.min(5))).min(PAUSE_MAX);
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.rng.random_range(micros / 4..=micros));
        self.phase = Phase::Pausing { until: now + pause };
    }

    fn give_up(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let roster = &self.record.committed.catalog.roster;
        let (voters, majority) = (roster.voters().count(), roster.majority());
        let Some(proposal) = self.queue.front() else { return };
        let answered = proposal.answered_max;
        let short = proposal.short.filter(|_| proposal.offered.is_none());
        let refusal = if let (Some((needed, voters, answered)), true) =
            (short, answered >= majority)
        {
            Refusal::new(
                Reason::NoMajority,
                "The change was not made.",
                format!(
                    "Of the {voters} voters that there would be after it, {needed} are needed for \
                     everything else, and {answered} answered."
                ),
                "Bring members back, or remove those that are lost first, and try again.",
            )
        } else if answered < majority {
            Refusal::new(
                Reason::NoMajority,
                "The change was not made.",
                format!(
                    "It needs {majority} of the {voters} voters, and {answered} answered; \
                     what the cluster holds stays as it is and goes on being served."
                ),
                "Bring members back, or wait until the network is whole, and try again; if they are \
                 lost for ever, see `althing recover`.",
            )
        } else {
            Refusal::new(
                Reason::Busy,
                "The change was not confirmed.",
                format!(
                    "A majority answered, but within {} seconds none could be won for it: \
                     other changes or a slow network stood in the way. It may still come into force.",
                    PATIENCE.as_secs()
                ),
                "Look at the state of the cluster, and try again if it is not there.",
            )
        };
        self.end(now, Err(refusal), effects);
    }

    pub(super) fn end(
        &mut self,
        now: Time,
        result: Result<u64, Refusal>,
        effects: &mut Vec<Effect<C>>,
    ) {
        if let Some(Proposal { id, change, .. }) = self.queue.pop_front() {
            // Nobody is told of a commit before this member's own disk has it.
            if result.is_ok() && self.token > self.persisted {
                self.gated.push_back((self.token, Gated::Ended { id, change, result }));
            } else {
                effects.push(Effect::Ended { id, change, result });
            }
        }
        self.phase = Phase::Idle;
        if !self.queue.is_empty() {
            self.prepare(now, effects);
        }
    }
}

fn voters_of(catalog: &Catalog) -> BTreeSet<MemberId> {
    catalog.rosters().flat_map(|roster| roster.voters().map(|m| m.id)).collect()
}
