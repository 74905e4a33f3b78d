//! A new key for this member: from the command to the moment when it starts
//! again with it.
//!
//! The next key is on disk before it is proposed, and stays there until it is
//! known what became of it: whenever this member dies, it finds a key there
//! that the cluster knows. It becomes this member's key only after the change
//! is committed, on this member's disk and known to others (`parting`). So
//! there is one step that counts, the replacement of the key file, and every
//! start before it does again what was done already.
//!
//! A member that was away when the change came into force is told nothing by
//! those that know: they know only the new id. It is disowned, and then asks
//! them with its next keys (`ask_as_next`). What they hand over is checked from
//! its own record on, as everything else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Member,
    admission::Welcome,
    change::{
        Change, Rotation,
        rotate::{allowed, voters_without},
    },
    command::Outcome,
    event::{EventKind, Severity},
    io::Effect,
    operate::{Purpose, refuse_entry},
    parting::Parting,
};
use crate::{
    base::{
        MemberId, MemberName, Reason, Refusal, SecretKey, Time,
        catalog::{Catalog, Roster},
        limits,
        wire::{self, Kind},
    },
    proto::catalog::{self as register, CatchUp},
};

/// How often the same member is asked with the next keys.
const ASK_AS_EVERY: Duration = Duration::from_secs(1);

const WHAT: &str = "The key was not changed.";

/// Where that stands.
#[derive(Debug, Default)]
pub(super) struct Rotating {
    /// The next keys that are on disk, and the sequence that each is for.
    next: BTreeMap<MemberId, u64>,
    /// The command that waits for a key to be on disk.
    waiting: Option<u64>,
    /// Whether it is proposed.
    pending: bool,
    /// When a member that disowns this one was asked last.
    asked: BTreeMap<MemberId, Time>,
    /// Who does not know which of the next keys.
    unknown_to: BTreeMap<MemberId, BTreeSet<MemberId>>,
    /// Whose id is which, to notice that a member has another one.
    ids: BTreeMap<MemberName, MemberId>,
}

impl Rotating {
    pub fn new(next: BTreeMap<MemberId, u64>) -> Self {
        Self { next, ..Self::default() }
    }

    /// Whether a change of the key is asked for and not decided.
    pub fn is_under_way(&self) -> bool {
        self.waiting.is_some() || self.pending
    }

    /// The ids that this member may have by now, by keys on its disk.
    pub fn next_ids(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.next.keys().copied()
    }
}

impl Member {
    // From the command to the proposal.

    pub(super) fn rotate_key(
        &mut self,
        ticket: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let busy = |why: &str, todo: &str| Err(Refusal::new(Reason::Busy, WHAT, why, todo));
        if self.rotating.is_under_way() || self.leaving {
            let why = "This member gets a new key already, or leaves.";
            return busy(why, "Wait for the end of that.");
        }
        if self.asks.are_open() {
            let why = "It publishes or resolves something for somebody who waits for the answer.";
            return busy(why, "Wait for the end of that (`althing window`), and try again.");
        }
        if self.rotating.next.len() >= limits::NEXT_KEYS_MAX {
            let why = "It is not known what became of so many attempts before this one.";
            return busy(why, "Any other change settles them, as of a tag; then try again.");
        }
        let catalog = self.catalog();
        allowed(catalog, self.me)?;
        self.enough_without_this_one(&catalog.roster)?;
        let sequence = catalog.sequence;
        self.rotating.waiting = Some(ticket);
        effects.push(Effect::NextKey { sequence });
        Ok(())
    }

    /// The change itself needs a majority of those that keep their vote, and
    /// they have to be there to give this one its vote back.
    fn enough_without_this_one(&self, roster: &Roster) -> Result<(), Refusal> {
        let others = roster.voters().filter(|m| m.id != self.me);
        let (live, away): (Vec<_>, Vec<_>) = others.partition(|m| self.is_live(m.id));
        let (live, voters) = (live.len(), voters_without(roster, self.me));
        let needed = voters / 2 + 1;
        if live >= needed {
            return Ok(());
        }
        let away: Vec<String> = away.iter().map(|m| m.name.to_string()).take(10).collect();
        Err(Refusal::new(
            Reason::NoMajority,
            WHAT,
            format!(
                "With a new key this member has no vote until {needed} of the {voters} others give \
                 it, and {live} can be reached (missing: {}).",
                away.join(", ")
            ),
            "Bring the missing members back, and try again.",
        ))
    }

    /// The next key is on disk.
    pub(super) fn on_next_key(
        &mut self,
        now: Time,
        key: &SecretKey,
        sequence: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.rotating.next.insert(key.member(), sequence);
        let Some(ticket) = self.rotating.waiting.take() else { return };
        self.rotating.pending = true;
        let rotation = Rotation::new(self.catalog().cluster, sequence, &self.key, key);
        let change = Change::Rotate(Box::new(rotation));
        self.propose(now, change, Purpose::Rotate { ticket }, effects);
    }

    /// The proposal has ended, and this member is enrolled as before: it was refused.
    pub(super) fn rotation_ended(
        &mut self,
        ticket: u64,
        result: Result<u64, Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        self.rotating.pending = false;
        let text = format!("{} has a new key", self.name_of(self.me));
        let result = result.map(|sequence| Outcome::Done { sequence, text });
        effects.push(Effect::Reply { ticket, result });
    }

    /// The command that waits for the disk is answered: its member ends.
    pub(super) fn answer_rotation(&mut self, refusal: &Refusal, effects: &mut Vec<Effect>) {
        if let Some(ticket) = self.rotating.waiting.take() {
            effects.push(Effect::Reply { ticket, result: Err(refusal.clone()) });
        }
    }

    // A newer catalog.

    /// The next key by which this member is enrolled, if it is.
    pub(super) fn next_id(&self) -> Option<MemberId> {
        let roster = &self.catalog().roster;
        let next = || self.rotating.next.keys().copied().find(|id| roster.contains(*id));
        if roster.contains(self.me) { None } else { next() }
    }

    /// Tells of members that have another id than before.
    pub(super) fn note_ids(&mut self, catalog: &Catalog, effects: &mut Vec<Effect>) {
        let before = std::mem::take(&mut self.rotating.ids);
        for entry in &catalog.roster.members {
            let known = before.get(&entry.name).filter(|id| **id != entry.id);
            // Of itself it tells when it takes it up.
            if let Some(id) = known.filter(|id| **id != self.me && self.started) {
                let text = format!("{} has a new key: it was {id} and is {}", entry.name, entry.id);
                let (severity, kind) = (Severity::Info, EventKind::Catalog);
                self.tell_of(effects, severity, kind, entry.id, None, text);
            }
            self.rotating.ids.insert(entry.name.clone(), entry.id);
        }
    }

    /// Next keys that were proposed against an earlier catalog come into force no more.
    pub(super) fn settle_next_keys(&mut self, catalog: &Catalog, effects: &mut Vec<Effect>) {
        let before = self.rotating.next.len();
        self.rotating.next.retain(|_, sequence| *sequence >= catalog.sequence);
        if self.rotating.next.len() < before {
            self.rotating.unknown_to.clear();
            effects.push(Effect::ForgetKeys { sequence: catalog.sequence });
        }
    }

    /// The change is committed and on disk: this id is of the past.
    pub(super) fn on_rotated(&mut self, now: Time, to: MemberId, effects: &mut Vec<Effect>) {
        let text = format!("this member has a new key: it was {} and is {to}", self.me);
        self.tell_of(effects, Severity::Info, EventKind::Member, to, None, text);
        let sequence = self.catalog().sequence;
        let mut rest = BTreeMap::new();
        for (id, purpose) in std::mem::take(&mut self.purposes) {
            match purpose {
                Purpose::Rotate { ticket } => self.rotation_ended(ticket, Ok(sequence), effects),
                Purpose::Leave { ticket } => {
                    effects.push(Effect::Reply { ticket, result: Err(taking_up_a_key()) });
                }
                purpose => drop(rest.insert(id, purpose)),
            }
        }
        self.purposes = rest;
        self.answer_all(effects);
        if !self.started {
            effects.push(Effect::Peers(self.catalog().roster.clone()));
        }
        self.parting = Some(Parting::rotated(now, to));
    }

    /// A majority knows: it starts again as `to`.
    pub(super) fn take_up(&mut self, _now: Time, to: MemberId, effects: &mut Vec<Effect>) {
        self.expelled = true;
        effects.push(Effect::Rotated { to });
    }

    // Disowned, with next keys on disk.

    /// Asks a member that does not know this id whether it knows a next one.
    pub(super) fn ask_as_next(&mut self, now: Time, to: MemberId, effects: &mut Vec<Effect>) {
        // It may have moved.
        let Some(address) = self.membership.directory().get(&to).map(|c| c.address) else { return };
        let soon = |at: &Time| now.since(*at) < ASK_AS_EVERY;
        if self.rotating.next.is_empty() || self.rotating.asked.get(&to).is_some_and(soon) {
            return;
        }
        self.rotating.asked.insert(to, now);
        let next = self.rotating.next.keys();
        effects.extend(next.map(|id| Effect::AskAs { id: *id, to, address }));
    }

    /// Whether this member may yet be enrolled by a next key: those that disown
    /// it have not all said that they know none of them.
    pub(super) fn may_be_another(&self, disowned_by: &BTreeSet<MemberId>) -> bool {
        let roster = &self.catalog().roster;
        self.rotating.next.keys().any(|next| {
            let unknown_to = self.rotating.unknown_to.get(next);
            let both = unknown_to.into_iter().flatten().filter(|id| disowned_by.contains(id));
            !roster.is_majority(&both.copied().collect())
        })
    }

    pub(super) fn on_told(
        &mut self,
        now: Time,
        id: MemberId,
        by: MemberId,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        match wire::decode::<Welcome>(Kind::Message, bytes) {
            Ok(Welcome::Admitted { committed, lineage }) => {
                let catch_up = CatchUp { committed: *committed, links: lineage.after(0) };
                let message = register::Message::Commit(Box::new(catch_up));
                let mut wants = Vec::new();
                self.register.handle(now, by, message, &mut wants);
                self.heed_register(now, wants, effects);
            }
            Ok(Welcome::Refused(refusal)) if refusal.reason == Reason::Forbidden => {
                if self.catalog().roster.contains(by) {
                    self.rotating.unknown_to.entry(id).or_default().insert(by);
                }
            }
            // It could not say: it is asked again.
            Ok(Welcome::Refused(_)) | Err(_) => {}
        }
    }

    /// Somebody asks whether it is enrolled by the key that it has proven to hold.
    pub(super) fn answer_whether_enrolled(
        &self,
        ticket: u64,
        id: MemberId,
        effects: &mut Vec<Effect>,
    ) {
        if self.catalog().roster.contains(id) {
            self.welcome(ticket, effects);
            return;
        }
        let refusal = Refusal::new(
            Reason::Forbidden,
            "Nothing is told of this cluster.",
            "No member of it has that key.",
            "Nothing: whoever asks goes on with the key that it has.",
        );
        refuse_entry(ticket, refusal, effects);
    }
}

/// The refusal of a member between its old key and its new one.
pub(super) fn taking_up_a_key() -> Refusal {
    Refusal::new(
        Reason::Busy,
        "Nothing was changed.",
        "This member has a new key, and takes it up as soon as a majority of the members knows it.",
        "Try again in a moment, or on another member.",
    )
}
