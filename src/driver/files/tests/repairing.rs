use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;
use crate::base::tree::Change;

/// A live tree that is drifted by `drift` and repaired; what was done.
fn repaired(bench: &mut Bench, drift: impl Fn(&Path)) -> Repaired {
    let files = [("index.html", "hello"), ("a/b/c", "1"), ("a/d", "2"), ("empty/", "")];
    let want = bench.version(&files);
    bench.activate(&want);
    assert_eq!(bench.root(&want), want.root());
    drift(&bench.live());
    assert_ne!(bench.root(&want), want.root(), "it differs now");
    let done = bench.repair(&want);
    assert_eq!(bench.root(&want), want.root(), "{done:?}");
    assert_eq!(bench.repair(&want), Repaired::default(), "nothing is left to do");
    done
}

#[test]
fn an_edited_file_comes_back_and_the_edit_is_kept() {
    let mut bench = Bench::new();
    let done = repaired(&mut bench, |live| std::fs::write(live.join("a/d"), "edited").unwrap());
    assert_eq!(names(&done.set), ["a/d"]);
    assert_eq!(done.bytes_aside, 6);
    let kept = std::fs::read_to_string(done.aside.unwrap().join("a/d")).unwrap();
    assert_eq!(kept, "edited");
}

#[test]
fn a_crash_between_two_files_leaves_each_edit_in_its_place_or_aside() {
    let mut bench = Bench::new();
    let want = bench.version(&[("a", "1"), ("b", "2"), ("d/c", "3")]);
    bench.activate(&want);
    let edits = [("a", "edited a"), ("b", "edited b"), ("d/c/x", "a directory now")];
    std::fs::remove_file(bench.live().join("d/c")).unwrap();
    write(&bench.live(), &edits);
    let aside = WorkDir::open(&bench.live()).unwrap().aside();
    let mut crashes = 0;
    while bench.root(&want) != want.root() {
        let scan = bench.scan(LIVE, &mut StatCache::new());
        let list = changes(&scan.tree, &want);
        let repair = || repair(&bench.live(), &list, &scan.strange, &bench.store, &aside);
        crashes += u32::from(switch::with_crash_at("replaced", repair).is_err());
        assert_eq!(recover(&bench.live()).unwrap(), Recovered::Clean);
        let kept = kept_in(&aside);
        for (name, text) in &edits {
            let stands = bench.read(name).as_deref() == Some(text);
            assert!(stands || kept.iter().any(|t| t == text), "{name} is lost after {crashes}");
        }
        for (name, text) in [("a", "1"), ("b", "2"), ("d/c", "3")] {
            let now = bench.read(name);
            assert!(now.is_none_or(|now| now == text || now.starts_with("edited")), "{name}");
        }
    }
    assert!(crashes >= 2, "{crashes}");
    assert_eq!(kept_in(&aside).len(), edits.len(), "and nothing of the version's");
}

/// The contents of all files below `dir`.
fn kept_in(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(kept_in(&path));
        } else {
            all.push(std::fs::read_to_string(path).unwrap());
        }
    }
    all
}

#[test]
fn every_kind_of_drift_is_undone() {
    let drifts: [fn(&Path); 12] = [
        |live| std::fs::remove_file(live.join("index.html")).unwrap(),
        |live| std::fs::remove_dir_all(live.join("a")).unwrap(),
        |live| std::fs::remove_dir(live.join("empty")).unwrap(),
        |live| write(live, &[("new/x/y", "z"), ("new/w", "v")]),
        |live| {
            std::fs::set_permissions(live.join("a/d"), Permissions::from_mode(0o600)).unwrap();
        },
        |live| std::fs::set_permissions(live.join("a"), Permissions::from_mode(0o700)).unwrap(),
        |live| {
            std::fs::set_permissions(live.join("a/d"), Permissions::from_mode(0o4644)).unwrap();
        },
        |live| {
            // a file becomes a directory, and a directory a file
            std::fs::remove_file(live.join("index.html")).unwrap();
            write(live, &[("index.html/x/y", "z")]);
            std::fs::remove_dir_all(live.join("a")).unwrap();
            std::fs::write(live.join("a"), "file").unwrap();
        },
        |live| {
            // a directory becomes a link, a file too
            std::fs::rename(live.join("a"), live.join("moved")).unwrap();
            symlink("moved", live.join("a")).unwrap();
            std::fs::remove_file(live.join("index.html")).unwrap();
            symlink("/etc/passwd", live.join("index.html")).unwrap();
        },
        |live| {
            std::fs::remove_file(live.join("a/d")).unwrap();
            fifo(&live.join("a/d"));
            fifo(&live.join("pipe"));
        },
        |live| write(live, &[(&format!("{}/x", vec!["d"; 130].join("/")), "deep")]),
        |live| std::fs::rename(live.join("a/d"), live.join("a/D")).unwrap(),
    ];
    for drift in drifts {
        repaired(&mut Bench::new(), drift);
    }
}

#[test]
fn a_link_in_the_place_of_a_directory_is_replaced_and_never_followed() {
    let mut bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    write(&outside, &[("d", "precious"), ("b/c", "too")]);
    let at = outside.clone();
    repaired(&mut bench, move |live| {
        std::fs::remove_dir_all(live.join("a")).unwrap();
        symlink(&at, live.join("a")).unwrap();
    });
    assert_eq!(std::fs::read_to_string(outside.join("d")).unwrap(), "precious");
    assert_eq!(std::fs::read_to_string(outside.join("b/c")).unwrap(), "too");
    assert_eq!(bench.read("a/d").unwrap(), "2");
}

#[test]
fn a_directory_replaced_by_a_link_after_the_scan_is_not_written_through() {
    let mut bench = Bench::new();
    let want = bench.version(&[("a/x", "1")]);
    bench.activate(&want);
    let outside = bench.dir.path().join("outside");
    write(&outside, &[("x", "precious")]);
    std::fs::remove_dir_all(bench.live().join("a")).unwrap();
    symlink(&outside, bench.live().join("a")).unwrap();
    let list: Vec<Change> =
        vec![Change::Del(path("a/x")), Change::Set(want.entries().nth(1).unwrap().clone())];
    let aside = bench.dir.path().join("aside");
    let error = repair(&bench.live(), &list, &[], &bench.store, &aside).unwrap_err();
    assert!(matches!(error, DriverError::InTheWay(_)), "{error}");
    assert_eq!(std::fs::read_to_string(outside.join("x")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn ignored_files_stay_where_their_directory_should_go() {
    let mut bench = Bench::ignoring(&["*.log"]);
    let done = repaired(&mut bench, |live| {
        write(live, &[("extra/keep.log", "log"), ("extra/x", "drift"), ("a/app.log", "log")]);
    });
    assert_eq!(names(&done.deleted), ["extra/x"]);
    assert_eq!(bench.read("extra/keep.log").unwrap(), "log");
    assert_eq!(bench.read("a/app.log").unwrap(), "log");
    assert_eq!(bench.read("extra/x"), None);
}

#[test]
fn content_that_cannot_be_had_leaves_the_tree_as_it_is() {
    let mut bench = Bench::new();
    let want = bench.version(&[("a", "1"), ("b", "2")]);
    bench.activate(&want);
    std::fs::write(bench.live().join("a"), "edited").unwrap();
    std::fs::write(bench.live().join("b"), "edited too").unwrap();
    let before = bench.root(&want);
    bench.store.chunks.remove(&Digest::of_bytes(b"2"));
    let have = bench.scan(LIVE, &mut StatCache::new()).tree;
    let aside = bench.dir.path().join("aside");
    let list = changes(&have, &want);
    assert!(repair(&bench.live(), &list, &[], &bench.store, &aside).is_err());
    assert_eq!(bench.root(&want), before);
    bench.store.chunks.insert(Digest::of_bytes(b"2"), b"x".to_vec());
    let error = repair(&bench.live(), &list, &[], &bench.store, &aside).unwrap_err();
    assert!(matches!(error, DriverError::Corrupt(_)));
    assert_eq!(bench.root(&want), before);
}

#[test]
fn a_file_in_the_place_of_a_directory_with_ignored_files_keeps_them_aside() {
    let mut bench = Bench::ignoring(&["*.log"]);
    let done = repaired(&mut bench, |live| {
        std::fs::remove_file(live.join("index.html")).unwrap();
        write(live, &[("index.html/app.log", "log"), ("index.html/x", "x")]);
    });
    let aside = done.aside.unwrap();
    assert_eq!(std::fs::read_to_string(aside.join("index.html/x")).unwrap(), "x");
    assert_eq!(std::fs::read_to_string(aside.join("index.html~1/app.log")).unwrap(), "log");
}
