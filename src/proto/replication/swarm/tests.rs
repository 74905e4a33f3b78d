use proptest::prelude::*;

use super::*;
use crate::base::{
    RelPath,
    tree::{Change, Entry, Node, Tree},
};

fn chunk(n: u32, len: u32) -> Chunk {
    Chunk { digest: Digest::of_bytes(&n.to_le_bytes()), len }
}

fn positions(chunks: &[Chunk]) -> Arc<Positions> {
    let size = chunks.iter().map(|c| u64::from(c.len)).sum();
    let (digest, chunks) = (Digest::of_bytes(b""), chunks.to_vec());
    let node = Node::File { mode: 0o644, size, digest, chunks };
    let path = RelPath::parse(b"file").unwrap();
    let tree = Tree::new(if size > 0 { vec![Entry { path, node }] } else { Vec::new() });
    Arc::new(Positions::of(&tree.unwrap()).unwrap())
}

fn id(n: u8) -> MemberId {
    MemberId(Digest([n; 32]))
}

fn answer(chunks: &[Chunk], content: Content) -> UpdateList {
    let updates = chunks.iter().map(|chunk| Update::Chunk { chunk: *chunk, content });
    UpdateList { updates: updates.collect() }
}

const START: Time = Time(1);

/// A plan of these chunks, none of which is here, from one holder.
fn alone(chunks: &[Chunk]) -> (Swarm, MemberId) {
    let mut swarm = Swarm::new(positions(chunks), |_| false, 1);
    swarm.joined(START, id(0), true);
    (swarm, id(0))
}

fn only_list(swarm: &mut Swarm) -> ActionList {
    let mut asks = swarm.asks(START);
    assert_eq!(asks.len(), 1, "{asks:?}");
    let Some((_, Ask::Chunks(list))) = asks.pop() else { panic!("nothing by name") };
    list
}

#[test]
fn what_is_held_is_not_asked_for_and_nothing_twice() {
    let all = [chunk(1, 5), chunk(2, 6), chunk(3, 7)];
    let mut swarm = Swarm::new(positions(&all), |c| *c == all[2], 1);
    swarm.joined(START, id(0), true);
    let list = only_list(&mut swarm);
    assert_eq!(list.chunks, all[..2]);
    assert!(swarm.asks(START).is_empty());
    for chunk in swarm.announced(id(0), &answer(&list.chunks, Content::Inline)).unwrap() {
        assert!(swarm.came(START, id(0), &chunk.digest));
        swarm.put_away(chunk.digest, chunk.digest).unwrap();
    }
    assert!(swarm.is_complete() && !swarm.is_exhausted());
    assert_eq!(swarm.lacking(), (0, 0));
    let Progress { chunks_done, chunks_total, bytes_done, bytes_total, bytes_wasted } =
        swarm.progress();
    assert_eq!((chunks_done, chunks_total), (2, 2));
    assert_eq!((bytes_done, bytes_total, bytes_wasted), (11, 11, 0));
}

#[test]
fn every_lie_is_noticed() {
    let all = [chunk(1, 5), chunk(2, 6)];
    let fresh = || {
        let (mut swarm, from) = alone(&all);
        only_list(&mut swarm);
        (swarm, from)
    };
    let (one, stranger) = (all[0], chunk(9, 5));
    let told = |list: &UpdateList| {
        let (mut swarm, from) = fresh();
        swarm.announced(from, list).unwrap_err()
    };
    assert_eq!(told(&answer(&[stranger], Content::Inline)), Fault::Unasked(stranger.digest));
    assert_eq!(told(&answer(&[stranger], Content::Lacking)), Fault::Unasked(stranger.digest));
    let longer = Chunk { len: 9, ..one };
    let wrong = Fault::WrongLength { digest: one.digest, wanted: 5, found: 9 };
    assert_eq!(told(&answer(&[longer], Content::Inline)), wrong);
    let path = Update::Path(Change::Del(RelPath::parse(b"x").unwrap()));
    assert_eq!(told(&UpdateList { updates: vec![path] }), Fault::NoChunk);
    assert_eq!(told(&UpdateList::default()), Fault::Empty);

    let (mut swarm, from) = fresh();
    let follow = swarm.announced(from, &answer(&[one], Content::Inline)).unwrap();
    assert_eq!(follow, [one]);
    assert!(swarm.came(START, from, &one.digest));
    assert!(!swarm.came(START, from, &one.digest), "it came already");
    let found = stranger.digest;
    let error = swarm.put_away(one.digest, found).unwrap_err();
    assert_eq!(error, Fault::WrongBytes { wanted: one.digest, found });
    swarm.left(from);
    swarm.joined(START, id(1), true);
    assert_eq!(only_list(&mut swarm).chunks, all, "the other is asked for both");
    // Nothing was to be handed out.
    let error = swarm.handed_out(START, id(1), &answer(&[one], Content::Inline)).unwrap_err();
    assert!(matches!(error, Fault::Unasked(_) | Fault::TooMuch), "{error}");
}

#[test]
fn what_one_holder_lacks_another_is_asked_for() {
    let all = [chunk(1, 5), chunk(2, 6)];
    let (mut swarm, from) = alone(&all);
    only_list(&mut swarm);
    swarm.announced(from, &answer(&all[..1], Content::Lacking)).unwrap();
    assert!(!swarm.is_exhausted(), "the other may still come");
    swarm.announced(from, &answer(&all[1..], Content::Inline)).unwrap();
    swarm.came(START, from, &all[1].digest);
    swarm.put_away(all[1].digest, all[1].digest).unwrap();
    assert!(swarm.is_exhausted() && !swarm.is_complete());
    assert_eq!(swarm.lacking(), (1, 5));
    swarm.joined(START, id(1), false);
    assert!(swarm.is_exhausted());
    swarm.gained(id(1), [0, 7_000]);
    assert!(!swarm.is_exhausted());
    assert_eq!(swarm.asks(START), [(id(1), Ask::Chunks(ActionList { chunks: vec![all[0]] }))]);
}

/// Large enough to be handed out.
fn large() -> Vec<Chunk> {
    (0..40).map(|n| chunk(n, 100 << 10)).collect()
}

#[test]
fn what_was_handed_out_is_asked_for_by_name_when_nobody_passes_it_on() {
    let all = large();
    let mut swarm = Swarm::new(positions(&all), |_| false, 1);
    swarm.joined(START, id(0), true);
    swarm.hands_out(id(0));
    swarm.joined(START, id(1), false);
    let [(who, Ask::HandOut(bytes))] = swarm.asks(START)[..] else { panic!("by name") };
    assert_eq!((who, bytes), (id(0), 1 << 20));
    // More than was asked for is a lie, and so is what is none of it.
    let mut other = Swarm::new(positions(&all), |_| false, 1);
    other.joined(START, id(0), true);
    other.hands_out(id(0));
    other.asks(START);
    let error = other.handed_out(START, id(0), &answer(&all, Content::Inline)).unwrap_err();
    assert_eq!(error, Fault::TooMuch);

    let follow = swarm.handed_out(START, id(0), &answer(&all[..4], Content::Inline)).unwrap();
    assert_eq!(follow, all[..4]);
    swarm.asks(START);
    // All the rest went to somebody else.
    swarm.handed_out(START, id(0), &UpdateList::default()).unwrap();
    let soon = START + PASSED_ON_WITHIN / 2;
    assert!(swarm.asks(soon).is_empty(), "it will be passed on");
    swarm.gained(id(1), 4..20);
    let asks = swarm.asks(soon);
    assert!(asks.iter().all(|(who, _)| *who == id(1)) && !asks.is_empty(), "{asks:?}");
    let late = START + PASSED_ON_WITHIN * 2;
    let asks = swarm.asks(late);
    assert!(asks.iter().any(|(who, ask)| {
        let Ask::Chunks(list) = ask else { return false };
        *who == id(0) && list.chunks.iter().all(|c| all[20..].contains(c))
    }));
}

#[test]
fn what_is_owed_for_too_long_is_asked_of_another_and_comes_once() {
    let all = [chunk(1, 5)];
    let (mut swarm, slow) = alone(&all);
    only_list(&mut swarm);
    swarm.joined(START, id(1), true);
    assert!(swarm.asks(START + OWED_MAX / 2).is_empty());
    let late = START + OWED_MAX * 2;
    assert_eq!(swarm.asks(late), [(id(1), Ask::Chunks(ActionList { chunks: all.to_vec() }))]);
    assert!(swarm.asks(late + OWED_MAX * 2).is_empty(), "two are enough");
    for who in [id(1), slow] {
        swarm.announced(who, &answer(&all, Content::Inline)).unwrap();
    }
    assert!(swarm.came(late, id(1), &all[0].digest));
    assert!(!swarm.came(late, slow, &all[0].digest));
    swarm.put_away(all[0].digest, all[0].digest).unwrap();
    assert!(swarm.is_complete());
    assert_eq!(swarm.progress().bytes_wasted, 5);
}

#[test]
fn what_only_a_member_at_a_standstill_has_comes_from_its_holder() {
    let all = large();
    let mut swarm = Swarm::new(positions(&all), |_| false, 1);
    swarm.joined(START, id(0), true);
    swarm.hands_out(id(0));
    swarm.joined(START, id(1), false);
    swarm.asks(START);
    swarm.handed_out(START, id(0), &UpdateList::default()).unwrap();
    // It has everything and never answers: not all of it is even asked for.
    swarm.gained(id(1), 0..40);
    swarm.asks(START);
    let late = START + OWED_MAX * 2;
    let mut asked = BTreeSet::new();
    for _ in 0..100 {
        for (who, ask) in swarm.asks(late) {
            let Ask::Chunks(list) = ask else { panic!("handed out") };
            assert_eq!(who, id(0));
            let follow = swarm.announced(who, &answer(&list.chunks, Content::Inline)).unwrap();
            for chunk in follow {
                assert!(swarm.came(late, who, &chunk.digest) && asked.insert(chunk));
                swarm.put_away(chunk.digest, chunk.digest).unwrap();
            }
        }
    }
    assert!(swarm.is_complete());
}

#[test]
fn what_few_have_is_asked_for_first() {
    let all = large();
    // Whatever the seed, and so where the search begins.
    for seed in 0..50 {
        let mut swarm = Swarm::new(positions(&all), |_| false, seed);
        for n in 1..=3 {
            swarm.joined(START, id(n), false);
        }
        swarm.gained(id(1), 0..40);
        swarm.gained(id(2), 0..36);
        swarm.gained(id(3), 0..36);
        let asks = swarm.asks(START);
        let first = asks.iter().find(|(who, _)| *who == id(1));
        let Some((_, Ask::Chunks(list))) = first else { panic!("{asks:?}") };
        let begins: BTreeSet<&Chunk> = list.chunks.iter().take(4).collect();
        assert_eq!(begins, all[36..].iter().collect(), "seed {seed}: {list:?}");
    }
}

/// A plan in which 1 is near and 2 is far, and who else there is.
fn near_and_far(all: &[Chunk], near: &[u8]) -> Swarm {
    let far = BTreeSet::from([id(2)]);
    let mut swarm = Swarm::new(positions(all), |_| false, 1).with_far(far);
    for who in near.iter().chain(&[2]) {
        swarm.joined(START, id(*who), false);
        swarm.gained(id(*who), 0..all.len() as u32);
    }
    swarm
}

fn who_is_asked(swarm: &mut Swarm, now: Time) -> BTreeSet<MemberId> {
    swarm.asks(now).into_iter().map(|(who, _)| who).collect()
}

#[test]
fn who_is_far_is_asked_for_what_nobody_near_has() {
    let all = large();
    let long = START + PASSED_ON_WITHIN * 2;
    let mut swarm = near_and_far(&all, &[1]);
    assert_eq!(who_is_asked(&mut swarm, long), [id(1)].into());
    swarm.left(id(1));
    assert_eq!(who_is_asked(&mut swarm, long), [id(2)].into(), "there is nobody else");

    // Somebody near has nothing yet, and may get it.
    let mut swarm = near_and_far(&all, &[]);
    swarm.joined(START, id(3), false);
    assert_eq!(who_is_asked(&mut swarm, START), [].into());
    assert_eq!(who_is_asked(&mut swarm, long), [id(2)].into());

    // As long as everything is handed out, it comes from there or from near.
    let mut swarm = near_and_far(&all, &[]);
    swarm.joined(START, id(0), true);
    swarm.hands_out(id(0));
    assert_eq!(who_is_asked(&mut swarm, long), [id(0)].into());
    swarm.handed_out(long, id(0), &UpdateList::default()).unwrap();
    assert_eq!(who_is_asked(&mut swarm, long), [].into(), "those near may get it now");
    let later = long + PASSED_ON_WITHIN * 2;
    assert!(who_is_asked(&mut swarm, later).contains(&id(0)), "who handed out is near");
}

#[test]
fn who_is_far_is_asked_for_what_somebody_near_owes_for_too_long() {
    let all = [chunk(1, 5)];
    let mut swarm = near_and_far(&all, &[1]);
    assert_eq!(who_is_asked(&mut swarm, START), [id(1)].into());
    assert_eq!(who_is_asked(&mut swarm, START + OWED_MAX * 2), [id(2)].into());
}

/// One that is near gives a chunk of 256 KiB at each look, or every tenth; one that is far has all as
/// well. Whether that is asked before the end.
fn is_far_asked_beside(every: u32) -> bool {
    let all: Vec<Chunk> = (0..400).map(|n| chunk(n, 256 << 10)).collect();
    let far = BTreeSet::from([id(2)]);
    let mut swarm = Swarm::new(positions(&all), |_| false, 1).with_far(far);
    swarm.joined(START, id(1), true);
    swarm.joined(START, id(2), true);
    let (mut now, mut owed) = (START, Vec::new());
    for look in 1..=200 {
        now = now + REMIND_EVERY;
        for (who, ask) in swarm.asks(now) {
            let Ask::Chunks(list) = ask else { panic!("handed out") };
            if who == id(2) {
                return true;
            }
            owed.extend(swarm.announced(who, &answer(&list.chunks, Content::Inline)).unwrap());
        }
        if look % every == 0 && !owed.is_empty() {
            let chunk = owed.remove(0);
            swarm.came(now, id(1), &chunk.digest);
            swarm.put_away(chunk.digest, chunk.digest).unwrap();
        }
    }
    false
}

#[test]
fn who_is_far_is_asked_where_one_that_is_near_would_take_long() {
    assert!(!is_far_asked_beside(1), "5 MB a second are enough");
    assert!(is_far_asked_beside(10), "half a MB is not, for a hundred");
}

#[test]
fn who_is_far_is_looked_at_seldom() {
    // Nothing of it is to be asked of the far one for now: that is not found out at each piece.
    let all: Vec<Chunk> = (0..400).map(|n| chunk(n, 1 << 10)).collect();
    let mut swarm = near_and_far(&all, &[1]);
    let later = START + PASSED_ON_WITHIN * 2;
    assert_eq!(who_is_asked(&mut swarm, later), [id(1)].into());
    assert_eq!(swarm.peers[&id(2)].rests, later + REMIND_EVERY);
}

#[test]
fn who_crawls_is_dropped_where_others_have_what_it_owes() {
    let all = large();
    let ask_both = |others: std::ops::Range<u32>| {
        let mut swarm = Swarm::new(positions(&all), |_| false, 1);
        swarm.joined(START, id(1), true);
        swarm.joined(START, id(2), false);
        swarm.gained(id(2), others);
        let mut now = START;
        // The other one answers, in every look, and this one never.
        for _ in 0..200 {
            now = now + REMIND_EVERY;
            for (who, ask) in swarm.asks(now) {
                let Ask::Chunks(list) = ask else { panic!("handed out") };
                // Nothing comes of the last one that is asked for, so that the fetch goes on.
                let chunks: Vec<Chunk> =
                    list.chunks.into_iter().filter(|c| *c != all[0] && who == id(2)).collect();
                if chunks.is_empty() {
                    continue;
                }
                for chunk in swarm.announced(who, &answer(&chunks, Content::Inline)).unwrap() {
                    swarm.came(now, who, &chunk.digest);
                    swarm.put_away(chunk.digest, chunk.digest).unwrap();
                }
            }
            if now.since(START) < CRAWLS_AFTER {
                assert!(swarm.crawling(now).is_empty(), "too early to say");
            }
        }
        swarm.crawling(now)
    };
    assert_eq!(ask_both(1..40), [], "only it has the first one");
    // Both owe that one then, so neither can be done without.
    assert_eq!(ask_both(0..40), []);

    let mut swarm = Swarm::new(positions(&all), |_| false, 1);
    swarm.joined(START, id(1), true);
    swarm.asks(START);
    let late = START + OWED_MAX * 2;
    swarm.asks(late);
    swarm.joined(late, id(2), false);
    swarm.gained(id(2), 0..40);
    assert_eq!(swarm.crawling(late), [], "a moment is no crawl");
    let later = late + CRAWLS_AFTER;
    assert_eq!(swarm.crawling(later), [id(1)]);
    swarm.left(id(1));
    assert_eq!(who_is_asked(&mut swarm, later), [id(2)].into());
}

#[test]
fn at_the_end_nobody_waits_for_the_slowest() {
    let all = large();
    let mut swarm = Swarm::new(positions(&all), |_| false, 1);
    swarm.joined(START, id(1), true);
    // It gives a chunk of 100 KiB every two seconds, so that what it is asked ahead takes ten.
    let mut now = START;
    let Some((_, Ask::Chunks(list))) = swarm.asks(now).pop() else { panic!("nothing asked") };
    for chunk in list.chunks {
        now = now + Duration::from_secs(2);
        swarm.announced(id(1), &answer(&[chunk], Content::Inline)).unwrap();
        swarm.came(now, id(1), &chunk.digest);
        swarm.put_away(chunk.digest, chunk.digest).unwrap();
    }
    let Some((_, Ask::Chunks(slow))) = swarm.asks(now).pop() else { panic!("nothing asked") };
    swarm.joined(now, id(2), false);
    swarm.gained(id(2), 0..40);
    let given = |swarm: &mut Swarm, now| {
        let mut all = Vec::new();
        for (who, ask) in swarm.asks(now) {
            let Ask::Chunks(list) = ask else { panic!("handed out") };
            assert_eq!(who, id(2));
            for chunk in swarm.announced(who, &answer(&list.chunks, Content::Inline)).unwrap() {
                swarm.came(now, who, &chunk.digest);
                swarm.put_away(chunk.digest, chunk.digest).unwrap();
                all.push(chunk);
            }
        }
        all
    };
    while !given(&mut swarm, now).is_empty() {}
    assert_eq!(swarm.lacking().0, slow.chunks.len() as u64, "the other has done the rest");
    let mut late = given(&mut swarm, now + OWED_MAX + REMIND_EVERY);
    late.sort();
    let mut owed = slow.chunks;
    owed.sort();
    assert_eq!(late, owed);
    assert!(swarm.is_complete());
}

proptest! {
    /// Whatever who has, in which order they answer, and who leaves: as long as
    /// one holds everything it all comes, within the bounds.
    #[test]
    fn a_fetch_comes_to_its_end(
        lens in proptest::collection::vec(1_u32..=limits::CHUNK_MAX as u32, 1..80),
        have in proptest::collection::vec((0_u8..5, 0_u32..80), 0..200),
        picks in proptest::collection::vec((any::<u8>(), 0_u8..20), 1..60),
        seed: u64,
        hands_out: bool,
        far in proptest::collection::btree_set(0_u8..5, 0..5),
    ) {
        let all: Vec<Chunk> = lens.iter().enumerate().map(|(n, l)| chunk(n as u32, *l)).collect();
        let far = far.into_iter().map(id).collect();
        let mut swarm = Swarm::new(positions(&all), |_| false, seed).with_far(far);
        swarm.joined(START, id(0), true);
        for peer in 1..5 {
            swarm.joined(START, id(peer), false);
        }
        if hands_out {
            swarm.hands_out(id(0));
        }
        for (peer, at) in &have {
            swarm.gained(id(*peer), [*at]);
        }
        let (mut now, mut picks) = (START, picks.iter().cycle());
        let mut open: Vec<(MemberId, Ask)> = Vec::new();
        let mut handed: BTreeSet<u32> = BTreeSet::new();
        for _ in 0..20_000 {
            now = now + Duration::from_millis(40);
            open.extend(swarm.asks(now));
            if swarm.is_complete() {
                break;
            }
            if open.is_empty() {
                continue; // until it is patient no more
            }
            let (pick, event) = picks.next().unwrap();
            let (who, ask) = open.swap_remove(usize::from(*pick) % open.len());
            if *event == 0 && who != id(0) {
                swarm.left(who);
                open.retain(|(other, _)| *other != who);
                continue;
            }
            let follow = match ask {
                Ask::Chunks(list) => {
                    prop_assert!(list.chunks.len() <= limits::ACTIONS_MAX);
                    let lacks = *event == 1 && who != id(0);
                    let content = if lacks { Content::Lacking } else { Content::Inline };
                    swarm.announced(who, &answer(&list.chunks, content)).unwrap()
                }
                Ask::HandOut(bytes) => {
                    // Somebody else gets every second one.
                    let mut given: Vec<Chunk> = Vec::new();
                    let mut sum = 0;
                    for (at, chunk) in all.iter().enumerate() {
                        if handed.contains(&(at as u32)) || swarm.held().get(at as u32) {
                            continue;
                        }
                        if !given.is_empty() && sum + chunk.len > bytes {
                            break;
                        }
                        handed.insert(at as u32);
                        if at % 2 == 0 {
                            sum += chunk.len;
                            given.push(*chunk);
                        }
                    }
                    swarm.handed_out(now, who, &answer(&given, Content::Inline)).unwrap()
                }
            };
            for chunk in follow {
                if swarm.came(now, who, &chunk.digest) {
                    swarm.put_away(chunk.digest, chunk.digest).unwrap();
                }
            }
            prop_assert!(swarm.bytes_in_flight <= limits::IN_FLIGHT_MAX as u64 + (4 << 20));
        }
        prop_assert!(swarm.is_complete(), "{swarm:?}");
        prop_assert_eq!(swarm.bytes_in_flight, swarm.peers.values().map(Peer::outstanding).sum::<u64>());
    }
}
