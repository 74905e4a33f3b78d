//! F3, listeners: ports of an application's own, on which its services take connections
//! (TCP), or all requests are its own whatever their host name (HTTP).
//!
//! [`Listeners`] only says so. Who opens a port is the gateway's matter, and what listens
//! behind it the supervisor's. A service that a listener names is *served*, as one that a
//! route names.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Definition, Wrong,
    services::{
        Services,
        spec::{as_span, is_default},
    },
};
use crate::base::{Network, ServiceName};

/// Listeners of one application.
pub const LISTENERS_MAX: usize = 32;
/// Networks that one listener takes PROXY headers from.
pub const NETWORKS_MAX: usize = 64;
/// The longest that an idle connection may stay.
pub const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long one stays where nothing is said.
const IDLE: Duration = Duration::from_secs(3_600);
/// The most connections of one listener that may be asked for.
pub const CONNECTIONS_MAX: u32 = 65_536;

/// The listeners of one application: `[[listeners]]` of its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listeners(pub Vec<Listener>);

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where every member that holds the application listens.
    pub port: u16,
    /// The service of the same application that connections are led to; none for HTTP,
    /// where routes and files answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// What is spoken there; TCP where a service is given, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The address of the member that it listens at; that of `up --listen` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The header by which the service is told who connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyVersion>,
    /// Who has to send such a header; nobody else's is taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accept_proxy: Vec<Network>,
    /// A connection is closed after so long without a byte either way.
    #[serde(default = "idle", skip_serializing_if = "is_idle", with = "as_span")]
    pub idle: Duration,
    /// At most so many at once on each member; more wait in the kernel's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Whatever the service speaks.
    Tcp,
    /// HTTP.
    Http,
}

/// The two forms of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "proxy-protocol.txt has their meanings")]
pub enum ProxyVersion {
    V1,
    V2,
}

fn idle() -> Duration {
    IDLE
}

fn is_idle(idle: &Duration) -> bool {
    *idle == IDLE
}

/// A document that holds listeners and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    listeners: Listeners,
}

impl Definition for Listeners {
    const NAME: &'static str = "listeners.toml";

    fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.listeners)
    }

    fn text(&self) -> Option<String> {
        // Equal listeners give equal bytes: sorted, and what goes without saying not said.
        let mut sorted = self.clone();
        sorted.0.sort_by_key(|listener| listener.port);
        for listener in &mut sorted.0 {
            listener.protocol = listener.protocol.filter(|_| listener.service.is_none());
            listener.accept_proxy.sort();
        }
        (!sorted.0.is_empty()).then(|| {
            toml::to_string(&Document { listeners: sorted })
                .expect("maps of text and numbers are always TOML")
        })
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        if self.0.len() > LISTENERS_MAX {
            let why = format!("More than {LISTENERS_MAX} listeners are defined: have fewer.");
            all.push(Wrong::new(["listeners", &LISTENERS_MAX.to_string()], why));
        }
        let mut seen = BTreeSet::new();
        for (at, listener) in self.0.iter().take(LISTENERS_MAX).enumerate() {
            let (at, port) = (at.to_string(), listener.port);
            let mut say = |key: &str, text: &str| {
                let why = format!("The listener of port {port} {text}");
                all.push(Wrong::new(["listeners", &at, key], why));
            };
            if !seen.insert(port) {
                say("port", "is there twice: leave one of them out.");
            }
            if let Err((key, why)) = listener.check() {
                say(key, &format!("{why}."));
            }
        }
        all
    }
}

impl Listeners {
    /// The services that are given a port.
    pub fn served(&self) -> BTreeSet<ServiceName> {
        self.0.iter().filter_map(|listener| listener.service.clone()).collect()
    }

    /// The service that connections to `port` are led to.
    pub fn service(&self, port: u16) -> Option<&ServiceName> {
        self.0.iter().find(|listener| listener.port == port)?.service.as_ref()
    }

    /// The first of these that can't be open on one member beside one of `others`.
    pub fn clash(&self, others: &Self) -> Option<&Listener> {
        self.0.iter().find(|own| others.0.iter().any(|other| own.is_in_the_way_of(other)))
    }
}

impl Listener {
    /// What is spoken there, said or not.
    pub fn protocol(&self) -> Protocol {
        match &self.service {
            Some(_) => Protocol::Tcp,
            None => self.protocol.unwrap_or(Protocol::Tcp),
        }
    }

    /// Whether both can't be open on one member, as far as can be told without it.
    pub fn is_in_the_way_of(&self, other: &Self) -> bool {
        let everywhere = |address: Option<IpAddr>| address.is_none_or(|ip| ip.is_unspecified());
        let overlap =
            self.address == other.address || everywhere(self.address) || everywhere(other.address);
        self.port == other.port && overlap
    }

    /// The key that is wrong, and why.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_http = self.protocol == Some(Protocol::Http);
        match &self.service {
            _ if self.port == 0 => {
                return Err(("port", "names no port: choose one from 1 to 65535"));
            }
            Some(_) if is_http => {
                return Err((
                    "service",
                    "names a service and speaks HTTP: leave the service out, and lead requests to \
                     it by [[routes]]",
                ));
            }
            None if !is_http => {
                return Err((
                    "service",
                    "leads to no service: name one, or write protocol = \"http\"",
                ));
            }
            _ => {}
        }
        if is_http && self.proxy.is_some() {
            return Err((
                "proxy",
                "speaks HTTP, where programs are told who asks by X-Forwarded-For: leave proxy out",
            ));
        }
        if is_http && self.idle != IDLE {
            return Err((
                "idle",
                "speaks HTTP, where idle connections are closed after 60 s: leave idle out",
            ));
        }
        if self.address.is_some_and(|ip| ip.is_multicast() || ip.to_canonical() != ip) {
            return Err((
                "address",
                "has an address that no server has: name one of its own, or leave it out",
            ));
        }
        if self.accept_proxy.len() > NETWORKS_MAX {
            let why = "takes PROXY headers from more than 64 networks: name fewer";
            return Err(("accept_proxy", why));
        }
        if self.idle.is_zero() || self.idle > IDLE_MAX {
            let why = "has to leave idle connections more than no time, and at most a week";
            return Err(("idle", why));
        }
        if self.connections.is_some_and(|n| n == 0 || n > CONNECTIONS_MAX) {
            let why = "has to take at least one connection, and at most 65536";
            return Err(("connections", why));
        }
        Ok(())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Some(ip) => write!(f, "{ip}:{}", self.port),
            None => write!(f, "port {}", self.port),
        }
    }
}

/// Why `listeners` don't fit `services`: a sentence without its point.
pub fn astray(listeners: &Listeners, services: &Services) -> Option<Wrong> {
    let all = listeners.0.iter().enumerate();
    let named = all.filter_map(|(at, l)| Some((at, l.port, l.service.as_ref()?)));
    let mut lost = named.filter(|(_, _, service)| !services.0.contains_key(*service));
    lost.next().map(|(at, port, service)| {
        let why = format!(
            "the listener of port {port} leads to a service {service}, which is not defined: add \
             [services.{service}], or correct the name"
        );
        Wrong::new(["listeners", &at.to_string(), "service"], why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(text: &str) -> Listeners {
        Listeners::parse(text).unwrap()
    }

    #[test]
    fn equal_listeners_give_equal_texts() {
        let first = listeners(
            "[[listeners]]\nport = 5432\nservice = \"db\"\nprotocol = \"tcp\"\nidle = \"1h\"\n\
             [[listeners]]\nport = 81\nprotocol = \"http\"\naccept_proxy = [\"10.0.0.0/8\", \"1.2.3.4\"]\n",
        );
        let second = listeners(
            "[[listeners]]\nport = 81\nprotocol = \"http\"\naccept_proxy = [\"1.2.3.4/32\", \"10.0.0.0/8\"]\n\
             [[listeners]]\nport = 5432\nservice = \"db\"\n",
        );
        first.check().unwrap();
        assert_eq!(first.text(), second.text());
        let read = listeners(&first.text().unwrap());
        assert_eq!(read.0[0].protocol(), Protocol::Http);
        assert_eq!(read.0[1].protocol(), Protocol::Tcp);
        assert_eq!(read.service(5432).unwrap().as_str(), "db");
        assert_eq!((read.service(81), read.service(1)), (None, None));
        assert_eq!(read.served().len(), 1);
        assert_eq!(Listeners::default().text(), None);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (text, word) in [
            ("port = 0\nservice = \"x\"", "names no port"),
            ("port = 1", "leads to no service"),
            ("port = 1\nprotocol = \"tcp\"", "leads to no service"),
            ("port = 1\nservice = \"x\"\nprotocol = \"http\"", "[[routes]]"),
            ("port = 1\nprotocol = \"http\"\nproxy = \"v1\"", "X-Forwarded-For"),
            ("port = 1\nprotocol = \"http\"\nidle = \"5m\"", "60 s"),
            ("port = 1\nservice = \"x\"\nidle = \"0s\"", "more than no time"),
            ("port = 1\nservice = \"x\"\nidle = \"8d\"", "a week"),
            ("port = 1\nservice = \"x\"\nconnections = 0", "at least one"),
            ("port = 1\nservice = \"x\"\nconnections = 65537", "at most 65536"),
            ("port = 1\nservice = \"x\"\naddress = \"224.0.0.1\"", "no server has"),
        ] {
            let wrong = listeners(&format!("[[listeners]]\n{text}\n")).check().unwrap_err();
            assert!(wrong.len() == 1 && wrong[0].contains(word), "{text}: {wrong:?}");
        }
        for bad in [
            "port = 65536\nservice = \"x\"",
            "port = -1\nservice = \"x\"",
            "service = \"x\"",
            "port = 1\nservice = \"x\"\nproxy = \"v3\"",
            "port = 1\nservice = \"x\"\naccept_proxy = [\"10.0.0.1/8\"]",
            "port = 1\nservice = \"x\"\nports = 2",
        ] {
            assert!(Listeners::parse(&format!("[[listeners]]\n{bad}\n")).is_err(), "{bad}");
        }
        let one = "[[listeners]]\nport = 1\nservice = \"x\"\n";
        assert!(listeners(&one.repeat(2)).check().unwrap_err()[0].contains("twice"));
        let many: String =
            (1..=33).map(|n| format!("[[listeners]]\nport = {n}\nservice = \"x\"\n")).collect();
        assert!(listeners(&many).check().unwrap_err()[0].contains("32"));
        let lost = astray(&listeners(one), &Services::default()).unwrap().why;
        assert!(lost.contains("[services.x]"), "{lost}");
    }

    #[test]
    fn two_are_in_each_others_way_where_addresses_overlap() {
        let one =
            |more: &str| listeners(&format!("[[listeners]]\nport = 1\nservice = \"x\"\n{more}"));
        let (any, a, b) = (one(""), one("address = \"10.0.0.1\""), one("address = \"10.0.0.2\""));
        let unspecified = one("address = \"0.0.0.0\"");
        assert!(any.clash(&a).is_some() && a.clash(&any).is_some() && a.clash(&a).is_some());
        assert!(unspecified.clash(&b).is_some() && a.clash(&b).is_none());
        let other = listeners("[[listeners]]\nport = 2\nservice = \"x\"\n");
        assert!(any.clash(&other).is_none());
        assert_eq!(
            (any.0[0].to_string(), a.0[0].to_string()),
            ("port 1".into(), "10.0.0.1:1".into())
        );
    }
}
