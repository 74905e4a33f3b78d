//! Three trees into one: what was edited in one of two descendants of a common
//! tree, brought into the other.
//!
//! By whole paths and never by lines: of a path that both changed, one side has it
//! (as `git merge -X theirs` does with whole files), and the caller learns of it.

use std::collections::BTreeMap;

use super::{
    RelPath,
    tree::{Change, Entry, Node, Tree, changes, same},
};

/// What became of edits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Theirs, with those edits in it that it does not touch.
    pub tree: Tree,
    /// Paths that are as they were edited, sorted as the edits are.
    pub kept: Vec<RelPath>,
    /// Files and links that were edited and are as theirs has them.
    pub lost: Vec<RelPath>,
}

/// Brings what `ours` changed in `base` into `theirs`. Where both changed the same
/// path in different ways, theirs stands.
pub fn merge(base: &Tree, ours: &Tree, theirs: &Tree) -> Merged {
    let edited = changes(base, ours);
    let differs = |change: &Change| !alike(ours.get(change.path()), theirs.get(change.path()));
    if !edited.iter().any(differs) {
        return Merged { tree: theirs.clone(), ..Merged::default() }; // both did the same
    }
    let mut merging = Merging {
        result: theirs.entries().map(|e| (e.path.clone(), e.node.clone())).collect(),
        ours,
        kept: Vec::new(),
        lost: Vec::new(),
    };
    for change in edited {
        let path = change.path();
        let (before, now) = (base.get(path), theirs.get(path));
        if alike(ours.get(path), now) {
            continue; // both did the same
        }
        if !(alike(before, now) && merging.take(&change)) {
            merging.lose(path);
        }
    }
    let Merging { result, kept, mut lost, .. } = merging;
    let entries = result.into_iter().map(|(path, node)| Entry { path, node }).collect();
    match Tree::new(entries) {
        Ok(tree) => Merged { tree, kept, lost },
        // What both hold is within the bounds of neither: theirs stands.
        Err(_) => {
            let held = |path: &RelPath| is_held(ours.get(path));
            lost.extend(kept.into_iter().filter(held));
            Merged { tree: theirs.clone(), kept: Vec::new(), lost }
        }
    }
}

struct Merging<'a> {
    result: BTreeMap<RelPath, Node>,
    ours: &'a Tree,
    kept: Vec<RelPath>,
    lost: Vec<RelPath>,
}

impl Merging<'_> {
    /// Makes `change` in what is theirs; not if something of theirs is in its way.
    fn take(&mut self, change: &Change) -> bool {
        let path = change.path();
        let stands_as_directory = matches!(self.result.get(path), Some(Node::Directory { .. }));
        let becomes_directory =
            matches!(change, Change::Set(e) | Change::Add(e) if is_directory(&e.node));
        if stands_as_directory && !becomes_directory && self.holds_anything(path) {
            return false;
        }
        match change {
            Change::Del(path) => drop(self.result.remove(path)),
            Change::Set(entry) | Change::Add(entry) => {
                if !self.make_room(path) {
                    return false;
                }
                self.result.insert(entry.path.clone(), entry.node.clone());
            }
        }
        self.kept.push(path.clone());
        true
    }

    /// Brings back the directories that hold `path`, which theirs may have taken
    /// away; not if something else stands in the place of one.
    fn make_room(&mut self, path: &RelPath) -> bool {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(directory) = above {
            match self.result.get(&directory) {
                Some(Node::Directory { .. }) => break,
                Some(_) => return false,
                None => missing.push(directory.clone()),
            }
            above = directory.parent();
        }
        for directory in missing {
            let Some(node) = self.ours.get(&directory) else { return false };
            self.result.insert(directory, node.clone());
        }
        true
    }

    fn lose(&mut self, path: &RelPath) {
        // Of what was taken away nothing is left that could be kept aside.
        if is_held(self.ours.get(path)) {
            self.lost.push(path.clone());
        }
    }

    fn holds_anything(&self, directory: &RelPath) -> bool {
        self.result.keys().any(|path| path.parent().as_ref() == Some(directory))
    }
}

fn alike(a: Option<&Node>, b: Option<&Node>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn is_directory(node: &Node) -> bool {
    matches!(node, Node::Directory { .. })
}

fn is_held(node: Option<&Node>) -> bool {
    node.is_some_and(|node| !is_directory(node))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::base::{Digest, tree::Chunk};

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    /// Of `a/b=content`; the directories follow.
    fn tree(files: &[&str]) -> Tree {
        let mut entries = BTreeMap::new();
        for file in files {
            let (name, content) = file.split_once('=').unwrap();
            let digest = Digest::of_bytes(content.as_bytes());
            let chunks = vec![Chunk { digest, len: content.len() as u32 }];
            let size = content.len() as u64;
            let mut above = path(name).parent();
            while let Some(directory) = above {
                above = directory.parent();
                entries.insert(directory, Node::Directory { mode: 0o755 });
            }
            entries.insert(path(name), Node::File { mode: 0o644, size, digest, chunks });
        }
        Tree::new(entries.into_iter().map(|(path, node)| Entry { path, node }).collect()).unwrap()
    }

    fn names(paths: &[RelPath]) -> Vec<String> {
        paths.iter().map(RelPath::to_string).collect()
    }

    #[test]
    fn edits_of_different_files_come_together() {
        let base = tree(&["a/x=1", "b=1", "c=1"]);
        let ours = tree(&["a/x=2", "a/new=1", "c=1"]); // b is taken away
        let theirs = tree(&["a/x=1", "b=1", "c=3", "d=1"]);
        let merged = merge(&base, &ours, &theirs);
        assert_eq!(merged.tree, tree(&["a/x=2", "a/new=1", "c=3", "d=1"]));
        assert_eq!(names(&merged.kept), ["b", "a/new", "a/x"]);
        assert!(merged.lost.is_empty());
    }

    #[test]
    fn of_the_same_file_theirs_stands() {
        let base = tree(&["a=1", "b=1", "c=1"]);
        let ours = tree(&["a=2", "c=4"]);
        let theirs = tree(&["a=3", "b=2", "c=4"]);
        let merged = merge(&base, &ours, &theirs);
        assert_eq!(merged.tree, theirs);
        assert_eq!(names(&merged.lost), ["a"], "nothing is left of b, and c is the same");
    }

    #[test]
    fn what_is_in_the_way_of_an_edit_is_not_torn_apart() {
        let base = tree(&["a/x=1", "b=1"]);
        // A directory that theirs took away comes back for what was added to it.
        let merged = merge(&base, &tree(&["a/x=1", "a/y=1", "b=1"]), &tree(&["b=1"]));
        assert_eq!(merged.tree, tree(&["a/y=1", "b=1"]));
        // One that theirs added to is not taken away.
        let merged = merge(&base, &tree(&["b=1"]), &tree(&["a/x=1", "a/y=1", "b=1"]));
        assert_eq!(merged.tree, tree(&["a/y=1", "b=1"]));
        // Nor does a file take its place.
        let merged = merge(&base, &tree(&["a=1", "b=1"]), &tree(&["a/x=1", "a/y=1", "b=1"]));
        assert_eq!((merged.tree, names(&merged.lost)), (tree(&["a/y=1", "b=1"]), vec!["a".into()]));
        // And nothing goes below a file.
        let merged = merge(&base, &tree(&["a/x=1", "a/y=1", "b=1"]), &tree(&["a=1", "b=1"]));
        assert_eq!((merged.tree, names(&merged.lost)), (tree(&["a=1", "b=1"]), vec!["a/y".into()]));
    }

    fn some_tree() -> impl Strategy<Value = Tree> {
        let names = ["a=", "a/x=", "a/y=", "b=", "c/d/e=", "c/d=", "c/f="];
        let pick = (0..names.len(), 0..3_u8).prop_map(move |(at, n)| format!("{}{n}", names[at]));
        proptest::collection::vec(pick, 0..8).prop_map(|picked| {
            // Whatever stands on a file, or holds one, goes.
            let mut fine: Vec<&str> = Vec::new();
            for file in &picked {
                let name = file.split_once('=').unwrap().0;
                let clash = |other: &&str| {
                    let other = other.split_once('=').unwrap().0;
                    let below = |a: &str, b: &str| a.starts_with(&format!("{b}/"));
                    other == name || below(other, name) || below(name, other)
                };
                if !fine.iter().any(clash) {
                    fine.push(file);
                }
            }
            tree(&fine)
        })
    }

    proptest! {
        #[test]
        fn who_changed_alone_has_it(base in some_tree(), ours in some_tree()) {
            prop_assert_eq!(&merge(&base, &ours, &base).tree, &ours);
            prop_assert_eq!(&merge(&base, &base, &ours).tree, &ours);
            prop_assert_eq!(&merge(&base, &ours, &ours).tree, &ours);
        }

        #[test]
        fn nothing_is_made_up_and_nothing_goes_unsaid(
            base in some_tree(), ours in some_tree(), theirs in some_tree()
        ) {
            let merged = merge(&base, &ours, &theirs);
            let kept: BTreeSet<&RelPath> = merged.kept.iter().collect();
            for entry in merged.tree.entries() {
                let here = Some(&entry.node);
                prop_assert!(alike(here, ours.get(&entry.path)) || alike(here, theirs.get(&entry.path)));
            }
            for entry in theirs.entries().filter(|e| !is_directory(&e.node)) {
                let there = alike(Some(&entry.node), merged.tree.get(&entry.path));
                prop_assert!(there || kept.contains(&entry.path), "{} went unsaid", entry.path);
            }
            for change in changes(&base, &ours) {
                let path = change.path();
                let there = alike(ours.get(path), merged.tree.get(path));
                let said = merged.lost.contains(path) || !is_held(ours.get(path));
                prop_assert!(there || said, "{path} was lost unsaid");
            }
        }
    }
}
