//! F2, the whole member as one machine.
//!
//! It is told what happened ([`Input`]) and at what time, and says what is to
//! be done ([`Effect`]). The machines of `proto` do not know each other; who
//! tells whom is readable here, from top to bottom. The same code runs in
//! production, under `node`, and in the simulator.
//!
//! **Invariant:** no socket, file, clock or thread; what leaves is a function
//! of the inputs, their times and the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, SecretKey, Time, WallTime,
        catalog::{Catalog, Roster},
        limits,
        operator::AskedBy,
        planted::{self, Bug},
        wire::{self, Kind},
    },
    proto::{
        balance::lease::Leases,
        catalog::{self as register, Committed, Register},
        election,
        membership::{self, Membership},
        rumor::Rumors,
        vote::{self, Ballot, Differing, Position, SignedBallot, Verdict, Votes, roots_digest},
        window::{Presider, Reports, Step},
    },
};

mod addresses;
pub mod admission;
mod astray;
mod capacity;
pub mod change;
pub mod command;
mod content;
mod edited;
pub mod event;
mod expiry;
mod inviting;
mod io;
mod lies;
mod message;
mod moving;
mod near;
mod operate;
mod parting;
mod rollout;
mod rotation;
mod rumors;
#[cfg(test)]
mod tests;
mod troubles;
mod unfinished;
pub mod view;

pub use addresses::AddressView;
pub use io::{
    ContentFailure, Effect, FetchFailure, Input, Repair, Restored, Switched, Whom, Withdrawn,
};
pub use message::{Answer, Message};
pub use troubles::Trouble;

use capacity::Capacities;
use change::Change;
use content::{Content, Surroundings};
use event::{Event, EventKind, Severity};
use operate::{Asks, Purpose};
use parting::Parting;
use troubles::Troubles;

/// For how long what was settled counts as settled while nothing but SWIM goes on: what grows old
/// by itself is looked at so often.
const SETTLED_FOR: Duration = Duration::from_millis(250);
/// How long a removed member's connections stay open, so that it hears of it.
const FAREWELL: Duration = Duration::from_millis(250);
/// How soon after a change a ballot goes out: changes in one moment share one.
const BALLOT_SOON: Duration = Duration::from_millis(5);
/// How often a fetch under way is reported.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Up to so many members say at once to each that becomes live what they hold.
const GREETED_AT_ONCE: usize = 16;
/// In a larger cluster a member that has started waits for so long, and up to twice, because
/// others may have started with it.
const SETTLING: Duration = Duration::from_secs(2);
/// How soon a member asks for its vote again when it was not given.
const VOTE_RETRY: Duration = Duration::from_secs(1);
/// How soon a step of the window is proposed again when it failed.
const STEP_RETRY: Duration = Duration::from_millis(400);
/// How long a peer that does not know us may just not have heard of us yet.
const DISOWNED_AFTER: Duration = Duration::from_secs(3);
/// How often a member asks another for a newer catalog.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its identity.
    pub key: SecretKey,
    /// Where others reach it.
    pub address: SocketAddr,
    /// How many processors it may use, from 1.
    pub processors: u16,
    /// Where somebody of the cluster may be, for a member that finds nobody where it was: at most
    /// [`limits::SEEDS_MAX`].
    pub seeds: Vec<SocketAddr>,
    /// Feeds every choice by chance.
    pub seed: u64,
}

/// How the failure detector is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detector {
    /// How unwell this member thinks it is, from 0: it accuses others that much more slowly.
    pub unwell: u64,
    /// Suspicions that it looks into.
    pub suspicions: u64,
    /// Updates that gossip still has to carry.
    pub backlog: u64,
}

/// One member.
pub struct Member {
    key: SecretKey,
    me: MemberId,
    address: SocketAddr,
    rng: SmallRng,
    wall: WallTime,
    membership: Membership,
    register: Register<Change>,
    votes: Votes,
    presider: Presider,
    content: Content,
    asks: Asks,
    edits: edited::Edits,
    rumors: Rumors,
    troubles: Troubles,
    lies: lies::Lies,
    capacities: Capacities,
    addresses: addresses::Addresses,
    coming: rollout::Coming,
    /// What each of our own proposals is for.
    purposes: BTreeMap<u64, Purpose>,
    proposal_next: u64,
    ballot_stamp: u64,
    started_at: Time,
    ballot_due: Option<Time>,
    ballot_repeat: Time,
    /// When everything that follows from a change was last looked at.
    settled_at: Time,
    progress_at: Time,
    /// When the presider wants to look again, or may propose again.
    step_at: Option<Time>,
    step_pending: bool,
    /// After a failed step: not before this.
    step_hold: Time,
    vote_at: Time,
    vote_pending: bool,
    adoption_pending: bool,
    expiry: expiry::Expiry,
    unfinished: unfinished::Unfinished,
    ingested: BTreeMap<Digest, command::Staged>,
    /// Roster to tell the transport once the removed ones had their farewell.
    farewell: Option<(Time, Roster)>,
    asked: BTreeMap<MemberId, Time>,
    /// Peers that don't know us: since when, and whether they went on saying so.
    disowned: BTreeMap<MemberId, (Time, bool)>,
    /// Live peers of which it was told that they don't answer this member.
    unreached: BTreeSet<MemberId>,
    /// Peers at whose address another cluster answers: in the same way.
    foreign: BTreeMap<MemberId, (Time, bool)>,
    /// Who was last seen to hold something else than is committed.
    off: BTreeSet<(AppName, MemberId)>,
    verdicts: BTreeMap<AppName, Verdict>,
    /// What the verdicts were made of: counted ballots, the catalog's sequence,
    /// and until when no fresh ballot expires.
    judged: (u64, u64, Time),
    events: u64,
    /// A starting member drops no content: it may be the publisher of what is
    /// staged in a window that it has not heard of yet.
    started: bool,
    expelled: bool,
    leaving: bool,
    /// Not enrolled any more, and still here to say so.
    parting: Option<Parting>,
    rotating: rotation::Rotating,
    astray: astray::Astray,
    moving: moving::Moving,
}

impl Member {
    /// The member as it was when it stopped. The first effects are what the
    /// shell must know at once: whom to accept.
    pub fn new(
        now: Time,
        wall: WallTime,
        config: Config,
        restored: Restored,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let Config { key, address, processors, seeds, seed } = config;
        let me = key.member();
        let mut rng = SmallRng::seed_from_u64(seed);
        let Restored { record, generation, whole, activated, next_keys } = restored;
        let membership = Membership::new(now, me, address, generation, rng.random());
        let register = Register::new(key.clone(), record, rng.random());
        let leases = Leases::new(now, me, generation << 20, seed.rotate_left(16));
        let rumors = Rumors::new(now, key.clone(), generation << 20, seed.rotate_left(32));
        let mut member = Self {
            key,
            me,
            address,
            rng,
            wall,
            membership,
            register,
            votes: Votes::default(),
            presider: Presider::default(),
            content: Content::new(now, whole, activated),
            asks: Asks::new(generation << 20),
            edits: edited::Edits::default(),
            rumors,
            troubles: Troubles::default(),
            lies: lies::Lies::default(),
            capacities: Capacities::new(processors),
            addresses: addresses::Addresses::new(leases),
            coming: rollout::Coming::default(),
            purposes: BTreeMap::new(),
            proposal_next: 0,
            ballot_stamp: generation << 20,
            started_at: now,
            ballot_due: Some(now),
            ballot_repeat: now,
            settled_at: now,
            progress_at: now,
            step_at: None,
            step_pending: false,
            step_hold: now,
            vote_at: now + VOTE_RETRY / 4,
            vote_pending: false,
            adoption_pending: false,
            expiry: expiry::Expiry::default(),
            unfinished: unfinished::Unfinished::default(),
            ingested: BTreeMap::new(),
            farewell: None,
            asked: BTreeMap::new(),
            disowned: BTreeMap::new(),
            unreached: BTreeSet::new(),
            foreign: BTreeMap::new(),
            off: BTreeSet::new(),
            verdicts: BTreeMap::new(),
            judged: (0, 0, now),
            events: 0,
            started: false,
            expelled: false,
            leaving: false,
            parting: None,
            rotating: rotation::Rotating::new(next_keys),
            astray: astray::Astray::new(now),
            moving: moving::Moving::new(now, seeds),
        };
        effects.push(Effect::Generation(generation));
        let committed = Arc::clone(member.register.committed());
        member.on_committed(now, &committed, None, effects);
        member.started = true;
        // In a quiet cluster no other catalog may come for weeks: whoever collects has to know before.
        member.retain(now, &committed.catalog, effects);
        member.settle(now, effects);
        member
    }

    /// The newest committed catalog that this member knows.
    pub fn catalog(&self) -> &Catalog {
        &self.register.committed().catalog
    }

    /// This member's id.
    pub fn id(&self) -> MemberId {
        self.me
    }

    /// How many changes of the catalog wait or are under way here.
    pub fn pending_changes(&self) -> usize {
        self.register.pending()
    }

    /// How many events and questions are kept for members that are away.
    pub fn rumors_kept(&self) -> usize {
        self.rumors.kept()
    }

    /// Whether `member` is live in this member's view.
    pub fn is_live(&self, member: MemberId) -> bool {
        member == self.me || self.membership.is_live(member)
    }

    /// Whether `member` is far from this one, as others are not: near ones are asked first.
    pub fn is_far(&self, member: MemberId) -> bool {
        near::Around::new(&self.membership, self.catalog(), self.me).is_far(member)
    }

    /// Whether `member` is live and has, as far as it has said lately, a version of `app` to serve, or
    /// of everything.
    pub fn can_serve(&self, now: Time, member: MemberId, app: Option<&AppName>) -> bool {
        let lacks = |d: &Differing| d.activated == 0 && app.is_none_or(|app| *app == d.app);
        let holds = |ballot: &Ballot| !ballot.differing.iter().any(lacks);
        self.is_live(member) && self.votes.fresh(now, member).is_some_and(holds)
    }

    /// How wide the network is: see [`Membership::set_pace`].
    pub fn set_pace(&mut self, now: Time, pace: u32) {
        self.membership.set_pace(now, pace);
    }

    /// How the failure detector is doing, as numbers.
    pub fn detector(&self) -> Detector {
        Detector {
            unwell: u64::from(self.membership.unwell()),
            suspicions: self.membership.suspicions() as u64,
            backlog: self.membership.backlog() as u64,
        }
    }

    /// Something happened. `wall` is for people and for invitations only.
    pub fn handle(&mut self, now: Time, wall: WallTime, input: Input, effects: &mut Vec<Effect>) {
        self.wall = wall;
        if self.expelled {
            return;
        }
        if self.parting.is_some() {
            self.while_parting(now, input, effects);
            return;
        }
        match input {
            Input::Packet { from, bytes } => {
                self.is_known_to(from);
                let earlier = effects.len();
                self.tell_membership(now, membership::Input::Packet { from, bytes }, effects);
                if self.is_settled(now, &effects[earlier..]) {
                    return;
                }
            }
            Input::Message { from, bytes } => {
                self.is_known_to(from);
                self.on_message(now, from, &bytes, effects);
            }
            Input::Lost { member } => {
                self.tell_membership(now, membership::Input::Lost { member }, effects);
            }
            Input::Refused { member } => {
                self.tell_membership(now, membership::Input::Refused { member }, effects);
            }
            Input::Disowned { member } => self.on_disowned(now, member, effects),
            Input::Foreign { member } => self.on_foreign(now, member, effects),
            Input::Persisted { token } => {
                let mut wants = Vec::new();
                self.register.persisted(now, token, &mut wants);
                self.heed_register(now, wants, effects);
            }
            Input::Knock { ticket, key, exporter, from, bytes } => {
                self.on_knock(now, ticket, key, &exporter, from, &bytes, effects);
            }
            Input::Command { ticket, command, by } => {
                self.on_command(now, ticket, (command, by), effects);
            }
            Input::NextKey { key, sequence } => self.on_next_key(now, &key, sequence, effects),
            Input::Told { id, by, bytes } => self.on_told(now, id, by, &bytes, effects),
            Input::Found { id, address, by, bytes } => {
                self.on_found(now, id, (address, by), &bytes, effects);
            }
            Input::Fetching { root, bytes } => {
                self.content.fetching(root, bytes);
                if now >= self.progress_at {
                    self.progress_at = now + PROGRESS_EVERY;
                    self.ballot_soon(now);
                }
            }
            Input::Fetched { root, from, result } => {
                let trouble = self.content.fetched(now, root, from, result);
                if let Some(trouble) = trouble {
                    let who = self.name_of(from);
                    let text = format!("a fetch from {who} ended: {trouble}");
                    self.tell(effects, Severity::Warning, EventKind::Replication, None, text);
                }
                self.ballot_soon(now);
            }
            Input::Activated { app, version, result } => {
                self.on_activated(now, &app, version, &result, effects);
            }
            Input::Noticed { app } => self.content.noticed(now, &app),
            Input::Scanned { app, result, took } => {
                let before = self.content.holding(&app).and_then(|h| h.found);
                self.content.scanned(now, &app, result, took);
                if self.content.holding(&app).and_then(|h| h.found) != before {
                    // At once: what is decided next must count what was found
                    // and not what was said before.
                    self.ballot_due = Some(now);
                }
            }
            Input::Repaired { app, root, result } => {
                self.on_repaired(now, &app, root, result, effects);
            }
            Input::Damaged { root } => {
                self.content.no_longer_whole(root);
                self.ballot_soon(now);
            }
            Input::Withdrawn { app, result } => self.on_withdrawn(now, &app, &result, effects),
            Input::Addresses { defined, unable } => {
                self.on_addresses(now, defined, unable, effects);
            }
            Input::Seen { app, version, sight } => {
                self.on_seen(now, &app, version, sight, effects);
            }
            Input::HandOver => self.on_hand_over(now),
            Input::Sought { app } => {
                let current = self.catalog().application(&app).map(|a| a.current().root);
                if let Some(root) = current {
                    self.content.seek(now, root);
                }
            }
            Input::Ingested { app, result } => {
                if let Ok(staged) = &result {
                    self.ingested.insert(staged.root, *staged);
                }
                self.content.ingested(now, &app, result.clone().map(|staged| staged.root));
                self.resolve_ingested(now, &app, result, effects);
                self.ballot_soon(now);
            }
        }
        self.settle(now, effects);
    }

    /// When [`Member::tick`] is due at the latest.
    pub fn deadline(&self) -> Option<Time> {
        if self.expelled {
            return None;
        }
        if let Some(parting) = &self.parting {
            let seek = parting.is_rotation().then(|| self.seek_due()).flatten();
            let due = [Some(parting.deadline()), self.membership.deadline(), seek];
            return due.into_iter().flatten().min();
        }
        self.membership.deadline().into_iter().chain(self.due_besides_swim()).min()
    }

    fn due_besides_swim(&self) -> Option<Time> {
        let voteless = !self.vote_pending && !self.leaving && self.is_voteless();
        [
            self.register.deadline(),
            self.content.deadline(),
            self.asks.deadline(),
            self.edits.deadline(),
            self.rumors.deadline(),
            self.addresses.deadline(),
            self.coming.deadline(),
            self.expiry_due(),
            self.unfinished_due(),
            Some(self.astray.due),
            self.moving_due(),
            self.ballot_due,
            Some(self.ballot_repeat),
            // Held back after a failure: to be woken before that would be vain.
            self.step_at.filter(|_| !self.step_pending).map(|at| at.max(self.step_hold)),
            self.farewell.as_ref().map(|(at, _)| *at),
            voteless.then_some(self.vote_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time has passed. What waits at the socket should be handled first.
    pub fn tick(&mut self, now: Time, wall: WallTime, effects: &mut Vec<Effect>) {
        self.wall = wall;
        if self.expelled {
            return;
        }
        if self.parting.is_some() {
            self.tick_parting(now, effects);
            return;
        }
        let others_wait = self.due_besides_swim().is_none_or(|due| now < due);
        let earlier = effects.len();
        let mut wants = Vec::new();
        self.membership.tick(now, &mut wants);
        self.heed_membership(now, wants, effects);
        if others_wait && self.is_settled(now, &effects[earlier..]) {
            return;
        }
        let mut wants = Vec::new();
        self.register.tick(now, &mut wants);
        self.heed_register(now, wants, effects);
        if let Some((_, roster)) = self.farewell.take_if(|(at, _)| now >= *at) {
            effects.push(Effect::Peers(roster));
            self.readdress(effects);
        }
        self.asks_tick(now, effects);
        if self.coming.tick(now) {
            self.say_how_it_comes(now, effects);
        }
        if self.rumors.deadline().is_some_and(|due| now >= due) {
            let (live, mut wants) = (self.live(), Vec::new());
            self.rumors.tick(now, &live, &mut wants);
            self.heed_rumors(now, wants, effects);
        }
        self.settle(now, effects);
    }

    /// Whether SWIM had nothing but packets to send, and the rest was settled a moment ago:
    /// most of what wakes an idle member is that.
    fn is_settled(&self, now: Time, effects: &[Effect]) -> bool {
        now < self.settled_at + SETTLED_FOR
            && effects.iter().all(|effect| matches!(effect, Effect::Packet { .. }))
    }

    /// What follows from any change at all: content work, the vote's and the
    /// window's next step, a ballot if one is due.
    fn settle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.expelled || self.parting.is_some() {
            return;
        }
        self.settled_at = now;
        let committed = Arc::clone(self.register.committed());
        let catalog = &committed.catalog;
        if self.ballot_due.is_some_and(|due| now >= due) || now >= self.ballot_repeat {
            self.send_ballot(now, effects);
        }
        self.judge_anew(now, catalog, effects);
        let waits = self.wait_for_their_turn(now, catalog);
        let (me, membership) = (self.me, &self.membership);
        let live = |member: MemberId| member == me || membership.is_reached(member);
        let nearness = near::Around::new(membership, catalog, me);
        let far = |member| nearness.is_far(member);
        let (votes, live, far, waits) = (&self.votes, &live, &far, &waits);
        let around = Surroundings { now, me, catalog, votes, live, far, waits };
        self.content.drive(&around, &mut self.rng, effects);
        if self.content.keeps_other(now, catalog) {
            self.retain(now, catalog, effects);
            self.ballot_soon(now);
        }
        self.publish_edits(now, catalog, effects);
        self.take_back(now, catalog, effects);
        self.adopt_majority(now, catalog, effects);
        self.expire(now, catalog, effects);
        self.finish_what_was_accepted(now, catalog, effects);
        self.step_window(now, catalog, effects);
        self.look_for_the_others(now, catalog, effects);
        self.look_at_seeds(now, catalog, effects);
        self.propose_address(now, catalog, effects);
        self.drive_addresses(now, catalog, effects);
        self.ask_for_vote(now, effects);
    }

    // Membership.

    fn tell_membership(&mut self, now: Time, input: membership::Input, effects: &mut Vec<Effect>) {
        let mut wants = Vec::new();
        self.membership.handle(now, input, &mut wants);
        self.heed_membership(now, wants, effects);
    }

    fn heed_membership(
        &mut self,
        now: Time,
        wants: Vec<membership::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for want in wants {
            match want {
                membership::Effect::Send { to, address, bytes } => {
                    self.dial_anew(to, address, effects);
                    effects.push(Effect::Packet { to, bytes });
                }
                membership::Effect::Changed { member, before, state } => {
                    self.tell_of_state(member, before, state, effects);
                    if !state.is_live() {
                        self.votes.lapse(member);
                    } else if !before.is_live() {
                        // It may have missed what we said while it was away, and
                        // we what it said.
                        self.greet(now, member, effects);
                        let mut wants = Vec::new();
                        self.rumors.returned(member, &mut wants);
                        self.heed_rumors(now, wants, effects);
                    }
                }
                membership::Effect::Exchange { to, bytes } => {
                    self.send(to, &Message::Membership(bytes), effects);
                }
                membership::Effect::Reached { member, reached } => {
                    self.on_reached(member, reached, effects);
                }
                membership::Effect::Moved { member, address } => {
                    self.on_moved(member, address, effects);
                }
                membership::Effect::Generation(generation) => {
                    effects.push(Effect::Generation(generation));
                }
            }
        }
    }

    fn tell_of_state(
        &mut self,
        member: MemberId,
        before: membership::State,
        state: membership::State,
        effects: &mut Vec<Effect>,
    ) {
        let name = self.name_of(member);
        let (severity, text) = match state {
            membership::State::Left => (Severity::Info, format!("{name} has left")),
            membership::State::Down => {
                (Severity::Warning, format!("{name} is down: it answers nobody"))
            }
            _ if !before.is_live() => (Severity::Info, format!("{name} is live")),
            membership::State::Alive => {
                (Severity::Info, format!("{name} answers: the suspicion is withdrawn"))
            }
            membership::State::Suspect => {
                (Severity::Info, format!("{name} is a suspect: somebody got no answer from it"))
            }
        };
        self.tell_of(effects, severity, EventKind::Membership, member, None, text);
    }

    /// Sends what this member holds to one that has become live, and asks for the same. Not
    /// where many start together: then each says it once, a moment later, to all.
    fn greet(&mut self, now: Time, member: MemberId, effects: &mut Vec<Effect>) {
        self.coming.met(now);
        let crowd = self.catalog().roster.members.len() > GREETED_AT_ONCE;
        if crowd && now < self.started_at + SETTLING {
            let due = self.started_at + SETTLING + self.rng.random_range(Duration::ZERO..SETTLING);
            self.ballot_due = Some(self.ballot_due.map_or(due, |at| at.min(due)));
            return;
        }
        let signed = self.make_ballot(now);
        self.send(member, &Message::Greeting(signed), effects);
        self.send(member, &Message::Capacity(self.capacities.own()), effects);
        self.say_to(now, member, effects);
    }

    /// That a peer is reached at first is no news; that it isn't any more is, and its end.
    fn on_reached(&mut self, member: MemberId, reached: bool, effects: &mut Vec<Effect>) {
        let name = self.name_of(member);
        let (severity, text) = match (reached, self.unreached.contains(&member)) {
            (true, true) => {
                self.unreached.remove(&member);
                (Severity::Info, format!("{name} answers this member directly again"))
            }
            (false, false) => {
                self.unreached.insert(member);
                let text = format!(
                    "{name} does not answer this member, though others hear it: the way between \
                     the two is cut in one or both directions; it is given no work from here"
                );
                (Severity::Warning, text)
            }
            _ => return,
        };
        self.tell_of(effects, severity, EventKind::Membership, member, None, text);
    }

    fn live(&self) -> BTreeSet<MemberId> {
        let members = self.catalog().roster.members.iter().map(|m| m.id);
        members.filter(|id| self.is_live(*id)).collect()
    }

    // Messages.

    fn on_message(&mut self, now: Time, from: MemberId, bytes: &[u8], effects: &mut Vec<Effect>) {
        // Only enrolled peers get here; one that was just removed may still.
        if !self.catalog().roster.contains(from) && !planted::is(Bug::RemovedStillHeard) {
            return;
        }
        let Ok(message) = wire::decode::<Message>(Kind::Message, bytes) else { return };
        self.tell_membership(now, membership::Input::Heard { from }, effects);
        match message {
            Message::Register(message) => {
                let mut wants = Vec::new();
                self.register.handle(now, from, message, &mut wants);
                self.heed_register(now, wants, effects);
            }
            Message::Ballot(signed) => self.on_ballot(now, from, &signed, effects),
            Message::Greeting(signed) => {
                self.on_ballot(now, from, &signed, effects);
                let mine = self.make_ballot(now);
                self.send(from, &Message::Ballot(mine), effects);
            }
            Message::Forward { id, change } => self.on_forward(now, from, id, *change, effects),
            Message::Forwarded { id, answer } => self.on_forwarded(now, from, id, answer, effects),
            Message::Resolve { id, app } => self.on_resolve((from, id), app, None, effects),
            Message::ResolveFor { id, app, asked } => {
                self.on_resolve((from, id), app, Some(asked), effects);
            }
            Message::Troubles { list } => self.troubles.heard(now, from, list),
            Message::Rollout { list } => self.coming.heard(from, list),
            Message::Capacity(processors) => self.capacities.heard(from, processors),
            Message::Address(message) => self.on_address_message(now, from, message, effects),
            Message::Membership(bytes) => {
                self.tell_membership(now, membership::Input::Exchange { from, bytes }, effects);
            }
            Message::Rumor(message) => {
                let committed = Arc::clone(self.register.committed());
                let (live, mut wants) = (self.live(), Vec::new());
                let roster = &committed.catalog.roster;
                self.rumors.handle(now, from, message, roster, &live, &mut wants);
                self.heed_rumors(now, wants, effects);
            }
        }
    }

    fn send(&self, to: MemberId, message: &Message, effects: &mut Vec<Effect>) {
        debug_assert_ne!(to, self.me, "nobody writes to itself");
        match wire::try_encode(Kind::Message, message) {
            Ok(bytes) => effects.push(Effect::Message { to, bytes }),
            // A catalog beyond the bound could not be adopted by anybody; the
            // bounds of its parts keep it well below.
            Err(_) => debug_assert!(false, "a message over its bound"),
        }
    }

    // The register.

    fn propose(&mut self, now: Time, change: Change, purpose: Purpose, effects: &mut Vec<Effect>) {
        self.proposal_next += 1;
        let id = self.proposal_next;
        self.purposes.insert(id, purpose);
        let mut wants = Vec::new();
        self.register.propose(now, id, change, &mut wants);
        self.heed_register(now, wants, effects);
    }

    fn heed_register(
        &mut self,
        now: Time,
        wants: Vec<register::Effect<Change>>,
        effects: &mut Vec<Effect>,
    ) {
        for want in wants {
            match want {
                register::Effect::Persist { token, record } => {
                    effects.push(Effect::Persist { token, record });
                }
                register::Effect::Send { to, message } => {
                    self.send(to, &Message::Register(message), effects);
                }
                register::Effect::Committed(committed) => {
                    let before = self.farewell.take().map(|(at, _)| at);
                    self.on_committed(now, &committed, before, effects);
                }
                register::Effect::Ended { id, change, result } => {
                    if let Some(purpose) = self.purposes.remove(&id) {
                        self.on_ended(now, purpose, change, result, effects);
                    }
                }
                register::Effect::Lie(evidence) => self.on_lie(*evidence, effects),
            }
        }
    }

    /// A newer catalog is in force and on disk.
    fn on_committed(
        &mut self,
        now: Time,
        committed: &Committed,
        unsaid: Option<Time>,
        effects: &mut Vec<Effect>,
    ) {
        let catalog = &committed.catalog;
        let before = catalog.roster_before.as_ref();
        let lost_someone = unsaid.is_some()
            || before.is_some_and(|b| b.members.iter().any(|m| !catalog.roster.contains(m.id)));
        if lost_someone && planted::is(Bug::RemovedStillHeard) {
            // Its connections are never closed.
        } else if lost_someone {
            // The removed one hears of it before the doors close.
            let at = unsaid.map_or(now + FAREWELL, |at| at);
            self.farewell = Some((at, catalog.roster.clone()));
        } else {
            effects.push(Effect::Peers(catalog.roster.clone()));
        }
        self.note_ids(catalog, effects);
        if !catalog.roster.contains(self.me) {
            self.on_removed(now, effects);
            return;
        }
        self.settle_next_keys(catalog, effects);
        let mut wants = Vec::new();
        self.membership.set_roster(now, &catalog.roster, &mut wants);
        self.heed_membership(now, wants, effects);
        self.note_addresses(now, catalog, effects);
        self.votes.retain(catalog);
        self.rumors.retain(&catalog.roster);
        self.troubles.retain(catalog);
        self.lies.retain(&catalog.roster);
        self.capacities.retain(catalog);
        self.addresses_committed(now, catalog);
        self.coming.retain(now, catalog);
        self.content.place_anew();
        if self.started {
            self.retain(now, catalog, effects);
        }
        self.asked.retain(|member, _| catalog.roster.contains(*member));
        self.disowned.retain(|member, _| catalog.roster.contains(*member));
        self.unreached.retain(|member| catalog.roster.contains(*member));
        self.foreign.retain(|member, _| catalog.roster.contains(*member));
        self.off.retain(|(app, member)| {
            catalog.applications.contains_key(app) && catalog.roster.contains(*member)
        });
        self.step_at = Some(now);
        self.ballot_soon(now);
        self.asks_committed(now, catalog, effects);
    }

    /// What neither the catalog nor this member needs any more goes.
    fn retain(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        let roots = self.content.retain(now, catalog, self.asks.roots());
        let keeps: BTreeSet<Digest> = roots.iter().copied().collect();
        effects.push(Effect::Retain { roots });
        self.ingested.retain(|root, _| keeps.contains(root));
    }

    /// Removed while it was away, a member is told by nobody: nobody talks to it
    /// any more. A few may be wrong, so it goes on and says so.
    ///
    /// A majority of the voters that it knows is not wrong. It has a vote, so a
    /// majority of them has held a catalog in which it is enrolled (whoever
    /// accepts a catalog holds the one before). The two majorities share a
    /// member, which goes back to no older catalog and yet does not know us: it
    /// holds a newer one without us. So it ends as if it had heard of it. A
    /// minority can silence nobody.
    fn on_disowned(&mut self, now: Time, member: MemberId, effects: &mut Vec<Effect>) {
        let known = self.unknown_to().is_some();
        let (since, lasting) = self.disowned.entry(member).or_insert((now, false));
        *lasting |= now.since(*since) >= DISOWNED_AFTER;
        let lasting = self.disowned.iter().filter(|(_, (_, lasting))| *lasting);
        let disowned_by: BTreeSet<MemberId> = lasting.map(|(id, _)| *id).collect();
        self.ask_as_next(now, member, effects);
        let roster = &self.catalog().roster;
        let decided =
            roster.get(self.me).is_some_and(|m| m.voter) && roster.is_majority(&disowned_by);
        if decided && !self.may_be_another(&disowned_by) {
            self.on_removed(now, effects);
            return;
        }
        if let (false, Some(names)) = (known, self.unknown_to()) {
            let text = format!(
                "this member is unknown to {names}: it was probably removed while it was away"
            );
            self.tell(effects, Severity::Critical, EventKind::Member, None, text);
        }
    }

    /// Where a peer should be, another cluster answers: that one was recovered
    /// without this member, or somebody else has its address now.
    fn on_foreign(&mut self, now: Time, member: MemberId, effects: &mut Vec<Effect>) {
        let known = self.gone_to_another_cluster().is_some();
        let (since, lasting) = self.foreign.entry(member).or_insert((now, false));
        *lasting |= now.since(*since) >= DISOWNED_AFTER;
        if let (false, Some(names)) = (known, self.gone_to_another_cluster()) {
            let text = format!(
                "another cluster answers at the address of {names}: the cluster was probably \
                 recovered there without this member"
            );
            self.tell(effects, Severity::Critical, EventKind::Member, None, text);
        }
    }

    /// It speaks to us as to one of its own.
    fn is_known_to(&mut self, member: MemberId) {
        self.disowned.remove(&member);
        self.foreign.remove(&member);
    }

    /// The names of those that go on saying that this member is not enrolled.
    fn unknown_to(&self) -> Option<String> {
        self.lasting(&self.disowned)
    }

    /// The names of those at whose address another cluster goes on answering.
    fn gone_to_another_cluster(&self) -> Option<String> {
        self.lasting(&self.foreign)
    }

    fn lasting(&self, of: &BTreeMap<MemberId, (Time, bool)>) -> Option<String> {
        let lasting = of.iter().filter(|(_, (_, lasting))| *lasting);
        let names: Vec<String> = lasting.take(10).map(|(id, _)| self.name_of(*id)).collect();
        (!names.is_empty()).then(|| names.join(" and "))
    }

    fn on_removed(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if let Some(to) = self.next_id() {
            self.on_rotated(now, to, effects);
            return;
        }
        let left = self.leaving;
        let (severity, text) = if left {
            (Severity::Info, "this member has left the cluster")
        } else {
            (Severity::Critical, "this member was removed from the cluster, and stops")
        };
        self.tell(effects, severity, EventKind::Member, None, text.to_owned());
        self.answer_all(effects);
        // Who was told only by the others' silence has nothing to tell them.
        let knows = !self.catalog().roster.contains(self.me);
        if knows && (left || !self.started) {
            if !self.started {
                effects.push(Effect::Peers(self.catalog().roster.clone()));
            }
            self.parting = Some(Parting::new(now, left));
        } else {
            self.stop_for_good(now, left, effects);
        }
    }

    // The vote.

    fn ballot_soon(&mut self, now: Time) {
        let due = now + BALLOT_SOON;
        self.ballot_due = Some(self.ballot_due.map_or(due, |at| at.min(due)));
    }

    fn send_ballot(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.ballot_due = None;
        let members = self.catalog().roster.members.len();
        let repeat_every = match self.catalog().window {
            Some(_) => vote::repeat_in_window_every(members),
            None => vote::repeat_every(members),
        };
        self.ballot_repeat = now + repeat_every;
        let signed = self.make_ballot(now);
        self.send_to_all(&Message::Ballot(signed), effects);
        let troubles = self.content.troubles(self.catalog(), self.me);
        if let Some(list) = self.troubles.due(troubles) {
            self.send_to_all(&Message::Troubles { list }, effects);
        }
        if self.capacities.is_due() {
            self.send_to_all(&Message::Capacity(self.capacities.own()), effects);
        }
        self.say_how_it_comes(now, effects);
    }

    fn send_to_all(&self, message: &Message, effects: &mut Vec<Effect>) {
        // The same for everybody: encoded once.
        let bytes = wire::try_encode(Kind::Message, message);
        debug_assert!(bytes.is_ok(), "a message over its bound");
        if let Ok(bytes) = bytes {
            let others = self.live().into_iter().filter(|id| *id != self.me);
            effects.extend(others.map(|to| Effect::Message { to, bytes: bytes.clone() }));
        }
    }

    /// What this member holds now, signed; counted here at once.
    fn make_ballot(&mut self, now: Time) -> SignedBallot {
        self.ballot_stamp += 1;
        let committed = Arc::clone(self.register.committed());
        let catalog = &committed.catalog;
        let differing = self.content.differing(catalog, self.me);
        let staged = catalog.window.as_ref().and_then(|w| w.publication.as_ref());
        let staged_bytes = staged.map_or(0, |publication| {
            let version = &publication.version;
            let whole = self.content.is_whole(version.root);
            if whole { version.bytes } else { self.content.fetched_bytes(version.root) }
        });
        let ballot = Ballot {
            member: self.me,
            sequence: catalog.sequence,
            stamp: self.ballot_stamp,
            digest: roots_digest(catalog, &differing),
            differing,
            lacking: self.content.lacking(catalog),
            whole: self.content.offer(now, catalog),
            staged_bytes,
        };
        let signed = SignedBallot::new(&self.key, &ballot);
        let received = self.votes.receive(now, ballot);
        debug_assert!(received.is_ok(), "our own stamp only grows");
        signed
    }

    fn on_ballot(
        &mut self,
        now: Time,
        from: MemberId,
        signed: &SignedBallot,
        effects: &mut Vec<Effect>,
    ) {
        let catalog = self.catalog();
        let Ok(ballot) = signed.open(catalog) else { return };
        if ballot.member == self.me {
            return;
        }
        let (of, theirs, ours) = (ballot.member, ballot.sequence, catalog.sequence);
        let _stale = self.votes.receive(now, ballot);
        if theirs > ours {
            let again = self.asked.get(&from).is_none_or(|at| now.since(*at) >= ASK_EVERY);
            if again {
                self.asked.insert(from, now);
                let ask = register::Message::Ask { sequence: ours };
                self.send(from, &Message::Register(ask), effects);
            }
        }
        let committed = Arc::clone(self.register.committed());
        self.note_switches(now, &committed.catalog, of);
    }

    /// Counts the ballots again if they, the time or the catalog may have made
    /// a difference: most inputs are packets, which make none.
    fn judge_anew(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        let (changes, sequence, until) = self.judged;
        if (changes, sequence) == (self.votes.changes(), catalog.sequence) && now < until {
            return;
        }
        let until = self.votes.fresh_until(now).unwrap_or(now);
        self.judged = (self.votes.changes(), catalog.sequence, until);
        self.watch_votes(now, catalog, effects);
    }

    /// Tells of what changed in the vote, once.
    fn watch_votes(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        for (app, application) in &catalog.applications {
            if catalog.window_covers(app) {
                continue;
            }
            let Some(tally) = self.votes.tally(now, catalog, app) else { continue };
            let number = application.current().number;
            for (member, position) in &tally.positions {
                let is_off = match position {
                    Position::Holds(root) => *root != tally.committed,
                    Position::Nothing => true,
                    // Silence is no news: what counts is off, then on again.
                    Position::Silent | Position::Late => continue,
                };
                let key = (app.clone(), *member);
                let was_off = if is_off { !self.off.insert(key) } else { self.off.remove(&key) };
                if was_off == is_off {
                    continue;
                }
                let name = self.name_of(*member);
                let agree =
                    tally.positions.values().filter(|p| **p == Position::Holds(tally.committed));
                let (agree, voters) = (agree.count(), tally.positions.len());
                let (severity, text) = if is_off {
                    (
                        Severity::Warning,
                        format!(
                            "{app} on {name} is not version {number}: {agree} of {voters} members hold it"
                        ),
                    )
                } else {
                    (Severity::Info, format!("{app} on {name} is version {number} again"))
                };
                let app = Some(app.clone());
                self.tell_of(effects, severity, EventKind::Vote, *member, app, text);
            }
            let verdict = tally.verdict(catalog.conduct.policy.vote);
            let before = self.verdicts.insert(app.clone(), verdict);
            if verdict == Verdict::Hung && before != Some(Verdict::Hung) {
                let text = format!(
                    "the vote on {app} is hung: no majority holds the same, and nobody holds version \
                     {number} whole; nothing is touched until `althing resolve {app} --member NAME`"
                );
                let app = Some(app.clone());
                self.tell(effects, Severity::Critical, EventKind::Vote, app, text);
            }
        }
        self.verdicts.retain(|app, _| catalog.applications.contains_key(app));
    }

    /// A strict majority holds something else: the first live member of that
    /// majority proposes it as the next version.
    fn adopt_majority(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        let other = self.verdicts.values().any(|v| matches!(v, Verdict::Other(_)));
        if self.adoption_pending || !other {
            return;
        }
        for (app, application) in &catalog.applications {
            if catalog.window_covers(app) {
                continue;
            }
            let Some(tally) = self.votes.tally(now, catalog, app) else { continue };
            let Verdict::Other(root) = tally.verdict(catalog.conduct.policy.vote) else { continue };
            // An earlier version put back by hand has its numbers in the catalog.
            let kept = application.versions.iter().find(|v| v.root == root);
            let kept = kept.map(|v| command::Staged { root, files: v.files, bytes: v.bytes });
            let Some(staged) = self.ingested.get(&root).copied().or(kept) else { continue };
            let holders = self.votes.whole(now, root);
            let placed = catalog.roster.placed(&application.current().spec);
            let first = election::presider(&catalog.roster, |m| {
                self.is_live(m) && holders.contains(&m) && placed.contains(m)
            });
            let held = placed.is_majority(&holders) || planted::is(Bug::AdoptedByFewer);
            if first != Some(self.me) || !held {
                continue;
            }
            let current = application.current();
            let version = crate::base::catalog::Version {
                number: current.number + 1,
                root,
                files: staged.files,
                bytes: staged.bytes,
                spec: current.spec.clone(),
                publisher: self.me,
                published_at: self.wall,
                message: "held by a majority outside of any window".to_owned(),
                origin: crate::base::catalog::Origin::Majority,
                asked: None,
            };
            self.adoption_pending = true;
            let (app, version) = (app.clone(), Box::new(version));
            let whole = holders.into_iter().collect();
            let change = Change::AdoptMajority { app, version, whole };
            self.propose(now, change, Purpose::Adoption, effects);
            return;
        }
    }

    // The window.

    fn step_window(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        if self.step_pending || now < self.step_hold {
            return;
        }
        // Most of the time there is none, and nobody to ask who is live.
        let live = if catalog.window.is_some() { self.live() } else { BTreeSet::new() };
        let publication = catalog.window.as_ref().and_then(|w| w.publication.as_ref());
        let mut reports = Reports { live, ..Reports::default() };
        if let Some(publication) = publication {
            reports.whole = self.votes.whole(now, publication.version.root);
            for member in &catalog.roster.members {
                let Some(ballot) = self.votes.fresh(now, member.id) else { continue };
                reports.bytes += ballot.staged_bytes;
                let number = publication.version.number;
                let placed = catalog.roster.placed(&publication.version.spec).holds(member);
                let late = |d: &vote::Differing| {
                    placed && d.app == publication.app && d.activated != number
                };
                if ballot.sequence == catalog.sequence && !ballot.differing.iter().any(late) {
                    reports.switched.insert(member.id);
                }
            }
        }
        let whole = reports.whole.iter().copied().collect();
        let (step, look_again) = self.presider.consider(now, self.me, catalog, reports);
        self.step_at = look_again;
        let (Some(step), Some(window)) = (step, &catalog.window) else { return };
        let request = publication.map_or(0, |p| p.request);
        let id = window.id;
        let change = match step {
            Step::TakeOver => {
                let from = window.coordinator;
                Change::TakeOver { window: id, from, by: self.me, ordered: false }
            }
            Step::Commit => Change::Commit { window: id, request, by: self.me, whole },
            Step::Finish { why } | Step::Abandon { why } => {
                let committed = publication.is_some_and(|p| p.committed);
                Change::Finish { window: id, request, by: self.me, committed, why }
            }
        };
        self.step_pending = true;
        self.propose(now, change, Purpose::Step, effects);
    }

    fn step_ended(&mut self, now: Time, failed: bool) {
        self.step_pending = false;
        self.step_hold = if failed { now + STEP_RETRY } else { now };
        self.step_at = Some(self.step_hold);
    }

    // Content.

    fn on_activated(
        &mut self,
        now: Time,
        app: &AppName,
        number: u64,
        result: &Result<Switched, ContentFailure>,
        effects: &mut Vec<Effect>,
    ) {
        let committed = Arc::clone(self.register.committed());
        let Some(version) = committed.catalog.application(app).and_then(|a| a.version(number))
        else {
            // So many versions came meanwhile that this one is not kept.
            self.content.idle(app);
            return;
        };
        let known = self.content.holding(app).and_then(|h| h.error.clone());
        let before = self.content.holding(app).map_or(0, |h| h.activated);
        self.content.activated(now, app, version, result);
        let mut asked: Option<AskedBy> = None;
        let (severity, text) = match result {
            Ok(switched) => {
                self.came(now, app, number, before, effects);
                self.tell_of_edits(app, version, switched, effects);
                asked.clone_from(&version.asked);
                let text = format!("{app} switched to version {number}");
                (Severity::Info, told_with(text, version.asked.as_ref()))
            }
            Err(ContentFailure::Outdated) => return,
            Err(ContentFailure::Lost(why) | ContentFailure::Failed(why)) => {
                if self.content.holding(app).and_then(|h| h.error.clone()) == known {
                    return; // told before
                }
                (Severity::Critical, format!("{app} could not switch to version {number}: {why}"))
            }
        };
        let event = self.event(severity, EventKind::Version, self.me, Some(app.clone()), text);
        effects.push(Effect::Event(Event { asked, ..event }));
        self.ballot_soon(now);
    }

    fn on_repaired(
        &mut self,
        now: Time,
        app: &AppName,
        root: Digest,
        result: Result<Repair, ContentFailure>,
        effects: &mut Vec<Effect>,
    ) {
        let committed = Arc::clone(self.register.committed());
        let known = self.content.holding(app).and_then(|h| h.error.clone());
        self.content.repaired(now, app, root, result.as_ref().err());
        let Some(application) = committed.catalog.application(app) else { return };
        let current = application.current();
        let tally = self.votes.tally(now, &committed.catalog, app);
        let (severity, text) = match result {
            Ok(repair) => {
                let agree = tally.map_or(0, |t| {
                    t.positions.values().filter(|p| **p == Position::Holds(t.committed)).count()
                });
                let placed = committed.catalog.roster.placed(&current.spec);
                let voters = placed.voters().count();
                let Repair { set, added, deleted, sample } = repair;
                let text = format!(
                    "{app} was repaired to version {}, which {agree} of {voters} members hold: \
                     {set} files put right, {added} brought back, {deleted} taken away ({}); \
                     what they were is kept aside",
                    current.number,
                    sample.join(", ")
                );
                (Severity::Warning, text)
            }
            Err(ContentFailure::Lost(why) | ContentFailure::Failed(why)) => {
                if self.content.holding(app).and_then(|h| h.error.clone()) == known {
                    return; // told before
                }
                (Severity::Critical, format!("{app} could not be repaired: {why}"))
            }
            Err(ContentFailure::Outdated) => return,
        };
        self.tell(effects, severity, EventKind::Repair, Some(app.clone()), text);
        self.ballot_soon(now);
    }

    fn on_withdrawn(
        &mut self,
        now: Time,
        app: &AppName,
        result: &Result<Withdrawn, ContentFailure>,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.content.holding(app).and_then(|h| h.error.clone());
        self.content.withdrawn(now, app, result.as_ref().err());
        let (severity, text) = match result {
            Ok(Withdrawn { aside, left, place }) => {
                self.went(app);
                let mut text = format!("{app} is placed on others now, and was taken away here");
                if let (1.., Some(place)) = (aside, place) {
                    text.push_str(&format!("; {aside} edited files are kept in {place}"));
                }
                if *left > 0 {
                    text.push_str(&format!("; {left} ignored things stay where they are"));
                }
                (Severity::Info, text)
            }
            Err(ContentFailure::Outdated) => return,
            Err(ContentFailure::Lost(why) | ContentFailure::Failed(why)) => {
                if self.content.holding(app).and_then(|h| h.error.clone()) == known {
                    return; // told before
                }
                let text = format!("{app} is placed on others now, and can't be taken away: {why}");
                (Severity::Warning, text)
            }
        };
        self.tell(effects, severity, EventKind::Version, Some(app.clone()), text);
        self.ballot_soon(now);
    }

    // Its own vote.

    fn is_voteless(&self) -> bool {
        self.catalog().roster.get(self.me).is_some_and(|m| !m.voter)
    }

    /// A newcomer that runs and sees a majority asks for its vote.
    fn ask_for_vote(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.vote_pending || now < self.vote_at || self.leaving || !self.is_voteless() {
            return;
        }
        self.vote_at = now + VOTE_RETRY;
        let (live, majority) =
            election::quorum_in_view(&self.catalog().roster, |m| self.is_live(m));
        if live < majority {
            return;
        }
        self.vote_pending = true;
        self.propose(now, Change::Enfranchise { member: self.me }, Purpose::Vote, effects);
    }

    // Events.

    fn name_of(&self, member: MemberId) -> String {
        let catalog = self.catalog();
        let before = catalog.roster_before.as_ref();
        let known = catalog.roster.get(member).or_else(|| before.and_then(|b| b.get(member)));
        known.map_or_else(|| member.to_string(), |m| m.name.to_string())
    }

    fn tell(
        &mut self,
        effects: &mut Vec<Effect>,
        severity: Severity,
        kind: EventKind,
        app: Option<AppName>,
        text: String,
    ) {
        self.tell_of(effects, severity, kind, self.me, app, text);
    }

    fn tell_of(
        &mut self,
        effects: &mut Vec<Effect>,
        severity: Severity,
        kind: EventKind,
        member: MemberId,
        app: Option<AppName>,
        text: String,
    ) {
        let event = self.event(severity, kind, member, app, text);
        effects.push(Effect::Event(event));
    }

    /// The next event.
    fn event(
        &mut self,
        severity: Severity,
        kind: EventKind,
        member: MemberId,
        app: Option<AppName>,
        mut text: String,
    ) -> Event {
        self.events += 1;
        if text.len() > limits::TEXT_MAX {
            text = text.chars().take(limits::TEXT_MAX / 4).collect();
        }
        let member = MemberName::parse(&self.name_of(member)).ok();
        let (number, at) = (self.events, self.wall);
        let (user, cause, episode, evidence) = (None, None, None, None);
        let asked = None;
        Event {
            number,
            at,
            severity,
            kind,
            member,
            app,
            text,
            user,
            cause,
            episode,
            evidence,
            asked,
        }
    }
}

/// What happened, and who asked for it if that was done with a token.
fn told_with(text: String, asked: Option<&AskedBy>) -> String {
    match asked {
        Some(asked) => format!("{text}, {}", asked.told()),
        None => text,
    }
}
