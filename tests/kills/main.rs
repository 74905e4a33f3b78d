//! SIGKILL at any moment: a process stages, switches, edits, repairs and
//! collects, is killed wherever it happens to be, and what it leaves is opened
//! again and looked at byte by byte. Then the next one goes on from there.
//!
//! The moments are those of the clock, so no two runs are the same; what is
//! right at each of them is not a matter of time. `ALTHING_KILLS` says how many
//! (1,000 take some minutes), `ALTHING_SEED` what is done and about when.

#![expect(clippy::disallowed_methods, reason = "a moment is waited for, to kill at it")]

mod chance;
#[expect(dead_code, reason = "tests/refusals.rs needs more of it")]
#[path = "../common/mod.rs"]
mod common;
mod member;
mod model;
mod pages;
#[expect(dead_code, reason = "tests/crashes needs more of it")]
mod worker;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use chance::{Chance, from_env, seed};
use model::Model;
use worker::{Orders, Worker};

/// Where the process that is killed works, and what it is told.
const PLACE: &str = "ALTHING_KILLS_PLACE";
const ORDERS: &str = "ALTHING_KILLS_ORDERS";
/// Set for one that only recovers.
const RECOVER: &str = "ALTHING_KILLS_RECOVER";
/// So many unless said otherwise: about half a minute.
const KILLS: u64 = 60;
/// How long a switch is waited for that may not come, as where one file is put by itself.
const SWITCH_MAX: Duration = Duration::from_millis(120);
/// The files of a version, bytes. Some are cut into pieces.
const SIZES: [usize; 10] = [0, 1, 3_000, 20_000, 70_000, 400_000, 90_000, 5, 150_000, 40_000];
/// Only what hangs is silent for so long.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn killed_at_any_moment_it_holds_one_version_and_has_lost_none() {
    if let Ok(place) = std::env::var(PLACE) {
        let orders = Orders::decode(&std::env::var(ORDERS).unwrap());
        let place = Path::new(&place);
        let source = place.join("source");
        let worker = Worker::open(place, &source, orders);
        if std::env::var(RECOVER).is_err() {
            worker.work();
        }
        loop {
            std::thread::park();
        }
    }
    let (seed, kills) = (seed(), from_env("ALTHING_KILLS").unwrap_or(KILLS));
    println!("ALTHING_SEED={seed} ALTHING_KILLS={kills}");
    let scratch = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(seed);
    let mut model = Model::new(scratch.path());
    for kill in 0..kills {
        let orders = model.orders(chance.next());
        let said = lived(scratch.path(), &orders, false, &mut chance);
        model.hear(&said);
        // Recovering is killed as well, and starts over.
        while chance.below(3) == 0 {
            lived(scratch.path(), &orders, true, &mut chance);
            model.seen.recoveries += 1;
        }
        model.look(&format!("seed {seed}, kill {kill}, after {said:#?}"));
    }
    for (what, count) in model.seen.counted() {
        println!("{count} {what}");
    }
}

/// The life of one process: what it said until it was killed.
fn lived(place: &Path, orders: &Orders, recovering: bool, chance: &mut Chance) -> Vec<String> {
    let log = place.join("log");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg("killed_at_any_moment_it_holds_one_version_and_has_lost_none")
        .env(PLACE, place)
        .env(ORDERS, orders.encode())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap());
    if recovering {
        command.env(RECOVER, "");
    }
    let mut child = command.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(words) = line.strip_prefix("@ ") {
                let _nobody_waits_any_more = sender.send(words.to_owned());
            }
        }
    });
    let mut said = Vec::new();
    let is_due = moment(place, &lines, &mut said, recovering, chance);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    listener.join().unwrap();
    said.extend(lines.try_iter());
    let log = std::fs::read_to_string(log).unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(killed && is_due, "it ended by itself or hung: {status}\n{said:#?}\n{log}");
    said
}

/// Waits for the moment to kill, some time after some step began. `false` if the process
/// says nothing any more.
fn moment(
    place: &Path,
    lines: &mpsc::Receiver<String>,
    said: &mut Vec<String>,
    recovering: bool,
    chance: &mut Chance,
) -> bool {
    let steps = if recovering { 1 } else { 2 + chance.below(12) };
    // Collections are few and short, so some are waited for.
    let collection = !recovering && chance.below(8) == 0;
    let mut begun = 0;
    let last = loop {
        let Ok(words) = lines.recv_timeout(PATIENCE) else { return false };
        said.push(words.clone());
        begun += u64::from(words.starts_with("about"));
        if begun >= steps && (!collection || words.starts_with("about collect")) {
            break words;
        }
    };
    let longest_us = [60, 1_000, 6_000, 80_000][chance.below(4) as usize];
    let delay = Duration::from_micros(chance.below(longest_us));
    let at_switch = longest_us <= 1_000 && chance.below(4) > 0;
    if let Some(words) = last.strip_prefix("about activate ").filter(|_| at_switch) {
        // Most of the time goes by before the trees change places.
        let name = words.split(' ').next().unwrap_or_default();
        let journal = place.join(format!("data/live/.althing-{name}/journal"));
        let waiting = Instant::now();
        while waiting.elapsed() < SWITCH_MAX && !journal.exists() {
            std::hint::spin_loop();
        }
    }
    pause(delay);
    true
}

/// The clock that wakes a sleeper is too coarse for a moment.
fn pause(length: Duration) {
    let begun = Instant::now();
    if length > Duration::from_millis(1) {
        std::thread::sleep(length);
    }
    while begun.elapsed() < length {
        std::hint::spin_loop();
    }
}
