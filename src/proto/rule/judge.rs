//! Whether a rule acts: one [`Episode`] of one rule, of one member or of the cluster.
//!
//! What was not measured is *unknown*, and unknown never acts and never ends anything: logic
//! with three values (Kleene). A condition that has to last goes on lasting over a hole of up
//! to [`HOLE_MAX`], and begins anew after a longer one, because nobody knows what was then.

use std::{collections::VecDeque, time::Duration};

use super::{Compare, Condition, During, Held, Measured, Op, Options, Rule, Scope};
use crate::base::Time;

/// The longest hole in what is known that a condition lasts over: some samples, as while a
/// member is busy, and not an outage.
pub const HOLE_MAX: Duration = Duration::from_secs(30);

/// A number that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// In the unit of what is measured.
    pub value: f64,
    /// How much there is in all, where that is known.
    pub total: Option<f64>,
}

/// What is known at a moment.
pub trait Readings {
    /// What is measured. One number for [`Scope::Member`] and [`Scope::Cluster`], one of each
    /// member for the others; `None` where it is not known.
    fn numbers(&self, of: &Measured) -> Vec<Option<Number>>;

    /// Whether it is that time; `None` where nobody knows the time or the zone.
    fn is_during(&self, during: &During) -> Option<bool>;
}

impl Condition {
    /// Whether it holds, as far as that is known.
    pub fn holds(&self, readings: &impl Readings) -> Option<bool> {
        match self {
            Self::All(all) => and(all.iter().map(|one| one.holds(readings))),
            Self::Any(all) => or(all.iter().map(|one| one.holds(readings))),
            Self::Not(inner) => inner.holds(readings).map(|holds| !holds),
            Self::Compare(compare) => compare.holds(readings),
            Self::During(during) => readings.is_during(during),
        }
    }

    /// The comparisons in it, with what was measured: for people, who ask why.
    pub fn measured<'a>(
        &'a self,
        readings: &impl Readings,
        into: &mut Vec<(&'a Compare, Vec<Option<Number>>)>,
    ) {
        match self {
            Self::All(all) | Self::Any(all) => {
                all.iter().for_each(|one| one.measured(readings, into));
            }
            Self::Not(inner) => inner.measured(readings, into),
            Self::Compare(compare) => into.push((compare, readings.numbers(&compare.of))),
            Self::During(_) => {}
        }
    }
}

impl Compare {
    fn holds(&self, readings: &impl Readings) -> Option<bool> {
        let numbers = readings.numbers(&self.of);
        let mut each = numbers.into_iter().map(|number| self.is_met(number?));
        match self.of.scope {
            Scope::Member | Scope::Cluster => each.next()?,
            Scope::Any => or(each),
            // Of nobody it says nothing, as little as of somebody who is silent.
            Scope::Every => {
                let mut each = each.peekable();
                each.peek()?;
                and(each)
            }
        }
    }

    fn is_met(&self, number: Number) -> Option<bool> {
        let value = match (self.bound.of_total, number.total) {
            (false, _) => number.value,
            (true, Some(total)) if total > 0.0 => number.value / total * 100.0,
            (true, _) => return None,
        };
        let bound = self.bound.value;
        Some(match self.op {
            Op::Below => value < bound,
            Op::AtMost => value <= bound,
            Op::Above => value > bound,
            Op::AtLeast => value >= bound,
        })
    }
}

/// True if all are, false if one is not, and else unknown.
fn and(all: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(true);
    for one in all {
        match one {
            Some(false) => return Some(false),
            Some(true) => {}
            None => result = None,
        }
    }
    result
}

/// True if one is, false if none is, and else unknown.
fn or(all: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    and(all.map(|one| one.map(|holds| !holds))).map(|holds| !holds)
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The actions of the rule are due: it began.
    Begin,
    /// It goes on, and is to be said again.
    Repeat,
    /// It is over: what was done can be undone.
    End,
    /// It would begin, and `cooldown` or `at-most` says no. Told once.
    HeldBack,
}

/// Where one rule stands.
#[derive(Clone, Debug, Default)]
pub struct Episode {
    lasting: Lasting,
    /// Since when it acts.
    began: Option<Time>,
    said: Option<Time>,
    ended: Option<Time>,
    /// Beginnings that `at-most` counts.
    beginnings: VecDeque<Time>,
    held_back: bool,
}

/// What several judges of one rule agree on, each on its own clock.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// Since when it acts, if it does.
    pub began: Option<Time>,
    /// When that was said last.
    pub said: Option<Time>,
    /// When it acted last.
    pub ended: Option<Time>,
    /// When it began, oldest first.
    pub beginnings: VecDeque<Time>,
}

/// For how long a condition has held.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    since: Option<Time>,
    known: Option<Time>,
}

impl Lasting {
    /// Whether `held` has held for long enough now.
    fn look(&mut self, now: Time, held: &Held, holds: Option<bool>) -> bool {
        match holds {
            Some(true) => {
                self.known = Some(now);
                let since = *self.since.get_or_insert(now);
                now.since(since) >= held.lasting
            }
            Some(false) => {
                *self = Self::default();
                false
            }
            None => {
                if self.known.is_none_or(|known| now.since(known) > HOLE_MAX) {
                    *self = Self::default();
                }
                false
            }
        }
    }
}

impl Episode {
    /// One that goes on: another judge has begun it at `began`, on this one's clock.
    pub fn under_way(began: Time) -> Self {
        Self { began: Some(began), said: Some(began), ..Self::default() }
    }

    /// Takes over what all agree on. For how long a condition has held it knows itself, unless it
    /// has begun to act meanwhile, or has ceased to.
    pub fn agree(&mut self, with: Agreed) {
        let Agreed { began, said, ended, beginnings } = with;
        if self.began.is_some() != began.is_some() {
            (self.lasting, self.held_back) = (Lasting::default(), false);
        }
        (self.began, self.said, self.ended) = (began, said.or(began), ended);
        self.beginnings = beginnings;
    }

    /// Since when it acts, if it does.
    pub fn began(&self) -> Option<Time> {
        self.began
    }

    /// Looks once. Times never go backwards.
    pub fn look(&mut self, now: Time, rule: &Rule, readings: &impl Readings) -> Option<Verdict> {
        if self.began.is_some() {
            return self.look_for_end(now, rule, readings);
        }
        let holds = rule.when.condition.holds(readings);
        if !self.lasting.look(now, &rule.when, holds) {
            self.held_back &= holds != Some(false);
            return None;
        }
        if !self.may_begin(now, rule.options) {
            return (!std::mem::replace(&mut self.held_back, true)).then_some(Verdict::HeldBack);
        }
        if let Some((times, _)) = rule.options.at_most {
            self.beginnings.push_back(now);
            while self.beginnings.len() > usize::from(times) {
                self.beginnings.pop_front();
            }
        }
        (self.began, self.said, self.lasting) = (Some(now), Some(now), Lasting::default());
        self.held_back = false;
        Some(Verdict::Begin)
    }

    fn look_for_end(
        &mut self,
        now: Time,
        rule: &Rule,
        readings: &impl Readings,
    ) -> Option<Verdict> {
        let is_over = match &rule.until {
            Some(until) => self.lasting.look(now, until, until.condition.holds(readings)),
            None => rule.when.condition.holds(readings) == Some(false),
        };
        if is_over {
            (self.began, self.said, self.lasting) = (None, None, Lasting::default());
            self.ended = Some(now);
            return Some(Verdict::End);
        }
        let every = rule.options.repeat?;
        if now.since(self.said?) < every {
            return None;
        }
        self.said = Some(now);
        Some(Verdict::Repeat)
    }

    /// Whether `cooldown` and `at-most` let it begin.
    fn may_begin(&self, now: Time, options: Options) -> bool {
        let cooled = match (options.cooldown, self.ended) {
            (Some(cooldown), Some(ended)) => now.since(ended) >= cooldown,
            _ => true,
        };
        let seldom = options.at_most.is_none_or(|(times, within)| {
            let recent = self.beginnings.iter().filter(|at| now.since(**at) < within);
            recent.count() < usize::from(times)
        });
        cooled && seldom
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::rule::parse;

    /// Says what the test says, by the name of the series.
    #[derive(Default)]
    struct Says(RefCell<Vec<(&'static str, Numbers)>>);

    type Numbers = Vec<Option<f64>>;

    impl Says {
        fn set(&self, name: &'static str, numbers: &[Option<f64>]) {
            self.0.borrow_mut().retain(|(other, _)| *other != name);
            self.0.borrow_mut().push((name, numbers.to_vec()));
        }
    }

    impl Readings for Says {
        fn numbers(&self, of: &Measured) -> Vec<Option<Number>> {
            let text = of.to_string();
            let all = self.0.borrow();
            let found = all.iter().find(|(name, _)| text.contains(name));
            let number = |value: f64| Number { value, total: Some(200.0) };
            found.map(|(_, n)| n.iter().map(|n| n.map(number)).collect()).unwrap_or(vec![None])
        }

        fn is_during(&self, _: &During) -> Option<bool> {
            None
        }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    /// What came of looking every second from `from` up to `to`, and when.
    fn looks(
        episode: &mut Episode,
        rule: &Rule,
        says: &Says,
        from: u64,
        to: u64,
    ) -> Vec<(u64, Verdict)> {
        let look = |second| Some((second, episode.look(at(second), rule, says)?));
        (from..to).filter_map(look).collect()
    }

    #[test]
    fn it_begins_once_and_ends_once_with_hysteresis() {
        let text = "when cpu > 90% for 2m until < 75% for 1m then log repeat 5m";
        let (rule, says) = (parse(text).unwrap(), Says::default());
        let mut episode = Episode::default();
        says.set("cpu", &[Some(95.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 0, 119), []);
        says.set("cpu", &[Some(80.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 119, 120), [], "not without a break");
        says.set("cpu", &[Some(95.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 120, 300), [(240, Verdict::Begin)]);
        // Between the two bounds nothing changes, but that it is said again.
        says.set("cpu", &[Some(80.0)]);
        let said = [(540, Verdict::Repeat), (840, Verdict::Repeat)];
        assert_eq!(looks(&mut episode, &rule, &says, 300, 900), said);
        says.set("cpu", &[Some(10.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 900, 1_100), [(960, Verdict::End)]);
        assert_eq!(episode.began(), None);
    }

    #[test]
    fn what_is_unknown_neither_acts_nor_ends() {
        let (rule, says) = (parse("when cpu > 90% for 1m then log").unwrap(), Says::default());
        let mut episode = Episode::default();
        assert_eq!(looks(&mut episode, &rule, &says, 0, 500), []);
        // A short hole is lasted over, a long one is not.
        says.set("cpu", &[Some(95.0)]);
        looks(&mut episode, &rule, &says, 500, 531);
        says.set("cpu", &[None]);
        assert_eq!(looks(&mut episode, &rule, &says, 531, 560), []);
        says.set("cpu", &[Some(95.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 560, 570), [(560, Verdict::Begin)]);
        says.set("cpu", &[None]);
        assert_eq!(looks(&mut episode, &rule, &says, 570, 900), [], "it may still be so");
        says.set("cpu", &[Some(9.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 900, 901), [(900, Verdict::End)]);
        says.set("cpu", &[Some(95.0)]);
        looks(&mut episode, &rule, &says, 901, 950);
        says.set("cpu", &[None]);
        looks(&mut episode, &rule, &says, 950, 990);
        says.set("cpu", &[Some(95.0)]);
        assert_eq!(looks(&mut episode, &rule, &says, 990, 1_060), [(1_050, Verdict::Begin)]);
    }

    #[test]
    fn it_is_held_back_and_says_so_once() {
        let says = Says::default();
        let rule = parse("when cpu > 90% then log cooldown 1m at-most 2 in 1h").unwrap();
        let mut episode = Episode::default();
        let mut went = Vec::new();
        for second in 0..4_000 {
            // Up for half a minute, and down for as long.
            says.set("cpu", &[Some(if second / 30 % 2 == 0 { 95.0 } else { 5.0 })]);
            went.extend(looks(&mut episode, &rule, &says, second, second + 1));
        }
        let begins = went.iter().filter(|(_, v)| *v == Verdict::Begin).map(|(at, _)| *at);
        assert_eq!(begins.collect::<Vec<_>>(), [0, 120, 3_600, 3_720]);
        assert!(
            went.contains(&(60, Verdict::HeldBack)) && !went.contains(&(61, Verdict::HeldBack))
        );
        // One that another judge began is not begun again, and ends as any.
        let mut taken_over = Episode::under_way(at(4_000));
        says.set("cpu", &[Some(95.0)]);
        assert_eq!(looks(&mut taken_over, &rule, &says, 4_000, 4_100), []);
        says.set("cpu", &[Some(5.0)]);
        assert_eq!(looks(&mut taken_over, &rule, &says, 4_100, 4_101), [(4_100, Verdict::End)]);
    }

    #[test]
    fn members_count_one_by_one_or_all_together() {
        let says = Says::default();
        let holds = |text: &str| {
            parse(&format!("when {text} then log")).unwrap().when.condition.holds(&says)
        };
        says.set("load", &[Some(1.0), Some(9.0)]);
        assert_eq!((holds("any load > 5"), holds("every load > 5")), (Some(true), Some(false)));
        says.set("load", &[Some(1.0), None]);
        assert_eq!((holds("any load > 5"), holds("every load > 5")), (None, Some(false)));
        says.set("load", &[Some(9.0), None]);
        assert_eq!((holds("any load > 5"), holds("every load > 5")), (Some(true), None));
        says.set("load", &[]);
        assert_eq!((holds("any load > 5"), holds("every load > 5")), (Some(false), None));
        // As a share of all there is, which is 200.
        says.set("disk.free", &[Some(30.0)]);
        assert_eq!(holds("disk.free /srv < 16%"), Some(true));
        assert_eq!(holds("disk.free /srv < 15%"), Some(false));
        assert_eq!(
            holds("not (disk.free /srv < 15% or cpu > 1%)"),
            None,
            "of cpu nothing is known"
        );
        assert_eq!(holds("disk.free /srv < 15% and cpu > 1%"), Some(false));
    }

    proptest! {
        /// However it goes, beginnings and ends take turns, and each beginning was true for as
        /// long as it had to be.
        #[test]
        fn beginnings_and_ends_take_turns(
            levels in prop::collection::vec(prop::option::of(0_u8..=100), 1..400),
        ) {
            let text = "when cpu > 50% for 5s until < 30% for 3s then log repeat 1m";
            let (rule, says) = (parse(text).unwrap(), Says::default());
            let (mut episode, mut acts) = (Episode::default(), false);
            for (second, level) in levels.iter().enumerate() {
                says.set("cpu", &[level.map(f64::from)]);
                match episode.look(at(second as u64), &rule, &says) {
                    Some(Verdict::Begin) => {
                        prop_assert!(!acts && second >= 5);
                        let known = levels[second - 5..=second].iter().flatten();
                        prop_assert!(known.into_iter().all(|level| *level > 50));
                        acts = true;
                    }
                    Some(Verdict::End) => {
                        prop_assert!(acts);
                        let known = levels[second - 3..=second].iter().flatten();
                        prop_assert!(known.into_iter().all(|level| *level < 30));
                        acts = false;
                    }
                    Some(Verdict::Repeat) => prop_assert!(acts),
                    Some(Verdict::HeldBack) => prop_assert!(false, "there is nothing to hold it"),
                    None => {}
                }
            }
        }
    }
}
