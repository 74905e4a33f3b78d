//! How a stranger becomes a member: token, knock, welcome.
//!
//! The token carries the private half of an invitation key whose public half
//! is in the catalog. The newcomer signs its own key *and* what the TLS
//! handshake exported (RFC 8446, 7.5) with it, so the member that serves it
//! cannot put another key in its place. The cluster proves itself by the chain
//! of rosters from the one that the token names.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    base::{
        ClusterId, MemberId, MemberName, PublicKey, Reason, Refusal, SecretKey, Signature,
        WallTime, wire, wire::Kind,
    },
    proto::catalog::{Anchor, CatchUp, Committed, Lineage, Record},
};

/// What `invite` hands out. Whoever has it can join until it is used up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The catalog is at least this new: an older one is a lie or a leftover.
    pub sequence: u64,
    /// The private half of the invitation key.
    pub seed: [u8; 32],
    /// Not after this.
    pub expires_at: WallTime,
    /// The roster when it was issued: what the newcomer trusts.
    pub anchor: Anchor,
    /// Where members were when it was issued.
    #[serde(deserialize_with = "wire::bounded::<_, _, 16>")]
    pub addresses: Vec<SocketAddr>,
}

const TOKEN_PREFIX: &str = "althing-";

impl Token {
    /// As text: one word that survives copy and paste.
    pub fn to_text(&self) -> String {
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(wire::encode(Kind::Knock, self)))
    }

    /// Reads what [`Token::to_text`] wrote.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bytes = text
            .trim()
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok())
            .and_then(|bytes| wire::decode(Kind::Knock, &bytes).ok());
        bytes.ok_or_else(|| {
            Refusal::new(
                Reason::Invalid,
                "The token can't be read.",
                "It is not a token of `althing invite`, or some of it is missing.",
                "Copy the whole token, or ask for a new one with `althing invite`.",
            )
        })
    }
}

const KNOCK: &str = "althing knock";

/// What a member says at the door to learn whether it is enrolled by the key
/// that it proves to hold. Whoever knows that key hands over the newest catalog.
pub const IS_ENROLLED: &[u8] = b"althing: is this key enrolled?";

/// What a newcomer says at the door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knock {
    /// The public half of the invitation key.
    pub invite: PublicKey,
    /// Over the cluster, the newcomer's key and the exporter.
    pub proof: Signature,
    /// The name that it wants.
    pub name: MemberName,
    /// Where it is reached; an unspecified host stands for "where I come from".
    pub address: SocketAddr,
    /// Tags, for placement.
    pub tags: BTreeMap<String, String>,
    /// Whether it only waits to be brought in.
    pub standby: bool,
    /// The sequence in its token: a member that is behind it does not know
    /// the invitation yet.
    pub sequence: u64,
}

impl Knock {
    /// The knock of a newcomer with `key` in a handshake that exported `exporter`.
    pub fn new(
        token: &Token,
        key: PublicKey,
        exporter: &[u8; 32],
        name: MemberName,
        address: SocketAddr,
        tags: BTreeMap<String, String>,
        standby: bool,
    ) -> Self {
        let invite = SecretKey::from_seed(token.seed);
        let proof = invite.sign(KNOCK, &proven(token.cluster, &key, exporter));
        let (invite, sequence) = (invite.public(), token.sequence);
        Self { invite, proof, name, address, tags, standby, sequence }
    }

    /// Whether the newcomer with `key` holds the invitation's private half.
    pub fn is_proven(&self, cluster: ClusterId, key: &PublicKey, exporter: &[u8; 32]) -> bool {
        self.invite.verify(KNOCK, &proven(cluster, key, exporter), &self.proof)
    }
}

fn proven(cluster: ClusterId, key: &PublicKey, exporter: &[u8; 32]) -> Vec<u8> {
    wire::encode(Kind::Knock, &(cluster, key, exporter))
}

/// The answer to a knock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Come in: this is the cluster.
    Admitted {
        /// The newest catalog, with its proof.
        committed: Box<Committed>,
        /// The changes of the roster up to it.
        lineage: Lineage,
    },
    /// Stay out.
    Refused(Refusal),
}

impl Welcome {
    /// The record that a newcomer starts with, if `server` proved to be a
    /// member of the cluster that the token is for.
    pub fn accept(self, token: &Token, me: MemberId, server: PublicKey) -> Result<Record, Refusal> {
        let (committed, lineage) = match self {
            Self::Admitted { committed, lineage } => (*committed, lineage),
            Self::Refused(refusal) => return Err(refusal),
        };
        let distrust = |why: String| {
            Refusal::new(
                Reason::Forbidden,
                "This member did not join.",
                why,
                "Check the address given with --join; it must be a member of the cluster that \
                 issued the token.",
            )
        };
        lineage.check(token.cluster).map_err(|e| {
            distrust(format!("What answered could not prove to be the token's cluster: {e}."))
        })?;
        if !lineage.has(token.anchor) {
            return Err(distrust(
                "What answered can't show how its members follow from those that the token \
                 names: it is another cluster, or the token is very old."
                    .into(),
            ));
        }
        let catch_up = CatchUp { committed, links: Vec::new() };
        lineage.follow(token.cluster, &catch_up).map_err(|e| {
            distrust(format!("The catalog that was handed over proves nothing: {e}."))
        })?;
        let committed = catch_up.committed;
        let catalog = &committed.catalog;
        if catalog.sequence < token.sequence {
            return Err(distrust(
                "The catalog that was handed over is older than the token.".into(),
            ));
        }
        if catalog.roster.get(MemberId::of(&server)).is_none_or(|m| m.key != server) {
            return Err(distrust("What answered is not a member of the token's cluster.".into()));
        }
        if !catalog.roster.contains(me) {
            return Err(distrust("This member's key is not in the catalog it was handed.".into()));
        }
        Ok(Record::join(me, committed, lineage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn a_token_survives_copy_and_paste_and_nothing_less() {
        let token = Token {
            cluster: ClusterId(Digest::of_bytes(b"c")),
            sequence: 3,
            seed: [5; 32],
            expires_at: WallTime(99),
            anchor: Anchor { sequence: 1, roster: Digest::of_bytes(b"r") },
            addresses: vec!["127.0.0.1:7700".parse().unwrap()],
        };
        let text = token.to_text();
        assert_eq!(Token::parse(&format!(" {text}\n")), Ok(token));
        for bad in ["", "althing-", "x", &text[..text.len() - 4], &text[3..]] {
            assert_eq!(Token::parse(bad).unwrap_err().reason, Reason::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_proof_holds_for_one_key_and_one_handshake() {
        let token = Token {
            cluster: ClusterId(Digest::of_bytes(b"c")),
            sequence: 3,
            seed: [5; 32],
            expires_at: WallTime(99),
            anchor: Anchor { sequence: 1, roster: Digest::of_bytes(b"r") },
            addresses: vec![],
        };
        let key = SecretKey::from_seed([6; 32]).public();
        let name = MemberName::parse("m").unwrap();
        let at = "0.0.0.0:1".parse().unwrap();
        let knock = Knock::new(&token, key, &[1; 32], name, at, BTreeMap::new(), false);
        assert!(knock.is_proven(token.cluster, &key, &[1; 32]));
        assert!(!knock.is_proven(token.cluster, &key, &[2; 32]), "another handshake");
        let other = SecretKey::from_seed([7; 32]).public();
        assert!(!knock.is_proven(token.cluster, &other, &[1; 32]), "another newcomer");
        let elsewhere = ClusterId(Digest::of_bytes(b"d"));
        assert!(!knock.is_proven(elsewhere, &key, &[1; 32]), "another cluster");
    }
}
