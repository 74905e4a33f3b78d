//! What an operator can ask of a member, and what it answers. Any member
//! takes any command. Queries are not here: they read the view.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::change::Act;
use crate::base::{
    AppName, Digest, MemberName, OperatorName, RuleName, WallTime,
    catalog::{AppSpec, Failover, VotePolicy},
    operator::TokenHash,
};

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Issue an invitation.
    Invite {
        /// 32 random bytes: the invitation's private key. Drawn by the shell,
        /// because the core has no randomness that guards secrets.
        seed: [u8; 32],
        /// How many may join with it.
        uses: u32,
        /// For how long, in seconds.
        valid_s: u64,
    },
    /// Nobody joins any more with an invitation.
    Withdraw {
        /// Which: what its id begins with, at least as many hex digits as
        /// [`ID_PREFIX_MIN`](crate::base::catalog::Invite::ID_PREFIX_MIN) says; all that are open
        /// if not given.
        id: Option<String>,
    },
    /// Strike a member off the roster.
    Remove {
        /// Whom.
        name: MemberName,
    },
    /// Leave the cluster and stop.
    Leave,
    /// Give this member a new key, and so a new id.
    RotateKey,
    /// Publish what the store of this member holds under `root`.
    Publish {
        /// As what.
        app: AppName,
        /// The content; whole in this member's store.
        staged: Staged,
        /// How it is held and served.
        spec: Box<AppSpec>,
        /// For the history.
        message: String,
        /// The version that it was made against; the current one if not given.
        base: Option<u64>,
    },
    /// Publish the content of an earlier version again.
    Rollback {
        /// Of which application.
        app: AppName,
        /// To which version; the one before the current one if not given.
        version: Option<u64>,
    },
    /// Hold a window open.
    WindowOpen {
        /// For these applications; for all if empty.
        scope: Vec<AppName>,
        /// Who takes over; by the cluster's policy if not given.
        failover: Option<Failover>,
        /// Whether an edit of live content is a publication while it is open.
        #[serde(default)]
        automatic: bool,
    },
    /// Close the held window.
    WindowClose,
    /// Become the coordinator of the open window.
    WindowTakeover,
    /// Put these members first in the failover list.
    FailoverSet {
        /// In this order.
        first: Vec<MemberName>,
    },
    /// Change the policies.
    Policy {
        /// Who takes over a lost coordinator's window.
        failover: Option<Failover>,
        /// What a majority for something else means.
        vote: Option<VotePolicy>,
    },
    /// Change after how long a member that is down is removed.
    RemoveAfter {
        /// In seconds; none for never.
        seconds: Option<u64>,
    },
    /// Change the tags of a member.
    Tags {
        /// Whose; of the member that is asked if not given.
        member: Option<MemberName>,
        /// These get these values.
        set: BTreeMap<String, String>,
        /// These go.
        unset: BTreeSet<String>,
    },
    /// Put a member into service, or out of it.
    Service {
        /// Which; the member that is asked if not given.
        member: Option<MemberName>,
        /// Whether it is to answer requests.
        on: bool,
    },
    /// Put this member out of service because a rule says so, unless too few would be left.
    StandDown {
        /// So many others stay in service, and half of all members, at least.
        keep: u16,
        /// The episode of the rule, for people.
        because: String,
        /// The clock of this member.
        at: WallTime,
    },
    /// Put this member back to where it was before a rule put it out of service.
    StandUp,
    /// What was under way on this member when a rule put it out of service is finished.
    Drained,
    /// Put a member on standby, where rules about the cluster may bring it into service.
    Wait {
        /// Which; the member that is asked if not given.
        member: Option<MemberName>,
    },
    /// What a judge of rules about the cluster wants to be changed.
    Act(Act),
    /// Tell all members that something happened.
    Event {
        /// What.
        name: String,
        /// What goes with it.
        payload: String,
    },
    /// Ask all members.
    Query {
        /// What: ping, version or uptime.
        name: String,
        /// What goes with it.
        payload: String,
        /// How long answers are waited for, in milliseconds.
        wait_ms: u64,
    },
    /// Decide a hung vote: what this member holds becomes the next version.
    Resolve {
        /// Which application.
        app: AppName,
        /// Whose content is right.
        member: MemberName,
    },
    /// Rules do nothing for a while: those of an application, about a member, or both.
    Silence {
        /// Of which application.
        #[serde(default)]
        app: Option<AppName>,
        /// Which of its rules; all if not given.
        #[serde(default)]
        rule: Option<RuleName>,
        /// As far as they are about this member.
        #[serde(default)]
        member: Option<MemberName>,
        /// For how long, in seconds.
        for_s: u64,
        /// Why.
        why: String,
    },
    /// They act again, before that is over.
    Unsilence {
        /// As the silence said.
        #[serde(default)]
        app: Option<AppName>,
        /// Likewise.
        #[serde(default)]
        rule: Option<RuleName>,
        /// Likewise.
        #[serde(default)]
        member: Option<MemberName>,
    },
    /// Let somebody act over the network.
    OperatorAdd {
        /// By this name events tell of it.
        name: OperatorName,
        /// The hash of a token that the shell has drawn: the member never sees the token.
        token: TokenHash,
        /// For how long, in seconds; until it is removed if not given.
        #[serde(default)]
        valid_s: Option<u64>,
    },
    /// Nobody may any more under this name.
    OperatorRemove {
        /// Which.
        name: OperatorName,
    },
}

/// Who gives a command with a token. Without one it comes through the socket, or from the member
/// itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Whose token it is.
    pub operator: OperatorName,
    /// The number of the event that tells of the command, of the same start of the member.
    pub event: u64,
}

/// One member's answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Whose.
    pub member: String,
    /// What it said; none if it knows no such question.
    pub answer: Option<String>,
    /// How long after the question it was there, in microseconds.
    pub after_us: u64,
}

/// Content that lies whole in this member's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Its signature.
    pub root: Digest,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Committed with this catalog sequence.
    Done {
        /// The sequence in which it holds.
        sequence: u64,
        /// What was done, in a sentence.
        text: String,
    },
    /// An invitation.
    Invited {
        /// What the newcomer needs.
        token: String,
        /// Until when, by this member's clock.
        expires_at: WallTime,
        /// For how many.
        uses: u32,
    },
    /// An event is on its way to all.
    Told {
        /// Its Lamport time.
        time: u64,
        /// How many members are live, this one included.
        live: usize,
    },
    /// What members answered.
    Gathered {
        /// By name.
        answers: Vec<Answered>,
        /// Who was live and did not answer in time.
        missing: Vec<String>,
        /// Who was not live.
        away: Vec<String>,
    },
    /// A version is in force.
    Published {
        /// Of which application.
        app: AppName,
        /// Which.
        version: u64,
        /// Its content.
        root: Digest,
        /// In which window.
        window: u64,
        /// How often that was taken over on the way.
        takeovers: u32,
        /// How the window ended, in a sentence.
        why: String,
    },
}
