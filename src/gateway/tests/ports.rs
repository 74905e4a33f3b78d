//! Ports of applications on loopback: opened, changed, limited, in somebody's way, closed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::fake::{Client, FakeForward, Peer, candidates, here, member, remote};
use crate::{
    base::AppName,
    gateway::{
        Front, Lead, Leads, Route, Sites, Stats, Target,
        ports::{Kind, Means, Port, PortEvent, Ports, Wanted, What},
    },
};

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

/// An address that was free a moment ago.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Leads all connections to one program, and all requests to one member.
struct Table {
    program: SocketAddr,
    /// The applications that were asked for.
    asked: Mutex<Vec<Option<AppName>>>,
}

impl Leads for Table {
    fn lead(&self, _: &AppName, _: u16, _: bool) -> Option<Lead> {
        let (here, others) = (Some(here(self.program)), candidates(&[]));
        Some(Lead { here, others, of: 0, proxy: None, idle: Duration::from_secs(60) })
    }
}

impl Sites for Table {
    fn route(&self, target: Target<'_>) -> Route {
        self.asked.lock().unwrap().push(target.app.cloned());
        remote(&[member(1)])
    }
}

struct Bench {
    ports: Ports,
    events: mpsc::UnboundedReceiver<PortEvent>,
    network: Arc<FakeForward>,
    table: Arc<Table>,
    shutdown: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let program = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _gone = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let says = Peer::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec());
        let peers = BTreeMap::from([(member(1), says)]);
        let network = Arc::new(FakeForward { peers, ..FakeForward::default() });
        let table = Arc::new(Table { program, asked: Mutex::default() });
        let means = Means {
            front: Front::default(),
            sites: table.clone() as _,
            leads: table.clone() as _,
            network: network.clone(),
            stats: Arc::<Stats>::default(),
        };
        let (told, events) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let tell = move |event| drop(told.send(event));
        let ports = Ports::new(means, tell, shutdown.clone());
        Self { ports, events, network, table, shutdown }
    }

    fn want(&self, address: SocketAddr, kind: Kind, connections: Option<usize>) {
        let accept_proxy = vec!["127.0.0.0/8".parse().unwrap()];
        let accept_proxy = if kind == Kind::Http { accept_proxy } else { Vec::new() };
        let port = Port { app: app(), kind, accept_proxy, connections };
        self.ports.want(Wanted::from([(address, port)]));
    }

    async fn next(&mut self) -> What {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap();
        assert_eq!(event.app, app());
        event.what
    }
}

async fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").await.unwrap();
    let answer = timeout(Duration::from_millis(300), stream.read_u8()).await;
    matches!(answer, Ok(Ok(b'x')))
}

#[tokio::test]
async fn a_port_that_is_in_use_is_told_of_once_and_taken_when_it_is_free() {
    let mut bench = Bench::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    bench.want(address, Kind::Tcp, None);
    let What::Failed(why) = bench.next().await else { panic!("it was opened") };
    assert!(why.contains("another program has the port"), "{why}");
    assert_eq!(bench.ports.complaints().len(), 1);
    drop(taken);
    assert_eq!(bench.next().await, What::Open);
    assert!(bench.ports.complaints().is_empty());
    assert!(answers(&mut TcpStream::connect(address).await.unwrap()).await);

    bench.ports.want(Wanted::new());
    assert_eq!(bench.next().await, What::Closed);
    // A trouble with what nobody wants is none.
    let no_address: SocketAddr = "192.0.2.1:9".parse().unwrap();
    bench.want(no_address, Kind::Tcp, None);
    let What::Failed(why) = bench.next().await else { panic!("it was opened") };
    assert!(why.contains("no address of this server"), "{why}");
    bench.ports.want(Wanted::new());
    for _ in 0..500 {
        if bench.ports.complaints().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", bench.ports.complaints());
}

#[tokio::test]
async fn what_does_not_fit_waits_and_what_is_open_goes_on() {
    let mut bench = Bench::new().await;
    let address = free().await;
    bench.want(address, Kind::Tcp, Some(1));
    assert_eq!(bench.next().await, What::Open);
    let mut first = TcpStream::connect(address).await.unwrap();
    assert!(answers(&mut first).await);
    // In the kernel's queue.
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(!answers(&mut second).await);
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(!answers(&mut third).await);
    drop(first);
    assert_eq!(second.read_u8().await.unwrap(), b'x');
    // Wanted in another way it keeps its queue.
    bench.want(address, Kind::Tcp, Some(2));
    assert_eq!(third.read_u8().await.unwrap(), b'x');
    // Closed, what is open goes on.
    bench.ports.want(Wanted::new());
    assert_eq!(bench.next().await, What::Closed);
    assert!(answers(&mut second).await && answers(&mut third).await);
    for _ in 0..500 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it takes connections");
}

#[tokio::test]
async fn requests_of_an_http_port_are_its_applications() {
    let mut bench = Bench::new().await;
    let address = free().await;
    bench.want(address, Kind::Http, None);
    assert_eq!(bench.next().await, What::Open);
    let mut client = Client::new(TcpStream::connect(address).await.unwrap());
    client.send("PROXY TCP4 192.0.2.7 192.0.2.8 7 80\r\n").await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nAlthing-Application: other\r\n\r\n").await;
    assert_eq!(client.reply(false).await.text(), "hi");
    assert_eq!(*bench.table.asked.lock().unwrap(), [Some(app())]);
    let head = bench.network.heads.lock().unwrap()[0].clone();
    assert_eq!(head.matches("Althing-Application").count(), 1, "{head}");
    assert!(head.contains("Althing-Application: web\r\n"), "{head}");
    assert!(head.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{head}");

    // Whoever has to say for whom it connects and does not is not heard.
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(client.read_u8().await.is_err());
    bench.shutdown.cancel();
    for _ in 0..500 {
        if bench.network.asked.lock().unwrap().len() == 1
            && TcpStream::connect(address).await.is_err()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it takes connections after the end");
}
