//! Every change of the catalog, as a function of the catalog that it is made
//! against. Each can be applied twice and says so the second time, because a
//! proposer that lost touch proposes again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        AppName, MemberId, OperatorName, PublicKey, Reason, Refusal, WallTime,
        catalog::{
            AppSpec, Application, Catalog, Enrolled, Failover, Invite, Publication, Version,
            VotePolicy, Window, WindowMode, WindowOutcome, check_tags,
        },
        conduct::{Silence, Silenced},
        limits,
        operator::{AskedBy, Operator},
        planted::{self, Bug},
        wire,
    },
    proto::catalog::Transition,
};

pub(super) mod acting;
pub(super) mod address;
mod operator;
pub(super) mod rotate;
mod silence;

pub use acting::{Act, Begin, Said, Which};
pub(crate) use acting::{least_in_service, too_few_left};
pub use rotate::Rotation;

/// A change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Enrol a newcomer that proved to hold an invitation; without a vote yet.
    Admit {
        /// Its entry.
        entry: Enrolled,
        /// The invitation.
        invite: PublicKey,
        /// The clock of the member that was knocked at.
        at: WallTime,
    },
    /// Give an enrolled member its vote.
    Enfranchise {
        /// Whom.
        member: MemberId,
    },
    /// Strike a member off the roster.
    Remove {
        /// Whom.
        member: MemberId,
    },
    /// Add an invitation.
    Invite {
        /// It.
        invite: Invite,
        /// The clock of the member that issues it: expired ones are dropped.
        at: WallTime,
    },
    /// Put these members first in the failover list, in this order.
    Failover {
        /// The first ones.
        first: Vec<MemberId>,
    },
    /// Change policies; what is not given stays.
    Policy {
        /// Who takes over a lost coordinator's window.
        failover: Option<Failover>,
        /// What a majority for something else means.
        vote: Option<VotePolicy>,
    },
    /// Open a window, or use the held one that is open.
    Open(Box<Open>),
    /// Become the coordinator of the open window.
    TakeOver {
        /// Which window.
        window: u64,
        /// Who presided.
        from: MemberId,
        /// Who presides now.
        by: MemberId,
        /// Whether an operator ordered it.
        ordered: bool,
    },
    /// Commit what is staged.
    Commit {
        /// In which window.
        window: u64,
        /// Which publication.
        request: u64,
        /// The coordinator. One that was replaced meanwhile commits nothing.
        by: MemberId,
        /// Who holds every byte of it: must be a majority of the roster that
        /// it is committed under, which may be another than the proposer saw.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
        whole: Vec<MemberId>,
    },
    /// End the publication and, unless it is held, the window.
    Finish {
        /// Which window.
        window: u64,
        /// Which publication.
        request: u64,
        /// The coordinator. One that was replaced meanwhile ends nothing.
        by: MemberId,
        /// Whether it was committed when that was decided.
        committed: bool,
        /// For people.
        #[serde(deserialize_with = "wire::bounded_text::<_, { limits::TEXT_MAX }>")]
        why: String,
    },
    /// Close a held window.
    Close {
        /// Which window.
        window: u64,
    },
    /// What a strict majority holds becomes a new version.
    AdoptMajority {
        /// Of which application.
        app: AppName,
        /// It. Its number is the current one's and one more.
        version: Box<Version>,
        /// Who holds every byte of it, as in [`Change::Commit`].
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
        whole: Vec<MemberId>,
    },
    /// Change the tags of a member.
    Tags {
        /// Whose.
        member: MemberId,
        /// These get these values.
        set: BTreeMap<String, String>,
        /// These go.
        unset: BTreeSet<String>,
    },
    /// After how many seconds members that are down are removed; none for never.
    RemoveAfter {
        /// See [`limits::REMOVE_AFTER_MIN_S`].
        seconds: Option<u64>,
    },
    /// Strike off a member that was down for as long as the policy says.
    Expire {
        /// Whom.
        member: MemberId,
        /// What the policy said when it was decided: under another one it is not done.
        seconds: u64,
    },
    /// Change nothing. To propose it finishes what a majority may have accepted
    /// and nobody knows to be committed, as every proposal does first.
    Confirm,
    /// Give a member another key.
    Rotate(Box<Rotation>),
    /// Put a member into service, or out of it.
    Standby {
        /// Whom.
        member: MemberId,
        /// Whether it is out of service: it holds everything and answers nothing.
        standby: bool,
    },
    /// Put a member out of service because a rule says so, unless too few would be left. The
    /// catalog is what two members that want to go at the same moment have in common, so it is
    /// judged here.
    StandDown {
        /// Whom.
        member: MemberId,
        /// So many others are in service afterwards, and half of all members, at least.
        keep: u16,
        /// The episode.
        #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_NAME_MAX }>")]
        because: String,
        /// The clock of the member.
        at: WallTime,
    },
    /// A rule about the cluster begins to act, unless another judge was quicker.
    Begin(Box<Begin>),
    /// Such a rule acts no more: whom it brought into service waits again.
    End {
        /// Which episode is over.
        which: Which,
        /// What was measured, beside its bound.
        #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_WHY_MAX }>")]
        why: String,
        /// The clock of the member that judged.
        at: WallTime,
    },
    /// Those whom such a rule tells something have been told.
    Told {
        /// Of which episode.
        which: Which,
        /// What.
        said: Said,
        /// The clock of the member that judged.
        at: WallTime,
    },
    /// Nobody needs to know of an episode any more that is over: its rule is gone.
    Forget {
        /// Which.
        which: Which,
    },
    /// Put a member on standby, where rules may bring it into service.
    Wait {
        /// Whom.
        member: MemberId,
    },
    /// Put a member back to where it was before a rule about it took it out of service.
    StandUp {
        /// Whom.
        member: MemberId,
    },
    /// What was under way on such a member is finished, and the next one may go.
    Drained {
        /// Which.
        member: MemberId,
    },
    /// Rules do nothing for a while.
    Silence(Box<Silence>),
    /// They act again, before that is over.
    Unsilence {
        /// Which rules: those of a silence.
        what: Silenced,
        /// The clock of the member that was asked: silences that are over are dropped.
        at: WallTime,
    },
    /// Somebody may act over the network, with a token.
    AddOperator(Box<Operator>),
    /// Nobody may any more under this name.
    RemoveOperator {
        /// Which.
        name: OperatorName,
        /// The clock of the member that was asked: those whose time is over are dropped.
        at: WallTime,
    },
    /// A member is reached at another address. It is proposed by that member only, and goes to
    /// nobody else as a change: members that don't know it read the roster that it makes.
    Address {
        /// Which.
        member: MemberId,
        /// What the roster said when that was decided: if it says something else it is not done.
        was: SocketAddr,
        /// Where it is reached.
        address: SocketAddr,
        /// Who has that address in the roster, and is seen elsewhere by the one that proposes it.
        /// It gets the other one, until it says its own.
        gone: Option<MemberId>,
    },
    /// Nobody joins any more with an invitation. Who has joined with it stays.
    Withdraw {
        /// Which; all that are open if not given.
        invite: Option<PublicKey>,
        /// The clock of the member that was asked. What is not open by it stays, so that
        /// newcomers who are late are told why.
        at: WallTime,
    },
}

/// A request to open a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Who will preside.
    pub coordinator: MemberId,
    /// The member that was asked.
    pub opened_by: MemberId,
    /// The clock of that member.
    pub opened_at: WallTime,
    /// Which applications; empty for all.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::APPLICATIONS_MAX }>")]
    pub scope: Vec<AppName>,
    /// Who takes over; by the cluster's policy if not given.
    pub failover: Option<Failover>,
    /// What it is for.
    pub purpose: OpenFor,
}

impl Open {
    /// What is to be published in it, if that is what it is for.
    pub fn publication(&self) -> Option<&Publication> {
        match &self.purpose {
            OpenFor::Publication(publication) => Some(publication),
            OpenFor::Holding | OpenFor::Automatic | OpenFor::Asked(..) => None,
        }
    }

    /// Who asked for it, where that was done with a token.
    pub fn asked(&self) -> Option<&AskedBy> {
        match &self.purpose {
            OpenFor::Publication(publication) => publication.version.asked.as_ref(),
            OpenFor::Asked(_, asked) => Some(asked),
            OpenFor::Holding | OpenFor::Automatic => None,
        }
    }

    pub(super) fn mode(&self) -> WindowMode {
        match self.purpose {
            OpenFor::Publication(_) => WindowMode::Single,
            OpenFor::Holding | OpenFor::Asked(Held::ByHand, _) => WindowMode::Held,
            OpenFor::Automatic | OpenFor::Asked(Held::Automatic, _) => WindowMode::Automatic,
        }
    }
}

/// What a window is asked for.
///
/// Its order is the encoding: the first two are written as the `None` and the
/// `Some` that members of the version before know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenFor {
    /// To be held open.
    Holding,
    /// To publish this.
    Publication(Box<Publication>),
    /// To be held open in automatic mode.
    Automatic,
    /// To be held open, as somebody asked who showed a token.
    Asked(Held, AskedBy),
}

impl OpenFor {
    /// To be held open, as `asked` says if that was done with a token.
    pub fn held(held: Held, asked: Option<AskedBy>) -> Self {
        match (asked, held) {
            (Some(asked), held) => Self::Asked(held, asked),
            (None, Held::ByHand) => Self::Holding,
            (None, Held::Automatic) => Self::Automatic,
        }
    }
}

/// How a window is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// For publications.
    ByHand,
    /// In automatic mode.
    Automatic,
}

impl Transition for Change {
    fn apply(&self, base: &Catalog) -> Result<Option<Catalog>, Refusal> {
        let mut next = base.clone();
        let changed = match self {
            Self::Admit { entry, invite, at } => admit(&mut next, entry, invite, *at)?,
            Self::Enfranchise { member } => {
                let entry = next.roster.members.iter_mut().find(|m| m.id == *member);
                let entry = entry.ok_or_else(|| not_enrolled("It can't be given a vote."))?;
                !std::mem::replace(&mut entry.voter, true)
            }
            Self::Remove { member } => remove(&mut next, base, *member)?,
            Self::Invite { invite, at } => add_invite(&mut next, invite, *at)?,
            Self::Failover { first } => reorder(&mut next, first)?,
            Self::Policy { failover, vote } => {
                let before = next.conduct.policy;
                next.conduct.policy.failover = failover.unwrap_or(before.failover);
                next.conduct.policy.vote = vote.unwrap_or(before.vote);
                next.conduct.policy != before
            }
            Self::Open(open) => open_window(&mut next, open)?,
            Self::TakeOver { window, from, by, ordered } => {
                take_over(&mut next, *window, *from, *by, *ordered)?
            }
            Self::Commit { window, request, by, whole } => {
                commit(&mut next, *window, *request, *by, whole)?
            }
            Self::Finish { window, request, by, committed, why } => {
                finish(&mut next, *window, *request, (*by, *committed), why)
            }
            Self::Close { window } => close(&mut next, *window)?,
            Self::AdoptMajority { app, version, whole } => adopt(&mut next, app, version, whole)?,
            Self::Standby { member, standby } => {
                acting::put_aside(&mut next, *member, *standby)?;
                next.conduct.let_go(*member);
                next != *base
            }
            Self::StandDown { member, keep, at, .. } => {
                acting::stand_down(&mut next, *member, *keep, *at)?
            }
            Self::Tags { member, set, unset } => retag(&mut next, base, *member, set, unset)?,
            Self::RemoveAfter { seconds } => remove_after(&mut next, *seconds)?,
            Self::Expire { member, seconds } => expire(&mut next, base, *member, *seconds)?,
            Self::Confirm => false,
            Self::Rotate(rotation) => rotate::rotate(&mut next, rotation)?,
            Self::Begin(begin) => acting::begin(&mut next, begin)?,
            Self::End { which, why, at } => acting::end(&mut next, which, why, *at),
            Self::Told { which, said, at } => acting::told(&mut next, which, *said, *at),
            Self::Forget { which } => acting::forget(&mut next, which),
            Self::Wait { member } => acting::wait(&mut next, *member)?,
            Self::StandUp { member } => acting::stand_up(&mut next, *member),
            Self::Drained { member } => next.conduct.drained(*member),
            Self::Silence(silence) => {
                silence::silence(&mut next, silence)?;
                next != *base
            }
            Self::Unsilence { what, at } => {
                silence::unsilence(&mut next, what, *at)?;
                next != *base
            }
            Self::AddOperator(operator) => {
                operator::add(&mut next, operator)?;
                next != *base
            }
            Self::RemoveOperator { name, at } => {
                operator::remove(&mut next, name, *at);
                next != *base
            }
            Self::Address { member, was, address, gone } => {
                address::readdress(&mut next, *member, (*was, *address), *gone)?
            }
            Self::Withdraw { invite, at } => withdraw(&mut next, invite.as_ref(), *at),
        };
        Ok(changed.then_some(next))
    }
}

fn not_enrolled(what: &str) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        what,
        "No such member is enrolled in the cluster.",
        "See `althing members` for those that are.",
    )
}

fn admit(
    next: &mut Catalog,
    entry: &Enrolled,
    invite: &PublicKey,
    at: WallTime,
) -> Result<bool, Refusal> {
    match next.roster.get(entry.id) {
        None => {}
        // It lost the answer: it never had a vote, so it has promised nothing.
        Some(enrolled) if !enrolled.voter => return Ok(false),
        Some(enrolled) => {
            let name = &enrolled.name;
            return Err(Refusal::new(
                Reason::Conflict,
                "This member was not admitted again.",
                format!(
                    "Its key is that of {name}, which has a vote, and its data directory has lost \
                     what {name} promised to the others: with another one it could break its word."
                ),
                format!(
                    "Run `althing remove {name}` on another member, move the data directory away \
                     and join as a new member."
                ),
            ));
        }
    }
    check_invite(next, invite, at)?;
    if next.roster.named(&entry.name).is_some() {
        return Err(Refusal::new(
            Reason::Conflict,
            format!("{} was not admitted.", entry.name),
            "A member of that name is enrolled already.",
            "Start it with another --name, or remove the old member first.",
        ));
    }
    if next.roster.members.len() >= limits::MEMBERS_MAX {
        return Err(Refusal::new(
            Reason::Failed,
            format!("{} was not admitted.", entry.name),
            "The cluster has as many members as one cluster can have.",
            "Remove members that are gone for good.",
        ));
    }
    if let Some(invite) = next.invites.iter_mut().find(|i| &i.key == invite) {
        invite.uses_left -= 1;
    }
    let mut entry = entry.clone();
    entry.voter = false;
    if entry.standby {
        next.conduct.wait(entry.id);
    }
    next.roster.members.push(entry);
    Ok(true)
}

/// Whether somebody may still join with `invite`.
pub fn check_invite(catalog: &Catalog, invite: &PublicKey, at: WallTime) -> Result<(), Refusal> {
    let refuse = |why: &str| {
        Err(Refusal::new(
            Reason::Forbidden,
            "The token was not accepted.",
            why,
            "Ask for a new one with `althing invite` on any member.",
        ))
    };
    match catalog.invites.iter().find(|i| &i.key == invite) {
        None => {
            refuse("This cluster never issued it, or it was withdrawn, or it expired long ago.")
        }
        Some(invite) if invite.expires_at < at => {
            refuse(&format!("It expired at {}.", invite.expires_at))
        }
        Some(invite) if invite.uses_left == 0 => refuse("It has been used up."),
        Some(_) => Ok(()),
    }
}

fn remove(next: &mut Catalog, base: &Catalog, member: MemberId) -> Result<bool, Refusal> {
    if !next.roster.contains(member) {
        return Ok(false);
    }
    next.roster.members.retain(|m| m.id != member);
    next.conduct.forget(member);
    if next.roster.voters().next().is_none() {
        return Err(Refusal::new(
            Reason::Invalid,
            "The member was not removed.",
            "It is the last one with a vote: the cluster would be without any.",
            "To end the cluster, stop this member and delete its data directory.",
        ));
    }
    keeps_homes(next, base, "The member was not removed.")?;
    Ok(true)
}

/// No change takes an application's last voter from it: nobody would be right about it,
/// and nobody would have to hold it. While none of those that it is placed on has a vote, none
/// takes the last of these: it may be one with a new key, which holds all of it and gets its
/// vote again. One that is placed on nobody already is not in the way.
fn keeps_homes(next: &Catalog, base: &Catalog, what: &str) -> Result<(), Refusal> {
    let staged = next.window.iter().filter_map(|w| w.publication.as_ref());
    let current = next.applications.iter().map(|(app, a)| (app, &a.current().spec));
    let all = current.chain(staged.map(|p| (&p.app, &p.version.spec)));
    let homeless = |(_, spec): &(&AppName, &AppSpec)| {
        let (before, after) = (base.roster.placed(spec), next.roster.placed(spec));
        let had_voters = before.voters().next().is_some();
        let had_members = before.members().next().is_some();
        (had_voters && after.voters().next().is_none())
            || (had_members && after.members().next().is_none())
    };
    let Some((app, spec)) = { all }.find(homeless) else { return Ok(()) };
    let placement = spec.placement.as_ref().map_or("", |placement| placement.as_str());
    Err(Refusal::new(
        Reason::Conflict,
        what,
        format!("{app} is placed on `{placement}`, and no other member with a vote is that."),
        format!(
            "Give another member the tags that it needs (`althing tags`), or publish {app} with \
             another placement, and try again. A member with a new key has its vote again in a \
             moment."
        ),
    ))
}

fn remove_after(next: &mut Catalog, seconds: Option<u64>) -> Result<bool, Refusal> {
    if seconds.is_some_and(|seconds| seconds < limits::REMOVE_AFTER_MIN_S) {
        return Err(Refusal::new(
            Reason::Invalid,
            "The policy was not changed.",
            format!(
                "Within less than {} minutes a member may just be starting again.",
                limits::REMOVE_AFTER_MIN_S / 60
            ),
            "Give a longer time: days rather than hours.",
        ));
    }
    Ok(std::mem::replace(&mut next.conduct.policy.remove_after_s, seconds) != seconds)
}

fn expire(
    next: &mut Catalog,
    base: &Catalog,
    member: MemberId,
    seconds: u64,
) -> Result<bool, Refusal> {
    let Some(entry) = next.roster.get(member) else { return Ok(false) };
    let refuse = |why: &str| {
        let what = format!("{} was not removed.", entry.name);
        Err(Refusal::new(Reason::Conflict, what, why, "Use `althing remove` if it is to go."))
    };
    if next.conduct.policy.remove_after_s != Some(seconds) {
        return refuse("The policy was changed meanwhile.");
    }
    if entry.voter && next.roster.voters().count() <= limits::VOTERS_KEPT_MIN {
        return refuse("A policy leaves at least three voters.");
    }
    remove(next, base, member)
}

fn add_invite(next: &mut Catalog, invite: &Invite, at: WallTime) -> Result<bool, Refusal> {
    if next.invites.iter().any(|i| i.key == invite.key) {
        return Ok(false);
    }
    // Kept for a day beyond their end, so that the reason can be told.
    const REMEMBERED_MS: u64 = 24 * 3_600 * 1_000;
    next.invites.retain(|i| i.expires_at.0.saturating_add(REMEMBERED_MS) > at.0);
    if next.invites.len() >= limits::INVITES_MAX {
        return Err(Refusal::new(
            Reason::Busy,
            "No invitation was issued.",
            format!("{} invitations are open already.", limits::INVITES_MAX),
            "Use one of them (`althing invites`; `invite --uses N` makes one for many), or withdraw \
             some (`althing invites withdraw`).",
        ));
    }
    next.invites.push(invite.clone());
    Ok(true)
}

fn withdraw(next: &mut Catalog, invite: Option<&PublicKey>, at: WallTime) -> bool {
    let before = next.invites.len();
    next.invites.retain(|one| !one.is_open(at) || invite.is_some_and(|key| one.key != *key));
    next.invites.len() < before
}

fn retag(
    next: &mut Catalog,
    base: &Catalog,
    member: MemberId,
    set: &BTreeMap<String, String>,
    unset: &BTreeSet<String>,
) -> Result<bool, Refusal> {
    let what = "The tags were not changed.";
    let entry = next.roster.members.iter_mut().find(|m| m.id == member);
    let entry = entry.ok_or_else(|| not_enrolled(what))?;
    let before = entry.tags.clone();
    entry.tags.retain(|key, _| !unset.contains(key));
    entry.tags.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    check_tags(&entry.tags).map_err(|why| {
        Refusal::new(
            Reason::Invalid,
            what,
            why,
            "Use fewer or shorter tags: they are for placement.",
        )
    })?;
    let changed = entry.tags != before;
    keeps_homes(next, base, what)?;
    Ok(changed)
}

fn reorder(next: &mut Catalog, first: &[MemberId]) -> Result<bool, Refusal> {
    let before = next.roster.clone();
    let mut rest = std::mem::take(&mut next.roster.members);
    for id in first {
        let found = rest.iter().position(|m| m.id == *id);
        let found = found.ok_or_else(|| not_enrolled("The failover list was not changed."))?;
        let entry = rest.remove(found);
        next.roster.members.push(entry);
    }
    next.roster.members.append(&mut rest);
    Ok(next.roster != before)
}

fn open_window(next: &mut Catalog, open: &Open) -> Result<bool, Refusal> {
    let request = open.publication().map_or(0, |p| p.request);
    let running = next.window.as_ref().and_then(|w| w.publication.as_ref());
    let known =
        running.map(|p| p.request).into_iter().chain(next.outcomes.iter().map(|o| o.request));
    if request != 0 && known.into_iter().any(|r| r == request) {
        return Ok(false);
    }
    if let Some(publication) = open.publication() {
        check_base(next, publication)?;
        has_electorate(next, publication)?;
    }
    let name =
        |id: MemberId| next.roster.get(id).map_or_else(|| id.to_string(), |m| m.name.to_string());
    if let Some(window) = &next.window {
        // Held, and by this very request: its proposer lost touch and asks again.
        let same = (window.opened_by, window.opened_at) == (open.opened_by, open.opened_at);
        if window.mode == open.mode() && window.is_held() && same {
            return Ok(false);
        }
        let holder = name(window.opened_by);
        let id = window.id;
        let busy = |why: String, todo: &str| {
            Err(Refusal::new(Reason::Busy, "The window was not opened.", why, todo))
        };
        return match (&window.publication, open.publication()) {
            (Some(running), _) => {
                let (app, number) = (&running.app, running.version.number);
                busy(
                    format!("{holder} is publishing {app} version {number} in window {id}."),
                    "Wait until it has ended (`althing window`), and try again.",
                )
            }
            (None, None) => busy(
                format!("Window {id} is open already; {holder} opened it."),
                "Use it, or close it with `althing window close`.",
            ),
            (None, Some(publication)) if !window.covers(&publication.app) => busy(
                format!("Window {id} is open, and {} is not in its scope.", publication.app),
                "Wait until it is closed, or close it with `althing window close`.",
            ),
            (None, Some(publication)) => {
                let mut window = window.clone();
                window.publication = Some(publication.clone());
                next.window = Some(window);
                Ok(true)
            }
        };
    }
    let scope = match open.publication() {
        Some(publication) => vec![publication.app.clone()],
        None => open.scope.clone(),
    };
    if let Some(missing) = scope
        .iter()
        .find(|app| open.publication().is_none() && !next.applications.contains_key(*app))
    {
        return Err(no_such_app(missing, "The window was not opened."));
    }
    next.window = Some(Window {
        id: next.sequence + 1,
        coordinator: open.coordinator,
        takeovers: 0,
        opened_by: open.opened_by,
        opened_at: open.opened_at,
        scope,
        failover: open.failover.unwrap_or(next.conduct.policy.failover),
        mode: open.mode(),
        publication: open.publication().cloned(),
        // Who asked for a publication is in its version.
        asked: open.asked().filter(|_| open.publication().is_none()).cloned(),
    });
    Ok(true)
}

/// The refusal for an application that the catalog does not have.
pub fn no_such_app(app: &AppName, what: &str) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        what,
        format!("The cluster has no application named {app}."),
        "See `althing apps` for those it has, or publish it first.",
    )
}

/// Nobody would hold it.
fn has_electorate(catalog: &Catalog, publication: &Publication) -> Result<(), Refusal> {
    let spec = &publication.version.spec;
    if catalog.roster.placed(spec).voters().next().is_some() {
        return Ok(());
    }
    let placement = spec.placement.as_ref().map_or("", |placement| placement.as_str());
    Err(Refusal::new(
        Reason::Invalid,
        format!("{} was not published.", publication.app),
        format!("It is to be placed on `{placement}`, and no member with a vote is that."),
        "Correct its placement, or give members the tags that it needs (`althing members` shows \
         them, `althing tags` changes them).",
    ))
}

fn check_base(catalog: &Catalog, publication: &Publication) -> Result<(), Refusal> {
    let app = &publication.app;
    let current = catalog.application(app).map_or(0, |a| a.current().number);
    if current != publication.base && !planted::is(Bug::CompareAndSetSkipped) {
        let who = catalog
            .application(app)
            .and_then(|a| catalog.roster.get(a.current().publisher))
            .map_or_else(|| "someone".to_owned(), |m| format!("someone on {}", m.name));
        return Err(Refusal::new(
            Reason::Conflict,
            format!("{app} was not published."),
            format!(
                "It was made against version {}, and {who} published version {current} meanwhile.",
                publication.base
            ),
            format!("Look at what changed with `althing history {app}`, and publish again."),
        ));
    }
    if current == 0 && catalog.applications.len() >= limits::APPLICATIONS_MAX {
        return Err(Refusal::new(
            Reason::Failed,
            format!("{app} was not published."),
            "The cluster has as many applications as one cluster can have.",
            "Publish under the name of an application that it has.",
        ));
    }
    Ok(())
}

fn take_over(
    next: &mut Catalog,
    id: u64,
    from: MemberId,
    by: MemberId,
    ordered: bool,
) -> Result<bool, Refusal> {
    let Some(window) = next.window.as_mut().filter(|w| w.id == id) else {
        return Err(Refusal::new(
            Reason::NotFound,
            "The window was not taken over.",
            "It is closed already.",
            "See `althing window`.",
        ));
    };
    if window.coordinator == by {
        return Ok(false);
    }
    let unordered = !ordered && !planted::is(Bug::ManualTakenOver);
    if window.failover == Failover::Manual && unordered {
        return Err(Refusal::new(
            Reason::Forbidden,
            "The window was not taken over.",
            "Its failover is manual: an operator decides.",
            "Use `althing window takeover`, or wait for its coordinator to return.",
        ));
    }
    if window.coordinator != from {
        return Err(Refusal::new(
            Reason::Conflict,
            "The window was not taken over.",
            "Somebody else took it over meanwhile.",
            "See `althing window`.",
        ));
    }
    window.coordinator = by;
    window.takeovers += 1;
    if planted::is(Bug::TakeoverDropsStaged) {
        window.publication = None;
    }
    Ok(true)
}

fn commit(
    next: &mut Catalog,
    id: u64,
    request: u64,
    by: MemberId,
    whole: &[MemberId],
) -> Result<bool, Refusal> {
    let roster = &next.roster;
    let window = next.window.as_mut().filter(|w| w.id == id && w.coordinator == by);
    let publication = window.and_then(|w| w.publication.as_mut()).filter(|p| p.request == request);
    let Some(publication) = publication else {
        return Err(Refusal::new(
            Reason::Conflict,
            "The version was not committed.",
            "Its window is closed, or was taken over and the publication given up.",
            "See `althing window` and publish again.",
        ));
    };
    if publication.committed {
        return Ok(false);
    }
    let placed = roster.placed(&publication.version.spec);
    let is_majority = placed.is_majority(&whole.iter().copied().collect());
    if !is_majority && !planted::is(Bug::CommittedBeforeWhole) {
        return Err(Refusal::new(
            Reason::Conflict,
            "The version was not committed.",
            "The roster changed, and those that hold it whole are no majority any more of those \
             that it is placed on.",
            "Nothing: it is proposed again when they are.",
        ));
    }
    publication.committed = true;
    let publication = publication.clone();
    check_base(next, &publication)?;
    push_version(next, &publication.app, publication.version);
    Ok(true)
}

fn push_version(next: &mut Catalog, app: &AppName, version: Version) {
    match next.applications.get_mut(app) {
        Some(application) => {
            application.push(version);
        }
        None => {
            let application = Application { versions: vec![version] };
            next.applications.insert(app.clone(), application);
        }
    }
}

fn finish(
    next: &mut Catalog,
    id: u64,
    request: u64,
    (by, committed): (MemberId, bool),
    why: &str,
) -> bool {
    let presides = |w: &&mut Window| w.id == id && w.coordinator == by;
    let Some(window) = next.window.as_mut().filter(presides) else { return false };
    let same = |p: &mut Publication| p.request == request && p.committed == committed;
    let Some(publication) = window.publication.take_if(same) else {
        return false;
    };
    let outcome = WindowOutcome {
        window: id,
        request,
        app: Some(publication.app),
        version: publication.committed.then_some(publication.version.number),
        coordinator: window.coordinator,
        takeovers: window.takeovers,
        why: why.to_owned(),
    };
    if !window.is_held() {
        next.window = None;
    }
    remember(next, outcome);
    true
}

fn close(next: &mut Catalog, id: u64) -> Result<bool, Refusal> {
    let Some(window) = next.window.take_if(|w| w.id == id) else { return Ok(false) };
    let publication = window.publication.as_ref();
    if let Some(publication) = publication.filter(|p| p.committed) {
        let (app, number) = (&publication.app, publication.version.number);
        return Err(Refusal::new(
            Reason::Busy,
            "The window was not closed.",
            format!("{app} version {number} is committed in it, and members are switching."),
            "Wait until that has ended; the window then closes by itself unless it is held.",
        ));
    }
    // What is not committed is given up: its publisher is told so.
    let outcome = WindowOutcome {
        window: id,
        request: publication.map_or(0, |p| p.request),
        app: publication.map(|p| p.app.clone()),
        version: None,
        coordinator: window.coordinator,
        takeovers: window.takeovers,
        why: "closed by an operator".to_owned(),
    };
    remember(next, outcome);
    Ok(true)
}

fn remember(next: &mut Catalog, outcome: WindowOutcome) {
    next.outcomes.push(outcome);
    let surplus = next.outcomes.len().saturating_sub(limits::OUTCOMES_MAX);
    next.outcomes.drain(..surplus);
}

fn adopt(
    next: &mut Catalog,
    app: &AppName,
    version: &Version,
    whole: &[MemberId],
) -> Result<bool, Refusal> {
    let Some(application) = next.application(app) else {
        return Err(no_such_app(app, "The majority's content was not adopted."));
    };
    if application.current().root == version.root {
        return Ok(false);
    }
    if next.window_covers(app)
        || application.current().number.checked_add(1) != Some(version.number)
    {
        return Err(Refusal::new(
            Reason::Conflict,
            "The majority's content was not adopted.",
            "A window was opened or a version published meanwhile.",
            "Nothing: the vote is taken again.",
        ));
    }
    let fewer = planted::is(Bug::AdoptedByFewer);
    let placed = next.roster.placed(&version.spec);
    if !placed.is_majority(&whole.iter().copied().collect()) && !fewer {
        return Err(Refusal::new(
            Reason::Conflict,
            "The majority's content was not adopted.",
            "The roster changed, and those that hold it whole are no majority any more of those \
             that it is placed on.",
            "Nothing: the vote is taken again.",
        ));
    }
    push_version(next, app, version.clone());
    Ok(true)
}

#[cfg(test)]
mod tests;
