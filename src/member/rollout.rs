//! How a new version comes to its members: one after the other where the manifest says so, and
//! back to the version before where what runs of it does not get ready.
//!
//! The first live member of the failover list asks for the way back, as an operator would:
//! a publication of the version before. If several do, the register takes one of them. Only
//! what somebody published is taken back, and that once: not what a majority or an editor
//! decided, and not what was brought back itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Member,
    event::{EventKind, Severity},
    io::Effect,
    message::Message,
    operate::AskOrigin,
};
use crate::{
    base::{
        AppName, MemberId, Reason, Refusal, Time,
        catalog::{Application, Catalog, Enrolled, Origin, Version},
        planted::{self, Bug},
    },
    proto::{
        election,
        rollout::{self, Rollouts, Sight, Standing, State},
    },
};

/// A live member that does not know of a version after so long is not waited for: it may be
/// unable to keep its record.
const LEARNT_WITHIN: Duration = Duration::from_secs(10);
/// How soon the way back is asked for again after it was refused.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause after windows that were closed without it: each is open for some seconds, and
/// meanwhile nothing else is published and nothing voted on. They double, until somebody comes
/// back who may hold what nobody has.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What this member knows of versions that come.
#[derive(Debug, Default)]
pub(super) struct Coming {
    rollouts: Rollouts,
    /// Versions of which the way back was asked for, and not before when again.
    asked: BTreeMap<AppName, (u64, Time)>,
    /// In how many windows since somebody came back that was in vain, of which version.
    vain: BTreeMap<AppName, (u64, u32)>,
    /// Since when this member knows of the current versions.
    known: BTreeMap<AppName, (u64, Time)>,
    /// Failures that were told.
    told: BTreeSet<(AppName, MemberId, u64)>,
}

impl Coming {
    pub fn deadline(&self) -> Option<Time> {
        let asked = self.asked.values().map(|(_, hold)| *hold);
        self.rollouts.deadline().into_iter().chain(asked).min()
    }

    /// Whether there is something to tell.
    pub fn tick(&mut self, now: Time) -> bool {
        self.rollouts.tick(now)
    }

    pub fn heard(&mut self, from: MemberId, notes: Vec<rollout::Note>) {
        self.rollouts.heard(from, notes);
    }

    /// A catalog is in force.
    pub fn retain(&mut self, now: Time, catalog: &Catalog) {
        for (app, application) in &catalog.applications {
            let number = application.current().number;
            let known = self.known.entry(app.clone()).or_insert((number, now));
            if known.0 != number {
                *known = (number, now);
            }
        }
        self.known.retain(|app, _| catalog.applications.contains_key(app));
        let is_app = |app: &AppName| catalog.applications.contains_key(app);
        let is_member = |member| catalog.roster.contains(member);
        self.rollouts.retain(is_app, is_member);
        let current = |app: &AppName| catalog.application(app).map(|a| a.current().number);
        self.asked.retain(|app, (version, _)| current(app) == Some(*version));
        self.vain.retain(|app, (version, _)| current(app) == Some(*version));
        self.told.retain(|(app, member, version)| {
            current(app) == Some(*version) && catalog.roster.contains(*member)
        });
    }
}

impl Coming {
    /// A member is back, and may hold what nobody else has.
    pub fn met(&mut self, now: Time) {
        self.vain.clear();
        for (_, hold) in self.asked.values_mut() {
            // One that waits for its answer goes on waiting.
            if *hold <= now + RETRY_MAX {
                *hold = (*hold).min(now + RETRY);
            }
        }
    }

    /// How long to wait after one more answer that was none.
    fn pause(&mut self, app: &AppName, version: u64, refusal: &Refusal) -> Duration {
        // Anything else cost nobody a window.
        if refusal.reason != Reason::Failed {
            return RETRY;
        }
        let (_, vain) = self.vain.entry(app.clone()).or_insert((version, 0));
        let pause = RETRY * 2_u32.pow((*vain).min(8));
        *vain = vain.saturating_add(1);
        pause.min(RETRY_MAX)
    }
}

impl Member {
    /// This member has switched to another version.
    pub(super) fn came(
        &mut self,
        now: Time,
        app: &AppName,
        version: u64,
        before: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.coming.rollouts.switched(now, app, version, before != 0);
        self.say_how_it_comes(now, effects);
    }

    /// It is not here any more.
    pub(super) fn went(&mut self, app: &AppName) {
        self.coming.rollouts.forget(app);
    }

    /// How what runs of a version is here.
    pub(super) fn on_seen(
        &mut self,
        now: Time,
        app: &AppName,
        version: u64,
        sight: Sight,
        effects: &mut Vec<Effect>,
    ) {
        let catalog = self.catalog();
        let Some(of) = catalog.application(app).and_then(|a| a.version(version)) else { return };
        let pause = of.spec.rollout.pause(sight != Sight::Idle);
        if self.coming.rollouts.seen(now, app, version, sight, pause) {
            self.say_how_it_comes(now, effects);
        }
    }

    /// Whether what a live member said of a version, as its newest ballot tells, is news.
    pub(super) fn note_switches(&mut self, now: Time, catalog: &Catalog, from: MemberId) {
        let Some(ballot) = self.votes.fresh(now, from) else { return };
        if ballot.sequence != catalog.sequence || from == self.me {
            return;
        }
        for (app, application) in &catalog.applications {
            let current = application.current().number;
            let late = ballot.differing.iter().any(|d| &d.app == app && d.activated != current);
            if !late && catalog.is_placed(app, from) {
                self.coming.rollouts.has_switched(now, from, app, current);
            }
        }
    }

    /// Tells all how versions come here: at once after a change, and beside ballots.
    pub(super) fn say_how_it_comes(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let list = self.coming.rollouts.notes(now);
        if !list.is_empty() {
            self.send_to_all(&Message::Rollout { list }, effects);
        }
    }

    /// The same to one that has become live.
    pub(super) fn say_to(&mut self, now: Time, member: MemberId, effects: &mut Vec<Effect>) {
        let list = self.coming.rollouts.notes(now);
        if !list.is_empty() {
            self.send(member, &Message::Rollout { list }, effects);
        }
    }

    /// The applications whose newest version this member has to wait with.
    pub(super) fn wait_for_their_turn(&self, now: Time, catalog: &Catalog) -> BTreeSet<AppName> {
        let waits = |(app, application): &(&AppName, &Application)| {
            let current = application.current();
            let Some(at_once) = current.spec.rollout.at_once.filter(|_| comes(current)) else {
                return false;
            };
            let before = self.content.holding(app).map_or(0, |holding| holding.activated);
            before != 0
                && before != current.number
                && !rollout::is_turn(self.me, at_once, &self.standings(now, catalog, app, current))
        };
        catalog.applications.iter().filter(waits).map(|(app, _)| app.clone()).collect()
    }

    /// How those stand to `version` that may switch to it.
    fn standings(
        &self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        version: &Version,
    ) -> Vec<Standing> {
        let placed = catalog.roster.placed(&version.spec);
        let known = self.coming.known.get(app);
        let long = known.is_some_and(|(_, since)| now.since(*since) >= LEARNT_WITHIN);
        let standing = |member: &Enrolled| {
            let Enrolled { id, standby, .. } = *member;
            if !placed.holds(member) || !self.is_live(id) {
                return None;
            }
            let ballot = self.votes.fresh(now, id).filter(|b| b.sequence == catalog.sequence);
            if id != self.me && ballot.is_some_and(|ballot| ballot.lacking.contains(app)) {
                return None; // what it waits for nobody can tell
            }
            let state = self.how_it_comes(now, app, version, id);
            if id != self.me && state.is_none() && ballot.is_none() && long {
                return None;
            }
            // A full disk, or a hook that refuses: it says itself that it can't.
            let can = id == self.me || self.troubles.of(now, catalog, id, app).is_none();
            (state.is_some() || can).then_some(Standing { member: id, standby, state })
        };
        catalog.roster.members.iter().filter_map(standing).collect()
    }

    /// How `member` does with the current `version` of `app`; none before it has switched.
    pub(super) fn how_it_comes(
        &self,
        now: Time,
        app: &AppName,
        version: &Version,
        member: MemberId,
    ) -> Option<State> {
        let (me, number, rollouts) = (self.me, version.number, &self.coming.rollouts);
        if let Some(state) = rollouts.said(me, member, app, number) {
            return Some(state.clone());
        }
        let switched = if member == me {
            self.content.holding(app).is_some_and(|holding| holding.activated == number)
        } else {
            let ballot = self.votes.fresh(now, member);
            ballot.filter(|ballot| ballot.sequence == self.catalog().sequence).is_some_and(
                |ballot| !ballot.differing.iter().any(|d| &d.app == app && d.activated != number),
            )
        };
        switched.then(|| rollouts.state(now, me, member, app, number))
    }

    /// Whether the current version of the application named so comes to one after the other.
    pub(super) fn rolls(&self, app: &str) -> bool {
        let found = self.catalog().applications.iter().find(|(name, _)| name.as_str() == app);
        found.is_some_and(|(_, application)| {
            let current = application.current();
            comes(current) && current.spec.rollout.at_once.is_some()
        })
    }

    /// Asks for the way back from what did not get ready.
    pub(super) fn take_back(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        self.coming.asked.retain(|_, (_, hold)| now < *hold);
        let mut failed: BTreeMap<AppName, (MemberId, String)> = BTreeMap::new();
        for (app, member, version, state) in self.coming.rollouts.failures(self.me) {
            let Some(current) = catalog.application(app).map(Application::current) else {
                continue;
            };
            if current.number != version || !comes(current) {
                continue;
            }
            let why = match state {
                State::Failed(why) => why,
                // It was started anew before it had failed, and the others wait for it.
                State::Stuck(why) if self.is_held_up(now, catalog, app, current) => why,
                _ => continue,
            };
            failed.entry(app.clone()).or_insert_with(|| (member, why.clone()));
        }
        for (app, (member, why)) in failed {
            self.take_one_back(now, catalog, &app, member, &why, effects);
        }
    }

    /// Whether members wait for their turn, and nobody knows that the version works.
    fn is_held_up(&self, now: Time, catalog: &Catalog, app: &AppName, version: &Version) -> bool {
        let rolls = version.spec.rollout.at_once.is_some();
        let all = if rolls { self.standings(now, catalog, app, version) } else { Vec::new() };
        all.iter().any(|s| s.state.is_none()) && !all.iter().any(|s| s.state == Some(State::Ready))
    }

    fn take_one_back(
        &mut self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        member: MemberId,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(application) = catalog.application(app) else { return };
        let current = application.current();
        let (number, name) = (current.number, self.name_of(member));
        let before = application.before_current().map(|version| version.number);
        let stays = current.spec.rollout.stays || before.is_none();
        if self.coming.told.insert((app.clone(), member, number)) {
            let what = match (stays, current.spec.rollout.at_once) {
                (false, _) => "the version before is brought back",
                (true, None) => "what ran before goes on there where it can",
                (true, Some(_)) => "no other member switches to it",
            };
            let text = format!("{app} version {number} did not get ready on {name}: {why}; {what}");
            let severity = Severity::Warning;
            self.tell_of(effects, severity, EventKind::Version, member, Some(app.clone()), text);
        }
        let covered = catalog.window.is_some() && catalog.window_covers(app);
        let held = self.coming.asked.get(app).is_some_and(|(_, hold)| now < *hold);
        let first = election::presider(&catalog.roster, |m| self.is_live(m)) == Some(self.me);
        if stays || covered || held || !first || planted::is(Bug::NeverTakenBack) {
            return;
        }
        // Until it is answered: then it is over, or the answer says when again.
        self.coming.asked.insert(app.clone(), (number, now + Duration::from_secs(3_600)));
        let what = format!("{app} was not brought back.");
        let message = format!("version {number} did not get ready on {name}: {why}");
        let publication = self.quorum_for(what).and_then(|()| self.rollback(app, before));
        match publication {
            Ok(mut publication) => {
                publication.version.message = message;
                self.ask_window(now, AskOrigin::Rollback, publication, effects);
            }
            Err(refusal) => self.taken_back(now, app, Err(refusal), effects),
        }
    }

    /// What came of it.
    pub(super) fn taken_back(
        &mut self,
        now: Time,
        app: &AppName,
        result: Result<(), Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((version, _)) = self.coming.asked.get(app).copied() else { return };
        match result {
            Ok(()) => {
                self.coming.asked.remove(app);
            }
            Err(refusal) => {
                let pause = self.coming.pause(app, version, &refusal);
                self.coming.asked.insert(app.clone(), (version, now + pause));
                let text = format!(
                    "{app} is to go back from version {version} and can't yet: {} It is tried again.",
                    refusal.why
                );
                self.tell(effects, Severity::Info, EventKind::Version, Some(app.clone()), text);
            }
        }
    }
}

/// Whether it is of those that come to one member after the other, and may be taken back.
fn comes(version: &Version) -> bool {
    version.origin == Origin::Published
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Digest, MemberName, SecretKey, WallTime, catalog::AppSpec};

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn refused(reason: Reason) -> Refusal {
        Refusal::new(reason, "what", "why", "todo")
    }

    /// The next pauses of a version, in seconds, each after one more window that was in vain.
    fn pauses(coming: &mut Coming, app: &AppName, version: u64, count: usize) -> Vec<u64> {
        let failed = refused(Reason::Failed);
        (0..count).map(|_| coming.pause(app, version, &failed).as_secs()).collect()
    }

    /// One member, and versions of `web` up to this one.
    fn catalog(newest: u64) -> Catalog {
        let key = SecretKey::from_seed([1; 32]);
        let founder = Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse("a").unwrap(),
            address: ([127, 0, 0, 1], 7700).into(),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let version = |number| Version {
            number,
            root: Digest::of_bytes(b"root"),
            files: 1,
            bytes: 5,
            spec: AppSpec::default(),
            publisher: key.member(),
            published_at: WallTime(0),
            message: String::new(),
            origin: Origin::Published,
            asked: None,
        };
        let mut catalog = Catalog::found([9; 32], founder);
        let versions = (1..=newest).map(version).collect();
        catalog.applications.insert(app("web"), Application { versions });
        catalog
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let (mut coming, web) = (Coming::default(), app("web"));
        let first = pauses(&mut coming, &web, 2, 10);
        assert_eq!(first, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // However long nobody comes back: no power of two that is none.
        assert!(pauses(&mut coming, &web, 2, 1_000).iter().all(|pause| *pause == 300));
        assert_eq!(pauses(&mut coming, &app("shop"), 2, 2), [2, 4], "each for itself");
    }

    #[test]
    fn what_cost_nobody_a_window_is_asked_for_again_soon() {
        let (mut coming, web) = (Coming::default(), app("web"));
        assert_eq!(pauses(&mut coming, &web, 2, 3), [2, 4, 8]);
        for reason in [Reason::Busy, Reason::NoMajority, Reason::Conflict, Reason::Invalid] {
            assert_eq!(coming.pause(&web, 2, &refused(reason)), RETRY, "{reason:?}");
        }
        assert_eq!(pauses(&mut coming, &web, 2, 1), [16], "and it neither counts nor resets");
    }

    #[test]
    fn who_comes_back_lets_it_begin_anew() {
        let (mut coming, web, shop) = (Coming::default(), app("web"), app("shop"));
        for app in [&web, &shop] {
            assert_eq!(pauses(&mut coming, app, 2, 9).last(), Some(&300));
        }
        coming.met(Time(0));
        for app in [&web, &shop] {
            assert_eq!(pauses(&mut coming, app, 2, 3), [2, 4, 8]);
        }
    }

    #[test]
    fn who_comes_back_cuts_the_pause_short_and_no_answer() {
        let now = Time(1_000_000_000);
        let after = |seconds| now + Duration::from_secs(seconds);
        for (held, until, what) in [
            (after(300), after(2), "the longest pause"),
            (after(64), after(2), "a pause"),
            (after(1), after(1), "one that is over sooner"),
            (after(3_600), after(3_600), "one that was asked for and not answered"),
        ] {
            let mut coming = Coming::default();
            coming.asked.insert(app("web"), (2, held));
            coming.met(now);
            assert_eq!(coming.asked.get(&app("web")), Some(&(2, until)), "{what}");
            assert_eq!(coming.deadline(), Some(until), "and it is woken then: {what}");
        }
    }

    #[test]
    fn another_version_begins_anew() {
        let (mut coming, web) = (Coming::default(), app("web"));
        assert_eq!(pauses(&mut coming, &web, 2, 4), [2, 4, 8, 16]);
        coming.retain(Time(0), &catalog(2));
        assert_eq!(pauses(&mut coming, &web, 2, 1), [32], "the same one goes on");
        coming.retain(Time(0), &catalog(3));
        assert_eq!(pauses(&mut coming, &web, 3, 2), [2, 4]);
    }
}
