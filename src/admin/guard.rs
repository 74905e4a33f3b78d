//! What stands before and behind every route: security headers on every
//! response, and on the status port a check of the Host header.
//!
//! The check is against DNS rebinding: a page from the internet whose name is
//! made to point at a member would otherwise read the status page through the
//! browser of somebody inside. Names that the page's owner can't hold are
//! answered: IP literals, `localhost`, names without a dot, names under the
//! private `.localhost`, `.local` and `.internal`, the members' own names, and
//! the host names of the applications; over TLS also those that the port's own
//! certificate is made out for, since a browser goes on under no others. Any
//! other name is refused with a sentence that says what to use.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::{
    operator::Peer,
    routes::{Site, refuse},
    source::Source,
};
use crate::base::{Reason, Refusal};

const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Everything here is of this moment, the page belongs to this binary.
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // A proxy in between must not hold back the stream (nginx).
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// Puts the security headers on whatever `next` answers.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Refuses names that could be a stranger's. Status port only.
pub(super) async fn host<S: Source>(
    State(site): State<Site<S>>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = match named_host(request.headers(), request.uri()) {
        None => false,
        Some(host) if is_private(&host) || is_of_certificate(&request, &host) => true,
        Some(host) => is_ours(&site, &host).await,
    };
    if allowed {
        return next.run(request).await;
    }
    refuse(&Refusal::new(
        Reason::Forbidden,
        "This name is not answered to.",
        "The name in the address is neither an IP address, a name without a dot, a member's name \
         nor an application's host name, so it could be a stranger's that points here.",
        "Use the member's IP address, its name as `althing members` shows it, or over TLS one that \
         the certificate of this port is made out for.",
    ))
}

/// The one host that the request names, without its port, in lower case.
fn named_host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let mut given = headers.get_all(header::HOST).iter();
    let (host, None) = (given.next()?, given.next()) else { return None };
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    let plain = !authority.as_str().contains('@');
    // An absolute request target overrides the header: they must not differ.
    let agrees = uri.host().is_none_or(|h| h.eq_ignore_ascii_case(authority.host()));
    (plain && agrees).then(|| authority.host().to_ascii_lowercase())
}

/// Whether nobody outside can own `host`.
fn is_private(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let reserved = [".localhost", ".local", ".internal"];
    bare.parse::<IpAddr>().is_ok()
        || (!host.is_empty() && !host.contains(['.', '[', ':']))
        || reserved.iter().any(|suffix| host.ends_with(suffix))
}

/// Whether the certificate that the client was shown is made out for `host`.
fn is_of_certificate(request: &Request, host: &str) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.and_then(|peer| peer.certificate.as_ref()).is_some_and(|shown| shown.names(host))
}

/// Whether the cluster itself goes by `host`.
async fn is_ours<S: Source>(site: &Site<S>, host: &str) -> bool {
    let Ok(view) = site.source.view().await else { return false };
    let mut hosts = view.applications.iter().flat_map(|app| &app.hosts);
    view.members.iter().any(|m| m.name.eq_ignore_ascii_case(host))
        || hosts.any(|h| h.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_outside_can_own_are_private() {
        for fine in ["127.0.0.1", "[::1]", "10.0.0.5", "localhost", "web1", "web1.local"] {
            assert!(is_private(fine), "{fine}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a."] {
            assert!(!is_private(bad), "{bad}");
        }
    }

    #[test]
    fn one_host_is_named_or_none() {
        let named = |hosts: &[&'static str], uri: &'static str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            named_host(&headers, &Uri::from_static(uri))
        };
        assert_eq!(named(&["Web1:7780"], "/").as_deref(), Some("web1"));
        assert_eq!(named(&["[::1]:7780"], "/").as_deref(), Some("[::1]"));
        assert_eq!(named(&["web1"], "http://web1/").as_deref(), Some("web1"));
        assert_eq!(named(&["web1"], "http://evil.example/"), None);
        assert_eq!(named(&["web1", "evil.example"], "/"), None);
        assert_eq!(named(&["web1@evil.example"], "/"), None);
        assert_eq!(named(&[], "/"), None);
    }
}
