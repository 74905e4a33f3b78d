//! What is published, and the secrets that go with it.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};

use crate::{
    base::{AppName, SecretName},
    cli::units::Span,
};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing publish ./public --app web
  althing publish ./public --app web --message 'new prices' --host www.example.org
  althing publish ./public --app web --base 12   only if 12 is still the current version
  althing publish --update list.json --app web   change what a list names, nothing else

With --via the directory is one of this machine all the same, and is brought to the member:
what it lacks is sent, and nothing that it has. The member has to run with `up --uploads`.
  althing --via https://server1 publish ./public --app web
  althing --via https://server1 publish --there /srv/www --app web   a directory of server1

It ends when every live member has switched to the new version. A manifest
(althing.toml) in the directory can say the name, the host names and what to ignore.

A list is what `sync --show-lists` (JSON or XML) and `diff --json` print, or written by
hand; content is a file, or is looked up in the kept versions by its signature:
  [{\"op\": \"SET\", \"path\": \"index.html\", \"content\": \"new.html\"},
   {\"op\": \"DEL\", \"path\": \"old\"}]
  <update><set path=\"index.html\" content=\"new.html\"/><del path=\"old\"/></update>
SET and DEL need something there, ADD nothing; otherwise the whole list is refused.

What is not in the kept versions is fetched where the list names a url, http or https,
beside the file's size and signature (BLAKE3), which what comes must have:
  <update><add path=\"film.mp4\" url=\"https://cdn.example.org/film.mp4\">
    <file mode=\"0644\" size=\"73400320\" digest=\"af1349b9…\"/></add></update>
See docs/lists.md.")]
pub(in crate::cli) struct Publish {
    /// The directory.
    #[arg(value_name = "DIR", required_unless_present = "update")]
    pub source: Option<PathBuf>,
    /// With --via: the directory is one of the member's machine, by its whole path, and not of
    /// this one.
    #[arg(long, conflicts_with = "update")]
    pub there: bool,
    /// Instead of a directory: a list of changes to the current version.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "host"], requires = "app")]
    pub update: Option<PathBuf>,
    /// Under which name [default: the manifest's].
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,
    /// What changed, for the history.
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub message: String,
    /// A host name that it answers to; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// The version that this one was made from: refused if it is no longer the current one.
    #[arg(long, value_name = "N")]
    pub base: Option<u64>,
    #[command(flatten)]
    pub ready: ReadyWithin,
}

/// How long a command waits until what it published is ready on all members.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(in crate::cli) struct ReadyWithin {
    /// Do not wait until what runs of it is ready on all members.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for that.
    #[arg(long, value_name = "SPAN", default_value = "10m", conflicts_with = "no_wait")]
    pub within: Span,
}

impl Default for ReadyWithin {
    fn default() -> Self {
        Self { no_wait: false, within: Span(Duration::from_secs(600)) }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SecretAction {
    /// Set one, to what standard input says.
    Set {
        /// Of which application; one that is still to be published may begin with it.
        app: AppName,
        /// Its name: lower-case letters, digits, hyphens.
        name: SecretName,
        /// Drop all others, unopened: where nobody can open them any more.
        #[arg(long)]
        anew: bool,
        /// For the history.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        message: String,
    },
    /// List their names, and which services and hooks are given them.
    List {
        /// Of which application.
        app: AppName,
    },
    /// Take one out.
    Unset {
        /// Of which application.
        app: AppName,
        /// Its name.
        name: SecretName,
        /// For the history.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        message: String,
    },
}
