//! The members of the roster in one compact table, by *slot*: a number that
//! this member gave each of them and never gives to another.
//!
//! What the roster says of everybody lies in an [`Index`] that many machines in one
//! process may share; what one member knows of each other one is 72 bytes.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use foca::Incarnation;

use super::{
    Contact, State,
    packet::{Identity, plain},
    run::{ME, Run},
};
use crate::base::{MemberId, Time, catalog::Roster};

/// Who is enrolled and where, in an order that only grows.
#[derive(Debug, Default)]
pub struct Index {
    ids: Vec<MemberId>,
    addresses: Vec<SocketAddr>,
    enrolled: Vec<bool>,
    /// Positions, by id.
    sorted: Vec<u32>,
    count: usize,
}

impl Index {
    /// The index of `roster`.
    pub fn new(roster: &Roster) -> Self {
        Self::default().extended(roster)
    }

    /// The index of `roster`, in which everybody who was ever known keeps its position.
    pub fn extended(&self, roster: &Roster) -> Self {
        let mut index = Self {
            ids: self.ids.clone(),
            addresses: self.addresses.clone(),
            enrolled: vec![false; self.ids.len()],
            sorted: self.sorted.clone(),
            count: roster.members.len(),
        };
        for member in &roster.members {
            let address = plain(member.address);
            if let Some(position) = self.find(member.id) {
                index.addresses[position] = address;
                index.enrolled[position] = true;
            } else {
                index.ids.push(member.id);
                index.addresses.push(address);
                index.enrolled.push(true);
            }
        }
        let new = self.ids.len()..index.ids.len();
        index.sorted.extend(new.filter_map(|position| u32::try_from(position).ok()));
        let ids = &index.ids;
        index.sorted.sort_by_key(|position| ids[*position as usize]);
        index
    }

    /// The position of `id`, enrolled or not.
    fn find(&self, id: MemberId) -> Option<usize> {
        let found = self.sorted.binary_search_by_key(&id, |at| self.ids[*at as usize]);
        found.ok().map(|at| self.sorted[at] as usize)
    }
}

/// What this member knows of another. Times on the machine's own clock; zero
/// for never.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its newest run; 0 until it was seen.
    pub generation: u64,
    /// The last direct sign of life.
    pub heard: Time,
    /// Since when it is live.
    pub live_from: Time,
    /// Since when it is in this state, by the owner's clock.
    pub since: Time,
    /// The next knock, where it is not live.
    pub knock_at: Time,
    /// The oldest direct question that it has not answered.
    pub asked_at: Time,
    /// The last direct answer to a direct question.
    pub answered: Time,
    /// As foca has it.
    pub incarnation: Incarnation,
    /// As foca has it.
    pub verdict: foca::State,
    /// What is shown.
    pub state: State,
    pub knocks: u8,
    /// How often it was asked for a sign of life by our own rounds since the last one.
    pub asked: u8,
    /// Direct questions since `asked_at`.
    pub questions: u8,
    /// Whether the way there and back is known to work.
    pub reached: bool,
}

impl Peer {
    fn unseen(now: Time, since: Time) -> Self {
        Self {
            generation: 0,
            heard: Time(0),
            live_from: now,
            since,
            knock_at: Time(0),
            asked_at: Time(0),
            answered: Time(0),
            incarnation: 0,
            verdict: foca::State::Down,
            state: State::Down,
            knocks: 0,
            asked: 0,
            questions: 0,
            reached: false,
        }
    }

    /// Whether foca knows it.
    pub fn is_seen(&self) -> bool {
        self.generation > 0
    }
}

/// What a newer roster changes, by slot.
#[derive(Debug, Default)]
pub struct Turnover {
    /// Newcomers.
    pub new: Vec<u32>,
    /// Those that are not enrolled any more.
    pub gone: Vec<u32>,
    /// Those that are not live and have another address in the roster.
    pub moved: Vec<u32>,
}

/// All of them.
pub struct Table {
    pub me: MemberId,
    /// Where this run of this member listens.
    pub address: SocketAddr,
    index: Arc<Index>,
    /// The slot that this member would have; it goes by [`ME`].
    my_slot: u32,
    /// By slot, that is position and one.
    peers: Vec<Peer>,
    /// Addresses that are not the roster's.
    moved: BTreeMap<u32, SocketAddr>,
    /// Where members were found that were not live, and where they do not say that they are. Only
    /// this member need reach them there, so these are for dialling and never told to others.
    found: BTreeMap<u32, SocketAddr>,
}

impl Table {
    pub fn new(me: MemberId, address: SocketAddr) -> Self {
        let address = plain(address);
        let (index, peers) = (Arc::default(), Vec::new());
        let (moved, found) = (BTreeMap::new(), BTreeMap::new());
        Self { me, address, index, my_slot: ME, peers, moved, found }
    }

    /// Takes over who is enrolled.
    pub fn set_index(&mut self, index: Arc<Index>, now: Time, since: Time) -> Turnover {
        let before = std::mem::replace(&mut self.index, index);
        self.peers.resize(self.index.ids.len() + 1, Peer::unseen(now, since));
        self.my_slot = self.index.find(self.me).map_or(ME, |at| at as u32 + 1);
        let was = |position: usize| before.enrolled.get(position).copied().unwrap_or(false);
        let Turnover { mut new, mut gone, mut moved } = Turnover::default();
        for (position, &is) in self.index.enrolled.iter().enumerate() {
            let slot = position as u32 + 1;
            match (was(position), is) {
                _ if slot == self.my_slot => {}
                (false, true) => {
                    self.peers[slot as usize] = Peer::unseen(now, since);
                    new.push(slot);
                }
                (true, false) => gone.push(slot),
                (true, true) if before.addresses[position] != self.index.addresses[position] => {
                    if self.peers[slot as usize].state.is_live() {
                        // Where it is heard counts more than what the roster says.
                        let heard = self.moved.get(&slot).copied();
                        self.moved.insert(slot, heard.unwrap_or(before.addresses[position]));
                    } else {
                        self.moved.remove(&slot);
                        self.found.remove(&slot);
                        moved.push(slot);
                    }
                }
                _ => {}
            }
        }
        let index = &self.index;
        self.moved.retain(|slot, address| index.addresses[*slot as usize - 1] != *address);
        Turnover { new, gone, moved }
    }

    /// Members of the cluster, this one included.
    pub fn size(&self) -> usize {
        self.index.count.max(1)
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The slot of an enrolled member that is not this one.
    pub fn slot(&self, id: MemberId) -> Option<u32> {
        let position = self.index.find(id).filter(|at| self.index.enrolled[*at])?;
        (id != self.me).then_some(position as u32 + 1)
    }

    /// Whether this is the slot of an enrolled member that is not this one.
    pub fn is_enrolled(&self, slot: u32) -> bool {
        slot != ME
            && self.index.enrolled.get(slot as usize - 1).copied().unwrap_or(false)
            && slot != self.my_slot
    }

    /// The slots of all enrolled members but this one.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (1..self.peers.len() as u32).filter(|slot| self.is_enrolled(*slot))
    }

    /// The slots of all enrolled members, this one included, in the order of their ids.
    pub fn slots_by_id(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.sorted.iter().map(|position| position + 1).filter_map(|slot| {
            let mine = slot == self.my_slot;
            (mine || self.is_enrolled(slot)).then_some(if mine { ME } else { slot })
        })
    }

    pub fn id(&self, slot: u32) -> MemberId {
        if slot == ME { self.me } else { self.index.ids[slot as usize - 1] }
    }

    /// Callers hold slots that this table gave out.
    pub fn peer(&self, slot: u32) -> &Peer {
        &self.peers[slot as usize]
    }

    pub fn peer_mut(&mut self, slot: u32) -> &mut Peer {
        &mut self.peers[slot as usize]
    }

    pub fn live(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots().filter(|slot| self.peer(*slot).state.is_live())
    }

    pub fn roster_address(&self, slot: u32) -> SocketAddr {
        self.index.addresses[slot as usize - 1]
    }

    /// Where its newest run says that it listens; the roster's word until it was seen. This is
    /// what others are told.
    pub fn heard_at(&self, slot: u32) -> SocketAddr {
        if slot == ME {
            return self.address;
        }
        self.moved.get(&slot).copied().unwrap_or_else(|| self.roster_address(slot))
    }

    /// Where this member dials it.
    pub fn address_of(&self, slot: u32) -> SocketAddr {
        self.found.get(&slot).copied().unwrap_or_else(|| self.heard_at(slot))
    }

    /// Its run says that it listens at `address`.
    pub fn set_address(&mut self, slot: u32, address: SocketAddr) {
        if address == self.roster_address(slot) {
            self.moved.remove(&slot);
        } else {
            self.moved.insert(slot, address);
        }
    }

    /// It answers at `address`, whatever it says.
    pub fn set_found(&mut self, slot: u32, address: SocketAddr) {
        if address == self.heard_at(slot) {
            self.found.remove(&slot);
        } else {
            self.found.insert(slot, address);
        }
    }

    /// What was found is of no weight any more.
    pub fn lose_found(&mut self, slot: u32) {
        self.found.remove(&slot);
    }

    pub fn forget(&mut self, slot: u32) {
        self.moved.remove(&slot);
        self.found.remove(&slot);
    }

    pub fn run(&self, slot: u32) -> Run {
        Run { slot, generation: self.peer(slot).generation }
    }

    /// The run that `identity` is about, where it is somebody's who is enrolled.
    pub fn run_of(&self, identity: &Identity) -> Option<Run> {
        let slot = if identity.member == self.me { ME } else { self.slot(identity.member)? };
        Some(Run { slot, generation: identity.generation })
    }

    pub fn identity(&self, run: Run) -> Identity {
        Identity {
            member: self.id(run.slot),
            address: self.heard_at(run.slot),
            generation: run.generation,
        }
    }

    pub fn contact(&self, slot: u32) -> Contact {
        let peer = self.peer(slot);
        Contact {
            state: peer.state,
            address: self.address_of(slot),
            generation: peer.generation,
            since: peer.since,
            reached: peer.reached,
        }
    }
}

/// Every member of the roster but this one, seen or not.
#[derive(Clone, Copy)]
pub struct Directory<'a>(pub(super) &'a Table);

impl<'a> Directory<'a> {
    /// What is known of `id`.
    pub fn get(&self, id: &MemberId) -> Option<Contact> {
        self.0.slot(*id).map(|slot| self.0.contact(slot))
    }

    /// Where `id` says that it listens, or the roster if it was never seen. That is where others
    /// reach it, and not always where this member does: see [`Contact::address`].
    pub fn heard_at(&self, id: &MemberId) -> Option<SocketAddr> {
        self.0.slot(*id).map(|slot| self.0.heard_at(slot))
    }

    /// Those that this member dials elsewhere than the roster says, and where.
    pub fn moved(&self) -> impl Iterator<Item = (MemberId, SocketAddr)> + '_ {
        let Table { moved, found, .. } = self.0;
        let only_found = found.keys().filter(move |slot| !moved.contains_key(*slot));
        let enrolled = moved.keys().chain(only_found).filter(|slot| self.0.is_enrolled(**slot));
        enrolled.map(|slot| (self.0.id(*slot), self.0.address_of(*slot)))
    }

    /// Whether `id` is, or was found, elsewhere than the roster says.
    pub fn is_moved(&self, id: &MemberId) -> bool {
        let is_moved = |slot| self.0.moved.contains_key(&slot) || self.0.found.contains_key(&slot);
        self.0.slot(*id).is_some_and(is_moved)
    }

    /// Whether `id` is enrolled and not this member.
    pub fn contains_key(&self, id: &MemberId) -> bool {
        self.0.slot(*id).is_some()
    }

    /// Everybody, by id.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, Contact)> + '_ {
        let slots = self.0.index.sorted.iter().map(|position| position + 1);
        let enrolled = slots.filter(|slot| self.0.is_enrolled(*slot));
        enrolled.map(|slot| (self.0.id(slot), self.0.contact(slot)))
    }

    /// What is known of everybody, in no order.
    pub fn values(&self) -> impl Iterator<Item = Contact> + use<'a> {
        let table = self.0;
        table.slots().map(|slot| table.contact(slot))
    }

    /// Everybody's id, in order.
    pub fn keys(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.iter().map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sim::{address, id, roster},
        *,
    };

    #[test]
    fn where_a_live_member_is_heard_counts_more_than_a_newer_roster() {
        let now = Time(1);
        let mut table = Table::new(id(0), address(0));
        let mut roster = roster(0..3);
        let index = Arc::new(Index::new(&roster));
        let Turnover { new, moved, .. } = table.set_index(Arc::clone(&index), now, now);
        assert_eq!((new.len(), moved.len()), (2, 0));
        let (live, dead) = (table.slot(id(1)).unwrap(), table.slot(id(2)).unwrap());
        table.peer_mut(live).state = State::Alive;
        for member in &mut roster.members {
            member.address.set_port(member.address.port() + 1);
        }
        let newer = Arc::new(index.extended(&roster));
        assert_eq!(table.set_index(Arc::clone(&newer), now, now).moved, [dead]);
        assert_eq!(table.address_of(live), address(1), "it is heard there");
        assert_eq!(table.address_of(dead), table.roster_address(dead));
        let elsewhere: Vec<_> = Directory(&table).moved().collect();
        assert_eq!(elsewhere, [(id(1), address(1))]);
        // Where the roster comes to say what was heard, nothing is left to remember.
        for member in &mut roster.members {
            member.address.set_port(member.address.port() - 1);
        }
        let back = Arc::new(newer.extended(&roster));
        table.set_index(back, now, now);
        assert_eq!(Directory(&table).moved().count(), 0);
    }

    #[test]
    fn where_a_member_was_found_is_for_dialling_only() {
        let now = Time(1);
        let mut table = Table::new(id(0), address(0));
        let mut roster = roster(0..2);
        let index = Arc::new(Index::new(&roster));
        table.set_index(Arc::clone(&index), now, now);
        let slot = table.slot(id(1)).unwrap();
        table.set_found(slot, address(9));
        assert_eq!((table.address_of(slot), table.heard_at(slot)), (address(9), address(1)));
        assert_eq!(table.identity(table.run(slot)).address, address(1), "others are told this");
        let directory = Directory(&table);
        assert_eq!(directory.heard_at(&id(1)), Some(address(1)));
        assert!(directory.is_moved(&id(1)));
        assert_eq!(directory.moved().collect::<Vec<_>>(), [(id(1), address(9))]);
        // What it says of itself does not change where it was found.
        table.set_address(slot, address(8));
        assert_eq!((table.address_of(slot), table.heard_at(slot)), (address(9), address(8)));
        assert_eq!(Directory(&table).moved().collect::<Vec<_>>(), [(id(1), address(9))]);
        // The roster has another one for it, and it is not live.
        roster.members[1].address = address(7);
        table.set_index(Arc::new(index.extended(&roster)), now, now);
        assert_eq!((table.address_of(slot), table.heard_at(slot)), (address(7), address(7)));
        // Found where it says that it is: nothing to remember.
        table.set_found(slot, address(7));
        assert!(!Directory(&table).is_moved(&id(1)));
        table.set_found(slot, address(9));
        table.forget(slot);
        assert_eq!(table.address_of(slot), address(7));
    }
}
