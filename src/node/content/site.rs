//! What the gateway serves: one version of one application.
//!
//! A site never serves anything but its version. A file of the live tree is
//! handed out only in the very state in which it was written or verified;
//! whatever somebody edits comes from the store instead. It stays usable
//! after the switch to the next version: its descriptor leads to the retired
//! tree, and what goes missing there comes from the store, too.

use std::{fs::File, sync::Arc};

use super::{Active, made};
use crate::{
    base::{
        AppName, Digest, RelPath,
        tree::{Node, Tree},
    },
    driver::{
        files::{StatCache, StatKey, beneath::Root},
        listeners::Listeners,
        routes::Routes,
        tls::Tls,
    },
    store::{ContentStore, StoreError},
};

/// One version of one application, to be served.
#[derive(Debug)]
pub struct Site {
    app: AppName,
    version: u64,
    root: Digest,
    tree: Arc<Tree>,
    live: Option<Root>,
    known: Arc<StatCache>,
    store: ContentStore,
    routes: Routes,
    listeners: Listeners,
    tls: Option<Tls>,
}

impl Site {
    pub(super) fn new(
        active: &Active,
        tree: Arc<Tree>,
        known: Arc<StatCache>,
        store: ContentStore,
    ) -> Self {
        // What can't be used is told of where programs are started.
        let routes = made::read(&store, &tree).ok().and_then(Result::ok).flatten();
        let listeners = made::read(&store, &tree).ok().and_then(Result::ok).flatten();
        let tls = made::read(&store, &tree).ok().and_then(Result::ok).flatten();
        Self {
            app: active.app.clone(),
            version: active.version,
            root: active.root,
            tree,
            live: Root::open(&active.live).ok(),
            known,
            store,
            routes: routes.unwrap_or_default(),
            listeners: listeners.unwrap_or_default(),
            tls,
        }
    }

    /// The application.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The signature of its content.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Which of its paths lead to programs.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The ports that are its own.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// How it is served over TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Its listing.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The live file at `path`, to be sent as it is; `None` if it is not in
    /// the state in which it was verified, and then [`Site::read`] has it.
    pub fn open(&self, path: &RelPath) -> Option<File> {
        self.recorded(path)?;
        let file = self.live.as_ref()?.file(path).ok()?;
        self.unchanged(path, &file).then_some(file)
    }

    /// Whether a file that was [opened](Site::open) is still in that state:
    /// to be asked again after it was sent, because somebody may have written
    /// to it meanwhile.
    pub fn unchanged(&self, path: &RelPath, file: &File) -> bool {
        let now = rustix::fs::fstat(file).map(|stat| StatKey::of(&stat)).ok();
        now.is_some() && now == self.recorded(path)
    }

    /// Piece `index` of the file at `path`, from the store; `None` if there is
    /// no such file or piece.
    pub fn read(&self, path: &RelPath, index: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(Node::File { chunks, .. }) = self.tree.get(path) else { return Ok(None) };
        let Some(chunk) = chunks.get(index) else { return Ok(None) };
        self.store.read(&chunk.digest).map(Some)
    }

    /// The state in which the live file at `path` had this version's content.
    fn recorded(&self, path: &RelPath) -> Option<StatKey> {
        let Some(Node::File { digest, .. }) = self.tree.get(path) else { return None };
        let known = self.known.get(path)?;
        (known.settled && known.digest == *digest).then_some(known.stat)
    }
}
