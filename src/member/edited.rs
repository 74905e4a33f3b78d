//! Automatic mode: while a window in it is held open, an edit of the live content
//! on any member is a publication.
//!
//! Each member asks for its own edits, one at a time for each application. Edits of
//! several members meet in the register, which takes one publication at a time:
//! whoever comes second switches to the version that was first, keeps its own edits
//! of what that one did not touch (`Effect::Activate`), and publishes those next.
//! What differed before the window was opened is drift and stays one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Member,
    event::{EventKind, Severity},
    io::{Effect, Switched},
    operate::AskOrigin,
};
use crate::base::{
    AppName, Reason, Refusal, Time,
    catalog::{Catalog, Origin, Version},
};

/// How soon an edit is offered again when another publication was under way.
const BUSY_RETRY: Duration = Duration::from_millis(50);
/// How soon after any other refusal.
const RETRY: Duration = Duration::from_secs(2);

/// What becomes of this member's edits.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Asked for, and not answered.
    asked: BTreeSet<AppName>,
    /// Not before this.
    hold: BTreeMap<AppName, Time>,
    /// Why the last one was refused, as it was told.
    told: BTreeMap<AppName, String>,
}

impl Edits {
    /// When one may be offered again.
    pub fn deadline(&self) -> Option<Time> {
        self.hold.values().min().copied()
    }
}

impl Member {
    /// Asks for whatever was edited here and is not asked for.
    pub(super) fn publish_edits(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        self.edits.hold.retain(|_, at| now < *at);
        let Some(window) = &catalog.window else { return };
        // One at a time: what is under way may touch what was edited here.
        if window.publication.is_some() {
            return;
        }
        let ready: Vec<AppName> = catalog
            .applications
            .keys()
            .filter(|app| !self.edits.asked.contains(*app))
            .filter(|app| !self.edits.hold.contains_key(*app))
            .filter(|app| self.content.edit(catalog, app).is_some())
            .cloned()
            .collect();
        for app in ready {
            self.publish_edit(now, catalog, &app, effects);
        }
    }

    fn publish_edit(
        &mut self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        effects: &mut Vec<Effect>,
    ) {
        let Some(root) = self.content.edit(catalog, app) else { return };
        let Some(staged) = self.ingested.get(&root).copied() else { return };
        let Some(current) = catalog.application(app).map(|a| a.current()) else { return };
        let (spec, base) = (current.spec.clone(), Some(current.number));
        let message = format!("edited on {}", self.name_of(self.me));
        let asked =
            self.quorum_for(format!("What was edited in {app} was not published.")).and_then(
                |()| self.publication(app.clone(), staged, spec, message, base, Origin::Edited),
            );
        match asked {
            Ok(publication) => {
                self.edits.asked.insert(app.clone());
                self.ask_window(now, AskOrigin::Edit, publication, effects);
            }
            Err(refusal) => self.edit_refused(now, app, &refusal, effects),
        }
    }

    /// The publication of an edit has ended.
    pub(super) fn edit_ended(
        &mut self,
        now: Time,
        app: &AppName,
        result: Result<(), Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        self.edits.asked.remove(app);
        match result {
            Ok(()) => drop(self.edits.told.remove(app)),
            Err(refusal) => self.edit_refused(now, app, &refusal, effects),
        }
    }

    /// It stays an edit, and is offered again.
    fn edit_refused(
        &mut self,
        now: Time,
        app: &AppName,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        // Somebody was first: what follows is a switch, and then the next try.
        let is_usual = matches!(refusal.reason, Reason::Busy | Reason::Conflict);
        let pause = if is_usual { BUSY_RETRY } else { RETRY };
        self.edits.hold.insert(app.clone(), now + pause);
        if is_usual || self.edits.told.get(app) == Some(&refusal.why) {
            return;
        }
        self.edits.told.insert(app.clone(), refusal.why.clone());
        let text = format!(
            "what was edited here in {app} is not published yet: {} It stays as it is, and is \
             offered again.",
            refusal.why
        );
        self.tell(effects, Severity::Warning, EventKind::Version, Some(app.clone()), text);
    }

    /// What became of edits when another version came.
    pub(super) fn tell_of_edits(
        &mut self,
        app: &AppName,
        version: &Version,
        switched: &Switched,
        effects: &mut Vec<Effect>,
    ) {
        if switched.aside == 0 {
            return;
        }
        let (number, who) = (version.number, self.name_of(version.publisher));
        let files = if switched.aside == 1 { "file" } else { "files" };
        let text = format!(
            "{} {files} that were edited here in {app} gave way to version {number}, published on \
             {who} ({}): what was edited is kept aside (`althing restore {app}`)",
            switched.aside,
            switched.sample.join(", ")
        );
        self.tell(effects, Severity::Warning, EventKind::Version, Some(app.clone()), text);
    }

    /// Nobody is left to answer: see `answer_all`.
    pub(super) fn forget_edits(&mut self) {
        self.edits = Edits::default();
    }
}
