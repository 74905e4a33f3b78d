//! Servers that come back at other addresses: which address leads where, what operators do about
//! it, and the checks on it.
//!
//! Until somebody moves, all addresses are right and nothing of this counts. From then on a word
//! gets through where its sender dials the right address, or where the other one has dialled it:
//! a connection carries both ways.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use rand::Rng;

use super::{
    Invariant, Situation, Violation,
    check::fail,
    server::Server,
    story::Deed,
    world::{Happening, World},
};
use crate::base::{
    MemberId,
    catalog::{Catalog, Roster},
};

const SECOND: u64 = 1_000_000;
/// How long operators leave a member alone that finds nobody.
const LEFT_ALONE: u64 = 15 * SECOND;
/// In larger clusters not all have their address put into the roster.
const ALL_SAY_IT: usize = 40;

/// Where a transport dials a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    /// What the roster said last.
    enrolled: SocketAddr,
    at: SocketAddr,
}

impl Server {
    /// Its transport is told who is enrolled where.
    pub fn dial_roster(&mut self, roster: &Roster) {
        let mut before = std::mem::take(&mut self.dials);
        for m in &roster.members {
            let kept = before.remove(&m.id).filter(|kept| kept.enrolled == m.address);
            let new = Dialled { enrolled: m.address, at: m.address };
            self.dials.insert(m.id, kept.unwrap_or(new));
        }
    }

    /// Its transport is told that somebody is elsewhere.
    pub fn dial_at(&mut self, member: MemberId, address: SocketAddr) {
        if let Some(dialled) = self.dials.get_mut(&member) {
            dialled.at = address;
        }
    }
}

impl World {
    // The network.

    /// Whether what `from` sends to `to`, whom it means by `meant`, has a way there.
    pub(super) fn has_a_way(&self, from: usize, to: usize, meant: MemberId) -> bool {
        let (sender, receiver) = (&self.servers[from], &self.servers[to]);
        !self.moved
            || sender.dials.get(&meant).is_none_or(|dialled| dialled.at == receiver.address)
            || sender.callers.get(&to) == Some(&receiver.run)
    }

    /// Something of `from` has arrived at `to`: there is a connection.
    pub(super) fn is_called(&mut self, to: usize, from: usize) {
        let (moved, run) = (self.moved, self.servers[from].run);
        if moved && self.servers[from].member.is_some() {
            self.servers[to].callers.insert(from, run);
        }
    }

    /// The server whose process listens at `address`.
    pub(super) fn lives_at(&self, address: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|s| s.address == address && s.member.is_some())
    }

    /// `s` asks who is at an address that it was started with.
    pub(super) fn look_who_is_at(&mut self, s: usize, id: MemberId, address: SocketAddr) {
        let Some(to) = self.lives_at(address) else { return };
        let Some(key) = self.key_of(s, id) else { return };
        let run = self.servers[s].run;
        if self.network.connects(s, to) {
            let delay = self.network.delay(&mut self.rng);
            let seeks = Some(address);
            self.later(delay, Happening::AskedAs { to, from: s, run, id, key, seeks });
        }
    }

    // What is done to servers.

    pub(super) fn move_servers(&mut self, deed: Deed) -> Result<(), Violation> {
        let running = self.enrolled_and_running();
        let Some(one) = self.pick(&running) else { return Ok(()) };
        let others: Vec<usize> = running.iter().copied().filter(|s| *s != one).collect();
        let other = self.pick(&others);
        let starts = match (deed, other) {
            (Deed::Swap, Some(other)) => {
                self.crash(one)?;
                self.crash(other)?;
                let (here, there) = (self.servers[one].address, self.servers[other].address);
                self.carry(one, there);
                self.carry(other, here);
                vec![one, other]
            }
            (Deed::MoveAll, _) => {
                self.carry_all(one, &running)?;
                running
            }
            _ => {
                self.crash(one)?;
                let address = self.new_address();
                self.carry(one, address);
                vec![one]
            }
        };
        if let Some(other) = other.filter(|_| deed == Deed::Move && self.rng.random_bool(0.5)) {
            self.servers[one].seeds = vec![self.servers[other].address];
        }
        for s in starts {
            let after = self.a_while();
            self.later(after, Happening::Start { server: s });
        }
        Ok(())
    }

    /// All that run die, and whatever has a record is set up elsewhere. Those that ran are told
    /// where `one` is now.
    fn carry_all(&mut self, one: usize, running: &[usize]) -> Result<(), Violation> {
        for s in running {
            self.crash(*s)?;
        }
        self.moved_all |= self.servers.iter().all(|s| s.member.is_none());
        for s in 0..self.servers.len() {
            if self.servers[s].disk.record.is_some() && self.servers[s].member.is_none() {
                let address = self.new_address();
                self.carry(s, address);
            }
        }
        let seed = self.servers[one].address;
        for s in running.iter().filter(|s| **s != one) {
            self.servers[*s].seeds = vec![seed];
        }
        Ok(())
    }

    /// An address that nobody had before.
    fn new_address(&mut self) -> SocketAddr {
        self.address_next += 1;
        let [high, low] = self.address_next.to_be_bytes();
        ([10, 1, high, low], 7_700).into()
    }

    /// A server, which does not run, is set up elsewhere.
    fn carry(&mut self, s: usize, address: SocketAddr) {
        self.moved = true;
        let before = std::mem::replace(&mut self.servers[s].address, address);
        self.servers[s].seeds.clear();
        self.say(Some(s), &format!("is carried from {before} to {address}"));
    }

    // Operators, once the storm is over.

    /// Whoever starts now is told where two of the others are.
    pub(super) fn name_seeds(&mut self) {
        if !self.moved {
            return;
        }
        for s in 0..self.servers.len() {
            self.servers[s].seeds = self.seeds_of(s);
        }
    }

    /// Where two of the others are: other two each time that `s` was started with `--join` and
    /// found no majority. Of some that name only each other each is as lost as the next.
    fn seeds_of(&self, s: usize) -> Vec<SocketAddr> {
        let roster = &self.newest().roster;
        let fit = |s: &&Server| !s.gone && !s.rotten && roster.named(&s.name).is_some();
        let all = self.servers.iter().filter(fit).map(|server| server.address);
        let others: Vec<_> = all.filter(|at| *at != self.servers[s].address).collect();
        let first = (2 * self.servers[s].joins) % others.len().max(1);
        others.iter().copied().cycle().skip(first).take(others.len().min(2)).collect()
    }

    /// Whether all that `s` knows are gone: others have taken their places while it was away. They
    /// know it, and it does not listen to those that it does not know.
    fn knows_nobody(&self, s: usize) -> bool {
        let server = &self.servers[s];
        let Some(member) = &server.member else { return false };
        let is_there = |id: &MemberId| {
            self.index.get(id).is_some_and(|at| {
                let other = &self.servers[*at];
                !other.gone && other.id == *id
            })
        };
        let mut others = member.catalog().roster.members.iter().map(|m| m.id);
        others.all(|id| id == server.id || !is_there(&id))
    }

    /// A member that has found no majority for a while is started again with addresses of others,
    /// if somebody has moved, or if it knows nobody any more.
    pub(super) fn join_the_lost(&mut self) -> Result<(), Violation> {
        self.name_seeds();
        // Also one that is enrolled by a key that it has not taken up: nobody knows it by this one.
        for s in 0..self.servers.len() {
            let server = &self.servers[s];
            let Some(member) = server.member.as_ref().filter(|_| server.is_up()) else { continue };
            if !self.moved && !self.knows_nobody(s) {
                continue;
            }
            let voters: Vec<MemberId> = member.catalog().roster.voters().map(|m| m.id).collect();
            let live = voters.iter().filter(|id| member.is_live(**id)).count();
            if live * 2 > voters.len() || self.now < server.boot + LEFT_ALONE {
                continue;
            }
            self.servers[s].joins += 1;
            self.servers[s].seeds = self.seeds_of(s);
            self.say(Some(s), "is started again with --join");
            self.crash(s)?;
            self.later(SECOND / 10, Happening::Start { server: s });
        }
        Ok(())
    }

    /// All is well again after the moves.
    pub(super) fn all_found_each_other(&mut self) {
        if self.moved_all {
            self.checker.reach(Situation::AllMoved);
        }
    }

    // Checks.

    /// A member that runs elsewhere than the newest roster says.
    pub(super) fn not_where_it_is_enrolled(&self) -> Option<String> {
        let roster = &self.newest().roster;
        if roster.members.len() > ALL_SAY_IT {
            return None;
        }
        self.enrolled_and_running().into_iter().find_map(|s| {
            let server = &self.servers[s];
            let entry = roster.get(server.id).filter(|m| m.address != server.address)?;
            let (name, at) = (&server.name, server.address);
            Some(format!("{name} runs at {at}, and the roster has {}", entry.address))
        })
    }

    /// A catalog became known: does every member have an address of its own there, and is
    /// that one at which it has run?
    pub(super) fn addresses_are_own(&mut self, catalog: &Catalog) -> Result<(), Violation> {
        let mut taken = BTreeSet::new();
        if let Some(entry) = catalog.roster.members.iter().find(|m| !taken.insert(m.address)) {
            let (address, sequence) = (entry.address, catalog.sequence);
            let detail = format!("{address} is that of two members in catalog {sequence}");
            return fail(Invariant::AddressIsOwn, detail);
        }
        let Some(before) = catalog.roster_before.as_ref() else { return Ok(()) };
        let before: BTreeMap<MemberId, SocketAddr> =
            before.members.iter().map(|m| (m.id, m.address)).collect();
        let changed: Vec<(MemberId, SocketAddr, SocketAddr)> = catalog
            .roster
            .members
            .iter()
            .filter_map(|m| Some((m.id, *before.get(&m.id)?, m.address)))
            .filter(|(_, was, is)| was != is)
            .collect();
        for &(id, was, is) in &changed {
            let server = self.index.get(&id).map(|s| &self.servers[*s]);
            if changed.iter().any(|&(_, its, now)| (its, now) == (is, was)) {
                self.checker.reach(Situation::AddressesExchanged);
            } else if server.is_some_and(|server| server.was_at.contains(&is)) {
                self.checker.reach(Situation::MemberMoved);
            } else {
                let sequence = catalog.sequence;
                let detail = format!("{is} in catalog {sequence}, where {id} has never run");
                return fail(Invariant::AddressIsOwn, detail);
            }
        }
        Ok(())
    }
}
