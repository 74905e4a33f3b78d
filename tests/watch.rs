//! The cluster watches itself and acts, each member in a network namespace of its own: a service that
//! takes all of a processor makes its member critical, which goes out of service while one that waited
//! comes in, and all of it goes back when it is over, though the judge is killed in between. The same
//! for a rush of requests, and for a time of the day with the clock set.
//!
//! It needs what `tests/chaos` needs (root, iproute2 and iptables), and libfaketime.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "common/mod.rs"]
mod common;
#[expect(dead_code, reason = "tests/chaos needs more of it")]
#[path = "chaos/network.rs"]
mod network;
#[expect(dead_code, reason = "tests/rules needs more of it")]
#[path = "common/receivers.rs"]
mod receivers;
#[path = "chaos/scenario.rs"]
mod scenario;
#[expect(dead_code, reason = "tests/load and tests/serving need more of it")]
#[path = "common/shop.rs"]
mod shop;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use common::{Lab, Member, until};
use network::{CLIENTS, Network};
use receivers::{Heard, mail, web};
use scenario::scenario;
use serde_json::Value;
use shop::{Client, PROGRAM};

/// Before the server of `shop`: takes all it gets of a processor while a file is there.
const BURNER: &str = r#"
import os, threading, time

# Members are called as their data directories are.
member = os.path.basename(os.path.dirname(os.environ["ALTHING_METRICS"]))

def burn():
    while True:
        if os.path.exists(os.environ["BURN"] + member):
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                pass
        else:
            time.sleep(0.1)

threading.Thread(target=burn, daemon=True).start()
"#;

struct Lan {
    _net: Network,
    lab: Lab,
    members: Vec<Member>,
    hooks: Heard,
    mails: Heard,
    hook: SocketAddr,
    mail: SocketAddr,
}

impl Lan {
    /// Four members, of which the last one waits, each run `under` something more.
    fn start(under: &[String]) -> Self {
        let (net, lab) = (Network::new(4), Lab::new((79, 0)));
        let plan = |host| {
            let mut plan = lab.plan(&format!("m{host}"));
            let at = |port: u16| (Network::address(host), port).into();
            (plan.bind, plan.listen, plan.status) = (at(7700), at(8080), at(7780));
            plan.under = Network::at(host);
            plan.under.extend_from_slice(under);
            plan
        };
        let here = Network::address(CLIENTS);
        let ((hook, hooks), (mail, mails)) = (web(here), mail(here));
        let mut members: Vec<Member> = lab.cluster_of([1, 2, 3].map(plan)).into();
        let token = common::invite(&members[0], &[]);
        let mut spare = plan(4).joining(members[0].address(), &token);
        spare.more.push("--standby".to_owned());
        members.push(spare.up().unwrap());
        common::settled(&members);
        Self { _net: net, lab, members, hooks, mails, hook, mail }
    }

    fn publish(&self, rules: &str) {
        let Self { hook, mail, .. } = self;
        let burn = self.lab.path("burn-");
        let manifest = format!(
            r#"
            [application]
            name = "shop"
            [services.api]
            run = ["python3", "api.py"]
            ready = {{ tcp = "127.0.0.1:$PORT", within = "10s" }}
            env = {{ BURN = "{}" }}
            [[routes]]
            path = "/api"
            service = "api"
            [rules]
            {rules}
            [mail.ops]
            to = ["ops@example.org"]
            from = "althing@example.org"
            server = "{mail}"
            security = "none"
            [webhook.pager]
            url = "http://{hook}/hook"
            "#,
            burn.display()
        );
        let program = format!("{BURNER}{PROGRAM}");
        let files = [
            ("althing.toml", manifest.as_str()),
            ("api.py", &program),
            ("stamp", "1\n"),
            ("index.html", "page 1\n"),
        ];
        let site = self.lab.site("shop", &files);
        self.members[0].publish(&site, &[]).unwrap();
    }

    /// As `asked` sees it.
    fn service(&self, asked: usize, host: usize, state: &str) {
        until(&format!("m{host} is {state}"), || {
            let view = self.members[asked - 1].view()?;
            let all = view["members"].as_array().unwrap();
            let found = all.iter().find(|m| m["name"] == format!("m{host}"));
            let is = &found.ok_or("it is not enrolled")?["service"];
            if *is == state {
                return Ok(());
            }
            Err(format!("{is}\n{}", self.members[host - 1].events()))
        });
    }

    /// What the receiver of webhooks was told of `rule`: of whom, what, and by whom.
    fn told(&self, rule: &str) -> Vec<[String; 3]> {
        let of = |body: &String| {
            let notice: Value = serde_json::from_str(body).unwrap();
            let text = |key: &str| notice[key].as_str().unwrap_or("all").to_owned();
            (notice["rule"] == rule).then(|| ["member", "state", "judged_by"].map(text))
        };
        self.hooks.lock().unwrap().iter().filter_map(of).collect()
    }

    fn is_told(&self, rule: &str, expected: &[[&str; 3]]) {
        until(&format!("{rule} is told"), || {
            let told = self.told(rule);
            if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }

    /// What the second member says of a moment of Christmas Eve in New York, and of two minutes after it:
    /// by which rule the last one is in service then, and what changes.
    fn foreseen(&self, clock: &str) -> (Option<String>, Vec<(u64, bool, String)>) {
        let at = format!("2026-12-24T{clock}");
        let question = ["levels", "--at", &at, "--zone", "America/New_York", "--for", "2m"];
        let levels = self.members[1].run(&question).unwrap();
        let members = levels["members"].as_array().unwrap();
        let spare = members.iter().find(|m| m["member"] == "m4").unwrap();
        assert_eq!(spare["sure"], true, "{levels}");
        let by = spare["by"]["rule"].as_str().map(str::to_owned);
        assert_eq!(spare["place"] == "in-service", by.is_some(), "{levels}");
        let change = |turn: &Value| {
            let rule = turn["rule"]["rule"].as_str().unwrap();
            let whom = turn["members"].to_string();
            (turn["at"].as_u64().unwrap(), turn["begins"] == true, format!("{rule} {whom}"))
        };
        (by, levels["changes"].as_array().unwrap().iter().map(change).collect())
    }

    /// What a check by Nagios and its like ends with.
    fn check(&self, host: usize) -> i32 {
        let mut check = Command::new(env!("CARGO_BIN_EXE_althing"));
        check.args(["status", "--check", "--data"]).arg(&self.members[host - 1].data);
        check.stdout(Stdio::null()).status().unwrap().code().unwrap()
    }
}

/// Covers R22, R25, R26, R31.
#[test]
fn who_has_too_much_to_do_goes_and_who_waits_comes_and_all_goes_back() {
    scenario("who_has_too_much_to_do_goes_and_who_waits_comes_and_all_goes_back", |_| {
        let mut lan = Lan::start(&[]);
        lan.publish(
            r#"
            hot = "critical when avg(service.cpu shop/api, 10s) > 60% for 3s until avg(service.cpu shop/api, 10s) < 20% for 3s then mail ops, webhook pager, out"
            spare = "when any avg(service.cpu shop/api, 10s) > 60% for 3s until every avg(service.cpu shop/api, 10s) < 20% for 3s then webhook pager, in 1"
            rush = "warning when cluster sum(requests shop, 10s) > 15/s for 3s until cluster sum(requests shop, 10s) < 3/s for 2s then webhook pager, in 1"
            "#,
        );
        shop::all_ready(&lan.members[0], 4, 1);
        lan.service(2, 4, "standby");
        assert_eq!(lan.check(3), 0);

        let (burn, began) = (lan.lab.path("burn-m3"), Instant::now());
        fs::write(&burn, "").unwrap();
        lan.service(2, 3, "standby");
        let out = began.elapsed();
        assert!(out >= Duration::from_secs(3), "out of service after {out:?}");
        lan.service(2, 4, "in service");
        let came = began.elapsed();
        lan.is_told("hot", &[["m3", "begin", "m3"]]);
        lan.is_told("spare", &[["all", "begin", "m1"]]);
        until("it is critical", || match lan.check(3) {
            2 => Ok(()),
            other => Err(other.to_string()),
        });
        assert_eq!(lan.mails.lock().unwrap().len(), 1);
        assert!(lan.mails.lock().unwrap()[0].contains("service.cpu shop/api"));

        // Once it has said that all are told, the judge is killed, and what goes on goes on.
        thread::sleep(Duration::from_secs(3));
        lan.members[0].kill();
        until("it is down", || match lan.members[1].view()?["voters_live"].as_u64() {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        thread::sleep(Duration::from_secs(8));
        assert_eq!((lan.told("hot").len(), lan.told("spare").len()), (1, 1));
        lan.service(2, 4, "in service");

        fs::remove_file(&burn).unwrap();
        lan.service(2, 3, "in service");
        lan.service(2, 4, "standby");
        lan.is_told("hot", &[["m3", "begin", "m3"], ["m3", "end", "m3"]]);
        lan.is_told("spare", &[["all", "begin", "m1"], ["all", "end", "m2"]]);
        until("it is well", || match lan.check(3) {
            2 => Err(lan.members[2].view()?["reasons"].to_string()),
            _ => Ok(()),
        });

        // One that comes back to judge does nothing that was done.
        lan.members[0] = lan.members[0].again().up().unwrap();
        shop::all_ready(&lan.members[0], 4, 1);
        let rushed = Instant::now();
        let clients = [1, 2, 3].map(|host| Client::of(&lan.members[host - 1]));
        lan.service(2, 4, "in service");
        let rush = rushed.elapsed();
        assert!(rush >= Duration::from_secs(3), "in service after {rush:?}");
        let told = clients.map(Client::end);
        for told in &told {
            assert!(told.failures.is_empty(), "{:?}", told.failures);
        }
        lan.service(2, 4, "standby");
        lan.is_told("rush", &[["all", "begin", "m1"], ["all", "end", "m1"]]);
        assert_eq!((lan.told("hot").len(), lan.told("spare").len()), (2, 2));
        assert_eq!(lan.mails.lock().unwrap().len(), 2);
        let answers: u64 = told.iter().map(|told| told.answers).sum();
        format!(
            "out of service {out:.1?} after it began to burn, another in service after {came:.1?}; in \
             service {rush:.1?} after a rush, {answers} answers, none missed"
        )
    });
}

/// Covers R30. What `althing levels` says of it before is what happens then; a rule that is silenced
/// does nothing, and is said to do nothing.
#[test]
fn who_waits_comes_at_its_time_and_goes_after_it() {
    scenario("who_waits_comes_at_its_time_and_goes_after_it", |_| {
        // 2026-12-24, 17:58:30 in New York.
        let eve = Duration::from_secs(1_798_153_110);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ahead = i64::try_from(eve.as_secs()).unwrap() - i64::try_from(now.as_secs()).unwrap();
        let under = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", faketime().display()),
            format!("FAKETIME={ahead:+}s"),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "FAKETIME_DISABLE_SHM=1".to_owned(),
        ];
        let started = Instant::now();
        let until_second = |second| {
            thread::sleep(Duration::from_secs(second).saturating_sub(started.elapsed()));
        };
        let lan = Lan::start(&under);
        // Of the two the first one would bring it in, by its name.
        lan.publish(
            r#"
            dusk = "when time 18:00-18:01 thu America/New_York then webhook pager, in 1"
            evening = "when time 18:00-18:01 thu America/New_York then webhook pager, in 1"
            "#,
        );
        shop::all_ready(&lan.members[0], 4, 1);
        lan.service(2, 4, "standby");
        lan.members[0].run(&["silence", "shop/dusk", "--for", "10m", "--why", "a test"]).unwrap();
        let six = (eve.as_secs() + 90) * 1_000;
        let ends = [(six + 60_000, false, "dusk []"), (six + 60_000, false, "evening [\"m4\"]")];
        let begins = [(six, true, "dusk []"), (six, true, "evening [\"m4\"]")];
        let told = |turns: &[(u64, bool, &str)]| -> Vec<(u64, bool, String)> {
            turns.iter().map(|(at, begins, text)| (*at, *begins, (*text).to_owned())).collect()
        };
        until("the silence is known", || match lan.foreseen("18:00:30") {
            (Some(by), changes) if by == "evening" && changes == told(&ends) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(lan.foreseen("17:59:50"), (None, told(&[begins, ends].concat())));
        assert_eq!(lan.foreseen("18:01:00"), (None, Vec::new()));
        until_second(85);
        lan.service(2, 4, "standby");
        lan.service(2, 4, "in service");
        until_second(145);
        lan.service(2, 4, "in service");
        lan.service(2, 4, "standby");
        lan.is_told("evening", &[["all", "begin", "m1"], ["all", "end", "m1"]]);
        lan.is_told("dusk", &[]);
        let at = |body: &String| {
            let notice: Value = serde_json::from_str(body).unwrap();
            notice["at"].as_u64().unwrap()
        };
        let told: Vec<u64> = lan.hooks.lock().unwrap().iter().map(at).collect();
        let late = [told[0] - six, told[1] - six - 60_000];
        assert!(late.iter().all(|ms| *ms < 5_000), "{late:?} ms late");
        format!("told {} and {} ms after the time had come", late[0], late[1])
    });
}

fn faketime() -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = |place: fs::DirEntry| place.path().join("faketime/libfaketimeMT.so.1");
    let found = places.map(library).find(|library| library.exists());
    found.expect("this test needs libfaketime: apt-get install libfaketime")
}
