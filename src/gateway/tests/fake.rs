//! What the tests serve and how they ask: a site in a temporary directory, a
//! client that reads exactly one response.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    base::{
        AppName, Digest, MemberId, RelPath, SecretKey,
        catalog::AppSpec,
        tree::{Chunk, Entry, Node, Tree},
    },
    gateway::{
        Affinity, Backends, Cut, Doors, Forward, Front, Process, Route, Secured, Site, Sites,
        Stats, Target, Tunnels,
        connection::{Limits, Own, serve_as, serve_forwarded},
    },
    proto::balance::choice::Candidate,
};

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// Bytes that repeat nowhere near a chunk's length; `salt` makes them others.
pub fn noise(len: usize, salt: u64) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A site whose live files stand in a directory that goes away with it.
pub struct FakeSite {
    app: AppName,
    version: u64,
    tree: Tree,
    pub spec: AppSpec,
    chunks: BTreeMap<Digest, Vec<u8>>,
    live: TempDir,
    /// Whether live files are handed out at all.
    pub live_fit: AtomicBool,
    /// Chunks that can be read before the store fails.
    pub chunks_left: AtomicUsize,
    /// Live files handed out.
    pub opened: AtomicUsize,
    /// What was served before.
    pub earlier: Vec<Arc<FakeSite>>,
}

impl FakeSite {
    /// A site of version `version`. Directories come by themselves; a content
    /// of `-> x` is a link to `x`.
    pub fn new(version: u64, files: &[(&str, &[u8])]) -> Self {
        let live = TempDir::new().unwrap();
        let mut entries = Vec::new();
        let mut directories = BTreeSet::new();
        let mut chunks = BTreeMap::new();
        for (name, content) in files {
            let mut parent = path(name).parent();
            while let Some(directory) = parent {
                parent = directory.parent();
                directories.insert(directory);
            }
            let node = if let Some(target) = content.strip_prefix(b"-> ") {
                Node::Symlink { target: target.to_vec() }
            } else {
                let place = live.path().join(name);
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                std::fs::write(place, content).unwrap();
                let list = content.chunks(300_000).map(|piece| {
                    let digest = Digest::of_bytes(piece);
                    chunks.insert(digest, piece.to_vec());
                    Chunk { digest, len: piece.len() as u32 }
                });
                Node::File {
                    mode: 0o644,
                    size: content.len() as u64,
                    chunks: list.collect(),
                    digest: Digest::of_bytes(content),
                }
            };
            entries.push(Entry { path: path(name), node });
        }
        let node = Node::Directory { mode: 0o755 };
        entries.extend(directories.into_iter().map(|path| Entry { path, node: node.clone() }));
        Self {
            app: AppName::parse("shop").unwrap(),
            version,
            tree: Tree::new(entries).unwrap(),
            spec: AppSpec::default(),
            chunks,
            live,
            live_fit: AtomicBool::new(true),
            chunks_left: AtomicUsize::new(usize::MAX),
            opened: AtomicUsize::new(0),
            earlier: Vec::new(),
        }
    }

    /// Where the live file stands.
    pub fn place(&self, name: &str) -> std::path::PathBuf {
        self.live.path().join(name)
    }
}

impl Site for FakeSite {
    fn app(&self) -> &AppName {
        &self.app
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn tree(&self) -> &Tree {
        &self.tree
    }
    fn spec(&self) -> &AppSpec {
        &self.spec
    }
    fn open(&self, path: &RelPath) -> Option<File> {
        if !self.live_fit.load(SeqCst) {
            return None;
        }
        self.opened.fetch_add(1, SeqCst);
        File::open(self.live.path().join(path.to_path())).ok()
    }
    fn earlier(&self) -> Vec<Arc<dyn Site>> {
        self.earlier.iter().map(|site| site.clone() as _).collect()
    }
    fn chunk(&self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let left = |n: usize| n.checked_sub(1);
        self.chunks_left
            .fetch_update(SeqCst, SeqCst, left)
            .map_err(|_| io::Error::other("the disk failed"))?;
        self.chunks.get(&chunk.digest).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Routes as the test says.
pub struct FakeSites(Mutex<Box<Choice>>, Mutex<Secures>);

/// How host names are served over TLS; by itself none is.
type Secures = Box<dyn Fn(Option<&str>) -> Option<Secured> + Send>;

type Choice = dyn Fn(Option<&str>) -> Route + Send;

impl FakeSites {
    pub fn new(choice: impl Fn(Option<&str>) -> Route + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Box::new(choice)), Mutex::new(Box::new(|_| None))))
    }

    pub fn local(site: Arc<FakeSite>) -> Arc<Self> {
        Self::new(move |_| Route::Local(site.clone()))
    }

    pub fn secure(&self, secures: impl Fn(Option<&str>) -> Option<Secured> + Send + 'static) {
        *self.1.lock().unwrap() = Box::new(secures);
    }

    pub fn change(&self, choice: impl Fn(Option<&str>) -> Route + Send + 'static) {
        *self.0.lock().unwrap() = Box::new(choice);
    }
}

impl Sites for FakeSites {
    fn route(&self, target: Target<'_>) -> Route {
        (self.0.lock().unwrap())(target.host)
    }

    fn secured(&self, host: Option<&str>) -> Option<Secured> {
        (self.1.lock().unwrap())(host)
    }
}

pub fn member(n: u8) -> MemberId {
    SecretKey::from_seed([n; 32]).member()
}

/// A program that listens there.
struct At(SocketAddr);

impl Process for At {
    fn address(&self) -> SocketAddr {
        self.0
    }
    fn load(&self) -> usize {
        1
    }
}

/// A program of this member, which is the one of number 200.
pub fn here(address: SocketAddr) -> (Candidate, Box<dyn Process>) {
    (Candidate { id: member(200), capacity: 1 }, Box::new(At(address)))
}

/// Others that are all alike.
pub fn candidates(others: &[MemberId]) -> Arc<[Candidate]> {
    others.iter().map(|id| Candidate { id: *id, capacity: 1 }).collect()
}

pub fn remote(others: &[MemberId]) -> Route {
    Route::Remote { of: 0, others: candidates(others) }
}

pub fn backends(address: Option<SocketAddr>, others: &[MemberId]) -> Backends {
    Backends {
        of: 0,
        here: address.map(here),
        others: candidates(others),
        affinity: Affinity::Unknown,
        path: None,
        within: Duration::from_secs(20),
        body_max: None,
        prefer: Default::default(),
        tags: Arc::default(),
    }
}

/// What a member does with a stream.
pub enum Peer {
    /// Can't be reached.
    Away,
    /// Ends the stream at once.
    HangsUp,
    /// Takes the request and never says a word.
    Silent,
    /// Reads a request and sends these bytes.
    Says(Vec<u8>),
    /// Runs the gateway.
    Serves(Arc<FakeSites>),
}

/// Other members, by id.
#[derive(Default)]
pub struct FakeForward {
    pub peers: BTreeMap<MemberId, Peer>,
    /// Who was asked, in order.
    pub asked: Mutex<Vec<MemberId>>,
    /// The request heads that [`Peer::Says`] has read.
    pub heads: Arc<Mutex<Vec<String>>>,
    /// What the peers count.
    pub stats: Arc<Stats>,
}

impl Forward for FakeForward {
    type Stream = DuplexStream;

    async fn connect(&self, member: MemberId) -> io::Result<DuplexStream> {
        self.asked.lock().unwrap().push(member);
        let (near, mut far) = tokio::io::duplex(4 << 10);
        match self.peers.get(&member) {
            None | Some(Peer::Away) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Peer::HangsUp) => {}
            Some(Peer::Silent) => {
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(far);
                });
            }
            Some(Peer::Says(bytes)) => {
                let (bytes, heads) = (bytes.clone(), self.heads.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(far.read_u8().await.unwrap());
                    }
                    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                    // The gateway may have seen enough before all is written.
                    let _ = far.write_all(&bytes).await;
                });
            }
            Some(Peer::Serves(sites)) => {
                let (sites, stats) = (sites.clone(), self.stats.clone());
                tokio::spawn(serve_forwarded(far, sites, stats));
            }
        }
        Ok(near)
    }
}

impl Tunnels for FakeForward {
    type Stream = DuplexStream;

    async fn open(&self, member: MemberId) -> io::Result<DuplexStream> {
        self.connect(member).await
    }
}

impl Cut for DuplexStream {
    fn cut(&mut self) {
        // Whoever holds the other end has an end before its time.
        *self = tokio::io::duplex(1).0;
    }
}

/// A gateway that runs.
pub struct Server {
    pub address: SocketAddr,
    /// Where TLS is spoken.
    pub tls: SocketAddr,
    pub stats: Arc<Stats>,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<()>,
}

impl Server {
    pub async fn start(sites: Arc<FakeSites>) -> Self {
        Self::with(sites, FakeForward::default().into(), Limits::default()).await
    }

    pub async fn with(sites: Arc<FakeSites>, forward: Arc<FakeForward>, limits: Limits) -> Self {
        Self::behind(Front::default(), sites, forward, limits).await
    }

    /// One with something in front of it.
    pub async fn behind(
        front: Front,
        sites: Arc<dyn Sites>,
        forward: Arc<FakeForward>,
        limits: Limits,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let by_tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = by_tls.local_addr().unwrap();
        let open = CancellationToken::new();
        open.cancel();
        let doors = Doors { plain: Some(listener), tls: Some((by_tls, open)) };
        let (stats, shutdown) = (Arc::new(Stats::default()), CancellationToken::new());
        let own = Own { front, ..Own::default() };
        let (counts, stop) = (stats.clone(), shutdown.clone());
        let served = serve_as(own, limits, doors, sites, forward, counts, stop);
        Self { address, tls, stats, shutdown, ended: tokio::spawn(served) }
    }

    pub async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Reply {
        let mut client = self.connect().await;
        client.send(request).await;
        client.reply(request.starts_with("HEAD")).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    }

    /// Waits until the counters are as `wanted`; fails after ten seconds.
    pub async fn until(&self, wanted: impl Fn(crate::gateway::Snapshot) -> bool) {
        for _ in 0..2_000 {
            if wanted(self.stats.snapshot()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", self.stats.snapshot());
    }
}

/// A client that reads what it is sent and nothing more.
pub struct Client<S> {
    pub stream: S,
    buffer: BytesMut,
    /// Whether the stream ended by a reset, as [`Client::rest`] saw it.
    pub reset: bool,
}

/// One response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), reset: false }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next head: status and lines, names in lower case.
    pub async fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the connection ended in a head: {:?}", self.buffer);
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
        self.buffer.advance(end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap();
        assert!(status.starts_with("HTTP/1.1 "), "{status}");
        let mut headers = BTreeMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").expect(line);
            let twice = headers.insert(name.to_ascii_lowercase(), value.to_owned());
            assert!(twice.is_none(), "{name} twice in {head}");
        }
        Reply { status: status[9..12].parse().unwrap(), headers, body: Vec::new() }
    }

    /// The next response whole.
    pub async fn reply(&mut self, head_only: bool) -> Reply {
        let mut reply = self.head().await;
        if !head_only && reply.status != 304 {
            reply.body = self.body(&reply).await;
        }
        reply
    }

    /// The body behind `head`.
    pub async fn body(&mut self, head: &Reply) -> Vec<u8> {
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        while self.buffer.len() < length {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "{} of {length} bytes", self.buffer.len());
        }
        self.buffer.split_to(length).to_vec()
    }

    /// Everything up to the end of the stream, however it ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    self.reset = true;
                    break;
                }
            }
        }
        self.buffer.split().to_vec()
    }
}
