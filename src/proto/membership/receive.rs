//! What comes in: checked against the roster and against what was heard, and
//! only then given to foca.

use std::time::Duration;

use foca::{Member, Message};

use super::{
    Effect, Membership, State,
    packet::{self, Aside, Packet},
    run::Run,
    translate,
};
use crate::base::MemberId;

impl Membership {
    /// A direct sign of life.
    pub(super) fn hear(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let now = self.now;
        let peer = self.table.peer_mut(slot);
        peer.heard = now;
        peer.asked = 0;
        // Who talks and is not live is worth a knock now, but not for each word.
        let knock = peer.state == State::Down && peer.knocks > 2;
        self.heard_any = now;
        if self.presumed.remove(&slot) {
            self.outbox.touched.push(slot);
            self.sync(effects);
        }
        if knock && self.table.peer(slot).state == State::Down {
            self.knock_afresh(slot, Duration::ZERO);
        }
    }

    pub(super) fn receive(&mut self, from: MemberId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let Some(slot) = self.table.slot(from) else { return };
        if Aside::is_one(bytes) {
            if let Ok(aside) = Aside::decode(bytes) {
                self.hear(slot, effects);
                self.on_aside(slot, &aside);
            }
            return;
        }
        // What can't be read is dropped without a word: the sender is proven,
        // but may run another version.
        let Ok(mut packet) = Packet::decode(bytes) else { return };
        let src = packet.header.src;
        let third = packet.third();
        if src.member != from
            || packet.header.dst.member != self.table.me
            || third.is_some_and(|id| id == self.table.me || self.table.slot(id).is_none())
        {
            return;
        }
        self.hear(slot, effects);
        self.outrun(&packet);
        let known = self.table.peer(slot).generation;
        match packet.header.message {
            // It heard our question and we hear its answer.
            Message::Ack(_) | Message::Feed if src.generation >= known => {
                self.answered(slot, effects);
            }
            _ => {}
        }
        if packet.header.message == Message::Feed && !self.introduced {
            self.introduced = true;
            self.introduce(slot, effects);
            self.knock_later();
        }
        if known > src.generation {
            // A run that forgot its generation: tell it which one to exceed.
            let news = Member::new(self.table.run(slot), 0, foca::State::Down);
            let dst = Run { slot, generation: src.generation };
            self.send_own(dst, Message::Gossip, vec![news], effects);
        }
        let outdated = packet.header.dst.generation < self.generation();
        if outdated && matches!(packet.header.message, Message::Ping(_)) {
            // It asks an earlier run of this member, which can't answer, and would bury it: the
            // header of any word says which one lives.
            let dst = Run { slot, generation: src.generation };
            self.send_own(dst, Message::Gossip, Vec::new(), effects);
        }
        self.dispute(slot, &mut packet.updates, effects);
        let peer = self.table.peer(slot);
        let news = peer.generation != src.generation
            || packet.header.src_incarnation > peer.incarnation
            || peer.verdict == foca::State::Down;
        if news {
            self.outbox.name(slot, src);
        }
        for update in &packet.updates {
            if let Some(slot) = self.table.slot(update.id().member) {
                self.outbox.name(slot, *update.id());
            }
        }
        let Some((bytes, rest)) = translate::inward(&self.table, &packet) else { return };
        // foca's errors tell of packets that make no sense; nothing of
        // them was applied that the roster or the checks above forbid.
        let _ = self.foca.handle_data(&bytes, &mut self.outbox);
        if !rest.is_empty() && peer_is_live(self, slot, src.generation) {
            let _ = self.foca.apply_many(rest.into_iter(), true, &mut self.outbox);
        }
        self.greet_back(slot);
    }

    /// If others remember a run of this member that is newer than this one,
    /// because the clock went back and the record was lost, exceed it.
    fn outrun(&mut self, packet: &Packet) {
        let mine = packet.updates.iter().map(Member::id).filter(|id| id.member == self.table.me);
        if let Some(newest) = mine.map(|id| id.generation).max() {
            self.outrun_generation(newest);
        }
    }

    pub(super) fn outrun_generation(&mut self, newest: u64) {
        let me = *self.foca.identity();
        if newest > me.generation && newest < packet::GENERATION_MAX {
            let renewed = Run { generation: newest + 1, ..me };
            let _ = self.foca.change_identity(renewed, &mut self.outbox);
        }
    }
}

/// Whether the run that spoke is the one that foca has as live.
fn peer_is_live(this: &Membership, slot: u32, generation: u64) -> bool {
    let run = Run { slot, generation };
    this.foca.iter_members().any(|member| *member.id() == run)
}
