//! Between the suspicion and the verdict: what keeps one sick member from
//! burying healthy ones, and what makes several healthy ones quick.
//!
//! In foca the prober alone passes the verdict, and nobody can refute it. So
//! here a suspect is asked in person several times, with the suspicion in the
//! question; who was heard lately is not condemned; who hears nobody condemns
//! nobody, but only presumes; who is unwell waits longer.
//!
//! In a cluster of up to a hundred or so, everybody who learns of a suspicion asks
//! the suspect itself. Who gets no answer says so to all ([`Aside::Doubt`]), and
//! each such word that is somebody's own shortens everybody's patience, the first
//! ones most (Lifeguard's dynamic suspicion). A suspicion that nobody
//! confirms lasts three times as long.

use std::{collections::BTreeSet, time::Duration};

use foca::{Incarnation, Member, Message};

use super::{Due, Effect, Membership, NEVER, packet::Aside, run::Run, settings};
use crate::base::{MemberId, Time};

/// A member that did not answer somebody.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    pub(super) run: Run,
    pub(super) incarnation: Incarnation,
    pub(super) since: Time,
    /// The patience with it once enough others confirm it.
    fuse: Duration,
    /// Whether it failed to answer this member's own question.
    pub(super) own: bool,
    /// Whether this member began it, and not another.
    first: bool,
    /// Whether its host said that nobody listens there.
    refused: bool,
    /// The others that it failed to answer.
    confirmed: BTreeSet<u32>,
    told: bool,
    /// Whether nobody at all was heard for as long as it lasts at least: then its time begins
    /// anew, once, when somebody is.
    alone: bool,
    /// The time of the next review: timers set before are void.
    review_at: Time,
}

impl Membership {
    /// foca's probe failed: it asks for a verdict later, and the driver takes
    /// that over.
    pub(super) fn suspect_by_probe(
        &mut self,
        run: Run,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        if self.now.since(self.heard_any) >= settings::UNWELL_SILENCE {
            self.worsen();
        }
        self.suspect(run, incarnation, settings::fuse(self.table.size()), false, effects);
    }

    fn worsen(&mut self) {
        self.unwell = (self.unwell + 1).min(settings::UNWELL_MAX);
    }

    /// The transport lost a member: suspect it now and not at the next probe.
    pub(super) fn suspect_by_hint(
        &mut self,
        member: MemberId,
        refused: bool,
        effects: &mut Vec<Effect>,
    ) {
        // Of those that start together some are dialled before they listen, and found live by
        // others before it is told that nobody listened.
        if self.is_young() {
            return;
        }
        let fuse = if refused { settings::REFUSED_FUSE } else { settings::HINT_FUSE };
        if let Some(slot) = self.table.slot(member) {
            self.suspect_unasked(slot, fuse, refused, effects);
        }
    }

    /// Asks the members that were quiet for long, and suspects those that
    /// don't answer.
    pub(super) fn make_rounds(&mut self, effects: &mut Vec<Effect>) {
        let Some(quiet_max) = settings::quiet_max(self.table.size()) else {
            self.schedule(self.now + settings::ROUNDS_PERIOD_LARGE, Due::Rounds);
            return;
        };
        self.schedule(self.now + settings::ROUNDS_PERIOD, Due::Rounds);
        let is_quiet = |slot: &u32| {
            let peer = self.table.peer(*slot);
            self.now.since(peer.heard.max(peer.live_from)) >= quiet_max
                && !self.suspicions.contains_key(slot)
        };
        let quiet: Vec<u32> = self.table.live().filter(is_quiet).collect();
        for slot in quiet {
            let peer = self.table.peer_mut(slot);
            if u32::from(peer.asked) >= settings::ROUNDS_ASKS {
                self.suspect_unasked(slot, settings::fuse(self.table.size()), false, effects);
                continue;
            }
            peer.asked += 1;
            self.send_own(self.table.run(slot), Message::Ping(0), Vec::new(), effects);
        }
    }

    /// Suspects a live member without a failed probe of foca's.
    fn suspect_unasked(
        &mut self,
        slot: u32,
        fuse: Duration,
        refused: bool,
        effects: &mut Vec<Effect>,
    ) {
        let peer = self.table.peer(slot);
        let (run, incarnation) = (self.table.run(slot), peer.incarnation);
        if !peer.is_seen() || peer.verdict == foca::State::Down {
            return;
        }
        self.tell_foca(Member::new(run, incarnation, foca::State::Suspect));
        self.suspect(run, incarnation, fuse, refused, effects);
    }

    /// This member has a reason of its own.
    fn suspect(
        &mut self,
        run: Run,
        incarnation: Incarnation,
        fuse: Duration,
        refused: bool,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(open) = self.suspicions.get_mut(&run.slot)
            && open.run == run
            && open.incarnation == incarnation
        {
            open.fuse = open.fuse.min(fuse);
            open.refused |= refused;
            open.own = true;
        } else {
            self.open(run, incarnation, fuse, refused, true);
            self.poke(run, incarnation, effects);
        }
        self.confirm(run.slot, effects);
        self.review_soon(run.slot);
    }

    fn open(
        &mut self,
        run: Run,
        incarnation: Incarnation,
        fuse: Duration,
        refused: bool,
        own: bool,
    ) {
        let suspicion = Suspicion {
            run,
            incarnation,
            since: self.now,
            fuse,
            own,
            first: own,
            refused,
            confirmed: BTreeSet::new(),
            told: false,
            alone: false,
            review_at: NEVER,
        };
        self.suspicions.insert(run.slot, suspicion);
    }

    /// Somebody else suspects this run: see for ourselves. In a large cluster a few of us do.
    pub(super) fn learn_of_suspicion(
        &mut self,
        run: Run,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let open = self.suspicions.get(&run.slot);
        if open.is_some_and(|s| s.run == run && s.incarnation == incarnation) {
            return;
        }
        let size = self.table.size();
        // Who was met is asked over a connection that stands; anybody else with a handshake.
        if self.is_young() && !self.has_met(run.slot) {
            return;
        }
        if size > settings::CROWD && self.random.below(size as u64) >= settings::CROWD as u64 / 2 {
            return;
        }
        self.open(run, incarnation, settings::fuse(size), false, false);
        self.poke(run, incarnation, effects);
        self.review_soon(run.slot);
        // Not all say at the same moment that they got no answer: once a few have, the others
        // need not.
        let spread = self.random.duration_below(settings::confirm_within(size));
        if let Some(open) = self.suspicions.get_mut(&run.slot) {
            open.review_at = open.review_at + spread;
            let at = open.review_at;
            self.schedule(at, Due::Suspicion(run.slot));
        }
    }

    /// Whether this member is one of many that have just started. A first question is a
    /// handshake, and where all ask all, answers are late: that says nothing of
    /// who owes them. If all suspected all, they would have even more to do. It is one until
    /// nearly all have answered it, but not for ever: its links may be cut.
    pub(super) fn is_young(&self) -> bool {
        let (age, size) = (self.now.since(self.born), self.table.size());
        if age < settings::youth(size) || age >= settings::YOUTH_MAX || size <= settings::FEW {
            return age < settings::youth(size);
        }
        // Whoever answered once and does so no more is no reason: youth would begin again.
        let is_owing = |slot: &u32| {
            let peer = self.table.peer(*slot);
            !peer.reached && peer.answered == super::NEVER
        };
        self.table.live().filter(is_owing).count() * settings::YOUTH_UNREACHED
            > self.table.live().count()
    }

    /// Sees to it that every suspect is asked until it answers or is judged: who began the
    /// suspicion may be gone, and no probe that succeeds ends one.
    pub(super) fn look_after_suspects(&mut self, effects: &mut Vec<Effect>) {
        let young = self.is_young();
        let is_left_alone = |slot: &u32| {
            self.table.peer(*slot).verdict == foca::State::Suspect
                && !self.suspicions.contains_key(slot)
                && (!young || self.has_met(*slot))
        };
        // Who is presumed dead is one too, though it is not shown as live: where the way to it
        // stays cut, nothing else would tell that others hear it.
        let presumed = self.presumed.iter().copied();
        let left_alone: Vec<u32> =
            self.table.live().chain(presumed).filter(is_left_alone).collect();
        for slot in left_alone {
            let (run, incarnation) = (self.table.run(slot), self.table.peer(slot).incarnation);
            self.open(run, incarnation, settings::fuse(self.table.size()), false, false);
            self.poke(run, incarnation, effects);
            self.review_soon(slot);
        }
    }

    /// Tells all that the suspect does not answer this member, unless enough said so.
    fn confirm(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let wanted = settings::confirmations(self.table.size());
        let me_alone = self.now.since(self.heard_any) >= settings::SILENCE;
        let young = self.is_young();
        let Some(open) = self.suspicions.get_mut(&slot) else { return };
        if open.told || me_alone || young || open.confirmed.len() > wanted || wanted == 0 {
            return;
        }
        open.told = true;
        let (run, incarnation) = (open.run, open.incarnation);
        let suspect = self.table.id(slot);
        let doubt = Aside::Doubt { suspect, generation: run.generation, incarnation };
        let Ok(bytes) = doubt.encode() else { return };
        let others: Vec<u32> = self.table.live().filter(|other| *other != slot).collect();
        for other in others {
            self.send(other, bytes.clone(), effects);
        }
    }

    /// What another member's driver says beside SWIM.
    pub(super) fn on_aside(&mut self, from: u32, aside: &Aside) {
        let Aside::Doubt { suspect, generation, incarnation } = *aside;
        let Some(slot) = self.table.slot(suspect).filter(|slot| *slot != from) else { return };
        let peer = self.table.peer(slot);
        if peer.generation != generation
            || peer.verdict == foca::State::Down
            || incarnation < peer.incarnation
            || !self.table.peer(from).state.is_live()
        {
            return;
        }
        if self.suspicions.get(&slot).is_none_or(|open| open.incarnation != incarnation) {
            self.doubted.push((from, slot, incarnation));
            self.tell_foca(Member::new(self.table.run(slot), incarnation, foca::State::Suspect));
            return;
        }
        self.heed_doubt(from, slot, incarnation);
    }

    /// Counts a confirmation.
    pub(super) fn heed_doubt(&mut self, from: u32, slot: u32, incarnation: Incarnation) {
        if let Some(open) = self.suspicions.get_mut(&slot)
            && open.incarnation == incarnation
            && open.confirmed.insert(from)
        {
            self.review_soon(slot);
        }
    }

    /// How long to wait for a sign of life.
    fn patience(&self, open: &Suspicion) -> Duration {
        // Who only heard of it leaves the verdict to those who found out.
        let late = if open.first { Duration::ZERO } else { settings::SECOND_HAND };
        let fuse = if open.refused { settings::REFUSED_FUSE } else { open.fuse };
        let wanted = settings::confirmations(self.table.size());
        if open.refused {
            return fuse + late;
        }
        settings::stretched(fuse, wanted, open.confirmed.len()) + late
    }

    /// At the next poke, or when the verdict is due.
    fn review_soon(&mut self, slot: u32) {
        let Some(open) = self.suspicions.get(&slot) else { return };
        let due = open.since + self.patience(open) * (1 + self.unwell);
        // Who has less time is asked as often in it.
        let pause = if open.refused { settings::REFUSED_FUSE / 2 } else { settings::POKE_PERIOD };
        let poke = self.now + pause;
        let mut at = if due > self.now { due.min(poke) } else { poke };
        // A poke that was about to come is not put off by news.
        if open.review_at > self.now {
            at = at.min(open.review_at);
        }
        if let Some(open) = self.suspicions.get_mut(&slot)
            && open.review_at != at
        {
            open.review_at = at;
            self.schedule(at, Due::Suspicion(slot));
        }
    }

    /// Asks a suspect for a sign of life, and tells it that it is one, so that
    /// the answer refutes the suspicion.
    pub(super) fn poke(&mut self, dst: Run, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        let news = Member::new(dst, incarnation, foca::State::Suspect);
        self.send_own(dst, Message::Ping(0), vec![news], effects);
    }

    pub(super) fn review_suspicion(&mut self, slot: u32, at: Time, effects: &mut Vec<Effect>) {
        let Some(open) = self.suspicions.get(&slot).filter(|s| s.review_at == at).cloned() else {
            return;
        };
        let peer = *self.table.peer(slot);
        let standing = (peer.generation, peer.incarnation, peer.verdict);
        if standing != (open.run.generation, open.incarnation, foca::State::Suspect) {
            self.suspicions.remove(&slot);
            // Renewed or decided by others; or refuted, and then the fault may
            // be that this member hears badly. Answers to its probes undo it.
            if open.first
                && peer.generation == open.run.generation
                && peer.verdict != foca::State::Down
            {
                self.worsen();
            }
            return;
        }
        if !open.own
            && peer.heard <= open.since
            && self.now.since(open.since) >= settings::POKE_PERIOD
        {
            if let Some(open) = self.suspicions.get_mut(&slot) {
                open.own = true;
            }
            self.confirm(slot, effects);
        }
        let silent =
            self.now.since(self.heard_any) >= settings::SILENCE || self.heard_any <= open.since;
        if silent && self.now.since(open.since) >= open.fuse {
            if self.presumed.insert(slot) {
                self.outbox.touched.push(slot);
            }
            if let Some(suspicion) = self.suspicions.get_mut(&slot) {
                suspicion.alone = true;
            }
        } else if !silent {
            // Somebody is heard again: from here on the suspect has its full time.
            let now = self.now;
            if let Some(suspicion) = self.suspicions.get_mut(&slot)
                && std::mem::take(&mut suspicion.alone)
            {
                suspicion.since = now;
            }
        }
        if silent || self.is_reprieved(slot) {
            self.poke(open.run, open.incarnation, effects);
            self.review_soon(slot);
            return;
        }
        self.suspicions.remove(&slot);
        self.bury(open.run, open.incarnation, effects);
    }

    /// Whether it is too early for a verdict.
    fn is_reprieved(&self, slot: u32) -> bool {
        let Some(open) = self.suspicions.get(&slot) else { return true };
        let age = self.now.since(open.since);
        let heard = self.table.peer(slot).heard;
        let heard_lately = heard > open.since && self.now.since(heard) < open.fuse;
        self.now < self.verdicts_from
            || self.is_young()
            || !open.own
            || age < self.patience(open) * (1 + self.unwell)
            || (heard_lately && age < settings::ONE_WAY_MAX)
    }
}
