//! The words of the command line. Parsing only: every value is checked here,
//! so that what comes out can be carried out. Here are the commands; what some
//! of them share, and those with many options, stand in files by what they are for.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::{export::options::Export, units::Span};
use crate::base::{AppName, MemberName, ServiceName};

mod cluster;
mod observe;
mod publish;
mod rules;
#[cfg(test)]
mod tests;
mod trial;
mod up;

pub(super) use cluster::{
    After, FailoverAction, InvitesAction, OperatorAction, PolicyAction, TagsAction, WindowAction,
};
pub(super) use observe::{EventsArgs, Measure, MetricsArgs};
pub(super) use publish::{Publish, ReadyWithin, SecretAction};
pub(super) use rules::{Hush, Ruled, RulesAction};
pub(super) use trial::{Demo, Sim, WeatherWord};
pub(super) use up::{ConfigAction, LogWord, ProfileWord, Tag, Up};

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
    #[command(after_help = "Examples:
  althing verify web                    what stands here, and its chunks in the store
  althing verify web --action list.xml  which chunks of an ActionList are in the store")]
    Verify {
        /// Which application.
        app: AppName,
        /// Instead: which chunks of this ActionList the member's store holds; each is read.
        #[arg(long, value_name = "FILE")]
        action: Option<PathBuf>,
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
  althing diff web --have list.json
                           what an IHaveList of another machine says, and the current version

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
        /// Instead of a newer version: what this IHaveList says stands somewhere. What would make
        /// it the version FROM [default: the current one] is shown.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "live", "text", "member"])]
        have: Option<PathBuf>,
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
