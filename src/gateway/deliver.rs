//! Sends an [`Answer`]: finds the bytes that it names, then writes head and
//! body. The bytes are found before the head leaves where that is possible,
//! so that a broken disk gives a plain 503 and not half a response.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    Site, Stats,
    access::Counted,
    answer::{self, Answer, Body, FileRef},
    encoding::{self, Cache},
    transport::{Broken, Transport, blocking},
};
use crate::base::{
    Digest,
    tree::{Chunk, Node},
};

/// Files up to this size, bytes, are read whole, checked against their digest
/// and sent in one write with their head.
pub(super) const INLINE_MAX: u64 = 64 << 10;

/// How the response is to be framed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framing {
    /// The request was a HEAD.
    pub(super) head_only: bool,
    /// Whether the connection may stay open.
    pub(super) keep_alive: bool,
    /// Of the request: 1.0 must be told that the connection stays open.
    pub(super) minor: u8,
    /// How long the client is to come by TLS alone, if it is told.
    pub(super) hsts: Option<Duration>,
}

impl Framing {
    /// For what is said before a request is understood.
    pub(super) const CLOSING: Self =
        Self { head_only: false, keep_alive: false, minor: 1, hsts: None };
}

/// The line by which a client is told to come by TLS alone (RFC 6797), and its value.
pub(super) fn hsts_line(span: Duration) -> (&'static str, String) {
    ("Strict-Transport-Security", format!("max-age={}", span.as_secs()))
}

/// Sends `answer`, from `site` if it names a file. Says whether the connection
/// stays open.
pub(super) async fn deliver<T: Transport>(
    to: &mut T,
    framing: Framing,
    mut answer: Answer,
    site: Option<&Arc<dyn Site>>,
    stats: &Counted<'_>,
) -> Result<bool, Broken> {
    let body = std::mem::replace(&mut answer.body, Body::None);
    let ready = match prepare(body, site, framing.head_only, stats).await {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(%error, "the content of a file can't be read; the visitor is sent away");
            stats.error();
            answer = Answer::unavailable(503, "This file is being repaired. Please try again.");
            match std::mem::replace(&mut answer.body, Body::None) {
                Body::Page(page) => Ready::bytes(page.into()),
                _ => Ready::bytes(Bytes::new()),
            }
        }
    };
    let keep_alive = framing.keep_alive && !answer.close;
    let mut head = Head::new(answer.status);
    for (name, value) in &answer.headers {
        head.line(name, value);
    }
    if let Some((name, value)) = framing.hsts.map(hsts_line) {
        head.line(name, &value);
    }
    if let Some(length) = ready.length {
        head.line("Content-Length", &length.to_string());
    }
    let mut head = head.finish(keep_alive, framing.minor);
    stats.response(answer.status);
    let length = ready.length.unwrap_or(0);
    if framing.head_only || length == 0 {
        to.write(&head, false).await?;
        return Ok(keep_alive);
    }
    match ready.source {
        Source::Bytes(bytes) if bytes.len() as u64 <= INLINE_MAX => {
            head.extend_from_slice(&bytes);
            to.write(&head, false).await?;
        }
        Source::Bytes(bytes) => {
            to.write(&head, true).await?;
            to.write(&bytes, false).await?;
        }
        Source::Live { file, start } => {
            to.write(&head, true).await?;
            to.send_file(file, start, length, stats.going()).await?;
        }
        Source::Chunks { site, first, rest } => {
            to.write(&head, true).await?;
            to.write(&first, !rest.is_empty()).await?;
            stats.went(first.len() as u64);
            send_chunks(to, site, rest, stats.going()).await?;
        }
    }
    stats.went(length);
    stats.sent(length);
    Ok(keep_alive)
}

/// A body that is there, or about to be.
struct Ready {
    /// Nothing for 304, and for a HEAD that would have to compress to know.
    length: Option<u64>,
    source: Source,
}

enum Source {
    Bytes(Bytes),
    Live { file: Arc<File>, start: u64 },
    Chunks { site: Arc<dyn Site>, first: Bytes, rest: Vec<Piece> },
}

impl Ready {
    fn bytes(bytes: Bytes) -> Self {
        Self { length: Some(bytes.len() as u64), source: Source::Bytes(bytes) }
    }

    fn nothing(length: Option<u64>) -> Self {
        Self { length, source: Source::Bytes(Bytes::new()) }
    }
}

async fn prepare(
    body: Body,
    site: Option<&Arc<dyn Site>>,
    head_only: bool,
    stats: &Stats,
) -> io::Result<Ready> {
    let nowhere = || io::Error::other("a file without a site");
    match body {
        Body::None => Ok(Ready::nothing(None)),
        Body::Page(page) => Ok(Ready::bytes(page.into())),
        Body::File { len, .. } if head_only => Ok(Ready::nothing(Some(len))),
        Body::File { file, start, len } => {
            let site = site.ok_or_else(nowhere)?;
            if file.size <= INLINE_MAX {
                let whole = small(site, file, stats).await?;
                // `start + len` is within the size, which `small` has checked.
                return Ok(Ready::bytes(whole.slice(start as usize..(start + len) as usize)));
            }
            let source = match live(site.as_ref(), &file) {
                Some(live) => Source::Live { file: Arc::new(live), start },
                None => {
                    stats.took_chunks();
                    from_chunks(site, &file, start, len).await?
                }
            };
            Ok(Ready { length: Some(len), source })
        }
        Body::Gzip(file) => {
            let cache = Cache::shared();
            if let Some(kept) = cache.body(&file.digest) {
                return Ok(Ready::bytes(kept));
            }
            if head_only {
                return Ok(Ready::nothing(None));
            }
            let site = site.ok_or_else(nowhere)?;
            compressed(cache, site, file, stats).await.map(Ready::bytes)
        }
    }
}

/// The live file, if it has the size that it should have.
fn live(site: &dyn Site, file: &FileRef) -> Option<File> {
    let live = site.open(&file.path)?;
    let meta = live.metadata().ok()?;
    (meta.is_file() && meta.len() == file.size).then_some(live)
}

/// The live file's bytes, if they are exactly those of the tree. Only for files
/// up to [`INLINE_MAX`] on the event loop; up to [`encoding::SIZE_MAX`] off it.
fn verified(site: &dyn Site, file: &FileRef) -> Option<Vec<u8>> {
    let live = live(site, file)?;
    let mut bytes = vec![0; file.size as usize];
    live.read_exact_at(&mut bytes, 0).ok()?;
    let same = Digest::of_bytes(&bytes) == file.digest;
    same.then_some(bytes)
}

/// All bytes of a small file.
async fn small(site: &Arc<dyn Site>, file: FileRef, stats: &Stats) -> io::Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    if let Some(bytes) = verified(site.as_ref(), &file) {
        return Ok(bytes.into());
    }
    stats.took_chunks();
    let site = site.clone();
    blocking(move || joined(site.as_ref(), &file)).await.map(Bytes::from)
}

/// The gzip form of a file: made once, from bytes whose digest was checked,
/// since what is kept is found again by that digest alone.
async fn compressed(
    cache: &'static Cache,
    site: &Arc<dyn Site>,
    file: FileRef,
    stats: &Stats,
) -> io::Result<Bytes> {
    let _turn = cache.turns.acquire().await.map_err(io::Error::other)?;
    // Whoever had the turn before may have made it.
    if let Some(kept) = cache.body(&file.digest) {
        return Ok(kept);
    }
    let (site, digest) = (site.clone(), file.digest);
    let (packed, live) = blocking(move || {
        let live = verified(site.as_ref(), &file);
        let was_live = live.is_some();
        let bytes = match live {
            Some(bytes) => bytes,
            None => joined(site.as_ref(), &file)?,
        };
        Ok((encoding::compress(&bytes)?, was_live))
    })
    .await?;
    if !live {
        stats.took_chunks();
    }
    let packed = Bytes::from(packed);
    cache.keep(digest, packed.clone());
    Ok(packed)
}

/// All chunks of a file joined and checked. May block.
fn joined(site: &dyn Site, file: &FileRef) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(file.size as usize);
    for chunk in chunks(site, file)? {
        bytes.extend_from_slice(&exact(site, chunk)?);
    }
    if bytes.len() as u64 != file.size || Digest::of_bytes(&bytes) != file.digest {
        return Err(other("chunks that don't make up their file"));
    }
    Ok(bytes)
}

fn chunks<'a>(site: &'a dyn Site, file: &FileRef) -> io::Result<&'a [Chunk]> {
    match site.tree().get(&file.path) {
        Some(Node::File { chunks, .. }) => Ok(chunks),
        _ => Err(other("a file that is not in its tree")),
    }
}

fn exact(site: &dyn Site, chunk: &Chunk) -> io::Result<Vec<u8>> {
    let bytes = site.chunk(chunk)?;
    if bytes.len() != chunk.len as usize {
        return Err(other("a chunk of another length than its own"));
    }
    Ok(bytes)
}

fn other(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the content store gave {what}"))
}

/// A part of a chunk.
#[derive(Clone, Copy)]
struct Piece {
    chunk: Chunk,
    start: usize,
    end: usize,
}

impl Piece {
    async fn read(self, site: &Arc<dyn Site>) -> io::Result<Bytes> {
        let site = site.clone();
        let whole = blocking(move || exact(site.as_ref(), &self.chunk)).await?;
        Ok(Bytes::from(whole).slice(self.start..self.end))
    }
}

/// The pieces that make up `len` bytes from `start`, the first one read.
async fn from_chunks(
    site: &Arc<dyn Site>,
    file: &FileRef,
    start: u64,
    len: u64,
) -> io::Result<Source> {
    let (mut at, end) = (0_u64, start + len);
    let mut pieces = Vec::new();
    for chunk in chunks(site.as_ref(), file)? {
        let (from, to) = (at.max(start), (at + u64::from(chunk.len)).min(end));
        if from < to {
            let (start, end) = ((from - at) as usize, (to - at) as usize);
            pieces.push(Piece { chunk: *chunk, start, end });
        }
        at += u64::from(chunk.len);
    }
    let covered: u64 = pieces.iter().map(|p| (p.end - p.start) as u64).sum();
    if covered != len {
        return Err(other("chunks that don't make up their file"));
    }
    let mut rest = pieces.into_iter();
    let first = match rest.next() {
        Some(piece) => piece.read(site).await?,
        None => Bytes::new(),
    };
    Ok(Source::Chunks { site: site.clone(), first, rest: rest.collect() })
}

/// One chunk after the other, so that one response holds one in memory.
async fn send_chunks<T: Transport>(
    to: &mut T,
    site: Arc<dyn Site>,
    pieces: Vec<Piece>,
    sent: &AtomicU64,
) -> Result<(), Broken> {
    let count = pieces.len();
    for (nr, piece) in pieces.into_iter().enumerate() {
        let bytes = piece.read(&site).await.map_err(Broken::Content)?;
        to.write(&bytes, nr + 1 < count).await?;
        sent.fetch_add(bytes.len() as u64, Relaxed);
    }
    Ok(())
}

/// A response head under construction. Values come from this crate or were
/// checked to hold no line end.
pub(super) struct Head(Vec<u8>);

impl Head {
    pub(super) fn new(status: u16) -> Self {
        let mut bytes = Vec::with_capacity(512);
        let reason = answer::reason(status);
        bytes.extend_from_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
        Self(bytes)
    }

    pub(super) fn line(&mut self, name: &str, value: &str) {
        debug_assert!(!value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{name}");
        for part in [name, ": ", value, "\r\n"] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// The lines that every response has, and the end of the head.
    pub(super) fn finish(mut self, keep_alive: bool, minor: u8) -> Vec<u8> {
        self.line("Server", "althing");
        self.line("X-Content-Type-Options", "nosniff");
        with_date(|date| self.line("Date", date));
        match (keep_alive, minor) {
            (false, _) => self.line("Connection", "close"),
            (true, 0) => self.line("Connection", "keep-alive"),
            (true, _) => {}
        }
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

/// The date as HTTP writes it, made once a second on each thread.
pub(super) fn with_date(use_it: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(of, text)| {
        if *of != second {
            *of = second;
            *text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        }
        use_it(text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_what_every_response_has() {
        let mut head = Head::new(404);
        head.line("X", "y");
        let text = String::from_utf8(head.finish(false, 1)).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\nX: y\r\nServer: althing\r\n"));
        assert!(text.ends_with(" GMT\r\nConnection: close\r\n\r\n"), "{text}");
        let text = String::from_utf8(Head::new(200).finish(true, 0)).unwrap();
        assert!(text.ends_with("\r\nConnection: keep-alive\r\n\r\n"));
        let text = String::from_utf8(Head::new(200).finish(true, 1)).unwrap();
        assert!(!text.contains("Connection"));
    }
}
