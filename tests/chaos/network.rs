//! The network of a scenario: a bridge, and a namespace with one link to it
//! for each host. Clients stand at the bridge.
//!
//! Packets are lost where they arrive, so that whoever sends is told of no
//! error, as with a real cable. This kernel has no netem: loss is iptables'
//! `statistic` match, bandwidth is tc's token bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// Where the clients are. Hosts count from 1.
pub const CLIENTS: usize = 0;

/// Hosts, links, and what is wrong with them.
pub struct Network {
    hosts: usize,
    /// From whom, at whom: nothing arrives.
    cuts: BTreeSet<(usize, usize)>,
    /// From whom, at whom: so many percent do not arrive.
    losses: BTreeMap<(usize, usize), u32>,
    limited: BTreeSet<usize>,
    /// The rules in force at each host.
    written: BTreeMap<usize, String>,
}

impl Network {
    pub fn new(hosts: usize) -> Self {
        let mut lines = String::from(
            "link set lo up\nlink add bridge type bridge\naddr add 10.77.0.254/24 dev bridge\n\
             link set bridge up\n",
        );
        for host in 1..=hosts {
            let line = format!(
                "netns add h{host}\nlink add link{host} type veth peer name eth0 netns h{host}\n\
                 link set link{host} master bridge up\n"
            );
            lines.push_str(&line);
        }
        batch(&["-batch", "-"], &lines);
        for host in 1..=hosts {
            let address = Self::address(host);
            let lines =
                format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
            batch(&["-n", &format!("h{host}"), "-batch", "-"], &lines);
        }
        Self {
            hosts,
            cuts: BTreeSet::new(),
            losses: BTreeMap::new(),
            limited: BTreeSet::new(),
            written: BTreeMap::new(),
        }
    }

    pub fn address(host: usize) -> Ipv4Addr {
        let last = if host == CLIENTS { 254 } else { u8::try_from(host).expect("few hosts") };
        Ipv4Addr::new(10, 77, 0, last)
    }

    /// What runs a command at `host`.
    pub fn at(host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &format!("h{host}")].map(str::to_owned).into()
    }

    /// Nothing from `from` arrives at `to` any more.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// So many percent of what `from` sends to `to` are lost.
    pub fn lose(&mut self, from: usize, to: usize, percent: u32) {
        self.losses.insert((from, to), percent);
    }

    /// The cable of `host` is cut: not even clients reach it.
    pub fn unplug(&mut self, host: usize) {
        for other in (0..=self.hosts).filter(|other| *other != host) {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// Only hosts of one group hear each other. Clients reach everybody. Who
    /// is in no group is alone.
    pub fn split(&mut self, groups: &[Vec<usize>]) {
        let group = |host: usize| groups.iter().position(|g| g.contains(&host));
        for from in 1..=self.hosts {
            for to in (1..=self.hosts).filter(|to| *to != from) {
                if group(from).is_none() || group(from) != group(to) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// `host` receives and sends at so many kilobits a second, both ways.
    pub fn limit(&mut self, host: usize, kilobits: u32) {
        let rate = format!("{kilobits}kbit");
        // Half a second waits in the queue; what comes then is lost, as in a real router.
        let bucket = ["root", "tbf", "rate", &rate, "burst", "8k", "latency", "500ms"];
        let link = format!("link{host}");
        run(Command::new("tc").args(["qdisc", "replace", "dev", &link]).args(bucket));
        let mut at_host = Command::new("ip");
        at_host.args(["netns", "exec", &format!("h{host}"), "tc", "qdisc", "replace", "dev"]);
        run(at_host.arg("eth0").args(bucket));
        self.limited.insert(host);
    }

    /// Everything is as it should be again.
    pub fn mend(&mut self) {
        self.cuts.clear();
        self.losses.clear();
        for host in std::mem::take(&mut self.limited) {
            run(Command::new("tc").args(["qdisc", "del", "dev", &format!("link{host}"), "root"]));
            let at_host = ["netns", "exec", &format!("h{host}"), "tc", "qdisc", "del", "dev"];
            run(Command::new("ip").args(at_host).args(["eth0", "root"]));
        }
        self.apply();
    }

    /// Puts cuts and losses into force, each host's rules in one step.
    pub fn apply(&mut self) {
        for to in 0..=self.hosts {
            let rules = self.rules(to);
            if self.written.get(&to) == Some(&rules) {
                continue;
            }
            let mut command = if to == CLIENTS {
                Command::new("iptables-restore")
            } else {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &format!("h{to}"), "iptables-restore"]);
                command
            };
            feed(command.arg("--wait"), &rules);
            self.written.insert(to, rules);
        }
    }

    fn rules(&self, to: usize) -> String {
        let mut rules = String::from("*filter\n:INPUT ACCEPT\n");
        let into = |pairs: &mut dyn Iterator<Item = (usize, String)>| {
            pairs.fold(String::new(), |mut text, (from, how)| {
                let address = Self::address(from);
                // A String takes everything.
                let _written = writeln!(text, "-A INPUT -s {address} {how}-j DROP");
                text
            })
        };
        let cuts = self.cuts.iter().filter(|(_, at)| *at == to);
        rules += &into(&mut cuts.map(|(from, _)| (*from, String::new())));
        let losses = self.losses.iter().filter(|((_, at), _)| *at == to);
        let how = |percent: u32| {
            let share = f64::from(percent) / 100.0;
            format!("-m statistic --mode random --probability {share} ")
        };
        rules += &into(&mut losses.map(|((from, _), percent)| (*from, how(*percent))));
        rules + "COMMIT\n"
    }
}

fn batch(arguments: &[&str], lines: &str) {
    feed(Command::new("ip").args(arguments), lines);
}

fn feed(command: &mut Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?} failed ({status}) on:\n{text}");
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} failed: {status}");
}
