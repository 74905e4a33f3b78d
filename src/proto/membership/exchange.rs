//! State exchange over streams: what no packet holds. A newcomer asks the
//! first member that answers for all that it knows; later, each member
//! compares a digest with a random other one from time to time, and the two send
//! each other everything where they differ.
//!
//! Gossip forgets an update when it has been told often enough, and with some small
//! probability somebody has missed it. This is what finds that (anti-entropy: Demers
//! et al., 1987; memberlist's push/pull).

use foca::Member;
use serde::{Deserialize, Serialize};

use super::{
    Due, Effect, LEFT, Membership,
    packet::{GENERATION_MAX, Identity, WireMember},
    report::Report,
    run::ME,
    settings::{self, REPORTS_MAX},
};
use crate::base::{
    Digest, MemberId, limits,
    wire::{self, Kind},
};

/// What goes over the stream.
#[derive(Debug, Serialize, Deserialize)]
enum Talk {
    /// "This is the digest of what I know; if yours is another, tell me yours."
    Digest {
        /// Of the runs, and which of them are live.
        digest: Digest,
        /// What some members said of their links.
        #[serde(deserialize_with = "wire::bounded::<_, _, REPORTS_MAX>")]
        reports: Vec<Report>,
    },
    /// What some members said of their links.
    Reports(#[serde(deserialize_with = "wire::bounded::<_, _, REPORTS_MAX>")] Vec<Report>),
    /// All that the sender knows.
    State {
        /// The sender itself.
        me: Identity,
        /// All others.
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
    /// The next exchange is soon, as a newcomer's.
    pub(super) fn exchange_soon(&mut self) {
        self.exchanges = 1;
        let at = self.now + settings::EXCHANGE_FIRST;
        self.schedule(at, Due::Exchange);
    }

    /// Compares notes with one live member, and sets the next time.
    pub(super) fn exchange(&mut self, effects: &mut Vec<Effect>) {
        self.look_after_suspects(effects);
        let live: Vec<u32> = self.table.live().collect();
        let doublings = self.exchanges.min(16);
        let pause = (settings::EXCHANGE_FIRST * (1 << doublings)).min(settings::EXCHANGE_PERIOD);
        let next = self.now + pause * 3 / 4 + self.random.duration_below(pause / 2);
        self.schedule(next, Due::Exchange);
        if live.is_empty() {
            return;
        }
        if self.exchanges == settings::EXCHANGES_EARLY {
            self.tell_of_reach(effects);
        }
        self.exchanges = self.exchanges.saturating_add(1);
        let slot = live[self.random.below(live.len() as u64) as usize];
        let (digest, reports) = (self.digest(), self.some_reports());
        self.talk(slot, &Talk::Digest { digest, reports }, effects);
    }

    /// The first member that answered a newcomer: it is told all, which is little, and
    /// asked for all.
    pub(super) fn introduce(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        let state = self.state(true);
        self.talk(slot, &state, effects);
    }

    pub(super) fn on_exchange(&mut self, from: MemberId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let Some(slot) = self.table.slot(from) else { return };
        // As with packets: another version's words are dropped.
        let Ok(talk) = wire::decode::<Talk>(Kind::Message, bytes) else { return };
        self.hear(slot, effects);
        match talk {
            Talk::Reports(reports) => self.heed_reports(reports),
            Talk::Digest { digest, reports } => {
                self.heed_reports(reports);
                if digest != self.digest() {
                    self.inform(slot, true, effects);
                }
            }
            Talk::State { me, members, reports, reply } => {
                if me.member != from || me.generation > GENERATION_MAX {
                    return;
                }
                let me = Identity::new(me.member, me.address, me.generation);
                self.take_in(slot, me, members, effects);
                self.sync(effects);
                self.heed_reports(reports);
                if reply {
                    self.inform(slot, false, effects);
                }
            }
        }
    }

    /// Sends all that is known, but not again and again: it is long.
    fn inform(&mut self, slot: u32, reply: bool, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.informed.retain(|_, at| now.since(*at) < settings::EXCHANGE_PAUSE);
        if self.informed.contains_key(&slot) {
            return;
        }
        self.informed.insert(slot, now);
        let state = self.state(reply);
        self.talk(slot, &state, effects);
    }

    fn state(&self, reply: bool) -> Talk {
        let members = self
            .foca
            .iter_membership_state()
            .filter(|m| self.table.is_enrolled(m.id().slot))
            .take(limits::MEMBERS_MAX)
            .map(|m| Member::new(self.table.identity(*m.id()), m.incarnation(), m.state()))
            .map(|m| WireMember::from(&m))
            .collect();
        let me = self.table.identity(*self.foca.identity());
        Talk::State { me, members, reports: self.all_reports(), reply }
    }

    /// What is the same on all members that know the same: the runs, and whether they are live.
    fn digest(&self) -> Digest {
        let me = (self.table.me, self.generation(), true, false);
        let others = self.table.slots().map(|slot| {
            let peer = self.table.peer(slot);
            let down = peer.verdict == foca::State::Down;
            let left = down && peer.incarnation == LEFT;
            (self.table.id(slot), peer.generation, !down, left)
        });
        let mut all: Vec<_> = others.chain([me]).filter(|(_, run, ..)| *run > 0).collect();
        all.sort_unstable();
        let mut bytes = Vec::with_capacity(all.len() * 42);
        for (id, generation, live, left) in all {
            bytes.extend_from_slice(&id.0.0);
            bytes.extend_from_slice(&generation.to_le_bytes());
            bytes.extend([u8::from(live), u8::from(left)]);
        }
        Digest::of("althing membership", &bytes)
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
            if run.slot != ME {
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
