//! The configuration of a member, from outside: which of flag, variable and file holds, what is
//! wrong in a file, and what a running member makes of another one.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{fs, path::Path, process::Command};

use common::{Lab, Member, tcp, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Runs it with these variables and no others.
fn althing(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_althing"))
        .args(arguments)
        .arg("--json")
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}, {arguments:?}"));
    (output.status.code().unwrap(), said)
}

/// Asks a member to read its configuration anew.
fn hang_up(member: &Member) {
    let pid = i32::try_from(member.ready["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_flag_comes_before_a_variable_and_that_before_the_file() {
    let lab = Lab::new((91, 1));
    let file = lab.path("config.toml");
    let lines = "bind = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\nstatus = \"none\"\n\
                 tag = [\"role=web\"]\ndata = \"/srv/althing\"\n";
    fs::write(&file, lines).unwrap();
    let variables = [
        ("ALTHING_CONFIG", text(&file)),
        ("ALTHING_BIND", "127.0.0.1:3"),
        ("ALTHING_LISTEN", "127.0.0.1:4"),
        ("ALTHING_TAG", "a=b,c\nd=e"),
        ("ALTHING_STANDBY", "true"),
        ("ALTHING_LOG_TO", "json"),
        ("ALTHING_LOG", "warn"),
        ("ALTHING_TOKEN", "secret-words"),
    ];
    let (code, said) = althing(&["config", "show", "--bind", "127.0.0.1:5"], &variables);
    assert_eq!((code, &said["file"]), (0, &text(&file).into()));
    assert!(!said.to_string().contains("secret-words"), "{said}");
    let all = said["options"].as_array().unwrap();
    for (option, value, from) in [
        ("bind", "127.0.0.1:5".into(), "flag"),
        ("listen", "127.0.0.1:4".into(), "variable"),
        ("status", "none".into(), "file"),
        ("statsd", "none".into(), "default"),
        ("advertise", Value::Null, "default"),
        ("tag", serde_json::json!(["a=b,c", "d=e"]), "variable"),
        ("standby", "true".into(), "variable"),
        ("log", "json".into(), "variable"),
        ("token", "(not shown)".into(), "variable"),
        ("data", "/srv/althing".into(), "file"),
    ] {
        let found = all.iter().find(|one| one["option"] == option).unwrap();
        assert_eq!((&found["value"], &found["from"]), (&value, &from.into()), "{found}");
    }
    // The variables name another data directory, or none of it.
    let elsewhere = [&variables[..], &[("ALTHING_DATA", "/x")]].concat();
    let (_, said) = althing(&["config", "show"], &elsewhere);
    assert_eq!(said["options"][0]["value"], "/x");
    let (_, said) = althing(&["config", "show", "--config", "none"], &variables);
    assert_eq!((&said["file"], &said["options"][0]["value"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_is_wrong_in_a_file_is_shown_where_it_stands() {
    let lab = Lab::new((91, 2));
    let (right, wrong) = (lab.path("right.toml"), lab.path("wrong.toml"));
    fs::write(&right, "# Nothing but defaults.\nprofile = \"lan\"\n").unwrap();
    fs::write(&wrong, "listne = \"none\"\nbind = \"x\"\n").unwrap();
    assert_eq!(althing(&["config", "check", text(&right)], &[]).0, 0);
    let given = [("ALTHING_CONFIG", text(&wrong))];
    for (code, said) in
        [althing(&["config", "check"], &given), althing(&["config", "check", text(&wrong)], &[])]
    {
        let faults = said["wrong"].as_array().unwrap();
        let places: Vec<_> = faults.iter().map(|one| (&one["line"], &one["column"])).collect();
        assert_eq!((code, places), (1, vec![(&1.into(), &1.into()), (&2.into(), &8.into())]));
        assert!(faults[0]["why"].as_str().unwrap().contains("did you mean listen?"), "{said}");
    }
    assert_eq!(althing(&["config", "check", "/nonexistent"], &[]).0, 4);
    assert_eq!(althing(&["config", "check"], &[("ALTHING_CONFIG", "none")]).0, 0);
    // A member does not start by it, and no command looks for a member by it.
    let mut plan = lab.plan("one");
    plan.more = ["--config", text(&wrong)].map(str::to_owned).to_vec();
    plan.up().err().expect("it does not start").is(3, "invalid", "line 1, column 1");
    fs::write(&wrong, "data = \"relative\"\n").unwrap();
    let (code, said) = althing(&["members"], &given);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn a_member_reads_its_configuration_anew_while_it_runs() {
    let lab = Lab::new((91, 3));
    let (file, first, second) =
        (lab.path("config.toml"), lab.path("first.log"), lab.path("second.log"));
    let data = lab.path("one");
    let begins = format!("data = {data:?}\naccess-log = {first:?}\ntag = [\"role=web\"]\n");
    fs::write(&file, &begins).unwrap();
    let mut plan = lab.plan("one");
    plan.more = ["--config", text(&file)].map(str::to_owned).to_vec();
    let member = plan.up().unwrap();
    let role = |key: &str| member.view().unwrap()["members"][0]["tags"][key].clone();
    assert_eq!(role("role"), "web");
    // It is found by the file alone.
    let (code, said) = althing(&["members", "--config", text(&file)], &[]);
    assert_eq!((code, &said[0]["name"]), (0, &"one".into()));
    member.publish(&lab.site("site", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    let ask = || {
        let lines = "GET / HTTP/1.1\r\nHost: l\r\nX-Forwarded-For: 6.6.6.6\r\n";
        tcp(member.site(), format!("{lines}Connection: close\r\n\r\n").as_bytes()).unwrap()
    };
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    until("a request is written down", || {
        ask();
        let log = read(&first);
        if log.contains("GET / HTTP/1.1") { Ok(()) } else { Err(log) }
    });
    assert!(!read(&first).contains("6.6.6.6"), "nobody is believed yet");

    let next = format!(
        "data = {data:?}\naccess-log = {second:?}\naccess-log-format = \"json\"\n\
         tag = [\"role=web\", \"zone=north\"]\ntrusted-proxy = [\"127.0.0.0/8\"]\n\
         send-rate = \"1MB\"\nscrub-every = \"never\"\nprofile = \"wan\"\n"
    );
    fs::write(&file, &next).unwrap();
    hang_up(&member);
    until("it is told", || {
        let events = member.events();
        let now = "from now on: trusted-proxy, access-log, access-log-format, tag, scrub-every";
        let later = "takes effect at the next start: profile";
        if events.contains(now) && events.contains(later) { Ok(()) } else { Err(events) }
    });
    until("the client is the one that the proxy names", || {
        ask();
        let log = read(&second);
        if log.contains("\"6.6.6.6\"") { Ok(()) } else { Err(log) }
    });
    until("the tag is set", || {
        let found = role("zone");
        if found == "north" { Ok(()) } else { Err(found.to_string()) }
    });

    // A fault changes nothing of what is right beside it.
    fs::write(&file, format!("{begins}accept-proxy = \"10.0.0.1/8\"\n")).unwrap();
    hang_up(&member);
    until("the fault is told with its place", || {
        let events = member.events();
        let told =
            events.contains("everything is as it was") && events.contains("line 4, column 16");
        if told { Ok(()) } else { Err(events) }
    });
    let before = read(&first);
    ask();
    until("it is written down where it was", || {
        let log = read(&second);
        if log.matches("6.6.6.6").count() > 1 {
            Ok(())
        } else {
            ask();
            Err(log)
        }
    });
    assert_eq!(read(&first), before);
}
