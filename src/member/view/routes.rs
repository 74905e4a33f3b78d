//! What is wanted of the view too often for the whole of it: what the gateway routes by, and what
//! is counted once a second.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    base::{
        AppName, MemberId, Time,
        catalog::{AppSpec, Application, Enrolled},
    },
    member::Member,
    proto::{balance::choice::Candidate, vote::Verdict},
};

/// What the gateway routes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRoute {
    /// The application.
    pub app: AppName,
    /// How each kept version of it is served, by number; the last is current.
    pub specs: BTreeMap<u64, Arc<AppSpec>>,
    /// Live members that have switched to the current version and are in service, others than
    /// this one, and what each can take. Those on standby as well where nobody else is left.
    pub holders: Arc<[Candidate]>,
    /// The tags of all that are enrolled.
    pub tags: Arc<BTreeMap<MemberId, BTreeMap<String, String>>>,
    /// This member, and what it can take.
    pub me: Candidate,
    /// Whether this member is to answer what it can: not while it is on standby and others
    /// are there.
    pub here: bool,
}

/// See [`Member::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Enrolled members that are live, this one included.
    pub live: usize,
    /// Enrolled members that are not.
    pub down: usize,
    /// Applications whose vote is hung.
    pub hung: usize,
    /// Applications of which this member does not hold what the catalog says.
    pub differing: usize,
}

impl Member {
    /// What the gateway routes by: every application of the catalog.
    pub fn routes(&self, now: Time) -> Vec<SiteRoute> {
        let catalog = self.catalog();
        let holds = |app: &AppName, placed: bool, id: MemberId| {
            id != self.me
                && self.membership.is_reached(id)
                && self.votes.fresh(now, id).is_some_and(|b| {
                    match b.differing.iter().find(|d| &d.app == app) {
                        Some(differing) => differing.activated > 0,
                        None => placed,
                    }
                })
        };
        let standby = catalog.roster.get(self.me).is_some_and(|m| m.standby);
        let candidate = |member: &Enrolled| {
            let capacity = self.capacities.of(self.me, member);
            Candidate { id: member.id, capacity }
        };
        let me = catalog.roster.get(self.me).map(candidate);
        let me = me.unwrap_or(Candidate { id: self.me, capacity: self.capacities.own() });
        let tags = catalog.roster.members.iter().map(|m| (m.id, m.tags.clone())).collect();
        let tags = Arc::new(tags);
        let route = |(app, application): (&AppName, &Application)| {
            let placed = catalog.roster.placed(&application.current().spec);
            let all = catalog.roster.members.iter();
            let (aside, in_service): (Vec<_>, Vec<_>) =
                all.filter(|m| holds(app, placed.holds(m), m.id)).partition(|m| m.standby);
            let here = !standby || in_service.is_empty();
            // Better somebody on standby than nobody at all.
            let asked = if in_service.is_empty() { aside } else { in_service };
            SiteRoute {
                app: app.clone(),
                specs: application
                    .versions
                    .iter()
                    .map(|v| (v.number, Arc::new(v.spec.clone())))
                    .collect(),
                holders: asked.into_iter().map(candidate).collect(),
                tags: Arc::clone(&tags),
                me,
                here,
            }
        };
        catalog.applications.iter().map(route).collect()
    }

    /// What is measured of this member's view once a second: cheaper than all of it.
    pub fn counts(&self, now: Time) -> Counts {
        let catalog = self.catalog();
        let members = &catalog.roster.members;
        let live = members.iter().filter(|m| self.is_live(m.id)).count();
        let is_hung = |app: &&AppName| {
            let tally = self.votes.tally(now, catalog, app);
            tally.is_some_and(|t| t.verdict(catalog.conduct.policy.vote) == Verdict::Hung)
        };
        Counts {
            live,
            down: members.len() - live,
            hung: catalog.applications.keys().filter(is_hung).count(),
            differing: self.content.differing(catalog, self.me).len(),
        }
    }
}
