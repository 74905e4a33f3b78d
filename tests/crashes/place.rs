//! Disks that can be worked on: a fresh tmpfs each, on which every inode has
//! the number that it has in the recording. What the program writes down of
//! inodes (which tree a switch is about) is then as true as on a real disk.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags};

use super::disk::{Disk, Inode, Kind, TOP};

/// Plenty for what is written here.
const OPTIONS: &std::ffi::CStr = c"size=256m,mode=755";

/// A mounted disk; gone when it is dropped.
pub struct Mounted {
    at: PathBuf,
    /// The number that the next inode gets.
    pub next_inode: u64,
}

impl Mounted {
    /// `disk` at the directory `at`, byte by byte.
    pub fn new(disk: &Disk, at: &Path) -> Self {
        rustix::mount::mount("none", at, "tmpfs", MountFlags::empty(), Some(OPTIONS))
            .expect("a tmpfs can be mounted in a namespace of one's own");
        let mut mounted = Self { at: at.to_owned(), next_inode: TOP + 1 };
        mounted.fill(disk);
        mounted
    }

    fn fill(&mut self, disk: &Disk) {
        let all = disk.reachable();
        let mut inodes: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for (path, inode) in &all {
            inodes.entry(*inode).or_default().push(&path[1..]);
        }
        // In the order of their numbers first, each under a name of its own at the top.
        let aside = |inode: u64| self.at.join(format!("#{inode}"));
        let mut next = TOP + 1;
        for inode in inodes.keys() {
            while next < *inode {
                burn(&self.at);
                next += 1;
            }
            let path = aside(*inode);
            match &disk.get(*inode).kind {
                Kind::Directory(_) => fs::create_dir(&path).unwrap(),
                Kind::File(bytes) => fs::write(&path, bytes.as_slice()).unwrap(),
                Kind::Link(target) => symlink(target, &path).unwrap(),
            }
            next += 1;
        }
        // A directory comes before what is in it.
        for (path, inode) in &all {
            let (from, to) = (aside(*inode), self.at.join(&path[1..]));
            if inodes[inode].last() == Some(&&path[1..]) {
                fs::rename(from, to).unwrap();
            } else {
                fs::hard_link(from, to).unwrap();
            }
        }
        for (path, inode) in all.iter().rev() {
            let Inode { kind, mode } = disk.get(*inode);
            let place = self.at.join(&path[1..]);
            if !matches!(kind, Kind::Link(_)) {
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
            let found = fs::symlink_metadata(&place).unwrap().ino();
            assert_eq!(found, *inode, "a fresh tmpfs does not count its inodes from 1: {path}");
        }
        self.next_inode = next;
    }

    /// What is on it now.
    pub fn read(&self) -> Disk {
        let mut disk = Disk::new();
        let mut known = BTreeMap::new();
        let mut todo = vec![(self.at.clone(), TOP)];
        while let Some((path, directory)) = todo.pop() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                let inode = meta.ino();
                let name = entry.file_name().into_string().unwrap();
                if known.insert(inode, ()).is_none() {
                    let kind = if meta.is_dir() {
                        todo.push((entry.path(), inode));
                        Kind::Directory(BTreeMap::new())
                    } else if meta.is_symlink() {
                        let target = fs::read_link(entry.path()).unwrap();
                        Kind::Link(target.into_os_string().into_string().unwrap())
                    } else {
                        Kind::File(fs::read(entry.path()).unwrap().into())
                    };
                    disk.add(inode, kind, meta.mode() & 0o7777);
                }
                let names = vec![(directory, name, Some(inode))];
                disk.apply(&super::disk::Effect::Names(names), false);
            }
        }
        disk
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.at, UnmountFlags::empty());
        if unmounted.is_err() {
            // Something that panicked holds a file open.
            rustix::mount::unmount(&self.at, UnmountFlags::DETACH).expect("it is mounted");
        }
    }
}

/// Uses a number up that no inode has any more.
fn burn(at: &Path) {
    use rustix::fs::{CWD, Mode, OFlags};
    rustix::fs::openat(CWD, at, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR).unwrap();
}
