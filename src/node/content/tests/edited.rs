//! Edits of the live tree, when another version comes.

use super::*;

impl Bench {
    /// Version 1 of these files is live.
    fn with(files: &[(&str, &str)]) -> Self {
        let bench = Self::new();
        let root = bench.stage(files);
        bench.activate(1, root, &AppSpec::default());
        bench
    }

    fn edit(&self, files: &[(&str, &str)]) {
        write(&self.live(), files);
    }

    /// The next version comes while edits are publications.
    fn keeping(&self, version: u64, files: &[(&str, &str)]) -> Activated {
        self.switched(version, files, Terms::keeping(true))
    }

    /// The same where it is an edit of this member.
    fn own(&self, version: u64, files: &[(&str, &str)]) -> Activated {
        self.switched(version, files, Terms { own: true, ..Terms::keeping(true) })
    }

    fn switched(&self, version: u64, files: &[(&str, &str)], terms: Terms<'_>) -> Activated {
        let (root, spec) = (self.stage(files), AppSpec::default());
        let www = app("www");
        self.content.activate_with(&www, version, version + 10, root, &spec, terms).unwrap()
    }

    fn inode(&self) -> u64 {
        state::inode_of(&self.live())
    }

    /// What lies aside, as `name=content`, all occasions together.
    fn aside(&self) -> Vec<String> {
        let mut all = Vec::new();
        for kept in self.content.kept_aside(&app("www")).unwrap() {
            for path in kept.sample {
                let content = std::fs::read_to_string(kept.path.join(path.to_path())).unwrap();
                all.push(format!("{path}={content}"));
            }
        }
        all
    }
}

#[test]
fn what_the_version_does_not_touch_stays_as_it_was_edited() {
    let bench = Bench::with(&[("a", "1"), ("b", "1"), ("c", "1"), ("d/e", "1")]);
    bench.edit(&[("a", "edited"), ("new", "edited")]);
    std::fs::remove_file(bench.live().join("d/e")).unwrap();
    let done = bench.keeping(2, &[("a", "1"), ("b", "2"), ("c", "2"), ("d/e", "1")]);
    let read = |name| bench.read(name);
    assert_eq!(read("a").as_deref(), Some("edited"));
    assert_eq!((read("b").as_deref(), read("c").as_deref()), (Some("2"), Some("2")));
    assert_eq!((read("new").as_deref(), read("d/e")), (Some("edited"), None));
    assert_eq!(done.edits.kept, [path("a"), path("d/e"), path("new")]);
    assert!(done.edits.aside.is_empty());
    assert_eq!(done.merged, bench.root(), "what is live is told");
    assert_eq!(bench.content.applications()[0].version, 2);
    // And this is the next publication.
    let staged = bench.content.ingest_live(&app("www")).unwrap();
    assert_eq!(Some(staged.root), done.merged);
}

#[test]
fn of_what_both_changed_the_version_stands_and_the_edit_is_kept_aside() {
    let bench = Bench::with(&[("a", "1"), ("b", "1"), ("c", "1")]);
    bench.edit(&[("a", "edited"), ("c", "edited")]);
    let done = bench.keeping(2, &[("a", "2"), ("b", "2"), ("c", "1")]);
    assert_eq!(bench.read("a").as_deref(), Some("2"));
    assert_eq!(bench.read("c").as_deref(), Some("edited"));
    assert_eq!(done.edits, Edits { kept: vec![path("c")], aside: vec![path("a")] });
    assert_eq!(bench.aside(), ["a=edited"]);
    // The same in one step.
    bench.edit(&[("b", "edited")]);
    let done = bench.keeping(3, &[("a", "2"), ("b", "3"), ("c", "1")]);
    assert_eq!(bench.read("b").as_deref(), Some("3"));
    assert_eq!(done.edits.aside, [path("b")]);
    assert_eq!(bench.aside(), ["a=edited", "b=edited"]);
}

#[test]
fn what_is_saved_after_an_edit_was_taken_is_the_next_edit() {
    // A shell empties a file before it writes it, and the empty one may be published.
    let bench = Bench::with(&[("a", "1"), ("b", "1")]);
    bench.edit(&[("a", "")]);
    let taken = bench.content.ingest_live(&app("www")).unwrap();
    assert_eq!(taken.root, bench.stage(&[("a", ""), ("b", "1")]));
    bench.edit(&[("a", "saved")]);
    let done = bench.own(2, &[("a", ""), ("b", "1")]);
    assert_eq!(bench.read("a").as_deref(), Some("saved"));
    assert_eq!(done.edits, Edits { kept: vec![path("a")], aside: vec![] });
    assert_eq!(done.merged, bench.root());
    // It has nothing to do with what comes under other versions.
    let done = bench.own(3, &[("a", "3"), ("b", "1")]);
    assert_eq!((bench.read("a").as_deref(), done.edits.aside.len()), (Some("3"), 1));
    bench.edit(&[("a", "later")]);
    let done = bench.own(4, &[("a", ""), ("b", "1")]);
    assert_eq!((bench.read("a").as_deref(), done.edits.aside.len()), (Some(""), 1));
}

#[test]
fn what_somebody_else_publishes_is_live_although_it_was_taken_here_before() {
    let bench = Bench::with(&[("flag", "off"), ("b", "1")]);
    bench.edit(&[("flag", "on")]);
    let taken = bench.content.ingest_live(&app("www")).unwrap();
    // It was not published, and whoever edited it has undone it.
    bench.edit(&[("flag", "off")]);
    let done = bench.keeping(2, &[("flag", "on"), ("b", "1")]);
    assert_eq!(bench.content.applications()[0].root, taken.root);
    assert_eq!((bench.read("flag").as_deref(), bench.root()), (Some("on"), Some(taken.root)));
    assert_eq!((done.edits, done.merged), (Edits::default(), None));
}

#[test]
fn what_a_repair_has_undone_was_not_taken() {
    let bench = Bench::with(&[("flag", "off"), ("b", "1")]);
    let one = bench.content.applications()[0].root;
    let undo: [&dyn Fn(); 2] = [
        &|| drop(bench.content.repair(&app("www"), one).unwrap()),
        // Nothing is left of it: the whole tree is put back.
        &|| {
            std::fs::remove_dir_all(bench.live()).unwrap();
            bench.content.repair(&app("www"), one).unwrap();
        },
    ];
    for undo in undo {
        bench.edit(&[("flag", "on")]);
        bench.content.ingest_live(&app("www")).unwrap();
        let cell = bench.content.app(&app("www"));
        assert_eq!(locked(&cell.work).taken.1.len(), 1);
        undo();
        assert_eq!((bench.root(), locked(&cell.work).taken.1.len()), (Some(one), 0));
    }
    // Whoever published it.
    let done = bench.own(2, &[("flag", "on"), ("b", "1")]);
    assert_eq!((bench.read("flag").as_deref(), done.merged), (Some("on"), None));
    assert_eq!(bench.root(), Some(bench.content.applications()[0].root));
}

#[test]
fn what_was_taken_before_we_changed_the_live_tree_is_not_remembered() {
    let bench = Bench::with(&[("a", "1")]);
    let (cell, two) = (bench.content.app(&app("www")), bench.stage(&[("a", "2")]));
    let generation = locked(&cell.work).generation;
    locked(&cell.work).generation += 1;
    assert!(!cell.remember_taken(generation, 1, two));
    assert!(locked(&cell.work).taken.1.is_empty());
    assert!(cell.remember_taken(generation + 1, 1, two));
    assert_eq!(locked(&cell.work).taken, (1, VecDeque::from([two])));
}

#[test]
fn one_file_is_put_in_place_by_itself() {
    let bench = Bench::with(&[("a", "1"), ("b", "1")]);
    let tree = bench.inode();
    let done = bench.keeping(2, &[("a", "2"), ("b", "1")]);
    assert_eq!((bench.inode(), bench.read("a").as_deref()), (tree, Some("2")));
    assert_eq!((done.merged, bench.aside().len()), (None, 0), "the version before is in the store");
    bench.keeping(3, &[("a", "2"), ("b", "1"), ("c", "3")]);
    bench.keeping(4, &[("b", "1"), ("c", "3")]);
    assert_eq!((bench.inode(), bench.read("a"), bench.read("c")), (tree, None, Some("3".into())));
    assert_eq!(bench.content.site(&app("www")).unwrap().version(), 4);
    let bench = bench.restarted();
    assert_eq!(bench.content.applications()[0].version, 4);
    assert_eq!(bench.root(), Some(bench.content.applications()[0].root));
    // Two files are not one step.
    bench.keeping(5, &[("b", "5"), ("c", "5")]);
    assert_ne!(bench.inode(), tree);
}

#[test]
fn where_it_was_edited_nothing_is_moved() {
    let bench = Bench::with(&[("a", "1"), ("b", "1")]);
    bench.edit(&[("a", "2"), ("b", "2"), ("c", "2")]);
    let tree = bench.inode();
    let done = bench.keeping(2, &[("a", "2"), ("b", "2"), ("c", "2")]);
    assert_eq!((bench.inode(), done.merged), (tree, None));
    assert_eq!(bench.content.applications()[0].version, 2);
}

#[test]
fn outside_of_such_a_window_an_edit_gives_way_and_is_kept_aside() {
    let bench = Bench::with(&[("a", "1"), ("b", "1"), ("c", "1")]);
    bench.edit(&[("a", "edited"), ("new", "edited")]);
    let two = bench.stage(&[("a", "1"), ("b", "2"), ("c", "2")]);
    let done = bench.activate(2, two, &AppSpec::default());
    assert_eq!(bench.root(), Some(two));
    assert_eq!(done.edits, Edits { kept: vec![], aside: vec![path("a"), path("new")] });
    assert_eq!(bench.aside(), ["a=edited", "new=edited"]);
}

#[test]
fn what_is_edited_while_the_next_tree_is_placed_is_brought_over() {
    let bench = Bench::with(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let live = bench.live();
    BEFORE_SWITCH.set(Some(Box::new(move || write(&live, &[("c", "late"), ("new", "late")]))));
    let done = bench.keeping(2, &[("a", "2"), ("b", "2"), ("c", "1")]);
    assert_eq!((bench.read("a").as_deref(), bench.read("c").as_deref()), (Some("2"), Some("late")));
    assert_eq!(bench.read("new").as_deref(), Some("late"));
    assert_eq!(done.edits.kept, [path("c"), path("new")]);
    assert_eq!(done.merged, bench.root());
    assert!(bench.aside().is_empty());
    // And what is in its way then is kept aside.
    let live = bench.live();
    BEFORE_SWITCH.set(Some(Box::new(move || write(&live, &[("a", "late")]))));
    let done = bench.keeping(3, &[("a", "3"), ("b", "3"), ("c", "1")]);
    assert_eq!(done.edits.aside, [path("a")]);
    assert_eq!(bench.read("a").as_deref(), Some("3"));
    assert_eq!(bench.aside(), ["a=late"]);
}

#[test]
fn ignored_things_and_edits_come_along_together() {
    let bench = Bench::new();
    let spec = ignoring(&["/uploads/"]);
    let root = bench.stage(&[("a", "1"), ("b", "1")]);
    bench.activate(1, root, &spec);
    bench.edit(&[("uploads/u", "u"), ("b", "edited")]);
    let two = bench.stage(&[("a", "2"), ("b", "1"), ("c", "2")]);
    bench.content.activate_with(&app("www"), 2, 12, two, &spec, Terms::keeping(true)).unwrap();
    assert_eq!(bench.read("uploads/u").as_deref(), Some("u"));
    assert_eq!(
        (bench.read("a").as_deref(), bench.read("b").as_deref()),
        (Some("2"), Some("edited"))
    );
}

/// The process dies at each step of a switch, or the switch fails there: whatever was
/// edited before is in the live tree or aside, and stays there when the next comes.
#[test]
fn a_crash_at_any_step_loses_no_edit() {
    for keep in [false, true] {
        for crash_at in STEPS.into_iter().filter(|step| *step != "named") {
            let context = format!("keep {keep}, crash at {crash_at}");
            let bench = Bench::with(&[("a", "1"), ("b", "1"), ("c", "1")]);
            write(&bench.live(), &[("a", "edited"), ("b", "edited too")]);
            let two = bench.stage(&[("a", "1"), ("b", "2"), ("c", "2")]);
            let spec = AppSpec::default();
            let order = || {
                bench
                    .content
                    .activate_with(&app("www"), 2, 12, two, &spec, Terms::keeping(keep))
                    .is_ok()
            };
            with_crash_at(crash_at, order);
            let mut bench = bench.restarted();
            for again in [false, true] {
                if again {
                    bench.content.activate(&app("www"), 3, 13, two, &spec).unwrap();
                    assert_eq!(bench.root(), Some(two), "{context}");
                    bench = bench.restarted();
                }
                let aside = bench.aside();
                for (name, text) in [("a", "edited"), ("b", "edited too")] {
                    let is_live = bench.read(name).as_deref() == Some(text);
                    let is_aside = aside.contains(&format!("{name}={text}"));
                    assert!(is_live || is_aside, "{name} is lost, again {again}; {context}");
                }
            }
        }
    }
}
