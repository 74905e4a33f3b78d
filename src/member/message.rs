//! What members say to each other beside SWIM packets and content.

use serde::{Deserialize, Serialize};

use super::change::Change;
use crate::{
    base::{AppName, MemberId, Refusal},
    proto::{catalog, rumor, vote::SignedBallot},
};

/// One message. It comes over a connection whose peer's key was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Of the register.
    Register(catalog::Message),
    /// What the sender, or somebody it speaks for, holds.
    Ballot(SignedBallot),
    /// Please propose this: you preside.
    Forward {
        /// Drawn by the sender; comes back in the answer.
        id: u64,
        /// What.
        change: Box<Change>,
    },
    /// What became of it.
    Forwarded {
        /// As given.
        id: u64,
        /// The outcome.
        answer: Answer,
    },
    /// Please take what you hold of this application as its next version: an
    /// operator decided a hung vote for you.
    Resolve {
        /// Drawn by the sender; comes back in [`Message::Forwarded`].
        id: u64,
        /// Which.
        app: AppName,
    },
    /// I see you live again: this is what I hold, please say what you do.
    Greeting(SignedBallot),
    /// An operator's event or question, and what belongs to it.
    Rumor(rumor::Message),
    /// Membership state that no packet holds: what
    /// [`Effect::Exchange`](crate::proto::membership::Effect::Exchange) carries.
    Membership(Vec<u8>),
}

/// The answer to [`Message::Forward`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It holds from this sequence on.
    Done(u64),
    /// It was refused.
    Refused(Refusal),
    /// A member that stands before me in the failover list is live: ask it.
    Elsewhere(MemberId),
}
