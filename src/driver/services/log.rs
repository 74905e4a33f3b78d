//! What services print: line by line into one file each, rotated by size, and
//! to whoever follows.
//!
//! One thread writes for all services, so a disk that hangs holds up nothing
//! but itself. What waits for it is bounded: a service whose lines the disk
//! does not take is held back by its own pipe for [`PATIENCE`]; from then on
//! lines are lost, and their number is written where they are missing. So a
//! slow moment costs nothing, and a dead disk costs lines and no service. One
//! that prints faster than [`RATE_MAX`] is held back as well.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{Notify, broadcast, oneshot},
    time::{Instant, timeout},
};

use super::{file::LogFile, now};
use crate::base::{AppName, ServiceName, WallTime};

/// The longest line that is kept, bytes; the rest of it is left out.
pub const LINE_MAX: usize = 16 << 10;
/// A file that has grown to this is set aside, bytes.
pub const FILE_MAX: u64 = 10 << 20;
/// How many of those are kept, beside the one that is written.
pub const FILES_KEPT: usize = 3;
/// The most lines that one look back gives.
pub const TAIL_MAX: usize = 10_000;
/// What is taken from one stream of one service, bytes a second.
pub const RATE_MAX: usize = 8 << 20;
/// A service of which this much waits for the disk is held back, bytes.
const QUEUE_FULL: usize = 1 << 20;
/// What may wait of one service at most, bytes: beyond the above what two
/// streams read at once, should it be nothing but ends of lines.
const QUEUE_MAX: usize = QUEUE_FULL + 2 * READ * (LINE_OVERHEAD + 1);
/// How long a service is held back for the disk before it loses lines.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// What a line takes beside its text while it waits, bytes.
const LINE_OVERHEAD: usize = 128;
/// Lines that one who follows may be behind before some are left out.
const FOLLOW_MAX: usize = 256;
/// What is read from a pipe at once, bytes.
const READ: usize = 16 << 10;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// The member: that the service started, how it ended, what is missing.
    Althing,
}

impl Stream {
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Althing => "althing",
        }
    }
}

/// One line of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the member read it.
    pub at: WallTime,
    /// Where it came from.
    pub stream: Stream,
    /// Its text without the end of line. It is the service's: it may hold
    /// anything, also sequences that a terminal obeys.
    pub text: String,
}

impl fmt::Display for LogLine {
    /// The text alone, with control characters escaped: for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars() {
            if c.is_control() && c != '\t' {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// The logs of all services of one member.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    writer: Mutex<Option<mpsc::Sender<Note>>>,
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Note {
    Line(Arc<ServiceLog>, LogLine),
    /// The service is gone: its file is closed.
    Close(PathBuf),
    /// Answered once everything before it is written.
    Settle(oneshot::Sender<()>),
}

/// The log of one service.
#[derive(Debug)]
pub(super) struct ServiceLog {
    path: PathBuf,
    queued: AtomicUsize,
    /// Told when there is room again.
    room: Notify,
    /// Whether the disk had its time and did not make room.
    hangs: AtomicBool,
    lost: AtomicU64,
    follow: broadcast::Sender<LogLine>,
    writer: Option<mpsc::Sender<Note>>,
}

impl Logs {
    /// Logs below `dir`, which is made when the first line is written.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, writer: Mutex::new(None) }
    }

    /// The last lines of a service, oldest first: at most `lines_max` and
    /// [`TAIL_MAX`] of them, across rotated files. None for a service that
    /// has never printed anything. It reads files: not for async code.
    pub fn tail(
        &self,
        app: &AppName,
        service: &ServiceName,
        lines_max: usize,
    ) -> io::Result<Vec<LogLine>> {
        super::file::tail(&path_of(&self.dir, app, service), lines_max.min(TAIL_MAX))
    }

    /// Returns once what was printed so far is written, or could not be.
    pub async fn settled(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(writer) = writer else { return };
        let (answer, answered) = oneshot::channel();
        if writer.send(Note::Settle(answer)).is_ok() {
            // A writer that is gone has written everything.
            let _ = answered.await;
        }
    }

    /// Opens the log of one service. Nothing touches the disk before a line comes.
    pub(super) fn open(&self, app: &AppName, service: &ServiceName) -> Arc<ServiceLog> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            *writer = start_writer();
        }
        Arc::new(ServiceLog {
            path: path_of(&self.dir, app, service),
            queued: AtomicUsize::new(0),
            room: Notify::new(),
            hangs: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            follow: broadcast::Sender::new(FOLLOW_MAX),
            writer: writer.clone(),
        })
    }
}

fn path_of(dir: &Path, app: &AppName, service: &ServiceName) -> PathBuf {
    dir.join(app.as_str()).join(format!("{service}.log"))
}

impl ServiceLog {
    /// Lines from now on. Whoever falls behind by more than [`FOLLOW_MAX`]
    /// is told how many it missed.
    pub(super) fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.follow.subscribe()
    }

    /// A sentence of the member, never left out: there are few of them.
    pub(super) fn remark(self: &Arc<Self>, text: String) {
        self.put(LogLine { at: now(), stream: Stream::Althing, text }, true);
    }

    /// Waits until the disk has taken enough, but not for a disk that hangs.
    async fn wait_for_room(&self) {
        let is_full = || self.queued.load(Relaxed) >= QUEUE_FULL;
        if !is_full() {
            self.hangs.store(false, Relaxed);
            return;
        }
        if self.hangs.load(Relaxed) {
            return;
        }
        let room = async {
            loop {
                let mut told = pin!(self.room.notified());
                // Before looking, so that nothing is missed in between.
                told.as_mut().enable();
                if !is_full() {
                    return;
                }
                told.await;
            }
        };
        if timeout(PATIENCE, room).await.is_err() {
            self.hangs.store(true, Relaxed);
        }
    }

    /// The thread is done with a line.
    fn done(&self, line: &LogLine) {
        let size = line.text.len() + LINE_OVERHEAD;
        let before = self.queued.fetch_sub(size, Relaxed);
        if before >= QUEUE_FULL && before - size < QUEUE_FULL {
            self.room.notify_waiters();
        }
    }

    fn put(self: &Arc<Self>, line: LogLine, always: bool) {
        if self.follow.receiver_count() > 0 {
            // Nobody left to hear it is no failure.
            let _ = self.follow.send(line.clone());
        }
        let size = line.text.len() + LINE_OVERHEAD;
        if !always && self.queued.load(Relaxed) + size > QUEUE_MAX {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        self.queued.fetch_add(size, Relaxed);
        let sent = self.writer.as_ref().map(|w| w.send(Note::Line(self.clone(), line)));
        if !matches!(sent, Some(Ok(()))) {
            self.queued.fetch_sub(size, Relaxed);
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Lines that are missing and not yet said to be.
    #[cfg(test)]
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// The service is gone for good: its file is closed after what waits.
    pub(super) fn close(&self) {
        if let Some(writer) = &self.writer {
            // A writer that is gone has closed everything.
            let _ = writer.send(Note::Close(self.path.clone()));
        }
    }
}

/// Reads one stream of one process until it ends.
pub(super) async fn pump(mut from: impl AsyncRead + Unpin, stream: Stream, log: Arc<ServiceLog>) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ];
    let mut second = (Instant::now(), 0);
    loop {
        log.wait_for_room().await;
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let at = now();
        lines.push(&buffer[..count], |text| log.put(LogLine { at, stream, text }, false));
        second.1 += count;
        if second.0.elapsed() >= Duration::from_secs(1) {
            second = (Instant::now(), 0);
        } else if second.1 > RATE_MAX {
            tokio::time::sleep_until(second.0 + Duration::from_secs(1)).await;
            second = (Instant::now(), 0);
        }
    }
    lines.finish(|text| log.put(LogLine { at: now(), stream, text }, false));
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct Lines {
    part: Vec<u8>,
    /// Bytes of the line under way that are left out.
    over: u64,
}

impl Lines {
    /// Takes bytes as they come; each line that is complete goes to `each`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&bytes[..end]);
            each(self.take());
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// The stream ended: what has no end of line is a line as well.
    pub(super) fn finish(&mut self, mut each: impl FnMut(String)) {
        if !self.part.is_empty() || self.over > 0 {
            each(self.take());
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE_MAX - self.part.len());
        self.part.extend_from_slice(&bytes[..kept]);
        self.over += (bytes.len() - kept) as u64;
    }

    fn take(&mut self) -> String {
        let part = std::mem::take(&mut self.part);
        let over = std::mem::take(&mut self.over);
        let text = String::from_utf8_lossy(part.strip_suffix(b"\r").unwrap_or(&part));
        if over == 0 { text.into_owned() } else { format!("{text} [{over} bytes more]") }
    }
}

/// Starts the thread; without it lines are counted as lost.
fn start_writer() -> Option<mpsc::Sender<Note>> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("althing-logs".into());
    match thread.spawn(move || write(&receiver)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!("no thread can be started for logs of services, they are lost: {error}");
            None
        }
    }
}

/// The thread: writes what comes, and flushes whenever nothing waits.
fn write(notes: &mpsc::Receiver<Note>) {
    let mut files: BTreeMap<PathBuf, LogFile> = BTreeMap::new();
    while let Ok(first) = notes.recv() {
        let mut note = Some(first);
        while let Some(this) = note {
            match this {
                Note::Line(log, line) => put(&mut files, &log, &line),
                Note::Close(path) => drop(files.remove(&path)),
                Note::Settle(answer) => {
                    files.values_mut().for_each(LogFile::flush);
                    // Nobody waits any more.
                    let _ = answer.send(());
                }
            }
            note = notes.try_recv().ok();
        }
        files.values_mut().for_each(LogFile::flush);
    }
}

fn put(files: &mut BTreeMap<PathBuf, LogFile>, log: &ServiceLog, line: &LogLine) {
    let file = files
        .entry(log.path.clone())
        .or_insert_with(|| LogFile::new(log.path.clone(), FILE_MAX, FILES_KEPT));
    let lost = log.lost.swap(0, Relaxed);
    if lost > 0 {
        let text = format!("{lost} lines are missing here: the disk did not take them in time");
        file.put(&LogLine { at: line.at, stream: Stream::Althing, text });
    }
    file.put(line);
    log.lost.fetch_add(file.lost(), Relaxed);
    log.done(line);
}
