//! Whole members in a scenario that says what happens: the same world as the
//! drawn runs', with the same checks at every step, and a watch on what an
//! operator wants to know.

mod watch;

use std::{collections::BTreeSet, time::Duration};

use rand::Rng;

use super::{
    Plan, Progress, Situation, Story, Violation,
    crowd::{set_latency, us},
    measure::{Measure, Measured, Timed},
    operate::What,
    scenario::{Action, Kind, Scenario},
    story::Mix,
    world::{Happening, World},
};
use crate::{
    base::{AppName, Digest, MemberName, catalog::AppSpec, key::Notary},
    member::command::{Command, Staged},
};

const SECOND: u64 = 1_000_000;
/// Within this time all must have joined and got their vote.
const GATHER_MAX: u64 = 1_200 * SECOND;
/// How late things reach a member that is slow, in microseconds.
const SLOW: std::ops::Range<u64> = 20_000..300_000;
/// What a version has that is published by itself, bytes.
const BYTES: u64 = 1_000_000;

/// What happens next by itself.
#[derive(Clone, Debug)]
pub(super) enum Next {
    Step(usize),
    Rate(Kind),
    Start(usize),
    Resume(usize, u64),
    Heal(u64),
}

/// Something whose end is waited for.
#[derive(Debug)]
enum Waiting {
    /// A version is to be committed, and then to be live on all.
    Version { app: AppName, root: Digest, since: u64, committed: bool },
    /// Content changed by hand is to be right again.
    Repair { server: usize, app: AppName, since: u64 },
}

/// A scenario under way.
pub(super) struct Given {
    scenario: Scenario,
    pub measure: Measure,
    waiting: Vec<Waiting>,
    cut_off: Vec<usize>,
}

impl Given {
    /// How patient the members' failure detectors are.
    pub fn pace(&self) -> u32 {
        self.scenario.pace
    }
}

/// Runs `scenario` with whole members.
pub(super) fn run(scenario: &Scenario, progress: &mut dyn FnMut(Progress)) -> Measured {
    // Signatures of the run's own in place of Ed25519, as most drawn runs have.
    let secret = Digest::of("simulated notary", &scenario.seed.to_le_bytes()).0;
    let _notary = Notary::new(secret);
    let mut world = World::given(scenario);
    let result = world.run_given(progress);
    let trouble = world.trouble();
    let (now, steps, trace) = (world.now, world.steps(), world.trace.hash());
    let given = world.given.take().expect("it was made with one");
    let mut measured = given.measure.report(now, steps, trace);
    measured.violation = result.err().map(|violation| violation.to_string());
    measured.trouble = trouble;
    measured
}

impl World {
    fn given(scenario: &Scenario) -> Self {
        let story = Story {
            seed: scenario.seed,
            storm_us: 0,
            planted: None,
            broke: None,
            weather: Mix::given(scenario.members, scenario.skewed_clocks, scenario.bad_disks),
            steps: Vec::new(),
        };
        let mut world = Self::new(&story, &Plan::default());
        world.mix.fetch_mb_s = (scenario.fetch_per_s / 1_000_000).max(1);
        let apps: BTreeSet<&AppName> =
            scenario.steps.iter().filter_map(|step| step.action.app()).collect();
        world.apps = apps.into_iter().cloned().collect();
        if world.apps.is_empty() {
            world.apps.push(AppName::parse("web").expect("three letters"));
        }
        let joins = scenario.steps.iter().map(|step| match step.action {
            Action::Join(count) => count,
            _ => 0,
        });
        world.servers_max = Some(scenario.members + joins.sum::<usize>());
        world.first_name = 1;
        let measure = Measure::new(scenario, world.now);
        let scenario = scenario.clone();
        let given = Given { scenario, measure, waiting: Vec::new(), cut_off: Vec::new() };
        world.given = Some(Box::new(given));
        world
    }

    fn run_given(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), Violation> {
        self.found()?;
        let members = self.mix.members;
        self.run_until(self.now + SECOND / 5)?;
        self.invite(0, members - 1)?;
        let end = self.now + GATHER_MAX;
        loop {
            let ready = self.newest().roster.voters().count();
            progress(Progress::Preparing { ready, members });
            if ready >= members || self.now >= end {
                break;
            }
            self.run_until(self.now + SECOND / 5)?;
        }
        let scenario = self.the_given().scenario.clone();
        if scenario.rates.drift.is_some() {
            self.publish_given(0, self.apps[0].clone(), BYTES)?;
        }
        self.run_until(self.now + 3 * SECOND)?;
        self.begin_given(&scenario);
        let (begun, total_us) = (self.now, us(scenario.span));
        while self.now < begun + total_us {
            progress(Progress::Running { done_us: self.now - begun, total_us });
            self.run_until((self.now + SECOND / 10).min(begun + total_us))?;
        }
        Ok(())
    }

    /// From here on it counts.
    fn begin_given(&mut self, scenario: &Scenario) {
        self.storm = true;
        let weather = scenario.weather;
        self.network.datagram_loss = weather.loss;
        // QUIC repeats what a stream loses: what is left is a connection that breaks.
        self.network.stream_loss = weather.loss / 20;
        self.network.duplicate = weather.duplicate;
        self.network.tail = weather.tail;
        set_latency(&mut self.network, weather.delay_min, weather.delay_max);
        for server in (scenario.members - scenario.slow)..scenario.members {
            self.servers[server].slow = true;
        }
        let now = self.now;
        self.the_given().measure.begin(now);
        self.the_given().waiting.clear();
        for (number, step) in scenario.steps.iter().enumerate() {
            self.later(us(step.at), Happening::Given(Next::Step(number)));
        }
        for (kind, rate) in scenario.rates.all() {
            let after = self.around(rate.every);
            self.later(after, Happening::Given(Next::Rate(kind)));
        }
    }

    fn the_given(&mut self) -> &mut Given {
        self.given.as_mut().expect("only a scenario asks")
    }

    fn tell(&mut self, text: &str) {
        let now = self.now;
        self.the_given().measure.tell(now, text);
    }

    fn around(&mut self, mean: Duration) -> u64 {
        let mean = us(mean).max(2);
        self.rng.random_range(mean / 2..=mean * 3 / 2)
    }

    // What happens.

    pub(super) fn happen_given(&mut self, next: Next) -> Result<(), Violation> {
        match next {
            Next::Step(number) => {
                let step = self.the_given().scenario.steps[number].clone();
                self.tell(&step.text);
                let now = self.now;
                self.the_given().measure.disturbed(now);
                self.act(step.action)
            }
            Next::Rate(kind) => self.rate(kind),
            Next::Start(server) => self.start_given(server, "started again"),
            Next::Resume(server, run) if self.servers[server].run == run => {
                self.resume_given(server)
            }
            Next::Resume(..) => Ok(()),
            Next::Heal(partition) => {
                self.network.heal(partition);
                if self.network.state().1 == 0 {
                    self.heal_given();
                }
                Ok(())
            }
        }
    }

    fn rate(&mut self, kind: Kind) -> Result<(), Violation> {
        let Some(rate) = self.the_given().scenario.rates.of(kind) else { return Ok(()) };
        let after = self.around(rate.every);
        self.later(after, Happening::Given(Next::Rate(kind)));
        let lasts = self.around(rate.lasts);
        let up: Vec<usize> =
            self.enrolled_and_running().into_iter().filter(|s| self.servers[*s].is_up()).collect();
        let Some(one) = self.pick(&up) else { return Ok(()) };
        let name = self.servers[one].name.clone();
        match kind {
            Kind::Crash => {
                self.tell(&format!("{name} crashes"));
                self.later(lasts, Happening::Given(Next::Start(one)));
                self.kill_given(one, "crashed", true)
            }
            Kind::Pause => {
                self.tell(&format!("{name} stands still"));
                self.pause_given(one);
                let run = self.servers[one].run;
                self.later(lasts, Happening::Given(Next::Resume(one, run)));
                Ok(())
            }
            Kind::Partition => {
                if up.len() < 3 {
                    return Ok(());
                }
                let count = self.rng.random_range(1..=(up.len() - 1) / 2);
                let mut side = BTreeSet::new();
                while side.len() < count {
                    side.insert(up[self.rng.random_range(0..up.len())]);
                }
                let rest = (0..self.servers.len()).filter(|s| !side.contains(s)).collect();
                self.tell(&format!("{count} members are cut off"));
                let number = self.partition_given(&[side.into_iter().collect(), rest]);
                self.later(lasts, Happening::Given(Next::Heal(number)));
                Ok(())
            }
            Kind::Drift => {
                let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
                self.tell(&format!("{app} is changed by hand on {name}"));
                self.change_by_hand(&[one], &app, false);
                Ok(())
            }
            Kind::Publish => {
                let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
                self.tell(&format!("{app} is published on {name}"));
                self.publish_given(one, app, BYTES)
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Kill(whom) => {
                for s in whom {
                    self.kill_given(s, "killed", true)?;
                }
            }
            Action::Silence(whom) => {
                for s in whom {
                    self.kill_given(s, "fell silent", false)?;
                }
            }
            Action::Restart(whom) => {
                for s in whom {
                    self.start_given(s, "started again")?;
                }
            }
            Action::Pause(whom) => whom.into_iter().for_each(|s| self.pause_given(s)),
            Action::Resume(whom) => {
                for s in whom {
                    self.resume_given(s)?;
                }
            }
            Action::Slow(whom) => self.set_slow(&whom, true),
            Action::Fast(whom) => self.set_slow(&whom, false),
            Action::Partition(groups) => drop(self.partition_given(&groups)),
            Action::Cut(from, to) => {
                let set = |whom: Vec<usize>| whom.into_iter().collect();
                self.network.cut(set(from), set(to), false);
            }
            Action::Heal => {
                self.network.heal_all();
                self.heal_given();
            }
            Action::Loss(share) => self.network.datagram_loss = share,
            Action::Latency(from, to) => set_latency(&mut self.network, from, to),
            Action::Join(count) => {
                if let Some(s) = self.anybody() {
                    self.invite(s, count)?;
                }
            }
            Action::Leave(whom) => {
                for s in self.there(&whom) {
                    self.ask_timed(s, Command::Leave, What::Leave)?;
                }
            }
            Action::Remove(whom) => {
                for s in self.there(&whom) {
                    let name = self.servers[s].name.clone();
                    self.remove_given(s, name)?;
                }
            }
            Action::Publish { app, bytes, on } => match on.or_else(|| self.anybody()) {
                Some(s) => self.publish_given(s, app, bytes)?,
                None => self.tell("nobody runs who could publish"),
            },
            Action::Rollback(app) => match self.anybody() {
                Some(s) => {
                    let command = Command::Rollback { app, version: None };
                    self.ask_timed(s, command, What::Rollback)?;
                }
                None => self.tell("nobody runs who could be asked"),
            },
            Action::Drift(whom, app) => self.change_by_hand(&whom, &app, false),
            Action::Wipe(whom, app) => self.change_by_hand(&whom, &app, true),
            Action::Rot(whom, app) => self.rot_given(&whom, &app),
        }
        Ok(())
    }

    /// Some member that runs, the first one.
    fn anybody(&self) -> Option<usize> {
        self.enrolled_and_running().into_iter().find(|s| self.servers[*s].is_up())
    }

    /// Those of `whom` whose server exists: newcomers may still be on their way.
    fn there(&self, whom: &[usize]) -> Vec<usize> {
        whom.iter().copied().filter(|s| *s < self.servers.len()).collect()
    }

    fn set_slow(&mut self, whom: &[usize], slow: bool) {
        for s in self.there(whom) {
            self.servers[s].slow = slow;
        }
    }

    /// How much later something reaches `s`, in microseconds.
    pub(super) fn lag(&mut self, s: usize) -> u64 {
        if self.servers[s].slow { self.rng.random_range(SLOW) } else { 0 }
    }

    fn kill_given(&mut self, s: usize, what: &'static str, refuses: bool) -> Result<(), Violation> {
        if self.servers.get(s).is_none_or(|server| server.member.is_none()) {
            return Ok(());
        }
        self.crash(s)?;
        self.servers[s].refuses = refuses;
        self.missing(s, what);
        Ok(())
    }

    fn start_given(&mut self, s: usize, what: &'static str) -> Result<(), Violation> {
        let there = self.servers.get(s).is_some_and(|server| server.member.is_none());
        if !there {
            return Ok(());
        }
        // Before it starts: who sees it come back sees it then.
        if !self.servers[s].gone {
            let now = self.now;
            self.the_given().measure.is(now, s, true, false);
            self.the_given().measure.returns(now, s, what);
        }
        self.start(s)
    }

    fn pause_given(&mut self, s: usize) {
        if self.servers.get(s).is_none_or(|server| !server.is_up()) {
            return;
        }
        self.servers[s].paused = Some(Vec::new());
        self.checker.reach(Situation::Paused);
        self.say(Some(s), "stands still");
        self.missing(s, "stood still");
    }

    fn resume_given(&mut self, s: usize) -> Result<(), Violation> {
        if self.servers.get(s).is_none_or(|server| server.paused.is_none()) {
            return Ok(());
        }
        let now = self.now;
        self.the_given().measure.is(now, s, true, false);
        self.the_given().measure.returns(now, s, "went on");
        self.resume(s)
    }

    /// The others are to learn that `s` is not there.
    fn missing(&mut self, s: usize, what: &'static str) {
        let up = self.servers[s].member.is_some();
        let now = self.now;
        let network = &self.network;
        let Some(given) = &mut self.given else { return };
        given.measure.is(now, s, up, up);
        given.measure.fails(now, s, what, |other| network.connects(s, other));
    }

    fn partition_given(&mut self, groups: &[Vec<usize>]) -> u64 {
        let sets: Vec<BTreeSet<usize>> =
            groups.iter().map(|group| group.iter().copied().collect()).collect();
        let number = self.network.split(&sets);
        let largest = (0..sets.len()).max_by_key(|g| sets[*g].len()).unwrap_or(0);
        let now = self.now;
        for (g, group) in groups.iter().enumerate().filter(|(g, _)| *g != largest) {
            for &member in group {
                let inside = &sets[g];
                let given = self.the_given();
                if given.measure.is_well(member) {
                    given.measure.fails(now, member, "cut off", |o| !inside.contains(&o));
                    given.cut_off.push(member);
                }
            }
        }
        number
    }

    fn heal_given(&mut self) {
        let now = self.now;
        let given = self.the_given();
        given.measure.healed(now);
        for member in std::mem::take(&mut given.cut_off) {
            if given.measure.is_well(member) {
                given.measure.returns(now, member, "within reach again");
            }
        }
    }

    // Operators.

    /// Asks, and measures until the commit.
    fn ask_timed(&mut self, s: usize, command: Command, what: What) -> Result<(), Violation> {
        if !self.servers[s].is_up() {
            let text = format!("{} does not run and can't be asked", self.servers[s].name);
            self.tell(&text);
            return Ok(());
        }
        self.the_given().measure.begins(Timed::Commit);
        self.ask(s, command, what)
    }

    fn remove_given(&mut self, s: usize, name: MemberName) -> Result<(), Violation> {
        let up = self.enrolled_and_running();
        match up.into_iter().find(|other| *other != s && self.servers[*other].is_up()) {
            Some(other) => self.ask_timed(other, Command::Remove { name }, What::Remove),
            None => {
                self.tell("nobody else runs who could be asked");
                Ok(())
            }
        }
    }

    fn publish_given(&mut self, s: usize, app: AppName, bytes: u64) -> Result<(), Violation> {
        let files = 1 + bytes / 50_000;
        self.content_next += 1;
        let root = Digest::of("simulated content", &self.content_next.to_le_bytes());
        let staged = Staged { root, files, bytes };
        self.contents.insert(root, staged);
        if self.servers.get(s).is_none_or(|server| !server.is_up()) {
            self.tell(&format!("m{} does not run and can't publish", s + 1));
            return Ok(());
        }
        self.servers[s].disk.put(root);
        let number = self.ticket_next + 1;
        let message = format!("publication {number} from {}", self.servers[s].name);
        let what = What::Publish { app: app.clone(), root, message: message.clone() };
        let spec = Box::new(AppSpec::default());
        let since = self.now;
        let given = self.the_given();
        given.measure.begins(Timed::Commit);
        given.measure.begins(Timed::Spread);
        let waiting = Waiting::Version { app: app.clone(), root, since, committed: false };
        given.waiting.push(waiting);
        self.ask(s, Command::Publish { app, staged, spec, message, base: None }, what)
    }

    fn change_by_hand(&mut self, whom: &[usize], app: &AppName, wipe: bool) {
        let root = (!wipe).then(|| self.new_content().root);
        let now = self.now;
        for &server in whom {
            if self.servers.get(server).is_none_or(|s| !s.disk.live.contains_key(app)) {
                let text = format!("m{} holds no {app} that could be changed", server + 1);
                self.tell(&text);
                continue;
            }
            self.servers[server].disk.set_live(now, app, root);
            let given = self.the_given();
            given.measure.begins(Timed::Repair);
            given.waiting.push(Waiting::Repair { server, app: app.clone(), since: now });
        }
    }

    fn rot_given(&mut self, whom: &[usize], app: &AppName) {
        let Some(root) = self.newest().application(app).map(|a| a.current().root) else {
            self.tell(&format!("nothing is published as {app}"));
            return;
        };
        for server in self.there(whom) {
            self.lose(server, root);
        }
    }
}
