//! Between members: a question goes out on a stream of its own and its answer
//! comes back as lines of JSON. Both are read with bounds.

use std::{collections::BTreeMap, future::Future, io, mem, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    sync::{mpsc, watch},
};

use super::{Ask, Heard, Told, Troubles, follow::answer};
use crate::{
    base::{MemberId, MemberName, PublicKey, Reason, Refusal, ServiceName, WallTime},
    driver::{secrets::DOCUMENT_MAX, services::Supervisor},
    net::{Net, RecvStream, SendStream, StreamKind},
    node::{differs, rules::Episodes, secrets::Vault, telemetry::Telemetry},
};

/// The longest question, bytes: with the patterns of what does not count.
const ASK_MAX: u64 = 64 << 10;
/// The longest line of a log, or the state of one service, as JSON, bytes: 16 KiB in the
/// widest.
const LINE_MAX: u64 = 256 << 10;
/// The longest part of an answer, bytes: a document of secrets as JSON.
const PART_MAX: u64 = 2 * DOCUMENT_MAX as u64;
/// How long the other side has for its question, and for the first part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the other side may take nothing of its answer.
const TAKE_WITHIN: Duration = Duration::from_secs(30);
/// How soon one whose log is followed is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon a question is put once more of which a broken connection was all that was heard.
const ONCE_MORE: Duration = Duration::from_millis(100);
/// Parts that wait for whoever listens.
const WAITING_MAX: usize = 256;

/// What answers on this member.
#[derive(Clone)]
pub(in crate::node) struct Here {
    pub supervisor: Arc<Supervisor>,
    pub vault: Vault,
    pub troubles: Troubles,
    pub telemetry: Telemetry,
    /// Rules about this member that act.
    pub open: Episodes,
    /// Its data directory.
    pub data: Arc<Path>,
    /// What the catalog says of content.
    pub known: watch::Receiver<differs::Known>,
}

/// The member that asks.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Asker {
    pub id: MemberId,
    pub key: PublicKey,
}

/// One who is asked.
#[derive(Clone, Debug)]
pub(in crate::node) struct Asked {
    pub id: MemberId,
    pub name: MemberName,
    /// Whether it is this member itself.
    pub me: bool,
}

/// Asks `all` of them at once. What they tell comes as it comes, each one's in order
/// and ended by [`Told::Done`] or [`Told::Refused`].
pub(in crate::node) fn ask(
    network: &Net,
    here: &Here,
    all: Vec<Asked>,
    ask: &Ask,
) -> mpsc::Receiver<Heard> {
    let (heard, listener) = mpsc::channel(WAITING_MAX);
    for asked in all {
        let (to, mut told) = mpsc::channel(WAITING_MAX);
        let (heard, ask) = (heard.clone(), ask.clone());
        if asked.me {
            tokio::spawn(answer(here.clone(), ask, None, to));
        } else {
            let (network, id) = (network.clone(), asked.id);
            let put = move |ask| {
                let network = network.clone();
                async move { put(&network, id, &ask).await }
            };
            tokio::spawn(relay(put, asked.name.clone(), ask, to));
        }
        tokio::spawn(async move {
            // A quiet service must not keep a question open that nobody waits for.
            let told = async {
                while let Some(told) = told.recv().await {
                    if heard.send(Heard { member: asked.name.clone(), told }).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = heard.closed() => {}
                () = told => {}
            }
        });
    }
    listener
}

/// Asks the member `name` by `put` and hands on what it tells. Whoever follows a log is not left
/// alone when a connection breaks: it is asked again, from where it was. What only asks is
/// put once more if the connection broke and nothing at all was heard: of a member that was killed and is back, whoever
/// asks first finds that the connection was to the process of before.
async fn relay<F, R>(put: impl Fn(Ask) -> F, name: MemberName, ask: Ask, to: mpsc::Sender<Told>)
where
    F: Future<Output = io::Result<R>>,
    R: AsyncRead + Unpin,
{
    let nobody_listens = to.clone();
    let follows = ask.follows();
    let talk = async {
        let mut so_far = SoFar::default();
        let mut said = false;
        let mut once_more = !follows && ask.only_asks();
        loop {
            let before = so_far.clone();
            let Err(error) = converse(&put, &ask, &mut so_far, &to).await else {
                return;
            };
            if so_far != before {
                said = false;
            }
            let broke = !so_far.heard && error.kind() != io::ErrorKind::TimedOut;
            if broke && mem::take(&mut once_more) {
                tokio::time::sleep(ONCE_MORE).await;
                continue;
            }
            let todo = if follows {
                "It is asked again for as long as you follow."
            } else {
                "See `althing members`; a member of an older version knows no such question, and one \
                 that is asked too much answers later."
            };
            let what = format!("{name} did not answer, or not to its end.");
            let refusal = Refusal::new(Reason::Failed, what, format!("{error}."), todo);
            // Whoever asked may have gone.
            if !said && to.send(Told::Refused(refusal)).await.is_err() || !follows {
                return;
            }
            said = true;
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = nobody_listens.closed() => {}
        () = talk => {}
    }
}

/// What was handed on already and is not again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SoFar {
    /// When the last line of each service was printed.
    lines: BTreeMap<ServiceName, WallTime>,
    /// The number of the last event.
    event: Option<u64>,
    /// Whether anything was heard.
    heard: bool,
}

/// Asks once, for what comes behind what there is `so_far`.
async fn converse<F, R>(
    put: &impl Fn(Ask) -> F,
    ask: &Ask,
    so_far: &mut SoFar,
    to: &mpsc::Sender<Told>,
) -> io::Result<()>
where
    F: Future<Output = io::Result<R>>,
    R: AsyncRead + Unpin,
{
    let (before, follows) = (so_far.lines.clone(), ask.follows());
    let mut ask = ask.clone();
    if let Ask::Events(question) = &mut ask {
        question.after = so_far.event.or(question.after);
    }
    let mut parts = BufReader::new(in_time(put(ask)).await?);
    loop {
        let next = next_part(&mut parts, LINE_MAX);
        let told = if follows { next.await? } else { in_time(next).await? };
        so_far.heard = true;
        match &told {
            Told::Line { service, line } => {
                if before.get(service).is_some_and(|until| line.at <= *until) {
                    continue;
                }
                so_far.lines.insert(service.clone(), line.at);
            }
            Told::Event(logged) => so_far.event = Some(logged.id),
            _ => {}
        }
        let last = matches!(told, Told::Done);
        // The other side hears of it when the stream is dropped.
        if to.send(told).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Asks another member for something that is one part, and hears no more of it.
pub(in crate::node) async fn ask_one(network: &Net, id: MemberId, ask: &Ask) -> io::Result<Told> {
    in_time(async {
        let recv = put(network, id, ask).await?;
        next_part(&mut BufReader::new(recv), PART_MAX).await
    })
    .await
}

/// Opens a stream and puts the question.
async fn put(network: &Net, id: MemberId, ask: &Ask) -> io::Result<RecvStream> {
    let (mut send, recv) = network.open(id, StreamKind::Ask).await.map_err(io::Error::other)?;
    send.write_all(&serde_json::to_vec(ask)?).await?;
    send.finish().map_err(io::Error::other)?;
    Ok(recv)
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| {
        let seconds = PATIENCE.as_secs();
        io::Error::new(io::ErrorKind::TimedOut, format!("it said nothing for {seconds} s"))
    };
    tokio::time::timeout(PATIENCE, work).await.map_err(late)?
}

/// Reads one part, of so many bytes at most.
async fn next_part(from: &mut (impl AsyncBufRead + Unpin), most: u64) -> io::Result<Told> {
    let mut line = Vec::new();
    from.take(most).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        let what =
            if line.len() as u64 == most { "a part of it is too long" } else { "it ended early" };
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the answer can't be read: {what}"),
        ));
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Another member asks: reads its question and answers it.
pub(in crate::node) async fn answer_stream(
    here: Here,
    asker: Asker,
    mut send: SendStream,
    recv: RecvStream,
) -> io::Result<()> {
    let mut question = Vec::new();
    let read = recv.take(ASK_MAX);
    tokio::pin!(read);
    tokio::time::timeout(PATIENCE, read.read_to_end(&mut question)).await??;
    let ask: Ask = serde_json::from_slice(&question)?;
    let (to, mut told) = mpsc::channel(WAITING_MAX);
    let answering = tokio::spawn(answer(here, ask, Some(asker), to));
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let result = loop {
        tokio::select! {
            _ = &mut stopped => break Ok(()),
            part = told.recv() => {
                let Some(part) = part else { break send.finish().map_err(io::Error::other) };
                let mut line = serde_json::to_vec(&part)?;
                line.push(b'\n');
                // Who takes nothing holds up what answers, and is let go.
                let written = tokio::time::timeout(TAKE_WITHIN, send.write_all(&line)).await;
                match written {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break Err(error.into()),
                    Err(late) => break Err(late.into()),
                }
            }
        }
    };
    answering.abort();
    result
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn read(bytes: &[u8]) -> Result<Told, String> {
        next_part(&mut &*bytes, LINE_MAX).await.map_err(|error| error.to_string())
    }

    /// What comes of `ask`, and how often it was put, where one after the other these are the
    /// answers: none where there is no connection, and an empty one where it broke.
    async fn relayed(ask: Ask, answers: &[Option<&[u8]>]) -> (Vec<Told>, usize) {
        let asked = AtomicUsize::new(0);
        let put = |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(answers[number].ok_or_else(|| io::Error::other("it is not there")))
        };
        let (to, mut told) = mpsc::channel(WAITING_MAX);
        relay(put, MemberName::parse("three").unwrap(), ask, to).await;
        let mut all = Vec::new();
        while let Some(part) = told.recv().await {
            all.push(part);
        }
        (all, asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_met_a_broken_connection_is_put_once_more() {
        let app = crate::base::AppName::parse("shop").unwrap();
        let status = || Ask::Status { app: Some(app.clone()) };
        let whole: &[u8] = b"\"signing\"\n\"done\"\n";
        for broken in [None, Some(&b""[..])] {
            let (told, asked) = relayed(status(), &[broken, Some(whole)]).await;
            assert_eq!((told, asked), (vec![Told::Signing, Told::Done], 2));

            // Once, and no more.
            let (told, asked) = relayed(status(), &[broken, None, Some(whole)]).await;
            assert!(matches!(&told[..], [Told::Refused(_)]), "{told:?}");
            assert_eq!(asked, 2);

            // What does something is not done twice.
            let restart = Ask::Restart { app: app.clone(), service: None };
            let (told, asked) = relayed(restart, &[broken, Some(whole)]).await;
            assert!(matches!(&told[..], [Told::Refused(_)]), "{told:?}");
            assert_eq!(asked, 1);
        }
        // Nobody is to hear the first part of an answer twice.
        let (told, asked) = relayed(status(), &[Some(&whole[..10]), Some(whole)]).await;
        assert!(matches!(&told[..], [Told::Signing, Told::Refused(_)]), "{told:?}");
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn an_answer_is_bounded_and_has_an_end() {
        assert_eq!(read(b"{\"restarted\":3}\n").await, Ok(Told::Restarted(3)));
        assert_eq!(read(b"\"done\"\nrest").await, Ok(Told::Done));
        for cut in [&b""[..], b"\"done\"", b"{\"restarted\":3"] {
            assert!(read(cut).await.unwrap_err().contains("ended early"));
        }
        let endless = vec![b' '; LINE_MAX as usize + 9];
        assert!(read(&endless).await.unwrap_err().contains("too long"));
        assert!(read(b"{\"restarted\":-1}\n").await.is_err());
        assert!(read(b"\xff\n").await.is_err());
    }

    /// What can be told of differences at most is within the bound as well.
    #[tokio::test]
    async fn every_list_of_paths_fits() {
        let told = Told::Differs(Box::new(differs::tests::widest()));
        let mut bytes = serde_json::to_vec(&told).unwrap();
        bytes.push(b'\n');
        assert!(bytes.len() as u64 <= LINE_MAX, "{}", bytes.len());
        assert_eq!(read(&bytes).await, Ok(told));
    }

    /// A member that knows no such question answers nothing, and goes on.
    #[test]
    fn a_question_of_a_newer_member_is_an_error_and_no_more() {
        let asked = r#"{"weather":{"app":"www"}}"#;
        assert!(serde_json::from_str::<Ask>(asked).is_err());
        let app = crate::base::AppName::parse("www").unwrap();
        let text = serde_json::to_string(&Ask::Differs { app: app.clone() }).unwrap();
        assert_eq!(text, r#"{"differs":{"app":"www"}}"#);
        assert_eq!(serde_json::from_str::<Ask>(&text).unwrap(), Ask::Differs { app });
    }

    /// The longest line in the widest JSON is within the bound.
    #[tokio::test]
    async fn every_line_of_a_service_fits() {
        use crate::driver::services::{LogLine, Stream, log};
        let text = "\u{1}".repeat(log::LINE_MAX) + " [18446744073709551615 bytes more]";
        let line = LogLine { at: WallTime(u64::MAX), stream: Stream::Althing, text };
        let service = ServiceName::parse(&"a".repeat(40)).unwrap();
        let told = Told::Line { service, line };
        let mut bytes = serde_json::to_vec(&told).unwrap();
        bytes.push(b'\n');
        assert!(bytes.len() as u64 <= LINE_MAX);
        assert_eq!(read(&bytes).await, Ok(told));
    }
}
