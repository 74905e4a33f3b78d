//! A cluster that has lost its majority for ever goes on: real processes, whose
//! data directories are really deleted. Loopback only.

#[expect(dead_code, reason = "tests/refusals.rs needs more of it")]
mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{Lab, Member, all_serve, invite, run_on, settled, until};

/// Asks one of `sites` after the other for the page, without pause, and fails
/// if none answers with one of the texts that were published.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u64, String>>,
}

impl Reader {
    fn of(sites: Vec<std::net::SocketAddr>, texts: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let read = move || {
            let mut answered = 0;
            while !stopped.load(Ordering::Relaxed) {
                let request = b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n";
                let fine = |site: &std::net::SocketAddr| {
                    let answer = common::tcp(*site, request);
                    answer.is_ok_and(|a| {
                        a.status == 200 && texts.iter().any(|text| a.body == text.as_bytes())
                    })
                };
                if !sites.iter().any(fine) {
                    return Err(format!("after {answered} answers nobody served the site"));
                }
                answered += 1;
            }
            Ok(answered)
        };
        Self { stop, thread: std::thread::spawn(read) }
    }

    fn ended(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.thread.join().unwrap();
        answered.unwrap_or_else(|why| panic!("{why}"))
    }
}

fn stop(member: &mut Member) {
    let request = b"POST /api/v1/stop HTTP/1.1\r\nHost: l\r\nContent-Length: 0\r\n\
                    Connection: close\r\n\r\n";
    assert_eq!(member.ask(request).unwrap().status, 200);
    until(
        "it has stopped",
        || {
            if member.is_running() { Err("it runs".to_owned()) } else { Ok(()) }
        },
    );
}

#[test]
fn a_cluster_whose_majority_is_destroyed_is_recovered_and_goes_on() {
    let lab = Lab::new((71, 1));
    let members = lab.cluster(["a", "b", "c", "d", "e"]);
    let old_cluster = members[0].view().unwrap()["cluster"].as_str().unwrap().to_owned();
    members[2].publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");
    let healthy = members[0].run(&["recover"]).unwrap_err();
    healthy.is(5, "conflict", "a majority");

    let [mut a, mut b, mut c, d, e] = members;
    // Two are destroyed with their disks; the third only looks like it.
    for mut lost in [d, e] {
        lost.kill();
        fs::remove_dir_all(&lost.data).unwrap();
    }
    c.kill();
    let reader = Reader::of(vec![a.site(), b.site()], &["one", "two"]);
    until("the loss is seen", || {
        let view = a.view()?;
        if view["voters_live"] == 2 { Ok(()) } else { Err(view["voters_live"].to_string()) }
    });
    let refused = a.publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]);
    let refused = refused.unwrap_err();
    refused.is(6, "no-majority", "3 of the 5 voters");
    assert!(refused.todo.contains("althing recover"), "{refused:?}");

    // While it runs it shows what would be done, and what the others know.
    let plan = a.run(&["recover", "--keep", "b"]).unwrap();
    assert_eq!((&plan["recovered"], &plan["running"]), (&false.into(), &true.into()));
    let fates: Vec<&str> =
        plan["members"].as_array().unwrap().iter().map(|m| m["fate"].as_str().unwrap()).collect();
    assert_eq!(fates, ["stays", "rejoins", "struck off", "struck off", "struck off"]);
    assert_eq!(plan["members"][1]["sequence"], plan["sequence"]);
    a.run(&["recover", "--keep", "x"]).unwrap_err().is(4, "not-found", "named x");

    // Stopped, it asks first, and then does it.
    stop(&mut a);
    let asked = run_on(&a.data, &["recover", "--keep", "b"]).unwrap();
    assert_eq!(asked["recovered"], false);
    let done = run_on(&a.data, &["recover", "--keep", "b", "--yes"]).unwrap();
    assert_eq!(done["recovered"], true);
    assert_ne!(done["cluster"].as_str().unwrap(), old_cluster);
    let a = a.again().up().unwrap();
    let view = a.view().unwrap();
    assert_eq!(view["cluster"], done["cluster"]);
    assert_eq!((&view["voters"], &view["majority"]), (&1.into(), &1.into()));
    assert!(a.events().contains("succeeds cluster"), "{}", a.events());
    all_serve(&[&a], "web/1", "one");

    // The other survivor follows by an operator's act alone.
    until("the other survivor says what has happened", || {
        let view = b.view()?;
        let reasons = view["reasons"].to_string();
        if reasons.contains("recover --rejoin") { Ok(()) } else { Err(reasons) }
    });
    let token = invite(&a, &[]);
    stop(&mut b);
    run_on(&b.data, &["recover", "--rejoin", "--yes"]).unwrap();
    // It founds no cluster of its own meanwhile.
    b.again().up().map(|_| ()).unwrap_err().is(7, "forbidden", "recover --rejoin");
    let b = b.again().joining(a.address(), &token).up().unwrap();
    assert_eq!(b.ready["joined"], true);
    let survivors = [a, b];
    settled(&survivors);
    let [a, b] = survivors;
    all_serve(&[&a, &b], "web/1", "one");
    let metrics = b.run(&["metrics"]).unwrap();
    assert!(metrics["bytes_received"].as_u64().unwrap() > 0, "{metrics}");

    b.publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    all_serve(&[&a, &b], "web/2", "two");
    let history = a.run(&["history", "web"]).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
    let answered = reader.ended();
    assert!(answered > 20, "{answered}");

    // One of the old majority comes back: refused, it says why, and harms nobody.
    let c = c.again().up().unwrap();
    until("it says why it is alone", || {
        let reasons = c.view()?["reasons"].to_string();
        if reasons.contains("recovered there without this member") { Ok(()) } else { Err(reasons) }
    });
    assert_eq!(c.view().unwrap()["cluster"].as_str().unwrap(), old_cluster);
    let late = c.publish(&lab.site("late", &[("index.html", "late")]), &["--app", "web"]);
    late.unwrap_err().is(6, "no-majority", "recovered there without this member");
    all_serve(&[&a, &b], "web/2", "two");
    let names: Vec<String> = a.view().unwrap()["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "b"]);
}
