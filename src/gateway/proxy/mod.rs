//! Requests that a service answers: on this member, or on another one over the cluster's
//! own connections. Streams both ways, keeps connections to processes open, tries another
//! member where that is safe, and never passes on what it did not understand.
//!
//! What is safe to try again: whatever reached nobody; what a member says it passed on to
//! nobody; and a request without a body whose method may be repeated (RFC 9110, section
//! 9.2.2), as long as nothing of an answer came. A body of known length up to [`KEPT_MAX`]
//! is read before anybody is asked, so that it can be sent once more in the first two cases.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    Forward,
    access::Counted,
    answer::Answer,
    deliver::{Framing as Delivery, deliver, with_date},
    request::Request,
    tcp::relay::{self, Early},
    transport::{Broken, Transport},
};
use crate::{
    base::{
        MemberId,
        origin::Place,
        placement::{Preference, Preferences},
    },
    proto::balance::choice::{Asked, Candidate, Here, Outcome, Pick},
};

pub(super) mod affinity;
pub(super) mod body;
pub(super) mod head;
mod pool;
mod stream;

pub use affinity::{Affinity, KeyOf};
use body::{BadBody, Decoder, Framing, Next};
use head::{Origin, Refused, Response, ToClient};
pub(super) use pool::Pool;
use stream::Upstream;

/// Members and processes asked for one request: a visitor does not wait for more.
const TRIES_MAX: usize = 4;
/// Bytes read at once.
const PIECE: usize = 64 << 10;
/// As long as nobody waits.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A body of known length up to this size is kept until somebody has answered, bytes.
const KEPT_MAX: u64 = 64 << 10;

/// Who may answer, and how.
pub struct Backends {
    /// What they answer for: see [`Asked::of`].
    pub of: u64,
    /// This member, with its process while there is one that is ready.
    pub here: Option<(Candidate, Box<dyn Process>)>,
    /// Other members that may have one.
    pub others: Arc<[Candidate]>,
    /// Whether it matters who is asked.
    pub affinity: Affinity,
    /// The path that the process here is asked for, where that is another one than the client's.
    pub path: Option<String>,
    /// How long it has until its answer begins, and between any two pieces of it.
    pub within: Duration,
    /// The longest body that it is asked with, bytes.
    pub body_max: Option<u64>,
    /// By whom clients from somewhere are to be answered, this member among them.
    pub prefer: Preferences,
    /// The tags that this is decided by.
    pub tags: Arc<BTreeMap<MemberId, BTreeMap<String, String>>>,
}

impl Backends {
    /// Others alone.
    pub(super) fn elsewhere(of: u64, others: Arc<[Candidate]>, within: Duration) -> Self {
        let (affinity, path) = (Affinity::Unknown, None);
        let (prefer, tags) = Default::default();
        Self { of, here: None, others, affinity, path, within, body_max: None, prefer, tags }
    }

    /// Who of those that could answer a client at `address` is to do so: whether this member is, and
    /// which others. None if it does not matter, or none of them can.
    fn preferred(
        &self,
        address: IpAddr,
        mut place: impl FnMut() -> Place,
    ) -> Option<(bool, Vec<Candidate>)> {
        let comes = |one: &&Preference| one.from.hold(address, &mut place) == Some(true);
        let members = &self.prefer.0.iter().find(comes)?.members;
        let is_one =
            |of: &&Candidate| self.tags.get(&of.id).is_some_and(|tags| members.matches(tags));
        let here = self.here.as_ref().map(|(me, _)| me).filter(is_one).is_some();
        let others: Vec<Candidate> = self.others.iter().filter(is_one).copied().collect();
        (here || !others.is_empty()).then_some((here, others))
    }
}

/// A process that is asked. It goes on at least until this is dropped.
pub trait Process: Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// Requests under way there, this one included.
    fn load(&self) -> usize;
    /// Whether it does not answer when it is asked how it is.
    fn is_unwell(&self) -> bool {
        false
    }
    /// Where it is given only so many requests at once: waits for this one's turn, and
    /// brings what has to be kept meanwhile; nothing where it would have to wait too long.
    fn turn(&self) -> Option<Turn<'_>> {
        None
    }
}

/// See [`Process::turn`].
pub type Turn<'a> = Pin<Box<dyn Future<Output = Option<Box<dyn Send + 'a>>> + Send + 'a>>;

/// How a request is passed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub origin: Origin,
    /// To reach somebody.
    pub connect: Duration,
    /// A client that sends or takes nothing for so long is given up.
    pub stall: Duration,
    pub delivery: Delivery,
}

/// What a gateway shares between its requests.
pub(super) struct Shared<'a, F> {
    pub forward: &'a F,
    pub pool: &'a Pool,
    pub balance: &'a super::balance::Shared,
    pub stats: &'a Counted<'a>,
}

/// Why one attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Nobody has seen the request.
    #[error("it can't be reached: {0}")]
    Unreached(io::Error),
    /// A member that passed it on to nobody.
    #[error("it has nobody who answers")]
    Refused,
    /// It has as much to do as it may have, and passed it on to nobody.
    #[error("it has as many requests as it may")]
    Full,
    /// It may have been carried out.
    #[error("it did not answer: {0}")]
    Unanswered(io::Error),
    /// It answered with nonsense.
    #[error(transparent)]
    Malformed(#[from] head::BadResponse),
    /// It took too long.
    #[error("its answer did not begin within {0:?}")]
    Late(Duration),
    /// The client is at fault, or gone.
    #[error("the request was cut: {0}")]
    Client(io::Error),
    #[error(transparent)]
    Body(#[from] BadBody),
    /// The body goes on where it should have ended.
    #[error("the body of the request is longer than its route takes")]
    TooLarge,
    /// The answer has begun, and there is no way back.
    #[error(transparent)]
    Begun(#[from] Broken),
}

impl Failure {
    /// Whether the one who was asked is at fault, and not the client.
    fn is_theirs(&self) -> bool {
        match self {
            Self::Client(_) | Self::Body(_) | Self::TooLarge | Self::Full => false,
            Self::Begun(broken) => matches!(broken, Broken::Holder(_)),
            Self::Unreached(_)
            | Self::Refused
            | Self::Unanswered(_)
            | Self::Malformed(_)
            | Self::Late(_) => true,
        }
    }
}

/// Answers `request`, whose body begins in `buffer`. Says whether the client's connection
/// stays open.
pub(super) async fn pass_on<T: Transport, F: Forward>(
    client: &mut T,
    buffer: &mut BytesMut,
    request: &Request,
    backends: &Backends,
    terms: Terms,
    shared: Shared<'_, F>,
) -> Result<bool, Broken> {
    let mut kept = None;
    let body_max = backends.body_max.unwrap_or(u64::MAX);
    if matches!(request.body, Framing::Length(length) if length > body_max) {
        // Before anybody is asked, and before a client that waits is told to go on.
        return deliver(client, terms.delivery, Answer::too_large(), None, shared.stats).await;
    }
    if let Framing::Length(length) = request.body
        && length <= KEPT_MAX
        && !request.expects_continue
    {
        match timeout(terms.stall, read_whole(client, buffer, length as usize)).await {
            Ok(Ok(())) => kept = Some(buffer.split_to(length as usize).freeze()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Broken::Stalled),
        }
    }
    let path = backends.path.as_deref().unwrap_or(&request.path);
    let (address, secure) = match terms.origin {
        Origin::Client { address, secure, .. } => (Some(address), secure),
        Origin::Member => (None, request.said_secure),
    };
    let wish = backends.affinity.wish(request, address);
    let preferred =
        address.and_then(|at| backends.preferred(at, || shared.stats.tally().place(at)));
    let mut tried = Vec::new();
    let mut last = None;
    for _ in 0..TRIES_MAX {
        let prefer = preferred.as_ref().map(|(here, others)| (*here, others.as_slice()));
        let here = backends.here.as_ref().map(|(me, process)| Here {
            id: me.id,
            capacity: me.capacity,
            under_way: process.load().saturating_sub(1),
            unwell: process.is_unwell(),
        });
        let (of, others) = (backends.of, &*backends.others);
        let asked = Asked { of, here, others, tried: &tried, wish, prefer };
        let Some(chosen) = shared.balance.begin(&asked) else { break };
        let pick = chosen.pick();
        shared.stats.asks(pick);
        let (kept, cookie) = (kept.as_deref(), None);
        let mut attempt = Attempt { request, path, kept, cookie, body_max, terms, shared: &shared };
        let came = match (pick, &backends.here) {
            (Pick::Here, Some((me, process))) => {
                attempt.cookie = backends.affinity.cookie(request, me.id, secure);
                attempt.process(client, buffer, process.as_ref(), backends.within).await
            }
            (Pick::Member(id), _) => attempt.member(client, buffer, id, backends.within).await,
            (Pick::Here, None) => break,
        };
        let failure = match came {
            Ok(Brought { stays, status, .. }) => {
                chosen.ended(if is_bad(status) { Outcome::Bad } else { Outcome::Good });
                return Ok(stays);
            }
            Err(failure) => failure,
        };
        tracing::debug!(?pick, %failure, "a request was not answered by the one chosen");
        let again = match &failure {
            Failure::Client(error) => return Err(io::Error::from(error.kind()).into()),
            Failure::Begun(_) | Failure::Body(_) | Failure::TooLarge => false,
            // Nothing of its body was taken yet.
            Failure::Unreached(_) => true,
            Failure::Full if pick == Pick::Here => true,
            Failure::Refused | Failure::Full => kept.is_some() || request.has_no_body(),
            Failure::Unanswered(_) => request.may_be_repeated(),
            // A program that is slow is not made faster by asking another; a member that is
            // silent would have said so of its own.
            Failure::Malformed(_) | Failure::Late(_) => {
                pick != Pick::Here && request.may_be_repeated()
            }
        };
        if failure.is_theirs() {
            chosen.ended(Outcome::Failed);
            shared.stats.forward_failure();
        }
        tried.push(pick);
        let is_last = !again;
        last = Some(failure);
        if is_last {
            break;
        }
    }
    let is_member = matches!(terms.origin, Origin::Member);
    let mut answer = match last {
        Some(Failure::Full) if is_member => Answer::full(),
        Some(Failure::Full) => {
            Answer::unavailable(503, "There is too much to do at the moment. Please try again.")
        }
        Some(Failure::Begun(broken)) => return Err(broken),
        Some(Failure::Body(_)) => Answer::page(400, "The body of the request is malformed."),
        Some(Failure::TooLarge) => Answer::too_large(),
        Some(Failure::Late(_)) => Answer::page(504, "The program took too long to answer."),
        None | Some(Failure::Refused | Failure::Unreached(_)) if is_member => {
            Answer::passed_to_nobody()
        }
        None | Some(Failure::Refused | Failure::Unreached(_)) => {
            Answer::unavailable(503, "Nobody can answer this at the moment. Please try again.")
        }
        Some(Failure::Unanswered(_)) if request.may_be_repeated() => {
            Answer::unavailable(503, "Nobody can answer this at the moment. Please try again.")
        }
        Some(_) => Answer::page(502, "The program did not answer as it should."),
    };
    // What is left of the body nobody reads.
    answer.close = kept.is_none() && !request.has_no_body();
    deliver(client, terms.delivery, answer, None, shared.stats).await
}

/// Whether a program that answers with this can't do what it should, whatever it was asked.
fn is_bad(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// One try with one of those who may answer.
struct Attempt<'a, F> {
    request: &'a Request,
    path: &'a str,
    kept: Option<&'a [u8]>,
    /// What the client is told to be led here again.
    cookie: Option<String>,
    /// The longest body, bytes.
    body_max: u64,
    terms: Terms,
    shared: &'a Shared<'a, F>,
}

/// An answer that reached the client.
struct Brought {
    /// Whether the client's connection stays open.
    stays: bool,
    /// Whether the other one can be used again.
    reusable: bool,
    status: u16,
}

impl<F: Forward> Attempt<'_, F> {
    async fn process<T: Transport>(
        &self,
        client: &mut T,
        buffer: &mut BytesMut,
        process: &dyn Process,
        within: Duration,
    ) -> Result<Brought, Failure> {
        let _turn = match process.turn() {
            Some(turn) => Some(turn.await.ok_or(Failure::Full)?),
            None => None,
        };
        let (pool, address) = (self.shared.pool, process.address());
        let connected = pool.connect(address, self.terms.connect).await;
        let (stream, _used) = connected.map_err(Failure::Unreached)?;
        let mut upstream: Upstream<F::Stream> = Upstream::Process(stream);
        let brought = self.exchange(client, buffer, &mut upstream, within).await?;
        if brought.reusable
            && let Upstream::Process(stream) = upstream
        {
            pool.put(address, stream);
        }
        Ok(brought)
    }

    async fn member<T: Transport>(
        &self,
        client: &mut T,
        buffer: &mut BytesMut,
        member: MemberId,
        within: Duration,
    ) -> Result<Brought, Failure> {
        let late = |_| Failure::Unreached(io::ErrorKind::TimedOut.into());
        let connected = timeout(self.terms.connect, self.shared.forward.connect(member)).await;
        let stream = connected.map_err(late)?.map_err(Failure::Unreached)?;
        let mut upstream = Upstream::Member(stream);
        // Longer than it waits itself: it says better than we why nobody answers.
        let within = within + self.terms.connect;
        let brought = self.exchange(client, buffer, &mut upstream, within).await?;
        self.shared.stats.forwarded();
        Ok(brought)
    }

    /// Sends the request and brings the response.
    async fn exchange<T: Transport>(
        &self,
        client: &mut T,
        buffer: &mut BytesMut,
        upstream: &mut Upstream<F::Stream>,
        within: Duration,
    ) -> Result<Brought, Failure> {
        let to_member = matches!(upstream, Upstream::Member(_));
        // Another member finds the route by the path that the client asked for.
        let path = if to_member { &self.request.path } else { self.path };
        let mut head = head::request(self.request, path, self.terms.origin, to_member);
        head.extend_from_slice(self.kept.unwrap_or_default());
        let stall = self.terms.stall;
        write_within(upstream, &head, stall).await.map_err(Failure::Unanswered)?;
        upstream.flush().await.map_err(Failure::Unanswered)?;
        if self.kept.is_some() || self.request.has_no_body() {
            let mut arrived = BytesMut::with_capacity(PIECE / 8);
            let response = self.answered(client, upstream, &mut arrived, within).await?;
            if response.status == 101 {
                return self.switched(client, buffer, upstream, response, arrived).await;
            }
            return self.bring(client, upstream, response, arrived, within, true).await;
        }
        self.both_ways(client, buffer, upstream, within).await
    }

    /// Waits for the head of the response; what comes before it is passed on at once.
    async fn answered<C: Out, U: AsyncRead + Unpin>(
        &self,
        client: &mut C,
        upstream: &mut U,
        arrived: &mut BytesMut,
        within: Duration,
    ) -> Result<Response, Failure> {
        let head_only = self.terms.delivery.head_only;
        let upgrading = self.request.upgrade.is_some();
        let wait = async {
            loop {
                if let Some(mut response) = head::response(arrived, head_only, upgrading)? {
                    let _head = arrived.split_to(response.used);
                    if matches!(self.terms.origin, Origin::Client { .. }) {
                        match response.refused {
                            Some(Refused::Full) => return Err(Failure::Full),
                            Some(Refused::Nobody) => return Err(Failure::Refused),
                            None => {}
                        }
                    }
                    if response.status >= 200 || response.status == 101 {
                        if let Some(cookie) = &self.cookie {
                            head::line(&mut response.lines, "Set-Cookie", cookie.as_bytes());
                        }
                        return Ok(response);
                    }
                    // HTTP/1.0 knows nothing of these.
                    if self.terms.delivery.minor == 1 {
                        let interim = response.written(self.to_client(&response, true), |_| {});
                        client.put(&interim, false).await?;
                    }
                    continue;
                }
                arrived.reserve(PIECE / 8);
                match upstream.read_buf(arrived).await {
                    Ok(0) => return Err(Failure::Unanswered(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) => return Err(Failure::Unanswered(error)),
                }
            }
        };
        timeout(within, wait).await.unwrap_or(Err(Failure::Late(within)))
    }

    fn to_client(&self, response: &Response, request_read: bool) -> ToClient {
        let Delivery { keep_alive, minor, hsts, .. } = self.terms.delivery;
        let unknown = matches!(response.framing, Framing::Chunked | Framing::UntilClose);
        // Who speaks HTTP/1.0 learns the end of the body by that of the connection.
        let chunked = unknown && minor == 1;
        let keep_alive = keep_alive && request_read && (chunked || !unknown);
        ToClient { minor, keep_alive, chunked, hsts }
    }

    /// Passes the response on: its head, and with it what came of its body already.
    async fn bring<C: Out, U: AsyncRead + Unpin>(
        &self,
        client: &mut C,
        upstream: &mut U,
        response: Response,
        mut arrived: BytesMut,
        within: Duration,
        request_read: bool,
    ) -> Result<Brought, Failure> {
        let to = self.to_client(&response, request_read);
        let mut out =
            response.written(to, |out| with_date(|d| head::line(out, "Date", d.as_bytes())));
        let mut decoder = Decoder::new(response.framing);
        let (mut sent, mut begun) = (0, false);
        self.shared.stats.begins(response.status);
        loop {
            let next = decoder.next(&mut arrived).map_err(|_| match begun {
                true => cut(),
                false => head::BadResponse("its body is malformed").into(),
            })?;
            match next {
                Next::Data(data) => {
                    sent += data.len() as u64;
                    put_piece(&mut out, &data, to.chunked);
                    if arrived.is_empty() || out.len() >= PIECE {
                        let more = !decoder.is_over();
                        begun = true;
                        client.put(&out, more && out.len() >= PIECE).await?;
                        self.shared.stats.went(sent);
                        out.clear();
                    }
                }
                Next::End => break,
                Next::More => {
                    if !out.is_empty() {
                        begun = true;
                        client.put(&out, false).await?;
                        self.shared.stats.went(sent);
                        out.clear();
                    }
                    arrived.reserve(PIECE);
                    let read = timeout(within, upstream.read_buf(&mut arrived)).await;
                    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    match read.map_err(|error| Failure::Begun(Broken::Holder(error)))? {
                        0 if decoder.ends() => break,
                        0 => return Err(cut()),
                        _ => {}
                    }
                }
            }
        }
        if to.chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        if !out.is_empty() {
            client.put(&out, false).await?;
        }
        self.shared.stats.went(sent);
        self.shared.stats.response(response.status);
        self.shared.stats.sent(sent);
        let reusable = response.keep_alive && arrived.is_empty() && decoder.is_over();
        let (stays, reusable) = (to.keep_alive, reusable && request_read);
        Ok(Brought { stays, reusable, status: response.status })
    }

    /// The same while the body of the request is still being read: a program may answer
    /// before it has all of it, and one that echoes has to be read while it is written to.
    async fn both_ways<T: Transport>(
        &self,
        client: &mut T,
        buffer: &mut BytesMut,
        upstream: &mut Upstream<F::Stream>,
        within: Duration,
    ) -> Result<Brought, Failure> {
        let stall = self.terms.stall;
        let (from_client, to_client) = client.halves();
        let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
        let mut to_client = stream::Within(to_client, stall);
        let body = (self.request.body, self.body_max);
        let up = send_body(from_client, buffer, body, &mut to_upstream, stall);
        let up = std::pin::pin!(up);
        let (tell, mut told) = tokio::sync::watch::channel(false);
        let begun = AtomicBool::new(false);
        let down = async {
            let mut arrived = BytesMut::with_capacity(PIECE / 8);
            let response =
                self.answered(&mut to_client, &mut from_upstream, &mut arrived, within).await?;
            begun.store(true, Relaxed);
            let all = *told.borrow_and_update();
            self.bring(&mut to_client, &mut from_upstream, response, arrived, within, all).await
        };
        let mut down = std::pin::pin!(down);
        let mut up = up;
        let mut sent = false;
        loop {
            tokio::select! {
                came = &mut up, if !sent => match came {
                    Ok(()) => {
                        sent = true;
                        tell.send_replace(true);
                    }
                    // It may have answered all the same: that is worth more than a guess.
                    Err(Failure::Unanswered(_)) => sent = true,
                    // In the middle of an answer another one would be read as a part of it.
                    Err(failure) if begun.load(Relaxed) => return Err(ended_by(failure)),
                    Err(failure) => return Err(failure),
                },
                came = &mut down => return came,
            }
        }
    }

    /// The two have changed to another protocol: bytes both ways until both have ended.
    async fn switched<T: Transport>(
        &self,
        client: &mut T,
        buffer: &mut BytesMut,
        upstream: &mut Upstream<F::Stream>,
        response: Response,
        arrived: BytesMut,
    ) -> Result<Brought, Failure> {
        let mut out = response.written(self.to_client(&response, true), |_| {});
        out.extend_from_slice(&arrived);
        self.shared.stats.response(200);
        self.shared.stats.begins(response.status);
        client.write(&out, false).await?;
        if !buffer.is_empty() {
            let early = buffer.split();
            upstream.write_all(&early).await.map_err(|e| Failure::Begun(Broken::Holder(e)))?;
            upstream.flush().await.map_err(|e| Failure::Begun(Broken::Holder(e)))?;
        }
        let (from_client, to_client) = client.halves();
        let mut client = tokio::io::join(from_client, to_client);
        // How it ends is the two's own matter, and how long they say nothing.
        let relayed = relay::streams(&mut client, upstream, Early::default(), FOR_EVER).await;
        self.shared.stats.went(arrived.len() as u64 + relayed.down);
        Ok(Brought { stays: false, reusable: false, status: response.status })
    }
}

/// What the client did while its answer was under way, which ends there.
fn ended_by(failure: Failure) -> Failure {
    let error = match failure {
        Failure::Client(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    };
    Failure::Begun(Broken::Io(error))
}

fn cut() -> Failure {
    Failure::Begun(Broken::Holder(io::ErrorKind::UnexpectedEof.into()))
}

fn put_piece(out: &mut Vec<u8>, data: &[u8], chunked: bool) {
    if !chunked {
        out.extend_from_slice(data);
        return;
    }
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Reads until there are `length` bytes in the buffer.
async fn read_whole<T: Transport>(
    client: &mut T,
    buffer: &mut BytesMut,
    length: usize,
) -> io::Result<()> {
    while buffer.len() < length {
        buffer.reserve(length - buffer.len());
        if client.read(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Sends the body of a request as it comes.
async fn send_body<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut client: R,
    buffer: &mut BytesMut,
    (framing, body_max): (Framing, u64),
    upstream: &mut W,
    stall: Duration,
) -> Result<(), Failure> {
    let chunked = framing == Framing::Chunked;
    let mut left = body_max;
    let mut decoder = Decoder::new(framing);
    let mut out = Vec::new();
    loop {
        match decoder.next(buffer)? {
            Next::Data(data) => {
                left = left.checked_sub(data.len() as u64).ok_or(Failure::TooLarge)?;
                put_piece(&mut out, &data, chunked);
                if !buffer.is_empty() && out.len() < PIECE {
                    continue;
                }
                write_within(upstream, &out, stall).await.map_err(Failure::Unanswered)?;
                out.clear();
            }
            Next::More => {
                if !out.is_empty() {
                    write_within(upstream, &out, stall).await.map_err(Failure::Unanswered)?;
                    out.clear();
                }
                upstream.flush().await.map_err(Failure::Unanswered)?;
                buffer.reserve(PIECE);
                let read = timeout(stall, client.read_buf(buffer)).await;
                let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                if read.map_err(Failure::Client)? == 0 {
                    return Err(Failure::Client(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Next::End => break,
        }
    }
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    write_within(upstream, &out, stall).await.map_err(Failure::Unanswered)?;
    upstream.flush().await.map_err(Failure::Unanswered)
}

async fn write_within<W: AsyncWrite + Unpin>(
    to: &mut W,
    bytes: &[u8],
    stall: Duration,
) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(stall, to.write_all(bytes)).await.map_err(late)?
}

/// Where a response goes: a whole transport, or its half while the other is read.
trait Out: Send {
    fn put(&mut self, bytes: &[u8], more: bool) -> impl Future<Output = Result<(), Broken>> + Send;
}

impl<T: Transport> Out for T {
    async fn put(&mut self, bytes: &[u8], more: bool) -> Result<(), Broken> {
        self.write(bytes, more).await
    }
}
