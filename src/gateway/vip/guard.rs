//! The guard: a child that takes addresses off when its member can't.
//!
//! It reads from a pipe what the member holds and until when. When that time is over and no
//! more was heard (the member stands still), or when the pipe ends (it was killed), the guard
//! takes the addresses off. When the pipe ends, it ends as well. It holds no
//! address longer than it was told to, and puts none on.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    time::{ClockId, clock_gettime},
};

use super::netlink::Netlink;
use crate::base::VirtualAddress;

/// How soon an address that could not be taken off is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// The longest line that is read, bytes.
const LINE_MAX: usize = 200;
/// The name of the hidden command that is the guard.
const COMMAND: &str = "guard-addresses";

/// The member's end.
pub(super) struct Guard {
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts one: `program` is this very program.
    pub fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Nor is the member's word with its service manager: see sd_notify(3).
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        // What is meant for the member's group, as the interrupt of a terminal, is not for it.
        let mut child = command.process_group(0).spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, pipe })
    }

    /// `address` is on interface `index`, or is about to be, until `until`.
    pub fn hold(&mut self, index: u32, address: VirtualAddress, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let until = monotonic() + left;
        let (ip, prefix, until) = (address.ip(), address.prefix(), until.as_micros());
        self.pipe.write_all(format!("hold {index} {ip} {prefix} {until}\n").as_bytes())
    }

    /// `address` was taken off.
    pub fn drop(&mut self, address: VirtualAddress) -> io::Result<()> {
        self.pipe.write_all(format!("drop {}\n", address.ip()).as_bytes())
    }

    /// Ends it: nothing is held any more.
    pub fn end(self) {
        let Self { mut child, pipe } = self;
        drop(pipe);
        let _ended = child.wait();
    }
}

/// Since some moment that is the same for all processes of this server.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative: it counts from the start of the system.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What is on which interface, and until when.
type Held = BTreeMap<IpAddr, (u32, u8, Duration)>;

/// Is the guard, until its standard input ends. Errors: the kernel can't be spoken to.
pub fn run() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let stdin = io::stdin();
    let (mut held, mut text, mut ended) = (Held::new(), Vec::new(), false);
    loop {
        let now = monotonic();
        held.retain(|ip, (index, prefix, until)| {
            (*until > now && !ended) || netlink.remove(*index, (*ip, *prefix)).is_err()
        });
        if ended && held.is_empty() {
            return Ok(());
        }
        let next = held.values().map(|(.., until)| until.saturating_sub(now)).min();
        // What could not be taken off is tried until it is.
        let wait = if ended { Some(AGAIN) } else { next.map(|wait| wait.max(AGAIN / 20)) };
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        if ended {
            std::thread::park_timeout(AGAIN);
            continue;
        }
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, wait.as_ref()) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 4096];
        match rustix::io::read(&stdin, &mut bytes) {
            Ok(0) => ended = true,
            Ok(read) => {
                text.extend(&bytes[..read]);
                heed(&mut text, &mut held);
            }
            Err(Errno::INTR) => {}
            Err(_) => ended = true,
        }
    }
}

/// Takes up the whole lines of `text`.
fn heed(text: &mut Vec<u8>, held: &mut Held) {
    while let Some(end) = text.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = text.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["hold", index, ip, prefix, until] => {
                let all = (ip.parse(), index.parse(), prefix.parse(), until.parse());
                if let (Ok(ip), Ok(index), Ok(prefix), Ok(until)) = all {
                    held.insert(ip, (index, prefix, Duration::from_micros(until)));
                }
            }
            ["drop", ip] => {
                if let Ok(ip) = ip.parse() {
                    held.remove(&ip);
                }
            }
            _ => {}
        }
    }
    if text.len() > LINE_MAX {
        text.clear();
    }
}

/// Where this program is, whatever has become of its file.
pub(super) fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_up_whole() {
        let (mut held, ip) = (Held::new(), IpAddr::from([10, 0, 0, 100]));
        let mut text = b"hold 3 10.0.0.100 24 77".to_vec();
        heed(&mut text, &mut held);
        assert!(held.is_empty());
        text.extend(b"00\nnonsense\nhold x\n");
        heed(&mut text, &mut held);
        assert_eq!(held, Held::from([(ip, (3, 24, Duration::from_micros(7700)))]));
        text.extend(b"drop 10.0.0.100\n");
        heed(&mut text, &mut held);
        assert!(held.is_empty() && text.is_empty());
    }
}
