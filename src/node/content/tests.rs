//! Content as the node uses it, on real directories.

use std::{fs::File, os::unix::fs::symlink};

use super::*;
use crate::driver::files::switch::{STEPS, with_crash_at};

thread_local! {
    static BEFORE_SWITCH: std::cell::RefCell<Option<Box<dyn FnOnce()>>> =
        const { std::cell::RefCell::new(None) };
}

/// What a test wants done right before this thread switches.
pub(super) fn before_switch() {
    if let Some(run) = BEFORE_SWITCH.take() {
        run();
    }
}

mod edited;
mod hooked;
mod hostile;
mod ruled;
mod sight;
mod token;
mod withdraw;

struct Bench {
    dir: tempfile::TempDir,
    content: Content,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content = open(dir.path());
        Self { dir, content }
    }

    /// As after a restart of the process.
    fn restarted(self) -> Self {
        let Self { dir, content } = self;
        drop(content);
        let content = open(dir.path());
        Self { dir, content }
    }

    fn stage(&self, files: &[(&str, &str)]) -> Digest {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), files);
        self.content.stage(source.path(), &[], &Made::default()).unwrap().root
    }

    fn activate(&self, version: u64, root: Digest, spec: &AppSpec) -> Activated {
        self.content.activate(&app("www"), version, version + 10, root, spec).unwrap()
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live/www")
    }

    fn root(&self) -> Option<Digest> {
        self.content.scan(&app("www"), true).unwrap().root
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.live().join(name)).ok()
    }
}

/// Two contents that differ in so much that whole trees are exchanged.
fn two_versions(bench: &Bench) -> (Digest, Digest) {
    (bench.stage(&[("a", "1"), ("b", "1")]), bench.stage(&[("a", "2"), ("b", "2")]))
}

fn open(dir: &Path) -> Content {
    let store = ContentStore::open(&dir.join("content")).unwrap();
    Content::open(store, dir.join("live"), dir.join("state")).unwrap()
}

fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn ignoring(patterns: &[&str]) -> AppSpec {
    AppSpec { ignore: patterns.iter().map(|p| (*p).to_owned()).collect(), ..AppSpec::default() }
}

fn text(site: &Site, name: &str) -> Option<String> {
    site.read(&path(name), 0).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn a_version_is_staged_activated_scanned_and_found_again_after_a_restart() {
    let bench = Bench::new();
    let big = "b".repeat(3_000_000);
    let root = bench.stage(&[("index.html", "hello"), ("a/big", &big)]);
    assert!(bench.content.store().whole(&root).unwrap());
    let nothing = bench.content.scan(&app("www"), false).unwrap();
    assert_eq!((nothing.root, nothing.activated), (None, 0));
    let done = bench.activate(1, root, &AppSpec::default());
    assert_eq!((done.already, done.live), (false, bench.live()));
    let found = bench.content.scan(&app("www"), false).unwrap();
    assert_eq!((found.root, found.activated, found.files), (Some(root), 1, 2));
    assert_eq!(found.bytes_read, 0, "what was just written is known");
    let bench = bench.restarted();
    assert_eq!(bench.content.scan(&app("www"), false).unwrap().bytes_read, 0);
    let full = bench.content.scan(&app("www"), true).unwrap();
    assert_eq!((full.bytes_read, full.root), (3_000_005, Some(root)));
    let active = bench.content.applications();
    assert_eq!((active.len(), active[0].version, active[0].sequence), (1, 1, 11));
    assert!(bench.activate(1, root, &AppSpec::default()).already);
    assert_eq!(bench.content.site(&app("www")).unwrap().root(), root);
}

#[test]
fn an_order_that_comes_too_late_is_refused() {
    let bench = Bench::new();
    let (one, two) = (bench.stage(&[("a", "1")]), bench.stage(&[("a", "2")]));
    let (www, spec) = (app("www"), AppSpec::default());
    bench.content.activate(&www, 2, 20, two, &spec).unwrap();
    for (version, sequence) in [(1, 19), (1, 20), (3, 19)] {
        let late = bench.content.activate(&www, version, sequence, one, &spec);
        assert!(matches!(late, Err(ContentError::Superseded { version: 2, .. })));
    }
    let other = bench.content.activate(&www, 2, 20, one, &spec);
    assert!(matches!(other, Err(ContentError::Conflict { .. })));
    let bench = bench.restarted();
    let late = bench.content.activate(&www, 1, 19, one, &spec);
    assert!(matches!(late, Err(ContentError::Superseded { .. })), "and after a restart");
    assert!(bench.content.activate(&www, 2, 25, two, &spec).unwrap().already);
    let late = bench.content.activate(&www, 3, 24, one, &spec);
    assert!(matches!(late, Err(ContentError::Superseded { sequence: 25, .. })));
    let late = bench.content.repair(&www, one);
    assert!(matches!(late, Err(ContentError::Superseded { .. })), "a repair from before");
    assert_eq!(bench.root(), Some(two));
    // Going back is a new version with the old content.
    bench.content.activate(&www, 3, 26, one, &spec).unwrap();
    assert_eq!(bench.root(), Some(one));
}

#[test]
fn one_that_waits_gives_way_to_a_newer_one() {
    let bench = Bench::new();
    let root = bench.stage(&[("a", "1")]);
    let cell = bench.content.app(&app("www"));
    std::thread::scope(|scope| {
        let busy = locked(&cell.work);
        let late =
            scope.spawn(|| bench.content.activate(&app("www"), 1, 1, root, &AppSpec::default()));
        cell.ask_for(&app("www"), 2, 2).unwrap();
        drop(busy);
        assert!(matches!(late.join().unwrap(), Err(ContentError::Superseded { version: 2, .. })));
    });
    assert!(!bench.live().exists());
}

#[test]
fn one_at_work_gives_way_to_a_newer_one_at_the_last_moment() {
    let bench = Bench::new();
    let (one, two) = two_versions(&bench);
    bench.activate(1, one, &AppSpec::default());
    let cell = bench.content.app(&app("www"));
    BEFORE_SWITCH.set(Some(Box::new(move || cell.ask_for(&app("www"), 30, 3).unwrap())));
    let late = bench.content.activate(&app("www"), 2, 20, two, &AppSpec::default());
    assert!(matches!(late, Err(ContentError::Superseded { version: 3, .. })));
    assert_eq!(bench.root(), Some(one));
    let bench = bench.restarted();
    assert_eq!(bench.content.applications()[0].version, 1);
}

#[test]
fn nobody_waits_for_a_tree_that_is_being_placed() {
    let bench = Bench::new();
    let (one, two) = two_versions(&bench);
    bench.activate(1, one, &AppSpec::default());
    let cell = bench.content.app(&app("www"));
    let placing = locked(&cell.area);
    assert_eq!(bench.content.applications().len(), 1);
    assert_eq!(bench.root(), Some(one));
    assert_eq!(bench.content.site(&app("www")).unwrap().version(), 1);
    bench.content.activate(&app("other"), 1, 1, two, &AppSpec::default()).unwrap();
    drop(placing);
}

#[test]
fn content_that_is_not_whole_is_not_activated() {
    let bench = Bench::new();
    let other = Bench::new();
    let root = other.stage(&[("a", "1"), ("b", "2")]);
    let (www, spec) = (app("www"), AppSpec::default());
    let refused = bench.content.activate(&www, 1, 1, root, &spec);
    assert!(matches!(refused, Err(ContentError::NotHere(_))));
    let tree = other.content.store().tree(&root).unwrap().unwrap();
    bench.content.store().put_tree(&tree).unwrap();
    let refused = bench.content.activate(&www, 1, 1, root, &spec);
    assert!(matches!(refused, Err(ContentError::NotHere(_))));
    assert!(!bench.live().exists() && bench.content.site(&www).is_none());
    assert!(bench.content.applications().is_empty());
}

#[test]
fn a_version_that_holds_what_it_ignores_is_refused() {
    let bench = Bench::new();
    let root = bench.stage(&[("a/x.log", "1")]);
    let refused = bench.content.activate(&app("www"), 1, 1, root, &ignoring(&["*.log"]));
    assert!(matches!(refused, Err(ContentError::Ignored(_))));
}

#[test]
fn staging_needs_content_and_leaves_out_what_is_ignored() {
    let bench = Bench::new();
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("althing.toml", ""), ("x.log", "1")]);
    let patterns = ["*.log".to_owned()];
    let empty = bench.content.stage(source.path(), &patterns, &Made::default()).unwrap_err();
    assert!(matches!(empty, ContentError::Driver(DriverError::Empty(_))));
    let absent =
        bench.content.stage(&source.path().join("none"), &patterns, &Made::default()).unwrap_err();
    assert!(matches!(absent, ContentError::Driver(DriverError::Absent(_))));
    write(source.path(), &[("a", "1"), ("b/x.log", "1")]);
    let staged = bench.content.stage(source.path(), &patterns, &Made::default()).unwrap();
    assert_eq!((staged.files, staged.bytes), (1, 1));
    symlink("/etc/passwd", source.path().join("out")).unwrap();
    let refused = bench.content.stage(source.path(), &patterns, &Made::default()).unwrap_err();
    assert!(refused.to_string().contains("/etc/passwd"), "{refused}");
    assert!(bench.content.stage(source.path(), &["[".to_owned()], &Made::default()).is_err());
}

#[test]
fn drift_is_told_and_repaired_and_the_edit_kept() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("index.html", "hello"), ("a/b", "x")]);
    bench.activate(1, root, &AppSpec::default());
    assert!(bench.content.differences(&www, &root).unwrap().is_empty());
    write(&bench.live(), &[("index.html", "edited"), ("extra/x", "e")]);
    let drifted = bench.content.scan(&www, false).unwrap().root.unwrap();
    assert_ne!(drifted, root);
    let list = bench.content.differences(&www, &root).unwrap();
    let paths: Vec<String> = list.iter().map(|c| c.path().to_string()).collect();
    assert_eq!(paths, ["extra/x", "extra", "index.html"]);
    let done = bench.content.repair(&www, root).unwrap();
    assert_eq!((done.set.len(), done.deleted.len(), done.bytes_aside), (1, 2, 7));
    assert_eq!(bench.root(), Some(root));
    let kept = bench.content.kept_aside(&www).unwrap();
    assert_eq!((kept.len(), kept[0].bytes), (1, 7));
    let edit = std::fs::read_to_string(kept[0].path.join("index.html")).unwrap();
    assert_eq!(edit, "edited");
    assert_eq!(bench.content.prune_aside(&www, 0, 0).unwrap(), 7);
    assert!(bench.content.kept_aside(&www).unwrap().is_empty());
}

#[test]
fn a_live_tree_that_is_gone_or_no_directory_is_put_back() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("index.html", "hello")]);
    bench.activate(1, root, &AppSpec::default());
    std::fs::remove_dir_all(bench.live()).unwrap();
    assert_eq!(bench.root(), None);
    assert_eq!(bench.content.scan(&www, false).unwrap().activated, 1);
    assert_eq!(text(&bench.content.site(&www).unwrap(), "index.html").unwrap(), "hello");
    assert_eq!(bench.content.repair(&www, root).unwrap().added.len(), 1);
    assert_eq!(bench.root(), Some(root));
    std::fs::remove_dir_all(bench.live()).unwrap();
    std::fs::write(bench.live(), "a file").unwrap();
    assert_eq!(bench.root(), None);
    let aside = bench.content.repair(&www, root).unwrap().aside.unwrap();
    assert_eq!(std::fs::read_to_string(aside.join("www")).unwrap(), "a file");
    assert_eq!(bench.root(), Some(root));
    std::fs::remove_file(bench.live().join("index.html")).unwrap();
    assert_eq!(bench.root(), None, "an empty tree holds nothing");
}

#[test]
fn a_site_serves_its_version_whatever_happens_to_the_live_tree() {
    let bench = Bench::new();
    let www = app("www");
    let one = bench.stage(&[("index.html", "one"), ("same", "s")]);
    let two = bench.stage(&[("index.html", "two"), ("same", "s")]);
    bench.activate(1, one, &AppSpec::default());
    let first = bench.content.site(&www).unwrap();
    let index = path("index.html");
    let content = |file: Option<File>| file.map(|f| std::io::read_to_string(f).unwrap());
    assert_eq!(content(first.open(&index)).as_deref(), Some("one"));
    assert!(first.open(&path("none")).is_none() && text(&first, "none").is_none());
    // Edited in place: the file that was open tells, and is not opened again.
    let open = first.open(&index).unwrap();
    assert!(first.unchanged(&index, &open));
    std::fs::write(bench.live().join("index.html"), "bad").unwrap();
    assert!(!first.unchanged(&index, &open));
    assert!(first.open(&index).is_none());
    assert_eq!(text(&first, "index.html").unwrap(), "one");
    assert!(first.open(&path("same")).is_some(), "others are not affected");
    // A scan that learns the edited file does not make it part of the version.
    bench.content.scan(&www, false).unwrap();
    assert!(bench.content.site(&www).unwrap().open(&index).is_none());
    // A link in its place is not followed.
    std::fs::remove_file(bench.live().join("same")).unwrap();
    symlink("index.html", bench.live().join("same")).unwrap();
    assert!(first.open(&path("same")).is_none());
    bench.activate(2, two, &AppSpec::default());
    let second = bench.content.site(&www).unwrap();
    assert_eq!((first.version(), second.version()), (1, 2));
    assert_eq!(content(second.open(&index)).as_deref(), Some("two"));
    assert_eq!(text(&first, "index.html").unwrap(), "one", "the page loaded before");
    let earlier =
        || -> Vec<u64> { bench.content.earlier(&www).iter().map(|site| site.version()).collect() };
    assert_eq!(earlier(), [1]);
    bench.activate(3, one, &AppSpec::default());
    assert_eq!(earlier(), [2, 1], "newest first");
    assert!(first.open(&index).is_none(), "its tree is gone");
    assert_eq!(text(&first, "index.html").unwrap(), "one");
}

#[test]
fn what_stood_at_the_path_before_us_is_kept() {
    let bench = Bench::new();
    let at = bench.dir.path().join("srv/www");
    write(&at, &[("precious", "p"), ("uploads/u", "u")]);
    let spec = AppSpec { path: at.to_str().map(str::to_owned), ..ignoring(&["/uploads/"]) };
    let root = bench.stage(&[("index.html", "hello")]);
    let done = bench.activate(1, root, &spec);
    assert_eq!(done.live, at);
    let kept = std::fs::read_to_string(done.before.unwrap().join("precious")).unwrap();
    assert_eq!(kept, "p");
    assert_eq!(std::fs::read_to_string(at.join("uploads/u")).unwrap(), "u");
    assert_eq!(bench.root(), Some(root));
    assert_eq!(bench.content.kept_aside(&app("www")).unwrap().len(), 1);
    let two = bench.stage(&[("index.html", "two"), ("more", "")]);
    assert_eq!(bench.activate(2, two, &spec).carried, [path("uploads")]);
    assert_eq!(bench.content.kept_aside(&app("www")).unwrap().len(), 1, "ours is not");
}

#[test]
fn paths_that_would_be_a_disaster_are_refused() {
    let bench = Bench::new();
    let root = bench.stage(&[("index.html", "hello")]);
    let inside = |name: &str| bench.dir.path().join(name).to_str().unwrap().to_owned();
    let good = AppSpec { path: Some(inside("srv/www")), ..AppSpec::default() };
    bench.content.activate(&app("other"), 1, 1, root, &good).unwrap();
    for bad in [
        "relative/path".to_owned(),
        "/".to_owned(),
        "/etc".to_owned(),
        "/srv/../etc".to_owned(),
        inside("state"),
        inside("live/x"),
        bench.dir.path().to_str().unwrap().to_owned(),
        inside("srv/www"),
        inside("srv/www/below"),
        inside("srv"),
    ] {
        let spec = AppSpec { path: Some(bad.clone()), ..AppSpec::default() };
        let refused = bench.content.activate(&app("www"), 1, 1, root, &spec);
        assert!(matches!(refused, Err(ContentError::Path { .. })), "{bad}");
    }
}

#[test]
fn a_majority_that_holds_other_content_can_make_it_a_version() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("index.html", "hello")]);
    let spec = ignoring(&["*.log"]);
    bench.activate(1, root, &spec);
    write(&bench.live(), &[("new", "n"), ("logs/x.log", "l")]);
    let held = bench.root().unwrap();
    let staged = bench.content.ingest_live(&www).unwrap();
    assert_eq!((staged.root, staged.files), (held, 2));
    assert!(bench.content.store().whole(&held).unwrap());
    bench.activate(2, held, &spec);
    assert_eq!(bench.root(), Some(held));
    assert_eq!(bench.read("logs/x.log").unwrap(), "l");
}

#[test]
fn what_another_cluster_had_decided_stands_and_is_not_served() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("index.html", "hello")]);
    bench.activate(5, root, &AppSpec::default());
    begin_anew(&bench.dir.path().join("state")).unwrap();
    let bench = bench.restarted();
    assert_eq!((bench.root(), bench.read("index.html").unwrap()), (Some(root), "hello".into()));
    assert!(bench.content.site(&www).is_none(), "its number is of another count");
    bench.activate(1, root, &AppSpec::default());
    assert_eq!(bench.content.site(&www).unwrap().version(), 1);
}

#[test]
fn garbage_collection_leaves_what_is_active() {
    let bench = Bench::new();
    let (one, two) = (bench.stage(&[("a", "1")]), bench.stage(&[("a", "2")]));
    bench.activate(1, one, &AppSpec::default());
    for _ in 0..3 {
        bench.content.retain(&BTreeSet::new()).unwrap(); // generations: see the store
    }
    assert!(bench.content.store().whole(&one).unwrap());
    assert!(!bench.content.store().whole(&two).unwrap());
}

/// The process dies at each step of a switch and starts again: what it says
/// is active is what is live, nothing ignored is lost, and it goes on.
#[test]
fn after_a_crash_at_any_step_the_state_and_the_live_tree_agree() {
    for linked in [false, true] {
        for crash_at in STEPS.into_iter().filter(|step| linked || *step != "named") {
            let bench = Bench::new();
            let spec = ignoring(&["/uploads/"]);
            let (one, two) = two_versions(&bench);
            if linked {
                write(bench.dir.path(), &[("first/x", "")]);
                std::fs::create_dir_all(bench.dir.path().join("live")).unwrap();
                symlink("../first", bench.live()).unwrap();
            }
            bench.activate(1, one, &spec);
            write(&bench.live(), &[("uploads/u", "u")]);
            let crashed =
                with_crash_at(crash_at, || bench.content.activate(&app("www"), 2, 12, two, &spec));
            let context = format!("linked {linked}, crash at {crash_at}");
            // Two of them are made good at once: recovering does not pass there.
            let made_good = ["switched", "carrying"].contains(&crash_at);
            assert_eq!(crashed.is_ok(), made_good, "{context}");
            let bench = bench.restarted();
            let active = bench.content.applications();
            let want = if active[0].version == 2 { two } else { one };
            assert_eq!(active[0].root, want, "{context}");
            assert_eq!(bench.root(), Some(want), "{context}");
            assert_eq!(bench.read("uploads/u").as_deref(), Some("u"), "{context}");
            assert_eq!(bench.content.site(&app("www")).unwrap().root(), want, "{context}");
            bench.activate(2, two, &spec);
            assert_eq!(bench.root(), Some(two), "{context}");
            assert_eq!(bench.read("uploads/u").as_deref(), Some("u"), "{context}");
        }
    }
}

/// A server that is adopted goes on with the tree that it had.
#[test]
fn what_stands_there_already_is_not_replaced_by_itself() {
    let bench = Bench::new();
    let files = [("a", "1"), ("b/c", "2")];
    let root = bench.stage(&files);
    write(&bench.live(), &files);
    write(&bench.live(), &[("uploads/x", "theirs")]);
    let before = state::inode_of(&bench.live());
    let spec = ignoring(&["/uploads"]);
    let signed = bench.content.sign(&bench.live(), &spec.ignore).unwrap();
    assert_eq!((signed.root, signed.files, signed.bytes), (root, 2, 2));
    bench.activate(1, root, &spec);
    assert_eq!(state::inode_of(&bench.live()), before);
    assert_eq!(bench.root(), Some(root));
    assert!(bench.content.kept_aside(&app("www")).unwrap().is_empty());
    let bench = bench.restarted();
    assert_eq!(bench.content.applications()[0].version, 1);

    // In a single byte something else: it is kept, as somebody's own tree always was.
    let bench = Bench::new();
    let root = bench.stage(&files);
    write(&bench.live(), &[("a", "2"), ("b/c", "2")]);
    bench.activate(1, root, &AppSpec::default());
    let kept = bench.content.kept_aside(&app("www")).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(bench.read("a").unwrap(), "1");
}
