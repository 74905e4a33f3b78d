//! Operators that act over the network: each shows a token, of which the catalog keeps a hash.
//!
//! The token is 32 bytes of the operating system's randomness. Nobody finds such a one by
//! trying, so a fast hash keeps it as well as a slow one would.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Digest, MemberName, OperatorName, WallTime};

const TOKEN_PREFIX: &str = "althing-op-";

/// What an operator shows. It is printed once and kept by nobody but the operator.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorToken([u8; 32]);

impl OperatorToken {
    /// The one with this secret, which has to be random.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// As text: one word that survives copy and paste.
    pub fn to_text(&self) -> String {
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }

    /// Reads what [`Self::to_text`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix(TOKEN_PREFIX)?;
        // Anything longer is none, and is not decoded.
        let bytes = (rest.len() == 43).then(|| URL_SAFE_NO_PAD.decode(rest).ok())??;
        bytes.try_into().ok().map(Self)
    }

    /// What the catalog keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Digest::of("althing operator token", &self.0))
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken")
    }
}

/// The hash of an operator's token. Compared in constant time, and shown nowhere.
#[derive(Clone, Copy, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(Digest);

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        // blake3 compares its hashes in constant time.
        blake3::Hash::from(self.0.0) == blake3::Hash::from(other.0.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// Somebody who may act over the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// By this name events tell of what was done.
    pub name: OperatorName,
    /// Of the token that is shown.
    pub token: TokenHash,
    /// The member that was asked to add the operator.
    pub by: MemberName,
    /// When, by that member's clock.
    pub since: WallTime,
    /// Until when, likewise; for ever if not given.
    pub until: Option<WallTime>,
}

impl Operator {
    /// Whether the token counts for nothing any more at `at`.
    pub fn is_over(&self, at: WallTime) -> bool {
        self.until.is_some_and(|until| until <= at)
    }

    /// For people: a part of a sentence.
    pub fn told(&self) -> String {
        let until = self.until.map_or(String::new(), |until| format!(" until {until}"));
        format!("operator {} may act over the network{until}", self.name)
    }
}

/// Who asked for a change with a token. It is what the member says that was asked, which has seen
/// the token: the others have not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedBy {
    /// Whose token it was.
    pub operator: OperatorName,
    /// The member that was asked.
    pub at: MemberName,
}

impl AskedBy {
    /// For people: a part of a sentence.
    pub fn told(&self) -> String {
        format!("by operator {}, at {}", self.operator, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_copy_and_paste_and_nothing_less() {
        let token = OperatorToken::new([7; 32]);
        let text = token.to_text();
        assert!(text.starts_with("althing-op-") && text.len() == 11 + 43, "{text}");
        assert_eq!(OperatorToken::parse(&format!(" {text}\n")), Some(token));
        let long = format!("{text}A");
        let spaced = text.replacen("op-", "op- ", 1);
        for bad in ["", "althing-op-", &text[11..], &text[..53], &long, &spaced] {
            assert_eq!(OperatorToken::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_of_a_token_is_shown() {
        let token = OperatorToken::new([7; 32]);
        let hash = token.hash();
        let operator = Operator {
            name: OperatorName::parse("alice").unwrap(),
            token: hash,
            by: MemberName::parse("web1").unwrap(),
            since: WallTime(1_000),
            until: Some(WallTime(2_000)),
        };
        let shown = format!("{token:?} {hash:?} {operator:?} {}", operator.told());
        assert!(!shown.contains(&hash.0.short()) && !shown.contains("BwcH"), "{shown}");
        assert_eq!(hash, OperatorToken::new([7; 32]).hash());
        assert_ne!(hash, OperatorToken::new([8; 32]).hash());
        assert_ne!(hash.0, Digest::of_bytes(&[7; 32]), "it has a domain of its own");
        assert!(!operator.is_over(WallTime(1_999)) && operator.is_over(WallTime(2_000)));
        assert!(!Operator { until: None, ..operator }.is_over(WallTime(u64::MAX)));
    }
}
