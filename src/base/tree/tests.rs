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
    let mut shuffled = base.entries().cloned().collect::<Vec<_>>();
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
    let node = Node::File { mode: 0o644, size: 4, digest: Digest::of_bytes(b""), chunks: vec![] };
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
    assert_eq!(apply(&have, &changes_and_cuts(&have, &want)), Ok(want));
    assert!(made.entries().eq(&[pieces([1, 4]), file("b", b"2")]));
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
        let entry = |(place, node): (Vec<&str>, Node)| Entry { path: path(&place.join("/")), node };
        Tree::new(nodes.into_iter().map(entry).collect()).unwrap()
    })
}

proptest! {
    #[test]
    fn changes_lead_from_any_tree_to_any_other(have in any_tree(), want in any_tree(), seed: u64) {
        let mut list = changes(&have, &want);
        let made = apply(&have, &list);
        prop_assert_eq!(&made, &Ok(want.clone()));
        // What is shared with another tree counts and signs as what was made from the start.
        let made = made.unwrap();
        let anew = Tree::new(want.entries().cloned().collect()).unwrap();
        let counts = |t: &Tree| (t.root(), t.len(), t.files(), t.bytes(), t.entries().count());
        prop_assert_eq!(counts(&made), counts(&anew));
        prop_assert!(want.entries().all(|entry| made.get(&entry.path) == Some(&entry.node)));
        prop_assert!(changes_and_cuts(&made, &want).is_empty());
        prop_assert_eq!(&changes_and_cuts(&have, &made), &list);
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
    let order: Vec<String> = tree.entries().map(|e| e.path.to_string()).collect();
    assert_eq!(order, ["a", "a/x", "a-b"]);
    assert!(tree.get(&path("a-b")).is_some());
}
