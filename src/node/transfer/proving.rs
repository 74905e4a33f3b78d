//! Proves while it is fetched that a listing's pieces make its files, so that nothing of that
//! is left to wait for when the last piece comes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{JoinHandle, spawn_blocking};

use super::TransferError;
use crate::store::{ContentStore, Doubt};

/// See above.
pub(super) struct Proving {
    store: ContentStore,
    doubt: Arc<Mutex<Doubt>>,
    running: Option<JoinHandle<()>>,
}

impl Proving {
    pub fn new(store: ContentStore, doubt: Doubt) -> Self {
        Self { store, doubt: Arc::new(Mutex::new(doubt)), running: None }
    }

    /// More pieces can be read from the store.
    pub fn go_on(&mut self) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let (store, doubt) = (self.store.clone(), self.doubt.clone());
        self.running = Some(spawn_blocking(move || {
            doubt.lock().unwrap_or_else(PoisonError::into_inner).prove_what_is_held(&store);
        }));
    }

    /// All pieces are there.
    pub async fn finish(self) -> Result<(), TransferError> {
        let Self { store, doubt, running } = self;
        if let Some(running) = running {
            running.await?;
        }
        let proven = spawn_blocking(move || {
            doubt.lock().unwrap_or_else(PoisonError::into_inner).prove(&store)
        });
        Ok(proven.await??)
    }
}
