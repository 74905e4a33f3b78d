//! The access log: one line for each request, at its end.
//!
//! Requests never wait for it. A line is put into a buffer of bounded size, and a thread
//! writes that out, a good many lines at once; where it does not keep up, or the disk takes
//! nothing, lines are left out and counted. Where no log is asked for, nothing here runs.
//!
//! The file is opened anew once it is no longer the one that its path names, so that it can
//! be moved away at any time without a word to anybody.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

mod line;
mod record;
#[cfg(test)]
mod tests;

pub use line::Format;
pub(super) use record::{Counted, Record};

/// What waits to be written at the most, bytes; as much again may be on its way to the disk.
const WAITING_MAX: usize = 4 << 20;
/// Between two writes, so that one is of many lines; a line is written that soon.
const PAUSE: Duration = Duration::from_millis(50);
/// That lines are left out is told once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Its group may read it, nobody else: it says who asked for what.
const MODE: u32 = 0o640;

/// Where lines go.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    format: RwLock<Format>,
    waiting: Mutex<Waiting>,
    /// There is something to do for the thread.
    stirred: Condvar,
    dropped: AtomicU64,
    trouble: Mutex<Option<String>>,
    tell: OnceLock<Box<dyn Fn(LogEvent) + Send + Sync>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Where lines go from now on, if that is to be another place.
    next: Option<Box<dyn Sink>>,
    reopen: bool,
    closed: bool,
}

impl Waiting {
    /// Whether the place that lines go to is to be looked at, whether or not any wait.
    fn is_told(&self) -> bool {
        self.reopen || self.next.is_some()
    }
}

/// Something happened to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// It can't be written: why, and what to do.
    Failed(String),
    /// It can again; so many lines were left out since the start.
    Again(u64),
    /// Requests end faster than it is written; so many lines were left out since the start.
    Behind(u64),
}

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::Again(dropped) => write!(
                f,
                "the access log is written again; {dropped} lines were left out since the start"
            ),
            Self::Behind(dropped) => write!(
                f,
                "requests end faster than the access log is written: {dropped} lines were left \
                 out since the start; put it on a faster disk"
            ),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("format", &self.format()).finish_non_exhaustive()
    }
}

impl Log {
    /// A log at `path`, which is begun or gone on with; of standard output if there is none.
    ///
    /// # Errors
    /// Where the file can't be opened, or no thread be started.
    pub fn open(path: Option<&Path>, format: Format) -> io::Result<Self> {
        let to = open_sink(path)?;
        let log = Self::without_thread(format);
        let inner = log.0.clone();
        let thread = std::thread::Builder::new().name("althing-access".to_owned());
        *locked(&log.0.thread) = Some(thread.spawn(move || inner.write(to))?);
        Ok(log)
    }

    fn without_thread(format: Format) -> Self {
        Self(Arc::new(Inner {
            format: RwLock::new(format),
            waiting: Mutex::default(),
            stirred: Condvar::new(),
            dropped: AtomicU64::new(0),
            trouble: Mutex::default(),
            tell: OnceLock::new(),
            thread: Mutex::default(),
        }))
    }

    /// What happens from now on is told to `tell`, which must not block. The first one who
    /// asks is told.
    pub fn tell(&self, tell: impl Fn(LogEvent) + Send + Sync + 'static) {
        // It is asked for once, when a member starts.
        let _told_already = self.0.tell.set(Box::new(tell));
    }

    /// Opens the file anew, whether or not it was moved.
    pub fn reopen(&self) {
        locked(&self.0.waiting).reopen = true;
        self.0.stirred.notify_one();
    }

    /// From now on lines go to `path`, or to standard output if there is none, and are written
    /// in this format. The few that wait at this moment go to where they went before.
    ///
    /// # Errors
    /// Where the file can't be opened. Nothing has changed then.
    pub fn change(&self, path: Option<&Path>, format: Format) -> io::Result<()> {
        let next = open_sink(path)?;
        locked(&self.0.waiting).next = Some(next);
        *self.0.format.write().unwrap_or_else(PoisonError::into_inner) = format;
        self.0.stirred.notify_one();
        Ok(())
    }

    /// How lines are written.
    fn format(&self) -> Format {
        *self.0.format.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits and ends. What comes later is left out. Blocks until it is done.
    pub fn close(&self) {
        locked(&self.0.waiting).closed = true;
        self.0.stirred.notify_one();
        let thread = locked(&self.0.thread).take();
        if let Some(thread) = thread {
            // A panic in there has been told of.
            let _ended = thread.join();
        }
    }

    /// Lines that were left out.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Why it can't be written, while it can't: a sentence without its point.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.0.trouble).clone()
    }

    /// Takes one line. Never waits for the disk.
    fn put(&self, line: &[u8]) {
        let mut waiting = locked(&self.0.waiting);
        if waiting.closed || waiting.bytes.len() + line.len() > WAITING_MAX {
            drop(waiting);
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        let before = waiting.bytes.len();
        waiting.bytes.extend_from_slice(line);
        let half = WAITING_MAX / 2;
        let stirs = before == 0 || (before < half && waiting.bytes.len() >= half);
        drop(waiting);
        if stirs {
            self.0.stirred.notify_one();
        }
    }
}

impl Inner {
    /// The thread.
    fn write(&self, mut to: Box<dyn Sink>) {
        let mut lines = Vec::new();
        let mut behind = Behind::default();
        loop {
            let Some((reopen, next)) = self.next(&mut lines) else { return };
            let done = to.put(&lines, reopen);
            if let Err(failed) = &done {
                let lost = lines.get(failed.written..).unwrap_or_default();
                self.dropped.fetch_add(newlines(lost), Relaxed);
                behind.counted += newlines(lost);
            }
            self.settle(done.err().map(|failed| failed.to_string()));
            if let Some(dropped) = behind.look(self.dropped.load(Relaxed), Instant::now()) {
                self.happened(LogEvent::Behind(dropped));
            }
            lines.clear();
            if let Some(next) = next {
                to = next;
            }
        }
    }

    /// Waits for lines and takes them all. Whether the file is to be opened anew, and where what
    /// comes after them goes, if that is elsewhere; none at the end.
    fn next(&self, lines: &mut Vec<u8>) -> Option<(bool, Option<Box<dyn Sink>>)> {
        let mut waiting = locked(&self.waiting);
        // A moment first, in which more may come.
        let calm = |waiting: &mut Waiting| {
            !waiting.closed && !waiting.is_told() && waiting.bytes.len() < WAITING_MAX / 2
        };
        let waited = self.stirred.wait_timeout_while(waiting, PAUSE, calm);
        waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        let idle = |waiting: &mut Waiting| {
            !waiting.closed && !waiting.is_told() && waiting.bytes.is_empty()
        };
        let waited = self.stirred.wait_while(waiting, idle);
        waiting = waited.unwrap_or_else(PoisonError::into_inner);
        let (reopen, next) = (std::mem::take(&mut waiting.reopen), waiting.next.take());
        if waiting.closed && waiting.bytes.is_empty() {
            return None;
        }
        std::mem::swap(&mut waiting.bytes, lines);
        Some((reopen, next))
    }

    /// Tells what is new.
    fn settle(&self, trouble: Option<String>) {
        let before = std::mem::replace(&mut *locked(&self.trouble), trouble.clone());
        match (before, trouble) {
            (None, Some(why)) => self.happened(LogEvent::Failed(why)),
            (Some(_), None) => self.happened(LogEvent::Again(self.dropped.load(Relaxed))),
            // That it fails in another way is no news.
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn happened(&self, event: LogEvent) {
        match self.tell.get() {
            Some(tell) => tell(event),
            None => tracing::warn!("{event}"),
        }
    }
}

/// When it was told last that lines are left out because they come too fast.
#[derive(Default)]
struct Behind {
    /// Those that are told of, or were left out for another reason.
    counted: u64,
    told: Option<Instant>,
}

impl Behind {
    /// How many, if that is to be told.
    fn look(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        if dropped == self.counted || !is_due {
            return None;
        }
        (self.counted, self.told) = (dropped, Some(now));
        Some(dropped)
    }
}

/// Lines were not all written.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}; {todo}")]
struct Failed {
    what: String,
    error: io::Error,
    todo: &'static str,
    /// Of the bytes that were to be.
    written: usize,
}

trait Sink: Send {
    /// Writes `lines`, as far as it can.
    fn put(&mut self, lines: &[u8], reopen: bool) -> Result<(), Failed>;
}

/// The file at `path`, begun or gone on with; standard output if there is none.
fn open_sink(path: Option<&Path>) -> io::Result<Box<dyn Sink>> {
    Ok(match path {
        Some(path) => Box::new(LogFile::open(path)?),
        None => Box::new(Stdout),
    })
}

struct Stdout;

impl Sink for Stdout {
    fn put(&mut self, lines: &[u8], _reopen: bool) -> Result<(), Failed> {
        let mut out = io::stdout().lock();
        out.write_all(lines).and_then(|()| out.flush()).map_err(|error| Failed {
            what: "the access log can't be written to standard output".to_owned(),
            error,
            todo: "lines are left out until whoever reads it does so again",
            written: 0,
        })
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    id: (u64, u64),
    /// The last line in it has no end.
    torn: bool,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let meta = file.metadata()?;
        Ok(Self { path: path.to_owned(), file, id: (meta.dev(), meta.ino()), torn: false })
    }

    fn is_moved(&self) -> bool {
        !std::fs::metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id)
    }

    /// As much of `bytes` as the disk takes.
    fn append(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
            self.torn = bytes[written - 1] != b'\n';
        }
        (written, Ok(()))
    }
}

impl Sink for LogFile {
    fn put(&mut self, lines: &[u8], reopen: bool) -> Result<(), Failed> {
        let shown = self.path.display().to_string();
        let mut anew = Ok(());
        if reopen || self.is_moved() {
            match Self::open(&self.path.clone()) {
                Ok(next) => *self = next,
                Err(error) => anew = Err(error),
            }
        }
        let (mut written, mut result) = (0, Ok(()));
        if self.torn && !lines.is_empty() {
            // So that the next line is whole.
            result = self.append(b"\n").1;
        }
        if result.is_ok() {
            (written, result) = self.append(lines);
        }
        result.map_err(|error| Failed {
            what: format!("the access log {shown} can't be written"),
            error,
            todo: "lines are left out until there is room, or the cause is mended",
            written,
        })?;
        anew.map_err(|error| Failed {
            what: format!("the access log {shown} can't be opened anew"),
            error,
            todo: "lines go on into the file that was there before; see that this user may write there",
            written,
        })
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
