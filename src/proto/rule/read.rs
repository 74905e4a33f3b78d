//! What rules are read with: small parsers, and complaints that say what was expected where.

use std::time::Duration;

use winnow::{
    LocatingSlice,
    error::{FromExternalError, ParserError},
    prelude::*,
    stream::{Location, Stream},
    token::take_while,
};

use super::{
    parse::Wrong,
    words::{Sign, Word},
};
use crate::base::quantity;

pub(super) type Input<'a> = LocatingSlice<&'a str>;
pub(super) type Read<T> = Result<T, Complaint>;

/// What did not fit.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    pub(super) at: usize,
    pub(super) expected: Vec<&'static str>,
    pub(super) said: Option<String>,
    /// Nothing else is tried.
    pub(super) cut: bool,
}

impl Complaint {
    pub(super) fn said(at: usize, why: impl Into<String>) -> Self {
        Self { at, expected: Vec::new(), said: Some(why.into()), cut: true }
    }

    pub(super) fn wrong(mut self) -> Wrong {
        let at = self.at;
        if let Some(why) = self.said {
            return Wrong { at, why };
        }
        self.expected.dedup();
        let why = match self.expected.split_last() {
            None => "this is not understood".to_owned(),
            Some((only, [])) => format!("here {only} is expected"),
            Some((last, first)) => format!("here {} or {last} is expected", first.join(", ")),
        };
        Wrong { at, why }
    }
}

impl<'a> ParserError<Input<'a>> for Complaint {
    type Inner = Self;

    fn from_input(input: &Input<'a>) -> Self {
        let at = input.current_token_start();
        Self { at, expected: Vec::new(), said: None, cut: false }
    }

    /// What got furthest knows best.
    fn or(mut self, other: Self) -> Self {
        match self.at.cmp(&other.at) {
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Equal => {
                self.expected.extend(other.expected);
                self.said = self.said.or(other.said);
                self
            }
        }
    }

    fn is_backtrack(&self) -> bool {
        !self.cut
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

impl<'a> FromExternalError<Input<'a>, String> for Complaint {
    fn from_external_error(input: &Input<'a>, why: String) -> Self {
        Self::said(input.current_token_start(), why)
    }
}

/// From here on it has to be this: nothing else is tried.
pub(super) fn must<'a, T>(
    mut parser: impl Parser<Input<'a>, T, Complaint>,
) -> impl Parser<Input<'a>, T, Complaint> {
    move |input: &mut Input<'a>| {
        parser.parse_next(input).map_err(|complaint| Complaint { cut: true, ..complaint })
    }
}

/// Says what was expected where `parser` does not get beyond its beginning.
pub(super) fn named<'a, T>(
    name: &'static str,
    mut parser: impl Parser<Input<'a>, T, Complaint>,
) -> impl Parser<Input<'a>, T, Complaint> {
    move |input: &mut Input<'a>| {
        space(input)?;
        let at = input.current_token_start();
        parser.parse_next(input).map_err(|complaint| match complaint.said {
            None if complaint.at == at => Complaint { expected: vec![name], ..complaint },
            _ => complaint,
        })
    }
}

pub(super) fn space(input: &mut Input<'_>) -> Read<()> {
    take_while(0.., [' ', '\t', '\n', '\r']).void().parse_next(input)
}

/// What stands together: up to a space, or to what parts or compares.
pub(super) fn run<'a>(input: &mut Input<'a>) -> Read<&'a str> {
    space(input)?;
    take_while(1.., |c: char| !c.is_whitespace() && !"(),<>\"|".contains(c)).parse_next(input)
}

/// `parser` on a run; if it is none, nothing was read.
pub(super) fn of_run<'a, T>(
    read: impl Fn(&'a str) -> Option<T>,
) -> impl FnMut(&mut Input<'a>) -> Read<T> {
    move |input: &mut Input<'a>| {
        let start = input.checkpoint();
        space(input)?;
        let none = Complaint::from_input(input);
        match run(input).ok().and_then(&read) {
            Some(read) => Ok(read),
            None => {
                input.reset(&start);
                Err(none)
            }
        }
    }
}

/// The same where what is none ends everything, with a sentence of its own.
pub(super) fn checked<'a, T>(
    name: &'static str,
    read: impl Fn(&'a str) -> Result<T, String>,
) -> impl Parser<Input<'a>, T, Complaint> {
    named(name, move |input: &mut Input<'a>| {
        let at = input.current_token_start();
        let text = run(input)?;
        read(text).map_err(|why| Complaint::said(at, why))
    })
}

/// One word.
pub(super) fn word<'a>(wanted: Word) -> impl Parser<Input<'a>, (), Complaint> {
    of_run(move |text| (text == wanted.word()).then_some(()))
}

/// One character, or two.
pub(super) fn sign<'a>(wanted: Sign) -> impl Parser<Input<'a>, (), Complaint> {
    move |input: &mut Input<'a>| {
        space(input)?;
        wanted.word().void().parse_next(input)
    }
}

pub(super) fn span(input: &mut Input<'_>) -> Read<Duration> {
    must(checked("a span of time, as 2m,", quantity::span)).parse_next(input)
}

pub(super) fn number_of<N: std::str::FromStr>(
    input: &mut Input<'_>,
    name: &'static str,
) -> Read<N> {
    let read = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        let number = plain.then(|| text.parse().ok()).flatten();
        number.ok_or_else(|| format!("`{}` is no such number", shown(text)))
    };
    must(checked(name, read)).parse_next(input)
}

/// The beginning of a text that somebody else wrote, for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}
