//! Faults again and again, drawn from the seed, while clients read and publish;
//! then calm.

use std::{
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, seq::IteratorRandom};

use crate::{cluster::Cluster, scenario::scenario};

/// How long a storm lasts.
const STORM: Duration = Duration::from_secs(20);

/// Longer than any suspicion lasts: 650 ms, and what finding it takes.
const PAUSE_MS: std::ops::Range<u64> = 2_500..5_000;

/// Repeats `fault` until the storm is over.
fn storm(cluster: &mut Cluster, mut fault: impl FnMut(&mut Cluster)) {
    cluster.publish_on();
    let started = Instant::now();
    while started.elapsed() < STORM {
        fault(cluster);
    }
}

fn rest(cluster: &mut Cluster, ms: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(cluster.rng.random_range(ms)));
}

/// Up to two of five are down at a time: a majority is always there.
#[test]
fn kills() {
    scenario("storms::kills", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        storm(&mut cluster, |cluster| {
            let down: Vec<usize> =
                cluster.hosts.iter().copied().filter(|h| !cluster.is_running(*h)).collect();
            if down.len() == 2 || !down.is_empty() && cluster.rng.random_bool(0.5) {
                let host = down.into_iter().choose(&mut cluster.rng).expect("one is down");
                cluster.say(&format!("m{host} starts"));
                cluster.up(host);
                cluster.expect_again(host);
            } else {
                let host = cluster.any();
                if cluster.is_running(host) {
                    cluster.say(&format!("m{host} is killed"));
                    cluster.kill(host);
                }
            }
            rest(cluster, 200..2_000);
        });
        cluster.calm()
    });
}

/// One member is killed and started without a pause, over and over.
#[test]
fn restarts_in_a_loop() {
    scenario("storms::restarts_in_a_loop", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        let host = cluster.any();
        storm(&mut cluster, |cluster| {
            cluster.say(&format!("m{host} is killed and starts"));
            cluster.kill(host);
            cluster.up(host);
            rest(cluster, 0..600);
        });
        cluster.calm()
    });
}

/// Processes stand still for longer than the suspicion lasts, one or two at a
/// time, and wake to a cluster that went on without them.
#[test]
fn pauses() {
    scenario("storms::pauses", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        storm(&mut cluster, |cluster| {
            let count = cluster.rng.random_range(1..=2);
            let hosts = cluster.hosts.iter().copied();
            let hosts = hosts.choose_multiple(&mut cluster.rng, count);
            cluster.say(&format!("{hosts:?} stand still"));
            hosts.iter().for_each(|host| cluster.stop(*host));
            rest(cluster, PAUSE_MS);
            cluster.say(&format!("{hosts:?} go on"));
            hosts.iter().for_each(|host| cluster.go_on(*host));
            hosts.iter().for_each(|host| cluster.expect_again(*host));
            rest(cluster, 500..2_000);
        });
        cluster.calm()
    });
}

/// Some links lose up to a third of their packets, and one is dead in one
/// direction, a different one every few seconds.
#[test]
fn loss_and_one_way_cuts() {
    scenario("storms::loss_and_one_way_cuts", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        storm(&mut cluster, |cluster| {
            cluster.net.mend();
            for from in 1..=5 {
                for to in (1..=5).filter(|to| *to != from) {
                    if cluster.rng.random_bool(0.4) {
                        let percent = cluster.rng.random_range(5..=33);
                        cluster.net.lose(from, to, percent);
                    }
                }
            }
            let (from, to) = (cluster.any(), cluster.any());
            if from != to {
                cluster.say(&format!("m{to} no longer hears m{from}"));
                cluster.net.cut(from, to);
            }
            cluster.net.apply();
            rest(cluster, 2_000..5_000);
        });
        cluster.calm()
    });
}

/// Cables are cut, so that clients lose their member as well, and mended.
#[test]
fn cut_cables() {
    scenario("storms::cut_cables", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        storm(&mut cluster, |cluster| {
            let count = cluster.rng.random_range(1..=2);
            let hosts = cluster.hosts.iter().copied();
            let hosts = hosts.choose_multiple(&mut cluster.rng, count);
            cluster.say(&format!("the cables of {hosts:?} are cut"));
            for host in &hosts {
                cluster.excuse(*host);
                cluster.net.unplug(*host);
            }
            cluster.net.apply();
            rest(cluster, 1_000..4_000);
            cluster.say(&format!("the cables of {hosts:?} are mended"));
            cluster.net.mend();
            hosts.iter().for_each(|host| cluster.expect_again(*host));
            rest(cluster, 500..2_000);
        });
        cluster.calm()
    });
}

/// Every fault at once, as each seed draws them.
#[test]
fn everything() {
    scenario("storms::everything", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        storm(&mut cluster, |cluster| {
            let host = cluster.any();
            let away = cluster.hosts.iter().filter(|h| !cluster.is_running(**h)).count();
            match cluster.rng.random_range(0..8) {
                0 if cluster.is_running(host) && away < 2 => {
                    cluster.say(&format!("m{host} is killed"));
                    cluster.kill(host);
                }
                1 | 2 if !cluster.is_running(host) => {
                    cluster.say(&format!("m{host} starts"));
                    cluster.up(host);
                    // Its cable may be cut: clients expect it when all is over.
                }
                3 if cluster.is_running(host) && !cluster.is_stopped(host) => {
                    cluster.say(&format!("m{host} stands still for a while"));
                    cluster.stop(host);
                    rest(cluster, PAUSE_MS);
                    cluster.go_on(host);
                }
                4 => {
                    let (from, to) = (host, cluster.any());
                    cluster.say(&format!("m{to} hears a third of m{from}"));
                    if from != to {
                        cluster.net.lose(from, to, 67);
                    }
                }
                5 => {
                    let (one, other) = (host, cluster.any());
                    cluster.say(&format!("m{one} and m{other} are cut off from each other"));
                    if one != other {
                        cluster.net.cut(one, other);
                        cluster.net.cut(other, one);
                    }
                }
                6 => {
                    cluster.say(&format!("somebody edits a file on m{host}"));
                    let _edit = cluster.tamper(host);
                }
                _ => {
                    cluster.say("the links are mended");
                    cluster.net.mend();
                }
            }
            cluster.net.apply();
            rest(cluster, 300..1_500);
        });
        cluster.calm()
    });
}
