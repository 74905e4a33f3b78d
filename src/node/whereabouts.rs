//! Where a member is reached that listens at every address of its server and was not told what to
//! say (`--bind 0.0.0.0` without `--advertise`).
//!
//! The roster knows: it was this server's address when the member joined, or the one that a
//! translator of addresses (NAT) showed to others. An address of this server that it has no more
//! is news: the member was moved, and the server's address on the default route takes its place.
//! Of an address that never was this server's nothing can be known here, so it stays. Which of the
//! two it is has to be written down while the address is there. An address may also be late: while
//! a server starts, its other networks can be there first, so it is waited for.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use crate::{
    base::wire::{self, Kind},
    store::record,
};

/// How often is looked for an address that may be late, and how long each time is waited before.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where this member is reached, which the roster has at `known` and which listens at `port`. At
/// `path` it is kept that the address in the roster was this server's.
///
/// It blocks for up to ten seconds where that address is there no more.
#[expect(clippy::disallowed_methods, reason = "it runs on a thread for what blocks")]
pub(super) fn of_this_server(path: &Path, known: SocketAddr, port: u16) -> SocketAddr {
    let ip = known.ip();
    let is_here = || UdpSocket::bind((ip, 0)).is_ok();
    let is_own = is_here();
    let kept = record::load(path).ok().flatten();
    let was_own = kept.and_then(|bytes| wire::decode::<IpAddr>(Kind::Record, &bytes).ok());
    if is_own && was_own != Some(ip) {
        let kept = record::save(path, &wire::encode(Kind::Record, &ip));
        if let Err(error) = kept {
            // It costs that a move is not noticed.
            tracing::warn!(%error, "that {ip} is this server's could not be kept");
        }
    }
    let elsewhere = || moved(ip, was_own, on_the_default_route());
    let mut now = if is_own { ip } else { elsewhere() };
    if now != ip {
        tracing::info!(
            "{ip}, at which this member was reached, is not there: for up to {} seconds it is \
             waited for, as its network may be late",
            (LOOK_EVERY * LOOKS).as_secs()
        );
        let comes = comes_late(is_here, || thread::sleep(LOOK_EVERY));
        now = if comes { ip } else { elsewhere() };
    }
    if now != ip {
        tracing::info!(
            "{ip} is not this server's any more: the address of the default route is used"
        );
    }
    SocketAddr::new(now, port)
}

/// Whether an address comes that was not there at first.
fn comes_late(mut is_here: impl FnMut() -> bool, mut pause: impl FnMut()) -> bool {
    (0..LOOKS).any(|_| {
        pause();
        is_here()
    })
}

/// What takes the place of `known`, which is not this server's.
fn moved(known: IpAddr, was_own: Option<IpAddr>, route: Option<IpAddr>) -> IpAddr {
    let fits = |ip: &IpAddr| ip.is_ipv4() == known.is_ipv4() && !ip.is_loopback();
    route.filter(fits).filter(|_| was_own == Some(known)).unwrap_or(known)
}

/// `0.0.0.0` is where one listens and not where one is reached: the address
/// that the system would send from stands in for it. Nothing is sent.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(on_the_default_route().unwrap_or(Ipv4Addr::LOCALHOST.into()));
    }
    address
}

fn on_the_default_route() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_an_address_that_was_this_servers_is_given_up() {
        let (old, new) = (ip("192.0.2.7"), ip("198.51.100.7"));
        assert_eq!(moved(old, Some(old), Some(new)), new, "it was moved");
        assert_eq!(moved(old, None, Some(new)), old, "a translator's, for all we know");
        assert_eq!(moved(old, Some(ip("192.0.2.8")), Some(new)), old, "likewise");
        assert_eq!(moved(old, Some(old), None), old, "no network yet");
        assert_eq!(moved(old, Some(old), Some(ip("127.0.0.1"))), old, "likewise");
        assert_eq!(moved(ip("2001:db8::7"), Some(ip("2001:db8::7")), Some(new)), ip("2001:db8::7"));
    }

    #[test]
    fn an_address_that_is_late_is_waited_for() {
        let pauses = std::cell::Cell::new(0);
        let pause = || pauses.set(pauses.get() + 1);
        assert!(comes_late(|| pauses.get() == 3, pause));
        assert_eq!(pauses.replace(0), 3, "and no longer than that");
        assert!(!comes_late(|| false, pause));
        assert_eq!(pauses.get(), LOOKS, "then it is given up");
        assert_eq!(LOOK_EVERY * LOOKS, Duration::from_secs(10));
    }

    #[test]
    fn an_address_of_this_server_stays_and_is_remembered() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("own-address");
        let here: SocketAddr = "127.0.0.1:7700".parse().unwrap();
        assert_eq!(of_this_server(&path, here, 7_701), "127.0.0.1:7701".parse().unwrap());
        let kept = record::load(&path).unwrap().expect("it is kept");
        assert_eq!(wire::decode::<IpAddr>(Kind::Record, &kept), Ok(here.ip()));
        // Nobody has this one (RFC 5737), and it never was this server's.
        let elsewhere: SocketAddr = "192.0.2.7:7700".parse().unwrap();
        assert_eq!(of_this_server(&path, elsewhere, 7_701), "192.0.2.7:7701".parse().unwrap());
    }
}
