//! Questions answered from a real store and a real live tree.

use std::{collections::BTreeSet, path::Path};

use super::*;
use crate::base::{
    MemberId,
    catalog::{AppSpec, Origin},
};

struct Bench {
    dir: tempfile::TempDir,
    content: Content,
    application: Application,
}

impl Bench {
    /// With these versions of one application, the last one live.
    fn new(versions: &[&[(&str, &[u8])]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("content")).unwrap();
        let (live, state) = (dir.path().join("live"), dir.path().join("state"));
        let content = Content::open(store, live, state).unwrap();
        let mut application = Application { versions: Vec::new() };
        for (files, number) in versions.iter().zip(1..) {
            let source = tempfile::tempdir().unwrap();
            for (name, bytes) in *files {
                write(source.path(), name, bytes);
            }
            let staged =
                content.stage(source.path(), &[], &crate::node::content::Made::default()).unwrap();
            content.activate(&app(), number, number, staged.root, &AppSpec::default()).unwrap();
            application.versions.push(Version {
                number,
                root: staged.root,
                files: staged.files,
                bytes: staged.bytes,
                spec: AppSpec::default(),
                publisher: MemberId(Digest([1; 32])),
                published_at: WallTime(0),
                message: String::new(),
                origin: Origin::Published,
                asked: None,
            });
        }
        Self { dir, content, application }
    }

    fn ask(&self, question: Question) -> Result<Findings, Refusal> {
        answer(&self.content, self.content.store(), question, &self.application)
    }

    fn diff(&self, from: Option<u64>, to: Option<u64>, live: bool) -> Diff {
        let question = Question::Diff { app: app(), from, to, live, text: true };
        let Findings::Diff(diff) = self.ask(question).unwrap() else { panic!() };
        diff
    }

    fn compare(&self, lists: bool) -> Compared {
        let question = Question::Compare { app: app(), full: false, lists };
        let Findings::Compared(found) = self.ask(question).unwrap() else { panic!() };
        found
    }

    fn live(&self, name: &str) -> PathBuf {
        self.dir.path().join("live/www").join(name)
    }
}

fn app() -> AppName {
    AppName::parse("www").unwrap()
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn words(diff: &Diff) -> Vec<String> {
    diff.changes.iter().map(|c| format!("{} {}", c.op.word(), c.path)).collect()
}

#[test]
fn two_versions_differ_in_paths_and_in_lines() {
    let bench = Bench::new(&[
        &[("a", b"one\ntwo\nthree\n"), ("gone/x", b"x"), ("image", b"\x00\xff")],
        &[("a", b"one\n2\nthree\n"), ("b", b"new\n"), ("image", b"\x00\xfe")],
    ]);
    let diff = bench.diff(None, None, false);
    assert_eq!((diff.from.as_str(), diff.to.as_str()), ("version 1", "version 2"));
    assert_eq!(words(&diff), ["SET a", "ADD b", "DEL gone", "DEL gone/x", "SET image"]);
    assert_eq!((diff.added, diff.changed, diff.deleted), (1, 2, 2));
    let text = diff.changes[0].text.as_ref().unwrap();
    assert!(text.contains("--- a/a") && text.contains("-two\n") && text.contains("+2\n"), "{text}");
    assert!(diff.changes[1].text.as_ref().unwrap().contains("+new"));
    assert!(diff.changes[4].text.is_none(), "it is no text");
    assert!(bench.diff(Some(2), Some(2), false).same);
    assert_eq!(words(&bench.diff(Some(2), Some(1), false))[0], "SET a");

    let first = Bench::new(&[&[("a", b"1")]]);
    let diff = first.diff(None, None, false);
    assert_eq!((diff.from.as_str(), words(&diff)), ("nothing", vec!["ADD a".to_owned()]));
    let question = Question::Diff { app: app(), from: Some(7), to: None, live: false, text: false };
    assert_eq!(first.ask(question).unwrap_err().reason, Reason::NotFound);
}

#[test]
fn what_stands_here_is_compared_and_listed() {
    let bench = Bench::new(&[&[("a", b"1\n"), ("d/b", b"2\n")]]);
    let same = bench.compare(true);
    assert!(same.same && same.differing == 0 && same.lacking == 0);
    let lists = same.lists.unwrap();
    let have: Vec<&str> = lists.have.iter().map(|l| l.path.as_str()).collect();
    assert_eq!(have, ["a", "d", "d/b"]);
    assert!(lists.action.is_empty() && lists.update.is_empty());

    std::fs::write(bench.live("a"), "other\n").unwrap();
    std::fs::remove_file(bench.live("d/b")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.live("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let diff = bench.diff(None, None, true);
    assert_eq!(diff.to, "what stands here");
    assert_eq!(words(&diff), ["SET a", "DEL d/b", "ADD pipe"]);
    assert!(diff.changes[0].text.as_ref().unwrap().contains("+other"));
    let found = bench.compare(true);
    assert!(!found.same && found.differing == 3);
    let update = found.lists.unwrap().update;
    let update: Vec<String> =
        update.iter().map(|u| format!("{} {}", u.op.word(), u.path)).collect();
    assert_eq!(update, ["SET a", "ADD d/b", "DEL pipe"]);
    assert!(bench.compare(false).lists.is_none());
}

#[test]
fn what_a_repair_replaced_is_listed_and_copied_out() {
    let bench = Bench::new(&[&[("a", b"right"), ("b", b"right")]]);
    let ask = |into: PathBuf, number| bench.ask(Question::Restore { app: app(), number, into });
    let kept = || match bench.ask(Question::Kept { app: app() }) {
        Ok(Findings::Kept(kept)) => kept,
        other => panic!("{other:?}"),
    };
    assert!(kept().is_empty());
    std::fs::write(bench.live("a"), "an afternoon of work").unwrap();
    bench.content.repair(&app(), bench.application.current().root).unwrap();
    assert_eq!(std::fs::read_to_string(bench.live("a")).unwrap(), "right");
    let list = kept();
    assert_eq!((list.len(), list[0].number, list[0].files, list[0].bytes), (1, 1, 1, 20));
    assert_eq!(list[0].sample, ["a"]);

    let out = bench.dir.path().join("out");
    let Ok(Findings::Restored(done)) = ask(out.clone(), 1) else { panic!() };
    assert_eq!((done.files, done.bytes), (1, 20));
    assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "an afternoon of work");
    assert!(ask(out, 1).is_err(), "nothing is written over");
    let inside = ask(bench.live("again"), 1).unwrap_err();
    assert!(inside.why.contains("live tree") && !bench.live("again").exists(), "{inside:?}");
    assert_eq!(ask(bench.dir.path().join("x"), 9).unwrap_err().reason, Reason::NotFound);
    assert_eq!(ask("x".into(), 1).unwrap_err().reason, Reason::Invalid);
}

fn elsewhere(bench: &Bench, version: Option<u64>, have: Vec<Listed>) -> Result<Elsewhere, Refusal> {
    match bench.ask(Question::Elsewhere { app: app(), version, have })? {
        Findings::Elsewhere(found) => Ok(found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_from_elsewhere_is_compared_with_a_version() {
    let bench = Bench::new(&[
        &[("a", b"1\n"), ("d/b", b"2\n")],
        &[("a", b"one\n"), ("copy", b"2\n"), ("d/b", b"2\n"), ("new", b"new\n")],
    ]);
    let one = Bench::new(&[&[("a", b"1\n"), ("d/b", b"2\n")]]);
    let have = one.compare(true).lists.unwrap().have;
    let found = elsewhere(&bench, None, have.clone()).unwrap();
    assert_eq!((found.version, found.listed, found.same), (2, 3, false));
    let words = |update: &[Difference]| -> Vec<String> {
        update.iter().map(|u| format!("{} {}", u.op.word(), u.path)).collect()
    };
    assert_eq!(words(&found.lists.update), ["SET a", "ADD copy", "ADD new"]);
    // What one of its files has need not come from anywhere.
    let asked: Vec<&str> = found.lists.action.iter().map(|w| w.digest.as_str()).collect();
    let digests = [b"one\n", b"new\n"].map(|bytes| Digest::of_bytes(bytes).to_string());
    assert_eq!(BTreeSet::from_iter(asked), digests.iter().map(String::as_str).collect());
    assert_eq!(found.lists.update[0].chunks.len(), 1, "it says of what the content is made");
    assert!(elsewhere(&bench, Some(1), have.clone()).unwrap().same);
    assert_eq!(words(&elsewhere(&bench, Some(1), vec![]).unwrap().lists.update).len(), 3);
    let newer = bench.compare(true).lists.unwrap().have;
    let back = elsewhere(&bench, Some(1), newer).unwrap();
    assert_eq!(words(&back.lists.update), ["SET a", "DEL copy", "DEL new"]);

    // The list makes the version, on a member that has the first one only.
    let edits =
        Edits { app: app(), changes: found.lists.update, message: String::new(), base: None };
    let root = bench.application.versions[1].root;
    let first = Application { versions: vec![bench.application.versions[0].clone()] };
    let (made, _) = crate::node::edits::stage(bench.content.store(), edits, &first).unwrap();
    assert_eq!(made, root);

    for (listed, why) in [
        (Listed { path: "../a".into(), item: have[0].item.clone() }, "item 4 (../a)"),
        (have[0].clone(), "item 4 (a): it is listed twice"),
        (Listed { path: "x".into(), item: Item::Directory { mode: "9".into() } }, "permissions"),
    ] {
        let list = have.iter().cloned().chain([listed]).collect();
        let refused = elsewhere(&bench, None, list).unwrap_err();
        assert!(refused.why.contains(why), "{refused}");
    }
    let many = vec![have[0].clone(); CHANGES_MAX + 1];
    assert!(elsewhere(&bench, None, many).unwrap_err().why.contains("more than 100000"));
    assert_eq!(elsewhere(&bench, Some(9), have).unwrap_err().reason, Reason::NotFound);
}

#[test]
fn chunks_of_an_action_list_are_looked_for_by_reading_them() {
    let bench = Bench::new(&[&[("a", b"right"), ("b", b"wrong in a moment")]]);
    let wanted = |bytes: &[u8]| Wanted {
        digest: Digest::of_bytes(bytes).to_string(),
        len: bytes.len() as u32,
    };
    let ask = |action| match bench.ask(Question::Pieces { app: app(), action })? {
        Findings::Pieces(found) => Ok::<_, Refusal>(found),
        other => panic!("{other:?}"),
    };
    let (here, rotten, strange) = (wanted(b"right"), wanted(b"wrong in a moment"), wanted(b"x"));
    let found = ask(vec![here.clone(), rotten.clone(), strange.clone()]).unwrap();
    assert_eq!((found.asked, found.whole, found.bytes), (3, 2, 22));
    assert_eq!((found.lacking, found.damaged), (vec![strange.clone()], vec![]));
    // A byte of it changes on the disk.
    let packs = bench.dir.path().join("content/packs");
    for pack in std::fs::read_dir(packs).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|window| window == b"wrong");
        if let Some(at) = at {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let found = ask(vec![here.clone(), rotten.clone()]).unwrap();
    assert_eq!((found.whole, found.damaged), (1, vec![rotten]));

    for (wrong, why) in [
        (Wanted { len: 4, ..here.clone() }, "has 5 bytes, and not 4"),
        (Wanted { len: 0, ..here.clone() }, "chunk 2: a chunk has 1 to"),
        (Wanted { digest: "../../x".into(), len: 1 }, "is no signature"),
    ] {
        let refused = ask(vec![strange.clone(), wrong]).unwrap_err();
        assert!(refused.why.contains(why), "{refused}");
    }
    let many = vec![strange; CHANGES_MAX + 1];
    assert!(ask(many).unwrap_err().why.contains("more than 100000"));
}
