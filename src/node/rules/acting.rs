//! What is done about one episode: each action in its order, each with what came of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Here, Notice, Ready, Told, Took, locked};
use crate::{
    base::{MemberName, Reason, Refusal},
    driver::actions::{
        self, ActionError, Done, State, mail,
        script::{self, Call},
        webhook,
    },
    member::event::Severity,
    node::{
        services::{self, Ask, Heard},
        start::wall_now,
    },
    proto::rule::{Action, bench::Due, judge::Verdict},
};

/// What carrying out takes.
pub(super) struct Deed {
    pub here: Here,
    pub ready: Arc<Ready>,
    pub took: Took,
    /// Episodes of which nothing is done, because it would be on many members at once.
    pub stopped: Took,
    /// Something is to be kept.
    pub changed: mpsc::UnboundedSender<()>,
    /// The member that it is about; none if it is about the cluster.
    pub about: Option<String>,
}

/// How long what is under way may take to finish on a member that goes out of service.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const DRAIN_LOOK: Duration = Duration::from_millis(250);
/// How long others have to say whether the same rule acts on them.
const SAY_WITHIN: Duration = Duration::from_secs(8);
/// How often, and how many times, a member asks whether it may go out of service: for longer than
/// another one may take to be through.
const TURN: (Duration, u32) = (Duration::from_secs(5), 25);

/// Carries out what is due.
pub(super) async fn carry_out(deed: &Deed, due: &Due, tell: &(impl Fn(Notice) + Sync)) {
    let (key, episode) = (&due.open.key, &due.open.episode);
    let say = |severity, text: String| {
        tell(Notice::Told(Told {
            severity,
            app: key.app.clone(),
            episode: Some(episode.clone()),
            text: format!("rule {}: {text}", key.rule),
        }));
    };
    let moves = due.rule.then.iter().any(has_effect);
    if moves && due.verdict == Verdict::Begin && deed.about.is_some() {
        let (hit, all) = hit(deed, due).await;
        if is_many(hit, all) {
            locked(&deed.stopped).insert(episode.clone());
            took(deed, episode, false);
            say(
                Severity::Critical,
                format!(
                    "it acts, or may act, on {hit} of {all} members at once: that is no matter of \
                     single members, so nothing is done about them, and those to be told are told"
                ),
            );
        }
    }
    let is_stopped = locked(&deed.stopped).contains(episode);
    for action in &due.rule.then {
        if is_stopped && has_effect(action) {
            continue;
        }
        let came = one(deed, due, action, tell).await;
        let (severity, text) = match came {
            Came::Nothing => continue,
            Came::Done(text) => (Severity::Info, text),
            Came::Failed(text) => (Severity::Warning, text),
        };
        say(severity, format!("{action}: {text}"));
    }
    if due.verdict == Verdict::End {
        locked(&deed.stopped).remove(episode);
    }
}

/// Whether it does more than to tell somebody.
fn has_effect(action: &Action) -> bool {
    matches!(action, Action::Out | Action::Restart { .. } | Action::Sync(_) | Action::Run(_))
}

/// Whether so many are too many for a rule to do something about each of them: more than one, and
/// half of all.
fn is_many(hit: usize, all: usize) -> bool {
    hit > 1 && hit * 2 >= all
}

/// On how many members the rule acts, this one among them, and how many there are. Of whoever does
/// not say it is not known that it does not.
async fn hit(deed: &Deed, due: &Due) -> (usize, usize) {
    let me = &deed.here.names.borrow().member.clone();
    let mut others = deed.here.around.borrow().live.clone();
    others.retain(|(_, name)| name.as_str() != me);
    let mut unhurt: BTreeSet<MemberName> = BTreeSet::new();
    let mut hurt: BTreeSet<MemberName> = BTreeSet::new();
    let mut heard = (deed.here.ask)(&others, &Ask::Acting);
    let until = Instant::now() + SAY_WITHIN;
    while let Ok(Some(Heard { member, told })) = timeout_at(until, heard.recv()).await {
        match told {
            services::Told::Acting(open) if open.key == due.open.key => drop(hurt.insert(member)),
            services::Told::Done => drop(unhurt.insert(member)),
            _ => {}
        }
    }
    let unhurt = unhurt.difference(&hurt).count();
    (1 + others.len().saturating_sub(unhurt), 1 + others.len())
}

/// What came of an action: sentences without their point.
enum Came {
    /// There was nothing to do.
    Nothing,
    Done(String),
    Failed(String),
}

impl From<Result<Done, ActionError>> for Came {
    fn from(result: Result<Done, ActionError>) -> Self {
        match result {
            Ok(Done { said, tries }) => {
                let tries = if tries > 1 { format!(" ({tries} tries)") } else { String::new() };
                let said = if said.is_empty() { said } else { format!(": {said}") };
                Self::Done(format!("done{tries}{said}"))
            }
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

async fn one(deed: &Deed, due: &Due, action: &Action, tell: &(impl Fn(Notice) + Sync)) -> Came {
    let begins = due.verdict == Verdict::Begin;
    let undefined = |what: &str| Came::Failed(format!("there is no such {what} in the manifest"));
    match action {
        Action::Log => Came::Nothing, // the event is there already
        Action::Mail(name) => {
            let rules = &deed.ready.rules;
            match rules.mail.iter().find(|(of, _)| of.as_str() == name) {
                Some((_, mail)) => {
                    let (mail, notice) = (mail.clone(), notice(deed, due));
                    blocking(deed, move |ready| {
                        static TERMS: OnceLock<mail::Terms> = OnceLock::new();
                        let terms = TERMS.get_or_init(mail::Terms::usual);
                        mail::send(&mail, &notice, &ready.secrets, terms)
                    })
                    .await
                }
                None => undefined("mail"),
            }
        }
        Action::Webhook(name) => {
            let rules = &deed.ready.rules;
            match rules.webhook.iter().find(|(of, _)| of.as_str() == name) {
                Some((_, webhook)) => {
                    let (webhook, notice) = (webhook.clone(), notice(deed, due));
                    blocking(deed, move |ready| {
                        let terms = webhook::Terms::usual();
                        webhook::post(&webhook, &notice, &ready.secrets, &terms)
                    })
                    .await
                }
                None => undefined("webhook"),
            }
        }
        Action::Run(name) => run(deed, due, name).await,
        Action::Out => out(deed, due, tell).await,
        Action::Restart { app, service } if begins => {
            match deed.here.supervisor.restart(app, service.as_ref()) {
                0 => Came::Failed("no such service runs here".to_owned()),
                _ => Came::Done("it is started again".to_owned()),
            }
        }
        Action::Sync(app) if begins => {
            tell(Notice::Sync(app.clone()));
            Came::Done("all of it is compared".to_owned())
        }
        // Who comes in and goes out again is a part of the change that begins or ends it.
        Action::Restart { .. } | Action::Sync(_) | Action::In(_) => Came::Nothing,
    }
}

fn notice(deed: &Deed, due: &Due) -> actions::Notice {
    let names = deed.here.names.borrow().clone();
    actions::Notice {
        episode: due.open.episode.clone(),
        rule: due.open.key.rule.to_string(),
        app: due.open.key.app.clone(),
        cluster: names.cluster,
        member: deed.about.clone(),
        severity: due.rule.severity,
        state: match due.verdict {
            Verdict::End => State::End,
            Verdict::Repeat => State::Repeat,
            Verdict::Begin | Verdict::HeldBack => State::Begin,
        },
        at: wall_now(),
        text: due.why.clone(),
        judged_by: names.member,
    }
}

/// Runs `work` on a thread that may block.
async fn blocking(
    deed: &Deed,
    work: impl FnOnce(&Ready) -> Result<Done, ActionError> + Send + 'static,
) -> Came {
    let ready = Arc::clone(&deed.ready);
    match tokio::task::spawn_blocking(move || work(&ready)).await {
        Ok(result) => result.into(),
        Err(_) => Came::Failed("it ended before its time; please report this".to_owned()),
    }
}

async fn run(deed: &Deed, due: &Due, name: &str) -> Came {
    let Ready { active, rules, secrets, settings } = &*deed.ready;
    let found = rules.script.iter().find(|(of, _)| of.as_str() == name);
    let notice = notice(deed, due);
    let member = MemberName::parse(&notice.judged_by);
    let (Some((name, script)), Ok(member)) = (found, member) else {
        return Came::Failed("there is no such script in the manifest".to_owned());
    };
    let call = Call {
        app: active.app.clone(),
        name: name.clone(),
        version: active.version,
        live: active.live.clone(),
        member,
        script: script.clone(),
        settings: settings.clone(),
        secrets: secrets.clone(),
        notice,
    };
    script::run(&deed.here.supervisor, call).await.into()
}

/// Out of service while the episode lasts, and back when it is over, if it was this that did it.
async fn out(deed: &Deed, due: &Due, tell: &impl Fn(Notice)) -> Came {
    let episode = &due.open.episode;
    let has_taken = locked(&deed.took).contains(episode);
    match due.verdict {
        Verdict::End if !has_taken => Came::Nothing,
        Verdict::End if locked(&deed.took).len() > 1 => {
            took(deed, episode, false);
            Came::Done("this member stays out of service, as another rule says so".to_owned())
        }
        Verdict::End => match ask(|answer| tell(Notice::Back(answer))).await {
            Ok(was_out) => {
                took(deed, episode, false);
                match was_out {
                    true => Came::Done("this member is where it was before".to_owned()),
                    false => Came::Nothing, // it is so already
                }
            }
            // It is tried again for as long as the catalog says that a rule took it out.
            Err(refusal) => Came::Failed(format!(
                "this member is still out of service, because {}; it is tried again",
                clause(&refusal.why)
            )),
        },
        _ => {
            if !has_taken {
                took(deed, episode, true);
            }
            let keep = due.rule.options.keep.unwrap_or(0);
            let go = || ask(|answer| tell(Notice::Out { keep, because: episode.clone(), answer }));
            let mut asked = go().await;
            for _ in 1..TURN.1 {
                let is_busy = |refusal: &Refusal| refusal.reason == Reason::Busy;
                if !asked.as_ref().is_err_and(is_busy) {
                    break;
                }
                tokio::time::sleep(TURN.0).await;
                asked = go().await;
            }
            match asked {
                Ok(true) => drained(deed, tell).await,
                Ok(false) if due.verdict == Verdict::Repeat && has_taken => Came::Nothing,
                // Somebody else's doing, which is theirs to undo.
                Ok(false) => {
                    took(deed, episode, false);
                    Came::Done("this member was out of service already".to_owned())
                }
                Err(refusal) => {
                    // Any other refusal may come of a change that is made all the same.
                    if refusal.reason == Reason::Forbidden {
                        took(deed, episode, false);
                    }
                    let why = clause(&refusal.why);
                    Came::Failed(format!("this member was not taken out of service, because {why}"))
                }
            }
        }
    }
}

/// Waits for what is under way here, and lets the next one go then.
async fn drained(deed: &Deed, tell: &impl Fn(Notice)) -> Came {
    let endpoints = deed.here.supervisor.endpoints();
    let until = Instant::now() + DRAIN_WITHIN;
    while endpoints.under_way() > 0 && Instant::now() < until {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    let left = endpoints.under_way();
    // Where it can't be said the next one goes all the same, a little later.
    let _late = ask(|answer| tell(Notice::Drained(answer))).await;
    Came::Done(match left {
        0 => "this member is out of service, and nothing is under way there".to_owned(),
        left => format!(
            "this member is out of service, and {left} requests or connections are still under way \
             there after {} s",
            DRAIN_WITHIN.as_secs()
        ),
    })
}

fn took(deed: &Deed, episode: &str, out: bool) {
    let mut episodes = locked(&deed.took);
    if out {
        episodes.insert(episode.to_owned());
    } else {
        episodes.remove(episode);
    }
    drop(episodes);
    // Nobody keeps it while the member stops: it does so itself at the end.
    let _stopping = deed.changed.send(());
}

async fn ask(put: impl FnOnce(oneshot::Sender<Result<bool, Refusal>>)) -> Result<bool, Refusal> {
    let (answer, answered) = oneshot::channel();
    put(answer);
    answered.await.unwrap_or_else(|_| {
        Err(Refusal::new(
            Reason::Failed,
            "It is not known whether it was done.",
            "This member stops.",
            "Look again when it runs.",
        ))
    })
}

/// A sentence as a part of another one.
fn clause(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_few_and_less_than_half_of_many_are_helped() {
        for (hit, all) in [(1, 1), (1, 2), (1, 3), (2, 5), (4, 10)] {
            assert!(!is_many(hit, all), "{hit} of {all}");
        }
        for (hit, all) in [(2, 2), (2, 3), (2, 4), (5, 10), (10, 10)] {
            assert!(is_many(hit, all), "{hit} of {all}");
        }
    }
}
