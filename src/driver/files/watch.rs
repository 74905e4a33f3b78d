//! Watching: a live tree says that something in it changes, by inotify.
//!
//! It says neither what nor how: a scan finds that out, and also finds what no
//! notice came of. So a lost notice costs time and nothing else.

use std::path::{Path, PathBuf};

use notify::{Event, EventKind, RecursiveMode, Watcher};

use super::ignore::IgnoreRules;
use crate::{
    base::RelPath,
    driver::{DriverError, Watch},
};

/// Calls `changed` whenever something in the tree `live` is written, made, moved or
/// taken away, unless `rules` ignore it. It watches the directories that stand there
/// now, and those that are made in them: another tree in its place is not watched.
pub fn watch(
    live: &Path,
    rules: IgnoreRules,
    changed: Box<dyn Fn() + Send>,
) -> Result<Watch, DriverError> {
    let real = std::fs::canonicalize(live).map_err(|e| DriverError::io("watch", live, e))?;
    let root = real.clone();
    let handler = move |event: notify::Result<Event>| {
        // An error is a notice as well: the queue may have run over.
        let matters = event.as_ref().map_or(true, |event| is_change(event, &root, &rules));
        if matters {
            changed();
        }
    };
    let failed = |error: notify::Error| DriverError::Unwatched {
        path: live.to_owned(),
        why: error.to_string(),
    };
    let mut watcher = notify::recommended_watcher(handler).map_err(failed)?;
    watcher.watch(&real, RecursiveMode::Recursive).map_err(failed)?;
    Ok(Watch::new(watcher))
}

fn is_change(event: &Event, root: &Path, rules: &IgnoreRules) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let counts = |path: &PathBuf| match relative(root, path) {
        // The root itself, or what has no name that a tree could hold.
        None => true,
        // Whether it is a directory is not known any more where it is gone.
        Some(path) => !rules.ignores(&path, false) && !rules.ignores(&path, true),
    };
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(counts)
}

fn relative(root: &Path, path: &Path) -> Option<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    RelPath::parse(path.strip_prefix(root).ok()?.as_os_str().as_bytes()).ok()
}
