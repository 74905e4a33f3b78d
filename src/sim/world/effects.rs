//! The members are told what happens, and what they want is carried out, as the shell does it for a
//! real one; and each of them has an alarm, which rings late and never early.

use std::collections::BTreeSet;

use rand::Rng;

use super::{Happening, World};
use crate::{
    base::Digest,
    member::{Effect, Input},
    sim::{
        Invariant, Situation, Violation,
        check::{Checker, fail},
        content::COLLECTIONS,
        network::Carrier,
        server::{Tag, Work},
    },
};

/// Ticks in a row that may each want another one at once.
const SPINS_MAX: u32 = 50;

impl World {
    /// The member is told `input`, now or when it goes on.
    pub fn feed(&mut self, s: usize, input: Input, tag: Tag) -> Result<(), Violation> {
        let now = self.now;
        let server = &mut self.servers[s];
        if let Some(waiting) = &mut server.paused {
            waiting.push((input, tag));
            return Ok(());
        }
        server.note(now, tag);
        let (time, wall) = (server.time(now), server.wall(now));
        let Some(member) = &mut server.member else { return Ok(()) };
        let mut effects = Vec::new();
        member.handle(time, wall, input, &mut effects);
        self.after(s, effects)
    }

    pub(super) fn tick(&mut self, s: usize) -> Result<(), Violation> {
        let now = self.now;
        let server = &mut self.servers[s];
        if server.paused.is_some() || server.tick_at.is_some_and(|at| at > now) {
            return Ok(());
        }
        server.tick_at = None;
        let (time, wall) = (server.time(now), server.wall(now));
        let Some(member) = &mut server.member else { return Ok(()) };
        let mut effects = Vec::new();
        member.tick(time, wall, &mut effects);
        let at_once = member.deadline().is_some_and(|due| due <= time);
        server.spins = if at_once { server.spins + 1 } else { 0 };
        if server.spins > SPINS_MAX {
            let detail = format!("{} at {}", server.name, now);
            return fail(Invariant::NoSpin, detail);
        }
        self.after(s, effects)
    }

    /// Carries out what the member wants, and sets its alarm.
    pub(super) fn after(&mut self, s: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        let (mut expelled, mut rotated) = (None, None);
        for effect in effects {
            match effect {
                Effect::Rotated { to } => rotated = Some(to),
                Effect::Expelled { left } => expelled = Some(left),
                other => self.carry_out(s, other)?,
            }
            if self.servers[s].member.is_none() {
                // It died in the middle of it.
                return Ok(());
            }
        }
        let server = &mut self.servers[s];
        let Some(member) = &server.member else { return Ok(()) };
        let (sequence, deadline) = (member.catalog().sequence, member.deadline());
        if Checker::visible(server, sequence)? {
            self.say(Some(s), &format!("knows catalog {sequence}"));
        }
        if let Some(left) = expelled {
            return self.expelled(s, left);
        }
        if let Some(to) = rotated {
            return self.rotated(s, to);
        }
        let server = &mut self.servers[s];
        let Some(deadline) = deadline else { return Ok(()) };
        let due = (deadline.0 + server.boot).saturating_sub(1_000).max(self.now);
        if server.tick_at.is_none_or(|at| due < at) {
            // Timers fire late, never early.
            let late = self.rng.random_range(1..=self.mix.timer_late_us) + self.lag(s);
            let server = &mut self.servers[s];
            let run = server.run;
            server.tick_at = Some(due + late);
            self.later(due + late - self.now, Happening::Tick { server: s, run });
        }
        Ok(())
    }

    fn expelled(&mut self, s: usize, left: bool) -> Result<(), Violation> {
        self.say(Some(s), if left { "has left and stops" } else { "was removed and stops" });
        self.checker.reach(if left { Situation::Left } else { Situation::Removed });
        let open = self.tickets.iter().find(|(_, ticket)| ticket.server == s);
        if let Some((number, ticket)) = open {
            let detail = format!("ticket {number}, {:?}, ends with its member", ticket.what);
            return fail(Invariant::OneAnswer, detail);
        }
        self.servers[s].gone = true;
        self.stop(s);
        Ok(())
    }

    fn carry_out(&mut self, s: usize, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Packet { to, bytes } => {
                self.trace.number(bytes.len() as u64);
                self.count(s, bytes.len());
                let input = Input::Packet { from: self.servers[s].id, bytes };
                self.send(s, to, Carrier::Datagram, input, Tag::Other);
                Ok(())
            }
            Effect::Message { to, bytes } => self.message(s, to, bytes),
            Effect::Persist { token, record } => self.persist(s, token, record),
            Effect::Generation(generation) => {
                let after = self.mix.sync(&mut self.rng);
                let run = self.servers[s].run;
                self.later(after, Happening::GenerationKept { server: s, run, generation });
                Ok(())
            }
            Effect::Peers(roster) => {
                self.servers[s].peers = roster.members.iter().map(|m| m.id).collect();
                self.servers[s].dial_roster(&roster);
                Ok(())
            }
            Effect::Address { member, address } => {
                self.servers[s].dial_at(member, address);
                Ok(())
            }
            // The simulator knows no interfaces: leases have a simulation of their own.
            Effect::Addresses { .. } => Ok(()),
            Effect::NextKey { sequence } => {
                self.draw_next_key(s, sequence);
                Ok(())
            }
            Effect::ForgetKeys { sequence } => {
                self.servers[s].disk.next_keys.retain(|(_, at)| *at >= sequence);
                Ok(())
            }
            Effect::AskAs { id, to, address } => {
                self.ask_as(s, id, to, address);
                Ok(())
            }
            Effect::Seek { id, address } => {
                self.look_who_is_at(s, id, address);
                Ok(())
            }
            Effect::Answer { ticket, bytes } => self.answer(s, ticket, bytes),
            Effect::Reply { ticket, result } => self.reply(s, ticket, result),
            Effect::Fetch { root, whom } => self.fetch(s, root, whom.from),
            Effect::Activate { app, version, sequence, root, keep_edits, .. } => {
                let server = &self.servers[s];
                Checker::whole(server, &app, root)?;
                self.checker.switch(server, &app, version, root)?;
                let work = Work::Activate { version, sequence, root, keep_edits };
                self.work(s, app, work)
            }
            Effect::Scan { app, .. } => self.work(s, app, Work::Scan),
            Effect::Repair { app, root } => {
                let server = &self.servers[s];
                Checker::whole(server, &app, root)?;
                Checker::repair(self.now, server, &app, root)?;
                self.work(s, app, Work::Repair { root })
            }
            Effect::Withdraw { app, sequence } => self.work(s, app, Work::Withdraw { sequence }),
            Effect::Ingest { app } => self.work(s, app, Work::Ingest),
            Effect::Retain { roots } => {
                let roots: BTreeSet<Digest> = roots.into_iter().collect();
                self.checker.retain(s, &self.servers, &roots)?;
                let server = &mut self.servers[s];
                server.disk.whole.retain(|root| roots.contains(root));
                if server.kept.as_ref().is_some_and(|before| !before.is_subset(&roots)) {
                    server.collections = COLLECTIONS;
                }
                server.kept = Some(roots);
                Ok(())
            }
            Effect::Event(event) => {
                let text = format!("[{:?}] {}", event.severity, event.text);
                self.say(Some(s), &text);
                self.observe(s, &event);
                Checker::accuses(&event)
            }
            Effect::Expelled { .. } | Effect::Rotated { .. } => Ok(()),
        }
    }
}
