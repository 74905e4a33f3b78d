//! What rules tell and order on this member, and what those about the cluster are judged by.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Loop, Note};
use crate::{
    base::{AppName, MemberId, Refusal, catalog::Enrolled},
    member::{
        change::{least_in_service, too_few_left},
        command::Command,
        event::{Event, EventKind},
    },
    node::{handle::Request, inspect::Question, rules, start::wall_now},
    proto::election,
};

/// Episodes whose first event is remembered.
const EPISODES_MAX: usize = 1_000;

impl Loop {
    pub(super) fn on_rule(&mut self, notice: rules::Notice) {
        match notice {
            rules::Notice::Told(rules::Told { severity, app, episode, text }) => {
                let me = self.member.catalog().roster.get(self.member.id());
                self.tell(Event {
                    number: 0,
                    at: wall_now(),
                    severity,
                    kind: EventKind::Rule,
                    member: me.map(|me| me.name.clone()),
                    app: Some(app),
                    text,
                    user: None,
                    cause: episode.as_ref().and_then(|name| self.episodes.get(name).copied()),
                    episode: episode.clone(),
                    asked: None,
                    evidence: None,
                });
                if let Some(name) = episode {
                    self.episodes.entry(name).or_insert(self.event_number);
                    // By number, so that the oldest give way, whatever their names are.
                    while self.episodes.len() > EPISODES_MAX {
                        let oldest = self.episodes.iter().min_by_key(|(_, number)| **number);
                        let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
                        self.episodes.remove(&name);
                    }
                }
                self.view_dirty = true;
            }
            rules::Notice::Out { keep, because, answer } => match self.may_go(keep) {
                Ok(true) => {
                    self.order(Command::StandDown { keep, because, at: wall_now() }, answer);
                }
                // Another rule has done so already: it is out until both are over.
                Ok(false) if self.member.catalog().conduct.rest(self.member.id()).is_some() => {
                    drop(answer.send(Ok(true)));
                }
                // Whoever asked may have gone.
                other => drop(answer.send(other)),
            },
            rules::Notice::Back(answer) => {
                if self.member.catalog().conduct.rest(self.member.id()).is_some() {
                    self.order(Command::StandUp, answer);
                } else {
                    drop(answer.send(Ok(false)));
                }
            }
            rules::Notice::Drained(answer) => self.order(Command::Drained, answer),
            rules::Notice::Act(act, answer) => {
                let (done, outcome) = oneshot::channel();
                self.order(Command::Act(act), done);
                let notes = self.notes.clone();
                tokio::spawn(async move {
                    if let Ok(result) = outcome.await {
                        // The loop may be gone: then the next judge sees what came of it.
                        drop(notes.send(Note::Rules(rules::Notice::Acted(result, answer))));
                    }
                });
            }
            rules::Notice::Acted(result, answer) => {
                self.work.look_around(self.around());
                drop(answer.send(result));
            }
            rules::Notice::Sync(app) => {
                let all = self.member.catalog().applications.keys();
                let apps: Vec<AppName> =
                    all.filter(|one| app.as_ref().is_none_or(|app| app == *one)).cloned().collect();
                for app in apps {
                    let question = Question::Compare { app, full: true, lists: false };
                    // What it finds is put right by the vote, which tells of it.
                    self.on_request(Request::Inspect(question, oneshot::channel().0));
                }
            }
        }
    }

    /// Whether a rule may take this member out of service, as far as who is live goes: the rest
    /// is judged where the catalog is changed. False if it is out already, and does not wait.
    fn may_go(&self, keep: u16) -> Result<bool, Refusal> {
        let (catalog, me) = (self.member.catalog(), self.member.id());
        let roster = &catalog.roster;
        if roster.get(me).is_none_or(|me| me.standby) {
            return Ok(catalog.conduct.is_waiting(me));
        }
        let serves = |m: &&Enrolled| m.id != me && !m.standby && self.member.is_live(m.id);
        let left = roster.members.iter().filter(serves).count();
        let least = least_in_service(catalog, keep);
        if left < least { Err(too_few_left(left, least)) } else { Ok(true) }
    }

    /// Carries out what a rule says of this member.
    fn order(&mut self, command: Command, answer: oneshot::Sender<Result<bool, Refusal>>) {
        let (done, outcome) = oneshot::channel();
        self.on_command(command, None, done);
        tokio::spawn(async move {
            if let Ok(outcome) = outcome.await {
                // Whoever asked may have gone.
                drop(answer.send(outcome.map(|_| true)));
            }
        });
    }

    /// What rules about the cluster are judged by. Whoever sees no majority judges none of them: it
    /// could decide nothing, and would tell what others have ended.
    pub(super) fn around(&self) -> rules::wide::Around {
        let (catalog, me, now) = (self.member.catalog(), self.member.id(), self.now());
        let is_live = |id: MemberId| id == me || self.member.is_live(id);
        let all = &catalog.roster.members;
        let live = all.iter().filter(|m| is_live(m.id)).map(|m| (m.id, m.name.clone())).collect();
        let rests = catalog.conduct.rest(me).is_some();
        let alone = rules::wide::Around { live, rests, ..rules::wide::Around::default() };
        let (seen, majority) = election::quorum_in_view(&catalog.roster, is_live);
        if seen < majority {
            return alone;
        }
        let judges = |app: &AppName| {
            let first = match catalog.placed(app) {
                // Who has not got it yet does not know its rules.
                Some(placed) => placed
                    .members()
                    .find(|m| self.member.can_serve(now, m.id, Some(app)))
                    .or_else(|| placed.members().find(|m| is_live(m.id))),
                // It is gone, and what its rules have begun is to end.
                None => all.iter().find(|m| is_live(m.id)),
            };
            first.is_some_and(|first| first.id == me)
        };
        let episodes = catalog.conduct.episodes();
        let apps = catalog.applications.keys().chain(episodes.iter().map(|of| &of.app));
        let apps: BTreeSet<AppName> = apps.filter(|app| judges(app)).cloned().collect();
        let episodes = episodes.iter().filter(|of| apps.contains(&of.app)).cloned().collect();
        let waits = |id: &MemberId| catalog.conduct.is_waiting(*id) && is_live(*id);
        let mut waiting: Vec<MemberId> = all.iter().map(|m| m.id).filter(waits).collect();
        // Who still receives something comes behind those that can serve.
        waiting.sort_by_key(|id| !self.member.can_serve(now, *id, None));
        let is_gone = |app: &&AppName| !catalog.applications.contains_key(*app);
        let gone = apps.iter().filter(is_gone).cloned().collect();
        rules::wide::Around { apps, gone, episodes, waiting, ..alone }
    }
}
