//! The pieces of a tree, counted: what members say to each other about them
//! fits in a bit each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Fault;
use crate::base::{
    Digest, limits,
    tree::{Chunk, Node, Tree},
    wire::{self, Kind},
};

/// Every distinct chunk of a listing, in the order of its first use. Two
/// members mean the same by a position if their listings have one digest.
#[derive(Debug)]
pub struct Positions {
    listing: Digest,
    chunks: Vec<Chunk>,
    index: BTreeMap<Digest, u32>,
}

impl Positions {
    /// Counts the chunks of `tree`. Refuses one with two lengths.
    pub fn of(tree: &Tree) -> Result<Self, Fault> {
        let (mut chunks, mut index) = (Vec::new(), BTreeMap::new());
        let mut cut = blake3::Hasher::new_derive_key("althing listing");
        for entry in tree.entries() {
            let Node::File { chunks: pieces, .. } = &entry.node else { continue };
            for chunk in pieces {
                cut.update(&chunk.digest.0);
                let next = chunks.len() as u32;
                let at = *index.entry(chunk.digest).or_insert(next);
                if at == next {
                    chunks.push(*chunk);
                } else if chunks[at as usize].len != chunk.len {
                    return Err(Fault::TwoLengths(chunk.digest));
                }
            }
        }
        Ok(Self { listing: Digest(*cut.finalize().as_bytes()), chunks, index })
    }

    /// Counts these, which are all distinct: for whoever fetches them alone, and has no need
    /// to count what it holds.
    pub fn of_few(chunks: Vec<Chunk>) -> Self {
        let index = chunks.iter().map(|chunk| chunk.digest).zip(0..).collect();
        Self { listing: Digest::of("althing few chunks", &[]), chunks, index }
    }

    /// Stands for how the tree is cut.
    pub fn listing(&self) -> Digest {
        self.listing
    }

    /// The chunks, by position.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Where a chunk is.
    pub fn position(&self, digest: &Digest) -> Option<u32> {
        self.index.get(digest).copied()
    }
}

/// A bit for each position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    /// So many, all clear.
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![0; len.div_ceil(8)], len }
    }

    /// So many, as they came over the wire; what is beyond the end is clear.
    pub fn from_wire(mut bytes: Vec<u8>, len: usize) -> Self {
        bytes.resize(len.div_ceil(8), 0);
        Self { bytes, len }
    }

    /// As they go over the wire.
    pub fn to_wire(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Whether this one is set; `false` beyond the end.
    pub fn get(&self, at: u32) -> bool {
        let at = at as usize;
        at < self.len && self.bytes[at / 8] & (1 << (at % 8)) != 0
    }

    /// Sets one; whether it was clear. Nothing beyond the end.
    pub fn set(&mut self, at: u32) -> bool {
        let fresh = (at as usize) < self.len && !self.get(at);
        if fresh {
            self.bytes[at as usize / 8] |= 1 << (at % 8);
        }
        fresh
    }
}

/// The first word of a requester: which tree, how it knows it to be cut, and
/// what it has of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which tree.
    pub root: Digest,
    /// See [`Positions::listing`].
    pub listing: Digest,
    /// A bit for each position.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::BITS_MAX }>")]
    pub have: Vec<u8>,
}

/// How the asked member stands to the same tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It holds all of it.
    Whole,
    /// It is fetching it as well, and says itself what it has.
    Fetching,
    /// It has nothing of it, or cut in another way.
    Elsewhere,
}

/// What a requester has got since it spoke last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gained {
    /// Everything.
    pub all: bool,
    /// These positions.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ACTIONS_MAX }>")]
    pub positions: Vec<u32>,
}

impl Join {
    /// The bits of somebody who has `have` of what `positions` counts.
    pub fn new(root: Digest, positions: &Positions, have: &Bits) -> Self {
        Self { root, listing: positions.listing(), have: have.to_wire() }
    }

    /// As a frame's payload.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(Kind::Message, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{RelPath, tree::Entry};

    #[test]
    fn chunks_are_counted_once_in_the_order_of_their_use() {
        let chunk = |n: u8| Chunk { digest: Digest([n; 32]), len: 10 };
        let file = |name: &str, chunks: Vec<Chunk>| {
            let size = chunks.iter().map(|c| u64::from(c.len)).sum();
            let node = Node::File { mode: 0o644, size, digest: Digest([0; 32]), chunks };
            Entry { path: RelPath::parse(name.as_bytes()).unwrap(), node }
        };
        let tree = |second: Vec<Chunk>| {
            Tree::new(vec![file("a", vec![chunk(2), chunk(1), chunk(2)]), file("b", second)])
        };
        let one = Positions::of(&tree(vec![chunk(3)]).unwrap()).unwrap();
        assert_eq!(one.chunks(), [chunk(2), chunk(1), chunk(3)]);
        assert_eq!(one.position(&chunk(3).digest), Some(2));
        let two = Positions::of(&tree(vec![chunk(1), chunk(3)]).unwrap()).unwrap();
        assert_eq!(one.chunks(), two.chunks());
        assert_ne!(one.listing(), two.listing());
        let odd = tree(vec![Chunk { len: 11, ..chunk(1) }]).unwrap();
        assert_eq!(Positions::of(&odd).unwrap_err(), Fault::TwoLengths(chunk(1).digest));
    }

    #[test]
    fn bits_have_an_end() {
        let mut bits = Bits::new(11);
        assert!(bits.set(10) && !bits.set(10) && !bits.set(11));
        assert!(bits.get(10) && !bits.get(9) && !bits.get(11) && !bits.get(u32::MAX));
        let same = Bits::from_wire(bits.to_wire(), 11);
        assert_eq!(same, bits);
        assert!(Bits::from_wire(vec![0xFF; 99], 11).to_wire().len() == 2);
        assert!(!Bits::from_wire(Vec::new(), 11).get(3));
    }
}
