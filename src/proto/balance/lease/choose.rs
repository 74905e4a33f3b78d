//! Who should hold which address: whoever holds the fewest, and among equals the one
//! whose hash with the address is the highest (rendezvous hashing, Thaler and Ravishankar,
//! 1998). It decides only who tries; what counts is the majority.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::base::{Digest, MemberId};

/// Who may hold each address.
pub type Candidates = BTreeMap<IpAddr, BTreeSet<MemberId>>;

/// What a member sees around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// All addresses that somebody should hold, and who may: live members that hold the
    /// application and are not on standby.
    pub wanted: Candidates,
    /// Whether this member can put addresses on its interfaces.
    pub able: bool,
    /// Whether this member is about to stop or to leave: others are to have what it holds.
    pub leaving: bool,
}

/// How many addresses each member holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread(BTreeMap<MemberId, usize>);

impl Spread {
    pub fn add(&mut self, member: MemberId) {
        *self.0.entry(member).or_default() += 1;
    }

    fn of(&self, member: MemberId) -> usize {
        self.0.get(&member).copied().unwrap_or(0)
    }
}

/// Gives one address after the other away, and counts those along.
pub(super) struct Plan {
    spread: Spread,
    candidates: Candidates,
}

impl Plan {
    pub fn new(spread: Spread, candidates: Candidates) -> Self {
        Self { spread, candidates }
    }

    pub fn may_hold(&self, member: MemberId, address: IpAddr) -> bool {
        self.candidates.get(&address).is_some_and(|all| all.contains(&member))
    }

    /// The best member for a free address, of those that are `fine`.
    pub fn next(&mut self, address: IpAddr, fine: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let best = self.in_order(address).into_iter().find(|member| fine(*member))?;
        self.spread.add(best);
        Some(best)
    }

    /// How many stand before `me` for a free address; none if `me` is no candidate. Who is
    /// `late` stands behind all others.
    pub fn rank(
        &mut self,
        me: MemberId,
        address: IpAddr,
        late: impl Fn(MemberId) -> bool,
    ) -> Option<u32> {
        let mut order = self.in_order(address);
        // A stable sort: among equals the order stays.
        order.sort_by_key(|member| late(*member));
        self.spread.add(*order.first()?);
        order.iter().position(|member| *member == me).and_then(|rank| u32::try_from(rank).ok())
    }

    /// One of `mine` to give away, and to whom, if that makes the spread more even. Only a
    /// difference of two or more is uneven.
    pub fn evener(
        &self,
        me: MemberId,
        mine: impl Iterator<Item = IpAddr>,
        fine: impl Fn(MemberId) -> bool,
    ) -> Option<(IpAddr, MemberId)> {
        let have = self.spread.of(me);
        let pairs = mine.filter_map(|address| {
            let to = self.in_order(address).into_iter().find(|m| *m != me && fine(*m))?;
            Some((address, to))
        });
        let pairs = pairs.filter(|(_, to)| self.spread.of(*to) + 2 <= have);
        pairs.max_by_key(|(address, to)| (have - self.spread.of(*to), weight(*to, *address)))
    }

    fn in_order(&self, address: IpAddr) -> Vec<MemberId> {
        let all = self.candidates.get(&address).into_iter().flatten().copied();
        let mut all: Vec<MemberId> = all.collect();
        all.sort_by_cached_key(|member| {
            (self.spread.of(*member), std::cmp::Reverse(weight(*member, address)))
        });
        all
    }
}

fn weight(member: MemberId, address: IpAddr) -> [u8; 32] {
    let mut bytes = member.0.0.to_vec();
    match address {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
    Digest::of("althing address", &bytes).0
}
