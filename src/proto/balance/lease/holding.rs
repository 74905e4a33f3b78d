//! Giving up what is held: because its time is over, or for another to have it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Held, Leases, SHUNNED, UNEVEN_FOR, YIELD_WITHIN, Yielding,
    choose::{Around, Plan},
    message::{Effect, GivenUp, Message},
};
use crate::base::{MemberId, Time};

impl Leases {
    /// What this member holds and may not, or need not, hold any more.
    pub(super) fn let_go(&mut self, now: Time, around: &Around, effects: &mut Vec<Effect>) {
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

    pub(super) fn drop_it(&mut self, address: IpAddr, why: GivenUp, effects: &mut Vec<Effect>) {
        self.held.remove(&address);
        self.forget_rounds(address);
        effects.push(Effect::Drop { address, why });
    }

    /// Tells the voters that these are free.
    pub(super) fn release(&mut self, now: Time, addresses: Vec<IpAddr>, effects: &mut Vec<Effect>) {
        if addresses.is_empty() {
            return;
        }
        let message = Message::Release { round: self.round_last, addresses };
        for to in self.voter.members.iter().filter(|to| **to != self.me) {
            effects.push(Effect::Send { to: *to, message: message.clone() });
        }
        self.handle(now, self.me, message, effects);
    }

    /// Hands over what another member should hold.
    pub(super) fn hand_over(&mut self, now: Time, around: &Around, effects: &mut Vec<Effect>) {
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

    pub(super) fn set_yielding(&mut self, address: IpAddr, yielding: Option<Yielding>) {
        if let Some(held) = self.held.get_mut(&address) {
            held.yielding = yielding;
        }
    }

    /// An address that should move because this member has too many, and to whom.
    pub(super) fn rebalance(&mut self, now: Time, plan: &Plan) -> Option<(IpAddr, MemberId)> {
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
}
