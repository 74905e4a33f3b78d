//! Content that comes from other members, and that they come for.

use std::{
    cmp::Reverse,
    io,
    sync::{Arc, atomic::Ordering},
};

use super::Work;
use crate::{
    base::{AppName, Digest, MemberId, catalog::Catalog, limits},
    member::{FetchFailure, Input, Whom},
    net::{Net, RecvStream, SendStream, StreamKind},
    node::{
        content::Active,
        rate::{Limited, Rate},
        run::Note,
        transfer::{self, Asker, Connect, News, TransferError, Wanted},
    },
};

/// Streams over the cluster's own connections.
#[derive(Clone)]
struct Streams(Net, Rate);

impl Connect for Streams {
    type Recv = Limited<RecvStream>;
    type Send = SendStream;

    async fn open(&self, member: MemberId) -> io::Result<(Self::Recv, SendStream)> {
        let (send, recv) = self.0.open(member, StreamKind::Pull).await.map_err(io::Error::other)?;
        Ok((self.1.limit(recv), send))
    }
}

impl Work {
    /// Fetches `root`, which `catalog` says what it is of.
    pub fn fetch(&self, root: Digest, whom: Whom, catalog: &Catalog) {
        let bases = bases(self.content.applications(), app_of(catalog, root));
        let Whom { from, peers, far } = whom;
        let wanted = Wanted { root, from, peers, far, bases };
        let (store, notes) = (self.store.clone(), self.notes.clone());
        let (boards, connect) =
            (self.boards.clone(), Streams(self.network.clone(), self.receiving.clone()));
        let progress_notes = notes.clone();
        let (fetched, counted) = (Arc::clone(&self.fetched), Arc::clone(&self.fetched));
        self.tasks.spawn(async move {
            let mut before = 0;
            let tell = move |news| {
                let p = match news {
                    News::Progress(progress) => progress,
                    News::Dropped(from, error) => {
                        let result = Err(fetch_failure(&error));
                        let input = Input::Fetched { root, from, result };
                        let _loop_may_be_gone = progress_notes.send(Note::Input(input));
                        return;
                    }
                };
                // It begins anew where it turns out that more is needed.
                let began_anew = p.bytes_done < before;
                let more = if began_anew { p.bytes_done } else { p.bytes_done - before };
                before = p.bytes_done;
                fetched.fetch_add(more, Ordering::Relaxed);
                let input = Input::Fetching { root, bytes: p.bytes_done };
                let _loop_may_be_gone = progress_notes.send(Note::Input(input));
            };
            let pulled = transfer::fetch(store, boards, connect, wanted, tell).await;
            if let Ok(pulled) = &pulled {
                tracing::debug!(%root, ?pulled, "fetched");
                counted.fetch_add(pulled.listing_bytes + pulled.patch_bytes, Ordering::Relaxed);
            }
            let result = pulled.map(drop).map_err(|e| fetch_failure(&e));
            let input = Input::Fetched { root, from, result };
            let _loop_may_be_gone = notes.send(Note::Input(input));
        });
    }

    /// Another member fetches from this one.
    pub fn serve_pull(&self, from: Asker, send: SendStream, recv: RecvStream) {
        let (store, serving) = (self.store.clone(), Arc::clone(&self.serving));
        let (boards, send) = (self.boards.clone(), self.sending.limit(send));
        self.tasks.spawn(async move {
            // Never closed, so there is always a permit in the end.
            let Ok(_permit) = serving.acquire().await else { return };
            match transfer::serve(store, boards, from, recv, send).await {
                Ok(served) => tracing::debug!(from = %from.id, ?served, "served"),
                Err(error) => {
                    tracing::debug!(from = %from.id, %error, "a session with a fetching member ended early");
                }
            }
        });
    }

    /// Bytes of content that were fetched from members since the start.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
}

/// The application that `root` is a version of, or is to be.
fn app_of(catalog: &Catalog, root: Digest) -> Option<&AppName> {
    let publication = catalog.window.iter().filter_map(|w| w.publication.as_ref());
    let staged = publication.map(|p| (&p.app, &p.version));
    let current = catalog.applications.iter().map(|(app, a)| (app, a.current()));
    staged.chain(current).find(|(_, version)| version.root == root).map(|(app, _)| app)
}

/// The trees that are here whole: what is live, of `app` first, whose next
/// version is most like it, and then the newest first.
fn bases(mut active: Vec<Active>, app: Option<&AppName>) -> Vec<Digest> {
    active.sort_by_key(|active| (Some(&active.app) != app, Reverse(active.sequence)));
    let mut bases = Vec::new();
    for Active { root, .. } in active {
        if bases.len() < limits::BASES_MAX && !bases.contains(&root) {
            bases.push(root);
        }
    }
    bases
}

fn fetch_failure(error: &TransferError) -> FetchFailure {
    if error.is_lacking() {
        FetchFailure::Lacking
    } else if error.is_lie() {
        FetchFailure::Lied(error.to_string())
    } else if matches!(error, TransferError::Crawls) {
        FetchFailure::Crawls
    } else if matches!(error, TransferError::Store(_)) {
        FetchFailure::Disk(error.to_string())
    } else {
        FetchFailure::Broken(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_version_before_is_the_first_base_and_no_root_is_named_twice() {
        let name = |n: u64| AppName::parse(&format!("app{n}")).unwrap();
        let active = |n: u64, root: u64| Active {
            app: name(n),
            version: 1,
            sequence: n,
            root: Digest::of_bytes(&root.to_le_bytes()),
            live: PathBuf::new(),
            ignore: Vec::new(),
        };
        let roots = |list: &[u64]| -> Vec<Digest> {
            list.iter().map(|root| Digest::of_bytes(&root.to_le_bytes())).collect()
        };
        let all = vec![active(1, 11), active(2, 12), active(3, 11), active(4, 14)];
        assert_eq!(bases(all.clone(), Some(&name(2))), roots(&[12, 14, 11]));
        assert_eq!(bases(all.clone(), Some(&name(9))), roots(&[14, 11, 12]));
        assert_eq!(bases(all, None), roots(&[14, 11, 12]));
        let many: Vec<Active> = (0..99).map(|n| active(n, n)).collect();
        let found = bases(many, Some(&name(5)));
        assert_eq!(found.len(), limits::BASES_MAX);
        assert_eq!(found[..2], roots(&[5, 98]));
    }
}
