//! Tests of the transfer: honest and lying holders at the other end of a pipe.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::{
    frame::{Tag, decode, frame},
    sink::COMMIT,
    *,
};
use crate::{
    base::{
        RelPath, limits,
        tree::{Change, Chunk, Entry, Node, Tree},
        wire::{self, Kind},
    },
    proto::replication::{ActionList, Content, IHaveList, Update, UpdateList},
};

/// Bytes that look random and repeat with their seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn id(n: u8) -> MemberId {
    MemberId(Digest([n; 32]))
}

/// Somebody who asks.
const ASKER: Asker = Asker { id: MemberId(Digest([0; 32])), far: false };

/// Answers one session of somebody who asks nobody else.
fn serve_alone(
    holder: &Member,
    recv: ReadHalf<DuplexStream>,
    send: WriteHalf<DuplexStream>,
) -> impl Future<Output = Result<Served, TransferError>> + use<> {
    serve(holder.store.clone(), Boards::default(), ASKER, recv, send)
}

struct Member {
    _dir: tempfile::TempDir,
    store: ContentStore,
}

fn member() -> Member {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    Member { _dir: dir, store }
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// A tree of files with these contents, all of it stored at `member`.
fn publish(member: &Member, contents: &[&[u8]]) -> Tree {
    let mut writer = member.store.writer();
    let mut entries: Vec<Entry> = Vec::new();
    for (n, bytes) in contents.iter().enumerate() {
        let (digest, size, chunks) = member.store.ingest_file(&mut writer, *bytes).unwrap();
        let node = Node::File { mode: 0o644, size, digest, chunks };
        entries.push(Entry { path: path(&format!("{n:06}")), node });
    }
    writer.commit().unwrap();
    let tree = Tree::new(entries).unwrap();
    member.store.put_tree(&tree).unwrap();
    tree
}

type Pipe = (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>);

fn pipe(size: usize) -> (Pipe, Pipe) {
    let (one, two) = duplex(size);
    (split(one), split(two))
}

/// One honest session over a pipe that holds `size` bytes.
async fn session(
    holder: &Member,
    requester: &Member,
    root: Digest,
    size: usize,
) -> (Result<Served, TransferError>, Result<Pulled, TransferError>) {
    let ((recv, send), (their_recv, their_send)) = pipe(size);
    // Spawned as the shell does it, which also shows that both are `Send`.
    let serving = tokio::spawn(serve_alone(holder, their_recv, their_send));
    let pulling = tokio::spawn(pull(requester.store.clone(), root, recv, send, |_| {}));
    let (served, pulled) = tokio::join!(serving, pulling);
    (served.unwrap(), pulled.unwrap())
}

fn whole(member: &Member, root: &Digest) -> bool {
    member.store.whole(root).unwrap() && member.store.verify(root, |_, _| {}).unwrap().is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_pulled_whole_and_a_second_time_costs_nothing() {
    let (holder, requester) = (member(), member());
    let (large, small) = (noise(1, 20 << 20), noise(2, 3_000));
    let mut tree = publish(&holder, &[&large, b"", b"x", &small, &small])
        .entries()
        .cloned()
        .collect::<Vec<_>>();
    tree.push(Entry { path: path("dir"), node: Node::Directory { mode: 0o755 } });
    let target = b"../anywhere".to_vec();
    tree.push(Entry { path: path("dir/link"), node: Node::Symlink { target } });
    let tree = Tree::new(tree).unwrap();
    let root = holder.store.put_tree(&tree).unwrap();

    let (served, pulled) = session(&holder, &requester, root, 64 << 10).await;
    let (served, pulled) = (served.unwrap(), pulled.unwrap());
    let bytes: u64 = (20 << 20) + 1 + 3_000;
    assert_eq!((pulled.listings, pulled.bytes), (1, bytes));
    assert_eq!((served.listings, served.bytes, served.lacking), (1, bytes, 0));
    assert_eq!(served.chunks, pulled.chunks);
    assert!(whole(&requester, &root));
    assert_eq!(*requester.store.tree(&root).unwrap().unwrap(), tree);

    let (_, again) = session(&holder, &requester, root, 64 << 10).await;
    assert_eq!(again.unwrap(), Pulled::default());
}

#[tokio::test(start_paused = true)]
async fn thousands_of_tiny_files_come_through_a_thin_pipe() {
    let (holder, requester) = (member(), member());
    let contents: Vec<Vec<u8>> = (0..5_000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
    let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let root = publish(&holder, &slices).root();
    // Thinner than a single question: both sides must write and read at once.
    let (served, pulled) = session(&holder, &requester, root, 100).await;
    assert_eq!(served.unwrap().chunks, 5_000);
    assert_eq!(pulled.unwrap().chunks, 5_000);
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn an_empty_tree_and_an_unknown_one() {
    let (holder, requester) = (member(), member());
    let root = publish(&holder, &[]).root();
    let (_, pulled) = session(&holder, &requester, root, 1_000).await;
    let listing_bytes = wire::encode(Kind::Tree, &IHaveList::new(Tree::default())).len() as u64;
    assert_eq!(pulled.unwrap(), Pulled { listings: 1, listing_bytes, ..Pulled::default() });
    assert!(whole(&requester, &root));
    let unknown = Digest::of_bytes(b"never seen");
    let (served, pulled) = session(&holder, &requester, unknown, 1_000).await;
    assert!(pulled.unwrap_err().is_lacking());
    assert_eq!(served.unwrap(), Served::default());
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_travels() {
    let (holder, requester) = (member(), member());
    let large = noise(1, 8 << 20);
    let first = publish(&holder, &[&large]).root();
    session(&holder, &requester, first, 64 << 10).await.1.unwrap();
    let mut changed = vec![7];
    changed.extend_from_slice(&large);
    let second = publish(&holder, &[&changed]).root();
    let pulled = session(&holder, &requester, second, 64 << 10).await.1.unwrap();
    assert!(pulled.bytes <= 2 * limits::CHUNK_MAX as u64, "{pulled:?}");
    assert!(whole(&requester, &first) && whole(&requester, &second));
}

#[tokio::test(start_paused = true)]
async fn a_cut_session_is_resumed_where_it_was() {
    let (holder, requester) = (member(), member());
    let root = publish(&holder, &[&noise(1, 6 << 20), &noise(2, 6 << 20)]).root();
    let ((recv, send), (their_recv, their_send)) = pipe(64 << 10);
    let serving = tokio::spawn(serve_alone(&holder, their_recv, their_send));
    let cut = recv.take(7 << 20);
    let error = pull(requester.store.clone(), root, cut, send, |_| {}).await.unwrap_err();
    assert!(matches!(error, TransferError::Broken(_)), "{error}");
    assert!(serving.await.unwrap().is_err());
    assert!(requester.store.tree(&root).unwrap().is_none(), "it is not whole, so not stored");
    let kept = requester.store.count().unwrap();
    assert!(kept > 0);
    let pulled = session(&holder, &requester, root, 64 << 10).await.1.unwrap();
    assert!(pulled.bytes <= 6 << 20, "{pulled:?}");
    assert_eq!(pulled.chunks + kept, holder.store.count().unwrap());
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_keeps_what_was_committed() {
    let (holder, requester) = (member(), member());
    let root = publish(&holder, &[&noise(1, 40 << 20)]).root();
    let ((recv, send), (their_recv, their_send)) = pipe(64 << 10);
    let serving = tokio::spawn(serve_alone(&holder, their_recv, their_send));
    let (enough, reached) = tokio::sync::oneshot::channel();
    let mut enough = Some(enough);
    let pulling = pull(requester.store.clone(), root, recv, send, |progress| {
        if progress.bytes_done > COMMIT + (4 << 20)
            && let Some(enough) = enough.take()
        {
            enough.send(()).unwrap();
        }
    });
    tokio::select! {
        biased;
        reached = reached => reached.unwrap(),
        done = pulling => panic!("it ended too soon: {done:?}"),
    }
    let _cut_or_told_good_bye = serving.await.unwrap();
    let pulled = session(&holder, &requester, root, 64 << 10).await.1.unwrap();
    assert!(pulled.bytes <= (40 << 20) - COMMIT, "{pulled:?}");
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn what_one_holder_lacks_another_gives() {
    let (one, two, requester) = (member(), member(), member());
    let tree = publish(&one, &[b"here", b"there", b"both"]);
    // The second knows the listing and has one chunk of it.
    let mut writer = two.store.writer();
    writer.put(Digest::of_bytes(b"there"), b"there").unwrap();
    writer.commit().unwrap();
    let root = two.store.put_tree(&tree).unwrap();
    let (served, pulled) = session(&two, &requester, root, 1_000).await;
    let error = pulled.unwrap_err();
    assert!(matches!(error, TransferError::Lacking { chunks: 2, bytes: 8 }), "{error}");
    assert_eq!(served.unwrap().lacking, 2);
    assert!(requester.store.has(&Digest::of_bytes(b"there")).unwrap());
    let pulled = session(&one, &requester, root, 1_000).await.1.unwrap();
    assert_eq!(pulled.chunks, 2);
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cut_the_file_otherwise_can_still_repair_it() {
    let (holder, requester) = (member(), member());
    let bytes = noise(1, 300_000);
    let tree = publish(&holder, &[&bytes]);
    // Here the same file lies in pieces of 100,000 bytes, and one is lost.
    let mut writer = requester.store.writer();
    let mut pieces = Vec::new();
    for (n, piece) in bytes.chunks(100_000).enumerate() {
        let digest = Digest::of_bytes(piece);
        pieces.push(Chunk { digest, len: piece.len() as u32 });
        if n != 1 {
            writer.put(digest, piece).unwrap();
        }
    }
    writer.commit().unwrap();
    let mut entries = tree.entries().cloned().collect::<Vec<_>>();
    if let Node::File { chunks, .. } = &mut entries[0].node {
        *chunks = pieces;
    }
    let root = requester.store.put_tree(&Tree::new(entries).unwrap()).unwrap();
    assert_eq!(root, tree.root());
    let pulled = session(&holder, &requester, root, 64 << 10).await.1.unwrap();
    assert_eq!((pulled.listings, pulled.bytes), (1, 300_000));
    assert!(whole(&requester, &root));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_session_and_says_so() {
    let (holder, requester) = (member(), member());
    let root = publish(&holder, &[&noise(1, 6 << 20)]).root();
    requester.store.set_budget(3 << 20);
    let (_, pulled) = session(&holder, &requester, root, 64 << 10).await;
    let error = pulled.unwrap_err();
    assert!(error.is_disk_full() && !error.is_lie(), "{error}");
    requester.store.set_budget(u64::MAX);
    session(&holder, &requester, root, 64 << 10).await.1.unwrap();
    assert!(whole(&requester, &root));
}

/// A holder that sends the honest listing and then, to the first question for
/// chunks, what `lie` makes of it.
async fn lied_to(tree: &Tree, lie: impl FnOnce(ActionList) -> Vec<u8>) -> TransferError {
    let requester = member();
    let kept = publish(&requester, &[b"already here"]).root();
    let ((recv, send), (their_recv, mut their_send)) = pipe(64 << 10);
    let listing = frame(Tag::Listing, &wire::encode(Kind::Tree, &IHaveList::new(tree.clone())));
    let lying = async move {
        let activity = Activity::new(IDLE);
        let mut wire = Wire::new(their_recv, &activity);
        let (tag, _) = wire.frame().await.unwrap().unwrap();
        assert_eq!(tag, Tag::AskListing);
        their_send.write_all(&listing).await.unwrap();
        let (_, bytes) = wire.frame().await.unwrap().unwrap();
        let answer = lie(decode(Kind::Message, &bytes).unwrap());
        // It may be cut off while it still talks.
        let _ = their_send.write_all(&answer).await;
    };
    let pulling = pull(requester.store.clone(), tree.root(), recv, send, |_| {});
    let ((), pulled) = tokio::join!(lying, pulling);
    let error = pulled.unwrap_err();
    // Nothing of the lie is on disk, and what was there is unharmed.
    assert_eq!(requester.store.trees().unwrap(), [kept]);
    assert!(whole(&requester, &kept));
    for chunk in tree.chunks() {
        match requester.store.read(&chunk.digest) {
            Ok(bytes) => assert_eq!(Digest::of_bytes(&bytes), chunk.digest),
            Err(error) => assert!(matches!(error, StoreError::NotFound(_)), "{error}"),
        }
    }
    error
}

fn updates(chunks: &[Chunk], content: Content) -> Vec<u8> {
    let updates = chunks.iter().map(|chunk| Update::Chunk { chunk: *chunk, content }).collect();
    frame(Tag::Updates, &wire::encode(Kind::Message, &UpdateList { updates }))
}

#[tokio::test(start_paused = true)]
async fn every_lie_of_a_holder_is_found_out() {
    let holder = member();
    let tree = publish(&holder, &[&noise(1, 5_000), &noise(2, 5_000)]);

    let error = lied_to(&tree, |asked| {
        let mut answer = updates(&asked.chunks, Content::Inline);
        answer.extend(noise(1, 5_000));
        answer.extend(noise(3, 5_000)); // not what the second should be
        answer
    });
    let error = error.await;
    assert!(matches!(error, TransferError::Lied(Fault::WrongBytes { .. })), "{error}");

    let stranger = Chunk { digest: Digest::of_bytes(b"stranger"), len: 8 };
    let error = lied_to(&tree, |_| updates(&[stranger], Content::Inline)).await;
    assert!(matches!(error, TransferError::Lied(Fault::Unasked(_))), "{error}");

    let error = lied_to(&tree, |asked| {
        let longer = Chunk { len: u32::MAX, ..asked.chunks[0] };
        updates(&[longer], Content::Inline)
    });
    let error = error.await;
    assert!(matches!(error, TransferError::Lied(Fault::WrongLength { .. })), "{error}");

    let error = lied_to(&tree, |_| {
        let list = UpdateList { updates: vec![Update::Path(Change::Del(path("x")))] };
        frame(Tag::Updates, &wire::encode(Kind::Message, &list))
    });
    let error = error.await;
    assert!(matches!(error, TransferError::Lied(Fault::NoChunk)), "{error}");

    let error = lied_to(&tree, |_| updates(&[], Content::Inline)).await;
    assert!(matches!(error, TransferError::Lied(Fault::Empty)), "{error}");

    let oversized = vec![Tag::Updates as u8, 0xFF, 0xFF, 0xFF, 0xFF];
    let error = lied_to(&tree, |_| oversized).await;
    assert!(matches!(error, TransferError::Garbled(_)) && error.is_lie(), "{error}");

    for garbage in [noise(9, 2_000), frame(Tag::Updates, &noise(9, 2_000)), vec![0; 100]] {
        let error = lied_to(&tree, |_| garbage).await;
        assert!(matches!(error, TransferError::Garbled(_)), "{error}");
    }
    let error = lied_to(&tree, |_| frame(Tag::NoListing, &[])).await;
    assert!(matches!(error, TransferError::Garbled(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn wherever_a_session_is_cut_it_is_broken_and_never_whole() {
    let holder = member();
    let tree = publish(&holder, &[&noise(1, 5_000), &noise(2, 5_000)]);
    let answer = |asked: &ActionList| {
        let mut answer = updates(&asked.chunks, Content::Inline);
        for chunk in &asked.chunks {
            answer.extend(holder.store.read(&chunk.digest).unwrap());
        }
        answer
    };
    for cut in [0, 1, 4, 5, 40, 100, 5_000, 10_000] {
        let error = lied_to(&tree, |asked| answer(&asked)[..cut].to_vec()).await;
        assert!(matches!(error, TransferError::Broken(_)), "cut at {cut}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_false_listing_is_refused() {
    let (holder, requester) = (member(), member());
    let tree = publish(&holder, &[&noise(1, 2 << 20)]);
    let wanted = tree.root();
    let answer =
        |tree: &Tree| frame(Tag::Listing, &wire::encode(Kind::Tree, &IHaveList::new(tree.clone())));
    let other = publish(&holder, &[b"other"]);
    let mut torn = answer(&tree);
    torn[9] ^= 1;
    for listing in [answer(&other), torn, vec![Tag::Listing as u8, 0, 0, 0, 0xFF]] {
        let ((recv, send), (_their_recv, mut their_send)) = pipe(1 << 20);
        their_send.write_all(&listing).await.unwrap();
        let error = pull(requester.store.clone(), wanted, recv, send, |_| {}).await.unwrap_err();
        assert!(error.is_lie(), "{error}");
    }
    // The right root, but the pieces in another order.
    let mut entries = tree.entries().cloned().collect::<Vec<_>>();
    if let Node::File { chunks, .. } = &mut entries[0].node {
        chunks.reverse();
    }
    holder.store.put_tree(&Tree::new(entries).unwrap()).unwrap();
    let (_, pulled) = session(&holder, &requester, wanted, 64 << 10).await;
    let error = pulled.unwrap_err();
    assert!(matches!(error, TransferError::Unproven(_)) && error.is_lie(), "{error}");
    assert!(requester.store.trees().unwrap().is_empty());
    // An honest holder then needs to send the listing only.
    holder.store.put_tree(&tree).unwrap();
    let pulled = session(&holder, &requester, wanted, 64 << 10).await.1.unwrap();
    assert_eq!((pulled.listings, pulled.chunks), (1, 0));
    assert!(whole(&requester, &wanted));
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_talks_nonsense_is_shown_the_door() {
    let holder = member();
    let questions = [
        noise(1, 100),
        vec![Tag::AskChunks as u8, 0xFF, 0xFF, 0xFF, 0x7F],
        frame(Tag::AskChunks, &noise(2, 50)),
        frame(Tag::Updates, b""),
        frame(Tag::AskListing, b"short"),
        frame(Tag::AskChanges, &noise(2, 50)),
        frame(Tag::Changes, b""),
    ];
    for question in questions {
        let ((_recv, mut send), (their_recv, their_send)) = pipe(1 << 10);
        send.write_all(&question).await.unwrap();
        let error = serve_alone(&holder, their_recv, their_send).await.unwrap_err();
        assert!(matches!(error, TransferError::Garbled(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_asks_for_everything_at_once_gets_it_in_portions() {
    let holder = member();
    let tree = publish(&holder, &[&noise(1, 9 << 20)]);
    let chunks: Vec<Chunk> = tree.chunks().into_iter().collect();
    let ((recv, mut send), (their_recv, their_send)) = pipe(64 << 10);
    let serving = tokio::spawn(serve_alone(&holder, their_recv, their_send));
    let question = wire::encode(Kind::Message, &ActionList { chunks: chunks.clone() });
    send.write_all(&frame(Tag::AskChunks, &question)).await.unwrap();
    send.shutdown().await.unwrap();
    let activity = Activity::new(IDLE);
    let mut wire = Wire::new(recv, &activity);
    let mut got = 0;
    while let Some((tag, bytes)) = wire.frame().await.unwrap() {
        assert_eq!(tag, Tag::Updates);
        let list: UpdateList = decode(Kind::Message, &bytes).unwrap();
        let mut portion = 0;
        for update in list.updates {
            let Update::Chunk { chunk, .. } = update else { panic!("{update:?}") };
            assert_eq!(chunk, chunks[got]);
            let bytes = wire.exactly(chunk.len as usize).await.unwrap();
            assert_eq!(Digest::of_bytes(&bytes), chunk.digest);
            portion += bytes.len() as u64;
            got += 1;
        }
        assert!(portion <= PORTION);
    }
    assert_eq!(got, chunks.len());
    assert_eq!(serving.await.unwrap().unwrap().chunks, chunks.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_on_either_side() {
    let silence = Duration::from_millis(20);
    let (holder, requester) = (member(), member());
    let root = publish(&holder, &[b"x"]).root();
    let ((recv, send), _open_and_silent) = pipe(1 << 10);
    let pulled = pull_within(silence, requester.store.clone(), root, recv, send, |_| {}).await;
    assert!(matches!(pulled, Err(TransferError::Idle)));
    let ((recv, send), _open_and_silent) = pipe(1 << 10);
    let served =
        serve_within(silence, holder.store.clone(), Boards::default(), ASKER, recv, send).await;
    assert!(matches!(served, Err(TransferError::Idle)));
    // One that asks and then does not take the answer.
    let large = publish(&holder, &[&noise(1, 1 << 20)]);
    let ((recv, send), (_their_recv, mut their_send)) = pipe(1 << 10);
    let chunks = large.chunks().into_iter().collect();
    let question = wire::encode(Kind::Message, &ActionList { chunks });
    their_send.write_all(&frame(Tag::AskChunks, &question)).await.unwrap();
    let served =
        serve_within(silence, holder.store.clone(), Boards::default(), ASKER, recv, send).await;
    assert!(matches!(served, Err(TransferError::Idle)));
}

#[tokio::test(start_paused = true)]
async fn garbage_collection_waits_for_a_session() {
    let (holder, requester) = (member(), member());
    let shared = noise(1, 50_000);
    // Held here from before, and soon needed by the tree that is pulled.
    let mut writer = requester.store.writer();
    writer.put(Digest::of_bytes(&shared), &shared).unwrap();
    writer.commit().unwrap();
    let root = publish(&holder, &[&shared, &noise(2, 50_000)]).root();
    let ((recv, send), (their_recv, their_send)) = pipe(1 << 10);
    let serving = tokio::spawn(serve_alone(&holder, their_recv, their_send));
    let store = requester.store.clone();
    let mut postponed = 0;
    let pulling = pull(requester.store.clone(), root, recv, send, |_| {
        postponed += u64::from(store.retain(&BTreeSet::new()).unwrap().postponed);
    });
    pulling.await.unwrap();
    serving.await.unwrap().unwrap();
    assert!(postponed >= 2);
    assert!(whole(&requester, &root));
}

mod changes;
mod hostile;
mod together;
