//! A virtual IP address: one that belongs to an application and not to a server.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An address with the length of its network's prefix, written as `10.0.0.100/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VirtualAddress {
    ip: IpAddr,
    prefix: u8,
}

impl VirtualAddress {
    /// The address itself: unicast, and neither that of the loopback nor none at all.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Bits of the prefix: 1 to 32, or to 128 for IPv6.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `other` is in the same network.
    pub fn is_beside(self, other: IpAddr) -> bool {
        fn bits(ip: IpAddr) -> u128 {
            match ip {
                IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
                IpAddr::V6(ip) => ip.to_bits(),
            }
        }
        let shift = 128 - u32::from(self.prefix);
        self.ip.is_ipv4() == other.is_ipv4() && bits(self.ip) >> shift == bits(other) >> shift
    }
}

impl FromStr for VirtualAddress {
    type Err = String;

    /// Parses an address. The error is a sentence for people, without its point.
    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(60).collect();
        let wrong = |why: &str| format!("{shown:?} is no virtual address: {why}");
        let (ip, prefix) = text
            .split_once('/')
            .ok_or_else(|| wrong("write it with the length of its prefix, as 10.0.0.100/24"))?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong("what is before the / is no address"))?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let digits = prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: Option<u8> =
            prefix.parse().ok().filter(|p| digits && (1..=longest).contains(p));
        let prefix =
            prefix.ok_or_else(|| wrong(&format!("the prefix has from 1 to {longest} bits")))?;
        let kind = match ip {
            _ if ip.is_loopback() => Some("it is that of the loopback"),
            _ if ip.is_multicast() => Some("it is a multicast address"),
            _ if ip.is_unspecified() => Some("it says nothing"),
            IpAddr::V4(ip) if ip.is_broadcast() => Some("it is the broadcast address"),
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("write it as an IPv4 address"),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                Some("a link-local address is another one on every link")
            }
            _ => None,
        };
        match kind {
            Some(why) => Err(wrong(why)),
            None => Ok(Self { ip, prefix }),
        }
    }
}

impl TryFrom<String> for VirtualAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VirtualAddress> for String {
    fn from(address: VirtualAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["10.0.0.100/24", "192.0.2.1/32", "fd00::5/64", "2001:db8::1/128"] {
            assert_eq!(text.parse::<VirtualAddress>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/0",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "10.0.0/8",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "0.0.0.0/8",
            "255.255.255.255/32",
            "::1/128",
            "::/64",
            "ff02::1/16",
            "fe80::1/64",
            "::ffff:10.0.0.1/96",
            "fd00::5/129",
            "fd00::5/64/1",
        ] {
            let error = bad.parse::<VirtualAddress>().unwrap_err();
            assert!(error.contains("is no virtual address"), "{error}");
        }
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let address: VirtualAddress = "10.0.0.100/24".parse().unwrap();
        assert!(address.is_beside("10.0.0.7".parse().unwrap()));
        assert!(!address.is_beside("10.0.1.7".parse().unwrap()));
        assert!(!address.is_beside("fd00::7".parse().unwrap()));
        let address: VirtualAddress = "fd00::5/64".parse().unwrap();
        assert!(address.is_beside("fd00::1:7".parse().unwrap()));
        assert!(!address.is_beside("fd01::7".parse().unwrap()));
    }
}
