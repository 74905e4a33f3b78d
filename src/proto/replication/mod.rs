//! Replication: the three lists that members exchange, and the plan of a fetch.
//!
//! The holder says what it has ([`IHaveList`], or by its [`Changes`] to what the
//! requester has already), the requester what it wants of that ([`ActionList`]),
//! and the answer is what changes, each item with its content or with where the
//! content lies ([`UpdateList`]). [`Swarm`] decides whom to ask for what and
//! judges what comes; it holds no bytes and touches neither wire nor disk.

mod lists;
mod positions;
mod swarm;

pub use lists::{ActionList, Changes, Content, IHaveList, Since, Update, UpdateList};
pub use positions::{Bits, Gained, Join, Positions, Standing};
pub use swarm::{Ask, Fault, Progress, Swarm, TOGETHER_FROM};
