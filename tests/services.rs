//! Services with real processes on three members: what a manifest defines runs
//! everywhere, each version its own, and no process of a member outlives it.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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
        ("[settings]\na = 1\n[[settings-file]]\npath = \".env\"\n", "an ignore pattern"),
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
    let failed = member.publish(&site, &[]).unwrap_err();
    assert!(failed.why.contains("exited with status 7"), "{failed:?}");
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

/// A command with something on its standard input.
fn with_input(member: &Member, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_althing"))
        .args(arguments)
        .arg("--data")
        .arg(&member.data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

/// Every file below `dir`.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), all),
            kind if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
}

/// Covers R6, R9: settings and secrets.
#[test]
fn services_find_settings_and_secrets_and_nobody_else_the_latter() {
    const VALUE: &str = "correct horse battery staple";
    let lab = Lab::new((61, 3));
    let [one, two, three] = lab.cluster(["one", "two", "three"]);
    let site = lab.site("shop", &[("text", "x")]);
    let script = "echo host $DATABASE_HOST level $LOG_LEVEL; printf %s \"$DB_PASSWORD\" | sha256sum; exec sleep 1000";
    let text = |level: &str| {
        format!(
            "[services.api]\nrun = [\"sh\", \"-c\", '''{script}''']\nsecrets = [\"db-password\"]\n\
             [services.plain]\nrun = [\"sh\", \"-c\", '''echo has \"<$DB_PASSWORD>\"; exec sleep 1000''']\n\
             [settings]\nlog-level = \"{level}\"\n[settings.database]\nhost = \"db1\"\n\
             [[settings-file]]\npath = \"config/app.json\"\n"
        )
    };
    manifest(&site, &text("info"));
    let refused = one.publish(&site, &[]).unwrap_err();
    assert!(refused.why.contains("althing secret set shop db-password"), "{refused:?}");

    // Set before there is anything to publish it with, and on another member.
    let said = with_input(&two, &["secret", "set", "shop", "db-password"], &format!("{VALUE}\n"));
    assert!(said.contains("shop version 1") && !said.contains(VALUE), "{said}");
    one.publish(&site, &[]).unwrap();
    all_are(&one, 6, "ready", 2);
    // sha256 of the value
    let digest = "c4bbcb1fbec99d65bf59d85c8cb62ee2db963f0fe106f483d9afa73bd4e39a8a";
    let found = |member: &Member, count: usize, level: &str| {
        let host = format!("host db1 level {level}");
        until("the services found it", || {
            let api = logs(member, &["shop", "api"]);
            let plain = logs(member, &["shop", "plain"]);
            let hosts = api.iter().filter(|line| **line == host).count();
            let hashes = api.iter().filter(|line| line.starts_with(digest)).count();
            let fine = hosts >= count && hashes >= count && plain.iter().any(|l| l == "has <>");
            if fine { Ok(()) } else { Err(format!("{api:?} {plain:?}")) }
        });
    };
    found(&three, 3, "info");
    let file: Value = serde_json::from_slice(&one.get("/config/app.json").unwrap().body).unwrap();
    assert_eq!(file, serde_json::json!({ "log-level": "info", "database": { "host": "db1" } }));
    let settings = three.run(&["settings", "shop"]).unwrap();
    assert_eq!(settings["settings"][0]["variable"], "DATABASE_HOST", "{settings}");
    let names = three.run(&["secret", "list", "shop"]).unwrap();
    assert_eq!(names["secrets"][0]["services"][0], "api", "{names}");

    // Who comes later asks the others, and no service is restarted for it.
    let before = pids(&services(&one));
    let token = common::invite(&one, &[]);
    let mut four = lab.plan("four").joining(one.address(), &token);
    // It says all that a member can say of itself.
    four.under = vec!["env".to_owned(), "ALTHING_LOG=trace".to_owned()];
    let mut four = four.up().unwrap();
    all_are(&one, 8, "ready", 2);
    found(&four, 4, "info");
    let now = pids(&services(&one));
    assert!(before.iter().all(|pid| now.contains(pid)), "{before:?} {now:?}");
    // So does one whose key is new, which can't open what is sealed for the old one.
    two.run(&["rotate-key"]).unwrap();
    all_are(&one, 8, "ready", 2);
    assert_eq!(pids(&services(&one)), now);

    // The next publication seals nothing and loses nothing.
    manifest(&site, &text("debug"));
    two.publish(&site, &[]).unwrap();
    all_are(&four, 8, "ready", 3);
    found(&one, 4, "debug");
    let refused = one.run(&["secret", "unset", "shop", "db-password"]).unwrap_err();
    assert!(refused.why.contains("Service api is given db-password"), "{refused:?}");
    assert_eq!(one.run(&["secret", "unset", "shop", "other"]).unwrap_err().code, 4);

    // The last resort, for secrets that nobody can open.
    with_input(&one, &["secret", "set", "shop", "extra"], "x");
    with_input(&two, &["secret", "set", "--anew", "shop", "db-password"], VALUE);
    let names = three.run(&["secret", "list", "shop"]).unwrap();
    assert_eq!(names["secrets"].as_array().unwrap().len(), 1, "{names}");
    all_are(&four, 8, "ready", 5);

    // Nobody is there to ask: what was handed over is kept.
    let mut others = [one, two, three];
    for member in &mut others {
        member.kill();
    }
    four.kill();
    let four = four.again().up().unwrap();
    until("its services run again", || {
        let all = services(&four);
        if all.len() == 2 && all.iter().all(|s| s["state"] == "ready") {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });

    // The value is on no disk, in no log, in no event, in no list and in no view.
    let mut all = Vec::new();
    for member in others.iter().chain([&four]) {
        files(&member.data, &mut all);
        all.push(member.again().log());
    }
    assert!(all.len() > 40);
    let traced = fs::read_to_string(four.again().log()).unwrap();
    assert!(traced.contains("TRACE"), "{traced}");
    for path in all {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(VALUE.len()).any(|w| w == VALUE.as_bytes()), "{}", path.display());
    }
    assert!(!four.events().contains(VALUE) && !four.view().unwrap().to_string().contains(VALUE));
    let lists = four.run(&["sync", "shop", "--show-lists"]).unwrap().to_string();
    assert!(lists.contains("secrets") && !lists.contains(VALUE), "{lists}");
    for path in ["/", "/api/v1/view", "/api/v1/services", "/api/v1/events", "/api/v1/log?app=shop"]
    {
        let head = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        let page = common::tcp(four.status(), head.as_bytes()).unwrap();
        assert_eq!(page.status, 200, "{path}");
        let text = String::from_utf8_lossy(&page.body);
        assert!(text.len() > 100 && !text.contains(VALUE), "{path}: {text}");
    }
}

/// What a manifest allows a service is what its kernel allows it.
#[test]
fn limits_are_those_of_its_processes() {
    let lab = Lab::new((61, 9));
    let member = lab.found("one");
    let site = lab.site("shop", &[("text", "x")]);
    manifest(
        &site,
        "[services.bounded]\nrun = [\"sh\", \"-c\", \"cat /proc/self/limits; exec sleep 1000\"]\n\
         limits = { files = 123, memory = \"64MiB\", processes = 4567 }\n",
    );
    member.publish(&site, &[]).unwrap();
    all_are(&member, 1, "ready", 1);
    let of = |lines: &[String], name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let words: Vec<String> = line?.split_whitespace().map(str::to_owned).collect();
        Some((words.first()?.clone(), words.get(1)?.clone()))
    };
    let said = until("it has said its limits", || {
        let lines = logs(&member, &["shop", "bounded"]);
        of(&lines, "Max address space").is_some().then(|| lines.clone()).ok_or(format!("{lines:?}"))
    });
    for (name, value) in
        [("Max open files", "123"), ("Max address space", "67108864"), ("Max processes", "4567")]
    {
        let both = (value.to_owned(), value.to_owned());
        assert_eq!(of(&said, name), Some(both), "{said:?}");
    }
}

/// A user that no machine has an account for, and one more.
const STRANGER: u32 = 54_321;
const OTHER: u32 = 54_322;

/// Everything below `dir` but for what is in `but`, links not followed.
fn all_below(dir: &Path, but: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        all.push(entry.path());
        if entry.file_type().unwrap().is_dir() && entry.path() != but {
            all_below(&entry.path(), but, all);
        }
    }
}

/// Those of `paths` that the user `uid` can read or write.
fn open_to(uid: u32, paths: &[PathBuf]) -> Vec<String> {
    let script = r#"for f in "$@"; do if test -r "$f" -o -w "$f"; then echo "$f"; fi; done"#;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).args(paths).current_dir("/").uid(uid).gid(uid);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// That nobody but the member's user gets at what lies beside the trees, and at the trees nobody
/// but the user of the service.
fn nothing_else_is_open(member: &Member) {
    let live = member.data.join("live");
    let mut beside = vec![member.data.clone()];
    all_below(&member.data, &live, &mut beside);
    let named = |name: &str| beside.iter().any(|path| path.ends_with(name));
    for name in ["member.key", "socket", "metrics", "events.redb", "records/register", "live"] {
        assert!(named(name), "{name} is not in {beside:?}");
    }
    for uid in [STRANGER, OTHER] {
        assert_eq!(open_to(uid, &beside), Vec::<String>::new(), "to {uid}");
    }
    for path in beside.iter().filter(|path| path.parent() == Some(&*member.data)) {
        let mode = fs::symlink_metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{} has mode {mode:o}", path.display());
    }
    let text = [live.join("shop/text")];
    assert_eq!(open_to(STRANGER, &text).len(), 1, "who runs in it reads it");
    assert_eq!(open_to(OTHER, &text), Vec::<String>::new(), "nobody else passes");
}

/// Covers R6: a service with a `user` in the default place of its application.
#[test]
fn a_service_of_another_user_gets_to_its_tree_and_to_nothing_else_of_the_member() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can start programs as others
    }
    let lab = Lab::new((61, 4));
    let mut member = lab.found("one");
    let scratch = member.data.parent().unwrap().to_owned();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(&scratch, 0o700).unwrap();
    let site = lab.site("shop", &[("text", "first\n"), ("bin/run", "")]);
    fs::write(
        site.join("bin/run"),
        "#!/bin/sh\n\
         echo \"is $(id -u):$(id -G)\"\n\
         echo \"tree $(cat \"$PWD/text\")\"\n\
         cat \"$DATA/member.key\" >/dev/null 2>&1 || echo no key\n\
         ls \"$DATA\" >/dev/null 2>&1 || echo no list\n\
         ls \"$DATA/live\" >/dev/null 2>&1 || echo no names\n\
         touch \"$PWD/new\" 2>/dev/null || echo no writing\n\
         exec sleep 1000\n",
    )
    .unwrap();
    open(&site.join("bin/run"), 0o755).unwrap();
    let service = format!(
        "[services.api]\nrun = [\"bin/run\"]\nuser = \"{STRANGER}:{STRANGER}\"\n\
         env = {{ DATA = {:?} }}\n",
        member.data.to_str().unwrap()
    );
    manifest(&site, &service);

    // What bars it above the data directory is not the member's to open, and is named.
    let refused = member.publish(&site, &[]).unwrap_err();
    let barred = format!("can't enter {}, on the way", scratch.display());
    assert!(refused.why.contains(&barred), "{refused:?}");
    open(&scratch, 0o711).unwrap();
    fs::write(site.join("other"), "").unwrap();
    member.publish(&site, &[]).unwrap();
    all_are(&member, 1, "ready", 2);
    let is = format!("is {STRANGER}:{STRANGER}");
    let wanted = [is.as_str(), "tree first", "no key", "no list", "no names", "no writing"];
    until("it says what it finds", || {
        let said = logs(&member, &["shop", "api"]);
        let missing = wanted.iter().find(|line| !said.iter().any(|said| said == *line));
        missing.map_or(Ok(()), |line| Err(format!("{line} is not in {said:?}")))
    });
    nothing_else_is_open(&member);
    let let_through = format!("runs as user {STRANGER}, which may enter {}", member.data.display());
    assert!(member.events().contains(&let_through), "it is told");

    // A data directory as older members left it, or somebody who meant well.
    member.kill();
    fs::create_dir_all(member.data.join("secrets/shop")).unwrap();
    for (name, mode) in [("secrets", 0o755), ("events.redb", 0o644), ("logs", 0o777), ("", 0o700)] {
        open(&member.data.join(name), mode).unwrap();
    }
    let member = member.again().up().unwrap();
    all_are(&member, 1, "ready", 2);
    nothing_else_is_open(&member);
}
