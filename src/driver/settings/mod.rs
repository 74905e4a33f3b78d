//! F3, settings: typed values that an application carries with its version,
//! and that its programs find in their environment or in a file.
//!
//! [`Settings`] is words only: read, checked, written in the formats that
//! programs read. It touches no disk and knows no service; who puts a rendered
//! file where, and who is given the variables, is decided elsewhere. Nothing
//! here is secret: see `secrets` for what must not be read by all.
//!
//! Ideas: the twelve-factor app (configuration in the environment), TOML's
//! dotted keys.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{Definition, Wrong, variable::variable};

mod check;
mod read;
pub mod render;
#[cfg(test)]
mod tests;

pub use check::{BYTES_MAX, KEY_MAX, KEYS_MAX, VALUE_MAX};
pub use render::Format;

/// The settings of one application: `[settings]` of its manifest, tables in
/// tables as dotted keys. `[settings.database] host = "db"` is the key
/// `database.host`. Reading refuses what no setting can be (dates, tables in
/// lists, keys of other characters); bounds are for [`Settings::check`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(pub BTreeMap<String, Value>);

/// What a key is set to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// One thing.
    One(Scalar),
    /// Some, in their order.
    List(Vec<Scalar>),
}

/// One thing that is not made of others.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// Text, possibly empty, possibly of many lines.
    Text(String),
    /// An integer, as TOML has them: 64 bits with a sign.
    Integer(i64),
    /// A finite number with a fraction. Minus zero is zero.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
}

impl Definition for Settings {
    const NAME: &'static str = "settings.toml";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    fn text(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_toml())
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Self::check(self)
    }

    fn wrong(&self) -> Vec<Wrong> {
        Self::wrong(self)
    }
}

impl Settings {
    /// Reads what [`Settings::to_toml`] wrote, or a person in the same form.
    /// The error is what the parser says, with line and column; what is read
    /// is not checked yet, see [`Settings::check`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: read::Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.settings)
    }

    /// The canonical text: one line for each key, in their order. Equal
    /// settings give equal bytes. What does not pass [`Settings::check`] may
    /// give a text that can't be read.
    pub fn to_toml(&self) -> String {
        let mut text = "[settings]\n".to_owned();
        for (key, value) in &self.0 {
            text.push_str(&format!("{key} = {}\n", value.to_toml()));
        }
        text
    }

    /// The variables that services are given: `database.host` as
    /// `DATABASE_HOST`, lists joined by commas. Of two keys for one variable,
    /// which [`Settings::check`] refuses, the last one stays.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, value)| (variable(key), value.to_string())).collect()
    }
}

impl Value {
    /// As one TOML value on one line.
    fn to_toml(&self) -> String {
        match self {
            Self::One(scalar) => scalar.to_toml().to_string(),
            Self::List(list) => {
                toml::Value::Array(list.iter().map(Scalar::to_toml).collect()).to_string()
            }
        }
    }

    /// The single things that it is made of.
    fn scalars(&self) -> &[Scalar] {
        match self {
            Self::One(scalar) => std::slice::from_ref(scalar),
            Self::List(list) => list,
        }
    }
}

impl Scalar {
    fn to_toml(&self) -> toml::Value {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()),
            Self::Integer(number) => toml::Value::Integer(*number),
            Self::Float(number) => toml::Value::Float(plain(*number)),
            Self::Boolean(truth) => toml::Value::Boolean(*truth),
        }
    }
}

/// Equal numbers have to be written equally, and minus zero equals zero.
fn plain(number: f64) -> f64 {
    if number == 0.0 { 0.0 } else { number }
}

impl fmt::Display for Value {
    /// As a variable has it: text as it is, lists joined by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scalar) in self.scalars().iter().enumerate() {
            write!(f, "{}{scalar}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            // Debug, because it keeps the point: 1.0 is not written as 1.
            Self::Float(number) => write!(f, "{:?}", plain(*number)),
            Self::Boolean(truth) => write!(f, "{truth}"),
        }
    }
}
