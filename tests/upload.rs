//! Directories that operators bring from machines of their own, with real processes: what is new is
//! sent and nothing else, one that breaks off goes on, and members that were not told to take
//! content take none. Loopback only.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use common::{Lab, Member, Refused, all_serve, until};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

/// An operator, with a token in a file.
struct Operator {
    file: PathBuf,
}

impl Operator {
    fn added(lab: &Lab, by: &Member, known_to: &[&Member]) -> Self {
        let added = by.run(&["operator", "add", "alice"]).unwrap();
        let file = lab.path("token");
        fs::write(&file, added["token"].as_str().unwrap()).unwrap();
        for member in known_to {
            until("it is known who may act", || {
                let view = member.view()?;
                let all = view["operators"].as_array().ok_or("no operators")?;
                let known = all.iter().any(|one| one["name"] == "alice");
                if known { Ok(()) } else { Err(view["operators"].to_string()) }
            });
        }
        Self { file }
    }

    /// The words of a command that goes to a status port. The data directory that it is run with
    /// is one of nobody.
    fn run(&self, lab: &Lab, at: SocketAddr, words: &[&str]) -> Result<Value, Refused> {
        let (at, token) = (at.to_string(), self.file.to_str().unwrap());
        let via = ["--via", &at, "--operator-token-file", token];
        common::run_on(&lab.path("nobody"), &[words, &via].concat())
    }

    fn publish(&self, lab: &Lab, at: &Member, site: &Path) -> Result<Value, Refused> {
        self.run(lab, at.status(), &["publish", site.to_str().unwrap(), "--app", "web"])
    }
}

fn taking(lab: &Lab, names: [&str; 2]) -> [Member; 2] {
    let mut plans = names.map(|name| lab.plan(name));
    plans[1].more.push("--uploads".to_owned());
    lab.cluster_of(plans)
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..bytes).map(|_| rng.random()).collect()
}

/// Some hundred files in some directories, and one that is large.
fn large_site(lab: &Lab) -> PathBuf {
    let site = lab.site("site", &[("index.html", "one")]);
    for n in 0..300_u64 {
        let directory = site.join(format!("d{}", n % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{n}")), noise(n, 2_000)).unwrap();
    }
    fs::write(site.join("large"), noise(1_000, 3_000_000)).unwrap();
    site
}

fn number(of: &Value, key: &str) -> u64 {
    of["sent"][key].as_u64().unwrap_or_else(|| panic!("no {key} in {of}"))
}

/// The texts of the events about operators in the memory of `member`.
fn told(member: &Member) -> Vec<String> {
    let events = member.run(&["events", "--kind", "operator"]).unwrap();
    let texts = events.as_array().unwrap().iter();
    texts.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_directory_of_another_machine_is_published_and_only_what_is_new_is_sent() {
    let lab = Lab::new((98, 1));
    let [a, b] = taking(&lab, ["a", "b"]);
    let alice = Operator::added(&lab, &a, &[&b]);
    let site = large_site(&lab);
    let manifest = "[application]\nname = \"web\"\nignore = [\"left-out\"]\n[settings]\nx = 1\n\
                    [[settings-file]]\npath = \"config/app.json\"\n";
    fs::write(site.join("althing.toml"), manifest).unwrap();
    fs::write(site.join("left-out"), "not to be sent").unwrap();

    let first = alice.publish(&lab, &b, &site).unwrap();
    assert_eq!((&first["app"], &first["version"]), (&json!("web"), &json!(1)), "{first}");
    let all = 300 * 2_000 + 3_000_000 + 3;
    assert_eq!((number(&first, "files"), number(&first, "bytes")), (302, all));
    assert_eq!(number(&first, "new_bytes"), all);
    assert_eq!(number(&first, "new_chunks"), number(&first, "chunks"));
    all_serve(&[&a, &b], "web/1", "one");
    for (name, seed, bytes) in [("d3/f3", 3, 2_000), ("large", 1_000, 3_000_000)] {
        let served = a.get(&format!("/{name}")).unwrap();
        assert!(served.status == 200 && served.body == noise(seed, bytes), "{name}");
    }
    assert_eq!(a.get("/config/app.json").unwrap().status, 200);
    for name in ["left-out", "althing.toml"] {
        assert_eq!(a.get(&format!("/{name}")).unwrap().status, 404, "{name}");
    }
    // Who it was is known as ever, on the other member as well.
    let by = json!({"operator": "alice", "at": "b"});
    assert_eq!(a.run(&["history", "web"]).unwrap()[0]["asked"], by);
    let words = format!("alice: publish {} --app web (by the status port)", site.display());
    assert!(told(&b).contains(&words), "{:?}", told(&b));

    // The same again is nothing new. With another host name it is: a few hundred bytes say that the
    // content is the same.
    let refused = alice.publish(&lab, &b, &site).unwrap_err();
    refused.is(5, "conflict", "what version 1 holds already");
    let words = ["publish", site.to_str().unwrap(), "--host", "www.example.org"];
    let again = alice.run(&lab, b.status(), &words).unwrap();
    assert_eq!((number(&again, "new_chunks"), number(&again, "new_bytes")), (0, 0), "{again}");
    assert_eq!((&again["version"], number(&again, "bytes")), (&json!(2), all));
    assert!(number(&again, "list_bytes") < 1_000, "{again}");
    assert!(number(&first, "list_bytes") > 20_000, "{first}");

    // One of many: the list, and that one.
    fs::write(site.join("d3/f3"), noise(9_999, 2_500)).unwrap();
    let changed = alice.publish(&lab, &b, &site).unwrap();
    assert_eq!((number(&changed, "new_chunks"), number(&changed, "new_bytes")), (1, 2_500));
    assert!(number(&changed, "list_bytes") > 20_000, "{changed}");
    until("the other member has it", || {
        let served = a.get("/d3/f3")?;
        if served.body == noise(9_999, 2_500) { Ok(()) } else { Err(served.head) }
    });

    // A directory of the member's machine is named as such.
    let there = lab.site("there", &[("index.html", "of the member's machine")]);
    let words = ["publish", "--there", there.to_str().unwrap(), "--app", "web"];
    let published = alice.run(&lab, b.status(), &words).unwrap();
    assert!(published["sent"].is_null(), "{published}");
    let version = format!("web/{}", published["version"]);
    all_serve(&[&a, &b], &version, "of the member's machine");
    alice
        .run(&lab, b.status(), &["publish", "--there", "./there", "--app", "web"])
        .unwrap_err()
        .is(3, "invalid", "absolute path");
    // Whoever is late sends nothing, and that is told.
    let words = ["publish", site.to_str().unwrap(), "--app", "web", "--base", "1"];
    let refused = alice.run(&lab, b.status(), &words).unwrap_err();
    refused.is(5, "conflict", "this was made from 1");
    assert!(told(&b).last().unwrap().contains("this was made from 1"), "{:?}", told(&b));
}

#[test]
fn members_take_content_only_where_they_were_told_to() {
    let lab = Lab::new((98, 2));
    let [a, b] = taking(&lab, ["a", "b"]);
    let alice = Operator::added(&lab, &a, &[&b]);
    let site = lab.site("site", &[("index.html", "one")]);
    let refused = alice.publish(&lab, &a, &site).unwrap_err();
    refused.is(7, "forbidden", "takes no content from operators");
    assert!(refused.todo.contains("--uploads") && refused.todo.contains("--there"), "{refused:?}");
    let last = told(&a).pop().unwrap();
    assert!(last.starts_with("alice, by the status port: Nothing was published."), "{last}");
    // What is no directory is refused before anybody is asked.
    for (name, code, reason) in [("site/index.html", 3, "invalid"), ("missing", 3, "invalid")] {
        let refused = alice.publish(&lab, &b, &lab.path(name)).unwrap_err();
        refused.is(code, reason, "");
    }
    // Without a token nothing is offered.
    let (at, site) = (b.status().to_string(), site.to_str().unwrap());
    let words = ["publish", site, "--app", "web", "--via", &at];
    common::run_on(&lab.path("nobody"), &words).unwrap_err().is(7, "forbidden", "token is needed");
    assert!(b.view().unwrap()["applications"].as_array().unwrap().is_empty());
}

/// Passes on what comes until so many bytes went to `to`, then nothing any more: says when.
fn stalling(to: SocketAddr, bytes: usize) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.98.3.200:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, stalled) = mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(to).unwrap();
            let (mut back, mut answers) =
                (stream.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ended = std::io::copy(&mut answers, &mut back);
            });
            open.push(stream.try_clone().unwrap());
            let (tell, mut stream, mut upstream) = (tell.clone(), stream, upstream);
            std::thread::spawn(move || {
                let (mut passed, mut piece) = (0, [0; 16 << 10]);
                while passed < bytes {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => {
                            upstream.write_all(&piece[..read]).unwrap();
                            passed += read;
                        }
                    }
                }
                let _the_test_may_be_over = tell.send(());
                // Neither side hears of anything, as where a cable was pulled.
                std::mem::forget((stream, upstream));
            });
        }
    });
    (address, stalled)
}

#[test]
fn what_came_before_an_upload_broke_off_is_not_sent_again() {
    let lab = Lab::new((98, 3));
    let [a, b] = taking(&lab, ["a", "b"]);
    let alice = Operator::added(&lab, &a, &[&b]);
    let site = lab.site("site", &[("index.html", "one")]);
    let all = 12_000_000;
    fs::write(site.join("large"), noise(1, all)).unwrap();

    let (proxy, stalled) = stalling(b.status(), 5_000_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_althing"))
        .args(["publish", site.to_str().unwrap(), "--app", "web", "--via", &proxy.to_string()])
        .args(["--operator-token-file", alice.file.to_str().unwrap()])
        .arg("--data")
        .arg(lab.path("nobody"))
        .env("ALTHING_CONFIG", "none")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    stalled.recv_timeout(common::PATIENCE).unwrap();
    // Progress is told meanwhile.
    let mut progress = String::new();
    let mut errors = command.stderr.take().unwrap();
    until("it says how far it is", || {
        let mut piece = [0; 1_024];
        let read = errors.read(&mut piece).map_err(|error| error.to_string())?;
        progress.push_str(&String::from_utf8_lossy(&piece[..read]));
        let fine = progress.contains("sending what is new of 11.4 MiB") && progress.contains('%');
        if fine { Ok(()) } else { Err(progress.clone()) }
    });
    command.kill().unwrap();
    command.wait().unwrap();
    assert!(b.view().unwrap()["applications"].as_array().unwrap().is_empty(), "it was not whole");

    let again = alice.publish(&lab, &b, &site).unwrap();
    let (sent, chunks) = (number(&again, "new_bytes"), number(&again, "new_chunks"));
    assert!(sent > 0 && sent < all as u64 - 1_000_000, "{again}");
    assert!(chunks > 0 && chunks < number(&again, "chunks"), "{again}");
    all_serve(&[&a, &b], "web/1", "one");
    let served = a.get("/large").unwrap();
    assert!(served.body == noise(1, all));
}
