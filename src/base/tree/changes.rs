//! What changes one tree into another, and what a list of changes makes of a tree.
//!
//! Both go only into directories that differ: what two trees share is not looked at, and
//! what one makes of the other is shared.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Entry, Tree, TreeError, by_component,
    level::{Item, Level},
    same,
};
use crate::base::{RelPath, limits};

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

    /// What comes to stand there.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Set(entry) | Self::Add(entry) => Some(entry),
            Self::Del(_) => None,
        }
    }
}

/// The changes that turn `have` into `want`. Deletions come first, deepest
/// first; then what is set and added, a directory before what it holds.
pub fn changes(have: &Tree, want: &Tree) -> Vec<Change> {
    Comparison::of(have, want, false)
}

/// The same, and a change as well of each file that is only cut differently: what it makes
/// of `have` is `want` to the last piece.
pub fn changes_and_cuts(have: &Tree, want: &Tree) -> Vec<Change> {
    Comparison::of(have, want, true)
}

#[derive(Default)]
struct Comparison {
    gone: Vec<Change>,
    made: Vec<Change>,
    /// Whether it matters how files are cut.
    cuts: bool,
}

impl Comparison {
    fn of(have: &Tree, want: &Tree, cuts: bool) -> Vec<Change> {
        let mut found = Self { cuts, ..Self::default() };
        found.levels(Some(&have.top), Some(&want.top));
        let Self { gone: mut list, made, .. } = found;
        list.reverse();
        list.extend(made);
        list
    }

    fn levels(&mut self, have: Option<&Arc<Level>>, want: Option<&Arc<Level>>) {
        if let (Some(have), Some(want)) = (have, want)
            && (Arc::ptr_eq(have, want) || !self.cuts && have.digest() == want.digest())
        {
            return;
        }
        let (have, want) =
            (have.map_or(&[][..], |l| l.items()), want.map_or(&[][..], |l| l.items()));
        let (mut left, mut right) = (have.iter().peekable(), want.iter().peekable());
        loop {
            let name = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(one), None) | (None, Some(one)) => one.name(),
                (Some(l), Some(r)) => l.name().min(r.name()),
            };
            let is_it = |item: &&Item| item.name() == name;
            self.items(left.next_if(is_it), right.next_if(is_it));
        }
    }

    fn items(&mut self, have: Option<&Item>, want: Option<&Item>) {
        match (have, want) {
            (Some(have), Some(want)) => {
                if have.is(want) {
                    return;
                }
                let is_same = match self.cuts {
                    true => have.entry.node == want.entry.node,
                    false => same(&have.entry.node, &want.entry.node),
                };
                if !is_same {
                    self.made.push(Change::Set((*want.entry).clone()));
                }
            }
            (Some(have), None) => self.gone.push(Change::Del(have.entry.path.clone())),
            (None, Some(want)) => self.made.push(Change::Add((*want.entry).clone())),
            (None, None) => {}
        }
        let have = have.and_then(|item| item.inside.as_ref());
        let want = want.and_then(|item| item.inside.as_ref());
        if have.is_some() || want.is_some() {
            self.levels(have, want);
        }
    }
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
    if list.is_empty() {
        return Ok(have.clone());
    }
    Ok(Tree { top: Arc::new(made(Some(&have.top), &list, 0)?) })
}

/// What `list`, of paths below a directory that is `depth` names deep, makes of what it
/// holds.
fn made(level: Option<&Level>, mut list: &[&Change], depth: usize) -> Result<Level, TreeError> {
    let mut next = Level::default();
    let mut items = level.map_or(&[][..], Level::items).iter().peekable();
    while let Some(first) = list.first() {
        let name = name_at(first, depth);
        let size = list.iter().take_while(|change| name_at(change, depth) == name).count();
        let (here, others) = list.split_at(size);
        list = others;
        while let Some(item) = items.next_if(|item| item.name() < name) {
            next.keep(item.clone());
        }
        let stands = items.next_if(|item| item.name() == name);
        let of_it = |change: &&&Change| change.path().components().nth(depth + 1).is_none();
        let (exact, below) = here.split_at(here.iter().take_while(of_it).count());
        let entry = match exact {
            [] => stands.map(|item| Arc::clone(&item.entry)),
            [change] => changed(change, stands)?,
            // Whatever a second change of one path is, it is none of these lists.
            [_, second, ..] => return Err(TreeError::Twice(second.path().clone())),
        };
        let inside = stands.and_then(|item| item.inside.clone());
        let inside = if below.is_empty() {
            inside
        } else {
            let level = made(inside.as_deref(), below, depth + 1)?;
            (level.count() > 0).then(|| Arc::new(level))
        };
        match (entry, inside) {
            (Some(entry), inside) => next.add(Item { entry, inside })?,
            (None, Some(inside)) => return Err(TreeError::Orphan(inside.first().clone())),
            (None, None) => {}
        }
    }
    for item in items {
        next.keep(item.clone());
    }
    if next.count() > limits::ENTRIES_MAX { Err(TreeError::TooMany) } else { Ok(next) }
}

/// The entry that `change` makes of what stands at its path.
fn changed(change: &Change, stands: Option<&Item>) -> Result<Option<Arc<Entry>>, TreeError> {
    match (change, stands) {
        (Change::Set(entry), Some(_)) | (Change::Add(entry), None) => {
            Ok(Some(Arc::new(entry.clone())))
        }
        (Change::Del(_), Some(_)) => Ok(None),
        (Change::Add(Entry { path, .. }), Some(_)) => Err(TreeError::There(path.clone())),
        (Change::Set(Entry { path, .. }) | Change::Del(path), None) => {
            Err(TreeError::NotThere(path.clone()))
        }
    }
}

/// The name in which `change` goes on below a directory that is `depth` names deep.
fn name_at<'a>(change: &&'a Change, depth: usize) -> &'a [u8] {
    // All in the list are deeper: those that are not were taken out on the way down.
    change.path().components().nth(depth).unwrap_or_default()
}
