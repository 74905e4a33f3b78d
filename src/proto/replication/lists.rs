//! The three lists.

use serde::{Deserialize, Serialize};

use crate::base::{
    Digest, limits,
    tree::{self, Change, Chunk, Tree},
    wire,
};

/// What a holder has: every item with its signature. For files an item is an
/// entry of a tree, which also says of which chunks a file is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IHaveList {
    tree: Tree,
}

impl IHaveList {
    /// The list of what `tree` holds.
    pub fn new(tree: Tree) -> Self {
        Self { tree }
    }

    /// The signature of the whole.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// The items.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The items, given away.
    pub fn into_tree(self) -> Tree {
        self.tree
    }
}

/// What a requester asks for: at most [`limits::ACTIONS_MAX`] chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionList {
    /// The chunks wanted, in the order in which they are wanted.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ACTIONS_MAX }>")]
    pub chunks: Vec<Chunk>,
}

impl ActionList {
    /// Content asked for, bytes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
    }
}

/// What is to change at the requester, item by item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateList {
    /// The items, in the order in which they are applied.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
    pub updates: Vec<Update>,
}

/// One item of an [`UpdateList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// SET, ADD or DEL of a path. The content of a file lies in the chunks
    /// that its entry names.
    Path(Change),
    /// A chunk that was asked for.
    Chunk {
        /// Which one.
        chunk: Chunk,
        /// Its bytes, or why there are none.
        content: Content,
    },
}

/// Where the content of a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Right behind the list, in the order of the list.
    Inline,
    /// Not at this holder: ask another.
    Lacking,
}

impl UpdateList {
    /// What turns `have` into `want`, path by path: what a full
    /// synchronisation shows before it does it.
    pub fn between(have: &Tree, want: &Tree) -> Self {
        Self { updates: tree::changes(have, want).into_iter().map(Update::Path).collect() }
    }
}

/// Asks what a tree differs in from one of those that the requester has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The tree that is wanted.
    pub root: Digest,
    /// The trees that are there, the likeliest first.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::BASES_MAX }>")]
    pub bases: Vec<Digest>,
}

/// The answer to [`Since`]: an [`IHaveList`] in fewer words, for somebody who
/// has one of another tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Changes {
    /// The whole list has to be asked for: it would be no longer, or the holder
    /// knows none of the trees.
    Unknown,
    /// It is what these make of a tree that the requester has.
    From {
        /// Of which.
        base: Digest,
        /// SET, ADD and DEL of its paths.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
        changes: Vec<Change>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire::Kind;

    #[test]
    fn the_longest_lists_fit_their_bound() {
        let chunk = Chunk { digest: Digest([0xFF; 32]), len: u32::MAX };
        let asked = ActionList { chunks: vec![chunk; limits::ACTIONS_MAX] };
        let bytes = wire::encode(Kind::Message, &asked);
        assert!(bytes.len() <= limits::ACTION_LIST_MAX, "{}", bytes.len());
        assert_eq!(wire::decode::<ActionList>(Kind::Message, &bytes), Ok(asked));
        let update = Update::Chunk { chunk, content: Content::Lacking };
        let answer = UpdateList { updates: vec![update; limits::ACTIONS_MAX] };
        let bytes = wire::encode(Kind::Message, &answer);
        assert!(bytes.len() <= limits::ACTION_LIST_MAX, "{}", bytes.len());
        let over = ActionList { chunks: vec![chunk; limits::ACTIONS_MAX + 1] };
        let bytes = wire::encode(Kind::Message, &over);
        assert!(wire::decode::<ActionList>(Kind::Message, &bytes).is_err());
    }
}
