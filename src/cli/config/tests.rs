//! Precedence, faults and where they stand, and that no option is forgotten.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use super::{reload::Takes, *};

const MARKS: [&str; 2] =
    ["<!-- options: made by a test; do not edit -->\n", "<!-- end of options -->\n"];

/// What a member would be started with, by these arguments and a file with this text.
fn settled(arguments: &[&str], text: &str) -> Result<Settled, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    let all = ["althing"].iter().chain(arguments).map(OsString::from).collect::<Vec<_>>();
    settle(&all, Some(File::read(&path)?))
}

/// Its faults, as `line:column why`.
fn faults(text: &str) -> Vec<String> {
    let shown = |fault: &file::Fault| format!("{}:{} {}", fault.line, fault.column, fault.why);
    file::faults(text).iter().map(shown).collect()
}

fn setting<'a>(settled: &'a Settled, key: &str) -> &'a Setting {
    settled.settings.iter().find(|setting| setting.key == key).unwrap()
}

/// Whoever adds a flag has added a variable and a key with it.
#[test]
fn every_option_is_a_flag_a_variable_and_a_key() {
    let command = command();
    let up = command.find_subcommand("up").unwrap();
    let show = command.find_subcommand("config").unwrap().find_subcommand("show").unwrap();
    let mut seen = BTreeSet::from(["ALTHING_LOG".to_owned(), "ALTHING_METRICS".to_owned()]);
    let mut keys = 0;
    for arg in up.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let key = arg.get_long().expect("an option of `up` has a long flag");
        let env = arg.get_env().unwrap_or_else(|| panic!("{key} has no variable"));
        assert_eq!(env.to_str(), Some(variable(key).as_str()));
        assert!(arg.is_hide_env_values_set(), "{key}");
        assert!(seen.insert(variable(key)), "{key}: two meanings of one variable");
        let same = show.get_arguments().find(|other| other.get_id() == arg.get_id());
        assert_eq!(same.and_then(Arg::get_env), Some(env), "{key}");
        let found = faults(&format!("{key} = \"?\"")).join("");
        assert!(!found.contains("unknown key"), "{key}: {found}");
        keys += 1;
    }
    assert!(keys > 20, "{keys}");
    assert_eq!(settled(&["up"], "").unwrap().settings.len(), keys + 1, "and the data directory");
    for known in ["ALTHING_TRUSTED_PROXY", "ALTHING_TOKEN", "ALTHING_DATA", "ALTHING_CONFIG"] {
        assert!(variables().iter().any(|variable| variable == known), "{known}");
    }
}

#[test]
fn a_flag_comes_before_the_file_and_that_before_a_default() {
    let text = "bind = \"127.0.0.1:7701\"\nlisten = 'none'\nstandby = true\n\n\
                tag = [\"role=web\", \"zone=a,b\"]\nscrub-rate = 1_000_000\n\
                trusted-proxy = \"10.0.0.0/8,::1\"\naccept-proxy = []\nprofile = \"wan\"\n";
    let found = settled(&["up", "--bind", "127.0.0.1:7702", "--tag=role=db"], text).unwrap();
    assert_eq!(found.up.bind, "127.0.0.1:7702".parse().unwrap());
    assert_eq!((found.up.listen.0, found.up.standby, found.up.scrub_rate), (None, true, 1_000_000));
    assert_eq!(found.up.tag.len(), 1, "a list is replaced as a whole");
    assert_eq!((found.up.trusted_proxy.len(), found.up.accept_proxy.len()), (2, 0));
    let bind = setting(&found, "bind");
    assert_eq!((bind.from, bind.line), (Origin::Flag, None));
    let listen = setting(&found, "listen");
    assert_eq!((listen.from, listen.line), (Origin::File, Some(2)));
    assert_eq!(listen.values, ["none"]);
    let status = setting(&found, "status");
    assert_eq!(
        (status.from, &status.values[..]),
        (Origin::Default, &["127.0.0.1:7780".into()][..])
    );
    assert!(setting(&found, "advertise").values.is_empty());

    let found = settled(&["config", "show", "--standby=false"], text).unwrap();
    assert!(!found.up.standby, "a flag can take back what the file says");
    let tags: Vec<&str> = found.up.tag.iter().map(|tag| tag.1.as_str()).collect();
    assert_eq!(tags, ["web", "a,b"]);
    assert_eq!(setting(&found, "tag").values, ["role=web", "zone=a,b"]);
    assert!(settled(&["up", "--standby"], "").unwrap().up.standby);
}

#[test]
fn the_data_directory_is_where_the_file_says_unless_somebody_else_does() {
    let text = "data = \"/srv/althing\"\nbind = \"x\"\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    // A command that asks a running member does not care for what that one would not take now.
    assert_eq!(file::data(&path).unwrap(), Some("/srv/althing".into()));
    fs::write(&path, "data = \"here\"\n").unwrap();
    assert!(file::data(&path).unwrap_err().why.contains("line 1, column 8"));
    fs::write(&path, "data = \n").unwrap();
    assert_eq!(file::data(&path).unwrap_err().reason, Reason::Invalid);
    let text = "data = \"/srv/althing\"\n";
    assert_eq!(settled(&["up"], text).unwrap().data, Some("/srv/althing".into()));
    let found = settled(&["up", "--data", "/x"], text).unwrap();
    assert_eq!(
        (found.data, setting(&settled(&["up"], text).unwrap(), "data").from),
        (Some("/x".into()), Origin::File)
    );
}

#[test]
fn a_token_stands_in_a_file_of_its_own() {
    let text = "token-file = \"/run/token\"\n";
    assert_eq!(settled(&["up"], text).unwrap().up.token_file, Some("/run/token".into()));
    let given = settled(&["up", "--token", "secret-words"], text).unwrap();
    assert_eq!(
        (given.up.token_file.as_ref(), given.up.token.as_deref()),
        (None, Some("secret-words"))
    );
    let shown = format!("{:?}", given.settings);
    assert!(!shown.contains("secret-words"), "{shown}");
    let text = "bind = \"127.0.0.1:1\"\n token= \"secret-words\"\n";
    let found = file::faults(text);
    let [fault] = &found[..] else { panic!("{found:?}") };
    assert_eq!((fault.line, fault.column), (2, 2));
    assert!(fault.why.contains("token-file"));
    for text in [text, "token = secret-words"] {
        for fault in file::faults(text) {
            assert!(!fault.shown("x.toml", text).contains("secret-words"));
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, place, words) in [
        ("bind = \n", "1:", ""),
        ("bind = \"x\"\n", "1:8 ", "invalid value 'x' for bind"),
        ("\n\nlissten = \"none\"\n", "3:1 ", "did you mean listen?"),
        ("access_log_format = \"json\"\n", "1:1 ", "did you mean access-log-format?"),
        ("colour = 1\n", "1:1 ", "unknown key colour; the keys"),
        ("json = true\n", "1:1 ", "unknown key json"),
        ("with-parent = true\n", "1:1 ", "unknown key"),
        ("log = \"jsn\"\n", "1:7 ", "journal"),
        ("tag = [\"role=web\",\n  \"zone\"]\n", "2:3 ", "KEY=VALUE"),
        ("tag = [\"role=web\", [\"a=b\"]]\n", "1:20 ", "list of text"),
        ("listen = [\"none\"]\n", "1:10 ", "one value"),
        ("[bind]\nx = 1\n", "1:2 ", "no table"),
        ("standby = \"yes\"\n", "1:11 ", "true, false"),
        ("scrub-rate = \"fast\"\n", "1:14 ", "no size"),
        ("trusted-proxy = \"10.0.0.1/8\"\n", "1:17 ", "for trusted-proxy"),
        ("data = \"x\"\n", "1:8 ", "whole path"),
    ] {
        let found = faults(text);
        assert!(found.len() == 1 && found[0].starts_with(place), "{text:?}: {found:?}");
        assert!(found[0].contains(words) && !found[0].ends_with('.'), "{text:?}: {found:?}");
    }
    let two = faults("scrub-every = \"often\"\nbind = \"x\"\n");
    assert!(two.len() == 2 && two[0].starts_with("1:") && two[1].starts_with("2:"), "{two:?}");
    let why = settled(&["up"], "scrub-every = \"often\"\nbind = \"x\"\n").unwrap_err().why;
    assert!(why.contains("line 1, column 15: ") && why.ends_with("(and 1 more)."), "{why}");
    let shown = file::faults("bind = \"x\"\n")[0].shown("x.toml", "bind = \"x\"\n");
    assert!(shown.starts_with("x.toml:1:8: ") && shown.contains("bind = \"x\""), "{shown}");
    assert_eq!(faults(""), Vec::<String>::new());
}

#[test]
fn what_is_too_much_together_is_told_too() {
    let networks: Vec<String> = (0..65).map(|n| format!("\"10.0.0.{n}\"")).collect();
    let found = faults(&format!("accept-proxy = [{}]\n", networks.join(", ")));
    assert!(
        found.len() == 1 && found[0].starts_with("1:16 ") && found[0].contains("65"),
        "{found:?}"
    );
    let tags: Vec<String> = (0..99).map(|n| format!("\"k{n}=v\"")).collect();
    let found = faults(&format!("tag = [{}]\n", tags.join(", ")));
    assert!(found.len() == 1 && found[0].starts_with("1:7 "), "{found:?}");
}

#[test]
fn a_file_that_is_none_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    assert_eq!(File::read(&path).unwrap_err().reason, Reason::NotFound);
    fs::write(&path, [b'#', 0xff]).unwrap();
    assert!(File::read(&path).unwrap_err().why.contains("UTF-8"));
    fs::write(&path, "#".repeat(70_000)).unwrap();
    assert!(File::read(&path).unwrap_err().why.contains("64 KiB"));
    assert!(File::read(dir.path()).is_err());
    assert_eq!(Place::of(Some(Path::new("none"))).path(), None);
    assert_eq!(Place::of(Some(&path)).path(), Some(path));
}

/// The table of options in the documentation is made of their definition.
/// `ALTHING_WRITE_DOCS=1 cargo test --lib` writes it anew.
#[test]
fn the_documented_options_are_those_of_the_binary() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).expect("where the table begins is marked");
    let (_, after) = rest.split_once(MARKS[1]).expect("where it ends is marked");
    let wanted = format!("{before}{}\n{}\n{}{after}", MARKS[0], table(), MARKS[1]);
    if std::env::var_os("ALTHING_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert!(written == wanted, "docs/config.md is not what the binary says; write it anew");
}

fn table() -> String {
    let mut text = String::from(
        "| key and flag | variable | value | default | a change holds | what it is |\n\
         |---|---|---|---|---|---|\n",
    );
    let holds = |key: &str| match Takes::of(key) {
        Takes::AtOnce => "at once",
        Takes::AtStart => "at the next start",
        Takes::Joining => "on founding or joining",
    };
    let options = options();
    for arg in options.get_arguments() {
        let Some(key) = key_of(arg) else { continue };
        let words = arg.get_possible_values();
        let words: Vec<&str> = words.iter().map(clap::builder::PossibleValue::get_name).collect();
        let value: String = match words.as_slice() {
            [] => arg.get_value_names().into_iter().flatten().map(|name| name.as_str()).collect(),
            words => words.join(", "),
        };
        let default = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        let default: String = default.collect();
        let default = if default.is_empty() { default } else { format!("`{default}`") };
        let list = if is_list(arg) { "; a list" } else { "" };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
        let (variable, holds) = (variable(key), holds(key));
        let row =
            format!("`{key}` | `{variable}` | `{value}`{list} | {default} | {holds} | {help}");
        writeln!(text, "| {row} |").unwrap();
    }
    text
}
