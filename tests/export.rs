//! The configurations for other balancers, in the real HAProxy and nginx: they are taken, the
//! sites are served through them, and a member that is killed is out of them soon.
//!
//! Needs Debian's haproxy and nginx (nginx-light will do), and fails without them.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use common::{Lab, Member, tcp, until};
use rustix::process::{Pid, Signal, kill_process};

/// Where every member serves sites, each on its own address.
const SITES: u16 = 18_080;

/// A process that is asked to end, so that it ends its own, when this is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id() as i32).unwrap();
        // It may have ended by itself.
        let _gone = kill_process(pid, Signal::TERM);
        let _reaped = self.0.wait();
    }
}

fn needs(program: &str) {
    let found = Command::new(program).arg("-v").output().is_ok_and(|said| said.status.success());
    assert!(found, "{program} is needed: apt-get install --no-install-recommends {program}");
}

/// Three members with two applications: one for its host name, and one for all others.
fn cluster(lab: &Lab) -> [Member; 3] {
    let members = lab.cluster_of(["one", "two", "three"].map(|name| {
        let mut plan = lab.plan(name);
        plan.listen.set_port(SITES);
        plan
    }));
    for (app, host) in [("home", None), ("shop", Some("shop.example.org"))] {
        let site = lab.site(app, &[("index.html", app)]);
        let hosts: Vec<&str> = host.iter().flat_map(|host| ["--host", host]).collect();
        members[0].publish(&site, &[&["--app", app][..], &hosts].concat()).unwrap();
    }
    members
}

/// The text that is printed without `--out`.
fn printed(member: &Member, arguments: &[&str]) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_althing"))
        .arg("export")
        .args(arguments)
        .arg("--data")
        .arg(&member.data)
        .env_remove("ALTHING_DATA")
        .env("ALTHING_CONFIG", "none")
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

/// `althing export ... --follow`
fn follow(member: &Member, arguments: &[&str], log: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_althing"));
    command.arg("export").args(arguments).arg("--follow").arg("--data").arg(&member.data);
    Running::start(command.env_remove("ALTHING_DATA").env("ALTHING_CONFIG", "none"), log)
}

fn get(at: SocketAddr, host: &str) -> Result<String, String> {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = tcp(at, head.as_bytes())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status == 200 { Ok(body) } else { Err(format!("{} {body}", answer.status)) }
}

/// Waits until the sites are served through the balancer, each to its name.
fn serves(at: SocketAddr, log: &Path) {
    let wanted = [
        ("shop.example.org", "shop"),
        ("SHOP.example.org.:80", "shop"),
        ("other.example.org", "home"),
    ];
    until("the balancer serves the sites", || {
        for (host, text) in wanted {
            let log = || fs::read_to_string(log).unwrap_or_default();
            let found = get(at, host).map_err(|e| format!("{host}: {e}: {}", log()))?;
            // In pieces of some size, or as it is.
            if !found.contains(text) {
                return Err(format!("{host}: {found:?}"));
            }
        }
        Ok(())
    });
}

/// Somebody who asks for a page all the time.
struct Visits {
    over: Arc<AtomicBool>,
    visitor: JoinHandle<(u32, u32)>,
}

impl Visits {
    fn begin(at: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let visitor = thread::spawn(move || {
            let (mut asked, mut failed) = (0, 0);
            while !until.load(Ordering::Relaxed) {
                asked += 1;
                failed += u32::from(get(at, "shop.example.org").is_err());
            }
            (asked, failed)
        });
        Self { over, visitor }
    }

    /// How many pages were asked for, and how many of them did not come.
    fn end(self) -> (u32, u32) {
        self.over.store(true, Ordering::Relaxed);
        self.visitor.join().unwrap()
    }
}

/// A member is killed and returns: the file says so, and the balancer is told each time.
fn follows(lab: &Lab, members: &mut [Member; 3], at: SocketAddr, file: &Path, down: &str) {
    let reloads = || fs::read_to_string(lab.path("reloads")).unwrap_or_default().lines().count();
    let read = || fs::read_to_string(file).unwrap_or_default();
    let before = reloads();
    let visits = Visits::begin(at);
    let killed = Instant::now();
    members[2].kill();
    until("the file says that it is down", || {
        if read().matches(down).count() == 2 && reloads() > before { Ok(()) } else { Err(read()) }
    });
    let took = killed.elapsed();
    let (asked, failed) = visits.end();
    eprintln!("{}: reloaded after {took:?}; {failed} of {asked} visits failed", file.display());
    assert!(asked > 20 && failed * 20 <= asked, "{failed} of {asked} visits failed");
    for _ in 0..20 {
        serves(at, file);
    }
    let before = reloads();
    members[2] = members[2].again().up().unwrap();
    until("it is back", || {
        if !read().contains(down) && reloads() > before { Ok(()) } else { Err(read()) }
    });
    serves(at, file);
    assert!(lab.path(&format!("{}.before", file.file_name().unwrap().display())).exists());
}

/// Covers R29: HAProxy.
#[test]
fn haproxy_serves_what_members_hold_and_is_kept_as_the_cluster_is() {
    needs("haproxy");
    let lab = Lab::new((64, 1));
    let mut members = cluster(&lab);
    let at = SocketAddr::from(([127, 64, 1, 100], 18_081));
    let (listen, file, log) = (at.to_string(), lab.path("haproxy.cfg"), lab.path("haproxy.log"));
    let out = file.to_str().unwrap();

    // The same bytes, whichever member is asked; as data the same.
    let options = ["haproxy", "--listen", &listen];
    until("all write the same", || {
        let [one, two, three] = [0, 1, 2].map(|n| printed(&members[n], &options));
        if one == two && two == three { Ok(()) } else { Err(format!("{one}\n{two}\n{three}")) }
    });
    let told = members[1].run(&[&["export"], &options[..]].concat()).unwrap();
    let home = &told["exported"]["applications"][1];
    assert_eq!((&home["name"], &home["default"]), (&"home".into(), &true.into()), "{told}");
    assert_eq!(home["members"].as_array().unwrap().len(), 3);
    assert_eq!(home["members"][2]["address"], format!("127.64.1.2:{SITES}"));
    assert_eq!(home["members"][2]["state"], "in-service");

    let options = [&options[..], &["--out", out, "--check", "haproxy -c -f {}"]].concat();
    let done = members[0].run(&[&["export"], &options[..]].concat()).unwrap();
    assert_eq!(done["changed"], true);
    let done = members[1].run(&[&["export"], &options[..]].concat()).unwrap();
    assert_eq!(done["changed"], false);

    let balancer = Running::start(Command::new("haproxy").args(["-W", "-db", "-f", out]), &log);
    serves(at, &log);
    let reload =
        format!("kill -USR2 {} && echo >> {}", balancer.id(), lab.path("reloads").display());
    let options = [&options[..], &["--reload", &reload]].concat();
    let _exporter = follow(&members[0], &options, &lab.path("export.log"));
    follows(&lab, &mut members, at, &file, "server three 127.64.1.3:18080 check disabled # down");

    // What is refused by the check does not come in.
    let kept = fs::read_to_string(&file).unwrap();
    let refused = members[0]
        .run(&["export", "haproxy", "--out", out, "--check", "echo not like this; false"])
        .unwrap_err();
    refused.is(1, "failed", "not like this");
    let foreign = lab.path("mine.cfg");
    fs::write(&foreign, "global\n").unwrap();
    let refused = members[0].run(&["export", "haproxy", "--out", foreign.to_str().unwrap()]);
    refused.unwrap_err().is(5, "conflict", "was not written by this command");
    assert_eq!(fs::read_to_string(&file).unwrap(), kept);
}

/// Covers R29: nginx.
#[test]
fn nginx_serves_what_members_hold_and_is_kept_as_the_cluster_is() {
    needs("nginx");
    let lab = Lab::new((64, 2));
    let mut members = cluster(&lab);
    let at = SocketAddr::from(([127, 64, 2, 100], 18_081));
    let (listen, file, log) = (at.to_string(), lab.path("althing.conf"), lab.path("nginx.log"));
    let scratch = lab.path("").display().to_string();

    // By itself it is a whole configuration.
    let whole = lab.path("whole.conf");
    let check = format!("nginx -t -e stderr -g 'pid {scratch}check.pid;' -c {{}}");
    let whole = ["--out", whole.to_str().unwrap(), "--check", &check];
    members[0].run(&[&["export", "nginx", "--listen", &listen], &whole[..]].concat()).unwrap();

    // In one's own, it is included.
    let mine = lab.path("nginx.conf");
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {scratch}{what};\n"))
        .collect();
    let text = format!(
        "daemon off;\nworker_processes 2;\npid {scratch}nginx.pid;\nevents {{}}\n\
         http {{\naccess_log off;\n{paths}include {};\n}}\n",
        file.display()
    );
    fs::write(&mine, text).unwrap();
    let options = ["nginx", "--fragment", "--listen", &listen, "--out", file.to_str().unwrap()];
    members[0].run(&[&["export"], &options[..]].concat()).unwrap();
    let balancer = Running::start(
        Command::new("nginx").args(["-e", "stderr", "-p", &scratch, "-c"]).arg(&mine),
        &log,
    );
    serves(at, &log);
    let reload = format!(
        "nginx -t -e stderr -c {} && kill -HUP {} && echo >> {scratch}reloads",
        mine.display(),
        balancer.id(),
    );
    let options = [&options[..], &["--reload", &reload]].concat();
    let _exporter = follow(&members[0], &options, &lab.path("export.log"));
    follows(&lab, &mut members, at, &file, "server 127.64.2.3:18080 down; # three: down");
}
