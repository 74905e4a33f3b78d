//! By what the same client, or the same thing, finds the same member again. Pure.

use std::net::IpAddr;

use super::super::request::{HEADERS_MAX, Request};
use crate::{
    base::{Digest, MemberId},
    proto::balance::choice::{Wish, token},
};

/// The cookie that says who answered.
const COOKIE: &str = "althing";

/// Whether it matters which of those that could answer a request is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// It does not matter.
    None,
    /// Nobody here knows: whoever answers says so by a cookie, if it does.
    #[default]
    Unknown,
    /// The one that answered the client before: it is told by a cookie for this path.
    Cookie(String),
    /// The one that this belongs to.
    Key(KeyOf),
}

/// What belongs to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// The client's address.
    Address,
    /// The path that is asked for, without what follows the question mark.
    Path,
    /// The value of a header line.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

impl Affinity {
    /// Whom `request` of a client at `address` should reach. Where it has no such line, whoever.
    pub(super) fn wish(&self, request: &Request, address: Option<IpAddr>) -> Wish {
        match self {
            Self::None => Wish::Nobody,
            Self::Unknown | Self::Cookie(_) => {
                request.answered_by.map_or(Wish::Nobody, Wish::Member)
            }
            Self::Key(of) => of.key(request, address).map_or(Wish::Nobody, Wish::Key),
        }
    }

    /// The line by which `member`, which answers `request`, is found again, where the client
    /// does not know it yet.
    pub(super) fn cookie(
        &self,
        request: &Request,
        member: MemberId,
        secure: bool,
    ) -> Option<String> {
        let Self::Cookie(path) = self else { return None };
        let token = token(member);
        let secure = if secure { "; Secure" } else { "" };
        (request.answered_by != Some(token))
            .then(|| format!("{COOKIE}={token:016x}; Path={path}; HttpOnly; SameSite=Lax{secure}"))
    }
}

impl KeyOf {
    fn key(&self, request: &Request, address: Option<IpAddr>) -> Option<u64> {
        let lines = |name: &str| values(&request.raw, name);
        let value = match self {
            Self::Address => address?.to_string().into_bytes(),
            Self::Path => request.path.clone().into_bytes(),
            Self::Header(name) => lines(name).into_iter().next()?,
            Self::Cookie(name) => {
                let lines = lines("cookie");
                let mut found = lines.iter().filter_map(|line| cookie(line, name));
                found.next()?.to_vec()
            }
        };
        // The same on every member and in every release.
        let digest = Digest::of_bytes(&value);
        Some(u64::from_le_bytes(std::array::from_fn(|at| digest.0[at])))
    }
}

/// Who answered before, as the line `Cookie` says.
pub(in crate::gateway) fn answered_by(line: &str) -> Option<u64> {
    let value = std::str::from_utf8(cookie(line.as_bytes(), COOKIE)?).ok()?;
    let plain = value.len() == 16 && value.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { u64::from_str_radix(value, 16).ok() } else { None }
}

/// The value of the first cookie called `name` (RFC 6265, section 4.2.1).
fn cookie<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.split(|b| *b == b';').find_map(|pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end())
    })
}

/// The values of the lines called `name`, in order.
fn values(raw: &[u8], name: &str) -> Vec<Vec<u8>> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    // It was read before, so it is read again.
    if head.parse(raw).is_err() {
        return Vec::new();
    }
    let of_name = head.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name));
    of_name.map(|line| line.value.trim_ascii().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::SecretKey, gateway::request::parse};

    fn request(lines: &str) -> Request {
        let text = format!("GET /a/b?c HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        let (mut request, used) = parse(text.as_bytes()).unwrap().unwrap();
        request.raw = bytes::Bytes::copy_from_slice(&text.as_bytes()[..used]);
        request
    }

    #[test]
    fn a_client_is_told_once_and_says_it_again() {
        let member = SecretKey::from_seed([1; 32]).member();
        let affinity = Affinity::Cookie("/api".to_owned());
        let line = affinity.cookie(&request(""), member, true).unwrap();
        assert!(line.ends_with("; Path=/api; HttpOnly; SameSite=Lax; Secure"), "{line}");
        let value = line.split(';').next().unwrap();
        let again = request(&format!("Cookie: a=b; {value};c=d\r\n"));
        assert_eq!(affinity.wish(&again, None), Wish::Member(token(member)));
        assert_eq!(affinity.cookie(&again, member, false), None);
        assert_eq!(Affinity::Unknown.wish(&again, None), Wish::Member(token(member)));
        // A cookie of another route may come along.
        assert_eq!(Affinity::None.wish(&again, None), Wish::Nobody);
        assert_eq!(Affinity::Unknown.cookie(&request(""), member, false), None);
        for line in
            ["althing=", "althing=12", "althing=+123456789012345", "xalthing=0000000000000001"]
        {
            let request = request(&format!("Cookie: {line}\r\n"));
            assert_eq!(affinity.wish(&request, None), Wish::Nobody, "{line}");
        }
    }

    #[test]
    fn a_key_is_of_what_it_is_said_to_be() {
        let key = |of: KeyOf, lines: &str, address: &str| {
            Affinity::Key(of).wish(&request(lines), address.parse().ok())
        };
        let header = || KeyOf::Header("x-tenant".to_owned());
        assert_eq!(
            key(header(), "X-Tenant:  one \r\n", ""),
            key(header(), "x-tenant: one\r\n", "::1")
        );
        assert_ne!(key(header(), "X-Tenant: one\r\n", ""), key(header(), "X-Tenant: two\r\n", ""));
        assert_eq!(key(header(), "", "::1"), Wish::Nobody);
        let cookie = || KeyOf::Cookie("id".to_owned());
        let first = key(cookie(), "Cookie: x=1\r\nCookie: a=b; id=7 ; c\r\n", "");
        assert_eq!(first, key(cookie(), "Cookie: id=7\r\n", ""));
        assert_eq!(
            key(KeyOf::Address, "", "10.0.0.1"),
            key(KeyOf::Address, "A: b\r\n", "10.0.0.1")
        );
        assert_ne!(key(KeyOf::Address, "", "10.0.0.1"), key(KeyOf::Address, "", "10.0.0.2"));
        let Wish::Key(path) = key(KeyOf::Path, "", "") else { panic!() };
        // So that it does not change unnoticed: a cluster of two releases has to agree.
        assert_eq!(path.to_le_bytes()[..], blake3::hash(b"/a/b").as_bytes()[..8]);
    }
}
