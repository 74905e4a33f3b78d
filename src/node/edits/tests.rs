//! Lists that become versions, with a real store.

use super::*;
use crate::base::{
    MemberId, WallTime,
    catalog::{AppSpec, Origin, Version},
};

struct Bench {
    dir: tempfile::TempDir,
    store: ContentStore,
    application: Application,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("content")).unwrap();
        let mut writer = store.writer();
        let mut file = |name: &str, bytes: &[u8]| {
            let (digest, size, chunks) = store.ingest_file(&mut writer, bytes).unwrap();
            let node = Node::File { mode: 0o644, size, digest, chunks };
            Entry { path: RelPath::parse(name.as_bytes()).unwrap(), node }
        };
        let directory = RelPath::parse(b"d").unwrap();
        let directory = Entry { path: directory, node: Node::Directory { mode: 0o755 } };
        let old = vec![file("gone", b"once upon a time")];
        let new = vec![file("a", b"one"), directory, file("d/x", b"x"), file("d-y", b"y")];
        writer.commit().unwrap();
        let version = |number, entries| {
            let tree = Tree::new(entries).unwrap();
            Version {
                number,
                root: store.put_tree(&tree).unwrap(),
                files: tree.files(),
                bytes: tree.bytes(),
                spec: AppSpec { hosts: vec!["h".into()], ..AppSpec::default() },
                publisher: MemberId(Digest([1; 32])),
                published_at: WallTime(0),
                message: String::new(),
                origin: Origin::Published,
                asked: None,
            }
        };
        let versions = vec![version(1, old), version(2, new)];
        Self { dir, store, application: Application { versions } }
    }

    fn stage(&self, list: &str) -> Result<Vec<String>, Refusal> {
        let changes: Vec<Difference> = serde_json::from_str(list).unwrap();
        let app = AppName::parse("web").unwrap();
        let edits = Edits { app, changes, message: String::new(), base: None };
        let (root, command) = stage(&self.store, edits, &self.application)?;
        assert!(self.store.whole(&root).unwrap());
        let Command::Publish { spec, base, staged, .. } = command else { panic!() };
        assert_eq!((spec.hosts.len(), base, staged.root), (1, Some(2), root));
        let tree = self.store.tree(&root).unwrap().unwrap();
        Ok(tree.entries().map(|e| e.path.to_string()).collect())
    }

    fn refused(&self, list: &str, why: &str) {
        let refusal = self.stage(list).unwrap_err();
        assert!(refusal.why.contains(why), "{list}: {refusal:?}");
    }
}

/// Covers R10.
#[test]
fn a_list_changes_what_it_names_and_nothing_else() {
    let bench = Bench::new();
    let content = bench.dir.path().join("new");
    std::fs::write(&content, "new content").unwrap();
    let content = content.to_str().unwrap();
    let once = Digest::of_bytes(b"once upon a time");
    let list = format!(
        r#"[{{"op":"DEL","path":"d"}},{{"op":"DEL","path":"d/x"}},
            {{"op":"SET","path":"a","content":"{content}"}},
            {{"op":"ADD","path":"deep/down/b","after":
                {{"kind":"file","mode":"0600","size":16,"digest":"{once}"}}}},
            {{"op":"ADD","path":"l","after":{{"kind":"symlink","target":"deep/down"}}}}]"#
    );
    let paths = bench.stage(&list).unwrap();
    assert_eq!(paths, ["a", "d-y", "deep", "deep/down", "deep/down/b", "l"]);
}

#[test]
fn what_a_list_lacks_is_said_before_it_is_brought() {
    let bench = Bench::new();
    let content = bench.dir.path().join("new");
    std::fs::write(&content, "new content").unwrap();
    let (once, nobody) = (Digest::of_bytes(b"once upon a time"), Digest::of_bytes(b"nobody"));
    let edits = |list: &str| Edits {
        app: AppName::parse("web").unwrap(),
        changes: serde_json::from_str(list).unwrap(),
        message: String::new(),
        base: None,
    };
    let file = |size: u64, digest: Digest| {
        format!(r#""after":{{"kind":"file","mode":"0600","size":{size},"digest":"{digest}"}}"#)
    };
    let list = format!(
        r#"[{{"op":"SET","path":"a","content":"{}"}},{{"op":"ADD","path":"b",{}}},
            {{"op":"ADD","path":"c",{}}},{{"op":"ADD","path":"c2",{}}}]"#,
        content.display(),
        file(16, once),
        file(6, nobody),
        file(6, nobody),
    );
    let found = lacking(&bench.store, &edits(&list), &bench.application).unwrap();
    assert_eq!(found, BTreeSet::from([nobody]));
    let (new, count) = (Digest::of_bytes(b"new content"), bench.store.count().unwrap());
    assert!(!bench.store.has(&new).unwrap(), "looking stores nothing");
    // What would be refused later is refused before anything is brought.
    for (list, why) in [
        (format!(r#"[{{"op":"SET","path":"b",{}}}]"#, file(6, nobody)), "nothing stands there"),
        (format!(r#"[{{"op":"ADD","path":"b",{}}}]"#, file(7, once)), "has 16 bytes"),
        (r#"[{"op":"SET","path":"a","content":"/dev/zero"}]"#.to_owned(), "no regular file"),
    ] {
        let refusal = lacking(&bench.store, &edits(&list), &bench.application).unwrap_err();
        assert!(refusal.why.contains(why), "{list}: {refusal:?}");
    }
    assert_eq!(bench.store.count().unwrap(), count);
}

#[test]
fn a_list_that_does_not_fit_is_refused_as_a_whole() {
    let bench = Bench::new();
    let before = bench.store.trees().unwrap().len();
    let file = r#"{"kind":"file","mode":"0644","size":1,"digest":"DIGEST"}"#
        .replace("DIGEST", &Digest::of_bytes(b"nobody has this").to_string());
    let after = |op: &str, path: &str, item: &str| {
        format!(r#"[{{"op":"{op}","path":"{path}","after":{item}}}]"#)
    };
    bench.refused(&after("SET", "b", &file), "nothing stands there");
    bench.refused(&after("ADD", "a", &file), "stands there already");
    bench.refused(&after("ADD", "b", &file), "no kept version");
    bench.refused(&after("ADD", "../b", &file), "..");
    bench.refused(&after("ADD", "/b", &file), "ADD /b");
    bench.refused(&after("ADD", "b", r#"{"kind":"symlink","target":"../../etc"}"#), "leads out");
    bench.refused(&after("ADD", "b", r#"{"kind":"directory","mode":"4755"}"#), "permissions");
    bench.refused(&after("ADD", "a/b", r#"{"kind":"directory","mode":"755"}"#), "no directory");
    bench.refused(r#"[{"op":"DEL","path":"b"}]"#, "nothing stands there");
    bench.refused(r#"[{"op":"SET","path":"a"}]"#, "neither what nor from where");
    bench.refused(r#"[{"op":"SET","path":"a","content":"relative"}]"#, "absolute");
    bench.refused(r#"[{"op":"SET","path":"a","content":"/dev/zero"}]"#, "no regular file");
    let other = r#"[{"op":"DEL","path":"a","before":{"kind":"directory","mode":"0755"}}]"#;
    bench.refused(other, "something else stands there");
    let all = r#"[{"op":"DEL","path":"a"},{"op":"DEL","path":"d"},{"op":"DEL","path":"d-y"}]"#;
    bench.refused(all, "nothing at all");
    let lie = bench.dir.path().join("lie");
    std::fs::write(&lie, "x").unwrap();
    let place = lie.to_str().unwrap();
    let list = format!(r#"[{{"op":"ADD","path":"b","after":{file},"content":"{place}"}}]"#);
    bench.refused(&list, "does not have the signature");
    assert_eq!(bench.store.trees().unwrap().len(), before);
}

#[test]
fn content_may_be_chunks_that_are_here() {
    let bench = Bench::new();
    // Nothing that a version has: two chunks that only the store knows.
    let mut writer = bench.store.writer();
    let halves: [&[u8]; 2] = [b"one half, ", b"and the other"];
    let mut take = |bytes: &[u8]| bench.store.ingest_file(&mut writer, bytes).unwrap().2[0];
    let chunks = halves.map(&mut take);
    writer.commit().unwrap();
    let whole = halves.concat();
    let digest = Digest::of_bytes(&whole);
    let named = |chunks: &[(Digest, u32)]| {
        let all: Vec<String> = chunks
            .iter()
            .map(|(digest, len)| format!(r#"{{"digest":"{digest}","len":{len}}}"#))
            .collect();
        format!(r#""chunks":[{}]"#, all.join(","))
    };
    let list = |size: usize, digest: Digest, chunks: &[(Digest, u32)]| {
        format!(
            r#"[{{"op":"ADD","path":"new",{},"after":
                {{"kind":"file","mode":"0644","size":{size},"digest":"{digest}"}}}}]"#,
            named(chunks)
        )
    };
    let [a, b] = chunks.map(|chunk| (chunk.digest, chunk.len));
    let size = whole.len();
    assert!(bench.stage(&list(size, digest, &[a, b])).unwrap().contains(&"new".to_owned()));

    bench.refused(&list(size, digest, &[b, a]), "make content with another signature");
    bench.refused(&list(size, Digest::of_bytes(b"lie"), &[a, b]), "another signature");
    bench.refused(&list(size, digest, &[a]), "its chunks have 10 bytes, and the file has 23");
    bench.refused(&list(size, digest, &[(a.0, b.1), (b.0, a.1)]), "has 10 bytes, and not 13");
    let strange = (Digest::of_bytes(b"nobody has this"), b.1);
    bench.refused(&list(size, digest, &[a, strange]), "lacks 1 of its 2 chunks");
    bench.refused(&list(0, digest, &[(a.0, 0)]), "a chunk has 1 to");
    bench.refused(&list(size, digest, &[(a.0, u32::MAX)]), "a chunk has 1 to");
    let ill = list(size, digest, &[a, b]).replace(&a.0.to_string(), "../x");
    bench.refused(&ill, "is no signature of a chunk");

    // What is not here is asked for elsewhere, if the list says where.
    let edits = |list: &str| Edits {
        app: AppName::parse("web").unwrap(),
        changes: serde_json::from_str(list).unwrap(),
        message: String::new(),
        base: None,
    };
    let asked = |list: &str| lacking(&bench.store, &edits(list), &bench.application).unwrap();
    assert_eq!(asked(&list(size, digest, &[a, strange])), BTreeSet::from([digest]));
    assert_eq!(asked(&list(size, digest, &[a, b])), BTreeSet::new());
}
