//! What this machine and this process use, once a second: `/proc`, the limits of the group
//! that the process is in, file systems, pressure (PSI).
//!
//! Inside a limit, the limit is the machine: a container with two of 64 processors is busy
//! when these two are. What can't be read, on this kernel or in this sandbox, is not told, and
//! so is unknown; nothing here fails.
//!
//! The parsers are our own (some 120 lines). `procfs-core` 0.18 was tried: it costs 18 µs a
//! sample, which would do, but it gives up a whole file where a field is lacking that nobody
//! asks for (the `full` line of pressure before Linux 5.13; most of meminfo in a sandbox),
//! panics at meminfo that is not ASCII, and knows no limits of groups. `sysinfo` 0.38 knows
//! neither stolen time nor pressure.

mod group;
pub mod parse;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
};

use rustix::process::{Resource, getrlimit};

use self::{
    group::Limits,
    parse::{Memory, Ticks, Traffic},
};
pub use services::Usage;

use crate::{
    base::{
        Time,
        limits::{INTERFACES_MAX, MOUNTS_MAX},
        metric::{Known, Series},
    },
    proto::telemetry::Reading,
};

/// Limits, interfaces and open files of old kernels are looked up again after so many samples.
const LOOK_AGAIN: u32 = 60;
/// The largest file that is read, bytes: `/proc/stat` of a thousand processors is some 100 KiB.
const TEXT_MAX: u64 = 1 << 20;

/// Where file systems of this machine's own disks are mounted, as far as the system says:
/// what [`Host::new`] may be given.
pub fn mounts() -> Vec<String> {
    proc("self/mountinfo").map(|text| parse::mounts(&text)).unwrap_or_default()
}

/// What this process itself uses, at one moment. What can't be read is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time since its start, seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Threads.
    pub threads: Option<f64>,
    /// Open files.
    pub open_files: Option<f64>,
    /// How many it may have; nothing where there is no bound.
    pub open_files_max: Option<f64>,
}

impl Process {
    /// As it is now.
    pub fn read() -> Self {
        let own = proc("self/stat").and_then(|text| parse::process(&text));
        let second = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        Self {
            cpu_seconds: own.map(|own| own.ticks as f64 / second),
            memory_bytes: own.map(|own| own.pages as f64 * page),
            threads: own.map(|own| own.threads as f64),
            // The one by which they are counted is one of them.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64 - 1.0),
            open_files_max: getrlimit(Resource::Nofile).current.map(|most| most as f64),
        }
    }
}

/// One file system: its path, and what is told of it.
struct Mount {
    path: String,
    total: Series,
    free: Series,
    used: Series,
    inodes: Series,
}

/// Samples this machine. It remembers the sample before, for what is a share of the time since.
pub struct Host {
    mounts: Vec<Mount>,
    limits: Limits,
    before: Option<Before>,
    interfaces: BTreeMap<String, Interface>,
    /// All interfaces together, since the start of this process.
    traffic: Traffic,
    files: f64,
    samples: u32,
}

/// What the sample before read.
#[derive(Clone, Copy)]
struct Before {
    at: Time,
    ticks: Option<Ticks>,
    own_ticks: Option<u64>,
    group: Option<GroupTime>,
    pressure: [Option<u64>; 3],
}

/// Processor time of a group, microseconds.
#[derive(Clone, Copy)]
struct GroupTime {
    used: u64,
    user: u64,
    system: u64,
    throttled: u64,
}

/// One network interface.
struct Interface {
    last: Traffic,
    /// Whether it is told of.
    told: bool,
}

/// What one sample is put into.
struct Page(Vec<(Series, Reading)>);

impl Page {
    fn put(&mut self, known: Known, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.0.push((known.into(), Reading::Number(value)));
        }
    }
}

impl Host {
    /// Samples this machine, and the file systems at `mounts`: absolute paths, the first 32. Name
    /// no file system over a network there: one whose server is gone stops whoever asks it.
    pub fn new(mounts: impl IntoIterator<Item = String>) -> Self {
        let series = |path: String| {
            let of = |known| Series::new(known, Some(&path)).ok();
            let (total, free) = (of(Known::DiskTotal)?, of(Known::DiskFree)?);
            let (used, inodes) = (of(Known::DiskUsed)?, of(Known::DiskInodes)?);
            Some(Mount { path, total, free, used, inodes })
        };
        Self {
            mounts: mounts.into_iter().filter_map(series).take(MOUNTS_MAX).collect(),
            limits: Limits::now(),
            before: None,
            interfaces: BTreeMap::new(),
            traffic: Traffic::default(),
            files: 0.0,
            samples: 0,
        }
    }

    /// What can be said `now`. Shares of time are told from the second sample on. Blocks for
    /// some hundred microseconds.
    pub fn sample(&mut self, now: Time) -> Vec<(Series, Reading)> {
        let mut page = Page(Vec::with_capacity(64));
        if self.samples.is_multiple_of(LOOK_AGAIN) && self.samples > 0 {
            let before = std::mem::replace(&mut self.limits, Limits::now());
            if before.cpu.map(|(_, group)| group) != self.limits.cpu.as_ref().map(|c| c.1.clone()) {
                self.before = None; // the times of two groups have nothing to do with each other
            }
        }
        self.processors(now, &mut page);
        self.memory(&mut page);
        self.network(&mut page);
        self.disks(&mut page);
        self.open_files(&mut page);
        page.put(Known::Load, proc("loadavg").and_then(|text| parse::load(&text)));
        page.put(Known::Uptime, proc("uptime").and_then(|text| parse::uptime(&text)));
        self.samples = self.samples.wrapping_add(1);
        page.0
    }

    /// All that is a share of the time since the sample before.
    fn processors(&mut self, now: Time, page: &mut Page) {
        let own = proc("self/stat").and_then(|text| parse::process(&text));
        if let Some(own) = own {
            page.put(Known::ProcessThreads, own.threads as f64);
            page.put(Known::ProcessMem, own.pages as f64 * rustix::param::page_size() as f64);
        }
        let group = self.limits.cpu.as_ref().map(|(_, group)| group.as_path());
        let processors = &self.limits.processors;
        let next = Before {
            at: now,
            ticks: proc("stat").and_then(|text| parse::ticks(&text, |n| processors.allows(n))),
            own_ticks: own.map(|own| own.ticks),
            group: group.and_then(group_time),
            pressure: ["cpu", "memory", "io"].map(|what| {
                let own = group.and_then(|group| read(&group.join(format!("{what}.pressure"))));
                parse::pressure(&own.or_else(|| proc(&format!("pressure/{what}")))?)
            }),
        };
        let count = match &self.limits.cpu {
            Some((count, _)) => *count,
            None => f64::from(processors.count()),
        };
        page.put(Known::CpuCount, (count > 0.0).then_some(count));
        if let Some(before) = self.before.replace(next) {
            shares(&before, &next, count, page);
        }
    }

    fn memory(&self, page: &mut Page) {
        let machine = proc("meminfo").and_then(|text| parse::memory(&text));
        if let Some(Memory { swap_used, .. }) = machine {
            page.put(Known::SwapUsed, swap_used as f64);
        }
        let group = self.limits.memory.as_ref().and_then(|(total, group)| {
            let used = parse::group_bytes(&read(&group.join("memory.current"))?)?;
            let stat = read(&group.join("memory.stat"))?;
            // What the kernel drops first when room is needed.
            let used = used.saturating_sub(parse::keyed(&stat, "inactive_file").unwrap_or(0));
            Some((*total, total.saturating_sub(used)))
        });
        let machine = machine.map(|m| (m.total, m.available));
        let (total, available) = match (group, machine) {
            // A group may be promised more than there is.
            (Some(group), Some(machine)) => (group.0.min(machine.0), group.1.min(machine.1)),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return,
        };
        page.put(Known::MemTotal, total as f64);
        page.put(Known::MemAvailable, available as f64);
        page.put(Known::MemUsed, total.saturating_sub(available) as f64);
    }

    /// Each interface, and all together: a total that goes on when one of them goes away.
    fn network(&mut self, page: &mut Page) {
        let Some(text) = proc("net/dev") else { return };
        let now: Vec<(&str, Traffic)> =
            parse::interfaces(&text).filter(|(name, _)| *name != "lo").collect();
        let there: BTreeSet<&str> = now.iter().map(|(name, _)| *name).collect();
        self.interfaces.retain(|name, _| there.contains(name.as_str()));
        let has_device =
            |name: &str| Path::new("/sys/class/net").join(name).join("device").exists();
        let again = self.samples.is_multiple_of(LOOK_AGAIN);
        if again || now.iter().any(|(name, _)| !self.interfaces.contains_key(*name)) {
            // Bridges and tunnels carry what goes over a device once more. In a container there
            // may be none with a device: then all are told of.
            let devices: Vec<bool> = now.iter().map(|(name, _)| has_device(name)).collect();
            let mut left = INTERFACES_MAX;
            for ((name, last), device) in now.iter().zip(&devices) {
                let told = left > 0 && (*device || !devices.contains(&true));
                left -= usize::from(told);
                let new = || Interface { last: *last, told };
                self.interfaces.entry((*name).to_owned()).or_insert_with(new).told = told;
            }
        }
        for (name, traffic) in now {
            let Some(interface) = self.interfaces.get_mut(name).filter(|i| i.told) else {
                continue;
            };
            let last = std::mem::replace(&mut interface.last, traffic);
            let mut put = |known, now: u64, last: u64, sum: &mut u64| {
                *sum = sum.saturating_add(now.checked_sub(last).unwrap_or(now));
                if let Ok(series) = Series::new(known, Some(name)) {
                    page.0.push((series, Reading::Number(now as f64)));
                }
            };
            let sum = &mut self.traffic;
            put(Known::NetIn, traffic.received, last.received, &mut sum.received);
            put(Known::NetOut, traffic.sent, last.sent, &mut sum.sent);
            put(Known::NetErrors, traffic.errors, last.errors, &mut sum.errors);
        }
        page.put(Known::NetIn, self.traffic.received as f64);
        page.put(Known::NetOut, self.traffic.sent as f64);
        page.put(Known::NetErrors, self.traffic.errors as f64);
    }

    fn disks(&self, page: &mut Page) {
        for Mount { path, total, free, used, inodes } in &self.mounts {
            let Ok(stat) = rustix::fs::statvfs(path.as_str()) else { continue };
            let block = stat.f_frsize as f64;
            let mut put = |series: &Series, value: f64| {
                page.0.push((series.clone(), Reading::Number(value)));
            };
            put(total, stat.f_blocks as f64 * block);
            put(free, stat.f_bavail as f64 * block);
            // As df: of what is used and what can still be used without privileges.
            let taken = stat.f_blocks.saturating_sub(stat.f_bfree) as f64;
            if let Some(share) = share(taken, taken + stat.f_bavail as f64) {
                put(used, share);
            }
            let taken = stat.f_files.saturating_sub(stat.f_ffree) as f64;
            if let Some(share) = share(taken, stat.f_files as f64) {
                put(inodes, share);
            }
        }
    }

    /// Linux says since 6.2 how many there are; before, they have to be counted, which is not
    /// done every time, since there may be tens of thousands.
    fn open_files(&mut self, page: &mut Page) {
        let path = Path::new("/proc/self/fd");
        match fs::metadata(path).map_or(0, |meta| meta.len()) {
            0 if self.samples.is_multiple_of(LOOK_AGAIN) => {
                // The one that it is counted by is not counted.
                let count = fs::read_dir(path).map_or(0, |all| all.count().saturating_sub(1));
                self.files = count as f64;
            }
            0 => {}
            count => self.files = count as f64,
        }
        if self.files > 0.0 {
            page.put(Known::FdUsed, self.files);
            let most = getrlimit(Resource::Nofile).current;
            page.put(Known::FdShare, most.and_then(|most| share(self.files, most as f64)));
        }
    }
}

/// What part of the time between two samples went where.
fn shares(before: &Before, next: &Before, count: f64, page: &mut Page) {
    let elapsed_us = next.at.since(before.at).as_micros() as f64;
    if elapsed_us <= 0.0 {
        return;
    }
    let group = next.group;
    if let (Some(before), Some(next)) = (before.ticks, next.ticks) {
        let of = |part: fn(&Ticks) -> u64| part(&next).saturating_sub(part(&before)) as f64;
        let [user, system] = [of(|t| t.user), of(|t| t.system)];
        let [idle, wait, steal] = [of(|t| t.idle), of(|t| t.wait), of(|t| t.steal)];
        let all = user + system + idle + wait + steal;
        page.put(Known::CpuWait, share(wait, all));
        page.put(Known::CpuSteal, share(steal, all));
        if group.is_none() {
            page.put(Known::Cpu, share(user + system + steal, all));
            page.put(Known::CpuUser, share(user, all));
            page.put(Known::CpuSystem, share(system, all));
        }
    }
    if let (Some(before), Some(next)) = (before.group, group) {
        let all = elapsed_us * count;
        let of = |now: u64, then: u64| share(now.saturating_sub(then) as f64, all);
        page.put(Known::Cpu, of(next.used, before.used));
        page.put(Known::CpuUser, of(next.user, before.user));
        page.put(Known::CpuSystem, of(next.system, before.system));
        page.put(Known::CpuThrottled, of(next.throttled, before.throttled));
    }
    if let (Some(before), Some(next)) = (before.own_ticks, next.own_ticks) {
        let ticks = next.saturating_sub(before) as f64;
        let us = ticks / rustix::param::clock_ticks_per_second() as f64 * 1e6;
        page.put(Known::ProcessCpu, us / elapsed_us * 100.0);
    }
    let pressures = [Known::CpuPressure, Known::MemPressure, Known::IoPressure];
    for ((known, next), before) in pressures.into_iter().zip(next.pressure).zip(before.pressure) {
        let waited = next.zip(before).map(|(next, before)| next.saturating_sub(before) as f64);
        page.put(known, waited.and_then(|waited| share(waited, elapsed_us)));
    }
}

/// A share in hundredths, at most all of it: both are read one after the other.
fn share(part: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| (part / all * 100.0).clamp(0.0, 100.0))
}

fn group_time(group: &Path) -> Option<GroupTime> {
    let text = read(&group.join("cpu.stat"))?;
    let number = |key| parse::keyed(&text, key);
    Some(GroupTime {
        used: number("usage_usec")?,
        user: number("user_usec").unwrap_or(0),
        system: number("system_usec").unwrap_or(0),
        throttled: number("throttled_usec").unwrap_or(0),
    })
}

fn proc(name: &str) -> Option<String> {
    read(&Path::new("/proc").join(name))
}

/// A text of the kernel; none if it can't be read.
fn read(path: &Path) -> Option<String> {
    let mut text = String::with_capacity(4 << 10);
    File::open(path).ok()?.take(TEXT_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_sampled() {
        let mut host = Host::new(["/".to_owned(), "not absolute".to_owned()]);
        let first = host.sample(Time(1_000_000));
        // The kernel counts in hundredths of a second: until one has passed.
        let mut later = (2..).map(|n| host.sample(Time(n * 1_000_000)));
        let told = |all: &Vec<(Series, Reading)>| all.iter().any(|(s, _)| s.name() == "cpu");
        let second = later.find(told).unwrap();
        let value = |all: &[(Series, Reading)], name: &str| {
            let found = all.iter().find(|(series, _)| series.to_string() == name)?;
            match found.1 {
                Reading::Number(value) => Some(value),
                Reading::Spread(_) => None,
            }
        };
        assert_eq!(value(&first, "cpu"), None, "a share of what time?");
        for (name, most) in [("cpu", 100.0), ("disk.used /", 100.0), ("load", 1e6)] {
            let value = value(&second, name).unwrap_or_else(|| panic!("{name} is not told"));
            assert!((0.0..=most).contains(&value), "{name} {value}");
        }
        let number = |name| value(&second, name).unwrap_or_else(|| panic!("{name} is not told"));
        assert!(number("mem.used") <= number("mem.total"));
        assert!(number("process.mem") > 1e6 && number("fd.used") >= 3.0);
        assert!(number("cpu.count") > 0.0 && number("process.threads") >= 1.0);
        for (series, reading) in &second {
            assert!(matches!(reading, Reading::Number(n) if n.is_finite()), "{series}");
            assert_eq!(second.iter().filter(|(s, _)| s == series).count(), 1, "{series} twice");
        }
    }

    #[test]
    fn inside_a_limit_the_limit_is_the_machine() {
        let group = |used| GroupTime { used, user: used / 2, system: used / 4, throttled: 0 };
        let ticks = |idle| Ticks { user: 10, idle, ..Ticks::default() };
        let sample = |second: u64, group| Before {
            at: Time(second * 1_000_000),
            ticks: Some(ticks(second * 6_400)),
            own_ticks: None,
            group,
            pressure: [None; 3],
        };
        let cpu = |before, next| {
            let mut page = Page(Vec::new());
            shares(&before, &next, 2.0, &mut page);
            page.0.iter().find_map(|(series, reading)| match reading {
                Reading::Number(n) if series.name() == "cpu" => Some(*n),
                _ => None,
            })
        };
        // Two of 64 processors, both busy: of the machine it would be 3 %.
        assert_eq!(cpu(sample(1, Some(group(0))), sample(2, Some(group(2_000_000)))), Some(100.0));
        assert_eq!(cpu(sample(1, Some(group(0))), sample(2, Some(group(9_000_000)))), Some(100.0));
        assert_eq!(cpu(sample(1, Some(group(0))), sample(3, Some(group(1_000_000)))), Some(25.0));
        assert_eq!(cpu(sample(1, None), sample(2, None)), Some(0.0));
        assert_eq!(cpu(sample(1, None), sample(1, None)), None, "no time has passed");
    }
}
