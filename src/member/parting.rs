//! The last moments of a member that is no longer enrolled and may be the only
//! one that knows: it left, or it starts and finds that it had.
//!
//! Its removal counts with the accepts that it collected itself. Were it to
//! stop while nobody has them, and another voter is lost as well, the others
//! could never prove the change nor make one: they still need a majority of a
//! roster that it is part of. So it tells them, and stays until for a while
//! nobody has shown that it does not know.

use std::time::Duration;

use super::{
    Member,
    io::{Effect, Input},
    message::Message,
    operate::{not_enrolled_any_more, refuse_entry},
};
use crate::{
    base::{
        MemberId, Time,
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
}

impl Parting {
    pub fn new(now: Time, left: bool) -> Self {
        Self { left, until: now + QUIET, latest: now + LONGEST, again: now }
    }

    /// When something is to be done at the latest.
    pub fn deadline(&self) -> Time {
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
                if knows < self.catalog().sequence {
                    self.inform(knows, from, effects);
                    if let Some(parting) = &mut self.parting {
                        parting.until = now + QUIET;
                    }
                }
            }
            Input::Command { ticket, .. } => {
                effects.push(Effect::Reply { ticket, result: Err(not_enrolled_any_more()) });
            }
            Input::Knock { ticket, .. } => {
                refuse_entry(ticket, not_enrolled_any_more(), effects);
            }
            _ => {}
        }
    }

    /// Tells everybody again, or stops.
    pub(super) fn tick_parting(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let mut wants = Vec::new();
        self.membership.tick(now, &mut wants);
        self.heed_membership(now, wants, effects);
        let Some(parting) = &mut self.parting else { return };
        if now >= parting.until || now >= parting.latest {
            let left = parting.left;
            self.parting = None;
            self.stop_for_good(now, left, effects);
        } else if now >= parting.again {
            parting.again = now + AGAIN;
            let before = self.catalog().sequence.saturating_sub(1);
            let others: Vec<_> = self.catalog().roster.members.iter().map(|m| m.id).collect();
            for to in others {
                self.inform(before, to, effects);
            }
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
