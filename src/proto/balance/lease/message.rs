//! What members say to each other about addresses, and what a member is to do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, MemberId, Time, limits, wire};

/// What members say to each other about addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// May I hold these, or go on holding them?
    Ask {
        /// Whom the asker takes for the voters.
        voters: Digest,
        /// Counts up, over restarts as well.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        wants: Vec<Want>,
    },
    /// These are yours.
    Answer {
        /// Of the question.
        round: u64,
        /// Whether the voter could hold addresses itself, as far as it knows.
        able: bool,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        granted: Vec<IpAddr>,
        /// Those that are another's, and for how much longer: milliseconds.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        refused: Vec<(IpAddr, u16)>,
    },
    /// I hold these and you may have them: I ask for them no more.
    Yield {
        /// The last question that I asked.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
    /// I hold what you have yielded.
    Taken {
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
    /// I hold these no more, nor do I want them.
    Release {
        /// The last question that I asked.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
}

/// One address that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which.
    pub address: IpAddr,
    /// Who holds it and has yielded it to the asker, with the last question that it asked.
    pub consent: Option<(MemberId, u64)>,
}

/// Why an address is held from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nobody held it.
    Free,
    /// This member held it and let it lapse.
    Lapsed(MemberId),
    /// This member handed it over.
    HandedOver(MemberId),
}

/// Why an address is held no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// No majority of the voters has answered in time.
    NoMajority,
    /// This member has it now, as planned.
    HandedOver(MemberId),
    /// No application has it any more.
    Undefined,
    /// This member can't hold it or shall not, and nobody took it.
    Unfit,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// Hold an address that was not held, at once.
    Take {
        /// Which.
        address: IpAddr,
        /// Until when, unless it is renewed.
        until: Time,
        /// Why.
        why: Taken,
    },
    /// Go on holding it.
    Renew {
        /// Which.
        address: IpAddr,
        /// Until when.
        until: Time,
    },
    /// Hold it no longer, at once.
    Drop {
        /// Which.
        address: IpAddr,
        /// Why.
        why: GivenUp,
    },
}
