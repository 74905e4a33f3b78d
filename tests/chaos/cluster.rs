//! A cluster in namespaces, what can be done to it, and the calm after it.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::SmallRng, seq::IteratorRandom};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    common::{self, Lab, Member, Plan, Refused, run_on},
    network::Network,
    publisher::Publisher,
    watch::{Watch, view_of, whole_page},
};

/// How long the whole cluster may take to come right once faults have ended.
pub const CALM_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of each member's log, where a scenario failed.
const LOG_LINES: usize = 40;
/// Lines of a small version's largest page.
pub const SMALL: usize = 400;

/// Hosts count from 1; so do their members, `m1` and so on.
pub struct Cluster {
    pub net: Network,
    pub rng: SmallRng,
    pub watch: Arc<Watch>,
    pub publisher: Arc<Publisher>,
    /// Holds the directories of all.
    _lab: Lab,
    plans: Vec<Plan>,
    running: Vec<Option<Member>>,
    stopped: BTreeSet<usize>,
    /// Those that are enrolled.
    pub hosts: Vec<usize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Cluster {
    /// So many members that hold the first version, watched. `spare` more hosts
    /// have no member yet.
    pub fn start(members: usize, spare: usize, rng: SmallRng) -> Self {
        Self::start_with(members, spare, rng, |_, _| ())
    }

    /// The same, with something else about each host's plan.
    pub fn start_with(
        members: usize,
        spare: usize,
        rng: SmallRng,
        adapt: impl Fn(usize, &mut Plan),
    ) -> Self {
        let net = Network::new(members + spare);
        let lab = Lab::new((77, 0));
        let plan = |host: usize| {
            let mut plan = lab.plan(&format!("m{host}"));
            let at = |port: u16| (Network::address(host), port).into();
            (plan.bind, plan.listen, plan.status) = (at(7700), at(8080), at(7780));
            plan.under = Network::at(host);
            adapt(host, &mut plan);
            plan
        };
        let plans: Vec<Plan> = (1..=members + spare).map(plan).collect();
        let watched = plans.iter().map(|p| (p.name.clone(), p.data.clone(), p.listen)).collect();
        let watch = Watch::new(watched);
        let publisher = Publisher::new(Arc::clone(&watch), lab.path("sites"));
        let running = plans.iter().map(|_| None).collect();
        let mut this = Self {
            net,
            rng,
            watch,
            publisher,
            _lab: lab,
            plans,
            running,
            stopped: BTreeSet::new(),
            hosts: Vec::new(),
            threads: Vec::new(),
        };
        this.up(1);
        this.hosts.push(1);
        for host in 2..=members {
            this.join(host);
        }
        this.until_one("it is founded", CALM_WITHIN);
        this.publish(1, SMALL).unwrap();
        for host in this.hosts.clone() {
            this.expect_again(host);
        }
        this.threads = this.watch.start();
        this
    }

    /// A newcomer, invited by the first member that runs.
    pub fn join(&mut self, host: usize) {
        let inviter = self.running.iter().flatten().next().expect("a member runs");
        let token = common::invite(inviter, &[]);
        let plan = self.plans[host - 1].clone().joining(inviter.address(), &token);
        self.running[host - 1] = Some(plan.up().unwrap());
        self.watch.runs(host - 1, true);
        if !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
        self.let_publish();
    }

    /// Its process and its disk are gone, and it is not waited for any more.
    pub fn destroy(&mut self, host: usize) {
        self.kill(host);
        self.hosts.retain(|other| *other != host);
        fs::remove_dir_all(self.data(host)).unwrap();
        self.let_publish();
    }

    /// Starts a member that is enrolled, with no address to join by.
    pub fn up(&mut self, host: usize) {
        assert!(self.running[host - 1].is_none(), "m{host} runs");
        self.running[host - 1] = Some(self.plans[host - 1].clone().up().unwrap());
        self.watch.runs(host - 1, true);
        self.let_publish();
    }

    /// From now on `host` runs this program.
    pub fn upgrade(&mut self, host: usize, binary: PathBuf) {
        self.plans[host - 1].binary = binary;
    }

    pub fn data(&self, host: usize) -> PathBuf {
        self.plans[host - 1].data.clone()
    }

    pub fn is_running(&self, host: usize) -> bool {
        self.running[host - 1].is_some()
    }

    pub fn is_stopped(&self, host: usize) -> bool {
        self.stopped.contains(&host)
    }

    /// One of the hosts, by chance.
    pub fn any(&mut self) -> usize {
        self.hosts.iter().copied().choose(&mut self.rng).expect("there are members")
    }

    pub fn say(&self, what: &str) {
        self.watch.say(what);
    }

    // What is done to members.

    /// Clients are not told on: whatever this member does to them is excused.
    pub fn excuse(&self, host: usize) {
        self.watch.expect(host - 1, false);
    }

    /// Waits until it answers a client, and holds it to that from then on.
    pub fn expect_again(&self, host: usize) {
        let site = self.plans[host - 1].listen;
        common::until(&format!("m{host} answers"), || {
            whole_page(site, "/").map_err(|e| e.to_string())
        });
        self.watch.expect(host - 1, true);
    }

    /// SIGKILL.
    pub fn kill(&mut self, host: usize) {
        self.excuse(host);
        self.watch.runs(host - 1, false);
        if let Some(mut member) = self.running[host - 1].take() {
            member.kill();
        }
        self.stopped.remove(&host);
        self.let_publish();
    }

    /// SIGTERM, and waits for the end.
    pub fn shut_down(&mut self, host: usize) {
        self.excuse(host);
        self.watch.runs(host - 1, false);
        self.signal(host, Signal::TERM);
        let mut member = self.running[host - 1].take().expect("it runs");
        self.let_publish();
        common::until(
            "it ends",
            || if member.is_running() { Err("it runs".into()) } else { Ok(()) },
        );
    }

    /// SIGSTOP: its connections stand, and it says nothing.
    pub fn stop(&mut self, host: usize) {
        self.excuse(host);
        self.watch.runs(host - 1, false);
        self.stopped.insert(host);
        self.let_publish();
        self.signal(host, Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&mut self, host: usize) {
        self.signal(host, Signal::CONT);
        self.stopped.remove(&host);
        self.watch.runs(host - 1, true);
        self.let_publish();
    }

    /// Somebody edits a live file by hand, with no window open. Says what is in
    /// it then: on each member something else, so that no majority holds it.
    pub fn tamper(&self, host: usize) -> String {
        let edit = format!("edited by hand on m{host}\n");
        // Between two versions the file may be somewhere else.
        let _edited = fs::write(self.live_file(host), &edit);
        edit
    }

    /// What a person finds in the file that [`Self::tamper`] edits.
    pub fn live_file(&self, host: usize) -> PathBuf {
        self.plans[host - 1].data.join("live/web/a.txt")
    }

    fn signal(&self, host: usize, signal: Signal) {
        let member = self.running[host - 1].as_ref().expect("it runs");
        let pid = member.ready["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a member says its process id");
        kill_process(pid, signal).expect("our own process can be signalled");
    }

    // Publications.

    /// Publishes all the while, through members that run.
    pub fn publish_on(&mut self) {
        let thread = self.publisher.start(self.rng.random());
        self.threads.push(thread);
        self.let_publish();
    }

    fn let_publish(&self) {
        let runs = |host: &&usize| self.is_running(**host) && !self.is_stopped(**host);
        let through = self.hosts.iter().filter(runs).map(|host| self.data(*host)).collect();
        *self.publisher.through.lock().unwrap() = through;
    }

    /// One publication through `host`: its version.
    pub fn publish(&self, host: usize, big: usize) -> Result<u64, Refused> {
        self.publisher.publish(&self.plans[host - 1].data, big)
    }

    /// The last lines that its members logged, for a scenario that failed.
    fn tell_logs(&self) {
        for plan in &self.plans {
            let log = fs::read_to_string(plan.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
            crate::scenario::say(&format!("the log of {}:\n  {tail}", plan.name));
        }
    }

    // What is waited for.

    pub fn view(&self, host: usize) -> Result<Value, String> {
        let data = &self.plans[host - 1].data;
        view_of(&data.join("socket")).map_err(|e| format!("m{host}: {e}"))
    }

    /// Waits until every member sees every member alive (a suspicion that stays
    /// is a fault as well), reached by itself and with a vote, one catalog, no window, and one
    /// content on all.
    pub fn until_one(&self, what: &str, within: Duration) {
        let started = Instant::now();
        while let Err(seen) = self.is_one() {
            assert!(started.elapsed() < within, "{what}: not one cluster after {within:?}: {seen}");
            thread::sleep(LOOK_EVERY);
        }
        self.say(&format!("{what}: one cluster after {:.1} s", started.elapsed().as_secs_f64()));
    }

    fn is_one(&self) -> Result<(), String> {
        let mut sequences = BTreeSet::new();
        for host in &self.hosts {
            let view = self.view(*host)?;
            sequences.insert(view["sequence"].as_u64());
            let members = view["members"].as_array().ok_or("no members")?;
            let fine =
                |m: &Value| m["state"] == "alive" && m["reached"] == true && m["voter"] == true;
            if members.len() != self.hosts.len() || !members.iter().all(fine) {
                let short = |m: &Value| {
                    format!("{} {} {} {}", m["name"], m["state"], m["reached"], m["voter"])
                };
                let seen: Vec<String> = members.iter().map(short).collect();
                return Err(format!("m{host} sees {seen:?}"));
            }
            let window = &view["window"];
            if !window.is_null() {
                return Err(format!("m{host} sees a window: {window}"));
            }
            let apps = view["applications"].as_array().ok_or("no applications")?;
            if !apps.iter().all(|app| app["vote"] == "unanimous") || !is_well(&view) {
                let votes: Vec<&Value> = apps.iter().map(|app| &app["positions"]).collect();
                return Err(format!("m{host} is not well: {} {votes:?}", view["reasons"]));
            }
        }
        if sequences.len() == 1 { Ok(()) } else { Err(format!("sequences {sequences:?}")) }
    }

    /// Faults are over: all members run, and within a while everything is right.
    /// Ends the watch, and says what was seen.
    pub fn calm(mut self) -> String {
        self.say("the faults are over");
        self.net.mend();
        // Whoever publishes all the while has its last word first.
        self.publisher.through.lock().unwrap().clear();
        for host in self.hosts.clone() {
            if !self.is_running(host) {
                self.up(host);
            } else if self.is_stopped(host) {
                self.go_on(host);
            }
        }
        self.publisher.fall_silent();
        for host in self.hosts.clone() {
            self.expect_again(host);
        }
        self.until_one("calm", CALM_WITHIN);
        let through = self.any();
        let version = self.publish(through, SMALL).unwrap();
        self.until_one("published", CALM_WITHIN);
        for host in &self.hosts {
            let site = self.plans[host - 1].listen;
            common::until(&format!("m{host} serves version {version}"), || {
                let found = whole_page(site, "/big.txt").map_err(|e| e.to_string())?;
                if found.0 == version { Ok(()) } else { Err(format!("{found:?}")) }
            });
        }
        self.ask_all(version);
        self.watch.end();
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("those who look on do not panic");
        }
        let mut account = self.watch.account();
        account.must_hold();
        account.to_string()
    }

    /// What the commands print, on every member: all the same, all well.
    fn ask_all(&self, version: u64) {
        let mut histories = BTreeSet::new();
        for host in &self.hosts {
            let data = &self.plans[host - 1].data;
            let ask = |arguments: &[&str]| run_on(data, arguments).unwrap();
            // A suspicion may come and go at once while scenarios share a processor.
            let asked = Instant::now();
            while let status = ask(&["status"])
                && !is_well(&status)
            {
                assert!(asked.elapsed() < Duration::from_secs(5), "status of m{host}: {status}");
                thread::sleep(LOOK_EVERY);
            }
            let members = ask(&["members"]);
            assert_eq!(members.as_array().map(Vec::len), Some(self.hosts.len()), "{members}");
            let votes = ask(&["votes"]).to_string();
            assert!(!votes.contains("differs") && !votes.contains("silent"), "m{host}: {votes}");
            let verified = ask(&["verify", "web"]);
            assert!(verified["same"] == true && verified["version"] == version, "{verified}");
            histories.insert(ask(&["history", "web"]).to_string());
            assert!(!ask(&["events"]).is_null(), "m{host} tells no events");
        }
        assert_eq!(histories.len(), 1, "histories differ: {histories:?}");
    }
}

/// Nothing is wrong, as this view tells.
fn is_well(view: &Value) -> bool {
    view["reasons"].as_array().is_some_and(Vec::is_empty)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell_logs();
        }
    }
}
