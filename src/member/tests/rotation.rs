//! New keys, step by step: what the simulator meets by chance.

use super::*;
use crate::{
    base::Reason,
    member::admission::{IS_ENROLLED, Welcome},
};

impl Cluster {
    /// Others say that they don't know `who`, as those do that heard of the change.
    fn disowned_by(&mut self, who: usize, by: &[usize]) {
        for other in by {
            let member = self.ids[*other];
            self.send(who, Duration::ZERO, Input::Disowned { member });
        }
        self.run(Duration::from_secs(1));
    }

    /// `who` stops and starts again with its first record and these next keys.
    fn start_as_at_first(&mut self, who: usize, next_keys: BTreeMap<MemberId, u64>) {
        let address = format!("127.0.0.1:{}", 1_000 + who).parse().unwrap();
        self.start_at(who, address, vec![], next_keys);
    }

    /// As [`Cluster::start_as_at_first`], at `address`, to look for others at `seeds`.
    pub(super) fn start_at(
        &mut self,
        who: usize,
        address: SocketAddr,
        seeds: Vec<SocketAddr>,
        next_keys: BTreeMap<MemberId, u64>,
    ) {
        let key = SecretKey::from_seed([who as u8 + 1; 32]);
        let config = Config { key, address, processors: 2, seeds, seed: 76 + who as u64 };
        let (whole, activated) = (Vec::new(), BTreeMap::new());
        let record = self.record.clone();
        // Higher each time.
        let generation = (1 << 40) + self.now.0;
        let restored = Restored { record, generation, whole, activated, next_keys };
        let mut effects = Vec::new();
        let member = Member::new(self.now, self.wall(), config, restored, &mut effects);
        self.members[who] = Some(member);
        self.heed(who, effects);
    }

    /// What `to` answers to whoever has `key` and asks whether that is enrolled.
    fn told_by(&mut self, to: usize, key: &SecretKey) -> Vec<u8> {
        self.tickets += 1;
        let ticket = self.tickets;
        let from = "127.0.0.1:9".parse().unwrap();
        let (key, exporter, bytes) = (key.public(), [0; 32], IS_ENROLLED.to_vec());
        self.send(to, Duration::ZERO, Input::Knock { ticket, key, exporter, from, bytes });
        self.run(Duration::from_millis(10));
        self.answers.remove(&ticket).expect("every knock is answered")
    }
}

#[test]
fn a_member_is_its_old_self_until_a_majority_knows_the_new_one() {
    let mut cluster = Cluster::new(4);
    let before = cluster.ids[1];
    let second = Duration::from_secs(1);
    let outcome = cluster.ask_within(second, 1, Command::RotateKey).unwrap();
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let entry = cluster.catalog(0).roster.members[1].clone();
    assert_eq!((entry.name.as_str(), entry.voter), ("m1", false));
    assert_ne!(entry.id, before);
    assert_eq!(entry.id, cluster.drawn[0].member());
    assert_eq!(cluster.told("m1 has a new key: it was"), 3);
    assert_eq!(cluster.told("this member has a new key"), 1);
    assert_eq!(cluster.told("m1 is down"), 0, "nobody takes it for lost");

    let refused = cluster.ask_within(second, 1, Command::WindowClose).unwrap_err();
    assert_eq!((refused.reason, refused.why.contains("takes it up")), (Reason::Busy, true));
    cluster.disowned_by(1, &[0]);
    cluster.run(9 * second);
    assert!(cluster.rotated.is_empty(), "one of three voters knows");
    cluster.disowned_by(1, &[2]);
    assert_eq!(cluster.rotated, [(1, entry.id)]);
    assert!(cluster.expelled.is_empty());
}

/// With nobody's word it waits as long as it takes, with a single one a quarter
/// of a minute: the others of that majority may be there no more.
#[test]
fn a_member_that_finds_no_majority_takes_its_new_key_up_when_one_knows() {
    for knows in [false, true] {
        let mut cluster = Cluster::new(4);
        cluster.ask(1, Command::RotateKey).unwrap();
        let id = cluster.drawn[0].member();
        if knows {
            cluster.disowned_by(1, &[0]);
        }
        cluster.run(Duration::from_secs(100));
        let expected = knows.then_some((1, id));
        assert_eq!(cluster.rotated, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_new_key_needs_those_that_give_the_vote_back() {
    let mut cluster = Cluster::new(3);
    cluster.kill(2);
    cluster.run(Duration::from_secs(60));
    let refused = cluster.ask(1, Command::RotateKey).unwrap_err();
    assert_eq!(refused.reason, Reason::NoMajority);
    assert!(refused.why.contains("until 2 of the 2 others give it"), "{refused}");
    assert!(refused.why.contains("missing: m2"), "{refused}");
    assert!(cluster.drawn.is_empty(), "no key is drawn for nothing");
    let alone = Cluster::new(1).ask(0, Command::RotateKey).unwrap_err();
    assert_eq!(alone.reason, Reason::Invalid);
}

#[test]
fn who_died_before_it_heard_of_its_new_key_learns_it_from_those_that_disown_it() {
    let mut cluster = Cluster::new(3);
    cluster.ask(1, Command::RotateKey).unwrap();
    let key = cluster.drawn[0].clone();
    let sequence = cluster.record.committed.catalog.sequence;
    cluster.start_as_at_first(1, BTreeMap::from([(key.member(), sequence)]));
    // For longer than a removed member would go on.
    for _ in 0..10 {
        cluster.disowned_by(1, &[0, 2]);
    }
    assert!(cluster.expelled.is_empty() && cluster.rotated.is_empty());
    let asked: BTreeSet<_> = cluster.asked_as.iter().copied().collect();
    // With the next key because it is disowned, with its own because it sees nobody.
    let ids = [key.member(), cluster.ids[1]];
    let expected = ids.map(|id| [0, 2].map(|of| (1, id, cluster.ids[of])));
    assert_eq!(asked, expected.into_iter().flatten().collect());

    let (bytes, by) = (cluster.told_by(2, &key), cluster.ids[2]);
    cluster.send(1, Duration::ZERO, Input::Told { id: key.member(), by, bytes });
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.catalog(1).roster.members[1].id, key.member());
    cluster.disowned_by(1, &[0, 2]);
    assert_eq!(cluster.rotated, [(1, key.member())]);
}

#[test]
fn who_was_removed_is_removed_whatever_keys_it_has_left() {
    let mut cluster = Cluster::new(3);
    let key = SecretKey::from_seed([99; 32]);
    cluster.ask(0, Command::Remove { name: MemberName::parse("m1").unwrap() }).unwrap();
    cluster.expelled.clear();
    let sequence = cluster.record.committed.catalog.sequence;
    cluster.start_as_at_first(1, BTreeMap::from([(key.member(), sequence)]));
    for other in [0, 2] {
        let (bytes, by) = (cluster.told_by(other, &key), cluster.ids[other]);
        let welcome: Welcome = wire::decode(Kind::Message, &bytes).unwrap();
        let Welcome::Refused(refusal) = welcome else { panic!("it was let in") };
        assert_eq!(refusal.reason, Reason::Forbidden);
        assert!(cluster.expelled.is_empty());
        for _ in 0..5 {
            cluster.disowned_by(1, &[0, 2]);
        }
        cluster.send(1, Duration::ZERO, Input::Told { id: key.member(), by, bytes });
        cluster.disowned_by(1, &[0, 2]);
    }
    assert_eq!(cluster.expelled, [1]);
}

#[test]
fn a_next_key_that_was_refused_is_forgotten_with_the_next_change() {
    let mut cluster = Cluster::new(3);
    let tag = |value: &str| Command::Tags {
        member: None,
        set: BTreeMap::from([("k".to_owned(), value.to_owned())]),
        unset: BTreeSet::new(),
    };
    // The tag is decided while the key is written.
    cluster.tickets += 2;
    let (one, two) = (cluster.tickets - 1, cluster.tickets);
    for (ticket, command) in [(one, tag("v")), (two, Command::RotateKey)] {
        cluster.send(1, Duration::ZERO, Input::Command { ticket, command, by: None });
    }
    cluster.run(Duration::from_secs(12));
    let refused = cluster.replies.remove(&two).unwrap().unwrap_err();
    assert_eq!(refused.reason, Reason::Conflict, "{refused}");
    assert_eq!(cluster.forgotten, [1], "once for what was proposed in vain");
    cluster.ask(1, Command::RotateKey).unwrap();
    assert_eq!(cluster.drawn.len(), 2, "each attempt has a key of its own");
}
