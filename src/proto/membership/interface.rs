//! The words that the machine and its owner exchange.

use std::{collections::BTreeMap, net::SocketAddr};

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
    /// A member's state is another one now.
    Changed {
        /// Whose.
        member: MemberId,
        /// The new state.
        state: State,
    },
    /// A member is reachable elsewhere now.
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
    /// Where its newest run listens; the roster's word until it was seen.
    pub address: SocketAddr,
    /// Its newest run; 0 until it was seen.
    pub generation: u64,
    /// Since when it is in this state, by this member's clock.
    pub since: Time,
}

/// Every member of the roster but this one, seen or not.
pub type Directory = BTreeMap<MemberId, Contact>;
