//! What manifests say, and what of one is wrong, and where.

use super::*;

mod places;

#[test]
fn a_manifest_says_how_an_application_is_held_and_served() {
    let text = r#"
        [application]
        name = "web"
        hosts = ["WWW.example.org"]
        path = "/srv/www"
        ignore = ["uploads/"]
    "#;
    let manifest = Manifest::parse(text).unwrap();
    let Resolved { app, spec, texts } =
        manifest.resolve(None, vec!["example.org".into()], false).unwrap();
    assert_eq!((app.as_str(), texts), ("web", vec![]));
    assert_eq!(spec.hosts, ["www.example.org", "example.org"]);
    assert_eq!(spec.path.as_deref(), Some("/srv/www"));
    assert!(!spec.default);
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let error = Manifest::parse("[application]\nhost = 3\n").unwrap_err();
    assert!(error.contains("line 2, column 1") && error.contains("host"), "{error}");
}

#[test]
fn services_become_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\n[services.api]\nrun = [\"bin/api\"]\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/services.toml");
    let services = Services::read(text.as_bytes()).unwrap();
    assert_eq!(services.0.values().next().unwrap().run, ["bin/api"]);

    let text = "[services.api]\nrun = [\"bin/api\"]\nrestrat = \"never\"\n";
    let error = Manifest::parse(text).unwrap_err();
    assert!(error.contains("line 3, column 1") && error.contains("restrat"), "{error}");
}

#[test]
fn hooks_become_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\n[hooks.before-switch]\nrun = [\"bin/check\"]\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/hooks.toml");
    let hooks = Hooks::read(text.as_bytes()).unwrap();
    assert_eq!(hooks.before_switch.unwrap().run, ["bin/check"]);
    assert_eq!(hooks.after_switch, None);

    for (text, place, word) in [
        ("[hooks.befor-switch]\nrun = [\"x\"]\n", "line 1, column 8", "befor-switch"),
        (
            "[hooks.after-switch]\nrun = [\"x\"]\n  timeout = \"3s\"\n",
            "line 3, column 3",
            "timeout",
        ),
        ("[hooks.after-switch]\nrun = [\"x\"]\nwithin = \"soon\"\n", "line 3, column 10", "soon"),
    ] {
        let error = Manifest::parse(text).unwrap_err();
        assert!(error.contains(place) && error.contains(word), "{error}");
    }
}

#[test]
fn listeners_become_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\n[services.db]\nrun = [\"bin/db\"]\n\
                [[listeners]]\nport = 5432\nservice = \"db\"\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [_, (path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/listeners.toml");
    assert_eq!(Listeners::read(text.as_bytes()).unwrap().0[0].port, 5432);

    let lost = "[application]\nname = \"a\"\n[[listeners]]\nport = 1\nservice = \"db\"\n";
    let refused = Manifest::parse(lost).unwrap().resolve(None, vec![], true).unwrap_err();
    assert!(refused.why.contains("[services.db]"), "{refused:?}");
}

#[test]
fn addresses_become_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\nvip = \"10.0.0.100/24\"\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/addresses.toml");
    let addresses = Addresses::read(text.as_bytes()).unwrap();
    assert_eq!(addresses.0, ["10.0.0.100/24".parse().unwrap()]);

    let error = Manifest::parse("[application]\nvip = [\"10.0.0.1/24\", \"10\"]\n").unwrap_err();
    assert!(error.contains("line 2, column") && error.contains("10.0.0.100/24"), "{error}");
}

#[test]
fn tls_becomes_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\n[tls]\ncertificate = \"web-cert\"\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/tls.toml");
    assert_eq!(Tls::read(text.as_bytes()).unwrap().certificate.as_str(), "web-cert");

    let error = Manifest::parse("[tls]\ncert = \"web-cert\"\n").unwrap_err();
    assert!(error.contains("line 2, column 1") && error.contains("cert"), "{error}");
}

#[test]
fn rules_become_a_definition_of_the_tree() {
    let text = "[application]\nname = \"a\"\n[rules]\nhot = \"when cpu > 90% then mail ops, run c\"\n\
                [script.c]\nrun = [\"bin/c\"]\n[mail.ops]\nto = [\"ops@example.org\"]\n\
                from = \"a@example.org\"\nserver = \"mail.example.org\"\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let [(path, text)] = resolved.texts.as_slice() else { panic!("{resolved:?}") };
    assert_eq!(path.as_bytes(), b".althing/rules.toml");
    let rules = Rules::read(text.as_bytes()).unwrap();
    assert_eq!(rules.parsed().len(), 1);
    assert_eq!((rules.mail.len(), rules.script.len()), (1, 1));

    let lost = "[application]\nname = \"a\"\n[rules]\nhot = \"when cpu > 90% then mail ops\"\n";
    let refused = Manifest::parse(lost).unwrap().resolve(None, vec![], true).unwrap_err();
    assert!(refused.why.contains("[mail.ops]"), "{refused:?}");
    let error = Manifest::parse("[rules]\nHot = \"x\"\n").unwrap_err();
    assert!(error.contains("line 2, column 1") && error.contains("lower-case"), "{error}");
}

#[test]
fn settings_become_a_definition_and_files() {
    let text = "[application]\nname = \"a\"\n[settings]\nport = 80\n[settings.db]\nhost = \"x\"\n\
                [[settings-file]]\npath = \"config/app.json\"\n\
                [[settings-file]]\npath = \"e\"\nformat = \"env\"\n";
    let resolved = Manifest::parse(text).unwrap().resolve(None, vec![], true).unwrap();
    let paths: Vec<String> = resolved.texts.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(paths, [".althing/settings.toml", "config/app.json", "e"]);
    let json: serde_json::Value = serde_json::from_str(&resolved.texts[1].1).unwrap();
    assert_eq!(json, serde_json::json!({ "port": 80, "db": { "host": "x" } }));
    for bad in ["path = \"x\"", "path = \"../x.json\"", "path = \".althing/x.json\""] {
        let text = format!("[application]\nname = \"a\"\n[[settings-file]]\n{bad}\n");
        let refused = Manifest::parse(&text).unwrap().resolve(None, vec![], true).unwrap_err();
        assert!(refused.why.contains("settings file"), "{refused:?}");
    }
}

#[test]
fn a_rollout_is_part_of_the_specification() {
    let rollout = |text: &str| {
        let text = format!("[application]\nname = \"a\"\n[rollout]\n{text}");
        Manifest::parse(&text).and_then(|manifest| {
            manifest.resolve(None, vec![], true).map(|r| r.spec.rollout).map_err(|r| r.why)
        })
    };
    assert_eq!(rollout(""), Ok(Rollout::default()));
    let all = "at_once = 2\npause = \"1.5s\"\non_failure = \"stop\"\n";
    let is = Rollout { at_once: Some(2), pause_ms: Some(1_500), stays: true };
    assert_eq!(rollout(all), Ok(is));
    for (text, word) in [
        ("at_once = 0", "at least 1"),
        ("pause = \"soon\"", "soon"),
        ("pause = \"2h\"", "hour"),
        ("on_failure = \"wait\"", "line 4, column 14"),
        ("once = 1", "once"),
    ] {
        assert!(rollout(text).unwrap_err().contains(word), "{text}: {:?}", rollout(text));
    }
}

#[test]
fn bad_values_are_refused() {
    let resolve = |text: &str| Manifest::parse(text).unwrap().resolve(None, vec![], true);
    for bad in [
        "",
        "[application]\nname = \"../x\"",
        "[application]\nname = \"a\"\npath = \"srv\"",
        "[application]\nname = \"a\"\npath = \"/srv/../etc\"",
        "[application]\nname = \"a\"\nhosts = [\"a b\"]",
        "[application]\nname = \"a\"\n[services.x]\nrun = [\"/bin/sh\"]",
        "[application]\nname = \"a\"\n[hooks.after-switch]\nrun = [\"/bin/sh\"]",
    ] {
        assert_eq!(resolve(bad).unwrap_err().reason, Reason::Invalid, "{bad}");
    }
    assert!(resolve("[application]\nname = \"a\"").unwrap().spec.default, "the first is default");
}
