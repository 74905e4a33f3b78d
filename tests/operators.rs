//! What operators do to a running cluster beside publishing, with real
//! processes: tags, events and questions, and what they expect of restarts and
//! removals. Loopback only.

#[expect(dead_code, reason = "tests/refusals.rs needs more of it")]
mod common;

use std::{fs, time::Instant};

use common::{Lab, Member, all_serve, invite, settled, until};
use serde_json::Value;

fn tags_of(member: &Member, of: &str) -> Value {
    member.run(&["tags"]).unwrap()[of].clone()
}

#[test]
fn tags_are_given_at_the_start_and_changed_while_members_run() {
    let lab = Lab::new((72, 1));
    let mut plan = lab.plan("a");
    plan.more = ["--tag", "role=web", "--tag", "zone=north"].map(str::to_owned).into();
    let founder = plan.up().unwrap();
    let token = common::invite(&founder, &[]);
    let mut plan = lab.plan("b").joining(founder.address(), &token);
    plan.more.extend(["--tag", "role=db"].map(str::to_owned));
    let members = [founder, plan.up().unwrap()];
    settled(&members);
    let [a, mut b] = members;
    assert_eq!(tags_of(&a, "a"), serde_json::json!({ "role": "web", "zone": "north" }));
    assert_eq!(tags_of(&a, "b"), serde_json::json!({ "role": "db" }));

    b.run(&["tags", "a", "unset", "zone"]).unwrap();
    a.run(&["tags", "set", "role=cache", "size=9"]).unwrap();
    until("both know it", || {
        let seen = (tags_of(&a, "a"), tags_of(&b, "a"));
        let expected = serde_json::json!({ "role": "cache", "size": "9" });
        if seen.0 == expected && seen.1 == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    a.run(&["tags", "x", "set", "k=v"]).unwrap_err().is(4, "not-found", "named x");
    a.run(&["tags", "x"]).unwrap_err().is(4, "not-found", "named x");

    // Started with another value it has that one, and keeps what it is not told.
    b.run(&["tags", "set", "disk=ssd"]).unwrap();
    b.kill();
    let mut plan = b.again();
    plan.more = ["--tag", "role=web"].map(str::to_owned).into();
    let b = plan.up().unwrap();
    until("it has its new tag", || {
        let seen = tags_of(&b, "b");
        let fine = seen == serde_json::json!({ "role": "web", "disk": "ssd" });
        if fine { Ok(()) } else { Err(seen.to_string()) }
    });
}

#[test]
fn events_and_questions_reach_all_members() {
    let lab = Lab::new((72, 2));
    let [a, b, mut c] = lab.cluster(["a", "b", "c"]);
    let told = b.run(&["event", "deploy", "v42 is out"]).unwrap();
    assert_eq!((&told["live"], told["time"].is_u64()), (&3.into(), true));
    for member in [&a, &b, &c] {
        until("it is told everywhere, once", || {
            let events = member.run(&["events", "--kind", "user"]).unwrap();
            let events = events.as_array().unwrap();
            let fine = events.len() == 1
                && events[0]["user"]["name"] == "deploy"
                && events[0]["user"]["payload"] == "v42 is out"
                && events[0]["user"]["origin"] == "b";
            if fine { Ok(()) } else { Err(format!("{}: {events:?}", member.name())) }
        });
    }
    let answers = a.run(&["query", "version"]).unwrap();
    let names: Vec<&str> = answers["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| {
            assert_eq!(answer["answer"], env!("CARGO_PKG_VERSION"));
            answer["member"].as_str().unwrap()
        })
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    a.run(&["query", "weather"]).unwrap_err().is(3, "invalid", "ping, version, uptime");
    let long = "x".repeat(513);
    a.run(&["event", "deploy", &long]).unwrap_err().is(3, "invalid", "512 bytes");
    a.run(&["event", "two words"]).unwrap_err().is(3, "invalid", "letters");

    // Who is away hears of it when it is back.
    c.kill();
    until("it is missed", || {
        let view = a.view()?;
        if view["voters_live"] == 2 { Ok(()) } else { Err(view["voters_live"].to_string()) }
    });
    a.run(&["event", "while-away"]).unwrap();
    let c = c.again().up().unwrap();
    until("it is told what it has missed", || {
        let events = c.run(&["events", "--kind", "user"]).unwrap().to_string();
        if events.contains("while-away") { Ok(()) } else { Err(events) }
    });

    // A flood is cut where it begins.
    let refused = (0..60).find_map(|_| a.run(&["event", "flood"]).err());
    refused.expect("more than may be said").is(5, "busy", "wait a moment");
    let metrics = a.run(&["metrics"]).unwrap();
    for queue in ["queue_network", "queue_writes", "queue_proposals", "stalls", "rumors_kept"] {
        assert!(metrics[queue].is_u64(), "{queue}: {metrics}");
    }
}

#[test]
fn a_cluster_that_was_down_as_a_whole_comes_back_by_itself() {
    let lab = Lab::new((72, 3));
    let mut members = lab.cluster(["a", "b", "c", "d", "e"]);
    members[1].publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
    for member in &mut members {
        member.kill();
    }
    let start = Instant::now();
    // Backwards, and with nothing to join by.
    let mut members: Vec<Member> =
        members.iter().rev().map(|member| member.again().up().unwrap()).collect();
    members.reverse();
    settled(&members);
    let members: [Member; 5] = members.try_into().ok().unwrap();
    until("all is well", || {
        for member in &members {
            let view = member.view()?;
            if view["health"] != "ok" {
                return Err(format!("{}: {}", member.name(), view["reasons"]));
            }
        }
        Ok(())
    });
    let took = start.elapsed();
    println!("five members, killed and started again: healthy after {took:?}");
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
    members[3].publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/2", "two");
}

#[test]
fn a_rollback_through_a_member_that_came_later_fetches_what_it_lacks() {
    let lab = Lab::new((72, 7));
    let [a, b] = lab.cluster(["a", "b"]);
    for text in ["one", "two"] {
        a.publish(&lab.site(text, &[("index.html", text)]), &["--app", "web"]).unwrap();
    }
    let token = invite(&a, &[]);
    let c = lab.plan("c").joining(a.address(), &token).up().unwrap();
    all_serve(&[&a, &b, &c], "web/2", "two");
    c.run(&["rollback", "web"]).unwrap();
    all_serve(&[&a, &b, &c], "web/3", "one");
}

#[test]
fn a_member_without_its_record_founds_no_second_cluster() {
    let lab = Lab::new((72, 4));
    let [_a, mut b] = lab.cluster(["a", "b"]);
    b.kill();
    fs::remove_file(b.data.join("records/register")).unwrap();
    b.again().up().map(|_| ()).unwrap_err().is(7, "forbidden", "would found a second cluster");
}

#[test]
fn a_member_that_was_removed_while_it_was_away_stops_when_it_is_back() {
    let lab = Lab::new((72, 5));
    let [a, b, mut c] = lab.cluster(["a", "b", "c"]);
    c.kill();
    until("it is missed", || {
        let view = a.view()?;
        if view["voters_live"] == 2 { Ok(()) } else { Err(view["voters_live"].to_string()) }
    });
    a.run(&["remove", "c"]).unwrap();
    let mut c = c.again().up().unwrap();
    c.ended().is(7, "forbidden", "removed from the cluster");
    settled(&[a, b]);
}

#[test]
fn two_of_one_name_are_settled_by_the_majority() {
    let lab = Lab::new((72, 6));
    let [a, b] = lab.cluster(["a", "b"]);
    let token = common::invite(&a, &["--uses", "4"]);
    // Both knock at the same time, at different members.
    let plans = [a.address(), b.address()].map(|seed| {
        let mut plan = lab.plan("twin").joining(seed, &token);
        plan.data = lab.path(&format!("twin-of-{}", seed.port()));
        plan
    });
    let threads = plans.map(|plan| std::thread::spawn(move || plan.up()));
    let results = threads.map(|thread| thread.join().unwrap());
    let (joined, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((joined.len(), refused.len()), (1, 1));
    for result in refused {
        result.map(|_| ()).unwrap_err().is(5, "conflict", "of that name is enrolled");
    }
}
