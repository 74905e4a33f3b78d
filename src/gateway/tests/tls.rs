//! The handshake and what follows it, with certificates made here and real sockets.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::fake::{Client, FakeForward, FakeSite, FakeSites, Peer, Server, remote};
use crate::{
    base::{AppName, SecretKey, WallTime},
    gateway::{BadCertificate, Certificate, Route, Secured, connection::Limits},
};

fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

/// A certificate for these hosts that signs itself, and its PEM.
pub(super) fn made(hosts: &[&str]) -> (CertificateDer<'static>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let certificate = rcgen::CertificateParams::new(hosts).unwrap().self_signed(&key).unwrap();
    let der = certificate.der().clone();
    (der.clone(), pem("CERTIFICATE", &der) + &pem("PRIVATE KEY", &key.serialize_der()))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(super) fn secured(name: &str, pem: &str) -> Secured {
    let certificate = Certificate::from_pem(&app(name), pem).unwrap();
    Secured { certificate: Arc::new(certificate), hsts: Duration::ZERO }
}

/// A client that trusts `roots` and offers `protocols`.
pub(super) fn connector(
    roots: &[CertificateDer<'static>],
    protocols: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

type Greeted = std::io::Result<TlsStream<TcpStream>>;

pub(super) async fn greet(server: &Server, with: &TlsConnector, name: &str) -> Greeted {
    let stream = TcpStream::connect(server.tls).await.unwrap();
    with.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Two applications, each with a certificate of its own; `shop` is the default one.
async fn two() -> (Server, Arc<FakeSites>, [CertificateDer<'static>; 2]) {
    let site = Arc::new(FakeSite::new(1, &[("a", b"first")]));
    let sites = FakeSites::local(site);
    let ((shop_der, shop), (blog_der, blog)) = (made(&["shop.example"]), made(&["blog.example"]));
    let (shop, blog) = (secured("shop", &shop), secured("blog", &blog));
    sites.secure(move |host| match host {
        Some("blog.example") => Some(blog.clone()),
        Some("elsewhere.example") => None,
        _ => Some(shop.clone()),
    });
    (Server::start(sites.clone()).await, sites, [shop_der, blog_der])
}

#[tokio::test]
async fn the_name_chooses_the_certificate_in_both_versions() {
    let (server, _sites, [shop, blog]) = two().await;
    for version in [&TLS12, &TLS13] {
        let with = connector(&[shop.clone(), blog.clone()], &[b"http/1.1"], &[version]);
        for (name, der) in [("shop.example", &shop), ("blog.example", &blog)] {
            let stream = greet(&server, &with, name).await.unwrap();
            assert_eq!(&stream.get_ref().1.peer_certificates().unwrap()[0], der);
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let mut client = Client::new(stream);
            for _ in 0..3 {
                client.send(&get(name, "/a")).await;
                assert_eq!(client.reply(false).await.body, b"first");
            }
        }
        // A name that nobody claims is the default one's, which is not made out for it.
        let refused = greet(&server, &with, "other.example").await.unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains("NotValidForName"), "{refused}");
        // One whose application has none here.
        let refused = greet(&server, &with, "elsewhere.example").await.unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains("UnrecognisedName"), "{refused}");
        // And none at all, as by address.
        let refused = greet(&server, &with, "127.0.0.1").await.unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains("NotValidForName"), "{refused}");
    }
}

#[tokio::test]
async fn a_connection_serves_the_application_that_it_was_made_for() {
    let (server, sites, [shop, _]) = two().await;
    let with = connector(&[shop], &[b"http/1.1"], &[&TLS13]);
    let mut client = Client::new(greet(&server, &with, "shop.example").await.unwrap());
    client.send(&get("blog.example", "/a")).await;
    let reply = client.reply(false).await;
    assert_eq!((reply.status, reply.header("connection")), (421, None));
    client.send(&get("elsewhere.example", "/a")).await;
    assert_eq!(client.reply(false).await.status, 421);
    client.send(&get("shop.example", "/a")).await;
    assert_eq!(client.reply(false).await.body, b"first");
    // Where both have one certificate, one connection is enough for both.
    let (_, both) = made(&["shop.example", "blog.example"]);
    let (one, other) = (secured("shop", &both), secured("blog", &both));
    sites
        .secure(move |host| Some(if host == Some("blog.example") { &other } else { &one }.clone()));
    client.send(&get("blog.example", "/a")).await;
    assert_eq!(client.reply(false).await.status, 421, "made with the one before");
    let again = connector(&[CertificateDer::from(one_der(&both))], &[b"http/1.1"], &[&TLS13]);
    let mut client = Client::new(greet(&server, &again, "shop.example").await.unwrap());
    client.send(&get("blog.example", "/a")).await;
    assert_eq!(client.reply(false).await.body, b"first");
}

fn one_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn a_certificate_is_replaced_under_open_connections() {
    let (server, sites, [before, _]) = two().await;
    let old = connector(&[before], &[b"http/1.1"], &[&TLS13]);
    let mut open = Client::new(greet(&server, &old, "shop.example").await.unwrap());
    open.send(&get("shop.example", "/a")).await;
    assert_eq!(open.reply(false).await.body, b"first");

    let (der, next) = made(&["shop.example"]);
    let next = secured("shop", &next);
    sites.secure(move |_| Some(next.clone()));
    open.send(&get("shop.example", "/a")).await;
    assert_eq!(open.reply(false).await.body, b"first", "it goes on");
    // The ticket of the one before resumes nothing: the next handshake sees the new one.
    assert!(greet(&server, &old, "shop.example").await.is_err());
    let new = connector(&[der], &[b"http/1.1"], &[&TLS13]);
    let mut client = Client::new(greet(&server, &new, "shop.example").await.unwrap());
    client.send(&get("shop.example", "/a")).await;
    assert_eq!(client.reply(false).await.body, b"first");
}

#[tokio::test]
async fn a_client_that_comes_again_resumes() {
    let (server, _sites, [shop, _]) = two().await;
    for version in [&TLS12, &TLS13] {
        let with = connector(std::slice::from_ref(&shop), &[b"http/1.1"], &[version]);
        let kinds = [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed];
        for kind in kinds {
            let stream = greet(&server, &with, "shop.example").await.unwrap();
            let mut client = Client::new(stream);
            client.send(&get("shop.example", "/a")).await;
            assert_eq!(client.reply(false).await.body, b"first");
            assert_eq!(client.stream.get_ref().1.handshake_kind(), Some(kind));
        }
    }
}

#[tokio::test]
async fn what_is_no_tls_is_dropped_and_large_files_arrive() {
    let large = super::fake::noise(3_000_000, 4);
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, &[("f", &large)])));
    let (der, pem) = made(&["shop.example"]);
    let shop = secured("shop", &pem);
    sites.secure(move |_| Some(shop.clone()));
    let server = Server::start(sites).await;
    let mut stream = TcpStream::connect(server.tls).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    let _reset = stream.read_to_end(&mut told).await;
    assert!(!told.starts_with(b"HTTP"), "{told:?}");

    let with = connector(&[der], &[], &[&TLS13]);
    let mut client = Client::new(greet(&server, &with, "shop.example").await.unwrap());
    client.send(&get("shop.example", "/f")).await;
    assert!(client.reply(false).await.body == large);
    client.send("GET /f HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    let head = client.head().await;
    assert!(client.body(&head).await == large);
    assert_eq!(client.rest().await, b"", "it ends as TLS ends");
}

#[tokio::test]
async fn who_does_not_greet_in_time_is_let_go() {
    let (_, pem) = made(&["shop.example"]);
    let sites = FakeSites::local(Arc::new(FakeSite::new(1, &[("a", b"first")])));
    let shop = secured("shop", &pem);
    sites.secure(move |_| Some(shop.clone()));
    let head = Duration::from_millis(100);
    let limits = Limits { head, ..Limits::default() };
    let server = Server::with(sites, FakeForward::default().into(), limits).await;
    for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        stream.write_all(first).await.unwrap();
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0);
    }
    server.until(|stats| stats.connections_active == 0).await;
}

#[tokio::test]
async fn programs_are_told_that_it_was_tls() {
    let peer = SecretKey::from_seed([7; 32]).member();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let forward = Arc::new(FakeForward {
        peers: [(peer, Peer::Says(answer))].into(),
        ..FakeForward::default()
    });
    let sites = FakeSites::new(move |_| remote(&[peer]));
    let (der, pem) = made(&["shop.example"]);
    let shop = Secured { hsts: Duration::from_secs(60), ..secured("shop", &pem) };
    sites.secure(move |_| Some(shop.clone()));
    let server = Server::with(sites, forward.clone(), Limits::default()).await;
    let with = connector(&[der], &[], &[&TLS13]);
    let mut client = Client::new(greet(&server, &with, "shop.example").await.unwrap());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: http\r\n\r\n").await;
    let reply = client.reply(false).await;
    assert_eq!(reply.body, b"ok");
    assert_eq!(reply.header("strict-transport-security"), Some("max-age=60"));
    let head = forward.heads.lock().unwrap().remove(0);
    assert!(head.contains("\r\nX-Forwarded-Proto: https\r\n"), "{head}");
    assert!(head.contains(";proto=https\r\n"), "{head}");
    assert!(!head.contains("X-Forwarded-Proto: http\r\n"), "{head}");
    // Nothing of it without TLS.
    let plain = server.get("/").await;
    assert_eq!(plain.header("strict-transport-security"), None);
}

#[tokio::test]
async fn who_comes_without_tls_may_be_led_to_it() {
    let sites = FakeSites::new(|_| Route::ByTls(None));
    let server = Server::start(sites.clone()).await;
    let led = server.ask(&get("Shop.example:8080", "//x/%20?q=1")).await;
    assert_eq!(
        (led.status, led.header("location")),
        (308, Some("https://shop.example//x/%20?q=1"))
    );
    sites.change(|_| Route::ByTls(Some(8443)));
    let led = server.ask(&get("[::1]", "/")).await;
    assert_eq!(led.header("location"), Some("https://[::1]:8443/"));
    let none = server.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((none.status, none.header("location")), (400, None));
    // A member that is passed a request believes what the other one says of the client.
    let secure = server.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n").await;
    assert_eq!(secure.status, 308, "a client is not believed");
}

#[test]
fn what_can_not_be_used_is_refused_with_a_reason() {
    let read = |pem: &str| Certificate::from_pem(&app("shop"), pem);
    let (_, one) = made(&["a.example"]);
    let (_, other) = made(&["a.example"]);
    let cut = |text: &str| text.find("-----BEGIN PRIVATE").unwrap();
    let (chain, key) = one.split_at(cut(&one));
    let (others_chain, _) = other.split_at(cut(&other));
    let good = read(&one).unwrap();
    assert!(good.names("a.example") && !good.names("b.example"));
    let validity = good.validity();
    assert!(validity.holds(WallTime(1_800_000_000_000)) && !validity.holds(WallTime(0)));
    assert!(read(&format!("{key}{chain}")).unwrap().is_same(&good));
    assert!(read(&format!("{chain}{others_chain}{key}")).is_ok(), "a chain");
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let tests = [
        (String::new(), BadCertificate::NoCertificate),
        ("swordfish".to_owned(), BadCertificate::NoCertificate),
        (key.to_owned(), BadCertificate::NoCertificate),
        (chain.to_owned(), BadCertificate::NoKey),
        (format!("{chain}{encrypted}"), BadCertificate::Encrypted),
        (format!("{one}{key}"), BadCertificate::Keys),
        (format!("{others_chain}{key}"), BadCertificate::Mismatch),
        (
            one.replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n!"),
            BadCertificate::Pem,
        ),
        (format!("{}{key}", pem("CERTIFICATE", b"none")), BadCertificate::Unreadable),
        (format!("{chain}{}", pem("PRIVATE KEY", b"none")), BadCertificate::Key),
        (chain.repeat(11) + key, BadCertificate::LongChain),
    ];
    for (text, why) in tests {
        let told = read(&text).unwrap_err();
        assert_eq!(told, why);
        assert!(!told.to_string().contains("swordfish"));
    }
    // Where a section has no end, what was its text depends on its length.
    assert!(read(&one.replace("-----END CERTIFICATE-----", "")).is_err());
    assert!(!format!("{good:?}").contains("BEGIN"));
}

#[test]
fn keys_of_every_kind_are_taken() {
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
    {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let text = pem("CERTIFICATE", &der) + &pem("PRIVATE KEY", &key.serialize_der());
        Certificate::from_pem(&app("shop"), &text).unwrap();
    }
}
