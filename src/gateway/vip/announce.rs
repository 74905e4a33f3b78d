//! Tells the neighbours where an address is now: gratuitous ARP (RFC 826, RFC 5227 section 3)
//! and unsolicited neighbour advertisements (RFC 4861, section 7.2.6), as Ethernet frames.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        sendto, socket_with,
    },
};

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An open socket for frames. It needs CAP_NET_RAW.
pub struct Announcer(OwnedFd);

impl Announcer {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        Ok(Self(socket_with(AddressFamily::PACKET, kind, flags, None)?))
    }

    /// Says on interface `index` that `ip` is at `hardware`.
    pub fn announce(&self, index: u32, hardware: [u8; 6], ip: IpAddr) -> io::Result<()> {
        for (to, frame) in frames(hardware, ip) {
            let to = LinkAddress::new(index, to);
            sendto(&self.0, &frame, SendFlags::empty(), &to)?;
        }
        Ok(())
    }
}

/// The frames that say it, and to whom each goes.
fn frames(hardware: [u8; 6], ip: IpAddr) -> Vec<([u8; 6], Vec<u8>)> {
    match ip {
        // Some heed only a request, some only a reply.
        IpAddr::V4(ip) => {
            [1, 2].map(|operation| ([0xff; 6], arp(operation, hardware, ip.octets()))).into()
        }
        IpAddr::V6(ip) => vec![([0x33, 0x33, 0, 0, 0, 1], advertisement(hardware, ip))],
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes()].concat()
}

fn arp(operation: u16, hardware: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], hardware, ARP);
    // Ethernet, IPv4, lengths of their addresses
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(hardware);
    frame.extend(ip);
    // A request asks for nobody's hardware address.
    frame.extend(if operation == 1 { [0; 6] } else { hardware });
    frame.extend(ip);
    frame
}

fn advertisement(hardware: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    // Neighbour advertisement; the flag says that it replaces what is known.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(ip.octets());
    // The option: its kind, its length in units of eight, where the address is.
    body.extend([2, 1]);
    body.extend(hardware);
    let length = u16::try_from(body.len()).expect("it is 32 bytes");
    // Over a header that stands for the packet's own (RFC 8200, section 8.1).
    let mut summed = [ip.octets(), ALL_NODES.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(&body);
    let sum = checksum(&summed);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], hardware, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Hop limit 255: it comes from this link.
    frame.extend([ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(body);
    frame
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// `sockaddr_ll` of packet(7): the interface that a frame leaves by.
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    index: i32,
    hardware_kind: u16,
    packet_kind: u8,
    length: u8,
    address: [u8; 8],
}

impl LinkAddress {
    fn new(index: u32, to: [u8; 6]) -> Self {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&to);
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let family = AddressFamily::PACKET.as_raw();
        let (protocol, hardware_kind, packet_kind, length) = (0, 0, 0, 6);
        Self { family, protocol, index, hardware_kind, packet_kind, length, address }
    }
}

// SAFETY: `f` is given a pointer to `self`, which lives for the call, and its size; the layout is
// that of the kernel's `sockaddr_ll`, 20 bytes without padding. rustix has no type for it.
#[expect(unsafe_code, reason = "the system call takes the address of a struct")]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_the_standards_say() {
        let hardware = [2, 0, 0, 0, 0, 9];
        let all = frames(hardware, IpAddr::from([10, 0, 0, 100]));
        assert_eq!(all.len(), 2);
        for (operation, (to, frame)) in [1, 2].into_iter().zip(&all) {
            assert_eq!((*to, frame.len(), frame[21]), ([0xff; 6], 42, operation));
            assert_eq!(frame[28..32], frame[38..42], "sender and target are the address");
        }
        let ip: Ipv6Addr = "fd00::5".parse().unwrap();
        let [(_, frame)] = &frames(hardware, ip.into())[..] else { panic!("one frame") };
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!((frame[54], frame[58], frame[21]), (136, 0x20, 255));
        // With its checksum in place the sum is nothing.
        let mut summed = frame[22..54].to_vec();
        summed.extend([0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        summed.extend(&frame[54..]);
        assert_eq!(checksum(&summed), 0);
    }

    #[test]
    fn the_link_address_has_the_kernels_size() {
        assert_eq!(size_of::<LinkAddress>(), 20);
    }
}
