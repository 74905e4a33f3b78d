use super::*;

const ALL: &str = r#"[rules]
evening = "when time 18:00-23:00 mon-fri America/New_York then in 2"
hot = "critical when cpu > 90% for 2m until < 75% for 1m then mail ops, webhook pager, run cleanup"

[mail.ops]
to = ["ops@example.org", "duty+night@example.org"]
from = "althing@example.org"
server = "mail.example.org:2525"
security = "tls"
user = "althing"
password = "smtp-password"

[webhook.pager]
url = "https://pager.example.org/hook?x=1"
sign = "pager-key"

[script.cleanup]
run = ["bin/cleanup", "--all"]
secrets = ["db-password"]
within = "5m"
"#;

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap()
}

fn wrong(text: &str) -> Vec<String> {
    rules(text).check().unwrap_err()
}

#[test]
fn what_is_written_is_read() {
    let all = Rules::read(ALL.as_bytes()).unwrap();
    assert_eq!(all.text().as_deref(), Some(ALL));
    assert_eq!(Rules::read(all.text().unwrap().as_bytes()).as_ref(), Ok(&all));
    assert_eq!(Rules::path().to_string(), ".althing/rules.toml");
    let parsed = all.parsed();
    let names: Vec<&str> = parsed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["evening", "hot"]);
    assert_eq!(parsed[0].1.then, [crate::proto::rule::Action::In(2)]);
    let secrets: Vec<_> = all.secrets().map(|(who, name)| format!("{who}: {name}")).collect();
    assert_eq!(secrets, ["mail ops: smtp-password", "webhook pager: pager-key"]);
}

#[test]
fn equal_rules_give_equal_texts() {
    let said = "[script.a]\nwithin = \"60s\"\nrun = [\"x\"]\ndirectory = \".\"\n\
                [mail.b]\nsecurity = \"starttls\"\nserver = \"m\"\nfrom = \"a@b.org\"\n\
                to = [\"c@d.org\"]\n[rules]\n";
    let text = rules(said).text().unwrap();
    assert_eq!(
        text,
        "[mail.b]\nto = [\"c@d.org\"]\nfrom = \"a@b.org\"\nserver = \"m\"\n\n\
         [script.a]\nrun = [\"x\"]\n"
    );
    assert_eq!(rules(&text), rules(said));
    for nothing in ["", "[rules]\n", "[mail]\n"] {
        assert_eq!(rules(nothing).text(), None, "{nothing}");
    }
}

#[test]
fn a_rule_that_is_none_is_shown_with_its_place() {
    assert_eq!(
        wrong("[rules]\nhot = \"when cpu > 90% for soon then log\"\n"),
        [
            "The rule hot is not understood:\nwhen cpu > 90% for soon then log\n                   ^\n\
          `soon` is no span of time: write 10s, 1.5s, 250ms, 2m or 1h."
        ]
    );
    // What parses is judged; the other is told of.
    let both = rules("[rules]\na = \"when\"\nb = \"when cpu > 1% then log\"\n");
    assert_eq!(both.parsed().len(), 1);
    assert_eq!(both.check().unwrap_err().len(), 1);
}

#[test]
fn a_name_that_stands_for_nothing_is_refused() {
    assert_eq!(
        wrong("[rules]\na = \"when cpu > 9% then mail ops, webhook p, run x, mail ops, log\"\n"),
        [
            "The rule a sends mail to ops, which is not defined: add [mail.ops], or correct the \
             name.",
            "The rule a calls webhook p, which is not defined: add [webhook.p], or correct the \
             name.",
            "The rule a runs x, which is not defined: add [script.x], or correct the name.",
            "The rule a sends mail to ops, which is not defined: add [mail.ops], or correct the \
             name.",
        ]
    );
}

#[test]
fn a_mail_that_would_reach_nobody_is_refused() {
    let with = |text: &str| format!("[mail.ops]\n{text}");
    let rest = "from = \"a@b.org\"\nserver = \"m.org\"\n";
    let to = "to = [\"ops@example.org\"]\n";
    for (text, says) in [
        (
            format!("to = []\n{rest}"),
            "[mail.ops] to names nobody: write addresses, as [\"ops@example.org\"].",
        ),
        (
            format!("to = [\"ops\"]\n{rest}"),
            "[mail.ops] to has \"ops\", which is no address, because it has no @: write it as \
             ops@example.org.",
        ),
        (
            format!("{to}from = \"x y@b.org\"\nserver = \"m.org\"\n"),
            "[mail.ops] from has \"x y@b.org\", which is no address, because what stands before \
             the @ is no name: write it as ops@example.org.",
        ),
        (
            format!("{to}from = \"a@b.org\"\nserver = \"m.org:0\"\n"),
            "[mail.ops] server = \"m.org:0\" is no server: write mail.example.org, or \
             mail.example.org:587.",
        ),
        (
            format!("{to}{rest}user = \"a\"\n"),
            "[mail.ops] user and password go together: give both, or none.",
        ),
        (
            format!("{to}{rest}user = \"a\\nb\"\npassword = \"p\"\n"),
            "[mail.ops] user has to be a name of 1 to 256 bytes on one line.",
        ),
        (
            format!("{to}{rest}security = \"none\"\nuser = \"a\"\npassword = \"p\"\n"),
            "[mail.ops] security = \"none\" would show the password to everybody on the way to \
             m.org: write \"starttls\" or \"tls\", or leave out user and password.",
        ),
    ] {
        assert_eq!(wrong(&with(&text)), [says], "{text}");
    }
    let many = vec!["\"a@b.org\""; TO_MAX + 1].join(", ");
    let many = wrong(&with(&format!("to = [{many}]\n{rest}")));
    assert_eq!(many, ["[mail.ops] to has more than 32 addresses: write that of a list."]);
    // On the machine itself nobody listens.
    for host in ["localhost", "127.0.0.1:25", "[::1]:25"] {
        let text = format!(
            "{to}from = \"a@b.org\"\nserver = \"{host}\"\nsecurity = \"none\"\nuser = \"a\"\n\
             password = \"p\"\n"
        );
        rules(&with(&text)).check().unwrap();
    }
    for bad in ["security = \"ssl\"\n", "port = 25\n", "password = \"P\"\n"] {
        assert!(Rules::parse(&with(&format!("{to}{rest}{bad}"))).is_err(), "{bad}");
    }
}

#[test]
fn addresses_are_plain_ones() {
    for good in ["a@b.org", "a.b+c@x-y.example.org", "root@localhost", "o'neil@b.org"] {
        assert_eq!(address_wrong(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "@",
        "a@",
        "@b.org",
        "a@b@c.org",
        "a b@c.org",
        "a@b.org\r\nBcc: x@y.org",
        "a@b..org",
        ".a@b.org",
        "a.@b.org",
        "a..b@c.org",
        "\"a b\"@c.org",
        "Ops <a@b.org>",
        "ä@b.org",
        "a@bä.org",
        "a@-b.org",
        "a@b.org,c@d.org",
        "a@[127.0.0.1]",
    ] {
        assert!(address_wrong(bad).is_err(), "{bad}");
    }
    let long = format!("{}@b.org", "a".repeat(65));
    assert!(address_wrong(&long).is_err());
}

#[test]
fn servers_are_taken_apart() {
    let of = |text| server_of(text, Security::Starttls);
    assert_eq!(of("Mail.example.org"), Some(("mail.example.org".to_owned(), 587)));
    assert_eq!(server_of("m", Security::Tls), Some(("m".to_owned(), 465)));
    assert_eq!(server_of("m", Security::None), Some(("m".to_owned(), 25)));
    assert_eq!(of("192.0.2.1:26"), Some(("192.0.2.1".to_owned(), 26)));
    assert_eq!(of("[2001:db8::1]"), Some(("2001:db8::1".to_owned(), 587)));
    assert_eq!(of("[2001:db8::1]:26"), Some(("2001:db8::1".to_owned(), 26)));
    for bad in ["", ":25", "a b", "m:", "m:+1", "m:65536", "2001:db8::1", "[m]", "[::1]25", "m/x"] {
        assert_eq!(of(bad), None, "{bad}");
    }
}

#[test]
fn a_webhook_leads_somewhere() {
    let of = |url: &str| wrong(&format!("[webhook.pager]\nurl = '{url}'\n"));
    assert_eq!(
        of("pager.example.org"),
        ["[webhook.pager] url = \"pager.example.org\" can't be asked, because it begins neither \
          with https:// nor with http://: write it as https://pager.example.org/hook."]
    );
    for (url, why) in [
        ("ftp://x/", "neither"),
        ("/hook", "neither"),
        ("https://", "it is no URL"),
        ("https://u:p@x.org/", "no secret"),
        ("https://x.org/#y", "never sent"),
        ("https://x.org/a b", "spaces"),
        ("https://ä.org/", "beyond ASCII"),
        ("https://x.org:0/", "its port is none"),
        ("https://x..org/", "no host"),
    ] {
        assert!(of(url)[0].contains(why), "{url}: {:?}", of(url));
    }
    assert!(of(&format!("https://x.org/{}", "a".repeat(2_048)))[0].contains("2 KiB"));
    for good in ["http://127.0.0.1:80/x?y=1", "https://[::1]:8443/", "https://x.org"] {
        assert_eq!(url_wrong(good), Ok(()), "{good}");
    }
}

#[test]
fn a_script_is_one_of_the_tree() {
    for (text, says) in [
        ("run = []", "[script.x] run names no program"),
        ("run = [\"/bin/sh\"]", "it is absolute"),
        ("run = [\"a\"]\ndirectory = \"..\"", "[script.x] directory"),
        ("run = [\"a\"]\nwithin = \"0s\"", "at most an hour"),
        ("run = [\"a\"]\nwithin = \"2h\"", "at most an hour"),
        ("run = [\"a\"]\nsecrets = [\"path\"]", "can't be given this secret"),
    ] {
        let wrong = wrong(&format!("[script.x]\n{text}\n"));
        assert!(wrong.len() == 1 && wrong[0].contains(says), "{text}: {wrong:?}");
    }
    assert!(Rules::parse("[script.x]\nrun = [\"a\"]\ntimeout = \"1m\"\n").is_err());
}

#[test]
fn there_are_bounds() {
    let many = |count: usize, line: &str| -> String {
        (0..count).map(|at| line.replace('@', &at.to_string())).collect()
    };
    let rule = "a@ = \"when cpu > 90% then log\"\n";
    rules(&format!("[rules]\n{}", many(RULES_MAX, rule))).check().unwrap();
    assert_eq!(
        wrong(&format!("[rules]\n{}", many(RULES_MAX + 1, rule))),
        ["More than 200 rules are defined: have fewer."]
    );
    let hook = "[webhook.a@]\nurl = \"https://x.org\"\n";
    rules(&many(KIND_MAX, hook)).check().unwrap();
    assert_eq!(
        wrong(&many(KIND_MAX + 1, hook)),
        ["More than 32 times [webhook.NAME] is defined: have fewer."]
    );
    for bad in ["[rules]\nA = \"x\"\n", "[rules]\na = 3\n", "[webhook.a_b]\nurl = \"x\"\n"] {
        assert!(Rules::parse(bad).is_err(), "{bad}");
    }
    let long = "a".repeat(65);
    assert!(Rules::parse(&format!("[rules]\n{long} = \"x\"\n")).is_err());
}
