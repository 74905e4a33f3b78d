//! `althing.toml`: what an application is, beside its content.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use serde::Deserialize;

use crate::{
    base::{
        AppName, ContactName, Placement, Reason, Refusal, RelPath, Rollout, RuleName, ServiceName,
        catalog::AppSpec, limits, quantity, rollout,
    },
    driver::{
        Definition,
        addresses::Addresses,
        hooks::Hooks,
        listeners::{self, Listeners},
        routes::{Routes, astray},
        rules::{Mail, Rules, Script, Webhook},
        services::Services,
        settings::{Format, Settings},
        tls::Tls,
    },
};

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
    fn resolve(&self) -> Result<Rollout, String> {
        if self.at_once == Some(0) {
            return Err("at_once = 0 would bring it to nobody: give at least 1".to_owned());
        }
        let pause = self.pause.as_deref().map(quantity::span).transpose()?;
        if pause.is_some_and(|pause| pause > rollout::PAUSE_MAX) {
            return Err("its pause is longer than an hour".to_owned());
        }
        // Fits: an hour has 3.6 million milliseconds.
        let pause_ms = pause.map(|pause| u32::try_from(pause.as_millis()).unwrap_or(u32::MAX));
        let stays = self.on_failure == OnFailure::Stop;
        Ok(Rollout { at_once: self.at_once, pause_ms, stays })
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
        Self::parse_at(text).map_err(|(start, what)| {
            let (line, column) = line_and_column(text, start);
            format!("In {FILE_NAME}, line {line}, column {column}: {what}.")
        })
    }

    /// The same; the error is where it is wrong, in bytes from the start, and why.
    pub fn parse_at(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            (start, error.message().replace('\n', ", "))
        })
    }

    /// The name, the specification and the texts of the application, with what the
    /// command adds. `is_first` says that the cluster has no other
    /// application: the first one is the default unless it says otherwise.
    pub fn resolve(
        self,
        app: Option<AppName>,
        hosts: Vec<String>,
        is_first: bool,
    ) -> Result<Resolved, Refusal> {
        let refuse = |why: String, todo: &str| {
            Refusal::new(Reason::Invalid, "The directory was not published.", why, todo)
        };
        let texts =
            self.texts().map_err(|why| refuse(why, "Correct althing.toml, and publish again."))?;
        let rollout = self.rollout.resolve().map_err(|why| {
            refuse(format!("In {FILE_NAME}, [rollout]: {why}."), "Correct it, and publish again.")
        })?;
        let section = self.application;
        let app = match (app, section.name) {
            (Some(app), _) => app,
            (None, Some(name)) => AppName::parse(&name)
                .map_err(|why| refuse(format!("In {FILE_NAME}: {why}."), "Choose another name."))?,
            (None, None) => {
                return Err(refuse(
                    "It has no name.".to_owned(),
                    "Give one with --app, or as `name` in althing.toml.",
                ));
            }
        };
        let mut all: Vec<String> = Vec::new();
        for host in section.hosts.into_iter().chain(hosts) {
            let host = host.to_ascii_lowercase();
            if !is_host(&host) {
                return Err(refuse(
                    format!("{host:?} is no host name."),
                    "Use names such as www.example.org, without a port.",
                ));
            }
            if !all.contains(&host) {
                all.push(host);
            }
        }
        if all.len() > limits::HOSTS_MAX || section.ignore.len() > limits::PATTERNS_MAX {
            return Err(refuse(
                "It has more than 64 hosts or 256 ignore patterns.".to_owned(),
                "Name fewer.",
            ));
        }
        if let Some(path) = &section.path
            && (!path.starts_with('/') || path.split('/').any(|c| c == "..") || path == "/")
        {
            return Err(refuse(
                format!("path = {path:?} is not an absolute path below the root."),
                "Use a path such as /srv/www, or leave it out.",
            ));
        }
        let spec = AppSpec {
            default: section.default.unwrap_or(is_first),
            hosts: all,
            path: section.path,
            ignore: section.ignore,
            index: section.index,
            not_found: section.not_found,
            placement: section.placement,
            rollout,
        };
        Ok(Resolved { app, spec, texts })
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
    fn texts(&self) -> Result<Vec<(RelPath, String)>, String> {
        let mut texts = Vec::new();
        define(&self.services, &mut texts)?;
        define(&self.hooks, &mut texts)?;
        define(&self.routes, &mut texts)?;
        define(&self.listeners, &mut texts)?;
        let lost = listeners::astray(&self.listeners, &self.services);
        if let Some(why) = lost.or_else(|| astray(&self.routes, &self.listeners, &self.services)) {
            return Err(format!("In {FILE_NAME}: {why}."));
        }
        define(&self.settings, &mut texts)?;
        define(&self.application.vip, &mut texts)?;
        if let Some(tls) = &self.tls {
            define(tls, &mut texts)?;
        }
        define(&self.rules(), &mut texts)?;
        if self.settings_files.len() > SETTINGS_FILES_MAX {
            return Err(format!("In {FILE_NAME}: more than {SETTINGS_FILES_MAX} settings files."));
        }
        for SettingsFile { path, format } in &self.settings_files {
            let refuse = |why: &str| format!("In {FILE_NAME}: settings file {path:?}: {why}.");
            let place = RelPath::parse(path.as_bytes()).map_err(refuse)?;
            if place.is_definition() {
                return Err(refuse(".althing is Althing's own"));
            }
            if texts.iter().any(|(other, _)| *other == place) {
                return Err(refuse("it is named twice"));
            }
            let format = format.or_else(|| Format::of_path(path)).ok_or_else(|| {
                refuse("its ending tells no format; give one, as format = \"json\"")
            })?;
            let text = self.settings.render(format);
            texts.push((place, text.map_err(|why| format!("In {FILE_NAME}: {path}: {why}"))?));
        }
        Ok(texts)
    }
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

/// Adds the text of `definition`, if it says anything.
fn define<D: Definition>(definition: &D, texts: &mut Vec<(RelPath, String)>) -> Result<(), String> {
    definition.check().map_err(|wrong| format!("In {FILE_NAME}: {}", wrong.join(" ")))?;
    texts.extend(definition.text().map(|text| (D::path(), text)));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_says_how_an_application_is_held_and_served() {
        let text = r#"
            [application]
            name = "web"
            hosts = ["WWW.example.org"]
            path = "/srv/www"
            ignore = ["uploads/"]
        "#;
        let manifest = Manifest::parse(text).unwrap();
        let Resolved { app, spec, texts } =
            manifest.resolve(None, vec!["example.org".into()], false).unwrap();
        assert_eq!((app.as_str(), texts), ("web", vec![]));
        assert_eq!(spec.hosts, ["www.example.org", "example.org"]);
        assert_eq!(spec.path.as_deref(), Some("/srv/www"));
        assert!(!spec.default);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let error = Manifest::parse("[application]\nhost = 3\n").unwrap_err();
        assert!(error.contains("line 2, column 1") && error.contains("host"), "{error}");
    }

    #[test]
    fn services_become_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\n[services.api]\nrun = [\"bin/api\"]\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/services.toml");
        let services = Services::read(text.as_bytes()).unwrap();
        assert_eq!(services.0.values().next().unwrap().run, ["bin/api"]);

        let text = "[services.api]\nrun = [\"bin/api\"]\nrestrat = \"never\"\n";
        let error = Manifest::parse(text).unwrap_err();
        assert!(error.contains("line 3, column 1") && error.contains("restrat"), "{error}");
    }

    #[test]
    fn hooks_become_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\n[hooks.before-switch]\nrun = [\"bin/check\"]\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/hooks.toml");
        let hooks = Hooks::read(text.as_bytes()).unwrap();
        assert_eq!(hooks.before_switch.unwrap().run, ["bin/check"]);
        assert_eq!(hooks.after_switch, None);

        for (text, place, word) in [
            ("[hooks.befor-switch]\nrun = [\"x\"]\n", "line 1, column 8", "befor-switch"),
            (
                "[hooks.after-switch]\nrun = [\"x\"]\n  timeout = \"3s\"\n",
                "line 3, column 3",
                "timeout",
            ),
            (
                "[hooks.after-switch]\nrun = [\"x\"]\nwithin = \"soon\"\n",
                "line 3, column 10",
                "soon",
            ),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.contains(place) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn listeners_become_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\n[services.db]\nrun = [\"bin/db\"]\n\
                    [[listeners]]\nport = 5432\nservice = \"db\"\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [_, (path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/listeners.toml");
        assert_eq!(Listeners::read(text.as_bytes()).unwrap().0[0].port, 5432);

        let lost = "[application]\nname = \"a\"\n[[listeners]]\nport = 1\nservice = \"db\"\n";
        let refused = Manifest::parse(lost).unwrap().resolve(None, vec![], true).unwrap_err();
        assert!(refused.why.contains("[services.db]"), "{refused:?}");
    }

    #[test]
    fn addresses_become_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\nvip = \"10.0.0.100/24\"\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/addresses.toml");
        let addresses = Addresses::read(text.as_bytes()).unwrap();
        assert_eq!(addresses.0, ["10.0.0.100/24".parse().unwrap()]);

        let error =
            Manifest::parse("[application]\nvip = [\"10.0.0.1/24\", \"10\"]\n").unwrap_err();
        assert!(error.contains("line 2, column") && error.contains("10.0.0.100/24"), "{error}");
    }

    #[test]
    fn tls_becomes_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\n[tls]\ncertificate = \"web-cert\"\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/tls.toml");
        assert_eq!(Tls::read(text.as_bytes()).unwrap().certificate.as_str(), "web-cert");

        let error = Manifest::parse("[tls]\ncert = \"web-cert\"\n").unwrap_err();
        assert!(error.contains("line 2, column 1") && error.contains("cert"), "{error}");
    }

    #[test]
    fn rules_become_a_definition_of_the_tree() {
        let text = "[application]\nname = \"a\"\n[rules]\nhot = \"when cpu > 90% then mail ops, run c\"\n\
                    [script.c]\nrun = [\"bin/c\"]\n[mail.ops]\nto = [\"ops@example.org\"]\n\
                    from = \"a@example.org\"\nserver = \"mail.example.org\"\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
        assert_eq!(path.as_bytes(), b".althing/rules.toml");
        let rules = Rules::read(text.as_bytes()).unwrap();
        assert_eq!(rules.parsed().len(), 1);
        assert_eq!((rules.mail.len(), rules.script.len()), (1, 1));

        let lost = "[application]\nname = \"a\"\n[rules]\nhot = \"when cpu > 90% then mail ops\"\n";
        let refused = Manifest::parse(lost).unwrap().resolve(None, vec![], true).unwrap_err();
        assert!(refused.why.contains("[mail.ops]"), "{refused:?}");
        let error = Manifest::parse("[rules]\nHot = \"x\"\n").unwrap_err();
        assert!(error.contains("line 2, column 1") && error.contains("lower-case"), "{error}");
    }

    #[test]
    fn settings_become_a_definition_and_files() {
        let text = "[application]\nname = \"a\"\n[settings]\nport = 80\n[settings.db]\nhost = \"x\"\n\
                    [[settings-file]]\npath = \"config/app.json\"\n\
                    [[settings-file]]\npath = \"e\"\nformat = \"env\"\n";
        let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
        let paths: Vec<String> = resolved.texts.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(paths, [".althing/settings.toml", "config/app.json", "e"]);
        let json: serde_json::Value = serde_json::from_str(&resolved.texts[1].1).unwrap();
        assert_eq!(json, serde_json::json!({ "port": 80, "db": { "host": "x" } }));
        for bad in ["path = \"x\"", "path = \"../x.json\"", "path = \".althing/x.json\""] {
            let text = format!("[application]\nname = \"a\"\n[[settings-file]]\n{bad}\n");
            let refused = Manifest::parse(&text).unwrap().resolve(None, vec![], true).unwrap_err();
            assert!(refused.why.contains("settings file"), "{refused:?}");
        }
    }

    #[test]
    fn a_rollout_is_part_of_the_specification() {
        let rollout = |text: &str| {
            let text = format!("[application]\nname = \"a\"\n[rollout]\n{text}");
            Manifest::parse(&text).and_then(|manifest| {
                manifest.resolve(None, vec![], true).map(|r| r.spec.rollout).map_err(|r| r.why)
            })
        };
        assert_eq!(rollout(""), Ok(Rollout::default()));
        let all = "at_once = 2\npause = \"1.5s\"\non_failure = \"stop\"\n";
        let is = Rollout { at_once: Some(2), pause_ms: Some(1_500), stays: true };
        assert_eq!(rollout(all), Ok(is));
        for (text, word) in [
            ("at_once = 0", "at least 1"),
            ("pause = \"soon\"", "soon"),
            ("pause = \"2h\"", "hour"),
            ("on_failure = \"wait\"", "line 4, column 14"),
            ("once = 1", "once"),
        ] {
            assert!(rollout(text).unwrap_err().contains(word), "{text}: {:?}", rollout(text));
        }
    }

    #[test]
    fn bad_values_are_refused() {
        let resolve = |text: &str| Manifest::parse(text).unwrap().resolve(None, vec![], true);
        for bad in [
            "",
            "[application]\nname = \"../x\"",
            "[application]\nname = \"a\"\npath = \"srv\"",
            "[application]\nname = \"a\"\npath = \"/srv/../etc\"",
            "[application]\nname = \"a\"\nhosts = [\"a b\"]",
            "[application]\nname = \"a\"\n[services.x]\nrun = [\"/bin/sh\"]",
            "[application]\nname = \"a\"\n[hooks.after-switch]\nrun = [\"/bin/sh\"]",
        ] {
            assert_eq!(resolve(bad).unwrap_err().reason, Reason::Invalid, "{bad}");
        }
        assert!(
            resolve("[application]\nname = \"a\"").unwrap().spec.default,
            "the first is default"
        );
    }
}
