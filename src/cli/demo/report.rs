//! How the story is told: sentences for people, one object for each step with
//! `--json`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::cli::output::{Output, Paint};

/// What came of a step.
#[derive(Debug)]
pub(super) struct Told {
    /// In plain words, with what was measured.
    pub text: String,
    /// The same for programs.
    pub details: Value,
}

/// Why a step did not happen: what was seen instead.
#[derive(Debug)]
pub(super) struct Failure(pub String);

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// One step, as an object.
#[derive(Debug, Serialize)]
struct Line<'a> {
    step: usize,
    name: &'a str,
    ok: bool,
    text: &'a str,
    ms: u64,
    details: &'a Value,
}

/// Tells the steps as they happen.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub output: &'a Output,
}

const INDENT: &str = "   ";
const WIDTH: usize = 92;

impl Report<'_> {
    /// Something beside the steps; for people only.
    pub fn say(&self, text: &str) {
        if !self.output.json {
            self.output.line(text);
        }
    }

    /// A step begins.
    pub fn begin(&self, step: usize, title: &str) {
        if !self.output.json {
            self.output.line("");
            self.output.painted(Paint::Bold, &format!("{step}. {title}"), "");
        }
    }

    /// A step has ended.
    pub fn end(&self, step: usize, name: &str, ok: bool, told: &Told, took: Duration) {
        let ms = took.as_millis() as u64;
        let Told { text, details } = told;
        if self.output.json {
            self.output.json_line(&Line { step, name, ok, text, ms, details });
            return;
        }
        for line in wrap(text, WIDTH - INDENT.len()) {
            self.output.line(&format!("{INDENT}{line}"));
        }
        let (paint, word) = match ok {
            true => (Paint::Good, "ok"),
            false => (Paint::Bad, "DID NOT HAPPEN"),
        };
        self.output.painted(paint, &format!("{INDENT}{word}"), &format!(", {ms} ms"));
        if !ok {
            self.output.line(&format!("{details:#}"));
        }
    }
}

/// Lines of at most `width` characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("averylongword x", 3), ["averylongword", "x"]);
    }
}
