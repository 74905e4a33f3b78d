//! Requests that programs answer, with real processes on three members under steady load:
//! versions change, members are drained, restarted and killed, and nobody is left without
//! an answer who need not be.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

#[expect(dead_code, reason = "tests/load needs more of it")]
#[path = "common/shop.rs"]
mod shop;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{Lab, Member, until};
use shop::{Client, Told, all_ready, ready, version};

fn clean(who: &str, told: &Told, least: u64) {
    assert!(told.failures.is_empty(), "{who}, of {}: {:?}", told.answers, told.failures);
    assert!(told.answers > least, "{who}: {} answers", told.answers);
}

/// Covers R6, R27: what is planned costs nobody an answer.
#[test]
fn nothing_that_is_planned_costs_an_answer() {
    let lab = Lab::new((67, 1));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.path("shop");
    version(&site, 1);
    one.publish(&site, &[]).unwrap();
    all_ready(&one, 3, 1);

    // Versions change.
    let clients = [&one, &two, &three].map(Client::of);
    for number in 2..=4 {
        version(&site, number);
        // It returns when all are ready.
        two.publish(&site, &[]).unwrap();
        assert_eq!(ready(&one, number).len(), 3);
    }
    // A restart by hand, one member after the other.
    three.run(&["restart", "shop", "api"]).unwrap();
    // Each member is drained and brought back.
    for name in ["one", "two", "three"] {
        one.run(&["drain", name]).unwrap();
        until("it is on standby", || service_of(&two, name, "standby"));
        let before = clients.each_ref().map(Client::answers);
        until("all go on being answered", || {
            let now = clients.each_ref().map(Client::answers);
            if now.iter().zip(before).all(|(now, before)| *now > before + 20) {
                Ok(())
            } else {
                Err(format!("{before:?} {now:?}"))
            }
        });
        // Its program is asked no more, through whomever.
        let all = ready(&one, 4);
        let its = all.iter().find(|s| s["member"] == *name).unwrap()["pid"].to_string();
        until("its program is left alone", || {
            for member in [&one, &two, &three] {
                for _ in 0..8 {
                    let body = String::from_utf8(member.get("/api/x")?.body).unwrap();
                    if body.split_whitespace().nth(1) == Some(&its) {
                        return Err(body);
                    }
                }
            }
            Ok(())
        });
        one.run(&["resume", name]).unwrap();
        until("it is in service", || service_of(&two, name, "in service"));
    }
    for (name, client) in ["one", "two", "three"].iter().zip(clients) {
        let told = client.end();
        clean(name, &told, 100);
        assert_eq!(told.newest, 4);
    }

    // A member stops and starts again: nobody notices who asks the others.
    let clients = [&one, &two].map(Client::of);
    let pid = rustix::process::Pid::from_raw(three.ready["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("it ends", || if three.is_running() { Err("it runs".to_owned()) } else { Ok(()) });
    let three = three.again().up().unwrap();
    all_ready(&one, 3, 4);
    until("it is in service", || service_of(&one, "three", "in service"));
    for (name, client) in ["one", "two"].iter().zip(clients) {
        clean(name, &client.end(), 4);
    }
    drop(three);
}

fn service_of(member: &Member, name: &str, state: &str) -> Result<(), String> {
    let view = member.view()?;
    let all = view["members"].as_array().unwrap();
    let found = all.iter().find(|m| m["name"] == name).ok_or("it is not enrolled")?;
    if found["service"] == state { Ok(()) } else { Err(found["service"].to_string()) }
}

/// A program that is gone on one member is answered for by another one, and one that never
/// gets ready is taken back.
#[test]
fn others_answer_for_a_program_that_is_gone() {
    let lab = Lab::new((67, 2));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.path("shop");
    version(&site, 1);
    one.publish(&site, &[]).unwrap();
    all_ready(&one, 3, 1);

    // A member that is killed takes with it what was under way there, and nothing after a
    // moment.
    let clients = [&one, &two].map(Client::of);
    until("they ask", || if clients[0].answers() > 40 { Ok(()) } else { Err(String::new()) });
    let killed = Instant::now();
    three.kill();
    let before = clients.each_ref().map(Client::answers);
    until("they go on", || {
        let now = clients.each_ref().map(Client::answers);
        let all = now.iter().zip(before).all(|(now, before)| *now > before + 400);
        if all { Ok(()) } else { Err(format!("{now:?}")) }
    });
    for client in clients {
        let told = client.end();
        let late = Duration::from_secs(3);
        let later: Vec<_> =
            told.failures.iter().filter(|failure| failure.asked > killed + late).collect();
        assert!(later.is_empty(), "{later:?}");
    }

    // A new version whose program never listens is taken back; the one before goes on
    // answering all the while.
    let clients = [&one, &two].map(Client::of);
    for (bad, good) in [(2, 3), (4, 5)] {
        version(&site, bad);
        fs::write(site.join("api.py"), "import time\ntime.sleep(1000)\n").unwrap();
        let refused = one.publish(&site, &["--app", "shop"]).unwrap_err();
        assert!(format!("{refused:?}").contains("was taken back"), "{refused:?}");
        all_ready(&one, 2, good);
        let history = two.run(&["history", "shop"]).unwrap().to_string();
        assert!(history.contains(&format!("version {bad} did not get ready on")), "{history}");
    }
    for client in clients {
        let told = client.end();
        clean("while versions failed", &told, 100);
    }

    // What a client says of itself is not believed, and a path that leads nowhere is a page.
    let asked =
        b"GET /api/x HTTP/1.1\r\nHost: l\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(two.site()).unwrap();
    stream.write_all(asked).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("X-For: 127.") && !text.contains("6.6.6.6"), "{text}");
    assert_eq!(one.get("/apix").unwrap().status, 404);
    assert_eq!(one.get("/.althing/routes.toml").unwrap().status, 404);
}
