//! Rules of what is live here, judged on this member: once a second, on what it measured itself.
//!
//! What a rule says is for `proto/rule`; here its numbers are fetched, and what is due is done.
//! What is open is on disk, so that a member that took itself out of service comes back once it
//! is well, also after a restart. Rules about the cluster are judged by one member for all: see
//! `wide.rs`.

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
    services::{Ask, Heard, Live, Unfit},
    start::wall_now,
    telemetry::Telemetry,
};
use crate::{
    base::{AppName, Digest, MemberId, MemberName, Refusal, RuleName, Time, conduct::Silence},
    driver::{rules::Rules, secrets::Secrets, services::Supervisor},
    gateway::Stats,
    member::{change::Act, event::Severity},
    proto::rule::{
        self, Action, Rule,
        bench::{Bench, Due, Key, Open},
        judge::Verdict,
    },
    store::record,
};

mod acting;
mod came;
mod counting;
pub mod levels;
mod readings;
pub mod replay;
pub(in crate::node) mod wide;

use counting::Counting;
use readings::Known;
use wide::{Around, Shelf};

/// How often rules are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How soon what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is tried to bring a member back that nothing keeps out of service any more.
const BACK_AGAIN: Duration = Duration::from_secs(30);
/// How long actions that are under way when the member stops may go on.
const LAST_ACTIONS: Duration = Duration::from_secs(2);

/// What is told to the loop.
pub(super) enum Notice {
    /// Something happened.
    Told(Told),
    /// Take this member out of service, unless fewer than `keep` would be left, or too few of
    /// all. Whether it was in service.
    Out { keep: u16, because: String, answer: oneshot::Sender<Result<bool, Refusal>> },
    /// Put it back to where it was, unless somebody has put it somewhere since. Whether it was.
    Back(oneshot::Sender<Result<bool, Refusal>>),
    /// Nothing is under way here any more since it went out of service.
    Drained(oneshot::Sender<Result<bool, Refusal>>),
    /// Compare everything that stands here, of one application or of all.
    Sync(Option<AppName>),
    /// Change the catalog so. It is answered when that can be seen from here, so that nothing is
    /// done a second time because it could not.
    Act(Act, oneshot::Sender<Result<bool, Refusal>>),
    /// What came of it.
    Acted(Result<bool, Refusal>, oneshot::Sender<Result<bool, Refusal>>),
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
pub(in crate::node) type Episodes = Arc<Mutex<Vec<Open>>>;

/// What judging takes.
#[derive(Clone)]
pub(super) struct Here {
    pub vault: Vault,
    pub supervisor: Arc<Supervisor>,
    pub telemetry: Telemetry,
    /// What counts the requests of clients, if any come here.
    pub stats: Option<Arc<Stats>>,
    pub open: Episodes,
    /// Where what is open is kept.
    pub file: PathBuf,
    /// Who this is, and of which cluster.
    pub names: watch::Receiver<Names>,
    /// What operators want to hear nothing of.
    pub silences: watch::Receiver<Vec<Silence>>,
    /// What this member sees of the cluster.
    pub around: watch::Receiver<Around>,
    /// Asks members.
    pub ask: Asking,
}

/// The way to ask members what they know.
pub(super) type Asking =
    Arc<dyn Fn(&[(MemberId, MemberName)], &Ask) -> mpsc::Receiver<Heard> + Send + Sync>;

/// How this member and its cluster are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub member: String,
    pub cluster: String,
}

/// What the live version of an application says, and what its actions need.
pub(in crate::node) struct Ready {
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

/// Judges what is live, until it is stopped. What it says is put on the `shelf`, for whoever judges
/// the rules about the cluster.
pub(super) async fn run(
    here: Here,
    mut live: watch::Receiver<Option<Live>>,
    shelf: watch::Sender<Shelf>,
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
    let mut counting = Counting::new(here.stats.clone());
    let mut chains: BTreeMap<Key, JoinHandle<()>> = BTreeMap::new();
    let stopped = Took::default();
    let (mut around, mut back) = (here.around.clone(), Instant::now() + BACK_AGAIN);
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
            let mut differs = shelf.send_if_modified(|shelf| {
                let count = shelf.len();
                shelf.retain(|app, _| wanted.contains_key(app));
                shelf.len() != count
            });
            for (app, version) in wanted {
                let is_known = seen.get(&app).is_some_and(|seen| {
                    seen.version == version && seen.again.is_none_or(|at| Instant::now() < at)
                });
                if is_known {
                    continue;
                }
                let again = match read(&here, &app).await {
                    Ok(found) => {
                        let found = found.map(Arc::new);
                        let rules = found.as_ref().map(|found| own(&found.rules));
                        due.extend(bench.set(now, &app, rules.unwrap_or_default()));
                        if let Some(found) = &found {
                            ready.insert(app.clone(), Arc::clone(found));
                        }
                        shelf.send_modify(|shelf| drop(shelf.insert(app.clone(), found)));
                        differs = true;
                        None
                    }
                    Err(Unfit::Unusable(_)) => None, // told of by whoever runs the services
                    Err(Unfit::Waiting(_)) => Some(Instant::now() + RETRY),
                };
                seen.insert(app, Seen { version, again });
            }
            if differs {
                let named = counting::named(&shelf.borrow());
                counting.count(&named).into_iter().for_each(|told| tell(Notice::Told(told)));
            }
        }
        let wanted: Vec<_> = bench.rules().flat_map(|(_, rule)| rule.measured()).cloned().collect();
        if bench.rules().next().is_some() {
            let at = wall_now();
            known.refresh(&here.telemetry, at, &wanted.iter().collect::<Vec<_>>()).await;
            due.extend(bench.look(now, at, &known));
        }
        // Of one moment, so that what is not done now is put off.
        let (silences, at) = (here.silences.borrow().clone(), wall_now());
        let me = here.vault.key.member();
        let silence = |key: &Key| Silence::of(&silences, &key.app, &key.rule, Some(me), at);
        let late = bench.hush(&mut due, |key| silence(key).is_some());
        let in_time = due.len();
        due.extend(late);
        // On disk before anything is done: what was begun is known after a crash, and whose it
        // is to bring this member back.
        for due in due.iter().filter(|due| due.verdict == Verdict::Begin) {
            if due.rule.then.contains(&Action::Out) && !due.open.put_off {
                locked(&took).insert(due.open.episode.clone());
            }
        }
        if !due.is_empty() {
            keep(&here, &bench, &took);
        }
        for (n, due) in due.into_iter().enumerate() {
            let silence = silence(&due.open.key);
            tell(Notice::Told(told(&due, silence, n >= in_time)));
            let Some(ready) = ready.get(&due.open.key.app) else {
                // Of an application that is gone nobody can be told any more; the member is brought
                // back below.
                continue;
            };
            if !is_done(&due, silence.is_some()) {
                continue;
            }
            let key = due.open.key.clone();
            let deed = acting::Deed {
                here: here.clone(),
                ready: Arc::clone(ready),
                took: Arc::clone(&took),
                stopped: Arc::clone(&stopped),
                changed: changed.clone(),
                about: Some(here.names.borrow().member.clone()),
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
        ready.retain(|app, _| seen.contains_key(app));
        // Where the end could not be carried out, or nobody remembers the beginning.
        let rests = around.borrow_and_update().rests && live.borrow().is_some();
        let is_kept = || bench.open().any(|open| locked(&took).contains(&open.episode));
        if !rests || !chains.is_empty() || is_kept() {
            back = Instant::now() + BACK_AGAIN;
        } else if back <= Instant::now() {
            back = Instant::now() + BACK_AGAIN;
            locked(&took).clear();
            let (answer, _) = oneshot::channel();
            tell(Notice::Back(answer));
        }
        let has_rules = bench.rules().next().is_some();
        let again = seen.values().filter_map(|seen| seen.again).min();
        tokio::select! {
            () = stopping.cancelled() => break,
            changed = live.changed() => if changed.is_err() { break },
            changed = around.changed(), if !has_rules => if changed.is_err() { break },
            Some(()) = changes.recv() => keep(&here, &bench, &took),
            _ = tick.tick(), if has_rules || rests => {}
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

/// The rules that a member judges for itself.
fn own(rules: &Rules) -> Vec<(RuleName, Rule)> {
    let all = rules.parsed().into_iter().filter(|(_, rule)| !rule.is_wide());
    all.map(|(name, rule)| (name.clone(), rule)).collect()
}

/// Whether anything is done about `due`, or it is only told of. What began before a silence ends
/// as any other does: what was done is undone, and who heard of it hears that it is over.
fn is_done(due: &Due, is_silenced: bool) -> bool {
    match due.verdict {
        Verdict::Begin | Verdict::End => !due.open.put_off,
        Verdict::Repeat => !due.open.put_off && !is_silenced,
        Verdict::HeldBack => false,
    }
}

/// What is told of `due`, which is `late` if it was put off until its silence was over.
fn told(due: &Due, silence: Option<&Silence>, late: bool) -> Told {
    let Due { verdict, open, rule, why } = due;
    let Key { app, rule: name } = &open.key;
    let hushed = silence.map(|silence| format!("; it does nothing, as it is {}", silence.told()));
    let hushed = hushed.unwrap_or_default();
    let text = match verdict {
        Verdict::Begin if late => {
            let began = open.began;
            format!("rule {name} of {app} acts since {began}, and is silenced no more: {why}")
        }
        Verdict::Begin => format!("rule {name} of {app} acts: {why}{hushed}"),
        Verdict::Repeat => {
            format!("rule {name} of {app} acts since {}: {why}{hushed}", open.began)
        }
        Verdict::End if open.put_off => {
            format!(
                "rule {name} of {app} acts no more, and did nothing while it was silenced: {why}"
            )
        }
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

/// What the rules say of the health of member `me`, the worst first.
pub(super) fn complaints(
    open: &Episodes,
    silences: &[Silence],
    me: MemberId,
) -> Vec<(rule::Severity, String)> {
    let open = locked(open);
    let said = |open: &Open| {
        let Open { key: Key { app, rule }, began, why, .. } = open;
        let hushed = marked(Silence::of(silences, app, rule, Some(me), wall_now()));
        Some((open.severity?, format!("Rule {rule} of {app} acts since {began}: {why}{hushed}.")))
    };
    let mut all: Vec<_> = open.iter().filter_map(said).collect();
    all.sort_by(|(a, x), (b, y)| (b, x).cmp(&(a, y)));
    all
}

/// What stands behind the reason of a rule that is silenced.
fn marked(silence: Option<&Silence>) -> String {
    silence.map(|silence| format!(" ({})", silence.told())).unwrap_or_default()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemberName, SecretKey, WallTime, conduct::Silenced};

    fn key() -> Key {
        Key { app: AppName::parse("web").unwrap(), rule: RuleName::parse("hot").unwrap() }
    }

    fn due(verdict: Verdict, put_off: bool) -> Due {
        let open = Open {
            key: key(),
            episode: "web-hot-alpha-1".to_owned(),
            began: WallTime(0),
            severity: Some(rule::Severity::Critical),
            why: "cpu > 90% (95%)".to_owned(),
            took_out: false,
            sentence: "when cpu > 90% then log".to_owned(),
            put_off,
        };
        let why = open.why.clone();
        Due { verdict, open, rule: rule::parse("when cpu > 90% then log").unwrap(), why }
    }

    fn silence(member: Option<MemberId>, until: WallTime) -> Silence {
        Silence {
            what: Silenced { app: Some(key().app), rule: None, member },
            by: MemberName::parse("beta").unwrap(),
            why: "a test".to_owned(),
            since: WallTime(0),
            until,
        }
    }

    #[test]
    fn what_began_before_a_silence_ends_as_any_other() {
        use Verdict::{Begin, End, HeldBack, Repeat};
        let done = |verdict, put_off, silenced| is_done(&due(verdict, put_off), silenced);
        assert!(done(Begin, false, false) && done(Repeat, false, false) && done(End, false, false));
        assert!(done(End, false, true));
        assert!(!done(Repeat, false, true) && !done(Repeat, true, false));
        assert!(!done(Begin, true, true) && !done(End, true, true) && !done(End, true, false));
        assert!(!done(HeldBack, false, false));
    }

    #[test]
    fn events_say_that_a_rule_is_silenced() {
        let silence = silence(None, WallTime(3_600_000));
        let text = |verdict, put_off, silenced: bool, late| {
            told(&due(verdict, put_off), silenced.then_some(&silence), late).text
        };
        let acts = "rule hot of web acts: cpu > 90% (95%)";
        assert_eq!(text(Verdict::Begin, false, false, false), acts);
        let hushed = format!(
            "{acts}; it does nothing, as it is silenced until 1970-01-01T01:00:00Z by beta: a test"
        );
        assert_eq!(text(Verdict::Begin, true, true, false), hushed);
        assert_eq!(
            text(Verdict::Begin, false, false, true),
            "rule hot of web acts since 1970-01-01T00:00:00Z, and is silenced no more: cpu > 90% \
             (95%)"
        );
        let over = "rule hot of web acts no more: cpu > 90% (95%)";
        assert_eq!(text(Verdict::End, false, true, false), over);
        assert_ne!(text(Verdict::End, true, false, false), over);
    }

    #[test]
    fn a_silenced_rule_is_still_a_reason() {
        let open: Episodes = Arc::new(Mutex::new(vec![due(Verdict::Begin, true).open]));
        let member = |n: u8| SecretKey::from_seed([n; 32]).member();
        let text = |silences: &[Silence]| {
            let all = complaints(&open, silences, member(1));
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].0, rule::Severity::Critical);
            all[0].1.clone()
        };
        let later = WallTime(wall_now().0 + 3_600_000);
        let plain = text(&[]);
        assert!(!plain.contains("silenced"));
        assert_eq!(text(&[silence(Some(member(2)), later)]), plain);
        assert_eq!(text(&[silence(None, WallTime(1))]), plain, "it is over");
        let hushed = text(&[silence(Some(member(1)), later)]);
        assert!(hushed.ends_with(" by beta: a test)."), "{hushed}");
    }
}
