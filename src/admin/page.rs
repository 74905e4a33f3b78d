//! The status page: some files in the binary. No build step, no foreign asset,
//! nothing inline, so that the content security policy holds without an
//! exception. The scripts write text as text only: names, messages and reasons
//! come from other people.

use std::future::ready;

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

pub(super) const INDEX: &str = include_str!("page/index.html");
pub(super) const STYLE: &str = include_str!("page/status.css");
const ICON: &str = include_str!("page/favicon.svg");

/// The modules of the script, each with its path: they import each other by these.
pub(super) const SCRIPTS: [(&str, &str); 10] = [
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
];

/// All of its files.
pub(super) fn routes<T: Clone + Send + Sync + 'static>() -> Router<T> {
    let router = Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", INDEX)))
        .route("/status.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/favicon.svg", get(async || file("image/svg+xml", ICON)));
    SCRIPTS.into_iter().fold(router, |router, (path, text)| {
        router.route(path, get(move || ready(file("text/javascript; charset=utf-8", text))))
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
