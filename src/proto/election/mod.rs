//! Who should preside: the first live voter of the failover list, which is
//! the order of the roster.
//!
//! This only chooses who tries, so that members seldom duel. Nothing becomes
//! right because of it: what counts is decided by the register.

use crate::base::{MemberId, catalog::Roster};

/// The first voter of `roster` that is live in the caller's view.
pub fn presider(roster: &Roster, live: impl Fn(MemberId) -> bool) -> Option<MemberId> {
    roster.voters().map(|m| m.id).find(|id| live(*id))
}

/// How many voters are live in the caller's view, and how many are needed.
/// For telling the user early that nothing can be committed; the register
/// itself counts answers and not views.
pub fn quorum_in_view(roster: &Roster, live: impl Fn(MemberId) -> bool) -> (usize, usize) {
    (roster.voters().filter(|m| live(m.id)).count(), roster.majority())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::{MemberName, SecretKey, catalog::Enrolled};

    #[test]
    fn the_first_live_voter_presides() {
        let member = |seed: u8, voter| {
            let key = SecretKey::from_seed([seed; 32]).public();
            Enrolled {
                id: MemberId::of(&key),
                key,
                name: MemberName::parse(&format!("m{seed}")).unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                tags: BTreeMap::new(),
                voter,
                standby: false,
            }
        };
        let roster = Roster { members: vec![member(1, true), member(2, false), member(3, true)] };
        let id = |n: usize| roster.members[n].id;
        assert_eq!(presider(&roster, |_| true), Some(id(0)));
        assert_eq!(presider(&roster, |m| m != id(0)), Some(id(2)), "one without a vote is passed");
        assert_eq!(presider(&roster, |_| false), None);
        assert_eq!(quorum_in_view(&roster, |m| m == id(0)), (1, 2));
    }
}
