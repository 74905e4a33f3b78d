//! What the kernel says in text, as numbers. Pure; a text that is not as expected, or not all
//! there, makes `None` of what it should have said and of nothing else. No text makes it
//! panic. The formats are those of proc(5), cgroup v2 and PSI in the kernel's documentation.

use std::path::PathBuf;

/// Processor time since the start, in ticks (a hundredth of a second as a rule).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// In programs, those of low priority included.
    pub user: u64,
    /// In the kernel, interrupts included.
    pub system: u64,
    /// Idle.
    pub idle: u64,
    /// Idle while a disk was waited for.
    pub wait: u64,
    /// Given to other machines by the host.
    pub steal: u64,
}

/// `/proc/stat`: the time of the processors that `allowed` says, by number, together.
pub fn ticks(text: &str, allowed: impl Fn(usize) -> bool) -> Option<Ticks> {
    let mut sum: Option<Ticks> = None;
    for line in text.lines().take_while(|line| line.starts_with("cpu")) {
        let mut words = line.split_ascii_whitespace();
        let processor = words.next().and_then(|word| word.strip_prefix("cpu")?.parse().ok());
        if !processor.is_some_and(&allowed) {
            continue; // the first line is of all of them
        }
        let mut next = || words.next().map_or(Some(0), |word| word.parse::<u64>().ok());
        let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
        let (wait, interrupts, soft, steal) = (next()?, next()?, next()?, next()?);
        let sum = sum.get_or_insert_default();
        sum.user = sum.user.saturating_add(user).saturating_add(nice);
        sum.system = sum.system.saturating_add(system).saturating_add(interrupts);
        sum.system = sum.system.saturating_add(soft);
        sum.idle = sum.idle.saturating_add(idle);
        sum.wait = sum.wait.saturating_add(wait);
        sum.steal = sum.steal.saturating_add(steal);
    }
    sum
}

/// `/proc/self/mountinfo`: where file systems of this machine's own disks are mounted, each at
/// the first of its places. What is over a network or in memory is not among them, nor what
/// is always full, as an image.
pub fn mounts(text: &str) -> Vec<String> {
    const IMAGES: [&str; 4] = ["squashfs", "iso9660", "erofs", "udf"];
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let Some(dash) = words.iter().position(|word| *word == "-") else { continue };
        let ([_, _, device, root, at, ..], [_, kind, source, ..]) =
            (&words[..dash], &words[dash..])
        else {
            continue;
        };
        let of_disk = source.starts_with("/dev/") || *kind == "zfs";
        // A container's own root lies over something else.
        let is_root = *at == "/";
        let part = *root != "/" && *kind != "btrfs";
        if !is_root && (!of_disk || part) || IMAGES.contains(kind) || seen.contains(device) {
            continue;
        }
        seen.push(device);
        found.extend(unescaped(at));
    }
    found
}

/// Spaces and such are three octal digits behind a backslash. None if that is no UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        let code = digits.filter(|_| *first == b'\\').and_then(|digits| {
            u8::try_from(digits.iter().fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'))).ok()
        });
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    String::from_utf8(bytes).ok()
}

/// `/proc/loadavg`: the average over a minute.
pub fn load(text: &str) -> Option<f64> {
    first_number(text)
}

/// `/proc/uptime`: seconds since the start.
pub fn uptime(text: &str) -> Option<f64> {
    first_number(text)
}

/// Memory of the machine, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
    /// Swap space in use.
    pub swap_used: u64,
}

/// `/proc/meminfo`.
pub fn memory(text: &str) -> Option<Memory> {
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1_024)
    };
    let swap_used = || bytes("SwapTotal")?.checked_sub(bytes("SwapFree")?);
    Some(Memory {
        total: bytes("MemTotal")?,
        available: bytes("MemAvailable")?,
        swap_used: swap_used().unwrap_or(0), // a sandbox's own /proc may not speak of it
    })
}

/// What went over one interface since it was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Packets that were damaged or dropped, both ways.
    pub errors: u64,
}

/// `/proc/net/dev`: each interface.
pub fn interfaces(text: &str) -> impl Iterator<Item = (&str, Traffic)> {
    text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let mut words = numbers.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let mut n = [0; 12];
        for number in &mut n {
            *number = words.next()??;
        }
        let [received, _, damaged_in, dropped_in, _, _, _, _, sent, _, damaged_out, dropped_out] =
            n;
        let errors = [damaged_in, dropped_in, damaged_out, dropped_out];
        let errors = errors.into_iter().fold(0_u64, u64::saturating_add);
        Some((name.trim(), Traffic { received, sent, errors }))
    })
}

/// What one process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Processor time, ticks.
    pub ticks: u64,
    /// The same of children that have ended, and that it has waited for.
    pub waited: u64,
    /// Threads.
    pub threads: u64,
    /// Resident memory, pages.
    pub pages: u64,
}

/// `/proc/PID/stat`. The name in it may hold anything, also parentheses.
pub fn process(text: &str) -> Option<Process> {
    let (_, behind) = text.rsplit_once(')')?;
    // The first one is the state, which is the third of all.
    let field = |n: usize| behind.split_ascii_whitespace().nth(n - 3)?.parse::<u64>().ok();
    Some(Process {
        ticks: field(14)?.checked_add(field(15)?)?,
        waited: field(16)?.checked_add(field(17)?)?,
        threads: field(20)?,
        pages: field(24)?,
    })
}

/// A file of pressure (PSI): microseconds in which some task had to wait.
pub fn pressure(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// `/proc/self/cgroup`: the path of the group in the hierarchy of cgroup v2.
pub fn group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// `/proc/self/mountinfo`: where the hierarchy of cgroup v2 is mounted.
pub fn group_mount(text: &str) -> Option<PathBuf> {
    let line = text.lines().find(|line| {
        line.split_once(" - ").is_some_and(|(_, behind)| behind.starts_with("cgroup2 "))
    })?;
    let path = line.split(' ').nth(4)?;
    // Blanks are escaped there, and nobody mounts this in a place with blanks.
    (path.starts_with('/') && !path.contains('\\')).then(|| PathBuf::from(path))
}

/// `cpu.max` of a group: how many processors it may use, parts included. None: no limit.
pub fn group_processors(text: &str) -> Option<f64> {
    let mut words = text.split_ascii_whitespace();
    let quota: u64 = words.next()?.parse().ok()?; // `max` is no number
    let period: u64 = words.next()?.parse().ok()?;
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// `memory.max` and its like: one number. None: no limit.
pub fn group_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `cpu.stat`, `memory.stat`: the number behind a name.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?.trim().parse().ok()
}

fn first_number(text: &str) -> Option<f64> {
    let number: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str = "\
cpu  8826906 1497204 1070117 4533814 79583 0 59348 24457 0 0
cpu0 4295745 733373 482575 2475788 21860 10 22205 12370 0 0
cpu1 4531161 763831 587542 2058025 57723 0 37143 12086 7 7
intr 1 2 3
ctxt 100
";
    const MEMINFO: &str = "\
MemTotal:       24684096 kB
MemFree:        18928252 kB
MemAvailable:   21453796 kB
Buffers:          105472 kB
SwapCached:            0 kB
SwapTotal:       2097148 kB
SwapFree:        1048576 kB
HugePages_Total:       0
";
    const NET: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 73560651886 13608934    0    0    0     0          0         0 73560651886 13608934    0    0    0     0       0          0
  eth0:548098801   27717    1    2    0     0          0         0  1655405   15679    3    4    0     0       0          0
";
    const PROCESS: &str = "4711 (a) S 1 (2) S 1 4711 4711 0 -1 4194560 1234 0 0 0 250 125 4 3 \
                           20 0 9 0 5000 200000000 6144 18446744073709551615 1 1 0";

    #[test]
    fn file_systems_of_own_disks_are_named_once() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:5 / /tmp rw - tmpfs tmpfs rw
25 22 8:17 / /srv/my\\040data rw - xfs /dev/sdb1 rw
26 22 8:17 / /srv/again rw - xfs /dev/sdb1 rw
27 22 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw
28 22 0:40 / /home rw - nfs4 server:/home rw
29 22 0:41 / /tank rw - zfs tank rw
30 22 0:44 /@var /var rw - btrfs /dev/sdc1 rw
31 22 7:0 / /snap/core rw - squashfs /dev/loop0 ro
32 22 8:33 / /broken
nonsense - ext4
";
        assert_eq!(mounts(text), ["/", "/srv/my data", "/tank", "/var"]);
        assert_eq!(mounts("20 1 0:30 / / rw - overlay overlay rw"), ["/"]);
        assert_eq!(unescaped("/a\\134b\\9\\777"), Some("/a\\b\\9\\777".to_owned()));
    }

    #[test]
    fn what_kernels_say_is_read() {
        let both = ticks(STAT, |_| true).unwrap();
        assert_eq!((both.user, both.idle, both.steal), (10_324_110, 4_533_813, 24_456));
        let one = ticks(STAT, |n| n == 0).unwrap();
        assert_eq!((one.system, one.wait), (482_575 + 10 + 22_205, 21_860));
        assert_eq!(ticks(STAT, |n| n > 1), None);
        assert_eq!(ticks("cpu0 1 2 3 4\n", |_| true).unwrap().user, 3, "a very old kernel");
        assert_eq!(load("1.85 1.19 0.87 3/101 12844\n"), Some(1.85));
        assert_eq!(uptime("81234.56 150000.00\n"), Some(81_234.56));
        let memory = memory(MEMINFO).unwrap();
        assert_eq!(memory.total, 24_684_096 * 1_024);
        assert_eq!((memory.available, memory.swap_used), (21_453_796 * 1_024, 1_048_572 * 1_024));
        let all: Vec<_> = interfaces(NET).collect();
        let eth0 = Traffic { received: 548_098_801, sent: 1_655_405, errors: 10 };
        assert_eq!((all.len(), all[0].0, all[1]), (2, "lo", ("eth0", eth0)));
        let own = process(PROCESS).unwrap();
        assert_eq!(own, Process { ticks: 375, waited: 7, threads: 9, pages: 6_144 });
        let psi = "some avg10=42.74 avg60=11.77 avg300=3.50 total=23345815424\n\
                   full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(pressure(psi), Some(23_345_815_424));
        assert_eq!(pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"), Some(5));
    }

    #[test]
    fn limits_of_groups_are_read() {
        assert_eq!(
            group("8:pids:/\n0::/system.slice/a.service\n"),
            Some("/system.slice/a.service")
        );
        assert_eq!(group("8:pids:/\n"), None);
        let mounts = "24 27 0:6 / /dev rw - devtmpfs devtmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(group_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(group_mount("1 2 0:3 / /a\\040b rw - cgroup2 x rw\n"), None);
        assert_eq!(group_processors("150000 100000\n"), Some(1.5));
        assert_eq!(group_processors("max 100000\n"), None);
        assert_eq!(group_bytes("536870912\n"), Some(512 << 20));
        assert_eq!(group_bytes("max\n"), None);
        let stat = "usage_usec 120\nuser_usec 100\nsystem_usec 20\nthrottled_usec 7\n";
        assert_eq!(keyed(stat, "user_usec"), Some(100));
        assert_eq!(keyed(stat, "user"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            noise in "(\\PC|[ \n:()0-9a-z=]){0,200}",
            cut in 0..700_usize,
            at in 0..700_usize,
        ) {
            for text in [STAT, MEMINFO, NET, PROCESS, "", "0::/x", "some total=", "1 2 / / - cgroup2 "] {
                let at = at.min(text.len());
                let cut = cut.min(text.len());
                let text = format!("{}{noise}{}", &text[..cut], &text[at..]);
                let _ = (ticks(&text, |n| n < 3), load(&text), uptime(&text), memory(&text));
                let _ = (interfaces(&text).count(), process(&text), pressure(&text));
                let _ = (group(&text), group_mount(&text), group_processors(&text));
                let _ = (group_bytes(&text), keyed(&text, "MemFree:"));
            }
        }
    }
}
