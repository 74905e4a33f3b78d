//! Events: everything that acts leaves one that says why.

use serde::{Deserialize, Serialize};

use crate::base::{AppName, MemberName, WallTime};

/// How much an event matters to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Something was not as it should be, and was dealt with or may need a look.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// This member started, left or was removed.
    Member,
    /// Somebody joined, failed, returned, left.
    Membership,
    /// The catalog was changed: invitations, roster, policies.
    Catalog,
    /// A window was opened, taken over, closed.
    Window,
    /// A version was staged, committed, switched to.
    Version,
    /// The vote found a difference, or could not decide.
    Vote,
    /// Content was repaired.
    Repair,
    /// Content was fetched, or could not be.
    Replication,
    /// A service was started, is ready, ended.
    Service,
    /// A virtual address was taken, or given up.
    Address,
    /// An operator or a program told all members of something: `althing event`.
    User,
    /// A rule began to act, acted, or was over.
    Rule,
    /// An operator did something over the network, or may do so from now on, or no more.
    Operator,
}

impl EventKind {
    /// As it is written everywhere.
    pub fn word(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Membership => "membership",
            Self::Catalog => "catalog",
            Self::Window => "window",
            Self::Version => "version",
            Self::Vote => "vote",
            Self::Repair => "repair",
            Self::Replication => "replication",
            Self::Service => "service",
            Self::Address => "address",
            Self::User => "user",
            Self::Rule => "rule",
            Self::Operator => "operator",
        }
    }
}

/// What a user's event says, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// The member that it was told on.
    pub origin: String,
    /// What it is about.
    pub name: String,
    /// What goes with it.
    pub payload: String,
    /// Lamport time: higher than that of everything that could have caused it.
    pub time: u64,
}

/// One event of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 since this member started.
    pub number: u64,
    /// When, by this member's clock.
    pub at: WallTime,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: EventKind,
    /// The member that it concerns.
    pub member: Option<MemberName>,
    /// The application that it concerns.
    pub app: Option<AppName>,
    /// What happened and why, in a sentence.
    pub text: String,
    /// What a user told, where it is of that kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserEvent>,
    /// The number of the event that brought it about, of the same start of the member. The log
    /// has numbers of its own, and says it by those.
    #[serde(skip)]
    pub cause: Option<u64>,
    /// The episode of a rule that it belongs to: the same on all members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_in_one_way() {
        use EventKind::*;
        for kind in [
            Member,
            Membership,
            Catalog,
            Window,
            Version,
            Vote,
            Repair,
            Replication,
            Service,
            Address,
            User,
            Rule,
            Operator,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
