//! F3: what makes no sense in a definition, and where in a manifest that stands.
//!
//! A place is a path of keys and not one of lines: what is checked are values, and who has read the
//! text knows where it stands. Idea: JSON Pointer (RFC 6901).

/// Something that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The keys that lead to it in a manifest; in a list its number from 0, or the text itself.
    /// Where something is missing, or what leads to it is not there, that of what it should be in.
    /// Empty if it stands nowhere.
    pub at: Vec<String>,
    /// What of it.
    pub part: Part,
    /// A sentence.
    pub why: String,
}

/// What is wrong of the value at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The value.
    Value,
    /// The key.
    Key,
    /// A text, from this byte of it on.
    Text(usize),
}

impl Wrong {
    /// The value at `at`.
    pub fn new<'a>(at: impl IntoIterator<Item = &'a str>, why: impl Into<String>) -> Self {
        let at = at.into_iter().map(str::to_owned).collect();
        Self { at, part: Part::Value, why: why.into() }
    }

    /// The last key of `at`.
    pub fn key<'a>(at: impl IntoIterator<Item = &'a str>, why: impl Into<String>) -> Self {
        Self { part: Part::Key, ..Self::new(at, why) }
    }

    /// The same seen from further above, and said so.
    pub(in crate::driver) fn below(self, above: &[&str], said: &str) -> Self {
        let at = above.iter().map(|key| (*key).to_owned()).chain(self.at).collect();
        Self { at, why: format!("{said} {}", self.why), part: self.part }
    }

    /// As [`Definition::check`](super::Definition::check) says it.
    pub(in crate::driver) fn sentences(all: Vec<Self>) -> Result<(), Vec<String>> {
        if all.is_empty() { Ok(()) } else { Err(all.into_iter().map(|wrong| wrong.why).collect()) }
    }
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::new([], why)
    }
}
