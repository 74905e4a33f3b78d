//! Request heads, parsed strictly: whatever two HTTP implementations could
//! read in two ways is refused, because that is what request smuggling lives
//! on. Pure: bytes in, a [`Request`] out.
//!
//! After RFC 9112, sections 2 to 7 and 11.2.

use bytes::Bytes;

use super::{
    forwarded::Said,
    proxy::{affinity, body::Framing},
};
use crate::base::{AppName, limits};

/// The longest request head, bytes: what common servers accept.
pub const HEAD_MAX: usize = 16 << 10;
/// The most header lines in a head.
pub const HEADERS_MAX: usize = 100;
/// The longest host with its port, bytes: a DNS name and `:65535`.
pub const HOST_MAX: usize = 255 + 6;

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The content.
    Get,
    /// The head that GET would have.
    Head,
    /// Anything that a static site does not do.
    Other,
}

/// A well-formed request head: what an answer depends on, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub method: Method,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    /// The host with its port, lower case. From the target if that is in
    /// absolute form, else from the `Host` line.
    pub host: Option<String>,
    /// The path as sent, still percent-encoded, with its leading slash. ASCII.
    pub path: String,
    /// What follows the question mark, as sent. ASCII.
    pub query: Option<String>,
    /// Whether the client lets the connection stay open.
    pub keep_alive: bool,
    /// How the end of its body is known.
    pub body: Framing,
    /// Whether asking twice is as good as asking once (RFC 9110, section 9.2.2).
    pub idempotent: bool,
    /// Whether the client waits to be told to send its body.
    pub expects_continue: bool,
    /// The protocol that the client would rather speak on this connection.
    pub upgrade: Option<String>,
    /// Whether a client came by TLS, as `X-Forwarded-Proto` says: to be believed from a
    /// member alone.
    pub said_secure: bool,
    /// Who answered this client before, as its cookie says: a
    /// [`token`](crate::proto::balance::choice::token).
    pub answered_by: Option<u64>,
    /// The head as it was sent, for whom it is passed on to; empty after [`parse`] alone.
    pub raw: Bytes,
    /// The application that it is for, where that is not said by its host: never from the
    /// head itself, so always none after [`parse`].
    pub app: Option<AppName>,
    /// What a proxy that is trusted says of the client: never from the head alone either.
    pub said: Option<Box<Said>>,
    /// The number by which it is known to those who answer it, where the client gives none.
    pub number: Option<u128>,
    /// `Accept-Encoding`, several lines joined.
    pub accept_encoding: Option<String>,
    /// `If-None-Match`, several lines joined.
    pub if_none_match: Option<String>,
    /// `If-Range`; nothing if it is there more than once.
    pub if_range: Option<String>,
    /// `Range`; nothing if it is there more than once.
    pub range: Option<String>,
}

impl Request {
    /// Whether nothing follows the head.
    pub fn has_no_body(&self) -> bool {
        matches!(self.body, Framing::None | Framing::Length(0))
    }

    /// Whether it can be sent again although somebody may have carried it out.
    pub fn may_be_repeated(&self) -> bool {
        self.idempotent && self.has_no_body() && self.upgrade.is_none()
    }

    /// The host without port and without a dot at its end: what sites are
    /// chosen by. An IPv6 address keeps its brackets.
    pub fn host_name(&self) -> Option<&str> {
        let host = self.host.as_deref()?;
        let name = match host.rfind(']') {
            Some(end) => &host[..=end],
            None => host.split(':').next().unwrap_or(host),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty()).then_some(name)
    }
}

/// Why a head was refused. The connection is closed after each of these,
/// since nobody knows where the next request would start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// 431.
    #[error(
        "the request head has more than 16 KiB or 100 lines; send a shorter address or fewer cookies"
    )]
    TooLarge,
    /// 505.
    #[error("this server speaks HTTP/1.0 and HTTP/1.1")]
    Version,
    /// 400.
    #[error("the request is malformed: {0}")]
    Bad(&'static str),
}

impl Malformed {
    /// The HTTP status that says so.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Version => 505,
            Self::Bad(_) => 400,
        }
    }
}

/// Reads one head from the front of `bytes` and says how many bytes it took;
/// `None` if there is more to come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    let used = match head.parse(&bytes[..bytes.len().min(HEAD_MAX)]) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX => {
            return Err(Malformed::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
        Err(httparse::Error::Version) => return Err(Malformed::Version),
        Err(httparse::Error::HeaderName) => return Err(Malformed::Bad("a header name")),
        Err(httparse::Error::HeaderValue) => return Err(Malformed::Bad("a header value")),
        Err(_) => return Err(Malformed::Bad("the request line")),
    };
    // httparse takes a line feed alone for a line end, and others do not.
    if bytes[..used].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
        || bytes.first() == Some(&b'\n')
    {
        return Err(Malformed::Bad("a line feed without a carriage return"));
    }
    let missing = Malformed::Bad("the request line");
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Err(missing);
    };
    let fields = Fields::read(head.headers)?;
    fields.request(method, target, minor).map(|request| Some((request, used)))
}

/// The header lines that matter, each checked by itself.
#[derive(Default)]
struct Fields {
    hosts: Vec<String>,
    lengths: Vec<u64>,
    chunked: bool,
    expects: bool,
    upgrades: bool,
    upgrade: Option<String>,
    close: bool,
    keep_alive: bool,
    said_secure: bool,
    answered_by: Option<u64>,
    accept_encoding: Option<String>,
    if_none_match: Option<String>,
    if_range: Vec<String>,
    range: Vec<String>,
}

impl Fields {
    fn read(lines: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        for line in lines {
            let name = line.name.to_ascii_lowercase();
            // What is not plain ASCII can't be a value of any line read here.
            let Some(value) = std::str::from_utf8(line.value).ok().filter(|v| v.is_ascii()) else {
                let framing = ["host", "content-length", "transfer-encoding", "connection"];
                if framing.contains(&&*name) || matches!(&*name, "upgrade" | "expect") {
                    return Err(Malformed::Bad("a header value that is not ASCII"));
                }
                continue;
            };
            let value = value.trim_matches([' ', '\t']);
            match &*name {
                "host" => fields.hosts.push(checked_host(value)?),
                "content-length" => fields.lengths.push(content_length(value)?),
                "transfer-encoding" => {
                    if fields.chunked || !value.eq_ignore_ascii_case("chunked") {
                        return Err(Malformed::Bad("a Transfer-Encoding other than chunked"));
                    }
                    fields.chunked = true;
                }
                "expect" => {
                    if !value.eq_ignore_ascii_case("100-continue") {
                        return Err(Malformed::Bad("an Expect other than 100-continue"));
                    }
                    fields.expects = true;
                }
                "upgrade" => append(&mut fields.upgrade, value),
                "connection" => {
                    for token in value.split(',').map(|t| t.trim_matches([' ', '\t'])) {
                        fields.close |= token.eq_ignore_ascii_case("close");
                        fields.keep_alive |= token.eq_ignore_ascii_case("keep-alive");
                        fields.upgrades |= token.eq_ignore_ascii_case("upgrade");
                    }
                }
                "x-forwarded-proto" => fields.said_secure = value == "https",
                "cookie" if fields.answered_by.is_none() => {
                    fields.answered_by = affinity::answered_by(value);
                }
                "accept-encoding" => append(&mut fields.accept_encoding, value),
                "if-none-match" => append(&mut fields.if_none_match, value),
                "if-range" => fields.if_range.push(value.to_owned()),
                "range" => fields.range.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(fields)
    }

    fn request(self, method: &str, target: &str, minor: u8) -> Result<Request, Malformed> {
        if self.hosts.len() > 1 {
            return Err(Malformed::Bad("more than one Host"));
        }
        if self.hosts.is_empty() && minor == 1 {
            return Err(Malformed::Bad("HTTP/1.1 without a Host"));
        }
        if self.lengths.len() > 1 {
            return Err(Malformed::Bad("more than one Content-Length"));
        }
        if self.chunked && (!self.lengths.is_empty() || minor == 0) {
            return Err(Malformed::Bad("a Transfer-Encoding that does not belong there"));
        }
        let body = match (self.chunked, self.lengths.first()) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(*length),
            (false, None) => Framing::None,
        };
        // RFC 9110, section 9.2.2.
        let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
        let target = match method {
            // What names no path leads nowhere.
            "CONNECT" => Target::nowhere(),
            "OPTIONS" if target == "*" => Target::nowhere(),
            _ => Target::parse(target)?,
        };
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        let from_line = self.hosts.into_iter().next().filter(|host| !host.is_empty());
        Ok(Request {
            method,
            minor,
            host: target.host.or(from_line),
            path: target.path,
            query: target.query,
            keep_alive: !self.close && (minor == 1 || self.keep_alive),
            body,
            idempotent,
            expects_continue: self.expects && minor == 1,
            // Behind a body that streams nobody could tell where the other protocol begins.
            upgrade: self.upgrade.filter(|_| {
                self.upgrades && minor == 1 && matches!(body, Framing::None | Framing::Length(0))
            }),
            said_secure: self.said_secure,
            answered_by: self.answered_by,
            raw: Bytes::new(),
            app: None,
            said: None,
            number: None,
            accept_encoding: self.accept_encoding,
            if_none_match: self.if_none_match,
            if_range: only(self.if_range),
            range: only(self.range),
        })
    }
}

fn append(to: &mut Option<String>, value: &str) {
    match to {
        Some(text) => {
            text.push_str(", ");
            text.push_str(value);
        }
        None => *to = Some(value.to_owned()),
    }
}

fn only(values: Vec<String>) -> Option<String> {
    <[String; 1]>::try_from(values).ok().map(|[value]| value)
}

fn content_length(value: &str) -> Result<u64, Malformed> {
    // `parse` alone would take a plus sign.
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let length = digits.then(|| value.parse().ok()).flatten();
    length.ok_or(Malformed::Bad("a Content-Length that is no number"))
}

/// Lower case; a name or address and maybe a port, nothing that could be
/// taken for anything else. Empty stays empty: RFC 9112 allows it.
pub(super) fn checked_host(value: &str) -> Result<String, Malformed> {
    let bad = Err(Malformed::Bad("a Host that is none"));
    if value.len() > HOST_MAX {
        return bad;
    }
    let (name, port) = if value.starts_with('[') {
        let Some(end) = value.find(']') else { return bad };
        let inside = &value[1..end];
        if inside.is_empty() || !inside.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
        {
            return bad;
        }
        (&value[..=end], &value[end + 1..])
    } else {
        let end = value.find(':').unwrap_or(value.len());
        let name = &value[..end];
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return bad;
        }
        (name, &value[end..])
    };
    let port_fine = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
    };
    if !port_fine || (name.is_empty() && !port.is_empty()) {
        return bad;
    }
    Ok(value.to_ascii_lowercase())
}

struct Target {
    host: Option<String>,
    path: String,
    query: Option<String>,
}

impl Target {
    fn nowhere() -> Self {
        Self { host: None, path: "*".to_owned(), query: None }
    }

    /// Origin form (`/path?query`) or absolute form (`http://host/path?query`).
    fn parse(target: &str) -> Result<Self, Malformed> {
        if !target.is_ascii() || target.contains('#') {
            return Err(Malformed::Bad("a target that is not an encoded path"));
        }
        let (host, rest) = if target.starts_with('/') {
            (None, target)
        } else {
            let rest = after_scheme(target)
                .ok_or(Malformed::Bad("a target that is neither a path nor an http address"))?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let host = checked_host(&rest[..end])?;
            if host.is_empty() {
                return Err(Malformed::Bad("an address without a host"));
            }
            (Some(host), &rest[end..])
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { host, path: path.to_owned(), query })
    }
}

fn after_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    })
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// 400: it is not encoded as paths are, or tries to climb.
    Malformed,
    /// 404: well-formed, but no file could have that name.
    Nowhere,
}

/// A request path, decoded: its components and whether it ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// None of them empty, `.`, `..`, or with a slash or NUL in it.
    pub components: Vec<Vec<u8>>,
    /// Whether a directory is asked for.
    pub slash: bool,
}

/// Splits `path` (with its leading slash) and decodes each part by itself, so
/// that an encoded slash can't make two of one.
pub fn decode_path(path: &str) -> Result<Wanted, BadPath> {
    let rest = path.strip_prefix('/').ok_or(BadPath::Malformed)?;
    let mut parts: Vec<&str> = rest.split('/').collect();
    let slash = parts.last() == Some(&"");
    if slash {
        parts.pop();
    }
    // Everything is decoded before anything is judged, so that a malformed
    // path is 400 wherever the fault in it stands.
    let components = parts.iter().map(|part| decode(part)).collect::<Result<Vec<_>, _>>()?;
    if components.iter().any(|c| c == b"." || c == b"..") {
        return Err(BadPath::Malformed);
    }
    let impossible =
        |c: &Vec<u8>| c.is_empty() || c.contains(&b'/') || c.len() > limits::COMPONENT_MAX;
    if components.len() > limits::DEPTH_MAX || components.iter().any(impossible) {
        return Err(BadPath::Nowhere);
    }
    Ok(Wanted { components, slash })
}

fn decode(part: &str) -> Result<Vec<u8>, BadPath> {
    let bytes = part.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let digit = |n: usize| bytes.get(at + n).is_some_and(u8::is_ascii_hexdigit);
        if *byte == b'%' && !(digit(1) && digit(2)) {
            return Err(BadPath::Malformed);
        }
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode(bytes).collect();
    if decoded.contains(&0) { Err(BadPath::Malformed) } else { Ok(decoded) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Request {
        let (request, used) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(used, text.len());
        request
    }

    fn bad(text: &str) -> u16 {
        parse(text.as_bytes()).expect_err(text).status()
    }

    #[test]
    fn a_plain_request() {
        let request = one("GET /a%20b?x=1 HTTP/1.1\r\nHost: Example.ORG:8080\r\n\r\n");
        assert_eq!(request.method, Method::Get);
        assert_eq!(request.path, "/a%20b");
        assert_eq!(request.query.as_deref(), Some("x=1"));
        assert_eq!(request.host.as_deref(), Some("example.org:8080"));
        assert_eq!(request.host_name(), Some("example.org"));
        assert!(request.keep_alive);
    }

    #[test]
    fn how_long_the_connection_lives() {
        assert!(!one("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!one("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(one("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    }

    #[test]
    fn absolute_targets_win_over_the_host_line() {
        let request = one("GET HTTP://B.example/x?y HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request.host.as_deref(), Some("b.example"));
        assert_eq!(request.path, "/x");
        assert_eq!(one("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
    }

    #[test]
    fn host_names_lose_their_port_and_final_dot() {
        for (host, name) in
            [("a.", Some("a")), ("[::1]:80", Some("[::1]")), ("a.:80", Some("a")), ("", None)]
        {
            let request = one(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(request.host_name(), name, "{host:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let cases = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n",
            "POST * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
            "G@T\x01 / HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for case in cases {
            assert_eq!(bad(case), 400, "{case:?}");
        }
        assert_eq!(bad("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
    }

    #[test]
    fn other_methods_are_understood_as_far_as_needed() {
        let request = one("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((request.method, request.body), (Method::Other, Framing::None));
        assert_eq!((&*request.path, request.may_be_repeated()), ("*", true));
        let request = one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
        assert_eq!((request.method, request.body), (Method::Other, Framing::Length(3)));
        assert!(!request.may_be_repeated() && !request.has_no_body());
        let request = one("PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\
                           Expect: 100-Continue\r\n\r\n");
        assert_eq!((request.body, request.expects_continue), (Framing::Chunked, true));
        let text = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n";
        let request = one(&format!("{text}Connection: keep-alive, Upgrade\r\n\r\n"));
        assert_eq!(request.upgrade.as_deref(), Some("websocket"));
        let text = "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n";
        assert_eq!(one(&format!("{text}Transfer-Encoding: chunked\r\n\r\n")).upgrade, None);
        let text = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n";
        // A wish that is not for this connection is none.
        assert_eq!(one(&format!("{text}\r\n")).upgrade, None);
        assert_eq!(one("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").path, "*");
    }

    #[test]
    fn a_head_is_bounded() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(HEAD_MAX));
        assert_eq!(bad(&long), 431);
        assert_eq!(bad(&"\r\n".repeat(HEAD_MAX)), 431);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(bad(&many), 431);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap(), None);
    }

    #[test]
    fn doubled_range_lines_count_for_nothing() {
        let request = one("GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\nRange: bytes=1-1\r\n\
                           Accept-Encoding: br\r\naccept-encoding: gzip\r\n\r\n");
        assert_eq!(request.range, None);
        assert_eq!(request.accept_encoding.as_deref(), Some("br, gzip"));
    }

    #[test]
    fn paths_are_decoded_part_by_part() {
        let fine = |path: &str| decode_path(path).map(|w| (w.components, w.slash));
        assert_eq!(fine("/"), Ok((vec![], true)));
        assert_eq!(fine("/a%20b/%C3%A4"), Ok((vec![b"a b".to_vec(), "ä".into()], false)));
        assert_eq!(fine("/a/"), Ok((vec![b"a".to_vec()], true)));
        assert_eq!(fine("/a+b"), Ok((vec![b"a+b".to_vec()], false)));
        for path in ["/%", "/%4", "/%zz", "/%00", "/..", "/a/../b", "/%2e%2E/x", "/.", "//%", "a"] {
            assert_eq!(fine(path), Err(BadPath::Malformed), "{path}");
        }
        for path in ["//", "/a//b", "/a%2Fb", "/..%2f..%2fetc", &format!("/{}", "a".repeat(256))] {
            assert_eq!(fine(path), Err(BadPath::Nowhere), "{path}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let mut request = b"GET ".to_vec();
            request.extend_from_slice(&bytes);
            request.extend_from_slice(b" HTTP/1.1\r\nHost: a\r\n\r\n");
            if let Ok(Some((request, _))) = parse(&request) {
                let _ = decode_path(&request.path);
            }
        }

        #[test]
        fn a_cut_head_is_incomplete_and_not_misread(cut in 0_usize..58) {
            let head = b"GET /some/path HTTP/1.1\r\nHost: example.org\r\nRange: bytes=\r\n\r\n";
            prop_assert_eq!(parse(&head[..cut]), Ok(None));
        }
    }
}
