//! What each member says of its own links, and all come to know: whom it does
//! not reach, and where it is in the network's coordinates.
//!
//! A change of reach is told to all at once; beside that, reports travel with the
//! comparisons of `exchange.rs`, a few at a time. A report counts as long as the run
//! that made it is live.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Due, Effect, Membership, coordinate::Place, settings};
use crate::base::{MemberId, wire};

/// Peers out of reach that one report names; one that misses more is alone.
const UNREACHED_MAX: usize = 64;
/// Reports that travel with one comparison.
const SOME: usize = 16;

/// As it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    member: MemberId,
    generation: u64,
    /// Higher in each report of one run.
    stamp: u64,
    #[serde(deserialize_with = "wire::bounded::<_, _, UNREACHED_MAX>")]
    unreached: Vec<MemberId>,
    place: Place,
}

/// Whom one member reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Who.
    pub member: MemberId,
    /// Live members that don't answer it directly. None if it has not said.
    pub unreached: Option<BTreeSet<MemberId>>,
    /// Where it is.
    pub place: Option<Place>,
}

impl Membership {
    /// What this member has to say.
    fn report(&self) -> Report {
        // Who has just come and was not asked yet, or not for long enough, is not one of
        // them: nobody would be told soon that this is over.
        let unreached = self.table.live().filter(|slot| self.missed.contains(slot));
        Report {
            member: self.table.me,
            generation: self.generation(),
            stamp: self.now.0,
            unreached: unreached.take(UNREACHED_MAX).map(|slot| self.table.id(slot)).collect(),
            place: self.vivaldi.place(),
        }
    }

    /// This member's own report and some others, another choice each time.
    pub(super) fn some_reports(&mut self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.live_reports().cloned().collect();
        while reports.len() >= SOME {
            let index = self.random.below(reports.len() as u64) as usize;
            reports.swap_remove(index);
        }
        reports.push(self.report());
        reports
    }

    pub(super) fn all_reports(&self) -> Vec<Report> {
        self.live_reports().cloned().chain([self.report()]).collect()
    }

    fn live_reports(&self) -> impl Iterator<Item = &Report> {
        let live = |slot: u32, report: &Report| {
            let peer = self.table.peer(slot);
            peer.state.is_live() && peer.generation == report.generation
        };
        self.reports.iter().filter(move |(slot, report)| live(**slot, report)).map(|(_, r)| r)
    }

    /// Takes in what others say of themselves, and passes on nothing.
    pub(super) fn heed_reports(&mut self, reports: Vec<Report>) {
        if self.table.size() > settings::REPORTS_MAX {
            return;
        }
        for report in reports {
            let Some(slot) = self.table.slot(report.member) else { continue };
            if !report.place.is_sane() || report.generation < self.table.peer(slot).generation {
                continue;
            }
            let key = |report: &Report| (report.generation, report.stamp);
            if self.reports.get(&slot).is_none_or(|known| key(known) < key(&report)) {
                self.reports.insert(slot, report);
            }
        }
    }

    /// A link went or came back: all hear of it, and once more a little later,
    /// because where links go and come, words are lost.
    pub(super) fn spread_reach(&mut self, effects: &mut Vec<Effect>) {
        self.tell_of_reach(effects);
        self.schedule(self.now + settings::REACH_RETOLD, Due::Retell);
    }

    /// One that is reached again hears how things stand here.
    pub(super) fn tell_one_of_reach(&mut self, slot: u32, effects: &mut Vec<Effect>) {
        if self.table.size() <= settings::CROWD {
            let reports = vec![self.report()];
            self.talk_reports(slot, reports, effects);
        }
    }

    /// All hear how things stand here.
    pub(super) fn tell_of_reach(&mut self, effects: &mut Vec<Effect>) {
        let size = self.table.size();
        if size > settings::CROWD {
            return;
        }
        let others: Vec<u32> = self.table.live().collect();
        for slot in others {
            let reports = vec![self.report()];
            self.talk_reports(slot, reports, effects);
        }
    }

    /// A direct question was answered in this time.
    pub(super) fn measured(&mut self, slot: u32, took: Duration) {
        if self.table.size() > settings::REPORTS_MAX {
            return;
        }
        let Some(took) = self.recent.entry(slot).or_default().median_with(took) else { return };
        let generation = self.table.peer(slot).generation;
        let known = self.reports.get(&slot).filter(|report| report.generation == generation);
        if let Some(report) = known {
            self.vivaldi.observe(took, &report.place, &mut self.random);
        }
    }

    /// Who reaches whom, by what each live member said last; this one first.
    pub fn reach(&self) -> Vec<Reach> {
        let of = |report: &Report| Reach {
            member: report.member,
            unreached: Some(report.unreached.iter().copied().collect()),
            place: Some(report.place),
        };
        let mut all = vec![of(&self.report())];
        for slot in self.table.live() {
            let generation = self.table.peer(slot).generation;
            let report = self.reports.get(&slot).filter(|r| r.generation == generation);
            let silent = Reach { member: self.table.id(slot), unreached: None, place: None };
            all.push(report.map_or(silent, of));
        }
        all
    }

    /// The estimated round trip between two members; none where one has not said where it is.
    pub fn round_trip(&self, one: MemberId, other: MemberId) -> Option<Duration> {
        let place = |id: MemberId| match self.table.slot(id) {
            _ if id == self.table.me => Some(self.vivaldi.place()),
            slot => self.reports.get(&slot?).map(|report| report.place),
        };
        Some(place(one)?.round_trip(&place(other)?))
    }
}
