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
    sync::Arc,
    time::Duration,
};

use foca::{Foca, Incarnation, Member, Message, NoCustomBroadcast, Timer};

use crate::base::{MemberId, Time, catalog::Roster};

mod clock;
mod coordinate;
mod exchange;
mod interface;
mod knocking;
pub mod packet;
mod random;
mod reach;
mod receive;
mod report;
mod run;
mod settings;
mod settle;
#[cfg(test)]
mod sim;
mod suspicion;
mod table;
#[cfg(test)]
mod tests;
mod translate;
mod verdict;

use clock::Clock;
pub use coordinate::Place;
pub use interface::{Contact, Effect, Input, State};
use random::Random;
pub use report::Reach;
use report::Report;
use run::{ME, Run, RunCodec};
use settle::Outbox;
use suspicion::Suspicion;
pub use table::{Directory, Index};
use table::{Table, Turnover};
use verdict::Dispute;

/// What a timer is for.
#[derive(Clone, Debug)]
enum Due {
    Foca(Timer<Run>),
    Knock(u32),
    Rounds,
    Suspicion(u32),
    Dispute(u32),
    Exchange,
    Greet(u32),
    Reach,
    Retell,
    Spread,
}

/// The machine. Feed it packets that wait before firing its timers.
pub struct Membership {
    me: MemberId,
    foca: Foca<Run, RunCodec, Random, NoCustomBroadcast>,
    outbox: Outbox,
    random: Random,
    clock: Clock,
    /// By the machine's own clock.
    now: Time,
    /// Timers, by time and then in the order they were set.
    agenda: BTreeMap<(Time, u64), Due>,
    agenda_next: u64,
    table: Table,
    suspicions: BTreeMap<u32, Suspicion>,
    disputes: BTreeMap<u32, Dispute>,
    /// Suspects out of reach while nobody at all was heard: shown as down, but
    /// no verdict is spread, as the fault is probably ours.
    presumed: BTreeSet<u32>,
    /// Who was asked directly and has not answered.
    unanswered: BTreeSet<u32>,
    /// Who of them was told to be out of reach.
    missed: BTreeSet<u32>,
    /// Whom others may still think to be out of this member's reach, because
    /// they were told so: until it is reached, and they are told that.
    told_of: BTreeSet<u32>,
    /// Whether others were ever told of anybody out of reach.
    has_told: bool,
    /// When each of a few peers was last sent the whole state.
    informed: BTreeMap<u32, Time>,
    exchanges: u32,
    vivaldi: coordinate::Vivaldi,
    recent: BTreeMap<u32, coordinate::Recent>,
    /// What each member said last of its links.
    reports: BTreeMap<u32, Report>,
    /// Whether somebody was asked for all that it knows since this run began.
    introduced: bool,
    /// Whether the word of a new run is about to go out, and when the next one may.
    spreads: bool,
    spread_from: Time,
    /// Doubts that came before the suspicion: who, about whom, which incarnation.
    doubted: Vec<(u32, u32, Incarnation)>,
    heard_any: Time,
    verdicts_from: Time,
    born: Time,
    unwell: u32,
    generation_told: u64,
    left: bool,
}

impl Membership {
    /// A member that knows nobody yet. `generation` must exceed every one used
    /// before: the larger of wall-clock milliseconds and the persisted
    /// [`Effect::Generation`] plus one. `seed` should differ between members.
    pub fn new(now: Time, me: MemberId, address: SocketAddr, generation: u64, seed: u64) -> Self {
        let run = Run { slot: ME, generation: generation.min(packet::GENERATION_MAX) };
        let config = settings::config(0);
        let mut random = Random::new(seed);
        // Members that start together don't make their rounds together.
        let rounds_at = now + random.duration_below(settings::ROUNDS_PERIOD);
        Self {
            me,
            foca: Foca::new(run, config, Random::new(!seed), RunCodec),
            outbox: Outbox::default(),
            random,
            clock: Clock::new(now),
            now,
            agenda: BTreeMap::from([((rounds_at, 0), Due::Rounds)]),
            agenda_next: 1,
            table: Table::new(me, address),
            suspicions: BTreeMap::new(),
            disputes: BTreeMap::new(),
            presumed: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            missed: BTreeSet::new(),
            told_of: BTreeSet::new(),
            has_told: false,
            informed: BTreeMap::new(),
            exchanges: 0,
            vivaldi: coordinate::Vivaldi::default(),
            recent: BTreeMap::new(),
            reports: BTreeMap::new(),
            introduced: false,
            spreads: false,
            spread_from: now,
            doubted: Vec::new(),
            heard_any: now,
            verdicts_from: now,
            born: now,
            unwell: 0,
            generation_told: 0,
            left: false,
        }
    }

    /// Takes over who is enrolled. Newcomers are knocked at, removed members
    /// forgotten: from here on nothing that names them is believed.
    pub fn set_roster(&mut self, now: Time, roster: &Roster, effects: &mut Vec<Effect>) {
        let index = Arc::new(self.table.index().extended(roster));
        self.set_index(now, index, effects);
    }

    /// As [`set_roster`](Self::set_roster), for many machines in one process that share
    /// an index. Each has to [extend](Index::extended) the one that it was given before.
    pub fn set_index(&mut self, now: Time, index: Arc<Index>, effects: &mut Vec<Effect>) {
        self.enter(now);
        if self.left {
            return;
        }
        let Turnover { new, gone, moved } = self.table.set_index(index, self.now, now);
        for slot in gone {
            self.forget(slot);
        }
        if self.exchanges == 0 {
            self.exchange_soon();
            self.knock_first(new);
        } else {
            self.knock_all(new);
        }
        for slot in moved {
            self.knock_afresh(slot, Duration::ZERO);
        }
        // Refused only where a period changes, and ours are constant.
        let accepted = self.foca.set_config(settings::config(self.table.size()));
        debug_assert!(accepted.is_ok(), "the periods are constant");
        self.settle(effects);
    }

    /// How wide the network is: every span of the detector is `pace` times as long
    /// from here on, from 1 for a local network to 8. All members should have the same: one that is
    /// quicker than the rest suspects them sooner, and they clear themselves.
    pub fn set_pace(&mut self, now: Time, pace: u32) {
        self.enter(now);
        self.clock.set_pace(now, pace);
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.enter(now);
        if self.left {
            return;
        }
        match input {
            Input::Packet { from, bytes } => self.receive(from, &bytes, effects),
            Input::Heard { from } => {
                if let Some(slot) = self.table.slot(from) {
                    self.hear(slot, effects);
                }
            }
            Input::Lost { member } => self.suspect_by_hint(member, false, effects),
            Input::Refused { member } => self.suspect_by_hint(member, true, effects),
            Input::Exchange { from, bytes } => self.on_exchange(from, &bytes, effects),
            Input::Found { member, address } => self.found_at(member, address, effects),
        }
        self.settle(effects);
    }

    /// When [`tick`](Self::tick) is due next.
    pub fn deadline(&self) -> Option<Time> {
        self.agenda.first_key_value().map(|(&(at, _), _)| self.clock.owners(at))
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
                Due::Foca(probe @ Timer::ProbeRandomMember(_)) if self.is_young() => {
                    self.schedule(self.now + settings::PROBE_PERIOD, Due::Foca(probe));
                }
                Due::Foca(timer) => self.fire(timer),
                Due::Knock(slot) => self.knock(slot, at, effects),
                Due::Rounds => self.make_rounds(effects),
                Due::Suspicion(slot) => self.review_suspicion(slot, at, effects),
                Due::Dispute(slot) => self.close_dispute(slot, effects),
                Due::Exchange => self.exchange(effects),
                Due::Greet(slot) => self.greet(slot, effects),
                Due::Reach => self.review_reach(effects),
                Due::Spread => self.spread(),
                Due::Retell => self.tell_of_reach(effects),
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
        let mut live: Vec<Run> = self.table.live().map(|slot| self.table.run(slot)).collect();
        while live.len() > GOODBYES_MAX {
            let index = self.random.below(live.len() as u64) as usize;
            live.swap_remove(index);
        }
        for dst in live {
            self.send_own(dst, Message::Gossip, vec![goodbye.clone()], effects);
        }
    }

    /// Every enrolled member but this one.
    pub fn directory(&self) -> Directory<'_> {
        Directory(&self.table)
    }

    /// Whether work may be given to `member`. This one is always live to itself.
    pub fn is_live(&self, member: MemberId) -> bool {
        let slot = self.table.slot(member);
        member == self.me || slot.is_some_and(|slot| self.table.peer(slot).state.is_live())
    }

    /// Whether `member` is live and answers this one's own questions. One that doesn't
    /// should be given no work: what it is sent, or what it answers, gets lost.
    pub fn is_reached(&self, member: MemberId) -> bool {
        let peer = self.table.slot(member).map(|slot| self.table.peer(slot));
        member == self.me || peer.is_some_and(|peer| peer.state.is_live() && peer.reached)
    }

    /// How unwell this member thinks it is, from 0: verdicts take that many
    /// times longer, more.
    pub fn unwell(&self) -> u32 {
        self.unwell
    }

    /// Suspicions that are open, disputes included.
    pub fn suspicions(&self) -> usize {
        self.suspicions.len() + self.disputes.len()
    }

    /// Updates that gossip still has to carry.
    pub fn backlog(&self) -> usize {
        self.foca.updates_backlog()
    }

    /// The generation in use.
    pub fn generation(&self) -> u64 {
        self.foca.identity().generation
    }
}

/// No time at all, for what has not happened.
const NEVER: Time = Time(0);
/// The incarnation of an obituary that a member wrote itself. No verdict has
/// it: foca renews an identity before its incarnation gets there.
const LEFT: Incarnation = Incarnation::MAX;
/// To how many a leaving member says goodbye in person.
const GOODBYES_MAX: usize = 64;

impl Membership {
    /// Sets the clock. If a timer should have fired long ago, then the process
    /// stood still: time did not pass for it, and everything moves on by what
    /// it missed. Otherwise it would wake to a row of expired verdicts.
    fn enter(&mut self, now: Time) {
        if let Some(late) = self.deadline().map(|due| now.since(due))
            && late > self.clock.stretch(settings::LATE)
        {
            self.clock.skip(late);
            self.verdicts_from = self.clock.read(now) + settings::PAUSE_GRACE;
            self.unwell = (self.unwell + 1).min(settings::UNWELL_MAX);
        }
        self.now = self.now.max(self.clock.read(now));
    }

    fn schedule(&mut self, at: Time, due: Due) {
        self.agenda.insert((at, self.agenda_next), due);
        self.agenda_next += 1;
    }
}
