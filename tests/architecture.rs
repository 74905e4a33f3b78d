//! The house rules that rustc does not check: floors import downwards only,
//! brothers do not know each other, the pure floors touch nothing, bincode is
//! named in one place. Read from the `use` lines and the paths in the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folder of `src/`, and the floor that it stands on.
const FLOORS: [(&str, u8); 10] = [
    ("base", 0),
    ("proto", 1),
    ("member", 2),
    ("sim", 3),
    ("net", 3),
    ("store", 3),
    ("driver", 3),
    ("gateway", 3),
    ("node", 4),
    ("admin", 5),
];
const TOP: u8 = 6;

fn floor(module: &str) -> u8 {
    FLOORS.iter().find(|(name, _)| *name == module).map_or(TOP, |(_, floor)| *floor)
}

/// Every source file with its text, comments cut off and test code left in.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(paths.len() > 30, "the sources were not found");
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_owned();
    let code = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
        lines.collect::<Vec<_>>().join("\n")
    };
    paths.iter().map(|path| (relative(path), code(path))).collect()
}

fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The names behind `crate::` in a text, groups taken apart: of
/// `crate::{base::{A, B}, net}` these are `base` and `net`. With `depth` 2
/// the second component comes along: `proto::vote`.
fn crate_paths(text: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        collect(&text[at + "crate::".len()..], String::new(), depth, &mut found);
    }
    found
}

fn collect(rest: &str, prefix: String, depth: usize, found: &mut BTreeSet<String>) {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        let (mut level, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => level += 1,
                '}' | ',' if level == 0 => {
                    collect(&group[start..at], prefix.clone(), depth, found);
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => level -= 1,
                _ => {}
            }
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = &rest[..end];
    if name.is_empty() {
        return;
    }
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    let components = path.split("::").count();
    match rest[end..].strip_prefix("::") {
        Some(more) if components < depth => collect(more, path, depth, found),
        _ => {
            found.insert(path);
        }
    }
}

#[test]
fn imports_look_down_and_never_sideways() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = module_of(&path);
        if here == "lib" || here == "main" {
            continue;
        }
        for there in crate_paths(&text, 1) {
            let known = there == "cli" || FLOORS.iter().any(|(name, _)| *name == there);
            let allowed = here == there || floor(&there) < floor(&here);
            if known && !allowed {
                wrong.push(format!("{} imports {there}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that run up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_machines_are_blind_to_each_other() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let mut components = path.components().map(|c| c.as_os_str().to_string_lossy());
        if components.next().as_deref() != Some("proto") {
            continue;
        }
        let Some(here) = components.next() else { continue };
        let here = here.trim_end_matches(".rs").to_owned();
        for there in crate_paths(&text, 2) {
            if let Some(other) = there.strip_prefix("proto::")
                && other != here
            {
                wrong.push(format!("{} imports {there}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "machines that know each other:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_floors_touch_nothing() {
    const BANNED: [(&str, &str); 14] = [
        ("tokio::", "the shell's"),
        ("quinn::", "the shell's"),
        ("std::fs", "files are the shell's"),
        ("std::thread", "threads are the shell's"),
        ("std::process", "processes are the shell's"),
        ("std::env", "the environment is the shell's"),
        ("std::time::Instant", "time is an argument"),
        ("SystemTime", "time is an argument"),
        ("UdpSocket", "sockets are the shell's"),
        ("TcpStream", "sockets are the shell's"),
        ("HashMap", "its order of iteration differs from run to run"),
        ("HashSet", "its order of iteration differs from run to run"),
        ("rand::rng()", "chance comes from a seed"),
        ("rand::random", "chance comes from a seed"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = module_of(&path);
        if floor(&here) > 2 && here != "sim" || here == "lib" || here == "main" {
            continue;
        }
        for (word, why) in BANNED {
            if text.contains(word) {
                wrong.push(format!("{} names {word}: {why}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bincode_is_named_in_one_file() {
    let named: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.contains("bincode::"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_eq!(named, ["base/wire.rs"]);
}

#[test]
fn unsafe_is_where_a_system_call_needs_it() {
    let named: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.contains("unsafe {") || text.contains("unsafe fn"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    let needed =
        ["driver/services/process.rs", "gateway/vip/announce.rs", "net/quiet.rs", "net/refusal.rs"];
    assert_eq!(named, needed);
}

#[test]
fn every_module_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let silent: Vec<String> = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !path.ends_with("tests.rs") && !path.to_string_lossy().contains("/tests/"))
        .filter(|path| !fs::read_to_string(root.join(path)).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no words at the top of {}", silent.join(", "));
}

#[test]
fn the_reader_of_paths_reads_groups() {
    let text = "use crate::{base::{A, wire::{self, B}}, net::C}; crate::proto::vote::X";
    let one = crate_paths(text, 1);
    assert_eq!(one, BTreeSet::from(["base", "net", "proto"].map(str::to_owned)));
    assert!(crate_paths(text, 2).contains("proto::vote"));
    assert!(crate_paths(text, 2).contains("base::wire"));
}
