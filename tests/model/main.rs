//! The catalog register, its changes of the roster and the window's failover,
//! explored exhaustively within bounds by `stateright`.
//!
//! It is no second program: members are `proto::catalog::Register` and the
//! window's changes are `member::change::Change`, as in production. `node`
//! gives them a disk that can lose what was not synced, `world` a network that
//! can lose, double and reorder everything, and `history` judges.
//!
//! Two things are merged, because that changes nothing that can be seen from
//! outside. *Answers* (promise, refusal, accept) reach the one who asked at
//! once or never: a late one is as good as one to a question that came late,
//! or as one that is lost; `two_proposers_and_late_answers` takes this apart
//! again. *The disk* syncs at once, or the member crashes before it did:
//! nothing that depends on a record leaves earlier. `ALTHING_MODEL="eager=0"`
//! takes that apart, and has too many states to be explored to the end.

mod history;
mod node;
mod step;
mod world;

use std::{io::Write, time::Instant};

use althing::base::catalog::Roster;
use node::Plant;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use step::{Step, commit, enrolled, finish, id, open_window, take_over};
use world::{Bounds, World};

fn roster(voters: usize, others: usize) -> Roster {
    Roster { members: (0..voters + others).map(|n| enrolled(n, n < voters)).collect() }
}

/// `ALTHING_MODEL="crashes=1 expiries=2"` overrides the bounds of every model.
fn bounds(mut bounds: Bounds) -> Bounds {
    let wanted = std::env::var("ALTHING_MODEL").unwrap_or_default();
    for pair in wanted.split_whitespace() {
        let (name, value) = pair.split_once('=').expect("ALTHING_MODEL is NAME=NUMBER …");
        let value: u8 = value.parse().expect("ALTHING_MODEL is NAME=NUMBER …");
        match name {
            "expiries" => bounds.expiries = value,
            "give-ups" => bounds.give_ups = value,
            "crashes" => bounds.crashes = value,
            "eager" => bounds.eager = value != 0,
            "prune" => bounds.prune = value != 0,
            "prompt" => bounds.prompt = value != 0,
            other => panic!("ALTHING_MODEL: no bound is called {other}"),
        }
    }
    bounds
}

/// A network that does what it likes, and members that stay up.
const UP: Bounds =
    Bounds { expiries: 0, give_ups: 0, crashes: 0, eager: true, prompt: true, prune: true };
/// The same with one crash, of whomever.
const DOWN: Bounds = Bounds { crashes: 1, ..UP };

/// Explores everything, prints how much that was, and fails on the first
/// property that does not hold or situation that was not reached.
fn explore(name: &str, world: World, limits: Bounds) {
    let world = world.within(bounds(limits));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let checker = world.checker().threads(threads).spawn_bfs().join();
    let world = checker.model();
    let (members, messages) = world.counts();
    // Past the capture of the test runner: the figures belong to the result.
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {} unique states of {} generated, depth {}; {members} states of members, \
         {messages} messages; {:?}; {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        world.bounds,
        started.elapsed().as_secs_f64()
    );
    let found = checker.discoveries();
    for property in world.properties() {
        let path = found.get(property.name);
        match (&property.expectation, path) {
            (Expectation::Sometimes, None) => panic!("never reached: {}", property.name),
            (Expectation::Always, Some(path)) => {
                for action in path.clone().into_actions() {
                    println!("  {}", world.describe(&action));
                }
                panic!("does not hold: {}", property.name);
            }
            _ => {}
        }
    }
}

/// Whether the model finds what is planted in `world`, and by which property.
fn finds(plant: &dyn std::fmt::Debug, world: World) -> Vec<&'static str> {
    let checker =
        world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let world = checker.model();
    let mut broken = Vec::new();
    for property in world.properties() {
        if property.expectation == Expectation::Always && found.contains_key(property.name) {
            let actions = found[property.name].clone().into_actions();
            println!("{plant:?}: {} is broken in {} steps:", property.name, actions.len());
            for action in &actions {
                println!("  {}", world.describe(action));
            }
            broken.push(property.name);
        }
    }
    println!("{plant:?}: {} unique states", checker.unique_state_count());
    broken
}

fn duel() -> World {
    let scripts = vec![vec![Step::Mark(1)], vec![Step::Mark(2)]];
    World::new(3, |c| c.roster = roster(3, 0), scripts)
}

fn join() -> World {
    let scripts = vec![vec![Step::Join(id(3))], vec![Step::Mark(2)]];
    World::new(4, |c| c.roster = roster(3, 1), scripts)
}

fn leave() -> World {
    let scripts = vec![vec![Step::Leave(id(2))], vec![Step::Mark(2)]];
    World::new(3, |c| c.roster = roster(3, 0), scripts)
}

fn join_and_leave() -> World {
    let scripts = vec![vec![Step::Join(id(3))], vec![Step::Leave(id(2))]];
    World::new(4, |c| c.roster = roster(3, 1), scripts)
}

fn window() -> World {
    let scripts =
        vec![vec![commit(0, &[0, 1]), finish(0, true)], vec![take_over(0, 1), commit(1, &[0, 1])]];
    let start = |catalog: &mut althing::base::catalog::Catalog| {
        catalog.roster = roster(3, 0);
        catalog.window = Some(open_window(0));
    };
    World::new(3, start, scripts)
}

#[test]
fn two_proposers() {
    explore("two proposers", duel(), DOWN);
}

#[test]
fn two_proposers_try_again() {
    explore("two proposers, again", duel(), Bounds { expiries: 1, ..UP });
}

#[test]
fn one_joins() {
    explore("one joins", join(), UP);
}

#[test]
fn one_leaves() {
    explore("one leaves", leave(), DOWN);
}

#[test]
fn one_joins_and_one_leaves() {
    explore("one joins, one leaves", join_and_leave(), DOWN);
}

#[test]
fn a_window_fails_over() {
    explore("a window fails over", window(), UP);
}

/// Answers late, twice, in another order.
#[test]
fn two_proposers_and_late_answers() {
    explore("two proposers, late answers", duel(), Bounds { prompt: false, ..UP });
}

#[test]
fn a_planted_bug_is_found() {
    // What a member forgets may come back: nothing is dropped.
    let crash = Bounds { expiries: 1, prune: false, ..DOWN };
    let still = Bounds { crashes: 0, ..crash.clone() };
    for (plant, limits) in [
        (Plant::ForgottenPromise, crash.clone()),
        (Plant::SkippedSync, crash),
        (Plant::StaleAccept, still.clone()),
        (Plant::IgnoredAccepted, still),
    ] {
        let world = duel().with_plant(plant).within(limits);
        assert!(!finds(&plant, world).is_empty(), "{plant:?} was not found");
    }
}

/// The same for bugs in the register itself.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_bug_in_the_register_is_found() {
    use althing::base::planted::Bug;
    let crash = Bounds { expiries: 1, prune: false, ..DOWN };
    let still = Bounds { crashes: 0, ..crash.clone() };
    let twice = || {
        let scripts = vec![vec![Step::Mark(1), Step::Mark(2)]];
        World::new(3, |c| c.roster = roster(3, 0), scripts)
    };
    let four = || World::new(4, |c| c.roster = roster(4, 0), vec![vec![Step::Leave(id(3))]]);
    for (bug, world, limits) in [
        (Bug::ForgottenPromise, duel(), crash.clone()),
        (Bug::SkippedSync, duel(), crash),
        (Bug::AcceptedBelowPromise, duel(), still.clone()),
        (Bug::PromisesOfFewer, duel(), still.clone()),
        (Bug::SteppedOver, duel(), still.clone()),
        (Bug::MajorityOffByOne, duel(), still.clone()),
        (Bug::WentBack, twice(), still.clone()),
        (Bug::RosterWithoutOldMajority, four(), still),
    ] {
        let world = world.with_bug(bug).within(limits);
        assert!(!finds(&bug, world).is_empty(), "{bug:?} was not found");
    }
}
