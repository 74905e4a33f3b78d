//! Scenarios: what `althing sim` runs, through the library and as the command.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use althing::sim::{self, Engine, Measured, Rate, Rates, Scenario, Weather};
use serde_json::Value;

fn run(scenario: &Scenario) -> Measured {
    sim::simulate(scenario, &mut |_| {}).unwrap()
}

fn scenario(members: usize, engine: Engine, seconds: u64, script: &str) -> Scenario {
    let mut scenario = Scenario::calm(members, 7);
    scenario.engine = engine;
    scenario.span = Duration::from_secs(seconds);
    scenario.steps = sim::parse_script(script, members).unwrap();
    scenario
}

#[test]
fn whole_members_do_what_the_script_says() {
    let script = "at 1s publish web 10MB on m2\nat 4s drift m3\nat 12s silence m5\n\
                  at 20s restart m5\nat 30s partition m4 | rest\nat 40s heal\n\
                  at 42s publish web\nat 45s join\nat 50s remove m6\n";
    let measured = run(&scenario(5, Engine::Whole, 60, script));
    let story = measured.story.join("\n");
    assert_eq!(measured.violation, None, "{story}");
    assert_eq!(measured.trouble, None, "{story}");
    assert_eq!((measured.repairs.begun, measured.repairs.done), (1, 1), "{story}");
    assert_eq!((measured.spreads.begun, measured.spreads.done), (2, 2), "{story}");
    // Two publications and a removal; how an invitation is answered is its own story.
    assert_eq!((measured.commits.begun, measured.commits.done), (3, 3), "{story}");
    let failures: Vec<_> = measured.failures.iter().map(|f| (&*f.member, f.what)).collect();
    assert_eq!(failures, [("m5", "fell silent"), ("m4", "cut off")]);
    for spread in measured.failures.iter().chain(&measured.returns) {
        assert_eq!((spread.audience, spread.knew), (4, 4), "{story}");
        assert!(spread.first_ms <= spread.half_ms && spread.half_ms <= spread.all_ms);
        assert!(spread.all_ms < Some(6_000.0), "{spread:?}");
    }
    assert_eq!(measured.returns.len(), 2);
    assert_eq!(measured.false_accusations.verdicts, 0, "{story}");
    assert!(measured.traffic.bytes_mean > 100.0 && measured.traffic.packets_mean > 1.0);
}

#[test]
fn membership_alone_learns_of_failures_in_a_large_cluster() {
    // Not before all have been greeted, or an idle member is not idle yet.
    let script = "at 25s silence m7\nat 25s kill m9\nat 35s restart m7..m9\nat 40s join 2\n\
                  at 45s leave m3\nat 50s pause m5\nat 58s resume m5\n";
    let measured = run(&scenario(150, Engine::Membership, 65, script));
    let story = measured.story.join("\n");
    assert_eq!(measured.failures.len(), 4);
    for failure in &measured.failures {
        assert!(failure.all_ms.is_some_and(|all| all < 8_000.0), "{failure:?}\n{story}");
    }
    assert!(measured.returns.iter().all(|r| r.all_ms.is_some()), "{:?}", measured.returns);
    assert_eq!(measured.false_accusations.verdicts, 0, "{story}");
    let idle = measured.idle.unwrap();
    assert!(idle.bytes_mean > 50.0 && idle.bytes_max < 3_000.0, "{idle:?}");
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let rate = |every, lasts| {
        Some(Rate { every: Duration::from_secs(every), lasts: Duration::from_secs(lasts) })
    };
    let rates =
        Rates { crash: rate(5, 3), pause: rate(7, 2), partition: rate(11, 4), ..Rates::default() };
    let weather = Weather { loss: 50, ..Weather::WAN };
    let mut whole = scenario(4, Engine::Whole, 30, "");
    (whole.rates, whole.weather, whole.bad_disks, whole.slow) = (rates, weather, true, 1);
    (whole.rates.drift, whole.rates.publish) = (rate(9, 1), rate(4, 1));
    let mut alone = scenario(30, Engine::Membership, 30, "");
    (alone.rates, alone.weather, alone.slow) = (rates, weather, 3);
    for mut scenario in [whole, alone] {
        let json = |measured: &Measured| serde_json::to_string(measured).unwrap();
        let one = run(&scenario);
        assert_eq!(one.violation, None, "{}", one.story.join("\n"));
        assert!(!one.failures.is_empty());
        assert_eq!(json(&one), json(&run(&scenario)));
        scenario.seed += 1;
        assert_ne!(one.trace, run(&scenario).trace);
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let publish = scenario(60, Engine::Membership, 10, "at 1s kill m1\nat 2s publish web 1MB");
    let error = publish.check().unwrap_err();
    assert!(error.contains("line 2: `at 2s publish web 1MB`"), "{error}");
    assert!(Scenario { members: 1, ..Scenario::calm(5, 1) }.check().is_err());
    assert!(Scenario { members: 51, ..Scenario::calm(5, 1) }.check().is_err());
    assert!(Scenario { slow: 5, ..Scenario::calm(5, 1) }.check().is_err());
}

fn althing(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_althing")).arg("sim").args(arguments).output().unwrap()
}

/// The document without what depends on the machine.
fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for run in document["runs"].as_array_mut().unwrap() {
        assert!(run.as_object_mut().unwrap().remove("real_ms").unwrap().as_f64() > Some(0.0));
    }
    document
}

#[test]
fn the_command_prints_figures_json_and_a_plot() {
    let dir = tempfile::TempDir::new().unwrap();
    let plot = dir.path().join("sizes.svg");
    let sizes = ["--members", "10,60", "--time", "30s", "--seed", "3"];
    let output = althing(&[&sizes[..], &["--json", "--plot", plot.to_str().unwrap()]].concat());
    let one = document(&output);
    assert_eq!(one, document(&althing(&[&sizes[..], &["--json"]].concat())));
    assert_eq!(one["runs"][1]["members"], 60);
    assert_eq!(one["runs"][1]["failures"][0]["audience"], 59);
    assert!(one["runs"][1]["failures"][0]["all_ms"].as_f64() > Some(100.0));
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(svg.contains("60 members, m60 fell silent"), "{svg}");

    let script = dir.path().join("script.txt");
    fs::write(&script, "at 1s publish web 1MB\nat 3s kill m2 # and stays dead\n").unwrap();
    let script = script.to_str().unwrap();
    let output = althing(&["--members", "3", "--time", "10s", "--script", script, "--story"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for words in ["at 3s kill m2", "2 of 2", "false accusations", "a version until live on all"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn the_command_says_what_is_wrong_with_a_script() {
    let dir = tempfile::TempDir::new().unwrap();
    let script = dir.path().join("script.txt");
    fs::write(&script, "at 1s kill m2\nat 3s kil m2\n").unwrap();
    let script = script.to_str().unwrap();
    for (arguments, words) in [
        (["--script", script], "line 2: `kil` is no action"),
        (["--script", "/does/not/exist"], "/does/not/exist"),
    ] {
        let output = althing(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("Nothing was simulated.") && text.contains(words), "{text}");
    }
}
