//! Proof that a catalog was committed: the signed accepts of a majority. Whose
//! majority counts, the chain of rosters says: `lineage`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::lineage::Link;
use crate::base::{
    Digest, MemberId, SecretKey, Signature,
    catalog::{Catalog, Header, Roster},
    limits,
    wire::{self, Kind},
};

/// (round, proposer): no two proposers ever use the same one, and a proposer
/// never uses one twice because its round is on disk before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BallotNumber {
    /// Higher wins.
    pub round: u64,
    /// Who asks; decides between equal rounds.
    pub proposer: MemberId,
}

const ACCEPT: &str = "althing accept";

/// A voter's signature under "I accepted the catalog with this digest at this ballot".
pub(super) fn sign_accept(key: &SecretKey, ballot: BallotNumber, digest: Digest) -> Signature {
    key.sign(ACCEPT, &wire::encode(Kind::Message, &(ballot, digest)))
}

/// Whether `signature` is what [`sign_accept`] gives for the voter in `roster`.
pub(super) fn verify_accept(
    roster: &Roster,
    voter: MemberId,
    ballot: BallotNumber,
    digest: Digest,
    signature: &Signature,
) -> bool {
    let bytes = wire::encode(Kind::Message, &(ballot, digest));
    roster.get(voter).is_some_and(|m| m.key.verify(ACCEPT, &bytes, signature))
}

/// The signed accepts of one catalog at one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Of which catalog.
    pub header: Header,
    /// At which ballot.
    pub ballot: BallotNumber,
    /// Who accepted, each with its signature.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    pub accepts: Vec<(MemberId, Signature)>,
}

/// Why a certificate or a lineage proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Of another cluster.
    #[error("it belongs to another cluster")]
    Cluster,
    /// The catalog is not the one that was signed.
    #[error("the catalog is not the one that was signed")]
    Content,
    /// The roster is not the one that the chain leads to.
    #[error("its roster does not follow from the rosters known before")]
    Roster,
    /// Not signed by a majority of every roster that it needs.
    #[error("less than a majority has signed it")]
    Majority,
}

impl Certificate {
    /// Whether voters of `roster` with a majority have signed.
    pub(super) fn is_signed_by_majority(&self, roster: &Roster) -> bool {
        let digest = self.header.digest();
        let signers: BTreeSet<MemberId> = self
            .accepts
            .iter()
            .filter(|(voter, signature)| {
                verify_accept(roster, *voter, self.ballot, digest, signature)
            })
            .map(|(voter, _)| *voter)
            .collect();
        roster.is_majority(&signers)
    }
}

/// A catalog with the proof that it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The catalog.
    pub catalog: Catalog,
    /// The proof.
    pub certificate: Certificate,
}

/// What brings a member that is behind up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// The newest committed catalog.
    pub committed: Committed,
    /// The roster changes that the receiver may lack.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LINEAGE_MAX }>")]
    pub links: Vec<Link>,
}
