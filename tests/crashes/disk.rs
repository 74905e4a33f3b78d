//! A disk in memory: what a file system holds, and what of it would survive.
//!
//! A file system is inodes, and names in directories that lead to them. What a
//! program does to it is a list of [`Effect`]s, each of which the disk may have
//! or not when the power goes. Names that change in one step (a rename, an
//! exchange) are one effect: no file system of today tears these.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use blake3::{Hash, Hasher};

/// The inode of the top directory of a fresh tmpfs.
pub const TOP: u64 = 1;
/// What is written at once without being torn, bytes.
pub const SECTOR: usize = 512;
/// In such pieces the page cache is written back, bytes.
pub const PAGE: usize = 4_096;

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    pub mode: u32,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Directory(BTreeMap<String, u64>),
    File(Bytes),
    Link(String),
}

/// The content of a file, with its hash once somebody has asked for it.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    bytes: Vec<u8>,
    hash: OnceLock<Hash>,
}

impl Bytes {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    fn change(&mut self) -> &mut Vec<u8> {
        self.hash = OnceLock::new();
        &mut self.bytes
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, hash: OnceLock::new() }
    }
}

/// One change that the disk has as a whole or not at all.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Names come to lead elsewhere or nowhere: directory, name, inode.
    Names(Vec<(u64, String, Option<u64>)>),
    /// A part of a file that lies in one page.
    Write { inode: u64, at: usize, bytes: Arc<[u8]> },
    /// A file became this long by being written: what fills it may not be there yet.
    Grow { inode: u64, to: usize },
    /// A file is cut or extended by zeros.
    Cut { inode: u64, to: usize },
    /// Permissions.
    Mode { inode: u64, mode: u32 },
}

impl Effect {
    /// What a journal of metadata would hold, and bring back in order.
    pub fn is_metadata(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }

    fn inode(&self) -> Option<u64> {
        match self {
            Self::Names(_) => None,
            Self::Write { inode, .. }
            | Self::Grow { inode, .. }
            | Self::Cut { inode, .. }
            | Self::Mode { inode, .. } => Some(*inode),
        }
    }

    pub fn names(&self) -> &[(u64, String, Option<u64>)] {
        if let Self::Names(names) = self { names } else { &[] }
    }
}

/// How far a sync goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `fsync` of a file or a directory.
    Inode(u64),
    /// `fdatasync`: content and length.
    Data(u64),
    /// `syncfs`.
    Everything,
}

/// An effect that nothing has made durable yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub effect: Effect,
    /// The call that it came from, by its number in the recording.
    pub call: usize,
    /// A sync that was taken out of the recording had made it durable.
    pub missed: bool,
}

/// Which of the effects that are pending the disk has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    pub has: Vec<bool>,
    /// Of this write only some sectors, drawn from the number.
    pub torn: Option<(usize, u64)>,
    /// What a file grew by and was not written is rubbish and no zeros.
    pub rubbish: bool,
}

impl Choice {
    pub fn of(has: Vec<bool>) -> Self {
        Self { has, torn: None, rubbish: false }
    }
}

/// What a file system holds.
#[derive(Clone, Debug)]
pub struct Disk {
    inodes: BTreeMap<u64, Arc<Inode>>,
    /// The permissions with which each was made.
    made: BTreeMap<u64, u32>,
}

impl Disk {
    pub fn new() -> Self {
        let top = Inode { kind: Kind::Directory(BTreeMap::new()), mode: 0o755 };
        Self { inodes: BTreeMap::from([(TOP, Arc::new(top))]), made: BTreeMap::new() }
    }

    pub fn get(&self, inode: u64) -> &Inode {
        &self.inodes[&inode]
    }

    /// A new inode; no name leads to it yet.
    pub fn add(&mut self, inode: u64, kind: Kind, mode: u32) {
        let before = self.inodes.insert(inode, Arc::new(Inode { kind, mode }));
        assert!(before.is_none(), "inode {inode} is there already");
        self.made.insert(inode, mode);
    }

    /// Inodes that these effects lead to exist, whether or not a name leads to them: an
    /// inode is on the disk no later than its name. `last` knows all there ever were.
    pub fn know(&mut self, effects: &[Effect], last: &Self) {
        for (_, _, inode) in effects.iter().flat_map(Effect::names) {
            if let Some(inode) = inode
                && !self.inodes.contains_key(inode)
            {
                let kind = match &last.get(*inode).kind {
                    Kind::Directory(_) => Kind::Directory(BTreeMap::new()),
                    Kind::File(_) => Kind::File(Bytes::default()),
                    Kind::Link(target) => Kind::Link(target.clone()),
                };
                let mode = last.made.get(inode).copied().expect("it was made");
                self.inodes.insert(*inode, Arc::new(Inode { kind, mode }));
            }
        }
    }

    /// Where `name` in `directory` leads.
    pub fn entry(&self, directory: u64, name: &str) -> Option<u64> {
        match &self.inodes[&directory].kind {
            Kind::Directory(names) => names.get(name).copied(),
            other => panic!("inode {directory} is no directory but {other:?}"),
        }
    }

    pub fn size(&self, inode: u64) -> usize {
        match &self.inodes[&inode].kind {
            Kind::File(bytes) => bytes.as_slice().len(),
            other => panic!("inode {inode} is no file but {other:?}"),
        }
    }

    pub fn apply(&mut self, effect: &Effect, rubbish: bool) {
        match effect {
            Effect::Names(changes) => {
                for (directory, name, inode) in changes {
                    let Kind::Directory(names) = &mut self.change(*directory).kind else {
                        panic!("inode {directory} is no directory");
                    };
                    match inode {
                        Some(inode) => drop(names.insert(name.clone(), *inode)),
                        None => drop(names.remove(name)),
                    }
                }
            }
            Effect::Write { inode, at, bytes } => self.write(*inode, *at, bytes, rubbish),
            Effect::Grow { inode, to } => {
                let bytes = self.bytes(*inode);
                if bytes.len() < *to {
                    grow(bytes, *to, rubbish);
                }
            }
            Effect::Cut { inode, to } => self.bytes(*inode).resize(*to, 0),
            Effect::Mode { inode, mode } => self.change(*inode).mode = *mode,
        }
    }

    /// The disk with those of `pending` that `choice` has, in their order.
    pub fn crashed(&self, pending: &[Pending], choice: &Choice) -> Self {
        let mut disk = self.clone();
        for (at, Pending { effect, .. }) in pending.iter().enumerate() {
            if !choice.has[at] {
                continue;
            }
            match (effect, choice.torn) {
                (Effect::Write { inode, at: offset, bytes }, Some((torn, chance)))
                    if torn == at =>
                {
                    // Sectors are told by where they lie in the file.
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = (from + SECTOR - (offset + from) % SECTOR).min(bytes.len());
                        if chance >> ((offset + from) / SECTOR % (PAGE / SECTOR)) & 1 == 1 {
                            disk.write(*inode, offset + from, &bytes[from..to], choice.rubbish);
                        }
                        from = to;
                    }
                }
                _ => disk.apply(effect, choice.rubbish),
            }
        }
        disk
    }

    fn write(&mut self, inode: u64, at: usize, new: &[u8], rubbish: bool) {
        let bytes = self.bytes(inode);
        let end = at + new.len();
        if bytes.len() < end {
            grow(bytes, end, rubbish);
        }
        bytes[at..end].copy_from_slice(new);
    }

    fn bytes(&mut self, inode: u64) -> &mut Vec<u8> {
        match &mut self.change(inode).kind {
            Kind::File(bytes) => bytes.change(),
            other => panic!("inode {inode} is no file but {other:?}"),
        }
    }

    fn change(&mut self, inode: u64) -> &mut Inode {
        Arc::make_mut(self.inodes.get_mut(&inode).expect("nothing leads to what was not made"))
    }

    /// Everything that a name leads to: path, inode.
    pub fn reachable(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        let mut todo = vec![(String::new(), TOP)];
        while let Some((path, directory)) = todo.pop() {
            let Kind::Directory(names) = &self.inodes[&directory].kind else { continue };
            for (name, inode) in names {
                let path = format!("{path}/{name}");
                if matches!(self.inodes[inode].kind, Kind::Directory(_)) {
                    todo.push((path.clone(), *inode));
                }
                all.push((path, *inode));
            }
        }
        all
    }

    /// Makes the beginning of the file at `path` rubbish; whether there is one.
    pub fn damage(&mut self, path: &str) -> bool {
        let found = self.reachable().into_iter().find(|(found, _)| found == path);
        let Some((_, inode)) = found else { return false };
        self.bytes(inode).iter_mut().take(PAGE * 2).for_each(|byte| *byte ^= 0x5A);
        true
    }

    /// What is another in `other`, in words; nothing if nothing is.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let say = |disk: &Self, path: &String, inode: u64| {
            let Inode { kind, mode } = disk.get(inode);
            let what = match kind {
                Kind::Directory(_) => "directory".to_owned(),
                Kind::File(bytes) => {
                    format!("{} bytes, {}", bytes.bytes.len(), blake3::hash(&bytes.bytes))
                }
                Kind::Link(target) => format!("to {target}"),
            };
            format!("{path}: inode {inode}, {mode:o}, {what}")
        };
        let lines = |disk: &Self| -> BTreeSet<String> {
            let all = disk.reachable();
            all.iter().map(|(path, inode)| say(disk, path, *inode)).collect()
        };
        let (mine, others) = (lines(self), lines(other));
        let only = |word: &str, one: &BTreeSet<String>, two: &BTreeSet<String>| {
            one.difference(two).map(|line| format!("{word} {line}")).collect::<Vec<_>>()
        };
        [only("here", &mine, &others), only("there", &others, &mine)].concat()
    }

    /// What can be told of it by looking at it.
    pub fn hash(&self) -> Hash {
        let mut hasher = Hasher::new();
        for (path, inode) in self.reachable() {
            let Inode { kind, mode } = &*self.inodes[&inode];
            hasher.update(path.as_bytes());
            hasher.update(&inode.to_le_bytes());
            hasher.update(&mode.to_le_bytes());
            match kind {
                Kind::Directory(_) => {}
                Kind::File(bytes) => {
                    let hash = bytes.hash.get_or_init(|| blake3::hash(&bytes.bytes));
                    hasher.update(hash.as_bytes());
                }
                Kind::Link(target) => drop(hasher.update(target.as_bytes())),
            }
        }
        hasher.finalize()
    }
}

fn grow(bytes: &mut Vec<u8>, to: usize, rubbish: bool) {
    let from = bytes.len();
    bytes.resize(to, 0);
    if rubbish {
        for (at, byte) in bytes.iter_mut().enumerate().skip(from) {
            *byte = (at as u8).wrapping_mul(151) ^ 0xA5;
        }
    }
}

/// Those of `pending` that `scope` makes durable.
///
/// Names that have changed again need what changed them first: a file system
/// keeps the order of what happens to one name, and of nothing else.
pub fn durable(pending: &[Pending], scope: Scope) -> Vec<bool> {
    let mut has: Vec<bool> = pending
        .iter()
        .map(|Pending { effect, .. }| match scope {
            Scope::Everything => true,
            Scope::Data(inode) => {
                effect.inode() == Some(inode) && !matches!(effect, Effect::Mode { .. })
            }
            Scope::Inode(inode) => {
                effect.inode() == Some(inode)
                    || effect.names().iter().any(|(directory, ..)| *directory == inode)
            }
        })
        .collect();
    close(pending, &mut has);
    has
}

/// Everything but one, and what happened to the same names after it.
pub fn without(pending: &[Pending], one: usize) -> Vec<bool> {
    let mut names: BTreeSet<(u64, &str)> = BTreeSet::new();
    let mut has = vec![true; pending.len()];
    for (at, Pending { effect, .. }) in pending.iter().enumerate() {
        let mine = || effect.names().iter().map(|(directory, name, _)| (*directory, name.as_str()));
        if at == one || mine().any(|name| names.contains(&name)) {
            has[at] = false;
            names.extend(mine());
        }
    }
    has
}

/// Adds to `has` what is needed before it: what happened to the same names.
pub fn close(pending: &[Pending], has: &mut [bool]) {
    let mut names: BTreeSet<(u64, &str)> = BTreeSet::new();
    for (at, Pending { effect, .. }) in pending.iter().enumerate().rev() {
        let mine = || effect.names().iter().map(|(directory, name, _)| (*directory, name.as_str()));
        has[at] = has[at] || mine().any(|name| names.contains(&name));
        if has[at] {
            names.extend(mine());
        }
    }
}
