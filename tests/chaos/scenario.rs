//! One scenario: a test that runs itself again in namespaces of its own.
//!
//! The inner run is the first process of a process namespace, so everything
//! that it started ends with it; its network and its mounts are seen by nobody
//! else, so that scenarios run beside each other with the same addresses.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::SmallRng};

/// What the inner run sees of the outer one: the seed.
const INSIDE: &str = "ALTHING_CHAOS_INSIDE";
/// What a person chooses a seed with.
const SEED: &str = "ALTHING_CHAOS_SEED";
/// A scenario is written to end within 60 s, or 120 s where real time has to pass. Twice that is a hang.
const ENDED_WITHIN: Duration = Duration::from_secs(240);
/// What the last line of an inner run that came to its end starts with.
const PASSED: &str = "chaos passed:";

/// Runs `body` in namespaces of its own. `name` is the test's, with its module.
pub fn scenario(name: &str, body: impl FnOnce(SmallRng) -> String) {
    if let Ok(seed) = std::env::var(INSIDE) {
        end_with_outer_run();
        let seed = seed.parse().expect("the outer run passes a number");
        let found = body(SmallRng::seed_from_u64(seed));
        say(&format!("{PASSED} {name}: {found}"));
        return;
    }
    let seed = std::env::var(SEED).ok().map_or_else(rand::random::<u32>, |text| {
        text.parse().unwrap_or_else(|e| panic!("{SEED} is {text:?}, and not a number: {e}"))
    });
    say(&format!("chaos {name}: {SEED}={seed}"));
    let started = Instant::now();
    let (output, ended) = run_inside(name, seed);
    let passed = output.lines().find(|line| line.starts_with(PASSED));
    match passed.filter(|_| ended) {
        Some(line) => say(&format!("{line} ({} s)", started.elapsed().as_secs())),
        None => panic!("{name} with {SEED}={seed} failed:\n{output}"),
    }
}

/// Written past the test's capture: a seed is worth seeing before a run hangs.
pub fn say(line: &str) {
    // Nobody may read it: the test goes on.
    let _unread = writeln!(std::io::stderr(), "{line}");
}

fn run_inside(name: &str, seed: u32) -> (String, bool) {
    check_for(&["unshare", "ip", "iptables-restore", "tc", "mount"]);
    let this = std::env::current_exe().expect("a running test has a path");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    // A file system of its own for everything that is written: it goes with it.
    let script = "mount -t tmpfs none /run && mkdir /run/netns && exec \"$@\"";
    command.args(["sh", "-c", script, "sh"]).arg(this);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(INSIDE, seed.to_string()).env("TMPDIR", "/run").env("XTABLES_LOCKFILE", "/run/xt");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("unshare can be started");
    let stdin = child.stdin.take();
    let readers = [
        collect(child.stdout.take().expect("it is piped")),
        collect(child.stderr.take().expect("it is piped")),
    ];
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child can be waited for") {
            break Some(status);
        }
        if started.elapsed() > ENDED_WITHIN {
            let _gone = child.kill();
            let _reaped = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    drop(stdin);
    let [out, err] = readers.map(|reader| reader.join().expect("reading does not panic"));
    let how = match status {
        None => format!("it did not end within {} s\n", ENDED_WITHIN.as_secs()),
        Some(status) if status.success() => String::new(),
        Some(status) => format!("it ended with {status}\n"),
    };
    let hint = if out.contains("running 1 test") {
        ""
    } else {
        "It could not make its namespaces: chaos needs root (or user namespaces), mounts, iproute2 \
         and iptables.\n"
    };
    (format!("{out}{err}{how}{hint}"), status.is_some_and(|s| s.success()))
}

/// Says what is missing, instead of failing somewhere in the middle.
fn check_for(tools: &[&str]) {
    let found = |tool: &&str| {
        let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
        places.iter().any(|place| std::path::Path::new(place).join(tool).exists())
    };
    let missing: Vec<&str> = tools.iter().filter(|tool| !found(tool)).copied().collect();
    assert!(
        missing.is_empty(),
        "chaos needs {}, and this machine does not have it: apt-get install iproute2 iptables",
        missing.join(", ")
    );
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Cut off where the process is killed: what was read is what there is.
        let _ended = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// However the outer run ends, its end of our standard input closes.
fn end_with_outer_run() {
    thread::spawn(|| {
        let mut scrap = [0; 64];
        while matches!(std::io::stdin().read(&mut scrap), Ok(1..)) {}
        std::process::exit(130);
    });
}
