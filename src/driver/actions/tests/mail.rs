use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};

use super::{
    super::mail::{Terms, send},
    *,
};
use crate::driver::rules::{Mail, Security};

/// How a receiver behaves.
#[derive(Clone, Default)]
struct Manner {
    /// TLS: from the start, or after `STARTTLS`.
    tls: Option<(Security, Arc<ServerConfig>)>,
    /// Whether it keeps to itself that it knows `STARTTLS`.
    hides: bool,
    /// The one password of `althing`, if it asks for one.
    password: Option<&'static str>,
    /// What it answers to such lines, instead of yes.
    instead: Vec<(&'static str, &'static str)>,
}

/// What came of a connection.
#[derive(Debug, Default)]
struct Session {
    /// Commands, and whether each came over TLS.
    lines: Vec<(String, bool)>,
    /// The message, without its dots.
    message: Option<String>,
}

impl Session {
    fn commands(&self) -> Vec<&str> {
        self.lines.iter().map(|(line, _)| line.as_str()).collect()
    }
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

fn receive(stream: TcpStream, manner: &Manner) -> Session {
    let mut session = Session::default();
    let over = |tls: &Arc<ServerConfig>, stream| {
        StreamOwned::new(ServerConnection::new(tls.clone()).unwrap(), stream)
    };
    match &manner.tls {
        Some((Security::Tls, tls)) => {
            let mut stream = over(tls, stream);
            if stream.write_all(b"220 here\r\n").is_ok() {
                talk(&mut stream, manner, true, &mut session);
            }
        }
        other => {
            let mut stream = stream;
            stream.write_all(b"220 here\r\n").unwrap();
            if talk(&mut stream, manner, false, &mut session)
                && let Some((_, tls)) = other
            {
                talk(&mut over(tls, stream), manner, true, &mut session);
            }
        }
    }
    session
}

/// True if it is to go on with TLS.
fn talk(stream: &mut impl Both, manner: &Manner, over_tls: bool, session: &mut Session) -> bool {
    while let Some(line) = read_to(stream, b"\r\n") {
        let line = line.trim_end().to_owned();
        session.lines.push((line.clone(), over_tls));
        let instead = manner.instead.iter().find(|(start, _)| line.starts_with(start));
        let answer = match line.split(' ').next().unwrap() {
            _ if instead.is_some() => instead.unwrap().1,
            "EHLO" if !over_tls && manner.tls.is_some() && !manner.hides => {
                "250-here\r\n250-8BITMIME\r\n250 STARTTLS"
            }
            "EHLO" if manner.password.is_some() => "250-here\r\n250-8BITMIME\r\n250 AUTH PLAIN",
            "EHLO" => "250-here\r\n250 8BITMIME",
            "STARTTLS" => "220 go on",
            "AUTH" => {
                use base64::{Engine, engine::general_purpose::STANDARD};
                let given = STANDARD.decode(line.rsplit(' ').next().unwrap()).unwrap();
                let wanted = format!("\0althing\0{}", manner.password.unwrap());
                if given == wanted.as_bytes() { "235 come in" } else { "535 go away" }
            }
            "DATA" => "354 say it",
            "QUIT" => "221 bye",
            _ => "250 yes",
        };
        if stream.write_all(format!("{answer}\r\n").as_bytes()).is_err() {
            return false;
        }
        match line.as_str() {
            "DATA" if answer.starts_with("354") => {
                let message = read_to(stream, b"\r\n.\r\n").unwrap();
                session.message = Some(message.replace("\r\n..", "\r\n."));
                stream.write_all(b"250 queued as 42\r\n").unwrap();
            }
            "STARTTLS" => return true,
            "QUIT" => return false,
            _ => {}
        }
    }
    false
}

fn receiver(manner: Manner) -> (SocketAddr, JoinHandle<Vec<Session>>) {
    server(vec![Box::new(move |stream| receive(stream, &manner))])
}

fn mail(address: SocketAddr, security: Security) -> Mail {
    Mail {
        to: vec!["ops@example.org".to_owned()],
        from: "althing@example.net".to_owned(),
        server: format!("localhost:{}", address.port()),
        security,
        user: None,
        password: None,
    }
}

fn terms(roots: &[CertificateDer<'static>]) -> Terms {
    Terms { within: GENEROUS, roots: roots.to_vec() }
}

/// One mail in the clear, and what came of it.
fn sent(manner: Manner, notice: &Notice) -> (Result<Done, ActionError>, Session) {
    let (address, receiving) = receiver(manner);
    let done = send(&mail(address, Security::None), notice, &Secrets::new(), &terms(&[]));
    (done, receiving.join().unwrap().remove(0))
}

fn header<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap();
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(": ");
    head.split("\r\n").filter_map(of).collect()
}

#[test]
fn a_mail_says_what_it_is_about() {
    let (done, session) = sent(Manner::default(), &notice());
    assert_eq!(done, Ok(Done { said: "queued as 42".to_owned(), tries: 1 }));
    assert_eq!(
        session.commands(),
        [
            "EHLO example.net",
            "MAIL FROM:<althing@example.net>",
            "RCPT TO:<ops@example.org>",
            "DATA",
            "QUIT"
        ]
    );
    let message = session.message.unwrap();
    for (name, value) in [
        ("From", "althing@example.net"),
        ("To", "ops@example.org"),
        ("Subject", "[main] critical: hot of shop on north"),
        ("Message-ID", "<7f3a-12.begin@example.net>"),
        ("Auto-Submitted", "auto-generated"),
        ("Content-Type", "text/plain; charset=utf-8"),
    ] {
        assert_eq!(header(&message, name), [value], "{name} of {message}");
    }
    assert_eq!(header(&message, "Date").len(), 1);
    assert!(header(&message, "References").is_empty());
    for part in [
        "cpu is 97%, more than 90% for 2m\r\n\r\n",
        "Rule:         hot of shop\r\n",
        "State:        began, 2024-02-29T12:34:56Z\r\n",
        "Episode:      7f3a-12\r\n",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(message.is_ascii());
}

#[test]
fn the_same_is_known_again_and_what_belongs_together_stands_together() {
    let id = |notice: &Notice| {
        let message = sent(Manner::default(), notice).1.message.unwrap();
        let one = |name| header(&message, name).first().map(|value| (*value).to_owned());
        (one("Message-ID").unwrap(), one("References"), one("Subject").unwrap())
    };
    let begin = notice();
    assert_eq!(id(&begin).0, id(&Notice { at: WallTime(5), ..begin.clone() }).0);
    let end = Notice { state: State::End, ..begin.clone() };
    let (key, references, subject) = id(&end);
    assert_eq!(key, "<7f3a-12.end@example.net>");
    assert_eq!(references.as_deref(), Some("<7f3a-12.begin@example.net>"));
    assert_eq!(subject, "[main] over: hot of shop on north");
    let repeat = Notice { state: State::Repeat, severity: None, member: None, ..begin };
    assert_eq!(id(&repeat).2, "[main] still: hot of shop");
}

#[test]
fn nothing_of_a_rule_becomes_a_header_or_a_command() {
    let evil = "x\r\nBcc: thief@example.com\r\n\r\nhello\u{2028}";
    let hostile = Notice {
        episode: "a>\r\nBcc: <b".to_owned(),
        rule: evil.to_owned(),
        cluster: evil.to_owned(),
        member: Some(evil.to_owned()),
        text: "one\r\n.\r\nMAIL FROM:<thief@example.com>\r\n.two ä".to_owned(),
        judged_by: evil.to_owned(),
        ..notice()
    };
    let (done, session) = sent(Manner::default(), &hostile);
    done.unwrap();
    assert_eq!(session.commands().len(), 5, "{session:?}");
    let message = session.message.unwrap();
    let head = message.split("\r\n\r\n").next().unwrap();
    let names: Vec<&str> = head
        .split("\r\n")
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split(':').next().unwrap())
        .collect();
    for name in &names {
        assert!(!name.eq_ignore_ascii_case("bcc"), "{message}");
    }
    assert_eq!(names.iter().filter(|name| **name == "Subject").count(), 1, "{message}");
    assert_eq!(header(&message, "Message-ID"), ["<a---Bcc---b.begin@example.net>"]);
    assert!(message.is_ascii(), "{message}");
}

#[test]
fn an_address_that_is_refused_keeps_no_other_from_its_mail() {
    let manner =
        Manner { instead: vec![("RCPT TO:<gone", "550 no such user")], ..Manner::default() };
    let (address, receiving) = receiver(manner.clone());
    let mut mail = mail(address, Security::None);
    mail.to.insert(0, "gone@example.org".to_owned());
    let done = send(&mail, &notice(), &Secrets::new(), &terms(&[])).unwrap();
    assert!(done.said.starts_with("queued as 42\nnot to gone@example.org: "), "{done:?}");
    assert!(done.said.contains("no such user"), "{done:?}");
    assert!(receiving.join().unwrap()[0].message.is_some());

    let (address, receiving) = receiver(manner);
    mail.server = format!("127.0.0.1:{}", address.port());
    mail.to.truncate(1);
    let error = send(&mail, &notice(), &Secrets::new(), &terms(&[])).unwrap_err();
    assert!(!error.is_passing() && error.to_string().contains("no such user"), "{error}");
    assert!(receiving.join().unwrap()[0].message.is_none());
}

#[test]
fn over_tls_a_password_is_shown_to_its_server_alone() {
    let (root, tls) = vouched();
    for security in [Security::Starttls, Security::Tls] {
        let manner = Manner {
            tls: Some((security, tls.clone())),
            password: Some("geheim"),
            ..Manner::default()
        };
        let with = |address, value: &'static str, roots: &[_]| {
            let mail = Mail {
                user: Some("althing".to_owned()),
                password: Some(SecretName::parse("smtp").unwrap()),
                ..mail(address, security)
            };
            send(&mail, &notice(), &secrets(&[("smtp", value)]), &terms(roots))
        };
        let (address, receiving) = receiver(manner.clone());
        with(address, "geheim", std::slice::from_ref(&root)).unwrap();
        let session = receiving.join().unwrap().remove(0);
        assert!(session.message.is_some());
        for (line, over_tls) in &session.lines {
            let early = security == Security::Starttls
                && ["EHLO example.net", "STARTTLS"].contains(&line.as_str());
            assert!(*over_tls || early, "{security:?}: {line}");
        }

        let (address, receiving) = receiver(manner.clone());
        let error = with(address, "falsch", std::slice::from_ref(&root)).unwrap_err();
        assert!(matches!(&error, ActionError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("does not let this user in"), "{error}");
        assert!(receiving.join().unwrap()[0].message.is_none());

        // Nobody vouches for it.
        let (address, receiving) = receiver(manner);
        let error = with(address, "geheim", &[]).unwrap_err();
        assert!(matches!(&error, ActionError::Refused { .. }), "{security:?}: {error}");
        assert!(error.to_string().contains("trusted"), "{security:?}: {error}");
        let session = receiving.join().unwrap().remove(0);
        assert!(session.lines.iter().all(|(_, over_tls)| !over_tls), "{session:?}");
    }
}

#[test]
fn a_server_without_tls_gets_no_mail() {
    let (address, receiving) = receiver(Manner { hides: true, ..Manner::default() });
    let mail = mail(address, Security::Starttls);
    let error = send(&mail, &notice(), &Secrets::new(), &terms(&[])).unwrap_err();
    assert!(error.to_string().contains("offers no TLS"), "{error}");
    assert_eq!(receiving.join().unwrap()[0].commands(), ["EHLO example.net"]);
}

#[test]
fn what_comes_before_tls_is_not_taken_for_what_comes_after() {
    let (root, tls) = vouched();
    let injected = ("STARTTLS", "220 go on\r\n250-there\r\n250 AUTH PLAIN");
    let manner = Manner {
        tls: Some((Security::Starttls, tls)),
        instead: vec![injected],
        ..Manner::default()
    };
    let (address, receiving) = receiver(manner);
    let done =
        send(&mail(address, Security::Starttls), &notice(), &Secrets::new(), &terms(&[root]));
    assert!(done.is_err(), "{done:?}");
    let session = receiving.join().unwrap().remove(0);
    assert!(session.message.is_none(), "{session:?}");
}

#[test]
fn a_server_that_is_none_holds_nobody_up() {
    type Manners = Vec<(&'static str, Box<dyn FnOnce(TcpStream) + Send>)>;
    let manners: Manners = vec![
        ("within", Box::new(|mut stream| wait_out(&mut stream))),
        ("connection", Box::new(|mut stream| pour(&mut stream, &[b'2'; 4_096]))),
        ("SMTP", Box::new(|mut stream| pour(&mut stream, b"220-more\r\n"))),
        (
            "SMTP",
            Box::new(|mut stream| {
                stream.write_all(b"HTTP/1.1 400 no\r\n\r\n").unwrap();
                wait_out(&mut stream);
            }),
        ),
        (
            "connection",
            Box::new(|mut stream| {
                stream.write_all(&[0xff, 0xfe, b'\r', b'\n']).unwrap();
                wait_out(&mut stream);
            }),
        ),
        ("SMTP", Box::new(drop)),
        (
            "not today",
            Box::new(|mut stream| {
                stream.write_all(b"554 not today\r\n").unwrap();
                wait_out(&mut stream);
            }),
        ),
        (
            "within",
            Box::new(|mut stream| {
                // A byte now and then would keep a limit on each of them from ever being reached.
                stream.write_all(b"220 here\r\n250").unwrap();
                wait_out(&mut stream);
            }),
        ),
    ];
    for (says, manner) in manners {
        let (address, answering) = server(vec![manner]);
        let within = if says == "within" { SHORT } else { GENEROUS };
        let began = Instant::now();
        let terms = Terms { within, roots: Vec::new() };
        let error = send(&mail(address, Security::None), &notice(), &Secrets::new(), &terms);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert!(began.elapsed() < GENEROUS / 2, "{says}");
        assert!(error.len() < 400, "{error}");
        answering.join().unwrap();
    }
}

#[test]
fn what_can_not_be_sent_is_said_before_anybody_is_asked() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let none = Secrets::new();
    let name = SecretName::parse("smtp").unwrap();
    let asking = Mail {
        user: Some("u".to_owned()),
        password: Some(name.clone()),
        ..mail(nobody, Security::Tls)
    };
    assert_eq!(send(&asking, &notice(), &none, &terms(&[])), Err(ActionError::NoSecret(name)));
    for mail in [
        Mail {
            to: vec!["a@b.org>\r\nRCPT TO:<c@d.org".to_owned()],
            ..mail(nobody, Security::None)
        },
        Mail { from: "x".to_owned(), ..mail(nobody, Security::None) },
        Mail { server: "a b".to_owned(), ..mail(nobody, Security::None) },
        Mail { to: Vec::new(), ..mail(nobody, Security::None) },
    ] {
        let error = send(&mail, &notice(), &none, &terms(&[])).unwrap_err();
        assert!(matches!(error, ActionError::Unfit(_)), "{error}");
    }
    // Nobody listens at a port that was just given up.
    let (address, answering) = server(vec![Box::new(drop) as Box<dyn FnOnce(TcpStream) + Send>]);
    drop(TcpStream::connect(address).unwrap());
    answering.join().unwrap();
    let error = send(&mail(address, Security::None), &notice(), &none, &terms(&[])).unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("is not reached"), "{error}");
}
