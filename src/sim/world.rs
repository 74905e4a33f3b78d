//! The world: one queue of events by time, the servers, and what carries out
//! the members' effects. Here is the order of things; what content, faults
//! and operators do is in the modules of these names.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Invariant, Plan, Report, Situation, Story, Violation,
    check::{Checker, fail},
    fault::Ambush,
    given::{Given, Next},
    network::{Carrier, Network},
    operate::Ticket,
    rotate::Waiting,
    server::{Disk, SKEW_MS_MAX, Server, Tag},
    story::{Mix, Step},
    trace::Trace,
};
use crate::{
    base::{
        AppName, Digest, MemberId, PublicKey, SecretKey,
        catalog::{Catalog, Enrolled},
        wire::{self, Kind},
    },
    member::{
        Config, Effect, Input, Member, Message, Restored,
        command::{Command, Staged},
    },
    proto::catalog::{Message as Word, Record},
};

/// More events in a virtual second than any sane run has for each of its
/// members: something goes round in circles.
const EVENTS_MAX_PER_S: u64 = 20_000;
/// Ticks in a row that may each want another one at once.
const SPINS_MAX: u32 = 50;

/// What is going to happen.
pub(super) enum Happening {
    Deliver {
        to: usize,
        run: u64,
        from: usize,
        input: Input,
        tag: Tag,
    },
    /// Something of the server's own: void if it does not run any more.
    Own {
        server: usize,
        run: u64,
        input: Input,
    },
    Tick {
        server: usize,
        run: u64,
    },
    Synced {
        server: usize,
        run: u64,
        token: u64,
    },
    GenerationKept {
        server: usize,
        run: u64,
        generation: u64,
    },
    Worked {
        server: usize,
        run: u64,
        app: AppName,
    },
    Fetching(super::content::Fetching),
    Start {
        server: usize,
    },
    Resume {
        server: usize,
        run: u64,
    },
    Heal {
        partition: u64,
    },
    Knock {
        server: usize,
    },
    Answered {
        server: usize,
        by: usize,
        bytes: Vec<u8>,
    },
    Knocked {
        to: usize,
        from: usize,
        exporter: [u8; 32],
        bytes: Vec<u8>,
    },
    /// Somebody asks a member whether it is enrolled by this key.
    AskedAs {
        to: usize,
        from: usize,
        run: u64,
        id: MemberId,
        key: PublicKey,
        /// Where it looks for whoever is there, if it does.
        seeks: Option<SocketAddr>,
    },
    Crash {
        server: usize,
    },
    /// Of the story.
    Step(usize),
    Given(Next),
}

/// The world.
pub(super) struct World {
    pub now: u64,
    pub rng: SmallRng,
    pub plan: Plan,
    pub mix: Mix,
    pub network: Network,
    pub servers: Vec<Server>,
    pub index: BTreeMap<MemberId, usize>,
    pub checker: Checker,
    pub trace: Trace,
    pub tickets: BTreeMap<u64, Ticket>,
    pub ticket_next: u64,
    /// Who waits at the door, by ticket.
    pub knocks: BTreeMap<u64, Waiting>,
    /// Every content that was ever made.
    pub contents: BTreeMap<Digest, Staged>,
    pub content_next: u64,
    /// What never gets ready.
    pub unready: BTreeSet<Digest>,
    pub apps: Vec<AppName>,
    pub storm: bool,
    pub storm_us: u64,
    pub storm_began: u64,
    pub steps_of_story: Vec<Step>,
    /// The last message, as bytes and read.
    last_said: Option<(Vec<u8>, Message)>,
    /// Who is to die at its next word.
    pub ambush: Option<Ambush>,
    /// The ticket of the last publication that succeeded.
    pub last_published: Option<u64>,
    /// Servers that there ever are, where the bounds of a drawn run don't hold.
    pub servers_max: Option<usize>,
    /// The number in the name of the founder.
    pub first_name: usize,
    /// Whether any server was ever moved.
    pub moved: bool,
    /// Whether all were at once.
    pub moved_all: bool,
    /// New addresses so far.
    pub address_next: u16,
    /// Where a scenario says what happens.
    pub given: Option<Box<Given>>,
    /// What is going to happen: when, in which order, and where in `happenings`.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    vacant: Vec<usize>,
    tie: u64,
    steps: u64,
}

impl World {
    /// The world of `story`, before anything happened.
    pub fn new(story: &Story, plan: &Plan) -> Self {
        let rng = SmallRng::seed_from_u64(story.seed);
        let mix = story.weather.clone();
        let apps = mix.apps;
        let app = |n| AppName::parse(&format!("app{n}")).expect("letters and a digit");
        Self {
            now: 1_000_000,
            rng,
            plan: plan.clone(),
            storm_us: story.storm_us,
            mix,
            network: Network::calm(),
            servers: Vec::new(),
            index: BTreeMap::new(),
            checker: Checker::default(),
            trace: Trace::new(plan.whole_trace),
            tickets: BTreeMap::new(),
            ticket_next: 0,
            knocks: BTreeMap::new(),
            contents: BTreeMap::new(),
            unready: BTreeSet::new(),
            content_next: 0,
            apps: (0..apps).map(app).collect(),
            storm: false,
            storm_began: 0,
            steps_of_story: story.steps.clone(),
            last_said: None,
            ambush: None,
            last_published: None,
            servers_max: None,
            first_name: 0,
            moved: false,
            moved_all: false,
            address_next: 0,
            given: None,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            vacant: Vec::new(),
            tie: 0,
            steps: 0,
        }
    }

    /// From the founding to the end of the calm.
    pub fn run(&mut self) -> Result<(), Violation> {
        let mix = format!("{:?}", self.mix);
        self.say(None, &mix);
        self.found()?;
        self.gather()?;
        self.begin_storm();
        self.run_until(self.now + self.storm_us)?;
        self.end_storm()?;
        self.heal()?;
        self.all_found_each_other();
        Ok(())
    }

    /// Events so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What came of it.
    pub fn report(self, seed: u64, violation: Option<Violation>) -> Report {
        let keep = violation.is_some() || self.plan.whole_trace;
        Report {
            seed,
            steps: self.steps,
            members: self.mix.members,
            storm_lasted_us: (self.storm_began > 0).then(|| self.now - self.storm_began),
            virtual_us: self.now,
            sequence: self.checker.newest().map_or(0, |c| c.sequence),
            trace_hash: self.trace.hash(),
            trace: if keep { self.trace.lines() } else { Vec::new() },
            reached: self.checker.reached,
            violation,
        }
    }

    /// One line of the trace.
    pub fn say(&mut self, server: Option<usize>, text: &str) {
        let who = server.map_or("world", |s| self.servers[s].name.as_str());
        self.trace.line(self.now, who, text);
    }

    /// Something will happen in `after` microseconds.
    pub fn later(&mut self, after: u64, what: Happening) {
        self.tie += 1;
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.happenings[slot] = Some(what);
                slot
            }
            None => {
                self.happenings.push(Some(what));
                self.happenings.len() - 1
            }
        };
        self.queue.push(Reverse((self.now + after, self.tie, slot)));
    }

    /// Lets time pass until `end`.
    pub fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some(Reverse((at, _, slot))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.vacant.push(slot);
            let Some(what) = self.happenings[slot].take() else { continue };
            self.now = at;
            self.steps += 1;
            let sane = (self.now / 1_000_000 + 60) * EVENTS_MAX_PER_S * self.servers.len() as u64;
            if self.steps > sane {
                return fail(Invariant::Simulator, "too many events".to_owned());
            }
            self.happen(what)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: Happening) -> Result<(), Violation> {
        match what {
            Happening::Deliver { to, run, from, input, tag } => {
                let (receiver, sender) = (&self.servers[to], &self.servers[from]);
                // It may have another key by now than it had when it said so.
                let caller = match &input {
                    Input::Packet { from, .. } | Input::Message { from, .. } => *from,
                    _ => sender.id,
                };
                let accepted = receiver.peers.contains(&caller)
                    && (sender.member.is_none() || sender.peers.contains(&receiver.id));
                if receiver.run != run || !self.network.reaches(from, to) {
                    return Ok(());
                }
                if !accepted {
                    return if caller == sender.id { self.disown(to, from) } else { Ok(()) };
                }
                self.is_called(to, from);
                self.feed(to, input, tag)
            }
            Happening::Own { server, run, input } if self.servers[server].run == run => {
                self.note_own(server, &input);
                self.feed(server, input, Tag::Other)
            }
            Happening::Tick { server, run } if self.servers[server].run == run => self.tick(server),
            Happening::Synced { server, run, token } if self.servers[server].run == run => {
                self.synced(server, token)
            }
            Happening::GenerationKept { server, run, generation } => {
                let server = &mut self.servers[server];
                if server.run == run {
                    server.disk.generation = server.disk.generation.max(generation);
                }
                Ok(())
            }
            Happening::Worked { server, run, app } if self.servers[server].run == run => {
                self.worked(server, &app)
            }
            Happening::Fetching(fetching) => self.fetching(fetching),
            Happening::Start { server } => self.start(server),
            Happening::Resume { server, run } if self.servers[server].run == run => {
                self.resume(server)
            }
            Happening::Heal { partition } => {
                self.network.heal(partition);
                self.say(None, &format!("partition {partition} heals"));
                Ok(())
            }
            Happening::Knock { server } => self.knock(server),
            Happening::Knocked { to, from, exporter, bytes } => {
                self.knocked(to, from, exporter, bytes)
            }
            Happening::AskedAs { to, from, run, id, key, seeks } => {
                self.asked_as(to, from, (id, run), key, seeks)
            }
            Happening::Answered { server, by, bytes } => self.answered(server, by, &bytes),
            Happening::Crash { server } => {
                if self.storm {
                    self.crash(server)
                } else {
                    Ok(())
                }
            }
            Happening::Step(number) => self.step(number),
            Happening::Given(next) => self.happen_given(next),
            Happening::Own { .. }
            | Happening::Tick { .. }
            | Happening::Synced { .. }
            | Happening::Worked { .. }
            | Happening::Resume { .. } => Ok(()),
        }
    }

    // Starts and ends.

    pub fn found(&mut self) -> Result<(), Violation> {
        let founder = self.new_server()?;
        let nonce = self.rng.random();
        let tags = self.tags_of(founder);
        let server = &mut self.servers[founder];
        let entry = Enrolled {
            id: server.id,
            key: server.key.public(),
            name: server.name.clone(),
            address: server.address,
            tags,
            voter: true,
            standby: false,
        };
        let record = Record::found(nonce, &server.key, entry);
        let id = server.id;
        server.disk.record = Some(Box::new(record.clone()));
        self.checker.record(self.now, id, &record, &self.servers)?;
        self.start(founder)
    }

    /// A new server, not enrolled and not started.
    pub fn new_server(&mut self) -> Result<usize, Violation> {
        let number = self.servers.len();
        let key = SecretKey::from_seed(self.rng.random());
        // Half an hour either way around an hour behind.
        let skew = self.rng.random_range(1_800_000..=SKEW_MS_MAX);
        let skew = if self.mix.skewed_clocks { skew } else { 3_600_000 };
        let server = Server::new(number, self.first_name, key, skew)
            .map_err(|invariant| Violation { invariant, detail: "too many servers".to_owned() })?;
        self.index.insert(server.id, number);
        self.servers.push(server);
        Ok(number)
    }

    /// The server's process starts, if it does not run and is not gone for good.
    pub fn start(&mut self, s: usize) -> Result<(), Violation> {
        let seed = self.rng.random();
        let now = self.now;
        let server = &mut self.servers[s];
        if server.member.is_some() || server.gone {
            return Ok(());
        }
        if server.rotten {
            server.gone = true;
            self.checker.reach(Situation::RecordRotten);
            self.say(Some(s), "does not start: its record is not what was written");
            return Ok(());
        }
        let Some(record) = server.disk.read_record() else { return Ok(()) };
        server.run += 1;
        server.refuses = false;
        server.boot = now;
        server.peers.clear();
        server.dials.clear();
        server.callers.clear();
        server.was_at.insert(server.address);
        server.heard.clear();
        server.asks.clear();
        server.tick_at = None;
        server.writing = false;
        server.failing.clear();
        let wall = server.wall(now);
        let generation = (server.disk.generation + 1).max(wall.0);
        // The shell keeps it before it starts the member.
        server.disk.generation = generation;
        let missed = self
            .checker
            .newest()
            .filter(|newest| newest.roster.contains(server.id))
            .is_some_and(|newest| newest.roster != record.committed.catalog.roster);
        if missed && server.run > 1 {
            self.checker.reach(Situation::RejoinedAfterRosterChange);
        }
        let server = &mut self.servers[s];
        let restored = Restored {
            record,
            generation,
            whole: server.disk.whole.iter().copied().collect(),
            activated: server.disk.activated.clone(),
            next_keys: server.disk.next_keys.iter().map(|(k, at)| (k.member(), *at)).collect(),
        };
        // What it lost while it ran, it knows now.
        if !server.disk.rotten.is_empty() {
            self.checker.reach(Situation::StoreRotFoundOnStart);
        }
        server.disk.rotten.clear();
        let (key, address) = (server.key.clone(), server.address);
        let (processors, seeds) = (1 + (s % 4) as u16, server.seeds.clone());
        let config = Config { key, address, processors, seeds, seed };
        let mut effects = Vec::new();
        let mut member = Member::new(server.time(now), wall, config, restored, &mut effects);
        if let Some(given) = &self.given {
            member.set_pace(server.time(now), given.pace());
        }
        server.member = Some(member);
        self.note_run(s);
        let text = format!("starts, generation {generation}");
        self.say(Some(s), &text);
        self.after(s, effects)?;
        self.run_again(s);
        Ok(())
    }

    /// The server's process dies.
    pub fn crash(&mut self, s: usize) -> Result<(), Violation> {
        let server = &self.servers[s];
        if server.member.is_none() {
            return Ok(());
        }
        let id = server.id;
        let unsynced = server.writes.len();
        self.say(Some(s), &format!("crashes with {unsynced} records unsynced"));
        let window = self.checker.newest().and_then(|c| c.window.as_ref());
        if let Some(window) = window.filter(|w| w.coordinator == id) {
            let manual = window.failover == crate::base::catalog::Failover::Manual;
            let committed = window.publication.as_ref().map(|p| p.committed);
            match committed {
                Some(false) => self.checker.reach(Situation::CoordinatorDiedBeforeCommit),
                Some(true) => self.checker.reach(Situation::CoordinatorDiedAfterCommit),
                None => {}
            }
            if manual {
                self.checker.reach(Situation::ManualWindowLost);
            }
        }
        self.judge_dies(s);
        let newest = self.checker.newest().map_or(0, |c| c.sequence);
        if self.checker.words.died(id, newest) {
            self.checker.reach(Situation::ProposerDiedBetweenAcceptAndCommit);
            let window = self.checker.newest().and_then(|c| c.window.as_ref());
            if window.is_some_and(|w| w.coordinator == id) {
                self.checker.reach(Situation::CoordinatorDiedBetweenAcceptAndCommit);
            }
        }
        let kept = self.rng.random_range(0..=unsynced.min(2));
        for kept_one in 0..unsynced {
            let Some((_, record)) = self.servers[s].writes.pop_front() else { break };
            if kept_one < kept {
                self.sync_record(s, record)?;
                self.checker.reach(Situation::CrashKeptRecord);
            } else {
                // It is written aside and renamed when it is whole: one that was
                // cut short is no record, and the one before is still there.
                let at = self.rng.random_range(0..1_000_000);
                let torn = kept_one == kept && Disk::notices_cut(&record, at);
                self.checker.reach(Situation::CrashLostRecord);
                if torn {
                    self.checker.reach(Situation::TornWrite);
                }
            }
        }
        let server = &mut self.servers[s];
        let record = server.disk.record.as_ref();
        server.promised_before = record.map(|r| r.promised).filter(|promised| {
            promised.proposer != id
                && record.is_some_and(|r| r.accepted.as_ref().is_none_or(|a| a.ballot < *promised))
        });
        self.crash_work(s);
        self.stop(s);
        Ok(())
    }

    /// The process is no more.
    pub fn stop(&mut self, s: usize) {
        let server = &mut self.servers[s];
        server.member = None;
        server.run += 1;
        server.paused = None;
        server.writes.clear();
        server.work.clear();
        server.tick_at = None;
        self.note_run(s);
        self.tickets.retain(|_, ticket| ticket.server != s);
        self.knocks.retain(|_, waiting| waiting.at != s);
    }

    /// The process goes on after it stood still.
    pub fn resume(&mut self, s: usize) -> Result<(), Violation> {
        let Some(waiting) = self.servers[s].paused.take() else { return Ok(()) };
        self.say(Some(s), &format!("goes on, {} inputs waited", waiting.len()));
        for (input, tag) in waiting {
            self.feed(s, input, tag)?;
        }
        self.tick(s)
    }

    // The member and its effects.

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

    fn tick(&mut self, s: usize) -> Result<(), Violation> {
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
    fn after(&mut self, s: usize, effects: Vec<Effect>) -> Result<(), Violation> {
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
            Effect::Fetch { root, from, .. } => self.fetch(s, root, from),
            Effect::Activate { app, version, sequence, root, keep_edits, .. } => {
                let server = &self.servers[s];
                Checker::whole(server, &app, root)?;
                self.checker.switch(server, &app, version, root)?;
                let work = super::server::Work::Activate { version, sequence, root, keep_edits };
                self.work(s, app, work)
            }
            Effect::Scan { app, .. } => self.work(s, app, super::server::Work::Scan),
            Effect::Repair { app, root } => {
                let server = &self.servers[s];
                Checker::whole(server, &app, root)?;
                Checker::repair(self.now, server, &app, root)?;
                self.work(s, app, super::server::Work::Repair { root })
            }
            Effect::Withdraw { app, sequence } => {
                self.work(s, app, super::server::Work::Withdraw { sequence })
            }
            Effect::Ingest { app } => self.work(s, app, super::server::Work::Ingest),
            Effect::Retain { roots } => {
                let roots: BTreeSet<Digest> = roots.into_iter().collect();
                self.checker.retain(s, &self.servers, &roots)?;
                self.servers[s].disk.whole.retain(|root| roots.contains(root));
                Ok(())
            }
            Effect::Event(event) => {
                let text = format!("[{:?}] {}", event.severity, event.text);
                self.say(Some(s), &text);
                self.observe(s, &event);
                Ok(())
            }
            Effect::Expelled { .. } | Effect::Rotated { .. } => Ok(()),
        }
    }

    // The network.

    fn message(&mut self, s: usize, to: MemberId, bytes: Vec<u8>) -> Result<(), Violation> {
        let message = match self.last_said.take() {
            // The same to the next one.
            Some((said, message)) if said == bytes => message,
            _ => wire::decode::<Message>(Kind::Message, &bytes).map_err(|error| Violation {
                invariant: Invariant::NoPanic,
                detail: format!("a member sent what can't be read: {error}"),
            })?,
        };
        self.checker.sent(self.now, &self.servers[s], &message)?;
        self.trace.number(bytes.len() as u64);
        self.count(s, bytes.len());
        let id = self.servers[s].id;
        let repeatable =
            matches!(message, Message::Register(_) | Message::Ballot(_) | Message::Greeting(_));
        let tag = match &message {
            Message::Ballot(signed) | Message::Greeting(signed) => {
                signed.unproven().map_or(Tag::Other, |ballot| {
                    let (of, sequence, stamp) = (ballot.member, ballot.sequence, ballot.stamp);
                    Tag::Ballot { of, sequence, stamp }
                })
            }
            Message::Register(Word::Prepare { ballot, .. } | Word::Accept { ballot, .. }) => {
                Tag::Ask(*ballot)
            }
            _ => Tag::Other,
        };
        if let (Some(text), Some(peer)) = (told(&message), self.index.get(&to)) {
            let text = format!("-> {}: {text}", self.servers[*peer].name);
            self.say(Some(s), &text);
        }
        let said = bytes.clone();
        let input = Input::Message { from: id, bytes };
        self.send(s, to, Carrier::Stream { repeatable }, input, tag);
        self.spring(s, &message)?;
        self.last_said = Some((said, message));
        Ok(())
    }

    /// A transport that does not know a caller says so.
    fn disown(&mut self, by: usize, caller: usize) -> Result<(), Violation> {
        let (host, guest) = (&self.servers[by], &self.servers[caller]);
        let knows = host.peers.is_empty() || host.peers.contains(&guest.id);
        if knows || guest.member.is_none() || !self.network.connects(by, caller) {
            return Ok(());
        }
        let (member, run) = (host.id, guest.run);
        let delay = self.network.delay(&mut self.rng);
        let input = Input::Disowned { member };
        self.later(delay, Happening::Own { server: caller, run, input });
        Ok(())
    }

    fn send(&mut self, from: usize, to: MemberId, carrier: Carrier, input: Input, tag: Tag) {
        let meant = to;
        let Some(&to) = self.index.get(&to) else { return };
        let run = self.servers[to].run;
        // Another key answers there, where it has a new one.
        if !self.network.reaches(from, to) || self.servers[to].id != meant {
            return;
        }
        if !self.has_a_way(from, to, meant) {
            return;
        }
        if self.servers[to].member.is_none() {
            self.refuse(from, to);
            return;
        }
        let [first, again] = self.network.delays((from, to), carrier, &mut self.rng);
        if let Some(delay) = again {
            let (input, delay) = (input.clone(), delay + self.lag(to));
            self.later(delay, Happening::Deliver { to, run, from, input, tag });
        }
        if let Some(delay) = first {
            let delay = delay + self.lag(to);
            self.later(delay, Happening::Deliver { to, run, from, input, tag });
        }
    }

    /// The host of a process that is no more says so.
    fn refuse(&mut self, from: usize, to: usize) {
        if !self.servers[to].refuses || !self.network.reaches(to, from) {
            return;
        }
        let (member, run) = (self.servers[to].id, self.servers[from].run);
        let delay = self.network.delay(&mut self.rng) * 2;
        let input = Input::Refused { member };
        self.later(delay, Happening::Own { server: from, run, input });
    }

    // The disk.

    fn persist(&mut self, s: usize, token: u64, record: Box<Record>) -> Result<(), Violation> {
        let id = self.servers[s].id;
        if self.checker.record(self.now, id, &record, &self.servers)? {
            let catalog = &record.committed.catalog;
            let proposer = record.committed.certificate.ballot.proposer;
            let text = format!(
                "learns catalog {} first, of {}",
                catalog.sequence,
                self.servers[*self.index.get(&proposer).unwrap_or(&0)].name
            );
            self.say(Some(s), &text);
            self.keys_are_kept(catalog)?;
            self.addresses_are_own(catalog)?;
            self.review_given();
        }
        self.servers[s].writes.push_back((token, record));
        if !self.servers[s].writing {
            self.write(s);
        }
        Ok(())
    }

    /// Begins to write the newest record. It stands for all before it, as in the
    /// shell: a slow disk is never a queue behind.
    fn write(&mut self, s: usize) {
        let sync = self.mix.sync(&mut self.rng) * self.slower(s);
        let server = &mut self.servers[s];
        let Some((token, _)) = server.writes.back() else { return };
        server.writing = true;
        let (run, token) = (server.run, *token);
        self.later(sync, Happening::Synced { server: s, run, token });
    }

    fn synced(&mut self, s: usize, token: u64) -> Result<(), Violation> {
        while self.servers[s].writes.front().is_some_and(|(t, _)| *t <= token) {
            if let Some((_, record)) = self.servers[s].writes.pop_front() {
                self.sync_record(s, record)?;
            }
        }
        self.servers[s].writing = false;
        self.write(s);
        self.feed(s, Input::Persisted { token }, Tag::Other)
    }

    /// A record is on disk.
    fn sync_record(&mut self, s: usize, record: Box<Record>) -> Result<(), Violation> {
        let server = &mut self.servers[s];
        if server.disk.sync(record)
            && let Some(accepted) = server.disk.record.as_ref().and_then(|r| r.accepted.as_ref())
        {
            self.checker.words.accepted(self.now, server.id, accepted)?;
        }
        Ok(())
    }

    // What the others modules ask.

    /// The newest catalog that anybody knows.
    pub fn newest(&self) -> &Catalog {
        self.checker.newest().expect("a cluster is founded before anything else")
    }

    /// The servers whose process runs and is enrolled in the newest catalog.
    pub fn enrolled_and_running(&self) -> Vec<usize> {
        let roster = &self.newest().roster;
        let runs =
            |s: &usize| self.servers[*s].member.is_some() && roster.contains(self.servers[*s].id);
        (0..self.servers.len()).filter(runs).collect()
    }

    /// One of `choices`.
    pub fn pick(&mut self, choices: &[usize]) -> Option<usize> {
        if choices.is_empty() {
            return None;
        }
        Some(choices[self.rng.random_range(0..choices.len())])
    }

    /// An operator asks a member.
    pub fn command(
        &mut self,
        s: usize,
        command: Command,
        mut ticket: Ticket,
    ) -> Result<(), Violation> {
        self.ticket_next += 1;
        let number = self.ticket_next;
        ticket.server = s;
        self.say(Some(s), &format!("asked ({number}): {:?}", ticket.what));
        self.tickets.insert(number, ticket);
        self.feed(s, Input::Command { ticket: number, command, by: None }, Tag::Other)
    }
}

/// What of the messages is worth a line.
fn told(message: &Message) -> Option<String> {
    Some(match message {
        Message::Ballot(_)
        | Message::Greeting(_)
        | Message::Membership(_)
        | Message::Rumor(_)
        | Message::Address(_)
        | Message::Capacity(_) => {
            return None;
        }
        Message::Troubles { list } => {
            let all = list.iter().map(|trouble| format!("{}: {}", trouble.app, trouble.why));
            format!("troubles: {}", all.collect::<Vec<_>>().join("; "))
        }
        Message::Register(word) => match word {
            Word::Prepare { ballot, committed } => {
                format!("prepare {} above {committed}", ballot.round)
            }
            Word::Promise { ballot, accepted, .. } => format!(
                "promise {}, accepted {:?}",
                ballot.round,
                accepted.as_ref().map(|a| (a.ballot.round, a.catalog.sequence))
            ),
            Word::Refused { ballot, promised, .. } => {
                format!("refused {} for {}", ballot.round, promised.round)
            }
            Word::Accept { ballot, catalog } => {
                format!("accept {}: catalog {}", ballot.round, catalog.sequence)
            }
            Word::Accepted { ballot, digest, .. } => {
                format!("accepted {}: {}", ballot.round, digest.short())
            }
            Word::Commit(catch_up) => {
                format!("committed {}", catch_up.committed.catalog.sequence)
            }
            Word::Ask { sequence } => format!("what is newer than {sequence}?"),
        },
        Message::Forward { id, .. } => format!("please preside ({id})"),
        Message::Forwarded { id, answer } => format!("forwarded ({id}): {answer:?}"),
        Message::Resolve { app, .. } | Message::ResolveFor { app, .. } => {
            format!("resolve {app} with yours")
        }
        Message::Rollout { list } => format!("how it comes: {list:?}"),
    })
}
