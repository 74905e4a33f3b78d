//! The plan of a fetch from many members at once: whom to ask for what, whether
//! what comes is what was asked, what is left.
//!
//! Members that fetch the same tree at the same time give each other what they
//! have got already, the rarest first (Cohen, "Incentives build robustness in
//! BitTorrent", 2003). One holder, as a rule the publisher, *hands out*: it is
//! asked for any chunk that it has not given to anybody yet, so that its line
//! carries the content once and not once for each member, whatever their
//! number and their pace. What it has handed out and nobody passes on, because
//! that one died or crawls, it is asked for by name.
//!
//! Who is near goes first: as long as somebody near is asked, one that is far is spared
//! like the one that hands out, and is asked by name for what nobody near passes on. So
//! about one copy goes to each place, however many fetch there. Only where those near would
//! take long for what they all have is it asked as any other.
//!
//! What a member is asked for ahead follows from what it gave lately; what it
//! owes for too long may be asked of another as well, and at the end, when there is
//! nothing else to ask for, sooner. A member that lies is dropped at the first lie, one
//! that crawls when others can give what it owes; one that lacks something is not at
//! fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{ActionList, Bits, Content, Positions, Update, UpdateList};
use crate::base::{
    Digest, MemberId, Time, limits,
    tree::{Chunk, TreeError},
};

/// Content of one ActionList, bytes.
const LIST_BYTES: u64 = 1 << 20;
/// The least and the most that one member is asked for ahead, bytes. The least
/// is what the last of a version waits for on a thin line.
const AHEAD_MIN: u64 = 512 << 10;
const AHEAD_MAX: u64 = limits::IN_FLIGHT_MAX as u64 / 2;
/// What is asked of somebody whose pace is not known, bytes.
const AHEAD_FIRST: u64 = 1 << 20;
/// For how long somebody has to do, at its pace, with what it is asked ahead.
const AHEAD: Duration = Duration::from_millis(400);
/// Over how long a pace is taken.
const PACE_OVER: Duration = Duration::from_millis(200);
/// How many open chunks are compared to find the rarest of them.
const COMPARED: usize = 512;
/// How many are looked at for what a member that is spared is to be asked for.
const LOOKED_AT: usize = 4_096;
/// If what is missing takes those near longer than this, and they give less than so many bytes a
/// second together although one of them has all of it, those that are far are asked as well.
const NEAR_WITHIN: Duration = Duration::from_secs(10);
const NEAR_PACE_MIN: f64 = (2 << 20) as f64;
/// What was handed out is passed on within this time, or its holder is asked for it.
const PASSED_ON_WITHIN: Duration = Duration::from_millis(800);
/// What is owed for so long, and three times as long as the pace would have it, may be asked of
/// another as well.
const OWED_MAX: Duration = Duration::from_millis(1_500);
/// Who owes something for too long, at every look for so long, crawls.
const CRAWLS_AFTER: Duration = Duration::from_secs(3);
/// How often is looked for what is owed for too long.
const REMIND_EVERY: Duration = Duration::from_millis(50);
/// Less than this is asked of one holder alone and by name, bytes: talking to
/// many costs more.
pub const TOGETHER_FROM: u64 = 2 << 20;

/// Why a holder is to be dropped. All of these are lies: an honest holder of
/// the same version never does them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The list is not of the tree that was wanted.
    #[error("its list has the root {found} and {wanted} was asked for")]
    WrongRoot {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// Changes that can't be made, although both have the tree that they are of.
    #[error("the changes that it lists can't be made: {0}")]
    NoChanges(#[from] TreeError),
    /// One chunk with two lengths.
    #[error("its list gives chunk {0} two lengths")]
    TwoLengths(Digest),
    /// Something that was not asked for, or came already.
    #[error("it sent {0}, which was not asked for")]
    Unasked(Digest),
    /// More than it was asked to hand out.
    #[error("it handed out more than it was asked for")]
    TooMuch,
    /// Something in answer to chunks that is no chunk.
    #[error("it sent changes of paths where chunks were asked for")]
    NoChunk,
    /// An answer with nothing in it, which could go on for ever.
    #[error("it sent an empty answer")]
    Empty,
    /// A chunk of another length than its list says.
    #[error("it sent {found} bytes for {digest}, which has {wanted}")]
    WrongLength {
        /// The chunk.
        digest: Digest,
        /// Its length by the list, bytes.
        wanted: u32,
        /// The length announced, bytes.
        found: u32,
    },
    /// Bytes that don't have the signature asked for.
    #[error("it sent {found} for {wanted}")]
    WrongBytes {
        /// The chunk.
        wanted: Digest,
        /// The signature of what came.
        found: Digest,
    },
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that have come and were verified.
    pub chunks_done: u64,
    /// Chunks that were not held at the start.
    pub chunks_total: u64,
    /// Their bytes that have come.
    pub bytes_done: u64,
    /// Their bytes in all.
    pub bytes_total: u64,
    /// Bytes that came twice, or came and were not as promised.
    pub bytes_wasted: u64,
}

/// What a member is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// These.
    Chunks(ActionList),
    /// Whatever it has given to nobody yet, about so many bytes of it.
    HandOut(u32),
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not here, and perhaps asked for.
    Open,
    /// Its bytes came and are being put away.
    Came,
    Held,
}

/// A member that is asked.
#[derive(Debug)]
struct Peer {
    /// Everything, but for what it said it lacks.
    whole: bool,
    have: Bits,
    lacks: BTreeSet<u32>,
    /// Whether it may have something to hand out; `None` where it never does.
    hands_out: Option<bool>,
    /// When all was handed out, and before that when it came: how long it is spared.
    given_out: Time,
    /// What it owes, and since when.
    owes: BTreeMap<u32, Time>,
    bytes_owed: u64,
    /// What it was asked to hand out, question by question.
    to_hand_out: Vec<u32>,
    /// Bytes a second, and from what it is taken.
    pace: Option<f64>,
    pace_since: Time,
    pace_bytes: u64,
    /// It had nothing that is open when it was looked at last.
    barren: bool,
    /// It is spared, and is not looked at again until then.
    rests: Time,
    /// Since when it owes something for too long: what only it has is as good as lost.
    slow: Option<Time>,
    /// It is asked for what nobody near passes on.
    far: bool,
}

impl Peer {
    /// Whether it counts among those that pass on what they have.
    fn passes_on(&self) -> bool {
        self.hands_out.is_none() && self.slow.is_none() && !self.far
    }

    fn has(&self, at: u32) -> bool {
        (self.whole || self.have.get(at)) && !self.lacks.contains(&at)
    }

    fn ahead(&self) -> u64 {
        self.pace.map_or(AHEAD_FIRST, |pace| {
            ((pace * AHEAD.as_secs_f64()) as u64).clamp(AHEAD_MIN, AHEAD_MAX)
        })
    }

    fn outstanding(&self) -> u64 {
        self.bytes_owed + self.to_hand_out.iter().map(|bytes| u64::from(*bytes)).sum::<u64>()
    }

    /// For how long it may owe something; `at_the_end` others have nothing else to do. Of whom the
    /// pace is not known yet, it is taken to be the `usual` one, if anything is.
    fn owed_max(&self, at_the_end: bool, usual: Option<f64>) -> Duration {
        if at_the_end {
            return OWED_MAX;
        }
        let pace = self.pace.or(usual);
        let expected = pace.map_or(0.0, |pace| self.outstanding() as f64 / pace.max(1.0));
        OWED_MAX.max(Duration::from_secs_f64((3.0 * expected).min(60.0)))
    }

    fn came(&mut self, now: Time, bytes: u64) {
        self.pace_bytes += bytes;
        let span = now.since(self.pace_since);
        if span >= PACE_OVER {
            let pace = self.pace_bytes as f64 / span.as_secs_f64();
            self.pace = Some(self.pace.map_or(pace, |before| 0.6 * before + 0.4 * pace));
            (self.pace_since, self.pace_bytes) = (now, 0);
        }
    }
}

/// The plan of one fetch.
#[derive(Debug)]
pub struct Swarm {
    positions: Arc<Positions>,
    state: Vec<State>,
    /// Not here and owed by nobody, or owed for too long.
    open: BTreeSet<u32>,
    /// Of these, the ones that somebody owes.
    overdue: BTreeSet<u32>,
    /// How many members that pass it on have it.
    known: Vec<u16>,
    peers: BTreeMap<MemberId, Peer>,
    far: BTreeSet<MemberId>,
    bytes_in_flight: u64,
    reminded: Time,
    progress: Progress,
    rng: SmallRng,
}

impl Swarm {
    /// Plans to fetch what `held` does not know. The order in which things are
    /// asked for follows from `seed`.
    pub fn new(positions: Arc<Positions>, mut held: impl FnMut(&Chunk) -> bool, seed: u64) -> Self {
        let mut progress = Progress::default();
        let mut open = BTreeSet::new();
        let mut state = Vec::with_capacity(positions.chunks().len());
        for (at, chunk) in positions.chunks().iter().enumerate() {
            if held(chunk) {
                state.push(State::Held);
                continue;
            }
            state.push(State::Open);
            open.insert(at as u32);
            progress.chunks_total += 1;
            progress.bytes_total += u64::from(chunk.len);
        }
        Self {
            known: vec![0; state.len()],
            state,
            open,
            positions,
            overdue: BTreeSet::new(),
            peers: BTreeMap::new(),
            far: BTreeSet::new(),
            bytes_in_flight: 0,
            reminded: Time(0),
            progress,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// These are far: others go first.
    pub fn with_far(mut self, far: BTreeSet<MemberId>) -> Self {
        self.far = far;
        self
    }

    /// What is held here, for those that are to know.
    pub fn held(&self) -> Bits {
        let mut bits = Bits::new(self.state.len());
        for (at, state) in self.state.iter().enumerate() {
            if *state == State::Held {
                bits.set(at as u32);
            }
        }
        bits
    }

    // Who is asked.

    /// `peer` can be asked from now on. It holds everything, or what it says.
    pub fn joined(&mut self, now: Time, peer: MemberId, whole: bool) {
        let (size, far) = (self.state.len(), self.far.contains(&peer));
        let entry = self.peers.entry(peer).or_insert_with(|| Peer {
            whole: false,
            have: Bits::new(size),
            lacks: BTreeSet::new(),
            hands_out: None,
            given_out: now,
            owes: BTreeMap::new(),
            bytes_owed: 0,
            to_hand_out: Vec::new(),
            pace: None,
            pace_since: now,
            pace_bytes: 0,
            barren: false,
            rests: Time(0),
            slow: None,
            far,
        });
        entry.whole |= whole;
        entry.barren = false;
        self.count_anew();
    }

    /// `peer`, which holds everything, is to be asked for what it has given to
    /// nobody, as long as no other does.
    pub fn hands_out(&mut self, peer: MemberId) {
        if self.progress.bytes_total < TOGETHER_FROM {
            return;
        }
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.hands_out = Some(true);
        }
        self.count_anew();
    }

    /// `peer` says that it has these as well. What is no position is passed over.
    pub fn gained(&mut self, peer: MemberId, positions: impl IntoIterator<Item = u32>) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        for at in positions {
            if entry.have.set(at) && !entry.whole {
                self.known[at as usize] += u16::from(entry.passes_on());
                entry.barren = false;
            }
        }
    }

    /// `peer` is gone, or is to be asked no more: what it owes is open again.
    pub fn left(&mut self, peer: MemberId) {
        let Some(entry) = self.peers.remove(&peer) else { return };
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(entry.outstanding());
        for at in entry.owes.into_keys() {
            self.open_again(at);
        }
        self.count_anew();
    }

    /// Whether it is asked.
    pub fn has_peer(&self, peer: MemberId) -> bool {
        self.peers.contains_key(&peer)
    }

    fn count_anew(&mut self) {
        // With more than one that holds everything there is no need to spare any.
        if self.peers.values().filter(|p| p.whole).count() > 1 {
            self.peers.values_mut().for_each(|p| p.hands_out = None);
        }
        let counted: Vec<&Peer> = self.peers.values().filter(|p| p.passes_on()).collect();
        for (at, known) in self.known.iter_mut().enumerate() {
            *known = counted.iter().filter(|p| p.has(at as u32)).count() as u16;
        }
        for peer in self.peers.values_mut() {
            (peer.barren, peer.rests) = (false, Time(0));
        }
    }

    fn open_again(&mut self, at: u32) {
        if self.state[at as usize] == State::Open && self.open.insert(at) {
            self.peers.values_mut().for_each(|p| p.barren = false);
        }
    }

    // What is asked.

    /// Everything to be asked now, of everybody.
    pub fn asks(&mut self, now: Time) -> Vec<(MemberId, Ask)> {
        self.remind(now);
        let mut asks = Vec::new();
        let mut peers: Vec<MemberId> = self.peers.keys().copied().collect();
        // Whoever is first takes the rarest: another one each time.
        if !peers.is_empty() {
            let first = self.rng.random_range(0..peers.len());
            peers.rotate_left(first);
        }
        for peer in peers {
            while let Some(ask) = self.ask(now, peer) {
                asks.push((peer, ask));
            }
        }
        asks
    }

    fn ask(&mut self, now: Time, peer: MemberId) -> Option<Ask> {
        let entry = self.peers.get(&peer)?;
        let (ahead, outstanding) = (entry.ahead(), entry.outstanding());
        let room = ahead.saturating_sub(outstanding).min(LIST_BYTES);
        let room_here = (limits::IN_FLIGHT_MAX as u64).saturating_sub(self.bytes_in_flight);
        // A list of some size later, instead of many small ones now.
        if self.open.is_empty() || (outstanding > 0 && room < ahead / 4) || room_here < LIST_BYTES {
            return None;
        }
        if entry.hands_out == Some(true) {
            let bytes = room.max(limits::CHUNK_MAX as u64 / 4) as u32;
            let entry = self.peers.get_mut(&peer)?;
            entry.to_hand_out.push(bytes);
            self.bytes_in_flight += u64::from(bytes);
            return Some(Ask::HandOut(bytes));
        }
        if entry.barren || now < entry.rests {
            return None;
        }
        let list = self.rarest(now, peer, room);
        if list.chunks.is_empty() { None } else { Some(Ask::Chunks(list)) }
    }

    fn rarest(&mut self, now: Time, peer: MemberId, room: u64) -> ActionList {
        let alone = self.peers.len() == 1;
        let start = if alone { 0 } else { self.rng.random_range(0..self.state.len() as u32) };
        let others = self.peers.iter().filter(|(other, _)| **other != peer).map(|(_, p)| p);
        let handing_out = others.clone().any(|p| p.slow.is_none() && p.hands_out == Some(true));
        let Some(entry) = self.peers.get(&peer) else { return ActionList::default() };
        let spared = entry.hands_out == Some(false) || (entry.far && self.near_will_do(others));
        let patient = handing_out || now.since(entry.given_out) < PASSED_ON_WITHIN;
        let may = |at: &u32| entry.has(*at) && !entry.owes.contains_key(at);
        let due = |at: &u32| self.known[*at as usize] == 0 || self.overdue.contains(at);
        let around = self.open.range(start..).chain(self.open.range(..start)).copied();
        // Whoever is spared is looked at with every piece that comes and has nothing most of the
        // time, so not all that is open is walked for it.
        let mut found: Vec<u32> = if !spared {
            around.filter(may).take(COMPARED).collect()
        } else if patient {
            self.overdue.iter().copied().filter(may).take(COMPARED).collect()
        } else {
            let overdue = self.overdue.iter().copied().take(COMPARED);
            let looked_at = overdue.chain(around.take(LOOKED_AT).filter(due));
            let mut found: Vec<u32> = looked_at.filter(may).take(COMPARED).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        if found.is_empty() {
            // What is spared becomes due with time.
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.barren = !spared;
                if spared && !patient {
                    entry.rests = now + REMIND_EVERY;
                }
            }
            return ActionList::default();
        }
        if !alone {
            found.sort_by_key(|at| self.known[*at as usize]);
        }
        let mut list = ActionList::default();
        let mut bytes = 0;
        let Some(entry) = self.peers.get_mut(&peer) else { return list };
        for at in found {
            let chunk = self.positions.chunks()[at as usize];
            let len = u64::from(chunk.len);
            if (bytes > 0 && bytes + len > room) || list.chunks.len() == limits::ACTIONS_MAX {
                break;
            }
            bytes += len;
            list.chunks.push(chunk);
            entry.owes.insert(at, now);
            self.open.remove(&at);
            self.overdue.remove(&at);
        }
        entry.bytes_owed += bytes;
        self.bytes_in_flight += bytes;
        list
    }

    /// Whether it is not worth while to ask anybody far, beside these `others`.
    fn near_will_do<'p>(&self, others: impl Iterator<Item = &'p Peer>) -> bool {
        let (mut any, mut whole, mut pace) = (false, false, Some(0.0));
        for near in others.filter(|other| !other.far && other.slow.is_none()) {
            any = true;
            whole |= near.whole;
            pace = pace.and_then(|sum| Some(sum + near.pace?));
        }
        // What one has not got yet it gives no faster for being near; whose pace is not known may
        // be fast.
        let Some(pace) = pace.filter(|_| whole) else { return any };
        let missing = (self.progress.bytes_total - self.progress.bytes_done) as f64;
        any && (pace >= NEAR_PACE_MIN || missing < pace * NEAR_WITHIN.as_secs_f64())
    }

    /// What is to be expected of somebody who has not given anything yet, bytes a second: as much
    /// as if all who owe something shared evenly what comes from those who gave something.
    fn usual_pace(&self) -> Option<f64> {
        let owing = self.peers.values().filter(|p| p.outstanding() > 0).count();
        let paces = self.peers.values().filter_map(|p| p.pace);
        let sum = paces.fold(None, |sum, pace| Some(sum.unwrap_or(0.0) + pace));
        sum.map(|sum| sum / owing.max(1) as f64)
    }

    /// What is owed for too long becomes open for others.
    fn remind(&mut self, now: Time) {
        if now.since(self.reminded) < REMIND_EVERY {
            return;
        }
        self.reminded = now;
        let (mut late, mut turned) = (Vec::new(), false);
        let (at_the_end, usual) = (self.open.is_empty(), self.usual_pace());
        for peer in self.peers.values_mut() {
            let longest = peer.owed_max(false, usual);
            let slow = peer.owes.values().any(|since| now.since(*since) > longest);
            let owed_max = peer.owed_max(at_the_end, usual);
            let owed = peer.owes.iter().filter(|(_, since)| now.since(**since) > owed_max);
            late.extend(owed.map(|(at, _)| *at));
            turned |= peer.slow.is_some() != slow;
            peer.slow = slow.then(|| peer.slow.unwrap_or(now));
        }
        if turned {
            self.count_anew();
        }
        for at in late {
            let owing = self.peers.values().filter(|p| p.owes.contains_key(&at)).count();
            if owing == 1 && self.state[at as usize] == State::Open && self.open.insert(at) {
                self.overdue.insert(at);
                self.peers.values_mut().for_each(|p| p.barren = false);
            }
        }
    }

    /// Who crawls although others have all that it owes, and all that only it could be
    /// asked for: to be dropped.
    pub fn crawling(&self, now: Time) -> Vec<MemberId> {
        let crawls = |p: &Peer| p.slow.is_some_and(|since| now.since(since) >= CRAWLS_AFTER);
        let crawling = self.peers.iter().filter(|(_, peer)| crawls(peer));
        crawling.map(|(id, _)| *id).filter(|id| self.can_do_without(*id)).collect()
    }

    fn can_do_without(&self, peer: MemberId) -> bool {
        let well = |(id, p): &(&MemberId, &Peer)| **id != peer && p.slow.is_none();
        let others: Vec<&Peer> = self.peers.iter().filter(well).map(|(_, p)| p).collect();
        let missing = (0..self.state.len()).filter(|at| self.state[*at] == State::Open);
        !others.is_empty() && missing.map(|at| at as u32).all(|at| others.iter().any(|p| p.has(at)))
    }

    // What comes.

    /// Judges the answer to [`Ask::Chunks`] before its content is taken. The
    /// chunks whose bytes follow, in order; their lengths are as in the tree.
    pub fn announced(&mut self, peer: MemberId, list: &UpdateList) -> Result<Vec<Chunk>, Fault> {
        if list.updates.is_empty() {
            return Err(Fault::Empty);
        }
        let mut follow = Vec::new();
        for update in &list.updates {
            let (at, chunk, content) = self.check(update)?;
            let Some(entry) = self.peers.get_mut(&peer) else { return Ok(Vec::new()) };
            if !entry.owes.contains_key(&at) {
                return Err(Fault::Unasked(chunk.digest));
            }
            match content {
                Content::Inline => follow.push(chunk),
                Content::Lacking => {
                    entry.owes.remove(&at);
                    entry.bytes_owed -= u64::from(chunk.len);
                    self.bytes_in_flight -= u64::from(chunk.len);
                    if entry.has(at) && entry.passes_on() {
                        self.known[at as usize] = self.known[at as usize].saturating_sub(1);
                    }
                    entry.lacks.insert(at);
                    self.open_again(at);
                }
            }
        }
        Ok(follow)
    }

    /// The same for the answer to [`Ask::HandOut`]; with nothing in it, `peer`
    /// has given everything to somebody.
    pub fn handed_out(
        &mut self,
        now: Time,
        peer: MemberId,
        list: &UpdateList,
    ) -> Result<Vec<Chunk>, Fault> {
        let mut follow = Vec::new();
        let mut bytes = 0;
        for update in &list.updates {
            let (at, chunk, content) = self.check(update)?;
            let Some(entry) = self.peers.get_mut(&peer) else { return Ok(Vec::new()) };
            if content != Content::Inline || entry.owes.contains_key(&at) || follow.contains(&chunk)
            {
                return Err(Fault::Unasked(chunk.digest));
            }
            bytes += u64::from(chunk.len);
            follow.push(chunk);
        }
        let Some(entry) = self.peers.get_mut(&peer) else { return Ok(Vec::new()) };
        if entry.to_hand_out.is_empty() {
            return Err(list.updates.first().map_or(Fault::Empty, |_| Fault::TooMuch));
        }
        let asked = u64::from(entry.to_hand_out.remove(0));
        self.bytes_in_flight -= asked;
        if bytes > asked.max(limits::CHUNK_MAX as u64) {
            return Err(Fault::TooMuch);
        }
        if follow.is_empty() && entry.hands_out == Some(true) {
            entry.hands_out = Some(false);
            entry.barren = false;
            // Those near pass it on from now on, so who is far is spared for as long.
            self.peers.values_mut().for_each(|p| p.given_out = now);
            return Ok(follow);
        }
        for chunk in &follow {
            let Some(at) = self.positions.position(&chunk.digest) else { continue };
            entry.owes.insert(at, now);
            entry.bytes_owed += u64::from(chunk.len);
            self.bytes_in_flight += u64::from(chunk.len);
            self.open.remove(&at);
            self.overdue.remove(&at);
        }
        Ok(follow)
    }

    fn check(&self, update: &Update) -> Result<(u32, Chunk, Content), Fault> {
        let Update::Chunk { chunk, content } = update else { return Err(Fault::NoChunk) };
        let digest = chunk.digest;
        let at = self.positions.position(&digest).ok_or(Fault::Unasked(digest))?;
        let wanted = self.positions.chunks()[at as usize].len;
        if wanted != chunk.len {
            return Err(Fault::WrongLength { digest, wanted, found: chunk.len });
        }
        Ok((at, *chunk, *content))
    }

    /// The bytes of an announced chunk have come from `peer`. Whether they are
    /// wanted still: then they count as in flight until they are put away.
    pub fn came(&mut self, now: Time, peer: MemberId, digest: &Digest) -> bool {
        let Some(at) = self.positions.position(digest) else { return false };
        let len = u64::from(self.positions.chunks()[at as usize].len);
        if let Some(entry) = self.peers.get_mut(&peer)
            && entry.owes.remove(&at).is_some()
        {
            entry.bytes_owed -= len;
            self.bytes_in_flight -= len;
            entry.came(now, len);
        }
        if self.state[at as usize] != State::Open {
            self.progress.bytes_wasted += len;
            return false;
        }
        self.state[at as usize] = State::Came;
        self.open.remove(&at);
        self.overdue.remove(&at);
        self.bytes_in_flight += len;
        true
    }

    /// A chunk that came was put away, having the signature `found`. Its position,
    /// which others may be told; an error for whoever sent it.
    pub fn put_away(&mut self, digest: Digest, found: Digest) -> Result<u32, Fault> {
        let at = self.positions.position(&digest).ok_or(Fault::Unasked(digest))?;
        if self.state[at as usize] != State::Came {
            return Err(Fault::Unasked(digest));
        }
        let len = u64::from(self.positions.chunks()[at as usize].len);
        self.bytes_in_flight -= len;
        if found != digest {
            self.state[at as usize] = State::Open;
            self.progress.bytes_wasted += len;
            self.open_again(at);
            return Err(Fault::WrongBytes { wanted: digest, found });
        }
        self.state[at as usize] = State::Held;
        self.progress.chunks_done += 1;
        self.progress.bytes_done += len;
        Ok(at)
    }

    // How far it is.

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether everything has come and is put away.
    pub fn is_complete(&self) -> bool {
        self.progress.chunks_done == self.progress.chunks_total
    }

    /// Whether those who are asked owe nothing and have nothing of what is open.
    pub fn is_exhausted(&self) -> bool {
        let owes = |p: &Peer| p.outstanding() > 0 || p.hands_out == Some(true);
        let came = self.bytes_in_flight > 0;
        let gives = |at: &u32| self.peers.values().any(|p| p.has(*at));
        !self.is_complete()
            && !came
            && !self.peers.values().any(owes)
            && !self.open.iter().any(gives)
    }

    /// What is missing: chunks and bytes.
    pub fn lacking(&self) -> (u64, u64) {
        let Progress { chunks_done, chunks_total, bytes_done, bytes_total, .. } = self.progress;
        (chunks_total - chunks_done, bytes_total - bytes_done)
    }
}

#[cfg(test)]
mod tests;
