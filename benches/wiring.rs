//! What it costs a member to watch itself, with everything that belongs to it: a real process of
//! the release binary on loopback, with 20 rules, and told 70 series of a service once a second.
//!
//! `cargo bench --bench wiring [-- --quick] [-- --json]` starts one member that is told nothing and
//! has no rules, and after it one that is told and judges. It prints what both cost and how they
//! differ, and fails above the bounds that the project promises for 100 series: 0.5 % of a core for
//! the thread that samples and keeps, and 10 MiB of resident memory. What these two cost apart, and
//! what a question about a day takes, is in `telemetry`.
//!
//! The processor of the whole process, in which rules are judged and lines are read, has no bound
//! here: how long a core takes to wake is in it,
//! and that is the matter of `idle`.

#![expect(clippy::disallowed_methods, reason = "a benchmark waits in real time")]

mod members;

use std::{
    fmt::Write,
    os::unix::net::UnixDatagram,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use members::{cpu_seconds, resident_mib, run, run_seconds, up};

const LEVELS: usize = 40;
const COUNTS: usize = 25;
const DURATIONS: usize = 5;
/// Of each duration, a second.
const OBSERVATIONS: usize = 50;
/// Of the machine and of the service together.
const SERIES_MIN: usize = 100;
const RULES: usize = 20;
const CORE_PERCENT_MAX: f64 = 0.5;
const RESIDENT_MIB_MAX: f64 = 10.0;
/// The joins and the publication have been paid for by then, and what is told has its series.
const SETTLED: Duration = Duration::from_secs(5);

/// What one member cost.
struct Cost {
    /// Of its thread for telemetry, percent of a core.
    telemetry: f64,
    /// Of all of it, percent of a core.
    process: f64,
    resident_mib: f64,
    series: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_set = |flag: &str| arguments.iter().any(|a| a == flag);
    let span = Duration::from_secs(if is_set("--quick") { 15 } else { 30 });
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");

    println!(
        "one member, {} s each: told nothing; and told {} series a second, with {RULES} rules",
        span.as_secs(),
        LEVELS + COUNTS + DURATIONS
    );
    println!(
        "{:<10} {:>8} {:>13} {:>12} {:>14}",
        "member", "series", "telemetry %", "process %", "resident MiB"
    );
    let quiet = measure(scratch.path(), 1, false, span);
    show("quiet", &quiet);
    let told = measure(scratch.path(), 2, true, span);
    show("told", &told);
    let more = told.process - quiet.process;
    let grown = told.resident_mib - quiet.resident_mib;
    println!("{:<52} {:>9.3} % of a core (bound {CORE_PERCENT_MAX})", "telemetry", told.telemetry);
    println!("{:<52} {more:>9.3} % of a core", "the whole process, what it costs more");
    println!("{:<52} {grown:>9.1} MiB (bound {RESIDENT_MIB_MAX})", "resident memory, growth");
    if is_set("--json") {
        println!(
            r#"{{"series":{},"telemetry_percent":{:.4},"process_percent_more":{more:.3},"resident_mib_more":{grown:.2}}}"#,
            told.series, told.telemetry
        );
    }
    if told.series < SERIES_MIN {
        println!("only {} series: this measures something else", told.series);
        return ExitCode::FAILURE;
    }
    if told.telemetry > CORE_PERCENT_MAX || grown > RESIDENT_MIB_MAX {
        println!("above the bounds of {CORE_PERCENT_MAX} % or {RESIDENT_MIB_MAX} MiB");
        return ExitCode::FAILURE;
    }
    println!("within the bounds of {CORE_PERCENT_MAX} % and {RESIDENT_MIB_MAX} MiB");
    ExitCode::SUCCESS
}

fn show(name: &str, cost: &Cost) {
    let Cost { telemetry, process, resident_mib, series } = cost;
    println!("{name:<10} {series:>8} {telemetry:>13.3} {process:>12.2} {resident_mib:>14.1}");
}

/// Runs the `n`th member alone, and looks at what it costs for so long.
fn measure(scratch: &Path, n: usize, is_told: bool, span: Duration) -> Cost {
    let (member, _ready) = up(scratch, n, None);
    let pid = member.0.id();
    if is_told {
        let site = site(scratch);
        let site = site.to_str().expect("a temporary path is UTF-8");
        run(scratch, n, &["publish", site, "--app", "web", "--json"]);
    }
    let socket = is_told.then(|| {
        let socket = UnixDatagram::unbound().expect("there is room for a socket");
        let path = scratch.join(format!("member-{n}")).join("metrics");
        socket.connect(path).expect("the member listens");
        socket
    });
    live(socket.as_ref(), SETTLED);
    let is_telemetry = |name: &str| name == "telemetry";
    let before = (run_seconds(pid, is_telemetry), cpu_seconds(pid));
    assert!(before.0 > 0.0, "the member has a thread for telemetry");
    let began = Instant::now();
    live(socket.as_ref(), span);
    let elapsed = began.elapsed().as_secs_f64();
    let after = (run_seconds(pid, is_telemetry), cpu_seconds(pid));
    let resident_mib = resident_mib(pid);
    // Asked when all is measured: answers cost the same thread.
    let known = run(scratch, n, &["metrics", "*", "--since", "30s", "--json"]);
    let known = known["series"].as_array().expect("a list of series").iter();
    Cost {
        telemetry: (after.0 - before.0) / elapsed * 100.0,
        process: (after.1 - before.1) / elapsed * 100.0,
        resident_mib,
        series: known.filter(|one| !one["rows"][0].is_null()).count(),
    }
}

/// Lets time go by, and tells a member once a second what a service would.
fn live(socket: Option<&UnixDatagram>, span: Duration) {
    let began = Instant::now();
    for second in 0..span.as_secs() {
        if let Some(socket) = socket {
            for packet in packets(second as usize) {
                socket.send(packet.as_bytes()).expect("the member takes it");
            }
        }
        let next = began + Duration::from_secs(second + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// What a busy service tells in a second, as lines of StatsD.
fn packets(second: usize) -> Vec<String> {
    let mut packets = vec![String::new()];
    for n in 0..LEVELS {
        writeln!(packets[0], "level-{n}:{}|g", (second * 31 + n * 17) % 997).expect("a string");
    }
    for n in 0..COUNTS {
        writeln!(packets[0], "count-{n}:{}|c", (second * 7 + n * 13) % 101).expect("a string");
    }
    for n in 0..DURATIONS {
        let mut packet = String::new();
        for observation in 0..OBSERVATIONS {
            let noise = (second * 7_919 + observation * 104_729 + n * 1_299_709) % 10_007;
            // From half a millisecond to some seconds, most of them short.
            let ms = 0.5 * (noise as f64 / 1_112.0).exp();
            writeln!(packet, "job-{n}:{ms:.3}|ms").expect("a string");
        }
        packets.push(packet);
    }
    packets
}

/// A page, and rules of which none ever acts: they ask for more than there is, and for longer than
/// this takes.
fn site(scratch: &Path) -> std::path::PathBuf {
    let mut rules: Vec<String> = [
        "critical when avg(cpu, 5m) > 99% and load > 100000",
        "warning when mem.available < 1%",
        "warning when fd.share > 99%",
        "critical when stalls > 100000/s",
        "warning when count(events service, 10m) > 100000",
    ]
    .map(str::to_owned)
    .into();
    for n in 0..RULES - rules.len() {
        rules.push(match n % 3 {
            0 => format!("warning when custom.level-{n} > 100000 until < 50000 for 1m"),
            1 => format!("critical when rate(custom.count-{n}.total, 1m) > 100000/s"),
            _ => {
                let job = n % DURATIONS;
                format!("warning when p99(custom.job-{job}.seconds, 5m) > 1h")
            }
        });
    }
    let mut manifest = String::from("[rules]\n");
    for (n, rule) in rules.iter().enumerate() {
        let rule = match rule.split_once(" until ") {
            Some((when, until)) => format!("{when} for 10m until {until}"),
            None => format!("{rule} for 10m"),
        };
        writeln!(manifest, "rule-{n} = \"{rule} then log\"").expect("a string");
    }
    let site = scratch.join("site");
    std::fs::create_dir(&site).expect("the site's directory can be made");
    std::fs::write(site.join("althing.toml"), manifest).expect("a manifest can be written");
    std::fs::write(site.join("index.html"), "<h1>Watched</h1>\n").expect("a page can be written");
    site
}
