//! Service levels: who serves at a moment to come, by the rules about the cluster that bring
//! members in.
//!
//! What times decide is said for sure, by the judge of today on a clock that is made up (see
//! `course.rs`); of what measurements decide it is said what they are, and how many members may come
//! in. A rule that begins in a silence brings nobody in, and not later either. The rest stays as it
//! is: who is live, who waits, the order of the failover list, the rules, the silences.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Rule,
    bench::Key,
    course::{Acting, Before, Course},
    wide::{brings, sentence},
};
use crate::base::{
    AppName, MemberId, MemberName, WallTime,
    conduct::{Episode, Silence},
    limits,
};

/// Changes that are told at most.
pub const CHANGES_MAX: usize = 500;

/// Whether a member is given requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// It is.
    InService,
    /// It is not, and rules may bring it in.
    Waits,
    /// It is not, and no rule brings it in.
    Aside,
}

/// A member as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: MemberId,
    /// Its name.
    pub name: MemberName,
    /// Whether it is live.
    pub is_live: bool,
    /// Where it is.
    pub place: Place,
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// In the order of the failover list.
    pub members: Vec<Member>,
    /// Rules about the cluster that are known here.
    pub rules: BTreeMap<Key, Rule>,
    /// All episodes of the catalog.
    pub episodes: Vec<Episode>,
    /// All silences of the catalog.
    pub silences: Vec<Silence>,
    /// Applications whose rules are not known here.
    pub unknown: BTreeSet<AppName>,
    /// Told is only of rules of this application.
    pub only: Option<AppName>,
}

/// Who serves at a moment, and what changes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// When that was asked.
    pub now: WallTime,
    /// The moment.
    pub at: WallTime,
    /// How far after it changes are told.
    pub to: WallTime,
    /// In the order of the failover list.
    pub members: Vec<Standing>,
    /// The rules that bring members in.
    pub rules: Vec<Level>,
    /// Applications whose rules are not known on the member that was asked.
    pub unknown: Vec<AppName>,
    /// What changes after the moment by time alone, in order.
    pub changes: Vec<Turn>,
    /// Whether there are more of them.
    pub cut: bool,
}

/// A member at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub member: MemberName,
    /// Whether it is live now. Who is not is brought in by nobody.
    pub live: bool,
    /// Where it is then.
    pub place: Place,
    /// The rule that brought it in.
    pub by: Option<Key>,
    /// Whether it is there whatever is measured until then.
    pub sure: bool,
}

/// Whether a rule acts at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It does.
    Acts,
    /// It does not.
    Rests,
    /// That depends on what is measured until then.
    Depends,
    /// Times make it begin and end over and over, so nothing is said of it.
    Unsteady,
}

/// A rule at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Which rule.
    pub rule: Key,
    /// What it says.
    pub sentence: String,
    /// How many it is to bring in.
    pub brings: u16,
    /// Whether it acts then.
    pub state: State,
    /// Since when, if it does or may still do; by time alone.
    pub since: Option<WallTime>,
    /// Whom it has brought in then.
    pub brought: Vec<MemberName>,
    /// Until when it is silenced, if it is so at the moment: what begins then brings nobody in.
    #[serde(default)]
    pub silenced: Option<WallTime>,
    /// Whether it acts since a moment at which it was silenced, and so brings nobody in as long as
    /// it does.
    #[serde(default)]
    pub began_silenced: bool,
    /// How many it may bring in as well, if it comes to act: as many as still wait.
    pub more: u16,
    /// What decides, where that is measured: what it begins by, or what it is over by.
    pub condition: Option<String>,
    /// What is measured for that.
    pub measured: Vec<String>,
}

/// A rule begins or ceases to act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// When.
    pub at: WallTime,
    /// Which.
    pub rule: Key,
    /// Whether it begins.
    pub begins: bool,
    /// Whether it is silenced when it begins, and so brings nobody in.
    #[serde(default)]
    pub silenced: bool,
    /// Who comes into service by that, or waits again.
    pub members: Vec<MemberName>,
    /// How many it should have brought in beside these: nobody else waits. Or of those it brought
    /// in how many stay, so that somebody is in service.
    pub short: u16,
}

impl Given {
    /// Who serves `at` a moment, and what changes from then until `to`. What is before `now` is
    /// not asked for.
    pub fn foresee(self, now: WallTime, at: WallTime, to: WallTime) -> Levels {
        let at = at.max(now);
        let to = to.max(at);
        let all = self.rules.iter().filter(|(_, rule)| brings(rule) > 0);
        let followed: Vec<Followed<'_>> = all
            .map(|(key, rule)| {
                let record = self.record(key).filter(|of| of.sentence == sentence(rule));
                let before = record.map(Before::from).unwrap_or_default();
                let silenced = self.silenced(key, now);
                let course = Course::of(rule, &before, silenced, now, at, to);
                Followed { key, rule, silenced, course }
            })
            .collect();
        let mut turns: Vec<(WallTime, &Followed<'_>, bool)> = Vec::new();
        for of in &followed {
            let each = of.course.iter().flat_map(|course| &course.turns);
            turns.extend(each.map(|(at, begins)| (*at, of, *begins)));
        }
        // Of what turns in the same moment, in the order in which a judge looks.
        turns.sort_by_key(|(at, of, _)| (*at, of.key));

        let mut floor = Floor::new(&self, now);
        let (then, after) = turns.split_at(turns.partition_point(|(turn, ..)| *turn <= at));
        for (at, of, begins) in then {
            floor.turn(of, *at, *begins);
        }
        let rules: Vec<Level> = followed.iter().map(|of| floor.level(of, at)).collect();
        let members = floor.members.iter().map(|on| on.standing(&rules)).collect();
        let mut changes: Vec<Turn> = Vec::new();
        let mut cut = false;
        for (at, of, begins) in after {
            let (members, short) = floor.turn(of, *at, *begins);
            if self.tells_of(&of.key.app) {
                if changes.len() >= CHANGES_MAX {
                    cut = true;
                    break;
                }
                let (at, begins, silenced) = (*at, *begins, *begins && of.is_silenced(*at));
                let rule = of.key.clone();
                changes.push(Turn { at, rule, begins, silenced, members, short });
            }
        }
        Levels {
            now,
            at,
            to,
            members,
            rules: rules.into_iter().filter(|level| self.tells_of(&level.rule.app)).collect(),
            unknown: self.unknown.iter().filter(|app| self.tells_of(app)).cloned().collect(),
            changes,
            cut,
        }
    }

    fn tells_of(&self, app: &AppName) -> bool {
        self.only.as_ref().is_none_or(|only| only == app)
    }

    fn record(&self, key: &Key) -> Option<&Episode> {
        self.episodes.iter().find(|of| (&of.app, &of.rule) == (&key.app, &key.rule))
    }

    /// Until when a rule is silenced, if it is so now. No silence begins later.
    fn silenced(&self, key: &Key, now: WallTime) -> Option<WallTime> {
        let silence = Silence::of(&self.silences, &key.app, &key.rule, None, now);
        silence.map(|silence| silence.until)
    }
}

/// A rule that brings members in, on its way through time.
struct Followed<'a> {
    key: &'a Key,
    rule: &'a Rule,
    /// Until then, if it is silenced now.
    silenced: Option<WallTime>,
    /// None if it begins and ends over and over.
    course: Option<Course>,
}

impl Followed<'_> {
    fn is_silenced(&self, at: WallTime) -> bool {
        self.silenced.is_some_and(|until| at < until)
    }
}

/// Who is in service, on the way through time.
struct Floor {
    members: Vec<On>,
    /// Rules that act since a moment at which they were silenced.
    hushed: BTreeSet<Key>,
}

/// A member, and the rule that brought it in.
struct On {
    member: Member,
    by: Option<Key>,
}

impl Floor {
    fn new(given: &Given, now: WallTime) -> Self {
        let open: Vec<&Episode> = given.episodes.iter().filter(|of| of.is_open()).collect();
        let key = |of: &Episode| Key { app: of.app.clone(), rule: of.rule.clone() };
        let on = |member: &Member| {
            let by = open.iter().find(|of| of.brought.contains(&member.id));
            On { member: member.clone(), by: by.map(|of| key(of)) }
        };
        // Who has brought nobody in and told nobody, and may not, began so.
        let is_hushed = |of: &&&Episode| {
            let is_untouched = of.brought.is_empty() && of.told.is_none();
            is_untouched && given.silenced(&key(of), now).is_some()
        };
        let mut floor = Self {
            members: given.members.iter().map(on).collect(),
            hushed: open.iter().filter(is_hushed).map(|of| key(of)).collect(),
        };
        // What no rule says any more is over as soon as somebody judges.
        for of in open.into_iter().filter(|of| !given.unknown.contains(&of.app)) {
            let key = key(of);
            if given.rules.get(&key).is_none_or(|rule| sentence(rule) != of.sentence) {
                floor.hushed.remove(&key);
                floor.end(&key);
            }
        }
        floor
    }

    /// Who comes in by it, or goes; and how many do not.
    fn turn(&mut self, of: &Followed<'_>, at: WallTime, begins: bool) -> (Vec<MemberName>, u16) {
        self.hushed.remove(of.key);
        if !begins {
            return self.end(of.key);
        }
        if of.is_silenced(at) {
            self.hushed.insert(of.key.clone());
            return (Vec::new(), 0);
        }
        self.begin(of.key, count(of.rule))
    }

    fn waiting(&self) -> usize {
        self.members.iter().filter(|on| on.waits()).count()
    }

    fn begin(&mut self, key: &Key, count: u16) -> (Vec<MemberName>, u16) {
        let waiting = self.members.iter_mut().filter(|on| on.waits());
        let mut brought = Vec::new();
        for on in waiting.take(usize::from(count)) {
            (on.member.place, on.by) = (Place::InService, Some(key.clone()));
            brought.push(on.member.name.clone());
        }
        let short = usize::from(count) - brought.len();
        (brought, u16::try_from(short).unwrap_or(u16::MAX))
    }

    /// Those that came last go first, but where nobody else would be left in service.
    fn end(&mut self, key: &Key) -> (Vec<MemberName>, u16) {
        let (mut gone, mut stay) = (Vec::new(), 0);
        for at in (0..self.members.len()).rev() {
            if self.members[at].by.as_ref() != Some(key) {
                continue;
            }
            let serves =
                |(other, on): (usize, &On)| other != at && on.member.place == Place::InService;
            let is_other = self.members.iter().enumerate().any(serves);
            let on = &mut self.members[at];
            on.by = None;
            if is_other {
                on.member.place = Place::Waits;
                gone.push(on.member.name.clone());
            } else {
                stay += 1;
            }
        }
        gone.reverse();
        (gone, stay)
    }

    fn level(&self, of: &Followed<'_>, at: WallTime) -> Level {
        let Followed { key, rule, silenced, course } = of;
        let (key, rule, course) = (*key, *rule, course.as_ref());
        let silenced = silenced.filter(|until| at < *until);
        let began_silenced = self.hushed.contains(key);
        let state = match course.map(|course| course.acting) {
            None => State::Unsteady,
            Some(Acting::Acts) => State::Acts,
            Some(Acting::Rests) => State::Rests,
            Some(Acting::Depends) => State::Depends,
        };
        let since = course.and_then(|course| course.since);
        let depends = state == State::Depends;
        let (condition, measured) = match (&rule.until, since) {
            _ if !depends => (None, Vec::new()),
            (_, None) => (Some(rule.when.to_string()), rule.when.measured()),
            (Some(until), Some(_)) => (Some(until.to_string()), until.measured()),
            (None, Some(_)) => {
                // It is over once this does not hold any more.
                let over = super::Condition::Not(Box::new(rule.when.condition.clone()));
                (Some(over.to_string()), rule.when.measured())
            }
        };
        let by = self.members.iter().filter(|on| on.by.as_ref() == Some(key));
        // What acts has brought in whom it may, unless it may begin once more.
        let may_bring = depends && silenced.is_none() && (since.is_none() || began_silenced);
        let more = if may_bring { usize::from(count(rule)).min(self.waiting()) } else { 0 };
        Level {
            rule: key.clone(),
            sentence: rule.to_string(),
            brings: count(rule),
            state,
            since,
            brought: by.map(|on| on.member.name.clone()).collect(),
            silenced,
            began_silenced,
            more: u16::try_from(more).unwrap_or(u16::MAX),
            condition,
            measured,
        }
    }
}

impl On {
    fn waits(&self) -> bool {
        self.member.place == Place::Waits && self.member.is_live
    }

    fn standing(&self, rules: &[Level]) -> Standing {
        let Member { name, is_live, place, .. } = &self.member;
        // Of whom a rule brought in that nobody knows here it is not known for how long.
        let is_sure = |by: &Key| rules.iter().any(|of| of.rule == *by && of.state == State::Acts);
        Standing {
            member: name.clone(),
            live: *is_live,
            place: *place,
            by: self.by.clone(),
            sure: self.by.as_ref().is_none_or(is_sure),
        }
    }
}

/// How many the catalog lets a rule bring in.
fn count(rule: &Rule) -> u16 {
    brings(rule).min(u16::try_from(limits::BROUGHT_MAX).unwrap_or(u16::MAX))
}

impl super::Held {
    /// What is measured for it, once each, as it is written.
    fn measured(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.condition.walk(&mut all);
        let mut seen = BTreeSet::new();
        let all = all.into_iter().map(ToString::to_string);
        all.filter(|one| seen.insert(one.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        base::{RuleName, SecretKey, conduct::Silenced},
        proto::rule::parse,
    };

    const EVENING: &str = "when time 18:00-23:00 mon-fri America/New_York then in 2";

    fn wall(utc: &str) -> WallTime {
        let moment: Timestamp = utc.parse().unwrap();
        WallTime(moment.as_millisecond() as u64)
    }

    fn id(name: &str) -> MemberId {
        let seed = name.bytes().fold([0; 32], |mut seed, byte| {
            seed.rotate_left(1);
            seed[0] = byte;
            seed
        });
        SecretKey::from_seed(seed).member()
    }

    fn key(rule: &str) -> Key {
        Key { app: AppName::parse("web").unwrap(), rule: RuleName::parse(rule).unwrap() }
    }

    /// Members by name, each with where it is: `+` in service, `~` waits, `-` aside, `!` waits and
    /// is down.
    fn given(members: &[&str], rules: &[(&str, &str)]) -> Given {
        let member = |text: &&str| {
            let (place, is_live) = match &text[..1] {
                "+" => (Place::InService, true),
                "~" => (Place::Waits, true),
                "!" => (Place::Waits, false),
                _ => (Place::Aside, true),
            };
            let name = MemberName::parse(&text[1..]).unwrap();
            Member { id: id(&text[1..]), name, is_live, place }
        };
        let rule = |(name, text): &(&str, &str)| (key(name), parse(text).unwrap());
        Given {
            members: members.iter().map(member).collect(),
            rules: rules.iter().map(rule).collect(),
            ..Given::default()
        }
    }

    fn episode(rule: &str, text: &str, began: &str, brought: &[&str]) -> Episode {
        Episode {
            app: key(rule).app,
            rule: key(rule).rule,
            name: format!("web-{rule}-a-1"),
            sentence: sentence(&parse(text).unwrap()),
            severity: None,
            why: String::new(),
            began: wall(began),
            ended: None,
            told: Some(wall(began)),
            end_told: false,
            brought: brought.iter().map(|name| id(name)).collect(),
            beginnings: vec![wall(began)],
        }
    }

    /// Of this rule, or of all of the application, as far as they are about this member.
    fn silence(rule: Option<&str>, member: Option<&str>, until: &str) -> Silence {
        let rule = rule.map(|rule| key(rule).rule);
        let what = Silenced { app: Some(key("any").app), rule, member: member.map(id) };
        let by = MemberName::parse("alpha").unwrap();
        Silence { what, by, why: "a test".to_owned(), since: WallTime(0), until: wall(until) }
    }

    fn serves(levels: &Levels) -> String {
        let serve = levels.members.iter().filter(|m| m.place == Place::InService);
        let show = |m: &Standing| format!("{}{}", m.member, if m.sure { "" } else { "?" });
        serve.map(show).collect::<Vec<_>>().join(" ")
    }

    fn told(levels: &Levels) -> Vec<String> {
        let show = |turn: &Turn| {
            let names: Vec<&str> = turn.members.iter().map(|name| name.as_str()).collect();
            let sign = if turn.begins { "+" } else { "-" };
            let short = if turn.short > 0 { format!(" ({})", turn.short) } else { String::new() };
            format!("{} {sign}{}{short}", &turn.at.to_string()[..16], names.join("+"))
        };
        levels.changes.iter().map(show).collect()
    }

    #[test]
    fn who_serves_follows_from_the_time() {
        let given =
            given(&["+alpha", "-zeta", "~gamma", "!delta", "~epsilon"], &[("evening", EVENING)]);
        let now = wall("2026-11-29T12:00:00Z"); // Sunday
        let at = |at: &str| given.clone().foresee(now, wall(at), wall(at));
        assert_eq!(serves(&at("2026-11-29T23:30:00Z")), "alpha");
        // Thursday, 18:30 there: in the order of the list, without those aside or down.
        let then = at("2026-12-24T23:30:00Z");
        assert_eq!(serves(&then), "alpha gamma epsilon");
        let [level] = then.rules.as_slice() else { panic!("{then:?}") };
        assert_eq!((level.state, level.brings, level.more), (State::Acts, 2, 0));
        assert_eq!(level.since, Some(wall("2026-12-24T23:00:00Z")));
        assert_eq!(then.members[2].by, Some(key("evening")));
        // In summer it is an hour earlier.
        assert_eq!(serves(&at("2027-07-01T22:00:00Z")), "alpha gamma epsilon");
        assert_eq!(serves(&at("2027-07-01T21:59:59Z")), "alpha");
    }

    #[test]
    fn changes_are_told_in_order_with_who_comes_and_goes() {
        let rules = [("evening", EVENING), ("late", "when time 03:00-05:00 then in 2")];
        let given = given(&["+alpha", "~beta", "~gamma", "~delta"], &rules);
        let now = wall("2026-11-30T12:00:00Z");
        let (at, to) = (wall("2026-11-30T23:30:00Z"), wall("2026-12-02T00:00:00Z"));
        let levels = given.clone().foresee(now, at, to);
        assert_eq!(serves(&levels), "alpha beta gamma");
        assert_eq!(
            told(&levels),
            [
                "2026-12-01T03:00 +delta (1)", // nobody else waits
                "2026-12-01T04:00 -beta+gamma",
                "2026-12-01T05:00 -delta",
                "2026-12-01T23:00 +beta+gamma",
            ]
        );
        assert!(!levels.cut);
        let far = given.foresee(now, at, WallTime(at.0 + 300 * 86_400_000));
        assert_eq!((far.changes.len(), far.cut), (CHANGES_MAX, true));
    }

    #[test]
    fn what_is_measured_is_said_and_not_guessed() {
        let busy =
            "when cluster avg(cpu, 5m) > 70% for 5m until cluster avg(cpu, 5m) < 50% then in 2";
        let both = "when time 18:00-23:00 and any load > 9 then in 1";
        let mut given = given(&["+alpha", "~beta", "~gamma"], &[("busy", busy), ("both", both)]);
        let now = wall("2026-11-30T12:00:00Z");
        let at = wall("2026-11-30T19:00:00Z");
        let levels = given.clone().foresee(now, at, at);
        assert_eq!(serves(&levels), "alpha");
        let shown: Vec<_> = levels
            .rules
            .iter()
            .map(|of| (of.state, of.more, of.measured.join("; "), of.condition.clone().unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    State::Depends,
                    1,
                    "any load".to_owned(),
                    "time 18:00-23:00 and any load > 9".to_owned()
                ),
                (
                    State::Depends,
                    2,
                    "cluster avg(cpu, 5m)".to_owned(),
                    "cluster avg(cpu, 5m) > 70% for 5m".to_owned()
                ),
            ]
        );
        // At noon one of them can't.
        let levels = given.clone().foresee(now, now, now);
        assert_eq!(levels.rules[0].state, State::Rests);
        assert_eq!(levels.rules[0].condition, None);

        // It acts now, and may be over then.
        given.members[1].place = Place::InService;
        given.episodes = vec![episode("busy", busy, "2026-11-30T11:00:00Z", &["beta"])];
        let levels = given.clone().foresee(now, now, now);
        assert_eq!((serves(&levels).as_str(), levels.rules[1].state), ("alpha beta", State::Acts));
        let levels = given.foresee(now, at, at);
        assert_eq!(serves(&levels), "alpha beta?");
        let level = &levels.rules[1];
        assert_eq!((level.state, level.more), (State::Depends, 0));
        assert_eq!(level.condition.as_deref(), Some("cluster avg(cpu, 5m) < 50%"));
        assert_eq!(level.brought, [MemberName::parse("beta").unwrap()]);
    }

    #[test]
    fn what_acts_now_is_known_and_what_no_rule_says_is_over() {
        let text = "when time 18:00-23:00 then in 1";
        let mut given = given(&["+alpha", "+beta", "~gamma"], &[("evening", text)]);
        let now = wall("2026-11-30T20:00:00Z");
        let (at, to) = (now, wall("2026-11-30T23:30:00Z"));
        // It brought in beta, and not gamma once more.
        given.episodes = vec![episode("evening", text, "2026-11-30T18:00:01Z", &["beta"])];
        let levels = given.clone().foresee(now, at, to);
        assert_eq!(serves(&levels), "alpha beta");
        assert_eq!(levels.rules[0].since, Some(wall("2026-11-30T18:00:01Z")));
        assert_eq!(told(&levels), ["2026-11-30T23:00 -beta"]);
        // Another sentence then: it is over, and what is written now begins.
        given.episodes[0].sentence = sentence(&parse("when time 01:00-02:00 then in 1").unwrap());
        let levels = given.clone().foresee(now, at, to);
        assert_eq!((serves(&levels).as_str(), levels.rules[0].since), ("alpha beta", Some(now)));
        // No such rule.
        given.rules.clear();
        assert_eq!(serves(&given.clone().foresee(now, at, to)), "alpha");
        // Whose rules are not known, of that it is not known whether it goes on.
        given.unknown.insert(key("evening").app);
        assert_eq!(serves(&given.foresee(now, at, to)), "alpha beta?");
    }

    #[test]
    fn what_begins_in_a_silence_brings_nobody_in() {
        let text = "when time 18:00-23:00 then in 1";
        let mut given = given(&["+alpha", "~beta", "~gamma"], &[("evening", text)]);
        let now = wall("2026-11-30T12:00:00Z");
        let at = wall("2026-11-30T20:00:00Z");
        let hush = |given: &Given, silences: Vec<Silence>| Given { silences, ..given.clone() };
        let until_19 = silence(Some("evening"), None, "2026-11-30T19:00:00Z");
        let hushed = hush(&given, vec![until_19.clone()]);
        // It is over then, and nobody is brought in later.
        let levels = hushed.clone().foresee(now, at, wall("2026-12-01T23:30:00Z"));
        let level = &levels.rules[0];
        assert_eq!((serves(&levels).as_str(), level.state), ("alpha", State::Acts));
        assert_eq!((level.silenced, level.began_silenced), (None, true));
        assert_eq!(
            told(&levels),
            ["2026-11-30T23:00 -", "2026-12-01T18:00 +beta", "2026-12-01T23:00 -beta"]
        );
        let levels = hushed.clone().foresee(now, now, at);
        assert_eq!(
            (told(&levels), levels.changes[0].silenced),
            (vec!["2026-11-30T18:00 +".to_owned()], true)
        );
        assert_eq!(
            (levels.rules[0].silenced, levels.rules[0].state),
            (Some(until_19.until), State::Rests)
        );
        for (silence, who) in [
            (silence(None, None, "2026-11-30T18:01:00Z"), "alpha"),
            // Over when it begins; of another rule; of one about a member.
            (silence(None, None, "2026-11-30T18:00:00Z"), "alpha beta"),
            (silence(Some("late"), None, "2026-12-01T00:00:00Z"), "alpha beta"),
            (silence(None, Some("beta"), "2026-12-01T00:00:00Z"), "alpha beta"),
        ] {
            let levels = hush(&given, vec![silence.clone()]).foresee(now, at, at);
            assert_eq!(serves(&levels), who, "{silence:?}");
        }

        // What it brought in before stays, and goes when it is over.
        let (now, to) = (wall("2026-11-30T18:30:00Z"), wall("2026-11-30T23:30:00Z"));
        given.members[1].place = Place::InService;
        given.episodes = vec![episode("evening", text, "2026-11-30T18:00:00Z", &["beta"])];
        let levels = hush(&given, vec![until_19.clone()]).foresee(now, now, to);
        assert_eq!(
            (serves(&levels).as_str(), told(&levels)),
            ("alpha beta", vec!["2026-11-30T23:00 -beta".to_owned()])
        );
        assert_eq!(
            (levels.rules[0].silenced, levels.rules[0].began_silenced),
            (Some(until_19.until), false)
        );
        // What began in it has told nobody.
        given.members[1].place = Place::Waits;
        (given.episodes[0].brought, given.episodes[0].told) = (Vec::new(), None);
        let levels = hush(&given, vec![until_19]).foresee(now, at, to);
        assert_eq!((serves(&levels).as_str(), levels.rules[0].began_silenced), ("alpha", true));
        assert_eq!(told(&levels), ["2026-11-30T23:00 -"]);
    }

    #[test]
    fn what_is_measured_may_begin_in_a_silence() {
        let busy = "when cluster avg(cpu, 5m) > 70% for 5m then in 2";
        let late = "when time 18:00-23:00 or cluster avg(load, 5m) > 9 then in 1";
        let rules = [("busy", busy), ("late", late)];
        let now = wall("2026-11-30T12:00:00Z");
        let at = wall("2026-11-30T20:00:00Z");
        let seen = |until: Option<&str>, at: WallTime| {
            let given = given(&["+alpha", "~beta", "~gamma", "~delta"], &rules);
            let silences = until.map(|until| silence(None, None, until)).into_iter().collect();
            let levels = Given { silences, ..given }.foresee(now, at, at);
            let more = levels.rules[0].more;
            (serves(&levels), more, levels.rules[1].state)
        };
        let then = |serve: &str, more, state| (serve.to_owned(), more, state);
        assert_eq!(seen(None, at), then("alpha beta", 2, State::Acts));
        // It may have begun before 17:00, and then it brings nobody in at 18:00.
        let until = Some("2026-11-30T17:00:00Z");
        assert_eq!(seen(until, at), then("alpha beta?", 2, State::Depends));
        // Whenever it begins, it is silenced.
        let until = Some("2026-11-30T18:30:00Z");
        assert_eq!(seen(until, at), then("alpha", 2, State::Acts));
        let until = Some("2026-11-30T21:00:00Z");
        assert_eq!(seen(until, at), then("alpha", 0, State::Acts));
    }

    #[test]
    fn somebody_is_left_in_service() {
        let text = "when time 18:00-23:00 then in 2";
        let mut given = given(&["-alpha", "+beta", "+gamma"], &[("evening", text)]);
        given.episodes = vec![episode("evening", text, "2026-11-30T18:00:00Z", &["beta", "gamma"])];
        let now = wall("2026-11-30T20:00:00Z");
        let levels = given.foresee(now, now, wall("2026-11-30T23:30:00Z"));
        assert_eq!(told(&levels), ["2026-11-30T23:00 -gamma (1)"]);
    }

    #[test]
    fn rules_that_bring_nobody_in_are_none_of_these() {
        let rules = [
            ("told", "when cluster avg(cpu) > 70% then log"),
            ("mad", "when time 00:00-24:00 until time 00:00-24:00 then in 1"),
        ];
        let given = given(&["+alpha", "~beta"], &rules);
        let now = wall("2026-11-30T20:00:00Z");
        let at = WallTime(now.0 + 86_400_000);
        let levels = given.foresee(now, at, at);
        let states: Vec<_> = levels.rules.iter().map(|of| (&of.rule, of.state)).collect();
        assert_eq!(states, [(&key("mad"), State::Unsteady)]);
        assert_eq!(serves(&levels), "alpha");
        let json = serde_json::to_string(&levels).unwrap();
        assert_eq!(serde_json::from_str::<Levels>(&json).unwrap(), levels);
    }
}
