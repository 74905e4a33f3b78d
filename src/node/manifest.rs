//! `althing.toml`: what an application is, beside its content.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use serde::Deserialize;

use crate::{
    base::{
        AppName, ContactName, Placement, Reason, Refusal, RelPath, Rollout, RuleName, ServiceName,
        catalog::AppSpec, limits, quantity, rollout,
    },
    driver::{
        Definition, Wrong,
        addresses::Addresses,
        hooks::Hooks,
        listeners::{self, Listeners},
        routes::{Routes, astray},
        rules::{Mail, Rules, Script, Webhook},
        services::Services,
        settings::{Format, Settings},
        tls::Tls,
    },
    node::run::sentence,
};

mod place;
#[cfg(test)]
mod tests;

use place::Places;

/// The name of the file. It is never part of the content.
pub const FILE_NAME: &str = "althing.toml";
/// The largest manifest, bytes.
pub const SIZE_MAX: u64 = 64 << 10;

/// A manifest as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The application.
    #[serde(default)]
    pub application: Section,
    /// The programs that it runs.
    #[serde(default)]
    pub services: Services,
    /// The programs that run around a switch.
    #[serde(default)]
    pub hooks: Hooks,
    /// How members switch to it.
    #[serde(default)]
    pub rollout: RolloutSection,
    /// Which paths lead to its programs.
    #[serde(default)]
    pub routes: Routes,
    /// Ports of its own.
    #[serde(default)]
    pub listeners: Listeners,
    /// How it is served over TLS.
    pub tls: Option<Tls>,
    /// Values that its programs find.
    #[serde(default)]
    pub settings: Settings,
    /// Where these are written.
    #[serde(default, rename = "settings-file")]
    pub settings_files: Vec<SettingsFile>,
    /// What is watched, and what is done then.
    #[serde(default)]
    pub rules: BTreeMap<RuleName, String>,
    /// Who gets a mail then.
    #[serde(default)]
    pub mail: BTreeMap<ContactName, Mail>,
    /// Who gets a request then.
    #[serde(default)]
    pub webhook: BTreeMap<ContactName, Webhook>,
    /// What is run then.
    #[serde(default)]
    pub script: BTreeMap<ServiceName, Script>,
    /// All of it as it was written: places are looked up in it.
    #[serde(skip)]
    text: String,
    /// The command has put its live tree elsewhere.
    #[serde(skip)]
    is_put: bool,
}

/// `[rollout]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutSection {
    /// How many members switch at the same time; all of them if not given.
    pub at_once: Option<u16>,
    /// How long what runs has to have been ready before the next ones follow.
    pub pause: Option<String>,
    /// What is done where it does not get ready.
    pub on_failure: OnFailure,
}

/// What is done with a version that does not get ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The version before is brought back.
    #[default]
    Rollback,
    /// It stays where it is, and comes to nobody else.
    Stop,
}

impl RolloutSection {
    fn resolve(&self, faults: &mut Faults) -> Rollout {
        let mut say = |key: &str, why: &str| {
            faults.add(Wrong::new(["rollout", key], format!("[rollout] {why}.")), CORRECT);
        };
        if self.at_once == Some(0) {
            say("at_once", "at_once = 0 would bring it to nobody: give at least 1");
        }
        let pause = self.pause.as_deref().map(quantity::span).transpose();
        let pause = pause.map_err(|why| say("pause", &format!("pause: {why}"))).unwrap_or_default();
        if pause.is_some_and(|pause| pause > rollout::PAUSE_MAX) {
            say("pause", "pause is longer than an hour: write a shorter span");
        }
        // Fits: an hour has 3.6 million milliseconds.
        let pause_ms = pause.map(|pause| u32::try_from(pause.as_millis()).unwrap_or(u32::MAX));
        let stays = self.on_failure == OnFailure::Stop;
        Rollout { at_once: self.at_once, pause_ms, stays }
    }
}

/// `[[settings-file]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// Where it stands in the tree.
    pub path: String,
    /// What it looks like; by its ending if not given.
    pub format: Option<Format>,
}

/// Files of settings of one application.
const SETTINGS_FILES_MAX: usize = 32;

/// What a manifest says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The application.
    pub app: AppName,
    /// How it is held and served.
    pub spec: AppSpec,
    /// The texts of its definitions and files of settings, and where they lie in its tree.
    pub texts: Vec<(RelPath, String)>,
}

/// `[application]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// Its name, unless the command gives one.
    pub name: Option<String>,
    /// Host names that it answers to.
    pub hosts: Vec<String>,
    /// Whether it answers for host names that no application claims.
    pub default: Option<bool>,
    /// Where its live tree stands on every member: an absolute path.
    pub path: Option<String>,
    /// Patterns (gitignore syntax) of what belongs to nobody's vote.
    pub ignore: Vec<String>,
    /// The file that answers for a directory.
    pub index: Option<String>,
    /// The file that answers for what is not there.
    pub not_found: Option<String>,
    /// Which members hold it, by their tags; all of them if not given.
    pub placement: Option<Placement>,
    /// Addresses that one of the members that hold it has at any time.
    pub vip: Addresses,
}

impl Manifest {
    /// Reads the manifest of `directory`; an empty one if there is none.
    pub fn load(directory: &Path) -> Result<Self, Refusal> {
        Self::read(directory, Self::text_in(directory)?.as_deref())
    }

    /// What the text of the manifest of `directory` says, which may be one of another machine; an
    /// empty one if there is none.
    pub fn read(directory: &Path, text: Option<&str>) -> Result<Self, Refusal> {
        let Some(text) = text else { return Ok(Self::default()) };
        if text.len() as u64 > SIZE_MAX {
            return Err(unread(directory, too_large()));
        }
        Self::parse(text).map_err(|why| unread(directory, why))
    }

    /// The text of the manifest of `directory`, of bounded size, if there is one.
    pub fn text_in(directory: &Path) -> Result<Option<String>, Refusal> {
        let path = directory.join(FILE_NAME);
        let refuse = |why: String| unread(directory, why);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // That there is no directory at all is for the scan to say.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(refuse(format!("Its manifest can't be read: {e}."))),
        };
        if !metadata.is_file() || metadata.len() > SIZE_MAX {
            return Err(refuse(too_large()));
        }
        let text = fs::read_to_string(&path);
        text.map(Some).map_err(|e| refuse(format!("Its manifest can't be read: {e}.")))
    }

    /// Parses a manifest. The error names line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_at(text).map_err(|(start, what)| told(text, Some(start), &format!("{what}.")))
    }

    /// The same; the error is where it is wrong, in bytes from the start, and why.
    pub fn parse_at(text: &str) -> Result<Self, (usize, String)> {
        let manifest: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            (start, error.message().replace('\n', ", "))
        })?;
        Ok(Self { text: text.to_owned(), ..manifest })
    }

    /// The command says where its live tree stands; what the manifest says of that does not count.
    pub fn put_at(&mut self, path: String) {
        self.application.path = Some(path);
        self.is_put = true;
    }

    /// Where `wrong` stands in the text, in bytes from its start; nothing if it stands nowhere.
    pub fn place(&self, wrong: &Wrong) -> Option<usize> {
        Places::of(&self.text)?.find(wrong)
    }

    /// What is wrong, and where that stands, if it stands anywhere.
    pub fn told(&self, wrong: &Wrong) -> String {
        told(&self.text, self.place(wrong), &wrong.why)
    }

    /// The name, the specification and the texts of the application, with what the
    /// command adds. `is_first` says that the cluster has no other
    /// application: the first one is the default unless it says otherwise.
    ///
    /// # Errors
    /// Everything that is wrong, line by line, each with its place.
    pub fn resolve(
        &self,
        app: Option<AppName>,
        hosts: Vec<String>,
        is_first: bool,
    ) -> Result<Resolved, Refusal> {
        let mut all = Faults::default();
        let texts = self.texts(&mut all);
        let rollout = self.rollout.resolve(&mut all);
        let app = app.or_else(|| self.name(&mut all));
        let hosts = self.hosts(hosts, &mut all);
        self.check_section(hosts.len(), &mut all);
        let (Some(app), true) = (app, all.0.is_empty()) else {
            return Err(self.refusal(all));
        };
        let section = self.application.clone();
        let spec = AppSpec {
            default: section.default.unwrap_or(is_first),
            hosts,
            path: section.path,
            ignore: section.ignore,
            index: section.index,
            not_found: section.not_found,
            placement: section.placement,
            rollout,
        };
        Ok(Resolved { app, spec, texts })
    }

    /// All that is wrong, in the order of the text.
    fn refusal(&self, faults: Faults) -> Refusal {
        let todo = match faults.0.as_slice() {
            [(_, todo)] => *todo,
            _ => "Correct them, and publish again.",
        };
        let places = Places::of(&self.text);
        let find = |wrong| places.as_ref().and_then(|places| places.find(wrong));
        let placed = faults.0.iter().map(|(wrong, _)| (find(wrong), wrong));
        let mut placed: Vec<_> = placed.collect();
        placed.sort_by_key(|(at, _)| *at);
        let mut lines: Vec<String> = placed
            .iter()
            .take(FAULTS_SHOWN)
            .map(|(at, wrong)| told(&self.text, *at, &wrong.why))
            .collect();
        match placed.len().saturating_sub(FAULTS_SHOWN) {
            0 => {}
            1 => lines.push("One more thing is wrong.".to_owned()),
            more => lines.push(format!("{more} more things are wrong.")),
        }
        Refusal::new(Reason::Invalid, "The directory was not published.", lines.join("\n"), todo)
    }

    fn name(&self, faults: &mut Faults) -> Option<AppName> {
        let Some(name) = &self.application.name else {
            let todo = "Give one with --app, or as `name` in althing.toml.";
            faults.add(Wrong::new(["application"], "It has no name."), todo);
            return None;
        };
        let wrong = |why: String| Wrong::new(["application", "name"], format!("{why}."));
        faults.none(AppName::parse(name).map_err(wrong), "Choose another name.")
    }

    /// Those of the manifest, and those that the command adds.
    fn hosts(&self, added: Vec<String>, faults: &mut Faults) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let own = self.application.hosts.iter().map(|host| (host, true));
        for (written, is_own) in own.chain(added.iter().map(|host| (host, false))) {
            let host = written.to_ascii_lowercase();
            if !is_host(&host) {
                let why = format!("{host:?} is no host name.");
                let wrong = match is_own {
                    true => Wrong::new(["application", "hosts", written.as_str()], why),
                    false => Wrong::from(why),
                };
                faults.add(wrong, "Use names such as www.example.org, without a port.");
            } else if !all.contains(&host) {
                all.push(host);
            }
        }
        all
    }

    fn check_section(&self, hosts: usize, faults: &mut Faults) {
        let Section { ignore, path, .. } = &self.application;
        let counts =
            [("hosts", hosts, limits::HOSTS_MAX), ("ignore", ignore.len(), limits::PATTERNS_MAX)];
        for (key, _, _) in counts.iter().filter(|(_, count, max)| count > max) {
            let why = "It has more than 64 hosts or 256 ignore patterns.";
            faults.add(Wrong::new(["application", *key], why), "Name fewer.");
        }
        if let Some(path) = path
            && (!path.starts_with('/') || path.split('/').any(|c| c == "..") || path == "/")
        {
            let why = format!("path = {path:?} is not an absolute path below the root.");
            let wrong = match self.is_put {
                true => Wrong::from(why),
                false => Wrong::new(["application", "path"], why),
            };
            faults.add(wrong, "Use a path such as /srv/www, or leave it out.");
        }
    }

    /// Its rules, and whom they tell: four tables of the manifest, and one definition.
    pub fn rules(&self) -> Rules {
        Rules {
            rules: self.rules.clone(),
            mail: self.mail.clone(),
            webhook: self.webhook.clone(),
            script: self.script.clone(),
        }
    }

    /// What is made of it in the tree.
    fn texts(&self, faults: &mut Faults) -> Vec<(RelPath, String)> {
        let mut texts = Vec::new();
        define(&self.services, &mut texts, faults);
        define(&self.hooks, &mut texts, faults);
        define(&self.routes, &mut texts, faults);
        define(&self.listeners, &mut texts, faults);
        let lost = listeners::astray(&self.listeners, &self.services);
        let lost = lost.or_else(|| astray(&self.routes, &self.listeners, &self.services));
        if let Some(mut wrong) = lost {
            wrong.why = format!("{}.", sentence(&wrong.why));
            faults.add(wrong, CORRECT);
        }
        let is_set = define(&self.settings, &mut texts, faults);
        define(&self.application.vip, &mut texts, faults);
        if let Some(tls) = &self.tls {
            define(tls, &mut texts, faults);
        }
        define(&self.rules(), &mut texts, faults);
        if self.settings_files.len() > SETTINGS_FILES_MAX {
            let why = format!("There are more than {SETTINGS_FILES_MAX} settings files.");
            let first = SETTINGS_FILES_MAX.to_string();
            faults.add(Wrong::new(["settings-file", &first], why), CORRECT);
        }
        for (at, file) in self.settings_files.iter().take(SETTINGS_FILES_MAX).enumerate() {
            let wrong = |why| Wrong::new(["settings-file", &at.to_string(), "path"], why);
            let found = self.settings_text(file, &texts, is_set).map_err(wrong);
            texts.extend(faults.none(found, CORRECT));
        }
        texts
    }

    /// A file of settings; `texts` are there already. It is empty where they make no sense.
    fn settings_text(
        &self,
        SettingsFile { path, format }: &SettingsFile,
        texts: &[(RelPath, String)],
        is_set: bool,
    ) -> Result<(RelPath, String), String> {
        let refuse = |why: &str| format!("The settings file {path:?}: {why}.");
        let place = RelPath::parse(path.as_bytes()).map_err(refuse)?;
        if place.is_definition() {
            return Err(refuse(".althing is Althing's own"));
        }
        if texts.iter().any(|(other, _)| *other == place) {
            return Err(refuse("it is named twice"));
        }
        let format = format
            .or_else(|| Format::of_path(path))
            .ok_or_else(|| refuse("its ending tells no format; give one, as format = \"json\""))?;
        let text = if is_set { self.settings.render(format) } else { Ok(String::new()) };
        text.map(|text| (place, text)).map_err(|why| format!("The settings file {path:?}: {why}"))
    }
}

/// What is wrong with a manifest, and what to do.
#[derive(Default)]
struct Faults(Vec<(Wrong, &'static str)>);

/// What to do if nothing is known that is more to the point.
const CORRECT: &str = "Correct althing.toml, and publish again.";
/// So many things that are wrong are told at once.
const FAULTS_SHOWN: usize = 20;

impl Faults {
    fn add(&mut self, wrong: Wrong, todo: &'static str) {
        self.0.push((wrong, todo));
    }

    /// What there is if nothing is wrong.
    fn none<T>(&mut self, found: Result<T, Wrong>, todo: &'static str) -> Option<T> {
        found.map_err(|wrong| self.add(wrong, todo)).ok()
    }
}

fn told(text: &str, at: Option<usize>, why: &str) -> String {
    let Some(at) = at else { return why.to_owned() };
    let (line, column) = line_and_column(text, at);
    format!("In {FILE_NAME}, line {line}, column {column}: {why}")
}

fn too_large() -> String {
    format!("{FILE_NAME} is no file, or larger than 64 KiB.")
}

/// Why the manifest of `directory` can't be used.
fn unread(directory: &Path, why: String) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "The directory was not published.",
        why,
        format!("Mend {} and publish again.", directory.join(FILE_NAME).display()),
    )
}

/// Where a byte of `text` stands, for people: both count from 1.
pub fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    // Never inside of a character, and never beyond the end.
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// Adds the text of `definition`, if it says anything. Whether it makes sense.
fn define<D: Definition>(
    definition: &D,
    texts: &mut Vec<(RelPath, String)>,
    faults: &mut Faults,
) -> bool {
    let wrong = definition.wrong();
    let is_fine = wrong.is_empty();
    faults.0.extend(wrong.into_iter().map(|wrong| (wrong, CORRECT)));
    if is_fine {
        texts.extend(definition.text().map(|text| (D::path(), text)));
    }
    is_fine
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}
