//! Where clients are, with real processes on three members and clients with addresses of their own: a
//! rule about where requests come from brings in who waits, and puts it back; a route has clients from
//! somewhere answered by chosen members, as long as they can be asked.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
mod common;
#[path = "common/mmdb.rs"]
mod mmdb;
#[expect(dead_code, reason = "tests/load and tests/serving need more of it")]
#[path = "common/shop.rs"]
mod shop;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use common::{Answer, Lab, Member, all_serve, until};
use shop::{PROGRAM, all_ready, ready};

/// What it says of its clients is believed.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const NEAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// By the file of the members.
const MEXICAN: Option<&str> = Some("203.0.113.7");
const GERMAN: Option<&str> = Some("198.51.100.7");
const UNKNOWN: Option<&str> = Some("192.0.2.7");

/// With these a member knows where clients are.
fn options(lab: &Lab) -> [String; 4] {
    let file = lab.path("countries.mmdb");
    let countries = [
        ("203.0.113.0/24", mmdb::of(Some("MX"), Some("NA"))),
        ("198.51.100.0/24", mmdb::of(Some("DE"), Some("EU"))),
    ];
    fs::write(&file, mmdb::file(&countries)).unwrap();
    let proxy = PROXY.to_string();
    ["--origins-db", file.to_str().unwrap(), "--trusted-proxy", &proxy].map(str::to_owned)
}

fn cluster(lab: &Lab, options: &[String]) -> [Member; 3] {
    lab.cluster_of(["a", "b", "c"].map(|name| {
        let mut plan = lab.plan(name);
        plan.more.extend_from_slice(options);
        plan
    }))
}

/// Somebody who asks: from where, whom, and for whom.
type Caller = (Ipv4Addr, SocketAddr, Option<&'static str>);

fn ask((from, whom, said): Caller, path: &str) -> Result<Answer, String> {
    let said = said.map(|client| format!("X-Forwarded-For: {client}\r\n")).unwrap_or_default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{said}\r\n");
    let answer = common::tcp_from(from, whom, head.as_bytes())?;
    if answer.status == 200 { Ok(answer) } else { Err(format!("{from}: {answer:?}")) }
}

/// Callers who ask one after the other, over and over. Each of them is answered.
struct Crowd {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn of<const N: usize>(path: &'static str, callers: [Caller; N]) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Answer>>>::default());
        let (stops, all) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = thread::spawn(move || {
            while !stops.load(SeqCst) {
                for caller in callers {
                    let answer = ask(caller, path).unwrap();
                    all.lock().unwrap().push(answer);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, answers, thread }
    }

    fn count(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    /// Waits until many more were answered.
    fn goes_on(&self) {
        let before = self.count();
        until("the crowd goes on being answered", || match self.count() {
            now if now > before + 40 => Ok(()),
            now => Err(format!("{before}, {now}")),
        });
    }

    fn end(self) -> Vec<Answer> {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.answers.lock().unwrap())
    }
}

fn is(asked: &Member, of: &str, service: &str) {
    until(&format!("{of} is {service}"), || {
        let view = asked.view()?;
        let member = view["members"].as_array().unwrap().iter().find(|m| m["name"] == of);
        let found = &member.ok_or("no such member")?["service"];
        if *found == service { Ok(()) } else { Err(found.to_string()) }
    });
}

/// What the log says of rules.
fn rules(asked: &Member, of: &str) -> String {
    let of = if of == "--all" { vec![of] } else { vec!["--member", of] };
    let told = asked.run(&[&["events", "--kind", "rule"], of.as_slice()].concat());
    told.map_or_else(|refused| format!("{refused:?}"), |events| events.to_string())
}

fn is_told(asked: &Member, of: &str, text: &str) {
    until(text, || match rules(asked, of) {
        told if told.contains(text) => Ok(()),
        told => Err(told),
    });
}

/// Covers R30: by where requests come from.
#[test]
fn requests_from_somewhere_bring_a_member_in_and_it_goes_again() {
    let lab = Lab::new((88, 1));
    let [a, b, c] = cluster(&lab, &options(&lab));
    let manifest = r#"
        [rules]
        near = "when cluster share(requests from 127.0.0.2/32, 10s) > 60% for 2s until cluster share(requests from 127.0.0.2/32, 10s) < 20% for 2s then in 1"
        mexico = "warning when cluster share(requests from MX, 10s) > 60% for 2s until cluster share(requests from MX, 10s) < 20% for 2s then log"
        own = "when share(requests from 127.0.0.2/32, 10s) > 60% for 2s then log"
        "#;
    let site = lab.site("site", &[("index.html", "one"), ("althing.toml", manifest)]);
    a.publish(&site, &["--app", "shop"]).unwrap();
    all_serve(&[&a, &b, &c], "shop/1", "one");
    a.run(&["drain", "c", "--wait"]).unwrap();
    is(&b, "c", "standby");

    // Three in four of all, all of those of one member, and half of those of another one. What they
    // say of themselves nobody believes.
    let (by_a, by_b) = (a.site(), b.site());
    let near = Crowd::of(
        "/",
        [(NEAR, by_a, MEXICAN), (NEAR, by_a, None), (NEAR, by_b, MEXICAN), (OTHER, by_b, MEXICAN)],
    );
    is(&b, "c", "in service");
    is_told(&b, "a", "rule own of shop acts: share(requests from 127.0.0.2/32, 10s) > 60% (");
    is_told(
        &b,
        "--all",
        "rule near of shop acts: cluster share(requests from 127.0.0.2/32, 10s) > 60% (",
    );
    let told = rules(&b, "--all");
    assert!(told.contains("in service now: c") && !told.contains("mexico"), "{told}");
    let told = rules(&a, "b");
    assert!(!told.contains("rule own"), "{told}");
    near.end();

    // The same machine for others: a proxy that is believed.
    let mexicans = Crowd::of(
        "/",
        [
            (PROXY, by_a, MEXICAN),
            (PROXY, by_b, MEXICAN),
            (PROXY, by_b, MEXICAN),
            (PROXY, by_b, GERMAN),
        ],
    );
    is(&b, "c", "standby");
    is_told(
        &b,
        "--all",
        "rule near of shop acts no more: cluster share(requests from 127.0.0.2/32",
    );
    is_told(&b, "--all", "rule mexico of shop acts: cluster share(requests from MX, 10s) > 60% (");
    until("it is a reason of the health", || {
        let view = b.view()?;
        let reasons = view["reasons"].to_string();
        if reasons.contains("Rule mexico of shop acts since") { Ok(()) } else { Err(reasons) }
    });
    mexicans.end();

    let germans = Crowd::of("/", [(PROXY, by_a, GERMAN), (PROXY, by_b, GERMAN)]);
    is_told(
        &b,
        "--all",
        "rule mexico of shop acts no more: cluster share(requests from MX, 10s) < 20%",
    );
    germans.end();
    // Each of them once.
    let told = rules(&b, "--all");
    assert_eq!(told.matches("rule near of shop acts: ").count(), 1, "{told}");
    assert_eq!(told.matches("rule mexico of shop acts: ").count(), 1, "{told}");
}

/// By process, on which member it runs.
fn processes(asked: &Member) -> BTreeMap<String, String> {
    all_ready(asked, 3, 1);
    let each = ready(asked, 1);
    each.iter().map(|s| (s["pid"].to_string(), s["member"].as_str().unwrap().to_owned())).collect()
}

/// On which member the program ran that answered. None if its answer was cut.
fn answered_by(processes: &BTreeMap<String, String>, answer: &Answer) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, pid, "/api/x"] = words[..] else { return None };
    Some(processes[pid].clone())
}

/// Waits until these alone answer whoever asks one of `whom`.
fn all_by(
    processes: &BTreeMap<String, String>,
    whom: &[&Member],
    from: Ipv4Addr,
    said: Option<&'static str>,
    expected: &[&str],
) {
    until(&format!("{from} for {said:?} is answered by {expected:?}"), || {
        for member in whom {
            let mut found = BTreeSet::new();
            for _ in 0..8 {
                let answer = ask((from, member.site(), said), "/api/x")?;
                found.extend(answered_by(processes, &answer));
            }
            if found.is_empty() || !found.iter().all(|name| expected.contains(&name.as_str())) {
                return Err(format!("{}: {found:?}", member.name()));
            }
        }
        Ok(())
    });
}

/// Covers R27, R30: by where a client is.
#[test]
fn clients_from_somewhere_are_answered_by_chosen_members_as_long_as_they_can_be_asked() {
    let lab = Lab::new((88, 2));
    let options = options(&lab);
    let [a, b, mut c] = cluster(&lab, &options);
    let manifest = r#"
        [application]
        name = "shop"
        [services.api]
        run = ["python3", "api.py"]
        ready = { tcp = "127.0.0.1:$PORT", within = "10s" }
        [[routes]]
        path = "/api"
        service = "api"
        prefer = [
            { from = ["127.0.0.2/32"], members = "region == east" },
            { from = ["MX", "continent:EU"], members = "region == west" },
        ]
        "#;
    let files = [("althing.toml", manifest), ("api.py", PROGRAM), ("stamp", "1\n")];
    let site = lab.site("shop", &files);
    a.run(&["tags", "b", "set", "region=east"]).unwrap();
    a.run(&["tags", "c", "set", "region=west"]).unwrap();
    a.publish(&site, &[]).unwrap();
    let running = processes(&a);
    let all = [&a, &b, &c];
    all_by(&running, &all, NEAR, None, &["b"]);
    all_by(&running, &all, PROXY, MEXICAN, &["c"]);
    all_by(&running, &all, PROXY, GERMAN, &["c"]);
    // Who is from nowhere else is answered where it came, and so is who only says that it is.
    for (from, said) in [(OTHER, None), (PROXY, UNKNOWN), (OTHER, MEXICAN)] {
        all_by(&running, &[&a], from, said, &["a"]);
    }

    // Out of service: others answer, and it still knows who is to answer whom.
    let crowd = Crowd::of("/api/x", [(PROXY, a.site(), MEXICAN), (PROXY, b.site(), GERMAN)]);
    crowd.goes_on();
    a.run(&["drain", "c"]).unwrap();
    all_by(&running, &all, PROXY, MEXICAN, &["a", "b"]);
    all_by(&running, &all, NEAR, None, &["b"]);
    crowd.goes_on();
    a.run(&["resume", "c"]).unwrap();
    all_by(&running, &all, PROXY, MEXICAN, &["c"]);
    crowd.goes_on();
    let answers = crowd.end();
    let cut = answers.iter().filter(|answer| answered_by(&running, answer).is_none()).count();
    assert_eq!(cut, 0, "what is planned costs no answer");

    // Dead: all of these may be asked once more, but for one whose answer had begun.
    let callers = [(PROXY, a.site(), MEXICAN), (PROXY, b.site(), GERMAN)];
    let crowd = Crowd::of("/api/x", callers);
    crowd.goes_on();
    c.kill();
    all_by(&running, &[&a, &b], PROXY, MEXICAN, &["a", "b"]);
    crowd.goes_on();
    let mut plan = c.again();
    plan.more.extend_from_slice(&options);
    let c = plan.up().unwrap();
    let restarted = processes(&a);
    all_by(&restarted, &[&a, &b, &c], PROXY, MEXICAN, &["c"]);
    crowd.goes_on();
    let either: BTreeMap<String, String> = running.into_iter().chain(restarted).collect();
    let answers = crowd.end();
    let by: Vec<Option<String>> =
        answers.iter().map(|answer| answered_by(&either, answer)).collect();
    let cut = by.iter().filter(|name| name.is_none()).count();
    assert!(cut <= callers.len(), "{cut} were cut, of {}", answers.len());
    // First by it, then by others, and at last by it again.
    let whole: Vec<&str> = by.iter().flatten().map(String::as_str).collect();
    assert_eq!((whole.first(), whole.last()), (Some(&"c"), Some(&"c")));
    assert!(whole.iter().any(|name| *name != "c"), "somebody answered for it");
}
