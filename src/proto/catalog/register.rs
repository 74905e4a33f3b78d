//! The register itself: `acceptor`, `proposer` and `learner` of one member, and what they share.
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
};

use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize, Serializer};

use super::certificate::{BallotNumber, CatchUp, Certificate, Committed, sign_accept};
use super::evidence::Evidence;
use super::lineage::Lineage;
use crate::base::{
    Digest, MemberId, Reason, Refusal, SecretKey, Signature, Time,
    catalog::{Catalog, Enrolled},
    limits,
    planted::{self, Bug},
    wire::{self, Kind},
};

mod acceptor;
mod learner;
mod proposer;

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
}

/// Whether they are two. Equal ones need no digest.
fn differ(one: &Catalog, other: &Catalog) -> bool {
    one != other && one.digest() != other.digest()
}

fn pointed_to<S: Serializer>(value: &Arc<Committed>, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}
