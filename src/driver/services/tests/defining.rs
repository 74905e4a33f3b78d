use std::{collections::BTreeSet, time::Duration};

use proptest::{collection, option, prelude::*};

use super::name;
use crate::driver::services::{
    Service, Services,
    check::{SERVICES_MAX, parse_url},
    spec::{Limits, Ready, Requests, Restart, Stop, StopSignal, User},
};

const WHOLE: &str = r#"
[services.api]
run = ["bin/api", "--port", "8080"]
env = { LOG = "info" }
directory = "."
user = "www-data"
stop = { signal = "TERM", within = "10s" }
ready = { http = "http://127.0.0.1:8080/health", within = "20s" }
restart = "on-failure"
limits = { files = 1024, memory = "512MB", processes = 64 }

[services.worker]
run = ["worker"]
"#;

#[test]
fn a_definition_is_read() {
    let services = Services::parse(WHOLE).unwrap();
    services.check().unwrap();
    let api = &services.0[&name("api")];
    assert_eq!(api.run, ["bin/api", "--port", "8080"]);
    assert_eq!(api.user, Some(User::Name("www-data".to_owned())));
    let url = "http://127.0.0.1:8080/health".to_owned();
    assert_eq!(api.ready, Ready::Http { url, within: Duration::from_secs(20) });
    assert_eq!(api.restart, Restart::OnFailure);
    let limits = Limits { files: Some(1_024), memory: Some(512_000_000), processes: Some(64) };
    assert_eq!(api.limits, limits);
    let worker = &services.0[&name("worker")];
    assert_eq!(worker.directory, ".");
    assert_eq!(worker.stop, Stop::default());
    assert_eq!(worker.restart, Restart::Always);
    assert_eq!(Services::parse("").unwrap(), Services::default());
}

#[test]
fn the_canonical_text_says_only_what_is_not_the_default() {
    let services = Services::parse(WHOLE).unwrap();
    let text = services.to_toml();
    assert_eq!(Services::parse(&text).unwrap(), services);
    assert!(!text.contains("directory") && !text.contains("10s"), "{text}");
    assert!(text.contains("[services.worker]\nrun = [\"worker\"]\n"), "{text}");
    assert_eq!(Services::default().to_toml(), "[services]\n");
}

#[test]
fn what_is_no_definition_is_refused() {
    let service = |more: &str| format!("[services.api]\nrun = [\"api\"]\n{more}");
    for (bad, word) in [
        ("[services.api]\n".to_owned(), "run"),
        ("[services.api]\nrun = \"api\"\n".to_owned(), "sequence"),
        ("[services.API]\nrun = [\"api\"]\n".to_owned(), "name for a service"),
        (format!("[services.{}]\nrun = [\"api\"]\n", "a".repeat(41)), "name for a service"),
        ("[services.\"../x\"]\nrun = [\"api\"]\n".to_owned(), "name for a service"),
        ("[service.api]\nrun = [\"api\"]\n".to_owned(), "unknown field"),
        (service("runs = 1"), "unknown field"),
        (service("stop = { sign = \"TERM\" }"), "unknown field"),
        (service("stop = { signal = \"STOP\" }"), "unknown variant"),
        (service("stop = { within = \"soon\" }"), "no span"),
        (service("stop = { within = \"-1s\" }"), "no span"),
        (service("limits = { memory = \"lots\" }"), "no size"),
        (service("limits = { files = -1 }"), "u64"),
        (service("restart = \"sometimes\""), "unknown variant"),
        (service("ready = {}"), "exactly one"),
        (service("ready = { after = \"1s\", tcp = \"127.0.0.1:1\" }"), "exactly one"),
        (service("ready = { after = \"1s\", within = \"1s\" }"), "never late"),
        (service("ready = { exec = \"true\" }"), "unknown field"),
        (service("user = \"-x\""), "no user"),
        (service("user = \"4294967295\""), "no user"),
        (service("user = \"0:4294967295\""), "no user"),
        (service("user = \"1:2:3\""), "no user"),
        (service("user = \"a:b\""), "no user"),
        (service("user = \"1x\""), "no user"),
        (service("user = \"\""), "no user"),
    ] {
        let error = Services::parse(&bad).expect_err(&bad);
        assert!(error.contains(word), "{bad}: {error}");
    }
}

fn api(change: impl FnOnce(&mut Service)) -> Services {
    let mut services = Services::parse("[services.api]\nrun = [\"bin/api\"]").unwrap();
    change(services.0.get_mut(&name("api")).unwrap());
    services
}

/// The one thing that is wrong.
fn wrong(change: impl FnOnce(&mut Service)) -> String {
    let sentences = api(change).check().expect_err("nothing was found");
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    let sentence = sentences.into_iter().next().unwrap();
    assert!(sentence.starts_with("[services.api] ") && sentence.ends_with('.'), "{sentence}");
    sentence
}

#[test]
fn paths_stay_in_the_tree() {
    for bad in ["../x", "a/../../x", "/srv", "", "..", "a\0b", &"a/".repeat(200)] {
        let sentence = wrong(|s| s.directory = bad.to_owned());
        assert!(sentence.contains("directory"), "{sentence}");
    }
    for bad in ["../x", "/bin/sh", "..", ".", "./", "./../x"] {
        let said = api(|s| s.run = vec![bad.to_owned()]).check();
        // `./` is the tree itself: no program, but that is found when it is started.
        assert!(said.is_err() || bad == "./", "{bad}");
    }
    for fine in ["./bin/api", "bin//api", "api", "..api"] {
        api(|s| s.run = vec![fine.to_owned()]).check().unwrap();
    }
    for fine in [".", "./", "data", "data/"] {
        api(|s| s.directory = fine.to_owned()).check().unwrap();
    }
}

#[test]
fn everything_is_bounded() {
    assert!(wrong(|s| s.run = Vec::new()).contains("no program"));
    assert!(wrong(|s| s.run = vec![String::new()]).contains("no program"));
    assert!(wrong(|s| s.run = vec!["x".to_owned(); 257]).contains("257 words"));
    assert!(wrong(|s| s.run.push("x".repeat(33 << 10))).contains("32 KiB"));
    assert!(wrong(|s| s.run.push("a\0b".to_owned())).contains("NUL"));
    let env = |s: &mut Service, n: usize, v: &str| {
        s.env = (0..n).map(|i| (format!("V{i}"), v.to_owned())).collect();
    };
    assert!(wrong(|s| env(s, 257, "")).contains("257 variables"));
    assert!(wrong(|s| env(s, 64, &"x".repeat(1_024))).contains("64 KiB"));
    assert!(wrong(|s| env(s, 1, "a\0b")).contains("NUL"));
    for bad in ["", "1A", "A=B", "A B", "Ä"] {
        assert!(wrong(|s| s.env = [(bad.into(), String::new())].into()).contains("no name"));
    }
    let own = "ALTHING_APP".to_owned();
    assert!(wrong(|s| s.env = [(own, String::new())].into()).contains("set by the member"));
    let hour = Duration::from_secs(3_601);
    assert!(wrong(|s| s.stop.within = hour).contains("10 minutes"));
    assert!(wrong(|s| s.ready = Ready::After(hour)).contains("an hour"));
    assert!(wrong(|s| s.limits.files = Some(1)).contains("limits.files"));
    assert!(wrong(|s| s.limits.memory = Some(1)).contains("limits.memory"));
    assert!(wrong(|s| s.limits.processes = Some(0)).contains("limits.processes"));
    let mut many = api(|_| {});
    for number in 0..SERVICES_MAX {
        many.0.insert(name(&format!("s{number}")), many.0[&name("api")].clone());
    }
    assert!(many.check().unwrap_err()[0].contains("65 services"));
}

#[test]
fn only_addresses_can_be_asked() {
    let tcp = |address: &str| {
        let within = Duration::from_secs(1);
        api(|s| s.ready = Ready::Tcp { address: address.to_owned(), within }).check()
    };
    for fine in ["127.0.0.1:80", "localhost:8080", "[::1]:80"] {
        tcp(fine).unwrap();
    }
    for bad in ["", "8080", "127.0.0.1", "example.org:80", "127.0.0.1:0", "127.0.0.1:99999"] {
        assert!(tcp(bad).is_err(), "{bad}");
    }
    let url = parse_url("http://localhost:8080/health?deep=1#x").unwrap();
    assert_eq!((url.host.as_str(), url.path.as_str()), ("localhost:8080", "/health?deep=1"));
    assert_eq!(parse_url("http://127.0.0.1").unwrap().address.port(), 80);
    assert_eq!(parse_url("http://[::1]?x").unwrap().path, "/?x");
    for bad in [
        "https://127.0.0.1/",
        "127.0.0.1",
        "http://",
        "http://x/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1:0/",
        "http://u@127.0.0.1/",
    ] {
        assert!(parse_url(bad).is_err(), "{bad}");
    }
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0u64..7_200).prop_map(Duration::from_secs),
        (0u64..9_999_999_999).prop_map(Duration::from_micros)
    ]
}

fn ready() -> impl Strategy<Value = Ready> {
    prop_oneof![
        span().prop_map(Ready::After),
        (".{0,30}", span()).prop_map(|(address, within)| Ready::Tcp { address, within }),
        (".{0,30}", span()).prop_map(|(url, within)| Ready::Http { url, within }),
    ]
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![
        "[a-z_][a-z0-9_.-]{0,31}".prop_map(User::Name),
        (0..u32::MAX, option::of(0..u32::MAX)).prop_map(|(uid, gid)| User::Id { uid, gid }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let number = || option::of(0u64..1 << 40);
    (number(), number(), number()).prop_map(|(files, memory, processes)| Limits {
        files,
        memory,
        processes,
    })
}

fn service() -> impl Strategy<Value = Service> {
    let signal = prop_oneof![Just(StopSignal::Term), Just(StopSignal::Usr1)];
    let stop = (signal, span()).prop_map(|(signal, within)| Stop { signal, within });
    let restart =
        prop_oneof![Just(Restart::Always), Just(Restart::OnFailure), Just(Restart::Never)];
    let run = collection::vec(any::<String>(), 0..4);
    let env = collection::btree_map(any::<String>(), any::<String>(), 0..4);
    let words = (run, ".{0,20}", option::of(user()), env);
    let requests = (any::<u32>(), any::<u32>(), span())
        .prop_map(|(at_once, queue, within)| Requests { at_once, queue, within });
    let asked = (span(), option::of(requests));
    (words, restart, stop, ready(), limits(), asked).prop_map(
        |((run, directory, user, env), restart, stop, ready, limits, asked)| Service {
            check: asked.0,
            requests: asked.1,
            secrets: BTreeSet::new(),
            run,
            directory,
            user,
            restart,
            env,
            stop,
            ready,
            limits,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read_back_equal(
        services in collection::btree_map("[a-z][a-z0-9]{0,9}", service(), 0..4),
    ) {
        let keyed = |(key, service): (String, Service)| (name(&key), service);
        let services = Services(services.into_iter().map(keyed).collect());
        let text = services.to_toml();
        prop_assert_eq!(Services::parse(&text).unwrap(), services.clone());
        prop_assert_eq!(Services::parse(&text).unwrap().to_toml(), text);
        // Whatever it is: a verdict, and no panic.
        let _ = services.check();
    }

    #[test]
    fn nonsense_is_refused_and_never_more(text in ".{0,200}") {
        let _ = Services::parse(&text).map(|services| services.check());
    }
}
