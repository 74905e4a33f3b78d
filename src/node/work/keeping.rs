//! The store is kept small and sound: what no version needs is collected, and the scrub reads again
//! what is kept.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Kept, Work, locked};
use crate::{
    base::Digest,
    node::{
        content::Content,
        run::Note,
        scrub::{self, Scrub, Scrubbed},
    },
};

/// How often what no version needs is collected, if there is any.
const COLLECT_EVERY: Duration = Duration::from_secs(30);
/// How many collections follow when a root went.
pub(super) const COLLECT_ROUNDS: u32 = 2;

impl Work {
    pub(super) fn scrub(&self, scrub: watch::Receiver<Option<Scrub>>) {
        let pass = scrub::Pass {
            content: self.content.clone(),
            store: self.store.clone(),
            scrubbed: Arc::clone(&self.scrubbed),
            stopping: self.stopping.clone(),
        };
        let (kept, notes) = (Arc::clone(&self.kept), self.notes.clone());
        let wanted = move || locked(&kept).roots.clone().unwrap_or_default();
        // The loop may be gone: then nobody needs to know.
        let found = move |found| drop(notes.send(Note::Rotten(found)));
        self.tasks.spawn(scrub::run(scrub, pass, wanted, found));
    }

    /// What the scrub has done.
    pub fn scrubbed(&self) -> &Scrubbed {
        &self.scrubbed
    }

    /// Content with other roots is collected before long.
    pub fn retain(&self, roots: Vec<Digest>) {
        let mut kept = locked(&self.kept);
        let roots: BTreeSet<Digest> = roots.into_iter().collect();
        // A root that is new is no reason to collect; one that went is.
        if kept.roots.as_ref().is_some_and(|before| !before.is_subset(&roots)) {
            kept.rounds = COLLECT_ROUNDS;
        }
        kept.roots = Some(roots);
    }
}

/// Collects from time to time, while there is something to collect. What was
/// put since the last round survives the next one, so it takes two.
pub(super) async fn collect(content: Content, kept: Arc<Mutex<Kept>>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
        if locked(&kept).rounds == 0 {
            continue;
        }
        let (content, kept) = (content.clone(), Arc::clone(&kept));
        let collected = tokio::task::spawn_blocking(move || {
            let keep = {
                let kept = locked(&kept);
                let Some(roots) = &kept.roots else { return };
                roots.iter().chain(&kept.staging).copied().collect()
            };
            match content.retain(&keep) {
                Ok(freed) => {
                    tracing::debug!(?freed, "collected what no version needs");
                    if !freed.postponed {
                        let mut kept = locked(&kept);
                        kept.rounds = kept.rounds.saturating_sub(1);
                    }
                }
                Err(error) => tracing::warn!(%error, "what no version needs was not collected"),
            }
        });
        if let Err(error) = collected.await {
            tracing::error!(%error, "the collection of content ended before its time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::content::Made, store::ContentStore};

    /// As after a start, in a cluster in which nothing changes: the member says what is kept, and
    /// whatever it had before goes only then.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_collected_until_it_is_said_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = ContentStore::open(&at("content")).unwrap();
        let content = Content::open(store, at("live"), at("state")).unwrap();
        std::fs::create_dir(at("source")).unwrap();
        std::fs::write(at("source/index.html"), "an earlier version").unwrap();
        let root = content.stage(&at("source"), &[], &Made::default()).unwrap().root;
        let is_there = || content.store().whole(&root).unwrap();

        let kept = Arc::new(Mutex::new(Kept { rounds: COLLECT_ROUNDS, ..Kept::default() }));
        let stopping = CancellationToken::new();
        let collecting =
            tokio::spawn(collect(content.clone(), Arc::clone(&kept), stopping.clone()));
        let long = COLLECT_EVERY * (2 * COLLECT_ROUNDS + 1);
        tokio::time::sleep(long).await;
        assert!(is_there());
        locked(&kept).roots = Some([root].into());
        tokio::time::sleep(long).await;
        assert!(is_there());
        let none = Kept { roots: Some(BTreeSet::new()), rounds: COLLECT_ROUNDS, ..Kept::default() };
        *locked(&kept) = none;
        tokio::time::sleep(long).await;
        assert!(!is_there());
        stopping.cancel();
        collecting.await.unwrap();
    }
}
