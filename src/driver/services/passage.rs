//! The way of other users to live trees that lie in the data directory, which is the member's
//! alone. A program that runs as `user` has to get to its tree; what lies beside the trees (keys,
//! the record, content, logs, secrets, sockets) stays shut.
//!
//! So that user, and nobody else, may *enter* the data directory and the one of the trees, by an
//! entry in their access lists: neither list what is in them, nor write there. It is made when
//! the first program is started as that user. Mode 0711 would be simpler and open the trees of all
//! applications to everybody with an account on the machine.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::access::Access;

/// Where the member's data is, and where in it the trees are.
#[derive(Clone, Debug)]
pub struct Passage {
    data: PathBuf,
    live: PathBuf,
}

impl Passage {
    /// `live` stands right in `data`.
    pub fn new(data: PathBuf, live: PathBuf) -> Self {
        Self { data, live }
    }

    /// Takes from everybody but the member's user and its group what is allowed them of whatever
    /// stands in the data directory, except for the trees. What lies deeper can't be reached then.
    ///
    /// # Errors
    /// What the system says of the first that could not be shut; the others are.
    pub fn shut_rest(&self) -> io::Result<()> {
        let mut failed = None;
        for entry in fs::read_dir(&self.data)? {
            let path = entry?.path();
            if path == self.live {
                continue;
            }
            if let Err(error) = shut(&path) {
                let what = format!("{}: {error}", path.display());
                failed.get_or_insert(io::Error::new(error.kind(), what));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Lets a user through to `tree`, if that is one of those in the data directory and the user
    /// can't get there yet. Returns the directories that it may enter from now on. The error says
    /// why that can't be, and what to do.
    pub(super) fn let_through(
        &self,
        tree: &Path,
        uid: u32,
        gid: u32,
    ) -> Result<Vec<PathBuf>, String> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (data, live) = (real(&self.data), real(&self.live));
        if !tree.starts_with(&live) {
            return Ok(Vec::new());
        }
        // Where the trees were moved to another disk the data directory is not on the way.
        let ours: Vec<&PathBuf> =
            [&data, &live].into_iter().filter(|above| tree.starts_with(above)).collect();
        let above = ours.first().and_then(|first| first.parent());
        if above.is_some_and(|above| barrier(above, uid, gid).is_some()) {
            // Nothing is opened for somebody who can't come so far. The start fails, and says so.
            return Ok(Vec::new());
        }
        let failed = |directory: &Path, error: io::Error| {
            format!(
                "user {uid} can't be let through {} to the tree of the application ({error}); give \
                 the application a `path` outside of the data directory, where that user can go",
                directory.display()
            )
        };
        let mut opened = Vec::new();
        for directory in ours {
            let access = Access::of(directory).map_err(|error| failed(directory, error))?;
            if access.admits(uid, gid) {
                continue;
            }
            if opened.is_empty() {
                self.shut_rest().map_err(|error| failed(&data, error))?;
            }
            access.entered_by(uid).set(directory).map_err(|error| failed(directory, error))?;
            tracing::info!(uid, directory = %directory.display(), "a user may enter from now on");
            opened.push(directory.clone());
        }
        Ok(opened)
    }
}

/// Takes from others what is allowed them of what stands at `path`. What is looked at is what is
/// changed, whatever is put in its place meanwhile: only who owns a directory is sure of that.
fn shut(path: &Path) -> io::Result<()> {
    let opened = match rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()), // it has gone
        opened => opened?,
    };
    let mode = rustix::fs::fstat(&opened)?.st_mode;
    // A link has no rights of its own, and what it leads to is not in here.
    if FileType::from_raw_mode(mode) == FileType::Symlink || mode & 0o007 == 0 {
        return Ok(());
    }
    // fchmod(2) takes no descriptor that was opened to look only, chmod(2) its name does.
    let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
    fs::set_permissions(opened, fs::Permissions::from_mode(mode & 0o7770))
}

/// What on the way to `path`, itself included, keeps a user from going on or from executing it, as
/// far as modes and access lists tell.
pub(super) fn barrier(path: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let barred = |at: &&Path| Access::of(at).is_ok_and(|access| !access.admits(uid, gid));
    way.into_iter().find(barred).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No account of a machine where this runs, as a rule; and what if, nothing is changed for it.
    const STRANGER: u32 = 54_321;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn data() -> (tempfile::TempDir, Passage) {
        let data = tempfile::tempdir().unwrap();
        let at = data.path().canonicalize().unwrap();
        for directory in ["live/shop", "logs", "elsewhere/live"] {
            fs::create_dir_all(at.join(directory)).unwrap();
        }
        fs::write(at.join("events.redb"), "").unwrap();
        for (path, bits) in [("", 0o700), ("live", 0o700), ("logs", 0o755), ("events.redb", 0o644)]
        {
            mode(&at.join(path), bits);
        }
        let passage = Passage::new(at.clone(), at.join("live"));
        (data, passage)
    }

    #[test]
    fn who_is_let_through_reaches_the_trees_and_what_lies_beside_them_is_shut() {
        let (_kept, passage) = data();
        let Passage { data, live } = passage.clone();
        let tree = live.join("shop");
        let way = || barrier(&tree, STRANGER, STRANGER);
        let opened = match passage.let_through(&tree, STRANGER, STRANGER) {
            Ok(opened) => opened,
            Err(why) => {
                // A file system that keeps no lists: then it is said.
                assert!(why.contains("application a `path` outside"), "{why}");
                return;
            }
        };
        assert_eq!(opened, [data.clone(), live.clone()]);
        let again = passage.let_through(&tree, STRANGER, STRANGER).unwrap();
        assert_eq!(again, Vec::<PathBuf>::new(), "once is enough");
        assert!(!way().is_some_and(|at| at.starts_with(&data)), "{:?}", way());
        assert_eq!([of(&data.join("logs")), of(&data.join("events.redb"))], [0o750, 0o640]);
        // The group's bits are the mask of the list; others have none.
        assert_eq!([of(&data), of(&live)], [0o710, 0o710]);
        assert!(!Access::of(&data).unwrap().admits(STRANGER + 1, STRANGER + 1));
    }

    #[test]
    fn a_tree_elsewhere_opens_nothing() {
        let (_kept, passage) = data();
        let data = passage.data.clone();
        for tree in [data.join("elsewhere/live"), PathBuf::from("/")] {
            let opened = passage.let_through(&tree, STRANGER, STRANGER).unwrap();
            assert_eq!(opened, Vec::<PathBuf>::new());
        }
        assert_eq!([of(&data), of(&data.join("logs"))], [0o700, 0o755]);
    }

    #[test]
    fn links_are_not_followed_and_what_is_shut_stays_as_it_is() {
        let (_kept, passage) = data();
        let data = passage.data.clone();
        let outside = tempfile::tempdir().unwrap();
        mode(outside.path(), 0o755);
        std::os::unix::fs::symlink(outside.path(), data.join("content")).unwrap();
        std::os::unix::fs::symlink("nowhere", data.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
        mode(&data.join("socket"), 0o666);
        fs::write(data.join("metrics"), "").unwrap();
        mode(&data.join("metrics"), 0o660);
        passage.shut_rest().unwrap();
        assert_eq!([of(outside.path()), of(&data.join("metrics"))], [0o755, 0o660]);
        assert_eq!([of(&data.join("logs")), of(&data.join("live/shop"))], [0o750, 0o755]);
        assert_eq!(of(&data.join("socket")), 0o660);
    }

    #[test]
    fn the_first_barrier_is_named() {
        let (_kept, passage) = data();
        let tree = passage.live.join("shop");
        // The directory of temporary files itself lets everybody through, where tests run.
        let Some(found) = barrier(&tree, STRANGER, STRANGER) else { panic!("nothing bars it") };
        assert!(passage.data.starts_with(&found), "{}", found.display());
        assert_eq!(barrier(&tree, 0, 0), None);
    }
}
