//! Who belongs to the cluster, who presides, who may act, and what it does by itself.

use clap::{ArgGroup, Subcommand, ValueEnum};

use super::Tag;
use crate::{
    base::{
        AppName, MemberName, OperatorName,
        catalog::{Failover, Invite, VotePolicy},
    },
    cli::units::Span,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum InvitesAction {
    /// Nobody joins any more with an invitation, or with any.
    #[command(group(ArgGroup::new("which").args(["id", "all"]).required(true)))]
    Withdraw {
        /// Which: what its id begins with, four digits at least.
        #[arg(value_name = "ID", value_parser = invite_id)]
        id: Option<String>,
        /// All that are open.
        #[arg(long)]
        all: bool,
    },
}

/// What the id of an invitation begins with.
fn invite_id(text: &str) -> Result<String, String> {
    let is_id = (Invite::ID_PREFIX_MIN..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_id {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "give at least {} of the hex digits that `althing invites` shows; it is not the token",
            Invite::ID_PREFIX_MIN
        )),
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OperatorAction {
    /// Add one, and print the token.
    Add {
        /// By this name events tell of what was done.
        name: OperatorName,
        /// For how long, as 12h or 30d; ten years at most [default: until removed].
        #[arg(long, value_name = "SPAN")]
        expires: Option<Span>,
    },
    /// List them.
    List,
    /// Remove one.
    Remove {
        /// Which.
        name: OperatorName,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TagsAction {
    /// Give these tags these values; others stay.
    Set {
        /// Which.
        #[arg(required = true, value_name = "KEY=VALUE")]
        tags: Vec<Tag>,
    },
    /// Take these tags away.
    Unset {
        /// Which.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WindowAction {
    /// Hold a window open.
    Open {
        /// For this application; may be given several times [default: all].
        #[arg(long = "app", value_name = "NAME")]
        apps: Vec<AppName>,
        /// Who takes over if the coordinator is lost [default: by policy].
        #[arg(long)]
        failover: Option<FailoverWord>,
        /// An edit of an application's live files is a publication while it is open.
        #[arg(long)]
        automatic: bool,
    },
    /// Close the window that is held open.
    Close,
    /// Make this member the coordinator of the open window.
    Takeover,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FailoverAction {
    /// Put these members first, in this order.
    Set {
        /// Which members.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<MemberName>,
    },
    /// From now on the next live member takes over by itself.
    Auto,
    /// From now on nobody takes over unless an operator says so.
    Manual,
}

/// See [`Failover`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum FailoverWord {
    /// The next live member of the failover list, by itself.
    Auto,
    /// Nobody, until an operator says so.
    Manual,
}

impl From<FailoverWord> for Failover {
    fn from(word: FailoverWord) -> Self {
        match word {
            FailoverWord::Auto => Self::Auto,
            FailoverWord::Manual => Self::Manual,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyAction {
    /// What it means that a majority holds something else than was published.
    Vote {
        /// `majority`: it is right and becomes the next version; `committed`: it is repaired.
        policy: VoteWord,
    },
    /// After how long a member that is down is removed.
    ///
    /// The first live member of the failover list proposes it, one member at a time, and
    /// only with a majority. Three voters are left in any case. After a restart of that
    /// member the time begins anew.
    RemoveAfter {
        /// 10m at the least, or `never`.
        time: After,
    },
}

/// See [`VotePolicy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum VoteWord {
    /// What a strict majority holds becomes the next version.
    Majority,
    /// What was published is right.
    Committed,
}

impl From<VoteWord> for VotePolicy {
    fn from(word: VoteWord) -> Self {
        match word {
            VoteWord::Majority => Self::Majority,
            VoteWord::Committed => Self::Committed,
        }
    }
}

/// A time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct After(pub Option<Span>);

impl std::str::FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" { Ok(Self(None)) } else { text.parse().map(|span| Self(Some(span))) }
    }
}
