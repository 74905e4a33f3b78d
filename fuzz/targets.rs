//! Every decoder of what comes from the network or from a disk, as a function
//! of bytes that must not panic, hang, or take memory for a mere claim, and
//! whose result must survive being written and read again. What is decoded is
//! also used, as far as that is possible without a cluster.
//!
//! Read by `tests/fuzz_corpus.rs`, which replays the corpus in every test run,
//! and by the fuzzer in this folder.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    net::IpAddr,
};

use althing::{
    base::{
        AppName, Digest, MemberId, MemberName, Network, OperatorName, PublicKey, Reason, Refusal,
        RelPath, RuleName, SecretKey, Signature, Time, WallTime,
        catalog::{AppSpec, Catalog, Enrolled, Invite, Origin, Publication, Version},
        conduct::{Severity, Silence, Silenced},
        limits,
        metric::{Pattern, Series},
        operator::{Operator, OperatorToken},
        tree::{self, Chunk, Entry, Node, Tree},
        wire::{self, Kind},
    },
    cli::edits::{self as lists_from_outside, Listed, Remote},
    driver::{
        Definition,
        addresses::Addresses,
        files::StatCache,
        hooks::Hooks,
        listeners::Listeners,
        routes::Routes,
        secrets::Sealed,
        settings::{Format, Settings},
    },
    gateway::{
        encoding,
        forwarded::{ENTRIES_MAX, Said, said},
        range, request,
        tcp::{
            header::{self, Step, Version as HeaderVersion},
            tunnel::Asked,
        },
    },
    member::{
        Answer, Message, Trouble,
        admission::{Knock, Token, Welcome},
        change::{self, Begin, Change, Open, OpenFor, Rotation, Which},
        command::Command,
    },
    node::{
        Ask, Edits, Heard, Publish, Told,
        inspect::{Item, Question},
        manifest::Manifest,
        telemetry::asking::{Asked as Members, EventsQuestion, Measured, SeriesQuestion, gather},
    },
    proto::{
        balance::lease::{self, Around, Leases, Want},
        catalog::{self, Record, Register, Transition},
        membership::packet::{Aside, Identity, Packet},
        replication::{
            ActionList, Bits, Changes, Gained, IHaveList, Join, Positions, Since, Standing, Update,
            UpdateList,
        },
        rule::parse,
        rumor::{self, Rumor, RumorKind},
        telemetry::{
            Aggregate, Answer as Rows, Bucket, Distribution, Grid, Plan, Reading, Sample, Summary,
            answer, statsd,
        },
        vote::{Ballot, SignedBallot},
    },
    store::{
        ContentStore, record,
        series::{SeriesStore, Wanted},
    },
};
use axum::extract::Query;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use futures_util::FutureExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

/// One decoder.
pub struct Target {
    /// Its name, and the name of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds it; panics where a rule is broken.
    pub run: fn(&[u8]),
    /// Real input to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 35] = [
    Target { name: "message", run: message, seeds: message_seeds },
    Target { name: "register", run: register, seeds: register_seeds },
    Target { name: "record", run: member_record, seeds: member_record_seeds },
    Target { name: "catalog", run: catalog, seeds: catalog_seeds },
    Target { name: "change", run: change, seeds: change_seeds },
    Target { name: "ballot", run: ballot, seeds: ballot_seeds },
    Target { name: "token", run: token, seeds: token_seeds },
    Target { name: "knock", run: knock, seeds: knock_seeds },
    Target { name: "welcome", run: welcome, seeds: welcome_seeds },
    Target { name: "packet", run: packet, seeds: packet_seeds },
    Target { name: "aside", run: aside, seeds: aside_seeds },
    Target { name: "rumor", run: rumors, seeds: rumor_seeds },
    Target { name: "lists", run: lists, seeds: lists_seeds },
    Target { name: "changes", run: tree_changes, seeds: tree_changes_seeds },
    Target { name: "tree", run: listing, seeds: listing_seeds },
    Target { name: "path", run: path, seeds: path_seeds },
    Target { name: "request", run: http_request, seeds: request_seeds },
    Target { name: "forwarded", run: forwarded, seeds: forwarded_seeds },
    Target { name: "manifest", run: manifest, seeds: manifest_seeds },
    Target { name: "addresses", run: addresses, seeds: addresses_seeds },
    Target { name: "hooks", run: hooks, seeds: hooks_seeds },
    Target { name: "routes", run: routes, seeds: routes_seeds },
    Target { name: "listeners", run: listeners, seeds: listeners_seeds },
    Target { name: "proxy_header", run: proxy_header, seeds: proxy_header_seeds },
    Target { name: "tunnel", run: tunnel, seeds: tunnel_seeds },
    Target { name: "rule", run: rule, seeds: rule_seeds },
    Target { name: "ask", run: ask, seeds: ask_seeds },
    Target { name: "answer", run: measured, seeds: measured_seeds },
    Target { name: "statsd", run: lines, seeds: lines_seeds },
    Target { name: "settings", run: settings, seeds: settings_seeds },
    Target { name: "secrets", run: secrets, seeds: secrets_seeds },
    Target { name: "json", run: json, seeds: json_seeds },
    Target { name: "edits", run: edits, seeds: edits_seeds },
    Target { name: "stat_cache", run: stat_cache, seeds: stat_cache_seeds },
    Target { name: "disk", run: disk, seeds: disk_seeds },
];

/// Decodes; what is decoded must come back the same when it is written again.
fn there_and_back<T>(kind: Kind, bytes: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value: T = wire::decode(kind, bytes).ok()?;
    let again = wire::try_encode(kind, &value).expect("what was read can be written");
    assert!(again.len() <= bytes.len(), "the shortest encoding is the one that is written");
    assert_eq!(wire::decode::<T>(kind, &again).as_ref(), Ok(&value));
    Some(value)
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn enrolled(n: u8) -> Enrolled {
    let key = key(n);
    Enrolled {
        id: key.member(),
        key: key.public(),
        name: MemberName::parse(&format!("m{n}")).expect("a good name"),
        address: ([127, 0, 0, 1], 7700).into(),
        tags: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        voter: true,
        standby: false,
    }
}

fn founder() -> Record {
    Record::found([9; 32], &key(1), enrolled(1))
}

fn app() -> AppName {
    AppName::parse("web").expect("a good name")
}

fn version(number: u64) -> Version {
    Version {
        number,
        root: Digest::of_bytes(b"root"),
        files: 1,
        bytes: 5,
        spec: AppSpec { hosts: vec!["www.example.org".to_owned()], ..AppSpec::default() },
        publisher: key(1).member(),
        published_at: WallTime(1_700_000_000_000),
        message: "first".to_owned(),
        origin: Origin::Published,
        asked: None,
    }
}

fn open() -> Change {
    let publication =
        Publication { request: 7, app: app(), base: 0, version: version(1), committed: false };
    Change::Open(Box::new(Open {
        coordinator: key(1).member(),
        opened_by: key(1).member(),
        opened_at: WallTime(3),
        scope: vec![],
        failover: None,
        purpose: OpenFor::Publication(Box::new(publication)),
    }))
}

fn changes() -> Vec<Change> {
    let me = key(1).member();
    let invite =
        Invite { key: key(5).public(), expires_at: WallTime(9), uses_left: 2, issued_by: me };
    vec![
        open(),
        Change::Invite { invite, at: WallTime(1) },
        Change::Admit { entry: enrolled(2), invite: key(5).public(), at: WallTime(2) },
        Change::Enfranchise { member: key(2).member() },
        Change::Remove { member: key(2).member() },
        Change::Failover { first: vec![me] },
        Change::Policy { failover: None, vote: None },
        Change::TakeOver { window: 2, from: me, by: key(2).member(), ordered: true },
        Change::Commit { window: 2, request: 7, by: me, whole: vec![me] },
        Change::Finish { window: 2, request: 7, by: me, committed: true, why: "done".into() },
        Change::Close { window: 2 },
        Change::AdoptMajority { app: app(), version: Box::new(version(2)), whole: vec![me] },
        Change::Rotate(Box::new(Rotation::new(founded().cluster, 1, &key(1), &key(6)))),
        Change::Open(Box::new(Open {
            coordinator: me,
            opened_by: me,
            opened_at: WallTime(4),
            scope: vec![app()],
            failover: None,
            purpose: OpenFor::Automatic,
        })),
        Change::Wait { member: key(2).member() },
        Change::Begin(Box::new(Begin {
            app: app(),
            rule: RuleName::parse("busy").expect("a name"),
            episode: "web-busy-m1-1".into(),
            after: None,
            sentence: Digest::of_bytes(b"a rule"),
            severity: Some(Severity::Critical),
            why: "cluster avg(cpu) > 70% (81%)".into(),
            at: WallTime(5),
            bring: 1,
            of: vec![key(2).member()],
        })),
        Change::Told { which: busy(), said: change::Said::Acts, at: WallTime(6) },
        Change::End { which: busy(), why: "it is over".into(), at: WallTime(7) },
        Change::Forget { which: busy() },
        Change::Silence(Box::new(Silence {
            what: silenced(),
            by: enrolled(2).name,
            why: "a disk is replaced".into(),
            since: WallTime(8),
            until: WallTime(3_600_008),
        })),
        Change::Unsilence { what: silenced(), at: WallTime(9) },
        Change::AddOperator(Box::new(Operator {
            name: alice(),
            token: OperatorToken::new([7; 32]).hash(),
            by: enrolled(2).name,
            since: WallTime(10),
            until: Some(WallTime(2_010)),
        })),
        Change::RemoveOperator { name: alice(), at: WallTime(11) },
        Change::Address {
            member: key(2).member(),
            was: "127.0.0.2:7700".parse().expect("an address"),
            address: "[2001:db8::2]:7700".parse().expect("an address"),
            gone: Some(me),
        },
        Change::Withdraw { invite: Some(key(5).public()), at: WallTime(9) },
        Change::Withdraw { invite: None, at: WallTime(9) },
    ]
}

fn alice() -> OperatorName {
    OperatorName::parse("alice").expect("a name")
}

fn silenced() -> Silenced {
    let Which { app, rule, .. } = busy();
    Silenced { app: Some(app), rule: Some(rule), member: Some(key(2).member()) }
}

fn busy() -> Which {
    let rule = RuleName::parse("busy").expect("a name");
    Which { app: app(), rule, episode: "web-busy-m1-1".into() }
}

fn founded() -> Catalog {
    founder().committed.catalog
}

/// A catalog in which everything has happened: each change made to the last.
fn full_catalog() -> Catalog {
    let mut base = founded();
    for change in changes().into_iter().filter(|c| {
        !matches!(
            c,
            Change::Remove { .. }
                | Change::Forget { .. }
                | Change::Unsilence { .. }
                | Change::RemoveOperator { .. }
                | Change::Withdraw { .. }
        )
    }) {
        if let Ok(Some(next)) = change.apply(&base) {
            base = Catalog { sequence: base.sequence + 1, ..next };
        }
    }
    base
}

fn encoded<T: Serialize>(kind: Kind, values: &[T]) -> Vec<Vec<u8>> {
    values.iter().map(|value| wire::encode(kind, value)).collect()
}

// What members say to each other.

fn message(bytes: &[u8]) {
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

fn message_seeds() -> Vec<Vec<u8>> {
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

/// Messages of the register, taken by the register of a member that is in
/// the middle of a proposal; at the end it must still answer.
fn register(bytes: &[u8]) {
    let Some(message) = there_and_back::<catalog::Message>(Kind::Message, bytes) else { return };
    let mut register: Register<Change> = Register::new(key(1), founder(), 0);
    let mut effects = Vec::new();
    register.propose(Time(0), 1, open(), &mut effects);
    register.persisted(Time(0), 1, &mut effects);
    for from in [key(2).member(), key(1).member()] {
        register.handle(Time(1), from, message.clone(), &mut effects);
        register.persisted(Time(1), u64::MAX, &mut effects);
    }
    while let Some(due) = register.deadline() {
        register.tick(due, &mut effects);
        register.persisted(due, u64::MAX, &mut effects);
    }
    assert!(register.record().lineage.check(register.committed().catalog.cluster).is_ok());
}

fn register_seeds() -> Vec<Vec<u8>> {
    let record = founder();
    let ballot = catalog::BallotNumber { round: 2, proposer: key(1).member() };
    let other = catalog::BallotNumber { round: 3, proposer: key(2).member() };
    let catch_up = || {
        Some(Box::new(catalog::CatchUp {
            committed: record.committed.clone(),
            links: record.lineage.after(0),
        }))
    };
    let accepted = catalog::Accepted { ballot, catalog: Box::new(full_catalog()) };
    let messages = [
        catalog::Message::Prepare { ballot: other, committed: 1 },
        catalog::Message::Promise { ballot, accepted: Some(accepted), catch_up: catch_up() },
        catalog::Message::Refused { ballot, promised: other, catch_up: catch_up() },
        catalog::Message::Accept { ballot: other, catalog: Box::new(full_catalog()) },
        catalog::Message::Accepted {
            ballot,
            digest: full_catalog().digest(),
            signature: Signature([7; 64]),
        },
        catalog::Message::Commit(catch_up().expect("made so")),
        catalog::Message::Ask { sequence: 0 },
    ];
    encoded(Kind::Message, &messages)
}

fn member_record(bytes: &[u8]) {
    let Some(record) = there_and_back::<Record>(Kind::Record, bytes) else { return };
    let cluster = record.committed.catalog.cluster;
    let _ = record.lineage.check(cluster);
    let _ = record.lineage.after(0);
    catalog_is_usable(&record.committed.catalog);
}

fn member_record_seeds() -> Vec<Vec<u8>> {
    let mut busy = founder();
    let ballot = catalog::BallotNumber { round: 3, proposer: key(1).member() };
    busy.accepted = Some(catalog::Accepted { ballot, catalog: Box::new(full_catalog()) });
    encoded(Kind::Record, &[founder(), busy])
}

fn catalog_is_usable(catalog: &Catalog) {
    let _ = (catalog.digest(), catalog.roots());
    for roster in catalog.rosters() {
        let _ = (roster.majority(), roster.digest());
    }
}

fn catalog(bytes: &[u8]) {
    if let Some(catalog) = there_and_back::<Catalog>(Kind::Message, bytes) {
        catalog_is_usable(&catalog);
        for change in changes() {
            let _ = change.apply(&catalog);
        }
    }
}

fn catalog_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Message, &[founder().committed.catalog, full_catalog()])
}

fn change(bytes: &[u8]) {
    let Some(change) = there_and_back::<Change>(Kind::Message, bytes) else { return };
    for base in [founder().committed.catalog, full_catalog()] {
        let Ok(Some(next)) = change.apply(&base) else { continue };
        assert_ne!(next, base, "a change that changes nothing");
        catalog_is_usable(&next);
        for other in changes() {
            let _ = other.apply(&next);
        }
    }
}

fn change_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Message, &changes())
}

fn sample_ballot() -> Ballot {
    Ballot {
        member: key(1).member(),
        sequence: 1,
        stamp: 4,
        digest: Digest::of_bytes(b"roots"),
        differing: vec![],
        lacking: vec![app()],
        whole: vec![Digest::of_bytes(b"root")],
        staged_bytes: 5,
    }
}

fn ballot(bytes: &[u8]) {
    there_and_back::<Ballot>(Kind::Message, bytes);
    if let Some(signed) = there_and_back::<SignedBallot>(Kind::Message, bytes) {
        let _ = signed.open(&founder().committed.catalog);
    }
}

fn ballot_seeds() -> Vec<Vec<u8>> {
    let mut seeds = encoded(Kind::Message, &[sample_ballot()]);
    seeds.extend(encoded(Kind::Message, &[SignedBallot::new(&key(1), &sample_ballot())]));
    seeds
}

// The door.

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

fn token(bytes: &[u8]) {
    there_and_back::<Token>(Kind::Knock, bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(token) = Token::parse(text) {
        assert_eq!(Token::parse(&token.to_text()), Ok(token));
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    vec![sample_token().to_text().into_bytes(), wire::encode(Kind::Knock, &sample_token())]
}

fn knock(bytes: &[u8]) {
    if let Some(knock) = there_and_back::<Knock>(Kind::Knock, bytes) {
        let cluster = sample_token().cluster;
        let _ = knock.is_proven(cluster, &key(2).public(), &[1; 32]);
    }
}

fn knock_seeds() -> Vec<Vec<u8>> {
    let name = MemberName::parse("new").expect("a good name");
    let address = ([10, 0, 0, 1], 7700).into();
    let tags = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let knock = Knock::new(&sample_token(), key(2).public(), &[1; 32], name, address, tags, false);
    encoded(Kind::Knock, &[knock])
}

fn welcome(bytes: &[u8]) {
    let Some(welcome) = there_and_back::<Welcome>(Kind::Message, bytes) else { return };
    let (me, server): (MemberId, PublicKey) = (key(2).member(), key(1).public());
    if let Ok(record) = welcome.accept(&sample_token(), me, server) {
        assert_eq!(record.lineage.check(sample_token().cluster), Ok(()));
    }
}

fn welcome_seeds() -> Vec<Vec<u8>> {
    let Record { committed, lineage, .. } = founder();
    let refusal = Refusal::new(Reason::Forbidden, "what", "why", "todo");
    let committed = Box::new(committed);
    encoded(Kind::Message, &[Welcome::Admitted { committed, lineage }, Welcome::Refused(refusal)])
}

fn packet(bytes: &[u8]) {
    if let Ok(packet) = Packet::decode(bytes) {
        let (again, _) = packet.encode().expect("what was read can be written");
        assert_eq!(Packet::decode(&again).expect("what was written can be read"), packet);
        let _ = packet.third();
    }
}

fn packet_seeds() -> Vec<Vec<u8>> {
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

fn aside(bytes: &[u8]) {
    if let Ok(aside) = Aside::decode(bytes) {
        let again = aside.encode().expect("what was read can be written");
        assert!(Aside::is_one(&again));
        assert_eq!(Aside::decode(&again).expect("what was written can be read"), aside);
    }
}

fn aside_seeds() -> Vec<Vec<u8>> {
    let doubt = Aside::Doubt { suspect: key(2).member(), generation: 4, incarnation: 1 };
    vec![doubt.encode().expect("it fits")]
}

fn rumors(bytes: &[u8]) {
    there_and_back::<rumor::Message>(Kind::Message, bytes);
    if bytes.len() <= Kind::Rumor.size_max() {
        there_and_back::<Rumor>(Kind::Rumor, bytes);
    }
}

fn rumor_seeds() -> Vec<Vec<u8>> {
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

// Content.

fn sample_tree() -> Tree {
    let path = |text: &str| RelPath::parse(text.as_bytes()).expect("a good path");
    let chunk = Chunk { digest: Digest::of_bytes(b"hello"), len: 5 };
    let file = Node::File {
        mode: 0o644,
        size: 5,
        digest: Digest::of_bytes(b"hello"),
        chunks: vec![chunk],
    };
    Tree::new(vec![
        Entry { path: path("css"), node: Node::Directory { mode: 0o755 } },
        Entry { path: path("css/a.css"), node: file.clone() },
        Entry { path: path("index.html"), node: file },
        Entry { path: path("link"), node: Node::Symlink { target: b"index.html".to_vec() } },
    ])
    .expect("a good tree")
}

fn lists(bytes: &[u8]) {
    if let Some(asked) = there_and_back::<ActionList>(Kind::Message, bytes) {
        let _ = asked.bytes();
    }
    there_and_back::<UpdateList>(Kind::Message, bytes);
    there_and_back::<Standing>(Kind::Message, bytes);
    there_and_back::<Gained>(Kind::Message, bytes);
    if let Some(join) = there_and_back::<Join>(Kind::Message, bytes) {
        let bits = Bits::from_wire(join.have, 11);
        assert!(!bits.get(11), "there is nothing beyond the end");
    }
    if let Some(have) = there_and_back::<IHaveList>(Kind::Tree, bytes) {
        let _ = have.root();
        if let Ok(positions) = Positions::of(have.tree()) {
            for (at, chunk) in positions.chunks().iter().enumerate() {
                assert_eq!(positions.position(&chunk.digest), Some(at as u32));
            }
        }
    }
}

fn lists_seeds() -> Vec<Vec<u8>> {
    let chunks: Vec<Chunk> = sample_tree().chunks().into_iter().collect();
    let mut seeds = encoded(Kind::Message, &[ActionList { chunks: chunks.clone() }]);
    let mut updates = UpdateList::between(&Tree::default(), &sample_tree());
    let content = althing::proto::replication::Content::Inline;
    updates.updates.push(Update::Chunk { chunk: chunks[0], content });
    seeds.extend(encoded(Kind::Message, &[updates]));
    seeds.extend(encoded(Kind::Tree, &[IHaveList::new(sample_tree())]));
    let positions = Positions::of(&sample_tree()).expect("a good tree");
    let mut have = Bits::new(positions.chunks().len());
    have.set(0);
    let join = Join::new(sample_tree().root(), &positions, &have);
    seeds.extend(encoded(Kind::Message, &[join]));
    seeds.extend(encoded(Kind::Message, &[Standing::Whole, Standing::Elsewhere]));
    seeds.extend(encoded(Kind::Message, &[Gained { all: true, positions: vec![0, 300] }]));
    seeds
}

/// A question for changes, and an answer, made to a tree that it may be of.
fn tree_changes(bytes: &[u8]) {
    there_and_back::<Since>(Kind::Message, bytes);
    let changes = there_and_back::<Changes>(Kind::Tree, bytes);
    let Some(Changes::From { changes, .. }) = changes else { return };
    for base in [Tree::default(), sample_tree()] {
        let Ok(made) = tree::apply(&base, &changes) else { continue };
        let least = tree::changes(&base, &made);
        assert!(least.len() <= changes.len(), "one change of each path is the most");
        let again = tree::apply(&base, &least).expect("they are between two trees");
        assert_eq!(again.root(), made.root());
    }
}

fn tree_changes_seeds() -> Vec<Vec<u8>> {
    let since = Since { root: sample_tree().root(), bases: vec![Tree::default().root()] };
    let mut seeds = encoded(Kind::Message, &[since]);
    let mut entries = sample_tree().entries().cloned().collect::<Vec<_>>();
    entries[3].node = Node::Directory { mode: 0o700 };
    entries.remove(1);
    let other = Tree::new(entries).expect("a good tree");
    let between = |base: &Tree, want: &Tree| Changes::From {
        base: base.root(),
        changes: tree::changes(base, want),
    };
    let answers = [
        Changes::Unknown,
        between(&Tree::default(), &sample_tree()),
        between(&sample_tree(), &other),
        between(&sample_tree(), &Tree::default()),
    ];
    seeds.extend(encoded(Kind::Tree, &answers));
    seeds
}

fn listing(bytes: &[u8]) {
    let Some(tree) = there_and_back::<Tree>(Kind::Tree, bytes) else { return };
    let _ = (tree.root(), tree.chunks(), tree.bytes(), tree.files());
    for entry in tree.entries() {
        assert_eq!(tree.get(&entry.path), Some(&entry.node), "an entry is found by its path");
        let file = entry.path.to_path();
        assert!(file.is_relative() && file.components().count() > 0);
    }
    assert!(tree::changes(&tree, &tree).is_empty());
    let made = tree::apply(&sample_tree(), &tree::changes(&sample_tree(), &tree));
    assert_eq!(made.map(|made| made.root()), Ok(tree.root()));
}

fn listing_seeds() -> Vec<Vec<u8>> {
    encoded(Kind::Tree, &[Tree::default(), sample_tree()])
}

fn path(bytes: &[u8]) {
    let Ok(path) = RelPath::parse(bytes) else { return };
    assert_eq!(path.as_bytes(), bytes);
    let normal = |c| matches!(c, std::path::Component::Normal(_));
    assert!(path.to_path().components().all(normal), "{path:?} leaves the root");
    if let Some(parent) = path.parent() {
        assert_eq!(parent.join(path.file_name()).as_ref(), Ok(&path));
    }
    there_and_back::<RelPath>(Kind::Message, &wire::encode(Kind::Message, &path));
}

fn path_seeds() -> Vec<Vec<u8>> {
    ["index.html", "a/b/c", "..a/b..", "\u{e9}/x"].map(|p| p.as_bytes().to_vec()).to_vec()
}

// The gateway.

fn http_request(bytes: &[u8]) {
    if let Ok(Some((_, used))) = request::parse(bytes) {
        assert!(used > 0 && used <= bytes.len());
        // A head is whole or not, whatever lies behind it.
        assert!(matches!(request::parse(&bytes[..used]), Ok(Some((_, again))) if again == used));
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(wanted) = request::decode_path(text) {
        for component in &wanted.components {
            assert!(!component.is_empty() && component != b"." && component != b"..");
            assert!(!component.contains(&b'/') && !component.contains(&0));
        }
    }
    for size in [0, 1, 1_000, u64::MAX] {
        if let range::Part::Bytes(part) = range::parse(text, size) {
            assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
        }
    }
    let _ = encoding::accepts_gzip(text);
}

fn request_seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        "GET /a%20b/c?d=e HTTP/1.1\r\nHost: a:80\r\nRange: bytes=0-4\r\n\
         If-None-Match: \"x\", W/\"y\"\r\nAccept-Encoding: gzip;q=0.5, br\r\n\r\n",
        "HEAD http://a/b HTTP/1.0\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        "GET /a HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "/css/%2e%2e/a.css/",
        "bytes=5-9",
        "bytes=-18446744073709551615",
        "gzip;q=1.0, *;q=0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// What a proxy says of its client: bounded, one line each, and read again as it was.
fn forwarded(bytes: &[u8]) {
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let peer = IpAddr::from([10, 0, 0, 1]);
    let head = [b"GET / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n\r\n"].concat();
    let Some(said) = said(&head, peer, &trusted) else { return };
    assert!(said.chain.len() <= ENTRIES_MAX && said.chain.len() == said.elements.len());
    assert!(said.client == peer || !said.chain.is_empty());
    let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
    assert!(said.chain.iter().chain(&said.elements).chain(&said.host).all(|text| plain(text)));
    for (name, list) in [("X-Forwarded-For", &said.chain), ("Forwarded", &said.elements)] {
        let line = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: {}\r\n\r\n", list.join(", "));
        let again = heard(line.as_bytes(), peer, &trusted);
        assert_eq!((again.client, again.chain.len()), (said.client, said.chain.len()), "{line}");
    }
}

fn heard(head: &[u8], peer: IpAddr, trusted: &[Network]) -> Said {
    said(head, peer, trusted).expect("the peer is trusted, and the head is one")
}

fn forwarded_seeds() -> Vec<Vec<u8>> {
    [
        "X-Forwarded-For: 6.6.6.6, 2001:db8::1, 10.0.0.2:80\r\nX-Forwarded-Proto: https",
        "X-Forwarded-For: unknown, [::1]:8\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: b:8",
        "Forwarded: for=\"[2001:db8::1]:5\";proto=https;host=\"b,c\", For=10.0.0.2;by=_x",
        "Forwarded: for=6.6.6.6;x=\"\\\", for=\"\r\nForwarded: for=1.2.3.4;proto=http",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

// What people write.

fn manifest(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        let _ = manifest.resolve(Some(app()), vec!["a.example".to_owned()], true);
    }
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let text = "[application]\nname = \"web\"\nhosts = [\"www.example.org\"]\ndefault = true\n\
                path = \"/srv/www\"\nignore = [\"*.log\"]\nindex = \"index.html\"\n\
                not_found = \"404.html\"\n";
    vec![text.as_bytes().to_vec(), b"[application\nname = 3".to_vec()]
}

/// Hooks, as they come with a version.
fn addresses(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(addresses) = Addresses::parse(text) else { return };
    let fine = addresses.check().is_ok();
    assert_eq!(Addresses::read(bytes).is_ok(), fine);
    let Some(canonical) = addresses.text() else { return };
    let again = Addresses::parse(&canonical).expect("what was read can be written");
    assert_eq!(again.check().is_ok(), fine);
    assert_eq!(again.text(), Some(canonical));
}

fn addresses_seeds() -> Vec<Vec<u8>> {
    let all = ["vip = \"10.0.0.100/24\"\n", "vip = [\"fd00::5/64\", \"10.0.0.100/24\"]\n"];
    all.map(|text| text.as_bytes().to_vec()).into()
}

fn hooks(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(hooks) = Hooks::parse(text) else { return };
    let fine = hooks.check().is_ok();
    assert_eq!(Hooks::read(bytes).is_ok(), fine);
    let Some(canonical) = hooks.text() else { return };
    let again = Hooks::parse(&canonical).expect("what was read can be written");
    assert_eq!((&again, again.check().is_ok()), (&hooks, fine));
    assert_eq!(again.text(), Some(canonical));
}

fn hooks_seeds() -> Vec<Vec<u8>> {
    let written = "[hooks.before-switch]\nrun = [\"sh\", \"-c\", 'nginx -t -c \"$ALTHING_NEXT/nginx.conf\"']\n\
                   within = \"90s\"\nuser = \"www-data\"\nsecrets = [\"db-password\"]\n\
                   env = { A = \"b\" }\nlimits = { memory = \"512MB\" }\n\n\
                   [hooks.after-switch]\nrun = [\"bin/reload\"]\ndirectory = \"conf\"\n";
    let hooks = Hooks::parse(written).expect("it is well written");
    let canonical = hooks.text().expect("there are some");
    let wrong = b"[hooks.before-switch]\nrun = []\nwithin = \"1h\"\n".to_vec();
    vec![written.as_bytes().to_vec(), canonical.into_bytes(), wrong]
}

/// Routes as they come with a version; and paths that they are asked for.
fn routes(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (text, asked) = text.split_once('\0').unwrap_or((text, "/api/x%2f/.."));
    let Ok(routes) = Routes::parse(text) else { return };
    let fine = routes.check().is_ok();
    if let Some(canonical) = routes.text() {
        let again = Routes::parse(&canonical).expect("what was read can be written");
        assert_eq!(again.check().is_ok(), fine);
        assert_eq!(again.text(), Some(canonical));
    }
    if let Some(route) = routes.find(asked).filter(|_| fine) {
        assert!(route.rewritten(asked).starts_with('/'));
    }
}

fn routes_seeds() -> Vec<Vec<u8>> {
    let written = "[[routes]]\npath = \"/\"\nservice = \"web\"\n[[routes]]\npath = \"/api/v2\"\n\
                   service = \"api\"\nstrip = true\nwithin = \"5m\"\nbody_max = \"10MB\"\naffinity = \"cookie sid\"\n";
    let asked = format!("{written}\0/%61pi/v2//x/../y");
    let wrong = b"[[routes]]\npath = \"api/..\"\nservice = \"x\"\nwithin = \"0s\"\n".to_vec();
    vec![written.as_bytes().to_vec(), asked.into_bytes(), wrong]
}

/// Rules, and what of one that is none is shown.
fn rule(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match parse(text) {
        Ok(rule) => {
            let written = rule.to_string();
            let again = parse(&written).expect("what was read can be written");
            assert_eq!((again.to_string(), again), (written, rule));
        }
        Err(wrong) => assert_eq!(wrong.shown(text).lines().count(), 3),
    }
}

fn rule_seeds() -> Vec<Vec<u8>> {
    let all = [
        "critical when cpu > 90% for 2m until < 75% for 1m then mail ops, out keep 2 cooldown 10m",
        "warning when cluster min(disk.free \"/srv/a b\") < 50% then mail ops repeat 1d",
        "when time 18:00-23:00 mon-fri America/New_York and not any load > 2 then in 2",
        "when cluster share(requests from MX|continent:EU|10.0.0.0/8, 10m) > 60% then in 1",
        "when count(events service shop, 10m) > 3 or (p99(latency shop, 5m) >= 250ms) then \
         restart shop/web, sync shop at-most 3 in 1h",
    ];
    all.map(|text| text.as_bytes().to_vec()).into()
}

// Measurements.

/// When the store of the targets was told last.
const EDGE: WallTime = WallTime(1_700_000_029_000);

thread_local! {
    /// Half a minute of three series, in a directory that goes with the thread.
    static STORE: RefCell<(SeriesStore, tempfile::TempDir)> = RefCell::new(store());
}

fn store() -> (SeriesStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let begin = WallTime(EDGE.0 - 29_000);
    let mut store = SeriesStore::open(dir.path(), begin).expect("a store in it");
    let series = ["cpu", "latency web", "custom.queue"];
    let [cpu, latency, queue] = series.map(|text| Series::parse(text).expect("a series"));
    for second in 0..30 {
        let at = WallTime(begin.0 + second * 1_000);
        let mut told = Distribution::default();
        told.observe(0.1).expect("a finite number");
        let readings = [
            (cpu.clone(), Reading::Number(second as f64)),
            (latency.clone(), Reading::Spread(told.take(at).expect("one was observed"))),
            (queue.clone(), Reading::Number(1.0)),
        ];
        store.append(at, Time(second * 1_000_000), &readings).expect("it can be written");
    }
    (store, dir)
}

/// Questions about measurements and events: from members, and from the address of a page.
/// Whatever is asked, so many rows are the most, and no more is read than is kept.
fn ask(bytes: &[u8]) {
    if let Ok(ask) = serde_json::from_slice::<Ask>(bytes) {
        let again = serde_json::to_vec(&ask).expect("what was read can be written");
        assert_eq!(serde_json::from_slice(&again).ok().as_ref(), Some(&ask));
        if let Ask::Series { pattern, grid, spreads } = &ask {
            look(pattern, *grid, *spreads);
        }
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let asked = format!("/api/v1/series?{text}")
        .parse()
        .ok()
        .and_then(|uri| Query::<SeriesQuestion>::try_from_uri(&uri).ok());
    let question = asked.map(|Query(question)| question);
    let Some(question) = question.or_else(|| serde_json::from_slice(bytes).ok()) else { return };
    if let Ok(rows) = question.resolve(EDGE) {
        assert!(!question.percentiles || rows.grid.step_ms() % 60_000 == 0, "{rows:?}");
        look(&question.series, rows.grid, question.percentiles);
    }
}

/// What one member reads for a question.
fn look(patterns: &str, grid: Grid, spreads: bool) {
    assert!((1..=limits::BUCKETS_MAX).contains(&grid.rows()) && grid.from() < grid.to());
    for piece in Plan::new(&grid, EDGE) {
        assert!(piece.from < piece.to, "{piece:?}");
        assert!(piece.to - piece.from <= piece.level.slots() + 2, "{piece:?}");
    }
    for text in patterns.split(';') {
        let Ok(pattern) = Pattern::parse(text.trim()) else { return };
        let wanted = Wanted { pattern: pattern.clone(), grid, spreads };
        let found = STORE.with_borrow_mut(|(store, _)| store.query(&wanted));
        let mut told = BTreeSet::new();
        for one in found.expect("so little is never too much") {
            assert!(pattern.matches(&one.series) && one.buckets.len() <= grid.rows());
            let (starts, rows): (Vec<WallTime>, BTreeSet<Option<usize>>) =
                one.buckets.iter().map(|b| (b.start, grid.row(b.start, b.span_ms))).unzip();
            assert!(starts.is_sorted() && rows.len() == starts.len() && !rows.contains(&None));
            assert!(told.insert(one.series), "each is told once");
        }
    }
}

fn ask_seeds() -> Vec<Vec<u8>> {
    let grid = Grid::new(WallTime(EDGE.0 - 29_000), EDGE, 1_000).expect("some time");
    let minutes = Grid::new(WallTime(EDGE.0 - 3_600_000), EDGE, 60_000).expect("some time");
    let asks = [
        Ask::Series { pattern: "cpu;custom.*".to_owned(), grid, spreads: false },
        Ask::Series { pattern: "lat*".to_owned(), grid: minutes, spreads: true },
        Ask::Events(EventsQuestion {
            after: Some(7),
            app: Some(app()),
            ..EventsQuestion::default()
        }),
        Ask::Status { app: None },
    ];
    let mut seeds: Vec<Vec<u8>> =
        asks.iter().map(|ask| serde_json::to_vec(ask).expect("plain data")).collect();
    let question = SeriesQuestion {
        series: "latency *".to_owned(),
        from: EDGE.0 - 600_000,
        to: None,
        step: Some(60_000),
        member: Some(MemberName::parse("m1").expect("a good name")),
        each: true,
        percentiles: true,
    };
    seeds.push(serde_json::to_vec(&question).expect("plain data"));
    seeds.push(b"series=cpu;custom.*&from=1699999999000&to=1700000030000&step=1000".to_vec());
    seeds.push(b"series=*&from=0&to=18446744073709551615&percentiles=true&each=true".to_vec());
    seeds
}

/// What members tell of a series: buckets one by one, put together with those of another one, and
/// what is made of them for people. Nothing in it is beyond its bounds, or no number.
fn measured(bytes: &[u8]) {
    let grid = Grid::new(WallTime(EDGE.0 - 600_000), EDGE, 10_000).expect("some time");
    let buckets: Vec<Bucket> = answer::decode(bytes).map_while(Result::ok).collect();
    assert!(buckets.len() <= limits::BUCKETS_MAX && buckets.len() <= bytes.len());
    let again = answer::encode(&buckets);
    assert!(again.len() <= bytes.len().max(1), "the shortest encoding is the one that is written");
    let back: Vec<Bucket> = answer::decode(&again)
        .map(|bucket| bucket.expect("what was read can be written"))
        .collect();
    assert_eq!(back.len(), buckets.len());
    let members = [key(1).member(), key(2).member()];
    let mut rows = Rows::new(grid, members);
    for member in members {
        rows.take(member, buckets.clone()).expect("each is asked, and once");
    }
    assert_eq!(rows.rows().count(), grid.rows());
    for (_, row) in rows.rows() {
        let Some(Aggregate { summary, sketch }) = row.all() else { continue };
        assert!(row.heard() == 2 && summary.weight() > 0.0 && summary.min() <= summary.max());
        assert!(summary.mean().is_finite() && summary.rms().is_finite());
        let Some(sketch) = sketch else { continue };
        assert!(sketch.bins() <= limits::SKETCH_BINS_MAX);
        for share in [0.0, 0.5, 0.99, 1.0] {
            let value = sketch.quantile(share);
            let (min, max) = (sketch.min(), sketch.max());
            assert!(value >= min && value <= max, "{value:?} of {min:?} to {max:?}");
        }
    }
    for question in [(false, None), (true, None), (false, Some(10_000))] {
        shown(bytes, question);
    }
}

/// The same as it comes over the wire, for people.
fn shown(bytes: &[u8], (each, step): (bool, Option<u64>)) {
    let question = SeriesQuestion {
        series: "latency *".to_owned(),
        from: EDGE.0 - 600_000,
        to: Some(EDGE.0),
        step,
        member: None,
        each,
        percentiles: false,
    };
    let rows = question.resolve(EDGE).expect("a good question");
    let names = ["m1", "m2", "m3"].map(|name| MemberName::parse(name).expect("a good name"));
    let mut members = [1, 2, 3].map(|n| key(n).member()).into_iter().zip(names.clone());
    let live = members.by_ref().take(2).collect();
    let asked = Members { live, down: members.collect() };
    let (to, heard) = mpsc::channel(8);
    let buckets = STANDARD_NO_PAD.encode(bytes);
    for member in &names {
        // The second part is not base64 where the bytes are text.
        let texts = [buckets.clone(), String::from_utf8_lossy(bytes).into_owned()];
        for buckets in texts {
            let told = Told::Series { series: "latency web".to_owned(), buckets };
            to.try_send(Heard { member: member.clone(), told }).expect("there is room");
        }
    }
    for member in &names[..2] {
        let told = Told::Done;
        to.try_send(Heard { member: member.clone(), told }).expect("there is room");
    }
    drop(to);
    let gathered = gather(asked, rows, each, heard).now_or_never().expect("all has been told");
    let measured = gathered.show();
    assert!(measured.silent.len() == 1 && measured.asked.len() == 3 && !measured.cut);
    assert!(measured.series.len() <= if each { 2 } else { 1 });
    let rows_max = if step.is_some() { rows.grid.rows() } else { 1 };
    assert!(measured.series.iter().all(|series| series.rows.len() <= rows_max));
    let json = serde_json::to_vec(&measured).expect("plain data");
    assert_eq!(serde_json::from_slice::<Measured>(&json).ok(), Some(measured));
}

fn measured_seeds() -> Vec<Vec<u8>> {
    let bucket = |back: u64, span_ms, aggregate| Bucket {
        start: WallTime((EDGE.0 - back) / span_ms * span_ms),
        span_ms,
        aggregate,
    };
    let number = |back: u64, value: f64| {
        let sample = Sample::weighed(value, 10.0).expect("finite");
        bucket(back, 10_000, Summary::of(WallTime(EDGE.0 - back), sample).into())
    };
    let spread = |back: u64| {
        let mut told = Distribution::default();
        for value in [0.001, 0.02, 0.02, -3.0, 0.0, 1e9] {
            told.observe(value).expect("finite");
        }
        bucket(back, 10_000, told.take(WallTime(EDGE.0 - back)).expect("some were observed"))
    };
    let second = Summary::of(EDGE, Sample::new(1.5).expect("finite"));
    vec![
        answer::encode(&[number(500_000, 3.0), number(400_000, -7.5)]),
        answer::encode(&[spread(300_000), spread(200_000), number(100_000, 1.0)]),
        answer::encode(&[bucket(3_000, 1_000, second.into()), bucket(2_000, 1_000, second.into())]),
        answer::encode(&[]),
    ]
}

/// What programs tell of themselves, in one packet or two: bounded, all of it numbers that can be
/// kept, and forgotten in the end.
fn lines(bytes: &[u8]) {
    let count = bytes.split(|byte| *byte == b'\n').count() as u64;
    let mut custom = statsd::Custom::default();
    for second in 1..=2 {
        custom.take(bytes);
        assert!(custom.refused() <= count * second);
        let refused_all = custom.refused() == count * second;
        let readings = custom.readings(Time(second * 1_000_000), WallTime(second * 1_000));
        assert!(readings.len() <= limits::CUSTOM_SERIES_MAX && readings.len() as u64 <= count);
        assert!(!refused_all || readings.is_empty(), "what is refused changes nothing");
        for (series, reading) in readings {
            assert_eq!(Series::parse(&series.to_string()).as_ref(), Ok(&series));
            match reading {
                Reading::Number(number) => assert!(number.abs() <= limits::SAMPLE_MAX, "{series}"),
                Reading::Spread(told) => assert!(told.summary.min() <= told.summary.max()),
            }
        }
    }
    assert!(custom.readings(Time(100_000_000_000), WallTime(100_000_000)).is_empty());
    let text = String::from_utf8_lossy(bytes);
    let taken = text.lines().filter_map(|line| statsd::Line::parse(line).ok());
    for statsd::Line { series, .. } in taken {
        assert!(series.name().len() <= limits::SERIES_NAME_MAX, "{series}");
        assert!(series.label().is_none_or(|label| label.len() <= limits::SERIES_LABEL_MAX));
    }
}

fn lines_seeds() -> Vec<Vec<u8>> {
    [
        "queue:42|g\nqueue:+3|g\nqueue:-1.5e3|g|#north\n",
        "orders:1|c\norders.total:2|c|@0.1|#shop:eu,kind:b\r\n\njob:250|ms|@0.5|#a b",
        "Shop/Cart Size:1|g\ncustom.a.b:1e30|c\na.b:9e29|c\nx:inf|g\ny:1|s",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn listeners(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(listeners) = Listeners::parse(text) else { return };
    let fine = listeners.check().is_ok();
    let Some(canonical) = listeners.text() else { return };
    let again = Listeners::parse(&canonical).expect("what was read can be written");
    assert_eq!(again.text(), Some(canonical));
    if fine {
        assert!(again.check().is_ok());
        assert_eq!(again.served(), listeners.served());
        assert!(listeners.clash(&again).is_some(), "each is in its own way");
    }
}

fn listeners_seeds() -> Vec<Vec<u8>> {
    let written = "[[listeners]]\nport = 5432\nservice = \"db\"\nprotocol = \"tcp\"\nproxy = \"v2\"\n\
                   accept_proxy = [\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.1\"]\nidle = \"5m\"\n\
                   connections = 1000\n[[listeners]]\nport = 81\nprotocol = \"http\"\n\
                   address = \"10.0.0.1\"\n";
    let canonical = Listeners::parse(written).expect("it is well written").text();
    let wrong = "[[listeners]]\nport = 0\nidle = \"0s\"\nconnections = 0\naddress = \"::\"\n";
    [written.to_owned(), canonical.expect("there are some"), wrong.to_owned()]
        .map(String::into_bytes)
        .into()
}

/// A header of the PROXY protocol: what it says can be said again, and it is no longer than
/// what came.
fn proxy_header(bytes: &[u8]) {
    match header::parse(bytes) {
        Ok(Step::Whole { parties, used }) => {
            assert!(used > 0 && used <= bytes.len());
            assert_eq!(header::parse(&bytes[..used]), Ok(Step::Whole { parties, used }));
            let Some(parties) = parties else { return };
            for version in [HeaderVersion::V1, HeaderVersion::V2] {
                let again = parties.header(version);
                let (parties, used) = (Some(parties), again.len());
                assert_eq!(header::parse(&again), Ok(Step::Whole { parties, used }));
            }
        }
        Ok(Step::More(count)) => assert!(count > 0 && count <= 4 << 10),
        Ok(Step::Line) => assert!(bytes.len() < 107),
        Err(_) => {}
    }
}

fn parties(client: &str, server: &str) -> header::Parties {
    let parse = |text: &str| text.parse().expect("an address");
    header::Parties::new(parse(client), parse(server))
}

fn proxy_header_seeds() -> Vec<Vec<u8>> {
    let four = parties("192.0.2.1:56324", "198.51.100.2:443");
    let six = parties("[2001:db8::1]:1", "[2001:db8::2]:65535");
    let mut seeds: Vec<Vec<u8>> = [four, six]
        .iter()
        .flat_map(|p| [p.header(HeaderVersion::V1), p.header(HeaderVersion::V2)])
        .collect();
    let mut extended = four.header(HeaderVersion::V2);
    extended[15] += 4;
    extended.extend_from_slice(&[0x04, 0, 1, 0]);
    seeds.extend([extended, b"PROXY UNKNOWN\r\nhello".to_vec()]);
    seeds
}

/// How one member asks another to take a connection.
fn tunnel(bytes: &[u8]) {
    let Ok(Some((asked, used))) = Asked::parse(bytes) else { return };
    assert!(used <= bytes.len());
    let again = asked.head();
    let length = again.len();
    assert_eq!(Asked::parse(&again), Ok(Some((asked, length))));
}

fn tunnel_seeds() -> Vec<Vec<u8>> {
    [parties("192.0.2.1:7", "192.0.2.2:5432"), parties("[2001:db8::1]:7", "[2001:db8::2]:5432")]
        .map(|parties| Asked { app: app(), port: 5432, parties }.head())
        .into()
}

/// Settings, and every file that can be made of them.
fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(settings) = Settings::parse(text) else { return };
    let canonical = settings.to_toml();
    let again = Settings::parse(&canonical).expect("what was read can be written");
    assert_eq!(again, settings);
    assert_eq!(again.to_toml(), canonical);
    let fine = settings.check().is_ok();
    for format in [Format::Json, Format::Toml, Format::Yaml, Format::Env, Format::Ini] {
        let rendered = settings.render(format);
        assert!(rendered.is_ok() || !fine || format == Format::Ini, "{format}: {rendered:?}");
        let back = match (&rendered, format) {
            (Ok(text), Format::Json) => serde_json::from_str(text).ok(),
            (Ok(text), Format::Toml) => toml::from_str(text).ok(),
            _ => continue,
        };
        assert_eq!(back.as_ref(), Some(&settings), "{format}");
    }
}

fn settings_seeds() -> Vec<Vec<u8>> {
    let written = "[settings]\nport = 8080\nratio = 1e-3\ndebug = false\n\
                   hosts = [\"a\", 'b', 3, true]\n\n[settings.database]\nhost = \"db\"\n\
                   tls.on = true\nmotd = \"\"\"\ntwo\nlines\"\"\"\n";
    let canonical = Settings::parse(written).expect("it is well written").to_toml();
    vec![written.as_bytes().to_vec(), canonical.into_bytes(), b"[settings]\na = 07:32:00".to_vec()]
}

/// A document of secrets as it was once sealed for the member of key 1. Each
/// sealing gives another one, so it can't be written anew.
const SEALED: &str = include_str!("sealed.toml");

/// The document, and what is sealed in it.
fn secrets(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(sealed) = Sealed::parse(text) else { return };
    assert_eq!(Sealed::parse(&sealed.to_toml()).as_ref(), Ok(&sealed));
    if let Ok(secrets) = sealed.open(&key(1)) {
        assert!(secrets.names().eq(sealed.names()));
    }
}

fn secrets_seeds() -> Vec<Vec<u8>> {
    let sealed = Sealed::parse(SEALED).expect("what was once written is read");
    let secrets = sealed.open(&key(1)).expect("and opened");
    assert_eq!(secrets.len(), 2);
    vec![SEALED.as_bytes().to_vec()]
}

/// What the admin API reads: commands, publications, changes, questions.
fn json(bytes: &[u8]) {
    fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let again = serde_json::to_vec(&value).expect("what was read can be written");
            let value = Some(value);
            assert_eq!(serde_json::from_slice(&again).ok(), value);
        }
    }
    read::<Command>(bytes);
    read::<Publish>(bytes);
    read::<Question>(bytes);
    read::<Edits>(bytes);
}

fn json_seeds() -> Vec<Vec<u8>> {
    let commands = [
        Command::Invite { seed: [1; 32], uses: 2, valid_s: 60 },
        Command::Withdraw { id: Some("3f9c2a".into()) },
        Command::Leave,
        Command::Rollback { app: app(), version: Some(1) },
        Command::WindowOpen { scope: vec![app()], failover: None, automatic: true },
        Command::Silence {
            app: Some(app()),
            rule: None,
            member: None,
            for_s: 3_600,
            why: "a disk is replaced".into(),
        },
        Command::OperatorAdd {
            name: alice(),
            token: OperatorToken::new([7; 32]).hash(),
            valid_s: Some(3_600),
        },
    ];
    let publish = Publish {
        app: None,
        source: "/srv/www".into(),
        message: "hello".into(),
        base: Some(u64::MAX),
        hosts: vec!["a.example".into()],
        place: Some("/srv/www".to_owned()),
        definitions: [("x-own.toml".to_owned(), "[own]".to_owned())].into(),
    };
    let mut seeds: Vec<Vec<u8>> =
        commands.iter().map(|c| serde_json::to_vec(c).expect("plain data")).collect();
    seeds.push(serde_json::to_vec(&publish).expect("plain data"));
    let questions = [
        Question::Diff { app: app(), from: Some(1), to: None, live: true, text: true },
        Question::Restore { app: app(), number: 3, into: "/tmp/lost".into() },
        Question::Definition { app: app(), name: "x-own.toml".to_owned() },
    ];
    seeds.extend(questions.iter().map(|q| serde_json::to_vec(q).expect("plain data")));
    let changes = lists_from_outside::parse(&by_url().0, &app()).expect("a good list");
    let changes = changes.into_iter().map(|listed| listed.change).collect();
    let edits = Edits { app: app(), changes, message: "films".into(), base: Some(3) };
    seeds.push(serde_json::to_vec(&edits).expect("plain data"));
    seeds.push(serde_json::to_vec(&Question::Lacking(edits)).expect("plain data"));
    seeds
}

/// A list of changes from outside, JSON or XML. What lets somebody in at a URL is shown
/// nowhere, and nothing leads from an encrypted one to one that is not.
fn edits(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(list) = lists_from_outside::parse(text, &app()) else { return };
    for Listed { change, remote, .. } in &list {
        let again = serde_json::to_vec(change).expect("what was read can be written");
        assert_eq!(serde_json::from_slice(&again).ok().as_ref(), Some(change));
        let Some(Remote { address, size, .. }) = remote else { continue };
        assert!(*size <= limits::FILE_MAX && change.content.is_none());
        assert!(matches!(&change.after, Some(Item::File { size: told, .. }) if told == size));
        let shown = address.to_string();
        assert!(!shown.split('/').nth(2).expect("a host").contains('@'), "{shown}");
        assert!(!shown.trim_end_matches("?…").contains('?'), "{shown}");
        for location in ["../x?y", "//h/", "http://h/", "?", text] {
            let Ok(next) = address.follow(location) else { continue };
            assert!(next.is_encrypted() || !address.is_encrypted(), "{address:?} {location}");
        }
    }
}

/// One list, as JSON and as XML.
fn by_url() -> (String, String) {
    let digest = Digest::of_bytes(b"film");
    let url = "https://who:secret@cdn.example:8443/a%20film.mp4?key=secret";
    let json = format!(
        r#"[{{"op":"ADD","path":"film.mp4","url":"{url}",
  "after":{{"kind":"file","mode":"0644","size":4,"digest":"{digest}"}}}},
 {{"op":"SET","path":"index.html","content":"new.html"}},{{"op":"DEL","path":"old"}}]"#
    );
    let xml = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<althing><application name="web"><have><directory path="a&amp;b" mode="0755"/></have><update>
  <add path="film.mp4" url="{url}"><file mode="0644" size="4" digest="{digest}"/></add>
  <set path="index.html" content="new.html"/><del path="old"/>
</update></application></althing>"#
    );
    (json, xml)
}

fn edits_seeds() -> Vec<Vec<u8>> {
    let (list, document) = by_url();
    let synced = format!(r#"[{{"app":"web","lists":{{"update":{list}}}}}]"#);
    [list, document, synced].map(String::into_bytes).into()
}

// The disk.

fn stat_cache(bytes: &[u8]) {
    let cache = StatCache::decode(bytes);
    if let Some(again) = cache.encode() {
        assert_eq!(StatCache::decode(&again), cache);
    }
}

fn stat_cache_seeds() -> Vec<Vec<u8>> {
    vec![StatCache::new().encode().expect("it is small")]
}

/// A record's file, and a pack whose index was lost.
fn disk(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("record");
    fs::write(&file, bytes).expect("a file in it");
    if let Ok(Some(payload)) = record::load(&file) {
        record::save(&file, &payload).expect("what was read can be written");
        assert_eq!(record::load(&file).ok().flatten(), Some(payload));
    }
    let content = dir.path().join("content");
    fs::create_dir_all(content.join("packs")).expect("a directory in it");
    fs::write(content.join("packs/0000000000000001.pack"), bytes).expect("a file in it");
    let store = ContentStore::open(&content).expect("whatever a pack holds, the store opens");
    let known = Digest::of_bytes(b"hello");
    if store.has(&known).expect("an index that answers") {
        assert_eq!(store.read(&known).expect("it was found whole"), b"hello");
    }
}

fn disk_seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("record");
    record::save(&file, b"what was promised").expect("a file in it");
    let mut pack = b"althpak\x01".to_vec();
    for content in [&b"hello"[..], b"world"] {
        pack.extend_from_slice(&(content.len() as u32).to_le_bytes());
        pack.extend_from_slice(&Digest::of_bytes(content).0);
        pack.extend_from_slice(content);
    }
    vec![fs::read(&file).expect("just written"), pack]
}
