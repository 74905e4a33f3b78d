//! From options to a running member: the data directory, the key, then found,
//! join or go on.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::net::{TcpListener, UdpSocket};

use super::{
    Ended, Handle, Options, Ready, Running, again,
    content::Content,
    inherited,
    keys::NextKeys,
    persist,
    recover::{self, Succession},
    run::{self, Parts},
    telemetry,
    tuning::Tuning,
    whereabouts,
};
use crate::{
    base::{
        ClusterId, Digest, MemberId, PublicKey, Reason, Refusal, SecretKey, WallTime,
        catalog::Enrolled,
        limits,
        wire::{self, Kind},
    },
    driver::services::Passage,
    member::{
        Restored,
        admission::{Knock, Token, Welcome},
    },
    net::{self, Net, NetError},
    proto::catalog::Record,
    store::{ContentStore, DataDir, StoreError, record},
};

/// How long one knock may take: a change of the roster on the other side.
const KNOCK_WITHIN: Duration = Duration::from_secs(10);
/// How long a newcomer goes on knocking where nobody answers or the cluster
/// has no majority for the moment.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// The pause between two rounds of knocks.
const JOIN_PAUSE: Duration = Duration::from_millis(500);

/// How this member came to be in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It founded the cluster just now.
    Founded,
    /// It joined just now.
    Joined,
    /// It was in it before.
    Returned,
}

/// Whether `data` is that of a member of a cluster, which comes back when it is started.
pub fn has_record(data: &Path) -> bool {
    data.join("records").join("register").exists()
}

/// Starts a member. Returns when it runs: it has founded or joined its
/// cluster, or has taken up what it remembers.
///
/// Errors: a refusal in three sentences; nothing is left running.
pub async fn start(mut options: Options) -> Result<Running, Refusal> {
    // Before anybody is told of this member: that it can be where it says.
    options.bind = try_bind(options.bind)?;
    let data = DataDir::open(&options.data).map_err(|e| of_store(&e))?;
    if let Err(error) = passage(&data).shut_rest() {
        // Nobody but its user may enter it, and before somebody else may this is tried again.
        tracing::warn!(%error, "what lies in the data directory can't be shut for others");
    }
    // Who it is comes first: a damaged key is worse than a port in use.
    data.load_or_create_key(rand::random::<[u8; 32]>).map_err(|e| of_store(&e))?;
    let listener = match options.listen {
        None => None,
        Some(address) => Some(listen(address, "sites (--listen)").await?),
    };
    let tls = match options.listen_tls {
        None => None,
        Some(address) => Some(listen(address, "sites over TLS (--listen-tls)").await?),
    };
    let statsd = match options.statsd {
        None => None,
        Some(address) => Some(bind_statsd(address).await?),
    };
    let kept = Kept {
        data: Arc::new(data),
        content: tokio::sync::OnceCell::new(),
        tuning: Tuning::new(options.scrub, options.send_rate, options.receive_rate),
    };
    let site_address = listener.as_ref().and_then(|l| l.local_addr().ok());
    let (parts, ready) = prepare(&options, &kept).await?;
    let tls_address = tls.as_ref().and_then(|l| l.local_addr().ok());
    let (handle, standing, begun) =
        run::open(parts, (listener, tls, statsd), options.front.clone())?;
    let ended = tokio::spawn(again::run_on(options, kept, begun, standing));
    Ok(Running { handle, ready: Ready { site_address, tls_address, ..ready }, ended })
}

/// How programs of other users get to the trees in the data directory.
fn passage(data: &DataDir) -> Passage {
    Passage::new(data.path().to_owned(), data.live())
}

/// What one run of a member after the other has in this process.
pub(super) struct Kept {
    /// Locked while it lives.
    pub data: Arc<DataDir>,
    tuning: Tuning,
    content: tokio::sync::OnceCell<(ContentStore, Content)>,
}

/// Everything up to the point where the loop can run, with the identity that is
/// on disk. The data directory is locked and the key made.
pub(super) async fn prepare(options: &Options, kept: &Kept) -> Result<(Parts, Ready), Refusal> {
    let data = &kept.data;
    let key = data.load_or_create_key(rand::random::<[u8; 32]>).map_err(|e| of_store(&e))?;
    let me = key.member();
    let record_path = data.record("register");
    let generation_path = data.record("generation");
    let advertise = options.advertise.unwrap_or(options.bind);

    let succession_path = data.record(recover::SUCCESSION);
    let succession = recover::load_succession(&succession_path);
    let (record, origin) = match load_record(&record_path)? {
        Some(record) => (record, Origin::Returned),
        None if options.join.is_empty() && options.token.is_none() => {
            refuse_second_founding(options, generation_path.exists(), succession.as_ref())?;
            if advertise.ip().is_unspecified() {
                tracing::info!("no --advertise is given: the address of the default route is used");
            }
            let founder = enrolled(&key, options, whereabouts::reachable(advertise));
            (Record::found(rand::random(), &key, founder), Origin::Founded)
        }
        None => (join(options, &key, advertise).await?, Origin::Joined),
    };
    let cluster = record.committed.catalog.cluster;
    let next_keys = match origin {
        Origin::Returned => NextKeys::load(data, me)?,
        Origin::Founded | Origin::Joined => NextKeys::default(),
    };
    let roster = &record.committed.catalog.roster;
    // It was stopped before it took up its new key: it does that first.
    let next = next_keys.ids().map(|(id, _)| id).find(|id| roster.contains(*id));
    let Some(entry) = roster.get(me).or_else(|| roster.get(next?)) else {
        return Err(Refusal::new(
            Reason::Forbidden,
            "This member did not start.",
            "It has left its cluster or was removed from it.",
            format!(
                "To join again as a new member, move {} away and start with --join and a token.",
                options.data.display()
            ),
        ));
    };
    let (known, name) = (entry.address, entry.name.to_string());
    check_token(options, cluster, succession.as_ref())?;
    let generation = next_generation(&generation_path)?;
    // On disk before anybody hears of this member: it must never start again
    // as somebody who has promised nothing.
    let bytes = wire::encode(Kind::Record, &record);
    record::save(&record_path, &bytes).map_err(|e| of_store(&e))?;
    let bytes = wire::encode(Kind::Record, &generation);
    record::save(&generation_path, &bytes).map_err(|e| of_store(&e))?;
    // What is left over there is of no use, or its key already.
    next_keys.keep(data).map_err(|e| of_store(&e))?;

    let (store, content) = kept.content.get_or_try_init(|| open_content(data)).await?.clone();
    let opened = content.clone();
    let active = blocking(move || Ok(opened.applications())).await?;
    let activated = active.into_iter().map(|a| (a.app, a.version)).collect();
    let whole = whole_roots(&store).await?;

    let config = net::Config { bind: options.bind, key: key.clone(), cluster };
    let (network, network_events) = Net::bind(config).map_err(|e| of_net(&e))?;
    // At once: whoever is refused because the roster is not there yet would
    // think that it was removed.
    network.set_peers(run::peers_of(&record.committed.catalog.roster, me));
    let address = match options.advertise {
        Some(address) => address,
        None if options.bind.ip().is_unspecified() => {
            let (path, port) = (data.record("own-address"), network.local_addr().port());
            blocking(move || Ok(whereabouts::of_this_server(&path, known, port))).await?
        }
        None => network.local_addr(),
    };
    let ready = Ready {
        name,
        id: me.0.to_string(),
        cluster: cluster.to_string(),
        cluster_address: address,
        site_address: None, // the caller has the listeners
        tls_address: None,
        founded: origin == Origin::Founded,
        joined: origin == Origin::Joined,
        sequence: record.committed.catalog.sequence,
    };
    let ids = next_keys.ids().collect();
    let restored = Restored { record, generation, whole, activated, next_keys: ids };
    let news = tell_once(&succession_path, succession);
    let paths = persist::Paths {
        record: record_path,
        generation: generation_path,
        next_keys: data.next_keys(),
    };
    let parts = Parts {
        key,
        next_keys,
        address,
        seeds: seeds(&options.join),
        restored,
        network,
        network_events,
        store,
        content,
        paths,
        pace: options.pace,
        uploads: options.uploads,
        tuning: kept.tuning.clone(),
        news,
        logs: data.logs(),
        passage: passage(data),
        addresses: crate::gateway::vip::Config {
            own: address.ip(),
            guard: options.guard,
            file: data.record("addresses"),
        },
        data: data.path().to_owned(),
        secrets: data.secrets(),
        measured: telemetry::Paths {
            series: data.series(),
            events: data.events(),
            socket: data.metrics(),
        },
        episodes: data.record("episodes"),
    };
    Ok((parts, ready))
}

/// Where a member that returns looks for the others: at the first of what `--join` names.
fn seeds(join: &[SocketAddr]) -> Vec<SocketAddr> {
    let (first, others) = join.split_at(join.len().min(limits::SEEDS_MAX));
    if !others.is_empty() {
        let others: Vec<String> = others.iter().map(SocketAddr::to_string).collect();
        tracing::warn!(
            "--join names more than {} addresses: nobody is looked for at {}",
            limits::SEEDS_MAX,
            others.join(", ")
        );
    }
    first.to_vec()
}

/// What a recovery has to say, the first time that the member runs after it.
fn tell_once(path: &Path, succession: Option<Succession>) -> Option<String> {
    let mut succession = succession?;
    let news = succession.untold.take()?;
    if let Err(error) = recover::save_succession(path, &succession) {
        // It is told again at the next start.
        tracing::warn!(%error, "that the recovery was told could not be kept");
    }
    Some(news)
}

/// Whoever comes back needs no token, and one of its own cluster does no harm.
/// With another one's it would come back to where it is not wanted.
/// One of a cluster that its own succeeds is a leftover of a start script.
fn check_token(
    options: &Options,
    cluster: ClusterId,
    succession: Option<&Succession>,
) -> Result<(), Refusal> {
    let token = options.token.as_deref().and_then(|text| Token::parse(text).ok());
    let fine = |of: ClusterId| of == cluster || succession.is_some_and(|s| s.before.contains(&of));
    match token.filter(|token| !fine(token.cluster)) {
        None => Ok(()),
        Some(_) => Err(Refusal::new(
            Reason::Forbidden,
            "This member did not start.",
            format!(
                "What is in {} belongs to cluster {cluster}, and the token is for another cluster.",
                options.data.display()
            ),
            "Name another --data to join with that token, or start it without --join and --token.",
        )),
    }
}

/// A member that was in a cluster before never founds one by itself: whoever
/// starts it wants it back where it was, and not alone beside it.
fn refuse_second_founding(
    options: &Options,
    was_enrolled: bool,
    succession: Option<&Succession>,
) -> Result<(), Refusal> {
    if !was_enrolled {
        return Ok(());
    }
    let data = options.data.display();
    let (why, todo) = match succession.and_then(|s| s.before.last()) {
        Some(before) => (
            format!(
                "It left the lost cluster {before} by `althing recover --rejoin`, and is to join \
                 the one that was recovered on another member."
            ),
            "Run `althing invite` on that member, and start this one with the command it prints."
                .to_owned(),
        ),
        None => (
            format!(
                "{data} is that of a member of a cluster, and its record in records/register is \
                 gone: it would found a second cluster beside its own."
            ),
            format!(
                "Run `althing remove` for it on another member and join anew with --join and a \
                 token, or move {data} away to found a new cluster."
            ),
        ),
    };
    Err(Refusal::new(Reason::Forbidden, "This member did not start.", why, todo))
}

/// The address with the port that the system chose, if it is to choose one.
fn try_bind(address: SocketAddr) -> Result<SocketAddr, Refusal> {
    let cause = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AddrInUse => of_net(&NetError::PortInUse { address }),
        std::io::ErrorKind::PermissionDenied => of_net(&NetError::NotPermitted { address }),
        _ => of_net(&NetError::Bind { address, cause: e.to_string() }),
    };
    std::net::UdpSocket::bind(address).and_then(|socket| socket.local_addr()).map_err(cause)
}

/// Where the sites or the status page listen.
pub async fn listen(address: SocketAddr, what: &str) -> Result<TcpListener, Refusal> {
    let listener = match inherited::take(address) {
        Some(listener) => {
            listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener))
        }
        None => TcpListener::bind(address).await,
    };
    listener.map_err(|e| {
        let (why, todo) = match e.kind() {
            std::io::ErrorKind::AddrInUse => (
                format!("TCP port {} of {} is in use.", address.port(), address.ip()),
                "Stop the program that listens there, or choose another port.".to_owned(),
            ),
            _ => (
                format!("{address} can't be listened on for {what}: {e}."),
                "Choose an address of this server, and a port that this user may have.".to_owned(),
            ),
        };
        Refusal::new(Reason::Failed, "This member did not start.", why, todo)
    })
}

async fn bind_statsd(address: SocketAddr) -> Result<UdpSocket, Refusal> {
    UdpSocket::bind(address).await.map_err(|error| {
        Refusal::new(
            Reason::Failed,
            "This member did not start.",
            format!("{address} can't be listened on for measurements (--statsd): {error}."),
            "Choose a free UDP port at an address of this server, as 127.0.0.1:8125.",
        )
    })
}

fn enrolled(key: &SecretKey, options: &Options, address: SocketAddr) -> Enrolled {
    Enrolled {
        id: key.member(),
        key: key.public(),
        name: options.name.clone(),
        address,
        tags: options.tags.clone(),
        voter: true,
        standby: options.standby,
    }
}

pub(super) fn load_record(path: &Path) -> Result<Option<Record>, Refusal> {
    let Some(bytes) = record::load(path).map_err(|e| of_store(&e))? else { return Ok(None) };
    wire::decode(Kind::Record, &bytes).map(Some).map_err(|e| {
        Refusal::new(
            Reason::Failed,
            "This member did not start.",
            format!("Its record at {} can't be read: {e}.", path.display()),
            "Run `althing remove` for it on another member, move the data directory away and join \
             anew: an older record must not be put back, because this member has promised more \
             since. The cluster keeps everything.",
        )
    })
}

fn next_generation(path: &Path) -> Result<u64, Refusal> {
    let kept = match record::load(path).map_err(|e| of_store(&e))? {
        Some(bytes) => wire::decode::<u64>(Kind::Record, &bytes).unwrap_or(0),
        None => 0,
    };
    // The clock may have gone back; the number may not.
    Ok(wall_now().0.max(kept + 1))
}

async fn open_content(data: &DataDir) -> Result<(ContentStore, Content), Refusal> {
    let (directory, live, state) = (data.content(), data.live(), data.records());
    blocking(move || {
        let store = ContentStore::open(&directory).map_err(|e| of_store(&e))?;
        let content = Content::open(store.clone(), live, state).map_err(|e| {
            Refusal::new(
                Reason::Failed,
                "This member did not start.",
                format!("Its content can't be opened: {e}."),
                "Mend the cause, or move the data directory away and join anew.",
            )
        })?;
        Ok((store, content))
    })
    .await
}

/// What the store holds whole, as far as its index knows.
async fn whole_roots(store: &ContentStore) -> Result<Vec<Digest>, Refusal> {
    let store = store.clone();
    blocking(move || {
        let mut whole = Vec::new();
        for root in store.trees().map_err(|e| of_store(&e))? {
            if store.whole(&root).map_err(|e| of_store(&e))? {
                whole.push(root);
            }
        }
        Ok(whole)
    })
    .await
}

/// Runs `work`, which may block, on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        Refusal::new(
            Reason::Failed,
            "Nothing was done.",
            format!("A task of this member ended before its time: {e}."),
            "Please report this.",
        )
    })?
}

/// Now, by this server's clock.
pub(crate) fn wall_now() -> WallTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 reads as 1970: it is for people only.
    WallTime(now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

// Joining.

async fn join(
    options: &Options,
    key: &SecretKey,
    advertise: SocketAddr,
) -> Result<Record, Refusal> {
    let Some(text) = &options.token else {
        return Err(Refusal::new(
            Reason::Forbidden,
            "This member did not join.",
            "A newcomer needs a token, and none is given.",
            "Run `althing invite` on a member, and give its token with --token.",
        ));
    };
    let token = Token::parse(text)?;
    let mut addresses = options.join.clone();
    addresses.extend(token.addresses.iter().copied().filter(|a| !options.join.contains(a)));
    let give_up = tokio::time::Instant::now() + JOIN_WITHIN;
    loop {
        let mut last = None;
        for address in &addresses {
            match knock_at(options, key, &token, advertise, *address).await {
                Ok(record) => return Ok(record),
                // Another member would say the same.
                Err(refusal) if is_final(&refusal) => return Err(refusal),
                Err(refusal) => last = Some(refusal),
            }
        }
        if tokio::time::Instant::now() >= give_up {
            return Err(last.unwrap_or_else(|| {
                Refusal::new(
                    Reason::Invalid,
                    "This member did not join.",
                    "There is no address to join by.",
                    "Give one with --join.",
                )
            }));
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

fn is_final(refusal: &Refusal) -> bool {
    !matches!(refusal.reason, Reason::NoMajority | Reason::Busy | Reason::Failed)
}

async fn knock_at(
    options: &Options,
    key: &SecretKey,
    token: &Token,
    advertise: SocketAddr,
    to: SocketAddr,
) -> Result<Record, Refusal> {
    let from = SocketAddr::new(options.bind.ip(), 0);
    let build = |exporter: [u8; 32], _server: PublicKey| {
        let (name, tags, standby) = (options.name.clone(), options.tags.clone(), options.standby);
        let knock = Knock::new(token, key.public(), &exporter, name, advertise, tags, standby);
        wire::encode(Kind::Knock, &knock)
    };
    let (server, answer) = net::knock(key, token.cluster, from, to, build, KNOCK_WITHIN)
        .await
        .map_err(|e| of_knock(to, &e))?;
    let welcome: Welcome = wire::decode(Kind::Message, &answer).map_err(|e| {
        Refusal::new(
            Reason::Failed,
            "This member did not join.",
            format!("The answer of {to} can't be read: {e}."),
            "Use the same version of Althing on both sides.",
        )
    })?;
    welcome.accept(token, MemberId::of(&key.public()), server)
}

fn of_knock(to: SocketAddr, error: &NetError) -> Refusal {
    let reason = match error {
        NetError::OtherCluster { .. } => Reason::Forbidden,
        _ => Reason::Failed,
    };
    Refusal::new(
        reason,
        "This member did not join.",
        format!("{error}."),
        format!("Check that {to} is a member's cluster address and that UDP passes to it."),
    )
}

// Errors of the floors below, as refusals.

pub(super) fn of_store(error: &StoreError) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "This member did not start.",
        format!("{error}."),
        "Mend the cause and start again; nothing was lost.",
    )
}

fn of_net(error: &NetError) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "This member did not start.",
        format!("{error}."),
        "Choose another --bind address or port, or stop what uses it.",
    )
}

impl Running {
    /// The way in.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the member has stopped, and says why it did.
    pub async fn wait(self) -> Ended {
        self.ended.await.unwrap_or(Ended::Stopped)
    }
}
