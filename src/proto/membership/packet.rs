//! What a SWIM packet looks like on the wire, and foca's codec for it.
//!
//! A packet is the wire's version byte, a header, and, for the kinds that carry
//! gossip, a big-endian count and as many updates. It is decoded as a whole
//! before foca sees it: foca would take in whatever an update names, and the
//! roster decides who exists. Nothing here believes a length or allocates
//! beyond the packet's own bound.

use std::net::{SocketAddr, SocketAddrV6};

use bytes::{Buf, BufMut};
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

impl foca::Identity for Identity {
    type Addr = MemberId;

    fn renew(&self) -> Option<Self> {
        (self.generation < GENERATION_MAX)
            .then_some(Self { generation: self.generation + 1, ..*self })
    }

    fn addr(&self) -> MemberId {
        self.member
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The address breaks a tie, so that everybody breaks it alike.
        (self.generation, self.address) > (adversary.generation, adversary.address)
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

#[derive(Serialize, Deserialize)]
struct WireMember {
    id: Identity,
    incarnation: Incarnation,
    state: WireState,
}

#[derive(Serialize, Deserialize)]
enum WireState {
    Alive,
    Suspect,
    Down,
}

/// foca's codec over [`wire`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketCodec;

impl foca::Codec<Identity> for PacketCodec {
    type Error = PacketError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), PacketError> {
        let mut bytes = vec![wire::VERSION];
        wire::encode_bare(&to_wire_header(header), &mut bytes)?;
        put(&bytes, &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, PacketError> {
        match buf.has_remaining().then(|| buf.get_u8()) {
            None => return Err(WireError::Empty.into()),
            Some(wire::VERSION) => {}
            Some(found) => return Err(WireError::Version { found }.into()),
        }
        let (header, used) = wire::decode_prefix::<WireHeader>(buf.chunk())?;
        buf.advance(used);
        from_wire_header(header)
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), PacketError> {
        let state = match member.state() {
            foca::State::Alive => WireState::Alive,
            foca::State::Suspect => WireState::Suspect,
            foca::State::Down => WireState::Down,
        };
        let member = WireMember { id: *member.id(), incarnation: member.incarnation(), state };
        let mut bytes = Vec::with_capacity(64);
        wire::encode_bare(&member, &mut bytes)?;
        put(&bytes, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, PacketError> {
        let (member, used) = wire::decode_prefix::<WireMember>(buf.chunk())?;
        buf.advance(used);
        let state = match member.state {
            WireState::Alive => foca::State::Alive,
            WireState::Suspect => foca::State::Suspect,
            WireState::Down => foca::State::Down,
        };
        Ok(Member::new(checked(member.id)?, member.incarnation, state))
    }
}

/// Writes all of `bytes` or, where they don't fit, nothing.
fn put(bytes: &[u8], buf: &mut impl BufMut) -> Result<(), PacketError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(PacketError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
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
        use foca::Codec;
        let size_max = limits::SWIM_PACKET_MAX;
        if bytes.len() > size_max {
            return Err(WireError::TooLarge { size: bytes.len(), size_max }.into());
        }
        let mut rest = bytes;
        let header = PacketCodec.decode_header(&mut rest)?;
        let mut updates = Vec::new();
        if carries_updates(&header.message) && rest.len() >= 2 {
            for _ in 0..rest.get_u16() {
                updates.push(PacketCodec.decode_member(&mut rest)?);
            }
        }
        if !rest.is_empty() {
            return Err(WireError::Trailing(rest.len()).into());
        }
        Ok(Self { header, updates })
    }

    /// The packet as bytes. Updates that don't fit are left out.
    pub fn encode(&self) -> Result<Vec<u8>, PacketError> {
        use foca::Codec;
        let mut buf = Vec::with_capacity(256).limit(limits::SWIM_PACKET_MAX);
        PacketCodec.encode_header(&self.header, &mut buf)?;
        if carries_updates(&self.header.message) && buf.remaining_mut() >= 2 {
            let tally_at = buf.get_ref().len();
            buf.put_u16(0);
            let mut tally = 0_u16;
            for update in &self.updates {
                if PacketCodec.encode_member(update, &mut buf).is_err() {
                    break;
                }
                tally += 1;
            }
            buf.get_mut()[tally_at..tally_at + 2].copy_from_slice(&tally.to_be_bytes());
        }
        Ok(buf.into_inner())
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
