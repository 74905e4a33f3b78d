//! Those who look all the while: one asks every member for its view, and a
//! client for each member reads its site, page after page.
//!
//! A member that is live, in service and reachable must answer every request,
//! from one whole version. A scenario excuses a member before it does something
//! to it, and says when it is expected again.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::account::Account;

/// Between two looks at all views.
const LOOK_EVERY: Duration = Duration::from_millis(120);
/// Between two requests of one client.
const READ_EVERY: Duration = Duration::from_millis(60);
/// A view comes in milliseconds; a stopped process's never.
const VIEW_WITHIN: Duration = Duration::from_secs(2);
/// A client gives up when nothing came for so long: a thin line may be full.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The pages of every version.
pub const PAGES: [&str; 4] = ["/", "/a.txt", "/deep/b.txt", "/big.txt"];

/// Who looks, at whom, and what was seen.
pub struct Watch {
    pub account: Mutex<Account>,
    members: Vec<Watched>,
    over: AtomicBool,
    started: Instant,
}

struct Watched {
    name: String,
    socket: PathBuf,
    site: SocketAddr,
    /// Whether its process runs, and is not stopped.
    runs: AtomicBool,
    /// Whether it must answer clients.
    expected: AtomicBool,
    /// Counts changes of `expected`: what was asked before one and answered
    /// after it is nobody's fault.
    epoch: AtomicU64,
}

impl Watch {
    /// Looks at members with these names, data directories and addresses.
    pub fn new(members: Vec<(String, PathBuf, SocketAddr)>) -> Arc<Self> {
        let watched = |(name, data, site): (String, PathBuf, SocketAddr)| Watched {
            name,
            socket: data.join("socket"),
            site,
            runs: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        };
        Arc::new(Self {
            account: Mutex::default(),
            members: members.into_iter().map(watched).collect(),
            over: AtomicBool::new(false),
            started: Instant::now(),
        })
    }

    pub fn start(self: &Arc<Self>) -> Vec<thread::JoinHandle<()>> {
        let mut threads = Vec::new();
        let this = Arc::clone(self);
        threads.push(thread::spawn(move || this.look_on()));
        for index in 0..self.members.len() {
            let this = Arc::clone(self);
            threads.push(thread::spawn(move || this.read_on(index)));
        }
        threads
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub fn account(&self) -> MutexGuard<'_, Account> {
        // A poisoned lock means that a look panicked, which fails its thread.
        self.account.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the process of this member runs.
    pub fn runs(&self, index: usize, runs: bool) {
        self.members[index].runs.store(runs, Ordering::SeqCst);
    }

    /// Whether clients must be answered by this member.
    pub fn expect(&self, index: usize, expected: bool) {
        self.members[index].expected.store(expected, Ordering::SeqCst);
        self.members[index].epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// A line of the scenario's story, with the time.
    pub fn say(&self, what: &str) {
        crate::scenario::say(&format!("{:7.3} {what}", self.started.elapsed().as_secs_f64()));
    }

    fn look_on(&self) {
        while !self.is_over() {
            for member in self.members.iter().filter(|m| m.runs.load(Ordering::SeqCst)) {
                // Killed or stopped meanwhile: it says nothing, and that is all.
                let Ok(view) = view_of(&member.socket) else { continue };
                self.account().see_view(&member.name, &view);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn read_on(&self, index: usize) {
        let member = &self.members[index];
        for page in PAGES.iter().cycle() {
            if self.is_over() {
                return;
            }
            thread::sleep(READ_EVERY);
            if !member.runs.load(Ordering::SeqCst) {
                continue;
            }
            let epoch = member.epoch.load(Ordering::SeqCst);
            let asked = Instant::now();
            match whole_page(member.site, page) {
                Ok((version, mark)) => self.account().see_answer(&member.name, version, &mark),
                Err(error) => {
                    let expected = member.expected.load(Ordering::SeqCst)
                        && member.epoch.load(Ordering::SeqCst) == epoch;
                    // What is not whole is wrong whoever sent it.
                    if expected || error.kind() == io::ErrorKind::InvalidData {
                        let (name, took) = (&member.name, asked.elapsed().as_secs_f64());
                        let at = self.started.elapsed().as_secs_f64();
                        let text =
                            format!("at {at:.3} {name} answers {page} after {took:.3} s: {error}");
                        self.account().breaks(text);
                    }
                }
            }
        }
    }
}

/// A member's view, by its socket, which is in no network.
pub fn view_of(socket: &Path) -> io::Result<Value> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(VIEW_WITHIN))?;
    let (status, _, body) = exchange(stream, "/api/v1/view")?;
    if status != 200 {
        // It is stopping, and says so.
        return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned()));
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Asks a member's site for a page and checks that it is whole: one version
/// from the first line to the last. Says which version, and its mark. An error
/// of the kind `InvalidData` is an answer that no member may give.
pub fn whole_page(site: SocketAddr, page: &str) -> io::Result<(u64, String)> {
    let stream = TcpStream::connect_timeout(&site, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let (status, head, body) = exchange(stream, page)?;
    if status != 200 {
        return Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body))));
    }
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what}; {head}"));
    let header = |name: &str| {
        let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(name));
        line.and_then(|l| l.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let length = header("content-length").and_then(|text| text.parse().ok());
    if length != Some(body.len()) {
        // The sender died in the middle, which the client sees.
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let version = header("althing-version");
    let version = version.as_deref().and_then(|v| v.strip_prefix("web/")?.parse().ok());
    let version = version.ok_or_else(|| wrong("no version"))?;
    let text = String::from_utf8(body).map_err(|_| wrong("no text"))?;
    let mark = mark_of(page, &text).ok_or_else(|| wrong("a page that is not whole"))?;
    Ok((version, mark))
}

/// What a page with this mark says. Every line has the mark, the page and its
/// own number; the last one says that it is the last.
pub fn page_of(mark: &str, page: &str, lines: usize) -> String {
    (0..lines)
        .map(|n| format!("{mark} {page} {n} {}\n", if n + 1 == lines { "end" } else { "more" }))
        .collect()
}

fn mark_of(page: &str, text: &str) -> Option<String> {
    let mark = text.split(' ').next()?;
    let lines = text.lines().count();
    (page_of(mark, page, lines) == text).then(|| mark.to_owned())
}

/// One request on a connection of its own: status, head and body.
fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<(u16, String, Vec<u8>)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((status, head, bytes.split_off(at + 4)))
}
