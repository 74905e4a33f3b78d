//! The chain of rosters: whose majority counts, provable from any roster that
//! the reader already trusts.
//!
//! A link is one change of the roster: the signed accepts of a majority of the
//! roster before *and* of its own, and the difference between the two. It can
//! be checked without the catalog that made it. Only the last links are kept
//! ([`limits::LINEAGE_BYTES_MAX`]); a reader starts from what it trusts: a
//! member from its own record, a newcomer from the [`Anchor`] in its token.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::certificate::{CatchUp, Certificate, CertificateError, Committed};
use crate::base::{
    ClusterId, Digest, Reason, Refusal,
    catalog::{Catalog, Enrolled, Roster},
    limits,
    planted::{self, Bug},
    wire::{self, Kind},
};

/// One change of the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Signed by a majority of the roster before and of the one after.
    pub certificate: Certificate,
    /// How the one came from the other.
    pub change: RosterChange,
}

impl Link {
    /// About how many bytes it takes where it is kept and sent.
    fn weight(&self) -> usize {
        256 + 100 * self.certificate.accepts.len() + 256 * self.change.newly()
    }
}

/// The difference between two rosters, in the order of the later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterChange {
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    /// So many entries of the roster before, from this place on.
    Kept { from: u32, count: u32 },
    /// An entry that is new, or that changed.
    New(Enrolled),
}

impl RosterChange {
    /// What makes `after` of `before`.
    pub fn between(before: &Roster, after: &Roster) -> Self {
        let mut parts = Vec::new();
        for entry in &after.members {
            let place = before.members.iter().position(|m| m == entry);
            match (place.and_then(|p| u32::try_from(p).ok()), parts.last_mut()) {
                (None, _) => parts.push(Part::New(entry.clone())),
                (Some(place), Some(Part::Kept { from, count })) if *from + *count == place => {
                    *count += 1;
                }
                (Some(from), _) => parts.push(Part::Kept { from, count: 1 }),
            }
        }
        Self { parts }
    }

    /// The roster after the change; `None` if it does not fit `before`, or makes
    /// more than there may be.
    pub fn apply(&self, before: &Roster) -> Option<Roster> {
        let mut members = Vec::new();
        for part in &self.parts {
            match part {
                Part::New(entry) => members.push(entry.clone()),
                Part::Kept { from, count } => {
                    let (from, count) =
                        (usize::try_from(*from).ok()?, usize::try_from(*count).ok()?);
                    members.extend_from_slice(before.members.get(from..from.checked_add(count)?)?);
                }
            }
            if members.len() > limits::MEMBERS_MAX {
                return None;
            }
        }
        Some(Roster { members })
    }

    fn newly(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::New(_))).count()
    }
}

/// A roster that somebody trusts: where a chain may start for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The sequence of the catalog that made it.
    pub sequence: u64,
    /// Its digest.
    pub roster: Digest,
}

/// The last changes of the roster, and the roster before them and after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The roster that the kept links start from, and the catalog that made it.
    base: (u64, Roster),
    links: Links,
    /// What they lead to.
    roster: Roster,
}

/// Oldest first. Shared, because every record that is written holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Links(Arc<Vec<Link>>);

impl Serialize for Links {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Links {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::bounded::<_, _, { limits::LINEAGE_MAX }>(deserializer)
            .map(|links| Self(Arc::new(links)))
    }
}

impl Lineage {
    /// The lineage of a cluster that was just founded.
    pub fn found(genesis: &Catalog) -> Self {
        let roster = genesis.roster.clone();
        Self { base: (genesis.sequence, roster.clone()), links: Links::default(), roster }
    }

    /// Checks every kept link of the cluster. The cost is a signature check for
    /// each voter of each change.
    ///
    /// Errors: it does not follow, or is not signed, from its own base; that
    /// the base is to be trusted is for [`Lineage::has`] to show.
    pub fn check(&self, cluster: ClusterId) -> Result<(), CertificateError> {
        let (sequence, roster) = self.base.clone();
        let base = (sequence, roster.clone());
        let mut chain = Self { base, links: Links::default(), roster };
        for link in self.links.0.iter() {
            chain.extend(cluster, link.clone())?;
        }
        if chain.roster == self.roster { Ok(()) } else { Err(CertificateError::Roster) }
    }

    /// Whether the chain passes through `anchor`, so that whoever trusts that
    /// can trust what comes after it.
    pub fn has(&self, anchor: Anchor) -> bool {
        let (sequence, roster) = &self.base;
        let base = Anchor { sequence: *sequence, roster: roster.digest() };
        let made = self.links.0.iter().map(|link| {
            let header = &link.certificate.header;
            Anchor { sequence: header.sequence, roster: header.roster }
        });
        std::iter::once(base).chain(made).any(|known| known == anchor)
    }

    /// The newest roster, as others may trust it.
    pub fn anchor(&self) -> Anchor {
        Anchor { sequence: self.sequence(), roster: self.roster.digest() }
    }

    /// The roster that the chain leads to.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The kept links of changes made after `sequence`.
    pub fn after(&self, sequence: u64) -> Vec<Link> {
        let later = |link: &&Link| link.certificate.header.sequence > sequence;
        self.links.0.iter().filter(later).cloned().collect()
    }

    /// The sequence of the last change of the roster.
    pub fn sequence(&self) -> u64 {
        self.links.0.last().map_or(self.base.0, |link| link.certificate.header.sequence)
    }

    /// Appends `link` if it follows from the chain, and drops the oldest ones
    /// beyond the bound. Unchanged on error.
    fn extend(&mut self, cluster: ClusterId, link: Link) -> Result<(), CertificateError> {
        let header = &link.certificate.header;
        if header.cluster != cluster {
            return Err(CertificateError::Cluster);
        }
        let after = link.change.apply(&self.roster).ok_or(CertificateError::Roster)?;
        let follows = header.roster_before == Some(self.roster.digest())
            && header.roster == after.digest()
            && header.sequence > self.sequence();
        if !follows {
            return Err(CertificateError::Roster);
        }
        let by_old = link.certificate.is_signed_by_majority(&self.roster)
            || planted::is(Bug::RosterWithoutOldMajority);
        let signed = by_old && link.certificate.is_signed_by_majority(&after);
        if !signed {
            return Err(CertificateError::Majority);
        }
        Arc::make_mut(&mut self.links.0).push(link);
        self.roster = after;
        self.prune();
        Ok(())
    }

    /// Moves the base forward until what is kept is within its bounds.
    fn prune(&mut self) {
        let mut weight: usize = self.links.0.iter().map(Link::weight).sum();
        let mut surplus = 0;
        for link in self.links.0.iter() {
            let kept = self.links.0.len() - surplus;
            if weight <= limits::LINEAGE_BYTES_MAX && kept <= limits::LINEAGE_MAX || kept == 1 {
                break;
            }
            let after = link.change.apply(&self.base.1);
            self.base = (
                link.certificate.header.sequence,
                after.expect("a link was applied to this very roster when it was appended"),
            );
            weight -= link.weight();
            surplus += 1;
        }
        if surplus > 0 {
            Arc::make_mut(&mut self.links.0).drain(..surplus);
        }
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
            let change = RosterChange::between(&lineage.roster, &catalog.roster);
            lineage.extend(cluster, Link { certificate: certificate.clone(), change })?;
        } else if certificate.header.roster != lineage.roster.digest()
            || catalog.sequence < lineage.sequence()
        {
            return Err(CertificateError::Roster);
        } else if !catalog.rosters().all(|roster| certificate.is_signed_by_majority(roster)) {
            return Err(CertificateError::Majority);
        }
        Ok(lineage)
    }
}

/// Whether `next` can be proposed: it must stay within what members can send
/// to each other.
pub(super) fn has_room_for(next: &Catalog) -> Result<(), Refusal> {
    let size = wire::try_encode(Kind::Message, next).map_or(usize::MAX, |bytes| bytes.len());
    if size <= limits::CATALOG_MAX && next.roster.members.len() <= limits::MEMBERS_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Failed,
        "The change was not made.",
        "The catalog would be larger than members can send to each other.",
        "Publish with shorter messages and fewer ignore patterns, or fewer applications.",
    ))
}
