//! What is done to the members of a crowd: by a script, and by itself.

use std::{collections::BTreeSet, sync::Arc};

use rand::Rng;

use super::{Crowd, Event, Node, WATCHED_MAX, address, enrolled, id, set_latency};
use crate::{
    base::{MemberId, Time},
    proto::membership::Membership,
    sim::scenario::{Action, Kind},
};

impl Crowd<'_> {
    pub(super) fn rate(&mut self, kind: Kind) {
        let Some(rate) = self.scenario.rates.of(kind) else { return };
        let after = self.around(rate.every);
        self.later(after, Event::Rate(kind));
        let lasts = self.around(rate.lasts);
        let well: Vec<usize> = (0..self.nodes.len()).filter(|i| self.measure.is_well(*i)).collect();
        if well.len() < 2 {
            return;
        }
        let one = well[self.rng.random_range(0..well.len())];
        match kind {
            Kind::Crash => {
                self.measure.tell(self.now, &format!("m{} crashes", one + 1));
                self.kill(one, "crashed", true);
                self.later(lasts, Event::Start(one));
            }
            Kind::Pause => {
                self.measure.tell(self.now, &format!("m{} stands still", one + 1));
                self.pause(one);
                let run = self.nodes[one].run;
                self.later(lasts, Event::Resume { who: one, run });
            }
            Kind::Partition => {
                let count = self.rng.random_range(1..=well.len().div_ceil(2) - 1).max(1);
                let mut side = BTreeSet::new();
                while side.len() < count {
                    side.insert(well[self.rng.random_range(0..well.len())]);
                }
                let rest = (0..self.nodes.len()).filter(|i| !side.contains(i)).collect();
                let text = format!("{count} members are cut off");
                self.measure.tell(self.now, &text);
                let partition = self.partition(vec![side.into_iter().collect(), rest]);
                self.later(lasts, Event::Heal(partition));
            }
            Kind::Drift | Kind::Publish => {}
        }
    }

    pub(super) fn act(&mut self, action: &Action) {
        self.measure.disturbed(self.now);
        let each = |whom: &[usize]| whom.to_vec();
        match action {
            Action::Kill(whom) => each(whom).into_iter().for_each(|i| self.kill(i, "killed", true)),
            Action::Silence(whom) => {
                each(whom).into_iter().for_each(|i| self.kill(i, "fell silent", false));
            }
            Action::Restart(whom) => {
                each(whom).into_iter().for_each(|i| self.start(i, "started again"));
            }
            Action::Pause(whom) => each(whom).into_iter().for_each(|i| self.pause(i)),
            Action::Resume(whom) => each(whom).into_iter().for_each(|i| self.resume(i)),
            Action::Slow(whom) => whom.iter().for_each(|i| self.nodes[*i].slow = true),
            Action::Fast(whom) => whom.iter().for_each(|i| self.nodes[*i].slow = false),
            Action::Partition(groups) => drop(self.partition(groups.clone())),
            Action::Cut(from, to) => {
                let set = |whom: &[usize]| whom.iter().copied().collect();
                self.network.cut(set(from), set(to), false);
            }
            Action::Heal => {
                self.network.heal_all();
                self.heal();
            }
            Action::Loss(share) => self.network.datagram_loss = *share,
            Action::Latency(from, to) => set_latency(&mut self.network, *from, *to),
            Action::Join(count) => self.join(*count),
            Action::Leave(whom) => each(whom).into_iter().for_each(|i| self.leave(i)),
            Action::Remove(whom) => self.remove(whom),
            // Refused when the scenario was checked.
            Action::Publish { .. }
            | Action::Rollback(_)
            | Action::Drift(..)
            | Action::Wipe(..)
            | Action::Rot(..) => {}
        }
    }

    fn stop(&mut self, i: usize) -> bool {
        let node = &mut self.nodes[i];
        node.run += 1;
        (node.paused, node.due) = (None, None);
        let ran = node.machine.take().is_some();
        self.measure.is(self.now, i, false, false);
        ran
    }

    fn kill(&mut self, i: usize, what: &'static str, refuses: bool) {
        if !self.stop(i) {
            return;
        }
        self.nodes[i].refuses = refuses;
        let network = &self.network;
        self.measure.fails(self.now, i, what, |other| network.connects(i, other));
    }

    pub(super) fn start(&mut self, i: usize, what: &'static str) {
        if self.nodes[i].machine.is_some() || !self.nodes[i].enrolled {
            return;
        }
        let (now, seed) = (Time(self.now), self.rng.random());
        let node = &mut self.nodes[i];
        node.generation += 1;
        node.run += 1;
        let mut machine = Membership::new(now, self.ids[i], address(i), node.generation, seed);
        machine.set_pace(now, self.scenario.pace);
        let mut effects = Vec::new();
        machine.set_index(now, Arc::clone(&self.shared), &mut effects);
        (node.refuses, node.paused) = (false, None);
        node.machine = Some(machine);
        self.measure.is(self.now, i, true, false);
        self.measure.returns(self.now, i, what);
        self.carry_out(i, effects);
    }

    fn pause(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if node.machine.is_none() || node.paused.is_some() {
            return;
        }
        node.paused = Some(Vec::new());
        self.set_timer(i);
        self.measure.is(self.now, i, true, true);
        let network = &self.network;
        self.measure.fails(self.now, i, "stood still", |other| network.connects(i, other));
    }

    pub(super) fn resume(&mut self, i: usize) {
        let Some(waiting) = self.nodes[i].paused.take() else { return };
        self.measure.is(self.now, i, true, false);
        self.measure.returns(self.now, i, "went on");
        // The packets that wait come before the timers.
        for input in waiting {
            self.feed(i, input);
        }
        self.set_timer(i);
    }

    fn partition(&mut self, groups: Vec<Vec<usize>>) -> u64 {
        let sets: Vec<BTreeSet<usize>> =
            groups.iter().map(|group| group.iter().copied().collect()).collect();
        let number = self.network.split(&sets);
        // The largest side goes on, and learns that the others are gone.
        let largest = (0..sets.len()).max_by_key(|g| sets[*g].len()).unwrap_or(0);
        for (g, group) in groups.iter().enumerate().filter(|(g, _)| *g != largest) {
            let inside = &sets[g];
            let well = group.iter().copied().filter(|m| self.measure.is_well(*m));
            for member in well.take(WATCHED_MAX).collect::<Vec<_>>() {
                self.measure.fails(self.now, member, "cut off", |o| !inside.contains(&o));
                self.cut_off.push(member);
            }
        }
        number
    }

    pub(super) fn heal(&mut self) {
        self.measure.healed(self.now);
        for member in std::mem::take(&mut self.cut_off) {
            if self.measure.is_well(member) {
                self.measure.returns(self.now, member, "within reach again");
            }
        }
    }

    fn leave(&mut self, i: usize) {
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.nodes[i].machine {
            machine.leave(Time(self.now), &mut effects);
        }
        self.carry_out(i, effects);
        if self.stop(i) {
            let network = &self.network;
            self.measure.fails(self.now, i, "left", |other| network.connects(i, other));
        }
    }

    fn join(&mut self, count: usize) {
        let first = self.nodes.len();
        for i in first..first + count {
            self.ids.push(id(i));
            self.index.insert(id(i), i);
            self.roster.members.push(enrolled(i));
            self.nodes.push(Node::new(false));
        }
        self.spread_roster();
        (first..first + count).for_each(|i| self.start(i, "joined"));
    }

    fn remove(&mut self, whom: &[usize]) {
        for &i in whom {
            self.stop(i);
            self.nodes[i].enrolled = false;
        }
        let ids: BTreeSet<MemberId> = whom.iter().map(|i| self.ids[*i]).collect();
        self.roster.members.retain(|member| !ids.contains(&member.id));
        self.spread_roster();
    }

    /// The catalog is another machine's: here everybody has it at once.
    fn spread_roster(&mut self) {
        self.shared = Arc::new(self.shared.extended(&self.roster));
        for i in 0..self.nodes.len() {
            let mut effects = Vec::new();
            if let Some(machine) = &mut self.nodes[i].machine {
                machine.set_index(Time(self.now), Arc::clone(&self.shared), &mut effects);
            }
            self.carry_out(i, effects);
        }
    }
}
