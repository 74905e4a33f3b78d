//! The requester's side: one fetch, from whoever has something of it.

mod listing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::listing::Origin;
use super::{
    Connect, News, Pulled, TransferError, Wanted,
    board::{Board, Boards, Has},
    frame::{Tag, frame, out_of_turn},
    proving::Proving,
    session::{Heard, Said, converse},
    sink::{Sink, Stored},
};
use crate::{
    base::{
        Digest, MemberId, Time, limits,
        tree::Tree,
        wire::{self, Kind},
    },
    proto::replication::{Ask, Bits, Gained, Join, Positions, Standing, Swarm, TOGETHER_FROM},
    store::{ContentStore, Doubt},
};

/// How often is seen to what is owed for too long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long nobody may have anything that is missing, when others may get it yet.
const STUCK_MAX: Duration = Duration::from_secs(2);
/// How often, in that time, the others are asked again how they stand: one that
/// got everything before it had a conversation with this member told it nothing.
const STUCK_ASK: Duration = Duration::from_millis(300);
/// When a member that had nothing of it is asked again: at first, and at the most.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// When a member that crawled is asked again.
const CRAWLS_AGAIN: Duration = Duration::from_secs(15);
/// How long the others are given to take a good-bye.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// One fetch.
pub(super) struct Fetch<C> {
    pub store: ContentStore,
    pub boards: Boards,
    pub connect: C,
    pub wanted: Wanted,
    pub idle: Duration,
    /// Whether the holder is asked in the way in which a single holder is.
    pub plain: bool,
}

impl<C: Connect> Fetch<C> {
    pub async fn run(self, news: &mut impl FnMut(News)) -> Result<Pulled, TransferError> {
        // What is not missing now must still be there when the listing is stored.
        let (holding, root) = (self.store.clone(), self.wanted.root);
        let (hold, known) = spawn_blocking(move || (holding.hold(), holding.tree(&root))).await?;
        let store = self.store.clone();
        let (tell, heard) = mpsc::channel(8);
        let mut crew = Crew {
            sessions: BTreeMap::new(),
            tasks: JoinSet::new(),
            again: BTreeMap::new(),
            heard,
            tell,
            opened: 0,
            dropped: Vec::new(),
            told_of: BTreeSet::new(),
            from_failed: None,
            pulled: Pulled::default(),
            fetch: self,
        };
        let from = crew.fetch.wanted.from;
        crew.open(from);
        let (tree, origin) = match known? {
            None => crew.come_by_listing().await?,
            Some(tree) => (tree, Origin::Ours),
        };
        if let Origin::Changed(base) = origin {
            crew.patch(&tree, base).await?;
        }
        let (tree, origin) = match crew.chunks(&tree, origin, news).await {
            Ok(()) => (tree, origin),
            // The holder may have cut the same files in other pieces.
            Err(lacking @ TransferError::Lacking { .. }) if origin != Origin::Theirs => {
                match crew.listing().await {
                    Ok(theirs) if theirs == tree => return Err(lacking),
                    Ok(theirs) => {
                        crew.chunks(&theirs, Origin::Theirs, news).await?;
                        (theirs, Origin::Theirs)
                    }
                    Err(TransferError::Lacking { .. }) => return Err(lacking),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let pulled = crew.pulled;
        let stored = spawn_blocking(move || {
            match origin {
                Origin::Changed(base) => store.put_tree_like(&tree, &base)?,
                Origin::Ours | Origin::Theirs => store.put_tree(&tree)?,
            };
            drop(hold);
            Ok(())
        });
        let stored: Result<(), TransferError> = stored.await?;
        if stored.is_ok() {
            crew.take_leave();
        }
        stored.map(|()| pulled)
    }
}

/// A conversation under way.
struct Session {
    /// Tells what it said from what one before it had said.
    number: u64,
    ask: mpsc::UnboundedSender<Vec<u8>>,
    task: tokio::task::AbortHandle,
    /// It has said how it stands.
    answered: bool,
    /// Which of its bytes are wanted.
    follows: BTreeSet<Digest>,
}

/// Everybody who is asked.
struct Crew<C> {
    fetch: Fetch<C>,
    sessions: BTreeMap<MemberId, Session>,
    tasks: JoinSet<()>,
    /// When to try again with those that had nothing, and how long to wait after that.
    again: BTreeMap<MemberId, (Instant, Duration)>,
    heard: mpsc::Receiver<(MemberId, u64, Heard)>,
    tell: mpsc::Sender<(MemberId, u64, Heard)>,
    opened: u64,
    /// Who was dropped, and was not told of yet.
    dropped: Vec<(MemberId, TransferError)>,
    /// Of whom that was told: one event for each is enough.
    told_of: BTreeSet<MemberId>,
    /// Why the holder of everything is asked no more.
    from_failed: Option<TransferError>,
    pulled: Pulled,
}

/// The state of one fetch of chunks.
struct Chunks {
    swarm: Swarm,
    sink: Sink,
    /// None where the listing is this member's own.
    proving: Option<Proving>,
    board: Option<Arc<Board>>,
    said: mpsc::UnboundedReceiver<(MemberId, Has)>,
    /// What those said that are not asked yet: which pieces, or that they have all.
    heard_of: BTreeMap<MemberId, (Bits, bool)>,
    /// Put away and not to be read from the store yet.
    young: Vec<Digest>,
    positions: Arc<Positions>,
    began: Instant,
}

impl Chunks {
    fn now(&self) -> Time {
        Time(self.began.elapsed().as_micros() as u64)
    }

    /// `member` says what it has. If it is not asked yet, that is kept, within
    /// the bounds of what there is to say.
    fn has(&mut self, member: MemberId, has: Has) {
        let size = self.positions.chunks().len();
        let (positions, all) = match has {
            Has::Bits(bits) => ((0..size as u32).filter(|at| bits.get(*at)).collect(), false),
            Has::Gained(gained) => (gained.positions, gained.all),
        };
        if !self.swarm.has_peer(member) {
            let none = || (Bits::new(size), false);
            let (bits, whole) = self.heard_of.entry(member).or_insert_with(none);
            *whole |= all;
            for at in positions {
                bits.set(at);
            }
        } else if all {
            self.swarm.joined(self.now(), member, true);
        } else {
            self.swarm.gained(member, positions);
        }
    }
}

impl<C: Connect> Crew<C> {
    fn open(&mut self, peer: MemberId) {
        self.close(peer);
        self.opened += 1;
        let number = self.opened;
        let (ask, questions) = mpsc::unbounded_channel();
        let (connect, idle) = (self.fetch.connect.clone(), self.fetch.idle);
        let said = Said { peer, number, tell: self.tell.clone() };
        let task = self.tasks.spawn(converse(connect, idle, questions, said));
        let session = Session { number, ask, task, answered: false, follows: BTreeSet::new() };
        self.sessions.insert(peer, session);
    }

    fn is_current(&self, peer: MemberId, number: u64) -> bool {
        self.sessions.get(&peer).is_some_and(|session| session.number == number)
    }

    fn close(&mut self, peer: MemberId) {
        if let Some(session) = self.sessions.remove(&peer) {
            session.task.abort();
        }
    }

    fn ask<T: serde::Serialize>(&self, peer: MemberId, tag: Tag, question: &T) {
        self.send(peer, frame(tag, &wire::encode(Kind::Message, question)));
    }

    fn send(&self, peer: MemberId, question: Vec<u8>) {
        if let Some(session) = self.sessions.get(&peer) {
            // If nobody sends any more, the wire is broken, and listening says why.
            let _ = session.ask.send(question);
        }
    }

    /// Fetches the chunks of `tree` that are missing, and proves that they make its files if
    /// the listing is not this member's own.
    async fn chunks(
        &mut self,
        tree: &Arc<Tree>,
        origin: Origin,
        news: &mut impl FnMut(News),
    ) -> Result<(), TransferError> {
        let (store, listing) = (self.fetch.store.clone(), tree.clone());
        let (seed, far) = (rand::random(), self.fetch.wanted.far.clone());
        let (positions, swarm, proving) = spawn_blocking(move || {
            let (missing, doubt) = match origin {
                Origin::Ours => (store.missing(&listing)?, None),
                Origin::Theirs => (store.missing(&listing)?, Some(Doubt::of(&store, &listing)?)),
                Origin::Changed(base) => {
                    let doubt = Doubt::like(&store, &listing, &base)?;
                    (store.missing_like(&listing, &base)?, Some(doubt))
                }
            };
            let bytes: u64 = missing.iter().map(|chunk| u64::from(chunk.len)).sum();
            // So few are fetched alone, and a lie about how long one is shows when it comes.
            let is_little = bytes < TOGETHER_FROM && matches!(origin, Origin::Changed(_));
            let positions = match is_little && missing.is_sorted_by(|a, b| a.digest < b.digest) {
                true => Positions::of_few(missing.clone()),
                false => Positions::of(&listing)?,
            };
            let (positions, missing) = (Arc::new(positions), BTreeSet::from_iter(missing));
            let swarm = Swarm::new(positions.clone(), |chunk| !missing.contains(chunk), seed);
            let swarm = swarm.with_far(far);
            let proving = doubt.map(|doubt| Proving::new(store, doubt));
            Ok::<_, TransferError>((positions, swarm, proving))
        })
        .await??;
        news(News::Progress(swarm.progress()));
        if swarm.is_complete() {
            return prove(proving).await;
        }
        let (say, said) = mpsc::unbounded_channel();
        let alone = self.fetch.plain
            || self.fetch.wanted.peers.is_empty()
            || swarm.lacking().1 < TOGETHER_FROM
            || positions.chunks().len() > limits::BITS_MAX * 8;
        let board = (!alone)
            .then(|| self.fetch.boards.begin(self.fetch.wanted.root, positions.clone(), say));
        let mut chunks = Chunks {
            swarm,
            sink: Sink::new(self.fetch.store.clone()),
            proving,
            board,
            said,
            heard_of: BTreeMap::new(),
            young: Vec::new(),
            positions,
            began: Instant::now(),
        };
        let fetched = self.follow(&mut chunks, news).await;
        // However it ended: what was verified is kept.
        let kept = self.settle(&mut chunks).await;
        let Chunks { swarm, sink, proving, board, .. } = chunks;
        let kept = kept.and(sink.commit().await);
        let done = swarm.progress();
        news(News::Progress(done));
        self.tell_of_dropped(news);
        self.pulled.chunks += done.chunks_done;
        self.pulled.bytes += done.bytes_done;
        self.pulled.wasted += done.bytes_wasted;
        fetched.and(kept)?;
        if let Some(board) = board {
            board.is_whole_now();
            self.tell_all(&Gained { all: true, positions: Vec::new() });
        }
        prove(proving).await
    }

    /// Tells everybody who was told what is wanted.
    fn tell_all(&self, gained: &Gained) {
        let plain = self.fetch.plain.then_some(self.fetch.wanted.from);
        for peer in self.sessions.keys().filter(|peer| Some(**peer) != plain) {
            self.ask(*peer, Tag::Gained, gained);
        }
    }

    /// Asks and receives until everything is put away, or nobody can give the rest.
    async fn follow(
        &mut self,
        chunks: &mut Chunks,
        news: &mut impl FnMut(News),
    ) -> Result<(), TransferError> {
        let from = self.fetch.wanted.from;
        if chunks.board.is_some() {
            self.join(from, chunks);
            for peer in self.fetch.wanted.peers.clone() {
                self.open(peer);
                self.join(peer, chunks);
            }
        } else {
            chunks.swarm.joined(chunks.now(), from, true);
            self.answered(from);
        }
        // Since when, and when the others were asked how they stand.
        let mut stuck: Option<(Instant, Instant)> = None;
        // However much is heard in between.
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for (peer, ask) in chunks.swarm.asks(chunks.now()) {
                match ask {
                    Ask::Chunks(list) => self.ask(peer, Tag::AskChunks, &list),
                    Ask::HandOut(bytes) => self.ask(peer, Tag::AskHandOut, &bytes),
                }
            }
            if chunks.swarm.is_complete() {
                return Ok(());
            }
            if chunks.swarm.is_exhausted() {
                let (since, asked) = stuck.get_or_insert_with(|| (Instant::now(), Instant::now()));
                let others = chunks.board.is_some()
                    && (self.sessions.keys().any(|p| *p != from) || !self.again.is_empty());
                let unanswered = self.sessions.get(&from).is_some_and(|s| !s.answered);
                if !unanswered && (!others || since.elapsed() > STUCK_MAX) {
                    let (missing, bytes) = chunks.swarm.lacking();
                    let lacking = TransferError::Lacking { chunks: missing, bytes };
                    return Err(self.from_failed.take().unwrap_or(lacking));
                }
                if chunks.board.is_some() && asked.elapsed() >= STUCK_ASK {
                    *asked = Instant::now();
                    self.join_again(chunks);
                }
            } else {
                stuck = None;
            }
            tokio::select! {
                heard = self.heard.recv() => {
                    // Never none: a sender is held here.
                    if let Some((peer, number, heard)) = heard
                        && self.is_current(peer, number)
                        && let Err(error) = self.hear(peer, heard, chunks)
                    {
                        self.failed(peer, error, chunks);
                    }
                }
                stored = chunks.sink.stored() => {
                    self.stored(stored?, chunks)?;
                    news(News::Progress(chunks.swarm.progress()));
                }
                Some((who, has)) = chunks.said.recv(), if chunks.board.is_some() => {
                    // Of whoever is not asked nothing need be known.
                    if who == from || self.fetch.wanted.peers.contains(&who) {
                        self.is_there(who);
                        chunks.has(who, has);
                    }
                }
                _ = look.tick() => {
                    self.try_again(chunks);
                    for peer in chunks.swarm.crawling(chunks.now()) {
                        self.failed(peer, TransferError::Crawls, chunks);
                    }
                }
            }
            self.tell_of_dropped(news);
        }
    }

    /// Says to `peer` what is wanted and what is here, as soon as it listens.
    fn join(&mut self, peer: MemberId, chunks: &Chunks) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.answered = false;
        }
        let have: Bits = chunks.swarm.held();
        let join = Join::new(self.fetch.wanted.root, &chunks.positions, &have);
        self.send(peer, frame(Tag::Join, &join.encode()));
    }

    /// Asks everybody who has answered how they stand by now.
    fn join_again(&mut self, chunks: &Chunks) {
        let from = self.fetch.wanted.from;
        let others = self.sessions.iter().filter(|(peer, s)| **peer != from && s.answered);
        for peer in others.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.join(peer, chunks);
        }
    }

    fn answered(&mut self, peer: MemberId) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.answered = true;
        }
    }

    fn hear(
        &mut self,
        peer: MemberId,
        heard: Heard,
        chunks: &mut Chunks,
    ) -> Result<(), TransferError> {
        let now = chunks.now();
        let Some(session) = self.sessions.get_mut(&peer) else { return Ok(()) };
        match heard {
            Heard::Standing(standing) => {
                if std::mem::replace(&mut session.answered, true) {
                    return Err(out_of_turn());
                }
                self.stands(peer, standing, chunks);
            }
            Heard::Updates(list) => {
                let follow = chunks.swarm.announced(peer, &list)?;
                session.follows.extend(follow.iter().map(|chunk| chunk.digest));
            }
            Heard::HandedOut(list) => {
                let follow = chunks.swarm.handed_out(now, peer, &list)?;
                session.follows.extend(follow.iter().map(|chunk| chunk.digest));
            }
            Heard::Bytes(chunk, bytes) => {
                let wanted = session.follows.remove(&chunk.digest);
                if wanted && chunks.swarm.came(now, peer, &chunk.digest) {
                    chunks.sink.add((peer, chunk.digest, bytes));
                }
            }
            Heard::Listing(_) | Heard::Changes(_) | Heard::Patches(_) => return Err(out_of_turn()),
            Heard::Ended(error) => return Err(error),
        }
        Ok(())
    }

    fn stands(&mut self, peer: MemberId, standing: Standing, chunks: &mut Chunks) {
        let (now, is_from) = (chunks.now(), peer == self.fetch.wanted.from);
        // It can be asked by name, whatever it knows of this cut.
        let whole = standing == Standing::Whole || is_from;
        if standing == Standing::Elsewhere && !is_from {
            self.close(peer);
            chunks.swarm.left(peer);
            let (_, wait) = self.again.get(&peer).copied().unwrap_or((Instant::now(), AGAIN));
            self.again.insert(peer, (Instant::now() + wait, (wait * 2).min(AGAIN_MAX)));
            return;
        }
        self.again.remove(&peer);
        chunks.swarm.joined(now, peer, whole);
        if standing == Standing::Whole && is_from {
            chunks.swarm.hands_out(peer);
        }
        if let Some((bits, all)) = chunks.heard_of.remove(&peer) {
            chunks.has(peer, Has::Bits(bits));
            if all {
                chunks.swarm.joined(now, peer, true);
            }
        }
    }

    /// `peer` lied, crawls, broke off, or can't be reached: the others go on.
    fn failed(&mut self, peer: MemberId, error: TransferError, chunks: &mut Chunks) {
        tracing::debug!(%peer, %error, "a member that was asked for content fell away");
        let answered = self.sessions.get(&peer).is_some_and(|session| session.answered);
        self.close(peer);
        chunks.swarm.left(peer);
        chunks.heard_of.remove(&peer);
        if peer == self.fetch.wanted.from {
            // A member of a version before this one does not know how to join.
            if !answered && matches!(error, TransferError::Broken(_)) && !self.fetch.plain {
                self.fetch.plain = true;
                self.open(peer);
                self.answered(peer);
                chunks.swarm.joined(chunks.now(), peer, true);
            } else {
                self.from_failed = Some(error);
            }
        } else if error.is_lie() {
            // There may be more of its lies in what is being put away.
            if self.told_of.insert(peer) {
                self.dropped.push((peer, error));
            }
        } else if matches!(error, TransferError::Crawls) {
            // At once again it would owe as much for as long.
            self.again.insert(peer, (Instant::now() + CRAWLS_AGAIN, CRAWLS_AGAIN));
            if self.told_of.insert(peer) {
                self.dropped.push((peer, error));
            }
        } else {
            let (_, wait) = self.again.get(&peer).copied().unwrap_or((Instant::now(), AGAIN));
            let wait = wait.max(Duration::from_secs(1));
            self.again.insert(peer, (Instant::now() + wait, (wait * 2).min(AGAIN_MAX)));
        }
    }

    fn tell_of_dropped(&mut self, news: &mut impl FnMut(News)) {
        for (peer, error) in self.dropped.drain(..) {
            news(News::Dropped(peer, error));
        }
    }

    /// `peer` asks for content itself. If it had none to give before, it has, or
    /// will have soon. One that crawled is no faster for that.
    fn is_there(&mut self, peer: MemberId) {
        if let Some(again) = self.again.get_mut(&peer)
            && again.1 != CRAWLS_AGAIN
        {
            *again = (Instant::now(), AGAIN);
        }
    }

    fn try_again(&mut self, chunks: &Chunks) {
        let now = Instant::now();
        let due: Vec<MemberId> = self
            .again
            .iter()
            .filter(|(peer, (at, _))| *at <= now && !self.sessions.contains_key(*peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.open(peer);
            self.join(peer, chunks);
        }
    }

    /// Takes note of what was put away, and tells the others.
    fn stored(&mut self, stored: Stored, chunks: &mut Chunks) -> Result<(), TransferError> {
        let mut gained = Vec::new();
        for ((peer, digest, bytes), found) in stored.came {
            match chunks.swarm.put_away(digest, found) {
                Ok(at) => {
                    gained.push(at);
                    if let Some(board) = &chunks.board {
                        board.add(digest, bytes);
                        chunks.young.push(digest);
                    }
                }
                Err(fault) => self.failed(peer, fault.into(), chunks),
            }
        }
        if stored.committed
            && let Some(proving) = &mut chunks.proving
        {
            proving.go_on();
        }
        if let Some(board) = &chunks.board {
            if stored.committed {
                board.committed(&std::mem::take(&mut chunks.young));
            }
            for positions in gained.chunks(limits::ACTIONS_MAX) {
                self.tell_all(&Gained { all: false, positions: positions.to_vec() });
            }
        }
        Ok(stored.result?)
    }

    /// Waits until nothing is being put away.
    async fn settle(&mut self, chunks: &mut Chunks) -> Result<(), TransferError> {
        while chunks.sink.is_busy() {
            let stored = chunks.sink.stored().await?;
            self.stored(stored, chunks)?;
        }
        Ok(())
    }

    /// The others hear that this member holds all of it now.
    fn take_leave(self) {
        let Self { sessions, mut tasks, heard, tell, .. } = self;
        drop((sessions, heard, tell));
        tokio::spawn(async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            let _cut_off_then = timeout(GOOD_BYE, all).await;
        });
    }
}

async fn prove(proving: Option<Proving>) -> Result<(), TransferError> {
    match proving {
        Some(proving) => proving.finish().await,
        None => Ok(()),
    }
}
