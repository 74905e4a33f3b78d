use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    base::{AppName, MemberName},
    driver::{
        secrets::{Secret, Secrets},
        services::{LogLine, Supervisor},
    },
};

/// Longer than anything takes on a machine that is busy with other tests.
const GENEROUS: Duration = Duration::from_secs(60);

/// A supervisor with a tree of its own.
struct Bench {
    /// Killed before its directory goes.
    supervisor: Supervisor,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("next")).unwrap();
        let supervisor = Supervisor::new(scratch.path().join("logs"), |_| {});
        Self { supervisor, scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn call(&self, hook: &str) -> Call {
        let hooks = Hooks::parse(&format!("[hooks.before-switch]\n{hook}")).unwrap();
        hooks.check().unwrap();
        Call {
            app: app(),
            when: When::BeforeSwitch,
            version: 7,
            tree: self.path("next"),
            live: self.path("live"),
            member: MemberName::parse("north").unwrap(),
            hook: hooks.before_switch.unwrap(),
            settings: BTreeMap::new(),
            secrets: Secrets::new(),
        }
    }

    async fn run(&self, call: Call) -> Result<(), String> {
        let ended = tokio::time::timeout(GENEROUS, run(&self.supervisor, call)).await;
        ended.expect("it ends").map_err(|error| error.to_string())
    }

    /// Runs a script for a shell.
    async fn sh(&self, script: &str) -> Result<(), String> {
        self.run(self.call(&format!("run = [\"sh\", \"-c\", '''{script}''']"))).await
    }

    async fn log(&self) -> Vec<String> {
        self.supervisor.stop_all().await; // then all is written
        let lines = self.supervisor.tail(&app(), &When::BeforeSwitch.name(), usize::MAX).unwrap();
        lines.into_iter().map(|LogLine { text, .. }| text).collect()
    }
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

/// Looks until `path` holds a whole line.
async fn line_of(path: &Path) -> String {
    let looked = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(GENEROUS, looked).await.expect("it is written")
}

/// Looks until no such process lives; one that nobody waited for yet does not.
async fn gone(pid: &str) {
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
        state.is_some_and(|state| !matches!(state, "Z" | "X"))
    };
    let looked = async {
        while lives() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GENEROUS, looked).await.expect("it ends");
}

#[test]
fn a_definition_is_written_as_it_is_read() {
    let text = "[hooks.before-switch]\nrun = [\"sh\", \"-c\", \"nginx -t\"]\n\
                directory = \"conf\"\nuser = \"www-data\"\nsecrets = [\"db-password\"]\n\
                within = \"30s\"\n\n[hooks.before-switch.env]\nA = \"b\"\n\n\
                [hooks.before-switch.limits]\nfiles = 64\n\n\
                [hooks.after-switch]\nrun = [\"bin/reload\"]\n";
    let hooks = Hooks::read(text.as_bytes()).unwrap();
    assert_eq!(hooks.text().as_deref(), Some(text));
    assert_eq!(
        hooks.iter().map(|(when, _)| when).collect::<Vec<_>>(),
        [When::BeforeSwitch, When::AfterSwitch]
    );
    assert_eq!(hooks.after_switch.unwrap().within, Duration::from_secs(60));
    assert_eq!(Hooks::path().to_string(), ".althing/hooks.toml");
    // What is the default anyway is not written, and nothing where nothing runs.
    let said = "[hooks.after-switch]\nrun = [\"x\"]\ndirectory = \".\"\nwithin = \"1m\"\n";
    let written = Hooks::parse(said).unwrap().text().unwrap();
    assert_eq!(written, "[hooks.after-switch]\nrun = [\"x\"]\n");
    assert_eq!(Hooks::parse("").unwrap().text(), None);
    assert_eq!(Hooks::parse("[hooks]\n").unwrap(), Hooks::default());
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (text, why) in [
        ("run = []", "run names no program"),
        ("run = [\"/bin/true\"]", "it is absolute"),
        ("run = [\"../true\"]", "run starts with"),
        ("run = [\"true\"]\ndirectory = \"/tmp\"", "does not stay"),
        ("run = [\"true\"]\nwithin = \"11m\"", "at most 10 minutes"),
        ("run = [\"true\"]\nwithin = \"0s\"", "more than nothing"),
        ("run = [\"true\"]\nsecrets = [\"path\"]", "[hooks.before-switch] can't be given"),
        ("run = [\"true\"]\nenv = { ALTHING_NEXT = \"x\" }", "set by the member"),
        ("run = [\"true\"]\nsecrets = [\"a\"]\nenv = { A = \"x\" }", "take one of the two out"),
        ("run = [\"true\"]\nlimits = { files = 1 }", "limits.files"),
    ] {
        let refused = Hooks::read(format!("[hooks.before-switch]\n{text}\n").as_bytes());
        assert!(refused.as_ref().is_err_and(|error| error.contains(why)), "{text}: {refused:?}");
    }
    for text in [
        "[hooks.before-switch]\n",
        "[hooks.before]\nrun = [\"true\"]\n",
        "[hooks.before-switch]\nrun = [\"true\"]\nrestart = \"never\"\n",
        "[hooks.before-switch]\nrun = [\"true\"]\nwithin = 30\n",
        "[other]\n",
    ] {
        assert!(Hooks::parse(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn one_that_ends_well_has_passed_and_is_told_where_it_is() {
    let bench = Bench::new();
    let script = "pwd; env | grep -E \"^(ALTHING|SET|OWN|DB)\" | sort; echo no >&2";
    let mut call = bench.call(&format!(
        "run = [\"sh\", \"-c\", '''{script}''']\nsecrets = [\"db-key\"]\nenv = {{ OWN = \"1\" }}"
    ));
    call.settings.insert("SET".to_owned(), "2".to_owned());
    for name in ["db-key", "db-other"] {
        let secret = Secret::new(format!("value of {name}")).unwrap();
        call.secrets.insert(SecretName::parse(name).unwrap(), secret).unwrap();
    }
    assert_eq!(bench.run(call).await, Ok(()));
    let next = bench.path("next").canonicalize().unwrap();
    let log = bench.log().await;
    let told = |text: &str| assert!(log.iter().any(|line| line == text), "{text}: {log:?}");
    told(next.to_str().unwrap());
    told(&format!("ALTHING_NEXT={}", bench.path("next").display()));
    told(&format!("ALTHING_LIVE={}", bench.path("live").display()));
    for line in [
        "ALTHING_APP=web",
        "ALTHING_HOOK=before-switch",
        "ALTHING_VERSION=7",
        "ALTHING_MEMBER=north",
        "OWN=1",
        "SET=2",
        "DB_KEY=value of db-key",
        "exited with status 0",
    ] {
        told(line);
    }
    assert!(!log.iter().any(|line| line.starts_with("DB_OTHER")), "{log:?}");
}

#[tokio::test]
async fn one_that_fails_says_why_in_few_words() {
    let bench = Bench::new();
    let said = bench.sh("echo out; seq 9 >&2; printf \"\\n\\033[1mbad\\n\" >&2; exit 3").await;
    assert_eq!(said, Err("exited with status 3: 8 | 9 | \\u{1b}[1mbad".to_owned()));
    assert_eq!(bench.sh("exit 1").await, Err("exited with status 1".to_owned()));
    assert_eq!(bench.sh("kill -KILL $$").await, Err("was killed by SIGKILL".to_owned()));
    let long = bench.sh("head -c 5000 /dev/zero | tr \"\\0\" x >&2; exit 1").await.unwrap_err();
    assert!(long.ends_with("xxx...") && long.len() < 300, "{long}");
    let absent = bench.run(bench.call("run = [\"bin/absent\"]")).await.unwrap_err();
    assert!(absent.contains("can't be started: bin/absent is not in this version"), "{absent}");
    let log = bench.log().await;
    assert!(log.iter().any(|line| line.contains("bin/absent is not in this version")), "{log:?}");
}

#[tokio::test]
async fn secrets_that_it_prints_are_not_told_of() {
    let bench = Bench::new();
    let mut call = bench
        .call("run = [\"sh\", \"-c\", '''echo using \"$KEY\" >&2; exit 1''']\nsecrets = [\"key\"]");
    let secret = Secret::new("first line\nsecond line".to_owned()).unwrap();
    call.secrets.insert(SecretName::parse("key").unwrap(), secret).unwrap();
    let said = bench.run(call).await.unwrap_err();
    assert_eq!(said, "exited with status 1: using [secret] | [secret]");
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let bench = Bench::new();
    let script = "sleep 1000 & echo $! > child; echo waiting >&2; sleep 1000";
    let call = bench.call(&format!("run = [\"sh\", \"-c\", '''{script}''']\nwithin = \"1s\""));
    let said = bench.run(call).await;
    assert_eq!(said, Err("did not end within 1s and was killed: waiting".to_owned()));
    gone(&line_of(&bench.path("next/child")).await).await;
    // What one leaves behind that ends in time goes as well.
    assert_eq!(bench.sh("sleep 1000 & echo $! > left").await, Ok(()));
    gone(&line_of(&bench.path("next/left")).await).await;
}

#[tokio::test]
async fn one_that_nobody_waits_for_any_more_is_killed() {
    let bench = Bench::new();
    let script = "sleep 1000 & echo $! > child; sleep 1000";
    let call = bench.call(&format!("run = [\"sh\", \"-c\", '''{script}''']"));
    let child = bench.path("next/child");
    let child = tokio::select! {
        said = run(&bench.supervisor, call) => panic!("{said:?}"),
        child = line_of(&child) => child,
    };
    gone(&child).await;
    // The member stops: nothing is started any more.
    bench.supervisor.stop_all().await;
    let said = bench.sh("true").await.unwrap_err();
    assert!(said.contains("the member is stopping"), "{said}");
}

#[tokio::test]
async fn its_log_is_read_and_followed_as_that_of_a_service_is() {
    let bench = Bench::new();
    assert!(bench.supervisor.printing(&app()).is_empty());
    bench.sh("echo one").await.unwrap();
    let name = When::BeforeSwitch.name();
    assert!(bench.supervisor.printing(&app()).contains(&name));
    let mut lines = bench.supervisor.follow(&app(), &name).unwrap();
    bench.sh("echo two").await.unwrap();
    let mut heard = Vec::new();
    while let Ok(line) = lines.try_recv() {
        heard.push(line.text);
    }
    assert!(heard.iter().any(|line| line == "two"), "{heard:?}");
    let log = bench.log().await;
    assert!(log.iter().any(|line| line == "one") && log.iter().any(|line| line == "two"));
}
