use std::{collections::BTreeMap, fs, net::TcpListener as StdListener, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Bench, FOREVER, What, app, ends, executable, lives, name, root, script, until};
use crate::driver::{
    secrets::Secrets,
    services::{Running, Services, State, Supervisor, group},
};

const BRIEFLY: &str = "ready = { after = \"1ms\" }";

#[tokio::test]
async fn a_service_starts_gets_ready_and_stops() {
    let mut bench = Bench::new();
    bench.set(3, &script("api", FOREVER, BRIEFLY));
    let pid = bench.started("api").await;
    bench.ready("api").await;
    let status = bench.status("api");
    assert_eq!((status.state, status.pid, status.version), (State::Ready, Some(pid), 3));
    assert_eq!((status.restarts, status.last_exit), (0, None));
    bench.supervisor.remove(&app());
    let event = bench.wait(|e| matches!(e.what, What::Stopped { .. })).await;
    assert_eq!(event.what, What::Stopped { killed: false });
    assert_eq!(event.to_string(), "service api of web (version 3) stopped");
    assert!(!lives(pid));
    bench.until(|b| b.supervisor.status().is_empty().then_some(())).await;
    assert_eq!(bench.supervisor.groups().count(), 0);
}

#[tokio::test]
async fn its_surroundings_are_what_the_definition_says() {
    let mut bench = Bench::new();
    fs::create_dir(bench.tree().join("data")).unwrap();
    executable(
        &bench.tree().join("bin/show"),
        "#!/bin/sh\necho \"args $*\"\nenv | sort\necho \"cwd $(pwd -P)\"\necho \"in $(cat)\"\n\
         echo \"files $(ulimit -n)\"\necho \"session $(cut -d' ' -f1,5,6 /proc/$$/stat)\"\n",
    );
    let toml = "[services.show]\nrun = [\"bin/show\", \"a b\", \"$HOME\"]\ndirectory = \"data\"\n\
                restart = \"never\"\nlimits = { files = 77 }\nenv = { B = \"own\" }\n";
    let services = Services::parse(toml).unwrap();
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    let running = Running {
        version: 12,
        root: root(12),
        tree: bench.tree(),
        services,
        served: Default::default(),
        env,
        secrets: Secrets::new(),
    };
    bench.supervisor.set(&app(), running).unwrap();
    let pid = bench.started("show").await;
    bench.wait(|e| matches!(e.what, What::Exited { status: 0 })).await;
    bench.supervisor.stop_all().await;
    let lines: Vec<String> = bench.lines("show").into_iter().map(|l| l.text).collect();
    let data = bench.tree().canonicalize().unwrap().join("data");
    for expected in [
        "args a b $HOME",
        "A=1",
        "B=own",
        "ALTHING_APP=web",
        "ALTHING_SERVICE=show",
        "ALTHING_VERSION=12",
        "in ",
        "files 77",
        &format!("cwd {}", data.display()),
        &format!("session {pid} {pid} {pid}"),
    ] {
        assert!(lines.iter().any(|l| l == expected), "{expected} is not in {lines:?}");
    }
    // Nothing of the environment that runs the tests.
    let known =
        ["A=", "B=", "PATH=", "HOME=", "LANG=", "PWD=", "OLDPWD=", "SHLVL=", "_=", "ALTHING_"];
    let variable = |l: &&String| {
        l.split_once('=')
            .is_some_and(|(n, _)| n.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    for line in lines.iter().filter(variable) {
        assert!(known.iter().any(|k| line.starts_with(k)), "{line}");
    }
}

#[tokio::test]
async fn it_is_started_again_with_growing_pauses() {
    let mut bench = Bench::new();
    bench.set(1, &script("api", "exit 3", ""));
    for count in 1..=3 {
        let event = bench.wait(|e| matches!(e.what, What::Restarted { .. })).await;
        assert!(matches!(event.what, What::Restarted { count: n, .. } if n == count), "{event}");
        let event = bench.wait(|e| matches!(e.what, What::Exited { .. })).await;
        assert_eq!(event.what, What::Exited { status: 3 });
    }
    bench.state("api", State::BackingOff).await;
    let status = bench.status("api");
    assert!(status.restarts >= 3);
    assert_eq!(status.last_exit.as_deref(), Some("exited with status 3"));
    assert_eq!(status.pid, None);
    // A new definition does not wait for the end of the pause.
    bench.set(1, &script("api", FOREVER, BRIEFLY));
    bench.ready("api").await;
    assert_eq!(bench.status("api").restarts, 0);
}

#[tokio::test]
async fn what_follows_an_end_is_what_the_definition_says() {
    let mut bench = Bench::new();
    let all = [
        script("well", "exit 0", "restart = \"on-failure\""),
        script("ill", "exit 1", "restart = \"on-failure\""),
        script("always", "exit 0", "restart = \"always\""),
        script("never", "exit 0", "restart = \"never\""),
        script("never-ill", "kill -9 $$", "restart = \"never\""),
    ];
    bench.set(1, &all.concat());
    let mut again = std::collections::BTreeSet::new();
    let mut given_up = false;
    while again.len() < 2 || !given_up {
        let meant =
            |e: &super::ServiceEvent| matches!(e.what, What::Restarted { .. } | What::GivenUp);
        let event = bench.wait(meant).await;
        given_up |= event.what == What::GivenUp;
        if event.what != What::GivenUp {
            again.insert(event.service.to_string());
        } else {
            assert_eq!(event.service, name("never-ill"));
        }
    }
    assert_eq!(again, ["always", "ill"].map(str::to_owned).into());
    bench.state("well", State::Stopped).await;
    bench.state("never", State::Stopped).await;
    let status = bench.status("never-ill");
    assert_eq!(status.state, State::Failed);
    assert_eq!(status.last_exit.as_deref(), Some("was killed by SIGKILL"));
    // Asked for by name, it runs once more.
    assert_eq!(bench.supervisor.restart(&app(), Some(&name("never"))), 1);
    bench.started("never").await;
    assert_eq!(bench.supervisor.restart(&app(), Some(&name("gone"))), 0);
    assert_eq!(bench.supervisor.restart(&app(), None), 5);
}

#[tokio::test]
async fn what_ignores_the_signal_is_killed_with_its_children() {
    let mut bench = Bench::new();
    let text =
        "trap '' TERM; sh -c 'echo child $$; while :; do sleep 0.01; done' & echo up; wait; wait";
    bench.set(1, &script("api", text, "stop = { within = \"100ms\" }"));
    let pid = bench.started("api").await;
    let child: u32 = bench.line("api", "child ").await.parse().unwrap();
    assert!(lives(pid) && lives(child));
    bench.supervisor.remove(&app());
    let event = bench.wait(|e| matches!(e.what, What::Stopped { .. })).await;
    assert_eq!(event.what, What::Stopped { killed: true });
    assert!(!lives(pid) && !lives(child));
}

#[tokio::test]
async fn children_that_stop_more_slowly_have_their_time() {
    let mut bench = Bench::new();
    // The first process ends at once, its child needs a moment to put things away.
    let text = "sh -c 'trap \"sleep 0.2; echo put away; exit\" TERM; echo child $$; \
                while :; do sleep 0.01; done' & wait";
    bench.set(1, &script("api", text, "stop = { within = \"30s\" }"));
    bench.line("api", "child ").await;
    bench.supervisor.remove(&app());
    let event = bench.wait(|e| matches!(e.what, What::Stopped { .. })).await;
    assert_eq!(event.what, What::Stopped { killed: false });
    bench.line("api", "put away").await;
}

#[tokio::test]
async fn children_of_what_ended_are_killed_before_it_starts_again() {
    let mut bench = Bench::new();
    let text = "sh -c 'echo child $$; trap \"\" TERM; while :; do sleep 0.01; done' & \
                while [ ! -e go ]; do sleep 0.01; done; exit 1";
    bench.set(1, &script("api", text, "restart = \"never\""));
    let child: u32 = bench.line("api", "child ").await.parse().unwrap();
    fs::write(bench.tree().join("go"), "").unwrap();
    bench.wait(|e| matches!(e.what, What::Exited { status: 1 })).await;
    assert!(!lives(child));
}

#[tokio::test]
async fn only_what_changed_is_started_again() {
    let mut bench = Bench::new();
    let two = |more: &str| {
        let (api, worker) = (script("api", FOREVER, BRIEFLY), script("worker", FOREVER, more));
        format!("{api}{worker}")
    };
    bench.set(1, &two(BRIEFLY));
    bench.ready("worker").await;
    bench.state("api", State::Ready).await;
    let before = (bench.status("api").pid, bench.status("worker").pid);
    bench.set(1, &two(BRIEFLY));
    bench.set(1, &two("ready = { after = \"2ms\" }"));
    bench.started("worker").await;
    bench.state("worker", State::Ready).await;
    let after = (bench.status("api").pid, bench.status("worker").pid);
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    assert!(!lives(before.1.unwrap()));
    // Another version is another tree: both.
    bench.set(2, &two("ready = { after = \"2ms\" }"));
    bench.until(|b| (b.status("api").version == 2).then_some(())).await;
    bench.until(|b| (b.status("worker").version == 2).then_some(())).await;
    bench.state("api", State::Ready).await;
    assert_ne!(bench.status("api").pid, after.0);
    // What is taken out is stopped, the other goes on.
    bench.state("worker", State::Ready).await;
    let api = bench.status("api").pid;
    bench.set(2, &script("api", FOREVER, BRIEFLY));
    bench.until(|b| (b.supervisor.status().len() == 1).then_some(())).await;
    assert_eq!(bench.status("api").pid, api);
}

#[tokio::test]
async fn wishes_while_it_stops_are_not_lost_and_it_never_runs_twice() {
    let mut bench = Bench::new();
    let text = "mkdir alone || exit 9; trap 'rmdir alone; exit 0' TERM; echo up; \
                while :; do sleep 0.01; done";
    for version in 1..=8 {
        bench.set(version, &script("api", text, BRIEFLY));
        if version % 3 == 0 {
            bench.supervisor.remove(&app());
        }
        if version % 4 == 0 {
            bench.until(|b| b.lines("api").iter().any(|l| l.text == "up").then_some(())).await;
        }
    }
    bench.wait(|e| e.version == 8 && matches!(e.what, What::Ready { .. })).await;
    bench.supervisor.stop_all().await;
    assert!(bench.lines("api").iter().all(|l| !l.text.contains("status 9")));
}

#[tokio::test]
async fn an_address_says_when_it_is_ready() {
    let mut bench = Bench::new();
    // A port that is free, and refuses until it is listened on.
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let more = format!("ready = {{ tcp = \"{address}\", within = \"50ms\" }}");
    bench.set(1, &script("api", FOREVER, &more));
    let event = bench.wait(|e| matches!(e.what, What::NotReady { .. })).await;
    assert!(event.to_string().contains("is not ready within 50 ms ("), "{event}");
    assert_eq!(bench.status("api").state, State::RunningNotReady);
    let _listener = TcpListener::bind(address).await.unwrap();
    bench.ready("api").await;
    assert_eq!(bench.status("api").state, State::Ready);
}

#[tokio::test]
async fn an_answer_says_when_it_is_ready() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        for status in ["503 No", "404 No", "200 OK"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1_024];
            let count = stream.read(&mut request).await.unwrap();
            asked.push(String::from_utf8_lossy(&request[..count]).into_owned());
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    let more = format!("ready = {{ http = \"http://{address}/health?x\" }}");
    bench.set(1, &script("api", FOREVER, &more));
    bench.ready("api").await;
    let asked = server.await.unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked[2].starts_with(&format!("GET /health?x HTTP/1.1\r\nHost: {address}\r\n")));
}

#[tokio::test]
async fn what_can_not_be_started_says_why_and_is_tried_again() {
    let mut bench = Bench::new();
    fs::create_dir(bench.tree().join("bin")).unwrap();
    fs::write(bench.tree().join("bin/plain"), "no program").unwrap();
    std::os::unix::fs::symlink("/bin/sh", bench.tree().join("bin/out")).unwrap();
    executable(&bench.tree().join("bin/strange"), "#!/no/such/interpreter\n");
    for (run, word) in [
        ("bin/gone", "not in this version"),
        ("bin/plain", "chmod +x"),
        ("bin/out", "leads out of the tree"),
        ("bin/strange", "interpreter"),
        ("no-such-program-anywhere", "in PATH"),
    ] {
        bench.set(1, &format!("[services.api]\nrun = [\"{run}\"]\n"));
        let says = |what: &What| matches!(what, What::CannotStart { why } if why.contains(word));
        bench.wait(|e| says(&e.what)).await;
    }
    let more = "restart = \"never\"\ndirectory = \"bin/plain\"";
    bench.set(1, &script("api", "exit", more));
    bench.wait(|e| e.what == What::GivenUp).await;
    bench.state("api", State::Failed).await;
    // Once it can be started, it is, without being asked.
    bench.set(1, "[services.api]\nrun = [\"bin/late\"]\nready = { after = \"1ms\" }\n");
    bench.wait(|e| matches!(e.what, What::CannotStart { .. })).await;
    executable(&bench.tree().join("bin/late"), &format!("#!/bin/sh\n{FOREVER}\n"));
    bench.ready("api").await;
}

#[tokio::test]
async fn what_is_not_checked_is_not_run() {
    let bench = Bench::new();
    let services = Services::parse("[services.api]\nrun = [\"../../bin/sh\"]").unwrap();
    let running = Running {
        version: 1,
        root: root(1),
        tree: bench.tree(),
        services,
        served: Default::default(),
        env: BTreeMap::new(),
        secrets: Secrets::new(),
    };
    let wrong = bench.supervisor.set(&app(), running).unwrap_err();
    assert!(wrong[0].contains("no program of the application's tree"), "{wrong:?}");
    assert!(bench.supervisor.status().is_empty());
}

#[tokio::test]
async fn another_user_has_nothing_of_the_members() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::new();
    let more = "user = \"65534:65534\"\nrestart = \"never\"\ndirectory = \".\"";
    // Others have to reach the tree.
    for path in [bench.scratch.path().to_owned(), bench.tree()] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, open).unwrap();
    }
    bench.set(1, &script("api", "echo \"is $(id -u):$(id -g):$(id -G)\"", more));
    bench.wait(|e| matches!(e.what, What::Exited { status: 0 })).await;
    assert_eq!(bench.line("api", "is ").await, "65534:65534:65534");
}

/// Why the next one that can't be started can't.
async fn cannot_start(bench: &mut Bench) -> String {
    bench.wait(|e| matches!(e.what, What::CannotStart { .. })).await.what.to_string()
}

#[tokio::test]
async fn what_bars_another_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::new();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let toml = "[services.api]\nrun = [\"./api\"]\nuser = \"65534:65534\"\nrestart = \"never\"\n";
    let (tree, scratch) = (bench.tree(), bench.scratch.path().canonicalize().unwrap());
    fs::write(tree.join("api"), "#!/bin/sh\n").unwrap();
    open(&scratch, 0o700);
    open(&tree, 0o755);
    open(&tree.join("api"), 0o700);
    bench.set(1, toml);
    let said = cannot_start(&mut bench).await;
    let barred = format!("can't enter {}, on the way to", scratch.display());
    assert!(said.contains(&barred), "{said}");
    open(&scratch, 0o711);
    bench.set(2, toml);
    let said = cannot_start(&mut bench).await;
    let barred = format!("may not enter or execute {}", scratch.join("tree/api").display());
    assert!(said.contains(&barred), "{said}");
    open(&tree.join("api"), 0o755);
    bench.set(3, toml);
    bench.wait(|e| e.what == What::Exited { status: 0 }).await;
}

#[tokio::test]
async fn after_stop_all_nothing_runs_and_nothing_is_started() {
    let mut bench = Bench::new();
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let all = [
        script("one", FOREVER, ""),
        script("two", stubborn, "stop = { within = \"50ms\" }"),
        script("three", "exit 1", ""),
    ];
    bench.set(1, &all.concat());
    bench.line("two", "up").await;
    bench.wait(|e| e.service == name("three") && matches!(e.what, What::Exited { .. })).await;
    let pids: Vec<u32> = bench.supervisor.status().into_iter().filter_map(|s| s.pid).collect();
    assert!(pids.len() >= 2);
    bench.supervisor.stop_all().await;
    assert!(pids.iter().all(|pid| !lives(*pid)));
    assert!(bench.supervisor.status().is_empty());
    assert_eq!(bench.supervisor.groups().count(), 0);
    bench.set(2, &script("one", FOREVER, ""));
    assert!(bench.supervisor.status().is_empty());
}

#[tokio::test]
async fn what_is_dropped_takes_its_processes_along() {
    let mut bench = Bench::new();
    bench.set(1, &script("api", "sh -c 'echo child $$; while :; do sleep 0.01; done' & wait", ""));
    let pid = bench.started("api").await;
    let child: u32 = bench.line("api", "child ").await.parse().unwrap();
    let groups = bench.supervisor.groups();
    let scratch = bench.scratch;
    drop(bench.supervisor);
    ends(pid).await;
    ends(child).await;
    until(|| (groups.count() == 0).then_some(())).await;
    drop(scratch);
}

/// Not a test: what the next one starts as a member that is then killed.
#[tokio::test]
async fn a_member_for_the_next_test() {
    let Some(dir) = std::env::var_os("SERVICES_TEST_MEMBER") else { return };
    let dir = std::path::PathBuf::from(dir);
    let supervisor = Supervisor::new(dir.join("logs"), |_| {});
    let text = "sh -c 'echo $$ > child; while :; do sleep 0.01; done' & echo $$ > first; wait";
    let services = Services::parse(&script("api", text, "")).unwrap();
    let running = Running {
        version: 1,
        root: root(1),
        tree: dir.join("tree"),
        services,
        served: Default::default(),
        env: BTreeMap::new(),
        secrets: Secrets::new(),
    };
    supervisor.set(&app(), running).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_killed_member_leaves_ends_at_once_or_with_the_next() {
    let bench = Bench::new();
    let logs = bench.scratch.path().join("logs");
    let test = "driver::services::tests::running::a_member_for_the_next_test";
    let mut member = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SERVICES_TEST_MEMBER", bench.scratch.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let read = |file: &str| {
        let text = fs::read_to_string(bench.tree().join(file)).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let first = until(|| read("first")).await;
    let child = until(|| read("child")).await;
    let record = group::record_path(&logs, "web", "api", 0);
    until(|| fs::read_to_string(&record).ok().filter(|t| t.ends_with('\n'))).await;
    assert!(lives(first) && lives(child));
    member.kill().unwrap();
    member.wait().unwrap();
    // The kernel ends the first process. What that one made has nobody any more...
    ends(first).await;
    assert!(lives(child));
    // ... until the member comes back.
    let _next = Supervisor::new(logs, |_| {});
    ends(child).await;
    assert!(!record.exists());
}

#[tokio::test]
async fn a_record_that_is_not_ours_kills_nobody() {
    let bench = Bench::new();
    let logs = bench.scratch.path().join("other");
    let mut innocent = std::process::Command::new("sh");
    std::os::unix::process::CommandExt::process_group(&mut innocent, 0);
    let mut innocent = innocent.args(["-c", FOREVER]).spawn().unwrap();
    let record = group::record_path(&logs, "web", "api", 0);
    group::record(&record, rustix::process::Pid::from_child(&innocent));
    for text in ["", "1 x\n", "-1 x\n", "0\n"] {
        let other = group::record_path(&logs, "web", &format!("x{}", text.len()), 0);
        fs::write(other, text).unwrap();
    }
    let _next = Supervisor::new(logs, |_| {});
    assert!(lives(innocent.id()) && !record.exists());
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[tokio::test]
async fn a_hundred_services_start_and_stop() {
    let bench = Bench::new();
    let services: String = (0..50).map(|n| script(&format!("s{n}"), FOREVER, BRIEFLY)).collect();
    for app in ["one", "two"] {
        let services = Services::parse(&services.replace("sleep 0.01", "sleep 1")).unwrap();
        let running = Running {
            version: 1,
            root: root(1),
            tree: bench.tree(),
            services,
            served: Default::default(),
            env: BTreeMap::new(),
            secrets: Secrets::new(),
        };
        bench.supervisor.set(&app.parse().unwrap(), running).unwrap();
    }
    let ready = |b: &Bench| b.supervisor.status().iter().all(|s| s.state == State::Ready);
    bench.until(|b| ready(b).then_some(())).await;
    tokio::time::timeout(Duration::from_secs(60), bench.supervisor.stop_all()).await.unwrap();
    assert_eq!(bench.supervisor.groups().count(), 0);
}
