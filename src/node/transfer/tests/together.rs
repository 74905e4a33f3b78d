//! Many that fetch the same: from the publisher and from each other. The clock
//! is virtual: it stands while anybody works, the disk included, and leaps when
//! all wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    node::rate::Rate,
    proto::replication::{Join, Standing},
};

/// Who can be reached, and what each has served.
#[derive(Clone, Default)]
struct Network {
    places: Arc<Mutex<BTreeMap<MemberId, Place>>>,
    /// Whose first digit is this or more is elsewhere than the others; nobody if not given.
    elsewhere: Option<u8>,
    /// How fast everything goes, taken together.
    rate: Rate,
    /// Bytes served to who is far.
    crossed: Arc<AtomicU64>,
}

impl Network {
    fn are_far(&self, one: MemberId, other: MemberId) -> bool {
        let is_elsewhere = |member: MemberId| self.elsewhere.is_some_and(|n| member.0.0[0] >= n);
        is_elsewhere(one) != is_elsewhere(other)
    }
}

#[derive(Clone)]
enum Place {
    /// Serves; how many sessions are cut after so many bytes, if any are.
    Member { store: ContentStore, boards: Boards, served: Arc<AtomicU64>, cut: Option<u64> },
    /// Says that it holds all of it, and sends other bytes.
    Liar,
    /// Says that it holds all of it, and sends nothing.
    Crawler,
    /// Of a version before this one, whose newest word is this.
    Old { store: ContentStore, newest: Tag },
}

/// One end of the network.
#[derive(Clone)]
struct Port {
    me: MemberId,
    network: Network,
}

impl Connect for Port {
    type Recv = Box<dyn AsyncRead + Send + Unpin>;
    type Send = WriteHalf<DuplexStream>;

    async fn open(&self, member: MemberId) -> io::Result<(Self::Recv, Self::Send)> {
        let place = self.network.places.lock().unwrap().get(&member).cloned();
        let place = place.ok_or_else(|| io::Error::other("nobody is there"))?;
        let ((recv, send), (their_recv, their_send)) = pipe(256 << 10);
        let far = self.network.are_far(self.me, member);
        let (me, crossed) = (Asker { id: self.me, far }, self.network.crossed.clone());
        let mut recv: Self::Recv = Box::new(self.network.rate.limit(recv));
        match place {
            Place::Member { store, boards, served, cut } => {
                if let Some(cut) = cut {
                    recv = Box::new(recv.take(cut));
                }
                tokio::spawn(async move {
                    let done = serve(store, boards, me, their_recv, their_send).await;
                    // What was cut short is counted for what it was.
                    let bytes = done.map_or(cut.unwrap_or(0), |done| done.bytes);
                    served.fetch_add(bytes, Ordering::SeqCst);
                    crossed.fetch_add(if far { bytes } else { 0 }, Ordering::SeqCst);
                });
            }
            Place::Liar => drop(tokio::spawn(lie(true, their_recv, their_send))),
            Place::Crawler => drop(tokio::spawn(lie(false, their_recv, their_send))),
            Place::Old { store, newest } => {
                drop(tokio::spawn(be_old(store, newest, their_recv, their_send)));
            }
        }
        Ok((recv, send))
    }
}

async fn lie(sends: bool, recv: ReadHalf<DuplexStream>, mut send: WriteHalf<DuplexStream>) {
    let activity = Activity::new(IDLE);
    let mut wire = Wire::new(recv, &activity);
    while let Ok(Some((tag, bytes))) = wire.frame().await {
        let answer = match tag {
            Tag::Join => {
                let _understood: Join = decode(Kind::Message, &bytes).unwrap();
                frame(Tag::Standing, &wire::encode(Kind::Message, &Standing::Whole))
            }
            Tag::AskChunks if sends => {
                let asked: ActionList = decode(Kind::Message, &bytes).unwrap();
                let mut answer = updates(&asked.chunks, Content::Inline);
                asked.chunks.iter().for_each(|chunk| answer.extend(vec![7; chunk.len as usize]));
                answer
            }
            _ => continue,
        };
        if send.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Serves as long as it understands: what is newer than `newest` is no tag to it.
pub(super) async fn be_old(
    store: ContentStore,
    newest: Tag,
    recv: ReadHalf<DuplexStream>,
    send: WriteHalf<DuplexStream>,
) {
    let (questions, mut pass_on) = duplex(64 << 10);
    let activity = Activity::new(IDLE);
    let mut wire = Wire::new(recv, &activity);
    let serving = tokio::spawn(serve(store, Boards::default(), ASKER, questions, send));
    while let Ok(Some((tag, bytes))) = wire.frame().await {
        if tag as u8 > newest as u8 {
            serving.abort(); // as at any tag that is none
            return;
        }
        pass_on.write_all(&frame(tag, &bytes)).await.unwrap();
    }
}

/// Members, the first of which holds the tree.
struct Bench {
    members: Vec<Member>,
    boards: Vec<Boards>,
    served: Vec<Arc<AtomicU64>>,
    network: Network,
    tree: Tree,
    /// What those that fetch hold already.
    bases: Vec<Digest>,
    /// By whom, who, and why.
    dropped: Dropped,
}

type Dropped = Arc<Mutex<Vec<(MemberId, MemberId, String)>>>;

impl Bench {
    fn new(count: usize, contents: &[&[u8]]) -> Self {
        let members: Vec<Member> = (0..count).map(|_| member()).collect();
        let tree = publish(&members[0], contents);
        let this = Self {
            boards: vec![(); count].into_iter().map(|()| Boards::default()).collect(),
            served: vec![(); count].into_iter().map(|()| Arc::default()).collect(),
            network: Network::default(),
            members,
            tree,
            bases: Vec::new(),
            dropped: Dropped::default(),
        };
        (0..count).for_each(|n| this.set(n, None));
        this
    }

    fn set(&self, n: usize, cut: Option<u64>) {
        let store = self.members[n].store.clone();
        let (boards, served) = (self.boards[n].clone(), self.served[n].clone());
        self.place(n, Place::Member { store, boards, served, cut });
    }

    fn place(&self, n: usize, place: Place) {
        self.network.places.lock().unwrap().insert(id(n as u8), place);
    }

    /// `n` fetches from the first, and from all others beside it.
    fn fetch(&self, n: usize) -> impl Future<Output = Result<Pulled, TransferError>> + use<> {
        let me = id(n as u8);
        let port = Port { me, network: self.network.clone() };
        let peers = (1..self.members.len()).filter(|peer| *peer != n).map(|peer| id(peer as u8));
        let (store, boards) = (self.members[n].store.clone(), self.boards[n].clone());
        let (root, bases) = (self.tree.root(), self.bases.clone());
        let (from, peers): (_, Vec<MemberId>) = (id(0), peers.collect());
        let all = peers.iter().copied().chain([from]);
        let far = all.filter(|other| self.network.are_far(me, *other)).collect();
        let wanted = Wanted { root, from, peers, far, bases };
        let dropped = self.dropped.clone();
        let tell = move |news| {
            if let News::Dropped(member, error) = news {
                dropped.lock().unwrap().push((me, member, error.to_string()));
            }
        };
        async move { fetch(store, boards, port, wanted, tell).await }
    }

    async fn fetch_all(&self, who: impl IntoIterator<Item = usize>) -> Vec<Pulled> {
        let all: Vec<_> = who.into_iter().map(|n| tokio::spawn(self.fetch(n))).collect();
        let mut pulled = Vec::new();
        for one in all {
            pulled.push(one.await.unwrap().unwrap());
        }
        pulled
    }

    fn is_whole(&self, n: usize) -> bool {
        whole(&self.members[n], &self.tree.root())
    }

    /// What a member has served, once its sessions are over.
    async fn served(&self, n: usize) -> u64 {
        // The clock leaps only when nobody has anything to do but wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.served[n].load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_sends_its_content_once_to_many() {
    let content = noise(1, 24 << 20);
    let bench = Bench::new(6, &[&content, b"small", b"smaller"]);
    let pulled = bench.fetch_all(1..6).await;
    assert!((1..6).all(|n| bench.is_whole(n)));
    let copies = bench.served(0).await as f64 / content.len() as f64;
    assert!(copies < 1.5, "{copies} copies: {pulled:?}");
    let wasted: u64 = pulled.iter().map(|p| p.wasted).sum();
    assert!(wasted < content.len() as u64 / 2, "{wasted} bytes came twice");
}

#[tokio::test(start_paused = true)]
async fn a_liar_among_those_asked_spoils_nothing() {
    let bench = Bench::new(4, &[&noise(1, 12 << 20)]);
    bench.place(3, Place::Liar);
    bench.fetch_all(1..3).await;
    assert!(bench.is_whole(1) && bench.is_whole(2));
    let dropped = bench.dropped.lock().unwrap().clone();
    let lied = |(_, who, why): &(MemberId, MemberId, String)| {
        *who == id(3) && why.starts_with("the holder lied")
    };
    assert!(!dropped.is_empty() && dropped.iter().all(lied), "{dropped:?}");
    let by: BTreeSet<MemberId> = dropped.iter().map(|(by, _, _)| *by).collect();
    assert_eq!(by.len(), dropped.len(), "each says so once: {dropped:?}");
}

/// Two places with four members each, of which one publishes: the other place gets one copy.
#[tokio::test(start_paused = true)]
async fn one_copy_goes_to_each_place() {
    let content = noise(1, 24 << 20);
    let mut bench = Bench::new(8, &[&content]);
    bench.network.elsewhere = Some(4);
    bench.fetch_all(1..8).await;
    assert!((1..8).all(|n| bench.is_whole(n)));
    let sent = bench.served(0).await as f64 / content.len() as f64;
    let crossed = bench.network.crossed.load(Ordering::SeqCst) as f64 / content.len() as f64;
    assert!((1.0..1.6).contains(&crossed), "{crossed} copies from place to place");
    assert!(sent < 2.6, "{sent} copies of the publisher: one for each place");
}

/// One that says that it has all, and then says nothing, is dropped after some seconds; the
/// others have it.
#[tokio::test(start_paused = true)]
async fn who_crawls_is_dropped_and_told_of_once() {
    let bench = Bench::new(4, &[&noise(1, 24 << 20)]);
    bench.place(3, Place::Crawler);
    let rate = 1 << 20;
    bench.network.rate.set(Some(rate));
    let began = tokio::time::Instant::now();
    bench.fetch_all(1..3).await;
    assert!(bench.is_whole(1) && bench.is_whole(2));
    let least = Duration::from_secs(2 * (24 << 20) / rate);
    assert!(began.elapsed() < least + Duration::from_secs(4), "{:?}", began.elapsed());
    let mut dropped = bench.dropped.lock().unwrap().clone();
    dropped.sort();
    let who: Vec<_> = dropped.iter().map(|(by, who, _)| (*by, *who)).collect();
    assert_eq!(who, [(id(1), id(3)), (id(2), id(3))], "{dropped:?}");
    assert_eq!(dropped[0].2, TransferError::Crawls.to_string());
}

/// Fifteen share a line on which one chunk takes each of them seconds.
#[tokio::test(start_paused = true)]
async fn nobody_crawls_for_the_line_being_thin() {
    let content = noise(1, 8 << 20);
    let bench = Bench::new(16, &[&content]);
    for member in &bench.members[1..15] {
        publish(member, &[&content]);
    }
    bench.network.rate.set(Some(1 << 20));
    bench.fetch_all(15..16).await;
    assert!(bench.is_whole(15));
    let dropped = bench.dropped.lock().unwrap().clone();
    assert!(dropped.is_empty(), "{dropped:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_member_was_given_comes_from_elsewhere() {
    let bench = Bench::new(5, &[&noise(1, 12 << 20)]);
    // Two give nothing on: their sessions are cut at once, again and again.
    bench.set(1, Some(5));
    bench.set(2, Some(300_000));
    bench.fetch_all(1..5).await;
    assert!((1..5).all(|n| bench.is_whole(n)));
}

#[tokio::test(start_paused = true)]
async fn members_that_have_parts_make_up_for_a_holder_that_died() {
    let (one, two) = (noise(1, 6 << 20), noise(2, 6 << 20));
    let bench = Bench::new(4, &[&one, &two]);
    // Each of the others holds half of it, and knows the listing.
    for (n, part) in [(1, &one), (2, &two)] {
        publish(&bench.members[n], &[part]);
        bench.members[n].store.put_tree(&bench.tree).unwrap();
    }
    bench.members[3].store.put_tree(&bench.tree).unwrap();
    bench.network.places.lock().unwrap().remove(&id(0));
    bench.fetch_all(1..4).await;
    assert!((1..4).all(|n| bench.is_whole(n)));
}

#[tokio::test(start_paused = true)]
async fn a_holder_of_a_version_before_is_asked_as_it_knows_it() {
    // One that can't compare listings, and one that does not know how to join either.
    for newest in [Tag::HandedOut, Tag::Updates] {
        let mut bench = Bench::new(3, &[&noise(1, 6 << 20), b"same"]);
        let store = bench.members[0].store.clone();
        bench.place(0, Place::Old { store, newest });
        for member in &bench.members {
            bench.bases = vec![publish(member, &[b"before", b"same"]).root()];
        }
        let pulled = bench.fetch_all(1..3).await;
        assert!(pulled.iter().all(|pulled| pulled.listings == 1), "{pulled:?}");
        assert!(bench.is_whole(1) && bench.is_whole(2));
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_know_the_listing_by_its_changes_give_to_each_other() {
    let content = noise(1, 12 << 20);
    let small: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n]).collect();
    let with = |first: &'static [u8]| -> Vec<&[u8]> {
        [first].into_iter().chain(small.iter().map(Vec::as_slice)).collect()
    };
    let before = with(b"before");
    let mut after = before.clone();
    after[0] = &content;
    let mut bench = Bench::new(4, &after);
    for member in &bench.members {
        bench.bases = vec![publish(member, &before).root()];
    }
    let pulled = bench.fetch_all(1..4).await;
    assert!((1..4).all(|n| bench.is_whole(n)));
    assert!(pulled.iter().all(|p| p.listings == 0 && p.listing_bytes > 0), "{pulled:?}");
    let copies = bench.served(0).await as f64 / content.len() as f64;
    assert!(copies < 1.5, "{copies} copies: {pulled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_a_part_from_everybody() {
    let bench = Bench::new(5, &[&noise(1, 24 << 20)]);
    bench.fetch_all(1..4).await;
    let before = bench.served(1).await;
    bench.fetch_all([4]).await;
    assert!(bench.is_whole(4));
    assert!(bench.served(1).await > before, "it gave nothing");
}
