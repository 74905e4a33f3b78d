//! A member that sees no majority may have been away while the others got new
//! keys. Then nobody that it knows is there any more: it does not let them in,
//! because their ids are new, and what answers at their addresses is not who it
//! looks for. But they know it. So it goes to their doors and asks whether it
//! is enrolled; what they hand over is checked from its own record on, and
//! whoever can't prove to be what became of its cluster is not believed.

use std::time::Duration;

use rand::Rng;

use super::{Member, io::Effect};
use crate::{
    base::{Time, catalog::Catalog},
    proto::election,
};

/// How long it may just be starting, or the others.
const AT_FIRST: Duration = Duration::from_secs(5);
/// How often it looks whether it sees a majority, and asks one member if not.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// When it looks next.
#[derive(Debug)]
pub(super) struct Astray {
    pub due: Time,
}

impl Astray {
    pub fn new(now: Time) -> Self {
        Self { due: now + AT_FIRST }
    }
}

impl Member {
    /// Asks somebody whether this member is enrolled, if it sees no majority.
    pub(super) fn look_for_the_others(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        if now < self.astray.due {
            return;
        }
        self.astray.due = now + LOOK_EVERY;
        let roster = &catalog.roster;
        let (live, majority) = election::quorum_in_view(roster, |m| self.is_live(m));
        let away: Vec<_> = roster.members.iter().filter(|m| !self.is_live(m.id)).collect();
        if live >= majority || away.is_empty() {
            return;
        }
        let one = away[self.rng.random_range(0..away.len())];
        let (id, to, address) = (self.me, one.id, one.address);
        effects.push(Effect::AskAs { id, to, address });
    }
}
