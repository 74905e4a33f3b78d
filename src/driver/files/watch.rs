//! Watching: a live tree says that something in it changes, by inotify.
//!
//! It says where, and not what or how: a scan finds that out, and also finds what no
//! notice came of. So a lost notice costs time and nothing else.

use std::path::{Path, PathBuf};

use notify::{
    Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};

use super::{WorkDir, ignore::IgnoreRules};
use crate::{
    base::RelPath,
    driver::{DriverError, Watch},
};

/// What a watch tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What stands there is written, made, moved or taken away.
    Changed(RelPath),
    /// Something in the tree is, and where is not known.
    Lost,
    /// The file with this number was made beside it: see [`notice_name`].
    Noticed(u64),
}

const NOTICE: &str = "notice-";

/// The name of a file that is made in the hidden directory beside a live tree to be
/// noticed: whatever was done to the tree before was told by then.
pub fn notice_name(number: u64) -> String {
    format!("{NOTICE}{number}")
}

/// Calls `tell` whenever something in the tree `live` changes, unless `rules` ignore it,
/// or a notice is made beside it. It watches the directories that stand there now, and
/// those that are made in them: another tree in its place is not watched.
pub fn watch_with_notices(
    live: &Path,
    rules: IgnoreRules,
    tell: Box<dyn Fn(Told) + Send>,
) -> Result<Watch, DriverError> {
    let real = std::fs::canonicalize(live).map_err(|e| DriverError::io("watch", live, e))?;
    let beside = WorkDir::path_of(live);
    let beside = std::fs::canonicalize(&beside).unwrap_or(beside);
    let (root, area) = (real.clone(), beside.clone());
    let handler = move |event: notify::Result<Event>| {
        if let Ok(event) = &event
            && let [path] = event.paths.as_slice()
            && path.parent() == Some(&area)
        {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_prefix(NOTICE).and_then(|number| number.parse().ok());
            if let (Some(number), EventKind::Create(_)) = (number, event.kind) {
                tell(Told::Noticed(number));
            }
            return;
        }
        match event {
            Ok(event) => changed(&event, &root, &rules).into_iter().for_each(&tell),
            // The queue may have run over.
            Err(_) => tell(Told::Lost),
        }
    };
    let failed = |error: notify::Error| DriverError::Unwatched {
        path: live.to_owned(),
        why: error.to_string(),
    };
    // A link is content, and what it leads to is watched under its own name.
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(handler, config).map_err(failed)?;
    watcher.watch(&real, RecursiveMode::Recursive).map_err(failed)?;
    // Without it nothing is told beside the tree, and nobody counts on that.
    if let Err(error) = watcher.watch(&beside, RecursiveMode::NonRecursive) {
        tracing::debug!(path = %beside.display(), %error, "it is not watched");
    }
    Ok(Watch::new(watcher))
}

fn changed(event: &Event, root: &Path, rules: &IgnoreRules) -> Vec<Told> {
    // A file that was written through a memory map says so when it is closed.
    let closed = AccessKind::Close(AccessMode::Write);
    if matches!(event.kind, EventKind::Access(kind) if kind != closed) {
        return Vec::new();
    }
    if event.need_rescan() || event.paths.is_empty() {
        return vec![Told::Lost];
    }
    let told = |path: &PathBuf| match relative(root, path) {
        // The root itself, or what has no name that a tree could hold.
        None => Some(Told::Lost),
        // Whether it is a directory is not known any more where it is gone.
        Some(path) if rules.ignores(&path, false) || rules.ignores(&path, true) => None,
        Some(path) => Some(Told::Changed(path)),
    };
    event.paths.iter().filter_map(told).collect()
}

fn relative(root: &Path, path: &Path) -> Option<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    RelPath::parse(path.strip_prefix(root).ok()?.as_os_str().as_bytes()).ok()
}
