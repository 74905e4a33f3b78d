//! What all members tell, put together to one answer: their logs, their services, the rules
//! that act there. And what one of them tells: in which files it differs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    routes::{self, Site, TURN_WITHIN},
    source::Source,
};
use crate::{
    base::{AppName, MemberName, Reason, Refusal, WallTime},
    driver::services::ServiceStatus,
    member::{
        event::{EventKind, Severity},
        view::View,
    },
    node::{
        Ask, Told,
        checkup::{Checkup, Checkups, Examined},
        differs::Differs,
        telemetry::asking::{EventsQuestion, Silent},
        wall_now,
    },
    proto::rule::bench::Open,
    store::events::Logged,
};

/// Events in one answer, and as many if nothing else is said.
const LOG_MAX: usize = 1_000;
/// Services, or rules that act, in one answer.
const TOLD_MAX: usize = 20_000;
/// How long one member has to say in which files it differs.
const DIFFERS_WITHIN: Duration = Duration::from_secs(10);

/// One thing that a member tells.
#[derive(Serialize)]
struct Of<T> {
    member: MemberName,
    #[serde(flatten)]
    told: T,
}

/// An event, and whose log it is in: it has a member that it is about.
#[derive(Serialize)]
struct Entry {
    from: MemberName,
    #[serde(flatten)]
    logged: Box<Logged>,
}

/// The newest ones, newest first.
fn newest(events: &mut Vec<Entry>, limit: usize) {
    let key = |one: &Entry| (Reverse(one.logged.event.at), Reverse(one.logged.id));
    events.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.from.cmp(&b.from)));
    events.truncate(limit);
}

/// Asks all members that are live, and takes what each tells until it is through. Returns who
/// didn't tell, or not all; those that are down are among them.
async fn gather<S: Source>(
    site: &Site<S>,
    ask: Ask,
    mut take: impl FnMut(MemberName, Told),
) -> Result<Vec<Silent>, Refusal> {
    let turn = timeout(TURN_WITHIN, site.gathering.acquire()).await;
    let _turn = turn.map_err(|_| routes::crowded("Nobody was asked."))?;
    let mut heard = site.source.services(None, ask).await?;
    let (mut known, mut silent) = (BTreeSet::new(), BTreeMap::new());
    while let Some(part) = heard.recv().await {
        match part.told {
            Told::Refused(refusal) => drop(silent.insert(part.member, refusal.why)),
            told => {
                if !known.contains(&part.member) {
                    known.insert(part.member.clone());
                }
                take(part.member, told);
            }
        }
    }
    // Nobody waits for those that are down, and nobody is to forget them.
    let view = site.source.view().await?;
    for name in down(&view).filter_map(|name| MemberName::parse(name).ok()) {
        if !known.contains(&name) {
            silent.entry(name).or_insert_with(|| DOWN.to_owned());
        }
    }
    Ok(silent.into_iter().map(|(member, why)| Silent { member, why }).collect())
}

/// Why a member that is down says nothing.
const DOWN: &str = "It is down.";

/// The names of those that are.
fn down(view: &View) -> impl Iterator<Item = &str> {
    let members = view.members.iter();
    let down = members.filter(|member| !matches!(member.state.as_str(), "alive" | "suspect"));
    down.map(|member| member.name.as_str())
}

/// Which events are asked for.
#[derive(Deserialize)]
pub(super) struct LogQuestion {
    since: Option<WallTime>,
    until: Option<WallTime>,
    kind: Option<EventKind>,
    severity: Option<Severity>,
    app: Option<AppName>,
    about: Option<MemberName>,
    limit: Option<usize>,
}

/// The newest events of all members, newest first.
pub(super) async fn log<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<LogQuestion>, QueryRejection>,
) -> Response {
    #[derive(Serialize)]
    struct Log {
        events: Vec<Entry>,
        silent: Vec<Silent>,
    }
    let question = match query {
        Ok(Query(question)) => question,
        Err(rejection) => {
            let todo = "Give a moment in milliseconds since 1970, and how many: \
                        /api/v1/log?since=1760000000000&limit=100";
            return routes::refuse(&routes::unread("No events were read.", &rejection, todo));
        }
    };
    let limit = question.limit.unwrap_or(LOG_MAX).clamp(1, LOG_MAX);
    let asked = EventsQuestion {
        since: question.since,
        until: question.until,
        kinds: question.kind.into_iter().collect(),
        severity: question.severity,
        app: question.app,
        about: question.about,
        limit,
        ..EventsQuestion::default()
    };
    let mut events = Vec::new();
    let gathered = gather(&site, Ask::Events(asked), |from, told| {
        if let Told::Event(logged) = told {
            events.push(Entry { from, logged });
            // A thousand members may tell a thousand each.
            if events.len() >= 4 * LOG_MAX {
                newest(&mut events, limit);
            }
        }
    });
    let gathered = gathered.await;
    newest(&mut events, limit);
    routes::read(gathered.map(|silent| Log { events, silent }))
}

/// How the services of all members are.
pub(super) async fn services<S: Source>(State(site): State<Site<S>>) -> Response {
    #[derive(Serialize)]
    struct Services {
        services: Vec<Of<ServiceStatus>>,
        silent: Vec<Silent>,
    }
    let mut services: Vec<Of<ServiceStatus>> = Vec::new();
    let gathered = gather(&site, Ask::Status { app: None }, |member, told| match told {
        Told::Status(told) if services.len() < TOLD_MAX => services.push(Of { member, told }),
        _ => {}
    });
    let gathered = gathered.await;
    services.sort_by(|Of { member: m, told: a }, Of { member: n, told: b }| {
        (&a.app, &a.service, m).cmp(&(&b.app, &b.service, n))
    });
    routes::read(gathered.map(|silent| Services { services, silent }))
}

/// The rules that act about single members, where they are judged.
pub(super) async fn acting<S: Source>(State(site): State<Site<S>>) -> Response {
    #[derive(Serialize)]
    struct Acting {
        acting: Vec<Of<Box<Open>>>,
        silent: Vec<Silent>,
    }
    let mut acting: Vec<Of<Box<Open>>> = Vec::new();
    let gathered = gather(&site, Ask::Acting, |member, told| match told {
        Told::Acting(told) if acting.len() < TOLD_MAX => acting.push(Of { member, told }),
        _ => {}
    });
    let gathered = gathered.await;
    acting.sort_by(|a, b| (a.told.began, &a.member).cmp(&(b.told.began, &b.member)));
    routes::read(gathered.map(|silent| Acting { acting, silent }))
}

/// What all members find out about their machines.
pub(super) async fn checkups<S: Source>(State(site): State<Site<S>>) -> Response {
    routes::read(examined(&site).await)
}

/// The same without what would help somebody who means harm.
pub(super) async fn checkups_for_all<S: Source>(State(site): State<Site<S>>) -> Response {
    let mut told = examined(&site).await;
    for member in told.iter_mut().flat_map(|told| &mut told.members) {
        let Checkup { data_mode, open_files_max, receive_max, .. } = &mut member.found;
        (*data_mode, *open_files_max, *receive_max) = (None, None, None);
    }
    routes::read(told)
}

async fn examined<S: Source>(site: &Site<S>) -> Result<Checkups, Refusal> {
    let mut members = Vec::new();
    let asked = wall_now();
    let silent = gather(site, Ask::Checkup, |member, told| match told {
        Told::Checkup(found) if members.len() < TOLD_MAX => {
            members.push(Examined::new(member, *found, asked, wall_now()));
        }
        _ => {}
    });
    let silent = silent.await?;
    members.sort_by(|a, b| a.member.cmp(&b.member));
    Ok(Checkups { members, silent })
}

/// About what one member is asked.
#[derive(Deserialize)]
pub(super) struct DiffersQuestion {
    app: AppName,
    member: MemberName,
}

/// In which files what stands on one member differs.
pub(super) async fn differs<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<DiffersQuestion>, QueryRejection>,
) -> Response {
    #[derive(Serialize)]
    struct Answer {
        member: MemberName,
        told: Option<Differs>,
        silent: Vec<Silent>,
    }
    let question = match query {
        Ok(Query(question)) => question,
        Err(rejection) => {
            let todo = "Name an application and a member: /api/v1/differs?app=web&member=alpha";
            return routes::refuse(&routes::unread(NOT_COMPARED, &rejection, todo));
        }
    };
    let member = question.member.clone();
    routes::read(ask_one(&site, question).await.map(|told| match told {
        Ok(told) => Answer { member, told: Some(told), silent: Vec::new() },
        Err(why) => {
            Answer { member: member.clone(), told: None, silent: vec![Silent { member, why }] }
        }
    }))
}

const NOT_COMPARED: &str = "Nothing was compared.";

/// What one member tells, or why it tells nothing.
async fn ask_one<S: Source>(
    site: &Site<S>,
    DiffersQuestion { app, member }: DiffersQuestion,
) -> Result<Result<Differs, String>, Refusal> {
    let turn = timeout(TURN_WITHIN, site.gathering.acquire()).await;
    let _turn = turn.map_err(|_| routes::crowded(NOT_COMPARED))?;
    let view = site.source.view().await?;
    let publication = view.window.as_ref().and_then(|window| window.publication.as_ref());
    let mut apps = view.applications.iter().map(|app| &app.name);
    if !apps.any(|name| name == app.as_str())
        && publication.is_none_or(|publication| publication.app != app.as_str())
    {
        return Err(Refusal::new(
            Reason::NotFound,
            NOT_COMPARED,
            format!("No application is named {app}."),
            "See /api/v1/view, or `althing apps`, for those that there are.",
        ));
    }
    if down(&view).any(|name| name == member.as_str()) {
        return Ok(Err(DOWN.to_owned()));
    }
    let mut heard = site.source.services(Some(member), Ask::Differs { app }).await?;
    let told = timeout(DIFFERS_WITHIN, async {
        while let Some(part) = heard.recv().await {
            match part.told {
                Told::Differs(told) => return Ok(told.bounded()),
                Told::Refused(refusal) => return Err(format!("{} {}", refusal.why, refusal.todo)),
                _ => {}
            }
        }
        Err("It said nothing of it.".to_owned())
    });
    let late = || format!("It was not through within {} s.", DIFFERS_WITHIN.as_secs());
    Ok(told.await.unwrap_or_else(|_| Err(late())))
}
