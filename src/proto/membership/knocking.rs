//! Joining, and joining again: whoever is enrolled and not live is announced
//! to, for ever, at pauses that grow with the cluster's size and never beyond
//! ten seconds.
//!
//! foca announces when it is told to and to the dead now and then, but never
//! to an island that it has not heard of: the roster has.

use std::{net::SocketAddr, time::Duration};

use super::{Due, Effect, Membership, packet::plain, settings};
use crate::base::{MemberId, Time};

impl Membership {
    /// Newcomers are knocked at within 2 ms each, so that a thousand make no burst.
    pub(super) fn knock_all(&mut self, new: Vec<u32>) {
        let span = Duration::from_millis(2) * u32::try_from(self.table.size()).unwrap_or(1_000);
        for slot in new {
            let at = self.now + self.random.duration_below(span);
            self.knock_at(slot, at);
        }
    }

    /// A member that has just started knocks at a few at once: the first that answers tells
    /// it of all others. Only those that are still not live then are knocked at one
    /// by one. When sixty start together, that is some hundred handshakes before all know
    /// all, and not four thousand.
    pub(super) fn knock_first(&mut self, mut others: Vec<u32>) {
        if others.len() <= settings::FEW {
            return self.knock_all(others);
        }
        for _ in 0..settings::FIRST_KNOCKS {
            let slot = others.swap_remove(self.random.below(others.len() as u64) as usize);
            let at = self.now + self.random.duration_below(settings::FIRST_WITHIN);
            self.knock_at(slot, at);
        }
        let span = settings::knock_rest_within(self.table.size());
        for slot in others {
            let at = self.now + settings::KNOCK_REST + self.random.duration_below(span);
            self.knock_at(slot, at);
        }
    }

    pub(super) fn knock_afresh(&mut self, slot: u32, after: Duration) {
        self.table.peer_mut(slot).knocks = 0;
        let at = self.now + after + self.random.duration_below(settings::KNOCK_FIRST);
        self.knock_at(slot, at);
    }

    /// Who `member` is, was proven; that it is a member of the cluster is for the roster to say,
    /// and where a live one is, it says itself.
    pub(super) fn found_at(
        &mut self,
        member: MemberId,
        address: SocketAddr,
        effects: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.table.slot(member) else { return };
        if self.table.peer(slot).state.is_live() {
            return;
        }
        let address = plain(address);
        if self.table.set_address(slot, address) {
            effects.push(Effect::Moved { member, address });
        }
        self.knock_afresh(slot, Duration::ZERO);
    }

    pub(super) fn knock_at(&mut self, slot: u32, at: Time) {
        self.table.peer_mut(slot).knock_at = at;
        self.schedule(at, Due::Knock(slot));
    }

    /// Announces this member to one that is not live, and sets the next time.
    pub(super) fn knock(&mut self, slot: u32, at: Time, effects: &mut Vec<Effect>) {
        let max = settings::knock_max(self.table.size());
        if !self.table.is_enrolled(slot) {
            return;
        }
        let known = self.table.address_of(slot);
        let enrolled = self.table.roster_address(slot);
        let dst = self.table.run(slot);
        let peer = self.table.peer_mut(slot);
        if peer.knock_at != at || peer.state.is_live() {
            return;
        }
        // Now where it was last, now where the roster says: it may have moved
        // either way.
        let address = if peer.knocks.is_multiple_of(2) { known } else { enrolled };
        let pause = (settings::KNOCK_FIRST * 2_u32.pow(u32::from(peer.knocks.min(10)))).min(max);
        peer.knocks = peer.knocks.saturating_add(1);
        let _ = self.foca.announce(dst, &mut self.outbox);
        for (to, bytes) in std::mem::take(&mut self.outbox.sends) {
            for bytes in self.outward(&bytes) {
                effects.push(Effect::Send { to: self.table.id(to.slot), address, bytes });
            }
        }
        let next = self.now + pause * 3 / 4 + self.random.duration_below(pause / 2);
        self.knock_at(slot, next);
    }
}
