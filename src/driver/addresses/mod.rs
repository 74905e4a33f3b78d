//! F3, addresses: the virtual IP addresses of an application. Each is held by one member
//! that holds the application.
//!
//! This only says which there are. Who holds one is decided in `proto/balance`, and what
//! puts it on an interface is `gateway/vip`.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

use super::{Definition, Wrong};
use crate::base::{VirtualAddress, limits};

/// The addresses of one application: `vip` of its manifest, which is one text or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Addresses(pub Vec<VirtualAddress>);

/// A document that holds addresses and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    vip: Addresses,
}

impl Definition for Addresses {
    const NAME: &'static str = "addresses.toml";

    fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.vip)
    }

    fn text(&self) -> Option<String> {
        // Equal addresses give equal bytes.
        let mut all = self.0.clone();
        all.sort();
        (!all.is_empty()).then(|| {
            let document = Document { vip: Self(all) };
            toml::to_string(&document).expect("a list of text is always TOML")
        })
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        if self.0.len() > limits::ADDRESSES_MAX {
            let max = limits::ADDRESSES_MAX;
            let why = format!("vip has more than {max} addresses: have fewer.");
            all.push(Wrong::new(["application", "vip"], why));
        }
        let mut seen = BTreeSet::new();
        let mut twice = self.0.iter().enumerate().filter(|(_, address)| !seen.insert(address.ip()));
        if let Some((at, address)) = twice.next() {
            let why = format!("vip has {} twice: name it once.", address.ip());
            all.push(Wrong::new(["application", "vip", &at.to_string()], why));
        }
        all
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Addresses;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address as \"10.0.0.100/24\", or a list of such")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Addresses, E> {
                text.parse().map(|address| Addresses(vec![address])).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Addresses, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = all.next_element()? {
                    addresses.push(address);
                }
                Ok(Addresses(addresses))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_or_a_list_is_read_and_written() {
        let one = Addresses::read(b"vip = \"10.0.0.100/24\"\n").unwrap();
        assert_eq!(one.text().unwrap(), "vip = [\"10.0.0.100/24\"]\n");
        let two = Addresses::read(b"vip = [\"fd00::5/64\", \"10.0.0.100/24\"]\n").unwrap();
        assert_eq!(two.text().unwrap(), "vip = [\"10.0.0.100/24\", \"fd00::5/64\"]\n");
        assert_eq!(Addresses::default().text(), None);
        assert_eq!(Addresses::path().to_string(), ".althing/addresses.toml");
    }

    #[test]
    fn what_can_not_be_held_is_refused() {
        for (text, word) in [
            ("vip = \"127.0.0.1/8\"", "loopback"),
            ("vip = [\"10.0.0.1/24\", \"10.0.0.1/16\"]", "twice"),
            ("vip = 3", "an address as"),
            ("vips = \"10.0.0.1/24\"", "unknown field"),
        ] {
            let error = Addresses::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let many: Vec<String> =
            (0..=limits::ADDRESSES_MAX).map(|n| format!("\"10.0.{n}.1/8\"")).collect();
        let error = Addresses::read(format!("vip = [{}]", many.join(", ")).as_bytes()).unwrap_err();
        assert!(error.contains("have fewer"), "{error}");
    }
}
