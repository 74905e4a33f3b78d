//! Hooks, as content knows them: when they are asked, in which tree, and what is told.

use std::cell::{Cell, RefCell};

use super::*;

const HOOKS: &str =
    "[hooks.before-switch]\nrun = [\"true\"]\n\n[hooks.after-switch]\nrun = [\"true\"]\n";

impl Bench {
    /// A version with hooks.
    fn hooked(&self, files: &[(&str, &str)]) -> Digest {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), files);
        let made = Made {
            texts: vec![(path(".althing/hooks.toml"), HOOKS.to_owned())],
            ..Made::default()
        };
        self.content.stage(source.path(), &[], &made).unwrap().root
    }

    fn checked(
        &self,
        version: u64,
        root: Digest,
        spec: &AppSpec,
        check: Check<'_>,
    ) -> Result<Activated, ContentError> {
        let terms = Terms { check: Some(check), ..Terms::default() };
        self.content.activate_with(&app("www"), version, version + 10, root, spec, terms)
    }

    fn try_out(&self, root: Digest, check: Check<'_>) -> Result<(), ContentError> {
        self.content.try_out(&app("www"), 2, root, &AppSpec::default(), check)
    }

    fn area(&self) -> PathBuf {
        self.dir.path().join("live/.althing-www")
    }
}

fn yes(_: &Next<'_>) -> Result<(), Held> {
    Ok(())
}

fn unfit(_: &Next<'_>) -> Result<(), Held> {
    Err(Held::Unfit("it is not fit".to_owned()))
}

#[test]
fn a_version_is_looked_at_whole_beside_the_live_one() {
    let bench = Bench::new();
    let (one, two) =
        (bench.hooked(&[("a", "1"), ("b", "")]), bench.hooked(&[("a", "2"), ("b", "")]));
    let asked = Cell::new(0);
    bench
        .checked(1, one, &AppSpec::default(), &|next| {
            asked.set(asked.get() + 1);
            assert!(!bench.live().exists());
            assert_eq!(next.active.version, 1);
            Ok(())
        })
        .unwrap();
    // One file differs: it would be put by itself if nobody wanted to see the whole.
    let result = bench.checked(2, two, &AppSpec::default(), &|next| {
        asked.set(asked.get() + 1);
        let text = |at: &Path, name: &str| std::fs::read_to_string(at.join(name)).unwrap();
        assert_eq!((text(next.tree, "a"), text(next.tree, "b")), ("2".into(), String::new()));
        assert_eq!(
            (text(&bench.live(), "a"), next.active.live.clone()),
            ("1".into(), bench.live())
        );
        assert_eq!(next.hook.run, ["true"]);
        unfit(next)
    });
    assert_eq!(asked.get(), 2);
    let refused = result.unwrap_err();
    assert!(matches!(&refused, ContentError::Held { version: 2, .. }), "{refused}");
    assert!(refused.to_string().contains("it is not fit"), "{refused}");
    assert_eq!((bench.root(), bench.content.applications()[0].version), (Some(one), 1));
    assert!(!bench.area().join("next").exists(), "its room is free again");
    // Nothing of it is in the way of another try, nor of a start.
    let bench = bench.restarted();
    assert_eq!(bench.content.applications()[0].version, 1);
    bench.checked(2, two, &AppSpec::default(), &yes).unwrap();
    assert_eq!(bench.root(), Some(two));
}

#[test]
fn one_that_gives_way_leaves_the_live_tree_as_it_is() {
    let bench = Bench::new();
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "2")]));
    bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
    let gave_way = bench.checked(2, two, &AppSpec::default(), &|_| Err(Held::GaveWay));
    assert!(matches!(gave_way, Err(ContentError::GaveWay(_))));
    assert_eq!(bench.root(), Some(one));
}

#[test]
fn what_is_live_already_is_looked_at_where_it_is() {
    let bench = Bench::new();
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "2")]));
    bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
    write(&bench.live(), &[("a", "2")]);
    let asked = RefCell::new(Vec::new());
    let terms = Terms {
        keep_edits: true,
        check: Some(&|next| {
            asked.borrow_mut().push(next.tree.to_owned());
            // The next edit is no doing of the hook.
            write(&bench.live(), &[("a", "3")]);
            Ok(())
        }),
        ..Terms::default()
    };
    let www = app("www");
    bench.content.activate_with(&www, 2, 12, two, &AppSpec::default(), terms).unwrap();
    assert_eq!(*asked.borrow(), [bench.live()]);
    assert_eq!(bench.read("a").as_deref(), Some("3"));
}

#[test]
fn only_another_version_is_looked_at_and_only_if_it_says_so() {
    let bench = Bench::new();
    let (one, plain) = (bench.hooked(&[("a", "1")]), bench.stage(&[("a", "2")]));
    bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
    let never = |_: &Next<'_>| -> Result<(), Held> { panic!("it is not asked") };
    // The same version of a later catalog; a repair; a tree that is gone; no such hook.
    let terms = Terms { check: Some(&never), ..Terms::default() };
    let www = app("www");
    let spec = AppSpec::default();
    assert!(bench.content.activate_with(&www, 1, 19, one, &spec, terms).unwrap().already);
    write(&bench.live(), &[("a", "edited")]);
    bench.content.repair(&www, one).unwrap();
    std::fs::remove_dir_all(bench.live()).unwrap();
    bench.content.repair(&www, one).unwrap();
    bench.content.activate_with(&www, 2, 20, plain, &spec, terms).unwrap();
    assert_eq!(bench.root(), Some(plain));
}

#[test]
fn a_hook_may_write_to_what_is_ignored_and_nowhere_else() {
    let bench = Bench::new();
    let spec = ignoring(&["/cache/"]);
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "2"), ("b", "")]));
    let writes = |name: &'static str| {
        move |next: &Next<'_>| {
            write(next.tree, &[(name, "x")]);
            Ok(())
        }
    };
    bench.checked(1, one, &spec, &writes("cache/x")).unwrap();
    assert_eq!(bench.read("cache/x").as_deref(), Some("x"));
    for name in ["a", "new"] {
        let refused = bench.checked(2, two, &spec, &writes(name)).unwrap_err().to_string();
        assert!(refused.contains(&format!("changed {name} in the tree")), "{refused}");
    }
    let refused = bench.try_out(two, &writes("a")).unwrap_err();
    assert!(matches!(refused, ContentError::Held { .. }), "{refused}");
    assert_eq!(bench.root(), Some(one));
}

#[test]
fn a_version_is_tried_without_a_trace() {
    let bench = Bench::new();
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "2")]));
    let www = app("www");
    // Also where nothing is live yet.
    for live in [None, Some(one)] {
        if let Some(one) = live {
            bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
        }
        let seen = RefCell::new(None);
        let look = |next: &Next<'_>| {
            *seen.borrow_mut() = std::fs::read_to_string(next.tree.join("a")).ok();
            assert!(!next.tree.starts_with(bench.live()));
            assert_eq!((next.active.version, &next.active.live), (2, &bench.live()));
            unfit(next)
        };
        let refused = bench.try_out(two, &look).unwrap_err();
        assert!(matches!(refused, ContentError::Held { .. }), "{refused}");
        assert_eq!(seen.take().as_deref(), Some("2"));
        bench.try_out(two, &yes).unwrap();
        assert!(!bench.area().join("trial").exists());
        assert_eq!(bench.content.scan(&www, true).unwrap().root, live);
    }
    // One that a crash left there is removed by the next start.
    write(&bench.area().join("trial"), &[("a", "2")]);
    let bench = bench.restarted();
    assert!(!bench.area().join("trial").exists());
    let plain = bench.stage(&[("a", "3")]);
    bench.try_out(plain, &|_| panic!("it has no hook")).unwrap();
}

#[test]
fn hooks_that_can_not_be_read_hold_a_version_back() {
    let bench = Bench::new();
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("a", "1")]);
    let texts = vec![(path(".althing/hooks.toml"), "[hooks.before-lunch]\n".to_owned())];
    let made = Made { texts, ..Made::default() };
    let root = bench.content.stage(source.path(), &[], &made).unwrap().root;
    let refused = bench.checked(1, root, &AppSpec::default(), &yes).unwrap_err();
    assert!(
        matches!(&refused, ContentError::Definition { why, .. } if why.contains("before-lunch"))
    );
    assert!(!bench.live().exists());
}

#[test]
fn each_change_of_the_live_tree_is_due_until_it_is_told() {
    let bench = Bench::new();
    let www = app("www");
    assert!(bench.content.due(&www).is_none());
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "2")]));
    let due = |bench: &Bench| bench.content.due(&www).map(|due| due.active.version);
    bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
    // A crash before it is told changes nothing.
    let bench = bench.restarted();
    assert_eq!(due(&bench), Some(1));
    bench.content.told(&bench.content.due(&www).unwrap()).unwrap();
    assert_eq!(due(&bench), None);
    let bench = bench.restarted();
    assert_eq!(due(&bench), None, "it was told before this start");
    // The same content under another number is another switch.
    bench.checked(2, two, &AppSpec::default(), &yes).unwrap();
    bench.content.told(&bench.content.due(&www).unwrap()).unwrap();
    bench.checked(3, one, &AppSpec::default(), &yes).unwrap();
    let before_repair = bench.content.due(&www).unwrap();
    assert_eq!(before_repair.active.version, 3);
    // What was repaired while it was told is told once more, and so after each repair.
    write(&bench.live(), &[("a", "edited")]);
    bench.content.repair(&www, one).unwrap();
    bench.content.told(&before_repair).unwrap();
    assert_eq!(due(&bench), Some(3));
    bench.content.told(&bench.content.due(&www).unwrap()).unwrap();
    bench.content.repair(&www, one).unwrap();
    assert_eq!(due(&bench), None, "there was nothing to repair");
    std::fs::remove_dir_all(bench.live()).unwrap();
    bench.content.repair(&www, one).unwrap();
    let bench = bench.restarted();
    assert_eq!(due(&bench), Some(3));
    // What was taken away and comes back is another tree.
    bench.content.told(&bench.content.due(&www).unwrap()).unwrap();
    bench.content.withdraw(&www, 14).unwrap();
    assert_eq!(due(&bench), None);
    let terms = Terms { check: Some(&yes), ..Terms::default() };
    bench.content.activate_with(&www, 3, 15, one, &AppSpec::default(), terms).unwrap();
    assert_eq!(due(&bench), Some(3));
    // Another cluster counts anew.
    bench.content.told(&bench.content.due(&www).unwrap()).unwrap();
    begin_anew(&bench.dir.path().join("state")).unwrap();
    let bench = bench.restarted();
    assert!(due(&bench).is_some());
}

#[test]
fn what_is_fit_only_without_an_edit_is_switched_to_without_it() {
    let bench = Bench::new();
    let www = app("www");
    let (one, two) = (bench.hooked(&[("a", "1")]), bench.hooked(&[("a", "1"), ("b", "2")]));
    bench.checked(1, one, &AppSpec::default(), &yes).unwrap();
    write(&bench.live(), &[("a", "bad")]);
    let asked = RefCell::new(Vec::new());
    let no_bad = |next: &Next<'_>| {
        let text = std::fs::read_to_string(next.tree.join("a")).unwrap();
        asked.borrow_mut().push(text.clone());
        if text == "bad" { unfit(next) } else { Ok(()) }
    };
    // The edit itself, before it would become a version.
    let edited = bench.content.ingest_live(&www).unwrap().root;
    let refused = bench.content.check_edit(&www, 2, edited, &no_bad).unwrap_err();
    assert!(matches!(refused, ContentError::Held { version: 2, .. }), "{refused}");
    bench.content.check_edit(&www, 2, one, &|_| panic!("it is live")).unwrap();
    assert_eq!(bench.read("a").as_deref(), Some("bad"));
    // Another version: first with it, then without.
    let terms = Terms { check: Some(&no_bad), ..Terms::keeping(true) };
    let done = bench.content.activate_with(&www, 2, 12, two, &AppSpec::default(), terms).unwrap();
    assert_eq!(*asked.borrow(), ["bad", "bad", "1"]);
    assert_eq!((done.edits.aside, bench.root()), (vec![path("a")], Some(two)));
    // The same content as another version: it would be kept where it is, and is not.
    write(&bench.live(), &[("a", "bad")]);
    let done = bench.content.activate_with(&www, 3, 13, two, &AppSpec::default(), terms).unwrap();
    assert_eq!((done.edits.aside, bench.root()), (vec![path("a")], Some(two)));
    // What is not fit either way is not switched to, and the edit stays.
    write(&bench.live(), &[("a", "bad")]);
    let terms = Terms { check: Some(&unfit), ..Terms::keeping(true) };
    assert!(bench.content.activate_with(&www, 4, 14, one, &AppSpec::default(), terms).is_err());
    assert_eq!(
        (bench.read("a").as_deref(), bench.content.applications()[0].version),
        (Some("bad"), 3)
    );
}
