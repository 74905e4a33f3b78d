//! Content that a list names by URL: the command fetches it, once, before anything is
//! published. It does so as whoever called it, with that person's proxies, name service
//! and patience, so that members never speak to strangers and never see what a URL has in
//! it to let somebody in.
//!
//! Nothing that a server says is believed: what comes is cut off at the size that the list
//! gives, and is what the list means only if its signature is that of the list. A file that
//! fails ends all of it, and nothing is published then.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use ureq::{
    Agent, Body, Proxy, Timeout,
    http::{
        Response, StatusCode,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING, LOCATION},
    },
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider},
};

use super::{
    client::Client,
    edits::{Address, Listed, Remote},
    operate::unexpected,
    units::count,
};
use crate::{
    base::{Digest, Reason, Refusal},
    node::{
        Edits,
        inspect::{Findings, Question},
    },
    store::{Incoming, StoreError, incoming},
};

#[cfg(test)]
mod tests;

/// How often a server may send us elsewhere: curl and browsers stop between 5 and 50.
const REDIRECTS_MAX: usize = 8;
/// Files that are fetched at the same time: they share a line that one of them may fill.
const AT_ONCE: usize = 4;
/// A server that takes longer than this to be connected to, TLS included, is away.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A server from which nothing comes for so long has stalled. How long a file takes as a
/// whole is nobody's business: it may be large.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What is read at once, bytes.
const PIECE: usize = 64 << 10;

/// How it is fetched.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// How long nothing may come.
    pub idle: Duration,
    /// Files at the same time.
    pub at_once: usize,
    /// By whom, if not directly.
    pub proxy: Option<Proxy>,
    /// Who may vouch for a server.
    pub roots: Vec<Certificate<'static>>,
}

impl Terms {
    /// Those of this machine and of whoever called.
    pub fn usual() -> Self {
        // What of the list of authorities can't be read vouches for nobody; that is told
        // where a server would have needed it.
        let found = rustls_native_certs::load_native_certs().certs;
        let roots = found.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
        Self { idle: IDLE_MAX, at_once: AT_ONCE, proxy: Proxy::try_from_env(), roots }
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
            .max_redirects(0) // we follow them ourselves: see `Address::follow`
            .timeout_resolve(Some(CONNECT_WITHIN))
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_read(Some(self.idle))
            .timeout_per_write(Some(self.idle))
            .build()
            .into()
    }
}

/// Why a file could not be fetched. No message has more of a URL than is shown of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection, or a broken one.
    #[error("{0}")]
    Unreachable(String),
    /// Connected, and then nothing.
    #[error("nothing came for {} seconds", .0.as_secs_f32())]
    Stalled(Duration),
    /// Neither content nor a way to it.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// A redirection that is not followed.
    #[error("{0}")]
    Redirected(String),
    /// Not the bytes of the file.
    #[error("the server sends it compressed, though it was asked not to")]
    Encoded,
    /// The server says so before it sends anything.
    #[error("it has {found} bytes there, and the list gives {size}")]
    OtherSize { size: u64, found: u64 },
    /// More came than the list says.
    #[error("more came than the {0} bytes that the list gives")]
    Longer(u64),
    /// It ended before.
    #[error("it ended after {came} bytes, and the list gives {size}")]
    Shorter { size: u64, came: u64 },
    /// As long, and something else.
    #[error("what lies there has the signature {0}, which is not the one of the list")]
    OtherContent(Digest),
    /// It could not be kept here.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The same, while it was written.
    #[error("what came can't be kept in {}: {error}", path.display())]
    Disk { path: PathBuf, error: io::Error },
    /// Another file failed, or the command is over.
    #[error("it was given up")]
    GivenUp,
}

impl Failure {
    fn todo(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Stalled(_) => {
                "See whether the server is there (proxies are taken from ALL_PROXY, HTTPS_PROXY and \
                 HTTP_PROXY, exceptions from NO_PROXY), and try again."
            }
            Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                "Give a url that lets you in: https://USER:PASSWORD@HOST/, or a signed one that is \
                 still valid."
            }
            Self::Status(status) if status.is_server_error() => {
                "Try again later, or give another url."
            }
            Self::Status(_) | Self::Redirected(_) | Self::Encoded => {
                "Give the url of the file itself."
            }
            Self::OtherSize { .. } | Self::Longer(_) | Self::OtherContent(_) => {
                "If it was changed there on purpose, give its new size and signature (b3sum) in the \
                 list."
            }
            Self::Shorter { .. } => "Try again; if it ends there again, correct the list.",
            Self::Store(_) | Self::Disk { .. } => {
                "Free some space or mend the cause, and try again."
            }
            Self::GivenUp => "Try again.",
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::OtherSize { .. } | Self::Longer(_) | Self::OtherContent(_) => Reason::Invalid,
            _ => Reason::Failed,
        }
    }

    fn of(error: ureq::Error, idle: Duration) -> Self {
        use ureq::Error;
        // Named one by one: others may show an address with all that stands in it.
        Self::Unreachable(match error {
            Error::Timeout(Timeout::PerRead | Timeout::PerWrite) => return Self::Stalled(idle),
            Error::Timeout(_) => {
                format!("there was no connection within {} seconds", CONNECT_WITHIN.as_secs())
            }
            Error::Io(error) => format!("the connection failed ({error})"),
            Error::Rustls(error) => format!("the connection can't be trusted ({error})"),
            Error::HostNotFound => "its host is not known".to_owned(),
            Error::Protocol(_) | Error::LargeResponseHeader(..) => {
                "what answers there does not speak HTTP as it should".to_owned()
            }
            Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => {
                "the proxy that the environment names let nobody through".to_owned()
            }
            _ => "it can't be asked for".to_owned(),
        })
    }
}

/// How far all of it is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    came: AtomicU64,
    bytes: AtomicU64,
    files: AtomicUsize,
}

impl Progress {
    /// Bytes that came, and that are to come in all.
    pub fn bytes(&self) -> (u64, u64) {
        (self.came.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// What is fetched.
    pub fn files(&self) -> String {
        count(self.files.load(Ordering::Relaxed) as u64, "file")
    }
}

/// The list with all of its content on this machine, as long as the second lasts. What the
/// member holds already is not fetched.
pub(super) async fn complete(
    client: &Client,
    list: Vec<Listed>,
    mut edits: Edits,
    terms: Terms,
    progress: &Arc<Progress>,
) -> Result<(Edits, Option<Incoming>), Refusal> {
    let lacking = match client.inspect(&Question::Lacking(edits.clone())).await? {
        Findings::Lacking(lacking) => lacking,
        _ => return Err(unexpected()),
    };
    let jobs = jobs(&list, &lacking)?;
    if jobs.is_empty() {
        return Ok((edits, None));
    }
    let room = room(client.data())?;
    let arrived = bring(jobs, room.path(), terms, progress).await.map_err(|failed| {
        let Failed { place, address, failure } = failed;
        refusal(failure.reason(), format!("{place}: {address}: {failure}."), failure.todo())
    })?;
    for (change, listed) in edits.changes.iter_mut().zip(&list) {
        let path = listed.remote.as_ref().and_then(|remote| arrived.get(&remote.digest));
        if let Some(path) = path {
            change.content = Some(path.clone());
        }
    }
    Ok((edits, Some(room)))
}

/// A place for what comes, which the member can read.
fn room(data: &Path) -> Result<Incoming, Refusal> {
    let owner = std::fs::metadata(data).map(|found| found.uid());
    if owner.is_ok_and(|owner| owner != rustix::process::geteuid().as_raw()) {
        return Err(refusal(
            Reason::Forbidden,
            "What is fetched is for the user that the member runs as, and that is another."
                .to_owned(),
            "Run the command as that user, for example with sudo -u.",
        ));
    }
    Incoming::make(data).map_err(|error| {
        let (failure, why) = (Failure::from(error), "There is no place for what is fetched");
        refusal(failure.reason(), format!("{why}: {failure}."), failure.todo())
    })
}

fn refusal(reason: Reason, why: String, todo: &str) -> Refusal {
    Refusal::new(reason, "The list was not published; nothing was changed.", why, todo)
}

/// A file to be fetched.
#[derive(Debug)]
struct Job {
    place: String,
    remote: Remote,
}

/// What of the list is to be fetched, each content once, and in the order of the list.
fn jobs(list: &[Listed], lacking: &[String]) -> Result<Vec<Job>, Refusal> {
    let mut wanted: BTreeMap<Digest, bool> =
        lacking.iter().filter_map(|digest| Some((Digest::parse(digest)?, false))).collect();
    let mut jobs = Vec::new();
    for Listed { place, remote, .. } in list {
        let Some(remote) = remote else { continue };
        if let Some(taken) = wanted.get_mut(&remote.digest).filter(|taken| !**taken) {
            *taken = true;
            jobs.push(Job { place: place.clone(), remote: remote.clone() });
        }
    }
    match wanted.iter().find(|(_, taken)| !**taken) {
        None => Ok(jobs),
        Some((digest, _)) => Err(refusal(
            Reason::Invalid,
            format!(
                "No kept version has content with the signature {digest}, and neither a file nor \
                 a url is named that has it."
            ),
            "Say in the list where it lies.",
        )),
    }
}

/// Which file failed, and why.
#[derive(Debug)]
struct Failed {
    place: String,
    address: Address,
    failure: Failure,
}

impl Failed {
    fn new(job: &Job, failure: Failure) -> Self {
        Self { place: job.place.clone(), address: job.remote.address.clone(), failure }
    }
}

/// Fetches all of `jobs` into `directory`, or as many as it takes for the first to fail:
/// the paths, by signature. What is under way ends when this is dropped.
async fn bring(
    jobs: Vec<Job>,
    directory: &Path,
    terms: Terms,
    progress: &Arc<Progress>,
) -> Result<BTreeMap<Digest, PathBuf>, Failed> {
    let bytes = jobs.iter().map(|job| job.remote.size).fold(0, u64::saturating_add);
    progress.bytes.store(bytes, Ordering::Relaxed);
    progress.files.store(jobs.len(), Ordering::Relaxed);
    let agent = terms.agent();
    let fetching = Arc::new(Fetching {
        jobs,
        next: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        directory: directory.to_owned(),
        idle: terms.idle,
        progress: Arc::clone(progress),
    });
    let _end = End(Arc::clone(&fetching), Some(agent.clone()));
    let (tell, mut told) = mpsc::unbounded_channel();
    for at in 0..terms.at_once.clamp(1, fetching.jobs.len().max(1)) {
        let (work, agent, tell) = (Arc::clone(&fetching), agent.clone(), tell.clone());
        // Threads of their own: a server that hangs holds up neither the runtime nor the end
        // of the process.
        let started = std::thread::Builder::new().spawn(move || work.run(&agent, &tell));
        match (started, fetching.jobs.first()) {
            (Err(error), Some(job)) if at == 0 => {
                let why = format!("no thread can be started for it ({error})");
                return Err(Failed::new(job, Failure::Unreachable(why)));
            }
            // Fewer at once, then.
            (Err(_), _) => break,
            (Ok(_), _) => {}
        }
    }
    drop(tell);
    let mut arrived = BTreeMap::new();
    while let Some((at, result)) = told.recv().await {
        let job = &fetching.jobs[at];
        let path = result.map_err(|failure| Failed::new(job, failure))?;
        arrived.insert(job.remote.digest, path);
    }
    // Whoever took a job and said nothing has panicked.
    match fetching.jobs.iter().find(|job| !arrived.contains_key(&job.remote.digest)) {
        Some(job) => Err(Failed::new(job, Failure::GivenUp)),
        None => Ok(arrived),
    }
}

/// What the threads share.
struct Fetching {
    jobs: Vec<Job>,
    next: AtomicUsize,
    over: AtomicBool,
    directory: PathBuf,
    idle: Duration,
    progress: Arc<Progress>,
}

/// Ends what is under way: nobody waits for it.
struct End(Arc<Fetching>, Option<Agent>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        if let Some(agent) = self.1.take() {
            agent.shutdown();
        }
    }
}

type Told = (usize, Result<PathBuf, Failure>);

impl Fetching {
    /// One file after the other, until there is none left.
    fn run(&self, agent: &Agent, tell: &mpsc::UnboundedSender<Told>) {
        while !self.over.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else { return };
            let _nobody_may_wait = tell.send((at, self.fetch(agent, at, &job.remote)));
        }
    }

    fn fetch(&self, agent: &Agent, at: usize, remote: &Remote) -> Result<PathBuf, Failure> {
        let answer = self.answer(agent, &remote.address)?;
        let (path, file) = incoming::create(&self.directory, &at.to_string())?;
        self.take(answer, remote, &path, file)?;
        Ok(path)
    }

    /// The head of the answer with the content, wherever that is in the end.
    fn answer(&self, agent: &Agent, first: &Address) -> Result<Response<Body>, Failure> {
        let mut address = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let asked = agent.get(address.uri()).header(ACCEPT_ENCODING, "identity").call();
            let answer = asked.map_err(|error| Failure::of(error, self.idle))?;
            match answer.status() {
                StatusCode::OK => return Ok(answer),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = answer.headers().get(LOCATION).and_then(|v| v.to_str().ok());
                    let next = location.ok_or("it leads on and does not say where to".to_owned());
                    let next = next.and_then(|location| address.follow(location));
                    address = next.map_err(Failure::Redirected)?;
                }
                other => return Err(Failure::Status(other)),
            }
        }
        let why = format!("it leads on and on, and {REDIRECTS_MAX} redirections are followed");
        Err(Failure::Redirected(why))
    }

    /// The content itself, checked as it comes.
    fn take(
        &self,
        answer: Response<Body>,
        remote: &Remote,
        path: &Path,
        mut file: File,
    ) -> Result<(), Failure> {
        let size = remote.size;
        if answer.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(Failure::Encoded);
        }
        if let Some(found) = answer.body().content_length().filter(|found| *found != size) {
            return Err(Failure::OtherSize { size, found });
        }
        let mut body = answer.into_body().into_reader();
        let (mut came, mut signature, mut piece) = (0, blake3::Hasher::new(), vec![0; PIECE]);
        loop {
            let read = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(Failure::of(error.into(), self.idle)),
            };
            came += read as u64;
            if came > size {
                return Err(Failure::Longer(size));
            }
            signature.update(&piece[..read]);
            let written = file.write_all(&piece[..read]);
            written.map_err(|error| Failure::Disk { path: path.to_owned(), error })?;
            self.progress.came.fetch_add(read as u64, Ordering::Relaxed);
            if self.over.load(Ordering::Relaxed) {
                return Err(Failure::GivenUp);
            }
        }
        if came < size {
            return Err(Failure::Shorter { size, came });
        }
        let found = Digest(signature.finalize().into());
        if found == remote.digest { Ok(()) } else { Err(Failure::OtherContent(found)) }
    }
}
