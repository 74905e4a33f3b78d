//! Where in the text of a manifest a value stands.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::driver::{Part, Wrong};

/// A text, by its places.
pub(super) struct Places<'t> {
    text: &'t str,
    document: Spanned<DeTable<'t>>,
}

impl<'t> Places<'t> {
    /// None if it can't be read; then that is what is wrong with it.
    pub fn of(text: &'t str) -> Option<Self> {
        Some(Self { text, document: DeTable::parse(text).ok()? })
    }

    /// Where `wrong` stands, in bytes from the start: at what it names, or at the last thing that
    /// is there of what leads to it. A table stands where its header does. None if nothing of it
    /// is there.
    pub fn find(&self, wrong: &Wrong) -> Option<usize> {
        let mut keys = wrong.at.iter();
        let (name, mut found) = self.document.get_ref().get_key_value(keys.next()?.as_str())?;
        let (mut name, mut whole) = (Some(name.span()), true);
        for key in keys {
            match below(found, key) {
                Some((key, value)) => (name, found) = (key, value),
                None => {
                    whole = false;
                    break;
                }
            }
        }
        let span = found.span();
        Some(match (wrong.part, name) {
            (Part::Key, Some(key)) if whole => key.start,
            (Part::Text(at), _) if whole && found.get_ref().is_str() => {
                span.start + place_in(self.text.get(span).unwrap_or_default(), at)
            }
            _ => span.start,
        })
    }
}

type Found<'a, 'i> = (Option<Range<usize>>, &'a Spanned<DeValue<'i>>);

/// What stands at `key` of a table, or at this number of a list, or is this text in one.
fn below<'a, 'i>(value: &'a Spanned<DeValue<'i>>, key: &str) -> Option<Found<'a, 'i>> {
    match value.get_ref() {
        DeValue::Table(table) => {
            table.get_key_value(key).map(|(name, value)| (Some(name.span()), value))
        }
        DeValue::Array(list) => {
            let text = list.iter().find(|item| item.get_ref().as_str() == Some(key));
            text.or_else(|| list.get(key.parse::<usize>().ok()?)).map(|item| (None, item))
        }
        _ => None,
    }
}

/// Where in `raw`, a string as it is written in TOML with its quotes, that byte of its value
/// stands which has so many before it.
fn place_in(raw: &str, at: usize) -> usize {
    let quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| raw.starts_with(quotes));
    let Some(quotes) = quotes else { return 0 };
    let mut place = quotes.len();
    if quotes.len() == 3 {
        // The first end of a line is no part of it.
        let rest = &raw[place..];
        place += rest.len()
            - rest.strip_prefix("\r\n").or(rest.strip_prefix('\n')).unwrap_or(rest).len();
    }
    let mut passed = 0;
    while passed < at {
        let Some(first) = raw[place..].chars().next() else { break };
        let (written, meant) = match first {
            '\\' if quotes.starts_with('"') => escape(&raw[place..]),
            first => (first.len_utf8(), first.len_utf8()),
        };
        if passed + meant > at {
            break;
        }
        (place, passed) = (place + written, passed + meant);
    }
    place.min(raw.len() - quotes.len())
}

/// How many bytes an escape has at the start of `raw`, and how many its meaning.
fn escape(raw: &str) -> (usize, usize) {
    let digits = match raw[1..].chars().next() {
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        // The end of a line: all space behind it goes along.
        Some(c) if c.is_whitespace() => {
            return (1 + raw[1..].len() - raw[1..].trim_start().len(), 0);
        }
        // The parser took it: it is one character for another.
        Some(_) => return (2, 1),
        None => return (1, 0),
    };
    let code = raw.get(2..2 + digits).and_then(|code| u32::from_str_radix(code, 16).ok());
    (2 + digits, code.and_then(char::from_u32).map_or(0, char::len_utf8))
}
