use std::{
    fs::{File, FileTimes, Permissions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    base::{limits, tree::Node},
    driver::files::scan::leads_out,
};

fn publish(dir: &Path) -> Result<Scan, DriverError> {
    scan(dir, &IgnoreRules::none(), &mut StatCache::new(), PUBLISH, None)
}

#[test]
fn everything_that_can_be_published_is_in_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a/b/c", "1"), ("a-b", "2"), ("A-B", "3"), ("empty/", "")]);
    symlink("a/b", dir.path().join("link")).unwrap();
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n")), "odd").unwrap();
    std::fs::set_permissions(dir.path().join("a-b"), Permissions::from_mode(0o4640)).unwrap();
    std::fs::set_permissions(dir.path().join("a-b"), Permissions::from_mode(0o640)).unwrap();
    std::fs::set_permissions(dir.path().join("empty"), Permissions::from_mode(0o2751)).unwrap();
    std::fs::write(dir.path().join("althing.toml"), "name = 'x'").unwrap();
    let found = publish(dir.path()).unwrap();
    assert_eq!(found.tree.files(), 4);
    assert!(matches!(found.tree.get(&path("a-b")), Some(Node::File { mode: 0o640, size: 1, .. })));
    assert!(found.tree.get(&path("A-B")).is_some(), "names that differ in case are two");
    let empty = Some(&Node::Directory { mode: 0o751 });
    assert_eq!(found.tree.get(&path("empty")), empty, "setgid of a directory does not count");
    let link = Some(&Node::Symlink { target: b"a/b".to_vec() });
    assert_eq!(found.tree.get(&path("link")), link, "a link is not followed");
    assert!(found.tree.get(&path("althing.toml")).is_none());
    assert!(found.tree.get(&RelPath::parse(b"\xff\xfe\n").unwrap()).is_some());
    assert_eq!(found.bytes_read, 6);
}

#[test]
fn what_cannot_be_published_is_refused_by_name() {
    type Edit = fn(&Path);
    type Check = fn(&DriverError) -> bool;
    let cases: [(Edit, Check); 5] = [
        (|at| fifo(at), |e| matches!(e, DriverError::Strange { kind: "a pipe", .. })),
        (
            |at| drop(std::os::unix::net::UnixListener::bind(at).unwrap()),
            |e| matches!(e, DriverError::Strange { kind: "a socket", .. }),
        ),
        (
            |at| {
                std::fs::write(at, "x").unwrap();
                std::fs::set_permissions(at, Permissions::from_mode(0o4755)).unwrap();
            },
            |e| matches!(e, DriverError::Special { mode: 0o4755, .. }),
        ),
        (|at| symlink("/etc/passwd", at).unwrap(), |e| matches!(e, DriverError::LeadsOut { .. })),
        (|at| symlink("../../x", at).unwrap(), |e| matches!(e, DriverError::LeadsOut { .. })),
    ];
    for (edit, check) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("a/fine", "1")]);
        edit(&dir.path().join("a/culprit"));
        let error = publish(dir.path()).unwrap_err();
        assert!(check(&error), "{error}");
        assert!(error.to_string().contains("a/culprit"), "{error}");
        // The same in a live tree: no error, and never the same as without it.
        let rules = IgnoreRules::none();
        let live = scan(dir.path(), &rules, &mut StatCache::new(), LIVE, None).unwrap();
        std::fs::remove_file(dir.path().join("a/culprit")).unwrap();
        let without = scan(dir.path(), &rules, &mut StatCache::new(), LIVE, None).unwrap();
        assert_ne!(live.root(), without.root());
        assert!(without.strange.is_empty());
    }
}

#[test]
fn a_device_is_strange() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "1")]);
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let null = rustix::fs::makedev(1, 3);
    let at = dir.path().join("null");
    if rustix::fs::mknodat(rustix::fs::CWD, &at, kind, mode, null).is_err() {
        return; // only root may make one
    }
    assert!(matches!(publish(dir.path()), Err(DriverError::Strange { .. })));
    let rules = IgnoreRules::none();
    let live = scan(dir.path(), &rules, &mut StatCache::new(), LIVE, None).unwrap();
    assert_eq!(names(&live.strange), ["null"]);
}

#[test]
fn a_root_without_content_is_an_error_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(publish(&dir.path().join("none")), Err(DriverError::Absent(_))));
    std::fs::write(dir.path().join("althing.toml"), "").unwrap();
    assert!(matches!(publish(dir.path()), Err(DriverError::Empty(_))));
    let file = dir.path().join("althing.toml");
    assert!(matches!(publish(&file), Err(DriverError::NotDirectory(_))));
    let live = scan(dir.path(), &IgnoreRules::none(), &mut StatCache::new(), LIVE, None).unwrap();
    assert!(live.is_empty());
    assert_eq!(live.root(), Tree::empty_root());
}

#[test]
fn what_is_nested_too_deep_makes_its_directory_strange() {
    let dir = tempfile::tempdir().unwrap();
    let deep = vec!["d"; limits::DEPTH_MAX + 2].join("/");
    write(dir.path(), &[("fine", "1"), (&format!("{deep}/x"), "2")]);
    assert!(matches!(publish(dir.path()), Err(DriverError::Name { .. })));
    let rules = IgnoreRules::none();
    let live = scan(dir.path(), &rules, &mut StatCache::new(), LIVE, None).unwrap();
    assert_eq!(live.strange.len(), 1);
    assert_eq!(live.strange[0].components().count(), limits::DEPTH_MAX);
}

#[test]
fn links_that_lead_out_are_told_from_those_that_do_not() {
    for (at, target, out) in [
        ("a", "b", false),
        ("a", "../b", true),
        ("a/b", "../c", false),
        ("a/b", "../../c", true),
        ("a/b", "c/../../d", false),
        ("a/b", "c/../../../d", true),
        ("a/b", "./.././/x", false),
        ("a", "/x", true),
        ("a", "..", true),
        ("a", ".", false),
    ] {
        assert_eq!(leads_out(&path(at), target.as_bytes()), out, "{at} -> {target}");
    }
}

/// Sets the time of the last change back by waiting would take seconds: the
/// record is marked instead, as if the file had been at rest when it was read.
fn rested(cache: &StatCache, paths: &[&str]) -> StatCache {
    let mut rested = StatCache::new();
    for text in paths {
        let known = cache.get(&path(text)).unwrap().clone();
        rested.insert(path(text), cache::Known { settled: true, ..known });
    }
    rested
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the time stamp clock is the real one")]
fn a_quick_scan_reads_only_what_may_have_changed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "12345"), ("b", "123")]);
    let rules = IgnoreRules::none();
    let mut cache = StatCache::new();
    let first = scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap();
    assert_eq!(first.bytes_read, 8);
    let again = scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap();
    assert_eq!(again.bytes_read, 8, "what was just written is read again");
    let mut cache = rested(&cache, &["a", "b"]);
    let quick = scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap();
    assert_eq!((quick.bytes_read, quick.root()), (0, first.root()));
    // The same size, and the modification time set back: the change time tells.
    let at = dir.path().join("b");
    let modified = std::fs::metadata(&at).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(15)); // one tick of the file system's clock
    std::fs::write(&at, "321").unwrap();
    File::options()
        .write(true)
        .open(&at)
        .unwrap()
        .set_times(FileTimes::new().set_modified(modified))
        .unwrap();
    let edited = scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap();
    assert_eq!(edited.bytes_read, 3);
    assert_ne!(edited.root(), first.root());
    let full = scan(dir.path(), &rules, &mut cache, FULL, None).unwrap();
    assert_eq!((full.bytes_read, full.root()), (8, edited.root()));
    std::fs::remove_file(dir.path().join("a")).unwrap();
    scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap();
    assert!(cache.get(&path("a")).is_none(), "what is gone is forgotten");
}

#[test]
fn what_the_sink_holds_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "one"), ("b", "two")]);
    let (mut store, mut cache) = (Memory::default(), StatCache::new());
    let publish = |cache: &mut StatCache, store: &mut Memory| {
        let sink: &mut dyn FileSink = store;
        scan(dir.path(), &IgnoreRules::none(), cache, PUBLISH, Some(sink)).unwrap().tree
    };
    let tree = publish(&mut cache, &mut store);
    assert_eq!(store.files, 2);
    let mut cache = rested(&cache, &["a", "b"]);
    assert_eq!(publish(&mut cache, &mut store).root(), tree.root());
    assert_eq!(store.files, 2, "nothing was read");
    // What the store has lost is read again, whatever is known of the file.
    store.chunks.remove(&Digest::of_bytes(b"two"));
    assert_eq!(publish(&mut rested(&cache, &["a", "b"]), &mut store).root(), tree.root());
    assert_eq!(store.files, 3);
}

#[test]
fn a_full_scan_does_not_believe_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "12345")]);
    let rules = IgnoreRules::none();
    let mut cache = StatCache::new();
    let truth = scan(dir.path(), &rules, &mut cache, LIVE, None).unwrap().root();
    let known = cache.get(&path("a")).unwrap().clone();
    let digest = Digest::of_bytes(b"lie");
    cache.insert(path("a"), cache::Known { digest, settled: true, ..known });
    let quick = scan(dir.path(), &rules, &mut cache.clone(), LIVE, None).unwrap();
    assert_ne!(quick.root(), truth);
    assert_eq!(scan(dir.path(), &rules, &mut cache, FULL, None).unwrap().root(), truth);
}

/// Appends to the file each time that it is read.
struct Meddler<'a> {
    at: &'a Path,
    times: u32,
}

impl FileSink for Meddler<'_> {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        let taken = Memory::default().file(reader);
        if self.times > 0 {
            self.times -= 1;
            File::options().append(true).open(self.at).unwrap().write_all(b"more").unwrap();
        }
        taken
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_once_more_and_then_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "1")]);
    let at = dir.path().join("a");
    let rules = IgnoreRules::none();
    let mut meddler = Meddler { at: &at, times: 1 };
    let mut cache = StatCache::new();
    let once = scan(dir.path(), &rules, &mut cache, PUBLISH, Some(&mut meddler)).unwrap();
    assert_eq!(once.tree.bytes(), 5);
    let before = cache.clone();
    let mut meddler = Meddler { at: &at, times: 2 };
    let error = scan(dir.path(), &rules, &mut cache, PUBLISH, Some(&mut meddler)).unwrap_err();
    assert!(matches!(&error, DriverError::Changing(p) if *p == at), "{error}");
    assert_eq!(cache, before, "an error leaves what was known");
    let mut meddler = Meddler { at: &at, times: 2 };
    let live = scan(dir.path(), &rules, &mut cache, LIVE, Some(&mut meddler)).unwrap();
    assert_eq!(live.tree.files(), 1);
    assert!(cache.is_empty(), "what did not hold still is not remembered");
}

#[test]
fn ignored_things_do_not_count_and_their_shells_count_only_where_expected() {
    let bench = Bench::ignoring(&["*.log", "/uploads/"]);
    write(&bench.live(), &[("a/x", "1"), ("a/y.log", "2"), ("b/c/z.log", "3"), ("uploads/u", "4")]);
    let mut found = bench.scan(LIVE, &mut StatCache::new());
    assert_eq!(names(&found.shells), ["b", "b/c"]);
    assert_eq!(found.bytes_read, 1);
    let mut other = Bench::new();
    let without = other.version(&[("a/x", "1")]);
    let with = other.version(&[("a/x", "1"), ("b/c/", "")]);
    let mut fitted = found.clone();
    fitted.fit(&with).unwrap();
    assert_eq!(fitted.root(), with.root());
    found.fit(&without).unwrap();
    assert_eq!(found.root(), without.root());
    let plain = Bench::new();
    write(&plain.live(), &[("a/x", "1"), ("b/c/", "")]);
    let mut plain = plain.scan(LIVE, &mut StatCache::new());
    plain.fit(&without).unwrap();
    assert_ne!(plain.root(), without.root(), "an empty directory is drift");
}

#[test]
fn a_large_file_is_cut_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let size = limits::CHUNK_MAX * 2 + 7;
    std::fs::write(dir.path().join("big"), vec![7; size]).unwrap();
    let found = publish(dir.path()).unwrap();
    let Some(Node::File { digest, chunks, .. }) = found.tree.get(&path("big")) else { panic!() };
    assert_eq!(*digest, Digest::of_bytes(&vec![7; size]));
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[2].len, 7);
}

#[test]
fn a_file_without_read_permission_is_named() {
    if rustix::process::geteuid().is_root() {
        return; // root reads everything
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a", "1")]);
    std::fs::set_permissions(dir.path().join("a"), Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(publish(dir.path()), Err(DriverError::Unreadable { .. })));
}

#[test]
fn five_thousand_files_and_how_long_they_take() {
    let mut bench = Bench::new();
    let source = tempfile::tempdir().unwrap();
    let content = "x".repeat(2_000);
    for n in 0..5_000 {
        let name = format!("d{}/e{}/f{n}", n % 50, n % 7);
        write(source.path(), &[(&name, &content)]);
    }
    let timed = |what: &str, began: SystemTime| {
        println!("{what}: {:?}", began.elapsed().unwrap_or_default());
    };
    let rules = IgnoreRules::none();
    let began = SystemTime::now();
    let sink: &mut dyn FileSink = &mut bench.store;
    let tree =
        scan(source.path(), &rules, &mut StatCache::new(), PUBLISH, Some(sink)).unwrap().tree;
    timed("ingest", began);
    let began = SystemTime::now();
    let (placed, _) = bench.activate(&tree);
    timed("place and switch", began);
    let mut cache = placed.cache;
    let began = SystemTime::now();
    let quick = bench.scan(LIVE, &mut cache);
    timed("quick scan", began);
    assert_eq!((quick.bytes_read, quick.root()), (0, tree.root()));
    let began = SystemTime::now();
    assert_eq!(bench.scan(FULL, &mut cache).root(), tree.root());
    timed("full scan", began);
}

/// A sink that swaps something in when it is given the first file.
struct Swapping<'a> {
    swap: Option<Box<dyn FnOnce() + 'a>>,
    inner: Memory,
}

impl FileSink for Swapping<'_> {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        if let Some(swap) = self.swap.take() {
            swap();
        }
        self.inner.file(reader)
    }
}

#[test]
fn what_is_swapped_in_while_the_source_is_read_is_not_followed() {
    type Swap = fn(&Path, &Path);
    let swaps: [(&str, Swap); 4] = [
        ("a directory for a link", |at, outside| {
            std::fs::rename(at.join("d"), at.join("../gone")).unwrap();
            symlink(outside, at.join("d")).unwrap();
        }),
        ("a file for a link", |at, outside| {
            std::fs::remove_file(at.join("b")).unwrap();
            symlink(outside.join("secret"), at.join("b")).unwrap();
        }),
        ("a file for a pipe", |at, _| {
            std::fs::remove_file(at.join("b")).unwrap();
            fifo(&at.join("b"));
        }),
        ("a file for a setuid one", |at, _| {
            std::fs::set_permissions(at.join("b"), Permissions::from_mode(0o4755)).unwrap();
        }),
    ];
    for (name, swap) in swaps {
        let dir = tempfile::tempdir().unwrap();
        let (source, outside) = (dir.path().join("source"), dir.path().join("outside"));
        write(&outside, &[("secret", "secret"), ("x", "secret")]);
        write(&source, &[("a", "1"), ("b", "2"), ("d/x", "3")]);
        let mut sink =
            Swapping { swap: Some(Box::new(|| swap(&source, &outside))), inner: Memory::default() };
        let rules = IgnoreRules::none();
        let taken = scan(&source, &rules, &mut StatCache::new(), PUBLISH, Some(&mut sink));
        let error = taken.expect_err(name);
        let named = ["source/b", "source/d"].iter().any(|at| error.to_string().contains(at));
        assert!(named, "{name}: {error}");
        let secret = Digest::of_bytes(b"secret");
        assert!(!sink.inner.chunks.contains_key(&secret), "{name}: it was read");
        // A scan of a live tree goes on, and does not see it either.
        let mut sink = Swapping { swap: None, inner: Memory::default() };
        let live = scan(&source, &rules, &mut StatCache::new(), LIVE, Some(&mut sink)).unwrap();
        assert!(!sink.inner.chunks.contains_key(&secret), "{name}: it was read");
        assert!(live.tree.get(&path("d/x")).is_none() || !name.contains("directory"), "{name}");
    }
}
