//! What docs/packages holds: units that systemd understands, a configuration whose keys are
//! options, a Debian package that holds what it is to hold.
//!
//! It needs systemd-analyze of the package systemd, and dpkg-deb.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const BINARY: &str = env!("CARGO_BIN_EXE_althing");

/// A file of docs/packages.
fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packages").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(packaged(name)).unwrap()
}

/// What systemd says about the units, with some drop-ins.
fn verified(drop_ins: &[&str], more: &str) -> Output {
    let place = tempfile::tempdir().unwrap();
    let units = ["althing.service", "althing.socket"].map(|name| {
        let unit = place.path().join(name);
        // Verified is also that the program is there.
        fs::write(&unit, text(name).replace("/usr/bin/althing", BINARY)).unwrap();
        unit
    });
    let directory = place.path().join("althing.service.d");
    fs::create_dir(&directory).unwrap();
    for name in drop_ins {
        fs::copy(packaged(name), directory.join(name)).unwrap();
    }
    fs::write(directory.join("more.conf"), more).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(units);
    command.output().expect("systemd-analyze is of systemd")
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    for drop_ins in
        [&[][..], &["addresses.conf"], &["users.conf"], &["addresses.conf", "users.conf"]]
    {
        let output = verified(drop_ins, "");
        let said = String::from_utf8_lossy(&output.stderr);
        // A line that it does not know is a warning, and no failure. It may warn of what else is
        // on this machine.
        let is_well = !said.lines().any(|line| line.contains("althing"));
        assert!(output.status.success() && is_well, "{drop_ins:?}: {said}");
    }
    let output = verified(&[], "[Service]\nNoSuchThing=yes\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("NoSuchThing"), "it would be told");
}

#[test]
fn the_socket_is_where_a_member_listens_that_is_told_nothing() {
    let unit = text("althing.socket");
    let listens: Vec<&str> =
        unit.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    let [at] = listens[..] else { panic!("{listens:?}") };
    let output = Command::new(BINARY).args(["up", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = help.split_once("--listen <").unwrap();
    let (_, rest) = rest.split_once("[default: ").unwrap();
    assert_eq!(rest.split_once(']').unwrap().0, at);
}

#[test]
fn the_configuration_is_one_as_it_is_and_with_every_key_that_it_shows() {
    let file = text("config.toml");
    let is_set = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let set: Vec<&str> = file.lines().filter(is_set).collect();
    assert_eq!(set, ["data = \"/var/lib/althing\""], "it changes nothing else");
    // What is commented out, as it would be without the mark.
    let is_key = |line: &&str| {
        line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        })
    };
    let keys: Vec<&str> =
        file.lines().filter_map(|line| line.strip_prefix('#')).filter(is_key).collect();
    assert!(keys.len() > 15, "{keys:?}");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.toml");
    let checked = |text: &str| {
        fs::write(&path, text).unwrap();
        let mut command = Command::new(BINARY);
        let output = command.args(["config", "check"]).arg(&path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for text in [&file, &keys.join("\n")] {
        let (is_fine, said) = checked(text);
        assert!(is_fine, "{said}");
    }
    assert!(!checked("nothing-of-ours = 1\n").0);
}

#[test]
fn the_line_for_cloud_init_founds_or_joins() {
    let file = text("cloud-init.yaml");
    let (_, rest) = file.split_once("&& printf ").unwrap();
    let (words, _) = rest.split_once(" >/etc/default/althing").unwrap();
    for (join, token, expected) in [
        ("", "", "ALTHING_OPTIONS=\"\"\n"),
        ("10.0.0.1:7700", "", "ALTHING_OPTIONS=\"--join 10.0.0.1:7700\"\n"),
        ("10.0.0.1:7700", "t0k", "ALTHING_OPTIONS=\"--join 10.0.0.1:7700\"\nALTHING_TOKEN=t0k\n"),
    ] {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &format!("printf {words}")]).env("JOIN", join).env("TOKEN", token);
        let output = shell.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

/// A program that knows as much as the package asks of it.
const PROGRAM: &str = r#"#!/bin/sh
case "$1" in
man) mkdir -p "$3"; echo .TH >"$3/althing.1"; echo .TH >"$3/althing-up.1" ;;
completions) echo "complete -F _althing althing" ;;
esac
"#;

/// A package of `program`, which `depends` on what is said or on what it names.
fn package(program: &str, depends: Option<&str>, into: &Path) -> PathBuf {
    let binary = into.join("program");
    fs::write(&binary, program).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new(packaged("deb.sh"));
    command
        .args([&binary, &into.join("out")])
        .env("DEB_VERSION", "1.2.3~test")
        .env("DEB_ARCH", "arm64")
        .env_remove("DEB_DEPENDS");
    if let Some(depends) = depends {
        command.env("DEB_DEPENDS", depends);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn dpkg_deb(arguments: &[&str]) -> String {
    let output = Command::new("dpkg-deb").args(arguments).output().expect("dpkg-deb is of dpkg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_debian_package_holds_what_it_is_to_hold() {
    let place = tempfile::tempdir().unwrap();
    let made = package(PROGRAM, Some("libc6"), place.path());
    assert_eq!(made.file_name().unwrap(), "althing_1.2.3~test_arm64.deb");
    let made = made.to_str().unwrap();

    // Mode, owner, size, date, time, path.
    let listing = dpkg_deb(&["--contents", made]);
    let files: Vec<Vec<&str>> =
        listing.lines().map(|line| line.split_whitespace().collect()).collect();
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/bin/althing"),
        ("-rw-r--r--", "./usr/lib/systemd/system/althing.service"),
        ("-rw-r--r--", "./usr/lib/systemd/system/althing.socket"),
        ("-rw-r--r--", "./etc/althing/config.toml"),
        ("-rw-------", "./etc/default/althing"), // it may hold a token
        ("-rw-r--r--", "./usr/share/doc/althing/copyright"),
        ("-rw-r--r--", "./usr/share/doc/althing/install.md"),
        ("-rw-r--r--", "./usr/share/doc/althing/users.conf"),
        ("-rw-r--r--", "./usr/share/man/man1/althing.1.gz"),
        ("-rw-r--r--", "./usr/share/man/man1/althing-up.1.gz"),
        ("-rw-r--r--", "./usr/share/bash-completion/completions/althing"),
    ] {
        let found = files.iter().find(|fields| fields.last() == Some(&path));
        let found = found.unwrap_or_else(|| panic!("no {path}: {listing}"));
        assert_eq!((found[0], found[1]), (mode, "root/root"), "{path}");
    }
    let stray = |fields: &&Vec<&str>| {
        let path = fields.last().unwrap();
        !["./", "./usr/", "./etc/"].contains(path)
            && !path.starts_with("./usr/")
            && !path.starts_with("./etc/")
    };
    assert_eq!(files.iter().find(stray), None, "nothing else, and no data directory");

    let fields = ["Package", "Version", "Architecture", "Depends"];
    let said = dpkg_deb(&[&["--field", made][..], &fields].concat());
    for line in ["Package: althing", "Version: 1.2.3~test", "Architecture: arm64"] {
        assert!(said.lines().any(|said| said == line), "{said}");
    }
    assert!(said.contains("Depends: passwd, libc6"), "{said}");

    let control = place.path().join("control");
    dpkg_deb(&["--control", made, control.to_str().unwrap()]);
    let conffiles = fs::read_to_string(control.join("conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/althing/config.toml\n/etc/default/althing\n");
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        let checked = Command::new("sh").arg("-n").arg(&path).status().unwrap();
        assert!(checked.success(), "{script}");
    }
}

/// A binary for another architecture can't be asked for its manual.
#[test]
fn a_package_is_made_of_any_binary() {
    let place = tempfile::tempdir().unwrap();
    let made = package("no program of this machine", None, place.path());
    let made = made.to_str().unwrap();
    let listing = dpkg_deb(&["--contents", made]);
    assert!(listing.contains("./usr/bin/althing") && !listing.contains("/man/"), "{listing}");
    assert_eq!(dpkg_deb(&["--field", made, "Depends"]), "passwd\n", "a static one needs nothing");
}

#[test]
fn a_package_asks_for_the_library_that_the_binary_was_linked_with() {
    for (symbols, library) in [
        ("\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.9\0", "libc6 (>= 2.34), libgcc-s1"),
        ("\0GLIBC_2.2.5\0", "libc6 (>= 2.2.5), libgcc-s1"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let made = package(symbols, None, place.path());
        let said = dpkg_deb(&["--field", made.to_str().unwrap(), "Depends"]);
        assert_eq!(said, format!("passwd, {library}\n"));
    }
}
