//! What this process may use of the machine: the limits of the groups that it is in (cgroup
//! v2), and the processors that it may run on.
//!
//! A group is held back by its own limit and by that of each group around it; what counts is
//! the tightest, and what that one's members use together. Limits of cgroup v1 are not read:
//! there the machine is what is measured, but for the processors that the process may run on.

use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

use super::{parse, read};

/// What can be used.
pub(super) struct Limits {
    /// Those that this process may run on.
    pub(super) processors: Processors,
    /// How many it may use, and the group whose limit that is.
    pub(super) cpu: Option<(f64, PathBuf)>,
    /// How many bytes, and the group.
    pub(super) memory: Option<(u64, PathBuf)>,
}

impl Limits {
    /// As they are now.
    pub(super) fn now() -> Self {
        let mut limits = Self { processors: Processors::now(), cpu: None, memory: None };
        for group in groups() {
            let text = |name: &str| read(&group.join(name));
            let cpu = text("cpu.max").and_then(|text| parse::group_processors(&text));
            if let Some(cpu) = cpu
                && limits.cpu.as_ref().is_none_or(|(tightest, _)| cpu < *tightest)
            {
                limits.cpu = Some((cpu, group.clone()));
            }
            let memory = text("memory.max").and_then(|text| parse::group_bytes(&text));
            if let Some(memory) = memory
                && limits.memory.as_ref().is_none_or(|(tightest, _)| memory < *tightest)
            {
                limits.memory = Some((memory, group.clone()));
            }
        }
        // A quota of more than there are is none.
        let there = limits.processors.count();
        limits.cpu = limits.cpu.filter(|(cpu, _)| there == 0 || *cpu < there as f64);
        limits
    }
}

/// The group of this process and those around it, the innermost first.
fn groups() -> Vec<PathBuf> {
    let mount = read(Path::new("/proc/self/mountinfo")).and_then(|text| parse::group_mount(&text));
    let own = read(Path::new("/proc/self/cgroup"));
    let own = own.as_deref().and_then(parse::group);
    let (Some(mount), Some(own)) = (mount, own) else { return Vec::new() };
    // `/../..` is a group outside of what this process can see.
    let inside = Path::new(own.trim_start_matches('/'));
    let inside = if own.contains("..") { Path::new("") } else { inside };
    inside.ancestors().map(|group| mount.join(group)).collect()
}

/// The processors that this process may run on.
pub(super) struct Processors(Option<CpuSet>);

impl Processors {
    fn now() -> Self {
        Self(sched_getaffinity(None).ok())
    }

    /// Whether it may run on the one with this number. Where nobody says, on all.
    pub(super) fn allows(&self, number: usize) -> bool {
        self.0.is_none_or(|set| number < CpuSet::MAX_CPU && set.is_set(number))
    }

    /// How many they are; 0 where nobody says.
    pub(super) fn count(&self) -> u32 {
        self.0.map_or(0, |set| set.count())
    }
}
