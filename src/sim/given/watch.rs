//! What is seen of whole members in a scenario: who takes whom for down, what
//! was answered, what has come to its end.

use super::Waiting;
use crate::{
    base::{AppName, Refusal},
    member::{
        command::Outcome,
        event::{Event, EventKind, Severity},
    },
    sim::{
        measure::Timed,
        operate::{Ticket, What},
        world::World,
    },
};

impl World {
    /// A member said something of another.
    pub(in crate::sim) fn observe(&mut self, s: usize, event: &Event) {
        let about = event.member.as_ref().filter(|_| event.kind == EventKind::Membership);
        let Some(about) = about.and_then(|name| self.servers.iter().position(|s| s.name == *name))
        else {
            return;
        };
        let now = self.now;
        let reachable = self.network.connects(s, about);
        // "It is live" and "it has left" are no warnings.
        let live = self.servers[s]
            .member
            .as_ref()
            .is_some_and(|member| member.is_live(self.servers[about].id))
            && event.severity == Severity::Info;
        if let Some(given) = &mut self.given {
            given.measure.sees(now, s, about, live, reachable);
        }
    }

    /// A member sent something.
    pub(in crate::sim) fn count(&mut self, s: usize, bytes: usize) {
        if let Some(given) = &mut self.given {
            given.measure.sent(s, bytes);
        }
    }

    /// The process started or ended.
    pub(in crate::sim) fn note_run(&mut self, s: usize) {
        let (now, up, still) =
            (self.now, self.servers[s].member.is_some(), self.servers[s].paused.is_some());
        if let Some(given) = &mut self.given {
            given.measure.is(now, s, up, still);
        }
    }

    /// A request was answered.
    pub(in crate::sim) fn answered_given(
        &mut self,
        ticket: &Ticket,
        result: &Result<Outcome, Refusal>,
    ) {
        let now = self.now;
        let name = self.servers[ticket.server].name.clone();
        if self.given.is_none() {
            return;
        }
        let took = now - ticket.at;
        let after = took as f64 / 1e3;
        match (&ticket.what, result) {
            (What::Publish { .. }, Ok(Outcome::Published { app, version, .. })) => {
                self.tell(&format!("{name}: {app} version {version}, after {after} ms"));
            }
            (_, Ok(Outcome::Done { text, .. })) => {
                self.tell(&format!("{name}: {text} ({after} ms)"));
                if matches!(ticket.what, What::Remove | What::Leave | What::Rollback) {
                    self.the_given().measure.took(Timed::Commit, took);
                }
            }
            (What::Rollback, Ok(Outcome::Published { app, version, .. })) => {
                self.tell(&format!("{name}: {app} version {version}, after {after} ms"));
                self.the_given().measure.took(Timed::Commit, took);
            }
            (_, Ok(_)) => {}
            (what, Err(refusal)) => {
                self.tell(&format!("{name} refuses: {refusal}"));
                if let What::Publish { root: refused, .. } = what {
                    self.the_given().waiting.retain(|waiting| {
                        !matches!(waiting, Waiting::Version { root, committed: false, .. }
                            if root == refused)
                    });
                }
            }
        }
    }

    /// Something changed: has anything come to its end that is waited for?
    pub(in crate::sim) fn review_given(&mut self) {
        let Some(mut given) = self.given.take() else { return };
        let now = self.now;
        let up: Vec<usize> = self.enrolled_and_running();
        let current = |app: &AppName| self.newest().application(app).map(|a| a.current().root);
        let measure = &mut given.measure;
        given.waiting.retain_mut(|waiting| match waiting {
            Waiting::Version { app, root, since, committed, .. } => {
                if !*committed && current(app) == Some(*root) {
                    *committed = true;
                    measure.took(Timed::Commit, now - *since);
                }
                let all = up.iter().all(|s| self.servers[*s].disk.live.get(app) == Some(root));
                if *committed && all {
                    measure.took(Timed::Spread, now - *since);
                }
                // Another version came first.
                !*committed || !all && current(app) == Some(*root)
            }
            Waiting::Repair { server, app, since } => {
                let right = current(app);
                let done =
                    right.is_some() && self.servers[*server].disk.live.get(app).copied() == right;
                if done {
                    measure.took(Timed::Repair, now - *since);
                    let after = (now - *since) as f64 / 1e3;
                    measure.tell(
                        now,
                        &format!("{app} on m{} is right again, after {after} ms", *server + 1),
                    );
                }
                !done
            }
        });
        self.given = Some(given);
    }
}
