//! What an application runs on every member, as its manifest says it: words,
//! parsed and written. Whether they make sense is for `check.rs`; nothing here
//! touches the machine.
//!
//! A definition is written back as canonical TOML, so that it can be part of a
//! version: equal definitions give equal bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{SecretName, ServiceName, quantity},
    driver::{Definition, Wrong},
};

/// How long a service may take to stop where nothing is said.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// When a service counts as ready where nothing is said.
const READY_AFTER: Duration = Duration::from_millis(500);
/// For how long a service may be asked in vain where nothing is said.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often one that is ready is asked where nothing is said.
const CHECK: Duration = Duration::from_secs(5);
/// How many requests may wait where nothing is said.
const QUEUE: u32 = 128;
/// How long they may wait where nothing is said.
const QUEUE_WITHIN: Duration = Duration::from_secs(5);

/// The services of one application: `[services.NAME]` of its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Services(pub BTreeMap<ServiceName, Service>);

/// A document that holds services and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    services: Services,
}

impl Definition for Services {
    const NAME: &'static str = "services.toml";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    fn text(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_toml())
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Self::check(self)
    }

    fn wrong(&self) -> Vec<Wrong> {
        Self::wrong(self)
    }
}

impl Services {
    /// Reads what [`Services::to_toml`] wrote, or a person in the same form.
    /// The error is what the parser says, with line and column; what is read
    /// is not checked yet, see [`Services::check`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.services)
    }

    /// The canonical text: services and keys in a fixed order, only what
    /// differs from the defaults, spans and sizes in their largest unit.
    pub fn to_toml(&self) -> String {
        let document = Document { services: self.clone() };
        toml::to_string(&document).expect("maps of text and numbers are always TOML")
    }
}

/// One executable that runs on every member that has the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The program and its words. A first word with a slash is relative to the
    /// live tree, any other is looked for in PATH. No shell reads them.
    pub run: Vec<String>,
    /// Where it runs, relative to the live tree.
    #[serde(default = "here", skip_serializing_if = "is_here")]
    pub directory: String,
    /// As whom it runs; as the member itself where nobody is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// What happens when it ends by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The secrets of the application that it is given, each as a variable.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<SecretName>,
    /// How it is asked to stop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: Stop,
    /// How it is known to be ready.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ready: Ready,
    /// How often it is asked, once it is ready, whether it still is; never if that is no time.
    /// It is asked what `ready` asks, so where that asks nothing this neither.
    #[serde(default = "check", skip_serializing_if = "is_check", with = "as_span")]
    pub check: Duration,
    /// How many requests it is given at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
}

fn check() -> Duration {
    CHECK
}

fn is_check(check: &Duration) -> bool {
    *check == CHECK
}

/// How many requests each process of a service is given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// So many; more wait.
    pub at_once: u32,
    /// At most so many; further ones are for other members.
    #[serde(default = "queue", skip_serializing_if = "is_queue")]
    pub queue: u32,
    /// Whoever has waited for so long is for other members as well.
    #[serde(default = "queue_within", skip_serializing_if = "is_queue_within", with = "as_span")]
    pub within: Duration,
}

fn queue() -> u32 {
    QUEUE
}

fn is_queue(queue: &u32) -> bool {
    *queue == QUEUE
}

fn queue_within() -> Duration {
    QUEUE_WITHIN
}

fn is_queue_within(within: &Duration) -> bool {
    *within == QUEUE_WITHIN
}

pub(in crate::driver) fn here() -> String {
    ".".to_owned()
}

pub(in crate::driver) fn is_here(directory: &str) -> bool {
    directory == "."
}

pub(in crate::driver) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// As whom a service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum User {
    /// By a name of `/etc/passwd`, with the group that stands there.
    Name(String),
    /// By number.
    Id {
        /// The user.
        uid: u32,
        /// The group; the user's own in `/etc/passwd` where none is given.
        gid: Option<u32>,
    },
}

impl TryFrom<String> for User {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refused = || format!("{text:?} is no user; write a name, as www-data, or uid:gid");
        // The largest number means "as it is" to the system, and not a user.
        let id = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let number = plain.then(|| digits.parse::<u32>().ok()).flatten();
            number.filter(|n| *n != u32::MAX).ok_or_else(refused)
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let (uid, gid) = match text.split_once(':') {
                Some((uid, gid)) => (id(uid)?, Some(id(gid)?)),
                None => (id(&text)?, None),
            };
            return Ok(Self::Id { uid, gid });
        }
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let named = !text.starts_with('-') && text.chars().all(letter);
        if text.is_empty() || text.len() > 32 || !named {
            return Err(refused());
        }
        Ok(Self::Name(text))
    }
}

impl From<User> for String {
    fn from(user: User) -> Self {
        match user {
            User::Name(name) => name,
            User::Id { uid, gid: Some(gid) } => format!("{uid}:{gid}"),
            User::Id { uid, gid: None } => uid.to_string(),
        }
    }
}

/// What happens when a service ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again, however it ended.
    #[default]
    Always,
    /// It is started again unless it ended with status 0.
    OnFailure,
    /// It stays as it is.
    Never,
}

impl Restart {
    /// Whether a service is started again that ended so.
    pub(super) fn wanted(self, failed: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => failed,
            Self::Never => false,
        }
    }
}

/// How a service is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// What its whole group is sent.
    pub signal: StopSignal,
    /// What is left of the group after this long is killed.
    #[serde(with = "as_span")]
    pub within: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: StopSignal::Term, within: STOP_WITHIN }
    }
}

/// The signals by which programs are asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "signal(7) has their meanings")]
pub enum StopSignal {
    Term,
    Int,
    Hup,
    Quit,
    Usr1,
    Usr2,
    Kill,
}

/// How a service is known to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ReadyWords", into = "ReadyWords")]
pub enum Ready {
    /// It has run for this long.
    After(Duration),
    /// This address of the machine accepts a connection.
    Tcp {
        /// `127.0.0.1:8080`, or `localhost:8080`.
        address: String,
        /// It is told as late after this long, and asked on.
        within: Duration,
    },
    /// This address answers with a status from 200 to 399.
    Http {
        /// `http://127.0.0.1:8080/health`.
        url: String,
        /// It is told as late after this long, and asked on.
        within: Duration,
    },
}

impl Default for Ready {
    fn default() -> Self {
        Self::After(READY_AFTER)
    }
}

/// What stands for the port in an address that a served service is asked at.
pub(super) const PORT: &str = "$PORT";

impl Ready {
    /// The same for a process that was given `port`.
    pub(super) fn at(&self, port: u16) -> Self {
        let fill = |text: &str| text.replace(PORT, &port.to_string());
        match self {
            // Where nothing is said: a process that does not listen yet is not ready.
            Self::After(after) if *after == READY_AFTER => {
                Self::Tcp { address: format!("127.0.0.1:{port}"), within: READY_WITHIN }
            }
            Self::After(after) => Self::After(*after),
            Self::Tcp { address, within } => Self::Tcp { address: fill(address), within: *within },
            Self::Http { url, within } => Self::Http { url: fill(url), within: *within },
        }
    }

    /// Whether it needs a port to be given.
    pub(in crate::driver) fn wants_port(&self) -> bool {
        match self {
            Self::After(_) => false,
            Self::Tcp { address: text, .. } | Self::Http { url: text, .. } => text.contains(PORT),
        }
    }
}

/// [`Ready`] as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReadyWords {
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<String>,
}

impl TryFrom<ReadyWords> for Ready {
    type Error = String;

    fn try_from(words: ReadyWords) -> Result<Self, String> {
        let within = words.within.as_deref().map(quantity::span).transpose()?;
        match (words.after, words.tcp, words.http, within) {
            (Some(after), None, None, None) => quantity::span(&after).map(Self::After),
            (Some(_), None, None, Some(_)) => Err("ready by `after` is never late; leave out \
                 `within`, or give `tcp` or `http` instead of `after`"
                .to_owned()),
            (None, Some(address), None, within) => {
                Ok(Self::Tcp { address, within: within.unwrap_or(READY_WITHIN) })
            }
            (None, None, Some(url), within) => {
                Ok(Self::Http { url, within: within.unwrap_or(READY_WITHIN) })
            }
            _ => Err("ready needs exactly one of `after`, `tcp` and `http`".to_owned()),
        }
    }
}

impl From<Ready> for ReadyWords {
    fn from(ready: Ready) -> Self {
        let shown = |span| Some(quantity::show_span(span));
        match ready {
            Ready::After(after) => Self { after: shown(after), ..Self::default() },
            Ready::Tcp { address, within } => {
                Self { tcp: Some(address), within: shown(within), ..Self::default() }
            }
            Ready::Http { url, within } => {
                Self { http: Some(url), within: shown(within), ..Self::default() }
            }
        }
    }
}

/// What a service may use at most; what the member may where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open files of each process (`RLIMIT_NOFILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Address space of each process, bytes (`RLIMIT_AS`).
    #[serde(with = "as_size", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads of its user (`RLIMIT_NPROC`); no limit for root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// A span as text.
pub(in crate::driver) mod as_span {
    use super::{Deserialize, Duration, quantity};
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&quantity::show_span(*span))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        quantity::span(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A size as text, where there is one.
pub(in crate::driver) mod as_size {
    use super::{Deserialize, quantity};
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(size: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(bytes) => to.serialize_str(&quantity::show_size(*bytes)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        quantity::size(&String::deserialize(from)?).map(Some).map_err(de::Error::custom)
    }
}
