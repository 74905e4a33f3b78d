//! In which files what stands on a member differs from the version in force, and what a
//! publication that is under way changes: told to any member that asks, for the status page
//! and `althing diff --live --member`.
//!
//! Paths are told, and what is with them; never content, and so nothing of what is within the
//! document of secrets. Whoever asks names an application and nothing else: what it is compared
//! with is what the asked member's own catalog says. It decides nothing and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    content::{Content, ContentError},
    inspect::Op,
};
use crate::{
    base::{
        AppName, Digest, Reason, Refusal, RelPath,
        catalog::{Application, Catalog},
        tree::{Change, Tree, changes},
    },
    driver::Scan,
};

/// Paths in one list: what a person reads. The rest is counted.
pub const PATHS_MAX: usize = 200;
/// Bytes of the paths in one list, as JSON: of the longest ones fewer are told. Two lists are
/// one part of an answer between members.
const PATHS_BYTES_MAX: usize = 64 << 10;

/// How what stands on one member differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// In which application.
    pub app: AppName,
    /// The version in force, as that member knows it; 0 before there is one.
    pub version: u64,
    /// The version that it switched to last; nothing where nothing of it is live there.
    #[serde(default)]
    pub live: Option<u64>,
    /// From the version in force to what stands there. Nothing where nothing is live, or where
    /// the member does not know yet which files that version has.
    #[serde(default)]
    pub differs: Option<Paths>,
    /// A publication of that application that is under way.
    #[serde(default)]
    pub coming: Option<Coming>,
}

/// A version that is being published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Its number.
    pub version: u64,
    /// From the version before to this one. Nothing where the member does not know yet which
    /// files it has.
    #[serde(default)]
    pub changes: Option<Paths>,
}

/// Paths that differ: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Those that were not there.
    pub added: u64,
    /// Those that were there, and are another content, kind or mode.
    pub changed: u64,
    /// Those that are not there any more.
    pub deleted: u64,
    /// The first ones, sorted.
    pub paths: Vec<Path>,
    /// How many more there are.
    pub more: u64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// What is with it.
    pub op: Op,
    /// Which, for people: what is no text is escaped or lost.
    pub path: String,
}

impl Differs {
    /// Without what another member told beyond the bounds.
    pub fn bounded(mut self) -> Self {
        let coming = self.coming.as_mut().and_then(|coming| coming.changes.as_mut());
        for paths in self.differs.as_mut().into_iter().chain(coming) {
            let surplus = paths.paths.len().saturating_sub(PATHS_MAX);
            paths.paths.truncate(PATHS_MAX);
            paths.more = paths.more.saturating_add(surplus as u64);
        }
        self
    }
}

impl Paths {
    /// How many there are.
    pub fn total(&self) -> u64 {
        self.added.saturating_add(self.changed).saturating_add(self.deleted)
    }

    fn of(mut all: Vec<(Op, RelPath)>) -> Self {
        all.sort_by(|(_, a), (_, b)| a.components().cmp(b.components()));
        let count = |op| all.iter().filter(|(one, _)| *one == op).count() as u64;
        let (added, changed, deleted) = (count(Op::Add), count(Op::Set), count(Op::Del));
        let mut room = PATHS_BYTES_MAX;
        let told = all.iter().map(|(op, path)| Path { op: *op, path: path.to_string() });
        let fits = |one: &Path| {
            let left = room.checked_sub(json_len(&one.path));
            room = left.unwrap_or_default();
            left.is_some()
        };
        let paths: Vec<Path> = told.take(PATHS_MAX).take_while(fits).collect();
        let more = (all.len() - paths.len()) as u64;
        Self { added, changed, deleted, paths, more }
    }

    /// What turns one tree into the other.
    fn between(before: &Tree, after: &Tree) -> Self {
        Self::of(changes(before, after).into_iter().map(op_of).collect())
    }

    /// From `version` to what was seen in the live tree, also what no version can hold.
    fn to_live(version: &Tree, scan: &Scan) -> Self {
        let strange: BTreeSet<&RelPath> = scan.strange.iter().collect();
        let list = changes(version, &scan.tree).into_iter().map(op_of);
        let mut all: Vec<(Op, RelPath)> =
            list.filter(|(_, path)| !strange.contains(path)).collect();
        all.extend(strange.into_iter().map(|path| {
            let op = if version.get(path).is_some() { Op::Set } else { Op::Add };
            (op, path.clone())
        }));
        Self::of(all)
    }
}

fn op_of(change: Change) -> (Op, RelPath) {
    match change {
        Change::Set(entry) => (Op::Set, entry.path),
        Change::Add(entry) => (Op::Add, entry.path),
        Change::Del(path) => (Op::Del, path),
    }
}

/// Bytes of a text as JSON.
fn json_len(text: &str) -> usize {
    // Text always serialises.
    serde_json::to_string(text).map_or(usize::MAX, |json| json.len())
}

/// What the catalog says of content, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The number and signature of the version in force.
    current: BTreeMap<AppName, (u64, Digest)>,
    coming: Option<Published>,
}

/// A publication that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    app: AppName,
    version: u64,
    root: Digest,
    /// The version that it was made against; nothing where it is the first one.
    before: Option<Digest>,
}

impl Known {
    pub fn of(catalog: &Catalog) -> Self {
        let current = |(app, application): (&AppName, &Application)| {
            let version = application.current();
            (app.clone(), (version.number, version.root))
        };
        let all = catalog.applications.iter().map(current);
        let publication = catalog.window.as_ref().and_then(|window| window.publication.as_ref());
        let coming = publication.and_then(|publication| {
            let before = match publication.base {
                0 => None,
                base => Some(catalog.application(&publication.app)?.version(base)?.root),
            };
            let (app, version) = (publication.app.clone(), &publication.version);
            Some(Published { app, version: version.number, root: version.root, before })
        });
        Self { current: all.collect(), coming }
    }
}

/// Looks at what stands here of `app`. Where it is watched only what changed is looked at.
/// Blocks.
pub(super) fn look(content: &Content, known: &Known, app: &AppName) -> Result<Differs, Refusal> {
    let current = known.current.get(app).copied();
    let coming = known.coming.as_ref().filter(|coming| coming.app == *app);
    // Nothing is asked of the content about names that somebody made up.
    if current.is_none() && coming.is_none() {
        return Err(Refusal::new(
            Reason::NotFound,
            "Nothing was compared.",
            format!("There is no application named {app} in the catalog of this member."),
            "See `althing apps` for those that there are.",
        ));
    }
    compare(content, app, current, coming).map_err(|error| {
        Refusal::new(
            Reason::Failed,
            format!("{app} was not compared."),
            format!("{error}."),
            "Mend the cause, and ask again.",
        )
    })
}

fn compare(
    content: &Content,
    app: &AppName,
    current: Option<(u64, Digest)>,
    coming: Option<&Published>,
) -> Result<Differs, ContentError> {
    let store = content.store();
    let (mut live, mut differs) = (None, None);
    if let Some((_, root)) = current
        && let Some((version, mut scan)) = content.live_where_changed(app)?
    {
        live = Some(version);
        if let Some(want) = store.tree(&root)? {
            scan.fit(&want)?;
            differs = Some(Paths::to_live(&want, &scan));
        }
    }
    let mut told = None;
    if let Some(coming) = coming {
        let before = match &coming.before {
            Some(root) => store.tree(root)?,
            None => Some(Arc::default()),
        };
        let after = store.tree(&coming.root)?;
        let changes = before.zip(after).map(|(before, after)| Paths::between(&before, &after));
        told = Some(Coming { version: coming.version, changes });
    }
    let version = current.map_or(0, |(number, _)| number);
    Ok(Differs { app: app.clone(), version, live, differs, coming: told })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::{base::catalog::AppSpec, node::content::Made, store::ContentStore};

    fn app() -> AppName {
        AppName::parse("www").unwrap()
    }

    /// As much as can be told at once.
    pub fn widest() -> Differs {
        // The deepest paths that there are, and those that are widest as JSON.
        let wide = "𝄞".repeat(60);
        let deep = |n: usize| {
            let path = format!("{}/{n}", [&wide[..]; 12].join("/"));
            (Op::Add, RelPath::parse(path.as_bytes()).unwrap())
        };
        let quotes = |n: usize| {
            (Op::Del, RelPath::parse(format!("{}{n}", "\"".repeat(240)).as_bytes()).unwrap())
        };
        let paths = Paths::of((0..PATHS_MAX).map(deep).collect());
        let quoted = Paths::of((0..9 * PATHS_MAX).map(quotes).collect());
        assert!(!paths.paths.is_empty() && paths.more > 0);
        let coming = Some(Coming { version: u64::MAX, changes: Some(quoted) });
        let (version, live) = (u64::MAX, Some(u64::MAX));
        Differs { app: app(), version, live, differs: Some(paths), coming }
    }

    struct Bench {
        dir: tempfile::TempDir,
        content: Content,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = ContentStore::open(&dir.path().join("content")).unwrap();
            let (live, state) = (dir.path().join("live"), dir.path().join("state"));
            let content = Content::open(store, live, state).unwrap();
            Self { dir, content }
        }

        /// Takes these files into the store.
        fn stage(&self, files: &[(&str, &str)]) -> Digest {
            let source = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = source.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            self.content.stage(source.path(), &[], &Made::default()).unwrap().root
        }

        fn live(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join("live/www").join(name)
        }
    }

    fn known(version: u64, root: Digest, coming: Option<Published>) -> Known {
        Known { current: BTreeMap::from([(app(), (version, root))]), coming }
    }

    fn words(paths: &Paths) -> Vec<String> {
        paths.paths.iter().map(|one| format!("{} {}", one.op.word(), one.path)).collect()
    }

    #[test]
    fn what_stands_here_is_told_by_its_paths() {
        let bench = Bench::new();
        let root = bench.stage(&[("a", "1"), ("b", "2"), ("d/c", "3")]);
        let known = known(4, root, None);
        let look = || look(&bench.content, &known, &app()).unwrap();
        // In force, and not live here yet.
        let nothing = look();
        assert_eq!((nothing.version, nothing.live, nothing.differs), (4, None, None));
        bench.content.activate(&app(), 4, 4, root, &AppSpec::default()).unwrap();
        let same = look();
        assert_eq!((same.live, same.differs, same.coming), (Some(4), Some(Paths::default()), None));

        fs::write(bench.live("a"), "an edit that nobody is told").unwrap();
        fs::write(bench.live("new"), "x").unwrap();
        fs::remove_file(bench.live("d/c")).unwrap();
        // A pipe in the place of a file: no version can hold it, and it is told once.
        fs::remove_file(bench.live("b")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, bench.live("b"), rustix::fs::Mode::RWXU).unwrap();
        let found = look();
        let paths = found.differs.as_ref().unwrap();
        assert_eq!(words(paths), ["SET a", "SET b", "DEL d/c", "ADD new"]);
        assert_eq!((paths.added, paths.changed, paths.deleted, paths.more), (1, 2, 1, 0));
        assert_eq!(paths.total(), 4);
        let json = serde_json::to_string(&found).unwrap();
        assert!(!json.contains("an edit"), "content is told to nobody: {json}");
    }

    #[test]
    fn a_member_that_is_late_says_which_version_stands_there() {
        let bench = Bench::new();
        let old = bench.stage(&[("a", "1")]);
        bench.content.activate(&app(), 4, 4, old, &AppSpec::default()).unwrap();
        let new = bench.stage(&[("a", "2"), ("b", "2")]);
        let found = look(&bench.content, &known(5, new, None), &app()).unwrap();
        assert_eq!((found.version, found.live), (5, Some(4)));
        assert_eq!(words(&found.differs.unwrap()), ["SET a", "DEL b"]);
        // Of a version that it has not heard the files of there is nothing to compare with.
        let unheard = known(6, Digest::of_bytes(b"elsewhere"), None);
        let found = look(&bench.content, &unheard, &app()).unwrap();
        assert_eq!((found.version, found.live, found.differs), (6, Some(4), None));
    }

    #[test]
    fn what_is_published_is_told_while_it_is_under_way() {
        let bench = Bench::new();
        let old = bench.stage(&[("a", "1"), ("gone", "1")]);
        bench.content.activate(&app(), 1, 1, old, &AppSpec::default()).unwrap();
        let coming = |root, before| Some(Published { app: app(), version: 2, root, before });
        let of = |known: Known| look(&bench.content, &known, &app()).unwrap().coming.unwrap();
        // Before its listing has come.
        let unheard = of(known(1, old, coming(Digest::of_bytes(b"unheard"), Some(old))));
        assert_eq!(unheard, Coming { version: 2, changes: None });
        let new = bench.stage(&[("a", "2"), ("b", "1")]);
        let told = of(known(1, old, coming(new, Some(old))));
        assert_eq!(words(&told.changes.unwrap()), ["SET a", "ADD b", "DEL gone"]);
        // The first version of an application, which nobody has yet.
        let first = Known { current: BTreeMap::new(), coming: coming(new, None) };
        let found = look(&bench.content, &first, &app()).unwrap();
        assert_eq!((found.version, found.live), (0, None));
        assert_eq!(words(&found.coming.unwrap().changes.unwrap()), ["ADD a", "ADD b"]);
        // Another application's is nothing to this one, and a name that is made up is none.
        let other = AppName::parse("other").unwrap();
        assert_eq!(look(&bench.content, &first, &other).unwrap_err().reason, Reason::NotFound);
        let of_other = coming(new, None).map(|coming| Published { app: other, ..coming });
        let found = look(&bench.content, &known(1, old, of_other), &app()).unwrap();
        assert_eq!(found.coming, None);
    }

    #[test]
    fn a_list_is_bounded_and_the_rest_is_counted() {
        let path = |n: usize| (Op::Add, RelPath::parse(format!("f{n:04}").as_bytes()).unwrap());
        let paths = Paths::of((0..1_000).rev().map(path).collect());
        assert_eq!((paths.paths.len(), paths.more, paths.total()), (PATHS_MAX, 800, 1_000));
        assert_eq!((&*paths.paths[0].path, &*paths.paths[199].path), ("f0000", "f0199"));
        let whole = widest();
        for paths in [whole.differs.as_ref(), whole.coming.as_ref().unwrap().changes.as_ref()] {
            let paths = paths.unwrap();
            assert_eq!(paths.paths.len() as u64 + paths.more, paths.total());
            let bytes: usize = paths.paths.iter().map(|one| json_len(&one.path)).sum();
            assert!(bytes <= PATHS_BYTES_MAX && bytes > PATHS_BYTES_MAX / 2, "{bytes}");
        }
    }

    #[test]
    fn what_a_member_tells_beyond_the_bounds_is_cut() {
        let one = Path { op: Op::Set, path: "x".to_owned() };
        let told =
            |n: usize| Paths { changed: n as u64, paths: vec![one.clone(); n], ..Paths::default() };
        let coming = Some(Coming { version: 2, changes: Some(told(PATHS_MAX + 3)) });
        let differs = Some(Paths { more: u64::MAX, ..told(PATHS_MAX + 1) });
        let bounded = Differs { app: app(), version: 1, live: None, differs, coming }.bounded();
        let (differs, coming) =
            (bounded.differs.unwrap(), bounded.coming.unwrap().changes.unwrap());
        assert_eq!((differs.paths.len(), differs.more), (PATHS_MAX, u64::MAX));
        assert_eq!((coming.paths.len(), coming.more), (PATHS_MAX, 3));
        let newer = r#"{"app":"www","version":3,"moon":"full"}"#;
        let read: Differs = serde_json::from_str(newer).unwrap();
        assert_eq!((read.version, read.live, read.differs, read.coming), (3, None, None, None));
    }
}
