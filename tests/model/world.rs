//! The whole model: members, the messages that were ever sent, and what was
//! ever done. Members' states, messages and histories are kept once each and
//! known by number, and what a member does in a state with an input is worked
//! out once: so the register of production, with its real signatures, runs as
//! often as it has states and not as often as the world has.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use althing::{
    base::{Digest, MemberId, SecretKey, catalog::Catalog},
    proto::catalog::{BallotNumber, Committed, Message, Record},
};
use stateright::{Model, Property};

use crate::{
    history::{Fact, Judge, Verdict},
    node::{Envelope, Input, Node, Outcome, Plant, Surroundings},
    step::{self, Step},
};

/// How far a model goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How often each member's attempt or pause may end.
    pub expiries: u8,
    /// How often each member may give a proposal up.
    pub give_ups: u8,
    /// How many crashes there may be, of any members.
    pub crashes: u8,
    /// Whether the disk syncs at once, except before a crash.
    pub eager: bool,
    /// Whether an answer reaches the one who asked at once or never.
    pub prompt: bool,
    /// Whether what can't matter any more is dropped from the state: a
    /// question below the number that its receiver promised, a commit that it
    /// knows, a question for what is newer by one who has something newer, an
    /// accept that can't become part of a majority.
    pub prune: bool,
}

/// One state of the world. Numbers are of what [`Store`] keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    nodes: Vec<u32>,
    /// Every message that was ever sent, in order of the numbers. Delivered
    /// any number of times, at any time, or never: that is loss, duplication
    /// and reordering in one.
    sent: Vec<u32>,
    history: u32,
    crashes: u8,
}

/// One step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    member: usize,
    input: Input,
    /// It crashes before the disk has synced anything of it.
    cut: bool,
    /// Where answers are prompt: whether they are lost.
    mute: bool,
}

/// What one step does to a member, by number.
struct Change {
    node: u32,
    /// With prompt answers: these, each with whom it is for.
    answers: Vec<(usize, u32)>,
    sent: Vec<u32>,
    facts: Vec<u32>,
}

#[derive(Default)]
struct Store {
    nodes: Vec<Arc<Node>>,
    node_numbers: HashMap<(usize, Vec<u8>), u32>,
    messages: Vec<Arc<Envelope>>,
    /// When each message is without effect.
    spent: Vec<Spent>,
    message_numbers: HashMap<Vec<u8>, u32>,
    facts: Vec<Fact>,
    fact_numbers: HashMap<String, u32>,
    histories: Vec<(Vec<u32>, Verdict)>,
    history_numbers: HashMap<(Vec<u32>, Verdict), u32>,
    longer: HashMap<(u32, Vec<u32>), u32>,
    catalogs: BTreeMap<Digest, Catalog>,
    changes: HashMap<(u32, Input, bool), Arc<Change>>,
}

/// A scenario within its bounds.
pub struct World {
    pub bounds: Bounds,
    around: Surroundings,
    start: Committed,
    first: Vec<Node>,
    store: Mutex<Store>,
}

impl World {
    /// `members` with the catalog `start` in common, made by the register
    /// itself from the catalog that founds a cluster of the first member.
    pub fn new(members: usize, start: impl Fn(&mut Catalog), scripts: Vec<Vec<Step>>) -> Self {
        let keys: Vec<SecretKey> = (0..members).map(step::key).collect();
        let founder = Record::found([9; 32], &keys[0], step::enrolled(0, true));
        let genesis = founder.lineage.clone();
        let mut catalog = founder.committed.catalog.clone();
        start(&mut catalog);
        let around = Surroundings {
            ids: keys.iter().map(SecretKey::member).collect(),
            scripts: vec![vec![Step::Start(Box::new(catalog))]],
            keys,
            genesis: Some(genesis.clone()),
            plant: None,
            bug: None,
            eager: true,
        };
        let mut nodes: Vec<Node> = (0..members)
            .map(|n| {
                let committed = founder.committed.clone();
                let record = match n {
                    0 => founder.clone(),
                    _ => Record::join(around.ids[n], committed, genesis.clone()),
                };
                Node::new(around.keys[n].clone(), record)
            })
            .collect();
        let mut letters = Vec::new();
        let mut run = |n: usize, input, letter: Option<&Envelope>, letters: &mut Vec<Envelope>| {
            let outcome = around.run(n, &nodes[n], input, false, letter);
            nodes[n] = outcome.node;
            letters.extend(outcome.sent);
        };
        run(0, Input::Propose, None, &mut letters);
        while let Some(letter) = letters.pop() {
            run(letter.to, Input::Deliver(0), Some(&letter), &mut letters);
        }
        let first: Vec<Node> = nodes
            .iter()
            .zip(&around.keys)
            .map(|(node, key)| Node::new(key.clone(), node.record().clone()))
            .collect();
        let start = first[0].record().committed.clone();
        assert!(first.iter().all(|n| n.record().committed.catalog == start.catalog));
        assert_eq!(start.catalog.sequence, 2);
        let bounds =
            Bounds { expiries: 1, give_ups: 0, crashes: 0, eager: true, prompt: true, prune: true };
        let around = Surroundings { scripts, ..around };
        Self { bounds, around, start, first, store: Mutex::default() }
    }

    pub fn within(mut self, bounds: Bounds) -> Self {
        self.around.eager = bounds.eager;
        self.bounds = bounds;
        self
    }

    pub fn with_plant(mut self, plant: Plant) -> Self {
        self.around.plant = Some(plant);
        self
    }

    #[cfg(feature = "planted-bugs")]
    pub fn with_bug(mut self, bug: althing::base::planted::Bug) -> Self {
        self.around.bug = Some(bug);
        self
    }

    /// How many states of members, and how many messages, there are.
    pub fn counts(&self) -> (usize, usize) {
        let store = self.store.lock().unwrap();
        (store.nodes.len(), store.messages.len())
    }

    fn judge(&self, store: &mut Store, facts: &[u32]) -> (Vec<u32>, Verdict) {
        let judge = Judge {
            ids: &self.around.ids,
            scripts: &self.around.scripts,
            catalogs: &store.catalogs,
            start: &self.start.catalog,
        };
        let facts = facts.iter().map(|fact| &store.facts[*fact as usize]);
        let (verdict, kept) = judge.verdict(facts);
        let mut kept: Vec<u32> = kept.into_iter().map(|fact| store.fact(fact)).collect();
        kept.sort_unstable();
        (kept, verdict)
    }

    /// The change that `action` makes in `state`; worked out once.
    fn change(&self, nodes: &[u32], action: Action) -> Arc<Change> {
        let number = nodes[action.member];
        let key = (number, action.input, action.cut);
        let (node, envelope) = {
            let store = self.store.lock().unwrap();
            if let Some(change) = store.changes.get(&key) {
                return Arc::clone(change);
            }
            let envelope = match action.input {
                Input::Deliver(message) => Some(Arc::clone(&store.messages[message as usize])),
                _ => None,
            };
            (Arc::clone(&store.nodes[number as usize]), envelope)
        };
        let outcome =
            self.around.run(action.member, &node, action.input, action.cut, envelope.as_deref());
        let mut store = self.store.lock().unwrap();
        let change = Arc::new(store.keep(action.member, outcome, self.bounds.prompt));
        store.changes.insert(key, Arc::clone(&change));
        change
    }

    /// What a property asks.
    fn looks(&self, state: &State, look: impl Fn(&Verdict) -> bool) -> bool {
        look(&self.store.lock().unwrap().histories[state.history as usize].1)
    }

    fn some_node(&self, state: &State, look: impl Fn(&Node) -> bool) -> bool {
        let store = self.store.lock().unwrap();
        state.nodes.iter().any(|node| look(&store.nodes[*node as usize]))
    }

    fn is_all_done(&self, state: &State) -> bool {
        let store = self.store.lock().unwrap();
        let ended = |(member, number): (usize, &u32)| {
            let script = self.around.scripts.get(member).map_or(0, Vec::len);
            store.nodes[*number as usize].ended == script
        };
        state.nodes.iter().enumerate().all(ended)
    }

    fn number(&self, id: MemberId) -> usize {
        self.around.ids.iter().position(|i| *i == id).expect("the models know everybody")
    }

    /// A step in words.
    pub fn describe(&self, action: &Action) -> String {
        let store = self.store.lock().unwrap();
        let cut = if action.cut { ", and it crashes before the disk has it" } else { "" };
        let mute = if action.mute { "; its answer is lost" } else { "" };
        let what = match action.input {
            Input::Deliver(message) => {
                let Envelope { from, message, .. } = &*store.messages[message as usize];
                let what = match message {
                    Message::Prepare { ballot, committed } => {
                        format!("prepare {} knowing {committed}", ballot.round)
                    }
                    Message::Promise { ballot, accepted, catch_up } => format!(
                        "promise {}, accepted {:?}, catch-up {:?}",
                        ballot.round,
                        accepted.as_ref().map(|a| (a.ballot.round, a.catalog.sequence)),
                        catch_up.as_ref().map(|c| c.committed.catalog.sequence)
                    ),
                    Message::Refused { ballot, promised, .. } => {
                        format!("refused {} for {}", ballot.round, promised.round)
                    }
                    Message::Accept { ballot, catalog } => format!(
                        "accept {}: {} of sequence {}",
                        ballot.round,
                        catalog.digest().short(),
                        catalog.sequence
                    ),
                    Message::Accepted { ballot, digest, .. } => {
                        format!("accepted {}: {}", ballot.round, digest.short())
                    }
                    Message::Commit(c) => format!("commit {}", c.committed.catalog.sequence),
                    Message::Ask { sequence } => format!("ask beyond {sequence}"),
                };
                format!("hears from {}: {what}", self.number(*from))
            }
            other => format!("{other:?}").to_lowercase(),
        };
        format!("member {} {what}{cut}{mute}", action.member)
    }
}

/// When a message can have no effect any more but a hint, by what its
/// receiver has on disk.
#[derive(Clone, Copy)]
enum Spent {
    Promised(BallotNumber),
    PromisedMore(BallotNumber),
    Committed(u64),
    /// By what the sender has.
    Answered(u64),
    Never,
}

impl Spent {
    fn of(envelope: &Envelope) -> Self {
        match &envelope.message {
            Message::Prepare { ballot, .. } => Self::Promised(*ballot),
            Message::Accept { ballot, .. } => Self::PromisedMore(*ballot),
            Message::Commit(proof) => Self::Committed(proof.committed.catalog.sequence),
            Message::Ask { sequence } => Self::Answered(*sequence),
            _ => Self::Never,
        }
    }

    fn is_over(self, disk: &Record, from: &Record) -> bool {
        match self {
            Self::Promised(ballot) => disk.promised >= ballot,
            Self::PromisedMore(ballot) => disk.promised > ballot,
            Self::Committed(sequence) => disk.committed.catalog.sequence >= sequence,
            Self::Answered(sequence) => from.committed.catalog.sequence > sequence,
            Self::Never => false,
        }
    }
}

impl Store {
    fn keep(&mut self, member: usize, outcome: Outcome, prompt: bool) -> Change {
        let (mut answers, mut sent) = (Vec::new(), Vec::new());
        for envelope in outcome.sent {
            let (to, is_answer) = (envelope.to, prompt && envelope.is_answer());
            let number = self.message(envelope);
            if is_answer {
                answers.push((to, number));
            } else {
                sent.push(number);
            }
        }
        let mut facts = Vec::new();
        for fact in outcome.facts {
            match fact {
                Fact::Catalog(catalog) => {
                    self.catalogs.entry(catalog.digest()).or_insert(*catalog);
                }
                fact => facts.push(self.fact(fact)),
            }
        }
        Change { node: self.node(member, outcome.node), answers, sent, facts }
    }

    fn node(&mut self, member: usize, node: Node) -> u32 {
        let next = self.nodes.len() as u32;
        let number = *self.node_numbers.entry((member, node.state())).or_insert(next);
        if number == next {
            self.nodes.push(Arc::new(node));
        }
        number
    }

    fn message(&mut self, envelope: Envelope) -> u32 {
        let next = self.messages.len() as u32;
        let number = *self.message_numbers.entry(envelope.state()).or_insert(next);
        if number == next {
            self.spent.push(Spent::of(&envelope));
            self.messages.push(Arc::new(envelope));
        }
        number
    }

    fn fact(&mut self, fact: Fact) -> u32 {
        let next = self.facts.len() as u32;
        let number = *self.fact_numbers.entry(key(&fact)).or_insert(next);
        if number == next {
            self.facts.push(fact);
        }
        number
    }
}

/// What tells facts apart. `Debug` shortens digests; this does not.
fn key(fact: &Fact) -> String {
    match fact {
        Fact::Accepted { voter, ballot, digest } => {
            format!("accepted {voter} {} {} {digest}", ballot.round, ballot.proposer)
        }
        Fact::Announced { digest } => format!("announced {digest}"),
        Fact::Chosen { digest } => format!("chosen {digest}"),
        other => format!("{other:?}"),
    }
}

/// Adds `new` to a sorted list without doubles; says whether it grew.
fn add(list: &mut Vec<u32>, new: &[u32]) -> bool {
    let before = list.len();
    for number in new {
        if let Err(at) = list.binary_search(number) {
            list.insert(at, *number);
        }
    }
    list.len() > before
}

impl World {
    /// Makes one member's step and returns the answers that it gives at once.
    fn take(&self, state: &mut State, action: Action) -> Vec<(usize, u32)> {
        let change = self.change(&state.nodes, action);
        state.nodes[action.member] = change.node;
        add(&mut state.sent, &change.sent);
        if !change.facts.is_empty() {
            state.history = self.longer_history(state.history, &change.facts);
        }
        change.answers.clone()
    }

    /// See [`Bounds::prune`].
    fn prune(&self, state: &mut State) {
        let mut store = self.store.lock().unwrap();
        let disk = |member: usize| store.nodes[state.nodes[member] as usize].record();
        state.sent.retain(|message| {
            let envelope = &store.messages[*message as usize];
            let from = self.number(envelope.from);
            !store.spent[*message as usize].is_over(disk(envelope.to), disk(from))
        });
        let (facts, verdict) = &store.histories[state.history as usize];
        let ids = &self.around.ids;
        let holds = |ballot: BallotNumber, digest: Digest, member: usize| {
            facts.iter().any(|fact| match &store.facts[*fact as usize] {
                Fact::Accepted { voter, ballot: b, digest: d } => {
                    (*voter, *b, *d) == (member, ballot, digest)
                }
                _ => false,
            })
        };
        let may_matter = |fact: &u32| match store.facts[*fact as usize] {
            Fact::Accepted { ballot, digest, .. } => {
                let may = (0..ids.len())
                    .filter(|n| disk(*n).promised <= ballot || holds(ballot, digest, *n))
                    .map(|n| ids[n])
                    .collect();
                store.catalogs[&digest].rosters().all(|roster| roster.is_majority(&may))
            }
            _ => true,
        };
        let kept: Vec<u32> = facts.iter().copied().filter(may_matter).collect();
        if kept.len() == facts.len() {
            return;
        }
        let history = (kept, *verdict);
        let next = store.histories.len() as u32;
        state.history = *store.history_numbers.entry(history.clone()).or_insert(next);
        if state.history == next {
            store.histories.push(history);
        }
    }

    fn longer_history(&self, history: u32, facts: &[u32]) -> u32 {
        let mut store = self.store.lock().unwrap();
        let key = (history, facts.to_vec());
        if let Some(number) = store.longer.get(&key) {
            return *number;
        }
        let mut all = store.histories[history as usize].0.clone();
        let number = if add(&mut all, facts) { self.history(&mut store, all) } else { history };
        store.longer.insert(key, number);
        number
    }

    fn history(&self, store: &mut Store, facts: Vec<u32>) -> u32 {
        let history = self.judge(store, &facts);
        let next = store.histories.len() as u32;
        let number = *store.history_numbers.entry(history.clone()).or_insert(next);
        if number == next {
            store.histories.push(history);
        }
        number
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut store = self.store.lock().unwrap();
        let first = self.first.iter().enumerate();
        let nodes = first.map(|(member, node)| store.node(member, node.clone())).collect();
        let catalog = self.start.catalog.clone();
        store.catalogs.insert(catalog.digest(), catalog);
        let history = self.history(&mut store, vec![]);
        vec![State { nodes, sent: vec![], history, crashes: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let store = self.store.lock().unwrap();
        let may_crash = state.crashes < self.bounds.crashes;
        let mut offer = |member: usize, input| {
            actions.push(Action { member, input, cut: false, mute: false });
            if self.bounds.prompt {
                actions.push(Action { member, input, cut: false, mute: true });
            }
            // Where the disk takes its time, a crash is a step of its own.
            if may_crash && self.bounds.eager {
                actions.push(Action { member, input, cut: true, mute: false });
            }
        };
        for message in &state.sent {
            offer(store.messages[*message as usize].to, Input::Deliver(*message));
        }
        for (member, number) in state.nodes.iter().enumerate() {
            let node = &store.nodes[*number as usize];
            if node.is_waiting_for_time() && node.expired < self.bounds.expiries {
                offer(member, Input::Expire);
            }
            if node.is_waiting_for_time() && node.given_up < self.bounds.give_ups {
                offer(member, Input::GiveUp);
            }
            let script = self.around.scripts.get(member).map_or(0, Vec::len);
            if node.is_idle() && node.ended < script {
                offer(member, Input::Propose);
            }
        }
        for (member, number) in state.nodes.iter().enumerate() {
            if store.nodes[*number as usize].is_syncing() {
                actions.push(Action { member, input: Input::Sync, cut: false, mute: false });
            }
            if may_crash {
                actions.push(Action { member, input: Input::Crash, cut: false, mute: false });
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let answers = self.take(&mut next, action);
        if action.mute && answers.is_empty() {
            return None;
        }
        for (member, message) in answers {
            if !action.mute {
                let input = Input::Deliver(message);
                let answer = Action { member, input, cut: false, mute: false };
                let more = self.take(&mut next, answer);
                assert!(more.is_empty(), "an answer is not answered");
            }
        }
        if next == *state {
            return None;
        }
        // A crash that takes nothing from anybody is none.
        next.crashes += u8::from(action.cut || action.input == Input::Crash);
        if self.bounds.prune {
            self.prune(&mut next);
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("one catalog for each sequence", |w: &Self, s| {
                w.looks(s, |v| !v.forked)
            }),
            Property::always("each catalog is one change of the one before", |w: &Self, s| {
                w.looks(s, |v| !v.stepped_over)
            }),
            Property::always("announced is what majorities have on disk", |w: &Self, s| {
                w.looks(s, |v| !v.unfounded)
            }),
            Property::always("proposers are told the truth", |w: &Self, s| w.looks(s, |v| !v.lied)),
            Property::always("a window is presided over by one after the other", |w: &Self, s| {
                w.looks(s, |v| !v.window_broken)
            }),
            Property::always("nobody goes back", |w: &Self, s| {
                !w.some_node(s, |n| n.broken.went_back)
            }),
            Property::always("what is committed can be proved", |w: &Self, s| {
                !w.some_node(s, |n| n.broken.unprovable)
            }),
        ];
        properties.extend(self.situations());
        properties
    }
}

impl World {
    /// What must have been reached, by what the scenario and its bounds have
    /// in them. A model in which nothing happens shows nothing.
    fn situations(&self) -> Vec<Property<Self>> {
        let has = |wanted: fn(&Step) -> bool| self.around.scripts.iter().flatten().any(wanted);
        let windows = has(|s| matches!(s, Step::Real(_)));
        let joins = has(|s| matches!(s, Step::Join(_)));
        let leaves = has(|s| matches!(s, Step::Leave(_)));
        let mut properties =
            vec![Property::sometimes("every script has ended", |w: &Self, s| w.is_all_done(s))];
        if self.around.scripts.len() > 1 {
            properties.extend([
                Property::sometimes(
                    "two catalogs were accepted for one sequence",
                    |w: &Self, s| w.looks(s, |v| v.accepted_two_for_one_sequence),
                ),
                Property::sometimes("a change was committed for another", |w: &Self, s| {
                    w.looks(s, |v| v.finished_for_another)
                }),
            ]);
        }
        if joins {
            properties.push(Property::sometimes("the newcomer's vote decided", |w: &Self, s| {
                w.looks(s, |v| v.joined_voter_counted)
            }));
        }
        if leaves {
            properties
                .push(Property::sometimes("a member left", |w: &Self, s| w.looks(s, |v| v.left)));
        }
        if joins && leaves {
            properties.push(Property::sometimes("the roster changed twice", |w: &Self, s| {
                w.looks(s, |v| v.roster_changed_twice)
            }));
        }
        if windows {
            properties.extend([
                Property::sometimes("the first coordinator committed", |w: &Self, s| {
                    w.looks(s, |v| v.committed_by_first)
                }),
                Property::sometimes("the next coordinator committed", |w: &Self, s| {
                    w.looks(s, |v| v.committed_by_next)
                }),
                Property::sometimes("the window was taken over", |w: &Self, s| {
                    w.looks(s, |v| v.taken_over)
                }),
                Property::sometimes("one who was replaced was refused", |w: &Self, s| {
                    w.looks(s, |v| v.late_commit_refused)
                }),
            ]);
        }
        if self.bounds.crashes > 0 {
            let crashed = |_: &Self, s: &State| s.crashes > 0;
            properties.push(Property::sometimes("a crash made a difference", crashed));
        }
        properties
    }
}
