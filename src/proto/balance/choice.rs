//! Which of those that could answer a request is asked: the one of two drawn at random that
//! has less under way for what it can take (Mitzenmacher, "The Power of Two Choices", 2001),
//! the process on this member as long as it is about as good. Or the one that a client was
//! answered by before; or the one that a key belongs to, so that the same key always finds the
//! same member and a member more or less moves only its share (weighted rendezvous hashing:
//! Thaler and Ravishankar 1998, Schindelhauer and Schomaker 2005).
//!
//! Who fails is left out for a while, longer each time, and comes back slowly. So is one
//! whose program answers with nothing but failures, for what it is asked for there, as
//! long as these are not more than half of all.
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
/// The process here is taken as long as it has no more under way than the member drawn and
/// half a request for each of its processors: the way there costs something.
const HERE_AHEAD: f64 = 0.5;
/// So many bad answers in a row, and whoever gives them is left out. Envoy's is 5, for all
/// statuses from 500 on; one client that asks for what is broken shall not be enough.
const BAD_MAX: u32 = 10;
/// For how long at first; twice as long each time that nothing else has come since.
const BAD_OUT: Duration = Duration::from_secs(5);
/// Those whose bad answers are remembered.
const BAD_KEPT_MAX: usize = 4_096;
/// How often chance is asked for one who may be asked before all are looked at.
const DRAWS: usize = 16;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The process on this member.
    Here,
    /// This other member.
    Member(MemberId),
}

/// Another member that may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: MemberId,
    /// What it can take beside others, from 1: its processors, unless it is said otherwise.
    pub capacity: u16,
}

/// The process on this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// This member.
    pub id: MemberId,
    /// As of a [`Candidate`].
    pub capacity: u16,
    /// What it has under way beside this request.
    pub under_way: usize,
    /// Whether it does not answer when it is asked how it is: then others go first.
    pub unwell: bool,
}

/// Whether it matters who is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// It does not.
    #[default]
    Nobody,
    /// The one with this [`token`], if possible.
    Member(u64),
    /// The one that this key belongs to.
    Key(u64),
}

/// What decides about one request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it is for: bad answers count for this alone.
    pub of: u64,
    /// The process on this member, if there is one.
    pub here: Option<Here>,
    /// Others that may have one.
    pub others: &'a [Candidate],
    /// Who was asked in vain.
    pub tried: &'a [Pick],
    /// Whether it matters who is asked.
    pub wish: Wish,
    /// Who is to be asked before all others, as long as one of them is fit: whether this member is
    /// one, and which others are.
    pub prefer: Option<(bool, &'a [Candidate])>,
}

/// What became of one who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Good,
    /// It answered that it can't.
    Bad,
    /// It could not be reached, or did not answer.
    Failed,
    /// Nobody waited for it.
    Unknown,
}

/// A short name of `member`: one of 2^64, the same everywhere.
pub fn token(member: MemberId) -> u64 {
    // A key is as good as chance.
    u64::from_le_bytes(std::array::from_fn(|at| member.0.0[at]))
}

/// Those of whom one is asked: this member if it is fit, and others of whom that is still to be said.
struct Fit<'a> {
    here: Option<Here>,
    others: &'a [Candidate],
}

/// What is known of those that are asked.
#[derive(Debug)]
pub struct Balance {
    members: BTreeMap<MemberId, Peer>,
    /// By what they were asked for.
    bad: BTreeMap<(u64, MemberId), Bad>,
    rng: SmallRng,
}

#[derive(Debug, Default)]
struct Peer {
    under_way: usize,
    failures: u32,
    /// Left out until then; what follows is the slow start.
    out_until: Option<Time>,
}

/// Bad answers of one of them.
#[derive(Debug, Default)]
struct Bad {
    in_a_row: u32,
    /// Times that it was left out for them.
    times: u32,
    out_until: Option<Time>,
}

impl Balance {
    /// Nobody has failed yet.
    pub fn new(seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { members: BTreeMap::new(), bad: BTreeMap::new(), rng }
    }

    /// Chooses, and counts the request as under way until [`Balance::ended`].
    pub fn begin(&mut self, now: Time, asked: &Asked<'_>) -> Option<Pick> {
        let pick = self.choose(now, asked)?;
        if let Pick::Member(id) = pick {
            self.members.entry(id).or_default().under_way += 1;
        }
        Some(pick)
    }

    /// A request that was for `of` is over at `id`; `here` says that this is this member itself.
    pub fn ended(&mut self, now: Time, of: u64, id: MemberId, here: bool, outcome: Outcome) {
        match outcome {
            Outcome::Good => drop(self.bad.remove(&(of, id))),
            Outcome::Bad => self.answered_badly(now, of, id),
            Outcome::Failed | Outcome::Unknown => {}
        }
        if here {
            return;
        }
        let Some(peer) = self.members.get_mut(&id) else { return };
        peer.under_way = peer.under_way.saturating_sub(1);
        match outcome {
            Outcome::Failed => {
                let out = OUT_FIRST * 2_u32.saturating_pow(peer.failures.min(10));
                peer.failures = peer.failures.saturating_add(1);
                peer.out_until = Some(now + out.min(OUT_MAX));
            }
            Outcome::Good | Outcome::Bad => peer.failures = 0,
            Outcome::Unknown => {}
        }
        if peer.under_way == 0 && peer.failures == 0 && peer.share(now) >= 1.0 {
            self.members.remove(&id);
        }
    }

    fn answered_badly(&mut self, now: Time, of: u64, id: MemberId) {
        if self.bad.len() >= BAD_KEPT_MAX {
            self.bad.retain(|_, bad| bad.out_until.is_some_and(|until| now < until));
        }
        let bad = self.bad.entry((of, id)).or_default();
        // What was under way when it was left out does not count again.
        if bad.out_until.is_some_and(|until| now < until) {
            return;
        }
        bad.in_a_row += 1;
        if bad.in_a_row >= BAD_MAX {
            let out = BAD_OUT * 2_u32.saturating_pow(bad.times.min(10));
            let times = bad.times.saturating_add(1);
            *bad = Bad { in_a_row: 0, times, out_until: Some(now + out.min(OUT_MAX)) };
        }
    }

    fn choose(&mut self, now: Time, asked: &Asked<'_>) -> Option<Pick> {
        let untried = |pick: Pick| !asked.tried.contains(&pick);
        let here = asked.here.filter(|_| untried(Pick::Here));
        let heed_bad = self.heeds_bad(now, asked);
        let fit_here = here.filter(|h| !(h.unwell || heed_bad && self.is_bad(now, asked.of, h.id)));
        let is_fit = |balance: &Self, other: &Candidate| {
            untried(Pick::Member(other.id))
                && !balance.is_out(now, other.id)
                && !(heed_bad && balance.is_bad(now, asked.of, other.id))
        };
        let fit = Fit { here: fit_here, others: asked.others };
        if let Some((is_here, others)) = asked.prefer {
            let preferred = Fit { here: fit_here.filter(|_| is_here), others };
            let pick = self.among(now, &preferred, asked.wish, &is_fit);
            if pick.is_some() {
                return pick;
            }
        }
        let pick = self.among(now, &fit, asked.wish, &is_fit);
        if pick.is_some() {
            return pick;
        }
        if here.is_some() {
            return Some(Pick::Here);
        }
        let until = |id: &MemberId| self.members.get(id).and_then(|peer| peer.out_until);
        let others = asked.others.iter().map(|other| other.id);
        others.filter(|id| untried(Pick::Member(*id))).min_by_key(until).map(Pick::Member)
    }

    /// One of those that are fit.
    fn among(
        &mut self,
        now: Time,
        of: &Fit<'_>,
        wish: Wish,
        is_fit: &impl Fn(&Self, &Candidate) -> bool,
    ) -> Option<Pick> {
        let wished = match wish {
            Wish::Nobody => None,
            Wish::Member(wanted) => {
                let here = of.here.filter(|here| token(here.id) == wanted).map(|_| Pick::Here);
                let mut others = of.others.iter();
                here.or_else(|| {
                    let found = others.find(|o| token(o.id) == wanted && is_fit(self, o));
                    found.map(|other| Pick::Member(other.id))
                })
            }
            Wish::Key(key) => {
                let here = of.here.map(|h| (score(key, h.id, h.capacity), Pick::Here));
                let others = of.others.iter().filter(|other| is_fit(self, other));
                let others = others.map(|o| (score(key, o.id, o.capacity), Pick::Member(o.id)));
                here.into_iter().chain(others).max_by(|a, b| a.0.total_cmp(&b.0)).map(|best| best.1)
            }
        };
        if wished.is_some() {
            return wished;
        }
        let first = self.drawn(of.others, None, is_fit);
        match (of.here, first) {
            (Some(_), None) => Some(Pick::Here),
            (Some(here), Some(other)) => {
                let load = here.under_way as f64 / f64::from(here.capacity.max(1));
                let ahead = load <= self.load(now, &other) + HERE_AHEAD;
                Some(if ahead { Pick::Here } else { Pick::Member(other.id) })
            }
            (None, Some(first)) => {
                let second = self.drawn(of.others, Some(first.id), is_fit);
                let better = second.filter(|s| self.load(now, s) < self.load(now, &first));
                Some(Pick::Member(better.unwrap_or(first).id))
            }
            (None, None) => None,
        }
    }

    /// One of `of` by chance, each as often as its capacity says, who is fit and is not `but`.
    fn drawn(
        &mut self,
        of: &[Candidate],
        but: Option<MemberId>,
        is_fit: &impl Fn(&Self, &Candidate) -> bool,
    ) -> Option<Candidate> {
        let most = of.iter().map(|one| one.capacity).max()?.max(1);
        let may_be = |balance: &Self, one: &Candidate| Some(one.id) != but && is_fit(balance, one);
        // Mostly all are fit, and of a thousand not each has to be looked at.
        for _ in 0..DRAWS {
            let one = of[self.rng.random_range(0..of.len())];
            let counts = one.capacity == most || self.rng.random_range(0..most) < one.capacity;
            if counts && may_be(self, &one) {
                return Some(one);
            }
        }
        let fit: Vec<&Candidate> = of.iter().filter(|one| may_be(self, one)).collect();
        let share = |one: &Candidate| u64::from(one.capacity.max(1));
        let all = fit.iter().map(|one| share(one)).sum::<u64>();
        let mut at = if all == 0 { return None } else { self.rng.random_range(0..all) };
        let found = fit.into_iter().find(|one| {
            let is_it = at < share(one);
            at = at.saturating_sub(share(one));
            is_it
        });
        found.copied()
    }

    /// Whether those that answer badly are left out: not if that were more than half.
    fn heeds_bad(&self, now: Time, asked: &Asked<'_>) -> bool {
        if self.bad.is_empty() {
            return false;
        }
        let all = asked.others.iter().map(|other| other.id).chain(asked.here.map(|here| here.id));
        let (mut bad, mut count) = (0, 0);
        for id in all {
            count += 1;
            bad += usize::from(self.is_bad(now, asked.of, id));
        }
        bad * 2 <= count
    }

    fn is_bad(&self, now: Time, of: u64, id: MemberId) -> bool {
        let bad = self.bad.get(&(of, id));
        bad.and_then(|bad| bad.out_until).is_some_and(|until| now < until)
    }

    fn is_out(&self, now: Time, id: MemberId) -> bool {
        self.members.get(&id).and_then(|peer| peer.out_until).is_some_and(|until| now < until)
    }

    /// What it has under way for each of its processors, and more than that while it has
    /// just come back.
    fn load(&self, now: Time, other: &Candidate) -> f64 {
        let Some(peer) = self.members.get(&other.id) else { return 0.0 };
        let share = peer.share(now);
        // One more, so that a share counts also where nothing is under way.
        ((peer.under_way as f64 + 1.0) / share - 1.0) / f64::from(other.capacity.max(1))
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

/// Whose `key` is: the highest wins, and each wins as often as its capacity says.
fn score(key: u64, member: MemberId, capacity: u16) -> f64 {
    // The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    let mut mixed = (key ^ token(member)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // Above 0 and below 1.
    let unit = ((mixed >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    f64::from(capacity.max(1)) / -unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SecretKey;

    fn members(count: u8) -> Vec<Candidate> {
        let id = |n| SecretKey::from_seed([n; 32]).member();
        (0..count).map(|n| Candidate { id: id(n), capacity: 1 }).collect()
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    fn here(under_way: usize) -> Here {
        let id = SecretKey::from_seed([200; 32]).member();
        Here { id, capacity: 1, under_way, unwell: false }
    }

    fn asked(here: Option<Here>, others: &[Candidate]) -> Asked<'_> {
        Asked { of: 7, here, others, tried: &[], wish: Wish::Nobody, prefer: None }
    }

    #[test]
    fn who_is_preferred_is_asked_as_long_as_one_of_them_is_fit() {
        let all = members(4);
        let some = &all[..2];
        let mut balance = Balance::new(1);
        let prefer = Asked { prefer: Some((false, some)), ..asked(Some(here(0)), &all) };
        let ask = |balance: &mut Balance, ms, outcome| {
            let pick = balance.begin(at(ms), &prefer).unwrap();
            if let Pick::Member(id) = pick {
                balance.ended(at(ms), 7, id, false, outcome);
            }
            pick
        };
        let is_one = |pick: Pick| some.iter().any(|one| pick == Pick::Member(one.id));
        for ms in 0..50 {
            assert!(is_one(ask(&mut balance, ms, Outcome::Good)));
        }
        // One that can't be reached leaves the other one; both leave everybody else.
        assert!(is_one(ask(&mut balance, 100, Outcome::Failed)));
        assert!(is_one(ask(&mut balance, 101, Outcome::Failed)));
        for ms in 102..120 {
            assert!(!is_one(ask(&mut balance, ms, Outcome::Good)));
        }
        // Nor is one asked for long that answers with nothing but failures, though it is the only one.
        let mut balance = Balance::new(2);
        let only = Asked { prefer: Some((false, &all[..1])), ..asked(Some(here(0)), &all) };
        let mut bad = 0;
        while let Some(Pick::Member(id)) = balance.begin(at(bad), &only) {
            assert_eq!(id, all[0].id);
            balance.ended(at(bad), 7, id, false, Outcome::Bad);
            bad += 1;
            assert!(bad <= u64::from(BAD_MAX));
        }
        assert_eq!(bad, u64::from(BAD_MAX));
        // This member may be the one that is preferred.
        let mine = Asked { prefer: Some((true, &[])), ..asked(Some(here(50)), &all) };
        assert_eq!(balance.begin(at(900), &mine), Some(Pick::Here));
    }

    /// How many of `count` requests each got that all stay under way.
    fn shares(balance: &mut Balance, now: Time, all: &[Candidate], count: usize) -> Vec<usize> {
        let mut got = vec![0; all.len()];
        for _ in 0..count {
            let Some(Pick::Member(id)) = balance.begin(now, &asked(None, all)) else { panic!() };
            got[all.iter().position(|other| other.id == id).unwrap()] += 1;
        }
        got
    }

    #[test]
    fn what_stays_under_way_is_spread_evenly() {
        let all = members(8);
        let got = shares(&mut Balance::new(7), at(0), &all, 800);
        assert!(got.iter().all(|n| (95..=105).contains(n)), "{got:?}");
        assert_eq!(Balance::new(1).begin(at(0), &asked(None, &[])), None);
    }

    #[test]
    fn who_can_take_more_gets_more() {
        let mut all = members(4);
        all[0].capacity = 5;
        let got = shares(&mut Balance::new(7), at(0), &all, 800);
        assert!((480..=520).contains(&got[0]), "{got:?}");
        // The small one here asks the large one once it has something to do.
        let mut balance = Balance::new(7);
        let mut here_has = 0;
        for _ in 0..600 {
            match balance.begin(at(0), &asked(Some(here(here_has)), &all[..1])).unwrap() {
                Pick::Here => here_has += 1,
                Pick::Member(_) => {}
            }
        }
        assert!((98..=102).contains(&here_has), "{here_has}");
    }

    #[test]
    fn the_process_here_is_taken_while_it_is_as_good() {
        let all = members(2);
        let mut balance = Balance::new(7);
        assert_eq!(balance.begin(at(0), &asked(Some(here(0)), &[])), Some(Pick::Here));
        let only = balance.begin(at(0), &asked(Some(here(9)), &[]));
        assert_eq!(only, Some(Pick::Here), "there is nobody else");
        let mut here_has = 0;
        for _ in 0..300 {
            match balance.begin(at(0), &asked(Some(here(here_has)), &all)).unwrap() {
                Pick::Here => here_has += 1,
                Pick::Member(_) => {}
            }
        }
        assert!((98..=106).contains(&here_has), "{here_has}");
        let unwell = Here { unwell: true, ..here(0) };
        assert!(matches!(balance.begin(at(0), &asked(Some(unwell), &all)), Some(Pick::Member(_))));
        let nobody = balance.begin(at(0), &asked(Some(unwell), &[]));
        assert_eq!(nobody, Some(Pick::Here), "better than nobody");
    }

    #[test]
    fn who_fails_is_left_out_longer_each_time_and_comes_back_slowly() {
        let all = members(2);
        let mut balance = Balance::new(7);
        let fail = |balance: &mut Balance, now| {
            balance.members.entry(all[0].id).or_default().under_way += 1;
            balance.ended(now, 7, all[0].id, false, Outcome::Failed);
        };
        fail(&mut balance, at(0));
        assert_eq!(shares(&mut balance, at(499), &all, 10), [0, 10]);
        fail(&mut balance, at(500));
        assert!(balance.is_out(at(1_499), all[0].id) && !balance.is_out(at(1_500), all[0].id));
        for _ in 0..20 {
            fail(&mut balance, at(1_500));
        }
        assert!(balance.is_out(at(31_499), all[0].id) && !balance.is_out(at(31_500), all[0].id));
        // With the ten that the other has already: a tenth of its share at first.
        assert_eq!(shares(&mut balance, at(31_500), &all, 40), [4, 36]);
        assert_eq!(shares(&mut balance, at(41_500), &all, 50), [46, 4], "and then all of it");
        balance.ended(at(41_500), 7, all[0].id, false, Outcome::Unknown);
        assert!(balance.members[&all[0].id].failures > 0, "that says nothing");
        balance.ended(at(41_500), 7, all[0].id, false, Outcome::Good);
        assert_eq!(balance.members[&all[0].id].failures, 0);
    }

    #[test]
    fn where_all_have_failed_the_first_that_may_come_back_is_asked() {
        let all = members(2);
        let mut balance = Balance::new(7);
        for (now, id) in [(at(0), all[1].id), (at(100), all[0].id)] {
            balance.members.entry(id).or_default().under_way += 1;
            balance.ended(now, 7, id, false, Outcome::Failed);
        }
        let first = Pick::Member(all[1].id);
        assert_eq!(balance.begin(at(200), &asked(None, &all)), Some(first));
        assert_eq!(balance.begin(at(200), &asked(Some(here(5)), &all)), Some(Pick::Here));
        // Nobody is asked twice for one request.
        let tried = [first, Pick::Here];
        let again = Asked { tried: &tried, ..asked(Some(here(5)), &all) };
        assert_eq!(balance.begin(at(200), &again), Some(Pick::Member(all[0].id)));
        assert_eq!(balance.begin(at(200), &Asked { others: &all[1..], ..again }), None);
    }

    #[test]
    fn who_answers_badly_is_left_out_there_unless_most_do() {
        let all = members(3);
        let mut balance = Balance::new(7);
        let answer = |balance: &mut Balance, now, of, id, outcome| {
            balance.members.entry(id).or_default().under_way += 1;
            balance.ended(now, of, id, false, outcome);
        };
        for _ in 1..BAD_MAX {
            answer(&mut balance, at(0), 7, all[0].id, Outcome::Bad);
        }
        answer(&mut balance, at(0), 7, all[0].id, Outcome::Good);
        for _ in 0..BAD_MAX {
            assert!(!balance.is_bad(at(0), 7, all[0].id), "not in a row");
            answer(&mut balance, at(0), 7, all[0].id, Outcome::Bad);
        }
        assert!(balance.is_bad(at(4_999), 7, all[0].id));
        assert!(!balance.is_bad(at(5_000), 7, all[0].id));
        assert!(!balance.is_bad(at(0), 8, all[0].id), "for that it is fine");
        assert_eq!(shares(&mut balance, at(0), &all, 20)[0], 0);
        // The process here as well; and with it that is half of the four.
        for _ in 0..BAD_MAX {
            balance.ended(at(0), 7, here(0).id, true, Outcome::Bad);
        }
        let pick = balance.begin(at(0), &asked(Some(here(0)), &all)).unwrap();
        assert!(pick == Pick::Member(all[1].id) || pick == Pick::Member(all[2].id));
        for _ in 0..BAD_MAX {
            answer(&mut balance, at(0), 7, all[1].id, Outcome::Bad);
        }
        let pick = balance.begin(at(0), &asked(Some(here(0)), &all));
        assert_eq!(pick, Some(Pick::Here), "it is not them, then");
        // Twice as long the next time.
        for _ in 0..BAD_MAX {
            answer(&mut balance, at(6_000), 7, all[0].id, Outcome::Bad);
        }
        assert!(balance.is_bad(at(15_999), 7, all[0].id));
        assert!(!balance.is_bad(at(16_000), 7, all[0].id));
    }

    #[test]
    fn a_client_comes_back_to_who_answered_it() {
        let all = members(5);
        let mut balance = Balance::new(7);
        let with = |wish| Asked { wish, ..asked(Some(here(0)), &all) };
        for other in &all {
            let pick = balance.begin(at(0), &with(Wish::Member(token(other.id))));
            assert_eq!(pick, Some(Pick::Member(other.id)));
        }
        let mine = with(Wish::Member(token(here(0).id)));
        assert_eq!(balance.begin(at(0), &mine), Some(Pick::Here));
        // Whom nobody knows, and who is out, is no reason to wait.
        assert_eq!(balance.begin(at(0), &with(Wish::Member(1))), Some(Pick::Here));
        balance.ended(at(0), 7, all[0].id, false, Outcome::Failed);
        let gone = balance.begin(at(0), &with(Wish::Member(token(all[0].id))));
        assert_eq!(gone, Some(Pick::Here));
    }

    #[test]
    fn a_key_has_one_member_and_moves_only_with_it() {
        let mut all = members(10);
        all[3].capacity = 3;
        let mut balance = Balance::new(7);
        let mut owner = |all: &[Candidate], key: u64| {
            let asked = Asked { wish: Wish::Key(key), ..asked(None, all) };
            let Some(Pick::Member(id)) = balance.begin(at(0), &asked) else { panic!() };
            id
        };
        let keys: Vec<u64> = (0..12_000_u64).collect();
        let before: Vec<MemberId> = keys.iter().map(|key| owner(&all, *key)).collect();
        for candidate in &all {
            let has = before.iter().filter(|id| **id == candidate.id).count();
            let fair = 1_000 * usize::from(candidate.capacity);
            assert!(has.abs_diff(fair) < fair / 10, "{has} of {fair}");
        }
        // In another order, and without one of them.
        let gone = all.remove(6);
        all.reverse();
        for (key, before) in keys.iter().zip(&before) {
            let now = owner(&all, *key);
            assert!(now == *before || *before == gone.id, "{key} moved");
        }
    }

    #[test]
    fn nothing_is_kept_of_those_that_are_well() {
        let all = members(3);
        let mut balance = Balance::new(7);
        let Some(Pick::Member(id)) = balance.begin(at(0), &asked(None, &all)) else { panic!() };
        balance.ended(at(1), 7, id, false, Outcome::Good);
        balance.ended(at(1), 7, id, false, Outcome::Good);
        assert!(balance.members.is_empty());
        for n in 0..2 * BAD_KEPT_MAX as u64 {
            balance.ended(at(1), n, id, true, Outcome::Bad);
        }
        assert!(balance.bad.len() <= BAD_KEPT_MAX);
    }
}
