//! What hosts say of UDP ports at which nobody listens.
//!
//! A process that is killed leaves a closed port behind, and the kernel of its host
//! says so to whoever sends a packet there (ICMP port unreachable, RFC 1122 section
//! 4.1.3.1). A socket that talks to many hosts hears of it only if it wants to
//! (`IP_RECVERR`, ip(7)), and reads it apart from what its peers send.
//!
//! Linux says it to one host six times, and from then on once a second
//! (`icmp_ratelimit`, icmp(7)). A few retransmissions use that up: so what answers our own
//! packets has to be heard, and asking again by another socket would mostly be in vain.
//!
//! Who can send packets with a forged origin can forge such a word. It is a
//! reason to look whether the peer still answers, and no more than that.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use tokio::{
    io::{Interest, Ready, unix::AsyncFd},
    sync::broadcast::{self, error::RecvError},
    time::sleep,
};

/// How long a peer of which it is said that it is not there may leave everything unanswered. QUIC
/// acknowledges within 25 ms and a round trip.
pub(super) const UNANSWERED: Duration = Duration::from_millis(120);
/// The same of one that is dialled: what it says first takes a round trip, of a length that nobody
/// knows yet.
const UNHEARD: Duration = Duration::from_millis(300);
/// After this time all that it had sent is acknowledged, and what is not answered is sent again.
pub(super) const SENT_AGAIN: Duration = Duration::from_millis(60);
/// How often it is looked whether something was sent again.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// For how long that is looked for at least, where nothing is; eight round trips of a far one.
pub(super) const ASKED_MAX: Duration = Duration::from_millis(1_000);
/// Words that are read at a time.
const READ_MAX: usize = 64;
/// Room for what the kernel tells beside a word, bytes: some 100, with addresses of IPv6.
const BESIDE: usize = 256;
/// Words that wait for a dial that is slow to take them.
const SAID_MAX: usize = 64;

/// Reads the words that come to a socket.
pub(super) struct Ears {
    /// The socket once more, registered for errors.
    fd: AsyncFd<UdpSocket>,
}

impl Ears {
    /// From now on `socket` hears of closed ports. That makes it fail now and then for what was
    /// sent before, to somebody else: see [`is_word`].
    ///
    /// Errors: the kernel's, where it doesn't know of this.
    pub(super) fn open(socket: &UdpSocket) -> io::Result<Self> {
        let again = socket.try_clone()?;
        again.set_nonblocking(true)?;
        // SAFETY: a `UdpSocket` owns its descriptor, which stays open and the same until it is
        // dropped; `AsyncFd` takes it out of the selector before that.
        let fd = unsafe { AsyncFd::register_with_interest(again, Interest::ERROR)? };
        // Last, and both or neither: words that nobody reads would fill the socket. One of IPv6
        // has peers of both kinds.
        if socket.local_addr()?.is_ipv6() {
            setsockopt(socket, Ipv6RecvErr, &true)?;
        }
        if let Err(error) = setsockopt(socket, Ipv4RecvErr, &true) {
            // Fails where it is not one of IPv6.
            let _ = setsockopt(socket, Ipv6RecvErr, &false);
            return Err(error.into());
        }
        Ok(Self { fd })
    }

    /// The next addresses of which it is said that nobody listens there. Can be dropped and called
    /// again without losing any.
    pub(super) async fn hear(&self) -> Vec<SocketAddr> {
        loop {
            let Ok(mut guard) = self.fd.ready(Interest::ERROR).await else {
                // The runtime ends.
                return std::future::pending().await;
            };
            let mut refused = Vec::new();
            let read_all = (0..READ_MAX).any(|_| match read(self.fd.get_ref()) {
                Ok(address) => {
                    refused.extend(address);
                    false
                }
                Err(_) => true,
            });
            if read_all {
                guard.clear_ready_matching(Ready::ERROR);
            }
            if !refused.is_empty() {
                return refused;
            }
        }
    }
}

/// Reads one word: the address, or nothing if it is about something else. An error where there
/// is none left.
fn read(socket: &UdpSocket) -> Result<Option<SocketAddr>, Errno> {
    let mut beside = vec![0; BESIDE];
    // Of the packet that was sent, nothing.
    let word = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut [],
        Some(&mut beside),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    )?;
    let is_refusal = |error: &libc::sock_extended_err| {
        let by_host =
            [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
        by_host && error.ee_errno == Errno::ECONNREFUSED as u32
    };
    let refused = word.cmsgs().is_ok_and(|mut messages| {
        messages.any(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) => is_refusal(&error),
            ControlMessageOwned::Ipv6RecvErr(error, _) => is_refusal(&error),
            _ => false,
        })
    });
    Ok(word.address.filter(|_| refused).and_then(|to| {
        let v4 = to.as_sockaddr_in().map(|to| SocketAddrV4::from(*to).into());
        v4.or_else(|| to.as_sockaddr_in6().map(|to| SocketAddrV6::from(*to).into())).map(canonical)
    }))
}

/// An address in the one form in which addresses are compared here.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an error of a socket is such a word, or another one by which a host or a router tells
/// of a packet that was sent before. The socket is as well as ever.
pub(super) fn is_word(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
                | Errno::EPROTO
                | Errno::EACCES
                | Errno::EMSGSIZE
        )
    )
}

/// The same, as an answer to a packet that is about to be sent: that is too large by itself, and by
/// no host's word.
pub(super) fn is_word_of_another(error: &io::Error) -> bool {
    is_word(error) && error.raw_os_error() != Some(Errno::EMSGSIZE as i32)
}

/// Passes the words on to the dials that are under way.
pub(super) struct Refusals(broadcast::Sender<SocketAddr>);

impl Refusals {
    pub(super) fn new() -> Self {
        Self(broadcast::channel(SAID_MAX).0)
    }

    pub(super) fn tell(&self, address: SocketAddr) {
        // Mostly nobody dials.
        let _ = self.0.send(address);
    }

    /// What is said from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<SocketAddr> {
        self.0.subscribe()
    }
}

/// Ends a while after it was said that nobody listens at `address`, unless it `is_heard` by then;
/// otherwise never.
pub(super) async fn refusal(
    mut said: broadcast::Receiver<SocketAddr>,
    address: SocketAddr,
    is_heard: &AtomicBool,
) {
    let address = canonical(address);
    loop {
        match said.recv().await {
            Ok(refused) if refused == address => {
                sleep(UNHEARD).await;
                if !is_heard.load(Ordering::Relaxed) {
                    return;
                }
            }
            // What was missed of many: it is said again.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use tokio::time::timeout;

    use super::*;

    /// An address at which nobody listens.
    fn closed(host: IpAddr) -> SocketAddr {
        UdpSocket::bind((host, 0)).unwrap().local_addr().unwrap()
    }

    async fn hears(bind: IpAddr, to: SocketAddr, said: SocketAddr) {
        let socket = UdpSocket::bind((bind, 0)).unwrap();
        let ears = Ears::open(&socket).unwrap();
        socket.send_to(b"anybody?", to).unwrap();
        let heard = timeout(Duration::from_secs(10), ears.hear()).await;
        assert_eq!(heard.expect("its host says so"), [said]);
        // The socket itself fails for it once, until it is read, and is well again.
        let failed = async {
            loop {
                match socket.send_to(b"anybody?", to) {
                    Ok(_) => sleep(Duration::from_millis(5)).await,
                    Err(error) => return error,
                }
            }
        };
        let error = timeout(Duration::from_secs(10), failed).await.expect("it is told");
        assert!(is_word(&error), "{error}");
        let own = socket.local_addr().unwrap();
        assert!((0..100).any(|_| socket.send_to(b"anybody?", own).is_ok()));
    }

    #[tokio::test]
    async fn a_closed_port_is_heard_of() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let to = closed(here);
        hears(here, to, to).await;
    }

    #[tokio::test]
    async fn a_socket_of_ipv6_hears_of_both_kinds() {
        let here = IpAddr::from(Ipv6Addr::LOCALHOST);
        if UdpSocket::bind((here, 0)).is_err() {
            return eprintln!("not tried: this machine has no IPv6");
        }
        let to = closed(here);
        hears(Ipv6Addr::UNSPECIFIED.into(), to, to).await;
        let old = closed(Ipv4Addr::LOCALHOST.into());
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), old.port());
        hears(Ipv6Addr::UNSPECIFIED.into(), mapped, old).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_ends_by_the_word_about_its_own_address() {
        let refusals = Refusals::new();
        let to = SocketAddr::from(([192, 0, 2, 1], 7_000));
        let other = SocketAddr::from(([192, 0, 2, 1], 7_001));
        let (heard, unheard) = (AtomicBool::new(true), AtomicBool::new(false));
        let answered = refusal(refusals.listen(), to, &heard);
        let dial = refusal(refusals.listen(), to, &unheard);
        refusals.tell(other);
        tokio::pin!(dial);
        assert!(timeout(Duration::from_secs(60), &mut dial).await.is_err());
        refusals.tell(to);
        timeout(Duration::from_secs(1), dial).await.unwrap();
        // Whoever answers is there, whatever is said.
        assert!(timeout(Duration::from_secs(60), answered).await.is_err());
    }
}
