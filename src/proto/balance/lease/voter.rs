//! The voter: what it grants to whom, and until when. It keeps nothing on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{GRANT, message::Want};
use crate::base::{Digest, MemberId, Time, limits};

/// What a voter has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub to: MemberId,
    /// The newest question of that member that was granted.
    round: u64,
    pub until: Time,
    /// Whose it was, with its question and until when: that one has consented, and may hold
    /// the address as well for as long.
    before: Option<(MemberId, u64, Time)>,
}

/// What one voter knows.
#[derive(Debug)]
pub(super) struct Voter {
    me: MemberId,
    /// Which voters are meant.
    pub digest: Digest,
    /// Who they are.
    pub members: BTreeSet<MemberId>,
    /// No grant is begun before.
    pub mute_until: Time,
    pub grants: BTreeMap<IpAddr, Grant>,
    /// Who let an address lapse last.
    pub lapsed: BTreeMap<IpAddr, MemberId>,
}

impl Voter {
    pub fn new(now: Time, me: MemberId) -> Self {
        Self {
            me,
            digest: Digest::of_bytes(b""),
            members: BTreeSet::new(),
            mute_until: now + GRANT,
            grants: BTreeMap::new(),
            lapsed: BTreeMap::new(),
        }
    }

    /// Who holds `address`, as far as a grant tells.
    pub fn holder(&self, now: Time, address: IpAddr) -> Option<MemberId> {
        let grant = self.grants.get(&address).filter(|grant| grant.until > now);
        grant.map(|grant| grant.to)
    }

    /// Whether these are others than before.
    pub fn set_voters(&mut self, now: Time, voters: BTreeSet<MemberId>) -> bool {
        if voters == self.members {
            return false;
        }
        let mut bytes = Vec::new();
        for voter in &voters {
            bytes.extend(voter.0.0);
        }
        if !self.members.is_empty() {
            self.mute_until = self.mute_until.max(now + GRANT);
        }
        (self.digest, self.members) = (Digest::of("althing voters", &bytes), voters);
        true
    }

    /// What of `wants` is `from`'s, and what is another's, for how much longer.
    pub fn grant(
        &mut self,
        now: Time,
        from: MemberId,
        round: u64,
        wants: &[Want],
    ) -> (Vec<IpAddr>, Vec<(IpAddr, u16)>) {
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        for Want { address, consent } in wants {
            let grant = self.grants.get(address).copied().filter(|grant| grant.until > now);
            let left =
                |until: Time| u16::try_from(until.since(now).as_millis()).unwrap_or(u16::MAX);
            match grant {
                Some(grant) if grant.to == from => {}
                // It may have been granted to another by what is not remembered any more.
                None if now < self.mute_until => continue,
                None => {}
                Some(grant)
                    if consent.is_some_and(|(by, last)| grant.to == by && grant.round <= last) => {}
                Some(grant) => {
                    refused.push((*address, left(grant.until)));
                    continue;
                }
            }
            if grant.is_none() && self.grants.len() >= limits::LEASES_MAX {
                continue;
            }
            let entry = match grant {
                Some(grant) if grant.to == from => {
                    Grant { round: grant.round.max(round), until: now + GRANT, ..grant }
                }
                _ => {
                    let before = grant.map(|grant| (grant.to, grant.round, grant.until));
                    Grant { to: from, round, until: now + GRANT, before }
                }
            };
            self.grants.insert(*address, entry);
            if from != self.me {
                self.lapsed.remove(address);
            }
            granted.push(*address);
        }
        (granted, refused)
    }

    /// `from` has no use for `address`; whether that made it free.
    pub fn release(&mut self, now: Time, from: MemberId, round: u64, address: IpAddr) -> bool {
        let grant = self.grants.get(&address);
        let theirs = grant.filter(|grant| grant.to == from && grant.round <= round);
        let Some(Grant { before, .. }) = theirs.copied() else { return false };
        self.grants.remove(&address);
        if let Some((to, round, until)) = before.filter(|(.., at)| *at > now) {
            self.grants.insert(address, Grant { to, round, until, before: None });
        }
        true
    }

    /// What has run out goes. Returns who let it.
    pub fn forget(&mut self, now: Time) -> BTreeSet<MemberId> {
        let mut who = BTreeSet::new();
        self.grants.retain(|address, grant| {
            if grant.until <= now {
                self.lapsed.insert(*address, grant.to);
                who.insert(grant.to);
            }
            grant.until > now
        });
        while self.lapsed.len() > limits::LEASES_MAX {
            self.lapsed.pop_first();
        }
        who
    }
}
