//! Rules about the cluster, in the hands of whoever judges them at the moment.
//!
//! That may be another member in the next one, so nothing that matters is kept here: whether a rule
//! acts, since when, and what was told of it stands in the catalog, as [`Episode`]s, and a judge that
//! was only just made knows as much as one that has judged for days. Only for how long a condition
//! has held is known to nobody else, and a new judge waits for all of it again.
//!
//! A look ends in wishes. Each is granted by a change of the catalog, and as long as it is not, the
//! next look has the same wish again: a judge that dies in between leaves nothing half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Action, Rule,
    bench::Key,
    judge::{self, Agreed, Readings, Verdict},
};
use crate::base::{
    Digest, Time, WallTime,
    conduct::Episode,
    limits::{EPISODE_NAME_MAX, EPISODE_WHY_MAX},
};

/// The clock of judges begins this late, so that what others began before this process did has a
/// place on it.
const EARLIER: Duration = Duration::from_secs(400 * 86_400);

/// What a judge wants to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Of which rule.
    pub key: Key,
    /// The name of the episode.
    pub episode: String,
    /// What.
    pub what: Wanted,
}

/// See [`Wish::what`].
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// The rule begins to act.
    Begin {
        /// The episode that stood in its place when that was decided.
        after: Option<String>,
        /// The rule.
        rule: Rule,
        /// What was measured, beside its bound.
        why: String,
    },
    /// The rule acts no more.
    End {
        /// What was measured, beside its bound; or that the rule is gone.
        why: String,
    },
    /// Those who are told by the rule are to be told, and then that is to be said.
    Tell {
        /// What: [`Verdict::Begin`], [`Verdict::Repeat`] or [`Verdict::End`].
        verdict: Verdict,
        /// Whom, and how.
        rule: Rule,
        /// The episode.
        of: Box<Episode>,
        /// Why.
        why: String,
    },
    /// Nobody is to be told any more: it is to be said that they were.
    Settle,
    /// Nobody needs to know of it any more.
    Forget,
    /// Nothing but an event: it would begin, and `cooldown` or `at-most` says no.
    HeldBack {
        /// The rule.
        rule: Rule,
        /// What was measured, beside its bound.
        why: String,
    },
}

/// What a rule is known by: two with the same sentence are the same.
pub fn sentence(rule: &Rule) -> Digest {
    Digest::of("althing rule", rule.to_string().as_bytes())
}

/// How many members a rule brings into service.
pub fn brings(rule: &Rule) -> u16 {
    let each = rule.then.iter().map(|action| if let Action::In(n) = action { *n } else { 0 });
    each.fold(0, u16::saturating_add)
}

/// Whoever judges.
#[derive(Clone, Debug)]
pub struct Judge {
    /// As it stands in the names of episodes.
    name: String,
    /// For how long conditions have held.
    standing: BTreeMap<Key, (Digest, judge::Episode)>,
    /// Of these nobody is told anything that would begin or go on.
    silenced: BTreeSet<Key>,
}

impl Judge {
    /// One that has not looked yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), standing: BTreeMap::new(), silenced: BTreeSet::new() }
    }

    /// From now on these rules are silenced, and no others: nobody is told that they act. What was
    /// told before ends as any other does. What begins while it is silenced is told once it is not,
    /// if it still acts; if it does not, nobody ever hears of it.
    pub fn hush(&mut self, silenced: BTreeSet<Key>) {
        self.silenced = silenced;
    }

    /// Looks at each of `rules` once. `records` are the episodes of the catalog of the
    /// applications that are judged here. Of those that are `busy` a wish is being granted. `now`
    /// never goes backwards; `at` is the same moment by the clock on the wall.
    pub fn look(
        &mut self,
        now: Time,
        at: WallTime,
        rules: &BTreeMap<Key, Rule>,
        records: &[Episode],
        busy: impl Fn(&Key) -> bool,
        readings: &impl Readings,
    ) -> Vec<Wish> {
        let now = now + EARLIER;
        let records: BTreeMap<Key, &Episode> = records.iter().map(|of| (key(of), of)).collect();
        self.standing.retain(|key, _| rules.contains_key(key));
        let all: BTreeSet<&Key> = rules.keys().chain(records.keys()).collect();
        let mut wishes = Vec::new();
        for key in all.into_iter().filter(|key| !busy(key)) {
            let (rule, record) = (rules.get(key), records.get(key).copied());
            let wish = match (rule, record) {
                (None, None) => None,
                (None, Some(of)) => Some(gone(of)),
                (Some(rule), of) => self.judge(now, at, key, rule, of, readings),
            };
            wishes.extend(wish);
        }
        wishes
    }

    fn judge(
        &mut self,
        now: Time,
        at: WallTime,
        key: &Key,
        rule: &Rule,
        record: Option<&Episode>,
        readings: &impl Readings,
    ) -> Option<Wish> {
        let mine = sentence(rule);
        // What another sentence did under this name is no reason to wait.
        let same = record.filter(|of| of.sentence == mine);
        match (record, same) {
            (Some(of), None) if of.is_open() => {
                return Some(wish(
                    of,
                    Wanted::End { why: "the rule is another one now".to_owned() },
                ));
            }
            (Some(of), None) if !of.end_told => return Some(wish(of, Wanted::Settle)),
            _ => {}
        }
        let tell = |of: &Episode, verdict, why| {
            let (rule, episode) = (rule.clone(), Box::new(of.clone()));
            Some(wish(of, Wanted::Tell { verdict, rule, of: episode, why }))
        };
        let is_silenced = self.silenced.contains(key);
        match same {
            Some(of) if of.is_open() && of.told.is_none() && !is_silenced => {
                return tell(of, Verdict::Begin, of.why.clone());
            }
            // Nobody knows that it began.
            Some(of) if !of.is_open() && !of.end_told && of.told.is_none() => {
                return Some(wish(of, Wanted::Settle));
            }
            Some(of) if !of.is_open() && !of.end_told => {
                return tell(of, Verdict::End, of.why.clone());
            }
            _ => {}
        }

        let then = |wall: WallTime| Time(now.0.saturating_sub(at.0.saturating_sub(wall.0) * 1_000));
        let agreed = Agreed {
            began: same.filter(|of| of.is_open()).map(|of| then(of.began)),
            said: same.and_then(|of| of.told).map(then),
            ended: same.and_then(|of| of.ended).map(then),
            beginnings: same.iter().flat_map(|of| &of.beginnings).map(|at| then(*at)).collect(),
        };
        let anew = || (mine, judge::Episode::default());
        let standing = self.standing.entry(key.clone()).or_insert_with(anew);
        if standing.0 != mine {
            *standing = anew();
        }
        standing.1.agree(agreed);
        let mut next = standing.1.clone();
        let verdict = next.look(now, rule, readings);
        if !matches!(verdict, Some(Verdict::Begin | Verdict::End)) {
            // These two become so when the catalog says it.
            standing.1 = next;
        }
        if is_silenced && verdict == Some(Verdict::Repeat) {
            return None; // it is said when it may be
        }
        let held = match (verdict?, &rule.until) {
            (Verdict::End, Some(until)) => until,
            _ => &rule.when,
        };
        let why = cut(held.told(readings), EPISODE_WHY_MAX);
        let name = || {
            let text = format!("{}-{}-{}-{}", key.app, key.rule, self.name, at.0);
            cut(text, EPISODE_NAME_MAX)
        };
        let fresh = |what| Some(Wish { key: key.clone(), episode: name(), what });
        match (verdict?, same) {
            (Verdict::Begin, _) => {
                let after = record.map(|of| of.name.clone());
                fresh(Wanted::Begin { after, rule: rule.clone(), why })
            }
            (Verdict::HeldBack, _) => fresh(Wanted::HeldBack { rule: rule.clone(), why }),
            (Verdict::End, Some(of)) => Some(wish(of, Wanted::End { why })),
            (Verdict::Repeat, Some(of)) => tell(of, Verdict::Repeat, why),
            (Verdict::End | Verdict::Repeat, None) => None, // it acts nowhere
        }
    }
}

/// What follows for an episode whose rule is gone. What its actions were nobody knows any more.
fn gone(of: &Episode) -> Wish {
    wish(
        of,
        match (of.is_open(), of.end_told) {
            (true, _) => Wanted::End { why: "there is no such rule any more".to_owned() },
            (false, false) => Wanted::Settle,
            (false, true) => Wanted::Forget,
        },
    )
}

fn wish(of: &Episode, what: Wanted) -> Wish {
    Wish { key: key(of), episode: of.name.clone(), what }
}

fn key(of: &Episode) -> Key {
    Key { app: of.app.clone(), rule: of.rule.clone() }
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{AppName, RuleName},
        proto::rule::{During, Measured, judge::Number, parse},
    };

    struct All(Option<f64>);

    impl Readings for All {
        fn numbers(&self, _: &Measured) -> Vec<Option<Number>> {
            vec![self.0.map(|value| Number { value, total: None })]
        }

        fn is_during(&self, _: &During) -> Option<bool> {
            None
        }
    }

    /// The catalog, as far as it matters here, and what came of wishes.
    #[derive(Default)]
    struct World {
        rules: BTreeMap<Key, Rule>,
        records: Vec<Episode>,
        done: Vec<String>,
    }

    impl World {
        fn with(rule: &str) -> Self {
            let mut world = Self::default();
            world.set(Some(rule));
            world
        }

        fn set(&mut self, rule: Option<&str>) {
            let app = AppName::parse("web").unwrap();
            let key = Key { app, rule: RuleName::parse("busy").unwrap() };
            self.rules = rule.map(|rule| (key, parse(rule).unwrap())).into_iter().collect();
        }

        fn look(&self, judge: &mut Judge, second: u64, value: Option<f64>) -> Vec<Wish> {
            // The processes of the judges were started at different times.
            let started = if judge.name == "a" { 0 } else { 7 };
            let now = Time(second.saturating_sub(started) * 1_000_000);
            let at = WallTime(1_760_000_000_000 + second * 1_000);
            judge.look(now, at, &self.rules, &self.records, |_| false, &All(value))
        }

        /// Looks, and grants what is wished.
        fn judged(&mut self, judge: &mut Judge, second: u64, value: f64) {
            for wish in self.look(judge, second, Some(value)) {
                self.grant(second, wish);
            }
        }

        fn grant(&mut self, second: u64, wish: Wish) {
            let at = WallTime(1_760_000_000_000 + second * 1_000);
            let Wish { key, episode, what } = wish;
            let of = self.records.first_mut().filter(|of| of.name == episode);
            let done = match (what, of) {
                (Wanted::Begin { after, rule, why }, _) => {
                    let before = self.records.pop();
                    let is_free = before.as_ref().is_none_or(|of| !of.is_open());
                    if before.as_ref().map(|of| &of.name) != after.as_ref() || !is_free {
                        self.records.extend(before);
                        return;
                    }
                    let mut beginnings = before.map(|of| of.beginnings).unwrap_or_default();
                    beginnings.push(at);
                    self.records.push(Episode {
                        app: key.app,
                        rule: key.rule,
                        name: episode,
                        sentence: sentence(&rule),
                        severity: rule.severity,
                        why,
                        began: at,
                        ended: None,
                        told: None,
                        end_told: false,
                        brought: vec![],
                        beginnings,
                    });
                    "begin".to_owned()
                }
                (Wanted::End { why }, Some(of)) if of.is_open() => {
                    (of.ended, of.why) = (Some(at), why);
                    "end".to_owned()
                }
                (Wanted::Tell { verdict, .. }, Some(of)) => {
                    match verdict {
                        Verdict::End => of.end_told = true,
                        _ => of.told = Some(at),
                    }
                    format!("tell {verdict:?}")
                }
                (Wanted::Settle, Some(of)) => {
                    of.end_told = true;
                    "settle".to_owned()
                }
                (Wanted::Forget, Some(of)) if !of.is_open() => {
                    self.records.clear();
                    "forget".to_owned()
                }
                (Wanted::HeldBack { .. }, _) => "held back".to_owned(),
                _ => return,
            };
            self.done.push(format!("{second} {done}"));
        }
    }

    #[test]
    fn it_begins_once_and_ends_once_whoever_judges() {
        let mut world = World::with(
            "critical when cluster avg(cpu) > 70% for 10s until cluster avg(cpu) < 50% then log \
             repeat 1m cooldown 30s",
        );
        let (mut a, mut b) = (Judge::new("a"), Judge::new("b"));
        (0..12).for_each(|second| world.judged(&mut a, second, 90.0));
        assert_eq!(world.done, ["10 begin", "11 tell Begin"]);
        // Another one goes on where the first one was, and says it again when it is time.
        (12..75).for_each(|second| world.judged(&mut b, second, 60.0));
        assert_eq!(world.done[2..], ["71 tell Repeat"]);
        world.judged(&mut a, 80, 40.0);
        world.judged(&mut b, 81, 90.0);
        assert_eq!(world.done[3..], ["80 end", "81 tell End"]);
        // It holds from 82 s on, and may begin again at 110 s.
        (82..112).for_each(|second| world.judged(&mut b, second, 90.0));
        assert_eq!(world.done[5..], ["92 held back", "110 begin", "111 tell Begin"]);
        assert_eq!(world.records[0].beginnings.len(), 2);
    }

    #[test]
    fn what_is_silenced_is_told_once_it_is_not() {
        let mut world = World::with(
            "when cluster avg(cpu) > 70% until cluster avg(cpu) < 50% then mail ops repeat 1m",
        );
        let mut a = Judge::new("a");
        let all: BTreeSet<Key> = world.rules.keys().cloned().collect();
        a.hush(all.clone());
        (0..5).for_each(|second| world.judged(&mut a, second, 90.0));
        assert_eq!(world.done, ["0 begin"]);
        a.hush(BTreeSet::new());
        (5..7).for_each(|second| world.judged(&mut a, second, 90.0));
        assert_eq!(world.done[1..], ["5 tell Begin"]);
        // It was told, and so is its end; in between it is not said again.
        a.hush(all.clone());
        (7..100).for_each(|second| world.judged(&mut a, second, 60.0));
        assert_eq!(world.done.len(), 2);
        a.hush(BTreeSet::new());
        world.judged(&mut a, 100, 60.0);
        a.hush(all);
        (101..104).for_each(|second| world.judged(&mut a, second, 40.0));
        assert_eq!(world.done[2..], ["100 tell Repeat", "101 end", "102 tell End"]);
        // What nobody was told of ends without a word, also after the silence.
        (104..106).for_each(|second| world.judged(&mut a, second, 90.0));
        world.judged(&mut a, 106, 40.0);
        a.hush(BTreeSet::new());
        (107..109).for_each(|second| world.judged(&mut a, second, 40.0));
        assert_eq!(world.done[5..], ["104 begin", "106 end", "107 settle"]);
    }

    #[test]
    fn a_judge_that_dies_leaves_nothing_half_done() {
        let mut world = World::with("when cluster avg(cpu) > 70% then mail ops");
        let (mut a, mut b) = (Judge::new("a"), Judge::new("b"));
        // Wishes that nobody grants are wished again, under a name of their own.
        let first = world.look(&mut a, 1, Some(90.0));
        let second = world.look(&mut b, 2, Some(90.0));
        assert!(first[0].episode != second[0].episode && first.len() == 1 && second.len() == 1);
        for wish in second.into_iter().chain(first) {
            world.grant(2, wish);
        }
        assert_eq!(world.done, ["2 begin"], "one of two");
        // What was told and not said is told again, of the same episode.
        let told = |wishes: &[Wish]| {
            let Wanted::Tell { verdict, of, .. } = &wishes[0].what else { panic!("{wishes:?}") };
            (*verdict, of.name.clone())
        };
        let once = told(&world.look(&mut a, 3, Some(90.0)));
        let again = told(&world.look(&mut b, 4, Some(90.0)));
        assert_eq!((once.0, &once), (Verdict::Begin, &again));
        world.judged(&mut b, 4, 90.0);
        world.judged(&mut b, 5, 10.0);
        let once = told(&world.look(&mut b, 6, Some(10.0)));
        let again = told(&world.look(&mut a, 7, Some(90.0)));
        assert_eq!((once.0, &once), (Verdict::End, &again));
        // A judge whose rule is under way is not asked for it.
        let at = WallTime(1_760_000_008_000);
        let busy = a.look(Time(8), at, &world.rules, &world.records, |_| true, &All(Some(90.0)));
        assert_eq!(busy, []);
    }

    #[test]
    fn a_rule_that_is_gone_or_another_one_now_leaves_nothing_behind() {
        let mut world = World::with("when cluster avg(cpu) > 70% then in 1 cooldown 1h");
        let mut a = Judge::new("a");
        (0..2).for_each(|second| world.judged(&mut a, second, 90.0));
        world.set(Some("when cluster avg(cpu) > 80% then in 2"));
        (2..6).for_each(|second| world.judged(&mut a, second, 90.0));
        let expected = ["0 begin", "1 tell Begin", "2 end", "3 settle", "4 begin", "5 tell Begin"];
        assert_eq!(world.done, expected, "and it need not cool down from another one");
        world.set(None);
        (6..10).for_each(|second| world.judged(&mut a, second, 90.0));
        assert_eq!(world.done[6..], ["6 end", "7 settle", "8 forget"]);
        assert_eq!(world.records, []);
    }

    #[test]
    fn what_is_unknown_begins_nothing_and_ends_nothing() {
        let mut world = World::with("when cluster avg(cpu) > 70% then log");
        let mut a = Judge::new("a");
        assert_eq!(world.look(&mut a, 0, None), []);
        (1..3).for_each(|second| world.judged(&mut a, second, 90.0));
        assert_eq!(world.look(&mut a, 3, None), []);
    }

    proptest! {
        /// Judges that take turns, of which some wishes are lost and some come late: what is done
        /// about an episode has one order.
        #[test]
        fn what_is_done_is_done_in_order(
            looks in proptest::collection::vec((any::<bool>(), 0u8..4, 0u8..4), 1..200),
        ) {
            let mut world = World::with(
                "when cluster avg(cpu) > 70% for 2s until cluster avg(cpu) < 50% for 2s then log \
                 repeat 1m at-most 3 in 1m",
            );
            let mut judges = [Judge::new("a"), Judge::new("b")];
            let mut late: Vec<Wish> = Vec::new();
            for (second, (who, value, fate)) in (0..).zip(looks) {
                let value = [Some(90.0), Some(60.0), Some(10.0), None][usize::from(value)];
                let wishes = world.look(&mut judges[usize::from(who)], second, value);
                let before = std::mem::take(&mut late);
                match fate {
                    0 => {}
                    1 => late = wishes,
                    _ => wishes.into_iter().for_each(|wish| world.grant(second, wish)),
                }
                before.into_iter().for_each(|wish| world.grant(second, wish));
            }
            let mut acts = false;
            for done in world.done.iter().filter_map(|done| done.split_once(' ')) {
                match done.1 {
                    "begin" => prop_assert!(!std::mem::replace(&mut acts, true)),
                    "end" => prop_assert!(std::mem::replace(&mut acts, false)),
                    _ => {}
                }
            }
            prop_assert_eq!(acts, world.records.first().is_some_and(Episode::is_open));
        }
    }
}
