//! What an idle member costs: five real processes of the release binary on
//! loopback, one published site, nobody asks for anything.
//!
//! `cargo bench --bench idle [-- --quick] [-- --json]` prints CPU share,
//! resident memory and bytes sent for each member, and fails above the bounds
//! that the project promises: 1 % of a core and 30 MiB.

#![expect(clippy::disallowed_methods, reason = "a benchmark waits in real time")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const MEMBERS: usize = 5;
const CPU_PERCENT_MAX: f64 = 1.0;
const RESIDENT_MIB_MAX: f64 = 30.0;

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_set = |flag: &str| arguments.iter().any(|a| a == flag);
    let seconds = if is_set("--quick") { 15 } else { 60 };
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let site = scratch.path().join("site");
    std::fs::create_dir(&site).expect("the site's directory can be made");
    for n in 0..200 {
        let page = site.join(format!("page-{n}.html"));
        std::fs::write(page, format!("<h1>Page {n}</h1>\n")).expect("a page can be written");
    }

    let mut members = vec![up(scratch.path(), 1, None)];
    let invited = run(scratch.path(), 1, &["invite", "--uses", "4", "--json"]);
    let token = invited["token"].as_str().expect("an invitation has a token").to_owned();
    let seed = members[0].1["address"].as_str().expect("a ready line").to_owned();
    for n in 2..=MEMBERS {
        members.push(up(scratch.path(), n, Some((&seed, &token))));
    }
    let source = site.to_str().expect("a temporary path is UTF-8");
    run(scratch.path(), 1, &["publish", source, "--app", "web", "--json"]);
    // The joins and the publication have been paid for by then.
    std::thread::sleep(Duration::from_secs(5));

    let before: Vec<f64> = members.iter().map(|(m, _)| cpu_seconds(m.0.id())).collect();
    let sent: Vec<u64> = (1..=MEMBERS).map(|n| bytes_sent(scratch.path(), n)).collect();
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let elapsed = started.elapsed().as_secs_f64();

    println!("{MEMBERS} members, one site of 200 files, idle for {elapsed:.0} s");
    println!("{:<10} {:>8} {:>14} {:>10}", "member", "CPU %", "resident MiB", "sent B/s");
    let mut worst = (0.0_f64, 0.0_f64);
    for (n, (member, _)) in members.iter().enumerate() {
        let cpu = (cpu_seconds(member.0.id()) - before[n]) / elapsed * 100.0;
        let resident = resident_mib(member.0.id());
        let rate = (bytes_sent(scratch.path(), n + 1) - sent[n]) as f64 / elapsed;
        println!("{:<10} {cpu:>8.2} {resident:>14.1} {rate:>10.0}", format!("member-{}", n + 1));
        worst = (worst.0.max(cpu), worst.1.max(resident));
    }
    if is_set("--json") {
        println!(r#"{{"cpu_percent_max":{:.3},"resident_mib_max":{:.1}}}"#, worst.0, worst.1);
    }
    if worst.0 > CPU_PERCENT_MAX || worst.1 > RESIDENT_MIB_MAX {
        println!("above the bounds of {CPU_PERCENT_MAX} % and {RESIDENT_MIB_MAX} MiB");
        return ExitCode::FAILURE;
    }
    println!("within the bounds of {CPU_PERCENT_MAX} % and {RESIDENT_MIB_MAX} MiB");
    ExitCode::SUCCESS
}

fn up(scratch: &Path, n: usize, join: Option<(&str, &str)>) -> (Member, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_althing"));
    command
        .args(["up", "--json", "--data"])
        .arg(scratch.join(format!("member-{n}")))
        .args(["--name", &format!("member-{n}")])
        .args(["--bind", &format!("127.0.0.{n}:0"), "--listen", &format!("127.0.0.{n}:0")])
        .args(["--status", &format!("127.0.0.{n}:0")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some((seed, token)) = join {
        command.args(["--join", seed, "--token", token]);
    }
    let mut child = command.spawn().expect("the binary starts");
    let out = child.stdout.take().expect("its output is piped");
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("it says when it is ready");
    let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    (Member(child), ready)
}

fn run(scratch: &Path, n: usize, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_althing"))
        .args(arguments)
        .arg("--data")
        .arg(scratch.join(format!("member-{n}")))
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn bytes_sent(scratch: &Path, n: usize) -> u64 {
    let metrics = run(scratch, n, &["metrics", "--json"]);
    metrics["bytes_sent"].as_u64().expect("a member counts what it sends")
}

/// User and system time of a process: fields 14 and 15 of its stat, in ticks
/// of a hundredth of a second on every Linux that we run on.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the member runs");
    let after_name = stat.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / 100.0
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the member runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("Linux tells it");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
    kib / 1024.0
}
