//! Who and what: members, clusters, applications.

use std::fmt;

use serde::{Deserialize, Serialize, de};

use super::{Digest, PublicKey};

/// The identity of a member: the BLAKE3 hash of its public key. It survives
/// restarts and changes of address, and can't be claimed without the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub Digest);

impl MemberId {
    /// The id that belongs to `key`.
    pub fn of(key: &PublicKey) -> Self {
        Self(Digest::of("althing member", &key.0))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

/// The identity of a cluster: the digest of its first roster and a nonce.
/// It is in every token, and the chain of roster changes is checked against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Digest);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:literal, $what:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The longest name, in bytes; 63 is a DNS label.
            pub const LENGTH_MAX: usize = $max;

            /// Checks a name. The error is a sentence for the user.
            pub fn parse(text: &str) -> Result<Self, String> {
                let allowed: fn(char) -> bool = $allowed;
                let fine = !text.is_empty()
                    && text.len() <= Self::LENGTH_MAX
                    && text.chars().all(allowed)
                    && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && text.ends_with(|c: char| c.is_ascii_alphanumeric());
                if fine {
                    Ok(Self(text.to_owned()))
                } else {
                    let shown: String = text.chars().take(80).collect();
                    Err(format!(concat!("{:?} is no name for ", $what, ": ", $rule), shown))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of an application. It becomes a directory name, so it holds
    /// nothing that a path could be built from.
    AppName,
    63,
    "an application",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
);

name!(
    /// The name of a member, unique within its cluster; the host name by default.
    MemberName,
    63,
    "a member",
    |c| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_',
    "use 1 to 63 letters, digits, hyphens, dots and underscores, with a letter or digit at both ends"
);

name!(
    /// The name of a service, unique within its application. It becomes part
    /// of a file name, so it holds nothing that a path could be built from.
    ServiceName,
    40,
    "a service",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "use 1 to 40 lower-case letters, digits and hyphens, with a letter or digit at both ends"
);

name!(
    /// The name of a secret, unique within its application. It becomes a
    /// variable of a service's environment: upper case, `_` for hyphens.
    SecretName,
    40,
    "a secret",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "use 1 to 40 lower-case letters, digits and hyphens, with a letter or digit at both ends"
);

name!(
    /// The name of a rule, unique within its application.
    RuleName,
    64,
    "a rule",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "use 1 to 64 lower-case letters, digits and hyphens, with a letter or digit at both ends"
);

name!(
    /// The name of somebody who may act over the network: events tell by it who did what.
    OperatorName,
    40,
    "an operator",
    |c| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_',
    "use 1 to 40 letters, digits, hyphens, dots and underscores, with a letter or digit at both ends"
);

name!(
    /// The name by which the rules of an application tell somebody: by mail, or by a request.
    ContactName,
    64,
    "who is told",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "use 1 to 64 lower-case letters, digits and hyphens, with a letter or digit at both ends"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "A", "a b", "ä", &"a".repeat(64)] {
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AppName::parse("web-2").is_ok());
        assert!(ServiceName::parse(&"a".repeat(41)).is_err());
        assert!(ServiceName::parse(&"a".repeat(40)).is_ok());
        assert!(MemberName::parse("Server-1.example.org").is_ok());
        assert!(MemberName::parse("..").is_err());
        assert!(OperatorName::parse("alice.b").is_ok());
        assert!(OperatorName::parse("alice b").is_err());
    }
}
