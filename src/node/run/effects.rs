//! What happens to each effect of the member: words go to the network, records to the writer,
//! answers to whoever asked; what is slow is done beside the loop.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{Loop, Note};
use crate::{
    base::{MemberId, catalog::Roster},
    member::{Effect, Input, admission::IS_ENROLLED},
    net::{self, Lane, Peer},
    node::{Ended, persist::Write},
};

/// How long one question at a door may take.
const ASK_AS_WITHIN: Duration = Duration::from_secs(5);

impl Loop {
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Packet { to, bytes } => self.network.datagram(to, bytes),
                Effect::Message { to, bytes } => self.network.send(to, Lane::Register, bytes),
                Effect::Persist { token, record } => {
                    self.writes_last = token;
                    // The thread lives as long as this sender.
                    let _sent = self.writes.send(Write::Record { token, record });
                }
                Effect::Generation(number) => {
                    let _sent = self.writes.send(Write::Generation(number));
                }
                Effect::Peers(roster) => self.set_peers(roster),
                Effect::Address { member, address } => self.network.set_address(member, address),
                Effect::Answer { ticket, bytes } => {
                    if let Some(answer) = self.knocks.remove(&ticket) {
                        let _stranger_may_be_gone = answer.send(bytes);
                    }
                }
                Effect::Reply { ticket, result } => {
                    if let Some(answer) = self.tickets.remove(&ticket) {
                        let _asker_may_be_gone = answer.send(result);
                    }
                }
                Effect::Event(event) => self.tell(event),
                Effect::Addresses { held } => self.addresses.hold(held, self.started),
                Effect::NextKey { sequence } => {
                    let key = self.next_keys.add(rand::random(), sequence);
                    self.keep_next_keys(Some(Input::NextKey { key, sequence }));
                }
                Effect::ForgetKeys { sequence } => {
                    self.next_keys.forget(sequence);
                    self.keep_next_keys(None);
                }
                Effect::AskAs { id, address, .. } => self.ask_as(id, address),
                Effect::Seek { id, address } => self.look_who_is_at(id, address),
                Effect::Rotated { to } => self.ended = Some(Ended::Rotated(to)),
                Effect::Expelled { left } => {
                    self.ended = Some(if left { Ended::Left } else { Ended::Removed });
                }
                Effect::Retain { roots } => {
                    self.work.retain(roots);
                    self.refresh_sites();
                }
                Effect::Fetch { root, whom } => {
                    self.work.fetch(root, whom, self.member.catalog());
                }
                other => self.work.start(other),
            }
        }
    }

    fn keep_next_keys(&self, then: Option<Input>) {
        let _sent = self.writes.send(Write::NextKeys { bytes: self.next_keys.to_bytes(), then });
    }

    /// Asks a member at its door, as a stranger would, whether it knows a key. Another one than
    /// was meant may answer: who it is, its key says.
    fn ask_as(&self, id: MemberId, address: SocketAddr) {
        self.ask_at(id, address, move |by, bytes| Input::Told { id, by, bytes });
    }

    /// Asks the same where anybody of the cluster may be.
    fn look_who_is_at(&self, id: MemberId, address: SocketAddr) {
        self.ask_at(id, address, move |by, bytes| Input::Found { id, address, by, bytes });
    }

    /// Asks with this member's key or with a next one, by its `id`.
    fn ask_at(
        &self,
        id: MemberId,
        address: SocketAddr,
        told: impl FnOnce(MemberId, Vec<u8>) -> Input + Send + 'static,
    ) {
        let own = (id == self.member.id()).then(|| self.key.clone());
        let Some(key) = own.or_else(|| self.next_keys.get(id)) else { return };
        let cluster = self.member.catalog().cluster;
        let bind = SocketAddr::new(self.network.local_addr().ip(), 0);
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let build = |_exporter, _server| IS_ENROLLED.to_vec();
            match net::knock(&key, cluster, bind, address, build, ASK_AS_WITHIN).await {
                Ok((server, bytes)) => {
                    let input = told(MemberId::of(&server), bytes);
                    let _loop_may_be_gone = notes.send(Note::Input(input));
                }
                Err(error) => tracing::debug!(%address, %error, "asked in vain at the door"),
            }
        });
    }

    fn set_peers(&mut self, roster: Roster) {
        if roster == self.peers {
            return;
        }
        self.network.set_peers(peers_of(&roster, self.member.id()));
        self.peers = roster;
    }
}

/// Whom a member of `roster` talks to.
pub(in crate::node) fn peers_of(roster: &Roster, me: MemberId) -> BTreeMap<MemberId, Peer> {
    let others = roster.members.iter().filter(|m| m.id != me);
    others.map(|m| (m.id, Peer { key: m.key, address: m.address })).collect()
}
