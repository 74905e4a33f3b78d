//! A member that comes back at another address: a new server, another network, another lease.
//!
//! Others hear of it by gossip as soon as one of them hears the member. What this file adds is for
//! the time after: the member has its address put right in the roster, so that whoever starts next
//! finds it, and addresses that an operator names (`--join`) lead members back to each other that
//! were all moved at once. What answers at such an address proves by its key who it is, and what it
//! hands over is checked from this member's own record on: an address is never trusted.
//!
//! A member speaks for itself alone, once it has run for a while and sees a majority, so a member
//! that is started again and again does not fill the lineage with its addresses. An address of an
//! earlier run that comes into force late does no harm: one run at a time has the data directory,
//! so the one that runs is the newest, and it says its own address again.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::Rng;

use super::{
    Member,
    admission::Welcome,
    change::{Change, address::allowed},
    event::{EventKind, Severity},
    io::Effect,
    operate::Purpose,
};
use crate::{
    base::{
        MemberId, Reason, Time,
        catalog::{Catalog, Roster},
        limits,
        wire::{self, Kind},
    },
    proto::{
        election,
        membership::{self, packet::plain},
    },
};

/// For how long a member runs at an address before it has it put into the roster.
const SETTLED: Duration = Duration::from_secs(5);
/// How often that doubles, once for each time that this run has done so.
const SETTLED_DOUBLINGS_MAX: u32 = 10;
/// After so many times an operator is told, should the roster have another address yet again.
const SAID_OFTEN: u32 = 3;
/// For each member of the cluster that much more at most, so that not all that were moved begin at
/// once.
const APART: Duration = Duration::from_millis(50);
/// How soon it is looked at again; twice as long after each failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often that doubles.
const DOUBLINGS_MAX: u32 = 5;
/// How soon a member looks again whose address is not for the roster.
const UNTOLD_AGAIN: Duration = Duration::from_secs(60);
/// After how many failures an operator is told: others may be about to say where they are now.
const TOLD_AFTER: u32 = 4;
/// How long a member that has started looks for the others without the addresses it was given.
const SEEK_AFTER: Duration = Duration::from_millis(500);
/// How soon it asks there again, while it sees no majority; twice as long each time. A question
/// takes no longer than this, so none is under way twice.
const SEEK_EVERY: Duration = Duration::from_secs(5);
/// How often that doubles: each answer is a whole catalog with its lineage.
const SEEK_DOUBLINGS_MAX: u32 = 2;
/// So many members may say their address however large the cluster is.
const MOVERS_MIN: usize = 3;

/// Where this stands.
#[derive(Debug)]
pub(super) struct Moving {
    /// Where somebody of the cluster may be.
    seeds: Vec<SocketAddr>,
    /// Who answered at which of these.
    answered: BTreeMap<SocketAddr, MemberId>,
    seek_at: Time,
    /// How often it has asked there since it saw a majority.
    seeks: u32,
    /// The roster's address of this member, where that is not the one at which it runs.
    was: Option<SocketAddr>,
    /// Not before this it is proposed.
    due: Time,
    pending: bool,
    /// How often this run has had its address put into the roster.
    said: u32,
    /// Whether an operator knows that somebody else runs with this member's key.
    told_of_another: bool,
    failures: u32,
    /// Whether an operator knows that something stands in the way.
    told: bool,
    /// Where the roster says that each member is.
    enrolled: BTreeMap<MemberId, SocketAddr>,
    /// Where members are that are known to be elsewhere.
    seen: BTreeMap<MemberId, SocketAddr>,
}

impl Moving {
    pub fn new(now: Time, mut seeds: Vec<SocketAddr>) -> Self {
        seeds.truncate(limits::SEEDS_MAX);
        Self {
            seeds,
            answered: BTreeMap::new(),
            seek_at: now + SEEK_AFTER,
            seeks: 0,
            was: None,
            due: now,
            pending: false,
            said: 0,
            told_of_another: false,
            failures: 0,
            told: false,
            enrolled: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }
}

impl Moving {
    /// For how long it waits before it says its address. Within one run that does not change, so
    /// whoever says it again and again has it changed by somebody else: by one with whom it
    /// changed places, once, or by a copy of itself. The pauses keep that one's changes and its
    /// own from filling the lineage.
    fn settled(&self) -> Duration {
        SETTLED * 2_u32.pow(self.said.min(SETTLED_DOUBLINGS_MAX))
    }
}

impl Member {
    pub(super) fn moving_due(&self) -> Option<Time> {
        let moving = &self.moving;
        let propose = moving.was.is_some() && !moving.pending && !self.leaving;
        propose.then_some(moving.due).into_iter().chain(self.seek_due()).min()
    }

    /// When the addresses that it was started with are asked next.
    pub(super) fn seek_due(&self) -> Option<Time> {
        (!self.moving.seeds.is_empty()).then_some(self.moving.seek_at)
    }

    // Its own address.

    /// Has the address of this member put right in the roster, in its time.
    pub(super) fn propose_address(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        let Some(was) = self.moving.was.filter(|_| now >= self.moving.due) else { return };
        if self.moving.pending || self.leaving {
            return;
        }
        self.moving.due = now + AGAIN;
        let roster = &catalog.roster;
        let (live, majority) = election::quorum_in_view(roster, |m| self.is_live(m));
        // A new key is signed for one catalog: another change would make it void.
        if live < majority || self.rotating.is_under_way() {
            return;
        }
        if !is_told_of(roster, self.me) {
            self.moving.due = now + UNTOLD_AGAIN;
            return;
        }
        let address = plain(self.address);
        let gone = self.gone_from(roster, address);
        if let Err(refusal) = allowed(roster, self.me, (was, address), gone) {
            if self.moving.failures >= TOLD_AFTER && !self.moving.told {
                self.moving.told = true;
                let text = format!(
                    "this member runs at {address}, and the roster keeps {was} for it: {}",
                    refusal.why
                );
                self.tell(effects, Severity::Warning, EventKind::Catalog, None, text);
            }
            self.try_address_later(now);
            return;
        }
        self.moving.pending = true;
        let change = Change::Address { member: self.me, was, address, gone };
        self.propose(now, change, Purpose::Address, effects);
    }

    pub(super) fn address_ended(&mut self, now: Time, done: bool) {
        self.moving.pending = false;
        if done {
            (self.moving.failures, self.moving.told) = (0, false);
            self.moving.said = self.moving.said.saturating_add(1);
            self.moving.due = now + self.moving.settled();
        } else {
            self.try_address_later(now);
        }
    }

    fn try_address_later(&mut self, now: Time) {
        let doublings = self.moving.failures.min(DOUBLINGS_MAX);
        self.moving.failures = self.moving.failures.saturating_add(1);
        self.moving.due = now + AGAIN * 2_u32.pow(doublings);
    }

    /// Who has `address` in the roster and lives elsewhere, as it says itself.
    fn gone_from(&self, roster: &Roster, address: SocketAddr) -> Option<MemberId> {
        let directory = self.membership.directory();
        let elsewhere = |id| directory.heard_at(&id).is_some_and(|at| at != address);
        let mut others = roster.members.iter().filter(|m| m.id != self.me && m.address == address);
        others.find(|m| self.is_live(m.id) && elsewhere(m.id)).map(|m| m.id)
    }

    // A newer catalog, and what gossip says.

    /// Takes over where the roster says that members are, and tells of those that moved.
    pub(super) fn note_addresses(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        let mut known = std::mem::take(&mut self.moving.enrolled);
        let mut has_changed = false;
        for entry in &catalog.roster.members {
            self.moving.enrolled.insert(entry.id, entry.address);
            let before = known.remove(&entry.id).filter(|before| *before != entry.address);
            let Some(before) = before else { continue };
            has_changed = true;
            // Of a member that is heard, gossip tells.
            if entry.id != self.me && !self.membership.is_live(entry.id) {
                let seen = self.moving.seen.remove(&entry.id).unwrap_or(before);
                if seen != entry.address {
                    self.tell_of_move(entry.id, seen, entry.address, effects);
                }
            }
        }
        let Moving { enrolled, seen, .. } = &mut self.moving;
        seen.retain(|id, _| enrolled.contains_key(id));
        if has_changed {
            self.readdress(effects);
        }
        let entry = catalog.roster.get(self.me);
        let address = plain(self.address);
        let was = entry.map(|m| m.address).filter(|was| plain(*was) != address);
        if was.is_some() && self.moving.was.is_none() {
            let members = u32::try_from(catalog.roster.members.len()).unwrap_or(u32::MAX);
            let apart = self.rng.random_range(Duration::ZERO..APART.saturating_mul(members));
            self.moving.due = now + self.moving.settled() + apart;
            if self.moving.said >= SAID_OFTEN && !self.moving.told_of_another {
                self.moving.told_of_another = true;
                let text = "the roster's address of this member was changed again and again: \
                            another process runs with its key. Stop one of them; see \
                            docs/operations.md#a-member-moves";
                let kind = EventKind::Catalog;
                self.tell(effects, Severity::Critical, kind, None, text.to_owned());
            }
        }
        self.moving.was = was;
    }

    /// The transport takes an address of the roster that is new to it for the newest. Where a
    /// member is heard elsewhere, that counts.
    pub(super) fn readdress(&self, effects: &mut Vec<Effect>) {
        let moved = self.membership.directory();
        effects.extend(moved.moved().map(|(member, address)| Effect::Address { member, address }));
    }

    /// A member that is not live and may be in two places is knocked at in one after the other: the
    /// transport has to dial there.
    pub(super) fn dial_anew(
        &self,
        member: MemberId,
        address: SocketAddr,
        effects: &mut Vec<Effect>,
    ) {
        if !self.membership.is_live(member) && self.membership.directory().is_moved(&member) {
            effects.push(Effect::Address { member, address });
        }
    }

    /// Gossip says that `member` is reached elsewhere.
    pub(super) fn on_moved(
        &mut self,
        member: MemberId,
        address: SocketAddr,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Address { member, address });
        let enrolled = self.moving.enrolled.get(&member).copied();
        let before = self.moving.seen.insert(member, address).or(enrolled);
        if let Some(before) = before.filter(|before| plain(*before) != address) {
            self.tell_of_move(member, before, address, effects);
        }
    }

    fn tell_of_move(
        &mut self,
        member: MemberId,
        before: SocketAddr,
        address: SocketAddr,
        effects: &mut Vec<Effect>,
    ) {
        let name = self.name_of(member);
        let text = format!("{name} is reached at {address} now; it was at {before}");
        self.tell_of(effects, Severity::Info, EventKind::Membership, member, None, text);
    }

    // Others, by addresses that an operator named.

    /// Asks at the addresses that it was started with who is there, while it sees no majority. Not
    /// where a live member is: that one it has found.
    pub(super) fn look_at_seeds(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        if self.moving.seeds.is_empty() || now < self.moving.seek_at {
            return;
        }
        let (live, majority) = election::quorum_in_view(&catalog.roster, |m| self.is_live(m));
        if live >= majority {
            self.moving.seeks = 0;
            self.moving.seek_at = now + SEEK_EVERY;
            return;
        }
        let doublings = self.moving.seeks.min(SEEK_DOUBLINGS_MAX);
        self.moving.seeks = self.moving.seeks.saturating_add(1);
        self.moving.seek_at = now + SEEK_EVERY * 2_u32.pow(doublings);
        // By a next key, too: whoever was stopped before it took that up is known by it alone.
        let ids: Vec<MemberId> = self.rotating.next_ids().chain([self.me]).collect();
        let seeds = self.moving.seeds.iter().filter(|seed| !self.is_known_at(**seed));
        let asked = seeds.flat_map(|&address| ids.iter().map(move |&id| (id, address)));
        effects.extend(asked.map(|(id, address)| Effect::Seek { id, address }));
    }

    /// Whether a live member is at `seed`, as far as this one knows.
    fn is_known_at(&self, seed: SocketAddr) -> bool {
        let has_answered = self.moving.answered.get(&seed).is_some_and(|id| self.is_live(*id));
        let directory = self.membership.directory();
        has_answered || directory.values().any(|c| c.state.is_live() && c.address == plain(seed))
    }

    /// `by`, whose key was checked, answers at `address` what it was asked by the key of `id`.
    pub(super) fn on_found(
        &mut self,
        now: Time,
        id: MemberId,
        (address, by): (SocketAddr, MemberId),
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if by == self.me {
            // A list that is the same on all members names this one as well.
            self.moving.seeds.retain(|seed| *seed != address);
            return;
        }
        if self.moving.seeds.contains(&address) {
            self.moving.answered.insert(address, by);
        }
        self.on_told(now, id, by, bytes, effects);
        self.is_found_at(now, by, address, effects);
    }

    /// The same for one that parts from its old id: others that moved as well can be told of the new
    /// one only where they are now, and who knows it says so.
    pub(super) fn on_found_while_parting(
        &mut self,
        now: Time,
        id: MemberId,
        (address, by): (SocketAddr, MemberId),
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if by == self.me || !self.catalog().roster.contains(by) {
            return;
        }
        // Before this one may take up its new key.
        self.is_found_at(now, by, address, effects);
        let admitted = match wire::decode::<Welcome>(Kind::Message, bytes) {
            Ok(Welcome::Admitted { .. }) => true,
            Ok(Welcome::Refused(refusal)) if refusal.reason == Reason::Forbidden => false,
            // It could not say.
            Ok(Welcome::Refused(_)) | Err(_) => return,
        };
        // Whoever heard of the change knows the new id, and the old one no more.
        if admitted != (id == self.me) {
            self.knows_the_new_key(now, by, effects);
        }
    }

    /// Tells the membership that `member` answers at `address`, and is to be looked for there.
    fn is_found_at(
        &mut self,
        now: Time,
        member: MemberId,
        address: SocketAddr,
        effects: &mut Vec<Effect>,
    ) {
        self.tell_membership(now, membership::Input::Found { member, address }, effects);
    }
}

/// Whether the roster is told where `member` is. Each change is a link of the lineage with the
/// accepts of a majority, and in a large cluster that was moved as a whole they would push out
/// what those need that are away. So there only the first of the failover list say it, as many as
/// take a quarter of the room: whoever starts finds one of these, and it tells of the rest.
fn is_told_of(roster: &Roster, member: MemberId) -> bool {
    let link = 512 + 100 * roster.voters().count();
    let first = (limits::LINEAGE_BYTES_MAX / 4 / link).max(MOVERS_MIN);
    roster.members.iter().take(first).any(|m| m.id == member)
}
