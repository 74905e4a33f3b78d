//! Words on their way: what is said is shown to the checker, and comes late, twice, or not at all,
//! as the network is; and what is said to nobody comes back.

use super::{Happening, World};
use crate::{
    base::{
        MemberId,
        wire::{self, Kind},
    },
    member::{Input, Message},
    proto::catalog::Message as Word,
    sim::{Invariant, Violation, network::Carrier, server::Tag},
};

impl World {
    pub(super) fn message(
        &mut self,
        s: usize,
        to: MemberId,
        bytes: Vec<u8>,
    ) -> Result<(), Violation> {
        let message = match self.last_said.take() {
            // The same to the next one.
            Some((said, message)) if said == bytes => message,
            _ => wire::decode::<Message>(Kind::Message, &bytes).map_err(|error| Violation {
                invariant: Invariant::NoPanic,
                detail: format!("a member sent what can't be read: {error}"),
            })?,
        };
        self.checker.sent(self.now, &self.servers[s], &message)?;
        self.trace.number(bytes.len() as u64);
        self.count(s, bytes.len());
        let id = self.servers[s].id;
        let repeatable =
            matches!(message, Message::Register(_) | Message::Ballot(_) | Message::Greeting(_));
        let tag = match &message {
            Message::Ballot(signed) | Message::Greeting(signed) => {
                signed.unproven().map_or(Tag::Other, |ballot| {
                    let (of, sequence, stamp) = (ballot.member, ballot.sequence, ballot.stamp);
                    Tag::Ballot { of, sequence, stamp }
                })
            }
            Message::Register(Word::Prepare { ballot, .. } | Word::Accept { ballot, .. }) => {
                Tag::Ask(*ballot)
            }
            _ => Tag::Other,
        };
        if let (Some(text), Some(peer)) = (told(&message), self.index.get(&to)) {
            let text = format!("-> {}: {text}", self.servers[*peer].name);
            self.say(Some(s), &text);
        }
        let said = bytes.clone();
        let input = Input::Message { from: id, bytes };
        self.send(s, to, Carrier::Stream { repeatable }, input, tag);
        self.spring(s, &message)?;
        self.last_said = Some((said, message));
        Ok(())
    }

    /// A transport that does not know a caller says so.
    pub(super) fn disown(&mut self, by: usize, caller: usize) -> Result<(), Violation> {
        let (host, guest) = (&self.servers[by], &self.servers[caller]);
        let knows = host.peers.is_empty() || host.peers.contains(&guest.id);
        if knows || guest.member.is_none() || !self.network.connects(by, caller) {
            return Ok(());
        }
        let (member, run) = (host.id, guest.run);
        let delay = self.network.delay(&mut self.rng);
        let input = Input::Disowned { member };
        self.later(delay, Happening::Own { server: caller, run, input });
        Ok(())
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        to: MemberId,
        carrier: Carrier,
        input: Input,
        tag: Tag,
    ) {
        let meant = to;
        let Some(&to) = self.index.get(&to) else { return };
        let run = self.servers[to].run;
        // Another key answers there, where it has a new one.
        if !self.network.reaches(from, to) || self.servers[to].id != meant {
            return;
        }
        if !self.has_a_way(from, to, meant) {
            return;
        }
        if self.servers[to].member.is_none() {
            self.refuse(from, to);
            return;
        }
        let [first, again] = self.network.delays((from, to), carrier, &mut self.rng);
        if let Some(delay) = again {
            let (input, delay) = (input.clone(), delay + self.lag(to));
            self.later(delay, Happening::Deliver { to, run, from, input, tag });
        }
        if let Some(delay) = first {
            let delay = delay + self.lag(to);
            self.later(delay, Happening::Deliver { to, run, from, input, tag });
        }
    }

    /// The host of a process that is no more says so.
    fn refuse(&mut self, from: usize, to: usize) {
        if !self.servers[to].refuses || !self.network.reaches(to, from) {
            return;
        }
        let (member, run) = (self.servers[to].id, self.servers[from].run);
        let delay = self.network.delay(&mut self.rng) * 2;
        let input = Input::Refused { member };
        self.later(delay, Happening::Own { server: from, run, input });
    }
}

/// What of the messages is worth a line.
fn told(message: &Message) -> Option<String> {
    Some(match message {
        Message::Ballot(_)
        | Message::Greeting(_)
        | Message::Membership(_)
        | Message::Rumor(_)
        | Message::Address(_)
        | Message::Capacity(_) => {
            return None;
        }
        Message::Troubles { list } => {
            let all = list.iter().map(|trouble| format!("{}: {}", trouble.app, trouble.why));
            format!("troubles: {}", all.collect::<Vec<_>>().join("; "))
        }
        Message::Register(word) => match word {
            Word::Prepare { ballot, committed } => {
                format!("prepare {} above {committed}", ballot.round)
            }
            Word::Promise { ballot, accepted, .. } => format!(
                "promise {}, accepted {:?}",
                ballot.round,
                accepted.as_ref().map(|a| (a.ballot.round, a.catalog.sequence))
            ),
            Word::Refused { ballot, promised, .. } => {
                format!("refused {} for {}", ballot.round, promised.round)
            }
            Word::Accept { ballot, catalog } => {
                format!("accept {}: catalog {}", ballot.round, catalog.sequence)
            }
            Word::Accepted { ballot, digest, .. } => {
                format!("accepted {}: {}", ballot.round, digest.short())
            }
            Word::Commit(catch_up) => {
                format!("committed {}", catch_up.committed.catalog.sequence)
            }
            Word::Ask { sequence } => format!("what is newer than {sequence}?"),
        },
        Message::Forward { id, .. } => format!("please preside ({id})"),
        Message::Forwarded { id, answer } => format!("forwarded ({id}): {answer:?}"),
        Message::Resolve { app, .. } | Message::ResolveFor { app, .. } => {
            format!("resolve {app} with yours")
        }
        Message::Rollout { list } => format!("how it comes: {list:?}"),
    })
}
