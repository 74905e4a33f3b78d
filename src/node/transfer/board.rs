//! What this member can give of a tree at this moment: while it fetches it
//! itself, what came already; when it holds it, all of it, and who was given
//! what.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use tokio::sync::mpsc;

use crate::{
    base::{Digest, MemberId, tree::Chunk},
    proto::replication::{Bits, Gained, Positions, Standing},
    store::{ContentStore, StoreError},
};

/// What somebody who fetches the same tree says that it has.
type Said = (MemberId, Has);

/// See [`Said`].
pub(super) enum Has {
    /// At first.
    Bits(Bits),
    /// Since then.
    Gained(Gained),
}

/// One tree.
pub(super) struct Board {
    positions: Arc<Positions>,
    state: Mutex<State>,
}

struct State {
    /// Where this member's own fetch hears what others have; none once it is whole.
    fetch: Option<mpsc::UnboundedSender<Said>>,
    /// Verified and not yet to be had from the store.
    young: HashMap<Digest, Arc<Vec<u8>>>,
    /// Given to somebody near.
    near: Handed,
    /// Given to somebody far: what is passed on there need not come back here.
    far: Handed,
}

/// What was given to somebody, and the first that may not have been.
struct Handed {
    given: Bits,
    next: u32,
}

impl Board {
    fn new(positions: Arc<Positions>, fetch: Option<mpsc::UnboundedSender<Said>>) -> Arc<Self> {
        let none = || Handed { given: Bits::new(positions.chunks().len()), next: 0 };
        let state = State { fetch, young: HashMap::new(), near: none(), far: none() };
        Arc::new(Self { positions, state: Mutex::new(state) })
    }

    /// Every operation leaves it whole, so a panic elsewhere does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    pub fn standing(&self) -> Standing {
        if self.state().fetch.is_some() { Standing::Fetching } else { Standing::Whole }
    }

    /// The store holds all of it from now on.
    pub fn is_whole_now(&self) {
        let mut state = self.state();
        state.fetch = None;
        state.young.clear();
    }

    /// These bytes have their signature, and are not to be read from the store yet.
    pub fn add(&self, digest: Digest, bytes: Arc<Vec<u8>>) {
        self.state().young.insert(digest, bytes);
    }

    /// These can be read from the store.
    pub fn committed(&self, digests: &[Digest]) {
        let mut state = self.state();
        for digest in digests {
            state.young.remove(digest);
        }
    }

    pub fn young(&self, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        self.state().young.get(digest).cloned()
    }

    /// A member that fetches from this one says what it has.
    pub fn hear(&self, from: MemberId, has: Has) {
        if let Some(fetch) = &self.state().fetch {
            let _it_may_have_ended = fetch.send((from, has));
        }
    }

    /// About `bytes` of what was given to nobody who is as near, or as `far`, and is not among
    /// `have`. Nothing unless all of it is here.
    pub fn hand_out(&self, have: &Bits, bytes: u64, far: bool) -> Vec<Chunk> {
        let mut state = self.state();
        let (mut given, mut sum) = (Vec::new(), 0);
        if state.fetch.is_some() {
            return given;
        }
        let handed = if far { &mut state.far } else { &mut state.near };
        let chunks = self.positions.chunks();
        while handed.given.get(handed.next) {
            handed.next += 1;
        }
        for at in handed.next..chunks.len() as u32 {
            let chunk = chunks[at as usize];
            if handed.given.get(at) || have.get(at) {
                continue;
            }
            let len = u64::from(chunk.len);
            if !given.is_empty() && (sum + len > bytes || given.len() == super::HANDED_OUT_MAX) {
                break;
            }
            handed.given.set(at);
            sum += len;
            given.push(chunk);
        }
        given
    }
}

/// The boards of all trees that are being fetched, or fetched from.
#[derive(Clone, Default)]
pub struct Boards {
    all: Arc<Mutex<BTreeMap<Digest, Weak<Board>>>>,
}

impl Boards {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Digest, Weak<Board>>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// This member fetches `root`, and hears by `fetch` what others have.
    pub(super) fn begin(
        &self,
        root: Digest,
        positions: Arc<Positions>,
        fetch: mpsc::UnboundedSender<Said>,
    ) -> Arc<Board> {
        let board = Board::new(positions, Some(fetch));
        let mut all = self.all();
        all.retain(|_, board| board.strong_count() > 0);
        all.insert(root, Arc::downgrade(&board));
        board
    }

    /// The board of `root`, if this member fetches it or holds it whole. Reads
    /// the disk.
    pub(super) fn find(
        &self,
        root: Digest,
        store: &ContentStore,
    ) -> Result<Option<Arc<Board>>, StoreError> {
        let known = |boards: &Self| boards.all().get(&root).and_then(Weak::upgrade);
        if let Some(board) = known(self) {
            return Ok(Some(board));
        }
        if !store.whole(&root)? {
            return Ok(None);
        }
        let Some(tree) = store.tree(&root)? else { return Ok(None) };
        let positions = match Positions::of(&tree) {
            Ok(positions) => Arc::new(positions),
            // It could not have been stored.
            Err(_) => return Ok(None),
        };
        // Somebody else may have been faster.
        let mut all = self.all();
        if let Some(board) = all.get(&root).and_then(Weak::upgrade) {
            return Ok(Some(board));
        }
        let board = Board::new(positions, None);
        all.retain(|_, board| board.strong_count() > 0);
        all.insert(root, Arc::downgrade(&board));
        Ok(Some(board))
    }
}
