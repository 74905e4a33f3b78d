//! Secrets of applications on this member: set by a person, opened for services, and
//! handed to a member that can't open them because it came later.
//!
//! A version's document is sealed for those whom it was placed on when it was made. A
//! newcomer, or a member with a new key, asks one of the others, which opens it and
//! seals it anew for that member alone; this copy is kept beside the records. So
//! nobody's joining makes a version, and no service is restarted for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroize;

use super::{
    certificates,
    content::{Content, Defined, LISTING_WITHIN, file, put},
    services::{Ask, Told, Unfit, ask_one},
};
use crate::{
    base::{
        AppName, Digest, MemberId, PublicKey, Reason, Refusal, SecretKey, SecretName,
        catalog::{AppSpec, Application},
        tree::{Entry, Tree},
    },
    driver::{
        Definition,
        secrets::{Sealed, Secret, Secrets, SecretsError},
        tls::Tls,
    },
    member::command::{Command, Staged},
    net::Net,
    store::{ContentStore, StoreError, record},
};

/// A value on its way from a person.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NewSecret(pub String);

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewSecret")
    }
}

impl Drop for NewSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Secrets to be set and taken out: a version of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEdits {
    /// Of which application. One that there is not yet begins with its secrets.
    pub app: AppName,
    /// These get these values.
    #[serde(default)]
    pub set: BTreeMap<SecretName, NewSecret>,
    /// Whether all others go, unopened: for secrets that nobody can open any more.
    #[serde(default)]
    pub anew: bool,
    /// These go.
    #[serde(default)]
    pub unset: BTreeSet<SecretName>,
    /// For the history.
    #[serde(default)]
    pub message: String,
}

/// What is to be known of the others where secrets are handed over.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    /// Who is live, beside this member.
    pub live: Vec<MemberId>,
    /// The members that each application is placed on: nobody else is given its secrets.
    pub placed: BTreeMap<AppName, BTreeSet<MemberId>>,
}

/// What opens secrets here.
#[derive(Clone)]
pub(super) struct Vault {
    pub content: Content,
    pub network: Net,
    pub key: SecretKey,
    /// Where copies are kept that others have sealed for this member.
    pub dir: PathBuf,
    /// Whom to ask, and whom to answer.
    pub others: watch::Receiver<Others>,
}

/// Stands for a document, whoever holds it.
fn name_of(document: &Sealed) -> Digest {
    Digest::of("althing secrets", document.to_toml().as_bytes())
}

impl Vault {
    /// Opens `document`, the one of the live version of `app`. Asks others where it is
    /// not sealed for this member. The error is a sentence without its point.
    pub async fn open(&self, app: &AppName, document: &Sealed) -> Result<Secrets, Unfit> {
        let (vault, name, sealed) = (self.clone(), app.clone(), document.clone());
        let opened = tokio::task::spawn_blocking(move || vault.open_here(&name, &sealed)).await;
        match opened.map_err(|_| Unfit::Waiting("they could not be opened".to_owned()))? {
            Err(SecretsError::NotFor(_)) => {}
            result => return result.map_err(|error| Unfit::Unusable(error.to_string())),
        }
        let ask = Ask::Secrets { app: app.clone(), document: name_of(document) };
        let Others { live, placed } = self.others.borrow().clone();
        let holders = placed.get(app);
        for peer in live.into_iter().filter(|id| holders.is_none_or(|all| all.contains(id))) {
            let Ok(Told::Sealed(text)) = ask_one(&self.network, peer, &ask).await else { continue };
            let Ok(copy) = Sealed::parse(&text) else { continue };
            if copy.names() != document.names() {
                continue;
            }
            match copy.open(&self.key) {
                Ok(secrets) => {
                    if let Err(error) = self.keep(app, document, &text) {
                        tracing::warn!(%app, %error, "secrets have to be asked for again next time");
                    }
                    return Ok(secrets);
                }
                Err(error) => tracing::debug!(%peer, %error, "what it sealed can't be opened"),
            }
        }
        Err(Unfit::Waiting(format!(
            "the secrets of {app} are not sealed for this member, which came later or has a new \
             key, and no member that is live could hand them over yet"
        )))
    }

    /// The same without asking anybody. Blocks.
    fn open_here(&self, app: &AppName, document: &Sealed) -> Result<Secrets, SecretsError> {
        let opened = document.open(&self.key);
        if !matches!(opened, Err(SecretsError::NotFor(_))) {
            return opened;
        }
        let kept = record::load(&self.place(app, document)).ok().flatten();
        let kept = kept.and_then(|bytes| String::from_utf8(bytes).ok());
        let copy = kept.and_then(|text| Sealed::parse(&text).ok());
        match copy.filter(|copy| copy.names() == document.names()) {
            // With an older key: others are asked.
            Some(copy) => copy.open(&self.key).or(opened),
            None => opened,
        }
    }

    fn place(&self, app: &AppName, document: &Sealed) -> PathBuf {
        self.dir.join(app.as_str()).join(name_of(document).to_string())
    }

    /// Keeps a copy that is sealed for this member, in the place of any older one.
    fn keep(&self, app: &AppName, document: &Sealed, text: &str) -> Result<(), StoreError> {
        let (place, dir) = (self.place(app, document), self.dir.join(app.as_str()));
        let failed =
            |error: io::Error| StoreError::Io { doing: "keep", path: dir.clone(), source: error };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        // A copy under a name that a power cut takes back would have to be asked for again.
        for above in [self.dir.parent(), Some(&*self.dir)].into_iter().flatten() {
            record::sync_directory(above)?;
        }
        for old in fs::read_dir(&dir).map_err(failed)?.flatten() {
            if old.path() != place {
                fs::remove_file(old.path()).map_err(failed)?;
            }
        }
        record::save(&place, text.as_bytes())
    }

    /// The application is no longer on this member. Blocks.
    pub fn forget(&self, app: &AppName) {
        let dir = self.dir.join(app.as_str());
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%app, %error, "secrets sealed for this member stay on its disk");
            }
            _ => {}
        }
    }

    /// Another member asks for the secrets of its version: they are sealed for it alone.
    /// Blocks.
    pub fn hand_over(
        &self,
        app: &AppName,
        document: Digest,
        to: (MemberId, PublicKey),
    ) -> Result<Sealed, String> {
        if !self.others.borrow().placed.get(app).is_some_and(|all| all.contains(&to.0)) {
            return Err(format!("{app} is not placed on the member that asks"));
        }
        let defined = self.content.defined(app).map_err(|error| error.to_string())?;
        let sealed = defined.and_then(|(_, defined)| defined.secrets);
        let sealed = sealed.filter(|sealed| name_of(sealed) == document);
        let sealed = sealed.ok_or("another version is live here")?;
        let secrets = self.open_here(app, &sealed).map_err(|error| error.to_string())?;
        Sealed::seal(&secrets, &BTreeMap::from([to])).map_err(|error| error.to_string())
    }
}

/// The secrets of the version `root` of `app`, sealed anew where members have come,
/// gone or changed their keys since they were: the next version is for those of now.
/// None where nothing is to be done, or can be.
pub(super) async fn sealed_anew(
    vault: &Vault,
    store: &ContentStore,
    (app, root): (&AppName, Digest),
    members: &BTreeMap<MemberId, PublicKey>,
) -> Option<String> {
    let tree = store.tree(&root).ok()??;
    let sealed = Defined::parts(store, &tree, true).ok()?.ok()?.secrets?;
    if sealed.members().iter().eq(members.keys()) {
        return None;
    }
    let result = match vault.open(app, &sealed).await {
        Ok(secrets) => Sealed::seal(&secrets, members).map_err(|error| error.to_string()),
        Err(unfit) => Err(unfit.why().to_owned()),
    };
    match result {
        Ok(anew) => Some(anew.to_toml()),
        Err(why) => {
            tracing::warn!(%app, "its secrets stay sealed as they are: {why}");
            None
        }
    }
}

/// What to do where secrets can't be opened.
const ANEW: &str = "Ask another member. If nobody can open them any more, `althing secret set \
                    --anew` drops them all and begins with the one that is set.";

/// What an edit of secrets starts from.
pub(super) struct Base {
    /// The application, unless it is new.
    pub application: Option<Application>,
    /// Whom to seal for: all that it is placed on.
    pub members: BTreeMap<MemberId, PublicKey>,
    /// Whether the cluster has no other application.
    pub is_first: bool,
}

/// Makes the version, stores it, and says what is to be published.
pub(super) async fn stage(
    vault: Vault,
    store: ContentStore,
    edits: SecretEdits,
    base: Base,
) -> Result<(Digest, Command), Refusal> {
    let what = format!("The secrets of {} were not changed.", edits.app);
    let refuse = |reason, why: String, todo: &str| Refusal::new(reason, what.clone(), why, todo);
    let stored = |error: StoreError| {
        let why = format!("The store failed: {error}.");
        refuse(Reason::Failed, why, "Mend the cause, and try again.")
    };
    let current = base.application.as_ref().map(Application::current);
    let tree = match current {
        None if edits.set.is_empty() => {
            return Err(crate::member::change::no_such_app(&edits.app, &what));
        }
        None => Arc::default(),
        Some(version) => {
            let here = vault.content.has_listing(&version.root, LISTING_WITHIN);
            let here = here.map_err(|e| refuse(Reason::Failed, format!("{e}."), "Try again."))?;
            let tree = if here { store.tree(&version.root).map_err(stored)? } else { None };
            tree.ok_or_else(|| {
                let why = "This member does not hold the current version yet.".to_owned();
                refuse(Reason::NotFound, why, "Ask another member, or wait until it is in step.")
            })?
        }
    };
    let defined = Defined::parts(&store, &tree, !edits.anew);
    let defined = defined.map_err(stored)?.map_err(|why| {
        let why = format!("What the version defines can't be used: {why}.");
        refuse(Reason::Invalid, why, ANEW)
    })?;
    let mut secrets = match &defined.secrets {
        None => Secrets::new(),
        Some(sealed) => vault.open(&edits.app, sealed).await.map_err(|unfit| {
            refuse(Reason::Failed, format!("They can't be opened: {}.", unfit.why()), ANEW)
        })?,
    };
    let names =
        change(&mut secrets, &edits).map_err(|(reason, why, todo)| refuse(reason, why, todo))?;
    for (who, given) in defined.given() {
        if let Some(name) = edits.unset.iter().find(|name| given.contains(name)) {
            let why = format!("{} is given {name}.", super::run::sentence(&who));
            let todo = "Publish a manifest in which nothing names it, and try again.";
            return Err(refuse(Reason::Conflict, why, todo));
        }
    }
    for (what, name) in defined.rules.secrets() {
        if edits.unset.contains(name) {
            let why = format!("{} needs {name}.", super::run::sentence(&what));
            let todo = "Publish a manifest in which nothing names it, and try again.";
            return Err(refuse(Reason::Conflict, why, todo));
        }
    }
    if let Some(tls) = &defined.tls {
        if edits.unset.contains(&tls.certificate) {
            let why = format!("{} holds the certificate of the application.", tls.certificate);
            let todo = "Publish a manifest without [tls], and try again.";
            return Err(refuse(Reason::Conflict, why, todo));
        }
        if edits.set.contains_key(&tls.certificate) {
            fit(&edits.app, tls, &secrets)
                .map_err(|why| refuse(Reason::Invalid, why, CERTIFICATE))?;
        }
    }
    let mut entries: Vec<Entry> =
        tree.entries().filter(|e| e.path != Sealed::path()).cloned().collect();
    if !secrets.is_empty() {
        let sealed = Sealed::seal(&secrets, &base.members).map_err(|error| {
            refuse(Reason::Failed, format!("They can't be sealed: {error}."), "Mend the cause.")
        })?;
        let node = file(&store, &Sealed::path(), &sealed.to_toml()).map_err(stored)?;
        put(&mut entries, &Sealed::path(), node).map_err(|why| {
            refuse(Reason::Failed, format!("In .althing {why}."), "Publish the application anew.")
        })?;
    }
    let tree = Tree::new(entries).map_err(|error| {
        refuse(Reason::Failed, format!("The tree can't be made: {error}."), "Please report this.")
    })?;
    let root = store.put_tree(&tree).map_err(stored)?;
    let spec = current.map_or_else(
        || AppSpec { default: base.is_first, ..AppSpec::default() },
        |version| version.spec.clone(),
    );
    let message = if edits.message.is_empty() { names } else { edits.message };
    let command = Command::Publish {
        app: edits.app,
        staged: Staged { root, files: tree.files(), bytes: tree.bytes() },
        spec: Box::new(spec),
        message,
        base: current.map(|version| version.number),
    };
    Ok((root, command))
}

const CERTIFICATE: &str = "Give the chain of certificates and the private key as PEM: cat \
                           fullchain.pem privkey.pem | althing secret set APP NAME";

/// Whether what is set is a certificate that clients would take. The error is a sentence.
fn fit(app: &AppName, tls: &Tls, secrets: &Secrets) -> Result<(), String> {
    let new = certificates::check(app, tls, secrets);
    let new = new.map_err(|why| format!("{}.", super::run::sentence(&why)))?;
    let until = new.validity().until();
    if super::start::wall_now() > until {
        let name = &tls.certificate;
        return Err(format!("The certificate in {name} expired on {until}."));
    }
    Ok(())
}

type Refused = (Reason, String, &'static str);

/// Carries out `edits`. Returns what is said of them in the history.
fn change(secrets: &mut Secrets, edits: &SecretEdits) -> Result<String, Refused> {
    let mut said = Vec::new();
    for name in &edits.unset {
        if !secrets.remove(name) {
            let why = format!("There is no secret {name}.");
            return Err((
                Reason::NotFound,
                why,
                "See `althing secret list` for those that are set.",
            ));
        }
        said.push(format!("secret {name} taken out"));
    }
    for (name, NewSecret(value)) in &edits.set {
        let secret = Secret::new(value.clone());
        let secret = secret.map_err(|why| {
            (Reason::Invalid, format!("{name}: {why}"), "Give another value on standard input.")
        })?;
        secrets.insert(name.clone(), secret).map_err(|error| {
            let why = error.to_string();
            let point = if why.ends_with('.') { "" } else { "." };
            (Reason::Invalid, format!("{why}{point}"), "Give it another name, or have fewer.")
        })?;
        said.push(format!("secret {name} set"));
    }
    if said.is_empty() {
        let why = "Neither one to set nor one to take out was named.".to_owned();
        return Err((Reason::Invalid, why, "Name one."));
    }
    let mut text = said.join(", ");
    if text.len() > 200 {
        text = format!("{} secrets changed", said.len());
    }
    Ok(text)
}
