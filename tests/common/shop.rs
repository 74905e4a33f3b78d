//! An application whose program and pages tell of which version they are, and clients that
//! ask for both without a pause.

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

use serde_json::Value;

use super::common::{Member, until};

/// Tells the version of its tree, who it is, and what it was sent.
pub const PROGRAM: &str = r#"
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

pub fn version(site: &Path, number: u64) {
    fs::create_dir_all(site).unwrap();
    fs::write(site.join("stamp"), format!("{number}\n")).unwrap();
    fs::write(site.join("index.html"), format!("page {number}\n")).unwrap();
    fs::write(site.join("api.py"), PROGRAM).unwrap();
    // Every other version comes to one member after the other.
    let rollout =
        if number.is_multiple_of(2) { "[rollout]\nat_once = 1\npause = \"100ms\"\n" } else { "" };
    let manifest = format!(
        "[application]\nname = \"shop\"\n\
         [services.api]\nrun = [\"python3\", \"api.py\"]\n\
         ready = {{ tcp = \"127.0.0.1:$PORT\", within = \"5s\" }}\n\
         [[routes]]\npath = \"/api\"\nservice = \"api\"\n{rollout}"
    );
    fs::write(site.join("althing.toml"), manifest).unwrap();
}

/// The members whose `api` is ready in `version`.
pub fn ready(member: &Member, version: u64) -> Vec<Value> {
    let all = member.run(&["services", "shop"]).map(|all| all.as_array().unwrap().clone());
    let fine = |s: &Value| s["state"] == "ready" && s["version"] == version && s["port"].is_u64();
    all.unwrap_or_default().into_iter().filter(fine).collect()
}

pub fn all_ready(member: &Member, count: usize, version: u64) {
    until(&format!("version {version} answers on {count} members"), || {
        let ready = ready(member, version).len();
        if ready == count { Ok(()) } else { Err(format!("on {ready}")) }
    });
}

/// A client that asks one member without a pause, over one connection for a few requests.
pub struct Client {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
pub struct Told {
    pub answers: u64,
    /// The newest version that an answer was of.
    pub newest: u64,
    pub failures: Vec<Failure>,
    /// The longest that an answer took.
    pub longest: Duration,
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    /// When it was asked for.
    pub asked: Instant,
    pub path: &'static str,
    pub why: String,
}

impl Client {
    pub fn of(member: &Member) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Told>>::default());
        let (at, over, tells) = (member.site(), stop.clone(), told.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if over.load(SeqCst) {
                    return;
                }
                conversation(at, number, &tells);
            }
        });
        Self { stop, told, thread }
    }

    pub fn answers(&self) -> u64 {
        self.told.lock().unwrap().answers
    }

    pub fn end(self) -> Told {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Four requests over one connection: the service by GET and POST, and a page. Each answer
/// has to be of one version. It ends early where the member says that it was the last.
pub fn conversation(at: SocketAddr, number: u64, told: &Mutex<Told>) {
    let mut stream = None;
    for (path, body) in [("/api/a", None), ("/api/b", Some("body")), ("/", None), ("/api/c", None)]
    {
        let asked = Instant::now();
        let came = ask(at, &mut stream, path, body, number);
        let mut told = told.lock().unwrap();
        told.longest = told.longest.max(asked.elapsed());
        match came {
            Ok(version) => {
                told.answers += 1;
                told.newest = told.newest.max(version);
            }
            Err(why) => {
                told.failures.push(Failure { asked, path, why });
                return;
            }
        }
        if stream.is_none() {
            return;
        }
    }
}

/// The version that the answer is of.
fn ask(
    at: SocketAddr,
    kept: &mut Option<TcpStream>,
    path: &str,
    body: Option<&str>,
    number: u64,
) -> Result<u64, String> {
    let words = |e: std::io::Error| e.to_string();
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).map_err(words)?;
            stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(words)?;
            stream
        }
    };
    let text = match body {
        None => format!("GET {path}?{number} HTTP/1.1\r\nHost: shop\r\n\r\n"),
        Some(body) => format!(
            "POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    stream.write_all(text.as_bytes()).map_err(words)?;
    let (status, answer, closes) = answer(&mut stream)?;
    if status != 200 {
        return Err(format!("{status} {answer}"));
    }
    let words: Vec<&str> = answer.split_whitespace().collect();
    let version = if path == "/" { words.get(1) } else { words.first() };
    if body.is_some_and(|body| words.last() != Some(&body)) {
        return Err(answer);
    }
    if !closes {
        *kept = Some(stream);
    }
    version.and_then(|version| version.parse().ok()).ok_or(answer)
}

pub fn answer(stream: &mut TcpStream) -> Result<(u16, String, bool), String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).map_err(|e| e.to_string())? {
            0 => return Err(format!("cut in a head: {}", String::from_utf8_lossy(&head))),
            _ => head.push(byte[0]),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let closes = head.lines().any(|line| line == "connection: close");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.ok_or("no length")?.parse().map_err(|_| "a bad length")?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|e| format!("cut in a body: {e}"))?;
    let status = head[9..12].parse().map_err(|_| "a bad status")?;
    Ok((status, String::from_utf8_lossy(&body).into_owned(), closes))
}
