//! The guide: what README and `docs/start.md` tell a reader to type is typed, word for word, and
//! what they show has to come; the book lists every page, and every link leads somewhere.
//!
//! Blocks fenced as `console` have commands behind `$ ` (or `server1$ `, for the shell of a server)
//! and what they print; blocks fenced as `sh` are typed as a whole. In what is shown, `…` stands
//! for anything, runs of blanks are one, and lines between those that are shown may be left out.
//! A command that only looks is given again until it shows that, as a reader would look again.
//!
//! They run in network namespaces of their own, with the addresses and ports that the guide names.
//! Needs root or user namespaces, and bash, curl, iproute2 and util-linux.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long what is shown may take to come.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Commands that change nothing, by how they begin.
const LOOKS: [&str; 10] = [
    "althing events",
    "althing history",
    "althing logs",
    "althing members",
    "althing restore",
    "althing services",
    "althing status",
    "althing votes",
    "cat",
    "curl",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

// What is to be typed.

/// One thing to type, and what it shows.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Whose shell: empty for the only one.
    at: String,
    /// What is typed.
    typed: String,
    /// The lines that it has to show.
    shown: Vec<String>,
}

/// The steps of a page, in order.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                fence = Some(kind);
                if kind == "sh" {
                    steps.push(Step { at: String::new(), typed: String::new(), shown: vec![] });
                }
            }
            (Some(_), Some("")) => fence = None,
            (Some("sh"), _) => {
                let step = steps.last_mut().expect("it was made where the fence began");
                step.typed.push_str(line);
                step.typed.push('\n');
            }
            (Some("console"), _) => match prompt(line) {
                Some((at, typed)) => {
                    let (at, typed) = (at.to_owned(), typed.to_owned());
                    steps.push(Step { at, typed, shown: vec![] });
                }
                None if line.trim().is_empty() => {}
                None => {
                    let step = steps.last_mut().expect("what is shown stands below a command");
                    step.shown.push(line.to_owned());
                }
            },
            _ => {}
        }
    }
    steps
}

/// The shell and the command of a line with a prompt.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (at, typed) = line.split_once('$')?;
    let is_name = at.chars().all(|c| c.is_ascii_alphanumeric());
    is_name.then_some((at, typed.strip_prefix(' ')?.trim()))
}

/// Whether a command may be given again and again.
fn only_looks(typed: &str) -> bool {
    // With a further word it opens or closes one.
    typed == "althing window" || LOOKS.iter().any(|known| is_command(typed, known))
}

fn is_command(typed: &str, known: &str) -> bool {
    typed.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// What of `expected` is not in `output`, in this order.
fn missing<'a>(expected: &'a [String], output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    expected.iter().map(String::as_str).find(|wanted| !lines.any(|line| is_like(wanted, line)))
}

/// Whether `line` is what is shown as `wanted`.
fn is_like(wanted: &str, line: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (wanted, line) = (plain(wanted), plain(line));
    let Some((first, rest)) = wanted.split_once('…') else { return wanted == line };
    let Some(mut left) = line.strip_prefix(first.trim_end()) else { return false };
    let parts: Vec<&str> = rest.split('…').map(str::trim).collect();
    let (last, middle) = parts.split_last().expect("splitting gives at least one");
    for part in middle {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

// Where it is typed.

/// A bash that is told what to do line by line, in a network namespace; ended with all that it
/// has started.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    done: mpsc::Receiver<String>,
    /// Where what is typed and what it shows lies.
    desk: tempfile::TempDir,
    typed: usize,
}

/// What a step that was typed showed so far, and with which status it ended.
struct Typed {
    output: PathBuf,
    status: String,
}

impl Shell {
    /// `under` makes its namespaces and runs what follows.
    fn new(under: &[String], place: &Path, data: Option<&Path>) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_althing"));
        let mut path = binary.parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(&under[0]);
        command.args(&under[1..]).args(["bash", "--noprofile", "--norc"]);
        command.current_dir(place).env("PATH", path).env("NO_PROXY", "*");
        // What this machine is configured with is none of the guide's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ALTHING_") {
                command.env_remove(name);
            }
        }
        command.env_remove("BASH_ENV").env_remove("NOTIFY_SOCKET").env("ALTHING_CONFIG", "none");
        if let Some(data) = data {
            command.env("ALTHING_DATA", data);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().expect("unshare and bash are here");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, done) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _test_may_be_over = sender.send(line);
            }
        });
        let desk = tempfile::tempdir().unwrap();
        let mut shell = Self { child, stdin, done, desk, typed: 0 };
        shell.prepare("ip link set lo up");
        shell
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types something that has to go well.
    fn prepare(&mut self, text: &str) {
        let typed = self.type_in(text);
        let output = fs::read_to_string(&typed.output).unwrap_or_default();
        assert_eq!(typed.status, "0", "{text}: {output}");
    }

    /// Types something and waits until the shell takes the next one.
    fn type_in(&mut self, text: &str) -> Typed {
        self.typed += 1;
        let input = self.desk.path().join(format!("{}.sh", self.typed));
        let output = self.desk.path().join(format!("{}.out", self.typed));
        fs::write(&input, format!("{text}\n")).unwrap();
        // In this shell and not in one below it, so that variables and directories stay.
        let (from, to) = (input.display(), output.display());
        writeln!(self.stdin, "{{ . {from}; }} >{to} 2>&1 </dev/null; echo $?").unwrap();
        let status = self.done.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let shown = fs::read_to_string(&output).unwrap_or_default();
            panic!("{text:?} did not end ({error}): {shown}")
        });
        Typed { output, status }
    }

    /// Does what a reader does, and says what was not as it is shown.
    fn try_step(&mut self, step: &Step, patience: Duration) -> Result<String, String> {
        let began = Instant::now();
        let refused = step.shown.iter().any(|line| line.starts_with("althing: "));
        let mut typed = self.type_in(&step.typed);
        loop {
            let output = fs::read_to_string(&typed.output).unwrap_or_default();
            let lacking = missing(&step.shown, &output);
            let fine = (typed.status == "0") != refused;
            match lacking {
                None if fine => return Ok(output),
                _ if began.elapsed() < patience && only_looks(&step.typed) => {
                    std::thread::sleep(LOOK_EVERY);
                    typed = self.type_in(&step.typed);
                }
                // What runs on in the background shows more by and by.
                Some(_) if fine && began.elapsed() < patience => std::thread::sleep(LOOK_EVERY),
                lacking => {
                    let status = &typed.status;
                    let typed = &step.typed;
                    return Err(format!(
                        "{typed}\nended with {status} and did not show {lacking:?}, but:\n{output}"
                    ));
                }
            }
        }
    }

    fn step(&mut self, step: &Step) -> String {
        self.try_step(step, PATIENCE).unwrap_or_else(|why| panic!("{why}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // Members of it that have ended are none of the group any more.
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A network of its own, with loopback alone.
fn alone() -> Vec<String> {
    words(if is_root() { "unshare -n" } else { "unshare -rn" })
}

/// Servers beside each other: `server1` is 10.0.0.1, and so on; each with its own name, network
/// and data directory.
struct Servers {
    hub: Shell,
    shells: BTreeMap<String, Shell>,
    place: tempfile::TempDir,
}

impl Servers {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut hub = Shell::new(&alone(), place.path(), None);
        hub.prepare(
            "ip link add name hub type bridge && ip addr add 10.0.0.254/24 dev hub \
             && ip link set hub up",
        );
        Self { hub, shells: BTreeMap::new(), place }
    }

    fn shell(&mut self, name: &str) -> &mut Shell {
        if !self.shells.contains_key(name) {
            let number: u8 = name.strip_prefix("server").and_then(|n| n.parse().ok()).unwrap();
            let home = self.place.path().join(name);
            fs::create_dir(&home).unwrap();
            let user = if is_root() { "" } else { " -U --preserve-credentials" };
            let under = format!("nsenter -t {}{user} -n unshare -n -u", self.hub.pid());
            let mut shell = Shell::new(&words(&under), &home, Some(&home.join("data")));
            let pid = shell.pid();
            self.hub.prepare(&format!(
                "ip link add name v{number} master hub type veth peer name eth0 netns {pid} \
                 && ip link set v{number} up"
            ));
            shell.prepare(&format!(
                "hostname {name} && ip addr add 10.0.0.{number}/24 dev eth0 \
                 && ip link set eth0 up && ip route add default via 10.0.0.254"
            ));
            self.shells.insert(name.to_owned(), shell);
        }
        self.shells.get_mut(name).unwrap()
    }
}

// The pages.

#[test]
fn the_ten_minute_start_is_as_it_says() {
    let place = tempfile::tempdir().unwrap();
    let mut shell = Shell::new(&alone(), place.path(), None);
    let steps = steps(&page("docs/start.md"));
    assert!(steps.len() > 30, "only {} steps", steps.len());
    for step in steps {
        // It is built already, and stands first in PATH.
        if !step.typed.starts_with("cargo ") {
            shell.step(&step);
        }
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "it cleans up");
}

#[test]
fn the_readme_is_as_it_says() {
    let readme = page("README.md");
    let (_, part) = readme.split_once("\n## Use it\n").expect("README says how to use it");
    let part = part.split("\n## ").next().unwrap_or_default();
    let steps = steps(part);
    assert!(steps.len() >= 6, "{steps:?}");
    let mut servers = Servers::new();
    let public = servers.place.path().join("server1/public");
    servers.shell("server1");
    fs::create_dir(&public).unwrap();
    fs::write(public.join("index.html"), "from the README\n").unwrap();
    let mut token = String::new();
    for mut step in steps {
        if step.typed.starts_with("cargo ") {
            continue;
        }
        // `…` is the token that was printed, and any member is any member.
        step.typed = step.typed.replace('…', &token);
        let at = if step.at == "any" { "server2".to_owned() } else { step.at.clone() };
        let up = is_command(&step.typed, "althing up");
        if up {
            // It stays in the foreground: the reader has a terminal for each server.
            let (command, comment) = step.typed.split_once(" #").unwrap_or((&step.typed, ""));
            step.typed = format!("{} & #{comment}", command.trim_end());
            step.shown.push("It runs until Ctrl-C.".to_owned());
        }
        let output = servers.shell(&at).step(&step);
        if let Some((_, found)) = output.split_once("--token ") {
            token = found.split_whitespace().next().unwrap_or_default().to_owned();
        }
        if is_command(&step.typed, "althing invite") {
            assert!(token.starts_with("althing-"), "{output}");
        }
    }
    for (server, other) in [("server1", 2), ("server2", 1)] {
        let typed = format!("curl -s http://10.0.0.{other}:8080/");
        let shown = vec!["from the README".to_owned()];
        servers.shell(server).step(&Step { at: String::new(), typed, shown });
    }
}

#[test]
fn what_is_not_as_the_guide_says_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let nobody = place.path().join("nobody");
    let mut shell = Shell::new(&alone(), place.path(), Some(&nobody));
    let mut told = |typed: &str, shown: &[&str]| {
        let shown = shown.iter().map(|&line| line.to_owned()).collect();
        let step = Step { at: String::new(), typed: typed.to_owned(), shown };
        shell.try_step(&step, Duration::from_millis(300))
    };
    assert_eq!(told("a=1; mkdir d && cd d", &[]), Ok(String::new()));
    assert_eq!(told("echo $a; basename $PWD", &["1", "d"]), Ok("1\nd\n".to_owned()));
    assert!(told("false", &[]).is_err());
    assert!(told("echo one", &["two"]).unwrap_err().contains("two"));
    assert!(told("cat nowhere", &["text"]).unwrap_err().contains("No such file"));
    assert!(told("cat nowhere", &["althing: …"]).is_err(), "it is to show a refusal");
    assert!(told("althing status", &["althing: …", "why: …", "do: …"]).is_ok(), "nobody runs here");
}

#[test]
fn the_reader_of_pages_reads_as_people_do() {
    let text = "# t\n```console\n$ a b\nout  1\n\n$ c\n```\n```rust\n$ no\n```\n```sh\nx\ny\n```\n\
                ```console\nserver1$ up # x\n```\n";
    let step = |at: &str, typed: &str, shown: &[&str]| Step {
        at: at.to_owned(),
        typed: typed.to_owned(),
        shown: shown.iter().map(|&line| line.to_owned()).collect(),
    };
    let expected = [
        step("", "a b", &["out  1"]),
        step("", "c", &[]),
        step("", "x\ny\n", &[]),
        step("server1", "up # x", &[]),
    ];
    assert_eq!(steps(text), expected);

    assert!(is_like("a  b", " a b ") && !is_like("a b", "a b c"));
    assert!(is_like("one …: 3 of …", "one is fine: 3 of 3"));
    assert!(is_like("…tick", "2024 out tick") && !is_like("…tick", "tick tock"));
    assert!(is_like("a … c", "a   c") && !is_like("a … c", "a b d"));
    assert!(!is_like("a … b … c", "a c b"));
    let shown = ["a".to_owned(), "c".to_owned()];
    assert_eq!(missing(&shown, "x\na\nb\nc\n"), None);
    assert_eq!(missing(&shown, "c\na\n"), Some("c"));

    assert!(only_looks("curl -s x") && only_looks("althing status --check"));
    assert!(!only_looks("cd x") && !only_looks("althing statuses") && !only_looks("althing drain"));
    assert!(only_looks("althing window") && !only_looks("althing window close"));
}

/// Every page of the guide, without the table of contents.
fn pages() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect()
}

#[test]
fn the_book_lists_every_page_once() {
    let listed: Vec<String> = links(&page("docs/SUMMARY.md"));
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(once, pages(), "docs/SUMMARY.md and the pages in docs differ");
    assert_eq!(once.len(), listed.len(), "docs/SUMMARY.md names a page twice");
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let files = pages().into_iter().map(|name| format!("docs/{name}"));
    for file in files.chain(["README.md", "docs/SUMMARY.md"].map(str::to_owned)) {
        let here = Path::new(&file).parent().unwrap().to_owned();
        for link in links(&page(&file)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.clone().into() } else { here.join(path) };
            let is_page = target.extension().is_some_and(|e| e == "md");
            let found = match fs::read_to_string(root().join(&target)) {
                Ok(text) if is_page => heading.is_empty() || headings(&text).contains(heading),
                // A picture is no text.
                _ => heading.is_empty() && root().join(&target).exists(),
            };
            if !found {
                wrong.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

/// Where the links of a page lead, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // What stands between backticks is no link; its odd parts are left out.
        let plain: String = line.split('`').step_by(2).collect();
        for rest in plain.split("](").skip(1) {
            if let Some((link, _)) = rest.split_once(')') {
                links.push(link.to_owned());
            }
        }
    }
    links
}

/// What headings of a page are called in links to them: as forges and mdBook make it.
fn headings(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|n| format!("{name}-{n}")).find(|again| !names.contains(again));
        let taken = names.contains(&name);
        names.extend(if taken { again } else { Some(name) });
    }
    names
}

/// The lines of a page outside of fenced and indented code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced && !line.starts_with("    ")
    })
}

#[test]
fn links_and_headings_are_read_as_they_are_written() {
    let text = "# A `b`: c, d?\n[x](y.md#z) and `[no](n)` [u](https://h)\n```\n# not\n[n](n)\n```\n\
                ## A b c d\n    [n](n)\n";
    assert_eq!(links(text), ["y.md#z", "https://h"]);
    let expected = ["a-b-c-d", "a-b-c-d-1"].map(str::to_owned);
    assert_eq!(headings(text), BTreeSet::from(expected));
}
