use super::{up::Listen, *};
use crate::base::Network;

#[test]
fn networks_are_given_one_by_one_or_as_a_list() {
    let args = Args::try_parse_from([
        "althing",
        "up",
        "--trusted-proxy",
        "10.0.0.0/8,192.0.2.1",
        "--trusted-proxy=fd00::/8",
        "--accept-proxy",
        "127.0.0.1",
    ]);
    let Action::Up(up) = args.unwrap().action else { panic!("not up") };
    let shown: Vec<String> = up.trusted_proxy.iter().map(Network::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
    assert_eq!((up.accept_proxy.len(), up.access_log), (1, None));
    for wrong in ["10.0.0.1/8", "proxy.example", ""] {
        let args = Args::try_parse_from(["althing", "up", "--trusted-proxy", wrong]);
        assert!(args.is_err(), "{wrong}");
    }
}

#[test]
fn options_of_up_have_the_documented_defaults() {
    let args = Args::try_parse_from(["althing", "up"]).unwrap();
    let Action::Up(up) = args.action else { panic!("not up") };
    assert_eq!(up.bind, "0.0.0.0:7700".parse().unwrap());
    assert_eq!(up.listen, Listen(Some("0.0.0.0:8080".parse().unwrap())));
    assert_eq!(up.status, Listen(Some("127.0.0.1:7780".parse().unwrap())));
    assert!(up.join.is_empty() && !up.standby && up.advertise.is_none());
}

#[test]
fn every_form_in_the_examples_parses() {
    for line in [
        "althing up --join a --join b:1 --token-file f --standby --listen none",
        "althing invite --uses 10 --valid 1d",
        "althing invites --json",
        "althing invites withdraw 3F9c2a71",
        "althing invites withdraw --all",
        "althing publish ./public --app web -m x --host a --host b --base 12",
        "althing window",
        "althing window open --app web --app blog --failover manual --json",
        "althing window takeover --data /x",
        "althing window open --automatic --app web",
        "althing failover set alpha beta",
        "althing failover manual",
        "althing rollback web 12",
        "althing rollback web",
        "althing resolve web --member alpha",
        "althing policy vote committed",
        "althing policy remove-after 7d",
        "althing policy remove-after never",
        "althing events --follow --kind user --kind vote",
        "althing events --all --since 7d --severity warning --about beta --app web",
        "althing metrics cpu requests* --each --since 1d --step 1h --percentiles",
        "althing top --every 5s --once --json",
        "althing levels",
        "althing levels --at 2026-12-24T18:00 --zone America/New_York --for 2d --app shop",
        "althing why server3 --since 2h",
        "althing tags",
        "althing operator add alice --expires 30d",
        "althing operator list --via 127.0.0.1:7780 --operator-token-file f",
        "althing --via server1 resolve web --member alpha",
        "althing status --via https://server1:7780 --ca ca.pem",
        "althing up --status 0.0.0.0:7780 --status-cert cert.pem --status-key key.pem",
        "althing tags set role=web zone=a=b",
        "althing tags beta unset role zone",
        "althing up --tag role=web --tag zone=",
        "althing event deploy v42",
        "althing query ping --timeout 2s",
        "althing export haproxy --out f --check x --reload y --follow --listen :8080",
        "althing export nginx --fragment --http-port 8081 --json",
        "althing recover --keep a --keep b --yes",
        "althing recover --rejoin",
        "althing demo --exit --json --members 7 --site .",
        "althing sim",
        "althing sim --members 10,100,1000 --plot sizes.svg --json --seed 7",
        "althing sim --members 20 --loss 5% --latency 1ms..20ms --crash 30s,10s --pause 5s",
        "althing sim --script f --story --time 10m --slow 2 --bad-disks --clock-skew",
    ] {
        Args::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "althing",
        "althing publish",
        "althing publish x --app ../x",
        "althing failover set",
        "althing demo --members 2",
        "althing invite --valid soon",
        "althing invites withdraw",
        "althing invites withdraw 3f9",
        "althing invites withdraw althing-3f9c",
        "althing invites withdraw 3f9c --all",
        "althing up --listen 8080",
        "althing up --token t --token-file f",
        "althing sim --members 1",
        "althing sim --members 5,20000",
        "althing sim --loss 5",
        "althing sim --latency 20ms..1ms",
        "althing sim --crash often",
        "althing sim --time 10ms",
        "althing recover --rejoin --keep a",
        "althing tags set",
        "althing operator add",
        "althing operator add a/b",
        "althing tags set role",
        "althing up --tag =x",
        "althing events --kind x",
        "althing events --all --member beta",
        "althing metrics --since 1h",
        "althing levels --for soon",
        "althing levels 18:00",
        "althing export",
        "althing export haproxy --fragment",
        "althing export nginx --reload x",
        "althing export nginx --http-port 0",
        "althing export nginx --listen 80",
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}
