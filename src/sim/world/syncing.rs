//! Records on their way to the disk: one is written at a time, and what was not synced is lost in a
//! crash, or is not, by chance.

use super::{Happening, World};
use crate::{
    member::Input,
    proto::catalog::Record,
    sim::{Violation, server::Tag},
};

impl World {
    pub(super) fn persist(
        &mut self,
        s: usize,
        token: u64,
        record: Box<Record>,
    ) -> Result<(), Violation> {
        let id = self.servers[s].id;
        if self.checker.record(self.now, id, &record, &self.servers)? {
            let catalog = &record.committed.catalog;
            let proposer = record.committed.certificate.ballot.proposer;
            let text = format!(
                "learns catalog {} first, of {}",
                catalog.sequence,
                self.servers[*self.index.get(&proposer).unwrap_or(&0)].name
            );
            self.say(Some(s), &text);
            self.keys_are_kept(catalog)?;
            self.addresses_are_own(catalog)?;
            self.review_given();
        }
        self.servers[s].writes.push_back((token, record));
        if !self.servers[s].writing {
            self.write(s);
        }
        Ok(())
    }

    /// Begins to write the newest record. It stands for all before it, as in the
    /// shell: a slow disk is never a queue behind.
    fn write(&mut self, s: usize) {
        let sync = self.mix.sync(&mut self.rng) * self.slower(s);
        let server = &mut self.servers[s];
        let Some((token, _)) = server.writes.back() else { return };
        server.writing = true;
        let (run, token) = (server.run, *token);
        self.later(sync, Happening::Synced { server: s, run, token });
    }

    pub(super) fn synced(&mut self, s: usize, token: u64) -> Result<(), Violation> {
        while self.servers[s].writes.front().is_some_and(|(t, _)| *t <= token) {
            if let Some((_, record)) = self.servers[s].writes.pop_front() {
                self.sync_record(s, record)?;
            }
        }
        self.servers[s].writing = false;
        self.write(s);
        self.feed(s, Input::Persisted { token }, Tag::Other)
    }

    /// A record is on disk.
    pub(super) fn sync_record(&mut self, s: usize, record: Box<Record>) -> Result<(), Violation> {
        let server = &mut self.servers[s];
        if server.disk.sync(record)
            && let Some(accepted) = server.disk.record.as_ref().and_then(|r| r.accepted.as_ref())
        {
            self.checker.words.accepted(self.now, server.id, accepted)?;
        }
        Ok(())
    }
}
