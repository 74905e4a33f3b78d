//! What the member wants done to live content: switch, scan, repair, take away, read. Each is a
//! thread's work, and what came of it is told to the member.

use std::time::Instant;

use super::Work;
use crate::{
    base::{AppName, Digest},
    driver::Repaired,
    member::{ContentFailure, Effect, Input, Repair, Switched, command::Staged},
    node::{
        content::{self, Activated, Content, ContentError, Edits as LiveEdits, Terms, Withdrawn},
        hooks,
        run::Note,
    },
    store::StoreError,
};

/// How many paths of a repair are named in its event.
const SAMPLE: usize = 3;
/// Bytes that are kept aside of what repairs replaced, for each application.
const ASIDE_BYTES_MAX: u64 = 1 << 30;
/// The newest repairs whose replaced content is kept however large it is.
const ASIDE_KEPT: usize = 3;

impl Work {
    /// Starts what `effect` asks for, if it is work on content.
    pub fn start(&self, effect: Effect) {
        match effect {
            Effect::Activate { app, version, sequence, root, spec, keep_edits, own } => {
                let hooks = self.hooks.clone();
                self.run(move |content| {
                    if let Some(why) = hooks.held_back(&app, version) {
                        let result = Err(ContentFailure::Failed(why));
                        return Input::Activated { app, version, result };
                    }
                    let check = |next: &content::Next<'_>| hooks.before(next);
                    let terms = Terms { keep_edits, own, check: Some(&check) };
                    let result = content.activate_with(&app, version, sequence, root, &spec, terms);
                    hooks.came_of(&app, version, result.as_ref().map(drop));
                    if result.as_ref().is_ok_and(|done| !done.edits.aside.is_empty()) {
                        tidy_aside(content, &app);
                    }
                    let result = result.map(|done| switched(&done, root)).map_err(|e| failure(&e));
                    Input::Activated { app, version, result }
                });
            }
            Effect::Scan { app, noticed } => self.run(move |content| {
                let started = Instant::now();
                let result =
                    if noticed { content.scan_changed(&app) } else { content.scan(&app, false) };
                let result = result.map(|s| s.root).map_err(|e| failure(&e));
                Input::Scanned { app, result, took: started.elapsed() }
            }),
            Effect::Repair { app, root } => {
                let hooks = self.hooks.clone();
                self.run(move |content| {
                    let result = content.repair(&app, root).map_err(|e| failure(&e));
                    // Also where it stopped half way.
                    hooks.repaired(&app);
                    tidy_aside(content, &app);
                    let result = result.map(|r| repair(&r));
                    Input::Repaired { app, root, result }
                });
            }
            Effect::Withdraw { app, sequence } => {
                let vault = self.here.vault.clone();
                self.run(move |content| {
                    let result = content.withdraw(&app, sequence).map_err(|e| failure(&e));
                    if result.is_ok() {
                        vault.forget(&app);
                    }
                    Input::Withdrawn { app, result: result.map(withdrawn) }
                });
            }
            Effect::Ingest { app } => {
                let (hooks, notes) = (self.hooks.clone(), self.notes.clone());
                let may_be_edit = self.watched.borrow().get(&app).is_some_and(|told| *told);
                self.run(move |content| {
                    let result = content.ingest_live(&app).and_then(|staged| {
                        let checked =
                            if may_be_edit { hooks.check_edit(&app, staged.root) } else { Ok(()) };
                        checked.map(|()| staged).map_err(|(error, is_news)| {
                            if let (ContentError::Held { why, .. }, true) = (&error, is_news) {
                                let notice = hooks::Notice::Edit(app.clone(), why.clone());
                                let _loop_may_be_gone = notes.send(Note::Hooks(notice));
                            }
                            error
                        })
                    });
                    let result =
                        result.map(|s| Staged { root: s.root, files: s.files, bytes: s.bytes });
                    Input::Ingested { app, result: result.map_err(|e| failure(&e)) }
                });
            }
            // Everything else is the loop's own.
            _ => {}
        }
    }

    fn run(&self, work: impl FnOnce(&Content) -> Input + Send + 'static) {
        let (content, notes) = (self.content.clone(), self.notes.clone());
        self.tasks.spawn_blocking(move || {
            let input = work(&content);
            let sites = matches!(
                &input,
                Input::Activated { result: Ok(_), .. } | Input::Withdrawn { result: Ok(_), .. }
            );
            let _loop_may_be_gone = notes.send(Note::Input(input));
            if sites {
                let _loop_may_be_gone = notes.send(Note::SitesChanged);
            }
        });
    }
}

/// What was replaced is kept for a while, and not for ever.
fn tidy_aside(content: &Content, app: &AppName) {
    if let Err(error) = content.prune_aside(app, ASIDE_BYTES_MAX, ASIDE_KEPT) {
        tracing::warn!(%app, %error, "what was kept aside could not be tidied");
    }
}

fn switched(done: &Activated, root: Digest) -> Switched {
    let LiveEdits { kept, aside } = &done.edits;
    Switched {
        root: done.merged.unwrap_or(root),
        kept: kept.len() as u64,
        aside: aside.len() as u64,
        sample: aside.iter().take(SAMPLE).map(|path| path.to_string()).collect(),
    }
}

fn withdrawn(done: Withdrawn) -> crate::member::Withdrawn {
    let Withdrawn { aside, left, place } = done;
    let place = (aside > 0).then(|| place.display().to_string());
    crate::member::Withdrawn { aside, left, place }
}

fn repair(done: &Repaired) -> Repair {
    let paths = done.set.iter().chain(&done.added).chain(&done.deleted);
    Repair {
        set: done.set.len() as u64,
        added: done.added.len() as u64,
        deleted: done.deleted.len() as u64,
        sample: paths.take(SAMPLE).map(|path| path.to_string()).collect(),
    }
}

fn failure(error: &ContentError) -> ContentFailure {
    match error {
        ContentError::Superseded { .. } | ContentError::GaveWay(_) => ContentFailure::Outdated,
        ContentError::Held { why, .. } => ContentFailure::Failed(why.clone()),
        ContentError::NotHere(_)
        | ContentError::Store(StoreError::Corrupt(_) | StoreError::NotFound(_)) => {
            ContentFailure::Lost(error.to_string())
        }
        _ => ContentFailure::Failed(error.to_string()),
    }
}
