//! A member gets a new key. Its id is the hash of its key, so for the cluster
//! that is one member less and another one more, in one step: same name,
//! address, tags and place in the failover list, but no vote, because the new
//! id has promised nothing. It asks for it as any newcomer does.
//!
//! Both keys sign the change: the old one, because nobody else may speak for
//! the member; the new one, because nobody may enrol a key that it does not
//! hold. They sign the catalog's sequence as well, so that a change that was
//! not made can't be made later, by anybody: once a newer catalog is committed
//! it is known whether the next key is of any use.

use serde::{Deserialize, Serialize};

use super::not_enrolled;
use crate::base::{
    ClusterId, MemberId, PublicKey, Reason, Refusal, SecretKey, Signature,
    catalog::{Catalog, Roster},
    wire::{self, Kind},
};

const ROTATE: &str = "althing rotate key";
const WHAT: &str = "The key was not changed.";

/// A member's next key, signed by both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Whose key.
    pub member: MemberId,
    /// What it is to be.
    pub key: PublicKey,
    /// The sequence of the catalog that it is made against; against another one it is refused.
    pub sequence: u64,
    by_old: Signature,
    by_new: Signature,
}

impl Rotation {
    /// The holder of `old` in `cluster` takes `new`.
    pub fn new(cluster: ClusterId, sequence: u64, old: &SecretKey, new: &SecretKey) -> Self {
        let (member, key) = (old.member(), new.public());
        let bytes = signed(cluster, member, MemberId::of(&key), sequence);
        let (by_old, by_new) = (old.sign(ROTATE, &bytes), new.sign(ROTATE, &bytes));
        Self { member, key, sequence, by_old, by_new }
    }

    fn is_proven(&self, cluster: ClusterId, old: &PublicKey) -> bool {
        let bytes = signed(cluster, self.member, MemberId::of(&self.key), self.sequence);
        old.verify(ROTATE, &bytes, &self.by_old) && self.key.verify(ROTATE, &bytes, &self.by_new)
    }
}

fn signed(cluster: ClusterId, old: MemberId, new: MemberId, sequence: u64) -> Vec<u8> {
    wire::encode(Kind::Message, &(cluster, old, new, sequence))
}

pub(super) fn rotate(next: &mut Catalog, rotation: &Rotation) -> Result<bool, Refusal> {
    let to = MemberId::of(&rotation.key);
    if next.roster.contains(to) && !next.roster.contains(rotation.member) {
        return Ok(false);
    }
    let entry = next.roster.get(rotation.member).ok_or_else(|| not_enrolled(WHAT))?;
    if next.roster.contains(to) || !rotation.is_proven(next.cluster, &entry.key) {
        return Err(Refusal::new(
            Reason::Forbidden,
            WHAT,
            "It is not signed by both the key that the member has and the one that it is to have.",
            "Run `althing rotate-key` on the member itself.",
        ));
    }
    if rotation.sequence != next.sequence {
        return Err(Refusal::new(
            Reason::Conflict,
            WHAT,
            "Something else was changed in the catalog meanwhile.",
            "Try again.",
        ));
    }
    allowed(next, rotation.member)?;
    for entry in next.roster.members.iter_mut().filter(|m| m.id == rotation.member) {
        (entry.id, entry.key, entry.voter) = (to, rotation.key, false);
    }
    next.conduct.rename(rotation.member, to);
    Ok(true)
}

/// Whether `member` may have a new key now. The refusal says what stands in the way.
pub(in crate::member) fn allowed(catalog: &Catalog, member: MemberId) -> Result<(), Refusal> {
    let refuse = |reason, why: String, todo: &str| Err(Refusal::new(reason, WHAT, why, todo));
    let of_it =
        |w: &&crate::base::catalog::Window| w.coordinator == member || w.opened_by == member;
    if let Some(window) = catalog.window.as_ref().filter(of_it) {
        return refuse(
            Reason::Busy,
            format!(
                "This member presides over window {}, or opened it, and with another key it would \
                 be another member.",
                window.id
            ),
            "Wait until the window is closed (`althing window`), or close it, and try again.",
        );
    }
    let (voters, members) = (voters_without(&catalog.roster, member), catalog.roster.members.len());
    if voters == 0 {
        return refuse(
            Reason::Invalid,
            "This member is the only one with a vote. With a new key it has to get its vote from \
             others, and there is nobody."
                .to_owned(),
            "Join a second member, and wait until it has its vote.",
        );
    }
    if voters * 2 < members {
        return refuse(
            Reason::Busy,
            format!(
                "Until it has its vote again, only {voters} of {members} members would have one, \
                 and the cluster would stand or fall with them."
            ),
            "Wait until the others have their vote (`althing members`), and try again; remove \
             those that never will.",
        );
    }
    Ok(())
}

/// How many have a vote while `member` has none.
pub(in crate::member) fn voters_without(roster: &Roster, member: MemberId) -> usize {
    roster.voters().filter(|m| m.id != member).count()
}
