//! Behind proxies: who is believed, what is passed on, and that nobody is led in a circle.

use std::sync::{Arc, Mutex};

use super::{
    fake::{Client, FakeForward, FakeSite, Peer, Server, member},
    proxying::{program, sites, tells},
};
use crate::gateway::{Front, Networks, Route, Sites, Target, connection::Limits};

/// One that believes who connects from `network`.
pub(super) fn trusting(network: &str) -> Front {
    Front { trusted: networks(network), ..Front::default() }
}

fn networks(network: &str) -> Networks {
    vec![network.parse().unwrap()].into()
}

async fn behind(front: Front, sites: Arc<dyn Sites>) -> Server {
    Server::behind(front, sites, FakeForward::default().into(), Limits::default()).await
}

const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: www.example.org\r\nX-Real-IP: 6.6.6.6\r\n";

fn claiming(lines: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: inside:8080\r\n{lines}\r\n")
}

#[tokio::test]
async fn a_proxy_is_believed_and_its_lists_are_passed_on() {
    let address = program(tells).await;
    let server = behind(trusting("127.0.0.0/8"), sites(Some(address), &[])).await;
    let told = server.ask(&claiming(CLAIMS)).await.text();
    for line in [
        "Host: inside:8080",
        "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.example.org",
        "Forwarded: for=6.6.6.6, for=1.2.3.4;host=\"www.example.org\";proto=https, \
         for=127.0.0.1;host=\"inside:8080\";proto=http",
    ] {
        assert!(told.contains(&format!("\r\n{line}\r\n")), "{line} is not in {told}");
    }
    assert!(!told.contains("X-Real-IP"), "{told}");
    assert_eq!(told.matches("X-Forwarded-").count(), 3, "{told}");
}

#[tokio::test]
async fn anybody_else_is_not() {
    let address = program(tells).await;
    let plain = Server::start(sites(Some(address), &[])).await.ask(&claiming(CLAIMS)).await;
    let other = behind(trusting("10.0.0.0/8"), sites(Some(address), &[])).await;
    for told in [plain.text(), other.ask(&claiming(CLAIMS)).await.text()] {
        assert!(told.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{told}");
        assert!(told.contains("\r\nX-Forwarded-Proto: http\r\n"), "{told}");
        assert!(told.contains("\r\nX-Forwarded-Host: inside:8080\r\n"), "{told}");
        assert!(!told.contains("6.6.6.6") && !told.contains("1.2.3.4"), "{told}");
    }
}

/// Another member trusts whoever passed the request on, and nothing is added twice.
#[tokio::test]
async fn the_first_member_decides_for_the_next() {
    let inner = sites(Some(program(tells).await), &[]);
    let forward =
        FakeForward { peers: [(member(1), Peer::Serves(inner))].into(), ..FakeForward::default() };
    let outer = sites(None, &[member(1)]);
    let front = trusting("127.0.0.1");
    let server = Server::behind(front, outer, forward.into(), Limits::default()).await;
    let told = server.ask(&claiming(CLAIMS)).await.text();
    assert!(told.contains("\r\nX-Forwarded-For: 6.6.6.6, 1.2.3.4, 127.0.0.1\r\n"), "{told}");
    assert_eq!(told.matches("127.0.0.1").count(), 2, "{told}");
}

/// Leads to TLS who came without, and says what each was.
struct ByTls(Arc<FakeSite>, Mutex<Vec<bool>>);

impl Sites for ByTls {
    fn route(&self, target: Target<'_>) -> Route {
        self.1.lock().unwrap().push(target.secure);
        if target.secure { Route::Local(self.0.clone()) } else { Route::ByTls(None) }
    }
}

#[tokio::test]
async fn nobody_is_led_in_a_circle_behind_a_proxy_that_speaks_tls() {
    let sites = || Arc::new(ByTls(Arc::new(FakeSite::new(1, &[("a", b"x")])), Mutex::default()));
    let get = |proto: &str| format!("GET /a HTTP/1.1\r\nHost: h\r\n{proto}\r\n");
    let seen = sites();
    let server = behind(trusting("127.0.0.1/32"), seen.clone()).await;
    for (lines, status) in [
        ("X-Forwarded-Proto: https\r\n", 200),
        ("Forwarded: for=1.2.3.4;proto=https\r\n", 200),
        ("X-Forwarded-Proto: http\r\n", 308),
        ("X-Forwarded-Proto: \r\n", 308),
        ("X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4;proto=https\r\n", 308),
        ("", 308),
    ] {
        assert_eq!(server.ask(&get(lines)).await.status, status, "{lines}");
    }
    assert_eq!(*seen.1.lock().unwrap(), [true, true, false, false, false, false]);
    // Who is not trusted can't talk its way around.
    let server = behind(trusting("10.0.0.0/8"), sites()).await;
    assert_eq!(server.ask(&get("X-Forwarded-Proto: https\r\n")).await.status, 308);
}

/// The header says who connects; what is trusted is judged by that.
#[tokio::test]
async fn the_main_doors_take_headers_of_the_proxy_protocol() {
    let sites = sites(Some(program(tells).await), &[]);
    let front = Front {
        trusted: networks("10.0.0.0/8"),
        accept_proxy: networks("127.0.0.0/8"),
        ..Front::default()
    };
    let server = behind(front, sites).await;
    let ask = async |from: &str| {
        let mut client: Client<_> = server.connect().await;
        client.send(&format!("PROXY TCP4 {from} 127.0.0.1 4000 80\r\n{}", claiming(CLAIMS))).await;
        client.reply(false).await.text()
    };
    let told = ask("9.8.7.6").await;
    assert!(told.contains("\r\nX-Forwarded-For: 9.8.7.6\r\n"), "{told}");
    let told = ask("10.1.1.1").await;
    assert!(told.contains("\r\nX-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1\r\n"), "{told}");
    // Who has to send one and does not is not served.
    let mut client = server.connect().await;
    client.send(&claiming("")).await;
    assert_eq!(client.rest().await, b"");
}
