//! What a member tells the service manager that started it. The manager is a socket of the test,
//! which hears what systemd would hear; systemd itself can't be run in tests.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixStream},
    },
    thread,
};

use common::{Lab, Member, PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};

/// Hears what a member says.
struct Manager(UnixDatagram);

impl Manager {
    /// At a path, or at an abstract name after an `@`.
    fn listen(at: &str) -> Self {
        let address = match at.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
            None => SocketAddr::from_pathname(at).unwrap(),
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("the member says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The first message with this line, and what was said before it.
    fn hear(&self, wanted: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let said = self.next();
            if said.lines().any(|line| line == wanted) {
                return (said, before);
            }
            before.push(said);
            assert!(before.len() < 1_000, "{wanted} is never said, but {before:?}");
        }
    }

    /// What was said and not heard yet.
    fn rest(&self) -> Vec<String> {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let mut said = Vec::new();
        while let Ok(length) = self.0.recv(&mut buffer) {
            said.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        said
    }
}

fn under(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn signal(member: &Member, signal: Signal) {
    let pid = member.ready["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_member_says_that_it_is_ready_that_it_lives_and_that_it_ends() {
    let lab = Lab::new((89, 1));
    let at = lab.path("notify");
    let manager = Manager::listen(at.to_str().unwrap());
    let mut plan = lab.plan("alpha");
    let socket = format!("NOTIFY_SOCKET={}", at.display());
    plan.under = under(&["env", &socket, "WATCHDOG_USEC=400000"]);
    let commands = plan.data.join("socket");
    let starting = thread::spawn(move || plan.up().unwrap());

    let (ready, before) = manager.hear("READY=1");
    // Whoever waited for it can give commands at once.
    UnixStream::connect(&commands).expect("it takes commands when it is ready");
    assert!(ready.contains("STATUS=alpha founded the cluster "), "{ready}");
    assert!(before.iter().all(|said| said.starts_with("STATUS=")), "{before:?}");
    let mut member = starting.join().unwrap();
    member.get("/").expect("and it answers clients, if only that there is no site");

    for _ in 0..3 {
        let (alive, _) = manager.hear("WATCHDOG=1");
        assert!(alive.contains("STATUS=1 of 1 members alive, 0 applications, health "), "{alive}");
    }

    signal(&member, Signal::HUP);
    let (reloading, _) = manager.hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let (_, between) = manager.hear("READY=1");
    assert!(between.iter().all(|said| said.starts_with("WATCHDOG=1")), "{between:?}");
    assert!(member.is_running(), "nobody is ended by a reload");

    signal(&member, Signal::TERM);
    manager.hear("STOPPING=1");
    until("it ends", || if member.is_running() { Err("it runs".to_owned()) } else { Ok(()) });
    let rest = manager.rest();
    assert_eq!(rest.last().map(String::as_str), Some("STOPPING=1\nSTATUS=Stopped"), "{rest:?}");
}

#[test]
fn a_member_that_is_not_admitted_is_never_ready_and_not_tried_again() {
    let lab = Lab::new((89, 2));
    let at = lab.path("notify");
    let manager = Manager::listen(at.to_str().unwrap());
    let mut plan = lab.plan("alpha");
    plan.under = under(&["env", &format!("NOTIFY_SOCKET={}", at.display())]);
    plan.more = under(&["--join", "127.0.89.9:9"]);
    let refused = plan.up().err().expect("it has no token");
    let said = manager.rest();
    assert!(!said.is_empty() && said.iter().all(|text| text.starts_with("STATUS=")), "{said:?}");

    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/packages/althing.service");
    let unit = fs::read_to_string(unit).unwrap();
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    let mut codes = codes.unwrap().split_whitespace();
    assert!(codes.any(|code| code == refused.code.to_string()), "{refused:?}");
}

/// What a unit gives a member is for the member: neither its word with the manager nor the
/// capabilities beside its user's rights are for programs that applications run.
#[test]
fn what_a_member_starts_is_given_nothing_that_the_unit_gives_the_member() {
    let lab = Lab::new((89, 3));
    let at = format!("@althing-notify-{}", std::process::id());
    let manager = Manager::listen(&at);
    let mut plan = lab.plan("alpha");
    plan.under = under(&[
        "setpriv",
        "--inh-caps",
        "+net_bind_service",
        "--ambient-caps",
        "+net_bind_service",
        "env",
        &format!("NOTIFY_SOCKET={at}"),
        "WATCHDOG_USEC=60000000",
    ]);
    let member = plan.up().unwrap();
    manager.hear("READY=1");
    let ambient = |text: &str| {
        let hex = text.lines().find_map(|line| line.strip_prefix("CapAmb:")).map(str::trim);
        hex.map(|hex| u64::from_str_radix(hex, 16).unwrap())
    };
    let status = fs::read_to_string(format!("/proc/{}/status", member.ready["pid"])).unwrap();
    // capabilities(7): CAP_NET_BIND_SERVICE
    assert_eq!(ambient(&status), Some(1 << 10), "the member itself has it");

    let show = "env; grep CapAmb /proc/self/status; echo done; exec sleep 1000";
    let manifest = format!(
        "[application]\nname = \"shop\"\n[services.show]\nrun = [\"sh\", \"-c\", \"{show}\"]\n"
    );
    let site = lab.site("shop", &[("index.html", "shop"), ("althing.toml", &manifest)]);
    member.publish(&site, &[]).unwrap();
    let said = until("the service has told what it has", || {
        let lines = member.run(&["logs", "shop", "show"]).map_err(|e| format!("{e:?}"))?;
        let lines = lines.as_array().ok_or("no lines")?;
        let lines: Vec<&str> = lines.iter().filter_map(|line| line["text"].as_str()).collect();
        let said = lines.join("\n");
        if lines.contains(&"done") { Ok(said) } else { Err(said) }
    });
    assert_eq!(ambient(&said), Some(0), "{said}");
    assert!(said.lines().any(|line| line.starts_with("PATH=")), "{said}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!said.contains(name), "{said}");
    }
}
