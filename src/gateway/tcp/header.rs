//! The header of the PROXY protocol, by which one proxy tells the next one who connects.
//! Both versions, read strictly: whatever is not one of their forms ends the connection.
//! Reading takes not one byte of what follows the header.
//!
//! After HAProxy's proxy-protocol.txt. What its extensions (TLV) say is passed over.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// The longest header of version 1, bytes: its text with `\r\n`.
const V1_MAX: usize = 107;
/// The shortest one, `PROXY UNKNOWN\r\n`; version 2 has none that is shorter.
const SHORTEST: usize = 15;
/// The fixed part of version 2, bytes.
const V2_FIXED: usize = 16;
/// What may follow it, bytes. The format allows 64 KiB; certificates in extensions need a few.
const V2_MORE_MAX: usize = 4 << 10;
const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a connection, as the first proxy sees them. Both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parties {
    client: SocketAddr,
    server: SocketAddr,
}

/// Which form a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "proxy-protocol.txt has their meanings")]
pub enum Version {
    V1,
    V2,
}

/// How far a header has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is whole.
    Whole {
        /// Who connects; none where whoever sent it says that it speaks for itself, or names
        /// no TCP connection. Then the real ends count.
        parties: Option<Parties>,
        /// Its length, bytes.
        used: usize,
    },
    /// At least so many bytes more are part of it.
    More(usize),
    /// It goes on up to the end of its line.
    Line,
}

/// What came is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no header of the PROXY protocol came: {0}")]
pub struct BadHeader(&'static str);

impl Parties {
    /// An IPv4 address in the clothes of IPv6 is one; where only one of the two is IPv4, it
    /// is written as IPv6.
    pub fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let (client, server) = (plain(client), plain(server));
        if client.is_ipv4() == server.is_ipv4() {
            return Self { client, server };
        }
        let wide = |a: SocketAddr| match a.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), a.port()),
            IpAddr::V6(_) => a,
        };
        Self { client: wide(client), server: wide(server) }
    }

    /// Who connects.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Where to.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The header that says so.
    pub fn header(&self, version: Version) -> Vec<u8> {
        let Self { client, server } = self;
        if version == Version::V1 {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (client.port(), server.port());
            return format!("PROXY {family} {} {} {from} {to}\r\n", client.ip(), server.ip())
                .into_bytes();
        }
        let mut out = V2_SIGNATURE.to_vec();
        let (family, length) = if client.is_ipv4() { (0x11, 12_u16) } else { (0x21, 36) };
        out.extend_from_slice(&[0x21, family]);
        out.extend_from_slice(&length.to_be_bytes());
        for ip in [client.ip(), server.ip()] {
            match ip {
                IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
            }
        }
        out.extend_from_slice(&client.port().to_be_bytes());
        out.extend_from_slice(&server.port().to_be_bytes());
        out
    }
}

/// Reads the header at the front of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Step, BadHeader> {
    let begins = |with: &[u8]| {
        let length = with.len().min(bytes.len());
        bytes[..length] == with[..length]
    };
    match (begins(V1_PREFIX), begins(V2_SIGNATURE)) {
        (false, false) => Err(BadHeader("it begins with something else")),
        _ if bytes.len() < SHORTEST => Ok(Step::More(SHORTEST - bytes.len())),
        (true, _) => v1(bytes),
        (false, true) => v2(bytes),
    }
}

fn v1(bytes: &[u8]) -> Result<Step, BadHeader> {
    let seen = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        let is_over = bytes.len() >= V1_MAX || seen.contains(&b'\n');
        return if is_over { Err(BadHeader("its line does not end")) } else { Ok(Step::Line) };
    };
    let text = std::str::from_utf8(&seen[V1_PREFIX.len()..end]);
    let text = text.ok().filter(|t| t.is_ascii()).ok_or(BadHeader("it is no text"))?;
    let used = end + 2;
    // What follows that word means nothing.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Step::Whole { parties: None, used });
    }
    let words: Vec<&str> = text.split(' ').collect();
    let [family, client, server, from, to] = words[..] else {
        return Err(BadHeader("it has not the words that belong there"));
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (Some(client), Some(server)) = (address(client), address(server)) else {
        return Err(BadHeader("its addresses are none"));
    };
    let (Some(from), Some(to)) = (port(from), port(to)) else {
        return Err(BadHeader("its ports are none"));
    };
    let parties = Parties::new(SocketAddr::new(client, from), SocketAddr::new(server, to));
    Ok(Step::Whole { parties: Some(parties), used })
}

/// Decimal, without sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| digits && plain)
}

fn v2(bytes: &[u8]) -> Result<Step, BadHeader> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(Step::More(V2_FIXED - bytes.len()));
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command >> 4 != 2 {
        return Err(BadHeader("it is of another version"));
    }
    if length > V2_MORE_MAX {
        return Err(BadHeader("it is longer than 4 KiB"));
    }
    // What of an address there has to be, and of which kind.
    let least = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(BadHeader("its family is none")),
    };
    let Some(more) = rest.get(..length) else { return Ok(Step::More(length - rest.len())) };
    let used = V2_FIXED + length;
    match command & 0xf {
        // Whoever sent it speaks for itself: a check of health.
        0 => return Ok(Step::Whole { parties: None, used }),
        1 => {}
        _ => return Err(BadHeader("its command is none")),
    }
    if length < least {
        return Err(BadHeader("it is too short for its addresses"));
    }
    let port = |at: usize| u16::from_be_bytes([more[at], more[at + 1]]);
    let parties = match family {
        0x11 => {
            let ip = |at: usize| Ipv4Addr::from(array::<4>(&more[at..])).into();
            Some((ip(0), ip(4), port(8), port(10)))
        }
        0x21 => {
            let ip = |at: usize| Ipv6Addr::from(array::<16>(&more[at..])).into();
            Some((ip(0), ip(16), port(32), port(34)))
        }
        _ => None,
    };
    let parties = parties.map(|(client, server, from, to): (IpAddr, IpAddr, u16, u16)| {
        Parties::new(SocketAddr::new(client, from), SocketAddr::new(server, to))
    });
    Ok(Step::Whole { parties, used })
}

/// The first bytes of `bytes`, which has as many: its length was checked.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// Takes the header off the front of `stream`, and nothing behind it.
pub(in crate::gateway) async fn receive(stream: &mut TcpStream) -> io::Result<Option<Parties>> {
    let mut bytes = Vec::new();
    loop {
        let invalid = |bad| io::Error::new(io::ErrorKind::InvalidData, bad);
        let count = match parse(&bytes).map_err(invalid)? {
            Step::Whole { parties, .. } => return Ok(parties),
            Step::More(count) => count,
            Step::Line => {
                let mut seen = [0; V1_MAX];
                let count = stream.peek(&mut seen[..V1_MAX - bytes.len()]).await?;
                let line = seen[..count].iter().position(|b| *b == b'\n').map(|at| at + 1);
                line.unwrap_or(count)
            }
        };
        let at = bytes.len();
        bytes.resize(at + count.max(1), 0);
        stream.read_exact(&mut bytes[at..]).await?;
    }
}

/// Sends the header in front of everything else.
pub(in crate::gateway) async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    parties: &Parties,
    version: Option<Version>,
) -> io::Result<()> {
    match version {
        Some(version) => to.write_all(&parties.header(version)).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn whole(bytes: &[u8]) -> Option<Parties> {
        match parse(bytes) {
            Ok(Step::Whole { parties, used }) if used == bytes.len() => parties,
            other => panic!("{other:?}"),
        }
    }

    fn parties(client: &str, server: &str) -> Parties {
        Parties::new(client.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn headers_of_version_1_are_read_by_the_letter() {
        let found = whole(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
        assert_eq!(found, Some(parties("192.0.2.1:56324", "198.51.100.2:443")));
        let found = whole(b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n");
        assert_eq!(found, Some(parties("[2001:db8::1]:0", "[2001:db8::2]:65535")));
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(whole(b"PROXY UNKNOWN what ever\r\n"), None);
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
            "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UNKNOWNS x\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
        assert!(parse(long.as_bytes()).is_err());
        assert_eq!(parse(&long.as_bytes()[..106]), Ok(Step::Line));
        assert_eq!(parse(b"PRO"), Ok(Step::More(12)));
        assert_eq!(parse(b""), Ok(Step::More(15)));
    }

    #[test]
    fn headers_of_version_2_are_read_by_the_letter() {
        let fixed = |command: u8, family: u8, length: u16| {
            let mut bytes = V2_SIGNATURE.to_vec();
            bytes.extend_from_slice(&[command, family]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes
        };
        let with = |mut bytes: Vec<u8>, more: usize| {
            bytes.resize(bytes.len() + more, 0);
            bytes
        };
        // It speaks for itself, whatever it says beside that.
        assert_eq!(whole(&fixed(0x20, 0x00, 0)), None);
        assert_eq!(whole(&with(fixed(0x20, 0x11, 12), 12)), None);
        // Families that are no TCP, and extensions behind.
        for (family, length) in [(0x00, 7), (0x12, 12), (0x22, 40), (0x31, 216), (0x32, 300)] {
            assert_eq!(whole(&with(fixed(0x21, family, length), length.into())), None);
        }
        let extended = with(fixed(0x21, 0x11, 20), 20);
        assert_eq!(whole(&extended), Some(parties("0.0.0.0:0", "0.0.0.0:0")));
        for (command, family, length) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x13, 12),
            (0x21, 0x41, 12),
            (0x21, 0x01, 12),
            (0x20, 0x00, 5_000),
        ] {
            let bytes = with(fixed(command, family, length), length.into());
            assert!(parse(&bytes).is_err(), "{command:x} {family:x} {length}");
        }
        assert_eq!(parse(&V2_SIGNATURE[..12]), Ok(Step::More(3)));
        assert_eq!(parse(&fixed(0x21, 0x11, 12)), Ok(Step::More(12)));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into());
        let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client in address(), server in address(), behind in vec(any::<u8>(), 0..40)) {
            let parties = Parties::new(client, server);
            for version in [Version::V1, Version::V2] {
                let header = parties.header(version);
                for cut in 0..header.len() {
                    let step = parse(&header[..cut]);
                    let is_open = match step {
                        Ok(Step::More(count)) => cut + count <= header.len(),
                        Ok(Step::Line) => true,
                        _ => false,
                    };
                    prop_assert!(is_open, "{step:?} {cut}");
                }
                let bytes = [&header[..], &behind].concat();
                let used = header.len();
                prop_assert_eq!(parse(&bytes), Ok(Step::Whole { parties: Some(parties), used }));
            }
        }

        #[test]
        fn nothing_that_comes_does_harm(kind in 0_usize..3, tail in vec(any::<u8>(), 0..300)) {
            let front: &[u8] = [&b"PROXY TCP4 "[..], V2_SIGNATURE, b""][kind];
            let bytes = [front, &tail].concat();
            match parse(&bytes) {
                Ok(Step::Whole { used, .. }) => prop_assert!(used <= bytes.len()),
                Ok(Step::More(count)) => prop_assert!(count > 0 && count <= V2_MORE_MAX),
                Ok(Step::Line) | Err(_) => {}
            }
        }
    }

    #[tokio::test]
    async fn not_a_byte_behind_the_header_is_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let all = parties("192.0.2.1:7", "192.0.2.2:8");
        for header in [
            all.header(Version::V1),
            all.header(Version::V2),
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN x y z\r\n".to_vec(),
        ] {
            for piece in [1, 3, 200] {
                let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                near.set_nodelay(true).unwrap();
                let (mut far, _) = listener.accept().await.unwrap();
                let sent = [&header[..], b"\nhello"].concat();
                let sending = async {
                    for part in sent.chunks(piece) {
                        near.write_all(part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    near.shutdown().await.unwrap();
                };
                let reading = async {
                    let found = receive(&mut far).await.unwrap();
                    let mut rest = Vec::new();
                    far.read_to_end(&mut rest).await.unwrap();
                    (found, rest)
                };
                let ((), (found, rest)) = tokio::join!(sending, reading);
                assert_eq!(rest, b"\nhello");
                assert_eq!(found.is_some(), !header.starts_with(b"PROXY U"));
            }
        }
    }
}
