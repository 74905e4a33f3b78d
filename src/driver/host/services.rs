//! What services use: the processes that were started for each, and what these have started.
//!
//! A process is found by way of its parent, so that nobody has to look through all of a machine
//! each second. One whose parent has gone is not found any more; what a service that is known by
//! such a process uses is told in part.

use std::{collections::BTreeMap, fs, path::Path};

use super::{parse, read};
use crate::{
    base::{
        Time,
        metric::{Known, Series},
    },
    proto::telemetry::Reading,
};

/// Processes of one service that are looked at.
const PROCESSES_MAX: usize = 64;
/// Threads of one process whose children are looked for: nearly always it is the first that has any.
const THREADS_MAX: usize = 16;

/// Samples services. It remembers the sample before, for what is a share of the time since.
#[derive(Debug, Default)]
pub struct Usage {
    at: Time,
    ticks: BTreeMap<(String, u32), u64>,
}

impl Usage {
    /// What can be said `now` of services, each by its label and its first process. Processor time
    /// is told from the second sample on.
    pub fn sample(
        &mut self,
        now: Time,
        services: impl IntoIterator<Item = (String, u32)>,
    ) -> Vec<(Series, Reading)> {
        let elapsed_us = now.since(std::mem::replace(&mut self.at, now)).as_micros() as f64;
        let before = std::mem::take(&mut self.ticks);
        let mut readings = Vec::new();
        for (label, pid) in services {
            let Some((ticks, pages)) = used(pid) else { continue };
            let mut put = |known, value: f64| {
                // A label that is none can't be: these are names already.
                let series = Series::new(known, Some(&label)).ok();
                readings.extend(series.map(|series| (series, Reading::Number(value))));
            };
            put(Known::ServiceMem, pages as f64 * rustix::param::page_size() as f64);
            let key = (label.clone(), pid);
            if let Some(before) = before.get(&key).filter(|_| elapsed_us > 0.0) {
                // What a child has used is gone with it where nobody has waited for it.
                let used = ticks.saturating_sub(*before) as f64;
                let us = used / rustix::param::clock_ticks_per_second() as f64 * 1e6;
                put(Known::ServiceCpu, us / elapsed_us * 100.0);
            }
            self.ticks.insert(key, ticks);
        }
        readings
    }
}

/// Processor time since its start, and resident pages, of a process and what it has started.
fn used(pid: u32) -> Option<(u64, u64)> {
    let mut found = vec![pid];
    let mut next = 0;
    let mut sum: Option<(u64, u64)> = None;
    while next < found.len() {
        let directory = Path::new("/proc").join(found[next].to_string());
        next += 1;
        // It may have ended a moment ago.
        let stat = read(&directory.join("stat")).and_then(|text| parse::process(&text));
        let Some(stat) = stat else { continue };
        let (ticks, pages) = sum.unwrap_or_default();
        sum = Some((ticks + stat.ticks + stat.waited, pages + stat.pages));
        let threads = fs::read_dir(directory.join("task")).into_iter().flatten().flatten();
        for thread in threads.take(THREADS_MAX) {
            let text = read(&thread.path().join("children")).unwrap_or_default();
            let children = text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
            let room = PROCESSES_MAX.saturating_sub(found.len());
            found.extend(children.take(room));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn what_a_process_and_its_children_use_is_told() {
        let mut child = Command::new("sh")
            .args(["-c", "sh -c 'while :; do :; done' & wait"])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = child.id();
        let of = |usage: &mut Usage, at: u64| -> Vec<(String, f64)> {
            let told = usage.sample(Time(at), [("web/app".to_owned(), pid)]);
            let number = |(series, reading): (Series, Reading)| match reading {
                Reading::Number(value) => Some((series.to_string(), value)),
                _ => None,
            };
            told.into_iter().filter_map(number).collect()
        };
        // What it takes to begin and to use some is up to the kernel; what time it is, is said to it.
        let patiently = |mut look: Box<dyn FnMut() -> bool + '_>| {
            for _ in 0..2_000 {
                if look() {
                    return;
                }
                #[expect(clippy::disallowed_methods, reason = "another process has to run")]
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        patiently(Box::new(|| {
            first = of(&mut Usage::default(), 1_000_000);
            first.iter().any(|(_, value)| *value > 100_000.0)
        }));
        let mut usage = Usage::default();
        of(&mut usage, 1_000_000);
        patiently(Box::new(|| {
            second = of(&mut usage, 2_000_000);
            usage.at = Time(1_000_000);
            second.iter().any(|(name, value)| name == "service.cpu web/app" && *value > 0.0)
        }));
        rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        child.wait().unwrap();
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(first[0].0 == "service.mem web/app" && first[0].1 > 100_000.0, "{first:?}");
        assert_eq!(second.len(), 2, "{second:?}");
        assert!(second[1].1 > 0.0, "{second:?}");
        assert_eq!(of(&mut usage, 3_000_000), [], "it is gone");
    }
}
