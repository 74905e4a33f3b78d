//! The checks on catalogs and content, at every step.
//!
//! They see more than any member does: every record, every disk, every
//! message. They never tell a member anything. What must hold is in
//! `invariant`; what members say to each other is checked in `words`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Invariant, Situation, Violation,
    ledger::Ledger,
    server::{Disk, Server, latest_wall},
    words::{Words, holds_majority},
};
use crate::{
    base::{
        AppName, Digest, MemberId, Time,
        catalog::{
            Application, Catalog, Enrolled, Failover, Header, Origin, Roster, Version, Window,
        },
    },
    member::{
        Message,
        event::{Event, EventKind},
    },
    proto::{
        catalog::{CatchUp, Record},
        vote,
    },
};

/// How long before it is first proposed a majority may have held what is
/// adopted: so long beyond the time that a ballot is fresh. A change is tried
/// for 6 s, after a few others.
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
    pub words: Words,
    /// Publications, by their unique message, that were refused for good.
    refused: BTreeSet<String>,
    /// Windows whose takeover an operator has ordered.
    pub orders: BTreeSet<u64>,
    /// What rules and operators have asked for.
    pub ledger: Ledger,
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

    /// Version `number` of `app`, if it was ever committed.
    pub fn version(&self, app: &AppName, number: u64) -> Option<&Version> {
        self.versions.get(&(app.clone(), number))
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
        self.accepted_by_majorities(by, record)?;
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

    /// Whether disks bear out the certificate, and of every roster that counts:
    /// the core's own count of signatures is not taken for it.
    fn accepted_by_majorities(&self, by: MemberId, record: &Record) -> Result<(), Violation> {
        let (catalog, certificate) = (&record.committed.catalog, &record.committed.certificate);
        let before = self.newest().map(|newest| &newest.roster);
        let Some(before) = before else { return Ok(()) };
        let digest = certificate.header.digest();
        for roster in [before, &catalog.roster] {
            if !self.words.is_accepted(certificate.ballot, digest, roster) {
                let detail = format!(
                    "sequence {}, held by {by}, was not accepted by a majority of {} members",
                    catalog.sequence,
                    roster.members.len()
                );
                return fail(Invariant::Proven, detail);
            }
        }
        Ok(())
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
            if before.window.is_some() && next.window.is_some() {
                self.reach(Situation::RosterChangedInWindow);
            }
        }
        for app in before.applications.keys() {
            if !next.applications.contains_key(app) {
                return fail(Invariant::VersionsCount, format!("{app} vanished"));
            }
        }
        for (app, application) in &next.applications {
            self.application(now, app, before.application(app), application, next, servers)?;
        }
        self.window(before, next)?;
        for met in self.ledger.follows(latest_wall(now), before, next)? {
            self.reach(met);
        }
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
            let between = pair[0].number + 1..pair[1].number;
            let edited = |number| {
                let known = self.versions.get(&(app.clone(), number));
                known.is_some_and(|v| v.origin == Origin::Edited)
            };
            if pair[0].number >= pair[1].number || !between.clone().all(edited) {
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
                let members = catalog.roster.members.len();
                let fresh_for = vote::fresh_for(members).as_micros() as u64;
                // It may be finished much later, when nobody holds it any more.
                let proposed_at = self.words.proposed_at(catalog.digest()).unwrap_or(now);
                let since = proposed_at.saturating_sub(ADOPTION_WITHIN_US + fresh_for);
                let root = current.root;
                let held = |s: &Server| s.disk.held_since(app, root, since);
                if !majority_of(&electorate(catalog, current), servers, held) {
                    let detail = format!("{app} version {}", current.number);
                    return fail(Invariant::MajorityAdopts, detail);
                }
            }
            Origin::Rollback(_) => self.reach(Situation::RolledBack),
            Origin::Published => {
                self.reach(Situation::Published);
                if current.spec.rollout.at_once.is_some() {
                    self.reach(Situation::Rolled);
                }
            }
            Origin::Edited => {
                self.reach(Situation::EditPublished);
                if !servers.iter().any(|s| s.disk.held_since(app, current.root, 0)) {
                    let detail = format!("{app} version {} was never live", current.number);
                    return fail(Invariant::EditsAreEdits, detail);
                }
            }
        }
        let has = |s: &Server| {
            s.disk.whole.contains(&current.root) || s.disk.ever_rotten.contains(&current.root)
        };
        if current.spec.placement.is_some() {
            self.reach(Situation::Placed);
        }
        if !majority_of(&electorate(catalog, current), servers, has) {
            let detail = format!(
                "{app} version {} ({:?}) is committed with {}",
                current.number, current.root, catalog.sequence
            );
            return fail(Invariant::MajorityIsWhole, detail);
        }
        Ok(())
    }

    fn window(&mut self, before: &Catalog, next: &Catalog) -> Result<(), Violation> {
        let staged = |c: &Catalog| {
            let publication = c.window.as_ref().and_then(|w| w.publication.as_ref());
            publication.map(|p| (p.request, p.app.clone()))
        };
        if let Some((request, app)) = staged(before)
            && staged(next).is_none_or(|(now, _)| now != request)
            && !next.outcomes.iter().any(|o| o.request == request)
        {
            let detail = format!("what was staged of {app} is gone with {}", next.sequence);
            return fail(Invariant::StagedStays, detail);
        }
        if let (Some(old), Some(new)) = (&before.window, &next.window)
            && new.takeovers > old.takeovers
        {
            self.reach(Situation::Takeover);
            if old.failover == Failover::Manual && !self.orders.contains(&old.id) {
                let detail = format!("window {} was taken over unordered", old.id);
                return fail(Invariant::ManualIsManual, detail);
            }
        }
        if next.window.as_ref().is_some_and(Window::is_held) && before.window.is_none() {
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
        Ok(())
    }

    /// A member sends `message`: may it say so?
    pub fn sent(&mut self, now: u64, from: &Server, message: &Message) -> Result<(), Violation> {
        let Message::Register(word) = message else { return Ok(()) };
        if let Some(situation) = self.words.said(now, from, word)? {
            self.reach(situation);
        }
        Ok(())
    }

    /// A member tells `event`. No member of a simulation lies, and whoever it is told of would be
    /// removed for nothing.
    pub fn accuses(event: &Event) -> Result<(), Violation> {
        match event.kind {
            EventKind::Lie => fail(Invariant::NobodyLies, event.text.clone()),
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
        let current = catalog.application(app).map(Application::current);
        let Some(current) = current.filter(|version| version.root == root) else {
            let detail = format!("{name} repairs {app} to what is not its committed version");
            return fail(Invariant::MinorityTouchesNothing, detail);
        };
        let electorate = electorate(catalog, current);
        let fresh_for = vote::fresh_for(catalog.roster.members.len());
        let fresh = |voter: &MemberId| {
            *voter == server.id
                || server.heard.get(voter).is_some_and(|heard| {
                    Time(now).since(Time(heard.at)) < fresh_for
                        && heard.sequence == catalog.sequence
                })
        };
        let voters = electorate.voters().map(|m| m.id);
        let in_hand: BTreeSet<MemberId> = voters.filter(fresh).collect();
        if !holds_majority(&electorate, &in_hand) {
            let detail = format!(
                "{name} repairs {app} with {} fresh ballots of this catalog in hand",
                in_hand.len()
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

    /// Server `at` keeps `roots` and drops everything else.
    pub fn retain(
        &self,
        at: usize,
        servers: &[Server],
        roots: &BTreeSet<Digest>,
    ) -> Result<(), Violation> {
        let server = &servers[at];
        let (Some(newest), Some(member)) = (self.newest(), &server.member) else { return Ok(()) };
        for (app, root) in named(newest) {
            if !server.disk.whole.contains(&root) || roots.contains(&root) {
                continue;
            }
            // One that is behind goes by the catalog that it knows. What was placed on others in
            // between is held by enough of these, until the next ones have taken it over.
            let known = member.catalog();
            let is_its =
                named(known).any(|(_, its)| its == root) && known.is_placed(app, server.id);
            let has = |s: &Server| {
                s.id != server.id
                    && (s.disk.whole.contains(&root) || s.disk.ever_rotten.contains(&root))
            };
            let is_held = |catalog: &Catalog| {
                let current = current(catalog, app, root);
                current.is_some_and(|v| majority_of(&electorate(catalog, v), servers, has))
            };
            let since = self.history.range(known.sequence..);
            let is_taken_over = || since.map(|(_, known)| &known.catalog).any(is_held);
            if is_its || (current(newest, app, root).is_some() && !is_taken_over()) {
                let detail = format!("{} drops {root:?} of {app}", server.name);
                return fail(Invariant::NothingDropped, detail);
            }
        }
        Ok(())
    }
}

/// The committed version of `app`, if `catalog` says that it is the one with `root`.
fn current<'a>(catalog: &'a Catalog, app: &AppName, root: Digest) -> Option<&'a Version> {
    catalog.application(app).map(Application::current).filter(|version| version.root == root)
}

/// The roots that `catalog` says are, or are becoming, the committed versions.
fn named(catalog: &Catalog) -> impl Iterator<Item = (&AppName, Digest)> {
    let staged = catalog.window.iter().filter_map(|w| w.publication.as_ref());
    let staged = staged.map(|p| (&p.app, p.version.root));
    catalog.applications.iter().map(|(app, a)| (app, a.current().root)).chain(staged)
}

/// Those of the roster that `version` is placed on.
pub(super) fn electorate(catalog: &Catalog, version: &Version) -> Roster {
    let placement = &version.spec.placement;
    let is_placed = |m: &&Enrolled| placement.as_ref().is_none_or(|p| p.matches(&m.tags));
    Roster { members: catalog.roster.members.iter().filter(is_placed).cloned().collect() }
}

/// Whether a majority of the voters of `roster` fulfil `what`, running or not.
pub(super) fn majority_of(
    roster: &Roster,
    servers: &[Server],
    what: impl Fn(&Server) -> bool,
) -> bool {
    let ids = servers.iter().filter(|s| what(s)).map(|s| s.id).collect();
    holds_majority(roster, &ids)
}

/// A violation.
pub(super) fn fail<T>(invariant: Invariant, detail: String) -> Result<T, Violation> {
    Err(Violation { invariant, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::WallTime, member::event::Severity};

    #[test]
    fn whoever_is_said_to_lie_breaks_a_run() {
        let event = |kind| Event {
            number: 1,
            at: WallTime(0),
            severity: Severity::Critical,
            kind,
            member: None,
            app: None,
            text: "b told two things in ballot 7".to_owned(),
            user: None,
            cause: None,
            episode: None,
            evidence: None,
            asked: None,
        };
        assert_eq!(Checker::accuses(&event(EventKind::Member)), Ok(()));
        let violation = Checker::accuses(&event(EventKind::Lie)).unwrap_err();
        assert_eq!(violation.invariant, Invariant::NobodyLies);
    }
}
