//! The world: one queue of events by time, the servers, and what carries out
//! the members' effects. Here is the order of things. What members want, and
//! how servers start and end, is in the files beside; what content, faults and
//! operators do is in the modules of these names.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Invariant, Plan, Report, Story, Violation,
    check::{Checker, fail},
    fault::Ambush,
    given::{Given, Next},
    network::Network,
    operate::Ticket,
    rotate::Waiting,
    server::{Server, Tag},
    story::{Mix, Step},
    trace::Trace,
};
use crate::{
    base::{AppName, Digest, MemberId, PublicKey, catalog::Catalog},
    member::{
        Input, Message,
        command::{Command, Staged},
    },
};

mod effects;
mod lives;
mod sending;
mod syncing;

/// More events in a virtual second than any sane run has for each of its
/// members: something goes round in circles.
const EVENTS_MAX_PER_S: u64 = 20_000;

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
    /// The store is kept small.
    Collect {
        server: usize,
        run: u64,
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
    /// What somebody was last to publish of each application.
    pub staged_last: BTreeMap<AppName, Digest>,
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
            staged_last: BTreeMap::new(),
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
            Happening::Collect { server, run } => {
                if self.servers[server].run == run {
                    self.collect(server);
                }
                Ok(())
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

    // What the other modules ask.

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
