//! The member's read-only view: what the command line, the API and the status
//! page show. Names instead of ids, sentences where a person decides.
//!
//! Here is what it holds; how it is made of what the member knows is in the files beside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::addresses::AddressView;
use crate::{base::operator::AskedBy, proto::membership::Place};

mod judged;
mod made;
mod routes;

pub use routes::{Counts, SiteRoute};

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
