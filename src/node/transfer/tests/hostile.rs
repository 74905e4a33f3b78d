//! A member that lies about what a tree holds: listings that no honest one can write,
//! because the types don't let it. So they are written here byte by byte.

use std::time::Instant as Clock;

use serde::Serialize;

use super::*;

/// The encoding of a listing, whatever its paths say.
#[derive(Serialize)]
struct Raw {
    entries: Vec<RawEntry>,
}

#[derive(Clone, Serialize)]
struct RawEntry {
    path: Vec<u8>,
    node: RawNode,
}

/// As the nodes of a tree, in their order, and one more.
#[derive(Clone, Serialize)]
enum RawNode {
    Directory { mode: u16 },
    File { mode: u16, size: u64, digest: Digest, chunks: Vec<Chunk> },
    Symlink { target: Vec<u8> },
    Device { major: u32, minor: u32 },
}

fn folder(path: impl AsRef<[u8]>, mode: u16) -> RawEntry {
    RawEntry { path: path.as_ref().to_vec(), node: RawNode::Directory { mode } }
}

fn file(path: impl AsRef<[u8]>, size: u64, lens: &[u32]) -> RawEntry {
    let digest = Digest::of_bytes(b"x");
    let chunks = lens.iter().map(|len| Chunk { digest, len: *len }).collect();
    let node = RawNode::File { mode: 0o644, size, digest, chunks };
    RawEntry { path: path.as_ref().to_vec(), node }
}

/// Every file below `dir` with its bytes; of the index only that it is there.
fn on_disk(dir: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let is_index = path.extension().is_some_and(|extension| extension == "redb");
            let bytes = if is_index { Vec::new() } else { std::fs::read(&path).unwrap() };
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

/// What comes of asking one that sends `answer` and no more.
async fn asked(requester: &Member, wanted: Digest, answer: &[u8]) -> TransferError {
    let ((recv, send), (_their_recv, mut their_send)) = pipe(64 << 10);
    let answer = answer.to_vec();
    let telling = tokio::spawn(async move {
        // It may be cut off while it still talks.
        let _ = their_send.write_all(&answer).await;
        let _ = their_send.shutdown().await;
    });
    let error = pull(requester.store.clone(), wanted, recv, send, |_| {}).await.unwrap_err();
    telling.await.unwrap();
    error
}

#[tokio::test(start_paused = true)]
async fn no_hostile_listing_is_taken() {
    let requester = member();
    let kept = publish(&requester, &[b"already here"]).root();
    let deep = vec!["d"; limits::DEPTH_MAX + 1].join("/");
    let long = "x".repeat(limits::COMPONENT_MAX + 1);
    let longer = vec!["y".repeat(250); 13].join("/");
    let setuid = RawEntry {
        path: b"a".to_vec(),
        node: RawNode::File {
            mode: 0o4755,
            size: 1,
            digest: Digest::of_bytes(b"x"),
            chunks: vec![Chunk { digest: Digest::of_bytes(b"x"), len: 1 }],
        },
    };
    let target = vec![b'x'; limits::PATH_MAX + 1];
    let device = RawNode::Device { major: 1, minor: 3 };
    let small = |path: &str| file(path, 1, &[1]);
    let cases: Vec<(&str, Vec<RawEntry>, &str)> = vec![
        ("a climbing path", vec![small("../x")], ". or .."),
        ("one that climbs further in", vec![folder("a", 0o755), small("a/../../x")], ". or .."),
        ("the directory itself", vec![small(".")], ". or .."),
        ("an absolute path", vec![small("/etc/passwd")], "absolute"),
        ("a slash at the end", vec![small("a/")], "empty component"),
        ("two slashes", vec![small("a//b")], "empty component"),
        ("no path", vec![small("")], "empty"),
        ("a NUL", vec![small("a\0b")], "NUL"),
        ("a long name", vec![small(&long)], "longer than 255"),
        ("a long path", vec![small(&longer)], "longer than 3,072"),
        ("a deep path", vec![small(&deep)], "deeper than 128"),
        ("a name twice", vec![small("a"), small("a")], "twice"),
        ("a file and a directory", vec![small("a"), folder("a", 0o755)], "twice"),
        ("something in a file", vec![small("a"), small("a/b")], "no directory"),
        (
            "something behind a link",
            vec![
                RawEntry {
                    path: b"a".to_vec(),
                    node: RawNode::Symlink { target: b"/etc".to_vec() },
                },
                small("a/passwd"),
            ],
            "no directory",
        ),
        ("something in nothing", vec![small("a/b")], "no directory"),
        ("a setuid file", vec![setuid], "permission bits"),
        ("a sticky directory", vec![folder("a", 0o1777)], "permission bits"),
        ("a setgid directory", vec![folder("a", 0o2755)], "permission bits"),
        ("a device", vec![RawEntry { path: b"a".to_vec(), node: device }], "can't be read"),
        (
            "a long link",
            vec![RawEntry { path: b"a".to_vec(), node: RawNode::Symlink { target } }],
            "can't be read",
        ),
        ("4 GB in a piece of 4 kB", vec![file("a", 4 << 30, &[4_096])], "don't add up"),
        ("a piece of 4 GB", vec![file("a", u64::from(u32::MAX), &[u32::MAX])], "don't add up"),
        ("a piece of nothing", vec![file("a", 0, &[0])], "don't add up"),
        ("pieces that overflow", vec![file("a", 4, &[u32::MAX, u32::MAX, 6])], "don't add up"),
    ];
    let before = on_disk(requester._dir.path());
    for (name, entries, why) in cases {
        let listing = wire::encode(Kind::Tree, &Raw { entries });
        let wanted = Digest::of_bytes(name.as_bytes());
        let error = asked(&requester, wanted, &frame(Tag::Listing, &listing)).await;
        assert!(error.is_lie(), "{name}: {error}");
        let said = error.to_string().replace("pieces don't", "don't");
        assert!(said.contains(why), "{name}: {error}");
        assert!(said.contains("nothing of it was taken"), "{name}: {error}");
        assert_eq!(on_disk(requester._dir.path()), before, "{name}");
    }
    assert!(whole(&requester, &kept));
}

/// The same by the shorter way: changes of a tree that is here.
#[tokio::test(start_paused = true)]
async fn much_is_claimed_and_little_is_sent() {
    let requester = member();
    publish(&requester, &[b"already here"]);
    let before = on_disk(requester._dir.path());
    let some = noise(1, 4_096);
    // A frame as large as one may be, of which a few bytes come; and one larger than that.
    for (size, lie) in [(limits::TREE_MAX as u32, false), (u32::MAX, true)] {
        let mut answer = vec![Tag::Listing as u8];
        answer.extend(size.to_le_bytes());
        answer.extend(&some);
        let error = asked(&requester, Digest::of_bytes(b"wanted"), &answer).await;
        assert_eq!(error.is_lie(), lie, "{error}");
        assert!(lie || matches!(error, TransferError::Broken(_)), "{error}");
    }
    // A listing that says that two billion entries follow.
    let mut claim = vec![wire::VERSION, 253];
    claim.extend(2_000_000_000_u64.to_le_bytes());
    claim.extend(&some);
    let error = asked(&requester, Digest::of_bytes(b"wanted"), &frame(Tag::Listing, &claim)).await;
    assert!(error.is_lie(), "{error}");
    assert_eq!(on_disk(requester._dir.path()), before);

    // 4 GiB in honest pieces, and 4 kB of the first.
    let piece = |n: u64| Chunk { digest: Digest::of_bytes(&n.to_le_bytes()), len: 1 << 20 };
    let chunks: Vec<Chunk> = (0..4_096).map(piece).collect();
    let digest = Digest::of_bytes(b"4 GiB");
    let node = Node::File { mode: 0o644, size: 4 << 30, digest, chunks };
    let tree = Tree::new(vec![Entry { path: path("large"), node }]).unwrap();
    let error = lied_to(&tree, |asked| {
        let mut answer = updates(&asked.chunks[..1], Content::Inline);
        answer.extend(&some);
        answer
    });
    let error = error.await;
    assert!(matches!(error, TransferError::Broken(_)), "{error}");
}

fn empty_files(count: usize) -> Raw {
    let empty = |n: usize| {
        let digest = Digest::of_bytes(b"");
        let node = RawNode::File { mode: 0o644, size: 0, digest, chunks: Vec::new() };
        RawEntry { path: format!("page-{n:07}").into_bytes(), node }
    };
    Raw { entries: (0..count).map(empty).collect() }
}

/// Nothing of it gets to the disk. As many as a tree may have are taken, and whether they can be
/// placed is for the disk to say (`driver::files::place`).
#[tokio::test]
async fn more_files_than_a_tree_may_have_are_refused() {
    let requester = member();
    let before = on_disk(requester._dir.path());
    let listing = wire::encode(Kind::Tree, &empty_files(limits::ENTRIES_MAX + 1));
    let answer = frame(Tag::Listing, &listing);
    let error = asked(&requester, Digest::of_bytes(b"wanted"), &answer).await;
    assert!(error.is_lie(), "{error}");
    assert_eq!(on_disk(requester._dir.path()), before);
}

/// What a listing of so many empty files costs: bounded by what it may be long, and so
/// in memory. `cargo test --lib hostile::how_it_scales -- --ignored --nocapture`
#[tokio::test]
#[ignore = "some minutes; the figures are for people"]
async fn how_it_scales_with_a_million_empty_files() {
    let resident = |what: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<u64>().ok())
            .map_or_else(|| panic!("{what}: no figure"), |kb| kb / 1_024)
    };
    let requester = member();
    for (files, good) in [(1_000_000, true), (limits::ENTRIES_MAX + 1, false)] {
        let listing = wire::encode(Kind::Tree, &empty_files(files));
        let wanted = if good {
            decode::<IHaveList>(Kind::Tree, &listing).unwrap().root()
        } else {
            Digest::of_bytes(b"whatever")
        };
        let (before, began) = (resident("before"), Clock::now());
        let ((recv, send), (_their_recv, mut their_send)) = pipe(1 << 20);
        let answer = frame(Tag::Listing, &listing);
        let sending = tokio::spawn(async move { drop(their_send.write_all(&answer).await) });
        let pulled = pull(requester.store.clone(), wanted, recv, send, |_| {}).await;
        sending.abort();
        assert_eq!(pulled.is_ok(), good, "{pulled:?}");
        let (took, peak) = (began.elapsed(), resident("after"));
        let size = listing.len() >> 20;
        println!(
            "{files} files, {size} MiB: {took:?}, peak {before} to {peak} MiB, {}",
            match pulled {
                Ok(_) => "taken".to_owned(),
                Err(error) => error.to_string(),
            }
        );
        if good {
            let began = Clock::now();
            let tree = requester.store.tree(&wanted).unwrap().unwrap();
            println!("read again in {:?}", began.elapsed());
            assert_eq!(tree.files(), files as u64);
        }
    }
}
