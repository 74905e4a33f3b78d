//! What members measure and what happened, asked of any of them: real processes on loopback.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::net::UdpSocket;

use common::{Lab, until};
use serde_json::Value;

/// Of which members a series is known, asked of `member`.
fn known(answer: &Value, series: &str) -> Vec<String> {
    let all = answer["series"].as_array().unwrap().iter();
    let of = all.filter(|one| one["series"] == series && !one["rows"][0].is_null());
    of.map(|one| one["member"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn any_member_answers_for_all_and_says_who_is_missing() {
    let lab = Lab::new((86, 1));
    let [a, b, mut c] = lab.cluster(["a", "b", "c"]);
    a.publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    let wanted = ["metrics", "cpu", "mem.used", "members.live", "--each", "--since", "1m"];
    for member in [&a, &c] {
        until("all are measured", || {
            let answer = member.run(&wanted).map_err(|e| e.why)?;
            let [cpu, memory, live] =
                ["cpu", "mem.used", "members.live"].map(|series| known(&answer, series));
            let all = ["a", "b", "c"];
            if cpu == all && memory == all && live == all {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        });
    }
    // All together: one row, of three members; what they have together is more than each has.
    let answer = b.run(&["metrics", "mem.used", "--since", "1m"]).unwrap();
    let row = &answer["series"][0]["rows"][0];
    assert_eq!((&row["members"], &row["missing"]), (&3.into(), &Value::Null), "{answer}");
    let [avg, min, max, total] =
        ["avg", "min", "max", "total"].map(|key| row[key].as_f64().unwrap());
    assert!(min <= avg && avg <= max && total > 2.0 * min, "{answer}");
    assert_eq!(answer["silent"], Value::Array(vec![]));

    // What is published on one is fetched by the others; nothing was refused.
    a.publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    until("what was fetched is counted", || {
        let answer = b
            .run(&["metrics", "replication.bytes", "series.refused", "--each", "--since", "1m"])
            .map_err(|e| e.why)?;
        let sum = |series: &str, member: &str| {
            let all = answer["series"].as_array()?;
            let one = all.iter().find(|one| one["series"] == series && one["member"] == member)?;
            let row = &one["rows"][0];
            Some(row["avg"].as_f64()? * row["weight"].as_f64()?)
        };
        let fetched = |member| sum("replication.bytes", member);
        let refused = ["a", "b", "c"].map(|member| sum("series.refused", member));
        let fetched_by = (fetched("a"), fetched("b"), fetched("c"));
        match fetched_by {
            (Some(a), Some(b), Some(c)) if a == 0.0 && b > 0.0 && c > 0.0 => {
                assert_eq!(refused, [Some(0.0); 3], "{answer}");
                Ok(())
            }
            _ => Err(answer.to_string()),
        }
    });

    // Whoever is asked for is counted on the member that was asked.
    for _ in 0..20 {
        assert_eq!(b.get("/").unwrap().status, 200);
    }
    until("requests are counted", || {
        let answer =
            a.run(&["metrics", "requests", "--each", "--since", "1m"]).map_err(|e| e.why)?;
        let all = answer["series"].as_array().unwrap();
        let of = |name: &str| {
            let one = all.iter().find(|one| one["member"] == name)?;
            let row = &one["rows"][0];
            Some(row["avg"].as_f64()? * row["weight"].as_f64()?)
        };
        match (of("a"), of("b")) {
            (Some(a), Some(b)) if a < 0.5 && (19.5..20.5).contains(&b) => Ok(()),
            _ => Err(answer.to_string()),
        }
    });

    // Ten seconds are written once they are over.
    let rows = ["metrics", "cpu", "--member", "c", "--step", "10s", "--since", "2m"];
    let first = until("some of it is on disk", || {
        let answer = a.run(&rows).map_err(|e| e.why)?;
        let rows = answer["series"][0]["rows"].as_array().ok_or("nothing yet")?;
        if rows.len() > 1 { Ok(rows[0]["at"].clone()) } else { Err(answer.to_string()) }
    });
    c.kill();
    until("who is missing is named", || {
        let answer = a.run(&["metrics", "cpu", "--since", "10s"]).map_err(|e| e.why)?;
        let silent = answer["silent"].as_array().unwrap();
        match silent.iter().find(|one| one["member"] == "c") {
            Some(one) if one["why"] == "It is down." => Ok(()),
            _ => Err(answer.to_string()),
        }
    });
    a.run(&["metrics", "cpus;", "--since", "1m"]).unwrap_err().is(3, "invalid", "a pattern");
    let top = a.run(&["top", "--once"]).unwrap();
    assert!(top["a"]["cpu"].is_f64() && top["b"]["mem.total"].is_f64(), "{top}");

    // The log outlives its member, and any member reads it.
    let c = c.again().up().unwrap();
    until("events of before are told", || {
        let events = b.run(&["events", "--member", "c", "--kind", "version"]).map_err(|e| e.why)?;
        let events = events.as_array().unwrap();
        let of = |event: &&Value| event["app"] == "web" && event["told_by"] == "c";
        if events.iter().any(|event| of(&event)) { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let own = c.run(&["events", "--kind", "version"]).unwrap();
    let log = c.run(&["events", "--member", "c", "--kind", "version"]).unwrap();
    assert!(log.as_array().unwrap().len() > own.as_array().unwrap().len(), "{own} {log}");
    let all = c.run(&["events", "--all", "--since", "1h"]).unwrap();
    let told: std::collections::BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|event| event["told_by"].as_str().unwrap()).collect();
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    let times: Vec<u64> =
        all.as_array().unwrap().iter().map(|event| event["at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // What was measured before it was killed is there as well.
    until("what was measured before is told", || {
        let answer = a.run(&rows).map_err(|e| e.why)?;
        if answer["series"][0]["rows"][0]["at"] == first { Ok(()) } else { Err(answer.to_string()) }
    });
}

/// What services and scripts measure themselves is a series as every other.
#[test]
fn services_and_scripts_tell_what_they_measure() {
    let lab = Lab::new((86, 2));
    let site = lab.site("jobs", &[("jobs.py", JOBS), ("althing.toml", MANIFEST)]);
    let port = UdpSocket::bind("127.86.2.1:0").unwrap().local_addr().unwrap();
    let mut plan = lab.plan("a");
    plan.more.extend(["--statsd".to_owned(), port.to_string()]);
    let a = plan.up().unwrap();
    a.publish(&site, &[]).unwrap();
    let script = |arguments: &[&str]| a.run(&[&["measure"], arguments].concat());
    let told = script(&["orders", "3", "--count", "--label", "north"]).unwrap();
    assert_eq!(told["series"], "custom.orders.total north", "{told}");
    // A counter's first total says nothing: nobody knows in how long it was counted.
    let orders = "custom.orders.total north";
    let client = UdpSocket::bind("127.86.2.1:0").unwrap();
    until("all of it is measured", || {
        script(&["orders", "2", "--count", "--label", "north"]).map_err(|e| e.why)?;
        client.send_to(b"cache.size:1048576|g\nnonsense", port).map_err(|e| e.to_string())?;
        let wanted = ["metrics", "custom.*", "--since", "1m", "--percentiles"];
        let answer = a.run(&wanted).map_err(|e| e.why)?;
        let row = |series: &str| {
            let all = answer["series"].as_array()?;
            let one = all.iter().find(|one| one["series"] == series)?;
            Some(one["rows"][0].clone()).filter(|row| !row.is_null())
        };
        let rows =
            ["custom.queue", "custom.job.seconds mail", orders, "custom.cache.size"].map(row);
        let [Some(queue), Some(job), Some(orders), Some(cache)] = rows else {
            return Err(answer.to_string());
        };
        let p99 = job["percentiles"]["p99"].as_f64().ok_or_else(|| answer.to_string())?;
        assert!((0.247..0.253).contains(&p99), "{answer}");
        assert_eq!(queue["max"], 7.0, "{answer}");
        assert_eq!(cache["avg"], 1_048_576.0, "{answer}");
        assert!(orders["max"].as_f64().unwrap() > 0.0, "{answer}");
        Ok(())
    });
    until("what is not understood is counted", || {
        let answer = a.run(&["metrics", "series.refused", "--since", "1m"]).map_err(|e| e.why)?;
        match answer["series"][0]["rows"][0]["max"].as_f64() {
            Some(rate) if rate > 0.0 => Ok(()),
            _ => Err(answer.to_string()),
        }
    });
    script(&["a|b", "1"]).unwrap_err().is(3, "invalid", "a name");
    let nobody = common::run_on(&lab.path("nowhere"), &["measure", "queue", "1"]);
    nobody.unwrap_err().is(4, "not-found", "No member takes measurements");
}

const MANIFEST: &str =
    "[application]\nname = \"jobs\"\n[services.jobs]\nrun = [\"python3\", \"jobs.py\"]\n";

const JOBS: &str = r#"
import os, socket, time
tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    tell.sendto(b"queue:7|g\njob:250|ms|#mail", os.environ["ALTHING_METRICS"])
    time.sleep(0.2)
"#;
