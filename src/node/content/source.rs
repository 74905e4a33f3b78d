//! What of this server may become content: nothing of the member's own data directory, where
//! its key and its record are, but live trees. Who may publish need not be one who may
//! read those.
//!
//! This looks at a path, before anything is read there. Whoever puts a link in its place
//! afterwards needs more than a way to publish: a login with the rights of the member's
//! user, or on what is published.

use std::path::{Path, PathBuf};

use crate::base::{Reason, Refusal};

/// Below the data directory: what is content already.
const LIVE: &[&str] = &["live"];
/// And where a command puts what it brings from elsewhere (`store::incoming`).
const LIVE_OR_BROUGHT: &[&str] = &["live", "incoming"];

/// Refuses the directory `source` where it is in the data directory `data` or holds it.
/// What is not there is refused by whoever reads it.
pub(in crate::node) fn refuse_directory(data: &Path, source: &Path) -> Result<(), Refusal> {
    if !touches(data, source, LIVE) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Invalid,
        "The directory was not published.",
        format!(
            "{} is in the data directory of this member, or holds it: its key and its record are \
             there.",
            source.display()
        ),
        "Publish another directory; of the data directory only what is below live/ can be.",
    ))
}

/// Refuses the file `source`, which a list names, where it is in the data directory `data`.
pub(in crate::node) fn refuse_file(data: &Path, source: &Path) -> Result<(), Refusal> {
    if !touches(data, source, LIVE_OR_BROUGHT) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Invalid,
        "The list was not published; nothing was changed.",
        format!(
            "{} is in the data directory of this member: its key and its record are there.",
            source.display()
        ),
        "Name another file; of the data directory only what is below live/ can be.",
    ))
}

/// Whether `source` is in `data`, and not below one of `open` there, or holds it, wherever
/// links lead.
fn touches(data: &Path, source: &Path, open: &[&str]) -> bool {
    let Ok(source) = source.canonicalize() else { return false };
    let data: PathBuf = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let is_below = |name: &&str| {
        let top = data.join(name);
        source != top && source.starts_with(top)
    };
    let is_open = open.iter().any(is_below);
    data.starts_with(&source) || (source.starts_with(&data) && !is_open)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn bench() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["data/records", "data/live/www/deep", "data/incoming/1", "data-2", "site"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["data/member.key", "data/live/www/page", "data/incoming/1/0", "site/page"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        symlink("data/records", dir.path().join("link")).unwrap();
        symlink("data/member.key", dir.path().join("key")).unwrap();
        symlink("../records", dir.path().join("data/live/out")).unwrap();
        dir
    }

    #[test]
    fn of_the_data_directory_only_live_trees_are_published() {
        let dir = bench();
        let look = |name: &str| refuse_directory(&dir.path().join("data"), &dir.path().join(name));
        for name in [
            "data",
            "data/",
            "data/records",
            "data/incoming/1",
            "data/live",
            "data/live/../records",
            "data/live/out",
            "link",
            "",
            "..",
        ] {
            let refusal = look(name).unwrap_err();
            assert!(refusal.why.contains("the data directory of this member"), "{name}");
        }
        for name in ["data/live/www", "data/live/www/deep", "site", "data-2", "missing"] {
            look(name).unwrap();
        }
        let root = refuse_directory(&dir.path().join("data"), Path::new("/"));
        assert_eq!(root.unwrap_err().reason, Reason::Invalid);
        // Where the data directory is given by a link.
        symlink("data", dir.path().join("alias")).unwrap();
        let by_link = |name: &str| {
            refuse_directory(&dir.path().join("alias"), &dir.path().join(name)).is_err()
        };
        assert!(by_link("data/records") && by_link("alias/records") && !by_link("alias/live/www"));
    }

    #[test]
    fn no_list_names_a_file_of_the_data_directory_but_of_live_trees() {
        let dir = bench();
        let look = |name: &str| refuse_file(&dir.path().join("data"), &dir.path().join(name));
        for name in ["data/member.key", "data/live/out/../member.key", "key"] {
            let refusal = look(name).unwrap_err();
            assert!(refusal.why.contains("the data directory of this member"), "{name}");
        }
        for name in ["data/live/www/page", "data/incoming/1/0", "site/page", "missing"] {
            look(name).unwrap();
        }
    }
}
