//! New keys of members, with real processes: while sites are served, killed at
//! every instant, refused where it can't be done. Loopback only.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Lab, Member, all_serve, settled, until};

fn id_of(of: &str, seen_by: &Member) -> String {
    let view = seen_by.view().unwrap();
    let members = view["members"].as_array().unwrap();
    let found = members.iter().find(|m| m["name"] == of).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

/// All agree who is who.
fn agree(members: &[Member]) {
    settled(members);
    until("all know the same ids", || {
        for of in members {
            let ids: Vec<String> = members.iter().map(|by| id_of(of.name(), by)).collect();
            if ids.iter().any(|id| *id != ids[0]) {
                return Err(format!("{}: {ids:?}", of.name()));
            }
        }
        Ok(())
    });
}

#[test]
fn a_member_gets_a_new_key_while_it_serves_and_is_itself_afterwards() {
    let lab = Lab::new((74, 1));
    let [a, b, c] = lab.cluster(["a", "b", "c"]);
    b.run(&["tags", "set", "role=web"]).unwrap();
    b.publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    all_serve(&[&a, &b, &c], "web/1", "one");
    let (before, order) = (id_of("b", &a), a.run(&["failover"]).unwrap());
    let pid = b.ready["pid"].clone();

    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let (rotated, failed, took) = thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                failed.extend(b.serves("web/1", "one").err());
                thread::sleep(Duration::from_millis(1));
            }
            failed
        });
        let begun = Instant::now();
        let rotated = b.run(&["rotate-key"]);
        let took = begun.elapsed();
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        (rotated.unwrap(), asker.join().unwrap(), took)
    });
    println!(
        "a new key and its vote after {took:?}; {} requests meanwhile, {} failed",
        asked.load(Ordering::Relaxed),
        failed.len()
    );
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!((&rotated["member"], &rotated["voter"]), (&"b".into(), &true.into()));
    assert_eq!(rotated["before"].as_str(), Some(&*before));
    assert_ne!(rotated["id"].as_str(), Some(&*before));
    let members = [a, b, c];
    agree(&members);
    let [a, mut b, c] = members;
    assert_eq!(id_of("b", &c), rotated["id"].as_str().unwrap());
    assert_eq!(a.run(&["failover"]).unwrap(), order, "its place in the list is the same");
    assert_eq!(b.run(&["tags"]).unwrap()["b"]["role"], "web");
    for other in [&a, &c] {
        let events = other.events();
        assert!(events.contains("b has a new key: it was"), "{events}");
        assert!(!events.contains("b is down"), "{events}");
    }
    assert!(b.events().contains("this member has a new key"), "{}", b.events());
    assert!(b.is_running());
    assert!(!b.data.join("member.key.next").exists(), "nothing is left over");
    let key = std::fs::metadata(b.data.join("member.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);

    // It publishes, its vote counts, and it comes back with its new key.
    b.publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    all_serve(&[&a, &b, &c], "web/2", "two");
    b.kill();
    let b = b.again().up().unwrap();
    assert_ne!(b.ready["pid"], pid);
    assert_eq!(b.ready["id"], rotated["id"]);
    let members = [a, b, c];
    agree(&members);
    let [mut a, b, c] = members;
    a.kill();
    until("a is missed", || match b.view()?["voters_live"].as_u64() {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    b.publish(&lab.site("three", &[("index.html", "three")]), &["--app", "web"]).unwrap();
    all_serve(&[&b, &c], "web/3", "three");
    // Another member joins by its invitation, and it can be removed by name.
    let token = common::invite(&b, &[]);
    let d = lab.plan("d").joining(b.address(), &token).up().unwrap();
    let a = a.again().up().unwrap();
    let members = [a, b, c, d];
    agree(&members);
    let [a, mut b, c, d] = members;
    a.run(&["remove", "b"]).unwrap();
    b.ended().is(7, "forbidden", "removed from the cluster");
    settled(&[a, c, d]);
}

#[test]
fn a_member_that_is_killed_at_any_instant_finds_its_key() {
    let lab = Lab::new((74, 2));
    let mut members = lab.cluster(["a", "b", "c"]);
    members[0].publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    let mut changed = 0;
    for after_ms in [0, 15, 25, 35, 45, 60, 80, 150, 300, 500, 620, 700, 800, 1_000] {
        agree(&members);
        let before = id_of("b", &members[0]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_althing"));
        command.args(["rotate-key", "--json", "--data"]).arg(&members[1].data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut asked = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(after_ms));
        members[1].kill();
        let _may_have_ended = asked.kill();
        asked.wait().unwrap();
        members[1] = members[1].again().up().unwrap();
        agree(&members);
        let now = id_of("b", &members[0]);
        changed += u32::from(now != before);
        println!("killed after {after_ms} ms: {}", if now == before { "as before" } else { "new" });
    }
    assert!(changed > 0, "some came into force");
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
    // What came of no attempt stands in the way of none.
    let rotated = members[1].run(&["rotate-key"]).unwrap();
    agree(&members);
    assert_eq!(id_of("b", &members[2]), rotated["id"].as_str().unwrap());
    members[2].publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/2", "two");
}

#[test]
fn a_new_key_is_refused_where_nobody_could_give_the_vote_back() {
    let lab = Lab::new((74, 3));
    let a = lab.found("a");
    a.run(&["rotate-key"]).unwrap_err().is(3, "invalid", "only one with a vote");
    let token = common::invite(&a, &[]);
    let b = lab.plan("b").joining(a.address(), &token).up().unwrap();
    let members = [a, b];
    settled(&members);
    let [a, b] = members;
    // Two are enough: the other one gives it back.
    let first = id_of("a", &b);
    let rotated = a.run(&["rotate-key"]).unwrap();
    assert_eq!(
        (rotated["voter"].as_bool(), rotated["before"].as_str()),
        (Some(true), Some(&*first))
    );
    let members = [a, b];
    agree(&members);
    let [a, mut b] = members;
    a.run(&["window", "open"]).unwrap();
    a.run(&["rotate-key"]).unwrap_err().is(5, "busy", "presides over window");
    a.run(&["window", "close"]).unwrap();
    b.kill();
    until("b is missed", || match a.view()?["voters_live"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    a.run(&["rotate-key"]).unwrap_err().is(6, "no-majority", "missing: b");
    assert!(!a.data.join("member.key.next").exists(), "no key was drawn for nothing");
}
