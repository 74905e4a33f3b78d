//! Steady load through every member of three, each in a network namespace of its own: versions
//! are published, members drained and resumed, restarted, killed and cut off. What is planned
//! costs nobody an answer; what is not costs those that were under way and could not be
//! repeated, and nobody who asks a second later.
//!
//! Each member is started as systemd starts what has a socket unit: somebody else listens, and
//! goes on listening while the member restarts.
//!
//! It needs what `tests/chaos` needs: root, iproute2 and iptables.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "common/mod.rs"]
mod common;
#[expect(dead_code, reason = "tests/chaos needs more of it")]
#[path = "chaos/network.rs"]
mod network;
#[path = "chaos/scenario.rs"]
mod scenario;
#[expect(dead_code, reason = "tests/serving needs more of it")]
#[path = "common/shop.rs"]
mod shop;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use common::{Lab, Member, until};
use network::Network;
use rustix::process::{Pid, Signal, kill_process};
use scenario::{say, scenario};
use shop::{Client, Told, ready, version};

const HOSTS: [usize; 3] = [1, 2, 3];
/// How long it takes at most until nobody asks a member any more that is killed: its host says
/// that nobody listens there.
const KILLED_WITHIN: Duration = Duration::from_secs(1);
/// And one whose link is cut: nobody says anything, and what the settings imply is some 1.6 s.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// Clients of each member.
const CLIENTS: usize = 2;

/// Listens at an address and starts a member that is handed the socket; again whenever that
/// ended well.
const KEEPER: &str = r#"
import os, socket, sys

at, pid_file = sys.argv[1:3]
host, port = at.rsplit(":", 1)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((host, int(port)))
listener.listen(1024)
while True:
    pid = os.fork()
    if pid == 0:
        if listener.fileno() == 3:
            os.set_inheritable(3, True)
        else:
            os.dup2(listener.fileno(), 3)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execvp(sys.argv[3], sys.argv[3:])
    with open(pid_file + ".new", "w") as new:
        new.write(str(pid))
    os.rename(pid_file + ".new", pid_file)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(1)
"#;

struct Lan {
    net: Network,
    lab: Lab,
    members: Vec<Member>,
}

impl Lan {
    fn start() -> Self {
        let (net, lab) = (Network::new(3), Lab::new((78, 0)));
        fs::write(lab.path("keeper.py"), KEEPER).unwrap();
        let plans = HOSTS.map(|host| {
            let mut plan = lab.plan(&format!("m{host}"));
            let at = |port: u16| (Network::address(host), port).into();
            (plan.bind, plan.listen, plan.status) = (at(7700), at(8080), at(7780));
            let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
            let (keeper, pid) =
                (text(lab.path("keeper.py")), text(lab.path(&format!("{host}.pid"))));
            plan.under = Network::at(host);
            plan.under.extend(["python3".to_owned(), keeper, plan.listen.to_string(), pid]);
            plan
        });
        let members = lab.cluster_of(plans).into();
        Self { net, lab, members }
    }

    fn member(&self, host: usize) -> &Member {
        &self.members[host - 1]
    }

    fn pid(&self, host: usize) -> i32 {
        let path = self.lab.path(&format!("{host}.pid"));
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    fn signal(&self, host: usize, signal: Signal) {
        kill_process(Pid::from_raw(self.pid(host)).unwrap(), signal).unwrap();
    }

    /// All that ask `hosts`.
    fn clients(&self, hosts: &[usize]) -> Vec<(usize, Client)> {
        let all = hosts.iter().flat_map(|host| [*host; CLIENTS]);
        all.map(|host| (host, Client::of(self.member(host)))).collect()
    }

    fn service(&self, host: usize, state: &str) {
        until(&format!("m{host} is {state}"), || {
            for member in &self.members {
                let view = member.view()?;
                let all = view["members"].as_array().unwrap();
                let found = all.iter().find(|m| m["name"] == format!("m{host}"));
                let is = &found.ok_or("it is not enrolled")?["service"];
                if *is != state {
                    return Err(format!("{}: {is}", member.name()));
                }
            }
            Ok(())
        });
    }

    fn all_ready(&self, count: usize, version: u64) {
        until(&format!("version {version} answers on {count} members"), || {
            let found = ready(self.member(1), version).len();
            if found == count { Ok(()) } else { Err(format!("on {found}")) }
        });
    }
}

fn go_on(clients: &[(usize, Client)], answers: u64) {
    let before: Vec<u64> = clients.iter().map(|(_, client)| client.answers()).collect();
    until("all go on being answered", || {
        let now: Vec<u64> = clients.iter().map(|(_, client)| client.answers()).collect();
        let all = now.iter().zip(&before).all(|(now, before)| *now > before + answers);
        if all { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    });
}

fn end(clients: Vec<(usize, Client)>) -> Vec<(usize, Told)> {
    clients.into_iter().map(|(host, client)| (host, client.end())).collect()
}

/// Covers R6, R27.
#[test]
fn what_is_planned_costs_no_answer_and_what_is_not_costs_few() {
    scenario("what_is_planned_costs_no_answer_and_what_is_not_costs_few", |_| {
        let mut lan = Lan::start();
        let site = lan.lab.path("shop");
        version(&site, 1);
        lan.member(1).publish(&site, &[]).unwrap();
        lan.all_ready(3, 1);
        let planned = planned(&lan);
        let killed = killed(&mut lan);
        let cut = cut(&mut lan);
        format!("{planned}; {killed}; {cut}")
    });
}

fn planned(lan: &Lan) -> String {
    let clients = lan.clients(&HOSTS);
    let site = lan.lab.path("shop");
    for number in 2..=11 {
        version(&site, number);
        let host = HOSTS[number as usize % HOSTS.len()];
        lan.member(host).publish(&site, &[]).unwrap();
    }
    go_on(&clients, 20);
    for host in HOSTS {
        lan.member(1).run(&["drain", &format!("m{host}")]).unwrap();
        lan.service(host, "standby");
        go_on(&clients, 20);
        lan.member(2).run(&["resume", &format!("m{host}")]).unwrap();
        lan.service(host, "in service");
    }
    for host in HOSTS {
        let before = lan.pid(host);
        lan.signal(host, Signal::TERM);
        until("it has started again", || {
            let now = lan.pid(host);
            if now == before {
                Err("not yet".to_owned())
            } else {
                lan.member(host).view().map(drop)
            }
        });
        lan.service(host, "in service");
        lan.all_ready(3, 11);
        go_on(&clients, 20);
    }
    let told = end(clients);
    for (host, told) in &told {
        assert!(told.failures.is_empty(), "by m{host}, of {}: {:?}", told.answers, told.failures);
        assert_eq!(told.newest, 11);
    }
    let answers: u64 = told.iter().map(|(_, told)| told.answers).sum();
    let longest = told.iter().map(|(_, told)| told.longest).max().unwrap();
    format!("planned: {answers} answers, none missed, the slowest after {longest:?}")
}

/// Members 1 and 2 are asked, 1 has everything answered by others, and `break_off` takes 3
/// away.
fn unplanned(
    lan: &mut Lan,
    what: &str,
    known_within: Duration,
    break_off: impl FnOnce(&mut Lan),
) -> String {
    lan.member(1).run(&["drain", "m1"]).unwrap();
    lan.service(1, "standby");
    let clients = lan.clients(&[1, 2]);
    go_on(&clients, 50);
    let broken = Instant::now();
    break_off(lan);
    thread::sleep(Duration::from_secs(5));
    go_on(&clients, 50);
    let told = end(clients);
    let answers: u64 = told.iter().map(|(_, told)| told.answers).sum();
    let longest = told.iter().map(|(_, told)| told.longest).max().unwrap();
    // What was under way there is asked of another as soon as the member is known to be down, and
    // not when its connection is given up, after 12 seconds.
    assert!(longest < Duration::from_secs(8), "the slowest after {longest:?}");
    let failures: Vec<_> = told.iter().flat_map(|(_, told)| &told.failures).collect();
    say(&format!("{what}: {failures:?}"));
    for failure in &failures {
        let after = failure.asked.saturating_duration_since(broken);
        assert!(after < known_within, "asked {after:?} after: {failure:?}");
        // What may be repeated is, unless an answer had begun.
        let begun = failure.why.starts_with("cut in a body");
        assert!(failure.path == "/api/b" || begun, "{failure:?}");
    }
    let missed = failures.len();
    format!("{what}: {missed} of {answers} answers missed, the slowest after {longest:?}")
}

fn killed(lan: &mut Lan) -> String {
    let told = unplanned(lan, "killed", KILLED_WITHIN, |lan| lan.signal(3, Signal::KILL));
    lan.members[2].kill();
    let plan = lan.members[2].again();
    lan.members[2] = plan.up().unwrap();
    lan.member(2).run(&["resume", "m1"]).unwrap();
    for host in HOSTS {
        lan.service(host, "in service");
    }
    lan.all_ready(3, 11);
    told
}

fn cut(lan: &mut Lan) -> String {
    unplanned(lan, "cut off", CUT_WITHIN, |lan| {
        lan.net.unplug(3);
        lan.net.apply();
    })
}
