//! Tests of the content store: crashes are copies of the directory at an
//! instant, damage is written over its files.

use std::os::unix::fs::FileExt;

use super::*;
use crate::{
    base::{
        RelPath,
        tree::{Entry, Node, Tree},
    },
    store::{Doubt, index::Batch},
};

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Bytes that look random and repeat with their seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(store: &ContentStore, contents: &[&[u8]]) -> Vec<Digest> {
    let mut writer = store.writer();
    let digests = contents.iter().map(|bytes| {
        let digest = Digest::of_bytes(bytes);
        writer.put(digest, bytes).unwrap();
        digest
    });
    let digests = digests.collect();
    writer.commit().unwrap();
    digests
}

/// A tree of files with these contents, their chunks put and committed.
fn tree(store: &ContentStore, contents: &[&[u8]]) -> Tree {
    let mut writer = store.writer();
    let entries = contents.iter().enumerate().map(|(n, bytes)| {
        let (digest, size, chunks) = store.ingest_file(&mut writer, *bytes).unwrap();
        let path = RelPath::parse(format!("{n}").as_bytes()).unwrap();
        Entry { path, node: Node::File { mode: 0o644, size, digest, chunks } }
    });
    let tree = Tree::new(entries.collect()).unwrap();
    writer.commit().unwrap();
    tree
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What a SIGKILL at this instant would leave: the directory as it is.
fn killed(dir: &Path) -> (tempfile::TempDir, ContentStore) {
    let after = tempfile::tempdir().unwrap();
    copy(dir, after.path());
    let store = ContentStore::open(after.path()).unwrap();
    (after, store)
}

fn only_pack(dir: &Path) -> PathBuf {
    let all = pack::list(&dir.join("packs")).unwrap();
    assert_eq!(all.len(), 1);
    pack::path_of(&dir.join("packs"), all[0].0)
}

#[test]
fn what_is_committed_is_read_back_also_after_reopening() {
    let (dir, store) = store();
    let digests = put(&store, &[b"one", b"two", b"one"]);
    assert_eq!(store.count().unwrap(), 2);
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(store.read(&digests[0]).unwrap(), b"one");
    assert_eq!(store.read(&digests[1]).unwrap(), b"two");
    let unknown = Digest::of_bytes(b"three");
    assert!(matches!(store.read(&unknown), Err(StoreError::NotFound(d)) if d == unknown));
    assert!(!store.has(&unknown).unwrap());
}

#[test]
fn what_is_not_committed_leaves_no_trace() {
    let (dir, store) = store();
    put(&store, &[b"kept"]);
    let before = fs::read(only_pack(dir.path())).unwrap();
    let mut writer = store.writer();
    for seed in 0..3 {
        let bytes = noise(seed, 1 << 20);
        writer.put(Digest::of_bytes(&bytes), &bytes).unwrap();
    }
    drop(writer);
    assert_eq!(fs::read(only_pack(dir.path())).unwrap(), before);
    assert!(!store.has(&Digest::of_bytes(&noise(0, 1 << 20))).unwrap());
    // The pack goes on being used.
    put(&store, &[b"later"]);
    only_pack(dir.path());
}

#[test]
fn a_lie_is_refused_and_does_no_harm() {
    let (_dir, store) = store();
    let mut writer = store.writer();
    let error = writer.put(Digest::of_bytes(b"this"), b"that").unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }));
    let empty = Digest::of_bytes(b"");
    assert!(matches!(writer.put(empty, b""), Err(StoreError::ChunkSize(0))));
    let large = vec![0; limits::CHUNK_MAX + 1];
    let error = writer.put(Digest::of_bytes(&large), &large).unwrap_err();
    assert!(matches!(error, StoreError::ChunkSize(_)));
    writer.put(Digest::of_bytes(b"true"), b"true").unwrap();
    writer.commit().unwrap();
    assert_eq!(store.count().unwrap(), 1);
}

#[test]
fn several_writers_at_once_lose_nothing() {
    let (dir, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..5 {
                    let mut writer = store.writer();
                    for n in 0..20_u64 {
                        // Half of it is the same in all threads.
                        let seed = if n % 2 == 0 { n } else { thread << 32 | round << 16 | n };
                        let bytes = noise(seed, 3_000);
                        writer.put(Digest::of_bytes(&bytes), &bytes).unwrap();
                    }
                    writer.commit().unwrap();
                }
            });
        }
    });
    assert_eq!(store.count().unwrap(), 10 + 4 * 5 * 10);
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    for thread in 0..4_u64 {
        for round in 0..5 {
            for n in 0..20_u64 {
                let seed = if n % 2 == 0 { n } else { thread << 32 | round << 16 | n };
                let bytes = noise(seed, 3_000);
                assert_eq!(store.read(&Digest::of_bytes(&bytes)).unwrap(), bytes);
            }
        }
    }
}

#[test]
fn killed_before_the_commit_nothing_is_listed_and_after_it_everything() {
    let (dir, store) = store();
    let first = put(&store, &[b"first"]);
    let mut writer = store.writer();
    let big: Vec<_> = (0..70).map(|seed| noise(seed, 1 << 20)).collect(); // more than a pack
    for bytes in &big {
        writer.put(Digest::of_bytes(bytes), bytes).unwrap();
    }
    let (after, survivor) = killed(dir.path());
    assert_eq!(survivor.count().unwrap(), 1);
    assert_eq!(survivor.read(&first[0]).unwrap(), b"first");
    let left: u64 = pack::list(&after.path().join("packs")).unwrap().iter().map(|p| p.1).sum();
    assert!(left < 1_000, "the torn tail and the second pack are gone, {left} bytes are left");
    drop(survivor);

    writer.commit().unwrap();
    let (_after, survivor) = killed(dir.path());
    assert_eq!(survivor.count().unwrap(), 71);
    for bytes in &big {
        assert_eq!(survivor.read(&Digest::of_bytes(bytes)).unwrap(), *bytes);
    }
}

#[test]
fn a_torn_tail_is_cut_and_appending_goes_on_behind_it() {
    let (dir, store) = store();
    let one = put(&store, &[b"one"]);
    drop(store);
    let path = only_pack(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.len();
    bytes.extend_from_slice(&[9; 500]); // an append that never was told to the index
    fs::write(&path, &bytes).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), whole as u64);
    let two = put(&store, &[b"two"]);
    assert_eq!(store.read(&one[0]).unwrap(), b"one");
    assert_eq!(store.read(&two[0]).unwrap(), b"two");
}

#[test]
fn a_pack_that_lost_its_end_keeps_what_is_whole() {
    let (dir, store) = store();
    let digests = put(&store, &[b"one", b"two"]);
    drop(store);
    let path = only_pack(dir.path());
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(store.read(&digests[0]).unwrap(), b"one");
    assert!(!store.has(&digests[1]).unwrap(), "it is fetched again");
    drop(store);
    fs::remove_file(&path).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(store.count().unwrap(), 0);
    let again = put(&store, &[b"one"]);
    assert_eq!(store.read(&again[0]).unwrap(), b"one");
}

#[test]
fn a_flipped_bit_is_found_forgotten_and_healed_by_putting_it_again() {
    let (dir, store) = store();
    let listing = tree(&store, &[&noise(1, 5_000), &noise(2, 5_000)]);
    let root = store.put_tree(&listing).unwrap();
    assert!(store.whole(&root).unwrap());
    let file = File::options().write(true).open(only_pack(dir.path())).unwrap();
    let first = Digest::of_bytes(&noise(1, 5_000));
    let at = store.inner.index.chunk(&first).unwrap().unwrap().at;
    file.write_all_at(&[noise(1, 5_000)[7] ^ 1], at.offset + 7).unwrap();

    let mut told = Vec::new();
    let bad = store.verify(&root, |done, total| told.push((done, total))).unwrap();
    assert_eq!(bad, [first]);
    assert_eq!(told, [(5_000, 10_000), (10_000, 10_000)]);
    assert!(!store.whole(&root).unwrap());
    let missing: Vec<_> = store.missing(&listing).unwrap();
    assert_eq!(missing, [Chunk { digest: first, len: 5_000 }]);
    put(&store, &[&noise(1, 5_000)]);
    assert!(store.whole(&root).unwrap());
    assert!(store.verify(&root, |_, _| {}).unwrap().is_empty());
}

#[test]
fn a_corrupt_read_says_so_once_and_then_it_is_not_held() {
    let (dir, store) = store();
    let digests = put(&store, &[b"some content"]);
    let path = only_pack(dir.path());
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().write_all_at(b"!", length - 1).unwrap();
    assert!(matches!(store.read(&digests[0]), Err(StoreError::Corrupt(d)) if d == digests[0]));
    assert!(matches!(store.read(&digests[0]), Err(StoreError::NotFound(_))));
}

#[test]
fn ingest_cuts_the_same_content_the_same_way_and_signs_the_whole() {
    let (_dir, store) = store();
    let one = noise(1, 3 << 20);
    let mut writer = store.writer();
    let (digest, size, chunks) = store.ingest_file(&mut writer, one.as_slice()).unwrap();
    assert_eq!((digest, size), (Digest::of_bytes(&one), one.len() as u64));
    assert!(chunks.len() > 3);
    assert!(chunks.iter().all(|c| (1..=limits::CHUNK_MAX).contains(&(c.len as usize))));
    // One byte in front moves everything, and still only the start is new.
    let mut two = vec![7];
    two.extend_from_slice(&one);
    let (_, _, moved) = store.ingest_file(&mut writer, two.as_slice()).unwrap();
    let fresh = moved.iter().filter(|chunk| !chunks.contains(chunk)).count();
    assert!(fresh <= 2, "{fresh} of {} chunks are new", moved.len());
    let (digest, size, none) = store.ingest_file(&mut writer, io::empty()).unwrap();
    assert_eq!((digest, size, none.len()), (Digest::of_bytes(b""), 0, 0));
    let (digest, size, only) = store.ingest_file(&mut writer, &b"x"[..]).unwrap();
    assert_eq!((size, only), (1, vec![Chunk { digest, len: 1 }]));
    for len in [limits::CHUNK_MIN, limits::CHUNK_MIN + 1] {
        let bytes = noise(5, len);
        let (digest, size, pieces) = store.ingest_file(&mut writer, bytes.as_slice()).unwrap();
        assert_eq!((digest, size), (Digest::of_bytes(&bytes), len as u64));
        assert_eq!(pieces.iter().map(|c| u64::from(c.len)).sum::<u64>(), size);
    }
    writer.commit().unwrap();
    let read: Vec<u8> = chunks.iter().flat_map(|c| store.read(&c.digest).unwrap()).collect();
    assert!(read == one);
}

#[test]
fn a_source_that_fails_leaves_the_writer_usable() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let (_dir, store) = store();
    let mut writer = store.writer();
    let error = store.ingest_file(&mut writer, Failing).unwrap_err();
    assert!(matches!(error, StoreError::Source(_)));
    store.ingest_file(&mut writer, &b"fine"[..]).unwrap();
    writer.commit().unwrap();
    assert!(store.has(&Digest::of_bytes(b"fine")).unwrap());
}

#[test]
fn trees_are_kept_under_their_root_and_damaged_ones_forgotten() {
    let (dir, store) = store();
    let listing = tree(&store, &[b"a", b"b"]);
    let root = store.put_tree(&listing).unwrap();
    assert_eq!(root, listing.root());
    assert_eq!(store.put_tree(&listing).unwrap(), root);
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(store.trees().unwrap(), [root]);
    assert_eq!(*store.tree(&root).unwrap().unwrap(), listing);
    assert!(store.tree(&Digest::of_bytes(b"?")).unwrap().is_none());
    // Another tree under this name.
    let other = store.put_tree(&tree(&store, &[b"c"])).unwrap();
    fs::copy(store.inner.listings.whole_path(&other), store.inner.listings.whole_path(&root))
        .unwrap();
    assert!(store.tree(&root).unwrap().is_none());
    assert_eq!(store.trees().unwrap(), [other]);
    // A torn one.
    fs::write(store.inner.listings.whole_path(&other), b"al").unwrap();
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    assert!(!store.whole(&other).unwrap());
    assert!(store.trees().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("trees")).unwrap().count(), 0);
}

#[test]
fn a_listing_that_lies_about_its_pieces_is_not_proven() {
    let (_dir, store) = store();
    let prove = |tree: &Tree| Doubt::of(&store, tree)?.prove(&store);
    let whole = noise(1, 2 << 20);
    let honest = tree(&store, &[&whole, b"", b"small"]);
    assert_eq!(Doubt::of(&store, &honest).unwrap().len(), 1);
    prove(&honest).unwrap();
    store.put_tree(&honest).unwrap();
    assert!(Doubt::of(&store, &honest).unwrap().is_empty(), "it is cut as in a tree that is here");

    let lie = |change: &dyn Fn(&mut Vec<Chunk>)| {
        let entries = honest.entries().cloned().map(|mut entry| {
            if let Node::File { chunks, .. } = &mut entry.node {
                change(chunks);
            }
            entry
        });
        Tree::new(entries.collect()).unwrap()
    };
    let swapped = lie(&|chunks| chunks.reverse());
    assert_eq!(swapped.root(), honest.root(), "the root does not tell them apart");
    let mut doubt = Doubt::of(&store, &swapped).unwrap();
    doubt.prove_what_is_held(&store);
    assert_eq!(doubt.len(), 1, "all of it is held, and it is no proof");
    let error = doubt.prove(&store).unwrap_err();
    assert!(matches!(error, StoreError::Unproven(path) if path.as_bytes() == b"0"));
    let other = Digest::of_bytes(b"other");
    let single = lie(&|chunks| {
        if chunks.len() == 1 {
            chunks[0].digest = other;
        }
    });
    assert!(matches!(prove(&single), Err(StoreError::Unproven(_))));
}

#[test]
fn a_listing_is_proven_file_by_file_as_its_pieces_come() {
    let (_dir, theirs) = store();
    let (_here, ours) = store();
    let listing = tree(&theirs, &[&noise(1, 2 << 20), &noise(2, 2 << 20)]);
    let mut doubt = Doubt::of(&ours, &listing).unwrap();
    assert_eq!(doubt.len(), 2);
    for left in [1, 0] {
        let mut writer = ours.writer();
        let Node::File { chunks, .. } = &listing.entries().nth(1 - left).unwrap().node else {
            panic!("a file")
        };
        for chunk in chunks {
            writer.put(chunk.digest, &theirs.read(&chunk.digest).unwrap()).unwrap();
        }
        writer.commit().unwrap();
        doubt.prove_what_is_held(&ours);
        assert_eq!(doubt.len(), left);
    }
    doubt.prove(&ours).unwrap();
}

#[test]
fn collection_takes_what_nothing_needs_and_gives_the_disk_back() {
    let (dir, store) = store();
    let shared = noise(1, 200_000);
    let (old, new) = (noise(2, 400_000), noise(3, 400_000));
    let first = store.put_tree(&tree(&store, &[&shared, &old])).unwrap();
    let second = store.put_tree(&tree(&store, &[&shared, &new])).unwrap();
    let keep = BTreeSet::from([second]);
    let size =
        |dir: &Path| pack::list(&dir.join("packs")).unwrap().iter().map(|p| p.1).sum::<u64>();
    // What was just put outlives the next collection.
    assert_eq!(store.retain(&keep).unwrap(), Freed::default());
    assert!(store.whole(&first).unwrap());
    let before = size(dir.path());
    let freed = store.retain(&keep).unwrap();
    assert_eq!(freed.trees, 1);
    assert!(freed.chunks >= 1 && !freed.postponed);
    assert!(store.tree(&first).unwrap().is_none());
    assert!(store.verify(&second, |_, _| {}).unwrap().is_empty());
    assert!(store.whole(&second).unwrap());
    // 600 kB of a million is alive, so the pack stays as it is.
    assert_eq!((freed.bytes, size(dir.path())), (0, before));

    let third = store.put_tree(&tree(&store, &[&shared])).unwrap();
    let keep = BTreeSet::from([third]);
    let freed = store.retain(&keep).unwrap();
    assert!(freed.bytes > 700_000, "{freed:?}");
    assert!(size(dir.path()) < 210_000);
    assert!(store.verify(&third, |_, _| {}).unwrap().is_empty());
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    assert!(store.verify(&third, |_, _| {}).unwrap().is_empty());

    store.retain(&BTreeSet::new()).unwrap();
    store.retain(&BTreeSet::new()).unwrap();
    assert_eq!((store.count().unwrap(), size(dir.path())), (0, 0));
    assert!(store.trees().unwrap().is_empty());
    let again = put(&store, &[b"afterwards"]);
    assert_eq!(store.read(&again[0]).unwrap(), b"afterwards");
}

#[test]
fn collection_waits_for_holds_and_spares_what_was_put_again() {
    let (_dir, store) = store();
    let none = BTreeSet::new();
    let digests = put(&store, &[b"one", b"two"]);
    store.retain(&none).unwrap();

    let hold = store.hold();
    assert!(store.retain(&none).unwrap().postponed);
    drop(hold);
    let mut writer = store.writer();
    assert!(!writer.put(digests[0], b"one").unwrap(), "it is held already");
    assert!(store.retain(&none).unwrap().postponed);
    writer.commit().unwrap();

    // The first was put again and its tree may come any moment; the second was not.
    let freed = store.retain(&none).unwrap();
    assert_eq!((freed.chunks, freed.postponed), (1, false));
    assert!(store.has(&digests[0]).unwrap());
    assert!(!store.has(&digests[1]).unwrap());
    assert_eq!(store.retain(&none).unwrap().chunks, 1);
}

#[test]
fn nothing_is_collected_while_a_kept_listing_is_damaged() {
    let (_dir, store) = store();
    let listing = tree(&store, &[&noise(1, 50_000)]);
    let root = store.put_tree(&listing).unwrap();
    let keep = BTreeSet::from([root]);
    store.retain(&keep).unwrap();
    fs::write(store.inner.listings.whole_path(&root), b"damaged").unwrap();
    assert!(matches!(store.retain(&keep), Err(StoreError::Corrupt(r)) if r == root));
    assert!(store.missing(&listing).unwrap().is_empty());
    store.put_tree(&listing).unwrap();
    store.retain(&keep).unwrap();
    store.retain(&keep).unwrap();
    assert!(store.whole(&root).unwrap());
}

#[test]
fn a_collection_killed_anywhere_has_lost_nothing_kept() {
    let (dir, store) = store();
    let contents: Vec<_> = (0..10).map(|seed| noise(seed, 50_000)).collect();
    let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    store.put_tree(&tree(&store, &slices)).unwrap();
    let kept = store.put_tree(&tree(&store, &slices[..2])).unwrap();
    let keep = BTreeSet::from([kept]);
    store.retain(&keep).unwrap();
    // The steps of a collection one by one, and a kill after each.
    let rows: Vec<_> = {
        let live: BTreeSet<_> =
            store.tree(&kept).unwrap().unwrap().chunks().iter().map(|c| c.digest).collect();
        let dead: Vec<_> =
            store.trees().unwrap().into_iter().filter(|root| *root != kept).collect();
        let generation = store.inner.generation();
        let swept =
            store.inner.index.sweep(generation, &dead, |digest| live.contains(digest)).unwrap();
        assert_eq!((swept.chunks, swept.mostly_dead.len()), (8, 1));
        swept.mostly_dead
    };
    let whole = |store: &ContentStore| {
        assert!(store.whole(&kept).unwrap());
        assert!(store.verify(&kept, |_, _| {}).unwrap().is_empty());
        assert_eq!((store.count().unwrap(), store.trees().unwrap().len()), (2, 1));
    };
    let (after_sweep, survivor) = killed(dir.path());
    whole(&survivor);
    // The copy is made, the index not told.
    store.inner.retire(&BTreeSet::from([rows[0].pack]));
    let mut half = store.inner.take_pack().unwrap();
    half.append(&Digest::of_bytes(&contents[0]), &contents[0]).unwrap();
    assert!(half.finish().is_ok());
    whole(&killed(dir.path()).1);
    drop(survivor);
    // The survivor of the first kill is collected to the end.
    let survivor = ContentStore::open(after_sweep.path()).unwrap();
    assert!(survivor.retain(&keep).unwrap().bytes > 300_000);
    whole(&survivor);
    whole(&killed(after_sweep.path()).1);
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was_and_usable() {
    let (dir, store) = store();
    let held = put(&store, &[b"held"]);
    let before = fs::read(only_pack(dir.path())).unwrap();
    store.inner.budget.store(3 << 20, Ordering::Release);
    let mut writer = store.writer();
    let failed = (0..8).find_map(|seed| {
        let bytes = noise(seed, 1 << 20);
        writer.put(Digest::of_bytes(&bytes), &bytes).err()
    });
    let error = failed.unwrap();
    assert!(error.is_full(), "{error}");
    assert!(matches!(writer.put(Digest::of_bytes(b"x"), b"x"), Err(StoreError::Abandoned)));
    assert!(matches!(writer.commit(), Err(StoreError::Abandoned)));
    assert_eq!(fs::read(only_pack(dir.path())).unwrap(), before);
    assert_eq!(store.read(&held[0]).unwrap(), b"held");
    let listing = Tree::default();
    store.inner.budget.store(0, Ordering::Release);
    assert!(store.put_tree(&listing).unwrap_err().is_full());

    store.inner.budget.store(u64::MAX, Ordering::Release);
    let later = put(&store, &[&noise(1, 1 << 20)]);
    assert!(store.has(&later[0]).unwrap());
}

#[test]
fn a_damaged_index_is_made_again_from_the_packs() {
    let (dir, store) = store();
    let listing = tree(&store, &[&noise(1, 300_000), &noise(2, 300_000)]);
    let root = store.put_tree(&listing).unwrap();
    drop(store);
    let index = dir.path().join("index.redb");
    let size = fs::metadata(&index).unwrap().len() as usize;
    for damage in [vec![0xA5; size], noise(7, 4_096), b"short".to_vec()] {
        fs::write(&index, damage).unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        assert!(store.whole(&root).unwrap());
        assert!(store.verify(&root, |_, _| {}).unwrap().is_empty());
    }
    // Lost altogether.
    fs::remove_file(&index).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert!(store.whole(&root).unwrap());
    drop(store);
    // A kill in the middle of making it again leaves the damaged one in place.
    fs::write(&index, noise(7, 4_096)).unwrap();
    fs::write(index.with_extension("rebuilt"), noise(8, 4_096)).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert!(store.verify(&root, |_, _| {}).unwrap().is_empty());
    assert!(!index.with_extension("rebuilt").exists());
}

/// Real kills: a process that puts, stores, collects, and is killed after so
/// many rounds, at whatever it is doing just then.
#[test]
fn sigkill_loses_nothing_that_was_committed_and_lists_nothing_torn() {
    const INSIDE: &str = "ALTHING_TEST_KILLED";
    if let Ok(path) = std::env::var(INSIDE) {
        return put_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    for rounds in [1, 2, 3, 5, 8, 13] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("store::content::tests::sigkill_loses_nothing_that_was_committed_and_lists_nothing_torn")
            .env(INSIDE, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        let roots = lines.map_while(Result::ok).filter_map(|line| Digest::parse(line.trim()));
        let last = roots.take(rounds).last().expect("it says each root that it has stored");
        child.kill().unwrap();
        child.wait().unwrap();

        let store = ContentStore::open(dir.path()).unwrap();
        assert!(store.whole(&last).unwrap(), "it said so after it was durable");
        let mut listed = 0;
        for extent in store.inner.index.packs().unwrap() {
            for (digest, _) in store.inner.index.chunks_in(extent.pack).unwrap() {
                store.read(&digest).unwrap();
                listed += 1;
            }
        }
        assert_eq!(listed, store.count().unwrap());
        for root in store.trees().unwrap() {
            assert!(store.verify(&root, |_, _| {}).unwrap().is_empty());
        }
    }
}

fn put_until_killed(path: &Path) {
    let store = ContentStore::open(path).unwrap();
    let seed = store.count().unwrap() + (store.inner.generation() << 32);
    let mut roots = Vec::new();
    for round in 0_u64.. {
        let contents: Vec<_> =
            (0..4).map(|n| noise(seed + (round << 16 | n), 150_000 + 31 * n as usize)).collect();
        let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let root = store.put_tree(&tree(&store, &slices)).unwrap();
        println!("\n{root}");
        roots.push(root);
        let keep = roots.iter().rev().take(20).copied().collect();
        store.retain(&keep).unwrap();
    }
}

/// The real thing: a file system of 8 MiB that fills up, in a mount namespace
/// of its own. Where the machine does not allow one, the test above stands alone.
#[test]
fn a_real_full_file_system_is_survived() {
    const INSIDE: &str = "ALTHING_TEST_FULL";
    if let Ok(path) = std::env::var(INSIDE) {
        return fill_up(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=8m none \"$1\" || exit 77; \"$2\" --exact --nocapture \
                  store::content::tests::a_real_full_file_system_is_survived";
    let status = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, dir.path())
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(77)) => eprintln!("no mount allowed here: not tried"),
        Ok(Some(1)) | Err(_) if !namespaces() => {
            eprintln!("no mount namespaces here: not tried");
        }
        other => panic!("the test inside failed: {other:?}"),
    }
}

fn namespaces() -> bool {
    std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .status()
        .is_ok_and(|status| status.success())
}

fn fill_up(path: &Path) {
    let store = ContentStore::open(&path.join("content")).unwrap();
    let held = put(&store, &[b"held"]);
    let mut full = 0;
    // Someone else takes the room, down to less and less of it.
    for left in [400_000_u64, 100_000, 8_192, 0] {
        let stat = rustix::fs::statvfs(path).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let other = noise(9, free.saturating_sub(left) as usize);
        let _ = fs::write(path.join(format!("other{left}")), &other);
        for seed in 0..20 {
            let bytes = noise(left + seed, 50_000);
            let mut writer = store.writer();
            let done = writer.put(Digest::of_bytes(&bytes), &bytes).and_then(|_| writer.commit());
            full += u32::from(done.is_err_and(|error| error.is_full()));
        }
        // Past every check, as a quota that statvfs does not know would be.
        let failed = (0..40_u64).map(|seed| {
            let chunks = (0..50).map(|n| {
                (
                    Digest::of_bytes(&noise(seed << 8 | n, 9)),
                    Location { pack: 1, offset: 0, len: 9 },
                )
            });
            let chunks = chunks.collect();
            let batch = Batch { chunks: Some(&chunks), ..Batch::default() };
            store.inner.index.commit(&batch).is_err()
        });
        let failed = failed.filter(|failed| *failed).count();
        eprintln!("{left} bytes left: {failed} transactions failed");
        assert_eq!(store.read(&held[0]).unwrap(), b"held");
    }
    assert!(full >= 20, "{full}");
    for left in [400_000_u64, 100_000, 8_192, 0] {
        fs::remove_file(path.join(format!("other{left}"))).unwrap();
    }
    assert_eq!(store.read(&held[0]).unwrap(), b"held");
    let later = put(&store, &[b"later"]);
    drop(store);
    let store = ContentStore::open(&path.join("content")).unwrap();
    assert_eq!(store.read(&later[0]).unwrap(), b"later");
}

/// Forty files, of which this one has other content.
fn edited(store: &ContentStore, which: usize, text: &str) -> Tree {
    let all: Vec<String> = (0..40).map(|n| format!("file {n}")).collect();
    let mut all: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
    if which < all.len() {
        all[which] = text.as_bytes();
    }
    tree(store, &all)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("trees")).unwrap();
    let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_listing_much_like_another_is_stored_as_what_it_changes() {
    let (dir, store) = store();
    let trees: Vec<Tree> = (0..50).map(|n| edited(&store, 7, &format!("edit {n}"))).collect();
    let base = store.put_tree(&edited(&store, 99, "")).unwrap();
    let mut roots = vec![base];
    for tree in &trees {
        let before = *roots.last().unwrap();
        roots.push(store.put_tree_like(tree, &before).unwrap());
    }
    let whole = names(dir.path()).iter().filter(|name| name.ends_with(".tree")).count();
    assert_eq!((whole, names(dir.path()).len()), (2, 51), "one now and then is whole");
    drop(store);

    let store = ContentStore::open(dir.path()).unwrap();
    for (tree, root) in trees.iter().zip(&roots[1..]).rev() {
        assert_eq!(*store.tree(root).unwrap().unwrap(), *tree);
        assert!(store.whole(root).unwrap());
    }
    // What it was made of goes: it stands by itself then, and whoever is killed before that
    // has both.
    let keep = BTreeSet::from([roots[20]]);
    for _ in 0..3 {
        store.retain(&keep).unwrap();
    }
    assert_eq!(names(dir.path()), [format!("{}.tree", roots[20])]);
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    assert_eq!(*store.tree(&roots[20]).unwrap().unwrap(), trees[19]);
    assert!(store.whole(&roots[20]).unwrap());
    assert_eq!(store.trees().unwrap(), [roots[20]]);
}

#[test]
fn a_listing_whose_base_is_damaged_is_forgotten_and_fetched_again() {
    let (dir, store) = store();
    let base = store.put_tree(&edited(&store, 99, "")).unwrap();
    let next = edited(&store, 7, "edit");
    let root = store.put_tree_like(&next, &base).unwrap();
    drop(store);
    fs::write(dir.path().join(format!("trees/{base}.tree")), b"al").unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    assert!(!store.whole(&root).unwrap());
    assert!(store.trees().unwrap().is_empty());
    assert!(names(dir.path()).is_empty());
    assert_eq!(store.put_tree_like(&next, &base).unwrap(), root, "nothing to build on");
    assert_eq!(names(dir.path()), [format!("{root}.tree")]);
}

#[test]
fn what_was_whole_is_not_believed_to_be_once_a_chunk_is_lost() {
    let (dir, store) = store();
    let base = store.put_tree(&edited(&store, 99, "")).unwrap();
    assert!(store.whole(&base).unwrap());
    let next = edited(&store, 7, "edit");
    assert!(store.missing_like(&next, &base).unwrap().is_empty());
    let root = store.put_tree_like(&next, &base).unwrap();
    assert!(store.whole(&root).unwrap());
    let lost = Digest::of_bytes(b"file 3");
    let at = store.inner.index.chunk(&lost).unwrap().unwrap().at;
    let pack = File::options().write(true).open(pack::path_of(&store.inner.packs, at.pack));
    pack.unwrap().write_all_at(b"rot", at.offset).unwrap();
    assert!(store.whole(&root).unwrap(), "nobody has read it");
    assert!(matches!(store.read(&lost), Err(StoreError::Corrupt(_))));
    assert!(!store.whole(&root).unwrap());
    let missing: Vec<Digest> =
        store.missing_like(&next, &base).unwrap().iter().map(|c| c.digest).collect();
    assert_eq!(missing, [lost], "the base is not whole either, so all of it was looked at");
    drop(dir);
}
