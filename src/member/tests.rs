//! A few whole members in virtual time on a network without faults: what an
//! operator asks for and what the cluster does by itself. Faults are the
//! simulator's business.

use std::collections::BTreeMap;

use super::*;
use crate::{
    base::{
        Refusal,
        catalog::{AppSpec, Application, Enrolled, Failover, Origin, Version, cluster_id},
    },
    member::command::{Command, Outcome},
    proto::catalog::{BallotNumber, Certificate, Lineage, Record},
};

mod asked;
mod moving;
mod rotation;

/// How long a message is on its way.
const WIRE: Duration = Duration::from_millis(1);

struct Cluster {
    now: Time,
    ids: Vec<MemberId>,
    members: Vec<Option<Member>>,
    queue: BTreeMap<(Time, u64), (usize, Input)>,
    tie: u64,
    events: Vec<(usize, Event)>,
    replies: BTreeMap<u64, Result<Outcome, Refusal>>,
    tickets: u64,
    expelled: Vec<usize>,
    /// What every member started with.
    record: Record,
    answers: BTreeMap<u64, Vec<u8>>,
    /// Next keys, in the order in which they were drawn.
    drawn: Vec<SecretKey>,
    forgotten: Vec<usize>,
    asked_as: Vec<(usize, MemberId, MemberId)>,
    rotated: Vec<(usize, MemberId)>,
    /// Who looked for others, and where.
    sought: Vec<(usize, SocketAddr)>,
}

impl Cluster {
    /// So many members, each with a vote, that see each other.
    fn new(count: u8) -> Self {
        let keys: Vec<SecretKey> = (1..=count).map(|n| SecretKey::from_seed([n; 32])).collect();
        let entry = |(n, key): (usize, &SecretKey)| Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse(&format!("m{n}")).unwrap(),
            address: format!("127.0.0.1:{}", 1_000 + n).parse().unwrap(),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let roster = Roster { members: keys.iter().enumerate().map(entry).collect() };
        let nonce = [7; 32];
        let mut catalog = Catalog::found(nonce, roster.members[0].clone());
        catalog.cluster = cluster_id(&nonce, &roster);
        catalog.roster = roster;
        let ballot = BallotNumber { round: 1, proposer: keys[0].member() };
        let certificate = Certificate { header: catalog.header(), ballot, accepts: vec![] };
        let committed = Committed { catalog, certificate };
        let lineage = Lineage::found(&committed.catalog);
        let record = Record { promised: ballot, accepted: None, committed, lineage };
        let mut cluster = Self {
            now: Time(0),
            ids: keys.iter().map(SecretKey::member).collect(),
            members: keys.iter().map(|_| None).collect(),
            queue: BTreeMap::new(),
            tie: 0,
            events: Vec::new(),
            replies: BTreeMap::new(),
            tickets: 0,
            expelled: Vec::new(),
            record: record.clone(),
            answers: BTreeMap::new(),
            drawn: Vec::new(),
            forgotten: Vec::new(),
            asked_as: Vec::new(),
            rotated: Vec::new(),
            sought: Vec::new(),
        };
        for (n, key) in keys.iter().enumerate() {
            let address = format!("127.0.0.1:{}", 1_000 + n).parse().unwrap();
            let (key, seeds, seed) = (key.clone(), Vec::new(), n as u64);
            let config = Config { key, address, processors: 2, seeds, seed };
            let restored = Restored {
                record: record.clone(),
                generation: 1,
                whole: Vec::new(),
                activated: BTreeMap::new(),
                next_keys: BTreeMap::new(),
            };
            let mut effects = Vec::new();
            let member = Member::new(Time(0), WallTime(0), config, restored, &mut effects);
            cluster.members[n] = Some(member);
            cluster.heed(n, effects);
        }
        cluster.run(Duration::from_secs(10));
        for member in cluster.members.iter().flatten() {
            assert_eq!(member.live().len(), usize::from(count), "they see each other");
        }
        cluster
    }

    fn send(&mut self, to: usize, after: Duration, input: Input) {
        self.tie += 1;
        self.queue.insert((self.now + after, self.tie), (to, input));
    }

    fn heed(&mut self, who: usize, effects: Vec<Effect>) {
        let from = self.ids[who];
        // A new id is nobody's until its member starts again.
        let ids = self.ids.clone();
        let index = |id: MemberId| ids.iter().position(|known| *known == id);
        let mut sent = Vec::new();
        for effect in effects {
            match effect {
                Effect::Packet { to, bytes } => {
                    let input = Input::Packet { from, bytes };
                    sent.extend(index(to).map(|to| (to, WIRE, input)));
                }
                Effect::Message { to, bytes } => {
                    let input = Input::Message { from, bytes };
                    sent.extend(index(to).map(|to| (to, WIRE, input)));
                }
                Effect::Persist { token, .. } => {
                    sent.push((who, Duration::ZERO, Input::Persisted { token }));
                }
                Effect::Event(event) => self.events.push((who, event)),
                Effect::Reply { ticket, result } => drop(self.replies.insert(ticket, result)),
                Effect::Expelled { .. } => self.expelled.push(who),
                Effect::Answer { ticket, bytes } => drop(self.answers.insert(ticket, bytes)),
                Effect::NextKey { sequence } => {
                    let key = SecretKey::from_seed([100 + self.drawn.len() as u8; 32]);
                    self.drawn.push(key.clone());
                    sent.push((who, WIRE, Input::NextKey { key, sequence }));
                }
                Effect::ForgetKeys { .. } => self.forgotten.push(who),
                Effect::AskAs { id, to, .. } => self.asked_as.push((who, id, to)),
                Effect::Rotated { to } => self.rotated.push((who, to)),
                Effect::Seek { address, .. } => self.sought.push((who, address)),
                _ => {}
            }
        }
        for (to, after, input) in sent {
            self.send(to, after, input);
        }
    }

    fn wall(&self) -> WallTime {
        WallTime(self.now.0 / 1_000)
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = |m: &Option<Member>| m.as_ref().and_then(Member::deadline);
            let timer = (0..self.members.len())
                .filter_map(|i| due(&self.members[i]).map(|at| (at, i)))
                .min();
            let next = self.queue.keys().next().copied();
            let mut effects = Vec::new();
            match (timer, next) {
                (_, Some(key)) if key.0 <= end && timer.is_none_or(|(at, _)| key.0 <= at) => {
                    self.now = key.0;
                    let (to, input) = self.queue.remove(&key).unwrap();
                    let (now, wall) = (self.now, self.wall());
                    if let Some(member) = &mut self.members[to] {
                        member.handle(now, wall, input, &mut effects);
                        self.heed(to, effects);
                    }
                }
                (Some((at, i)), _) if at <= end => {
                    self.now = self.now.max(at);
                    let (now, wall) = (self.now, self.wall());
                    if let Some(member) = &mut self.members[i] {
                        member.tick(now, wall, &mut effects);
                        self.heed(i, effects);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// It dies without a word.
    fn kill(&mut self, who: usize) {
        self.members[who] = None;
    }

    fn ask(&mut self, who: usize, command: Command) -> Result<Outcome, Refusal> {
        self.ask_within(Duration::from_secs(12), who, command)
    }

    fn ask_within(
        &mut self,
        within: Duration,
        who: usize,
        command: Command,
    ) -> Result<Outcome, Refusal> {
        self.tickets += 1;
        let ticket = self.tickets;
        self.send(who, Duration::ZERO, Input::Command { ticket, command, by: None });
        self.run(within);
        self.replies.remove(&ticket).expect("every command is answered")
    }

    fn catalog(&self, who: usize) -> &Catalog {
        self.members[who].as_ref().unwrap().catalog()
    }

    fn names(&self, who: usize) -> Vec<&str> {
        self.catalog(who).roster.members.iter().map(|m| m.name.as_str()).collect()
    }

    fn told(&self, part: &str) -> usize {
        self.events.iter().filter(|(_, event)| event.text.contains(part)).count()
    }
}

/// Whoever collects begins with it: were nothing said, or some of it, kept versions would be gone.
#[test]
fn a_start_says_which_versions_are_kept() {
    let mut record = Cluster::new(1).record;
    let app = AppName::parse("web").unwrap();
    let version = |number: u8| Version {
        number: number.into(),
        root: Digest([number; 32]),
        files: 1,
        bytes: 1,
        spec: AppSpec::default(),
        publisher: record.committed.catalog.roster.members[0].id,
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    };
    let application = Application { versions: [1, 2, 3].map(version).into() };
    record.committed.catalog.applications.insert(app.clone(), application);
    let config = Config {
        key: SecretKey::from_seed([1; 32]),
        address: "127.0.0.1:1".parse().unwrap(),
        processors: 2,
        seeds: Vec::new(),
        seed: 1,
    };
    let restored = Restored {
        record,
        generation: 1,
        // The third is still to come, and somebody may want what the run before had.
        whole: [1, 2, 9].map(|number| Digest([number; 32])).into(),
        activated: BTreeMap::from([(app, 2)]),
        next_keys: BTreeMap::new(),
    };
    let mut effects = Vec::new();
    let _member = Member::new(Time(0), WallTime(0), config, restored, &mut effects);
    let said: Vec<&[Digest]> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Retain { roots } => Some(roots.as_slice()),
            _ => None,
        })
        .collect();
    assert_eq!(said, [[1, 2, 3, 9].map(|number| Digest([number; 32]))]);
}

#[test]
fn members_that_are_down_for_long_are_removed_one_by_one_and_three_voters_stay() {
    let mut cluster = Cluster::new(6);
    cluster.ask(2, Command::RemoveAfter { seconds: Some(600) }).unwrap();
    cluster.kill(4);
    cluster.kill(5);
    cluster.run(Duration::from_secs(500));
    assert_eq!(cluster.names(1).len(), 6, "too early");
    let before = cluster.catalog(1).sequence;
    cluster.run(Duration::from_secs(200));
    assert_eq!(cluster.names(1), ["m0", "m1", "m2", "m3"]);
    assert_eq!(cluster.catalog(1).sequence, before + 2, "one for each catalog");
    assert_eq!(cluster.told("the policy remove-after"), 2);
    cluster.kill(0);
    cluster.run(Duration::from_secs(700));
    assert_eq!(cluster.names(1), ["m1", "m2", "m3"], "also the one that proposed before");
    cluster.kill(2);
    cluster.run(Duration::from_secs(2_000));
    assert_eq!(cluster.names(1), ["m1", "m2", "m3"], "three voters stay");
}

#[test]
fn without_a_majority_no_policy_removes_anybody() {
    let mut cluster = Cluster::new(5);
    cluster.ask(0, Command::RemoveAfter { seconds: Some(600) }).unwrap();
    for gone in 2..5 {
        cluster.kill(gone);
    }
    let before = cluster.catalog(0).sequence;
    cluster.run(Duration::from_secs(2_000));
    assert_eq!((cluster.names(0).len(), cluster.catalog(0).sequence), (5, before));
}

#[test]
fn by_default_nobody_is_removed() {
    let mut cluster = Cluster::new(5);
    cluster.kill(4);
    cluster.run(Duration::from_secs(5_000));
    assert_eq!(cluster.names(0).len(), 5);
}

#[test]
fn an_event_is_told_on_every_member_once() {
    let mut cluster = Cluster::new(5);
    let command = Command::Event { name: "deploy".to_owned(), payload: "v42".to_owned() };
    let outcome = cluster.ask(3, command).unwrap();
    assert_eq!(outcome, Outcome::Told { time: 1, live: 5 });
    let heard: Vec<usize> = cluster
        .events
        .iter()
        .filter(|(_, event)| event.kind == EventKind::User)
        .map(|(who, event)| {
            let user = event.user.as_ref().unwrap();
            assert_eq!((user.origin.as_str(), user.payload.as_str()), ("m3", "v42"));
            *who
        })
        .collect();
    assert_eq!(heard.len(), 5, "{heard:?}");
    assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), 5, "{heard:?}");
}

#[test]
fn a_question_needs_no_majority_and_names_who_is_away() {
    let mut cluster = Cluster::new(5);
    for gone in 2..5 {
        cluster.kill(gone);
    }
    cluster.run(Duration::from_secs(60));
    let query = |name: &str| Command::Query {
        name: name.to_owned(),
        payload: String::new(),
        wait_ms: 3_000,
    };
    let outcome = cluster.ask(0, query("ping")).unwrap();
    let Outcome::Gathered { answers, missing, away } = outcome else { panic!("{outcome:?}") };
    let names: Vec<&str> = answers.iter().map(|a| a.member.as_str()).collect();
    assert_eq!(names, ["m0", "m1"]);
    assert!(answers[1].answer.as_ref().unwrap().starts_with("m1 at "), "{answers:?}");
    assert_eq!((missing.len(), away.len()), (0, 3));
    assert_eq!(cluster.ask(0, query("weather")).unwrap_err().reason, crate::base::Reason::Invalid);
}

#[test]
fn tags_are_changed_by_any_member() {
    let mut cluster = Cluster::new(3);
    let tags = |set: &[(&str, &str)], unset: &[&str]| Command::Tags {
        member: Some(MemberName::parse("m1").unwrap()),
        set: set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        unset: unset.iter().map(|k| (*k).to_owned()).collect(),
    };
    cluster.ask(0, tags(&[("role", "web"), ("zone", "n")], &[])).unwrap();
    cluster.ask(2, tags(&[("role", "db")], &["zone"])).unwrap();
    let expected = BTreeMap::from([("role".to_owned(), "db".to_owned())]);
    assert_eq!(cluster.catalog(1).roster.members[1].tags, expected);
    let sequence = cluster.catalog(0).sequence;
    cluster.ask(2, tags(&[("role", "db")], &["zone"])).unwrap();
    assert_eq!(cluster.catalog(0).sequence, sequence, "nothing to change");
    let refused = cluster.ask(0, tags(&[("a b", "c")], &[])).unwrap_err();
    assert_eq!(refused.reason, crate::base::Reason::Invalid);
}

#[test]
fn operators_are_known_to_all_and_told_without_their_tokens() {
    use crate::base::{OperatorName, Reason, operator::OperatorToken};
    let mut cluster = Cluster::new(3);
    let name = OperatorName::parse("alice").unwrap();
    let token = OperatorToken::new([7; 32]).hash();
    let add = |valid_s| Command::OperatorAdd { name: name.clone(), token, valid_s };
    let remove = || Command::OperatorRemove { name: name.clone() };
    let seen = |cluster: &Cluster, who: usize| {
        let view = cluster.members[who].as_ref().unwrap().view(cluster.now);
        let all = view.operators.into_iter();
        all.map(|o| (o.name, o.by, o.until_ms.is_some(), o.is_over)).collect::<Vec<_>>()
    };
    assert_eq!(cluster.ask(0, remove()).unwrap_err().reason, Reason::NotFound);
    assert_eq!(cluster.ask(0, add(Some(0))).unwrap_err().reason, Reason::Invalid);
    cluster.ask(0, add(Some(600))).unwrap();
    for who in 0..3 {
        let expected = ("alice".to_owned(), "m0".to_owned(), true, false);
        assert_eq!(seen(&cluster, who), [expected]);
        let found = cluster.catalog(who).conduct.operator_with(&token).map(|o| o.name.clone());
        assert_eq!(found, Some(name.clone()));
    }
    assert_eq!(cluster.told("operator alice may act over the network until 1970-01-01"), 1);
    assert_eq!(cluster.ask(1, add(None)).unwrap_err().reason, Reason::Conflict);
    cluster.ask(2, remove()).unwrap();
    assert!((0..3).all(|who| seen(&cluster, who).is_empty()));
    assert_eq!(cluster.told("operator alice may not act over the network any more"), 1);
}

#[test]
fn invitations_are_seen_by_all_until_they_are_withdrawn_or_over() {
    use crate::base::Reason;
    let mut cluster = Cluster::new(3);
    let invite = |n: u8, valid_s| Command::Invite { seed: [n; 32], uses: 3, valid_s };
    let withdraw = |id: Option<&str>| Command::Withdraw { id: id.map(str::to_owned) };
    let id = |n: u8| SecretKey::from_seed([n; 32]).public().to_string();
    let seen = |cluster: &Cluster, who: usize| {
        let view = cluster.members[who].as_ref().unwrap().view(cluster.now);
        view.invites.into_iter().map(|i| (i.id, i.by, i.uses_left)).collect::<Vec<_>>()
    };
    for n in 50..53 {
        cluster.ask(usize::from(n - 50), invite(n, 600)).unwrap();
    }
    let expected: Vec<_> = (50..53).map(|n| (id(n), format!("m{}", n - 50), 3)).collect();
    for who in 0..3 {
        assert_eq!(seen(&cluster, who), expected);
    }
    assert_eq!(cluster.told(&format!("invitation {} was issued, for 3", &id(51)[..12])), 1);

    // Any member takes it back, by what its id begins with, in either case.
    let said = |outcome| match outcome {
        Outcome::Done { text, .. } => text,
        other => panic!("{other:?}"),
    };
    let first = id(50)[..8].to_uppercase();
    let text = said(cluster.ask(2, withdraw(Some(&first))).unwrap());
    assert_eq!(text, format!("invitation {} is withdrawn", &id(50)[..12]));
    assert_eq!(cluster.told(&format!("invitation {} was withdrawn", &id(50)[..12])), 1);
    assert!((0..3).all(|who| seen(&cluster, who) == expected[1..]));
    for (wrong, reason) in [
        (first.as_str(), Reason::NotFound),
        ("", Reason::Invalid),
        (&id(51)[..3], Reason::Invalid),
        ("wxyz", Reason::Invalid),
    ] {
        let refused = cluster.ask(0, withdraw(Some(wrong))).unwrap_err();
        assert_eq!(refused.reason, reason, "{wrong}");
    }
    assert!(seen(&cluster, 0) == expected[1..], "nothing of this withdrew any");

    assert_eq!(said(cluster.ask(1, withdraw(None)).unwrap()), "2 invitations are withdrawn");
    assert!((0..3).all(|who| seen(&cluster, who).is_empty()));
    assert_eq!(said(cluster.ask(1, withdraw(None)).unwrap()), "no invitation is open");

    cluster.ask(0, invite(54, 60)).unwrap();
    assert_eq!(seen(&cluster, 2).len(), 1);
    cluster.run(Duration::from_secs(60));
    assert!((0..3).all(|who| seen(&cluster, who).is_empty()), "it is over by itself");
}

#[test]
fn a_silence_is_seen_by_all_until_it_is_over_or_ended() {
    use crate::base::Reason;
    let mut cluster = Cluster::new(3);
    let named = |name: &str| Some(MemberName::parse(name).unwrap());
    let silence = |member: Option<MemberName>, for_s| Command::Silence {
        app: None,
        rule: None,
        member,
        for_s,
        why: "its disk is replaced".to_owned(),
    };
    let end = || Command::Unsilence { app: None, rule: None, member: named("m1") };
    let seen = |cluster: &Cluster, who: usize| {
        let view = cluster.members[who].as_ref().unwrap().view(cluster.now);
        view.silences.into_iter().map(|s| (s.what, s.by)).collect::<Vec<_>>()
    };
    cluster.ask(0, silence(named("m1"), 600)).unwrap();
    for who in 0..3 {
        assert_eq!(seen(&cluster, who), [("all rules about m1".to_owned(), "m0".to_owned())]);
    }
    assert_eq!(cluster.told("all rules about m1: silenced until 1970-01-01T00:10:10Z by m0"), 1);
    cluster.ask(2, end()).unwrap();
    assert!((0..3).all(|who| seen(&cluster, who).is_empty()));
    assert_eq!(cluster.told("silenced no more: all rules about m1"), 1);
    assert_eq!(cluster.ask(0, end()).unwrap_err().reason, Reason::NotFound);

    cluster.ask(0, silence(named("m1"), 60)).unwrap();
    assert_eq!(seen(&cluster, 2).len(), 1);
    cluster.run(Duration::from_secs(60));
    assert!((0..3).all(|who| seen(&cluster, who).is_empty()), "it is over by itself");
    assert_eq!(cluster.ask(0, end()).unwrap_err().reason, Reason::NotFound);
    for (member, for_s, reason) in [
        (named("m9"), 60, Reason::NotFound),
        (named("m1"), 59, Reason::Invalid),
        (named("m1"), u64::MAX, Reason::Invalid),
        (None, 60, Reason::Invalid),
    ] {
        assert_eq!(cluster.ask(0, silence(member, for_s)).unwrap_err().reason, reason);
    }
}

#[test]
fn what_a_rule_made_of_the_catalog_belongs_to_its_episode() {
    let mut cluster = Cluster::new(3);
    let because = "web-hot-m1-1000".to_owned();
    let at = cluster.wall();
    cluster.ask(1, Command::StandDown { keep: 1, because: because.clone(), at }).unwrap();
    let part = "m1 is out of service, on standby, because of a rule";
    let told = cluster.events.iter().filter(|(_, event)| event.text.contains(part));
    let episodes: Vec<_> = told.map(|(_, event)| event.episode.clone()).collect();
    assert_eq!(episodes, [Some(because)]);
}

#[test]
fn a_majority_that_does_not_know_it_stops_a_member_and_a_minority_does_not() {
    let mut cluster = Cluster::new(5);
    // Nobody talks to it any more, and those that it dials say why.
    let disown = |cluster: &mut Cluster, by: &[usize]| {
        for other in 1..5 {
            cluster.kill(other);
        }
        for _ in 0..20 {
            for other in by {
                let member = cluster.ids[*other];
                cluster.send(0, Duration::ZERO, Input::Disowned { member });
            }
            cluster.run(Duration::from_secs(1));
        }
    };
    disown(&mut cluster, &[1, 2]);
    assert!(cluster.expelled.is_empty(), "two of five are no majority");
    assert_eq!(cluster.told("unknown to m1"), 1);
    disown(&mut cluster, &[1, 2, 3]);
    assert_eq!(cluster.expelled, [0]);
    assert_eq!(cluster.told("was removed from the cluster, and stops"), 1);
}

#[test]
fn another_cluster_at_a_peers_address_is_told_with_what_to_do() {
    let mut cluster = Cluster::new(3);
    for other in 1..3 {
        cluster.kill(other);
    }
    for _ in 0..5 {
        let member = cluster.ids[1];
        cluster.send(0, Duration::ZERO, Input::Foreign { member });
        cluster.run(Duration::from_secs(5));
    }
    let view = cluster.members[0].as_ref().unwrap().view(cluster.now);
    assert!(view.reasons.iter().any(|r| r.contains("recover --rejoin")), "{:?}", view.reasons);
    assert_eq!(cluster.told("another cluster answers at the address of m1"), 1);
    let refused = cluster.ask(0, Command::WindowClose).unwrap_err();
    assert!(refused.why.contains("Another cluster answers"), "{refused}");
}

/// What keeps one member from holding a version is told on every member.
#[test]
fn a_member_that_can_not_store_a_version_says_why_on_all() {
    let mut cluster = Cluster::new(3);
    let app = AppName::parse("web").unwrap();
    let root = Digest::of_bytes(b"version 1");
    let staged = command::Staged { root, files: 1, bytes: 5 };
    let publish = Command::Publish {
        app: app.clone(),
        staged,
        spec: Box::default(),
        message: String::new(),
        base: None,
    };
    let publish = Input::Command { ticket: 0, command: publish, by: None };
    cluster.send(0, Duration::ZERO, publish);
    cluster.run(Duration::from_secs(1));
    let (full, from) = ("no room left on its disk: free some space", cluster.ids[0]);
    let reasons = |cluster: &Cluster, who: usize| {
        cluster.members[who].as_ref().unwrap().view(cluster.now).reasons.join("\n")
    };
    cluster.send(1, Duration::ZERO, Input::Fetched { root, from, result: Ok(()) });
    let fails = || Input::Fetched { root, from, result: Err(FetchFailure::Disk(full.to_owned())) };
    cluster.send(2, Duration::ZERO, fails());
    cluster.run(Duration::from_secs(5));
    assert!(cluster.catalog(2).application(&app).is_some(), "a majority holds it");
    for who in 0..2 {
        let result = Ok(Switched::whole(root));
        let done = Input::Activated { app: app.clone(), version: 1, result };
        cluster.send(who, Duration::ZERO, done);
    }
    // It is tried again and again, and the others are told as often, until the window closes
    // without it, and after that.
    for _ in 0..20 {
        cluster.send(2, Duration::ZERO, fails());
        cluster.run(Duration::from_secs(3));
    }
    let expected = format!("web is not version 1 on m2: {full}.");
    for who in 0..3 {
        let said = reasons(&cluster, who);
        assert_eq!(said.matches(full).count(), 1, "{who}: {said}");
        assert!(said.contains(&expected), "{who}: {said}");
    }
    // Once there is room, it is no longer told, though the switch is yet to come.
    cluster.send(2, Duration::ZERO, Input::Fetched { root, from, result: Ok(()) });
    cluster.run(Duration::from_secs(1));
    for who in 0..3 {
        let said = reasons(&cluster, who);
        assert!(!said.contains(full) && said.contains("not version 1 on m2"), "{who}: {said}");
    }
}

/// It asks one voter for this catalog and for that one at the same ballot.
#[test]
fn a_member_that_said_two_things_is_told_of_once_and_until_it_is_removed() {
    let mut cluster = Cluster::new(4);
    let lie = |cluster: &mut Cluster, round: u64| {
        let ballot = BallotNumber { round, proposer: cluster.ids[1] };
        for failover in [Failover::Manual, Failover::Auto] {
            let mut catalog = cluster.catalog(2).clone();
            catalog.sequence += 1;
            catalog.roster_before = None;
            catalog.conduct.policy.failover = failover;
            let accept = register::Message::Accept { ballot, catalog: Box::new(catalog) };
            let bytes = wire::encode(Kind::Message, &Message::Register(accept));
            let input = Input::Message { from: cluster.ids[1], bytes };
            cluster.send(2, Duration::ZERO, input);
        }
        cluster.run(Duration::from_secs(20));
    };
    let reasons = |cluster: &Cluster| {
        cluster.members[2].as_ref().unwrap().view(cluster.now).reasons.join("\n")
    };
    assert!(!reasons(&cluster).contains("said two things"));
    lie(&mut cluster, 7);
    let told: Vec<&Event> = cluster.events.iter().map(|(_, event)| event).collect();
    let told: Vec<&&Event> = told.iter().filter(|event| event.kind == EventKind::Lie).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].text.starts_with("m1 told two things in ballot 7: it asked"), "{:?}", told[0]);
    let evidence = told[0].evidence.as_ref().expect("the event shows it");
    assert_eq!((evidence.proposer(), evidence.told_by), (cluster.ids[1], cluster.ids[2]));
    let catalog = cluster.catalog(2);
    let proof = register::verify_evidence(evidence, catalog.cluster, &catalog.roster);
    assert_eq!(proof, Ok(register::Proof::Word));
    let json = serde_json::to_string(told[0]).unwrap();
    assert_eq!(&serde_json::from_str::<Event>(&json).unwrap().evidence, &told[0].evidence);
    assert!(reasons(&cluster).contains("Remove it: `althing remove m1`"), "{}", reasons(&cluster));

    lie(&mut cluster, 1_000);
    assert_eq!(cluster.told("told two things"), 1, "it is known");
    let name = MemberName::parse("m1").unwrap();
    cluster.ask(2, Command::Remove { name }).unwrap();
    assert!(!reasons(&cluster).contains("said two things"));
}
