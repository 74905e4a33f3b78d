//! Real members of the release binary on loopback, and what they cost: for benchmarks.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A process that ends with its owner.
pub struct Member(pub Child);

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Starts the `n`th member in a directory of its own, and waits for what it says when it is ready.
pub fn up(scratch: &Path, n: usize, join: Option<(&str, &str)>) -> (Member, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_althing"));
    command
        .args(["up", "--json", "--data"])
        .arg(scratch.join(format!("member-{n}")))
        .args(["--name", &format!("member-{n}")])
        .args(["--bind", &format!("127.0.0.{n}:0"), "--listen", &format!("127.0.0.{n}:0")])
        .args(["--status", &format!("127.0.0.{n}:0")])
        .env("ALTHING_CONFIG", "none")
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

/// What a command says to the `n`th member.
pub fn run(scratch: &Path, n: usize, arguments: &[&str]) -> serde_json::Value {
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

/// What the threads of a process have run whose name is `wanted`, in seconds: the first field of
/// their schedstat, in nanoseconds. Of threads that have ended it knows nothing.
pub fn run_seconds(pid: u32, wanted: impl Fn(&str) -> bool) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let run = |thread: std::io::Result<std::fs::DirEntry>| {
        let path = thread.expect("its threads are listed").path();
        // One may end between the two.
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        if !wanted(name.trim_end()) {
            return None;
        }
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
        Some(ns.expect("nanoseconds") / 1e9)
    };
    threads.filter_map(run).sum()
}

/// Resident memory of a process.
pub fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the member runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("Linux tells it");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
    kib / 1024.0
}

/// User and system time of a process, in seconds, threads that have ended included: fields 14 and
/// 15 of its stat, in ticks of a hundredth of a second on every Linux that we run on.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the member runs");
    let after_name = stat.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / 100.0
}
