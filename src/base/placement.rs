//! Placement: which members an application is for, by their tags.
//!
//! ```text
//! any     = all { "or" all }
//! all     = one { "and" one }
//! one     = "not" one | "(" any ")" | tag [ test ]
//! test    = "==" value | "!=" value | "in" "(" value { "," value } ")"
//! ```
//!
//! A tag by itself asks whether the member has it. A member that does not have it
//! passes `!=`, as with the label selectors of Kubernetes. A value with anything but
//! letters, digits, hyphens, dots, underscores and slashes stands in double quotes.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Origins, limits};

/// An expression over the tags of a member. Parsed once, written as its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Placement {
    text: String,
    is: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Any(Vec<Test>),
    All(Vec<Test>),
    Not(Box<Test>),
    Has(String),
    /// The tag has one of these values.
    Is(String, Vec<String>),
}

/// Clients from some places are answered by some members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// Countries, continents and networks.
    #[serde(with = "as_origins")]
    pub from: Origins,
    /// Members by their tags.
    pub members: Placement,
}

/// Several, of which the first one that fits counts. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Preference>", into = "Vec<Preference>")]
pub struct Preferences(pub Arc<[Preference]>);

impl From<Vec<Preference>> for Preferences {
    fn from(all: Vec<Preference>) -> Self {
        Self(all.into())
    }
}

impl From<Preferences> for Vec<Preference> {
    fn from(all: Preferences) -> Self {
        all.0.to_vec()
    }
}

mod as_origins {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Origins;

    pub(super) fn serialize<S: Serializer>(of: &Origins, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(of.to_string().split('|'))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Origins, D::Error> {
        Origins::of(&Vec::<String>::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {column}: {why}")]
pub struct PlacementError {
    /// 1 for the first.
    pub column: usize,
    /// Without a full stop.
    pub why: String,
}

impl Placement {
    /// Reads an expression of up to [`limits::PLACEMENT_MAX`] bytes.
    pub fn parse(text: &str) -> Result<Self, PlacementError> {
        let text = text.trim();
        if text.len() > limits::PLACEMENT_MAX {
            let why = format!("it is longer than {} bytes", limits::PLACEMENT_MAX);
            return Err(PlacementError { column: 1, why });
        }
        let mut reader = Reader { text, words: words(text)?, at: 0, depth: 0 };
        let is = reader.any()?;
        if reader.at < reader.words.len() {
            return reader.fail("here `and`, `or` or the end is expected");
        }
        Ok(Self { text: text.to_owned(), is })
    }

    /// Whether a member with `tags` is one of them.
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        self.is.matches(tags)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Placement {
    type Error = PlacementError;

    fn try_from(text: String) -> Result<Self, PlacementError> {
        Self::parse(&text)
    }
}

impl From<Placement> for String {
    fn from(placement: Placement) -> Self {
        placement.text
    }
}

impl Test {
    fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Any(tests) => tests.iter().any(|test| test.matches(tags)),
            Self::All(tests) => tests.iter().all(|test| test.matches(tags)),
            Self::Not(test) => !test.matches(tags),
            Self::Has(tag) => tags.contains_key(tag),
            Self::Is(tag, values) => tags.get(tag).is_some_and(|value| values.contains(value)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// A tag, a value, or one of the words of the language.
    Plain(String),
    /// Only ever a value.
    Quoted(String),
    Equal,
    Unequal,
    Open,
    Close,
    Comma,
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/')
}

fn words(text: &str) -> Result<Vec<(Word, Range<usize>)>, PlacementError> {
    let mut words = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        let mut then = |wanted: char| rest.next_if(|(_, c)| *c == wanted).is_some();
        let word = match c {
            _ if c.is_whitespace() => continue,
            '(' => Word::Open,
            ')' => Word::Close,
            ',' => Word::Comma,
            '=' if then('=') => Word::Equal,
            '!' if then('=') => Word::Unequal,
            '=' => return fail_at(text, start, "`=` is not known: use `==`"),
            '!' => return fail_at(text, start, "`!` is not known: use `not` or `!=`"),
            '"' => {
                let mut value = String::new();
                loop {
                    match rest.next() {
                        Some((_, '"')) => break,
                        Some((_, c)) => value.push(c),
                        None => return fail_at(text, start, "its closing quote is missing"),
                    }
                }
                Word::Quoted(value)
            }
            _ if is_plain(c) => {
                let mut plain = String::from(c);
                while let Some((_, c)) = rest.next_if(|(_, c)| is_plain(*c)) {
                    plain.push(c);
                }
                Word::Plain(plain)
            }
            _ => {
                let why = format!("{c:?} is not known: put values with it in double quotes");
                return fail_at(text, start, &why);
            }
        };
        let end = rest.peek().map_or(text.len(), |(at, _)| *at);
        words.push((word, start..end));
    }
    Ok(words)
}

fn fail_at<T>(text: &str, at: usize, why: &str) -> Result<T, PlacementError> {
    let column = text.get(..at).unwrap_or(text).chars().count() + 1;
    Err(PlacementError { column, why: why.to_owned() })
}

struct Reader<'a> {
    text: &'a str,
    words: Vec<(Word, Range<usize>)>,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, why: &str) -> Result<T, PlacementError> {
        let at = self.words.get(self.at).map_or(self.text.len(), |(_, range)| range.start);
        fail_at(self.text, at, why)
    }

    fn next_if(&mut self, wanted: &Word) -> bool {
        let found = self.words.get(self.at).is_some_and(|(word, _)| word == wanted);
        self.at += usize::from(found);
        found
    }

    fn next_is(&mut self, word: &str) -> bool {
        self.next_if(&Word::Plain(word.to_owned()))
    }

    fn any(&mut self) -> Result<Test, PlacementError> {
        let mut tests = vec![self.all()?];
        while self.next_is("or") {
            tests.push(self.all()?);
        }
        Ok(one_or(tests, Test::Any))
    }

    fn all(&mut self) -> Result<Test, PlacementError> {
        let mut tests = vec![self.one()?];
        while self.next_is("and") {
            tests.push(self.one()?);
        }
        Ok(one_or(tests, Test::All))
    }

    fn one(&mut self) -> Result<Test, PlacementError> {
        if self.depth == limits::PLACEMENT_DEPTH_MAX {
            return self.fail("it is nested too deeply");
        }
        self.depth += 1;
        let test = if self.next_is("not") {
            Test::Not(Box::new(self.one()?))
        } else if self.next_if(&Word::Open) {
            let test = self.any()?;
            if !self.next_if(&Word::Close) {
                return self.fail("here `and`, `or` or `)` is expected");
            }
            test
        } else {
            self.tag()?
        };
        self.depth -= 1;
        Ok(test)
    }

    fn tag(&mut self) -> Result<Test, PlacementError> {
        let tag = match self.words.get(self.at) {
            Some((Word::Plain(tag), _)) if !["and", "or", "in"].contains(&tag.as_str()) => {
                tag.clone()
            }
            _ => return self.fail("here a tag is expected, as in role == web"),
        };
        self.at += 1;
        if self.next_if(&Word::Equal) {
            return Ok(Test::Is(tag, vec![self.value()?]));
        }
        if self.next_if(&Word::Unequal) {
            return Ok(Test::Not(Box::new(Test::Is(tag, vec![self.value()?]))));
        }
        if !self.next_is("in") {
            return Ok(Test::Has(tag));
        }
        if !self.next_if(&Word::Open) {
            return self.fail("here `(` is expected, as in role in (web, edge)");
        }
        let mut values = vec![self.value()?];
        while self.next_if(&Word::Comma) {
            values.push(self.value()?);
        }
        if !self.next_if(&Word::Close) {
            return self.fail("here `,` or `)` is expected");
        }
        Ok(Test::Is(tag, values))
    }

    fn value(&mut self) -> Result<String, PlacementError> {
        let value = match self.words.get(self.at) {
            Some((Word::Plain(value) | Word::Quoted(value), _)) => value.clone(),
            _ => return self.fail("here a value is expected"),
        };
        self.at += 1;
        Ok(value)
    }
}

fn one_or(mut tests: Vec<Test>, many: fn(Vec<Test>) -> Test) -> Test {
    match tests.pop() {
        Some(only) if tests.is_empty() => only,
        Some(last) => {
            tests.push(last);
            many(tests)
        }
        None => many(tests),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn it_chooses_by_tags() {
        for (text, yes, no) in [
            ("role == web", "role=web zone=a", "role=db"),
            ("role==web", "role=web", ""),
            ("role != web", "role=db", "role=web"),
            ("role != web", "", "role=web"),
            ("role in (web, edge)", "role=edge", "role=db"),
            ("gpu", "gpu=", "role=web"),
            ("not gpu", "role=web", "gpu=a100"),
            ("role == web and zone == a", "role=web zone=a", "role=web zone=b"),
            ("role == web or role == db and big", "role=web", "role=db"),
            ("(role == web or role == db) and big", "role=db big=1", "role=web"),
            ("not (role == web or gpu)", "role=db", "gpu=1"),
            ("not not gpu", "gpu=1", ""),
            ("rack == \"rack/7\"", "rack=rack/7", "rack=7"),
            ("  org.example/kind == a-b_c.d ", "org.example/kind=a-b_c.d", ""),
        ] {
            let placement = Placement::parse(text).unwrap();
            assert!(placement.matches(&tags(yes)), "{text}: {yes}");
            assert!(!placement.matches(&tags(no)), "{text}: {no}");
            assert_eq!(Placement::parse(placement.as_str()).unwrap(), placement);
        }
        let quoted = Placement::parse("room == \"1st floor, left\"").unwrap();
        let there = BTreeMap::from([("room".to_owned(), "1st floor, left".to_owned())]);
        assert!(quoted.matches(&there));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, column, why) in [
            ("", 1, "a tag is expected"),
            ("role = web", 6, "use `==`"),
            ("!gpu", 1, "use `not`"),
            ("role == ", 8, "a value is expected"),
            ("role == web zone == a", 13, "`and`, `or` or the end"),
            ("role == web and", 16, "a tag is expected"),
            ("(role == web", 13, "`)` is expected"),
            ("role in web", 9, "`(` is expected"),
            ("role in (web edge)", 14, "`,` or `)`"),
            ("role == \"web", 9, "closing quote"),
            ("role == ä", 9, "double quotes"),
            ("äh", 1, "double quotes"),
            ("and", 1, "a tag is expected"),
        ] {
            let error = Placement::parse(text).unwrap_err();
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.why.contains(why), "{text}: {error}");
        }
        let deep = "(".repeat(5_000);
        assert!(Placement::parse(&deep).unwrap_err().why.contains("longer"));
        let deep = "(".repeat(limits::PLACEMENT_DEPTH_MAX + 1);
        assert!(Placement::parse(&deep).unwrap_err().why.contains("deeply"));
        let deep = "not ".repeat(limits::PLACEMENT_DEPTH_MAX + 1);
        assert!(Placement::parse(&deep).unwrap_err().why.contains("deeply"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_makes_it_fall(text in "[a-c()=!,\" ]{0,40}|.{0,40}|(not |and |or |in |a |\\(|\\)|==|!=|,){0,20}") {
            if let Ok(placement) = Placement::parse(&text) {
                prop_assert_eq!(Placement::parse(placement.as_str()).unwrap(), placement.clone());
                let _either = placement.matches(&BTreeMap::new());
            }
        }
    }
}
