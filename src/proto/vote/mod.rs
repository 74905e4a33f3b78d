//! The vote on content: what every member really holds, and what follows.
//!
//! Outside of update windows each member signs a ballot of what its last scan
//! found. The electorate of an application is every enrolled voter, reachable
//! or not, so a minority partition can decide nothing. Repair by majority of
//! peers is LOCKSS' idea (Maniatis et al., 2005); here the committed version
//! has the casting vote.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::base::{
    AppName, Digest, MemberId, SecretKey, Signature, Time,
    catalog::{Catalog, VotePolicy},
    limits,
    planted::{self, Bug},
    wire::{self, Kind, WireError},
};

/// Up to this size a member repeats its ballot twice a second to one or another, beyond it
/// once: it hears as many from the others, and whoever missed something learns of it from any
/// majority of them.
const REPEATED_TWICE: u32 = 16;

/// How often a member of a cluster of `members` repeats its ballot although
/// nothing changed: a change is told at once, so this is for what was lost, and
/// costs each member two messages a second at most, and one where there are many.
pub fn repeat_every(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let beyond = Duration::from_millis(500) * members.saturating_sub(REPEATED_TWICE);
    repeat_in_window_every(members as usize) + beyond
}

/// The same while a window is open: a coordinator waits for what ballots say, and not for ever.
pub fn repeat_in_window_every(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    (Duration::from_millis(500) * members).max(Duration::from_secs(2))
}

/// A ballot that is older than this is no longer in hand: the repetition was
/// lost three times over.
pub fn fresh_for(members: usize) -> Duration {
    repeat_every(members) * 7 / 2
}

/// In how many scans running a root must have been seen before a majority
/// for it may change what is right.
pub const SCANS_RUNNING: u32 = 2;

/// A member's statement of what content it really holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Whose.
    pub member: MemberId,
    /// The committed sequence that it was made at.
    pub sequence: u64,
    /// Higher in each ballot of a member, over restarts too.
    pub stamp: u64,
    /// One digest over the roots of all applications.
    pub digest: Digest,
    /// The applications whose live content is not the committed version, and those that
    /// are live although they are placed elsewhere: until others have taken them over.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::DIFFERING_MAX }>")]
    pub differing: Vec<Differing>,
    /// The applications whose committed version this member could not hand
    /// to others: its store does not hold it whole.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::APPLICATIONS_MAX }>")]
    pub lacking: Vec<AppName>,
    /// Roots beside the committed ones that its store holds whole: what is
    /// being published, and what the live content was found to be.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::DIFFERING_MAX }>")]
    pub whole: Vec<Digest>,
    /// Bytes of the staged version that have arrived: progress, not a claim.
    pub staged_bytes: u64,
}

impl Ballot {
    /// Whether it means what `other` means, whenever both were made.
    fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { member, sequence, stamp: _, digest, differing, lacking, whole, staged_bytes: _ } =
            self;
        (member, sequence, digest) == (&other.member, &other.sequence, &other.digest)
            && (differing, lacking, whole) == (&other.differing, &other.lacking, &other.whole)
    }
}

/// One application on one member that is not as committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// Which.
    pub app: AppName,
    /// The version that the member switched to last; 0 for none. One that is
    /// not the current one is late, not wrong.
    pub activated: u64,
    /// What the last scan found; `None` for nothing, or nothing readable.
    pub root: Option<Digest>,
    /// In how many scans running.
    pub scans: u32,
}

/// The digest over all roots of a ballot: the expected one if `differing` is empty.
pub fn roots_digest(catalog: &Catalog, differing: &[Differing]) -> Digest {
    let mut roots: BTreeMap<&AppName, Option<Digest>> =
        catalog.applications.iter().map(|(name, app)| (name, Some(app.current().root))).collect();
    for Differing { app, root, .. } in differing {
        roots.insert(app, *root);
    }
    Digest::of("althing ballot roots", &wire::encode(Kind::Message, &roots))
}

const BALLOT: &str = "althing ballot";

/// A ballot as it travels: the bytes that were signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBallot {
    bytes: Vec<u8>,
    signature: Signature,
}

/// Why a ballot is not counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BallotError {
    /// Not readable.
    #[error("the ballot can't be read: {0}")]
    Wire(#[from] WireError),
    /// Its member is not enrolled.
    #[error("the ballot is of a member that is not enrolled")]
    Stranger,
    /// Not signed by its member.
    #[error("the ballot is not signed by its member")]
    Signature,
    /// Not newer than the one in hand.
    #[error("the ballot is older than the one in hand")]
    Stale,
    /// Its digest and its list of differing applications contradict each other.
    #[error("the ballot contradicts itself")]
    Contradiction,
}

impl SignedBallot {
    /// Signs `ballot`.
    pub fn new(key: &SecretKey, ballot: &Ballot) -> Self {
        let bytes = wire::encode(Kind::Message, ballot);
        let signature = key.sign(BALLOT, &bytes);
        Self { bytes, signature }
    }

    /// What it says, whether or not its member signed it: for who only watches.
    pub fn unproven(&self) -> Result<Ballot, BallotError> {
        Ok(wire::decode(Kind::Message, &self.bytes)?)
    }

    /// The ballot, if an enrolled member signed it.
    pub fn open(&self, catalog: &Catalog) -> Result<Ballot, BallotError> {
        let ballot: Ballot = wire::decode(Kind::Message, &self.bytes)?;
        let voter = catalog.roster.get(ballot.member).ok_or(BallotError::Stranger)?;
        if !voter.key.verify(BALLOT, &self.bytes, &self.signature) {
            return Err(BallotError::Signature);
        }
        let here = ballot.sequence == catalog.sequence;
        if here && roots_digest(catalog, &ballot.differing) != ballot.digest {
            return Err(BallotError::Contradiction);
        }
        Ok(ballot)
    }
}

/// The ballots in hand.
#[derive(Debug, Default)]
pub struct Votes {
    /// By member, with when it came; `None` once it lapsed.
    received: BTreeMap<MemberId, (Ballot, Option<Time>)>,
    /// How many are enrolled.
    members: usize,
    changes: u64,
}

/// How an application stands on one member, as far as its ballot tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// No fresh ballot at this catalog sequence.
    Silent,
    /// It has not switched to the current version yet.
    Late,
    /// Nothing there, or nothing readable.
    Nothing,
    /// It holds the content with this root.
    Holds(Digest),
}

/// The count for one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The electorate, every enrolled voter that it is placed on, and how each stands.
    pub positions: BTreeMap<MemberId, Position>,
    /// What a strict majority of them is.
    pub majority: usize,
    /// The committed root.
    pub committed: Digest,
    /// Who could hand the committed version to others, wherever it is placed.
    pub holders: BTreeSet<MemberId>,
    /// The roots that were found in enough scans running, each by whom.
    steady: BTreeMap<Digest, BTreeSet<MemberId>>,
}

/// What a tally means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Too few ballots, or not steady yet: nothing is touched.
    Undecided,
    /// The committed version is right; who holds something else is repaired.
    Committed,
    /// A strict majority holds this: it becomes a new version.
    Other(Digest),
    /// No majority and nobody who holds the committed version whole: nothing
    /// is touched, the operator decides.
    Hung,
}

impl Votes {
    /// Takes a ballot in. `now` is when it came.
    pub fn receive(&mut self, now: Time, ballot: Ballot) -> Result<(), BallotError> {
        let known = self.received.get(&ballot.member);
        if known.is_some_and(|(held, _)| held.stamp >= ballot.stamp) {
            return Err(BallotError::Stale);
        }
        let same = known
            .is_some_and(|(held, at)| self.is_fresh(now, *at) && held.says_the_same_as(&ballot));
        self.changes += u64::from(!same);
        self.received.insert(ballot.member, (ballot, Some(now)));
        Ok(())
    }

    /// Counts whatever may change a tally: while it stays the same, until
    /// [`Votes::fresh_until`] and with the same catalog, so does every tally.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// When the first ballot that is fresh at `now` will not be any more.
    pub fn fresh_until(&self, now: Time) -> Option<Time> {
        let fresh = self.received.values().filter(|(_, at)| self.is_fresh(now, *at));
        fresh.filter_map(|(_, at)| Some((*at)? + fresh_for(self.members))).min()
    }

    fn is_fresh(&self, now: Time, at: Option<Time>) -> bool {
        at.is_some_and(|at| now.since(at) < fresh_for(self.members))
    }

    /// Forgets everybody who is not enrolled.
    pub fn retain(&mut self, catalog: &Catalog) {
        self.members = catalog.roster.members.len();
        self.received.retain(|member, _| catalog.roster.contains(*member));
        self.changes += 1;
    }

    /// The ballot of `member` is no longer in hand: it is out of reach, and
    /// could not tell us of a change.
    pub fn lapse(&mut self, member: MemberId) {
        if let Some((_, at)) = self.received.get_mut(&member) {
            *at = None;
            self.changes += 1;
        }
    }

    /// The newest ballot of `member`, however old.
    pub fn ballot(&self, member: MemberId) -> Option<&Ballot> {
        self.received.get(&member).map(|(ballot, _)| ballot)
    }

    /// The fresh ballot of `member`.
    pub fn fresh(&self, now: Time, member: MemberId) -> Option<&Ballot> {
        let (ballot, at) = self.received.get(&member)?;
        self.is_fresh(now, *at).then_some(ballot)
    }

    /// Who has said, freshly, that it holds `root` whole: any root that is
    /// not a current one.
    pub fn whole(&self, now: Time, root: Digest) -> BTreeSet<MemberId> {
        self.received
            .keys()
            .copied()
            .filter(|m| self.fresh(now, *m).is_some_and(|b| b.whole.contains(&root)))
            .collect()
    }

    /// Counts the ballots on `app`. `None` if the catalog does not have it.
    pub fn tally(&self, now: Time, catalog: &Catalog, app: &AppName) -> Option<Tally> {
        let current = catalog.application(app)?.current();
        let placed = catalog.roster.placed(&current.spec);
        let mut tally = Tally {
            positions: BTreeMap::new(),
            majority: placed.majority(),
            committed: current.root,
            holders: BTreeSet::new(),
            steady: BTreeMap::new(),
        };
        for member in &catalog.roster.members {
            let current_one = |b: &&Ballot| {
                b.sequence == catalog.sequence || planted::is(Bug::OldSequenceCounted)
            };
            let ballot = self.fresh(now, member.id).filter(current_one);
            if ballot.is_some_and(|b| !b.lacking.contains(app)) {
                tally.holders.insert(member.id);
            }
            if !(member.voter && placed.holds(member)) {
                continue;
            }
            let position = match ballot {
                None => Position::Silent,
                Some(ballot) => {
                    let differing = ballot.differing.iter().find(|d| &d.app == app);
                    match differing {
                        None => {
                            tally.steady.entry(current.root).or_default().insert(member.id);
                            Position::Holds(current.root)
                        }
                        Some(d) if d.activated != current.number => Position::Late,
                        Some(Differing { root: None, .. }) => Position::Nothing,
                        Some(Differing { root: Some(root), scans, .. }) => {
                            if *scans >= SCANS_RUNNING {
                                tally.steady.entry(*root).or_default().insert(member.id);
                            }
                            Position::Holds(*root)
                        }
                    }
                }
            };
            tally.positions.insert(member.id, position);
        }
        if planted::is(Bug::QuorumOfThoseInView) {
            tally.majority = tally.in_hand() / 2 + 1;
        }
        Some(tally)
    }
}

impl Tally {
    /// Who holds what, by root.
    pub fn groups(&self) -> BTreeMap<Digest, BTreeSet<MemberId>> {
        let mut groups: BTreeMap<Digest, BTreeSet<MemberId>> = BTreeMap::new();
        for (member, position) in &self.positions {
            if let Position::Holds(root) = position {
                groups.entry(*root).or_default().insert(*member);
            }
        }
        groups
    }

    /// Voters whose word counts: fresh, at this sequence, not late.
    pub fn in_hand(&self) -> usize {
        let counts = |p: &&Position| !matches!(p, Position::Silent | Position::Late);
        self.positions.values().filter(counts).count()
    }

    /// Whether a strict majority has switched to the committed version and could hand it
    /// to others: whoever it is not placed on any more can let go of it.
    pub fn is_taken_over(&self) -> bool {
        let has = |(member, position): &(&MemberId, &Position)| {
            !matches!(position, Position::Silent | Position::Late) && self.holders.contains(member)
        };
        self.positions.iter().filter(has).count() >= self.majority
    }

    /// Whether all voters hold the committed version.
    pub fn is_unanimous(&self) -> bool {
        self.positions.values().all(|p| *p == Position::Holds(self.committed))
    }

    /// Whether a majority is here, some of it late, and what the late ones
    /// wait for is held by nobody: neither whole nor live. A commit needs a
    /// majority that holds it whole, so this is so only where stores lost it.
    fn is_waited_for_in_vain(&self) -> bool {
        let here = self.positions.values().filter(|p| !matches!(p, Position::Silent)).count();
        let live = self.positions.values().any(|p| *p == Position::Holds(self.committed));
        here >= self.majority && self.holders.is_empty() && !live
    }

    /// What follows, by the table in the design.
    pub fn verdict(&self, policy: VotePolicy) -> Verdict {
        let twice = usize::from(planted::is(Bug::VoteCountedTwice));
        if self.in_hand() + twice < self.majority && !planted::is(Bug::RepairedByMinority) {
            let lost = self.is_waited_for_in_vain();
            return if lost { Verdict::Hung } else { Verdict::Undecided };
        }
        let groups = self.groups();
        let fewer = usize::from(planted::is(Bug::AdoptedByFewer));
        let enough = |members: &BTreeSet<MemberId>| members.len() + twice + fewer >= self.majority;
        let leader = groups.iter().find(|(_, members)| enough(members));
        match leader {
            Some((root, _)) if *root == self.committed => Verdict::Committed,
            Some((root, _)) => {
                let steady = self.steady.get(root).is_some_and(enough);
                match policy {
                    _ if !steady => Verdict::Undecided,
                    VotePolicy::Majority => Verdict::Other(*root),
                    VotePolicy::Committed if self.holders.is_empty() => Verdict::Hung,
                    VotePolicy::Committed => Verdict::Committed,
                }
            }
            None if self.holders.is_empty() => Verdict::Hung,
            None => Verdict::Committed,
        }
    }
}

#[cfg(test)]
mod tests;
