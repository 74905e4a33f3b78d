//! One conversation with a member that is asked: questions go out as they
//! come, and what comes in goes to the fetch.

use std::{io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    Connect, TransferError,
    frame::{Activity, Tag, Wire, decode, ended, out_of_turn, write},
    patch::Patches,
};
use crate::{
    base::{MemberId, limits, tree::Chunk, wire::Kind},
    proto::replication::{Content, Standing, Update, UpdateList},
};

/// What comes of a conversation.
pub(super) enum Heard {
    /// The listing, encoded, or that there is none.
    Listing(Option<Vec<u8>>),
    /// What it differs in from one that is here, encoded.
    Changes(Vec<u8>),
    /// What was asked for to make chunks of others.
    Patches(Patches),
    Standing(Standing),
    /// Chunks that were asked for, whose bytes follow.
    Updates(UpdateList),
    /// Chunks that were handed out, whose bytes follow.
    HandedOut(UpdateList),
    Bytes(Chunk, Arc<Vec<u8>>),
    /// It is over.
    Ended(TransferError),
}

/// Where it goes to: as said by this member, in the conversation of this number.
pub(super) struct Said {
    pub peer: MemberId,
    pub number: u64,
    pub tell: mpsc::Sender<(MemberId, u64, Heard)>,
}

impl Said {
    async fn tell(&self, heard: Heard) -> Result<(), TransferError> {
        let told = self.tell.send((self.peer, self.number, heard)).await;
        // The fetch is over.
        told.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe).into())
    }
}

/// Talks to a member until either side ends it. Dropped, it ends as well.
pub(super) async fn converse<C: Connect>(
    connect: C,
    idle: Duration,
    questions: mpsc::UnboundedReceiver<Vec<u8>>,
    said: Said,
) {
    let result = match connect.open(said.peer).await {
        Ok((recv, send)) => talk(idle, recv, send, questions, &said).await,
        Err(error) => Err(error.into()),
    };
    let error = result.err().unwrap_or_else(ended);
    let _the_fetch_may_be_over = said.tell(Heard::Ended(error)).await;
}

async fn talk(
    idle: Duration,
    recv: impl AsyncRead + Unpin,
    send: impl AsyncWrite + Unpin,
    questions: mpsc::UnboundedReceiver<Vec<u8>>,
    said: &Said,
) -> Result<(), TransferError> {
    let activity = Activity::new(idle);
    let mut asking = pin!(send_questions(questions, send, &activity));
    let mut listening = pin!(listen(Wire::new(recv, &activity), said));
    let mut asked = None;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut listening => break result,
            // What the holder says while it hangs up is worth more than that it
            // hung up: go on listening.
            ended = &mut asking, if asked.is_none() => asked = Some(ended),
        }
    };
    match (result, asked) {
        (Err(TransferError::Idle), Some(Err(broken))) => Err(broken),
        (result, _) => result,
    }
}

async fn listen(
    mut wire: Wire<'_, impl AsyncRead + Unpin>,
    said: &Said,
) -> Result<(), TransferError> {
    while let Some((tag, bytes)) = wire.frame().await? {
        match tag {
            Tag::Listing => said.tell(Heard::Listing(Some(bytes))).await?,
            Tag::Changes => said.tell(Heard::Changes(bytes)).await?,
            Tag::Patches => said.tell(Heard::Patches(decode(Kind::Message, &bytes)?)).await?,
            Tag::NoListing => said.tell(Heard::Listing(None)).await?,
            Tag::Standing => said.tell(Heard::Standing(decode(Kind::Message, &bytes)?)).await?,
            Tag::Updates | Tag::HandedOut => {
                let list: UpdateList = decode(Kind::Message, &bytes)?;
                let inline = list.updates.iter().filter_map(|update| match update {
                    Update::Chunk { chunk, content: Content::Inline } => Some(*chunk),
                    _ => None,
                });
                let follow: Vec<Chunk> = inline.collect();
                // It is judged before its content: the fetch hangs up at a lie.
                said.tell(if tag == Tag::Updates {
                    Heard::Updates(list)
                } else {
                    Heard::HandedOut(list)
                })
                .await?;
                for chunk in follow {
                    if chunk.len as usize > limits::CHUNK_MAX {
                        return Err(out_of_turn());
                    }
                    let bytes = wire.exactly(chunk.len as usize).await?;
                    said.tell(Heard::Bytes(chunk, Arc::new(bytes))).await?;
                }
            }
            _ => return Err(out_of_turn()),
        }
    }
    Ok(())
}

async fn send_questions(
    mut questions: mpsc::UnboundedReceiver<Vec<u8>>,
    mut send: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> Result<(), TransferError> {
    while let Some(question) = questions.recv().await {
        write(&mut send, &question, activity).await?;
        activity.guard(send.flush()).await?;
    }
    activity.guard(send.shutdown()).await
}
