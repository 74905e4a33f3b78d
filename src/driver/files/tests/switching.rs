use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

#[test]
fn trees_are_exchanged_and_what_is_ignored_is_carried_over() {
    let mut bench = Bench::ignoring(&["*.log", "/uploads/"]);
    let one = bench.version(&[("index.html", "1"), ("gone/x", "1"), ("uploads.txt", "1")]);
    bench.activate(&one);
    let live = bench.live();
    std::fs::set_permissions(&live, std::fs::Permissions::from_mode(0o2750)).unwrap();
    write(&live, &[("uploads/a/b", "u"), ("gone/app.log", "l"), ("althing.toml", "m")]);
    write(&live, &[("edited", "by hand")]);
    let two = bench.version(&[("index.html", "2")]);
    let (_, retired) = bench.activate(&two);
    assert_eq!(bench.root(&two), two.root());
    assert_eq!(bench.read("uploads/a/b").unwrap(), "u");
    assert_eq!(bench.read("gone/app.log").unwrap(), "l");
    assert_eq!(bench.read("althing.toml").unwrap(), "m");
    assert_eq!(bench.read("edited"), None);
    assert_eq!(names(&retired.carried).len(), 3);
    let old = retired.path.unwrap();
    assert_eq!(std::fs::read_to_string(old.join("edited")).unwrap(), "by hand");
    assert_eq!(std::fs::metadata(&live).unwrap().mode() & 0o7777, 0o2750, "the root's rights");
}

#[test]
fn what_a_program_makes_again_meanwhile_is_merged_and_never_overwritten() {
    let bench = Bench::ignoring(&["/uploads/"]);
    let (from, to) = (bench.dir.path().join("from"), bench.dir.path().join("to"));
    write(&from, &[("uploads/a/old", "1"), ("uploads/both", "old"), ("uploads/c", "2")]);
    write(&to, &[("uploads/a/new", "3"), ("uploads/both", "new")]);
    let work = beneath::Root::open(bench.dir.path()).unwrap();
    let carried = carry::over(&from, &to, &work, &bench.rules).unwrap();
    let read = |name: &str| std::fs::read_to_string(to.join(name)).unwrap();
    assert_eq!((read("uploads/a/old"), read("uploads/a/new")), ("1".into(), "3".into()));
    assert_eq!((read("uploads/both"), read("uploads/c")), ("new".into(), "2".into()));
    assert_eq!(names(&carried.left), ["uploads/both"]);
}

#[test]
fn what_was_there_before_us_is_kept_aside() {
    let mut bench = Bench::new();
    write(&bench.live(), &[("precious", "p")]);
    let one = bench.version(&[("index.html", "1")]);
    let work = WorkDir::open(&bench.live()).unwrap();
    place(&one, &bench.store, None, &work.next()).unwrap();
    let retired = switch(&bench.live(), &work.next(), &bench.rules, true).unwrap();
    let kept = retired.path.unwrap();
    assert!(kept.starts_with(work.aside()));
    assert_eq!(std::fs::read_to_string(kept.join("precious")).unwrap(), "p");
    assert_eq!(bench.root(&one), one.root());
}

#[test]
fn a_link_is_turned_and_its_first_target_left_alone() {
    let mut bench = Bench::ignoring(&["/uploads/"]);
    let release = bench.dir.path().join("release-1");
    write(&release, &[("index.html", "operator"), ("uploads/u", "u")]);
    symlink("release-1", bench.live()).unwrap();
    for n in 1..=3 {
        let version = bench.version(&[("index.html", &format!("{n}"))]);
        let (_, retired) = bench.activate(&version);
        assert!(bench.live().is_symlink());
        assert_eq!(bench.read("index.html").unwrap(), format!("{n}"));
        assert_eq!(bench.read("uploads/u").unwrap(), "u", "uploads move along");
        assert_eq!(names(&retired.carried), ["uploads"]);
        assert_eq!(bench.root(&version), version.root());
        assert_eq!(recover(&bench.live()).unwrap(), Recovered::Clean);
        assert_eq!(bench.read("uploads/u").unwrap(), "u");
    }
    let left = std::fs::read_to_string(release.join("index.html")).unwrap();
    assert_eq!(left, "operator");
    let work = WorkDir::path_of(&bench.live());
    let trees = std::fs::read_dir(work)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tree-"));
    assert_eq!(trees.count(), 1, "the trees before are not piled up");
}

#[test]
fn a_file_in_the_place_of_the_tree_is_refused() {
    let mut bench = Bench::new();
    std::fs::write(bench.live(), "a file").unwrap();
    let one = bench.version(&[("index.html", "1")]);
    let work = WorkDir::open(&bench.live()).unwrap();
    place(&one, &bench.store, None, &work.next()).unwrap();
    let error = switch(&bench.live(), &work.next(), &bench.rules, false).unwrap_err();
    assert!(matches!(error, DriverError::NotDirectory(_)));
    assert_eq!(std::fs::read_to_string(bench.live()).unwrap(), "a file");
}

#[test]
fn a_work_directory_that_is_a_link_is_not_used() {
    let bench = Bench::new();
    let elsewhere = bench.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, WorkDir::path_of(&bench.live())).unwrap();
    assert!(matches!(WorkDir::open(&bench.live()), Err(DriverError::NotOurs(_))));
}

#[test]
fn a_reader_never_sees_two_versions_in_one_tree() {
    let mut bench = Bench::new();
    let versions: Vec<Tree> = (0..2)
        .map(|n| {
            let content = format!("version {n}");
            let files: Vec<(String, &str)> =
                (0..20).map(|f| (format!("d{}/f{f}", f % 3), content.as_str())).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(n, c)| (n.as_str(), *c)).collect();
            bench.version(&files)
        })
        .collect();
    bench.activate(&versions[0]);
    let (live, done) = (bench.live(), AtomicBool::new(false));
    let rounds = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                // The path is never missing, not for an instant.
                let root = beneath::Root::open(&live).unwrap();
                let mut seen = std::collections::BTreeSet::new();
                for f in 0..20 {
                    let mut text = String::new();
                    // A tree that was retired may be removed while it is read.
                    let Ok(mut file) = root.file(&path(&format!("d{}/f{f}", f % 3))) else { break };
                    file.read_to_string(&mut text).unwrap();
                    seen.insert(text);
                }
                assert!(seen.len() <= 1, "{seen:?}");
                rounds += 1;
            }
            rounds
        });
        for n in 0..40 {
            bench.activate(&versions[(n + 1) % 2]);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(rounds > 0);
}

/// Everything below a directory with inodes left out: names, types, content.
fn listing(at: &Path) -> Vec<String> {
    let mut todo = vec![at.to_owned()];
    let mut lines = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                todo.push(path.clone());
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            lines.push(format!("{} {text}", path.strip_prefix(at).unwrap().display()));
        }
    }
    lines.sort();
    lines
}

/// Stops a switch at every one of its steps, by doing the steps up to there
/// by hand, and recovers: it ends with one whole version and the uploads.
#[test]
fn a_crash_at_any_step_ends_with_one_version_and_everything_ignored() {
    for linked in [false, true] {
        for crash_at in switch::STEPS {
            if crash_at == "named" && !linked {
                continue;
            }
            let mut bench = Bench::ignoring(&["/uploads/", "*.log"]);
            if linked {
                write(&bench.dir.path().join("first"), &[("x", "")]);
                symlink("first", bench.live()).unwrap();
            }
            let one = bench.version(&[("index.html", "1"), ("d/x", "1")]);
            let two = bench.version(&[("index.html", "2")]);
            bench.activate(&one);
            write(&bench.live(), &[("uploads/a", "u"), ("uploads/b/c", "u"), ("d/app.log", "l")]);
            let live = bench.live();
            let work = WorkDir::open(&live).unwrap();
            work.clear().unwrap();
            place(&two, &bench.store, None, &work.next()).unwrap();
            let crashed = switch::with_crash_at(crash_at, || {
                switch::switch(&live, &work.next(), &bench.rules, false)
            });
            assert!(crashed.is_err(), "{crash_at} is reached");
            let (want, end) = match recover(&live).unwrap() {
                Recovered::Finished => (&two, 2),
                Recovered::Undone | Recovered::Clean => (&one, 1),
            };
            let context = format!("linked {linked}, crash at {crash_at}, ended with {end}");
            assert_eq!(bench.root(want), want.root(), "{context}");
            assert_eq!(bench.read("uploads/a").as_deref(), Some("u"), "{context}");
            assert_eq!(bench.read("uploads/b/c").as_deref(), Some("u"), "{context}");
            assert_eq!(bench.read("d/app.log").as_deref(), Some("l"), "{context}");
            // Recovering again changes nothing, and the next switch works.
            let before = listing(bench.dir.path());
            assert_eq!(recover(&live).unwrap(), Recovered::Clean, "{context}");
            assert_eq!(listing(bench.dir.path()), before, "{context}");
            bench.activate(&two);
            assert_eq!(bench.root(&two), two.root(), "{context}");
            assert_eq!(bench.read("uploads/b/c").as_deref(), Some("u"), "{context}");
        }
    }
}

#[test]
fn a_torn_journal_is_an_error_and_nothing_is_removed() {
    let mut bench = Bench::new();
    let one = bench.version(&[("index.html", "1")]);
    bench.activate(&one);
    let work = WorkDir::path_of(&bench.live());
    write(&work, &[("journal", "garbage"), ("next/upload", "u")]);
    assert!(matches!(recover(&bench.live()), Err(DriverError::Journal { .. })));
    assert!(work.join("next/upload").exists());
}
