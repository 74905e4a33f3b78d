//! A connection on its way: bytes both ways until both sides have ended, each by itself
//! (half-close, RFC 9293 section 3.6). What one side does not take the other is not read
//! for, so nothing piles up; a connection on which nothing moves holds neither buffer nor
//! pipe.
//!
//! Small pieces are copied; where they are large, and both sides are sockets, they are
//! spliced. That is decided anew as a connection goes on, since for small ones two more
//! system calls cost more than the copy.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep_until},
};

use super::pipe::{Filled, Pipe};

/// Bytes copied at once.
const PIECE: usize = 64 << 10;
/// A piece of this size is a large one.
const LARGE: usize = 16 << 10;
/// So many large ones in a row are spliced from then on, and as many small ones copied.
const IN_A_ROW: u8 = 2;
/// How long nothing may move once one of the two takes nothing more.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Bytes moved one way before others have their turn.
const TURN: usize = 1 << 20;

thread_local! {
    /// Used between two waits and never over one.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// How a connection ended.
#[derive(Debug)]
pub(in crate::gateway) enum Ended {
    /// Both sides have said all.
    Both,
    /// Nothing came for too long.
    Idle,
    /// It broke: the other side is not to take it for an end.
    Cut(io::Error),
}

/// What became of a connection.
#[derive(Debug)]
pub(in crate::gateway) struct Relayed {
    pub ended: Ended,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to it.
    pub down: u64,
}

/// What came too early for the one whom it is for.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Early {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
}

/// The sockets behind both, where they can be spliced.
type Sockets<R, W> = for<'a> fn(&'a R, &'a W) -> Option<(&'a TcpStream, &'a TcpStream)>;

/// Between two sockets.
pub(super) async fn sockets(
    client: &mut TcpStream,
    program: &mut TcpStream,
    idle: Duration,
) -> Relayed {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_program, mut to_program) = program.split();
    let both_of: Sockets<ReadHalf<'_>, WriteHalf<'_>> =
        |from, to| Some((from.as_ref(), to.as_ref()));
    relayed(Early::default(), idle, |up, down, cx| {
        let went = up.on(cx, &mut from_client, &mut to_program, both_of);
        (went, down.on(cx, &mut from_program, &mut to_client, both_of))
    })
    .await
}

/// Between a client and any other stream.
pub(in crate::gateway) async fn streams<A, B>(
    client: &mut A,
    other: &mut B,
    early: Early,
    idle: Duration,
) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    // One task polls both ways, so each side is lent to one after the other.
    relayed(early, idle, |up, down, cx| {
        (up.on(cx, client, other, |_, _| None), down.on(cx, other, client, |_, _| None))
    })
    .await
}

type Went = Poll<io::Result<()>>;

async fn relayed(
    early: Early,
    mut idle: Duration,
    mut next: impl FnMut(&mut Way, &mut Way, &mut Context<'_>) -> (Went, Went),
) -> Relayed {
    let (mut up, mut down) = (Way::with(early.up), Way::with(early.down));
    let mut last = Instant::now();
    let mut timer = pin!(sleep_until(last + idle));
    let ended = poll_fn(|cx| {
        let before = up.bytes + down.bytes;
        let went = next(&mut up, &mut down, cx);
        if up.bytes + down.bytes != before {
            last = Instant::now();
        }
        if idle > AFTER_FAILURE && (up.failed.is_some() || down.failed.is_some()) {
            // What the other side still has to say may be held up by this one for ever.
            idle = AFTER_FAILURE;
            timer.as_mut().reset(last + idle);
        }
        match went {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(Ended::Cut(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                let failed = up.failed.take().or_else(|| down.failed.take());
                return Poll::Ready(failed.map_or(Ended::Both, Ended::Cut));
            }
            _ => {}
        }
        // Set anew when it fires, and not at each byte.
        while timer.as_mut().poll(cx).is_ready() {
            if last.elapsed() >= idle {
                return Poll::Ready(Ended::Idle);
            }
            timer.as_mut().reset(last + idle);
        }
        Poll::Pending
    })
    .await;
    Relayed { ended, up: up.bytes, down: down.bytes }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and not taken yet: here, from `taken` on, or in a pipe.
    rest: Vec<u8>,
    taken: usize,
    pipe: Option<Pipe>,
    splices: bool,
    can_not_splice: bool,
    /// Pieces in a row that speak for the other of the two.
    row: u8,
    read_all: bool,
    over: bool,
    /// What was taken may still wait there, as it does where it is encrypted first.
    unflushed: bool,
    /// Whoever is to take it does not. What that one still has to say is brought first.
    failed: Option<io::Error>,
    bytes: u64,
}

impl Way {
    fn with(rest: Vec<u8>) -> Self {
        Self { rest, ..Self::default() }
    }

    /// Brings on what it can, until all is said. An error is one of reading: whoever sent
    /// has broken off.
    fn on<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        sockets: Sockets<R, W>,
    ) -> Went
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let until = self.bytes + TURN as u64;
        while !self.over {
            if self.bytes >= until {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let (Some(pipe), Some((_, to))) = (&mut self.pipe, sockets(from, to)) {
                match ready!(drain(cx, pipe, to)) {
                    Ok(moved) => self.bytes += moved as u64,
                    Err(error) => self.give_up(error),
                }
                if let Some(pipe) = self.pipe.take_if(|pipe| pipe.holds() == 0) {
                    pipe.keep();
                }
            } else if self.taken < self.rest.len() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.taken..])) {
                    Ok(0) => self.give_up(io::ErrorKind::WriteZero.into()),
                    Ok(moved) => self.took(moved),
                    Err(error) => self.give_up(error),
                }
            } else if self.read_all {
                match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    Ok(()) => self.over = true,
                    Err(error) => self.give_up(error),
                }
            } else if self.splices
                && let Some((from, _)) = sockets(from, to)
            {
                match ready!(fill(cx, from))? {
                    Filled::Pipe(pipe) => {
                        self.weigh(pipe.holds());
                        self.pipe = Some(pipe);
                    }
                    Filled::End => self.read_all = true,
                    Filled::Refused => (self.splices, self.can_not_splice) = (false, true),
                }
            } else {
                ready!(self.copy(cx, from, to))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a piece, and passes on at once what is taken of it.
    fn copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Went
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            if Pin::new(from).poll_read(cx, &mut read)?.is_pending() {
                return self.flush(cx, to);
            }
            let piece = read.filled();
            if piece.is_empty() {
                self.read_all = true;
                return Poll::Ready(Ok(()));
            }
            self.weigh(piece.len());
            let taken = match Pin::new(to).poll_write(cx, piece) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(error)) => {
                    self.give_up(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => 0,
            };
            self.bytes += taken as u64;
            self.unflushed = true;
            self.rest.extend_from_slice(&piece[taken..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Sees to it that what was taken is on its way, since nothing follows for now.
    fn flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Went {
        if self.unflushed {
            match ready!(Pin::new(to).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => {
                    self.give_up(error);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Pending
    }

    /// Whether what follows is copied or spliced, by the size of what came.
    fn weigh(&mut self, came: usize) {
        let is_large = came >= LARGE;
        self.row = if is_large == self.splices { 0 } else { self.row + 1 };
        if self.row >= IN_A_ROW {
            (self.splices, self.row) = (is_large && !self.can_not_splice, 0);
        }
    }

    fn took(&mut self, moved: usize) {
        self.bytes += moved as u64;
        self.unflushed = true;
        self.taken += moved;
        if self.taken >= self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
    }

    fn give_up(&mut self, error: io::Error) {
        (self.rest, self.taken, self.pipe) = (Vec::new(), 0, None);
        (self.failed, self.over) = (Some(error), true);
    }
}

fn fill(cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Filled>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        match Pipe::fill(from) {
            Err(error) if is_nothing(&error) => {}
            filled => return Poll::Ready(filled),
        }
    }
}

fn drain(cx: &mut Context<'_>, pipe: &mut Pipe, to: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match pipe.drain(to) {
            Err(error) if is_nothing(&error) => {}
            drained => return Poll::Ready(drained),
        }
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
