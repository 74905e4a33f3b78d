//! Asking the voters, and what comes of their answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    AGAIN, DOUBT, GRANT, HOLD, Held, Leases, RENEW, ROUNDS_MAX, Round, SOON, STAGGER,
    choose::{Around, Plan},
    message::{Effect, Message, Taken, Want},
};
use crate::base::{MemberId, Time, limits};

impl Leases {
    /// Decides what to ask for beside what is held.
    pub(super) fn want(&mut self, now: Time, around: &Around) {
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
            let grant = self.voter.grants.get(&address).filter(|grant| grant.to != self.me);
            if grant.is_some() || self.others.contains_key(&address) || now < self.voter.mute_until
            {
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
    pub(super) fn ask(&mut self, now: Time, effects: &mut Vec<Effect>) {
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
        if wants.is_empty() || !self.voter.members.contains(&self.me) {
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
        let mine = self.voter.grant(now, self.me, round, &wants).0;
        let message = Message::Ask { voters: self.voter.digest, round, wants };
        for to in self.voter.members.iter().filter(|to| **to != self.me) {
            effects.push(Effect::Send { to: *to, message: message.clone() });
        }
        self.count(now, self.me, round, &mine, effects);
    }

    /// From 0 to 1: xorshift (Marsaglia, 2003) is chance enough for a pause.
    pub(super) fn draw(&mut self) -> f64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A voter granted what was asked in this round.
    pub(super) fn count(
        &mut self,
        now: Time,
        from: MemberId,
        round: u64,
        granted: &[IpAddr],
        effects: &mut Vec<Effect>,
    ) {
        let majority = self.voter.members.len() / 2 + 1;
        if !self.voter.members.contains(&from) {
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
    pub(super) fn count_refused(
        &mut self,
        now: Time,
        from: MemberId,
        round: u64,
        refused: &[(IpAddr, u16)],
        effects: &mut Vec<Effect>,
    ) {
        let spare = (self.voter.members.len().max(1) - 1) / 2;
        let mut vain = Vec::new();
        for (address, left) in refused {
            let Some(asked) = self.rounds.get_mut(&round) else { break };
            let asked_for =
                self.voter.members.contains(&from) && asked.granted.contains_key(address);
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
    pub(super) fn give_back(&mut self, now: Time, vain: Vec<IpAddr>, effects: &mut Vec<Effect>) {
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
    pub(super) fn forget_rounds(&mut self, address: IpAddr) {
        for round in self.rounds.values_mut() {
            round.granted.remove(&address);
        }
    }

    pub(super) fn won(
        &mut self,
        now: Time,
        address: IpAddr,
        until: Time,
        effects: &mut Vec<Effect>,
    ) {
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
        let lapsed = self.voter.lapsed.remove(&address);
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
}
