//! The listing of what is wanted: told by what it differs in from one that is
//! here, or whole.
//!
//! Changes say nothing of how files are cut that they leave alone: these stay
//! cut as they are here. So the holder may know other pieces of them, which is
//! of no account as long as they are all here. Where one is not, and the holder
//! does not have it, the fetch asks for the whole listing after all.

use std::{collections::BTreeSet, io, sync::Arc};

use tokio::task::spawn_blocking;

use super::Crew;
use crate::{
    base::{
        Digest, limits,
        tree::{self, Tree},
        wire::Kind,
    },
    node::transfer::{
        Connect, TransferError,
        frame::{Tag, decode, out_of_turn},
        patch,
        session::Heard,
    },
    proto::replication::{Changes, Fault, IHaveList, Since},
    store::ContentStore,
};

/// Where a listing is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was here.
    Ours,
    /// Made of one that is here, this one.
    Changed(Digest),
    /// The holder's own.
    Theirs,
}

impl<C: Connect> Crew<C> {
    /// The listing, in the shorter way if there is one.
    pub(super) async fn come_by_listing(&mut self) -> Result<(Arc<Tree>, Origin), TransferError> {
        match self.changed().await? {
            Some((tree, base)) => Ok((tree, Origin::Changed(base))),
            None => Ok((self.listing().await?, Origin::Theirs)),
        }
    }

    /// The listing as the changes make it of one that is here; nothing if the
    /// holder knows none of those, or does not know how to compare them.
    async fn changed(&mut self) -> Result<Option<(Arc<Tree>, Digest)>, TransferError> {
        let (from, root) = (self.fetch.wanted.from, self.fetch.wanted.root);
        let mut bases = std::mem::take(&mut self.fetch.wanted.bases);
        let store = self.fetch.store.clone();
        let bases = spawn_blocking(move || {
            let known: BTreeSet<Digest> = store.trees()?.into_iter().collect();
            bases.retain(|base| known.contains(base));
            bases.truncate(limits::BASES_MAX);
            Ok::<_, TransferError>(bases)
        })
        .await??;
        if bases.is_empty() {
            return Ok(None);
        }
        let since = Since { root, bases };
        self.ask(from, Tag::AskChanges, &since);
        let bytes = match self.word().await {
            Heard::Changes(bytes) => bytes,
            // A member of the release before hangs up at a question that it does not know.
            Heard::Ended(TransferError::Broken(error)) if hung_up(&error) => {
                tracing::debug!(%from, "it does not compare listings, and is asked for the whole");
                self.open(from);
                return Ok(None);
            }
            Heard::Ended(error) => return Err(error),
            _ => return Err(out_of_turn()),
        };
        self.pulled.listing_bytes += bytes.len() as u64;
        let store = self.fetch.store.clone();
        spawn_blocking(move || change(&store, &since, &bytes)).await?
    }

    /// Makes what it can of what is missing of `tree` out of `base`, which both sides have.
    pub(super) async fn patch(
        &mut self,
        tree: &Arc<Tree>,
        base: Digest,
    ) -> Result<(), TransferError> {
        let (from, store, wanted) =
            (self.fetch.wanted.from, self.fetch.store.clone(), Arc::clone(tree));
        let lists = spawn_blocking(move || {
            let Some(before) = store.tree(&base)? else { return Ok(Vec::new()) };
            Ok::<_, TransferError>(patch::in_lists(patch::pairs(&store, &wanted, &before)?))
        })
        .await??;
        for asked in lists {
            self.ask(from, Tag::AskPatches, &asked);
            let answer = match self.word().await {
                Heard::Patches(answer) => answer,
                // As in `changed`.
                Heard::Ended(TransferError::Broken(error)) if hung_up(&error) => {
                    tracing::debug!(%from, "it makes no patches, and is asked for whole chunks");
                    self.open(from);
                    return Ok(());
                }
                Heard::Ended(error) => return Err(error),
                _ => return Err(out_of_turn()),
            };
            let bytes: usize = answer.patches.iter().flatten().map(Vec::len).sum();
            self.pulled.patch_bytes += bytes as u64;
            let (store, wanted) = (self.fetch.store.clone(), asked.bytes());
            let applied = spawn_blocking(move || patch::apply(&store, &asked, answer)).await?;
            let (chunks, made) = applied?;
            self.pulled.patched += chunks;
            if made * 2 < wanted {
                // Most of it has little to do with what stood there.
                break;
            }
        }
        Ok(())
    }

    /// The listing of the holder of everything.
    pub(super) async fn listing(&mut self) -> Result<Arc<Tree>, TransferError> {
        let (from, root) = (self.fetch.wanted.from, self.fetch.wanted.root);
        if let Some(error) = self.from_failed.take() {
            return Err(error);
        }
        self.ask(from, Tag::AskListing, &root);
        let bytes = match self.word().await {
            Heard::Listing(bytes) => bytes,
            Heard::Ended(error) => return Err(error),
            _ => return Err(out_of_turn()),
        };
        let bytes = bytes.ok_or(TransferError::Lacking { chunks: 0, bytes: 0 })?;
        self.pulled.listings += 1;
        self.pulled.listing_bytes += bytes.len() as u64;
        spawn_blocking(move || {
            let list: IHaveList = decode(Kind::Tree, &bytes)?;
            is_wanted(root, list.root())?;
            Ok(Arc::new(list.into_tree()))
        })
        .await?
    }

    /// What the holder of everything says next.
    async fn word(&mut self) -> Heard {
        loop {
            // Never none: a sender is held here.
            let Some((who, number, heard)) = self.heard.recv().await else { continue };
            if who == self.fetch.wanted.from && self.is_current(who, number) {
                return heard;
            }
        }
    }
}

/// Makes the changes in `bytes`, which came from elsewhere.
fn change(
    store: &ContentStore,
    since: &Since,
    bytes: &[u8],
) -> Result<Option<(Arc<Tree>, Digest)>, TransferError> {
    let (base, changes) = match decode(Kind::Tree, bytes)? {
        Changes::Unknown => return Ok(None),
        Changes::From { base, changes } => (base, changes),
    };
    if !since.bases.contains(&base) {
        return Err(Fault::Unasked(base).into());
    }
    // It may turn out to be damaged only now.
    let Some(have) = store.tree(&base)? else { return Ok(None) };
    let tree = tree::apply(&have, &changes).map_err(Fault::from)?;
    is_wanted(since.root, tree.root())?;
    Ok(Some((Arc::new(tree), base)))
}

fn is_wanted(wanted: Digest, found: Digest) -> Result<(), Fault> {
    if found == wanted { Ok(()) } else { Err(Fault::WrongRoot { wanted, found }) }
}

/// Whether the other side ended the session, rather than that the way to it did.
fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
