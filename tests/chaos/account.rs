//! What was seen, by whom, and whether it can be true: the invariants.
//!
//! They are the simulator's (`src/sim/check.rs`), as far as they can be seen
//! from outside: from the members' JSON, and from what they serve. The account
//! is kept by all who look, and asked at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};

/// How a publication ended, as its publisher was told.
pub enum Told {
    /// It is in force as this version.
    Version(u64),
    /// It will not come into force.
    Refused(String),
    /// It may have.
    Unknown,
}

/// Everything that was seen in one scenario.
#[derive(Default)]
pub struct Account {
    /// Invariants that were broken, in words.
    broken: Vec<String>,
    /// By cluster (a recovery makes another one) and sequence: what the catalog
    /// says, and who said so first.
    catalogs: BTreeMap<(String, u64), (Value, String)>,
    /// The highest sequence of each cluster that each member said it knows.
    sequences: BTreeMap<(String, String), u64>,
    /// By number: the root and the message of each version.
    versions: BTreeMap<u64, (String, String)>,
    /// By number: what its files are marked with.
    marks: BTreeMap<u64, String>,
    /// The newest version that each member served.
    served: BTreeMap<String, u64>,
    /// The messages of all publications that were tried.
    tried: BTreeSet<String>,
    published: BTreeMap<u64, String>,
    refused: BTreeMap<String, String>,
    pub views: u64,
    pub answers: u64,
    pub unknown: u64,
}

impl Account {
    pub fn breaks(&mut self, what: String) {
        // The first few tell the story; thousands more would hide it.
        if self.broken.len() < 20 {
            self.broken.push(what);
        }
    }

    /// A member's view: one catalog for each sequence, nobody goes back, versions
    /// count up by one and keep their root.
    pub fn see_view(&mut self, by: &str, view: &Value) {
        self.views += 1;
        let Some(sequence) = view["sequence"].as_u64() else {
            return self.breaks(format!("{by} tells a view without a sequence: {view}"));
        };
        let cluster = view["cluster"].as_str().unwrap_or_default().to_owned();
        let before = self.sequences.entry((cluster.clone(), by.to_owned())).or_default();
        let known = *before;
        *before = known.max(sequence);
        if sequence < known {
            self.breaks(format!("{by} went back from sequence {known} to {sequence}"));
        }
        let catalog = catalog_of(view);
        let place = (cluster, sequence);
        match self.catalogs.get(&place) {
            None => drop(self.catalogs.insert(place, (catalog, by.to_owned()))),
            Some((other, who)) if *other != catalog => {
                let text = format!(
                    "{by} and {who} know different catalogs of sequence {sequence}: {catalog} and \
                     {other}"
                );
                self.breaks(text);
            }
            Some(_) => {}
        }
        for app in view["applications"].as_array().into_iter().flatten() {
            self.see_versions(by, &app["versions"]);
        }
    }

    fn see_versions(&mut self, by: &str, versions: &Value) {
        let mut expected: Option<u64> = None;
        for version in versions.as_array().into_iter().flatten() {
            let text = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
            let number = version["number"].as_u64().unwrap_or_default();
            // Newest first.
            if expected.is_some_and(|expected| expected != number) {
                self.breaks(format!("{by} tells versions that do not count by one: {versions}"));
            }
            expected = Some(number.saturating_sub(1));
            let (root, message) = (text("root"), text("message"));
            match self.versions.get(&number) {
                None => drop(self.versions.insert(number, (root, message))),
                Some(known) if known.0 != root || known.1 != message => {
                    let text = format!(
                        "version {number} is {root} ({message}) on {by}, and was {} ({})",
                        known.0, known.1
                    );
                    self.breaks(text);
                }
                Some(_) => {}
            }
        }
    }

    /// A whole answer: one version, and never an older one than before.
    pub fn see_answer(&mut self, by: &str, version: u64, mark: &str) {
        self.answers += 1;
        let known = self.marks.entry(version).or_insert_with(|| mark.to_owned());
        if known != mark {
            let text = format!("{by} serves {mark} as version {version}, which is {known}");
            self.breaks(text);
        }
        let before = self.served.entry(by.to_owned()).or_default();
        let newest = *before;
        *before = newest.max(version);
        if version < newest {
            self.breaks(format!("{by} served version {newest}, and then {version}"));
        }
    }

    pub fn tries(&mut self, message: &str) {
        self.tried.insert(message.to_owned());
    }

    pub fn is_told(&mut self, message: &str, told: Told) {
        match told {
            Told::Version(number) => {
                if let Some(other) = self.published.insert(number, message.to_owned()) {
                    self.breaks(format!("{other} and {message} are both said to be {number}"));
                }
            }
            Told::Refused(why) => drop(self.refused.insert(message.to_owned(), why)),
            Told::Unknown => self.unknown += 1,
        }
    }

    /// How many publications came into force, as their publishers were told.
    pub fn published(&self) -> usize {
        self.published.len()
    }

    /// What was told of publications is true. Once all views were seen.
    fn audit(&mut self) {
        let mut wrong = Vec::new();
        for (number, message) in &self.published {
            match self.versions.get(number) {
                Some((_, found)) if found == message => {}
                found => {
                    wrong.push(format!("{message} is said to be {number}, which is {found:?}"))
                }
            }
        }
        for (number, (_, message)) in &self.versions {
            if let Some(why) = self.refused.get(message) {
                wrong.push(format!("{message} is version {number} and was refused: {why}"));
            }
            if !self.tried.contains(message) {
                wrong.push(format!("version {number} is nobody's publication: {message}"));
            }
        }
        wrong.into_iter().for_each(|what| self.breaks(what));
    }

    /// Fails if any invariant was broken.
    #[track_caller]
    pub fn must_hold(&mut self) {
        self.audit();
        assert!(self.broken.is_empty(), "broken:\n  {}", self.broken.join("\n  "));
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} views of {} catalogs, {} whole answers of {} versions; {} publications in force, \
             {} refused, {} unknown to their publishers",
            self.views,
            self.catalogs.len(),
            self.answers,
            self.marks.len(),
            self.published.len(),
            self.refused.len(),
            self.unknown
        )
    }
}

/// What of a view follows from the catalog alone, so that it must be the same
/// on all who know that sequence.
fn catalog_of(view: &Value) -> Value {
    let members = view["members"].as_array().into_iter().flatten();
    let members: Vec<Value> =
        members.map(|m| json!([m["name"], m["id"], m["voter"], m["standby"]])).collect();
    let apps = view["applications"].as_array().into_iter().flatten();
    let apps: Vec<Value> = apps.map(|a| json!([a["name"], a["root"], a["versions"]])).collect();
    let window = &view["window"];
    let publication = &window["publication"];
    json!({
        "cluster": view["cluster"],
        "members": members,
        "apps": apps,
        "window": [
            window["id"], window["coordinator"], window["takeovers"], window["opened_by"],
            window["scope"], window["failover"], window["held"],
            publication["app"], publication["version"], publication["phase"],
        ],
        "outcomes": view["outcomes"],
        "policy": view["policy"],
    })
}
