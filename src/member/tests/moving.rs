//! Members that come back at other addresses. That words take no way where nobody dials the right
//! one is the simulator's business: here all get through.

use super::*;
use crate::member::{admission::Welcome, change::Change, event::Severity, operate::Purpose};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Cluster {
    /// What the roster of `by` has for everybody.
    fn addresses(&self, by: usize) -> Vec<u16> {
        self.catalog(by).roster.members.iter().map(|m| m.address.port()).collect()
    }

    fn carried(&mut self, who: usize, port: u16) {
        self.kill(who);
        self.start_at(who, at(port), vec![], BTreeMap::new());
    }
}

#[test]
fn a_member_that_moved_has_its_address_put_into_the_roster_once_it_has_settled() {
    let mut cluster = Cluster::new(3);
    let before = cluster.catalog(0).sequence;
    cluster.carried(1, 2_001);
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.addresses(0), [1_000, 1_001, 1_002], "it may be gone again in a moment");
    assert_eq!(cluster.told("m1 is reached at 127.0.0.1:2001 now; it was at 127.0.0.1:1001"), 2);
    cluster.run(Duration::from_secs(8));
    for by in 0..3 {
        assert_eq!(cluster.addresses(by), [1_000, 2_001, 1_002]);
        assert!(cluster.catalog(by).roster.members[1].voter, "it keeps its vote");
    }
    assert_eq!(cluster.catalog(0).sequence, before + 1, "once");
    assert_eq!(cluster.told("the roster has 127.0.0.1:2001 for m1 now"), 1);
    assert_eq!(cluster.told("m1 is reached at 127.0.0.1:2001 now"), 2, "that is no news any more");
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.catalog(0).sequence, before + 1);
}

#[test]
fn without_a_majority_the_roster_stays() {
    let mut cluster = Cluster::new(3);
    cluster.kill(0);
    cluster.kill(2);
    cluster.carried(1, 2_001);
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.addresses(1), [1_000, 1_001, 1_002]);
    assert!(cluster.sought.is_empty(), "nobody named an address");
}

#[test]
fn two_that_change_places_change_addresses() {
    let mut cluster = Cluster::new(3);
    let before = cluster.catalog(0).sequence;
    cluster.kill(2);
    cluster.carried(1, 1_002);
    cluster.run(Duration::from_secs(30));
    assert_eq!(cluster.addresses(0), [1_000, 1_001, 1_002], "for all it knows m2 is there");
    assert_eq!(cluster.told("this member runs at 127.0.0.1:1002, and the roster keeps"), 1);
    cluster.start_at(2, at(1_001), vec![], BTreeMap::new());
    cluster.run(Duration::from_secs(60));
    for by in 0..3 {
        assert_eq!(cluster.addresses(by), [1_000, 1_002, 1_001]);
    }
    assert_eq!(cluster.catalog(0).sequence, before + 1, "in one step");
}

#[test]
fn an_address_that_is_anothers_is_not_taken() {
    let mut cluster = Cluster::new(3);
    cluster.carried(1, 1_002);
    cluster.run(Duration::from_secs(120));
    assert_eq!(cluster.addresses(0), [1_000, 1_001, 1_002]);
    assert_eq!(cluster.told("127.0.0.1:1002 is the address of m2 there"), 1, "it is told once");
}

#[test]
fn addresses_that_an_operator_named_are_asked_until_a_majority_is_in_view() {
    let mut cluster = Cluster::new(3);
    cluster.kill(0);
    cluster.kill(2);
    cluster.kill(1);
    cluster.start_at(1, at(2_001), vec![at(2_000), at(2_001)], BTreeMap::new());
    cluster.run(Duration::from_secs(6));
    let both = [(1, at(2_000)), (1, at(2_001))];
    assert_eq!(cluster.sought, [both, both].concat(), "at once, and after five seconds");
    cluster.run(Duration::from_secs(594));
    let rounds = cluster.sought.len() / 2;
    assert!((25..=35).contains(&rounds), "every twenty seconds in the end: {rounds}");

    // It has reached itself, and then m0, which tells what it knows.
    let id = cluster.ids[1];
    let found = |address, by, bytes| Input::Found { id, address, by, bytes };
    let welcome = Welcome::Admitted {
        committed: Box::new(cluster.record.committed.clone()),
        lineage: cluster.record.lineage.clone(),
    };
    let bytes = wire::encode(Kind::Message, &welcome);
    let (zero, one) = (cluster.ids[0], cluster.ids[1]);
    cluster.send(1, Duration::ZERO, found(at(2_001), one, bytes.clone()));
    cluster.send(1, Duration::ZERO, found(at(2_000), zero, bytes.clone()));
    // A stranger, by its key: what it says is no matter.
    let stranger = SecretKey::from_seed([99; 32]).member();
    cluster.send(1, Duration::ZERO, found(at(2_009), stranger, bytes));
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.told("m0 is reached at 127.0.0.1:2000 now; it was at 127.0.0.1:1000"), 1);
    cluster.sought.clear();
    cluster.run(Duration::from_secs(21));
    assert!(!cluster.sought.is_empty(), "m0 is known, and not live");
    assert!(!cluster.sought.contains(&(1, at(2_001))), "its own address is not asked again");

    cluster.start_at(0, at(2_000), vec![], BTreeMap::new());
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.addresses(1), [2_000, 2_001, 1_002]);
    cluster.sought.clear();
    cluster.run(Duration::from_secs(10));
    assert!(cluster.sought.is_empty(), "a majority is in view: {:?}", cluster.sought);
}

#[test]
fn where_a_live_member_is_known_nobody_is_asked() {
    let mut cluster = Cluster::new(5);
    for who in 1..5 {
        cluster.kill(who);
    }
    // Also where a live one has answered that says that it is elsewhere.
    cluster.start_at(1, at(2_001), vec![at(1_000), at(2_000), at(2_002)], BTreeMap::new());
    cluster.run(Duration::from_secs(6));
    let (id, by, bytes) = (cluster.ids[1], cluster.ids[0], Vec::new());
    cluster.send(1, Duration::ZERO, Input::Found { id, address: at(2_000), by, bytes });
    cluster.sought.clear();
    cluster.run(Duration::from_secs(60));
    assert!(!cluster.sought.is_empty(), "two of five are no majority");
    assert!(cluster.sought.iter().all(|sought| *sought == (1, at(2_002))), "{:?}", cluster.sought);

    // Once a majority was in view, it begins anew.
    cluster.start_at(2, at(1_002), vec![], BTreeMap::new());
    cluster.run(Duration::from_secs(30));
    cluster.sought.clear();
    cluster.kill(2);
    cluster.run(Duration::from_secs(20));
    assert!(cluster.sought.len() >= 2, "{:?}", cluster.sought);
}

impl Cluster {
    /// The roster has `address` for `who`, as a process with a copy of its key would have it.
    fn readdressed(&mut self, who: usize, address: SocketAddr) {
        let member = self.ids[who];
        let was = self.catalog(0).roster.get(member).unwrap().address;
        let change = Change::Address { member, was, address, gone: None };
        let (now, mut effects) = (self.now, Vec::new());
        let zero = self.members[0].as_mut().unwrap();
        zero.propose(now, change, Purpose::Address, &mut effects);
        self.heed(0, effects);
        self.run(Duration::from_secs(1));
    }
}

#[test]
fn two_processes_with_one_key_do_not_fill_the_lineage() {
    let mut cluster = Cluster::new(3);
    cluster.carried(1, 2_001);
    let mut changed_back = 0;
    for _ in 0..360 {
        cluster.run(Duration::from_secs(9));
        if cluster.addresses(0)[1] == 2_001 {
            cluster.readdressed(1, at(1_001));
            changed_back += 1;
        } else {
            cluster.run(Duration::from_secs(1));
        }
    }
    assert!((5..=12).contains(&changed_back), "in an hour: {changed_back}");
    let said = cluster.told("the roster has 127.0.0.1:2001 for m1 now");
    assert!((5..=12).contains(&said), "{said}");
    let text = "changed again and again: another process runs with its key";
    assert_eq!(cluster.told(text), 1, "an operator is told once");
    let told = cluster.events.iter().find(|(_, event)| event.text.contains(text)).unwrap();
    assert_eq!((told.0, told.1.severity), (1, Severity::Critical));
}

#[test]
fn what_is_changed_once_by_another_is_put_right_and_no_alarm() {
    let mut cluster = Cluster::new(3);
    cluster.carried(1, 2_001);
    cluster.run(Duration::from_secs(12));
    assert_eq!(cluster.addresses(0)[1], 2_001);
    cluster.readdressed(1, at(1_001));
    assert_eq!(cluster.addresses(0)[1], 1_001);
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.addresses(0)[1], 2_001);
    assert_eq!(cluster.told("again and again"), 0);
}
