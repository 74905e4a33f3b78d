//! The way to a member: HTTP over the Unix socket in the data directory of the
//! one on this machine, which only its owner may open, or to the status port of
//! any. One connection for each request.
//!
//! What answers the former is the owner's own process, yet its answers are bounded.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::SendRequest,
    header::{self, HeaderValue},
    http::request,
};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::via::Via;

mod kept;

pub(super) use kept::Kept;

use crate::{
    base::{MemberName, Reason, Refusal, operator::OperatorToken},
    member::{
        command::{Command, Outcome},
        event::Event,
        view::View,
    },
    node::{
        Ask, Edits, Heard, Listening, Metrics, Publish, SecretEdits,
        checkup::Checkups,
        inspect::{Findings, Question},
        levels::LevelsQuestion,
        telemetry::asking::{Measured, SeriesQuestion},
    },
    proto::rule::level::Levels,
};

/// A view of four thousand members with their versions is a few megabytes.
const ANSWER_MAX: usize = 64 << 20;
/// What only reads is answered at once.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// A status port answers at once, or is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Asks a member.
#[derive(Clone, Debug)]
pub(super) struct Client {
    data: PathBuf,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    /// The socket in the data directory.
    Socket(PathBuf),
    /// A status port.
    Via(Via),
}

/// A request under way. The connection ends with what comes beside the response.
type Sent = (Response<Incoming>, AbortOnDropHandle<hyper::Result<()>>);

/// What requests are sent with, and the connection.
type Opened = (SendRequest<Full<Bytes>>, AbortOnDropHandle<hyper::Result<()>>);

/// How the member answers a request to do something.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply<T> {
    Ok(T),
    Error(Refusal),
}

/// The answer to a query is the thing itself, or why there is none.
#[derive(Deserialize)]
struct Failure {
    error: Refusal,
}

impl Client {
    /// Asks the member that runs on this data directory.
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned(), way: Way::Socket(data.join("socket")) }
    }

    /// Asks the member of a status port. `data` is what this machine has.
    pub fn via(data: &Path, via: Via) -> Self {
        Self { data: data.to_owned(), way: Way::Via(via) }
    }

    /// The data directory of this machine's member.
    pub fn data(&self) -> &Path {
        &self.data
    }

    pub async fn view(&self) -> Result<View, Refusal> {
        self.query("/api/v1/view").await
    }

    /// Where its process listens.
    pub async fn listening(&self) -> Result<Listening, Refusal> {
        self.query("/api/v1/listening").await
    }

    pub async fn metrics(&self) -> Result<Metrics, Refusal> {
        self.query("/api/v1/metrics").await
    }

    /// What members measured, put together.
    pub async fn series(&self, question: &SeriesQuestion) -> Result<Measured, Refusal> {
        let SeriesQuestion { series, from, to, step, member, each, percentiles } = question;
        let mut path = format!(
            "/api/v1/series?series={}&from={from}&each={each}&percentiles={percentiles}",
            utf8_percent_encode(series, NON_ALPHANUMERIC)
        );
        let numbers = [("to", to), ("step", step)];
        for (name, number) in numbers.into_iter().filter_map(|(n, v)| Some((n, (*v)?))) {
            path.push_str(&format!("&{name}={number}"));
        }
        if let Some(member) = member {
            path.push_str(&format!("&member={member}")); // a name has nothing to encode
        }
        self.query(&path).await
    }

    /// Who serves at a moment.
    pub async fn levels(&self, question: &LevelsQuestion) -> Result<Levels, Refusal> {
        let LevelsQuestion { at, span, app } = question;
        let numbers = [("at", at), ("for", span)].into_iter();
        let numbers = numbers.filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
        // A name has nothing to encode.
        let app = app.iter().map(|app| format!("app={app}"));
        let all: Vec<String> = numbers.chain(app).collect();
        self.query(&format!("/api/v1/levels?{}", all.join("&"))).await
    }

    /// What members find out about their machines.
    pub async fn checkups(&self) -> Result<Checkups, Refusal> {
        self.query("/api/v1/checkups").await
    }

    /// The events after the one with this number, oldest first.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, Refusal> {
        self.query(&format!("/api/v1/events?after={after}")).await
    }

    /// Ends when it is committed or refused.
    pub async fn command(&self, command: &Command) -> Result<Outcome, Refusal> {
        self.order("/api/v1/command", command).await
    }

    /// Ends when its window is closed.
    pub async fn publish(&self, publish: &Publish) -> Result<Outcome, Refusal> {
        self.order("/api/v1/publish", publish).await
    }

    /// Ends when its window is closed.
    pub async fn publish_edits(&self, edits: &Edits) -> Result<Outcome, Refusal> {
        self.order("/api/v1/publish-edits", edits).await
    }

    /// Ends when its window is closed.
    pub async fn secrets(&self, edits: &SecretEdits) -> Result<Outcome, Refusal> {
        self.order("/api/v1/secrets", edits).await
    }

    /// A question about the content of the member that is asked.
    pub async fn inspect(&self, question: &Question) -> Result<Findings, Refusal> {
        self.order("/api/v1/inspect", question).await
    }

    /// Asks about services, and hands on what members tell as it comes, for as long as
    /// `each` says true.
    pub async fn services(
        &self,
        member: Option<MemberName>,
        ask: &Ask,
        mut each: impl FnMut(Heard) -> bool,
    ) -> Result<(), Refusal> {
        let question = serde_json::json!({ "member": member, "ask": ask });
        let body = serde_json::to_vec(&question).map_err(not_understood)?;
        let (response, _connection) =
            self.request(Method::POST, "/api/v1/services", body.into()).await?;
        let fine = response.status().is_success();
        let mut body = response.into_body();
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            waiting.extend_from_slice(&data);
            if waiting.len() > ANSWER_MAX {
                return Err(broken("it sends without end"));
            }
            while let Some(end) = waiting.iter().position(|b| *b == b'\n').filter(|_| fine) {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                if line == b"null\n" {
                    return Ok(());
                }
                if !each(serde_json::from_slice(&line).map_err(not_understood)?) {
                    return Ok(());
                }
            }
        }
        match serde_json::from_slice(&waiting) {
            Ok(Failure { error }) => Err(error),
            Err(_) if fine => Err(broken("the member stopped before the end of its answer")),
            Err(error) => Err(not_understood(error)),
        }
    }

    async fn query<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        let answer = timeout(READ_WITHIN, self.send(Method::GET, path, Bytes::new()));
        let bytes = answer.await.map_err(|_| {
            Refusal::new(
                Reason::Failed,
                "The member did not answer.",
                format!("It said nothing for {} seconds.", READ_WITHIN.as_secs()),
                "See its log; if it hangs, stop it and start it again: nothing it said is lost.",
            )
        })??;
        if let Ok(Failure { error }) = serde_json::from_slice(&bytes) {
            return Err(error);
        }
        serde_json::from_slice(&bytes).map_err(not_understood)
    }

    async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Refusal> {
        let body = serde_json::to_vec(body).map_err(not_understood)?;
        let bytes = self.send(Method::POST, path, body.into()).await?;
        match serde_json::from_slice(&bytes).map_err(not_understood)? {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(refusal) => Err(refusal),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        let (response, _connection) = self.request(method, path, body).await?;
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok(body.map_err(broken)?.to_bytes())
    }

    /// Sends a request.
    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Sent, Refusal> {
        let via = match &self.way {
            Way::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|e| self.unreachable(&e))?;
                return exchange(stream, named("localhost", method, path), body).await;
            }
            Way::Via(via) => via,
        };
        // What only reads is answered without a token, and then it goes nowhere.
        let token = (method != Method::GET).then(|| via.token()).transpose()?;
        let mut head = named(&via.host(), method, path);
        if let Some(token) = token {
            head = head.header(header::AUTHORIZATION, bearer(token)?);
        }
        let (mut sender, connection) = open(via).await?;
        let request = head.body(Full::new(body)).map_err(broken)?;
        Ok((sender.send_request(request).await.map_err(broken)?, connection))
    }

    /// The way to a member of another machine, if that is who is asked.
    pub fn elsewhere(&self) -> Option<&Via> {
        match &self.way {
            Way::Socket(_) => None,
            Way::Via(via) => Some(via),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Refusal {
        let path = self.data().display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Refusal::new(
                Reason::NotFound,
                format!("No member is running on this data directory: {path}."),
                "Commands are carried out by the member of this machine, and none listens there.",
                "Start it with `althing up`, or say with --data where it keeps its data.",
            ),
            io::ErrorKind::PermissionDenied => Refusal::new(
                Reason::Forbidden,
                format!("The member on {path} can't be asked."),
                "Its socket may be opened by the user that it runs as, and by nobody else.",
                "Run the command as that user, for example with sudo.",
            ),
            _ => Refusal::new(
                Reason::Failed,
                format!("The member on {path} can't be asked."),
                format!("Its socket can't be opened: {error}."),
                "If its path is longer than 100 bytes, choose a shorter one with --data.",
            ),
        }
    }
}

/// The beginning of a request.
fn named(host: &str, method: Method, path: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
}

fn bearer(token: &OperatorToken) -> Result<HeaderValue, Refusal> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", token.to_text())).map_err(broken)?;
    value.set_sensitive(true);
    Ok(value)
}

async fn exchange<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
    head: request::Builder,
    body: Bytes,
) -> Result<Sent, Refusal> {
    let (mut sender, connection) = over(stream).await?;
    let request = head.body(Full::new(body)).map_err(broken)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok((response, connection))
}

/// A connection to a status port, over TLS where it speaks that.
async fn open(via: &Via) -> Result<Opened, Refusal> {
    let connected = timeout(CONNECT_WITHIN, TcpStream::connect(via.address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| nobody_there(via.address, &error))?;
    let Some(secure) = via.secure() else { return over(stream).await };
    let greeted = timeout(CONNECT_WITHIN, secure.greet(stream)).await;
    let greeted = greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    over(greeted.map_err(|error| secure.refused(&error))?).await
}

async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
) -> Result<Opened, Refusal> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    Ok((sender, AbortOnDropHandle::new(tokio::spawn(connection))))
}

fn nobody_there(address: SocketAddr, error: &io::Error) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        format!("No member answers at {address}."),
        format!("Its status port can't be connected to: {error}."),
        "See that the member runs and where its status page is (`althing up --status`); if \
         `ssh -L` is to lead there, that it still runs.",
    )
}

fn broken(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member's answer did not arrive.",
        format!("The connection to it broke: {error}. What was asked may have been done."),
        "See with `althing status` whether it still runs, and how far it came.",
    )
}

fn not_understood(error: serde_json::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member's answer can't be read.",
        format!("It is not what this command expects: {error}."),
        "Use the same version of Althing for the command and the member.",
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn without_a_member_it_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = Client::new(dir.path()).view().await.unwrap_err();
        assert_eq!(refusal.reason, Reason::NotFound);
        assert!(refusal.what.starts_with("No member is running on this data directory"));
        // A socket that a killed member left behind is the same.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap());
        let refusal = Client::new(dir.path()).view().await.unwrap_err();
        assert_eq!(refusal.reason, Reason::NotFound);
    }

    async fn answered(answer: &'static str) -> Client {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let client = Client::new(dir.path());
        tokio::spawn(async move {
            let _dir = dir;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let _length = stream.read(&mut head).await.unwrap();
                let length = answer.len();
                let text = format!("HTTP/1.1 409 C\r\ncontent-length: {length}\r\n\r\n{answer}");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        client
    }

    #[tokio::test]
    async fn a_refusal_arrives_as_one() {
        let text = r#"{"error":{"reason":"conflict","what":"a","why":"b","todo":"c"}}"#;
        let client = answered(text).await;
        let expected = Refusal::new(Reason::Conflict, "a", "b", "c");
        assert_eq!(client.view().await, Err(expected.clone()));
        assert_eq!(client.command(&Command::Leave).await, Err(expected.clone()));
        assert_eq!(client.events(0).await, Err(expected));
    }

    /// A status port that answers with what it was sent.
    async fn echoing() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                let said = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
                let answer = serde_json::json!({
                    "error": {"reason": "busy", "what": said, "why": "", "todo": ""}
                });
                let answer = answer.to_string();
                let length = answer.len();
                let text = format!("HTTP/1.1 409 C\r\ncontent-length: {length}\r\n\r\n{answer}");
                stream.write_all(text.as_bytes()).await.unwrap();
                // Until the client hangs up: what is not read would cut off the answer.
                while stream.read(&mut head).await.is_ok_and(|length| length > 0) {}
            }
        });
        address
    }

    #[tokio::test]
    async fn a_token_is_shown_where_something_is_done_and_nowhere_else() {
        let address = echoing().await;
        let token = OperatorToken::new([7; 32]);
        let here = Path::new("/nowhere");
        let client = Client::via(here, Via::with(address, Some(token.clone())));
        let said = client.view().await.unwrap_err().what;
        assert!(said.starts_with("get /api/v1/view http/1.1\r\n"), "{said}");
        assert!(said.contains(&format!("host: {address}\r\n")), "{said}");
        assert!(!said.contains("authorization"), "{said}");
        let said = client.command(&Command::WindowClose).await.unwrap_err().what;
        assert!(said.starts_with("post /api/v1/command http/1.1\r\n"), "{said}");
        let shown = format!("authorization: bearer {}\r\n", token.to_text().to_ascii_lowercase());
        assert!(said.contains(&shown), "{said}");

        let without = Client::via(here, Via::with(address, None));
        assert_eq!(without.events(0).await.unwrap_err().reason, Reason::Busy, "it only reads");
        let refusal = without.command(&Command::WindowClose).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Forbidden);
        // Nothing listens here, and nothing is sent.
        let elsewhere = Via::with("192.0.2.1:7780".parse().unwrap(), Some(token));
        let refusal = Client::via(here, elsewhere).command(&Command::WindowClose).await;
        assert!(refusal.unwrap_err().todo.contains("ssh -N -L"));
    }

    #[tokio::test]
    async fn where_nobody_listens_it_says_what_to_look_for() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refusal = Client::via(Path::new("/nowhere"), Via::with(gone, None)).view().await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.reason, Reason::NotFound);
        assert!(refusal.what.contains(&gone.to_string()), "{refusal:?}");
    }

    #[tokio::test]
    async fn nonsense_is_no_answer() {
        let client = answered("<html>").await;
        assert_eq!(client.command(&Command::Leave).await.unwrap_err().reason, Reason::Failed);
        assert_eq!(client.view().await.unwrap_err().reason, Reason::Failed);
    }
}
