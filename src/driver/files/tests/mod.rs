//! The files driver as a whole, on real directories.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    base::{
        Digest,
        tree::{Chunk, Tree, changes},
    },
    driver::{Mode, Purpose},
};

mod placing;
mod repairing;
mod scanning;
mod switching;

pub(super) const PUBLISH: How = How { mode: Mode::Quick, purpose: Purpose::Publish };
pub(super) const LIVE: How = How { mode: Mode::Quick, purpose: Purpose::Live };
pub(super) const FULL: How = How { mode: Mode::Full, purpose: Purpose::Live };

/// A store in memory: cuts at 1,000 bytes.
#[derive(Default)]
pub(super) struct Memory {
    pub chunks: BTreeMap<Digest, Vec<u8>>,
    pub files: u64,
}

impl FileSink for Memory {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|e| DriverError::Store(Box::new(e)))?;
        let mut chunks = Vec::new();
        for piece in bytes.chunks(1_000) {
            let digest = Digest::of_bytes(piece);
            self.chunks.insert(digest, piece.to_vec());
            chunks.push(Chunk { digest, len: piece.len() as u32 });
        }
        self.files += 1;
        Ok((Digest::of_bytes(&bytes), bytes.len() as u64, chunks))
    }

    fn holds(&mut self, chunks: &[Chunk]) -> Result<bool, DriverError> {
        Ok(chunks.iter().all(|chunk| self.chunks.contains_key(&chunk.digest)))
    }
}

impl ChunkSource for Memory {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, DriverError> {
        self.chunks.get(&chunk.digest).cloned().ok_or_else(|| DriverError::Store("missing".into()))
    }
}

/// A place with a source of content, a store and a live path.
pub(super) struct Bench {
    pub dir: tempfile::TempDir,
    pub store: Memory,
    pub rules: IgnoreRules,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, store: Memory::default(), rules: IgnoreRules::none() }
    }

    pub fn ignoring(patterns: &[&str]) -> Self {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Self { rules: IgnoreRules::new(&patterns).unwrap(), ..Self::new() }
    }

    pub fn live(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    /// The tree with these files, ingested. A name that ends in `/` is an
    /// empty directory.
    pub fn version(&mut self, files: &[(&str, &str)]) -> Tree {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), files);
        let mut cache = StatCache::new();
        let sink: &mut dyn FileSink = &mut self.store;
        scan(source.path(), &IgnoreRules::none(), &mut cache, PUBLISH, Some(sink)).unwrap().tree
    }

    /// Places and switches; returns what became of the tree before.
    pub fn activate(&self, tree: &Tree) -> (Placed, Retired) {
        let live = self.live();
        let work = WorkDir::open(&live).unwrap();
        work.clear().unwrap();
        let placed = place(tree, &self.store, None, &work.next()).unwrap();
        let retired = switch(&live, &work.next(), &self.rules, false).unwrap();
        (placed, retired)
    }

    pub fn scan(&self, how: How, cache: &mut StatCache) -> Scan {
        scan(&self.live(), &self.rules, cache, how, None).unwrap()
    }

    /// Repairs the live tree to `want` and says what was done.
    pub fn repair(&self, want: &Tree) -> Repaired {
        let mut scan = self.scan(LIVE, &mut StatCache::new());
        scan.fit(want).unwrap();
        let aside = WorkDir::open(&self.live()).unwrap().aside();
        let list = changes(&scan.tree, want);
        repair(&self.live(), &list, &scan.strange, &self.store, &aside).unwrap()
    }

    /// The root of what is live, as the vote would see it for `want`.
    pub fn root(&self, want: &Tree) -> Digest {
        let mut scan = self.scan(FULL, &mut StatCache::new());
        scan.fit(want).unwrap();
        scan.root()
    }

    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.live().join(path)).ok()
    }
}

pub(super) fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(path).unwrap();
            continue;
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

pub(super) fn fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

pub(super) fn names(paths: &[RelPath]) -> Vec<String> {
    paths.iter().map(RelPath::to_string).collect()
}

#[test]
fn the_driver_takes_a_tree_from_one_place_to_another() {
    let mut bench = Bench::new();
    let want = bench.version(&[("index.html", "hello"), ("a/b", "x")]);
    bench.activate(&want);
    std::fs::write(bench.live().join("index.html"), "edited").unwrap();
    std::fs::write(bench.live().join("extra"), "e").unwrap();
    let mut files = Files::new(bench.live(), bench.rules.clone(), StatCache::new());
    let have = files.scan(LIVE, None).unwrap();
    let done = files.apply(&changes(&have.tree, &want), &have.strange, &bench.store).unwrap();
    assert_eq!(names(&done.set), ["index.html"]);
    assert_eq!(names(&done.deleted), ["extra"]);
    assert_eq!(files.scan(LIVE, None).unwrap().root(), want.root());
    let mut text = String::new();
    files.read(&path("index.html")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(files.read(&path("a")).is_err(), "a directory has no content");
}
