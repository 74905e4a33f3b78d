//! The three lists, as people and programs outside see them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    diff::{CHANGES_MAX, Difference, Differing, Item, Op, differences},
    pieces,
};
use crate::{
    base::{
        AppName, Digest, RelPath,
        catalog::Version,
        limits,
        tree::{Chunk, Tree},
    },
    driver::Scan,
    node::edits::octal,
    store::{ContentStore, StoreError},
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

/// A list from elsewhere beside a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Of which application.
    pub app: AppName,
    /// With which version it was compared.
    pub version: u64,
    /// Its signature.
    pub root: String,
    /// Whether the list is that of the version.
    pub same: bool,
    /// Items of the list.
    pub listed: u64,
    /// Paths that differ.
    pub differing: u64,
    /// What would make it the version. The IHaveList is that which was asked about, and left out;
    /// the ActionList has what no file of it has: whoever made it may hold some of that.
    pub lists: Lists,
}

/// Which pieces of content the store of a member holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// As whose they were asked about.
    pub app: AppName,
    /// How many were asked about.
    pub asked: u64,
    /// How many are here and whole: every byte of them was read.
    pub whole: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Those that are not here.
    pub lacking: Vec<Wanted>,
    /// Those that were here and rotted. They are fetched again where a version needs them.
    pub damaged: Vec<Wanted>,
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
        update: with_pieces(update),
    }
}

/// As others are told of them; with the pieces of files, as far as there is room for them.
fn with_pieces(update: &[Differing]) -> Vec<Difference> {
    let mut room = CHANGES_MAX;
    let told = update.iter().take(CHANGES_MAX).map(|differing| {
        let pieces = differing.after.as_ref().map_or(&[][..], pieces);
        let pieces = if pieces.len() <= room { pieces } else { &[] };
        room -= pieces.len();
        Difference { chunks: pieces.iter().map(Wanted::from).collect(), ..differing.told() }
    });
    told.collect()
}

impl From<&Chunk> for Wanted {
    fn from(chunk: &Chunk) -> Self {
        Self { digest: chunk.digest.to_string(), len: chunk.len }
    }
}

impl Wanted {
    /// As the store knows it; otherwise what is wrong with it.
    pub fn chunk(&self) -> Result<Chunk, String> {
        let Self { digest, len } = self;
        let parsed = Digest::parse(digest);
        let digest = parsed.ok_or_else(|| format!("{digest:?} is no signature of a chunk"))?;
        if *len == 0 || *len as usize > limits::CHUNK_MAX {
            return Err(format!("a chunk has 1 to {} bytes, and not {len}", limits::CHUNK_MAX));
        }
        Ok(Chunk { digest, len: *len })
    }
}

impl Listed {
    /// The same as a version would have it; otherwise what is wrong with it.
    pub fn checked(&self) -> Result<Self, String> {
        RelPath::parse(self.path.as_bytes())?;
        if self.path.contains(char::REPLACEMENT_CHARACTER) {
            return Err("a list can't tell a name that is no UTF-8 from another".to_owned());
        }
        let mode_of = |mode: &str| octal(mode).map(|mode| format!("{mode:04o}"));
        let item = match &self.item {
            Item::Directory { mode } => Item::Directory { mode: mode_of(mode)? },
            Item::File { mode, size, digest } => {
                let parsed = Digest::parse(digest);
                let digest = parsed.ok_or_else(|| format!("{digest:?} is no signature"))?;
                if *size > limits::FILE_MAX {
                    return Err(format!("a file has at most {} bytes", limits::FILE_MAX));
                }
                Item::File { mode: mode_of(mode)?, size: *size, digest: digest.to_string() }
            }
            Item::Symlink { target } => Item::Symlink { target: target.clone() },
        };
        Ok(Self { path: self.path.clone(), item })
    }
}

/// Compares what a list says stands elsewhere with `version`. The error is a sentence without its
/// point, with the number of the item.
pub(super) fn elsewhere(
    app: AppName,
    version: &Version,
    want: &Tree,
    have: &[Listed],
) -> Result<Elsewhere, String> {
    let mut stands = by_path(have)?;
    let digest_of = |item: &Item| match item {
        Item::File { digest, .. } => Some(digest.clone()),
        _ => None,
    };
    let held: BTreeSet<String> = stands.values().filter_map(digest_of).collect();
    let (mut update, mut action) = (Vec::new(), BTreeSet::new());
    let mut change = |op, path, before, after, chunks| {
        let (text, content) = (None, None);
        update.push(Difference { op, path, before, after, text, content, chunks });
    };
    let mut room = CHANGES_MAX;
    for entry in want.entries() {
        let (path, after) = (entry.path.to_string(), Item::from(&entry.node));
        let before = stands.remove(&path);
        if before.as_ref() == Some(&after) {
            continue;
        }
        let all = pieces(&entry.node);
        if digest_of(&after).is_some_and(|digest| !held.contains(&digest)) {
            action.extend(all.iter().copied());
        }
        let chunks: &[Chunk] = if all.len() <= room { all } else { &[] };
        room -= chunks.len();
        let op = if before.is_some() { Op::Set } else { Op::Add };
        change(op, path, before, Some(after), chunks.iter().map(Wanted::from).collect());
    }
    for (path, item) in stands {
        change(Op::Del, path, Some(item), None, Vec::new());
    }
    update.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    let (differing, asked) = (update.len(), action.len());
    update.truncate(CHANGES_MAX);
    let action: Vec<Wanted> = action.iter().take(CHANGES_MAX).map(Wanted::from).collect();
    let more = (differing - update.len()) + (asked - action.len());
    Ok(Elsewhere {
        app,
        version: version.number,
        root: version.root.to_string(),
        same: differing == 0,
        listed: have.len() as u64,
        differing: differing as u64,
        lists: Lists { have: Vec::new(), action, update, more: more as u64 },
    })
}

fn by_path(have: &[Listed]) -> Result<BTreeMap<String, Item>, String> {
    if have.len() > CHANGES_MAX {
        return Err(format!("it has more than {CHANGES_MAX} items"));
    }
    let mut stands = BTreeMap::new();
    for (listed, at) in have.iter().zip(1..) {
        let why = |why: String| format!("item {at} ({}): {why}", listed.path);
        let Listed { path, item } = listed.checked().map_err(why)?;
        if stands.insert(path, item).is_some() {
            return Err(why("it is listed twice".to_owned()));
        }
    }
    Ok(stands)
}

/// Which of `wanted` the store holds, by reading them. The error is a sentence without its point.
pub(super) fn pieces_of(
    app: AppName,
    store: &ContentStore,
    wanted: Vec<Wanted>,
) -> Result<Result<Pieces, String>, StoreError> {
    let asked = wanted.len();
    if asked > CHANGES_MAX {
        return Ok(Err(format!("it has more than {CHANGES_MAX} chunks")));
    }
    let asked = asked as u64;
    let mut found =
        Pieces { app, asked, whole: 0, bytes: 0, lacking: Vec::new(), damaged: Vec::new() };
    for (wanted, at) in wanted.into_iter().zip(1..) {
        let chunk = match wanted.chunk() {
            Ok(chunk) => chunk,
            Err(why) => return Ok(Err(format!("chunk {at}: {why}"))),
        };
        match store.read(&chunk.digest) {
            Ok(bytes) if bytes.len() != chunk.len as usize => {
                let (len, is) = (chunk.len, bytes.len());
                let why = format!("chunk {at}: {} has {is} bytes, and not {len}", chunk.digest);
                return Ok(Err(why));
            }
            Ok(_) => {
                found.whole += 1;
                found.bytes += u64::from(chunk.len);
            }
            Err(StoreError::NotFound(_)) => found.lacking.push(wanted),
            Err(StoreError::Corrupt(_)) => found.damaged.push(wanted),
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(found))
}
