//! What is done about one episode: each action in its order, each with what came of it.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use super::{Here, Notice, Ready, Told, Took, locked};
use crate::{
    base::{MemberName, Reason, Refusal},
    driver::actions::{
        self, ActionError, Done, State, mail,
        script::{self, Call},
        webhook,
    },
    member::event::Severity,
    node::start::wall_now,
    proto::rule::{Action, bench::Due, judge::Verdict},
};

/// What carrying out takes.
pub(super) struct Deed {
    pub here: Here,
    pub ready: Arc<Ready>,
    pub took: Took,
    /// Something is to be kept.
    pub changed: mpsc::UnboundedSender<()>,
}

/// Carries out what is due.
pub(super) async fn carry_out(deed: &Deed, due: &Due, tell: &(impl Fn(Notice) + Sync)) {
    for action in &due.rule.then {
        let came = one(deed, due, action, tell).await;
        let (severity, text) = match came {
            Came::Nothing => continue,
            Came::Done(text) => (Severity::Info, text),
            Came::Failed(text) => (Severity::Warning, text),
        };
        tell(Notice::Told(Told {
            severity,
            app: due.open.key.app.clone(),
            episode: Some(due.open.episode.clone()),
            text: format!("rule {}: {action}: {text}", due.open.key.rule),
        }));
    }
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
        // Wide rules alone say `in`, and these are not judged here.
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
        member: Some(names.member.clone()),
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
        Verdict::End => match ask(|answer| tell(Notice::Back(answer))).await {
            Ok(was_out) => {
                took(deed, episode, false);
                match was_out {
                    true => Came::Done("this member is in service again".to_owned()),
                    false => Came::Nothing, // it is so already
                }
            }
            Err(refusal) => Came::Failed(format!(
                "this member stays out of service, because {}; use `althing resume`",
                clause(&refusal.why)
            )),
        },
        _ => {
            if !has_taken {
                took(deed, episode, true);
            }
            let keep = due.rule.options.keep.unwrap_or(0);
            let because = episode.clone();
            match ask(|answer| tell(Notice::Out { keep, because, answer })).await {
                Ok(true) => Came::Done("this member is out of service".to_owned()),
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
