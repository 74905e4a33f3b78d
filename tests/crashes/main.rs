//! Every disk that a power cut may leave: what a process asks of its file system
//! while it stages, switches, edits, repairs and collects is recorded; from that,
//! disks are put together that have, of what no sync had made durable, any part;
//! and each is opened by the code that opens it in production, and looked at by
//! the model of `tests/kills`, byte by byte. The idea is that of ALICE (Pillai et
//! al., "All File Systems Are Not Created Equal", OSDI 2014) and of CrashMonkey
//! (Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash
//! Testing", OSDI 2018).
//!
//! **What is recorded** are the system calls of the process, by `strace`, and
//! nothing less would do: the index (redb) and the standard library write past
//! any seam that our own code could have, and what counts is what the kernel was
//! asked, not what we meant to ask. A recording is believed only if the disk that
//! follows from it is what the process has left, name by name and byte by byte;
//! a call that is not understood is an error, a shared mapping for writing too.
//! What the process says (`about activate …`, `activated`) is in the same
//! recording, so it is known what it had answered for at each moment.
//!
//! **What a disk may lack** (`disk.rs`): each write, by pages of 4 KiB, at times
//! by sectors of 512 bytes; that a file grew, then filled with zeros or rubbish;
//! each cut; permissions; each change of names, where a rename or an exchange is
//! one change. `fsync` makes durable what happened to one file, or to the names in
//! one directory, and nothing of its parent; `fdatasync` no permissions; `syncfs`
//! everything. All else persists in any order, but what happened to one name in
//! its own. That is weaker than any file system in use, whose journals keep more
//! order, and than POSIX asks; what a journal leaves is among it, and told apart.
//!
//! **What is not here:** sectors that rot, drives that lie about a flush, shared
//! blocks (a tmpfs has none, so trees are copied), and edits that nobody synced:
//! an editor here syncs what it saves.
//!
//! It needs strace, and mounts of its own (root or user namespaces), and fails
//! without them. `ALTHING_CRASHES` says how many disks (thousands take minutes),
//! `ALTHING_SEED` which acts and which disks.

#[path = "../kills/chance.rs"]
mod chance;
mod disk;
#[path = "../kills/model.rs"]
mod model;
#[path = "../kills/pages.rs"]
mod pages;
mod part;
mod place;
mod recording;
mod states;
mod trace;
#[expect(dead_code, reason = "tests/kills needs more of it")]
#[path = "../kills/worker.rs"]
mod worker;

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use chance::{from_env, seed};
use part::{Figures, Part, Violation};
use worker::{Orders, Worker};

/// The files of a version, bytes: small, for there are many disks. One is cut into pieces.
const SIZES: [usize; 10] = [0, 1, 3_000, 6_000, 9_000, 5, 140_000, 700, 4_096, 513];
/// So many disks unless said otherwise: half a minute on two processors.
const CRASHES: u64 = 6_000;
/// So many to a recording.
const PART: u64 = 400;

/// Where the process that is recorded works, what it publishes, and what it is told.
const PLACE: &str = "ALTHING_CRASHES_PLACE";
const SOURCE: &str = "ALTHING_CRASHES_SOURCE";
const ORDERS: &str = "ALTHING_CRASHES_ORDERS";
const STEPS: &str = "ALTHING_CRASHES_STEPS";
/// Set for one that only recovers.
const RECOVER: &str = "ALTHING_CRASHES_RECOVER";
/// The seed and the number of disks of a part.
const INSIDE: &str = "ALTHING_CRASHES_INSIDE";
/// The test that is run again for all of these.
const NAME: &str = "whatever_a_power_cut_leaves_it_holds_one_version_and_has_lost_none";

#[test]
fn whatever_a_power_cut_leaves_it_holds_one_version_and_has_lost_none() {
    if let Ok(place) = std::env::var(PLACE) {
        return at_work(Path::new(&place));
    }
    if let Ok(inside) = std::env::var(INSIDE) {
        return inside_part(&inside);
    }
    let (seed, crashes) = (seed(), from_env("ALTHING_CRASHES").unwrap_or(CRASHES));
    println!("ALTHING_SEED={seed} ALTHING_CRASHES={crashes}");
    let started = Instant::now();
    // A part of a seed is the same whatever else is run, but for how many disks it looks at.
    let parts: Vec<String> = (0..crashes.div_ceil(PART))
        .map(|part| format!("{} {}", seed + part, PART.min(crashes - part * PART)))
        .collect();
    let next = AtomicUsize::new(0);
    let (mut figures, mut failed) = (Figures::new(), String::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let outputs: Vec<(String, bool)> = std::thread::scope(|scope| {
        let worker = || {
            let take = || parts.get(next.fetch_add(1, Ordering::Relaxed));
            std::iter::from_fn(take).map(|part| run_inside(part)).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    for (output, passed) in outputs {
        for line in output.lines().filter_map(|line| line.strip_prefix("@ ")) {
            let (count, what) = line.split_once(' ').unwrap();
            *figures.entry(what.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
        if !passed {
            failed += &output;
        }
    }
    println!("{figures:#?} in {} s", started.elapsed().as_secs());
    assert!(failed.is_empty(), "{failed}");
}

/// The process that is recorded. Some end without closing anything.
fn at_work(place: &Path) {
    let orders = Orders::decode(&std::env::var(ORDERS).unwrap());
    let source = std::env::var(SOURCE).unwrap();
    let closes = orders.seed.is_multiple_of(2);
    let mut worker = Worker::open(place, Path::new(&source), orders);
    if std::env::var(RECOVER).is_err() {
        worker.begin();
        match from_env(STEPS) {
            Some(steps) => (0..steps).for_each(|_| worker.step()),
            None => worker.each_act(),
        }
    }
    if !closes {
        std::process::exit(0);
    }
}

/// Syncs that nothing here depends on, and why they are there.
const SPARE: [(&str, &str); 2] = [
    ("fsync data/records/*.stats.#.unfinished", "a stat cache that is lost costs one scan"),
    ("syncfs data/live/.althing-*/old", "the tree that uploads moved to is synced after it"),
];

#[test]
fn a_sync_that_did_nothing_is_missed() {
    let (output, passed) = run_inside("0 0");
    println!("{output}");
    assert!(passed, "{output}");
}

fn miss_each_sync(part: &mut Part) {
    let mut silent = Vec::new();
    for (kind, noticed) in part.miss_each_sync() {
        match noticed {
            Some((looked, Violation { what, lost, .. })) => {
                let what = what.lines().nth(1).unwrap_or_default();
                println!("{kind}: noticed after {looked} disks, without {lost:?}: {what}");
            }
            None => {
                let why = SPARE.iter().find(|(spare, _)| *spare == kind).map(|(_, why)| why);
                println!("{kind}: not noticed, {why:?}");
                if why.is_none() {
                    silent.push(kind);
                }
            }
        }
    }
    assert!(silent.is_empty(), "these did nothing, and nobody noticed: {silent:#?}");
}

fn inside_part(orders: &str) {
    let (seed, count) = orders.split_once(' ').unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut part = Part::new(scratch.path(), seed.parse().unwrap());
    match count.parse().unwrap() {
        0 => miss_each_sync(&mut part),
        count => part.examine(count),
    }
    println!();
    for (what, count) in &part.figures {
        println!("@ {count} {what}");
    }
    println!("@ {} violations", part.violations.len());
    for Violation { what, lost, how } in &part.violations {
        println!("ALTHING_SEED={seed}: {what}\nwithout {lost:#?}\n{how}\n");
    }
    assert!(part.violations.is_empty(), "see above");
}

/// Runs the test again in namespaces of its own, in which it mounts what it likes and
/// leaves nothing behind. What it printed, and whether it passed.
fn run_inside(orders: &str) -> (String, bool) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = "mount -t tmpfs none /run && exec \"$@\"";
    command.args(["sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]);
    command.env(INSIDE, orders).env("TMPDIR", "/run").stdin(Stdio::null());
    let output = command.output().expect("unshare can be started");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if !text.contains("running 1 test") {
        text.push_str("\nIt could not make its namespaces: it needs root or user namespaces.\n");
    }
    (text, output.status.success())
}
