//! The status page: some files in the binary. No build step, no foreign asset,
//! nothing inline, so that the content security policy holds without an
//! exception. The scripts write text as text only: names, messages and reasons
//! come from other people.

use std::{
    future::ready,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};

use crate::gateway::encoding::{accepts_gzip, compress};

pub(super) const INDEX: &str = include_str!("page/index.html");
pub(super) const STYLE: &str = include_str!("page/status.css");
const ICON: &str = include_str!("page/favicon.svg");

/// The modules of the script, each with its path: they import each other by these.
pub(super) const SCRIPTS: [(&str, &str); 12] = [
    ("/status.js", include_str!("page/status.js")),
    ("/dom.js", include_str!("page/dom.js")),
    ("/feed.js", include_str!("page/feed.js")),
    ("/charts.js", include_str!("page/charts.js")),
    ("/cluster.js", include_str!("page/cluster.js")),
    ("/members.js", include_str!("page/members.js")),
    ("/apps.js", include_str!("page/apps.js")),
    ("/events.js", include_str!("page/events.js")),
    ("/rules.js", include_str!("page/rules.js")),
    ("/services.js", include_str!("page/services.js")),
    ("/differs.js", include_str!("page/differs.js")),
    ("/acts.js", include_str!("page/acts.js")),
];

/// All of its files.
pub(super) fn routes<T: Clone + Send + Sync + 'static>() -> Router<T> {
    let router = Router::new()
        .route("/", file("text/html; charset=utf-8", INDEX))
        .route("/status.css", file("text/css; charset=utf-8", STYLE))
        .route("/favicon.svg", file("image/svg+xml", ICON));
    SCRIPTS.into_iter().fold(router, |router, (path, text)| {
        router.route(path, file("text/javascript; charset=utf-8", text))
    })
}

/// One of them. It is compressed when it is first asked for, and kept: a third goes over the wire.
fn file<T: Clone + Send + Sync + 'static>(
    kind: &'static str,
    text: &'static str,
) -> MethodRouter<T> {
    let packed: Arc<OnceLock<Option<Bytes>>> = Arc::default();
    get(move |headers: HeaderMap| {
        let packed = packed.get_or_init(|| compress(text.as_bytes()).ok().map(Bytes::from));
        ready(answer(&headers, kind, text, packed.as_ref()))
    })
}

fn answer(
    headers: &HeaderMap,
    kind: &'static str,
    text: &'static str,
    packed: Option<&Bytes>,
) -> Response {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|line| line.to_str().ok());
    let told = [(header::CONTENT_TYPE, kind), (header::VARY, "accept-encoding")];
    match packed.filter(|_| accepted.is_some_and(accepts_gzip)) {
        Some(packed) => {
            (told, [(header::CONTENT_ENCODING, "gzip")], packed.clone()).into_response()
        }
        None => (told, text).into_response(),
    }
}
