//! What a member tells the service manager that started it: that it serves, how it is, that it
//! still lives, that it ends. The protocol is systemd's (sd_notify(3)): a datagram of lines to
//! the socket that `NOTIFY_SOCKET` names. Without that variable nothing is told.
//!
//! That the process lives says little: a member is its event loop. So each sign of life is
//! preceded by a question that only the loop can answer. A loop that stands answers nothing,
//! the manager hears nothing, and starts the member again after `WATCHDOG_USEC`. What it stood
//! over is in the log by then: see `node/watchdog.rs`, whose idle pulse would not tell a loop
//! that waits from one that is never run.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram as StdDatagram},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;

use crate::{
    member::view::{Health, View},
    node,
};

/// Where the manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// After how many microseconds without a sign of life it gives a process up.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Whose signs of life it waits for, if not anybody's.
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// How often it is told how the member is, if it does not ask for signs of life.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// More often nobody is told: a period of some microseconds would be a busy loop.
const TELL_EVERY_MIN: Duration = Duration::from_millis(10);
/// How long a datagram may wait for a manager that is busy.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// The longest that is said of how the member is, characters: it is one line of a terminal.
const STATUS_MAX: usize = 200;

/// The service manager, if one asked to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Manager {
    address: Option<SocketAddr>,
    /// How long it waits for a sign of life, if it does.
    patience: Option<Duration>,
    /// Whether it was told that the member serves, and not yet that it ends: the end of a
    /// reload is said by the same word.
    serves: Arc<AtomicBool>,
}

impl Manager {
    /// As the environment says.
    pub(super) fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok();
        let Some(socket) = variable(SOCKET).filter(|text| !text.is_empty()) else {
            return Self::default();
        };
        let address = match address_of(&socket) {
            Ok(address) => address,
            Err(error) => {
                tracing::warn!(
                    "{SOCKET}={socket:?} is not the address of a Unix socket ({error}): the \
                     service manager is told nothing, and may take this member for one that \
                     never starts"
                );
                return Self::default();
            }
        };
        let (period, pid) = (variable(WATCHDOG), variable(WATCHDOG_PID));
        let patience = patience(period.as_deref(), pid.as_deref(), std::process::id());
        Self { address: Some(address), patience, serves: Arc::default() }
    }

    /// Whether anybody listens.
    pub(super) fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// The member begins: it founds its cluster, joins it or takes up what it remembers.
    pub(super) async fn starting(&self) {
        self.say("STATUS=Founding, joining or returning").await;
    }

    /// The member serves: it answers commands and listens for clients.
    pub(super) async fn ready(&self, status: &str) {
        self.serves.store(true, Relaxed);
        self.say(&format!("READY=1\nSTATUS={}", line(status))).await;
    }

    /// What it was configured with is read again, until [`Self::reloaded`].
    pub(super) async fn reloading(&self) {
        if !self.serves.load(Relaxed) {
            return;
        }
        // By the moment, managers that wait for it tell this reload from one before.
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={us}")).await;
    }

    /// The end of a reload, well or not.
    pub(super) async fn reloaded(&self) {
        if self.serves.load(Relaxed) {
            self.say("READY=1").await;
        }
    }

    /// The member ends, and why.
    pub(super) async fn stopping(&self, why: &str) {
        self.serves.store(false, Relaxed);
        self.say(&format!("STOPPING=1\nSTATUS={}", line(why))).await;
    }

    /// Says how the member is, and that it lives, for as long as its event loop answers.
    pub(super) async fn accompany(self, handle: node::Handle) {
        if !self.is_there() {
            return;
        }
        let ask = || {
            let handle = handle.clone();
            async move { handle.view().await.ok().map(|view| status_of(&view)) }
        };
        self.tell_while(ask).await;
    }

    /// Returns when `ask` has no answer any more.
    async fn tell_while<F>(&self, mut ask: impl FnMut() -> F)
    where
        F: Future<Output = Option<String>>,
    {
        let every = self.patience.map_or(TELL_EVERY, |patience| patience / 2).max(TELL_EVERY_MIN);
        loop {
            tokio::time::sleep(every).await;
            // For as long as it takes: what comes late is still a sign of life, and what
            // never comes is none.
            let Some(status) = ask().await else { return };
            // It ends: why, is said last.
            if !self.serves.load(Relaxed) {
                return;
            }
            let lives = if self.patience.is_some() { "WATCHDOG=1\n" } else { "" };
            self.say(&format!("{lives}STATUS={}", line(&status))).await;
        }
    }

    /// Sends lines. A manager that does not take them holds nobody up for long.
    async fn say(&self, lines: &str) {
        let Some(address) = &self.address else { return };
        let sent = tokio::time::timeout(SEND_WITHIN, send(address, lines.as_bytes())).await;
        let error = match sent {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_late) => io::ErrorKind::TimedOut.into(),
        };
        let first = lines.lines().next().unwrap_or_default();
        tracing::warn!("the service manager could not be told {first}: {error}");
    }
}

/// A socket for each: the manager may have been replaced, and its socket with it.
async fn send(address: &SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(address)?;
    UnixDatagram::from_std(socket)?.send(bytes).await.map(drop)
}

/// A path, or a name in the abstract namespace after an `@`.
fn address_of(text: &str) -> io::Result<SocketAddr> {
    match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if text.starts_with('/') => SocketAddr::from_pathname(text),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "it begins with neither / nor @")),
    }
}

/// How long the manager waits for a sign of life of this process, if it does.
fn patience(period: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    // Meant for another process, which passed its environment on.
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let us = period?.parse().ok().filter(|us| *us > 0)?;
    Some(Duration::from_micros(us))
}

/// How a member is, in its own eyes: what `systemctl status` shows.
fn status_of(view: &View) -> String {
    let alive = view.members.iter().filter(|member| member.state == "alive").count();
    let all = view.members.len();
    let applications = match view.applications.len() {
        1 => "1 application".to_owned(),
        number => format!("{number} applications"),
    };
    let how = match view.health {
        Health::Ok => "ok",
        Health::Warning => "warning",
        Health::Critical => "critical",
    };
    let why = view.reasons.first().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{alive} of {all} members alive, {applications}, health {how}{why}")
}

/// A single line, of bounded length: what stands in it may come from other members, and a
/// second line would be a message of its own.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(STATUS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn manager(address: SocketAddr, patience: Option<Duration>) -> Manager {
        Manager { address: Some(address), patience, serves: Arc::default() }
    }

    async fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer));
        let length = received.await.expect("nothing was said").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn it_is_told_at_a_path_and_at_an_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify").to_str().unwrap().to_owned();
        let name = format!("@althing-test-{}", std::process::id());
        for text in [path, name] {
            let address = address_of(&text).unwrap();
            let socket = StdDatagram::bind_addr(&address).unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = UnixDatagram::from_std(socket).unwrap();
            let manager = manager(address, None);
            // Nothing of that before the member serves, and nothing after.
            manager.reloading().await;
            manager.reloaded().await;
            manager.ready("alpha founded\nWATCHDOG=trigger").await;
            assert_eq!(heard(&socket).await, "READY=1\nSTATUS=alpha founded WATCHDOG=trigger");
            manager.reloading().await;
            let said = heard(&socket).await;
            let us = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(us.parse::<u64>().unwrap() > 0);
            manager.reloaded().await;
            assert_eq!(heard(&socket).await, "READY=1");
            manager.stopping("asked to").await;
            assert_eq!(heard(&socket).await, "STOPPING=1\nSTATUS=asked to");
            manager.reloaded().await;
            assert!(socket.try_recv(&mut [0; 64]).is_err(), "nothing more");
        }
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_gives_no_sign_of_life() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let patience = Some(Duration::from_millis(40));
        let manager = manager(SocketAddr::from_pathname(&path).unwrap(), patience);
        manager.serves.store(true, Relaxed);
        let mut answers = 0;
        let stuck = || {
            answers += 1;
            let number = answers;
            async move {
                if number > 2 {
                    std::future::pending::<()>().await;
                }
                Some(format!("answer {number}"))
            }
        };
        let over = tokio::time::timeout(Duration::from_millis(600), manager.tell_while(stuck));
        assert!(over.await.is_err(), "it waits for the loop");
        for number in 1..=2 {
            assert_eq!(heard(&socket).await, format!("WATCHDOG=1\nSTATUS=answer {number}"));
        }
        assert!(socket.try_recv(&mut [0; 64]).is_err(), "nothing more");
    }

    #[tokio::test]
    async fn it_ends_with_the_loop_however_short_the_period_is() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let patience = Some(Duration::from_micros(1));
        let manager = manager(SocketAddr::from_pathname(&path).unwrap(), patience);
        tokio::time::timeout(PATIENCE, manager.tell_while(|| async { None })).await.unwrap();
    }

    #[test]
    fn what_is_no_address_is_told_apart() {
        for wrong in ["notify", "vsock:2:1234", &format!("/{}", "x".repeat(200))] {
            assert!(address_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_process_that_is_meant_gives_signs_of_life() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(patience(Some("1000000"), None, 7), second);
        assert_eq!(patience(Some("1000000"), Some("7"), 7), second);
        assert_eq!(patience(Some("1000000"), Some("8"), 7), None);
        assert_eq!(patience(None, Some("7"), 7), None);
        for wrong in ["0", "", "-1", "soon"] {
            assert_eq!(patience(Some(wrong), None, 7), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_said_is_one_line_of_bounded_length() {
        assert_eq!(line("a\r\nb\0c"), "a  b c");
        assert_eq!(line(&"ü".repeat(999)).chars().count(), STATUS_MAX);
    }
}
