//! What clients and proxies say to the gateway, and one gateway to another: heads of requests, the
//! PROXY protocol, and what a connection is taken by.

use std::net::IpAddr;

use althing::{
    base::Network,
    gateway::{
        encoding,
        forwarded::{ENTRIES_MAX, Said, said},
        range, request,
        tcp::{
            header::{self, Step, Version as HeaderVersion},
            tunnel::Asked,
        },
    },
};

use super::sample::app;

pub(super) fn http_request(bytes: &[u8]) {
    if let Ok(Some((_, used))) = request::parse(bytes) {
        assert!(used > 0 && used <= bytes.len());
        // A head is whole or not, whatever lies behind it.
        assert!(matches!(request::parse(&bytes[..used]), Ok(Some((_, again))) if again == used));
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(wanted) = request::decode_path(text) {
        for component in &wanted.components {
            assert!(!component.is_empty() && component != b"." && component != b"..");
            assert!(!component.contains(&b'/') && !component.contains(&0));
        }
    }
    for size in [0, 1, 1_000, u64::MAX] {
        if let range::Part::Bytes(part) = range::parse(text, size) {
            assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
        }
    }
    let _ = encoding::accepts_gzip(text);
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        "GET /a%20b/c?d=e HTTP/1.1\r\nHost: a:80\r\nRange: bytes=0-4\r\n\
         If-None-Match: \"x\", W/\"y\"\r\nAccept-Encoding: gzip;q=0.5, br\r\n\r\n",
        "HEAD http://a/b HTTP/1.0\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        "GET /a HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "/css/%2e%2e/a.css/",
        "bytes=5-9",
        "bytes=-18446744073709551615",
        "gzip;q=1.0, *;q=0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// What a proxy says of its client: bounded, one line each, and read again as it was.
pub(super) fn forwarded(bytes: &[u8]) {
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let peer = IpAddr::from([10, 0, 0, 1]);
    let head = [b"GET / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n\r\n"].concat();
    let Some(said) = said(&head, peer, &trusted) else { return };
    assert!(said.chain.len() <= ENTRIES_MAX && said.chain.len() == said.elements.len());
    assert!(said.client == peer || !said.chain.is_empty());
    let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
    assert!(said.chain.iter().chain(&said.elements).chain(&said.host).all(|text| plain(text)));
    for (name, list) in [("X-Forwarded-For", &said.chain), ("Forwarded", &said.elements)] {
        let line = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: {}\r\n\r\n", list.join(", "));
        let again = heard(line.as_bytes(), peer, &trusted);
        assert_eq!((again.client, again.chain.len()), (said.client, said.chain.len()), "{line}");
    }
}

fn heard(head: &[u8], peer: IpAddr, trusted: &[Network]) -> Said {
    said(head, peer, trusted).expect("the peer is trusted, and the head is one")
}

pub(super) fn forwarded_seeds() -> Vec<Vec<u8>> {
    [
        "X-Forwarded-For: 6.6.6.6, 2001:db8::1, 10.0.0.2:80\r\nX-Forwarded-Proto: https",
        "X-Forwarded-For: unknown, [::1]:8\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: b:8",
        "Forwarded: for=\"[2001:db8::1]:5\";proto=https;host=\"b,c\", For=10.0.0.2;by=_x",
        "Forwarded: for=6.6.6.6;x=\"\\\", for=\"\r\nForwarded: for=1.2.3.4;proto=http",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A header of the PROXY protocol: what it says can be said again, and it is no longer than
/// what came.
pub(super) fn proxy_header(bytes: &[u8]) {
    match header::parse(bytes) {
        Ok(Step::Whole { parties, used }) => {
            assert!(used > 0 && used <= bytes.len());
            assert_eq!(header::parse(&bytes[..used]), Ok(Step::Whole { parties, used }));
            let Some(parties) = parties else { return };
            for version in [HeaderVersion::V1, HeaderVersion::V2] {
                let again = parties.header(version);
                let (parties, used) = (Some(parties), again.len());
                assert_eq!(header::parse(&again), Ok(Step::Whole { parties, used }));
            }
        }
        Ok(Step::More(count)) => assert!(count > 0 && count <= 4 << 10),
        Ok(Step::Line) => assert!(bytes.len() < 107),
        Err(_) => {}
    }
}

fn parties(client: &str, server: &str) -> header::Parties {
    let parse = |text: &str| text.parse().expect("an address");
    header::Parties::new(parse(client), parse(server))
}

pub(super) fn proxy_header_seeds() -> Vec<Vec<u8>> {
    let four = parties("192.0.2.1:56324", "198.51.100.2:443");
    let six = parties("[2001:db8::1]:1", "[2001:db8::2]:65535");
    let mut seeds: Vec<Vec<u8>> = [four, six]
        .iter()
        .flat_map(|p| [p.header(HeaderVersion::V1), p.header(HeaderVersion::V2)])
        .collect();
    let mut extended = four.header(HeaderVersion::V2);
    extended[15] += 4;
    extended.extend_from_slice(&[0x04, 0, 1, 0]);
    seeds.extend([extended, b"PROXY UNKNOWN\r\nhello".to_vec()]);
    seeds
}

/// How one member asks another to take a connection.
pub(super) fn tunnel(bytes: &[u8]) {
    let Ok(Some((asked, used))) = Asked::parse(bytes) else { return };
    assert!(used <= bytes.len());
    let again = asked.head();
    let length = again.len();
    assert_eq!(Asked::parse(&again), Ok(Some((asked, length))));
}

pub(super) fn tunnel_seeds() -> Vec<Vec<u8>> {
    [parties("192.0.2.1:7", "192.0.2.2:5432"), parties("[2001:db8::1]:7", "[2001:db8::2]:5432")]
        .map(|parties| Asked { app: app(), port: 5432, parties }.head())
        .into()
}
