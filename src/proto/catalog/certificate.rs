//! Proof that a catalog was committed: the signed accepts of a majority, and
//! the chain of rosters that says whose majority counts.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::{
    ClusterId, Digest, MemberId, Reason, Refusal, SecretKey, Signature,
    catalog::{Catalog, Header, Roster, cluster_id},
    limits,
    planted::{self, Bug},
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
    fn is_signed_by_majority(&self, roster: &Roster) -> bool {
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

/// One change of the roster, provable without the catalog that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Signed by a majority of `roster` and of the one before.
    pub certificate: Certificate,
    /// The roster from here on.
    pub roster: Roster,
}

/// Every roster that the cluster ever had, from the one that its id is the
/// digest of. It lets a newcomer, or a member that was away for long, check a
/// catalog without trusting who brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    nonce: [u8; 32],
    /// Shared: every record that is written has it, and it hardly ever changes.
    #[serde(serialize_with = "as_list", deserialize_with = "links")]
    links: Arc<Vec<Link>>,
}

fn as_list<S: Serializer>(links: &Arc<Vec<Link>>, serializer: S) -> Result<S::Ok, S::Error> {
    links.serialize(serializer)
}

fn links<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Vec<Link>>, D::Error> {
    wire::bounded::<_, Link, { limits::LINEAGE_MAX }>(deserializer).map(Arc::new)
}

impl Lineage {
    /// The lineage of a cluster that was just founded.
    pub fn found(nonce: [u8; 32], genesis: &Committed) -> Self {
        let certificate = genesis.certificate.clone();
        let link = Link { certificate, roster: genesis.catalog.roster.clone() };
        Self { nonce, links: Arc::new(vec![link]) }
    }

    /// Checks the whole chain against the id of the cluster. The cost is a
    /// signature check for each voter of each change.
    pub fn check(&self, cluster: ClusterId) -> Result<(), CertificateError> {
        let Some((genesis, changes)) = self.links.split_first() else {
            return Err(CertificateError::Roster);
        };
        if cluster_id(&self.nonce, &genesis.roster) != cluster {
            return Err(CertificateError::Cluster);
        }
        let mut chain = Self { nonce: self.nonce, links: Arc::new(vec![genesis.clone()]) };
        changes.iter().try_for_each(|link| chain.extend(cluster, link.clone()))
    }

    /// The roster that the chain leads to.
    pub fn roster(&self) -> &Roster {
        &self.links.last().expect("a lineage starts with its genesis: made so, checked so").roster
    }

    /// The links of changes made after `sequence`.
    pub fn after(&self, sequence: u64) -> Vec<Link> {
        self.links
            .iter()
            .filter(|link| link.certificate.header.sequence > sequence)
            .cloned()
            .collect()
    }

    /// The sequence of the last change of the roster.
    pub fn sequence(&self) -> u64 {
        self.links.last().map_or(0, |link| link.certificate.header.sequence)
    }

    /// Appends `link` if it follows from the chain. Unchanged on error.
    pub fn extend(&mut self, cluster: ClusterId, link: Link) -> Result<(), CertificateError> {
        let header = &link.certificate.header;
        if header.cluster != cluster {
            return Err(CertificateError::Cluster);
        }
        let follows = header.roster_before == Some(self.roster().digest())
            && header.roster == link.roster.digest()
            && header.sequence > self.sequence();
        if !follows {
            return Err(CertificateError::Roster);
        }
        let by_old = link.certificate.is_signed_by_majority(self.roster())
            || planted::is(Bug::RosterWithoutOldMajority);
        let signed = by_old && link.certificate.is_signed_by_majority(&link.roster);
        if !signed {
            return Err(CertificateError::Majority);
        }
        Arc::make_mut(&mut self.links).push(link);
        Ok(())
    }

    /// Whether `next` can be proposed after this lineage: it and what it adds
    /// must stay within what can be sent and read again.
    pub fn has_room_for(&self, next: &Catalog) -> Result<(), Refusal> {
        let size = |bytes: Result<Vec<u8>, _>| bytes.map_or(usize::MAX, |b: Vec<u8>| b.len());
        let refuse = |what: &str, todo: &str| {
            Err(Refusal::new(
                Reason::Failed,
                "The change was not made.",
                format!("{what} would be larger than members can send to each other."),
                todo,
            ))
        };
        if size(wire::try_encode(Kind::Message, next)) > limits::CATALOG_MAX {
            return refuse(
                "The catalog",
                "Publish with shorter messages and fewer ignore patterns, or fewer applications.",
            );
        }
        let roster = next.roster_before.is_some();
        let lineage = size(wire::try_encode(Kind::Message, self));
        let link = size(wire::try_encode(Kind::Message, &next.roster)) * 2;
        if roster
            && (lineage.saturating_add(link) > limits::CATALOG_MAX
                || self.links.len() >= limits::LINEAGE_MAX)
        {
            return refuse(
                "The history of the cluster's rosters",
                "This version of Althing keeps every roster that there ever was: found a new \
                 cluster and publish there.",
            );
        }
        Ok(())
    }

    /// Takes in what `catch_up` proves and returns the lineage that leads to
    /// its catalog. `self` is unchanged.
    pub fn follow(&self, cluster: ClusterId, catch_up: &CatchUp) -> Result<Self, CertificateError> {
        let mut lineage = self.clone();
        for link in &catch_up.links {
            if link.certificate.header.sequence > lineage.sequence() {
                lineage.extend(cluster, link.clone())?;
            }
        }
        let Committed { catalog, certificate } = &catch_up.committed;
        if catalog.cluster != cluster {
            return Err(CertificateError::Cluster);
        }
        if catalog.header() != certificate.header {
            return Err(CertificateError::Content);
        }
        if catalog.roster_before.is_some() && catalog.sequence > lineage.sequence() {
            let link = Link { certificate: certificate.clone(), roster: catalog.roster.clone() };
            lineage.extend(cluster, link)?;
        } else if certificate.header.roster != lineage.roster().digest()
            || catalog.sequence < lineage.sequence()
        {
            return Err(CertificateError::Roster);
        } else if !catalog.rosters().all(|roster| certificate.is_signed_by_majority(roster)) {
            return Err(CertificateError::Majority);
        }
        Ok(lineage)
    }
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
