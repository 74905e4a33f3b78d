//! F0, the words: identifiers, time, signatures, paths, trees, the catalog as
//! a document, the wire format and every bound. Nothing here decides anything
//! and nothing here touches the world.
//!
//! **Invariant:** no socket, file, clock, thread or global random generator
//! on this floor or on the two above it (`proto`, `member`).

pub mod address;
pub mod catalog;
pub mod conduct;
pub mod digest;
pub mod durations;
pub mod id;
pub mod key;
pub mod limits;
pub mod merge;
pub mod metric;
pub mod network;
pub mod operator;
pub mod origin;
pub mod path;
pub mod placement;
pub mod planted;
pub mod quantity;
pub mod refusal;
pub mod rollout;
pub mod time;
pub mod tree;
pub mod wire;

pub use address::VirtualAddress;
pub use conduct::Conduct;
pub use digest::Digest;
pub use id::{
    AppName, ClusterId, ContactName, MemberId, MemberName, OperatorName, RuleName, SecretName,
    ServiceName,
};
pub use key::{PublicKey, SecretKey, Signature};
pub use network::Network;
pub use origin::Origins;
pub use path::RelPath;
pub use placement::Placement;
pub use refusal::{Reason, Refusal};
pub use rollout::Rollout;
pub use time::{Time, WallTime};
