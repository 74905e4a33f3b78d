//! What lies, garbage and strangers can't do.

use foca::{Header, Message};
use proptest::prelude::*;

use super::*;
use crate::{
    base::limits,
    proto::membership::packet::{Aside, Identity, Packet},
};

#[test]
fn a_stranger_is_not_heard() {
    let mut machine = Membership::new(Time(0), id(0), address(0), 1, 1);
    let mut effects = Vec::new();
    machine.set_roster(Time(0), &roster(0..2), &mut effects);
    let mut stranger = Membership::new(Time(0), id(7), address(7), 1, 2);
    let mut out = Vec::new();
    stranger.set_roster(Time(0), &roster([0, 7]), &mut out);
    stranger.tick(Time(1_000_000), &mut out);
    let bytes = out
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Send { bytes, .. } => Some(bytes),
            _ => None,
        })
        .expect("it knocks");
    effects.clear();
    for from in [id(7), id(1)] {
        machine.handle(Time(1), Input::Packet { from, bytes: bytes.clone() }, &mut effects);
    }
    assert_eq!(effects, []);
    assert!(!machine.is_live(id(7)));
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..1_200),
    ) {
        let mut sim = Sim::new(3, 1, Faults::LAN);
        (0..3).for_each(|i| sim.start(i));
        sim.run(SECOND);
        sim.inject(0, Input::Packet { from: id(1), bytes });
        sim.run(SECOND);
        prop_assert!(sim.all_live());
    }

    #[test]
    fn a_damaged_packet_never_panics(
        at in 0_usize..1_100,
        value in any::<u8>(),
        cut in 0_usize..1_100,
    ) {
        let mut out = Vec::new();
        let mut peer = Membership::new(Time(0), id(1), address(1), 1, 2);
        peer.set_roster(Time(0), &roster(0..3), &mut out);
        peer.tick(Time(100_000), &mut out);
        let mut machine = Membership::new(Time(0), id(0), address(0), 1, 1);
        machine.set_roster(Time(0), &roster(0..3), &mut Vec::new());
        for effect in out {
            let Effect::Send { mut bytes, .. } = effect else { continue };
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(length - cut % length);
            let mut effects = Vec::new();
            machine.handle(Time(5), Input::Packet { from: id(1), bytes }, &mut effects);
            machine.tick(Time(3_000_000), &mut effects);
        }
    }
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let generation = prop_oneof![0..3_u64, Just(1_001), 1_000..1_010_u64, any::<u64>()];
    (0_usize..6, 0_usize..6, generation)
        .prop_map(|(who, at, generation)| Identity::new(id(who), address(at), generation))
}

fn any_message() -> impl Strategy<Value = Message<Identity>> {
    (0..10, any_identity(), any::<u8>()).prop_map(|(kind, other, probe_number)| match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: other, probe_number },
        3 => Message::IndirectPing { origin: other, probe_number },
        4 => Message::IndirectAck { target: other, probe_number },
        5 => Message::ForwardedAck { origin: other, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        _ => Message::TurnUndead,
    })
}

fn any_update() -> impl Strategy<Value = Member<Identity>> {
    let incarnation = prop_oneof![0..4_u16, Just(u16::MAX)];
    (any_identity(), incarnation, 0_usize..3).prop_map(|(id, incarnation, state)| {
        let states = [foca::State::Alive, foca::State::Suspect, foca::State::Down];
        Member::new(id, incarnation, states[state])
    })
}

proptest! {
    /// Packets that read well and lie: from an enrolled member about others,
    /// strangers (4 and 5) and the receiver (0) itself.
    #[test]
    fn lies_bring_no_stranger_in_and_never_panic(
        packets in proptest::collection::vec(
            (1_usize..6, any_identity(), any::<u16>(), any_identity(), any_message(),
             proptest::collection::vec(any_update(), 0..8), 0_u64..400),
            1..40,
        ),
    ) {
        let mut machine = Membership::new(Time(0), id(0), address(0), 1_001, 1);
        let mut effects = Vec::new();
        machine.set_roster(Time(0), &roster(0..4), &mut effects);
        let mut now = Time(0);
        for (from, src, src_incarnation, dst, message, updates, pause) in packets {
            // Mostly what passes the first checks.
            let src = Identity { member: id(from), ..src };
            let mine = Identity::new(id(0), address(0), machine.generation());
            let dst = if pause % 4 == 0 { dst } else { mine };
            let header = Header { src, src_incarnation, dst, message };
            let Ok((bytes, _)) = (Packet { header, updates }).encode() else { continue };
            now = now + ms(pause);
            machine.handle(now, Input::Packet { from: id(from), bytes }, &mut effects);
            machine.tick(now, &mut effects);
        }
        prop_assert!(machine.directory().keys().eq(roster(1..4).members.iter().map(|m| m.id)
            .collect::<std::collections::BTreeSet<_>>()));
        for effect in effects {
            match effect {
                Effect::Send { to, bytes, .. } => {
                    prop_assert!(machine.directory().contains_key(&to));
                    prop_assert!(bytes.len() <= limits::SWIM_PACKET_MAX);
                    prop_assert!(Packet::decode(&bytes).is_ok() || Aside::decode(&bytes).is_ok());
                }
                Effect::Exchange { to, .. } => prop_assert!(machine.directory().contains_key(&to)),
                Effect::Changed { member, .. }
                | Effect::Reached { member, .. }
                | Effect::Moved { member, .. } => {
                    prop_assert!(machine.directory().contains_key(&member));
                }
                Effect::Generation(_) => {}
            }
        }
    }
}
