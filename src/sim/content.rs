//! Content as a model: a root stands for a tree. Fetches take time and can
//! break; switches and repairs are atomic; a crash leaves the old or the new.

use std::collections::BTreeSet;

use rand::Rng;

use super::{
    Situation, Violation,
    operate::What,
    server::{Tag, Work},
    world::{Happening, World},
};
use crate::{
    base::{AppName, Digest, MemberId},
    member::{ContentFailure, FetchFailure, Input, Repair, Switched, Withdrawn, command::Staged},
};

use std::time::Duration;

/// Steps in which a fetch is reported and can break.
const FETCH_STEPS: u64 = 4;
/// How often the store is made smaller, microseconds: more often than a real one, for storms are short.
pub(super) const COLLECT_EVERY: u64 = 5_000_000;
/// How often when a member starts, and when something is not kept any more.
pub(super) const COLLECTIONS: u32 = 2;

/// A fetch under way.
#[derive(Clone, Debug)]
pub(super) struct Fetching {
    server: usize,
    run: u64,
    from: usize,
    from_run: u64,
    from_id: MemberId,
    root: Digest,
    step: u64,
    /// Of one step, in microseconds.
    pace: u64,
}

impl World {
    /// New content, known to nobody yet.
    pub fn new_content(&mut self) -> Staged {
        self.content_next += 1;
        let root = Digest::of("simulated content", &self.content_next.to_le_bytes());
        let files = self.rng.random_range(1..100);
        let bytes = self.rng.random_range(1_000..self.mix.content_bytes_max);
        let staged = Staged { root, files, bytes };
        self.contents.insert(root, staged);
        staged
    }

    fn staged(&self, root: Digest) -> Staged {
        self.contents.get(&root).copied().unwrap_or(Staged { root, files: 0, bytes: 0 })
    }

    // Fetches.

    pub(super) fn fetch(
        &mut self,
        s: usize,
        root: Digest,
        from: MemberId,
    ) -> Result<(), Violation> {
        let Some(&holder) = self.index.get(&from) else { return Ok(()) };
        let bytes = self.staged(root).bytes;
        let fetching = Fetching {
            server: s,
            run: self.servers[s].run,
            from: holder,
            from_run: self.servers[holder].run,
            from_id: from,
            root,
            step: 0,
            // Bytes for each microsecond are megabytes for each second.
            pace: bytes / self.mix.fetch_mb_s.max(1) / FETCH_STEPS + 500,
        };
        self.say(Some(s), &format!("fetches {root:?} from {}", self.servers[holder].name));
        self.later(fetching.pace, Happening::Fetching(fetching));
        Ok(())
    }

    pub(super) fn fetching(&mut self, mut fetching: Fetching) -> Result<(), Violation> {
        let Fetching { server: s, run, from, from_run, from_id, root, .. } = fetching;
        if self.servers[s].run != run {
            return Ok(());
        }
        let (server, holder) = (&self.servers[s], &self.servers[from]);
        let reachable = holder.run == from_run
            && holder.is_up()
            && self.network.connects(s, from)
            && server.peers.contains(&holder.id)
            && holder.peers.contains(&server.id);
        let input = if !reachable {
            self.checker.reach(Situation::FetchBroke);
            let failure = FetchFailure::Broken("the connection broke".to_owned());
            Input::Fetched { root, from: from_id, result: Err(failure) }
        } else if !holder.disk.whole.contains(&root) {
            // The holder's shell notices as well.
            let delay = self.network.delay(&mut self.rng);
            let own =
                Happening::Own { server: from, run: from_run, input: Input::Damaged { root } };
            self.later(delay, own);
            Input::Fetched { root, from: from_id, result: Err(FetchFailure::Lacking) }
        } else if fetching.step + 1 == FETCH_STEPS {
            self.servers[s].disk.put(root);
            Input::Fetched { root, from: from_id, result: Ok(()) }
        } else {
            fetching.step += 1;
            let bytes = self.staged(root).bytes / FETCH_STEPS * fetching.step;
            self.later(fetching.pace, Happening::Fetching(fetching));
            Input::Fetching { root, bytes }
        };
        if let Input::Fetched { result, .. } = &input {
            let text = format!("fetch of {root:?} from {}: {result:?}", self.servers[from].name);
            self.say(Some(s), &text);
            if !reachable {
                // A dead connection takes its time to be noticed.
                let after = self.rng.random_range(1_000..2_000_000);
                self.later(after, Happening::Own { server: s, run, input });
                return Ok(());
            }
        }
        self.feed(s, input, Tag::Other)
    }

    // Work on live content.

    pub(super) fn work(&mut self, s: usize, app: AppName, work: Work) -> Result<(), Violation> {
        if !matches!(work, Work::Scan) {
            self.say(Some(s), &format!("{app}: {work:?}"));
        }
        let after = self.rng.random_range(1_000..=self.mix.work_us_max) * self.slower(s);
        let run = self.servers[s].run;
        self.servers[s].work.insert(app.clone(), work);
        self.later(after, Happening::Worked { server: s, run, app });
        Ok(())
    }

    pub(super) fn worked(&mut self, s: usize, app: &AppName) -> Result<(), Violation> {
        let Some(work) = self.servers[s].work.remove(app) else { return Ok(()) };
        let fails = self.storm && self.rng.random_range(0..1_000) < self.mix.work_fails;
        let failure = ContentFailure::Failed("the disk is full".to_owned());
        let app = app.clone();
        let input = match work {
            Work::Scan => {
                let result = self.servers[s].disk.live.get(&app).copied();
                let took = Duration::from_micros(self.rng.random_range(1_000..20_000));
                let result = if fails { Err(failure) } else { Ok(result) };
                Input::Scanned { app, result, took }
            }
            Work::Activate { version, .. } => {
                let before = self.servers[s].disk.activated.get(&app).copied().unwrap_or(0);
                let result = if fails { Err(failure) } else { self.switch(s, &app, &work) };
                self.say(Some(s), &format!("{app} switched to {version}: {result:?}"));
                if result.is_ok() {
                    self.runs(s, &app, version, before);
                }
                Input::Activated { app, version, result }
            }
            Work::Repair { root } => {
                let result = if fails {
                    Err(failure)
                } else if self.servers[s].disk.whole.contains(&root) {
                    let now = self.now;
                    self.servers[s].disk.set_live(now, &app, Some(root));
                    self.checker.reach(Situation::Repaired);
                    Ok(Repair { set: 1, added: 0, deleted: 0, sample: vec!["index.html".into()] })
                } else {
                    Err(ContentFailure::Lost("a pack is damaged".to_owned()))
                };
                Input::Repaired { app, root, result }
            }
            Work::Withdraw { sequence } => {
                let result = if fails { Err(failure) } else { self.withdraw(s, &app, sequence) };
                self.say(Some(s), &format!("{app} is taken away: {result:?}"));
                Input::Withdrawn { app, result }
            }
            Work::Ingest => {
                let live = self.servers[s].disk.live.get(&app).copied();
                let result = match live {
                    Some(root) if !fails => {
                        self.servers[s].disk.put(root);
                        Ok(self.staged(root))
                    }
                    Some(_) => Err(failure),
                    None => Err(ContentFailure::Failed("nothing is there".to_owned())),
                };
                Input::Ingested { app, result }
            }
        };
        self.review_given();
        self.feed(s, input, Tag::Other)
    }

    /// As the shell does: what the member has not said that it keeps goes from the store, but what is
    /// live, what is being published and what was put there since the last time.
    pub(super) fn collect(&mut self, s: usize) {
        let server = &mut self.servers[s];
        let (run, stands_still) = (server.run, server.paused.is_some());
        if let (Some(kept), 1.., false) = (&server.kept, server.collections, stands_still) {
            let published = self.tickets.values().filter(|ticket| ticket.server == s);
            let published = published.filter_map(|ticket| match &ticket.what {
                What::Publish { root, .. } => Some(*root),
                _ => None,
            });
            let disk = &mut server.disk;
            let mut stays: BTreeSet<Digest> =
                published.chain(disk.live.values().copied()).collect();
            stays.extend(std::mem::take(&mut disk.young));
            disk.whole.retain(|root| kept.contains(root) || stays.contains(root));
            server.collections -= 1;
        }
        self.later(COLLECT_EVERY, Happening::Collect { server: s, run });
    }

    /// The switch itself: fenced, atomic, durable.
    fn switch(&mut self, s: usize, app: &AppName, work: &Work) -> Result<Switched, ContentFailure> {
        let Work::Activate { version, sequence, root, keep_edits } = *work else {
            return Err(ContentFailure::Outdated);
        };
        let now = self.now;
        let switched = if keep_edits { self.merged(s, app, root) } else { Switched::whole(root) };
        let disk = &mut self.servers[s].disk;
        if disk.fence.get(app).is_some_and(|fence| *fence > sequence) {
            return Err(ContentFailure::Outdated);
        }
        if !disk.whole.contains(&root) {
            return Err(ContentFailure::Lost("a pack is damaged".to_owned()));
        }
        disk.fence.insert(app.clone(), sequence);
        disk.activated.insert(app.clone(), version);
        disk.set_live(now, app, Some(switched.root));
        match &switched {
            Switched { kept: 1.., .. } => self.checker.reach(Situation::EditKept),
            Switched { aside: 1.., .. } => self.checker.reach(Situation::EditAside),
            _ => {}
        }
        Ok(switched)
    }

    /// The same to nothing at all: it is placed elsewhere.
    fn withdraw(
        &mut self,
        s: usize,
        app: &AppName,
        sequence: u64,
    ) -> Result<Withdrawn, ContentFailure> {
        let now = self.now;
        let disk = &mut self.servers[s].disk;
        if disk.fence.get(app).is_some_and(|fence| *fence > sequence) {
            return Err(ContentFailure::Outdated);
        }
        disk.fence.remove(app);
        disk.activated.remove(app);
        disk.set_live(now, app, None);
        // What failed here was live here; who has it now replaced nothing with it.
        self.servers[s].failing.retain(|(of, _)| of != app);
        self.checker.reach(Situation::Withdrawn);
        Ok(Withdrawn::default())
    }

    /// What is live after a switch to `root` that keeps edits: a root says nothing of
    /// files, so whether the two touch the same is drawn.
    fn merged(&mut self, s: usize, app: &AppName, root: Digest) -> Switched {
        let disk = &self.servers[s].disk;
        let before = disk.activated.get(app).copied().unwrap_or(0);
        let before = self.checker.version(app, before).map(|v| v.root);
        let live = disk.live.get(app).copied();
        let (Some(before), Some(live)) = (before, live) else { return Switched::whole(root) };
        if live == before || live == root {
            return Switched::whole(root);
        }
        let sample = vec!["index.html".into()];
        if self.rng.random_bool(0.3) {
            return Switched { root, kept: 0, aside: 1, sample };
        }
        let both = Digest::of("simulated merge", &[live.0, root.0].concat());
        let (theirs, ours) = (self.staged(root), self.staged(live));
        let staged = Staged { root: both, files: theirs.files + 1, bytes: theirs.bytes };
        self.contents.insert(both, Staged { bytes: staged.bytes.max(ours.bytes), ..staged });
        Switched { root: both, kept: 1, aside: 0, sample }
    }

    /// The process dies while it works: each switch is done or not.
    pub(super) fn crash_work(&mut self, s: usize) {
        let work = std::mem::take(&mut self.servers[s].work);
        let now = self.now;
        for (app, work) in work {
            let chance = self.rng.random_range(0..3);
            match work {
                // A merge has no note of its own to lose.
                Work::Activate { root, keep_edits: false, .. } if chance == 0 => {
                    // The trees were exchanged, and the note of it was lost. That it was begun
                    // stands in the record, also where nothing was live before.
                    if self.servers[s].disk.whole.contains(&root) {
                        self.servers[s].disk.activated.entry(app.clone()).or_insert(0);
                        self.servers[s].disk.set_live(now, &app, Some(root));
                        self.checker.reach(Situation::CrashAfterSwitch);
                    }
                }
                Work::Activate { .. } if chance == 1 => {
                    if self.switch(s, &app, &work).is_ok() {
                        self.checker.reach(Situation::CrashAfterSwitch);
                    }
                }
                Work::Activate { .. } => self.checker.reach(Situation::CrashBeforeSwitch),
                Work::Repair { root } if chance == 0 => {
                    if self.servers[s].disk.whole.contains(&root) {
                        self.servers[s].disk.set_live(now, &app, Some(root));
                    }
                }
                Work::Ingest if chance == 0 => {
                    if let Some(root) = self.servers[s].disk.live.get(&app).copied() {
                        self.servers[s].disk.put(root);
                    }
                }
                Work::Withdraw { sequence } if chance == 0 => {
                    // The trees were exchanged, and the record of it is there still.
                    if self.withdraw(s, &app, sequence).is_ok() {
                        self.servers[s].disk.activated.insert(app, 0);
                    }
                }
                Work::Withdraw { sequence } if chance == 1 => {
                    let _refused = self.withdraw(s, &app, sequence);
                }
                Work::Withdraw { .. } | Work::Repair { .. } | Work::Ingest | Work::Scan => {}
            }
        }
    }
}
