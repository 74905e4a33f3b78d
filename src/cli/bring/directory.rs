//! The directory that is brought: what is in it, and where each piece of it lies.
//!
//! It is cut as a member's store cuts, so a piece that a member has is one that it need not be
//! sent. A piece that is read later has to be what it was, or it is not sent.

use std::{collections::BTreeMap, fs::File, io::Read, os::unix::fs::FileExt, path::Path};

use crate::{
    base::{
        Digest, RelPath, limits,
        tree::{Chunk, Node, Tree, changes},
    },
    driver::{
        DriverError, FileSink, How, Mode, Purpose,
        files::{self, IgnoreRules, StatCache, beneath::Root},
    },
    store::{self, StoreError},
};

const PUBLISH: How = How { mode: Mode::Quick, purpose: Purpose::Publish };

/// See above.
pub(super) struct Directory {
    root: Root,
    tree: Tree,
    files: Vec<RelPath>,
    /// In which file each piece lies, and from which byte on.
    places: BTreeMap<Digest, (usize, u64)>,
    /// The file that was read last.
    last: Option<(usize, File)>,
}

impl Directory {
    /// Reads the directory `source` without what `ignore` matches, and without definitions: those
    /// are made of the manifest. It is looked at twice; what changed in between is an error.
    pub fn read(source: &Path, ignore: &[String]) -> Result<Self, DriverError> {
        let rules = IgnoreRules::new(ignore)?;
        let mut cache = StatCache::new();
        let tree = files::scan(source, &rules, &mut cache, PUBLISH, Some(&mut Cut))?.tree;
        let again = files::scan(source, &rules, &mut cache, PUBLISH, None)?.tree;
        if let Some(changed) = changes(&tree, &again).first() {
            return Err(DriverError::Changing(source.join(changed.path().to_path())));
        }
        let given = tree.entries().filter(|entry| !entry.path.is_definition());
        let tree = Tree::new(given.cloned().collect())?;
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for entry in tree.entries().filter(|entry| matches!(entry.node, Node::File { .. })) {
            let mut at = 0;
            for chunk in entry.chunks() {
                places.entry(chunk.digest).or_insert((files.len(), at));
                at += u64::from(chunk.len);
            }
            files.push(entry.path.clone());
        }
        Ok(Self { root: Root::open(source)?, tree, files, places, last: None })
    }

    /// What is in it.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// How many different pieces it is made of, and their bytes.
    pub fn pieces(&self) -> (u64, u64) {
        let chunks = self.tree.chunks();
        (chunks.len() as u64, chunks.iter().map(|chunk| u64::from(chunk.len)).sum())
    }

    /// The bytes of a piece; none if it has none of that kind, which a member that asks for it did
    /// not hear from here.
    pub fn piece(&mut self, chunk: &Chunk) -> Result<Option<Vec<u8>>, DriverError> {
        let place = self.places.get(&chunk.digest).copied();
        let Some((file, at)) = place.filter(|_| chunk.len as usize <= limits::CHUNK_MAX) else {
            return Ok(None);
        };
        let path = &self.files[file];
        let changing = || DriverError::Changing(self.root.at(path));
        let opened = match self.last.take() {
            Some((number, opened)) if number == file => opened,
            _ => self.root.file(path).map_err(|_| changing())?,
        };
        let mut bytes = vec![0; chunk.len as usize];
        let read = opened.read_exact_at(&mut bytes, at);
        if read.is_err() || Digest::of_bytes(&bytes) != chunk.digest {
            return Err(changing());
        }
        self.last = Some((file, opened));
        Ok(Some(bytes))
    }
}

/// Cuts files, and keeps nothing of them.
struct Cut;

impl FileSink for Cut {
    fn file(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
        store::cut(reader, |_, _| Ok(()))
            .map_err(|error: StoreError| DriverError::Store(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::store::ContentStore;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..bytes).map(|_| rng.random()).collect()
    }

    fn made(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[test]
    fn it_is_cut_as_a_store_cuts_and_each_piece_is_found_again() {
        let large = noise(1, 1_500_000);
        let dir = made(&[
            ("a/large", &large),
            ("a/small", b"small"),
            ("empty", b""),
            ("again", b"small"),
            ("left/out", b"x"),
            ("althing.toml", b"x"),
            (".althing/services.toml", b"x"),
        ]);
        let mut read = Directory::read(dir.path(), &["left/".to_owned()]).unwrap();
        let paths: Vec<String> = read.tree().entries().map(|e| e.path.to_string()).collect();
        assert_eq!(paths, ["a", "a/large", "a/small", "again", "empty"]);
        let held = tempfile::tempdir().unwrap();
        let store = ContentStore::open(held.path()).unwrap();
        let mut writer = store.writer();
        let (_, _, chunks) = store.ingest_file(&mut writer, large.as_slice()).unwrap();
        let cut = read.tree().get(&RelPath::parse(b"a/large").unwrap()).unwrap();
        assert!(
            chunks.len() > 2 && matches!(cut, Node::File { chunks: cut, .. } if *cut == chunks)
        );
        assert_eq!(read.pieces(), (chunks.len() as u64 + 1, 1_500_005));

        let all: Vec<u8> =
            chunks.iter().flat_map(|chunk| read.piece(chunk).unwrap().unwrap()).collect();
        assert!(all == large);
        let other = Chunk { digest: Digest::of_bytes(b"nothing of it"), len: 13 };
        assert_eq!(read.piece(&other).unwrap(), None);
    }

    #[test]
    fn what_changed_since_is_not_sent() {
        let dir = made(&[("a", b"one"), ("b", b"two")]);
        let mut read = Directory::read(dir.path(), &[]).unwrap();
        let chunks: Vec<Chunk> = read.tree().chunks().into_iter().collect();
        fs::write(dir.path().join("a"), "eno").unwrap();
        fs::remove_file(dir.path().join("b")).unwrap();
        for chunk in chunks {
            assert!(matches!(read.piece(&chunk), Err(DriverError::Changing(_))));
        }
    }
}
