//! What the detector promises, over several seeds each, in virtual time.

use std::time::Duration;

use foca::Member;

use super::{
    Effect, Input, Membership, State,
    random::Random,
    sim::{Faults, Sim, address, id, ms, roster},
};
use crate::base::Time;

mod hostile;
mod links;

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
            // Until nobody is young any more.
            sim.run(super::settings::youth(n) + ms(137 * seed));
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

/// `cargo test --lib membership::tests::how_it_scales -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes: it prints the table of docs/performance.md"]
fn how_it_scales() {
    println!(
        "members  mass start  killed: silent / refused, mean (max) ms  idle bytes/s, packets/s"
    );
    for (n, seeds) in [(10, 20), (32, 10), (64, 10), (100, 5), (128, 5), (256, 3), (1_000, 2)] {
        let mut sim = Sim::new(n, 1, Faults::LAN);
        (0..n).for_each(|i| sim.start(i));
        let met = sim.run_until(60 * SECOND, Sim::all_live).expect("they meet");
        sim.run(30 * SECOND);
        let (bytes, packets) = (sim.sent_bytes(), sim.packets);
        sim.run(60 * SECOND);
        let bytes = (sim.sent_bytes() - bytes) / 60 / n as u64;
        let packets = (sim.packets - packets) as f64 / 60.0 / n as f64;
        let silent = detection(n, End::Silent, seeds);
        let refused = detection(n, End::Refused, seeds);
        let met = met.as_millis();
        println!("{n:>7}  {met:>7} ms  {silent:?} / {refused:?}  {bytes:>5}  {packets:.1}");
    }
}

/// Ten thousand members in one process are a hundred million of these.
#[test]
fn what_is_known_of_a_peer_is_small() {
    use super::{run::Run, table::Peer};
    assert!(size_of::<Peer>() <= 72, "{} bytes", size_of::<Peer>());
    assert!(size_of::<Member<Run>>() <= 24, "{} bytes", size_of::<Member<Run>>());
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

/// Of a crowd, one is killed and comes back, and soon after that the next is killed: who has just
/// come back knows of it no later than the others.
#[test]
fn who_has_just_returned_learns_of_a_death_in_time() {
    let (mut back, mut known, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..6 {
        let mut sim = Sim::started(64, seed, Faults::LAN);
        sim.refusals = true;
        sim.run(30 * SECOND);
        for victim in 1..5 {
            sim.changes.clear();
            sim.kill(victim);
            let took = sim.run_until(20 * SECOND, |sim| sim.all_see(victim, State::Down));
            known.push(took.expect("all know"));
            let is_death = |c: &&(Time, usize, usize, State)| c.2 == victim && c.3 == State::Down;
            let first = sim.changes.iter().find(is_death).expect("somebody was first").0;
            apart.push(sim.now.since(first));
            sim.run(2 * SECOND);
            sim.start(victim);
            back.push(sim.run_until(20 * SECOND, Sim::all_live).expect("it returned"));
            sim.run(2 * SECOND);
        }
    }
    let ((mean, worst), (later, latest)) = (summary(&known), summary(&apart));
    println!(
        "killed: all know after {mean} ms (max {worst}), {later} ms after the first ({latest})"
    );
    let (mean, worst) = summary(&back);
    println!("returned: all know after {mean} ms (max {worst})");
    assert!(latest < 100, "{latest} ms");
    assert!(worst < 500, "{worst} ms");
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

/// A handshake for each pair that talks is what a mass start costs, so few should have to before
/// all know all: not each with each. As real ones do, they start one after another.
#[test]
fn a_mass_start_needs_few_handshakes() {
    for seed in 0..4 {
        let n = 64;
        let mut sim = Sim::new(n, seed, Faults::LAN);
        sim.refusals = true;
        for i in 0..n {
            sim.start(i);
            sim.run(ms(10));
        }
        let took = sim.run_until(30 * SECOND, Sim::all_live).expect("they met");
        let (talks, pairs) = (sim.talks.len(), n * (n - 1) / 2);
        println!(
            "seed {seed}: all met {took:?} after the last start, {talks} of {pairs} pairs talked"
        );
        assert!(took < SECOND, "seed {seed}: {took:?}");
        assert!(talks < pairs / 2, "seed {seed}: {talks} of {pairs} pairs");
        assert!(sim.suspects().is_empty(), "seed {seed}: nobody is suspected");
        // And then each asks each, without haste.
        sim.run(5 * SECOND);
        let reached = |i: usize| (0..n).all(|j| sim.machine(i).is_reached(id(j)));
        assert!((0..n).all(reached), "seed {seed}: all reach all");
        assert_eq!(sim.downs(|_| true), 0, "seed {seed}");
    }
}

/// Each pair that talks shakes hands, and who has just been enrolled starts as well: the others come
/// as they hear of it, and not all at the same moment.
#[test]
fn a_newcomer_is_not_greeted_by_all_at_once() {
    for seed in 0..4 {
        let n = 64;
        let mut sim = Sim::new(n, seed, Faults::LAN);
        (1..n).for_each(|i| sim.start(i));
        sim.run(30 * SECOND);
        assert!(sim.talks.iter().all(|pair| pair.0 != 0), "seed {seed}: it has not started");
        sim.start(0);
        let greeted = |sim: &Sim| sim.talks.iter().filter(|pair| pair.0 == 0).count();
        let took = sim.run_until(20 * SECOND, |sim| greeted(sim) >= n / 2).expect("they talk");
        println!("seed {seed}: half of the others have greeted it after {took:?}");
        assert!(took > ms(200), "seed {seed}: {took:?}");
        assert!(took < 2 * SECOND, "seed {seed}: {took:?}");
    }
}

/// As where 64 processes share two busy processors: first answers take seconds.
#[test]
fn a_slow_mass_start_accuses_nobody() {
    for seed in 0..2 {
        let n = 64;
        let slow = Faults { delay_min: ms(500), delay_max: ms(4_000), ..Faults::LAN };
        let mut sim = Sim::new(n, seed, slow);
        (0..n).for_each(|i| sim.start(i));
        sim.run(5 * SECOND);
        assert_eq!(sim.suspects(), [], "seed {seed}");
        sim.faults = Faults::LAN;
        let took = sim.run_until(20 * SECOND, Sim::all_live).expect("they met");
        println!("seed {seed}: all met {took:?} after the network was quick again");
        sim.run(10 * SECOND);
        assert!(sim.all_live(), "seed {seed}");
        assert_eq!(sim.downs(|_| true), 0, "seed {seed}");
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
fn the_machine_can_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Membership>();
}
