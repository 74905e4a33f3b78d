//! Rumours: short words of one member to all others, beside the catalog. An
//! operator's event, and a question that every member answers.
//!
//! A rumour is signed by its origin and spreads as an epidemic: whoever hears
//! it first tells a few others at random. Now and then a member tells another
//! one what it keeps, and each asks for what it lacks, so that also those hear
//! of it that were away for a while. Nothing is said while nothing is kept.
//!
//! It promises little, and that on purpose: every live member hears a rumour
//! once, most within a few round trips, in no order; the Lamport time says
//! which could have caused which. What must be decided goes through the
//! register.
//!
//! **Invariant:** memory is bounded, for each origin and in all, and each
//! origin may speak only so often: a flood from one member displaces no other
//! member's rumours.
//!
//! Ideas: epidemic broadcast with rumour mongering and anti-entropy (Demers et
//! al., 1987); Lamport clocks (1978); user events and queries as in Serf.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use crate::base::{
    MemberId, SecretKey, Signature, Time,
    catalog::Roster,
    limits,
    wire::{self, Kind},
};

mod bucket;
mod query;
#[cfg(test)]
mod tests;

use bucket::Bucket;
use query::Queries;
pub use query::{Gathered, Reply};

/// To how many others a member tells what it hears for the first time.
const FANOUT: usize = 4;
/// How often what is kept is compared with somebody, while there is news.
const ROUND: Duration = Duration::from_millis(500);
/// How often, when the newest of it is older than [`NEWS`].
const ROUND_LATE: Duration = Duration::from_secs(5);
/// How long a rumour is news.
const NEWS: Duration = Duration::from_secs(5);
/// How long an event is kept for those that are away.
const KEPT: Duration = Duration::from_secs(120);
/// How long somebody who was asked for a rumour has to tell it.
const ASKED: Duration = Duration::from_secs(1);
/// Numbers of one origin that are remembered as heard, beside all older ones.
const HEARD_MAX: usize = 4 * limits::RUMORS_KEPT_EACH;

/// What members say to each other about rumours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Have you heard?
    Tell(#[serde(deserialize_with = "wire::bounded::<_, _, TELL_MAX>")] Vec<Signed>),
    /// This is what I keep. Tell me what I lack, and ask for what you lack.
    Have(#[serde(deserialize_with = "wire::bounded::<_, _, { limits::RUMORS_KEPT_MAX }>")] Names),
    /// Tell me these.
    Want(#[serde(deserialize_with = "wire::bounded::<_, _, { limits::RUMORS_KEPT_MAX }>")] Names),
    /// To the origin of a question alone.
    Answer {
        /// The question's number.
        number: u64,
        /// The answer; none if there is none here to a question of that name.
        #[serde(deserialize_with = "bounded_answer")]
        text: Option<String>,
    },
}

/// Rumours in one message.
const TELL_MAX: usize = 64;

/// Which rumours: by origin, their numbers.
pub type Names = Vec<(MemberId, u64)>;

fn bounded_answer<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    if text.as_ref().is_some_and(|text| text.len() > limits::ANSWER_MAX) {
        return Err(serde::de::Error::custom("an answer over its bound"));
    }
    Ok(text)
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rumor {
    /// Who said it.
    pub origin: MemberId,
    /// Higher in each rumour of an origin, over restarts too.
    pub number: u64,
    /// Lamport time: higher than that of everything its origin had heard.
    pub clock: u64,
    /// What kind it is.
    pub kind: RumorKind,
    /// What it is about: a word.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::RUMOR_NAME_MAX }>")]
    pub name: String,
    /// What goes with it.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::RUMOR_PAYLOAD_MAX }>")]
    pub payload: String,
}

/// What kind of rumour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RumorKind {
    /// Something happened.
    Event,
    /// Every member answers within so many milliseconds.
    Query {
        /// How long its origin waits.
        wait_ms: u32,
    },
}

const RUMOR: &str = "althing rumor";

/// A rumour as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    bytes: Vec<u8>,
    signature: Signature,
}

impl Signed {
    fn new(key: &SecretKey, rumor: &Rumor) -> Self {
        let bytes = wire::encode(Kind::Rumor, rumor);
        let signature = key.sign(RUMOR, &bytes);
        Self { bytes, signature }
    }

    fn read(&self) -> Option<Rumor> {
        wire::decode(Kind::Rumor, &self.bytes).ok()
    }

    fn is_signed(&self, rumor: &Rumor, roster: &Roster) -> bool {
        let origin = roster.get(rumor.origin);
        origin.is_some_and(|m| m.key.verify(RUMOR, &self.bytes, &self.signature))
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a message; may be lost.
    Send {
        /// To whom; never this member itself.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// An event, heard for the first time; this member's own included.
    Happened(Rumor),
    /// A question, heard for the first time: [`Rumors::answer`] it.
    Asked(Rumor),
    /// All have answered a question of ours, or its time is over.
    Ended {
        /// As given to [`Rumors::ask`].
        ticket: u64,
        /// What they said.
        gathered: Gathered,
    },
}

/// Why nothing was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RumorError {
    /// The name or the payload is too long, or the name is none.
    #[error(
        "a name has 1 to {} letters, digits, hyphens, dots, colons and underscores, and a payload \
         at most {} bytes",
        limits::RUMOR_NAME_MAX,
        limits::RUMOR_PAYLOAD_MAX
    )]
    Words,
    /// This member spoke too often of late.
    #[error("this member said so much just now that it has to wait a moment")]
    TooOften,
}

/// What was heard of one origin.
#[derive(Debug)]
struct Heard {
    /// Everything up to here counts as heard.
    floor: u64,
    /// What was heard beyond it.
    numbers: BTreeSet<u64>,
    /// How often it may still speak.
    bucket: Bucket,
}

#[derive(Debug)]
struct Kept {
    signed: Signed,
    until: Time,
}

/// The machine of one member.
pub struct Rumors {
    me: MemberId,
    key: SecretKey,
    rng: SmallRng,
    clock: u64,
    number: u64,
    heard: BTreeMap<MemberId, Heard>,
    kept: BTreeMap<(MemberId, u64), Kept>,
    /// Whom we asked for what, not to ask everybody.
    asked: BTreeMap<(MemberId, u64), Time>,
    queries: Queries,
    round_at: Option<Time>,
    news_until: Time,
}

impl Rumors {
    /// A member that has heard nothing. `number` is higher than that of every
    /// rumour that it ever spread; `seed` chooses whom it tells.
    pub fn new(now: Time, key: SecretKey, number: u64, seed: u64) -> Self {
        Self {
            me: key.member(),
            heard: BTreeMap::from([(key.member(), Heard::new(Bucket::own(now)))]),
            key,
            rng: SmallRng::seed_from_u64(seed),
            clock: 0,
            number,
            kept: BTreeMap::new(),
            asked: BTreeMap::new(),
            queries: Queries::default(),
            round_at: None,
            news_until: now,
        }
    }

    /// Tells all that something happened. Returns its Lamport time.
    pub fn tell(
        &mut self,
        now: Time,
        name: &str,
        payload: &str,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) -> Result<u64, RumorError> {
        let rumor = self.say(now, RumorKind::Event, name, payload, live, effects)?;
        let clock = rumor.clock;
        effects.push(Effect::Happened(rumor));
        Ok(clock)
    }

    /// Asks all. Ends with [`Effect::Ended`], after `wait` at the latest.
    #[expect(clippy::too_many_arguments, reason = "it is one question with its surroundings")]
    pub fn ask(
        &mut self,
        now: Time,
        ticket: u64,
        name: &str,
        payload: &str,
        wait: Duration,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RumorError> {
        if self.queries.is_full() {
            return Err(RumorError::TooOften);
        }
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let rumor = self.say(now, RumorKind::Query { wait_ms }, name, payload, live, effects)?;
        self.queries.open(now, rumor.number, ticket, wait, live);
        effects.push(Effect::Asked(rumor));
        Ok(())
    }

    /// This member's own answer to a question; none if it knows no such one.
    pub fn answer(
        &mut self,
        now: Time,
        origin: MemberId,
        number: u64,
        text: Option<String>,
        effects: &mut Vec<Effect>,
    ) {
        if origin == self.me {
            self.queries.answered(now, number, self.me, text, effects);
        } else {
            let message = Message::Answer { number, text };
            effects.push(Effect::Send { to: origin, message });
        }
    }

    /// A message from `from`, an enrolled peer.
    pub fn handle(
        &mut self,
        now: Time,
        from: MemberId,
        message: Message,
        roster: &Roster,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            Message::Tell(list) => {
                for signed in list {
                    self.hear(now, from, signed, roster, live, effects);
                }
            }
            Message::Have(names) => self.compare(now, from, &names, roster, effects),
            Message::Want(names) => {
                let keeps = |name: &&(MemberId, u64)| self.kept.contains_key(*name);
                let names: Names = names.iter().filter(keeps).copied().collect();
                self.pass_on(from, &names, effects);
            }
            Message::Answer { number, text } => {
                self.queries.answered(now, number, from, text, effects);
            }
        }
    }

    /// `member` has become live: it may have missed what was said.
    pub fn returned(&mut self, member: MemberId, effects: &mut Vec<Effect>) {
        if member != self.me && !self.kept.is_empty() {
            let message = Message::Have(self.names());
            effects.push(Effect::Send { to: member, message });
        }
    }

    /// Forgets who is not enrolled any more.
    pub fn retain(&mut self, roster: &Roster) {
        self.heard.retain(|origin, _| *origin == self.me || roster.contains(*origin));
        self.kept.retain(|(origin, _), _| roster.contains(*origin));
        self.asked.retain(|(origin, _), _| roster.contains(*origin));
    }

    /// When [`Rumors::tick`] is due.
    pub fn deadline(&self) -> Option<Time> {
        self.round_at.into_iter().chain(self.queries.deadline()).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, live: &BTreeSet<MemberId>, effects: &mut Vec<Effect>) {
        self.queries.tick(now, effects);
        if self.round_at.is_none_or(|at| now < at) {
            return;
        }
        self.kept.retain(|_, kept| now < kept.until);
        self.asked.retain(|_, at| now.since(*at) < ASKED);
        self.round_at = None;
        if self.kept.is_empty() {
            return;
        }
        self.plan_round(now);
        let others: Vec<MemberId> = live.iter().copied().filter(|m| *m != self.me).collect();
        if let Some(to) = others.choose(&mut self.rng).copied() {
            effects.push(Effect::Send { to, message: Message::Have(self.names()) });
        }
    }

    /// How many rumours are kept for others.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    // Saying.

    fn say(
        &mut self,
        now: Time,
        kind: RumorKind,
        name: &str,
        payload: &str,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) -> Result<Rumor, RumorError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        let named = !name.is_empty() && name.len() <= limits::RUMOR_NAME_MAX;
        if !named || !name.chars().all(fine) || payload.len() > limits::RUMOR_PAYLOAD_MAX {
            return Err(RumorError::Words);
        }
        let heard = self.heard.entry(self.me).or_insert_with(|| Heard::new(Bucket::own(now)));
        if !heard.bucket.take(now) {
            return Err(RumorError::TooOften);
        }
        self.clock += 1;
        self.number += 1;
        heard.note(self.number);
        let (origin, number, clock) = (self.me, self.number, self.clock);
        let (name, payload) = (name.to_owned(), payload.to_owned());
        let rumor = Rumor { origin, number, clock, kind, name, payload };
        let signed = Signed::new(&self.key, &rumor);
        self.keep(now, &rumor, signed.clone());
        self.spread(&rumor, &signed, None, live, effects);
        Ok(rumor)
    }

    /// Tells a few others.
    fn spread(
        &mut self,
        rumor: &Rumor,
        signed: &Signed,
        from: Option<MemberId>,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) {
        let knows = |m: &MemberId| *m == self.me || *m == rumor.origin || Some(*m) == from;
        let others: Vec<MemberId> = live.iter().copied().filter(|m| !knows(m)).collect();
        for to in others.choose_multiple(&mut self.rng, FANOUT) {
            let message = Message::Tell(vec![signed.clone()]);
            effects.push(Effect::Send { to: *to, message });
        }
    }

    // Hearing.

    fn hear(
        &mut self,
        now: Time,
        from: MemberId,
        signed: Signed,
        roster: &Roster,
        live: &BTreeSet<MemberId>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(rumor) = signed.read() else { return };
        // Its own words of before a restart are told to it, too, and are as new.
        let heard = self.heard.get(&rumor.origin);
        let near = rumor.clock < self.clock.saturating_add(limits::ROUND_LEAP_MAX);
        if heard.is_some_and(|h| h.knows(rumor.number)) || !near {
            return;
        }
        // What is forged by whoever passes it on costs its origin nothing.
        if !signed.is_signed(&rumor, roster) {
            return;
        }
        let heard = self.heard.entry(rumor.origin);
        let heard = heard.or_insert_with(|| Heard::new(Bucket::others(now)));
        if !heard.bucket.take(now) {
            return;
        }
        heard.note(rumor.number);
        self.clock = self.clock.max(rumor.clock) + 1;
        self.asked.remove(&(rumor.origin, rumor.number));
        self.keep(now, &rumor, signed.clone());
        self.spread(&rumor, &signed, Some(from), live, effects);
        effects.push(match rumor.kind {
            RumorKind::Event => Effect::Happened(rumor),
            RumorKind::Query { .. } => Effect::Asked(rumor),
        });
    }

    fn keep(&mut self, now: Time, rumor: &Rumor, signed: Signed) {
        let span = match rumor.kind {
            RumorKind::Event => KEPT,
            RumorKind::Query { wait_ms } => Duration::from_millis(wait_ms.into()).min(KEPT),
        };
        self.kept.insert((rumor.origin, rumor.number), Kept { signed, until: now + span });
        let each = |of: MemberId| (of, 0)..=(of, u64::MAX);
        if self.kept.range(each(rumor.origin)).count() > limits::RUMORS_KEPT_EACH {
            self.drop_oldest(rumor.origin);
        }
        if self.kept.len() > limits::RUMORS_KEPT_MAX {
            // Whoever said the most gives way.
            let mut counts = BTreeMap::<MemberId, usize>::new();
            for (origin, _) in self.kept.keys() {
                *counts.entry(*origin).or_default() += 1;
            }
            if let Some((most, _)) = counts.into_iter().max_by_key(|(_, count)| *count) {
                self.drop_oldest(most);
            }
        }
        self.news_until = now + NEWS;
        self.plan_round(now);
    }

    fn drop_oldest(&mut self, origin: MemberId) {
        let oldest = self.kept.range((origin, 0)..).next().map(|(name, _)| *name);
        if let Some(oldest) = oldest.filter(|(of, _)| *of == origin) {
            self.kept.remove(&oldest);
        }
    }

    fn plan_round(&mut self, now: Time) {
        let pause = if now < self.news_until { ROUND } else { ROUND_LATE };
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        // Not all at once.
        let pause = Duration::from_micros(self.rng.random_range(micros / 2..=micros));
        let at = now + pause;
        self.round_at = Some(self.round_at.map_or(at, |before| before.min(at)));
    }

    // Comparing.

    fn names(&self) -> Names {
        self.kept.keys().copied().collect()
    }

    fn compare(
        &mut self,
        now: Time,
        from: MemberId,
        names: &[(MemberId, u64)],
        roster: &Roster,
        effects: &mut Vec<Effect>,
    ) {
        let theirs: BTreeSet<(MemberId, u64)> = names.iter().copied().collect();
        let lack: Names = theirs
            .iter()
            .filter(|(origin, number)| {
                let heard = self.heard.get(origin);
                roster.contains(*origin) && heard.is_none_or(|h| !h.knows(*number))
            })
            .filter(|name| self.asked.get(name).is_none_or(|at| now.since(*at) >= ASKED))
            .take(TELL_MAX)
            .copied()
            .collect();
        if self.asked.len() < limits::RUMORS_KEPT_MAX {
            self.asked.extend(lack.iter().map(|name| (*name, now)));
        }
        if !lack.is_empty() {
            effects.push(Effect::Send { to: from, message: Message::Want(lack) });
        }
        let news: Names = self.kept.keys().filter(|name| !theirs.contains(name)).copied().collect();
        self.pass_on(from, &news, effects);
    }

    fn pass_on(&self, to: MemberId, names: &[(MemberId, u64)], effects: &mut Vec<Effect>) {
        let kept = names.iter().filter_map(|name| self.kept.get(name));
        let list: Vec<Signed> = kept.map(|k| k.signed.clone()).take(TELL_MAX).collect();
        if !list.is_empty() && to != self.me {
            effects.push(Effect::Send { to, message: Message::Tell(list) });
        }
    }
}

impl Heard {
    fn new(bucket: Bucket) -> Self {
        Self { floor: 0, numbers: BTreeSet::new(), bucket }
    }

    fn knows(&self, number: u64) -> bool {
        number <= self.floor || self.numbers.contains(&number)
    }

    fn note(&mut self, number: u64) {
        self.numbers.insert(number);
        if self.numbers.len() > HEARD_MAX
            && let Some(oldest) = self.numbers.pop_first()
        {
            self.floor = self.floor.max(oldest);
        }
    }
}
