//! What a proposer left behind when it died or gave up: a catalog that this
//! member accepted and never heard to be committed.
//!
//! Nothing is wrong with it, and the next change of any kind would finish it
//! first, as Paxos must. But that change may come hours later, and then what
//! was refused as unconfirmed comes into force out of the blue: a member is
//! removed, a version that everybody has since been repaired from is right
//! again. So whoever holds such a catalog finishes it soon.

use std::time::Duration;

use rand::Rng;

use super::{Member, change::Change, io::Effect, operate::Purpose};
use crate::{
    base::{Time, catalog::Catalog},
    proto::{catalog::BallotNumber, election},
};

/// How long its proposer has for it, and half as long again at most, so that
/// not all that hold it begin at once: beyond the time that a change is tried for.
const PROPOSERS_TIME: Duration = Duration::from_secs(8);

/// Where this stands.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// The ballot at which it was accepted, and when it is taken up.
    known: Option<(BallotNumber, Time)>,
    pending: bool,
}

impl Member {
    /// When what was left behind is taken up.
    pub(super) fn unfinished_due(&self) -> Option<Time> {
        self.unfinished.known.filter(|_| !self.unfinished.pending).map(|(_, due)| due)
    }

    /// Takes up what was left behind, in its time.
    pub(super) fn finish_what_was_accepted(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        let ballot = self.register.unfinished();
        if ballot != self.unfinished.known.map(|(known, _)| known) {
            // Somebody is at it: they have their time.
            self.unfinished.known = ballot.map(|ballot| (ballot, now + self.its_time()));
        }
        if self.unfinished_due().is_none_or(|due| now < due) {
            return;
        }
        self.unfinished.known = ballot.map(|ballot| (ballot, now + self.its_time()));
        let (live, majority) = election::quorum_in_view(&catalog.roster, |m| self.is_live(m));
        if live < majority {
            return;
        }
        self.unfinished.pending = true;
        self.propose(now, Change::Confirm, Purpose::Unfinished, effects);
    }

    pub(super) fn unfinished_ended(&mut self) {
        self.unfinished.pending = false;
    }

    fn its_time(&mut self) -> Duration {
        PROPOSERS_TIME + self.rng.random_range(Duration::ZERO..PROPOSERS_TIME / 2)
    }
}
