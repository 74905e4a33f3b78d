use std::{collections::BTreeMap, process::Command};

use proptest::prelude::*;

use super::{
    BYTES_MAX, Format, KEY_MAX, KEYS_MAX, Scalar, Settings, VALUE_MAX, Value, check::check_key,
};

const SAMPLE: &str = r#"
    [settings]
    port = 8080
    ratio = 0.5
    debug = false
    hosts = ["a", "b", 3]

    [settings.database]
    host = "db.internal"
    pool-size = 10

    [settings.database.tls]
    on = true
"#;

fn text(text: &str) -> Value {
    Value::One(Scalar::Text(text.to_owned()))
}

fn sample() -> Settings {
    Settings::parse(SAMPLE).unwrap()
}

fn set<const N: usize>(pairs: [(&str, Value); N]) -> Settings {
    Settings(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn faults(settings: &Settings) -> String {
    settings.check().unwrap_err().join("\n")
}

#[test]
fn tables_become_dotted_keys_and_canonical_text() {
    let settings = sample();
    settings.check().unwrap();
    assert_eq!(
        settings.to_toml(),
        "[settings]\ndatabase.host = \"db.internal\"\ndatabase.pool-size = 10\n\
         database.tls.on = true\ndebug = false\nhosts = [\"a\", \"b\", 3]\nport = 8080\n\
         ratio = 0.5\n"
    );
    assert_eq!(Settings::parse(&settings.to_toml()), Ok(settings));
    assert_eq!(Settings::parse(""), Ok(Settings::default()));
    assert_eq!(Settings::parse(&Settings::default().to_toml()), Ok(Settings::default()));
}

#[test]
fn equal_settings_give_equal_bytes() {
    let zeros = ["-0.0", "0.0", "+0.0", "0e5"];
    let one = |zero: &str| Settings::parse(&format!("[settings]\na = {zero}")).unwrap();
    for zero in zeros {
        assert_eq!(one(zero).to_toml(), "[settings]\na = 0.0\n");
    }
    let minus = set([("a", Value::One(Scalar::Float(-0.0)))]);
    assert_eq!(minus.to_toml(), one("0.0").to_toml());
    assert_eq!(
        Settings::parse("[settings]\nb.c = 1\na = 2").unwrap().to_toml(),
        Settings::parse("[settings]\na = 2\n[settings.b]\nc = 1").unwrap().to_toml(),
    );
}

#[test]
fn what_no_setting_can_be_is_refused_with_its_key() {
    for (bad, key, why) in [
        ("[settings]\nsince = 1979-05-27", "since", "is a date or a time"),
        ("[settings]\nat.noon = 12:00:00", "at.noon", "is a date or a time"),
        ("[settings]\ndays = [1979-05-27]", "days", "is a date or a time"),
        ("[settings]\na = [[1], [2]]", "a ", "list in a list"),
        ("[[settings.b]]\nc = 1", "b ", "list of tables"),
        ("[settings]\n\"\" = 1", "\"\"", "is empty"),
        ("[settings.\"\"]\na = 1", "\"\"", "is empty"),
        ("[settings]\n\"a.b\" = 1", "a.b", "other characters"),
        ("[settings]\n\"ä\" = 1", "ä", "other characters"),
        ("[settings]\n\"a\\nb\" = 1", "a\\nb", "other characters"),
        ("[settings]\n1st = 1", "1st", "begin with a letter"),
        ("[settings]\nx = inf", "x ", "no finite number"),
        ("[settings]\nx = [nan]", "x ", "no finite number"),
        ("[[settings]]\na = 1", "settings", "table"),
        ("settings = 3", "settings", "table"),
        ("settings = 1979-05-27", "settings", "date"),
        ("[settings]\na = 1\n[other]\nb = 2", "other", "unknown field"),
    ] {
        let error = Settings::parse(bad).unwrap_err();
        assert!(error.contains(key) && error.contains(why), "{bad}: {error}");
        assert!(error.contains("line"), "it says where: {error}");
    }
    let deep = format!("[settings]\n{}a = 1", "a.".repeat(60));
    assert!(Settings::parse(&deep).unwrap_err().contains("longer than 100 bytes"));
    let json = |text| serde_json::from_str::<Settings>(text).map_err(|e| e.to_string());
    assert!(json("{\"a\": null}").unwrap_err().contains("for a"));
    assert!(json("{\"a\": 9223372036854775808}").unwrap_err().contains("too large"));
    assert!(json("{\"a\": 1, \"a\": 2}").unwrap_err().contains("set twice"));
    assert_eq!(json(&serde_json::to_string(&sample()).unwrap()), Ok(sample()));
}

#[test]
fn bounds_are_kept() {
    let many = |n: usize| {
        Settings((0..n).map(|n| (format!("k{n}"), Value::One(Scalar::Boolean(true)))).collect())
    };
    assert!(many(KEYS_MAX).check().is_ok());
    assert!(faults(&many(KEYS_MAX + 1)).contains("1001 keys are set"));
    let long = |n: usize| set([("a", text(&"x".repeat(n)))]);
    assert!(long(VALUE_MAX).check().is_ok());
    assert!(faults(&long(VALUE_MAX + 1)).contains("a is longer than 16 KiB"));
    let list = Value::List(vec![Scalar::Text("x".repeat(VALUE_MAX / 2)); 2]);
    assert!(faults(&set([("a", list)])).contains("16 KiB"), "the comma counts too");
    let full = ["a", "b", "c", "d", "e"].map(|key| (key, text(&"x".repeat(BYTES_MAX / 5))));
    assert!(faults(&set(full)).contains("larger than 64 KiB"));
    assert!(check_key(&"k".repeat(KEY_MAX)).is_ok());
    assert!(check_key(&"k".repeat(KEY_MAX + 1)).is_err());
    for bad in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "-a", "9", "a=b"] {
        assert!(check_key(bad).is_err(), "{bad:?}");
        assert!(set([(bad, text(""))]).check().is_err(), "{bad:?}");
        assert!(set([(bad, text(""))]).render(Format::Json).is_err(), "{bad:?}");
    }
    assert!(faults(&set([("a", text("x\0"))])).contains("NUL"));
    assert!(faults(&set([("a", Value::One(Scalar::Float(f64::NAN)))])).contains("finite"));
}

#[test]
fn keys_that_stand_in_each_others_way_are_refused() {
    let below = set([("a", text("1")), ("a.b", text("2"))]);
    assert!(faults(&below).contains("a is a value, and a.b would be below it"));
    for format in [Format::Json, Format::Toml, Format::Yaml] {
        assert!(below.render(format).is_err());
    }
    // The order of bytes puts a-b between a and a.b.
    let apart = set([("a", text("1")), ("a-b", text("2")), ("a.c", text("3"))]);
    assert!(faults(&apart).contains("a is a value, and a.c would be below it"));
    for (one, other) in [("a.b", "a_b"), ("a.b", "a-b"), ("a", "A"), ("x.y-z", "x-y.z")] {
        let both = set([(one, text("1")), (other, text("2"))]);
        assert!(faults(&both).contains("would both be given to services as"), "{one} {other}");
    }
    for reserved in ["path", "home", "Lang", "althing.app", "althing-x"] {
        let fault = faults(&set([(reserved, text(""))]));
        assert!(fault.contains("which the member sets itself"), "{fault}");
    }
}

#[test]
fn variables_are_named_and_written_as_shells_have_them() {
    let env = sample().env();
    let pairs: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("DATABASE_HOST", "db.internal"),
            ("DATABASE_POOL_SIZE", "10"),
            ("DATABASE_TLS_ON", "true"),
            ("DEBUG", "false"),
            ("HOSTS", "a,b,3"),
            ("PORT", "8080"),
            ("RATIO", "0.5"),
        ]
    );
}

#[test]
fn formats_go_by_the_ending() {
    for (path, format) in [
        ("config/app.json", Some(Format::Json)),
        ("a.b/app.TOML", Some(Format::Toml)),
        ("app.yml", Some(Format::Yaml)),
        ("app.yaml", Some(Format::Yaml)),
        (".env", Some(Format::Env)),
        ("config/prod.env", Some(Format::Env)),
        ("app.ini", Some(Format::Ini)),
        ("app.conf", Some(Format::Ini)),
        ("app.properties", None),
        ("a.json/app", None),
        ("json", None),
        ("", None),
    ] {
        assert_eq!(Format::of_path(path), format, "{path}");
        if let Some(format) = format {
            let written = serde_json::to_string(&format).unwrap();
            assert_eq!(written, format!("\"{format}\""));
        }
    }
}

#[test]
fn files_look_as_a_person_would_write_them() {
    let render = |format| sample().render(format).unwrap();
    assert_eq!(
        render(Format::Json),
        "{\n  \"database\": {\n    \"host\": \"db.internal\",\n    \"pool-size\": 10,\n    \
         \"tls\": {\n      \"on\": true\n    }\n  },\n  \"debug\": false,\n  \"hosts\": [\n    \
         \"a\",\n    \"b\",\n    3\n  ],\n  \"port\": 8080,\n  \"ratio\": 0.5\n}\n"
    );
    assert_eq!(
        render(Format::Toml),
        "debug = false\nhosts = [\"a\", \"b\", 3]\nport = 8080\nratio = 0.5\n\n[database]\n\
         host = \"db.internal\"\npool-size = 10\n\n[database.tls]\non = true\n"
    );
    assert_eq!(
        render(Format::Yaml),
        "database:\n  host: 'db.internal'\n  pool-size: 10\n  tls:\n    \"on\": true\n\
         debug: false\nhosts:\n- 'a'\n- 'b'\n- 3\nport: 8080\nratio: 0.5\n"
    );
    assert_eq!(
        render(Format::Env),
        "DATABASE_HOST=\"db.internal\"\nDATABASE_POOL_SIZE=\"10\"\nDATABASE_TLS_ON=\"true\"\n\
         DEBUG=\"false\"\nHOSTS=\"a,b,3\"\nPORT=\"8080\"\nRATIO=\"0.5\"\n"
    );
    assert_eq!(
        render(Format::Ini),
        "debug = false\nhosts = a,b,3\nport = 8080\nratio = 0.5\n\n[database]\n\
         host = db.internal\npool-size = 10\n\n[database.tls]\non = true\n"
    );
    let all = [Format::Json, Format::Toml, Format::Yaml, Format::Env, Format::Ini];
    let empty = all.map(|format| Settings::default().render(format).unwrap());
    assert_eq!(empty, ["{}\n", "", "{}\n", "", ""]);
}

#[test]
fn ini_refuses_what_its_readers_would_change() {
    let render = |value: &str| set([("a", text(value))]).render(Format::Ini);
    for bad in
        ["multi\nline", "a\rb", " lead", "trail\t", "\"q\"", "'q'", "; x", "#x", "a ;b", "a\\"]
    {
        let error = render(bad).unwrap_err();
        assert!(error.starts_with("a can't be in an INI file, because its value"), "{error}");
        assert!(!error.contains(bad), "what is in it is not said");
    }
    for good in ["", "a;b", "http://x/#y", "50 %", "no", "1e3", "a = b", "[x]"] {
        assert_eq!(render(good).unwrap(), format!("a = {good}").trim_end().to_owned() + "\n");
    }
}

/// What people meet who write YAML by hand, and what shells make of quotes.
const TRICKY: [&str; 30] = [
    "no",
    "1e3",
    "~",
    "0x10",
    " lead",
    "multi\nline",
    "'\"$`\\",
    "",
    "null",
    "12:30",
    "0o17",
    "017",
    "1_000",
    ".inf",
    "-",
    "- a",
    "a: b",
    "a #b",
    "{{x}}",
    "&a",
    "*a",
    "!t",
    "%",
    "@",
    "|",
    "> x",
    "trail ",
    "\ttab",
    "\u{85}\u{2028}\u{feff}\u{1}\u{7f}",
    "end\n\n",
];

#[test]
fn a_shell_reads_what_was_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".env");
    for value in TRICKY {
        std::fs::write(&file, set([("a.b", text(value))]).render(Format::Env).unwrap()).unwrap();
        let script = ". \"$0\"; printf %s \"$A_B\"";
        let output = Command::new("/bin/sh").arg("-c").arg(script).arg(&file).output().unwrap();
        assert!(output.status.success(), "{value:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }
}

fn any_scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        prop::sample::select(&TRICKY[..]).prop_map(|text| Scalar::Text(text.to_owned())),
        "[^\0]{0,20}".prop_map(Scalar::Text),
        any::<i64>().prop_map(Scalar::Integer),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Scalar::Float),
        any::<bool>().prop_map(Scalar::Boolean),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => any_scalar().prop_map(Value::One),
        1 => prop::collection::vec(any_scalar(), 0..4).prop_map(Value::List),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let word = prop::sample::select(vec!["no", "y", "null", "true", "on", "_", "e3", "inf"]);
    let first = prop_oneof![word.prop_map(str::to_owned), "[a-z_][a-zA-Z0-9_-]{0,8}"];
    let part = prop_oneof!["[0-9]{1,3}", "[a-zA-Z0-9_-]{1,8}", "0x1", "1e3", "-"];
    let key = (first, prop::collection::vec(part, 0..3)).prop_map(|(first, more)| {
        let parts: Vec<String> = std::iter::once(first).chain(more).collect();
        parts.join(".")
    });
    let map = prop::collection::btree_map(key, any_value(), 0..12);
    map.prop_filter_map("keys in each other's way", |map: BTreeMap<String, Value>| {
        let settings = Settings(map);
        settings.check().is_ok().then_some(settings)
    })
}

proptest! {
    #[test]
    fn every_format_is_read_back_as_it_was(settings in any_settings()) {
        let json = settings.render(Format::Json).unwrap();
        prop_assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings.clone());
        let toml = settings.render(Format::Toml).unwrap();
        prop_assert_eq!(toml::from_str::<Settings>(&toml).unwrap(), settings.clone());
        let yaml = settings.render(Format::Yaml).unwrap();
        prop_assert_eq!(serde_saphyr::from_str::<Settings>(&yaml).unwrap(), settings.clone());
        let text = settings.to_toml();
        prop_assert_eq!(&Settings::parse(&text).unwrap(), &settings);
        prop_assert_eq!(Settings::parse(&text).unwrap().to_toml(), text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = Settings::parse(&text);
        let _ = Settings::parse(&format!("[settings]\n{text}"));
    }
}

/// For a reader that is not ours: writes samples where a variable says.
#[test]
fn samples_for_other_readers() {
    let Some(folder) = std::env::var_os("ALTHING_SETTINGS_SAMPLES") else { return };
    let words = ["no", "y", "null", "true", "on", "e3", "a.0x1", "a.1e3", "a.12", "a.-", "b.017"];
    let keys = TRICKY.iter().zip(0..).map(|(value, n)| (format!("t{n}"), text(value)));
    let more = words.iter().map(|word| ((*word).to_owned(), text(word)));
    let floats = [1e300, 1e-7, 0.1, 123456789.0];
    let floats = floats.iter().zip(0..).map(|(f, n)| (format!("f{n}"), Scalar::Float(*f)));
    let floats = floats.map(|(key, scalar)| (key, Value::One(scalar)));
    let settings = Settings(keys.chain(more).chain(floats).collect());
    for format in [Format::Json, Format::Toml, Format::Yaml, Format::Env] {
        let path = std::path::Path::new(&folder).join(format!("sample.{format}"));
        std::fs::write(path, settings.render(format).unwrap()).unwrap();
    }
}
