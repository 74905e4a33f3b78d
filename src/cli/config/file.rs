//! The file: one flat table, whose keys are the long flags of `althing up`. Values go through the
//! parsers of the flags, one by one, so that a message points at the very value.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use clap::{Arg, Command, FromArgMatches, error::ErrorKind as ClapKind};
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::{DATA, SECRET, is_list, key_of, options};
use crate::{
    base::{Reason, Refusal},
    cli::{args::Up, up},
    node::manifest::line_and_column,
    proto::rule::Wrong,
};

/// The largest file that is read, bytes: all options with every value that they can have are less.
const SIZE_MAX: u64 = 64 << 10;
/// The most values of a list: more than any option takes.
const VALUES_MAX: usize = 256;
/// A key that is wrong in so many letters is still recognised.
const LETTERS_MAX: usize = 2;

/// A file in which nothing is wrong.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub path: PathBuf,
    entries: Vec<Entry>,
}

/// What is said of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    values: Vec<String>,
    /// Where its key stands, from 1.
    line: usize,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    /// Bytes from the start.
    #[serde(skip)]
    at: usize,
    /// Both count from 1.
    pub line: usize,
    pub column: usize,
    /// Of which option, if of one.
    pub key: Option<String>,
    /// A sentence without its point.
    pub why: String,
}

impl Fault {
    fn new(text: &str, at: usize, key: Option<&str>, why: impl Into<String>) -> Self {
        let (line, column) = line_and_column(text, at);
        Self { at, line, column, key: key.map(str::to_owned), why: why.into() }
    }

    /// As compilers tell theirs: the place, the line, and a caret under it.
    pub fn shown(&self, path: &str, text: &str) -> String {
        let Self { at, line, column, key, why } = self;
        let told = format!("{path}:{line}:{column}: {why}.");
        let written = text.lines().nth(line - 1).unwrap_or_default().trim_start();
        let is_secret = |rest: &str| rest.trim_start().starts_with('=');
        let is_secret = written.strip_prefix(SECRET).is_some_and(is_secret);
        if is_secret || key.as_deref() == Some(SECRET) {
            // It would be on the terminal.
            return told;
        }
        let at = if text.is_char_boundary(*at) { *at } else { text.len() };
        let place = Wrong { at, why: String::new() }.shown(text);
        format!("{told}\n{}", place.trim_end())
    }
}

impl File {
    /// # Errors
    /// If it can't be read, or anything in it is wrong.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        let text = text(path)?;
        let (entries, faults) = look(&text);
        match faults.first() {
            None => Ok(Self { path: path.to_owned(), entries }),
            Some(first) => Err(refuse_fault(path, first, faults.len() - 1)),
        }
    }

    /// What it says of an option; none where it does not name it.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.entry(key).map(|entry| entry.values.as_slice())
    }

    /// In which line it names an option.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.entry(key).map(|entry| entry.line)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Where the file says that the data directory is. What is wrong elsewhere in it does not matter:
/// a command is to reach a member that runs whatever was written since.
///
/// # Errors
/// If it can't be read, is no TOML, or what it says of that is wrong.
pub(super) fn data(path: &Path) -> Result<Option<PathBuf>, Refusal> {
    let text = text(path)?;
    let (entries, faults) = look(&text);
    let matters = |fault: &&Fault| fault.key.as_deref().is_none_or(|key| key == DATA);
    if let Some(fault) = faults.iter().find(matters) {
        return Err(refuse_fault(path, fault, 0));
    }
    let entry = entries.into_iter().find(|entry| entry.key == DATA);
    Ok(entry.and_then(|entry| entry.values.into_iter().next()).map(PathBuf::from))
}

fn refuse_fault(path: &Path, fault: &Fault, more: usize) -> Refusal {
    let Fault { line, column, why, .. } = fault;
    let more = match more {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Refusal::new(
        Reason::Invalid,
        "The configuration was not read.",
        format!("In {}, line {line}, column {column}: {why}{more}.", path.display()),
        "Correct it: `althing config check` shows all that is wrong and where.",
    )
}

/// The text of the file at `path`, of bounded size.
pub(super) fn text(path: &Path) -> Result<String, Refusal> {
    let shown = path.display();
    let refuse = |reason, why: String, todo: &str| {
        Refusal::new(reason, "The configuration was not read.", why, todo)
    };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => refuse(
            Reason::NotFound,
            format!("{shown} is not there."),
            "Name a file that is there, or `none` for no file (--config, ALTHING_CONFIG).",
        ),
        ErrorKind::PermissionDenied => refuse(
            Reason::Failed,
            format!("This user may not read {shown}."),
            "Do it as a user who may, or say --config none and name the data directory by --data.",
        ),
        ErrorKind::InvalidData => refuse(
            Reason::Invalid,
            format!("{shown} is no text in UTF-8."),
            "Write it as TOML, or name another file with --config.",
        ),
        _ => refuse(
            Reason::Failed,
            format!("{shown} can't be read: {error}."),
            "See that it is a file that this user may read.",
        ),
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SIZE_MAX {
        return Err(refuse(
            Reason::Invalid,
            format!("{shown} is no file, or larger than 64 KiB."),
            "Name a file of TOML with --config, or `none` for no file.",
        ));
    }
    let mut text = String::new();
    // It may have grown since.
    fs::File::open(path)
        .and_then(|file| file.take(SIZE_MAX).read_to_string(&mut text))
        .map_err(failed)?;
    Ok(text)
}

/// All faults of a text, in its order.
pub(super) fn faults(text: &str) -> Vec<Fault> {
    look(text).1
}

/// What a text says, and what of it is wrong, in its order.
fn look(text: &str) -> (Vec<Entry>, Vec<Fault>) {
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let why = error.message().replace('\n', ", ");
            return (Vec::new(), vec![Fault::new(text, at, None, why)]);
        }
    };
    let options = options();
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        let place = Place { text, at: key.span().start, key: key.get_ref() };
        match place.entry(&options, value.span().start, value.get_ref()) {
            Ok(entry) => entries.push(entry),
            Err(found) => faults.push(found),
        }
    }
    faults.sort_by_key(|fault| fault.at);
    (entries, faults)
}

/// One key of a text.
struct Place<'a> {
    text: &'a str,
    at: usize,
    key: &'a str,
}

impl Place<'_> {
    fn fault(&self, at: usize, why: impl Into<String>) -> Fault {
        Fault::new(self.text, at, Some(self.key), why)
    }

    /// What is said of it, or what is wrong with that.
    fn entry(&self, options: &Command, at: usize, value: &DeValue<'_>) -> Result<Entry, Fault> {
        let key = self.key;
        if key == SECRET {
            let why = "a token does not stand in this file: put it into one of its own that \
                       nobody else can read, and name that with token-file";
            return Err(self.fault(self.at, why));
        }
        let arg = options.get_arguments().find(|arg| key_of(arg) == Some(key));
        if arg.is_none() && key != DATA {
            return Err(self.fault(self.at, unknown(options, key)));
        }
        let written = self.written(arg, at, value)?;
        for (at, value) in &written {
            let why = match arg {
                Some(arg) => refused(options, arg, key, std::slice::from_ref(value)),
                None => Some("give the whole path, as /var/lib/althing".to_owned())
                    .filter(|_| !Path::new(value).is_absolute()),
            };
            if let Some(why) = why {
                return Err(self.fault(*at, why));
            }
        }
        let values: Vec<String> = written.into_iter().map(|(_, value)| value).collect();
        // Each is right, and together they may be too many.
        if let Some(why) = arg.and_then(|arg| refused(options, arg, key, &values)) {
            return Err(self.fault(at, why));
        }
        let (line, _) = line_and_column(self.text, self.at);
        Ok(Entry { key: key.to_owned(), values, line })
    }

    /// Its values as a flag would be given them, each with its place.
    fn written(
        &self,
        arg: Option<&Arg>,
        at: usize,
        value: &DeValue<'_>,
    ) -> Result<Vec<(usize, String)>, Fault> {
        let key = self.key;
        match value {
            DeValue::Array(values) if values.len() > VALUES_MAX => {
                Err(self.fault(at, format!("{key} has more than {VALUES_MAX} values")))
            }
            DeValue::Array(values) if arg.is_some_and(is_list) => {
                let one = |value: &toml::Spanned<DeValue<'_>>| {
                    let at = value.span().start;
                    scalar(value.get_ref()).map(|text| (at, text)).ok_or(at)
                };
                let all: Result<Vec<_>, usize> = values.iter().map(one).collect();
                all.map_err(|at| self.fault(at, format!("{key} is a list of text")))
            }
            DeValue::Array(_) => {
                Err(self.fault(at, format!("{key} has one value, and this is a list")))
            }
            DeValue::Table(_) => Err(self.fault(
                self.at,
                format!("{key} is no table: all keys stand at the top, as key = \"value\""),
            )),
            value => match scalar(value) {
                Some(text) => Ok(vec![(at, text)]),
                None => Err(self.fault(at, format!("{key} is text: write it in quotes"))),
            },
        }
    }
}

/// As a flag would be given it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Why a flag would not take these values: a sentence without its point.
fn refused(options: &Command, arg: &Arg, key: &str, values: &[String]) -> Option<String> {
    let flags = values.iter().map(|value| format!("--{key}={value}"));
    let arguments = std::iter::once("up".to_owned()).chain(flags);
    let given = options.clone().try_get_matches_from(arguments);
    match given.and_then(|matches| Up::from_arg_matches(&matches)) {
        Ok(up) => up::too_much(&up).map(|why| why.trim_end_matches('.').to_owned()),
        // A file has no flags.
        Err(error) => Some(said(&error).replace(&format!("'{arg}'"), key)),
    }
}

/// What the parser of the command line says, in one sentence without its point.
pub(super) fn said(error: &clap::Error) -> String {
    if error.kind() == ClapKind::InvalidSubcommand {
        return "they are not those of a member".to_owned();
    }
    let text = error.render().to_string();
    // Then comes how the command is used.
    let first: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let first = first.join(" ");
    first.trim_start_matches("error: ").trim_end_matches('.').to_owned()
}

/// What to say of a key that is none.
fn unknown(options: &Command, key: &str) -> String {
    let known = options.get_arguments().filter_map(key_of).chain([DATA]);
    let like = key.to_ascii_lowercase().replace('_', "-");
    let nearest = known
        .filter(|known| *known != SECRET)
        .map(|known| (distance(known, &like), known))
        .min()
        // Nearly all of a short word is another word.
        .filter(|(letters, known)| *letters <= LETTERS_MAX && *letters < known.len() - 1);
    match nearest {
        Some((_, known)) => format!("unknown key {key} (did you mean {known}?)"),
        None => format!("unknown key {key}; the keys are the long flags of `althing up`"),
    }
}

/// How many letters have to be put in, taken out or replaced to make one word of the other
/// (Levenshtein, by one row at a time).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (at, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *against);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
