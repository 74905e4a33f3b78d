//! Operators' events and questions: from the command to everybody's answer.
//! They need no majority, because they change nothing.

use std::time::Duration;

use super::{
    Member,
    command::{Answered, Outcome},
    event::{EventKind, Severity, UserEvent},
    io::Effect,
    message::Message,
};
use crate::{
    base::{Reason, Refusal, Time},
    proto::rumor::{self, Gathered, Rumor, RumorError},
};

/// The longest time that answers are waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The questions that every member can answer.
const QUERIES: [&str; 3] = ["ping", "version", "uptime"];

impl Member {
    /// Tells all members that something happened.
    pub(super) fn tell_all(
        &mut self,
        now: Time,
        ticket: u64,
        name: &str,
        payload: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let (live, mut wants) = (self.live(), Vec::new());
        let time = self
            .rumors
            .tell(now, name, payload, &live, &mut wants)
            .map_err(|error| refused("The event was not told.", error))?;
        self.heed_rumors(now, wants, effects);
        let result = Ok(Outcome::Told { time, live: live.len() });
        effects.push(Effect::Reply { ticket, result });
        Ok(())
    }

    /// Asks all members.
    pub(super) fn ask_all(
        &mut self,
        now: Time,
        ticket: u64,
        name: &str,
        payload: &str,
        wait_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let what = "Nobody was asked.";
        if !QUERIES.contains(&name) {
            return Err(Refusal::new(
                Reason::Invalid,
                what,
                format!("Members know no query of that name; they know {}.", QUERIES.join(", ")),
                "Ask one of these.",
            ));
        }
        let wait = Duration::from_millis(wait_ms);
        if wait.is_zero() || wait > WAIT_MAX {
            return Err(Refusal::new(
                Reason::Invalid,
                what,
                format!("Answers are waited for from 1 ms to {} seconds.", WAIT_MAX.as_secs()),
                "Give a --timeout between these.",
            ));
        }
        let (live, mut wants) = (self.live(), Vec::new());
        self.rumors
            .ask(now, ticket, name, payload, wait, &live, &mut wants)
            .map_err(|error| refused(what, error))?;
        self.heed_rumors(now, wants, effects);
        Ok(())
    }

    pub(super) fn heed_rumors(
        &mut self,
        now: Time,
        wants: Vec<rumor::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for want in wants {
            match want {
                rumor::Effect::Send { to, message } => {
                    self.send(to, &Message::Rumor(message), effects);
                }
                rumor::Effect::Happened(rumor) => self.tell_of_rumor(rumor, effects),
                rumor::Effect::Asked(rumor) => {
                    let (text, mut wants) = (self.answer_to(now, &rumor), Vec::new());
                    self.rumors.answer(now, rumor.origin, rumor.number, text, &mut wants);
                    self.heed_rumors(now, wants, effects);
                }
                rumor::Effect::Ended { ticket, gathered } => {
                    let result = Ok(self.gathered(gathered));
                    effects.push(Effect::Reply { ticket, result });
                }
            }
        }
    }

    fn tell_of_rumor(&mut self, rumor: Rumor, effects: &mut Vec<Effect>) {
        let Rumor { origin, clock: time, name, payload, .. } = rumor;
        let from = self.name_of(origin);
        let colon = if payload.is_empty() { "" } else { ": " };
        let text = format!("{name}{colon}{payload} (told by {from})");
        let user = UserEvent { origin: from, name, payload, time };
        self.tell_of(effects, Severity::Info, EventKind::User, origin, None, text);
        if let Some(Effect::Event(event)) = effects.last_mut() {
            event.user = Some(user);
        }
    }

    fn answer_to(&self, now: Time, rumor: &Rumor) -> Option<String> {
        match rumor.name.as_str() {
            "ping" => Some(format!("{} at {}", self.name_of(self.me), self.wall)),
            "version" => Some(env!("CARGO_PKG_VERSION").to_owned()),
            "uptime" => Some(format!("{} s", now.since(Time(0)).as_secs())),
            _ => None,
        }
    }

    fn gathered(&self, gathered: Gathered) -> Outcome {
        let Gathered { replies, missing } = gathered;
        let members = &self.catalog().roster.members;
        let away = members
            .iter()
            .filter(|m| !replies.contains_key(&m.id) && !missing.contains(&m.id))
            .map(|m| m.name.to_string())
            .collect();
        let mut answers: Vec<Answered> = replies
            .into_iter()
            .map(|(member, reply)| Answered {
                member: self.name_of(member),
                answer: reply.text,
                after_us: u64::try_from(reply.after.as_micros()).unwrap_or(u64::MAX),
            })
            .collect();
        answers.sort_by(|a, b| a.member.cmp(&b.member));
        let missing = missing.into_iter().map(|m| self.name_of(m)).collect();
        Outcome::Gathered { answers, missing, away }
    }
}

fn refused(what: &str, error: RumorError) -> Refusal {
    let (reason, todo) = match error {
        RumorError::Words => (Reason::Invalid, "Shorten it, or name a file or an address in it."),
        RumorError::TooOften => (Reason::Busy, "Wait a second, and try again."),
    };
    let mut why = format!("{error}.");
    // A sentence begins with a capital.
    why[..1].make_ascii_uppercase();
    Refusal::new(reason, what, why, todo)
}
