//! A request about an episode: the [`Notice`] as JSON, by POST.
//!
//! It is tried three times where that may help. A redirection is not followed: whoever answers
//! there was not meant. Where it is signed, the receiver can tell that it is from somebody who
//! knows the secret, and not old: as GitHub and Stripe do, with the time inside of what is signed.

use std::{
    fmt,
    io::Read,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::hmac;
use ureq::{
    Agent, Body, Error, Proxy,
    http::Response,
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider},
};

use super::{ANSWER_MAX, ActionError, Done, Notice, one_line};
use crate::{
    base::WallTime,
    driver::{
        rules::{Webhook, url_wrong},
        secrets::{Secret, Secrets},
    },
};

/// How long one try may take, from the look for the address to the answer.
const WITHIN: Duration = Duration::from_secs(10);
/// How long is waited before each try.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10)];
/// Length of the head of an answer, bytes.
const HEAD_MAX: usize = 16 << 10;

/// How requests are made.
#[derive(Clone)]
pub struct Terms {
    /// How long one try may take.
    pub within: Duration,
    /// How long is waited before each try; there are as many tries.
    pub pauses: Vec<Duration>,
    /// Waits.
    pub wait: Arc<dyn Fn(Duration) + Send + Sync>,
    /// The time of day that is signed.
    pub now: Arc<dyn Fn() -> WallTime + Send + Sync>,
    /// By whom, if not directly.
    pub proxy: Option<Proxy>,
    /// Who may vouch for a server.
    pub roots: Vec<Certificate<'static>>,
}

impl Terms {
    /// Those of this machine. It reads files.
    #[expect(clippy::disallowed_methods, reason = "it is called on a thread that may block")]
    pub fn usual() -> Self {
        // What can't be read vouches for nobody, as in `mail`.
        let found = rustls_native_certs::load_native_certs().certs;
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            within: WITHIN,
            pauses: PAUSES.to_vec(),
            wait: Arc::new(std::thread::sleep),
            now: Arc::new(now),
            proxy: Proxy::try_from_env(),
            roots: found.iter().map(|one| Certificate::from_der(one).to_owned()).collect(),
        }
    }

    fn agent(&self) -> Agent {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::from(self.roots.iter().cloned()))
            .build();
        Agent::config_builder()
            .tls_config(tls)
            .proxy(self.proxy.clone())
            .user_agent(concat!("althing/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(HEAD_MAX)
            .timeout_global(Some(self.within))
            .build()
            .into()
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("within", &self.within).finish_non_exhaustive()
    }
}

/// Sends `notice` to where `webhook` leads. It blocks, for three tries and the pauses between
/// them: some 42 s at most by the usual terms.
///
/// # Errors
/// Unless it is answered with a status from 200 to 299. The same notice has the same
/// `Idempotency-Key` whenever it is sent, so that it may be sent again.
pub fn post(
    webhook: &Webhook,
    notice: &Notice,
    secrets: &Secrets,
    terms: &Terms,
) -> Result<Done, ActionError> {
    if let Err(why) = url_wrong(&webhook.url) {
        return Err(ActionError::Unfit(format!("the url of the webhook ({why})")));
    }
    let key = webhook
        .sign
        .as_ref()
        .map(|name| secrets.get(name).cloned().ok_or_else(|| ActionError::NoSecret(name.clone())));
    let key = key.transpose()?;
    let body = serde_json::to_string(&notice.bounded())
        .map_err(|error| ActionError::Unfit(format!("the notice ({error})")))?;
    let agent = terms.agent();
    let mut last = ActionError::Unfit("the number of tries".to_owned());
    for (pause, tries) in terms.pauses.iter().zip(1..) {
        if !pause.is_zero() {
            (terms.wait)(*pause);
        }
        match once(&agent, webhook, notice, &body, key.as_ref(), terms) {
            Ok(said) => return Ok(Done { said, tries }),
            Err(Failure::Passing(why)) => last = ActionError::Unreachable { why, tries },
            Err(Failure::Final(error)) => return Err(error),
        }
    }
    Err(last)
}

/// Why one try failed.
enum Failure {
    /// The next one may not.
    Passing(String),
    /// The next one would as well.
    Final(ActionError),
}

fn once(
    agent: &Agent,
    webhook: &Webhook,
    notice: &Notice,
    body: &str,
    key: Option<&Secret>,
    terms: &Terms,
) -> Result<String, Failure> {
    let mut request = agent
        .post(&webhook.url)
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", notice.key());
    if let Some(key) = key {
        // Of each try its own: a receiver refuses what is old.
        let seconds = ((terms.now)().0 / 1_000).to_string();
        request = request
            .header("Althing-Signature", signature(key, &seconds, body))
            .header("Althing-Timestamp", seconds);
    }
    let answer = request.send(body).map_err(|error| failure(&error, terms.within))?;
    let status = answer.status();
    let said = said(answer);
    let why = format!("it answers {status}");
    match status.as_u16() {
        200..=299 => Ok(if said.is_empty() { status.to_string() } else { said }),
        429 | 500..=599 => {
            Err(Failure::Passing(if said.is_empty() { why } else { format!("{why}: {said}") }))
        }
        300..=399 => {
            let said = "redirections are not followed; give the url that it leads to".to_owned();
            Err(Failure::Final(ActionError::Refused { why, said }))
        }
        _ => Err(Failure::Final(ActionError::Refused { why, said })),
    }
}

/// `sha256=` and the HMAC-SHA256 of `TIMESTAMP.BODY` in hexadecimal digits.
fn signature(key: &Secret, timestamp: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    let tag = hmac::sign(&key, format!("{timestamp}.{body}").as_bytes());
    tag.as_ref().iter().fold("sha256=".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The beginning of an answer, as far as it comes.
fn said(answer: Response<Body>) -> String {
    let mut bytes = Vec::new();
    // Of an answer that breaks off, the beginning is still one.
    let _broken = answer.into_body().into_reader().take(ANSWER_MAX as u64).read_to_end(&mut bytes);
    one_line(&String::from_utf8_lossy(&bytes), ANSWER_MAX)
}

fn failure(error: &Error, within: Duration) -> Failure {
    // Named one by one: others may show an address with all that stands in it.
    Failure::Passing(match error {
        Error::Timeout(_) => format!("there was no answer within {} s", within.as_secs_f32()),
        Error::Io(error) => match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => return distrusted(&inner.to_string()),
            _ => format!("the connection failed ({error})"),
        },
        Error::ConnectionFailed => "there was no connection".to_owned(),
        Error::HostNotFound => "its host is not known".to_owned(),
        Error::ConnectProxyFailed(_) => "the proxy let nobody through".to_owned(),
        Error::Rustls(error) => return distrusted(&error.to_string()),
        Error::Protocol(_) | Error::LargeResponseHeader(..) => {
            return Failure::Final(ActionError::Refused {
                why: "what answers there does not speak HTTP as it should".to_owned(),
                said: "look after the url".to_owned(),
            });
        }
        _ => return Failure::Final(ActionError::Unfit("the url of the webhook".to_owned())),
    })
}

/// A certificate that nobody vouches for stays one.
fn distrusted(why: &str) -> Failure {
    let said = one_line(why, ANSWER_MAX);
    Failure::Final(ActionError::Refused { why: "the connection can't be trusted".to_owned(), said })
}
