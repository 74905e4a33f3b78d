//! Islands, newcomers, cut links and wide networks.

use foca::{Header, Message};

use super::*;
use crate::proto::membership::{
    Reach,
    packet::{Identity, Packet},
    settings,
};

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

/// One dies while nobody hears anybody: when the network is back, somebody passes the verdict, also
/// where timers come late, as real ones do.
#[test]
fn a_death_that_nobody_saw_is_settled() {
    for seed in 0..10 {
        let n = 5;
        let mut sim = Sim::new(n, seed, Faults::LAN);
        sim.late = ms(1);
        (0..n).for_each(|i| sim.start(i));
        sim.run(10 * SECOND);
        sim.side = (0..n).map(|i| (i, i)).collect();
        sim.run(SECOND);
        sim.kill(1);
        sim.run(4 * SECOND);
        sim.side.clear();
        sim.run(10 * SECOND);
        let open: Vec<usize> = sim.running().filter(|i| sim.machine(*i).suspicions() > 0).collect();
        assert!(open.is_empty(), "seed {seed}: {open:?} still suspect somebody");
        assert!(sim.all_see(1, State::Down), "seed {seed}");
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

/// Who asks a run that is no more is told by the run that came after it, and needs neither gossip
/// nor a verdict about the old one.
#[test]
fn who_asks_an_earlier_run_hears_of_the_newer_one() {
    let mut machine = Membership::new(Time(0), id(0), address(0), 1_002, 1);
    machine.set_roster(Time(0), &roster(0..2), &mut Vec::new());
    machine.tick(Time(100), &mut Vec::new());
    for (asked, message, answers) in [
        (1_001, Message::Ping(3), true),
        (1_001, Message::Gossip, false),
        (1_003, Message::Ping(3), false),
    ] {
        let src = Identity::new(id(1), address(1), 7);
        let dst = Identity::new(id(0), address(0), asked);
        let header = Header { src, src_incarnation: 0, dst, message };
        let (bytes, _) = Packet { header, updates: Vec::new() }.encode().unwrap();
        let mut effects = Vec::new();
        machine.handle(Time(200), Input::Packet { from: id(1), bytes }, &mut effects);
        let sent = effects.iter().find_map(|effect| match effect {
            Effect::Send { to, bytes, .. } => Some((*to, Packet::decode(bytes).unwrap().header)),
            _ => None,
        });
        assert_eq!(sent.is_some(), answers, "{asked}: {sent:?}");
        if let Some((to, header)) = sent {
            assert_eq!((to, header.dst, header.src.generation), (id(1), src, 1_002));
        }
    }
}

/// What gossip has long forgotten, a newcomer learns from whom it meets first.
#[test]
fn a_newcomer_is_told_everything_by_the_first_that_answers() {
    let n = 100;
    // The one that answers is among the first that it knocks at, or among the rest.
    let within = settings::KNOCK_REST + settings::knock_rest_within(n) + ms(100);
    for seed in 5..8 {
        let mut sim = Sim::new(n, seed, Faults::LAN);
        (0..n - 1).for_each(|i| sim.start(i));
        sim.run(60 * SECOND);
        // It can talk to one member only.
        sim.side = [(n - 1, 1), (0, 1)].into();
        sim.start(n - 1);
        let took = sim.run_until(within, |sim| sim.live_at(n - 1) == n);
        println!("seed {seed}: a newcomer knows all {n} after {took:?}");
        assert!(took.is_some(), "seed {seed}: it knows {} of {n}", sim.live_at(n - 1));
    }
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

/// Once it was asked for a while everybody is told, and told when it is over: nobody is
/// reported to be out of reach who only comes back.
#[test]
fn who_returns_is_not_reported_out_of_reach() {
    for seed in 0..20 {
        let mut sim = Sim::started(5, seed, Faults::LAN);
        sim.kill(1);
        sim.run(ms(300 + 200 * seed));
        sim.start(1);
        for _ in 0..80 {
            sim.run(ms(100));
            for Reach { member, unreached, .. } in (0..5).flat_map(|i| sim.machine(i).reach()) {
                let fine = unreached.is_none_or(|names| names.is_empty());
                assert!(fine, "seed {seed}: {member} tells of one out of reach");
            }
        }
    }
}

/// One was cut off and comes back, and a single way to it works some seconds later than the rest,
/// as where a dial that began too soon has to run out: that is not worth a word.
#[test]
fn a_first_answer_has_time() {
    for seed in 0..10 {
        let mut sim = Sim::started(5, seed, Faults::LAN);
        sim.side = [(4, 1)].into();
        sim.run(15 * SECOND);
        sim.side.clear();
        sim.cut = [(2, 4), (4, 2)].into();
        let took = sim.run_until(5 * SECOND, Sim::all_live).expect("all hear of all");
        println!("seed {seed}: all hear of all {took:?} after the partition");
        for _ in 0..40 {
            sim.run(ms(100));
            for Reach { member, unreached, .. } in (0..5).flat_map(|i| sim.machine(i).reach()) {
                let fine = unreached.is_none_or(|names| names.is_empty());
                assert!(fine, "seed {seed}: {member} misses somebody");
            }
        }
        assert!(!sim.machine(2).is_reached(id(4)), "seed {seed}: and it is given no work");
        sim.run(10 * SECOND);
        let missing = |r: &Reach| r.unreached.as_ref().is_some_and(|names| !names.is_empty());
        assert!(sim.machine(0).reach().iter().any(missing), "seed {seed}: but not for ever");
    }
}

/// A member says that another is out of its reach, then loses sight of that one, or of all:
/// when the network is whole again, nobody goes on believing it.
#[test]
fn what_was_said_of_reach_is_taken_back() {
    for seed in 0..20 {
        let mut sim = Sim::started(5, seed, Faults::LAN);
        sim.cut = [(1, 2)].into();
        sim.run(10 * SECOND);
        let said = |sim: &Sim| {
            let reach = (0..5).flat_map(|i| sim.machine(i).reach());
            reach.filter(|r| r.unreached.as_ref().is_some_and(|names| !names.is_empty())).count()
        };
        assert!(said(&sim) >= 5, "seed {seed}: {}", said(&sim));
        let lost = if seed % 2 == 0 { 2 } else { 4 };
        let others = (0..5).filter(|i| *i != lost);
        sim.cut.extend(others.flat_map(|i| [(i, lost), (lost, i)]));
        sim.run(10 * SECOND);
        sim.cut.clear();
        sim.run(12 * SECOND);
        assert_eq!(said(&sim), 0, "seed {seed}");
    }
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

/// Where one member found another is nothing that others are told: they need not reach it there.
#[test]
fn where_a_member_was_found_is_not_spread() {
    let mut same_run = 0;
    for seed in 0..8 {
        let mut sim = Sim::started(5, seed, Faults::LAN);
        let generation = sim.machine(1).generation();
        sim.side = [(0, 1)].into();
        sim.run(20 * SECOND);
        assert!(!sim.machine(0).is_live(id(1)), "seed {seed}: it is cut off");
        // It leads to member 1 as well, and of two addresses of one run the larger counts.
        let found = address(200);
        assert!(found > address(1));
        sim.also_at = [(found, 1)].into();
        sim.inject(0, Input::Found { member: id(1), address: found });
        sim.side.clear();
        sim.run_until(20 * SECOND, Sim::all_live).expect("it is back");
        sim.run(60 * SECOND);
        let shown =
            |sim: &Sim, by: usize| sim.machine(by).directory().get(&id(1)).map(|c| c.address);
        if sim.machine(1).generation() == generation {
            same_run += 1;
            assert_eq!(shown(&sim, 0), Some(found), "seed {seed}: here it is dialled there");
        }
        assert_eq!(sim.machine(0).directory().heard_at(&id(1)), Some(address(1)));
        for by in 2..5 {
            assert_eq!(shown(&sim, by), Some(address(1)), "seed {seed}: and not by {by}");
        }

        // A new run says itself where it is.
        sim.kill(1);
        sim.run(10 * SECOND);
        sim.start(1);
        sim.run_until(20 * SECOND, Sim::all_live).expect("it is back");
        for by in [0, 2, 3, 4] {
            assert_eq!(shown(&sim, by), Some(address(1)), "seed {seed}: seen by {by}");
        }
    }
    assert!(same_run > 0, "who was cut off buries nobody");
}
