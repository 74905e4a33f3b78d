//! The scan: what a directory holds, as a tree with signatures.
//!
//! It never writes and never follows a symbolic link. A file is read through
//! one descriptor, whose state is the same before and after, or it is read
//! again.
//!
//! Directories lose their setgid and sticky bits in the listing: they give
//! nobody rights to content, and shared directories have them by custom.
//! Files with such bits are never taken for content.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Seek},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{FileType, Mode as Rights, Stat},
    io::Errno,
};

use super::{
    beneath::{self, Root},
    cache::{Known, StatCache, StatKey},
    ignore::IgnoreRules,
};
use crate::{
    base::{
        Digest, RelPath, limits,
        tree::{self, Change, Chunk, Entry, Level, Node, Tree, TreeError},
    },
    driver::{DriverError, FileSink, How, Mode, Purpose, Scan},
};

/// Scans the directory `root`. `cache` is what was known of it and becomes
/// what is known now; after an error it is what it was. With a `sink` every
/// file is read and handed to it.
pub fn scan(
    root: &Path,
    rules: &IgnoreRules,
    cache: &mut StatCache,
    how: How,
    sink: Option<&mut (dyn FileSink + '_)>,
) -> Result<Scan, DriverError> {
    let mut walk = Walk::new(root, rules, cache, how, sink)?;
    let top = walk.directory(None)?.unwrap_or_default();
    let Walk { learned, known, mut strange, holds_ignored, bytes_read, .. } = walk;
    let tree = Tree::of(top);
    strange.sort();
    if how.purpose == Purpose::Publish && tree.is_empty() {
        return Err(DriverError::Empty(root.to_owned()));
    }
    let shells = shells(&tree, &strange, holds_ignored);
    learned.teach(cache, known, &tree);
    Ok(Scan { tree, strange, shells, bytes_read })
}

/// What a scan of a tree that is `before` finds if it differs at `paths` at the most, which
/// is for the caller to know. Nothing where more must be looked at to tell: directories
/// came, or what is ignored may make a shell of one. As [`scan`] otherwise.
pub fn rescan(
    (root, rules): (&Path, &IgnoreRules),
    before: &Scan,
    paths: &BTreeSet<RelPath>,
    cache: &mut StatCache,
    how: How,
    sink: Option<&mut (dyn FileSink + '_)>,
) -> Result<Option<Scan>, DriverError> {
    let is_shell = |path: &RelPath| before.shells.iter().any(|shell| within(path, shell));
    if !before.strange.is_empty() || paths.iter().any(is_shell) {
        return Ok(None);
    }
    let mut walk = Walk::new(root, rules, cache, how, sink)?;
    let mut list = Vec::new();
    for path in paths {
        let found = match walk.one(path)? {
            Stands::Directory => return Ok(None),
            Stands::Entry(entry) => Some(entry),
            Stands::Nothing => None,
        };
        let stood = before.tree.get(path);
        // What stood below goes with it.
        list.extend(before.tree.within(path).map(|entry| Change::Del(entry.path.clone())));
        match (stood, found) {
            (None, None) => {}
            (Some(_), None) => list.push(Change::Del(path.clone())),
            (Some(_), Some(entry)) => list.push(Change::Set(entry)),
            (None, Some(entry)) => list.push(Change::Add(entry)),
        }
    }
    if !walk.strange.is_empty() {
        return Ok(None);
    }
    // One that went with a directory is in the list for both.
    list.sort_by(|a, b| a.path().cmp(b.path()));
    list.dedup_by(|a, b| a.path() == b.path() && a.entry().is_none() && b.entry().is_none());
    // A file in a directory that is not known, or the like: it takes a whole scan.
    let Ok(tree) = tree::apply(&before.tree, &list) else { return Ok(None) };
    let hollow = |path: &RelPath| path.parent().is_some_and(|p| tree.within(&p).len() == 0);
    if !rules.patterns().is_empty()
        && list.iter().any(|change| change.entry().is_none() && hollow(change.path()))
    {
        return Ok(None);
    }
    let (learned, bytes_read) = (walk.learned, walk.bytes_read);
    for change in list.iter().filter(|change| change.entry().is_none()) {
        cache.remove(change.path());
    }
    learned.add_to(cache);
    Ok(Some(Scan { tree, strange: Vec::new(), shells: before.shells.clone(), bytes_read }))
}

/// Whether the link at `path` with `target` leads out of the tree: it is
/// absolute, or its `..` climb over the top, whatever else is in the way.
pub fn leads_out(path: &RelPath, target: &[u8]) -> bool {
    let mut depth = path.components().count() - 1;
    if target.starts_with(b"/") {
        return true;
    }
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

struct Walk<'a, 's> {
    root: Root,
    rules: &'a IgnoreRules,
    before: &'a StatCache,
    learned: Learned,
    /// Files of which what was known is true still.
    known: usize,
    /// Entries found.
    found: usize,
    how: How,
    sink: Option<&'a mut (dyn FileSink + 's)>,
    strange: Vec<RelPath>,
    holds_ignored: BTreeSet<RelPath>,
    bytes_read: u64,
}

/// What stands at one path.
enum Stands {
    Nothing,
    /// And what is in it is another question.
    Directory,
    Entry(Entry),
}

/// What was not known before.
#[derive(Default)]
struct Learned {
    files: Vec<(RelPath, Known)>,
    /// Of these nothing is known: they changed while they were read.
    restless: Vec<RelPath>,
}

impl Learned {
    /// `cache` becomes what is known of the files of `tree`, of which it knew so many.
    fn teach(self, cache: &mut StatCache, known: usize, tree: &Tree) {
        let also = self.files.iter().filter(|(path, _)| cache.get(path).is_some()).count();
        if cache.len() > known + also {
            let is_file = |path: &RelPath| matches!(tree.get(path), Some(Node::File { .. }));
            let gone: Vec<RelPath> =
                cache.iter().map(|(path, _)| path).filter(|path| !is_file(path)).cloned().collect();
            for path in gone {
                cache.remove(&path);
            }
        }
        self.add_to(cache);
    }

    fn add_to(self, cache: &mut StatCache) {
        for path in &self.restless {
            cache.remove(path);
        }
        for (path, known) in self.files {
            cache.insert(path, known);
        }
    }
}

impl<'a, 's> Walk<'a, 's> {
    fn new(
        root: &Path,
        rules: &'a IgnoreRules,
        before: &'a StatCache,
        how: How,
        sink: Option<&'a mut (dyn FileSink + 's)>,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            root: Root::open(root)?,
            rules,
            before,
            learned: Learned::default(),
            known: 0,
            found: 0,
            how,
            sink,
            strange: Vec::new(),
            holds_ignored: BTreeSet::new(),
            bytes_read: 0,
        })
    }

    fn publishing(&self) -> bool {
        self.how.purpose == Purpose::Publish
    }

    /// What the directory at `path` holds; nothing if it can't be listed: then it is
    /// strange as a whole.
    fn directory(&mut self, path: Option<&RelPath>) -> Result<Option<Level>, DriverError> {
        let opened = self.root.directory(path);
        let listed = opened.and_then(|fd| beneath::list(fd.as_fd()).map(|names| (fd, names)));
        let (fd, names) = match listed {
            Ok(found) => found,
            // Gone, or replaced by a link, since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.publishing() => {
                return Ok(Some(Level::default()));
            }
            Err(error) => return Err(self.unlisted(path, error)),
        };
        let mut entries = Vec::with_capacity(names.len());
        for (name, kind) in names {
            let child = match path {
                None => RelPath::parse(&name),
                Some(path) => path.join(&name),
            };
            match child {
                Ok(child) if self.rules.matches(&child, kind == FileType::Directory) => {
                    self.holds_ignored.extend(path.cloned());
                }
                Ok(child) => entries.extend(self.child(fd.as_fd(), &name, child)?),
                Err(why) if self.publishing() => {
                    return Err(DriverError::Name { path: self.place(path), why });
                }
                // What can't be named can't be listed: the directory that
                // holds it is strange as a whole.
                Err(_) => {
                    self.strange.push(path.expect("a name alone is never too long").clone());
                    return Ok(None);
                }
            }
        }
        drop(fd); // a tree is deeper than many files may be open
        let mut level = Level::default();
        for entry in entries {
            let inside = match entry.node {
                Node::Directory { .. } => self.directory(Some(&entry.path))?,
                _ => Some(Level::default()),
            };
            if let Some(inside) = inside {
                level.push(entry, inside)?;
            }
        }
        Ok(Some(level))
    }

    fn place(&self, path: Option<&RelPath>) -> PathBuf {
        path.map_or_else(|| self.root.path().to_owned(), |p| self.root.at(p))
    }

    fn unlisted(&self, path: Option<&RelPath>, error: Errno) -> DriverError {
        let place = self.place(path);
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => DriverError::Changing(place),
            Errno::ACCESS => DriverError::Unreadable { path: place, source: Errno::ACCESS.into() },
            error => DriverError::io("open", &place, error),
        }
    }

    /// What stands at `path`.
    fn one(&mut self, path: &RelPath) -> Result<Stands, DriverError> {
        let dir = match self.root.directory(path.parent().as_ref()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Stands::Nothing),
            Err(error) => return Err(self.unlisted(path.parent().as_ref(), error)),
        };
        let name = path.file_name();
        let failed = |error| DriverError::io("read", &self.root.at(path), error);
        let Some(stat) = beneath::stat_in(dir.as_fd(), name).map_err(failed)? else {
            return Ok(Stands::Nothing);
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Stands::Directory);
        }
        let found = self.child(dir.as_fd(), name, path.clone())?;
        Ok(found.map_or(Stands::Nothing, Stands::Entry))
    }

    fn child(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: RelPath,
    ) -> Result<Option<Entry>, DriverError> {
        self.found += 1;
        if self.found > limits::ENTRIES_MAX {
            return Err(TreeError::TooMany.into());
        }
        let found = beneath::stat_in(dir, name)
            .map_err(|e| DriverError::io("read", &self.root.at(&path), e))?;
        let Some(stat) = found else {
            let place = || DriverError::Changing(self.root.at(&path));
            return if self.publishing() { Err(place()) } else { Ok(None) };
        };
        let node = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Some(Node::Directory { mode: permissions(&stat) }),
            FileType::Symlink => self.symlink(dir, name, &path)?,
            FileType::RegularFile => self.file(dir, name, &path, &stat)?,
            _ if self.publishing() => {
                let (path, kind) = (self.root.at(&path), kind(&stat));
                return Err(DriverError::Strange { path, kind });
            }
            _ => {
                self.strange.push(path.clone());
                None
            }
        };
        Ok(node.map(|node| Entry { path, node }))
    }

    fn symlink(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
    ) -> Result<Option<Node>, DriverError> {
        let place = || self.root.at(path);
        let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::NOENT | Errno::INVAL) if !self.publishing() => return Ok(None),
            Err(Errno::NOENT | Errno::INVAL) => return Err(DriverError::Changing(place())),
            Err(error) => return Err(DriverError::io("read the link", &place(), error)),
        };
        if self.publishing() && (leads_out(path, &target) || target.len() > limits::PATH_MAX) {
            let target = String::from_utf8_lossy(&target).escape_debug().to_string();
            return Err(DriverError::LeadsOut { path: place(), target });
        }
        if target.len() > limits::PATH_MAX {
            self.strange.push(path.clone());
            return Ok(None);
        }
        Ok(Some(Node::Symlink { target }))
    }

    /// The file at `path`; `None` if it is strange, or gone.
    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
        stat: &Stat,
    ) -> Result<Option<Node>, DriverError> {
        let special = stat.st_mode & 0o7000 != 0;
        if self.publishing() && special {
            let (path, mode) = (self.root.at(path), stat.st_mode & 0o7777);
            return Err(DriverError::Special { path, mode });
        }
        if special || StatKey::of(stat).size > limits::FILE_MAX {
            self.strange.push(path.clone());
            return Ok(None);
        }
        if self.how.mode == Mode::Quick
            && let Some(known) = self.before.known(path, &StatKey::of(stat))
            && self.sink.as_deref_mut().map_or(Ok(true), |sink| sink.holds(&known.chunks))?
        {
            self.known += 1;
            return Ok(Some(Node::File {
                mode: permissions(stat),
                size: known.stat.size,
                digest: known.digest,
                chunks: known.chunks.clone(),
            }));
        }
        let place = self.root.at(path);
        let opened = rustix::fs::openat(dir, name, beneath::READ, Rights::empty());
        match opened.map(File::from) {
            Ok(file) => self.read(file, path),
            Err(Errno::NOENT | Errno::LOOP) if !self.publishing() => Ok(None),
            Err(Errno::NOENT | Errno::LOOP) => Err(DriverError::Changing(place)),
            Err(Errno::ACCESS | Errno::PERM) => {
                let source = Errno::ACCESS.into();
                Err(DriverError::Unreadable { path: place, source })
            }
            Err(error) => Err(DriverError::io("open", &place, error)),
        }
    }

    fn read(&mut self, mut file: File, path: &RelPath) -> Result<Option<Node>, DriverError> {
        let place = self.root.at(path);
        let failed = |source: io::Error| DriverError::Unreadable { path: place.clone(), source };
        let state = |file: &File| rustix::fs::fstat(file).map_err(|e| failed(e.into()));
        let mut last = None;
        for _ in 0..2 {
            let before = state(&file)?;
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                break; // replaced since it was listed
            }
            let began = SystemTime::now();
            let mut watched = Watched { file: &mut file, error: None };
            let taken = match self.sink.as_deref_mut() {
                Some(sink) => sink.file(&mut watched),
                None => sign(&mut watched),
            };
            if let Some(error) = watched.error {
                return Err(failed(error));
            }
            let (digest, size, chunks) = taken?;
            self.bytes_read += size;
            let (before, after) = (StatKey::of(&before), state(&file)?);
            let node = |chunks| Node::File { mode: permissions(&after), size, digest, chunks };
            if before == StatKey::of(&after) && before.size == size {
                let settled = before.at_rest(began);
                let known = Known { stat: before, digest, chunks: chunks.clone(), settled };
                self.learned.files.push((path.clone(), known));
                return Ok(Some(node(chunks)));
            }
            last = Some(node(chunks));
            file.rewind().map_err(failed)?;
        }
        self.learned.restless.push(path.clone());
        if self.publishing() { Err(DriverError::Changing(place)) } else { Ok(last) }
    }
}

/// Tells a file that can't be read from a sink that can't take it.
struct Watched<'f> {
    file: &'f mut File,
    error: Option<io::Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.error = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

/// Reads to the end and signs. The pieces are as large as can be: they only
/// describe the file, nobody fetches them.
pub fn sign(reader: &mut dyn Read) -> Result<(Digest, u64, Vec<Chunk>), DriverError> {
    let failed = |error| DriverError::io("read", Path::new("the file"), error);
    let mut whole = blake3::Hasher::new();
    let (mut size, mut chunks) = (0, Vec::new());
    let mut piece = Vec::new();
    loop {
        piece.clear();
        let read = reader.take(limits::CHUNK_MAX as u64).read_to_end(&mut piece).map_err(failed)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        whole.update(&piece);
        chunks.push(Chunk { digest: Digest::of_bytes(&piece), len: read as u32 });
    }
    Ok((Digest(*whole.finalize().as_bytes()), size, chunks))
}

/// Directories that hold something ignored and, all the way down, nothing
/// else but such directories.
fn shells(tree: &Tree, strange: &[RelPath], holds_ignored: BTreeSet<RelPath>) -> Vec<RelPath> {
    if holds_ignored.is_empty() {
        return Vec::new();
    }
    // Per directory: whether it is a shell, as far as was seen. Backwards, so
    // that what a directory holds is seen before it.
    let mut hollow: BTreeMap<RelPath, bool> =
        holds_ignored.into_iter().map(|path| (path, true)).collect();
    for path in strange {
        if let Some(parent) = path.parent() {
            hollow.insert(parent, false);
        }
    }
    let mut shells = Vec::new();
    let all: Vec<&Entry> = tree.entries().collect();
    for Entry { path, node } in all.into_iter().rev() {
        let is_shell = matches!(node, Node::Directory { .. }) && hollow.get(path) == Some(&true);
        if let Some(parent) = path.parent() {
            let before = hollow.get(&parent).copied();
            hollow.insert(parent, is_shell && before.unwrap_or(true));
        }
        if is_shell {
            shells.push(path.clone());
        }
    }
    shells.sort();
    shells
}

fn within(path: &RelPath, directory: &RelPath) -> bool {
    path.as_bytes()
        .strip_prefix(directory.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn permissions(stat: &Stat) -> u16 {
    (stat.st_mode & 0o777) as u16
}

fn kind(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "no file",
    }
}
