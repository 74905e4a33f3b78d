//! Bad input to the real program: each is refused with its exit code, a reason
//! for scripts and three sentences for people, and nothing is lost by it: the
//! cluster goes on and holds what it held.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    Lab, Member, PATIENCE, all_serve, invite, mounts_allowed, run_on, settled, tcp, until,
};
use serde_json::{Value, json};

/// The names of the members that `member` knows.
fn names(member: &Member) -> BTreeSet<String> {
    let view = member.view().unwrap();
    let members = view["members"].as_array().unwrap().iter();
    members.map(|m| m["name"].as_str().unwrap().to_owned()).collect()
}

/// `member` still publishes, and serves it.
fn still_publishes(lab: &Lab, member: &Member, version: u64) {
    let text = format!("still {version}");
    let site = lab.site(&format!("still-{}-{version}", member.name()), &[("index.html", &text)]);
    let done = member.publish(&site, &["--app", "web"]).unwrap();
    assert_eq!(done["version"], version, "{done}");
    all_serve(&[member], &format!("web/{version}"), &text);
}

fn has_joined(data: &Path) -> bool {
    data.join("records/register").exists()
}

// Tokens.

#[test]
fn a_token_that_is_not_good_admits_nobody() {
    let lab = Lab::new((21, 1));
    let (ours, theirs) = (lab.found("ours"), lab.found("theirs"));
    let token = invite(&ours, &[]);
    let sequence = ours.sequence();
    let plan = lab.plan("newcomer");
    let refused = |seed: SocketAddr, token: &str| {
        let refused = plan.clone().joining(seed, token).up().map(|m| m.ready.clone()).unwrap_err();
        assert!(!has_joined(&plan.data));
        refused
    };
    for garbage in ["garbage", "althing-", "althing-AAAA", &token[..token.len() - 5], &token[4..]] {
        refused(ours.address(), garbage).is(3, "invalid", "not a token of");
    }
    let mut without = plan.clone();
    without.more = vec!["--join".into(), ours.address().to_string()];
    without.up().map(|m| m.ready.clone()).unwrap_err().is(7, "forbidden", "needs a token");

    // Every bit in its place except one of the key: after the cluster's id and the sequence.
    let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("althing-").unwrap()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let forged = format!("althing-{}", URL_SAFE_NO_PAD.encode(bytes));
    refused(ours.address(), &forged).is(7, "forbidden", "never issued it");

    // Another cluster's token, and another cluster's member with ours.
    let foreign = invite(&theirs, &[]);
    refused(ours.address(), &foreign).is(7, "forbidden", "another cluster");
    refused(theirs.address(), &token).is(7, "forbidden", "another cluster");

    assert_eq!(ours.sequence(), sequence, "nothing of this changed the catalog");
    assert_eq!(names(&ours), ["ours".to_owned()].into());
    let newcomer = plan.joining(ours.address(), &token).up().unwrap();
    settled(&[ours, newcomer]);
}

#[test]
fn a_token_is_used_up_and_expires() {
    let lab = Lab::new((21, 2));
    let first = lab.found("first");
    let token = invite(&first, &[]);
    let second = lab.plan("second").joining(first.address(), &token).up().unwrap();
    let late = lab.plan("late").joining(first.address(), &token);
    let data = late.data.clone();
    late.clone().up().map(|_| ()).unwrap_err().is(7, "forbidden", "used up");
    // Nor through the other member.
    let mut other = late.clone();
    other.more[1] = second.address().to_string();
    other.up().map(|_| ()).unwrap_err().is(7, "forbidden", "used up");
    assert!(!has_joined(&data));

    // One that is taken back, on the other member than it was issued on.
    let open = first.run(&["invite", "--uses", "3"]).unwrap();
    let id = open["id"].as_str().unwrap();
    // It may not have heard of it yet.
    until("the other member takes it back", || {
        second.run(&["invites", "withdraw", id]).map(drop).map_err(|refused| format!("{refused:?}"))
    });
    let withdrawn = lab.plan("late").joining(first.address(), open["token"].as_str().unwrap());
    withdrawn.up().map(|_| ()).unwrap_err().is(7, "forbidden", "it was withdrawn");
    assert!(!has_joined(&data));

    let brief = first.run(&["invite", "--valid", "1s"]).unwrap();
    let expires = Duration::from_millis(brief["expires_ms"].as_u64().unwrap());
    until("the token has expired", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if now > expires { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let brief = brief["token"].as_str().unwrap();
    let expired = lab.plan("late").joining(first.address(), brief);
    expired.up().map(|_| ()).unwrap_err().is(7, "forbidden", "expired at");

    // The name is taken, and the token is not spent on that.
    let token = invite(&first, &[]);
    let mut twin = lab.plan("twin").joining(first.address(), &token);
    twin.name = "second".into();
    twin.clone().up().map(|_| ()).unwrap_err().is(5, "conflict", "of that name");
    assert_eq!(names(&first), ["first".to_owned(), "second".to_owned()].into());
    twin.name = "third".into();
    let third = twin.up().unwrap();
    settled(&[first, second, third]);
}

#[test]
fn a_member_stays_in_its_own_cluster() {
    let lab = Lab::new((21, 3));
    let (mut ours, theirs) = (lab.found("ours"), lab.found("theirs"));
    still_publishes(&lab, &ours, 1);
    let token = invite(&theirs, &[]);
    let (sequence, foreign) = (ours.sequence(), theirs.sequence());
    ours.kill();
    let lost = ours.again().joining(theirs.address(), &token);
    lost.up().map(|_| ()).unwrap_err().is(7, "forbidden", "another cluster");
    assert_eq!(theirs.sequence(), foreign);
    assert_eq!(names(&theirs), ["theirs".to_owned()].into());
    // As it was, it comes back as it was.
    let ours = ours.again().up().unwrap();
    assert_eq!(ours.sequence(), sequence);
    all_serve(&[&ours], "web/1", "still 1");
}

// The removed.

#[test]
fn a_removed_member_ends_and_stays_out() {
    let lab = Lab::new((22, 1));
    let [a, b, mut c] = lab.cluster(["a", "b", "c"]);
    a.run(&["remove", "nobody"]).unwrap_err().is(4, "not-found", "nobody");
    a.run(&["remove", "a"]).unwrap_err().is(3, "invalid", "the member that you are asking");
    let token = invite(&a, &[]);
    let old = lab.plan("d").joining(a.address(), &token);
    let d = old.clone().up().unwrap();
    let members = [a, b, c, d];
    settled(&members);
    let [a, b, c_again, mut d] = members;
    c = c_again;

    a.run(&["remove", "d"]).unwrap();
    d.ended().is(7, "forbidden", "removed from the cluster");
    d.again().up().map(|_| ()).unwrap_err().is(7, "forbidden", "removed");
    // With nothing of its past but the token that let it in.
    fs::remove_dir_all(&old.data).unwrap();
    old.up().map(|_| ()).unwrap_err().is(7, "forbidden", "used up");

    // Removed while it was away, it is told when it is back, and ends.
    c.kill();
    until("c is seen down", || match a.run(&["remove", "c"]) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
    });
    match c.again().up() {
        // The two others are a majority of the three that it knows.
        Ok(mut c) => c.ended().is(7, "forbidden", "removed from the cluster"),
        Err(refused) => refused.is(7, "forbidden", "removed"),
    }
    settled(&[a, b]);
}

// What is thrown at the ports.

/// Small and repeatable randomness.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn garbage_on_the_cluster_port_disturbs_nothing() {
    let lab = Lab::new((23, 1));
    let members = lab.cluster(["a", "b", "c"]);
    let targets: Vec<SocketAddr> = members.iter().map(Member::address).collect();
    let (stop, thrown) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.23.1.99:0").unwrap();
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
            while !stop.load(Ordering::Relaxed) {
                let length = match chance.next() % 8 {
                    0 => 0,
                    1 => 1,
                    2 => 65_507,
                    3 => 1_200,
                    _ => (chance.next() % 1_500) as usize,
                };
                let mut packet = chance.bytes(length.min(1_500));
                packet.resize(length, 0);
                // Half of them begin as QUIC does: an Initial of version 1, cut or filled.
                if chance.next().is_multiple_of(2) && length >= 5 {
                    packet[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
                }
                for target in &targets {
                    // A full queue of the receiver is its right.
                    let _sent = socket.send_to(&packet, target);
                }
                if thrown.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for version in 1..=3 {
                still_publishes(&lab, &members[version % 3], version as u64);
            }
            until("enough was thrown", || {
                let thrown = thrown.load(Ordering::Relaxed);
                if thrown > 5_000 { Ok(()) } else { Err(thrown.to_string()) }
            });
        }));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    settled(&members);
    for member in &members {
        assert!(!member.events().contains("is down"), "{}", member.events());
    }
    all_serve(&members.each_ref(), "web/3", "still 3");
}

#[test]
fn garbage_on_the_doors_is_answered_and_disturbs_nothing() {
    let lab = Lab::new((23, 2));
    let mut member = lab.found("a");
    still_publishes(&lab, &member, 1);
    let mut chance = Chance(7);
    let noise = chance.bytes(20_000);
    let long = format!("GET /{} HTTP/1.1\r\nHost: l\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let twice = "GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    let requests: [&[u8]; 6] = [
        &noise,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", // a TLS greeting
        b"GET / SMTP/9\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        twice.as_bytes(),
    ];
    for request in requests {
        let start = String::from_utf8_lossy(&request[..request.len().min(30)]).into_owned();
        for door in [member.site(), member.status()] {
            // An answer that says whose mistake it was, or none for what is no HTTP.
            if let Ok(answer) = tcp(door, request) {
                assert!((400..=599).contains(&answer.status), "{door} {start}: {answer:?}");
            }
        }
        if let Ok(answer) = member.ask(request) {
            assert!((400..=599).contains(&answer.status), "{start}: {answer:?}");
        }
        member.serves("web/1", "still 1").unwrap();
    }

    let post = |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        member.ask(&[head.as_bytes(), body].concat()).unwrap().refusal()
    };
    // A question may be about a list of changes, and those are long.
    let (usual, long) = (1 << 20, 64 << 20);
    let doors = [("/api/v1/command", usual), ("/api/v1/publish", usual), ("/api/v1/inspect", long)];
    for (path, bytes_max) in doors {
        post(path, b"{").is(400, "invalid", "can't be read");
        post(path, b"").is(400, "invalid", "can't be read");
        post(path, &noise).is(400, "invalid", "can't be read");
        post(path, "[".repeat(100_000).as_bytes()).is(400, "invalid", "can't be read");
        let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes_max));
        post(path, large.as_bytes()).is(413, "invalid", &bytes_max.to_string());
    }
    post("/api/v1/command", br#"{"explode":{}}"#).is(400, "invalid", "explode");
    post("/api/v1/command", br#"{"remove":{"name":"../x"}}"#).is(400, "invalid", "can't be read");
    post("/api/v1/nothing", b"{}").is(404, "not-found", "");
    let relative = json!({ "app": null, "source": "x", "message": "", "base": null, "hosts": [] });
    post("/api/v1/publish", relative.to_string().as_bytes()).is(400, "invalid", "absolute");
    let strange = json!({ "app": "../x", "source": "/", "message": "", "base": null, "hosts": [] });
    post("/api/v1/publish", strange.to_string().as_bytes()).is(400, "invalid", "can't be read");
    // Commands come by the socket alone, unless an operator's token is shown.
    let head = "POST /api/v1/command HTTP/1.1\r\nHost: l\r\nConnection: close\r\n";
    for (more, status) in [("", 415), ("Content-Type: application/json\r\n", 401)] {
        let request = format!("{head}{more}Content-Length: 7\r\n\r\n\"leave\"");
        let answer = tcp(member.status(), request.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        answer.refusal();
    }

    assert!(member.is_running());
    still_publishes(&lab, &member, 2);
}

// Publishing what can't be published.

#[test]
fn what_cannot_be_published_is_refused_by_name() {
    let lab = Lab::new((24, 1));
    let member = lab.found("a");
    still_publishes(&lab, &member, 1);
    let sequence = member.sequence();
    let refused = |path: &Path, why: &str| {
        let refused = member.publish(path, &["--app", "web"]).unwrap_err();
        refused.is(3, "invalid", why);
        refused
    };
    fs::create_dir(lab.path("empty")).unwrap();
    refused(&lab.path("empty"), "holds nothing to publish");
    refused(&lab.path("missing"), "is not there");
    fs::write(lab.path("file"), "x").unwrap();
    refused(&lab.path("file"), "is not a directory");
    let (data, ours) = (&member.data, "is in the data directory of this member, or holds it");
    symlink(data.join("records"), lab.path("records")).unwrap();
    for path in [data.join("records"), data.join("live"), lab.path("records"), lab.path("")] {
        refused(&path, ours);
    }
    let list = lab.path("list.json");
    let key = data.join("member.key");
    let add = json!([{"op": "ADD", "path": "key", "content": key}]);
    fs::write(&list, add.to_string()).unwrap();
    let update = ["publish", "--app", "web", "--update", list.to_str().unwrap()];
    member.run(&update).unwrap_err().is(3, "invalid", "is in the data directory of this member");

    let strange = |name: &str| lab.site(name, &[("index.html", "x")]).join("strange");
    let _listener = UnixListener::bind(strange("socket")).unwrap();
    refused(&lab.path("socket"), "strange is a socket");
    rustix::fs::mkfifoat(rustix::fs::CWD, strange("pipe"), 0o644.into()).unwrap();
    refused(&lab.path("pipe"), "strange is a pipe");
    symlink("/etc/hostname", strange("link")).unwrap();
    refused(&lab.path("link"), "outside of the tree");
    symlink("../file", strange("up")).unwrap();
    refused(&lab.path("up"), "outside of the tree");
    fs::write(strange("setuid"), "x").unwrap();
    fs::set_permissions(strange("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    refused(&lab.path("setuid"), "permissions 4755");
    let is_root = rustix::process::geteuid().is_root();
    let device = rustix::fs::makedev(1, 3); // as /dev/null
    let kind = rustix::fs::FileType::CharacterDevice;
    let path = strange("device");
    if is_root && rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o644.into(), device).is_ok() {
        refused(&lab.path("device"), "strange is a character device");
    } else {
        println!("left out: a device, which only root can make");
    }
    if is_root {
        println!("left out: an unreadable file, because root reads everything");
    } else {
        fs::write(strange("secret"), "x").unwrap();
        fs::set_permissions(strange("secret"), fs::Permissions::from_mode(0o000)).unwrap();
        refused(&lab.path("secret"), "can't be read");
    }

    let manifest =
        |name: &str, text: &str| lab.site(name, &[("index.html", "x"), ("althing.toml", text)]);
    let bad = manifest("bad-1", "[application]\nname = \"web\"\n  hots = [\"a.example\"]\n");
    refused(&bad, "line 3, column 3");
    refused(&bad, "hots");
    refused(&manifest("bad-2", "[application]\nname = "), "line 2, column 8");
    let name = manifest("bad-3", "[application]\nname = \"../web\"\n");
    member.publish(&name, &[]).unwrap_err().is(3, "invalid", "althing.toml");
    refused(&manifest("bad-4", "[application]\nhosts = [\"a b\"]\n"), "\"a b\" is no host name");
    refused(&manifest("bad-5", "[application]\nignore = [\"[z-a]\"]\n"), "pattern \"[z-a]\"");
    let usage = member.publish(&name, &["--app", "../web"]).unwrap_err();
    assert!(usage.code == 2 && usage.what.contains("--app"), "{usage:?}");
    let nameless = lab.site("nameless", &[("index.html", "x")]);
    member.publish(&nameless, &[]).unwrap_err().is(3, "invalid", "no name");
    // What is read from standard input is no better than what is read from disk.
    let set = |value: &str| member.run_with(&["secret", "set", "web", "key"], value).unwrap_err();
    set("").is(3, "invalid", "key");
    set("a\0b").is(3, "invalid", "key");
    set(&"x".repeat(17 << 10)).is(3, "invalid", "key");

    assert_eq!(member.sequence(), sequence, "nothing of this changed the catalog");
    member.serves("web/1", "still 1").unwrap();
    still_publishes(&lab, &member, 2);
    // What is below live/ may be: here it is what is published already.
    let live = member.publish(&data.join("live/web"), &["--app", "web"]).unwrap_err();
    assert!(live.why.contains("what version 2 holds already"), "{live:?}");
}

#[test]
fn a_file_that_is_being_written_is_not_published_by_halves() {
    let lab = Lab::new((24, 2));
    let member = lab.found("a");
    still_publishes(&lab, &member, 1);
    let site = lab.site("growing", &[("index.html", "x")]);
    let path = site.join("log");
    fs::write(&path, vec![b'x'; 64 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) && start.elapsed() < PATIENCE * 3 {
                file.write_all(&[b'y'; 512]).unwrap();
                // Slower than a disk, so that it is not the test that fills it.
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let outcome = member.publish(&site, &["--app", "web"]);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.unwrap_err().is(3, "invalid", "log changed while it was read");
    member.serves("web/1", "still 1").unwrap();
    // At rest, it is content as any other.
    fs::write(&path, "done").unwrap();
    assert_eq!(member.publish(&site, &["--app", "web"]).unwrap()["version"], 2);
}

#[test]
fn of_two_publishers_one_wins_and_the_other_is_told() {
    let lab = Lab::new((24, 3));
    let members = lab.cluster(["a", "b", "c"]);
    still_publishes(&lab, &members[0], 1);
    still_publishes(&lab, &members[1], 2);
    let old = lab.site("old", &[("index.html", "made from 1")]);
    let refused = members[2].publish(&old, &["--app", "web", "--base", "1"]).unwrap_err();
    refused.is(5, "conflict", "version 2 meanwhile");
    let ahead = members[2].publish(&old, &["--app", "web", "--base", "9"]).unwrap_err();
    assert!(ahead.reason == "conflict" || ahead.reason == "invalid", "{ahead:?}");

    let mut current = 2;
    for round in 0..3 {
        let sites = ["x", "y"].map(|who| {
            lab.site(&format!("{who}{round}"), &[("index.html", &format!("{who} {round}"))])
        });
        let base = current.to_string();
        let options = ["--app", "web", "--base", &base];
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| members[0].publish(&sites[0], &options));
            let two = scope.spawn(|| members[1].publish(&sites[1], &options));
            (one.join().unwrap(), two.join().unwrap())
        });
        let (won, lost, text) = match (one, two) {
            (Ok(won), Err(lost)) => (won, lost, format!("x {round}")),
            (Err(lost), Ok(won)) => (won, lost, format!("y {round}")),
            both => panic!("not exactly one won: {both:?}"),
        };
        current += 1;
        assert_eq!(won["version"], current);
        match lost.reason.as_str() {
            "busy" => lost.is(5, "busy", "is publishing web"),
            _ => lost.is(5, "conflict", "meanwhile"),
        }
        all_serve(&members.each_ref(), &format!("web/{current}"), &text);
    }
}

// Full disks.

fn noise(path: &Path, seed: u64, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, Chance(seed).bytes(bytes)).unwrap();
}

/// Takes all the room that is left, except so many bytes.
fn fill(path: &Path, leave: u64) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![b'f'; 64 << 10];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(leave)).unwrap();
}

#[test]
fn a_full_disk_refuses_a_publication_and_loses_nothing() {
    if !mounts_allowed() {
        return println!("left out: this user may not mount a small disk");
    }
    let lab = Lab::new((25, 1));
    let mut member = lab.plan("a").on_disk_of(48 << 20).up().unwrap();
    still_publishes(&lab, &member, 1);
    let sequence = member.sequence();
    let site = lab.site("large", &[("index.html", "large")]);
    noise(&site.join("noise"), 1, 64 << 20);
    let refused = member.publish(&site, &["--app", "web"]).unwrap_err();
    refused.is(1, "failed", "room left");
    assert!(refused.what.contains("stays as it was"), "{refused:?}");
    assert_eq!(member.sequence(), sequence);
    member.serves("web/1", "still 1").unwrap();
    // What was staged in vain is not in the way of what fits.
    still_publishes(&lab, &member, 2);

    let filler = member.data.with_file_name("filler");
    fill(&filler, 0);
    let small = lab.site("small", &[("index.html", "small")]);
    noise(&small.join("noise"), 2, 1 << 20);
    let refused = member.publish(&small, &["--app", "web"]).unwrap_err();
    assert!(refused.reason == "failed" || refused.reason == "no-majority", "{refused:?}");
    refused.is(refused.code, &refused.reason, "");
    assert!(member.is_running());
    member.serves("web/2", "still 2").unwrap();
    fs::remove_file(&filler).unwrap();
    let published = until("it publishes again", || {
        member.publish(&small, &["--app", "web"]).map_err(|e| format!("{e:?}"))
    });
    let version = published["version"].as_u64().unwrap();
    all_serve(&[&member], &format!("web/{version}"), "small");
}

#[test]
fn a_member_with_a_full_disk_stays_behind_and_catches_up() {
    if !mounts_allowed() {
        return println!("left out: this user may not mount a small disk");
    }
    let lab = Lab::new((25, 2));
    let plans = [lab.plan("a"), lab.plan("b"), lab.plan("c").on_disk_of(48 << 20)];
    let [a, b, mut c] = lab.cluster_of(plans);
    still_publishes(&lab, &a, 1);
    all_serve(&[&a, &b, &c], "web/1", "still 1");
    // Room for what it must write down, and not for what comes.
    let filler = c.data.with_file_name("filler");
    fill(&filler, 4 << 20);
    let site = lab.site("large", &[("index.html", "large")]);
    noise(&site.join("noise"), 3, 12 << 20);
    let published = a.publish(&site, &["--app", "web"]).unwrap();
    assert_eq!(published["version"], 2);
    all_serve(&[&a, &b], "web/2", "large");
    assert!(c.is_running());
    until("c says why it is behind", || {
        let events = c.events();
        if events.contains("room left") || events.contains("space is left") {
            return Ok(());
        }
        Err(events)
    });
    let live = fs::read_to_string(c.data.join("live/web/index.html")).unwrap();
    assert_eq!(live, "still 1", "it keeps the version that it has");
    // And what it serves is whole: its own, or what a member with the new one gives it.
    assert!(c.serves("web/1", "still 1").or_else(|_| c.serves("web/2", "large")).is_ok());
    fs::remove_file(&filler).unwrap();
    until("c has caught up", || {
        let view = c.view()?;
        let app = &view["applications"][0];
        let positions = app["positions"].as_array().ok_or("no positions")?;
        let fine = positions.iter().all(|p| p["position"] == "agrees");
        if app["vote"] == "unanimous" && fine { Ok(()) } else { Err(app.to_string()) }
    });
    all_serve(&[&a, &b, &c], "web/2", "large");
    settled(&[a, b, c]);
}

// Ports and directories.

#[test]
fn a_port_in_use_is_named_and_nothing_is_left() {
    let lab = Lab::new((26, 1));
    let first = lab.found("first");
    let token = invite(&first, &[]);
    let plan = lab.plan("second").joining(first.address(), &token);
    let udp = UdpSocket::bind(plan.bind).unwrap();
    let taken = TcpListener::bind(plan.bind).unwrap();
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), taken.local_addr().unwrap());
    let refused = |change: &dyn Fn(&mut common::Plan), at: SocketAddr| {
        for joins in [true, false] {
            let mut plan = plan.clone();
            if !joins {
                plan.more.clear();
            }
            change(&mut plan);
            let refused = plan.up().map(|_| ()).unwrap_err();
            refused.is(1, "failed", "in use");
            let named = refused.why.contains(&at.port().to_string())
                && refused.why.contains(&at.ip().to_string());
            assert!(named, "{at} is not named: {refused:?}");
        }
        assert!(!has_joined(&lab.path("second")));
    };
    refused(&|plan| plan.bind = udp_at, udp_at);
    refused(&|plan| plan.listen = tcp_at, tcp_at);
    refused(&|plan| plan.status = tcp_at, tcp_at);
    // No address of this server.
    let mut elsewhere = plan.clone();
    elsewhere.bind = "192.0.2.1:0".parse().unwrap();
    elsewhere.up().map(|_| ()).unwrap_err().is(1, "failed", "192.0.2.1");
    assert!(!has_joined(&plan.data));
    // A socket's path has an end; better said before it has joined.
    let mut long = plan.clone();
    long.data = lab.path(&"long".repeat(30));
    long.clone().up().map(|_| ()).unwrap_err().is(3, "invalid", "longer");
    assert!(!has_joined(&long.data));

    assert_eq!(names(&first), ["first".to_owned()].into());
    let second = plan.up().unwrap();
    settled(&[first, second]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_left_as_it_is() {
    let lab = Lab::new((26, 2));
    let [a, b, mut c] = lab.cluster(["a", "b", "c"]);
    still_publishes(&lab, &a, 1);
    all_serve(&[&c], "web/1", "still 1");

    // A second process on one directory, with ports of its own.
    let mut second = lab.plan("second");
    second.data = c.data.clone();
    second.up().map(|_| ()).unwrap_err().is(1, "failed", "in use by another");
    c.serves("web/1", "still 1").unwrap();
    c.run(&["status"]).unwrap();

    c.kill();
    let refused = |why: &str| {
        let before = contents(&c.data);
        let refused = c.again().up().map(|_| ()).unwrap_err();
        refused.is(1, "failed", why);
        assert_eq!(contents(&c.data), before, "it touched what it can't use");
        refused
    };
    let format = c.data.join("format");
    let text = fs::read_to_string(&format).unwrap();
    let newer = text.replace(|c: char| c.is_ascii_digit(), "7");
    assert_ne!(newer, text);
    fs::write(&format, newer).unwrap();
    refused("a newer Althing");
    fs::write(&format, &text).unwrap();

    let register = c.data.join("records/register");
    let whole = fs::read(&register).unwrap();
    fs::write(&register, &whole[..whole.len() - 7]).unwrap();
    refused("records/register is damaged");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    fs::write(&register, &flipped).unwrap();
    let advice = refused("records/register is damaged");
    // What it promised is in there: nobody is told to go on without it.
    assert!(!advice.why.contains("remove"), "{advice:?}");

    // And if somebody does: a voter that forgot what it promised is not let in.
    fs::remove_file(&register).unwrap();
    let token = invite(&a, &[]);
    let forgetful = c.again().joining(a.address(), &token);
    forgetful.up().map(|_| ()).unwrap_err().is(5, "conflict", "has a vote");
    assert!(!register.exists());

    let foreign = lab.plan("foreign");
    lab.site("foreign", &[("index.html", "mine")]);
    foreign.up().map(|_| ()).unwrap_err().is(1, "failed", "holds other files");
    assert_eq!(fs::read_dir(lab.path("foreign")).unwrap().count(), 1);

    fs::write(&register, &whole).unwrap();
    let c = c.again().up().unwrap();
    all_serve(&[&c], "web/1", "still 1");
    settled(&[a, b, c]);
}

/// Every record of a data directory with its bytes.
fn contents(data: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = [data.to_owned(), data.join("records")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn a_command_where_no_member_runs_says_so() {
    let lab = Lab::new((26, 3));
    let site = lab.site("site", &[("index.html", "x")]);
    let site = site.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["status"],
        &["members"],
        &["invite"],
        &["publish", site, "--app", "web"],
        &["remove", "a"],
        &["leave"],
        &["events"],
    ];
    for command in commands {
        run_on(&lab.path("none"), command).unwrap_err().is(4, "not-found", "none listens");
    }
    assert!(!lab.path("none").exists());
    // What a killed member leaves behind is no member.
    let mut member = lab.found("a");
    member.kill();
    assert!(member.data.join("socket").exists());
    for command in commands {
        member.run(command).unwrap_err().is(4, "not-found", "none listens");
    }
}

// What was acknowledged is durable.

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let lab = Lab::new((27, 1));
    let mut members = lab.cluster(["a", "b", "c"]);
    // The one that published, killed the moment it said so.
    for version in 1..=3_u64 {
        let text = format!("durable {version}");
        let site = lab.site(&format!("durable-{version}"), &[("index.html", &text)]);
        let who = &mut members[version as usize % 3];
        let done = who.publish(&site, &["--app", "web"]).unwrap();
        who.kill();
        assert_eq!(done["version"], version);
        *who = who.again().up().unwrap();
        all_serve(&[who], &format!("web/{version}"), &text);
        settled(&members);
    }
    // All at once, and all of them back.
    let before: Vec<Value> = members.iter().map(applications).collect();
    let sequence = members[0].sequence();
    for member in &mut members {
        member.kill();
    }
    let members = std::thread::scope(|scope| {
        let up = members.each_ref().map(|m| m.again()).map(|plan| scope.spawn(|| plan.up()));
        up.map(|started| started.join().unwrap().unwrap())
    });
    settled(&members);
    all_serve(&members.each_ref(), "web/3", "durable 3");
    assert_eq!(members.iter().map(applications).collect::<Vec<_>>(), before);
    assert!(members.iter().all(|m| m.sequence() >= sequence));
    until("all agree", || {
        for member in &members {
            let vote = member.view()?["applications"][0]["vote"].clone();
            if vote != "unanimous" {
                return Err(format!("{} sees {vote}", member.name()));
            }
        }
        Ok(())
    });
    // One that was alone: nobody else could tell it.
    let mut alone = lab.found("alone");
    for version in 1..=3 {
        still_publishes(&lab, &alone, version);
        alone.kill();
        alone = alone.again().up().unwrap();
        all_serve(&[&alone], &format!("web/{version}"), &format!("still {version}"));
    }
}

/// The applications with their versions.
fn applications(member: &Member) -> Value {
    let view = member.view().unwrap();
    let of = |app: &Value| json!([app["name"], app["version"], app["root"], app["versions"]]);
    view["applications"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn no_process_is_left_behind() {
    let lab = Lab::new((27, 2));
    let member = lab.found("a");
    let pid = member.ready["pid"].as_u64().unwrap();
    drop(member);
    let gone = Command::new("kill").args(["-0", &pid.to_string()]).output().unwrap();
    assert!(!gone.status.success());
}
