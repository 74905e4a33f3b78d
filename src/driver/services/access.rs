//! Access lists of directories (acl(5), POSIX.1e draft 17): whether a user may enter one, and how
//! one user more may. Nothing here follows from a mode alone, because where there is a list the
//! group's bits of the mode are its mask.
//!
//! The list is read and written as the kernel has it, in the attribute `system.posix_acl_access`
//! (`linux/posix_acl_xattr.h`): a version, then eight bytes for each entry, little-endian.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    io::Errno,
};

const ATTRIBUTE: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
/// Length of an entry, bytes.
const ENTRY_LEN: usize = 8;
/// The kernel's bound on any attribute, bytes.
const BYTES_MAX: usize = 64 << 10;
/// The id of entries that are about nobody in particular.
const NO_ID: u32 = u32::MAX;

/// What an entry is about, as the kernel numbers it.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

/// All that can be allowed.
const ALL: u16 = 0o7;
/// To enter, or to execute.
const ENTER: u16 = 0o1;

/// The kernel wants entries in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: u16,
    id: u32,
    allowed: u16,
}

/// Who may do what with a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    owner: u32,
    group: u32,
    entries: Vec<Entry>,
}

impl Access {
    /// That of what stands at `path`, links followed: its list or, where it has none, its mode.
    ///
    /// # Errors
    /// What the system says; `InvalidData` for a list of another kind.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let mut bytes = vec![0; BYTES_MAX];
        let entries = match getxattr(path, ATTRIBUTE, &mut bytes[..]) {
            Ok(len) => decode(bytes.get(..len).unwrap_or_default())
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no list of access"))?,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => of_mode(meta.mode()),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { owner: meta.uid(), group: meta.gid(), entries })
    }

    /// Whether a process of this user and this one group may enter or execute it.
    pub(super) fn admits(&self, uid: u32, gid: u32) -> bool {
        let mask = self.mask();
        let allowed = if uid == 0 {
            ALL
        } else if uid == self.owner {
            self.allowed(OWNER, NO_ID).unwrap_or(0)
        } else if let Some(named) = self.allowed(USER, uid) {
            named & mask
        } else {
            let own = self.allowed(OWNING_GROUP, NO_ID).filter(|_| gid == self.group);
            match (own, self.allowed(GROUP, gid)) {
                (None, None) => self.allowed(OTHERS, NO_ID).unwrap_or(0),
                (own, named) => (own.unwrap_or(0) | named.unwrap_or(0)) & mask,
            }
        };
        allowed & ENTER != 0
    }

    /// The same, but that the user `uid` may enter as well. Nobody else gains anything: what the
    /// mask kept from others is taken out of their entries before it is widened.
    pub(super) fn entered_by(mut self, uid: u32) -> Self {
        let mask = self.mask();
        let masked = |entry: &Entry| matches!(entry.tag, USER | OWNING_GROUP | GROUP);
        for entry in self.entries.iter_mut().filter(|entry| masked(entry)) {
            entry.allowed &= mask;
        }
        match self.entries.iter_mut().find(|entry| entry.tag == USER && entry.id == uid) {
            Some(entry) => entry.allowed |= ENTER,
            None => self.entries.push(Entry { tag: USER, id: uid, allowed: ENTER }),
        }
        self.entries.retain(|entry| entry.tag != MASK);
        let widest = self.entries.iter().filter(|entry| masked(entry));
        let allowed = widest.fold(0, |all, entry| all | entry.allowed);
        self.entries.push(Entry { tag: MASK, id: NO_ID, allowed });
        self.entries.sort_unstable();
        self
    }

    /// Makes it that of what stands at `path`, in one step.
    ///
    /// # Errors
    /// What the system says: `Unsupported` where the file system keeps no lists.
    pub(super) fn set(&self, path: &Path) -> io::Result<()> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for Entry { tag, id, allowed } in &self.entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(allowed.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        Ok(setxattr(path, ATTRIBUTE, &bytes, XattrFlags::empty())?)
    }

    fn allowed(&self, tag: u16, id: u32) -> Option<u16> {
        let entry = self.entries.iter().find(|entry| entry.tag == tag && entry.id == id);
        entry.map(|entry| entry.allowed)
    }

    fn mask(&self) -> u16 {
        self.allowed(MASK, NO_ID).unwrap_or(ALL)
    }
}

fn of_mode(mode: u32) -> Vec<Entry> {
    let of = |tag, shift: u32| {
        let allowed = u16::try_from((mode >> shift) & 0o7).unwrap_or(0); // three bits
        Entry { tag, id: NO_ID, allowed }
    };
    vec![of(OWNER, 6), of(OWNING_GROUP, 3), of(OTHERS, 0)]
}

fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let entry = |[t0, t1, a0, a1, id @ ..]: &[u8; ENTRY_LEN]| Entry {
        tag: u16::from_le_bytes([*t0, *t1]),
        id: u32::from_le_bytes(*id),
        allowed: u16::from_le_bytes([*a0, *a1]) & ALL,
    };
    Some(entries.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with(mode: u32) -> Access {
        Access { owner: 10, group: 20, entries: of_mode(mode) }
    }

    #[test]
    fn a_mode_is_read_as_the_kernel_reads_it() {
        for (mode, owner, group, others) in [
            (0o700, true, false, false),
            (0o711, true, true, true),
            (0o710, true, true, false),
            // The first that fits decides, also where it allows less than the next.
            (0o071, false, true, true),
            (0o701, true, false, true),
        ] {
            let access = with(mode);
            let all = [access.admits(10, 20), access.admits(11, 20), access.admits(11, 21)];
            assert_eq!(all, [owner, group, others], "{mode:o}");
            assert!(access.admits(0, 0), "{mode:o}");
        }
    }

    #[test]
    fn one_user_more_may_enter_and_nobody_else() {
        let access = with(0o700).entered_by(33);
        assert!(access.admits(33, 33) && access.admits(10, 20));
        assert!(!access.admits(34, 33) && !access.admits(34, 20));
        let again = access.clone().entered_by(33);
        assert_eq!(again, access, "a second time changes nothing");
        let both = access.entered_by(34);
        assert!(both.admits(33, 33) && both.admits(34, 34) && !both.admits(35, 33));
    }

    /// `chmod 700` on a directory with a list makes its mask nothing, and so its entries of no use.
    #[test]
    fn what_the_mask_kept_from_others_is_not_given_to_them() {
        let mut access = with(0o750).entered_by(33);
        for entry in access.entries.iter_mut().filter(|entry| entry.tag == MASK) {
            entry.allowed = 0;
        }
        assert!(!access.admits(33, 33) && !access.admits(11, 20));
        let access = access.entered_by(34);
        assert!(access.admits(34, 34));
        assert!(!access.admits(33, 33) && !access.admits(11, 20));
    }

    #[test]
    fn a_list_is_kept_by_the_file_system_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let wanted = Access::of(dir.path()).unwrap().entered_by(4_711);
        match wanted.set(dir.path()) {
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return,
            result => result.unwrap(),
        }
        assert_eq!(Access::of(dir.path()).unwrap(), wanted);
        let mode = || fs::metadata(dir.path()).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o710, "the group's bits are the mask");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!Access::of(dir.path()).unwrap().admits(4_711, 4_711));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1, 0, 0, 0]), None, "another version");
        assert_eq!(decode(&[2, 0, 0, 0, 1, 0, 7]), None, "half an entry");
        assert_eq!(decode(&[2, 0, 0, 0]), Some(Vec::new()));
    }
}
