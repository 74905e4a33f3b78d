//! What a person wants to know of a run: who learned of a failure when, who
//! was accused falsely, what was sent, how long changes took.
//!
//! It watches and never tells a member anything. The same for whole members
//! and for membership alone.

use serde::Serialize;

use super::scenario::{Scenario, WELL_AFTER};

/// Points of a curve that a report keeps.
const POINTS_MAX: usize = 200;
/// The cluster is idle until something is done; shorter than this says nothing.
const IDLE_MIN_US: u64 = 3_000_000;

/// What came of one run. Times are in milliseconds from when all knew each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// How many members there were at first.
    pub members: usize,
    /// What of each of them was run: `whole` or `membership`.
    pub engine: &'static str,
    /// Makes the same run again.
    pub seed: u64,
    /// Virtual time.
    pub virtual_ms: f64,
    /// Events that were handled.
    pub steps: u64,
    /// Over everything that was sent: the same for the same seed.
    pub trace: String,
    /// What took a member away, and who learned of it when.
    pub failures: Vec<Spread>,
    /// What brought one back, and when those knew who had missed it.
    pub returns: Vec<Spread>,
    /// Of healthy members that somebody declared down.
    pub false_accusations: Accusations,
    /// What each member sent before anything happened; none if that was for
    /// less than three seconds.
    pub idle: Option<Traffic>,
    /// What each member sent, over the whole run.
    pub traffic: Traffic,
    /// From the request to the commit.
    pub commits: Times,
    /// From a change by hand to the right content.
    pub repairs: Times,
    /// From the request to publish until all live members have switched.
    pub spreads: Times,
    /// What happened, in lines.
    pub story: Vec<String>,
    /// The invariant that was broken, and how.
    pub violation: Option<String>,
    /// What is not well at the end.
    pub trouble: Option<String>,
}

impl Measured {
    /// The mean of `of` over all failures, in milliseconds; none if one of them has none.
    pub fn mean(&self, of: impl Fn(&Spread) -> Option<f64>) -> Option<f64> {
        let times: Option<Vec<f64>> = self.failures.iter().map(of).collect();
        let times = times.filter(|times| !times.is_empty())?;
        Some(times.iter().sum::<f64>() / times.len() as f64)
    }

    /// The longest that a failure took until all knew, in milliseconds; none if some
    /// never did.
    pub fn slowest(&self) -> Option<f64> {
        let times: Option<Vec<f64>> = self.failures.iter().map(|spread| spread.all_ms).collect();
        times?.into_iter().reduce(f64::max)
    }
}

/// How news of one member spread among the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Of whom.
    pub member: String,
    /// What happened to it.
    pub what: &'static str,
    /// When.
    pub at_ms: f64,
    /// How many were to learn of it: those who ran and were within reach of
    /// the news all the time.
    pub audience: usize,
    /// How many did.
    pub knew: usize,
    /// Until the first one did.
    pub first_ms: Option<f64>,
    /// Until half of them did.
    pub half_ms: Option<f64>,
    /// Until all did; none if some never did.
    pub all_ms: Option<f64>,
    /// Milliseconds, and how many knew then.
    pub curve: Vec<(f64, usize)>,
}

/// Verdicts against the healthy: members that ran, did not stand still, and
/// were within the accuser's reach, for five seconds and longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accusations {
    /// Over all accusers.
    pub verdicts: u64,
    /// How many were accused.
    pub members: usize,
}

/// What a member sent, by second of its running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// On average over the members.
    pub bytes_mean: f64,
    /// Of the one that sent most.
    pub bytes_max: f64,
    /// On average over the members.
    pub packets_mean: f64,
    /// Of the one that sent most.
    pub packets_max: f64,
}

/// How long something took, again and again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How often it was begun.
    pub begun: usize,
    /// How often it came to its end.
    pub done: usize,
    /// The middle one.
    pub median_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

impl Times {
    fn of(begun: usize, took_us: &[u64]) -> Self {
        let mut sorted = took_us.to_vec();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).map(|us| ms(*us));
        Self {
            begun,
            done: sorted.len(),
            median_ms: at(sorted.len() / 2),
            max_ms: at(sorted.len().wrapping_sub(1)),
        }
    }
}

/// One of the things whose duration is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    Commit,
    Repair,
    Spread,
}

/// What is known of one member.
#[derive(Clone, Debug, Default)]
struct Who {
    up: bool,
    still: bool,
    /// Since when it is as it is.
    since: u64,
    up_us: u64,
    bytes: u64,
    packets: u64,
    accused: bool,
    /// The news of it that still spreads.
    news: Option<usize>,
}

#[derive(Clone, Debug)]
struct Open {
    member: usize,
    what: &'static str,
    is_return: bool,
    at: u64,
    /// Who is to learn of it, and whether it did.
    audience: Vec<Option<Option<u64>>>,
}

/// Watches one run.
pub(super) struct Measure {
    begun: u64,
    members: usize,
    engine: &'static str,
    seed: u64,
    who: Vec<Who>,
    news: Vec<Open>,
    verdicts: u64,
    /// When the last cut ended.
    healed: u64,
    idle: Option<Option<Traffic>>,
    timed: [(usize, Vec<u64>); 3],
    story: Vec<String>,
}

impl Measure {
    /// From `now` on.
    pub fn new(scenario: &Scenario, now: u64) -> Self {
        Self {
            begun: now,
            members: scenario.members,
            engine: scenario.engine.name(),
            seed: scenario.seed,
            who: Vec::new(),
            news: Vec::new(),
            verdicts: 0,
            healed: 0,
            idle: None,
            timed: Default::default(),
            story: Vec::new(),
        }
    }

    /// Everything before `now` was preparation: what was sent does not count.
    pub fn begin(&mut self, now: u64) {
        self.begun = now;
        self.story.clear();
        self.timed = Default::default();
        for who in &mut self.who {
            (who.up_us, who.bytes, who.packets) = (0, 0, 0);
            // Well from the beginning.
            who.since = if who.up { now.saturating_sub(WELL_US) } else { now };
        }
    }

    /// A line of the story.
    pub fn tell(&mut self, now: u64, text: &str) {
        let at = now.saturating_sub(self.begun) as f64 / 1e6;
        self.story.push(format!("{at:>10.3} s  {text}"));
    }

    fn who(&mut self, member: usize) -> &mut Who {
        if self.who.len() <= member {
            self.who.resize(member + 1, Who::default());
        }
        &mut self.who[member]
    }

    /// The member runs and does not stand still, or no longer.
    pub fn is(&mut self, now: u64, member: usize, up: bool, still: bool) {
        let begun = self.begun;
        let who = self.who(member);
        if (who.up, who.still) == (up, still) {
            return;
        }
        if who.up {
            who.up_us += now.saturating_sub(who.since.max(begun));
        }
        (who.up, who.still, who.since) = (up, still, now);
        if !up || still {
            // Whom no news can reach is not waited for.
            for open in &mut self.news {
                if let Some(slot) = open.audience.get_mut(member)
                    && *slot == Some(None)
                {
                    *slot = None;
                }
            }
        }
    }

    /// Whether the member runs and does not stand still.
    pub fn is_well(&self, member: usize) -> bool {
        self.who.get(member).is_some_and(|who| who.up && !who.still)
    }

    /// A member sent something.
    pub fn sent(&mut self, member: usize, bytes: usize) {
        let who = self.who(member);
        who.bytes += bytes as u64;
        who.packets += 1;
    }

    /// Something is done or happens for the first time.
    pub fn disturbed(&mut self, now: u64) {
        if self.idle.is_none() {
            let long = now.saturating_sub(self.begun) >= IDLE_MIN_US;
            self.idle = Some(long.then(|| self.traffic(now)));
        }
    }

    /// All cuts are over.
    pub fn healed(&mut self, now: u64) {
        self.healed = now;
    }

    /// `member` fails, and everybody well in `audience` is to learn of it.
    pub fn fails(
        &mut self,
        now: u64,
        member: usize,
        what: &'static str,
        audience: impl Fn(usize) -> bool,
    ) {
        self.disturbed(now);
        let all = (0..self.who.len())
            .map(|o| (o != member && self.is_well(o) && audience(o)).then_some(None))
            .collect();
        let open = Open { member, what, is_return: false, at: now, audience: all };
        self.who(member).news = Some(self.news.len());
        self.news.push(open);
    }

    /// `member` is back. Who did not know that it was away has nothing to learn.
    pub fn returns(&mut self, now: u64, member: usize, what: &'static str) {
        self.disturbed(now);
        let Some(index) = self.who(member).news.take() else { return };
        let open = &mut self.news[index];
        if open.is_return {
            return;
        }
        let knew: Vec<bool> = open.audience.iter().map(|a| matches!(a, Some(Some(_)))).collect();
        for slot in &mut open.audience {
            // It came back before they could know.
            if *slot == Some(None) {
                *slot = None;
            }
        }
        let audience: Vec<_> =
            knew.iter().enumerate().map(|(o, k)| (*k && self.is_well(o)).then_some(None)).collect();
        if audience.iter().any(Option::is_some) {
            self.who(member).news = Some(self.news.len());
            self.news.push(Open { member, what, is_return: true, at: now, audience });
        }
    }

    /// What `observer` thinks of `about` from now on. `reachable` says whether
    /// the two reach each other.
    pub fn sees(&mut self, now: u64, observer: usize, about: usize, live: bool, reachable: bool) {
        let who = self.who(about).clone();
        if let Some(open) = who.news.and_then(|index| self.news.get_mut(index))
            && open.is_return == live
            && let Some(slot @ Some(None)) = open.audience.get_mut(observer)
        {
            *slot = Some(Some(now));
        }
        let well = who.up && !who.still && reachable;
        let long = now.saturating_sub(who.since.max(self.healed)) >= WELL_US;
        if !live && well && long {
            self.verdicts += 1;
            if !std::mem::replace(&mut self.who(about).accused, true) || self.verdicts < 50 {
                let text =
                    format!("m{} takes m{} for down, which is well", observer + 1, about + 1);
                self.tell(now, &text);
            }
        }
    }

    /// Something whose duration counts was begun.
    pub fn begins(&mut self, what: Timed) {
        self.timed[what as usize].0 += 1;
    }

    /// It took so long.
    pub fn took(&mut self, what: Timed, us: u64) {
        self.timed[what as usize].1.push(us);
    }

    fn traffic(&self, now: u64) -> Traffic {
        let mut sum = (0.0, 0.0, 0.0);
        let mut traffic = Traffic::default();
        for who in &self.who {
            let more = if who.up { now.saturating_sub(who.since.max(self.begun)) } else { 0 };
            let seconds = (who.up_us + more) as f64 / 1e6;
            if seconds < 1.0 {
                continue;
            }
            let (bytes, packets) = (who.bytes as f64, who.packets as f64);
            sum = (sum.0 + seconds, sum.1 + bytes, sum.2 + packets);
            traffic.bytes_max = traffic.bytes_max.max(round(bytes / seconds));
            traffic.packets_max = traffic.packets_max.max(round(packets / seconds));
        }
        if sum.0 > 0.0 {
            traffic.bytes_mean = round(sum.1 / sum.0);
            traffic.packets_mean = round(sum.2 / sum.0);
        }
        traffic
    }

    /// What came of it.
    pub fn report(mut self, now: u64, steps: u64, trace: u64) -> Measured {
        if self.idle.is_none() {
            self.disturbed(now);
        }
        let spread = |open: &Open| self.spread(open);
        let (returns, failures): (Vec<&Open>, Vec<&Open>) =
            self.news.iter().partition(|open| open.is_return);
        let [commits, repairs, spreads] =
            std::array::from_fn(|i| Times::of(self.timed[i].0, &self.timed[i].1));
        Measured {
            members: self.members,
            engine: self.engine,
            seed: self.seed,
            virtual_ms: ms(now.saturating_sub(self.begun)),
            steps,
            trace: format!("{trace:016x}"),
            failures: failures.into_iter().map(spread).collect(),
            returns: returns.into_iter().map(spread).collect(),
            false_accusations: Accusations {
                verdicts: self.verdicts,
                members: self.who.iter().filter(|who| who.accused).count(),
            },
            idle: self.idle.flatten(),
            traffic: self.traffic(now),
            commits,
            repairs,
            spreads,
            violation: None,
            trouble: None,
            story: self.story,
        }
    }

    fn spread(&self, open: &Open) -> Spread {
        let audience = open.audience.iter().flatten();
        let mut times: Vec<u64> = audience.clone().flatten().map(|at| at - open.at).collect();
        times.sort_unstable();
        let (audience, knew) = (audience.count(), times.len());
        let at = |count: usize| count.checked_sub(1).and_then(|i| times.get(i)).map(|us| ms(*us));
        let step = knew.div_ceil(POINTS_MAX).max(1);
        let point = |index: usize| (ms(times[index]), index + 1);
        let mut curve: Vec<(f64, usize)> = (0..knew).step_by(step).map(point).collect();
        if knew > 0 && curve.last().is_none_or(|(_, count)| *count != knew) {
            curve.push(point(knew - 1));
        }
        Spread {
            member: format!("m{}", open.member + 1),
            what: open.what,
            at_ms: ms(open.at.saturating_sub(self.begun)),
            audience,
            knew,
            first_ms: at(1),
            half_ms: at(audience.div_ceil(2)),
            all_ms: if knew == audience { at(audience) } else { None },
            curve,
        }
    }
}

const WELL_US: u64 = WELL_AFTER.as_secs() * 1_000_000;

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn started() -> Measure {
        let mut measure = Measure::new(&Scenario::calm(4, 1), 10 * S);
        (0..4).for_each(|m| measure.is(10 * S, m, true, false));
        measure.begin(20 * S);
        measure
    }

    #[test]
    fn news_is_known_to_the_first_half_and_all() {
        let mut measure = started();
        measure.is(30 * S, 3, false, false);
        measure.fails(30 * S, 3, "killed", |_| true);
        for (observer, at) in [(1, 31), (0, 32), (2, 33)] {
            measure.sees(at * S, observer, 3, false, true);
        }
        measure.returns(40 * S, 3, "started again");
        measure.is(40 * S, 3, true, false);
        measure.sees(41 * S, 0, 3, true, true);
        let report = measure.report(60 * S, 0, 0);
        let failure = &report.failures[0];
        assert_eq!((failure.audience, failure.knew), (3, 3));
        assert_eq!(failure.first_ms, Some(1_000.0));
        assert_eq!(failure.half_ms, Some(2_000.0));
        assert_eq!(failure.all_ms, Some(3_000.0));
        assert_eq!((report.returns[0].audience, report.returns[0].knew), (3, 1));
        assert_eq!(report.returns[0].all_ms, None);
        assert_eq!(report.false_accusations, Accusations::default());
    }

    #[test]
    fn who_dies_before_it_knows_is_not_waited_for() {
        let mut measure = started();
        measure.is(30 * S, 3, false, false);
        measure.fails(30 * S, 3, "killed", |_| true);
        measure.sees(31 * S, 0, 3, false, true);
        measure.sees(32 * S, 1, 3, false, true);
        measure.is(32 * S, 2, false, false);
        let failure = &measure.report(60 * S, 0, 0).failures[0];
        assert_eq!((failure.audience, failure.knew, failure.all_ms), (2, 2, Some(2_000.0)));
    }

    #[test]
    fn only_the_healthy_are_accused_falsely() {
        let mut measure = started();
        measure.sees(30 * S, 0, 1, false, true);
        measure.sees(30 * S, 2, 1, false, true);
        // Out of reach, standing still, only just back: true enough.
        measure.sees(30 * S, 0, 2, false, false);
        measure.is(30 * S, 3, true, true);
        measure.sees(31 * S, 0, 3, false, true);
        measure.is(32 * S, 3, true, false);
        measure.sees(33 * S, 1, 3, false, true);
        let expected = Accusations { verdicts: 2, members: 1 };
        assert_eq!(measure.report(60 * S, 0, 0).false_accusations, expected);
    }

    #[test]
    fn traffic_is_per_second_of_running() {
        let mut measure = started();
        for member in 0..4 {
            (0..100).for_each(|_| measure.sent(member, 10));
        }
        measure.is(25 * S, 3, false, false);
        let report = measure.report(30 * S, 0, 0);
        assert_eq!(report.traffic.bytes_max, 200.0);
        assert_eq!(report.traffic.bytes_mean, (4_000.0_f64 / 35.0 * 10.0).round() / 10.0);
    }
}
