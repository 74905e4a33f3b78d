//! What operators do at the status port: each shows a token, and each act is told by an event
//! before it is done.
//!
//! Over plain HTTP a token is taken only over the loopback interface, where no wire carries it:
//! from elsewhere one comes through `ssh -L`. Over TLS it is taken from everywhere, with every
//! other check as it is. A page of somebody else that a
//! browser on the same machine has open can't act: it has no token, a browser says where a
//! request comes from (`Origin`, `Sec-Fetch-Site`), and one with the content type of JSON is
//! sent across origins only where a preflight allows it, which nothing here does (Fetch
//! standard, "CORS protocol").

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    bring,
    permit::{self, Permit},
    routes::{self, AskMember, EDITS_MAX, Site},
    source::Source,
};
use crate::{
    base::{
        AppName, OperatorName, Reason, Refusal, WallTime,
        operator::{Operator, OperatorToken},
    },
    gateway::PortCertificate,
    member::{
        command::{By, Command},
        event::Severity,
    },
    node::{
        Acted, Ask, Publish,
        inspect::Question,
        uploads::{Act, lists::MEDIA_TYPE},
        wall_now,
    },
};

/// Tokens that are none which are looked at and told of in [`FAILURES_WITHIN`].
const FAILURES_MAX: usize = 10;
/// See [`FAILURES_MAX`].
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// Acts under way at one time. They end though whoever wanted them has gone.
const ACTS_MAX: usize = 16;
/// Of the reason for a refusal, so many characters stand in its event.
const WHY_MAX: usize = 500;

/// Who is connected.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// What it was shown, if it came by TLS.
    pub certificate: Option<Arc<PortCertificate>>,
}

impl Peer {
    /// Whether nobody on the way sees a token: there is none, or it is encrypted.
    fn is_private(&self) -> bool {
        self.certificate.is_some() || self.address.ip().to_canonical().is_loopback()
    }
}

/// What operators have in common.
pub(super) struct Gate {
    /// When tokens that are none were shown.
    failures: Mutex<VecDeque<Instant>>,
    acts: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { failures: Mutex::default(), acts: Arc::new(Semaphore::new(ACTS_MAX)) }
    }
}

impl Gate {
    /// Whether one more failure is still looked at.
    fn fails(&self, now: Instant) -> bool {
        // A poisoned lock means that somebody panicked in here: the times are whole.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        while failures.front().is_some_and(|at| now.duration_since(*at) >= FAILURES_WITHIN) {
            failures.pop_front();
        }
        let more = failures.len() < FAILURES_MAX;
        if more {
            failures.push_back(now);
        }
        more
    }
}

/// What a body is in. Both are kinds that a page of another site can't send without being let
/// (Fetch standard, "CORS-safelisted request-header").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    Json,
    /// Lists of content, and content itself.
    Lists,
}

impl BodyKind {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lists => MEDIA_TYPE,
        }
    }
}

/// The routes, each behind [`admit`].
pub(super) fn routes<S: Source>(site: Site<S>) -> Router<Site<S>> {
    let behind = |kind| middleware::from_fn_with_state((site.clone(), kind), admit::<S>);
    let json = Router::new()
        .route("/api/v1/whoami", get(whoami::<S>))
        .route("/api/v1/command", post(command::<S>))
        .route("/api/v1/publish", post(publish::<S>))
        .route("/api/v1/inspect", post(inspect::<S>).layer(DefaultBodyLimit::max(EDITS_MAX)))
        .route("/api/v1/services", post(services::<S>))
        .merge(bring::ends())
        .route_layer(behind(BodyKind::Json));
    json.merge(bring::lists().route_layer(behind(BodyKind::Lists)))
}

/// Lets operators through, before anything of a body is read.
async fn admit<S: Source>(
    State((site, kind)): State<(Site<S>, BodyKind)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    let fine = check(peer, request.method(), request.headers(), kind);
    let admitted = match fine {
        Ok(peer) => identify(&site, peer, request.headers()).await,
        Err(response) => Err(response),
    };
    match admitted {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(response) => *response,
    }
}

/// Whether a request with a token may come in this way at all.
fn check(
    peer: Option<&Peer>,
    method: &Method,
    headers: &HeaderMap,
    kind: BodyKind,
) -> Result<SocketAddr, Box<Response>> {
    let forbidden = |why: &str, todo: &str| {
        let refusal = Refusal::new(Reason::Forbidden, "Nothing was done.", why, todo);
        Box::new(routes::refuse(&refusal))
    };
    let Some(peer) = peer.filter(|peer| peer.is_private()) else {
        return Err(forbidden(
            "Operators are listened to on the loopback interface only: this port speaks plain \
             HTTP, and a token would be seen by everybody on the way.",
            "Run `ssh -L 7780:127.0.0.1:7780 SERVER`, and use 127.0.0.1:7780 here; or start the \
             member with a certificate, `althing up --status-cert FILE --status-key FILE`.",
        ));
    };
    if !is_own(headers, peer.certificate.is_some()) {
        return Err(forbidden(
            "The request comes from a page of another site.",
            "Open the status page of this member itself, or use the command line.",
        ));
    }
    if method == Method::POST && !says(headers, kind) {
        let (what, media_type) = match kind {
            BodyKind::Json => ("JSON", kind.media_type()),
            BodyKind::Lists => ("lists of content", kind.media_type()),
        };
        return Err(Box::new(routes::refuse_with(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &Refusal::new(
                Reason::Invalid,
                "Nothing was done.",
                format!("The request does not say that it is {what}."),
                format!("Send it with `Content-Type: {media_type}`."),
            ),
        )));
    }
    Ok(peer.address)
}

/// Whether what a browser says of where a request comes from is this port, which is `secure` if it
/// speaks TLS. Programs say nothing.
fn is_own(headers: &HeaderMap, secure: bool) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let scheme = if secure { "https" } else { "http" };
    let own = format!("{scheme}://{host}");
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let mut sites = headers.get_all("sec-fetch-site").iter();
    origins.all(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
        && sites.all(|site| site == "same-origin" || site == "none")
}

/// Whether a request says that its body is of this kind.
fn says(headers: &HeaderMap, body: BodyKind) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case(body.media_type())
}

/// What a request is allowed by: `Bearer` and the token (RFC 6750, 2.1).
fn token_of(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (one, None) = (given.next()?, given.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Whose token it is.
async fn identify<S: Source>(
    site: &Site<S>,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Result<Operator, Box<Response>> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Err(unauthorized("No token was shown."));
    }
    let found = match token_of(headers).and_then(OperatorToken::parse) {
        Some(token) => site.source.operator(token.hash()).await,
        None => Ok(None),
    };
    let (told, why) = match found {
        Ok(Some(operator)) if !operator.is_over(wall_now()) => return Ok(operator),
        Ok(Some(Operator { name, until, .. })) => {
            let until = until.map_or(String::new(), |until| format!(" at {until}"));
            (format!("the token of operator {name}, which expired{until},"), "It has expired.")
        }
        Ok(None) => {
            let why = "No operator of this cluster has it, or it was removed.";
            ("a token that is none".to_owned(), why)
        }
        Err(refusal) => return Err(Box::new(routes::refuse(&refusal))),
    };
    // A token that counts is let in however many others are tried: nobody finds one by trying,
    // and nobody is to keep operators out by that.
    if !site.gate.fails(Instant::now()) {
        return Err(too_many());
    }
    let text = format!("{told} was shown at the status port, from {peer}, and refused");
    let severity = Severity::Warning;
    let acted = Acted { severity, app: None, text, cause: None, operator: None };
    if let Err(refusal) = site.source.acted(acted).await {
        return Err(Box::new(routes::refuse(&refusal)));
    }
    Err(unauthorized(why))
}

fn unauthorized(why: &str) -> Box<Response> {
    let mut response = routes::refuse_with(
        StatusCode::UNAUTHORIZED,
        &Refusal::new(
            Reason::Forbidden,
            "Nothing was done.",
            format!("An operator's token is needed here. {why}"),
            "Show the token that `althing operator add NAME` printed on a member.",
        ),
    );
    let bearer = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    Box::new(response)
}

fn too_many() -> Box<Response> {
    let mut response = routes::refuse_with(
        StatusCode::TOO_MANY_REQUESTS,
        &Refusal::new(
            Reason::Busy,
            "Nothing was done.",
            format!(
                "More than {FAILURES_MAX} tokens that are none were shown here within {} seconds.",
                FAILURES_WITHIN.as_secs()
            ),
            "Look for what shows them, and try again in a minute.",
        ),
    );
    let after = HeaderValue::from(FAILURES_WITHIN.as_secs());
    response.headers_mut().insert(header::RETRY_AFTER, after);
    Box::new(response)
}

async fn whoami<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
) -> Response {
    #[derive(Serialize)]
    struct Who {
        operator: OperatorName,
        expires: Option<WallTime>,
        member: String,
    }
    let Operator { name, until, .. } = operator;
    let view = site.source.view().await;
    routes::read(view.map(|view| Who { operator: name, expires: until, member: view.me }))
}

async fn command<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let command = match routes::parse::<Command>(body) {
        Ok(command) => command,
        Err(response) => return *response,
    };
    let app = match &command {
        Command::Rollback { app, .. } | Command::Resolve { app, .. } => Some(app.clone()),
        Command::Silence { app, .. } | Command::Unsilence { app, .. } => app.clone(),
        _ => None,
    };
    let permit = permit::command(&command);
    carry_out(site, &operator, app, permit, move |source: S, by| async move {
        source.command(command, by).await
    })
    .await
}

async fn publish<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let publish = match routes::parse::<Publish>(body) {
        Ok(publish) => publish,
        Err(response) => return *response,
    };
    let permit = routes::check(&publish).map(|()| permit::publish(&publish));
    let app = publish.app.clone();
    carry_out(site, &operator, app, permit, move |source: S, by| async move {
        source.publish(publish, by).await
    })
    .await
}

async fn inspect<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let question = match routes::parse_within::<Question>(body, EDITS_MAX) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    let permit = permit::question(&question);
    let app = Some(question.app().clone());
    carry_out(site, &operator, app, permit, move |source: S, _| async move {
        source.inspect(question).await
    })
    .await
}

async fn services<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let AskMember { member, ask } = match routes::parse(body) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    let app = match &ask {
        Ask::Restart { app, .. } => Some(app.clone()),
        _ => None,
    };
    let permit = permit::ask(member.as_ref(), &ask);
    let shutdown = site.shutdown.clone();
    let heard = done(site, &operator, app, permit, move |source: S, _| async move {
        source.services(member, ask).await
    });
    match heard.await {
        Ok(heard) => routes::lines(heard, shutdown),
        Err(refusal) => routes::refuse(&refusal),
    }
}

/// The answer of what [`done`] does.
async fn carry_out<S, T, F>(
    site: Site<S>,
    operator: &Operator,
    app: Option<AppName>,
    permit: Result<Permit, Refusal>,
    work: impl FnOnce(S, Option<By>) -> F,
) -> Response
where
    S: Source,
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    routes::answer(done(site, operator, app, permit, work).await)
}

/// Tells of an act, does it, and tells if it was not done; also where whoever wanted it has gone.
async fn done<S, T, F>(
    site: Site<S>,
    operator: &Operator,
    app: Option<AppName>,
    permit: Result<Permit, Refusal>,
    work: impl FnOnce(S, Option<By>) -> F,
) -> Result<T, Refusal>
where
    S: Source,
    T: Send + 'static,
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    match permit {
        Ok(Permit::Read) => work(site.source, None).await,
        Err(refusal) => Err(tell_of_refusal(&site.source, operator, app, refusal).await),
        Ok(Permit::Act(text)) => {
            let turn = turn(&site)?;
            let act = tell(&site.source, operator, app, &text).await?;
            let by = By { operator: act.operator.clone(), event: act.event };
            let doing = work(site.source.clone(), Some(by));
            to_its_end(site.source, turn, act, doing).await
        }
    }
}

/// A place among the acts that are under way.
pub(super) fn turn<S: Source>(site: &Site<S>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&site.gate.acts).try_acquire_owned().map_err(|_| {
        Refusal::new(
            Reason::Busy,
            "Nothing was done.",
            format!("{ACTS_MAX} acts of operators are under way on this member."),
            "Wait for one of them, or ask another member.",
        )
    })
}

/// Tells of an act before it is done, in the words of the command line.
pub(super) async fn tell<S: Source>(
    source: &S,
    operator: &Operator,
    app: Option<AppName>,
    words: &str,
) -> Result<Act, Refusal> {
    let operator = operator.name.clone();
    let text = format!("{operator}: {words} (by the status port)");
    let event = source
        .acted(Acted {
            severity: Severity::Info,
            app: app.clone(),
            text: text.clone(),
            cause: None,
            operator: Some(operator.clone()),
        })
        .await?;
    Ok(Act { operator, event, text, app })
}

/// Tells that an act was refused, and says why it was.
pub(super) async fn tell_of_refusal<S: Source>(
    source: &S,
    operator: &Operator,
    app: Option<AppName>,
    refusal: Refusal,
) -> Refusal {
    let name = &operator.name;
    let text = format!("{name}, by the status port: {}", reason(&refusal));
    let (severity, operator) = (Severity::Warning, Some(name.clone()));
    let told = source.acted(Acted { severity, app, text, cause: None, operator }).await;
    told.err().unwrap_or(refusal)
}

/// Tells that an act was not done.
pub(super) async fn tell_of_failure<S: Source>(source: &S, act: Act, why: &str) {
    let Act { operator, event, text, app } = act;
    let text = format!("{text} was not done: {why}");
    let (severity, cause, operator) = (Severity::Warning, Some(event), Some(operator));
    // A member that stops keeps no more events.
    let _stopping = source.acted(Acted { severity, app, text, cause, operator }).await;
}

/// Does what was told, also where whoever wanted it has gone, and tells if it was not done.
pub(super) async fn to_its_end<S: Source, T: Send + 'static>(
    source: S,
    turn: OwnedSemaphorePermit,
    act: Act,
    doing: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let task = tokio::spawn(async move {
        let _turn = turn;
        let result = doing.await;
        if let Err(refusal) = &result {
            tell_of_failure(&source, act, &reason(refusal)).await;
        }
        result
    });
    task.await.unwrap_or_else(|error| {
        Err(Refusal::new(
            Reason::Failed,
            "It is not known whether it was done.",
            format!("What carried it out has ended: {error}."),
            "See with `althing status` how far it came.",
        ))
    })
}

/// Why something was not done, for an event.
pub(super) fn reason(refusal: &Refusal) -> String {
    let text = format!("{} {}", refusal.what, refusal.why);
    text.chars().take(WHY_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_request_from_another_site_is_told_by_its_headers() {
        let host = ("host", "127.0.0.1:7780");
        let own = |more: &[(&'static str, &'static str)]| {
            is_own(&headers(&[&[host], more].concat()), false)
        };
        assert!(own(&[]), "a program");
        assert!(own(&[("origin", "http://127.0.0.1:7780"), ("sec-fetch-site", "same-origin")]));
        for bad in [
            "null",
            "http://127.0.0.1",
            "http://127.0.0.1:8080",
            "http://localhost:7780",
            "https://127.0.0.1:7780",
            "http://evil.example",
        ] {
            assert!(!own(&[("origin", bad)]), "{bad}");
        }
        assert!(!own(&[("origin", "http://127.0.0.1:7780"), ("origin", "http://evil.example")]));
        for bad in ["cross-site", "same-site", ""] {
            assert!(!own(&[("sec-fetch-site", bad)]), "{bad}");
        }
        // Over TLS the page is another one.
        let secure = |origin| is_own(&headers(&[host, ("origin", origin)]), true);
        assert!(secure("https://127.0.0.1:7780"));
        for bad in ["http://127.0.0.1:7780", "https://127.0.0.1", "https://evil.example", "null"] {
            assert!(!secure(bad), "{bad}");
        }
    }

    #[test]
    fn one_token_is_shown_or_none() {
        let token =
            |given: &[(&'static str, &'static str)]| token_of(&headers(given)).map(str::to_owned);
        assert_eq!(token(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(token(&[("authorization", "bearer abc")]).as_deref(), Some("abc"));
        for bad in ["Basic abc", "Bearer", "abc", ""] {
            assert_eq!(token(&[("authorization", bad)]), None, "{bad}");
        }
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(token(&twice), None);
    }

    #[test]
    fn only_json_is_json() {
        let json = |kind: &'static str| says(&headers(&[("content-type", kind)]), BodyKind::Json);
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        for bad in ["text/plain", "application/x-www-form-urlencoded", "text/json", ""] {
            assert!(!json(bad), "{bad}");
        }
        assert!(!says(&headers(&[]), BodyKind::Json));
        let lists = headers(&[("content-type", MEDIA_TYPE)]);
        assert!(says(&lists, BodyKind::Lists) && !says(&lists, BodyKind::Json));
    }

    #[test]
    fn without_tls_tokens_are_taken_on_the_loopback_interface_only() {
        let json = headers(&[("host", "web1"), ("content-type", "application/json")]);
        let peer =
            |address: &str, certificate| Peer { address: address.parse().unwrap(), certificate };
        let fine = |address: &str| {
            check(Some(&peer(address, None)), &Method::POST, &json, BodyKind::Json)
                .map_err(|r| r.status())
        };
        for peer in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(fine(peer).is_ok(), "{peer}");
        }
        for peer in ["10.0.0.5:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.5]:1"] {
            assert_eq!(fine(peer), Err(StatusCode::FORBIDDEN), "{peer}");
        }
        assert!(
            check(None, &Method::POST, &json, BodyKind::Json).is_err(),
            "nobody knows who it is"
        );

        let certificate = Arc::new(super::super::tests::tls::certificate(&["web1"], 2090));
        let by_tls = peer("192.0.2.1:1", Some(certificate));
        let address = by_tls.address;
        assert_eq!(
            check(Some(&by_tls), &Method::POST, &json, BodyKind::Json).map_err(|r| r.status()),
            Ok(address)
        );
        // Everything else is looked at as before.
        let other = headers(&[("host", "web1"), ("content-type", "text/plain")]);
        let refused =
            check(Some(&by_tls), &Method::POST, &other, BodyKind::Json).map_err(|r| r.status());
        assert_eq!(refused, Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        let strange = headers(&[("host", "web1"), ("origin", "https://evil.example")]);
        let refused =
            check(Some(&by_tls), &Method::GET, &strange, BodyKind::Json).map_err(|r| r.status());
        assert_eq!(refused, Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn so_many_failures_are_looked_at_and_more_later() {
        let (gate, start) = (Gate::default(), Instant::now());
        assert!((0..FAILURES_MAX).all(|_| gate.fails(start)));
        assert!(!gate.fails(start + FAILURES_WITHIN / 2));
        assert!(gate.fails(start + FAILURES_WITHIN));
    }
}
