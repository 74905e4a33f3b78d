//! Between foca, which speaks of runs, and the wire, which names identities.

use foca::{Codec, Header, Member, Message};

use super::{
    Effect, Membership,
    packet::{Identity, Packet},
    run::{Run, RunCodec, SIZE_MAX, UPDATE},
    table::Table,
};

impl Membership {
    /// What foca wrote, as it travels to `to`. More than one packet only where foca
    /// packed more than fits, as long addresses make possible.
    pub(super) fn outward(&self, to: Run, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Some((mut header, updates)) = read(bytes) else {
            debug_assert!(false, "foca writes what its codec reads");
            return Vec::new();
        };
        header.dst = to;
        let updates = updates
            .into_iter()
            .map(|m| Member::new(self.table.identity(*m.id()), m.incarnation(), m.state()))
            .collect();
        self.pack(&header, updates)
    }

    fn pack(&self, header: &Header<Run>, mut updates: Vec<Member<Identity>>) -> Vec<Vec<u8>> {
        let mut header = header_of(header, |run| Some(self.table.identity(*run)));
        let mut packets = Vec::new();
        while let Some(full) = header {
            let packet = Packet { header: full, updates };
            let Ok((bytes, used)) = packet.encode() else { break };
            packets.push(bytes);
            updates = packet.updates;
            updates.drain(..used);
            let message = Message::Gossip;
            let more = !updates.is_empty() && used > 0;
            header = more.then_some(Header { message, ..packet.header });
        }
        packets
    }

    /// Sends a packet that foca didn't write. Incarnation 0 of the sender is
    /// what everybody who knows it ignores.
    pub(super) fn send_own(
        &mut self,
        dst: Run,
        message: Message<Run>,
        updates: Vec<Member<Run>>,
        effects: &mut Vec<Effect>,
    ) {
        let asks = matches!(message, Message::Ping(_));
        let header = Header { src: *self.foca.identity(), src_incarnation: 0, dst, message };
        let updates = updates
            .into_iter()
            .map(|m| Member::new(self.table.identity(*m.id()), m.incarnation(), m.state()))
            .collect();
        for bytes in self.pack(&header, updates) {
            self.send(dst.slot, bytes, effects);
        }
        if asks {
            self.asked(dst.slot);
        }
    }

    /// Only enrolled members are sent anything, whatever foca wants.
    pub(super) fn send(&self, to: u32, bytes: Vec<u8>, effects: &mut Vec<Effect>) {
        if self.table.is_enrolled(to) {
            let address = self.table.address_of(to);
            effects.push(Effect::Send { to: self.table.id(to), address, bytes });
        }
    }
}

/// The packet for foca, and the updates that its own bound has no room for. None
/// if the header names somebody who is not enrolled; updates that do are left out.
pub(super) fn inward(table: &Table, packet: &Packet) -> Option<(Vec<u8>, Vec<Member<Run>>)> {
    let header = header_of(&packet.header, |identity| table.run_of(identity))?;
    let (mut bytes, mut rest) = (Vec::with_capacity(SIZE_MAX), Vec::new());
    RunCodec.encode_header(&header, &mut bytes).ok()?;
    if !matches!(header.message, Message::Announce | Message::TurnUndead) {
        let tally_at = bytes.len();
        bytes.extend([0, 0]);
        let mut tally = 0_u16;
        for update in &packet.updates {
            let Some(run) = table.run_of(update.id()) else { continue };
            let member = Member::new(run, update.incarnation(), update.state());
            if bytes.len() + UPDATE > SIZE_MAX {
                rest.push(member);
                continue;
            }
            RunCodec.encode_member(&member, &mut bytes).ok()?;
            tally += 1;
        }
        bytes[tally_at..tally_at + 2].copy_from_slice(&tally.to_be_bytes());
    }
    Some((bytes, rest))
}

/// The header that foca wrote.
pub(super) fn header(bytes: &[u8]) -> Option<Header<Run>> {
    RunCodec.decode_header(bytes).ok()
}

fn read(bytes: &[u8]) -> Option<(Header<Run>, Vec<Member<Run>>)> {
    use bytes::Buf;
    let mut rest = bytes;
    let header = RunCodec.decode_header(&mut rest).ok()?;
    let mut updates = Vec::new();
    if rest.len() >= 2 {
        for _ in 0..rest.get_u16() {
            updates.push(RunCodec.decode_member(&mut rest).ok()?);
        }
    }
    Some((header, updates))
}

/// A header with its three names translated.
fn header_of<A, B>(header: &Header<A>, translate: impl Fn(&A) -> Option<B>) -> Option<Header<B>> {
    let message = match &header.message {
        Message::Ping(number) => Message::Ping(*number),
        Message::Ack(number) => Message::Ack(*number),
        Message::PingReq { target, probe_number } => {
            Message::PingReq { target: translate(target)?, probe_number: *probe_number }
        }
        Message::IndirectPing { origin, probe_number } => {
            Message::IndirectPing { origin: translate(origin)?, probe_number: *probe_number }
        }
        Message::IndirectAck { target, probe_number } => {
            Message::IndirectAck { target: translate(target)?, probe_number: *probe_number }
        }
        Message::ForwardedAck { origin, probe_number } => {
            Message::ForwardedAck { origin: translate(origin)?, probe_number: *probe_number }
        }
        Message::Announce => Message::Announce,
        Message::Feed => Message::Feed,
        Message::Gossip | Message::Broadcast => Message::Gossip,
        Message::TurnUndead => Message::TurnUndead,
    };
    Some(Header {
        src: translate(&header.src)?,
        src_incarnation: header.src_incarnation,
        dst: translate(&header.dst)?,
        message,
    })
}
