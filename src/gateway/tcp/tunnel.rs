//! How a stream between two members begins that carries a client's connection: a `CONNECT`
//! that names application and port (RFC 9110, section 9.3.6), with the client's address in a
//! `Forwarded` line (RFC 7239); then a 200, and what follows is the connection. Any other
//! status says that there is nobody. Pure.
//!
//! The line is believed because only members open such streams: a client never sees one.

use std::net::SocketAddr;

use super::header::Parties;
use crate::base::AppName;

/// The longest head, bytes.
pub(super) const HEAD_MAX: usize = 1 << 10;
/// The most lines in one.
const LINES_MAX: usize = 16;
/// Says yes.
pub(super) const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
/// Says that there is nobody who takes it.
pub(super) const NOBODY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// What a member asks another for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose port it is.
    pub app: AppName,
    /// Which one.
    pub port: u16,
    /// Who connects.
    pub parties: Parties,
}

/// A head that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other member did not begin as it should: {0}")]
pub struct BadHead(&'static str);

impl Asked {
    /// The head that asks.
    pub fn head(&self) -> Vec<u8> {
        let Self { app, port, parties } = self;
        let (client, server) = (parties.client(), parties.server());
        format!(
            "CONNECT {app}:{port} HTTP/1.1\r\nHost: {app}:{port}\r\n\
             Forwarded: for=\"{client}\";by=\"{server}\"\r\n\r\n"
        )
        .into_bytes()
    }

    /// Reads a head from the front of `bytes`, and says how long it is; none if there is
    /// more to come.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadHead> {
        let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
        let mut head = httparse::Request::new(&mut lines);
        let Some(used) = length(bytes, head.parse(&bytes[..bytes.len().min(HEAD_MAX)]))? else {
            return Ok(None);
        };
        if head.method != Some("CONNECT") || head.version != Some(1) {
            return Err(BadHead("it asks for something else"));
        }
        let target = head.path.and_then(|target| target.rsplit_once(':'));
        let (app, port) = target.ok_or(BadHead("it names no port"))?;
        let app = AppName::parse(app).map_err(|_| BadHead("it names no application"))?;
        let port = port.parse().ok().filter(|p: &u16| p.to_string() == port);
        let port = port.ok_or(BadHead("its port is none"))?;
        let mut told = head.headers.iter().filter(|l| l.name.eq_ignore_ascii_case("forwarded"));
        let (Some(line), None) = (told.next(), told.next()) else {
            return Err(BadHead("it does not say who connects"));
        };
        let parties = parties(line.value).ok_or(BadHead("it does not say who connects"))?;
        Ok(Some((Self { app, port, parties }, used)))
    }
}

/// Whether the other member takes it, and how long its head is; none if there is more to
/// come.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<(bool, usize)>, BadHead> {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let used = length(bytes, head.parse(&bytes[..bytes.len().min(HEAD_MAX)]))?;
    Ok(used.map(|used| (head.code == Some(200), used)))
}

fn length(bytes: &[u8], parsed: httparse::Result<usize>) -> Result<Option<usize>, BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(used)) => Ok(Some(used)),
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => Ok(None),
        Ok(httparse::Status::Partial) => Err(BadHead("its head is longer than 1 KiB")),
        Err(_) => Err(BadHead("it is no HTTP")),
    }
}

fn parties(value: &[u8]) -> Option<Parties> {
    let (client, server) = std::str::from_utf8(value).ok()?.split_once(';')?;
    let address = |part: &str, name: &str| -> Option<SocketAddr> {
        part.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"')?.parse().ok()
    };
    Some(Parties::new(address(client, "for")?, address(server, "by")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        for (client, server) in
            [("192.0.2.1:7", "192.0.2.2:5432"), ("[2001:db8::1]:7", "[2001:db8::2]:5432")]
        {
            let parties = Parties::new(client.parse().unwrap(), server.parse().unwrap());
            let asked = Asked { app: AppName::parse("web").unwrap(), port: 5432, parties };
            let head = asked.head();
            for cut in 0..head.len() {
                assert_eq!(Asked::parse(&head[..cut]), Ok(None));
            }
            let bytes = [&head[..], b"more"].concat();
            assert_eq!(Asked::parse(&bytes), Ok(Some((asked, head.len()))));
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused() {
        let good = "CONNECT web:1 HTTP/1.1\r\nForwarded: for=\"1.1.1.1:1\";by=\"1.1.1.2:2\"\r\n";
        assert!(Asked::parse(format!("{good}\r\n").as_bytes()).unwrap().is_some());
        for bad in [
            good.replace("CONNECT", "GET"),
            good.replace("1.1\r\n", "1.0\r\n"),
            good.replace("web:1", "web"),
            good.replace("web:1", "web:01"),
            good.replace("web:1", "web:65536"),
            good.replace("web", "../x"),
            good.replace("for", "from"),
            good.replace(";by", "; by"),
            good.replace("Forwarded", "X-Forwarded-For"),
            good.replace("1.1.1.1:1", "unknown"),
            format!("{good}Forwarded: for=\"2.2.2.2:1\";by=\"1.1.1.2:2\"\r\n"),
            "SSH-2.0\r\n".to_owned(),
            format!("{good}X: {}\r\n", "x".repeat(HEAD_MAX)),
        ] {
            assert!(Asked::parse(format!("{bad}\r\n").as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(answer(TAKEN), Ok(Some((true, TAKEN.len()))));
        assert_eq!(answer(NOBODY), Ok(Some((false, NOBODY.len()))));
        assert!(!answer(b"HTTP/1.1 405 No\r\n\r\n").unwrap().unwrap().0);
        assert_eq!(answer(&TAKEN[..9]), Ok(None));
        assert!(answer(b"\0\0").is_err());
    }
}
