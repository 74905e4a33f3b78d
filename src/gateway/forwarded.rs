//! What a proxy in front of this member says of the client that it speaks for. Asked only
//! where the connection comes from a network whose word is taken. Pure.
//!
//! A list is read from its end, because that is where each proxy adds its line: whatever
//! stands before the first address that is not trusted may have been written by the client.
//! Nothing on the left can change how something further right is read.
//!
//! Only one list counts, `X-Forwarded-For` or else `Forwarded`, and both are passed on as it
//! says: a proxy that knows one of the two passes the other one on as the client wrote it.
//!
//! After RFC 7239.

use std::net::{IpAddr, SocketAddr};

use super::request::{HEADERS_MAX, checked_host};
use crate::base::Network;

/// Entries of a list that are looked at, and passed on: its last ones.
pub const ENTRIES_MAX: usize = 32;
/// Pairs of one entry; RFC 7239 has four.
const PAIRS_MAX: usize = 8;
/// Networks whose word a member takes.
pub const TRUSTED_MAX: usize = 64;

/// What is believed of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The proxy that says so.
    pub peer: IpAddr,
    /// Its address; that of the proxy itself where this says nothing of it.
    pub client: IpAddr,
    /// Whether it came by TLS, if that is said.
    pub secure: Option<bool>,
    /// The host that it asked for, with its port, if that is said. For programs to know;
    /// nothing is chosen by it.
    pub host: Option<String>,
    /// Those that it came by, the client first, as `X-Forwarded-For` has them.
    pub chain: Vec<String>,
    /// The same as `Forwarded` has them.
    pub elements: Vec<String>,
}

/// What the head `raw` says, which came from `peer`; nothing where `trusted` does not hold that.
pub fn said(raw: &[u8], peer: IpAddr, trusted: &[Network]) -> Option<Said> {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
    if !is_trusted(peer) {
        return None;
    }
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    head.parse(raw).ok()?;
    let lines = Lines(head.headers);
    let entries: Vec<Entry> = if lines.last_first("x-forwarded-for").next().is_some() {
        let all = lines.last_first("x-forwarded-for").flat_map(|value| Pieces::new(value, false));
        all.take(ENTRIES_MAX).map(Entry::of_address).collect()
    } else {
        let all = lines.last_first("forwarded").flat_map(|value| Pieces::new(value, true));
        // What stands before one that makes no sense may be anything.
        all.take(ENTRIES_MAX).map_while(Entry::of_element).collect()
    };
    let (mut client, mut secure, mut host) = (peer, None, None);
    let mut of_client = None;
    for (at, entry) in entries.iter().enumerate() {
        // Whoever is trusted says who comes before it, and how that one came to it.
        if !is_trusted(client) {
            break;
        }
        (secure, host, of_client) = (entry.secure, entry.host.clone(), Some(at));
        let Some(node) = entry.node else { break };
        client = node;
    }
    let last = |name| lines.last_first(name).flat_map(|value| Pieces::new(value, false)).next();
    secure = last("x-forwarded-proto").and_then(scheme).or(secure);
    host = last("x-forwarded-host").and_then(checked).or(host);
    let (mut chain, mut elements) = (Vec::new(), Vec::new());
    for (at, entry) in entries.into_iter().enumerate().rev() {
        chain.push(entry.in_chain);
        let mut element = entry.element;
        if entry.is_bare && of_client == Some(at) {
            add_to(&mut element, secure, host.as_deref());
        }
        elements.push(element);
    }
    Some(Said { peer, client, secure, host, chain, elements })
}

impl Said {
    /// The two lists, `X-Forwarded-For` and `Forwarded`, with the proxy itself at their end.
    /// `by_tls` and `host` are how it came.
    pub(super) fn lists(&self, by_tls: bool, host: &str) -> (String, String) {
        let mut last = format!("for={}", node(self.peer));
        match self.elements.is_empty() {
            // It speaks for itself, as far as anybody knows.
            true => {
                let host = self.host.as_deref().unwrap_or(host);
                add_to(&mut last, Some(self.secure.unwrap_or(by_tls)), Some(host));
            }
            false => add_to(&mut last, Some(by_tls), Some(host)),
        }
        let joined = |list: &[String], last: String| {
            let mut all = list.to_vec();
            all.push(last);
            all.join(", ")
        };
        (joined(&self.chain, self.peer.to_string()), joined(&self.elements, last))
    }
}

/// Adds to an element for what was asked, and how. `host` is one that was checked.
pub(super) fn add_to(element: &mut String, secure: Option<bool>, host: Option<&str>) {
    if let Some(host) = host {
        element.push_str(&format!(";host=\"{host}\""));
    }
    if let Some(secure) = secure {
        element.push_str(if secure { ";proto=https" } else { ";proto=http" });
    }
}

/// An address as `Forwarded` has it: one of IPv6 in brackets and quotes.
pub(super) fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// The lines of a head.
struct Lines<'a>(&'a [httparse::Header<'a>]);

impl<'a> Lines<'a> {
    /// The values of the lines of this name, the last one first.
    fn last_first(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let named = self.0.iter().rev().filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.map(|line| line.value)
    }
}

/// What commas part, from the end to the beginning, without spaces around it; empty pieces
/// are passed over.
struct Pieces<'a> {
    left: Option<&'a [u8]>,
    quotes: bool,
}

impl<'a> Pieces<'a> {
    /// `quotes` says that a comma in quotes is none.
    fn new(value: &'a [u8], quotes: bool) -> Self {
        Self { left: Some(value), quotes }
    }

    /// Where the last comma stands. Read backwards, so that a quote which is opened further
    /// left, and never closed, hides nothing.
    fn comma(&self, value: &[u8]) -> Option<usize> {
        let mut quoted = false;
        for at in (0..value.len()).rev() {
            match value[at] {
                b'"' if self.quotes => {
                    let before = value[..at].iter().rev().take_while(|b| **b == b'\\').count();
                    // Within quotes one behind a backslash is content.
                    if !quoted || before % 2 == 0 {
                        quoted = !quoted;
                    }
                }
                b',' if !quoted => return Some(at),
                _ => {}
            }
        }
        None
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let value = self.left.take()?;
            let piece = match self.comma(value) {
                Some(at) => {
                    self.left = Some(&value[..at]);
                    &value[at + 1..]
                }
                None => value,
            };
            let piece = piece.trim_ascii();
            if !piece.is_empty() {
                return Some(piece);
            }
        }
    }
}

/// One entry of a list.
struct Entry {
    /// Where it came from, if that is an address.
    node: Option<IpAddr>,
    /// Whether it came by TLS, if that is said.
    secure: Option<bool>,
    host: Option<String>,
    /// As `X-Forwarded-For` has it.
    in_chain: String,
    /// As `Forwarded` has it.
    element: String,
    /// Whether nothing but its address is said there.
    is_bare: bool,
}

impl Entry {
    /// One of `X-Forwarded-For`.
    fn of_address(piece: &[u8]) -> Self {
        let text = std::str::from_utf8(piece).ok();
        let text = text.filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
        let address = text.and_then(address);
        Self {
            node: address,
            secure: None,
            host: None,
            in_chain: text.unwrap_or("unknown").to_owned(),
            element: format!("for={}", address.map_or_else(|| "unknown".to_owned(), node)),
            is_bare: true,
        }
    }

    /// One of `Forwarded`; none if it is not written as that is.
    fn of_element(piece: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(piece).ok()?;
        let (mut by, mut proto, mut host) = (None, None, None);
        let mut seen = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, value, behind) = pair(rest)?;
            if seen.contains(&name) || seen.len() == PAIRS_MAX {
                return None;
            }
            match &*name {
                "for" => by = Some(value),
                "proto" => proto = Some(value),
                "host" => host = Some(value),
                _ => {}
            }
            seen.push(name);
            rest = behind;
        }
        let node = by.as_deref().and_then(address);
        Some(Self {
            node,
            secure: proto.and_then(|proto| scheme(proto.as_bytes())),
            host: host.and_then(|host| checked(host.as_bytes())),
            in_chain: node.map_or_else(|| "unknown".to_owned(), |node| node.to_string()),
            element: text.to_owned(),
            is_bare: false,
        })
    }
}

/// The first `name=value` of an element, its name in lower case and its value out of its
/// quotes, and what follows its semicolon.
fn pair(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_start_matches(' ');
    if !is_token(name) {
        return None;
    }
    let (value, rest) = match rest.strip_prefix('"') {
        Some(rest) => unquoted(rest)?,
        None => {
            let end = rest.find(';').unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            if !is_token(value) {
                return None;
            }
            (value.to_owned(), rest)
        }
    };
    let behind = match rest.strip_prefix(';') {
        Some(behind) => behind,
        None if rest.is_empty() => rest,
        None => return None,
    };
    Some((name.to_ascii_lowercase(), value, behind))
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => chars.next()?.1,
            c => c,
        };
        if c != ' ' && !c.is_ascii_graphic() {
            return None;
        }
        value.push(c);
    }
    None
}

fn is_token(text: &str) -> bool {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(of_token)
}

/// An address, with or without brackets and port.
fn address(text: &str) -> Option<IpAddr> {
    let ip = match text.strip_prefix('[') {
        Some(inside) => match inside.strip_suffix(']') {
            Some(inside) => IpAddr::V6(inside.parse().ok()?),
            None => text.parse::<SocketAddr>().ok()?.ip(),
        },
        None => match text.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(ip.to_canonical())
}

fn scheme(value: &[u8]) -> Option<bool> {
    let is = |names: [&str; 2]| names.iter().any(|n| value.eq_ignore_ascii_case(n.as_bytes()));
    match (is(["https", "wss"]), is(["http", "ws"])) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// A host that is one, and could not be taken for anything else.
fn checked(value: &[u8]) -> Option<String> {
    let host = checked_host(std::str::from_utf8(value).ok()?).ok()?;
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> Vec<Network> {
        ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).into()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn by(lines: &[u8]) -> Said {
        let raw = [b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), lines, b"\r\n"].concat();
        said(&raw, ip(PROXY), &trusted()).unwrap()
    }

    fn heard(lines: &str) -> Said {
        by(lines.as_bytes())
    }

    #[test]
    fn nobody_else_is_heard() {
        let raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
        for peer in ["11.0.0.1", "::1", "fc00::1"] {
            assert_eq!(said(raw, ip(peer), &trusted()), None);
        }
        for peer in [PROXY, "::ffff:10.9.9.9", "fd00::1"] {
            assert_eq!(said(raw, ip(peer), &trusted()).unwrap().client, ip("6.6.6.6"));
        }
        assert_eq!(said(raw, ip(PROXY), &[]), None);
    }

    #[test]
    fn the_first_from_the_right_that_is_not_trusted_is_the_client() {
        for (list, client) in [
            ("1.2.3.4", "1.2.3.4"),
            ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("6.6.6.6, 1.2.3.4, 10.0.0.2,10.3.3.3", "1.2.3.4"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("1.2.3.4:567", "1.2.3.4"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:567", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("::ffff:1.2.3.4, ::ffff:10.0.0.7", "1.2.3.4"),
            (",, 1.2.3.4 ,\t,", "1.2.3.4"),
            // What is no address ends the walk; the last good one counts.
            ("", PROXY),
            ("unknown", PROXY),
            ("6.6.6.6, unknown", PROXY),
            ("6.6.6.6, x, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6 10.0.0.2", PROXY),
            ("6.6.6.6:99999", PROXY),
            ("06.6.6.6", PROXY),
            ("[::1", PROXY),
            ("\"6.6.6.6\"", PROXY),
            ("\", 1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(heard(&format!("X-Forwarded-For: {list}\r\n")).client, ip(client), "{list}");
        }
        // Lines are one list.
        let lines = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 1.2.3.4\r\n";
        assert_eq!(heard(lines).client, ip("1.2.3.4"));
        assert_eq!(by(b"X-Forwarded-For: 6.6.6.6, \xff\xfe\r\n").client, ip(PROXY));
        assert_eq!(by(b"X-Forwarded-For: 6.6.6.6, \xff\xfe\r\n").chain, ["6.6.6.6", "unknown"]);
    }

    #[test]
    fn the_other_list_is_read_where_there_is_only_that() {
        for (list, client) in [
            ("for=1.2.3.4", "1.2.3.4"),
            ("For=\"1.2.3.4:567\";proto=https;by=10.0.0.1", "1.2.3.4"),
            ("for=6.6.6.6, for=\"[2001:db8::1]\", for=10.0.0.2", "2001:db8::1"),
            ("for=\"[2001:db8::1]:567\"", "2001:db8::1"),
            ("by=10.0.0.1; for=1.2.3.4;", "1.2.3.4"),
            ("for=1.2.3.4;x=\"a,b\\\",for=6.6.6.6\"", "1.2.3.4"),
            // A quote that somebody opens further left hides nothing.
            ("for=6.6.6.6;x=\", for=1.2.3.4", "1.2.3.4"),
            ("for=\"6.6.6.6, for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("for=6.6.6.6, x=\"\\\", for=1.2.3.4;host=\"h\"", "1.2.3.4"),
            ("for=6.6.6.6, for=unknown", PROXY),
            ("for=6.6.6.6, for=_hidden", PROXY),
            ("for=6.6.6.6, proto=https", PROXY),
            ("for=6.6.6.6, for=1.2.3.4:5", PROXY),
            ("for=6.6.6.6;for=7.7.7.7", PROXY),
            ("for=6.6.6.6;", "6.6.6.6"),
            ("for =6.6.6.6", PROXY),
            ("for=6.6.6.6;;proto=http", PROXY),
            ("for=6.6.6.6;a=1;b=1;c=1;d=1;e=1;f=1;g=1;h=1", PROXY),
            ("6.6.6.6", PROXY),
        ] {
            assert_eq!(heard(&format!("Forwarded: {list}\r\n")).client, ip(client), "{list}");
        }
        // A client may have written the one that its proxy does not know.
        let both = "Forwarded: for=6.6.6.6;proto=https\r\nX-Forwarded-For: 1.2.3.4\r\n";
        let said = heard(both);
        assert_eq!((said.client, said.secure), (ip("1.2.3.4"), None));
        assert_eq!(said.elements, ["for=1.2.3.4"]);
        assert_eq!(heard("X-Forwarded-For: \r\nForwarded: for=6.6.6.6\r\n").elements, [""; 0]);
    }

    #[test]
    fn scheme_and_host_are_those_of_the_hop_that_counts() {
        for (lines, secure, host) in [
            ("X-Forwarded-Proto: https\r\n", Some(true), None),
            ("X-Forwarded-Proto: WSS\r\n", Some(true), None),
            ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", Some(false), None),
            ("X-Forwarded-Proto: https, http\r\n", Some(false), None),
            ("X-Forwarded-Proto: gopher\r\n", None, None),
            ("X-Forwarded-Host: Shop.example:81\r\n", None, Some("shop.example:81")),
            ("X-Forwarded-Host: a b\r\n", None, None),
            ("X-Forwarded-Host: a\"b\r\n", None, None),
            ("Forwarded: for=1.2.3.4;proto=https;host=\"b:8\"\r\n", Some(true), Some("b:8")),
            ("Forwarded: for=unknown;proto=https\r\n", Some(true), None),
            ("Forwarded: for=6.6.6.6;proto=https, for=1.2.3.4;proto=http\r\n", Some(false), None),
            ("Forwarded: for=1.2.3.4;proto=https, for=10.0.0.2;proto=http\r\n", Some(true), None),
            ("Forwarded: proto=https\r\nX-Forwarded-Proto: http\r\n", Some(false), None),
        ] {
            let said = heard(lines);
            assert_eq!((said.secure, said.host.as_deref()), (secure, host), "{lines}");
        }
    }

    #[test]
    fn both_lists_are_passed_on_as_the_one_that_counts_says() {
        for (lines, chain, elements) in [
            ("", PROXY, "for=10.0.0.1;host=\"h\";proto=http"),
            (
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: i\r\n",
                PROXY,
                "for=10.0.0.1;host=\"i\";proto=https",
            ),
            (
                "X-Forwarded-For: x, 1.2.3.4, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n",
                "x, 1.2.3.4, 10.0.0.2, 10.0.0.1",
                "for=unknown, for=1.2.3.4;proto=https, for=10.0.0.2, for=10.0.0.1;host=\"h\";proto=http",
            ),
            (
                "Forwarded: =, for=_x;host=\"a,b\", For=\"[2001:db8::1]:1\";by=_b\r\n",
                "unknown, 2001:db8::1, 10.0.0.1",
                "for=_x;host=\"a,b\", For=\"[2001:db8::1]:1\";by=_b, for=10.0.0.1;host=\"h\";proto=http",
            ),
        ] {
            let lists = heard(lines).lists(false, "h");
            assert_eq!(lists, (chain.to_owned(), elements.to_owned()), "{lines}");
        }
    }

    #[test]
    fn a_long_list_is_cut_to_its_last_ones() {
        let list = |n: usize| vec!["10.0.0.2"; n].join(",");
        let lines = |n| format!("X-Forwarded-For: 1.2.3.4,{}\r\n", list(n));
        let last = heard(&lines(ENTRIES_MAX - 1));
        assert_eq!((last.client, last.chain.len()), (ip("1.2.3.4"), ENTRIES_MAX));
        let beyond = heard(&lines(ENTRIES_MAX));
        assert_eq!((beyond.client, beyond.chain.len()), (ip("10.0.0.2"), ENTRIES_MAX));
        assert_eq!(heard(&lines(1_500)).elements.len(), ENTRIES_MAX);
    }

    proptest! {
        /// Whatever a client writes, what its proxy adds behind it counts.
        #[test]
        fn nothing_on_the_left_changes_what_is_on_the_right(
            left in "[ -~]{0,60}",
            element: bool,
            new_line: bool,
        ) {
            let (name, right) = if element {
                ("Forwarded", "for=\"[2001:db8::7]\";proto=http")
            } else {
                ("X-Forwarded-For", "2001:db8::7")
            };
            let joint = if new_line { format!("\r\n{name}: ") } else { ", ".to_owned() };
            let said = heard(&format!("{name}: {left}{joint}{right}\r\n"));
            prop_assert_eq!(said.client, ip("2001:db8::7"));
            prop_assert_ne!(said.secure, Some(true));
            // And it is read by the next one as it was here.
            let (chain, elements) = said.lists(false, "h");
            let lines = if element {
                format!("Forwarded: {elements}\r\n")
            } else {
                format!("X-Forwarded-For: {chain}\r\n")
            };
            prop_assert_eq!(heard(&lines).client, ip("2001:db8::7"));
        }

        #[test]
        fn garbage_is_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for name in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"] {
                let raw = [
                    b"GET / HTTP/1.1\r\nHost: a\r\n", name.as_bytes(), b": ", &*bytes, b"\r\n\r\n",
                ].concat();
                if let Some(said) = said(&raw, ip(PROXY), &trusted()) {
                    let (chain, elements) = said.lists(true, "h");
                    prop_assert!(!chain.bytes().chain(elements.bytes()).any(|b| b.is_ascii_control()));
                }
            }
        }
    }
}
