//! How much room a connection takes while nothing is asked on it. A task is as large as the
//! largest of its ways: one call in the wrong place, and each of ten thousand that wait has
//! room for it.

use std::{mem::size_of_val, net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::fake::{FakeForward, FakeSite, FakeSites};
use crate::{
    base::AppName,
    gateway::{
        Lead, Leads, balance,
        connection::{Came, Limits, Own, Shared},
        http2, tcp,
    },
};

async fn accepted() -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    listener.accept().await.unwrap()
}

fn shared() -> Arc<Shared<FakeForward>> {
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, &[])));
    let (own, forward) = (Own::default(), Arc::default());
    let shutdown = CancellationToken::new();
    Arc::new(Shared::new(own, Limits::default(), sites, forward, Arc::default(), shutdown))
}

fn came(from: SocketAddr) -> Came {
    Came { address: from.ip(), certificate: None, is_http2: false }
}

#[tokio::test]
async fn a_connection_that_waits_takes_little_room() {
    let (stream, from) = accepted().await;
    let taken = size_of_val(&shared().connection(stream, from, false));
    assert!(taken <= 1_024, "{taken} bytes");
}

/// The session itself apart, which is the library's.
#[tokio::test]
async fn so_does_one_by_tls() {
    let (stream, from) = accepted().await;
    let taken = size_of_val(&shared().secure(stream, came(from)));
    assert!(taken <= 1_024, "{taken} bytes");
}

/// What keeps the state of the connection is the library's, and most of this.
#[tokio::test]
async fn so_does_one_of_http2() {
    let (stream, from) = accepted().await;
    let taken = size_of_val(&http2::serve(&shared(), Box::new(stream), came(from)));
    assert!(taken <= 3_584, "{taken} bytes");
}

struct Nowhere;

impl Leads for Nowhere {
    fn lead(&self, _: &AppName, _: u16, _: bool) -> Option<Lead> {
        None
    }
}

#[tokio::test]
async fn so_does_one_that_is_passed_on_as_bytes() {
    let (stream, from) = accepted().await;
    let app = AppName::parse("web").unwrap();
    let port = tcp::Port { app, port: 5432, accept_proxy: Vec::new() };
    let shared = tcp::Shared {
        leads: Arc::new(Nowhere),
        tunnels: Arc::new(FakeForward::default()),
        stats: Arc::default(),
        balance: balance::Shared::new(),
    };
    let taken = size_of_val(&shared.connection(&port, stream, from));
    assert!(taken <= 1_536, "{taken} bytes");
}
