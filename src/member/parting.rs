//! The last moments of a member that is no longer enrolled and may be the only
//! one that knows: it left, or it starts and finds that it had.
//!
//! Its removal counts with the accepts that it collected itself. Were it to
//! stop while nobody has them, and another voter is lost as well, the others
//! could never prove the change nor make one: they still need a majority of a
//! roster that it is part of. So it tells them, and stays until for a while
//! nobody has shown that it does not know.
//!
//! A member with a new key parts from its old id in the same way. Under the new
//! one it can tell nobody, because whoever does not know the change does not
//! know that id. So it goes on as the old one until a majority of the voters
//! knows: any majority that decides something later has one of them in it.
//! Where no majority can be found any more, one other that knows is enough
//! after a while; with none there is no limit of time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Member,
    io::{Effect, Input},
    message::Message,
    operate::{not_enrolled_any_more, refuse_entry},
    rotation::taking_up_a_key,
};
use crate::{
    base::{
        MemberId, Refusal, Time,
        wire::{self, Kind},
    },
    proto::{catalog as register, membership},
};

/// How long nobody may have shown that it does not know: beyond the time in
/// which live members of a small cluster repeat their ballots.
const QUIET: Duration = Duration::from_millis(2_500);
/// The longest stay: whoever has not been reached by then is away.
const LONGEST: Duration = Duration::from_secs(15);
/// How often everybody is told once more.
const AGAIN: Duration = Duration::from_millis(500);

/// How long it still stays.
#[derive(Debug)]
pub(super) struct Parting {
    left: bool,
    until: Time,
    latest: Time,
    again: Time,
    /// The id that it takes up, and who knows of it.
    rotated: Option<(MemberId, BTreeSet<MemberId>)>,
}

impl Parting {
    pub fn new(now: Time, left: bool) -> Self {
        Self { left, until: now + QUIET, latest: now + LONGEST, again: now, rotated: None }
    }

    /// From an id, to take up another one.
    pub fn rotated(now: Time, to: MemberId) -> Self {
        Self { rotated: Some((to, BTreeSet::new())), ..Self::new(now, false) }
    }

    /// Whether it is only from an id.
    pub fn is_rotation(&self) -> bool {
        self.rotated.is_some()
    }

    /// When something is to be done at the latest.
    pub fn deadline(&self) -> Time {
        if let Some((_, know)) = &self.rotated {
            return if know.is_empty() { self.again } else { self.again.min(self.latest) };
        }
        self.until.min(self.latest).min(self.again)
    }
}

impl Member {
    /// What a parting member still heeds.
    pub(super) fn while_parting(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Packet { from, bytes } => {
                self.tell_membership(now, membership::Input::Packet { from, bytes }, effects);
            }
            Input::Message { from, bytes } => {
                let Ok(message) = wire::decode::<Message>(Kind::Message, &bytes) else { return };
                self.tell_membership(now, membership::Input::Heard { from }, effects);
                let knows = match message {
                    Message::Register(register::Message::Ask { sequence }) => sequence,
                    Message::Register(register::Message::Prepare { committed, .. }) => committed,
                    Message::Ballot(signed) | Message::Greeting(signed) => {
                        signed.unproven().map_or(u64::MAX, |ballot| ballot.sequence)
                    }
                    _ => return,
                };
                if knows >= self.catalog().sequence {
                    self.knows_the_new_key(now, from, effects);
                } else {
                    self.inform(knows, from, effects);
                    if let Some(parting) = &mut self.parting {
                        parting.until = now + QUIET;
                    }
                }
            }
            // It heard of the change: nothing else makes it forget a member.
            Input::Disowned { member } => self.knows_the_new_key(now, member, effects),
            Input::Found { id, address, by, bytes } => {
                self.on_found_while_parting(now, id, (address, by), &bytes, effects);
            }
            Input::Command { ticket, .. } => {
                effects.push(Effect::Reply { ticket, result: Err(self.why_parting()) });
            }
            Input::Knock { ticket, .. } => {
                refuse_entry(ticket, self.why_parting(), effects);
            }
            _ => {}
        }
    }

    /// Tells everybody again, or stops.
    pub(super) fn tick_parting(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let mut wants = Vec::new();
        self.membership.tick(now, &mut wants);
        self.heed_membership(now, wants, effects);
        if self.parting.as_ref().is_some_and(Parting::is_rotation) {
            let committed = Arc::clone(self.register.committed());
            self.look_at_seeds(now, &committed.catalog, effects);
        }
        let Some(parting) = &mut self.parting else { return };
        let (over, rotates) =
            (now >= parting.until || now >= parting.latest, parting.is_rotation());
        // A majority that knows may never be found: others may have been removed or
        // have new keys as well since. One that knows tells the rest, in time.
        let known = parting.rotated.as_ref().filter(|(_, know)| !know.is_empty());
        if let Some((to, _)) = known.filter(|_| now >= parting.latest) {
            let to = *to;
            self.parting = None;
            self.take_up(now, to, effects);
        } else if over && !rotates {
            let left = parting.left;
            self.parting = None;
            self.stop_for_good(now, left, effects);
        } else if now >= parting.again {
            parting.again = now + AGAIN;
            let before = self.register.committed().catalog.sequence.saturating_sub(1);
            let told = |id: &MemberId| {
                parting.rotated.as_ref().is_some_and(|(to, know)| id == to || know.contains(id))
            };
            let others = self.register.committed().catalog.roster.members.iter().map(|m| m.id);
            let others: Vec<_> = others.filter(|id| !told(id)).collect();
            for to in others {
                self.inform(before, to, effects);
            }
        }
    }

    fn why_parting(&self) -> Refusal {
        match &self.parting {
            Some(parting) if parting.is_rotation() => taking_up_a_key(),
            _ => not_enrolled_any_more(),
        }
    }

    pub(super) fn knows_the_new_key(
        &mut self,
        now: Time,
        who: MemberId,
        effects: &mut Vec<Effect>,
    ) {
        let roster = &self.register.committed().catalog.roster;
        let parting = self.parting.as_mut().and_then(|parting| parting.rotated.as_mut());
        let Some((to, know)) = parting else { return };
        know.insert(who);
        if roster.is_majority(know) {
            let to = *to;
            self.parting = None;
            self.take_up(now, to, effects);
        }
    }

    fn inform(&mut self, knows: u64, to: MemberId, effects: &mut Vec<Effect>) {
        // A link more than it seems to need: what it has twice does no harm.
        let catch_up = Box::new(self.register.catch_up(knows.saturating_sub(1)));
        self.send(to, &Message::Register(register::Message::Commit(catch_up)), effects);
    }

    /// No more is heard from this member.
    pub(super) fn stop_for_good(&mut self, now: Time, left: bool, effects: &mut Vec<Effect>) {
        if left {
            let mut wants = Vec::new();
            self.membership.leave(now, &mut wants);
            self.heed_membership(now, wants, effects);
        }
        self.expelled = true;
        effects.push(Effect::Expelled { left });
    }
}
