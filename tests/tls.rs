//! HTTPS over every member, with real processes: the certificate is a secret of the
//! application, chosen by the name that is asked for, and replaced under load.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use althing::base::WallTime;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::{Lab, Member, invite, settled, until};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that signs itself, its PEM with the key, and the key alone as DER.
struct Made {
    der: CertificateDer<'static>,
    pem: String,
    key: Vec<u8>,
}

fn made(host: &str) -> Made {
    made_until(host, 365)
}

/// One that is valid for so many days from now on.
fn made_until(host: &str, days: i64) -> Made {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let until = WallTime((now + days * 86_400) as u64 * 1000).to_string();
    let mut date = until[..10].split('-').map(|part| part.parse::<u16>().unwrap());
    let mut next = || date.next().unwrap();
    let (year, month, day) = (next(), next() as u8, next() as u8);
    parameters.not_after = rcgen::date_time_ymd(year.into(), month, day);
    let der = parameters.self_signed(&key).unwrap().der().clone();
    let pem = pem("CERTIFICATE", &der) + &pem("PRIVATE KEY", &key.serialize_der());
    Made { der, pem, key: key.serialize_der() }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Three members that serve over TLS as well.
fn cluster(lab: &Lab) -> [Member; 3] {
    let mut members: Vec<Member> = Vec::new();
    for name in ["one", "two", "three"] {
        let mut plan = lab.plan(name);
        let at = plan.listen.to_string();
        if let Some(first) = members.first() {
            plan = plan.joining(first.address(), &invite(first, &[]));
        }
        plan.more.extend(["--listen-tls".to_owned(), at]);
        members.push(plan.up().unwrap());
    }
    settled(&members);
    members.try_into().ok().unwrap()
}

fn by_tls(member: &Member) -> SocketAddr {
    member.ready["tls"].as_str().unwrap().parse().unwrap()
}

fn publish(member: &Member, site: &Path, name: &str, text: &str, tls: &str) {
    fs::create_dir_all(site).unwrap();
    fs::write(site.join("index.html"), text).unwrap();
    let manifest = format!("[application]\nname = \"{name}\"\nhosts = [\"{name}.example\"]\n{tls}");
    fs::write(site.join("althing.toml"), manifest).unwrap();
    member.publish(site, &[]).unwrap();
}

fn connector(roots: &[&CertificateDer<'static>], protocol: &[u8]) -> TlsConnector {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn greet(
    at: SocketAddr,
    with: &TlsConnector,
    host: &str,
) -> Result<(TlsStream<TcpStream>, Vec<u8>), String> {
    let stream = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = with.connect(name, stream).await.map_err(|e| e.to_string())?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, leaf))
}

/// Asks for `/`, a few times over one connection; the certificate that was shown.
async fn ask(
    at: SocketAddr,
    with: &TlsConnector,
    host: &str,
    text: &str,
) -> Result<Vec<u8>, String> {
    let (mut stream, leaf) = greet(at, with, host).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let (ask, connection) = h2::client::handshake(stream).await.map_err(|e| e.to_string())?;
        let driven = tokio::spawn(connection);
        for _ in 0..3 {
            let uri = format!("https://{host}/");
            let request = http::Request::builder().uri(uri).body(()).unwrap();
            let mut ready = ask.clone().ready().await.map_err(|e| e.to_string())?;
            let (response, _) = ready.send_request(request, true).map_err(|e| e.to_string())?;
            let mut response = response.await.map_err(|e| e.to_string())?;
            let mut body = Vec::new();
            while let Some(data) = response.body_mut().data().await {
                let data: Bytes = data.map_err(|e| e.to_string())?;
                body.extend_from_slice(&data);
                let flow = response.body_mut().flow_control();
                flow.release_capacity(data.len()).map_err(|e| e.to_string())?;
            }
            if response.status() != 200 || body != text.as_bytes() {
                return Err(format!("{} {body:?}", response.status()));
            }
        }
        drop(ask);
        driven.abort();
        return Ok(leaf);
    }
    for close in [false, true] {
        let last = if close { "Connection: close\r\n" } else { "" };
        let asked = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{last}\r\n");
        stream.write_all(asked.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut told = Vec::new();
        while !told.ends_with(text.as_bytes()) {
            if stream.read_buf(&mut told).await.map_err(|e| e.to_string())? == 0 {
                return Err(format!("cut: {}", String::from_utf8_lossy(&told)));
            }
        }
        if !told.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return Err(String::from_utf8_lossy(&told).into_owned());
        }
    }
    Ok(leaf)
}

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A client that makes one connection after the other, of both protocols.
struct Client {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<(u64, Vec<String>)>>,
    thread: JoinHandle<()>,
}

impl Client {
    fn of(member: &Member, roots: &[&CertificateDer<'static>], text: &'static str) -> Self {
        let with = [connector(roots, b"h2"), connector(roots, b"http/1.1")];
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<_>>::default());
        let (over, tells, at) = (stop.clone(), seen.clone(), by_tls(member));
        let thread = std::thread::spawn(move || {
            now(async {
                while !over.load(SeqCst) {
                    for with in &with {
                        let asked = ask(at, with, "shop.example", text).await;
                        let mut seen: std::sync::MutexGuard<'_, (u64, Vec<String>)> =
                            tells.lock().unwrap();
                        match asked {
                            Ok(_) => seen.0 += 1,
                            Err(why) => seen.1.push(why),
                        }
                    }
                }
            });
        });
        Self { stop, seen, thread }
    }

    /// Waits until it has had so many more answers, or failed.
    fn goes_on(&self, more: u64) {
        let before = self.seen.lock().unwrap().0;
        until("the client has answers", || {
            let seen = self.seen.lock().unwrap();
            let enough = seen.0 >= before + more || !seen.1.is_empty();
            if enough { Ok(()) } else { Err(format!("{} and {before}", seen.0)) }
        });
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn shows(member: &Member, host: &str, made: &Made, text: &str) {
    until(&format!("{} shows the certificate of {host}", member.name()), || {
        now(async {
            for protocol in [&b"h2"[..], b"http/1.1"] {
                let with = connector(&[&made.der], protocol);
                let leaf = ask(by_tls(member), &with, host, text).await?;
                assert_eq!(leaf, *made.der);
            }
            Ok(())
        })
    });
}

/// Covers R27: certificates are replicated as secrets and chosen by name.
#[test]
fn every_member_serves_each_name_with_its_certificate() {
    let lab = Lab::new((68, 1));
    let members = cluster(&lab);
    let [one, two, three] = &members;
    let (shop, blog) = (made("shop.example"), made("blog.example"));
    let tls = "[tls]\ncertificate = \"web-cert\"\nredirect = true\nport = 8443\nhsts = \"1d\"\n";

    // A manifest that names no secret is refused; so is what is no certificate.
    let site = lab.path("shop");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("althing.toml"), format!("[application]\nname = \"shop\"\n{tls}")).unwrap();
    fs::write(site.join("index.html"), "shop 1").unwrap();
    let refused = one.publish(&site, &[]).unwrap_err();
    assert!(refused.why.contains("web-cert") && refused.why.contains("not set"), "{refused:?}");
    let set = |member: &Member, app: &str, pem: &str| {
        member.run_with(&["secret", "set", app, "web-cert"], pem)
    };
    set(one, "shop", "swordfish").unwrap();
    let refused = one.publish(&site, &[]).unwrap_err();
    assert!(refused.why.contains("no certificate"), "{refused:?}");
    assert!(!format!("{refused:?}").contains("swordfish"));

    set(one, "shop", &shop.pem).unwrap();
    publish(one, &site, "shop", "shop 1", tls);
    set(two, "blog", &blog.pem).unwrap();
    publish(two, &lab.path("blog"), "blog", "blog 1", "[tls]\ncertificate = \"web-cert\"\n");
    for member in &members {
        shows(member, "shop.example", &shop, "shop 1");
        shows(member, "blog.example", &blog, "blog 1");
        // Without TLS one is led to it, and the other not.
        let get = |host: &str| {
            let text = format!("GET /?a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            common::tcp(member.site(), text.as_bytes()).unwrap()
        };
        let led = get("shop.example");
        assert_eq!(led.status, 308);
        assert!(led.head.contains("Location: https://shop.example:8443/?a\r\n"), "{}", led.head);
        assert_eq!(get("blog.example").status, 200);
    }
    curl(one, &lab.path("roots.pem"), &shop);
    // How long it lasts is measured on each of them.
    until("the days that are left are told", || {
        let told = two
            .run(&["metrics", "certificate.days shop", "--since", "1m"])
            .map_err(|refused| refused.why)?;
        let row = &told["series"][0]["rows"][0];
        let days =
            |key: &str| row[key].as_f64().is_some_and(|days| (364.0..=365.0).contains(&days));
        if row["members"] == 3 && days("min") && days("max") {
            Ok(())
        } else {
            Err(told.to_string())
        }
    });

    // The other's name over a connection that was made for this one.
    now(async {
        let with = connector(&[&shop.der], b"http/1.1");
        let (mut stream, _) = greet(by_tls(one), &with, "shop.example").await.unwrap();
        let asked = b"GET / HTTP/1.1\r\nHost: blog.example\r\nConnection: close\r\n\r\n";
        stream.write_all(asked).await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 421 "), "{told}");
    });

    // Replaced under load, by hand and by a rollback: nobody is without an answer.
    let next = made("shop.example");
    let roots = [&shop.der, &next.der];
    let clients = [one, two, three].map(|member| Client::of(member, &roots, "shop 1"));
    set(three, "shop", &next.pem).unwrap();
    for member in &members {
        shows(member, "shop.example", &next, "shop 1");
    }
    clients.iter().for_each(|client| client.goes_on(10));
    let history = one.run(&["history", "shop"]).unwrap();
    one.run(&["rollback", "shop", &history[1]["number"].to_string()]).unwrap();
    for member in &members {
        shows(member, "shop.example", &shop, "shop 1");
    }
    for (member, client) in members.iter().zip(clients) {
        client.goes_on(10);
        let (answers, failures) = client.end();
        assert!(failures.is_empty(), "{}, of {answers}: {failures:?}", member.name());
    }

    // What would not do is refused while it is set, and changes nothing.
    let other = made("shop.example");
    let half = |text: &str| text.find("-----BEGIN PRIVATE").unwrap();
    let mixed = format!("{}{}", &other.pem[..half(&other.pem)], &shop.pem[half(&shop.pem)..]);
    let old = made_until("shop.example", -3);
    for (bad, word) in
        [("swordfish", "no certificate"), (&*mixed, "not the one of"), (&*old.pem, "expired on")]
    {
        let refused = set(two, "shop", bad).unwrap_err();
        assert!(refused.why.contains(word) && refused.todo.contains("PEM"), "{refused:?}");
    }
    let refused = two.run(&["secret", "unset", "shop", "web-cert"]).unwrap_err();
    assert!(refused.why.contains("certificate"), "{refused:?}");
    shows(two, "shop.example", &shop, "shop 1");

    // One for another name is used, and complained of; so is one that expires soon.
    for (odd, word) in [
        (made("other.example"), "not made out for shop.example"),
        (made_until("shop.example", 9), "expires on"),
    ] {
        set(two, "shop", &odd.pem).unwrap();
        until("the members complain", || {
            let reasons = three.view()?["reasons"].to_string();
            if reasons.contains(word) { Ok(()) } else { Err(reasons) }
        });
        assert!(three.events().contains(word));
    }
    set(two, "shop", &shop.pem).unwrap();
    until("they are content", || {
        let reasons = three.view()?["reasons"].to_string();
        if reasons.contains("certificate") { Err(reasons) } else { Ok(()) }
    });
    // The keys are on no disk, and in no event.
    for member in &members {
        for made in [&shop, &blog, &next] {
            nowhere(&member.data, made);
            let middle = &STANDARD.encode(&made.key)[64..128];
            assert!(!member.events().contains(middle));
        }
    }
    // A member that starts again serves at once.
    let text = "shop 1";
    let [_, _, mut three] = members;
    let at = by_tls(&three);
    let mut plan = three.again();
    plan.more = vec!["--listen-tls".to_owned(), at.to_string()];
    three.kill();
    let three = plan.up().unwrap();
    let with = connector(&[&shop.der], b"h2");
    now(ask(by_tls(&three), &with, "shop.example", text)).unwrap();
}

/// A program that others use, where there is one here.
fn curl(member: &Member, roots: &Path, made: &Made) {
    fs::write(roots, pem("CERTIFICATE", &made.der)).unwrap();
    let at = by_tls(member);
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let told = Command::new("curl")
            .args(["--silent", "--show-error", option, "--cacert"])
            .arg(roots)
            .arg("--resolve")
            .arg(format!("shop.example:{}:{}", at.port(), at.ip()))
            .args(["--write-out", " %{http_version} %{header_json}"])
            .arg(format!("https://shop.example:{}/", at.port()))
            .output();
        let Ok(told) = told else { return };
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        let why = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(text.starts_with(&format!("shop 1 {version} ")), "{option}: {text} {why}");
        assert!(text.contains("max-age=86400"), "{text}");
    }
}

/// Whether no file below `place` holds the key, as bytes or as text.
fn nowhere(place: &Path, made: &Made) {
    let text = STANDARD.encode(&made.key);
    let needles = [made.key[20..60].to_vec(), text.as_bytes()[64..128].to_vec()];
    let mut places = vec![place.to_owned()];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                places.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                for needle in &needles {
                    let found = bytes.windows(needle.len()).any(|window| window == needle);
                    assert!(!found, "the key is in {}", entry.path().display());
                }
            }
        }
    }
}
