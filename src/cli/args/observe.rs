//! What happened and what was measured: events, series, and what a script tells.

use clap::{Args as ClapArgs, ValueEnum};

use crate::{
    base::{AppName, MemberName},
    cli::units::Span,
    member::event::{EventKind, Severity},
};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing events                        what happened on this member since it started
  althing events --follow --kind vote
  althing events --all --since 1d       what happened on all members, from their logs
  althing events --member beta --since 2h --severity warning

The log of a member outlives its restarts: 60 days, 100,000 events. With --all, --member,
--since, --app, --about or --severity it is read instead of what is in memory.")]
pub(in crate::cli) struct EventsArgs {
    /// Go on until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// Only of this kind; may be given several times.
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<KindWord>,
    /// Only of so long ago and since, as 2h or 7d.
    #[arg(long, value_name = "SPAN")]
    pub since: Option<Span>,
    /// Of all members together.
    #[arg(long, conflicts_with = "member")]
    pub all: bool,
    /// Of the log of this member.
    #[arg(long, value_name = "NAME")]
    pub member: Option<MemberName>,
    /// Only what concerns this application.
    #[arg(long, value_name = "APP")]
    pub app: Option<AppName>,
    /// Only what concerns this member, whoever tells it.
    #[arg(long, value_name = "NAME")]
    pub about: Option<MemberName>,
    /// Only what matters at least so much.
    #[arg(long, value_name = "WORD")]
    pub severity: Option<SeverityWord>,
}

/// See [`EventKind`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum KindWord {
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
    Lie,
}

impl From<KindWord> for EventKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Member => Self::Member,
            KindWord::Membership => Self::Membership,
            KindWord::Catalog => Self::Catalog,
            KindWord::Window => Self::Window,
            KindWord::Version => Self::Version,
            KindWord::Vote => Self::Vote,
            KindWord::Repair => Self::Repair,
            KindWord::Replication => Self::Replication,
            KindWord::Service => Self::Service,
            KindWord::Address => Self::Address,
            KindWord::User => Self::User,
            KindWord::Rule => Self::Rule,
            KindWord::Operator => Self::Operator,
            KindWord::Lie => Self::Lie,
        }
    }
}

/// See [`Severity`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum SeverityWord {
    Info,
    Warning,
    Critical,
}

impl From<SeverityWord> for Severity {
    fn from(word: SeverityWord) -> Self {
        match word {
            SeverityWord::Info => Self::Info,
            SeverityWord::Warning => Self::Warning,
            SeverityWord::Critical => Self::Critical,
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing metrics                             what this member counts
  althing metrics cpu load                    of all members together, the last ten minutes
  althing metrics cpu --each --since 1h       each member for itself
  althing metrics 'requests*' --since 1d --step 1h
  althing metrics latency --percentiles --member beta

The names of series are in docs/telemetry.md; `*` stands for anything. TOTAL is what the
members have together; a counter is shown by its rate a second.")]
pub(in crate::cli) struct MetricsArgs {
    /// Which series.
    pub series: Vec<String>,
    /// Since so long ago [default: 10m].
    #[arg(long, value_name = "SPAN", requires = "series")]
    pub since: Option<Span>,
    /// The length of a row [default: all of it is one].
    #[arg(long, value_name = "SPAN", requires = "series")]
    pub step: Option<Span>,
    /// Only of this member.
    #[arg(long, value_name = "NAME", requires = "series")]
    pub member: Option<MemberName>,
    /// Each member for itself, instead of all together.
    #[arg(long, requires = "series")]
    pub each: bool,
    /// Percentiles as well, where there are any.
    #[arg(long, requires = "series")]
    pub percentiles: bool,
}

/// What a script has measured.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Measure {
    /// Of what: letters, digits, dots, hyphens, underscores.
    pub name: String,
    /// How much: a number; with --took a span as 93s, 250ms or 2m.
    #[arg(allow_negative_numbers = true)]
    pub value: String,
    /// So much more was counted.
    #[arg(long, conflicts_with = "took")]
    pub count: bool,
    /// It took so long.
    #[arg(long)]
    pub took: bool,
    /// Of which of them: up to 200 bytes.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}
