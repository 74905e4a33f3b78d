//! The switch: the live tree and the next one change places in one system
//! call, and what was ignored in the old one is carried over.
//!
//! Everything a switch needs lies in a hidden directory beside the live tree,
//! on the same file system:
//!
//! ```text
//! /srv/www                the live tree, or a link to it
//! /srv/.althing-www/
//!     next                being written; complete once the journal names it
//!     journal             a switch is under way: which tree is the new one
//!     old                 the tree before; the next switch removes it
//!     trial               a version that is tried before it is published
//!     tree-N              the live tree, where the path is a link
//!     made                a directory on its way into the live tree
//!     staging             what a repair has ready
//!     aside/N             what was replaced
//! ```
//!
//! **Invariant:** at any instant the live path is one whole tree, and after a
//! crash at any instant [`recover`] ends with the old one or the new one, and
//! with everything ignored in it.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, RenameFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    aside,
    beneath::{self, Root},
    carry,
    ignore::IgnoreRules,
};
use crate::{
    base::{RelPath, limits, wire},
    driver::DriverError,
};

/// The hidden directory beside a live tree.
#[derive(Debug)]
pub struct WorkDir {
    root: Root,
    live: PathBuf,
}

impl WorkDir {
    /// Where it is for the tree `live`.
    pub fn path_of(live: &Path) -> PathBuf {
        let mut name = OsString::from(".althing-");
        name.push(live.file_name().unwrap_or_default());
        live.with_file_name(name)
    }

    /// Opens it, and makes it where it is missing. Others may pass through
    /// it (a live link leads into it) but not look into it.
    pub fn open(live: &Path) -> Result<Self, DriverError> {
        let path = Self::path_of(live);
        if let Some(parent) = path.parent() {
            beneath::make_path(parent).map_err(|e| DriverError::io("make", parent, e))?;
        }
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o711)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(DriverError::io("make", &path, error)),
        }
        let opened = Root::open_own(&path)?;
        let stat = rustix::fs::fstat(&opened).map_err(|e| DriverError::io("read", &path, e))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(DriverError::NotOurs(path));
        }
        Ok(Self { root: opened, live: live.to_owned() })
    }

    /// Where the next tree is written.
    pub fn next(&self) -> PathBuf {
        self.root.path().join("next")
    }

    /// Where a version stands that is tried before it is published.
    pub fn trial(&self) -> PathBuf {
        self.root.path().join("trial")
    }

    /// Removes what is there. Who tries versions sees to it that there is one at a time.
    pub fn clear_trial(&self) -> Result<(), DriverError> {
        beneath::remove_all(&self.trial())
    }

    /// Where the tree before lies.
    pub fn old(&self) -> PathBuf {
        self.root.path().join("old")
    }

    /// Where replaced content is kept.
    pub fn aside(&self) -> PathBuf {
        self.root.path().join("aside")
    }

    /// Makes room for the next tree: what is left of another try, and the
    /// tree before the live one, are removed. To be called when no switch is
    /// under way, after [`recover`].
    pub fn clear(&self) -> Result<(), DriverError> {
        beneath::remove_all(&self.next())?;
        beneath::remove_all(&self.old())
    }

    /// Moves what stands at the live path aside, whatever it is. Returns the
    /// directory that it is in now.
    pub fn keep_live_aside(&self) -> Result<PathBuf, DriverError> {
        let aside = aside::next(&self.aside())?;
        let failed = |e| DriverError::io("keep aside", &self.live, e);
        beneath::make_path(&aside).map_err(failed)?;
        let name = self.live.file_name().unwrap_or_default();
        std::fs::rename(&self.live, aside.join(name)).map_err(failed)?;
        self.sync()?;
        Ok(aside)
    }

    /// An empty directory for what a repair gets ready.
    pub(super) fn fresh_staging(&self) -> Result<Root, DriverError> {
        let path = self.root.path().join("staging");
        beneath::remove_all(&path)?;
        std::fs::create_dir(&path).map_err(|e| DriverError::io("make", &path, e))?;
        Root::open(&path)
    }

    fn journal_path(&self) -> PathBuf {
        self.root.path().join("journal")
    }

    fn sync(&self) -> Result<(), DriverError> {
        let parent = self.root.path().parent().unwrap_or(Path::new("/"));
        for path in [self.root.path(), parent] {
            let dir = File::open(path).and_then(|dir| dir.sync_all());
            dir.map_err(|e| DriverError::io("sync", path, e))?;
        }
        Ok(())
    }

    fn write_journal(&self, journal: &Journal) -> Result<(), DriverError> {
        let fresh = self.root.path().join("journal.new");
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(&wire::encode(wire::Kind::Record, journal))?;
            file.sync_all()?;
            std::fs::rename(&fresh, self.journal_path())
        });
        written.map_err(|e| DriverError::io("write", &fresh, e))?;
        self.sync()
    }

    fn read_journal(&self) -> Result<Option<Journal>, DriverError> {
        let path = self.journal_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DriverError::io("read", &path, error)),
        };
        wire::decode(wire::Kind::Record, &bytes)
            .map(Some)
            .map_err(|why| DriverError::Journal { path, why: why.to_string() })
    }

    fn end_journal(&self) -> Result<(), DriverError> {
        let path = self.journal_path();
        std::fs::remove_file(&path).map_err(|e| DriverError::io("remove", &path, e))?;
        self.sync()
    }
}

/// What must be known to finish a switch after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    /// The inode of the new tree: the switch has happened when the live path
    /// leads to it. It exists when this is written, so nothing else has it.
    inode: u64,
    /// What is carried over.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::PATTERNS_MAX }>")]
    patterns: Vec<String>,
    /// Whether the old tree is none of ours and is kept aside.
    foreign: bool,
    /// Where the live path is a link: the name of the new tree in the work
    /// directory.
    linked: Option<String>,
    /// And the place that the link led to, if that is to be carried over.
    before: Option<Vec<u8>>,
}

/// What came of the tree before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Where it is until the next switch, or for as long as it is kept aside.
    pub path: Option<PathBuf>,
    /// Ignored things that are now in the new tree.
    pub carried: Vec<RelPath>,
    /// Ignored things that could not be carried over, because something else
    /// stands there now: they are kept with the old tree, aside.
    pub left: Vec<RelPath>,
}

/// What [`recover`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// No switch was under way.
    Clean,
    /// A switch had happened; what was left to do is done.
    Finished,
    /// A switch had not happened; its tree is removed.
    Undone,
}

/// Puts the tree `next`, written to [`WorkDir::next`], in the place of
/// `live`. `foreign` says that what stands at `live` is none of ours: then it
/// is kept aside as a whole.
pub fn switch(
    live: &Path,
    next: &Path,
    rules: &IgnoreRules,
    foreign: bool,
) -> Result<Retired, DriverError> {
    let work = WorkDir::open(live)?;
    let stands = match std::fs::symlink_metadata(live) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(DriverError::io("read", live, error)),
    };
    // A link that leads nowhere is replaced like any other.
    let tree = Root::open(live);
    match (&stands, &tree) {
        (None, _) | (_, Ok(_)) | (Some(_), Err(DriverError::Absent(_))) => {}
        _ => tree.as_ref().map(|_| ()).map_err(|_| DriverError::NotDirectory(live.to_owned()))?,
    }
    if let Ok(tree) = &tree {
        carry::no_mounts_in(tree)?;
    }
    take_after(next, tree.as_ref().ok())?;
    let inode = inode_of(next).ok_or_else(|| DriverError::Absent(next.to_owned()))?;
    let mut journal =
        Journal { inode, patterns: rules.patterns().to_vec(), foreign, linked: None, before: None };
    step("ready")?;
    if stands.as_ref().is_some_and(std::fs::Metadata::is_symlink) {
        relink(&work, next, &mut journal)?;
    } else {
        work.write_journal(&journal)?;
        step("journal")?;
        let flags = if stands.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        let cwd = rustix::fs::CWD;
        if let Err(error) = rustix::fs::renameat_with(cwd, next, cwd, live, flags) {
            work.end_journal()?;
            return Err(match error {
                Errno::BUSY | Errno::XDEV => DriverError::Mounted(live.to_owned()),
                Errno::INVAL | Errno::NOSYS => DriverError::NoExchange(live.to_owned()),
                error => DriverError::io("switch", live, error),
            });
        }
    }
    step("switched")?;
    work.sync()?;
    finish(&work, &journal)
}

/// To be called once for each live tree before anything else is done with
/// it: finishes or undoes what a crash interrupted, and removes what is left
/// over of unfinished trees.
pub fn recover(live: &Path) -> Result<Recovered, DriverError> {
    if !WorkDir::path_of(live).exists() {
        return Ok(Recovered::Clean);
    }
    let work = WorkDir::open(live)?;
    beneath::remove_all(&work.root.path().join("staging"))?;
    let journal = work.read_journal()?;
    let Some(journal) = journal else {
        sweep(&work, None)?;
        return Ok(Recovered::Clean);
    };
    if inode_of(live) == Some(journal.inode) {
        finish(&work, &journal)?;
        sweep(&work, None)?;
        return Ok(Recovered::Finished);
    }
    // The live path leads to something that is not the new tree. If the new
    // tree is not where it was written either, somebody else moved trees
    // around: what lies there may be the only copy of uploads.
    let next = work.next();
    if journal.linked.is_none() && next.exists() && inode_of(&next) != Some(journal.inode) {
        keep_aside(&work, &next)?;
    }
    work.end_journal()?;
    sweep(&work, Some(journal.inode))?;
    Ok(Recovered::Undone)
}

/// The switch has happened: carries over, and puts the old tree where it
/// belongs. Doing it again after a crash in the middle goes on from there.
fn finish(work: &WorkDir, journal: &Journal) -> Result<Retired, DriverError> {
    let old = work.old();
    let before = match (&journal.linked, &journal.before) {
        (None, _) => Some(work.next()),
        (Some(_), Some(target)) => Some(PathBuf::from(OsString::from_vec(target.clone()))),
        (Some(_), None) => None,
    };
    // What the link led to outside of the work directory is the operator's:
    // it stays there, and only what is ignored moves on.
    let ours = before.as_ref().is_some_and(|path| path.starts_with(work.root.path()));
    if let Some(before) = before.as_ref().filter(|path| ours && path.exists()) {
        beneath::remove_all(&old)?;
        std::fs::rename(before, &old).map_err(|e| DriverError::io("move", before, e))?;
        work.sync()?;
    }
    step("retired")?;
    let from = if ours { Some(old.clone()) } else { before };
    let mut retired = Retired::default();
    if let Some(from) = from.filter(|path| path.is_dir()) {
        let rules = IgnoreRules::new(&journal.patterns)?;
        let carried = carry::over(&from, &work.live, &work.root, &rules)?;
        step("carried")?;
        let keep = journal.foreign || !carried.left.is_empty();
        (retired.carried, retired.left) = (carried.moved, carried.left);
        retired.path = if ours && keep { keep_aside(work, &old)? } else { Some(from) };
    }
    step("kept")?;
    work.end_journal()?;
    Ok(retired)
}

/// The live path is a link: the new tree gets a name of its own, and a new
/// link takes the old one's place.
fn relink(work: &WorkDir, next: &Path, journal: &mut Journal) -> Result<(), DriverError> {
    let live = &work.live;
    let failed = |error| DriverError::io("switch", live, error);
    let target = std::fs::read_link(live).map_err(failed)?;
    let parent = live.parent().unwrap_or(Path::new("/"));
    let name = format!("tree-{}", journal.inode);
    journal.before = Some(parent.join(target).into_os_string().into_vec());
    journal.linked = Some(name.clone());
    let tree = work.root.path().join(&name);
    beneath::remove_all(&tree)?;
    std::fs::rename(next, &tree).map_err(failed)?;
    step("named")?;
    let link = work.root.path().join("link");
    beneath::remove_all(&link)?;
    let hidden = Path::new(work.root.path().file_name().unwrap_or_default()).join(&name);
    std::os::unix::fs::symlink(hidden, &link).map_err(failed)?;
    work.write_journal(journal)?;
    step("journal")?;
    std::fs::rename(&link, live).map_err(failed)
}

/// The root of a tree is no part of it: it takes after the one before, and
/// is readable by everybody where there was none.
fn take_after(next: &Path, live: Option<&Root>) -> Result<(), DriverError> {
    let failed = |error| DriverError::io("set permissions of", next, error);
    let new = Root::open(next)?;
    let mode = match live {
        None => 0o755,
        Some(live) => {
            let stat = rustix::fs::fstat(live).map_err(failed)?;
            let (user, group) =
                (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            // Only root may give a directory away; anybody else's stays its own.
            let _ = rustix::fs::fchown(&new, Some(user), Some(group));
            stat.st_mode & 0o7777
        }
    };
    rustix::fs::fchmod(&new, Mode::from_raw_mode(mode)).map_err(failed)?;
    // It was synced before, with permissions that may let others in.
    rustix::fs::fsync(&new).map_err(failed)
}

/// Moves the tree `from` to the next place aside; `None` if it is not there.
fn keep_aside(work: &WorkDir, from: &Path) -> Result<Option<PathBuf>, DriverError> {
    if !from.exists() {
        return Ok(None);
    }
    let aside = work.aside();
    std::fs::create_dir_all(&aside).map_err(|e| DriverError::io("make", &aside, e))?;
    // First: a tree must not be moved to where after a power loss nothing leads.
    work.sync()?;
    let to = aside::next(&aside)?;
    std::fs::rename(from, &to).map_err(|e| DriverError::io("keep aside", from, e))?;
    // And it is there before a journal ends that would bring it there.
    work.sync()?;
    Ok(Some(to))
}

/// Removes what nothing leads to; no journal may be there. A tree that the
/// live link does not lead to is kept aside, because somebody may have turned
/// the link by hand, unless it is `unused`, the inode of one that never was live.
fn sweep(work: &WorkDir, unused: Option<u64>) -> Result<(), DriverError> {
    let live = inode_of(&work.live);
    let path = work.root.path();
    let mut is_swept = false;
    let names = beneath::list(work.root.as_fd()).map_err(|e| DriverError::io("read", path, e))?;
    for (name, _) in names {
        let stray = path.join(std::ffi::OsStr::from_bytes(&name));
        let inode = inode_of(&stray);
        match &name[..] {
            b"next" | b"link" | b"journal.new" | carry::MADE => beneath::remove_all(&stray)?,
            name if !name.starts_with(b"tree-") || inode == live => continue,
            _ if inode == unused => beneath::remove_all(&stray)?,
            _ => drop(keep_aside(work, &stray)?),
        }
        is_swept = true;
    }
    // Nobody may look here again before the next switch: it is not to come back.
    if is_swept { work.sync() } else { Ok(()) }
}

/// The inode that `path` leads to.
fn inode_of(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.ino())
}

/// Where the tests stop a switch as a crash would.
#[cfg(not(test))]
pub(super) fn step(_: &'static str) -> Result<(), DriverError> {
    Ok(())
}

#[cfg(test)]
pub(super) use crash::step;
#[cfg(test)]
pub(crate) use crash::{STEPS, with_crash_at};

#[cfg(test)]
mod crash {
    use std::cell::Cell;

    use super::DriverError;

    /// Every step of a switch; `named` is one only where the path is a link.
    pub const STEPS: [&str; 8] =
        ["ready", "named", "journal", "switched", "retired", "carrying", "carried", "kept"];

    thread_local! {
        static CRASH: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    pub fn with_crash_at<T>(step: &'static str, run: impl FnOnce() -> T) -> T {
        CRASH.set(Some(step));
        let result = run();
        CRASH.set(None);
        result
    }

    pub fn step(name: &'static str) -> Result<(), DriverError> {
        if CRASH.get() == Some(name) {
            return Err(DriverError::Store(name.into()));
        }
        Ok(())
    }
}
