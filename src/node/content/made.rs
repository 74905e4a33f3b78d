//! What `publish` makes beside the files: the definitions below `.althing`, and files
//! of settings. And the way back, from a tree to what it defines.

use std::{
    collections::BTreeSet,
    fmt::Display,
    time::{Duration, Instant},
};

use super::{Active, Content, ContentError, Staged, locked};
use crate::{
    base::{
        AppName, Digest, RelPath, SecretName, ServiceName,
        path::DEFINITIONS,
        tree::{Entry, Node, Tree},
    },
    driver::{
        DEFINITION_MAX, Definition, DriverError, Wrong,
        addresses::Addresses,
        files::IgnoreRules,
        hooks::Hooks,
        listeners::{self, Listeners},
        routes::{self, Routes},
        rules::Rules,
        secrets::{Sealed, env_name},
        services::Services,
        settings::Settings,
        tls::Tls,
    },
    store::{ContentStore, StoreError},
};

/// A definition may hold what only the application's user should see.
const DEFINITION_MODE: u16 = 0o600;
const FILE_MODE: u16 = 0o644;
/// How long a publication waits for the listing of the version before, where this
/// member is about to have it.
pub const LISTING_WITHIN: Duration = Duration::from_secs(10);
/// How often is looked for a listing that is to come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is put beside the files of a directory that is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Texts, and where they stand: definitions, and files of settings.
    pub texts: Vec<(RelPath, String)>,
    /// The signature of the version whose secrets stay: these are no part of a manifest.
    pub secrets_of: Option<Digest>,
}

/// What a tree defines beside its files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defined {
    /// What runs.
    pub services: Services,
    /// What runs around a switch.
    pub hooks: Hooks,
    /// Which requests its services answer.
    pub routes: Routes,
    /// Ports of its own.
    pub listeners: Listeners,
    /// What it is set to.
    pub settings: Settings,
    /// What only its members know.
    pub secrets: Option<Sealed>,
    /// The addresses that one of its members has.
    pub addresses: Addresses,
    /// How it is served over TLS.
    pub tls: Option<Tls>,
    /// What is watched, and who is told then.
    pub rules: Rules,
}

impl Made {
    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether what is ignored leaves room for it.
    pub(super) fn fits(&self, rules: &IgnoreRules) -> Result<(), ContentError> {
        match self.texts.iter().find(|(path, _)| rules.ignores(path, false)) {
            None => Ok(()),
            Some((path, _)) => {
                let why = "the manifest itself or an ignore pattern stands for that path";
                Err(ContentError::InTheWay { path: path.clone(), why })
            }
        }
    }
}

impl Defined {
    /// What `tree` defines. The inner error is what of it can't be used, a sentence without
    /// its point.
    pub fn of(store: &ContentStore, tree: &Tree) -> Result<Result<Self, Wrong>, StoreError> {
        let parts = Self::parts(store, tree, true)?.map_err(Wrong::from);
        Ok(parts.and_then(|found| found.check().map(|()| found)))
    }

    /// The same without a look at whether its parts fit together, and on demand without
    /// what there is of secrets.
    pub fn parts(
        store: &ContentStore,
        tree: &Tree,
        with_secrets: bool,
    ) -> Result<Result<Self, String>, StoreError> {
        let secrets = if with_secrets { read(store, tree)? } else { Ok(None) };
        let (services, hooks) = (read(store, tree)?, read(store, tree)?);
        let (settings, routes) = (read(store, tree)?, read(store, tree)?);
        let (addresses, listeners) = (read(store, tree)?, read(store, tree)?);
        let (tls, rules) = (read(store, tree)?, read(store, tree)?);
        let all = || -> Result<Self, String> {
            Ok(Self {
                services: services?.unwrap_or_default(),
                hooks: hooks?.unwrap_or_default(),
                routes: routes?.unwrap_or_default(),
                listeners: listeners?.unwrap_or_default(),
                settings: settings?.unwrap_or_default(),
                secrets: secrets?,
                addresses: addresses?.unwrap_or_default(),
                tls: tls?,
                rules: rules?.unwrap_or_default(),
            })
        };
        Ok(all())
    }

    /// What is given secrets, as people call it, and which.
    pub fn given(&self) -> impl Iterator<Item = (String, &BTreeSet<SecretName>)> {
        self.given_at().map(|(who, _, names)| (who, names))
    }

    /// The same with the keys that lead to each.
    fn given_at(&self) -> impl Iterator<Item = (String, [String; 2], &BTreeSet<SecretName>)> {
        let at = |kind: &str, name: &dyn Display| [kind.to_owned(), name.to_string()];
        let services = self.services.0.iter();
        let services = services
            .map(move |(name, it)| (format!("service {name}"), at("services", name), &it.secrets));
        let hooks = self.hooks.iter();
        let hooks = hooks
            .map(move |(when, it)| (format!("the {when} hook"), at("hooks", &when), &it.secrets));
        let scripts = self.rules.script.iter();
        let scripts = scripts
            .map(move |(name, it)| (format!("script {name}"), at("script", name), &it.secrets));
        services.chain(hooks).chain(scripts)
    }

    /// Whether its parts fit together.
    fn check(&self) -> Result<(), Wrong> {
        let set = self.settings.env();
        let is_set = |name| self.secrets.as_ref().is_some_and(|s| s.names().contains(name));
        if let Some(Tls { certificate: name, .. }) = &self.tls
            && !is_set(name)
        {
            let why = format!(
                "it is to be served with the certificate in the secret {name}, which is not set: \
                 set it first, with `althing secret set APP {name}`"
            );
            return Err(Wrong::new(["tls", "certificate"], why));
        }
        let mut needed = self.rules.secrets_at();
        if let Some((at @ [kind, of, _], name)) = needed.find(|(_, name)| !is_set(name)) {
            let why = format!(
                "{kind} {of} needs the secret {name}, which is not set: set it first, with \
                 `althing secret set APP {name}`"
            );
            return Err(Wrong::new(at, why));
        }
        for (who, [kind, of], names) in self.given_at() {
            let at = |name: &SecretName, why| {
                Wrong::new([kind.as_str(), &of, "secrets", name.as_str()], why)
            };
            if let Some(name) = names.iter().find(|name| !is_set(name)) {
                let why = format!(
                    "{who} is to be given the secret {name}, which is not set: set it first, with \
                     `althing secret set APP {name}`"
                );
                return Err(at(name, why));
            }
            if let Some(name) = names.iter().find(|n| set.contains_key(&env_name(n))) {
                let why = format!(
                    "{who} would find both a setting and the secret {name} as {}: rename one of \
                     the two",
                    env_name(name)
                );
                return Err(at(name, why));
            }
        }
        let mut hooks = self.hooks.iter().map(|(when, _)| when.name());
        if let Some(name) = hooks.find(|name| self.services.0.contains_key(name)) {
            let why = format!(
                "service {name} has the name of a hook, and they would share one log: give the \
                 service another name"
            );
            return Err(Wrong::key(["services", name.as_str()], why));
        }
        let taken = |name: &ServiceName| {
            self.services.0.contains_key(name)
                || self.hooks.iter().any(|(when, _)| when.name() == *name)
        };
        if let Some(name) = self.rules.script.keys().find(|name| taken(name)) {
            let why = format!(
                "script {name} has the name of a service or a hook, and they would share one log: \
                 give the script another name"
            );
            return Err(Wrong::key(["script", name.as_str()], why));
        }
        let Self { services, routes, listeners, .. } = self;
        let lost = listeners::astray(listeners, services);
        lost.or_else(|| routes::astray(routes, listeners, services)).map_or(Ok(()), Err)
    }
}

/// The definition `D` of `tree`, if it has one.
pub(super) fn read<D: Definition>(
    store: &ContentStore,
    tree: &Tree,
) -> Result<Result<Option<D>, String>, StoreError> {
    let unusable = |why: String| format!("{} can't be used: {why}", D::path());
    Ok(match bytes_of(store, tree, &D::path())? {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => D::read(&bytes).map(Some).map_err(unusable),
        Err(why) => Err(unusable(why.to_owned())),
    })
}

/// The bytes of a definition of `tree`, if it is there.
fn bytes_of(
    store: &ContentStore,
    tree: &Tree,
    path: &RelPath,
) -> Result<Result<Option<Vec<u8>>, &'static str>, StoreError> {
    let chunks = match tree.get(path) {
        None => return Ok(Ok(None)),
        Some(Node::File { size, chunks, .. }) if *size <= DEFINITION_MAX => chunks,
        Some(_) => return Ok(Err("it is no file, or too large")),
    };
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend(store.read(&chunk.digest)?);
    }
    Ok(Ok(Some(bytes)))
}

/// `tree` with a file or another node at `path`, and the directories that it needs.
pub(in crate::node) fn put(
    entries: &mut Vec<Entry>,
    path: &RelPath,
    node: Node,
) -> Result<(), &'static str> {
    let mut above = path.parent();
    while let Some(path) = above {
        match entries.iter().find(|entry| entry.path == path) {
            Some(Entry { node: Node::Directory { .. }, .. }) => break,
            Some(_) => return Err("what stands above it is no directory"),
            None => {
                let mode = if path.is_definition() { 0o700 } else { 0o755 };
                entries.push(Entry { path: path.clone(), node: Node::Directory { mode } });
            }
        }
        above = path.parent();
    }
    match entries.iter().find(|entry| entry.path == *path).map(|entry| &entry.node) {
        None => entries.push(Entry { path: path.clone(), node }),
        Some(Node::File { digest: there, .. }) if matches!(&node, Node::File { digest, .. } if digest == there) =>
            {}
        Some(_) => return Err("something else stands there"),
    }
    Ok(())
}

/// Takes `text` into the store, as a file for `path`.
pub(in crate::node) fn file(
    store: &ContentStore,
    path: &RelPath,
    text: &str,
) -> Result<Node, StoreError> {
    let mut writer = store.writer();
    let (digest, size, chunks) = store.ingest_file(&mut writer, text.as_bytes())?;
    writer.commit()?;
    let mode = if path.is_definition() { DEFINITION_MODE } else { FILE_MODE };
    Ok(Node::File { mode, size, digest, chunks })
}

impl Content {
    /// What the live version of `app` defines. None where it is not active here.
    pub fn defined(&self, app: &AppName) -> Result<Option<(Active, Defined)>, ContentError> {
        let Some(active) = locked(&self.app(app).shown).active.clone() else { return Ok(None) };
        let _hold = self.inner.store.hold();
        let tree = self.tree(&active.root)?;
        match Defined::of(&self.inner.store, &tree)? {
            Ok(defined) => Ok(Some((active, defined))),
            Err(wrong) => Err(ContentError::Definition { app: app.clone(), why: wrong.why }),
        }
    }

    /// The text at `path` of the live version of `app`, with that version's number. None where it
    /// is not active here.
    pub fn text_of_live(
        &self,
        app: &AppName,
        path: &RelPath,
    ) -> Result<Option<(u64, Option<String>)>, ContentError> {
        let Some(active) = locked(&self.app(app).shown).active.clone() else { return Ok(None) };
        let _hold = self.inner.store.hold();
        let tree = self.tree(&active.root)?;
        let unusable = |why: &str| ContentError::Definition {
            app: app.clone(),
            why: format!("{path} can't be used: {why}"),
        };
        let bytes = bytes_of(&self.inner.store, &tree, path)?.map_err(unusable)?;
        let text = bytes.map(String::from_utf8).transpose();
        Ok(Some((active.version, text.map_err(|_| unusable("it is no text"))?)))
    }

    /// What the tree `root` defines. The inner error is what of it can't be used, a sentence
    /// without its point.
    pub fn defined_by(&self, root: &Digest) -> Result<Result<Defined, Wrong>, ContentError> {
        let tree = self.tree(root)?;
        Ok(Defined::of(&self.inner.store, &tree)?)
    }

    /// Whether the listing `root` is in the store, or comes within `patience`. Blocks.
    #[expect(clippy::disallowed_methods, reason = "it is called on a thread that may block")]
    pub fn has_listing(&self, root: &Digest, patience: Duration) -> Result<bool, ContentError> {
        let began = Instant::now();
        loop {
            if self.inner.store.tree(root)?.is_some() {
                return Ok(true);
            }
            if began.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The files of `tree` with what is `made`, in the store.
    pub(super) fn with_made(&self, tree: &Tree, made: &Made) -> Result<Staged, ContentError> {
        let store = &self.inner.store;
        let given = tree.entries().filter(|entry| !entry.path.is_definition());
        let mut entries: Vec<Entry> = given.cloned().collect();
        for (path, text) in &made.texts {
            let node = file(store, path, text)?;
            put(&mut entries, path, node)
                .map_err(|why| ContentError::InTheWay { path: path.clone(), why })?;
        }
        if let Some(root) = made.secrets_of {
            let before = self.tree(&root)?;
            if let Some(node) = before.get(&Sealed::path()) {
                // Nothing is in its way: `.althing` is ours.
                let _put = put(&mut entries, &Sealed::path(), node.clone());
            }
        }
        if entries.iter().all(|entry| entry.path.as_bytes() == DEFINITIONS.as_bytes()) {
            entries.clear();
        }
        self.keep(&Tree::new(entries).map_err(DriverError::from)?)
    }
}
