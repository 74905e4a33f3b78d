//! What waits to be sent to one member: a few datagrams while it is being
//! dialled, and messages by lane, bounded in number and bytes.
//!
//! Each message is one stream: a tag, its length, its bytes. The length is there
//! because a stream that is dropped half-way ends like one that is complete.
//! Nothing is sent twice.

use std::{collections::VecDeque, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::timeout;

use super::{Lane, link::Link};

/// Datagrams kept while dialling.
const DATAGRAMS_MAX: usize = 32;
/// Messages kept for one member, and their bytes, those under way included.
const MESSAGES_MAX: usize = 4_096;
const BYTES_MAX: usize = 16 << 20;
/// Messages under way to one member at once; those of the lower lanes
/// leave half of it to the upper.
const UNDER_WAY_MAX: usize = 32;
const LOWER_UNDER_WAY_MAX: usize = UNDER_WAY_MAX / 2;
/// A message that is not acknowledged after so long is given up.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes before a message: its tag and its length.
pub(super) const HEADER: usize = 5;

/// The first byte of a one-way stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Swim = 0,
    Register = 1,
    Ballot = 2,
    Control = 3,
}

impl Tag {
    pub(super) const ALL: [Self; 4] = [Self::Swim, Self::Register, Self::Ballot, Self::Control];

    pub(super) fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    const fn is_upper(self) -> bool {
        matches!(self, Self::Swim | Self::Register)
    }

    fn priority(self) -> i32 {
        Self::ALL.len() as i32 - self as i32
    }
}

impl From<Lane> for Tag {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Register => Self::Register,
            Lane::Ballot => Self::Ballot,
            Lane::Control => Self::Control,
        }
    }
}

/// The queues of one member.
#[derive(Default)]
pub(super) struct Outbox {
    datagrams: VecDeque<Bytes>,
    messages: [VecDeque<Bytes>; Tag::ALL.len()],
    waiting: usize,
    bytes: usize,
    upper_under_way: usize,
    lower_under_way: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.datagrams.is_empty() && self.waiting == 0
    }

    /// Whether everything was sent and acknowledged, too.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_empty() && self.upper_under_way + self.lower_under_way == 0
    }

    /// Keeps a datagram. Returns how many older ones made room for it.
    pub(super) fn push_datagram(&mut self, bytes: Bytes) -> u64 {
        self.datagrams.push_back(bytes);
        if self.datagrams.len() > DATAGRAMS_MAX {
            self.datagrams.pop_front();
            return 1;
        }
        0
    }

    pub(super) fn take_datagrams(&mut self) -> VecDeque<Bytes> {
        std::mem::take(&mut self.datagrams)
    }

    /// Keeps a message, or doesn't where too much waits already. An empty outbox
    /// takes any message.
    pub(super) fn push(&mut self, tag: Tag, bytes: Bytes) -> bool {
        let full = self.waiting >= MESSAGES_MAX || self.bytes + bytes.len() > BYTES_MAX;
        if full && self.bytes > 0 {
            return false;
        }
        self.waiting += 1;
        self.bytes += bytes.len();
        self.messages[tag as usize].push_back(bytes);
        true
    }

    /// The next message to put under way, the most urgent first.
    pub(super) fn take(&mut self) -> Option<(Tag, Bytes)> {
        let under_way = self.upper_under_way + self.lower_under_way;
        for tag in Tag::ALL {
            let room = under_way < UNDER_WAY_MAX
                && (tag.is_upper() || self.lower_under_way < LOWER_UNDER_WAY_MAX);
            if !room {
                return None;
            }
            if let Some(bytes) = self.messages[tag as usize].pop_front() {
                self.waiting -= 1;
                *self.under_way(tag) += 1;
                return Some((tag, bytes));
            }
        }
        None
    }

    /// A message of `size` bytes that [`Outbox::take`] gave out has arrived or was lost.
    pub(super) fn done(&mut self, tag: Tag, size: usize) {
        *self.under_way(tag) -= 1;
        self.bytes -= size;
    }

    /// Gives up what waits. Returns how many datagrams and messages.
    pub(super) fn clear(&mut self) -> (u64, u64) {
        let counts = (self.datagrams.len() as u64, self.waiting as u64);
        self.datagrams.clear();
        for queue in &mut self.messages {
            self.bytes -= queue.iter().map(Bytes::len).sum::<usize>();
            queue.clear();
        }
        self.waiting = 0;
        counts
    }

    fn under_way(&mut self, tag: Tag) -> &mut usize {
        if tag.is_upper() { &mut self.upper_under_way } else { &mut self.lower_under_way }
    }
}

/// Sends one message over `link`. True once the peer has acknowledged all of it.
pub(super) async fn deliver(link: &Link, tag: Tag, bytes: Bytes) -> bool {
    timeout(DELIVERY_TIMEOUT, async {
        let mut stream = link.connection.open_uni().await.ok()?;
        // It can fail only on a stream that has ended already.
        let _ = stream.set_priority(tag.priority());
        let mut header = BytesMut::with_capacity(HEADER);
        header.put_u8(tag as u8);
        header.put_u32_le(u32::try_from(bytes.len()).ok()?);
        link.note_sent();
        stream.write_all_chunks(&mut [header.freeze(), bytes]).await.ok()?;
        stream.finish().ok()?;
        // `Some` code: the peer didn't want it.
        stream.stopped().await.ok()?.is_none().then_some(())
    })
    .await
    .is_ok_and(|sent| sent.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_lanes_go_first_and_always_find_room() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            assert!(outbox.push(Tag::Control, Bytes::from_static(b"bulk")));
        }
        let lower = std::iter::from_fn(|| outbox.take()).count();
        assert_eq!(lower, LOWER_UNDER_WAY_MAX);
        assert!(outbox.push(Tag::Register, Bytes::from_static(b"promise")));
        assert_eq!(outbox.take().unwrap().0, Tag::Register);
        outbox.done(Tag::Control, 4);
        assert_eq!(outbox.take().unwrap().0, Tag::Control);
        assert!(!outbox.is_quiet());
    }

    #[test]
    fn what_waits_is_bounded_and_counted() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![0; 6 << 20]);
        assert!(outbox.push(Tag::Control, large.clone()));
        assert!(outbox.push(Tag::Control, large.clone()));
        assert!(!outbox.push(Tag::Control, large.clone()));
        let (tag, bytes) = outbox.take().unwrap();
        assert_eq!(outbox.clear(), (0, 1));
        outbox.done(tag, bytes.len());
        assert!(outbox.is_quiet() && outbox.bytes == 0);
        let dropped: u64 = (0..40).map(|_| outbox.push_datagram(Bytes::new())).sum();
        assert_eq!((dropped, outbox.take_datagrams().len()), (8, DATAGRAMS_MAX));
    }
}
