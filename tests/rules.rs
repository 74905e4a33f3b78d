//! Rules with real processes on three members, and real receivers of what they tell: a member
//! that has too much to do says so, goes out of service, and comes back when it is over.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{Lab, Member, all_serve, until};
use serde_json::Value;

type Heard = Arc<Mutex<Vec<String>>>;

/// Takes what is told on a port of its own.
fn receiver(
    each: impl Fn(std::net::TcpStream) -> Option<String> + Send + 'static,
) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let all = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            all.lock().unwrap().extend(each(stream));
        }
    });
    (address, heard)
}

/// A receiver of webhooks.
fn web() -> (SocketAddr, Heard) {
    receiver(|stream| {
        let mut reader = BufReader::new(&stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").ok()?;
        String::from_utf8(body).ok()
    })
}

/// A receiver of mail (RFC 5321), as much of one as a client needs.
fn mail() -> (SocketAddr, Heard) {
    receiver(|stream| {
        let mut reader = BufReader::new(&stream);
        let say = |text: &str| (&stream).write_all(text.as_bytes()).ok();
        say("220 mail.test\r\n")?;
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.to_ascii_uppercase().split([' ', ':', '\r']).next()? {
                "DATA" => {
                    say("354 go on\r\n")?;
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).ok()?;
                        if line == ".\r\n" {
                            break;
                        }
                        whole.push_str(&line);
                    }
                    say("250 taken\r\n")?;
                    return Some(whole);
                }
                "QUIT" => {
                    say("221 bye\r\n")?;
                    return None;
                }
                _ => say("250 fine\r\n")?,
            };
        }
    })
}

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

#[test]
fn a_member_with_too_much_to_do_goes_out_of_service_and_comes_back() {
    let lab = Lab::new((87, 1));
    let [mut a, b, c] = lab.cluster(["a", "b", "c"]);
    let ((web, hooks), (mail, mails)) = (web(), mail());
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
    until("who judges what is said", || {
        let events = b.events();
        if events.contains("not judged by this version") { Ok(()) } else { Err(events) }
    });

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
        assert!(of("wide")["left_out"].is_string(), "{tested}");
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
        "in service again",
    ] {
        assert!(texts.iter().any(|told| told.contains(text)), "{text}: {texts:?}");
    }
    assert_eq!(texts.iter().filter(|text| text.contains(" acts: ")).count(), 1, "{texts:?}");
}

#[test]
fn no_rule_takes_more_than_half_out_of_service() {
    let lab = Lab::new((87, 2));
    let members = lab.cluster(["a", "b", "c"]);
    let manifest = "[rules]\nall = \"when mem.total > 1MB then out\"\n";
    let site = lab.site("site", &[("index.html", "one"), ("althing.toml", manifest)]);
    members[0].publish(&site, &["--app", "web"]).unwrap();
    until("one alone went, and the others say why not", || {
        let services: Result<Vec<String>, String> =
            ["a", "b", "c"].iter().map(|name| service(&members[0], name)).collect();
        let services = services?;
        let out = services.iter().filter(|service| *service == "standby").count();
        let refused =
            members.iter().filter(|m| m.events().contains("at least 2 have to be")).count();
        if (out, refused) == (1, 2) { Ok(()) } else { Err(format!("{services:?} {refused}")) }
    });
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
}
