//! Bytes from one socket to another without passing through this process: splice(2)
//! through a pipe. A pipe is held while there are bytes in it, and otherwise kept for the
//! next one that needs one.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

/// Empty pipes that a thread keeps.
const KEPT_MAX: usize = 16;
/// Bytes asked for at once; a pipe holds 64 KiB where nobody made it larger.
const PIECE: usize = 1 << 20;

thread_local! {
    static KEPT: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe with some bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    holds: usize,
}

/// What came of an attempt to fill one.
#[derive(Debug)]
pub(super) enum Filled {
    Pipe(Pipe),
    /// Nothing more comes.
    End,
    /// The sockets, or this process, can't.
    Refused,
}

impl Pipe {
    /// Moves what waits in `from` into a pipe; would block where nothing waits.
    pub(super) fn fill(from: &TcpStream) -> io::Result<Filled> {
        let kept = KEPT.with_borrow_mut(Vec::pop);
        let made = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        // Out of descriptors: copying needs none.
        let Ok((out, into)) = kept.map_or_else(made, Ok) else { return Ok(Filled::Refused) };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let mut refused = false;
        let moved = from.try_io(Interest::READABLE, || {
            match splice(from, None, &into, None, PIECE, flags) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    refused = true;
                    Ok(0)
                }
                moved => Ok(moved?),
            }
        });
        let pipe = Self { out, into, holds: *moved.as_ref().unwrap_or(&0) };
        match moved {
            Ok(0) => pipe.keep(),
            Ok(_) => return Ok(Filled::Pipe(pipe)),
            Err(error) => {
                pipe.keep();
                return Err(error);
            }
        }
        Ok(if refused { Filled::Refused } else { Filled::End })
    }

    /// Bytes that it holds.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves what `to` takes of it, and says how much; would block where it takes nothing.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = to.try_io(Interest::WRITABLE, || {
            Ok(splice(&self.out, None, to, None, self.holds, flags)?)
        })?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.holds = self.holds.saturating_sub(moved);
        Ok(moved)
    }

    /// Gives it back. One that is not empty is of no use to others.
    pub(super) fn keep(self) {
        let Self { out, into, holds } = self;
        KEPT.with_borrow_mut(|kept| {
            if holds == 0 && kept.len() < KEPT_MAX {
                kept.push((out, into));
            }
        });
    }
}
