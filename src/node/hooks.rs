//! Hooks on this member: when they run, and what follows from how they ended.
//!
//! The one before a switch is asked while the version stands beside the live tree, in
//! the thread that is about to switch. Where it says no the member stays as it is, late
//! and not wrong, and asks again with growing pauses, or at once for a newer version. The
//! publisher asks it before anybody hears of the version. The one after a switch runs
//! beside everything else, for each change of the live tree that this member made, at
//! least once whatever crash came between; where it fails it is tried again as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    content::{ContentError, Defined, Due, Held, Next},
    secrets::Vault,
    services::{Live, Unfit},
};
use crate::{
    base::{AppName, Digest, MemberName, Reason, Refusal, catalog::Catalog},
    driver::{
        hooks::{self, Call, Hook, When},
        secrets::Secrets,
        services::Supervisor,
    },
    member::command::Command,
};

/// The first pause after a hook that failed.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// The longest one.
const PAUSE_LONGEST: Duration = Duration::from_secs(300);

/// How long to wait after a hook has failed so many times running.
fn pause(failures: u32) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PAUSE_LONGEST)
}

/// Runs hooks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runner {
    supervisor: Arc<Supervisor>,
    vault: Vault,
    runtime: Handle,
    /// What the catalog says: it is asked whether something newer came.
    known: Arc<watch::Sender<Known>>,
    /// Repairs of each application, counted: each is a change of its live tree.
    repairs: Arc<watch::Sender<BTreeMap<AppName, u64>>>,
    /// Versions that the hook before a switch has held back.
    held: Arc<Mutex<BTreeMap<AppName, Failure<u64>>>>,
    /// Edits that it has.
    edits: Arc<Mutex<BTreeMap<AppName, Failure<Digest>>>>,
    /// What is not as it should be after a switch.
    complaints: Arc<Mutex<BTreeMap<AppName, String>>>,
    stopping: CancellationToken,
}

/// What of the catalog matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    member: MemberName,
    /// What this member is placed by.
    tags: BTreeMap<String, String>,
    /// The number of each application's current version.
    current: BTreeMap<AppName, u64>,
}

/// A hook failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure<T> {
    /// For what.
    of: T,
    /// A sentence without its point.
    why: String,
    /// How many times running.
    count: u32,
    /// When it is tried again.
    again: Instant,
}

impl<T: PartialEq> Failure<T> {
    /// It failed, perhaps for the same as `before`.
    fn next(before: Option<&Self>, of: T, why: String) -> Self {
        let count = before.filter(|before| before.of == of).map_or(0, |before| before.count) + 1;
        Self { of, why, count, again: Instant::now() + pause(count) }
    }

    /// Whether `of` has to wait.
    fn holds(&self, of: &T) -> bool {
        self.of == *of && Instant::now() < self.again
    }
}

/// What is told of hooks to the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The one after a switch failed, and why.
    Failed(AppName, u64, String),
    /// It did not fail any more.
    Passed(AppName, u64),
    /// The one before a switch failed on what was edited here, and why.
    Edit(AppName, String),
}

/// A change of a live tree: the version, and how many repairs came before.
type Change = ((u64, Digest), u64);

impl Runner {
    /// Hooks are run by `supervisor`, with the secrets of `vault`, until `stopping`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        supervisor: Arc<Supervisor>,
        vault: Vault,
        catalog: &Catalog,
        stopping: CancellationToken,
    ) -> Self {
        let known = Known::of(catalog, &vault);
        Self {
            supervisor,
            vault,
            runtime: Handle::current(),
            known: Arc::new(watch::Sender::new(known)),
            repairs: Arc::default(),
            held: Arc::default(),
            edits: Arc::default(),
            complaints: Arc::default(),
            stopping,
        }
    }

    /// The catalog is this one now.
    pub fn note(&self, catalog: &Catalog) {
        let next = Known::of(catalog, &self.vault);
        let gone = |app: &AppName| !next.current.contains_key(app);
        locked(&self.held).retain(|app, _| !gone(app));
        locked(&self.edits).retain(|app, _| !gone(app));
        self.known.send_if_modified(|known| {
            let differs = *known != next;
            *known = next;
            differs
        });
    }

    /// The live tree of `app` was repaired.
    pub fn repaired(&self, app: &AppName) {
        self.repairs.send_modify(|repairs| *repairs.entry(app.clone()).or_default() += 1);
    }

    /// What is not as it should be after switches, for the member's health. Before a
    /// switch it is the failure of the switch itself.
    pub fn complaints(&self) -> Vec<String> {
        let all = locked(&self.complaints);
        let say = |(app, why): (&AppName, &String)| {
            format!("Since {app} was switched on this member its after-switch hook {why}.")
        };
        all.iter().map(say).collect()
    }

    /// Why `version` of `app` is not even to be placed: its hook said no a moment ago.
    pub fn held_back(&self, app: &AppName, version: u64) -> Option<String> {
        let held = locked(&self.held);
        held.get(app).filter(|failure| failure.holds(&version)).map(|failure| failure.why.clone())
    }

    /// Remembers what came of a switch to `version` of `app`.
    pub fn came_of(&self, app: &AppName, version: u64, result: Result<(), &ContentError>) {
        let mut held = locked(&self.held);
        match result {
            Ok(()) => drop(held.remove(app)),
            Err(ContentError::Held { why, .. }) => {
                let failure = Failure::next(held.get(app), version, why.clone());
                held.insert(app.clone(), failure);
            }
            Err(_) => {} // nothing is known of it
        }
    }

    /// Runs the hook before a switch. Blocks.
    pub fn before(&self, next: &Next<'_>) -> Result<(), Held> {
        let (app, version) = (next.active.app.clone(), next.active.version);
        let unfit = |why: String| {
            Held::Unfit(format!(
                "its before-switch hook {why}; see `althing logs {app} {}`",
                When::BeforeSwitch
            ))
        };
        let defined = self.vault.content.defined_by(&next.active.root);
        let defined = defined
            .map_err(|error| error.to_string())
            .and_then(|defined| defined.map_err(|wrong| wrong.why));
        let defined = defined.map_err(|why| unfit(format!("can't be run, because {why}")))?;
        let run = async {
            let secrets = self.secrets(&app, next.hook, &defined).await;
            let secrets = secrets.map_err(|why| format!("can't be run, because {}", why.why()))?;
            let call = Call {
                app: app.clone(),
                when: When::BeforeSwitch,
                version,
                tree: next.tree.to_owned(),
                live: next.active.live.clone(),
                member: self.known.borrow().member.clone(),
                hook: next.hook.clone(),
                settings: defined.settings.env(),
                secrets,
            };
            hooks::run(&self.supervisor, call).await.map_err(|error| error.to_string())
        };
        let newer = self.newer(&app, version);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => Err(Held::GaveWay),
                () = newer => Err(Held::GaveWay),
                result = run => result.map_err(unfit),
            }
        })
    }

    /// Returns when the catalog has a newer version.
    fn newer(&self, app: &AppName, version: u64) -> impl Future<Output = ()> + use<> {
        let (mut known, app) = (self.known.subscribe(), app.clone());
        async move {
            let is_newer = |known: &Known| known.current.get(&app).is_some_and(|it| *it > version);
            if known.wait_for(is_newer).await.is_err() {
                // The member stops.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn secrets(
        &self,
        app: &AppName,
        hook: &Hook,
        defined: &Defined,
    ) -> Result<Secrets, Unfit> {
        match defined.secrets.as_ref().filter(|_| !hook.secrets.is_empty()) {
            Some(sealed) => self.vault.open(app, sealed).await,
            None => Ok(Secrets::new()),
        }
    }

    /// Before an edit is published by itself: whether this member could switch to it. The
    /// error has, beside a sentence without its point, whether that is news. Blocks.
    pub fn check_edit(&self, app: &AppName, root: Digest) -> Result<(), (ContentError, bool)> {
        if let Some(failure) = locked(&self.edits).get(app).filter(|it| it.holds(&root)) {
            let (version, why) = (self.next_number(app), failure.why.clone());
            return Err((ContentError::Held { app: app.clone(), version, why }, false));
        }
        let check = |next: &Next<'_>| self.before(next);
        let checked = self.vault.content.check_edit(app, self.next_number(app), root, &check);
        let mut edits = locked(&self.edits);
        match checked {
            Ok(()) => {
                edits.remove(app);
                Ok(())
            }
            Err(ContentError::Held { app, version, why }) => {
                let before = edits.get(&app);
                let news = before.is_none_or(|it| it.of != root || it.why != why);
                let failure = Failure::next(before, root, why.clone());
                edits.insert(app.clone(), failure);
                Err((ContentError::Held { app, version, why }, news))
            }
            Err(error) => Err((error, false)),
        }
    }

    /// The number that the next version of `app` gets, unless somebody else is faster.
    fn next_number(&self, app: &AppName) -> u64 {
        self.known.borrow().current.get(app).copied().unwrap_or_default() + 1
    }

    /// Before a version is published that this member has staged: whether it would switch
    /// to it. Blocks.
    pub fn try_out(&self, command: &Command) -> Result<(), Refusal> {
        let Command::Publish { app, staged, spec, .. } = command else { return Ok(()) };
        let placed = |tags| spec.placement.as_ref().is_none_or(|it| it.matches(tags));
        if !placed(&self.known.borrow().tags) {
            // It will never be live here: those that it is for find out.
            return Ok(());
        }
        let check = |next: &Next<'_>| self.before(next);
        let number = self.next_number(app);
        let tried = self.vault.content.try_out(app, number, staged.root, spec, &check);
        let refuse = |reason, why: String, todo: &str| {
            let what = format!("{app} was not published; its version stays as it was.");
            Err(Refusal::new(reason, what, why, todo))
        };
        match tried {
            Ok(()) => Ok(()),
            Err(ContentError::Held { why, .. }) => refuse(
                Reason::Invalid,
                format!("This member could not switch to it: {why}."),
                "Correct what it complains of and publish again, or publish on a member where it \
                 passes.",
            ),
            Err(ContentError::GaveWay(_)) => refuse(
                Reason::Conflict,
                "Its before-switch hook was not run to its end: somebody published meanwhile, or \
                 this member stops."
                    .to_owned(),
                "See `althing history`, and publish again.",
            ),
            Err(error) => refuse(
                Reason::Failed,
                format!("Its before-switch hook could not be run: {error}."),
                "Mend the cause, and publish again.",
            ),
        }
    }

    /// Runs the hook after each switch and repair, until the member stops. One application
    /// that has to wait holds up no other.
    pub async fn run(self, mut live: watch::Receiver<Option<Live>>, tell: impl Fn(Notice)) {
        let mut repairs = self.repairs.subscribe();
        let mut done: BTreeMap<AppName, Change> = BTreeMap::new();
        let mut under_way = BTreeSet::new();
        let mut failed: BTreeMap<AppName, Failure<Change>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = live.borrow_and_update().clone().unwrap_or_default();
            let repaired = repairs.borrow_and_update().clone();
            done.retain(|app, _| wanted.contains_key(app));
            failed.retain(|app, _| wanted.contains_key(app));
            for (app, version) in wanted {
                let change = (version, repaired.get(&app).copied().unwrap_or_default());
                let waits = failed.get(&app).is_some_and(|failure| failure.holds(&change));
                if done.get(&app) != Some(&change) && !waits && under_way.insert(app.clone()) {
                    let runner = self.clone();
                    tasks.spawn(async move {
                        let result = runner.after(&app).await;
                        (app, change, result)
                    });
                }
            }
            let why = |(app, failure): (&AppName, &Failure<_>)| (app.clone(), failure.why.clone());
            *locked(&self.complaints) = failed.iter().map(why).collect();
            let again = failed.values().map(|f| f.again).filter(|at| *at > Instant::now()).min();
            tokio::select! {
                () = self.stopping.cancelled() => return,
                changed = live.changed() => if changed.is_err() { return },
                // This runner holds the other end.
                _ = repairs.changed() => {}
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)),
                    if again.is_some() => {}
                Some(ended) = tasks.join_next() => {
                    let Ok((app, change, result)) = ended else {
                        // It panicked, and which it was is not known: all are looked at anew.
                        under_way.clear();
                        continue;
                    };
                    under_way.remove(&app);
                    let version = change.0.0;
                    match result {
                        Ok(()) => {
                            if failed.remove(&app).is_some() {
                                tell(Notice::Passed(app.clone(), version));
                            }
                            done.insert(app, change);
                        }
                        Err(why) => {
                            let before = failed.get(&app);
                            let news = before.is_none_or(|f| f.of != change || f.why != why);
                            let failure = Failure::next(before, change, why.clone());
                            failed.insert(app.clone(), failure);
                            if news {
                                tell(Notice::Failed(app, version, why));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Runs the hook after a switch of `app`, if there is one and it is due.
    async fn after(&self, app: &AppName) -> Result<(), String> {
        let (content, name) = (self.vault.content.clone(), app.clone());
        let looked = blocking(app, move || {
            let Some(due) = content.due(&name) else { return Ok(None) };
            let defined = content.defined_by(&due.active.root)?;
            Ok(Some((due, defined)))
        });
        let looked = looked.await.map_err(|error| format!("can't be run, because {error}"))?;
        // Definitions that can't be used never will be: whoever runs services tells that.
        let Some((due, Ok(defined))) = looked else { return Ok(()) };
        let Some(hook) = defined.hooks.after_switch.clone() else { return Ok(()) };
        let secrets = self.secrets(app, &hook, &defined).await;
        let secrets = secrets.map_err(|why| format!("can't be run, because {}", why.why()))?;
        let call = Call {
            app: app.clone(),
            when: When::AfterSwitch,
            version: due.active.version,
            tree: due.active.live.clone(),
            live: due.active.live.clone(),
            member: self.known.borrow().member.clone(),
            hook,
            settings: defined.settings.env(),
            secrets,
        };
        hooks::run(&self.supervisor, call)
            .await
            .map_err(|error| format!("{error}; see `althing logs {app} {}`", When::AfterSwitch))?;
        self.told(due).await;
        Ok(())
    }

    async fn told(&self, due: Due) {
        let (content, app) = (self.vault.content.clone(), due.active.app.clone());
        if let Err(error) = blocking(&app, move || content.told(&due)).await {
            tracing::warn!(%app, %error, "its after-switch hook runs once more after a restart");
        }
    }
}

impl Known {
    fn of(catalog: &Catalog, vault: &Vault) -> Self {
        let me = catalog.roster.get(vault.key.member());
        let current = catalog.applications.iter();
        Self {
            // One that is not enrolled any more is about to stop.
            member: me.map_or_else(
                || MemberName::parse("removed").expect("letters are a name"),
                |me| me.name.clone(),
            ),
            tags: me.map_or_else(BTreeMap::new, |me| me.tags.clone()),
            current: current.map(|(app, it)| (app.clone(), it.current().number)).collect(),
        }
    }
}

/// Runs `work`, which may block, on a thread for that.
async fn blocking<T: Send + 'static>(
    app: &AppName,
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    let done = tokio::task::spawn_blocking(work).await;
    // It panicked, which is told of, or the runtime ends.
    done.unwrap_or_else(|_| Err(ContentError::GaveWay(app.clone())))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still whole: every change is one operation on a map.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
