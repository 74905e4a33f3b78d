//! What a request is answered with: a pure decision from a [`Request`] and a
//! [`Site`]'s tree. No byte of any file is read here, and nothing outside the
//! tree can be named: symbolic links are followed inside it only.
//!
//! There is no `Last-Modified`: a file's time differs from member to member,
//! and a client that validates by it would fetch again what it has, or keep
//! what is old, whenever the next request reaches another member. The entity
//! tag is the content's digest and the same everywhere.

use std::{collections::VecDeque, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::{
    Site, encoding,
    proxy::head,
    range::{self, Part},
    request::{self, BadPath, Malformed, Method, Request},
};
use crate::base::{
    Digest, RelPath,
    digest::hex,
    tree::{Node, Tree},
};

/// Symbolic links followed for one request: as many as Linux follows.
const LINKS_MAX: usize = 40;
/// What stays as it is in a path: RFC 3986's `pchar`, less what a browser
/// might take for something else.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A response before its bytes are fetched. `Date`, `Server`, `Connection`
/// and `Content-Length` are added when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header lines, in order.
    pub headers: Vec<(&'static str, String)>,
    /// Where the body comes from.
    pub body: Body,
    /// Whether the connection must be closed behind it.
    pub close: bool,
}

/// Where a body comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none and there can be none: 304.
    None,
    /// These bytes.
    Page(Vec<u8>),
    /// `len` bytes of a file from `start`; `start + len` is within `size`.
    File {
        /// The file itself, links resolved.
        file: FileRef,
        /// The first byte.
        start: u64,
        /// How many.
        len: u64,
    },
    /// The gzip form of a whole file.
    Gzip(FileRef),
}

/// A file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// Where it stands; a regular file in the site's tree.
    pub path: RelPath,
    /// Of its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl Answer {
    /// A small page in plain words.
    pub fn page(status: u16, words: &str) -> Self {
        let title = reason(status);
        let text = escape(words);
        let page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{status} {title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n</html>\n"
        );
        let headers = vec![
            ("Content-Type", "text/html; charset=utf-8".to_owned()),
            ("Cache-Control", "no-cache".to_owned()),
        ];
        Self { status, headers, body: Body::Page(page.into_bytes()), close: false }
    }

    /// For a head that was refused.
    pub fn malformed(why: &Malformed) -> Self {
        Self { close: true, ..Self::page(why.status(), &sentence(&why.to_string())) }
    }

    /// For a method that no static site has. A body that may follow is not
    /// read, so the connection ends if there is one.
    pub fn not_allowed(request: &Request) -> Self {
        let mut answer = Self::page(405, "This site can be read, and nothing else.");
        answer.headers.push(("Allow", "GET, HEAD".to_owned()));
        answer.close = !request.has_no_body();
        answer
    }

    /// For another member: nobody here answers this, and nobody was asked.
    pub fn passed_to_nobody() -> Self {
        let mut answer = Self::unavailable(503, "Nobody is ready here.");
        answer.headers.push((head::REFUSED, "nobody is ready here".to_owned()));
        answer
    }

    /// The same where there is one who is ready, and has as much to do as it may have.
    pub fn full() -> Self {
        let mut answer = Self::unavailable(503, "There is too much to do here.");
        answer.headers.push((head::REFUSED, head::FULL.to_owned()));
        answer
    }

    /// For a client that is to come by TLS, at `port` if not 443.
    pub fn by_tls(request: &Request, port: Option<u16>) -> Self {
        let (Some(host), true) = (request.host_name(), request.path.starts_with('/')) else {
            return Self { close: true, ..Self::page(400, "This is served over TLS alone.") };
        };
        let mut location = format!("https://{host}");
        if let Some(port) = port {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&request.path);
        if let Some(query) = &request.query {
            location.push('?');
            location.push_str(query);
        }
        let mut answer = Self::page(308, "This is served over TLS alone.");
        answer.headers.push(("Location", location));
        answer.close = !request.has_no_body();
        answer
    }

    /// For a request over a TLS connection that was begun for somebody else.
    pub fn misdirected(request: &Request) -> Self {
        let why = "This connection was made for another name. Please ask over one of its own.";
        Self { close: !request.has_no_body(), ..Self::page(421, why) }
    }

    /// For a head that did not arrive in time.
    pub fn too_slow() -> Self {
        Self { close: true, ..Self::page(408, "The request did not arrive in time.") }
    }

    /// For a body that is longer than what answers takes.
    pub fn too_large() -> Self {
        Self { close: true, ..Self::page(413, "This is more than can be sent here.") }
    }

    /// For a site that can't be served now: any status, with a time to come
    /// back for 503.
    pub fn unavailable(status: u16, why: &str) -> Self {
        let status = if (400..=599).contains(&status) { status } else { 503 };
        let mut answer = Self::page(status, why);
        if status == 503 {
            answer.headers.push(("Retry-After", "5".to_owned()));
        }
        answer
    }
}

/// The answer of `site` to `request`, a GET or a HEAD.
pub fn decide(request: &Request, site: &dyn Site) -> Answer {
    let mut answer = choose(request, site);
    answer.headers.push(("Althing-Version", format!("{}/{}", site.app(), site.version())));
    answer
}

/// The same for a page of an earlier version that asks for a file of its own: one that `site`
/// does not have, under a name that carries a hash of its content, and so never means
/// anything else. Nothing else is taken from what was replaced. With the version that has it.
pub fn decide_for_earlier(
    request: &Request,
    site: &Arc<dyn Site>,
) -> Option<(Answer, Arc<dyn Site>)> {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    if !carries_hash(name.as_bytes()) {
        return None;
    }
    site.earlier().into_iter().find_map(|earlier| {
        let answer = decide(request, earlier.as_ref());
        matches!(answer.status, 200 | 206 | 304).then_some((answer, earlier))
    })
}

fn choose(request: &Request, site: &dyn Site) -> Answer {
    let wanted = match request::decode_path(&request.path) {
        Ok(wanted) => wanted,
        Err(BadPath::Malformed) => {
            return Answer::page(400, "The address is not written as addresses are.");
        }
        Err(BadPath::Nowhere) => return not_found(request, site),
    };
    match resolve(site.tree(), b"", wanted.components.iter().map(Vec::as_slice)) {
        Some(Place::File(file)) if !wanted.slash => found(request, file),
        Some(Place::Directory(directory)) => match index(site, &directory) {
            Some(file) if wanted.slash => found(request, file),
            Some(_) => to_directory(request, &wanted.components),
            None => not_found(request, site),
        },
        _ => not_found(request, site),
    }
}

fn found(request: &Request, file: FileRef) -> Answer {
    let content_type = content_type(&file.path);
    let varies = varies(content_type_essence(&content_type), file.size);
    // Ranges are of the file as it is, so whoever asks for one gets that form.
    let range = request.range.as_deref().filter(|_| request.method == Method::Get);
    let gzip = varies && range.is_none() && accepts_gzip(request);
    let tag = entity_tag(&file.digest, gzip);

    let mut headers = vec![("ETag", tag.clone()), ("Cache-Control", cache_control(&file.path))];
    if varies {
        headers.push(("Vary", "Accept-Encoding".to_owned()));
    }
    if request.if_none_match.as_deref().is_some_and(|line| matches_any(line, &tag)) {
        return Answer { status: 304, headers, body: Body::None, close: false };
    }
    headers.push(("Content-Type", content_type));
    if gzip {
        headers.push(("Content-Encoding", "gzip".to_owned()));
        return Answer { status: 200, headers, body: Body::Gzip(file), close: false };
    }
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    // Strong comparison; a date never matches, as no date was given out.
    let counts = request.if_range.as_deref().is_none_or(|line| line == tag);
    let part = range.filter(|_| counts).map_or(Part::Whole, |line| range::parse(line, file.size));
    match part {
        Part::Whole => {
            let len = file.size;
            Answer { status: 200, headers, body: Body::File { file, start: 0, len }, close: false }
        }
        Part::Bytes(bytes) => {
            let (start, len) = (bytes.start, bytes.end - bytes.start);
            let words = format!("bytes {}-{}/{}", start, bytes.end - 1, file.size);
            headers.push(("Content-Range", words));
            Answer { status: 206, headers, body: Body::File { file, start, len }, close: false }
        }
        Part::Beyond => {
            let mut answer = Answer::page(416, "The file is shorter than that.");
            answer.headers.push(("Content-Range", format!("bytes */{}", file.size)));
            answer
        }
    }
}

/// The site's own page with status 404, or a small one of ours.
fn not_found(request: &Request, site: &dyn Site) -> Answer {
    let name = site.spec().not_found.as_deref().unwrap_or("404.html");
    let parts = name.split('/').filter(|part| !part.is_empty()).map(str::as_bytes);
    let Some(Place::File(file)) = resolve(site.tree(), b"", parts) else {
        return Answer::page(404, "There is nothing at this address.");
    };
    let content_type = content_type(&file.path);
    let varies = varies(content_type_essence(&content_type), file.size);
    let mut headers =
        vec![("Content-Type", content_type), ("Cache-Control", "no-cache".to_owned())];
    if varies {
        headers.push(("Vary", "Accept-Encoding".to_owned()));
    }
    let body = if varies && accepts_gzip(request) {
        headers.push(("Content-Encoding", "gzip".to_owned()));
        Body::Gzip(file)
    } else {
        let len = file.size;
        Body::File { file, start: 0, len }
    };
    Answer { status: 404, headers, body, close: false }
}

/// The file that answers for `directory` (bytes without slashes at the ends).
fn index(site: &dyn Site, directory: &[u8]) -> Option<FileRef> {
    let name = site.spec().index.as_deref().unwrap_or("index.html");
    let parts = name.split('/').filter(|part| !part.is_empty()).map(str::as_bytes);
    match resolve(site.tree(), directory, parts)? {
        Place::File(file) => Some(file),
        Place::Directory(_) => None,
    }
}

/// A directory asked for without its slash: links in its index would lead
/// elsewhere. The path is written anew from its parts, so that it always
/// starts with exactly one slash and never names another host.
fn to_directory(request: &Request, components: &[Vec<u8>]) -> Answer {
    let mut location = String::new();
    for component in components {
        location.push('/');
        location.extend(percent_encode(component, ENCODED));
    }
    location.push('/');
    if let Some(query) = &request.query {
        location.push('?');
        location.push_str(query);
    }
    let mut answer = Answer::page(301, "This is a directory; its address ends with a slash.");
    answer.headers.push(("Location", location));
    answer
}

/// What a path leads to.
enum Place {
    /// The bytes of its path; empty for the root.
    Directory(Vec<u8>),
    File(FileRef),
}

/// Follows `parts` from the directory `from`, through symbolic links that stay
/// in the tree. `None` for what is not there, leaves the tree or goes round.
fn resolve<'a>(tree: &Tree, from: &[u8], parts: impl Iterator<Item = &'a [u8]>) -> Option<Place> {
    let mut here = from.to_vec();
    let mut ahead: VecDeque<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == b"." {
            continue;
        }
        if part == b".." {
            if here.is_empty() {
                return None;
            }
            here.truncate(here.iter().rposition(|b| *b == b'/').unwrap_or(0));
            continue;
        }
        let mut next = here.clone();
        if !next.is_empty() {
            next.push(b'/');
        }
        next.extend_from_slice(&part);
        let path = RelPath::parse(&next).ok()?;
        if path.is_definition() {
            return None; // how an application is run is nobody's business outside
        }
        match tree.get(&path)? {
            Node::Directory { .. } => here = next,
            Node::File { digest, size, .. } => {
                let file = FileRef { path, digest: *digest, size: *size };
                return ahead.is_empty().then_some(Place::File(file));
            }
            Node::Symlink { target } => {
                links += 1;
                if links > LINKS_MAX || target.first() == Some(&b'/') {
                    return None;
                }
                let parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty());
                for part in parts.rev() {
                    ahead.push_front(part.to_vec());
                }
            }
        }
    }
    Some(Place::Directory(here))
}

fn accepts_gzip(request: &Request) -> bool {
    request.accept_encoding.as_deref().is_some_and(encoding::accepts_gzip)
}

fn varies(content_type: &str, size: u64) -> bool {
    encoding::compressible(content_type)
        && (encoding::SIZE_MIN..=encoding::SIZE_MAX).contains(&size)
}

/// Half of the digest: 128 bits tell any two files apart.
fn entity_tag(digest: &Digest, gzip: bool) -> String {
    format!("\"{}{}\"", hex(&digest.0[..16]), if gzip { "-gzip" } else { "" })
}

/// Whether an `If-None-Match` line names `tag`, compared weakly.
fn matches_any(line: &str, tag: &str) -> bool {
    // None of our tags holds a comma, so cutting at commas can hide none.
    line.trim() == "*"
        || line.split(',').map(str::trim).any(|t| t.strip_prefix("W/").unwrap_or(t) == tag)
}

fn content_type(path: &RelPath) -> String {
    let name = String::from_utf8_lossy(path.file_name());
    let guess = mime_guess::from_path(&*name).first_or_octet_stream();
    let essence = guess.essence_str();
    if essence.starts_with("text/") || essence == "application/javascript" {
        format!("{essence}; charset=utf-8")
    } else {
        essence.to_owned()
    }
}

fn content_type_essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or(content_type)
}

/// A name that carries a hash of its content never means anything else, so
/// whoever has it need not ask again. Everything else is asked about each
/// time, which costs one small 304.
fn cache_control(path: &RelPath) -> String {
    let lasting = "public, max-age=31536000, immutable";
    if carries_hash(path.file_name()) { lasting } else { "no-cache" }.to_owned()
}

/// Whether a file name looks like `app.3f9c2b71.js` or `app-3f9c2b71aa.min.css`.
/// Careful on purpose: a wrong yes keeps an old file at visitors for a year.
fn carries_hash(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    // Pages keep their names when they change.
    if matches!(&*extension.to_ascii_lowercase(), "html" | "htm" | "xhtml") {
        return false;
    }
    let parts: Vec<&str> = stem.split(['.', '-', '_']).collect();
    // A UUID is five groups of hex: an identifier, not a hash.
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    let uuid = parts.windows(5).any(|five| {
        five.iter().zip([8, 4, 4, 4, 12]).all(|(part, len)| part.len() == len && is_hex(part))
    });
    !uuid
        && parts.len() > 1
        && parts[1..].iter().any(|part| {
            // Digits alone are a date or a number, letters alone a word.
            (8..=64).contains(&part.len())
                && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && part.bytes().any(|b| b.is_ascii_digit())
                && part.bytes().any(|b| b.is_ascii_alphabetic())
        })
}

/// The words behind a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ if status < 400 => "Answer",
        _ => "Error",
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// An error message as a sentence on a page.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}
