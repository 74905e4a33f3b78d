//! What a cold scan costs: the first look at a large tree after a start, with the stat
//! cache of the run before and nobody who watched it, against a bare walk that asks the
//! system for the state of each file and does nothing with it.
//!
//! `cargo bench --bench scan [-- --quick] [-- --json]` takes both in turn, in one process,
//! prints the median of each and their ratio, and fails where that is above the bound that
//! the project promises: twice. `--quick` is a tenth of the tree.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use althing::driver::{
    How, Mode, Purpose,
    files::{IgnoreRules, StatCache, scan},
};

const FILES: usize = 40_000;
/// In a directory.
const TOGETHER: usize = 12;
const ROUNDS: usize = 15;
const RATIO_MAX: f64 = 2.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_set = |flag: &str| arguments.iter().any(|a| a == flag);
    let files = if is_set("--quick") { FILES / 10 } else { FILES };
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    plant(scratch.path(), files);
    let rules = IgnoreRules::new(&["/uploads/".to_owned(), "*.log".to_owned()]);
    let rules = rules.expect("two patterns");
    let how = How { mode: Mode::Quick, purpose: Purpose::Live };
    let look = |cache: &mut StatCache| {
        let found = scan(scratch.path(), &rules, cache, how, None).expect("it can be scanned");
        (found.root(), found.bytes_read)
    };
    // What was written a moment ago is read once more: see the cache.
    rest();
    let mut cache = StatCache::new();
    let (root, _) = look(&mut cache);
    let kept = cache.encode().expect("it is no larger than a record may be");

    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let walked = walk(scratch.path());
        bare.push(began.elapsed());
        assert_eq!(walked, files, "the walk sees every file");

        let mut cache = StatCache::decode(&kept);
        let began = Instant::now();
        let found = look(&mut cache);
        ours.push(began.elapsed());
        assert_eq!(found, (root, 0), "nothing changed, and nothing is read");
    }
    let (bare, ours) = (median(bare), median(ours));
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!("{files} files, nothing changed, medians of {ROUNDS}");
    println!("{:<44} {:>8.1} ms", "a bare walk: readdir and lstat", ms(bare));
    println!("{:<44} {:>8.1} ms", "a scan by the stat cache, the root included", ms(ours));
    println!("{:<44} {ratio:>8.2}", "ratio");
    if is_set("--json") {
        println!(
            r#"{{"files":{files},"bare_ms":{:.3},"scan_ms":{:.3},"ratio":{ratio:.3}}}"#,
            ms(bare),
            ms(ours)
        );
    }
    if ratio > RATIO_MAX {
        println!("above the bound of {RATIO_MAX}");
        return ExitCode::FAILURE;
    }
    println!("within the bound of {RATIO_MAX}");
    ExitCode::SUCCESS
}

/// As sources lie: some levels deep, a dozen files together.
fn plant(root: &Path, files: usize) {
    for n in 0..files {
        let group = n / TOGETHER;
        let at = root.join(format!("copy{}/package-{}/src/part{group}", group / 500, group / 8));
        if n % TOGETHER == 0 {
            std::fs::create_dir_all(&at).expect("a directory can be made");
        }
        let text = format!("// file {n}\n").repeat(1 + n % 40);
        std::fs::write(at.join(format!("module_{n}.rs")), text).expect("a file can be written");
    }
}

/// How many files there are, and the state of each asked for.
fn walk(directory: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(directory).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        // By the descriptor of the directory, as the scan does it.
        let meta = entry.metadata().expect("it has a state");
        files += if meta.is_dir() { walk(&entry.path()) } else { 1 };
    }
    files
}

#[expect(clippy::disallowed_methods, reason = "the clock of the file system is waited for")]
fn rest() {
    std::thread::sleep(Duration::from_millis(2_500));
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
