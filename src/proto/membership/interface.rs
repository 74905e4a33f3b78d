//! The words that the machine and its owner exchange.

use std::net::SocketAddr;

use crate::base::{MemberId, Time};

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A SWIM packet over a connection that proved to be `from`'s.
    Packet {
        /// The authenticated sender.
        from: MemberId,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Any other authenticated traffic: a sign of life.
    Heard {
        /// The authenticated sender.
        from: MemberId,
    },
    /// The transport says that the connection failed: a hint, not a verdict.
    Lost {
        /// To whom.
        member: MemberId,
    },
    /// The member's host says that nobody listens at its port (ICMP port
    /// unreachable): a strong hint, and no verdict, for anybody can forge one.
    Refused {
        /// Whose.
        member: MemberId,
    },
    /// The bytes of an [`Effect::Exchange`], over a connection that proved to
    /// be `from`'s.
    Exchange {
        /// The authenticated sender.
        from: MemberId,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// Somebody who proved to be `member` answers at `address`: it is knocked at there, if it is
    /// not live. It is no sign of life in the sense of SWIM, and others are not told of it.
    Found {
        /// Who.
        member: MemberId,
        /// Where.
        address: SocketAddr,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send one unreliable packet.
    Send {
        /// For whom; the connection must prove to be theirs.
        to: MemberId,
        /// Where they are thought to be.
        address: SocketAddr,
        /// At most [`SWIM_PACKET_MAX`](crate::base::limits::SWIM_PACKET_MAX) bytes.
        bytes: Vec<u8>,
    },
    /// Send this reliably, as a message: membership state that no packet holds.
    Exchange {
        /// For whom; the connection must prove to be theirs.
        to: MemberId,
        /// At most [`MESSAGE_MAX`](crate::base::limits::MESSAGE_MAX) bytes.
        bytes: Vec<u8>,
    },
    /// A live member answers this one directly now, or does not any more.
    Reached {
        /// Who.
        member: MemberId,
        /// Whether it does.
        reached: bool,
    },
    /// A member's state is another one now.
    Changed {
        /// Whose.
        member: MemberId,
        /// The state before.
        before: State,
        /// The new state.
        state: State,
    },
    /// A member is reached elsewhere from here on.
    Moved {
        /// Who.
        member: MemberId,
        /// Where.
        address: SocketAddr,
    },
    /// The newest generation in use, the first one included: persist it. The
    /// next start should use a higher one; one that doesn't costs a round trip
    /// until the others' memory is exceeded.
    Generation(u64),
}

/// What this member thinks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers.
    Alive,
    /// It did not answer somebody; counts as live until the verdict.
    Suspect,
    /// It is gone, out of reach, or was never seen.
    Down,
    /// It said that it leaves.
    Left,
}

impl State {
    /// Whether work may be given to a member in this state.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What is known of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// What this member thinks of it.
    pub state: State,
    /// Where this member reaches it: where it was found, or else where its newest run says that it
    /// listens; the roster's word until it was seen.
    pub address: SocketAddr,
    /// Its newest run; 0 until it was seen.
    pub generation: u64,
    /// Since when it is in this state, by this member's clock.
    pub since: Time,
    /// Whether it answers this member's own questions directly: the way there
    /// and back works. A live member that doesn't is heard of through others.
    pub reached: bool,
}
