//! F3, the store: what a member keeps on its disk. Atomic records, the data
//! directory, content addressed by its signature, series of measurements, the log of events.
//!
//! All calls block; the shell runs them where blocking is allowed. Nothing
//! here knows of the network or of other members, and nothing read from disk
//! is believed before its signature has been checked.

pub mod content;
pub mod data_dir;
pub mod error;
pub mod events;
mod gc;
pub mod incoming;
mod index;
mod listing;
mod pack;
mod proof;
pub mod record;
mod recover;
pub mod series;
mod writer;

pub use content::{ContentStore, Freed, Hold};
pub use data_dir::DataDir;
pub use error::StoreError;
pub use incoming::Incoming;
pub use proof::Doubt;
pub use writer::{Writer, cut};
