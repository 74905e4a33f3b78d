//! The changes that the models make: tiny ones of their own for the register
//! alone, and the production changes for the window.

use std::collections::BTreeMap;

use althing::{
    base::{
        AppName, Digest, MemberId, MemberName, Refusal, SecretKey, WallTime,
        catalog::{
            AppSpec, Catalog, Enrolled, Failover, Origin, Publication, Version, Window, WindowMode,
            WindowOutcome,
        },
    },
    member::change::Change,
    proto::catalog::Transition,
};
use serde::Serialize;

/// A change of the catalog. Each can be applied twice and says so the second time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Step {
    /// The catalog that a scenario starts from, made by the register as well.
    Start(Box<Catalog>),
    /// Writes a mark into the catalog, behind those that are there.
    Mark(u64),
    /// Gives a vote.
    Join(MemberId),
    /// Strikes off the roster.
    Leave(MemberId),
    /// What production does.
    Real(Change),
}

impl Transition for Step {
    fn apply(&self, base: &Catalog) -> Result<Option<Catalog>, Refusal> {
        let mut next = base.clone();
        match self {
            Self::Start(start) => {
                next.roster = start.roster.clone();
                next.applications = start.applications.clone();
                next.window = start.window.clone();
            }
            Self::Mark(mark) => {
                if base.outcomes.iter().any(|o| o.window == *mark) {
                    return Ok(None);
                }
                next.outcomes.push(WindowOutcome {
                    window: *mark,
                    request: 0,
                    app: None,
                    version: None,
                    coordinator: base.roster.members[0].id,
                    takeovers: 0,
                    why: String::new(),
                });
            }
            Self::Join(member) => return Change::Enfranchise { member: *member }.apply(base),
            Self::Leave(member) => return Change::Remove { member: *member }.apply(base),
            Self::Real(change) => return change.apply(base),
        }
        Ok((next != *base).then_some(next))
    }
}

/// The key of the `n`th member of a model.
pub fn key(n: usize) -> SecretKey {
    SecretKey::from_seed([n as u8 + 1; 32])
}

/// The id of the `n`th member.
pub fn id(n: usize) -> MemberId {
    key(n).member()
}

/// The entry of the `n`th member.
pub fn enrolled(n: usize, voter: bool) -> Enrolled {
    let key = key(n);
    Enrolled {
        id: key.member(),
        key: key.public(),
        name: MemberName::parse(&format!("m{n}")).unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter,
        standby: false,
    }
}

/// The request of the one publication.
pub const REQUEST: u64 = 77;
/// The id of the one window.
pub const WINDOW: u64 = 2;

/// An open window with a staged publication that is whole on a majority.
pub fn open_window(coordinator: usize) -> Window {
    let app = AppName::parse("web").unwrap();
    let version = Version {
        number: 1,
        root: Digest::of_bytes(b"web"),
        files: 1,
        bytes: 1,
        spec: AppSpec::default(),
        publisher: id(coordinator),
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    };
    Window {
        id: WINDOW,
        coordinator: id(coordinator),
        takeovers: 0,
        opened_by: id(coordinator),
        opened_at: WallTime(0),
        scope: vec![app.clone()],
        failover: Failover::Auto,
        mode: WindowMode::Single,
        publication: Some(Publication {
            request: REQUEST,
            app,
            base: 0,
            version,
            committed: false,
        }),
        asked: None,
    }
}

/// The coordinator commits what is staged.
pub fn commit(by: usize, whole: &[usize]) -> Step {
    let whole = whole.iter().map(|n| id(*n)).collect();
    Step::Real(Change::Commit { window: WINDOW, request: REQUEST, by: id(by), whole })
}

/// The coordinator ends the publication.
pub fn finish(by: usize, committed: bool) -> Step {
    let why = String::new();
    Step::Real(Change::Finish { window: WINDOW, request: REQUEST, by: id(by), committed, why })
}

/// The next one takes the window over.
pub fn take_over(from: usize, by: usize) -> Step {
    Step::Real(Change::TakeOver { window: WINDOW, from: id(from), by: id(by), ordered: false })
}
