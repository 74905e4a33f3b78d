//! Whether settings can be carried: bounds, keys, the variables that they
//! become. Pure, so that `publish` says it before a member meets it; a member
//! checks again, because a version comes from others.

use std::collections::BTreeMap;

use super::{Scalar, Settings, Value};
use crate::driver::{
    Part, Wrong,
    variable::{is_reserved, variable},
};

/// Keys of one application.
pub const KEYS_MAX: usize = 1_000;
/// Length of a whole key with its dots, bytes.
pub const KEY_MAX: usize = 100;
/// Length of one value as a variable has it, bytes. The kernel takes 128 KiB.
pub const VALUE_MAX: usize = 16 << 10;
/// All keys and values together, bytes: as much as a service's own variables
/// may have, so that a program can still be started.
pub const BYTES_MAX: usize = 64 << 10;

impl Settings {
    /// Checks every key and value. The errors are whole sentences, each with
    /// the key that is wrong and what to write instead.
    pub fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    /// The same with the place of each.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        // No key has a dot that is not one between tables: who reads them sees to it.
        let mut tell = |key: &str, part: Part, text: String| {
            let keys = key.split('.').filter(|key| !key.is_empty());
            let why = format!("[settings] {text}");
            all.push(Wrong { part, ..Wrong::new(["settings"].into_iter().chain(keys), why) });
        };
        let mut say = |text: String| tell("", Part::Value, text);
        if self.0.len() > KEYS_MAX {
            say(format!(
                "{} keys are set, and an application may have {KEYS_MAX}: put them into a file \
                 of its own.",
                self.0.len()
            ));
        }
        let bytes = |(key, value): (&String, &Value)| key.len() + value.to_string().len();
        if self.0.iter().map(bytes).sum::<usize>() > BYTES_MAX {
            say("all keys and values are larger than 64 KiB: put what is large into a file of \
                 the application."
                .to_owned());
        }
        let mut variables: BTreeMap<String, &str> = BTreeMap::new();
        for (key, value) in self.0.iter().take(KEYS_MAX) {
            let mut say = |text: String| tell(key, Part::Key, text);
            if let Err(why) = check_key(key) {
                say(why);
                continue;
            }
            check_value(key, value, &mut |text: String| tell(key, Part::Value, text));
            let mut say = |text: String| tell(key, Part::Key, text);
            if let Some(table) = self.table_of(key) {
                say(format!(
                    "{table} is a value, and {key} would be below it: take one of the two out."
                ));
            }
            let name = variable(key);
            if is_reserved(&name) {
                say(format!(
                    "{key} would be given to services as {name}, which the member sets itself: \
                     choose another key."
                ));
            } else if let Some(other) = variables.insert(name, key) {
                let name = variable(key);
                say(format!(
                    "{other} and {key} would both be given to services as {name}: rename one."
                ));
            }
        }
        all
    }

    /// A key that `key` would have to be in the table of, although it is a value.
    pub(super) fn table_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.match_indices('.').map(|(dot, _)| &key[..dot]).find(|table| self.0.contains_key(*table))
    }
}

/// Whether `key`, dots included, can be one. The error is a sentence.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let shown: String = key.chars().take(80).collect();
    if key.len() > KEY_MAX {
        return Err(format!(
            "the key {shown:?} is longer than {KEY_MAX} bytes with its tables: shorten it."
        ));
    }
    key.split('.').try_for_each(check_part).map_err(|why| format!("the key {shown:?} {why}"))?;
    // A variable that begins with a digit can be set and not be read by a shell.
    if key.starts_with(|c: char| !c.is_ascii_alphabetic() && c != '_') {
        return Err(format!("the key {shown:?} has to begin with a letter: choose another."));
    }
    Ok(())
}

/// Whether `part` can stand between the dots of a key.
pub(super) fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("is empty, or has nothing beside a dot: give it a name.");
    }
    if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return Err("has other characters than letters, digits, _ and -: choose another.");
    }
    Ok(())
}

fn check_value(key: &str, value: &Value, say: &mut impl FnMut(String)) {
    if value.to_string().len() > VALUE_MAX {
        say(format!("{key} is longer than 16 KiB: put it into a file of the application."));
    }
    for scalar in value.scalars() {
        match scalar {
            Scalar::Text(text) if text.contains('\0') => {
                say(format!("{key} holds a NUL byte, which can't be: take it out."));
            }
            Scalar::Float(number) if !number.is_finite() => {
                say(format!("{key} is no finite number: write one, or text in quotes."));
            }
            _ => {}
        }
    }
}
