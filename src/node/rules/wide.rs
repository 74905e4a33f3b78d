//! Rules about the cluster, as far as this member judges them: those of an application by the
//! first live member in the failover list on which it is placed.
//!
//! What follows is decided by the catalog (`proto/rule/wide.rs`): first it says that a rule begins to
//! act, and only then is anybody told. So nobody is told by a member that has no majority with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    Asking, Here, Notice, Ready, Told, Took,
    acting::{self, Deed},
    came,
    readings::{MINUTE_MS, STALE_MS, event_kind, folded, ms, of_shares},
};
use crate::{
    base::{
        AppName, MemberId, MemberName, Reason, Refusal, Time, WallTime,
        conduct::{Episode, Silence},
        limits::LOGGED_ANSWER_MAX,
    },
    member::{
        change::{Act, Begin, Said, Which},
        event::Severity,
    },
    node::{
        services::{self, Ask, Heard},
        start::wall_now,
        telemetry::asking::{self, Asked, EventsQuestion, Gathered, Rows},
    },
    proto::{
        rule::{
            During, Fold, Measured, Rule, Scope, What,
            bench::{Due, Key, Open},
            judge::{HOLE_MAX, Number, Readings, Verdict},
            wide::{self, Judge, Wanted, Wish},
        },
        telemetry::{Aggregate, rollup},
    },
};

/// How often rules are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What is asked for where no window is given: some samples, as answers take a moment.
const LATEST: Duration = Duration::from_secs(5);
/// How long a number of all members is used before they are asked again, at least and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// How long members have to say what they measured: who is slower is not known.
const ASK_WITHIN: Duration = Duration::from_secs(8);
/// How soon a wish that was refused is wished again, and told of.
const RETRY: Duration = Duration::from_secs(30);
/// How many times it is tried to say that somebody was told, before they are told again.
const SAY_TRIES: u32 = 20;

/// What this member sees of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::node) struct Around {
    /// Applications of which it judges the rules about the cluster.
    pub apps: BTreeSet<AppName>,
    /// Those of them that the cluster has no more.
    pub gone: BTreeSet<AppName>,
    /// Their episodes.
    pub episodes: Vec<Episode>,
    /// Who waits and can be brought into service, in the order of the failover list.
    pub waiting: Vec<MemberId>,
    /// Who is live, this member among them; also where they are no majority.
    pub live: Vec<(MemberId, MemberName)>,
    /// Whether a rule has taken this member out of service.
    pub rests: bool,
}

/// What the live versions say: of applications that have been read. None where nothing is said.
pub(in crate::node) type Shelf = BTreeMap<AppName, Option<Arc<Ready>>>;

/// Judges until it is stopped.
pub(in crate::node) async fn run(
    here: Here,
    mut shelf: watch::Receiver<Shelf>,
    tell: impl Fn(Notice) + Clone + Send + Sync + 'static,
    stopping: CancellationToken,
) {
    let mut around = here.around.clone();
    let name = || here.names.borrow().member.clone();
    let (started, mut looked) = (Instant::now(), Instant::now());
    let mut judge = Judge::new(name());
    let mut known = Known::default();
    let mut chains: BTreeMap<Key, JoinHandle<()>> = BTreeMap::new();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ready = shelf.borrow_and_update().clone();
        let task = Task::new(&ready, around.borrow_and_update().clone());
        let idle = task.is_empty();
        if !idle {
            let at = wall_now();
            let wanted: Vec<&Measured> = task.rules.values().flat_map(Rule::measured).collect();
            tokio::select! {
                () = stopping.cancelled() => break,
                () = known.refresh(&task.seen.live, at, &wanted, &here.ask) => {}
            }
            // In this order: what has been granted since is seen, and wished no second time.
            chains.retain(|_, chain| !chain.is_finished());
            let task = Task::new(&ready, around.borrow_and_update().clone());
            if looked.elapsed() > HOLE_MAX {
                // For how long something has held nobody has seen.
                judge = Judge::new(name());
            }
            looked = Instant::now();
            let now = Time(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
            let silences = here.silences.borrow().clone();
            let silenced =
                |key: &&Key| Silence::of(&silences, &key.app, &key.rule, None, at).is_some();
            let silenced: BTreeSet<Key> = task.rules.keys().filter(silenced).cloned().collect();
            judge.hush(silenced.clone());
            let busy = |key: &Key| chains.contains_key(key);
            for wish in judge.look(now, at, &task.rules, &task.records, busy, &known) {
                let key = wish.key.clone();
                let grant = Grant {
                    here: here.clone(),
                    ready: ready.get(&key.app).cloned().flatten(),
                    waiting: task.seen.waiting.clone(),
                    silenced: silenced.contains(&key),
                };
                chains.insert(key, tokio::spawn(grant.carry_out(wish, tell.clone())));
            }
        }
        tokio::select! {
            () = stopping.cancelled() => break,
            changed = around.changed(), if idle => if changed.is_err() { break },
            changed = shelf.changed(), if idle => if changed.is_err() { break },
            _ = tick.tick(), if !idle => {}
        }
    }
    // What is half done is done again by the next judge.
    chains.into_values().for_each(|chain| chain.abort());
}

/// What this member judges at a moment.
struct Task {
    seen: Around,
    rules: BTreeMap<Key, Rule>,
    records: Vec<Episode>,
}

impl Task {
    fn new(ready: &Shelf, seen: Around) -> Self {
        // What has not been read says nothing, and not that there are no rules.
        let is_known = |app: &AppName| ready.contains_key(app) || seen.gone.contains(app);
        let mine = |app: &AppName| seen.apps.contains(app) && is_known(app);
        let mut rules = BTreeMap::new();
        for (app, ready) in ready.iter().filter(|(app, _)| mine(app)) {
            for (name, rule) in ready.iter().flat_map(|ready| ready.rules.parsed()) {
                if rule.is_wide() {
                    rules.insert(Key { app: app.clone(), rule: name.clone() }, rule);
                }
            }
        }
        let records = seen.episodes.iter().filter(|of| mine(&of.app)).cloned().collect();
        Self { seen, rules, records }
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.records.is_empty()
    }
}

/// What granting a wish takes.
struct Grant {
    here: Here,
    ready: Option<Arc<Ready>>,
    waiting: Vec<MemberId>,
    /// Whether its rule begins without doing anything.
    silenced: bool,
}

impl Grant {
    async fn carry_out(self, wish: Wish, tell: impl Fn(Notice) + Clone + Send + Sync + 'static) {
        let Wish { key, episode, what } = wish;
        let which = Which { app: key.app.clone(), rule: key.rule.clone(), episode };
        let said = |text: String, severity| {
            tell(Notice::Told(Told { severity, app: key.app.clone(), episode: None, text }));
        };
        let act = match what {
            Wanted::Begin { after, rule, why } => {
                let bring = if self.silenced { 0 } else { wide::brings(&rule) };
                Act::Begin(Box::new(Begin {
                    app: which.app.clone(),
                    rule: which.rule.clone(),
                    episode: which.episode,
                    after,
                    sentence: wide::sentence(&rule),
                    severity: rule.severity,
                    why,
                    at: wall_now(),
                    bring,
                    of: if bring == 0 { Vec::new() } else { self.waiting },
                }))
            }
            Wanted::End { why } => Act::End { which, why, at: wall_now() },
            Wanted::Settle => Act::Told { which, said: Said::Over, at: wall_now() },
            Wanted::Forget => Act::Forget { which },
            Wanted::HeldBack { why, .. } => {
                let Key { app, rule } = &key;
                return said(
                    format!(
                        "rule {rule} of {app} would act, and is held back by cooldown or at-most: {why}"
                    ),
                    Severity::Info,
                );
            }
            Wanted::Tell { verdict, rule, of, why } => {
                if let Some(ready) = self.ready {
                    let (here, took) = (self.here.clone(), Took::default());
                    let (changed, _) = mpsc::unbounded_channel();
                    let open = Open {
                        key: key.clone(),
                        episode: of.name,
                        began: of.began,
                        severity: of.severity,
                        why: of.why,
                        took_out: false,
                        sentence: rule.to_string(),
                        put_off: false,
                    };
                    let due = Due { verdict, open, rule, why };
                    let stopped = Took::default();
                    let deed = Deed { here, ready, took, stopped, changed, about: None };
                    acting::carry_out(&deed, &due, &tell).await;
                }
                let said = if verdict == Verdict::End { Said::Over } else { Said::Acts };
                Act::Told { which, said, at: wall_now() }
            }
        };
        // Whoever has been told is told again where that can't be said, so it is tried for long.
        let tries = if matches!(act, Act::Told { .. }) { SAY_TRIES } else { 1 };
        for n in 1..=tries {
            let (answer, answered) = oneshot::channel();
            tell(Notice::Act(act.clone(), answer));
            match answered.await {
                // Another judge was quicker, or this member stops.
                Ok(Ok(_)) | Err(_) => return,
                Ok(Err(refusal)) if refusal.reason == Reason::Conflict => return,
                Ok(Err(Refusal { why, .. })) if n == 1 => {
                    let Key { app, rule } = &key;
                    let text = format!("what rule {rule} of {app} does was not decided: {why}");
                    said(text.trim_end_matches('.').to_owned(), Severity::Warning);
                }
                Ok(Err(_)) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Numbers of all members, by what they are of.
#[derive(Default)]
struct Known {
    at: WallTime,
    numbers: BTreeMap<String, (Instant, Vec<Option<Number>>)>,
}

impl Known {
    /// Asks for all that is `wanted` and not known yet, and forgets the rest.
    async fn refresh(
        &mut self,
        live: &[(MemberId, MemberName)],
        at: WallTime,
        wanted: &[&Measured],
        ask: &Asking,
    ) {
        self.at = at;
        let mut next = BTreeMap::new();
        let mut due: BTreeMap<String, &Measured> = BTreeMap::new();
        for of in wanted {
            let name = of.to_string();
            match self.numbers.remove(&name).filter(|(again, _)| Instant::now() < *again) {
                Some(kept) => drop(next.insert(name, kept)),
                None if next.contains_key(&name) => {}
                None => drop(due.insert(name, of)),
            }
        }
        // All at once, so that a slow member holds up all of it once, and not for long.
        let asked = due.into_iter().map(|(name, of)| async move {
            let pause = (of.window.unwrap_or_default() / 20).clamp(AGAIN.0, AGAIN.1);
            let numbers = tokio::time::timeout(ASK_WITHIN, numbers(live, at, of, ask)).await;
            (name, (Instant::now() + pause, numbers.unwrap_or_else(|_| vec![None])))
        });
        next.extend(join_all(asked).await);
        self.numbers = next;
    }
}

impl Readings for Known {
    fn numbers(&self, of: &Measured) -> Vec<Option<Number>> {
        self.numbers.get(&of.to_string()).map_or_else(|| vec![None], |(_, all)| all.clone())
    }

    fn is_during(&self, during: &During) -> Option<bool> {
        during.holds_at(self.at)
    }
}

/// The numbers of one measurement, as of `at`: one of all members together, or one of each.
async fn numbers(
    live: &[(MemberId, MemberName)],
    at: WallTime,
    of: &Measured,
    ask: &Asking,
) -> Vec<Option<Number>> {
    let unknown = vec![None];
    let series = match &of.what {
        What::Series(series) => series,
        What::Events { kind, app } => return events(live, at, of, (kind, app), ask).await,
        What::From(_) => return came::of_many(live, at, of, &**ask).await,
    };
    let total = of.total();
    let together = of.scope == Scope::Cluster && total.is_none();
    let window = match of.is_spread() {
        // The minute that is under way is not whole, and not in it.
        true => of.window_ms().max(MINUTE_MS) + MINUTE_MS,
        false => ms(of.window.unwrap_or(LATEST)),
    };
    let step = if of.is_spread() { MINUTE_MS } else { (window / 60).clamp(1_000, 60_000) };
    let from = WallTime(at.0.saturating_sub(window));
    let Some(grid) = rollup::grid(at, from, WallTime(at.0 + 1), step) else { return unknown };
    let pattern = std::iter::once(series).chain(&total).map(ToString::to_string);
    let pattern = pattern.collect::<Vec<_>>().join(";");
    let heard = ask(live, &Ask::Series { pattern, grid, spreads: of.is_spread() });
    let asked = Asked { live: live.to_vec(), down: Vec::new() };
    let all = asking::gather(asked, Rows { grid, one: true }, !together, heard).await;
    let is_new = |all: &Aggregate| {
        of.is_spread() || at.0.saturating_sub(all.summary.last_at().0) <= STALE_MS.max(step)
    };
    if together {
        return vec![whole(&all, of, series, is_new)];
    }
    let each = live.iter().map(|(_, name)| {
        if all.is_silent(name) {
            return Some(None);
        }
        // Who does not measure it is no part of it.
        let found = all.of(series, Some(name))?.0;
        let total = total.as_ref().map(|total| Some(all.of(total, Some(name))?.0.summary.last()));
        let value = folded(found, of.fold).filter(|_| is_new(found));
        Some(value.map(|value| Number { value, total: total.flatten() }))
    });
    let each: Vec<Option<Number>> = each.flatten().collect();
    match of.scope {
        Scope::Cluster => vec![of_shares(of.fold, &each)],
        _ => each,
    }
}

/// How many events of one kind were logged: by all members together, or by each.
async fn events(
    live: &[(MemberId, MemberName)],
    at: WallTime,
    of: &Measured,
    (kind, app): (&str, &Option<AppName>),
    ask: &Asking,
) -> Vec<Option<Number>> {
    // Of a kind that there is not, none is not known to have happened.
    let Some(kind) = event_kind(kind) else { return vec![None] };
    let question = EventsQuestion {
        since: Some(WallTime(at.0.saturating_sub(of.window_ms()))),
        until: Some(at),
        kinds: vec![kind],
        app: app.clone(),
        limit: LOGGED_ANSWER_MAX,
        ..EventsQuestion::default()
    };
    let mut heard = ask(live, &Ask::Events(question));
    let mut counts: BTreeMap<MemberName, u32> = BTreeMap::new();
    let mut through = BTreeSet::new();
    while let Some(Heard { member, told }) = heard.recv().await {
        match told {
            services::Told::Event(_) => *counts.entry(member).or_default() += 1,
            services::Told::Done => drop(through.insert(member)),
            _ => {}
        }
    }
    let count = |(_, name): &(MemberId, MemberName)| {
        let count = through.contains(name).then(|| counts.get(name).copied().unwrap_or(0));
        count.map(|count| Number { value: f64::from(count), total: None })
    };
    let each = live.iter().map(count);
    match of.scope {
        Scope::Cluster => {
            let each: Option<Vec<Number>> = each.collect();
            let sum = each.map(|each| each.iter().map(|number| number.value).sum());
            vec![sum.map(|value| Number { value, total: None })]
        }
        _ => each.collect(),
    }
}

/// What all have together. Not known while one that is live has not answered.
fn whole(
    all: &Gathered,
    of: &Measured,
    series: &crate::base::metric::Series,
    is_new: impl Fn(&Aggregate) -> bool,
) -> Option<Number> {
    if all.is_any_silent() {
        return None;
    }
    let (found, together) = all.of(series, None).filter(|(found, _)| is_new(found))?;
    let value = match of.fold {
        Some(Fold::Sum | Fold::Rate) => together,
        fold => folded(found, fold)?,
    };
    Some(Number { value, total: None })
}

/// What rules about the cluster say of its health, the worst first.
pub(in crate::node) fn complaints(
    episodes: &[Episode],
    silences: &[Silence],
) -> Vec<(super::rule::Severity, String)> {
    let said = |of: &Episode| {
        let Episode { app, rule, began, why, .. } = of;
        let hushed = super::marked(Silence::of(silences, app, rule, None, wall_now()));
        Some((of.severity?, format!("Rule {rule} of {app} acts since {began}: {why}{hushed}.")))
    };
    let mut all: Vec<_> = episodes.iter().filter(|of| of.is_open()).filter_map(said).collect();
    all.sort_by(|(a, x), (b, y)| (b, x).cmp(&(a, y)));
    all
}
