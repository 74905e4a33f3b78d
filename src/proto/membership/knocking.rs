//! Joining, and joining again: whoever is enrolled and not live is announced
//! to, for ever, at pauses that grow with the cluster's size and never beyond
//! ten seconds.
//!
//! foca announces when it is told to and to the dead now and then, but never
//! to an island that it has not heard of: the roster has.

use std::time::Duration;

use super::{Due, Effect, Membership, packet::Identity, settings};
use crate::base::{MemberId, Time};

impl Membership {
    pub(super) fn knock_afresh(&mut self, id: MemberId, after: Duration) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.knocks = 0;
            let at = self.now + after + self.random.duration_below(settings::KNOCK_FIRST);
            self.knock_at(id, at);
        }
    }

    pub(super) fn knock_at(&mut self, id: MemberId, at: Time) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.knock_at = Some(at);
            self.schedule(at, Due::Knock(id));
        }
    }

    /// Announces this member to one that is not live, and sets the next time.
    pub(super) fn knock(&mut self, id: MemberId, at: Time, effects: &mut Vec<Effect>) {
        let max = settings::knock_max(self.size());
        let Some((peer, contact)) = self.peers.get_mut(&id).zip(self.directory.get(&id)) else {
            return;
        };
        if peer.knock_at != Some(at) || contact.state.is_live() {
            return;
        }
        // Now where it was last, now where the roster says: it may have moved
        // either way.
        let address = if peer.knocks % 2 == 0 { contact.address } else { peer.roster_address };
        let pause = (settings::KNOCK_FIRST * 2_u32.pow(peer.knocks.min(10))).min(max);
        let dst = peer.identity.unwrap_or(Identity::new(id, address, 0));
        peer.knocks = peer.knocks.saturating_add(1);
        let _ = self.foca.announce(dst, &mut self.outbox);
        for (to, bytes) in std::mem::take(&mut self.outbox.sends) {
            effects.push(Effect::Send { to: to.member, address, bytes });
        }
        let next = self.now + pause * 3 / 4 + self.random.duration_below(pause / 2);
        self.knock_at(id, next);
    }
}
