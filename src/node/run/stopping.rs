//! The end by the wish of an operator, so that nobody misses an answer: others take the virtual
//! addresses, new requests go elsewhere, what is under way is finished, and then the member
//! ends.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Answer, Loop, Note};
use crate::{
    member::{Input, command::Command},
    node::Ended,
};

/// How long a member that stops waits for others to take its virtual addresses.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);
/// How long requests that are under way have to end: somewhat more than the gateway leaves them.
const DRAIN_WITHIN: Duration = Duration::from_secs(12);

/// After so long without a request of another member none is taken to be on its way: who was
/// refused once asks somebody else for twice as long.
const QUIET: Duration = Duration::from_millis(250);

/// How a member ends by the wish of an operator.
pub(super) enum Stopping {
    Stop(oneshot::Sender<()>),
    Leave(Answer),
}

/// A member that is about to stop.
pub(super) struct Soon {
    /// When its addresses are given up at the latest.
    at: Instant,
    all: Vec<Stopping>,
}

impl Soon {
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl Loop {
    /// Ends, or has the member leave, once others hold its addresses.
    pub(super) fn stop_soon(&mut self, how: Stopping) {
        if self.member.holds_addresses() {
            self.tell_member(Input::HandOver);
        }
        let at = Instant::now() + HAND_OVER_WITHIN;
        self.stopping.get_or_insert_with(|| Soon { at, all: Vec::new() }).all.push(how);
        self.go_on_stopping();
    }

    pub(super) fn go_on_stopping(&mut self) {
        let holds = self.member.holds_addresses();
        let ready = self.stopping.take_if(|soon| !holds || Instant::now() >= soon.at);
        for how in ready.into_iter().flat_map(|soon| soon.all) {
            match how {
                Stopping::Stop(answer) => self.drain(answer),
                Stopping::Leave(answer) => {
                    let ticket = self.ticket();
                    self.tickets.insert(ticket, answer);
                    let command = Command::Leave;
                    self.tell_member(Input::Command { ticket, command, by: None });
                }
            }
        }
    }

    /// Requests that come from now on are for others; those under way are finished.
    fn drain(&mut self, answer: oneshot::Sender<()>) {
        self.sites.close();
        self.closing.cancel();
        self.forwarded.close();
        let (gateway, forwarded) = (self.gateway.clone(), self.forwarded.clone());
        let (notes, arrived) = (self.notes.clone(), Arc::clone(&self.arrived));
        tokio::spawn(async move {
            let all = async {
                gateway.wait().await;
                // Others have been told to ask somebody else once nothing comes any more; and
                // what was answered last has reached them by then.
                let mut seen = None;
                while seen.replace(arrived.load(Relaxed)) != Some(arrived.load(Relaxed)) {
                    tokio::time::sleep(QUIET).await;
                    forwarded.wait().await;
                }
            };
            let _cut = timeout(DRAIN_WITHIN, all).await;
            drop(notes.send(Note::Drained(answer)));
        });
    }

    /// Nothing is under way any more.
    pub(super) fn drained(&mut self, answer: oneshot::Sender<()>) {
        self.ended = Some(Ended::Stopped);
        let _asker_may_be_gone = answer.send(());
    }
}
