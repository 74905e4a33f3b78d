//! A network: all addresses that begin with the same bits (RFC 4632).

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A network, written as `10.0.0.0/8`; a single address is one of all its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `ip` is in it. An IPv4 address is the same one where IPv6 writes it.
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.first.is_ipv4() && bits(ip) & self.mask() == bits(self.first)
    }

    /// The bits that count, at the top of 128.
    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0)
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl FromStr for Network {
    type Err = String;

    /// Parses a network. The error is a sentence for people, without its point.
    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(60).collect();
        let wrong = |why: &str| format!("{shown:?} is no network: {why}");
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr =
            ip.parse().map_err(|_| wrong("write it as 10.0.0.0/8, or as one address"))?;
        if first.to_canonical() != first {
            return Err(wrong("write it as an IPv4 address"));
        }
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let digits = |p: &str| p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit());
        let prefix = match prefix {
            None => Some(longest),
            Some(prefix) => prefix.parse().ok().filter(|p| digits(prefix) && *p <= longest),
        };
        let prefix =
            prefix.ok_or_else(|| wrong(&format!("the prefix has from 0 to {longest} bits")))?;
        let network = Self { first, prefix };
        if bits(first) & network.mask() != bits(first) {
            return Err(wrong("the address has bits that the prefix leaves out"));
        }
        Ok(network)
    }
}

impl TryFrom<String> for Network {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written_and_hold_what_is_in_them() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("fd00::/8", "fd12::1", "fc00::1"),
            ("::/0", "::1", "127.0.0.1"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
        }
        assert_eq!("192.0.2.7".parse::<Network>().unwrap().to_string(), "192.0.2.7/32");
        for bad in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::ffff:10.0.0.0/104",
            "fd00::/129",
            "a/8",
        ] {
            let error = bad.parse::<Network>().unwrap_err();
            assert!(error.contains("is no network"), "{error}");
        }
    }
}
