//! What the seeds are made of: keys, names, a founder's record, one of every change, and a catalog
//! in which all of them have happened.

use std::collections::BTreeMap;

use althing::{
    base::{
        AppName, Digest, MemberName, OperatorName, RuleName, SecretKey, WallTime,
        catalog::{AppSpec, Catalog, Enrolled, Invite, Origin, Publication, Version},
        conduct::{Severity, Silence, Silenced},
        operator::{Operator, OperatorToken},
    },
    member::change::{self, Begin, Change, Open, OpenFor, Rotation, Which},
    proto::catalog::{Record, Transition},
};

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

pub(super) fn enrolled(n: u8) -> Enrolled {
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

pub(super) fn founder() -> Record {
    Record::found([9; 32], &key(1), enrolled(1))
}

pub(super) fn app() -> AppName {
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

pub(super) fn open() -> Change {
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

pub(super) fn changes() -> Vec<Change> {
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

pub(super) fn alice() -> OperatorName {
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
pub(super) fn full_catalog() -> Catalog {
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
