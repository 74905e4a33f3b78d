//! F6, the command line: `up` is a member, every other command asks the local
//! one through its socket, or with `--via` another one at its status port. It
//! decides nothing itself and keeps nothing.
//!
//! Exit codes follow from the kind of a refusal, so that scripts need not
//! read sentences; `--json` has both.

mod adopt;
mod args;
mod bring;
mod client;
mod config;
mod demo;
mod doctor;
pub mod edits;
mod export;
mod fetch;
mod hints;
mod init;
mod inspect;
mod invites;
mod levels;
mod lists;
mod log;
mod manager;
mod measure;
mod operate;
mod operator;
mod output;
mod publish;
mod reach;
mod recover;
#[cfg(test)]
mod reference;
mod replay;
mod rotate;
mod rules;
mod secrets;
mod services;
mod shell;
mod show;
mod silence;
mod sim;
mod table;
mod telemetry;
mod units;
mod up;
mod via;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use tokio::signal::unix::{SignalKind, signal};

use self::{
    args::{Action, Args, EventsArgs, MetricsArgs, RulesAction},
    client::Client,
    config::Source,
    output::Output,
    via::Via,
};
use crate::{
    base::{Reason, Refusal},
    gateway::vip,
    member::{command::Command, event::EventKind},
};

/// Parses the command line, carries the command out and says how it went.
pub fn run() -> ExitCode {
    // clap itself prints help and mistakes, and ends with 0 or 2.
    let args = config::parse();
    let output = Output::new(args.json);
    let runtime = match runtime(&args.action) {
        Ok(runtime) => runtime,
        Err(error) => {
            let refusal = Refusal::new(
                Reason::Failed,
                "Nothing was done.",
                format!("The threads it needs can't be started: {error}."),
                "See `ulimit -u` and the memory that is left.",
            );
            output.refusal(&refusal);
            return exit_code(refusal.reason);
        }
    };
    let result = runtime.block_on(carry_out(args, &output));
    // A thread that still reads a terminal or a disk must not hold us up.
    runtime.shutdown_background();
    match result {
        Ok(_) if output::is_lost() => ExitCode::FAILURE,
        Ok(code) => code,
        Err(refusal) => {
            output.refusal(&refusal);
            exit_code(refusal.reason)
        }
    }
}

/// Is the guard of a member's virtual addresses: see `gateway/vip`.
fn guard_addresses() -> Result<ExitCode, Refusal> {
    // It outlives the member by a moment, whatever both are sent: caught is ignored here.
    let ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let _caught: Vec<_> = ignored.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    vip::run_guard().map(|()| ExitCode::SUCCESS).map_err(|error| {
        Refusal::new(
            Reason::Failed,
            "Nothing is guarded.",
            format!("The kernel can't be spoken to: {error}."),
            "This is started by `althing up` and by nobody else.",
        )
    })
}

/// A member uses every core; what only asks one needs none of its own.
fn runtime(action: &Action) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match action {
        Action::Up(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

/// Commands that are printed are for the member whose data lie in `data`, from now on.
fn hints_for(data: &Path) {
    let by_itself = config::usual_data().or_else(|| default_data().ok());
    hints::begin(data, by_itself.as_deref());
}

async fn carry_out(args: Args, output: &Output) -> Result<ExitCode, Refusal> {
    let via = match &args.via {
        Some(text) if via::asks(&args.action)? => Some(text),
        _ => None,
    };
    let source = Source::of(&args);
    // A relative path means something else to a member that runs elsewhere.
    let data = match &args.data {
        Some(data) => absolute(data)?,
        None if asks_nobody(&args.action) => PathBuf::new(),
        None => match config::data(&args)? {
            Some(data) => data,
            // Another machine is asked: this one may have none.
            None if via.is_some() => default_data().unwrap_or_default(),
            None => default_data()?,
        },
    };
    if via.is_none() && !asks_nobody(&args.action) {
        hints_for(&data);
    }
    let client = match via {
        Some(text) => {
            let (token, ca) = (args.operator_token_file.as_deref(), args.ca.as_deref());
            Client::via(&data, Via::new(text, token, ca).await?)
        }
        None => Client::new(&data),
    };
    match args.action {
        Action::Up(_) => up::run(source, output).await,
        Action::Config { action } => config::run(&source, output, action),
        Action::Demo(options) => demo::run(options, output).await,
        Action::Sim(options) => sim::run(&options, output),
        Action::Invite { uses, valid } => operate::invite(&client, output, uses, valid).await,
        Action::Invites { action } => invites::run(&client, output, action).await,
        Action::Init { directory, app, host } => init::run(output, &directory, app, &host),
        Action::Adopt { app, path, host: hosts, mine, dry_run } => {
            let wanted = adopt::Wanted { app, path, hosts, mine, dry_run };
            adopt::run(&client, output, wanted).await
        }
        Action::Publish(options) => publish::run(&client, output, options).await,
        Action::Members { reach: false } => show::members(&client, output).await,
        Action::Members { reach: true } => reach::reach(&client, output).await,
        Action::Rtt { one, other } => reach::rtt(&client, output, &one, other.as_ref()).await,
        Action::Apps => show::apps(&client, output).await,
        Action::Status { check: false } => show::status(&client, output).await,
        Action::Status { check: true } => Ok(show::check(&client, output).await),
        Action::Votes { app } => show::votes(&client, output, app.as_ref()).await,
        Action::Window { action } => operate::window(&client, output, action).await,
        Action::Failover { action } => operate::failover(&client, output, action).await,
        Action::History { app } => show::history(&client, output, &app).await,
        Action::Rollback { app, version, ready } => {
            publish::rollback(&client, output, app, version, ready).await
        }
        Action::Verify { app, action: Some(list) } => {
            inspect::pieces(&client, output, app, &list).await
        }
        Action::Verify { app, action: None } => inspect::verify(&client, output, &app).await,
        Action::Sync { app, full, show_lists: lists, xml } => {
            inspect::sync(&client, output, app, inspect::Looks { full, lists, xml }).await
        }
        Action::Diff { app, member: Some(member), .. } => {
            inspect::differs(&client, output, app, member).await
        }
        Action::Diff { app, from, have: Some(list), .. } => {
            inspect::elsewhere(&client, output, app, from, &list).await
        }
        Action::Diff { app, from, to, live, text, member: None, have: None } => {
            let sides = inspect::Sides { from, to, live, text };
            inspect::diff(&client, output, app, sides).await
        }
        Action::Restore { app, number, to } => {
            inspect::restore(&client, output, app, number, to.as_deref()).await
        }
        Action::Resolve { app, member } => operate::resolve(&client, output, app, member).await,
        Action::RotateKey => rotate::rotate_key(&client, output).await,
        Action::GuardAddresses => guard_addresses(),
        Action::Leave => operate::leave(&client, output).await,
        Action::Remove { name } => operate::remove(&client, output, name).await,
        Action::Recover { keep, rejoin, yes } => {
            let wish = recover::Wish { keep, rejoin, yes };
            recover::run(&client, output, &data, wish).await
        }
        Action::Events(EventsArgs { follow, kind, since, all, member, app, about, severity }) => {
            let kinds = kind.into_iter().map(EventKind::from).collect::<Vec<_>>();
            let of_log = all
                || member.is_some()
                || since.is_some()
                || app.is_some()
                || about.is_some()
                || severity.is_some();
            if !of_log {
                return show::events(&client, output, follow, &kinds).await;
            }
            let (since, severity) = (since.map(|s| s.0), severity.map(Into::into));
            let log = telemetry::Log { all, member, since, kinds, severity, app, about, follow };
            telemetry::events(&client, output, log).await
        }
        Action::Why { of, since } => telemetry::why(&client, output, &of, since.0).await,
        Action::Top { every, once } => telemetry::top(&client, output, every.0, once).await,
        Action::Tags { member, action } => operate::tags(&client, output, member, action).await,
        Action::Drain { member, wait: true } => {
            operate::order(&client, output, &Command::Wait { member }).await
        }
        Action::Drain { member, wait: false } => {
            operate::order(&client, output, &Command::Service { member, on: false }).await
        }
        Action::Resume { member } => {
            operate::order(&client, output, &Command::Service { member, on: true }).await
        }
        Action::Operator { action } => operator::run(&client, output, action).await,
        Action::Silence(hush) => silence::run(&client, output, hush).await,
        Action::Measure(wish) => measure::tell(&data, output, &wish),
        Action::Event { name, payload } => {
            let payload = payload.unwrap_or_default();
            operate::order(&client, output, &Command::Event { name, payload }).await
        }
        Action::Query { name, payload, timeout } => {
            operate::query(&client, output, name, payload.unwrap_or_default(), timeout).await
        }
        Action::Rules { action: RulesAction::Check { file } } => rules::check(output, &file),
        Action::Rules { action: RulesAction::Test { file, since, member } } => {
            replay::test(&client, output, &replay::Wish { file, since: since.0, member }).await
        }
        Action::Levels { at, zone, span, app } => {
            let wish = levels::Wish { at, zone, span: span.map(|s| s.0), app };
            levels::show(&client, output, wish).await
        }
        Action::Settings { app } => secrets::settings(&client, output, app).await,
        Action::Secret { action } => secrets::run(&client, output, action).await,
        Action::Services { app, member } => services::list(&client, output, app, member).await,
        Action::Logs { app, service, lines, follow, member } => {
            let which = services::Which { app, service, member };
            services::logs(&client, output, which, lines, follow).await
        }
        Action::Restart { app, service, member } => {
            let which = services::Which { app, service, member };
            services::restart(&client, output, which).await
        }
        Action::Export { export } => export::run(&client, output, export).await,
        Action::Metrics(MetricsArgs { series, .. }) if series.is_empty() => {
            show::metrics(&client, output).await
        }
        Action::Metrics(MetricsArgs { series, since, step, member, each, percentiles }) => {
            let (since, step) = (since.map(|s| s.0), step.map(|s| s.0));
            let wish = telemetry::Wish { series, since, step, member, each, percentiles };
            telemetry::metrics(&client, output, wish).await
        }
        Action::Doctor => doctor::run(&client, output).await,
        Action::Policy { action } => operate::policy(&client, output, action).await,
        Action::Completions { shell } => shell::completions(output, shell),
        Action::Man { into } => shell::man(output, into.as_deref()),
    }
}

/// Whether a command needs no data directory, or finds it in its own way. Some are asked for where
/// there is no home, too: where a package is made.
fn asks_nobody(action: &Action) -> bool {
    match action {
        Action::Up(_)
        | Action::Config { .. }
        | Action::Demo(_)
        | Action::Sim(_)
        | Action::Init { .. }
        | Action::GuardAddresses
        | Action::Rules { action: RulesAction::Check { .. } }
        | Action::Completions { .. }
        | Action::Man { .. } => true,
        // A program that a member runs may not be allowed to read its configuration.
        Action::Measure(_) => std::env::var_os("ALTHING_METRICS").is_some(),
        _ => false,
    }
}

/// The exit code of a refusal; the help lists them.
fn exit_code(reason: Reason) -> ExitCode {
    ExitCode::from(match reason {
        Reason::Failed => 1,
        Reason::Invalid => 3,
        Reason::NotFound => 4,
        Reason::Conflict | Reason::Busy => 5,
        Reason::NoMajority => 6,
        Reason::Forbidden => 7,
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Refusal> {
    std::path::absolute(path).map_err(|error| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            format!("{} can't be made an absolute path: {error}.", path.display()),
            "Give the whole path.",
        )
    })
}

/// Where a member keeps its data if it is not told.
fn default_data() -> Result<PathBuf, Refusal> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/althing"));
    }
    let directory = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    directory("XDG_DATA_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("althing"))
        .ok_or_else(|| {
            Refusal::new(
                Reason::Invalid,
                "Nothing was done.",
                "Neither XDG_DATA_HOME nor HOME says where data of this user is kept.",
                "Say where with --data.",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        config::command().debug_assert();
    }

    /// The page of commands in the documentation is the help of the binary.
    /// `ALTHING_WRITE_DOCS=1 cargo test --lib` writes it anew.
    #[test]
    fn the_documented_commands_are_those_of_the_binary() {
        let mut page = String::from(
            "# Commands\n\nMade from the command line's own help by a test; do not edit.\n",
        );
        let mut root = config::command().term_width(96);
        root.build();
        describe(&mut root, &mut page);
        reference::is_written("commands.md", &page);
    }

    fn describe(command: &mut clap::Command, page: &mut String) {
        use std::fmt::Write as _;
        let name = command.get_bin_name().unwrap_or("althing").to_owned();
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
        for inner in command.get_subcommands_mut() {
            if inner.get_name() != "help" && !inner.is_hide_set() {
                describe(inner, page);
            }
        }
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = config::command().render_long_help().to_string();
        for code in 0..=7 {
            let line = format!("\n  {code}  ");
            assert!(help.contains(&line), "{code} is not in {help}");
        }
    }
}
