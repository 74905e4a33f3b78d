//! Heads between the two versions: a request of HTTP/2 is written as one of HTTP/1.1, the
//! head of its answer read out of one.
//!
//! Whatever could be read in two ways once it is text is refused here or by the parser that
//! reads it next.
//!
//! After RFC 9113, section 8.

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::super::proxy::head::Response as Head;

/// A request that is about to be sent.
pub(super) struct Opened {
    /// Its head, as HTTP/1.1.
    pub head: Vec<u8>,
    /// What of its body came already.
    pub first: Option<Bytes>,
    pub body: RecvStream,
    /// Whether the body is to be sent in chunks.
    pub chunked: bool,
}

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It makes no sense, or more than one.
    Malformed(&'static str),
    /// The client does not want it any more.
    TakenBack,
}

/// Lines that a message of HTTP/2 must not have.
const OF_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Writes the head of a request.
pub(super) async fn request(parts: &Parts, mut body: RecvStream) -> Result<Opened, Unfit> {
    let has_length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let bodiless = matches!(parts.method, Method::GET | Method::HEAD);
    let mut first = None;
    // Only the end of such a stream tells that it has no body.
    if bodiless && !has_length && !body.is_end_stream() {
        first = match body.data().await {
            None => None,
            Some(Ok(data)) => Some(data),
            Some(Err(_)) => return Err(Unfit::TakenBack),
        };
    }
    let is_empty = body.is_end_stream() && first.as_ref().is_none_or(Bytes::is_empty);
    let chunked = !has_length && !is_empty;
    let head = written(parts, is_empty, chunked).map_err(Unfit::Malformed)?;
    Ok(Opened { head, first, body, chunked })
}

fn written(parts: &Parts, is_empty: bool, chunked: bool) -> Result<Vec<u8>, &'static str> {
    let Parts { method, uri, headers, .. } = parts;
    if method == Method::CONNECT {
        return Err("CONNECT, which is not served");
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "https") {
        return Err("another scheme than https");
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let is_path = target.starts_with('/') || (target == "*" && method == Method::OPTIONS);
    if !is_path {
        return Err("a :path that is none");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Err("more than one host"),
        (Some(authority), Some(host), None)
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err("another host than :authority");
        }
        (Some(authority), _, None) => authority.as_str().as_bytes(),
        (None, Some(host), None) => host.as_bytes(),
        (None, None, None) => return Err("no :authority"),
    };
    let mut out = Vec::with_capacity(512);
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    line(&mut out, "host", host)?;
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in headers {
        let value = value.as_bytes();
        match name.as_str() {
            "host" => {}
            // Its crumbs are one line again (section 8.2.3).
            "cookie" => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
            }
            "te" if value == b"trailers" => {}
            "te" => return Err("a TE other than trailers"),
            name if OF_CONNECTION.contains(&name) => return Err("a line of a connection"),
            "content-length" if is_empty && value != b"0" => {
                return Err("a length without a body");
            }
            name => line(&mut out, name, value)?,
        }
    }
    if !cookies.is_empty() {
        line(&mut out, "cookie", &cookies)?;
    }
    if chunked {
        line(&mut out, "transfer-encoding", b"chunked")?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// The library has looked at it before; what would make two lines of one stays out twice.
fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), &'static str> {
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err("a line end in a value");
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The head of an answer as HTTP/2 has it; none where it makes none.
pub(super) fn response(head: &Head) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    for line in head.lines.split(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\r") else { continue };
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..at)?, line.get(at + 1..)?);
        // Names are in lower case from here on.
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.trim_ascii()).ok()?;
        response.headers_mut().append(name, value);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::{
        proxy::head,
        request::{self as requests, Malformed},
    };

    fn parts(uri: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method("POST").uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_is_written_as_the_strict_parser_reads_it() {
        let lines = [
            ("cookie", "a=1"),
            ("x-own", "v"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("host", "Shop.example"),
        ];
        let text = written(&parts("https://shop.example/a%20b?q", &lines), false, true).unwrap();
        assert_eq!(
            String::from_utf8(text.clone()).unwrap(),
            "POST /a%20b?q HTTP/1.1\r\nhost: shop.example\r\nx-own: v\r\ncookie: a=1; b=2\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        assert!(requests::parse(&text).unwrap().is_some());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let to = "https://a/";
        for (uri, lines) in [
            (to, vec![("host", "b")]),
            (to, vec![("host", "a"), ("host", "a")]),
            ("/", vec![]),
            ("http://a/", vec![]),
            ("https://a", vec![("te", "gzip")]),
            (to, vec![("transfer-encoding", "chunked")]),
            (to, vec![("connection", "close")]),
            (to, vec![("keep-alive", "5")]),
            (to, vec![("upgrade", "websocket")]),
            (to, vec![("content-length", "5")]),
        ] {
            assert!(written(&parts(uri, &lines), true, false).is_err(), "{uri} {lines:?}");
        }
        // And what the parser refuses.
        let strict = |uri: &str, lines: &[(&str, &str)]| {
            requests::parse(&written(&parts(uri, lines), false, false).unwrap()).unwrap_err()
        };
        for (uri, lines) in [
            (to, vec![("content-length", "5"), ("content-length", "5")]),
            (to, vec![("content-length", "+5")]),
            ("https://user@a/", vec![]),
            (to, vec![("expect", "x")]),
        ] {
            assert!(matches!(strict(uri, &lines), Malformed::Bad(_)), "{uri} {lines:?}");
        }
        let many: Vec<_> = (0..200).map(|_| ("x", "y")).collect();
        assert_eq!(strict(to, &many), Malformed::TooLarge);
    }

    #[test]
    fn an_answer_is_read_out_of_its_lines() {
        let text = b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSET-COOKIE: b\r\nConnection: close\r\n\
                     Content-Length: 3\r\n\r\n";
        let head = head::response(text, false, false).unwrap().unwrap();
        let told = response(&head).unwrap();
        assert_eq!(told.status(), 200);
        let cookies: Vec<_> = told.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a", "b"]);
        assert_eq!(told.headers()["content-length"], "3");
        assert!(told.headers().get("connection").is_none());
    }

    proptest! {
        /// Whatever the library lets through is one head, or refused.
        #[test]
        fn no_request_becomes_two(
            path: Vec<u8>,
            lines in prop::collection::vec(("[a-z-]{1,12}", any::<Vec<u8>>()), 0..8),
        ) {
            let mut request = http::Request::builder().method("POST");
            let target = http::uri::PathAndQuery::from_maybe_shared(Bytes::from(path));
            let uri = http::uri::Parts::default();
            let Ok(target) = target else { return Ok(()) };
            let mut uri = uri;
            uri.scheme = Some(http::uri::Scheme::HTTPS);
            uri.authority = Some(http::uri::Authority::from_static("a"));
            uri.path_and_query = Some(target);
            let Ok(uri) = http::Uri::from_parts(uri) else { return Ok(()) };
            request = request.uri(uri);
            for (name, value) in &lines {
                request = request.header(name.as_str(), value.as_slice());
            }
            let Ok(request) = request.body(()) else { return Ok(()) };
            let Ok(text) = written(&request.into_parts().0, false, true) else { return Ok(()) };
            if let Ok(read) = requests::parse(&text) {
                let (_, used) = read.expect("a head that is whole");
                prop_assert_eq!(used, text.len());
            }
        }
    }
}
