//! Between the suspicion and the verdict: what keeps one sick member from
//! burying healthy ones.
//!
//! In foca the prober alone passes the verdict, and nobody can refute it. So
//! here a suspect is asked in person several times, with the suspicion in the
//! question; who was heard lately is not condemned; who hears nobody condemns
//! nobody, but only presumes; who is unwell waits longer; and somebody else's
//! obituary for a member that was just heard is checked first.

use std::time::Duration;

use foca::{Incarnation, Member, Message};

use super::{
    Due, Effect, LEFT, Membership,
    packet::{Identity, Packet},
    settings,
};
use crate::base::{MemberId, Time};

/// A member that did not answer.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    identity: Identity,
    incarnation: Incarnation,
    since: Time,
    fuse: Duration,
    /// The time of the next review: timers set before are void.
    review_at: Time,
}

impl Suspicion {
    /// Which run of a member did not answer.
    pub(super) fn accused(&self) -> (Identity, Incarnation) {
        (self.identity, self.incarnation)
    }
}

/// Somebody else's verdict that we have reason to doubt.
#[derive(Clone, Debug)]
pub(super) struct Dispute {
    identity: Identity,
    incarnation: Incarnation,
    since: Time,
}

impl Membership {
    /// foca's probe failed: it asks for a verdict later, and the driver takes
    /// that over.
    pub(super) fn suspect_by_probe(
        &mut self,
        identity: Identity,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        if self.now.since(self.heard_any) >= settings::UNWELL_SILENCE {
            self.worsen();
        }
        self.suspect(identity, incarnation, settings::fuse(self.size()), effects);
    }

    fn worsen(&mut self) {
        self.unwell = (self.unwell + 1).min(settings::UNWELL_MAX);
    }

    /// The transport lost a member: suspect it now and not at the next probe.
    pub(super) fn suspect_by_hint(&mut self, id: MemberId, effects: &mut Vec<Effect>) {
        self.suspect_unasked(id, settings::HINT_FUSE, effects);
    }

    /// Asks the members that were quiet for long, and suspects those that
    /// don't answer.
    pub(super) fn make_rounds(&mut self, effects: &mut Vec<Effect>) {
        let Some(quiet_max) = settings::quiet_max(self.size()) else {
            self.schedule(self.now + settings::ROUNDS_PERIOD_LARGE, Due::Rounds);
            return;
        };
        self.schedule(self.now + settings::ROUNDS_PERIOD, Due::Rounds);
        let quiet: Vec<(MemberId, Identity, u32)> = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                let heard = peer.heard.map_or(peer.live_from, |at| at.max(peer.live_from));
                self.now.since(heard) >= quiet_max
                    && self.is_live(**id)
                    && !self.suspicions.contains_key(*id)
            })
            .filter_map(|(id, peer)| Some((*id, peer.identity?, peer.asked)))
            .collect();
        for (id, identity, asked) in quiet {
            if asked >= settings::ROUNDS_ASKS {
                self.suspect_unasked(id, settings::fuse(self.size()), effects);
                continue;
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.asked += 1;
            }
            self.send_own(identity, Message::Ping(0), Vec::new(), effects);
        }
    }

    /// Suspects a live member without a failed probe of foca's.
    fn suspect_unasked(&mut self, id: MemberId, fuse: Duration, effects: &mut Vec<Effect>) {
        let Some(identity) = self.peers.get(&id).and_then(|peer| peer.identity) else { return };
        let Some((incarnation, state)) = self.in_foca(identity) else { return };
        if state == foca::State::Down {
            return;
        }
        let suspect = Member::new(identity, incarnation, foca::State::Suspect);
        let _ = self.foca.apply_many(std::iter::once(suspect), true, &mut self.outbox);
        self.outbox.changed = true;
        self.suspect(identity, incarnation, fuse, effects);
    }

    pub(super) fn suspect(
        &mut self,
        identity: Identity,
        incarnation: Incarnation,
        fuse: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(open) = self.suspicions.get_mut(&identity.member)
            && open.identity == identity
            && open.incarnation == incarnation
        {
            open.fuse = open.fuse.min(fuse);
            return;
        }
        let since = self.now;
        let suspicion = Suspicion { identity, incarnation, since, fuse, review_at: since };
        self.suspicions.insert(identity.member, suspicion);
        self.review_soon(identity.member);
        self.poke(identity, incarnation, effects);
    }

    /// At the next poke, or when the verdict is due.
    fn review_soon(&mut self, id: MemberId) {
        if let Some(suspicion) = self.suspicions.get_mut(&id) {
            let due = suspicion.since + suspicion.fuse * (1 + self.unwell);
            let poke = self.now + settings::POKE_PERIOD;
            let at = if due > self.now { due.min(poke) } else { poke };
            suspicion.review_at = at;
            self.schedule(at, Due::Suspicion(id));
        }
    }

    /// Asks a suspect for a sign of life, and tells it that it is one, so that
    /// the answer refutes the suspicion.
    fn poke(&mut self, dst: Identity, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        let news = Member::new(dst, incarnation, foca::State::Suspect);
        self.send_own(dst, Message::Ping(0), vec![news], effects);
    }

    pub(super) fn review_suspicion(&mut self, id: MemberId, at: Time, effects: &mut Vec<Effect>) {
        let Some(open) = self.suspicions.get(&id).filter(|s| s.review_at == at).cloned() else {
            return;
        };
        let standing = self.in_foca(open.identity);
        if standing != Some((open.incarnation, foca::State::Suspect)) {
            self.suspicions.remove(&id);
            // Renewed or decided by others; or refuted, and then the fault may
            // be that this member hears badly. Answers to its probes undo it.
            if standing.is_some_and(|(_, state)| state != foca::State::Down) {
                self.worsen();
            }
            return;
        }
        let silent =
            self.now.since(self.heard_any) >= settings::SILENCE || self.heard_any <= open.since;
        if silent && self.now.since(open.since) >= open.fuse {
            if self.presumed.insert(id) {
                self.outbox.changed = true;
            }
        } else if !silent && self.presumed.contains(&id) {
            // Somebody is heard again: from here on the suspect has its full time.
            if let Some(suspicion) = self.suspicions.get_mut(&id)
                && self.now.since(suspicion.since) > suspicion.fuse
            {
                suspicion.since = self.now;
            }
        }
        let reprieved = silent || self.is_reprieved(&open);
        if reprieved {
            self.poke(open.identity, open.incarnation, effects);
            self.review_soon(id);
            return;
        }
        self.suspicions.remove(&id);
        self.bury(open.identity, open.incarnation);
    }

    /// Whether it is too early for a verdict.
    fn is_reprieved(&self, open: &Suspicion) -> bool {
        let since = self.suspicions.get(&open.identity.member).map_or(open.since, |s| s.since);
        let age = self.now.since(since);
        let heard = self.peers.get(&open.identity.member).and_then(|peer| peer.heard);
        let heard_lately = heard.is_some_and(|at| at > since && self.now.since(at) < open.fuse);
        self.now < self.verdicts_from
            || age < open.fuse * (1 + self.unwell)
            || (heard_lately && age < settings::ONE_WAY_MAX)
    }

    /// Takes out of `packet` what others say of the death of members that this
    /// one just heard; each is asked, and believed dead if it doesn't answer.
    pub(super) fn dispute(&mut self, packet: &mut Packet, effects: &mut Vec<Effect>) {
        let src = packet.header.src.member;
        let mut doubted = Vec::new();
        packet.updates.retain(|update| {
            let id = update.id();
            let doubt = update.state() == foca::State::Down
                && update.incarnation() != LEFT
                && id.member != src
                && self.peers.get(&id.member).is_some_and(|peer| {
                    peer.identity == Some(*id)
                        && peer.heard.is_some_and(|at| self.now.since(at) < settings::FRESH)
                });
            if doubt {
                doubted.push((*id, update.incarnation()));
            }
            !doubt
        });
        for (identity, incarnation) in doubted {
            if self.disputes.contains_key(&identity.member) || !self.is_live(identity.member) {
                continue;
            }
            let dispute = Dispute { identity, incarnation, since: self.now };
            self.disputes.insert(identity.member, dispute);
            let at = self.now + settings::DISPUTE;
            self.schedule(at, Due::Dispute(identity.member));
            let known = self.peers.get(&identity.member).map_or(0, |peer| peer.incarnation);
            self.poke(identity, known.max(incarnation), effects);
        }
    }

    pub(super) fn close_dispute(&mut self, id: MemberId) {
        let Some(dispute) = self.disputes.get(&id) else { return };
        if self.now.since(dispute.since) < settings::DISPUTE {
            // The timer of an earlier dispute about the same member.
            return;
        }
        let Some(dispute) = self.disputes.remove(&id) else { return };
        let heard = self.peers.get(&id).and_then(|peer| peer.heard);
        if heard.is_some_and(|at| at > dispute.since) {
            return;
        }
        self.bury(dispute.identity, dispute.incarnation);
    }

    /// The verdict, and the word of it at once: the next gossip is up to 200 ms
    /// away.
    fn bury(&mut self, identity: Identity, incarnation: Incarnation) {
        let down = Member::new(identity, incarnation, foca::State::Down);
        let _ = self.foca.apply_many(std::iter::once(down), true, &mut self.outbox);
        let _ = self.foca.gossip(&mut self.outbox);
        self.outbox.changed = true;
    }

    /// What foca thinks of exactly this run of a member.
    fn in_foca(&self, identity: Identity) -> Option<(Incarnation, foca::State)> {
        self.foca
            .iter_membership_state()
            .find(|m| *m.id() == identity)
            .map(|m| (m.incarnation(), m.state()))
    }
}
