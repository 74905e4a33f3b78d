//! Groups of processes: which of them live, how they are told, and what was
//! left over by a member that was killed.
//!
//! A number of a process is used again once its last holder is gone, so a
//! group is only ever signalled while its first process is not yet waited
//! for: until then its number can't be anybody else's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group, test_kill_process_group},
};

use super::file::make_parent;

/// How the file ends that says which group a service runs as.
const RECORD: &str = "group";

/// The groups of one supervisor.
#[derive(Debug, Default)]
pub(super) struct Groups {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    closed: bool,
    pids: BTreeSet<i32>,
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a group that was just made. Where all is over it is killed
    /// instead; false says so.
    pub(super) fn admit(&self, pid: Pid) -> bool {
        let mut live = self.lock();
        if live.closed {
            kill(pid, Signal::KILL);
            return false;
        }
        live.pids.insert(pid.as_raw_pid());
        true
    }

    /// Signals every process of a group that lives.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        if self.lock().pids.contains(&pid.as_raw_pid()) {
            kill(pid, signal);
        }
    }

    /// Kills what is left of a group and lets go of it. Afterwards its first
    /// process may be waited for.
    pub(super) fn retire(&self, pid: Pid) {
        if self.lock().pids.remove(&pid.as_raw_pid()) {
            kill(pid, Signal::KILL);
        }
    }

    /// Kills all groups, and every one that is still to come.
    pub(super) fn close(&self) {
        let mut live = self.lock();
        live.closed = true;
        for pid in &live.pids {
            if let Some(pid) = Pid::from_raw(*pid) {
                kill(pid, Signal::KILL);
            }
        }
    }

    /// How many live.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().pids.len()
    }
}

fn kill(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        // Nobody there is what is wanted.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!("the group {group:?} can't be signalled: {error}"),
    }
}

/// A line of `/proc/PID/stat`, as far as it matters here.
struct Process {
    pid: i32,
    group: i32,
    is_dead: bool,
}

/// All processes of this machine; empty where /proc can't be read.
fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        // The name in brackets may hold anything, brackets as well.
        let after = stat.iter().rposition(|b| *b == b')')? + 1;
        let rest = String::from_utf8_lossy(&stat[after..]).into_owned();
        let mut words = rest.split_ascii_whitespace();
        let is_dead = matches!(words.next()?, "Z" | "X");
        let group = words.nth(1)?.parse().ok()?;
        Some(Process { pid, group, is_dead })
    })
}

/// Whether somebody else of a group lives than its first process.
pub(super) fn has_others(first: Pid) -> bool {
    let first = first.as_raw_pid();
    processes().any(|p| p.group == first && p.pid != first && !p.is_dead)
}

/// Where it is kept which group a service runs as.
pub(super) fn record_path(log_dir: &Path, app: &str, service: &str, slot: u64) -> PathBuf {
    let directory = log_dir.join(app);
    match slot {
        0 => directory.join(format!("{service}.{RECORD}")),
        slot => directory.join(format!("{service}.{slot}.{RECORD}")),
    }
}

/// Keeps which group a service runs as, for the next supervisor.
pub(super) fn record(path: &Path, group: Pid) {
    let text = format!("{} {}\n", group.as_raw_pid(), boot_id());
    if let Err(error) = make_parent(path).and_then(|()| fs::write(path, text)) {
        tracing::warn!(
            "{} can't be written ({error}): should this member be killed, \
             processes of the service may be left over",
            path.display()
        );
    }
}

/// Kills what a member left over that was killed: groups that are recorded
/// below `log_dir`, were made since this machine started, and hold a process
/// whose environment says that it is of that service, hook or script.
pub(super) fn sweep(log_dir: &Path) {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for app in entries(log_dir) {
        for path in entries(&app).filter(|p| p.extension().is_some_and(|e| e == RECORD)) {
            let names = (app.file_name(), path.file_stem());
            if let (Some(app), Some(service)) = names
                && let Some(group) = recorded(&path)
                && test_kill_process_group(group).is_ok()
                && holds(group, &app.to_string_lossy(), name_of(&service.to_string_lossy()))
            {
                tracing::warn!("service {service:?} of {app:?} was left over and is killed");
                kill(group, Signal::KILL);
            }
            // What can't be removed is looked at again next time.
            let _ = fs::remove_file(&path);
        }
    }
}

/// The service of a record: there is no dot in its name.
fn name_of(stem: &str) -> &str {
    stem.split('.').next().unwrap_or(stem)
}

fn recorded(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    let (group, boot) = text.trim_end().split_once(' ')?;
    if boot != boot_id() || boot.is_empty() {
        return None;
    }
    // 1 would be everybody.
    group.parse().ok().filter(|group| *group > 1).and_then(Pid::from_raw)
}

/// Whether a process of the group has the environment that a service, a hook or a script is given.
fn holds(group: Pid, app: &str, name: &str) -> bool {
    let app = format!("ALTHING_APP={app}");
    let names = ["SERVICE", "HOOK", "SCRIPT"].map(|kind| format!("ALTHING_{kind}={name}"));
    processes().filter(|p| p.group == group.as_raw_pid() && !p.is_dead).any(|p| {
        let environment = fs::read(format!("/proc/{}/environ", p.pid)).unwrap_or_default();
        let has = |w: &String| environment.split(|b| *b == 0).any(|e| e == w.as_bytes());
        has(&app) && names.iter().any(has)
    })
}

/// Differs each time the machine starts.
fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// `SIGTERM`, or `signal 34`.
pub(super) fn signal_name(number: i32) -> String {
    const NAMES: [(i32, &str); 14] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (12, "SIGUSR2"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    let known = NAMES.iter().find(|(n, _)| *n == number);
    known.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}
