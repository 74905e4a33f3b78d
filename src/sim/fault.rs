//! The storm: what each step of a story does to the world. And the calm after
//! it, in which everything must heal.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Invariant, Situation, Violation,
    check::{electorate, fail, majority_of},
    operate::{Ticket, What},
    server::SKEW_MS_MAX,
    story::Deed,
    world::{Happening, World},
};
use crate::{
    base::catalog::{Application, Failover},
    member::{Input, Message, command::Command, view::Health},
    proto::catalog::Message as Word,
};

const SECOND: u64 = 1_000_000;
/// How often healing is looked at, and helped by operators.
const LOOK_EVERY: u64 = SECOND / 2;
/// How much slower a slow disk is.
const SLOWER: u64 = 30;

/// Who dies at the next word of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ambush {
    /// Whoever promises something to somebody else.
    Voter,
    /// Whoever asks others to accept, after so many were asked.
    Proposer { after: u32 },
    /// The same, if it is the coordinator of the open window.
    Coordinator { after: u32 },
}

impl World {
    /// The members of the founding join, in calm weather.
    pub(super) fn gather(&mut self) -> Result<(), Violation> {
        self.run_until(self.now + SECOND / 5)?;
        self.invite(0, self.mix.members - 1)?;
        let end = self.now + (20 + self.mix.members as u64) * SECOND;
        while self.now < end && self.newest().roster.voters().count() < self.mix.members {
            self.run_until(self.now + SECOND / 5)?;
        }
        Ok(())
    }

    pub(super) fn begin_storm(&mut self) {
        self.say(None, "the storm begins");
        self.storm = true;
        let mix = &self.mix;
        self.network.datagram_loss = mix.datagram_loss;
        self.network.stream_loss = mix.stream_loss;
        self.network.duplicate = mix.duplicate;
        self.network.delay_max = mix.delay_us_max.max(self.network.delay_min + 1);
        self.network.tail = mix.tail;
        self.storm_began = self.now;
        for number in 0..self.steps_of_story.len() {
            let at_us = self.steps_of_story[number].at_us;
            self.later(at_us, Happening::Step(number));
        }
    }

    /// Faults end, everybody comes back.
    pub(super) fn end_storm(&mut self) -> Result<(), Violation> {
        self.say(None, "the storm ends");
        self.storm = false;
        let mut network = super::network::Network::calm();
        network.delay_max = self.network.delay_max.min(20_000);
        self.network = network;
        self.mix.sync_us_max = self.mix.sync_us_max.min(10_000);
        self.mix.sync_hangs = 0;
        self.ambush = None;
        for server in &mut self.servers {
            server.slow_until = 0;
        }
        self.name_seeds();
        for s in 0..self.servers.len() {
            let run = self.servers[s].run;
            let after = self.rng.random_range(0..SECOND);
            self.later(after, Happening::Resume { server: s, run });
            self.later(after, Happening::Start { server: s });
        }
        self.run_until(self.now + SECOND)?;
        // What only shows when nothing stands in its way.
        match self.rng.random_range(0..20) {
            0 => self.rot_everywhere(),
            1..=4 => {
                let more = self.newest().roster.members.len() / 2 + 1;
                let some: Vec<usize> = self.enrolled_and_running().into_iter().take(more).collect();
                self.drift(&some);
            }
            _ => {}
        }
        Ok(())
    }

    // Faults.

    /// One step of the story. What it draws comes from its own number, so that
    /// it does the same when other steps are left out.
    pub(super) fn step(&mut self, number: usize) -> Result<(), Violation> {
        if !self.storm {
            return Ok(());
        }
        let step = self.steps_of_story[number];
        self.say(None, &format!("step {number}: {:?}", step.what));
        let dice = SmallRng::seed_from_u64(u64::from(step.chance));
        let noise = std::mem::replace(&mut self.rng, dice);
        let done = self.inflict(step.what);
        self.rng = noise;
        done
    }

    fn inflict(&mut self, deed: Deed) -> Result<(), Violation> {
        let running: Vec<usize> = self.enrolled_and_running();
        let Some(one) = self.pick(&running) else { return Ok(()) };
        match deed {
            Deed::Partition => self.partition(true),
            Deed::OneWay => self.partition(false),
            Deed::LossyLink => self.lossy_link(one),
            Deed::Crash => self.crash_for_a_while(one)?,
            Deed::CrashCoordinator => {
                let coordinator = self.newest().window.as_ref().map(|w| w.coordinator);
                if let Some(&s) = coordinator.and_then(|id| self.index.get(&id)) {
                    self.crash_for_a_while(s)?;
                }
            }
            Deed::CrashMany => {
                for s in running {
                    if self.rng.random_bool(0.7) {
                        self.crash_for_a_while(s)?;
                    }
                }
            }
            Deed::CrashAll => {
                for s in running {
                    self.crash_for_a_while(s)?;
                }
                if self.servers.iter().all(|s| s.member.is_none()) {
                    self.checker.reach(Situation::AllDown);
                }
            }
            Deed::Flap => self.flap(one)?,
            Deed::AmbushVoter => self.ambush = Some(Ambush::Voter),
            Deed::AmbushProposer => {
                let after = self.rng.random_range(1..4);
                self.ambush = Some(Ambush::Proposer { after });
            }
            Deed::AmbushCoordinator => {
                let after = self.rng.random_range(1..4);
                self.ambush = Some(Ambush::Coordinator { after });
            }
            Deed::Pause => self.pause(one),
            Deed::Hint => {
                let other = self.pick(&running).unwrap_or(one);
                if other != one {
                    let member = self.servers[other].id;
                    self.feed(one, Input::Lost { member }, super::server::Tag::Other)?;
                }
            }
            Deed::Drift => self.drift(&[one]),
            Deed::DriftTogether => {
                let some: Vec<usize> =
                    (0..self.servers.len()).filter(|_| self.rng.random_bool(0.6)).collect();
                self.drift(&some);
            }
            Deed::Wipe => {
                let app = self.any_app();
                let now = self.now;
                self.servers[one].disk.set_live(now, &app, None);
                self.say(Some(one), &format!("{app} is wiped by hand"));
            }
            Deed::Rot => self.rot(one),
            Deed::RotEverywhere => self.rot_everywhere(),
            Deed::RotRecord => self.rot_record(one)?,
            Deed::SlowDisk => {
                let longer = self.a_while();
                self.servers[one].slow_until = self.now + longer;
                self.checker.reach(Situation::SlowDisk);
                self.say(Some(one), "its disk is slow");
            }
            Deed::ClockJump => {
                self.servers[one].skew_ms = self.rng.random_range(1_800_000..=SKEW_MS_MAX);
                self.checker.reach(Situation::ClockJumped);
                self.say(Some(one), "its wall clock jumps");
            }
            Deed::Service
            | Deed::Silence
            | Deed::Judge
            | Deed::JudgeTwice
            | Deed::JudgeDies
            | Deed::StandDown => return self.about_rules(deed),
            Deed::Move | Deed::Swap | Deed::MoveAll => return self.move_servers(deed),
            operators => return self.operate(operators),
        }
        Ok(())
    }

    /// How much longer the disk of `s` takes for everything just now.
    pub(super) fn slower(&self, s: usize) -> u64 {
        if self.now < self.servers[s].slow_until { SLOWER } else { 1 }
    }

    /// `s` has just said this: does somebody die of it?
    pub(super) fn spring(&mut self, s: usize, message: &Message) -> Result<(), Violation> {
        let Some(ambush) = self.ambush else { return Ok(()) };
        let Message::Register(word) = message else { return Ok(()) };
        let id = self.servers[s].id;
        let presides = self.newest().window.as_ref().is_some_and(|w| w.coordinator == id);
        let left = match (ambush, word) {
            (Ambush::Voter, Word::Promise { .. }) => 0,
            (Ambush::Proposer { after }, Word::Accept { .. }) => after - 1,
            (Ambush::Coordinator { after }, Word::Accept { .. }) if presides => after - 1,
            _ => return Ok(()),
        };
        if left > 0 {
            self.ambush = Some(match ambush {
                Ambush::Coordinator { .. } => Ambush::Coordinator { after: left },
                _ => Ambush::Proposer { after: left },
            });
            return Ok(());
        }
        self.ambush = None;
        // A voter comes back before the proposer is done with it.
        let longest = if ambush == Ambush::Voter { SECOND / 20 } else { 3 * SECOND };
        let after = self.rng.random_range(500..longest);
        self.crash(s)?;
        self.later(after, Happening::Start { server: s });
        Ok(())
    }

    /// A process is started again and again, and dies each time.
    fn flap(&mut self, s: usize) -> Result<(), Violation> {
        self.checker.reach(Situation::Flapped);
        self.crash(s)?;
        let mut at = 0;
        for _ in 0..self.rng.random_range(2..6) {
            at += self.rng.random_range(1_000..300_000);
            self.later(at, Happening::Start { server: s });
            at += self.rng.random_range(1_000..300_000);
            self.later(at, Happening::Crash { server: s });
        }
        self.later(at + SECOND / 10, Happening::Start { server: s });
        Ok(())
    }

    /// Most of what goes one way between `s` and the others is lost.
    fn lossy_link(&mut self, s: usize) {
        let others: BTreeSet<usize> = (0..self.servers.len()).filter(|o| *o != s).collect();
        let loss = self.rng.random_range(300..950);
        let one = BTreeSet::from([s]);
        let (from, to) = if self.rng.random_bool(0.5) { (one, others) } else { (others, one) };
        self.checker.reach(Situation::LossyLink);
        self.say(Some(s), &format!("{loss} of 1000 are lost from {from:?} to {to:?}"));
        let partition = self.network.lose(from, to, loss);
        let after = self.a_while();
        self.later(after, Happening::Heal { partition });
    }

    /// A process dies, and when it starts its record is not what was written:
    /// that member is gone for good. Only where a majority stays, and once.
    fn rot_record(&mut self, s: usize) -> Result<(), Violation> {
        let roster = &self.newest().roster;
        let stays =
            |server: &super::server::Server| server.id != self.servers[s].id && !server.gone;
        let once = self.servers.iter().all(|server| !server.rotten);
        if !once || roster.voters().count() < 4 || !majority_of(roster, &self.servers, stays) {
            return Ok(());
        }
        self.crash(s)?;
        let bit = self.rng.random_range(0..1_000_000);
        if self.servers[s].disk.notices_rot(bit) {
            self.servers[s].rotten = true;
            let after = self.a_while();
            self.later(after, Happening::Start { server: s });
        }
        Ok(())
    }

    pub(super) fn a_while(&mut self) -> u64 {
        let most = self.mix.fault_us_max.max(SECOND);
        let longest = [SECOND / 2, most / 4, most][self.rng.random_range(0..3)];
        self.rng.random_range(SECOND / 20..=longest.max(SECOND / 10))
    }

    fn partition(&mut self, both: bool) {
        if self.network.state().1 > 2 {
            return;
        }
        let all: BTreeSet<usize> = (0..self.servers.len()).collect();
        let one: BTreeSet<usize> =
            all.iter().copied().filter(|_| self.rng.random_bool(0.4)).collect();
        let mut other: BTreeSet<usize> = all.difference(&one).copied().collect();
        if !both && self.rng.random_bool(0.5) {
            other = other.into_iter().take(1).collect();
        }
        let text =
            format!("{one:?} is cut off from {other:?}{}", if both { "" } else { ", one way" });
        let partition = self.network.cut(one, other, both);
        self.say(None, &format!("partition {partition}: {text}"));
        let after = self.a_while();
        self.later(after, Happening::Heal { partition });
    }

    fn crash_for_a_while(&mut self, s: usize) -> Result<(), Violation> {
        let id = self.servers[s].id;
        self.crash(s)?;
        let after = self.a_while();
        self.later(after, Happening::Start { server: s });
        // Some transports notice at once.
        for other in self.enrolled_and_running() {
            if self.rng.random_bool(0.3) {
                let (run, after) = (self.servers[other].run, self.rng.random_range(1_000..500_000));
                let input = Input::Lost { member: id };
                self.later(after, Happening::Own { server: other, run, input });
            }
        }
        Ok(())
    }

    fn pause(&mut self, s: usize) {
        let server = &mut self.servers[s];
        if server.paused.is_some() {
            return;
        }
        server.paused = Some(Vec::new());
        let run = server.run;
        self.checker.reach(Situation::Paused);
        self.say(Some(s), "stands still");
        // Longer than that, a host would drop what waits for the process.
        let after = self.a_while().min(60 * SECOND);
        self.later(after, Happening::Resume { server: s, run });
    }

    /// The live content of an application is changed by hand, the same on all of `whom`.
    fn drift(&mut self, whom: &[usize]) {
        let app = self.any_app();
        let earlier: Vec<_> = self
            .newest()
            .application(&app)
            .map(|a| a.versions.iter().map(|v| v.root).collect())
            .unwrap_or_default();
        let root = if !earlier.is_empty() && self.rng.random_bool(0.3) {
            earlier[self.rng.random_range(0..earlier.len())]
        } else {
            self.new_content().root
        };
        let now = self.now;
        for s in whom {
            if self.servers[*s].disk.live.contains_key(&app) {
                self.servers[*s].disk.set_live(now, &app, Some(root));
                self.say(Some(*s), &format!("{app} is changed by hand to {root:?}"));
            }
        }
    }

    fn any_app(&mut self) -> crate::base::AppName {
        self.apps[self.rng.random_range(0..self.apps.len())].clone()
    }

    /// A store loses something, but never the last copy of a committed version.
    fn rot(&mut self, s: usize) {
        let whole: Vec<_> = self.servers[s].disk.whole.iter().copied().collect();
        if whole.is_empty() {
            return;
        }
        let root = whole[self.rng.random_range(0..whole.len())];
        let is_committed =
            self.newest().applications.values().any(|a| a.current().root == root)
                || self.newest().window.as_ref().is_some_and(|w| {
                    w.publication.as_ref().is_some_and(|p| p.version.root == root)
                });
        let has =
            |server: &super::server::Server| !server.gone && server.disk.whole.contains(&root);
        let copies = self.servers.iter().filter(|server| has(server)).count();
        let newest = self.newest();
        let versions = newest.applications.values().map(Application::current);
        let of_enough = versions
            .filter(|v| v.root == root)
            .all(|version| majority_of(&electorate(newest, version), &self.servers, has));
        if is_committed && (copies < 2 || !of_enough) {
            return;
        }
        self.lose(s, root);
    }

    pub(super) fn lose(&mut self, s: usize, root: crate::base::Digest) {
        let disk = &mut self.servers[s].disk;
        if disk.whole.remove(&root) {
            disk.rotten.insert(root);
            disk.ever_rotten.insert(root);
            self.checker.reach(Situation::StoreRotted);
            self.say(Some(s), &format!("its store loses {root:?}"));
        }
    }

    /// No store holds the committed version any more, and everybody's live
    /// content is something else: only an operator can decide that.
    fn rot_everywhere(&mut self) {
        let app = self.any_app();
        let newest = self.newest();
        let Some(root) = newest.application(&app).map(|a| a.current().root) else { return };
        if newest.window.is_some() || self.rng.random_bool(0.6) {
            return;
        }
        for s in 0..self.servers.len() {
            self.lose(s, root);
            if !self.rng.random_bool(0.1) && self.servers[s].disk.live.contains_key(&app) {
                self.drift_of(s, &app);
            }
        }
    }

    pub(super) fn drift_of(&mut self, s: usize, app: &crate::base::AppName) {
        let (root, now) = (self.new_content().root, self.now);
        self.servers[s].disk.set_live(now, app, Some(root));
        self.say(Some(s), &format!("{app} is changed by hand to {root:?}"));
    }

    // The calm.

    /// Within the plan's time all is well, and stays well through one more
    /// publication.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.heal_once()?;
        // What was still on its way through the storm may come before it, even
        // the removal of the one that is asked.
        for _ in 0..5 {
            let Some(&s) = self.enrolled_and_running().first() else {
                return fail(Invariant::Healed, "nobody runs".to_owned());
            };
            let number = self.publish(s)?;
            self.run_until(self.now + SECOND)?;
            self.heal_once()?;
            if self.last_published == Some(number) {
                return Ok(());
            }
        }
        fail(Invariant::Healed, "five publications in calm weather did not come into force".into())
    }

    fn heal_once(&mut self) -> Result<(), Violation> {
        let end = self.now + self.plan.calm_s * SECOND;
        let mut looks = 0_u32;
        loop {
            let Some(trouble) = self.trouble() else { return Ok(()) };
            if self.now >= end {
                for s in self.enrolled_and_running() {
                    self.show(s);
                }
                return fail(Invariant::Healed, trouble);
            }
            looks += 1;
            if looks.is_multiple_of(6) {
                self.join_the_lost()?;
                self.help()?;
            }
            self.run_until(self.now + LOOK_EVERY)?;
        }
    }

    /// What is not well, if anything.
    pub(super) fn trouble(&self) -> Option<String> {
        let newest = self.newest();
        if let Some(window) = &newest.window {
            return Some(format!("window {} is open", window.id));
        }
        let enrolled = |ticket: &Ticket| newest.roster.contains(self.servers[ticket.server].id);
        if let Some((number, ticket)) = self.tickets.iter().find(|(_, t)| enrolled(t)) {
            return Some(format!("{:?} ({number}) is not answered", ticket.what));
        }
        for s in self.enrolled_and_running() {
            let server = &self.servers[s];
            if server.seen != newest.sequence {
                return Some(format!(
                    "{} knows {} of {}",
                    server.name, server.seen, newest.sequence
                ));
            }
            for (app, application) in &newest.applications {
                let (current, live) = (application.current(), server.disk.live.get(app));
                if let Some(trouble) = self.not_taken_back(s, app, application) {
                    return Some(trouble);
                }
                let placed = electorate(newest, current).contains(server.id);
                let wanted = placed.then_some(&current.root);
                if live != wanted && !self.is_stuck(app, application) {
                    let name = &server.name;
                    return Some(format!("{app} on {name} is {live:?} and not {wanted:?}"));
                }
            }
            if newest.roster.get(server.id).is_some_and(|m| !m.voter) {
                return Some(format!("{} has no vote yet", server.name));
            }
        }
        if let Some(trouble) = self.not_where_it_is_enrolled().or_else(|| self.apart()) {
            return Some(trouble);
        }
        let rotten =
            self.servers.iter().find(|s| s.rotten && newest.roster.named(&s.name).is_some());
        if let Some(server) = rotten {
            return Some(format!("{} is lost for good and still enrolled", server.name));
        }
        if let Some(name) = self.without_its_key() {
            return Some(format!("{name} has not taken up its new key"));
        }
        None
    }

    /// Two that run and don't see each other: an island, or somebody who is alone.
    fn apart(&self) -> Option<String> {
        let running = self.enrolled_and_running();
        running.iter().find_map(|s| {
            let server = &self.servers[*s];
            let member = server.member.as_ref()?;
            let unseen = running.iter().find(|other| !member.is_live(self.servers[**other].id))?;
            Some(format!("{} does not see {} live", server.name, self.servers[*unseen].name))
        })
    }

    /// What only operators do: close held windows, take over manual ones,
    /// resolve hung votes.
    fn help(&mut self) -> Result<(), Violation> {
        let running = self.enrolled_and_running();
        let Some(s) = self.pick(&running) else { return Ok(()) };
        if let Some(window) = self.newest().window.clone() {
            let coordinator = self.index.get(&window.coordinator);
            let lost = coordinator.is_none_or(|c| !running.contains(c));
            if window.is_held() && window.publication.is_none() {
                return self.ask(s, Command::WindowClose, What::Close);
            }
            if window.failover == Failover::Manual && lost {
                self.checker.reach(Situation::OrderedTakeover);
                return self.ask(s, Command::WindowTakeover, What::Order);
            }
        }
        // By name: it may be enrolled by a key that it has not taken up.
        let roster = &self.newest().roster;
        let rotten =
            self.servers.iter().find(|s| s.rotten && s.gone && roster.named(&s.name).is_some());
        if let Some(name) = rotten.map(|s| s.name.clone()) {
            // Where an application has nobody else, somebody takes it over first.
            let gone = roster.named(&name).cloned();
            let homeless = self.newest().applications.values().any(|application| {
                let electorate = electorate(self.newest(), application.current());
                electorate.voters().all(|m| m.name == name)
            });
            if let (true, Some(gone)) = (homeless, gone) {
                // All tags of the one that is gone, and no others.
                let heir = self.servers[s].name.clone();
                let tags = roster.named(&heir).map(|m| m.tags.clone()).unwrap_or_default();
                let others = tags.into_keys().filter(|key| !gone.tags.contains_key(key));
                let (member, unset) = (Some(heir), others.collect());
                return self.ask(s, Command::Tags { member, set: gone.tags, unset }, What::Tags);
            }
            self.checker.reach(Situation::RottenMemberRemoved);
            return self.ask(s, Command::Remove { name }, What::Remove);
        }
        self.resolve_hung(s)
    }

    /// An operator sees a hung vote and decides it.
    pub(super) fn resolve_hung(&mut self, s: usize) -> Result<(), Violation> {
        let now = self.now;
        let server = &self.servers[s];
        let Some(member) = &server.member else { return Ok(()) };
        let view = member.view(server.time(now));
        let Some(app) = view.applications.iter().find(|a| a.vote == "hung") else { return Ok(()) };
        self.checker.reach(Situation::Hung);
        if view.health != Health::Critical {
            let detail = format!("{} is hung and health is {:?}", app.name, view.health);
            return fail(Invariant::Healed, detail);
        }
        let app = app.name.parse().expect("a name that was shown");
        let holds = |s: &usize| self.servers[*s].disk.live.contains_key(&app);
        let holders: Vec<usize> = self.enrolled_and_running().into_iter().filter(holds).collect();
        let Some(holder) = self.pick(&holders) else {
            // Those that it was placed on are gone for good.
            return self.publish_app(s, app, None);
        };
        let member = self.servers[holder].name.clone();
        self.ask(s, Command::Resolve { app, member }, What::Resolve)
    }

    /// The view of one member, for the trace of a failure.
    fn show(&mut self, s: usize) {
        let server = &self.servers[s];
        let Some(member) = &server.member else { return };
        let view = member.view(server.time(self.now));
        let mut lines = vec![format!(
            "sequence {}, {:?}: {}",
            view.sequence,
            view.health,
            view.reasons.join(" | ")
        )];
        for app in &view.applications {
            let positions: Vec<String> =
                app.positions.iter().map(|p| format!("{} {}", p.member, p.position)).collect();
            let live = app.name.parse().ok().and_then(|name| server.disk.live.get(&name));
            lines.push(format!(
                "{} version {} ({}), vote {}, live {live:?}, work {:?}, error {:?}: {}",
                app.name,
                app.version,
                &app.root[..10],
                app.vote,
                app.work,
                app.error,
                positions.join(", ")
            ));
        }
        lines.extend(view.window.map(|w| format!("window {}: {}", w.id, w.state)));
        lines.push(format!("store {:?}", server.disk.whole));
        for line in lines {
            self.say(Some(s), &line);
        }
    }
}
