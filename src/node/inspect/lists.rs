//! The three lists, as people and programs outside see them.

use serde::{Deserialize, Serialize};

use super::diff::{CHANGES_MAX, Difference, Differing, Item, Op, differences};
use crate::{
    base::{
        AppName,
        catalog::Version,
        tree::{Chunk, Tree},
    },
    driver::Scan,
};

/// What stands on this member beside the version in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Of which application.
    pub app: AppName,
    /// The version in force.
    pub version: u64,
    /// Its signature.
    pub root: String,
    /// The signature of what stands here; nothing if nothing does.
    pub found: Option<String>,
    /// Whether they are the same.
    pub same: bool,
    /// Whether every byte was read; otherwise what may have changed since the last time.
    pub full: bool,
    /// Regular files that stand here.
    pub files: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Paths that differ.
    pub differing: u64,
    /// Chunks of the version that this member's store lacks.
    pub lacking: u64,
    /// The lists, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<Lists>,
}

/// The lists of one comparison. A list is cut where it would be longer than a
/// hundred thousand items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// The IHaveList: what stands here.
    pub have: Vec<Listed>,
    /// The ActionList: what this member would ask others for.
    pub action: Vec<Wanted>,
    /// The UpdateList: what would turn what stands here into the version.
    pub update: Vec<Difference>,
    /// Items that were left out of any of them.
    pub more: u64,
}

impl Compared {
    /// How many changes were left out of the UpdateList.
    pub fn more_changes(&self) -> u64 {
        let told = self.lists.as_ref().map_or(self.differing, |lists| lists.update.len() as u64);
        self.differing.saturating_sub(told)
    }
}

/// An item of the IHaveList.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Where.
    pub path: String,
    /// What.
    #[serde(flatten)]
    pub item: Item,
}

/// An item of the ActionList: a piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// BLAKE3 of its bytes.
    pub digest: String,
    /// Bytes.
    pub len: u32,
}

/// What stands here was the version when it was compared last, and nothing has changed.
pub(super) fn unchanged(app: AppName, version: &Version, files: u64, took_ms: u64) -> Compared {
    Compared {
        app,
        version: version.number,
        root: version.root.to_string(),
        found: Some(version.root.to_string()),
        same: true,
        full: false,
        files,
        bytes_read: 0,
        took_ms,
        differing: 0,
        lacking: 0,
        lists: None,
    }
}

/// `full`, `lists` and the milliseconds that it took.
pub(super) fn compared(
    app: AppName,
    version: &Version,
    want: &Tree,
    scan: &Scan,
    lacking: &[Chunk],
    (full, lists, took_ms): (bool, bool, u64),
) -> Compared {
    let mut update = differences(&scan.tree, want);
    let strange = scan.strange.iter().map(|path| {
        let after = want.get(path).cloned();
        let op = if after.is_some() { Op::Set } else { Op::Del };
        Differing { op, path: path.clone(), before: None, after }
    });
    // What no tree can hold stands in the way of what the version has there.
    let strange: Vec<Differing> = strange.collect();
    update.retain(|d| !scan.strange.contains(&d.path));
    update.extend(strange);
    let differing = update.len() as u64;
    let found = (!scan.is_empty()).then(|| scan.root());
    Compared {
        app,
        version: version.number,
        root: version.root.to_string(),
        found: found.map(|root| root.to_string()),
        same: found == Some(version.root),
        full,
        files: scan.tree.files(),
        bytes_read: scan.bytes_read,
        took_ms,
        differing,
        lacking: lacking.len() as u64,
        lists: lists.then(|| told(&scan.tree, lacking, &update)),
    }
}

fn told(have: &Tree, lacking: &[Chunk], update: &[Differing]) -> Lists {
    let over = |len: usize| len.saturating_sub(CHANGES_MAX) as u64;
    Lists {
        more: over(have.len()) + over(lacking.len()) + over(update.len()),
        have: have
            .entries()
            .take(CHANGES_MAX)
            .map(|e| Listed { path: e.path.to_string(), item: Item::from(&e.node) })
            .collect(),
        action: lacking
            .iter()
            .take(CHANGES_MAX)
            .map(|chunk| Wanted { digest: chunk.digest.to_string(), len: chunk.len })
            .collect(),
        update: update.iter().take(CHANGES_MAX).map(Differing::told).collect(),
    }
}
