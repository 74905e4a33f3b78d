//! What must hold at every step, each with the sentence that says why, and
//! what a batch of runs must have met to mean anything.
//!
//! The checks see more than any member does: every record, every disk, every
//! message. They never tell a member anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::server::{Disk, Server};
use crate::{
    base::{
        AppName, Digest, MemberId, Time,
        catalog::{Application, Catalog, Header, Origin, Roster, Version},
    },
    member::Message,
    proto::{
        catalog::{BallotNumber, CatchUp, Message as Word, Record},
        vote,
    },
};

/// What must never be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// See the sentence.
    OneCatalog,
    /// See the sentence.
    Proven,
    /// See the sentence.
    NoGap,
    /// See the sentence.
    NoWayBack,
    /// See the sentence.
    OneValue,
    /// See the sentence.
    DurableFirst,
    /// See the sentence.
    VersionsCount,
    /// See the sentence.
    MajorityAdopts,
    /// See the sentence.
    MinorityTouchesNothing,
    /// See the sentence.
    MinorityCommitsNothing,
    /// See the sentence.
    WholeVersions,
    /// See the sentence.
    MajorityIsWhole,
    /// See the sentence.
    NothingDropped,
    /// See the sentence.
    AnswersAreTrue,
    /// See the sentence.
    OneAnswer,
    /// See the sentence.
    Welcomed,
    /// See the sentence.
    NoSpin,
    /// See the sentence.
    Healed,
    /// See the sentence.
    NoPanic,
    /// See the sentence.
    Simulator,
}

impl Invariant {
    /// What holds, and why it matters.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OneCatalog => {
                "one sequence number has one catalog, on all members there ever were"
            }
            Self::Proven => {
                "what a member takes for committed is signed by a majority of every roster it needs"
            }
            Self::NoGap => {
                "every commit extends the one before: nothing committed is lost or stepped over"
            }
            Self::NoWayBack => "no member goes back to a lower sequence, not even over a restart",
            Self::OneValue => {
                "one ballot number stands for one catalog: a proposer never uses it twice"
            }
            Self::DurableFirst => {
                "no promise, accept or prepare leaves before its record is on disk"
            }
            Self::VersionsCount => {
                "versions of an application count up by one and never change: two publishers never both win"
            }
            Self::MajorityAdopts => {
                "only what a strict majority of the voters really held is adopted as their version"
            }
            Self::MinorityTouchesNothing => {
                "live content is changed only to a committed version, and by a repair only with fresh ballots of a majority in hand"
            }
            Self::MinorityCommitsNothing => {
                "a side of a partition without a majority changes nothing"
            }
            Self::WholeVersions => {
                "a member serves only what its store holds whole, and knows what it holds"
            }
            Self::MajorityIsWhole => {
                "a version is committed only when a majority holds every byte of it"
            }
            Self::NothingDropped => {
                "no member drops what is, or is becoming, the committed version"
            }
            Self::AnswersAreTrue => {
                "an answer is true: Ok is in the catalog, and what was refused never comes into force unless the refusal says that it may"
            }
            Self::OneAnswer => "every request has one answer",
            Self::Welcomed => {
                "a newcomer with a good token is never told that the cluster can't prove itself"
            }
            Self::NoSpin => "a member never asks to be woken at once without end",
            Self::Healed => {
                "once faults end, all members hold the newest catalog and its content, no window stays open, and a publication succeeds"
            }
            Self::NoPanic => "no assertion of the core fails",
            Self::Simulator => "the simulator's own bounds hold",
        }
    }
}

/// An invariant that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.invariant, self.invariant.sentence(), self.detail)
    }
}

/// What a batch of runs must have met, or it has tested nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Situation {
    /// The coordinator's process died while a version was being staged.
    CoordinatorDiedBeforeCommit,
    /// The coordinator's process died between commit and close.
    CoordinatorDiedAfterCommit,
    /// Another member took a window over.
    Takeover,
    /// A publication that was taken over came into force.
    TakenOverAndPublished,
    /// A publication was given up.
    PublicationGivenUp,
    /// A roster change was committed.
    RosterChanged,
    /// A member joined, left, was removed.
    Joined,
    /// See `Joined`.
    Left,
    /// See `Joined`.
    Removed,
    /// A member came back after the roster had changed without it.
    RejoinedAfterRosterChange,
    /// A crash lost a record that was not synced.
    CrashLostRecord,
    /// A crash kept a record whose sync was never reported.
    CrashKeptRecord,
    /// A crash in the middle of a switch left the old content.
    CrashBeforeSwitch,
    /// A crash in the middle of a switch left the new content.
    CrashAfterSwitch,
    /// A minority side of a partition was asked to publish, and refused.
    MinorityRefused,
    /// Another member's proposal was found uncommitted, and finished.
    FinishedForAnother,
    /// Two publishers met, and one was refused.
    PublisherConflict,
    /// A publication succeeded.
    Published,
    /// An earlier version was published again.
    RolledBack,
    /// Content was repaired.
    Repaired,
    /// What a majority held was adopted.
    MajorityAdopted,
    /// A vote was hung.
    Hung,
    /// A hung vote was resolved.
    Resolved,
    /// A window was held open by an operator.
    WindowHeld,
    /// A window with manual failover lost its coordinator.
    ManualWindowLost,
    /// A window was taken over by an operator's order.
    OrderedTakeover,
    /// A fetch broke and was tried with another holder.
    FetchBroke,
    /// The store of a member rotted.
    StoreRotted,
    /// A process stood still and went on.
    Paused,
}

impl Situation {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::CoordinatorDiedBeforeCommit,
        Self::CoordinatorDiedAfterCommit,
        Self::Takeover,
        Self::TakenOverAndPublished,
        Self::PublicationGivenUp,
        Self::RosterChanged,
        Self::Joined,
        Self::Left,
        Self::Removed,
        Self::RejoinedAfterRosterChange,
        Self::CrashLostRecord,
        Self::CrashKeptRecord,
        Self::CrashBeforeSwitch,
        Self::CrashAfterSwitch,
        Self::MinorityRefused,
        Self::FinishedForAnother,
        Self::PublisherConflict,
        Self::Published,
        Self::RolledBack,
        Self::Repaired,
        Self::MajorityAdopted,
        Self::Hung,
        Self::Resolved,
        Self::WindowHeld,
        Self::ManualWindowLost,
        Self::OrderedTakeover,
        Self::FetchBroke,
        Self::StoreRotted,
        Self::Paused,
    ];
}

/// How long before its commit a majority may have held what is adopted:
/// ballots are fresh for 7 s, and a change is tried for 6 s, a few times.
const ADOPTION_WITHIN_US: u64 = 40_000_000;

struct Known {
    header: Header,
    catalog: Catalog,
    by: MemberId,
}

/// Everything that the checks remember.
#[derive(Default)]
pub(super) struct Checker {
    history: BTreeMap<u64, Known>,
    versions: BTreeMap<(AppName, u64), Version>,
    values: BTreeMap<BallotNumber, (MemberId, Digest)>,
    /// Who proposed a catalog first.
    authors: BTreeMap<Digest, MemberId>,
    /// Publications, by their unique message, that were refused for good.
    refused: BTreeSet<String>,
    pub reached: BTreeMap<Situation, u64>,
}

impl Checker {
    /// Counts a situation.
    pub fn reach(&mut self, situation: Situation) {
        *self.reached.entry(situation).or_default() += 1;
    }

    /// The newest catalog that anybody ever knew to be committed.
    pub fn newest(&self) -> Option<&Catalog> {
        self.history.last_key_value().map(|(_, known)| &known.catalog)
    }

    /// The catalog with `sequence`.
    pub fn catalog(&self, sequence: u64) -> Option<&Catalog> {
        self.history.get(&sequence).map(|known| &known.catalog)
    }

    /// The published version that bears this unique message.
    pub fn published(&self, message: &str) -> Option<(&AppName, &Version)> {
        self.versions.iter().find(|(_, v)| v.message == message).map(|((app, _), v)| (app, v))
    }

    /// A publication was refused, and the refusal did not say that it may yet happen.
    pub fn refused_for_good(&mut self, message: &str) -> Result<(), Violation> {
        self.refused.insert(message.to_owned());
        match self.published(message) {
            Some((app, version)) => fail(
                Invariant::AnswersAreTrue,
                format!("{message} was refused and is version {} of {app}", version.number),
            ),
            None => Ok(()),
        }
    }

    /// A member is about to write `record`: does it know anything new?
    /// Returns whether it did.
    pub fn record(
        &mut self,
        now: u64,
        by: MemberId,
        record: &Record,
        servers: &[Server],
    ) -> Result<bool, Violation> {
        let committed = &record.committed;
        let sequence = committed.catalog.sequence;
        if let Some(known) = self.history.get(&sequence) {
            // The header has the digest of every part, and it was checked
            // against the catalog by whoever took it in.
            if known.header == committed.certificate.header {
                return Ok(false);
            }
            let (one, other) = (&known.by, by);
            let detail = format!("sequence {sequence}: {one} and {other} hold different catalogs");
            return fail(Invariant::OneCatalog, detail);
        }
        let catch_up = CatchUp { committed: committed.clone(), links: Vec::new() };
        let cluster = committed.catalog.cluster;
        let proof = record
            .lineage
            .check(cluster)
            .and_then(|()| record.lineage.follow(cluster, &catch_up).map(|_| ()));
        if let Err(error) = proof {
            return fail(Invariant::Proven, format!("sequence {sequence}, held by {by}: {error}"));
        }
        let catalog = committed.catalog.clone();
        match self.newest().map(|c| c.sequence) {
            Some(newest) if sequence != newest + 1 => {
                let detail = format!("{by} knows {sequence} right after {newest}");
                return fail(Invariant::NoGap, detail);
            }
            Some(newest) => {
                let before = self.history[&newest].catalog.clone();
                self.follows(now, &before, &catalog, servers)?;
            }
            None => {}
        }
        let header = committed.certificate.header;
        self.history.insert(sequence, Known { header, catalog, by });
        Ok(true)
    }

    /// Whether `next` is a legal successor of `before`.
    fn follows(
        &mut self,
        now: u64,
        before: &Catalog,
        next: &Catalog,
        servers: &[Server],
    ) -> Result<(), Violation> {
        let roster_before = (next.roster != before.roster).then(|| before.roster.clone());
        if next.roster_before != roster_before || next.cluster != before.cluster {
            let detail = format!("{} does not build on {}", next.sequence, before.sequence);
            return fail(Invariant::NoGap, detail);
        }
        if roster_before.is_some() {
            self.reach(Situation::RosterChanged);
        }
        for app in before.applications.keys() {
            if !next.applications.contains_key(app) {
                return fail(Invariant::VersionsCount, format!("{app} vanished"));
            }
        }
        for (app, application) in &next.applications {
            self.application(now, app, before.application(app), application, next, servers)?;
        }
        self.window(before, next);
        Ok(())
    }

    fn application(
        &mut self,
        now: u64,
        app: &AppName,
        before: Option<&Application>,
        next: &Application,
        catalog: &Catalog,
        servers: &[Server],
    ) -> Result<(), Violation> {
        let old = before.map_or(0, |a| a.current().number);
        let current = next.current();
        if current.number != old && current.number != old + 1 {
            let detail = format!("{app} went from version {old} to {}", current.number);
            return fail(Invariant::VersionsCount, detail);
        }
        for pair in next.versions.windows(2) {
            if pair[0].number + 1 != pair[1].number {
                return fail(Invariant::VersionsCount, format!("{app} has a gap in its versions"));
            }
        }
        for version in &next.versions {
            let known = self.versions.entry((app.clone(), version.number));
            let known = known.or_insert_with(|| version.clone());
            if known != version {
                let detail = format!("{app} has two versions {}", version.number);
                return fail(Invariant::VersionsCount, detail);
            }
        }
        if current.number == old {
            return Ok(());
        }
        if self.refused.contains(&current.message) {
            let detail = format!("{} was refused and came into force", current.message);
            return fail(Invariant::AnswersAreTrue, detail);
        }
        match current.origin {
            Origin::Majority => {
                self.reach(Situation::MajorityAdopted);
                let since = now.saturating_sub(ADOPTION_WITHIN_US);
                let root = current.root;
                let held = |s: &Server| s.disk.held_since(app, root, since);
                if !majority_of(&catalog.roster, servers, held) {
                    let detail = format!("{app} version {}", current.number);
                    return fail(Invariant::MajorityAdopts, detail);
                }
            }
            Origin::Rollback(_) => self.reach(Situation::RolledBack),
            Origin::Published => self.reach(Situation::Published),
        }
        let has = |s: &Server| {
            s.disk.whole.contains(&current.root) || s.disk.ever_rotten.contains(&current.root)
        };
        if !majority_of(&catalog.roster, servers, has) {
            let detail = format!(
                "{app} version {} ({:?}) is committed with {}",
                current.number, current.root, catalog.sequence
            );
            return fail(Invariant::MajorityIsWhole, detail);
        }
        Ok(())
    }

    fn window(&mut self, before: &Catalog, next: &Catalog) {
        if let (Some(old), Some(new)) = (&before.window, &next.window)
            && new.takeovers > old.takeovers
        {
            self.reach(Situation::Takeover);
        }
        if next.window.as_ref().is_some_and(|w| w.held) && before.window.is_none() {
            self.reach(Situation::WindowHeld);
        }
        if let Some(outcome) = next.outcomes.last()
            && before.outcomes.last() != Some(outcome)
            && outcome.app.is_some()
        {
            if outcome.version.is_none() {
                self.reach(Situation::PublicationGivenUp);
            } else if outcome.takeovers > 0 {
                self.reach(Situation::TakenOverAndPublished);
            }
        }
    }

    /// A member sends `message`: is what it says on its disk?
    pub fn sent(&mut self, from: &Server, message: &Message) -> Result<(), Violation> {
        let Message::Register(word) = message else { return Ok(()) };
        let who = &from.name;
        let promised = from.disk.record.as_ref().map(|r| r.promised);
        let early = |what: &str| {
            fail(Invariant::DurableFirst, format!("{who} sent {what} before its disk had it"))
        };
        match word {
            Word::Prepare { ballot, .. } if promised < Some(*ballot) => early("a prepare"),
            Word::Promise { ballot, .. } if promised < Some(*ballot) => early("a promise"),
            Word::Accepted { ballot, digest, .. }
                if from.disk.accepts.get(ballot) != Some(digest) =>
            {
                early("an accept")
            }
            Word::Accept { ballot, catalog } => {
                let digest = catalog.digest();
                let author = *self.authors.entry(digest).or_insert(from.id);
                if author != from.id {
                    self.reach(Situation::FinishedForAnother);
                }
                let value = *self.values.entry(*ballot).or_insert((from.id, digest));
                if value != (from.id, digest) || ballot.proposer != from.id {
                    let detail = format!("ballot {} of {who}", ballot.round);
                    return fail(Invariant::OneValue, detail);
                }
                if promised < Some(*ballot) {
                    return early("a proposal");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A member shows `sequence` as committed.
    pub fn visible(server: &mut Server, sequence: u64) -> Result<bool, Violation> {
        if sequence < server.seen {
            let (name, seen) = (&server.name, server.seen);
            let detail = format!("{name} went from {seen} to {sequence}");
            return fail(Invariant::NoWayBack, detail);
        }
        let newer = sequence > server.seen;
        server.seen = sequence;
        Ok(newer)
    }

    /// A member starts a repair of `app` to `root`.
    pub fn repair(now: u64, server: &Server, app: &AppName, root: Digest) -> Result<(), Violation> {
        let Some(member) = &server.member else { return Ok(()) };
        let catalog = member.catalog();
        let name = &server.name;
        if catalog.application(app).is_none_or(|a| a.current().root != root) {
            let detail = format!("{name} repairs {app} to what is not its committed version");
            return fail(Invariant::MinorityTouchesNothing, detail);
        }
        let fresh_for = vote::fresh_for(catalog.roster.members.len());
        let fresh = |voter: MemberId| {
            voter == server.id
                || server.heard.get(&voter).is_some_and(|at| Time(now).since(Time(*at)) < fresh_for)
        };
        let count = catalog.roster.voters().filter(|m| fresh(m.id)).count();
        if count < catalog.roster.majority() {
            let detail = format!(
                "{name} repairs {app} with {count} fresh ballots of {} needed",
                catalog.roster.majority()
            );
            return fail(Invariant::MinorityTouchesNothing, detail);
        }
        Ok(())
    }

    /// The live content of `app` becomes version `number`.
    pub fn switch(
        &self,
        server: &Server,
        app: &AppName,
        number: u64,
        root: Digest,
    ) -> Result<(), Violation> {
        let version = self.versions.get(&(app.clone(), number));
        if version.is_none_or(|v| v.root != root) {
            let detail = format!("{} switches {app} to {number}, uncommitted", server.name);
            return fail(Invariant::MinorityTouchesNothing, detail);
        }
        Ok(())
    }

    /// A member uses `root` as whole: is it, or did the disk lose it?
    pub fn whole(server: &Server, app: &AppName, root: Digest) -> Result<(), Violation> {
        let Disk { whole, rotten, .. } = &server.disk;
        if whole.contains(&root) || rotten.contains(&root) {
            return Ok(());
        }
        let detail = format!("{} takes {root:?} of {app} for whole", server.name);
        fail(Invariant::WholeVersions, detail)
    }

    /// A member keeps `roots` and drops everything else.
    pub fn retain(&self, server: &Server, roots: &BTreeSet<Digest>) -> Result<(), Violation> {
        let Some(newest) = self.newest() else { return Ok(()) };
        let staged = newest.window.iter().filter_map(|w| w.publication.as_ref());
        let staged = staged.map(|p| (&p.app, p.version.root));
        let current = newest.applications.iter().map(|(app, a)| (app, a.current().root));
        for (app, root) in current.chain(staged) {
            if server.disk.whole.contains(&root) && !roots.contains(&root) {
                let detail = format!("{} drops {root:?} of {app}", server.name);
                return fail(Invariant::NothingDropped, detail);
            }
        }
        Ok(())
    }
}

/// Whether a majority of the voters of `roster` fulfil `what`, running or not.
pub(super) fn majority_of(
    roster: &Roster,
    servers: &[Server],
    what: impl Fn(&Server) -> bool,
) -> bool {
    let ids = servers.iter().filter(|s| what(s)).map(|s| s.id).collect();
    roster.is_majority(&ids)
}

/// A violation.
pub(super) fn fail<T>(invariant: Invariant, detail: String) -> Result<T, Violation> {
    Err(Violation { invariant, detail })
}
