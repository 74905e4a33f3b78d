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

use crate::base::{MemberId, Time, limits};

mod asking;
mod choose;
mod holding;
mod message;
#[cfg(test)]
mod tests;
mod voter;

use choose::Spread;
pub use choose::{Around, Candidates};
pub use message::{Effect, GivenUp, Message, Taken, Want};
use voter::Voter;

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
    /// What this member does as a voter.
    voter: Voter,
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
            voter: Voter::new(now, me),
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
        self.voter.holder(now, address).filter(|to| *to != self.me)
    }

    /// These are the voters from now on. They change by one at a time; whoever was granted
    /// something goes on being granted it, and nobody else is for [`GRANT`].
    pub fn set_voters(&mut self, now: Time, voters: BTreeSet<MemberId>) {
        if !self.voter.set_voters(now, voters) {
            return;
        }
        self.rounds.clear();
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
                if voters != self.voter.digest || !self.voter.members.contains(&from) {
                    return; // one of the two is behind
                }
                let (granted, refused) = self.voter.grant(now, from, round, &wants);
                let able = self.able;
                let message = Message::Answer { round, able, granted, refused };
                effects.push(Effect::Send { to: from, message });
                self.due = Some(self.due.map_or(now + GRANT, |due| due.min(now + GRANT)));
            }
            // Its own vote it counts without a message, and whether it is able it knows.
            Message::Answer { .. } if from == self.me => {}
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
                    if self.voter.release(now, from, round, address) {
                        self.others.remove(&address);
                        self.due = Some(now);
                    }
                }
            }
        }
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
        for member in self.voter.forget(now) {
            self.shunned.insert(member, now + SHUNNED);
        }
        self.shunned.retain(|_, until| *until > now);
        self.others.retain(|_, until| *until > now);
        self.offered.retain(|_, (.., until)| *until > now);
        self.rounds.retain(|_, round| round.sent + HOLD > now);
    }

    /// How many addresses each member holds, as far as this voter knows.
    fn spread(&self, now: Time) -> Spread {
        let live = self.voter.grants.iter().filter(|(_, grant)| grant.until > now);
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
            self.voter.members.contains(member)
                && !self.unable.contains(member)
                && (*member != self.me || (around.able && !around.leaving))
        };
        let of = |(address, all): (&IpAddr, &BTreeSet<MemberId>)| {
            (*address, all.iter().copied().filter(fit).collect())
        };
        around.wanted.iter().map(of).collect()
    }

    /// When to look again.
    fn next(&self, now: Time, around: &Around) -> Option<Time> {
        let held = self.held.values();
        let lets_go = held.map(|held| match held.yielding {
            Some(Yielding { letting_go: Some(at), .. }) => at.min(held.until),
            Some(yielding) => (yielding.since + YIELD_WITHIN).min(held.until),
            None => held.until.min(self.renew_at),
        });
        let grants = self.voter.grants.values().map(|grant| grant.until);
        let looks = (!around.wanted.is_empty()).then(|| now + LOOK_EVERY);
        let others = self.others.values().chain(self.wanted.values()).copied();
        let others = others.chain(self.doubts.values().map(|(_, at)| *at));
        let mute = (!around.wanted.is_empty() && now < self.voter.mute_until)
            .then_some(self.voter.mute_until);
        let all = lets_go.chain(grants).chain(looks).chain(others).chain(mute);
        // Never in the past, or the loop would not end.
        all.min().map(|at| at.max(now + Duration::from_millis(1)))
    }
}
