//! Against real servers on loopback, and with real programs.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::*;
use crate::driver::secrets::{Secret, Secrets};

mod mail;
mod script;
mod webhook;

/// Longer than anything takes on a machine that is busy with other tests.
const GENEROUS: Duration = Duration::from_secs(60);
/// Enough for a server on this machine to accept, and no more than a test may wait.
const SHORT: Duration = Duration::from_millis(300);

fn notice() -> Notice {
    Notice {
        episode: "7f3a-12".to_owned(),
        rule: "hot".to_owned(),
        app: AppName::parse("shop").unwrap(),
        cluster: "main".to_owned(),
        member: Some("north".to_owned()),
        severity: Some(Severity::Critical),
        state: State::Begin,
        at: WallTime(1_709_210_096_000),
        text: "cpu is 97%, more than 90% for 2m".to_owned(),
        judged_by: "north".to_owned(),
    }
}

fn secrets(all: &[(&str, &str)]) -> Secrets {
    let mut secrets = Secrets::new();
    for (name, value) in all {
        let secret = Secret::new((*value).to_owned()).unwrap();
        secrets.insert(SecretName::parse(name).unwrap(), secret).unwrap();
    }
    secrets
}

/// A certificate for `localhost` that signs itself, and what a server needs of it.
fn vouched() -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], private)
            .unwrap();
    (certificate, Arc::new(config))
}

/// Reads up to `end`, a byte at a time: nothing behind it is taken. None once nothing comes.
fn read_to(stream: &mut impl Read, end: &[u8]) -> Option<String> {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(end) {
        match stream.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(all).unwrap())
}

/// Sends as much of `bytes`, again and again, as the other side takes.
fn pour(stream: &mut impl Write, bytes: &[u8]) {
    while stream.write_all(bytes).is_ok() {}
}

/// Returns once the other side has gone.
fn wait_out(stream: &mut impl Read) {
    let _gone = io::copy(stream, &mut io::sink());
}

/// Somebody who answers one connection after the other by one of `manners`, and returns what
/// came of each.
fn server<T: Send + 'static>(
    manners: Vec<Box<dyn FnOnce(TcpStream) -> T + Send>>,
) -> (SocketAddr, JoinHandle<Vec<T>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let one =
            |manner: Box<dyn FnOnce(TcpStream) -> T + Send>| manner(listener.accept().unwrap().0);
        manners.into_iter().map(one).collect()
    });
    (address, answering)
}

#[test]
fn a_key_tells_what_is_told_from_all_else() {
    let begin = notice();
    assert_eq!(begin.key(), "7f3a-12.begin");
    // Whoever judged, and whenever it is told.
    assert_eq!(
        Notice { judged_by: "south".to_owned(), at: WallTime(1), ..begin.clone() }.key(),
        begin.key()
    );
    let repeat = Notice { state: State::Repeat, ..begin.clone() };
    assert_eq!(repeat.key(), "7f3a-12.repeat.1709210096000");
    assert_eq!(Notice { state: State::End, ..begin.clone() }.key(), "7f3a-12.end");
    let hostile = "a\r\nX: y>ä".to_owned() + &"z".repeat(500);
    let key = Notice { episode: hostile, state: State::Repeat, ..begin.clone() }.key();
    assert!(key.starts_with("a--X--y--zz") && key.len() <= 128, "{key}");
    assert_eq!(Notice { episode: String::new(), ..begin }.key(), "-.begin");
}

#[test]
fn a_notice_is_these_words_of_json() {
    let text = serde_json::to_string(&notice()).unwrap();
    assert_eq!(
        text,
        r#"{"episode":"7f3a-12","rule":"hot","app":"shop","cluster":"main","member":"north","severity":"critical","state":"begin","at":1709210096000,"text":"cpu is 97%, more than 90% for 2m","judged_by":"north"}"#
    );
    assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice());
    let wide = Notice { member: None, severity: None, ..notice() };
    let text = serde_json::to_string(&wide).unwrap();
    assert!(text.contains(r#""member":null,"severity":null"#), "{text}");
}

#[test]
fn what_is_passed_on_is_bounded_and_plain() {
    let long = Notice {
        rule: "r\r\nBcc: x".to_owned(),
        text: format!("one\r\ntwo\0{}", "ä".repeat(TEXT_MAX)),
        ..notice()
    };
    let bounded = long.bounded();
    assert_eq!(bounded.rule, "r  Bcc: x");
    assert!(bounded.text.starts_with("one\ntwo ä") && bounded.text.len() <= TEXT_MAX);
    assert_eq!(one_line(" a\u{2028}b\tc\u{85} ", 99), "a b c");
    assert_eq!(one_line("äöü", 3), "ä");
    assert_eq!(cut("", 5), "");
}
