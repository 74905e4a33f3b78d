//! Frames on the wire, bounded by their kind before anything is allocated, and
//! the clock that ends a session in which nothing moves.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    time::{Instant, sleep_until},
};

use super::{TransferError, patch};
use crate::base::{
    limits,
    wire::{self, Kind},
};

pub(super) async fn write(
    send: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    activity: &Activity,
) -> Result<(), TransferError> {
    while !bytes.is_empty() {
        match activity.guard(send.write(bytes)).await? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// What a frame is; the first byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    AskListing = 1,
    AskChunks = 2,
    Listing = 3,
    NoListing = 4,
    Updates = 5,
    /// The first word of who fetches from many, and the answer.
    Join = 6,
    Standing = 7,
    /// A requester tells what it has got from others.
    Gained = 8,
    AskHandOut = 9,
    HandedOut = 10,
    /// What a tree differs in from one that the requester has, and the answer.
    AskChanges = 11,
    Changes = 12,
    /// What makes chunks out of others that both sides have, and the answer.
    AskPatches = 13,
    Patches = 14,
}

impl Tag {
    fn parse(byte: u8) -> Option<Self> {
        let all = [
            Self::AskListing,
            Self::AskChunks,
            Self::Listing,
            Self::NoListing,
            Self::Updates,
            Self::Join,
            Self::Standing,
            Self::Gained,
            Self::AskHandOut,
            Self::HandedOut,
            Self::AskChanges,
            Self::Changes,
            Self::AskPatches,
            Self::Patches,
        ];
        all.into_iter().find(|tag| *tag as u8 == byte)
    }

    /// The longest frame of this kind, bytes.
    pub(super) const fn size_max(self) -> usize {
        match self {
            Self::AskListing | Self::Standing | Self::AskHandOut => 64,
            Self::AskChunks | Self::Updates | Self::Gained | Self::HandedOut | Self::AskPatches => {
                limits::ACTION_LIST_MAX
            }
            Self::Join => limits::BITS_MAX + 128,
            Self::Listing => limits::TREE_MAX,
            Self::NoListing => 0,
            Self::AskChanges => 64 + 32 * limits::BASES_MAX,
            Self::Changes => limits::CHANGES_MAX,
            Self::Patches => patch::ANSWER_MAX,
        }
    }
}

pub(super) fn frame(tag: Tag, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= tag.size_max(), "lists are bounded before they are built");
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(tag as u8);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The receiving half of a session.
pub(super) struct Wire<'a, R> {
    recv: BufReader<R>,
    activity: &'a Activity,
}

impl<'a, R: AsyncRead + Unpin> Wire<'a, R> {
    pub(super) fn new(recv: R, activity: &'a Activity) -> Self {
        Self { recv: BufReader::with_capacity(64 << 10, recv), activity }
    }

    /// The next frame; `None` if the other side ended the session.
    pub(super) async fn frame(&mut self) -> Result<Option<(Tag, Vec<u8>)>, TransferError> {
        let mut head = [0; 5];
        let first = self.activity.guard(self.recv.read(&mut head[..1])).await?;
        if first == 0 {
            return Ok(None);
        }
        let tag = Tag::parse(head[0])
            .ok_or_else(|| TransferError::Garbled(format!("{} is no tag", head[0])))?;
        let mut filled = 1;
        while filled < head.len() {
            match self.activity.guard(self.recv.read(&mut head[filled..])).await? {
                0 => return Err(ended()),
                more => filled += more,
            }
        }
        let size = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if size > tag.size_max() {
            let max = tag.size_max();
            let why = format!("a frame {tag:?} of {size} bytes, and {max} are allowed");
            return Err(TransferError::Garbled(why));
        }
        Ok(Some((tag, self.exactly(size).await?)))
    }

    /// The next `size` bytes. Memory grows as they come and not as claimed.
    pub(super) async fn exactly(&mut self, size: usize) -> Result<Vec<u8>, TransferError> {
        let mut bytes = Vec::with_capacity(size.min(limits::CHUNK_MAX));
        while bytes.len() < size {
            let left = (size - bytes.len()) as u64;
            let mut part = (&mut self.recv).take(left);
            if self.activity.guard(part.read_buf(&mut bytes)).await? == 0 {
                return Err(ended());
            }
        }
        Ok(bytes)
    }
}

/// When something last moved, in either direction: a holder that waits for
/// the next question while its answer crawls through a thin wire is not idle.
pub(super) struct Activity {
    idle: Duration,
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new(idle: Duration) -> Self {
        Self { idle, start: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn ends(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + self.idle
    }

    /// Waits for `action`, and no longer than something moves.
    pub(super) async fn guard<T>(
        &self,
        action: impl Future<Output = io::Result<T>>,
    ) -> Result<T, TransferError> {
        let mut action = pin!(action);
        loop {
            let ends = self.ends();
            tokio::select! {
                biased;
                done = &mut action => {
                    let now = self.start.elapsed().as_millis() as u64;
                    self.last_ms.store(now, Ordering::Relaxed);
                    return Ok(done?);
                }
                () = sleep_until(ends) => {
                    if self.ends() <= ends {
                        return Err(TransferError::Idle);
                    }
                }
            }
        }
    }
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(
    kind: Kind,
    bytes: &[u8],
) -> Result<T, TransferError> {
    wire::decode(kind, bytes).map_err(|error| TransferError::Garbled(error.to_string()))
}

pub(super) fn ended() -> TransferError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

pub(super) fn out_of_turn() -> TransferError {
    TransferError::Garbled("a frame that does not belong here".into())
}
