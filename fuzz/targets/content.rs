//! Content on its way between members: what a pull asks and answers, listings of trees, what one
//! differs in from another, and the paths in them.

use althing::{
    base::{
        AppName, Digest, RelPath, limits,
        tree::{self, Chunk, Entry, Node, Tree},
        wire::{self, Kind},
    },
    node::uploads::{Amount, Next, Offer, Reply, UploadId, lists as brought},
    proto::replication::{
        ActionList, Bits, Changes, Gained, IHaveList, Join, Positions, Since, Standing, Update,
        UpdateList,
    },
};

use super::{encoded, there_and_back};

fn sample_tree() -> Tree {
    let path = |text: &str| RelPath::parse(text.as_bytes()).expect("a good path");
    let chunk = Chunk { digest: Digest::of_bytes(b"hello"), len: 5 };
    let file = Node::File {
        mode: 0o644,
        size: 5,
        digest: Digest::of_bytes(b"hello"),
        chunks: vec![chunk],
    };
    Tree::new(vec![
        Entry { path: path("css"), node: Node::Directory { mode: 0o755 } },
        Entry { path: path("css/a.css"), node: file.clone() },
        Entry { path: path("index.html"), node: file },
        Entry { path: path("link"), node: Node::Symlink { target: b"index.html".to_vec() } },
    ])
    .expect("a good tree")
}

pub(super) fn lists(bytes: &[u8]) {
    if let Some(asked) = there_and_back::<ActionList>(Kind::Message, bytes) {
        let _ = asked.bytes();
    }
    there_and_back::<UpdateList>(Kind::Message, bytes);
    there_and_back::<Standing>(Kind::Message, bytes);
    there_and_back::<Gained>(Kind::Message, bytes);
    if let Some(join) = there_and_back::<Join>(Kind::Message, bytes) {
        let bits = Bits::from_wire(join.have, 11);
        assert!(!bits.get(11), "there is nothing beyond the end");
    }
    if let Some(have) = there_and_back::<IHaveList>(Kind::Tree, bytes) {
        let _ = have.root();
        if let Ok(positions) = Positions::of(have.tree()) {
            for (at, chunk) in positions.chunks().iter().enumerate() {
                assert_eq!(positions.position(&chunk.digest), Some(at as u32));
            }
        }
    }
}

pub(super) fn lists_seeds() -> Vec<Vec<u8>> {
    let chunks: Vec<Chunk> = sample_tree().chunks().into_iter().collect();
    let mut seeds = encoded(Kind::Message, &[ActionList { chunks: chunks.clone() }]);
    let mut updates = UpdateList::between(&Tree::default(), &sample_tree());
    let content = althing::proto::replication::Content::Inline;
    updates.updates.push(Update::Chunk { chunk: chunks[0], content });
    seeds.extend(encoded(Kind::Message, &[updates]));
    seeds.extend(encoded(Kind::Tree, &[IHaveList::new(sample_tree())]));
    let positions = Positions::of(&sample_tree()).expect("a good tree");
    let mut have = Bits::new(positions.chunks().len());
    have.set(0);
    let join = Join::new(sample_tree().root(), &positions, &have);
    seeds.extend(encoded(Kind::Message, &[join]));
    seeds.extend(encoded(Kind::Message, &[Standing::Whole, Standing::Elsewhere]));
    seeds.extend(encoded(Kind::Message, &[Gained { all: true, positions: vec![0, 300] }]));
    seeds
}

/// A question for changes, and an answer, made to a tree that it may be of.
pub(super) fn tree_changes(bytes: &[u8]) {
    there_and_back::<Since>(Kind::Message, bytes);
    let changes = there_and_back::<Changes>(Kind::Tree, bytes);
    let Some(Changes::From { changes, .. }) = changes else { return };
    for base in [Tree::default(), sample_tree()] {
        let Ok(made) = tree::apply(&base, &changes) else { continue };
        let least = tree::changes(&base, &made);
        assert!(least.len() <= changes.len(), "one change of each path is the most");
        let again = tree::apply(&base, &least).expect("they are between two trees");
        assert_eq!(again.root(), made.root());
    }
}

pub(super) fn tree_changes_seeds() -> Vec<Vec<u8>> {
    let since = Since { root: sample_tree().root(), bases: vec![Tree::default().root()] };
    let mut seeds = encoded(Kind::Message, &[since]);
    let mut entries = sample_tree().entries().cloned().collect::<Vec<_>>();
    entries[3].node = Node::Directory { mode: 0o700 };
    entries.remove(1);
    let other = Tree::new(entries).expect("a good tree");
    let between = |base: &Tree, want: &Tree| Changes::From {
        base: base.root(),
        changes: tree::changes(base, want),
    };
    let answers = [
        Changes::Unknown,
        between(&Tree::default(), &sample_tree()),
        between(&sample_tree(), &other),
        between(&sample_tree(), &Tree::default()),
    ];
    seeds.extend(encoded(Kind::Tree, &answers));
    seeds
}

/// What a command that brings a directory says to a member, and what it replies.
pub(super) fn uploads(bytes: &[u8]) {
    if let Some(offer) = there_and_back::<Offer>(Kind::Message, bytes) {
        // Whatever is wrong in the manifest is a refusal.
        let _ = offer.resolve();
    }
    there_and_back::<Reply>(Kind::Message, bytes);
    let Ok(chunks) = brought::unpack(bytes) else { return };
    assert!(chunks.len() <= limits::ACTIONS_MAX);
    assert!(chunks.iter().all(|(chunk, content)| chunk.len as usize == content.len()));
    let again = brought::pack(chunks.iter().copied());
    assert!(again.len() <= bytes.len(), "the shortest encoding is the one that is written");
    assert_eq!(brought::unpack(&again), Ok(chunks));
}

pub(super) fn uploads_seeds() -> Vec<Vec<u8>> {
    let offer = Offer {
        root: sample_tree().root(),
        app: AppName::parse("web").ok(),
        source: "/home/alice/site".to_owned(),
        message: "hello".to_owned(),
        base: Some(7),
        hosts: vec!["www.example.org".to_owned()],
        manifest: Some("[application]\nname = \"web\"\nignore = [\"x\"]\n".to_owned()),
    };
    let mut seeds = encoded(Kind::Message, &[offer]);
    let chunks: Vec<Chunk> = sample_tree().chunks().into_iter().collect();
    let reply = |next| Reply {
        upload: UploadId(u128::MAX / 3),
        lacks: Amount { chunks: 1, bytes: 5 },
        next,
    };
    let asked = Next::Chunks(ActionList { chunks: chunks.clone() });
    let replies = [Next::List, asked, Next::Rest, Next::Publish].map(reply);
    seeds.extend(encoded(Kind::Message, &replies));
    seeds.push(brought::pack([(chunks[0], &b"hello"[..])]));
    seeds
}

pub(super) fn listing(bytes: &[u8]) {
    let Some(tree) = there_and_back::<Tree>(Kind::Tree, bytes) else { return };
    let _ = (tree.root(), tree.chunks(), tree.bytes(), tree.files());
    for entry in tree.entries() {
        assert_eq!(tree.get(&entry.path), Some(&entry.node), "an entry is found by its path");
        let file = entry.path.to_path();
        assert!(file.is_relative() && file.components().count() > 0);
    }
    assert!(tree::changes(&tree, &tree).is_empty());
    let made = tree::apply(&sample_tree(), &tree::changes(&sample_tree(), &tree));
    assert_eq!(made.map(|made| made.root()), Ok(tree.root()));
}

pub(super) fn listing_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Tree, &[Tree::default(), sample_tree()])
}

pub(super) fn path(bytes: &[u8]) {
    let Ok(path) = RelPath::parse(bytes) else { return };
    assert_eq!(path.as_bytes(), bytes);
    let normal = |c| matches!(c, std::path::Component::Normal(_));
    assert!(path.to_path().components().all(normal), "{path:?} leaves the root");
    if let Some(parent) = path.parent() {
        assert_eq!(parent.join(path.file_name()).as_ref(), Ok(&path));
    }
    there_and_back::<RelPath>(Kind::Message, &wire::encode(Kind::Message, &path));
}

pub(super) fn path_seeds() -> Vec<Vec<u8>> {
    ["index.html", "a/b/c", "..a/b..", "\u{e9}/x"].map(|p| p.as_bytes().to_vec()).to_vec()
}
