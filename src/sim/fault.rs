//! The mix of faults that a seed draws, the storm that it makes, and the calm
//! after it, in which everything must heal.

use std::collections::BTreeSet;

use rand::{Rng, rngs::SmallRng};

use super::{
    Plan, Violation,
    check::{Invariant, Situation, fail, majority_of},
    operate::{Ticket, What},
    world::{Happening, World},
};
use crate::{
    base::catalog::Failover,
    member::{Input, command::Command, view::Health},
};

const SECOND: u64 = 1_000_000;
/// How often healing is looked at, and helped by operators.
const LOOK_EVERY: u64 = SECOND / 2;
/// How long a partition, a pause, a stop may last at most.
const FAULT_MAX: u64 = 12 * SECOND;

/// What can be done to a world. The number is its weight among those drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Partition,
    OneWay,
    Crash,
    CrashCoordinator,
    CrashMany,
    Pause,
    Hint,
    Drift,
    DriftTogether,
    Wipe,
    Rot,
    RotEverywhere,
}

const FAULTS: [(Fault, u32); 12] = [
    (Fault::Partition, 8),
    (Fault::OneWay, 3),
    (Fault::Crash, 8),
    (Fault::CrashCoordinator, 6),
    (Fault::CrashMany, 1),
    (Fault::Pause, 4),
    (Fault::Hint, 2),
    (Fault::Drift, 5),
    (Fault::DriftTogether, 3),
    (Fault::Wipe, 2),
    (Fault::Rot, 2),
    (Fault::RotEverywhere, 1),
];

/// What one seed draws.
#[derive(Clone, Debug)]
pub(super) struct Mix {
    pub members: usize,
    pub skewed_clocks: bool,
    pub timer_late_us: u64,
    pub content_bytes_max: u64,
    pub fetch_mb_s: u64,
    pub work_us_max: u64,
    /// In thousandths.
    pub work_fails: u32,
    /// Between two operator's actions.
    pub operate_every_us: u64,
    /// Publications among these, in hundredths.
    pub publishes: u32,
    sync_us_max: u64,
    /// In thousandths: a sync that takes a second.
    sync_hangs: u32,
    faults: Vec<(Fault, u32)>,
    fault_every_us: u64,
    datagram_loss: u32,
    stream_loss: u32,
    duplicate: u32,
    delay_us_max: u64,
    tail: u32,
}

impl Mix {
    /// Each fault is there or not, and each number drawn on its own.
    pub fn draw(rng: &mut SmallRng, plan: &Plan) -> Self {
        let mut some = |half: bool, max: u32| -> u32 {
            if half && rng.random_bool(0.5) { 0 } else { rng.random_range(0..=max) }
        };
        let (datagram_loss, stream_loss) = (some(true, 250), some(true, 20));
        let (duplicate, tail, work_fails) = (some(true, 100), some(true, 20), some(true, 50));
        let sync_hangs = some(true, 10);
        let faults = FAULTS.iter().filter(|_| rng.random_bool(0.6)).copied().collect();
        Self {
            members: rng.random_range(3..=plan.members_max.max(3)),
            skewed_clocks: rng.random_bool(0.5),
            timer_late_us: [200, 2_000, 30_000][rng.random_range(0..3)],
            content_bytes_max: [100_000, 10_000_000, 400_000_000][rng.random_range(0..3)],
            fetch_mb_s: rng.random_range(10..=200),
            work_us_max: [5_000, 50_000, 800_000][rng.random_range(0..3)],
            work_fails,
            operate_every_us: [300_000, 1_000_000, 4_000_000][rng.random_range(0..3)],
            publishes: rng.random_range(30..=90),
            sync_us_max: [1_000, 10_000, 80_000][rng.random_range(0..3)],
            sync_hangs,
            faults,
            fault_every_us: [500_000, 2_000_000, 6_000_000][rng.random_range(0..3)],
            datagram_loss,
            stream_loss,
            duplicate,
            delay_us_max: [1_000, 10_000, 80_000, 250_000][rng.random_range(0..4)],
            tail,
        }
    }

    /// How long a sync takes, in microseconds.
    pub fn sync(&self, rng: &mut SmallRng) -> u64 {
        if rng.random_range(0..1_000) < self.sync_hangs {
            return SECOND;
        }
        rng.random_range(100..=self.sync_us_max)
    }
}

impl World {
    /// The members of the founding join, in calm weather.
    pub(super) fn gather(&mut self) -> Result<(), Violation> {
        self.run_until(self.now + SECOND / 5)?;
        self.invite(0, self.mix.members - 1)?;
        let end = self.now + 20 * SECOND;
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
        let (fault, operate) = (mix.fault_every_us, mix.operate_every_us);
        if !mix.faults.is_empty() {
            self.later(fault, Happening::Fault);
        }
        self.later(operate / 4, Happening::Operate);
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

    /// One fault, and the next one later.
    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        if !self.storm {
            return Ok(());
        }
        let every = self.mix.fault_every_us;
        let after = self.rng.random_range(every / 4..=every * 2);
        self.later(after, Happening::Fault);
        let total: u32 = self.mix.faults.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.random_range(0..total);
        let mut chosen = Fault::Hint;
        for (fault, weight) in &self.mix.faults {
            if drawn < *weight {
                chosen = *fault;
                break;
            }
            drawn -= weight;
        }
        self.inflict(chosen)
    }

    fn inflict(&mut self, fault: Fault) -> Result<(), Violation> {
        let running: Vec<usize> = self.enrolled_and_running();
        let Some(one) = self.pick(&running) else { return Ok(()) };
        match fault {
            Fault::Partition => self.partition(true),
            Fault::OneWay => self.partition(false),
            Fault::Crash => self.crash_for_a_while(one),
            Fault::CrashCoordinator => {
                let coordinator = self.newest().window.as_ref().map(|w| w.coordinator);
                if let Some(&s) = coordinator.and_then(|id| self.index.get(&id)) {
                    self.crash_for_a_while(s);
                }
            }
            Fault::CrashMany => {
                for s in running {
                    if self.rng.random_bool(0.7) {
                        self.crash_for_a_while(s);
                    }
                }
            }
            Fault::Pause => self.pause(one),
            Fault::Hint => {
                let other = self.pick(&running).unwrap_or(one);
                if other != one {
                    let member = self.servers[other].id;
                    self.feed(one, Input::Lost { member }, super::server::Tag::Other)?;
                }
            }
            Fault::Drift => self.drift(&[one]),
            Fault::DriftTogether => {
                let some: Vec<usize> =
                    (0..self.servers.len()).filter(|_| self.rng.random_bool(0.6)).collect();
                self.drift(&some);
            }
            Fault::Wipe => {
                let app = self.any_app();
                let now = self.now;
                self.servers[one].disk.set_live(now, &app, None);
                self.say(Some(one), &format!("{app} is wiped by hand"));
            }
            Fault::Rot => self.rot(one),
            Fault::RotEverywhere => self.rot_everywhere(),
        }
        Ok(())
    }

    fn a_while(&mut self) -> u64 {
        let longest = [SECOND / 2, 3 * SECOND, FAULT_MAX][self.rng.random_range(0..3)];
        self.rng.random_range(SECOND / 20..longest)
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

    fn crash_for_a_while(&mut self, s: usize) {
        let id = self.servers[s].id;
        self.crash(s);
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
        let after = self.a_while();
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
        let has = |server: &super::server::Server| server.disk.whole.contains(&root);
        let copies = self.servers.iter().filter(|server| has(server)).count();
        if is_committed && (copies < 2 || !majority_of(&self.newest().roster, &self.servers, has)) {
            return;
        }
        self.lose(s, root);
    }

    fn lose(&mut self, s: usize, root: crate::base::Digest) {
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
            if !self.rng.random_bool(0.1) {
                self.drift_of(s, &app);
            }
        }
    }

    fn drift_of(&mut self, s: usize, app: &crate::base::AppName) {
        let (root, now) = (self.new_content().root, self.now);
        self.servers[s].disk.set_live(now, app, Some(root));
        self.say(Some(s), &format!("{app} is changed by hand to {root:?}"));
    }

    // The calm.

    /// Within the plan's time all is well, and stays well through one more
    /// publication.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.heal_once()?;
        let Some(&s) = self.enrolled_and_running().first() else {
            return fail(Invariant::Healed, "nobody runs".to_owned());
        };
        // What was still on its way through the storm may come before it.
        for _ in 0..5 {
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
                self.help()?;
            }
            self.run_until(self.now + LOOK_EVERY)?;
        }
    }

    /// What is not well, if anything.
    fn trouble(&self) -> Option<String> {
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
                let (root, live) = (application.current().root, server.disk.live.get(app));
                if live != Some(&root) {
                    return Some(format!("{app} on {} is {live:?} and not {root:?}", server.name));
                }
            }
            if newest.roster.get(server.id).is_some_and(|m| !m.voter) {
                return Some(format!("{} has no vote yet", server.name));
            }
        }
        None
    }

    /// What only operators do: close held windows, take over manual ones,
    /// resolve hung votes.
    fn help(&mut self) -> Result<(), Violation> {
        let running = self.enrolled_and_running();
        let Some(s) = self.pick(&running) else { return Ok(()) };
        if let Some(window) = self.newest().window.clone() {
            let coordinator = self.index.get(&window.coordinator);
            let lost = coordinator.is_none_or(|c| !running.contains(c));
            if window.held && window.publication.is_none() {
                return self.ask(s, Command::WindowClose, What::Close);
            }
            if window.failover == Failover::Manual && lost {
                self.checker.reach(Situation::OrderedTakeover);
                return self.ask(s, Command::WindowTakeover, What::Order);
            }
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
        let Some(holder) = self.pick(&holders) else { return Ok(()) };
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
