//! One thing at a time, and what must follow from it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rand::{Rng, seq::SliceRandom};
use serde_json::{Value, json};

use crate::{
    cluster::{CALM_WITHIN, Cluster, SMALL},
    common::{self, run_on},
    network::Network,
    scenario::scenario,
    watch::whole_page,
};

/// By then every side of a cut has found out.
const NOTICED: Duration = Duration::from_millis(3_500);
/// All members scan every two seconds or so.
const SCANNED: Duration = Duration::from_millis(2_500);
/// How soon a partition that is over is one cluster again.
const ONE_AGAIN_WITHIN: Duration = Duration::from_secs(15);

/// No islands and no lonely members: whatever the pattern, a mended network is
/// one cluster. Covers R16: a minority changes nothing meanwhile, and goes on
/// serving; an edit on one of its members is put right afterwards.
#[test]
fn partitions_end_in_one_cluster() {
    scenario("whole::partitions_end_in_one_cluster", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        let mut hosts = cluster.hosts.clone();
        let mut patterns: Vec<&[usize]> = vec![&[3, 2], &[4, 1], &[2, 2, 1], &[1, 1, 1, 1, 1]];
        patterns.shuffle(&mut cluster.rng);
        for pattern in patterns {
            hosts.shuffle(&mut cluster.rng);
            let mut rest = hosts.as_slice();
            let mut groups = Vec::new();
            for size in pattern {
                let (group, others) = rest.split_at(*size);
                groups.push(group.to_vec());
                rest = others;
            }
            cluster.say(&format!("partition: {groups:?}"));
            cluster.net.split(&groups);
            cluster.net.apply();
            thread::sleep(NOTICED);
            let (majorities, minorities): (Vec<_>, Vec<_>) =
                groups.iter().partition(|group| group.len() >= 3);
            for group in majorities {
                let version = cluster.publish(group[0], SMALL).unwrap();
                cluster.say(&format!("{group:?} published version {version}"));
            }
            for group in minorities.into_iter().take(2) {
                minority_changes_nothing(&cluster, group);
            }
            cluster.net.mend();
            cluster.until_one("the partition is over", ONE_AGAIN_WITHIN);
        }
        cluster.calm()
    });
}

/// Less than a majority: nothing is published, and what one of them holds by
/// itself is not overwritten, though nobody is served it.
fn minority_changes_nothing(cluster: &Cluster, group: &[usize]) {
    let sequence = |host: usize| cluster.view(host).unwrap()["sequence"].clone();
    let before = sequence(group[0]);
    let edit = cluster.tamper(group[0]);
    let refused = cluster.publish(group[0], SMALL).unwrap_err();
    refused.is(6, "no-majority", "voters");
    thread::sleep(SCANNED);
    for host in group {
        assert_eq!(sequence(*host), before, "m{host} changed the catalog");
    }
    let edited = fs::read_to_string(cluster.live_file(group[0])).unwrap();
    assert_eq!(edited, edit, "{group:?} repaired it");
}

/// Nearly half of what newcomers and members say to each other is lost while they join, and who came last
/// loses the member by which it came at once: nobody is left alone.
#[test]
fn newcomers_get_in_over_lossy_links() {
    scenario("whole::newcomers_get_in_over_lossy_links", |rng| {
        let mut cluster = Cluster::start(3, 2, rng);
        for newcomer in [4, 5] {
            for host in (1..=5).filter(|host| *host != newcomer) {
                cluster.net.lose(host, newcomer, 40);
                cluster.net.lose(newcomer, host, 40);
            }
        }
        cluster.net.apply();
        for newcomer in [4, 5] {
            cluster.join(newcomer);
            cluster.say(&format!("m{newcomer} is in"));
        }
        cluster.net.cut(1, 5);
        cluster.net.cut(5, 1);
        cluster.net.apply();
        thread::sleep(NOTICED);
        cluster.net.mend();
        cluster.until_one("the links are mended", ONE_AGAIN_WITHIN);
        cluster.calm()
    });
}

/// Each member hears its two neighbours only: no two have the same view, and
/// yet all agree once the network is whole.
#[test]
fn a_ring_ends_in_one_cluster() {
    scenario("whole::a_ring_ends_in_one_cluster", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        cluster.publish_on();
        for from in 1..=5_usize {
            for to in (1..=5).filter(|to| *to != from && !matches!(from.abs_diff(*to), 1 | 4)) {
                cluster.net.cut(from, to);
            }
        }
        cluster.net.apply();
        thread::sleep(Duration::from_secs(8));
        cluster.say("one hears all and is heard by nobody");
        cluster.net.mend();
        let deaf = cluster.any();
        for to in (1..=5).filter(|to| *to != deaf) {
            cluster.net.cut(deaf, to);
        }
        cluster.net.apply();
        thread::sleep(Duration::from_secs(8));
        cluster.calm()
    });
}

/// One member no longer hears one other. Both live on, as all others hear both, and every
/// member is told of the two that neither gets an answer from the other.
#[test]
fn a_one_way_cut_is_seen() {
    scenario("whole::a_one_way_cut_is_seen", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        cluster.say("m4 no longer hears m2");
        cluster.net.cut(2, 4);
        cluster.net.apply();
        let unanswered = |name: &Value| match name.as_str() {
            Some("m2") => json!(["m4"]),
            Some("m4") => json!(["m2"]),
            _ => json!([]),
        };
        let is_seen = |by: usize, members: &Value| {
            let members = members.as_array().expect("a list of members");
            let right = |m: &Value| {
                // Whom it can't hear it hears of from others, when they compare what they know.
                (by == 4 && m["name"] == "m2") || m["unreached"] == unanswered(&m["name"])
            };
            // A suspicion may come and go: whoever can't hear an answer asks others to ask.
            let lives = |m: &Value| m["state"] == "alive" || m["state"] == "suspect";
            members.len() == 5 && members.iter().all(|m| lives(m) && right(m))
        };
        for host in cluster.hosts.clone() {
            common::until(&format!("m{host} sees the cut"), || {
                let members = cluster.view(host)?["members"].clone();
                if is_seen(host, &members) { Ok(()) } else { Err(members.to_string()) }
            });
            cluster.say(&format!("m{host} sees it"));
        }
        common::until("the command tells of it", || {
            let told = run_on(&cluster.data(1), &["members", "--reach"]).unwrap();
            if is_seen(1, &told) { Ok(()) } else { Err(told.to_string()) }
        });
        cluster.calm()
    });
}

/// All processes are killed at once, in the middle of publications, and started
/// with nothing but their disks: no address to join by, no operator.
#[test]
fn the_whole_cluster_is_killed() {
    scenario("whole::the_whole_cluster_is_killed", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        cluster.publish_on();
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(cluster.rng.random_range(1_500..3_500)));
            let before = cluster.watch.account().published();
            cluster.say("all are killed");
            let mut hosts = cluster.hosts.clone();
            hosts.iter().for_each(|host| cluster.kill(*host));
            hosts.shuffle(&mut cluster.rng);
            hosts.iter().for_each(|host| cluster.up(*host));
            let started = Instant::now();
            hosts.iter().for_each(|host| cluster.expect_again(*host));
            common::until("it publishes again", || {
                let now = cluster.watch.account().published();
                if now > before { Ok(()) } else { Err(format!("{now} came into force")) }
            });
            let took = started.elapsed().as_secs_f64();
            cluster.say(&format!("a version is in force {took:.1} s after the start"));
        }
        cluster.calm()
    });
}

/// Three of five are destroyed with their disks. The rest go on serving, change
/// nothing by themselves, and are one cluster again by an operator's word; new
/// servers take the place of the lost ones.
#[test]
fn a_majority_is_destroyed() {
    scenario("whole::a_majority_is_destroyed", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        let version = cluster.publish(3, SMALL).unwrap();
        cluster.until_one("all have it", NOTICED);
        (3..=5).for_each(|host| cluster.destroy(host));
        cluster.say("m3, m4 and m5 are destroyed");
        thread::sleep(NOTICED);
        cluster.publish(1, SMALL).unwrap_err().is(6, "no-majority", "voters");

        cluster.shut_down(1);
        run_on(&cluster.data(1), &["recover", "--keep", "m2", "--yes"]).unwrap();
        cluster.up(1);
        cluster.expect_again(1);
        cluster.shut_down(2);
        run_on(&cluster.data(2), &["recover", "--rejoin", "--yes"]).unwrap();
        cluster.join(2);
        cluster.expect_again(2);
        cluster.until_one("recovered", CALM_WITHIN);
        for host in 1..=2 {
            let found = whole_page((Network::address(host), 8080).into(), "/big.txt");
            assert_eq!(found.unwrap().0, version, "served by m{host}");
        }
        cluster.publish_on();
        for host in 3..=5 {
            cluster.join(host);
            cluster.expect_again(host);
        }
        thread::sleep(Duration::from_secs(3));
        cluster.calm()
    });
}

/// A member whose disk is full (its log is on it as well) keeps what it has and
/// serves it, says what is wrong, keeps nobody else from the next version, and catches up by itself
/// once there is room.
#[test]
fn a_full_disk_stops_one_member() {
    scenario("whole::a_full_disk_stops_one_member", |rng| {
        let full = 3;
        let mut cluster = Cluster::start_with(5, 0, rng, |host, plan| {
            if host == full {
                // Its own file system, which goes with the scenario.
                fs::create_dir_all(&plan.data).unwrap();
                let mut mount = std::process::Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(&plan.data);
                assert!(mount.status().unwrap().success(), "a tmpfs can be mounted");
                plan.data = plan.data.join("d");
            }
        });
        let filler = cluster.data(full).with_file_name("filler");
        let mut fill = vec![0_u8; 256 << 10];
        cluster.rng.fill(&mut fill[..]);
        let room = fs::File::create(&filler).unwrap();
        // Until nothing fits any more.
        while std::io::Write::write(&mut &room, &fill).is_ok_and(|n| n > 0) {}
        cluster.say(&format!("the disk of m{full} is full"));
        let version = cluster.publish(1, 60_000).unwrap();
        cluster.say(&format!("version {version} is in force"));
        for host in cluster.hosts.clone() {
            let found = whole_page((Network::address(host), 8080).into(), "/big.txt");
            let expected = if host == full { version - 1 } else { version };
            assert_eq!(found.unwrap().0, expected, "served by m{host}");
        }
        let data = cluster.data(full);
        common::until("it says what is wrong", || {
            let status = run_on(&data, &["status"]).unwrap().to_string();
            if status.contains("can't keep its record") { Ok(()) } else { Err(status) }
        });
        cluster.say("there is room again");
        drop(room);
        fs::remove_file(filler).unwrap();
        cluster.until_one("it catches up", Duration::from_secs(20));
        cluster.calm()
    });
}

/// A large version crawls to a member on a thin line. Nobody takes that member
/// for dead, and the others have the version long before it.
#[test]
fn a_thin_line_is_not_a_dead_one() {
    scenario("whole::a_thin_line_is_not_a_dead_one", |rng| {
        let mut cluster = Cluster::start(5, 0, rng);
        let thin = cluster.rng.random_range(2..=5);
        cluster.net.limit(thin, 2_000);
        cluster.say(&format!("m{thin} has 2 Mbit/s"));
        let started = Instant::now();
        // 2.5 MB: ten seconds of that line.
        let publisher = (cluster.publisher.clone(), cluster.data(1));
        let publication = thread::spawn(move || publisher.0.publish(&publisher.1, 120_000));
        for host in (1..=5).filter(|host| *host != thin) {
            common::until(&format!("m{host} has it"), || {
                let found = whole_page((Network::address(host), 8080).into(), "/a.txt");
                let version = found.map_err(|e| e.to_string())?.0;
                if version == 2 { Ok(()) } else { Err(format!("version {version}")) }
            });
        }
        let others = started.elapsed();
        let version = publication.join().unwrap().unwrap();
        cluster.say(&format!("others after {others:.1?}, all after {:.1?}", started.elapsed()));
        assert_eq!(version, 2);
        assert!(others < Duration::from_secs(8), "the others waited {others:?}");
        cluster.until_one("the thin line has it", Duration::from_secs(40));
        for host in (1..=5).filter(|host| *host != thin) {
            let events = run_on(&cluster.data(host), &["events"]).unwrap().to_string();
            let down = events.contains(&format!("m{thin} is down"));
            assert!(!down, "m{host} took m{thin} for dead: {events}");
        }
        cluster.calm()
    });
}

/// Covers R5 and R27. A newcomer on a thin line lacks the site for a while.
/// Whoever asks it gets the site all the same, from another member, whole and
/// current; then it is in service and answers by itself.
#[test]
fn a_newcomer_passes_requests_on() {
    scenario("whole::a_newcomer_passes_requests_on", |rng| {
        let mut cluster = Cluster::start(3, 1, rng);
        let version = cluster.publish(1, 120_000).unwrap();
        let newcomer = 4;
        cluster.net.limit(newcomer, 2_000);
        cluster.join(newcomer);
        let site = (Network::address(newcomer), 8080).into();
        let service = |cluster: &Cluster| -> Result<String, String> {
            let view = cluster.view(newcomer)?;
            let members = view["members"].as_array().ok_or("no members")?;
            let me = members.iter().find(|m| m["me"] == true).ok_or("not itself")?;
            Ok(me["service"].as_str().unwrap_or_default().to_owned())
        };
        // From its first breath on.
        cluster.expect_again(newcomer);
        let (started, mut passed_on) = (Instant::now(), 0);
        loop {
            let before = service(&cluster).unwrap();
            let found = whole_page(site, "/a.txt");
            let (served, _) = found.unwrap_or_else(|e| panic!("{e}, while it is {before}"));
            assert_eq!(served, version);
            if service(&cluster).unwrap() == "in service" {
                break;
            }
            passed_on += u32::from(before == "receiving");
            assert!(started.elapsed() < Duration::from_secs(45), "it is {before} for ever");
            thread::sleep(Duration::from_millis(100));
        }
        let took = started.elapsed();
        cluster.say(&format!("in service after {took:.1?}; {passed_on} requests passed on"));
        // Each shares its thin line with the content that is on its way.
        assert!(passed_on >= 3, "{passed_on} requests were passed on in {took:?}");
        // By itself: it answers with all other members out of its reach. What is
        // still being passed on is cut short with them, and excused.
        cluster.expect_again(newcomer);
        for other in 1..=3 {
            cluster.net.cut(other, newcomer);
            cluster.net.cut(newcomer, other);
        }
        cluster.net.apply();
        assert_eq!(whole_page(site, "/big.txt").unwrap().0, version);
        cluster.net.mend();
        cluster.calm()
    });
}
