//! What a member finds on its disk: the stat cache, a record's file, and a pack whose index was
//! lost.

use std::fs;

use althing::{
    base::Digest,
    driver::files::StatCache,
    store::{ContentStore, record},
};

pub(super) fn stat_cache(bytes: &[u8]) {
    let cache = StatCache::decode(bytes);
    if let Some(again) = cache.encode() {
        assert_eq!(StatCache::decode(&again), cache);
    }
}

pub(super) fn stat_cache_seeds() -> Vec<Vec<u8>> {
    vec![StatCache::new().encode().expect("it is small")]
}

/// A record's file, and a pack whose index was lost.
pub(super) fn disk(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("record");
    fs::write(&file, bytes).expect("a file in it");
    if let Ok(Some(payload)) = record::load(&file) {
        record::save(&file, &payload).expect("what was read can be written");
        assert_eq!(record::load(&file).ok().flatten(), Some(payload));
    }
    let content = dir.path().join("content");
    fs::create_dir_all(content.join("packs")).expect("a directory in it");
    fs::write(content.join("packs/0000000000000001.pack"), bytes).expect("a file in it");
    let store = ContentStore::open(&content).expect("whatever a pack holds, the store opens");
    let known = Digest::of_bytes(b"hello");
    if store.has(&known).expect("an index that answers") {
        assert_eq!(store.read(&known).expect("it was found whole"), b"hello");
    }
}

pub(super) fn disk_seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("record");
    record::save(&file, b"what was promised").expect("a file in it");
    let mut pack = b"althpak\x01".to_vec();
    for content in [&b"hello"[..], b"world"] {
        pack.extend_from_slice(&(content.len() as u32).to_le_bytes());
        pack.extend_from_slice(&Digest::of_bytes(content).0);
        pack.extend_from_slice(content);
    }
    vec![fs::read(&file).expect("just written"), pack]
}
