//! The way into a running member: cheap to clone, safe to hold anywhere.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    Edits, Scrub, SecretEdits,
    inspect::{Findings, Question},
    levels::LevelsQuestion,
    services::{Ask, Heard, Told},
    telemetry::{
        asking::{Measured, SeriesQuestion},
        receive,
    },
    tuning::Tuning,
    uploads::{Brought, Uploads, WeakUploads},
};
use crate::{
    base::{
        AppName, MemberName, OperatorName, Reason, Refusal, RelPath,
        metric::Series,
        operator::{Operator, TokenHash},
        path::DEFINITIONS,
    },
    driver::{DEFINITION_MAX, Definition},
    gateway::{Served, Stats},
    member::{
        command::{By, Command, Outcome},
        event::{Event, Severity},
        view::View,
    },
    proto::{
        rule::{bench::Open, level::Levels},
        telemetry::{Reading, statsd::Measure},
    },
};

/// What the task that owns the member is asked.
pub(super) enum Request {
    Command(Command, Option<By>, oneshot::Sender<Result<Outcome, Refusal>>),
    View(oneshot::Sender<View>),
    Publish(Box<Publish>, Option<By>, oneshot::Sender<Result<Outcome, Refusal>>),
    PublishBrought(Box<Brought>, Option<By>, oneshot::Sender<Result<Outcome, Refusal>>),
    PublishEdits(Box<Edits>, oneshot::Sender<Result<Outcome, Refusal>>),
    Secrets(SecretEdits, oneshot::Sender<Result<Outcome, Refusal>>),
    Inspect(Question, oneshot::Sender<Result<Findings, Refusal>>),
    Services(Option<MemberName>, Ask, oneshot::Sender<Result<mpsc::Receiver<Heard>, Refusal>>),
    Metrics(oneshot::Sender<Metrics>),
    Series(SeriesQuestion, oneshot::Sender<Result<Measured, Refusal>>),
    Levels(LevelsQuestion, oneshot::Sender<Result<Levels, Refusal>>),
    /// What is to be measured once a second.
    Readings(std::sync::mpsc::SyncSender<Vec<(Series, Reading)>>),
    /// Who shows this token.
    Operator(TokenHash, oneshot::Sender<Option<Operator>>),
    /// What an operator does, or what came of it.
    Acted(Acted, oneshot::Sender<u64>),
    /// What happened to it that it does not know of itself.
    Tell(Severity, String),
    /// Somebody subscribed to views.
    Watched,
    Stop(oneshot::Sender<()>),
}

/// A directory to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// As which application; by the manifest's name if not given.
    pub app: Option<AppName>,
    /// An absolute path on the member that is asked.
    pub source: PathBuf,
    /// For the history.
    pub message: String,
    /// The version that it was made against; the current one if not given.
    pub base: Option<u64>,
    /// Host names beside those of the manifest.
    pub hosts: Vec<String>,
    /// Where its live tree is to stand; as the manifest says if not given.
    #[serde(default)]
    pub place: Option<String>,
    /// Texts of definitions that only the program knows which embeds the member, by the names of
    /// their files. See [`Publish::define`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub definitions: BTreeMap<String, String>,
}

/// Definitions of its own that a publication may bring.
const OWN_DEFINITIONS_MAX: usize = 16;

impl Publish {
    /// The directory `source`, an absolute path, as its manifest says.
    pub fn new(source: impl Into<PathBuf>) -> Self {
        Self {
            app: None,
            source: source.into(),
            message: String::new(),
            base: None,
            hosts: Vec::new(),
            place: None,
            definitions: BTreeMap::new(),
        }
    }

    /// The same with what `definition` says: a text below `.althing` of the tree, which is signed,
    /// copied, voted on and repaired as everything else, and never served. It is part of this
    /// version alone: a version that is published without it has none. [`Handle::defined`] reads it
    /// on every member.
    ///
    /// # Errors
    /// What [`Definition::check`] says of it, or a sentence if it can't be told apart from
    /// Althing's own: [`Definition::NAME`] has to begin with `x-`.
    pub fn define<D: Definition>(mut self, definition: &D) -> Result<Self, Vec<String>> {
        definition.check()?;
        if let Some(text) = definition.text() {
            self.definitions.insert(D::NAME.to_owned(), text);
        }
        self.own_texts().map_err(|why| vec![why])?;
        Ok(self)
    }

    /// Its own definitions as files of the tree; a sentence if one of them can't be. They may have
    /// come through the socket.
    pub(super) fn own_texts(&self) -> Result<Vec<(RelPath, String)>, String> {
        if self.definitions.len() > OWN_DEFINITIONS_MAX {
            return Err(format!("It brings more than {OWN_DEFINITIONS_MAX} definitions."));
        }
        let text = |(name, text): (&String, &String)| {
            if text.len() as u64 > DEFINITION_MAX {
                return Err(format!("Its definition {name:?} is larger than 4 MiB."));
            }
            Ok((own_path(name)?, text.clone()))
        };
        self.definitions.iter().map(text).collect()
    }
}

/// Where a definition of this name lies in a tree, if Althing itself never has one of that name.
pub(super) fn own_path(name: &str) -> Result<RelPath, String> {
    let is_own = name.starts_with(OWN_DEFINITION) && !name.contains('/') && name.len() <= 100;
    let path = RelPath::parse(format!("{DEFINITIONS}/{name}").as_bytes()).ok();
    path.filter(|_| is_own).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        format!(
            "{shown:?} is no name of a definition: a plain file name of up to 100 bytes that \
             begins with {OWN_DEFINITION}, as {OWN_DEFINITION}reminders.toml, is never one of \
             Althing's."
        )
    })
}

/// What names of definitions begin with that Althing does not know.
const OWN_DEFINITION: &str = "x-";

/// What the version of an application that is live on a member defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live<D> {
    /// Which version.
    pub version: u64,
    /// What it defines; none if it says nothing of that.
    pub definition: Option<D>,
}

/// What is told of an operator that acts over the network: before it is done, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acted {
    /// How much it matters.
    pub severity: Severity,
    /// The application that it is about.
    pub app: Option<AppName>,
    /// A sentence, without anything of a token.
    pub text: String,
    /// The number of the event that tells what was asked for, where this is what came of it.
    pub cause: Option<u64>,
    /// Whose token it was; none if it was nobody's.
    pub operator: Option<OperatorName>,
}

/// What the shell counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// SWIM packets and messages sent.
    pub packets_sent: u64,
    /// See `packets_sent`.
    pub messages_sent: u64,
    /// Bytes of both.
    pub bytes_sent: u64,
    /// Messages and packets received.
    pub received: u64,
    /// Bytes of both.
    pub bytes_received: u64,
    /// Connections to other members.
    pub connections: u64,
    /// Requests that the gateway answered.
    pub requests: u64,
    /// Connections taken on ports of applications that are not HTTP.
    #[serde(default)]
    pub tcp_connections: u64,
    /// Of these, those that are open now.
    #[serde(default)]
    pub tcp_active: u64,
    /// Of these, those that nobody took.
    #[serde(default)]
    pub tcp_failures: u64,
    /// Bytes that clients sent over those that have ended.
    #[serde(default)]
    pub tcp_bytes_received: u64,
    /// Bytes that they were sent.
    #[serde(default)]
    pub tcp_bytes_sent: u64,
    /// Lines of the access log that were left out.
    #[serde(default)]
    pub access_log_dropped: u64,
    /// Inputs that wait for the member: how far the loop is behind.
    pub queue: u64,
    /// The longest that one input took, in microseconds.
    pub input_us_max: u64,
    /// How unwell this member thinks it is, from 0: it accuses others that much more slowly.
    #[serde(default)]
    pub unwell: u64,
    /// Suspicions that it looks into.
    #[serde(default)]
    pub suspicions: u64,
    /// Updates that gossip still has to carry.
    #[serde(default)]
    pub gossip_backlog: u64,
    /// Packets and messages that wait for the member.
    #[serde(default)]
    pub queue_network: u64,
    /// What came back from beside the loop and waits for the member.
    #[serde(default)]
    pub queue_notes: u64,
    /// The most that ever waited of all that.
    #[serde(default)]
    pub queue_max: u64,
    /// Records that wait to be on disk; nothing that depends on them is said.
    #[serde(default)]
    pub queue_writes: u64,
    /// Changes of the catalog that wait or are under way here.
    #[serde(default)]
    pub queue_proposals: u64,
    /// Events and questions that are kept for members that are away.
    #[serde(default)]
    pub rumors_kept: u64,
    /// How often the loop took more than half a second for one thing, or the
    /// process stood still for so long.
    #[serde(default)]
    pub stalls: u64,
    /// The longest that the loop took for one thing, beyond half a second; microseconds.
    #[serde(default)]
    pub stall_us_max: u64,
    /// The longest that the process stood still, beyond half a second; microseconds.
    #[serde(default)]
    pub stood_us_max: u64,
    /// Bytes of content that were fetched from members since the start.
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Bytes that the scrub has read again since the start.
    #[serde(default)]
    pub scrub_bytes: u64,
    /// Pieces of content that it found rotten or lost in the store.
    #[serde(default)]
    pub scrub_damaged: u64,
    /// How often it has been through everything.
    #[serde(default)]
    pub scrub_passes: u64,
    /// Repairs of content that this member made, and those that failed.
    #[serde(default)]
    pub repairs: u64,
}

/// Where this process listens, as the system says. What others are reached by is in the
/// catalog; this is known here alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Where sites are served, if anywhere.
    pub sites: Option<SocketAddr>,
    /// Where they are served over TLS, if anywhere.
    #[serde(default)]
    pub tls: Option<SocketAddr>,
}

/// A running member. See [`start`](super::start).
#[derive(Clone)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) views: Arc<watch::Sender<Arc<View>>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) recent: Arc<std::sync::Mutex<std::collections::VecDeque<Event>>>,
    pub(super) stats: Arc<Stats>,
    pub(super) custom: receive::Told,
    pub(super) listening: Listening,
    pub(super) tuning: Tuning,
    pub(super) uploads: WeakUploads,
}

impl Handle {
    /// Carries out a command; ends when it is committed or refused.
    pub async fn command(&self, command: Command) -> Result<Outcome, Refusal> {
        self.command_by(command, None).await
    }

    /// The same, of whoever showed a token.
    pub(crate) async fn command_by(
        &self,
        command: Command,
        by: Option<By>,
    ) -> Result<Outcome, Refusal> {
        self.ask(|answer| Request::Command(command, by, answer)).await?
    }

    /// Stages a directory and publishes it; ends when its window is closed.
    pub async fn publish(&self, publish: Publish) -> Result<Outcome, Refusal> {
        self.publish_by(publish, None).await
    }

    /// The same, of whoever showed a token.
    pub(crate) async fn publish_by(
        &self,
        publish: Publish,
        by: Option<By>,
    ) -> Result<Outcome, Refusal> {
        self.ask(|answer| Request::Publish(Box::new(publish), by, answer)).await?
    }

    /// Publishes what an operator has brought from another machine.
    pub(crate) async fn publish_brought(
        &self,
        brought: Brought,
        by: Option<By>,
    ) -> Result<Outcome, Refusal> {
        self.ask(|answer| Request::PublishBrought(Box::new(brought), by, answer)).await?
    }

    /// What operators bring from other machines.
    pub(crate) fn uploads(&self) -> Result<Uploads, Refusal> {
        self.uploads.upgrade().ok_or_else(|| stopping("Nothing was published."))
    }

    /// Publishes what a list of changes makes of the current version; ends when
    /// its window is closed.
    pub async fn publish_edits(&self, edits: Edits) -> Result<Outcome, Refusal> {
        self.ask(|answer| Request::PublishEdits(Box::new(edits), answer)).await?
    }

    /// Sets secrets and takes some out; ends when its window is closed.
    pub async fn secrets(&self, edits: SecretEdits) -> Result<Outcome, Refusal> {
        self.ask(|answer| Request::Secrets(edits, answer)).await?
    }

    /// Looks into this member's content and answers a question about it.
    pub async fn inspect(&self, question: Question) -> Result<Findings, Refusal> {
        self.ask(|answer| Request::Inspect(question, answer)).await?
    }

    /// What the version of `app` that is live on this member says of `D`, which was published with
    /// [`Publish::define`]. It changes with the version: [`Handle::watch`] says when to look.
    ///
    /// # Errors
    /// The application is not there, not live on this member yet, or what its version has under
    /// that name can't be read as a `D`.
    pub async fn defined<D: Definition>(&self, app: &AppName) -> Result<Live<D>, Refusal> {
        let question = Question::Definition { app: app.clone(), name: D::NAME.to_owned() };
        let Findings::Definition(found) = self.inspect(question).await? else {
            return Err(misunderstood("The definition can't be read."));
        };
        let read = found.text.map(|text| D::read(text.as_bytes())).transpose();
        let definition = read.map_err(|why| {
            Refusal::new(
                Reason::Invalid,
                "The definition can't be used.",
                format!("{} of version {} of {app}: {why}", D::NAME, found.version),
                "Publish a version that this program understands.",
            )
        })?;
        Ok(Live { version: found.version, definition })
    }

    /// The rules about this member that act on it now, as it judges them, those first that began
    /// first. An action of one's own goes by [`Open::episode`], which is the same from the
    /// beginning to the end; [`Handle::events`] says when to look. Rules about the cluster are not
    /// among them.
    pub async fn acting(&self) -> Result<Vec<Open>, Refusal> {
        let what = "It is not known which rules act.";
        let me = MemberName::parse(&self.view().await?.me).map_err(|_| misunderstood(what))?;
        let mut heard = self.services(Some(me), Ask::Acting).await?;
        let mut acting = Vec::new();
        while let Some(part) = heard.recv().await {
            match part.told {
                Told::Acting(open) => acting.push(*open),
                Told::Refused(refusal) => return Err(refusal),
                _ => {}
            }
        }
        acting.sort_by(|a, b| (a.began, &a.episode).cmp(&(b.began, &b.episode)));
        Ok(acting)
    }

    /// Asks about the services that run: on one member, or on all that are live. What
    /// they tell comes as it comes; see [`Told`](super::Told) for how it ends.
    pub async fn services(
        &self,
        member: Option<MemberName>,
        ask: Ask,
    ) -> Result<mpsc::Receiver<Heard>, Refusal> {
        self.ask(|answer| Request::Services(member, ask, answer)).await?
    }

    /// What was measured here and on other members, put together.
    pub async fn series(&self, question: SeriesQuestion) -> Result<Measured, Refusal> {
        self.ask(|answer| Request::Series(question, answer)).await?
    }

    /// Who serves at a moment, by the rules that bring members in.
    pub async fn levels(&self, question: LevelsQuestion) -> Result<Levels, Refusal> {
        self.ask(|answer| Request::Levels(question, answer)).await?
    }

    /// Who shows a token with this hash, as far as this member knows; whose time is over
    /// included.
    pub async fn operator(&self, token: TokenHash) -> Result<Option<Operator>, Refusal> {
        self.ask(|answer| Request::Operator(token, answer)).await
    }

    /// Leaves an event of what an operator does, and returns its number.
    pub async fn acted(&self, acted: Acted) -> Result<u64, Refusal> {
        self.ask(|answer| Request::Acted(acted, answer)).await
    }

    /// Everything, now.
    pub async fn view(&self) -> Result<View, Refusal> {
        self.ask(Request::View).await
    }

    /// What the shell counts.
    pub async fn metrics(&self) -> Result<Metrics, Refusal> {
        self.ask(Request::Metrics).await
    }

    /// What its gateway counts, by application and by origin. Asks nobody.
    pub fn served(&self) -> Served {
        self.stats.served()
    }

    /// What services and scripts of this member measure themselves. Asks nobody.
    pub fn custom(&self) -> Vec<(Series, Measure)> {
        self.custom.lock().unwrap_or_else(PoisonError::into_inner).measures()
    }

    /// Where it listens.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// Views as they change, at most a few a second; the first may be old, and
    /// a fresh one follows at once. While nobody holds a receiver, none is made.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        let receiver = self.views.subscribe();
        // A full queue means that the loop is awake and looks by itself.
        let _awake = self.requests.try_send(Request::Watched);
        receiver
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The events that are kept in memory and have a higher number than
    /// `after`, oldest first.
    pub fn recent_events(&self, after: u64) -> Vec<Event> {
        // A poisoned lock means that a writer panicked between two pushes:
        // the events are whole.
        let recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        recent.iter().filter(|event| event.number > after).cloned().collect()
    }

    /// Sets anew how every byte is read again from time to time (never if not given), and how much
    /// content is sent and received, bytes a second (no bound if not given). What is under way
    /// keeps to it too.
    pub fn tune(&self, scrub: Option<Scrub>, send_rate: Option<u64>, receive_rate: Option<u64>) {
        self.tuning.set(scrub, send_rate, receive_rate);
    }

    /// Makes an event of the kind `member`: what whoever runs this member did to it, and why. Lost
    /// if the member is stopping.
    pub async fn tell(&self, severity: Severity, text: String) {
        let _stopping = self.requests.send(Request::Tell(severity, text)).await;
    }

    /// Stops the member without leaving the cluster.
    pub async fn stop(&self) {
        let _already_stopped = self.ask(Request::Stop).await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(request(answer)).await;
        sent.map_err(|_| stopping("Nothing was changed."))?;
        answered.await.map_err(|_| stopping("It is not known whether it was done."))
    }
}

fn stopping(what: &str) -> Refusal {
    let todo = "Look on another member, or start this one again.";
    Refusal::new(Reason::Failed, what, "This member is stopping.", todo)
}

/// The member answered another question: never, unless there is a mistake in it.
fn misunderstood(what: &str) -> Refusal {
    let why = "This member answered something else than it was asked.";
    Refusal::new(Reason::Failed, what, why, "Please report this.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program defines beside what Althing knows.
    struct Own(&'static str);

    impl Definition for Own {
        const NAME: &'static str = "x-own.txt";

        fn parse(_: &str) -> Result<Self, String> {
            Ok(Self("read"))
        }

        fn text(&self) -> Option<String> {
            (!self.0.is_empty()).then(|| self.0.to_owned())
        }

        fn check(&self) -> Result<(), Vec<String>> {
            if self.0 == "wrong" { Err(vec!["it is wrong".to_owned()]) } else { Ok(()) }
        }
    }

    #[test]
    fn a_publication_brings_definitions_of_its_own() {
        let publish = Publish::new("/srv/www").define(&Own("text")).unwrap();
        let texts = publish.own_texts().unwrap();
        let [(path, text)] = texts.as_slice() else { panic!("{texts:?}") };
        assert_eq!((path.to_string().as_str(), text.as_str()), (".althing/x-own.txt", "text"));
        let json = serde_json::to_string(&publish).unwrap();
        assert_eq!(serde_json::from_str::<Publish>(&json).unwrap(), publish);

        // Who says nothing brings nothing, and one of the release before does not say so.
        let silent = Publish::new("/srv/www").define(&Own("")).unwrap();
        assert_eq!(silent.own_texts(), Ok(Vec::new()));
        let before = serde_json::to_string(&silent).unwrap();
        assert!(!before.contains("definitions"), "{before}");
        assert_eq!(serde_json::from_str::<Publish>(&before).unwrap(), silent);
        assert!(Publish::new("/srv/www").define(&Own("wrong")).is_err());
    }

    #[test]
    fn althings_own_definitions_are_nobody_elses() {
        let long = format!("x-{}", "a".repeat(99));
        for name in ["rules.toml", "secrets.age", "x-a/b", "x-/../a", "../x-a", "x-a\0b", "", &long]
        {
            assert!(own_path(name).is_err(), "{name:?}");
            let mut publish = Publish::new("/srv/www");
            publish.definitions.insert(name.to_owned(), "text".to_owned());
            assert!(publish.own_texts().is_err(), "{name:?}");
        }
        let mut many = Publish::new("/srv/www");
        many.definitions = (0..17).map(|n| (format!("x-{n}"), String::new())).collect();
        assert!(many.own_texts().unwrap_err().contains("more than 16"));
        let mut large = Publish::new("/srv/www");
        let text = "a".repeat(DEFINITION_MAX as usize + 1);
        large.definitions.insert("x-large".to_owned(), text);
        assert!(large.own_texts().unwrap_err().contains("4 MiB"));
    }
}
