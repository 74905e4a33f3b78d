//! One connection with one member, and the terms it is held on: class of
//! traffic, windows, timeouts, close codes.
//!
//! The rule behind the windows: a connection's window is never smaller than what all its
//! streams may hold together, so a stream whose reader is slow can't take
//! the others' room.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::{
    Connection, ConnectionError, IdleTimeout, MtuDiscoveryConfig, TransportConfig,
    TransportErrorCode, VarInt,
};

use super::{NetError, micros};
use crate::base::{ClusterId, MemberId, digest::hex, limits};

/// The first byte on a stream that says welcome.
pub(super) const WELCOME: u8 = b'W';
/// Connections with one member in one class that are kept at once. Two are
/// normal when both dial together; a third is there while a restart is noticed.
pub(super) const LINKS_MAX: usize = 4;
/// Two connections that began so close together were dialled by both sides at once.
const TOGETHER: Duration = Duration::from_secs(1);
/// A link on which nothing came back for so long after something was sent is not waited
/// for: another is dialled. After a partition, QUIC's own patience may have grown to
/// many seconds.
const SILENCE: Duration = Duration::from_secs(2);
/// What a round trip takes until it was measured: it paces the first retransmissions.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// A conversation on which nothing is said for so long is over. There is no keep-alive: members
/// that need each other probe each other. Among 64, two of them speak every ten seconds or so, and
/// among 500 every minute; were it shorter than that, nearly every probe would begin with a handshake,
/// which costs as much as fifty probes.
const IDLE_TALK: Duration = Duration::from_secs(90);
/// The same for content and requests, which come in bursts.
const IDLE: Duration = Duration::from_secs(12);
/// A link on which something was sent and nothing came back for so long is over. QUIC by itself would
/// try again and more and more seldom until the connection is idle, and what is sent
/// meanwhile would wait for that: a long idle time needs this.
const ABANDON: Duration = Duration::from_secs(12);
/// How often the side that was dialled looks for a larger packet size. Each look is some packets of 1,400
/// bytes, and one conversation with each other member stands all the time.
const MTU_AGAIN: Duration = Duration::from_secs(3_600);
/// Alerts of TLS (RFC 8446 section 6): access_denied, no_application_protocol.
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_NO_PROTOCOL: u8 = 120;
/// Room for datagrams that came in, bytes.
const DATAGRAM_IN: usize = 128 << 10;
/// Room for datagrams on their way out, bytes. Little: when they can't leave, the
/// oldest give way, for nobody wants a probe of a while ago.
const DATAGRAM_OUT: usize = 32 << 10;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Datagrams and one-way messages, in both directions.
    Talk,
    /// Content, for the side that dialled.
    Pull,
    /// Forwarded requests, from the side that dialled.
    Http,
    /// Questions about what runs on the side that was dialled.
    Ask,
    /// Clients' connections that are passed on, from the side that dialled.
    Tunnel,
    /// A stranger's knock.
    Join,
}

impl Class {
    pub(super) const ALL: [Self; 6] =
        [Self::Talk, Self::Pull, Self::Http, Self::Ask, Self::Tunnel, Self::Join];
    /// The classes between members.
    pub(super) const MEMBERS: usize = 5;

    /// Its ALPN protocol. The cluster is part of it, so that members of two
    /// clusters don't even finish a handshake.
    pub(super) fn protocol(self, cluster: &ClusterId) -> Vec<u8> {
        let name = match self {
            Self::Talk => "althing",
            Self::Pull => "althing-pull",
            Self::Http => "althing-http",
            Self::Ask => "althing-ask",
            Self::Tunnel => "althing-tunnel",
            Self::Join => "althing-join",
        };
        format!("{name}/1/{}", hex(&cluster.0.0[..8])).into_bytes()
    }

    /// One-way streams that a peer may have open towards this side at once.
    pub(super) const fn uni_max(self) -> u32 {
        match self {
            Self::Talk => 32,
            Self::Pull | Self::Http | Self::Ask | Self::Tunnel | Self::Join => 0,
        }
    }

    /// Bidirectional streams that the peer that dialled may have open at once.
    pub(super) const fn bidi_max(self) -> u32 {
        match self {
            Self::Talk => 0,
            Self::Pull => 16,
            Self::Ask => 32,
            Self::Http => 256,
            // They last: a connection each, and not one at a time.
            Self::Tunnel => 1_024,
            Self::Join => 1,
        }
    }

    /// The window of one stream towards the side that dialled, bytes.
    const fn stream_window(self) -> u32 {
        match self {
            Self::Pull => 2 << 20,
            Self::Talk | Self::Http | Self::Ask | Self::Tunnel | Self::Join => {
                ACCEPTED_STREAM_WINDOW
            }
        }
    }

    /// The terms for the side that dials.
    pub(super) fn dialler_transport(self) -> Arc<TransportConfig> {
        // One more one-way stream than the class has: the welcome.
        let uni = self.uni_max() + 1;
        let streams = uni + self.bidi_max();
        let (idle, mtu) = match self {
            // A conversation is short packets: larger ones would gain nothing.
            Self::Talk => (IDLE_TALK, None),
            Self::Pull | Self::Http | Self::Ask | Self::Tunnel | Self::Join => {
                (IDLE, Some(MtuDiscoveryConfig::default()))
            }
        };
        let mut transport = common_transport(idle);
        transport
            .mtu_discovery_config(mtu)
            .stream_receive_window(VarInt::from_u32(self.stream_window()))
            .receive_window(VarInt::from_u32(self.stream_window() * streams))
            .max_concurrent_uni_streams(VarInt::from_u32(uni))
            .max_concurrent_bidi_streams(VarInt::from_u32(0));
        Arc::new(transport)
    }

    /// Gives a connection that was accepted the room that its class has. Until
    /// then it had none at all.
    pub(super) fn widen(self, connection: &Connection) {
        let streams = self.uni_max() + self.bidi_max();
        connection.set_receive_window(VarInt::from_u32(ACCEPTED_STREAM_WINDOW * streams));
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(self.uni_max()));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(self.bidi_max()));
    }
}

/// The window of one stream towards the side that was dialled, bytes.
const ACCEPTED_STREAM_WINDOW: u32 = 256 << 10;

/// The terms for the side that is dialled, before the class is known.
pub(super) fn acceptor_transport() -> Arc<TransportConfig> {
    // The shorter of both sides' idle times holds, so the dialler's does.
    let mut transport = common_transport(IDLE_TALK);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_AGAIN);
    transport
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(ACCEPTED_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(limits::KNOCK_MAX as u32 + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    Arc::new(transport)
}

fn common_transport(idle: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(idle).expect("some seconds fit QUIC's 62 bits of ms");
    transport
        .max_idle_timeout(Some(idle))
        .send_window(4 << 20)
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(Some(DATAGRAM_IN))
        .datagram_send_buffer_size(DATAGRAM_OUT);
    transport
}

/// Why a connection is closed, as a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// Shutting down, or done.
    Done = 0,
    /// The key is not in the roster.
    Unknown = 1,
    /// A newer connection does its work.
    Replaced = 2,
    /// Too many are at the door.
    Busy = 3,
    /// It said what may not be said.
    Misbehaved = 4,
    /// It leaves unanswered what it is sent.
    Silent = 5,
}

impl Close {
    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Done => "closing",
            Self::Unknown => "removed or unknown member",
            Self::Replaced => "replaced by a newer connection",
            Self::Busy => "too many newcomers at once, try again",
            Self::Misbehaved => "too large or malformed",
            Self::Silent => "no answer",
        }
    }

    pub(super) fn apply(self, connection: &Connection) {
        connection.close(self.code(), self.text().as_bytes());
    }
}

/// A connection that was welcomed, and who dialled it.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) dialled: bool,
    /// Whether the member has another address by now.
    pub(super) stale: bool,
    since: Instant,
    /// Room for datagrams when none waits, bytes.
    room: usize,
    activity: Arc<Activity>,
}

/// UDP datagrams that a link had received when something was last sent, and the
/// first moment that something was sent after those, in microseconds since it began.
/// Whatever is sent is acknowledged, so that a peer that lives changes the first.
#[derive(Default)]
struct Activity {
    received: AtomicU64,
    asked: AtomicU64,
}

impl Link {
    pub(super) fn new(connection: Connection, dialled: bool) -> Self {
        let room = connection.datagram_send_buffer_space();
        let activity = Arc::new(Activity::default());
        Self { connection, dialled, stale: false, since: Instant::now(), room, activity }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(super) fn note_sent(&self) {
        let received = self.received();
        if self.activity.received.swap(received, Ordering::Relaxed) != received {
            self.activity.asked.store(micros(self.since), Ordering::Relaxed);
        }
    }

    /// Whether something was sent a while ago and not a single packet came since.
    pub(super) fn is_silent(&self) -> bool {
        self.unanswered_for().is_some_and(|span| span > SILENCE)
    }

    /// For how long nothing came back, where something was sent.
    pub(super) fn unanswered_for(&self) -> Option<Duration> {
        let asked = Duration::from_micros(self.activity.asked.load(Ordering::Relaxed));
        self.is_unanswered().then(|| self.since.elapsed().saturating_sub(asked))
    }

    /// Whether it was silent for so long that nothing more is to be expected of it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.unanswered_for().is_some_and(|span| span > ABANDON)
    }

    /// Whether not a single packet came since something was last sent. An
    /// acknowledgement of what was sent before that hides a silence until the next sending.
    fn is_unanswered(&self) -> bool {
        self.activity.received.load(Ordering::Relaxed) == self.received()
    }

    fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// UDP datagrams sent and received so far.
    pub(super) fn traffic(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        (stats.udp_tx.datagrams, stats.udp_rx.datagrams)
    }

    /// Whether no datagram waits to leave.
    pub(super) fn has_sent_all(&self) -> bool {
        self.connection.datagram_send_buffer_space() >= self.room
    }

    /// Whether the end by `error` is worth telling: not if this side ended it, nor
    /// if it fell silent with nothing left unanswered.
    pub(super) fn is_loss(&self, error: &ConnectionError) -> bool {
        match error {
            ConnectionError::LocallyClosed => false,
            ConnectionError::TimedOut => self.is_unanswered(),
            ConnectionError::ApplicationClosed(close) => close.error_code != Close::Replaced.code(),
            _ => true,
        }
    }
}

/// The link to send on, of those with `peer` in the order they began. The newest,
/// for its dialler had a reason; but of two that both sides dialled together,
/// the one that the smaller id dialled, so that both choose the same.
pub(super) fn choose<'a>(
    links: impl Iterator<Item = &'a Link>,
    me: MemberId,
    peer: MemberId,
) -> Option<&'a Link> {
    links.reduce(|old, new| {
        let together = new.since.duration_since(old.since) < TOGETHER;
        if together && old.dialled != new.dialled && old.dialled == (me < peer) { old } else { new }
    })
}

/// What a failed dial of `address` means.
pub(super) fn dial_error(address: SocketAddr, error: &ConnectionError) -> NetError {
    match error {
        ConnectionError::TransportError(error)
            if error.code == TransportErrorCode::crypto(ALERT_ACCESS_DENIED) =>
        {
            NetError::WrongKey { address }
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::crypto(ALERT_NO_PROTOCOL) =>
        {
            NetError::OtherCluster { address }
        }
        ConnectionError::ApplicationClosed(close) => {
            NetError::Refused { address, reason: clean(&close.reason) }
        }
        ConnectionError::TimedOut => unanswered(address),
        ConnectionError::LocallyClosed => NetError::Closing,
        error => NetError::Unreachable { address, cause: clean(error.to_string().as_bytes()) },
    }
}

/// Nothing came back in time.
pub(super) fn unanswered(address: SocketAddr) -> NetError {
    NetError::Unreachable { address, cause: "no answer in time".to_owned() }
}

/// Text from the other side, fit to be shown.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
