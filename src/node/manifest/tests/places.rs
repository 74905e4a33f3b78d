//! Whatever is wrong with a manifest is told with its line and column: every check that there is,
//! of the manifest and of each definition.

use super::*;

/// `^` stands before what is wrong, once for each thing that is.
fn check(marked: &str, says: &[&str]) {
    let text = marked.replace('^', "");
    let mut expected = Vec::new();
    for (nth, (at, _)) in marked.match_indices('^').enumerate() {
        expected.push(line_and_column(&text, at - nth));
    }
    assert_eq!(expected.len(), says.len(), "{marked}");
    let refused = Manifest::parse(&text).map_or_else(
        |why| why,
        |manifest| manifest.resolve(Some(app()), vec![], true).expect_err(marked).why,
    );
    let found: Vec<&str> = refused.split("In althing.toml, ").skip(1).collect();
    assert_eq!(found.len(), says.len(), "{marked}: {refused}");
    for (((line, column), says), found) in expected.into_iter().zip(says).zip(found) {
        let place = format!("line {line}, column {column}: ");
        assert!(found.starts_with(&place) && found.contains(says), "{marked}: {refused}");
    }
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

#[test]
fn the_application() {
    check("[application]\nhosts = [\"a.b\", ^\"a b\"]", &["\"a b\" is no host name"]);
    check("[application]\nhosts = [\n  ^\"A:80\",\n  ^\"\",\n]", &["a:80", "\"\" is no host"]);
    check("[application]\npath = ^\"srv\"", &["not an absolute path"]);
    check("[application]\npath = ^'/srv/../etc'", &["not an absolute path"]);
    check("application.path = ^'/'", &["not an absolute path"]);
    check("application = { path = ^'x' }", &["not an absolute path"]);
    let hosts = repeated(limits::HOSTS_MAX + 1, |n| format!("'h{n}',"));
    check(&format!("[application]\nhosts = ^[{hosts}]"), &["more than 64 hosts"]);
    let ignore = repeated(limits::PATTERNS_MAX + 1, |n| format!("'i{n}',"));
    check(&format!("[application]\nignore = ^[{ignore}]"), &["256 ignore patterns"]);
    check("[application]\nplacement = ^\"role ==\"", &[""]);
    check("[application]\nvip = ^\"10.0.0.1\"", &["10.0.0.100/24"]);
    check("[application]\nvip = ['10.0.0.1/24', ^'10.0.0.1/16']", &["vip has 10.0.0.1 twice"]);
    let vip = repeated(limits::ADDRESSES_MAX + 1, |n| format!("'10.0.{n}.1/8',"));
    check(&format!("[application]\nvip = ^[{vip}]"), &["have fewer"]);
}

#[test]
fn its_name() {
    let why = |text: &str, app: Option<AppName>| {
        Manifest::parse(text).unwrap().resolve(app, vec![], true).map_err(|refusal| refusal.why)
    };
    assert!(why("[application]\nname = \"../x\"\n", Some(app())).is_ok(), "it is not asked for");
    let wrong = why("[application]\nname = \"../x\"\n", None).unwrap_err();
    assert!(wrong.starts_with("In althing.toml, line 2, column 8: "), "{wrong}");
    let missing = why("\n  [application]\n", None).unwrap_err();
    assert_eq!(missing, "In althing.toml, line 2, column 3: It has no name.");
    assert_eq!(why("[rollout]\n", None).unwrap_err(), "It has no name.");
}

#[test]
fn what_the_command_adds_stands_nowhere_in_the_manifest() {
    let mut manifest = Manifest::parse("[application]\nhosts = ['a.b']\npath = '/srv'\n").unwrap();
    manifest.put_at("relative".to_owned());
    let refused = manifest.resolve(Some(app()), vec!["a b".to_owned()], true).unwrap_err();
    let expected = "\"a b\" is no host name.\n\
                    path = \"relative\" is not an absolute path below the root.";
    assert_eq!(refused.why, expected);
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_in_its_order() {
    check(
        "[tls]\ncertificate = 'c'\nport = ^0\nredirect = true\n[rollout]\nat_once = ^0\n\
         [application]\nhosts = [^'a b']\n",
        &["port = 0", "at_once", "no host name"],
    );
    let routes = repeated(30, |_| "[[routes]]\npath = 'x'\nservice = 's'\n".to_owned());
    let manifest = Manifest::parse(&format!("[services.s]\nrun = ['x']\n{routes}")).unwrap();
    let refused = manifest.resolve(Some(app()), vec![], true).unwrap_err();
    assert_eq!(refused.why.lines().count(), FAULTS_SHOWN + 1, "{refused}");
    assert!(refused.why.ends_with("39 more things are wrong."), "{refused}");
}

#[test]
fn services_hooks_and_scripts() {
    for kind in ["services.x", "hooks.after-switch", "script.x"] {
        let one = |body: &str, says: &str| {
            check(&format!("[{kind}]\n{body}"), &[says]);
        };
        one("run = ^[]", "run names no program");
        one("run = ^['']", "run names no program");
        one("run = [ ^'/bin/sh', 'x']", "it is absolute");
        one("run = [^'..']", "it is a directory");
        one("run = [^'../x']", "no program of the application's tree");
        one("run = ^['x', \"a\\u0000\"]", "NUL byte");
        one(&format!("run = ^[{}]", "'x',".repeat(257)), "257 words");
        one(&format!("run = ^['x', '{}']", "x".repeat(33 << 10)), "longer than 32 KiB");
        one("run = ['x']\ndirectory = ^'/'", "does not stay");
        one("run = ['x']\nenv = { ^1a = '' }", "which is no name");
        one("run = ['x']\nenv.^ALTHING_X = 'x'", "set by the member");
        one("run = ['x']\nenv.A = ^\"\\u0000\"", "NUL byte");
        let many = repeated(257, |n| format!("A{n}='',"));
        one(&format!("run = ['x']\nenv = ^{{{}}}", many.trim_end_matches(',')), "257 variables");
        one(
            &format!("run = ['x']\nenv = ^{{A='{}'}}", "x".repeat(60_000) + &"y".repeat(6_000)),
            "",
        );
        one("run = ['x']\nsecrets = ['a', ^'db']\nenv = { DB = 'x' }", "env sets DB");
        one("run = ['x']\nsecrets = [^'althing-x']", "can't be given this secret");
        one("run = ['x']\nlimits.files = ^1", "limits.files");
        one("run = ['x']\nlimits.memory = ^'1KiB'", "limits.memory");
        one("run = ['x']\nlimits = { files = 100, processes = ^0 }", "limits.processes");
        one("run = ^3", "");
    }
    for kind in ["hooks.before-switch", "script.x"] {
        check(&format!("[{kind}]\nrun = ['x']\nwithin = ^'0s'"), &["more than nothing"]);
        check(&format!("[{kind}]\nrun = ['x']\nwithin = ^'2h'"), &["within has to be"]);
    }
}

#[test]
fn what_the_parser_finds() {
    check("[application]\n^host = 3", &["unknown field"]);
    check("[application]\nname = ^3", &["expected a string"]);
    check("^[services.x]\nuser = 'a'", &["missing field `run`"]);
    check("^[tls]\nredirect = true", &["missing field `certificate`"]);
    check("^[mail.ops]\nfrom = 'a@b'\nserver = 'b'", &["missing field `to`"]);
    check("[[routes]]\npath = '/'\nservice = 'a'\n^[[routes]]\npath = '/x'", &["`service`"]);
    check("[application]\nname = 'a'\n^name = 'b'", &["duplicate key"]);
    check("[settings]\na = 1\nb = ^1979-05-27", &[""]);
    check("[application^\nname = 3", &[""]);
}

#[test]
fn services_alone() {
    let one = |body: &str, says: &str| {
        check(&format!("[services.x]\nrun = ['x']\n{body}"), &[says]);
    };
    one("stop.within = ^'20m'", "stop.within is longer");
    one("check = ^'10ms'", "check has to be from 100 ms");
    one("requests = { at_once = ^0 }", "requests.at_once");
    one("requests = { at_once = 1, queue = ^70000 }", "requests.queue");
    one("requests = { at_once = 1, within = ^'6m' }", "requests.within");
    one("ready = { tcp = ^'example.org:80' }", "ready.tcp");
    one("[services.x.ready]\nhttp = ^'ftp://x'", "ready.http");
    one("ready.after = ^'2h'", "waits longer than an hour");
    one("ready = { tcp = '127.0.0.1:80', within = ^'2h' }", "waits longer than an hour");
    one("ready = ^{ tcp = '127.0.0.1:$PORT' }", "neither route nor listener");
    let many = repeated(65, |n| format!("[services.s{n}]\nrun = ['x']\n"));
    let many = many.replacen("services", "^services", 1);
    check(&many, &["65 services"]);
}

#[test]
fn routes_and_listeners() {
    let service = "[services.s]\nrun = ['x']\n";
    let one = |body: &str, says: &[&str]| check(&format!("{service}{body}"), says);
    one("[[routes]]\npath = ^'x'\nservice = 's'", &["does not begin with a slash"]);
    let two = "[[routes]]\npath = '/x'\nservice = 's'\n[[routes]]\npath = ^'/x'\nservice = 's'";
    one(two, &["is there twice"]);
    one("[[routes]]\npath = '/x'\nservice = 's'\nwithin = ^'0s'", &["more than no time"]);
    one("[[routes]]\npath = '/x'\nservice = ^'t'", &["[services.t]"]);
    let prefer = "{ from = ['MX'], members = 'zone == a' },".repeat(17);
    let many = format!("[[routes]]\npath = '/x'\nservice = 's'\nprefer = ^[{prefer}]");
    one(&many, &["more than 16 ways"]);
    let many = repeated(64, |n| format!("[[routes]]\npath = '/{n}'\nservice = 's'\n"));
    one(&format!("{many}^[[routes]]\npath = '/x'\nservice = 's'"), &["More than 64 routes"]);

    let one = |body: &str, says: &[&str]| check(&format!("{service}[[listeners]]\n{body}"), says);
    one("port = ^0\nservice = 's'", &["names no port"]);
    one("port = 1\nservice = ^'s'\nprotocol = 'http'", &["speaks HTTP"]);
    one("port = 1\nservice = ^'t'", &["[services.t]"]);
    one("port = 1\nprotocol = 'http'\nproxy = ^'v2'", &["X-Forwarded-For"]);
    one("port = 1\nprotocol = 'http'\nidle = ^'1s'", &["closed after 60 s"]);
    one("port = 1\nservice = 's'\naddress = ^'224.0.0.1'", &["no server has"]);
    let networks = "'10.0.0.0/8',".repeat(65);
    one(&format!("port = 1\nservice = 's'\naccept_proxy = ^[{networks}]"), &["64 networks"]);
    one("port = 1\nservice = 's'\nidle = ^'0s'", &["at most a week"]);
    one("port = 1\nservice = 's'\nconnections = ^0", &["at least one connection"]);
    one("port = 1\nservice = 's'\n[[listeners]]\nport = ^1\nservice = 's'", &["is there twice"]);
    // What is missing is missing in a table.
    check("^[[listeners]]\nport = 1", &["leads to no service"]);
    let many = repeated(32, |n| format!("port = {}\nservice = 's'\n[[listeners]]\n", n + 1));
    let last = many.rfind("[[listeners]]").unwrap();
    let many = format!("{}^{}port = 99\nservice = 's'\n", &many[..last], &many[last..]);
    one(&many, &["More than 32 listeners"]);
}

#[test]
fn tls_and_rollouts() {
    check("[tls]\ncertificate = 'c'\nport = ^8443", &["where `redirect` leads"]);
    check("[tls]\ncertificate = ^'A b'", &[""]);
    check("[rollout]\nat_once = ^0", &["at least 1"]);
    check("[rollout]\n  pause =  ^'soon'", &["soon"]);
    check("rollout = { pause = ^'2h' }", &["longer than an hour"]);
    check("[rollout]\non_failure = ^'wait'", &[""]);
}

#[test]
fn settings_and_their_files() {
    check("[settings]\na = 1\n[settings.b]\nc = ^nan", &["no finite number"]);
    check("[settings]\na = ^\"\\u0000\"", &["NUL byte"]);
    check("[settings]\n^path = 'x'", &["PATH, which the member sets itself"]);
    check("[settings]\na-b = 1\n^a_b = 2", &["rename one"]);
    check(&format!("[settings]\na = ^'{}'", "x".repeat(17 << 10)), &["longer than 16 KiB"]);
    let many = repeated(5, |n| format!("k{n} = '{}'\n", "x".repeat(15 << 10)));
    check(&format!("^[settings]\n{many}"), &["larger than 64 KiB"]);
    let many = repeated(1_001, |n| format!("k{n} = 1\n"));
    check(&format!("^[settings]\n{many}"), &["1001 keys"]);

    let file = |body: &str, says: &str| check(&format!("[[settings-file]]\n{body}"), &[says]);
    file("path = ^'../x.json'", "settings file");
    file("path = ^'.althing/x.json'", "Althing's own");
    file("path = ^'x'", "tells no format");
    file("path = 'x.json'\n[[settings-file]]\npath = ^'x.json'", "named twice");
    check("settings.a = ' x'\nsettings-file = [{ path = ^'x.ini' }]", &["INI file"]);
    let many = repeated(32, |n| format!("[[settings-file]]\npath = '{n}.json'\n"));
    let many = format!("{many}^[[settings-file]]\npath = 'x.json'");
    check(&many, &["more than 32 settings files"]);
}

#[test]
fn rules_and_whom_they_tell() {
    check("[rules]\nhot = \"when cpu > 90% for ^soon then log\"", &["soon"]);
    check("[rules]\nhot = '''\nwhen cpu\n  > ^x then log'''", &[""]);
    check("[rules]\nhot = \"when \\t cpu > ^x then log\"", &[""]);
    let lost = "[rules]\nhot = ^^'when cpu > 9% then mail ops, webhook w'\n";
    check(lost, &["[mail.ops]", "[webhook.w]"]);
    check("[rules]\nhot = ^'when cpu > 9% then run c'", &["[script.c]"]);
    let many = repeated(201, |n| format!("r{n} = 'when cpu > 9% then log'\n"));
    check(&format!("^[rules]\n{many}"), &["More than 200 rules"]);
    let many = repeated(33, |n| format!("[webhook.w{n}]\nurl = 'https://x/'\n"));
    check(&many.replacen("webhook", "^webhook", 1), &["More than 32 times [webhook.NAME]"]);

    let rest = "from = 'a@b'\nserver = 'b'";
    let mail = |body: &str, says: &[&str]| check(&format!("[mail.ops]\n{body}"), says);
    mail(&format!("to = ^[]\n{rest}"), &["to names nobody"]);
    mail(&format!("to = ['a@b', ^'b']\n{rest}"), &["it has no @"]);
    let many = "'a@b',".repeat(33);
    mail(&format!("to = ^[{many}]\n{rest}"), &["more than 32 addresses"]);
    mail("to = ['a@b']\nfrom = ^'x'\nserver = 'b'", &["from has"]);
    mail("to = ['a@b']\nfrom = 'a@b'\nserver = ^':1'", &["is no server"]);
    let rest = format!("to = ['a@b']\n{rest}");
    mail(&format!("{rest}\nuser = ^'x'"), &["go together"]);
    mail(&format!("{rest}\npassword = ^'x'"), &["go together"]);
    mail(&format!("{rest}\nuser = ^''\npassword = 'x'"), &["user has to be a name"]);
    let open = "user = 'x'\npassword = 'x'\nsecurity = ^'none'";
    mail(&format!("{rest}\n{open}"), &["would show the password"]);
    check("[webhook.w]\nurl = ^'pager'", &["begins neither with"]);
}

#[test]
fn a_place_is_found_however_the_manifest_is_written() {
    let wrong = |at: &[&str]| Wrong::new(at.iter().copied(), "");
    for (marked, at) in [
        ("^[services.x]\nrun = ['x']", &["services", "x"][..]),
        ("[^services.x]\nrun = ['x']", &["services"]),
        ("services = ^{ x = { run = ['x'] } }", &["services"]),
        ("services = { x = ^{ run = ['x'] } }", &["services", "x", "user"]),
        ("^services.x.run = ['x']", &["services"]),
        (
            "[[routes]]\npath = '/'\nservice = 's'\n^[[routes]]\npath = '/'\nservice = 's'",
            &["routes", "1", "x"],
        ),
        ("^[[routes]]\npath = '/'\nservice = 's'", &["routes", "7"]),
        ("[services.'x']\nrun = ['b', ^'0']", &["services", "x", "run", "0"]),
        ("[application]\nvip = ^'10.0.0.1/8'", &["application", "vip", "0"]),
    ] {
        let manifest = Manifest::parse(&marked.replace('^', "")).unwrap();
        assert_eq!(manifest.place(&wrong(at)), marked.find('^'), "{marked}");
    }
    let manifest = Manifest::parse("[rollout]\n").unwrap();
    assert_eq!(manifest.place(&wrong(&["services", "x"])), None);
    assert_eq!(manifest.place(&wrong(&[])), None);
    assert_eq!(Manifest::default().place(&wrong(&["services"])), None);
}
