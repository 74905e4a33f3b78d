//! A UDP socket and timers that wake a thread only for what it waits for.
//!
//! tokio's own registers for both directions at once, and Linux tells of room in
//! the send buffer whenever a packet has left it: each of the few packets of an
//! idle member would wake a thread for nothing (some 15 times a second, a tenth of
//! all that an idle member costs). Here room is asked for only where there was none.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use quinn::{
    AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Sleep, sleep_until},
};

use super::refusal;

/// Hosts' words about packets that were sent before, which are passed over at once.
const WORDS_MAX: usize = 64;

/// tokio, with sockets of this kind.
#[derive(Debug)]
pub(super) struct Quiet;

impl Runtime for Quiet {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(Box::pin(sleep_until(at.into()))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(socket)?))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// tokio leaves a timer that is put off where it was, and wakes a thread to move it when its old
/// moment comes. quinn puts one off with every packet that is acknowledged, so here it is
/// taken out at once.
#[derive(Debug)]
struct Timer(Pin<Box<Sleep>>);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        // Registered when it is first polled, which quinn does next.
        self.0.set(sleep_until(at.into()));
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), cx)
    }
}

#[derive(Debug)]
struct Socket {
    fd: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// Whether the last packet found no room.
    full: AtomicBool,
}

impl Socket {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        // SAFETY: a `UdpSocket` owns its descriptor, which stays open and the same until it is
        // dropped; `AsyncFd` takes it out of the selector before that.
        let fd = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { fd, state, full: AtomicBool::new(false) })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, awaited: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let socket = self.fd.get_ref();
        let mut sent = self.state.try_send(socket.into(), transmit);
        if sent.as_ref().is_err_and(refusal::is_word_of_another) {
            // This one was not sent.
            sent = self.state.try_send(socket.into(), transmit);
        }
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.full.store(true, Ordering::Relaxed);
                Err(error)
            }
            // What is wrong with this one itself is left to retransmissions: an error here would
            // end the connection.
            Err(error) => {
                tracing::debug!(%error, to = %transmit.destination, "a packet was not sent");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..WORDS_MAX {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let received = guard.try_io(|fd| self.state.recv(fd.get_ref().into(), buffers, meta));
            match received {
                // Somebody else reads those; an error here would end the endpoint.
                Ok(Err(error)) if refusal::is_word(&error) => {}
                Ok(received) => return Poll::Ready(received),
                Err(_would_block) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.fd.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room in the send buffer. quinn asks before each packet, so that the answer is at hand
/// while there was room for the last one.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    /// The same socket once more, registered for as long as it is waited for.
    awaited: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let awaited = match self.awaited.take() {
            Some(awaited) => awaited,
            None if !self.socket.full.load(Ordering::Relaxed) => return Poll::Ready(Ok(())),
            None => {
                let again = self.socket.fd.get_ref().try_clone()?;
                // SAFETY: as above: a descriptor of its own, to the same socket.
                unsafe { AsyncFd::register_with_interest(again, Interest::WRITABLE)? }
            }
        };
        match awaited.poll_write_ready(cx) {
            Poll::Ready(ready) => {
                self.socket.full.store(false, Ordering::Relaxed);
                Poll::Ready(ready.map(drop))
            }
            Poll::Pending => {
                self.awaited = Some(awaited);
                Poll::Pending
            }
        }
    }
}

/// The socket of an endpoint that is closed: what it sends is lost, and nothing comes.
#[derive(Debug)]
pub(super) struct Nowhere(SocketAddr);

impl Nowhere {
    /// In the place of a socket that was at `address`.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl AsyncUdpSocket for Nowhere {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(NowhereRoom)
    }

    fn try_send(&self, _transmit: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(
        &self,
        _cx: &mut Context<'_>,
        _buffers: &mut [IoSliceMut<'_>],
        _meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

/// There is always room in a [`Nowhere`].
#[derive(Debug)]
struct NowhereRoom;

impl UdpPoller for NowhereRoom {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use quinn::udp::EcnCodepoint;

    use super::*;

    fn open() -> Arc<Socket> {
        Arc::new(Socket::new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap())
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_room_is_found() {
        let (here, there) = (open(), open());
        let transmit = Transmit {
            destination: there.local_addr().unwrap(),
            ecn: Some(EcnCodepoint::Ect0),
            contents: b"one packet",
            segment_size: None,
            src_ip: None,
        };
        let mut room = (here.clone() as Arc<dyn AsyncUdpSocket>).create_io_poller();
        for full in [false, true, false] {
            // As if the last packet had found no room: there is some by now.
            here.full.store(full, Ordering::Relaxed);
            poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
            assert!(!here.full.load(Ordering::Relaxed));
            here.try_send(&transmit).unwrap();
            let mut buffer = [0; 64];
            let mut meta = [RecvMeta::default()];
            let received =
                poll_fn(|cx| there.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
            assert_eq!(received.await.unwrap(), 1);
            assert_eq!(&buffer[..meta[0].len], b"one packet");
            assert_eq!(meta[0].addr, here.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_said_of_others_costs_no_packet() {
        let (here, there) = (open(), open());
        let ears = refusal::Ears::open(here.fd.get_ref()).unwrap();
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let to = |destination| Transmit {
            destination,
            ecn: None,
            contents: b"one packet",
            segment_size: None,
            src_ip: None,
        };
        let (mut buffer, mut meta) = ([0; 64], [RecvMeta::default()]);
        for _ in 0..4 {
            here.try_send(&to(closed)).unwrap();
            // Sent out although the socket has an error to tell.
            here.try_send(&to(there.local_addr().unwrap())).unwrap();
            let received =
                poll_fn(|cx| there.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
            assert_eq!(received.await.unwrap(), 1);
            // Received although it has one.
            here.try_send(&to(closed)).unwrap();
            there.try_send(&to(here.local_addr().unwrap())).unwrap();
            let received =
                poll_fn(|cx| here.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
            assert_eq!(received.await.unwrap(), 1);
            assert_eq!(meta[0].addr, there.local_addr().unwrap());
        }
        assert!(ears.hear().await.iter().all(|refused| *refused == closed));
    }
}
