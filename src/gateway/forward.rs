//! Passes a request on to a member that holds the site, and its response back.
//! The request is written anew from what was understood of it, so nothing
//! that this member did not check reaches another. The response is taken by
//! its `Content-Length` and nothing else. A holder that can't be reached, or
//! says nothing sensible, is passed over; once a head was passed back there
//! is no way back, and a broken holder cuts the connection.

use std::{io, net::IpAddr, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Forward, Stats,
    answer::Answer,
    deliver::{Framing, Head, deliver},
    request::{HEAD_MAX, HEADERS_MAX, Method, Request},
    transport::{Broken, Transport},
};
use crate::base::MemberId;

/// Holders asked for one request: a visitor does not wait for more.
const HOLDERS_MAX: usize = 4;
/// Bytes read at once from a holder.
const PIECE: usize = 64 << 10;

/// How long a holder may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// To be reached.
    pub(super) connect: Duration,
    /// To send its response head.
    pub(super) head: Duration,
    /// Between two pieces of its body.
    pub(super) stall: Duration,
}

/// Answers `request` from the first of `holders` that can. Says whether the
/// client's connection stays open.
pub(super) async fn relay<T: Transport, F: Forward>(
    to: &mut T,
    framing: Framing,
    request: &Request,
    client: IpAddr,
    (forward, holders): (&F, &[MemberId]),
    patience: Patience,
    stats: &Stats,
) -> Result<bool, Broken> {
    let text = written(request, client);
    for holder in holders.iter().take(HOLDERS_MAX) {
        match ask(forward, *holder, &text, framing.head_only, patience).await {
            Ok(response) => {
                stats.forwarded();
                return pass_back(to, framing, response, patience, stats).await;
            }
            Err(error) => {
                stats.forward_failure();
                tracing::debug!(%holder, %error, "a member did not answer for a site it holds");
            }
        }
    }
    let words = "None of the servers that hold this site can be reached at the moment. \
                 Please try again in a few seconds.";
    deliver(to, framing, Answer::unavailable(503, words), None, stats).await
}

/// A response whose head is here and whose body is on its way.
struct Response<S> {
    head: ResponseHead,
    stream: S,
    /// What came of the body together with the head.
    begun: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
struct ResponseHead {
    status: u16,
    /// Without those that belong to a single connection.
    lines: Vec<(String, String)>,
    /// As announced.
    length: Option<u64>,
    /// Bytes of body that follow.
    body: u64,
}

async fn ask<F: Forward>(
    forward: &F,
    holder: MemberId,
    request: &[u8],
    head_only: bool,
    patience: Patience,
) -> io::Result<Response<F::Stream>> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut stream = timeout(patience.connect, forward.connect(holder)).await.map_err(late)??;
    let exchange = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        let mut buffer = BytesMut::with_capacity(4 << 10);
        loop {
            if let Some((head, used)) = parse(&buffer, head_only)? {
                let begun = buffer.split_off(used);
                return Ok::<_, io::Error>((head, begun));
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    let (head, begun) = timeout(patience.head, exchange).await.map_err(late)??;
    Ok(Response { head, stream, begun })
}

/// The request as this member understood it. All values were checked when it
/// was parsed: ASCII without control characters.
fn written(request: &Request, client: IpAddr) -> Vec<u8> {
    let method = if request.method == Method::Head { "HEAD" } else { "GET" };
    let mut text = format!("{method} {}", request.path);
    if let Some(query) = &request.query {
        text.push('?');
        text.push_str(query);
    }
    text.push_str(" HTTP/1.1\r\n");
    let host = request.host.as_deref().unwrap_or_default();
    let mut line = |name: &str, value: &str| {
        text.push_str(name);
        text.push_str(": ");
        text.push_str(value);
        text.push_str("\r\n");
    };
    line("Host", host);
    let kept = [
        ("Accept-Encoding", &request.accept_encoding),
        ("If-None-Match", &request.if_none_match),
        ("If-Range", &request.if_range),
        ("Range", &request.range),
    ];
    for (name, value) in kept {
        if let Some(value) = value {
            line(name, value);
        }
    }
    // What the client itself claims to be forwarded for is not believed.
    line("X-Forwarded-For", &client.to_string());
    line("X-Forwarded-Proto", "http");
    line("X-Forwarded-Host", host);
    line("Via", "1.1 althing");
    line("Connection", "close");
    text.push_str("\r\n");
    text.into_bytes()
}

/// Reads a response head; `None` if there is more to come.
fn parse(bytes: &[u8], head_only: bool) -> io::Result<Option<(ResponseHead, usize)>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let parsed = head.parse(&bytes[..bytes.len().min(HEAD_MAX)]);
    let used = match parsed.map_err(|error| bad(&error.to_string()))? {
        httparse::Status::Complete(used) => used,
        httparse::Status::Partial if bytes.len() >= HEAD_MAX => {
            return Err(bad("its response head is longer than 16 KiB"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.filter(|code| (200..=599).contains(code));
    let status = status.ok_or_else(|| bad("its status is none"))?;
    let (mut kept, mut length) = (Vec::new(), None);
    for line in head.headers.iter() {
        let value = std::str::from_utf8(line.value).map_err(|_| bad("a value is no text"))?;
        match &*line.name.to_ascii_lowercase() {
            "content-length" if length.is_some() => return Err(bad("two lengths")),
            "content-length" => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let value = value.parse().ok().filter(|_| digits);
                length = Some(value.ok_or_else(|| bad("its length is no number"))?);
            }
            "transfer-encoding" => return Err(bad("a body without a length")),
            // These are between the two members, or written anew.
            "connection"
            | "keep-alive"
            | "upgrade"
            | "trailer"
            | "te"
            | "proxy-connection"
            | "date"
            | "server"
            | "x-content-type-options" => {}
            _ => kept.push((line.name.to_owned(), value.to_owned())),
        }
    }
    let bodiless = head_only || status == 304 || status == 204;
    let body = match (bodiless, length) {
        (true, _) => 0,
        (false, Some(length)) => length,
        (false, None) => return Err(bad("a body without a length")),
    };
    Ok(Some((ResponseHead { status, lines: kept, length, body }, used)))
}

async fn pass_back<T: Transport, S: tokio::io::AsyncRead + Unpin + Send>(
    to: &mut T,
    framing: Framing,
    response: Response<S>,
    patience: Patience,
    stats: &Stats,
) -> Result<bool, Broken> {
    let Response { head: ResponseHead { status, lines, length, body }, mut stream, begun } =
        response;
    let mut head = Head::new(status);
    for (name, value) in &lines {
        head.line(name, value);
    }
    if let Some(length) = length {
        head.line("Content-Length", &length.to_string());
    }
    let mut piece = begun;
    // Anything behind the body is not part of it.
    piece.truncate(usize::try_from(body).unwrap_or(usize::MAX).min(piece.len()));
    let mut left = body - piece.len() as u64;
    let mut out = head.finish(framing.keep_alive, framing.minor);
    out.extend_from_slice(&piece);
    stats.response(status);
    to.write(&out, left > 0).await?;
    while left > 0 {
        piece.clear();
        piece.reserve(PIECE);
        let mut limited = (&mut stream).take(left);
        let read = timeout(patience.stall, limited.read_buf(&mut piece)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match read.map_err(Broken::Holder)? {
            0 => return Err(Broken::Holder(io::ErrorKind::UnexpectedEof.into())),
            read => left -= read as u64,
        }
        to.write(&piece, left > 0).await?;
    }
    stats.sent(body);
    Ok(framing.keep_alive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::request;

    #[test]
    fn the_request_is_written_anew() {
        let head = b"GET http://Site.example:81/a%20b?q HTTP/1.0\r\nHost: other\r\nCookie: c\r\n\
                     X-Forwarded-For: 6.6.6.6\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip\r\n\r\n";
        let (request, _) = request::parse(head).unwrap().unwrap();
        let text = String::from_utf8(written(&request, [127, 0, 0, 9].into())).unwrap();
        assert_eq!(
            text,
            "GET /a%20b?q HTTP/1.1\r\nHost: site.example:81\r\nAccept-Encoding: gzip\r\n\
             Range: bytes=0-1\r\nX-Forwarded-For: 127.0.0.9\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: site.example:81\r\nVia: 1.1 althing\r\nConnection: close\r\n\r\n"
        );
        let (again, used) = request::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((again.host, again.path, used), (request.host, request.path, text.len()));
    }

    #[test]
    fn response_heads_are_checked() {
        let head =
            b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        let (parsed, used) = parse(head, false).unwrap().unwrap();
        assert_eq!((parsed.status, parsed.length, parsed.body), (200, Some(3), 3));
        assert_eq!(parsed.lines, [("ETag".to_owned(), "\"x\"".to_owned())]);
        assert_eq!(&head[used..], b"abc");
        assert_eq!(parse(head, true).unwrap().unwrap().0.body, 0);
        assert_eq!(parse(&head[..30], false).unwrap(), None);
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(parse(bad.as_bytes(), false).is_err(), "{bad:?}");
        }
        assert!(parse(&[b'H'; HEAD_MAX], false).is_err());
    }
}
