//! Rules with real processes on three members, and real receivers of what they tell: a member
//! that has too much to do says so, goes out of service, and comes back when it is over.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
mod common;
#[path = "common/receivers.rs"]
mod receivers;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{Lab, Member, all_serve, until};
use receivers::{HERE, Heard, mail, web};
use serde_json::Value;

fn service(asked: &Member, of: &str) -> Result<String, String> {
    let view = asked.view()?;
    let member = view["members"].as_array().unwrap().iter().find(|m| m["name"] == of);
    Ok(member.ok_or("no such member")?["service"].as_str().unwrap().to_owned())
}

fn states(heard: &Heard) -> Vec<String> {
    let heard = heard.lock().unwrap();
    let state = |body: &String| {
        let notice: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&notice["member"], &notice["rule"]), (&"a".into(), &"busy".into()), "{notice}");
        notice["state"].as_str().unwrap().to_owned()
    };
    heard.iter().map(state).collect()
}

/// What a receiver was told about the cluster: of which episode, what, and by whom.
fn about_all(heard: &Heard) -> Vec<[String; 3]> {
    let heard = heard.lock().unwrap();
    let told = |body: &String| {
        let notice: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&notice["member"], &notice["rule"]), (&Value::Null, &"queue".into()));
        ["episode", "state", "judged_by"].map(|key| notice[key].as_str().unwrap().to_owned())
    };
    heard.iter().map(told).collect()
}

/// A rule about the cluster acts once, whoever judges it: the first judge is killed in the middle.
#[test]
fn who_waits_is_brought_in_and_goes_again_and_nothing_happens_twice() {
    let lab = Lab::new((87, 3));
    let [mut a, b, c, d] = lab.cluster(["a", "b", "c", "d"]);
    let (web, hooks) = web(HERE);
    let manifest = format!(
        r#"
        [rules]
        queue = "critical when cluster max(custom.queue) > 50 for 2s until cluster max(custom.queue) < 10 then webhook pager, in 1"
        [webhook.pager]
        url = "http://{web}/hook"
        "#
    );
    let site = lab.site("site", &[("index.html", "one"), ("althing.toml", &manifest)]);
    a.publish(&site, &["--app", "web"]).unwrap();
    all_serve(&[&a, &b, &c, &d], "web/1", "one");
    // The last two wait; one more was put aside by hand.
    for name in ["c", "d"] {
        a.run(&["drain", name, "--wait"]).unwrap();
    }
    a.run(&["drain", "c"]).unwrap();
    until("they are on standby", || match (service(&b, "c")?, service(&b, "d")?) {
        (c, d) if [&c, &d] == ["standby"; 2] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let queue = |length: &str| b.run(&["measure", "queue", length]).map(drop).unwrap();
    until("the one that waits is in service", || {
        queue("99");
        match service(&b, "d")?.as_str() {
            "in service" => Ok(()),
            other => Err(format!("{other} {}", a.events())),
        }
    });
    until("it is told", || match about_all(&hooks).as_slice() {
        [[_, state, by]] if [state, by] == ["begin", "a"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(service(&b, "c").unwrap(), "standby", "it was put there by hand");
    let levels = b.run(&["levels", "--for", "1d"]).unwrap();
    let d = levels["members"].as_array().unwrap().iter().find(|m| m["member"] == "d").unwrap();
    assert_eq!((&d["place"], &d["by"]["rule"]), (&"in-service".into(), &"queue".into()));
    assert_eq!(
        (&levels["rules"][0]["state"], &levels["unknown"]),
        (&"acts".into(), &Value::Array(vec![]))
    );
    let view = b.view().unwrap();
    assert_eq!(view["health"], "critical", "{view}");
    assert!(view["reasons"].to_string().contains("Rule queue of web acts since"), "{view}");

    // Once it has said that all are told.
    thread::sleep(Duration::from_secs(3));
    a.kill();
    until("it is down", || match b.view()?["voters_live"].as_u64() {
        Some(3) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Between the two bounds, and for longer than the next judge needs to look.
    for _ in 0..8 {
        queue("30");
        thread::sleep(Duration::from_secs(1));
    }
    assert_eq!((service(&b, "d").unwrap().as_str(), about_all(&hooks).len()), ("in service", 1));
    until("it is over", || {
        queue("1");
        match service(&b, "d")?.as_str() {
            "standby" => Ok(()),
            other => Err(format!("{other} {}", b.events())),
        }
    });
    let told = until("that is told as well", || match about_all(&hooks).as_slice() {
        [begin, end] => Ok([begin.clone(), end.clone()]),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(told[0][0], told[1][0], "of one episode");
    assert_eq!(told[1][1..], ["end", "b"]);
    assert_eq!(service(&b, "c").unwrap(), "standby");
    let events = b.events();
    assert!(events.contains("rule queue of web acts no more: cluster max(custom.queue) < 10 (1)"));
}

#[test]
fn a_member_with_too_much_to_do_goes_out_of_service_and_comes_back() {
    let lab = Lab::new((87, 1));
    let [mut a, b, c] = lab.cluster(["a", "b", "c"]);
    let ((web, hooks), (mail, mails)) = (web(HERE), mail(HERE));
    let noted = lab.path("noted");
    let script =
        format!("#!/bin/sh\necho \"$ALTHING_STATE $ALTHING_ABOUT\" >> {}\n", noted.display());
    let manifest = format!(
        r#"
        [rules]
        busy = "critical when avg(requests, 10s) > 8/s until avg(requests, 10s) < 1/s then mail ops, webhook pager, run note, out"
        never = "warning when requests > 100000/s then log"
        wide = "when cluster avg(cpu) > 200% for 1h then log"
        [mail.ops]
        to = ["ops@example.org"]
        from = "althing@example.org"
        server = "{mail}"
        security = "none"
        [webhook.pager]
        url = "http://{web}/hook"
        [script.note]
        run = ["bin/note"]
        "#
    );
    let site = lab
        .site("site", &[("index.html", "one"), ("bin/note", &script), ("althing.toml", &manifest)]);
    fs::set_permissions(site.join("bin/note"), fs::Permissions::from_mode(0o755)).unwrap();
    a.publish(&site, &["--app", "web"]).unwrap();
    all_serve(&[&a, &b, &c], "web/1", "one");

    // Far more than the bound, on one of them alone.
    let (address, stop) = (a.site(), Arc::new(AtomicBool::new(false)));
    let stops = Arc::clone(&stop);
    let load = thread::spawn(move || {
        while !stops.load(SeqCst) {
            let answer =
                common::tcp(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            assert_eq!(answer.unwrap().status, 200);
            thread::sleep(Duration::from_millis(20));
        }
    });
    until("it is out of service", || match service(&b, "a")?.as_str() {
        "standby" => Ok(()),
        other => Err(format!("{other} {}", a.events())),
    });
    until("all of it is told", || {
        let (hooks, mails) = (states(&hooks), mails.lock().unwrap().clone());
        let noted = fs::read_to_string(&noted).unwrap_or_default();
        if (hooks.len(), mails.len(), noted.as_str()) == (1, 1, "begin a\n") {
            return Ok(());
        }
        Err(format!("{hooks:?} {mails:?} {noted:?} {}", a.events()))
    });
    let view = a.view().unwrap();
    assert_eq!(view["health"], "critical", "{view}");
    assert!(view["reasons"].to_string().contains("Rule busy of web acts since"), "{view}");
    assert!(mails.lock().unwrap()[0].contains("requests"), "{mails:?}");
    assert_ne!(b.view().unwrap()["health"], "critical");

    // What was recorded says the same, of each member, to whoever asks.
    let file = site.join("althing.toml").display().to_string();
    until("the record tells of it", || {
        let tested = b.run(&["rules", "test", &file, "--since", "2m"]).map_err(|e| e.why)?;
        let rules = tested["rules"].as_array().unwrap();
        let of = |name: &str| rules.iter().find(|rule| rule["name"] == name).unwrap();
        let episodes = |name: &str, member: &str| {
            of(name)["members"][member]["episodes"].as_array().unwrap().clone()
        };
        let busy = ["a", "b", "c"].map(|member| episodes("busy", member));
        let never = ["a", "b", "c"].map(|member| episodes("never", member).len());
        if busy[0].len() != 1 {
            return Err(tested.to_string());
        }
        assert!(busy[0][0]["ended"].is_null(), "{tested}");
        assert!(busy[0][0]["why"].as_str().unwrap().contains("requests"), "{tested}");
        assert_eq!((busy[1].len(), busy[2].len(), never), (0, 0, [0; 3]), "{tested}");
        assert_eq!(of("wide")["cluster"]["episodes"], serde_json::json!([]), "{tested}");
        assert_eq!(tested["silent"], serde_json::json!({}));
        Ok(())
    });

    // It is stopped in the middle: it knows what it did, does not do it again, and comes back
    // when it is over.
    stop.store(true, SeqCst);
    load.join().unwrap();
    a.kill();
    let a = a.again().up().unwrap();
    until("it is in service again", || match service(&b, "a")?.as_str() {
        "in service" => Ok(()),
        other => Err(format!("{other} {}", a.events())),
    });
    until("its end is told", || {
        let noted = fs::read_to_string(&noted).unwrap_or_default();
        let (told, mails) = (states(&hooks), mails.lock().unwrap().len());
        if told == ["begin", "end"] && mails == 2 && noted == "begin a\nend a\n" {
            return Ok(());
        }
        Err(format!("{told:?} {mails} {noted:?} {}", a.events()))
    });
    until("it is well", || {
        let reasons = a.view()?["reasons"].to_string();
        if reasons.contains("busy") { Err(reasons) } else { Ok(()) }
    });
    // The log has the whole story, before and after, as one episode.
    let log = c.run(&["events", "--member", "a", "--kind", "rule"]).unwrap();
    let log = log.as_array().unwrap();
    let episode = log.iter().find_map(|event| event["episode"].as_str()).unwrap();
    let texts: Vec<&str> = log
        .iter()
        .filter(|event| event["episode"] == episode)
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    for text in [
        "acts: avg(requests",
        "mail ops: done",
        "out of service",
        "acts no more",
        "where it was before",
    ] {
        assert!(texts.iter().any(|told| told.contains(text)), "{text}: {texts:?}");
    }
    assert_eq!(texts.iter().filter(|text| text.contains(" acts: ")).count(), 1, "{texts:?}");
}

/// What hits all alike is no matter of single members.
#[test]
fn a_rule_that_would_act_on_many_members_at_once_stops_and_says_so() {
    let lab = Lab::new((87, 2));
    let members = lab.cluster(["a", "b", "c"]);
    let manifest = "[rules]\nall = \"when mem.total > 1MB then out\"\n";
    let site = lab.site("site", &[("index.html", "one"), ("althing.toml", manifest)]);
    members[0].publish(&site, &["--app", "web"]).unwrap();
    until("one alone went at most, and the others say why not", || {
        let services: Result<Vec<String>, String> =
            ["a", "b", "c"].iter().map(|name| service(&members[0], name)).collect();
        let services = services?;
        let out = services.iter().filter(|service| *service == "standby").count();
        let stopped = members.iter().filter(|m| m.events().contains("members at once")).count();
        if out <= 1 && out + stopped == 3 { Ok(()) } else { Err(format!("{services:?} {stopped}")) }
    });
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
}
