//! The status port over TLS, with real processes: an operator acts by `--via https://`, whoever
//! comes otherwise is told how to, and another certificate is taken while the member runs.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{Lab, Member, Plan, tcp, until};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustix::process::{Pid, Signal, kill_process};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The certificate of an authority, as a file that clients are given.
fn root(lab: &Lab, name: &str, authority: &Authority) -> String {
    let path = lab.path(name);
    let certificate: &rcgen::Certificate = authority.as_ref();
    fs::write(&path, pem("CERTIFICATE", certificate.der())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The files that a member is given.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(lab: &Lab) -> Self {
        Self { certificate: lab.path("cert.pem"), key: lab.path("key.pem") }
    }

    /// Writes a certificate for these names that is valid until the first day of a year.
    fn write(&self, by: &Authority, names: &[&str], until: i32) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_after = date_time_ymd(until, 1, 1);
        let made = parameters.signed_by(&key, by).unwrap();
        fs::write(&self.certificate, pem("CERTIFICATE", made.der())).unwrap();
        fs::write(&self.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    }

    /// Writes one that signs itself.
    fn write_own(&self, names: &[&str], until: i32, is_ca: IsCa) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_after = date_time_ymd(until, 1, 1);
        parameters.is_ca = is_ca;
        let made = parameters.self_signed(&key).unwrap();
        fs::write(&self.certificate, pem("CERTIFICATE", made.der())).unwrap();
        fs::write(&self.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    }

    fn given_to(&self, mut plan: Plan) -> Plan {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        plan.more.extend(["--status-cert".to_owned(), text(&self.certificate)]);
        plan.more.extend(["--status-key".to_owned(), text(&self.key)]);
        plan
    }
}

fn hang_up(member: &Member) {
    let pid = i32::try_from(member.ready["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

fn told(member: &Member, words: &[&str]) {
    until("an event tells it", || {
        let events = member.events();
        let has_all = words.iter().all(|word| events.contains(word));
        if has_all { Ok(()) } else { Err(events) }
    });
}

#[test]
fn an_operator_acts_over_tls() {
    let lab = Lab::new((94, 1));
    let (ours, other) = (authority("ours"), authority("other"));
    let files = Files::of(&lab);
    let plan = lab.plan("a");
    let ip = plan.status.ip().to_string();
    files.write(&ours, &[&ip, "status.example.org"], 2090);
    let a = files.given_to(plan).up().unwrap();
    assert_eq!(a.ready["status_tls"], true, "{}", a.ready);
    told(&a, &["the status port speaks TLS", "until 2090-01-01T00:00:00Z"]);

    let added = a.run(&["operator", "add", "alice"]).unwrap();
    let token = lab.path("token");
    fs::write(&token, added["token"].as_str().unwrap()).unwrap();
    let token = ["--operator-token-file", token.to_str().unwrap()];
    let (ca, wrong) = (root(&lab, "ca.pem", &ours), root(&lab, "other.pem", &other));
    let at = format!("https://{}", a.status());
    let via = |words: &[&str], more: &[&str]| a.run(&[words, &["--via", &at], more].concat());

    let seen = via(&["status"], &["--ca", &ca]).unwrap();
    assert_eq!(seen["me"], "a", "{seen}");
    let act = [&["--ca", ca.as_str()][..], &token].concat();
    let tag = ["tags", "set", "role=web"];
    via(&tag, &act).unwrap();
    told(&a, &["alice: tags"]);
    assert_eq!(a.view().unwrap()["members"][0]["tags"]["role"], "web");
    via(&tag, &["--ca", &ca]).unwrap_err().is(7, "forbidden", "token is needed");

    // Whom the client can't know is sent nothing: neither the token nor a question.
    let refused = via(&tag, &[&["--ca", wrong.as_str()][..], &token].concat());
    refused.unwrap_err().is(7, "forbidden", "signed by nobody");
    let refused = via(&["status"], &[]).unwrap_err();
    assert!(refused.why.contains("trust") && refused.todo.contains("--ca"), "{refused:?}");

    // Who comes without TLS is told to come with it, and so is the command line.
    let answer =
        tcp(a.status(), b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(answer.status, 400);
    answer.refusal().is(400, "invalid", "speaks TLS");
    let plain = a.run(&["status", "--via", &a.status().to_string()]).unwrap_err();
    plain.is(3, "invalid", "speaks TLS");
    assert!(plain.todo.contains("https://"), "{plain:?}");
    let asked = a.run(&["status", "--via", &a.status().to_string(), "--ca", &ca]);
    asked.unwrap_err().is(3, "invalid", "plain HTTP");
    assert!(!a.events().contains("althing-op-"));
}

#[test]
fn another_certificate_is_taken_while_the_member_runs() {
    let lab = Lab::new((94, 2));
    let (first, second) = (authority("first"), authority("second"));
    let files = Files::of(&lab);
    let plan = lab.plan("a");
    let ip = plan.status.ip().to_string();
    files.write(&first, &[&ip], 2090);
    let a = files.given_to(plan).up().unwrap();
    let at = format!("https://{}", a.status());
    let by = |ca: &str| a.run(&["status", "--via", &at, "--ca", ca]);
    let (old, new) = (root(&lab, "first.pem", &first), root(&lab, "second.pem", &second));
    by(&old).unwrap();
    by(&new).unwrap_err().is(7, "forbidden", "signed by nobody");

    // One that can't be used changes nothing.
    let key = fs::read(&files.key).unwrap();
    files.write(&second, &[&ip], 2091);
    fs::write(&files.key, key).unwrap();
    hang_up(&a);
    told(&a, &["is not the one of its first certificate", "As before: the status port speaks TLS"]);
    by(&old).unwrap();

    files.write(&second, &[&ip], 2092);
    hang_up(&a);
    told(&a, &["until 2092-01-01T00:00:00Z"]);
    by(&new).unwrap();
    by(&old).unwrap_err().is(7, "forbidden", "signed by nobody");

    // Whom it does not name it does not prove.
    files.write(&second, &["status.example.org"], 2093);
    hang_up(&a);
    told(&a, &["until 2093-01-01T00:00:00Z"]);
    by(&new).unwrap_err().is(7, "forbidden", "not made out for");

    // One that signs itself is its own authority, unless it says that it is one of others.
    let own = files.certificate.to_str().unwrap();
    files.write_own(&[&ip], 2094, IsCa::ExplicitNoCa);
    hang_up(&a);
    told(&a, &["until 2094-01-01T00:00:00Z"]);
    by(own).unwrap();
    files.write_own(&[&ip], 2095, IsCa::Ca(BasicConstraints::Unconstrained));
    hang_up(&a);
    told(&a, &["until 2095-01-01T00:00:00Z"]);
    let refusal = by(own).unwrap_err();
    assert!(refusal.todo.contains("CA:FALSE"), "{refusal:?}");
    refusal.is(7, "forbidden", "one of an authority");
}

#[test]
fn a_certificate_without_its_key_starts_no_member() {
    let lab = Lab::new((94, 3));
    let files = Files::of(&lab);
    let mut plan = lab.plan("a");
    plan.more = vec!["--status-cert".to_owned(), files.certificate.to_str().unwrap().to_owned()];
    plan.up().err().expect("it does not start").is(3, "invalid", "without --status-key");
    let gone = files.given_to(lab.plan("b")).up().err().expect("it does not start");
    gone.is(3, "invalid", "cert.pem can't be read");
    // Nothing was begun that the next start would go on with.
    assert!(!lab.path("b").join("member.key").exists());
}
