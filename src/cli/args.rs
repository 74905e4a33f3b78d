//! The words of the command line. Parsing only: every value is checked here,
//! so that what comes out can be carried out.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgAction, ArgGroup, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::{export::options::Export, units::Span};
use crate::{
    base::{
        AppName, MemberName, Network, OperatorName, RuleName, SecretName, ServiceName,
        catalog::{Failover, Invite, VotePolicy, check_tags},
        quantity,
    },
    gateway::access::Format,
    member::event::{EventKind, Severity},
    sim,
};

const AFTER: &str = "\
Examples:
  server1$ althing up                                    found a cluster
  server1$ althing invite                                print the command for the next server
  server2$ althing up --join 10.0.0.1:7700 --token ...   join it
  server1$ althing publish ./public --app web            publish, from any member
  any$     althing status                                is everything well, and if not, why?
  any$     althing demo                                  see all of it on this machine
  any$     althing sim --members 50 --loss 5%            try a cluster before there is one

Exit codes:
  0  done
  1  the disk, the network or a check failed
  2  a mistake on the command line
  3  the request is wrong: a name, a path, a value
  4  what it names is not there, or no member is running here
  5  not now: somebody else changes the same thing
  6  less than a majority of the voters can be reached
  7  not allowed";

/// Many servers that behave as one machine, with no controller.
///
/// Every member is equal and runs this same program. What is published to one
/// is held, served and watched by all; what differs is put right by majority
/// vote. `up` runs a member; every other command asks the member that runs on
/// this machine, or with --via another one, and any member takes any command.
#[derive(Debug, Parser)]
#[command(name = "althing", version, after_help = AFTER, max_term_width = 100)]
pub(super) struct Args {
    /// Print JSON: one document, or one line for each thing that happens.
    #[arg(long, global = true)]
    pub json: bool,
    /// The member's data directory [default: /var/lib/althing for root, otherwise
    /// $XDG_DATA_HOME/althing or ~/.local/share/althing].
    #[arg(long, global = true, value_name = "DIR", env = "ALTHING_DATA")]
    pub data: Option<PathBuf>,
    /// Ask a member by its status port (7780 if not given), and not the one on this machine. What
    /// acts needs an operator's token, which goes over TLS (https://HOST:PORT, where the member
    /// has --status-cert) or over the loopback interface: reach another machine without TLS by
    /// `ssh -L 7780:127.0.0.1:7780 HOST`, and give 127.0.0.1. Not for `up`, nor for what is only
    /// done on the machine itself.
    #[arg(long, global = true, value_name = "[https://]HOST[:PORT]", env = "ALTHING_VIA")]
    pub via: Option<String>,
    /// A file with the certificates, as PEM, that sign those of members: for --via https://HOST
    /// [default: those that this machine trusts].
    #[arg(long, global = true, value_name = "FILE", env = "ALTHING_CA")]
    pub ca: Option<PathBuf>,
    /// A file with what `althing operator add` printed, for --via. Without it the token is in the
    /// variable ALTHING_OPERATOR_TOKEN.
    #[arg(long, global = true, value_name = "FILE", env = "ALTHING_OPERATOR_TOKEN_FILE")]
    pub operator_token_file: Option<PathBuf>,
    /// The file that says what `up` is not told by options or variables, and where the data
    /// directory is; `none` for no file [default: /etc/althing/config.toml, if it is there].
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ALTHING_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub action: Action,
}

/// What a script has measured.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Measure {
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

/// Which rules, as `APP/RULE` or `APP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruled {
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

/// What is to be silent, or no more.
#[derive(Clone, Debug, ClapArgs)]
#[command(group(ArgGroup::new("whose").args(["what", "member"]).multiple(true).requires("deed")))]
#[command(group(ArgGroup::new("deed").args(["lasts", "end"])))]
pub(super) struct Hush {
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

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Run a member: found a cluster, join one, or come back to one.
    Up(Box<Up>),
    /// Print the command that the next server joins with.
    #[command(after_help = "Examples:
  althing invite                       for one server, within the hour
  althing invite --uses 10 --valid 1d  for ten, within the day

Whoever has the token can join until it is used up, expires, or is withdrawn (`althing invites`).")]
    Invite {
        /// How many servers may join with it.
        #[arg(long, default_value_t = 1, value_name = "N")]
        uses: u32,
        /// For how long: 90s, 30m, 1h, 7d.
        #[arg(long, default_value = "1h", value_name = "TIME")]
        valid: Span,
    },
    /// List the invitations that are open, or withdraw them.
    #[command(after_help = "Examples:
  althing invites                     what is open: from whom, for how many, until when
  althing invites withdraw 3f9c2a71   this one: as much of its id as no other begins with
  althing invites withdraw --all      all that are open

A token is shown once, by `invite`, and never again. Who has joined with one stays.")]
    Invites {
        #[command(subcommand)]
        action: Option<InvitesAction>,
    },
    /// Write a first manifest (althing.toml) for a directory.
    #[command(after_help = "Examples:
  althing init ./public
  althing init ./public --app web --host www.example.org

Nothing is written over. Without a manifest `publish` takes --app and --host.")]
    Init {
        /// The directory [default: this one].
        #[arg(default_value = ".", hide_default_value = true)]
        directory: PathBuf,
        /// The application's name [default: after the directory].
        #[arg(long, value_name = "NAME")]
        app: Option<AppName>,
        /// A host name that it answers to; may be given several times.
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
    },
    /// Adopt servers as they are: what a majority holds at a path becomes version 1.
    #[command(after_help = "\
Every member signs what stands at PATH there, and says what it is. Where a strict majority of those
with a vote holds the same, that is published with its live tree at PATH: members that hold it keep
their copy as it is, and the others are put right, with what they held kept aside. Otherwise nothing
is changed, and you decide.

Examples:
  althing adopt web /srv/www --dry-run   who holds what
  althing adopt web /srv/www
  althing adopt web /srv/www --mine      the copy of this member is right

A manifest in PATH on this member says what is ignored, and the rest.")]
    Adopt {
        /// The application's name.
        app: AppName,
        /// Where it stands on every member: a directory.
        path: PathBuf,
        /// A host name that it answers to; may be given several times.
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
        /// The copy of the member that is asked is right, whoever holds what.
        #[arg(long)]
        mine: bool,
        /// Only show who holds what.
        #[arg(long, conflicts_with = "mine")]
        dry_run: bool,
    },
    /// Publish a directory: every member holds and serves it, or none does.
    Publish(Publish),
    /// List the members, in failover order.
    Members {
        /// Show who reaches whom directly, as each member says itself.
        #[arg(long)]
        reach: bool,
    },
    /// Estimate the round trip between two members.
    Rtt {
        /// From this member.
        one: MemberName,
        /// To this one; to the member that is asked if not given.
        other: Option<MemberName>,
    },
    /// List the applications.
    Apps,
    /// Say whether everything is well, and if not, why and what to do.
    Status {
        /// Answer as a plugin of Nagios: one line, and exit code 0 (ok), 1 (warning),
        /// 2 (critical) or 3 (unknown: this member can't be asked).
        #[arg(long)]
        check: bool,
    },
    /// Show who holds what, and who differs.
    Votes {
        /// Only this application.
        app: Option<AppName>,
    },
    /// Show, open, close or take over the update window.
    #[command(after_help = "Examples:
  althing window                         show it
  althing window open --app web          hold one open for web
  althing window open --failover manual  nobody takes over unless told
  althing window open --automatic        edit, save, served everywhere
  althing window close

While a window is open, voting on what it covers pauses. `publish` opens and
closes one by itself. While one is open in automatic mode, whatever is edited in
the live files of an application, on any member, is published at once. Edits of
different files by several members come together; of the same file the first
wins, and the other is kept aside (`althing restore`).")]
    Window {
        #[command(subcommand)]
        action: Option<WindowAction>,
    },
    /// Show or set who presides, and who takes over from whom.
    #[command(after_help = "Examples:
  althing failover                  show the order
  althing failover set alpha beta   these two first, the others after them
  althing failover manual           from now on, nobody takes over unless told")]
    Failover {
        #[command(subcommand)]
        action: Option<FailoverAction>,
    },
    /// List the versions of an application, newest first.
    History {
        /// Which application.
        app: AppName,
    },
    /// Go back to an earlier version, as a new one.
    #[command(after_help = "Examples:
  althing rollback web     to the version before the current one
  althing rollback web 12  to version 12")]
    Rollback {
        /// Which application.
        app: AppName,
        /// Which version [default: the one before the current one].
        version: Option<u64>,
        #[command(flatten)]
        ready: ReadyWithin,
    },
    /// Read every byte of an application on this member again and compare it.
    /// Ends with 1 if anything differs.
    Verify {
        /// Which application.
        app: AppName,
    },
    /// Compare what stands on this member with what is in force, and wait until it is put right.
    #[command(after_help = "Examples:
  althing sync                          all applications: what may have changed
  althing sync web --full               every byte
  althing sync web --show-lists         what is here, what is asked for, what is changed
  althing sync web --show-lists --xml

Members compare by themselves about every two seconds, and every byte once a day;
this is for now. What differs is put right by the vote, as ever: this command waits
for it, and ends with 1 if it is not. While a window is open nothing is put right.")]
    Sync {
        /// Which application [default: all].
        app: Option<AppName>,
        /// Read every byte, not only what may have changed.
        #[arg(long)]
        full: bool,
        /// Show the IHaveList, the ActionList and the UpdateList.
        #[arg(long)]
        show_lists: bool,
        /// As XML.
        #[arg(long, requires = "show_lists", conflicts_with = "json")]
        xml: bool,
    },
    /// Show what differs between two versions, or between one and what stands here.
    #[command(after_help = "Examples:
  althing diff web         the version before the current one, and the current one
  althing diff web 12      version 12 and the current one
  althing diff web 12 14   these two
  althing diff web --live  the current one and what stands on this member
  althing diff web --live --member beta
                           on that member, and what is being published
  althing diff web --text  line by line, where files are text

Another member tells paths and no content: the first two hundred, and how many more
there are.")]
    Diff {
        /// Which application.
        app: AppName,
        /// The older version [default: the one before the newer one].
        from: Option<u64>,
        /// The newer version [default: the current one].
        to: Option<u64>,
        /// Instead of a newer version: what stands on this member.
        #[arg(long, conflicts_with = "to")]
        live: bool,
        /// Show the lines that differ in text files.
        #[arg(long, short)]
        text: bool,
        /// What stands on this member, whichever is asked.
        #[arg(long, requires = "live", conflicts_with_all = ["from", "text"])]
        member: Option<MemberName>,
    },
    /// Bring back what a repair or a switch replaced on this member.
    #[command(after_help = "Examples:
  althing restore web                   what is kept
  althing restore web 3 --to /tmp/lost  copy it out

Before anything is overwritten, it is kept aside: the last three occasions, and
older ones up to 1 GiB. It is copied into a directory that is new or empty, never
into the live tree, where the vote would take it away again: publish it instead.")]
    Restore {
        /// Which application.
        app: AppName,
        /// Which occasion, by its number in the list.
        #[arg(requires = "to")]
        number: Option<u64>,
        /// Where to: a directory that is new or empty.
        #[arg(long, value_name = "DIR", requires = "number")]
        to: Option<PathBuf>,
    },
    /// Decide a hung vote: what one member holds becomes the next version.
    #[command(after_help = "Example:
  althing votes web                    see who holds what
  althing resolve web --member alpha   alpha is right")]
    Resolve {
        /// Which application.
        app: AppName,
        /// The member whose content is right.
        #[arg(long, value_name = "NAME")]
        member: MemberName,
    },
    /// Show or change the tags of members, while they run.
    #[command(after_help = "Examples:
  althing tags                          of all members
  althing tags set role=web zone=north  of this member
  althing tags beta set role=db         of another one
  althing tags beta unset zone

Tags are what placement chooses by. They are kept in the catalog: a change needs a
majority. They are no place for what changes by the minute.")]
    Tags {
        /// Which member [default: this one].
        member: Option<MemberName>,
        #[command(subcommand)]
        action: Option<TagsAction>,
    },
    /// Take a member out of service: it holds everything, and answers no requests.
    #[command(after_help = "Examples:
  althing drain           this member
  althing drain beta      another one
  althing drain beta --wait
                          the same, and rules may bring it in (then in 1)

What is under way there is finished. Requests that still reach it are passed on to members in
service; if there are none it answers them. Kept in the catalog: a change needs a majority.
`althing resume` is the way back, and brings a member in that was started with --standby.")]
    Drain {
        /// Which member [default: this one].
        member: Option<MemberName>,
        /// Rules about the cluster may bring it into service, and put it on standby again. Without
        /// this it stays where it is until somebody resumes it.
        #[arg(long)]
        wait: bool,
    },
    /// Bring a member into service (again).
    #[command(after_help = "Examples:
  althing resume          this member
  althing resume beta     another one")]
    Resume {
        /// Which member [default: this one].
        member: Option<MemberName>,
    },
    /// Keep rules from telling anybody and from doing anything for a while, or show for which
    /// that is so.
    #[command(after_help = "Examples:
  althing silence                       what is silent now
  althing silence web/hot --for 2h --why \"the load test\"
                                        one rule
  althing silence web --for 30m --why \"new version\"
                                        all rules of an application
  althing silence --member beta --for 1d --why \"its disk is replaced\"
                                        all rules about one member
  althing silence web/hot --end         before it is over

Rules are judged all the same, events tell of them, and `althing status` shows them as silenced.
What a rule has done before is undone when it is over. What still acts at the end of the silence is
done then. Kept in the catalog: a change needs a majority.")]
    Silence(Hush),
    /// Let people act over the network, each with a token; show who may.
    #[command(after_help = "Examples:
  althing operator add alice --expires 30d   prints a token, once
  althing operator list
  althing operator remove alice              the token counts for nothing any more

The token is good for the status page and for --via, on every member, over the loopback
interface, or over TLS where the member has --status-cert.
Whoever has it can publish a directory of a member's machine, with the programs that it defines: it is
as good as a login as the user that the member runs as. See docs/operators.md.")]
    Operator {
        #[command(subcommand)]
        action: OperatorAction,
    },
    /// Tell the member here what a script has measured.
    #[command(after_help = "Examples:
  althing measure queue 42                          a level, until another one is told
  althing measure orders 1 --count                  one more
  althing measure backup 93s --took --label nightly
                                                    how long something took

They are the series custom.queue, custom.orders.total and custom.backup.seconds, for
`althing metrics` and for rules. The member is not waited for. A level that nobody tells
for five minutes is not known any more.")]
    Measure(Measure),
    /// Tell all members that something happened.
    #[command(after_help = "Examples:
  althing event deploy v42
  althing events --kind user --follow --json    on any member: what was told, a line each

It reaches every live member once, and those that are away for less than two
minutes when they are back. Up to 512 bytes; a member can tell four a second, and
32 at once. No majority is needed.")]
    Event {
        /// What: letters, digits, hyphens, dots, colons, underscores.
        name: String,
        /// What goes with it: up to 512 bytes.
        payload: Option<String>,
    },
    /// Ask all members, and show what they answer.
    #[command(after_help = "Examples:
  althing query ping      who answers, and how quickly
  althing query version   which Althing each member runs
  althing query uptime    for how long each has been running

Ends when all have answered that are live, or after the timeout; ends with 1 if
one did not.")]
    Query {
        /// What: ping, version or uptime.
        name: String,
        /// What goes with it: up to 512 bytes.
        payload: Option<String>,
        /// How long answers are waited for.
        #[arg(long, default_value = "5s", value_name = "TIME")]
        timeout: Span,
    },
    /// Give this member a new key, and so a new id, while it runs.
    #[command(after_help = "Examples:
  althing rotate-key          on the member whose key is to be changed
  althing rotate-key --json   {\"member\":...,\"before\":...,\"id\":...,\"voter\":true,\"sequence\":...}

For a key that may have been seen by somebody: a copied disk, a backup that got lost.
The name, address, tags, content and place in the failover list stay, and sites go on
being served. Until the others have given the member its vote back, a second or so, it
has none: a majority of the others has to be live. Not possible while this member
presides over a window, or is the only one with a vote.")]
    RotateKey,
    /// Take this member out of the cluster for good, and stop it.
    Leave,
    /// What a member that holds virtual addresses starts by itself.
    #[command(hide = true)]
    GuardAddresses,
    /// Take another member out of the cluster for good.
    Remove {
        /// Which member.
        name: MemberName,
    },
    /// Go on without a majority that is lost for ever: the last resort.
    #[command(after_help = "Examples:
  althing recover                     on every survivor, running: see what each knows
  althing recover --keep beta --yes   on the one that knows most, stopped; then start it
  althing recover --rejoin --yes      on beta, stopped; then `althing up --join ... --token ...`

Only for members that are destroyed. This member becomes the only one of a new
cluster that succeeds the old one: same applications, versions, policies and
content, another id, so that the two can never mix. Changes that the lost members
committed and this one never heard of are lost. If they are only cut off, both
clusters serve. Lost members must never come back with their old data
directories: they are refused. See docs/operations.md.")]
    Recover {
        /// A survivor that will join the new cluster; may be given several times.
        #[arg(long, value_name = "NAME", conflicts_with = "rejoin")]
        keep: Vec<MemberName>,
        /// Prepare this survivor to join the cluster that was recovered on another one: it
        /// keeps its key and its content.
        #[arg(long)]
        rejoin: bool,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Show what happened, and why.
    Events(EventsArgs),
    /// Tell how it came to what happened to a member, an application, by a rule or an operator.
    #[command(after_help = "Examples:
  althing why server3            all of a day that is about this member, from all logs
  althing why web --since 2h     about an application
  althing why hot                about a rule: what was measured, what was done, what came of it
  althing why alice              what an operator asked for with a token, on whichever member

What follows from something else stands behind it, with an arrow.")]
    Why {
        /// A member, an application, a rule or an operator.
        #[arg(value_name = "NAME")]
        of: String,
        /// Since so long ago.
        #[arg(long, value_name = "SPAN", default_value = "1d")]
        since: Span,
    },
    /// Show how all members are doing, again and again until Ctrl-C.
    Top {
        /// How often it is looked.
        #[arg(long, value_name = "SPAN", default_value = "2s")]
        every: Span,
        /// Once, and no more.
        #[arg(long)]
        once: bool,
    },
    /// Show what runs of the services of applications, on all members.
    #[command(after_help = "Examples:
  althing services              all that run
  althing services shop         those of one application
  althing services --member beta")]
    Services {
        /// Which application [default: all].
        app: Option<AppName>,
        /// Only on this member.
        #[arg(long, value_name = "NAME")]
        member: Option<MemberName>,
    },
    /// Show what services and hooks print, of all members together.
    #[command(after_help = "Examples:
  althing logs shop              the last lines of all its services and hooks
  althing logs shop api -f       of one of them, and go on until Ctrl-C
  althing logs shop api -n 1000 --member beta
  althing logs shop before-switch

`!` marks standard error, `*` what Althing says itself: starts, ends, what is missing.
Logs are kept on the member where the service runs. Without a name those hooks are
shown that have run since their member started.")]
    Logs {
        /// Of which application.
        app: AppName,
        /// Only of this service or hook [default: all].
        service: Option<ServiceName>,
        /// The last so many lines.
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
        lines: usize,
        /// Go on until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// Only of this member.
        #[arg(long, value_name = "NAME")]
        member: Option<MemberName>,
    },
    /// Stop services and start them again, one member after the other.
    #[command(after_help = "Examples:
  althing restart shop                   all its services, on all members
  althing restart shop api --member beta

The next member has its turn when the services of the one before are ready again;
where one is not within a minute, it ends there with 1.")]
    Restart {
        /// Of which application.
        app: AppName,
        /// Only this service [default: all].
        service: Option<ServiceName>,
        /// Only on this member.
        #[arg(long, value_name = "NAME")]
        member: Option<MemberName>,
    },
    /// Look at rules before they are published.
    Rules {
        #[command(subcommand)]
        action: RulesAction,
    },
    /// Say who would serve at a moment, by the rules that bring members in.
    #[command(after_help = "Examples:
  althing levels                                          now
  althing levels --at 2026-12-24T18:00 --zone America/New_York
  althing levels --at 2026-12-24T23:00Z --for 2d          and what changes in the two days after
  althing levels --at '2026-12-24 18:00 Europe/Berlin' --app shop

What times decide is sure. Of a rule that depends on what is measured it says how many
members it may bring in, and what decides. Otherwise everything stays as it is now: who
is live, who waits, the order of the failover list, the rules of the live versions.")]
    Levels {
        /// The moment: a date and a time, UTC unless an offset (Z, -05:00) or the name of a time
        /// zone stands behind it [default: now].
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        at: Option<String>,
        /// The time zone in which the moment is meant, and times are shown, by its name in the tz
        /// database.
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
        /// Tell what changes for so long after it as well, as 12h or 7d.
        #[arg(long = "for", value_name = "SPAN")]
        span: Option<Span>,
        /// Only by the rules of this application, of the members on which it is placed.
        #[arg(long)]
        app: Option<AppName>,
    },
    /// Show what an application's programs are set to.
    Settings {
        /// Which application.
        app: AppName,
    },
    /// Set passwords, tokens and keys that services and hooks are given; show their names.
    #[command(after_help = "Examples:
  althing secret set shop db-password < file   from standard input
  althing secret set shop db-password          asks for it, and does not show it
  althing secret list shop
  althing secret unset shop db-password

A service is given those that it names in althing.toml (secrets = [\"db-password\"]),
each as a variable (DB_PASSWORD). Values are sealed for the members and shown nowhere.
Each change is a version of its own; `publish` leaves secrets as they are.")]
    Secret {
        #[command(subcommand)]
        action: SecretAction,
    },
    /// Write the configuration of another balancer, and keep it as the cluster is.
    Export {
        #[command(subcommand)]
        export: Export,
    },
    /// Show what members measured; without a series what this member counts.
    Metrics(MetricsArgs),
    /// Show or set what the cluster does by itself.
    #[command(after_help = "Examples:
  althing policy                 show it
  althing policy vote committed  a majority never changes what was published
  althing policy remove-after 7d a member that is down for a week is removed")]
    Policy {
        #[command(subcommand)]
        action: Option<PolicyAction>,
    },
    /// Check the configuration of a member, or show it and where each value comes from.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Look at everything that a cluster needs, and say what to mend.
    #[command(after_help = "\
It looks at the votes, who reaches whom, programs, clocks, disks and limits of all members;
where no member runs, at what the first start needs. It changes nothing.
Ends with 1 if there is anything to mend.")]
    Doctor,
    /// See a whole cluster at work on this machine, and what it survives.
    Demo(Demo),
    /// Try a cluster that does not exist yet, in virtual time.
    Sim(Box<Sim>),
    /// Print what a shell completes commands and options by.
    #[command(after_help = "Examples:
  source <(althing completions bash)                  for this shell
  althing completions bash > /etc/bash_completion.d/althing
  althing completions zsh > \"${fpath[1]}/_althing\"
  althing completions fish > ~/.config/fish/completions/althing.fish")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print this help as a page of the manual, or write a page for each command.
    #[command(after_help = "Examples:
  althing man | man -l -
  althing man --into /usr/local/share/man/man1")]
    Man {
        /// Write a page for each command into this directory.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
}

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
pub(super) struct Up {
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

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub Option<std::net::SocketAddr>);

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
pub(super) struct Tag(pub String, pub String);

impl std::str::FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as role=web")?;
        check_tags(&[(key.to_owned(), value.to_owned())].into())?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum OperatorAction {
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
pub(super) enum TagsAction {
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
pub(super) enum ConfigAction {
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

#[derive(Debug, Subcommand)]
pub(super) enum RulesAction {
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

#[derive(Debug, Subcommand)]
pub(super) enum SecretAction {
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

/// See [`EventKind`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KindWord {
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

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing events                        what happened on this member since it started
  althing events --follow --kind vote
  althing events --all --since 1d       what happened on all members, from their logs
  althing events --member beta --since 2h --severity warning

The log of a member outlives its restarts: 60 days, 100,000 events. With --all, --member,
--since, --app, --about or --severity it is read instead of what is in memory.")]
pub(super) struct EventsArgs {
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

/// See [`Severity`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SeverityWord {
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
pub(super) struct MetricsArgs {
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

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing publish ./public --app web
  althing publish ./public --app web --message 'new prices' --host www.example.org
  althing publish ./public --app web --base 12   only if 12 is still the current version
  althing publish --update list.json --app web   change what a list names, nothing else

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
pub(super) struct Publish {
    /// The directory.
    #[arg(value_name = "DIR", required_unless_present = "update")]
    pub source: Option<PathBuf>,
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
pub(super) struct ReadyWithin {
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

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing demo                     tell the story, then stay up until Ctrl-C
  althing demo --exit --json       end after it; one object for each step
  althing demo --site ./public     with a site of your own, which is only read

Everything happens on loopback addresses and in a temporary directory.
Ends with 1 if any step did not happen.")]
pub(super) struct Demo {
    /// End after the story.
    #[arg(long)]
    pub exit: bool,
    /// Publish this directory instead of the built-in site.
    #[arg(long, value_name = "DIR")]
    pub site: Option<PathBuf>,
    /// How many members.
    #[arg(long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u8).range(3..=50))]
    pub members: u8,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing sim                                        five members, a tour of what can happen
  althing sim --members 20 --loss 5% --crash 30s,10s  how long do failures stay unnoticed?
  althing sim --members 10,100,1000 --plot sizes.svg  how does it grow?
  althing sim --members 200 --pause 5s,8s --time 10m  is anybody healthy taken for dead?
  althing sim --script monday.txt --story             what would happen if ...

A script has a line for each action, with its virtual time. # begins a comment.
  at 2s   publish web 10MB on m2      at 30s  pause m4          (resume m4)
  at 10s  kill m3       (silence m3)  at 35s  slow m1,m2        (fast m1,m2)
  at 12s  restart m3                  at 40s  join 2
  at 20s  partition m1,m2 | m3..m5    at 50s  leave m6
  at 22s  cut m1 > m2                 at 55s  remove m7
  at 25s  heal                        at 60s  rollback web
  at 26s  drift m2 web                at 65s  loss 5%
  at 27s  wipe m3 web                 at 70s  latency 1ms..20ms
  at 28s  rot m1 web                          (all, rest: more words for members)

Up to 50 members are run whole, as in production: catalog, votes, content, and every
invariant is checked at every step. More than that, up to 10,000: membership alone
(failures, gossip, traffic). The same seed gives the same run. It uses no network and
needs no member. Ends with 1 if an invariant was broken.")]
pub(super) struct Sim {
    /// How many members; several sizes to compare them.
    #[arg(long, value_name = "N[,N...]", default_value = "5", value_delimiter = ',',
          value_parser = members)]
    pub members: Vec<usize>,
    /// Every choice by chance follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// For how long, in virtual time: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub time: VirtualTime,
    /// What happens at which time; without it and without a rate, a short tour.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The network: a local one, or sites far from each other; `up --profile` is the same.
    #[arg(long, default_value = "lan")]
    pub profile: WeatherWord,
    /// Packets that are lost [default: by profile].
    #[arg(long, value_name = "SHARE")]
    pub loss: Option<Loss>,
    /// What a packet takes: 1ms..20ms [default: by profile].
    #[arg(long, value_name = "FROM..TO")]
    pub latency: Option<Latency>,
    /// A process dies every so often, somewhere, and starts again after so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub crash: Option<Rate>,
    /// A process stands still every so often, for so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub pause: Option<Rate>,
    /// A minority is cut off every so often, for so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub partition: Option<Rate>,
    /// Live content is changed by hand every so often, on one member.
    #[arg(long, value_name = "EVERY")]
    pub drift: Option<Rate>,
    /// A version is published every so often.
    #[arg(long, value_name = "EVERY")]
    pub publish: Option<Rate>,
    /// So many members are starved: everything reaches them 20 to 300 ms late.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub slow: usize,
    /// Disks are slow, hang for a second now and then, and work on them fails.
    #[arg(long)]
    pub bad_disks: bool,
    /// Wall clocks are wrong by up to half an hour.
    #[arg(long)]
    pub clock_skew: bool,
    /// Run membership alone, also where whole members could be.
    #[arg(long)]
    pub membership: bool,
    /// Tell what happened, line by line.
    #[arg(long)]
    pub story: bool,
    /// Draw who knew of each failure when, as an SVG.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

fn members(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (2..=sim::MEMBERS_MAX).contains(&count) => Ok(count),
        _ => Err(format!("give a number from 2 to {}", sim::MEMBERS_MAX)),
    }
}

/// A span of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VirtualTime(pub Duration);

impl std::str::FromStr for VirtualTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match quantity::span(text)? {
            span if span < Duration::from_secs(1) => Err("give a second at least".to_owned()),
            span => Ok(Self(span)),
        }
    }
}

/// See [`quantity::share`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss(pub u32);

impl std::str::FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        quantity::share(text).map(Self)
    }
}

/// See [`quantity::latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latency(pub (Duration, Duration));

impl std::str::FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        quantity::latency(text).map(Self)
    }
}

/// `30s`, or `30s,5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub sim::Rate);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (every, lasts) = text.split_once(',').unwrap_or((text, "5s"));
        let (every, lasts) = (quantity::span(every)?, quantity::span(lasts)?);
        if every < Duration::from_millis(1) {
            return Err("give a millisecond at least from one to the next".to_owned());
        }
        Ok(Self(sim::Rate { every, lasts }))
    }
}

/// See [`sim::Weather`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum WeatherWord {
    /// 0.1 to 2 ms, nothing lost.
    Lan,
    /// 10 to 80 ms, 0.5 % lost.
    Wan,
}

#[derive(Debug, Subcommand)]
pub(super) enum WindowAction {
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
pub(super) enum InvitesAction {
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
pub(super) enum FailoverAction {
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

#[derive(Debug, Subcommand)]
pub(super) enum PolicyAction {
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

/// A time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After(pub Option<Span>);

impl std::str::FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" { Ok(Self(None)) } else { text.parse().map(|span| Self(Some(span))) }
    }
}

/// See [`Failover`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FailoverWord {
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

/// See [`VotePolicy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum VoteWord {
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

/// How patient the failure detector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProfileWord {
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
pub(super) enum LogWord {
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
pub(super) enum FormatWord {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_given_one_by_one_or_as_a_list() {
        let args = Args::try_parse_from([
            "althing",
            "up",
            "--trusted-proxy",
            "10.0.0.0/8,192.0.2.1",
            "--trusted-proxy=fd00::/8",
            "--accept-proxy",
            "127.0.0.1",
        ]);
        let Action::Up(up) = args.unwrap().action else { panic!("not up") };
        let shown: Vec<String> = up.trusted_proxy.iter().map(Network::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
        assert_eq!((up.accept_proxy.len(), up.access_log), (1, None));
        for wrong in ["10.0.0.1/8", "proxy.example", ""] {
            let args = Args::try_parse_from(["althing", "up", "--trusted-proxy", wrong]);
            assert!(args.is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_of_up_have_the_documented_defaults() {
        let args = Args::try_parse_from(["althing", "up"]).unwrap();
        let Action::Up(up) = args.action else { panic!("not up") };
        assert_eq!(up.bind, "0.0.0.0:7700".parse().unwrap());
        assert_eq!(up.listen, Listen(Some("0.0.0.0:8080".parse().unwrap())));
        assert_eq!(up.status, Listen(Some("127.0.0.1:7780".parse().unwrap())));
        assert!(up.join.is_empty() && !up.standby && up.advertise.is_none());
    }

    #[test]
    fn every_form_in_the_examples_parses() {
        for line in [
            "althing up --join a --join b:1 --token-file f --standby --listen none",
            "althing invite --uses 10 --valid 1d",
            "althing invites --json",
            "althing invites withdraw 3F9c2a71",
            "althing invites withdraw --all",
            "althing publish ./public --app web -m x --host a --host b --base 12",
            "althing window",
            "althing window open --app web --app blog --failover manual --json",
            "althing window takeover --data /x",
            "althing window open --automatic --app web",
            "althing failover set alpha beta",
            "althing failover manual",
            "althing rollback web 12",
            "althing rollback web",
            "althing resolve web --member alpha",
            "althing policy vote committed",
            "althing policy remove-after 7d",
            "althing policy remove-after never",
            "althing events --follow --kind user --kind vote",
            "althing events --all --since 7d --severity warning --about beta --app web",
            "althing metrics cpu requests* --each --since 1d --step 1h --percentiles",
            "althing top --every 5s --once --json",
            "althing levels",
            "althing levels --at 2026-12-24T18:00 --zone America/New_York --for 2d --app shop",
            "althing why server3 --since 2h",
            "althing tags",
            "althing operator add alice --expires 30d",
            "althing operator list --via 127.0.0.1:7780 --operator-token-file f",
            "althing --via server1 resolve web --member alpha",
            "althing status --via https://server1:7780 --ca ca.pem",
            "althing up --status 0.0.0.0:7780 --status-cert cert.pem --status-key key.pem",
            "althing tags set role=web zone=a=b",
            "althing tags beta unset role zone",
            "althing up --tag role=web --tag zone=",
            "althing event deploy v42",
            "althing query ping --timeout 2s",
            "althing export haproxy --out f --check x --reload y --follow --listen :8080",
            "althing export nginx --fragment --http-port 8081 --json",
            "althing recover --keep a --keep b --yes",
            "althing recover --rejoin",
            "althing demo --exit --json --members 7 --site .",
            "althing sim",
            "althing sim --members 10,100,1000 --plot sizes.svg --json --seed 7",
            "althing sim --members 20 --loss 5% --latency 1ms..20ms --crash 30s,10s --pause 5s",
            "althing sim --script f --story --time 10m --slow 2 --bad-disks --clock-skew",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "althing",
            "althing publish",
            "althing publish x --app ../x",
            "althing failover set",
            "althing demo --members 2",
            "althing invite --valid soon",
            "althing invites withdraw",
            "althing invites withdraw 3f9",
            "althing invites withdraw althing-3f9c",
            "althing invites withdraw 3f9c --all",
            "althing up --listen 8080",
            "althing up --token t --token-file f",
            "althing sim --members 1",
            "althing sim --members 5,20000",
            "althing sim --loss 5",
            "althing sim --latency 20ms..1ms",
            "althing sim --crash often",
            "althing sim --time 10ms",
            "althing recover --rejoin --keep a",
            "althing tags set",
            "althing operator add",
            "althing operator add a/b",
            "althing tags set role",
            "althing up --tag =x",
            "althing events --kind x",
            "althing events --all --member beta",
            "althing metrics --since 1h",
            "althing levels --for soon",
            "althing levels 18:00",
            "althing export",
            "althing export haproxy --fragment",
            "althing export nginx --reload x",
            "althing export nginx --http-port 0",
            "althing export nginx --listen 80",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
