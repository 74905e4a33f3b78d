use std::collections::BTreeMap;

use super::*;
use crate::base::{
    Digest, MemberName, SecretKey,
    catalog::{AppSpec, Origin},
};

fn id(n: u8) -> MemberId {
    SecretKey::from_seed([n; 32]).member()
}

fn enrolled(n: u8) -> Enrolled {
    Enrolled {
        id: id(n),
        key: SecretKey::from_seed([n; 32]).public(),
        name: MemberName::parse(&format!("m{n}")).unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter: true,
        standby: false,
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::found([1; 32], enrolled(1));
    catalog.roster.members = (1..=3).map(enrolled).collect();
    catalog.sequence = 5;
    catalog
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn publish(request: u64, base: u64) -> Change {
    let version = Version {
        number: base + 1,
        root: Digest::of_bytes(&request.to_le_bytes()),
        files: 1,
        bytes: 1,
        spec: AppSpec::default(),
        publisher: id(2),
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    };
    let publication = Publication { request, app: app(), base, version, committed: false };
    Change::Open(Box::new(Open {
        coordinator: id(1),
        opened_by: id(2),
        opened_at: WallTime(0),
        scope: vec![],
        failover: None,
        purpose: OpenFor::Publication(Box::new(publication)),
    }))
}

/// Applies `change` as the register does.
fn make(base: &Catalog, change: &Change) -> Catalog {
    let mut next = change.apply(base).unwrap().expect("a change");
    next.sequence = base.sequence + 1;
    // Whatever is applied twice says so, unless somebody else changed it between.
    assert_eq!(change.apply(&next).unwrap_or(None), None, "{change:?}");
    next
}

#[test]
fn two_publishers_never_both_win() {
    let base = catalog();
    let open = make(&base, &publish(1, 0));
    assert_eq!(publish(2, 0).apply(&open).unwrap_err().reason, Reason::Busy);
    let window = open.window.as_ref().unwrap().id;
    let commit = |whole| Change::Commit { window, request: 1, by: id(1), whole };
    let alone = commit(vec![id(2)]);
    assert_eq!(alone.apply(&open).unwrap_err().reason, Reason::Conflict, "one of three holds it");
    let committed = make(&open, &commit(vec![id(1), id(2)]));
    assert_eq!(committed.application(&app()).unwrap().current().number, 1);
    let why = "done".to_owned();
    let closed =
        make(&committed, &Change::Finish { window, request: 1, by: id(1), committed: true, why });
    assert!(closed.window.is_none());
    assert_eq!(closed.outcomes[0].version, Some(1));
    // The second one made its version against nothing: it is told.
    let refusal = publish(2, 0).apply(&closed).unwrap_err();
    assert_eq!(refusal.reason, Reason::Conflict);
    assert!(refusal.why.contains("published version 1 meanwhile"), "{}", refusal.why);
    // The first one, proposed once more by a publisher that lost touch, is known.
    assert_eq!(publish(1, 0).apply(&closed), Ok(None));
    assert!(publish(2, 1).apply(&closed).unwrap().is_some());
}

#[test]
fn a_coordinator_that_was_replaced_commits_nothing_in_a_closed_window() {
    let open = make(&catalog(), &publish(1, 0));
    let window = open.window.as_ref().unwrap().id;
    let finish = |by, committed| {
        let why = "given up".to_owned();
        Change::Finish { window, request: 1, by, committed, why }
    };
    assert_eq!(finish(id(2), false).apply(&open), Ok(None), "it does not preside");
    assert_eq!(finish(id(1), true).apply(&open), Ok(None), "it is not committed");
    let closed = make(&open, &finish(id(1), false));
    assert_eq!(closed.outcomes[0].version, None);
    let late = Change::Commit { window, request: 1, by: id(1), whole: vec![id(1), id(2)] };
    assert_eq!(late.apply(&closed).unwrap_err().reason, Reason::Conflict);
}

#[test]
fn a_held_window_takes_one_publication_at_a_time_and_stays() {
    let hold = |at| {
        Change::Open(Box::new(Open {
            coordinator: id(1),
            opened_by: id(1),
            opened_at: WallTime(at),
            scope: vec![],
            failover: Some(Failover::Manual),
            purpose: OpenFor::Holding,
        }))
    };
    let held = make(&catalog(), &hold(0));
    assert_eq!(hold(1).apply(&held).unwrap_err().reason, Reason::Busy);
    let window = held.window.as_ref().unwrap().id;
    let staged = make(&held, &publish(1, 0));
    assert_eq!(staged.window.as_ref().unwrap().id, window);
    let close = Change::Close { window };
    let given_up = make(&staged, &close);
    assert_eq!((given_up.outcomes[0].request, given_up.outcomes[0].version), (1, None));
    let commit = Change::Commit { window, request: 1, by: id(1), whole: vec![id(1), id(2)] };
    let committed = make(&staged, &commit);
    let finished = make(
        &committed,
        &Change::Finish { window, request: 1, by: id(1), committed: true, why: String::new() },
    );
    assert!(finished.window.as_ref().is_some_and(|w| w.publication.is_none()));
    assert!(make(&finished, &close).window.is_none());
}

#[test]
fn manual_failover_needs_an_order() {
    let mut open = make(&catalog(), &publish(1, 0));
    open.window.as_mut().unwrap().failover = Failover::Manual;
    let window = open.window.as_ref().unwrap().id;
    let step = |by, ordered| Change::TakeOver { window, from: id(1), by, ordered };
    assert_eq!(step(id(2), false).apply(&open).unwrap_err().reason, Reason::Forbidden);
    let taken = make(&open, &step(id(2), true));
    assert_eq!(taken.window.as_ref().unwrap().coordinator, id(2));
    assert_eq!(step(id(3), true).apply(&taken).unwrap_err().reason, Reason::Conflict);
}

#[test]
fn an_invitation_is_used_up_and_expires() {
    let key = SecretKey::from_seed([50; 32]).public();
    let at = WallTime(1_000);
    let invite = Invite { key, expires_at: WallTime(2_000), uses_left: 1, issued_by: id(1) };
    let base = make(&catalog(), &Change::Invite { invite, at });
    let knock = |n, at| Change::Admit { entry: enrolled(n), invite: key, at };
    let late = knock(4, WallTime(3_000)).apply(&base).unwrap_err();
    assert!(late.why.contains("expired"), "{}", late.why);
    let joined = make(&base, &knock(4, at));
    assert!(!joined.roster.get(id(4)).unwrap().voter, "no vote before it runs");
    let second = knock(5, at).apply(&joined).unwrap_err();
    assert!(second.why.contains("used up"), "{}", second.why);
    let unknown = SecretKey::from_seed([51; 32]).public();
    let wrong = Change::Admit { entry: enrolled(5), invite: unknown, at };
    assert_eq!(wrong.apply(&joined).unwrap_err().reason, Reason::Forbidden);
    let voting = make(&joined, &Change::Enfranchise { member: id(4) });
    assert!(voting.roster.get(id(4)).unwrap().voter);
}

#[test]
fn an_invitation_that_is_withdrawn_lets_nobody_in() {
    let key = |n: u8| SecretKey::from_seed([n; 32]).public();
    let at = WallTime(1_000);
    let invited = |base: &Catalog, n: u8, expires_at: u64| {
        let expires_at = WallTime(expires_at);
        let invite = Invite { key: key(n), expires_at, uses_left: 2, issued_by: id(1) };
        make(base, &Change::Invite { invite, at })
    };
    let keys = |catalog: &Catalog| catalog.invites.iter().map(|i| i.key).collect::<Vec<_>>();
    let base = (50..53).fold(catalog(), |base, n| invited(&base, n, 2_000));
    let base = invited(&base, 53, 1_500);

    let knock = |member: u8, n: u8, at| Change::Admit {
        entry: enrolled(member),
        invite: key(n),
        at: WallTime(at),
    };
    let joined = make(&base, &knock(4, 51, 1_000));
    let withdraw = |invite, at| Change::Withdraw { invite, at: WallTime(at) };
    let fewer = make(&joined, &withdraw(Some(key(51)), 1_100));
    assert_eq!(keys(&fewer), [key(50), key(52), key(53)]);
    assert!(fewer.roster.get(id(4)).is_some(), "who has joined stays");
    let refused = knock(5, 51, 1_100).apply(&fewer).unwrap_err();
    assert_eq!(refused.reason, Reason::Forbidden);
    assert!(refused.why.contains("withdrawn"), "{}", refused.why);
    make(&fewer, &knock(5, 50, 1_100));

    // Of all of them those that are over stay, and say why.
    let none = make(&fewer, &withdraw(None, 1_501));
    assert_eq!(keys(&none), [key(53)]);
    let late = knock(5, 53, 1_501).apply(&none).unwrap_err();
    assert!(late.why.contains("expired"), "{}", late.why);
    for (invite, at) in [(None, 1_501), (Some(key(53)), 1_501), (Some(key(60)), 1_000)] {
        assert_eq!(withdraw(invite, at).apply(&none), Ok(None), "{invite:?}");
    }
}

#[test]
fn the_last_voter_stays_and_the_failover_list_is_the_order() {
    let base = catalog();
    let order = make(&base, &Change::Failover { first: vec![id(3), id(2)] });
    let ids: Vec<MemberId> = order.roster.members.iter().map(|m| m.id).collect();
    assert_eq!(ids, [id(3), id(2), id(1)]);
    let two = make(&order, &Change::Remove { member: id(3) });
    let one = make(&two, &Change::Remove { member: id(2) });
    let last = Change::Remove { member: id(1) }.apply(&one).unwrap_err();
    assert_eq!(last.reason, Reason::Invalid);
}

#[test]
fn a_majority_is_one_of_the_roster_that_adopts() {
    let open = make(&catalog(), &publish(1, 0));
    let window = open.window.as_ref().unwrap().id;
    let whole = vec![id(1), id(2)];
    let commit = Change::Commit { window, request: 1, by: id(1), whole: whole.clone() };
    let base = Catalog { window: None, ..make(&open, &commit) };
    let mut version = base.application(&app()).unwrap().current().clone();
    (version.number, version.root) = (2, Digest::of_bytes(b"theirs"));
    let version = Box::new(version);
    let adopt = |whole| Change::AdoptMajority { app: app(), version: version.clone(), whole };
    assert_eq!(adopt(vec![id(2)]).apply(&base).unwrap_err().reason, Reason::Conflict);
    assert_eq!(make(&base, &adopt(whole)).application(&app()).unwrap().current().number, 2);
}

#[test]
fn tags_are_bounded() {
    let base = catalog();
    let set = |list: &[(String, String)]| Change::Tags {
        member: id(2),
        set: list.iter().cloned().collect(),
        unset: BTreeSet::new(),
    };
    let tag = |n: usize| (format!("tag-{n}"), "v".to_owned());
    let many: Vec<_> = (0..limits::TAGS_MAX).map(tag).collect();
    let full = make(&base, &set(&many));
    assert_eq!(full.roster.get(id(2)).unwrap().tags.len(), limits::TAGS_MAX);
    assert_eq!(set(&[tag(99)]).apply(&full).unwrap_err().reason, Reason::Invalid);
    let long = ("v".repeat(limits::TAG_VALUE_MAX + 1), "k".repeat(limits::TAG_KEY_MAX + 1));
    for bad in [
        ("k".to_owned(), long.0),
        (long.1, String::new()),
        (String::new(), String::new()),
        ("k".to_owned(), "a\nb".to_owned()),
    ] {
        assert_eq!(set(&[bad]).apply(&base).unwrap_err().reason, Reason::Invalid);
    }
}

#[test]
fn a_policy_removes_only_while_it_stands_and_leaves_three_voters() {
    let mut base = catalog();
    base.roster.members.push(enrolled(4));
    let expire = Change::Expire { member: id(4), seconds: 600 };
    assert_eq!(expire.apply(&base).unwrap_err().reason, Reason::Conflict, "there is no policy");
    let soon = Change::RemoveAfter { seconds: Some(599) };
    assert_eq!(soon.apply(&base).unwrap_err().reason, Reason::Invalid);
    let base = make(&base, &Change::RemoveAfter { seconds: Some(600) });
    let fewer = make(&base, &expire);
    assert_eq!(fewer.roster.members.len(), 3);
    let next = Change::Expire { member: id(3), seconds: 600 };
    assert_eq!(next.apply(&fewer).unwrap_err().reason, Reason::Conflict);
    let changed = make(&base, &Change::RemoveAfter { seconds: None });
    assert_eq!(expire.apply(&changed).unwrap_err().reason, Reason::Conflict);
}

#[test]
fn a_rule_takes_one_out_of_service_and_not_too_many() {
    let stand_down = |n, keep, at| Change::StandDown {
        member: id(n),
        keep,
        because: "hot".into(),
        at: WallTime(at),
    };
    let base = catalog();
    assert_eq!(stand_down(1, 3, 9).apply(&base).unwrap_err().reason, Reason::Forbidden);
    let next = make(&base, &stand_down(1, 2, 9));
    assert!(next.roster.members[0].standby);
    assert_eq!(stand_down(1, 3, 9).apply(&next), Ok(None), "it is out already");
    assert_eq!(stand_down(9, 0, 9).apply(&base).unwrap_err().reason, Reason::NotFound);
    // A second one at the same moment waits for the first one to be through,
    let after = |at| stand_down(2, 0, at).apply(&next).unwrap_err();
    assert_eq!(after(9 + limits::LEAVING_MS - 1).reason, Reason::Busy);
    assert_eq!(after(9 + limits::LEAVING_MS).reason, Reason::Forbidden, "it takes too long");
    // and is judged by what that one left.
    let drained = make(&next, &Change::Drained { member: id(1) });
    assert_eq!(Change::Drained { member: id(1) }.apply(&drained), Ok(None));
    let refusal = stand_down(2, 0, 9).apply(&drained).unwrap_err();
    assert!(refusal.why.contains("1 would be left in service, and at least 2"), "{refusal}");
    // Those that wait are no part of the half.
    let mut spare = drained.clone();
    spare.roster.members.push(enrolled(4));
    let spare = make(&spare, &Change::Wait { member: id(3) });
    assert_eq!(stand_down(2, 2, 9).apply(&spare).unwrap_err().reason, Reason::Forbidden);
    assert_eq!(stand_down(2, 0, 9).apply(&spare).unwrap_err().reason, Reason::Forbidden);
    let spare = make(&spare, &Change::Standby { member: id(1), standby: false });
    assert!(make(&spare, &stand_down(2, 0, 9)).roster.members[1].standby);
}

#[test]
fn who_was_taken_out_of_service_goes_back_to_where_it_was() {
    let stand_down =
        Change::StandDown { member: id(1), keep: 0, because: "hot".into(), at: WallTime(9) };
    let up = Change::StandUp { member: id(1) };
    let base = catalog();
    assert_eq!(up.apply(&base), Ok(None));
    let down = make(&base, &stand_down);
    let back = make(&down, &up);
    assert_eq!((&back.roster, &back.conduct), (&base.roster, &base.conduct));

    // Whoever waits does so no more while it is not well.
    let waits = make(&base, &Change::Wait { member: id(1) });
    let down = make(&waits, &stand_down);
    assert!(!down.conduct.is_waiting(id(1)) && down.conduct.leaving().count() == 0);
    assert!(make(&down, &up).conduct.is_waiting(id(1)));

    // Where an operator has put it meanwhile, it stays.
    for standby in [true, false] {
        let down = make(&base, &stand_down);
        let byhand = make(&down, &Change::Standby { member: id(1), standby });
        assert_eq!(up.apply(&byhand), Ok(None));
        assert_eq!(byhand.roster.members[0].standby, standby);
    }
    let byhand = make(&base, &Change::Standby { member: id(1), standby: true });
    assert_eq!(stand_down.apply(&byhand), Ok(None));
}

fn rotation(of: u8, to: u8, sequence: u64, cluster: crate::base::ClusterId) -> Change {
    let key = |n| SecretKey::from_seed([n; 32]);
    Change::Rotate(Box::new(Rotation::new(cluster, sequence, &key(of), &key(to))))
}

#[test]
fn a_new_key_keeps_the_name_and_the_place_and_loses_the_vote() {
    let mut base = catalog();
    base.roster.members[1].tags.insert("role".into(), "web".into());
    base.roster.members[1].standby = true;
    let next = make(&base, &rotation(2, 9, base.sequence, base.cluster));
    let mut expected = base.roster.clone();
    let entry = &mut expected.members[1];
    (entry.id, entry.key, entry.voter) = (id(9), enrolled(9).key, false);
    assert_eq!(next.roster, expected);
    let voted = make(&next, &Change::Enfranchise { member: id(9) });
    assert!(voted.roster.members[1].voter);
}

#[test]
fn a_new_key_is_signed_by_both_for_one_catalog_of_one_cluster() {
    let base = catalog();
    let refused = |change: &Change| change.apply(&base).unwrap_err().reason;
    let fine = rotation(2, 9, base.sequence, base.cluster);
    let Change::Rotate(fine) = fine else { unreachable!() };
    let forge = |edit: fn(&mut Rotation)| {
        let mut forged = *fine.clone();
        edit(&mut forged);
        Change::Rotate(Box::new(forged))
    };
    let whose = forge(|r| r.member = id(3));
    assert_eq!(refused(&whose), Reason::Forbidden, "the old key is another member's");
    let stolen = forge(|r| r.key = enrolled(8).key);
    assert_eq!(refused(&stolen), Reason::Forbidden, "the new key did not sign");
    let later = forge(|r| r.sequence += 1);
    assert_eq!(refused(&later), Reason::Forbidden, "it was signed for another catalog");
    let elsewhere = crate::base::catalog::cluster_id(&[9; 32], &base.roster);
    assert_eq!(refused(&rotation(2, 9, base.sequence, elsewhere)), Reason::Forbidden);
    assert_eq!(refused(&rotation(2, 3, base.sequence, base.cluster)), Reason::Forbidden);
    assert_eq!(refused(&rotation(7, 9, base.sequence, base.cluster)), Reason::NotFound);
    // What was not made at its time is never made.
    for sequence in [base.sequence - 1, base.sequence + 1] {
        assert_eq!(refused(&rotation(2, 9, sequence, base.cluster)), Reason::Conflict);
    }
}

#[test]
fn a_new_key_is_refused_where_the_vote_or_a_window_would_be_lost() {
    let change = |base: &Catalog, of| rotation(of, 9, base.sequence, base.cluster).apply(base);
    let mut alone = catalog();
    alone.roster.members.truncate(1);
    assert_eq!(change(&alone, 1).unwrap_err().reason, Reason::Invalid);
    let mut two = catalog();
    two.roster.members.truncate(2);
    assert!(change(&two, 1).unwrap().is_some(), "the other one gives it back");
    let mut waiting = catalog();
    waiting.roster.members[0].voter = false;
    let refusal = change(&waiting, 2).unwrap_err();
    assert_eq!(refusal.reason, Reason::Busy);
    assert!(refusal.why.contains("only 1 of 3"), "{refusal}");
    assert!(change(&waiting, 1).unwrap().is_some(), "it has none to lose");

    let open = make(&catalog(), &publish(1, 0));
    assert_eq!(change(&open, 1).unwrap_err().reason, Reason::Busy, "it presides");
    assert_eq!(change(&open, 2).unwrap_err().reason, Reason::Busy, "it publishes");
    assert!(change(&open, 3).unwrap().is_some());
}

/// Members 1 and 2 are tagged as web; the application is placed on these.
fn placed() -> Catalog {
    let mut catalog = catalog();
    for at in [0, 1] {
        catalog.roster.members[at].tags.insert("role".to_owned(), "web".to_owned());
    }
    let Change::Open(mut open) = publish(1, 0) else { unreachable!() };
    let OpenFor::Publication(publication) = &mut open.purpose else { unreachable!() };
    publication.version.spec.placement = crate::base::Placement::parse("role == web").ok();
    make(&catalog, &Change::Open(open))
}

#[test]
fn a_version_is_committed_by_those_that_it_is_placed_on() {
    let open = placed();
    let window = open.window.as_ref().unwrap().id;
    let commit = |whole: &[u8]| {
        let whole = whole.iter().map(|n| id(*n)).collect();
        Change::Commit { window, request: 1, by: id(1), whole }
    };
    let refusal = commit(&[1, 3]).apply(&open).unwrap_err();
    assert!(refusal.why.contains("placed on"), "{}", refusal.why);
    let committed = make(&open, &commit(&[1, 2]));
    assert_eq!(committed.application(&app()).unwrap().current().number, 1);
}

#[test]
fn nobody_takes_an_applications_last_voter_from_it() {
    let mut base = placed();
    let untag = |n| Change::Tags {
        member: id(n),
        set: BTreeMap::new(),
        unset: BTreeSet::from(["role".to_owned()]),
    };
    let one = make(&base, &untag(1));
    for change in [untag(2), Change::Remove { member: id(2) }] {
        let refusal = change.apply(&one).unwrap_err();
        assert_eq!(refusal.reason, Reason::Conflict);
        assert!(refusal.why.contains("web is placed on `role == web`"), "{}", refusal.why);
    }
    make(&one, &Change::Remove { member: id(1) });
    // Without a vote it would not be one, and one that has none already is not in the way.
    base.roster.members[0].voter = false;
    assert!(untag(2).apply(&base).is_err());
    base.roster.members[1].voter = false;
    let mut last = make(&base, &Change::Remove { member: id(2) });
    // But the last one is: with a new key it has no vote for a while, and holds all of it.
    for change in [untag(1), Change::Remove { member: id(1) }] {
        let refusal = change.apply(&last).unwrap_err();
        assert_eq!(refusal.reason, Reason::Conflict);
        assert!(refusal.why.contains("web is placed on `role == web`"), "{}", refusal.why);
    }
    last.roster.members[0].tags.clear();
    make(&last, &Change::Remove { member: id(1) });

    let Change::Open(mut open) = publish(2, 0) else { unreachable!() };
    let OpenFor::Publication(publication) = &mut open.purpose else { unreachable!() };
    publication.version.spec.placement = crate::base::Placement::parse("role == mail").ok();
    let refusal = Change::Open(open).apply(&catalog()).unwrap_err();
    assert_eq!(refusal.reason, Reason::Invalid);
    assert!(refusal.why.contains("`role == mail`"), "{}", refusal.why);
}

#[test]
fn a_member_has_an_address_of_its_own() {
    let mut base = catalog();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    for (n, entry) in base.roster.members.iter_mut().enumerate() {
        entry.address = at(&format!("192.0.2.{}:7700", n + 1));
    }
    let (first, second) = (base.roster.members[0].address, base.roster.members[1].address);
    let change = |was, address, gone| Change::Address { member: id(1), was, address, gone };
    let there = at("198.51.100.1:7700");
    let moved = make(&base, &change(first, there, None));
    assert_eq!(moved.roster.members[0].address, there);
    assert_eq!(moved.roster.members[1..], base.roster.members[1..]);
    assert!(moved.roster.voters().eq(&moved.roster.members), "who votes stays the same");

    // What an earlier run of it decided is late.
    let late = change(first, at("198.51.100.2:7700"), None);
    assert_eq!(late.apply(&moved).unwrap_err().reason, Reason::Conflict);
    // Another member's, unless that one is gone from there: then they change.
    let taken = change(first, second, None);
    assert_eq!(taken.apply(&base).unwrap_err().reason, Reason::Conflict);
    assert_eq!(
        change(first, second, Some(id(3))).apply(&base).unwrap_err().reason,
        Reason::Conflict
    );
    let exchanged = make(&base, &change(first, second, Some(id(2))));
    let addresses: Vec<SocketAddr> = exchanged.roster.members.iter().map(|m| m.address).collect();
    assert_eq!(addresses, [second, first, base.roster.members[2].address]);
    // Whoever is named for nothing keeps its own.
    assert_eq!(make(&base, &change(first, there, Some(id(2)))), moved);

    for bad in ["0.0.0.0:7700", "198.51.100.1:0", "224.0.0.1:7700", "127.0.0.1:7700", "[::]:7700"] {
        let refusal = change(first, at(bad), None).apply(&base).unwrap_err();
        assert_eq!(refusal.reason, Reason::Invalid, "{bad}");
        assert!(refusal.todo.contains("--advertise"), "{refusal}");
    }
    let unknown = Change::Address { member: id(9), was: first, address: there, gone: None };
    assert_eq!(unknown.apply(&base).unwrap_err().reason, Reason::NotFound);
}
