//! Listings by their changes: what that spares, and what it must not cost when
//! the holder lies, knows less, or is of the release before.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{together::be_old, *};
use crate::proto::replication::{Changes, Since};

type Recv = ReadHalf<DuplexStream>;
type Send = WriteHalf<DuplexStream>;

/// The only other member: what answers each session, and how many there were.
#[derive(Clone)]
struct Door {
    answer: Arc<dyn Fn(Recv, Send) + std::marker::Send + Sync>,
    opened: Arc<AtomicUsize>,
}

impl Door {
    fn new<F>(answer: impl Fn(Recv, Send) -> F + std::marker::Send + Sync + 'static) -> Self
    where
        F: Future<Output: std::marker::Send> + std::marker::Send + 'static,
    {
        let answer = Arc::new(move |recv, send| drop(tokio::spawn(answer(recv, send))));
        Self { answer, opened: Arc::default() }
    }

    /// That of an honest member.
    fn of(holder: &Member) -> Self {
        let store = holder.store.clone();
        Self::new(move |recv, send| serve(store.clone(), Boards::default(), ASKER, recv, send))
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Connect for Door {
    type Recv = Recv;
    type Send = Send;

    async fn open(&self, _member: MemberId) -> io::Result<(Recv, Send)> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let ((recv, send), (their_recv, their_send)) = pipe(64 << 10);
        (self.answer)(their_recv, their_send);
        Ok((recv, send))
    }
}

/// `requester` fetches `root`, and holds `bases`.
async fn ask(
    door: &Door,
    requester: &Member,
    root: Digest,
    bases: &[Digest],
) -> Result<Pulled, TransferError> {
    let wanted = Wanted {
        root,
        from: id(0),
        peers: Vec::new(),
        far: BTreeSet::new(),
        bases: bases.to_vec(),
    };
    fetch(requester.store.clone(), Boards::default(), door.clone(), wanted, |_| {}).await
}

/// So many files of a few bytes, the one in the middle with this content, whole at `members`.
fn site(members: &[&Member], files: u32, special: &[u8]) -> Tree {
    let common = b"common";
    let entry = |n: u32| {
        let content = if n == files / 2 { special } else { common };
        let (digest, size) = (Digest::of_bytes(content), content.len() as u64);
        let chunks = vec![Chunk { digest, len: size as u32 }];
        let node = Node::File { mode: 0o644, size, digest, chunks };
        Entry { path: path(&format!("d{:03}/page-{n:06}.html", n / 1_000)), node }
    };
    let folder =
        |n: u32| Entry { path: path(&format!("d{n:03}")), node: Node::Directory { mode: 0o755 } };
    let folders = (0..files.div_ceil(1_000)).map(folder);
    let tree = Tree::new(folders.chain((0..files).map(entry)).collect()).unwrap();
    for member in members {
        let mut writer = member.store.writer();
        for content in [special, common] {
            writer.put(Digest::of_bytes(content), content).unwrap();
        }
        writer.commit().unwrap();
        member.store.put_tree(&tree).unwrap();
    }
    tree
}

#[tokio::test(start_paused = true)]
async fn one_file_of_many_costs_a_few_bytes_of_listing() {
    let (holder, requester) = (member(), member());
    let before = site(&[&holder, &requester], 40_000, b"before").root();
    let after = site(&[&holder], 40_000, b"after!");
    let door = Door::of(&holder);
    let pulled = ask(&door, &requester, after.root(), &[before]).await.unwrap();
    assert_eq!((pulled.listings, pulled.chunks, pulled.bytes), (0, 1, 6));
    let whole_listing = wire::encode(Kind::Tree, &after).len() as u64;
    assert!(whole_listing > 3_000_000, "{whole_listing}");
    assert!(pulled.listing_bytes < 200, "{pulled:?}");
    assert!(whole(&requester, &after.root()));
    assert_eq!(*requester.store.tree(&after.root()).unwrap().unwrap(), after);
    assert_eq!(door.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_base_that_both_have_is_compared() {
    let (holder, requester) = (member(), member());
    let unknown = site(&[&requester], 300, b"unknown").root();
    let before = site(&[&holder, &requester], 300, b"before").root();
    let other = publish(&requester, &[b"other"]).root();
    let nowhere = Digest::of_bytes(b"nowhere");
    publish(&holder, &[b"other"]);
    let after = site(&[&holder], 300, b"after").root();
    let bases = [nowhere, unknown, before, other];
    let pulled = ask(&Door::of(&holder), &requester, after, &bases).await.unwrap();
    assert_eq!(pulled.listings, 0);
    assert!(whole(&requester, &after));
}

#[tokio::test(start_paused = true)]
async fn without_a_base_or_a_saving_the_listing_comes_whole() {
    let (holder, requester) = (member(), member());
    let unknown = site(&[&requester], 300, b"unknown").root();
    let unlike = publish(&requester, &[b"quite", b"another", b"tree"]).root();
    publish(&holder, &[b"quite", b"another", b"tree"]);
    let after = site(&[&holder], 300, b"after");
    let length = wire::encode(Kind::Tree, &after).len() as u64;
    let unknown_word = wire::encode(Kind::Tree, &Changes::Unknown).len() as u64;
    for bases in [[unknown], [unlike]] {
        let fresh = member();
        for root in bases {
            let tree = requester.store.tree(&root).unwrap().unwrap();
            fresh.store.put_tree(&tree).unwrap();
        }
        let door = Door::of(&holder);
        let pulled = ask(&door, &fresh, after.root(), &bases).await.unwrap();
        assert_eq!((pulled.listings, pulled.listing_bytes), (1, length + unknown_word));
        assert!(whole(&fresh, &after.root()));
        assert_eq!(door.opened(), 1);
    }
    // What the holder does not hold itself it lacks, asked in either way.
    let error = ask(&Door::of(&holder), &requester, Digest::of_bytes(b"?"), &[unlike]).await;
    assert!(error.unwrap_err().is_lacking());
}

#[tokio::test(start_paused = true)]
async fn no_more_bases_are_named_than_a_holder_hears() {
    let (holder, requester) = (member(), member());
    let bases: Vec<Digest> = (0..40_u8)
        .map(|n| publish(&requester, &[&[n]]).root())
        .chain([site(&[&holder, &requester], 300, b"before").root()])
        .rev()
        .collect();
    let longest = Since { root: bases[0], bases: bases[..limits::BASES_MAX].to_vec() };
    let longest = wire::encode(Kind::Message, &longest);
    assert!(longest.len() <= Tag::AskChanges.size_max());
    let over = Since { root: bases[0], bases: bases[..=limits::BASES_MAX].to_vec() };
    let over = wire::encode(Kind::Message, &over);
    assert!(decode::<Since>(Kind::Message, &over).is_err());
    let after = site(&[&holder], 300, b"after").root();
    let pulled = ask(&Door::of(&holder), &requester, after, &bases).await.unwrap();
    assert_eq!(pulled.listings, 0);
}

/// What comes of it if the holder answers the question for changes with `answer`.
async fn answered(
    requester: &Member,
    root: Digest,
    base: Digest,
    answer: Vec<u8>,
) -> TransferError {
    let door = Door::new(move |recv: Recv, mut send: Send| {
        let answer = answer.clone();
        async move {
            let activity = Activity::new(IDLE);
            let mut wire = Wire::new(recv, &activity);
            let (tag, _) = wire.frame().await.unwrap().unwrap();
            assert_eq!(tag, Tag::AskChanges);
            send.write_all(&answer).await.unwrap();
            let _until_it_hangs_up = wire.frame().await;
        }
    });
    let before = requester.store.trees().unwrap();
    let error = ask(&door, requester, root, &[base]).await.unwrap_err();
    assert_eq!(requester.store.trees().unwrap(), before);
    assert_eq!(door.opened(), 1, "a liar is not asked again");
    error
}

#[tokio::test(start_paused = true)]
async fn false_changes_are_refused() {
    let (holder, requester) = (member(), member());
    let before = site(&[&holder, &requester], 300, b"before");
    let after = site(&[&holder], 300, b"after");
    let (root, base) = (after.root(), before.root());
    let say = |base: Digest, changes: Vec<Change>| {
        frame(Tag::Changes, &wire::encode(Kind::Tree, &Changes::From { base, changes }))
    };
    let honest = crate::base::tree::changes(&before, &after);

    for list in [vec![], vec![honest[0].clone(), Change::Del(path("d000/page-000001.html"))]] {
        let error = answered(&requester, root, base, say(base, list)).await;
        assert!(matches!(error, TransferError::Lied(Fault::WrongRoot { .. })), "{error}");
    }
    let error = answered(&requester, root, base, say(root, honest.clone())).await;
    assert!(matches!(error, TransferError::Lied(Fault::Unasked(_))), "{error}");

    let twice = [honest.clone(), honest.clone()].concat();
    let absent = vec![Change::Del(path("nowhere"))];
    let setuid = Node::Directory { mode: 0o4755 };
    let no_tree = vec![Change::Set(Entry { path: path("d000"), node: setuid })];
    for list in [twice, absent, no_tree, vec![Change::Del(path("d000"))]] {
        let error = answered(&requester, root, base, say(base, list)).await;
        assert!(matches!(error, TransferError::Lied(Fault::NoChanges(_))), "{error}");
        assert!(error.is_lie());
    }

    let mut over = vec![Tag::Changes as u8];
    over.extend_from_slice(&(limits::CHANGES_MAX as u32 + 1).to_le_bytes());
    let mut torn = say(base, honest.clone());
    torn.pop();
    torn[1] -= 1;
    for garbage in [over, torn, frame(Tag::Changes, &[]), frame(Tag::Changes, &noise(1, 99))] {
        let error = answered(&requester, root, base, garbage).await;
        assert!(matches!(error, TransferError::Garbled(_)), "{error}");
    }
    // Another answer than was asked for.
    let listing = frame(Tag::Listing, &wire::encode(Kind::Tree, &after));
    let error = answered(&requester, root, base, listing).await;
    assert!(matches!(error, TransferError::Garbled(_)), "{error}");

    // An honest holder is believed after all that.
    ask(&Door::of(&holder), &requester, root, &[base]).await.unwrap();
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn pieces_that_do_not_make_a_changed_file_are_found_out() {
    let (holder, requester) = (member(), member());
    let same: [&[u8]; 3] = [b"1", b"2", b"3"];
    let base = publish(&requester, &[&[b"before".as_slice()], &same[..]].concat()).root();
    publish(&holder, &[&[b"before".as_slice()], &same[..]].concat());
    let large = noise(1, 2 << 20);
    let tree = publish(&holder, &[&[large.as_slice()], &same[..]].concat());
    let mut entries = tree.entries().cloned().collect::<Vec<_>>();
    if let Node::File { chunks, .. } = &mut entries[0].node {
        chunks.reverse();
    }
    let root = holder.store.put_tree(&Tree::new(entries).unwrap()).unwrap();
    let error = ask(&Door::of(&holder), &requester, root, &[base]).await.unwrap_err();
    assert!(matches!(error, TransferError::Unproven(_)) && error.is_lie(), "{error}");
    assert_eq!(requester.store.trees().unwrap(), [base]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_of_the_release_before_is_asked_for_all_of_it() {
    for newest in [Tag::HandedOut, Tag::Updates] {
        let (holder, requester) = (member(), member());
        let base = site(&[&holder, &requester], 300, b"before").root();
        let root = site(&[&holder], 300, b"after").root();
        let store = holder.store.clone();
        let door = Door::new(move |recv, send| be_old(store.clone(), newest, recv, send));
        let pulled = ask(&door, &requester, root, &[base]).await.unwrap();
        assert_eq!((pulled.listings, pulled.chunks), (1, 1));
        assert_eq!(door.opened(), 2);
        assert!(whole(&requester, &root));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_only_hangs_up_is_asked_twice_and_no_more() {
    let requester = member();
    let base = publish(&requester, &[b"before"]).root();
    let door = Door::new(|recv, send| async move { drop((recv, send)) });
    let error = ask(&door, &requester, Digest::of_bytes(b"?"), &[base]).await.unwrap_err();
    assert!(matches!(error, TransferError::Broken(_)) && !error.is_lie(), "{error}");
    assert_eq!(door.opened(), 2);
}

/// The same file in pieces of so many bytes, put with `writer` but for the piece `but`.
fn cut(member: &Member, tree: &Tree, bytes: &[u8], size: usize, but: Option<usize>) -> Tree {
    let mut writer = member.store.writer();
    let mut pieces = Vec::new();
    for (n, piece) in bytes.chunks(size).enumerate() {
        let digest = Digest::of_bytes(piece);
        pieces.push(Chunk { digest, len: piece.len() as u32 });
        if but != Some(n) {
            writer.put(digest, piece).unwrap();
        }
    }
    writer.commit().unwrap();
    let mut entries = tree.entries().cloned().collect::<Vec<_>>();
    if let Node::File { chunks, .. } = &mut entries[0].node {
        *chunks = pieces;
    }
    let tree = Tree::new(entries).unwrap();
    member.store.put_tree(&tree).unwrap();
    tree
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_otherwise_here_does_not_come_again() {
    let large = noise(1, 3 << 20);
    let contents = |last: &'static [u8]| -> Vec<&[u8]> { vec![&large, b"a", b"b", b"c", last] };
    // All of its pieces are here, or one is not: then it comes as the holder cuts it.
    for but in [None, Some(1)] {
        let (holder, requester) = (member(), member());
        let before = publish(&holder, &contents(b"before"));
        let after = publish(&holder, &contents(b"after"));
        let (root, base) = (after.root(), before.root());
        publish(&requester, &[b"a", b"b", b"c", b"before"]);
        let ours = cut(&requester, &before, &large, 1 << 20, but);
        let pulled = ask(&Door::of(&holder), &requester, root, &[base]).await.unwrap();
        assert!(whole(&requester, &root));
        let found = requester.store.tree(&root).unwrap().unwrap();
        if but.is_none() {
            assert_eq!((pulled.listings, pulled.bytes), (0, 5));
            assert_eq!(found.entries().next(), ours.entries().next());
        } else {
            assert_eq!((pulled.listings, pulled.bytes), (1, 5 + (3 << 20)));
            assert_eq!(*found, after);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_of_the_base_that_was_lost_is_asked_for_by_name() {
    let large = noise(1, 3 << 20);
    let contents = |last: &'static [u8]| -> Vec<&[u8]> { vec![&large, b"a", b"b", b"c", last] };
    let (holder, requester) = (member(), member());
    let before = publish(&holder, &contents(b"before"));
    let after = publish(&holder, &contents(b"after")).root();
    let Node::File { chunks, .. } = &before.entries().next().unwrap().node else {
        panic!("a file")
    };
    let (lost, held) = chunks.split_last().unwrap();
    publish(&requester, &[b"a", b"b", b"c", b"before"]);
    let mut writer = requester.store.writer();
    for chunk in held {
        writer.put(chunk.digest, &holder.store.read(&chunk.digest).unwrap()).unwrap();
    }
    writer.commit().unwrap();
    requester.store.put_tree(&before).unwrap();
    let pulled = ask(&Door::of(&holder), &requester, after, &[before.root()]).await.unwrap();
    assert_eq!((pulled.listings, pulled.bytes), (0, 5 + u64::from(lost.len)));
    assert!(whole(&requester, &after));
    // If the holder lacks it as well, that is said, and costs no second attempt.
    let other = member();
    let poor = member();
    for store in [&other.store, &poor.store] {
        store.put_tree(&before).unwrap();
    }
    poor.store.put_tree(&holder.store.tree(&after).unwrap().unwrap()).unwrap();
    let error = ask(&Door::of(&poor), &other, after, &[before.root()]).await.unwrap_err();
    assert!(error.is_lacking(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_a_little_comes_as_a_patch() {
    let old = noise(1, 40_000);
    let new = [old.as_slice(), b"appended"].concat();
    let contents = |first: &[u8]| -> Vec<Vec<u8>> {
        [first, b"1", b"2", b"3"].into_iter().map(<[u8]>::to_vec).collect()
    };
    let put = |member: &Member, contents: &[Vec<u8>]| {
        let all: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        publish(member, &all).root()
    };
    let (holder, requester, other) = (member(), member(), member());
    let before = put(&holder, &contents(&old));
    let after = put(&holder, &contents(&new));
    for member in [&requester, &other] {
        put(member, &contents(&old));
    }
    let door = Door::of(&holder);
    let pulled = ask(&door, &requester, after, &[before]).await.unwrap();
    assert_eq!((pulled.listings, pulled.patched, pulled.chunks), (0, 1, 0));
    assert!(pulled.patch_bytes < 150, "{pulled:?}");
    assert!(whole(&requester, &after));
    assert_eq!(door.opened(), 1);

    // A holder of the version before this one compares listings, and makes no patches.
    let store = holder.store.clone();
    let door = Door::new(move |recv, send| be_old(store.clone(), Tag::Changes, recv, send));
    let pulled = ask(&door, &other, after, &[before]).await.unwrap();
    assert_eq!((pulled.listings, pulled.patched, pulled.chunks), (0, 0, 1));
    assert!(whole(&other, &after));
    assert_eq!(door.opened(), 2);
}
