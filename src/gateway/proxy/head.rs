//! Heads on their way through: the request is written for whoever answers it, the
//! response for whoever asked. What belongs to one connection stays on it. Pure.
//!
//! After RFC 9110, section 7.6, and RFC 7239.

use std::{net::IpAddr, time::Duration};

use super::{
    super::{
        answer,
        deliver::hsts_line,
        forwarded,
        request::{HEAD_MAX, HEADERS_MAX, Request},
    },
    body::Framing,
};
use crate::base::AppName;

/// A member says by this line that it did not pass the request on to anybody.
pub(in crate::gateway) const REFUSED: &str = "Althing-Refused";
/// That line where its process has as much to do as it may have.
pub(in crate::gateway) const FULL: &str = "full";
/// A member says by this line to another whose listener a request came to.
const APPLICATION: &str = "Althing-Application";

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Origin {
    /// A client.
    Client {
        /// Its address, as far as is known: a proxy that is trusted may say another one than
        /// that of the connection.
        address: IpAddr,
        /// Whether it came over TLS, as far as is known.
        secure: bool,
        /// Whether the connection to this member is one.
        by_tls: bool,
    },
    /// Another member, which has written down who asked it.
    Member,
}

/// Why a response can't be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its response is malformed: {0}")]
pub(in crate::gateway) struct BadResponse(pub(super) &'static str);

/// `request` as the one who answers it reads it. `path` is the one it is asked for.
pub(super) fn request(request: &Request, path: &str, origin: Origin, to_member: bool) -> Vec<u8> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    // It was read before, so it is read again.
    let method = match head.parse(&request.raw) {
        Ok(_) => head.method.unwrap_or("GET"),
        Err(_) => "GET",
    };
    let mut out = Vec::with_capacity(request.raw.len() + 256);
    push(&mut out, &[method, " ", path]);
    if let Some(query) = &request.query {
        push(&mut out, &["?", query]);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = request.host.as_deref().unwrap_or_default();
    line(&mut out, "Host", host.as_bytes());
    let from_client = matches!(origin, Origin::Client { .. });
    let named = named_by_connection(head.headers);
    let mut has_id = false;
    for header in head.headers.iter() {
        if is_of_connection(header.name)
            || header.name.eq_ignore_ascii_case("host")
            || header.name.eq_ignore_ascii_case("content-length")
            || named.iter().any(|name| header.name.eq_ignore_ascii_case(name))
            || (from_client && is_claim(header.name))
            || header.name.eq_ignore_ascii_case(APPLICATION)
        {
            continue;
        }
        has_id |= header.name.eq_ignore_ascii_case("x-request-id");
        line(&mut out, header.name, header.value);
    }
    match request.body {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            line(&mut out, "Content-Length", length.to_string().as_bytes());
        }
        Framing::Chunked => line(&mut out, "Transfer-Encoding", b"chunked"),
    }
    if let Origin::Client { address, secure, by_tls } = origin {
        let said = request.said.as_deref();
        let (chain, elements) = match said {
            Some(said) => said.lists(by_tls, host),
            None => {
                let mut element = format!("for={}", forwarded::node(address));
                forwarded::add_to(&mut element, Some(secure), Some(host));
                (address.to_string(), element)
            }
        };
        let proto = if secure { "https" } else { "http" };
        let asked_for = said.and_then(|said| said.host.as_deref()).unwrap_or(host);
        line(&mut out, "X-Forwarded-For", chain.as_bytes());
        line(&mut out, "X-Forwarded-Proto", proto.as_bytes());
        line(&mut out, "X-Forwarded-Host", asked_for.as_bytes());
        line(&mut out, "Forwarded", elements.as_bytes());
        line(&mut out, "Via", format!("1.{} althing", request.minor).as_bytes());
        if !has_id {
            let id = format!("{:032x}", request.number.unwrap_or_else(rand::random));
            line(&mut out, "X-Request-Id", id.as_bytes());
        }
    }
    if let Some(app) = request.app.as_ref().filter(|_| to_member) {
        line(&mut out, APPLICATION, app.as_str().as_bytes());
    }
    match &request.upgrade {
        Some(upgrade) => {
            line(&mut out, "Connection", b"upgrade");
            line(&mut out, "Upgrade", upgrade.as_bytes());
        }
        None if to_member => line(&mut out, "Connection", b"close"),
        None => {}
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Which application another member says that the request is for, whatever its host. Asked
/// of the heads of members alone: it is theirs to say.
pub(in crate::gateway) fn application(raw: &[u8]) -> Option<AppName> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    head.parse(raw).ok()?;
    let line = head.headers.iter().find(|line| line.name.eq_ignore_ascii_case(APPLICATION))?;
    AppName::parse(std::str::from_utf8(line.value).ok()?).ok()
}

/// Why a member passed a request on to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Refused {
    /// Nobody is ready there.
    Nobody,
    /// Its process has as much to do as it may have.
    Full,
}

/// A response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Response {
    pub status: u16,
    /// How long it is in what was read, bytes.
    pub used: usize,
    pub framing: Framing,
    /// Whether the connection that it came over can be used again.
    pub keep_alive: bool,
    /// It comes from a member that passed the request on to nobody.
    pub refused: Option<Refused>,
    /// Its lines as they are passed on, without those that belong to a connection.
    pub lines: Vec<u8>,
    has_date: bool,
    has_hsts: bool,
}

/// Reads a response to `request`; `None` if there is more to come.
pub(in crate::gateway) fn response(
    bytes: &[u8],
    head_only: bool,
    upgrading: bool,
) -> Result<Option<Response>, BadResponse> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let parsed = head.parse(&bytes[..bytes.len().min(HEAD_MAX)]);
    let used = match parsed.map_err(|_| BadResponse("its head is no HTTP/1"))? {
        httparse::Status::Complete(used) => used,
        httparse::Status::Partial if bytes.len() >= HEAD_MAX => {
            return Err(BadResponse("its head is longer than 16 KiB"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.filter(|code| (100..=599).contains(code));
    let status = status.ok_or(BadResponse("its status is none"))?;
    let minor = head.version.unwrap_or(0);
    if status == 101 && !upgrading {
        return Err(BadResponse("it changes to another protocol unasked"));
    }
    let named = named_by_connection(head.headers);
    let (mut length, mut chunked, mut refused, mut has_date) = (None, false, None, false);
    let mut has_hsts = false;
    let (mut close, mut keep) = (false, false);
    let mut out = Vec::with_capacity(used);
    for header in head.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let value = digits(header.value).ok_or(BadResponse("its length is no number"))?;
            if length.is_some_and(|before| before != value) {
                return Err(BadResponse("it has two lengths"));
            }
            length = Some(value);
        } else if is("transfer-encoding") {
            if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(BadResponse("it is encoded in a way that is not known"));
            }
            chunked = true;
        } else if is("connection") {
            close |= has_token(header.value, "close");
            keep |= has_token(header.value, "keep-alive");
        } else if is(REFUSED) {
            let full = header.value == FULL.as_bytes();
            refused = Some(if full { Refused::Full } else { Refused::Nobody });
        } else if is("upgrade") && status == 101 {
            line(&mut out, "Upgrade", header.value);
        } else if !is_of_connection(header.name)
            && !named.iter().any(|name| header.name.eq_ignore_ascii_case(name))
        {
            has_date |= is("date");
            has_hsts |= is("strict-transport-security");
            line(&mut out, header.name, header.value);
        }
    }
    if chunked && length.is_some() {
        return Err(BadResponse("it has both a length and chunks"));
    }
    let bodiless = head_only || status < 200 || status == 204 || status == 304;
    let framing = match (bodiless, chunked, length) {
        (true, ..) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::UntilClose,
    };
    if let Some(length) = length.filter(|_| status >= 200 && status != 204) {
        line(&mut out, "Content-Length", length.to_string().as_bytes());
    }
    let keep_alive = !close && (minor == 1 || keep) && framing != Framing::UntilClose;
    let lines = out;
    Ok(Some(Response { status, used, framing, keep_alive, refused, lines, has_date, has_hsts }))
}

/// How the one who asked is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToClient {
    /// 0 for HTTP/1.0.
    pub minor: u8,
    /// Whether its connection stays open.
    pub keep_alive: bool,
    /// Whether the body goes out in chunks.
    pub chunked: bool,
    /// How long it is to come by TLS alone, if it is told.
    pub hsts: Option<Duration>,
}

impl Response {
    /// The head as the one who asked reads it.
    pub(super) fn written(&self, to: ToClient, date: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.lines.len() + 160);
        let status = self.status.to_string();
        push(&mut out, &["HTTP/1.1 ", &status, " ", answer::reason(self.status), "\r\n"]);
        out.extend_from_slice(&self.lines);
        if self.status == 101 {
            line(&mut out, "Connection", b"upgrade");
        } else if self.status >= 200 {
            if !self.has_date {
                date(&mut out);
            }
            if let Some((name, value)) = to.hsts.filter(|_| !self.has_hsts).map(hsts_line) {
                line(&mut out, name, value.as_bytes());
            }
            if to.chunked {
                line(&mut out, "Transfer-Encoding", b"chunked");
            }
            match (to.keep_alive, to.minor) {
                (false, _) => line(&mut out, "Connection", b"close"),
                (true, 0) => line(&mut out, "Connection", b"keep-alive"),
                (true, _) => {}
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Lines that belong to a single connection.
fn is_of_connection(name: &str) -> bool {
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
    .iter()
    .any(|of| name.eq_ignore_ascii_case(of))
}

/// Lines by which a client could claim to be somebody else.
fn is_claim(name: &str) -> bool {
    ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"]
        .iter()
        .any(|of| name.eq_ignore_ascii_case(of))
        || name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("althing-"))
}

/// The lines that a `Connection` line makes its own.
fn named_by_connection<'a>(headers: &[httparse::Header<'a>]) -> Vec<&'a str> {
    let lines = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    let values = lines.filter_map(|header| std::str::from_utf8(header.value).ok());
    let tokens = values.flat_map(|value| value.split(',')).map(str::trim);
    // These say how the message itself is to be read.
    let protected = ["", "close", "keep-alive", "upgrade", "host", "content-length"];
    tokens.filter(|name| !protected.iter().any(|p| name.eq_ignore_ascii_case(p))).collect()
}

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn digits(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| plain)?.parse().ok()
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(super) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    push(out, &[name, ": "]);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::{super::super::request as requests, *};

    fn read(text: &str) -> Request {
        let (mut request, used) = requests::parse(text.as_bytes()).unwrap().unwrap();
        request.raw = bytes::Bytes::copy_from_slice(&text.as_bytes()[..used]);
        request
    }

    fn written(text: &str, origin: Origin) -> String {
        let read = read(text);
        String::from_utf8(request(&read, &read.path, origin, false)).unwrap()
    }

    const CLIENT: Origin = Origin::Client {
        address: IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9)),
        secure: false,
        by_tls: false,
    };

    #[test]
    fn a_request_is_written_without_what_belongs_to_its_connection() {
        let text = "POST http://Shop.example/a%20b?q=1 HTTP/1.1\r\nHost: other\r\nCookie: c\r\n\
                    Connection: x-own, Keep-Alive, Content-Length\r\nX-Own: 1\r\nTE: trailers\r\n\
                    X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nAlthing-Refused: x\r\n\
                    X-Request-Id: 7\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(
            written(text, CLIENT),
            "POST /a%20b?q=1 HTTP/1.1\r\nHost: shop.example\r\nCookie: c\r\nX-Request-Id: 7\r\n\
             Expect: 100-continue\r\nContent-Length: 3\r\nX-Forwarded-For: 127.0.0.9\r\n\
             X-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example\r\n\
             Forwarded: for=127.0.0.9;host=\"shop.example\";proto=http\r\nVia: 1.1 althing\r\n\r\n"
        );
        // A member is believed, and adds nothing.
        let passed = written(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nVia: 1.1 althing\r\n\r\n",
            Origin::Member,
        );
        assert_eq!(
            passed,
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nVia: 1.1 althing\r\n\r\n"
        );
        let text = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: k\r\n\r\n";
        let told = written(text, CLIENT);
        assert!(told.ends_with("Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"), "{told}");
        assert!(told.contains("\r\nX-Request-Id: "), "{told}");
    }

    #[test]
    fn responses_end_where_their_heads_say() {
        let ask = |text: &str| response(text.as_bytes(), false, false);
        let one = |text: &str| ask(text).unwrap().unwrap();
        let plain = one("HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nKeep-Alive: 5\r\n\
                         Content-Length: 3\r\n\r\nabc");
        assert_eq!((plain.status, plain.framing), (200, Framing::Length(3)));
        assert!(plain.keep_alive);
        assert_eq!(plain.lines, b"Set-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n");
        for (text, framing, keep) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", Framing::Length(1), false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n",
                Framing::Length(1),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            ("HTTP/1.1 204 None\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 304 Same\r\nContent-Length: 7\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 100 Continue\r\n\r\n", Framing::None, true),
        ] {
            let told = one(text);
            assert_eq!((told.framing, told.keep_alive), (framing, keep), "{text}");
        }
        let head = response(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true, false);
        assert_eq!(head.unwrap().unwrap().framing, Framing::None);
        assert_eq!(ask("HTTP/1.1 200 OK\r\nA"), Ok(None));
        let to = ToClient { minor: 1, keep_alive: false, chunked: true, hsts: None };
        let text =
            one("HTTP/1.1 200 OK\r\nX: y\r\n\r\n").written(to, |out| line(out, "Date", b"d"));
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "HTTP/1.1 200 OK\r\nX: y\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n"
        );
    }

    #[test]
    fn responses_that_could_be_read_in_two_ways_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 999 Odd\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(response(bad.as_bytes(), false, false).is_err(), "{bad:?}");
        }
        assert!(response(&[b'H'; HEAD_MAX], false, false).is_err());
    }
}
