//! Rules: looked at before they are published, and silenced for a while.

use std::{path::PathBuf, str::FromStr};

use clap::{ArgGroup, Args as ClapArgs, Subcommand};

use crate::{
    base::{AppName, MemberName, RuleName},
    cli::units::Span,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RulesAction {
    /// Check the rules of a manifest, and show how they are understood.
    #[command(after_help = "Examples:
  althing rules check althing.toml
  althing rules check ./public/althing.toml --json

No member is asked. What is wrong is shown where it stands; then it ends with 1.
`publish` refuses the same.")]
    Check {
        /// The manifest: an althing.toml.
        file: PathBuf,
    },
    /// Show when rules would have acted, by what members recorded.
    #[command(after_help = "Examples:
  althing rules test althing.toml                   over the last day, on all members
  althing rules test althing.toml --since 7d --member web1

Nothing is done: the rules are judged over what was measured, moment by moment, by the
same judge. It looks as often as numbers are kept for so long, and says how often that
is. What the actions would have changed is not in it.")]
    Test {
        /// The manifest: an althing.toml.
        file: PathBuf,
        /// From so long ago on, as 2h or 7d.
        #[arg(long, default_value = "1d")]
        since: Span,
        /// Only what was measured on this member.
        #[arg(long)]
        member: Option<MemberName>,
    },
}

/// What is to be silent, or no more.
#[derive(Clone, Debug, ClapArgs)]
#[command(group(ArgGroup::new("whose").args(["what", "member"]).multiple(true).requires("deed")))]
#[command(group(ArgGroup::new("deed").args(["lasts", "end"])))]
pub(in crate::cli) struct Hush {
    /// Which rules: one, or all of an application.
    #[arg(value_name = "APP[/RULE]")]
    pub what: Option<Ruled>,
    /// Only as far as they are about this member; without APP all rules about it.
    #[arg(long, value_name = "NAME")]
    pub member: Option<MemberName>,
    /// For how long: 90s, 30m, 2h, 7d; a minute at least, and 30 days at most.
    #[arg(long = "for", value_name = "SPAN", requires = "why", requires = "whose")]
    pub lasts: Option<Span>,
    /// Why, for whoever looks later: up to 256 bytes.
    #[arg(long, value_name = "TEXT", requires = "lasts")]
    pub why: Option<String>,
    /// End it now: name the same rules and member as the silence does.
    #[arg(long, requires = "whose")]
    pub end: bool,
}

/// Which rules, as `APP/RULE` or `APP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Ruled {
    pub app: AppName,
    /// All of them if none is given.
    pub rule: Option<RuleName>,
}

impl FromStr for Ruled {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (app, rule) = match text.split_once('/') {
            Some((app, rule)) => (app, Some(RuleName::parse(rule)?)),
            None => (text, None),
        };
        Ok(Self { app: AppName::parse(app)?, rule })
    }
}
