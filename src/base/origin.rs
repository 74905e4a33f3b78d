//! Where a client is: in a network, a country, a continent. Countries and continents are
//! looked up by somebody else; what nobody knows stays unknown here.
//!
//! Countries are those of ISO 3166-1, continents those of GeoNames.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{Digest, Network, limits};

/// One origin: `MX`, `continent:EU`, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Its two capital letters.
    Country(Code),
    /// The same of a continent.
    Continent(Code),
    /// A network.
    Network(Network),
}

/// Two capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code([u8; 2]);

/// As GeoNames abbreviates them.
const CONTINENTS: [&[u8; 2]; 7] = [b"AF", b"AN", b"AS", b"EU", b"NA", b"OC", b"SA"];

impl Code {
    /// Reads two capital letters.
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Parses an origin. The error is a sentence for people, without its point.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(code) = Code::parse(text) {
            return Ok(Self::Country(code));
        }
        let continent = text.strip_prefix("continent:").and_then(Code::parse);
        if let Some(code) = continent.filter(|code| CONTINENTS.contains(&&code.0)) {
            return Ok(Self::Continent(code));
        }
        text.parse().map(Self::Network).map_err(|_| {
            let shown: String = text.chars().take(60).collect();
            format!(
                "{shown:?} is no origin: write the two capital letters of a country, as MX, \
                 `continent:` and those of one, as continent:EU, or a network, as 10.0.0.0/8"
            )
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Country(code) => code.fmt(f),
            Self::Continent(code) => write!(f, "continent:{code}"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// Where an address is, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// In which country.
    pub country: Option<Code>,
    /// On which continent.
    pub continent: Option<Code>,
}

/// Any of some origins: `MX|continent:EU|10.0.0.0/8`. One at the least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origins(Box<[Origin]>);

/// What the labels of sets begin with that are too long to be written out.
const DIGESTED: &str = "origins:";

impl Origins {
    /// Origins of one set.
    pub const MAX: usize = 32;

    /// Reads each of `texts`.
    ///
    /// # Errors
    /// A sentence without its point, where one is no origin, or there are none or too many.
    pub fn of<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        if texts.is_empty() || texts.len() > Self::MAX {
            return Err(format!("from 1 to {} origins can be named", Self::MAX));
        }
        let mut all =
            texts.iter().map(|text| text.as_ref().parse()).collect::<Result<Vec<Origin>, _>>()?;
        // The same set in another order is the same.
        all.sort_unstable();
        all.dedup();
        Ok(Self(all.into()))
    }

    /// Whether `client` comes from one of them; none where that is not known. `place` is
    /// asked only if it matters.
    pub fn hold(&self, client: IpAddr, place: impl FnOnce() -> Place) -> Option<bool> {
        let networks =
            |origin: &Origin| matches!(origin, Origin::Network(net) if net.contains(client));
        if self.0.iter().any(networks) {
            return Some(true);
        }
        if !self.needs_place() {
            return Some(false);
        }
        let place = place();
        let mut known = Some(false);
        for origin in &self.0 {
            let (wanted, is) = match origin {
                Origin::Country(code) => (code, place.country),
                Origin::Continent(code) => (code, place.continent),
                Origin::Network(_) => continue,
            };
            match is {
                Some(is) if is == *wanted => return Some(true),
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }

    /// What series of them are called: themselves, where that fits into a label, and otherwise a
    /// digest of it.
    pub fn label(&self) -> String {
        let text = self.to_string();
        if text.len() <= limits::SERIES_LABEL_MAX {
            return text;
        }
        format!("{DIGESTED}{}", Digest::of("althing origins 1", text.as_bytes()))
    }

    /// Whether `text` is the [`label`](Self::label) of some.
    pub fn is_label(text: &str) -> bool {
        match text.strip_prefix(DIGESTED) {
            Some(digits) => Digest::parse(digits).is_some_and(|found| found.to_string() == digits),
            None => text.parse().is_ok_and(|all: Self| all.label() == text),
        }
    }

    /// Whether a country or a continent is among them.
    pub fn needs_place(&self) -> bool {
        self.0.iter().any(|origin| !matches!(origin, Origin::Network(_)))
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of(&text.split('|').collect::<Vec<_>>())
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, origin) in self.0.iter().enumerate() {
            let sign = if at > 0 { "|" } else { "" };
            write!(f, "{sign}{origin}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> Origins {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all = origins("10.0.0.0/8|continent:EU|MX|CA|MX");
        assert_eq!(all.to_string(), "CA|MX|continent:EU|10.0.0.0/8");
        assert_eq!(origins(&all.to_string()), all);
        assert!(all.needs_place() && !origins("10.0.0.0/8").needs_place());
        for bad in ["", "mx", "MEX", "continent:XX", "continent:eu", "MX|", "10.0.0.1/8", "Mx"] {
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
        let many = vec!["MX"; Origins::MAX + 1];
        assert!(Origins::of(&many).is_err());
    }

    #[test]
    fn a_set_has_one_label_and_nothing_else_is_one() {
        let all = origins("10.0.0.0/8|continent:EU|MX|CA");
        assert_eq!(all.label(), "CA|MX|continent:EU|10.0.0.0/8");
        let many = |first: u32| {
            let nets: Vec<_> = (first..first + 30).map(|n| format!("fd00:{n:x}::/32")).collect();
            Origins::of(&nets).unwrap().label()
        };
        assert_ne!(many(1), many(2));
        for label in [all.label(), many(1), many(2)] {
            assert!(
                label.len() <= limits::SERIES_LABEL_MAX && Origins::is_label(&label),
                "{label}"
            );
        }
        let digits = many(1).strip_prefix("origins:").unwrap().to_owned();
        for bad in [
            "",
            "MX|CA",
            "MX|MX",
            "mx",
            "10.0.0.0",
            "MX |CA",
            "MX\"} 1",
            "origins:",
            "origins:MX",
            &digits,
            &format!("origins:{}", digits.to_uppercase()),
            &format!("origins:{digits}0"),
        ] {
            assert!(!Origins::is_label(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_taken_for_elsewhere() {
        let of = |text: &str, ip: &str, country: &str, continent: &str| {
            let place = Place { country: Code::parse(country), continent: Code::parse(continent) };
            origins(text).hold(ip.parse().unwrap(), || place)
        };
        for (text, ip, country, continent, held) in [
            ("MX", "1.1.1.1", "MX", "NA", Some(true)),
            ("MX", "1.1.1.1", "CA", "NA", Some(false)),
            ("MX", "1.1.1.1", "", "", None),
            ("MX", "1.1.1.1", "", "NA", None),
            ("continent:NA", "1.1.1.1", "", "NA", Some(true)),
            ("continent:EU", "1.1.1.1", "MX", "", None),
            ("MX|continent:EU", "1.1.1.1", "MX", "", Some(true)),
            ("MX|continent:EU", "1.1.1.1", "CA", "", None),
            ("MX|10.0.0.0/8", "10.1.1.1", "", "", Some(true)),
            ("MX|10.0.0.0/8", "11.1.1.1", "", "", None),
            ("10.0.0.0/8", "11.1.1.1", "", "", Some(false)),
        ] {
            assert_eq!(of(text, ip, country, continent), held, "{text} {ip} {country}");
        }
    }
}
