//! The verdict: passed by this member, or heard from others and then doubted
//! where this member has reason to.

use foca::{Incarnation, Member, Message};

use super::{Due, Effect, LEFT, Membership, packet::Identity, run::Run, settings};
use crate::base::Time;

/// Somebody else's verdict that we have reason to doubt.
#[derive(Clone, Debug)]
pub(super) struct Dispute {
    run: Run,
    incarnation: Incarnation,
    since: Time,
}

impl Membership {
    /// Takes out of `updates` what others say of the death of members that are live here;
    /// each is asked, and believed dead if it doesn't answer. Who was asked before, when it
    /// became a suspect, has had its chance. In a large cluster, where few of us ask, only
    /// those are doubted that this member just heard.
    pub(super) fn dispute(
        &mut self,
        src: u32,
        updates: &mut Vec<Member<Identity>>,
        effects: &mut Vec<Effect>,
    ) {
        let mut doubted = Vec::new();
        updates.retain(|update| {
            let Some(slot) = self.table.slot(update.id().member) else { return true };
            let peer = self.table.peer(slot);
            let unheard_since_asked = self.suspicions.get(&slot).is_some_and(|s| {
                let is_same = s.run == self.table.run(slot) && s.incarnation == peer.incarnation;
                let had_time = s.own || self.now.since(s.since) >= settings::POKE_PERIOD;
                is_same && had_time && peer.heard <= s.since
            });
            let fresh = peer.heard > super::NEVER && self.now.since(peer.heard) < settings::FRESH;
            let doubt = update.state() == foca::State::Down
                && update.incarnation() != LEFT
                && slot != src
                && peer.generation == update.id().generation
                && peer.state.is_live()
                && (fresh || self.table.size() <= settings::CROWD)
                && !unheard_since_asked;
            if doubt {
                doubted.push((self.table.run(slot), update.incarnation()));
            }
            !doubt
        });
        for (run, incarnation) in doubted {
            let peer = self.table.peer(run.slot);
            if self.disputes.contains_key(&run.slot) || !peer.state.is_live() {
                continue;
            }
            let known = peer.incarnation;
            self.disputes.insert(run.slot, Dispute { run, incarnation, since: self.now });
            let at = self.now + settings::DISPUTE;
            self.schedule(at, Due::Dispute(run.slot));
            self.poke(run, known.max(incarnation), effects);
        }
    }

    pub(super) fn close_dispute(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let Some(dispute) = self.disputes.get(&slot) else { return };
        if self.now.since(dispute.since) < settings::DISPUTE {
            // The timer of an earlier dispute about the same member.
            return;
        }
        let Some(dispute) = self.disputes.remove(&slot) else { return };
        if self.table.peer(slot).heard > dispute.since {
            return;
        }
        if self.is_young() && !self.has_met(slot) {
            // That a first answer is late says little: the word is believed, and not gossiped.
            // Where many start together each would have one for all.
            let down = Member::new(dispute.run, dispute.incarnation, foca::State::Down);
            self.outbox.touched.push(slot);
            let _ = self.foca.apply_many(std::iter::once(down), false, &mut self.outbox);
            return;
        }
        self.bury(dispute.run, dispute.incarnation, effects);
    }

    /// The verdict, and the word of it at once: the next gossip is up to 200 ms
    /// away. In a crowd of which all can be told, all are.
    pub(super) fn bury(&mut self, run: Run, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        let peer = self.table.peer(run.slot);
        if peer.generation != run.generation || peer.verdict == foca::State::Down {
            return;
        }
        let down = Member::new(run, incarnation, foca::State::Down);
        self.tell_foca(down.clone());
        if self.table.size() > settings::CROWD {
            let _ = self.foca.gossip(&mut self.outbox);
            return;
        }
        let others: Vec<u32> = self.table.live().filter(|slot| *slot != run.slot).collect();
        for slot in others {
            let dst = self.table.run(slot);
            self.send_own(dst, Message::Gossip, vec![down.clone()], effects);
        }
    }
}
