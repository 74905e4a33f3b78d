//! F3, rules: what an application watches, and who is told then.
//!
//! [`Rules`] only says so. The sentences are those of [`proto::rule`](crate::proto::rule), a floor
//! below, so that what is published is what members can judge. What `mail ops`, `webhook pager` and
//! `run cleanup` mean stands here as well; [`actions`](super::actions) does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Definition, Wrong,
    services::spec::{Limits, User, as_span, here, is_default, is_here},
};
use crate::{
    base::{ContactName, RuleName, SecretName, ServiceName},
    proto::rule::{Rule, parse},
};

mod check;
#[cfg(test)]
mod tests;

pub use check::{address_wrong, server_of, url_wrong};

/// Rules of one application.
pub const RULES_MAX: usize = 200;
/// Mails, webhooks and scripts of one application, each.
pub const KIND_MAX: usize = 32;
/// Addresses of one mail.
pub const TO_MAX: usize = 32;
/// The longest that a script may take.
pub const WITHIN_MAX: Duration = Duration::from_secs(3_600);
/// How long a script may take where nothing is said.
const WITHIN: Duration = Duration::from_secs(60);

/// The rules of one application: `[rules]`, `[mail.NAME]`, `[webhook.NAME]` and `[script.NAME]` of
/// its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Sentences, as they were written: they are shown to people again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<RuleName, String>,
    /// What `mail NAME` means.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mail: BTreeMap<ContactName, Mail>,
    /// What `webhook NAME` means.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub webhook: BTreeMap<ContactName, Webhook>,
    /// What `run NAME` means. Its log is kept by this name, beside those of services.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub script: BTreeMap<ServiceName, Script>,
}

/// Who gets a mail, and by which server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// To whom: plain addresses.
    pub to: Vec<String>,
    /// From whom.
    pub from: String,
    /// `mail.example.org`, or with a port; [`server_of`] takes it apart.
    pub server: String,
    /// How the connection is protected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: Security,
    /// As whom it is sent, if the server asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The secret that holds this user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretName>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// It begins in the clear, and nothing is said before it is TLS (RFC 3207).
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// Not at all.
    None,
}

impl Security {
    /// The port where such a server usually is.
    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://`, or `http://`.
    pub url: String,
    /// The secret that the request is signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<SecretName>,
}

/// A program that runs to its end in the live tree. Where the words are those of a
/// [`Hook`](super::hooks::Hook) they mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The program and its words.
    pub run: Vec<String>,
    /// Where it runs, relative to the live tree.
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

impl Definition for Rules {
    const NAME: &'static str = "rules.toml";

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    fn text(&self) -> Option<String> {
        (*self != Self::default())
            .then(|| toml::to_string(self).expect("maps of text and numbers are always TOML"))
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        check::check(self, |wrong| all.push(wrong));
        all
    }
}

impl Rules {
    /// The rules as they are judged, by name. Without those that are none: after a
    /// [`check`](Definition::check) there are no such.
    pub fn parsed(&self) -> Vec<(&RuleName, Rule)> {
        self.rules.iter().filter_map(|(name, text)| Some((name, parse(text).ok()?))).collect()
    }

    /// The secrets that members need to tell somebody, and for what, as people call it. Those
    /// that scripts are given are not among them.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &SecretName)> {
        self.secrets_at().map(|([kind, name, _], secret)| (format!("{kind} {name}"), secret))
    }

    /// The same with the keys that lead to each.
    pub fn secrets_at(&self) -> impl Iterator<Item = ([&str; 3], &SecretName)> {
        let mails = self.mail.iter().filter_map(|(name, mail)| {
            mail.password.as_ref().map(|secret| (["mail", name.as_str(), "password"], secret))
        });
        mails.chain(self.webhook.iter().filter_map(|(name, webhook)| {
            webhook.sign.as_ref().map(|secret| (["webhook", name.as_str(), "sign"], secret))
        }))
    }
}
