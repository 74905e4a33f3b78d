//! The choice between those that may answer, shared by all connections. What decides is
//! [`proto::balance`](crate::proto::balance); this gives it the time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    base::{MemberId, Time},
    proto::balance::choice::{Balance, Pick},
};

/// What is known of other members as those who answer.
#[derive(Debug)]
pub(super) struct Shared {
    balance: Mutex<Balance>,
    began: Instant,
}

/// One request and who is asked. Dropped without a word it counts as neither.
pub(super) struct Chosen<'a> {
    pick: Pick,
    shared: &'a Shared,
    failed: bool,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { balance: Mutex::new(Balance::new(rand::random())), began: Instant::now() }
    }

    /// See [`Balance::begin`].
    pub(super) fn begin(&self, here: Option<usize>, others: &[MemberId]) -> Option<Chosen<'_>> {
        // The usual case, and one without a lock.
        let pick = match (here, others) {
            (Some(_), []) => Pick::Here,
            _ => self.locked().begin(self.now(), here, others)?,
        };
        Some(Chosen { pick, shared: self, failed: false })
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

    /// It did not answer.
    pub(super) fn failed(mut self) {
        self.failed = true;
    }

    /// It did.
    pub(super) fn answered(self) {}
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        if let Pick::Member(id) = self.pick {
            self.shared.locked().ended(self.shared.now(), id, self.failed);
        }
    }
}
