use std::collections::BTreeMap;

use super::*;
use crate::base::{
    AppName, MemberName, SecretKey, WallTime,
    catalog::{AppSpec, Enrolled, Origin, Version, WindowMode},
};

fn id(n: u8) -> MemberId {
    SecretKey::from_seed([n; 32]).member()
}

fn ids(range: impl IntoIterator<Item = u8>) -> BTreeSet<MemberId> {
    range.into_iter().map(id).collect()
}

fn catalog(committed: bool, failover: Failover) -> Catalog {
    let enrolled = |n: u8| Enrolled {
        id: id(n),
        key: SecretKey::from_seed([n; 32]).public(),
        name: MemberName::parse(&format!("m{n}")).unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter: true,
        standby: false,
    };
    let mut catalog = Catalog::found([1; 32], enrolled(1));
    catalog.roster.members = (1..=5).map(enrolled).collect();
    let version = Version {
        number: 1,
        root: Digest::of_bytes(b"new"),
        files: 1,
        bytes: 100,
        spec: AppSpec::default(),
        publisher: id(3),
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    };
    let app = AppName::parse("web").unwrap();
    catalog.window = Some(Window {
        id: 7,
        coordinator: id(1),
        takeovers: 0,
        opened_by: id(3),
        opened_at: WallTime(0),
        scope: vec![app.clone()],
        failover,
        mode: WindowMode::Single,
        publication: Some(Publication { request: 1, app, base: 0, version, committed }),
        asked: None,
    });
    catalog
}

fn at(ms: u64) -> Time {
    Time(ms * 1000)
}

fn reports(whole: &[u8], switched: &[u8], live: &[u8]) -> Reports {
    Reports {
        whole: ids(whole.iter().copied()),
        switched: ids(switched.iter().copied()),
        live: ids(live.iter().copied()),
        bytes: 0,
    }
}

#[test]
fn commit_only_with_a_majority_whole() {
    let catalog = catalog(false, Failover::Auto);
    let mut presider = Presider::default();
    let mut step = |ms, whole: &[u8], live: &[u8]| {
        presider.consider(at(ms), id(1), &catalog, reports(whole, &[], live)).0
    };
    let all = [1, 2, 3, 4, 5];
    assert_eq!(step(0, &[3], &all), None);
    assert_eq!(step(10, &[3, 1], &all), None);
    assert_eq!(step(20, &[3, 1, 2], &all), None, "the rest gets a moment");
    assert_eq!(step(1_020, &[3, 1, 2], &all), Some(Step::Commit));
    assert_eq!(step(1_030, &[3, 1, 2], &[1, 2, 3]), Some(Step::Commit), "all live are whole");
    assert_eq!(step(1_040, &[1, 2], &[1, 2]), None, "two of five never commit");
}

#[test]
fn a_staging_that_stands_still_is_given_up_and_an_orphan_sooner() {
    let catalog = catalog(false, Failover::Auto);
    let mut presider = Presider::default();
    let stalled = reports(&[3], &[], &[1, 2, 3, 4, 5]);
    assert_eq!(presider.consider(at(0), id(1), &catalog, stalled.clone()).0, None);
    let (step, _) = presider.consider(at(59_000), id(1), &catalog, stalled.clone());
    assert_eq!(step, None);
    let mut moving = stalled.clone();
    moving.bytes = 50;
    assert_eq!(presider.consider(at(59_500), id(1), &catalog, moving.clone()).0, None);
    assert_eq!(presider.consider(at(61_000), id(1), &catalog, moving.clone()).0, None);
    let (step, _) = presider.consider(at(119_500), id(1), &catalog, moving);
    assert!(matches!(step, Some(Step::Abandon { .. })), "{step:?}");

    let mut presider = Presider::default();
    let orphan = reports(&[], &[], &[1, 2, 4, 5]);
    assert_eq!(presider.consider(at(0), id(1), &catalog, orphan.clone()).0, None);
    let (step, _) = presider.consider(at(10_000), id(1), &catalog, orphan);
    assert!(matches!(step, Some(Step::Abandon { .. })), "{step:?}");
}

#[test]
fn it_closes_when_all_live_members_have_switched_or_after_a_while() {
    let catalog = catalog(true, Failover::Auto);
    let mut presider = Presider::default();
    let mut step = |ms, switched: &[u8]| {
        presider.consider(at(ms), id(1), &catalog, reports(&[], switched, &[1, 2, 3, 4])).0
    };
    assert_eq!(step(0, &[1, 2]), None);
    assert!(matches!(step(10, &[1, 2, 3, 4]), Some(Step::Finish { .. })));
    assert_eq!(step(20, &[1, 2]), None);
    assert!(matches!(step(30_020, &[1, 2]), Some(Step::Finish { .. })));
}

#[test]
fn the_next_live_one_takes_over_after_a_moment_and_never_on_manual() {
    let catalog_auto = catalog(false, Failover::Auto);
    let without_one = reports(&[3], &[], &[2, 3, 4, 5]);
    let mut second = Presider::default();
    let mut third = Presider::default();
    let ask = |p: &mut Presider, ms, me, c: &Catalog| {
        p.consider(at(ms), id(me), c, without_one.clone()).0
    };
    assert_eq!(ask(&mut second, 0, 2, &catalog_auto), None);
    assert_eq!(ask(&mut third, 0, 3, &catalog_auto), None);
    assert_eq!(ask(&mut second, 500, 2, &catalog_auto), Some(Step::TakeOver));
    assert_eq!(ask(&mut third, 900, 3, &catalog_auto), None, "the second one is live");
    let manual = catalog(false, Failover::Manual);
    let mut second = Presider::default();
    assert_eq!(ask(&mut second, 0, 2, &manual), None);
    assert_eq!(ask(&mut second, 60_000, 2, &manual), None);
}

#[test]
fn a_coordinator_that_blinks_is_left_in_office() {
    let catalog = catalog(false, Failover::Auto);
    let mut second = Presider::default();
    let gone = reports(&[3], &[], &[2, 3, 4, 5]);
    let back = reports(&[3], &[], &[1, 2, 3, 4, 5]);
    assert_eq!(second.consider(at(0), id(2), &catalog, gone.clone()).0, None);
    assert_eq!(second.consider(at(400), id(2), &catalog, back).0, None);
    assert_eq!(second.consider(at(600), id(2), &catalog, gone).0, None);
}
