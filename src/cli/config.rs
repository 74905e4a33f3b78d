//! The configuration of a member: each option of `up` is a flag, a variable and a key of one file,
//! in this order of precedence, and by one rule. What options there are, what values they take
//! and what they are without a word is said by the command line's own definition alone: variables
//! are added to it here, and what the file says takes the place of its defaults.
//!
//! Every other command reads of the file where the data directory is, and nothing else.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, parser::ValueSource};
use serde::Serialize;

use self::file::File;
use super::{
    args::{Action, Args, ConfigAction, Up},
    output::Output,
};
use crate::base::{Reason, Refusal};

mod file;
pub(super) mod reload;
mod show;
#[cfg(test)]
mod tests;

/// Where the file is, if nobody says where.
pub(super) const USUAL: &str = "/etc/althing/config.toml";
/// In the place of a path: no file.
const NO_FILE: &str = "none";
/// The key of the data directory, which is an option of every command.
const DATA: &str = "data";
/// What stands in no file and is shown nowhere.
const SECRET: &str = "token";

/// The command line, with a variable for each option of `up`.
pub(super) fn command() -> Command {
    let with_variables = |up: Command| {
        up.mut_args(|arg| match key_of(&arg) {
            Some(key) => {
                let variable = variable(key);
                // What is in it is nobody's business in a help text.
                arg.env(variable).hide_env_values(true)
            }
            None => arg,
        })
    };
    of_members(Args::command(), |name, command| match name {
        "up" => with_variables(command),
        // The same options, and described there.
        _ => with_variables(command).mut_args(|arg| arg.hide(true)),
    })
}

/// The command line with what `change` makes of the commands that have the options of a member:
/// `up`, and `show` of `config`. Their order stays.
fn of_members(root: Command, change: impl Fn(&str, Command) -> Command) -> Command {
    root.mut_subcommands(|command| match command.get_name() {
        "up" => change("up", command),
        "config" => command.mut_subcommands(|command| match command.get_name() {
            "show" => change("show", command),
            _ => command,
        }),
        _ => command,
    })
}

/// The arguments of this process. Ends it where they are wrong or ask for help.
pub(super) fn parse() -> Args {
    let matches = command().get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The variables of all options, those of every command included.
pub(super) fn variables() -> Vec<String> {
    let variable = |arg: &Arg| arg.get_env().map(|name| name.to_string_lossy().into_owned());
    let command = command();
    let of_up = command.find_subcommand("up").into_iter().flat_map(Command::get_arguments);
    command.get_arguments().chain(of_up).filter_map(variable).collect()
}

/// The key of an option of `up`, which is its long flag. None for what only programs give.
fn key_of(arg: &Arg) -> Option<&str> {
    arg.get_long().filter(|_| !arg.is_hide_set())
}

/// The variable of the option with this key.
fn variable(key: &str) -> String {
    match key {
        // ALTHING_LOG says what is in the log, as RUST_LOG does elsewhere, and came first.
        "log" => "ALTHING_LOG_TO".to_owned(),
        _ => format!("ALTHING_{}", key.to_ascii_uppercase().replace('-', "_")),
    }
}

/// The options of `up` alone, without variables: what the file is checked by.
fn options() -> Command {
    let mut options = <Up as clap::Args>::augment_args(Command::new("up").disable_help_flag(true));
    // Else one of its arguments can't be written out.
    options.build();
    options
}

/// The same command line where `file` says what would be default.
fn with_file(command: Command, file: &File) -> Command {
    let with_default = |arg: Arg| {
        // A file that was checked has no other keys.
        let values = arg.get_long().and_then(|key| file.values(key)).map(<[String]>::to_vec);
        match values {
            Some(values) => arg.default_values(values),
            None => arg,
        }
    };
    of_members(command.mut_arg(DATA, with_default), |_, command| command.mut_args(with_default))
}

/// Which file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// None, and that was said.
    Nowhere,
    /// This one, and it has to be there.
    Given(PathBuf),
    /// The usual one, if it is there.
    Usual,
}

impl Place {
    fn of(given: Option<&Path>) -> Self {
        match given {
            Some(path) if path == Path::new(NO_FILE) => Self::Nowhere,
            Some(path) => Self::Given(path.to_owned()),
            None => Self::Usual,
        }
    }

    /// Where it is; none if there is none to be read.
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Nowhere => None,
            Self::Given(path) => Some(path.clone()),
            Self::Usual => {
                let usual = Path::new(USUAL);
                // One that can't be looked at is there: reading it says why not.
                let is_gone = usual.metadata().is_err_and(|error| {
                    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                });
                (!is_gone).then(|| usual.to_owned())
            }
        }
    }
}

/// Where the options of a member come from, to be asked again while it runs.
#[derive(Clone, Debug)]
pub(super) struct Source {
    arguments: Vec<OsString>,
    place: Place,
}

/// What a member is started with, and who says so.
#[derive(Debug)]
pub(super) struct Settled {
    pub up: Up,
    /// The data directory, if anybody names one.
    pub data: Option<PathBuf>,
    /// All options in the order of the help, and the data directory before them.
    pub settings: Vec<Setting>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// The value of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub key: String,
    /// As it was written. Empty where there is none; a secret is not in it.
    pub values: Vec<String>,
    /// Whether it can have several.
    pub is_list: bool,
    pub from: Origin,
    /// Its line in the file, if it is from there.
    pub line: Option<usize>,
}

/// Who says what an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    Flag,
    Variable,
    File,
    Default,
}

impl Origin {
    fn word(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Variable => "variable",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

impl Source {
    /// That of this process, which was given `args`.
    pub fn of(args: &Args) -> Self {
        Self { arguments: std::env::args_os().collect(), place: Place::of(args.config.as_deref()) }
    }

    /// Reads the file, and puts it together with variables and flags.
    ///
    /// # Errors
    /// If the file can't be read, or anything in it is wrong.
    pub fn read(&self) -> Result<Settled, Refusal> {
        let file = self.place.path().map(|path| File::read(&path)).transpose()?;
        settle(&self.arguments, file)
    }
}

/// Puts arguments and a file together, and the variables of this process. The arguments are those
/// of `up`, or of `config show`.
fn settle(arguments: &[OsString], file: Option<File>) -> Result<Settled, Refusal> {
    let command = match &file {
        Some(file) => with_file(command(), file),
        None => command(),
    };
    let settled = || -> Result<Settled, clap::Error> {
        let matches = command.clone().try_get_matches_from(arguments)?;
        let args = Args::from_arg_matches(&matches)?;
        let (Action::Up(mut up) | Action::Config { action: ConfigAction::Show(mut up) }) =
            args.action
        else {
            return Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand));
        };
        // A variable that is there and empty says nothing.
        up.token = up.token.filter(|token| !token.trim().is_empty());
        let mut settings = settings(&matches, file.as_ref());
        let is_from = |key: &str, origin| {
            settings.iter().any(|setting: &Setting| setting.key == key && setting.from == origin)
        };
        if up.token.is_some() && is_from("token-file", Origin::File) {
            // Two ways to say the same, and the file is the one that gives way.
            up.token_file = None;
            for setting in settings.iter_mut().filter(|setting| setting.key == "token-file") {
                *setting = Setting {
                    values: Vec::new(),
                    from: Origin::Default,
                    line: None,
                    ..setting.clone()
                };
            }
        }
        Ok(Settled { up: *up, data: args.data, settings, file: None })
    };
    let settled = settled().map_err(|error| {
        // The same line was understood without the file a moment ago, and the file was checked.
        Refusal::new(
            Reason::Invalid,
            "The configuration was not read.",
            format!("Flags, variables and the file don't go together: {}.", file::said(&error)),
            "See `althing config show`, and leave one of them away.",
        )
    })?;
    Ok(Settled { file: file.map(|file| file.path), ..settled })
}

/// All options with who says so.
fn settings(matches: &ArgMatches, file: Option<&File>) -> Vec<Setting> {
    // The innermost command is the one that has them.
    let mut inner = matches;
    while let Some((_, next)) = inner.subcommand() {
        inner = next;
    }
    let setting = |key: &str, id: &str, is_list: bool, matches: &ArgMatches| {
        let is_in_file = file.is_some_and(|file| file.values(key).is_some());
        let from = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Variable,
            _ if is_in_file => Origin::File,
            _ => Origin::Default,
        };
        let raw = matches.get_raw(id).into_iter().flatten();
        let values = match key {
            SECRET => raw.map(|_| "(not shown)".to_owned()).collect(),
            _ => raw.map(|value| value.to_string_lossy().into_owned()).collect(),
        };
        let line = file.filter(|_| from == Origin::File).and_then(|file| file.line(key));
        Setting { key: key.to_owned(), values, is_list, from, line }
    };
    let mut all = vec![setting(DATA, DATA, false, matches)];
    let options = options();
    let known = options.get_arguments().filter_map(|arg| Some((key_of(arg)?, arg)));
    all.extend(known.map(|(key, arg)| setting(key, arg.get_id().as_str(), is_list(arg), inner)));
    all
}

/// Whether an option can be given several times.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), clap::ArgAction::Append)
}

/// Where the file says that the data directory is, for a command that is not told.
///
/// # Errors
/// If there is a file and it can't be read, or what it says of that is wrong.
pub(super) fn data(args: &Args) -> Result<Option<PathBuf>, Refusal> {
    match Place::of(args.config.as_deref()).path() {
        Some(path) => file::data(&path),
        None => Ok(None),
    }
}

/// The data directory that the file at its usual place names: commands find it without a word.
pub(super) fn usual_data() -> Option<PathBuf> {
    let path = Place::Usual.path()?;
    // What is wrong with it is told where it is needed.
    file::data(&path).ok().flatten()
}

/// `althing config`.
pub(super) fn run(
    source: &Source,
    output: &Output,
    action: ConfigAction,
) -> Result<ExitCode, Refusal> {
    match action {
        ConfigAction::Check { file } => {
            let path = file.or_else(|| source.place.path());
            show::check(output, path.as_deref())
        }
        ConfigAction::Show(_) => {
            show::settled(output, &source.read()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
