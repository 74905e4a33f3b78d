//! Looks where something changed: they find what a scan of the whole tree finds, for as
//! long as the kernel says where, and read nothing else.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use super::{super::token::Mark, *};
use crate::driver::{Watch, files::Told};

fn watched(bench: &Bench) -> Watch {
    bench.content.watch(&app("www"), Box::new(|| {})).unwrap()
}

fn glance(bench: &Bench) -> Option<Digest> {
    let www = app("www");
    let active = locked(&bench.content.app(&www).work).active.clone().unwrap();
    let found = bench.content.glance(&bench.content.app(&www), &active).unwrap();
    found.map(|(mut scan, _)| {
        let expected = bench.content.store().tree(&active.root).unwrap().unwrap();
        scan.fit(&expected).unwrap();
        scan.root()
    })
}

/// Covers R11.
#[test]
fn a_glance_finds_what_a_scan_finds_or_says_nothing() {
    let bench = Bench::new();
    let live = bench.live();
    let root = bench.stage(&[("a", "1"), ("b/c", "1"), ("b/d", "1"), ("e/f/g", "1"), ("h", "1")]);
    bench.activate(1, root, &ignoring(&["*.log"]));
    assert_eq!(glance(&bench), None, "nobody watches");
    let _watch = watched(&bench);
    assert_eq!(glance(&bench), None, "nobody has looked");
    bench.content.scan(&app("www"), false).unwrap();
    assert_eq!(glance(&bench), Some(root));

    // Each, and whether a glance is enough.
    let deeds: [(&dyn Fn(), bool); 14] = [
        (&|| write(&live, &[("a", "2")]), true),
        (&|| write(&live, &[("b/new", "1"), ("h", "22")]), true),
        (&|| std::fs::remove_file(live.join("b/new")).unwrap(), true),
        (&|| std::fs::rename(live.join("a"), live.join("b/c")).unwrap(), true),
        (&|| symlink("b", live.join("link")).unwrap(), true),
        (&|| write(&live, &[("b/x.log", "ignored")]), true),
        (
            &|| std::fs::set_permissions(live.join("h"), Permissions::from_mode(0o600)).unwrap(),
            true,
        ),
        // Of a directory it is not told what is in it, nor whether it is a shell by now.
        (&|| std::fs::remove_file(live.join("e/f/g")).unwrap(), false),
        (&|| write(&live, &[("new/dir/x", "1")]), false),
        (&|| std::fs::rename(live.join("new"), live.join("moved")).unwrap(), false),
        (
            &|| std::fs::set_permissions(live.join("b"), Permissions::from_mode(0o700)).unwrap(),
            false,
        ),
        (&|| std::fs::remove_dir_all(live.join("moved")).unwrap(), false),
        // What no version can hold.
        (&|| drop(std::os::unix::net::UnixListener::bind(live.join("socket")).unwrap()), false),
        (&|| (0..2_000).for_each(|n| write(&live, &[(&format!("b/{n}"), "1")])), false),
    ];
    for (number, (deed, enough)) in deeds.iter().enumerate() {
        let before = glance(&bench);
        assert!(before.is_some(), "before deed {number}");
        deed();
        let found = glance(&bench);
        assert_eq!(found.is_some(), *enough, "deed {number}");
        let scanned = bench.content.scan(&app("www"), true).unwrap().root;
        assert!(found.is_none() || found == scanned, "deed {number}");
        if number != 5 {
            assert_ne!(scanned, before, "deed {number} was one");
        }
        let _ = std::fs::remove_file(live.join("socket"));
        bench.content.scan(&app("www"), false).unwrap();
    }
}

#[test]
fn where_something_was_noticed_only_that_is_read() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1"), ("b", "1"), ("c", "1")]);
    bench.activate(1, root, &AppSpec::default());
    let _watch = watched(&bench);
    bench.content.scan(&app("www"), false).unwrap();
    write(&bench.live(), &[("a", "22")]);
    let found = bench.content.scan_changed(&app("www")).unwrap();
    assert_eq!((found.bytes_read, found.files), (2, 3));
    assert_eq!(found.root, bench.root());
    assert_ne!(found.root, Some(root));
}

#[test]
fn an_edit_is_taken_in_and_put_in_place_without_a_walk() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("a", "1"), ("b", "1"), ("dir/c", &"c".repeat(300_000))]);
    bench.activate(1, root, &AppSpec::default());
    let _watch = watched(&bench);
    bench.content.scan(&www, false).unwrap();
    write(&bench.live(), &[("a", "22")]);
    let staged = bench.content.ingest_live(&www).unwrap();
    let store = bench.content.store();
    assert!(store.whole(&staged.root).unwrap());
    assert_eq!((staged.files, staged.bytes), (3, 300_003));
    assert_eq!(Some(staged.root), bench.root());
    // The version that was edited here, and one that was edited elsewhere.
    let done = bench.activate(2, staged.root, &AppSpec::default());
    assert!(done.settled && done.edits == Edits::default() && done.before.is_none(), "{done:?}");
    let other = bench.stage(&[("a", "22"), ("b", "3"), ("dir/c", &"c".repeat(300_000))]);
    let done = bench.activate(3, other, &AppSpec::default());
    assert!(done.settled && done.before.is_none(), "{done:?}");
    assert_eq!(glance(&bench), Some(other));
    assert_eq!(bench.root(), Some(other));
    // What was edited and not seen yet gives way, and is kept.
    write(&bench.live(), &[("a", "mine")]);
    let done = bench.activate(4, root, &AppSpec::default());
    assert_eq!(done.edits.aside, [path("a")]);
    assert_eq!(bench.root(), Some(root));
}

#[test]
fn what_is_known_of_files_is_kept_for_the_next_start() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1"), ("b", "1")]);
    bench.activate(1, root, &AppSpec::default());
    write(&bench.live(), &[("a", "22")]);
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    File::open(bench.live().join("a")).unwrap().set_modified(old).unwrap();
    bench.content.scan(&app("www"), false).unwrap();
    bench.content.take_for_unchanged(&app("www"), &path("a"));
    bench.content.keep_caches();
    let bench = bench.restarted();
    assert_eq!(bench.content.scan(&app("www"), false).unwrap().bytes_read, 0);
}

#[test]
fn who_looked_earlier_and_is_slower_does_not_believe_that_nothing_changed() {
    let mark = Mark::default();
    mark.told(Told::Changed(path("a")));
    mark.told(Told::Changed(path("b")));
    assert_eq!(mark.since(1), Some((2, BTreeSet::from([path("b")]))));
    mark.forget(2);
    assert_eq!(mark.since(1), None, "that it was b is not known any more");
    assert_eq!(mark.since(2), Some((2, BTreeSet::new())));
    mark.told(Told::Lost);
    assert_eq!(mark.since(2), None);
    assert_eq!(mark.since(3), Some((3, BTreeSet::new())));
}
