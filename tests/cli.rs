//! The command line against real processes: one member and its commands, what
//! it refuses, and the whole story. Loopback only; every port is the system's
//! choice, every process ends with its test.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_althing");

/// A member that runs; killed with its value.
struct Member {
    child: Child,
    stdin: Option<ChildStdin>,
    ready: Value,
    data: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself, which is what some tests are about.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn althing() -> Command {
    let mut command = Command::new(BINARY);
    command.env_remove("ALTHING_TOKEN").env_remove("ALTHING_DATA").env_remove("ALTHING_LOG");
    command.env_remove("ALTHING_VIA").env("ALTHING_CONFIG", "none"); // that of this machine is none of the test's
    command.env("NO_PROXY", "*"); // loopback only, whoever runs the tests
    command
}

/// `up` with addresses that can't be in use, and what else is given.
fn up(data: &Path, more: &[&str]) -> Command {
    let mut command = althing();
    command.args(["up", "--json", "--bind", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    command.args(["--status", "127.0.0.1:0", "--data"]).arg(data).args(more);
    command
}

fn start(data: &Path, more: &[&str]) -> Member {
    let mut child = up(data, more)
        .arg("--with-parent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    let stdin = child.stdin.take();
    let member = Member { child, stdin, ready, data: data.to_owned() };
    assert_eq!(member.ready["ready"], true, "{line}");
    member
}

impl Member {
    fn ask(&self, arguments: &[&str]) -> Output {
        althing().args(arguments).arg("--data").arg(&self.data).output().unwrap()
    }

    /// The JSON answer of a command that must succeed.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ask(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Exit code and error of a command that must be refused.
    fn refused(&self, arguments: &[&str]) -> (i32, Value) {
        refused(self.ask(&[arguments, &["--json"]].concat()))
    }

    fn stop(&mut self) -> i32 {
        drop(self.stdin.take());
        self.ended()
    }

    fn ended(&mut self) -> i32 {
        let mut code = None;
        until("it has ended", || {
            code = self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.unwrap()
    }
}

fn refused(output: Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{output:?}: {e}"));
    let error = answer["error"].clone();
    for sentence in ["what", "why", "todo"] {
        assert!(!error[sentence].as_str().unwrap().is_empty(), "{sentence} of {error}");
    }
    (output.status.code().unwrap(), error)
}

fn site(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("index.html"), text).unwrap();
    fs::write(path.join("sub/page.html"), text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Waits until `look` is true.
#[expect(clippy::disallowed_methods, reason = "other processes are waited for, not ourselves")]
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !look() {
        assert!(Instant::now() < give_up, "for 30 s it was not so that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Covers R1, R6, R7, R14, R17.
#[test]
fn one_member_takes_every_command() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir.path().join("one"), &["--name", "one"]);
    assert_eq!(member.ready["founded"], true);
    let socket = fs::metadata(member.ready["socket"].as_str().unwrap()).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    assert_eq!(member.json(&["apps"]), serde_json::json!([]));
    let public = site(&dir, "public", "<p>one</p>");
    let published = member.json(&["publish", &public, "--app", "web", "-m", "first"]);
    assert_eq!((&published["app"], &published["version"]), (&"web".into(), &1.into()));
    fs::write(Path::new(&public).join("index.html"), "<p>two</p>").unwrap();
    let published = member.json(&["publish", &public, "--app", "web", "--base", "1"]);
    assert_eq!(published["version"], 2);
    let verified = member.json(&["verify", "web"]);
    assert_eq!((&verified["same"], &verified["files"]), (&true.into(), &2.into()));
    assert_eq!(member.json(&["rollback", "web"])["version"], 3);
    let history = member.json(&["history", "web"]);
    let origins: Vec<&str> =
        history.as_array().unwrap().iter().map(|v| v["origin"].as_str().unwrap()).collect();
    assert_eq!(origins, ["rollback to 1", "published", "published"]);

    assert!(member.json(&["window", "open", "--app", "web"])["sequence"].is_u64());
    assert_eq!(member.json(&["window"])["window"]["held"], true);
    member.json(&["window", "close"]);
    assert_eq!(member.json(&["window"])["window"], Value::Null);
    member.json(&["failover", "manual"]);
    assert_eq!(member.json(&["failover"])["order"][0]["name"], "one");
    member.json(&["policy", "vote", "committed"]);
    member.json(&["policy", "remove-after", "7d"]);
    let expected = serde_json::json!({
        "failover": "manual", "vote": "committed", "remove_after_s": 604_800,
    });
    assert_eq!(member.json(&["policy"]), expected);
    let invited = member.json(&["invite", "--uses", "2"]);
    let command = invited["command"].as_str().unwrap();
    assert!(command.starts_with("althing up --join 127.0.0.1:"), "{command}");
    assert!(command.ends_with(invited["token"].as_str().unwrap()));
    let open = member.json(&["invites"]);
    assert_eq!((&open[0]["by"], &open[0]["uses_left"]), (&"one".into(), &2.into()), "{open}");
    assert_eq!((&open[0]["id"], &open[1]), (&invited["id"], &Value::Null));
    let secret = invited["token"].as_str().unwrap();
    assert!(!open.to_string().contains(secret), "nobody is shown a token again");
    member.json(&["invites", "withdraw", &invited["id"].as_str().unwrap()[..8]]);
    assert_eq!(member.json(&["invites"]), serde_json::json!([]));
    until("the vote is unanimous", || member.json(&["votes", "web"])[0]["vote"] == "unanimous");
    assert_eq!(member.json(&["status"])["me"], "one");
    assert!(!member.json(&["events"]).as_array().unwrap().is_empty());

    // The same for people.
    for (arguments, expected) in [
        (&["members"][..], "one"),
        (&["apps"], "web"),
        (&["status"], "1 of 1 voters live"),
        (&["status", "--check"], "ALTHING OK - 1 of 1 voters live | voters_live=1;;1:;0;1\n"),
        (&["votes"], "agrees"),
        (&["window"], "No window is open"),
        (&["failover"], "would preside"),
        (&["invites"], "No invitation is open."),
        (&["history", "web"], "rollback to 1"),
        (&["events"], "web switched to version 3"),
    ] {
        let output = member.ask(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(expected), "{arguments:?}: {text}");
        assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");
    }

    // One voter is a note, no warning: nothing is to be mended.
    // The machine of the tests may have limits that are too low.
    let output = member.ask(&["--json", "doctor"]);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let said = |part: &str| {
        let is_it = |finding: &&Value| finding["what"].as_str().unwrap().contains(part);
        findings.iter().find(is_it).unwrap_or_else(|| panic!("{part}: {findings:?}"))
    };
    assert_eq!(said("There is one voter")["how"], "note");
    assert_eq!(said("All clocks agree within")["how"], "ok");
    assert_eq!(
        said(&format!("All that answer run version {}", env!("CARGO_PKG_VERSION")))["how"],
        "ok"
    );
    fs::set_permissions(&member.data, fs::Permissions::from_mode(0o777)).unwrap();
    let output = member.ask(&["doctor"]);
    fs::set_permissions(&member.data, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("critical") && text.contains("chmod 700"), "{text}");

    // A member that is not there is neither well nor unwell, and a monitor has to see that.
    let nowhere = dir.path().join("nobody");
    let unknown = althing().args(["status", "--check", "--data"]).arg(nowhere).output().unwrap();
    assert_eq!(unknown.status.code(), Some(3));
    let text = String::from_utf8(unknown.stdout).unwrap();
    assert!(text.starts_with("ALTHING UNKNOWN - "), "{text}");
}

/// Covers R7, R10, R12.
#[test]
fn what_differs_is_shown_put_right_brought_back_and_published() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir.path().join("one"), &["--name", "one"]);
    let public = site(&dir, "public", "<p>one</p>");
    member.json(&["publish", &public, "--app", "web"]);
    fs::write(Path::new(&public).join("index.html"), "<p>two</p>").unwrap();
    member.json(&["publish", &public, "--app", "web"]);
    let diff = member.json(&["diff", "web", "--text"]);
    assert_eq!((&diff["changed"], &diff["added"]), (&1.into(), &0.into()), "{diff}");
    let text = diff["changes"][0]["text"].as_str().unwrap();
    assert!(text.contains("-<p>one</p>") && text.contains("+<p>two</p>"), "{text}");

    let synced = member.json(&["sync", "web", "--full", "--show-lists"]);
    assert_eq!((&synced[0]["same"], &synced[0]["in_step"]), (&true.into(), &true.into()));
    assert_eq!(synced[0]["lists"]["have"].as_array().unwrap().len(), 3, "{synced}");

    // Each of the three lists is read again: of the version before, what has become of it.
    for form in ["--json", "--xml"] {
        let printed = member.ask(&["sync", "web", "--show-lists", form]);
        let list = dir.path().join("lists");
        fs::write(&list, &printed.stdout).unwrap();
        let list = list.to_str().unwrap();
        assert_eq!(member.json(&["diff", "web", "--have", list])["same"], true);
        let before = member.json(&["diff", "web", "1", "--have", list]);
        assert_eq!((&before["version"], &before["differing"]), (&1.into(), &1.into()), "{before}");
        assert_eq!(before["lists"]["update"][0]["path"], "index.html");
        // Nothing is lacking here; where nothing stands, both files have to come from somewhere.
        assert_eq!(member.json(&["verify", "web", "--action", list])["asked"], 0);
        let nothing = if form == "--xml" { "<have/>" } else { "[]" };
        let other = dir.path().join("other");
        fs::write(&other, nothing).unwrap();
        let other = other.to_str().unwrap();
        let asked = member.json(&["diff", "web", "--have", other]).to_string();
        fs::write(other, asked).unwrap();
        let pieces = member.json(&["verify", "web", "--action", other]);
        assert_eq!((&pieces["asked"], &pieces["whole"]), (&2.into(), &2.into()), "{pieces}");
        let (code, error) = member.refused(&["diff", "web", "--have", "/dev/null"]);
        assert_eq!((code, &error["reason"]), (3, &"invalid".into()), "{error}");
    }

    // An edit by hand is seen, and put right by the vote of this one member.
    let live = member.data.join("live/web/index.html");
    member.json(&["window", "open", "--app", "web"]);
    fs::write(&live, "<p>by hand</p>").unwrap();
    assert_eq!(member.json(&["diff", "web", "--live"])["changed"], 1);
    let waited = member.ask(&["sync", "web", "--json"]);
    assert_eq!(waited.status.code(), Some(1), "a window is open: nothing is put right");
    member.json(&["policy", "vote", "committed"]);
    member.json(&["window", "close"]);
    assert_eq!(member.json(&["sync", "web"])[0]["in_step"], true);
    assert_eq!(fs::read_to_string(&live).unwrap(), "<p>two</p>");
    let kept = member.json(&["restore", "web"]);
    assert_eq!((&kept[0]["number"], &kept[0]["files"]), (&1.into(), &1.into()), "{kept}");
    let lost = dir.path().join("lost");
    let to = lost.to_str().unwrap();
    member.json(&["restore", "web", "1", "--to", to]);
    assert_eq!(fs::read_to_string(lost.join("index.html")).unwrap(), "<p>by hand</p>");
    let (code, _) = member.refused(&["restore", "web", "1", "--to", to]);
    assert_eq!(code, 3, "nothing is written over");

    // What was brought back is published by a list; the way back is a list, too.
    let list = lost.join("list.xml");
    let text = r#"<update><set path="index.html" content="index.html"/><del path="sub"/></update>"#;
    fs::write(&list, text).unwrap();
    let list = list.to_str().unwrap();
    assert_eq!(member.json(&["publish", "--update", list, "--app", "web"])["version"], 3);
    let back = dir.path().join("back.json");
    let diff = member.ask(&["diff", "web", "3", "2", "--json"]);
    fs::write(&back, &diff.stdout).unwrap();
    let back = back.to_str().unwrap();
    assert_eq!(member.json(&["publish", "--update", back, "--app", "web"])["version"], 4);
    assert_eq!(member.json(&["diff", "web", "2", "4"])["same"], true);
    let (code, error) = member.refused(&["publish", "--update", back, "--app", "web"]);
    assert_eq!((code, &error["reason"]), (3, &"invalid".into()), "it was applied already: {error}");
}

/// A server on loopback that has `contents` and says which targets it was asked for.
fn files(contents: &'static [(&str, &str)]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&asked);
    // It ends with this process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let target = head[0].split(' ').nth(1).unwrap().to_owned();
            let found = contents.iter().find(|(name, _)| target.starts_with(name));
            let (status, body) = found.map_or(("404 Not Found", ""), |found| ("200 OK", found.1));
            kept.lock().unwrap().push(target);
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    (address, asked)
}

/// Covers R10.
#[test]
fn content_that_a_list_names_by_url_is_fetched_and_published() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir.path().join("one"), &["--name", "one"]);
    let public = site(&dir, "public", "<p>one</p>");
    member.json(&["publish", &public, "--app", "web"]);
    let (server, asked) = files(&[("/film", "a film"), ("/song", "a song")]);
    let asked = || std::mem::take(&mut *asked.lock().unwrap());
    let file = |content: &str| {
        let (size, digest) = (content.len(), blake3::hash(content.as_bytes()));
        (format!(r#""kind":"file","mode":"0640","size":{size},"digest":"{digest}""#), digest)
    };
    let list = dir.path().join("list");
    let publish = |text: &str| {
        fs::write(&list, text).unwrap();
        ["publish", "--update", list.to_str().unwrap(), "--app", "web"].map(str::to_owned)
    };
    let live = |name: &str| fs::read_to_string(member.data.join("live/web").join(name)).unwrap();

    // What the member holds already is not asked for.
    let arguments = publish(&format!(
        r#"[{{"op":"ADD","path":"film","url":"http://who:secret@{server}/film?key=secret",
             "after":{{{}}}}},
            {{"op":"ADD","path":"copy","url":"http://{server}/copy","after":{{{}}}}}]"#,
        file("a film").0,
        file("<p>one</p>").0,
    ));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(member.json(&arguments)["version"], 2);
    assert_eq!(asked(), ["/film?key=secret"]);
    assert_eq!((&*live("film"), &*live("copy")), ("a film", "<p>one</p>"));
    let document = |op: &str, content: &str, target: &str| {
        format!(
            "<update>\n<{op} path='film' url='http://who:secret@{server}{target}?key=secret'>\
             <file mode='0644' size='{}' digest='{}'/></{op}></update>",
            content.len(),
            file(content).1
        )
    };
    publish(&document("set", "a song", "/song"));
    assert_eq!(member.json(&arguments)["version"], 3);
    assert_eq!((&*live("film"), asked()), ("a song", vec!["/song?key=secret".to_owned()]));

    // What can't be had is not published, and neither is what does not fit: that is seen
    // before anybody is asked.
    let mut told = String::new();
    publish(&document("set", "other", "/none"));
    let (code, error) = member.refused(&arguments);
    told += &error.to_string();
    assert_eq!((code, &error["reason"]), (1, &"failed".into()), "{error}");
    let why = error["why"].as_str().unwrap();
    let expected =
        format!("line 2 (SET film): http://{server}/none?…: the server answers 404 Not Found");
    assert!(why.starts_with(&expected), "{why}");
    publish(&document("set", "the song", "/song"));
    let (code, error) = member.refused(&arguments);
    told += &error.to_string();
    assert_eq!((code, &error["reason"]), (3, &"invalid".into()), "{error}");
    asked();
    publish(&document("add", "the song", "/song"));
    let (code, error) = member.refused(&arguments);
    told += &error.to_string();
    assert_eq!((code, asked()), (3, vec![]), "{error}");
    assert_eq!(member.json(&["history", "web"])[0]["number"], 3);

    // Nothing is left of it, and what lets somebody in stands nowhere.
    assert_eq!(fs::read_dir(member.data.join("incoming")).unwrap().count(), 0);
    told += &member.json(&["events"]).to_string();
    told += &member.json(&["status"]).to_string();
    told += &member.json(&["history", "web"]).to_string();
    assert!(!told.contains("secret"), "{told}");
    let progress = member.ask(&arguments);
    let progress = String::from_utf8(progress.stderr).unwrap();
    assert!(
        progress.contains("stands there already") && !progress.contains("secret"),
        "{progress}"
    );
}

/// What a command has fetched goes with it, also if it is interrupted; and what one that
/// was killed left behind goes with the next.
#[test]
fn a_command_that_fetches_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir.path().join("one"), &["--name", "one"]);
    let public = site(&dir, "public", "<p>one</p>");
    member.json(&["publish", &public, "--app", "web"]);
    // It takes connections, and never says the last byte of what it has.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stalling = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na fil").unwrap();
            held.push(stream);
        }
    });
    let (server, _asked) = files(&[("/film", "a film")]);
    let list = dir.path().join("list.xml");
    let write = |server: SocketAddr| {
        let digest = blake3::hash(b"a film");
        let text = format!(
            "<update><add path='film' url='http://{server}/film'>\
             <file mode='0644' size='6' digest='{digest}'/></add></update>"
        );
        fs::write(&list, text).unwrap();
    };
    let arguments = ["publish", "--update", list.to_str().unwrap(), "--app", "web"];
    let incoming = member.data.join("incoming");
    let left = || fs::read_dir(&incoming).map_or(0, Iterator::count);
    let stopped_by = |signal| {
        write(stalling);
        let mut command = althing();
        command.args(arguments).args(["--json", "--data"]).arg(&member.data);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let arrived = |path: PathBuf| fs::metadata(path.join("0")).is_ok_and(|m| m.len() == 5);
        let entries = || fs::read_dir(&incoming).into_iter().flatten().map(|e| e.unwrap().path());
        until("something has come", || entries().any(arrived));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait_with_output().unwrap()
    };
    let (code, error) = refused(stopped_by(rustix::process::Signal::INT));
    assert_eq!((code, left()), (1, 0), "{error}");
    stopped_by(rustix::process::Signal::KILL);
    assert_eq!(left(), 1);
    write(server);
    assert_eq!(member.json(&arguments)["version"], 2);
    assert_eq!(left(), 0);
}

/// Three members that hold version 1 of `web`.
fn three_with_a_site(dir: &TempDir) -> [Member; 3] {
    let one = start(&dir.path().join("one"), &["--name", "one"]);
    let address = one.ready["address"].as_str().unwrap().to_owned();
    let token = one.json(&["invite", "--uses", "2"])["token"].as_str().unwrap().to_owned();
    let file = dir.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let join = ["--join", &address, "--token-file", file.to_str().unwrap(), "--name"];
    let [two, three] =
        ["two", "three"].map(|name| start(&dir.path().join(name), &[&join[..], &[name]].concat()));
    until("all three have a vote", || {
        let members = one.json(&["members"]);
        let members = members.as_array().unwrap();
        members.len() == 3 && members.iter().all(|m| m["voter"] == true && m["state"] == "alive")
    });
    one.json(&["publish", &site(dir, "public", "<p>one</p>"), "--app", "web"]);
    [one, two, three]
}

/// Covers R11.
#[test]
fn edits_of_live_files_are_publications_in_a_window_in_automatic_mode() {
    let dir = TempDir::new().unwrap();
    let members = three_with_a_site(&dir);
    let live = |member: &Member, name: &str| member.data.join("live/web").join(name);
    let everywhere = |name: &str, text: &str| {
        members.iter().all(|m| fs::read_to_string(live(m, name)).ok().as_deref() == Some(text))
    };
    let [one, two, three] = &members;
    one.json(&["window", "open", "--automatic", "--app", "web"]);
    // It is open once a majority says so, and this member may hear of it last.
    until("another member sees it", || two.json(&["window"])["window"]["automatic"] == true);
    // On a member that was not asked for the window, and that does not preside.
    fs::write(live(three, "index.html"), "<p>three</p>").unwrap();
    until("an edit is everywhere", || everywhere("index.html", "<p>three</p>"));
    let history = one.json(&["history", "web"]);
    let newest = history.as_array().unwrap().iter().max_by_key(|v| v["number"].as_u64()).unwrap();
    assert_eq!((&newest["origin"], &newest["publisher"]), (&"edited".into(), &"three".into()));
    // Two members at once, different files; one of them with a directory, and a deletion.
    fs::write(live(one, "one.html"), "1").unwrap();
    fs::create_dir(live(two, "new")).unwrap();
    fs::write(live(two, "new/two.html"), "2").unwrap();
    fs::remove_file(live(two, "sub/page.html")).unwrap();
    until("edits of several members come together", || {
        everywhere("one.html", "1")
            && everywhere("new/two.html", "2")
            && members.iter().all(|m| !live(m, "sub/page.html").exists())
    });
    // The same file: one of the two wins, everywhere, and the other is kept aside or came later.
    fs::write(live(one, "same"), "of one").unwrap();
    fs::write(live(two, "same"), "of two").unwrap();
    let same = |m: &Member| fs::read_to_string(live(m, "same")).unwrap_or_default();
    until("all agree again", || {
        let texts: Vec<String> = members.iter().map(same).collect();
        let kept = |m: &Member| m.json(&["restore", "web"]).as_array().unwrap().len();
        if !texts[0].starts_with("of ") || texts.iter().any(|text| *text != texts[0]) {
            return false;
        }
        let lost = if texts[0] == "of one" { two } else { one };
        match one.json(&["diff", "web"])["changes"][0]["op"].as_str() {
            // It came with the version of who won; what the other had written lies aside there.
            Some("ADD") => kept(lost) == 1 && kept(one) + kept(two) == 1,
            // This test was held up between the two: the second is a later edit of the first.
            Some("SET") => texts[0] == "of two",
            _ => false,
        }
    });
    // Once it is closed, which waits for the last switch to be told of, the majority is right again.
    until("it is closed", || three.ask(&["window", "close"]).status.success());
    fs::write(live(three, "index.html"), "<p>drift</p>").unwrap();
    until("drift is repaired", || everywhere("index.html", "<p>three</p>"));
}

/// Covers R14.
#[test]
fn any_member_tells_in_which_files_another_differs() {
    let dir = TempDir::new().unwrap();
    let members = three_with_a_site(&dir);
    let [one, _, three] = &members;
    let differs = || {
        let told = one.ask(&["diff", "web", "--live", "--member", "three", "--json"]);
        serde_json::from_slice::<Value>(&told.stdout).unwrap_or_default()
    };
    let counts =
        |told: &Value| ["added", "changed", "deleted"].map(|of| told["differs"][of].clone());
    let none = [0, 0, 0].map(Value::from);
    until("the other stands at version 1", || {
        let told = differs();
        told["live"] == 1 && told["version"] == 1 && counts(&told) == none
    });
    one.json(&["window", "open", "--app", "web"]);
    until("it knows that a window is open", || !three.json(&["window"])["window"].is_null());
    let live = three.data.join("live/web");
    fs::write(live.join("index.html"), "<p>by hand</p>").unwrap();
    fs::write(live.join("new.html"), "kept to itself").unwrap();
    fs::remove_file(live.join("sub/page.html")).unwrap();
    let told = differs();
    assert_eq!(counts(&told), [1, 1, 1].map(Value::from), "{told}");
    let paths: Vec<String> = told["differs"]["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {}", one["op"].as_str().unwrap(), one["path"].as_str().unwrap()))
        .collect();
    assert_eq!(paths, ["SET index.html", "ADD new.html", "DEL sub/page.html"]);
    assert_eq!((&told["member"], &told["coming"]), (&"three".into(), &Value::Null));
    assert!(!told.to_string().contains("kept to itself"), "content was told: {told}");
    let text = one.ask(&["diff", "web", "--live", "--member", "three"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("1 added, 1 changed, 1 deleted"), "{text}");
    // What stands on the others is their own.
    let told = one.json(&["diff", "web", "--live", "--member", "two"]);
    assert_eq!(counts(&told), none, "{told}");
    one.json(&["window", "close"]);
    until("the vote has put it right", || counts(&differs()) == none);
}

#[test]
fn refusals_have_three_sentences_and_a_code_of_their_own() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir.path().join("one"), &["--name", "one"]);
    let public = site(&dir, "public", "x");
    member.json(&["publish", &public, "--app", "web"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let missing = dir.path().join("missing");
    let (empty, missing) = (empty.to_str().unwrap(), missing.to_str().unwrap());
    for (arguments, code, reason) in [
        (&["publish", empty, "--app", "web"][..], 3, "invalid"),
        (&["publish", &public, "--app", "web"], 5, "conflict"),
        (&["publish", &public], 3, "invalid"),
        (&["publish", &public, "--app", "web", "--base", "7"], 5, "conflict"),
        (&["history", "nothing"], 4, "not-found"),
        (&["votes", "nothing"], 4, "not-found"),
        (&["verify", "nothing"], 4, "not-found"),
        (&["diff", "nothing"], 4, "not-found"),
        (&["diff", "web", "9"], 4, "not-found"),
        (&["diff", "nothing", "--live", "--member", "one"], 4, "not-found"),
        (&["diff", "web", "--live", "--member", "nobody"], 4, "not-found"),
        (&["sync", "nothing"], 4, "not-found"),
        (&["restore", "web", "1", "--to", "/tmp"], 4, "not-found"),
        (&["publish", "--update", missing, "--app", "web"], 3, "invalid"),
        (&["rollback", "web", "9"], 4, "not-found"),
        (&["window", "close"], 4, "not-found"),
        (&["window", "open", "--app", "nothing"], 4, "not-found"),
        (&["remove", "nobody"], 4, "not-found"),
        (&["remove", "one"], 3, "invalid"),
        (&["failover", "set", "nobody"], 4, "not-found"),
        (&["invite", "--uses", "0"], 3, "invalid"),
        (&["invites", "withdraw", "3f9c"], 4, "not-found"),
    ] {
        let (found, error) = member.refused(arguments);
        assert_eq!((found, &error["reason"]), (code, &reason.into()), "{arguments:?}: {error}");
    }
    let (code, _) = member.refused(&["publish", missing, "--app", "web"]);
    assert_ne!(code, 0);
    assert_eq!(member.json(&["apps"])[0]["version"], 1, "nothing was changed");
    // For people on standard error, with nothing on standard output.
    let output = member.ask(&["remove", "nobody"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\n  why: ") && text.contains("\n  do:  "), "{text}");
    // What it names can be run as it stands there.
    let one = dir.path().join("one");
    assert!(text.contains(&format!("`althing members --data {}`", one.display())), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn without_a_member_every_command_says_how_to_start_one() {
    let dir = TempDir::new().unwrap();
    for arguments in [&["members"][..], &["leave"], &["publish", ".", "--app", "web"]] {
        let mut command = althing();
        let output = command.args(arguments).arg("--json").arg("--data").arg(dir.path()).output();
        let (code, error) = refused(output.unwrap());
        assert_eq!(code, 4);
        assert!(error["what"].as_str().unwrap().contains("No member is running"), "{error}");
    }
}

#[test]
fn where_no_member_runs_the_doctor_looks_at_what_a_start_needs() {
    let dir = TempDir::new().unwrap();
    // Whatever runs on this machine, one of the ports is taken now.
    let _taken = TcpListener::bind("127.0.0.1:7780");
    let output =
        althing().args(["--json", "doctor", "--data"]).arg(dir.path().join("none")).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let find = |part: &str| {
        let is_it = |finding: &&Value| finding["what"].as_str().unwrap().contains(part);
        findings.iter().find(is_it).unwrap_or_else(|| panic!("{part}: {findings:?}"))
    };
    assert!(find("No member is running")["todo"].as_str().unwrap().contains("althing up"));
    assert!(find("127.0.0.1:7780 can't be listened on")["todo"].as_str().unwrap().contains("ss"));
    assert!(find("this machine")["how"].is_string());
    assert!(!dir.path().join("none").exists(), "it changes nothing");
}

#[test]
fn a_shell_completes_what_there_is() {
    let place = TempDir::new().unwrap();
    let script = place.path().join("althing.bash");
    let output = althing().args(["completions", "bash"]).env_remove("HOME").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&script, output.stdout).unwrap();
    // As bash asks: the words so far, and which of them the cursor is in.
    let completed = |words: &[&str]| -> Vec<String> {
        let (last, before) = (words.last().unwrap(), words[words.len() - 2]);
        let ask = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _althing althing {last:?} {before:?}; \
             printf '%s\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" "),
            words.len() - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    assert_eq!(completed(&["althing", "pub"]), ["publish"]);
    assert_eq!(completed(&["althing", "drain", "--wa"]), ["--wait"]);
    assert_eq!(completed(&["althing", "policy", "re"]), ["remove-after"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = althing().args(["completions", shell]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("rotate-key"), "{shell}");
    }
    let wrong = althing().args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let place = TempDir::new().unwrap();
    let pages = place.path().join("man1");
    let output = althing().args(["man", "--into"]).arg(&pages).env_remove("HOME").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["althing", "althing-publish", "althing-policy-vote"] {
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.starts_with(".ie ") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    assert!(!pages.join("althing-guard-addresses.1").exists(), "it is for nobody's hands");
    let one = althing().arg("man").output().unwrap();
    assert_eq!(one.stdout, fs::read(pages.join("althing.1")).unwrap());
    // A file stands where the directory is to be.
    let file = pages.join("althing.1");
    let refused = refused(althing().args(["--json", "man", "--into"]).arg(&file).output().unwrap());
    assert_eq!(refused.0, 1);
}

/// What ends in an error leaves what was there as it was.
#[test]
fn a_member_that_cannot_start_says_why() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("one");
    let member = start(&data, &["--name", "one"]);
    let address = |key: &str| member.ready[key].as_str().unwrap();
    let other = dir.path().join("two");
    let fails = |data: &Path, more: &[&str], code: i32, text: &str| {
        // The last of two options of one name would be refused by clap.
        let mut command = althing();
        command.args(["up", "--json", "--status", "none", "--data"]).arg(data);
        for (option, value) in [("--bind", "127.0.0.1:0"), ("--listen", "127.0.0.1:0")] {
            if !more.contains(&option) {
                command.args([option, value]);
            }
        }
        let (found, error) = refused(command.args(more).output().unwrap());
        assert_eq!(found, code, "{more:?}: {error}");
        assert!(error["why"].as_str().unwrap().contains(text), "{more:?}: {error}");
    };
    fails(&data, &[], 1, "another");
    fails(&other, &["--bind", address("address")], 1, "in use");
    fails(&other, &["--listen", address("site")], 1, "in use");
    fails(&other, &["--join", address("address"), "--token", "nonsense"], 3, "token");
    fails(&other, &["--join", address("address")], 7, "token");
    fails(&other, &["--join", address("address"), "--token-file", "/nonexistent"], 3, "token");
    fails(&other, &["--join", "a:b:c", "--token", "x"], 3, "a:b:c");
    let newer = dir.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("format"), "althing data directory, format 99\n").unwrap();
    fails(&newer, &[], 1, "99");
    assert_eq!(member.json(&["members"]).as_array().unwrap().len(), 1);
}

/// Covers R1, R3.
#[test]
fn members_join_by_token_are_removed_and_leave() {
    let dir = TempDir::new().unwrap();
    let one = start(&dir.path().join("one"), &["--name", "one"]);
    let address = one.ready["address"].as_str().unwrap().to_owned();
    let token = one.json(&["invite", "--uses", "2"])["token"].as_str().unwrap().to_owned();
    let file = dir.path().join("token");
    fs::File::create(&file).unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
    let join = ["--join", &address, "--token-file", file.to_str().unwrap()];
    let joined =
        |name: &str| start(&dir.path().join(name), &[&join[..], &["--name", name]].concat());
    let mut two = joined("two");
    assert_eq!(two.ready["joined"], true);
    let three = joined("three");
    until("all three are alive and have a vote", || {
        three
            .json(&["members"])
            .as_array()
            .unwrap()
            .iter()
            .all(|m| m["state"] == "alive" && m["voter"] == true)
            && three.json(&["members"]).as_array().unwrap().len() == 3
    });
    // The token is used up.
    let mut late = up(&dir.path().join("four"), &[&join[..], &["--name", "four"]].concat());
    let (code, error) = refused(late.output().unwrap());
    assert_eq!((code, error["reason"].as_str()), (7, Some("forbidden")), "{error}");
    // Removed: it stops by itself, and is not let in again.
    one.json(&["remove", "two"]);
    assert_eq!(two.ended(), 7);
    let (code, error) = refused(up(&two.data, &[]).output().unwrap());
    assert_eq!(code, 7, "{error}");
    // Left: it stops by itself, and that is a success.
    let mut three = three;
    three.json(&["leave"]);
    assert_eq!(three.ended(), 0);
    until("one is alone", || one.json(&["members"]).as_array().unwrap().len() == 1);
}

#[test]
fn a_member_that_is_stopped_comes_back_as_itself() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("one");
    let mut first = start(&data, &["--name", "one"]);
    let public = site(&dir, "public", "x");
    first.json(&["publish", &public, "--app", "web"]);
    // SIGTERM, as a service manager sends it.
    let pid = rustix::process::Pid::from_child(&first.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(first.ended(), 0);
    let mut second = start(&data, &[]);
    assert_eq!(second.ready["founded"], false);
    assert_eq!((&second.ready["id"], &second.ready["name"]), (&first.ready["id"], &"one".into()));
    assert_eq!(second.json(&["apps"])[0]["version"], 1);
    // Its parent is gone: it does not stay behind.
    assert_eq!(second.stop(), 0);
}

/// Covers R1 to R3, R14, R16 to R20: the whole story, with a user's own site.
#[test]
fn the_demonstration_happens() {
    let dir = TempDir::new().unwrap();
    let public = site(&dir, "public", "<p>mine</p>");
    let before = fs::metadata(Path::new(&public).join("index.html")).unwrap().mtime_nsec();
    let output = althing()
        .args(["demo", "--exit", "--json", "--members", "5", "--site", &public])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let steps: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(output.status.success(), "{text}");
    assert_eq!(steps.len(), 7, "{text}");
    for (index, step) in steps.iter().enumerate() {
        assert_eq!((&step["step"], &step["ok"]), (&(index + 1).into(), &true.into()), "{step}");
        assert!(step["ms"].is_u64() && !step["text"].as_str().unwrap().is_empty());
    }
    assert!(steps[3]["details"]["takeovers"].as_u64().unwrap() >= 1);
    assert_eq!(steps[5]["details"]["refusal"]["reason"], "no-majority");
    // Nothing is left behind, and the site was only read.
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["public"]);
    let after = fs::metadata(Path::new(&public).join("index.html")).unwrap().mtime_nsec();
    assert_eq!(before, after);
}
