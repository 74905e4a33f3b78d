//! The open window: what its coordinator does next, and who takes over.
//!
//! A pure decision from what the catalog says, who is live and what the
//! members have reported. Whatever it wants is only proposed: an isolated or
//! returning coordinator proposes in vain.

use std::{collections::BTreeSet, time::Duration};

use crate::base::{
    Digest, MemberId, Time,
    catalog::{Catalog, Failover, Origin, Publication, Window},
    planted::{self, Bug},
};

/// How long a coordinator must be gone before the next one steps in: a
/// moment, so that a restart in between is not a takeover.
pub const TAKEOVER_AFTER: Duration = Duration::from_millis(500);
/// How long the coordinator waits for the rest once a majority is whole: so
/// that a switch finds nearly everybody ready.
pub const GRACE: Duration = Duration::from_secs(1);
/// How long a staging may stand still before it is given up.
pub const STAGE_STALL: Duration = Duration::from_secs(60);
/// How long it may stand still while no live member holds it whole: then the
/// publisher is gone and waiting is vain, unless it returns soon.
pub const ORPHAN_STALL: Duration = Duration::from_secs(10);
/// How long live members may take to report the switch before the window
/// closes without them; they catch up outside of it.
pub const CLOSE_STALL: Duration = Duration::from_secs(30);

/// What members have reported about the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Members that hold the staged version whole.
    pub whole: BTreeSet<MemberId>,
    /// Members that switched to it.
    pub switched: BTreeSet<MemberId>,
    /// Members that are live.
    pub live: BTreeSet<MemberId>,
    /// Bytes that have arrived, over all members: only its change matters.
    pub bytes: u64,
}

/// What should be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Become the coordinator of this window.
    TakeOver,
    /// Commit the staged version.
    Commit,
    /// End the publication, and the window unless it is held.
    Finish {
        /// For people.
        why: String,
    },
    /// Give the publication up, and the window unless it is held.
    Abandon {
        /// For people.
        why: String,
    },
}

/// One member's view of the open window over time.
#[derive(Debug, Default)]
pub struct Presider {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    window: u64,
    staged: Option<(Digest, bool)>,
    /// Since when the coordinator is not live, in this member's view.
    coordinator_lost: Option<Time>,
    reports: Reports,
    /// When there was progress last, and how much there ever was.
    changed: Time,
    bytes_best: u64,
    whole_ever: BTreeSet<MemberId>,
    switched_ever: BTreeSet<MemberId>,
    /// Since when a majority is whole.
    ready: Option<Time>,
}

impl Presider {
    /// What to propose now, if anything, and when to look again at the latest.
    pub fn consider(
        &mut self,
        now: Time,
        me: MemberId,
        catalog: &Catalog,
        reports: Reports,
    ) -> (Option<Step>, Option<Time>) {
        let Some(window) = &catalog.window else {
            self.seen = None;
            return (None, None);
        };
        let staged = window.publication.as_ref().map(|p| (p.version.root, p.committed));
        let same = |s: &Seen| s.window == window.id && s.staged == staged;
        if !self.seen.as_ref().is_some_and(same) {
            // A takeover does not restart the count of who is lost.
            let lost = self.seen.take().filter(|s| s.window == window.id);
            self.seen = Some(Seen {
                window: window.id,
                staged,
                coordinator_lost: lost.and_then(|s| s.coordinator_lost),
                bytes_best: reports.bytes,
                whole_ever: reports.whole.clone(),
                switched_ever: reports.switched.clone(),
                reports: reports.clone(),
                changed: now,
                ready: None,
            });
        }
        let Some(seen) = &mut self.seen else { return (None, None) };
        // Only progress counts: a fetch that starts over and over, or a member
        // that comes and goes, must not keep a window open for ever.
        let more = reports.bytes > seen.bytes_best
            || !reports.whole.is_subset(&seen.whole_ever)
            || !reports.switched.is_subset(&seen.switched_ever);
        if more {
            seen.changed = now;
            seen.bytes_best = seen.bytes_best.max(reports.bytes);
            seen.whole_ever.extend(&reports.whole);
            seen.switched_ever.extend(&reports.switched);
        }
        seen.reports = reports;
        // Whoever sees no majority would propose in vain, and its high ballots
        // would be in the way once it is back. After a start, too: first look.
        if !catalog.roster.is_majority(&seen.reports.live) {
            seen.coordinator_lost = None;
            return (None, None);
        }
        if window.coordinator == me {
            seen.coordinator_lost = None;
            let Some(publication) = &window.publication else { return (None, None) };
            return preside(now, catalog, publication, seen);
        }
        watch(now, me, catalog, window, seen)
    }
}

/// The coordinator's own step.
fn preside(
    now: Time,
    catalog: &Catalog,
    publication: &Publication,
    seen: &mut Seen,
) -> (Option<Step>, Option<Time>) {
    let Reports { whole, switched, live, .. } = &seen.reports;
    let placed = catalog.roster.placed(&publication.version.spec);
    let live: BTreeSet<MemberId> = live.iter().copied().filter(|m| placed.contains(*m)).collect();
    let still = now.since(seen.changed);
    let name = format!("{} version {}", publication.app, publication.version.number);
    if publication.committed {
        if publication.version.spec.rollout.at_once.is_some()
            && publication.version.origin == Origin::Published
        {
            let why = format!("{name} is committed; members switch to it a few at a time");
            return (Some(Step::Finish { why }), None);
        }
        let waiting = live.difference(switched).count();
        if waiting == 0 {
            let of_these = match publication.version.spec.placement {
                Some(_) => " that it is placed on",
                None => "",
            };
            let why = format!("{name} is in force on all {} live members{of_these}", live.len());
            return (Some(Step::Finish { why }), None);
        }
        if still >= CLOSE_STALL {
            let why = format!("{name} is committed; {waiting} live members catch up later");
            return (Some(Step::Finish { why }), None);
        }
        return (None, Some(seen.changed + CLOSE_STALL));
    }
    if placed.is_majority(whole) || planted::is(Bug::CommittedBeforeWhole) {
        let ready = *seen.ready.get_or_insert(now);
        if live.is_subset(whole) || now.since(ready) >= GRACE {
            return (Some(Step::Commit), None);
        }
        return (None, Some(ready + GRACE));
    }
    seen.ready = None;
    let orphaned = whole.is_disjoint(&seen.reports.live);
    let patience = if orphaned { ORPHAN_STALL } else { STAGE_STALL };
    if still < patience {
        return (None, Some(seen.changed + patience));
    }
    let why = if orphaned {
        format!("no live member holds the content of {name} whole: whoever does is gone")
    } else {
        format!(
            "for {} s no more of {name} arrived anywhere, and {} members hold it whole where {} are needed",
            patience.as_secs(),
            whole.len(),
            placed.majority()
        )
    };
    (Some(Step::Abandon { why }), None)
}

/// What everybody else does: wait, or step in for a lost coordinator.
fn watch(
    now: Time,
    me: MemberId,
    catalog: &Catalog,
    window: &Window,
    seen: &mut Seen,
) -> (Option<Step>, Option<Time>) {
    if seen.reports.live.contains(&window.coordinator)
        && catalog.roster.contains(window.coordinator)
    {
        seen.coordinator_lost = None;
        return (None, None);
    }
    let lost = *seen.coordinator_lost.get_or_insert(now);
    if window.failover == Failover::Manual && !planted::is(Bug::ManualTakenOver) {
        return (None, None);
    }
    let next = catalog.roster.voters().map(|m| m.id).find(|m| seen.reports.live.contains(m));
    if next != Some(me) {
        return (None, None);
    }
    if now.since(lost) >= TAKEOVER_AFTER {
        return (Some(Step::TakeOver), None);
    }
    (None, Some(lost + TAKEOVER_AFTER))
}

#[cfg(test)]
mod tests;
