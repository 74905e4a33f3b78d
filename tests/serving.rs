//! Requests that programs answer, with real processes on three members under steady load:
//! versions change, members are drained, restarted and killed, and nobody is left without
//! an answer who need not be.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{Lab, Member, until};
use serde_json::Value;

/// Tells the version of its tree, who it is, and what it was sent.
const PROGRAM: &str = r#"
import http.server, os, signal, socketserver, sys

version = open("stamp").read().strip()

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.tell("")

    def do_POST(self):
        length = int(self.headers["content-length"])
        self.tell(self.rfile.read(length).decode())

    def tell(self, body):
        text = f"{version} {os.getpid()} {self.path} {body}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-For", self.headers["x-forwarded-for"] or "nobody")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
Server(("127.0.0.1", int(os.environ["PORT"])), Answers).serve_forever()
"#;

fn version(site: &Path, number: u64) {
    fs::create_dir_all(site).unwrap();
    fs::write(site.join("stamp"), format!("{number}\n")).unwrap();
    fs::write(site.join("index.html"), format!("page {number}\n")).unwrap();
    fs::write(site.join("api.py"), PROGRAM).unwrap();
    let manifest = "[application]\nname = \"shop\"\n\
                    [services.api]\nrun = [\"python3\", \"api.py\"]\n\
                    [[routes]]\npath = \"/api\"\nservice = \"api\"\n";
    fs::write(site.join("althing.toml"), manifest).unwrap();
}

/// The members whose `api` is ready in `version`.
fn ready(member: &Member, version: u64) -> Vec<Value> {
    let all = member.run(&["services", "shop"]).map(|all| all.as_array().unwrap().clone());
    let fine = |s: &Value| s["state"] == "ready" && s["version"] == version && s["port"].is_u64();
    all.unwrap_or_default().into_iter().filter(fine).collect()
}

fn all_ready(member: &Member, count: usize, version: u64) {
    until(&format!("version {version} answers on {count} members"), || {
        let ready = ready(member, version).len();
        if ready == count { Ok(()) } else { Err(format!("on {ready}")) }
    });
}

/// A client that asks one member without a pause, over one connection for a few requests.
struct Client {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    answers: u64,
    /// The newest version that an answer was of.
    newest: u64,
    /// What went wrong, and when.
    failures: Vec<(Instant, String)>,
}

impl Client {
    fn of(member: &Member) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Told>>::default());
        let (at, over, tells) = (member.site(), stop.clone(), told.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if over.load(SeqCst) {
                    return;
                }
                let asked = conversation(at, number);
                let mut told = tells.lock().unwrap();
                match asked {
                    Ok((answers, version)) => {
                        told.answers += answers;
                        told.newest = told.newest.max(version);
                    }
                    Err(why) => told.failures.push((Instant::now(), why)),
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

/// Four requests over one connection: the service by GET and POST, and a page. Each answer
/// has to be of one version.
fn conversation(at: SocketAddr, number: u64) -> Result<(u64, u64), String> {
    let words = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(at).map_err(words)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(words)?;
    let mut newest = 0;
    for (path, body) in [("/api/a", None), ("/api/b", Some("body")), ("/", None), ("/api/c", None)]
    {
        let text = match body {
            None => format!("GET {path}?{number} HTTP/1.1\r\nHost: shop\r\n\r\n"),
            Some(body) => format!(
                "POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        };
        stream.write_all(text.as_bytes()).map_err(words)?;
        let (status, answer) = answer(&mut stream).map_err(|e| format!("{path}: {e}"))?;
        if status != 200 {
            return Err(format!("{path}: {status} {answer}"));
        }
        let words: Vec<&str> = answer.split_whitespace().collect();
        let version = if path == "/" { words[1] } else { words[0] };
        if body.is_some_and(|body| words.last() != Some(&body)) {
            return Err(format!("{path}: {answer}"));
        }
        newest = newest.max(version.parse().map_err(|_| format!("{path}: {answer}"))?);
    }
    Ok((4, newest))
}

fn answer(stream: &mut TcpStream) -> Result<(u16, String), String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).map_err(|e| e.to_string())? {
            0 => return Err(format!("cut in a head: {}", String::from_utf8_lossy(&head))),
            _ => head.push(byte[0]),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.ok_or("no length")?.parse().map_err(|_| "a bad length")?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|e| format!("cut in a body: {e}"))?;
    Ok((head[9..12].parse().unwrap(), String::from_utf8_lossy(&body).into_owned()))
}

fn clean(who: &str, told: &Told, least: u64) {
    assert!(told.failures.is_empty(), "{who}, of {}: {:?}", told.answers, told.failures);
    assert!(told.answers > least, "{who}: {} answers", told.answers);
}

/// Covers R6, R27: what is planned costs nobody an answer.
#[test]
fn nothing_that_is_planned_costs_an_answer() {
    let lab = Lab::new((67, 1));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.path("shop");
    version(&site, 1);
    one.publish(&site, &[]).unwrap();
    all_ready(&one, 3, 1);

    // Versions change.
    let clients = [&one, &two, &three].map(Client::of);
    for number in 2..=4 {
        version(&site, number);
        two.publish(&site, &[]).unwrap();
        all_ready(&one, 3, number);
    }
    // A restart by hand, one member after the other.
    three.run(&["restart", "shop", "api"]).unwrap();
    // Each member is drained and brought back.
    for name in ["one", "two", "three"] {
        one.run(&["drain", name]).unwrap();
        until("it is on standby", || service_of(&two, name, "standby"));
        let before = clients.each_ref().map(Client::answers);
        until("all go on being answered", || {
            let now = clients.each_ref().map(Client::answers);
            if now.iter().zip(before).all(|(now, before)| *now > before + 20) {
                Ok(())
            } else {
                Err(format!("{before:?} {now:?}"))
            }
        });
        // Its program is asked no more, through whomever.
        let all = ready(&one, 4);
        let its = all.iter().find(|s| s["member"] == *name).unwrap()["pid"].to_string();
        until("its program is left alone", || {
            for member in [&one, &two, &three] {
                for _ in 0..8 {
                    let body = String::from_utf8(member.get("/api/x")?.body).unwrap();
                    if body.split_whitespace().nth(1) == Some(&its) {
                        return Err(body);
                    }
                }
            }
            Ok(())
        });
        one.run(&["resume", name]).unwrap();
        until("it is in service", || service_of(&two, name, "in service"));
    }
    for (name, client) in ["one", "two", "three"].iter().zip(clients) {
        let told = client.end();
        clean(name, &told, 100);
        assert_eq!(told.newest, 4);
    }

    // A member stops and starts again: nobody notices who asks the others.
    let clients = [&one, &two].map(Client::of);
    let pid = rustix::process::Pid::from_raw(three.ready["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("it ends", || if three.is_running() { Err("it runs".to_owned()) } else { Ok(()) });
    let three = three.again().up().unwrap();
    all_ready(&one, 3, 4);
    until("it is in service", || service_of(&one, "three", "in service"));
    for (name, client) in ["one", "two"].iter().zip(clients) {
        clean(name, &client.end(), 4);
    }
    drop(three);
}

fn service_of(member: &Member, name: &str, state: &str) -> Result<(), String> {
    let view = member.view()?;
    let all = view["members"].as_array().unwrap();
    let found = all.iter().find(|m| m["name"] == name).ok_or("it is not enrolled")?;
    if found["service"] == state { Ok(()) } else { Err(found["service"].to_string()) }
}

/// A program that is gone on one member is answered for by another one, and one that never
/// gets ready leaves the one before.
#[test]
fn others_answer_for_a_program_that_is_gone() {
    let lab = Lab::new((67, 2));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.path("shop");
    version(&site, 1);
    one.publish(&site, &[]).unwrap();
    all_ready(&one, 3, 1);

    // A member that is killed takes with it what was under way there, and nothing after a
    // moment.
    let clients = [&one, &two].map(Client::of);
    until("they ask", || if clients[0].answers() > 40 { Ok(()) } else { Err(String::new()) });
    let killed = Instant::now();
    three.kill();
    let before = clients.each_ref().map(Client::answers);
    until("they go on", || {
        let now = clients.each_ref().map(Client::answers);
        let all = now.iter().zip(before).all(|(now, before)| *now > before + 400);
        if all { Ok(()) } else { Err(format!("{now:?}")) }
    });
    for client in clients {
        let told = client.end();
        let late = Duration::from_secs(3);
        let later: Vec<_> = told.failures.iter().filter(|(at, _)| *at > killed + late).collect();
        assert!(later.is_empty(), "{later:?}");
    }

    // A new version whose program never listens: the one before goes on answering.
    fs::write(site.join("api.py"), "import time\ntime.sleep(1000)\n").unwrap();
    one.publish(&site, &[]).unwrap();
    until("the new one was started", || {
        let all = one.run(&["services", "shop"]).map_err(|e| format!("{e:?}"))?;
        let new = all.as_array().unwrap().iter().filter(|s| s["version"] == 2).count();
        if new == 2 { Ok(()) } else { Err(all.to_string()) }
    });
    for _ in 0..5 {
        let answer = two.get("/api/x").unwrap();
        assert!(answer.status == 200 && answer.body.starts_with(b"1 "), "{answer:?}");
    }
    one.run(&["rollback", "shop", "1"]).unwrap();
    all_ready(&one, 2, 3);
    until("the one that works answers", || {
        let body = two.get("/api/x")?.body;
        if body.starts_with(b"1 ") { Ok(()) } else { Err(format!("{body:?}")) }
    });

    // What a client says of itself is not believed, and a path that leads nowhere is a page.
    let asked =
        b"GET /api/x HTTP/1.1\r\nHost: l\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(two.site()).unwrap();
    stream.write_all(asked).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("X-For: 127.") && !text.contains("6.6.6.6"), "{text}");
    assert_eq!(one.get("/apix").unwrap().status, 404);
    assert_eq!(one.get("/.althing/routes.toml").unwrap().status, 404);
}
