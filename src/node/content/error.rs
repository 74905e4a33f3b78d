//! Why content could not be staged, activated, scanned or repaired.

use std::path::PathBuf;

use crate::{
    base::{AppName, Digest, RelPath},
    driver::DriverError,
    store::StoreError,
};

/// Why it was not done. Unless it says otherwise, the live tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The driver could not.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something newer is active or on its way.
    #[error(
        "{app} is at version {version} of catalog {sequence} here already, so the older order \
         was not carried out; nothing is to be done"
    )]
    Superseded {
        /// The application.
        app: AppName,
        /// The newer version.
        version: u64,
        /// Of this catalog.
        sequence: u64,
    },
    /// The same version of the same catalog with two contents.
    #[error(
        "version {version} of {app} is active with other content than was ordered now; \
         two catalogs can't have the same sequence, so nothing was switched: compare the \
         members' catalogs"
    )]
    Conflict {
        /// The application.
        app: AppName,
        /// The version.
        version: u64,
    },
    /// It is not active here.
    #[error("{0} is not active on this member; it has to be activated first")]
    NotActive(AppName),
    /// Not all of it is in the store.
    #[error("not all of {0} is on this member yet; it has to be fetched first")]
    NotHere(Digest),
    /// A tree that holds what its own patterns ignore.
    #[error("{0} is part of the version and ignored by its own patterns; publish it again")]
    Ignored(RelPath),
    /// A directory of another machine with nothing in it.
    #[error("there is nothing in the directory; name one with content")]
    Nothing,
    /// A definition that can't be used.
    #[error("what the version of {app} defines can't be used: {why}")]
    Definition {
        /// The application.
        app: AppName,
        /// What is wrong with it.
        why: String,
    },
    /// What is asked before a switch said no.
    #[error("version {version} of {app} was not switched to, because {why}")]
    Held {
        /// The application.
        app: AppName,
        /// The version.
        version: u64,
        /// Why not.
        why: String,
    },
    /// It was asked before a switch, and something newer came, or the member stops.
    #[error("{0} was not switched, because something newer came; nothing is to be done")]
    GaveWay(AppName),
    /// A file of settings that can't be written there.
    #[error(
        "{path} is to be written from the settings, and {why}; take it out of the directory, or \
         give the settings another path"
    )]
    InTheWay {
        /// Where.
        path: RelPath,
        /// What stands there.
        why: &'static str,
    },
    /// Not a path for a live tree.
    #[error("{path} can't be the path of a live tree: {why}")]
    Path {
        /// The path from the manifest.
        path: PathBuf,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Not a place to copy to.
    #[error(
        "{0} is within the live tree, where the vote would take it away again; \
         name a directory elsewhere"
    )]
    Inside(PathBuf),
    /// It was switched again and again while it was looked at.
    #[error("{0} is being switched all the time and could not be scanned; try again later")]
    Busy(AppName),
}

impl ContentError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Driver(DriverError::Store(error)) => {
                error.downcast_ref::<StoreError>().is_some_and(StoreError::is_full)
            }
            Self::Driver(error) => error.is_full(),
            Self::Store(error) => error.is_full(),
            _ => false,
        }
    }
}
