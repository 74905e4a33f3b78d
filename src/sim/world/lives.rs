//! Servers start, die and stand still, as their processes do: what a crash leaves of a member, and
//! what it wakes up with.

use rand::Rng;

use super::{Happening, World};
use crate::{
    base::{SecretKey, catalog::Enrolled},
    member::{Config, Member, Restored},
    proto::catalog::Record,
    sim::{
        Situation, Violation,
        content::{COLLECT_EVERY, COLLECTIONS},
        server::{Disk, SKEW_MS_MAX, Server},
    },
};

impl World {
    pub fn found(&mut self) -> Result<(), Violation> {
        let founder = self.new_server()?;
        let nonce = self.rng.random();
        let tags = self.tags_of(founder);
        let server = &mut self.servers[founder];
        let entry = Enrolled {
            id: server.id,
            key: server.key.public(),
            name: server.name.clone(),
            address: server.address,
            tags,
            voter: true,
            standby: false,
        };
        let record = Record::found(nonce, &server.key, entry);
        let id = server.id;
        server.disk.record = Some(Box::new(record.clone()));
        self.checker.record(self.now, id, &record, &self.servers)?;
        self.start(founder)
    }

    /// A new server, not enrolled and not started.
    pub fn new_server(&mut self) -> Result<usize, Violation> {
        let number = self.servers.len();
        let key = SecretKey::from_seed(self.rng.random());
        // Half an hour either way around an hour behind.
        let skew = self.rng.random_range(1_800_000..=SKEW_MS_MAX);
        let skew = if self.mix.skewed_clocks { skew } else { 3_600_000 };
        let server = Server::new(number, self.first_name, key, skew)
            .map_err(|invariant| Violation { invariant, detail: "too many servers".to_owned() })?;
        self.index.insert(server.id, number);
        self.servers.push(server);
        Ok(number)
    }

    /// The server's process starts, if it does not run and is not gone for good.
    pub fn start(&mut self, s: usize) -> Result<(), Violation> {
        let seed = self.rng.random();
        let now = self.now;
        let server = &mut self.servers[s];
        if server.member.is_some() || server.gone {
            return Ok(());
        }
        if server.rotten {
            server.gone = true;
            self.checker.reach(Situation::RecordRotten);
            self.say(Some(s), "does not start: its record is not what was written");
            return Ok(());
        }
        let Some(record) = server.disk.read_record() else { return Ok(()) };
        server.run += 1;
        server.refuses = false;
        server.boot = now;
        server.peers.clear();
        server.dials.clear();
        server.callers.clear();
        server.was_at.insert(server.address);
        server.heard.clear();
        server.asks.clear();
        server.tick_at = None;
        server.writing = false;
        server.failing.clear();
        (server.kept, server.collections) = (None, COLLECTIONS);
        server.disk.young.clear();
        let run = server.run;
        let wall = server.wall(now);
        let generation = (server.disk.generation + 1).max(wall.0);
        // The shell keeps it before it starts the member.
        server.disk.generation = generation;
        let missed = self
            .checker
            .newest()
            .filter(|newest| newest.roster.contains(server.id))
            .is_some_and(|newest| newest.roster != record.committed.catalog.roster);
        if missed && server.run > 1 {
            self.checker.reach(Situation::RejoinedAfterRosterChange);
        }
        let server = &mut self.servers[s];
        let restored = Restored {
            record,
            generation,
            whole: server.disk.whole.iter().copied().collect(),
            activated: server.disk.activated.clone(),
            next_keys: server.disk.next_keys.iter().map(|(k, at)| (k.member(), *at)).collect(),
        };
        // What it lost while it ran, it knows now.
        if !server.disk.rotten.is_empty() {
            self.checker.reach(Situation::StoreRotFoundOnStart);
        }
        server.disk.rotten.clear();
        let (key, address) = (server.key.clone(), server.address);
        let (processors, seeds) = (1 + (s % 4) as u16, server.seeds.clone());
        let config = Config { key, address, processors, seeds, seed };
        let mut effects = Vec::new();
        let mut member = Member::new(server.time(now), wall, config, restored, &mut effects);
        if let Some(given) = &self.given {
            member.set_pace(server.time(now), given.pace());
        }
        server.member = Some(member);
        self.note_run(s);
        let text = format!("starts, generation {generation}");
        self.say(Some(s), &text);
        self.later(COLLECT_EVERY, Happening::Collect { server: s, run });
        self.after(s, effects)?;
        self.run_again(s);
        Ok(())
    }

    /// The server's process dies.
    pub fn crash(&mut self, s: usize) -> Result<(), Violation> {
        let server = &self.servers[s];
        if server.member.is_none() {
            return Ok(());
        }
        let id = server.id;
        let unsynced = server.writes.len();
        self.say(Some(s), &format!("crashes with {unsynced} records unsynced"));
        let window = self.checker.newest().and_then(|c| c.window.as_ref());
        if let Some(window) = window.filter(|w| w.coordinator == id) {
            let manual = window.failover == crate::base::catalog::Failover::Manual;
            let committed = window.publication.as_ref().map(|p| p.committed);
            match committed {
                Some(false) => self.checker.reach(Situation::CoordinatorDiedBeforeCommit),
                Some(true) => self.checker.reach(Situation::CoordinatorDiedAfterCommit),
                None => {}
            }
            if manual {
                self.checker.reach(Situation::ManualWindowLost);
            }
        }
        self.judge_dies(s);
        let newest = self.checker.newest().map_or(0, |c| c.sequence);
        if self.checker.words.died(id, newest) {
            self.checker.reach(Situation::ProposerDiedBetweenAcceptAndCommit);
            let window = self.checker.newest().and_then(|c| c.window.as_ref());
            if window.is_some_and(|w| w.coordinator == id) {
                self.checker.reach(Situation::CoordinatorDiedBetweenAcceptAndCommit);
            }
        }
        let kept = self.rng.random_range(0..=unsynced.min(2));
        for kept_one in 0..unsynced {
            let Some((_, record)) = self.servers[s].writes.pop_front() else { break };
            if kept_one < kept {
                self.sync_record(s, record)?;
                self.checker.reach(Situation::CrashKeptRecord);
            } else {
                // It is written aside and renamed when it is whole: one that was
                // cut short is no record, and the one before is still there.
                let at = self.rng.random_range(0..1_000_000);
                let torn = kept_one == kept && Disk::notices_cut(&record, at);
                self.checker.reach(Situation::CrashLostRecord);
                if torn {
                    self.checker.reach(Situation::TornWrite);
                }
            }
        }
        let server = &mut self.servers[s];
        let record = server.disk.record.as_ref();
        server.promised_before = record.map(|r| r.promised).filter(|promised| {
            promised.proposer != id
                && record.is_some_and(|r| r.accepted.as_ref().is_none_or(|a| a.ballot < *promised))
        });
        self.crash_work(s);
        self.stop(s);
        Ok(())
    }

    /// The process is no more.
    pub fn stop(&mut self, s: usize) {
        let server = &mut self.servers[s];
        server.member = None;
        server.run += 1;
        server.paused = None;
        server.writes.clear();
        server.work.clear();
        server.tick_at = None;
        self.note_run(s);
        self.tickets.retain(|_, ticket| ticket.server != s);
        self.knocks.retain(|_, waiting| waiting.at != s);
    }

    /// The process goes on after it stood still.
    pub fn resume(&mut self, s: usize) -> Result<(), Violation> {
        let Some(waiting) = self.servers[s].paused.take() else { return Ok(()) };
        self.say(Some(s), &format!("goes on, {} inputs waited", waiting.len()));
        for (input, tag) in waiting {
            self.feed(s, input, tag)?;
        }
        self.tick(s)
    }
}
