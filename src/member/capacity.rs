//! What members can take beside each other when requests are shared: as many processors as
//! each says that it has, unless its tag `capacity` says otherwise.
//!
//! A member says it to each that becomes live, and to all with its first ballots. One of the
//! release before says nothing and drops the word: it counts as this one does.

use std::collections::BTreeMap;

use crate::base::{
    MemberId,
    catalog::{Catalog, Enrolled, capacity_tag},
};

/// Ballots with which a member that starts says it to all: one may be lost.
const SAID_MAX: u8 = 3;

/// Who has said what.
#[derive(Debug)]
pub(super) struct Capacities {
    own: u16,
    said: u8,
    theirs: BTreeMap<MemberId, u16>,
}

impl Capacities {
    /// `own` is this member's, from 1.
    pub fn new(own: u16) -> Self {
        Self { own: own.max(1), said: 0, theirs: BTreeMap::new() }
    }

    /// What it says of itself.
    pub fn own(&self) -> u16 {
        self.own
    }

    /// Whether it goes out with this ballot to all.
    pub fn is_due(&mut self) -> bool {
        let due = self.said < SAID_MAX;
        self.said += u8::from(due);
        due
    }

    /// `from` says it of itself.
    pub fn heard(&mut self, from: MemberId, capacity: u16) {
        self.theirs.insert(from, capacity.max(1));
    }

    /// What `member` can take; `me` is this one.
    pub fn of(&self, me: MemberId, member: &Enrolled) -> u16 {
        let said = self.theirs.get(&member.id).filter(|_| member.id != me);
        capacity_tag(&member.tags).unwrap_or_else(|| said.copied().unwrap_or(self.own))
    }

    /// Forgets everybody who is not enrolled.
    pub fn retain(&mut self, catalog: &Catalog) {
        self.theirs.retain(|member, _| catalog.roster.contains(*member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use crate::base::{MemberName, SecretKey};

    fn enrolled(n: u8) -> Enrolled {
        let key = SecretKey::from_seed([n; 32]);
        Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse(&format!("server{n}")).unwrap(),
            address: SocketAddr::from(([10, 0, 0, n], 7700)),
            tags: BTreeMap::new(),
            voter: true,
            standby: false,
        }
    }

    #[test]
    fn a_tag_counts_more_than_what_a_member_says() {
        let (me, mut other) = (enrolled(1), enrolled(2));
        let mut capacities = Capacities::new(4);
        assert_eq!((capacities.of(me.id, &me), capacities.of(me.id, &other)), (4, 4));
        capacities.heard(other.id, 16);
        assert_eq!(capacities.of(me.id, &other), 16);
        other.tags.insert("capacity".to_owned(), "2".to_owned());
        assert_eq!(capacities.of(me.id, &other), 2);
        // What is none, as an older catalog may have it, says nothing.
        other.tags.insert("capacity".to_owned(), "large".to_owned());
        assert_eq!(capacities.of(me.id, &other), 16);
        let said: Vec<bool> = (0..4).map(|_| capacities.is_due()).collect();
        assert_eq!(said, [true, true, true, false]);
    }
}
