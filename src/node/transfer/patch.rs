//! Patches: what makes a chunk out of another one that both sides have.
//!
//! Whole chunks are what is stored and verified, and a file of up to 64 KiB is one. Where
//! a few bytes of it have changed, most of a chunk is on the other side already: in the
//! version before. A patch is the chunk in zstd's format (RFC 8878) with that older one
//! for a dictionary, as `zstd --patch-from` makes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::TransferError;
use crate::{
    base::{
        limits,
        tree::{self, Change, Chunk, Node, Tree},
        wire,
    },
    store::{ContentStore, StoreError},
};

/// Chunks for which patches are asked at once.
pub(super) const PATCHES_MAX: usize = 512;
/// Bytes of these chunks.
pub(super) const PATCHED_AT_ONCE: u64 = 8 << 20;
/// The same for the first list, which shows whether it is worth it.
const PATCHED_AT_FIRST: u64 = 1 << 20;
/// Bytes that may be missing where patches are asked for: what is more is a release, of
/// which members that fetch it together give the pieces to each other.
const PATCHED_MAX: u64 = 16 << 20;
/// Smaller chunks are sent as they are.
const CHUNK_MIN: u32 = 1 << 10;
/// A patch that saves less than seven bytes of eight is not worth asking one holder for it.
const SAVES: usize = 8;
/// Of zstd: fast, and a higher one finds little more.
const LEVEL: i32 = 3;

/// What a requester asks: patches that make each of these chunks out of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AskPatches {
    #[serde(deserialize_with = "wire::bounded::<_, _, { PATCHES_MAX }>")]
    pub pairs: Vec<Pair>,
}

/// A chunk that is wanted, and one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pair {
    pub wanted: Chunk,
    pub base: Chunk,
}

/// The answer, in the order of the question: none where a patch would be too long, or a
/// chunk is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Patches {
    #[serde(deserialize_with = "wire::bounded::<_, _, { PATCHES_MAX }>")]
    pub patches: Vec<Option<Vec<u8>>>,
}

/// The longest answer, bytes.
pub(super) const ANSWER_MAX: usize = PATCHED_AT_ONCE as usize / SAVES + 8 * PATCHES_MAX;

/// What is missing of `tree` and stands where `before` has something that may be like it;
/// nothing if so much is missing that it is a release.
pub(super) fn pairs(
    store: &ContentStore,
    tree: &Tree,
    before: &Tree,
) -> Result<Vec<Pair>, StoreError> {
    let missing = store.missing_like(tree, &before.root())?;
    let mut missing: BTreeSet<Chunk> = missing.into_iter().collect();
    let mut pairs = Vec::new();
    if missing.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() > PATCHED_MAX {
        return Ok(pairs);
    }
    let changes = tree::changes_and_cuts(before, tree);
    for entry in changes.iter().filter_map(Change::entry) {
        let Node::File { chunks, .. } = &entry.node else { continue };
        if chunks.iter().all(|chunk| !missing.contains(chunk)) {
            continue;
        }
        let Some(Node::File { chunks: old, .. }) = before.get(&entry.path) else { continue };
        let known: BTreeMap<&Chunk, usize> = old.iter().zip(0..).collect();
        // What stood between the same pieces before.
        let mut next = 0;
        for chunk in chunks {
            if let Some(at) = known.get(chunk) {
                next = at + 1;
                continue;
            }
            let base = old.get(next).or(old.last());
            next += 1;
            // What is so much longer has more that is new than a patch may have.
            let like = |base: &&Chunk| chunk.len >= CHUNK_MIN && base.len >= chunk.len / 4 * 3;
            if let Some(base) = base.filter(like)
                && missing.remove(chunk)
            {
                pairs.push(Pair { wanted: *chunk, base: *base });
            }
        }
    }
    Ok(pairs)
}

/// The lists in which `pairs` are asked for.
pub(super) fn in_lists(pairs: Vec<Pair>) -> Vec<AskPatches> {
    let mut lists: Vec<AskPatches> = Vec::new();
    let (mut bytes, mut most) = (0, 0);
    for pair in pairs {
        let len = u64::from(pair.wanted.len);
        match lists.last_mut() {
            Some(list) if list.pairs.len() < PATCHES_MAX && bytes + len <= most => {
                list.pairs.push(pair);
            }
            last => {
                most = if last.is_none() { PATCHED_AT_FIRST } else { PATCHED_AT_ONCE };
                lists.push(AskPatches { pairs: vec![pair] });
                bytes = 0;
            }
        }
        bytes += len;
    }
    lists
}

impl AskPatches {
    /// Bytes of the chunks that are wanted.
    pub fn bytes(&self) -> u64 {
        self.pairs.iter().map(|pair| u64::from(pair.wanted.len)).sum()
    }
}

/// The holder's answer, and how many patches are in it. Blocks.
pub(super) fn make(
    store: &ContentStore,
    asked: &AskPatches,
) -> Result<(Patches, u64), TransferError> {
    if asked.bytes() > PATCHED_AT_ONCE {
        return Err(TransferError::Garbled("patches for too many bytes".to_owned()));
    }
    let read = |chunk: &Chunk| match store.read(&chunk.digest) {
        Ok(bytes) => Ok((bytes.len() == chunk.len as usize).then_some(bytes)),
        Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    };
    let mut patches = Vec::with_capacity(asked.pairs.len());
    for Pair { wanted, base } in &asked.pairs {
        let patch = match (read(base)?, read(wanted)?) {
            (Some(base), Some(wanted)) => {
                // What zstd can't do is sent as it is.
                let compressor = zstd::bulk::Compressor::with_dictionary(LEVEL, &base);
                let patch = compressor.and_then(|mut c| c.compress(&wanted));
                patch.ok().filter(|patch| patch.len() <= wanted.len() / SAVES)
            }
            _ => None,
        };
        patches.push(patch);
    }
    let made = patches.iter().flatten().count() as u64;
    Ok((Patches { patches }, made))
}

/// Makes the chunks that were asked for and puts them away, durably. Returns their bytes.
/// What came from elsewhere can do no harm: a patch makes up to the bytes that were
/// wanted, and these have their signature or are not taken. Blocks.
pub(super) fn apply(
    store: &ContentStore,
    asked: &AskPatches,
    answer: Patches,
) -> Result<(u64, u64), TransferError> {
    let lied = |why: &str| TransferError::Garbled(why.to_owned());
    if answer.patches.len() != asked.pairs.len() {
        return Err(lied("other patches than were asked for"));
    }
    let mut writer = store.writer();
    let (mut count, mut bytes) = (0, 0);
    for (Pair { wanted, base }, patch) in asked.pairs.iter().zip(answer.patches) {
        let Some(patch) = patch else { continue };
        // It was here when it was named.
        let Ok(base) = store.read(&base.digest) else { continue };
        let made = zstd::bulk::Decompressor::with_dictionary(&base)
            .and_then(|mut d| d.decompress(&patch, (wanted.len as usize).min(limits::CHUNK_MAX)))
            .map_err(|_| lied("a patch that fits nothing"))?;
        match writer.put(wanted.digest, &made) {
            Ok(_) if made.len() == wanted.len as usize => {}
            Ok(_) | Err(StoreError::Mismatch { .. }) => {
                return Err(lied("a patch that makes something else"));
            }
            Err(error) => return Err(error.into()),
        }
        count += 1;
        bytes += u64::from(wanted.len);
    }
    writer.commit()?;
    Ok((count, bytes))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::base::{
        Digest, RelPath,
        tree::Entry,
        wire::{Kind, decode, encode},
    };

    struct Side {
        store: ContentStore,
        _dir: tempfile::TempDir,
    }

    fn side() -> Side {
        let dir = tempfile::tempdir().unwrap();
        Side { store: ContentStore::open(dir.path()).unwrap(), _dir: dir }
    }

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..bytes).map(|_| rng.random()).collect()
    }

    impl Side {
        fn put(&self, bytes: &[u8]) -> Chunk {
            let digest = Digest::of_bytes(bytes);
            let mut writer = self.store.writer();
            writer.put(digest, bytes).unwrap();
            writer.commit().unwrap();
            Chunk { digest, len: bytes.len() as u32 }
        }

        fn reads(&self, chunk: &Chunk) -> Option<Vec<u8>> {
            self.store.read(&chunk.digest).ok()
        }
    }

    /// A chunk and what came of it by a small change, both on the holder, the first on both.
    fn changed(holder: &Side, requester: &Side, bytes: usize, seed: u64) -> Pair {
        let old = noise(seed, bytes);
        let mut new = old.clone();
        new.insert(bytes / 3, b'x');
        new.extend_from_slice(b"and the end");
        requester.put(&old);
        Pair { base: holder.put(&old), wanted: holder.put(&new) }
    }

    #[test]
    fn a_small_change_of_a_chunk_is_a_small_patch() {
        let (holder, requester) = (side(), side());
        for bytes in [1_100, 20_000, 300_000, limits::CHUNK_MAX - 12] {
            let pair = changed(&holder, &requester, bytes, bytes as u64);
            let asked = AskPatches { pairs: vec![pair] };
            let (answer, made) = make(&holder.store, &asked).unwrap();
            assert_eq!(made, 1, "{bytes}");
            let patch = answer.patches[0].as_ref().unwrap().len();
            assert!(patch < 150 + bytes / 1_000, "{patch} bytes for a change in {bytes}");
            let encoded = encode(Kind::Message, &answer);
            let answer: Patches = decode(Kind::Message, &encoded).unwrap();
            let done = apply(&requester.store, &asked, answer).unwrap();
            assert_eq!(done, (1, u64::from(pair.wanted.len)));
            assert_eq!(requester.reads(&pair.wanted), holder.reads(&pair.wanted));
        }
    }

    #[test]
    fn what_has_no_short_patch_is_left_to_others() {
        let (holder, requester) = (side(), side());
        let unlike =
            Pair { base: holder.put(&noise(1, 9_000)), wanted: holder.put(&noise(2, 9_000)) };
        let lost = changed(&side(), &requester, 9_000, 3);
        let asked = AskPatches { pairs: vec![unlike, lost] };
        let (answer, made) = make(&holder.store, &asked).unwrap();
        assert_eq!((answer.patches.clone(), made), (vec![None, None], 0));
        assert_eq!(apply(&requester.store, &asked, answer).unwrap(), (0, 0));
    }

    #[test]
    fn a_false_patch_is_taken_for_a_lie_and_nothing_of_it_is_kept() {
        let (holder, requester) = (side(), side());
        let pair = changed(&holder, &requester, 9_000, 1);
        let asked = AskPatches { pairs: vec![pair] };
        let base = holder.reads(&pair.base).unwrap();
        let by = |bytes: &[u8]| {
            zstd::bulk::Compressor::with_dictionary(LEVEL, &base).unwrap().compress(bytes).unwrap()
        };
        for patch in [
            b"no zstd".to_vec(),
            Vec::new(),
            by(b"something else"),
            by(&vec![0; 64 << 20]), // a bomb
        ] {
            let answer = Patches { patches: vec![Some(patch)] };
            assert!(apply(&requester.store, &asked, answer).unwrap_err().is_lie());
            assert!(requester.reads(&pair.wanted).is_none());
        }
        let other = Patches { patches: vec![None, None] };
        assert!(apply(&requester.store, &asked, other).unwrap_err().is_lie());
        let much = Pair { wanted: Chunk { len: u32::MAX, ..pair.wanted }, ..pair };
        assert!(make(&holder.store, &AskPatches { pairs: vec![much] }).unwrap_err().is_lie());
    }

    #[test]
    fn pairs_are_what_stood_there_before() {
        let here = side();
        let chunk = |n: u64| Chunk { digest: Digest::of_bytes(&n.to_le_bytes()), len: 5_000 };
        let file = |path: &str, chunks: &[u64]| Entry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            node: Node::File {
                mode: 0o644,
                size: 5_000 * chunks.len() as u64,
                digest: Digest::of_bytes(format!("{chunks:?}").as_bytes()),
                chunks: chunks.iter().map(|n| chunk(*n)).collect(),
            },
        };
        let tree = |entries: &[Entry]| Tree::new(entries.to_vec()).unwrap();
        let before = tree(&[file("a", &[1]), file("b", &[10, 11, 12, 13]), file("c", &[20])]);
        let after = tree(&[
            file("a", &[2]),
            file("b", &[10, 31, 12, 33, 34]),
            file("c", &[20]),
            file("new", &[40]),
        ]);
        let found = pairs(&here.store, &after, &before).unwrap();
        let found: Vec<(Chunk, Chunk)> = found.into_iter().map(|p| (p.wanted, p.base)).collect();
        let pair = |wanted, base| (chunk(wanted), chunk(base));
        assert_eq!(found, [pair(2, 1), pair(31, 11), pair(33, 13), pair(34, 13)]);
    }

    #[test]
    fn a_long_list_is_asked_in_parts_and_the_rest_is_a_release() {
        let pair = |len| {
            let chunk = |n: u8| Chunk { digest: Digest([n; 32]), len };
            Pair { wanted: chunk(1), base: chunk(2) }
        };
        let lists = in_lists(vec![pair(1_500); PATCHES_MAX + 1]);
        assert_eq!(lists.iter().map(|l| l.pairs.len()).collect::<Vec<_>>(), [PATCHES_MAX, 1]);
        let lists = in_lists(vec![pair(limits::CHUNK_MAX as u32); 17]);
        assert_eq!(lists.iter().map(|l| l.pairs.len()).collect::<Vec<_>>(), [1, 8, 8]);
        let longest = AskPatches { pairs: vec![pair(u32::MAX); PATCHES_MAX] };
        assert!(encode(Kind::Message, &longest).len() <= limits::ACTION_LIST_MAX);
        let longest =
            vec![Some(vec![9; PATCHED_AT_ONCE as usize / SAVES / PATCHES_MAX]); PATCHES_MAX];
        let longest = encode(Kind::Message, &Patches { patches: longest });
        assert!(longest.len() <= ANSWER_MAX, "{}", longest.len());
    }
}
