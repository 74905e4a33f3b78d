//! The choice between those that may answer, shared by all connections. What decides is
//! [`proto::balance`](crate::proto::balance); this gives it the time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    base::{MemberId, Time},
    proto::balance::choice::{Asked, Balance, Outcome, Pick},
};

/// What is known of other members as those who answer.
#[derive(Debug)]
pub(super) struct Shared {
    balance: Mutex<Balance>,
    began: Instant,
}

/// One request and who is asked. Dropped without a word it says nothing of who was asked.
pub(super) struct Chosen<'a> {
    pick: Pick,
    /// Who that is; none where there was nobody to choose from.
    member: Option<MemberId>,
    of: u64,
    shared: &'a Shared,
    outcome: Outcome,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { balance: Mutex::new(Balance::new(rand::random())), began: Instant::now() }
    }

    /// See [`Balance::begin`].
    pub(super) fn begin(&self, asked: &Asked<'_>) -> Option<Chosen<'_>> {
        let (pick, member) = match (asked.here, asked.others) {
            // The usual case, and one without a lock.
            (Some(_), []) if asked.tried.is_empty() => (Pick::Here, None),
            (here, _) => match self.locked().begin(self.now(), asked)? {
                Pick::Here => (Pick::Here, here.map(|here| here.id)),
                Pick::Member(id) => (Pick::Member(id), Some(id)),
            },
        };
        Some(Chosen { pick, member, of: asked.of, shared: self, outcome: Outcome::Unknown })
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn locked(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen<'_> {
    pub(super) fn pick(&self) -> Pick {
        self.pick
    }

    /// What became of it.
    pub(super) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        let here = self.pick == Pick::Here;
        if here && self.outcome == Outcome::Unknown {
            return;
        }
        if let Some(id) = self.member {
            let now = self.shared.now();
            self.shared.locked().ended(now, self.of, id, here, self.outcome);
        }
    }
}
