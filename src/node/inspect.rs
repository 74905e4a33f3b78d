//! Questions about content that take their time: what is right, what differs,
//! what was replaced. Each is answered beside the loop, from this member's own
//! store and disk; none changes what is live or what the catalog says.

use std::{
    path::PathBuf,
    time::{Instant, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    content::{Content, ContentError, Defined},
    edits::{self, Edits},
    handle::own_path,
};
use crate::{
    base::{
        AppName, Digest, Reason, Refusal, SecretName, ServiceName, WallTime,
        catalog::{Application, Version},
        tree::{Change, Node, Tree},
    },
    driver::{DriverError, Mode, Scan, variable::variable},
    store::ContentStore,
};

mod diff;
mod lists;
#[cfg(test)]
mod tests;

pub use diff::{CHANGES_MAX, Diff, Difference, Item, Op};
pub use lists::{Compared, Elsewhere, Listed, Lists, Pieces, Wanted};

/// How many differences a verification names.
const DIFFERENCES_MAX: usize = 50;

/// A question about one application on this member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Read every byte of the live content and of the store's copy again, and
    /// compare with the current version. Answered by [`Findings::Verified`].
    Verify {
        /// Which application.
        app: AppName,
    },
    /// Compare two versions, or one with what stands here. [`Findings::Diff`].
    Diff {
        /// Which application.
        app: AppName,
        /// The older one; by default the one before `to`, or the current one if
        /// it is compared with what stands here.
        from: Option<u64>,
        /// The newer one; the current one if not given.
        to: Option<u64>,
        /// Instead of `to`: what stands on this member.
        live: bool,
        /// Whether the lines of text files are compared as well.
        text: bool,
    },
    /// List what repairs and switches have replaced and is kept. [`Findings::Kept`].
    Kept {
        /// Which application.
        app: AppName,
    },
    /// Copy what was replaced on one occasion into a new directory. [`Findings::Restored`].
    Restore {
        /// Which application.
        app: AppName,
        /// Which occasion.
        number: u64,
        /// An absolute path; nothing may stand there but an empty directory.
        into: PathBuf,
    },
    /// What its programs are set to. [`Findings::Settings`].
    Settings {
        /// Which application.
        app: AppName,
    },
    /// Which secrets are set, not to what. [`Findings::Secrets`].
    Secrets {
        /// Which application.
        app: AppName,
    },
    /// Compare what stands here with the current version. [`Findings::Compared`].
    Compare {
        /// Which application.
        app: AppName,
        /// Whether every byte is read, or only what may have changed.
        full: bool,
        /// Whether the three lists are wanted.
        lists: bool,
    },
    /// Whether a list of changes fits the current version, and what content it needs that
    /// is not here: asked before that is brought from elsewhere. [`Findings::Lacking`].
    Lacking(Edits),
    /// Compare what stands elsewhere, as an IHaveList says it, with a version.
    /// [`Findings::Elsewhere`].
    Elsewhere {
        /// Which application.
        app: AppName,
        /// Which version; the current one if not given.
        version: Option<u64>,
        /// The list.
        have: Vec<Listed>,
    },
    /// Which of these pieces of content, as an ActionList names them, the store of the member
    /// holds. [`Findings::Pieces`].
    Pieces {
        /// As whose; a store keeps the pieces of all applications together.
        app: AppName,
        /// The list.
        action: Vec<Wanted>,
    },
    /// What the version that is live here says of something that only the program knows which
    /// embeds the member. [`Findings::Definition`].
    Definition {
        /// Which application.
        app: AppName,
        /// The name of its file below `.althing`: see [`Publish::define`](super::Publish::define).
        name: String,
    },
}

impl Question {
    /// Which application it is about.
    pub fn app(&self) -> &AppName {
        match self {
            Self::Verify { app }
            | Self::Diff { app, .. }
            | Self::Kept { app }
            | Self::Restore { app, .. }
            | Self::Settings { app }
            | Self::Secrets { app }
            | Self::Compare { app, .. }
            | Self::Elsewhere { app, .. }
            | Self::Pieces { app, .. }
            | Self::Definition { app, .. } => app,
            Self::Lacking(edits) => &edits.app,
        }
    }

    /// What happened, if it can't be answered.
    pub(super) fn unanswered(&self) -> &'static str {
        match self {
            Self::Lacking(_) => "The list was not published; nothing was changed.",
            _ => "There is nothing to look at.",
        }
    }

    /// Whether it is about what stands on the member that is asked.
    pub(super) fn is_of_live_content(&self) -> bool {
        match self {
            Self::Diff { live, .. } => *live,
            Self::Settings { .. }
            | Self::Secrets { .. }
            | Self::Elsewhere { .. }
            | Self::Pieces { .. }
            | Self::Lacking(_) => false,
            Self::Verify { .. }
            | Self::Kept { .. }
            | Self::Restore { .. }
            | Self::Compare { .. }
            | Self::Definition { .. } => true,
        }
    }
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Findings {
    /// See [`Question::Verify`].
    Verified(Verified),
    /// See [`Question::Diff`].
    Diff(Diff),
    /// See [`Question::Kept`]; oldest first.
    Kept(Vec<KeptAside>),
    /// See [`Question::Restore`].
    Restored(Restored),
    /// See [`Question::Settings`].
    Settings(SettingsFound),
    /// See [`Question::Secrets`].
    Secrets(SecretsFound),
    /// See [`Question::Compare`].
    Compared(Compared),
    /// See [`Question::Lacking`]: signatures, each once.
    Lacking(Vec<String>),
    /// See [`Question::Elsewhere`].
    Elsewhere(Elsewhere),
    /// See [`Question::Pieces`].
    Pieces(Pieces),
    /// See [`Question::Definition`].
    Definition(DefinitionFound),
}

/// What a version says of something, as it is written there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionFound {
    /// Of which application.
    pub app: AppName,
    /// The version that is live on this member.
    pub version: u64,
    /// The text; none if it says nothing of that.
    pub text: Option<String>,
}

/// What the programs of an application are set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsFound {
    /// Of which application.
    pub app: AppName,
    /// In which version.
    pub version: u64,
    /// By key.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// With dots for tables.
    pub key: String,
    /// To what.
    pub value: serde_json::Value,
    /// The variable that services find it in.
    pub variable: String,
}

/// The names of the secrets of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsFound {
    /// Of which application.
    pub app: AppName,
    /// In which version.
    pub version: u64,
    /// By name.
    pub secrets: Vec<SecretFound>,
}

/// One secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFound {
    /// Its name.
    pub name: SecretName,
    /// The variable by which services and hooks are given it.
    pub variable: String,
    /// Which services, hooks and scripts are; `tls` where it is the certificate, `mail` or
    /// `webhook` where rules tell somebody with it.
    pub services: Vec<ServiceName>,
}

/// What a verification found on the member that was asked: every byte of the
/// live content was read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Of which application.
    pub app: AppName,
    /// Against which version.
    pub version: u64,
    /// The committed signature.
    pub root: String,
    /// What was found; nothing if there is nothing.
    pub found: Option<String>,
    /// Whether they are the same.
    pub same: bool,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// `SET path`, `ADD path`, `DEL path`: what would put it right; the first few.
    pub differences: Vec<String>,
    /// How many there are in all.
    pub differences_total: usize,
    /// Chunks of the committed version that the store has lost or that rotted.
    pub store_damaged: usize,
}

/// One occasion on which something was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAside {
    /// Its number: later ones are higher.
    pub number: u64,
    /// When, by this member's clock.
    pub at: String,
    /// The same, in milliseconds since 1970.
    pub at_ms: u64,
    /// Regular files that are kept.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// The first few paths.
    pub sample: Vec<String>,
    /// Where they lie on this member.
    pub path: PathBuf,
}

/// What was copied out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// From which occasion.
    pub number: u64,
    /// To where.
    pub into: PathBuf,
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// What is neither file, directory nor link, and was left out.
    pub left_out: Vec<String>,
}

/// The refusal where `app` is placed on others, `whom`.
pub(super) fn not_here(app: &AppName, whom: &str) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        "There is nothing to look at.",
        format!("{app} is not placed on this member, but on {whom}."),
        "Ask one of those.",
    )
}

/// Answers `question` about `application`, as the catalog has it. Blocks.
pub(super) fn answer(
    content: &Content,
    store: &ContentStore,
    question: Question,
    application: &Application,
) -> Result<Findings, Refusal> {
    let view = View { content, store, application };
    Ok(match question {
        Question::Verify { app } => Findings::Verified(view.verify(app)?),
        Question::Diff { app, from, to, live, text } => {
            Findings::Diff(view.diff(app, from, to, live, text)?)
        }
        Question::Kept { app } => Findings::Kept(view.kept(&app)?),
        Question::Restore { app, number, into } => {
            Findings::Restored(view.restore(&app, number, into)?)
        }
        Question::Settings { app } => Findings::Settings(view.settings(app)?),
        Question::Secrets { app } => Findings::Secrets(view.secrets(app)?),
        Question::Compare { app, full, lists } => {
            Findings::Compared(view.compare(app, full, lists)?)
        }
        Question::Lacking(edits) => {
            let lacking = edits::lacking(store, &edits, application)?;
            Findings::Lacking(lacking.iter().map(ToString::to_string).collect())
        }
        Question::Elsewhere { app, version, have } => {
            Findings::Elsewhere(view.elsewhere(app, version, &have)?)
        }
        Question::Pieces { app, action } => Findings::Pieces(view.pieces(app, action)?),
        Question::Definition { app, name } => Findings::Definition(view.definition(app, &name)?),
    })
}

/// What there is to look at.
struct View<'a> {
    content: &'a Content,
    store: &'a ContentStore,
    application: &'a Application,
}

impl View<'_> {
    fn verify(&self, app: AppName) -> Result<Verified, Refusal> {
        let refuse = |error: ContentError| failed(&format!("{app} could not be verified."), &error);
        let version = self.application.current();
        let scanned = self.content.scan(&app, true).map_err(refuse)?;
        let same = scanned.root == Some(version.root);
        let differences = if same {
            Vec::new()
        } else {
            self.content.differences(&app, &version.root).map_err(refuse)?
        };
        let damaged = self.store.verify(&version.root, |_, _| {}).map_err(|e| refuse(e.into()))?;
        let word = |change: &Change| match change {
            Change::Set(entry) => format!("SET {}", entry.path),
            Change::Add(entry) => format!("ADD {}", entry.path),
            Change::Del(path) => format!("DEL {path}"),
        };
        Ok(Verified {
            version: version.number,
            root: version.root.to_string(),
            found: scanned.root.map(|r| r.to_string()),
            same,
            files: scanned.files,
            bytes: scanned.bytes_read,
            differences: differences.iter().take(DIFFERENCES_MAX).map(word).collect(),
            differences_total: differences.len(),
            store_damaged: damaged.len(),
            app,
        })
    }

    fn kept(&self, app: &AppName) -> Result<Vec<KeptAside>, Refusal> {
        let refuse = |error| failed("What was replaced can't be listed.", &error);
        let all = self.content.kept_aside(app).map_err(refuse)?;
        let list = all.into_iter().map(|kept| {
            let since = kept.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let at = WallTime(since.as_millis() as u64);
            KeptAside {
                number: kept.number,
                at: at.to_string(),
                at_ms: at.0,
                files: kept.files,
                bytes: kept.bytes,
                sample: kept.sample.iter().map(ToString::to_string).collect(),
                path: kept.path,
            }
        });
        Ok(list.collect())
    }

    fn restore(&self, app: &AppName, number: u64, into: PathBuf) -> Result<Restored, Refusal> {
        let what = "Nothing was restored.";
        if !into.is_absolute() {
            return Err(Refusal::new(
                Reason::Invalid,
                what,
                format!("{} is not an absolute path.", into.display()),
                "Give the whole path, from /.",
            ));
        }
        let done = self.content.copy_out(app, number, &into).map_err(|e| failed(what, &e))?;
        let done = done.ok_or_else(|| {
            Refusal::new(
                Reason::NotFound,
                what,
                format!("On this member nothing of {app} is kept under the number {number}."),
                format!("See `althing restore {app}` for what is kept here; other members may keep more."),
            )
        })?;
        Ok(Restored {
            number,
            into,
            files: done.files,
            bytes: done.bytes,
            left_out: done.left_out.iter().map(ToString::to_string).collect(),
        })
    }

    fn defined(&self, what: &str) -> Result<Defined, Refusal> {
        let tree = self.listing(&self.application.current().root, what)?;
        let defined = Defined::of(self.store, &tree).map_err(|e| failed(what, &e.into()))?;
        defined.map_err(|wrong| {
            let todo = "Publish a version that can be used.";
            Refusal::new(Reason::Invalid, what, format!("In its version {}.", wrong.why), todo)
        })
    }

    fn settings(&self, app: AppName) -> Result<SettingsFound, Refusal> {
        let defined = self.defined("The settings can't be shown.")?;
        let setting = |(key, value): (String, _)| Setting {
            variable: variable(&key),
            // Text, numbers and lists of them always serialise.
            value: serde_json::to_value(value).unwrap_or_default(),
            key,
        };
        let settings = defined.settings.0.into_iter().map(setting).collect();
        Ok(SettingsFound { app, version: self.application.current().number, settings })
    }

    fn definition(&self, app: AppName, name: &str) -> Result<DefinitionFound, Refusal> {
        let what = "The definition can't be read.";
        let path = own_path(name).map_err(|why| {
            Refusal::new(Reason::Invalid, what, why, "Give the name that it was published with.")
        })?;
        let found = self.content.text_of_live(&app, &path).map_err(|e| failed(what, &e))?;
        let (version, text) =
            found.ok_or_else(|| failed(what, &ContentError::NotActive(app.clone())))?;
        Ok(DefinitionFound { app, version, text })
    }

    fn elsewhere(
        &self,
        app: AppName,
        version: Option<u64>,
        have: &[Listed],
    ) -> Result<Elsewhere, Refusal> {
        let what = format!("The list was not compared with {app}.");
        let version = version.map(|number| self.version(number, &what)).transpose()?;
        let version = version.unwrap_or_else(|| self.application.current());
        let want = self.listing(&version.root, &what)?;
        lists::elsewhere(app, version, &want, have).map_err(|why| misread(&what, &why))
    }

    fn pieces(&self, app: AppName, action: Vec<Wanted>) -> Result<Pieces, Refusal> {
        let what = "The chunks were not looked for.";
        let found = lists::pieces_of(app, self.store, action);
        let found = found.map_err(|error| failed(what, &error.into()))?;
        found.map_err(|why| misread(what, &why))
    }

    fn secrets(&self, app: AppName) -> Result<SecretsFound, Refusal> {
        let defined = self.defined("The secrets can't be listed.")?;
        let names = defined.secrets.iter().flat_map(|sealed| sealed.names());
        let services = defined.services.0.iter();
        let hooks = || defined.hooks.iter();
        let tls = defined.tls.as_ref();
        let is_certificate = |name: &SecretName| tls.is_some_and(|tls| tls.certificate == *name);
        let word = |word| ServiceName::parse(word).expect("letters are a name");
        let rules = &defined.rules;
        let mails = |name| rules.mail.values().any(|mail| mail.password.as_ref() == Some(name));
        let signs = |name| rules.webhook.values().any(|it| it.sign.as_ref() == Some(name));
        let found = names.map(|name| SecretFound {
            name: name.clone(),
            variable: variable(name.as_str()),
            services: services
                .clone()
                .filter(|(_, service)| service.secrets.contains(name))
                .map(|(service, _)| service.clone())
                .chain(
                    hooks()
                        .filter(|(_, hook)| hook.secrets.contains(name))
                        .map(|(when, _)| when.name()),
                )
                .chain(
                    rules
                        .script
                        .iter()
                        .filter(|(_, script)| script.secrets.contains(name))
                        .map(|(script, _)| script.clone()),
                )
                .chain(is_certificate(name).then(|| word("tls")))
                .chain(mails(name).then(|| word("mail")))
                .chain(signs(name).then(|| word("webhook")))
                .collect(),
        });
        let secrets = found.collect();
        Ok(SecretsFound { app, version: self.application.current().number, secrets })
    }

    fn version(&self, number: u64, what: &str) -> Result<&Version, Refusal> {
        self.application.version(number).ok_or_else(|| {
            let kept = &self.application.versions;
            let oldest = kept.first().map_or(0, |v| v.number);
            let newest = self.application.current().number;
            Refusal::new(
                Reason::NotFound,
                what,
                format!("There is no version {number}: versions {oldest} to {newest} are kept."),
                "See `althing history` for them.",
            )
        })
    }

    fn listing(&self, root: &Digest, what: &str) -> Result<std::sync::Arc<Tree>, Refusal> {
        let found = self.store.tree(root).map_err(|e| failed(what, &e.into()))?;
        found.ok_or_else(|| {
            Refusal::new(
                Reason::NotFound,
                what,
                "This member does not hold that version; it joined later, or is fetching it.",
                "Ask another member, or wait until `althing status` says that this one is in step.",
            )
        })
    }

    fn live(&self, app: &AppName, mode: Mode, what: &str) -> Result<Scan, Refusal> {
        let scan = self.content.live(app, mode, None).map_err(|e| failed(what, &e))?;
        scan.ok_or_else(|| failed(what, &ContentError::NotActive(app.clone())))
    }

    fn compare(&self, app: AppName, full: bool, lists: bool) -> Result<Compared, Refusal> {
        let what = format!("{app} could not be compared.");
        let began = Instant::now();
        let version = self.application.current();
        let token = self.content.token(&app);
        if let (false, false, Some(token)) = (full, lists, &token)
            && let Some(files) = self.content.in_step(&app, &version.root, token)
        {
            return Ok(lists::unchanged(app, version, files, began.elapsed().as_millis() as u64));
        }
        let want = self.listing(&version.root, &what)?;
        let mode = if full { Mode::Full } else { Mode::Quick };
        let mut scan = self.live(&app, mode, &what)?;
        scan.fit(&want).map_err(|e| failed(&what, &e.into()))?;
        let lacking = self.store.missing(&want).map_err(|e| failed(&what, &e.into()))?;
        let took_ms = began.elapsed().as_millis() as u64;
        let found = lists::compared(app, version, &want, &scan, &lacking, (full, lists, took_ms));
        if let (Some(token), true) = (token, found.same && found.lacking == 0) {
            self.content.found_in_step(&found.app, version.root, token, found.files);
        }
        Ok(found)
    }
}

/// Refuses a list because of `why`, a sentence without its point.
fn misread(what: &str, why: &str) -> Refusal {
    let todo = "Give a list as `althing sync --show-lists` prints it.";
    Refusal::new(Reason::Invalid, what, format!("In the list: {why}."), todo)
}

/// Refuses because of `error`.
fn failed(what: &str, error: &ContentError) -> Refusal {
    let reason = match error {
        ContentError::NotActive(_) | ContentError::NotHere(_) => Reason::NotFound,
        ContentError::Inside(_)
        | ContentError::Driver(DriverError::NotEmpty(_) | DriverError::NotOurs(_)) => {
            Reason::Invalid
        }
        _ => Reason::Failed,
    };
    Refusal::new(reason, what, format!("{error}."), "Mend the cause, and ask again.")
}

/// The pieces of a file; nothing for anything else.
fn pieces(node: &Node) -> &[crate::base::tree::Chunk] {
    if let Node::File { chunks, .. } = node { chunks } else { &[] }
}
