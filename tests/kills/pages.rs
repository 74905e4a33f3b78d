//! Versions that are known by their number: both processes can tell every byte
//! of each without asking the other.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use super::SIZES;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
}

/// A tree as it is read from the disk or told by its number: by path.
pub type Pages = BTreeMap<String, Item>;

/// Versions of one of these differ in one file only, which is put in place by itself.
pub const MINOR: u64 = 4;

/// What is ignored in every live tree, in whatever directory.
pub const UPLOADS: &str = "uploads";

/// The content of version tree `number`. Some files stay the same over several
/// of them, so that they share pieces; one file is another in each.
pub fn pages(number: u64) -> Pages {
    let major = number / MINOR;
    let mut all = Pages::new();
    for directory in 0..3 {
        all.insert(format!("d{directory}"), Item::Directory(0o755));
    }
    all.insert("empty".to_owned(), Item::Directory(0o700));
    for (at, size) in SIZES.into_iter().enumerate() {
        let era = major / (at as u64 % 3 + 1);
        let mode = if at % 4 == 1 { 0o600 } else { 0o644 };
        let file = Item::File(mode, noise(at as u64, era, size));
        all.insert(format!("d{}/f{at}", at % 3), file);
    }
    all.insert("number".to_owned(), Item::File(0o644, number.to_string().into_bytes()));
    all.insert("link".to_owned(), Item::Link(format!("d{}", major % 3)));
    let now_and_then = now_and_then(number);
    all.insert(now_and_then.clone(), Item::Directory(0o755));
    all.insert(format!("{now_and_then}/file"), Item::File(0o644, noise(98, 0, 100)));
    if major.is_multiple_of(2) {
        all.insert("d1/even".to_owned(), Item::File(0o644, noise(99, 0, 10_000)));
    }
    all
}

/// A directory that is in version tree `number`, and not in every other.
pub fn now_and_then(number: u64) -> String {
    format!("m{}", number / MINOR % 2)
}

fn noise(kind: u64, era: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let seed = [kind.to_le_bytes(), era.to_le_bytes()].concat();
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes them to the directory `at`, which is made.
pub fn write(pages: &Pages, at: &Path) {
    fs::create_dir(at).unwrap();
    for (path, item) in pages {
        let place = at.join(path);
        match item {
            Item::Directory(mode) => {
                fs::create_dir(&place).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Item::File(mode, bytes) => {
                fs::write(&place, bytes).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Item::Link(target) => symlink(target, &place).unwrap(),
        }
    }
}

/// What stands in the directory `at` without its uploads, every byte read.
pub fn read(at: &Path) -> Pages {
    let mut all = Pages::new();
    let mut todo = vec![String::new()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(at.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let below = |name: &str| format!("{directory}/{name}");
            let path = if directory.is_empty() { name.clone() } else { below(&name) };
            if name == UPLOADS {
                continue;
            }
            let meta = entry.metadata().unwrap();
            let mode = meta.mode() & 0o7777;
            let item = if meta.is_dir() {
                todo.push(path.clone());
                Item::Directory(mode)
            } else if meta.is_symlink() {
                Item::Link(fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
            } else {
                Item::File(mode, fs::read(entry.path()).unwrap())
            };
            all.insert(path, item);
        }
    }
    all
}

/// What differs, in few words; nothing if nothing does.
pub fn differences(found: &Pages, wanted: &Pages) -> Vec<String> {
    let paths = found.keys().chain(wanted.keys().filter(|path| !found.contains_key(*path)));
    let differs = |path: &&String| found.get(*path) != wanted.get(*path);
    let say = |item: Option<&Item>| match item {
        Some(Item::File(mode, bytes)) => {
            format!(
                "{mode:o} {} {}",
                bytes.len(),
                blake3::hash(bytes).to_hex().as_str()[..8].to_owned()
            )
        }
        other => format!("{other:?}"),
    };
    let line =
        |path: &String| format!("{path}: {}, not {}", say(found.get(path)), say(wanted.get(path)));
    paths.filter(differs).map(line).collect()
}
