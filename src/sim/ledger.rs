//! The checks on what rules and operators make of the catalog: episodes, who is in service, and
//! silences. They look at committed catalogs alone, one and the next, and know what was asked for.
//! Whether a rule should act is none of it: that is judged by what is measured, and here is nothing
//! to measure. What judges and operators ask for is in `acts`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Situation, Violation, check::fail};
use crate::base::{
    AppName, MemberName, RuleName, WallTime,
    catalog::{Catalog, Enrolled},
    conduct::{Episode, Rest, Silence, Silenced},
    limits::LEAVING_MS,
};

/// Which rules a silence is about, with the name of its member, which outlives its key.
pub(super) type About = (Option<AppName>, Option<RuleName>, Option<MemberName>);

/// What was asked for so far, and what the catalogs say of it.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    /// What judges wanted to begin, by the name of the episode.
    wanted: BTreeMap<String, Wanted>,
    /// Episodes that began, by their rule. Of a rule that was forgotten the catalog knows nothing any
    /// more, so that its judge may begin once more what it has not heard of.
    begun: BTreeMap<(AppName, RuleName), BTreeSet<String>>,
    /// Episodes that had not begun when whoever wanted them died.
    orphans: BTreeSet<String>,
    /// Whom operators have asked to be in service, or out of it.
    orders: BTreeSet<(MemberName, bool)>,
    /// Silences that operators have asked to be ended.
    lifted: BTreeSet<About>,
    /// How many rules about a member keep in service.
    keeps: BTreeMap<MemberName, u16>,
    met: Vec<Situation>,
}

/// What a judge wants to begin.
#[derive(Clone)]
struct Wanted {
    /// The episode of the rule that it has seen.
    after: Option<String>,
    /// So many are to come into service.
    bring: u16,
}

/// What one commit makes of episodes.
#[derive(Default)]
struct Turn<'a> {
    began: Vec<&'a Episode>,
    /// As they were before.
    ended: Vec<&'a Episode>,
}

impl Turn<'_> {
    /// Whether a rule about the cluster has its part in it: then nobody else has.
    fn is_ruled(&self) -> bool {
        !self.began.is_empty() || !self.ended.is_empty()
    }
}

/// Where a member is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    standby: bool,
    waits: bool,
    rest: Option<Rest>,
    /// Whether a rule that acts has brought it in.
    brought: bool,
}

impl Place {
    fn of(catalog: &Catalog, member: &Enrolled) -> Self {
        let conduct = &catalog.conduct;
        Self {
            standby: member.standby,
            waits: conduct.is_waiting(member.id),
            rest: conduct.rest(member.id),
            brought: conduct.episodes().iter().any(|of| of.brought.contains(&member.id)),
        }
    }

    /// Whether it waits, or does once it is well.
    fn is_spare(&self) -> bool {
        self.waits || self.rest.is_some_and(|rest| rest.waited)
    }

    /// Whether it is there because somebody has put it there, and no rule.
    fn is_by_hand(&self) -> bool {
        !self.waits && self.rest.is_none() && !self.brought
    }
}

impl Ledger {
    // What is asked for.

    /// A judge wants to begin `episode`.
    pub fn wants(&mut self, episode: &str, after: Option<String>, bring: u16) {
        self.wanted.insert(episode.to_owned(), Wanted { after, bring });
    }

    /// Whoever wanted `episode` dies, and does not know what came of it.
    pub fn orphaned(&mut self, episode: &str) {
        if !self.begun.values().any(|names| names.contains(episode)) {
            self.orphans.insert(episode.to_owned());
        }
    }

    /// An operator wants `member` to be in service, or out of it.
    pub fn ordered(&mut self, member: &MemberName, on: bool) {
        self.orders.insert((member.clone(), on));
    }

    /// A rule about `member` wants it to be out of service, and keeps so many there.
    pub fn keeps(&mut self, member: &MemberName, keep: u16) {
        self.keeps.insert(member.clone(), keep);
    }

    /// An operator wants a silence to be ended.
    pub fn lifts(&mut self, about: About) {
        self.lifted.insert(about);
    }

    // What is committed.

    /// Whether `next` is a legal successor of `before`. Returns what was met.
    pub fn follows(
        &mut self,
        latest: WallTime,
        before: &Catalog,
        next: &Catalog,
    ) -> Result<Vec<Situation>, Violation> {
        if before.conduct == next.conduct && before.roster == next.roster {
            return Ok(Vec::new());
        }
        is_sound(next)?;
        let turn = self.episodes(before, next)?;
        for entry in &next.roster.members {
            if let Some(was) = before.roster.named(&entry.name) {
                self.moves((before, was), (next, entry), &turn)?;
            }
        }
        self.silences(latest, before, next)?;
        for ended in &turn.ended {
            let covers = |silence: &Silence| {
                let Silenced { app, rule, member } = &silence.what;
                member.is_none()
                    && app.as_ref().is_none_or(|app| *app == ended.app)
                    && rule.as_ref().is_none_or(|rule| *rule == ended.rule)
            };
            if before.conduct.silences().iter().any(covers) {
                self.met.push(Situation::EndedInSilence);
            }
        }
        Ok(std::mem::take(&mut self.met))
    }

    fn episodes<'a>(
        &mut self,
        before: &'a Catalog,
        next: &'a Catalog,
    ) -> Result<Turn<'a>, Violation> {
        let mut turn = Turn::default();
        for old in before.conduct.episodes() {
            let stands = next.conduct.episode(&old.app, &old.rule);
            match stands {
                Some(new) if new.name == old.name => {
                    goes_on(old, new)?;
                    if old.is_open() && !new.is_open() {
                        turn.ended.push(old);
                    }
                }
                Some(new) if old.is_open() => {
                    let detail = format!("{} began while {} acted", new.name, old.name);
                    return fail(Invariant::ActsOnce, detail);
                }
                None if old.is_open() => {
                    let detail = format!("{} is forgotten while it acts", old.name);
                    return fail(Invariant::ActsOnce, detail);
                }
                Some(_) => {}
                None => drop(self.begun.remove(&(old.app.clone(), old.rule.clone()))),
            }
        }
        for new in next.conduct.episodes() {
            let stood = before.conduct.episode(&new.app, &new.rule).map(|old| &old.name);
            if stood != Some(&new.name) {
                self.begins(stood, new)?;
                turn.began.push(new);
            }
        }
        Ok(turn)
    }

    fn begins(&mut self, stood: Option<&String>, new: &Episode) -> Result<(), Violation> {
        let name = &new.name;
        let broken = |detail: String| fail(Invariant::ActsOnce, detail);
        let Some(wanted) = self.wanted.get(name) else {
            return broken(format!("{name} began, and no judge wanted it"));
        };
        if wanted.after.as_ref() != stood {
            let seen = &wanted.after;
            return broken(format!(
                "{name} began after {stood:?}, and its judge had seen {seen:?}"
            ));
        }
        if !new.is_open() || new.told.is_some() || new.end_told {
            return broken(format!("{name} is over or told of when it begins"));
        }
        if new.brought.len() > usize::from(wanted.bring) {
            let (brought, bring) = (new.brought.len(), wanted.bring);
            return broken(format!("{name} brought {brought} into service, and not {bring}"));
        }
        let begun = self.begun.entry((new.app.clone(), new.rule.clone())).or_default();
        if !begun.insert(name.clone()) {
            return broken(format!("{name} began twice"));
        }
        if !new.brought.is_empty() {
            self.met.push(Situation::RuleBroughtIn);
        }
        if self.orphans.remove(name) {
            self.met.push(Situation::BegunForDeadJudge);
        }
        Ok(())
    }

    /// One member, as it was and as it is.
    fn moves(
        &mut self,
        (before, was): (&Catalog, &Enrolled),
        (next, is): (&Catalog, &Enrolled),
        turn: &Turn<'_>,
    ) -> Result<(), Violation> {
        let name = &is.name;
        let (old, new) = (Place::of(before, was), Place::of(next, is));
        if old == new {
            return Ok(());
        }
        let broken = |detail: String| fail(Invariant::OperatorsWin, detail);
        let brought_in = turn.began.iter().any(|of| of.brought.contains(&is.id));
        let put_back = turn.ended.iter().any(|of| of.brought.contains(&was.id));
        if brought_in && !old.waits {
            return broken(format!("{name} is brought in by a rule, and did not wait"));
        }
        if put_back {
            return goes_back(name, new, next);
        }
        if turn.is_ruled() {
            let detail = format!("{name} is moved by a rule that has not brought it in");
            return if brought_in { Ok(()) } else { broken(detail) };
        }
        if old.rest.is_none() && new.rest.is_some() {
            return self.rests((before, was, old), (name, new));
        }
        let is_back = old.rest.is_some_and(|rest| !rest.waited) && new.rest.is_none();
        let ordered = self.orders.contains(&(name.clone(), !new.standby));
        if old.standby != new.standby && !ordered && (new.standby || !is_back) {
            let to = if new.standby { "out of" } else { "into" };
            return broken(format!("{name} goes {to} service, and nobody has said so"));
        }
        if old.brought && !new.brought {
            self.met.push(match new.standby {
                true => Situation::BroughtThenDrained,
                false => Situation::BroughtThenResumed,
            });
        }
        Ok(())
    }

    /// A rule about a member takes it out of service.
    fn rests(
        &mut self,
        (before, was, old): (&Catalog, &Enrolled, Place),
        (name, new): (&MemberName, Place),
    ) -> Result<(), Violation> {
        let broken = |detail: String| fail(Invariant::EnoughStay, detail);
        let since = new.rest.map(|rest| rest.since).unwrap_or_default();
        if old.standby {
            // It waits no more until it is well; nobody is missing.
            let well = old.waits && new.rest.is_some_and(|rest| rest.waited);
            let detail = format!("{name} was out of service by hand, and a rule took it out");
            return if well { Ok(()) } else { fail(Invariant::OperatorsWin, detail) };
        }
        let others: Vec<&Enrolled> =
            before.roster.members.iter().filter(|m| m.id != was.id).collect();
        let left = others.iter().filter(|m| !m.standby).count();
        let spare = others.iter().filter(|m| Place::of(before, m).is_spare()).count();
        let keep = usize::from(self.keeps.get(name).copied().unwrap_or(0));
        let least = keep.max((before.roster.members.len() - spare).div_ceil(2)).max(1);
        if left < least {
            return broken(format!("{left} stay in service without {name}, and not {least}"));
        }
        let is_going = |m: &&&Enrolled| {
            let rest = before.conduct.rest(m.id).filter(|rest| !rest.drained);
            rest.is_some_and(|rest| rest.since.0.abs_diff(since.0) < LEAVING_MS)
        };
        if let Some(other) = others.iter().find(is_going) {
            let detail = format!("{name} goes out of service while {} is on its way", other.name);
            return broken(detail);
        }
        self.met.push(Situation::TakenOutByRule);
        Ok(())
    }

    fn silences(
        &self,
        latest: WallTime,
        before: &Catalog,
        next: &Catalog,
    ) -> Result<(), Violation> {
        for old in before.conduct.silences() {
            let Silenced { app, rule, member } = &old.what;
            // By its name: it may have another key now.
            let name = member.and_then(|id| before.roster.get(id)).map(|m| m.name.clone());
            let entry = name.as_ref().and_then(|name| next.roster.named(name));
            let what = Silenced { member: entry.map(|m| m.id), ..old.what.clone() };
            let stands = next.conduct.silences().iter().any(|silence| silence.what == what);
            let is_gone = name.is_some() && entry.is_none();
            let about = (app.clone(), rule.clone(), name);
            if !stands && !is_gone && latest < old.until && !self.lifted.contains(&about) {
                let detail = format!("{about:?} is silenced no more, and nobody has said so");
                return fail(Invariant::SilenceStands, detail);
            }
        }
        Ok(())
    }
}

/// What holds in every catalog, whatever was before it.
fn is_sound(catalog: &Catalog) -> Result<(), Violation> {
    let conduct = &catalog.conduct;
    for of in conduct.episodes() {
        if !of.is_open() && !of.brought.is_empty() {
            let detail = format!("{} is over and still has brought somebody in", of.name);
            return fail(Invariant::BroughtGoesBack, detail);
        }
        if let Some(gone) = of.brought.iter().find(|id| !catalog.roster.contains(**id)) {
            let detail = format!("{} has brought {gone} in, which is not enrolled", of.name);
            return fail(Invariant::OperatorsWin, detail);
        }
    }
    let mut spare = 0;
    for member in &catalog.roster.members {
        let (name, place) = (&member.name, Place::of(catalog, member));
        let broken = |what: &str| fail(Invariant::OperatorsWin, format!("{name} {what}"));
        spare += usize::from(place.is_spare());
        let by = conduct.episodes().iter().flat_map(|of| &of.brought);
        if by.filter(|id| **id == member.id).count() > 1 {
            return broken("is brought in twice");
        }
        if place.brought && (place.is_spare() || place.standby && place.rest.is_none()) {
            return broken("waits, or is out of service by hand, and is still one brought in");
        }
        if (place.waits || place.rest.is_some()) && !place.standby {
            return broken("is in service, and waits or is out of service by a rule");
        }
        if place.waits && place.rest.is_some() {
            return broken("waits to be brought in, and is not well");
        }
    }
    if spare != conduct.spare() {
        let detail = "somebody waits who is not enrolled".to_owned();
        return fail(Invariant::OperatorsWin, detail);
    }
    let mut about = conduct.silences().iter().filter_map(|silence| silence.what.member);
    match about.find(|id| !catalog.roster.contains(*id)) {
        Some(gone) => {
            let detail = format!("rules are silenced about {gone}, which is not enrolled");
            fail(Invariant::SilenceStands, detail)
        }
        None => Ok(()),
    }
}

/// Whether `new` is what may become of `old`, the same episode.
fn goes_on(old: &Episode, new: &Episode) -> Result<(), Violation> {
    let same = (old.began, old.sentence, old.severity) == (new.began, new.sentence, new.severity)
        && old.beginnings == new.beginnings
        && (old.why == new.why || old.is_open() && !new.is_open());
    let broken = |what: &str| fail(Invariant::ActsOnce, format!("{} {what}", old.name));
    if !same {
        return broken("is not what it was");
    }
    if !old.is_open() && new.ended != old.ended {
        return broken("was over, and is not, or at another time");
    }
    if new.told < old.told || old.end_told && !new.end_told {
        return broken("was told, and is not any more");
    }
    if new.end_told && new.is_open() {
        return broken("is told to be over, and acts");
    }
    if new.brought.len() > old.brought.len() {
        return broken("brings in more than it did when it began");
    }
    Ok(())
}

/// A rule that has brought `name` into service is over.
fn goes_back(name: &MemberName, new: Place, next: &Catalog) -> Result<(), Violation> {
    let others = next.roster.members.iter().filter(|m| m.name != *name && !m.standby).count();
    if new.brought || others > 0 && !(new.standby && new.is_spare()) {
        let detail = format!("the rule that brought {name} in is over, and {name} does not wait");
        return fail(Invariant::BroughtGoesBack, detail);
    }
    Ok(())
}

/// Whether `member` is where an operator has put it, and no business of any rule.
pub(super) fn is_by_hand(catalog: &Catalog, member: &MemberName, on: bool) -> bool {
    let entry = catalog.roster.named(member);
    entry.is_none_or(|m| m.standby != on && Place::of(catalog, m).is_by_hand())
}

/// Whether `member` is on standby, and waits to be brought in.
pub(super) fn is_waiting(catalog: &Catalog, member: &MemberName) -> bool {
    let place = catalog.roster.named(member).map(|m| Place::of(catalog, m));
    place.is_none_or(|place| place.standby && place.waits && !place.brought)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            Digest, MemberId, SecretKey,
            catalog::{AppSpec, Application, Origin, Version},
        },
        member::change::{Begin, Change, Which},
        proto::catalog::Transition,
    };

    fn id(n: u8) -> MemberId {
        SecretKey::from_seed([n; 32]).member()
    }

    fn name(n: u8) -> MemberName {
        MemberName::parse(&format!("m{n}")).expect("a name")
    }

    /// Four members in service, and one application.
    fn catalog() -> Catalog {
        let enrolled = |n: u8| Enrolled {
            id: id(n),
            key: SecretKey::from_seed([n; 32]).public(),
            name: name(n),
            address: ([127, 0, 0, n], 1).into(),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let mut catalog = Catalog::found([1; 32], enrolled(1));
        catalog.roster.members.extend((2..=4).map(enrolled));
        let version = Version {
            number: 1,
            root: Digest::of_bytes(b"a tree"),
            files: 1,
            bytes: 1,
            spec: AppSpec::default(),
            publisher: id(1),
            published_at: WallTime(0),
            message: String::new(),
            origin: Origin::Published,
            asked: None,
        };
        catalog.applications.insert(which(0).app, Application { versions: vec![version] });
        catalog
    }

    fn which(n: u64) -> Which {
        Which {
            app: AppName::parse("web").expect("a name"),
            rule: RuleName::parse("busy").expect("a name"),
            episode: format!("e{n}"),
        }
    }

    fn begin(n: u64, after: Option<u64>, of: &[u8]) -> Change {
        let Which { app, rule, episode } = which(n);
        Change::Begin(Box::new(Begin {
            app,
            rule,
            episode,
            after: after.map(|n| which(n).episode),
            sentence: Digest::of_bytes(b"a rule"),
            severity: None,
            why: "busy".to_owned(),
            at: WallTime(n),
            bring: 2,
            of: of.iter().map(|n| id(*n)).collect(),
        }))
    }

    fn end(n: u64) -> Change {
        Change::End { which: which(n), why: "over".to_owned(), at: WallTime(n + 1) }
    }

    fn hand(n: u8, on: bool) -> Change {
        Change::Standby { member: id(n), standby: !on }
    }

    fn down(n: u8) -> Change {
        let because = "hot".to_owned();
        Change::StandDown { member: id(n), keep: 1, because, at: WallTime(u64::from(n)) }
    }

    /// The catalog, and who has asked for what.
    struct History(Ledger, Catalog);

    impl History {
        fn new() -> Self {
            let mut ledger = Ledger::default();
            for n in 1..=4 {
                ledger.keeps(&name(n), 1);
                ledger.ordered(&name(n), true);
                ledger.ordered(&name(n), false);
            }
            for (n, after) in [(10, None), (11, None), (12, Some(10))] {
                ledger.wants(&which(n).episode, after.map(|n| which(n).episode), 2);
            }
            Self(ledger, catalog())
        }

        /// The core makes of it what it does.
        fn make(&mut self, change: &Change) -> Vec<Situation> {
            let next = change.apply(&self.1).expect("it is allowed").expect("it changes something");
            let met = self.0.follows(WallTime(0), &self.1, &next).expect("it is sound");
            self.1 = next;
            met
        }

        /// Something else comes of it.
        fn breaks(&self, change: &Change, edit: impl FnOnce(&mut Catalog)) -> Invariant {
            let mut next = change.apply(&self.1).ok().flatten().unwrap_or_else(|| self.1.clone());
            edit(&mut next);
            // What is remembered of it goes with it.
            let mut ledger = self.0.clone();
            ledger.follows(WallTime(0), &self.1, &next).expect_err("it is seen").invariant
        }
    }

    fn set_standby(catalog: &mut Catalog, n: u8, standby: bool) {
        let entry = catalog.roster.members.iter_mut().find(|m| m.id == id(n));
        entry.expect("it is enrolled").standby = standby;
    }

    #[test]
    fn what_the_catalog_does_is_sound() {
        let mut history = History::new();
        for n in [3, 4] {
            history.make(&Change::Wait { member: id(n) });
        }
        assert_eq!(history.make(&begin(10, None, &[3, 4])), [Situation::RuleBroughtIn]);
        assert_eq!(history.make(&hand(3, false)), [Situation::BroughtThenDrained]);
        assert_eq!(history.make(&hand(4, true)), [Situation::BroughtThenResumed]);
        assert!(history.make(&end(10)).is_empty());
        assert_eq!(history.make(&down(2)), [Situation::TakenOutByRule]);
        history.make(&Change::StandUp { member: id(2) });
        history.make(&Change::Wait { member: id(3) });
        history.0.orphaned("e12");
        let met = [Situation::RuleBroughtIn, Situation::BegunForDeadJudge];
        assert_eq!(history.make(&begin(12, Some(10), &[3])), met);
        history.make(&end(12));
        history.make(&Change::Forget { which: which(12) });
        assert!(is_waiting(&history.1, &name(3)) && is_by_hand(&history.1, &name(4), true));
    }

    #[test]
    fn what_begins_twice_or_unseen_is_seen() {
        let mut history = History::new();
        history.make(&begin(10, None, &[]));
        let other = |catalog: &mut Catalog, n: u64| {
            let Which { app, rule, episode } = which(n);
            let stands = catalog.conduct.episode_mut(&app, &rule).expect("it began");
            (stands.name, stands.ended) = (episode, None);
        };
        let begun_twice = history.breaks(&Change::Confirm, |next| other(next, 11));
        assert_eq!(begun_twice, Invariant::ActsOnce, "the first one acts");
        let forgotten = history.breaks(&Change::Confirm, |next| {
            next.conduct.take(&which(10).app, &which(10).rule);
        });
        assert_eq!(forgotten, Invariant::ActsOnce, "it acts");
        history.make(&end(10));
        let unseen = history.breaks(&Change::Confirm, |next| other(next, 11));
        assert_eq!(unseen, Invariant::ActsOnce, "its judge had not seen the first one");
        let unwanted = history.breaks(&Change::Confirm, |next| other(next, 13));
        assert_eq!(unwanted, Invariant::ActsOnce, "nobody wanted it");
    }

    #[test]
    fn who_does_not_go_back_or_is_moved_unasked_is_seen() {
        let mut history = History::new();
        for n in [3, 4] {
            history.make(&Change::Wait { member: id(n) });
        }
        let unasked = history.breaks(&begin(10, None, &[3]), |next| set_standby(next, 2, true));
        assert_eq!(unasked, Invariant::OperatorsWin, "nobody said so");
        history.make(&begin(10, None, &[3]));
        let stays = history.breaks(&end(10), |next| {
            next.conduct.let_go(id(3));
            set_standby(next, 3, false);
        });
        assert_eq!(stays, Invariant::BroughtGoesBack);
        let still = history.breaks(&Change::Confirm, |next| set_standby(next, 3, true));
        assert_eq!(still, Invariant::OperatorsWin, "drained, and still one that was brought in");
        history.make(&hand(3, true));
        let moved = history.breaks(&end(10), |next| set_standby(next, 3, true));
        assert_eq!(moved, Invariant::OperatorsWin, "an operator wants it to stay");
    }

    #[test]
    fn too_few_in_service_and_a_lost_silence_are_seen() {
        let mut history = History::new();
        let rest = Rest { since: WallTime(9), drained: false, waited: false };
        let out = |next: &mut Catalog, n: u8| {
            set_standby(next, n, true);
            next.conduct.put_to_rest(id(n), rest);
        };
        history.make(&down(1));
        let at_once = history.breaks(&Change::Confirm, |next| out(next, 2));
        assert_eq!(at_once, Invariant::EnoughStay, "the first one is on its way");
        history.make(&Change::Drained { member: id(1) });
        history.make(&hand(2, false));
        let too_few = history.breaks(&Change::Confirm, |next| out(next, 3));
        assert_eq!(too_few, Invariant::EnoughStay, "one of four stays");

        let what = Silenced { app: Some(which(0).app), rule: None, member: None };
        let (since, until) = (WallTime(0), WallTime(60_000));
        let silence =
            Silence { what: what.clone(), by: name(1), why: "a test".to_owned(), since, until };
        history.make(&Change::Silence(Box::new(silence)));
        let lost = history.breaks(&Change::Confirm, |next| drop(next.conduct.unsilence(&what)));
        assert_eq!(lost, Invariant::SilenceStands);
        history.0.lifts((what.app.clone(), None, None));
        history.make(&Change::Unsilence { what, at: WallTime(1) });
    }
}
