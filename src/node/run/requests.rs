//! What people and programs ask of the member, by the command line, the API or the status page.

use tokio::sync::{mpsc, oneshot};

use super::{Answer, Loop, MeasuredOrNot, stopping::Stopping};
use crate::{
    base::{AppName, MemberId, MemberName, Reason, Refusal, catalog::Enrolled, operator::AskedBy},
    member::{
        Input,
        command::{By, Command},
        event::{Event, EventKind},
    },
    node::{
        handle::{Acted, Request},
        rules,
        secrets::Base,
        services::{self, Ask, Heard},
        start::wall_now,
        telemetry::asking::{self, SeriesQuestion},
        work,
    },
};

impl Loop {
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Command(Command::Leave, _, answer) => self.stop_soon(Stopping::Leave(answer)),
            Request::Command(command, by, answer) => self.on_command(command, by, answer),
            // Whoever asked may have gone: then nobody needs the answer.
            Request::View(answer) => drop(answer.send(self.view())),
            Request::Metrics(answer) => drop(answer.send(self.metrics())),
            // The thread waits no longer than it said.
            Request::Readings(answer) => drop(answer.try_send(self.readings())),
            Request::Tell(severity, text) => {
                self.tell_of_itself(EventKind::Member, severity, text);
            }
            Request::Publish(publish, by, answer) => {
                self.work.publish(*publish, by, self.member.catalog(), answer);
            }
            Request::PublishBrought(brought, by, answer) => {
                self.work.publish_brought(*brought, by, self.member.catalog(), answer);
            }
            Request::Secrets(edits, answer) => {
                self.seek(&edits.app);
                let catalog = self.member.catalog();
                let application = catalog.application(&edits.app).cloned();
                let spec = application.as_ref().map(|a| a.current().spec.clone());
                let base = Base {
                    application,
                    members: work::keys_of(&catalog.roster, &spec.unwrap_or_default()),
                    is_first: catalog.applications.keys().all(|app| *app == edits.app),
                };
                self.work.edit_secrets(edits, base, answer);
            }
            Request::PublishEdits(edits, answer) => {
                self.seek(&edits.app);
                let application = self.member.catalog().application(&edits.app).cloned();
                self.work.publish_edits(*edits, application, answer);
            }
            Request::Inspect(question, answer) => {
                self.seek(question.app());
                let (catalog, me) = (self.member.catalog(), self.member.id());
                let application = catalog.application(question.app()).cloned();
                let placed = catalog.placed(question.app()).filter(|placed| !placed.contains(me));
                let whom = placed.map(|placed| {
                    let names: Vec<&str> =
                        placed.members().take(10).map(|m| m.name.as_str()).collect();
                    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
                });
                self.work.inspect(question, application, whom, answer);
            }
            Request::Services(member, ask, answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.ask_services(member, &ask));
            }
            Request::Series(question, answer) => self.ask_series(&question, answer),
            Request::Levels(question, answer) => {
                let me = self.member.id();
                let is_live = |id| id == me || self.member.is_live(id);
                let seen = rules::levels::Seen::new(self.member.catalog(), is_live);
                self.work.levels(question, seen, answer);
            }
            Request::Operator(token, answer) => {
                let operator = self.member.catalog().conduct.operator_with(&token).cloned();
                drop(answer.send(operator));
            }
            Request::Acted(Acted { severity, app, text, cause, operator }, answer) => {
                let me = self.member.catalog().roster.get(self.member.id());
                let at = me.map(|me| me.name.clone());
                self.tell(Event {
                    number: 0,
                    at: wall_now(),
                    severity,
                    kind: EventKind::Operator,
                    member: at.clone(),
                    app,
                    text,
                    user: None,
                    cause,
                    episode: None,
                    asked: operator.zip(at).map(|(operator, at)| AskedBy { operator, at }),
                    evidence: None,
                });
                // It has gone on to whoever keeps it: now it may be done. Whoever asked may
                // have gone.
                let _ = answer.send(self.event_number);
            }
            Request::Watched => self.view_dirty = true,
            Request::Stop(answer) => self.stop_soon(Stopping::Stop(answer)),
        }
    }

    /// Somebody works on `app` here, wherever it is placed.
    fn seek(&mut self, app: &AppName) {
        if !self.member.catalog().is_placed(app, self.member.id()) {
            self.tell_member(Input::Sought { app: app.clone() });
        }
    }

    /// Asks one member, or all that are live.
    fn ask_services(
        &self,
        member: Option<MemberName>,
        ask: &Ask,
    ) -> Result<mpsc::Receiver<Heard>, Refusal> {
        Ok(self.work.ask_services(self.whom(member)?, ask))
    }

    /// Asks for measurements, and puts together what is told.
    fn ask_series(&self, question: &SeriesQuestion, answer: oneshot::Sender<MeasuredOrNot>) {
        let asked = question.resolve(wall_now()).and_then(|rows| {
            let whom = self.whom(question.member.clone())?;
            let spreads = question.percentiles;
            let ask = Ask::Series { pattern: question.series.clone(), grid: rows.grid, spreads };
            let names: Vec<_> = whom.iter().map(|asked| (asked.id, asked.name.clone())).collect();
            // Nobody waits for those that are down, and nobody is to forget them.
            let enrolled = &self.member.catalog().roster.members;
            let is_missing = |m: &&Enrolled| {
                question.member.is_none() && names.iter().all(|(id, _)| *id != m.id)
            };
            let down = enrolled.iter().filter(is_missing).map(|m| (m.id, m.name.clone()));
            let down: Vec<_> = down.collect();
            Ok((asking::Asked { live: names, down }, rows, self.work.ask_services(whom, &ask)))
        });
        let each = question.each;
        match asked {
            // Whoever asked may have gone.
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok((asked, rows, heard)) => {
                tokio::spawn(async move {
                    let measured = asking::gather(asked, rows, each, heard).await.show();
                    drop(answer.send(Ok(measured)));
                });
            }
        }
    }

    /// One member, or all that are live.
    fn whom(&self, member: Option<MemberName>) -> Result<Vec<services::Asked>, Refusal> {
        let me = self.member.id();
        let roster = &self.member.catalog().roster;
        let is_live = |id: MemberId| id == me || self.member.is_live(id);
        let wanted = |name: &MemberName| member.as_ref().is_none_or(|wanted| wanted == name);
        let enrolled = roster.members.iter().filter(|m| wanted(&m.name));
        let asked: Vec<services::Asked> = enrolled
            .filter(|m| member.is_some() || is_live(m.id))
            .map(|m| services::Asked { id: m.id, name: m.name.clone(), me: m.id == me })
            .collect();
        match member {
            Some(name) if asked.is_empty() => Err(Refusal::new(
                Reason::NotFound,
                "Nobody was asked.",
                format!("No member is named {name}."),
                "See `althing members` for those that are enrolled.",
            )),
            _ => Ok(asked),
        }
    }

    pub(super) fn on_command(&mut self, command: Command, by: Option<By>, answer: Answer) {
        let ticket = self.ticket();
        self.tickets.insert(ticket, answer);
        self.tell_member(Input::Command { ticket, command, by });
    }
}
