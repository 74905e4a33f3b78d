//! The end by the wish of an operator: others take the virtual addresses first.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{Answer, Loop};
use crate::{
    member::{Input, command::Command},
    node::Ended,
};

/// How long a member that stops waits for others to take its virtual addresses.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);

/// How a member ends by the wish of an operator.
pub(super) enum Stopping {
    Stop(oneshot::Sender<()>),
    Leave(Answer),
}

impl Loop {
    /// Ends, or has the member leave, once others hold its addresses.
    pub(super) fn stop_soon(&mut self, how: Stopping) {
        if self.member.holds_addresses() {
            self.tell_member(Input::HandOver);
        }
        let (_, all) =
            self.stopping.get_or_insert_with(|| (Instant::now() + HAND_OVER_WITHIN, Vec::new()));
        all.push(how);
        self.go_on_stopping();
    }

    pub(super) fn go_on_stopping(&mut self) {
        let holds = self.member.holds_addresses();
        let ready = self.stopping.take_if(|(at, _)| !holds || Instant::now() >= *at);
        for how in ready.into_iter().flat_map(|(_, all)| all) {
            match how {
                Stopping::Stop(answer) => {
                    self.ended = Some(Ended::Stopped);
                    let _asker_may_be_gone = answer.send(());
                }
                Stopping::Leave(answer) => {
                    let ticket = self.ticket();
                    self.tickets.insert(ticket, answer);
                    self.tell_member(Input::Command { ticket, command: Command::Leave });
                }
            }
        }
    }
}
