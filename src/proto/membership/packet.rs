//! What a SWIM packet looks like on the wire.
//!
//! A packet is the wire's version byte, a header, and, for the kinds that carry
//! gossip, a big-endian count and as many updates. It is decoded as a whole
//! before foca sees any of it: foca would take in whatever an update names, and
//! the roster decides who exists. Nothing here believes a length or allocates
//! beyond the packet's own bound.
//!
//! What the driver says beside that is an [`Aside`], behind a first byte that is no version.

use std::net::{SocketAddr, SocketAddrV6};

use bytes::Buf;
use foca::{Header, Incarnation, Member, Message, ProbeNumber};
use serde::{Deserialize, Serialize};

use crate::base::{
    MemberId, limits,
    wire::{self, WireError},
};

/// The highest generation that is believed. Wall-clock milliseconds stay below
/// it for a hundred million years, and adding one never overflows.
pub const GENERATION_MAX: u64 = 1 << 62;

/// One run of one member: foca's identity. A restart or a refuted obituary is
/// a new generation, and the higher one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Who.
    pub member: MemberId,
    /// Where this run listens.
    pub address: SocketAddr,
    /// Which run.
    pub generation: u64,
}

impl Identity {
    /// The identity of `member`. Flow label and scope of an IPv6 address are
    /// dropped: they mean something on one host only and don't travel, and an
    /// identity must equal itself after the wire.
    pub fn new(member: MemberId, address: SocketAddr, generation: u64) -> Self {
        Self { member, address: plain(address), generation }
    }
}

/// `address` as it arrives on the other side of the wire.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
    }
}

/// Why a packet was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The bytes are no packet.
    #[error("a SWIM packet was dropped: {0}; is every member on the same version?")]
    Wire(#[from] WireError),
    /// Nothing fits any more: foca stops filling the packet.
    #[error("a SWIM packet is full")]
    Full,
    /// An identity that no honest member has.
    #[error("a SWIM packet was dropped: it names generation {0}, which no clock has reached")]
    Generation(u64),
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    src: Identity,
    src_incarnation: Incarnation,
    dst: Identity,
    message: WireMessage,
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Ping(ProbeNumber),
    Ack(ProbeNumber),
    PingReq(Identity, ProbeNumber),
    IndirectPing(Identity, ProbeNumber),
    IndirectAck(Identity, ProbeNumber),
    ForwardedAck(Identity, ProbeNumber),
    Announce,
    Feed,
    Gossip,
    TurnUndead,
}

/// An update as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireMember {
    id: Identity,
    incarnation: Incarnation,
    state: WireState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireState {
    Alive,
    Suspect,
    Down,
}

/// Appends the header, with the version byte.
fn encode_header(header: &Header<Identity>, bytes: &mut Vec<u8>) -> Result<(), PacketError> {
    bytes.push(wire::VERSION);
    wire::encode_bare(&to_wire_header(header), bytes)?;
    if bytes.len() > limits::SWIM_PACKET_MAX { Err(PacketError::Full) } else { Ok(()) }
}

fn decode_header(rest: &mut &[u8]) -> Result<Header<Identity>, PacketError> {
    match rest.has_remaining().then(|| rest.get_u8()) {
        None => return Err(WireError::Empty.into()),
        Some(wire::VERSION) => {}
        Some(found) => return Err(WireError::Version { found }.into()),
    }
    let (header, used) = wire::decode_prefix::<WireHeader>(rest)?;
    rest.advance(used);
    from_wire_header(header)
}

/// Appends all of one member or, where it doesn't fit, nothing.
fn encode_member(member: &Member<Identity>, bytes: &mut Vec<u8>) -> Result<(), PacketError> {
    let before = bytes.len();
    wire::encode_bare(&WireMember::from(member), bytes)?;
    if bytes.len() > limits::SWIM_PACKET_MAX {
        bytes.truncate(before);
        return Err(PacketError::Full);
    }
    Ok(())
}

fn decode_member(rest: &mut &[u8]) -> Result<Member<Identity>, PacketError> {
    let (member, used) = wire::decode_prefix::<WireMember>(rest)?;
    rest.advance(used);
    member.read()
}

impl From<&Member<Identity>> for WireMember {
    fn from(member: &Member<Identity>) -> Self {
        let state = match member.state() {
            foca::State::Alive => WireState::Alive,
            foca::State::Suspect => WireState::Suspect,
            foca::State::Down => WireState::Down,
        };
        Self { id: *member.id(), incarnation: member.incarnation(), state }
    }
}

impl WireMember {
    /// What it says, where an honest member could have said it.
    pub fn read(self) -> Result<Member<Identity>, PacketError> {
        let state = match self.state {
            WireState::Alive => foca::State::Alive,
            WireState::Suspect => foca::State::Suspect,
            WireState::Down => foca::State::Down,
        };
        Ok(Member::new(checked(self.id)?, self.incarnation, state))
    }
}

fn checked(id: Identity) -> Result<Identity, PacketError> {
    if id.generation > GENERATION_MAX {
        return Err(PacketError::Generation(id.generation));
    }
    Ok(Identity::new(id.member, id.address, id.generation))
}

fn to_wire_header(header: &Header<Identity>) -> WireHeader {
    let message = match header.message {
        Message::Ping(number) => WireMessage::Ping(number),
        Message::Ack(number) => WireMessage::Ack(number),
        Message::PingReq { target, probe_number } => WireMessage::PingReq(target, probe_number),
        Message::IndirectPing { origin, probe_number } => {
            WireMessage::IndirectPing(origin, probe_number)
        }
        Message::IndirectAck { target, probe_number } => {
            WireMessage::IndirectAck(target, probe_number)
        }
        Message::ForwardedAck { origin, probe_number } => {
            WireMessage::ForwardedAck(origin, probe_number)
        }
        Message::Announce => WireMessage::Announce,
        Message::Feed => WireMessage::Feed,
        // No custom broadcast exists, so this kind says what gossip says.
        Message::Gossip | Message::Broadcast => WireMessage::Gossip,
        Message::TurnUndead => WireMessage::TurnUndead,
    };
    let (src, src_incarnation, dst) = (header.src, header.src_incarnation, header.dst);
    WireHeader { src, src_incarnation, dst, message }
}

fn from_wire_header(header: WireHeader) -> Result<Header<Identity>, PacketError> {
    let message = match header.message {
        WireMessage::Ping(number) => Message::Ping(number),
        WireMessage::Ack(number) => Message::Ack(number),
        WireMessage::PingReq(target, probe_number) => {
            Message::PingReq { target: checked(target)?, probe_number }
        }
        WireMessage::IndirectPing(origin, probe_number) => {
            Message::IndirectPing { origin: checked(origin)?, probe_number }
        }
        WireMessage::IndirectAck(target, probe_number) => {
            Message::IndirectAck { target: checked(target)?, probe_number }
        }
        WireMessage::ForwardedAck(origin, probe_number) => {
            Message::ForwardedAck { origin: checked(origin)?, probe_number }
        }
        WireMessage::Announce => Message::Announce,
        WireMessage::Feed => Message::Feed,
        WireMessage::Gossip => Message::Gossip,
        WireMessage::TurnUndead => Message::TurnUndead,
    };
    Ok(Header {
        src: checked(header.src)?,
        src_incarnation: header.src_incarnation,
        dst: checked(header.dst)?,
        message,
    })
}

/// The first byte of an [`Aside`]: as a version it would be refused.
const ASIDE: u8 = 0xa5;

/// What drivers say to each other beside SWIM. A member that does not know a kind drops it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aside {
    /// "I asked this run myself, and it did not answer": a confirmation that
    /// is independent of everybody else's.
    Doubt {
        /// About whom.
        suspect: MemberId,
        /// Which run.
        generation: u64,
        /// Of which incarnation.
        incarnation: Incarnation,
    },
}

impl Aside {
    /// Whether `bytes` are an aside and no packet.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.first() == Some(&ASIDE)
    }

    /// As bytes.
    pub fn encode(&self) -> Result<Vec<u8>, PacketError> {
        let mut bytes = vec![ASIDE];
        wire::encode_bare(self, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads exactly one from all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let size_max = limits::SWIM_PACKET_MAX;
        if bytes.len() > size_max {
            return Err(WireError::TooLarge { size: bytes.len(), size_max }.into());
        }
        let rest = bytes.get(1..).unwrap_or_default();
        let (aside, used) = wire::decode_prefix(rest)?;
        if used != rest.len() {
            return Err(WireError::Trailing(rest.len() - used).into());
        }
        Ok(aside)
    }
}

/// A whole packet, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From whom, for whom, and what is asked.
    pub header: Header<Identity>,
    /// What it says about members.
    pub updates: Vec<Member<Identity>>,
}

impl Packet {
    /// Reads exactly one packet from all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let size_max = limits::SWIM_PACKET_MAX;
        if bytes.len() > size_max {
            return Err(WireError::TooLarge { size: bytes.len(), size_max }.into());
        }
        let mut rest = bytes;
        let header = decode_header(&mut rest)?;
        let mut updates = Vec::new();
        if carries_updates(&header.message) && rest.len() >= 2 {
            for _ in 0..rest.get_u16() {
                updates.push(decode_member(&mut rest)?);
            }
        }
        if !rest.is_empty() {
            return Err(WireError::Trailing(rest.len()).into());
        }
        Ok(Self { header, updates })
    }

    /// The packet as bytes, and how many of the updates found room.
    pub fn encode(&self) -> Result<(Vec<u8>, usize), PacketError> {
        let mut bytes = Vec::with_capacity(256);
        encode_header(&self.header, &mut bytes)?;
        let mut tally = 0_u16;
        if carries_updates(&self.header.message) && bytes.len() + 2 <= limits::SWIM_PACKET_MAX {
            let tally_at = bytes.len();
            bytes.extend([0, 0]);
            for update in &self.updates {
                if encode_member(update, &mut bytes).is_err() {
                    break;
                }
                tally += 1;
            }
            bytes[tally_at..tally_at + 2].copy_from_slice(&tally.to_be_bytes());
        }
        Ok((bytes, usize::from(tally)))
    }

    /// The third member that a relayed probe names.
    pub fn third(&self) -> Option<MemberId> {
        match &self.header.message {
            Message::PingReq { target: other, .. }
            | Message::IndirectPing { origin: other, .. }
            | Message::IndirectAck { target: other, .. }
            | Message::ForwardedAck { origin: other, .. } => Some(other.member),
            _ => None,
        }
    }
}

fn carries_updates(message: &Message<Identity>) -> bool {
    !matches!(message, Message::Announce | Message::TurnUndead | Message::Broadcast)
}
