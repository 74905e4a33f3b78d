//! What runs here: the supervisor is told what each live version defines, and
//! asked about it, by this member's people and by other members.
//!
//! A version's definition is read when the version is live, and not before: so nothing is
//! started for a tree that is not there yet. What ends by itself in the moment of a switch
//! may be started once in the new tree as the old definition says, until it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    adopt::Signed,
    checkup::Checkup,
    content::{Active, ContentError, Defined},
    differs::Differs,
    telemetry::asking::EventsQuestion,
};
use crate::{
    base::{AppName, Digest, MemberName, Refusal, ServiceName},
    driver::{
        secrets::Secrets,
        services::{LogLine, Running, ServiceEvent, ServiceStatus, State, What},
    },
    member::event::Severity,
    proto::{rollout::Sight, rule::bench::Open, telemetry::Grid},
    store::events::Logged,
};

mod asking;
mod follow;
mod sight;

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
    /// What stands at a path: [`Told::Signed`], and before that now and then
    /// [`Told::Signing`].
    Sign {
        /// An absolute path on the member that is asked.
        path: PathBuf,
        /// Patterns of what does not count.
        ignore: Vec<String>,
    },
    /// Stop and start again: [`Told::Restarted`].
    Restart {
        /// Of which application.
        app: AppName,
        /// Only this one; all if not given.
        service: Option<ServiceName>,
    },
    /// What was measured there: [`Told::Series`].
    Series {
        /// Which series: a pattern.
        pattern: String,
        /// In which rows.
        grid: Grid,
        /// Whether with distributions.
        spreads: bool,
    },
    /// What happened there: [`Told::Event`].
    Events(EventsQuestion),
    /// Which rules about that member act there: [`Told::Acting`].
    Acting,
    /// What it finds out about its machine: [`Told::Checkup`].
    Checkup,
    /// In which files what stands there differs, and what is being published:
    /// [`Told::Differs`], and before that now and then [`Told::Signing`].
    Differs {
        /// In which application.
        app: AppName,
    },
}

impl Ask {
    /// Whether the answer goes on until nobody listens.
    fn follows(&self) -> bool {
        matches!(
            self,
            Self::Logs { follow: true, .. } | Self::Events(EventsQuestion { follow: true, .. })
        )
    }

    /// Whether nothing comes of it but the answer, so that it may be put twice.
    fn only_asks(&self) -> bool {
        !matches!(self, Self::Restart { .. })
    }
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
    /// It is being read.
    Signing,
    /// What stands there.
    Signed(Signed),
    /// So many services start again.
    Restarted(usize),
    /// Some more buckets of one series, oldest first.
    Series {
        /// Which.
        series: String,
        /// As `proto/telemetry` encodes them, in base64.
        buckets: String,
    },
    /// An event.
    Event(Box<Logged>),
    /// That a rule acts there.
    Acting(Box<Open>),
    /// What it finds out about its machine.
    Checkup(Box<Checkup>),
    /// There is no answer, or no more of it.
    Refused(Refusal),
    /// This was all.
    Done,
    /// In which files what stands there differs.
    Differs(Box<Differs>),
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
    /// What the live version of an application defines can't be used, and why.
    Unusable(AppName, String),
    /// It can't be used yet: it is tried again.
    Waiting(AppName, String),
    /// It is used after all.
    Used(AppName),
    /// How what runs of a version is.
    Seen(AppName, u64, Sight),
}

/// Why what a version defines does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It never will.
    Unusable(String),
    /// It may, later.
    Waiting(String),
}

impl Unfit {
    /// A sentence without its point.
    pub fn why(&self) -> &str {
        match self {
            Self::Unusable(why) | Self::Waiting(why) => why,
        }
    }
}

/// What does not run as it should, by application, for the member's health.
pub(super) type Troubles = Arc<Mutex<BTreeMap<AppName, String>>>;

/// Makes run what the live versions define, until it is stopped. One application that has
/// to wait holds up no other.
pub(super) async fn run(
    here: Here,
    mut live: watch::Receiver<Option<Live>>,
    tell: impl Fn(Notice),
    stopping: CancellationToken,
) {
    let mut done = Live::new();
    let mut under_way = BTreeSet::new();
    let mut failed: BTreeMap<AppName, ((u64, Digest), Unfit, Instant)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut sights = sight::Sights::default();
    loop {
        let wanted = live.borrow_and_update().clone();
        if let Some(wanted) = wanted {
            for app in done.keys().filter(|app| !wanted.contains_key(app)) {
                here.supervisor.remove(app);
            }
            done.retain(|app, _| wanted.contains_key(app));
            failed.retain(|app, _| wanted.contains_key(app));
            for (app, version) in wanted {
                let waits = failed
                    .get(&app)
                    .is_some_and(|(of, _, again)| *of == version && Instant::now() < *again);
                if done.get(&app) != Some(&version) && !waits && under_way.insert(app.clone()) {
                    let here = here.clone();
                    tasks.spawn(async move {
                        let result = apply(&here, &app).await;
                        (app, version, result)
                    });
                }
            }
        }
        let why = |(app, (_, unfit, _)): (&AppName, &(_, Unfit, _))| {
            (app.clone(), unfit.why().to_owned())
        };
        *locked(&here.troubles) = failed.iter().map(why).collect();
        let again = failed.values().map(|(.., again)| *again).filter(|at| *at > Instant::now());
        let again = again.min();
        let why = |app: &AppName| {
            failed.get(app).filter(|(of, ..)| done.get(app) != Some(of)).map(|(_, unfit, _)| unfit)
        };
        let status = here.supervisor.status();
        for (app, version, sight) in sights.look(live.borrow().as_ref(), &done, why, &status) {
            tell(Notice::Seen(app, version, sight));
        }
        let look_again = sights.look_again();
        tokio::select! {
            () = tokio::time::sleep(look_again.unwrap_or_default()), if look_again.is_some() => {}
            () = stopping.cancelled() => return,
            changed = live.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            Some(ended) = tasks.join_next() => {
                let Ok((app, version, result)) = ended else {
                    // It panicked, and which it was is not known: to begin all again is harmless.
                    under_way.clear();
                    continue;
                };
                under_way.remove(&app);
                match result {
                    Ok(()) => {
                        if failed.remove(&app).is_some() {
                            tell(Notice::Used(app.clone()));
                        }
                        done.insert(app, version);
                    }
                    Err(unfit) => {
                        let entry = (version, unfit.clone(), Instant::now() + RETRY);
                        let before = failed.insert(app.clone(), entry);
                        if before.is_none_or(|(_, before, _)| before != unfit) {
                            tell(match unfit {
                                Unfit::Unusable(why) => Notice::Unusable(app, why),
                                Unfit::Waiting(why) => Notice::Waiting(app, why),
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Tells the supervisor what the live version of `app` defines. After an error what ran
/// before goes on.
async fn apply(here: &Here, app: &AppName) -> Result<(), Unfit> {
    let Here { supervisor, vault, .. } = here;
    loop {
        let (content, name) = (vault.content.clone(), app.clone());
        let read = tokio::task::spawn_blocking(move || content.defined(&name)).await;
        // A panic in there has been told of.
        let read = read.map_err(|_| Unfit::Waiting("it could not be read".to_owned()))?;
        let read = read.map_err(|error| match error {
            ContentError::Definition { .. } => Unfit::Unusable(error.to_string()),
            _ => Unfit::Waiting(error.to_string()),
        })?;
        // Switched off between the look and the reading: that is told as well.
        let Some((active, defined)) = read else { return Ok(()) };
        let Defined { services, routes, listeners, settings, secrets, .. } = defined;
        if services.0.is_empty() {
            supervisor.remove(app);
            return Ok(());
        }
        let needed = services.0.values().any(|service| !service.secrets.is_empty());
        let secrets = match secrets.filter(|_| needed) {
            Some(sealed) => vault.open(app, &sealed).await?,
            None => Secrets::new(),
        };
        // To open them may have taken a while: the tree is to be that of the definition.
        if !vault.content.applications().contains(&active) {
            continue;
        }
        let Active { version, root, live: tree, .. } = active;
        let running = Running {
            version,
            root,
            tree,
            services,
            served: &routes.served() | &listeners.served(),
            env: settings.env(),
            secrets,
        };
        let set = supervisor.set(app, running);
        return set.map_err(|wrong| Unfit::Unusable(wrong.join(" ")));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much an event of a service matters.
pub(super) fn severity(event: &ServiceEvent) -> Severity {
    match event.what {
        What::Started { .. }
        | What::Restarted { .. }
        | What::Ready { .. }
        | What::Well
        | What::LetThrough { .. }
        | What::Stopped { killed: false } => Severity::Info,
        What::Exited { status: 0 } => Severity::Info,
        What::NotReady { .. }
        | What::Unwell { .. }
        | What::Exited { .. }
        | What::Killed { .. }
        | What::CannotStart { .. }
        | What::Stopped { killed: true } => Severity::Warning,
        What::GivenUp => Severity::Critical,
    }
}

/// What is not as it should be with the services here, for the member's health.
pub(super) fn complaints(here: &Here) -> Vec<String> {
    let mut complaints: Vec<String> = locked(&here.troubles)
        .iter()
        .map(|(app, why)| format!("What {app} defines does not run on this member: {why}."))
        .collect();
    let wrong = |status: &ServiceStatus| {
        use State::{BackingOff, Failed, RunningNotReady, Unwell};
        matches!(status.state, Failed | BackingOff | RunningNotReady | Unwell)
    };
    for status in here.supervisor.status().into_iter().filter(wrong) {
        let ServiceStatus { app, service, state, last_exit, .. } = status;
        let exit = last_exit.map(|exit| format!(" (it {exit})")).unwrap_or_default();
        complaints.push(format!(
            "Service {service} of {app} is {state} on this member{exit}: see `althing logs {app} \
             {service}`."
        ));
    }
    complaints
}
