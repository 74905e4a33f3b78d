//! After each call: carries out what foca asked for, and brings the table up
//! to date with foca, for those members only that something was said about.

use std::{net::SocketAddr, time::Duration};

use foca::{Incarnation, Member, Notification, Timer};

use super::{
    Due, Effect, LEFT, Membership, State,
    packet::Identity,
    run::{ME, Run},
    settings, translate,
};

/// What foca asked for during one call, and whom it was about.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) sends: Vec<(Run, Vec<u8>)>,
    timers: Vec<(Timer<Run>, Duration)>,
    /// Slots whose standing with foca may be another one now.
    pub(super) touched: Vec<u32>,
    /// What was said of where they are.
    named: Vec<(u32, Identity)>,
}

impl Outbox {
    pub(super) fn name(&mut self, slot: u32, identity: Identity) {
        self.touched.push(slot);
        self.named.push((slot, identity));
    }

    fn probe_failed(&self) -> bool {
        self.timers.iter().any(|(timer, _)| matches!(timer, Timer::ChangeSuspectToDown { .. }))
    }
}

impl foca::Runtime<Run> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Run>) {
        match notification {
            Notification::MemberUp(run) | Notification::MemberDown(run) => {
                self.touched.push(run.slot);
            }
            Notification::Rename(_, run) => self.touched.push(run.slot),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Run, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Run>, after: Duration) {
        if let Timer::ChangeSuspectToDown { member_id, .. } = &event {
            self.touched.push(member_id.slot);
        }
        self.timers.push((event, after));
    }
}

/// More than so many at once are read in one walk over foca's state.
const FEW: usize = 8;

impl Membership {
    pub(super) fn fire(&mut self, timer: Timer<Run>) {
        let probe = matches!(timer, Timer::ProbeRandomMember(_));
        // The one error here is a probe cycle that a late timer cut short;
        // foca starts the next one by itself.
        let _ = self.foca.handle_timer(timer, &mut self.outbox);
        if probe && !self.outbox.probe_failed() {
            self.unwell = self.unwell.saturating_sub(1);
        }
    }

    /// Carries out what foca asked for, and brings the table up to date.
    pub(super) fn settle(&mut self, effects: &mut Vec<Effect>) {
        loop {
            for (to, bytes) in std::mem::take(&mut self.outbox.sends) {
                let message = translate::header(&bytes).map(|header| header.message);
                if message.as_ref().is_some_and(is_question) {
                    self.asked(to.slot);
                }
                let to = match message {
                    Some(foca::Message::Gossip) => self.hearer(to),
                    _ => to,
                };
                for bytes in self.outward(to, &bytes) {
                    self.send(to.slot, bytes, effects);
                }
            }
            self.sync(effects);
            for (timer, after) in std::mem::take(&mut self.outbox.timers) {
                if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer {
                    self.suspect_by_probe(member_id, incarnation, effects);
                } else {
                    let mut at = self.now + after;
                    if matches!(timer, Timer::PeriodicGossip(_)) && self.compares_often() {
                        at = self.now + settings::GOSSIP_YOUNG;
                    }
                    if matches!(timer, Timer::ProbeRandomMember(_)) && self.is_young() {
                        // It would ask before the handshake's turn has come.
                        at = at.max(self.born + settings::youth(self.table.size()));
                        at = at + self.random.duration_below(settings::PROBE_PERIOD);
                    }
                    self.schedule(at, Due::Foca(timer));
                }
            }
            let generation = self.generation();
            if generation == self.generation_told {
                break;
            }
            self.generation_told = generation;
            effects.push(Effect::Generation(generation));
            // What we thought of the others while they had buried us is stale: each
            // suspect is asked anew. Just forgotten, foca would hold it for one for ever.
            self.disputes.clear();
            self.suspicions.clear();
            self.look_after_suspects(effects);
            // foca forgets that it was connected when it takes a new identity,
            // and would neither probe nor answer before the next packet.
            let _ = self.foca.apply_many(std::iter::empty(), true, &mut self.outbox);
        }
        self.sync(effects);
    }

    /// Who is told the gossip that foca has for `to`. Where many have just started, a word to one
    /// that was never spoken with is a handshake, and to one that was is a packet: it goes to one of
    /// those, of which each has a few and all together are one net.
    fn hearer(&mut self, to: Run) -> Run {
        if !self.is_young() || self.has_met(to.slot) {
            return to;
        }
        let met: Vec<u32> = self.table.live().filter(|slot| self.has_met(*slot)).collect();
        match met.is_empty() {
            true => to,
            false => self.table.run(met[self.random.below(met.len() as u64) as usize]),
        }
    }

    /// Whether a member was heard directly.
    pub(super) fn has_met(&self, slot: u32) -> bool {
        self.table.peer(slot).heard > super::NEVER
    }

    /// Tells foca something that the driver knows.
    pub(super) fn tell_foca(&mut self, news: Member<Run>) {
        self.outbox.touched.push(news.id().slot);
        let _ = self.foca.apply_many(std::iter::once(news), true, &mut self.outbox);
    }

    /// Reads foca's view of whom something was said about into the table.
    pub(super) fn sync(&mut self, effects: &mut Vec<Effect>) {
        if self.outbox.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.outbox.touched);
        let named = std::mem::take(&mut self.outbox.named);
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|slot| self.table.is_enrolled(*slot));
        let members: Vec<(Run, Incarnation, foca::State)> = if touched.len() <= FEW {
            touched.iter().filter_map(|slot| self.standing(*slot)).collect()
        } else {
            let state = self.foca.iter_membership_state();
            let of_them = state.filter(|m| touched.binary_search(&m.id().slot).is_ok());
            of_them.map(|m| (*m.id(), m.incarnation(), m.state())).collect()
        };
        for (slot, identity) in named {
            let run = Run { slot, generation: identity.generation };
            if members.iter().any(|(standing, ..)| *standing == run) {
                self.heed_address(slot, &identity, effects);
            }
        }
        for (run, incarnation, verdict) in members {
            self.take_up(run, incarnation, verdict, effects);
        }
        for (from, slot, incarnation) in std::mem::take(&mut self.doubted) {
            self.heed_doubt(from, slot, incarnation);
        }
    }

    fn standing(&self, slot: u32) -> Option<(Run, Incarnation, foca::State)> {
        let found = self.foca.iter_membership_state().find(|m| m.id().slot == slot);
        found.map(|m| (*m.id(), m.incarnation(), m.state()))
    }

    /// Somebody named where a run is that foca takes for the newest. Of two addresses of one run
    /// the larger counts, so that everybody breaks the tie alike.
    fn heed_address(&mut self, slot: u32, identity: &Identity, effects: &mut Vec<Effect>) {
        let known = self.table.peer(slot).generation;
        let rises = identity.generation > known;
        let wins = identity.generation == known && identity.address > self.table.heard_at(slot);
        if !rises && !wins {
            return;
        }
        let before = self.table.address_of(slot);
        self.table.set_address(slot, identity.address);
        if rises {
            self.table.lose_found(slot);
        }
        self.tell_if_moved(slot, before, effects);
    }

    /// The owner is told where `slot` is dialled from here on, if that was `before` until now.
    pub(super) fn tell_if_moved(&self, slot: u32, before: SocketAddr, effects: &mut Vec<Effect>) {
        let address = self.table.address_of(slot);
        if address != before {
            effects.push(Effect::Moved { member: self.table.id(slot), address });
        }
    }

    fn take_up(
        &mut self,
        run: Run,
        incarnation: Incarnation,
        verdict: foca::State,
        effects: &mut Vec<Effect>,
    ) {
        if self.table.peer(run.slot).generation < run.generation {
            // Where its last run was found says nothing of this one.
            let before = self.table.address_of(run.slot);
            self.table.lose_found(run.slot);
            self.tell_if_moved(run.slot, before, effects);
        }
        let peer = self.table.peer_mut(run.slot);
        let renewed = peer.is_seen() && peer.generation < run.generation;
        (peer.generation, peer.incarnation, peer.verdict) = (run.generation, incarnation, verdict);
        if renewed && verdict == foca::State::Alive {
            self.spread_soon();
        }
        if renewed || verdict != foca::State::Suspect {
            self.presumed.remove(&run.slot);
        }
        let state = match verdict {
            _ if self.presumed.contains(&run.slot) => State::Down,
            foca::State::Alive => State::Alive,
            foca::State::Suspect => State::Suspect,
            foca::State::Down if incarnation == LEFT => State::Left,
            foca::State::Down => State::Down,
        };
        if renewed {
            // What was known of the way to its last run says nothing of this one.
            self.unanswered.remove(&run.slot);
            let peer = self.table.peer_mut(run.slot);
            (peer.asked_at, peer.questions) = (super::NEVER, 0);
        }
        self.show(run.slot, state, effects);
        if verdict == foca::State::Suspect {
            self.learn_of_suspicion(run, incarnation, effects);
        }
    }

    /// That somebody has come back goes on at once, and not with the next gossip: a few packets of
    /// each member. Not of who was never seen, since all others would greet it at the same moment
    /// and it would have to shake all their hands while it starts; not where many start together,
    /// nor among very many; and what follows closely goes together, so that neither a healed
    /// partition nor a liar makes a storm of it.
    fn spread_soon(&mut self) {
        let is_crowd = (settings::FEW + 1..=settings::CROWD).contains(&self.table.size());
        if is_crowd && !self.spreads && !self.is_young() {
            self.spreads = true;
            let at = self.now.max(self.spread_from);
            self.schedule(at, Due::Spread);
        }
    }

    pub(super) fn spread(&mut self) {
        self.spreads = false;
        self.spread_from = self.now + settings::SPREAD_PERIOD;
        if self.foca.updates_backlog() > 0 {
            let _ = self.foca.gossip(&mut self.outbox);
        }
    }

    fn show(&mut self, slot: u32, state: State, effects: &mut Vec<Effect>) {
        let owners_now = self.clock.owners_now();
        let now = self.now;
        let peer = self.table.peer_mut(slot);
        if peer.state == state {
            return;
        }
        let before = std::mem::replace(&mut peer.state, state);
        let was_live = before.is_live();
        peer.since = owners_now;
        effects.push(Effect::Changed { member: self.table.id(slot), before, state });
        if state.is_live() && !was_live {
            let peer = self.table.peer_mut(slot);
            peer.knock_at = super::NEVER;
            peer.live_from = now;
            peer.asked = 0;
            // What it owed while it was away counts for nothing.
            (peer.asked_at, peer.questions) = (now, 0);
            self.came_alive(slot);
        } else if was_live && !state.is_live() {
            self.table.peer_mut(slot).reached = false;
            self.unanswered.remove(&slot);
            self.missed.remove(&slot);
            self.knock_afresh(slot, settings::KNOCK_FIRST);
        }
    }

    /// Drops all trace of a member that is no longer enrolled.
    pub(super) fn forget(&mut self, slot: u32) {
        self.suspicions.remove(&slot);
        self.disputes.remove(&slot);
        self.presumed.remove(&slot);
        self.unanswered.remove(&slot);
        self.missed.remove(&slot);
        self.told_of.remove(&slot);
        self.informed.remove(&slot);
        self.reports.remove(&slot);
        self.recent.remove(&slot);
        self.table.forget(slot);
        let run = self.table.run(slot);
        if self.table.peer(slot).is_seen() {
            // foca has no word for removing: bury it in silence, then have the
            // grave cleared.
            let down = std::iter::once(Member::down(run));
            let _ = self.foca.apply_many(down, false, &mut self.outbox);
            let _ = self.foca.handle_timer(Timer::RemoveDown(run), &mut self.outbox);
        }
        debug_assert_ne!(slot, ME, "nobody forgets itself");
    }
}

fn is_question(message: &foca::Message<Run>) -> bool {
    matches!(message, foca::Message::Ping(_))
}
