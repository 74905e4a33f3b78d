//! F4, the shell: one task owns the member and carries out its effects.
//!
//! The member decides; what is here only does. Everything slow runs beside the
//! loop (the record's own thread, blocking tasks for content, a task for each
//! stream) and comes back as an input. Nothing here holds a lock across an
//! await, because the loop has no lock at all.

mod addresses;
mod adopt;
mod again;
mod certificates;
pub mod checkup;
pub mod content;
pub mod differs;
mod edits;
mod forwarder;
mod handle;
mod hooks;
mod inherited;
pub mod inspect;
mod keys;
mod listeners;
pub(crate) mod logged;
pub mod manifest;
pub mod options;
mod persist;
mod rate;
mod recover;
mod rules;
mod run;
mod scrub;
mod secrets;
pub mod services;
mod sites;
mod start;
pub mod telemetry;
pub mod transfer;
mod tuning;
pub mod uploads;
mod watchdog;
mod watching;
mod whereabouts;
mod work;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::{MemberId, Refusal};

pub use adopt::{Signed, ignored};
pub use edits::Edits;
pub use handle::{Acted, Handle, Listening, Live, Metrics, Publish};
pub use inherited::unclaimed;
pub use options::Options;
pub use recover::{Holding, Recovered, Recovery, Survey};
pub use rules::{levels, replay};
pub use scrub::Scrub;
pub use secrets::{NewSecret, SecretEdits};
pub use services::{Ask, Heard, Told};
pub(crate) use start::wall_now;
pub use start::{has_record, listen, start};

/// A member that runs in this process.
pub struct Running {
    /// The way in.
    pub handle: Handle,
    /// What it is, for people.
    pub ready: Ready,
    ended: tokio::task::JoinHandle<Ended>,
}

/// What a member says of itself when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its name in the roster.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The cluster's id.
    pub cluster: String,
    /// Where other members reach it.
    pub cluster_address: SocketAddr,
    /// Where it serves sites.
    pub site_address: Option<SocketAddr>,
    /// Where it serves them over TLS.
    #[serde(default)]
    pub tls_address: Option<SocketAddr>,
    /// Whether it founded the cluster just now.
    pub founded: bool,
    /// Whether it joined just now.
    pub joined: bool,
    /// The catalog's sequence that it starts with.
    pub sequence: u64,
}

/// Why a member stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to; it returns when it is started again.
    Stopped,
    /// It has left the cluster.
    Left,
    /// It was removed from the cluster.
    Removed,
    /// It has a new key, and starts again with it: seen by nobody outside.
    Rotated(MemberId),
    /// It has a new key and could not start again with it.
    Failed(Box<Refusal>),
}
