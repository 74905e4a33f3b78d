//! The register itself: acceptor, proposer and learner of one member.
//!
//! Why a change of roster is safe. Let `v` be the newest catalog chosen below
//! ballot `b`, and let the proposer of `b` know the committed catalog `c`. It
//! collects promises until they hold a majority of every roster that the value
//! it is about to propose needs: of `c`'s, and, where the highest accepted
//! value it was told of has other rosters, of those too, again and again until
//! nothing new turns up. If the roster did not change between `c` and `v`, the
//! majorities of `c`'s roster meet and `v` is seen. If it did, the first change
//! needed a majority of `c`'s roster, so it or a descendant is seen, and with it
//! its roster, whose majority is then asked as well: by induction `v` is seen.
//! What was read uncommitted is proposed again unchanged, with the rosters that
//! it needed the first time, so no change of the roster is ever stepped over.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize, Serializer};

use super::certificate::{
    BallotNumber, CatchUp, Certificate, Committed, sign_accept, verify_accept,
};
use super::evidence::{Evidence, Heard, Statement};
use super::lineage::{self, Lineage};
use crate::base::{
    Digest, MemberId, Reason, Refusal, SecretKey, Signature, Time,
    catalog::{Catalog, Enrolled},
    limits,
    planted::{self, Bug},
    wire::{self, Kind},
};

/// How long one attempt may take before it is made anew: several round trips
/// between continents and a slow disk.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// How long a change is tried before it is refused.
const PATIENCE: Duration = Duration::from_secs(6);
/// The first pause between attempts; it doubles, with jitter, so that two
/// proposers stop disturbing each other.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(640);

/// A change as a function of the catalog that it is made against.
pub trait Transition {
    /// The catalog after the change. `sequence` and `roster_before` are set by
    /// the register. `None` means that it is so already.
    fn apply(&self, base: &Catalog) -> Result<Option<Catalog>, Refusal>;
}

/// What members say to each other about the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Phase one: will you promise to accept nothing below `ballot`?
    Prepare {
        /// The proposer's number.
        ballot: BallotNumber,
        /// The newest committed sequence that the proposer knows.
        committed: u64,
    },
    /// Yes; and this is the highest that I accepted beyond your sequence.
    Promise {
        /// The number that was asked for.
        ballot: BallotNumber,
        /// What was accepted.
        accepted: Option<Accepted>,
        /// What you seem to lack.
        catch_up: Option<Box<CatchUp>>,
    },
    /// No: I promised somebody a higher number, or you are behind.
    Refused {
        /// The number that was asked for.
        ballot: BallotNumber,
        /// The number that stands in the way.
        promised: BallotNumber,
        /// What you seem to lack.
        catch_up: Option<Box<CatchUp>>,
    },
    /// Phase two: accept this.
    Accept {
        /// The proposer's number.
        ballot: BallotNumber,
        /// The catalog to be.
        catalog: Box<Catalog>,
    },
    /// Accepted, on disk and signed.
    Accepted {
        /// The proposer's number.
        ballot: BallotNumber,
        /// Of which catalog.
        digest: Digest,
        /// The voter's word.
        signature: Signature,
    },
    /// This was committed.
    Commit(Box<CatchUp>),
    /// I know the catalog up to this sequence: what is newer?
    Ask {
        /// The sequence that the sender knows.
        sequence: u64,
    },
}

/// A catalog that a voter accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// At which number.
    pub ballot: BallotNumber,
    /// What.
    pub catalog: Box<Catalog>,
}

/// All that must survive a crash: synced as a whole before anything that
/// depends on it is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Nothing below this is accepted.
    pub promised: BallotNumber,
    /// The last that was accepted, until something newer is committed.
    pub accepted: Option<Accepted>,
    /// The newest that is known to be committed.
    pub committed: Committed,
    /// The last changes of the roster up to it.
    pub lineage: Lineage,
}

impl Record {
    /// The record of a member that founds a cluster.
    pub fn found(nonce: [u8; 32], key: &SecretKey, founder: Enrolled) -> Self {
        let me = founder.id;
        let catalog = Catalog::found(nonce, founder);
        let ballot = BallotNumber { round: 1, proposer: me };
        let signature = sign_accept(key, ballot, catalog.digest());
        let header = catalog.header();
        let certificate = Certificate { header, ballot, accepts: vec![(me, signature)] };
        let committed = Committed { catalog, certificate };
        let lineage = Lineage::found(&committed.catalog);
        Self { promised: ballot, accepted: None, committed, lineage }
    }

    /// The record of a newcomer that was handed `committed` with the whole
    /// lineage, both checked by the caller against what its token says.
    pub fn join(me: MemberId, committed: Committed, lineage: Lineage) -> Self {
        let promised = BallotNumber { round: 0, proposer: me };
        Self { promised, accepted: None, committed, lineage }
    }

    /// As [`Register::state`].
    pub fn state(&self) -> Vec<u8> {
        let rosters: Vec<_> =
            self.lineage.after(0).into_iter().map(|link| link.certificate.header).collect();
        let committed = &self.committed.catalog;
        wire::encode(Kind::Record, &(self.promised, &self.accepted, committed, rosters))
    }
}

/// What the register wants done.
#[derive(Debug)]
pub enum Effect<C> {
    /// Sync this record, then call [`Register::persisted`] with the token.
    Persist {
        /// Higher for each record.
        token: u64,
        /// The record, whole.
        record: Box<Record>,
    },
    /// Send a message; may be lost, doubled, late.
    Send {
        /// To whom; never this member itself.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// A newer catalog is committed and on this member's disk.
    Committed(Arc<Committed>),
    /// A proposal has ended.
    Ended {
        /// As given to [`Register::propose`].
        id: u64,
        /// The change.
        change: C,
        /// The sequence in which it holds, or why it does not.
        result: Result<u64, Refusal>,
    },
    /// A proposer has told two things: two catalogs at one ballot number. Said each time that it
    /// shows; nothing else follows from it here.
    Lie(Box<Evidence>),
}

/// One member's share in the register.
#[derive(Clone)]
pub struct Register<C> {
    key: SecretKey,
    me: MemberId,
    rng: SmallRng,
    record: Record,
    /// What was announced: never ahead of the disk.
    visible: Arc<Committed>,
    token: u64,
    /// The newest token that is on disk.
    persisted: u64,
    /// What waits for the disk, in the order of the tokens.
    gated: VecDeque<(u64, Gated<C>)>,
    round_max: u64,
    queue: VecDeque<Proposal<C>>,
    phase: Phase,
}

#[derive(Clone, Serialize)]
enum Gated<C> {
    Send(MemberId, Message),
    Announce(#[serde(serialize_with = "pointed_to")] Arc<Committed>),
    Ended { id: u64, change: C, result: Result<u64, Refusal> },
    Lie(Box<Evidence>),
}

// What [`Register::state`] skips are times, and what only pauses and words depend on.
#[derive(Clone, Serialize)]
struct Proposal<C> {
    id: u64,
    change: C,
    /// Set when the first attempt starts.
    #[serde(skip)]
    until: Option<Time>,
    #[serde(skip)]
    attempts: u32,
    /// The catalog that was sent out to be accepted for this very change:
    /// another proposer may have finished it for us.
    offered: Option<(u64, Digest)>,
    /// The most voters of one roster that answered in an attempt, for the refusal.
    #[serde(skip)]
    answered_max: usize,
    /// How many voters the roster that it makes needs, has, and had answers of,
    /// where these were too few, for the refusal.
    #[serde(skip)]
    short: Option<(usize, usize, usize)>,
}

#[derive(Clone, Serialize)]
enum Phase {
    Idle,
    Pausing {
        #[serde(skip)]
        until: Time,
    },
    Preparing {
        ballot: BallotNumber,
        #[serde(skip)]
        until: Time,
        asked: BTreeSet<MemberId>,
        promises: BTreeMap<MemberId, Option<Accepted>>,
    },
    Accepting {
        ballot: BallotNumber,
        #[serde(skip)]
        until: Time,
        catalog: Box<Catalog>,
        digest: Digest,
        accepts: BTreeMap<MemberId, Signature>,
    },
}

impl<C: Transition> Register<C> {
    /// The register as `record` left it. `seed` feeds the jitter only.
    pub fn new(key: SecretKey, mut record: Record, seed: u64) -> Self {
        if planted::is(Bug::ForgottenPromise) {
            record.promised.round = 0;
        }
        let visible = Arc::new(record.committed.clone());
        Self {
            me: key.member(),
            key,
            rng: SmallRng::seed_from_u64(seed),
            round_max: record.promised.round
                - u64::from(planted::is(Bug::BallotNumberReused) && record.promised.round > 0),
            record,
            visible,
            token: 0,
            persisted: 0,
            gated: VecDeque::new(),
            queue: VecDeque::new(),
            phase: Phase::Idle,
        }
    }

    /// The newest committed catalog that is on this member's disk.
    pub fn committed(&self) -> &Arc<Committed> {
        &self.visible
    }

    /// What brings somebody who knows the catalog up to `sequence` up to date.
    pub fn catch_up(&self, sequence: u64) -> CatchUp {
        CatchUp {
            committed: self.record.committed.clone(),
            links: self.record.lineage.after(sequence),
        }
    }

    /// The kept lineage, for a newcomer.
    pub fn lineage(&self) -> &Lineage {
        &self.record.lineage
    }

    /// The record as it is, or will be once the disk has caught up.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// At which ballot this member accepted what it does not know to be
    /// committed, if it did.
    pub fn unfinished(&self) -> Option<BallotNumber> {
        let accepted = self.record.accepted.as_ref()?;
        let beyond = accepted.catalog.sequence > self.record.committed.catalog.sequence;
        beyond.then_some(accepted.ballot)
    }

    /// How many proposals wait or are under way.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Queues a change. It ends with [`Effect::Ended`] in any case.
    pub fn propose(&mut self, now: Time, id: u64, change: C, effects: &mut Vec<Effect<C>>) {
        if self.queue.len() >= limits::PROPOSALS_MAX {
            let result = Err(Refusal::new(
                Reason::Busy,
                "The change was not made.",
                "This member has as many changes under way as it may have at once.",
                "Wait a moment, and try again.",
            ));
            effects.push(Effect::Ended { id, change, result });
            return;
        }
        self.queue.push_back(Proposal {
            id,
            change,
            until: None,
            attempts: 0,
            offered: None,
            answered_max: 0,
            short: None,
        });
        if matches!(self.phase, Phase::Idle) {
            self.prepare(now, effects);
        }
    }

    /// When [`Register::tick`] is due.
    pub fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Pausing { until }
            | Phase::Preparing { until, .. }
            | Phase::Accepting { until, .. } => Some(*until),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.expire(now, effects);
        }
    }

    /// Ends the attempt or the pause under way, as its timer does: for a checker
    /// that tries every order of events and has no clock.
    pub fn expire(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        match &self.phase {
            Phase::Idle => {}
            Phase::Pausing { .. } => self.prepare(now, effects),
            Phase::Preparing { .. } | Phase::Accepting { .. } => self.pause(now, effects),
        }
    }

    /// All that decides what this member's register does next, apart from time
    /// and chance, as bytes: where they are equal, equal inputs have equal
    /// effects. A model checker tells states apart by it. Of the proofs it
    /// holds what they prove; whose signatures are in them changes nothing, and
    /// at which ballot they were given only whether a lie is told of.
    pub fn state(&self) -> Vec<u8>
    where
        C: Serialize,
    {
        // Tokens only count on: what matters is how far the disk is behind.
        let gated: Vec<(u64, &Gated<C>)> = self
            .gated
            .iter()
            .map(|(token, what)| (token.saturating_sub(self.persisted), what))
            .collect();
        let unsynced = self.token.saturating_sub(self.persisted);
        let machine = (self.round_max, &self.queue, &self.phase, unsynced, gated);
        wire::encode(Kind::Record, &(self.record.state(), &self.visible.catalog, machine))
    }

    /// The record with `token`, and so all before it, is on disk.
    pub fn persisted(&mut self, now: Time, token: u64, effects: &mut Vec<Effect<C>>) {
        self.persisted = self.persisted.max(token);
        while self.gated.front().is_some_and(|(needs, _)| *needs <= token) {
            match self.gated.pop_front() {
                Some((_, Gated::Send(to, message))) if to == self.me => {
                    self.handle(now, to, message, effects);
                }
                Some((_, Gated::Send(to, message))) => effects.push(Effect::Send { to, message }),
                Some((_, Gated::Announce(committed))) => {
                    self.visible = Arc::clone(&committed);
                    effects.push(Effect::Committed(committed));
                }
                Some((_, Gated::Ended { id, change, result })) => {
                    effects.push(Effect::Ended { id, change, result });
                }
                Some((_, Gated::Lie(evidence))) => effects.push(Effect::Lie(evidence)),
                None => break,
            }
        }
    }

    /// A message from `from`, whose key the transport has checked.
    pub fn handle(
        &mut self,
        now: Time,
        from: MemberId,
        message: Message,
        effects: &mut Vec<Effect<C>>,
    ) {
        match message {
            Message::Prepare { ballot, committed } => {
                self.on_prepare(from, ballot, committed, effects);
            }
            Message::Promise { ballot, accepted, catch_up } => {
                self.learn_from(now, from, catch_up, effects);
                self.on_promise(now, from, ballot, accepted, effects);
            }
            Message::Refused { ballot, promised, catch_up } => {
                if self.is_near(promised.round) {
                    self.round_max = self.round_max.max(promised.round);
                }
                self.learn_from(now, from, catch_up, effects);
                let mine = match &self.phase {
                    Phase::Preparing { ballot, .. } | Phase::Accepting { ballot, .. } => *ballot,
                    _ => return,
                };
                if mine == ballot {
                    self.pause(now, effects);
                }
            }
            Message::Accept { ballot, catalog } => self.on_accept(from, ballot, catalog, effects),
            Message::Accepted { ballot, digest, signature } => {
                self.on_accepted(now, from, ballot, digest, signature, effects);
            }
            Message::Commit(catch_up) => self.learn_from(now, from, Some(catch_up), effects),
            Message::Ask { sequence } => {
                if sequence < self.record.committed.catalog.sequence {
                    let catch_up = Box::new(self.catch_up(sequence));
                    effects.push(Effect::Send { to: from, message: Message::Commit(catch_up) });
                }
            }
        }
    }

    // The acceptor.

    fn on_prepare(
        &mut self,
        from: MemberId,
        ballot: BallotNumber,
        committed: u64,
        effects: &mut Vec<Effect<C>>,
    ) {
        // A number belongs to its proposer: nobody may use another's.
        if ballot.proposer != from || !self.is_near(ballot.round) {
            return;
        }
        if committed > self.record.committed.catalog.sequence {
            self.ask_for_newer(from, effects);
        }
        let catch_up = self.newer_than(committed);
        let again = ballot == self.record.promised && planted::is(Bug::BallotNumberReused);
        if ballot <= self.record.promised && !again {
            let promised = self.record.promised;
            self.say(from, Message::Refused { ballot, promised, catch_up }, effects);
            return;
        }
        self.record.promised = ballot;
        self.round_max = self.round_max.max(ballot.round);
        let accepted = self.record.accepted.clone().filter(|a| a.catalog.sequence > committed);
        self.persist_then(
            Gated::Send(from, Message::Promise { ballot, accepted, catch_up }),
            effects,
        );
    }

    fn on_accept(
        &mut self,
        from: MemberId,
        ballot: BallotNumber,
        catalog: Box<Catalog>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let held = &self.record.committed.catalog;
        let foreign = ballot.proposer != from || catalog.cluster != held.cluster;
        if foreign || !self.is_near(ballot.round) {
            return;
        }
        // Where another catalog was committed at this number, it is only told of: that one is
        // behind us, and what is accepted after it can't hurt it.
        let contrary = self.is_contrary(ballot, &catalog);
        self.compare(ballot, &catalog, (Heard::Proposed, from), effects);
        let held = &self.record.committed.catalog;
        // Whoever accepts a catalog must be able to prove the one before it:
        // if the proposer dies, it is the accepters that complete it.
        if catalog.sequence > held.sequence + 1 {
            self.ask_for_newer(from, effects);
            return;
        }
        // Nothing at or below the committed sequence is accepted any more,
        // except the committed catalog itself, which does no harm.
        let behind = catalog.sequence < held.sequence
            || (catalog.sequence == held.sequence && catalog.digest() != held.digest());
        let below = ballot < self.record.promised && !planted::is(Bug::AcceptedBelowPromise);
        if below || behind || contrary {
            let promised = self.record.promised;
            let catch_up = self.newer_than(catalog.sequence.saturating_sub(1));
            self.say(from, Message::Refused { ballot, promised, catch_up }, effects);
            return;
        }
        let digest = catalog.digest();
        self.record.promised = ballot;
        self.round_max = self.round_max.max(ballot.round);
        self.record.accepted = Some(Accepted { ballot, catalog });
        let signature = sign_accept(&self.key, ballot, digest);
        self.persist_then(
            Gated::Send(from, Message::Accepted { ballot, digest, signature }),
            effects,
        );
    }

    /// Whether this member has accepted another catalog than `catalog` at that very number. What
    /// it has then stays: the proposer may count on it.
    fn is_contrary(&self, ballot: BallotNumber, catalog: &Catalog) -> bool {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        accepted.is_some_and(|a| differ(&a.catalog, catalog))
    }

    /// Whether a round is one that an honest proposer could have come to.
    fn is_near(&self, round: u64) -> bool {
        round < self.round_max.saturating_add(limits::ROUND_LEAP_MAX)
    }

    fn ask_for_newer(&self, from: MemberId, effects: &mut Vec<Effect<C>>) {
        if from != self.me {
            let sequence = self.record.committed.catalog.sequence;
            effects.push(Effect::Send { to: from, message: Message::Ask { sequence } });
        }
    }

    /// A refusal needs no disk: it promises nothing.
    fn say(&mut self, to: MemberId, message: Message, effects: &mut Vec<Effect<C>>) {
        if to == self.me {
            // Our own acceptor refuses only a number that we have outgrown
            // already; the attempt's timer takes it from there.
            return;
        }
        effects.push(Effect::Send { to, message });
    }

    fn newer_than(&self, sequence: u64) -> Option<Box<CatchUp>> {
        (self.record.committed.catalog.sequence > sequence)
            .then(|| Box::new(self.catch_up(sequence)))
    }

    fn persist_then(&mut self, gated: Gated<C>, effects: &mut Vec<Effect<C>>) {
        self.token += 1;
        match gated {
            Gated::Send(to, message) if to != self.me && planted::is(Bug::SkippedSync) => {
                effects.push(Effect::Send { to, message });
            }
            gated => self.gated.push_back((self.token, gated)),
        }
        effects.push(Effect::Persist { token: self.token, record: Box::new(self.record.clone()) });
    }

    // The proposer.

    fn prepare(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let Some(proposal) = self.queue.front_mut() else {
            self.phase = Phase::Idle;
            return;
        };
        let until = *proposal.until.get_or_insert(now + PATIENCE);
        if now >= until {
            self.give_up(now, effects);
            return;
        }
        proposal.attempts += 1;
        self.round_max += 1;
        let ballot = BallotNumber { round: self.round_max, proposer: self.me };
        let asked = voters_of(&self.record.committed.catalog);
        self.phase = Phase::Preparing {
            ballot,
            until: now + ATTEMPT,
            asked: asked.clone(),
            promises: BTreeMap::new(),
        };
        // Our own promise first, and on disk before anybody hears the number:
        // that is what keeps a restarted proposer from using it again.
        self.on_prepare(self.me, ballot, self.record.committed.catalog.sequence, effects);
        for to in asked {
            self.ask(to, ballot);
        }
    }

    /// Sends the prepare once the last record, which has our own promise, is synced.
    fn ask(&mut self, to: MemberId, ballot: BallotNumber) {
        if to != self.me {
            let committed = self.record.committed.catalog.sequence;
            let message = Message::Prepare { ballot, committed };
            self.gated.push_back((self.token, Gated::Send(to, message)));
        }
    }

    fn on_promise(
        &mut self,
        now: Time,
        from: MemberId,
        ballot: BallotNumber,
        accepted: Option<Accepted>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Preparing { ballot: mine, asked, .. } = &self.phase else { return };
        if *mine != ballot || !(asked.contains(&from) || from == self.me) {
            return;
        }
        let cluster = self.record.committed.catalog.cluster;
        let theirs = accepted.as_ref().filter(|_| from != self.me);
        if let Some(Accepted { ballot, catalog }) = theirs.filter(|a| a.catalog.cluster == cluster)
        {
            self.compare(*ballot, catalog, (Heard::Reported, from), effects);
        }
        let me = self.me;
        let Phase::Preparing { promises, .. } = &mut self.phase else { return };
        promises.insert(from, accepted);
        let held = &self.record.committed.catalog;
        let answered: BTreeSet<MemberId> = promises.keys().copied().collect();
        if let Some(proposal) = self.queue.front_mut() {
            let count = held.roster.voters().filter(|m| answered.contains(&m.id)).count();
            proposal.answered_max = proposal.answered_max.max(count);
        }
        let enough =
            planted::is(Bug::PromisesOfFewer) && answered.len() + 1 >= held.roster.majority();
        if !held.roster.is_majority(&answered) && !enough {
            return;
        }
        // At one number all are the same, unless somebody lies: then what this member
        // was asked for itself goes before what others say.
        let highest = promises
            .iter()
            .filter_map(|(voter, accepted)| accepted.as_ref().map(|a| (*voter == me, a)))
            .filter(|(_, a)| a.catalog.sequence > held.sequence && !planted::is(Bug::SteppedOver))
            .max_by_key(|(own, a)| (a.ballot, *own));
        let Some((_, highest)) = highest else {
            self.propose_change(now, ballot, &answered, effects);
            return;
        };
        // Uncommitted for all we know: its rosters must have promised as well,
        // and then it is proposed again, unchanged.
        let catalog = highest.catalog.clone();
        if catalog.rosters().all(|roster| roster.is_majority(&answered)) {
            self.accept(now, ballot, catalog, effects);
        } else {
            self.ask_also(&voters_of(&catalog), ballot, effects);
        }
    }

    fn propose_change(
        &mut self,
        now: Time,
        ballot: BallotNumber,
        answered: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let base = &self.record.committed.catalog;
        let Some(proposal) = self.queue.front_mut() else {
            self.phase = Phase::Idle;
            return;
        };
        match proposal.change.apply(base) {
            Err(refusal) => self.end(now, Err(refusal), effects),
            Ok(None) => {
                let sequence = base.sequence;
                self.end(now, Ok(sequence), effects);
            }
            Ok(Some(mut catalog)) => {
                catalog.cluster = base.cluster;
                catalog.sequence = base.sequence + 1;
                catalog.roster_before =
                    (catalog.roster != base.roster).then(|| base.roster.clone());
                if let Err(refusal) = lineage::has_room_for(&catalog) {
                    self.end(now, Err(refusal), effects);
                    return;
                }
                // Once it is accepted by anybody it has to be finished before
                // anything else. Where the roster that it makes has no majority
                // that is there, that may be never: so it is not begun.
                let after = &catalog.roster;
                if catalog.roster_before.is_some() && !after.is_majority(answered) {
                    let (voters, needed) = (after.voters().count(), after.majority());
                    let count = after.voters().filter(|m| answered.contains(&m.id)).count();
                    proposal.short = Some((needed, voters, count));
                    self.ask_also(&voters_of(&catalog), ballot, effects);
                    return;
                }
                proposal.offered = Some((catalog.sequence, catalog.digest()));
                self.accept(now, ballot, Box::new(catalog), effects);
            }
        }
    }

    /// Asks those of `voters` for their promise that were not asked yet.
    fn ask_also(
        &mut self,
        voters: &BTreeSet<MemberId>,
        ballot: BallotNumber,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Preparing { asked, .. } = &mut self.phase else { return };
        let missing: Vec<MemberId> = voters.difference(asked).copied().collect();
        asked.extend(missing.iter().copied());
        let committed = self.record.committed.catalog.sequence;
        for to in missing.into_iter().filter(|to| *to != self.me) {
            // Our own promise is on disk by now: it is among the answers
            // of the majority or was synced before the first question left.
            let message = Message::Prepare { ballot, committed };
            effects.push(Effect::Send { to, message });
        }
    }

    fn accept(
        &mut self,
        now: Time,
        ballot: BallotNumber,
        catalog: Box<Catalog>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let to = voters_of(&catalog);
        self.phase = Phase::Accepting {
            ballot,
            until: now + ATTEMPT,
            digest: catalog.digest(),
            catalog: catalog.clone(),
            accepts: BTreeMap::new(),
        };
        for voter in to {
            if voter == self.me {
                self.on_accept(self.me, ballot, catalog.clone(), effects);
            } else {
                let mut catalog = catalog.clone();
                if planted::is(Bug::ToldTwice) {
                    let other = limits::REMOVE_AFTER_MIN_S + ballot.round;
                    catalog.conduct.policy.remove_after_s = Some(other);
                }
                effects
                    .push(Effect::Send { to: voter, message: Message::Accept { ballot, catalog } });
            }
        }
    }

    fn on_accepted(
        &mut self,
        now: Time,
        from: MemberId,
        ballot: BallotNumber,
        digest: Digest,
        signature: Signature,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Phase::Accepting { ballot: mine, digest: ours, catalog, accepts, .. } = &mut self.phase
        else {
            return;
        };
        let signed = |roster| verify_accept(roster, from, ballot, digest, &signature);
        if *mine != ballot || *ours != digest || !catalog.rosters().any(signed) {
            return;
        }
        accepts.insert(from, signature);
        let accepted: BTreeSet<MemberId> = accepts.keys().copied().collect();
        if !catalog.rosters().all(|roster| roster.is_majority(&accepted)) {
            return;
        }
        let certificate = Certificate {
            header: catalog.header(),
            ballot,
            accepts: accepts.iter().map(|(voter, signature)| (*voter, *signature)).collect(),
        };
        let committed = Committed { catalog: (**catalog).clone(), certificate };
        // Everybody enrolled before or after hears of it; who misses it asks.
        let everybody: BTreeSet<MemberId> = committed
            .catalog
            .rosters()
            .flat_map(|roster| roster.members.iter().map(|m| m.id))
            .collect();
        let links = self.record.lineage.after(committed.catalog.sequence.saturating_sub(2));
        let catch_up = CatchUp { committed, links };
        for to in everybody.into_iter().filter(|to| *to != self.me) {
            let message = Message::Commit(Box::new(catch_up.clone()));
            effects.push(Effect::Send { to, message });
        }
        self.learn_from(now, self.me, Some(Box::new(catch_up)), effects);
    }

    fn pause(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let Some(proposal) = self.queue.front() else {
            self.phase = Phase::Idle;
            return;
        };
        if proposal.until.is_some_and(|until| now >= until) {
            self.give_up(now, effects);
            return;
        }
        let longest = (PAUSE * 2_u32.pow(proposal.attempts.min(5))).min(PAUSE_MAX);
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.rng.random_range(micros / 4..=micros));
        self.phase = Phase::Pausing { until: now + pause };
    }

    fn give_up(&mut self, now: Time, effects: &mut Vec<Effect<C>>) {
        let roster = &self.record.committed.catalog.roster;
        let (voters, majority) = (roster.voters().count(), roster.majority());
        let Some(proposal) = self.queue.front() else { return };
        let answered = proposal.answered_max;
        let short = proposal.short.filter(|_| proposal.offered.is_none());
        let refusal = if let (Some((needed, voters, answered)), true) =
            (short, answered >= majority)
        {
            Refusal::new(
                Reason::NoMajority,
                "The change was not made.",
                format!(
                    "Of the {voters} voters that there would be after it, {needed} are needed for \
                     everything else, and {answered} answered."
                ),
                "Bring members back, or remove those that are lost first, and try again.",
            )
        } else if answered < majority {
            Refusal::new(
                Reason::NoMajority,
                "The change was not made.",
                format!(
                    "It needs {majority} of the {voters} voters, and {answered} answered; \
                     what the cluster holds stays as it is and goes on being served."
                ),
                "Bring members back, or wait until the network is whole, and try again; if they are \
                 lost for ever, see `althing recover`.",
            )
        } else {
            Refusal::new(
                Reason::Busy,
                "The change was not confirmed.",
                format!(
                    "A majority answered, but within {} seconds none could be won for it: \
                     other changes or a slow network stood in the way. It may still come into force.",
                    PATIENCE.as_secs()
                ),
                "Look at the state of the cluster, and try again if it is not there.",
            )
        };
        self.end(now, Err(refusal), effects);
    }

    fn end(&mut self, now: Time, result: Result<u64, Refusal>, effects: &mut Vec<Effect<C>>) {
        if let Some(Proposal { id, change, .. }) = self.queue.pop_front() {
            // Nobody is told of a commit before this member's own disk has it.
            if result.is_ok() && self.token > self.persisted {
                self.gated.push_back((self.token, Gated::Ended { id, change, result }));
            } else {
                effects.push(Effect::Ended { id, change, result });
            }
        }
        self.phase = Phase::Idle;
        if !self.queue.is_empty() {
            self.prepare(now, effects);
        }
    }

    // The learner.

    /// Takes in a catalog that somebody says is committed, if it is newer and
    /// the proof holds; drops it without a word otherwise.
    fn learn_from(
        &mut self,
        now: Time,
        from: MemberId,
        catch_up: Option<Box<CatchUp>>,
        effects: &mut Vec<Effect<C>>,
    ) {
        let Some(catch_up) = catch_up else { return };
        let held = &self.record.committed.catalog;
        let certificate = &catch_up.committed.certificate;
        let ballot = certificate.ballot;
        let contrary = self.known_otherwise(ballot, certificate.header.digest());
        let back = planted::is(Bug::WentBack)
            && catch_up.committed.catalog.sequence < held.sequence
            && catch_up.committed.catalog.sequence >= self.record.lineage.sequence();
        if catch_up.committed.catalog.sequence <= held.sequence && !back {
            // Looked at for this alone, and that is never so where nobody lies.
            if let Some(one) = contrary
                && certificate.header.cluster == held.cluster
                && certificate.is_signed_by_majority(&held.roster)
            {
                self.tell_of_lie(ballot, one, Statement::committed(certificate, from), effects);
            }
            return;
        }
        let Ok(lineage) = self.record.lineage.follow(held.cluster, &catch_up) else { return };
        let electorate = held.roster.digest();
        if let Some(one) = contrary {
            // A majority has signed it: it holds, whatever its proposer told us.
            self.tell_of_lie(ballot, one, Statement::committed(certificate, from), effects);
        }
        self.record.lineage = lineage;
        self.record.committed = catch_up.committed;
        let sequence = self.record.committed.catalog.sequence;
        // What was accepted at or below it has been decided: nobody asks for it again.
        if self.record.accepted.as_ref().is_some_and(|a| a.catalog.sequence <= sequence) {
            self.record.accepted = None;
        }
        let announced = Arc::new(self.record.committed.clone());
        self.persist_then(Gated::Announce(announced), effects);
        let changed = self.record.committed.catalog.roster.digest() != electorate;
        self.after_learning(now, changed, effects);
    }

    // What a proposer told twice.

    /// What this member knows that `ballot` stands for, where that is not the catalog with
    /// `digest`: what it accepted itself, or what is committed.
    fn known_otherwise(&self, ballot: BallotNumber, digest: Digest) -> Option<Statement> {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        let accepted = accepted.map(|a| a.catalog.header());
        if let Some(header) = accepted.filter(|header| header.digest() != digest) {
            let accepts = vec![(self.me, sign_accept(&self.key, ballot, header.digest()))];
            let (heard, from) = (Heard::Proposed, ballot.proposer);
            return Some(Statement { header, heard, from, accepts });
        }
        let certificate = &self.record.committed.certificate;
        let other = certificate.ballot == ballot && certificate.header.digest() != digest;
        other.then(|| Statement::committed(certificate, self.me))
    }

    /// Tells of it where `catalog`, which is said to be that of `ballot`, is not what this member
    /// knows, or what a voter has said before.
    fn compare(
        &mut self,
        ballot: BallotNumber,
        catalog: &Catalog,
        (heard, from): (Heard, MemberId),
        effects: &mut Vec<Effect<C>>,
    ) {
        let accepted = self.record.accepted.as_ref().filter(|a| a.ballot == ballot);
        let known = accepted.is_some() || self.record.committed.certificate.ballot == ballot;
        if accepted.is_some_and(|a| *a.catalog == *catalog) {
            return;
        }
        let own = if known { self.known_otherwise(ballot, catalog.digest()) } else { None };
        if let Some(one) = own.or_else(|| self.reported_otherwise(ballot, catalog, from)) {
            let other = Statement::unsigned(catalog, heard, from);
            self.tell_of_lie(ballot, one, other, effects);
        }
    }

    /// What another voter than `from` has said that it accepted at `ballot`, in answer to our
    /// prepare, where that is not `catalog`.
    fn reported_otherwise(
        &self,
        ballot: BallotNumber,
        catalog: &Catalog,
        from: MemberId,
    ) -> Option<Statement> {
        let Phase::Preparing { promises, .. } = &self.phase else { return None };
        let mut others = promises
            .iter()
            .filter(|(voter, _)| **voter != from && **voter != self.me)
            .filter_map(|(voter, accepted)| Some((*voter, accepted.as_ref()?)))
            .filter(|(_, accepted)| accepted.ballot == ballot);
        let (voter, accepted) = others.next().filter(|(_, a)| differ(&a.catalog, catalog))?;
        Some(Statement::unsigned(&accepted.catalog, Heard::Reported, voter))
    }

    fn tell_of_lie(
        &mut self,
        ballot: BallotNumber,
        one: Statement,
        other: Statement,
        effects: &mut Vec<Effect<C>>,
    ) {
        let evidence = Box::new(Evidence { ballot, told_by: self.me, one, other });
        // It may show this member's own accept, which nobody sees before it is on disk.
        if self.token > self.persisted {
            self.gated.push_back((self.token, Gated::Lie(evidence)));
        } else {
            effects.push(Effect::Lie(evidence));
        }
    }

    /// What our own proposal makes of a newer catalog.
    fn after_learning(&mut self, now: Time, roster_changed: bool, effects: &mut Vec<Effect<C>>) {
        let sequence = self.record.committed.catalog.sequence;
        let digest = self.record.committed.catalog.digest();
        let offered = self.queue.front().and_then(|proposal| proposal.offered);
        if offered == Some((sequence, digest)) {
            self.end(now, Ok(sequence), effects);
            return;
        }
        let overtaken = match &self.phase {
            // What we finished was somebody else's, or we were overtaken.
            Phase::Accepting { catalog, .. } => catalog.sequence <= sequence,
            // Others must be asked now than those that we asked.
            Phase::Preparing { .. } => roster_changed,
            Phase::Pausing { .. } | Phase::Idle => false,
        };
        if overtaken {
            self.prepare(now, effects);
        }
    }
}

/// Whether they are two. Equal ones need no digest.
fn differ(one: &Catalog, other: &Catalog) -> bool {
    one != other && one.digest() != other.digest()
}

fn pointed_to<S: Serializer>(value: &Arc<Committed>, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}

fn voters_of(catalog: &Catalog) -> BTreeSet<MemberId> {
    catalog.rosters().flat_map(|roster| roster.voters().map(|m| m.id)).collect()
}
