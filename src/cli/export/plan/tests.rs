use std::collections::BTreeMap;

use super::*;
use crate::member::view::{Health, PolicyView};

fn member(name: &str, last: u8, state: &str, service: &str) -> MemberView {
    MemberView {
        name: name.to_owned(),
        id: String::new(),
        address: format!("10.0.0.{last}:7700"),
        state: state.to_owned(),
        reached: true,
        unreached: None,
        round_trip_us: None,
        place: None,
        state_for_ms: 0,
        me: last == 1,
        voter: true,
        standby: service == "standby",
        waits: false,
        tags: BTreeMap::new(),
        capacity: 2,
        coordinator: false,
        sequence: None,
        service: service.to_owned(),
    }
}

fn app(
    name: &str,
    hosts: &[&str],
    default: bool,
    positions: &[(&str, &str, u64)],
) -> ApplicationView {
    let position = |(member, position, version): &(&str, &str, u64)| PositionView {
        member: (*member).to_owned(),
        position: (*position).to_owned(),
        root: None,
        version: Some(*version),
        voter: true,
        trouble: None,
        rollout: None,
        rollout_failure: None,
    };
    ApplicationView {
        name: name.to_owned(),
        version: 7,
        root: String::new(),
        files: 1,
        bytes: 1,
        hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
        default,
        path: None,
        placement: None,
        vote: "unanimous".to_owned(),
        ballots: 1,
        electorate: 1,
        positions: positions.iter().map(position).collect(),
        work: None,
        error: None,
        versions: Vec::new(),
    }
}

fn view(members: Vec<MemberView>, applications: Vec<ApplicationView>) -> View {
    View {
        addresses: Vec::new(),
        althing: String::new(),
        me: String::new(),
        cluster: String::new(),
        sequence: 1,
        voters: 1,
        majority: 1,
        voters_live: 1,
        health: Health::Ok,
        reasons: Vec::new(),
        members,
        applications,
        window: None,
        outcomes: Vec::new(),
        policy: PolicyView {
            failover: "auto".to_owned(),
            vote: "majority".to_owned(),
            remove_after_s: None,
        },
        silences: vec![],
        operators: vec![],
        invites: vec![],
    }
}

fn everybody() -> Vec<MemberView> {
    let mut six = member("six", 6, "alive", "in service");
    six.address = "[fd00::6]:7700".to_owned();
    six.tags.insert(TAG.to_owned(), "8081".to_owned());
    vec![
        member("one", 1, "alive", "in service"),
        member("two", 2, "suspect", "unknown"),
        member("three", 3, "down", "out"),
        member("four", 4, "alive", "receiving"),
        member("five", 5, "alive", "standby"),
        six,
    ]
}

const ALL_AGREE: [(&str, &str, u64); 6] = [
    ("one", "agrees", 7),
    ("two", "silent", 7),
    ("three", "silent", 7),
    ("four", "late", 0),
    ("five", "agrees", 7),
    ("six", "late", 6),
];

/// Everything that the formats tell apart.
pub(in super::super) fn sample() -> Plan {
    let elsewhere = [("one", "elsewhere", 7), ("three", "silent", 7), ("four", "nothing", 7)];
    let applications = vec![
        app("blog", &["blog.example.org"], false, &elsewhere),
        app("home", &["www.example.org", "example.org"], true, &ALL_AGREE),
        app("nowhere", &["nowhere.example.org"], false, &[("one", "elsewhere", 7)]),
        app("quiet", &[], false, &ALL_AGREE[..1]),
        app("shop", &["shop.example.org", "www.example.org", "a\nb"], false, &ALL_AGREE),
    ];
    Plan::of(&view(everybody(), applications), ":80".parse().unwrap(), 8080)
}

fn states(app: &Application) -> Vec<(&str, State, bool)> {
    app.members.iter().map(|m| (m.name.as_str(), m.state, m.active)).collect()
}

#[test]
fn who_holds_it_is_given_requests() {
    let plan = sample();
    let names: Vec<&str> = plan.applications.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["blog", "nowhere", "quiet", "shop", "home"]);
    assert_eq!(plan.default().unwrap().name.as_str(), "home");
    let shop = &plan.applications[3];
    let found = [
        ("five", State::Standby, false),
        ("four", State::Receiving, false),
        ("one", State::InService, true),
        ("six", State::InService, true),
        ("three", State::Down, false),
        ("two", State::InService, true),
    ];
    assert_eq!(states(shop), found);
    assert_eq!(shop.members[3].address, "[fd00::6]:8081".parse().unwrap());
    // Nobody is in service: all are tried. Nobody is to hold it: nobody is.
    let found = [("four", State::Receiving, true), ("three", State::Down, true)];
    assert_eq!(states(&plan.applications[0]), found);
    assert!(plan.applications[0].last_resort && !plan.applications[1].last_resort);
    assert!(plan.applications[1].members.is_empty());
}

#[test]
fn a_host_name_belongs_to_one_and_nonsense_to_nobody() {
    let plan = sample();
    let hosts = |n: usize| plan.applications[n].hosts.iter().map(Host::as_str).collect::<Vec<_>>();
    assert_eq!(hosts(3), ["shop.example.org"]);
    assert_eq!(hosts(4), ["example.org", "www.example.org"]);
    assert_eq!(plan.left_out.len(), 2, "{:?}", plan.left_out);
    assert!(plan.left_out.iter().all(|sentence| !sentence.contains('\n')));
    for bad in [
        "", ".", "a..b", ".a", "a b", "a;b", "a\n", "a{", "*.a", "~a", "a\"", "a#", "ä", "%", "a:1",
    ] {
        assert_eq!(Host::parse(bad), None, "{bad:?}");
    }
    assert_eq!(Host::parse("WWW.Example.org").unwrap().as_str(), "www.example.org");
}

#[test]
fn the_order_of_the_roster_does_not_matter() {
    let mut turned = everybody();
    turned.reverse();
    let of = |members| {
        let applications = vec![app("shop", &["b", "a"], false, &ALL_AGREE)];
        Plan::of(&view(members, applications), ":80".parse().unwrap(), 8080)
    };
    assert_eq!(of(everybody()), of(turned));
    // The only one there is answers for every name, as in the gateway.
    assert!(of(everybody()).applications[0].default);
}

#[test]
fn a_tag_says_where_a_member_serves() {
    let mut one = member("one", 1, "alive", "in service");
    let mut at = |tag: &str| {
        one.tags.insert(TAG.to_owned(), tag.to_owned());
        address_of(&one, 8080).map(|a| a.to_string())
    };
    assert_eq!(at("8081").as_deref(), Ok("10.0.0.1:8081"));
    assert_eq!(at("192.0.2.1").as_deref(), Ok("192.0.2.1:8080"));
    assert_eq!(at("fd00::1").as_deref(), Ok("[fd00::1]:8080"));
    assert_eq!(at("[fd00::1]:81").as_deref(), Ok("[fd00::1]:81"));
    for bad in ["", "x", "0", "0.0.0.0", "10.0.0.1:99999", "10.0.0.1;", "host:80"] {
        assert!(at(bad).is_err(), "{bad:?}");
    }
    one.tags.clear();
    one.address = "0.0.0.0:7700".to_owned();
    assert!(address_of(&one, 8080).is_err());
}

#[test]
fn names_that_are_none_are_left_out() {
    let mut members = vec![member("one", 1, "alive", "in service")];
    members.push(member("x\n    bind :1", 2, "alive", "in service"));
    let positions = [("one", "agrees", 7), ("x\n    bind :1", "agrees", 7)];
    let applications = vec![app("shop", &[], true, &positions), app("a; b", &[], false, &[])];
    let plan = Plan::of(&view(members, applications), ":80".parse().unwrap(), 8080);
    assert_eq!(states(&plan.applications[0]), [("one", State::InService, true)]);
    assert_eq!((plan.applications.len(), plan.left_out.len()), (1, 2));
}

#[test]
fn members_are_weighed_where_they_differ() {
    let weights = |capacities: [u16; 3]| {
        let names = ["one", "two", "three"];
        let members = names.iter().zip(capacities).zip(1..).map(|((name, capacity), last)| {
            MemberView { capacity, ..member(name, last, "alive", "in service") }
        });
        let positions = names.map(|name| (name, "agrees", 7));
        let view = view(members.collect(), vec![app("web", &[], true, &positions)]);
        let plan = Plan::of(&view, ":80".parse().unwrap(), 8080);
        let servers = plan.applications[0].members.iter();
        servers.map(|m| (m.name.to_string(), m.weight)).collect::<BTreeMap<_, _>>()
    };
    let is = |one, two, three| {
        [("one", one), ("two", two), ("three", three)].map(|(n, w)| (n.to_owned(), w)).into()
    };
    assert_eq!(weights([4, 4, 4]), is(1, 1, 1));
    assert_eq!(weights([4, 8, 0]), is(4, 8, 1), "one of an older release says nothing");
    assert_eq!(weights([1, 500, 1_000]), is(1, 128, 256));
}
