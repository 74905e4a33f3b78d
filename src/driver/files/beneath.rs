//! System calls that stay inside a directory: every path is resolved by
//! `openat2` below an open directory, without following a symbolic link, so
//! that neither a hostile path nor a link swapped in meanwhile leads out.
//!
//! Never here: a path built from what came over the network and handed to
//! the kernel as text. The idea is `openat2(2)`, RESOLVE_BENEATH.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::{base::RelPath, driver::DriverError};

/// An open directory below which everything happens.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens `path`, which is the operator's: links in it are followed.
    pub fn open(path: &Path) -> Result<Self, DriverError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOENT) => Err(DriverError::Absent(path.to_owned())),
            Err(Errno::NOTDIR) => Err(DriverError::NotDirectory(path.to_owned())),
            Err(Errno::ACCESS) => {
                Err(DriverError::Unreadable { path: path.to_owned(), source: Errno::ACCESS.into() })
            }
            Err(error) => Err(DriverError::io("open the directory", path, error)),
        }
    }

    /// Opens a directory of ours: it must not be a link that somebody put there.
    pub fn open_own(path: &Path) -> Result<Self, DriverError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(DriverError::NotOurs(path.to_owned())),
            Err(error) => Err(DriverError::io("open the directory", path, error)),
        }
    }

    /// Where it was opened; it may have been moved since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For messages: the place of `path`.
    pub fn at(&self, path: &RelPath) -> PathBuf {
        self.path.join(path.to_path())
    }

    /// Opens a directory below this one; this one itself without a path.
    pub fn directory(&self, path: Option<&RelPath>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.resolve(path.map_or(b".", |p| p.as_bytes()), flags, ResolveFlags::empty())
    }

    /// The same, but EXDEV where something is mounted on the way.
    pub fn unmounted(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.resolve(path, flags, ResolveFlags::NO_XDEV)
    }

    /// Opens a regular file below this one to read it. Opening never waits
    /// (a pipe) and never acts (a device): the caller checks what it is.
    pub fn file(&self, path: &RelPath) -> Result<File, Errno> {
        self.resolve(path.as_bytes(), READ, ResolveFlags::empty()).map(File::from)
    }

    /// What stands at `path`, a link itself and not its target.
    pub fn stat(&self, path: &RelPath) -> Result<Option<Stat>, Errno> {
        let parent = match self.directory(path.parent().as_ref()) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
        stat_in(parent.as_fd(), path.file_name())
    }

    fn resolve(&self, path: &[u8], flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let inside =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
        // EAGAIN: something was renamed meanwhile and the kernel could not
        // be sure. A few more tries, then it is the caller's error.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), inside) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// To open what may turn out to be anything, and only to look.
pub const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The directories that hold one path after the other: the last one stays
/// open, because sorted paths have most often the same parent.
#[derive(Debug)]
pub struct Parents<'r> {
    root: &'r Root,
    last: Option<(Option<RelPath>, OwnedFd)>,
}

impl<'r> Parents<'r> {
    /// Nothing is open yet.
    pub fn new(root: &'r Root) -> Self {
        Self { root, last: None }
    }

    /// The directory that holds `path`.
    pub fn of(&mut self, path: &RelPath) -> Result<BorrowedFd<'_>, DriverError> {
        let parent = path.parent();
        if self.last.as_ref().is_none_or(|(open, _)| *open != parent) {
            let fd = self.root.directory(parent.as_ref()).map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
                    DriverError::InTheWay(self.root.at(path))
                }
                error => DriverError::io("open", &self.root.at(path), error),
            })?;
            self.last = Some((parent, fd));
        }
        Ok(self.last.as_ref().expect("it was set above").1.as_fd())
    }

    /// To be called when a directory was moved or removed.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// What stands under `name` in `dir`: nothing, or its state.
pub fn stat_in(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in `dir` with their types, sorted.
pub fn list(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            match stat_in(dir, name)? {
                Some(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                None => continue,
            }
        }
        names.push((name.to_vec(), kind));
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}

/// Creates a file that is not there yet, for this user alone.
pub fn create(dir: BorrowedFd<'_>, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Moves `from` to `to` where nothing may stand.
pub fn move_new(from: (BorrowedFd<'_>, &[u8]), to: (BorrowedFd<'_>, &[u8])) -> Result<(), Errno> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE)
}

/// Exchanges what stands at two places, whatever it is, in one step.
pub fn exchange(one: (BorrowedFd<'_>, &[u8]), other: (BorrowedFd<'_>, &[u8])) -> Result<(), Errno> {
    rustix::fs::renameat_with(one.0, one.1, other.0, other.1, RenameFlags::EXCHANGE)
}

/// Opens `path` below `root` as directories, making those that are missing
/// with `mode`.
pub fn make_all(root: &Root, path: Option<&RelPath>, mode: u32) -> Result<OwnedFd, Errno> {
    let mut dir = root.directory(None)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in path.iter().flat_map(|p| p.components()) {
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        // One component that is no link can't leave the directory.
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    }
    Ok(dir)
}

/// Makes the directory at `path`, which is the operator's, and those above it that are
/// missing. What is made outlives a power loss: nothing that is moved into it is lost.
pub fn make_path(path: &Path) -> std::io::Result<()> {
    let missing = path.ancestors().take_while(|above| !above.exists()).count();
    std::fs::create_dir_all(path)?;
    for above in path.ancestors().skip(1).take(missing) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// Removes a whole tree, links themselves and never their targets, and
/// nothing that is mounted in it. Nothing there is fine.
///
/// Every directory is moved up to the top before it is emptied, so it does
/// not matter how deep somebody has nested them.
pub fn remove_all(path: &Path) -> Result<(), DriverError> {
    let failed = |error| DriverError::io("remove", path, error);
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            remove_contents(path)?;
            std::fs::remove_dir(path)
        }
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

fn remove_contents(path: &Path) -> Result<(), DriverError> {
    let failed = |error: Errno| match error {
        Errno::XDEV | Errno::BUSY => DriverError::Mounted(path.to_owned()),
        error => DriverError::io("remove", path, error),
    };
    let top = Root::open_own(path)?;
    rustix::fs::fchmod(&top, Mode::RWXU).map_err(failed)?;
    let mut names = 0_u64;
    // Again and again, because a program may still be writing there.
    for _ in 0..REMOVALS_MAX {
        let listed = list(top.as_fd()).map_err(failed)?;
        if listed.is_empty() {
            return Ok(());
        }
        let mut todo = Vec::new();
        for (name, kind) in listed {
            match kind {
                FileType::Directory => todo.push(name),
                _ => unlink(top.as_fd(), &name).map_err(failed)?,
            }
        }
        while let Some(name) = todo.pop() {
            let dir = with_rights(top.as_fd(), &name, || top.unmounted(&name)).map_err(failed)?;
            rustix::fs::fchmod(&dir, Mode::RWXU).map_err(failed)?;
            for (inner, kind) in list(dir.as_fd()).map_err(failed)? {
                if kind != FileType::Directory {
                    unlink(dir.as_fd(), &inner).map_err(failed)?;
                    continue;
                }
                let up = loop {
                    names += 1;
                    let up = format!("{names}").into_bytes();
                    let moving = || move_new((dir.as_fd(), &inner), (top.as_fd(), &up));
                    match with_rights(dir.as_fd(), &inner, moving) {
                        Ok(()) => break up,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(failed(error)),
                    }
                };
                todo.push(up);
            }
            match rustix::fs::unlinkat(&top, &name[..], AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Err(failed(Errno::NOTEMPTY))
}

/// Does `what` to the directory `name`, and once more with all rights on it
/// if this user has too few. Root never has, so root never gives rights by a
/// name under which somebody may have put a link.
fn with_rights<T>(
    dir: BorrowedFd<'_>,
    name: &[u8],
    what: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match what() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            what()
        }
        other => other,
    }
}

/// How often a tree is emptied in which something appears again.
const REMOVALS_MAX: usize = 10;

fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn no_link_is_followed_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "s").unwrap();
        std::fs::write(inside.join("real/file"), "f").unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        symlink("real", inside.join("in")).unwrap();
        symlink("real/file", inside.join("file")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert!(root.file(&path("real/file")).is_ok());
        for led in ["out/secret", "in/file", "file"] {
            assert_eq!(root.file(&path(led)).unwrap_err(), Errno::LOOP, "{led}");
        }
        assert!(root.stat(&path("out/secret")).unwrap().is_none());
        assert!(root.stat(&path("out")).unwrap().is_some());
        let mut parents = Parents::new(&root);
        assert!(matches!(parents.of(&path("out/new")), Err(DriverError::InTheWay(_))));
        assert!(make_all(&root, Some(&path("out/new")), 0o755).is_err());
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn a_tree_is_removed_without_what_its_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "k").unwrap();
        let tree = dir.path().join("tree/a/b");
        std::fs::create_dir_all(&tree).unwrap();
        symlink(&outside, tree.join("out")).unwrap();
        remove_all(&dir.path().join("tree")).unwrap();
        remove_all(&dir.path().join("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn no_depth_and_no_permission_keeps_a_tree_from_being_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("1/2")).unwrap(); // names that moving up will want
        let mut at = rustix::fs::open(&tree, READ, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            let next = rustix::fs::openat(&at, "d", READ, Mode::empty()).unwrap();
            create(next.as_fd(), b"file").unwrap();
            rustix::fs::fchmod(&at, Mode::from_raw_mode(0o500)).unwrap();
            at = next;
        }
        remove_all(&tree).unwrap();
        assert!(!tree.exists());
    }
}
