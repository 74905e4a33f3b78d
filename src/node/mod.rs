//! F4, the shell: one task owns the member and carries out its effects.

pub mod content;
mod handle;
pub mod options;
pub mod transfer;

pub use handle::{Handle, Metrics, Publish, Verified};
pub use options::Options;
