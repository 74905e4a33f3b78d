//! Joining, and joining again: whoever is enrolled and not live is announced
//! to, for ever, at pauses that grow with the cluster's size and never beyond
//! ten seconds.
//!
//! foca announces when it is told to and to the dead now and then, but never
//! to an island that it has not heard of: the roster has.

use std::{net::SocketAddr, time::Duration};

use super::{Due, Effect, Membership, packet::plain, settings};
use crate::base::{MemberId, Time};

/// After so many knocks the pauses do not grow any more.
const LONGEST: u8 = 10;

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

    /// Somebody has answered this member, which has just started, and tells it of all that it
    /// knows. The others have time.
    pub(super) fn knock_later(&mut self) {
        if !self.is_young() {
            return;
        }
        let span = settings::knock_others_within(self.table.size());
        // The first ones still get theirs, as too few of them would be no net, and so do those
        // that somebody has just asked for.
        let soon = self.now + settings::KNOCK_FIRST;
        let is_left = |slot: &u32| {
            let peer = self.table.peer(*slot);
            !peer.state.is_live() && peer.knocks == 0 && peer.knock_at > soon
        };
        let left: Vec<u32> = self.table.slots().filter(is_left).collect();
        for slot in left {
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
    /// and where a live one is, it says itself. That it answers at `address` counts for this
    /// member alone: others may not reach it there.
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
        let before = self.table.address_of(slot);
        self.table.set_found(slot, plain(address));
        self.tell_if_moved(slot, before, effects);
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
        let mut ways = vec![self.table.address_of(slot)];
        for other in [self.table.heard_at(slot), self.table.roster_address(slot)] {
            if !ways.contains(&other) {
                ways.push(other);
            }
        }
        let dst = self.table.run(slot);
        let peer = self.table.peer_mut(slot);
        if peer.knock_at != at || peer.state.is_live() {
            return;
        }
        // Now where it was found, now where it was heard last, now where the roster says: it may
        // have moved any way.
        let address = ways[usize::from(peer.knocks) % ways.len()];
        let pause =
            (settings::KNOCK_FIRST * 2_u32.pow(u32::from(peer.knocks.min(LONGEST)))).min(max);
        // It goes round at the longest pause, so that no way is left out for ever.
        peer.knocks = peer.knocks.checked_add(1).unwrap_or(LONGEST);
        let _ = self.foca.announce(dst, &mut self.outbox);
        for (to, bytes) in std::mem::take(&mut self.outbox.sends) {
            for bytes in self.outward(to, &bytes) {
                effects.push(Effect::Send { to: self.table.id(to.slot), address, bytes });
            }
        }
        let next = self.now + pause * 3 / 4 + self.random.duration_below(pause / 2);
        self.knock_at(slot, next);
    }
}
