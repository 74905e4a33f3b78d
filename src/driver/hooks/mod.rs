//! F3, hooks: programs of an application that run when a member switches to another
//! version of it: one before, which can keep the member from switching, and one after.
//!
//! [`Hooks`] says what runs, [`run`] runs one of them to its end. When that is, and
//! what follows from how it ended, is decided elsewhere. A hook is a program as those
//! of [`services`](super::services) are, and lives by their rules: a group of its own,
//! that ends with the member, and paths that stay in the tree.
//!
//! Ideas: `nginx -t` before a reload, Capistrano's and dpkg's hooks around a switch.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Definition, Wrong,
    services::{
        check::{check_directory, check_env, check_limits, check_run, check_secrets},
        spec::{Limits, User, as_span, here, is_default, is_here},
    },
};
use crate::base::{SecretName, ServiceName};

mod run;
#[cfg(test)]
mod tests;

pub use run::{Call, HookError, run};

/// The longest that a hook may take: a switch waits for it, and a publication.
pub const WITHIN_MAX: Duration = Duration::from_secs(600);
/// How long a hook may take where nothing is said.
const WITHIN: Duration = Duration::from_secs(60);

/// The hooks of one application: `[hooks.before-switch]` and `[hooks.after-switch]` of
/// its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Hooks {
    /// Runs in the next tree, before it takes the live one's place. Unless it ends with
    /// status 0 it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_switch: Option<Hook>,
    /// Runs in the live tree, once it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_switch: Option<Hook>,
}

/// A document that holds hooks and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    hooks: Hooks,
}

impl Definition for Hooks {
    const NAME: &'static str = "hooks.toml";

    fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.hooks)
    }

    fn text(&self) -> Option<String> {
        (*self != Self::default()).then(|| {
            let document = Document { hooks: self.clone() };
            toml::to_string(&document).expect("maps of text and numbers are always TOML")
        })
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        for (when, hook) in self.iter() {
            let (key, said) = (when.to_string(), format!("[hooks.{when}]"));
            hook.check(|wrong| all.push(wrong.below(&["hooks", &key], &said)));
        }
        all
    }
}

impl Hooks {
    /// Those that there are, and when they run.
    pub fn iter(&self) -> impl Iterator<Item = (When, &Hook)> {
        let both =
            [(When::BeforeSwitch, &self.before_switch), (When::AfterSwitch, &self.after_switch)];
        both.into_iter().filter_map(|(when, hook)| Some((when, hook.as_ref()?)))
    }
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Before the trees change places.
    BeforeSwitch,
    /// After they have, or the live one was repaired.
    AfterSwitch,
}

impl When {
    /// The name of its hook, by which its log is asked for as that of a service is.
    pub fn name(self) -> ServiceName {
        ServiceName::parse(&self.to_string()).expect("letters and hyphens are a name")
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BeforeSwitch => "before-switch",
            Self::AfterSwitch => "after-switch",
        })
    }
}

/// One program that runs to its end. Where the words are those of a
/// [`Service`](super::services::Service) they mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its words.
    pub run: Vec<String>,
    /// Where it runs, relative to the tree.
    #[serde(default = "here", skip_serializing_if = "is_here")]
    pub directory: String,
    /// As whom it runs; as the member itself where nobody is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The secrets of the application that it is given, each as a variable.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<SecretName>,
    /// It is killed after this long, at most [`WITHIN_MAX`], and has failed.
    #[serde(default = "within", skip_serializing_if = "is_within", with = "as_span")]
    pub within: Duration,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
}

fn within() -> Duration {
    WITHIN
}

fn is_within(within: &Duration) -> bool {
    *within == WITHIN
}

impl Hook {
    fn check(&self, mut say: impl FnMut(Wrong)) {
        check_run(&self.run, &mut say);
        check_directory(&self.directory, &mut say);
        check_env(&self.env, &mut say);
        check_secrets(&self.secrets, &self.env, &mut say);
        if self.within.is_zero() || self.within > WITHIN_MAX {
            let why = "within has to be more than nothing and at most 10 minutes.";
            say(Wrong::new(["within"], why));
        }
        check_limits(self.limits, &mut say);
    }
}
