//! Changes that rules about the cluster make. Each names the episode that it is about, so that
//! what was decided on an older state of things is refused, or changes nothing.

use serde::{Deserialize, Serialize};

use super::{no_such_app, not_enrolled};
use crate::base::{
    AppName, Digest, MemberId, Reason, Refusal, RuleName, WallTime,
    catalog::{Catalog, Enrolled},
    conduct::{Episode, Rest, Severity},
    limits,
    planted::{self, Bug},
    wire,
};

/// A rule that begins to act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Of which application.
    pub app: AppName,
    /// Which of its rules.
    pub rule: RuleName,
    /// The name of the episode, which no other one has.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_NAME_MAX }>")]
    pub episode: String,
    /// The episode of the rule that stood in the catalog that it was decided on: another one now
    /// means that another judge was quicker.
    #[serde(deserialize_with = "wire::bounded_text_or_none::<_, { limits::EPISODE_NAME_MAX }>")]
    pub after: Option<String>,
    /// The rule as it is.
    pub sentence: Digest,
    /// How bad it is.
    pub severity: Option<Severity>,
    /// What was measured, beside its bound.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_WHY_MAX }>")]
    pub why: String,
    /// The clock of the member that judged.
    pub at: WallTime,
    /// So many are to be brought into service,
    pub bring: u16,
    /// of these, the first ones that still wait. Whoever judges names those that are live and well.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    pub of: Vec<MemberId>,
}

/// Which episode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Of which application.
    pub app: AppName,
    /// Of which of its rules.
    pub rule: RuleName,
    /// Its name.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_NAME_MAX }>")]
    pub episode: String,
}

/// What was told of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// That it began, or goes on.
    Acts,
    /// That it is over.
    Over,
}

/// What a judge of rules about the cluster wants to be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// See [`Change::Begin`](super::Change::Begin).
    Begin(Box<Begin>),
    /// See [`Change::End`](super::Change::End).
    End {
        /// Which episode is over.
        which: Which,
        /// What was measured, beside its bound.
        #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_WHY_MAX }>")]
        why: String,
        /// The clock of the member that judged.
        at: WallTime,
    },
    /// See [`Change::Told`](super::Change::Told).
    Told {
        /// Of which episode.
        which: Which,
        /// What.
        said: Said,
        /// The clock of the member that judged.
        at: WallTime,
    },
    /// See [`Change::Forget`](super::Change::Forget).
    Forget {
        /// Which.
        which: Which,
    },
}

impl From<Act> for super::Change {
    fn from(act: Act) -> Self {
        match act {
            Act::Begin(begin) => Self::Begin(begin),
            Act::End { which, why, at } => Self::End { which, why, at },
            Act::Told { which, said, at } => Self::Told { which, said, at },
            Act::Forget { which } => Self::Forget { which },
        }
    }
}

impl Which {
    /// The episode, if it still stands in the place of its rule.
    fn of<'a>(&self, next: &'a mut Catalog) -> Option<&'a mut Episode> {
        let found = next.conduct.episode_mut(&self.app, &self.rule);
        found.filter(|episode| episode.name == self.episode)
    }
}

pub(super) fn begin(next: &mut Catalog, begin: &Begin) -> Result<bool, Refusal> {
    let Begin { app, rule, episode: name, .. } = begin;
    let what = || format!("Rule {rule} of {app} did not begin to act.");
    let conflict = |why: String| {
        let todo = "It is judged again by what the catalog says now.";
        Refusal::new(Reason::Conflict, what(), why, todo)
    };
    if next.application(app).is_none() {
        return Err(no_such_app(app, &what()));
    }
    let before = next.conduct.episode(app, rule);
    if before.is_some_and(|episode| episode.name == *name) {
        return Ok(false);
    }
    let unseen = planted::is(Bug::BegunTwice);
    if before.map(|episode| &episode.name) != begin.after.as_ref() && !unseen {
        return Err(conflict("Another member has judged it meanwhile.".to_owned()));
    }
    if let Some(open) = before.filter(|episode| episode.is_open() && !unseen) {
        return Err(conflict(format!("It acts already, since {}.", open.began)));
    }
    // Those of another sentence are none of this one.
    let same = before.filter(|episode| episode.sentence == begin.sentence);
    let mut beginnings = same.map(|episode| episode.beginnings.clone()).unwrap_or_default();
    beginnings.push(begin.at);
    let surplus = beginnings.len().saturating_sub(limits::BEGINNINGS_MAX);
    beginnings.drain(..surplus);

    let count = usize::from(begin.bring).min(limits::BROUGHT_MAX);
    let waits = |id: &&MemberId| next.conduct.is_waiting(**id) && next.roster.contains(**id);
    let brought: Vec<MemberId> = begin.of.iter().filter(waits).take(count).copied().collect();
    for member in &brought {
        next.conduct.let_go(*member);
        set_standby(next, *member, false);
    }
    let is_put = next.conduct.put(Episode {
        app: app.clone(),
        rule: rule.clone(),
        name: name.clone(),
        sentence: begin.sentence,
        severity: begin.severity,
        why: begin.why.clone(),
        began: begin.at,
        ended: None,
        told: None,
        end_told: false,
        brought,
        beginnings,
    });
    if !is_put {
        return Err(Refusal::new(
            Reason::Failed,
            what(),
            format!(
                "The catalog remembers {} rules that act or did act, and no more.",
                limits::EPISODES_MAX
            ),
            "Publish fewer rules about the cluster.",
        ));
    }
    Ok(true)
}

/// It is over: whom it brought in waits again, but where nobody else would be left in service.
pub(super) fn end(next: &mut Catalog, which: &Which, why: &str, at: WallTime) -> bool {
    let Some(episode) = which.of(next).filter(|episode| episode.is_open()) else { return false };
    (episode.ended, episode.why) = (Some(at), why.to_owned());
    // Those that came last go first.
    for member in std::mem::take(&mut episode.brought).into_iter().rev() {
        let is_other = |m: &Enrolled| m.id != member && !m.standby;
        let stays = planted::is(Bug::BroughtStays);
        if next.roster.contains(member) && next.roster.members.iter().any(is_other) && !stays {
            set_standby(next, member, true);
            next.conduct.wait_again(member);
        }
    }
    true
}

pub(super) fn told(next: &mut Catalog, which: &Which, said: Said, at: WallTime) -> bool {
    let Some(episode) = which.of(next) else { return false };
    match said {
        Said::Acts if episode.told.is_none_or(|before| before < at) => episode.told = Some(at),
        Said::Over if !episode.is_open() && !episode.end_told => episode.end_told = true,
        Said::Acts | Said::Over => return false,
    }
    true
}

/// One that acts stays, so that nobody is left in service because of nothing.
pub(super) fn forget(next: &mut Catalog, which: &Which) -> bool {
    let is_over = which.of(next).is_some_and(|episode| !episode.is_open());
    is_over && next.conduct.take(&which.app, &which.rule).is_some()
}

/// On standby, and rules may bring it in from now on.
pub(super) fn wait(next: &mut Catalog, member: MemberId) -> Result<bool, Refusal> {
    let stands = put_aside(next, member, true)?;
    Ok(next.conduct.wait(member) | stands)
}

/// How many members have to stay in service where a rule takes one out: as many as it keeps, half
/// of all that do not wait, and one.
pub(crate) fn least_in_service(catalog: &Catalog, keep: u16) -> usize {
    let members = catalog.roster.members.len().saturating_sub(catalog.conduct.spare());
    usize::from(keep).max(members.div_ceil(2)).max(1)
}

/// That a rule would leave too few in service.
pub(crate) fn too_few_left(left: usize, least: usize) -> Refusal {
    Refusal::new(
        Reason::Forbidden,
        NOT_OUT,
        format!(
            "{left} would be left in service, and at least {least} have to be: half of all members \
             that do not wait, and as many as the rule keeps."
        ),
        "Bring others into service with `althing resume`, or take it out by hand.",
    )
}

const NOT_OUT: &str = "This member was not taken out of service.";

/// A rule about `member` takes it out of service. One that waits does so no more, as it is not well.
pub(super) fn stand_down(
    next: &mut Catalog,
    member: MemberId,
    keep: u16,
    at: WallTime,
) -> Result<bool, Refusal> {
    let entry = next.roster.get(member).ok_or_else(|| not_enrolled(NOT_OUT))?;
    if entry.standby {
        let waits = next.conduct.is_waiting(member);
        if waits {
            next.conduct.put_to_rest(member, Rest { since: at, drained: true, waited: true });
        }
        return Ok(waits);
    }
    // Clocks differ, and one that is far away keeps nobody for ever.
    let is_recent = |rest: &Rest| rest.since.0.abs_diff(at.0) < limits::LEAVING_MS;
    if let Some((other, _)) = next.conduct.leaving().find(|(_, rest)| is_recent(rest)) {
        let name = next.roster.get(other).map_or_else(|| other.to_string(), |m| m.name.to_string());
        return Err(Refusal::new(
            Reason::Busy,
            NOT_OUT,
            format!("{name} is on its way out, and one goes after the other."),
            "It is tried again.",
        ));
    }
    let left = next.roster.members.iter().filter(|m| m.id != member && !m.standby).count();
    let least = least_in_service(next, keep);
    if left < least && !planted::is(Bug::TooFewStay) {
        return Err(too_few_left(left, least));
    }
    next.conduct.put_to_rest(member, Rest { since: at, drained: false, waited: false });
    Ok(set_standby(next, member, true))
}

/// What a rule took out of service goes back to where it was, unless somebody has put it somewhere
/// since.
pub(super) fn stand_up(next: &mut Catalog, member: MemberId) -> bool {
    let Some(rest) = next.conduct.end_rest(member) else { return false };
    if rest.waited {
        next.conduct.wait_again(member);
    } else {
        set_standby(next, member, false);
    }
    true
}

/// Whether that is new.
pub(super) fn put_aside(
    next: &mut Catalog,
    member: MemberId,
    standby: bool,
) -> Result<bool, Refusal> {
    if !next.roster.contains(member) {
        return Err(not_enrolled("Who is in service was not changed."));
    }
    Ok(set_standby(next, member, standby))
}

/// Whether that is new.
fn set_standby(next: &mut Catalog, member: MemberId, standby: bool) -> bool {
    let entry = next.roster.members.iter_mut().find(|m| m.id == member);
    entry.is_some_and(|entry| std::mem::replace(&mut entry.standby, standby) != standby)
}

#[cfg(test)]
mod tests {
    use super::{super::Change, *};
    use crate::{
        base::{
            SecretKey,
            catalog::{AppSpec, Application, Origin, Version},
        },
        proto::catalog::Transition,
    };

    fn id(n: u8) -> MemberId {
        SecretKey::from_seed([n; 32]).member()
    }

    /// Five members, of whom the last three wait, and one application.
    fn catalog() -> Catalog {
        let enrolled = |n: u8| Enrolled {
            id: id(n),
            key: SecretKey::from_seed([n; 32]).public(),
            name: format!("m{n}").parse().expect("a name"),
            address: ([127, 0, 0, n], 1).into(),
            tags: Default::default(),
            voter: true,
            standby: false,
        };
        let mut catalog = Catalog::found([1; 32], enrolled(1));
        catalog.roster.members.extend((2..=5).map(enrolled));
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
        catalog.applications.insert(app(), Application { versions: vec![version] });
        (3..=5).fold(catalog, |base, n| make(&base, &Change::Wait { member: id(n) }))
    }

    fn app() -> AppName {
        AppName::parse("web").expect("a name")
    }

    fn make(base: &Catalog, change: &Change) -> Catalog {
        let next = change.apply(base).expect("it is allowed").expect("it changes something");
        assert_eq!(change.apply(&next), Ok(None), "the second time");
        next
    }

    fn begins(n: u64, after: Option<u64>, bring: u16, of: &[u8]) -> Begin {
        let name = |n: u64| format!("web-busy-m1-{n}");
        Begin {
            app: app(),
            rule: RuleName::parse("busy").expect("a name"),
            episode: name(n),
            after: after.map(name),
            sentence: Digest::of_bytes(b"a rule"),
            severity: None,
            why: "cluster avg(cpu) > 70% (81%)".to_owned(),
            at: WallTime(n),
            bring,
            of: of.iter().map(|n| id(*n)).collect(),
        }
    }

    fn begin(n: u64, after: Option<u64>, bring: u16, of: &[u8]) -> Change {
        Change::Begin(Box::new(begins(n, after, bring, of)))
    }

    fn which(n: u64) -> Which {
        let Begin { app, rule, episode, .. } = begins(n, None, 0, &[]);
        Which { app, rule, episode }
    }

    fn end(n: u64) -> Change {
        Change::End { which: which(n), why: "it is over".to_owned(), at: WallTime(n + 1) }
    }

    fn in_service(catalog: &Catalog) -> Vec<MemberId> {
        let members = catalog.roster.members.iter();
        members.filter(|m| !m.standby).map(|m| m.id).collect()
    }

    #[test]
    fn who_waits_comes_in_and_goes_out_again() {
        let base = catalog();
        assert_eq!(in_service(&base), [id(1), id(2)]);
        // Of those that are live and well, in their order; members that don't wait are no choice.
        let acts = make(&base, &begin(10, None, 2, &[1, 4, 9, 3, 5]));
        assert_eq!(in_service(&acts), [id(1), id(2), id(3), id(4)]);
        assert_eq!(acts.conduct.episodes()[0].brought, [id(4), id(3)]);
        let over = make(&acts, &end(10));
        assert_eq!(over.roster, base.roster);
        assert!((3..=5).all(|n| over.conduct.is_waiting(id(n))));
        assert_eq!(over.conduct.episodes()[0].ended, Some(WallTime(11)));
        let none = make(&over, &Change::Forget { which: which(10) });
        assert_eq!(none.conduct, base.conduct);
    }

    #[test]
    fn of_two_judges_one_begins() {
        let base = catalog();
        let acts = make(&base, &begin(10, None, 1, &[3]));
        let refused = |change: &Change, on: &Catalog| change.apply(on).unwrap_err().reason;
        assert_eq!(refused(&begin(11, None, 1, &[4]), &acts), Reason::Conflict);
        assert_eq!(refused(&begin(11, Some(10), 1, &[4]), &acts), Reason::Conflict, "it acts");
        let over = make(&acts, &end(10));
        // Judged by what was there before the first one.
        assert_eq!(refused(&begin(11, None, 1, &[4]), &over), Reason::Conflict);
        let again = make(&over, &begin(12, Some(10), 1, &[4]));
        assert_eq!(again.conduct.episodes()[0].beginnings, [WallTime(10), WallTime(12)]);
        // Late words about the one before change nothing.
        for late in [end(10), Change::Forget { which: which(10) }] {
            assert_eq!(late.apply(&again), Ok(None));
        }
        assert_eq!(Change::Forget { which: which(12) }.apply(&again), Ok(None), "it acts");
        let mut homeless = base;
        homeless.applications.clear();
        assert_eq!(refused(&begin(10, None, 0, &[]), &homeless), Reason::NotFound);
    }

    #[test]
    fn what_an_operator_does_wins() {
        let acts = make(&catalog(), &begin(10, None, 2, &[3, 4]));
        // Drained by hand: it does not wait. Resumed by hand: it stays.
        let hand = make(&acts, &Change::Standby { member: id(3), standby: true });
        let hand = make(&hand, &Change::Standby { member: id(5), standby: false });
        let over = make(&hand, &end(10));
        assert_eq!(in_service(&over), [id(1), id(2), id(5)]);
        assert!(over.conduct.is_waiting(id(4)) && !over.conduct.is_waiting(id(3)));
        // Said of one that a rule has brought in, it stays in although nothing moves.
        let kept = make(&acts, &Change::Standby { member: id(4), standby: false });
        let over = make(&kept, &end(10));
        assert_eq!(in_service(&over), [id(1), id(2), id(4)]);
    }

    #[test]
    fn who_was_brought_in_and_is_not_well_waits_again_in_the_end() {
        let acts = make(&catalog(), &begin(10, None, 2, &[3, 4]));
        let because = "hot".to_owned();
        let down = Change::StandDown { member: id(3), keep: 0, because, at: WallTime(11) };
        let up = Change::StandUp { member: id(3) };
        let unwell = make(&acts, &down);
        assert_eq!(in_service(&unwell), [id(1), id(2), id(4)]);

        let over = make(&unwell, &end(10));
        assert_eq!(in_service(&over), [id(1), id(2)]);
        assert!(!over.conduct.is_waiting(id(3)), "it is not well");
        assert!(make(&over, &up).conduct.is_waiting(id(3)));

        let well = make(&unwell, &up);
        assert_eq!(in_service(&well), [id(1), id(2), id(3), id(4)]);
        let over = make(&well, &end(10));
        assert!([3, 4].into_iter().all(|n| over.conduct.is_waiting(id(n))));
    }

    #[test]
    fn somebody_stays_in_service() {
        let mut acts = make(&catalog(), &begin(10, None, 2, &[3, 4]));
        for n in [1, 2] {
            acts = make(&acts, &Change::Standby { member: id(n), standby: true });
        }
        let over = make(&acts, &end(10));
        assert_eq!(in_service(&over), [id(3)]);
        assert!(over.conduct.episodes()[0].brought.is_empty());
    }

    #[test]
    fn what_is_told_is_told_once_unless_it_is_later() {
        let acts = make(&catalog(), &begin(10, None, 0, &[]));
        let told = |n, said, at| Change::Told { which: which(n), said, at: WallTime(at) };
        assert_eq!(told(10, Said::Over, 11).apply(&acts), Ok(None), "it is not over");
        let once = make(&acts, &told(10, Said::Acts, 11));
        assert_eq!(told(10, Said::Acts, 10).apply(&once), Ok(None));
        let twice = make(&once, &told(10, Said::Acts, 20));
        assert_eq!(twice.conduct.episodes()[0].told, Some(WallTime(20)));
        let over = make(&make(&twice, &end(10)), &told(10, Said::Over, 30));
        assert!(over.conduct.episodes()[0].end_told);
        assert_eq!(told(9, Said::Acts, 40).apply(&over), Ok(None), "another one");
    }

    #[test]
    fn members_that_go_are_let_go() {
        let acts = make(&catalog(), &begin(10, None, 1, &[3]));
        let fewer = make(&acts, &Change::Remove { member: id(3) });
        let fewer = make(&fewer, &Change::Remove { member: id(4) });
        assert!(fewer.conduct.episodes()[0].brought.is_empty());
        assert!(!fewer.conduct.is_waiting(id(4)) && fewer.conduct.is_waiting(id(5)));
    }

    #[test]
    fn the_catalog_does_not_grow_without_end() {
        let mut base = catalog();
        for n in 0..limits::EPISODES_MAX {
            let rule = RuleName::parse(&format!("r{n}")).expect("a name");
            let begin = Begin { rule, ..begins(10, None, 0, &[]) };
            base = make(&base, &Change::Begin(Box::new(begin)));
        }
        let refusal = begin(10, None, 1, &[3]).apply(&base).unwrap_err();
        assert_eq!(refusal.reason, Reason::Failed);
        let mut base = catalog();
        let mut after = None;
        for n in (0..80).step_by(2) {
            base = make(&make(&base, &begin(n, after, 0, &[])), &end(n));
            after = Some(n);
        }
        let beginnings = &base.conduct.episodes()[0].beginnings;
        assert_eq!((beginnings.len(), beginnings.last()), (32, Some(&WallTime(78))));
    }
}
