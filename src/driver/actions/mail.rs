//! A mail about an episode, handed to one mail server (RFC 5321).
//!
//! `lettre` writes the message and speaks SMTP, over a `Stream` of ours: it reads lines of any
//! length, so what a server may say in all is bounded there, and all of it together by one time.
//! One address that is refused keeps no other from its mail.

use std::{
    error::Error as _,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use lettre::{
    Address, Message,
    message::{
        Mailbox, SinglePart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        authentication::{Credentials, Mechanism},
        client::{
            AsyncSmtpConnection, AsyncTokioStream, Certificate, CertificateStore, TlsParameters,
        },
        commands,
        extension::ClientId,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{ANSWER_MAX, ActionError, Done, Notice, State, one_line};
use crate::driver::{
    rules::{Mail, Security, server_of},
    secrets::{Secret, Secrets, hide},
};

/// How long a mail may take as a whole. RFC 5321 allows minutes for a single answer, which a
/// member that has something urgent to say does not have.
const WITHIN: Duration = Duration::from_secs(60);
/// How long one address of a server may take to be connected to: the next may answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What a server may say in all, bytes, TLS included: with the longest answers that RFC 5321
/// allows, and a chain of certificates, it is far less.
const HEARD_MAX: usize = 256 << 10;
/// What is read at once, bytes.
const PIECE: usize = 4 << 10;
/// Length of a subject, bytes.
const SUBJECT_MAX: usize = 200;

/// How mails are sent.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long one may take as a whole.
    pub within: Duration,
    /// Who may vouch for a server.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Terms {
    /// Those of this machine. It reads files.
    pub fn usual() -> Self {
        // What of the list of authorities can't be read vouches for nobody; that is told
        // where a server would have needed it.
        Self { within: WITHIN, roots: rustls_native_certs::load_native_certs().certs }
    }
}

/// Sends a mail to all addresses of `mail`. It blocks, at most as long as `terms` say; not for a
/// thread of a runtime.
///
/// # Errors
/// If no address was accepted. The same notice has the same `Message-ID` whenever it is sent, so
/// that it may be sent again.
pub fn send(
    mail: &Mail,
    notice: &Notice,
    secrets: &Secrets,
    terms: &Terms,
) -> Result<Done, ActionError> {
    let password = mail
        .password
        .as_ref()
        .map(|name| secrets.get(name).cloned().ok_or_else(|| ActionError::NoSecret(name.clone())));
    let password = password.transpose()?;
    // A runtime of its own: there is one mail in a while, and `lettre` takes a stream that is
    // not its own only from async code.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ActionError::Unreachable {
        why: format!("no mail can be sent for now ({error})"),
        tries: 0,
    })?;
    let sent = runtime.block_on(async {
        timeout(terms.within, hand_over(mail, notice, password.as_ref(), terms)).await
    });
    // A look for the server's address that hangs is waited for by nobody.
    runtime.shutdown_background();
    sent.unwrap_or(Err(ActionError::TooLong(terms.within)))
}

async fn hand_over(
    mail: &Mail,
    notice: &Notice,
    password: Option<&Secret>,
    terms: &Terms,
) -> Result<Done, ActionError> {
    let server = server_of(&mail.server, mail.security);
    let (host, port) = server.ok_or_else(|| unfit("server", &mail.server))?;
    let from = address("from", &mail.from)?;
    let to = mail.to.iter().map(|text| address("to", text)).collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        return Err(unfit("to", "nobody"));
    }
    let message = message(notice, &from, &to)?;
    let hello = hello(&from);
    let mut connection = connect(&host, port, mail.security, terms, &hello).await?;
    if let (Some(user), Some(password)) = (&mail.user, password) {
        let credentials = Credentials::new(user.clone(), password.expose().to_owned());
        let known = connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
        known.map_err(|error| {
            hidden(failed(&host, "does not let this user in", &error), password)
        })?;
    }
    let done = deliver(&mut connection, &host, from, to, &message.formatted()).await;
    // It has the mail, or has not: how it parts changes nothing.
    let _parted = connection.quit().await;
    done
}

/// From the sender's name to the receipt.
async fn deliver(
    connection: &mut AsyncSmtpConnection,
    host: &str,
    from: Address,
    to: Vec<Address>,
    message: &[u8],
) -> Result<Done, ActionError> {
    let begun = connection.command(commands::Mail::new(Some(from), Vec::new())).await;
    begun.map_err(|error| failed(host, "does not take mail from this sender", &error))?;
    let (mut taken, mut refused) = (0, Vec::new());
    for address in to {
        let name = address.to_string();
        match connection.command(commands::Rcpt::new(address, Vec::new())).await {
            Ok(_) => taken += 1,
            Err(error) if error.status().is_some() => {
                refused.push((name, failed(host, "does not take mail for any address", &error)));
            }
            Err(error) => return Err(failed(host, "", &error)),
        }
    }
    if taken == 0 {
        // There was at least one.
        let first = refused.into_iter().next().map(|(_, error)| error);
        return Err(first.unwrap_or_else(|| unfit("to", "nobody")));
    }
    let ready = connection.command(commands::Data).await;
    ready.map_err(|error| failed(host, "takes no mail now", &error))?;
    let answer = connection.message(message).await;
    let answer = answer.map_err(|error| failed(host, "did not take the mail", &error))?;
    let mut said = one_line(&answer.message().collect::<Vec<_>>().join(" "), ANSWER_MAX);
    for (name, error) in &refused {
        said.push_str(&format!("\nnot to {name}: {error}"));
    }
    Ok(Done { said: super::lines(&said, super::SAID_MAX), tries: 1 })
}

fn unfit(key: &str, value: &str) -> ActionError {
    ActionError::Unfit(format!("{key} = {:?} of the mail", one_line(value, ANSWER_MAX)))
}

/// What the definition was checked for, and a version of somebody else may not have been.
fn address(key: &str, text: &str) -> Result<Address, ActionError> {
    let fine = crate::driver::rules::address_wrong(text).is_ok();
    let read = fine.then(|| text.parse::<Address>().ok()).flatten();
    read.ok_or_else(|| unfit(key, text))
}

/// What `error` is, after `what` was answered to us.
fn failed(host: &str, what: &str, error: &smtp::Error) -> ActionError {
    let said = one_line(&error.to_string(), ANSWER_MAX);
    match error.status() {
        Some(_) if error.is_permanent() => {
            ActionError::Refused { why: format!("{host} {what}"), said }
        }
        Some(_) => ActionError::Unreachable { why: format!("{host} {what}: {said}"), tries: 1 },
        // What was cut off looks like this as well, and may pass.
        None if error.is_response() => {
            let why = format!("{host} does not speak SMTP as it should: {said}");
            ActionError::Unreachable { why, tries: 1 }
        }
        None if is_distrust(error) => {
            ActionError::Refused { why: format!("{host} can't be trusted"), said: cause(error) }
        }
        None if error.is_client() || error.is_tls() => {
            ActionError::Refused { why: format!("{host} can't be used"), said }
        }
        None => {
            let why = format!("the connection to {host} failed: {}", cause(error));
            ActionError::Unreachable { why, tries: 1 }
        }
    }
}

/// The same, should a server answer with the password that it was given.
fn hidden(error: ActionError, password: &Secret) -> ActionError {
    let hide = |text: String| hide(&text, std::slice::from_ref(password));
    match error {
        ActionError::Refused { why, said } => ActionError::Refused { why, said: hide(said) },
        ActionError::Unreachable { why, tries } => {
            ActionError::Unreachable { why: hide(why), tries }
        }
        other => other,
    }
}

/// Whether an error is that nobody vouches for the server.
fn is_distrust(error: &smtp::Error) -> bool {
    let mut last: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(error) = last {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        last = error.source();
    }
    false
}

/// What is at the bottom of an error, as far as it says more than the error itself.
fn cause(error: &smtp::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    one_line(&last.to_string(), ANSWER_MAX)
}

/// By what name we greet: the domain that mails are from, which has to exist for them to be
/// taken; the machine's own name is known to few.
fn hello(from: &Address) -> ClientId {
    ClientId::Domain(from.domain().to_owned())
}

/// A connection that is as well protected as it is to be, with the server's greeting heard.
async fn connect(
    host: &str,
    port: u16,
    security: Security,
    terms: &Terms,
    hello: &ClientId,
) -> Result<AsyncSmtpConnection, ActionError> {
    let unreached = |why: String| {
        let why = format!("{host} is not reached at port {port}: {why}");
        ActionError::Unreachable { why, tries: 1 }
    };
    let of = |error| failed(host, "turns us away", &error);
    let (stream, peer) = open(host, port).await.map_err(unreached)?;
    let greeted = match security {
        Security::None | Security::Starttls => {
            let stream = Box::new(Stream::new(stream, peer));
            AsyncSmtpConnection::connect_with_transport(stream, hello).await
        }
        Security::Tls => {
            let name = ServerName::try_from(host.to_owned());
            let name = name.map_err(|_| unfit("server", host))?;
            let secured = TlsConnector::from(Arc::new(tls(terms)?)).connect(name, stream).await;
            let secured = secured.map_err(|error| distrusted(host, &error))?;
            let stream = Box::new(Stream::new(secured, peer));
            AsyncSmtpConnection::connect_with_transport(stream, hello).await
        }
    };
    let mut connection = greeted.map_err(of)?;
    if security == Security::Starttls {
        if !connection.can_starttls() {
            let why = format!("{host} offers no TLS, so nothing was sent");
            let said = "use another port, or security = \"tls\"".to_owned();
            return Err(ActionError::Refused { why, said });
        }
        connection.starttls(parameters(host, terms)?, hello).await.map_err(of)?;
    }
    Ok(connection)
}

/// To the first address of `host` that answers.
async fn open(host: &str, port: u16) -> Result<(TcpStream, SocketAddr), String> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("its address is not found ({error})"))?;
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = "nobody answers".to_owned(),
        }
    }
    Err(last)
}

/// The roots that can be used: one that can't would spoil all of them.
fn roots(terms: &Terms) -> (RootCertStore, Vec<Certificate>) {
    let (mut known, mut all) = (RootCertStore::empty(), Vec::new());
    for root in &terms.roots {
        if known.add(root.clone()).is_ok() {
            all.extend(Certificate::from_der(root.to_vec()).ok());
        }
    }
    (known, all)
}

fn tls(terms: &Terms) -> Result<ClientConfig, ActionError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| ActionError::Unfit(format!("TLS ({error})")))?;
    Ok(config.with_root_certificates(roots(terms).0).with_no_client_auth())
}

/// The same for `STARTTLS`, which `lettre` does itself.
fn parameters(host: &str, terms: &Terms) -> Result<TlsParameters, ActionError> {
    let built = TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::None);
    let all = roots(terms).1.into_iter();
    let built = all.fold(built, |built, root| built.add_root_certificate(root));
    built.build().map_err(|error| failed(host, "", &error))
}

/// Why there is no TLS: a certificate that nobody vouches for stays one.
fn distrusted(host: &str, error: &io::Error) -> ActionError {
    let said = one_line(&error.to_string(), ANSWER_MAX);
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return ActionError::Refused { why: format!("{host} can't be trusted"), said };
    }
    ActionError::Unreachable { why: format!("the connection to {host} failed: {said}"), tries: 1 }
}

/// `Auto-Submitted: auto-generated` (RFC 3834): nobody's answering machine is to answer.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn message(notice: &Notice, from: &Address, to: &[Address]) -> Result<Message, ActionError> {
    let id = |key: String| format!("<{key}@{}>", from.domain());
    let mut built = Message::builder()
        .from(Mailbox::new(None, from.clone()))
        .date(SystemTime::now())
        .subject(subject(notice))
        .message_id(Some(id(notice.key())))
        .header(AutoSubmitted);
    if notice.state != State::Begin {
        // So that mails of one episode stand together.
        built = built.in_reply_to(id(notice.first_key())).references(id(notice.first_key()));
    }
    for address in to {
        built = built.to(Mailbox::new(None, address.clone()));
    }
    let built = built.singlepart(SinglePart::plain(body(notice)));
    built.map_err(|error| ActionError::Unfit(format!("the mail ({error})")))
}

/// `[main] critical: hot of shop on north`.
fn subject(notice: &Notice) -> String {
    let Notice { rule, app, cluster, member, .. } = notice;
    let what = match (notice.state, notice.severity_word()) {
        (State::End, _) => "over",
        (State::Repeat, "") => "still",
        (State::Begin, "") => "notice",
        (State::Repeat, "critical") => "still critical",
        (State::Repeat, _) => "still a warning",
        (State::Begin, word) => word,
    };
    let on = member.as_ref().map(|member| format!(" on {member}")).unwrap_or_default();
    one_line(&format!("[{cluster}] {what}: {rule} of {app}{on}"), SUBJECT_MAX)
}

fn body(notice: &Notice) -> String {
    let Notice { episode, rule, app, cluster, member, at, text, judged_by, .. } = notice.bounded();
    let about = member.unwrap_or_else(|| "the cluster".to_owned());
    let state = match notice.state {
        State::Begin => "began",
        State::Repeat => "goes on",
        State::End => "is over",
    };
    format!(
        "{text}\n\nRule:         {rule} of {app}\nAbout:        {about}\nState:        {state}, {at}\n\
         Cluster:      {cluster}\nFound by:     {judged_by}\nEpisode:      {episode}\n"
    )
}

/// What is heard of a server: so much, and no more. It is passed on line by line, so that nothing
/// that somebody put behind the answer to `STARTTLS` is taken for what the server says once it is
/// TLS (CVE-2011-0411).
#[derive(Debug)]
struct Stream<S> {
    inner: S,
    peer: SocketAddr,
    /// What came, and how much of it is passed on.
    held: Vec<u8>,
    passed: usize,
    /// What may still come, bytes.
    left: usize,
}

impl<S> Stream<S> {
    fn new(inner: S, peer: SocketAddr) -> Self {
        Self { inner, peer, held: Vec::new(), passed: 0, left: HEARD_MAX }
    }
}

impl<S> AsyncTokioStream for Stream<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.passed == this.held.len() {
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            let came = read.filled();
            this.left = this.left.checked_sub(came.len()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "it says more than a mail server has to")
            })?;
            this.held.clear();
            this.held.extend_from_slice(came);
            this.passed = 0;
        }
        let rest = &this.held[this.passed..];
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let taken = line.min(into.remaining());
        into.put_slice(&rest[..taken]);
        this.passed += taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
