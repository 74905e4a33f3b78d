//! The status page: three files in the binary and an icon. No build step, no
//! foreign asset, nothing inline, so that the content security policy holds
//! without an exception. The script writes text as text only: names, messages
//! and reasons come from other people.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

pub(super) const INDEX: &str = include_str!("page/index.html");
pub(super) const STYLE: &str = include_str!("page/status.css");
pub(super) const SCRIPT: &str = include_str!("page/status.js");
const ICON: &str = include_str!("page/favicon.svg");

pub(super) async fn index() -> Response {
    file("text/html; charset=utf-8", INDEX)
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
