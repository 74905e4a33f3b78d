//! Ports of an application's own, with real processes on three members: connections under
//! steady load while versions change and members are drained, ports that can't be had, and
//! HTTP whatever its host name.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use common::{Lab, Member, tcp, until};
use serde_json::Value;

/// Says each line back, with the version of its tree, who it is, and who it was told
/// connects. It has no process on members whose names stand in `without`.
const PROGRAM: &str = r#"
import os, signal, socket, sys, threading

version = open("stamp").read().strip()
without = open("without").read().split()
if any(f"/{name}/" in os.getcwd() for name in without):
    sys.exit(1)

def serve(connection):
    with connection, connection.makefile("rwb") as stream:
        head = stream.readline().decode().strip().replace(" ", "_")
        for line in stream:
            text = f"{version} {os.getpid()} {head} {line.decode().strip()}\n"
            stream.write(text.encode())
            stream.flush()

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=256)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"#;

fn version(site: &Path, app: &str, port: u16, number: u64, without: &str) {
    fs::create_dir_all(site).unwrap();
    fs::write(site.join("stamp"), format!("{number}\n")).unwrap();
    fs::write(site.join("without"), without).unwrap();
    fs::write(site.join("db.py"), PROGRAM).unwrap();
    let manifest = format!(
        "[application]\nname = {app:?}\n[services.db]\nrun = [\"python3\", \"db.py\"]\n\
         [[listeners]]\nport = {port}\nservice = \"db\"\nproxy = \"v1\"\n"
    );
    fs::write(site.join("althing.toml"), manifest).unwrap();
}

fn all_ready(member: &Member, app: &str, count: usize, version: u64) {
    until(&format!("version {version} is ready on {count} members"), || {
        let all = member.run(&["services", app]).map_err(|e| format!("{e:?}"))?;
        let fine = |s: &&Value| s["state"] == "ready" && s["version"] == version;
        let ready = all.as_array().unwrap().iter().filter(fine).count();
        if ready == count { Ok(()) } else { Err(all.to_string()) }
    });
}

fn at(member: &Member, port: u16) -> SocketAddr {
    SocketAddr::new(member.site().ip(), port)
}

/// One answer.
#[derive(Clone, Debug)]
struct Said {
    version: u64,
    pid: String,
    head: String,
}

fn read(stream: &mut BufReader<TcpStream>, word: &str) -> Result<Said, String> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(|e| e.to_string())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [version, pid, head, said] if said == word => Ok(Said {
            version: version.parse().map_err(|_| line.clone())?,
            pid: pid.to_owned(),
            head: head.to_owned(),
        }),
        _ => Err(format!("{line:?} for {word}")),
    }
}

/// A whole connection: something is said and answered, then both sides end it.
fn conversation(address: SocketAddr, number: u64) -> Result<Said, String> {
    let words = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(address).map_err(words)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(words)?;
    let word = format!("word{number}");
    stream.write_all(format!("{word}\n").as_bytes()).map_err(words)?;
    stream.shutdown(Shutdown::Write).map_err(words)?;
    let mut stream = BufReader::new(stream);
    let said = read(&mut stream, &word)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map_err(words)?;
    if rest.is_empty() { Ok(said) } else { Err(format!("more came: {rest:?}")) }
}

/// One that connects to one member without a pause.
struct Client {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Told {
    answers: u64,
    newest: u64,
    heads: BTreeSet<String>,
    failures: Vec<String>,
}

impl Client {
    fn of(address: SocketAddr) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Told>>::default());
        let (over, tells) = (stop.clone(), told.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if over.load(SeqCst) {
                    return;
                }
                let came = conversation(address, number);
                let mut told = tells.lock().unwrap();
                match came {
                    Ok(said) => {
                        told.answers += 1;
                        told.newest = told.newest.max(said.version);
                        // Without the port that the client has.
                        let head: Vec<&str> = said.head.split('_').collect();
                        told.heads.insert([&head[..4], &head[5..]].concat().join(" "));
                    }
                    Err(why) => told.failures.push(why),
                }
            }
        });
        Self { stop, told, thread }
    }

    fn answers(&self) -> u64 {
        self.told.lock().unwrap().answers
    }

    fn end(self) -> Told {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn go_on(clients: &[Client; 3]) {
    let before = clients.each_ref().map(Client::answers);
    until("all go on being answered", || {
        let now = clients.each_ref().map(Client::answers);
        let all = now.iter().zip(before).all(|(now, before)| *now > before + 20);
        if all { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    });
}

/// Covers R6, R27: what is planned costs nobody a connection, and one that is open keeps
/// the process that it has.
#[test]
fn nothing_that_is_planned_costs_a_connection() {
    const PORT: u16 = 7432;
    let lab = Lab::new((68, 1));
    let members = lab.cluster(["one", "two", "three"]);
    let [one, two, three] = &members;
    let site = lab.path("base");
    version(&site, "base", PORT, 1, "");
    one.publish(&site, &[]).unwrap();
    all_ready(one, "base", 3, 1);
    for member in &members {
        until("its port is open", || conversation(at(member, PORT), 0));
    }

    let clients = members.each_ref().map(|member| Client::of(at(member, PORT)));
    let open = TcpStream::connect(at(three, PORT)).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut open = BufReader::new(open);
    open.get_mut().write_all(b"first\n").unwrap();
    let first = read(&mut open, "first").unwrap();
    version(&site, "base", PORT, 2, "");
    two.publish(&site, &[]).unwrap();
    all_ready(one, "base", 3, 2);
    until("new ones reach the new version", || {
        let said = conversation(at(three, PORT), 1)?;
        if said.version == 2 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    open.get_mut().write_all(b"second\n").unwrap();
    let second = read(&mut open, "second").unwrap();
    assert_eq!((second.version, &second.pid), (1, &first.pid));
    drop(open);
    version(&site, "base", PORT, 3, "");
    three.publish(&site, &[]).unwrap();
    all_ready(one, "base", 3, 3);

    for name in ["one", "two", "three"] {
        one.run(&["drain", name]).unwrap();
        until("it is on standby", || service_of(two, name, "standby"));
        go_on(&clients);
        let all = one.run(&["services", "base"]).unwrap();
        let its = all.as_array().unwrap().iter().find(|s| s["member"] == *name);
        let its = its.unwrap()["pid"].to_string();
        until("its program is left alone", || {
            for member in &members {
                for number in 0..8 {
                    let said = conversation(at(member, PORT), number)?;
                    if said.pid == its {
                        return Err(format!("{said:?}"));
                    }
                }
            }
            Ok(())
        });
        one.run(&["resume", name]).unwrap();
        until("it is in service", || service_of(two, name, "in service"));
    }
    for (member, client) in members.iter().zip(clients) {
        let told = client.end();
        assert!(told.failures.is_empty() && told.answers > 100, "{}: {told:?}", member.name());
        assert_eq!(told.newest, 3);
        // Whoever answered was told of the client and of where it connected.
        let head = format!("PROXY TCP4 127.0.0.1 {} {PORT}", member.site().ip());
        assert_eq!(told.heads, BTreeSet::from([head]));
        let metrics = member.run(&["metrics"]).unwrap();
        assert!(metrics["tcp_connections"].as_u64().unwrap() > 100, "{metrics}");
        assert_eq!(metrics["tcp_failures"], 0, "{metrics}");
    }
}

fn service_of(member: &Member, name: &str, state: &str) -> Result<(), String> {
    let view = member.view()?;
    let all = view["members"].as_array().unwrap();
    let found = all.iter().find(|m| m["name"] == name).ok_or("it is not enrolled")?;
    if found["service"] == state { Ok(()) } else { Err(found["service"].to_string()) }
}

/// A port that another program or application has is told of and taken when it is free; a
/// member without a process leads to one that has it; what is gone is closed.
#[test]
fn ports_that_can_not_be_had_are_told() {
    const PORT: u16 = 7433;
    let lab = Lab::new((68, 2));
    let [one, two, three] = lab.cluster(["one", "two", "three"]);
    let site = lab.path("base");
    let taken = TcpListener::bind(at(&two, PORT)).unwrap();
    version(&site, "base", PORT, 1, "three");
    // Where it can't run, nobody is to wait for it.
    one.publish(&site, &["--no-wait"]).unwrap();
    all_ready(&one, "base", 2, 1);
    until("its port is open", || conversation(at(&one, PORT), 0));
    // It has no process, and takes connections all the same.
    let mut pids = BTreeSet::new();
    until("others answer for it", || {
        pids.insert(conversation(at(&three, PORT), 0)?.pid);
        if pids.len() == 2 { Ok(()) } else { Err(format!("{pids:?}")) }
    });

    until("it is told", || {
        let view = two.view()?;
        let (reasons, events) = (view["reasons"].to_string(), two.events());
        let told = |text: &str| text.contains("another program has the port");
        if told(&reasons) && told(&events) && view["health"] != "ok" {
            Ok(())
        } else {
            Err(format!("{reasons} {events}"))
        }
    });
    drop(taken);
    until("it is taken once it is free", || conversation(at(&two, PORT), 0));
    until("all is well again", || {
        let reasons = two.view()?["reasons"].to_string();
        if reasons.contains("listen") { Err(reasons) } else { Ok(()) }
    });

    // Another application can't have it, wherever it is published.
    let second = lab.path("second");
    version(&second, "second", PORT, 1, "");
    let refused = three.publish(&second, &[]).unwrap_err();
    assert_eq!(refused.reason, "conflict", "{refused:?}");
    assert!(refused.why.contains("base") && refused.why.contains("7433"), "{refused:?}");

    // What is defined no more takes no connections.
    fs::write(site.join("althing.toml"), "[application]\nname = \"base\"\n").unwrap();
    one.publish(&site, &[]).unwrap();
    for member in [&one, &two, &three] {
        until("its port is closed", || match TcpStream::connect(at(member, PORT)) {
            Err(_) => Ok(()),
            Ok(_) => Err("it is open".to_owned()),
        });
    }
    three.publish(&second, &[]).unwrap();
    until("the other one has it", || conversation(at(&one, PORT), 0));
}

/// All requests of an HTTP listener are its application's, also through a member that is
/// drained.
#[test]
fn http_on_a_port_of_its_own() {
    const PORT: u16 = 7434;
    let lab = Lab::new((68, 3));
    let members = lab.cluster(["one", "two", "three"]);
    let [one, two, three] = &members;
    let web = lab.site(
        "web",
        &[("index.html", "web\n"), ("althing.toml", "[application]\nname = \"web\"\n")],
    );
    one.publish(&web, &[]).unwrap();
    let manifest = format!(
        "[application]\nname = \"own\"\n[[listeners]]\nport = {PORT}\nprotocol = \"http\"\n\
         accept_proxy = [\"10.0.0.0/8\"]\n"
    );
    let own = lab.site("own", &[("index.html", "own\n"), ("althing.toml", &manifest)]);
    one.publish(&own, &[]).unwrap();
    let look = || {
        for member in &members {
            // The line is a member's to say: from a client it means nothing.
            let head = "GET / HTTP/1.1\r\nHost: web\r\nAlthing-Application: own\r\n\
                        Connection: close\r\n\r\n";
            for (address, page) in [(at(member, PORT), "own\n"), (member.site(), "web\n")] {
                let answer = tcp(address, head.as_bytes())?;
                if answer.status != 200 || answer.body != page.as_bytes() {
                    return Err(format!("{} {address}: {answer:?}", member.name()));
                }
            }
        }
        Ok(())
    };
    until("both are served", look);
    for name in ["one", "two"] {
        three.run(&["drain", name]).unwrap();
        until("it is on standby", || service_of(three, name, "standby"));
    }
    let passed_on = |member: &Member| {
        let before = member.run(&["metrics"]).unwrap()["requests"].as_u64().unwrap();
        look().map(|()| member.run(&["metrics"]).unwrap()["requests"].as_u64().unwrap() - before)
    };
    // Two of its own, and two each for the others.
    until("requests are passed on", || match passed_on(three)? {
        6.. => Ok(()),
        few => Err(few.to_string()),
    });
    let _still_there = two;
}
