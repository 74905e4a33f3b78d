//! The status page in a real browser, before a cluster that is made up, and the files of the page
//! as they stand here: tests/page/check.py, where each check says by its name what it is about.
//! `tests/page/check.py --only NAME` runs one of them alone.
//!
//! Needs Debian's chromium and python3, and fails without them. The two parts run at the same
//! time, one a processor, and take about a minute.

#![expect(clippy::disallowed_methods, reason = "another process is waited for, not ourselves")]

use std::{
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// A part that takes so long hangs: it is some four times what a busy machine needs.
const GIVE_UP: Duration = Duration::from_secs(480);

/// A process in a group of its own, with all browsers that it starts. Whatever is left of the
/// group is killed when this is dropped.
struct Group {
    leader: Child,
    has_ended: bool,
}

impl Group {
    /// None if it does not end in time.
    fn ended(&mut self) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < GIVE_UP {
            if let Some(status) = self.leader.try_wait().unwrap() {
                // One that says itself what came of it has closed its browsers.
                self.has_ended = status.code().is_some();
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.has_ended {
            let _gone = kill_process_group(Pid::from_child(&self.leader), Signal::KILL);
            let _reaped = self.leader.wait();
        }
    }
}

fn needs(program: &str) {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|said| said.status.success());
    assert!(found, "{program} is needed: apt-get install --no-install-recommends {program}");
}

/// Runs a part of the checks. What they print is shown if one fails.
fn check(arguments: &[&str]) {
    needs("chromium");
    needs("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/check.py");
    let mut out = tempfile::tempfile().unwrap();
    let leader = Command::new("python3")
        .arg(script)
        .args(arguments)
        // The sources stay as they are, and the browser is the one that was looked for.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("BROWSER")
        .env("no_proxy", "*") // loopback only, whoever runs the tests
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out.try_clone().unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let status = Group { leader, has_ended: false }.ended();
    out.rewind().unwrap();
    let mut said = Vec::new();
    out.read_to_end(&mut said).unwrap();
    println!("{}", String::from_utf8_lossy(&said));
    match status {
        Some(status) => assert!(status.success(), "a check failed, see above ({status})"),
        None => panic!("it hung for {GIVE_UP:?}, at what is named last above"),
    }
}

#[test]
fn the_page_does_what_a_person_wants_of_it() {
    check(&[]);
}

#[test]
fn the_page_is_there_for_everybody() {
    check(&["--access"]);
}
