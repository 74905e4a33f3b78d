//! Virtual addresses: three real members, each in a network namespace of its own on one bridge.
//! A client at the bridge connects to the address all the while, as fast as it can, and what
//! it meets is the gap that is printed. No exact time is asserted: machines are busy.
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

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Lab, Member, Plan, until};
use network::Network;
use rustix::process::{Pid, Signal, kill_process};
use scenario::{say, scenario};

const ADDRESS: &str = "10.77.0.100";
const SIXTH: &str = "fd77::100";
const HOSTS: [usize; 3] = [1, 2, 3];
/// Clients that connect beside each other: one that waits in vain holds up no other.
const CLIENTS: u32 = 6;
const CONNECT_WITHIN: Duration = Duration::from_millis(30);

struct Lan {
    net: Network,
    lab: Lab,
    members: Vec<Option<Member>>,
}

impl Lan {
    fn start(adapt: impl Fn(usize, &mut Plan)) -> Self {
        let (net, lab) = (Network::new(3), Lab::new((77, 0)));
        let plans = HOSTS.map(|host| {
            let mut plan = lab.plan(&format!("m{host}"));
            let at = |port: u16| (Network::address(host), port).into();
            (plan.bind, plan.status) = (at(7700), at(7780));
            // On the virtual address as well.
            plan.listen = ([0, 0, 0, 0], 8080).into();
            plan.under = Network::at(host);
            adapt(host, &mut plan);
            plan
        });
        let members = lab.cluster_of(plans).map(Some).into();
        Self { net, lab, members }
    }

    fn publish(&self, vip: &str) {
        let manifest = format!("[application]\nname = \"web\"\nvip = {vip}\n");
        let site = self.lab.site("site", &[("index.html", "hello\n"), ("althing.toml", &manifest)]);
        self.member(1).publish(&site, &[]).unwrap();
    }

    fn member(&self, host: usize) -> &Member {
        self.members[host - 1].as_ref().expect("it runs")
    }

    fn signal(&self, host: usize, signal: Signal) {
        let pid = self.member(host).ready["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a member says its process id");
        kill_process(pid, signal).expect("our own process can be signalled");
    }

    fn up(&mut self, host: usize) {
        let mut before = self.members[host - 1].take().expect("it ran");
        before.kill();
        self.members[host - 1] = Some(before.again().up().unwrap());
        self.all_see_all();
    }

    /// Waits until each serves again, and has its say.
    fn all_see_all(&self) {
        until("all see each other", || {
            for member in self.members.iter().flatten() {
                let view = member.view()?;
                let live = view["voters_live"].as_u64();
                if live != view["voters"].as_u64() {
                    return Err(format!("{} sees {live:?} live", member.name()));
                }
            }
            Ok(())
        });
    }

    fn holders(address: &str) -> Vec<usize> {
        HOSTS.into_iter().filter(|host| has(*host, address)).collect()
    }

    /// Waits until one member holds `address`, by its interface.
    fn holder(&self, address: &str) -> usize {
        until(&format!("one member holds {address}"), || match Self::holders(address)[..] {
            [one] => Ok(one),
            ref all => Err(format!("{all:?} do")),
        })
    }

    /// Until another one than `before` does.
    fn other_holder(&self, address: &str, before: usize) -> usize {
        until(&format!("another one than m{before} holds {address}"), || {
            match Self::holders(address)[..] {
                [one] if one != before => Ok(one),
                ref all => Err(format!("{all:?} do")),
            }
        })
    }

    /// For a while one and the same member holds it.
    fn stays(&self, address: &str, holder: usize, span: Duration) {
        let started = Instant::now();
        while started.elapsed() < span {
            assert_eq!(Self::holders(address), [holder], "{address}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether the interface of `host` has `address`.
fn has(host: usize, address: &str) -> bool {
    let host = format!("h{host}");
    let output = Command::new("ip").args(["-n", &host, "-o", "addr", "show"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(&format!(" {address}/"))
}

/// What `host` answers for the site.
fn served_by(host: usize) -> String {
    let mut stream = TcpStream::connect((Network::address(host), 8080)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// How long `address` still is on the interface of `host`.
fn until_gone(host: usize, address: &str) -> Duration {
    let started = Instant::now();
    until(&format!("m{host} has {address} no more"), || {
        if has(host, address) { Err("it has".to_owned()) } else { Ok(()) }
    });
    started.elapsed()
}

/// Connects to the address over and over, and remembers when that worked.
struct Probe {
    ends: Arc<AtomicBool>,
    met: Arc<Mutex<Vec<Instant>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Probe {
    fn start() -> Self {
        let (ends, met) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let to: SocketAddr = format!("{ADDRESS}:8080").parse().unwrap();
        let client = |n: u32| {
            let (ends, met) = (Arc::clone(&ends), Arc::clone(&met));
            thread::spawn(move || {
                thread::sleep(CONNECT_WITHIN / CLIENTS * n);
                while !ends.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    if TcpStream::connect_timeout(&to, CONNECT_WITHIN).is_ok() {
                        met.lock().unwrap().push(started);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        let this = Self { ends, met, threads };
        until("the address is reached", || {
            if this.met.lock().unwrap().is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
        });
        this
    }

    /// Waits until the address has been reached after `since`, then says what the longest time
    /// was in which it was not.
    fn gap(self, since: Instant) -> Duration {
        until("the address is reached again", || {
            let met = self.met.lock().unwrap();
            let later = met.iter().filter(|at| **at > since + Duration::from_secs(2)).count();
            if later > 20 { Ok(()) } else { Err(format!("{later} times")) }
        });
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let mut met = self.met.lock().unwrap().clone();
        met.sort();
        let first = met.iter().rposition(|at| *at <= since).unwrap_or(0);
        let pairs = met[first..].windows(2).map(|pair| pair[1] - pair[0]);
        pairs.max().unwrap_or_default()
    }
}

#[test]
fn an_address_outlives_its_holder_and_is_never_held_twice() {
    scenario("an_address_outlives_its_holder_and_is_never_held_twice", |_| {
        let mut lan = Lan::start(|_, _| ());
        lan.publish(&format!("[\"{ADDRESS}/24\", \"{SIXTH}/64\"]"));
        let first = lan.holder(ADDRESS);
        lan.holder(SIXTH);
        until("the view says so", || {
            let view = lan.member(1).view()?;
            let mut all = view["addresses"].as_array().into_iter().flatten();
            let holder = format!("m{first}");
            let found = all.any(|a| a["address"] == "10.77.0.100/24" && a["holder"] == *holder);
            if found { Ok(()) } else { Err(view["addresses"].to_string()) }
        });
        lan.stays(ADDRESS, first, Duration::from_secs(1));

        // SIGKILL: the guard takes it off, another one takes it over.
        let probe = Probe::start();
        let at = Instant::now();
        lan.signal(first, Signal::KILL);
        let left = until_gone(first, ADDRESS);
        let second = lan.other_holder(ADDRESS, first);
        let killed = probe.gap(at);
        assert!(killed < Duration::from_secs(10), "{killed:?}");
        lan.up(first);
        lan.stays(ADDRESS, second, Duration::from_secs(3));

        // SIGSTOP: the guard takes it off as well.
        let probe = Probe::start();
        let at = Instant::now();
        lan.signal(second, Signal::STOP);
        let third = lan.other_holder(ADDRESS, second);
        let stopped = probe.gap(at);
        lan.signal(second, Signal::CONT);
        lan.all_see_all();
        lan.stays(ADDRESS, third, Duration::from_secs(2));

        // The cable is cut: it lets go by itself, and takes nothing back.
        let probe = Probe::start();
        lan.net.unplug(third);
        let at = Instant::now();
        lan.net.apply();
        let alone = until_gone(third, ADDRESS);
        let fourth = lan.other_holder(ADDRESS, third);
        let cut = probe.gap(at);
        assert!(cut < Duration::from_secs(10), "{cut:?}");
        lan.net.mend();
        lan.stays(ADDRESS, fourth, Duration::from_secs(5));
        assert_eq!(Lan::holders(SIXTH).len(), 1);
        format!(
            "killed: gap {killed:?}, off after {left:?}; stopped: gap {stopped:?}; cut: gap \
             {cut:?}, off after {alone:?}"
        )
    });
}

#[test]
fn a_planned_hand_over_is_hardly_seen() {
    scenario("a_planned_hand_over_is_hardly_seen", |_| {
        let mut lan = Lan::start(|_, _| ());
        lan.publish(&format!("\"{ADDRESS}/24\""));
        let mut gaps = Vec::new();
        for _ in 0..3 {
            let before = lan.holder(ADDRESS);
            let probe = Probe::start();
            let at = Instant::now();
            lan.signal(before, Signal::TERM);
            let after = lan.other_holder(ADDRESS, before);
            gaps.push(probe.gap(at));
            lan.up(before);
            lan.stays(ADDRESS, after, Duration::from_secs(1));
        }
        let before = lan.holder(ADDRESS);
        let probe = Probe::start();
        let at = Instant::now();
        lan.member(before).run(&["leave"]).unwrap();
        lan.other_holder(ADDRESS, before);
        let left = probe.gap(at);
        assert!(gaps.iter().chain([&left]).all(|gap| *gap < Duration::from_secs(5)));
        say(&format!("planned: {gaps:?}"));
        format!("stopped: gaps {gaps:?}; left: gap {left:?}")
    });
}

#[test]
fn who_may_not_change_addresses_says_so_and_serves_all_the_same() {
    scenario("who_may_not_change_addresses_says_so_and_serves_all_the_same", |_| {
        let lan = Lan::start(|host, plan| {
            if host != 2 {
                let lacks = ["setpriv", "--bounding-set", "-net_admin,-net_raw"];
                plan.under.extend(lacks.map(str::to_owned));
            }
        });
        lan.publish(&format!("\"{ADDRESS}/24\""));
        assert_eq!(lan.holder(ADDRESS), 2);
        for host in [1, 3] {
            until("it says what it lacks", || {
                let view = lan.member(host).view()?;
                let said = view["reasons"].to_string();
                let fine = said.contains("CAP_NET_ADMIN and CAP_NET_RAW");
                if fine { Ok(()) } else { Err(said) }
            });
            assert!(served_by(host).ends_with("hello\n"), "{}", served_by(host));
        }
        lan.stays(ADDRESS, 2, Duration::from_secs(3));
        "m2 holds it".to_owned()
    });
}
