//! Rules of what is live here, judged on this member: once a second, on what it measured itself.
//!
//! What a rule says is for `proto/rule`; here its numbers are fetched, and what is due is done.
//! What is open is on disk, so that a member that took itself out of service comes back once it
//! is well, also after a restart. Rules about the cluster need a judge that all agree on, and
//! are told of and not judged yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    content::{Active, ContentError, Defined},
    secrets::Vault,
    services::{Live, Unfit},
    start::wall_now,
    telemetry::Telemetry,
};
use crate::{
    base::{AppName, Digest, Refusal, RuleName, Time},
    driver::{rules::Rules, secrets::Secrets, services::Supervisor},
    member::event::Severity,
    proto::rule::{
        self, Action, Rule,
        bench::{Bench, Due, Key, Open},
        judge::Verdict,
    },
    store::record,
};

mod acting;
mod readings;
pub mod replay;

use readings::Known;

/// How often rules are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How soon what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long actions that are under way when the member stops may go on.
const LAST_ACTIONS: Duration = Duration::from_secs(2);

/// What is told to the loop.
pub(super) enum Notice {
    /// Something happened.
    Told(Told),
    /// Take this member out of service, unless fewer than `keep` would be left, or too few of
    /// all. Whether it was in service.
    Out { keep: u16, because: String, answer: oneshot::Sender<Result<bool, Refusal>> },
    /// Bring it back.
    Back(oneshot::Sender<Result<bool, Refusal>>),
    /// Compare everything that stands here, of one application or of all.
    Sync(Option<AppName>),
}

/// For an event.
pub(super) struct Told {
    pub severity: Severity,
    pub app: AppName,
    /// Of which episode, if it is of one.
    pub episode: Option<String>,
    /// A sentence without its point.
    pub text: String,
}

/// Episodes that are open, for the member's health.
pub(super) type Episodes = Arc<Mutex<Vec<Open>>>;

/// What judging takes.
#[derive(Clone)]
pub(super) struct Here {
    pub vault: Vault,
    pub supervisor: Arc<Supervisor>,
    pub telemetry: Telemetry,
    pub open: Episodes,
    /// Where what is open is kept.
    pub file: PathBuf,
    /// Who this is, and of which cluster.
    pub names: watch::Receiver<Names>,
}

/// How this member and its cluster are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub member: String,
    pub cluster: String,
}

/// What the live version of an application says, and what its actions need.
struct Ready {
    active: Active,
    rules: Rules,
    secrets: Secrets,
    settings: BTreeMap<String, String>,
}

/// What is known of the live version of an application.
struct Seen {
    version: (u64, Digest),
    /// When it is read again, if that may help.
    again: Option<Instant>,
}

/// Judges what is live, until it is stopped.
pub(super) async fn run(
    here: Here,
    mut live: watch::Receiver<Option<Live>>,
    tell: impl Fn(Notice) + Clone + Send + Sync + 'static,
    stopping: CancellationToken,
) {
    let started = Instant::now();
    let before = load(&here.file);
    let took: Took = Arc::new(Mutex::new(
        before.iter().filter(|open| open.took_out).map(|open| open.episode.clone()).collect(),
    ));
    let mut bench = Bench::new(here.names.borrow().member.clone(), before);
    let mut seen: BTreeMap<AppName, Seen> = BTreeMap::new();
    let mut ready: BTreeMap<AppName, Arc<Ready>> = BTreeMap::new();
    let mut known = Known::default();
    let mut chains: BTreeMap<Key, JoinHandle<()>> = BTreeMap::new();
    let (changed, mut changes) = mpsc::unbounded_channel();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keep(&here, &bench, &took);
    loop {
        let now = Time(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut due = Vec::new();
        let wanted = live.borrow_and_update().clone();
        if let Some(wanted) = wanted {
            seen.retain(|app, _| wanted.contains_key(app));
            due.extend(bench.keep(now, |app| wanted.contains_key(app)));
            for (app, version) in wanted {
                let is_known = seen.get(&app).is_some_and(|seen| {
                    seen.version == version && seen.again.is_none_or(|at| Instant::now() < at)
                });
                if is_known {
                    continue;
                }
                let again = match read(&here, &app).await {
                    Ok(found) => {
                        let rules = found.as_ref().map(|found| judged(&app, &found.rules, &tell));
                        due.extend(bench.set(now, &app, rules.unwrap_or_default()));
                        if let Some(found) = found {
                            ready.insert(app.clone(), Arc::new(found));
                        }
                        None
                    }
                    Err(Unfit::Unusable(_)) => None, // told of by whoever runs the services
                    Err(Unfit::Waiting(_)) => Some(Instant::now() + RETRY),
                };
                seen.insert(app, Seen { version, again });
            }
        }
        let wanted: Vec<_> = bench.rules().flat_map(|(_, rule)| rule.measured()).cloned().collect();
        if bench.rules().next().is_some() {
            let at = wall_now();
            known.refresh(&here.telemetry, at, &wanted.iter().collect::<Vec<_>>()).await;
            due.extend(bench.look(now, at, &known));
        }
        // On disk before anything is done: what was begun is known after a crash, and whose it
        // is to bring this member back.
        for due in due.iter().filter(|due| due.verdict == Verdict::Begin) {
            if due.rule.then.contains(&Action::Out) {
                locked(&took).insert(due.open.episode.clone());
            }
        }
        if !due.is_empty() {
            keep(&here, &bench, &took);
        }
        for due in due {
            let told = told(&due);
            tell(Notice::Told(told));
            let Some(ready) = ready.get(&due.open.key.app) else { continue };
            if due.verdict == Verdict::HeldBack {
                continue;
            }
            let key = due.open.key.clone();
            let deed = acting::Deed {
                here: here.clone(),
                ready: Arc::clone(ready),
                took: Arc::clone(&took),
                changed: changed.clone(),
            };
            // One after the other, so that nothing is undone before it is done.
            let earlier = chains.remove(&key);
            let tell = tell.clone();
            let chain = tokio::spawn(async move {
                if let Some(earlier) = earlier {
                    // One that panicked has told of it.
                    let _ended = earlier.await;
                }
                acting::carry_out(&deed, &due, &tell).await;
            });
            chains.insert(key, chain);
        }
        chains.retain(|_, chain| !chain.is_finished());
        let has_rules = bench.rules().next().is_some();
        let again = seen.values().filter_map(|seen| seen.again).min();
        tokio::select! {
            () = stopping.cancelled() => break,
            changed = live.changed() => if changed.is_err() { break },
            Some(()) = changes.recv() => keep(&here, &bench, &took),
            _ = tick.tick(), if has_rules => {}
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
    let last = async {
        for (_, chain) in chains {
            let _ended = chain.await;
        }
    };
    let _given_up = tokio::time::timeout(LAST_ACTIONS, last).await;
    keep(&here, &bench, &took);
}

/// Episodes that took this member out of service, or are about to.
type Took = Arc<Mutex<BTreeSet<String>>>;

/// The rules of `app` that this member judges. Of the others it is told.
fn judged(app: &AppName, rules: &Rules, tell: &impl Fn(Notice)) -> Vec<(RuleName, Rule)> {
    let (wide, own): (Vec<_>, Vec<_>) =
        rules.parsed().into_iter().partition(|(_, rule)| rule.is_wide());
    if !wide.is_empty() {
        let names: Vec<&str> = wide.iter().map(|(name, _)| name.as_str()).collect();
        tell(Notice::Told(Told {
            severity: Severity::Warning,
            app: app.clone(),
            episode: None,
            text: format!(
                "rules about the cluster are not judged by this version of Althing: {} of {app}",
                names.join(", ")
            ),
        }));
    }
    own.into_iter().map(|(name, rule)| (name.clone(), rule)).collect()
}

/// What is told of `due`.
fn told(due: &Due) -> Told {
    let Due { verdict, open, rule, why } = due;
    let Key { app, rule: name } = &open.key;
    let text = match verdict {
        Verdict::Begin => format!("rule {name} of {app} acts: {why}"),
        Verdict::Repeat => format!("rule {name} of {app} acts since {}: {why}", open.began),
        Verdict::End => format!("rule {name} of {app} acts no more: {why}"),
        Verdict::HeldBack => {
            format!(
                "rule {name} of {app} would act, and is held back by cooldown or at-most: {why}"
            )
        }
    };
    let severity = match (verdict, rule.severity) {
        (Verdict::End, _) | (_, None) => Severity::Info,
        (_, Some(rule::Severity::Warning)) => Severity::Warning,
        (_, Some(rule::Severity::Critical)) => Severity::Critical,
    };
    let episode = (*verdict != Verdict::HeldBack).then(|| open.episode.clone());
    Told { severity, app: app.clone(), episode, text }
}

/// What the live version of `app` says of rules. None if there is none.
async fn read(here: &Here, app: &AppName) -> Result<Option<Ready>, Unfit> {
    let (content, name) = (here.vault.content.clone(), app.clone());
    let read = tokio::task::spawn_blocking(move || content.defined(&name)).await;
    // A panic in there has been told of.
    let read = read.map_err(|_| Unfit::Waiting("it could not be read".to_owned()))?;
    let defined = read.map_err(|error| match error {
        ContentError::Definition { .. } => Unfit::Unusable(error.to_string()),
        _ => Unfit::Waiting(error.to_string()),
    })?;
    let Some((active, defined)) = defined else { return Ok(None) };
    let Defined { rules, settings, secrets, .. } = defined;
    if rules.rules.is_empty() {
        return Ok(None);
    }
    let needs = rules.secrets().next().is_some()
        || rules.script.values().any(|script| !script.secrets.is_empty());
    let secrets = match secrets.filter(|_| needs) {
        Some(sealed) => here.vault.open(app, &sealed).await?,
        None => Secrets::new(),
    };
    Ok(Some(Ready { active, rules, secrets, settings: settings.env() }))
}

/// The episodes that were open when this member stopped.
fn load(file: &Path) -> Vec<Open> {
    let read = record::load(file).map(|bytes| bytes.unwrap_or_else(|| b"[]".to_vec()));
    let read = read
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    read.unwrap_or_else(|error| {
        // They begin anew, if they still have reason to.
        tracing::warn!(%error, "which rules act could not be read");
        Vec::new()
    })
}

/// Keeps and shows what is open.
fn keep(here: &Here, bench: &Bench, took: &Took) {
    let took_out = locked(took);
    let open: Vec<Open> = bench
        .open()
        .map(|open| Open { took_out: took_out.contains(&open.episode), ..open.clone() })
        .collect();
    drop(took_out);
    let mut shown = locked(&here.open);
    if *shown == open {
        return;
    }
    shown.clone_from(&open);
    drop(shown);
    // Our own type: it always serialises.
    let bytes = serde_json::to_vec(&open).unwrap_or_default();
    if let Err(error) = record::save(&here.file, &bytes) {
        tracing::warn!(%error, "which rules act could not be kept");
    }
}

/// What the rules say of this member's health, the worst first.
pub(super) fn complaints(open: &Episodes) -> Vec<(rule::Severity, String)> {
    let open = locked(open);
    let said = |open: &Open| {
        let Key { app, rule } = &open.key;
        Some((
            open.severity?,
            format!("Rule {rule} of {app} acts since {}: {}.", open.began, open.why),
        ))
    };
    let mut all: Vec<_> = open.iter().filter_map(said).collect();
    all.sort_by(|(a, x), (b, y)| (b, x).cmp(&(a, y)));
    all
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
