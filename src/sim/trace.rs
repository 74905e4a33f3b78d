//! What happened, in lines that a person can follow. The last ones are kept
//! for a failure; all of them go into a hash, so that two runs of one seed can
//! be compared without keeping either.

use std::collections::VecDeque;

/// Lines kept for a failure.
const LINES_MAX: usize = 160;

/// The trace of one run.
#[derive(Debug)]
pub(super) struct Trace {
    lines: VecDeque<String>,
    hash: u64,
    lines_max: usize,
}

impl Trace {
    /// An empty trace. `whole` keeps every line: for one seed that is looked at.
    pub fn new(whole: bool) -> Self {
        let lines_max = if whole { usize::MAX } else { LINES_MAX };
        // The offset basis of FNV-1a.
        Self { lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325, lines_max }
    }

    /// One line of what `who` did or met at `now`, in microseconds.
    pub fn line(&mut self, now: u64, who: &str, text: &str) {
        self.number(now);
        self.bytes(who.as_bytes());
        self.bytes(text.as_bytes());
        if self.lines.len() >= self.lines_max {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>11.6}  {who:<5} {text}", now as f64 / 1e6));
    }

    /// Something too frequent for a line of its own.
    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // FNV-1a (Fowler, Noll, Vo).
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
