//! `althing up`: a member, from its options to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    args,
    config::{
        Settled, Source,
        reload::{Begun, Reload},
    },
    log,
    manager::Manager,
    output::{Output, Paint},
};
use crate::{
    admin::{self, StatusCertificate, StatusTls},
    base::{MemberName, Network, Reason, Refusal, catalog::check_tags},
    driver::services::descriptors,
    gateway::{
        Front,
        access::{Format, Log},
        forwarded::TRUSTED_MAX,
        origins::Database,
    },
    member::{command::Command, event::Severity},
    node::{self, Ended},
};

/// Where members listen unless told otherwise.
const PORT: u16 = 7700;
/// Between two looks whether the socket is there.
const SOCKET_LOOK: Duration = Duration::from_millis(5);
/// How soon tags are set again when there was no majority for it.
const TAGS_RETRY: Duration = Duration::from_secs(3);
/// How often is looked whether the certificate of the status port expires.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(3_600);
/// How often the same is told of it.
const CERTIFICATE_TOLD: Duration = Duration::from_secs(86_400);
/// How long the rest of the access log may take to be written at the end.
const LOG_WITHIN: Duration = Duration::from_secs(2);
/// Standard output, where a file is named.
const STDOUT: &str = "-";
/// The longest path of a Unix socket on Linux, bytes (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// The longest token file that is read, bytes: a token is some hundreds.
const TOKEN_FILE_MAX: u64 = 64 << 10;

/// What the member says when it is ready: one line with `--json`.
#[derive(Debug, Serialize)]
struct Announcement {
    ready: bool,
    name: String,
    id: String,
    cluster: String,
    address: SocketAddr,
    site: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    status: Option<SocketAddr>,
    /// Whether the status port speaks TLS.
    status_tls: bool,
    data: PathBuf,
    socket: PathBuf,
    founded: bool,
    joined: bool,
    sequence: u64,
    pid: u32,
}

/// Where the status page is served, and how.
struct StatusPort {
    listener: TcpListener,
    tls: Option<StatusTls>,
}

/// The scrub is to be slow: see `althing up --help`.
const SCRUB_EVERY_MIN: Duration = Duration::from_secs(3_600);
const SCRUB_RATE_MIN: u64 = 64_000;
/// With less than this a session would be taken for one that stands still.
const CONTENT_RATE_MIN: u64 = 64_000;

pub(super) async fn run(source: Source, output: &Output) -> Result<ExitCode, Refusal> {
    let Settled { up: options, data, settings, file } = source.read()?;
    let data = match data {
        Some(data) => super::absolute(&data)?,
        None => super::default_data()?,
    };
    super::hints_for(&data);
    log::begin(options.log)?;
    let manager = Manager::from_env();
    manager.starting().await;
    descriptors::raise();
    check_socket_path(&data.join("socket"))?;
    // Signals are caught from the start: whoever stops us while we join means it.
    let stop = stop_asked(options.with_parent)?;
    let hangups = hangups(&manager)?;
    let status = status_port(&options).await?;
    let options = resolve(options, data).await?;
    let begun = Begun { source, holds: settings, file };
    up(options, status, output, stop, (hangups.map(|hangups| (hangups, begun)), manager)).await
}

/// Everything that a member on this machine needs beside its options.
async fn resolve(options: args::Up, data: PathBuf) -> Result<node::Options, Refusal> {
    let (trusted, accept_proxy) = networks_of(&options)?;
    let tags = tags_of(&options.tag)?;
    let (scrub, (send_rate, receive_rate)) = (scrub_of(&options), rates_of(&options));
    // Who comes back needs neither those nor a token: a name that is gone and a token that was
    // used up keep nobody from starting.
    let returns = node::has_record(&data);
    let join = seeds(&options, returns).await?;
    let name = match options.name {
        Some(name) => name,
        None => host_name()?,
    };
    let advertise = match &options.advertise {
        Some(text) => Some(look_up(text, options.bind.port(), options.bind).await?),
        None => None,
    };
    let token = match options.token_file {
        Some(path) if !returns => Some(read_token(&path)?),
        _ => options.token,
    };
    let log = match &options.access_log {
        Some(path) => Some(open_log(path, options.access_log_format.into())?),
        None => None,
    };
    let origins = match options.origins_db {
        Some(path) => Some(open_origins(path).await?),
        None => None,
    };
    let front = Front { trusted: trusted.into(), accept_proxy: accept_proxy.into(), log, origins };
    Ok(node::Options {
        data,
        front,
        name,
        bind: options.bind,
        advertise,
        listen: options.listen.0,
        listen_tls: options.listen_tls.0,
        statsd: options.statsd.0,
        join,
        token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
        tags,
        standby: options.standby,
        guard: true,
        scrub,
        send_rate,
        receive_rate,
        uploads: options.uploads,
        pace: options.profile.pace(),
    })
}

/// The status port, if it is to be served.
async fn status_port(options: &args::Up) -> Result<Option<StatusPort>, Refusal> {
    let files = status_files(options)?;
    let Some(address) = options.status.0 else { return Ok(None) };
    let read = |(certificate, key): (&Path, &Path)| StatusCertificate::read(certificate, key);
    let tls = files.map(read).transpose()?.map(StatusTls::new);
    let listener = node::listen(address, "the status page (--status)").await?;
    Ok(Some(StatusPort { listener, tls }))
}

/// The files with the certificate of the status port and its key.
pub(super) fn status_files(options: &args::Up) -> Result<Option<(&Path, &Path)>, Refusal> {
    let (given, lacks) = match (&options.status_cert, &options.status_key) {
        (Some(certificate), Some(key)) => {
            return Ok(Some((certificate.as_path(), key.as_path())));
        }
        (None, None) => return Ok(None),
        (Some(_), None) => ("--status-cert", "--status-key"),
        (None, Some(_)) => ("--status-key", "--status-cert"),
    };
    Err(Refusal::new(
        Reason::Invalid,
        "The member was not started.",
        format!("{given} is given without {lacks}, and TLS needs a certificate and its key."),
        format!("Give {lacks} as well (it may be the same file), or leave both out."),
    ))
}

/// Tells with which certificate the status port begins, that it is about to expire, and that again each
/// day.
/// `told` says how it is with it.
async fn watch_certificate<T: Future<Output = ()>>(
    told: impl Fn() -> (Severity, String),
    tell: impl Fn(Severity, String) -> T,
) {
    let (severity, mut last) = told();
    tell(severity, last.clone()).await;
    let mut at = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(CERTIFICATE_LOOK).await;
        let (severity, text) = told();
        let is_news = text != last || at.elapsed() >= CERTIFICATE_TOLD;
        if severity != Severity::Info && is_news {
            (last, at) = (text.clone(), tokio::time::Instant::now());
            tell(severity, text).await;
        }
    }
}

/// Where members may be: all that `--join` names, or, of one that `returns`, those that are found.
async fn seeds(options: &args::Up, returns: bool) -> Result<Vec<SocketAddr>, Refusal> {
    let mut found = Vec::new();
    for text in &options.join {
        match look_up(text, PORT, options.bind).await {
            Ok(address) => found.push(address),
            Err(refusal) if returns => tracing::warn!("--join {text} is left out: {}", refusal.why),
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(found)
}

/// How every byte is read again from time to time.
pub(super) fn scrub_of(options: &args::Up) -> Option<node::Scrub> {
    options.scrub_every.0.map(|every| node::Scrub {
        every: every.0.max(SCRUB_EVERY_MIN),
        rate: options.scrub_rate.max(SCRUB_RATE_MIN),
    })
}

/// How fast content is sent and received, bytes a second.
pub(super) fn rates_of(options: &args::Up) -> (Option<u64>, Option<u64>) {
    let rate = |given: Option<u64>| given.map(|rate| rate.max(CONTENT_RATE_MIN));
    (rate(options.send_rate), rate(options.receive_rate))
}

/// The access log.
fn open_log(path: &Path, format: Format) -> Result<Log, Refusal> {
    Log::open(log_file(path), format).map_err(|error| unopened(path, &error))
}

/// The same for one that is written already; it goes on as it was if there is an error.
pub(super) fn change_log(log: &Log, path: &Path, format: Format) -> Result<(), Refusal> {
    log.change(log_file(path), format).map_err(|error| unopened(path, &error))
}

fn log_file(path: &Path) -> Option<&Path> {
    (path != Path::new(STDOUT)).then_some(path)
}

fn unopened(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member was not started.",
        format!("The access log {} can't be opened: {error}.", path.display()),
        "See that its directory is there and that this user may write there.",
    )
}

/// Where clients are looked up.
async fn open_origins(path: PathBuf) -> Result<Database, Refusal> {
    let shown = path.display().to_string();
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "The member was not started.",
            format!("{shown} can't be used to look up where clients are: {why}."),
            "Give --origins-db a file of countries or cities in the format of MaxMind DB, or leave \
             it away.",
        )
    };
    // It is read and checked as a whole.
    let opened = tokio::task::spawn_blocking(move || Database::open(&path)).await;
    opened.map_err(|e| refuse(e.to_string()))?.map_err(|e| refuse(e.to_string()))
}

/// Writes out what is left of it.
async fn close_log(log: Option<Log>) {
    let Some(log) = log else { return };
    let (done, closed) = oneshot::channel();
    // A thread of its own: the runtime would wait for one of its own at its end, and a disk
    // that does not answer is to hold nobody up.
    std::thread::spawn(move || {
        log.close();
        let _nobody_waits = done.send(());
    });
    let _given_up = tokio::time::timeout(LOG_WITHIN, closed).await;
}

/// Who is believed: by lines of a request, and by a header of the PROXY protocol.
pub(super) fn networks_of(options: &args::Up) -> Result<(Vec<Network>, Vec<Network>), Refusal> {
    Ok((
        networks(&options.trusted_proxy, "--trusted-proxy")?,
        networks(&options.accept_proxy, "--accept-proxy")?,
    ))
}

/// What is right in each of its parts and too much together: a sentence.
pub(super) fn too_much(options: &args::Up) -> Option<String> {
    let wrong = networks_of(options).err().or_else(|| tags_of(&options.tag).err());
    wrong.map(|refusal| refusal.why)
}

fn networks(list: &[Network], option: &str) -> Result<Vec<Network>, Refusal> {
    if list.len() <= TRUSTED_MAX {
        return Ok(list.to_vec());
    }
    Err(Refusal::new(
        Reason::Invalid,
        "The member was not started.",
        format!("{option} names {} networks, and {TRUSTED_MAX} are the most.", list.len()),
        "Name larger networks, that hold several of them.",
    ))
}

pub(super) fn tags_of(list: &[args::Tag]) -> Result<BTreeMap<String, String>, Refusal> {
    let pair = |args::Tag(key, value): &args::Tag| (key.clone(), value.clone());
    let tags = list.iter().map(pair).collect();
    check_tags(&tags).map_err(|why| {
        let what = "The member was not started.";
        Refusal::new(Reason::Invalid, what, why, "Give fewer or shorter ones with --tag.")
    })?;
    Ok(tags)
}

/// A member that returns with other tags than the catalog has for it gets
/// those that it was started with, as soon as there is a majority.
pub(super) async fn set_tags(handle: node::Handle, tags: BTreeMap<String, String>) {
    loop {
        let Ok(view) = handle.view().await else { return };
        let has = view.members.iter().find(|m| m.me).map(|m| &m.tags);
        if has.is_some_and(|has| tags.iter().all(|(key, value)| has.get(key) == Some(value))) {
            return;
        }
        let (set, unset) = (tags.clone(), BTreeSet::new());
        match handle.command(Command::Tags { member: None, set, unset }).await {
            Ok(_) => return,
            Err(refusal) if refusal.reason == Reason::Invalid => {
                return tracing::warn!("the tags given with --tag were not set: {refusal}");
            }
            Err(_not_now) => tokio::time::sleep(TAGS_RETRY).await,
        }
    }
}

/// Said before the member has joined: afterwards the cluster would wait for it.
fn check_socket_path(socket: &Path) -> Result<(), Refusal> {
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Invalid,
        "The member was not started.",
        format!(
            "The path of its socket for commands, {}, is longer than the {SOCKET_PATH_MAX} bytes \
             that the system allows.",
            socket.display()
        ),
        "Choose a shorter one with --data.",
    ))
}

fn host_name() -> Result<MemberName, Refusal> {
    let path = "/proc/sys/kernel/hostname";
    let text = std::fs::read_to_string(path).unwrap_or_default();
    member_name(text.trim()).ok_or_else(|| {
        Refusal::new(
            Reason::Invalid,
            "The member was not started.",
            "This server's host name can't be used as the member's name.",
            "Choose one with --name.",
        )
    })
}

/// The nearest name that a member can have.
fn member_name(text: &str) -> Option<MemberName> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let text: String = text.chars().map(|c| if fine(c) { c } else { '-' }).take(63).collect();
    MemberName::parse(text.trim_matches(|c: char| !c.is_ascii_alphanumeric())).ok()
}

/// `HOST`, `HOST:PORT`, `ADDR` or `ADDR:PORT` as an address that `bind` can reach.
async fn look_up(text: &str, port: u16, bind: SocketAddr) -> Result<SocketAddr, Refusal> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "The member was not started.",
            format!("{text} can't be used as the address of a member: {why}."),
            "Give HOST:PORT, as server1:7700 or 10.0.0.1:7700.",
        )
    };
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{port}") };
    let found = tokio::net::lookup_host(&with_port).await.map_err(|e| refuse(e.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    let reachable = found.iter().find(|a| a.is_ipv4() == bind.is_ipv4());
    reachable.or(found.first()).copied().ok_or_else(|| refuse("it has no address".to_owned()))
}

fn read_token(path: &Path) -> Result<String, Refusal> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(TOKEN_FILE_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: std::io::Error| {
        Refusal::new(
            Reason::Invalid,
            "The member was not started.",
            format!("The token can't be read from {}: {error}.", path.display()),
            "Put what `althing invite` prints after --token into that file.",
        )
    })
}

/// Asks to read the configuration anew. Where a terminal hangs up, this process is to end as any
/// other does.
fn hangups(manager: &Manager) -> Result<Option<Signal>, Refusal> {
    if std::io::stdin().is_terminal() && !manager.is_there() {
        return Ok(None);
    }
    signal(SignalKind::hangup()).map(Some).map_err(no_signals)
}

/// Resolves when this process is asked to end, in whatever way. Asked a second
/// time it ends at once.
fn stop_asked(with_parent: bool) -> Result<oneshot::Receiver<()>, Refusal> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let orphaned = orphaned(with_parent);
    let (asked, stop) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = orphaned => {}
        }
        let _nobody_waits = asked.send(());
        tokio::select! {
            _ = interrupt.recv() => std::process::exit(130),
            _ = terminate.recv() => std::process::exit(143),
        }
    });
    Ok(stop)
}

fn no_signals(error: std::io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member was not started.",
        format!("It can't catch signals: {error}."),
        "Nothing that Althing knows: the operating system refuses what it always grants.",
    )
}

/// Resolves when standard input ends, if that is what ends us: the pipe of a
/// parent closes however the parent dies.
async fn orphaned(with_parent: bool) {
    if with_parent {
        let (ended, end) = oneshot::channel::<()>();
        // A thread of its own: a read that blocks would hold the runtime up.
        std::thread::spawn(move || {
            let mut scrap = [0; 64];
            while matches!(std::io::stdin().read(&mut scrap), Ok(1..)) {}
            drop(ended);
        });
        let _closed = end.await;
    } else {
        std::future::pending().await
    }
}

/// Starts the member, says that it is ready and waits for its end.
async fn up(
    options: node::Options,
    status: Option<StatusPort>,
    output: &Output,
    stop: oneshot::Receiver<()>,
    (reloads, manager): (Option<(Signal, Begun)>, Manager),
) -> Result<ExitCode, Refusal> {
    let (data, standby, tags) = (options.data.clone(), options.standby, options.tags.clone());
    let front = options.front.clone();
    let status_address = status.as_ref().and_then(|port| port.listener.local_addr().ok());
    let status_tls = status.as_ref().and_then(|port| port.tls.clone());
    let mut stop = stop;
    let running = tokio::select! {
        started = node::start(options) => started?,
        // Dropped half-way it leaves what a kill would leave: nothing that was said is lost.
        _ = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    let handle = running.handle.clone();
    let shutdown = CancellationToken::new();
    let socket = data.join("socket");
    let doors = open_doors(&handle, &socket, status, &shutdown).await;
    if let Err(refusal) = doors {
        handle.stop().await;
        running.wait().await;
        return Err(refusal);
    }
    let status_page = status_address.map(|address| (address, status_tls.is_some()));
    announce(&running.ready, status_page, data, standby, manager.is_there(), output);
    manager.ready(&format!("{} {}", running.ready.name, how(&running.ready))).await;
    // It ends with the member, as what sets the tags below does.
    tokio::spawn(manager.clone().accompany(handle.clone()));
    for address in node::unclaimed() {
        tracing::warn!(
            "a socket at {address} was handed over, and nothing of this member is to listen there: \
             give the same address by --listen or --status, or take it out of the socket unit"
        );
    }
    let watching = status_tls.clone().map(|tls| {
        let handle = handle.clone();
        let tell = move |severity, text| {
            let handle = handle.clone();
            async move { handle.tell(severity, text).await }
        };
        let watched = watch_certificate(move || tls.told(), tell);
        AbortOnDropHandle::new(tokio::spawn(watched))
    });
    // It ends with the member: then nobody answers its questions.
    let tagging = (!tags.is_empty()).then(|| tokio::spawn(set_tags(handle.clone(), tags)));
    let tagging = tagging.map(|task| task.abort_handle());
    let reloading = reloads.map(|(hangups, begun)| {
        let holders = (handle.clone(), manager.clone());
        let reload = Reload::new(begun, front.clone(), status_tls, holders, tagging);
        tokio::spawn(reload.run(hangups))
    });
    let to_end = manager.clone();
    let asked = tokio::spawn(async move {
        // An error means that nobody can ask any more: then nobody has.
        if stop.await.is_ok() {
            to_end.stopping("Answering what is under way").await;
            handle.stop().await;
        }
    });
    let ended = running.wait().await;
    asked.abort();
    drop(watching);
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    manager.stopping(&why(&ended)).await;
    shutdown.cancel();
    close_log(front.log).await;
    match ended {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Left => {
            if !output.json {
                output.line("This member has left the cluster.");
            }
            Ok(ExitCode::SUCCESS)
        }
        Ended::Failed(refusal) => Err(*refusal),
        // It goes on under its new id before this is said.
        Ended::Rotated(_) => Ok(ExitCode::SUCCESS),
        Ended::Removed => Err(Refusal::new(
            Reason::Forbidden,
            "This member stopped.",
            "It was removed from the cluster: a majority of the members decided so.",
            "To join again as a new member, move its data directory away and use a new token.",
        )),
    }
}

/// Opens the socket for commands and the status page. Returns when commands
/// can be given.
async fn open_doors(
    handle: &node::Handle,
    socket: &Path,
    status: Option<StatusPort>,
    shutdown: &CancellationToken,
) -> Result<(), Refusal> {
    if let Some(StatusPort { listener, tls }) = status {
        let (handle, shutdown) = (handle.clone(), shutdown.clone());
        tokio::spawn(async move {
            let served = match tls {
                Some(tls) => admin::serve_status_tls(handle, listener, tls, shutdown).await,
                None => admin::serve_status(handle, listener, shutdown).await,
            };
            if let Err(error) = served {
                tracing::error!("the status page is no longer served: {error}");
            }
        });
    }
    let mut serving = tokio::spawn({
        let (handle, socket, shutdown) = (handle.clone(), socket.to_owned(), shutdown.clone());
        async move { admin::serve_socket(handle, &socket, shutdown).await }
    });
    let refuse = |why: String| {
        Refusal::new(
            Reason::Failed,
            "The member was not started.",
            format!("Its socket for commands at {} can't be opened: {why}.", socket.display()),
            "See that this user may write there and that there is room, and start it again.",
        )
    };
    loop {
        tokio::select! {
            ended = &mut serving => {
                return Err(refuse(match ended {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it was closed at once".to_owned(),
                }));
            }
            connected = tokio::net::UnixStream::connect(socket) => {
                if connected.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(SOCKET_LOOK).await;
            }
        }
    }
}

fn announce(
    ready: &node::Ready,
    status: Option<(SocketAddr, bool)>,
    data: PathBuf,
    standby: bool,
    managed: bool,
    output: &Output,
) {
    let node::Ready { name, id, cluster, founded, joined, sequence, .. } = ready.clone();
    if output.json {
        output.json_line(&Announcement {
            ready: true,
            name,
            id,
            cluster,
            address: ready.cluster_address,
            site: ready.site_address,
            tls: ready.tls_address,
            status: status.map(|(address, _)| address),
            status_tls: status.is_some_and(|(_, tls)| tls),
            socket: data.join("socket"),
            data,
            founded,
            joined,
            sequence,
            pid: std::process::id(),
        });
        return;
    }
    let how = how(ready);
    let or_none = |address: Option<SocketAddr>| match address {
        Some(address) => format!("http://{address}/"),
        None => "not served here".to_owned(),
    };
    output.painted(Paint::Bold, &name, &format!(" {how}."));
    output.line(&format!("  members reach it at  {} (UDP)", ready.cluster_address));
    output.line(&format!("  sites                {}", or_none(ready.site_address)));
    if let Some(address) = ready.tls_address {
        output.line(&format!("  sites over TLS       https://{address}/"));
    }
    let status = match status {
        Some((address, true)) => format!("https://{address}/"),
        status => or_none(status.map(|(address, _)| address)),
    };
    output.line(&format!("  status page          {status}"));
    output.line(&format!("  data                 {}", data.display()));
    let next = match (founded, standby) {
        (true, _) => "Next: `althing invite` prints the command for the next server.",
        (_, true) => "It holds the content and waits to be brought in.",
        _ => "Next: `althing status` says how the cluster is.",
    };
    output.hint(next);
    // A service manager has no keyboard.
    if !managed {
        output.line("It runs until Ctrl-C.");
    }
}

/// How it came to be where it is; its name goes before it.
fn how(ready: &node::Ready) -> String {
    let short: String = ready.cluster.chars().take(12).collect();
    match (ready.founded, ready.joined) {
        (true, _) => format!("founded the cluster {short}"),
        (_, true) => format!("joined the cluster {short}"),
        _ => format!("is back in the cluster {short}"),
    }
}

/// Why it ended, for a service manager.
fn why(ended: &Ended) -> String {
    match ended {
        Ended::Stopped | Ended::Rotated(_) => "Stopped".to_owned(),
        Ended::Left => "Has left the cluster".to_owned(),
        Ended::Removed => "Was removed from the cluster".to_owned(),
        Ended::Failed(refusal) => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_day_that_the_certificate_is_about_to_expire_it_is_told() {
        let began = tokio::time::Instant::now();
        let day = || began.elapsed().as_secs() / 86_400;
        let told = || match day() {
            0..3 => (Severity::Info, "fine".to_owned()),
            _ => (Severity::Warning, "soon".to_owned()),
        };
        let said = RefCell::new(Vec::new());
        let tell = |severity, text| {
            said.borrow_mut().push((day(), severity, text));
            std::future::ready(())
        };
        let days = Duration::from_secs(5 * 86_400 + 60);
        let ended = tokio::time::timeout(days, watch_certificate(told, tell)).await;
        assert!(ended.is_err(), "it goes on");
        let soon = |day| (day, Severity::Warning, "soon".to_owned());
        let first = (0, Severity::Info, "fine".to_owned());
        assert_eq!(said.into_inner(), [first, soon(3), soon(4), soon(5)]);
    }

    /// As one that lives for a day and is renewed late.
    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_about_to_expire_for_hours_is_told_of_too() {
        let began = tokio::time::Instant::now();
        let hour = || began.elapsed().as_secs() / 3_600;
        let told = || match hour() {
            30..38 => (Severity::Warning, "soon".to_owned()),
            _ => (Severity::Info, "fine".to_owned()),
        };
        let said = RefCell::new(Vec::new());
        let tell = |severity, _| {
            said.borrow_mut().push((hour(), severity));
            std::future::ready(())
        };
        let days = Duration::from_secs(3 * 86_400);
        let _goes_on = tokio::time::timeout(days, watch_certificate(told, tell)).await;
        assert_eq!(said.into_inner(), [(0, Severity::Info), (30, Severity::Warning)]);
    }

    #[test]
    fn any_host_name_gives_a_name() {
        let name = |text: &str| member_name(text).map(|n| n.to_string());
        assert_eq!(name("server-1.example.org").as_deref(), Some("server-1.example.org"));
        assert_eq!(name("(none)").as_deref(), Some("none"));
        assert_eq!(name("bücher rechner").as_deref(), Some("b-cher-rechner"));
        assert_eq!(name(&"x".repeat(99)).map(|n| n.len()), Some(63));
        assert_eq!(name(""), None);
    }

    #[tokio::test]
    async fn addresses_may_leave_the_port_out() {
        let bind: SocketAddr = "0.0.0.0:7700".parse().unwrap();
        for (text, expected) in [
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("10.0.0.1", "10.0.0.1:7700"),
            ("::1", "[::1]:7700"),
            ("[::1]", "[::1]:7700"),
            ("localhost", "127.0.0.1:7700"),
            ("localhost:9", "127.0.0.1:9"),
        ] {
            let found = look_up(text, 7700, bind).await;
            assert_eq!(found, Ok(expected.parse().unwrap()), "{text}");
        }
        assert!(look_up("a:b:c", 7700, bind).await.is_err());
    }

    #[tokio::test]
    async fn a_file_of_origins_that_is_none_is_a_refusal() {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (path, why) in [("/nonexistent/db", "can't be read"), (text, "damaged")] {
            let refusal = open_origins(path.into()).await.unwrap_err();
            assert_eq!(refusal.reason, Reason::Invalid);
            let text = refusal.to_string();
            assert!(text.contains(path) && text.contains(why), "{text}");
        }
    }

    /// Whoever embeds a member gets what the command line has, but for the guard.
    #[tokio::test]
    async fn the_defaults_of_the_library_are_those_of_the_command() {
        let line = ["althing", "up", "--name", "a"];
        let parsed = <args::Args as clap::Parser>::try_parse_from(line).unwrap();
        let args::Action::Up(up) = parsed.action else { panic!("another command") };
        let resolved = resolve(*up, "/data".into()).await.unwrap();
        let name = MemberName::parse("a").unwrap();
        let own = node::Options { guard: true, ..node::Options::new("/data", name) };
        assert_eq!(format!("{resolved:?}"), format!("{own:?}"));
    }

    #[tokio::test]
    async fn a_certificate_of_the_status_port_has_its_key() {
        let up = |more: &[&str]| {
            let line = ["althing", "up", "--status", "127.0.0.1:0"].iter().chain(more);
            let parsed = <args::Args as clap::Parser>::try_parse_from(line).unwrap();
            let args::Action::Up(up) = parsed.action else { panic!("another command") };
            up
        };
        assert_eq!(status_files(&up(&[])), Ok(None));
        let both = up(&["--status-cert", "/nonexistent/c", "--status-key", "/nonexistent/k"]);
        assert_eq!(
            status_files(&both),
            Ok(Some((Path::new("/nonexistent/c"), Path::new("/nonexistent/k"))))
        );
        for (given, lacks) in
            [("--status-cert", "without --status-key"), ("--status-key", "without --status-cert")]
        {
            let refusal = status_files(&up(&[given, "/x"])).unwrap_err();
            assert_eq!(refusal.reason, Reason::Invalid);
            assert!(refusal.why.contains(lacks), "{refusal}");
        }
        let refusal = status_port(&both).await.map(|_| ()).unwrap_err();
        assert!(refusal.why.contains("/nonexistent/c can't be read"), "{refusal}");
        // Where the page is not served, nobody needs them.
        let nowhere = args::Up { status: "none".parse().unwrap(), ..*both };
        assert!(status_port(&nowhere).await.unwrap().is_none());
    }

    #[test]
    fn a_token_file_that_is_not_there_is_a_refusal() {
        let refusal = read_token(Path::new("/nonexistent/token")).unwrap_err();
        assert_eq!(refusal.reason, Reason::Invalid);
    }
}
