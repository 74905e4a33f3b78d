//! Real processes of this program, each with an address and a data directory
//! of its own. Whatever happens to the demonstration, none outlives it: each
//! is killed when it is dropped, and stops by itself when its standard input
//! ends, which it does however we die.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::cli::{client::Client, config};

/// How long a member may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How many sets of ports are tried: so many demonstrations run side by side.
const SETS: u16 = 80;
/// Nobody else's address: whoever holds a port here holds that set of ports.
const CLAIM: Ipv4Addr = Ipv4Addr::new(127, 255, 7, 70);
/// Lines of a member's log that are shown when it fails.
const LOG_LINES: usize = 8;

/// All members, dead or alive.
#[derive(Debug)]
pub(super) struct Fleet {
    // Dropped in this order: first the processes, then their directory.
    pub members: Vec<Member>,
    scratch: Scratch,
    _claim: UdpSocket,
}

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub name: String,
    pub data: PathBuf,
    /// Where the others reach it.
    pub cluster: SocketAddr,
    /// Where it serves.
    pub site: SocketAddr,
    /// Where its status page is.
    pub status: SocketAddr,
    log: PathBuf,
    process: Option<Process>,
    /// Its ports while it is dead: nobody else must take them.
    reserved: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    // Held open: its end is the child's sign to stop.
    _stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// A directory that is removed with its value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..1_000 {
            let path = base.join(format!("althing-demo-{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => return result.map(|()| Self(path)),
            }
        }
        Err(io::Error::other("no free name for a temporary directory"))
    }
}

impl Drop for Scratch {
    #[expect(
        clippy::disallowed_methods,
        reason = "drop can't await, and it is the last thing done"
    )]
    fn drop(&mut self) {
        // A process that was killed this moment may still make a file.
        for _ in 0..50 {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

impl Fleet {
    /// Addresses and directories for so many members; starts none.
    pub fn new(count: usize) -> io::Result<Self> {
        let scratch = Scratch::new()?;
        let (set, claim) = claim_ports(count)?;
        let member = |index: usize| {
            let name = format!("member-{}", index + 1);
            let at = |port| SocketAddr::from((address(index), port + set));
            Member {
                data: scratch.0.join(&name),
                log: scratch.0.join(format!("{name}.log")),
                cluster: at(7700),
                site: at(8080),
                status: at(7780),
                process: None,
                reserved: Vec::new(),
                name,
            }
        };
        let members = (0..count).map(member).collect();
        Ok(Self { members, scratch, _claim: claim })
    }

    /// A place for files beside the members'.
    pub fn directory(&self) -> &Path {
        &self.scratch.0
    }

    /// The members that run, by index.
    pub fn live(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| self.members[*i].process.is_some()).collect()
    }

    /// The members that don't, by index.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| self.members[*i].process.is_none()).collect()
    }

    pub fn names(&self, indexes: &[usize]) -> String {
        let names: Vec<&str> = indexes.iter().map(|i| self.members[*i].name.as_str()).collect();
        names.join(", ")
    }

    /// Kills what still runs.
    pub async fn end(mut self) {
        for member in &mut self.members {
            // It is killed all the same when it is dropped.
            let _killed = member.kill().await;
        }
    }
}

impl Member {
    pub fn client(&self) -> Client {
        Client::new(&self.data)
    }

    /// The process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(|p| p.child.id())
    }

    /// Starts it; [`Member::ready`] says when it is there.
    pub fn spawn(&mut self, join: Option<(SocketAddr, &str)>) -> io::Result<()> {
        self.reserved.clear();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        // It is to be as it is shown, whatever members of this machine are told.
        for variable in config::variables() {
            command.env_remove(variable);
        }
        command
            .env("ALTHING_CONFIG", "none")
            .args(["up", "--json", "--with-parent", "--name", &self.name, "--data"])
            .arg(&self.data)
            .args(["--bind", &self.cluster.to_string()])
            .args(["--listen", &self.site.to_string()])
            .args(["--status", &self.status.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        if let Some((address, token)) = join {
            // Not as an argument: those are in the list of processes.
            command.args(["--join", &address.to_string()]).env("ALTHING_TOKEN", token);
        }
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a process without the pipes that were asked for"));
        };
        self.process = Some(Process { child, _stdin: stdin, stdout: BufReader::new(stdout) });
        Ok(())
    }

    /// Waits for the line that says that it is ready.
    pub async fn ready(&mut self) -> Result<Value, String> {
        let name = self.name.clone();
        let Some(process) = &mut self.process else {
            return Err(format!("{name} was not started"));
        };
        let mut line = String::new();
        let read = process.stdout.read_line(&mut line);
        let said: Option<Value> = match tokio::time::timeout(READY_WITHIN, read).await {
            Ok(Ok(_)) => serde_json::from_str(&line).ok(),
            Ok(Err(error)) => return Err(format!("{name} can't be heard: {error}")),
            Err(_) => {
                let log = self.log_tail();
                return Err(format!("{name} is not ready after {READY_WITHIN:?}.{log}"));
            }
        };
        match said {
            Some(said) if said["ready"] == true => Ok(said),
            _ => Err(format!("{name} did not start: {}{}", line.trim(), self.log_tail())),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.child.kill().await?;
        // Where that fails the port is as free as a dead server's.
        self.reserved = [self.site, self.status].into_iter().flat_map(reserve).collect();
        Ok(())
    }

    /// The end of its log, for a failure's text.
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if tail.is_empty() {
            String::new()
        } else {
            format!(" Its log ends with: {}", tail.join(" / "))
        }
    }
}

/// Each member has an address of its own, as servers have.
fn address(index: usize) -> Ipv4Addr {
    // At most 50 members: the count is checked on the command line.
    Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(index).unwrap_or(u8::MAX - 1))
}

/// Takes a port without listening on it: whoever connects is refused, and
/// whoever wants to listen there finds it in use.
fn reserve(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    // Closed in the children, which would hold it for each other.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// The first set of ports that is free on every address. The claim keeps other
/// demonstrations off until the members have bound theirs, and after.
fn claim_ports(count: usize) -> io::Result<(u16, UdpSocket)> {
    for set in 0..SETS {
        let Ok(claim) = UdpSocket::bind((CLAIM, 7700 + set)) else { continue };
        let free = |index| {
            let ip = address(index);
            UdpSocket::bind((ip, 7700 + set)).is_ok()
                && TcpListener::bind((ip, 8080 + set)).is_ok()
                && TcpListener::bind((ip, 7780 + set)).is_ok()
        };
        if (0..count).all(free) {
            return Ok((set, claim));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no port of {SETS} from 7700, 7780 and 8080 on is free on all loopback addresses"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_of_the_dead_are_nobody_elses() {
        let fleet = Fleet::new(3).unwrap();
        let address = fleet.members[2].site;
        let reserved = reserve(address).unwrap();
        assert!(TcpListener::bind(address).is_err());
        assert!(std::net::TcpStream::connect(address).is_err());
        drop(reserved);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn two_demonstrations_do_not_meet_and_leave_nothing() {
        let one = Fleet::new(3).unwrap();
        let two = Fleet::new(3).unwrap();
        let ports =
            |f: &Fleet| f.members.iter().flat_map(|m| [m.cluster, m.site, m.status]).collect();
        let (first, second): (Vec<_>, Vec<_>) = (ports(&one), ports(&two));
        assert!(first.iter().all(|a| a.ip().is_loopback() && !second.contains(a)));
        let directory = one.directory().to_owned();
        assert!(directory.is_dir() && directory != two.directory());
        drop(one);
        assert!(!directory.exists());
    }
}
