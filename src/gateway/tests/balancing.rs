//! Who of several is asked, over real sockets: what the client, the answers and the process
//! itself say of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::fake::{FakeForward, FakeSites, Peer, Server, backends, candidates, member};
use crate::{
    base::{
        MemberId,
        placement::{Placement, Preference, Preferences},
    },
    gateway::{Affinity, Backends, KeyOf, Process, Route, Turn, connection::Limits},
    proto::balance::choice::{Candidate, token},
};

/// A program that answers each connection's first request with `status` and its name.
async fn program(name: &'static str, status: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

/// How the process of the member is.
#[derive(Default)]
struct How {
    unwell: AtomicBool,
    /// Turns that it still has to give; as many as one likes if none are counted.
    turns: Option<AtomicUsize>,
}

struct Own(SocketAddr, Arc<How>);

impl Process for Own {
    fn address(&self) -> SocketAddr {
        self.0
    }
    fn load(&self) -> usize {
        1
    }
    fn is_unwell(&self) -> bool {
        self.1.unwell.load(SeqCst)
    }
    fn turn(&self) -> Option<Turn<'_>> {
        let turns = self.1.turns.as_ref()?;
        let left = turns.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        Some(Box::pin(async move { left.ok().map(|_| Box::new(()) as Box<dyn Send>) }))
    }
}

/// A member with a process, and others, all for one application.
fn sites(
    me: u8,
    here: (SocketAddr, Arc<How>),
    others: &[MemberId],
    affinity: Affinity,
) -> Arc<FakeSites> {
    let others = candidates(others);
    FakeSites::new(move |_| {
        let own = Box::new(Own(here.0, here.1.clone()));
        let here = Some((Candidate { id: member(me), capacity: 1 }, own as Box<dyn Process>));
        let (others, affinity) = (others.clone(), affinity.clone());
        Route::Service(Backends { here, others, affinity, ..backends(None, &[]) })
    })
}

/// The member 1 with a process of its own, and 2 and 3 with theirs.
async fn three(
    statuses: [u16; 3],
    how: [How; 3],
    affinity: Affinity,
) -> (Server, Arc<FakeForward>) {
    let [first, second, third] = statuses;
    let [of_first, of_second, of_third] = how.map(Arc::new);
    let all = [
        (program("one", first).await, of_first),
        (program("two", second).await, of_second),
        (program("three", third).await, of_third),
    ];
    let [one, two, three] = all;
    let serves = |me, here| Peer::Serves(sites(me, here, &[], affinity.clone()));
    let peers = [(member(2), serves(2, two)), (member(3), serves(3, three))];
    let forward = Arc::new(FakeForward { peers: peers.into(), ..FakeForward::default() });
    let sites = sites(1, one, &[member(2), member(3)], affinity);
    (Server::with(sites, forward.clone(), Limits::default()).await, forward)
}

fn get(lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
}

#[tokio::test]
async fn a_client_is_led_back_by_its_cookie() {
    let (server, _) = three([200; 3], Default::default(), Affinity::Cookie("/".to_owned())).await;
    let reply = server.ask(&get("")).await;
    let told = reply.header("set-cookie").unwrap().to_owned();
    assert_eq!(reply.text(), "one", "the process here is as good as any");
    assert!(told.starts_with(&format!("althing={:016x}; Path=/; ", token(member(1)))), "{told}");
    // Whoever is named is asked, and tells it to nobody who knows.
    for (number, name) in [(3, "three"), (2, "two"), (1, "one")] {
        let cookie = format!("Cookie: a=b; althing={:016x}\r\n", token(member(number)));
        for _ in 0..4 {
            let reply = server.ask(&get(&cookie)).await;
            assert_eq!((reply.text().as_str(), reply.header("set-cookie")), (name, None));
        }
    }
    // Who is not there any more is no reason not to be answered, and told anew.
    let gone = server.ask(&get("Cookie: althing=0000000000000001\r\n")).await;
    assert_eq!(gone.header("set-cookie"), Some(told.as_str()));
}

/// Also where the member that is asked knows nothing of the routes.
#[tokio::test]
async fn a_member_that_holds_nothing_leads_a_client_back_as_well() {
    let affinity = Affinity::Cookie("/".to_owned());
    let mut peers = Vec::new();
    for (number, name) in [(2, "two"), (3, "three")] {
        let here = (program(name, 200).await, Arc::default());
        peers.push((member(number), Peer::Serves(sites(number, here, &[], affinity.clone()))));
    }
    let forward =
        Arc::new(FakeForward { peers: peers.into_iter().collect(), ..Default::default() });
    let sites = FakeSites::new(|_| super::fake::remote(&[member(2), member(3)]));
    let server = Server::with(sites, forward, Limits::default()).await;
    let reply = server.ask(&get("")).await;
    let (first, told) = (reply.text(), reply.header("set-cookie").unwrap().to_owned());
    let cookie = format!("Cookie: {}\r\n", told.split(';').next().unwrap());
    for _ in 0..6 {
        let again = server.ask(&get(&cookie)).await;
        assert_eq!((again.text(), again.header("set-cookie")), (first.clone(), None));
    }
}

#[tokio::test]
async fn a_key_is_answered_by_one_member_alone() {
    let by_tenant = Affinity::Key(KeyOf::Header("x-tenant".to_owned()));
    let (server, _) = three([200; 3], Default::default(), by_tenant).await;
    let mut seen = std::collections::BTreeSet::new();
    for tenant in 0..12 {
        let lines = format!("X-Tenant: {tenant}\r\n");
        let first = server.ask(&get(&lines)).await.text();
        for _ in 0..2 {
            assert_eq!(server.ask(&get(&lines)).await.text(), first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "and all have some");
}

#[tokio::test]
async fn one_that_answers_only_with_failures_is_left_out() {
    let (server, _) = three([500, 200, 200], Default::default(), Affinity::Unknown).await;
    let mut failed = 0;
    for _ in 0..30 {
        failed += usize::from(server.ask(&get("")).await.status == 500);
    }
    assert_eq!(failed, 10, "no more than it takes to see it");
    // Where all do, it is what they are asked, and not they.
    let (server, forward) = three([503; 3], Default::default(), Affinity::Unknown).await;
    for _ in 0..60 {
        assert_eq!(server.ask(&get("")).await.status, 503);
    }
    // Once the second of three is bad as well, the one here is asked again.
    let others = forward.asked.lock().unwrap().len();
    assert!((10..20).contains(&others), "{others}");
}

#[tokio::test]
async fn one_that_is_unwell_is_asked_last() {
    let unwell = || How { unwell: AtomicBool::new(true), ..How::default() };
    let how = [unwell(), How::default(), How::default()];
    let (server, _) = three([200; 3], how, Affinity::Unknown).await;
    for _ in 0..8 {
        assert_ne!(server.ask(&get("")).await.text(), "one");
    }
    // Where all are, each asks its own.
    let how = [unwell(), unwell(), unwell()];
    let (server, _) = three([200; 3], how, Affinity::Unknown).await;
    assert_eq!(server.ask(&get("")).await.text(), "one");
}

#[tokio::test]
async fn one_that_has_enough_to_do_is_for_others() {
    let full = || How { turns: Some(AtomicUsize::new(0)), ..How::default() };
    let how = [full(), full(), How::default()];
    let (server, forward) = three([200; 3], how, Affinity::Unknown).await;
    for _ in 0..8 {
        assert_eq!(server.ask(&get("")).await.text(), "three");
    }
    let post = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(server.ask(post).await.text(), "three");
    // To be full is no failure: the second is asked again. Which of the two is chance.
    let second = |id: &&MemberId| **id == member(2);
    let asked = || forward.asked.lock().unwrap().iter().filter(second).count();
    for _ in 0..64 {
        if asked() > 1 {
            break;
        }
        server.ask(&get("")).await;
    }
    assert!(asked() > 1);
    let (server, _) = three([200; 3], [full(), full(), full()], Affinity::Unknown).await;
    let reply = server.ask(&get("")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    assert!(reply.text().contains("too much to do"));
    assert_eq!(reply.header("althing-refused"), None, "that is between members");
}

/// From where a client comes decides who answers, as long as there is somebody.
#[tokio::test]
async fn clients_from_somewhere_are_answered_by_some() {
    let all = [
        (program("one", 200).await, Arc::<How>::default()),
        (program("two", 200).await, Arc::default()),
        (program("three", 200).await, Arc::default()),
    ];
    let [one, two, three] = all;
    let serves = |me, here| Peer::Serves(sites(me, here, &[], Affinity::None));
    let peers = [(member(2), serves(2, two)), (member(3), serves(3, three))];
    let forward = Arc::new(FakeForward { peers: peers.into(), ..FakeForward::default() });
    let prefers = |from: &str, members: &str, others: &[MemberId]| {
        let (from, members) = (from.parse().unwrap(), Placement::parse(members).unwrap());
        let prefer = Preferences::from(vec![Preference { from, members }]);
        let tag = |n: u8, of: &str| (member(n), [("site".to_owned(), of.to_owned())].into());
        let tags = Arc::new([tag(1, "home"), tag(2, "home"), tag(3, "far")].into());
        let (others, here) = (candidates(others), one.clone());
        FakeSites::new(move |_| {
            let own = Box::new(Own(here.0, here.1.clone()));
            let here = Some((Candidate { id: member(1), capacity: 1 }, own as Box<dyn Process>));
            let (others, prefer, tags) = (others.clone(), prefer.clone(), Arc::clone(&tags));
            Route::Service(Backends { here, others, prefer, tags, ..backends(None, &[]) })
        })
    };
    let both = [member(2), member(3)];
    for (from, members, others, who) in [
        ("127.0.0.0/8", "site == far", &both[..], "three"),
        ("127.0.0.0/8", "site == home", &both, "one"),
        ("10.0.0.0/8", "site == far", &both, "one"),
        // Where a country is not known nobody is said to be from there.
        ("MX", "site == far", &both, "one"),
        ("127.0.0.0/8", "site == far", &both[..1], "one"),
        ("127.0.0.0/8", "site == gone or site == far", &[member(3), member(9)], "three"),
    ] {
        let sites = prefers(from, members, others);
        let server = Server::with(sites, forward.clone(), Limits::default()).await;
        for _ in 0..8 {
            assert_eq!(server.ask(&get("")).await.text(), who, "{from} {members}");
        }
    }
    let nobody = Arc::new(FakeForward::default());
    let server =
        Server::with(prefers("127.0.0.0/8", "site == far", &both), nobody, Limits::default()).await;
    assert_eq!(server.ask(&get("")).await.text(), "one", "another one answers");
}
