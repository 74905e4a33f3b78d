//! `up` and what shows its options: what a member is started with.

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, Subcommand, ValueEnum};

use super::After;
use crate::{
    base::{MemberName, Network, catalog::check_tags, quantity},
    gateway::access::Format,
};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing up
  althing up --join 10.0.0.1:7700 --token althing-...
  althing up --join 10.0.0.1 --join 10.0.0.2 --token-file /run/token
  althing up --data ./two --name two --bind 127.0.0.2:7700 \\
             --listen 127.0.0.2:8080 --status 127.0.0.2:7780    a second one on this machine

A member that was in a cluster before needs none of --name, --join and --token:
it finds its way back from its data directory. Where all members were moved to
other addresses, --join with the new address of one brings them together.

Each option is a key of the configuration file too, and a variable: docs/config.md.
SIGHUP makes a member read the file anew.")]
pub(in crate::cli) struct Up {
    /// Its name in the cluster [default: the host name].
    #[arg(long)]
    pub name: Option<MemberName>,
    /// Where the cluster's traffic arrives, UDP.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7700")]
    pub bind: std::net::SocketAddr,
    /// Where other members reach it, if not at --bind.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// Where sites are served, TCP; `none` for nowhere.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub listen: Listen,
    /// Where sites are served over TLS, TCP; `none` for nowhere.
    #[arg(long, value_name = "ADDR:PORT", default_value = "none")]
    pub listen_tls: Listen,
    /// A proxy or a network of proxies in front of this member: what their requests say of the
    /// client (X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Forwarded) is believed, and
    /// nobody else's. May be given several times, or as a list with commas; up to 64.
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    pub trusted_proxy: Vec<Network>,
    /// Who connects to --listen or --listen-tls from this network has to send a header of the
    /// PROXY protocol first, and what it says of the client is believed. May be given several
    /// times, or as a list with commas; up to 64.
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    pub accept_proxy: Vec<Network>,
    /// A file in the format of MaxMind DB that says in which countries and on which continents
    /// addresses are, for rules such as share(requests from MX, 10m); up to 256 MiB. Read anew
    /// within a minute when it was replaced.
    #[arg(long, value_name = "FILE")]
    pub origins_db: Option<PathBuf>,
    /// Where programs tell what they measure, UDP, as lines of StatsD; `none` for nowhere. A socket
    /// for that is in the data directory anyway. Whoever can send there is believed.
    #[arg(long, value_name = "ADDR:PORT", default_value = "none")]
    pub statsd: Listen,
    /// A file that each request is written to at its end, a line each, or `-` for standard
    /// output. Made so that its group can read it, and opened anew when it was moved away.
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// How they are written.
    #[arg(long, value_enum, default_value_t = FormatWord::Combined)]
    pub access_log_format: FormatWord,
    /// How it writes its own log. What is in it is said by the variable ALTHING_LOG.
    #[arg(long, value_enum, default_value_t = LogWord::Auto)]
    pub log: LogWord,
    /// Where the status page is served, TCP; `none` for nowhere.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7780")]
    pub status: Listen,
    /// A file with the certificate of the status page and those that lead to its authority, as
    /// PEM. With it that port speaks TLS and nothing else, and operators are listened to from
    /// everywhere. Read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub status_cert: Option<PathBuf>,
    /// A file with the private key of --status-cert, as PEM; it may be the same file.
    #[arg(long, value_name = "FILE")]
    pub status_key: Option<PathBuf>,
    /// Take content that operators bring from their own machines (`publish DIR --via`). Whoever
    /// brings programs can have them run on all members, as the user that members run as.
    #[arg(long, value_name = "true|false", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub uploads: bool,
    /// A live member of the cluster to join; may be given several times, or as a list with commas.
    /// A member that returns looks for the others there as well, if it finds no majority where they
    /// were.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub join: Vec<String>,
    /// The token that `althing invite` printed.
    #[arg(long)]
    pub token: Option<String>,
    /// A file that holds the token, so that it is in no list of processes.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// A tag, for placement; may be given several times, or in the variable one a line. On a member
    /// that returns it is set as soon as a majority can be reached; other tags stay as they are.
    // A value may have commas in it, and no ends of lines.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = '\n')]
    pub tag: Vec<Tag>,
    /// Hold the content and wait to be brought in.
    #[arg(long, value_name = "true|false", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub standby: bool,
    /// How often every byte that this member holds is read again, so that what rotted is
    /// found before it is needed: 1d, 12h, or `never`; an hour at the least.
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub scrub_every: After,
    /// How much of that a second: 8MB, and 64kB at the least.
    #[arg(long, value_name = "SIZE", default_value = "8MB", value_parser = quantity::size)]
    pub scrub_rate: u64,
    /// How much content is sent to other members a second at the most, over all of them:
    /// 10MB, and 64kB at the least [default: as much as there is room for]. Probes,
    /// requests and questions are not counted and never wait for it.
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub send_rate: Option<u64>,
    /// How much content is received from other members a second at the most.
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub receive_rate: Option<u64>,
    /// How wide the network between the members is; the same on all of them.
    #[arg(long, value_enum, default_value_t = ProfileWord::Lan)]
    pub profile: ProfileWord,
    /// Stop when standard input ends: for a parent that must not leave it behind.
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigAction {
    /// Check a configuration file; what is wrong is shown where it stands.
    #[command(after_help = "Examples:
  althing config check
  althing config check ./config.toml --json

No member is asked. Ends with 1 if anything is wrong; `up` refuses the same, and a member
that reads the file anew leaves everything as it was.")]
    Check {
        /// Which [default: the one that --config names, or /etc/althing/config.toml].
        file: Option<PathBuf>,
    },
    /// Show what `up` would be given, and whether a flag, a variable or the file says so.
    #[command(after_help = "\
It takes every option of `althing up`, so that a whole command line can be looked at. What is
secret is not shown. No member is asked: one that runs may have been started otherwise.

Examples:
  althing config show
  althing config show --bind 10.0.0.1:7700
  ALTHING_TAG=role=web althing config show --config ./config.toml")]
    Show(Box<Up>),
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Listen(pub Option<std::net::SocketAddr>);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(address) => Ok(Self(Some(address))),
            Err(_) => Err("give an address and a port, as 0.0.0.0:8080, or none".to_owned()),
        }
    }
}

/// A tag on the command line: `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Tag(pub String, pub String);

impl std::str::FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as role=web")?;
        check_tags(&[(key.to_owned(), value.to_owned())].into())?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

/// How patient the failure detector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ProfileWord {
    /// Round trips of some milliseconds: a failure is known within two seconds.
    Lan,
    /// Round trips of some hundred milliseconds: everything takes four times as long.
    Wan,
}

impl ProfileWord {
    /// As the failure detector wants it.
    pub fn pace(self) -> u32 {
        match self {
            Self::Lan => 1,
            Self::Wan => 4,
        }
    }
}

/// How a member writes its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LogWord {
    /// To the journal where standard error leads there, as in a unit of systemd; else as text.
    Auto,
    /// Lines on standard error, for people.
    Text,
    /// An object a line on standard error, events of all severities included.
    Json,
    /// To systemd's journal, with fields, events of all severities included.
    Journal,
}

/// See [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum FormatWord {
    /// As Apache and others: the common form, the referer, the browser.
    Combined,
    /// As the first web servers.
    Common,
    /// An object a line.
    Json,
}

impl From<FormatWord> for Format {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::Combined => Self::Combined,
            FormatWord::Common => Self::Common,
            FormatWord::Json => Self::Json,
        }
    }
}
