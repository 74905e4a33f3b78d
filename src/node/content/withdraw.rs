//! Taking an application away from this member: it is placed on others.

use super::{Active, App, Content, ContentError, Shown, Terms, Work, locked, state};
use crate::{
    base::{AppName, tree::Tree},
    driver::files::WorkDir,
};

/// What became of a live tree that was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Edited files, which are kept aside in `place`.
    pub aside: u64,
    /// Ignored things, which stay where they are.
    pub left: u64,
    /// See above.
    pub place: std::path::PathBuf,
}

impl Content {
    /// Takes the live tree of `app` away, as the catalog `sequence` says: edits are kept
    /// aside, and what is ignored stays. Done already where it is not active here.
    /// Refused if something newer was activated or asked for.
    ///
    /// What can't be told to be unchanged is left, too: as `old` beside it.
    ///
    /// It is a switch to a version with nothing in it, so it is as atomic as any other;
    /// that version has the number 0, which no cluster has. After a crash before the
    /// end it is to be called again.
    pub fn withdraw(&self, app: &AppName, sequence: u64) -> Result<Withdrawn, ContentError> {
        let cell = self.app(app);
        let _area = locked(&cell.area);
        let active = {
            let mut work = locked(&cell.work);
            self.recover(&mut work)?;
            work.active.clone()
        };
        let Some(active) = active else { return Ok(Withdrawn::default()) };
        cell.fence(app, sequence, 0)?;
        let live = active.live.clone();
        let root = {
            let _hold = self.inner.store.hold();
            self.inner.store.put_tree(&Tree::default())?
        };
        let next = Active { version: 0, sequence, root, ..active };
        let done = self.put_in_place(&cell, next, Terms::keeping(false))?;
        let area = WorkDir::open(&live)?;
        // Where it can't be told what was edited in it, the tree stays where it is now.
        if done.settled && done.left.is_empty() {
            area.clear()?;
        }
        self.forget(&cell, app)?;
        let place = area.aside();
        let hidden = WorkDir::path_of(&live);
        for emptied in [&live, &place, &hidden.join("staging"), &hidden] {
            // Not where something is in it; and the live path may be a link.
            let _what_is_left = std::fs::remove_dir(emptied);
        }
        let (aside, left) = (done.edits.aside.len(), done.carried.len() + done.left.len());
        Ok(Withdrawn { aside: aside as u64, left: left as u64, place })
    }

    /// Nothing of `app` is active any more. The caller holds `area`.
    pub(super) fn forget(&self, cell: &App, app: &AppName) -> Result<(), ContentError> {
        let mut work = locked(&cell.work);
        state::remove(&self.inner.state_dir, app)?;
        *locked(&cell.shown) = Shown::default();
        *locked(&cell.wanted) = (0, 0);
        *locked(&cell.told) = None;
        *work = Work { generation: work.generation + 1, ..Work::default() };
        Ok(())
    }
}
