//! The routes and what they answer. No decision is made here: a request is
//! parsed, bounded, handed to the member, and its answer is written as JSON.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    gathered, guard,
    operator::{self, Gate},
    page, prometheus,
    source::Source,
    stream,
};
use crate::{
    base::{MemberName, Reason, Refusal, limits},
    member::command::Command,
    node::{
        Ask, Edits, Heard, Publish, SecretEdits, inspect::Question, levels::LevelsQuestion,
        telemetry::asking::SeriesQuestion,
    },
};

/// The largest request body, bytes: a failover list of all members is 270 KB.
const BODY_MAX: usize = 1 << 20;
/// The same for a list of changes: some hundred thousand items.
pub(super) const EDITS_MAX: usize = 64 << 20;
/// The same for secrets: a hundred of 16 KiB, in the widest JSON.
const SECRETS_MAX: usize = 12 << 20;
/// Streams of one door at one time: each costs a view every few seconds.
const STREAMS_MAX: usize = 64;
/// Questions about measurements of one door at one time, and as many about what all members know.
const QUESTIONS_MAX: usize = 8;
/// How long one waits for its turn.
pub(super) const TURN_WITHIN: Duration = Duration::from_secs(3);

/// What every route works on.
#[derive(Clone)]
pub(super) struct Site<S> {
    pub source: S,
    /// Tells this start of the member from others: event numbers begin anew.
    pub start: Arc<str>,
    pub streams: Arc<Semaphore>,
    pub questions: Arc<Semaphore>,
    pub gathering: Arc<Semaphore>,
    pub gate: Arc<Gate>,
    pub shutdown: CancellationToken,
}

impl<S: Source> Site<S> {
    pub fn new(source: S, shutdown: CancellationToken) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            source,
            start: format!("{:x}", now.as_millis()).into(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            gathering: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            gate: Arc::default(),
            shutdown,
        }
    }
}

/// Everything: for the Unix socket.
pub(super) fn full<S: Source>(site: Site<S>) -> Router {
    let router = reads::<S>()
        .route("/api/v1/command", post(command::<S>))
        .route("/api/v1/publish", post(publish::<S>))
        .route(
            "/api/v1/publish-edits",
            post(publish_edits::<S>).layer(DefaultBodyLimit::max(EDITS_MAX)),
        )
        .route("/api/v1/secrets", post(secrets::<S>).layer(DefaultBodyLimit::max(SECRETS_MAX)))
        .route(
            "/api/v1/inspect",
            post(inspect::<S>).layer(DefaultBodyLimit::max(EDITS_MAX)), // a list may be asked about
        )
        .route("/api/v1/services", post(services::<S>))
        .route("/api/v1/checkups", get(gathered::checkups::<S>))
        .route("/api/v1/listening", get(listening::<S>))
        .route("/api/v1/stop", post(stop::<S>));
    finish(router, site)
}

/// What reads, and what an operator may do who shows a token: for the status port.
pub(super) fn status<S: Source>(site: Site<S>) -> Router {
    let checked = middleware::from_fn_with_state(site.clone(), guard::host::<S>);
    // Fallbacks first: a layer covers what is there when it is added.
    let reads = reads::<S>().route("/api/v1/checkups", get(gathered::checkups_for_all::<S>));
    let both = reads.merge(operator::routes(site.clone()));
    let router = with_fallbacks(both).layer(checked);
    router.layer(middleware::from_fn(guard::headers)).with_state(site)
}

fn reads<S: Source>() -> Router<Site<S>> {
    page::routes()
        .route("/metrics", get(prometheus::exposition::<S>))
        .route("/api/v1/view", get(view::<S>))
        .route("/api/v1/events", get(events::<S>))
        .route("/api/v1/metrics", get(metrics::<S>))
        .route("/api/v1/series", get(series::<S>))
        .route("/api/v1/levels", get(levels::<S>))
        .route("/api/v1/log", get(gathered::log::<S>))
        .route("/api/v1/services", get(gathered::services::<S>))
        .route("/api/v1/acting", get(gathered::acting::<S>))
        .route("/api/v1/differs", get(gathered::differs::<S>))
        .route("/api/v1/stream", get(stream::stream::<S>))
}

fn finish<S: Source>(router: Router<Site<S>>, site: Site<S>) -> Router {
    with_fallbacks(router).layer(middleware::from_fn(guard::headers)).with_state(site)
}

fn with_fallbacks<S: Source>(router: Router<Site<S>>) -> Router<Site<S>> {
    router
        .fallback(async || refuse(&no_such_thing()))
        .method_not_allowed_fallback(async || {
            let refusal = Refusal::new(
                Reason::Invalid,
                "This can't be done here.",
                "The address exists, and not for this method.",
                "Read with GET; commands are sent with POST, by the command line.",
            );
            refuse_with(StatusCode::METHOD_NOT_ALLOWED, &refusal)
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

fn no_such_thing() -> Refusal {
    Refusal::new(
        Reason::NotFound,
        "There is nothing at this address.",
        "Reads and commands are those of the documentation, and some exist on the socket alone.",
        "Open / for the status page, or ask /api/v1/view.",
    )
}

async fn command<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parse::<Command>(body) {
        Ok(command) => answer(site.source.command(command, None).await),
        Err(response) => *response,
    }
}

async fn publish<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let publish = match parse::<Publish>(body) {
        Ok(publish) => publish,
        Err(response) => return *response,
    };
    match check(&publish) {
        Ok(()) => answer(site.source.publish(publish, None).await),
        Err(refusal) => refuse(&refusal),
    }
}

/// Whether a directory can be published at all.
pub(super) fn check(publish: &Publish) -> Result<(), Refusal> {
    let invalid = |why: String, todo: &str| {
        Err(Refusal::new(Reason::Invalid, "Nothing was published.", why, todo))
    };
    if !publish.source.is_absolute() {
        return invalid(
            format!("{:?} is not an absolute path.", publish.source),
            "Name the directory from the root: the member has a working directory of its own.",
        );
    }
    if publish.message.len() > limits::TEXT_MAX {
        return invalid(
            format!("The message is longer than {} bytes.", limits::TEXT_MAX),
            "Shorten it.",
        );
    }
    if publish.hosts.len() > limits::HOSTS_MAX {
        return invalid(
            format!("There are more than {} host names.", limits::HOSTS_MAX),
            "Name fewer, or make it the default application.",
        );
    }
    Ok(())
}

async fn publish_edits<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let edits = match parse_within::<Edits>(body, EDITS_MAX) {
        Ok(edits) => edits,
        Err(response) => return *response,
    };
    if edits.message.len() > limits::TEXT_MAX {
        return refuse(&Refusal::new(
            Reason::Invalid,
            "Nothing was published.",
            format!("The message is longer than {} bytes.", limits::TEXT_MAX),
            "Shorten it.",
        ));
    }
    answer(site.source.publish_edits(edits).await)
}

async fn secrets<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parse_within::<SecretEdits>(body, SECRETS_MAX) {
        Ok(edits) if edits.message.len() <= limits::TEXT_MAX => {
            answer(site.source.secrets(edits).await)
        }
        Ok(_) => refuse(&Refusal::new(
            Reason::Invalid,
            "Nothing was published.",
            format!("The message is longer than {} bytes.", limits::TEXT_MAX),
            "Shorten it.",
        )),
        Err(response) => *response,
    }
}

async fn inspect<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parse_within::<Question>(body, EDITS_MAX) {
        Ok(question) => answer(site.source.inspect(question).await),
        Err(response) => *response,
    }
}

/// Who is asked about services, and what.
#[derive(Deserialize)]
pub(super) struct AskMember {
    pub member: Option<MemberName>,
    pub ask: Ask,
}

/// The answer is a line of JSON for each thing that a member tells.
async fn services<S: Source>(
    State(site): State<Site<S>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let AskMember { member, ask } = match parse(body) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    match site.source.services(member, ask).await {
        Ok(heard) => lines(heard, site.shutdown),
        Err(refusal) => refuse(&refusal),
    }
}

/// What members tell, a line for each thing, until `shutdown`.
pub(super) fn lines(heard: mpsc::Receiver<Heard>, shutdown: CancellationToken) -> Response {
    let lines = unfold(Some((heard, shutdown)), async |state| {
        let (mut heard, shutdown) = state?;
        let next = tokio::select! {
            () = shutdown.cancelled() => return None,
            next = heard.recv() => next,
        };
        // Our own types: they always serialise. `null` is the end, which a member that
        // stops does not reach.
        let mut line = serde_json::to_vec(&next).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), next.map(|_| (heard, shutdown))))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn stop<S: Source>(State(site): State<Site<S>>) -> Response {
    site.source.stop().await;
    answer(Ok("stopping"))
}

async fn view<S: Source>(State(site): State<Site<S>>) -> Response {
    read(site.source.view().await)
}

async fn metrics<S: Source>(State(site): State<Site<S>>) -> Response {
    read(site.source.metrics().await)
}

async fn series<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<SeriesQuestion>, QueryRejection>,
) -> Response {
    let question = match query {
        Ok(Query(question)) => question,
        Err(rejection) => {
            let todo =
                "Give a pattern and a beginning: /api/v1/series?series=cpu&from=1760000000000";
            return refuse(&unread("No measurements were read.", &rejection, todo));
        }
    };
    // Each of them may ask every member.
    let Ok(_turn) = site.questions.try_acquire() else {
        return refuse(&crowded("No measurements were read."));
    };
    read(site.source.series(question).await)
}

async fn levels<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<LevelsQuestion>, QueryRejection>,
) -> Response {
    let what = "Who would serve was not looked at.";
    let question = match query {
        Ok(Query(question)) => question,
        Err(rejection) => {
            let todo = "Give a moment in milliseconds since 1970: /api/v1/levels?at=1798153200000";
            return refuse(&unread(what, &rejection, todo));
        }
    };
    // A year ahead is some work.
    let Ok(_turn) = site.questions.try_acquire() else {
        return refuse(&crowded(what));
    };
    read(site.source.levels(question).await)
}

/// That the question can't be read.
pub(super) fn unread(what: &str, rejection: &QueryRejection, todo: &str) -> Refusal {
    let why = format!("The question can't be read: {}.", rejection.body_text());
    Refusal::new(Reason::Invalid, what, why, todo)
}

/// That as many ask all members already as may.
pub(super) fn crowded(what: &str) -> Refusal {
    Refusal::new(
        Reason::Busy,
        what,
        format!("{QUESTIONS_MAX} such questions are under way on this member."),
        "Ask again in a moment, or ask another member.",
    )
}

async fn listening<S: Source>(State(site): State<Site<S>>) -> Response {
    read(Ok(site.source.listening()))
}

/// Since when a reader wants events.
#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn events<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<After>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(After { after })) => read(Ok(site.source.recent_events(after.unwrap_or(0)))),
        Err(rejection) => refuse(&unread(
            "No events were read.",
            &rejection,
            "Give the number of the last event that you have: /api/v1/events?after=17",
        )),
    }
}

pub(super) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Box<Response>> {
    parse_within(body, BODY_MAX)
}

pub(super) fn parse_within<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    most: usize,
) -> Result<T, Box<Response>> {
    let refusal = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            why,
            "Use the command line of the same version, or see the documentation of the API.",
        )
    };
    let body = body.map_err(|rejection| {
        let why = format!("The request's body can't be used (the limit is {most} bytes).");
        Box::new(refuse_with(rejection.status(), &refusal(why)))
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| Box::new(refuse(&refusal(format!("The request can't be read: {error}.")))))
}

/// The answer to something that was to be done.
pub(super) fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    #[derive(Serialize)]
    struct Done<T> {
        ok: T,
    }
    read(result.map(|ok| Done { ok }))
}

/// The answer to a question: the thing itself.
pub(super) fn read<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// A refusal, with the status that says the same to programs.
pub(super) fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal.reason {
        Reason::Invalid => StatusCode::BAD_REQUEST,
        Reason::Forbidden => StatusCode::FORBIDDEN,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::Conflict | Reason::Busy => StatusCode::CONFLICT,
        Reason::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::NoMajority => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse_with(status, refusal)
}

/// A refusal under a status that HTTP has a finer word for.
pub(super) fn refuse_with(status: StatusCode, refusal: &Refusal) -> Response {
    #[derive(Serialize)]
    struct Refused<'a> {
        error: &'a Refusal,
    }
    (status, Json(Refused { error: refusal })).into_response()
}
