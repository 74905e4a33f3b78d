//! Content that operators bring from other machines, by the three lists that members use among
//! themselves: the command says what it has, this member which of it is lacking, and that is
//! sent. Then it is published as a directory of this machine is.
//!
//! Nothing is believed. A list has the root that was offered and names no place out of its tree; a
//! chunk is taken only if it was asked for and has its signature and length; and that the chunks
//! make the files is proven before anything is published. What has come is committed with each
//! portion, so an upload that breaks is resumed by publishing again.
//!
//! **Invariant:** while an upload goes on, no collection takes what it found here or brought. It
//! ends with its publication, with the first thing that is wrong, or when nothing comes for
//! [`IDLE`]; there are no more than [`UPLOADS_MAX`]. So what keeps collections off is bounded, too,
//! and what an upload left behind that came to nothing goes with the collections after it.

mod known;
pub mod lists;
mod taking;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

pub use self::lists::{Amount, Next, Offer, Reply, UploadId};
use self::{
    known::known,
    taking::{Taking, check},
};
use crate::{
    base::{AppName, Digest, OperatorName, Reason, Refusal, RelPath, tree::Tree},
    store::{ContentStore, Doubt, Hold, StoreError},
};

/// An upload for which nothing comes for so long is over.
pub const IDLE: Duration = Duration::from_secs(60);
/// Uploads at one time.
pub const UPLOADS_MAX: usize = 8;

/// The uploads of one member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    inner: Arc<Inner>,
}

/// The same, for whoever may outlive the member: it keeps no store open.
#[derive(Clone, Debug)]
pub struct WeakUploads(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    store: ContentStore,
    allowed: bool,
    sessions: Mutex<BTreeMap<UploadId, Arc<Session>>>,
}

/// The event that tells of an upload: it is told before anything is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Whose token it was.
    pub operator: OperatorName,
    /// Its number.
    pub event: u64,
    /// What it says.
    pub text: String,
    /// What it is about, if that is known.
    pub app: Option<AppName>,
}

/// One upload.
struct Session {
    act: Act,
    offer: Offer,
    taking: Mutex<Taking>,
    rest: Mutex<Rest>,
    _hold: Hold,
}

/// When something came last.
#[derive(Debug)]
struct Rest {
    since: Instant,
    /// Requests about it that are being read or worked on.
    at_work: usize,
}

/// An upload that began.
pub struct Begun {
    /// What this member wants of it.
    pub reply: Reply,
    /// Says if nothing came for it any more. It ends otherwise if it went on to its end.
    pub lapsed: oneshot::Receiver<()>,
}

/// An upload that is at work: it does not lapse while this lives.
pub struct Bringing {
    uploads: Uploads,
    upload: UploadId,
    session: Arc<Session>,
}

/// Content that is here, to be published. What it needs is not collected while this lives.
pub struct Brought {
    tree: Tree,
    session: Arc<Session>,
}

impl Uploads {
    /// Those of the member with this store, which takes content from operators only if it is
    /// `allowed`.
    pub fn new(store: ContentStore, allowed: bool) -> Self {
        Self { inner: Arc::new(Inner { store, allowed, sessions: Mutex::default() }) }
    }

    /// For whoever may outlive the member.
    pub fn downgrade(&self) -> WeakUploads {
        WeakUploads(Arc::downgrade(&self.inner))
    }

    /// Whether operators may bring content here.
    ///
    /// # Errors
    /// They may not.
    pub fn allowed(&self) -> Result<(), Refusal> {
        if self.inner.allowed {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::Forbidden,
            "Nothing was published.",
            "This member takes no content from operators: whoever brings programs can have them \
             run on all members.",
            "Start it with `althing up --uploads`, or bring the directory to its machine (rsync) \
             and give the whole path there with --there.",
        ))
    }

    /// An upload begins. What the operator began before with the same content is over.
    /// `versions` are the roots of what is kept of the application, the newest first. Blocks; within
    /// a tokio runtime.
    ///
    /// # Errors
    /// It is not allowed, there are too many, or the store failed.
    pub fn begin(&self, act: Act, offer: Offer, versions: &[Digest]) -> Result<Begun, Refusal> {
        self.allowed()?;
        let texts = offer.resolve()?.texts;
        let hold = self.inner.store.hold();
        let places: Vec<RelPath> = texts.into_iter().map(|(path, _)| path).collect();
        let tree = known(&self.inner.store, &offer.root, versions, &places).map_err(stored)?;
        let mut taking = Taking::begun(tree);
        let upload = UploadId(rand::random());
        let reply = taking.reply(upload);
        let rest = Rest { since: Instant::now(), at_work: 0 };
        let session =
            Session { act, offer, taking: Mutex::new(taking), rest: Mutex::new(rest), _hold: hold };
        let session = Arc::new(session);
        let mut sessions = locked(&self.inner.sessions);
        sessions.retain(|_, other| !session.replaces(other));
        if sessions.len() >= UPLOADS_MAX {
            return Err(refusal(
                Reason::Busy,
                format!("{UPLOADS_MAX} uploads are under way on this member."),
                "Wait for one of them, or publish by another member.",
            ));
        }
        sessions.insert(upload, Arc::clone(&session));
        drop(sessions);
        let (tell, lapsed) = oneshot::channel();
        tokio::spawn(watch(Arc::downgrade(&self.inner), upload, Arc::downgrade(&session), tell));
        Ok(Begun { reply, lapsed })
    }

    /// The upload of `operator` with this id goes on.
    ///
    /// # Errors
    /// There is none, or it is somebody else's.
    pub fn go_on(&self, operator: &OperatorName, upload: UploadId) -> Result<Bringing, Refusal> {
        let sessions = locked(&self.inner.sessions);
        let session = sessions.get(&upload).filter(|session| session.act.operator == *operator);
        let session = Arc::clone(session.ok_or_else(gone)?);
        locked(&session.rest).at_work += 1;
        drop(sessions);
        Ok(Bringing { uploads: self.clone(), upload, session })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        locked(&self.inner.sessions).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl WeakUploads {
    /// None where the member is gone.
    pub fn upgrade(&self) -> Option<Uploads> {
        self.0.upgrade().map(|inner| Uploads { inner })
    }
}

impl Bringing {
    /// What was told of it.
    pub fn act(&self) -> &Act {
        &self.session.act
    }

    /// Takes the IHaveList, and says what is lacking. Blocks.
    ///
    /// # Errors
    /// It can't be what it is said to be, or there is no room for it. Then the upload is over.
    pub fn list(&self, bytes: &[u8]) -> Result<Reply, Refusal> {
        self.or_over(|| {
            let mut taking = locked(&self.session.taking);
            let store = &self.uploads.inner.store;
            if !taking.is_listed() {
                let list = lists::decode_list(bytes).map_err(|error| {
                    lie(format!("Its list of what it has can't be used: {error}."))
                })?;
                let tree = list.into_tree();
                check(&tree, &self.session.offer.root).map_err(lie)?;
                *taking = Taking::of(store, tree).map_err(stored)?;
                if !store.has_room(taking.lacks().bytes).map_err(stored)? {
                    return Err(refusal(
                        Reason::Failed,
                        format!(
                            "The disk of this member has no room for {} bytes of new content.",
                            taking.lacks().bytes
                        ),
                        "Free some space there, and publish again.",
                    ));
                }
            }
            Ok(taking.reply(self.upload))
        })
    }

    /// Takes chunks that were asked for, and says what is wanted next. Blocks.
    ///
    /// # Errors
    /// Something else came: nothing of this portion is taken, and the upload is over.
    pub fn update(&self, bytes: &[u8]) -> Result<Reply, Refusal> {
        self.or_over(|| {
            let chunks = lists::unpack(bytes)
                .map_err(|why| lie(format!("What was sent can't be used: {why}.")))?;
            let mut taking = locked(&self.session.taking);
            taking.take(&self.uploads.inner.store, &chunks)?;
            Ok(taking.reply(self.upload))
        })
    }

    /// All of it is here, and its publication begins: the upload is over.
    ///
    /// # Errors
    /// It is not.
    pub fn finish(self) -> Result<Brought, Refusal> {
        let tree = locked(&self.session.taking).whole();
        self.uploads.end(self.upload);
        let tree = tree.ok_or_else(|| lie("Not all of it has come.".to_owned()))?;
        Ok(Brought { tree, session: Arc::clone(&self.session) })
    }

    /// What came is no use: the upload is over.
    pub fn give_up(&self) {
        self.uploads.end(self.upload);
    }

    fn or_over<T>(&self, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        work().inspect_err(|_| self.give_up())
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        let mut rest = locked(&self.session.rest);
        rest.at_work -= 1;
        rest.since = Instant::now();
    }
}

impl Brought {
    /// What was told of it.
    pub fn act(&self) -> &Act {
        &self.session.act
    }

    /// What was offered.
    pub fn offer(&self) -> &Offer {
        &self.session.offer
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Proves that all of it is in the store, and that the chunks make the files. Blocks.
    ///
    /// # Errors
    /// They don't.
    pub(super) fn prove(&self, store: &ContentStore) -> Result<(), Refusal> {
        if !store.missing(&self.tree).map_err(stored)?.is_empty() {
            let why = "Some of what came was lost on the disk of this member.".to_owned();
            return Err(refusal(Reason::Failed, why, "Publish again."));
        }
        Doubt::of(store, &self.tree).and_then(|doubt| doubt.prove(store)).map_err(stored)
    }
}

impl Session {
    /// Whether `other` is what the same one began before, and nobody is at it.
    fn replaces(&self, other: &Self) -> bool {
        other.act.operator == self.act.operator
            && other.offer.root == self.offer.root
            && locked(&other.rest).at_work == 0
    }

    /// When it is over if nothing comes until then.
    fn ends(&self) -> Instant {
        let rest = locked(&self.rest);
        if rest.at_work > 0 { Instant::now() + IDLE } else { rest.since + IDLE }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("act", &self.act).finish_non_exhaustive()
    }
}

impl Uploads {
    fn end(&self, upload: UploadId) {
        let ended = locked(&self.inner.sessions).remove(&upload);
        drop(ended); // and with it what keeps collections off: not under the lock
    }
}

/// Ends an upload for which nothing comes any more, and says so.
async fn watch(
    uploads: Weak<Inner>,
    upload: UploadId,
    session: Weak<Session>,
    tell: oneshot::Sender<()>,
) {
    loop {
        let Some(ends) = session.upgrade().map(|session| session.ends()) else { return };
        sleep_until(ends).await;
        let (Some(inner), Some(session)) = (uploads.upgrade(), session.upgrade()) else { return };
        let uploads = Uploads { inner };
        let mut sessions = locked(&uploads.inner.sessions);
        if !sessions.contains_key(&upload) {
            return;
        }
        if session.ends() > Instant::now() {
            continue;
        }
        let ended = sessions.remove(&upload);
        drop(sessions);
        drop((ended, session));
        let _nobody_may_wait = tell.send(());
        return;
    }
}

/// Something came that no command of this program sends.
fn lie(why: String) -> Refusal {
    let todo = "Publish again; if it is refused again, use the same version of Althing for the \
                command and the member.";
    refusal(Reason::Invalid, why, todo)
}

fn stored(error: StoreError) -> Refusal {
    match error {
        StoreError::Unproven(path) => {
            lie(format!("The pieces that it lists for {path} don't make that file."))
        }
        error => refusal(
            Reason::Failed,
            format!("The store of this member failed: {error}."),
            "Mend the cause, and publish again.",
        ),
    }
}

fn gone() -> Refusal {
    refusal(
        Reason::NotFound,
        format!(
            "There is no such upload: nothing came for {} seconds, it was refused, or the member \
             was started again.",
            IDLE.as_secs()
        ),
        "Publish again: what has come is not sent again.",
    )
}

fn refusal(reason: Reason, why: String, todo: &str) -> Refusal {
    Refusal::new(reason, "Nothing was published.", why, todo)
}

/// Every change under these locks is whole by itself, so a panic elsewhere does no harm.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
