//! Events: each gets its number, is logged, kept for a while, and passed on to those who listen.

use super::Loop;
use crate::{
    base::{AppName, limits},
    member::event::{Event, EventKind, Severity},
    node::{logged, start::wall_now},
};

impl Loop {
    /// Tells of something that the member does not know of.
    pub(super) fn tell_of_itself(&mut self, kind: EventKind, severity: Severity, text: String) {
        self.tell_about(kind, severity, None, text);
    }

    /// The same, about an application.
    pub(super) fn tell_about(
        &mut self,
        kind: EventKind,
        severity: Severity,
        app: Option<AppName>,
        text: String,
    ) {
        self.tell(Event {
            number: 0,
            at: wall_now(),
            severity,
            kind,
            member: None,
            app,
            text,
            user: None,
            cause: None,
            episode: None,
            asked: None,
            evidence: None,
        });
    }

    pub(super) fn tell(&mut self, mut event: Event) {
        self.event_number += 1;
        event.number = self.event_number;
        self.metrics.repairs += u64::from(event.kind == EventKind::Repair);
        logged::log(&event);
        // A poisoned lock means that a reader panicked: the events are whole.
        let mut recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        let is_users = |e: &Event| e.kind == EventKind::User;
        if is_users(&event)
            && recent.iter().filter(|e| is_users(e)).count() >= limits::USER_EVENTS_MAX
            && let Some(oldest) = recent.iter().position(is_users)
        {
            recent.remove(oldest);
        }
        if recent.len() >= limits::EVENTS_MAX {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        drop(recent);
        if event.kind == EventKind::Repair
            && let Some(app) = &event.app
        {
            *self.repairs.entry(app.clone()).or_default() += 1;
        }
        self.telemetry.event(event.clone());
        let _nobody_may_listen = self.events.send(event);
    }
}

/// With a capital: an event's text as a reason.
pub(in crate::node) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
