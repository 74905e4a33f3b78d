//! The way in: one bounded channel of events, and what keeps any one member
//! from filling it or the memory behind it.
//!
//! Datagrams never wait here: SWIM lives with loss, not with delay. Messages
//! wait, so that their senders do. Large messages are admitted one by one for
//! each member, and the next only when the last has been taken out of the channel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{
    NetEvent, RecvStream,
    link::Close,
    outbox::{HEADER, Tag},
};
use crate::base::{MemberId, limits};

/// Events that wait for the member. With small messages that is at most 32 MiB.
const EVENTS_MAX: usize = 512;
/// The largest SWIM packet that came by stream, bytes.
const SWIM_STREAM_MAX: usize = 64 << 10;
/// Up to this size, bytes, a message is small.
const SMALL_MAX: usize = 64 << 10;
/// A message has to arrive within this time.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a waiting large message looks whether the one before was taken.
/// There is no such look while none waits.
const TAKEN_POLL: Duration = Duration::from_millis(5);

/// The sending half of the events, and a count of what went through.
pub(super) struct Inlet {
    events: mpsc::Sender<NetEvent>,
    sent: AtomicU64,
}

/// Why a message was not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The stream or its connection ended early, or took too long.
    Broken,
    /// No such tag, a length that is not allowed, or bytes left over.
    Malformed,
}

impl Inlet {
    pub(super) fn new() -> (Self, mpsc::Receiver<NetEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (Self { events, sent: AtomicU64::new(0) }, receiver)
    }

    /// Hands a datagram on, or drops it. True if it was handed on.
    pub(super) fn datagram(&self, from: MemberId, bytes: Vec<u8>) -> bool {
        let taken = self.events.try_send(NetEvent::Datagram { from, bytes }).is_ok();
        if taken {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Hands an event on, waiting for room. False if nobody listens any more.
    pub(super) async fn event(&self, event: NetEvent) -> bool {
        let taken = self.events.send(event).await.is_ok();
        self.sent.fetch_add(1, Ordering::Relaxed);
        taken
    }

    /// Reads one one-way stream of `from` and hands on what it brought. Returns the
    /// tag if it was accepted, and whether it got through.
    pub(super) async fn stream(
        &self,
        from: MemberId,
        large: &Arc<Semaphore>,
        mut stream: RecvStream,
    ) -> Option<(Tag, bool)> {
        let head = match timeout(ARRIVAL_TIMEOUT, read_header(&mut stream)).await {
            Ok(Ok(head)) => head,
            Ok(Err(Fault::Malformed)) => return refuse(from, &mut stream),
            Ok(Err(Fault::Broken)) | Err(_) => return None,
        };
        let (tag, size) = head;
        let permit = match size > SMALL_MAX {
            true => Some(large.clone().acquire_owned().await.ok()?),
            false => None,
        };
        let bytes = match timeout(ARRIVAL_TIMEOUT, read_body(&mut stream, size)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(Fault::Malformed)) => return refuse(from, &mut stream),
            Ok(Err(Fault::Broken)) | Err(_) => return None,
        };
        if tag == Tag::Swim {
            return Some((tag, self.datagram(from, bytes)));
        }
        let taken = self.event(NetEvent::Message { from, bytes }).await;
        if let Some(permit) = permit {
            self.taken_out(self.sent.load(Ordering::Relaxed)).await;
            drop(permit);
        }
        Some((tag, taken))
    }

    /// Waits until the first `count` events have left the channel.
    async fn taken_out(&self, count: u64) {
        while !self.events.is_closed() {
            let queued = (self.events.max_capacity() - self.events.capacity()) as u64;
            if self.sent.load(Ordering::Relaxed).saturating_sub(queued) >= count {
                return;
            }
            sleep(TAKEN_POLL).await;
        }
    }
}

fn refuse(from: MemberId, stream: &mut RecvStream) -> Option<(Tag, bool)> {
    tracing::debug!(%from, "a message was refused: {}", Close::Misbehaved.text());
    // It can fail only on a stream that has ended already.
    let _ = stream.stop(Close::Misbehaved.code());
    None
}

async fn read_header(stream: &mut RecvStream) -> Result<(Tag, usize), Fault> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.map_err(|_| Fault::Broken)?;
    let [tag, length @ ..] = header;
    let tag = Tag::of(tag).ok_or(Fault::Malformed)?;
    let size = u32::from_le_bytes(length) as usize;
    let size_max = if tag == Tag::Swim { SWIM_STREAM_MAX } else { limits::MESSAGE_MAX };
    if size > size_max { Err(Fault::Malformed) } else { Ok((tag, size)) }
}

/// Reads exactly `size` bytes and the end. Memory grows with what arrives, not with what
/// was announced.
async fn read_body(stream: &mut RecvStream, size: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(size.min(SMALL_MAX));
    while let Some(chunk) = stream.read_chunk(SMALL_MAX, true).await.map_err(|_| Fault::Broken)? {
        if bytes.len() + chunk.bytes.len() > size {
            return Err(Fault::Malformed);
        }
        bytes.extend_from_slice(&chunk.bytes);
    }
    if bytes.len() == size { Ok(bytes) } else { Err(Fault::Broken) }
}
