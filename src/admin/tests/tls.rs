//! The status port over TLS: who gets in, by which name, and what those hear that come without.

use std::{fs, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    super::{StatusCertificate, StatusTls, serve},
    json_of,
    sample::{self, Fake},
};
use crate::{
    base::{Reason, WallTime, operator::OperatorToken},
    gateway::PortCertificate,
    member::event::Severity,
};

/// The PEM of a certificate that signs itself, valid until a year, and that of its key.
fn made(names: &[&str], until: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(until, 1, 1);
    let der = parameters.self_signed(&key).unwrap().der().to_vec();
    let section = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    };
    (section("CERTIFICATE", &der), section("PRIVATE KEY", &key.serialize_der()))
}

/// One that is made out for these names.
pub fn certificate(names: &[&str], until: i32) -> PortCertificate {
    let (chain, key) = made(names, until);
    PortCertificate::from_pem(&format!("{chain}{key}")).unwrap()
}

/// A status port with its certificate.
struct Port {
    at: std::net::SocketAddr,
    tls: StatusTls,
    with: TlsConnector,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
    dir: tempfile::TempDir,
}

fn write(dir: &Path, (chain, key): &(String, String)) {
    fs::write(dir.join("cert.pem"), chain).unwrap();
    fs::write(dir.join("key.pem"), key).unwrap();
}

fn read(dir: &Path) -> Result<StatusCertificate, crate::base::Refusal> {
    StatusCertificate::read(&dir.join("cert.pem"), &dir.join("key.pem"))
}

impl Port {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = made(&["status.example.org", "127.0.0.1"], 2090);
        write(dir.path(), &made);
        let tls = StatusTls::new(read(dir.path()).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.0.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (fake, shutdown) =
            (Fake::new(sample::view(), sample::events()), CancellationToken::new());
        let task =
            tokio::spawn(serve::serve_status_tls(fake, listener, tls.clone(), shutdown.clone()));
        Self { at, tls, with: TlsConnector::from(Arc::new(config)), shutdown, task, dir }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from("status.example.org").unwrap();
        let stream = self.with.connect(name, stream).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, "status.example.org:7780");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        sender.send_request(request.body(body).unwrap()).await.unwrap()
    }

    async fn close(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn over_tls_one_reads_and_acts_by_the_names_of_the_certificate() {
    let port = Port::open().await;
    let page = port.ask(Method::GET, "/", &[], "").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers().contains_key(header::CONTENT_SECURITY_POLICY));
    assert!(!page.headers().contains_key(header::STRICT_TRANSPORT_SECURITY));
    for (host, status) in [
        ("127.0.0.1", StatusCode::OK),
        ("web1", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
        ("other.example.org", StatusCode::FORBIDDEN),
    ] {
        let answer = port.ask(Method::GET, "/api/v1/view", &[("host", host)], "").await;
        assert_eq!(answer.status(), status, "{host}");
    }

    let token = format!("Bearer {}", OperatorToken::new([7; 32]).to_text());
    let who = [("authorization", token.as_str()), ("content-type", "application/json")];
    let close = "\"window-close\"";
    for (origin, status) in [
        ("https://status.example.org:7780", StatusCode::OK),
        ("http://status.example.org:7780", StatusCode::FORBIDDEN),
        ("https://evil.example", StatusCode::FORBIDDEN),
    ] {
        let headers = [&who[..], &[("origin", origin)]].concat();
        let answer = port.ask(Method::POST, "/api/v1/command", &headers, close).await;
        assert_eq!(answer.status(), status, "{origin}");
    }
    let nobody = port.ask(Method::POST, "/api/v1/command", &who[1..], close).await;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    port.close().await;
}

#[tokio::test]
async fn who_comes_without_tls_is_told_to_come_with_it() {
    let port = Port::open().await;
    let stream = TcpStream::connect(port.at).await.unwrap();
    // The name is one that is answered to without TLS, too: it is the lack of that.
    let answer =
        super::send(stream, Method::GET, "/api/v1/view", "127.0.0.1:7780", Bytes::new(), None)
            .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let said = json_of(answer).await;
    assert_eq!(said["error"]["reason"], json!("invalid"));
    assert!(said["error"]["todo"].as_str().unwrap().contains("https://"), "{said}");
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_a_handshake_is_cut_off() {
    let port = Port::open().await;
    for begins in [&b""[..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(port.at).await.unwrap();
        let began = tokio::time::Instant::now();
        stream.write_all(begins).await.unwrap();
        // No limit here: the clock would leap to it before what is under way on a socket arrives.
        let _end_or_reset = stream.read_to_end(&mut Vec::new()).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(60), "{begins:?}: it was waited for {took:?}");
    }
    port.close().await;
}

#[test]
fn files_that_can_not_be_used_are_told_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = |dir: &Path| read(dir).map(|_| ()).unwrap_err();
    let refusal = refused(dir);
    assert_eq!(refusal.reason, Reason::Invalid);
    assert!(refusal.why.starts_with("The certificate ") && refusal.why.contains("cert.pem"));

    let (first, second) = (made(&["a.example"], 2090), made(&["a.example"], 2091));
    write(dir, &first);
    let tls = StatusTls::new(read(dir).unwrap());
    let (severity, text) = tls.told();
    assert_eq!(severity, Severity::Info);
    assert!(text.contains("from 2020-01-01T00:00:00Z until 2090-01-01T00:00:00Z"), "{text}");

    let old = made(&["a.example"], 2021);
    let none = (first.0.clone(), "secret-words".to_owned());
    let mixed = (first.0.clone(), second.1.clone());
    for (files, word) in [
        (&mixed, "is not the one of"),
        (&none, "no private key"),
        (&old, "it expired on 2021-01-01T00:00:00Z"),
    ] {
        write(dir, files);
        let refusal = tls.read_anew().unwrap_err();
        assert!(refusal.why.contains(word), "{refusal:?}");
        assert!(!format!("{refusal:?}").contains("secret-words"));
        assert!(tls.told().1.contains("until 2090-"));
    }
    fs::write(dir.join("key.pem"), [0xff, 0xfe]).unwrap();
    assert!(tls.read_anew().unwrap_err().why.contains("key.pem can't be read"));

    write(dir, &second);
    tls.read_anew().unwrap();
    assert!(tls.told().1.contains("until 2091-"));
    // One that is over is better than none.
    write(dir, &old);
    let (severity, text) = StatusTls::new(read(dir).unwrap()).told();
    assert_eq!(severity, Severity::Warning);
    assert!(text.contains("clients refuse") && text.contains("SIGHUP"), "{text}");
    // Both may be in one file.
    let both = dir.join("both.pem");
    fs::write(&both, format!("{}{}", first.0, first.1)).unwrap();
    assert!(StatusCertificate::read(&both, &both).is_ok());
}

#[test]
fn a_certificate_that_is_about_to_expire_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &made(&["a.example"], 2090));
    let tls = StatusTls::new(read(dir.path()).unwrap());
    let end = 3_786_912_000_000; // 2090-01-01
    let before = |days: u64| tls.told_at(WallTime(end - days * 86_400_000));
    assert_eq!(before(15).0, Severity::Info);
    let (severity, text) = before(13);
    assert_eq!(severity, Severity::Warning);
    assert!(text.contains("until 2090-01-01T00:00:00Z, and that is soon: replace"), "{text}");
    let (severity, text) = tls.told_at(WallTime(end + 1_000));
    assert_eq!(severity, Severity::Warning);
    assert!(text.contains("it expired on 2090-01-01T00:00:00Z"), "{text}");
}

#[test]
fn a_certificate_names_its_names_and_addresses() {
    let one = certificate(&["web1.example.org", "10.0.0.5"], 2090);
    assert!(one.names("web1.example.org") && one.names("10.0.0.5"));
    assert!(!one.names("web2.example.org") && !one.names("10.0.0.6") && !one.names(""));
    let wild = certificate(&["*.example.org"], 2090);
    assert!(wild.names("web1.example.org") && !wild.names("example.org"));
}

#[tokio::test]
async fn the_next_handshake_takes_what_was_read_anew() {
    let port = Port::open().await;
    assert_eq!(port.ask(Method::GET, "/metrics", &[], "").await.status(), StatusCode::OK);
    write(port.dir.path(), &made(&["status.example.org"], 2091));
    port.tls.read_anew().unwrap();
    let stream = TcpStream::connect(port.at).await.unwrap();
    let name = ServerName::try_from("status.example.org").unwrap();
    // The client trusts the one before alone.
    let error = port.with.connect(name, stream).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    port.close().await;
}
