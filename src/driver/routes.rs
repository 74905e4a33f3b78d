//! F3, routes: which paths of an application are answered by a service of it instead
//! of its files.
//!
//! [`Routes`] only says so. What listens where is the supervisor's to know, and who is
//! asked is the gateway's to choose. A service that a route names is *served*: each of
//! its processes is given a port of its own.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Definition, Wrong,
    listeners::Listeners,
    services::{
        Services,
        spec::{as_size, as_span, is_default},
    },
};
use crate::base::{ServiceName, placement::Preferences};

/// Routes of one application.
pub const ROUTES_MAX: usize = 64;
/// Length of a route's path, bytes.
pub const PATH_MAX: usize = 256;
/// Length of a name in [`Affinity`], bytes.
const NAME_MAX: usize = 64;
/// Preferences of one route.
pub const PREFERENCES_MAX: usize = 16;
/// The longest that an answer may be waited for.
pub const WITHIN_MAX: Duration = Duration::from_secs(3_600);
/// How long an answer is waited for where nothing is said.
const WITHIN: Duration = Duration::from_secs(60);

/// The routes of one application: `[[routes]]` of its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Routes(pub Vec<Route>);

/// Leads one path and all below it to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `/` or `/api`; whole parts of a path are compared, never a part of one.
    pub path: String,
    /// The service of the same application that answers.
    pub service: ServiceName,
    /// Whether the service is asked without the path: `/api/x` as `/x`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strip: bool,
    /// How long it has until its answer begins, and between any two pieces of it.
    #[serde(default = "within", skip_serializing_if = "is_within", with = "as_span")]
    pub within: Duration,
    /// By what the same client, or the same thing, reaches the same member again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The longest body of a request that it is asked with, bytes; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_size")]
    pub body_max: Option<u64>,
    /// Clients from some places are answered by some members: the first of these that a client comes
    /// from counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefer: Preferences,
}

/// See [`Route::affinity`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Affinity {
    /// `cookie`: a cookie of Althing's own, which names the member that answered.
    Cookie,
    /// `address`: the client's address.
    Address,
    /// `path`: the path that is asked for.
    Path,
    /// `header NAME`: the value of this line; the name in lower case.
    Header(String),
    /// `cookie NAME`: the value of this cookie of the application.
    CookieOf(String),
}

impl TryFrom<String> for Affinity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // What a header line or a cookie may be called (RFC 9110, section 5.6.2).
        let name = |name: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            let fine = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits);
            if fine { Ok(name.to_owned()) } else { Err(format!("{name:?} is no name of one")) }
        };
        match text.split_once(' ') {
            None if text == "cookie" => Ok(Self::Cookie),
            None if text == "address" => Ok(Self::Address),
            None if text == "path" => Ok(Self::Path),
            Some(("header", of)) => Ok(Self::Header(name(of)?.to_ascii_lowercase())),
            Some(("cookie", of)) => Ok(Self::CookieOf(name(of)?)),
            _ => Err(format!(
                "{text:?} is no affinity; write \"cookie\", \"address\", \"path\", \"header NAME\" \
                 or \"cookie NAME\""
            )),
        }
    }
}

impl From<Affinity> for String {
    fn from(affinity: Affinity) -> Self {
        match affinity {
            Affinity::Cookie => "cookie".to_owned(),
            Affinity::Address => "address".to_owned(),
            Affinity::Path => "path".to_owned(),
            Affinity::Header(name) => format!("header {name}"),
            Affinity::CookieOf(name) => format!("cookie {name}"),
        }
    }
}

fn within() -> Duration {
    WITHIN
}

fn is_within(within: &Duration) -> bool {
    *within == WITHIN
}

/// A document that holds routes and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    routes: Routes,
}

impl Definition for Routes {
    const NAME: &'static str = "routes.toml";

    fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(document.routes)
    }

    fn text(&self) -> Option<String> {
        let mut sorted = self.clone();
        sorted.0.sort_by(|a, b| a.path.cmp(&b.path));
        (!sorted.0.is_empty()).then(|| {
            toml::to_string(&Document { routes: sorted }).expect("maps of text are always TOML")
        })
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        if self.0.len() > ROUTES_MAX {
            let why = format!("More than {ROUTES_MAX} routes are defined: have fewer.");
            all.push(Wrong::new(["routes", &ROUTES_MAX.to_string()], why));
        }
        let mut seen = BTreeSet::new();
        for (at, route) in self.0.iter().take(ROUTES_MAX).enumerate() {
            let Route { path, within, prefer, .. } = route;
            let (at, shown) = (at.to_string(), path.chars().take(60).collect::<String>());
            let mut say = |key: &str, text: &str| {
                all.push(Wrong::new(["routes", &at, key], format!("The route {shown:?} {text}")));
            };
            if let Err(why) = check_path(path) {
                say("path", &format!("{why}: write a path such as \"/api\", or \"/\" for all."));
            }
            if !seen.insert(path) {
                say("path", "is there twice: leave one of them out.");
            }
            if within.is_zero() || *within > WITHIN_MAX {
                let why =
                    "has to give more than no time, and at most an hour, within which it answers.";
                say("within", why);
            }
            if prefer.0.len() > PREFERENCES_MAX {
                let why =
                    format!("prefers members in more than {PREFERENCES_MAX} ways: have fewer.");
                say("prefer", &why);
            }
        }
        all
    }
}

impl Routes {
    /// The route of the most parts that leads `path` anywhere. `path` is that of a request,
    /// still percent-encoded: each of its parts is decoded by itself, so that `/%61pi` is
    /// `/api`.
    pub fn find(&self, path: &str) -> Option<&Route> {
        let leads = self.0.iter().filter(|route| route.leads(path));
        leads.max_by_key(|route| route.parts().count())
    }

    /// The services that are given a port.
    pub fn served(&self) -> BTreeSet<ServiceName> {
        self.0.iter().map(|route| route.service.clone()).collect()
    }
}

impl Route {
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter(|part| !part.is_empty())
    }

    fn leads(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut asked = rest.split('/');
        self.parts().all(|part| {
            let next = asked.next().map(|next| percent_encoding::percent_decode_str(next).into());
            next.is_some_and(|next: Cow<'_, [u8]>| *next == *part.as_bytes())
        })
    }

    /// The path that the service is asked for, where `path` was.
    pub fn rewritten<'a>(&self, path: &'a str) -> &'a str {
        if !self.strip {
            return path;
        }
        let mut rest = path;
        for _ in self.parts() {
            let below = rest.strip_prefix('/').unwrap_or(rest);
            rest = below.find('/').map_or("/", |at| &below[at..]);
        }
        rest
    }
}

/// Why `routes` don't fit `services`: a sentence without its point. What `listeners` lead to
/// has a port as well.
pub fn astray(routes: &Routes, listeners: &Listeners, services: &Services) -> Option<Wrong> {
    let mut all = routes.0.iter().enumerate();
    let lost = all.find(|(_, route)| !services.0.contains_key(&route.service));
    let served = &routes.served() | &listeners.served();
    let unserved = |(name, _): &(&ServiceName, _)| !served.contains(*name);
    let mut others = services.0.iter().filter(unserved);
    if let Some((name, _)) = others.find(|(_, service)| service.ready.wants_port()) {
        let why = format!(
            "service {name} is to be asked at $PORT, and neither route nor listener leads to it, \
             so that it has none: add [[routes]] or [[listeners]], or name the port"
        );
        return Some(Wrong::new(["services", name.as_str(), "ready"], why));
    }
    lost.map(|(at, Route { path, service, .. })| {
        let why = format!(
            "the route {path:?} leads to a service {service}, which is not defined: add \
             [services.{service}], or correct the name"
        );
        Wrong::new(["routes", &at.to_string(), "service"], why)
    })
}

fn check_path(path: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&b);
    if path.len() > PATH_MAX {
        return Err("is longer than 256 bytes");
    }
    if !path.starts_with('/') {
        return Err("does not begin with a slash");
    }
    if !path.bytes().all(plain) {
        return Err("has characters that no plain path has");
    }
    let below = &path[1..];
    if !below.is_empty() && below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("has an empty part, or one that climbs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Routes {
        Routes::parse(text).unwrap()
    }

    #[test]
    fn the_longest_that_leads_there_is_taken() {
        let routes = routes(
            "[[routes]]\npath = \"/\"\nservice = \"all\"\n[[routes]]\npath = \"/api\"\nservice = \"api\"\n\
             [[routes]]\npath = \"/api/v2\"\nservice = \"new\"\nstrip = true\n",
        );
        routes.check().unwrap();
        for (path, service) in [
            ("/", "all"),
            ("/apix", "all"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/%61pi/x", "api"),
            ("/api%2fv2", "all"),
            ("/api/v2/x?", "new"),
            ("/x/api", "all"),
        ] {
            assert_eq!(routes.find(path).unwrap().service.as_str(), service, "{path}");
        }
        assert_eq!(routes.find("*"), None);
        let new = routes.find("/api/v2").unwrap();
        for (asked, told) in [("/api/v2", "/"), ("/api/v2/", "/"), ("/%61pi/v2/a//b", "/a//b")] {
            assert_eq!(new.rewritten(asked), told);
        }
        assert_eq!(routes.find("/api/x").unwrap().rewritten("/api/x"), "/api/x");
        let names: Vec<_> = routes.served().into_iter().map(|name| name.to_string()).collect();
        assert_eq!(names, ["all", "api", "new"]);
    }

    #[test]
    fn equal_routes_give_equal_texts() {
        let first = routes(
            "[[routes]]\npath = \"/b\"\nservice = \"x\"\nwithin = \"60s\"\n[[routes]]\npath = \"/a\"\nservice = \"x\"\n",
        );
        let second = routes(
            "[[routes]]\npath = \"/a\"\nservice = \"x\"\nstrip = false\n[[routes]]\npath = \"/b\"\nservice = \"x\"\n",
        );
        assert_eq!(first.text(), second.text());
        assert_eq!(routes(&first.text().unwrap()).0.len(), 2);
        assert_eq!(Routes::default().text(), None);
        let bounded = routes("[[routes]]\npath = \"/\"\nservice = \"x\"\nbody_max = \"10MB\"\n");
        assert_eq!(bounded.0[0].body_max, Some(10_000_000));
        assert!(bounded.text().unwrap().contains("body_max = \"10MB\""));
        for wrong in ["10", "\"much\"", "\"-1\""] {
            let text = format!("[[routes]]\npath = \"/\"\nservice = \"x\"\nbody_max = {wrong}\n");
            assert!(Routes::parse(&text).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_affinity_is_read_as_it_is_written() {
        let with = |text: &str| {
            Routes::parse(&format!(
                "[[routes]]\npath = \"/a\"\nservice = \"x\"\naffinity = \"{text}\"\n"
            ))
        };
        for text in ["cookie", "address", "path", "header x-tenant", "cookie SID"] {
            let read = with(text).unwrap();
            assert_eq!(routes(&read.text().unwrap()), read);
            assert_eq!(String::from(read.0[0].affinity.clone().unwrap()), text);
        }
        assert_eq!(with("header X-Tenant").unwrap(), with("header x-tenant").unwrap());
        for text in ["", "Cookie", "header", "header ", "header a b", "cookie a=b", "cookie ä"] {
            assert!(with(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn preferences_are_read_and_written() {
        let of = |prefer: &str| {
            format!("[[routes]]\npath = \"/\"\nservice = \"x\"\nprefer = {prefer}\n")
        };
        let text = of(
            "[{ from = [\"MX\", \"continent:EU\", \"10.0.0.0/8\"], members = \"region == latam\" }]",
        );
        let read = routes(&text);
        let [crate::base::placement::Preference { from, members }] = &*read.0[0].prefer.0 else {
            panic!("{read:?}")
        };
        assert!(
            from.needs_place() && from.hold([10, 1, 1, 1].into(), Default::default) == Some(true)
        );
        assert_eq!(members.as_str(), "region == latam");
        assert_eq!(routes(&read.text().unwrap()), read);
        for wrong in [
            "[{ from = [], members = \"a\" }]",
            "[{ from = [\"mx\"], members = \"a\" }]",
            "[{ from = [\"MX\"], members = \"a ==\" }]",
            "[{ from = [\"MX\"] }]",
        ] {
            assert!(Routes::parse(&of(wrong)).is_err(), "{wrong}");
        }
        let many = vec!["{ from = [\"MX\"], members = \"a\" }"; PREFERENCES_MAX + 1].join(", ");
        assert!(routes(&of(&format!("[{many}]"))).check().unwrap_err()[0].contains("16 ways"));
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for path in ["api", "", "/a//b", "/a/", "/../a", "/a?b", "/ä", "/%61", "/a b"] {
            let one = Route {
                path: path.to_owned(),
                service: ServiceName::parse("x").unwrap(),
                strip: false,
                within: WITHIN,
                affinity: None,
                body_max: None,
                prefer: Preferences::default(),
            };
            let wrong = Routes(vec![one]).check().unwrap_err();
            assert_eq!(wrong.len(), 1, "{path}: {wrong:?}");
        }
        let twice = routes(&"[[routes]]\npath = \"/a\"\nservice = \"x\"\n".repeat(2));
        assert!(twice.check().unwrap_err()[0].contains("twice"));
        let many = Routes(vec![twice.0[0].clone(); ROUTES_MAX + 1]);
        assert!(many.check().unwrap_err()[0].contains("64"));
        assert!(Routes::parse("[[routes]]\npath = \"/a\"\nservice = \"x\"\nport = 1\n").is_err());
        let hasty = "[[routes]]\npath = \"/a\"\nservice = \"x\"\nwithin = \"0s\"\n";
        assert!(routes(hasty).check().is_err());
    }
}
