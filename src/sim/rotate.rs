//! New keys of members: what their servers do about them, and the checks on it.

use std::net::SocketAddr;

use rand::Rng;

use super::{
    Invariant, Situation, Violation,
    check::fail,
    server::Tag,
    world::{Happening, World},
};
use crate::{
    base::{MemberId, PublicKey, SecretKey, catalog::Catalog},
    member::{Input, admission::IS_ENROLLED},
};

/// Somebody at the door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Whose door.
    pub at: usize,
    pub from: usize,
    /// The key that it asks whether it is enrolled by, and the run that does.
    pub asks: Option<(MemberId, u64)>,
    /// Where it looks for whoever is there, if it does.
    pub seeks: Option<SocketAddr>,
}

impl World {
    /// A key is drawn for `s`, and on its disk a moment later.
    pub(super) fn draw_next_key(&mut self, s: usize, sequence: u64) {
        let key = SecretKey::from_seed(self.rng.random());
        let after = self.mix.sync(&mut self.rng) * self.slower(s);
        let run = self.servers[s].run;
        let input = Input::NextKey { key, sequence };
        self.later(after, Happening::Own { server: s, run, input });
    }

    /// `s` hears something of its own: what its disk has of it by now.
    pub(super) fn note_own(&mut self, s: usize, input: &Input) {
        if let Input::NextKey { key, sequence } = input {
            self.servers[s].disk.next_keys.push((key.clone(), *sequence));
            self.say(Some(s), &format!("has a next key for {sequence} on disk: {}", key.member()));
        }
    }

    /// The key of `s`, or a next one, whose id this is.
    pub(super) fn key_of(&self, s: usize, id: MemberId) -> Option<PublicKey> {
        let server = &self.servers[s];
        let keys = server.disk.next_keys.iter().map(|(key, _)| key).chain([&server.key]);
        keys.map(SecretKey::public).find(|key| MemberId::of(key) == id)
    }

    /// `s` asks another one with its key or a next one.
    pub(super) fn ask_as(&mut self, s: usize, id: MemberId, to: MemberId, address: SocketAddr) {
        let Some(key) = self.key_of(s, id) else { return };
        let Some(&meant) = self.index.get(&to) else { return };
        let at_home = self.servers[meant].address == address;
        let Some(to) = (if at_home { Some(meant) } else { self.lives_at(address) }) else {
            return;
        };
        let run = self.servers[s].run;
        if self.network.connects(s, to) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, Happening::AskedAs { to, from: s, run, id, key, seeks: None });
        }
    }

    pub(super) fn asked_as(
        &mut self,
        to: usize,
        from: usize,
        asks: (MemberId, u64),
        key: PublicKey,
        seeks: Option<SocketAddr>,
    ) -> Result<(), Violation> {
        if !self.servers[to].is_up() {
            return Ok(());
        }
        self.ticket_next += 1;
        let ticket = self.ticket_next;
        self.knocks.insert(ticket, Waiting { at: to, from, asks: Some(asks), seeks });
        let (exporter, bytes) = ([0; 32], IS_ENROLLED.to_vec());
        let from = self.servers[from].address;
        self.feed(to, Input::Knock { ticket, key, exporter, from, bytes }, Tag::Other)
    }

    /// The member of `s` ends, to start again with another key. Sometimes it is
    /// killed before the key is in its place.
    pub(super) fn rotated(&mut self, s: usize, to: MemberId) -> Result<(), Violation> {
        let open = self.tickets.iter().find(|(_, ticket)| ticket.server == s);
        if let Some((number, ticket)) = open {
            let detail = format!("ticket {number}, {:?}, ends with its old key", ticket.what);
            return fail(Invariant::OneAnswer, detail);
        }
        self.stop(s);
        let after = self.rng.random_range(1_000..500_000);
        self.later(after, Happening::Start { server: s });
        if self.storm && self.rng.random_bool(0.25) {
            self.say(Some(s), "is killed before its next key is its key");
            self.checker.reach(Situation::KilledWhileRotating);
            return Ok(());
        }
        let server = &mut self.servers[s];
        let next = std::mem::take(&mut server.disk.next_keys);
        let Some((key, _)) = next.into_iter().find(|(key, _)| key.member() == to) else {
            let detail = format!("{} is to take up a key that it does not have", server.name);
            return fail(Invariant::KeyKept, detail);
        };
        (server.key, server.id) = (key, to);
        self.index.insert(to, s);
        self.checker.reach(Situation::KeyRotated);
        self.say(Some(s), &format!("takes up its next key: {to}"));
        Ok(())
    }

    /// A catalog became known: does everybody that it enrols have its key?
    pub(super) fn keys_are_kept(&self, catalog: &Catalog) -> Result<(), Violation> {
        for entry in &catalog.roster.members {
            let kept = self.index.contains_key(&entry.id)
                || self.servers.iter().any(|server| {
                    let next = server.disk.next_keys.iter();
                    server.name == entry.name
                        && next.map(|(k, _)| k.member()).any(|id| id == entry.id)
                });
            if !kept {
                let detail = format!("{} of catalog {}", entry.name, catalog.sequence);
                return fail(Invariant::KeyKept, detail);
            }
        }
        Ok(())
    }

    /// The name of a server that is enrolled by a key that it has not taken up.
    pub(super) fn without_its_key(&self) -> Option<String> {
        let roster = &self.newest().roster;
        let enrolled = |key: &SecretKey| roster.contains(key.member());
        let server =
            self.servers.iter().find(|s| s.disk.next_keys.iter().any(|(key, _)| enrolled(key)));
        server.map(|server| server.name.to_string())
    }
}
