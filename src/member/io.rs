//! The member's two enums: all that it can be told and all that it can want.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{
    command::{By, Command, Outcome, Staged},
    event::Event,
};
use crate::{
    base::{
        AppName, Digest, MemberId, PublicKey, Refusal, SecretKey, Time, VirtualAddress,
        catalog::{AppSpec, Roster},
    },
    proto::{catalog::Record, rollout::Sight},
};

/// What a member is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A SWIM packet from an enrolled peer.
    Packet {
        /// Its sender, whose key was checked.
        from: MemberId,
        /// As received.
        bytes: Vec<u8>,
    },
    /// A message from an enrolled peer.
    Message {
        /// Its sender, whose key was checked.
        from: MemberId,
        /// As received.
        bytes: Vec<u8>,
    },
    /// The transport lost a peer: a hint.
    Lost {
        /// Which.
        member: MemberId,
    },
    /// A peer's host says that nobody listens at its port: a strong hint.
    Refused {
        /// Which.
        member: MemberId,
    },
    /// A peer, whose key was checked, says that it does not know this member.
    Disowned {
        /// Which.
        member: MemberId,
    },
    /// What answers at a peer's address is in another cluster. Nobody proved it.
    Foreign {
        /// Which.
        member: MemberId,
    },
    /// The record with this token, and so all before it, is synced.
    Persisted {
        /// As given.
        token: u64,
    },
    /// A stranger knocks. Answered by [`Effect::Answer`].
    Knock {
        /// For the answer.
        ticket: u64,
        /// Its key, proven by the handshake.
        key: PublicKey,
        /// The keying material exported from that handshake.
        exporter: [u8; 32],
        /// Where it comes from.
        from: SocketAddr,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// An operator's command. Answered by [`Effect::Reply`].
    Command {
        /// For the answer.
        ticket: u64,
        /// What.
        command: Command,
        /// Who, if a token was shown.
        by: Option<By>,
    },
    /// A next key is on disk, with the sequence that it is for: see [`Effect::NextKey`].
    NextKey {
        /// It.
        key: SecretKey,
        /// As given.
        sequence: u64,
    },
    /// What a member answered to the question of [`Effect::AskAs`].
    Told {
        /// As whom it was asked.
        id: MemberId,
        /// Who answered.
        by: MemberId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Who answered to the question of [`Effect::Seek`], and what.
    Found {
        /// As whom it was asked.
        id: MemberId,
        /// As given.
        address: SocketAddr,
        /// Who answered, by the key that it has proven to hold.
        by: MemberId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Some of a fetch has arrived.
    Fetching {
        /// Of what.
        root: Digest,
        /// Bytes so far.
        bytes: u64,
    },
    /// A fetch has ended; on success the content is whole and synced. Or, while it goes on: a
    /// member that was asked beside the holder has been dropped.
    Fetched {
        /// Of what.
        root: Digest,
        /// From whom.
        from: MemberId,
        /// How.
        result: Result<(), FetchFailure>,
    },
    /// A switch has ended.
    Activated {
        /// Of which application.
        app: AppName,
        /// To which version.
        version: u64,
        /// How.
        result: Result<Switched, ContentFailure>,
    },
    /// The live content may have changed: look at it.
    Noticed {
        /// Of which application.
        app: AppName,
    },
    /// A scan of the live content has ended.
    Scanned {
        /// Of which application.
        app: AppName,
        /// What was found: `None` for nothing there.
        result: Result<Option<Digest>, ContentFailure>,
        /// How long it took; the next one waits in proportion.
        took: Duration,
    },
    /// A repair has ended.
    Repaired {
        /// Of which application.
        app: AppName,
        /// To what it was to be repaired.
        root: Digest,
        /// What it did: one line for each path, cut at a few.
        result: Result<Repair, ContentFailure>,
    },
    /// The store turned out not to hold this whole any more: a scrub, or
    /// somebody who wanted it, met a chunk that is lost or rotten.
    Damaged {
        /// Which.
        root: Digest,
    },
    /// The live content of what is placed elsewhere was taken away.
    Withdrawn {
        /// Of which application.
        app: AppName,
        /// How.
        result: Result<Withdrawn, ContentFailure>,
    },
    /// What virtual addresses the live versions here define.
    Addresses {
        /// By application.
        defined: BTreeMap<AppName, BTreeSet<VirtualAddress>>,
        /// Why this member can hold none, a sentence without its point; none if it can.
        unable: Option<String>,
    },
    /// How what runs of the live version is.
    Seen {
        /// Of which application.
        app: AppName,
        /// Of which version.
        version: u64,
        /// How.
        sight: Sight,
    },
    /// This member is about to stop: others are to have the addresses that it holds. See
    /// [`Member::holds_addresses`](super::Member::holds_addresses) for when they do.
    HandOver,
    /// Somebody works here on the current version of an application: it is wanted whole,
    /// wherever it is placed.
    Sought {
        /// Of which application.
        app: AppName,
    },
    /// The live content was taken into the store.
    Ingested {
        /// Of which application.
        app: AppName,
        /// What it is.
        result: Result<Staged, ContentFailure>,
    },
}

/// What a switch made of the live content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// What is live now: the version's root, unless edits were kept.
    pub root: Digest,
    /// Edits that the version does not touch, and that are in the live content still.
    pub kept: u64,
    /// Edits of what the version changed as well: the version has it, and what
    /// was edited is kept aside.
    pub aside: u64,
    /// The first few paths of these, for people.
    pub sample: Vec<String>,
}

impl Switched {
    /// To the content `root` as it is.
    pub fn whole(root: Digest) -> Self {
        Self { root, kept: 0, aside: 0, sample: Vec::new() }
    }
}

/// What became of live content that was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Edited files, which are kept aside.
    pub aside: u64,
    /// Ignored things, which stay where they are.
    pub left: u64,
    /// Where the edited files are, for people.
    pub place: Option<String>,
}

/// What a repair did to the live content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Paths whose content was put right.
    pub set: u64,
    /// Paths that were missing.
    pub added: u64,
    /// Paths that were not wanted.
    pub deleted: u64,
    /// The first few paths, for people.
    pub sample: Vec<String>,
}

/// Whom content is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    /// Who holds it whole.
    pub from: MemberId,
    /// Who is fetching it as well, or may hold it.
    pub peers: Vec<MemberId>,
    /// Who of all these is far, as others are not.
    pub far: BTreeSet<MemberId>,
}

/// Why a fetch did not bring everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// This holder does not have it, or not all of it.
    Lacking,
    /// This holder sent something that is not what it said.
    Lied(String),
    /// The connection broke; what arrived is kept.
    Broken(String),
    /// It owes for seconds what others have.
    Crawls,
    /// This member could not store it.
    Disk(String),
}

/// Why something was not done to content. The live content is whole either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentFailure {
    /// The store does not hold it whole after all: fetch it again.
    Lost(String),
    /// A newer version was switched to already.
    Outdated,
    /// The disk, permissions, or what stands at the path.
    Failed(String),
}

impl ContentFailure {
    /// For people, without a full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::Lost(why) => format!("the store has lost some of it: {why}"),
            Self::Outdated => "a newer version is live already".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }
}

/// What a member wants done. All of it may be slow; what answers comes back
/// as an [`Input`].
#[derive(Debug)]
pub enum Effect {
    /// Send a SWIM packet, as a datagram if it fits.
    Packet {
        /// To whom.
        to: MemberId,
        /// As is.
        bytes: Vec<u8>,
    },
    /// Send a message on a stream of its own.
    Message {
        /// To whom.
        to: MemberId,
        /// As is.
        bytes: Vec<u8>,
    },
    /// Sync this record, then say [`Input::Persisted`]. In order.
    Persist {
        /// Comes back.
        token: u64,
        /// What.
        record: Box<Record>,
    },
    /// Keep this number: a restarted member starts above it.
    Generation(u64),
    /// Whom connections are accepted from, from now on.
    Peers(Roster),
    /// A peer is reached here now.
    Address {
        /// Which.
        member: MemberId,
        /// Where.
        address: SocketAddr,
    },
    /// Answer a stranger.
    Answer {
        /// As given.
        ticket: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Answer an operator.
    Reply {
        /// As given.
        ticket: u64,
        /// What.
        result: Result<Outcome, Refusal>,
    },
    /// Draw a key that this member may have next, keep it with this number
    /// beside those that are kept already, and say [`Input::NextKey`] once that
    /// is synced. The core has no randomness that guards secrets.
    NextKey {
        /// The sequence of the catalog that it is to be proposed against.
        sequence: u64,
    },
    /// Next keys that are kept for lower sequences will never be used.
    ForgetKeys {
        /// See above.
        sequence: u64,
    },
    /// Knock at a member with this member's key or with a next one, say
    /// [`IS_ENROLLED`] and bring the answer back as [`Input::Told`].
    ///
    /// [`IS_ENROLLED`]: super::admission::IS_ENROLLED
    AskAs {
        /// The id of that key.
        id: MemberId,
        /// Whom.
        to: MemberId,
        /// Where the roster says that it is.
        address: SocketAddr,
    },
    /// Knock with this member's key or with a next one at an address where somebody of the
    /// cluster may be, say [`IS_ENROLLED`] and bring the answer back as [`Input::Found`].
    ///
    /// [`IS_ENROLLED`]: super::admission::IS_ENROLLED
    Seek {
        /// The id of that key.
        id: MemberId,
        /// Where.
        address: SocketAddr,
    },
    /// Bring `root` whole into the store.
    Fetch {
        /// What.
        root: Digest,
        /// From whom.
        whom: Whom,
    },
    /// Switch the live content to this version, which the store holds whole,
    /// unless a catalog with a higher sequence was acted on already.
    Activate {
        /// Of which application.
        app: AppName,
        /// Which version.
        version: u64,
        /// The catalog sequence that says so.
        sequence: u64,
        /// Its content.
        root: Digest,
        /// How it is held.
        spec: Box<AppSpec>,
        /// Whether what was edited in the live content since the version before
        /// is kept: what the new version does not touch stays as it was edited,
        /// and the rest is kept aside.
        keep_edits: bool,
        /// Whether this version was published as an edit of the live content here: if it
        /// was taken from what is live, what differs from it by now was edited later.
        own: bool,
    },
    /// Sign the live content.
    Scan {
        /// Of which application.
        app: AppName,
        /// Somebody noticed a change: to look there is enough, where it is known where.
        noticed: bool,
    },
    /// Make the live content what `root` is, keeping aside what is replaced.
    Repair {
        /// Of which application.
        app: AppName,
        /// To what.
        root: Digest,
    },
    /// Take the live content away: it is placed on others, and they have it. What was
    /// edited is kept aside, and what is ignored stays.
    Withdraw {
        /// Of which application.
        app: AppName,
        /// The catalog sequence that says so.
        sequence: u64,
    },
    /// Take the live content into the store.
    Ingest {
        /// Of which application.
        app: AppName,
    },
    /// Content with other roots than these is not needed any more.
    Retain {
        /// All roots of all kept versions, of what is staged or about to be, of what is live here,
        /// and of what others may count on.
        roots: Vec<Digest>,
    },
    /// Have exactly these virtual addresses on an interface, at once.
    Addresses {
        /// Each with the time at which it goes, unless this is said again.
        held: BTreeMap<VirtualAddress, Time>,
    },
    /// Something worth telling.
    Event(Event),
    /// This member has another id from now on: its next key takes the place of
    /// its key, and it starts again with it. Its record stays.
    Rotated {
        /// The id of that key.
        to: MemberId,
    },
    /// This member is no longer enrolled: by its own wish, or not.
    Expelled {
        /// Whether it left by itself.
        left: bool,
    },
}

/// What a starting member remembers.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Of the register.
    pub record: Record,
    /// A number higher than any that this member used before: the wall clock
    /// in milliseconds, or the kept one and one more.
    pub generation: u64,
    /// The roots that its store holds whole.
    pub whole: Vec<Digest>,
    /// What is live: the version switched to last.
    pub activated: BTreeMap<AppName, u64>,
    /// The ids of the next keys that are kept, and the sequence that each is for.
    pub next_keys: BTreeMap<MemberId, u64>,
}
