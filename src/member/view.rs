//! The member's read-only view: what the command line, the API and the status
//! page show. Names instead of ids, sentences where a person decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Member, addresses::AddressView, content::Work, parting::Parting};
use crate::{
    base::{
        AppName, Digest, MemberId, RuleName, Time, WallTime,
        catalog::{
            AppSpec, Application, Catalog, Enrolled, Failover, Origin, Policy, Window, WindowMode,
        },
        conduct::Silence,
        operator::{AskedBy, Operator},
    },
    proto::{
        balance::choice::Candidate,
        election,
        membership::{Place, Reach, State as Liveness},
        rollout::State,
        vote::{Position, Verdict},
    },
};

/// Everything, at one moment, as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The version of this Althing.
    pub althing: String,
    /// The member that tells.
    pub me: String,
    /// The cluster's id.
    pub cluster: String,
    /// The committed catalog's sequence.
    pub sequence: u64,
    /// Voters in the roster, how many a majority is, and how many are live.
    pub voters: usize,
    /// See `voters`.
    pub majority: usize,
    /// See `voters`.
    pub voters_live: usize,
    /// Whether everything is well.
    pub health: Health,
    /// Why not, and what to do: a sentence each.
    pub reasons: Vec<String>,
    /// In failover order.
    pub members: Vec<MemberView>,
    /// By name.
    pub applications: Vec<ApplicationView>,
    /// The open window.
    pub window: Option<WindowView>,
    /// How the last windows ended, newest first.
    pub outcomes: Vec<OutcomeView>,
    /// The virtual addresses of the applications that are live on the member that tells.
    #[serde(default)]
    pub addresses: Vec<AddressView>,
    /// What the cluster does by itself.
    pub policy: PolicyView,
    /// What keeps rules from doing anything at the moment.
    #[serde(default)]
    pub silences: Vec<SilenceView>,
    /// Who may act over the network.
    #[serde(default)]
    pub operators: Vec<OperatorView>,
    /// The invitations that somebody can still join with, oldest first.
    #[serde(default)]
    pub invites: Vec<InviteView>,
}

/// Whether everything is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It is.
    Ok,
    /// It works, and something is not as it should be.
    Warning,
    /// Something does not work.
    Critical,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its id, in full.
    pub id: String,
    /// Where others reach it.
    pub address: String,
    /// alive, suspect, down or left.
    pub state: String,
    /// Whether it answers the member that tells directly: the way there and back works.
    pub reached: bool,
    /// Live members that don't answer this one directly, by its own word; none if
    /// it has not said.
    pub unreached: Option<Vec<String>>,
    /// The estimated round trip between it and the member that tells, microseconds.
    pub round_trip_us: Option<u64>,
    /// Where it is in the network's coordinates.
    pub place: Option<Place>,
    /// For how long, in milliseconds; of this member itself: since it started.
    pub state_for_ms: u64,
    /// Whether this is the member that tells.
    pub me: bool,
    /// Whether it has a vote.
    pub voter: bool,
    /// Whether it is on standby: it holds everything and is given no requests.
    pub standby: bool,
    /// Whether rules may bring it into service then.
    #[serde(default)]
    pub waits: bool,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What it is given of the requests beside others: its processors, or what its tag
    /// `capacity` says.
    #[serde(default)]
    pub capacity: u16,
    /// Whether it presides over the open window.
    pub coordinator: bool,
    /// The catalog sequence of its last ballot.
    pub sequence: Option<u64>,
    /// in service, receiving, unknown or out.
    pub service: String,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationView {
    /// Its name.
    pub name: String,
    /// The current version's number.
    pub version: u64,
    /// The current version's signature.
    pub root: String,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Host names.
    pub hosts: Vec<String>,
    /// Whether it answers for unclaimed host names.
    pub default: bool,
    /// Where its live tree stands, if not in the data directory.
    pub path: Option<String>,
    /// Which members it is placed on, as an expression over their tags; all if not given.
    #[serde(default)]
    pub placement: Option<String>,
    /// unanimous, agreed, undecided, other, hung, or paused (a window is open).
    pub vote: String,
    /// Voters whose fresh ballot is in hand.
    pub ballots: usize,
    /// Voters that it is placed on.
    pub electorate: usize,
    /// How every member stands.
    pub positions: Vec<PositionView>,
    /// What this member is doing to it.
    pub work: Option<String>,
    /// What failed last on this member.
    pub error: Option<String>,
    /// Its versions, newest first.
    pub versions: Vec<VersionView>,
}

/// How one member stands to one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionView {
    /// The member's name.
    pub member: String,
    /// agrees, differs, late, nothing or silent; elsewhere where it is not placed, and
    /// leaving where it is live all the same until others have taken it over.
    pub position: String,
    /// What it holds, where it says so.
    pub root: Option<String>,
    /// The version that it switched to last, where it says so.
    pub version: Option<u64>,
    /// Whether its vote counts.
    pub voter: bool,
    /// What keeps it from holding the version, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How the version comes to it: waiting (for its turn), late, starting, ready or failed;
    /// none where it is not placed, or does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_failure: Option<String>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// Its number.
    pub number: u64,
    /// Its signature.
    pub root: String,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// The member that it was published through.
    pub publisher: String,
    /// When, in milliseconds since 1970.
    pub published_at_ms: u64,
    /// When, as text.
    pub published_at: String,
    /// What the publisher wrote.
    pub message: String,
    /// published, rollback to N, or majority.
    pub origin: String,
    /// Who asked for it, where that was done with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedBy>,
}

/// The open window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// Its id.
    pub id: u64,
    /// Who presides.
    pub coordinator: String,
    /// Whether that one is live.
    pub coordinator_live: bool,
    /// How often it was taken over.
    pub takeovers: u32,
    /// Who was asked to open it.
    pub opened_by: String,
    /// When, as text.
    pub opened_at: String,
    /// Which applications; empty for all.
    pub scope: Vec<String>,
    /// auto or manual.
    pub failover: String,
    /// Whether an operator holds it open.
    pub held: bool,
    /// Whether edits of live content are publications in it.
    #[serde(default)]
    pub automatic: bool,
    /// What is being published.
    pub publication: Option<PublicationView>,
    /// What it waits for, in a sentence.
    pub state: String,
    /// Who asked for it to be held open, where that was done with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedBy>,
}

/// The publication under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationView {
    /// Of which application.
    pub app: String,
    /// Which version it will be.
    pub version: u64,
    /// What its publisher wrote.
    #[serde(default)]
    pub message: String,
    /// The member that it is published through.
    #[serde(default)]
    pub publisher: String,
    /// Files of the version.
    #[serde(default)]
    pub files: u64,
    /// staging or switching.
    pub phase: String,
    /// Bytes of the version.
    pub bytes: u64,
    /// Members that hold it whole.
    pub whole: Vec<String>,
    /// Bytes that have arrived, by member.
    pub progress: BTreeMap<String, u64>,
    /// Members that are to hold it.
    #[serde(default)]
    pub placed: Vec<String>,
    /// How many of them must hold it whole before it is committed.
    #[serde(default)]
    pub needed: usize,
    /// Who asked for it, where that was done with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedBy>,
}

/// How a window ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeView {
    /// Its id.
    pub window: u64,
    /// The application.
    pub app: Option<String>,
    /// The version, if one was committed.
    pub version: Option<u64>,
    /// Who presided at the end.
    pub coordinator: String,
    /// How often it was taken over.
    pub takeovers: u32,
    /// In a sentence.
    pub why: String,
}

/// The policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// auto or manual.
    pub failover: String,
    /// majority or committed.
    pub vote: String,
    /// After how many seconds a member that is down is removed.
    #[serde(default)]
    pub remove_after_s: Option<u64>,
}

/// That rules do nothing for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceView {
    /// Of which application; of all if not given.
    pub app: Option<String>,
    /// Which of its rules; all if not given.
    pub rule: Option<String>,
    /// As far as they are about this member; if not given, about any and about the cluster.
    pub member: Option<String>,
    /// The same in a few words.
    pub what: String,
    /// The member that was asked for it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when, as text.
    pub since: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Until when, as text.
    pub until: String,
}

/// Somebody who may act over the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorView {
    /// By this name events tell of it.
    pub name: String,
    /// The member that was asked to add the operator.
    pub by: String,
    /// Since when, as text.
    pub since: String,
    /// Until when, in milliseconds since 1970; for ever if not given.
    pub until_ms: Option<u64>,
    /// Until when, as text.
    pub until: Option<String>,
    /// Whether that is over.
    pub is_over: bool,
}

/// An open invitation. What lets somebody in is in its token, which nobody keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteView {
    /// What `althing invites withdraw` names it by, 64 hex digits.
    pub id: String,
    /// The member that issued it.
    pub by: String,
    /// How many may still join with it.
    pub uses_left: u32,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Until when, as text.
    pub expires: String,
}

/// What the gateway routes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRoute {
    /// The application.
    pub app: AppName,
    /// How each kept version of it is served, by number; the last is current.
    pub specs: BTreeMap<u64, Arc<AppSpec>>,
    /// Live members that have switched to the current version and are in service, others than
    /// this one, and what each can take. Those on standby as well where nobody else is left.
    pub holders: Arc<[Candidate]>,
    /// The tags of all that are enrolled.
    pub tags: Arc<BTreeMap<MemberId, BTreeMap<String, String>>>,
    /// This member, and what it can take.
    pub me: Candidate,
    /// Whether this member is to answer what it can: not while it is on standby and others
    /// are there.
    pub here: bool,
}

/// See [`Member::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Enrolled members that are live, this one included.
    pub live: usize,
    /// Enrolled members that are not.
    pub down: usize,
    /// Applications whose vote is hung.
    pub hung: usize,
    /// Applications of which this member does not hold what the catalog says.
    pub differing: usize,
}

impl Member {
    /// What the gateway routes by: every application of the catalog.
    pub fn routes(&self, now: Time) -> Vec<SiteRoute> {
        let catalog = self.catalog();
        let holds = |app: &AppName, placed: bool, id: MemberId| {
            id != self.me
                && self.membership.is_reached(id)
                && self.votes.fresh(now, id).is_some_and(|b| {
                    match b.differing.iter().find(|d| &d.app == app) {
                        Some(differing) => differing.activated > 0,
                        None => placed,
                    }
                })
        };
        let standby = catalog.roster.get(self.me).is_some_and(|m| m.standby);
        let candidate = |member: &Enrolled| {
            let capacity = self.capacities.of(self.me, member);
            Candidate { id: member.id, capacity }
        };
        let me = catalog.roster.get(self.me).map(candidate);
        let me = me.unwrap_or(Candidate { id: self.me, capacity: self.capacities.own() });
        let tags = catalog.roster.members.iter().map(|m| (m.id, m.tags.clone())).collect();
        let tags = Arc::new(tags);
        let route = |(app, application): (&AppName, &Application)| {
            let placed = catalog.roster.placed(&application.current().spec);
            let all = catalog.roster.members.iter();
            let (aside, in_service): (Vec<_>, Vec<_>) =
                all.filter(|m| holds(app, placed.holds(m), m.id)).partition(|m| m.standby);
            let here = !standby || in_service.is_empty();
            // Better somebody on standby than nobody at all.
            let asked = if in_service.is_empty() { aside } else { in_service };
            SiteRoute {
                app: app.clone(),
                specs: application
                    .versions
                    .iter()
                    .map(|v| (v.number, Arc::new(v.spec.clone())))
                    .collect(),
                holders: asked.into_iter().map(candidate).collect(),
                tags: Arc::clone(&tags),
                me,
                here,
            }
        };
        catalog.applications.iter().map(route).collect()
    }

    /// What is measured of this member's view once a second: cheaper than all of it.
    pub fn counts(&self, now: Time) -> Counts {
        let catalog = self.catalog();
        let members = &catalog.roster.members;
        let live = members.iter().filter(|m| self.is_live(m.id)).count();
        let is_hung = |app: &&AppName| {
            let tally = self.votes.tally(now, catalog, app);
            tally.is_some_and(|t| t.verdict(catalog.conduct.policy.vote) == Verdict::Hung)
        };
        Counts {
            live,
            down: members.len() - live,
            hung: catalog.applications.keys().filter(is_hung).count(),
            differing: self.content.differing(catalog, self.me).len(),
        }
    }

    /// Everything, now.
    pub fn view(&self, now: Time) -> View {
        let catalog = self.catalog();
        let (voters_live, majority) =
            election::quorum_in_view(&catalog.roster, |m| self.is_live(m));
        let mut view = View {
            althing: env!("CARGO_PKG_VERSION").to_owned(),
            me: self.name_of(self.me),
            cluster: catalog.cluster.to_string(),
            sequence: catalog.sequence,
            voters: catalog.roster.voters().count(),
            majority,
            voters_live,
            health: Health::Ok,
            reasons: Vec::new(),
            members: self.member_views(now, catalog),
            applications: catalog
                .applications
                .iter()
                .map(|(app, application)| self.application_view(now, catalog, app, application))
                .collect(),
            window: catalog.window.as_ref().map(|w| self.window_view(now, catalog, w)),
            outcomes: catalog
                .outcomes
                .iter()
                .rev()
                .map(|o| OutcomeView {
                    window: o.window,
                    app: o.app.as_ref().map(AppName::to_string),
                    version: o.version,
                    coordinator: self.name_of(o.coordinator),
                    takeovers: o.takeovers,
                    why: o.why.clone(),
                })
                .collect(),
            addresses: self.address_views(now),
            policy: policy_view(&catalog.conduct.policy),
            silences: self.silence_views(catalog),
            operators: self.operator_views(catalog),
            invites: self.invite_views(catalog),
        };
        self.judge(&mut view);
        view
    }

    fn silence_views(&self, catalog: &Catalog) -> Vec<SilenceView> {
        let stand = catalog.conduct.silences().iter().filter(|s| self.wall < s.until);
        let view = |Silence { what, by, why, since, until }: &Silence| SilenceView {
            app: what.app.as_ref().map(AppName::to_string),
            rule: what.rule.as_ref().map(RuleName::to_string),
            member: what.member.map(|member| self.name_of(member)),
            what: self.told_of(what),
            by: by.to_string(),
            why: why.clone(),
            since: since.to_string(),
            until_ms: until.0,
            until: until.to_string(),
        };
        stand.map(view).collect()
    }

    fn operator_views(&self, catalog: &Catalog) -> Vec<OperatorView> {
        let view = |operator: &Operator| OperatorView {
            name: operator.name.to_string(),
            by: operator.by.to_string(),
            since: operator.since.to_string(),
            until_ms: operator.until.map(|until| until.0),
            until: operator.until.map(|until| until.to_string()),
            is_over: operator.is_over(self.wall),
        };
        catalog.conduct.operators().iter().map(view).collect()
    }

    fn member_views(&self, now: Time, catalog: &Catalog) -> Vec<MemberView> {
        let coordinator = catalog.window.as_ref().map(|w| w.coordinator);
        let directory = self.membership.directory();
        let reach = self.membership.reach();
        let reach: BTreeMap<MemberId, Reach> = reach.into_iter().map(|r| (r.member, r)).collect();
        let names = |ids: &BTreeSet<MemberId>| ids.iter().map(|id| self.name_of(*id)).collect();
        let view = |m: &Enrolled| {
            let contact = directory.get(&m.id);
            let state = match contact.map(|c| c.state) {
                None | Some(Liveness::Alive) => "alive",
                Some(Liveness::Suspect) => "suspect",
                Some(Liveness::Down) => "down",
                Some(Liveness::Left) => "left",
            };
            let ballot = self.votes.fresh(now, m.id);
            let service = match ballot {
                _ if !self.is_live(m.id) => "out",
                None => "unknown",
                Some(b) if b.differing.iter().any(|d| d.activated == 0) => "receiving",
                Some(_) if m.standby => "standby",
                Some(_) => "in service",
            };
            let round_trip = self.membership.round_trip(self.me, m.id);
            let round_trip_us = round_trip.map(|span| span.as_micros() as u64);
            let since = contact.map_or(Time(0), |c| c.since);
            MemberView {
                name: m.name.to_string(),
                id: m.id.0.to_string(),
                address: contact.map_or(self.address, |c| c.address).to_string(),
                state: state.to_owned(),
                reached: self.membership.is_reached(m.id),
                unreached: reach.get(&m.id).and_then(|r| r.unreached.as_ref()).map(names),
                round_trip_us: round_trip_us.filter(|_| m.id != self.me),
                place: reach.get(&m.id).and_then(|r| r.place),
                state_for_ms: now.since(since).as_millis() as u64,
                me: m.id == self.me,
                voter: m.voter,
                standby: m.standby,
                waits: catalog.conduct.is_waiting(m.id),
                tags: m.tags.clone(),
                capacity: self.capacities.of(self.me, m),
                coordinator: coordinator == Some(m.id),
                sequence: self.votes.ballot(m.id).map(|b| b.sequence),
                service: service.to_owned(),
            }
        };
        catalog.roster.members.iter().map(view).collect()
    }

    fn application_view(
        &self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        application: &Application,
    ) -> ApplicationView {
        let current = application.current();
        let tally = self.votes.tally(now, catalog, app);
        let vote = match &tally {
            _ if catalog.window_covers(app) => "paused",
            None => "undecided",
            Some(t) if t.is_unanimous() => "unanimous",
            Some(t) => match t.verdict(catalog.conduct.policy.vote) {
                Verdict::Undecided => "undecided",
                Verdict::Committed => "agreed",
                Verdict::Other(_) => "other",
                Verdict::Hung => "hung",
            },
        };
        let holding = self.content.holding(app);
        let work = holding.and_then(|h| h.work).map(|work| match work {
            Work::Scanning | Work::Glancing => "scanning",
            Work::Activating => "switching",
            Work::Repairing => "repairing",
            Work::Ingesting => "reading",
            Work::Withdrawing => "taking away",
        });
        let spec = &current.spec;
        ApplicationView {
            name: app.to_string(),
            version: current.number,
            root: current.root.to_string(),
            files: current.files,
            bytes: current.bytes,
            hosts: spec.hosts.clone(),
            default: spec.default,
            path: spec.path.clone(),
            placement: spec.placement.as_ref().map(ToString::to_string),
            vote: vote.to_owned(),
            ballots: tally.as_ref().map_or(0, |t| t.in_hand()),
            electorate: tally.as_ref().map_or(0, |t| t.positions.len()),
            positions: self.position_views(now, catalog, app, current.root),
            // A scan goes on all the time and is no news.
            work: work.filter(|w| *w != "scanning").map(str::to_owned),
            error: self.content.trouble(catalog, app).map(str::to_owned),
            versions: application
                .versions
                .iter()
                .rev()
                .map(|v| VersionView {
                    number: v.number,
                    root: v.root.to_string(),
                    files: v.files,
                    bytes: v.bytes,
                    publisher: self.name_of(v.publisher),
                    published_at_ms: v.published_at.0,
                    published_at: v.published_at.to_string(),
                    message: v.message.clone(),
                    origin: match v.origin {
                        Origin::Published => "published".to_owned(),
                        Origin::Rollback(to) => format!("rollback to {to}"),
                        Origin::Majority => "majority".to_owned(),
                        Origin::Edited => "edited".to_owned(),
                    },
                    asked: v.asked.clone(),
                })
                .collect(),
        }
    }

    fn position_views(
        &self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        committed: Digest,
    ) -> Vec<PositionView> {
        let current = catalog.application(app).map_or(0, |a| a.current().number);
        let placed = catalog.placed(app);
        let view = |m: &crate::base::catalog::Enrolled| {
            let ballot = self.votes.fresh(now, m.id).filter(|b| b.sequence == catalog.sequence);
            let differing = ballot.and_then(|b| b.differing.iter().find(|d| &d.app == app));
            if !placed.is_some_and(|placed| placed.holds(m)) {
                let is_live = differing.is_some_and(|d| d.activated > 0);
                return PositionView {
                    member: m.name.to_string(),
                    position: if is_live { "leaving" } else { "elsewhere" }.to_owned(),
                    root: differing.and_then(|d| d.root).map(|r| r.to_string()),
                    version: differing.map(|d| d.activated),
                    voter: false,
                    trouble: None,
                    rollout: None,
                    rollout_failure: None,
                };
            }
            let version_now = catalog.application(app).map(|a| a.current());
            let state = version_now.and_then(|v| self.how_it_comes(now, app, v, m.id));
            let (rollout, rollout_failure) = match state {
                _ if !self.is_live(m.id) => (None, None),
                None if self.rolls(app.as_str()) => (Some("waiting"), None),
                None => (Some("late"), None),
                Some(State::Starting) => (Some("starting"), None),
                Some(State::Ready) => (Some("ready"), None),
                Some(State::Failed(why) | State::Stuck(why)) => (Some("failed"), Some(why)),
            };
            let (position, root, version) = match (ballot, differing) {
                (None, _) => (Position::Silent, None, None),
                (Some(_), None) => (Position::Holds(committed), Some(committed), Some(current)),
                (Some(_), Some(d)) => {
                    let position = match d.root {
                        _ if d.activated != current => Position::Late,
                        None => Position::Nothing,
                        Some(root) => Position::Holds(root),
                    };
                    (position, d.root, Some(d.activated))
                }
            };
            let word = match position {
                Position::Silent => "silent",
                Position::Late => "late",
                Position::Nothing => "nothing",
                Position::Holds(root) if root == committed => "agrees",
                Position::Holds(_) => "differs",
            };
            let trouble = match word {
                "silent" | "agrees" => None,
                _ if m.id == self.me => self.content.trouble(catalog, app),
                _ => self.troubles.of(now, catalog, m.id, app),
            };
            PositionView {
                member: m.name.to_string(),
                position: word.to_owned(),
                root: root.map(|r| r.to_string()),
                version,
                voter: m.voter,
                trouble: trouble.map(str::to_owned),
                rollout: rollout.map(str::to_owned),
                rollout_failure,
            }
        };
        catalog.roster.members.iter().map(view).collect()
    }

    fn window_view(&self, now: Time, catalog: &Catalog, window: &Window) -> WindowView {
        let publication = window.publication.as_ref().map(|p| {
            let progress = catalog.roster.members.iter().filter_map(|m| {
                let ballot = self.votes.fresh(now, m.id)?;
                Some((m.name.to_string(), ballot.staged_bytes))
            });
            let whole = self.votes.whole(now, p.version.root);
            let placed = catalog.roster.placed(&p.version.spec);
            PublicationView {
                app: p.app.to_string(),
                version: p.version.number,
                message: p.version.message.clone(),
                publisher: self.name_of(p.version.publisher),
                files: p.version.files,
                phase: if p.committed { "switching" } else { "staging" }.to_owned(),
                bytes: p.version.bytes,
                whole: whole.into_iter().map(|m| self.name_of(m)).collect(),
                progress: progress.collect(),
                placed: placed.members().map(|m| m.name.to_string()).collect(),
                needed: placed.majority(),
                asked: p.version.asked.clone(),
            }
        });
        let live = self.is_live(window.coordinator);
        let state = match &publication {
            _ if !live && window.failover == Failover::Manual => {
                "frozen: its coordinator is down and failover is manual; the version before goes \
                 on being served; decide with `althing window takeover`, or bring it back"
                    .to_owned()
            }
            _ if !live => "its coordinator is down: the next one takes over".to_owned(),
            None if window.mode == WindowMode::Automatic => {
                "held open in automatic mode: edits of live files are publications; voting on its \
                 scope pauses"
                    .to_owned()
            }
            None => "held open by an operator; voting on its scope pauses".to_owned(),
            Some(p) if p.phase == "staging" => {
                let spec = window.publication.as_ref().map(|staged| &staged.version.spec);
                let placed = spec.map(|spec| catalog.roster.placed(spec));
                let names: BTreeSet<&str> = placed
                    .into_iter()
                    .flat_map(|placed| placed.voters())
                    .map(|m| m.name.as_str())
                    .collect();
                let have = p.whole.iter().filter(|name| names.contains(name.as_str())).count();
                format!(
                    "{} version {}: {have} members hold it whole, {} are needed",
                    p.app, p.version, p.needed
                )
            }
            Some(p) => {
                format!("{} version {} is committed; members are switching", p.app, p.version)
            }
        };
        WindowView {
            id: window.id,
            coordinator: self.name_of(window.coordinator),
            coordinator_live: live,
            takeovers: window.takeovers,
            opened_by: self.name_of(window.opened_by),
            opened_at: WallTime::to_string(&window.opened_at),
            scope: window.scope.iter().map(AppName::to_string).collect(),
            failover: failover_word(window.failover).to_owned(),
            held: window.is_held(),
            automatic: window.mode == WindowMode::Automatic,
            publication,
            state,
            asked: window.asked.clone(),
        }
    }

    /// Is everything well, and if not, why and what to do.
    fn judge(&self, view: &mut View) {
        let mut found: Vec<(Health, String)> = Vec::new();
        if let Some(names) = self.unknown_to() {
            found.push((
                Health::Critical,
                format!(
                    "This member is unknown to {names}: it was probably removed while it was away. \
                     Stop it; to join again as a new member, move its data directory away and use \
                     a new token."
                ),
            ));
        }
        if let Some(names) = self.gone_to_another_cluster() {
            found.push((
                Health::Critical,
                format!(
                    "Another cluster answers at the address of {names}: this one was probably \
                     recovered there without this member. To join it and keep the content: stop \
                     this member, run `althing recover --rejoin`, and start it with a token of that \
                     cluster."
                ),
            ));
        }
        if self.parting.as_ref().is_some_and(Parting::is_rotation) {
            let text = "This member has a new key, and takes it up once a majority of the voters has \
                        said that it knows.";
            found.push((Health::Warning, text.to_owned()));
        }
        if view.voters_live < view.majority {
            found.push((
                Health::Critical,
                format!(
                    "{} of {} voters are live and {} are needed: nothing can be changed or repaired; \
                     what is held goes on being served. Bring members back; if they are lost for \
                     ever, see `althing recover`.",
                    view.voters_live, view.voters, view.majority
                ),
            ));
        }
        if let Some(why) = self.unable_to_hold() {
            let text = format!(
                "This member can't hold virtual addresses: {why}. Other members hold them."
            );
            found.push((Health::Warning, text));
        }
        for app in &view.applications {
            if let (0, Some(placement)) = (app.electorate, &app.placement) {
                let text = format!(
                    "{0} is placed on `{placement}`, and no member with a vote is that: nobody has to \
                     hold it. Give members the tags that it needs, or publish it with another \
                     placement.",
                    app.name
                );
                found.push((Health::Critical, text));
                continue;
            }
            let failed =
                app.positions.iter().filter_map(|p| Some((p, p.rollout_failure.as_ref()?)));
            for (position, why) in failed {
                let text = format!(
                    "{0} version {1} did not get ready on {2}: {why}. See `althing logs {0}`; \
                     publish a version that works, or `althing rollback {0}`.",
                    app.name, app.version, position.member
                );
                found.push((Health::Warning, text));
            }
            // Who waits for its turn is not late.
            let rolls = self.rolls(&app.name);
            let mut said = false;
            match app.vote.as_str() {
                "hung" => found.push((
                    Health::Critical,
                    format!(
                        "The vote on {0} is hung: decide with `althing resolve {0} --member NAME`.",
                        app.name
                    ),
                )),
                "unanimous" | "paused" => {}
                _ => {
                    let is_off = |p: &&PositionView| match p.position.as_str() {
                        "differs" | "nothing" => true,
                        "late" => !rolls || p.trouble.is_some() || p.version == Some(0),
                        _ => false,
                    };
                    let mut off: Vec<&str> = Vec::new();
                    let mut kept_off: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                    for p in app.positions.iter().filter(is_off) {
                        match &p.trouble {
                            Some(why) => kept_off.entry(why).or_default().push(&p.member),
                            None => off.push(&p.member),
                        }
                        // Of this member it is said here, and not once more below.
                        said |= p.member == view.me && p.trouble.is_some();
                    }
                    for (why, members) in kept_off {
                        let members = members.join(", ");
                        let text = format!(
                            "{} is not version {} on {members}: {why}.",
                            app.name, app.version
                        );
                        found.push((Health::Warning, text));
                    }
                    if !off.is_empty() {
                        let follows = match app.vote.as_str() {
                            "agreed" => "it is being put right",
                            "other" => "a majority holds something else, which becomes a version",
                            _ => "too few ballots are in hand to decide",
                        };
                        let text = format!(
                            "{} is not version {} on {}: {follows}.",
                            app.name,
                            app.version,
                            off.join(", ")
                        );
                        found.push((Health::Warning, text));
                    }
                }
            }
            if let Some(error) = app.error.as_ref().filter(|_| !said) {
                found.push((Health::Warning, format!("{} on this member: {error}", app.name)));
            }
        }
        for member in &view.members {
            let Some(unreached) = member.unreached.as_ref().filter(|names| !names.is_empty())
            else {
                continue;
            };
            found.push((
                Health::Warning,
                format!(
                    "{} is not answered by {}: see `althing members --reach`.",
                    member.name,
                    unreached.join(", ")
                ),
            ));
        }
        for member in view.members.iter().filter(|m| m.state == "down") {
            found.push((Health::Warning, format!("{} is down.", member.name)));
        }
        if let Some(window) = view.window.as_ref().filter(|w| !w.coordinator_live) {
            found.push((Health::Warning, format!("Window {}: {}.", window.id, window.state)));
        }
        view.health = found.iter().map(|(health, _)| *health).max().unwrap_or(Health::Ok);
        found.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
        view.reasons = found.into_iter().map(|(_, text)| text).collect();
    }
}

fn failover_word(failover: Failover) -> &'static str {
    match failover {
        Failover::Auto => "auto",
        Failover::Manual => "manual",
    }
}

fn policy_view(policy: &Policy) -> PolicyView {
    let vote = match policy.vote {
        crate::base::catalog::VotePolicy::Majority => "majority",
        crate::base::catalog::VotePolicy::Committed => "committed",
    };
    PolicyView {
        failover: failover_word(policy.failover).to_owned(),
        vote: vote.to_owned(),
        remove_after_s: policy.remove_after_s,
    }
}
