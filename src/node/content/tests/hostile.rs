//! Hostile content that has come as far as the store, and hostile hands in the live
//! tree: nothing leads out of it, and what is refused leaves the disk as it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::base::tree::{Entry, Node};

/// Everything below `dir` with what it is: its mode, and its bytes or target.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let place = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&place).unwrap();
            let bytes = if meta.is_dir() {
                todo.push(place.clone());
                Vec::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&place).unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&place).unwrap()
            };
            all.insert(place, (meta.mode(), bytes));
        }
    }
    all
}

impl Bench {
    /// Version 1 is live, and files stand outside of it.
    fn with_outside() -> (Self, PathBuf) {
        let bench = Self::new();
        let root = bench.stage(&[("a", "1"), ("d/x", "1"), ("d/y", "1")]);
        bench.activate(1, root, &ignoring(&["*.log"]));
        let outside = bench.dir.path().join("outside");
        write(&outside, &[("x", "precious"), ("y", "precious"), ("app.log", "precious")]);
        (bench, outside)
    }

    /// All but the store: what is live, what is beside it, what is remembered, what
    /// stands outside.
    fn disk(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = everything(self.dir.path());
        all.retain(|path, _| !path.starts_with(self.dir.path().join("content")));
        all
    }

    /// Stores a file with these bytes as a listing says it.
    fn file(&self, at: &str, bytes: &[u8]) -> Entry {
        let store = self.content.store();
        let mut writer = store.writer();
        let (digest, size, chunks) = store.ingest_file(&mut writer, bytes).unwrap();
        writer.commit().unwrap();
        Entry { path: path(at), node: Node::File { mode: 0o644, size, digest, chunks } }
    }
}

fn link(at: &str, target: &[u8]) -> Entry {
    Entry { path: path(at), node: Node::Symlink { target: target.to_vec() } }
}

fn folder(at: &str) -> Entry {
    Entry { path: path(at), node: Node::Directory { mode: 0o755 } }
}

/// What no Althing publishes may come from a member that lies to those who vote, or
/// from a store that somebody has written to.
#[test]
fn a_hostile_listing_is_refused_and_the_disk_is_as_it_was() {
    let (bench, outside) = Bench::with_outside();
    let target = outside.into_os_string().into_encoded_bytes();
    let cases = [
        ("an absolute link", vec![link("l", &target)], "outside of the tree"),
        (
            "one that climbs",
            vec![folder("d"), link("d/l", b"../../outside")],
            "outside of the tree",
        ),
        ("a link with a NUL in it", vec![link("l", b"a\0b")], "can't write"),
        ("an empty link", vec![link("l", b"")], "can't write"),
        ("what it ignores", vec![bench.file("debug.log", b"x")], "ignored by its own patterns"),
    ];
    for (name, hostile, why) in cases {
        // More than one file differs, so whole trees would be exchanged; and only one.
        for more in [vec![bench.file("a", b"2"), bench.file("b", b"2")], Vec::new()] {
            let mut entries = hostile.clone();
            if more.is_empty() {
                let (root, _) = (bench.content.applications()[0].root, ());
                let live = bench.content.store().tree(&root).unwrap().unwrap();
                let free = |e: &&Entry| hostile.iter().all(|h| h.path != e.path);
                entries.extend(live.entries().filter(free).cloned());
            }
            entries.extend(more);
            let root = bench.content.store().put_tree(&Tree::new(entries).unwrap()).unwrap();
            let before = bench.disk();
            let spec = ignoring(&["*.log"]);
            let error = bench.content.activate(&app("www"), 2, 12, root, &spec).unwrap_err();
            assert!(error.to_string().contains(why), "{name}: {error}");
            assert_eq!(bench.disk(), before, "{name}");
        }
    }
    let root = bench.stage(&[("a", "3"), ("b", "3")]);
    bench.activate(2, root, &ignoring(&["*.log"]));
    assert_eq!(bench.root(), Some(root), "and what is good comes through after it");
}

/// A listing of files that the store holds in a few bytes.
#[test]
fn a_version_larger_than_the_disk_is_refused_before_it_is_written() {
    let (bench, _) = Bench::with_outside();
    let bytes = vec![0; crate::base::limits::CHUNK_MAX];
    let Node::File { chunks, .. } = bench.file("z", &bytes).node else { panic!() };
    let times = 1 << 20;
    let size = u64::from(chunks[0].len) * times;
    let digest = Digest::of_bytes(b"nobody has ever read all of it");
    let chunks = vec![chunks[0]; times as usize];
    let node = Node::File { mode: 0o644, size, digest, chunks };
    let entries = vec![Entry { path: path("a"), node }, bench.file("b", b"2")];
    let root = bench.content.store().put_tree(&Tree::new(entries).unwrap()).unwrap();
    let before = bench.disk();
    let error = bench.content.activate(&app("www"), 2, 12, root, &AppSpec::default()).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(bench.disk(), before);
}

/// Somebody with rights in the live tree puts a link in the place of a directory
/// right before the trees change places, and right before a repair.
#[test]
fn a_directory_swapped_for_a_link_leads_no_switch_and_no_repair_out() {
    for keep in [false, true] {
        let (bench, outside) = Bench::with_outside();
        write(&bench.live(), &[("d/app.log", "log"), ("d/x", "edited")]);
        let before = everything(&outside);
        let (live, at) = (bench.live(), outside.clone());
        BEFORE_SWITCH.set(Some(Box::new(move || {
            std::fs::rename(live.join("d"), live.join("moved")).unwrap();
            symlink(at, live.join("d")).unwrap();
        })));
        let root = bench.stage(&[("a", "2"), ("d/x", "2"), ("d/y", "2")]);
        let (www, spec) = (app("www"), ignoring(&["*.log"]));
        bench.content.activate_with(&www, 2, 12, root, &spec, Terms::keeping(keep)).unwrap();
        assert_eq!(everything(&outside), before, "nothing came from there or went there");
        let repaired = bench.content.repair(&www, root);
        assert!(repaired.is_ok(), "{repaired:?}");
        assert_eq!(bench.root(), Some(root));
        assert_eq!(bench.read("d/x").as_deref(), Some("2"));
        assert!(!bench.live().join("d").is_symlink());
        assert_eq!(everything(&outside), before);
        // And now a repair finds the link: it is kept as a link, and never as what it leads to.
        std::fs::rename(bench.live().join("d"), bench.dir.path().join("taken")).unwrap();
        symlink(&outside, bench.live().join("d")).unwrap();
        bench.content.repair(&www, root).unwrap();
        assert_eq!((bench.root(), everything(&outside)), (Some(root), before));
    }
}

/// The live path itself is turned to somewhere else: that is the operator's to do, and
/// what is there is kept as it is.
#[test]
fn a_live_path_turned_elsewhere_is_not_written_through() {
    let (bench, outside) = Bench::with_outside();
    let before = everything(&outside);
    let (live, at) = (bench.live(), outside.clone());
    BEFORE_SWITCH.set(Some(Box::new(move || {
        std::fs::rename(&live, live.with_extension("moved")).unwrap();
        symlink(at, &live).unwrap();
    })));
    let (root, spec) = (bench.stage(&[("a", "2"), ("b", "2")]), AppSpec::default());
    let _either_way = bench.content.activate(&app("www"), 2, 12, root, &spec);
    let _either_way = bench.content.repair(&app("www"), root);
    assert_eq!(everything(&outside), before);
    bench.activate(3, root, &spec);
    assert_eq!((bench.root(), everything(&outside)), (Some(root), before));
}

/// What no version can hold, put into the live tree by hand.
#[test]
fn strange_things_in_the_live_tree_are_taken_away_and_never_opened() {
    let (bench, outside) = Bench::with_outside();
    let root = bench.content.applications()[0].root;
    let live = bench.live();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let kind = rustix::fs::FileType::Fifo;
    // Whoever opened it to read would wait for ever.
    rustix::fs::mknodat(rustix::fs::CWD, live.join("d/pipe"), kind, mode, 0).unwrap();
    std::fs::remove_file(live.join("a")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, live.join("a"), kind, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(live.join("socket")).unwrap();
    std::fs::set_permissions(live.join("d/x"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    symlink("/", live.join("d/up")).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    let made = rustix::fs::mknodat(rustix::fs::CWD, live.join("null"), kind, mode, device);
    let before = everything(&outside);
    assert_ne!(bench.root(), Some(root));
    let done = bench.content.repair(&app("www"), root).unwrap();
    assert_eq!((bench.root(), everything(&outside)), (Some(root), before));
    let expected = 5 + usize::from(made.is_ok()); // pipes, socket, link, setuid file, device
    assert!(done.deleted.len() + done.set.len() + done.added.len() >= expected, "{done:?}");
    let mode = std::fs::metadata(live.join("d/x")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o644);
    // Nor does a copy of what was kept bring them back to life.
    let number = bench.content.kept_aside(&app("www")).unwrap()[0].number;
    let out = bench.dir.path().join("out");
    let copied = bench.content.copy_out(&app("www"), number, &out).unwrap().unwrap();
    assert!(copied.left_out.len() >= 3, "{copied:?}");
    let mode = std::fs::metadata(out.join("d/x")).unwrap().mode();
    assert_eq!(mode & 0o7000, 0, "no setuid");
}
