//! F3, secrets: what an application's services must know and nobody else may:
//! passwords, tokens, keys.
//!
//! [`Secrets`] are names with values; [`Sealed`] is the document that travels
//! with a version: the names in the clear, the values sealed so that only the
//! members named in it can open them, each with the key that it has anyway.
//! Nothing here touches a disk or decides for whom to seal.
//!
//! **Invariant:** a value leaves a [`Secret`] only through [`Secret::expose`].
//! No type here prints, serialises or compares it in a way that tells of it,
//! and no error quotes what was read.
//!
//! Ideas: age (one file for many recipients), SOPS (names that can be read and
//! compared beside values that can't), libsodium (one key pair for signing and
//! sealing).

use std::{collections::BTreeMap, fmt};

use zeroize::Zeroizing;

use super::variable::{is_reserved, variable};
use crate::base::{MemberId, SecretName};

mod keys;
mod packed;
mod sealed;
#[cfg(test)]
mod tests;

pub use sealed::{DOCUMENT_MAX, RECIPIENTS_MAX, Sealed};

/// Secrets of one application.
pub const SECRETS_MAX: usize = 100;
/// Length of one value, bytes.
pub const VALUE_MAX: usize = 16 << 10;

/// A value that nobody may see. Its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a value of 1 byte to 16 KiB without NUL bytes. The error is a
    /// sentence that does not quote it; then too its memory is wiped.
    pub fn new(value: String) -> Result<Self, &'static str> {
        let value = Zeroizing::new(value);
        if value.is_empty() {
            return Err("The value is empty: give one, or take the secret out.");
        }
        if value.len() > VALUE_MAX {
            return Err("The value is longer than 16 KiB: a secret is a password or a key; put \
                        the key of what is larger here.");
        }
        if value.contains('\0') {
            return Err("The value holds a NUL byte, which no program can be given: take it out, \
                        or encode it as text.");
        }
        Ok(Self(value))
    }

    /// The value itself: for the environment of a service, for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The secrets of one application, opened: at most [`SECRETS_MAX`], each with
/// a name that can be a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<SecretName, Secret>);

impl Secrets {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name`, whatever it was before. On an error nothing is changed.
    pub fn insert(&mut self, name: SecretName, secret: Secret) -> Result<(), SecretsError> {
        check_name(&name).map_err(SecretsError::Name)?;
        if self.0.len() >= SECRETS_MAX && !self.0.contains_key(&name) {
            return Err(SecretsError::TooMany);
        }
        self.0.insert(name, secret);
        Ok(())
    }

    /// Takes `name` out. Whether it was there.
    pub fn remove(&mut self, name: &SecretName) -> bool {
        self.0.remove(name).is_some()
    }

    /// The secret of that name.
    pub fn get(&self, name: &SecretName) -> Option<&Secret> {
        self.0.get(name)
    }

    /// All names, in their order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &SecretName> + DoubleEndedIterator {
        self.0.keys()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SecretName, &Secret)> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The variable by which a service is given the secret: `db-password` as
/// `DB_PASSWORD`. No two names give one variable.
pub fn env_name(name: &SecretName) -> String {
    variable(name.as_str())
}

/// Whether a secret may have this name. The error is a sentence.
pub fn check_name(name: &SecretName) -> Result<(), String> {
    let variable = env_name(name);
    if is_reserved(&variable) {
        return Err(format!(
            "The secret {name} would be given to services as {variable}, which the member sets \
             itself: choose another name."
        ));
    }
    if variable.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "The secret {name} would be given to services as {variable}, which shells can't \
             read, because it begins with a digit: choose another name."
        ));
    }
    Ok(())
}

/// Lines of a secret that are shorter than this many bytes are left where they are found: they
/// may as well be a part of some other word.
const HIDDEN_MIN: usize = 4;

/// `text` without what can be recognised in it of `secrets`: for what is told to more eyes than
/// those of whoever printed it.
pub(in crate::driver) fn hide(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for part in secrets.iter().flat_map(|secret| secret.expose().lines()) {
        if part.len() >= HIDDEN_MIN {
            text = text.replace(part, "[secret]");
        }
    }
    text
}

/// Why secrets can't be kept, sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// A name that is none for a secret; the whole sentence.
    #[error("{0}")]
    Name(String),
    /// More than [`SECRETS_MAX`].
    #[error("an application may have {SECRETS_MAX} secrets; take one out first")]
    TooMany,
    /// No member to seal for.
    #[error("no member holds the application, so there is nobody to seal its secrets for")]
    Nobody,
    /// More than [`RECIPIENTS_MAX`] members.
    #[error("secrets can be sealed for {RECIPIENTS_MAX} members; place the application on fewer")]
    TooManyMembers,
    /// The document would be larger than [`DOCUMENT_MAX`].
    #[error("the sealed secrets are larger than 4 MiB; have fewer or shorter ones")]
    TooLarge,
    /// A member with a key that is not its own, or that nothing can be sealed for.
    #[error("nothing can be sealed for the key of member {0}; remove the member from the roster")]
    Key(MemberId),
    /// The member is not among those that the document names.
    #[error(
        "the secrets are not sealed for member {0}: it joined, or changed its key, after they \
         were; set any of them again on a member that can open them"
    )]
    NotFor(MemberId),
    /// The text is no document of secrets.
    #[error(
        "the sealed secrets can't be read, and the mistake is in line {line}; set them again, or \
         roll back to a version that had them"
    )]
    Document {
        /// Where, from 1 on.
        line: usize,
    },
    /// The document is one, and what is sealed in it is not what it should be.
    #[error(
        "the sealed secrets are damaged ({0}); set them again, or roll back to a version that \
         had them"
    )]
    Damaged(&'static str),
}
