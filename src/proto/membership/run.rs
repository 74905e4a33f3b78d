//! Who foca thinks it talks about: a [`Run`] is a slot of this member's own
//! table and a generation, 16 bytes instead of the 72 of a whole identity.
//!
//! foca walks over all members for nearly everything that it does, so what it
//! walks over has to be small. Runs never leave the process: `translate.rs`
//! turns them into identities and back, and [`RunCodec`] is what foca writes
//! and reads in between. One update has a fixed size there, so that a packet that
//! foca fills holds about as many as fit on the wire.

use bytes::{Buf, BufMut};
use foca::{Header, Incarnation, Member, Message};

use super::packet::GENERATION_MAX;

/// The slot of this member itself.
pub const ME: u32 = 0;
/// Updates that foca packs into one packet: as many as fit on the wire beside the
/// longest header, with IPv4 addresses.
const UPDATES_MAX: usize = 17;
/// The longest packet between foca and its driver, bytes.
pub const SIZE_MAX: usize = HEADER + RUN + 2 + UPDATES_MAX * UPDATE;
const RUN: usize = 12;
const HEADER: usize = RUN + 2 + RUN + 2;
/// One update in such a packet, bytes.
pub const UPDATE: usize = RUN + 3;

/// One run of the member in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the table has it; [`ME`] for this member.
    pub slot: u32,
    /// Which run. The higher one wins.
    pub generation: u64,
}

impl foca::Identity for Run {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        (self.generation < GENERATION_MAX)
            .then_some(Self { generation: self.generation + 1, ..*self })
    }

    fn addr(&self) -> u32 {
        self.slot
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// foca's codec. Nothing that it reads comes from the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunCodec;

/// Why foca's codec stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing fits any more: foca stops filling the packet.
    #[error("a packet is full")]
    Full,
    /// Less there than a packet has: the driver wrote it wrongly.
    #[error("a packet of the driver's own is cut short")]
    Short,
}

impl foca::Codec<Run> for RunCodec {
    type Error = RunError;

    fn encode_header(
        &mut self,
        header: &Header<Run>,
        mut buf: impl BufMut,
    ) -> Result<(), RunError> {
        let (tag, number, third) = parts(&header.message);
        if buf.remaining_mut() < HEADER + third.map_or(0, |_| RUN) {
            return Err(RunError::Full);
        }
        put_run(header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_run(header.dst, &mut buf);
        buf.put_u8(tag);
        buf.put_u8(number);
        if let Some(third) = third {
            put_run(third, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Run>, RunError> {
        if buf.remaining() < HEADER {
            return Err(RunError::Short);
        }
        let src = take_run(&mut buf);
        let src_incarnation = buf.get_u16();
        let dst = take_run(&mut buf);
        let (tag, number) = (buf.get_u8(), buf.get_u8());
        if (2..6).contains(&tag) && buf.remaining() < RUN {
            return Err(RunError::Short);
        }
        let message = match tag {
            0 => Message::Ping(number),
            1 => Message::Ack(number),
            2 => Message::PingReq { target: take_run(&mut buf), probe_number: number },
            3 => Message::IndirectPing { origin: take_run(&mut buf), probe_number: number },
            4 => Message::IndirectAck { target: take_run(&mut buf), probe_number: number },
            5 => Message::ForwardedAck { origin: take_run(&mut buf), probe_number: number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::TurnUndead,
            _ => return Err(RunError::Short),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Run>,
        mut buf: impl BufMut,
    ) -> Result<(), RunError> {
        if buf.remaining_mut() < UPDATE {
            return Err(RunError::Full);
        }
        put_run(*member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            foca::State::Alive => 0,
            foca::State::Suspect => 1,
            foca::State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Run>, RunError> {
        if buf.remaining() < UPDATE {
            return Err(RunError::Short);
        }
        let run = take_run(&mut buf);
        let incarnation: Incarnation = buf.get_u16();
        let state = match buf.get_u8() {
            0 => foca::State::Alive,
            1 => foca::State::Suspect,
            _ => foca::State::Down,
        };
        Ok(Member::new(run, incarnation, state))
    }
}

/// The message as a tag, its number and the third run that it names.
fn parts(message: &Message<Run>) -> (u8, u8, Option<Run>) {
    match *message {
        Message::Ping(number) => (0, number, None),
        Message::Ack(number) => (1, number, None),
        Message::PingReq { target, probe_number } => (2, probe_number, Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, probe_number, Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, probe_number, Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, probe_number, Some(origin)),
        Message::Announce => (6, 0, None),
        Message::Feed => (7, 0, None),
        // No custom broadcast exists, so this kind says what gossip says.
        Message::Gossip | Message::Broadcast => (8, 0, None),
        Message::TurnUndead => (9, 0, None),
    }
}

fn put_run(run: Run, buf: &mut impl BufMut) {
    buf.put_u32(run.slot);
    buf.put_u64(run.generation);
}

fn take_run(buf: &mut impl Buf) -> Run {
    Run { slot: buf.get_u32(), generation: buf.get_u64() }
}
