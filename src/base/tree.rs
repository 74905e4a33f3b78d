//! Trees: what a directory holds, in a form that can be signed, sent and
//! compared. The lists that members exchange are in terms of it.

use std::{cmp::Ordering, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Digest, RelPath, limits, wire};

/// The listing of a tree: every path below its root, sorted by component, so
/// that a directory stands right before what it holds. The root is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tree {
    entries: Vec<Entry>,
}

/// One path of a tree and what stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where, below the root of the tree.
    pub path: RelPath,
    /// What.
    pub node: Node,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits, 0 to 0o777.
        mode: u16,
    },
    /// A regular file.
    File {
        /// Permission bits, 0 to 0o777.
        mode: u16,
        /// Bytes.
        size: u64,
        /// BLAKE3 of all its bytes.
        digest: Digest,
        /// Its content in pieces, in order; their lengths add up to `size`.
        /// A way to fetch it and no part of the signature: two members may
        /// cut the same file differently and still agree.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::CHUNKS_MAX }>")]
        chunks: Vec<Chunk>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written in the link. Althing never follows it.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::PATH_MAX }>")]
        target: Vec<u8>,
    },
}

/// A piece of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// BLAKE3 of the bytes.
    pub digest: Digest,
    /// Bytes, 1 to [`limits::CHUNK_MAX`].
    pub len: u32,
}

/// Why entries are no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The same path twice.
    #[error("{0} is listed twice")]
    Twice(RelPath),
    /// Something below a path that is no directory, or is not listed.
    #[error("{0} is listed, but what holds it is no directory of the list")]
    Orphan(RelPath),
    /// Permission bits beyond 0o777: setuid, setgid or sticky.
    #[error("{0} has permission bits beyond rwxrwxrwx")]
    Mode(RelPath),
    /// Chunk lengths that don't add up, a chunk or a file over its bound.
    #[error("{0} has a size that its pieces don't add up to, or is too large")]
    Size(RelPath),
    /// Too many entries, or changes.
    #[error("it has more than 2,000,000 entries")]
    TooMany,
    /// A change of what the tree does not hold.
    #[error("{0} is to be changed or to go, and is not there")]
    NotThere(RelPath),
    /// An addition of what the tree holds.
    #[error("{0} is to be added, and is there")]
    There(RelPath),
}

impl Tree {
    /// Sorts and checks `entries`: every parent listed and a directory, no
    /// path twice, modes and sizes within bounds.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        if entries.len() > limits::ENTRIES_MAX {
            return Err(TreeError::TooMany);
        }
        entries.sort_by(|a, b| by_component(&a.path, &b.path));
        let tree = Self { entries };
        tree.check()?;
        Ok(tree)
    }

    /// All entries, sorted by component.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What stands at `path`.
    pub fn get(&self, path: &RelPath) -> Option<&Node> {
        let found = self.entries.binary_search_by(|entry| by_component(&entry.path, path)).ok()?;
        Some(&self.entries[found].node)
    }

    /// Whether the tree holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many regular files it holds.
    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|e| matches!(e.node, Node::File { .. })).count() as u64
    }

    /// Bytes of all regular files.
    pub fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|e| if let Node::File { size, .. } = e.node { size } else { 0 })
            .sum()
    }

    /// Every distinct chunk, sorted by digest.
    pub fn chunks(&self) -> BTreeSet<Chunk> {
        let mut all = BTreeSet::new();
        for entry in &self.entries {
            if let Node::File { chunks, .. } = &entry.node {
                all.extend(chunks.iter().copied());
            }
        }
        all
    }

    /// The signature of the whole: a Merkle tree whose inner nodes are the
    /// directories, each the digest of its sorted entries.
    pub fn root(&self) -> Digest {
        let mut position = 0;
        self.directory_digest(&mut position, 0)
    }

    /// The signature of an empty tree: a member that reports it holds nothing.
    pub fn empty_root() -> Digest {
        Self::default().root()
    }

    fn check(&self) -> Result<(), TreeError> {
        let mut open: Vec<&RelPath> = Vec::new(); // the directories around the current entry
        let mut before: Option<&RelPath> = None;
        for Entry { path, node } in &self.entries {
            if before.is_some_and(|b| b == path) {
                return Err(TreeError::Twice(path.clone()));
            }
            before = Some(path);
            let parent = path.parent();
            while open.last().is_some_and(|o| Some(*o) != parent.as_ref()) {
                open.pop();
            }
            if parent.as_ref() != open.last().copied() {
                return Err(TreeError::Orphan(path.clone()));
            }
            match node {
                Node::Directory { mode } | Node::File { mode, .. } if *mode > 0o777 => {
                    return Err(TreeError::Mode(path.clone()));
                }
                Node::Directory { .. } => open.push(path),
                Node::File { size, chunks, .. } => {
                    let fits = |c: &Chunk| c.len > 0 && c.len as usize <= limits::CHUNK_MAX;
                    let sum: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
                    if sum != *size || *size > limits::FILE_MAX || !chunks.iter().all(fits) {
                        return Err(TreeError::Size(path.clone()));
                    }
                }
                Node::Symlink { .. } => {}
            }
        }
        Ok(())
    }

    /// The digest of the directory whose entries start at `position` and have
    /// `depth` components before their own name; `position` ends up behind it.
    fn directory_digest(&self, position: &mut usize, depth: usize) -> Digest {
        let mut bytes = Vec::new();
        let top = self.entries.get(*position).map(|e| e.path.parent());
        while let Some(Entry { path, node }) = self.entries.get(*position) {
            if Some(path.parent()) != top || path.components().count() != depth + 1 {
                break;
            }
            *position += 1;
            let name = path.file_name();
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name);
            match node {
                Node::Directory { mode } => {
                    bytes.push(b'd');
                    bytes.extend_from_slice(&mode.to_le_bytes());
                    let inside = self
                        .entries
                        .get(*position)
                        .is_some_and(|next| next.path.parent().as_ref() == Some(path));
                    let digest = if inside {
                        self.directory_digest(position, depth + 1)
                    } else {
                        Digest::of(DIRECTORY, b"")
                    };
                    bytes.extend_from_slice(&digest.0);
                }
                Node::File { mode, size, digest, .. } => {
                    bytes.push(b'f');
                    bytes.extend_from_slice(&mode.to_le_bytes());
                    bytes.extend_from_slice(&size.to_le_bytes());
                    bytes.extend_from_slice(&digest.0);
                }
                Node::Symlink { target } => {
                    bytes.push(b'l');
                    bytes.extend_from_slice(&(target.len() as u32).to_le_bytes());
                    bytes.extend_from_slice(target);
                }
            }
        }
        Digest::of(DIRECTORY, &bytes)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(deserialize_with = "wire::bounded::<_, _, { limits::ENTRIES_MAX }>")]
            entries: Vec<Entry>,
        }
        let raw = Raw::deserialize(deserializer)?;
        Self::new(raw.entries).map_err(serde::de::Error::custom)
    }
}

const DIRECTORY: &str = "althing directory";

/// What changes one tree into another, path by path: the UpdateList of the
/// files driver is made of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// There, but different.
    Set(Entry),
    /// Not there yet.
    Add(Entry),
    /// There, and not wanted.
    Del(RelPath),
}

impl Change {
    /// The path that is changed.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Set(entry) | Self::Add(entry) => &entry.path,
            Self::Del(path) => path,
        }
    }
}

/// The changes that turn `have` into `want`. Deletions come first, deepest
/// first; then what is set and added, a directory before what it holds.
pub fn changes(have: &Tree, want: &Tree) -> Vec<Change> {
    let (mut gone, mut made) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (have.entries.iter().peekable(), want.entries.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(l), Some(r)) => by_component(&l.path, &r.path),
        };
        match order {
            Ordering::Less => gone.extend(left.next().map(|l| Change::Del(l.path.clone()))),
            Ordering::Greater => made.extend(right.next().map(|r| Change::Add(r.clone()))),
            Ordering::Equal => {
                if let (Some(l), Some(r)) = (left.next(), right.next())
                    && !same(&l.node, &r.node)
                {
                    made.push(Change::Set(r.clone()));
                }
            }
        }
    }
    gone.reverse();
    gone.extend(made);
    gone
}

/// What `list` makes of `have`: the other way round of [`changes`], in whatever
/// order they come. Entries that no change names stay as they are, which
/// includes how their files are cut. Nothing is believed of `list`: it may come
/// from elsewhere.
pub fn apply(have: &Tree, list: &[Change]) -> Result<Tree, TreeError> {
    if list.len() > limits::ENTRIES_MAX {
        return Err(TreeError::TooMany);
    }
    let mut list: Vec<&Change> = list.iter().collect();
    list.sort_by(|a, b| by_component(a.path(), b.path()));
    let mut list = list.into_iter().peekable();
    let mut entries = Vec::with_capacity(have.entries.len());
    for entry in &have.entries {
        let before = |c: &&Change| by_component(c.path(), &entry.path) == Ordering::Less;
        while let Some(change) = list.next_if(before) {
            entries.push(added(change)?);
        }
        match list.next_if(|change| *change.path() == entry.path) {
            None => entries.push(entry.clone()),
            Some(Change::Set(other)) => entries.push(other.clone()),
            Some(Change::Del(_)) => {}
            Some(Change::Add(_)) => return Err(TreeError::There(entry.path.clone())),
        }
        // Whatever a second change of one path is, it is none of these lists.
        if list.next_if(|change| *change.path() == entry.path).is_some() {
            return Err(TreeError::Twice(entry.path.clone()));
        }
    }
    for change in list {
        entries.push(added(change)?);
    }
    Tree::new(entries)
}

/// The entry that a change makes where nothing is.
fn added(change: &Change) -> Result<Entry, TreeError> {
    match change {
        Change::Add(entry) => Ok(entry.clone()),
        Change::Set(Entry { path, .. }) | Change::Del(path) => {
            Err(TreeError::NotThere(path.clone()))
        }
    }
}

/// Whether two nodes have the same signature; how they are cut into chunks
/// does not matter.
pub fn same(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::File { mode: m, size: s, digest: d, .. }, Node::File { mode, size, digest, .. }) => {
            m == mode && s == size && d == digest
        }
        _ => a == b,
    }
}

fn by_component(a: &RelPath, b: &RelPath) -> Ordering {
    a.components().cmp(b.components())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn dir(text: &str) -> Entry {
        Entry { path: path(text), node: Node::Directory { mode: 0o755 } }
    }

    fn file(text: &str, content: &[u8]) -> Entry {
        let digest = Digest::of_bytes(content);
        let chunks = vec![Chunk { digest, len: content.len() as u32 }];
        let node = Node::File { mode: 0o644, size: content.len() as u64, digest, chunks };
        Entry { path: path(text), node }
    }

    #[test]
    fn the_root_depends_on_every_name_byte_and_mode() {
        let base = Tree::new(vec![dir("a"), file("a/x", b"1"), file("b", b"2")]).unwrap();
        let root = base.root();
        let others = [
            vec![dir("a"), file("a/x", b"1")],
            vec![dir("a"), file("a/y", b"1"), file("b", b"2")],
            vec![dir("a"), file("a/x", b"3"), file("b", b"2")],
            vec![dir("a"), file("b", b"2")],
            vec![file("a", b"1"), file("b", b"2")],
            vec![dir("a"), file("a/x", b"1"), file("b", b"2"), dir("c")],
        ];
        for other in others {
            assert_ne!(Tree::new(other).unwrap().root(), root);
        }
        let mut shuffled = base.entries().to_vec();
        shuffled.reverse();
        assert_eq!(Tree::new(shuffled).unwrap().root(), root);
    }

    #[test]
    fn an_empty_directory_counts_and_a_move_down_does_too() {
        let one = Tree::new(vec![dir("a"), dir("a/b"), file("c", b"1")]).unwrap();
        let two = Tree::new(vec![dir("a"), dir("b"), file("c", b"1")]).unwrap();
        let three = Tree::new(vec![dir("a"), dir("a/b"), file("a/c", b"1")]).unwrap();
        let four = Tree::new(vec![dir("a"), dir("a/b"), file("a/b/c", b"1")]).unwrap();
        let roots = BTreeSet::from([one.root(), two.root(), three.root(), four.root()]);
        assert_eq!(roots.len(), 4);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        assert!(matches!(Tree::new(vec![file("a/x", b"1")]), Err(TreeError::Orphan(_))));
        let below_a_file = vec![file("a", b"1"), file("a/x", b"1")];
        assert!(matches!(Tree::new(below_a_file), Err(TreeError::Orphan(_))));
        assert!(matches!(Tree::new(vec![dir("a"), dir("a")]), Err(TreeError::Twice(_))));
        let setuid = Entry { path: path("a"), node: Node::Directory { mode: 0o4755 } };
        assert!(matches!(Tree::new(vec![setuid]), Err(TreeError::Mode(_))));
        let node =
            Node::File { mode: 0o644, size: 4, digest: Digest::of_bytes(b""), chunks: vec![] };
        let lie = Entry { path: path("a"), node };
        assert!(matches!(Tree::new(vec![lie]), Err(TreeError::Size(_))));
    }

    #[test]
    fn changes_turn_one_tree_into_another() {
        let have =
            Tree::new(vec![dir("a"), file("a/x", b"1"), file("b", b"2"), file("c", b"3")]).unwrap();
        let want =
            Tree::new(vec![file("a", b"1"), file("b", b"9"), file("c", b"3"), dir("d")]).unwrap();
        let list = changes(&have, &want);
        let words: Vec<String> = list
            .iter()
            .map(|change| match change {
                Change::Set(e) => format!("SET {}", e.path),
                Change::Add(e) => format!("ADD {}", e.path),
                Change::Del(p) => format!("DEL {p}"),
            })
            .collect();
        assert_eq!(words, ["DEL a/x", "SET a", "SET b", "ADD d"]);
        assert!(changes(&want, &want).is_empty());
        assert_eq!(apply(&have, &list), Ok(want.clone()));
        assert_eq!(apply(&want, &[]), Ok(want));
    }

    #[test]
    fn what_is_not_changed_stays_cut_as_it_is() {
        let pieces = |sizes: [u32; 2]| {
            let mut entry = file("a", b"12345");
            if let Node::File { chunks, .. } = &mut entry.node {
                *chunks = sizes.map(|len| Chunk { digest: Digest([len as u8; 32]), len }).to_vec();
            }
            entry
        };
        let have = Tree::new(vec![pieces([1, 4]), file("b", b"1")]).unwrap();
        let want = Tree::new(vec![pieces([2, 3]), file("b", b"2")]).unwrap();
        let made = apply(&have, &changes(&have, &want)).unwrap();
        assert_eq!(made.root(), want.root());
        assert_eq!(made.entries(), [pieces([1, 4]), file("b", b"2")]);
    }

    #[test]
    fn changes_that_can_not_be_made_are_refused() {
        let have = Tree::new(vec![dir("a"), file("a/x", b"1"), file("b", b"2")]).unwrap();
        let (add, set) = (Change::Add, Change::Set);
        let del = |text: &str| Change::Del(path(text));
        let apply = |list: &[Change]| apply(&have, list).unwrap_err();
        for gone in [set(file("a/w", b"9")), set(file("c", b"9")), del("a/y"), del("a/x/y")] {
            let at = gone.path().clone();
            assert_eq!(apply(&[gone]), TreeError::NotThere(at));
        }
        assert_eq!(apply(&[add(file("b", b"2"))]), TreeError::There(path("b")));
        // Twice, in whatever way, whether it was there or not.
        for second in [del("b"), set(file("b", b"3")), add(file("b", b"3"))] {
            assert_eq!(apply(&[del("b"), second]), TreeError::Twice(path("b")));
        }
        let twice = [add(file("c", b"1")), add(file("c", b"1"))];
        assert_eq!(apply(&twice), TreeError::Twice(path("c")));
        // What comes out must be a tree.
        assert_eq!(apply(&[del("a")]), TreeError::Orphan(path("a/x")));
        assert_eq!(apply(&[set(file("a", b"1"))]), TreeError::Orphan(path("a/x")));
        assert_eq!(apply(&[add(file("d/e", b"1"))]), TreeError::Orphan(path("d/e")));
        let setuid = Entry { path: path("a"), node: Node::Directory { mode: 0o4755 } };
        assert_eq!(apply(&[set(setuid)]), TreeError::Mode(path("a")));
    }

    /// A tree in which most of the names occur that sort in an odd way.
    fn any_tree() -> impl Strategy<Value = Tree> {
        let name = prop::sample::select(vec!["a", "a-b", "a.b", "b", "c"]);
        let place = prop::collection::vec(name, 1..4);
        prop::collection::vec((place, 0_u8..4), 0..24).prop_map(|picks| {
            let mut nodes: BTreeMap<Vec<&str>, Node> = BTreeMap::new();
            for (place, content) in picks {
                let above = (1..place.len()).map(|n| place[..n].to_vec());
                for place in above {
                    nodes.insert(place, Node::Directory { mode: 0o755 });
                }
                let node = match content {
                    0 => Node::Directory { mode: 0o700 },
                    1 => Node::Symlink { target: b"anywhere".to_vec() },
                    n => file("x", &[n]).node,
                };
                nodes.entry(place).or_insert(node);
            }
            let entry =
                |(place, node): (Vec<&str>, Node)| Entry { path: path(&place.join("/")), node };
            Tree::new(nodes.into_iter().map(entry).collect()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn changes_lead_from_any_tree_to_any_other(have in any_tree(), want in any_tree(), seed: u64) {
            let mut list = changes(&have, &want);
            prop_assert_eq!(apply(&have, &list), Ok(want.clone()));
            // The order does not matter, and half of it is not all of it.
            let len = list.len();
            if len > 0 {
                list.rotate_left(seed as usize % len);
                prop_assert_eq!(apply(&have, &list), Ok(want.clone()));
                list.pop();
                prop_assert_ne!(apply(&have, &list).map(|tree| tree.root()), Ok(want.root()));
            }
            // Changes of another tree are refused, or make a tree all the same.
            let _ = apply(&want, &list);
        }
    }

    #[test]
    fn sorting_is_by_component_and_not_by_byte() {
        // '-' sorts before '/': byte order would tear a directory apart.
        let tree = Tree::new(vec![dir("a"), file("a/x", b"1"), file("a-b", b"2")]).unwrap();
        let order: Vec<String> = tree.entries().iter().map(|e| e.path.to_string()).collect();
        assert_eq!(order, ["a", "a/x", "a-b"]);
        assert!(tree.get(&path("a-b")).is_some());
    }
}
