//! Connections between real sockets on loopback and over pipes in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::AtomicUsize},
    time::Instant,
};

use tokio::{io::DuplexStream, net::TcpListener, task::JoinHandle};

use super::*;
use crate::gateway::tests::fake::{candidates, here, member, noise};

const IDLE: Duration = Duration::from_secs(60);

/// What one member knows.
#[derive(Clone)]
struct Fake {
    here: Option<SocketAddr>,
    others: Vec<MemberId>,
    proxy: Option<Version>,
    idle: Duration,
}

impl Leads for Fake {
    fn lead(&self, app: &AppName, port: u16, by_member: bool) -> Option<Lead> {
        (app.as_str() == "web" && port == 5432).then(|| Lead {
            here: self.here.map(here),
            others: candidates(if by_member { &[] } else { &self.others }),
            of: 0,
            proxy: self.proxy,
            idle: self.idle,
        })
    }
}

/// Another member.
enum Other {
    Away,
    /// Says so, and ends.
    Says(&'static [u8]),
    Is(Fake),
}

#[derive(Default)]
struct Others {
    members: BTreeMap<MemberId, Other>,
    asked: AtomicUsize,
    stats: Arc<Stats>,
    /// Of the pipe to each member.
    room: usize,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Tunnels for Others {
    type Stream = DuplexStream;

    async fn open(&self, member: MemberId) -> io::Result<DuplexStream> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (near, far) = tokio::io::duplex(self.room.max(64));
        match self.members.get(&member) {
            None | Some(Other::Away) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Other::Says(words)) => {
                let (mut far, words) = (far, *words);
                tokio::spawn(async move {
                    let mut head = [0; 16];
                    let _read = far.read(&mut head).await;
                    let _said = far.write_all(words).await;
                });
            }
            Some(Other::Is(fake)) => {
                let (leads, stats) = (Arc::new(fake.clone()), self.stats.clone());
                let task = tokio::spawn(serve_tunnel(far, leads, stats));
                self.tasks.lock().unwrap().push(task);
            }
        }
        Ok(near)
    }
}

/// A member with a listener, and what it counts.
struct Front {
    address: SocketAddr,
    stats: Arc<Stats>,
    others: Arc<Others>,
}

impl Front {
    async fn new(fake: Fake, others: Others, accept_proxy: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stats, others) = (Arc::<Stats>::default(), Arc::new(others));
        let shared = Arc::new(Shared {
            leads: Arc::new(fake),
            tunnels: others.clone(),
            stats: stats.clone(),
            balance: balance::Shared::new(),
        });
        let accept_proxy = accept_proxy.iter().map(|n| n.parse().unwrap()).collect();
        let port = Arc::new(Port { app: AppName::parse("web").unwrap(), port: 5432, accept_proxy });
        tokio::spawn(async move {
            loop {
                let (stream, from) = listener.accept().await.unwrap();
                let (shared, port) = (shared.clone(), port.clone());
                tokio::spawn(async move { shared.connection(&port, stream, from).await });
            }
        });
        Self { address, stats, others }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn over(&self) {
        for _ in 0..2_000 {
            if self.stats.snapshot().tcp_active == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", self.stats.snapshot());
    }
}

fn fake(here: Option<SocketAddr>, others: &[u8]) -> Fake {
    let others = others.iter().copied().map(member).collect();
    Fake { here, others, proxy: None, idle: IDLE }
}

/// A program that `serves` each connection.
async fn program<F>(serves: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serves(stream));
        }
    });
    address
}

/// Says back what it is told, and ends when that ends.
async fn echo() -> SocketAddr {
    program(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _gone = tokio::io::copy(&mut from, &mut to).await;
        let _gone = to.shutdown().await;
    })
    .await
}

/// A port where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn says(mut stream: TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    back
}

/// One front with its process here, and one with it on another member.
async fn both_ways(address: SocketAddr) -> [Front; 2] {
    let members = BTreeMap::from([(member(1), Other::Is(fake(Some(address), &[])))]);
    let others = Others { members, room: 4 << 10, ..Others::default() };
    [
        Front::new(fake(Some(address), &[]), Others::default(), &[]).await,
        Front::new(fake(None, &[1]), others, &[]).await,
    ]
}

#[tokio::test]
async fn each_side_ends_by_itself() {
    for front in both_ways(echo().await).await {
        assert_eq!(says(front.connect().await, b"hello").await, b"hello");
        front.over().await;
        let now = front.stats.snapshot();
        assert_eq!((now.tcp_connections, now.tcp_failures, now.errors), (1, 0, 0));
        assert_eq!((now.tcp_bytes_received, now.tcp_bytes_sent), (5, 5));
    }
    // The program ends first, and still hears.
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let program = program(move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(b"welcome").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            told.send(rest).unwrap();
        }
    })
    .await;
    for front in both_ways(program).await {
        let mut client = front.connect().await;
        let mut words = Vec::new();
        client.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"welcome");
        client.write_all(b"and so on").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(heard.recv().await.unwrap(), b"and so on");
        front.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_both_ways_at_once_and_arrives_as_it_was() {
    const SIZE: usize = 12 << 20;
    // The other way something else, so that nothing can be mixed up.
    let address = program(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        let back = noise(SIZE, 2);
        let writing = async {
            to.write_all(&back).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let reading = async { from.read_to_end(&mut came).await.unwrap() };
        tokio::join!(writing, reading);
        assert!(came == noise(SIZE, 1), "{} bytes", came.len());
    })
    .await;
    for front in both_ways(address).await {
        let mut client = front.connect().await;
        let (mut from, mut to) = client.split();
        let there = noise(SIZE, 1);
        let writing = async {
            // Pieces small and large, so that it is both copied and spliced.
            let mut rest = &there[..];
            for n in 0.. {
                let piece = rest.len().min(if n % 64 < 32 { 300 } else { 400_000 });
                if piece == 0 {
                    break;
                }
                to.write_all(&rest[..piece]).await.unwrap();
                rest = &rest[piece..];
            }
            to.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let reading = async { from.read_to_end(&mut came).await.unwrap() };
        tokio::join!(writing, reading);
        assert!(came == noise(SIZE, 2), "{} bytes", came.len());
        front.over().await;
        let now = front.stats.snapshot();
        let whole = SIZE as u64;
        assert_eq!((now.tcp_bytes_received, now.tcp_bytes_sent, now.errors), (whole, whole, 0));
    }
}

#[tokio::test]
async fn who_does_not_read_is_not_read_for() {
    let address = program(|stream| async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(stream);
    })
    .await;
    for front in both_ways(address).await {
        let mut client = front.connect().await;
        let piece = noise(64 << 10, 3);
        let mut sent = 0;
        // The kernel's buffers of the sockets, and what is held between them.
        while let Ok(Ok(taken)) =
            tokio::time::timeout(Duration::from_millis(300), client.write(&piece)).await
        {
            sent += taken;
            assert!(sent < 64 << 20, "it is read without end");
        }
        assert!(sent > 0);
        // It is not in the way of others.
        assert_eq!(front.stats.snapshot().tcp_active, 1);
    }
}

#[tokio::test]
async fn another_is_tried_where_nobody_is_reached() {
    let (good, gone) = (echo().await, nobody().await);
    let table = |second: Other| {
        let members = BTreeMap::from([(member(1), Other::Away), (member(2), second)]);
        Others { members, room: 4 << 10, ..Others::default() }
    };
    // The process here is gone, the first member as well.
    for _ in 0..4 {
        let others = table(Other::Is(fake(Some(good), &[])));
        let front = Front::new(fake(Some(gone), &[1, 2]), others, &[]).await;
        assert_eq!(says(front.connect().await, b"hello").await, b"hello");
        front.over().await;
        assert!(front.stats.snapshot().forwarded == 1);
    }
    // Members that have nobody, or are of another release, or make no sense, or hang up.
    for second in [
        Other::Is(fake(None, &[1])),
        Other::Is(fake(Some(gone), &[1])),
        Other::Says(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n"),
        Other::Says(b"SSH-2.0-x\r\n"),
        Other::Says(b""),
    ] {
        let front = Front::new(fake(None, &[1, 2]), table(second), &[]).await;
        let mut client = front.connect().await;
        let cut = client.read_u8().await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
        front.over().await;
        assert_eq!(front.others.asked.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(front.stats.snapshot().tcp_failures, 1);
    }
    // Four at most.
    let all: Vec<u8> = (1..=9).collect();
    let front = Front::new(fake(None, &all), Others::default(), &[]).await;
    assert!(front.connect().await.read_u8().await.is_err());
    front.over().await;
    assert_eq!(front.others.asked.load(std::sync::atomic::Ordering::SeqCst), TRIES_MAX);
}

#[tokio::test]
async fn who_breaks_off_is_not_taken_for_one_who_ends() {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let address = program(move |mut stream| {
        let told = told.clone();
        async move {
            let mut rest = Vec::new();
            told.send(stream.read_to_end(&mut rest).await.map_err(|e| e.kind())).unwrap();
        }
    })
    .await;
    let front = &both_ways(address).await[0];
    let mut client = front.connect().await;
    client.write_all(b"the first half").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(heard.recv().await.unwrap(), Err(io::ErrorKind::ConnectionReset));
    front.over().await;
    assert_eq!(front.stats.snapshot().errors, 1);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let address = echo().await;
    // Far more than the pauses below: a busy machine stands still for half a second.
    let idle = Duration::from_millis(1_200);
    let quick = Fake { idle, ..fake(Some(address), &[]) };
    let members = BTreeMap::from([(member(1), Other::Is(fake(Some(address), &[])))]);
    let others = Others { members, room: 4 << 10, ..Others::default() };
    for front in [
        Front::new(quick.clone(), Others::default(), &[]).await,
        Front::new(Fake { here: None, others: vec![member(1)], ..quick }, others, &[]).await,
    ] {
        let mut client = front.connect().await;
        let began = Instant::now();
        // Each byte gives it time.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(450)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
        }
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(2_400) && took < Duration::from_secs(10), "{took:?}");
        front.over().await;
    }
}

#[tokio::test]
async fn a_program_is_told_who_connects() {
    for version in [Version::V1, Version::V2] {
        let address = echo().await;
        let there = Fake { proxy: Some(version), ..fake(Some(address), &[]) };
        let members = BTreeMap::from([(member(1), Other::Is(there.clone()))]);
        let others = Others { members, room: 4 << 10, ..Others::default() };
        for front in [
            Front::new(there, Others::default(), &[]).await,
            Front::new(fake(None, &[1]), others, &[]).await,
        ] {
            let client = front.connect().await;
            let parties = Parties::new(client.local_addr().unwrap(), front.address);
            let wanted = [&parties.header(version)[..], b"hi"].concat();
            assert_eq!(says(client, b"hi").await, wanted);
        }
    }
}

#[tokio::test]
async fn a_header_is_taken_from_those_who_may_send_one() {
    let there = Fake { proxy: Some(Version::V1), ..fake(Some(echo().await), &[]) };
    let parties = Parties::new("192.0.2.7:7".parse().unwrap(), "192.0.2.8:8".parse().unwrap());
    let trusting = Front::new(there.clone(), Others::default(), &["127.0.0.0/8"]).await;
    for version in [Version::V1, Version::V2] {
        let sent = [&parties.header(version)[..], b"hi"].concat();
        let back = says(trusting.connect().await, &sent).await;
        assert_eq!(back, [&parties.header(Version::V1)[..], b"hi"].concat());
    }
    // Who has to send one and does not is not heard.
    let mut client = trusting.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    trusting.over().await;
    assert_eq!(trusting.stats.snapshot().tcp_failures, 1);

    // From anybody else it is what the program is told, and nothing more.
    let wary = Front::new(there, Others::default(), &["10.0.0.0/8"]).await;
    let client = wary.connect().await;
    let real = Parties::new(client.local_addr().unwrap(), wary.address);
    let sent = parties.header(Version::V1);
    assert_eq!(says(client, &sent).await, [real.header(Version::V1), sent].concat());
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_is_on_its_way_although_nothing_follows() {
    let (mut client, mut near) = tokio::io::duplex(64);
    let (far, mut program) = tokio::io::duplex(64);
    // It keeps what is written until it is told otherwise, as one that encrypts it may.
    let mut far = tokio::io::BufStream::new(far);
    let relayed = relay::streams(&mut near, &mut far, Early::default(), IDLE);
    let talk = async move {
        client.write_all(b"who is there").await.unwrap();
        let mut heard = [0; 12];
        let all = timeout(IDLE / 2, program.read_exact(&mut heard)).await;
        all.expect("it was kept").unwrap();
        assert_eq!(&heard, b"who is there");
    };
    let (relayed, ()) = tokio::join!(relayed, talk);
    assert_eq!((relayed.up, relayed.down), (12, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_not_waited_for_with_one_who_takes_nothing() {
    let (mut client, mut near) = tokio::io::duplex(64);
    let (mut far, mut program) = tokio::io::duplex(64);
    let years = Duration::from_secs(10 * 365 * 86_400);
    let relayed = relay::streams(&mut near, &mut far, Early::default(), years);
    let talk = async move {
        // More than there is room for, either way, and nobody reads.
        let second = Duration::from_secs(1);
        assert!(timeout(second, client.write_all(&[1; 300])).await.is_err());
        assert!(timeout(second, program.write_all(&[2; 300])).await.is_err());
        drop(client);
        program
    };
    let ended = async { timeout(IDLE, relayed).await.expect("it is waited for") };
    let (relayed, _program) = tokio::join!(ended, talk);
    assert!(matches!(relayed.ended, relay::Ended::Idle), "{:?}", relayed.ended);
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let there = fake(Some(echo().await), &[]);
    let front = Front::new(there, Others::default(), &["127.0.0.1"]).await;
    let mut client = front.connect().await;
    let began = tokio::time::Instant::now();
    client.write_all(b"PROXY TCP4 1.1").await.unwrap();
    assert!(client.read_u8().await.is_err());
    let took = began.elapsed();
    assert!(took >= HEADER && took < HEADER * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_does_not_begin_is_cut() {
    let leads = Arc::new(fake(None, &[]));
    for words in [&b""[..], b"CONNECT web:5432 HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut near, far) = tokio::io::duplex(4 << 10);
        near.write_all(words).await.unwrap();
        serve_tunnel(far, leads.clone(), Arc::default()).await;
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"");
    }
    // A port that the application does not have.
    let (mut near, far) = tokio::io::duplex(4 << 10);
    let parties = Parties::new("1.1.1.1:1".parse().unwrap(), "1.1.1.2:2".parse().unwrap());
    let asked = Asked { app: AppName::parse("web").unwrap(), port: 1, parties };
    near.write_all(&asked.head()).await.unwrap();
    serve_tunnel(far, leads, Arc::default()).await;
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, tunnel::NOBODY);
}

/// What splicing saves, on request:
/// `cargo test --release --lib -- --ignored --nocapture how_it_scales_spliced`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn how_it_scales_spliced_and_copied() {
    use rustix::time::{ClockId, clock_gettime};

    const SIZE: u64 = 4 << 30;
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }
    let cpu = || {
        let now = clock_gettime(ClockId::ProcessCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    for splices in [true, false, true, false] {
        let ((mut client, mut near), (mut far, mut program)) = (pair().await, pair().await);
        let before = (cpu(), Instant::now());
        let sending = tokio::spawn(async move {
            let piece = vec![7; 1 << 20];
            for _ in 0..SIZE / piece.len() as u64 {
                client.write_all(&piece).await.unwrap();
            }
            client.shutdown().await.unwrap();
            client.read_u8().await.unwrap_err();
        });
        let reading = tokio::spawn(async move {
            let mut piece = vec![0; 1 << 20];
            while program.read(&mut piece).await.unwrap() > 0 {}
        });
        let relayed = if splices {
            relay::sockets(&mut near, &mut far, IDLE).await
        } else {
            relay::streams(&mut near, &mut far, Early::default(), IDLE).await
        };
        assert_eq!(relayed.up, SIZE);
        drop((near, far));
        sending.await.unwrap();
        reading.await.unwrap();
        let (cpu, took) = (cpu() - before.0, before.1.elapsed().as_secs_f64());
        let how = if splices { "spliced" } else { "copied" };
        println!("4 GiB {how}: {took:.2} s, {cpu:.2} s of processor, both ends included");
    }
}
