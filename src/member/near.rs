//! Who is near: asked first when content is fetched, so that about one copy of it goes to each
//! place.

use std::{cell::OnceCell, time::Duration};

use crate::{
    base::{MemberId, catalog::Catalog},
    proto::membership::Membership,
};

/// A round trip of so much is near, whatever the others have: it stays within a city.
const NEAR: Duration = Duration::from_millis(5);
/// And so is one of so many times the shortest: where all are far apart, nobody is farther. While
/// links are full of content, all round trips are longer.
const NEAR_TIMES: u32 = 4;

/// The distances from one member to the live ones.
pub(super) struct Around<'a> {
    membership: &'a Membership,
    catalog: &'a Catalog,
    me: MemberId,
    /// Looked for once, and only where somebody asks.
    limit: OnceCell<Option<Duration>>,
}

impl<'a> Around<'a> {
    pub fn new(membership: &'a Membership, catalog: &'a Catalog, me: MemberId) -> Self {
        Self { membership, catalog, me, limit: OnceCell::new() }
    }

    /// Whether `member` is far, as others are not. Of whom nothing was measured is near.
    pub fn is_far(&self, member: MemberId) -> bool {
        let away = |other| self.membership.round_trip(self.me, other);
        let limit = self.limit.get_or_init(|| {
            let members = self.catalog.roster.members.iter().map(|m| m.id);
            let others = members.filter(|id| *id != self.me && self.membership.is_live(*id));
            limit(others.filter_map(away))
        });
        limit.is_some_and(|limit| away(member) > Some(limit))
    }
}

/// The longest round trip that is near, where to all others they take so long; none where none is
/// known.
fn limit(round_trips: impl IntoIterator<Item = Duration>) -> Option<Duration> {
    Some(round_trips.into_iter().min()?.saturating_mul(NEAR_TIMES).max(NEAR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_depends_on_the_nearest() {
        let limit_of = |ms: &[u64]| limit(ms.iter().map(|ms| Duration::from_millis(*ms)));
        assert_eq!(limit_of(&[]), None);
        assert_eq!(limit_of(&[40, 1, 90]), Some(NEAR));
        assert_eq!(limit_of(&[40, 30, 90]), Some(Duration::from_millis(120)));
    }
}
