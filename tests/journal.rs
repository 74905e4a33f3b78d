//! A member whose log goes to systemd's journal: the real one, in a mount namespace, so that
//! whatever journal this machine has hears nothing of it.
//!
//! It needs root, and systemd-journald and journalctl of the package systemd.

use std::process::{Command, Output};

use serde_json::Value;

/// Starts the journal, a member that logs to it, lets it publish, and prints what the journal has.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
member=
/usr/lib/systemd/systemd-journald &
journal=$!
trap 'kill $journal $member 2>/dev/null || true; wait' EXIT
tries=0
until [ -S /run/systemd/journal/socket ]; do
    tries=$((tries + 1)); [ $tries -lt 200 ] || { echo "no journal" >&2; exit 1; }
    sleep 0.05
done
"$ALTHING" up --data data --name alpha --bind 127.0.91.1:0 --listen 127.0.91.1:0 \
    --status 127.0.91.1:0 --log journal >up.log 2>&1 &
member=$!
tries=0
until "$ALTHING" publish site --app web --data data >publish.log 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || { cat up.log publish.log >&2; exit 1; }
    sleep 0.1
done
journalctl --sync
journalctl -t althing -o json --no-pager
"#;

fn run(directory: &std::path::Path, script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .env("ALTHING", env!("CARGO_BIN_EXE_althing"))
        .env("ALTHING_CONFIG", "none")
        .current_dir(directory)
        .output()
        .expect("unshare is of util-linux")
}

#[test]
fn events_are_in_the_journal_with_their_fields() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("site")).unwrap();
    std::fs::write(place.path().join("site/index.html"), "one").unwrap();
    let output = run(place.path(), SCRIPT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let entries: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let switched = entries
        .iter()
        .find(|entry| entry["MESSAGE"] == "web switched to version 1")
        .unwrap_or_else(|| panic!("{entries:?} {said}"));
    for (field, value) in [
        ("ALTHING_KIND", "version"),
        ("ALTHING_APP", "web"),
        ("ALTHING_MEMBER", "alpha"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "althing"),
        // By its own protocol, not as lines of standard error.
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(switched[field], value, "{field} of {switched}");
    }
    // What was committed says what it was about: a window that opened, the version, its end.
    for (kind, part) in [
        ("window", "a window was opened for web version 1"),
        ("version", "web version 1 is committed"),
        ("window", "web version 1 is in force on all 1 live members"),
    ] {
        let is_it = |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|m| m.contains(part));
        let entry = entries.iter().find(is_it).unwrap_or_else(|| panic!("{part}: {entries:?}"));
        assert_eq!((&entry["ALTHING_KIND"], &entry["ALTHING_APP"]), (&kind.into(), &"web".into()));
    }
}

#[test]
fn a_member_that_can_not_reach_the_journal_it_is_told_to_use_does_not_start() {
    let place = tempfile::tempdir().unwrap();
    let output = run(
        place.path(),
        r#"mount -t tmpfs none /run
        exec "$ALTHING" up --data data --bind 127.0.91.2:0 --listen 127.0.91.2:0 \
            --status 127.0.91.2:0 --log journal"#,
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("/run/systemd/journal/socket") && said.contains("--log text"), "{said}");
    assert!(!place.path().join("data").exists(), "nothing was begun");
}
