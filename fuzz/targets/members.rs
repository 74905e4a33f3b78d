//! What members say to each other, and strangers at the door: messages, packets of the membership,
//! rumors, tokens, and the knock of a newcomer with its answer.

use std::collections::BTreeMap;

use althing::{
    base::{
        Digest, MemberId, MemberName, PublicKey, Reason, Refusal, Time, WallTime,
        catalog::Roster,
        wire::{self, Kind},
    },
    member::{
        Answer, Message, Trouble,
        admission::{Knock, Token, Welcome},
    },
    proto::{
        balance::lease::{self, Around, Leases, Want},
        catalog::{self, Record},
        membership::{
            Effect, Input, Membership,
            packet::{Aside, Identity, Packet},
        },
        rumor::{self, Rumor, RumorKind},
        vote::SignedBallot,
    },
};

use super::{
    agreed::sample_ballot,
    encoded,
    sample::{app, enrolled, founder, key, open},
    there_and_back,
};

pub(super) fn message(bytes: &[u8]) {
    match there_and_back::<Message>(Kind::Message, bytes) {
        Some(Message::Ballot(signed)) => {
            let _ = signed.open(&founder().committed.catalog);
        }
        Some(Message::Address(message)) => leases(&message),
        _ => {}
    }
}

/// Taken by a member that holds an address; it must go on holding it, or say why not.
fn leases(message: &lease::Message) {
    let (me, at) = (key(1).member(), |ms: u64| Time(ms * 1_000));
    let mut leases = Leases::new(Time(0), me, 0, 1);
    leases.set_voters(Time(0), [me].into());
    let wanted = [([10, 0, 0, 9].into(), [me].into())].into();
    let around = Around { wanted, able: true, leaving: false };
    let mut effects = Vec::new();
    leases.tick(at(500), &around, &mut effects);
    assert_eq!(leases.held().count(), 1);
    for (from, ms) in [(key(2).member(), 510), (me, 520)] {
        leases.handle(at(ms), from, message.clone(), &mut effects);
        leases.tick(at(ms + 1), &around, &mut effects);
    }
    leases.tick(at(2_000), &around, &mut effects);
    leases.tick(at(3_000), &around, &mut effects);
    assert_eq!(leases.held().count(), 1);
}

pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let refusal = Refusal::new(Reason::Busy, "what", "why", "todo");
    let messages = [
        Message::Register(catalog::Message::Ask { sequence: 7 }),
        Message::Ballot(SignedBallot::new(&key(1), &sample_ballot())),
        Message::Forward { id: 2, change: Box::new(open()) },
        Message::Forwarded { id: 1, answer: Answer::Refused(refusal) },
        Message::Forwarded { id: 1, answer: Answer::Elsewhere(key(2).member()) },
        Message::Forwarded { id: 1, answer: Answer::Done(9) },
        Message::Resolve { id: 3, app: app() },
        Message::Troubles { list: vec![Trouble { app: app(), why: "no room left".into() }] },
        Message::Address(lease::Message::Ask {
            voters: Digest::of_bytes(b"voters"),
            round: 7,
            wants: vec![Want {
                address: [10, 0, 0, 9].into(),
                consent: Some((key(2).member(), 6)),
            }],
        }),
    ];
    encoded(Kind::Message, &messages)
}

fn sample_token() -> Token {
    Token {
        cluster: founder().committed.catalog.cluster,
        sequence: 1,
        seed: [5; 32],
        expires_at: WallTime(9),
        anchor: founder().lineage.anchor(),
        addresses: vec![([127, 0, 0, 1], 7700).into()],
    }
}

pub(super) fn token(bytes: &[u8]) {
    there_and_back::<Token>(Kind::Knock, bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(token) = Token::parse(text) {
        assert_eq!(Token::parse(&token.to_text()), Ok(token));
    }
}

pub(super) fn token_seeds() -> Vec<Vec<u8>> {
    vec![sample_token().to_text().into_bytes(), wire::encode(Kind::Knock, &sample_token())]
}

pub(super) fn knock(bytes: &[u8]) {
    if let Some(knock) = there_and_back::<Knock>(Kind::Knock, bytes) {
        let cluster = sample_token().cluster;
        let _ = knock.is_proven(cluster, &key(2).public(), &[1; 32]);
    }
}

pub(super) fn knock_seeds() -> Vec<Vec<u8>> {
    let name = MemberName::parse("new").expect("a good name");
    let address = ([10, 0, 0, 1], 7700).into();
    let tags = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let knock = Knock::new(&sample_token(), key(2).public(), &[1; 32], name, address, tags, false);
    encoded(Kind::Knock, &[knock])
}

pub(super) fn welcome(bytes: &[u8]) {
    let Some(welcome) = there_and_back::<Welcome>(Kind::Message, bytes) else { return };
    let (me, server): (MemberId, PublicKey) = (key(2).member(), key(1).public());
    if let Ok(record) = welcome.accept(&sample_token(), me, server) {
        assert_eq!(record.lineage.check(sample_token().cluster), Ok(()));
    }
}

pub(super) fn welcome_seeds() -> Vec<Vec<u8>> {
    let Record { committed, lineage, .. } = founder();
    let refusal = Refusal::new(Reason::Forbidden, "what", "why", "todo");
    let committed = Box::new(committed);
    encoded(Kind::Message, &[Welcome::Admitted { committed, lineage }, Welcome::Refused(refusal)])
}

pub(super) fn packet(bytes: &[u8]) {
    if let Ok(packet) = Packet::decode(bytes) {
        let (again, _) = packet.encode().expect("what was read can be written");
        assert_eq!(Packet::decode(&again).expect("what was written can be read"), packet);
        let _ = packet.third();
    }
}

pub(super) fn packet_seeds() -> Vec<Vec<u8>> {
    let identity = |n: u8| Identity::new(key(n).member(), ([10, 0, 0, n], 7700).into(), 4);
    let messages = [
        foca::Message::Ping(3),
        foca::Message::Ack(3),
        foca::Message::PingReq { target: identity(3), probe_number: 3 },
        foca::Message::Gossip,
        foca::Message::Announce,
    ];
    let packet = |message| Packet {
        header: foca::Header { src: identity(1), src_incarnation: 2, dst: identity(2), message },
        updates: vec![foca::Member::new(identity(3), 1, foca::State::Suspect)],
    };
    messages.into_iter().map(|m| packet(m).encode().expect("it fits").0).collect()
}

pub(super) fn aside(bytes: &[u8]) {
    if let Ok(aside) = Aside::decode(bytes) {
        let again = aside.encode().expect("what was read can be written");
        assert!(Aside::is_one(&again));
        assert_eq!(Aside::decode(&again).expect("what was written can be read"), aside);
    }
}

pub(super) fn aside_seeds() -> Vec<Vec<u8>> {
    let doubt = Aside::Doubt { suspect: key(2).member(), generation: 4, incarnation: 1 };
    vec![doubt.encode().expect("it fits")]
}

/// A member of three that has just started.
fn member(n: u8) -> Membership {
    let roster = Roster { members: (1..=3).map(enrolled).collect() };
    let address = ([127, 0, 0, 1], 7700).into();
    let mut member = Membership::new(Time(0), key(n).member(), address, 4, u64::from(n));
    member.set_roster(Time(0), &roster, &mut Vec::new());
    member
}

/// What a member takes from another's whole state: nobody comes in who is not enrolled, and it
/// goes on.
pub(super) fn exchange(bytes: &[u8]) {
    let mut member = member(1);
    let mut effects = Vec::new();
    for from in [key(2).member(), key(9).member()] {
        let input = Input::Exchange { from, bytes: bytes.to_vec() };
        member.handle(Time(5_000), input, &mut effects);
    }
    assert!(effects.len() < 100, "one message makes {} effects", effects.len());
    for ms in [300, 1_000, 3_000] {
        member.tick(Time(ms * 1_000), &mut effects);
    }
    assert!(!member.is_live(key(9).member()));
    let roster: Vec<MemberId> = (1..=3).map(|n| key(n).member()).collect();
    for effect in effects {
        let named = match effect {
            Effect::Send { to, .. } | Effect::Exchange { to, .. } => to,
            Effect::Reached { member, .. }
            | Effect::Changed { member, .. }
            | Effect::Moved { member, .. } => member,
            Effect::Generation(_) => continue,
        };
        assert!(roster.contains(&named), "{named:?} is not enrolled");
    }
}

/// What two members that have just started send each other.
pub(super) fn exchange_seeds() -> Vec<Vec<u8>> {
    let mut members = [member(1), member(2)];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for ms in (0..3_000).step_by(10) {
        for n in 0..2 {
            let mut effects = Vec::new();
            members[n].tick(Time(ms * 1_000), &mut effects);
            let mut rounds = 0;
            let mut mine = n;
            // What one says makes the other say something.
            while !effects.is_empty() && rounds < 8 {
                let from = key(mine as u8 + 1).member();
                mine = 1 - mine;
                let to = key(mine as u8 + 1).member();
                let mut answers = Vec::new();
                for effect in effects {
                    let input = match effect {
                        Effect::Send { to: receiver, bytes, .. } if receiver == to => {
                            Input::Packet { from, bytes }
                        }
                        Effect::Exchange { to: receiver, bytes } if receiver == to => {
                            seeds.push(bytes.clone());
                            Input::Exchange { from, bytes }
                        }
                        _ => continue,
                    };
                    members[mine].handle(Time(ms * 1_000), input, &mut answers);
                }
                effects = answers;
                rounds += 1;
            }
        }
    }
    // A few of different lengths: from a question of some bytes to all that one knows.
    seeds.sort_by_key(Vec::len);
    seeds.dedup_by_key(|bytes| bytes.len());
    seeds
}

pub(super) fn rumors(bytes: &[u8]) {
    there_and_back::<rumor::Message>(Kind::Message, bytes);
    if bytes.len() <= Kind::Rumor.size_max() {
        there_and_back::<Rumor>(Kind::Rumor, bytes);
    }
}

pub(super) fn rumor_seeds() -> Vec<Vec<u8>> {
    let names = vec![(key(1).member(), 4), (key(2).member(), 5)];
    let messages = [
        rumor::Message::Tell(vec![]),
        rumor::Message::Have(names.clone()),
        rumor::Message::Want(names),
        rumor::Message::Answer { number: 4, text: Some("yes".to_owned()) },
    ];
    let mut seeds = encoded(Kind::Message, &messages);
    let rumor = Rumor {
        origin: key(1).member(),
        number: 4,
        clock: 7,
        kind: RumorKind::Query { wait_ms: 500 },
        name: "load".to_owned(),
        payload: "?".to_owned(),
    };
    seeds.extend(encoded(Kind::Rumor, &[rumor]));
    seeds
}
