//! Every decoder against its corpus, in every test run: the real input that
//! the corpus starts from, what a fuzzer has found worth keeping, and both cut
//! short, lengthened and damaged.
//!
//!     ALTHING_FUZZ_SECONDS=60 cargo test --test fuzz_corpus      # longer, each
//!     ALTHING_FUZZ_WRITE=1 cargo test --test fuzz_corpus seeds   # write the seeds
//!
//! What the fuzzer itself needs stands in `fuzz/README.md`.

use std::{
    env, fs,
    io::Write,
    panic,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

fn folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder(target)).expect("each target has a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("it can be listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("it can be read")).collect()
}

/// Runs one input; a failure says which, so that it can be kept.
fn feed(target: &Target, bytes: &[u8]) {
    if panic::catch_unwind(|| (target.run)(bytes)).is_err() {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{} fails on {} bytes: {hex}", target.name, bytes.len());
    }
}

/// One or a few of the things that happen to bytes on their way.
fn damage(rng: &mut SmallRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 251, 252, 253, 255];
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, TELLING[rng.random_range(0..TELLING.len())]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            4 if at < bytes.len() => bytes[at] = TELLING[rng.random_range(0..TELLING.len())],
            // A long number where a short one stood.
            5 => {
                let long = [&[253][..], &rng.random::<u64>().to_le_bytes()].concat();
                let end = (at + 1).min(bytes.len());
                bytes.splice(at..end, long);
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let (from, len) = (rng.random_range(0..=other.len()), rng.random_range(0..64));
                let piece = &other[from..(from + len).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn seeds_are_in_the_corpus_and_accepted() {
    for target in &TARGETS {
        for (n, seed) in (target.seeds)().iter().enumerate() {
            let path = folder(target).join(format!("seed-{n}"));
            if env::var_os("ALTHING_FUZZ_WRITE").is_some() {
                fs::create_dir_all(folder(target)).expect("a folder can be made");
                fs::write(&path, seed).expect("a seed can be written");
            }
            // A format that changes has other seeds: keep the old ones beside them.
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == *seed, "{} is not what is written today", path.display());
        }
    }
}

#[test]
fn the_corpus_is_harmless() {
    for target in &TARGETS {
        let corpus = corpus(target);
        for bytes in &corpus {
            feed(target, bytes);
            for cut in 0..bytes.len().min(300) {
                feed(target, &bytes[..cut]);
            }
        }
    }
}

#[test]
fn a_damaged_corpus_is_harmless() {
    let seconds = env::var("ALTHING_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let only = env::var("ALTHING_FUZZ_TARGET").ok();
    for target in &TARGETS {
        if only.as_ref().is_some_and(|only| only != target.name) {
            continue;
        }
        let corpus = corpus(target);
        let seed: u64 = env::var("ALTHING_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
        let mut rng = SmallRng::seed_from_u64(seed);
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
        // Files are slow: fewer of them where nobody asked for more.
        let least = if target.name == "disk" { 30 } else { 2_000 };
        let mut runs = 0_u64;
        while runs < least || Instant::now() < until {
            feed(target, &damage(&mut rng, &corpus));
            runs += 1;
        }
        let _ = writeln!(std::io::stderr(), "{}: {runs} damaged inputs", target.name);
    }
}
