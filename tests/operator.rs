//! Operators that act over the network, with real processes: a token that one member made is good
//! on another, what it does is told there, and what is no token does nothing. Loopback only.

#[expect(dead_code, reason = "tests/refusals.rs needs more of it")]
mod common;

use std::{fs, path::Path};

use common::{Answer, Lab, Member, tcp, until};
use serde_json::{Value, json};

/// A request to the status port, as no browser and no command line sends it.
fn ask(to: &Member, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {}\r\n", to.status()));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    tcp(to.status(), format!("{request}\r\n{body}").as_bytes()).unwrap()
}

/// A command of whoever has `token`, with these headers beside it.
fn command(to: &Member, token: &str, more: &[(&str, &str)], body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let own = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    ask(to, "POST", "/api/v1/command", &[own.as_slice(), more].concat(), &body.to_string())
}

fn whoami(to: &Member, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    ask(to, "GET", "/api/v1/whoami", &[("Authorization", bearer.as_str())], "")
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until `member` knows exactly these operators.
fn knows(member: &Member, names: &[&str]) {
    until("it is known who may act", || {
        let view = member.view()?;
        let all = view["operators"].as_array().ok_or("no operators")?;
        let seen: Vec<_> = all.iter().filter_map(|one| one["name"].as_str()).collect();
        if seen == names { Ok(()) } else { Err(format!("{}: {seen:?}", member.name())) }
    });
}

fn service_of(seen_by: &Member, name: &str) -> Result<String, String> {
    let view = seen_by.view()?;
    let members = view["members"].as_array().ok_or("no members")?;
    let found = members.iter().find(|member| member["name"] == name).ok_or("not there")?;
    Ok(found["service"].to_string())
}

/// The texts of the events about operators in the memory of `member`.
fn told(member: &Member) -> Vec<String> {
    let events = member.run(&["events", "--kind", "operator"]).unwrap();
    let texts = events.as_array().unwrap().iter();
    texts.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

/// Who asked for what alice does on b.
fn by_alice() -> Value {
    json!({"operator": "alice", "at": "b"})
}

/// Nothing in this directory holds the token, or what it is made of.
fn holds_nothing_of(directory: &Path, token: &str) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holds_nothing_of(&entry.path(), token);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "the token is in {}", entry.path().display());
        }
    }
}

#[test]
fn a_token_of_one_member_is_good_on_another_until_it_is_removed() {
    let lab = Lab::new((92, 1));
    let [a, b, c] = lab.cluster(["a", "b", "c"]);
    let added = a.run(&["operator", "add", "alice", "--expires", "30d"]).unwrap();
    let token = added["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("althing-op-") && added["expires_ms"].is_u64(), "{added}");
    a.run(&["operator", "add", "alice"]).unwrap_err().is(5, "conflict", "called alice already");
    a.run(&["operator", "add", "bob", "--expires", "0s"]).unwrap_err().is(3, "invalid", "a second");
    a.run(&["operator", "remove", "bob"]).unwrap_err().is(4, "not-found", "called bob");
    knows(&c, &["alice"]);
    let listed = b.run(&["operator", "list"]).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["by"]), (&json!("alice"), &json!("a")));

    let who = whoami(&c, &token);
    assert_eq!(who.status, 200, "{who:?}");
    let expected = json!({"operator": "alice", "expires": added["expires_ms"], "member": "c"});
    assert_eq!(json_of(&who), expected);

    // Another member than the one that added it, about a third one.
    let drain = json!({"service": {"member": "b", "on": false}});
    let answer = command(&c, &token, &[], &drain);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(json_of(&answer)["ok"]["done"]["sequence"].is_u64());
    until("it is out of service", || match service_of(&a, "b")?.as_str() {
        "\"standby\"" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(told(&c).contains(&"alice: drain b (by the status port)".to_owned()), "{:?}", told(&c));
    until("all logs tell of it", || {
        let log = a.run(&["events", "--all", "--kind", "operator"]).unwrap().to_string();
        let fine = log.contains("alice: drain b") && log.contains("operator alice may act");
        if fine { Ok(()) } else { Err(log) }
    });

    // What no token is enough for.
    let refused = command(&c, &token, &[], &json!("leave"));
    assert_eq!(refused.status, 403);
    refused.refusal().is(403, "forbidden", "no token is enough");
    assert!(told(&c).last().unwrap().starts_with("alice, by the status port: "), "{:?}", told(&c));

    // Whom a browser or a name gives away.
    let resume = json!({"service": {"member": "b", "on": true}});
    for wrong in [
        ("Host", "evil.example"),
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let answer = command(&c, &token, &[wrong], &resume);
        assert_eq!(answer.status, 403, "{wrong:?} {answer:?}");
    }
    assert_eq!(service_of(&c, "b").unwrap(), "\"standby\"");
    let own = format!("http://{}", c.status());
    assert_eq!(command(&c, &token, &[("Origin", own.as_str())], &resume).status, 200);

    // Removed anywhere it counts for nothing anywhere.
    b.run(&["operator", "remove", "alice"]).unwrap();
    knows(&c, &[]);
    assert_eq!(whoami(&c, &token).status, 401);
    let refused = command(&c, &token, &[], &drain);
    assert_eq!(refused.status, 401);
    refused.refusal().is(401, "forbidden", "was removed");
    let last = told(&c).pop().unwrap();
    assert!(last.contains("a token that is none was shown at the status port"), "{last}");

    for member in [&a, &b, &c] {
        let seen = member.view().unwrap().to_string() + &member.events();
        assert!(!seen.contains(&token), "{seen}");
        holds_nothing_of(&member.data, &token);
    }
}

#[test]
fn an_expired_token_counts_for_nothing_and_many_wrong_ones_keep_nobody_out() {
    let lab = Lab::new((92, 2));
    let a = lab.found("a");
    let made = |name: &str, more: &[&str]| {
        let added = a.run(&[&["operator", "add", name], more].concat()).unwrap();
        added["token"].as_str().unwrap().to_owned()
    };
    let (bob, alice) = (made("bob", &["--expires", "1s"]), made("alice", &[]));
    until("the token of bob has expired", || {
        let view = a.view()?;
        let all = view["operators"].as_array().ok_or("no operators")?;
        let bob = all.iter().find(|one| one["name"] == "bob").ok_or("no bob")?;
        if bob["is_over"] == true { Ok(()) } else { Err(bob.to_string()) }
    });
    let answer = whoami(&a, &bob);
    assert_eq!(answer.status, 401);
    answer.refusal().is(401, "forbidden", "it has expired");
    assert!(told(&a).last().unwrap().contains("the token of operator bob"), "{:?}", told(&a));

    let wrong = format!("{}A", &alice[..alice.len() - 1]);
    let wrong = if wrong == alice { format!("{}E", &alice[..alice.len() - 1]) } else { wrong };
    let answers: Vec<u16> = (0..12).map(|_| whoami(&a, &wrong).status).collect();
    assert_eq!(answers[..9], [401; 9]);
    assert_eq!(answers[9..], [429; 3]);
    assert!(whoami(&a, &alice).status == 200, "nobody is kept out by that");
    // No token is no wrong one.
    assert_eq!(ask(&a, "GET", "/api/v1/whoami", &[], "").status, 401);
    assert_eq!(ask(&a, "GET", "/api/v1/view", &[], "").status, 200);
}

#[test]
fn the_command_line_goes_by_the_status_port() {
    let lab = Lab::new((92, 3));
    let [a, b] = lab.cluster(["a", "b"]);
    let added = a.run(&["operator", "add", "alice"]).unwrap();
    let file = lab.path("token");
    fs::write(&file, added["token"].as_str().unwrap()).unwrap();
    knows(&b, &["alice"]);
    let at = b.status().to_string();
    // The data directory that `run` names is that of a: it is asked nothing.
    let read = |words: &[&str]| a.run(&[words, &["--via", &at]].concat());
    let token = ["--operator-token-file", file.to_str().unwrap()];
    let act = |words: &[&str]| read(&[words, token.as_slice()].concat());

    let status = read(&["status"]).unwrap();
    assert_eq!(status["me"], "b", "{status}");
    read(&["drain", "b"]).unwrap_err().is(7, "forbidden", "token is needed");
    act(&["drain", "b"]).unwrap();
    assert!(told(&b).contains(&"alice: drain b (by the status port)".to_owned()), "{:?}", told(&b));
    assert!(!told(&a).iter().any(|text| text.contains("drain")), "{:?}", told(&a));
    act(&["resume", "b"]).unwrap();
    // What came of it follows from what was asked, in the logs of all.
    until("the story of alice is told", || {
        let story = a.run(&["why", "alice"]).map_err(|refused| format!("{refused:?}"))?.to_string();
        let asked = story.contains("alice: drain b (by the status port)");
        let done = story.contains("b is out of service, on standby, by operator alice, at b");
        if asked && done { Ok(()) } else { Err(story) }
    });

    let site = lab.site("site", &[("index.html", "over the network")]);
    let site = site.to_str().unwrap();
    act(&["publish", "--there", site, "--app", "web"]).unwrap();
    common::all_serve(&[&a, &b], "web/1", "over the network");
    // It was asked of b. The other one presides, commits and switches, and names who it was.
    for part in ["web version 1 is committed", "web switched to version 1"] {
        until("the other member names the operator", || {
            let told = a.run(&["events", "--kind", "version"]).map_err(|e| format!("{e:?}"))?;
            let event = told.as_array().and_then(|all| {
                all.iter().find(|one| one["text"].as_str().is_some_and(|t| t.starts_with(part)))
            });
            let event = event.ok_or_else(|| told.to_string())?;
            let text = event["text"].as_str().unwrap_or_default();
            let named = text.contains("by operator alice, at b") && event["asked"] == by_alice();
            if named { Ok(()) } else { Err(event.to_string()) }
        });
    }
    assert_eq!(a.run(&["history", "web"]).unwrap()[0]["asked"], by_alice());
    // Through the socket it is nobody's token.
    let again = lab.site("again", &[("index.html", "through the socket")]);
    a.publish(&again, &["--app", "web"]).unwrap();
    let history = b.run(&["history", "web"]).unwrap();
    assert_eq!((&history[0]["number"], &history[0]["asked"]), (&json!(2), &Value::Null));
    assert_eq!((&history[1]["number"], &history[1]["asked"]), (&json!(1), &by_alice()));
    act(&["sync", "web"]).unwrap();
    let words = ["publish", "--there", "./site", "--app", "web"];
    act(&words).unwrap_err().is(3, "invalid", "absolute path");
    for words in [
        &["leave"][..],
        &["invite"],
        &["operator", "add", "eve"],
        &["secret", "list", "web"],
        &["doctor"],
    ] {
        act(words).unwrap_err().is(3, "invalid", "not done over the network");
    }
    let nobody = a.run(&["status", "--via", "127.92.3.99:1"]).unwrap_err();
    nobody.is(4, "not-found", "connected");
}
