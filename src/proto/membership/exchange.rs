//! State exchange over streams: what no packet holds. A newcomer asks the
//! first member that answers for all that it knows; later, each member
//! compares digests with a random other one from time to time, and the two send
//! each other what they know of the parts that differ: a few dozen members
//! each, so that one change costs the same in a cluster of any size.
//!
//! Gossip forgets an update when it has been told often enough, and with some small
//! probability somebody has missed it. This is what finds that (anti-entropy: Demers
//! et al., 1987; memberlist's push/pull).

use std::net::SocketAddr;

use foca::Member;
use serde::{Deserialize, Serialize};

use super::{
    Due, Effect, LEFT, Membership, NEVER,
    packet::{GENERATION_MAX, Identity, WireMember},
    report::Report,
    run::ME,
    settings::{self, REPORTS_MAX},
};
use crate::base::{
    Digest, MemberId, Time, limits,
    wire::{self, Kind},
};

/// Members in one part, or more where there would be too many parts.
const PART: usize = 64;
/// Parts that are compared: some 600 bytes of digests.
const PARTS_MAX: usize = 128;

/// What goes over the stream.
#[derive(Debug, Serialize, Deserialize)]
enum Talk {
    /// "These are digests of what I know; where yours are others, tell me yours."
    Digest {
        /// Of the runs, and which of them are live, part by part.
        #[serde(deserialize_with = "wire::bounded::<_, _, PARTS_MAX>")]
        parts: Vec<u32>,
        /// What some members said of their links.
        #[serde(deserialize_with = "wire::bounded::<_, _, REPORTS_MAX>")]
        reports: Vec<Report>,
    },
    /// What some members said of their links.
    Reports(#[serde(deserialize_with = "wire::bounded::<_, _, REPORTS_MAX>")] Vec<Report>),
    /// What the sender knows.
    State {
        /// The sender itself.
        me: Identity,
        /// Of which parts; of all where none is named.
        #[serde(deserialize_with = "wire::bounded::<_, _, PARTS_MAX>")]
        parts: Vec<u8>,
        /// The others.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
        members: Vec<WireMember>,
        /// What they said of their links.
        #[serde(deserialize_with = "wire::bounded::<_, _, REPORTS_MAX>")]
        reports: Vec<Report>,
        /// Whether the receiver is asked for its own.
        reply: bool,
    },
}

impl Membership {
    /// Takes over who lives, from somebody who knows: enrolled members with
    /// the address and the generation of their run. News of them is not spread,
    /// as the others know it, and who was met so needs no knock.
    pub fn acquaint(
        &mut self,
        now: Time,
        live: &[(MemberId, SocketAddr, u64)],
        effects: &mut Vec<Effect>,
    ) {
        self.enter(now);
        let mut met = Vec::with_capacity(live.len());
        for &(member, address, generation) in live {
            let identity = Identity::new(member, address, generation.min(GENERATION_MAX));
            let run = self.table.run_of(&identity).filter(|run| run.slot != ME);
            let Some(run) = run else { continue };
            if identity.address == self.table.heard_at(run.slot) {
                self.outbox.touched.push(run.slot);
            } else {
                self.outbox.name(run.slot, identity);
            }
            met.push(Member::alive(run));
        }
        let _ = self.foca.apply_many(met.into_iter(), false, &mut self.outbox);
        self.introduced = true;
        self.exchanges = u32::MAX;
        self.settle(effects);
        let table = &self.table;
        self.agenda.retain(|_, due| match due {
            Due::Knock(slot) => table.peer(*slot).knock_at != NEVER,
            Due::Exchange => false,
            _ => true,
        });
        let at = self.now + self.random.duration_below(settings::EXCHANGE_PERIOD);
        self.schedule(at, Due::Exchange);
    }

    /// The next exchange is soon, as a newcomer's.
    pub(super) fn exchange_soon(&mut self) {
        self.exchanges = 1;
        let first = match self.compares_often() {
            true => settings::EXCHANGE_YOUNG,
            false => settings::EXCHANGE_FIRST,
        };
        let at = self.now + first;
        self.schedule(at, Due::Exchange);
    }

    /// Whether this member is one of many that may have started together: they know little, and learn
    /// it from the few that they have spoken with.
    pub(super) fn compares_often(&self) -> bool {
        let age = self.now.since(self.born);
        self.is_young() && age < settings::GREET_LATER * 2 && self.table.size() <= settings::CROWD
    }

    /// Compares notes with one live member, and sets the next time.
    pub(super) fn exchange(&mut self, effects: &mut Vec<Effect>) {
        self.look_after_suspects(effects);
        let often = self.compares_often();
        let mut live: Vec<u32> = self.table.live().collect();
        if often {
            live.retain(|slot| self.has_met(*slot));
        }
        let doublings = self.exchanges.min(16);
        let pause = match often {
            true => settings::EXCHANGE_YOUNG,
            false => (settings::EXCHANGE_FIRST * (1 << doublings)).min(settings::EXCHANGE_PERIOD),
        };
        let next = self.now + pause * 3 / 4 + self.random.duration_below(pause / 2);
        self.schedule(next, Due::Exchange);
        if live.is_empty() {
            return;
        }
        // In a larger cluster the comparisons carry it, unless somebody is missed.
        let worth_it = self.table.size() <= settings::FEW || !self.missed.is_empty();
        if self.exchanges == settings::EXCHANGES_EARLY && worth_it {
            self.tell_of_reach(effects);
        }
        let most = if often { settings::EXCHANGES_EARLY } else { u32::MAX };
        self.exchanges = self.exchanges.saturating_add(1).min(most);
        let slot = live[self.random.below(live.len() as u64) as usize];
        let (parts, reports) = (self.digests(), self.some_reports());
        self.talk(slot, &Talk::Digest { parts, reports }, effects);
    }

    /// The first member that answered a newcomer: it is told all, which is little, and
    /// asked for all.
    pub(super) fn introduce(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let state = self.state(Vec::new(), true);
        self.talk(slot, &state, effects);
    }

    pub(super) fn on_exchange(&mut self, from: MemberId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let Some(slot) = self.table.slot(from) else { return };
        // As with packets: another version's words are dropped.
        let Ok(talk) = wire::decode::<Talk>(Kind::Message, bytes) else { return };
        self.hear(slot, effects);
        match talk {
            Talk::Reports(reports) => self.heed_reports(reports),
            Talk::Digest { parts, reports } => {
                self.heed_reports(reports);
                let mine = self.digests();
                if parts.len() != mine.len() {
                    // Another roster, for now.
                    self.inform(slot, Vec::new(), true, effects);
                } else if parts != mine {
                    let differ = (0_u8..).zip(parts.iter().zip(&mine));
                    let differ = differ.filter(|(_, (a, b))| a != b).map(|(part, _)| part);
                    self.inform(slot, differ.collect(), true, effects);
                }
            }
            Talk::State { me, parts, members, reports, reply } => {
                if me.member != from || me.generation > GENERATION_MAX {
                    return;
                }
                let me = Identity::new(me.member, me.address, me.generation);
                self.take_in(slot, me, members, effects);
                self.sync(effects);
                self.heed_reports(reports);
                if reply {
                    self.inform(slot, parts, false, effects);
                }
            }
        }
    }

    /// Sends what is known of `parts`, but not again and again: it may be long.
    fn inform(&mut self, slot: u32, parts: Vec<u8>, reply: bool, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.informed.retain(|_, at| now.since(*at) < settings::EXCHANGE_PAUSE);
        if self.informed.contains_key(&slot) {
            return;
        }
        self.informed.insert(slot, now);
        let state = self.state(parts, reply);
        self.talk(slot, &state, effects);
    }

    /// How many parts are compared; a power of two.
    fn parts(&self) -> usize {
        (self.table.size() / PART).next_power_of_two().min(PARTS_MAX)
    }

    /// The part of `id`: the first bits of it, so that the order of ids is that of parts.
    fn part_of(id: MemberId, parts: usize) -> usize {
        usize::from(id.0.0[0]) * parts / 256
    }

    fn state(&self, parts: Vec<u8>, reply: bool) -> Talk {
        let count = self.parts();
        let asked = |slot| {
            let part = Self::part_of(self.table.id(slot), count);
            parts.is_empty() || parts.iter().any(|asked| usize::from(*asked) == part)
        };
        let members = self
            .foca
            .iter_membership_state()
            .filter(|m| self.table.is_enrolled(m.id().slot) && asked(m.id().slot))
            .take(limits::MEMBERS_MAX)
            .map(|m| Member::new(self.table.identity(*m.id()), m.incarnation(), m.state()))
            .map(|m| WireMember::from(&m))
            .collect();
        let me = self.table.identity(*self.foca.identity());
        let reports = if parts.is_empty() { self.all_reports() } else { Vec::new() };
        Talk::State { me, parts, members, reports, reply }
    }

    /// What is the same on all members that know the same: the runs, and whether they are
    /// live. The first bytes of a digest do: a difference that they miss is found with the
    /// next change.
    fn digests(&self) -> Vec<u32> {
        let count = self.parts();
        let mut parts = vec![Vec::new(); count];
        // By id, which is no order of the slots: those are each member's own.
        for slot in self.table.slots_by_id() {
            let bytes = &mut parts[Self::part_of(self.table.id(slot), count)];
            let (generation, live, left) = if slot == ME {
                (self.generation(), true, false)
            } else {
                let peer = self.table.peer(slot);
                let down = peer.verdict == foca::State::Down;
                (peer.generation, !down, down && peer.incarnation == LEFT)
            };
            if generation > 0 {
                bytes.extend_from_slice(&self.table.id(slot).0.0);
                bytes.extend_from_slice(&generation.to_le_bytes());
                bytes.extend([u8::from(live), u8::from(left)]);
            }
        }
        let short = |bytes: &Vec<u8>| {
            let [a, b, c, d, ..] = Digest::of("althing membership", bytes).0;
            u32::from_le_bytes([a, b, c, d])
        };
        parts.iter().map(short).collect()
    }

    fn take_in(
        &mut self,
        slot: u32,
        sender: Identity,
        members: Vec<WireMember>,
        effects: &mut Vec<Effect>,
    ) {
        // To somebody who has hardly met anybody all is news, and to nobody else.
        let seen = self.table.slots().filter(|slot| self.table.peer(*slot).is_seen()).count();
        let newcomer = seen * 2 < self.table.size();
        let mut updates: Vec<Member<Identity>> =
            members.into_iter().filter_map(|member| member.read().ok()).collect();
        let mine = updates.iter().map(Member::id).filter(|id| id.member == self.table.me);
        if let Some(newest) = mine.map(|id| id.generation).max() {
            self.outrun_generation(newest);
        }
        self.dispute(slot, &mut updates, effects);
        updates.push(Member::new(sender, 0, foca::State::Alive));
        let mut news = Vec::with_capacity(updates.len());
        for update in updates {
            let Some(run) = self.table.run_of(update.id()) else { continue };
            if run.slot != ME && update.id().address == self.table.heard_at(run.slot) {
                self.outbox.touched.push(run.slot);
            } else if run.slot != ME {
                self.outbox.name(run.slot, *update.id());
            }
            news.push(Member::new(run, update.incarnation(), update.state()));
        }
        let _ = self.foca.apply_many(news.into_iter(), !newcomer, &mut self.outbox);
    }

    pub(super) fn talk_reports(&self, slot: u32, reports: Vec<Report>, effects: &mut Vec<Effect>) {
        self.talk(slot, &Talk::Reports(reports), effects);
    }

    fn talk(&self, slot: u32, talk: &Talk, effects: &mut Vec<Effect>) {
        if let Ok(bytes) = wire::try_encode(Kind::Message, talk) {
            effects.push(Effect::Exchange { to: self.table.id(slot), bytes });
        }
    }
}
