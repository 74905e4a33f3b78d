//! Who is reached both ways: a live member counts as reached once it has
//! answered a question of this member's own, and no longer when it stopped
//! answering them while others still hear it.
//!
//! SWIM asks others when a direct probe fails, and is content with their answer;
//! so a link that is cut, or works in one direction only, stays unseen. Work that is
//! sent over such a link is lost. (CockroachDB refuses a peer until it has
//! dialled back, for the same reason.)

use foca::Message;

use super::{Due, Effect, Membership, settings};

impl Membership {
    /// A question went out.
    pub(super) fn asked(&mut self, slot: u32) {
        let now = self.now;
        if !self.table.is_enrolled(slot) {
            return;
        }
        let peer = self.table.peer_mut(slot);
        if peer.questions == 0 {
            peer.asked_at = now;
        }
        peer.questions = peer.questions.saturating_add(1);
        if self.unanswered.is_empty() {
            self.schedule(now + settings::REACH_PERIOD, Due::Reach);
        }
        self.unanswered.insert(slot);
    }

    /// An answer came, directly.
    pub(super) fn answered(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let now = self.now;
        let peer = self.table.peer_mut(slot);
        // With several questions open nobody can tell which one this answers.
        let took = (peer.questions == 1).then(|| now.since(peer.asked_at));
        (peer.answered, peer.questions) = (now, 0);
        let news = !std::mem::replace(&mut peer.reached, true);
        self.unanswered.remove(&slot);
        if let Some(took) = took {
            self.measured(slot, self.clock.stretch(took));
        }
        if news {
            effects.push(Effect::Reached { member: self.table.id(slot), reached: true });
            let missed = self.missed.remove(&slot);
            if self.told_of.remove(&slot) || missed {
                self.spread_reach(effects);
            } else if self.has_told {
                // It may have been away when this member took back what it had said.
                self.tell_one_of_reach(slot, effects);
            }
        }
    }

    /// A member has become live: it is soon asked directly. In a cluster too large for
    /// that, it is taken to be reached until a question of ours shows that it isn't.
    pub(super) fn came_alive(&mut self, slot: u32) {
        if self.table.size() > settings::GREET_MAX {
            self.table.peer_mut(slot).reached = true;
            return;
        }
        if self.table.size() > settings::FEW && self.table.peer(slot).heard == self.now {
            // It was itself that spoke: see below.
            return self.schedule(self.now, Due::Greet(slot));
        }
        let waiting = self.table.live().filter(|slot| !self.table.peer(*slot).reached).count();
        let span = settings::greet_within(self.table.size(), waiting);
        let from = if self.is_young() { self.born + settings::GREET_LATER } else { self.now };
        let at = self.now.max(from) + self.random.duration_below(span);
        self.schedule(at, Due::Greet(slot));
    }

    /// A live member of a crowd spoke that was not asked yet. The connection stands, so to ask it
    /// now costs nothing, and later it might not stand.
    pub(super) fn greet_back(&mut self, slot: u32) {
        let peer = self.table.peer(slot);
        let is_due = peer.state.is_live() && !peer.reached && peer.questions == 0;
        if is_due && self.table.size() > settings::FEW {
            self.schedule(self.now, Due::Greet(slot));
        }
    }

    pub(super) fn greet(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let due = self.table.is_enrolled(slot) && {
            let peer = self.table.peer(slot);
            peer.state.is_live() && !peer.reached && peer.questions == 0
        };
        if due {
            self.send_own(self.table.run(slot), Message::Ping(0), Vec::new(), effects);
        }
    }

    /// Looks at everybody who owes an answer: asks again, and notes who is not reached.
    pub(super) fn review_reach(&mut self, effects: &mut Vec<Effect>) {
        let (now, table) = (self.now, &self.table);
        self.unanswered
            .retain(|slot| table.is_enrolled(*slot) && table.peer(*slot).state.is_live());
        let owing: Vec<u32> = self.unanswered.iter().copied().collect();
        // Where all have just started, a late answer says nothing of the way.
        let young = self.is_young();
        for slot in owing {
            let peer = self.table.peer_mut(slot);
            let age = now.since(peer.asked_at);
            if age < settings::REACH_PERIOD {
                continue;
            }
            // Who counts as reached may be given work, answered yet or not.
            let is_first = peer.answered < peer.live_from && !peer.reached;
            let max = if is_first { settings::REACH_FIRST } else { settings::REACH_MAX };
            if age >= max && !young && self.missed.insert(slot) {
                peer.reached = false;
                effects.push(Effect::Reached { member: self.table.id(slot), reached: false });
                self.has_told = true;
                self.told_of.insert(slot);
                self.spread_reach(effects);
            }
            // Every time at first, then less and less often, for ever.
            let often = self.table.peer(slot).questions < 8;
            if often || self.random.below(8) == 0 {
                self.send_own(self.table.run(slot), Message::Ping(0), Vec::new(), effects);
            }
        }
        if !self.unanswered.is_empty() {
            self.schedule(now + settings::REACH_PERIOD, Due::Reach);
        }
    }
}
