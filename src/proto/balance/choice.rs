//! Which of those that could answer a request is asked: the one of two drawn at random that
//! has less under way (Mitzenmacher, "The Power of Two Choices", 2001), the process on this
//! member as long as it is about as good. Who fails is left out for a while, longer each
//! time, and comes back slowly.
//!
//! It knows of other members only what this one has under way there. It never leaves out
//! everybody: where all have failed, the one whose time is up first is asked.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::base::{MemberId, Time};

/// How long somebody is left out after the first failure in a row; twice as long after each
/// further one.
const OUT_FIRST: Duration = Duration::from_millis(500);
/// The longest that somebody is left out.
const OUT_MAX: Duration = Duration::from_secs(30);
/// For how long somebody that comes back is asked less than others.
const SLOW_START: Duration = Duration::from_secs(10);
/// The process here is taken as long as it has no more than so many requests more under way
/// than the member drawn: the way there costs something.
const HERE_AHEAD: usize = 1;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The process on this member.
    Here,
    /// This other member.
    Member(MemberId),
}

/// What is known of those that are asked.
#[derive(Debug)]
pub struct Balance {
    members: BTreeMap<MemberId, Peer>,
    rng: SmallRng,
}

#[derive(Debug, Default)]
struct Peer {
    under_way: usize,
    failures: u32,
    /// Left out until then; what follows is the slow start.
    out_until: Option<Time>,
}

impl Balance {
    /// Nobody has failed yet.
    pub fn new(seed: u64) -> Self {
        Self { members: BTreeMap::new(), rng: SmallRng::seed_from_u64(seed) }
    }

    /// Chooses, and counts the request as under way until [`Balance::ended`]. `here` is what
    /// the process on this member has under way, if there is one.
    pub fn begin(&mut self, now: Time, here: Option<usize>, others: &[MemberId]) -> Option<Pick> {
        let pick = self.choose(now, here, others)?;
        if let Pick::Member(id) = pick {
            self.members.entry(id).or_default().under_way += 1;
        }
        Some(pick)
    }

    /// A request is over; `failed` says that the member could not be reached, or did not
    /// answer.
    pub fn ended(&mut self, now: Time, id: MemberId, failed: bool) {
        let Some(peer) = self.members.get_mut(&id) else { return };
        peer.under_way = peer.under_way.saturating_sub(1);
        if failed {
            let out = OUT_FIRST * 2_u32.saturating_pow(peer.failures.min(10));
            peer.failures = peer.failures.saturating_add(1);
            peer.out_until = Some(now + out.min(OUT_MAX));
        } else {
            peer.failures = 0;
        }
        if peer.under_way == 0 && peer.failures == 0 && peer.share(now) >= 1.0 {
            self.members.remove(&id);
        }
    }

    fn choose(&mut self, now: Time, here: Option<usize>, others: &[MemberId]) -> Option<Pick> {
        let fit: Vec<MemberId> =
            others.iter().filter(|id| !self.is_out(now, **id)).copied().collect();
        if let Some(load) = here {
            let Some(other) = self.drawn(&fit) else { return Some(Pick::Here) };
            let ahead = load as f64 <= self.load(now, other) + HERE_AHEAD as f64;
            return Some(if ahead { Pick::Here } else { Pick::Member(other) });
        }
        let Some(first) = self.drawn(&fit) else {
            let until = |id: &&MemberId| self.members.get(*id).and_then(|peer| peer.out_until);
            return others.iter().min_by_key(until).map(|id| Pick::Member(*id));
        };
        let rest: Vec<MemberId> = fit.into_iter().filter(|id| *id != first).collect();
        let Some(second) = self.drawn(&rest) else { return Some(Pick::Member(first)) };
        let better = self.load(now, second) < self.load(now, first);
        Some(Pick::Member(if better { second } else { first }))
    }

    fn drawn(&mut self, of: &[MemberId]) -> Option<MemberId> {
        if of.is_empty() { None } else { Some(of[self.rng.random_range(0..of.len())]) }
    }

    fn is_out(&self, now: Time, id: MemberId) -> bool {
        self.members.get(&id).and_then(|peer| peer.out_until).is_some_and(|until| now < until)
    }

    /// What it has under way, and more than that while it has just come back.
    fn load(&self, now: Time, id: MemberId) -> f64 {
        let Some(peer) = self.members.get(&id) else { return 0.0 };
        let share = peer.share(now);
        // One more, so that a share counts also where nothing is under way.
        (peer.under_way as f64 + 1.0) / share - 1.0
    }
}

impl Peer {
    /// From a tenth to one.
    fn share(&self, now: Time) -> f64 {
        let Some(until) = self.out_until else { return 1.0 };
        let since = now.since(until).as_secs_f64() / SLOW_START.as_secs_f64();
        since.clamp(0.1, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SecretKey;

    fn members(count: u8) -> Vec<MemberId> {
        (0..count).map(|n| SecretKey::from_seed([n; 32]).member()).collect()
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    /// How many of `count` requests each got that all stay under way.
    fn shares(balance: &mut Balance, now: Time, all: &[MemberId], count: usize) -> Vec<usize> {
        let mut got = vec![0; all.len()];
        for _ in 0..count {
            let Some(Pick::Member(id)) = balance.begin(now, None, all) else { panic!() };
            got[all.iter().position(|other| *other == id).unwrap()] += 1;
        }
        got
    }

    #[test]
    fn what_stays_under_way_is_spread_evenly() {
        let all = members(8);
        let got = shares(&mut Balance::new(7), at(0), &all, 800);
        assert!(got.iter().all(|n| (95..=105).contains(n)), "{got:?}");
        assert_eq!(Balance::new(1).begin(at(0), None, &[]), None);
    }

    #[test]
    fn the_process_here_is_taken_while_it_is_as_good() {
        let all = members(2);
        let mut balance = Balance::new(7);
        assert_eq!(balance.begin(at(0), Some(0), &[]), Some(Pick::Here));
        assert_eq!(balance.begin(at(0), Some(9), &[]), Some(Pick::Here), "there is nobody else");
        let mut here = 0;
        for _ in 0..300 {
            match balance.begin(at(0), Some(here), &all).unwrap() {
                Pick::Here => here += 1,
                Pick::Member(_) => {}
            }
        }
        assert!((98..=106).contains(&here), "{here}");
    }

    #[test]
    fn who_fails_is_left_out_longer_each_time_and_comes_back_slowly() {
        let all = members(2);
        let mut balance = Balance::new(7);
        let fail = |balance: &mut Balance, now| {
            balance.members.entry(all[0]).or_default().under_way += 1;
            balance.ended(now, all[0], true);
        };
        fail(&mut balance, at(0));
        assert_eq!(shares(&mut balance, at(499), &all, 10), [0, 10]);
        fail(&mut balance, at(500));
        assert!(balance.is_out(at(1_499), all[0]) && !balance.is_out(at(1_500), all[0]));
        for _ in 0..20 {
            fail(&mut balance, at(1_500));
        }
        assert!(balance.is_out(at(31_499), all[0]) && !balance.is_out(at(31_500), all[0]));
        // With the ten that the other has already: a tenth of its share at first.
        assert_eq!(shares(&mut balance, at(31_500), &all, 40), [4, 36]);
        assert_eq!(shares(&mut balance, at(41_500), &all, 50), [46, 4], "and then all of it");
        balance.ended(at(41_500), all[0], false);
        assert_eq!(balance.members[&all[0]].failures, 0);
    }

    #[test]
    fn where_all_have_failed_the_first_that_may_come_back_is_asked() {
        let all = members(2);
        let mut balance = Balance::new(7);
        for (now, id) in [(at(0), all[1]), (at(100), all[0])] {
            balance.members.entry(id).or_default().under_way += 1;
            balance.ended(now, id, true);
        }
        assert_eq!(balance.begin(at(200), None, &all), Some(Pick::Member(all[1])));
        assert_eq!(balance.begin(at(200), Some(5), &all), Some(Pick::Here));
    }

    #[test]
    fn nothing_is_kept_of_those_that_are_well() {
        let all = members(3);
        let mut balance = Balance::new(7);
        let Some(Pick::Member(id)) = balance.begin(at(0), None, &all) else { panic!() };
        balance.ended(at(1), id, false);
        balance.ended(at(1), id, false);
        assert!(balance.members.is_empty());
    }
}
