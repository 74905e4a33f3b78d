//! Services with real processes on three members: what a manifest defines runs
//! everywhere, each version its own, and no process of a member outlives it.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{fs, path::Path};

use common::{Lab, Member, until};
use serde_json::Value;

fn manifest(site: &Path, services: &str) {
    let text = format!("[application]\nname = \"shop\"\nignore = [\".*\"]\n{services}");
    fs::write(site.join("althing.toml"), text).unwrap();
}

/// How the services are, in the eyes of `member`.
fn services(member: &Member) -> Vec<Value> {
    member.run(&["services", "shop"]).unwrap().as_array().unwrap().clone()
}

/// Waits until `count` services are there, and all are in `state` and of `version`.
fn all_are(member: &Member, count: usize, state: &str, version: u64) -> Vec<Value> {
    until(&format!("{count} services are {state} in version {version}"), || {
        let all = services(member);
        let fine = |s: &Value| s["state"] == state && s["version"] == version;
        if all.len() == count && all.iter().all(fine) { Ok(all) } else { Err(format!("{all:?}")) }
    })
}

fn pids(services: &[Value]) -> Vec<u64> {
    services.iter().map(|s| s["pid"].as_u64().unwrap()).collect()
}

fn runs(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Covers R6, R9: services.
#[test]
fn what_a_manifest_defines_runs_on_every_member() {
    let lab = Lab::new((61, 1));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.site("shop", &[("text", "first\n")]);
    let loud = "[services.loud]\nrun = [\"sh\", \"-c\", \"cat text; exec sleep 1000\"]\n";
    manifest(&site, loud);
    one.publish(&site, &[]).unwrap();
    let first = pids(&all_are(&two, 3, "ready", 1));
    assert!(first.iter().all(|pid| runs(*pid)));
    until("its lines are read on another member", || {
        let said = logs(&two, &["shop", "loud"]);
        if said.iter().filter(|text| *text == "first").count() == 3 {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });

    // How it is run is part of the version, in the vote, and served to nobody.
    assert_eq!(one.get("/.althing/services.toml").unwrap().status, 404);
    assert_eq!(one.get("/text").unwrap().status, 200);
    let definition = two.data.join("live/shop/.althing/services.toml");
    let written = fs::read_to_string(&definition).unwrap();
    fs::write(&definition, "[services]").unwrap();
    until("the vote puts the definition right", || {
        let stands = fs::read_to_string(&definition).unwrap_or_default();
        if stands == written { Ok(()) } else { Err(stands) }
    });
    assert_eq!(pids(&services(&one)), first, "nobody was restarted by that");

    // The next version: other processes, in the other tree.
    fs::write(site.join("text"), "second\n").unwrap();
    manifest(&site, &format!("{loud}[services.second]\nrun = [\"sleep\", \"1000\"]\n"));
    three.publish(&site, &[]).unwrap();
    let second = pids(&all_are(&one, 6, "ready", 2));
    assert!(first.iter().all(|pid| !runs(*pid) && !second.contains(pid)));
    until("the second version's lines are there", || {
        let said = logs(&one, &["shop", "loud"]);
        if said.iter().any(|text| text == "second") { Ok(()) } else { Err(format!("{said:?}")) }
    });

    // One member after the other.
    let done = two.run(&["restart", "shop", "second"]).unwrap();
    assert_eq!(done.as_array().unwrap().len(), 3, "{done}");
    let after = pids(&all_are(&one, 6, "ready", 2));
    // By name: three of `loud`, then three of `second`.
    assert_eq!(after[..3], second[..3]);
    assert!(after[3..].iter().all(|pid| !second.contains(pid)));

    // Back: the one that version 1 did not have is gone.
    one.run(&["rollback", "shop", "1"]).unwrap();
    let back = all_are(&two, 3, "ready", 3);
    assert!(back.iter().all(|s| s["service"] == "loud"), "{back:?}");

    // A member that is killed leaves nothing behind, and runs what is in force again.
    let of_three = |all: &[Value]| {
        all.iter().find(|s| s["member"] == "three").unwrap()["pid"].as_u64().unwrap()
    };
    let orphan = of_three(&back);
    three.kill();
    until("the kernel ends it", || if runs(orphan) { Err(orphan.to_string()) } else { Ok(()) });
    let three = three.again().up().unwrap();
    let again = all_are(&three, 3, "ready", 3);
    assert_ne!(of_three(&again), orphan);

    // One that is stopped stops what it runs: nicely, and before it ends itself.
    let pid = rustix::process::Pid::from_raw(three.ready["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (mut three, of_it) = (three, of_three(&again));
    until("it ends", || if three.is_running() { Err("it runs".to_owned()) } else { Ok(()) });
    assert!(!runs(of_it));

    // Without services nothing runs.
    manifest(&site, "");
    one.publish(&site, &[]).unwrap();
    until("nothing runs", || {
        let all = services(&two);
        if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert!(!definition.exists());
}

fn logs(member: &Member, of: &[&str]) -> Vec<String> {
    let lines = member.run(&[&["logs"], of].concat()).unwrap();
    let text = |line: &Value| line["text"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn one_that_fails_is_told_of_and_one_that_can_not_be_run_is_refused() {
    let lab = Lab::new((61, 2));
    let member = lab.found("one");
    let site = lab.site("shop", &[]);
    fs::create_dir_all(&site).unwrap();
    for (services, why) in [
        ("[services.x]\nrun = [\"/bin/true\"]\n", "it is absolute"),
        ("[services.x]\nrun = [\"../true\"]\n", "run starts with"),
        ("[services.x]\nrun = []\n", "names no program"),
        ("[services.x]\nran = []\n", "line 5, column 1"),
        ("[services.X]\nrun = [\"true\"]\n", "lower-case"),
    ] {
        manifest(&site, services);
        let refused = member.publish(&site, &[]).unwrap_err();
        assert!(refused.why.contains(why), "{services}: {refused:?}");
    }
    // There is nothing but what it runs.
    manifest(
        &site,
        "[services.x]\nrun = [\"sh\", \"-c\", \"echo bad >&2; exit 7\"]\nrestart = \"on-failure\"\n",
    );
    member.publish(&site, &[]).unwrap();
    until("the failure is told of", || {
        let view = member.view()?;
        let told = view["reasons"].to_string();
        let fine = view["health"] == "warning" && told.contains("exited with status 7");
        if fine { Ok(()) } else { Err(told) }
    });
    assert!(member.events().contains("service x of shop (version 1) exited with status 7"));
    let list = lab.path("list.json");
    let content = lab.path("services.toml");
    fs::write(&content, "[services.x]\nrun = 3\n").unwrap();
    let path = content.to_str().unwrap();
    fs::write(
        &list,
        format!(r#"[{{"op":"SET","path":".althing/services.toml","content":"{path}"}}]"#),
    )
    .unwrap();
    let refused =
        member.run(&["publish", "--app", "shop", "--update", list.to_str().unwrap()]).unwrap_err();
    assert!(refused.why.contains("can't be used"), "{refused:?}");
    for (command, code) in [
        (&["services", "nobody"][..], 4),
        (&["logs", "nobody"], 4),
        (&["restart", "shop", "nobody"], 4),
        (&["services", "--member", "nobody"], 4),
    ] {
        assert_eq!(member.run(command).unwrap_err().code, code, "{command:?}");
    }
}
