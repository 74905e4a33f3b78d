//! HTTP/2, to clients that chose it in their TLS handshake. The frames, the flow control
//! and the header compression are the library's; each request is written as one of
//! HTTP/1.1 into a pipe, read there by the strict parser that reads all others, and its
//! answer is brought back (`exchange`). So whatever is true of one is true of the other.
//!
//! **Bounds.** Streams of a connection and of all of them, heads, what is buffered in both
//! directions; streams that a client begins and takes back without end.
//!
//! After RFC 9113.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Forward,
    connection::{Came, Shared},
    request::HEAD_MAX,
    transport::{Broken, Plain, Transport},
};

mod exchange;
mod head;

/// Requests of one connection under way at once: what RFC 9113 asks for at the least.
const STREAMS_MAX: u32 = 100;
/// What one request may have on its way to us, bytes.
const WINDOW: u32 = 256 << 10;
/// The same for all requests of a connection.
const WINDOW_ALL: u32 = 1 << 20;
/// What is kept of one answer until the client makes room for it, bytes.
const SEND_MAX: usize = 64 << 10;
/// What the pipe between a stream and what answers it holds, in each direction.
const PIPE: usize = 64 << 10;
/// So many requests more than it lets be answered a client may take back: somebody who
/// leaves a page takes back a few dozen.
const TAKEN_BACK_MAX: u64 = 200;
/// How long a connection that is closed has for the last words of both sides.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With an answer, or for a reason on this side.
    Here,
    /// The client has taken it back, or is gone.
    TakenBack,
}

/// Serves all requests of one connection, until one side has enough.
pub(super) async fn serve<F, S>(shared: &Arc<Shared<F>>, io: S, came: Came) -> Result<(), Broken>
where
    F: Forward,
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Who does not get as far as that has asked for nothing. Apart, since nothing of it is kept.
    let greeted = Box::pin(greeted(io, shared.limits.head)).await;
    let Some(mut connection) = greeted else { return Ok(()) };
    let mut streams = JoinSet::new();
    let (mut answered, mut taken_back) = (0_u64, 0_u64);
    let (mut closing, mut since) = (false, Instant::now());
    loop {
        let idle = if closing { LAST_WORDS } else { shared.idle() };
        tokio::select! {
            // What was begun is answered; nothing more is begun.
            () = shared.shutdown.cancelled(), if !closing => {
                connection.graceful_shutdown();
                (closing, since) = (true, Instant::now());
            }
            () = sleep_until(since + idle), if streams.is_empty() => {
                if closing {
                    return Ok(());
                }
                connection.graceful_shutdown();
                (closing, since) = (true, Instant::now());
            }
            Some(ended) = streams.join_next(), if !streams.is_empty() => {
                since = Instant::now();
                match ended {
                    Ok(Ended::TakenBack) => taken_back += 1,
                    // A panic in there has been told of.
                    Ok(Ended::Here) | Err(_) => answered += 1,
                }
                if taken_back > answered + TAKEN_BACK_MAX {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    closing = true;
                }
            }
            next = connection.accept() => match next {
                Some(Ok((request, mut respond))) => {
                    since = Instant::now();
                    let Ok(place) = shared.streams.clone().try_acquire_owned() else {
                        // It was not looked at, so the client may ask again.
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    };
                    let (shared, came) = (shared.clone(), came.clone());
                    streams.spawn(async move {
                        let _place = place;
                        stream(&shared, &came, request, respond).await
                    });
                }
                Some(Err(error)) => {
                    tracing::debug!(client = %came.address, %error, "a connection broke");
                    return Ok(());
                }
                None => return Ok(()),
            },
        }
    }
}

/// The first words of both sides.
async fn greeted<S>(io: S, within: Duration) -> Option<Connection<S, Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_ALL)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buffer_size(SEND_MAX);
    timeout(within, builder.handshake(io)).await.ok()?.ok()
}

/// Answers one request.
async fn stream<F: Forward>(
    shared: &Shared<F>,
    came: &Came,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Ended {
    let (parts, body) = request.into_parts();
    let limits = shared.limits;
    let opened = match timeout(limits.head, head::request(&parts, body)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(head::Unfit::Malformed(why))) => {
            tracing::debug!(client = %came.address, why, "a request was refused");
            let mut refusal = http::Response::new(());
            *refusal.status_mut() = http::StatusCode::BAD_REQUEST;
            shared.refused(came, 400);
            // Whoever is gone needs no answer.
            let _gone = respond.send_response(refusal, true);
            return Ended::Here;
        }
        Ok(Err(head::Unfit::TakenBack)) => return Ended::TakenBack,
        Err(_late) => {
            respond.send_reset(Reason::CANCEL);
            return Ended::TakenBack;
        }
    };
    let head_only = parts.method == http::Method::HEAD;
    let (near, far) = tokio::io::duplex(PIPE);
    let (from, to) = tokio::io::split(near);
    let answer = async move {
        let (mut io, mut buffer) = (Plain::new(far, limits.stall), BytesMut::new());
        match shared.next(&mut io, &mut buffer, came).await {
            // The other end of the pipe is here: it takes what is said, or is gone.
            Ok(_) => drop(io.finish().await),
            Err(broken) => {
                shared.stats.error();
                tracing::debug!(client = %came.address, %broken, "a response was cut short");
            }
        }
    };
    let up = async {
        match exchange::send(opened, to).await {
            // That it is taken back shows where the answer is brought.
            Ok(_held_open) => pending().await,
            Err(gone) => gone,
        }
    };
    let down = async {
        let mut answer = std::pin::pin!(answer);
        let mut bring =
            std::pin::pin!(exchange::bring(from, &mut respond, head_only, limits.stall));
        let mut answered = false;
        loop {
            tokio::select! {
                () = &mut answer, if !answered => answered = true,
                came = &mut bring => {
                    // What has answered puts its connection back and counts.
                    if came.is_ok() && !answered {
                        let _in_time = timeout(limits.stall, answer).await;
                    }
                    return came;
                }
            }
        }
    };
    let result = tokio::select! {
        biased;
        result = down => result,
        gone = up => Err(gone),
    };
    match result {
        Ok(()) => Ended::Here,
        Err(exchange::Cut::Here) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ended::Here
        }
        Err(exchange::Cut::Client) => {
            respond.send_reset(Reason::CANCEL);
            Ended::TakenBack
        }
    }
}
