//! Settings from tables in tables, and back. By hand, because a derived reader
//! would say "data did not match any variant" where a person wants to know
//! which key is wrong.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
    ser,
};

use super::{
    Scalar, Settings, Value,
    check::{KEY_MAX, check_key, check_part},
};

/// By this name the reader of TOML hands over a date, as if it were a table.
const DATE: &str = "$__toml_private_datetime";

/// A document that holds settings and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    pub settings: Settings,
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut settings = Self::default();
        deserializer.deserialize_map(Below { key: "", into: &mut settings.0 })?;
        Ok(settings)
    }
}

/// Reads what stands at `key`, which is empty for the table of all settings.
struct Below<'a> {
    key: &'a str,
    into: &'a mut BTreeMap<String, Value>,
}

impl Below<'_> {
    fn set<E: Error>(self, value: Value) -> Result<(), E> {
        if self.key.is_empty() {
            return Err(E::custom("settings has to be a table: write `[settings]` above its keys"));
        }
        if self.into.insert(self.key.to_owned(), value).is_some() {
            return Err(E::custom(format!("{} is set twice: take one out", self.key)));
        }
        Ok(())
    }

    fn one<E: Error>(self, scalar: Result<Scalar, String>) -> Result<(), E> {
        let scalar = scalar.map_err(|why| E::custom(format!("{} {why}", self.key)))?;
        self.set(Value::One(scalar))
    }
}

impl<'de> DeserializeSeed<'de> for Below<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            "" => f.write_str("a table of settings"),
            key => write!(f, "text, a number, true, false, a list or a table for {key}"),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.one(Ok(Scalar::Text(text.to_owned())))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        self.one(Ok(Scalar::Boolean(truth)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.one(Ok(Scalar::Integer(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.one(integer(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.one(float(number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut scalars = Vec::new();
        while let Some(scalar) = list.next_element_seed(InList(self.key))? {
            scalars.push(scalar);
        }
        self.set(Value::List(scalars))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<(), A::Error> {
        while let Some(part) = table.next_key::<String>()? {
            if part == DATE {
                return Err(dated(self.key));
            }
            let key = match self.key {
                "" => part.clone(),
                above => format!("{above}.{part}"),
            };
            let shown: String = key.chars().take(80).collect();
            // A dot in quotes is not a dot between tables.
            check_part(&part)
                .map_err(|why| format!("the key {shown:?} {why}"))
                // Also bounds how deep this goes down.
                .and_then(|()| check_key(&key))
                .map_err(|why| A::Error::custom(why.trim_end_matches('.')))?;
            debug_assert!(key.len() <= KEY_MAX);
            table.next_value_seed(Below { key: &key, into: self.into })?;
        }
        Ok(())
    }
}

/// Reads one thing in the list at a key.
struct InList<'a>(&'a str);

impl InList<'_> {
    fn say<E: Error>(&self, scalar: Result<Scalar, String>) -> Result<Scalar, E> {
        scalar.map_err(|why| E::custom(format!("{} {why}", self.0)))
    }
}

impl<'de> DeserializeSeed<'de> for InList<'_> {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InList<'_> {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text, a number, true or false in the list {}", self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Scalar, E> {
        Ok(Scalar::Boolean(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        self.say(integer(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        self.say(float(number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        let why = "is a list in a list: write one list, or a table for each";
        Err(A::Error::custom(format!("{} {why}", self.0)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Scalar, A::Error> {
        if table.next_key::<String>()?.as_deref() == Some(DATE) {
            return Err(dated(self.0));
        }
        let why = "is a list of tables: give each table a name of its own";
        Err(A::Error::custom(format!("{} {why}", self.0)))
    }
}

fn dated<E: Error>(key: &str) -> E {
    let key = if key.is_empty() { "settings" } else { key };
    E::custom(format!("{key} is a date or a time: write it as text, in quotes"))
}

fn integer(number: u64) -> Result<Scalar, String> {
    let why = |_| "is too large: integers go up to 9223372036854775807".to_owned();
    i64::try_from(number).map(Scalar::Integer).map_err(why)
}

fn float(number: f64) -> Result<Scalar, String> {
    if number.is_finite() {
        Ok(Scalar::Float(super::plain(number)))
    } else {
        Err("is no finite number: write one, or text in quotes".to_owned())
    }
}

/// What a table holds: values, and tables again.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Node<'a> {
    Value(&'a Value),
    Table(BTreeMap<&'a str, Node<'a>>),
}

impl Settings {
    /// Dotted keys as tables in tables. The error is a sentence about a key
    /// that [`Settings::check`] refuses too.
    pub(super) fn tables(&self) -> Result<Node<'_>, String> {
        let mut root = BTreeMap::new();
        for (key, value) in &self.0 {
            check_key(key)?;
            let conflict = || format!("{key} is a value and a table: take one of the two out.");
            let mut table = &mut root;
            let mut rest = key.as_str();
            while let Some((part, below)) = rest.split_once('.') {
                let node = table.entry(part).or_insert_with(|| Node::Table(BTreeMap::new()));
                let Node::Table(next) = node else { return Err(conflict()) };
                (table, rest) = (next, below);
            }
            if table.insert(rest, Node::Value(value)).is_some() {
                return Err(conflict());
            }
        }
        Ok(Node::Table(root))
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tables().map_err(ser::Error::custom)?.serialize(serializer)
    }
}
