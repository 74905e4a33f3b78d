//! What the detector promises, over several seeds each, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use foca::{Header, Member, Message};

use super::{
    Effect, Input, Membership, Reach, State,
    packet::{Aside, Identity, Packet},
    random::Random,
    sim::{Faults, Sim, address, id, ms, roster},
};
use crate::base::{Time, limits};

const SECOND: Duration = Duration::from_secs(1);

/// Mean and maximum, milliseconds.
fn summary(times: &[Duration]) -> (u128, u128) {
    let sum: u128 = times.iter().map(Duration::as_millis).sum();
    (sum / times.len() as u128, times.iter().map(Duration::as_millis).max().unwrap_or(0))
}

/// How a killed member's end shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not at all.
    Silent,
    /// Every connection breaks.
    Lost,
    /// Its host says that nobody listens, to whoever sends it something.
    Refused,
}

fn detection(n: usize, end: End, seeds: u64) -> (u128, u128) {
    let times: Vec<Duration> = (0..seeds)
        .map(|seed| {
            let mut sim = Sim::started(n, seed, Faults::LAN);
            (sim.hints, sim.refusals) = (end == End::Lost, end == End::Refused);
            sim.run(ms(137 * seed));
            let victim = seed as usize % n;
            sim.kill(victim);
            let took = sim.run_until(20 * SECOND, |sim| sim.all_see(victim, State::Down));
            assert_eq!(sim.downs(|i| i != victim), 0, "seed {seed}: the living stay live");
            took.unwrap_or_else(|| panic!("seed {seed}: the kill was noticed"))
        })
        .collect();
    summary(&times)
}

#[test]
fn a_killed_member_is_down_everywhere_soon() {
    println!("members  until all know, ms mean (max):  silent  connections lost  port refused");
    for (n, seeds, max) in
        [(2, 10, 2_500), (5, 40, 2_500), (12, 10, 2_500), (16, 10, 3_000), (64, 12, 3_000)]
    {
        let silent = detection(n, End::Silent, seeds);
        let lost = detection(n, End::Lost, seeds);
        let refused = detection(n, End::Refused, seeds);
        println!("{n:>7}  {silent:?}  {lost:?}  {refused:?}");
        assert!(silent.1 < max, "{n} members: {} ms", silent.1);
        assert!(lost.1 < 1_500, "{n} members with hints: {} ms", lost.1);
        assert!(refused.0 < 1_000, "{n} members, port refused: {} ms", refused.0);
    }
}

/// Lifeguard's point: more eyes are quicker. With confirmations switched off (as in a crowd)
/// this takes longer, and one accuser alone takes longer still.
#[test]
fn confirmations_shorten_the_wait_and_their_absence_prolongs_it() {
    use super::settings::{CROWD, confirmations, fuse, stretched};
    let wanted = confirmations(64);
    let waits: Vec<Duration> = (0..=wanted).map(|c| stretched(fuse(64), wanted, c)).collect();
    assert!(waits.is_sorted_by(|a, b| a > b), "{waits:?}");
    assert_eq!((waits[0], waits[wanted]), (fuse(64) * 3, fuse(64)));
    assert_eq!((confirmations(2), confirmations(3), confirmations(CROWD + 1)), (0, 1, 0));
    // One cut link: the accuser asks in vain, everybody else is answered.
    let mut sim = Sim::started(16, 4, Faults::LAN);
    sim.changes.clear();
    sim.cut = [(0, 1), (1, 0)].into();
    sim.run(120 * SECOND);
    assert_eq!(sim.downs(|_| true), 0, "a cut link buries nobody");
}

fn false_accusations(n: usize, faults: Faults, seeds: u64, span: Duration) -> usize {
    (0..seeds)
        .map(|seed| {
            let mut sim = Sim::started(n, seed, faults);
            sim.changes.clear();
            sim.run(span);
            let downs = sim.downs(|_| true);
            println!("{n} members, {} % loss, seed {seed}: {downs} false", faults.loss_percent);
            downs
        })
        .sum()
}

#[test]
fn nobody_is_accused_falsely_on_a_lan() {
    assert_eq!(false_accusations(5, Faults::LAN, 2, 600 * SECOND), 0);
    assert_eq!(false_accusations(32, Faults::LAN, 1, 600 * SECOND), 0);
}

/// A third of the members get the processor for a moment and then not for long.
#[test]
fn the_starved_accuse_nobody() {
    for seed in 0..2 {
        let (n, sick) = (64, 21);
        let mut sim = Sim::started(n, seed, Faults::LAN);
        let mut chance = Random::new(seed);
        sim.changes.clear();
        for _ in 0..60 {
            (0..sick).for_each(|i| sim.pause(i));
            sim.run(ms(150) + chance.duration_below(ms(700)));
            (0..sick).for_each(|i| sim.resume(i));
            sim.run(chance.duration_below(ms(60)));
        }
        let (healthy, starved) = (sim.downs(|i| i >= sick), sim.downs(|i| i < sick));
        println!("seed {seed}: a third starved: accused {healthy} healthy, {starved} starved");
        assert_eq!(healthy, 0);
    }
}

#[test]
fn nobody_is_accused_falsely_at_ten_percent_loss() {
    assert_eq!(false_accusations(5, Faults::ROUGH, 3, 600 * SECOND), 0);
    assert_eq!(false_accusations(32, Faults::ROUGH, 1, 600 * SECOND), 0);
}

#[test]
fn a_killed_member_returns_at_once() {
    for faults in [Faults::LAN, Faults::ROUGH] {
        let mut times = Vec::new();
        for (n, seed) in (0..10).map(|seed| (5, seed)).chain((0..3).map(|seed| (32, seed))) {
            let mut sim = Sim::started(n, seed, faults);
            sim.kill(1);
            sim.run(ms(300 + 2_500 * seed));
            sim.start(1);
            let took = sim.run_until(20 * SECOND, Sim::all_live).expect("it returned");
            times.push(took);
        }
        let (mean, worst) = summary(&times);
        println!("{} % loss: returned after {mean} ms (max {worst})", faults.loss_percent);
        assert!(worst < 2_000, "{worst} ms");
    }
}

#[test]
fn a_member_that_forgot_its_generation_returns() {
    for seed in 0..5 {
        let mut sim = Sim::started(5, seed, Faults::LAN);
        sim.kill(2);
        sim.run(10 * SECOND);
        sim.start_as(2, 3);
        let took = sim.run_until(20 * SECOND, Sim::all_live).expect("it returned");
        assert!(took < 2 * SECOND, "seed {seed}: {took:?}");
    }
}

#[test]
fn a_partition_heals() {
    for (n, cut, length, max) in [(5, 2, 30, 5_000), (2, 1, 60, 5_000), (32, 10, 120, 10_000)] {
        let mut times = Vec::new();
        for seed in 0..8 {
            let mut sim = Sim::started(n, seed, Faults::LAN);
            sim.side = (0..cut).map(|i| (i, 1)).collect();
            sim.run(length * SECOND);
            for i in 0..n {
                for j in 0..n {
                    let together = (i < cut) == (j < cut);
                    assert_eq!(sim.machine(i).is_live(id(j)), together, "seed {seed}: {i} {j}");
                }
            }
            sim.side.clear();
            let took = sim.run_until(60 * SECOND, Sim::all_live).expect("it healed");
            times.push(took);
        }
        let (mean, worst) = summary(&times);
        println!("{cut} | {} for {length} s: healed after {mean} ms (max {worst})", n - cut);
        assert!(worst < max, "{worst} ms");
    }
}

/// Whoever is renewed while it suspects others takes that up again: nobody stays a suspect.
#[test]
fn no_suspicion_stands_for_ever() {
    for seed in 0..30 {
        let n = 5 + seed as usize % 3;
        let mut sim = Sim::started(n, seed, Faults::LAN);
        sim.side = [(0, 1)].into();
        sim.run(ms(900 + 177 * seed));
        sim.side.clear();
        sim.run(6 * SECOND);
        assert!(sim.all_live(), "seed {seed}");
        assert_eq!(sim.suspects(), [], "seed {seed}: who sees whom as a suspect");
    }
}

#[test]
fn islands_always_merge() {
    for seed in 0..6 {
        let n = 25;
        let mut sim = Sim::new(n, seed, Faults::ROUGH);
        // Three islands from the first moment on, for longer than any backoff.
        sim.side = (0..n).map(|i| (i, i % 3)).collect();
        for i in 0..n {
            sim.start(i);
        }
        sim.run(90 * SECOND);
        assert!(!sim.all_live());
        sim.side.clear();
        let took = sim.run_until(60 * SECOND, Sim::all_live).expect("they merged");
        assert!(took < 10 * SECOND, "seed {seed}: {took:?}");
    }
}

/// Any pattern of lost joins: each link works or not, another one for each pair and each
/// second, and it ends in one cluster as soon as the network allows it.
#[test]
fn no_islands_and_no_lonely_members() {
    for seed in 0..20 {
        let mut chance = Random::new(seed);
        let n = 3 + chance.below(30) as usize;
        let mut sim = Sim::new(n, seed, if seed % 2 == 0 { Faults::LAN } else { Faults::ROUGH });
        let working = 3 + chance.below(40);
        for _ in 0..30 {
            let stopped: Vec<usize> = (0..n).filter(|i| !sim.running().any(|j| j == *i)).collect();
            for i in stopped {
                if chance.below(4) == 0 {
                    sim.start(i);
                }
            }
            let links = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
            sim.cut = links.filter(|_| chance.below(100) >= working).collect();
            match chance.below(6) {
                0 => sim.side = (0..n).map(|i| (i, chance.below(4) as usize)).collect(),
                1 => sim.side.clear(),
                2 => sim.kill(chance.below(n as u64) as usize),
                _ => {}
            }
            sim.run(chance.duration_below(3 * SECOND));
        }
        sim.side.clear();
        sim.cut.clear();
        let stopped: Vec<usize> = (0..n).filter(|i| !sim.running().any(|j| j == *i)).collect();
        stopped.into_iter().for_each(|i| sim.start(i));
        let took = sim.run_until(60 * SECOND, Sim::all_live);
        let took = took.unwrap_or_else(|| panic!("seed {seed}: {n} members became one cluster"));
        println!("seed {seed}: {n} members, {working} % of the links: one after {took:?}");
        assert!(took < 10 * SECOND, "seed {seed}: {took:?}");
        sim.changes.clear();
        sim.run(30 * SECOND);
        assert_eq!(sim.downs(|_| true), 0, "seed {seed}: and they stay one");
    }
}

/// What gossip has long forgotten, a newcomer learns from whom it meets first.
#[test]
fn a_newcomer_is_told_everything_by_the_first_that_answers() {
    let n = 100;
    let mut sim = Sim::new(n, 5, Faults::LAN);
    (0..n - 1).for_each(|i| sim.start(i));
    sim.run(60 * SECOND);
    // It can talk to one member only.
    sim.side = [(n - 1, 1), (0, 1)].into();
    sim.start(n - 1);
    let took = sim.run_until(ms(900), |sim| sim.live_at(n - 1) == n);
    println!("a newcomer knows all {n} after {took:?}");
    assert!(took.is_some(), "it knows {} of {n}", sim.live_at(n - 1));
}

/// News that gossip has ceased to carry still arrives.
#[test]
fn missed_news_arrives_by_comparing() {
    let mut sim = Sim::started(8, 5, Faults::LAN);
    // Nobody's packets about the goodbye reach member 0, and gossip ends meanwhile.
    sim.side = [(0, 1)].into();
    sim.leave(7);
    sim.run(ms(450));
    sim.side.clear();
    let knows = |sim: &Sim| sim.machine(0).directory().get(&id(7)).map(|c| c.state);
    let took = sim.run_until(60 * SECOND, |sim| knows(sim) == Some(State::Left));
    println!("missed a goodbye: knows after {took:?}");
    assert!(took.is_some(), "{:?}", knows(&sim));
}

#[test]
fn a_one_way_cut_is_seen_from_both_ends() {
    let mut sim = Sim::started(12, 3, Faults::LAN);
    sim.changes.clear();
    let all =
        |sim: &Sim| (0..12).all(|i| (0..12).all(|j| i == j || sim.machine(i).is_reached(id(j))));
    assert!(all(&sim), "all reach all");
    sim.cut = [(2, 5)].into();
    let unreached = |sim: &Sim, i: usize, j: usize| !sim.machine(i).is_reached(id(j));
    let took = sim.run_until(30 * SECOND, |sim| unreached(sim, 2, 5) && unreached(sim, 5, 2));
    println!("a one-way cut among 12 was seen after {took:?}");
    assert!(took.is_some());
    let others = (0..12).flat_map(|i| (0..12).map(move |j| (i, j)));
    let others = others.filter(|(i, j)| i != j && ![(2, 5), (5, 2)].contains(&(*i, *j)));
    assert!(others.into_iter().all(|(i, j)| !unreached(&sim, i, j)), "nobody else");
    assert!(sim.all_live() && sim.downs(|_| true) == 0, "it is live, by what others say");
    // And everybody can tell who doesn't reach whom. Those two hear it of each other
    // through the rest only.
    sim.run(60 * SECOND);
    for i in 0..12 {
        let reach = sim.machine(i).reach();
        assert_eq!(reach.len(), 12);
        for Reach { member, unreached, .. } in reach {
            let expected: std::collections::BTreeSet<_> = match member {
                who if who == id(2) => [id(5)].into(),
                who if who == id(5) => [id(2)].into(),
                _ => [].into(),
            };
            assert_eq!(unreached, Some(expected), "{i} of {member}");
        }
    }
    sim.cut.clear();
    let took = sim.run_until(30 * SECOND, all);
    println!("and its end after {took:?}");
    assert!(took.is_some_and(|took| took < 10 * SECOND), "{took:?}");
}

/// A member of which others tell is live, and given no work before it answered us.
#[test]
fn hearsay_is_not_reach() {
    let mut sim = Sim::new(6, 3, Faults::LAN);
    sim.cut = [(0, 5), (5, 0)].into();
    (0..6).for_each(|i| sim.start(i));
    sim.run(3 * SECOND);
    assert!(sim.machine(0).is_live(id(5)) && !sim.machine(0).is_reached(id(5)));
    assert!(sim.machine(1).is_reached(id(5)));
}

/// Two sites: the distance between any two members, told by a third.
#[test]
fn round_trips_are_told_by_members_that_never_measured_them() {
    let n = 16;
    let mut sim = Sim::started(n, 3, Faults::LAN);
    sim.far = (0..n / 2).collect();
    sim.run(300 * SECOND);
    let rtt = |sim: &Sim, a, b| sim.machine(3).round_trip(id(a), id(b)).expect("both said");
    let (near, far) = (rtt(&sim, 9, 12), rtt(&sim, 1, 12));
    println!("round trips: {near:?} inside a site, {far:?} between the two");
    assert!(near < ms(8) && far > ms(25) && far < ms(60));
}

/// A network where a round trip takes 300 ms and more: at the pace of a local one members
/// accuse each other, at that of a wide one they don't, and the dead are found.
#[test]
fn a_wide_network_needs_the_wide_pace() {
    let wide =
        Faults { loss_percent: 3, duplicate_percent: 0, delay_min: ms(140), delay_max: ms(260) };
    let suspicions = |pace| {
        let mut sim = Sim::new(12, 9, wide);
        sim.pace = pace;
        (0..12).for_each(|i| sim.start(i));
        sim.run(20 * SECOND);
        assert!(sim.all_live(), "pace {pace}");
        sim.changes.clear();
        sim.run(300 * SECOND);
        let suspected = sim.changes.iter().filter(|c| c.3 == State::Suspect).count();
        let downs = sim.downs(|_| true);
        sim.kill(4);
        let took = sim.run_until(60 * SECOND, |sim| sim.all_see(4, State::Down));
        println!("pace {pace}: {suspected} suspicions, {downs} false, a kill known after {took:?}");
        assert!(took.is_some());
        (suspected, downs)
    };
    let (lan, wan) = (suspicions(1), suspicions(4));
    assert_eq!(wan.1, 0);
    assert!(wan.0 * 10 < lan.0, "{wan:?} {lan:?}");
}

#[test]
fn a_mass_start_meets_within_a_second() {
    for (faults, seed) in [(Faults::LAN, 1), (Faults::LAN, 2), (Faults::ROUGH, 3)] {
        let mut sim = Sim::new(64, seed, faults);
        for i in 0..64 {
            sim.start(i);
        }
        let took = sim.run_until(30 * SECOND, Sim::all_live).expect("they met");
        println!("64 members met after {} ms, {} bytes", took.as_millis(), sim.sent_bytes());
        assert!(took < SECOND, "{took:?}");
    }
}

#[test]
fn members_that_stand_still_accuse_nobody() {
    for (n, sick, seeds) in [(5, 1, 4), (64, 8, 2)] {
        for seed in 0..seeds {
            let mut sim = Sim::started(n, seed, Faults::LAN);
            sim.changes.clear();
            for _ in 0..10 {
                (0..sick).for_each(|i| sim.pause(i));
                sim.run(8 * SECOND);
                (0..sick).for_each(|i| sim.resume(i));
                sim.run(ms(500));
            }
            let falsely = sim.downs(|i| i >= sick);
            println!("{n} members, {sick} stand still: {falsely} healthy ones accused");
            assert_eq!(falsely, 0);
            let took = sim.run_until(20 * SECOND, Sim::all_live).expect("all live again");
            assert!(took < 3 * SECOND, "{took:?}");
        }
    }
}

#[test]
fn a_member_that_hears_a_fifth_buries_nobody_for_long() {
    let mut sim = Sim::started(20, 5, Faults::LAN);
    sim.changes.clear();
    // Member 0 receives from every fifth only.
    sim.cut = (1..20).filter(|i| i % 5 != 0).map(|i| (i, 0)).collect();
    sim.run(60 * SECOND);
    let others = sim.changes.iter().filter(|c| c.1 != 0 && c.2 != 0 && c.3 == State::Down).count();
    println!("one hears a fifth: {others} false verdicts about healthy members at others");
    assert!(others < 5, "others have heard them, or ask first");
    let healthy = |i: usize| (1..20).all(|j| sim.machine(i).is_live(id(j)));
    assert!((1..20).all(healthy));
}

#[test]
fn an_isolated_member_buries_nobody() {
    for (n, hints) in [(5, false), (5, true), (16, false), (16, true)] {
        let mut sim = Sim::started(n, 8, Faults::LAN);
        let generations: Vec<u64> = (1..n).map(|i| sim.machine(i).generation()).collect();
        sim.changes.clear();
        sim.side = [(0, 1)].into();
        if hints {
            for i in 1..n {
                sim.inject(0, Input::Lost { member: id(i) });
                sim.inject(i, Input::Lost { member: id(0) });
            }
        }
        sim.run(20 * SECOND);
        assert!(sim.all_see(0, State::Down));
        assert!((1..n).all(|i| !sim.machine(0).is_live(id(i))), "it sees that it is alone");
        sim.side.clear();
        let took = sim.run_until(20 * SECOND, Sim::all_live).expect("it is back");
        assert!(took < 3 * SECOND, "{took:?}");
        sim.run(30 * SECOND);
        let buried = |c: &&(Time, usize, usize, State)| c.1 != 0 && c.2 != 0 && c.3 == State::Down;
        assert_eq!(sim.changes.iter().filter(buried).count(), 0, "{n} members, hints: {hints}");
        let after: Vec<u64> = (1..n).map(|i| sim.machine(i).generation()).collect();
        assert_eq!(after, generations, "nobody had to renew but the one");
    }
}

#[test]
fn an_idle_member_sends_little() {
    for n in [5, 16, 64] {
        let mut sim = Sim::started(n, 9, Faults::LAN);
        sim.run(60 * SECOND);
        let (before, packets) = (sim.sent_bytes(), sim.packets);
        sim.run(60 * SECOND);
        let rate = (sim.sent_bytes() - before) / 60 / n as u64;
        let packets = (sim.packets - packets) as f64 / 60.0 / n as f64;
        println!("{n} members: {rate} bytes/s and {packets:.1} packets/s each, idle");
        assert!(rate < 1_000);
    }
}

#[test]
fn after_any_trouble_all_meet_again() {
    for seed in 0..12 {
        let n = 3 + seed as usize % 10;
        let mut sim = Sim::started(n, seed, Faults::ROUGH);
        let mut chance = Random::new(seed);
        for _ in 0..60 {
            let who = chance.below(n as u64) as usize;
            let runs = sim.running().any(|i| i == who);
            match chance.below(8) {
                0 if runs => sim.kill(who),
                1 if runs => sim.leave(who),
                0 | 1 => sim.start(who),
                2 if runs => sim.pause(who),
                3 => (0..n).for_each(|i| sim.resume(i)),
                4 => drop(sim.side.insert(who, chance.below(3) as usize)),
                5 => sim.side.clear(),
                6 => drop(sim.cut.insert((who, chance.below(n as u64) as usize))),
                _ => sim.cut.clear(),
            }
            sim.run(chance.duration_below(3 * SECOND));
        }
        sim.side.clear();
        sim.cut.clear();
        (0..n).for_each(|i| sim.resume(i));
        let stopped: Vec<usize> = (0..n).filter(|i| !sim.running().any(|j| j == *i)).collect();
        stopped.into_iter().for_each(|i| sim.start(i));
        let took = sim.run_until(60 * SECOND, Sim::all_live);
        let took = took.unwrap_or_else(|| panic!("seed {seed}: {n} members met again"));
        println!("seed {seed}: {n} members met again after {} ms", took.as_millis());
        assert!(took < 10 * SECOND, "seed {seed}: {took:?}");
        sim.changes.clear();
        sim.run(60 * SECOND);
        assert_eq!(sim.downs(|_| true), 0, "seed {seed}: and stay together");
    }
}

#[test]
fn leaving_is_told_from_dying() {
    let mut sim = Sim::started(5, 3, Faults::LAN);
    sim.leave(4);
    let took = sim.run_until(5 * SECOND, |sim| sim.all_see(4, State::Left)).expect("they know");
    assert!(took < SECOND, "{took:?}");
    sim.run(60 * SECOND);
    assert!(sim.all_see(4, State::Left));
    sim.start(4);
    let took = sim.run_until(5 * SECOND, Sim::all_live).expect("it came back");
    assert!(took < 2 * SECOND, "{took:?}");
}

/// An observer that restarts was told nothing by the one that left: the others tell it.
#[test]
fn who_left_has_left_for_an_observer_that_restarts_too() {
    let mut sim = Sim::started(5, 3, Faults::LAN);
    sim.leave(4);
    sim.run(60 * SECOND);
    for observer in 0..3 {
        sim.kill(observer);
        sim.run(3 * SECOND);
        sim.start(observer);
        let took = sim.run_until(30 * SECOND, |sim| sim.all_see(4, State::Left));
        println!("restarted observer {observer} knows of the leave after {took:?}");
        assert!(took.is_some_and(|took| took < 2 * SECOND), "{took:?}");
    }
    sim.kill(3);
    sim.run(10 * SECOND);
    assert!(sim.all_see(3, State::Down) && sim.all_see(4, State::Left), "told apart");
}

#[test]
fn a_removed_member_is_forgotten_and_stays_so() {
    let mut sim = Sim::started(5, 3, Faults::LAN);
    sim.set_roster(&roster(0..4));
    sim.run(30 * SECOND);
    for i in 0..4 {
        assert!(!sim.machine(i).directory().contains_key(&id(4)));
        assert!(!sim.machine(i).is_live(id(4)));
    }
    // The removed one, whom nobody answers any more, may think what it likes.
    assert!(sim.changes.iter().all(|c| c.1 == 4 || c.3 != State::Down));
    sim.set_roster(&roster(0..5));
    let took = sim.run_until(5 * SECOND, Sim::all_live).expect("it is enrolled again");
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = Sim::started(12, seed, Faults::ROUGH);
        sim.kill(3);
        sim.run(20 * SECOND);
        sim.start(3);
        sim.run(20 * SECOND);
        (sim.trace, sim.packets, sim.changes)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn a_stranger_is_not_heard() {
    let mut machine = Membership::new(Time(0), id(0), address(0), 1, 1);
    let mut effects = Vec::new();
    machine.set_roster(Time(0), &roster(0..2), &mut effects);
    let mut stranger = Membership::new(Time(0), id(7), address(7), 1, 2);
    let mut out = Vec::new();
    stranger.set_roster(Time(0), &roster([0, 7]), &mut out);
    stranger.tick(Time(1_000_000), &mut out);
    let bytes = out
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Send { bytes, .. } => Some(bytes),
            _ => None,
        })
        .expect("it knocks");
    effects.clear();
    for from in [id(7), id(1)] {
        machine.handle(Time(1), Input::Packet { from, bytes: bytes.clone() }, &mut effects);
    }
    assert_eq!(effects, []);
    assert!(!machine.is_live(id(7)));
}

#[test]
fn the_machine_can_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Membership>();
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..1_200),
    ) {
        let mut sim = Sim::new(3, 1, Faults::LAN);
        (0..3).for_each(|i| sim.start(i));
        sim.run(SECOND);
        sim.inject(0, Input::Packet { from: id(1), bytes });
        sim.run(SECOND);
        prop_assert!(sim.all_live());
    }

    #[test]
    fn a_damaged_packet_never_panics(
        at in 0_usize..1_100,
        value in any::<u8>(),
        cut in 0_usize..1_100,
    ) {
        let mut out = Vec::new();
        let mut peer = Membership::new(Time(0), id(1), address(1), 1, 2);
        peer.set_roster(Time(0), &roster(0..3), &mut out);
        peer.tick(Time(100_000), &mut out);
        let mut machine = Membership::new(Time(0), id(0), address(0), 1, 1);
        machine.set_roster(Time(0), &roster(0..3), &mut Vec::new());
        for effect in out {
            let Effect::Send { mut bytes, .. } = effect else { continue };
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(length - cut % length);
            let mut effects = Vec::new();
            machine.handle(Time(5), Input::Packet { from: id(1), bytes }, &mut effects);
            machine.tick(Time(3_000_000), &mut effects);
        }
    }
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let generation = prop_oneof![0..3_u64, Just(1_001), 1_000..1_010_u64, any::<u64>()];
    (0_usize..6, 0_usize..6, generation)
        .prop_map(|(who, at, generation)| Identity::new(id(who), address(at), generation))
}

fn any_message() -> impl Strategy<Value = Message<Identity>> {
    (0..10, any_identity(), any::<u8>()).prop_map(|(kind, other, probe_number)| match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: other, probe_number },
        3 => Message::IndirectPing { origin: other, probe_number },
        4 => Message::IndirectAck { target: other, probe_number },
        5 => Message::ForwardedAck { origin: other, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        _ => Message::TurnUndead,
    })
}

fn any_update() -> impl Strategy<Value = Member<Identity>> {
    let incarnation = prop_oneof![0..4_u16, Just(u16::MAX)];
    (any_identity(), incarnation, 0_usize..3).prop_map(|(id, incarnation, state)| {
        let states = [foca::State::Alive, foca::State::Suspect, foca::State::Down];
        Member::new(id, incarnation, states[state])
    })
}

proptest! {
    /// Packets that read well and lie: from an enrolled member about others,
    /// strangers (4 and 5) and the receiver (0) itself.
    #[test]
    fn lies_bring_no_stranger_in_and_never_panic(
        packets in proptest::collection::vec(
            (1_usize..6, any_identity(), any::<u16>(), any_identity(), any_message(),
             proptest::collection::vec(any_update(), 0..8), 0_u64..400),
            1..40,
        ),
    ) {
        let mut machine = Membership::new(Time(0), id(0), address(0), 1_001, 1);
        let mut effects = Vec::new();
        machine.set_roster(Time(0), &roster(0..4), &mut effects);
        let mut now = Time(0);
        for (from, src, src_incarnation, dst, message, updates, pause) in packets {
            // Mostly what passes the first checks.
            let src = Identity { member: id(from), ..src };
            let mine = Identity::new(id(0), address(0), machine.generation());
            let dst = if pause % 4 == 0 { dst } else { mine };
            let header = Header { src, src_incarnation, dst, message };
            let Ok((bytes, _)) = (Packet { header, updates }).encode() else { continue };
            now = now + ms(pause);
            machine.handle(now, Input::Packet { from: id(from), bytes }, &mut effects);
            machine.tick(now, &mut effects);
        }
        prop_assert!(machine.directory().keys().eq(roster(1..4).members.iter().map(|m| m.id)
            .collect::<std::collections::BTreeSet<_>>()));
        for effect in effects {
            match effect {
                Effect::Send { to, bytes, .. } => {
                    prop_assert!(machine.directory().contains_key(&to));
                    prop_assert!(bytes.len() <= limits::SWIM_PACKET_MAX);
                    prop_assert!(Packet::decode(&bytes).is_ok() || Aside::decode(&bytes).is_ok());
                }
                Effect::Exchange { to, .. } => prop_assert!(machine.directory().contains_key(&to)),
                Effect::Changed { member, .. }
                | Effect::Reached { member, .. }
                | Effect::Moved { member, .. } => {
                    prop_assert!(machine.directory().contains_key(&member));
                }
                Effect::Generation(_) => {}
            }
        }
    }
}
