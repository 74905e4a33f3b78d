//! What is placed on others is taken away, and nothing that somebody made is lost by it.

use super::*;

fn withdrawn(bench: &Bench, sequence: u64) -> Withdrawn {
    bench.content.withdraw(&app("www"), sequence).unwrap()
}

#[test]
fn nothing_is_left_of_what_was_not_changed() {
    let bench = Bench::new();
    let www = app("www");
    for files in [&[("a", "1")][..], &[("a/b", "1"), ("c", "2")]] {
        let root = bench.stage(files);
        bench.activate(5, root, &AppSpec::default());
        assert_eq!(withdrawn(&bench, 16).aside, 0);
        assert!(!bench.live().exists());
        assert!(!WorkDir::path_of(&bench.live()).exists());
        assert!(bench.content.site(&www).is_none());
        assert!(bench.content.applications().is_empty());
        assert!(matches!(bench.content.repair(&www, root), Err(ContentError::NotActive(_))));
        assert_eq!(withdrawn(&bench, 17), Withdrawn::default(), "it can be asked for twice");
    }
    let bench = bench.restarted();
    assert!(bench.content.applications().is_empty());
}

#[test]
fn edits_are_kept_and_what_is_ignored_stays() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1"), ("b", "1"), ("c/d", "1")]);
    bench.activate(5, root, &ignoring(&["/uploads"]));
    write(&bench.live(), &[("a", "edited"), ("new", "made"), ("uploads/x", "theirs")]);
    let done = withdrawn(&bench, 16);
    assert_eq!((done.aside, done.left), (2, 1));
    assert_eq!(bench.read("uploads/x").unwrap(), "theirs");
    assert!(bench.read("a").is_none() && bench.read("c/d").is_none());
    let kept = files::aside::kept(&done.place).unwrap();
    assert_eq!(kept.len(), 1);
    let of = |name: &str| std::fs::read_to_string(kept[0].path.join(name)).unwrap();
    assert_eq!((of("a"), of("new")), ("edited".to_owned(), "made".to_owned()));

    // Placed here again: what is ignored is there still.
    bench.activate(6, root, &ignoring(&["/uploads"]));
    assert_eq!(bench.read("a").unwrap(), "1");
    assert_eq!(bench.root(), Some(root));
}

#[test]
fn a_tree_of_which_the_listing_is_lost_is_not_removed() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1"), ("b", "1")]);
    bench.activate(5, root, &AppSpec::default());
    write(&bench.live(), &[("a", "edited")]);
    for listing in std::fs::read_dir(bench.dir.path().join("content/trees")).unwrap() {
        std::fs::remove_file(listing.unwrap().path()).unwrap();
    }
    let bench = bench.restarted();
    let done = withdrawn(&bench, 16);
    assert_eq!(done.aside, 0, "nobody can tell what was edited");
    let old = WorkDir::path_of(&bench.live()).join("old");
    assert_eq!(std::fs::read_to_string(old.join("a")).unwrap(), "edited");
    assert!(!bench.live().exists());
}

#[test]
fn it_gives_way_to_what_is_newer() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1")]);
    bench.activate(5, root, &AppSpec::default());
    let late = bench.content.withdraw(&app("www"), 14);
    assert!(matches!(late, Err(ContentError::Superseded { .. })));
    assert_eq!(bench.root(), Some(root));
}

#[test]
fn after_a_crash_it_is_live_or_not_and_can_be_asked_for_again() {
    for step in STEPS {
        let bench = Bench::new();
        let root = bench.stage(&[("a", "1"), ("b", "1")]);
        bench.activate(5, root, &ignoring(&["/uploads"]));
        write(&bench.live(), &[("a", "edited"), ("uploads/x", "theirs")]);
        let _crash = with_crash_at(step, || bench.content.withdraw(&app("www"), 16));
        let bench = bench.restarted();
        let active = bench.content.applications();
        assert!(active.iter().all(|a| a.version == 5 || a.version == 0), "{step}: {active:?}");
        withdrawn(&bench, 16);
        assert!(bench.content.applications().is_empty(), "{step}");
        assert_eq!(bench.read("uploads/x").unwrap(), "theirs", "{step}");
        assert!(bench.read("b").is_none(), "{step}");
        let aside = WorkDir::path_of(&bench.live()).join("aside");
        let kept = files::aside::kept(&aside).unwrap();
        let edited = kept
            .iter()
            .any(|k| std::fs::read_to_string(k.path.join("a")).is_ok_and(|t| t == "edited"));
        assert!(edited, "{step}");
    }
}
