//! What is to be published is staged, tried, and handed to the member as a command; no collection
//! takes it meanwhile.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{Work, locked};
use crate::{
    base::{
        AppName, Digest, MemberId, PublicKey, Reason, Refusal,
        catalog::{AppSpec, Application, Catalog, Roster},
    },
    driver::{Definition, Wrong, secrets::Sealed},
    member::{
        Input,
        command::{By, Command, Staged},
    },
    node::{
        Publish, certificates,
        content::{self, Content, ContentError, Defined, LISTING_WITHIN, Made, source},
        edits::{self, Edits},
        listeners,
        manifest::{Manifest, Resolved},
        run::{Answer, Note},
        secrets::{self, Base, SecretEdits},
        uploads::Brought,
    },
};

/// The number and signature of each application's current version.
type Current = BTreeMap<AppName, (u64, Digest)>;

impl Work {
    /// Stages a directory, then has the member publish it.
    pub fn publish(&self, publish: Publish, by: Option<By>, catalog: &Catalog, answer: Answer) {
        self.publish_files(Files::Of(publish), by, catalog, answer);
    }

    /// The same with one that was brought from another machine.
    pub fn publish_brought(
        &self,
        brought: Brought,
        by: Option<By>,
        catalog: &Catalog,
        answer: Answer,
    ) {
        self.publish_files(Files::Brought(brought), by, catalog, answer);
    }

    fn publish_files(&self, files: Files, by: Option<By>, catalog: &Catalog, answer: Answer) {
        let (content, store) = (self.content.clone(), self.store.clone());
        let (vault, roster) = (self.here.vault.clone(), catalog.roster.clone());
        let current = |(name, app): (&AppName, &Application)| {
            (name.clone(), (app.current().number, app.current().root))
        };
        let applications: Current = catalog.applications.iter().map(current).collect();
        let runtime = tokio::runtime::Handle::current();
        let (opens, opening) = (vault.clone(), runtime.clone());
        let anew = move |app: &AppName, root, spec: &AppSpec| {
            let members = keys_of(&roster, spec);
            runtime.block_on(secrets::sealed_anew(&vault, &store, (app, root), &members))
        };
        // Where they can't be opened, the members say what becomes of it.
        let certificate = move |app: &AppName, defined: &Defined| {
            let (Some(tls), Some(sealed)) = (&defined.tls, &defined.secrets) else { return Ok(()) };
            let opened = opening.block_on(opens.open(app, sealed));
            opened.map_or(Ok(()), |secrets| certificates::check(app, tls, &secrets).map(drop))
        };
        let notes = self.notes.clone();
        // The loop may be gone: then nothing comes of it.
        let seek = move |app: &AppName| {
            drop(notes.send(Note::Input(Input::Sought { app: app.clone() })));
        };
        let data = Arc::clone(&self.here.data);
        self.staged(
            move || stage(&content, &data, &files, &applications, anew, certificate, seek),
            by,
            answer,
        );
    }

    /// Stages what a list of changes makes of the current version, then has the
    /// member publish it.
    pub fn publish_edits(&self, edits: Edits, application: Option<Application>, answer: Answer) {
        let (store, content) = (self.store.clone(), self.content.clone());
        let data = Arc::clone(&self.here.data);
        let stage = move || match application {
            None => {
                let what = "The list was not published.";
                Err(crate::member::change::no_such_app(&edits.app, what))
            }
            Some(application) => {
                let mut named = edits.changes.iter().filter_map(|change| change.content.as_deref());
                named.try_for_each(|file| source::refuse_file(&data, file))?;
                // Without it, what follows says so.
                let _here = content.has_listing(&application.current().root, LISTING_WITHIN);
                edits::stage(&store, edits, &application)
            }
        };
        self.staged(stage, None, answer);
    }

    /// Stages what edits of secrets make of the current version, then has the member
    /// publish it.
    pub fn edit_secrets(&self, edits: SecretEdits, base: Base, answer: Answer) {
        let (vault, store) = (self.here.vault.clone(), self.store.clone());
        let runtime = tokio::runtime::Handle::current();
        let stage = move || runtime.block_on(secrets::stage(vault, store, edits, base));
        self.staged(stage, None, answer);
    }

    fn staged(
        &self,
        stage: impl FnOnce() -> Result<(Digest, Command), Refusal> + Send + 'static,
        by: Option<By>,
        answer: Answer,
    ) {
        let (notes, kept) = (self.notes.clone(), Arc::clone(&self.kept));
        let (store, hooks) = (self.store.clone(), self.hooks.clone());
        let content = self.content.clone();
        self.tasks.spawn_blocking(move || {
            // Nothing of it is collected until the catalog names it.
            let hold = store.hold();
            let tried = stage().and_then(|staged| {
                listeners::free(&content, &staged.1)?;
                hooks.try_out(&staged.1).map(|()| staged)
            });
            match tried {
                Err(refusal) => {
                    let _asker_may_be_gone = answer.send(Err(refusal));
                }
                Ok((root, command)) => {
                    locked(&kept).staging.push(root);
                    let (told, done) = oneshot::channel();
                    let _loop_may_be_gone = notes.send(Note::Staged(command, by, told));
                    drop(hold);
                    let result = done.blocking_recv();
                    let mut kept = locked(&kept);
                    let at = kept.staging.iter().position(|staged| *staged == root);
                    if let Some(at) = at {
                        kept.staging.swap_remove(at);
                    }
                    drop(kept);
                    if let Ok(result) = result {
                        let _asker_may_be_gone = answer.send(result);
                    }
                }
            }
        });
    }
}

/// What is published as it stands in a directory.
enum Files {
    /// The directory is one of this machine.
    Of(Publish),
    /// It is one of another, and what is in it is in the store.
    Brought(Brought),
}

impl Files {
    /// What was asked for, and what the manifest says, once it is clear that it may be read.
    fn asked(&self, data: &Path) -> Result<(Publish, Manifest), Refusal> {
        match self {
            Self::Brought(brought) => {
                let (publish, text) =
                    (brought.offer().publish(), brought.offer().manifest.as_deref());
                let manifest = Manifest::read(&publish.source, text)?;
                Ok((publish, manifest))
            }
            Self::Of(publish) if !publish.source.is_absolute() => Err(Refusal::new(
                Reason::Invalid,
                "The directory was not published.",
                format!("{} is not an absolute path.", publish.source.display()),
                "Give the whole path, from /.",
            )),
            Self::Of(publish) => {
                source::refuse_directory(data, &publish.source)?;
                Ok((publish.clone(), Manifest::load(&publish.source)?))
            }
        }
    }

    /// Makes a version of them, with what is `made` beside them.
    fn stage(
        &self,
        content: &Content,
        ignore: &[String],
        made: &Made,
    ) -> Result<content::Staged, ContentError> {
        match self {
            Self::Of(publish) => content.stage(&publish.source, ignore, made),
            Self::Brought(brought) => content.stage_brought(brought.tree(), ignore, made),
        }
    }
}

fn stage(
    content: &Content,
    data: &Path,
    files: &Files,
    applications: &Current,
    sealed_anew: impl Fn(&AppName, Digest, &AppSpec) -> Option<String>,
    certificate: impl Fn(&AppName, &Defined) -> Result<(), String>,
    seek: impl Fn(&AppName),
) -> Result<(Digest, Command), Refusal> {
    let (publish, mut manifest) = files.asked(data)?;
    if let Some(place) = &publish.place {
        manifest.put_at(place.clone());
    }
    let is_first = applications.keys().all(|app| Some(app) == publish.app.as_ref());
    let Resolved { app, spec, mut texts } =
        manifest.resolve(publish.app.clone(), publish.hosts.clone(), is_first)?;
    let what = format!("{app} was not published; its version stays as it was.");
    let own = publish.own_texts().map_err(|why| {
        Refusal::new(Reason::Invalid, &what, why, "Correct that definition, and publish again.")
    })?;
    texts.extend(own);
    let refuse = |error: ContentError| {
        let reason = if error.is_full() { Reason::Failed } else { Reason::Invalid };
        Refusal::new(reason, &what, format!("{error}."), "Mend the cause, and publish again.")
    };
    // Secrets are no part of a manifest: they stay as they are.
    let current = applications.get(&app).copied();
    if current.is_some_and(|(_, root)| !content.has_listing(&root, Duration::ZERO).unwrap_or(false))
    {
        seek(&app);
    }
    if let Some((number, root)) = current
        && !content.has_listing(&root, LISTING_WITHIN).map_err(refuse)?
    {
        return Err(Refusal::new(
            Reason::NotFound,
            &what,
            format!("This member does not hold version {number} yet, whose secrets are to stay."),
            "Publish on another member, or when `althing status` says that this one is in step.",
        ));
    }
    let anew = current.and_then(|(_, root)| sealed_anew(&app, root, &spec));
    let secrets_of = current.map(|(_, root)| root).filter(|_| anew.is_none());
    texts.extend(anew.map(|text| (Sealed::path(), text)));
    let made = Made { texts, secrets_of };
    if let Files::Brought(brought) = files {
        brought.prove(content.store())?;
    }
    let staged = files.stage(content, &spec.ignore, &made).map_err(refuse)?;
    let defined = content.defined_by(&staged.root).map_err(refuse)?.map_err(|mut wrong| {
        wrong.why = format!("{}.", wrong.why.replace("set APP", &format!("set {app}")));
        let why = manifest.told(&wrong);
        Refusal::new(Reason::Invalid, &what, why, "Do that, or correct althing.toml.")
    })?;
    certificate(&app, &defined).map_err(|why| {
        let todo = "Set it anew with `althing secret set`, or name another one in althing.toml.";
        let why = format!("{}.", crate::node::run::sentence(&why));
        let why = manifest.told(&Wrong::new(["tls", "certificate"], why));
        Refusal::new(Reason::Invalid, &what, why, todo)
    })?;
    // Secrets that are set while this is staged must not be lost by it.
    let against = current.map(|(number, _)| number).filter(|_| defined.secrets.is_some());
    let command = Command::Publish {
        app,
        staged: Staged { root: staged.root, files: staged.files, bytes: staged.bytes },
        spec: Box::new(spec),
        message: publish.message.clone(),
        base: publish.base.or(against),
    };
    Ok((staged.root, command))
}

/// Whom secrets are sealed for: all that an application with `spec` is placed on.
pub(in crate::node) fn keys_of(roster: &Roster, spec: &AppSpec) -> BTreeMap<MemberId, PublicKey> {
    roster.placed(spec).members().map(|member| (member.id, member.key)).collect()
}
