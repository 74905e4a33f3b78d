//! Evidence that a proposer told two things: two catalogs at one ballot number.
//!
//! A number belongs to one proposer, which uses it for one catalog and has it on disk before
//! anybody hears it. So two catalogs at one number say that the proposer is broken (it runs
//! twice, or was started from an old copy of its disk) or lies. The register tolerates members that
//! crash, and none that lie: here a lie is found and told, not made good.
//!
//! What proves it to somebody else are signatures that there are anyway: those of the voters
//! under what they accepted, the proposer's own among them where it has a vote. A proposal itself
//! is not signed; that a proposer has said something is, without an accept, the word of whoever
//! heard it.

use serde::{Deserialize, Serialize};

use super::certificate::{BallotNumber, Certificate, verify_accept};
use crate::base::{
    ClusterId, Digest, MemberId, Signature,
    catalog::{Catalog, Header, Roster},
    limits, wire,
};

/// In which way a member came to know a catalog at a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Heard {
    /// The proposer asked to accept it, over a connection that proves its key.
    Proposed,
    /// It came as committed, with the signatures of a majority, which were checked.
    Committed,
    /// A voter says that it has accepted it: its word, without a signature.
    Reported,
}

/// One of the two things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Which catalog: its digest is what is signed.
    pub header: Header,
    /// How it is known.
    pub heard: Heard,
    /// Who said it: the proposer, who brought the committed one, or the voter. Whoever tells
    /// of the lie, where it held the committed one already.
    pub from: MemberId,
    /// Who accepted it, each with its signature: at most
    /// [`EVIDENCE_ACCEPTS_MAX`](limits::EVIDENCE_ACCEPTS_MAX), the proposer first if it has.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::EVIDENCE_ACCEPTS_MAX }>")]
    pub accepts: Vec<(MemberId, Signature)>,
}

impl Statement {
    /// That `catalog` is the one, by the word of `from`.
    pub(super) fn unsigned(catalog: &Catalog, heard: Heard, from: MemberId) -> Self {
        Self { header: catalog.header(), heard, from, accepts: Vec::new() }
    }

    /// What `certificate` says, which `from` has brought.
    pub(super) fn committed(certificate: &Certificate, from: MemberId) -> Self {
        let proposer = certificate.ballot.proposer;
        let mut accepts = certificate.accepts.clone();
        accepts.sort_by_key(|(voter, _)| (*voter != proposer, *voter));
        accepts.truncate(limits::EVIDENCE_ACCEPTS_MAX);
        Self { header: certificate.header, heard: Heard::Committed, from, accepts }
    }

    /// The digest of the catalog.
    pub fn digest(&self) -> Digest {
        self.header.digest()
    }
}

/// Two catalogs at one ballot number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// At which number. Its proposer is the one that told two things.
    pub ballot: BallotNumber,
    /// Who has found it.
    pub told_by: MemberId,
    /// What was known first.
    pub one: Statement,
    /// What came then.
    pub other: Statement,
}

impl Evidence {
    /// Who told two things.
    pub fn proposer(&self) -> MemberId {
        self.ballot.proposer
    }

    /// Those whose mere word it needs: where there are some, it may be they who lie.
    pub fn rests_on(&self) -> Vec<MemberId> {
        let statements = [&self.one, &self.other];
        statements.into_iter().filter(|s| s.heard == Heard::Reported).map(|s| s.from).collect()
    }
}

/// What evidence is worth to somebody who trusts nobody's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The proposer signed both, so it lies or is broken.
    Signer(MemberId),
    /// Voters have signed each: the proposer lied, or all of those who signed one of the two. One
    /// that signed both proves no more: an acceptor that has learnt that the first is decided
    /// forgets it, and may be asked for the second by a proposer that lies.
    Voters,
    /// At least one of the two is signed by nobody: it is the word of whoever tells of it.
    Word,
}

/// Why evidence is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// There is one catalog and not two.
    #[error("both statements name the same catalog")]
    Same,
    /// Members keep their keys where a cluster is recovered, and its numbers begin anew.
    #[error("it is about another cluster")]
    Cluster,
    /// A signature is not that of the member, or the roster does not know the member.
    #[error("the signature of {0} does not hold")]
    Signature(MemberId),
}

/// What `evidence` proves by itself, to somebody who knows `cluster` and the keys in `roster`.
///
/// # Errors
/// If it is no contradiction in that cluster, or any signature in it does not hold.
pub fn verify_evidence(
    evidence: &Evidence,
    cluster: ClusterId,
    roster: &Roster,
) -> Result<Proof, EvidenceError> {
    let Evidence { ballot, one, other, .. } = evidence;
    if one.header == other.header {
        return Err(EvidenceError::Same);
    }
    if [one, other].into_iter().any(|statement| statement.header.cluster != cluster) {
        return Err(EvidenceError::Cluster);
    }
    for statement in [one, other] {
        let digest = statement.digest();
        for (voter, signature) in &statement.accepts {
            if !verify_accept(roster, *voter, *ballot, digest, signature) {
                return Err(EvidenceError::Signature(*voter));
            }
        }
    }
    let by_proposer = |(voter, _): &(MemberId, Signature)| *voter == ballot.proposer;
    let is_signed = |statement: &&Statement| statement.accepts.iter().any(by_proposer);
    Ok(if [one, other].iter().all(is_signed) {
        Proof::Signer(ballot.proposer)
    } else if one.accepts.is_empty() || other.accepts.is_empty() {
        Proof::Word
    } else {
        Proof::Voters
    })
}
