//! Connections that are not HTTP: each is led to a process of one service, on this member or
//! on another one, and relayed until both sides have ended.
//!
//! Another one is tried only while none of the client's bytes has been passed on. A member
//! that is asked by another leads a connection to its own process or says that it has none,
//! and never on to a third one.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Process, Stats, balance};
use crate::{
    base::{AppName, MemberId, Network},
    proto::balance::choice::{self, Candidate, Here, Outcome, Pick, Wish},
};

pub mod header;
mod pipe;
pub(super) mod relay;
#[cfg(test)]
mod tests;
pub mod tunnel;

use header::{Parties, Version};
use relay::{Early, Ended, Relayed};
use tunnel::{Asked, BadHead};

/// Members and processes tried for one connection.
const TRIES_MAX: usize = 4;
/// To reach one of them.
const CONNECT: Duration = Duration::from_secs(3);
/// For another member to reach its process, and to say so.
const ANSWER: Duration = Duration::from_secs(5);
/// For a header of the PROXY protocol, or the head of a tunnel, to arrive.
const HEADER: Duration = Duration::from_secs(3);
/// After so long without a word a host is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Who takes connections to a port of an application.
pub trait Leads: Send + Sync + 'static {
    /// Asked once for each connection; `by_member` says that another member passes it on.
    /// None if the application has no such port. Quick: it is called on the event loop.
    fn lead(&self, app: &AppName, port: u16, by_member: bool) -> Option<Lead>;
}

/// Those who may take a connection, and how.
pub struct Lead {
    /// The process on this member, while there is one that is ready.
    pub here: Option<(Candidate, Box<dyn Process>)>,
    /// Other members that may have one.
    pub others: Arc<[Candidate]>,
    /// What they take connections for: see [`choice::Asked::of`].
    pub of: u64,
    /// By which header the process is told who connects, if by any.
    pub proxy: Option<Version>,
    /// A connection is closed after so long without a byte either way.
    pub idle: Duration,
}

/// The way to other members.
pub trait Tunnels: Send + Sync + 'static {
    /// A stream both ways that carries one connection.
    type Stream: Cut;
    /// Opens a stream to `member`, at whose end [`serve_tunnel`] runs.
    fn open(&self, member: MemberId) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A stream that can end in the middle, so that nobody takes that for its end.
pub trait Cut: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ends both directions.
    fn cut(&mut self);
}

impl Cut for TcpStream {
    fn cut(&mut self) {
        // One that is gone already needs none.
        let _gone = self.set_zero_linger();
    }
}

/// A port, as its connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub app: AppName,
    pub port: u16,
    pub accept_proxy: Vec<Network>,
}

/// What all ports share.
pub(super) struct Shared<T> {
    pub leads: Arc<dyn Leads>,
    pub tunnels: Arc<T>,
    pub stats: Arc<Stats>,
    pub balance: balance::Shared,
}

/// One who takes a connection.
enum Taken<S> {
    Process(TcpStream, Box<dyn Process>),
    /// With what came behind its answer.
    Member(S, Vec<u8>),
}

/// A connection that somebody takes.
struct Led<'a, S> {
    client: TcpStream,
    taken: Taken<S>,
    idle: Duration,
    /// It counts as under way there until it ends.
    chosen: balance::Chosen<'a>,
}

/// Why one who was asked does not.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it can't be reached: {0}")]
    Unreached(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] BadHead),
    #[error("it has nobody who takes it")]
    Nobody,
}

impl<T: Tunnels> Shared<T> {
    /// Serves one connection to its end.
    pub(super) async fn connection(&self, port: &Port, client: TcpStream, from: SocketAddr) {
        let _counted = self.stats.tcp_connection();
        // Apart, since nothing of it is kept while bytes go to and fro, or nothing does.
        let Some(mut led) = Box::pin(self.led(port, client, from)).await else { return };
        self.relay(&mut led).await;
        led.chosen.ended(Outcome::Good);
    }

    /// Leads one to somebody who takes it. Nobody does, and it is cut, where none is returned.
    async fn led(
        &self,
        port: &Port,
        mut client: TcpStream,
        from: SocketAddr,
    ) -> Option<Led<'_, T::Stream>> {
        let parties = match made_ready(&mut client, from, &port.accept_proxy).await {
            Ok(parties) => parties,
            Err(error) => {
                self.stats.tcp_failure();
                tracing::debug!(%from, app = %port.app, port = port.port, %error, "not taken");
                client.cut();
                return None;
            }
        };
        let asked = Asked { app: port.app.clone(), port: port.port, parties };
        let Some(Lead { mut here, others, of, proxy, idle }) =
            self.leads.lead(&asked.app, asked.port, false)
        else {
            self.stats.tcp_failure();
            client.cut();
            return None;
        };
        let mut tried = Vec::new();
        for _ in 0..TRIES_MAX {
            let mine = here.as_ref().map(|(me, process)| Here {
                id: me.id,
                capacity: me.capacity,
                under_way: process.load().saturating_sub(1),
                unwell: process.is_unwell(),
            });
            let wish = Wish::Nobody;
            let prefer = None;
            let choice =
                choice::Asked { of, here: mine, others: &others, tried: &tried, wish, prefer };
            let Some(chosen) = self.balance.begin(&choice) else { break };
            let pick = chosen.pick();
            tried.push(pick);
            let taken = match (pick, here.take_if(|_| pick == Pick::Here)) {
                (Pick::Member(id), _) => self.by_member(id, &asked).await,
                (Pick::Here, Some((_, process))) => {
                    by_process(process, &parties, proxy).await.map(|(s, p)| Taken::Process(s, p))
                }
                (Pick::Here, None) => break,
            };
            match taken {
                Ok(taken) => return Some(Led { client, taken, idle, chosen }),
                Err(failure) => {
                    tracing::debug!(app = %asked.app, ?pick, %failure, "a connection goes to another");
                    self.stats.forward_failure();
                    chosen.ended(Outcome::Failed);
                }
            }
        }
        self.stats.tcp_failure();
        client.cut();
        None
    }

    async fn by_member(
        &self,
        member: MemberId,
        asked: &Asked,
    ) -> Result<Taken<T::Stream>, Failure> {
        let opened = within(CONNECT, self.tunnels.open(member)).await;
        let mut stream = opened?;
        let exchange = async {
            stream.write_all(&asked.head()).await?;
            stream.flush().await?;
            read_head(&mut stream, tunnel::answer).await
        };
        let (taken, behind) = timeout(ANSWER, exchange).await.unwrap_or(Err(late().into()))?;
        if !taken {
            return Err(Failure::Nobody);
        }
        Ok(Taken::Member(stream, behind))
    }

    async fn relay(&self, led: &mut Led<'_, T::Stream>) {
        let Led { client, taken, idle, .. } = led;
        let relayed = match taken {
            Taken::Process(program, _goes_on) => {
                let relayed = relay::sockets(client, program, *idle).await;
                if matches!(relayed.ended, Ended::Cut(_)) {
                    program.cut();
                }
                relayed
            }
            Taken::Member(member, down) => {
                self.stats.forwarded();
                let early = Early { up: Vec::new(), down: std::mem::take(down) };
                let relayed = relay::streams(client, member, early, *idle).await;
                if matches!(relayed.ended, Ended::Cut(_)) {
                    member.cut();
                }
                relayed
            }
        };
        if matches!(relayed.ended, Ended::Cut(_)) {
            client.cut();
        }
        note(&self.stats, &relayed);
    }
}

/// Leads the connection that another member passes on over `stream` to the process here, and
/// says so; or that there is none.
pub async fn serve_tunnel<S: Cut>(mut stream: S, leads: Arc<dyn Leads>, stats: Arc<Stats>) {
    stats.received();
    let head = Box::pin(timeout(HEADER, read_head(&mut stream, Asked::parse))).await;
    let (asked, up) = match head {
        Ok(Ok(read)) => read,
        Ok(Err(failure)) => {
            tracing::debug!(%failure, "a tunnel did not begin as it should");
            return stream.cut();
        }
        Err(_) => return stream.cut(),
    };
    let lead = leads.lead(&asked.app, asked.port, true);
    let taken = match lead.map(|lead| (lead.here, lead.proxy, lead.idle)) {
        Some((Some((_, process)), proxy, idle)) => {
            let reached = Box::pin(by_process(process, &asked.parties, proxy)).await;
            reached.map(|(program, process)| (program, process, idle))
        }
        _ => Err(Failure::Nobody),
    };
    let (mut program, _goes_on, idle) = match taken {
        Ok(taken) => taken,
        Err(failure) => {
            tracing::debug!(app = %asked.app, port = asked.port, %failure, "a tunnel leads nowhere");
            // Whoever asked may be gone.
            let _told = said(&mut stream, tunnel::NOBODY).await;
            let _ended = stream.shutdown().await;
            return;
        }
    };
    if said(&mut stream, tunnel::TAKEN).await.is_err() {
        return program.cut();
    }
    let early = Early { up, down: Vec::new() };
    let relayed = relay::streams(&mut stream, &mut program, early, idle).await;
    if matches!(relayed.ended, Ended::Cut(_)) {
        stream.cut();
        program.cut();
    }
    note(&stats, &relayed);
}

async fn said<S: AsyncWrite + Unpin>(to: &mut S, words: &[u8]) -> io::Result<()> {
    to.write_all(words).await?;
    to.flush().await
}

/// Reads a head, and what came behind it.
async fn read_head<S: AsyncRead + Unpin, H>(
    from: &mut S,
    parse: impl Fn(&[u8]) -> Result<Option<(H, usize)>, BadHead>,
) -> Result<(H, Vec<u8>), Failure> {
    let mut bytes = Vec::with_capacity(tunnel::HEAD_MAX);
    loop {
        if let Some((head, used)) = parse(&bytes)? {
            return Ok((head, bytes.split_off(used)));
        }
        // A full head that is none is refused, so this stays bounded.
        if from.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// A connection to `process`, which has been told who connects.
async fn by_process(
    process: Box<dyn Process>,
    parties: &Parties,
    proxy: Option<Version>,
) -> Result<(TcpStream, Box<dyn Process>), Failure> {
    let mut program = within(CONNECT, TcpStream::connect(process.address())).await?;
    program.set_nodelay(true)?;
    within(CONNECT, header::send(&mut program, parties, proxy)).await?;
    Ok((program, process))
}

/// Sets the socket up, and finds out who connects.
async fn made_ready(
    client: &mut TcpStream,
    from: SocketAddr,
    accept_proxy: &[Network],
) -> io::Result<Parties> {
    client.set_nodelay(true)?;
    // A host that is gone says nothing.
    sockopt::set_socket_keepalive(&*client, true)?;
    sockopt::set_tcp_keepidle(&*client, KEEP_ALIVE)?;
    let real = Parties::new(from, client.local_addr()?);
    Ok(told_by(client, from, accept_proxy).await?.unwrap_or(real))
}

/// What the header says that `client` begins with, if it comes from one whose header is
/// taken.
pub(super) async fn told_by(
    client: &mut TcpStream,
    from: SocketAddr,
    accept_proxy: &[Network],
) -> io::Result<Option<Parties>> {
    if !accept_proxy.iter().any(|network| network.contains(from.ip())) {
        return Ok(None);
    }
    // Apart: most connections have none.
    Box::pin(within(HEADER, header::receive(client))).await
}

async fn within<R>(span: Duration, done: impl Future<Output = io::Result<R>>) -> io::Result<R> {
    timeout(span, done).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn note(stats: &Stats, relayed: &Relayed) {
    stats.relayed(relayed.up, relayed.down);
    if let Ended::Cut(error) = &relayed.ended {
        stats.error();
        tracing::debug!(%error, "a connection was cut");
    }
}
