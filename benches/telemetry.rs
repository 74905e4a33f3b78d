//! What it costs to watch oneself: sampling and keeping 100 series once a second, and asking
//! 100 members for a day.
//!
//! `cargo bench --bench telemetry [-- --quick] [-- --json]` lives a day (`--quick`: two hours)
//! in virtual time: the machine is really sampled, a thousand times; the samples are really
//! kept, in a directory on the disk that temporary files are on. It prints shares of a core,
//! growth of resident memory, bytes written, times of queries, and fails above the bounds that
//! the project promises: 0.5 % of a core, 10 MiB, 100 ms.
//!
//! `-- --layouts` compares what a disk has to write for an hour of 100 series: rows of all of
//! them (what the store does), and a file for each. It syncs every 30 s of virtual time, as a
//! kernel does by itself.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use althing::{
    base::{
        Digest, MemberId, Time, WallTime,
        metric::{Pattern, Series},
    },
    driver::host::Host,
    proto::telemetry::{Answer, Cell, Distribution, Grid, Level, Reading, answer, rollup},
    store::series::{SeriesStore, Wanted},
};

const SERIES: usize = 100;
/// Of these, histograms, with so many observations a second each.
const HISTOGRAMS: usize = 5;
const OBSERVATIONS: u64 = 50;
const MEMBERS: usize = 100;
/// Merges of one answer, of which the median counts.
const ROUNDS: usize = 7;
const CORE_PERCENT_MAX: f64 = 0.5;
const RESIDENT_MIB_MAX: f64 = 10.0;
const QUERY_MS_MAX: f64 = 100.0;
/// A full ten minutes.
const BEGIN_S: u64 = 1_700_000_400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_set = |flag: &str| arguments.iter().any(|a| a == flag);
    if is_set("--layouts") {
        layouts();
        return ExitCode::SUCCESS;
    }
    let hours: u64 = if is_set("--quick") { 2 } else { 24 };
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");

    let (sampling, machine) = sample();
    println!(
        "sampling this machine: {} series, {:.0} µs of processor",
        machine.len(),
        us(sampling)
    );
    let resident = resident_mib();
    let mut store = SeriesStore::open(scratch.path(), wall(BEGIN_S)).expect("it can be opened");
    let mut feed = Feed::new(machine);
    let began = processor();
    for second in BEGIN_S..BEGIN_S + hours * 3_600 {
        feed.second(&mut store, second);
    }
    let keeping = (processor() - began) / (hours * 3_600) as u32;
    let grown = resident_mib() - resident;
    let percent = (sampling + keeping).as_secs_f64() * 100.0;
    let written = store.stats().written as f64 / hours as f64;
    println!(
        "keeping {SERIES} series, {HISTOGRAMS} of them histograms of {OBSERVATIONS} observations a \
         second: {:.0} µs of processor a second, {hours} h lived",
        us(keeping)
    );
    println!("{:<52} {percent:>9.3} % of a core", "both, once a second");
    println!("{:<52} {grown:>9.1} MiB", "resident memory, growth");
    println!("{:<52} {:>9.0} kB an hour", "written to files", written / 1e3);
    println!("{:<52} {:>9.1} MB", "files, after that time", size(scratch.path()) / 1e6);

    let end = BEGIN_S + hours * 3_600;
    let mut worst = Duration::ZERO;
    for (name, step) in [("cpu", 600), ("cpu", 60), ("requests", 60), ("latency", 600)] {
        let grid = rollup::grid(wall(end - 1), wall(BEGIN_S), wall(end), step * 1_000);
        worst = worst.max(query(&mut store, name, grid.expect("some time")));
    }
    if is_set("--json") {
        println!(
            r#"{{"core_percent":{percent:.4},"resident_mib":{grown:.2},"written_bytes_an_hour":{written:.0},"query_ms_max":{:.2}}}"#,
            us(worst) / 1e3
        );
    }
    let (core, memory) = (percent > CORE_PERCENT_MAX, grown > RESIDENT_MIB_MAX);
    if core || memory || us(worst) / 1e3 > QUERY_MS_MAX {
        println!(
            "above the bounds of {CORE_PERCENT_MAX} %, {RESIDENT_MIB_MAX} MiB, {QUERY_MS_MAX} ms"
        );
        return ExitCode::FAILURE;
    }
    println!(
        "within the bounds of {CORE_PERCENT_MAX} %, {RESIDENT_MIB_MAX} MiB, {QUERY_MS_MAX} ms"
    );
    ExitCode::SUCCESS
}

/// What one sample of this machine costs, and the last one.
fn sample() -> (Duration, Vec<(Series, Reading)>) {
    const SAMPLES: u32 = 1_000;
    let mut host = Host::new(["/".to_owned()]);
    let began = processor();
    let mut last = Vec::new();
    for n in 1..=SAMPLES {
        last = host.sample(Time(u64::from(n) * 1_000_000));
    }
    ((processor() - began) / SAMPLES, last)
}

/// 100 series: those of the machine, histograms, and counters and gauges of applications.
struct Feed {
    readings: Vec<(Series, Reading)>,
}

impl Feed {
    fn new(machine: Vec<(Series, Reading)>) -> Self {
        let mut readings = machine;
        readings.retain(|(series, _)| series.name() != "cpu");
        readings.truncate(SERIES - HISTOGRAMS - 2);
        let mut add = |name: String| {
            let series = Series::parse(&name).expect("a name of the catalogue");
            readings.push((series, Reading::Number(0.0)));
        };
        add("cpu".to_owned());
        add("requests".to_owned());
        let mut n = 0;
        while readings.len() < SERIES - HISTOGRAMS {
            n += 1;
            let name = ["requests", "errors", "bytes.out", "connections"][n % 4];
            let series = Series::parse(&format!("{name} app-{n}")).expect("of the catalogue");
            readings.push((series, Reading::Number(0.0)));
        }
        Self { readings }
    }

    fn second(&mut self, store: &mut SeriesStore, second: u64) {
        for (n, (_, reading)) in self.readings.iter_mut().enumerate() {
            // Levels that move and totals that rise, about alike.
            let moved = (second * 31 + n as u64 * 17) % 997;
            *reading = Reading::Number((second - BEGIN_S) as f64 * 1e3 + moved as f64);
        }
        let mut all = self.readings.clone();
        for n in 0..HISTOGRAMS as u64 {
            let mut distribution = Distribution::default();
            for observation in 0..OBSERVATIONS {
                let noise = (second * 7_919 + observation * 104_729 + n * 1_299_709) % 10_007;
                // From half a millisecond to some seconds, most of them short.
                let seconds = 0.000_5 * (noise as f64 / 1_112.0).exp();
                distribution.observe(seconds).expect("finite");
            }
            let name = if n == 0 { "latency".to_owned() } else { format!("latency app-{n}") };
            let series = Series::parse(&name).expect("a name of the catalogue");
            let taken = distribution.take(wall(second)).expect("some were observed");
            all.push((series, Reading::Spread(taken)));
        }
        let now = Time((second - BEGIN_S) * 1_000_000);
        store.append(wall(second), now, &all).expect("it can be written");
    }
}

/// Asks one member, and merges the same answer as if it came from all.
fn query(store: &mut SeriesStore, name: &str, grid: Grid) -> Duration {
    let wanted = Wanted { pattern: Pattern::parse(name).expect("a name"), grid, spreads: true };
    let began = Instant::now();
    let found = store.query(&wanted).expect("it can be read");
    let told = answer::encode(&found[0].buckets);
    let asked = began.elapsed();

    let members: Vec<MemberId> =
        (0..MEMBERS as u64).map(|n| MemberId(Digest::of_bytes(&n.to_le_bytes()))).collect();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut all = Answer::new(grid, members.clone());
        for member in &members {
            let buckets = answer::decode(&told).map(|bucket| bucket.expect("its own encoding"));
            all.take(*member, buckets).expect("each is asked once");
        }
        rounds.push(began.elapsed());
        assert!(all.is_whole(), "every member is in every row");
    }
    rounds.sort_unstable();
    let merged = rounds[ROUNDS / 2];
    println!(
        "{:<52} {:>9.1} ms: {:.1} ms in one member, {} kB each, {:.1} ms merged",
        format!("a query: {name}, {} rows, {MEMBERS} members", grid.rows()),
        us(asked + merged) / 1e3,
        us(asked) / 1e3,
        told.len() / 1_000,
        us(merged) / 1e3,
    );
    asked + merged
}

/// What a disk writes in an hour: one row of all series, or one cell in each of 100 files.
fn layouts() {
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let rows = scratch.path().join("rows");
    let mut store = SeriesStore::open(&rows, wall(BEGIN_S)).expect("it can be opened");
    let mut feed = Feed::new(Vec::new());
    let sync = |path: &Path| {
        let file = File::open(path).expect("it is there");
        rustix::fs::syncfs(file).expect("it can be synced");
    };
    sync(scratch.path());
    let before = disk_bytes();
    for second in BEGIN_S..BEGIN_S + 3_600 {
        feed.second(&mut store, second);
        if second % 30 == 0 {
            sync(&rows);
        }
    }
    sync(&rows);
    let in_rows = disk_bytes() - before;

    let files: Vec<File> = (0..SERIES)
        .map(|n| {
            let path = scratch.path().join(format!("series-{n}"));
            File::options().write(true).create_new(true).open(path).expect("it can be made")
        })
        .collect();
    sync(scratch.path());
    let before = disk_bytes();
    for bucket in 0..360 {
        for file in &files {
            let mut at = 0;
            for level in Level::ON_DISK {
                let each = level.span_ms() / Level::TenSeconds.span_ms();
                if bucket % each == each - 1 {
                    let offset = at + bucket / each * Cell::LEN as u64;
                    file.write_all_at(&[1; Cell::LEN], offset).expect("it can be written");
                }
                at += level.slots() * Cell::LEN as u64;
            }
        }
        if bucket % 3 == 0 {
            sync(scratch.path());
        }
    }
    sync(scratch.path());
    let in_files = disk_bytes() - before;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "pages that the kernel had to write for an hour of {SERIES} series, synced every 30 s:"
    );
    println!("{:<52} {:>9.1} MB", "rows, and the distributions of 5", mb(in_rows));
    println!("{:<52} {:>9.1} MB", "a file for each series, no distributions", mb(in_files));
}

fn wall(second: u64) -> WallTime {
    WallTime(second * 1_000)
}

fn us(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// Processor time of this process.
fn processor() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32) // neither is ever negative
}

fn resident_mib() -> f64 {
    number("/proc/self/status", "VmRSS:") / 1_024.0
}

/// Bytes of pages that this process made dirty, and the kernel will write.
fn disk_bytes() -> u64 {
    number("/proc/self/io", "write_bytes:") as u64
}

fn number(path: &str, key: &str) -> f64 {
    let text = fs::read_to_string(path).expect("Linux tells it");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("Linux tells it");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn size(directory: &Path) -> f64 {
    let entries = fs::read_dir(directory).expect("it is there");
    let size =
        |entry: std::io::Result<fs::DirEntry>| entry.and_then(|e| e.metadata()).map(|m| m.len());
    entries.map(size).map(|size| size.expect("it is there")).sum::<u64>() as f64
}
