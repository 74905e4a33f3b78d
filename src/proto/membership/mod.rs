//! Who is there: SWIM with suspicion by `foca`, wrapped as one machine that
//! keeps a directory of the roster's members.
//!
//! The roster says who exists and where; gossip says who lives. So joining is
//! knocking: every member that is enrolled and not live is announced to, again
//! and again, for ever. That cures lost first announces, islands and slow
//! returns alike. Around foca, whose verdicts can't be refuted, the driver here
//! checks before it believes: see `suspicion.rs`.
//!
//! It never reads a clock, opens a socket or decides anything about content;
//! whether a member counts for a majority is the roster's business, not this
//! directory's.
//!
//! Ideas: SWIM (Das, Gupta, Motivala, 2002); Lifeguard (Dadgar, Phillips,
//! Currey, 2017) for local health and for telling a suspect that it is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use foca::{Foca, Header, Incarnation, Member, Message, NoCustomBroadcast, Notification, Timer};

use crate::base::{MemberId, Time, catalog::Roster};

mod interface;
mod knocking;
mod packet;
mod random;
mod settings;
#[cfg(test)]
mod sim;
mod suspicion;
#[cfg(test)]
mod tests;

pub use interface::{Contact, Directory, Effect, Input, State};
use packet::{Identity, Packet, PacketCodec};
use random::Random;
use suspicion::{Dispute, Suspicion};

/// What the driver knows of a member beyond its [`Contact`].
#[derive(Clone, Debug)]
struct Peer {
    roster_address: SocketAddr,
    /// As foca knows it; none until it was seen.
    identity: Option<Identity>,
    incarnation: Incarnation,
    /// The last direct sign of life.
    heard: Option<Time>,
    /// Since when it is live.
    live_from: Time,
    /// How often it was asked for a sign of life since the last one.
    asked: u32,
    /// The next knock, where it is not live.
    knock_at: Option<Time>,
    knocks: u32,
}

/// What a timer is for.
#[derive(Clone, Debug)]
enum Due {
    Foca(Timer<Identity>),
    Knock(MemberId),
    Rounds,
    Suspicion(MemberId),
    Dispute(MemberId),
}

/// The machine. Feed it packets that wait before firing its timers.
pub struct Membership {
    me: MemberId,
    foca: Foca<Identity, PacketCodec, Random, NoCustomBroadcast>,
    outbox: Outbox,
    random: Random,
    /// The clock less the time that the process stood still: all timers and
    /// all signs of life are on this one, so a pause ages nobody.
    now: Time,
    skipped: Duration,
    /// Timers, by time and then in the order they were set.
    agenda: BTreeMap<(Time, u64), Due>,
    agenda_next: u64,
    peers: BTreeMap<MemberId, Peer>,
    directory: Directory,
    suspicions: BTreeMap<MemberId, Suspicion>,
    disputes: BTreeMap<MemberId, Dispute>,
    /// Suspects out of reach while nobody at all was heard: shown as down, but
    /// no verdict is spread, as the fault is probably ours.
    presumed: BTreeSet<MemberId>,
    heard_any: Time,
    verdicts_from: Time,
    unwell: u32,
    generation_told: u64,
    left: bool,
}

impl Membership {
    /// A member that knows nobody yet. `generation` must exceed every one used
    /// before: the larger of wall-clock milliseconds and the persisted
    /// [`Effect::Generation`] plus one. `seed` should differ between members.
    pub fn new(now: Time, me: MemberId, address: SocketAddr, generation: u64, seed: u64) -> Self {
        let identity = Identity::new(me, address, generation.min(packet::GENERATION_MAX));
        let config = settings::config(0);
        let mut random = Random::new(seed);
        // Members that start together don't make their rounds together.
        let rounds_at = now + random.duration_below(settings::ROUNDS_PERIOD);
        Self {
            me,
            foca: Foca::new(identity, config, Random::new(!seed), PacketCodec),
            outbox: Outbox::default(),
            random,
            now,
            skipped: Duration::ZERO,
            agenda: BTreeMap::from([((rounds_at, 0), Due::Rounds)]),
            agenda_next: 1,
            peers: BTreeMap::new(),
            directory: Directory::new(),
            suspicions: BTreeMap::new(),
            disputes: BTreeMap::new(),
            presumed: BTreeSet::new(),
            heard_any: now,
            verdicts_from: now,
            unwell: 0,
            generation_told: 0,
            left: false,
        }
    }

    /// Takes over who is enrolled. Newcomers are knocked at, removed members
    /// forgotten: from here on nothing that names them is believed.
    pub fn set_roster(&mut self, now: Time, roster: &Roster, effects: &mut Vec<Effect>) {
        self.enter(now);
        if self.left {
            return;
        }
        let gone: Vec<MemberId> =
            self.peers.keys().copied().filter(|&id| !roster.contains(id)).collect();
        for id in gone {
            self.forget(id);
        }
        // Newcomers are knocked at within 2 ms each, so that a thousand make
        // no burst.
        let span = Duration::from_millis(2) * u32::try_from(roster.members.len()).unwrap_or(1_000);
        let me = self.me;
        for enrolled in roster.members.iter().filter(|m| m.id != me) {
            let address = packet::plain(enrolled.address);
            if let Some(peer) = self.peers.get_mut(&enrolled.id) {
                peer.roster_address = address;
                continue;
            }
            let peer = Peer {
                roster_address: address,
                identity: None,
                incarnation: 0,
                heard: None,
                live_from: self.now,
                asked: 0,
                knock_at: None,
                knocks: 0,
            };
            self.peers.insert(enrolled.id, peer);
            let contact = Contact { state: State::Down, address, generation: 0, since: now };
            self.directory.insert(enrolled.id, contact);
            let at = self.now + self.random.duration_below(span);
            self.knock_at(enrolled.id, at);
        }
        // Refused only where a period changes, and ours are constant.
        let accepted = self.foca.set_config(settings::config(self.size()));
        debug_assert!(accepted.is_ok(), "the periods are constant");
        self.settle(effects);
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.enter(now);
        if self.left {
            return;
        }
        match input {
            Input::Packet { from, bytes } => self.receive(from, bytes, effects),
            Input::Heard { from } => self.hear(from, effects),
            Input::Lost { member } => self.suspect_by_hint(member, effects),
        }
        self.settle(effects);
    }

    /// When [`tick`](Self::tick) is due next.
    pub fn deadline(&self) -> Option<Time> {
        self.agenda.first_key_value().map(|(&(at, _), _)| at + self.skipped)
    }

    /// Fires what is due. If that was more than 300 ms ago, the process is taken
    /// to have stood still, and all timers move on by what it missed.
    pub fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.enter(now);
        while let Some(first) = self.agenda.first_entry() {
            let &(at, _) = first.key();
            if at > self.now {
                break;
            }
            match first.remove() {
                Due::Foca(timer) => self.fire(timer),
                Due::Knock(id) => self.knock(id, at, effects),
                Due::Rounds => self.make_rounds(effects),
                Due::Suspicion(id) => self.review_suspicion(id, at, effects),
                Due::Dispute(id) => self.close_dispute(id),
            }
            self.settle(effects);
        }
    }

    /// Says goodbye: the others show this member as left and not as down. The
    /// machine is done then, and ignores what comes.
    pub fn leave(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.enter(now);
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.agenda.clear();
        let me = *self.foca.identity();
        let goodbye = Member::new(me, LEFT, foca::State::Down);
        // Everybody in a small cluster; gossip carries it on in a large one.
        let mut live: Vec<Identity> = self.live_identities().collect();
        while live.len() > GOODBYES_MAX {
            let index = self.random.below(live.len() as u64) as usize;
            live.swap_remove(index);
        }
        for dst in live {
            self.send_own(dst, Message::Gossip, vec![goodbye.clone()], effects);
        }
    }

    /// Every enrolled member but this one.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Whether work may be given to `member`. This one is always live to itself.
    pub fn is_live(&self, member: MemberId) -> bool {
        member == self.me || self.directory.get(&member).is_some_and(|c| c.state.is_live())
    }

    /// How unwell this member thinks it is, from 0: verdicts take that many
    /// times longer, more.
    pub fn unwell(&self) -> u32 {
        self.unwell
    }

    /// The generation in use.
    pub fn generation(&self) -> u64 {
        self.foca.identity().generation
    }
}

/// The incarnation of an obituary that a member wrote itself. No verdict has
/// it: foca renews an identity before its incarnation gets there.
const LEFT: Incarnation = Incarnation::MAX;
/// To how many a leaving member says goodbye in person.
const GOODBYES_MAX: usize = 64;

impl Membership {
    /// Members of the cluster, with this one.
    fn size(&self) -> usize {
        self.peers.len() + 1
    }

    /// Sets the clock. If a timer should have fired long ago, then the process
    /// stood still: time did not pass for it, and everything moves on by what
    /// it missed. Otherwise it would wake to a row of expired verdicts.
    fn enter(&mut self, now: Time) {
        if let Some(late) = self.deadline().map(|due| now.since(due))
            && late > settings::LATE
        {
            self.skipped += late;
            self.verdicts_from = self.internal(now) + settings::PAUSE_GRACE;
            self.unwell = (self.unwell + 1).min(settings::UNWELL_MAX);
        }
        self.now = self.now.max(self.internal(now));
    }

    fn internal(&self, now: Time) -> Time {
        Time(now.0.saturating_sub(u64::try_from(self.skipped.as_micros()).unwrap_or(u64::MAX)))
    }

    fn schedule(&mut self, at: Time, due: Due) {
        self.agenda.insert((at, self.agenda_next), due);
        self.agenda_next += 1;
    }

    /// A direct sign of life.
    fn hear(&mut self, from: MemberId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.heard = Some(self.now);
        peer.asked = 0;
        self.heard_any = self.now;
        if self.presumed.remove(&from) {
            self.sync(effects);
        }
        // Who talks and is not live is worth a knock now, but not for each word.
        let Some((peer, contact)) = self.peers.get(&from).zip(self.directory.get(&from)) else {
            return;
        };
        if contact.state == State::Down && peer.knocks > 2 {
            self.knock_afresh(from, Duration::ZERO);
        }
    }

    fn receive(&mut self, from: MemberId, bytes: Vec<u8>, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get(&from) else { return };
        let known = peer.identity;
        // What can't be read is dropped without a word: the sender is proven,
        // but may run another version.
        let Ok(mut packet) = Packet::decode(&bytes) else { return };
        let src = packet.header.src;
        let third = packet.third();
        if src.member != from
            || packet.header.dst.member != self.me
            || third.is_some_and(|id| !self.peers.contains_key(&id))
        {
            return;
        }
        self.hear(from, effects);
        self.outrun(&packet);
        if let Some(known) = known.filter(|known| known.generation > src.generation) {
            // A run that forgot its generation: tell it which one to exceed.
            let news = Member::new(known, 0, foca::State::Down);
            self.send_own(src, Message::Gossip, vec![news], effects);
        }
        let (me, count) = (*self.foca.identity(), packet.updates.len());
        packet
            .updates
            .retain(|update| *update.id() == me || self.peers.contains_key(&update.id().member));
        self.dispute(&mut packet, effects);
        let news = self.peers.get(&from).is_none_or(|peer| {
            peer.identity != Some(src) || peer.incarnation != packet.header.src_incarnation
        });
        self.outbox.changed |= news || !packet.updates.is_empty();
        let bytes = if packet.updates.len() == count { Ok(bytes) } else { packet.encode() };
        if let Ok(bytes) = bytes {
            // foca's errors tell of packets that make no sense; nothing of
            // them was applied that the roster or the checks above forbid.
            let _ = self.foca.handle_data(&bytes, &mut self.outbox);
        }
    }

    /// If others remember a run of this member that is newer than this one,
    /// because the clock went back and the record was lost, exceed it.
    fn outrun(&mut self, packet: &Packet) {
        let me = *self.foca.identity();
        let newest = packet
            .updates
            .iter()
            .map(|update| *update.id())
            .filter(|id| id.member == self.me && *id != me)
            .map(|id| id.generation)
            .max();
        if let Some(newest) = newest
            && (me.generation..packet::GENERATION_MAX).contains(&newest)
        {
            let renewed = Identity { generation: newest + 1, ..me };
            let _ = self.foca.change_identity(renewed, &mut self.outbox);
        }
    }

    fn fire(&mut self, timer: Timer<Identity>) {
        let probe = matches!(timer, Timer::ProbeRandomMember(_));
        // The one error here is a probe cycle that a late timer cut short;
        // foca starts the next one by itself.
        let _ = self.foca.handle_timer(timer, &mut self.outbox);
        if probe && !self.outbox.probe_failed() {
            self.unwell = self.unwell.saturating_sub(1);
        }
    }

    /// Carries out what foca asked for, and brings the directory up to date.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        loop {
            for (to, bytes) in std::mem::take(&mut self.outbox.sends) {
                self.send(to.member, bytes, effects);
            }
            for (timer, after) in std::mem::take(&mut self.outbox.timers) {
                if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer {
                    self.suspect_by_probe(member_id, incarnation, effects);
                } else {
                    let at = self.now + after;
                    self.schedule(at, Due::Foca(timer));
                }
            }
            let generation = self.generation();
            if generation == self.generation_told {
                break;
            }
            self.generation_told = generation;
            effects.push(Effect::Generation(generation));
            // What we thought of the others while they had buried us is stale.
            let stale = std::mem::take(&mut self.suspicions);
            self.disputes.clear();
            // foca forgets that it was connected when it takes a new identity,
            // and would neither probe nor answer before the next packet.
            let _ = self.foca.apply_many(std::iter::empty(), true, &mut self.outbox);
            // Yet foca goes on suspecting until the suspect refutes, and the
            // suspect may never have heard of it: it is asked anew.
            for (identity, incarnation) in stale.into_values().map(|s| s.accused()) {
                self.suspect(identity, incarnation, settings::fuse(self.size()), effects);
            }
        }
        if std::mem::take(&mut self.outbox.changed) {
            self.sync(effects);
        }
    }

    /// Reads foca's view into the directory.
    fn sync(&mut self, effects: &mut Vec<Effect>) {
        let members: Vec<_> = self
            .foca
            .iter_membership_state()
            .map(|m| (*m.id(), m.incarnation(), m.state()))
            .collect();
        for (id, incarnation, state) in members {
            let Some(peer) = self.peers.get_mut(&id.member) else { continue };
            let before = peer.identity.replace(id);
            peer.incarnation = incarnation;
            let renewed = before.is_some_and(|before| before.generation < id.generation);
            if renewed || state != foca::State::Suspect {
                self.presumed.remove(&id.member);
            }
            let state = match state {
                _ if self.presumed.contains(&id.member) => State::Down,
                foca::State::Alive => State::Alive,
                foca::State::Suspect => State::Suspect,
                foca::State::Down if incarnation == LEFT => State::Left,
                foca::State::Down => State::Down,
            };
            self.show(id, state, effects);
        }
    }

    fn show(&mut self, id: Identity, state: State, effects: &mut Vec<Effect>) {
        let Some(contact) = self.directory.get_mut(&id.member) else { return };
        contact.generation = id.generation;
        if contact.address != id.address {
            contact.address = id.address;
            effects.push(Effect::Moved { member: id.member, address: id.address });
        }
        if contact.state == state {
            return;
        }
        let was_live = contact.state.is_live();
        contact.state = state;
        contact.since = self.now + self.skipped;
        effects.push(Effect::Changed { member: id.member, state });
        if state.is_live() && !was_live {
            if let Some(peer) = self.peers.get_mut(&id.member) {
                peer.knock_at = None;
                peer.live_from = self.now;
                peer.asked = 0;
            }
        } else if was_live && !state.is_live() {
            self.knock_afresh(id.member, settings::KNOCK_FIRST);
        }
    }

    /// Drops all trace of a member that is no longer enrolled.
    fn forget(&mut self, id: MemberId) {
        self.directory.remove(&id);
        self.suspicions.remove(&id);
        self.disputes.remove(&id);
        self.presumed.remove(&id);
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Some(identity) = peer.identity {
            // foca has no word for removing: bury it in silence, then have the
            // grave cleared.
            let down = std::iter::once(Member::down(identity));
            let _ = self.foca.apply_many(down, false, &mut self.outbox);
            let _ = self.foca.handle_timer(Timer::RemoveDown(identity), &mut self.outbox);
        }
    }

    fn live_identities(&self) -> impl Iterator<Item = Identity> {
        self.peers.iter().filter(|(id, _)| self.is_live(**id)).filter_map(|(_, p)| p.identity)
    }

    /// Sends a packet that foca didn't write. Incarnation 0 of the sender is
    /// what everybody who knows it ignores.
    fn send_own(
        &mut self,
        dst: Identity,
        message: Message<Identity>,
        updates: Vec<Member<Identity>>,
        effects: &mut Vec<Effect>,
    ) {
        let header = Header { src: *self.foca.identity(), src_incarnation: 0, dst, message };
        if let Ok(bytes) = (Packet { header, updates }).encode() {
            self.send(dst.member, bytes, effects);
        }
    }

    /// Only enrolled members are sent anything, whatever foca wants.
    fn send(&self, to: MemberId, bytes: Vec<u8>, effects: &mut Vec<Effect>) {
        if let Some(contact) = self.directory.get(&to) {
            effects.push(Effect::Send { to, address: contact.address, bytes });
        }
    }
}

/// What foca asked for during one call.
#[derive(Default)]
struct Outbox {
    sends: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    changed: bool,
}

impl Outbox {
    fn probe_failed(&self) -> bool {
        self.timers.iter().any(|(timer, _)| matches!(timer, Timer::ChangeSuspectToDown { .. }))
    }
}

impl foca::Runtime<Identity> for Outbox {
    fn notify(&mut self, _: Notification<'_, Identity>) {
        self.changed = true;
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.changed |= matches!(event, Timer::ChangeSuspectToDown { .. });
        self.timers.push((event, after));
    }
}
