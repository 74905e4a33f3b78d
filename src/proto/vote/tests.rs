use super::*;
use crate::base::{
    MemberName, WallTime,
    catalog::{AppSpec, Application, Enrolled, Origin, Version},
};

const NOW: Time = Time(1_000_000);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn root(n: u8) -> Digest {
    Digest::of_bytes(&[n])
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn catalog(members: u8) -> Catalog {
    let enrolled = |seed: u8| Enrolled {
        id: key(seed).member(),
        key: key(seed).public(),
        name: MemberName::parse(&format!("m{seed}")).unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter: true,
        standby: false,
    };
    let mut catalog = Catalog::found([1; 32], enrolled(1));
    catalog.roster.members = (1..=members).map(enrolled).collect();
    catalog.sequence = 9;
    let version = Version {
        number: 3,
        root: root(0),
        files: 1,
        bytes: 1,
        spec: AppSpec::default(),
        publisher: key(1).member(),
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    };
    catalog.applications.insert(app(), Application { versions: vec![version] });
    catalog
}

/// What a member says: the committed root, another, nothing, or late.
#[derive(Clone, Copy)]
enum Says {
    Committed,
    Other(u8),
    New(u8),
    Nothing,
    Late,
}

fn ballot(catalog: &Catalog, seed: u8, says: Says, lacking: bool) -> Ballot {
    let differing = |activated, root, scans| vec![Differing { app: app(), activated, root, scans }];
    let differing = match says {
        Says::Committed => vec![],
        Says::Other(n) => differing(3, Some(root(n)), 2),
        Says::New(n) => differing(3, Some(root(n)), 1),
        Says::Nothing => differing(3, None, 5),
        Says::Late => differing(2, Some(root(99)), 5),
    };
    Ballot {
        member: key(seed).member(),
        sequence: catalog.sequence,
        stamp: 1,
        digest: roots_digest(catalog, &differing),
        differing,
        lacking: if lacking { vec![app()] } else { vec![] },
        whole: vec![],
        staged_bytes: 0,
    }
}

fn verdict(members: u8, says: &[Says], lacking: bool, policy: VotePolicy) -> Verdict {
    let catalog = catalog(members);
    let mut votes = Votes::default();
    for (n, says) in says.iter().enumerate() {
        votes.receive(NOW, ballot(&catalog, n as u8 + 1, *says, lacking)).unwrap();
    }
    votes.tally(NOW, &catalog, &app()).unwrap().verdict(policy)
}

#[test]
fn the_table_of_the_design() {
    use Says::*;
    let majority = |members, says: &[Says]| verdict(members, says, false, VotePolicy::Majority);
    // Eight of nine agree: the ninth is repaired.
    let mut nine = vec![Committed; 8];
    nine.push(Other(1));
    assert_eq!(majority(9, &nine), Verdict::Committed);
    // A minority in view decides nothing, even if it is unanimous.
    assert_eq!(majority(5, &[Other(1), Other(1)]), Verdict::Undecided);
    assert_eq!(majority(5, &[Committed, Committed]), Verdict::Undecided);
    // A strict majority for the same other root, in two scans running.
    assert_eq!(majority(5, &[Other(1), Other(1), Other(1)]), Verdict::Other(root(1)));
    assert_eq!(majority(5, &[Other(1), Other(1), New(1)]), Verdict::Undecided);
    let policy = VotePolicy::Committed;
    assert_eq!(verdict(5, &[Other(1); 3], false, policy), Verdict::Committed);
    // Half is no majority.
    let tie = [Other(1), Other(1), Committed, Committed];
    assert_eq!(majority(4, &tie), Verdict::Committed, "the casting vote");
    assert_eq!(verdict(4, &tie, true, VotePolicy::Majority), Verdict::Hung);
    // All different.
    assert_eq!(majority(3, &[Other(1), Other(2), Other(3)]), Verdict::Committed);
    assert_eq!(verdict(3, &[Other(1), Other(2), Other(3)], true, policy), Verdict::Hung);
    // Two members can repair each other.
    assert_eq!(majority(2, &[Committed, Other(1)]), Verdict::Committed);
    assert_eq!(majority(2, &[Other(1)]), Verdict::Undecided);
    // A majority that lost everything does not make nothing right.
    assert_eq!(majority(3, &[Nothing, Nothing, Nothing]), Verdict::Committed);
    // Late members are not a majority for the old version.
    assert_eq!(majority(3, &[Late, Late, Committed]), Verdict::Undecided);
    // But they wait in vain for what no store and no live tree holds any more.
    assert_eq!(majority(3, &[Late, Late, Other(1)]), Verdict::Undecided);
    assert_eq!(verdict(3, &[Late, Late, Other(1)], true, policy), Verdict::Hung);
    assert_eq!(verdict(3, &[Late, Late, Committed], true, policy), Verdict::Undecided);
    assert_eq!(verdict(3, &[Late], true, policy), Verdict::Undecided);
}

#[test]
fn an_old_ballot_or_one_of_another_sequence_is_not_in_hand() {
    let catalog = catalog(3);
    let mut votes = Votes::default();
    for seed in 1..=3 {
        votes.receive(NOW, ballot(&catalog, seed, Says::Committed, false)).unwrap();
    }
    let at = |now, catalog: &Catalog| {
        votes.tally(now, catalog, &app()).unwrap().verdict(VotePolicy::Majority)
    };
    assert_eq!(at(NOW, &catalog), Verdict::Committed);
    assert_eq!(at(NOW + fresh_for(3), &catalog), Verdict::Undecided);
    let mut later = catalog.clone();
    later.sequence += 1;
    assert_eq!(at(NOW, &later), Verdict::Undecided);
}

#[test]
fn a_ballot_of_a_member_out_of_reach_lapses_until_a_newer_one_comes() {
    let catalog = catalog(3);
    let mut votes = Votes::default();
    for seed in 1..=2 {
        votes.receive(NOW, ballot(&catalog, seed, Says::Committed, false)).unwrap();
    }
    let in_hand = |votes: &Votes| votes.tally(NOW, &catalog, &app()).unwrap().in_hand();
    let mut again = ballot(&catalog, 2, Says::Committed, false);
    votes.lapse(again.member);
    assert_eq!(in_hand(&votes), 1);
    assert_eq!(votes.receive(NOW, again.clone()), Err(BallotError::Stale), "that very one");
    again.stamp += 1;
    votes.receive(NOW, again).unwrap();
    assert_eq!(in_hand(&votes), 2);
}

#[test]
fn repeating_costs_each_member_the_same_in_a_cluster_of_any_size() {
    for members in [1, 5, 64, 1_000, limits::MEMBERS_MAX] {
        let a_second = members as f64 / repeat_every(members).as_secs_f64();
        let most = if members < 64 { 2.5 } else { 1.2 };
        assert!(a_second <= most, "{members} members: {a_second} messages a second");
        assert!(fresh_for(members) > 3 * repeat_every(members), "three may be lost");
    }
}

#[test]
fn a_ballot_counts_once_and_only_the_newest() {
    let catalog = catalog(3);
    let mut votes = Votes::default();
    let first = ballot(&catalog, 1, Says::Committed, false);
    votes.receive(NOW, first.clone()).unwrap();
    assert_eq!(votes.receive(NOW, first), Err(BallotError::Stale));
    let tally = votes.tally(NOW, &catalog, &app()).unwrap();
    assert_eq!(tally.in_hand(), 1);
}

#[test]
fn a_forged_or_contradictory_ballot_is_refused() {
    let catalog = catalog(3);
    let good = ballot(&catalog, 2, Says::Other(1), false);
    assert!(SignedBallot::new(&key(2), &good).open(&catalog).is_ok());
    let forged = SignedBallot::new(&key(3), &good).open(&catalog);
    assert_eq!(forged, Err(BallotError::Signature));
    let stranger = ballot(&catalog, 7, Says::Committed, false);
    let stranger = SignedBallot::new(&key(7), &stranger).open(&catalog);
    assert_eq!(stranger, Err(BallotError::Stranger));
    let mut liar = good;
    liar.digest = root(5);
    let liar = SignedBallot::new(&key(2), &liar).open(&catalog);
    assert_eq!(liar, Err(BallotError::Contradiction));
}

#[test]
fn only_those_that_it_is_placed_on_are_right_about_it() {
    use Says::*;
    let mut catalog = catalog(5);
    for at in [0, 1, 2] {
        catalog.roster.members[at].tags.insert("role".to_owned(), "web".to_owned());
    }
    let web = catalog.applications.get_mut(&app()).unwrap();
    web.versions[0].spec.placement = crate::base::Placement::parse("role == web").ok();
    let tally = |says: [Says; 5], lacking: [bool; 5]| {
        let mut votes = Votes::default();
        for (seed, (says, lacking)) in (1..).zip(says.into_iter().zip(lacking)) {
            votes.receive(NOW, ballot(&catalog, seed, says, lacking)).unwrap();
        }
        votes.tally(NOW, &catalog, &app()).unwrap()
    };
    let none = [false; 5];
    let found = tally([Committed, Committed, Other(1), Other(1), Other(1)], none);
    assert_eq!((found.positions.len(), found.majority), (3, 2));
    assert_eq!(found.verdict(VotePolicy::Majority), Verdict::Committed, "three others say so");
    let found = tally([Committed, Other(1), Other(1), Committed, Committed], none);
    assert_eq!(found.verdict(VotePolicy::Majority), Verdict::Other(root(1)));
    // Whoever else still holds it whole can hand it to them.
    let found = tally([Late, Late, Late, Committed, Committed], [true, true, true, false, true]);
    assert_eq!(found.holders, BTreeSet::from([key(4).member()]));
    assert_eq!(found.verdict(VotePolicy::Majority), Verdict::Undecided);
    let found = tally([Late, Late, Late, Committed, Committed], [true; 5]);
    assert_eq!(found.verdict(VotePolicy::Majority), Verdict::Hung);
}

#[test]
fn it_is_taken_over_once_a_majority_has_switched_and_holds_it() {
    use Says::*;
    let catalog = catalog(3);
    let taken_over = |says: &[(Says, bool)]| {
        let mut votes = Votes::default();
        for (seed, (says, lacking)) in (1..).zip(says) {
            votes.receive(NOW, ballot(&catalog, seed, *says, *lacking)).unwrap();
        }
        votes.tally(NOW, &catalog, &app()).unwrap().is_taken_over()
    };
    assert!(taken_over(&[(Committed, false), (Committed, false)]));
    assert!(taken_over(&[(Committed, false), (Other(1), false)]), "it has drifted since");
    assert!(!taken_over(&[(Committed, false)]), "one of three");
    assert!(!taken_over(&[(Committed, false), (Committed, true)]), "one could not hand it on");
    assert!(!taken_over(&[(Committed, false), (Late, false), (Late, false)]), "not served yet");
}
