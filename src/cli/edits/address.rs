//! Where content lies outside of the cluster.

use std::fmt;

use hyper::Uri;

/// An `http` or `https` URL. What lets somebody in may stand in it (`user:password@`, a
/// signed query), so it shows scheme, host and path, and nothing else of it. Files have a
/// field of their own in lists: a URL always means the network.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// Parses a whole URL. Why it is refused says nothing of what stands in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:")) {
            return Err("a url is fetched from the network; name a file with `content`".to_owned());
        }
        let uri: Uri = text.parse().map_err(|error| format!("the url is no url ({error})"))?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(Self(uri)),
            (Some("http" | "https") | None, _) => {
                Err("the url is no url: it begins with https://HOST/ or http://HOST/".to_owned())
            }
            (Some(_), _) => Err("of urls, http and https are fetched".to_owned()),
        }
    }

    /// Where `location`, in the answer from here, leads. Never from an encrypted address
    /// to one that is not.
    pub fn follow(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or_default();
        let next = Self::parse(&self.joined(location))?;
        if self.is_encrypted() && !next.is_encrypted() {
            return Err(format!("it leads on to {next}, which is not encrypted, as the url is"));
        }
        Ok(next)
    }

    /// Whether it is `https`.
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// All of it: only for whoever asks there.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// RFC 3986, 5.2: a reference, as it is meant from here.
    fn joined(&self, reference: &str) -> String {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let colon = reference.find([':', '/', '?']).filter(|at| reference[*at..].starts_with(':'));
        let path = self.0.path();
        match reference {
            _ if colon.is_some() => reference.to_owned(),
            _ if reference.starts_with("//") => format!("{scheme}:{reference}"),
            _ if reference.starts_with('/') => format!("{scheme}://{authority}{reference}"),
            _ if reference.starts_with('?') => format!("{scheme}://{authority}{path}{reference}"),
            _ => {
                let (below, query) = match reference.split_once('?') {
                    Some((below, query)) => (below, format!("?{query}")),
                    None => (reference, String::new()),
                };
                let above = path.rfind('/').map_or("", |end| &path[..end]);
                let whole = without_dots(&format!("{above}/{below}"));
                format!("{scheme}://{authority}{whole}{query}")
            }
        }
    }
}

/// A path with `.` and `..` carried out; never above its root.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        let scheme = self.0.scheme_str().unwrap_or_default();
        let query = if self.0.query().is_some() { "?…" } else { "" };
        write!(f, "{scheme}://{host}{}{query}", self.0.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_followed_as_it_is_meant() {
        let here = Address::parse("https://u:p@a.example:1/b/c/d?q").unwrap();
        for (location, there) in [
            ("https://o.example/x?y=1#z", "https://o.example/x?y=1"),
            ("//o.example/x", "https://o.example/x"),
            ("/x", "https://u:p@a.example:1/x"),
            ("x", "https://u:p@a.example:1/b/c/x"),
            ("./x?y=/..", "https://u:p@a.example:1/b/c/x?y=/.."),
            ("../../../x", "https://u:p@a.example:1/x"),
            ("?r", "https://u:p@a.example:1/b/c/d?r"),
            ("x/a:b", "https://u:p@a.example:1/b/c/x/a:b"),
        ] {
            assert_eq!(here.follow(location).unwrap().uri().to_string(), there, "{location}");
        }
        for (location, why) in [
            ("http://o.example/x?k=secret", "http://o.example/x?…, which is not encrypted"),
            ("file:///etc/passwd", "`content`"),
            ("gopher://o.example/", "http and https"),
            ("data:text,x", "no url"),
            ("https://", "no url"),
            ("/x y", "no url"),
        ] {
            let error = here.follow(location).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{location}: {error}");
        }
        let plain = Address::parse("http://a.example/").unwrap();
        assert!(plain.follow("https://a.example/").unwrap().is_encrypted());
        assert!(plain.follow("http://b.example/").is_ok());
    }

    #[test]
    fn what_lets_somebody_in_is_not_shown() {
        for (url, shown) in [
            ("https://u:p@h:1/x?k=v", "https://h:1/x?…"),
            ("HTTP://u@[::1]/x", "http://[::1]/x"),
            ("http://h", "http://h/"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.into(), shown.into()));
        }
    }
}
