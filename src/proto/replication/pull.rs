//! The plan of a pull from one holder: what to ask for next, whether what
//! comes is what was asked, what is left.
//!
//! A holder that lies is dropped at the first lie; one that lacks something
//! is not at fault, and what is left goes to another. Chunks are asked for in
//! the order of their first use, so that what is read together is stored
//! together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{ActionList, Content, IHaveList, Update, UpdateList};
use crate::base::{
    Digest, limits,
    tree::{Chunk, Node, Tree},
};

/// Content of one ActionList, bytes: a quarter of what may be in flight, so
/// that the next lists are with the holder while it answers the first.
const LIST_BYTES: u64 = limits::IN_FLIGHT_MAX as u64 / 4;

/// Why a holder is to be dropped. All of these are lies: an honest holder of
/// the same version never does them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The list is not of the tree that was wanted.
    #[error("its list has the root {found} and {wanted} was asked for")]
    WrongRoot {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// One chunk with two lengths.
    #[error("its list gives chunk {0} two lengths")]
    TwoLengths(Digest),
    /// Something that was not asked for, or came already.
    #[error("it sent {0}, which was not asked for")]
    Unasked(Digest),
    /// Something in answer to chunks that is no chunk.
    #[error("it sent changes of paths where chunks were asked for")]
    NoChunk,
    /// An answer with nothing in it, which could go on for ever.
    #[error("it sent an empty answer")]
    Empty,
    /// A chunk of another length than its list says.
    #[error("it sent {found} bytes for {digest}, which has {wanted}")]
    WrongLength {
        /// The chunk.
        digest: Digest,
        /// Its length by the list, bytes.
        wanted: u32,
        /// The length announced, bytes.
        found: u32,
    },
    /// Bytes that don't have the signature asked for.
    #[error("it sent {found} for {wanted}")]
    WrongBytes {
        /// The chunk.
        wanted: Digest,
        /// The signature of what came.
        found: Digest,
    },
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that have come and were verified.
    pub chunks_done: u64,
    /// Chunks that were not held at the start.
    pub chunks_total: u64,
    /// Their bytes that have come.
    pub bytes_done: u64,
    /// Their bytes in all.
    pub bytes_total: u64,
}

/// The plan of one pull from one holder. Each chunk is in one of these states:
/// queued, asked for, announced (its bytes are on their way through this
/// member), done, lacking.
#[derive(Debug)]
pub struct Pull {
    queued: VecDeque<Chunk>,
    asked: BTreeMap<Digest, u32>,
    announced: BTreeMap<Digest, u32>,
    lacking: Vec<Chunk>,
    bytes_in_flight: u64,
    progress: Progress,
}

impl Pull {
    /// Plans to fetch what `list` has and `held` does not know. Refuses a list
    /// that is not of `wanted`.
    pub fn new(
        wanted: Digest,
        list: &IHaveList,
        held: impl FnMut(&Chunk) -> bool,
    ) -> Result<Self, Fault> {
        let found = list.root();
        if found != wanted {
            return Err(Fault::WrongRoot { wanted, found });
        }
        Self::of_tree(list.tree(), held)
    }

    /// As [`new`](Self::new), for a listing whose root is known to be right.
    pub fn of_tree(tree: &Tree, mut held: impl FnMut(&Chunk) -> bool) -> Result<Self, Fault> {
        let mut lengths = BTreeMap::new();
        let mut queued = VecDeque::new();
        let mut progress = Progress::default();
        for entry in tree.entries() {
            let Node::File { chunks, .. } = &entry.node else { continue };
            for chunk in chunks {
                match lengths.insert(chunk.digest, chunk.len) {
                    None => {}
                    Some(len) if len == chunk.len => continue,
                    Some(_) => return Err(Fault::TwoLengths(chunk.digest)),
                }
                if !held(chunk) {
                    queued.push_back(*chunk);
                    progress.chunks_total += 1;
                    progress.bytes_total += u64::from(chunk.len);
                }
            }
        }
        Ok(Self {
            queued,
            asked: BTreeMap::new(),
            announced: BTreeMap::new(),
            lacking: Vec::new(),
            bytes_in_flight: 0,
            progress,
        })
    }

    /// What to ask for next; `None` while enough is in flight, or nothing is
    /// left to ask for.
    pub fn next_list(&mut self) -> Option<ActionList> {
        if self.bytes_in_flight + LIST_BYTES > limits::IN_FLIGHT_MAX as u64 {
            return None; // a list of full size later, instead of many small ones now
        }
        let mut list = ActionList::default();
        let mut bytes = 0;
        while let Some(chunk) = self.queued.front() {
            let len = u64::from(chunk.len);
            if bytes + len > LIST_BYTES || list.chunks.len() == limits::ACTIONS_MAX {
                break;
            }
            bytes += len;
            self.asked.insert(chunk.digest, chunk.len);
            list.chunks.extend(self.queued.pop_front());
        }
        self.bytes_in_flight += bytes;
        if list.chunks.is_empty() { None } else { Some(list) }
    }

    /// Judges an UpdateList before a byte of its content is read. The chunks
    /// whose bytes follow, in order; their lengths are as in the tree.
    pub fn announced(&mut self, list: &UpdateList) -> Result<Vec<Chunk>, Fault> {
        if list.updates.is_empty() {
            return Err(Fault::Empty);
        }
        let mut follow = Vec::new();
        for update in &list.updates {
            let Update::Chunk { chunk, content } = update else { return Err(Fault::NoChunk) };
            let digest = chunk.digest;
            let wanted = self.asked.remove(&digest).ok_or(Fault::Unasked(digest))?;
            if wanted != chunk.len {
                return Err(Fault::WrongLength { digest, wanted, found: chunk.len });
            }
            match content {
                Content::Inline => {
                    self.announced.insert(digest, wanted);
                    follow.push(*chunk);
                }
                Content::Lacking => {
                    self.bytes_in_flight -= u64::from(wanted);
                    self.lacking.push(*chunk);
                }
            }
        }
        Ok(follow)
    }

    /// The bytes of an announced chunk have come and have the signature
    /// `found`, which the caller has made of them.
    pub fn arrived(&mut self, digest: Digest, found: Digest) -> Result<(), Fault> {
        let len = self.announced.remove(&digest).ok_or(Fault::Unasked(digest))?;
        if found != digest {
            return Err(Fault::WrongBytes { wanted: digest, found });
        }
        self.bytes_in_flight -= u64::from(len);
        self.progress.chunks_done += 1;
        self.progress.bytes_done += u64::from(len);
        Ok(())
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the holder owes an answer.
    pub fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether everything has come.
    pub fn is_complete(&self) -> bool {
        self.progress.chunks_done == self.progress.chunks_total
    }

    /// Whether this holder has given all that it has, and something is missing.
    pub fn is_exhausted(&self) -> bool {
        let busy = self.is_waiting() || !self.queued.is_empty() || !self.announced.is_empty();
        !busy && !self.lacking.is_empty()
    }

    /// What has not come, for the plan of another holder.
    pub fn left(&self) -> BTreeSet<Chunk> {
        let on_the_way = self.asked.iter().chain(&self.announced);
        let on_the_way = on_the_way.map(|(digest, len)| Chunk { digest: *digest, len: *len });
        self.queued.iter().chain(&self.lacking).copied().chain(on_the_way).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{RelPath, tree::Entry};

    fn chunk(number: u32, len: u32) -> Chunk {
        Chunk { digest: Digest::of_bytes(&number.to_le_bytes()), len }
    }

    /// A tree of files, each of these chunks.
    fn tree(files: &[Vec<Chunk>]) -> Tree {
        let entries = files.iter().enumerate().map(|(n, chunks)| {
            let path = RelPath::parse(format!("{n:05}").as_bytes()).unwrap();
            let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            let digest = Digest::of_bytes(&(n as u64).to_le_bytes());
            Entry { path, node: Node::File { mode: 0o644, size, digest, chunks: chunks.clone() } }
        });
        Tree::new(entries.collect()).unwrap()
    }

    fn answer(chunks: &[Chunk], content: Content) -> UpdateList {
        let updates = chunks.iter().map(|chunk| Update::Chunk { chunk: *chunk, content });
        UpdateList { updates: updates.collect() }
    }

    #[test]
    fn only_the_tree_that_was_wanted_is_planned() {
        let list = IHaveList::new(tree(&[vec![chunk(1, 5)]]));
        assert!(Pull::new(list.root(), &list, |_| false).is_ok());
        let wanted = Tree::empty_root();
        let error = Pull::new(wanted, &list, |_| false).unwrap_err();
        assert_eq!(error, Fault::WrongRoot { wanted, found: list.root() });
        let two = tree(&[vec![chunk(1, 5)], vec![chunk(1, 6)]]);
        let error = Pull::of_tree(&two, |_| false).unwrap_err();
        assert_eq!(error, Fault::TwoLengths(chunk(1, 5).digest));
    }

    #[test]
    fn what_is_held_is_not_asked_for_and_nothing_twice() {
        let tree = tree(&[vec![chunk(1, 5), chunk(2, 6), chunk(1, 5)], vec![chunk(3, 7)], vec![]]);
        let mut pull = Pull::of_tree(&tree, |c| *c == chunk(3, 7)).unwrap();
        let list = pull.next_list().unwrap();
        assert_eq!(list.chunks, [chunk(1, 5), chunk(2, 6)]);
        assert_eq!(list.bytes(), 11);
        assert_eq!(pull.next_list(), None);
        assert!(pull.is_waiting() && !pull.is_complete());
        let follow = pull.announced(&answer(&list.chunks, Content::Inline)).unwrap();
        assert_eq!(follow, list.chunks);
        for chunk in follow {
            pull.arrived(chunk.digest, chunk.digest).unwrap();
        }
        assert!(pull.is_complete() && !pull.is_exhausted() && pull.left().is_empty());
        let done = Progress { chunks_done: 2, chunks_total: 2, bytes_done: 11, bytes_total: 11 };
        assert_eq!(pull.progress(), done);
        let all = Pull::of_tree(&tree, |_| true).unwrap();
        assert!(all.is_complete() && !all.is_exhausted());
    }

    #[test]
    fn every_lie_is_noticed() {
        let tree = tree(&[vec![chunk(1, 5), chunk(2, 6)]]);
        let fresh = || {
            let mut pull = Pull::of_tree(&tree, |_| false).unwrap();
            pull.next_list().unwrap();
            pull
        };
        let (one, unasked) = (chunk(1, 5), chunk(9, 5));
        let error = fresh().announced(&answer(&[unasked], Content::Inline)).unwrap_err();
        assert_eq!(error, Fault::Unasked(unasked.digest));
        let error = fresh().announced(&answer(&[unasked], Content::Lacking)).unwrap_err();
        assert_eq!(error, Fault::Unasked(unasked.digest));
        let error = fresh().announced(&answer(&[one, one], Content::Inline)).unwrap_err();
        assert_eq!(error, Fault::Unasked(one.digest));
        let error = fresh().announced(&answer(&[chunk(1, 4)], Content::Inline)).unwrap_err();
        assert_eq!(error, Fault::WrongLength { digest: one.digest, wanted: 5, found: 4 });
        let path = Update::Path(Change::Del(RelPath::parse(b"x").unwrap()));
        let error = fresh().announced(&UpdateList { updates: vec![path] }).unwrap_err();
        assert_eq!(error, Fault::NoChunk);
        assert_eq!(fresh().announced(&UpdateList::default()), Err(Fault::Empty));
        let mut pull = fresh();
        assert_eq!(pull.arrived(one.digest, one.digest), Err(Fault::Unasked(one.digest)));
        pull.announced(&answer(&[one], Content::Inline)).unwrap();
        let found = unasked.digest;
        let error = pull.arrived(one.digest, found).unwrap_err();
        assert_eq!(error, Fault::WrongBytes { wanted: one.digest, found });
    }

    #[test]
    fn what_one_holder_lacks_is_left_for_another() {
        let tree = tree(&[vec![chunk(1, 5), chunk(2, 6)]]);
        let mut pull = Pull::of_tree(&tree, |_| false).unwrap();
        pull.next_list().unwrap();
        pull.announced(&answer(&[chunk(1, 5)], Content::Lacking)).unwrap();
        assert!(!pull.is_exhausted(), "the other may still come");
        pull.announced(&answer(&[chunk(2, 6)], Content::Inline)).unwrap();
        pull.arrived(chunk(2, 6).digest, chunk(2, 6).digest).unwrap();
        assert!(pull.is_exhausted() && !pull.is_complete());
        assert_eq!(pull.left(), BTreeSet::from([chunk(1, 5)]));
    }

    use crate::base::tree::Change;

    proptest! {
        /// Whatever the order and the grouping of honest answers, everything
        /// comes, within the bounds, and nothing is asked for twice.
        #[test]
        fn a_pull_comes_to_its_end(
            lens in proptest::collection::vec(1_u32..=limits::CHUNK_MAX as u32, 0..60),
            small in 0_usize..3_000,
            picks in proptest::collection::vec(any::<(u8, bool)>(), 1..40),
        ) {
            let mut chunks: Vec<Chunk> =
                lens.iter().enumerate().map(|(n, len)| chunk(n as u32, *len)).collect();
            chunks.extend((0..small).map(|n| chunk(1_000 + n as u32, 10)));
            let files: Vec<Vec<Chunk>> = chunks.chunks(7).map(<[Chunk]>::to_vec).collect();
            let mut pull = Pull::of_tree(&tree(&files), |_| false).unwrap();
            let mut picks = picks.iter().cycle();
            let (mut open, mut asked) = (Vec::<Chunk>::new(), BTreeSet::new());
            let mut lacking = BTreeSet::new();
            loop {
                while let Some(list) = pull.next_list() {
                    prop_assert!(list.chunks.len() <= limits::ACTIONS_MAX);
                    for chunk in list.chunks {
                        prop_assert!(asked.insert(chunk), "asked twice");
                        open.push(chunk);
                    }
                }
                let in_flight: u64 = open.iter().map(|c| u64::from(c.len)).sum();
                prop_assert!(in_flight <= limits::IN_FLIGHT_MAX as u64);
                if open.is_empty() {
                    break;
                }
                let (pick, inline) = picks.next().unwrap();
                let chunk = open.swap_remove(usize::from(*pick) % open.len());
                let content = if *inline { Content::Inline } else { Content::Lacking };
                let follow = pull.announced(&answer(&[chunk], content)).unwrap();
                prop_assert_eq!(follow.len(), usize::from(*inline));
                for chunk in follow {
                    pull.arrived(chunk.digest, chunk.digest).unwrap();
                }
                if !inline {
                    lacking.insert(chunk);
                }
            }
            prop_assert_eq!(asked, chunks.iter().copied().collect());
            prop_assert_eq!(pull.left(), lacking.clone());
            prop_assert_eq!(pull.is_complete(), lacking.is_empty());
            prop_assert_eq!(pull.is_exhausted(), !lacking.is_empty());
        }
    }
}
