//! Members that come back at other addresses, with real processes: one, two that change places, and
//! all at once. Loopback only.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::net::SocketAddr;

use common::{Lab, Member, Plan, all_serve, settled, until};

/// How `member` is started at an address that nobody had: 127.x.y.`host`.
fn elsewhere(member: &Member, host: u8) -> Plan {
    let mut plan = member.again();
    let SocketAddr::V4(before) = plan.bind else { panic!("the lab is IPv4") };
    let [a, b, c, _] = before.ip().octets();
    plan.bind = ([a, b, c, host], before.port()).into();
    plan
}

/// Starts it, to look for the others at `seed`. No token is given.
fn looking(mut plan: Plan, seed: SocketAddr) -> Member {
    plan.more = vec!["--join".to_owned(), seed.to_string()];
    plan.up().unwrap()
}

/// All show every member where it is.
fn shown_where_they_are(members: &[Member]) {
    until("all show where the members are", || {
        for by in members {
            let view = by.view()?;
            let shown = view["members"].as_array().ok_or("no members")?;
            for of in members {
                let entry = shown.iter().find(|m| m["name"] == of.name()).ok_or("not shown")?;
                if entry["address"] != of.address().to_string() {
                    return Err(format!("{} shows {entry}", by.name()));
                }
            }
        }
        Ok(())
    });
}

/// The roster has the new address of each of `members`, which says so.
fn enrolled_where_they_are(members: &[Member]) {
    until("the roster has where they are", || {
        for member in members {
            let (name, address) = (member.name(), member.address());
            let text = format!("the roster has {address} for {name} now");
            if !member.events().contains(&text) {
                return Err(format!("{name} does not tell {text:?}"));
            }
        }
        Ok(())
    });
}

fn stopped<const N: usize>(mut members: [Member; N]) -> [Member; N] {
    members.iter_mut().for_each(Member::kill);
    members
}

#[test]
fn all_are_moved_at_once_and_find_each_other_by_the_address_of_one() {
    let lab = Lab::new((75, 1));
    let members = lab.cluster(["a", "b", "c"]);
    members[0].publish(&lab.site("one", &[("index.html", "one")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/1", "one");

    let [a, b, c] = stopped(members);
    let before = b.address();
    let a = elsewhere(&a, 201).up().unwrap();
    let seed = a.address();
    let (b, c) = (looking(elsewhere(&b, 202), seed), looking(elsewhere(&c, 203), seed));
    let members = [a, b, c];
    settled(&members);
    shown_where_they_are(&members);
    let told = format!("b is reached at {} now; it was at {before}", members[1].address());
    assert!(members[0].events().contains(&told), "{}", members[0].events());
    members[2].publish(&lab.site("two", &[("index.html", "two")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/2", "two");
    enrolled_where_they_are(&members);

    // From now on they find each other by what they remember.
    let members = stopped(members).map(|member| member.again().up().unwrap());
    settled(&members);
    shown_where_they_are(&members);
    members[1].publish(&lab.site("three", &[("index.html", "three")]), &["--app", "web"]).unwrap();
    all_serve(&members.iter().collect::<Vec<_>>(), "web/3", "three");
}

#[test]
fn one_is_moved_and_two_change_places_while_others_live() {
    let lab = Lab::new((75, 2));
    let [a, mut b, c] = lab.cluster(["a", "b", "c"]);
    let before = b.address();
    b.kill();
    let b = elsewhere(&b, 202).up().unwrap();
    let members = [a, b, c];
    settled(&members);
    shown_where_they_are(&members);
    let told = format!("b is reached at {} now; it was at {before}", members[1].address());
    assert!(members[0].events().contains(&told), "{}", members[0].events());
    enrolled_where_they_are(&members[1..2]);

    let [a, mut b, mut c] = members;
    b.kill();
    c.kill();
    let (mut of_b, mut of_c) = (b.again(), c.again());
    std::mem::swap(&mut of_b.bind, &mut of_c.bind);
    let members = [a, of_b.up().unwrap(), of_c.up().unwrap()];
    settled(&members);
    shown_where_they_are(&members);
    until("the roster has them where they are", || {
        // In one step, which one of the two has asked for.
        let told = |m: &Member| {
            m.events().contains(&format!("the roster has {} for {} now", m.address(), m.name()))
        };
        if members[1..].iter().any(told) { Ok(()) } else { Err("neither tells it".to_owned()) }
    });
    let members = stopped(members).map(|member| member.again().up().unwrap());
    settled(&members);
    shown_where_they_are(&members);
}
