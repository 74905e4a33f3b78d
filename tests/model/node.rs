//! One member in the model: the register of production, its disk, and what it
//! still means to propose. Never more than that: what a member answers is
//! decided by `src/proto/catalog/register.rs` and its parts alone.

use althing::{
    base::{MemberId, SecretKey, Time, planted::Bug, wire},
    proto::catalog::{BallotNumber, CatchUp, Effect, Lineage, Message, Record, Register},
};

use crate::{history::Fact, step::Step};

/// A bug that is built in on purpose, to see that the model finds such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// After a crash a voter has forgotten its promise and what it accepted.
    ForgottenPromise,
    /// A voter answers before its record is on disk.
    SkippedSync,
    /// The third member accepts every catalog, whatever number it promised.
    StaleAccept,
    /// A proposer does not look at what voters say they have accepted.
    IgnoredAccepted,
}

impl Envelope {
    /// Whether it only answers a question: the one who asked is waiting for it.
    pub fn is_answer(&self) -> bool {
        use Message::{Accepted, Promise, Refused};
        matches!(self.message, Promise { .. } | Refused { .. } | Accepted { .. })
    }

    /// What tells it from others. Of a proof it holds what is proved.
    pub fn state(&self) -> Vec<u8> {
        let mut message = self.message.clone();
        let proof = match &mut message {
            Message::Promise { catch_up, .. } | Message::Refused { catch_up, .. } => {
                catch_up.as_mut()
            }
            Message::Commit(catch_up) => Some(catch_up),
            _ => None,
        };
        if let Some(proof) = proof {
            let nobody = proof.committed.catalog.roster.members[0].id;
            let links = proof.links.iter_mut().map(|link| &mut link.certificate);
            for certificate in links.chain([&mut proof.committed.certificate]) {
                certificate.accepts.clear();
                certificate.ballot = BallotNumber { round: 0, proposer: nobody };
            }
        }
        // Nobody looks at who says that something was committed.
        let from = if matches!(message, Message::Commit(_)) { None } else { Some(self.from) };
        wire::encode(wire::Kind::Message, &(from, self.to as u64, message))
    }
}

/// What happens to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The message with this number arrives.
    Deliver(u32),
    /// The disk has everything that was asked of it.
    Sync,
    /// The attempt or the pause ends.
    Expire,
    /// The proposer has no patience left.
    GiveUp,
    /// The next change of the script is proposed.
    Propose,
    /// Everything that was not synced is gone, and the member starts again.
    Crash,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub from: MemberId,
    pub to: usize,
    pub message: Message,
}

/// What broke inside one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// Its committed sequence, or its promise on disk, went back.
    pub went_back: bool,
    /// It holds as committed what it can't prove.
    pub unprovable: bool,
}

#[derive(Clone)]
pub struct Node {
    pub register: Register<Step>,
    /// What a restart finds.
    disk: Record,
    /// Records that the disk was asked to sync, oldest first.
    unsynced: Vec<(u64, Record)>,
    /// Scripted changes that have ended.
    pub ended: usize,
    /// Pauses that ran out, and proposals given up.
    pub expired: u8,
    pub given_up: u8,
    pub broken: Broken,
}

/// What a member did in answer to one input.
pub struct Outcome {
    pub node: Node,
    pub sent: Vec<Envelope>,
    pub facts: Vec<Fact>,
}

/// Time stands still: events end attempts, not clocks.
const NOW: Time = Time(0);

impl Node {
    pub fn new(key: SecretKey, record: Record) -> Self {
        Self {
            register: Register::new(key, record.clone(), 0),
            disk: record,
            unsynced: vec![],
            ended: 0,
            expired: 0,
            given_up: 0,
            broken: Broken::default(),
        }
    }

    /// What tells this member's state from others.
    pub fn state(&self) -> Vec<u8> {
        let unsynced: Vec<Vec<u8>> = self.unsynced.iter().map(|(_, r)| r.state()).collect();
        let counts = (self.ended, self.expired, self.given_up);
        let broken = (self.broken.went_back, self.broken.unprovable);
        let whole = (self.register.state(), self.disk.state(), unsynced, counts, broken);
        wire::encode(wire::Kind::Record, &whole)
    }

    pub fn record(&self) -> &Record {
        &self.disk
    }

    pub fn is_syncing(&self) -> bool {
        !self.unsynced.is_empty()
    }

    pub fn is_waiting_for_time(&self) -> bool {
        self.register.deadline().is_some()
    }

    pub fn is_idle(&self) -> bool {
        self.register.pending() == 0
    }
}

#[cfg(feature = "planted-bugs")]
use althing::base::planted::plant;

#[cfg(not(feature = "planted-bugs"))]
fn plant(bug: Option<Bug>) {
    assert_eq!(bug, None, "this build has no bugs to plant");
}

/// The world of one member, as far as it does not change.
pub struct Surroundings {
    pub ids: Vec<MemberId>,
    pub keys: Vec<SecretKey>,
    /// What each member proposes, in order.
    pub scripts: Vec<Vec<Step>>,
    pub genesis: Option<Lineage>,
    pub plant: Option<Plant>,
    /// A bug in the register itself; only in builds that have them.
    pub bug: Option<Bug>,
    /// Whether the disk syncs at once. If not, members go on handling
    /// messages while it is at work.
    pub eager: bool,
}

impl Surroundings {
    /// Runs `input` on member `n`. With `cut`, it crashes before the disk has
    /// synced anything of it.
    pub fn run(
        &self,
        n: usize,
        before: &Node,
        input: Input,
        cut: bool,
        envelope: Option<&Envelope>,
    ) -> Outcome {
        plant(self.bug);
        let mut out = Outcome { node: before.clone(), sent: vec![], facts: vec![] };
        let mut effects = vec![];
        match input {
            Input::Deliver(_) => {
                let envelope = envelope.expect("looked up by the caller");
                let message = self.sabotage(n, &mut out.node, envelope.message.clone());
                out.node.register.handle(NOW, envelope.from, message, &mut effects);
            }
            Input::Sync => self.sync(n, &mut out),
            Input::Expire => {
                out.node.expired += 1;
                // An attempt that ends and the pause behind it are one: in a
                // pause a proposer hears no more than when nothing arrives.
                // The end of a pause asks for the disk, that of an attempt not.
                out.node.register.expire(NOW, &mut effects);
                if effects.is_empty() && out.node.is_waiting_for_time() {
                    out.node.register.expire(NOW, &mut effects);
                }
            }
            Input::GiveUp => {
                out.node.given_up += 1;
                out.node.register.expire(Time(u64::MAX), &mut effects);
            }
            Input::Propose => {
                let change = self.scripts[n][out.node.ended].clone();
                let id = out.node.ended as u64;
                out.node.register.propose(NOW, id, change, &mut effects);
            }
            Input::Crash => self.crash(n, &mut out),
        }
        self.absorb(n, effects, &mut out);
        if cut {
            self.crash(n, &mut out);
        } else if self.eager {
            while out.node.is_syncing() {
                self.sync(n, &mut out);
            }
        }
        // Whoever judges is to judge rightly.
        plant(None);
        self.check(before, &mut out.node);
        out
    }

    /// Carries out the planted bugs that show when a message arrives.
    fn sabotage(&self, n: usize, node: &mut Node, message: Message) -> Message {
        match (self.plant, message) {
            (Some(Plant::IgnoredAccepted), Message::Promise { ballot, catch_up, .. }) => {
                Message::Promise { ballot, accepted: None, catch_up }
            }
            (Some(Plant::StaleAccept), message @ Message::Accept { .. }) if n == 2 => {
                let mut record = node.register.record().clone();
                record.promised = BallotNumber { round: 0, proposer: self.ids[n] };
                node.register = Register::new(self.keys[n].clone(), record, 0);
                message
            }
            (_, message) => message,
        }
    }

    fn absorb(&self, n: usize, effects: Vec<Effect<Step>>, out: &mut Outcome) {
        for effect in effects {
            match effect {
                Effect::Persist { token, record } => {
                    out.node.unsynced.push((token, *record));
                    if self.plant == Some(Plant::SkippedSync) {
                        let mut effects = vec![];
                        out.node.register.persisted(NOW, token, &mut effects);
                        self.absorb(n, effects, out);
                    }
                }
                Effect::Send { to, message } => {
                    assert_ne!(to, self.ids[n], "a message to itself");
                    let to = self.ids.iter().position(|id| *id == to);
                    let to = to.expect("the models know everybody");
                    out.sent.push(Envelope { from: self.ids[n], to, message });
                }
                Effect::Committed(committed) => {
                    let catalog = &committed.catalog;
                    out.facts.push(Fact::Announced { digest: catalog.digest() });
                    out.facts.push(Fact::Catalog(Box::new(catalog.clone())));
                }
                Effect::Ended { id, result, .. } => {
                    out.node.ended = id as usize + 1;
                    let fact = match result {
                        Ok(sequence) => Fact::Confirmed { by: n, script: id as usize, sequence },
                        Err(_) => Fact::Refused { by: n, script: id as usize },
                    };
                    out.facts.push(fact);
                }
                // States that differ in nothing but the ballot of a proof are one here, so a
                // proof may show one that belongs to another run. `catalog::tests` and the
                // simulator see to it that nobody is accused for nothing.
                Effect::Lie(_) => {}
            }
        }
    }

    /// All that was asked of the disk is on it.
    fn sync(&self, n: usize, out: &mut Outcome) {
        let synced = std::mem::take(&mut out.node.unsynced);
        let Some((token, last)) = synced.last().cloned() else { return };
        for (_, record) in synced {
            if let Some(accepted) = record.accepted {
                let (ballot, digest) = (accepted.ballot, accepted.catalog.digest());
                out.facts.push(Fact::Accepted { voter: n, ballot, digest });
                out.facts.push(Fact::Catalog(accepted.catalog));
            }
        }
        let before = &out.node.disk;
        let held = |record: &Record| record.committed.catalog.sequence;
        if last.promised < before.promised || held(&last) < held(before) {
            out.node.broken.went_back = true;
        }
        out.node.disk = last;
        let mut effects = vec![];
        out.node.register.persisted(NOW, token, &mut effects);
        self.absorb(n, effects, out);
    }

    fn crash(&self, n: usize, out: &mut Outcome) {
        out.node.unsynced.clear();
        if self.plant == Some(Plant::ForgottenPromise) {
            out.node.disk.accepted = None;
            out.node.disk.promised = BallotNumber { round: 0, proposer: self.ids[n] };
        }
        // What had not ended is proposed again: by the script's operator.
        let record = out.node.disk.clone();
        out.node.register = Register::new(self.keys[n].clone(), record, 0);
    }

    fn check(&self, before: &Node, after: &mut Node) {
        let visible = |node: &Node| node.register.committed().catalog.sequence;
        if visible(after) < visible(before) {
            after.broken.went_back = true;
        }
        let record = after.register.record();
        let Some(genesis) = &self.genesis else { return };
        if before.register.record().committed == record.committed {
            return;
        }
        let cluster = record.committed.catalog.cluster;
        let committed = record.committed.clone();
        let catch_up = CatchUp { committed, links: record.lineage.after(0) };
        let proved =
            genesis.follow(cluster, &catch_up).is_ok() && record.lineage.check(cluster).is_ok();
        after.broken.unprovable |= !proved;
    }
}
