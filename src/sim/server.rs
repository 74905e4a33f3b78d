//! One server: a disk that survives, and the member that runs on it or not.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use super::{Invariant, moves::Dialled};
use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, SecretKey, Time, WallTime,
        wire::{self, Kind},
    },
    member::{Input, Member, admission::Token},
    proto::catalog::{BallotNumber, Record},
};

/// What of a server survives a crash.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Of the register.
    pub record: Option<Box<Record>>,
    /// The number that the next start must exceed.
    pub generation: u64,
    /// What the store holds whole.
    pub whole: BTreeSet<Digest>,
    /// What of it was put there since the last collection.
    pub young: BTreeSet<Digest>,
    /// The version that was switched to last.
    pub activated: BTreeMap<AppName, u64>,
    /// The sequence that said so: an older one switches nothing any more.
    pub fence: BTreeMap<AppName, u64>,
    /// The live content; not there if wiped.
    pub live: BTreeMap<AppName, Digest>,
    /// What was live until when, in microseconds.
    pub was_live: BTreeMap<(AppName, Digest), u64>,
    /// What the store lost by itself and had promised to keep.
    pub rotten: BTreeSet<Digest>,
    /// All that it ever lost: others may count on it for a while.
    pub ever_rotten: BTreeSet<Digest>,
    /// Keys that it may have next, and the sequence that each is for.
    pub next_keys: Vec<(SecretKey, u64)>,
    /// Every accept that was synced.
    pub accepts: BTreeMap<BallotNumber, Digest>,
}

impl Disk {
    /// The store holds `root` from now on.
    pub fn put(&mut self, root: Digest) {
        self.whole.insert(root);
        self.young.insert(root);
        self.rotten.remove(&root);
    }

    /// Changes the live content at `now`.
    pub fn set_live(&mut self, now: u64, app: &AppName, root: Option<Digest>) {
        let before = match root {
            Some(root) => self.live.insert(app.clone(), root),
            None => self.live.remove(app),
        };
        if let Some(before) = before {
            self.was_live.insert((app.clone(), before), now);
        }
    }

    /// Whether `root` was live at `since` or later.
    pub fn held_since(&self, app: &AppName, root: Digest, since: u64) -> bool {
        self.live.get(app) == Some(&root)
            || self.was_live.get(&(app.clone(), root)).is_some_and(|until| *until >= since)
    }

    /// A record is synced. Whether it has accepted anything new.
    pub fn sync(&mut self, record: Box<Record>) -> bool {
        let mut new = false;
        if let Some(accepted) = &record.accepted {
            self.accepts.entry(accepted.ballot).or_insert_with(|| {
                new = true;
                accepted.catalog.digest()
            });
        }
        self.record = Some(record);
        new
    }

    /// The record as a start reads it: through the format on disk.
    pub fn read_record(&self) -> Option<Record> {
        let record = self.record.as_ref()?;
        let (bytes, digest) = Self::file(record);
        assert_eq!(Digest::of_bytes(&bytes), digest, "the file is whole");
        let read = wire::decode(Kind::Record, &bytes).expect("what was written can be read");
        assert_eq!(**record, read, "a record is read as it was written");
        Some(read)
    }

    /// The record's file: its bytes, and the signature of them in its header,
    /// as the store writes it.
    fn file(record: &Record) -> (Vec<u8>, Digest) {
        let bytes = wire::encode(Kind::Record, record);
        let digest = Digest::of_bytes(&bytes);
        (bytes, digest)
    }

    /// Whether a start would notice that the writing of `record` was cut short
    /// after `at` bytes. The store writes aside and renames, so it never reads
    /// such a file; if it did, it would have to know.
    pub fn notices_cut(record: &Record, at: usize) -> bool {
        let (bytes, digest) = Self::file(record);
        Digest::of_bytes(&bytes[..at % bytes.len()]) != digest
    }

    /// Whether a start would notice that bit `bit` of the record has turned: a
    /// member with such a record must not start, and never takes it for none.
    pub fn notices_rot(&self, bit: usize) -> bool {
        let Some(record) = &self.record else { return false };
        let (mut bytes, digest) = Self::file(record);
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        Digest::of_bytes(&bytes) != digest
    }
}

/// What is being done to the live content of one application.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Scan,
    Activate { version: u64, sequence: u64, root: Digest, keep_edits: bool },
    Repair { root: Digest },
    Withdraw { sequence: u64 },
    Ingest,
}

/// What a delivered input is, for the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A ballot of this member, made at this sequence, with this stamp.
    Ballot {
        of: MemberId,
        sequence: u64,
        stamp: u64,
    },
    /// A proposer asks for a promise, or to accept.
    Ask(BallotNumber),
    Other,
}

/// The newest ballot of somebody that was taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub at: u64,
    pub sequence: u64,
    stamp: u64,
}

/// How wrong a wall clock is at most, in milliseconds ahead of an hour behind.
pub(super) const SKEW_MS_MAX: u64 = 5_400_000;

/// Questions that are remembered, the highest: more than are ever under way.
const ASKS_MAX: usize = 64;

/// A newcomer that knocks.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    pub token: Token,
    pub tries: u32,
}

/// One server.
pub(super) struct Server {
    pub key: SecretKey,
    pub id: MemberId,
    pub name: MemberName,
    pub address: SocketAddr,
    pub disk: Disk,
    /// While its process runs.
    pub member: Option<Member>,
    /// Counts the starts and the ends: what belongs to another run is void.
    pub run: u64,
    /// When this run started.
    pub boot: u64,
    /// Its process is dead, and its host says that nobody listens there.
    pub refuses: bool,
    /// Everything reaches it late.
    pub slow: bool,
    /// How wrong its wall clock is, in milliseconds ahead of an hour behind.
    pub skew_ms: u64,
    /// Whom its transport accepts.
    pub peers: BTreeSet<MemberId>,
    /// Where it dials them.
    pub dials: BTreeMap<MemberId, Dialled>,
    /// The servers that have a connection to this run of it, each with its run.
    pub callers: BTreeMap<usize, u64>,
    /// Where its next run looks for others.
    pub seeds: Vec<SocketAddr>,
    /// How often its operator has started it again with addresses of others.
    pub joins: usize,
    /// Where it ever ran.
    pub was_at: BTreeSet<SocketAddr>,
    pub tick_at: Option<u64>,
    /// Ticks in a row after which it wanted another one at once.
    pub spins: u32,
    /// While its process stands still: what waits for it.
    pub paused: Option<Vec<(Input, Tag)>>,
    /// Records that are not synced yet.
    pub writes: VecDeque<(u64, Box<Record>)>,
    /// Whether the disk is at work on them.
    pub writing: bool,
    /// What it switched to in this run, in the place of another version, and does not get ready.
    pub failing: BTreeSet<(AppName, u64)>,
    /// What the member said last that its store is to keep, in this run.
    pub kept: Option<BTreeSet<Digest>>,
    /// How many collections are to come.
    pub collections: u32,
    pub work: BTreeMap<AppName, Work>,
    /// The newest ballots that it took in, by voter.
    pub heard: BTreeMap<MemberId, Heard>,
    /// Ballot numbers that it was asked about, and whether it knew whoever
    /// asked to be enrolled when it was.
    pub asks: BTreeMap<BallotNumber, bool>,
    /// What it had promised when it died, and not accepted yet.
    pub promised_before: Option<BallotNumber>,
    /// Until when its disk is slow.
    pub slow_until: u64,
    /// Its record is not what was written: it never starts again.
    pub rotten: bool,
    pub joining: Option<Joining>,
    /// It left, or was told that it was removed.
    pub gone: bool,
    /// The newest sequence that any run of it made visible.
    pub seen: u64,
}

impl Server {
    /// A server that was never started. The first one's name bears `first_name`.
    pub fn new(
        number: usize,
        first_name: usize,
        key: SecretKey,
        skew_ms: u64,
    ) -> Result<Self, Invariant> {
        let name = format!("m{}", number + first_name);
        let name = MemberName::parse(&name).expect("a letter and digits");
        let host = u8::try_from(number + 1).map_err(|_| Invariant::Simulator)?;
        Ok(Self {
            id: key.member(),
            key,
            name,
            address: ([10, 0, 0, host], 7_700).into(),
            disk: Disk::default(),
            member: None,
            run: 0,
            boot: 0,
            refuses: false,
            slow: false,
            skew_ms,
            peers: BTreeSet::new(),
            dials: BTreeMap::new(),
            callers: BTreeMap::new(),
            seeds: Vec::new(),
            joins: 0,
            was_at: BTreeSet::new(),
            tick_at: None,
            spins: 0,
            paused: None,
            writes: VecDeque::new(),
            writing: false,
            failing: BTreeSet::new(),
            kept: None,
            collections: 0,
            work: BTreeMap::new(),
            heard: BTreeMap::new(),
            asks: BTreeMap::new(),
            promised_before: None,
            slow_until: 0,
            rotten: false,
            joining: None,
            gone: false,
            seen: 0,
        })
    }

    /// The member's own monotonic clock.
    pub fn time(&self, now: u64) -> Time {
        Time(now - self.boot + 1_000)
    }

    /// The server's wall clock.
    pub fn wall(&self, now: u64) -> WallTime {
        wall_of(now, self.skew_ms)
    }

    /// Notes what the running member is about to be told.
    pub fn note(&mut self, now: u64, tag: Tag) {
        let Some(member) = &self.member else { return };
        match tag {
            Tag::Ballot { of, sequence, stamp } => {
                if self.heard.get(&of).is_none_or(|heard| heard.stamp < stamp) {
                    self.heard.insert(of, Heard { at: now, sequence, stamp });
                }
            }
            Tag::Ask(ballot) => {
                let enrolled = member.catalog().roster.contains(ballot.proposer);
                *self.asks.entry(ballot).or_insert(false) |= enrolled;
                if self.asks.len() > ASKS_MAX {
                    self.asks.pop_first();
                }
            }
            Tag::Other => {}
        }
    }

    /// Whether it runs and is not standing still.
    pub fn is_up(&self) -> bool {
        self.member.is_some() && self.paused.is_none()
    }
}

/// What a wall clock shows that is so wrong.
fn wall_of(now: u64, skew_ms: u64) -> WallTime {
    // 2026, an hour early, and as wrong as this clock is.
    WallTime(1_790_000_000_000 - 3_600_000 + now / 1_000 + skew_ms)
}

/// What no wall clock has shown until `now`, but for the one that is furthest ahead.
pub(super) fn latest_wall(now: u64) -> WallTime {
    wall_of(now, SKEW_MS_MAX)
}
