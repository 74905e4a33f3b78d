//! What a member finds out about the machine and the rights that it runs with, for
//! `althing doctor` and the status page. It is read when somebody asks, and kept nowhere.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde::{Deserialize, Serialize};

use super::telemetry::asking::Silent;
use crate::{
    base::{MemberName, WallTime},
    driver::host::Process,
};

/// One look. What can't be read on this kernel is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkup {
    /// The version of its program.
    pub althing: String,
    /// Its clock, when it looked.
    pub clock: WallTime,
    /// The file system that its data directory is on.
    pub disk: Option<Room>,
    /// The permissions of its data directory, as in `chmod`.
    pub data_mode: Option<u32>,
    /// Files that its process may have open; nothing where there is no bound.
    pub open_files_max: Option<u64>,
    /// How much the kernel lets a socket receive ahead, bytes (`net.core.rmem_max`).
    pub receive_max: Option<u64>,
    /// Processors that its process may use.
    pub processors: usize,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that there are.
    pub total: u64,
    /// Bytes that this user may still write.
    pub free: u64,
    /// Files that there can be; 0 where the file system has no bound.
    pub files: u64,
    /// Of these, those that there are not yet.
    pub files_free: u64,
}

/// What one member found, as the one that asked saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// Which member.
    pub member: MemberName,
    /// What it found.
    #[serde(flatten)]
    pub found: Checkup,
    /// By how much its clock is ahead of the one that asked, milliseconds.
    pub ahead_ms: i64,
    /// How far off that may be: half of the time that its answer took.
    pub within_ms: u64,
}

/// What all members found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkups {
    /// Those that answered, by name.
    pub members: Vec<Examined>,
    /// Those that did not.
    pub silent: Vec<Silent>,
}

impl Checkup {
    /// Looks at this machine and at the data directory `data`, at `clock`.
    pub fn look(data: &Path, clock: WallTime) -> Self {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            althing: env!("CARGO_PKG_VERSION").to_owned(),
            clock,
            disk: Room::of(data),
            data_mode: fs::metadata(data).ok().map(|data| data.permissions().mode() & 0o7777),
            open_files_max: Process::read().open_files_max.map(|most| most as u64),
            receive_max: number("/proc/sys/net/core/rmem_max"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

impl Room {
    /// On the file system that `path` is on.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: stat.f_files,
            files_free: stat.f_favail,
        })
    }
}

impl Examined {
    /// What `member` found. It was asked at `asked` and its answer was here at `heard`, both by
    /// the clock of this member.
    pub fn new(member: MemberName, found: Checkup, asked: WallTime, heard: WallTime) -> Self {
        // Clocks are told in milliseconds since 1970, and may be anything.
        let number = |time: WallTime| i128::from(time.0);
        let middle = i128::midpoint(number(asked), number(heard));
        let bound = i128::from(i64::MAX);
        let ahead = (number(found.clock) - middle).clamp(-bound, bound);
        let within_ms = heard.0.saturating_sub(asked.0).div_ceil(2);
        Self { member, ahead_ms: i64::try_from(ahead).unwrap_or(0), within_ms, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_looked_at() {
        let data = tempfile::tempdir().unwrap();
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let found = Checkup::look(data.path(), WallTime(7));
        assert_eq!((found.clock, found.data_mode), (WallTime(7), Some(0o750)));
        let disk = found.disk.unwrap();
        assert!(disk.free <= disk.total && disk.total > 0);
        assert!(found.processors > 0);
        let nowhere = Checkup::look(&data.path().join("none"), WallTime(7));
        assert_eq!((nowhere.disk, nowhere.data_mode), (None, None));
    }

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_question() {
        let member = MemberName::parse("b").unwrap();
        let examined = |clock, asked, heard| {
            let found = Checkup { clock: WallTime(clock), ..Checkup::default() };
            let examined = Examined::new(member.clone(), found, WallTime(asked), WallTime(heard));
            (examined.ahead_ms, examined.within_ms)
        };
        assert_eq!(examined(10_100, 10_000, 10_200), (0, 100));
        assert_eq!(examined(15_000, 10_000, 10_001), (5_000, 1));
        assert_eq!(examined(0, 10_000, 10_000), (-10_000, 0));
        // A clock that was set back meanwhile, and one that is nonsense.
        assert_eq!(examined(9_000, 10_000, 8_000).1, 0);
        assert_eq!(examined(u64::MAX, 0, 0).0, i64::MAX);
    }

    #[test]
    fn what_a_newer_member_tells_beside_is_passed_over() {
        let found: Checkup = serde_json::from_str(r#"{"althing":"9.0.0","moon":"full"}"#).unwrap();
        assert_eq!(found, Checkup { althing: "9.0.0".to_owned(), ..Checkup::default() });
    }
}
