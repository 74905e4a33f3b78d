use std::{collections::BTreeMap, fs};

use super::{
    super::script::{Call, run},
    *,
};
use crate::{
    base::{MemberName, ServiceName},
    driver::{Definition, rules::Rules, services::Supervisor},
};

/// A supervisor with a live tree.
struct Bench {
    /// Killed before its directory goes.
    supervisor: Supervisor,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("live")).unwrap();
        let supervisor = Supervisor::new(scratch.path().join("logs"), |_| {});
        Self { supervisor, scratch }
    }

    fn call(&self, script: &str) -> Call {
        let rules = Rules::read(format!("[script.tidy]\n{script}").as_bytes()).unwrap();
        Call {
            app: AppName::parse("shop").unwrap(),
            name: ServiceName::parse("tidy").unwrap(),
            version: 7,
            live: self.scratch.path().join("live"),
            member: MemberName::parse("south").unwrap(),
            script: rules.script.into_values().next().unwrap(),
            settings: BTreeMap::from([("COLOUR".to_owned(), "red".to_owned())]),
            secrets: secrets(&[("key", "s3cret!"), ("other", "x")]),
            notice: notice(),
        }
    }

    async fn run(&self, call: Call) -> Result<Done, ActionError> {
        tokio::time::timeout(GENEROUS, run(&self.supervisor, call)).await.expect("it ends")
    }

    /// Runs a script for a shell.
    async fn sh(&self, script: &str, rest: &str) -> Result<Done, ActionError> {
        self.run(self.call(&format!("run = [\"sh\", \"-c\", '''{script}''']\n{rest}"))).await
    }
}

#[tokio::test]
async fn a_script_finds_what_it_is_about() {
    let bench = Bench::new();
    let said = bench.sh("env | grep -E '^(ALTHING_|COLOUR|KEY|OTHER)' | sort; pwd", "").await;
    let said = said.unwrap().said;
    let live = bench.scratch.path().join("live").canonicalize().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let wanted = [
        "ALTHING_ABOUT=north",
        "ALTHING_APP=shop",
        "ALTHING_CLUSTER=main",
        "ALTHING_EPISODE=7f3a-12",
        "ALTHING_JUDGED_BY=north",
        "ALTHING_MEMBER=south",
        "ALTHING_RULE=hot",
        "ALTHING_SCRIPT=tidy",
        "ALTHING_SEVERITY=critical",
        "ALTHING_STATE=begin",
        "ALTHING_TEXT=cpu is 97%, more than 90% for 2m",
        "ALTHING_VERSION=7",
        "COLOUR=red",
    ];
    for line in wanted {
        assert!(lines.contains(&line), "{line} in {said}");
    }
    // And the path of the live tree, which is where it runs.
    assert_eq!(lines.len(), wanted.len() + 2, "{said}");
    assert_eq!(lines.last().copied(), live.to_str());
}

#[tokio::test]
async fn what_it_is_told_is_read_by_no_shell() {
    let bench = Bench::new();
    let mut call = bench.call("run = [\"printenv\", \"ALTHING_TEXT\"]");
    call.notice.text = "a\0b $(touch x); `id`\nsecond".to_owned();
    assert_eq!(bench.run(call).await.unwrap().said, "a b $(touch x); `id`\nsecond");
    assert!(!bench.scratch.path().join("live/x").exists());
}

#[tokio::test]
async fn one_that_fails_says_how() {
    let bench = Bench::new();
    let failed = |how: &str, said: &str| {
        Err(ActionError::Script { how: how.to_owned(), said: said.to_owned() })
    };
    assert_eq!(
        bench.sh("echo out; echo no >&2; exit 3", "").await.map_err(|error| match error {
            // Two streams are read in no order.
            ActionError::Script { how, said } => {
                let mut lines: Vec<&str> = said.lines().collect();
                lines.sort_unstable();
                ActionError::Script { how, said: lines.join("\n") }
            }
            other => other,
        }),
        failed("exited with status 3", "no\nout")
    );
    assert_eq!(bench.sh("kill -9 $$", "").await, failed("was killed by SIGKILL", ""));
    let gone = bench.run(bench.call("run = [\"bin/gone\"]")).await.unwrap_err();
    assert!(gone.to_string().contains("can't be started"), "{gone}");
    let name = SecretName::parse("third").unwrap();
    assert_eq!(bench.sh("true", "secrets = [\"third\"]").await, Err(ActionError::NoSecret(name)));
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let bench = Bench::new();
    let error = bench.sh("sleep 1000 & echo $!; wait", "within = \"1s\"").await.unwrap_err();
    let ActionError::Script { how, said } = error else { panic!("{error}") };
    assert_eq!(how, "did not end within 1s and was killed");
    let stat = fs::read_to_string(format!("/proc/{}/stat", said.trim())).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
    assert!(matches!(state, None | Some("Z" | "X")), "{stat}");
}

#[tokio::test]
async fn the_end_of_what_it_printed_is_kept_and_no_secret() {
    let bench = Bench::new();
    let said = bench.sh("seq 100000", "").await.unwrap().said;
    assert!(said.ends_with("\n99999\n100000") && said.len() <= SAID_MAX, "{}", said.len());
    assert!(said.len() > SAID_MAX / 4, "{}", said.len());
    let long = bench.sh("head -c 10000 /dev/zero | tr '\\0' x; echo end", "").await.unwrap().said;
    assert!(long.ends_with("xend") && long.len() == SAID_MAX, "{}", long.len());
    let said = bench.sh("echo with $KEY and $OTHER", "secrets = [\"key\"]").await.unwrap().said;
    assert_eq!(said, "with [secret] and");
}
