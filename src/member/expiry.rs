//! Members that are down for longer than the policy allows are struck off.
//!
//! Proposed by the first live member of the failover list, with a majority in
//! view, one at a time, the longest away first. That only chooses who tries:
//! what counts is decided by the register, and [`Change::Expire`] itself
//! refuses what would leave too few voters. A member that has just started has
//! seen nobody be down for long, so after a restart the time begins anew.

use std::time::Duration;

use super::{Member, change::Change, io::Effect, operate::Purpose};
use crate::{
    base::{Time, catalog::Catalog, limits},
    proto::{election, membership::State},
};

/// How long after a look the next one is taken.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long after one was removed the next one may be.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Where this stands.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    pending: bool,
    /// Not before this.
    hold: Time,
}

impl Member {
    /// When the first member will have been down for long enough.
    pub(super) fn expiry_due(&self) -> Option<Time> {
        let after = Duration::from_secs(self.catalog().conduct.policy.remove_after_s?);
        let down = self.membership.directory().values().filter(|c| c.state == State::Down);
        let first = down.map(|c| c.since + after).min()?;
        (!self.expiry.pending).then(|| first.max(self.expiry.hold))
    }

    pub(super) fn expire(&mut self, now: Time, catalog: &Catalog, effects: &mut Vec<Effect>) {
        if self.expiry_due().is_none_or(|due| now < due) || self.leaving {
            return;
        }
        self.expiry.hold = now + LOOK_AGAIN;
        let Some(seconds) = catalog.conduct.policy.remove_after_s else { return };
        let (count, majority) = election::quorum_in_view(&catalog.roster, |m| self.is_live(m));
        let first = election::presider(&catalog.roster, |m| self.is_live(m));
        if count < majority || first != Some(self.me) {
            return;
        }
        let after = Duration::from_secs(seconds);
        let spare = catalog.roster.voters().count() > limits::VOTERS_KEPT_MIN;
        let directory = self.membership.directory();
        let long_down =
            catalog.roster.members.iter().filter(|m| spare || !m.voter).filter_map(|m| {
                let contact = directory.get(&m.id).filter(|c| c.state == State::Down)?;
                (contact.since + after <= now).then_some((contact.since, m.id))
            });
        let Some((_, member)) = long_down.min() else { return };
        self.expiry.pending = true;
        self.propose(now, Change::Expire { member, seconds }, Purpose::Expiry, effects);
    }

    pub(super) fn expiry_ended(&mut self, now: Time, done: bool) {
        self.expiry.pending = false;
        self.expiry.hold = now + if done { NEXT_AFTER } else { LOOK_AGAIN };
    }
}
