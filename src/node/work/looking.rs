//! Live trees are watched, and looked into where somebody asks: a tree that was compared once is
//! watched for a while, so that the next comparison is spared its walk.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Watching, Work, locked};
use crate::{
    base::{AppName, Digest, Refusal, catalog::Application},
    member::Input,
    node::{
        content::LISTING_WITHIN,
        inspect::{self, Findings, Question},
        run::Note,
        watching::{self, Notice},
    },
};

/// How long a live tree is watched after it was compared on command.
const WATCHED_FOR: Duration = Duration::from_secs(3_600);

impl Work {
    pub(super) fn watch_live_trees(&self) {
        let notes = self.notes.clone();
        let tell = move |notice| {
            let note = match notice {
                Notice::Changed(app) => Note::Input(Input::Noticed { app }),
                Notice::Unwatched(why) => Note::Unwatched(why),
            };
            let _loop_may_be_gone = notes.send(note);
        };
        let (content, wanted) = (self.content.clone(), self.watched.subscribe());
        self.tasks.spawn(watching::run(content, wanted, tell, self.stopping.clone()));
    }

    /// Changes in the live trees of these applications are told of from now on.
    pub fn watch(&self, apps: BTreeSet<AppName>) {
        locked(&self.watching).told = apps;
        self.watch_anew();
    }

    fn watch_anew(&self) {
        let apps = {
            let Watching { told, compared } = &mut *locked(&self.watching);
            compared.retain(|_, at| at.elapsed() < WATCHED_FOR);
            let quiet = compared.keys().map(|app| (app.clone(), false));
            let loud = told.iter().map(|app| (app.clone(), true));
            quiet.chain(loud).collect()
        };
        self.watched.send_if_modified(|watched| {
            let differs = *watched != apps;
            *watched = apps;
            differs
        });
    }

    /// Answers a question about content. `elsewhere` says on whom it is placed if not
    /// on this member.
    pub fn inspect(
        &self,
        question: Question,
        application: Option<Application>,
        elsewhere: Option<String>,
        answer: oneshot::Sender<Result<Findings, Refusal>>,
    ) {
        if let (Question::Compare { app, .. }, Some(_), None) =
            (&question, &application, &elsewhere)
        {
            locked(&self.watching).compared.insert(app.clone(), Instant::now());
            self.content.watch_soon(app);
            self.watch_anew();
        }
        let (content, store) = (self.content.clone(), self.store.clone());
        let notes = self.notes.clone();
        // What it does not place here is not missing here.
        let placed = application.iter().filter(|_| elsewhere.is_none());
        let versions = placed.flat_map(|application| &application.versions);
        let roots: Vec<Digest> = versions.map(|version| version.root).collect();
        self.tasks.spawn_blocking(move || {
            let result = match application {
                None => {
                    let (app, what) = (question.app(), question.unanswered());
                    Err(crate::member::change::no_such_app(app, what))
                }
                Some(application) => match elsewhere {
                    Some(whom) if question.is_of_live_content() => {
                        Err(inspect::not_here(question.app(), &whom))
                    }
                    elsewhere => {
                        // No collection takes what is being compared.
                        let _hold = store.hold();
                        if elsewhere.is_some() {
                            // Without it, what follows says so.
                            let root = application.current().root;
                            let _here = content.has_listing(&root, LISTING_WITHIN);
                        }
                        inspect::answer(&content, &store, question, &application)
                    }
                },
            };
            let damaged: Vec<Digest> = match &result {
                Ok(Findings::Verified(found)) if found.store_damaged > 0 => {
                    Digest::parse(&found.root).into_iter().collect()
                }
                Ok(Findings::Compared(found)) if found.lacking > 0 => {
                    Digest::parse(&found.root).into_iter().collect()
                }
                // It may be of several.
                Ok(Findings::Pieces(found)) if !found.damaged.is_empty() => roots
                    .into_iter()
                    .filter(|root| matches!(store.whole(root), Ok(false)))
                    .collect(),
                _ => Vec::new(),
            };
            for root in damaged {
                let _loop_may_be_gone = notes.send(Note::Input(Input::Damaged { root }));
            }
            let _asker_may_be_gone = answer.send(result);
        });
    }
}
