//! What comes back from beside the loop, from services, hooks, ports, logs and the scrub: most of
//! it is told as an event and goes on by itself.

use super::{Loop, Note, telling::sentence};
use crate::{
    driver::services::ServiceEvent,
    gateway::{access::LogEvent, origins::DatabaseEvent, ports::PortEvent},
    member::{
        Input,
        event::{EventKind, Severity},
    },
    node::{certificates, hooks, listeners, scrub, services},
};

impl Loop {
    pub(super) fn on_note(&mut self, note: Note) {
        match note {
            Note::Input(input) => self.tell_member(input),
            Note::SitesChanged => self.refresh_sites(),
            Note::Drained(answer) => self.drained(answer),
            Note::Staged(command, by, answer) => self.on_command(command, by, answer),
            Note::Rotten(found) => self.on_rotten(found),
            Note::Services(notice) => self.on_definition(notice),
            Note::Hooks(notice) => self.on_hook(notice),
            Note::Rules(notice) => self.on_rule(notice),
            Note::Certificates(certificates::Notice { app, severity, text }) => {
                self.tell_about(EventKind::Service, severity, Some(app), text);
                self.view_dirty = true;
            }
            Note::Addresses(defined) => {
                if let Some(input) = self.addresses.defined(defined) {
                    self.tell_member(input);
                }
            }
            Note::AddressesUnable(why) => {
                if let Some(input) = self.addresses.able(why) {
                    self.tell_member(input);
                }
            }
            Note::Trouble(trouble) => {
                self.trouble = trouble.as_deref().map(|text| format!("{}.", sentence(text)));
                let (severity, text) = match trouble {
                    Some(text) => (Severity::Critical, text),
                    None => (Severity::Info, "this member can keep its record again".to_owned()),
                };
                self.tell_of_itself(EventKind::Member, severity, text);
            }
            Note::Stood(text) => self.tell_of_itself(EventKind::Member, Severity::Warning, text),
            Note::Unwatched(text) => {
                self.tell_of_itself(EventKind::Replication, Severity::Warning, text);
            }
        }
    }

    fn on_definition(&mut self, notice: services::Notice) {
        let (severity, app, text) = match notice {
            services::Notice::Seen(app, version, sight) => {
                self.tell_member(Input::Seen { app, version, sight });
                return;
            }
            services::Notice::Unusable(app, why) => {
                let text = format!(
                    "{why}; what ran of {app} goes on as it was: publish a version that can be used"
                );
                (Severity::Critical, app, text)
            }
            services::Notice::Waiting(app, why) => {
                let text = format!(
                    "{why}; what ran of {app} goes on as it was, and it is tried again by itself"
                );
                (Severity::Critical, app, text)
            }
            services::Notice::Used(app) => {
                let text = format!("what the version of {app} defines is in force here after all");
                (Severity::Info, app, text)
            }
        };
        self.tell_about(EventKind::Service, severity, Some(app), text);
        self.view_dirty = true;
    }

    fn on_hook(&mut self, notice: hooks::Notice) {
        let (severity, app, text) = match notice {
            hooks::Notice::Failed(app, version, why) => {
                let text = format!(
                    "{app} is switched to version {version}, and its after-switch hook {why}; it \
                     is tried again by itself"
                );
                (Severity::Warning, app, text)
            }
            hooks::Notice::Passed(app, version) => {
                let text = format!(
                    "the after-switch hook of {app} (version {version}) ended well after all"
                );
                (Severity::Info, app, text)
            }
            hooks::Notice::Edit(app, why) => {
                let text = format!(
                    "what was edited in {app} on this member is not published, because {why}"
                );
                (Severity::Warning, app, text)
            }
        };
        self.tell_about(EventKind::Version, severity, Some(app), text);
        self.view_dirty = true;
    }

    pub(super) fn on_service(&mut self, event: &ServiceEvent) {
        let (severity, app) = (services::severity(event), Some(event.app.clone()));
        self.tell_about(EventKind::Service, severity, app, event.to_string());
        self.view_dirty = true;
    }

    pub(super) fn on_log(&mut self, event: &LogEvent) {
        let severity = match event {
            LogEvent::Failed(_) | LogEvent::Behind(_) => Severity::Warning,
            LogEvent::Again(_) => Severity::Info,
        };
        self.tell_of_itself(EventKind::Member, severity, event.to_string());
        self.view_dirty = true;
    }

    pub(super) fn on_origins(&mut self, event: &DatabaseEvent) {
        let severity = match event {
            DatabaseEvent::Failed(_) => Severity::Warning,
            DatabaseEvent::Renewed(_) => Severity::Info,
        };
        self.tell_of_itself(EventKind::Member, severity, event.to_string());
        self.view_dirty = true;
    }

    pub(super) fn on_port(&mut self, event: &PortEvent) {
        let (severity, app) = (listeners::severity(event), Some(event.app.clone()));
        self.tell_about(EventKind::Service, severity, app, event.to_string());
        self.view_dirty = true;
    }

    fn on_rotten(&mut self, found: scrub::Found) {
        match found {
            scrub::Found::Store { root, chunks } => {
                let what = if chunks == 1 { "a piece" } else { "pieces" };
                let text = format!(
                    "the scrub found {chunks} {what} of content {root} rotten or lost in this \
                     member's store; others are asked for what is needed of it"
                );
                self.tell_of_itself(EventKind::Replication, Severity::Warning, text);
                self.tell_member(Input::Damaged { root });
            }
            scrub::Found::Live { app } => {
                let text = format!(
                    "the scrub found that the disk under {app} does not hold what was written \
                     there; the vote sees the difference now"
                );
                self.tell_of_itself(EventKind::Vote, Severity::Warning, text);
            }
        }
    }
}
