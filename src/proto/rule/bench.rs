//! The rules that one judge has in hand, each with its episode: what follows from a look at all of
//! them, and what outlives the judge.
//!
//! An episode is what lies between a beginning and its end. It has a name that no other one has,
//! so that whatever is done about it can be told from what was done about another. Those that are
//! open are kept ([`Bench::open`]) and given back after a restart ([`Bench::new`]): an episode that
//! began ends, and is not begun a second time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Rule, Severity,
    judge::{Episode, Readings, Verdict},
    parse,
};
use crate::base::{AppName, RuleName, Time, WallTime};

/// Which rule: two applications may have one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Of which application.
    pub app: AppName,
    /// Which of its rules.
    pub rule: RuleName,
}

/// An episode that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Of which rule.
    pub key: Key,
    /// Its name: the same from its beginning to its end.
    pub episode: String,
    /// When it began.
    pub began: WallTime,
    /// How bad it is.
    pub severity: Option<Severity>,
    /// What was measured when it began, beside its bound.
    pub why: String,
    /// Whether it took its member out of service: what it is to undo.
    #[serde(default)]
    pub took_out: bool,
    /// The rule as it is written out: what is to be undone when it is gone.
    #[serde(default)]
    pub sentence: String,
    /// Whether it began while its rule was silenced, and nothing has been done about it yet.
    #[serde(default)]
    pub put_off: bool,
}

/// What follows from a look at one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// What.
    pub verdict: Verdict,
    /// The episode; of [`Verdict::HeldBack`] the one that would have begun.
    pub open: Open,
    /// The rule, as it is now or was last.
    pub rule: Rule,
    /// What was measured now, beside its bound; or why it is over without a look.
    pub why: String,
}

/// One rule in hand.
#[derive(Clone, Debug)]
struct Standing {
    rule: Rule,
    episode: Episode,
    open: Option<Open>,
}

/// All rules that one judge has in hand.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Who judges, as it stands in the names of episodes.
    judge: String,
    standing: BTreeMap<Key, Standing>,
    /// Episodes of before, whose rules have not been seen yet.
    before: BTreeMap<Key, Open>,
}

impl Bench {
    /// None in hand yet. `before` are the episodes that were open when `judge` stopped.
    pub fn new(judge: impl Into<String>, before: impl IntoIterator<Item = Open>) -> Self {
        let before = before.into_iter().map(|open| (open.key.clone(), open)).collect();
        Self { judge: judge.into(), standing: BTreeMap::new(), before }
    }

    /// The rules of `app` are these from now on. One that did not change goes on where it is;
    /// one that is other now begins anew, and its open episode is over, as that of one that is
    /// gone.
    pub fn set(
        &mut self,
        now: Time,
        app: &AppName,
        rules: impl IntoIterator<Item = (RuleName, Rule)>,
    ) -> Vec<Due> {
        let mut rules: BTreeMap<RuleName, Rule> = rules.into_iter().collect();
        let mut over = Vec::new();
        let mut end = |standing: Standing, why: &str| {
            over.extend(standing.open.map(|open| Due {
                verdict: Verdict::End,
                open,
                rule: standing.rule,
                why: why.to_owned(),
            }));
        };
        let own: Vec<Key> = self.standing.keys().filter(|key| key.app == *app).cloned().collect();
        for key in own {
            let same = self.standing.get(&key).map(|s| Some(&s.rule) == rules.get(&key.rule));
            if same == Some(true) {
                rules.remove(&key.rule);
            } else if let Some(standing) = self.standing.remove(&key) {
                let is_gone = !rules.contains_key(&key.rule);
                end(
                    standing,
                    if is_gone {
                        "there is no such rule any more"
                    } else {
                        "the rule is another one now"
                    },
                );
            }
        }
        for (rule, sentence) in rules {
            let key = Key { app: app.clone(), rule };
            let open = self.before.remove(&key);
            let written = sentence.to_string();
            // One of a version that did not say has to be believed.
            let is_same = |open: &Open| open.sentence.is_empty() || open.sentence == written;
            let (open, other) = match open {
                Some(open) if !is_same(&open) => (None, Some(open)),
                open => (open, None),
            };
            over.extend(other.and_then(|open| orphan(open, "the rule is another one now")));
            let episode = match open {
                Some(_) => Episode::under_way(now),
                None => Episode::default(),
            };
            self.standing.insert(key, Standing { rule: sentence, episode, open });
        }
        // What was open of a rule that is gone is over as well.
        let gone: Vec<Key> = self.before.keys().filter(|key| key.app == *app).cloned().collect();
        for open in gone.iter().filter_map(|key| self.before.remove(key)).collect::<Vec<_>>() {
            over.extend(orphan(open, "there is no such rule any more"));
        }
        over
    }

    /// There are no rules of other applications than `apps` any more.
    pub fn keep(&mut self, now: Time, apps: impl Fn(&AppName) -> bool) -> Vec<Due> {
        let all = self.standing.keys().chain(self.before.keys());
        let mut gone: BTreeSet<AppName> = all.map(|key| key.app.clone()).collect();
        gone.retain(|app| !apps(app));
        gone.iter().flat_map(|app| self.set(now, app, [])).collect()
    }

    /// Every rule in hand.
    pub fn rules(&self) -> impl Iterator<Item = (&Key, &Rule)> {
        self.standing.iter().map(|(key, standing)| (key, &standing.rule))
    }

    /// The episodes that are open, those of before included.
    pub fn open(&self) -> impl Iterator<Item = &Open> {
        let open = self.standing.values().filter_map(|standing| standing.open.as_ref());
        open.chain(self.before.values())
    }

    /// Remembers whether the episode of `key` has taken its member out of service.
    pub fn took_out(&mut self, key: &Key, episode: &str, took_out: bool) {
        let open = self.standing.get_mut(key).and_then(|standing| standing.open.as_mut());
        if let Some(open) = open.filter(|open| open.episode == episode) {
            open.took_out = took_out;
        }
    }

    /// What silences have to do with what is `due`: what begins and is silenced is put off, and what
    /// was put off is due once it is silenced no more, if it still acts. That is what is returned.
    pub fn hush(&mut self, due: &mut [Due], is_silenced: impl Fn(&Key) -> bool) -> Vec<Due> {
        for due in due.iter_mut().filter(|due| due.verdict == Verdict::Begin) {
            let standing = self.standing.get_mut(&due.open.key);
            if let Some(open) = standing.and_then(|standing| standing.open.as_mut())
                && open.episode == due.open.episode
                && is_silenced(&open.key)
            {
                (open.put_off, due.open.put_off) = (true, true);
            }
        }
        let mut late = Vec::new();
        for (key, Standing { rule, open, .. }) in &mut self.standing {
            if let Some(open) = open.as_mut().filter(|open| open.put_off && !is_silenced(key)) {
                open.put_off = false;
                let why = open.why.clone();
                let (open, rule) = (open.clone(), rule.clone());
                late.push(Due { verdict: Verdict::Begin, open, rule, why });
            }
        }
        late
    }

    /// Looks at each rule once. Times never go backwards; `at` is for the names of episodes
    /// and for people.
    pub fn look(&mut self, now: Time, at: WallTime, readings: &impl Readings) -> Vec<Due> {
        let mut due = Vec::new();
        for (key, standing) in &mut self.standing {
            let Some(verdict) = standing.episode.look(now, &standing.rule, readings) else {
                continue;
            };
            let held = match (verdict, &standing.rule.until) {
                (Verdict::End, Some(until)) => until,
                _ => &standing.rule.when,
            };
            let why = held.told(readings);
            let fresh = || Open {
                key: key.clone(),
                episode: format!("{}-{}-{}-{}", key.app, key.rule, self.judge, at.0),
                began: at,
                severity: standing.rule.severity,
                why: why.clone(),
                took_out: false,
                sentence: standing.rule.to_string(),
                put_off: false,
            };
            let open = match verdict {
                Verdict::Begin => standing.open.insert(fresh()).clone(),
                Verdict::End => standing.open.take().unwrap_or_else(fresh),
                Verdict::Repeat => standing.open.get_or_insert_with(fresh).clone(),
                Verdict::HeldBack => fresh(),
            };
            due.push(Due { verdict, open, rule: standing.rule.clone(), why });
        }
        due
    }
}

/// The end of an episode of before whose rule is not there any more. None if nobody knows what it was.
fn orphan(open: Open, why: &str) -> Option<Due> {
    let rule = parse(&open.sentence).ok()?;
    Some(Due { verdict: Verdict::End, open, rule, why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::proto::rule::{Action, During, Measured, judge::Number};

    /// All that is measured is this.
    #[derive(Default)]
    struct All(RefCell<Option<f64>>);

    impl Readings for All {
        fn numbers(&self, _: &Measured) -> Vec<Option<Number>> {
            vec![self.0.borrow().map(|value| Number { value, total: None })]
        }

        fn is_during(&self, _: &During) -> Option<bool> {
            Some(true)
        }
    }

    fn rules(all: &[(&str, &str)]) -> Vec<(RuleName, Rule)> {
        let read =
            |(name, text): &(&str, &str)| (RuleName::parse(name).unwrap(), parse(text).unwrap());
        all.iter().map(read).collect()
    }

    fn at(seconds: u64) -> (Time, WallTime) {
        (Time(seconds * 1_000_000), WallTime(1_760_000_000_000 + seconds * 1_000))
    }

    fn looks(bench: &mut Bench, seconds: u64, value: f64) -> Vec<(String, Verdict, String)> {
        let (now, wall) = at(seconds);
        let due = bench.look(now, wall, &All(RefCell::new(Some(value))));
        due.into_iter().map(|d| (d.open.episode, d.verdict, d.why)).collect()
    }

    #[test]
    fn an_episode_has_one_name_from_its_beginning_to_its_end() {
        let app = AppName::parse("ops").unwrap();
        let mut bench = Bench::new("alpha", []);
        let hot = [("hot", "critical when cpu > 90% until < 75% then log repeat 1m")];
        assert!(bench.set(at(0).0, &app, rules(&hot)).is_empty());
        assert!(looks(&mut bench, 1, 50.0).is_empty());
        let begun = looks(&mut bench, 2, 95.25);
        let name = "ops-hot-alpha-1760000002000".to_owned();
        assert_eq!(begun, [(name.clone(), Verdict::Begin, "cpu > 90% (95.25%)".to_owned())]);
        assert_eq!(
            bench.open().map(|open| open.severity).collect::<Vec<_>>(),
            [Some(Severity::Critical)]
        );
        // The same rule is told again, as a version brings it: nothing changes.
        assert!(bench.set(at(3).0, &app, rules(&hot)).is_empty());
        assert!(looks(&mut bench, 4, 80.0).is_empty());
        assert_eq!(looks(&mut bench, 62, 80.0)[0].1, Verdict::Repeat);
        let ended = looks(&mut bench, 63, 70.0);
        assert_eq!(ended, [(name.clone(), Verdict::End, "cpu < 75% (70%)".to_owned())]);
        assert_eq!(bench.open().count(), 0);
        assert_ne!(looks(&mut bench, 64, 99.0)[0].0, name);
    }

    #[test]
    fn what_is_silenced_is_put_off_until_it_is_not() {
        let app = AppName::parse("ops").unwrap();
        let hot = [("hot", "when cpu > 90% then out"), ("odd", "when cpu > 95% then log")];
        let mut bench = Bench::new("alpha", []);
        bench.set(at(0).0, &app, rules(&hot));
        let look = |bench: &mut Bench, seconds: u64, value: f64, silenced: &[&str]| {
            let mut due = bench.look(at(seconds).0, at(seconds).1, &All(RefCell::new(Some(value))));
            let late = bench.hush(&mut due, |key| silenced.contains(&key.rule.as_str()));
            let said = |due: Due| (due.open.key.rule.to_string(), due.verdict, due.open.put_off);
            (due.into_iter().map(said).collect::<Vec<_>>(), late)
        };
        let (due, late) = look(&mut bench, 1, 99.0, &["hot"]);
        let (of_hot, of_odd) = ("hot".to_owned(), "odd".to_owned());
        assert_eq!(due, [(of_hot.clone(), Verdict::Begin, true), (of_odd, Verdict::Begin, false)]);
        assert!(late.is_empty());
        assert!(look(&mut bench, 2, 99.0, &["hot", "odd"]).1.is_empty(), "odd has begun");

        // A member that is started again knows what it has put off.
        let json = serde_json::to_string(&bench.open().collect::<Vec<_>>()).unwrap();
        let mut bench = Bench::new("alpha", serde_json::from_str::<Vec<Open>>(&json).unwrap());
        bench.set(at(0).0, &app, rules(&hot));
        assert!(look(&mut bench, 3, 99.0, &["hot"]).1.is_empty());
        let (due, late) = look(&mut bench, 4, 99.0, &[]);
        assert!(due.is_empty());
        assert_eq!(late.len(), 1);
        assert_eq!((late[0].verdict, late[0].open.put_off), (Verdict::Begin, false));
        assert_eq!(late[0].open.began, at(1).1, "it is the same episode");
        assert!(look(&mut bench, 5, 99.0, &[]).1.is_empty(), "it is due once");
        // Silenced now, it ends as any other.
        let (due, _) = look(&mut bench, 6, 50.0, &["hot"]);
        assert_eq!(due[0], (of_hot.clone(), Verdict::End, false));

        // What is over before the silence is was never done.
        look(&mut bench, 7, 92.0, &["hot"]);
        let (due, late) = look(&mut bench, 8, 50.0, &[]);
        assert_eq!((due, late), (vec![(of_hot, Verdict::End, true)], vec![]));
    }

    #[test]
    fn what_is_open_outlives_its_judge_and_not_its_rule() {
        let app = AppName::parse("ops").unwrap();
        let hot = [("hot", "when cpu > 90% then out"), ("odd", "when load > 1 then log")];
        let mut bench = Bench::new("alpha", []);
        bench.set(at(0).0, &app, rules(&hot));
        let begun = bench.look(at(1).0, at(1).1, &All(RefCell::new(Some(95.0))));
        assert_eq!(begun.len(), 2);
        bench.took_out(&begun[0].open.key, &begun[0].open.episode, true);
        bench.took_out(&begun[0].open.key, "another", false);
        let kept: Vec<Open> = bench.open().cloned().collect();
        let json = serde_json::to_string(&kept).unwrap();
        let kept: Vec<Open> = serde_json::from_str(&json).unwrap();

        let mut bench = Bench::new("alpha", kept.clone());
        assert_eq!(bench.open().count(), 2, "before its rule is seen it is open as well");
        let over = bench.set(at(0).0, &app, rules(&hot[..1]));
        assert_eq!((over.len(), over[0].verdict, &over[0].open), (1, Verdict::End, &kept[1]));
        assert_eq!(over[0].rule.to_string(), hot[1].1);
        assert!(looks(&mut bench, 1, 95.0).is_empty(), "it is not begun again");
        let open: Vec<&Open> = bench.open().collect();
        assert_eq!(open, [&kept[0]], "the rule of the other one is gone");
        let due = bench.look(at(2).0, at(2).1, &All(RefCell::new(Some(5.0))));
        assert_eq!((due[0].verdict, &due[0].open), (Verdict::End, &kept[0]));
        assert!(due[0].open.took_out);

        // Another one that came while it was away, and an application that went, end what was.
        let mut bench = Bench::new("alpha", kept.clone());
        let over = bench.set(at(0).0, &app, rules(&[("hot", "when cpu > 99% then log"), hot[1]]));
        assert_eq!((over.len(), &over[0].open), (1, &kept[0]));
        assert_eq!(over[0].rule.then, [Action::Out]);
        let mut bench = Bench::new("alpha", kept.clone());
        assert_eq!(bench.keep(at(0).0, |_| false).len(), 2);

        // Another rule of the same name ends what was, and so does none at all.
        let mut bench = Bench::new("alpha", []);
        bench.set(at(2).0, &app, rules(&hot[..1]));
        looks(&mut bench, 3, 95.0);
        let other = [("hot", "when cpu > 99% then log")];
        let over = bench.set(at(4).0, &app, rules(&other));
        assert_eq!(
            (over[0].verdict, over[0].why.as_str()),
            (Verdict::End, "the rule is another one now")
        );
        looks(&mut bench, 5, 100.0);
        let over = bench.keep(at(6).0, |_| false);
        assert_eq!((over.len(), over[0].why.as_str()), (1, "there is no such rule any more"));
        assert_eq!((bench.rules().count(), bench.open().count()), (0, 0));
    }
}
