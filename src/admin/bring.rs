//! What operators bring from their own machines, to be published. The lists come in bodies of
//! their own kind and are not JSON; each is bounded, and read only as fast as something comes.
//!
//! That an upload begins is told as the act that it is, and so is what becomes of it where it is
//! not published: something was wrong, or nothing came any more.

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    operator,
    permit::{self, Permit},
    routes::{self, Site},
    source::Source,
};
use crate::{
    base::{
        AppName, Digest, Reason, Refusal, limits,
        operator::Operator,
        wire::{self, Kind},
    },
    member::{
        command::{By, Outcome},
        view::ApplicationView,
    },
    node::uploads::{
        Begun, Bringing, IDLE, Offer, Reply, UploadId, Uploads,
        lists::{MEDIA_TYPE, OFFER_MAX, UPDATE_MAX},
    },
};

/// The routes for lists.
pub(super) fn lists<S: Source>() -> Router<Site<S>> {
    Router::new()
        .route("/api/v1/bring", post(offer::<S>))
        .route("/api/v1/bring/{upload}/have", post(have::<S>))
        .route("/api/v1/bring/{upload}/update", post(update::<S>))
}

/// The route by which an upload comes to its end.
pub(super) fn ends<S: Source>() -> Router<Site<S>> {
    Router::new().route("/api/v1/bring/{upload}/publish", post(publish::<S>))
}

async fn offer<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Response {
    replied(begin(&site, &operator, body).await)
}

async fn begin<S: Source>(
    site: &Site<S>,
    operator: &Operator,
    body: Body,
) -> Result<Reply, Refusal> {
    let source = &site.source;
    let bytes = read(body, OFFER_MAX).await?;
    let offer = Offer::decode(&bytes).map_err(|error| unread(&error.to_string()))?;
    let uploads = source.uploads()?;
    let resolved =
        permit::bring(&offer, &uploads).and_then(|permit| Ok((permit, offer.resolve()?)));
    let (words, app) = match resolved {
        Ok((Permit::Act(words), resolved)) => (words, resolved.app),
        // It is an act, whatever comes of it.
        Ok((Permit::Read, resolved)) => (String::new(), resolved.app),
        Err(refusal) => {
            let app = offer.app.clone();
            return Err(operator::tell_of_refusal(source, operator, app, refusal).await);
        }
    };
    let view = source.view().await?;
    let current = view.applications.iter().find(|known| known.name == app.as_str());
    if let Err(refusal) = is_current(offer.base, current, &app) {
        return Err(operator::tell_of_refusal(source, operator, Some(app), refusal).await);
    }
    // The newest first.
    let versions = current.iter().flat_map(|known| &known.versions);
    let versions: Vec<Digest> = versions.filter_map(|v| Digest::parse(&v.root)).collect();
    let act = operator::tell(source, operator, Some(app), &words).await?;
    let told = act.clone();
    match beside(move || uploads.begin(act, offer, &versions)).await {
        Err(refusal) => {
            operator::tell_of_failure(source, told, &operator::reason(&refusal)).await;
            Err(refusal)
        }
        Ok(Begun { reply, lapsed }) => {
            let source = source.clone();
            tokio::spawn(async move {
                if lapsed.await.is_ok() {
                    let why = format!("Nothing came of it for {} seconds.", IDLE.as_secs());
                    operator::tell_of_failure(&source, told, &why).await;
                }
            });
            Ok(reply)
        }
    }
}

/// Whether it is made from what is current: looked at before anything is sent for nothing, and
/// decided when it is published.
fn is_current(
    base: Option<u64>,
    current: Option<&ApplicationView>,
    app: &AppName,
) -> Result<(), Refusal> {
    let number = current.map_or(0, |known| known.version);
    match base {
        Some(base) if base != number => Err(refusal(
            Reason::Conflict,
            format!("Version {number} of {app} is current, and this was made from {base}."),
            "See what changed with `althing diff`, and publish against the current version.",
        )),
        _ => Ok(()),
    }
}

async fn have<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    Path(upload): Path<String>,
    body: Body,
) -> Response {
    let take = |bringing: &Bringing, bytes: &[u8]| bringing.list(bytes);
    replied(go_on(&site, &operator, &upload, (body, limits::TREE_MAX), take).await)
}

async fn update<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    Path(upload): Path<String>,
    body: Body,
) -> Response {
    let take = |bringing: &Bringing, bytes: &[u8]| bringing.update(bytes);
    replied(go_on(&site, &operator, &upload, (body, UPDATE_MAX), take).await)
}

async fn go_on<S: Source>(
    site: &Site<S>,
    operator: &Operator,
    upload: &str,
    (body, most): (Body, usize),
    take: impl FnOnce(&Bringing, &[u8]) -> Result<Reply, Refusal> + Send + 'static,
) -> Result<Reply, Refusal> {
    let bringing = find(&site.source.uploads()?, operator, upload)?;
    let bytes = read(body, most).await?;
    let act = bringing.act().clone();
    let taken = beside(move || take(&bringing, &bytes)).await;
    if let Err(refusal) = &taken {
        operator::tell_of_failure(&site.source, act, &operator::reason(refusal)).await;
    }
    taken
}

async fn publish<S: Source>(
    State(site): State<Site<S>>,
    Extension(operator): Extension<Operator>,
    Path(upload): Path<String>,
) -> Response {
    routes::answer(finish(site, &operator, &upload).await)
}

async fn finish<S: Source>(
    site: Site<S>,
    operator: &Operator,
    upload: &str,
) -> Result<Outcome, Refusal> {
    let bringing = find(&site.source.uploads()?, operator, upload)?;
    let turn = operator::turn(&site)?;
    let act = bringing.act().clone();
    let brought = match bringing.finish() {
        Ok(brought) => brought,
        Err(refusal) => {
            operator::tell_of_failure(&site.source, act, &operator::reason(&refusal)).await;
            return Err(refusal);
        }
    };
    let by = By { operator: act.operator.clone(), event: act.event };
    let source = site.source.clone();
    let doing = async move { source.publish_brought(brought, Some(by)).await };
    operator::to_its_end(site.source, turn, act, doing).await
}

fn find(uploads: &Uploads, operator: &Operator, upload: &str) -> Result<Bringing, Refusal> {
    // What is no id is that of no upload.
    let upload = UploadId::parse(upload).unwrap_or(UploadId(0));
    uploads.go_on(&operator.name, upload)
}

/// What blocks is done elsewhere.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(refusal(Reason::Failed, format!("What took it has ended: {error}."), "Publish again."))
    })
}

/// All of a body, if it is not longer than `most`, as long as something comes.
async fn read(mut body: Body, most: usize) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    loop {
        let frame = timeout(IDLE, body.frame()).await.map_err(|_| {
            let why = format!("Nothing came for {} seconds.", IDLE.as_secs());
            refusal(Reason::Failed, why, AGAIN)
        })?;
        let Some(frame) = frame else { return Ok(bytes.into()) };
        let broken = |error| refusal(Reason::Failed, format!("It broke off: {error}."), AGAIN);
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > most {
            let why = format!("More came than the {most} bytes that are taken in one go.");
            let todo = "Use the same version of Althing for the command and the member.";
            return Err(refusal(Reason::Invalid, why, todo));
        }
        bytes.extend_from_slice(&data);
    }
}

const AGAIN: &str = "Publish again: what has come is not sent again.";

fn unread(why: &str) -> Refusal {
    let todo = "Use the same version of Althing for the command and the member.";
    refusal(Reason::Invalid, format!("What is offered can't be read: {why}."), todo)
}

fn refusal(reason: Reason, why: String, todo: &str) -> Refusal {
    Refusal::new(reason, "Nothing was published.", why, todo)
}

fn replied(reply: Result<Reply, Refusal>) -> Response {
    match reply {
        Ok(reply) => {
            let bytes = wire::encode(Kind::Message, &reply);
            ([(header::CONTENT_TYPE, MEDIA_TYPE)], bytes).into_response()
        }
        Err(refusal) => routes::refuse(&refusal),
    }
}
