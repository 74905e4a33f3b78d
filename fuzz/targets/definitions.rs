//! What people write and a version brings along: the manifest, and what a driver reads of
//! addresses, hooks, routes, listeners, rules, settings and secrets.

use althing::{
    driver::{
        Definition,
        addresses::Addresses,
        hooks::Hooks,
        listeners::Listeners,
        routes::Routes,
        secrets::Sealed,
        settings::{Format, Settings},
    },
    node::manifest::Manifest,
    proto::rule::parse,
};

use super::sample::{app, key};

pub(super) fn manifest(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        let _ = manifest.resolve(Some(app()), vec!["a.example".to_owned()], true);
    }
}

pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    let text = "[application]\nname = \"web\"\nhosts = [\"www.example.org\"]\ndefault = true\n\
                path = \"/srv/www\"\nignore = [\"*.log\"]\nindex = \"index.html\"\n\
                not_found = \"404.html\"\n";
    vec![text.as_bytes().to_vec(), b"[application\nname = 3".to_vec()]
}

/// Virtual addresses, as they come with a version.
pub(super) fn addresses(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(addresses) = Addresses::parse(text) else { return };
    let fine = addresses.check().is_ok();
    assert_eq!(Addresses::read(bytes).is_ok(), fine);
    let Some(canonical) = addresses.text() else { return };
    let again = Addresses::parse(&canonical).expect("what was read can be written");
    assert_eq!(again.check().is_ok(), fine);
    assert_eq!(again.text(), Some(canonical));
}

pub(super) fn addresses_seeds() -> Vec<Vec<u8>> {
    let all = ["vip = \"10.0.0.100/24\"\n", "vip = [\"fd00::5/64\", \"10.0.0.100/24\"]\n"];
    all.map(|text| text.as_bytes().to_vec()).into()
}

/// Hooks, as they come with a version.
pub(super) fn hooks(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(hooks) = Hooks::parse(text) else { return };
    let fine = hooks.check().is_ok();
    assert_eq!(Hooks::read(bytes).is_ok(), fine);
    let Some(canonical) = hooks.text() else { return };
    let again = Hooks::parse(&canonical).expect("what was read can be written");
    assert_eq!((&again, again.check().is_ok()), (&hooks, fine));
    assert_eq!(again.text(), Some(canonical));
}

pub(super) fn hooks_seeds() -> Vec<Vec<u8>> {
    let written = "[hooks.before-switch]\nrun = [\"sh\", \"-c\", 'nginx -t -c \"$ALTHING_NEXT/nginx.conf\"']\n\
                   within = \"90s\"\nuser = \"www-data\"\nsecrets = [\"db-password\"]\n\
                   env = { A = \"b\" }\nlimits = { memory = \"512MB\" }\n\n\
                   [hooks.after-switch]\nrun = [\"bin/reload\"]\ndirectory = \"conf\"\n";
    let hooks = Hooks::parse(written).expect("it is well written");
    let canonical = hooks.text().expect("there are some");
    let wrong = b"[hooks.before-switch]\nrun = []\nwithin = \"1h\"\n".to_vec();
    vec![written.as_bytes().to_vec(), canonical.into_bytes(), wrong]
}

/// Routes as they come with a version; and paths that they are asked for.
pub(super) fn routes(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (text, asked) = text.split_once('\0').unwrap_or((text, "/api/x%2f/.."));
    let Ok(routes) = Routes::parse(text) else { return };
    let fine = routes.check().is_ok();
    if let Some(canonical) = routes.text() {
        let again = Routes::parse(&canonical).expect("what was read can be written");
        assert_eq!(again.check().is_ok(), fine);
        assert_eq!(again.text(), Some(canonical));
    }
    if let Some(route) = routes.find(asked).filter(|_| fine) {
        assert!(route.rewritten(asked).starts_with('/'));
    }
}

pub(super) fn routes_seeds() -> Vec<Vec<u8>> {
    let written = "[[routes]]\npath = \"/\"\nservice = \"web\"\n[[routes]]\npath = \"/api/v2\"\n\
                   service = \"api\"\nstrip = true\nwithin = \"5m\"\nbody_max = \"10MB\"\naffinity = \"cookie sid\"\n";
    let asked = format!("{written}\0/%61pi/v2//x/../y");
    let wrong = b"[[routes]]\npath = \"api/..\"\nservice = \"x\"\nwithin = \"0s\"\n".to_vec();
    vec![written.as_bytes().to_vec(), asked.into_bytes(), wrong]
}

pub(super) fn listeners(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(listeners) = Listeners::parse(text) else { return };
    let fine = listeners.check().is_ok();
    let Some(canonical) = listeners.text() else { return };
    let again = Listeners::parse(&canonical).expect("what was read can be written");
    assert_eq!(again.text(), Some(canonical));
    if fine {
        assert!(again.check().is_ok());
        assert_eq!(again.served(), listeners.served());
        assert!(listeners.clash(&again).is_some(), "each is in its own way");
    }
}

pub(super) fn listeners_seeds() -> Vec<Vec<u8>> {
    let written = "[[listeners]]\nport = 5432\nservice = \"db\"\nprotocol = \"tcp\"\nproxy = \"v2\"\n\
                   accept_proxy = [\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.1\"]\nidle = \"5m\"\n\
                   connections = 1000\n[[listeners]]\nport = 81\nprotocol = \"http\"\n\
                   address = \"10.0.0.1\"\n";
    let canonical = Listeners::parse(written).expect("it is well written").text();
    let wrong = "[[listeners]]\nport = 0\nidle = \"0s\"\nconnections = 0\naddress = \"::\"\n";
    [written.to_owned(), canonical.expect("there are some"), wrong.to_owned()]
        .map(String::into_bytes)
        .into()
}

/// Rules, and what of one that is none is shown.
pub(super) fn rule(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match parse(text) {
        Ok(rule) => {
            let written = rule.to_string();
            let again = parse(&written).expect("what was read can be written");
            assert_eq!((again.to_string(), again), (written, rule));
        }
        Err(wrong) => assert_eq!(wrong.shown(text).lines().count(), 3),
    }
}

pub(super) fn rule_seeds() -> Vec<Vec<u8>> {
    let all = [
        "critical when cpu > 90% for 2m until < 75% for 1m then mail ops, out keep 2 cooldown 10m",
        "warning when cluster min(disk.free \"/srv/a b\") < 50% then mail ops repeat 1d",
        "when time 18:00-23:00 mon-fri America/New_York and not any load > 2 then in 2",
        "when cluster share(requests from MX|continent:EU|10.0.0.0/8, 10m) > 60% then in 1",
        "when count(events service shop, 10m) > 3 or (p99(latency shop, 5m) >= 250ms) then \
         restart shop/web, sync shop at-most 3 in 1h",
    ];
    all.map(|text| text.as_bytes().to_vec()).into()
}

/// Settings, and every file that can be made of them.
pub(super) fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(settings) = Settings::parse(text) else { return };
    let canonical = settings.to_toml();
    let again = Settings::parse(&canonical).expect("what was read can be written");
    assert_eq!(again, settings);
    assert_eq!(again.to_toml(), canonical);
    let fine = settings.check().is_ok();
    for format in [Format::Json, Format::Toml, Format::Yaml, Format::Env, Format::Ini] {
        let rendered = settings.render(format);
        assert!(rendered.is_ok() || !fine || format == Format::Ini, "{format}: {rendered:?}");
        let back = match (&rendered, format) {
            (Ok(text), Format::Json) => serde_json::from_str(text).ok(),
            (Ok(text), Format::Toml) => toml::from_str(text).ok(),
            _ => continue,
        };
        assert_eq!(back.as_ref(), Some(&settings), "{format}");
    }
}

pub(super) fn settings_seeds() -> Vec<Vec<u8>> {
    let written = "[settings]\nport = 8080\nratio = 1e-3\ndebug = false\n\
                   hosts = [\"a\", 'b', 3, true]\n\n[settings.database]\nhost = \"db\"\n\
                   tls.on = true\nmotd = \"\"\"\ntwo\nlines\"\"\"\n";
    let canonical = Settings::parse(written).expect("it is well written").to_toml();
    vec![written.as_bytes().to_vec(), canonical.into_bytes(), b"[settings]\na = 07:32:00".to_vec()]
}

/// A document of secrets as it was once sealed for the member of key 1. Each
/// sealing gives another one, so it can't be written anew.
const SEALED: &str = include_str!("../sealed.toml");

/// The document, and what is sealed in it.
pub(super) fn secrets(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(sealed) = Sealed::parse(text) else { return };
    assert_eq!(Sealed::parse(&sealed.to_toml()).as_ref(), Ok(&sealed));
    if let Ok(secrets) = sealed.open(&key(1)) {
        assert!(secrets.names().eq(sealed.names()));
    }
}

pub(super) fn secrets_seeds() -> Vec<Vec<u8>> {
    let sealed = Sealed::parse(SEALED).expect("what was once written is read");
    let secrets = sealed.open(&key(1)).expect("and opened");
    assert_eq!(secrets.len(), 2);
    vec![SEALED.as_bytes().to_vec()]
}
