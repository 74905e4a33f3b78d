//! The two directions of one request: its body into the pipe, and the answer out of it,
//! each as fast as the other side takes it.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{SendStream, server::SendResponse};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    super::proxy::{
        body::{Decoder, Next},
        head::response,
    },
    head::{self, Opened},
};

/// Bytes read at once.
const PIECE: usize = 16 << 10;

/// Why an answer is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// By what answers.
    Here,
    /// By the client: it has taken its request back, is gone, or takes nothing.
    Client,
}

impl From<h2::Error> for Cut {
    fn from(_: h2::Error) -> Self {
        Self::Client
    }
}

/// Sends a request into the pipe; to be held open until the answer is there. An error is
/// always the client's: who answers may have heard enough.
pub(super) async fn send<W: AsyncWrite + Unpin>(opened: Opened, mut to: W) -> Result<W, Cut> {
    let Opened { head, first, mut body, chunked } = opened;
    let mut hears = to.write_all(&head).await.is_ok();
    let mut next = first;
    while hears {
        let data = match next.take() {
            Some(data) => data,
            None => match body.data().await {
                None => break,
                Some(data) => data?,
            },
        };
        let length = data.len();
        // An empty chunk would be the last one.
        if length > 0 {
            hears = piece(&mut to, &data, chunked).await.is_ok();
        }
        // Only now is there room for as much again.
        body.flow_control().release_capacity(length)?;
    }
    if hears && chunked {
        let _may_have_heard_enough = to.write_all(b"0\r\n\r\n").await;
    }
    Ok(to)
}

async fn piece<W: AsyncWrite + Unpin>(to: &mut W, data: &[u8], chunked: bool) -> io::Result<()> {
    if !chunked {
        return to.write_all(data).await;
    }
    to.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
    to.write_all(data).await?;
    to.write_all(b"\r\n").await
}

/// Brings the answer out of the pipe to the client.
pub(super) async fn bring<R: AsyncRead + Unpin>(
    mut from: R,
    respond: &mut SendResponse<Bytes>,
    head_only: bool,
    stall: Duration,
) -> Result<(), Cut> {
    let mut arrived = BytesMut::new();
    let answer = loop {
        let read = response(&arrived, head_only, false).map_err(|_| Cut::Here)?;
        if let Some(answer) = read {
            arrived.advance(answer.used);
            if answer.status >= 200 {
                break answer;
            }
            respond.send_informational(head::response(&answer).ok_or(Cut::Here)?)?;
            continue;
        }
        arrived.reserve(PIECE / 4);
        let taken_back = poll_fn(|cx| respond.poll_reset(cx));
        if fill(&mut from, &mut arrived, taken_back).await? == 0 {
            return Err(Cut::Here);
        }
    };
    let mut decoder = Decoder::new(answer.framing);
    let told = head::response(&answer).ok_or(Cut::Here)?;
    let mut to = respond.send_response(told, decoder.is_over())?;
    if decoder.is_over() {
        return Ok(());
    }
    loop {
        match decoder.next(&mut arrived).map_err(|_| Cut::Here)? {
            Next::Data(data) => {
                let last = decoder.is_over();
                put(&mut to, data, last, stall).await?;
                if last {
                    return Ok(());
                }
            }
            Next::End => {
                to.send_data(Bytes::new(), true)?;
                return Ok(());
            }
            Next::More => {
                arrived.reserve(PIECE);
                let taken_back = poll_fn(|cx| to.poll_reset(cx));
                match fill(&mut from, &mut arrived, taken_back).await? {
                    0 if decoder.ends() => {
                        to.send_data(Bytes::new(), true)?;
                        return Ok(());
                    }
                    // Never an end that looks like the right one.
                    0 => return Err(Cut::Here),
                    _ => {}
                }
            }
        }
    }
}

/// Reads more, unless the client takes its request back.
async fn fill<R: AsyncRead + Unpin>(
    from: &mut R,
    arrived: &mut BytesMut,
    taken_back: impl Future<Output = Result<h2::Reason, h2::Error>>,
) -> Result<usize, Cut> {
    tokio::select! {
        read = from.read_buf(arrived) => match read {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
            read => read.map_err(|_| Cut::Here),
        },
        _ = taken_back => Err(Cut::Client),
    }
}

/// Sends `data` as the client makes room for it.
async fn put(
    to: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    stall: Duration,
) -> Result<(), Cut> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = timeout(stall, poll_fn(|cx| to.poll_capacity(cx))).await;
        let room = room.map_err(|_late| Cut::Client)?.ok_or(Cut::Client)??;
        let piece = data.split_to(room.min(data.len()));
        if !piece.is_empty() {
            to.send_data(piece, last && data.is_empty())?;
        }
    }
    Ok(())
}
