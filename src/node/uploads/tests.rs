//! What an operator's command may send, and what it may not.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::time::advance;

use super::*;
use crate::{
    base::{
        limits,
        tree::{Chunk, Entry, Node},
        wire::{self, Kind},
    },
    node::manifest,
    proto::replication::IHaveList,
    store,
};

struct Bench {
    store: ContentStore,
    uploads: Uploads,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    Bench { uploads: Uploads::new(store.clone(), true), store, _dir: dir }
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn file(name: &str, bytes: &[u8]) -> Entry {
    let (digest, size, chunks) = store::cut(bytes, |_, _| Ok(())).unwrap();
    Entry { path: path(name), node: Node::File { mode: 0o644, size, digest, chunks } }
}

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk { digest: Digest::of_bytes(bytes), len: bytes.len() as u32 }
}

/// Of two pieces, which make it if `of` is what they make.
fn of_two(name: &str, pieces: [&[u8]; 2], of: &[u8]) -> Entry {
    let chunks: Vec<Chunk> = pieces.map(chunk).into();
    let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    let node = Node::File { mode: 0o644, size, digest: Digest::of_bytes(of), chunks };
    Entry { path: path(name), node }
}

fn tree(entries: &[Entry]) -> Tree {
    Tree::new(entries.to_vec()).unwrap()
}

fn operator(name: &str) -> OperatorName {
    OperatorName::parse(name).unwrap()
}

fn act(name: &str) -> Act {
    Act { operator: operator(name), event: 7, text: "publish".to_owned(), app: None }
}

fn offer(root: Digest) -> Offer {
    Offer {
        root,
        app: Some(AppName::parse("web").unwrap()),
        source: "/home/alice/site".to_owned(),
        message: String::new(),
        base: None,
        hosts: vec![],
        manifest: None,
    }
}

fn listed(tree: &Tree) -> Vec<u8> {
    wire::encode(Kind::Tree, &IHaveList::new(tree.clone()))
}

fn packed(pieces: &[&[u8]]) -> Vec<u8> {
    lists::pack(pieces.iter().map(|bytes| (chunk(bytes), *bytes)))
}

/// The refusal of something; what succeeded has no words.
fn refused<T>(result: Result<T, Refusal>) -> Refusal {
    result.err().expect("it was taken")
}

impl Bench {
    fn begin(&self, tree: &Tree) -> Bringing {
        let begun = self.uploads.begin(act("alice"), offer(tree.root()), &[]).unwrap();
        assert_eq!(begun.reply.next, Next::List);
        self.uploads.go_on(&operator("alice"), begun.reply.upload).unwrap()
    }

    /// As far as the list.
    fn asked(&self, tree: &Tree) -> (Bringing, Reply) {
        let bringing = self.begin(tree);
        let reply = bringing.list(&listed(tree)).unwrap();
        (bringing, reply)
    }

    /// The list of a tree that is refused, and why.
    fn list_refused(&self, tree: &Tree) -> Refusal {
        let bringing = self.begin(tree);
        let refusal = refused(bringing.list(&listed(tree)));
        assert_eq!((refusal.reason, self.uploads.len()), (Reason::Invalid, 0), "it is over");
        refusal
    }

    fn collection_waits(&self) -> bool {
        self.store.retain(&BTreeSet::new()).unwrap().postponed
    }
}

fn chunks(next: &Next) -> &[Chunk] {
    match next {
        Next::Chunks(list) => &list.chunks,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_lacking_is_asked_for_taken_and_kept_until_it_is_published() {
    let bench = bench();
    let mut writer = bench.store.writer();
    writer.put(Digest::of_bytes(b"here"), b"here").unwrap();
    writer.commit().unwrap();
    let tree = tree(&[file("a", b"one"), file("b", b"here"), file("c", b"two"), file("d", b"one")]);
    let (bringing, reply) = bench.asked(&tree);
    assert_eq!(reply.lacks, Amount { chunks: 2, bytes: 6 });
    assert_eq!(chunks(&reply.next), [chunk(b"one"), chunk(b"two")], "each once, as they lie");
    assert_eq!(bringing.update(&packed(&[b"one"])).unwrap().next, Next::Rest);
    assert_eq!(bringing.update(&packed(&[b"two"])).unwrap().next, Next::Publish);
    let brought = bringing.finish().unwrap();
    assert!(bench.uploads.is_empty() && bench.collection_waits());
    brought.prove(&bench.store).unwrap();
    assert_eq!((brought.tree(), brought.act().event), (&tree, 7));
    drop(brought);
    assert!(!bench.collection_waits());
}

#[tokio::test]
async fn a_list_that_names_something_elsewhere_is_refused() {
    let bench = bench();
    let bringing = bench.begin(&tree(&[file("aa", b"x")]));
    let mut bytes = listed(&tree(&[file("aa", b"x")]));
    let at = bytes.windows(2).position(|two| two == b"aa").unwrap();
    bytes[at..at + 2].copy_from_slice(b"..");
    let refusal = refused(bringing.list(&bytes));
    assert!(refusal.why.contains("bad path"), "{refusal}");

    let link = |target: &str| {
        let node = Node::Symlink { target: target.as_bytes().to_vec() };
        tree(&[Entry { path: path("l"), node }])
    };
    for target in ["../x", "/etc/passwd", "a/../../x"] {
        assert!(bench.list_refused(&link(target)).why.contains("leads out"), "{target}");
    }
    for target in ["", "a\0b"] {
        assert!(bench.list_refused(&link(target)).why.contains("no link"), "{target:?}");
    }
    let directory = Entry { path: path(".althing"), node: Node::Directory { mode: 0o700 } };
    let defined = tree(&[directory, file(".althing/services.toml", b"x")]);
    assert!(bench.list_refused(&defined).why.contains("Althing's own"));
}

#[tokio::test]
async fn a_list_that_is_another_or_does_not_add_up_is_refused() {
    #[derive(Serialize)]
    struct Raw {
        entries: Vec<Entry>,
    }
    let bench = bench();
    let bringing = bench.begin(&tree(&[file("a", b"x")]));
    let refusal = refused(bringing.list(&listed(&tree(&[file("a", b"y")]))));
    assert!(refusal.why.contains("not that of what it offered"), "{refusal}");

    let mut wrong = file("a", b"four");
    if let Node::File { size, .. } = &mut wrong.node {
        *size = 5;
    }
    let twice = vec![file("a", b"x"), file("a", b"y")];
    let mut setuid = file("a", b"x");
    if let Node::File { mode, .. } = &mut setuid.node {
        *mode = 0o4755;
    }
    for entries in [vec![wrong], twice, vec![setuid], vec![file("a/b", b"x")]] {
        let bringing = bench.begin(&tree(&[file("a", b"x")]));
        let refusal = refused(bringing.list(&wire::encode(Kind::Tree, &Raw { entries })));
        assert!(refusal.why.contains("can't be used"), "{refusal}");
    }

    // The same piece in two lengths: one of them could never come.
    let longer = |name: &str, len| {
        let one = Chunk { len, ..chunk(b"four") };
        let node =
            Node::File { mode: 0o644, size: len.into(), digest: one.digest, chunks: vec![one] };
        Entry { path: path(name), node }
    };
    let refusal = bench.list_refused(&tree(&[longer("a", 4), longer("b", 5)]));
    assert!(refusal.why.contains("two lengths"), "{refusal}");
    let garbage = refused(bench.begin(&tree(&[file("a", b"x")])).list(b"\x01\xff\xff"));
    assert_eq!(garbage.reason, Reason::Invalid);
}

#[tokio::test]
async fn only_what_was_asked_for_is_taken_and_only_as_it_was() {
    let bench = bench();
    let tree = tree(&[file("a", b"four"), file("b", b"five5")]);
    let wrong_bytes = |says: &[u8], bytes: &[u8]| {
        let len = bytes.len() as u32;
        lists::pack([(Chunk { digest: Digest::of_bytes(says), len }, bytes)])
    };
    for (sent, why) in [
        (packed(&[b"other"]), "not asked for"),
        (wrong_bytes(b"four", b"ruof"), "signature"),
        (wrong_bytes(b"four", b"fours"), "another length"),
        (packed(&[b"four", b"other"]), "not asked for"),
        ([packed(&[b"four"]), b"more".to_vec()].concat(), "left over"),
        (packed(&[b"four"])[..9].to_vec(), "too early"),
        (vec![255; 64], "too long"),
    ] {
        let (bringing, _) = bench.asked(&tree);
        let refusal = refused(bringing.update(&sent));
        assert!(refusal.why.contains(why), "{why}: {refusal}");
        assert_eq!(bench.uploads.len(), 0, "{why}: it is over");
        assert!(!bench.store.has(&Digest::of_bytes(b"four")).unwrap(), "{why}: nothing is taken");
        assert!(!bench.store.has(&Digest::of_bytes(b"other")).unwrap(), "{why}");
        assert_eq!(refused(bringing.finish()).reason, Reason::Invalid, "{why}");
    }
    // Before there is a list nothing was asked for.
    let refusal = refused(bench.begin(&tree).update(&packed(&[b"four"])));
    assert!(refusal.why.contains("not asked for"), "{refusal}");
    // A list where all was known may lie about how long a piece is.
    let one = Chunk { len: 5, ..chunk(b"four") };
    let node = Node::File { mode: 0o644, size: 5, digest: one.digest, chunks: vec![one] };
    let lied = Tree::new(vec![Entry { path: path("a"), node }]).unwrap();
    let mut writer = bench.store.writer();
    writer.put(Digest::of_bytes(b"four"), b"four").unwrap();
    writer.commit().unwrap();
    let (bringing, reply) = bench.asked(&lied);
    assert_eq!(chunks(&reply.next), [one]);
    assert_eq!(refused(bringing.finish()).reason, Reason::Invalid, "not all of it came");
}

#[tokio::test]
async fn pieces_that_do_not_make_the_file_are_found_out() {
    let bench = bench();
    let lie = tree(&[of_two("a", [b"one", b"two"], b"twoone")]);
    let (bringing, _) = bench.asked(&lie);
    assert_eq!(bringing.update(&packed(&[b"one", b"two"])).unwrap().next, Next::Publish);
    let refusal = refused(bringing.finish().unwrap().prove(&bench.store));
    assert!(refusal.why.contains("listed") || refusal.why.contains("don't make"), "{refusal}");
    assert_eq!(refusal.reason, Reason::Invalid);

    let true_one = tree(&[of_two("a", [b"one", b"two"], b"onetwo")]);
    let (bringing, reply) = bench.asked(&true_one);
    assert_eq!((reply.next, reply.lacks), (Next::Publish, Amount::default()));
    bringing.finish().unwrap().prove(&bench.store).unwrap();

    let mut other = file("a", b"one");
    if let Node::File { digest, .. } = &mut other.node {
        *digest = Digest::of_bytes(b"another");
    }
    let (bringing, _) = bench.asked(&tree(&[other]));
    assert_eq!(refused(bringing.finish().unwrap().prove(&bench.store)).reason, Reason::Invalid);
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_was() {
    let bench = bench();
    let tree = tree(&[file("a", b"one"), file("b", b"two"), file("c", b"three")]);
    let (bringing, first) = bench.asked(&tree);
    bringing.update(&packed(&[b"one"])).unwrap();
    // The same again, as over a connection that broke before the answer: it is said what is open.
    let mut again = chunks(&bringing.update(&packed(&[b"one"])).unwrap().next).to_vec();
    again.sort();
    let mut open = [chunk(b"two"), chunk(b"three")];
    open.sort();
    assert_eq!(again, open);
    drop(bringing);

    let (bringing, second) = bench.asked(&tree);
    assert_eq!((bench.uploads.len(), second.lacks), (1, Amount { chunks: 2, bytes: 8 }));
    assert_ne!(first.upload, second.upload);
    assert_eq!(bringing.update(&packed(&[b"two", b"three"])).unwrap().next, Next::Publish);
    let gone = refused(bench.uploads.go_on(&operator("alice"), first.upload).map(drop));
    assert_eq!(gone.reason, Reason::NotFound, "it was replaced");
}

#[tokio::test]
async fn many_pieces_are_asked_for_in_parts() {
    let bench = bench();
    let texts: Vec<String> = (0..limits::ACTIONS_MAX + 3).map(|n| n.to_string()).collect();
    let entries: Vec<Entry> = texts.iter().map(|text| file(text, text.as_bytes())).collect();
    let (bringing, reply) = bench.asked(&tree(&entries));
    let first: BTreeSet<Chunk> = chunks(&reply.next).iter().copied().collect();
    assert_eq!(first.len(), limits::ACTIONS_MAX);
    let (now, later): (Vec<&[u8]>, Vec<&[u8]>) =
        texts.iter().map(String::as_bytes).partition(|bytes| first.contains(&chunk(bytes)));
    // What will be asked for was not yet.
    let (other, _) = bench.asked(&tree(&entries));
    assert!(refused(other.update(&packed(&later))).why.contains("not asked for"));
    let reply = bringing.update(&packed(&now)).unwrap();
    assert_eq!(chunks(&reply.next).len(), 3);
    assert_eq!(bringing.update(&packed(&later)).unwrap().next, Next::Publish);
}

#[tokio::test]
async fn so_many_uploads_go_on_at_a_time_and_each_is_its_operators_own() {
    let bench = bench();
    let of = |n: usize| offer(Digest::of_bytes(&n.to_le_bytes()));
    let begin = |name: &str, n| bench.uploads.begin(act(name), of(n), &[]);
    let all: Vec<UploadId> =
        (0..UPLOADS_MAX).map(|n| begin("alice", n).unwrap().reply.upload).collect();
    let refusal = refused(begin("bob", 0).map(|_| ()));
    assert_eq!(refusal.reason, Reason::Busy, "{refusal}");
    // The same content by the same operator takes the place of the one before.
    let next = begin("alice", 3).unwrap().reply.upload;
    assert_eq!(bench.uploads.len(), UPLOADS_MAX);
    let use_it = |name: &str, upload| bench.uploads.go_on(&operator(name), upload).map(|_| ());
    assert_eq!(refused(use_it("alice", all[3])).reason, Reason::NotFound);
    assert_eq!(refused(use_it("bob", next)).reason, Reason::NotFound);
    use_it("alice", next).unwrap();
    // But not of one that is at work.
    let at_work = bench.uploads.go_on(&operator("alice"), all[0]).unwrap();
    assert_eq!(refused(begin("alice", 0).map(|_| ())).reason, Reason::Busy);
    at_work.give_up();
    begin("bob", 0).unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_for_which_nothing_comes_is_over_and_keeps_nothing() {
    let bench = bench();
    let tree = tree(&[file("a", b"x")]);
    let begun = bench.uploads.begin(act("alice"), offer(tree.root()), &[]).unwrap();
    let upload = begun.reply.upload;
    assert!(bench.collection_waits());
    // Whoever is at work does not lapse, however long that takes.
    let bringing = bench.uploads.go_on(&operator("alice"), upload).unwrap();
    for _ in 0..5 {
        advance(IDLE).await;
        tokio::task::yield_now().await;
    }
    bringing.list(&listed(&tree)).unwrap();
    drop(bringing);
    advance(IDLE / 2).await;
    tokio::task::yield_now().await;
    drop(bench.uploads.go_on(&operator("alice"), upload).unwrap());
    let mut lapsed = begun.lapsed;
    advance(IDLE - Duration::from_millis(10)).await;
    tokio::task::yield_now().await;
    assert!(lapsed.try_recv().is_err() && bench.uploads.len() == 1);
    lapsed.await.unwrap();
    assert!(bench.uploads.is_empty() && !bench.collection_waits());
    let refusal = refused(bench.uploads.go_on(&operator("alice"), upload).map(|_| ()));
    assert!(refusal.why.contains("60 seconds"), "{refusal}");

    // One that comes to its end does not lapse.
    let bringing = bench.begin(&tree);
    bringing.give_up();
    assert!(bench.uploads.is_empty());
    drop(bringing);
    // Nor does it keep a member's store open.
    let begun = bench.uploads.begin(act("alice"), offer(tree.root()), &[]).unwrap();
    let weak = bench.uploads.downgrade();
    drop(bench);
    assert!(weak.upgrade().is_none());
    assert!(begun.lapsed.await.is_err());
}

#[tokio::test]
async fn where_it_is_not_allowed_or_has_no_room_nothing_is_taken() {
    let bench = bench();
    let tree = tree(&[file("a", b"some content")]);
    let closed = Uploads::new(bench.store.clone(), false);
    let refusal = refused(closed.begin(act("alice"), offer(tree.root()), &[]).map(|_| ()));
    assert_eq!(refusal.reason, Reason::Forbidden);
    assert!(refusal.todo.contains("--uploads") && refusal.todo.contains("--there"), "{refusal}");

    bench.store.set_budget(11);
    let bringing = bench.begin(&tree);
    let refusal = refused(bringing.list(&listed(&tree)));
    assert!(refusal.reason == Reason::Failed && refusal.why.contains("no room"), "{refusal}");
    assert!(bench.uploads.is_empty());
    bench.store.set_budget(12);
    bench.asked(&tree);

    let with = |manifest: &str| Offer { manifest: Some(manifest.to_owned()), ..offer(tree.root()) };
    let begin = |offer| bench.uploads.begin(act("alice"), offer, &[]).map(|_| ());
    let refusal = refused(begin(with("[application]\nnane = 1")));
    assert!(refusal.why.contains("line 2"), "{refusal}");
    let long = "#".repeat(manifest::SIZE_MAX as usize + 1);
    assert_eq!(refused(begin(with(&long))).reason, Reason::Invalid);
    let encoded = wire::encode(Kind::Message, &with(&long));
    assert!(Offer::decode(&encoded).is_err(), "it is not even decoded");
}

#[tokio::test]
async fn what_a_version_was_made_of_need_not_be_listed() {
    let bench = bench();
    let directory = |name: &str| Entry { path: path(name), node: Node::Directory { mode: 0o755 } };
    let given = tree(&[directory("d"), file("d/a", b"one"), file("b", b"two")]);
    let version = tree(&[
        directory(".althing"),
        file(".althing/settings.toml", b"settings"),
        file("b", b"two"),
        directory("config"),
        file("config/app.json", b"{}"),
        directory("d"),
        file("d/a", b"one"),
    ]);
    let mut writer = bench.store.writer();
    for bytes in [&b"settings"[..], b"two", b"{}"] {
        writer.put(Digest::of_bytes(bytes), bytes).unwrap();
    }
    writer.commit().unwrap();
    let root = bench.store.put_tree(&version).unwrap();
    let text = "[settings]\na = 1\n[[settings-file]]\npath = \"config/app.json\"\n";
    let offer = Offer { manifest: Some(text.to_owned()), ..offer(given.root()) };
    let begin = || bench.uploads.begin(act("alice"), offer.clone(), &[root]).unwrap().reply;
    assert_eq!(begin().next, Next::List, "not all of it is here");
    let mut writer = bench.store.writer();
    writer.put(Digest::of_bytes(b"one"), b"one").unwrap();
    writer.commit().unwrap();
    let reply = begin();
    assert_eq!((reply.next, reply.lacks), (Next::Publish, Amount::default()));
    let bringing = bench.uploads.go_on(&operator("alice"), reply.upload).unwrap();
    let brought = bringing.finish().unwrap();
    assert_eq!(brought.tree(), &given);
    brought.prove(&bench.store).unwrap();
    // A version that is offered as a whole has definitions: those are not given by anybody.
    let begun = bench.uploads.begin(act("alice"), super::tests::offer(root), &[]).unwrap();
    assert_eq!(begun.reply.next, Next::List);
}

#[test]
fn an_id_is_read_as_it_is_shown() {
    let id = UploadId(0xabc);
    assert_eq!(UploadId::parse(&id.to_string()), Some(id));
    for bad in ["", "abc", "../../../../../../../../../../xy", &"f".repeat(33), &"+".repeat(32)] {
        assert_eq!(UploadId::parse(bad), None, "{bad}");
    }
}
