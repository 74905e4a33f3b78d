//! Who holds which virtual address: leases that a strict majority of the voters grants.
//!
//! Whoever wants addresses, or holds some, asks all voters for them, over and over. A voter
//! grants an address to one member at a time, for [`GRANT`] from the moment at which it was
//! asked. The member holds it for [`HOLD`] from the moment at which it *sent* the question that
//! a majority answered. That moment is the earlier one and that span the shorter one, so it has
//! always let go before a voter may give the address to another: of two majorities one voter
//! is in both. Clocks need not agree, only run about as fast (to one part in ten).
//!
//! Nothing is on disk. A voter that starts, and one whose roster's voters have changed, begins
//! no grant before all that may have been granted has run out ([`Leases::tick`]). Only who has
//! the same voters in mind is answered, so two majorities are of the same voters, or of
//! two sets that differ in one of them.
//!
//! A *planned* hand-over ([`Message::Yield`]) goes round the wait: the holder says that one other
//! member may have the address and renews it no more. With that consent, voters move their
//! grant at once. The successor says when it holds it, and a moment later the holder lets go: both
//! have it for some milliseconds, on purpose. A consent names the last question that the
//! holder has asked, so one that comes late, after the holder has asked again, is worth nothing.
//!
//! After leases as in Gray and Cheriton (1989), as PaxosLease (Trencseni et al., 2012) has them:
//! granted by a majority, without a disk and without synchronised clocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::base::{Digest, MemberId, Time, limits, wire};

mod choose;
#[cfg(test)]
mod tests;

pub use choose::{Around, Candidates};
use choose::{Plan, Spread};

/// How often a holder asks again.
pub const RENEW: Duration = Duration::from_millis(100);
/// How long an address is held after the question that a majority answered was sent: two of
/// three questions may be lost.
pub const HOLD: Duration = Duration::from_millis(360);
/// How long a voter grants an address after it was asked. What it is longer than [`HOLD`] is
/// for the holder to take the address off, and for clocks that do not run alike.
pub const GRANT: Duration = Duration::from_millis(400);
/// A member that stands next in line asks so much later.
const STAGGER: Duration = Duration::from_millis(50);
/// Who asked in vain asks again so much later, and up to twice.
const AGAIN: Duration = Duration::from_millis(150);
/// What another holds for less than this is as good as free.
const SOON: Duration = Duration::from_millis(10);
/// How long the rest of the answers is waited for when one voter has refused.
const DOUBT: Duration = Duration::from_millis(20);
/// How long a successor may take.
const YIELD_WITHIN: Duration = Duration::from_millis(120);
/// How long both have an address in a planned hand-over: for the others to hear of it.
const OVERLAP: Duration = Duration::from_millis(15);
/// Who lost an address, or did not take one that it was offered, stands last for so long.
const SHUNNED: Duration = Duration::from_secs(3);
/// How long addresses have to be spread unevenly before one is moved: no flapping.
const UNEVEN_FOR: Duration = Duration::from_secs(30);
/// How often the surroundings are looked at where nothing is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Questions that may be answered late.
const ROUNDS_MAX: usize = 16;

/// What members say to each other about addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// May I hold these, or go on holding them?
    Ask {
        /// Whom the asker takes for the voters.
        voters: Digest,
        /// Counts up, over restarts as well.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        wants: Vec<Want>,
    },
    /// These are yours.
    Answer {
        /// Of the question.
        round: u64,
        /// Whether the voter could hold addresses itself, as far as it knows.
        able: bool,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        granted: Vec<IpAddr>,
        /// Those that are another's, and for how much longer: milliseconds.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        refused: Vec<(IpAddr, u16)>,
    },
    /// I hold these and you may have them: I ask for them no more.
    Yield {
        /// The last question that I asked.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
    /// I hold what you have yielded.
    Taken {
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
    /// I hold these no more, nor do I want them.
    Release {
        /// The last question that I asked.
        round: u64,
        /// Which.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::LEASES_MAX }>")]
        addresses: Vec<IpAddr>,
    },
}

/// One address that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which.
    pub address: IpAddr,
    /// Who holds it and has yielded it to the asker, with the last question that it asked.
    pub consent: Option<(MemberId, u64)>,
}

/// Why an address is held from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nobody held it.
    Free,
    /// This member held it and let it lapse.
    Lapsed(MemberId),
    /// This member handed it over.
    HandedOver(MemberId),
}

/// Why an address is held no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// No majority of the voters has answered in time.
    NoMajority,
    /// This member has it now, as planned.
    HandedOver(MemberId),
    /// No application has it any more.
    Undefined,
    /// This member can't hold it or shall not, and nobody took it.
    Unfit,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// Hold an address that was not held, at once.
    Take {
        /// Which.
        address: IpAddr,
        /// Until when, unless it is renewed.
        until: Time,
        /// Why.
        why: Taken,
    },
    /// Go on holding it.
    Renew {
        /// Which.
        address: IpAddr,
        /// Until when.
        until: Time,
    },
    /// Hold it no longer, at once.
    Drop {
        /// Which.
        address: IpAddr,
        /// Why.
        why: GivenUp,
    },
}

/// What a voter has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    to: MemberId,
    /// The newest question of that member that was granted.
    round: u64,
    until: Time,
    /// Whose it was, with its question and until when: that one has consented, and may hold
    /// the address as well for as long.
    before: Option<(MemberId, u64, Time)>,
}

/// An address that this member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    until: Time,
    /// Being handed over.
    yielding: Option<Yielding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Yielding {
    to: MemberId,
    since: Time,
    /// The successor has it: when this member lets go.
    letting_go: Option<Time>,
}

/// A question that answers may still come for.
#[derive(Debug)]
struct Round {
    sent: Time,
    granted: BTreeMap<IpAddr, BTreeSet<MemberId>>,
    refused: BTreeMap<IpAddr, BTreeSet<MemberId>>,
}

/// All leases, as one member sees them: as a voter, and as one that may hold some.
#[derive(Debug)]
pub struct Leases {
    me: MemberId,
    /// Which voters are meant, how many are a majority, and who they are.
    voters: (Digest, BTreeSet<MemberId>),
    /// No grant is begun before.
    mute_until: Time,
    grants: BTreeMap<IpAddr, Grant>,
    /// Who let an address lapse last.
    lapsed: BTreeMap<IpAddr, MemberId>,
    held: BTreeMap<IpAddr, Held>,
    rounds: BTreeMap<u64, Round>,
    round_last: u64,
    /// When those that are held are asked for again.
    renew_at: Time,
    /// What is wanted and not held: when it is asked for again.
    wanted: BTreeMap<IpAddr, Time>,
    /// What was asked for in vain: others may have asked at the same moment.
    vain: BTreeSet<IpAddr>,
    /// What some voter refused: until when another holds it, and when it is given up.
    doubts: BTreeMap<IpAddr, (Time, Time)>,
    /// What others hold by the word of a voter: until when.
    others: BTreeMap<IpAddr, Time>,
    /// What may be taken over from whom, until when that is tried.
    offered: BTreeMap<IpAddr, (MemberId, u64, Time)>,
    /// Who stands last for a while.
    shunned: BTreeMap<MemberId, Time>,
    /// Voters that said that they can't hold any.
    unable: BTreeSet<MemberId>,
    /// Whether this member could.
    able: bool,
    /// Since when the spread is uneven.
    uneven: Option<Time>,
    /// When to look again, if there is anything to look at.
    due: Option<Time>,
    /// Draws the pauses after a question in vain.
    chance: u64,
}

impl Leases {
    /// At the start of member `me`. `round` is higher than that of any question that it
    /// has asked before.
    pub fn new(now: Time, me: MemberId, round: u64, seed: u64) -> Self {
        Self {
            me,
            voters: (Digest::of_bytes(b""), BTreeSet::new()),
            mute_until: now + GRANT,
            grants: BTreeMap::new(),
            lapsed: BTreeMap::new(),
            held: BTreeMap::new(),
            rounds: BTreeMap::new(),
            round_last: round,
            renew_at: now,
            wanted: BTreeMap::new(),
            vain: BTreeSet::new(),
            doubts: BTreeMap::new(),
            others: BTreeMap::new(),
            offered: BTreeMap::new(),
            shunned: BTreeMap::new(),
            unable: BTreeSet::new(),
            able: true,
            uneven: None,
            due: None,
            chance: seed | 1,
        }
    }

    /// When [`Leases::tick`] is due at the latest; never where there is nothing to hold.
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// The surroundings may have changed in a way that matters: look soon.
    pub fn look(&mut self, now: Time) {
        self.due = Some(now);
    }

    /// What this member holds, and until when.
    pub fn held(&self) -> impl Iterator<Item = (IpAddr, Time)> {
        self.held.iter().map(|(address, held)| (*address, held.until))
    }

    /// Who holds `address`, as far as this member knows from what it granted.
    pub fn holder(&self, now: Time, address: IpAddr) -> Option<MemberId> {
        if self.held.contains_key(&address) {
            return Some(self.me);
        }
        let grant = self.grants.get(&address).filter(|grant| grant.until > now);
        grant.map(|grant| grant.to).filter(|to| *to != self.me)
    }

    /// These are the voters from now on. They change by one at a time; whoever was granted
    /// something goes on being granted it, and nobody else is for [`GRANT`].
    pub fn set_voters(&mut self, now: Time, voters: BTreeSet<MemberId>) {
        if voters == self.voters.1 {
            return;
        }
        let mut bytes = Vec::new();
        for voter in &voters {
            bytes.extend(voter.0.0);
        }
        let first = self.voters.1.is_empty();
        self.voters = (Digest::of("althing voters", &bytes), voters);
        self.rounds.clear();
        if !first {
            self.mute_until = self.mute_until.max(now + GRANT);
        }
        self.renew_at = now;
        self.unable.clear();
        if self.due.is_some() {
            self.due = Some(now);
        }
    }

    /// A member says something.
    pub fn handle(
        &mut self,
        now: Time,
        from: MemberId,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            Message::Ask { voters, round, wants } => {
                if voters != self.voters.0 || !self.voters.1.contains(&from) {
                    return; // one of the two is behind
                }
                let (granted, refused) = self.grant(now, from, round, &wants);
                let able = self.able;
                let message = Message::Answer { round, able, granted, refused };
                effects.push(Effect::Send { to: from, message });
                self.due = Some(self.due.map_or(now + GRANT, |due| due.min(now + GRANT)));
            }
            Message::Answer { round, able, granted, refused } => {
                if able {
                    self.unable.remove(&from);
                } else {
                    self.unable.insert(from);
                }
                self.count(now, from, round, &granted, effects);
                self.count_refused(now, from, round, &refused, effects);
            }
            Message::Yield { round, addresses } => {
                for address in addresses {
                    if self.offered.len() < limits::LEASES_MAX {
                        // Longer than the holder waits: what is late is told from what counts.
                        self.offered.insert(address, (from, round, now + HOLD));
                    }
                }
                self.due = Some(now);
            }
            Message::Taken { addresses } => {
                for address in addresses {
                    let held = self.held.get_mut(&address);
                    let yielding = held.and_then(|held| held.yielding.as_mut());
                    if let Some(yielding) = yielding.filter(|y| y.to == from) {
                        yielding.letting_go.get_or_insert(now + OVERLAP);
                    }
                }
                self.due = Some(now);
            }
            Message::Release { round, addresses } => {
                for address in addresses {
                    let grant = self.grants.get(&address);
                    let theirs = grant.filter(|grant| grant.to == from && grant.round <= round);
                    if let Some(Grant { before, .. }) = theirs.copied() {
                        self.grants.remove(&address);
                        if let Some((to, round, until)) = before.filter(|(.., at)| *at > now) {
                            let grant = Grant { to, round, until, before: None };
                            self.grants.insert(address, grant);
                        }
                        self.others.remove(&address);
                        self.due = Some(now);
                    }
                }
            }
        }
    }

    /// As a voter: what of `wants` is `from`'s, and what is another's, for how much longer.
    fn grant(
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

    /// A voter granted what was asked in this round.
    fn count(
        &mut self,
        now: Time,
        from: MemberId,
        round: u64,
        granted: &[IpAddr],
        effects: &mut Vec<Effect>,
    ) {
        let majority = self.voters.1.len() / 2 + 1;
        if !self.voters.1.contains(&from) {
            return;
        }
        let Some(Round { sent, granted: by, .. }) = self.rounds.get_mut(&round) else { return };
        let until = *sent + HOLD;
        let mut won = Vec::new();
        for address in granted {
            let Some(voters) = by.get_mut(address) else { continue };
            voters.insert(from);
            if voters.len() == majority && until > now {
                won.push(*address);
            }
        }
        for address in won {
            self.won(now, address, until, effects);
        }
    }

    /// A voter refused what was asked in this round.
    fn count_refused(
        &mut self,
        now: Time,
        from: MemberId,
        round: u64,
        refused: &[(IpAddr, u16)],
        effects: &mut Vec<Effect>,
    ) {
        let spare = (self.voters.1.len().max(1) - 1) / 2;
        let mut vain = Vec::new();
        for (address, left) in refused {
            let Some(asked) = self.rounds.get_mut(&round) else { break };
            let asked_for = self.voters.1.contains(&from) && asked.granted.contains_key(address);
            let Some(at) = self.wanted.get_mut(address).filter(|_| asked_for) else { continue };
            let left = Duration::from_millis(u64::from(*left) + 1).min(GRANT);
            if left < SOON {
                // What ran out here is about to run out there.
                *at = (*at).min(now + left);
                continue;
            }
            let voters = asked.refused.entry(*address).or_default();
            voters.insert(from);
            let hopeless = voters.len() > spare;
            let (until, doubt) = self.doubts.get(address).copied().unwrap_or((now, now + DOUBT));
            self.doubts.insert(*address, (until.max(now + left), doubt));
            if hopeless {
                vain.push(*address);
            }
        }
        self.give_back(now, vain, effects);
        self.due = Some(now);
    }

    /// Gives back what some voters granted and others did not: else two members that ask at
    /// the same moment would block each other for ever.
    fn give_back(&mut self, now: Time, vain: Vec<IpAddr>, effects: &mut Vec<Effect>) {
        for address in &vain {
            let until = self.doubts.remove(address).map_or(now, |(until, _)| until);
            self.others.insert(*address, until);
            self.vain.insert(*address);
            self.wanted.remove(address);
            self.forget_rounds(*address);
        }
        self.release(now, vain, effects);
    }

    /// Answers that are still on their way count for `address` no more.
    fn forget_rounds(&mut self, address: IpAddr) {
        for round in self.rounds.values_mut() {
            round.granted.remove(&address);
        }
    }

    fn won(&mut self, now: Time, address: IpAddr, until: Time, effects: &mut Vec<Effect>) {
        if let Some(held) = self.held.get_mut(&address) {
            if until > held.until {
                held.until = until;
                effects.push(Effect::Renew { address, until });
            }
            return;
        }
        if self.wanted.remove(&address).is_none() {
            return; // not wanted any more
        }
        self.held.insert(address, Held { until, yielding: None });
        let lapsed = self.lapsed.remove(&address);
        self.vain.remove(&address);
        self.doubts.remove(&address);
        let offered = self.offered.remove(&address);
        let why = match (offered, lapsed) {
            (Some((from, ..)), _) => Taken::HandedOver(from),
            (None, Some(before)) if before != self.me => Taken::Lapsed(before),
            _ => Taken::Free,
        };
        // First the address, then the word that it is here.
        effects.push(Effect::Take { address, until, why });
        if let Some((to, ..)) = offered {
            let message = Message::Taken { addresses: vec![address] };
            effects.push(Effect::Send { to, message });
        }
        self.due = Some(now);
    }

    /// Time has passed, or something has changed: looks at everything.
    pub fn tick(&mut self, now: Time, around: &Around, effects: &mut Vec<Effect>) {
        self.able = around.able;
        self.forget(now);
        self.let_go(now, around, effects);
        self.hand_over(now, around, effects);
        let over = self.doubts.iter().filter(|(_, (_, at))| *at <= now);
        self.give_back(now, over.map(|(address, _)| *address).collect(), effects);
        self.want(now, around);
        self.ask(now, effects);
        self.due = self.next(now, around);
    }

    /// What has run out goes.
    fn forget(&mut self, now: Time) {
        let (lapsed, shunned) = (&mut self.lapsed, &mut self.shunned);
        self.grants.retain(|address, grant| {
            if grant.until <= now {
                lapsed.insert(*address, grant.to);
                shunned.insert(grant.to, now + SHUNNED);
            }
            grant.until > now
        });
        while self.lapsed.len() > limits::LEASES_MAX {
            self.lapsed.pop_first();
        }
        self.shunned.retain(|_, until| *until > now);
        self.others.retain(|_, until| *until > now);
        self.offered.retain(|_, (.., until)| *until > now);
        self.rounds.retain(|_, round| round.sent + HOLD > now);
    }

    /// What this member holds and may not, or need not, hold any more.
    fn let_go(&mut self, now: Time, around: &Around, effects: &mut Vec<Effect>) {
        let mut released = Vec::new();
        let all: Vec<(IpAddr, Held)> = self.held.iter().map(|(a, h)| (*a, *h)).collect();
        for (address, held) in all {
            let handed = held.yielding.and_then(|y| y.letting_go.map(|at| (y.to, at)));
            let why = match handed {
                Some((to, at)) if now >= at.min(held.until) => GivenUp::HandedOver(to),
                Some(_) => continue,
                None if held.until <= now => GivenUp::NoMajority,
                None if !around.wanted.contains_key(&address) => GivenUp::Undefined,
                None if !around.able => GivenUp::Unfit,
                None => continue,
            };
            self.drop_it(address, why, effects);
            if matches!(why, GivenUp::Undefined | GivenUp::Unfit) {
                released.push(address);
            }
        }
        self.release(now, released, effects);
    }

    fn drop_it(&mut self, address: IpAddr, why: GivenUp, effects: &mut Vec<Effect>) {
        self.held.remove(&address);
        self.forget_rounds(address);
        effects.push(Effect::Drop { address, why });
    }

    /// Tells the voters that these are free.
    fn release(&mut self, now: Time, addresses: Vec<IpAddr>, effects: &mut Vec<Effect>) {
        if addresses.is_empty() {
            return;
        }
        let message = Message::Release { round: self.round_last, addresses };
        for to in self.voters.1.iter().filter(|to| **to != self.me) {
            effects.push(Effect::Send { to: *to, message: message.clone() });
        }
        self.handle(now, self.me, message, effects);
    }

    /// Hands over what another member should hold.
    fn hand_over(&mut self, now: Time, around: &Around, effects: &mut Vec<Effect>) {
        let mut plan = Plan::new(self.spread(now), self.candidates(around));
        let mut yields: BTreeMap<MemberId, Vec<IpAddr>> = BTreeMap::new();
        let mut released = Vec::new();
        let all: Vec<(IpAddr, Held)> = self.held.iter().map(|(a, h)| (*a, *h)).collect();
        for (address, held) in all {
            match held.yielding {
                Some(yielding) if yielding.letting_go.is_some() => continue,
                Some(yielding) if now < yielding.since + YIELD_WITHIN => continue,
                Some(yielding) => {
                    self.shunned.insert(yielding.to, now + SHUNNED);
                    self.set_yielding(address, None);
                }
                None => {}
            }
            if plan.may_hold(self.me, address) {
                continue;
            }
            let shunned = &self.shunned;
            match plan.next(address, |member| member != self.me && !shunned.contains_key(&member)) {
                Some(to) => yields.entry(to).or_default().push(address),
                None if around.leaving => released.push(address),
                // Better here than nowhere.
                None => {}
            }
        }
        for address in &released {
            self.drop_it(*address, GivenUp::Unfit, effects);
        }
        self.release(now, released, effects);
        if yields.is_empty()
            && let Some((address, to)) = self.rebalance(now, &plan)
        {
            yields.insert(to, vec![address]);
        }
        for (to, addresses) in yields {
            for address in &addresses {
                self.set_yielding(*address, Some(Yielding { to, since: now, letting_go: None }));
            }
            let message = Message::Yield { round: self.round_last, addresses };
            effects.push(Effect::Send { to, message });
        }
    }

    fn set_yielding(&mut self, address: IpAddr, yielding: Option<Yielding>) {
        if let Some(held) = self.held.get_mut(&address) {
            held.yielding = yielding;
        }
    }

    /// An address that should move because this member has too many, and to whom.
    fn rebalance(&mut self, now: Time, plan: &Plan) -> Option<(IpAddr, MemberId)> {
        let shunned = &self.shunned;
        let held = self.held.iter().filter(|(_, held)| held.yielding.is_none());
        let found = plan.evener(self.me, held.map(|(address, _)| *address), |member| {
            !shunned.contains_key(&member)
        });
        let Some(found) = found else {
            self.uneven = None;
            return None;
        };
        let since = *self.uneven.get_or_insert(now);
        if now.since(since) < UNEVEN_FOR {
            return None;
        }
        // The next one has to wait as long.
        self.uneven = None;
        Some(found)
    }

    /// How many addresses each member holds, as far as this voter knows.
    fn spread(&self, now: Time) -> Spread {
        let live = self.grants.iter().filter(|(_, grant)| grant.until > now);
        let theirs = live
            .filter(|(address, grant)| grant.to != self.me && !self.held.contains_key(*address));
        let mut spread = Spread::default();
        for member in theirs.map(|(_, grant)| grant.to) {
            spread.add(member);
        }
        for _ in self.held.values() {
            spread.add(self.me);
        }
        spread
    }

    /// Who may hold what, without those that can't.
    fn candidates(&self, around: &Around) -> Candidates {
        let fit = |member: &MemberId| {
            self.voters.1.contains(member)
                && !self.unable.contains(member)
                && (*member != self.me || (around.able && !around.leaving))
        };
        let of = |(address, all): (&IpAddr, &BTreeSet<MemberId>)| {
            (*address, all.iter().copied().filter(fit).collect())
        };
        around.wanted.iter().map(of).collect()
    }

    /// Decides what to ask for beside what is held.
    fn want(&mut self, now: Time, around: &Around) {
        let candidates = self.candidates(around);
        let mut plan = Plan::new(self.spread(now), candidates);
        let mut wanted = BTreeMap::new();
        for address in around.wanted.keys().copied() {
            if self.held.contains_key(&address) {
                continue;
            }
            let before = self.wanted.get(&address).copied();
            if self.offered.contains_key(&address) {
                if plan.may_hold(self.me, address) {
                    wanted.insert(address, before.map_or(now, |at| at.min(now + STAGGER / 10)));
                }
                continue;
            }
            let grant = self.grants.get(&address).filter(|grant| grant.to != self.me);
            if grant.is_some() || self.others.contains_key(&address) || now < self.mute_until {
                continue;
            }
            // Whoever has just let one lapse may not be there any more.
            let shunned = &self.shunned;
            let rank = plan.rank(self.me, address, |member| shunned.contains_key(&member));
            if let Some(rank) = rank {
                let apart = if self.vain.contains(&address) { self.draw() } else { 0.0 };
                let at = now + STAGGER * rank + STAGGER.mul_f64(apart);
                wanted.insert(address, before.unwrap_or(at));
            }
        }
        self.vain.retain(|address| around.wanted.contains_key(address));
        self.doubts.retain(|address, _| wanted.contains_key(address));
        self.wanted = wanted;
    }

    /// Asks for what is held and for what is wanted, where it is time.
    fn ask(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let renews = now >= self.renew_at;
        let mut wants = Vec::new();
        if renews {
            let held = self.held.iter().filter(|(_, held)| held.yielding.is_none());
            wants.extend(held.map(|(address, _)| Want { address: *address, consent: None }));
            self.renew_at = now + RENEW;
        }
        let again = now + AGAIN + AGAIN.mul_f64(self.draw());
        for (address, at) in self.wanted.iter_mut().filter(|(_, at)| **at <= now) {
            let consent = self.offered.get(address).map(|(from, round, _)| (*from, *round));
            // A successor is waited for.
            *at = if consent.is_some() { now + STAGGER } else { again };
            wants.push(Want { address: *address, consent });
            self.vain.insert(*address);
        }
        wants.truncate(limits::LEASES_MAX);
        if wants.is_empty() || !self.voters.1.contains(&self.me) {
            return;
        }
        self.round_last += 1;
        let round = self.round_last;
        let granted = wants.iter().map(|want| (want.address, BTreeSet::new())).collect();
        let refused = BTreeMap::new();
        self.rounds.insert(round, Round { sent: now, granted, refused });
        while self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_first();
        }
        let mine = self.grant(now, self.me, round, &wants).0;
        let message = Message::Ask { voters: self.voters.0, round, wants };
        for to in self.voters.1.iter().filter(|to| **to != self.me) {
            effects.push(Effect::Send { to: *to, message: message.clone() });
        }
        self.count(now, self.me, round, &mine, effects);
    }

    /// From 0 to 1: xorshift (Marsaglia, 2003) is chance enough for a pause.
    fn draw(&mut self) -> f64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// When to look again.
    fn next(&self, now: Time, around: &Around) -> Option<Time> {
        let held = self.held.values();
        let lets_go = held.map(|held| match held.yielding {
            Some(Yielding { letting_go: Some(at), .. }) => at.min(held.until),
            Some(yielding) => (yielding.since + YIELD_WITHIN).min(held.until),
            None => held.until.min(self.renew_at),
        });
        let grants = self.grants.values().map(|grant| grant.until);
        let looks = (!around.wanted.is_empty()).then(|| now + LOOK_EVERY);
        let others = self.others.values().chain(self.wanted.values()).copied();
        let others = others.chain(self.doubts.values().map(|(_, at)| *at));
        let mute = (!around.wanted.is_empty() && now < self.mute_until).then_some(self.mute_until);
        let all = lets_go.chain(grants).chain(looks).chain(others).chain(mute);
        // Never in the past, or the loop would not end.
        all.min().map(|at| at.max(now + Duration::from_millis(1)))
    }
}
