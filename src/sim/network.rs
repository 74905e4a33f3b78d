//! The network between the servers: loss, delay, duplication, cuts.
//!
//! A packet is a datagram and may be lost, doubled and overtaken. A message is
//! a QUIC stream of its own: it is not doubled on the way, overtakes others,
//! and is lost when its connection dies, which a cut or a crash does to it.

use std::collections::BTreeSet;

use rand::{Rng, rngs::SmallRng};

/// One direction that is cut: nobody of `from` reaches anybody of `to`.
#[derive(Debug)]
struct Cut {
    partition: u64,
    from: BTreeSet<usize>,
    to: BTreeSet<usize>,
}

/// What travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A SWIM packet in a datagram.
    Datagram,
    /// A message on a stream; one that the register or the vote bear twice.
    Stream { repeatable: bool },
}

/// The network and its faults.
#[derive(Debug)]
pub(super) struct Network {
    /// In thousandths.
    pub datagram_loss: u32,
    /// In thousandths: streams are repeated by QUIC, so whole ones are rarely lost.
    pub stream_loss: u32,
    /// In thousandths, of datagrams and of what its receiver must bear twice.
    pub duplicate: u32,
    /// In microseconds.
    pub delay_min: u64,
    /// In microseconds.
    pub delay_max: u64,
    /// In thousandths: what takes ten times as long.
    pub tail: u32,
    cuts: Vec<Cut>,
    lossy: Vec<Lossy>,
    partitions: u64,
}

/// One direction that loses much: asymmetric loss, as of a bad cable.
#[derive(Debug)]
struct Lossy {
    trouble: u64,
    from: BTreeSet<usize>,
    to: BTreeSet<usize>,
    /// In thousandths.
    loss: u32,
}

impl Network {
    /// A local network without a fault.
    pub fn calm() -> Self {
        Self {
            datagram_loss: 0,
            stream_loss: 0,
            duplicate: 0,
            delay_min: 100,
            delay_max: 3_000,
            tail: 0,
            cuts: Vec::new(),
            lossy: Vec::new(),
            partitions: 0,
        }
    }

    /// Whether what `from` sends reaches `to`.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cuts.iter().any(|cut| cut.from.contains(&from) && cut.to.contains(&to))
    }

    /// Whether both hear each other.
    pub fn connects(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    /// Cuts `one` off from `other`, both ways or only that way. Returns the
    /// number to heal it by.
    pub fn cut(&mut self, one: BTreeSet<usize>, other: BTreeSet<usize>, both: bool) -> u64 {
        self.partitions += 1;
        let partition = self.partitions;
        if both {
            self.cuts.push(Cut { partition, from: other.clone(), to: one.clone() });
        }
        self.cuts.push(Cut { partition, from: one, to: other });
        partition
    }

    /// Cuts all of `groups` off from each other. Returns the number to heal it by.
    pub fn split(&mut self, groups: &[BTreeSet<usize>]) -> u64 {
        self.partitions += 1;
        let partition = self.partitions;
        for (index, from) in groups.iter().enumerate() {
            for (_, to) in groups.iter().enumerate().filter(|(other, _)| *other != index) {
                self.cuts.push(Cut { partition, from: from.clone(), to: to.clone() });
            }
        }
        partition
    }

    /// Ends every partition.
    pub fn heal_all(&mut self) {
        self.cuts.clear();
        self.lossy.clear();
    }

    /// Loses `loss` thousandths of what `from` sends to `to`, and nothing of the
    /// way back. Returns the number to heal it by.
    pub fn lose(&mut self, from: BTreeSet<usize>, to: BTreeSet<usize>, loss: u32) -> u64 {
        self.partitions += 1;
        let trouble = self.partitions;
        self.lossy.push(Lossy { trouble, from, to, loss });
        trouble
    }

    /// Ends a partition or a loss.
    pub fn heal(&mut self, partition: u64) {
        self.cuts.retain(|cut| cut.partition != partition);
        self.lossy.retain(|lossy| lossy.trouble != partition);
    }

    /// How many partitions there ever were and how many cuts there are: the
    /// same twice means that nothing changed in between.
    pub fn state(&self) -> (u64, usize) {
        (self.partitions, self.cuts.len())
    }

    /// When the copies of something sent arrive, in microseconds from now;
    /// none if it is lost.
    pub fn delays(
        &self,
        (from, to): (usize, usize),
        carrier: Carrier,
        rng: &mut SmallRng,
    ) -> [Option<u64>; 2] {
        let here = |l: &&Lossy| l.from.contains(&from) && l.to.contains(&to);
        let worse = self.lossy.iter().filter(here).map(|l| l.loss).max().unwrap_or(0);
        let (loss, doubles) = match carrier {
            Carrier::Datagram => (self.datagram_loss.max(worse), true),
            // A stream is sent again until it gets through: it is late, and
            // lost when its connection is given up.
            Carrier::Stream { repeatable } => (self.stream_loss.max(worse / 8), repeatable),
        };
        if rng.random_range(0..1_000) < loss {
            return [None, None];
        }
        let again = if carrier == Carrier::Datagram { 0 } else { u64::from(worse / 100) };
        let first = self.delay(rng) * (1 + again);
        let doubled = doubles && rng.random_range(0..1_000) < self.duplicate;
        [Some(first), doubled.then(|| self.delay(rng))]
    }

    /// One delay.
    pub fn delay(&self, rng: &mut SmallRng) -> u64 {
        let delay = rng.random_range(self.delay_min..=self.delay_max);
        if rng.random_range(0..1_000) < self.tail { delay * 10 } else { delay }
    }
}
