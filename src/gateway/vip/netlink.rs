//! The kernel's addresses, by rtnetlink (rtnetlink(7), RFC 3549): what interfaces there are,
//! what addresses they have, and adding and removing one. Three requests in all, each
//! answered at once, so they are written by hand.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 0x001;
const ACKNOWLEDGE: u16 = 0x004;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;

/// No duplicate address detection: it takes a second in which the address can't be used.
const NO_DAD: u32 = 0x02;
/// The network has its route already.
const NO_PREFIX_ROUTE: u32 = 0x200;

const HEADER: usize = 16;
/// The kernel answers at once; longer means that something is very wrong.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What the kernel packs into one answer at most.
const ANSWER_MAX: usize = 64 << 10;

/// One interface of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it is of the kind that Ethernet has.
    pub hardware: Option<[u8; 6]>,
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// An open conversation with the kernel.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one. It needs no privilege; adding and removing does.
    pub fn open() -> io::Result<Self> {
        let family = AddressFamily::NETLINK;
        // No protocol is number 0, and that is NETLINK_ROUTE.
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; ANSWER_MAX] })
    }

    /// All interfaces, with their addresses.
    pub fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let mut all = Vec::new();
        let links = self.ask(GET_LINK, REQUEST | DUMP, &[0; 16], |kind, body| {
            all.extend((kind == NEW_LINK).then(|| read_link(body)).flatten());
        });
        links?;
        let mut addresses = Vec::new();
        self.ask(GET_ADDRESS, REQUEST | DUMP, &[0; 8], |kind, body| {
            addresses.extend((kind == NEW_ADDRESS).then(|| read_address(body)).flatten());
        })?;
        for (index, ip, prefix) in addresses {
            let on = all.iter_mut().find(|interface: &&mut Interface| interface.index == index);
            if let Some(interface) = on {
                interface.addresses.push((ip, prefix));
            }
        }
        Ok(all)
    }

    /// Adds an address that the kernel takes away by itself after `lifetime`, whole seconds, or
    /// renews one. Nothing is sent from it unless somebody asks for it.
    pub fn add(
        &mut self,
        index: u32,
        (ip, prefix): (IpAddr, u8),
        lifetime: Duration,
        routed: bool,
    ) -> io::Result<()> {
        let mut body = address_body(index, (ip, prefix));
        let seconds = u32::try_from(lifetime.as_secs().max(1)).unwrap_or(u32::MAX);
        // preferred, valid, and two stamps that the kernel sets
        let lifetimes = [0, seconds, 0, 0].map(u32::to_ne_bytes).concat();
        attribute(&mut body, IFA_CACHEINFO, &lifetimes);
        let no_dad = if ip.is_ipv6() { NO_DAD } else { 0 };
        let no_route = if routed { NO_PREFIX_ROUTE } else { 0 };
        attribute(&mut body, IFA_FLAGS, &(no_dad | no_route).to_ne_bytes());
        self.ask(NEW_ADDRESS, REQUEST | ACKNOWLEDGE | CREATE | REPLACE, &body, |_, _| {})
    }

    /// Removes an address. That it is not there is fine.
    pub fn remove(&mut self, index: u32, address: (IpAddr, u8)) -> io::Result<()> {
        let body = address_body(index, address);
        let result = self.ask(DELETE_ADDRESS, REQUEST | ACKNOWLEDGE, &body, |_, _| {});
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(code))
                if code == Errno::ADDRNOTAVAIL.raw_os_error()
                    || code == Errno::NODEV.raw_os_error() =>
            {
                Ok(())
            }
            _ => result,
        }
    }

    /// Asks, and hands each part of the answer to `part` with its kind.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut part: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).expect("a request is small");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(&self.socket, &message, SendFlags::empty())?;
        loop {
            let (read, _) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &self.buffer[..read];
            while let Some((kind, sequence, body, after)) = split_message(rest) {
                rest = after;
                match kind {
                    // The end of an earlier question that was given up.
                    _ if sequence != self.sequence => {}
                    ERROR => {
                        let code = body.get(..4).and_then(|b| b.try_into().ok());
                        return match code.map_or(0, i32::from_ne_bytes) {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        };
                    }
                    DONE => return Ok(()),
                    kind => part(kind, body),
                }
            }
        }
    }
}

/// Kind, sequence and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
    let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((kind, sequence, body, &bytes[next..]))
}

/// The attributes of a message: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

fn attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute is small");
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn address_body(index: u32, (ip, prefix): (IpAddr, u8)) -> Vec<u8> {
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (AddressFamily::INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::INET6, ip.octets().to_vec()),
    };
    // family, prefix, flags (given as an attribute), scope: everywhere
    let family = u8::try_from(family.as_raw()).expect("families are small numbers");
    let mut body = vec![family, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &bytes);
    attribute(&mut body, IFA_ADDRESS, &bytes);
    body
}

fn read_link(body: &[u8]) -> Option<Interface> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let mut interface =
        Interface { index, name: String::new(), hardware: None, addresses: Vec::new() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_ADDRESS => interface.hardware = value.try_into().ok(),
            IFLA_IFNAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                interface.name = String::from_utf8_lossy(name).into_owned();
            }
            _ => {}
        }
    }
    Some(interface)
}

/// Interface, address, and length of the prefix.
fn read_address(body: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let prefix = *body.get(1)?;
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        let ip = <[u8; 4]>::try_from(value)
            .map(|octets| IpAddr::from(Ipv4Addr::from(octets)))
            .or_else(|_| <[u8; 16]>::try_from(value).map(|o| IpAddr::from(Ipv6Addr::from(o))));
        // On a link between two points IFA_ADDRESS is the other end.
        match (kind, ip) {
            (IFA_LOCAL, Ok(ip)) => return Some((index, ip, prefix)),
            (IFA_ADDRESS, Ok(ip)) => found = Some((index, ip, prefix)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (ip, prefix) in [("10.0.0.100", 24), ("fd00::5", 64)] {
            let ip: IpAddr = ip.parse().unwrap();
            let body = address_body(7, (ip, prefix));
            assert_eq!(read_address(&body), Some((7, ip, prefix)));
            for cut in 0..body.len() {
                let _ = read_address(&body[..cut]);
            }
        }
    }

    #[test]
    fn the_loopback_is_found() {
        let all = Netlink::open().unwrap().interfaces().unwrap();
        assert!(all.iter().any(|interface| interface.name == "lo"), "{all:?}");
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(split_message(&[0; 15]), None);
        assert_eq!(split_message(&[200; 40]), None);
        assert_eq!(attributes(&[1, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
    }
}
