use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::base::{
    limits,
    tree::{Entry, Node},
};

fn file(text: &str, content: &[u8], mode: u16) -> Entry {
    let digest = Digest::of_bytes(content);
    let chunks = vec![Chunk { digest, len: content.len() as u32 }];
    let node = Node::File { mode, size: content.len() as u64, digest, chunks };
    Entry { path: path(text), node }
}

fn dir(text: &str, mode: u16) -> Entry {
    Entry { path: path(text), node: Node::Directory { mode } }
}

fn holding(contents: &[&[u8]]) -> Memory {
    let mut store = Memory::default();
    for content in contents {
        store.file(&mut &content[..]).unwrap();
    }
    store
}

#[test]
fn a_tree_is_placed_with_all_its_modes_and_its_scan_reads_nothing() {
    let at = tempfile::tempdir().unwrap();
    let into = at.path().join("next");
    let entries = vec![
        dir("closed", 0o555),
        file("closed/x", b"1", 0o400),
        dir("empty", 0o700),
        file("run", b"22", 0o755),
        Entry { path: path("link"), node: Node::Symlink { target: b"closed/x".to_vec() } },
    ];
    let tree = Tree::new(entries).unwrap();
    let mut placed = place(&tree, &holding(&[b"1", b"22"]), None, &into).unwrap();
    assert_eq!((placed.files, placed.bytes), (2, 3));
    let rules = IgnoreRules::none();
    let found = scan(&into, &rules, &mut placed.cache, LIVE, None).unwrap();
    assert_eq!((found.root(), found.bytes_read), (tree.root(), 0));
    assert_eq!(std::fs::metadata(into.join("closed")).unwrap().mode() & 0o7777, 0o555);
    assert!(place(&tree, &holding(&[b"1", b"22"]), None, &into).is_err(), "only a fresh place");
    beneath::remove_all(&into).unwrap();
}

#[test]
fn content_without_its_signature_is_never_placed() {
    let at = tempfile::tempdir().unwrap();
    let tree = Tree::new(vec![file("a", b"right", 0o644)]).unwrap();
    let mut store = Memory::default();
    store.chunks.insert(Digest::of_bytes(b"right"), b"wrong".to_vec());
    let error = place(&tree, &store, None, &at.path().join("1")).unwrap_err();
    assert!(matches!(error, DriverError::Corrupt(_)));
    store.chunks.insert(Digest::of_bytes(b"right"), b"right and longer".to_vec());
    let error = place(&tree, &store, None, &at.path().join("2")).unwrap_err();
    assert!(matches!(error, DriverError::Corrupt(_)));
    // Whole chunks that are not those of the file.
    let chunk = Chunk { digest: Digest::of_bytes(b"other"), len: 5 };
    let node = Node::File {
        mode: 0o644,
        size: 5,
        digest: Digest::of_bytes(b"right"),
        chunks: vec![chunk],
    };
    let tree = Tree::new(vec![Entry { path: path("a"), node }]).unwrap();
    let error = place(&tree, &holding(&[b"other"]), None, &at.path().join("3")).unwrap_err();
    assert!(matches!(error, DriverError::Corrupt(_)));
    assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn a_link_that_leads_out_is_refused_even_if_it_was_published() {
    let at = tempfile::tempdir().unwrap();
    for target in [&b"/etc"[..], b"../x"] {
        let node = Node::Symlink { target: target.to_vec() };
        let tree = Tree::new(vec![Entry { path: path("a"), node }]).unwrap();
        let into = at.path().join(Digest::of_bytes(target).short());
        let error = place(&tree, &Memory::default(), None, &into).unwrap_err();
        assert!(matches!(error, DriverError::LeadsOut { .. }));
    }
}

/// A source that puts a link in the place of a directory when it is asked
/// for the content of the file in it.
struct Swapper<'a> {
    directory: PathBuf,
    outside: &'a Path,
    store: Memory,
}

impl ChunkSource for Swapper<'_> {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        if self.directory.is_dir() && !self.directory.is_symlink() {
            std::fs::rename(&self.directory, self.directory.with_extension("gone")).unwrap();
            symlink(self.outside, &self.directory).unwrap();
        }
        self.store.chunk(chunk)
    }
}

#[test]
fn a_link_swapped_in_while_writing_leads_nowhere() {
    let at = tempfile::tempdir().unwrap();
    let outside = at.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let into = at.path().join("next");
    let tree = Tree::new(vec![
        file("0", b"first", 0o644),
        dir("d", 0o755),
        dir("d/e", 0o755),
        file("d/e/x", b"second", 0o666),
        file("d/y", b"second", 0o666),
    ])
    .unwrap();
    let store = holding(&[b"first", b"second"]);
    // Swapped while d/e/x is written: d/y must not follow.
    let swapper = Swapper { directory: into.join("d"), outside: &outside, store };
    let error = place(&tree, &swapper, None, &into).unwrap_err();
    assert!(matches!(error, DriverError::InTheWay(_)), "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(std::fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn sharing_with_the_live_tree_is_verified_or_falls_back() {
    let mut bench = Bench::new();
    let one = bench.version(&[("a", "same"), ("b", "old")]);
    let (placed, _) = bench.activate(&one);
    let two = bench.version(&[("a", "same"), ("b", "new")]);
    let into = bench.dir.path().join("next");
    let live = bench.live();
    let reuse = Reuse { live: &live, cache: &placed.cache };
    let placed = place(&two, &bench.store, Some(reuse), &into).unwrap();
    assert!(placed.shared <= 1, "only what is the same can be shared");
    let mut cache = placed.cache;
    let found = scan(&into, &bench.rules, &mut cache, FULL, None).unwrap();
    assert_eq!(found.root(), two.root());
}

#[test]
fn a_full_disk_is_told_apart() {
    let store = holding(&[b"1"]);
    let digest = Digest::of_bytes(b"1");
    let mut full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let chunks = [Chunk { digest, len: 1 }];
    let at = Path::new("next/a");
    let error = place::fill(&mut full, &path("a"), at, (&digest, &chunks), &store).unwrap_err();
    assert!(error.is_full(), "{error}");
}

/// A file system that takes two names for one, as far as one that does not can play it:
/// the other name is there when its turn comes.
#[test]
fn two_names_that_are_one_to_the_file_system_are_refused_by_name() {
    let at = tempfile::tempdir().unwrap();
    let into = at.path().join("next");
    let nodes = [
        file("b", b"2", 0o644).node,
        Node::Directory { mode: 0o755 },
        Node::Symlink { target: b"a".to_vec() },
    ];
    for node in nodes {
        let twin = Entry { path: path("b"), node };
        let tree = Tree::new(vec![file("a", b"1", 0o644), twin]).unwrap();
        let store = holding(&[b"1", b"2"]);
        let twin = into.join("b");
        let error = place(&tree, &Twin { twin, store }, None, &into).unwrap_err();
        assert!(matches!(&error, DriverError::Twins(at) if at.ends_with("b")), "{error}");
        assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 0, "nothing is left of it");
    }
}

struct Twin {
    twin: PathBuf,
    store: Memory,
}

impl ChunkSource for Twin {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        std::fs::write(&self.twin, "the same to it").unwrap();
        self.store.chunk(chunk)
    }
}

/// The real thing, where the temporary directory is on such a file system.
#[test]
fn names_that_differ_by_case_are_two_or_refused() {
    let at = tempfile::tempdir().unwrap();
    std::fs::write(at.path().join("case"), "").unwrap();
    let tells = !at.path().join("CASE").exists();
    let into = at.path().join("next");
    let tree = vec![dir("d", 0o755), file("d/A", b"1", 0o644), file("d/a", b"2", 0o644)];
    let tree = Tree::new(tree).unwrap();
    let placed = place(&tree, &holding(&[b"1", b"2"]), None, &into);
    if tells {
        assert_eq!(placed.unwrap().files, 2);
        std::fs::remove_dir_all(&into).unwrap();
    } else {
        is_refused(placed, &into);
    }
    // Where two names are one, whoever has written the first finds the second there.
    let folding = Folding { below: at.path().to_owned(), chunks: holding(&[b"1", b"2"]) };
    is_refused(place(&tree, &folding, None, &into), &into);
}

fn is_refused(placed: Result<Placed, DriverError>, into: &Path) {
    let error = placed.unwrap_err();
    let DriverError::Twins(which) = &error else { panic!("{error}") };
    assert!(which.ends_with("d/a"), "{error}");
    assert!(!into.exists(), "nothing is left of it");
}

/// A store on a file system that takes `A` and `a` for one: what has the one has the other.
struct Folding<S> {
    below: PathBuf,
    chunks: S,
}

impl<S: ChunkSource> ChunkSource for Folding<S> {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        // It is asked for the content of a file once that is there.
        let mut within = vec![self.below.clone()];
        while let Some(directory) = within.pop() {
            for entry in std::fs::read_dir(&directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    within.push(entry.path());
                } else if entry.file_name() == "A" {
                    std::fs::write(directory.join("a"), "").unwrap();
                }
            }
        }
        self.chunks.chunk(chunk)
    }
}

/// A file system of a thousand inodes, in a mount namespace of its own, and a thousand files.
#[test]
fn more_files_than_there_are_inodes_are_refused_before_one_is_written() {
    const INSIDE: &str = "ALTHING_TEST_INODES";
    if let Ok(at) = std::env::var(INSIDE) {
        return run_out_of_inodes(Path::new(&at));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o nr_inodes=1000 none \"$1\" && exec \"$2\" --exact \
                  driver::files::tests::placing::\
                  more_files_than_there_are_inodes_are_refused_before_one_is_written";
    let unshared = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(dir.path()).arg(std::env::current_exe().unwrap()).env(INSIDE, dir.path());
        command.status().is_ok_and(|status| status.success())
    };
    if !unshared("mount -t tmpfs none \"$1\"") {
        eprintln!("no file systems may be mounted here: not tried");
        return;
    }
    assert!(unshared(script), "the test inside failed");
}

fn run_out_of_inodes(at: &Path) {
    let empty = |n: usize| Entry {
        path: path(&format!("page-{n}")),
        node: Node::File { mode: 0o644, size: 0, digest: Digest::of_bytes(b""), chunks: vec![] },
    };
    let free = || rustix::fs::statvfs(at).unwrap().f_favail;
    let before = free();
    let large = (0..before as usize + 1).map(empty).chain([file("first", b"1", 0o644)]);
    let large = Tree::new(large.collect()).unwrap();
    let error = place(&large, &Untouched, None, &at.join("next")).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(free(), before, "the disk is as it was");
    let fits = Tree::new((0..100).map(empty).collect()).unwrap();
    assert_eq!(place(&fits, &Memory::default(), None, &at.join("next")).unwrap().files, 100);
}

#[test]
fn a_tree_that_cannot_fit_is_refused_before_anything_is_written() {
    let at = tempfile::tempdir().unwrap();
    // A megabyte in the store, and a terabyte as a file.
    let piece = vec![0; limits::CHUNK_MAX];
    let chunk = Chunk { digest: Digest::of_bytes(&piece), len: limits::CHUNK_MAX as u32 };
    let chunks = vec![chunk; (limits::FILE_MAX / limits::CHUNK_MAX as u64) as usize];
    let digest = Digest::of_bytes(b"whatever it would be");
    let node = Node::File { mode: 0o644, size: limits::FILE_MAX, digest, chunks };
    let mut entries: Vec<Entry> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .map(|name| Entry { path: path(name), node: node.clone() })
        .collect();
    entries.push(file("first", b"1", 0o644));
    let tree = Tree::new(entries).unwrap();
    let error = place(&tree, &Untouched, None, &at.path().join("next")).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 0);
}

struct Untouched;

impl ChunkSource for Untouched {
    fn chunk(&self, _: &Chunk) -> Result<Vec<u8>, DriverError> {
        panic!("nothing is to be read")
    }
}
