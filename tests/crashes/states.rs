//! The disks that a power cut may leave.
//!
//! Between two syncs what is pending only grows, so whatever can be left at any
//! moment can be left right before the next sync as well. What the process had
//! said by then decides what must be there. So the moments that count are those
//! right before each sync and right before it says something: the *edges*.

use super::{
    chance::Chance,
    disk::{self, Choice, Disk, Pending},
    recording::{Event, Recording, What},
    worker::APPS,
};

/// One moment, with all that is needed to know what may be left at it.
#[derive(Clone)]
pub struct Edge {
    /// Events that are over.
    pub events: usize,
    /// How often the process has said something.
    pub said: usize,
    /// What is on the disk for sure.
    pub durable: Disk,
    /// What may be.
    pub pending: Vec<Pending>,
}

/// A sync as it is called in every recording: without numbers, and without the name of
/// the live tree.
pub fn kind_of(call: &str) -> String {
    let mut kind = String::new();
    for word in call.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let name = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_number = name.contains(|c: char| c.is_ascii_digit());
        kind += match name {
            _ if is_number => "#",
            name if APPS.contains(&name) => "*",
            name => name,
        };
        kind += &word[name.len()..];
    }
    kind
}

/// Every edge of a recording, or of one in which syncs of the kind `lost` did nothing.
pub fn edges(recording: &Recording, lost: Option<&str>) -> Vec<Edge> {
    let mut edge =
        Edge { events: 0, said: 0, durable: recording.before.clone(), pending: Vec::new() };
    let mut all = Vec::new();
    let mut is_new = true;
    for (number, Event { call, what }) in recording.events.iter().enumerate() {
        edge.events = number;
        match what {
            What::Did(effects) => {
                let new = effects.iter().cloned();
                let pending = |effect| Pending { effect, call: number, missed: false };
                edge.pending.extend(new.map(pending));
                edge.durable.know(effects, &recording.after);
                is_new = true;
            }
            What::Synced(scope) if lost.is_some_and(|lost| kind_of(call) == lost) => {
                let has = disk::durable(&edge.pending, *scope);
                for (pending, has) in edge.pending.iter_mut().zip(has) {
                    pending.missed |= has;
                }
            }
            What::Synced(scope) => {
                if is_new {
                    all.push(edge.clone());
                }
                is_new = false;
                let has = disk::durable(&edge.pending, *scope);
                edge.settle(&has);
            }
            What::Said(_) => {
                all.push(edge.clone());
                edge.said += 1;
                is_new = true;
            }
        }
    }
    edge.events = recording.events.len();
    all.push(edge);
    all
}

impl Edge {
    fn settle(&mut self, has: &[bool]) {
        let pending = std::mem::take(&mut self.pending);
        for (pending, has) in pending.into_iter().zip(has) {
            if *has {
                self.durable.apply(&pending.effect, false);
            } else {
                self.pending.push(pending);
            }
        }
    }

    pub fn disk(&self, choice: &Choice) -> Disk {
        self.durable.crashed(&self.pending, choice)
    }

    /// About `count` choices: nothing, everything, each one alone, all but each one, what a
    /// journal of metadata would bring back, and any, as chance has it.
    pub fn choices(&self, count: usize, chance: &mut Chance) -> Vec<Choice> {
        let n = self.pending.len();
        if n == 0 {
            return vec![Choice::of(Vec::new())];
        }
        let mut drawn = Vec::new();
        for _ in 0..count {
            let at = chance.below(n as u64) as usize;
            drawn.push(match chance.below(12) {
                0 => Choice::of(vec![false; n]),
                1 => Choice::of(vec![true; n]),
                2..5 => self.alone(at),
                5..8 => Choice::of(disk::without(&self.pending, at)),
                8 => self.journal(at),
                _ => self.any(chance),
            });
        }
        drawn
    }

    fn alone(&self, at: usize) -> Choice {
        let mut has = vec![false; self.pending.len()];
        has[at] = true;
        disk::close(&self.pending, &mut has);
        Choice::of(has)
    }

    /// Metadata up to there, and no content.
    fn journal(&self, last: usize) -> Choice {
        let pending = self.pending.iter().enumerate();
        let has = pending.map(|(at, pending)| pending.effect.is_metadata() && at <= last);
        Choice::of(has.collect())
    }

    /// Everything but one change of names, for each of these.
    pub fn without_each_name(&self) -> Vec<Choice> {
        let all = 0..self.pending.len();
        let names = all.filter(|at| !self.pending[*at].effect.names().is_empty());
        names.map(|at| Choice::of(disk::without(&self.pending, at))).collect()
    }

    /// Without some of what a lost sync had made durable.
    pub fn without_missed(&self, chance: &mut Chance) -> Vec<Choice> {
        let missed: Vec<usize> =
            (0..self.pending.len()).filter(|at| self.pending[*at].missed).collect();
        if missed.is_empty() {
            return Vec::new();
        }
        let one = missed[chance.below(missed.len() as u64) as usize];
        let mut some: Vec<bool> = self.pending.iter().map(|pending| !pending.missed).collect();
        let none = Choice::of(some.clone());
        for at in &missed {
            some[*at] = chance.below(2) == 0;
        }
        let alone: Vec<bool> =
            (0..self.pending.len()).map(|at| self.pending[at].missed && at == one).collect();
        let mut all = vec![none, Choice::of(disk::without(&self.pending, one)), self.any(chance)];
        for mut has in [some, alone] {
            disk::close(&self.pending, &mut has);
            all.push(Choice { has, torn: None, rubbish: chance.below(2) == 0 });
        }
        all
    }

    fn any(&self, chance: &mut Chance) -> Choice {
        let pending = &self.pending;
        let n = pending.len();
        let of_ten = [1, 5, 9][chance.below(3) as usize];
        let mut has: Vec<bool> = (0..n).map(|_| chance.below(10) < of_ten).collect();
        if chance.below(3) == 0 {
            // A journal: metadata in order, and whatever was written back.
            let last = chance.below(n as u64) as usize;
            for at in (0..n).filter(|at| pending[*at].effect.is_metadata()) {
                has[at] = at <= last;
            }
        }
        disk::close(pending, &mut has);
        let writes: Vec<usize> =
            (0..n).filter(|at| has[*at] && !pending[*at].effect.is_metadata()).collect();
        let torn = (chance.below(3) == 0 && !writes.is_empty())
            .then(|| (writes[chance.below(writes.len() as u64) as usize], chance.next()));
        Choice { has, torn, rubbish: chance.below(4) == 0 }
    }

    /// Whether a file system that keeps all metadata in order can leave it.
    pub fn is_in_order(&self, choice: &Choice) -> bool {
        let metadata = self.pending.iter().zip(&choice.has);
        let mut metadata = metadata.filter(|(pending, _)| pending.effect.is_metadata());
        let gap = metadata.by_ref().find(|(_, has)| !**has);
        gap.is_none() || metadata.all(|(_, has)| !has)
    }
}
