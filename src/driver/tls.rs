//! F3, TLS: which secret of an application holds the certificate that its host names are
//! served with, and what is said to who comes without TLS.
//!
//! [`Tls`] only says so. The certificate itself is a secret of the application; what reads
//! and uses it is the gateway.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Definition, Wrong,
    services::spec::{as_span, is_default},
};
use crate::base::SecretName;

/// How an application is served over TLS: `[tls]` of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The secret that holds it, as PEM: the chain of certificates and the private key.
    pub certificate: SecretName,
    /// Whether who comes without TLS is led to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub redirect: bool,
    /// The port where it is reached by TLS, if not 443: where `redirect` leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How long browsers are to come by TLS alone (`Strict-Transport-Security`); nothing is
    /// said of it if zero.
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "as_span")]
    pub hsts: Duration,
}

impl Definition for Tls {
    const NAME: &'static str = "tls.toml";

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    fn text(&self) -> Option<String> {
        Some(toml::to_string(self).expect("text, numbers and yes or no are always TOML"))
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        let mut say = |why: &str| all.push(Wrong::new(["tls", "port"], why));
        if self.port == Some(0) {
            say("port = 0 of [tls] is none: name the one, or leave it out.");
        }
        if self.port.is_some() && !self.redirect {
            say("port of [tls] is where `redirect` leads: set redirect = true, or leave it out.");
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = "certificate = \"web-cert\"\n";
        let tls = Tls::read(text.as_bytes()).unwrap();
        assert_eq!(tls.text().unwrap(), text);
        let text = "certificate = \"web-cert\"\nredirect = true\nport = 8443\nhsts = \"365d\"\n";
        let tls = Tls::read(text.as_bytes()).unwrap();
        assert_eq!(tls.hsts, Duration::from_secs(365 * 86_400));
        assert_eq!(Tls::read(tls.text().unwrap().as_bytes()), Ok(tls));
        assert_eq!(Tls::path().to_string(), ".althing/tls.toml");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, word) in [
            ("redirect = true", "certificate"),
            ("certificate = \"A b\"", "certificate"),
            ("certificate = \"a\"\nport = 8443", "redirect"),
            ("certificate = \"a\"\nredirect = true\nport = 0", "port = 0"),
            ("certificate = \"a\"\nhsts = \"900d\"", "a year"),
            ("certificate = \"a\"\nhsts = \"soon\"", "hsts"),
            ("certificate = \"a\"\nkey = \"b\"", "unknown field"),
        ] {
            let error = Tls::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
