//! What goes to the terminal or into the pipe. Text from elsewhere is cleaned
//! of control characters first: a version's message must not move the cursor.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use super::{hints, table::Table};
use crate::base::Refusal;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// JSON instead of text.
    pub json: bool,
    colour: bool,
    width: Option<usize>,
}

/// How important a word is on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Paint {
    /// As any other.
    #[default]
    Plain,
    /// A heading.
    Bold,
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Wrong.
    Bad,
    /// Less important.
    Dim,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let width = terminal
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|width| *width >= 20);
        Self { json, colour: terminal && !no_colour, width }
    }

    /// Whether somebody watches, so that a line may be written over.
    pub fn is_watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// A line of text.
    pub fn line(&self, text: &str) {
        write_out(&format!("{}\n", clean(text)));
    }

    /// A line that names commands to be run next: see [`hints`].
    pub fn hint(&self, text: &str) {
        self.line(&hints::copyable(text));
    }

    /// A text of several lines, as it is: for a program or a file.
    pub fn text(&self, text: &str) {
        write_out(text);
    }

    /// A line whose first words are painted.
    pub fn painted(&self, paint: Paint, first: &str, rest: &str) {
        let first = self.paint(paint, &clean(first));
        write_out(&format!("{first}{}\n", clean(rest)));
    }

    /// A table, or the sentence that says why there is none.
    pub fn table(&self, table: &Table, empty: &str) {
        if table.is_empty() {
            self.line(empty);
        } else {
            write_out(&table.render(self.width, |paint, text| self.paint(paint, text)));
        }
    }

    /// One JSON document.
    pub fn document(&self, value: &impl Serialize) {
        write_out(&format!("{:#}\n", to_value(value)));
    }

    /// One JSON document on one line.
    pub fn json_line(&self, value: &impl Serialize) {
        write_out(&format!("{}\n", to_value(value)));
    }

    /// Why it was not done: for people on standard error, for scripts on
    /// standard output.
    pub fn refusal(&self, refusal: &Refusal) {
        let todo = hints::copyable(&refusal.todo).into_owned();
        let refusal = &Refusal { todo, ..refusal.clone() };
        if self.json {
            self.json_line(&serde_json::json!({ "error": refusal }));
        } else {
            note(&format!("althing: {refusal}"));
        }
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            _ if !self.colour => return text.to_owned(),
            Paint::Bold => "1",
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "31",
            Paint::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A line on standard error.
pub(super) fn note(text: &str) {
    // If even this can't be written, there is nobody to tell.
    let _unread = writeln!(io::stderr(), "{}", clean(text));
}

/// Without control characters, except those that only make room: line breaks, and the tabs that
/// programs print.
pub(super) fn clean(text: &str) -> String {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

fn to_value(value: &impl Serialize) -> serde_json::Value {
    // Only maps with keys that are no strings fail, and there are none.
    serde_json::to_value(value).unwrap_or_default()
}

/// Set when what was to be printed could not be.
static UNREAD: AtomicBool = AtomicBool::new(false);
/// Set when that was for another reason than a reader that has gone.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether whoever read the output has gone: a reason to stop following, and
/// none to stop a member.
pub(super) fn is_unread() -> bool {
    UNREAD.load(Ordering::Relaxed)
}

/// Whether output was lost that somebody waits for: a full disk, for example.
pub(super) fn is_lost() -> bool {
    FAILED.load(Ordering::Relaxed)
}

fn write_out(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        UNREAD.store(true, Ordering::Relaxed);
        // `althing events | head` is no failure; a full disk is.
        if error.kind() != io::ErrorKind::BrokenPipe && !FAILED.swap(true, Ordering::Relaxed) {
            note(&format!("althing: the output can't be written: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\n\u{fffd}c");
        assert_eq!(clean("\tat Main.run\x08\x0b"), "\tat Main.run\u{fffd}\u{fffd}");
    }
}
