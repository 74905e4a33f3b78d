//! What runs here: the supervisor is told what each live version defines, and
//! asked about it, by this member's people and by other members.
//!
//! A version's definition is read when the version is live, and not before: so a
//! program never meets another version's files than its own.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::content::{Active, Defined};
use crate::{
    base::{AppName, Digest, MemberName, Refusal, ServiceName},
    driver::{
        secrets::Secrets,
        services::{LogLine, Running, ServiceEvent, ServiceStatus, State, Supervisor, What},
    },
    member::event::Severity,
};

mod asking;
mod follow;

pub(super) use asking::{Asked, Asker, Here, answer_stream, ask, ask_one};

/// How soon what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is live: version and signature of each application.
pub(super) type Live = BTreeMap<AppName, (u64, Digest)>;

/// What is asked about services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// How each of them is: [`Told::Status`].
    Status {
        /// Of this application; of all if not given.
        app: Option<AppName>,
    },
    /// What they printed: [`Told::Line`].
    Logs {
        /// Of which application.
        app: AppName,
        /// Only this one; all if not given.
        service: Option<ServiceName>,
        /// The last so many lines of each; ten thousand at most.
        lines: usize,
        /// Whether what they print from now on follows, until nobody listens.
        follow: bool,
    },
    /// Between members: the secrets of an application, sealed for the member that asks:
    /// [`Told::Sealed`].
    Secrets {
        /// Which application.
        app: AppName,
        /// Which document: the asker's version has it.
        document: Digest,
    },
    /// Stop and start again: [`Told::Restarted`].
    Restart {
        /// Of which application.
        app: AppName,
        /// Only this one; all if not given.
        service: Option<ServiceName>,
    },
}

/// One part of an answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// How one service is.
    Status(ServiceStatus),
    /// One line that a service printed.
    Line {
        /// Which.
        service: ServiceName,
        /// The line.
        line: LogLine,
    },
    /// Lines were printed faster than they could be told, and left out.
    Missed {
        /// Of which service.
        service: ServiceName,
        /// How many.
        lines: u64,
    },
    /// A document of secrets, as text.
    Sealed(String),
    /// So many services start again.
    Restarted(usize),
    /// There is no answer, or no more of it.
    Refused(Refusal),
    /// This was all.
    Done,
}

/// One part of an answer, with the member that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Which member.
    pub member: MemberName,
    /// What it told.
    pub told: Told,
}

/// What is told of services to the loop.
pub(super) enum Notice {
    /// A definition that can't be used: of which application, and why.
    Unusable(AppName, String),
}

/// Makes run what the live versions define, until it is stopped.
pub(super) async fn run(
    here: Here,
    mut live: watch::Receiver<Option<Live>>,
    tell: impl Fn(Notice),
    stopping: CancellationToken,
) {
    let mut done = Live::new();
    let mut told = Live::new();
    loop {
        let wanted = live.borrow_and_update().clone();
        let mut again = false;
        if let Some(wanted) = wanted {
            for app in done.keys().filter(|app| !wanted.contains_key(app)) {
                here.supervisor.remove(app);
            }
            done.retain(|app, _| wanted.contains_key(app));
            for (app, version) in wanted {
                if done.get(&app) == Some(&version) {
                    continue;
                }
                match apply(&here, &app).await {
                    Ok(()) => drop(done.insert(app, version)),
                    Err(why) => {
                        again = true;
                        if told.insert(app.clone(), version) != Some(version) {
                            tell(Notice::Unusable(app, why));
                        }
                    }
                }
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = live.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

/// Tells the supervisor what the live version of `app` defines. After an error what ran
/// before goes on.
async fn apply(here: &Here, app: &AppName) -> Result<(), String> {
    let Here { supervisor, vault } = here;
    let (content, name) = (vault.content.clone(), app.clone());
    let read = tokio::task::spawn_blocking(move || content.defined(&name)).await;
    let read = read.map_err(|_| "this member stops".to_owned())?;
    // Switched off between the look and the reading: that is told as well.
    let Some((active, defined)) = read.map_err(|error| error.to_string())? else { return Ok(()) };
    let Defined { services, settings, secrets } = defined;
    if services.0.is_empty() {
        supervisor.remove(app);
        return Ok(());
    }
    let needed = services.0.values().any(|service| !service.secrets.is_empty());
    let secrets = match secrets.filter(|_| needed) {
        Some(sealed) => vault.open(app, &sealed).await?,
        None => Secrets::new(),
    };
    let Active { version, live: tree, .. } = active;
    let running = Running { version, tree, services, env: settings.env(), secrets };
    supervisor.set(app, running).map_err(|wrong| wrong.join(" "))
}

/// How much an event of a service matters.
pub(super) fn severity(event: &ServiceEvent) -> Severity {
    match event.what {
        What::Started { .. }
        | What::Restarted { .. }
        | What::Ready { .. }
        | What::Stopped { killed: false } => Severity::Info,
        What::Exited { status: 0 } => Severity::Info,
        What::NotReady { .. }
        | What::Exited { .. }
        | What::Killed { .. }
        | What::CannotStart { .. }
        | What::Stopped { killed: true } => Severity::Warning,
        What::GivenUp => Severity::Critical,
    }
}

/// What is not as it should be with the services here, for the member's health.
pub(super) fn complaints(supervisor: &Supervisor) -> Vec<String> {
    let all = supervisor.status().into_iter();
    let wrong = |status: &ServiceStatus| {
        matches!(status.state, State::Failed | State::BackingOff | State::RunningNotReady)
    };
    all.filter(wrong)
        .map(|ServiceStatus { app, service, state, last_exit, .. }| {
            let exit = last_exit.map(|exit| format!(" (it {exit})")).unwrap_or_default();
            format!(
                "Service {service} of {app} is {state} on this member{exit}: see `althing logs \
                 {app} {service}`."
            )
        })
        .collect()
}
