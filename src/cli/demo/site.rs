//! What the demonstration publishes: the built-in site or a copy of the
//! user's, one directory for each version. The user's own files are only read.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::base::Digest;

/// The built-in site. `@VERSION@` stands for the number of the version.
const PAGES: [(&str, &str); 5] = [
    ("index.html", include_str!("site/index.html")),
    ("about/index.html", include_str!("site/about.html")),
    ("404.html", include_str!("site/404.html")),
    ("style.css", include_str!("site/style.css")),
    ("althing.svg", include_str!("site/althing.svg")),
];
/// Changes in every version, whatever site it is.
const NOTE: &str = "data/version.txt";
/// Large enough that to copy it takes a moment.
const ARCHIVE: &str = "data/archive.bin";
/// The most that is asked for over HTTP to compare one member, files and bytes.
const SAMPLE_MAX: (usize, u64) = (64, 96 << 20);

/// One version of the site, as a directory.
#[derive(Debug)]
pub(super) struct Version {
    /// Where it lies.
    pub directory: PathBuf,
    /// Every regular file in it.
    pub files: Tree,
}

/// Regular files by path, with what they hold.
pub(super) type Tree = BTreeMap<String, Digest>;

/// Makes the version `number` in `directory`, with an archive of so many MiB.
pub(super) fn make(
    user: Option<&Path>,
    directory: PathBuf,
    number: u64,
    archive_mib: usize,
) -> io::Result<Version> {
    fs::create_dir_all(&directory)?;
    match user {
        Some(user) => copy(user, &directory, true)?,
        None => {
            for (path, text) in PAGES {
                write(&directory.join(path), text.replace("@VERSION@", &number.to_string()))?;
            }
        }
    }
    // A site of the user's is published as it is first.
    if user.is_none() || number > 1 {
        write(&directory.join(NOTE), format!("This is version {number}.\n"))?;
    }
    if archive_mib > 0 {
        write(&directory.join(ARCHIVE), noise(number, archive_mib << 20))?;
    }
    let files = read(&directory)?;
    if files.is_empty() {
        return Err(io::Error::other("there is no file in it"));
    }
    Ok(Version { directory, files })
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

/// Copies regular files, directories and symbolic links. What the manifest says
/// (a path outside, host names) would not hold on a demonstration.
fn copy(from: &Path, to: &Path, top: bool) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == ".git" || (top && name == "althing.toml") {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&source, &target, false)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Every regular file below `root`. What vanishes while it is read is not there.
pub(super) fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != root => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let bytes = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    result => result?,
                };
                let relative = path.strip_prefix(root).map_err(io::Error::other)?;
                let name = relative.to_string_lossy().into_owned();
                tree.insert(name, Digest::of_bytes(&bytes));
            }
        }
    }
    Ok(tree)
}

impl Version {
    /// The files that are asked for over HTTP: of the common size and name.
    pub fn sample(&self) -> Vec<String> {
        let mut left = SAMPLE_MAX.1;
        let common = |path: &&String| {
            !path.split('/').any(|part| part.starts_with('.')) && !path.contains('\u{fffd}')
        };
        self.files
            .keys()
            .filter(common)
            .filter(|path| {
                let size = fs::metadata(self.directory.join(path)).map_or(u64::MAX, |m| m.len());
                let fits = size <= left;
                left -= if fits { size } else { 0 };
                fits
            })
            .take(SAMPLE_MAX.0)
            .cloned()
            .collect()
    }
}

/// Bytes that can't be compressed, the same each time (xorshift, Marsaglia).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// What is done by hand to one member's live tree.
#[derive(Debug)]
pub(super) struct Damage {
    /// This file was written over.
    pub changed: String,
    /// This one was deleted, where there is a second one.
    pub deleted: Option<String>,
    /// This one was added.
    pub added: String,
}

/// Changes, deletes and adds files as a careless hand would; one of `paths`
/// each, which are in the tree.
pub(super) fn damage(live: &Path, paths: &[String]) -> io::Result<Damage> {
    let index = paths.iter().find(|p| *p == "index.html");
    let changed = index.or(paths.first()).cloned();
    let changed = changed.ok_or_else(|| io::Error::other("the site has no file that is served"))?;
    let deleted = paths.iter().find(|p| **p != changed).cloned();
    let added = "added-by-hand.html".to_owned();
    let text = "<h1>Somebody was here</h1>\n";
    let path = live.join(&changed);
    if let Err(error) = fs::write(&path, text) {
        // A file that is for reading only takes a determined hand.
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(error);
        }
        fs::remove_file(&path)?;
        fs::write(&path, text)?;
    }
    if let Some(deleted) = &deleted {
        fs::remove_file(live.join(deleted))?;
    }
    fs::write(live.join(&added), "<h1>And left this</h1>\n")?;
    Ok(Damage { changed, deleted, added })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_and_damage_shows() {
        let dir = tempfile::tempdir().unwrap();
        let one = make(None, dir.path().join("1"), 1, 0).unwrap();
        let two = make(None, dir.path().join("2"), 2, 1).unwrap();
        assert_ne!(one.files, two.files);
        assert!(two.files.contains_key(ARCHIVE) && !one.files.contains_key(ARCHIVE));
        assert_eq!(read(&one.directory).unwrap(), one.files);
        assert!(one.sample().contains(&"about/index.html".to_owned()));
        let page = fs::read_to_string(two.directory.join("index.html")).unwrap();
        assert!(page.contains("This is version 2.") && !page.contains('@'));
        let damage = damage(&one.directory, &one.sample()).unwrap();
        let after = read(&one.directory).unwrap();
        assert_ne!(after[&damage.changed], one.files[&damage.changed]);
        assert!(!after.contains_key(&damage.deleted.unwrap()) && after.contains_key(&damage.added));
    }

    #[test]
    fn a_users_site_is_copied_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("user");
        write(&user.join("sub/page.html"), "x").unwrap();
        write(&user.join("althing.toml"), "[app]").unwrap();
        std::os::unix::fs::symlink("sub/page.html", user.join("link")).unwrap();
        let before = read(&user).unwrap();
        let one = make(Some(&user), dir.path().join("1"), 1, 0).unwrap();
        assert_eq!(one.files.keys().collect::<Vec<_>>(), ["sub/page.html"]);
        assert!(one.directory.join("link").is_symlink());
        make(Some(&user), dir.path().join("2"), 2, 1).unwrap();
        assert_eq!(read(&user).unwrap(), before);
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(make(Some(&empty), dir.path().join("3"), 1, 0).is_err());
    }

    #[test]
    fn noise_is_the_same_each_time_and_differs_by_seed() {
        assert_eq!(noise(1, 64), noise(1, 64));
        assert_ne!(noise(1, 64), noise(2, 64));
        assert_ne!(noise(2, 64), noise(3, 64));
    }
}
